"""A real SMTP server (aiosmtpd) on this machine, with what a test wants it to do."""

import asyncio
import email
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.policy import default
from typing import TYPE_CHECKING, Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from local.stack import free_port

if TYPE_CHECKING:
    from email.message import EmailMessage

OK = "250 OK"


class Received:
    """What it has accepted; `hook` is called with a step and the recipient, and may return another reply."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.hook: Callable[[str, str], str | None] = lambda _step, _who: None

    def ids(self) -> list[str]:
        return [str(message["Message-ID"]) for message in self.messages]

    async def _at(self, step: str, who: str) -> str | None:
        return await asyncio.to_thread(self.hook, step, who)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return await self._at("MAIL", "") or OK

    async def handle_RCPT(  # noqa: N802 - as above
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if reply := await self._at("RCPT", address):
            return reply
        envelope.rcpt_tos.append(address)
        return OK

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        who = envelope.rcpt_tos[0]
        if reply := await self._at("END", who):
            return reply
        content = cast("bytes", envelope.content)
        self.messages.append(email.message_from_bytes(content, policy=default))
        self.recipients.append(who)
        return await self._at("ACCEPTED", who) or OK


@contextmanager
def mail_server(received: Received, port: int = 0) -> Iterator[str]:
    """Its SMTP_URL. It ends as if killed: connections are cut."""
    loop = asyncio.new_event_loop()
    port = port or free_port()
    transports: list[Any] = []

    class Server(SMTP):
        def connection_made(self, transport: Any) -> None:
            transports.append(transport)
            super().connection_made(transport)

    listening = loop.run_until_complete(
        loop.create_server(lambda: Server(received, enable_SMTPUTF8=True, loop=loop), "127.0.0.1", port)
    )
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"smtp://127.0.0.1:{port}"
    finally:

        async def end() -> None:
            listening.close()
            for transport in transports:
                transport.abort()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
