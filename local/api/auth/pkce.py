"""PKCE: a mailed link opened in a browser gives a code that only the client which requested the mail can use."""

import base64
import hashlib
import re
from typing import Any
from uuid import uuid4

from local.api.auth.users import user_by_id
from local.api.database import Query, Row
from local.api.errors import ApiError, auth_error

PREFIX = "pkce_"
VALID_FOR = "5 minutes"
CHALLENGE = re.compile(r"[A-Za-z0-9._~-]{43,128}\Z")


async def begin(query: Query, user: Row, method: str, body: dict[str, Any]) -> str:
    """Store the challenge that came with a request for mail; returns the prefix of its token."""
    challenge, how = body.get("code_challenge"), str(body.get("code_challenge_method") or "").lower()
    if not challenge:
        return ""
    if how not in {"s256", "plain"}:
        raise auth_error(400, "validation_failed", "Invalid code_challenge_method")
    if not isinstance(challenge, str) or not CHALLENGE.match(challenge):
        message = "code challenge has to be between 43 and 128 characters of A-Z a-z 0-9 - . _ ~"
        raise auth_error(400, "validation_failed", message)
    await query(
        """insert into auth.flow_state (id, user_id, auth_code, code_challenge_method, code_challenge, provider_type,
             authentication_method, created_at, updated_at)
           values ($1, $2, $3, $4, $5, 'email', $6, now(), now())""",
        str(uuid4()),
        user["id"],
        str(uuid4()),
        how,
        challenge,
        method,
    )
    return PREFIX


async def issue_code(query: Query, user: Row) -> str:
    """The link was opened: the code for the client."""
    rows = await query(
        """update auth.flow_state set auth_code_issued_at = now() where id = (
             select id from auth.flow_state where user_id = $1 and auth_code_issued_at is null
             order by created_at desc limit 1
           ) returning auth_code""",
        user["id"],
    )
    if not rows:
        raise _not_found()
    return str(rows[0]["auth_code"])


async def exchange(query: Query, code: object, verifier: object) -> tuple[Row, str]:
    if not code or not verifier:
        message = "invalid request: both auth code and code verifier should be non-empty"
        raise auth_error(400, "validation_failed", message)
    rows = await query(
        f"""delete from auth.flow_state where auth_code = $1 and auth_code_issued_at is not null returning *,
             auth_code_issued_at > now() - interval '{VALID_FOR}' as valid""",  # noqa: S608 - our own interval
        str(code),
    )
    if not rows:
        raise _not_found()
    [flow] = rows
    if not flow["valid"]:
        raise auth_error(422, "flow_state_expired", "invalid flow state, flow state has expired")
    digest = hashlib.sha256(str(verifier).encode()).digest()
    hashed = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if flow["code_challenge"] != (hashed if flow["code_challenge_method"] == "s256" else verifier):
        raise auth_error(400, "bad_code_verifier", "code challenge does not match previously saved code verifier")
    user = await user_by_id(query, flow["user_id"])
    if not user:
        raise _not_found()
    return user, flow["authentication_method"]


def _not_found() -> ApiError:
    return auth_error(404, "flow_state_not_found", "invalid flow state, no valid flow state found")
