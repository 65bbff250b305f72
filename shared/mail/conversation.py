"""The conversation with an SMTP server, in two steps, so that the database can note the handover in between.

Until the server has the end of a message it must not deliver it. A process that dies before `finish` has sent nothing.
"""

import re
import select
import smtplib
import ssl
from contextlib import suppress

from shared.settings import SmtpServer

TIMEOUT = 30.0
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
START_INPUT = 354
PERMANENT = 500
# Enhanced status codes (RFC 3463) of an address that does not exist or may not be mailed.
BOUNCE = re.compile(r"\b5\.1\.[0-9]+\b|\b5\.2\.1\b")


class UnavailableError(Exception):
    """The server cannot be reached, or accepts no mail now."""


class RefusedError(Exception):
    """The server refused this message, permanently or temporarily; `bounced` if it knows no such recipient."""

    def __init__(self, reply: str, *, permanent: bool, bounced: bool = False) -> None:
        super().__init__(reply)
        self.permanent, self.bounced = permanent, bounced


class UncertainError(Exception):
    """The connection ended between the end of the message and the reply."""


class Conversation:
    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._smtp: smtplib.SMTP | None = None

    def begin(self, sender: str, recipient: str, content: bytes) -> None:
        """Send everything but the end of the message."""
        smtp = self._connected()
        try:
            options: list[str] = []
            if not recipient.isascii():
                options = _options_for_utf8(smtp)
            _expect(smtp.mail(sender, options), 250)
            code, reply = smtp.rcpt(recipient)
            if code not in {250, 251}:
                raise _refusal(code, reply, of_recipient=True)
            _expect(smtp.docmd("DATA"), START_INPUT)
            lines = re.sub(rb"\r?\n", b"\r\n", content.rstrip(b"\r\n")) + b"\r\n"
            smtp.send(re.sub(rb"(?m)^\.", b"..", lines))
        except RefusedError as refusal:
            self._reset()
            if str(refusal).startswith("421"):
                self.close()
                raise UnavailableError(str(refusal)) from None
            raise
        except ValueError as problem:  # a line break in an address
            self._reset()
            raise RefusedError(str(problem), permanent=True) from None
        except (OSError, smtplib.SMTPException) as problem:
            self.close()
            raise UnavailableError(_described(problem)) from problem

    def finish(self) -> None:
        """Send the end of the message and read the reply; the server has accepted it if this returns."""
        smtp = self._smtp
        try:
            if smtp is None or _has_ended(smtp):
                raise smtplib.SMTPServerDisconnected("The server closed the connection.")
            smtp.send(b".\r\n")
        except (OSError, smtplib.SMTPException) as problem:  # nothing was sent
            self.close()
            raise UnavailableError(_described(problem)) from problem
        try:
            code, reply = smtp.getreply()
        except (OSError, smtplib.SMTPException) as problem:
            self.close()
            raise UncertainError(_described(problem)) from problem
        _expect((code, reply), 250)

    def close(self) -> None:
        """End the connection at once: a message without its end is discarded by the server."""
        if self._smtp is not None:
            self._smtp.close()
            self._smtp = None

    def quit(self) -> None:
        if self._smtp is not None:
            with suppress(OSError, smtplib.SMTPException):
                self._smtp.quit()
            self.close()

    def _reset(self) -> None:
        try:
            if self._smtp is not None:
                self._smtp.rset()
        except (OSError, smtplib.SMTPException):
            self.close()

    def _connected(self) -> smtplib.SMTP:
        if self._smtp is None:
            try:
                self._smtp = self._connect()
            except (OSError, smtplib.SMTPException) as problem:
                raise UnavailableError(_described(problem)) from problem
        return self._smtp

    def _connect(self) -> smtplib.SMTP:
        server = self._server
        context = ssl.create_default_context()
        if server.implicit_tls:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT, context=context)
        else:
            smtp = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT)
        try:
            smtp.ehlo_or_helo_if_needed()
            if not server.implicit_tls and smtp.has_extn("starttls"):
                smtp.starttls(context=context)
                smtp.ehlo()
            elif not server.implicit_tls:
                _require_loopback(server)
            if server.user is not None:
                smtp.login(server.user, server.password or "")
        except BaseException:
            smtp.close()
            raise
        return smtp


def _has_ended(smtp: smtplib.SMTP) -> bool:
    """Whether the server has closed the connection: in the middle of a message it has nothing else to say."""
    if smtp.sock is None:
        return True
    # An encrypted connection may have something to read that is no reply.
    return not isinstance(smtp.sock, ssl.SSLSocket) and bool(select.select([smtp.sock], [], [], 0)[0])


def _options_for_utf8(smtp: smtplib.SMTP) -> list[str]:
    if not smtp.has_extn("smtputf8"):
        raise RefusedError("The server does not support addresses like this.", permanent=True)
    return ["SMTPUTF8"]


def _require_loopback(server: SmtpServer) -> None:
    if server.host not in LOOPBACK:
        raise smtplib.SMTPNotSupportedError("The server does not offer STARTTLS.")


def _expect(reply: tuple[int, bytes], wanted: int) -> None:
    if reply[0] != wanted:
        raise _refusal(*reply)


def _refusal(code: int, reply: bytes, *, of_recipient: bool = False) -> RefusedError:
    text = f"{code} {reply.decode('utf-8', 'replace')}"[:500]
    permanent = code >= PERMANENT
    return RefusedError(text, permanent=permanent, bounced=permanent and of_recipient and bool(BOUNCE.search(text)))


def _described(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"[:500]
