"""Takes the e-mails of the functions by SMTP and puts them into the mailbox that /mail shows."""

import asyncio
import email
from datetime import UTC, datetime
from email.policy import default
from typing import TYPE_CHECKING

from aiosmtpd.smtp import SMTP, Envelope, Session

from local.api.auth.mail import Mail, Message

if TYPE_CHECKING:
    from email.message import EmailMessage


class Mailbox:
    def __init__(self, mail: Mail, port: int | None) -> None:
        self._mail, self._port = mail, port
        self._listening: asyncio.Server | None = None

    async def open(self) -> None:
        if self._port is not None:
            loop = asyncio.get_running_loop()
            server = lambda: SMTP(self, enable_SMTPUTF8=True, loop=loop)  # noqa: E731 - one for each connection
            self._listening = await loop.create_server(server, "127.0.0.1", self._port)

    def close(self) -> None:
        if self._listening:
            self._listening.close()

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        message: EmailMessage = email.message_from_bytes(content, policy=default)
        page = message.get_body(("html",))
        subject, to = str(message["Subject"]), envelope.rcpt_tos[0]
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._mail.box.appendleft(Message(to, subject, at, page=page.get_content() if page else ""))
        print(f"mail to {to}: {subject}", flush=True)
        return "250 OK"
