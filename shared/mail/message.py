"""An e-mail of the outbox as a message: rendered from the templates, with all its headers."""

import re
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from functools import cache
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import BaseModel, field_validator

CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")


@dataclass(frozen=True)
class Sender:
    """The sender of e-mails and the target of their links; without `app_url` an e-mail has no button."""

    name: str
    address: str
    app_url: str | None
    functions_url: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


class Email(BaseModel):
    """A claimed row of the outbox."""

    id: str
    attempt: int
    to: str
    name: str | None
    kind: str
    subject: str
    content: dict[str, Any]
    organization: str | None
    logo_url: str | None
    unsubscribe: str | None
    created_at: datetime

    @field_validator("to")
    @classmethod
    def has_ascii_domain(cls, to: str) -> str:
        """Every server accepts the ASCII form of an international domain."""
        local, _, domain = to.rpartition("@")
        try:
            return f"{local}@{domain.encode('idna').decode()}"
        except UnicodeError:
            return to


def compose(email: Email, sender: Sender) -> EmailMessage:
    """Raises ValueError for an address that a header cannot hold."""
    link = f"{sender.functions_url}/unsubscribe?token={quote(email.unsubscribe)}" if email.unsubscribe else None
    text, page = render(email, sender, link)
    message = EmailMessage(policy=SMTP if email.to.isascii() else SMTPUTF8)
    message["Message-ID"] = f"<{email.id}@{sender.domain}>"
    message["Date"] = email.created_at
    author = f"{email.organization} via {sender.name}" if email.organization else sender.name
    message["From"] = Address(one_line(author), addr_spec=sender.address)
    message["To"] = _recipient(one_line(email.name or ""), email.to)
    message["Subject"] = one_line(email.subject)
    message["Auto-Submitted"] = "auto-generated"
    message["X-Event"] = email.kind
    if link:
        message["List-Unsubscribe"] = f"<{link}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(text)
    message.add_alternative(page, subtype="html")
    if "calendar" in email.content:
        _attach_calendar(message, email)
    return message


def _recipient(name: str, address: str) -> Address:
    if address.isascii():
        return Address(name, addr_spec=address)
    local, _, domain = address.rpartition("@")
    return Address(name, local, domain)  # addr_spec refuses other letters


def _attach_calendar(message: EmailMessage, email: Email) -> None:
    """Attach the calendar twice: as an alternative, which mail programs show, and as a file."""
    from shared.calendar import Item, write  # noqa: PLC0415 - few e-mails need the library

    item = Item.model_validate(email.content["calendar"])
    method: Literal["CANCEL", "REQUEST"] = "CANCEL" if item.status == "CANCELLED" else "REQUEST"
    content = write([item], method=method, attendee=email.to)
    message.add_alternative(content.decode(), subtype="calendar", params={"method": method})
    message.add_attachment(content, maintype="application", subtype="ics", filename="invite.ics")


def one_line(text: str) -> str:
    """A header has one line, whatever a name contains."""
    return CONTROL.sub(" ", text).strip()


def render(email: Email, sender: Sender, unsubscribe: str | None) -> tuple[str, str]:
    """The text and the HTML."""
    answer = _answer_link(email, sender)
    values = {
        "title": email.subject,
        "type": "INFO",
        "message": "",
        "items": [],
        "rows": [],
        **email.content,
        "organization": email.organization or sender.name,
        "logo_url": email.logo_url,
        "product": sender.name,
        "url": answer or _app_link(sender, email.content.get("secret_path") or email.content.get("path")),
        "label": "Answer" if answer else email.content.get("label", "Open"),
        "hint": "Please answer with this link: an answer from a calendar program is not counted." if answer else "",
        "links": [_app_link(sender, item.get("path")) for item in email.content.get("items", [])],
        "settings_url": _app_link(sender, "/settings/notifications") if email.name is not None else None,
        "unsubscribe": unsubscribe,
    }
    return template("notice.txt").render(values), template("notice.html").render(values)


def _answer_link(email: Email, sender: Sender) -> str | None:
    token, item = email.content.get("reply_token"), email.content.get("calendar", {})
    if not token or item.get("status") == "CANCELLED":
        return None
    return f"{sender.functions_url}/answer-invitation?token={quote(token)}"


def _app_link(sender: Sender, path: Any) -> str | None:
    """A link into our own app, whatever the path looks like."""
    if not sender.app_url or not isinstance(path, str) or not path.startswith("/"):
        return None
    link = sender.app_url + path
    return link if urlsplit(link).netloc == urlsplit(sender.app_url).netloc else None


@cache
def template(name: str) -> Any:
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("shared.mail"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
