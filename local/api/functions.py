"""/functions/v1/<name>: requests and responses stream through to and from the function server."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

import httptools
from starlette.types import Message, Receive, Scope, Send

from local.api.errors import ApiError, gateway_error
from local.api.http import CROSS_ORIGIN, error_response

# These concern one connection only and are not passed on (RFC 9110, 7.6.1); uvicorn answers `expect` itself.
HOP_BY_HOP = {
    b"connection",
    b"expect",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",  # codespell:ignore te
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
IDLE_CONNECTIONS = 16
READ_BYTES = 64 * 1024
INFORMATIONAL = 200

Headers = Iterable[tuple[bytes, bytes]]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Functions:
    def __init__(self, functions_url: str | None, api_url: str) -> None:
        self._upstream = urlsplit(functions_url) if functions_url else None
        self._public = urlsplit(api_url)
        self._idle: list[Connection] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            connection = await self._connection()
        except ApiError as error:
            await _refuse(error, scope, receive, send)
            return
        exchange = _Exchange(connection, scope["method"])
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        head = exchange.head(scope["method"].encode(), target, self._headers(scope))
        sending = asyncio.create_task(exchange.send_request(head, scope["headers"], receive))
        relaying = asyncio.create_task(exchange.relay(send))
        try:
            # Sending ends when the client hangs up; that also ends the work done for it.
            await asyncio.wait({sending, relaying}, return_when=asyncio.FIRST_COMPLETED)
            if relaying.done():
                await relaying
        except OSError:
            if exchange.started:
                raise
            await _refuse(_unavailable(), scope, receive, send)
        finally:
            for task in (sending, relaying):
                task.cancel()
            await asyncio.gather(sending, relaying, return_exceptions=True)
            if exchange.reusable and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
            else:
                connection[1].close()

    async def get(self, path: str) -> bytes:
        """For the API itself."""
        connection = await self._connection()
        exchange = _Exchange(connection, "GET")
        parts: list[bytes] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
            elif message["status"] != 200:  # noqa: PLR2004
                raise OSError(f"status {message['status']}")

        try:
            connection[1].write(exchange.head(b"GET", path.encode(), [(b"host", self._public.netloc.encode())]))
            await exchange.relay(keep)
        finally:
            connection[1].close()
        return b"".join(parts)

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        if not self._upstream:
            raise _unavailable("No function server is configured.", "Set FUNCTIONS_URL.")
        try:
            return await asyncio.open_connection(self._upstream.hostname, self._upstream.port or 80)
        except OSError:
            raise _unavailable() from None

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        headers = [pair for pair in _end_to_end(scope["headers"]) if pair[0] != b"x-forwarded-for"]
        present = dict(headers)
        before = b", ".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        client = scope["client"][0].encode() if scope["client"] else b"unknown"
        headers.append((b"x-forwarded-for", before + b", " + client if before else client))
        if b"x-forwarded-host" not in present:
            headers.append((b"x-forwarded-host", present.get(b"host", self._public.netloc.encode())))
        if b"x-forwarded-proto" not in present:
            headers.append((b"x-forwarded-proto", self._public.scheme.encode()))
        return headers


class _Exchange:
    """One request and its response on one connection."""

    def __init__(self, connection: Connection, method: str) -> None:
        self._reader, self._writer = connection
        self._parser = httptools.HttpResponseParser(self)
        self._has_body = method != "HEAD"
        self._headers: list[tuple[bytes, bytes]] = []
        self._messages: list[Message] = []
        self._sent = self._complete = False
        self.started = self.reusable = False

    @staticmethod
    def head(method: bytes, target: bytes, headers: Headers) -> bytes:
        lines = [method + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in headers)]
        return b"\r\n".join([*lines, b"", b""])

    async def send_request(self, head: bytes, headers: Headers, receive: Receive) -> None:
        chunked = any(name == b"transfer-encoding" for name, _ in headers)
        if chunked:
            head = head[:-2] + b"transfer-encoding: chunked\r\n\r\n"
        self._writer.write(head)
        with suppress(OSError):  # the function server answered early and closed; its response is read all the same
            async for part in _body(receive):
                self._writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                await self._writer.drain()
            if chunked:
                self._writer.write(b"0\r\n\r\n")
            self._sent = True
        while (await receive())["type"] != "http.disconnect":
            pass

    async def relay(self, send: Send) -> None:
        while not self._complete:
            data = await self._reader.read(READ_BYTES)
            if not data:
                if not self.started or not self._ends_with_connection():
                    raise ConnectionResetError("The function server closed the connection.")
                self._messages.append({"type": "http.response.body"})
                self._complete = True
            else:
                try:
                    self._parser.feed_data(data)
                except httptools.HttpParserError as error:
                    raise ConnectionResetError("The function server sent no valid response.") from error
            messages, self._messages = self._messages, []
            for message in messages:
                if message["type"] == "http.response.start":
                    self.started = True
                await send(message)

    def _ends_with_connection(self) -> bool:
        return not any(name in {b"content-length", b"transfer-encoding"} for name, _ in self._headers)

    # Called by the parser --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < INFORMATIONAL:
            return
        self._messages.append(
            {"type": "http.response.start", "status": status, "headers": list(_end_to_end(self._headers))}
        )
        if not self._has_body:
            self._end()

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._messages.append({"type": "http.response.body", "body": body, "more_body": True})

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= INFORMATIONAL and not self._complete:
            self._end()
            self.reusable = self._sent and self._parser.should_keep_alive()

    def _end(self) -> None:
        self._messages.append({"type": "http.response.body"})
        self._complete = True


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]


def _end_to_end(headers: Headers) -> Iterable[tuple[bytes, bytes]]:
    listed = b",".join(value.lower() for name, value in headers if name == b"connection")
    named = {name.strip() for name in listed.split(b",")}
    return [pair for pair in headers if pair[0] not in HOP_BY_HOP and pair[0] not in named]


def _unavailable(
    message: str = "The function server does not answer.", hint: str = "Try again in a moment."
) -> ApiError:
    return gateway_error(503, "functions_unavailable", message, None, hint, {"retry-after": "1"})


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Functions allow origins themselves; where there is none, a browser can still read this response."""
    response = error_response(error)
    response.raw_headers.extend(CROSS_ORIGIN)
    await response(scope, receive, send)
