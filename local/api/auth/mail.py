"""Mail isn't sent: it is written to the log, and the newest are shown at /mail. So are the e-mails of the functions."""

import hashlib
import re
import secrets
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import urlencode, urlsplit

from local import ROOT
from local.api.auth.pkce import PREFIX
from local.api.auth.users import update_user
from local.api.database import Query, Row
from local.api.errors import auth_error

KEPT = 50
LONGEST_ADDRESS = 2000  # a pattern takes time in proportion to its square
VALID_FOR = "1 hour"
TEMPLATES = ROOT / "supabase" / "templates"


@dataclass(frozen=True)
class Purpose:
    """The columns that hold the token and when it was sent; the subject and the template of the mail."""

    token: str
    sent: str
    subject: str
    template: str


PURPOSES = {
    "signup": Purpose("confirmation_token", "confirmation_sent_at", "Confirm your address", "confirmation"),
    "invite": Purpose("confirmation_token", "confirmation_sent_at", "You are invited", "invite"),
    "recovery": Purpose("recovery_token", "recovery_sent_at", "Reset your password", "recovery"),
    "magiclink": Purpose("recovery_token", "recovery_sent_at", "Sign in", "magic_link"),
    "email_change": Purpose(
        "email_change_token_new", "email_change_sent_at", "Confirm your new address", "email_change"
    ),
    "email_change_current": Purpose(
        "email_change_token_current", "email_change_sent_at", "Confirm your new address", "email_change"
    ),
    "reauthentication": Purpose(
        "reauthentication_token", "reauthentication_sent_at", "Your confirmation code", "reauthentication"
    ),
}
# By the type that a client names; `email` is the newest mail to sign in or to confirm.
ACCEPTED = {
    **{name: (name,) for name in ("signup", "invite", "recovery", "magiclink")},
    "email": ("magiclink", "signup"),
    "email_change": ("email_change", "email_change_current"),
}


@dataclass(frozen=True)
class Message:
    to: str
    subject: str
    at: str
    code: str = ""
    link: str = ""
    page: str = ""


class Mail:
    def __init__(self, api_url: str, site_url: str, redirect_urls: tuple[str, ...]) -> None:
        self._api_url, self._site_url = api_url, site_url
        self._redirect_urls = [site_url, api_url, *redirect_urls]
        self.box: deque[Message] = deque(maxlen=KEPT)

    async def send(
        self,
        query: Query,
        user: Row,
        purpose: str,
        *,
        to: str | None = None,
        redirect_to: str | None = None,
        prefix: str = "",
    ) -> None:
        """Make a one-time code for the user and mail it; the database keeps only its hash."""
        address = to or user["email"]
        link = await self.link(query, user, purpose, to=address, redirect_to=redirect_to, prefix=prefix)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        page = _rendered(PURPOSES[purpose].template, user, link, address)
        message = Message(address, PURPOSES[purpose].subject, at, link["email_otp"], link["action_link"], page)
        self.box.appendleft(message)
        print(f"mail to {message.to}: {message.subject}; code {message.code}; {message.link}", flush=True)

    async def link(
        self,
        query: Query,
        user: Row,
        purpose: str,
        *,
        to: str | None = None,
        redirect_to: str | None = None,
        prefix: str = "",
    ) -> dict[str, Any]:
        code = f"{secrets.randbelow(1_000_000):06}"
        hashed = prefix + _hash_of(to or user["email"], code)
        columns = PURPOSES[purpose]
        await update_user(query, user["id"], **{columns.token: hashed, columns.sent: "now"})
        kind = "email_change" if purpose == "email_change_current" else purpose
        back = self.allowed(redirect_to)
        parameters = urlencode({"token": hashed, "type": kind, "redirect_to": back})
        return {
            "action_link": f"{self._api_url}/auth/v1/verify?{parameters}",
            "email_otp": code,
            "hashed_token": hashed,
            "redirect_to": back,
            "verification_type": kind,
        }

    async def redeem(self, query: Query, kind: str, hashed: str) -> tuple[Row, str]:
        """The user whose code this is; the code is used up."""
        if kind not in ACCEPTED:
            raise auth_error(400, "validation_failed", "Unsupported verification type")
        for purpose in ACCEPTED[kind]:
            columns = PURPOSES[purpose]
            rows = await query(
                f"""update auth.users set {columns.token} = '' where {columns.token} in ($1, $2)
                    and {columns.sent} > now() - interval '{VALID_FOR}' returning *""",  # noqa: S608 - our own names
                hashed,
                PREFIX + hashed,
            )
            if rows:
                return rows[0], purpose
        raise auth_error(403, "otp_expired", "Email link is invalid or has expired")

    def hashed(self, body: dict[str, Any]) -> str:
        """The stored form of the code in a request to verify: either the code and its address, or the hash."""
        token, hashed = body.get("token"), body.get("token_hash")
        if bool(token) == bool(hashed):
            raise auth_error(400, "validation_failed", "Verify requires either a token or a token hash")
        if hashed:
            if body.get("email") or body.get("phone"):
                raise auth_error(400, "validation_failed", "Only the token_hash and type should be provided")
            return str(hashed)
        if not body.get("email"):
            message = "Only an email address or phone number should be provided on verify"
            raise auth_error(400, "validation_failed", message)
        return _hash_of(str(body["email"]).strip(), str(token))

    def allowed(self, redirect_to: str | None) -> str:
        """Where a mailed link may lead; any other address would make this server a redirector for strangers."""
        return redirect_to if redirect_to and self._is_allowed(redirect_to) else self._site_url

    def _is_allowed(self, address: str) -> bool:
        if len(address) > LONGEST_ADDRESS or not address.isprintable():
            return False
        for each in self._redirect_urls:
            if "*" in each:
                pattern = ".*".join(re.escape(part) for part in re.split(r"\*+", each))
                if re.fullmatch(pattern, address):
                    return True
            elif _origin(each) == _origin(address) is not None:
                return True
        return False


def _rendered(template: str, user: Row, link: dict[str, Any], address: str) -> str:
    """The template as Auth fills it; it is written in Go's language, of which ours use these values."""
    values = {
        "ConfirmationURL": link["action_link"],
        "Token": link["email_otp"],
        "Email": str(user["email"]),
        "NewEmail": address,
    }
    page = (TEMPLATES / f"{template}.html").read_text()
    return re.sub(r"\{\{ \.(\w+) \}\}", lambda found: escape(values[found[1]]), page)


def _origin(address: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    # A backslash or control character is read differently by browsers.
    plain = address.isprintable() and "\\" not in address and " " not in address
    return (parts.scheme, parts.netloc) if plain and parts.scheme and parts.netloc else None


def _hash_of(email: str, code: str) -> str:
    return hashlib.sha224(f"{email.lower()}{code}".encode("utf-8", "replace")).hexdigest()
