"""Responses as bytes: small ASGI responses with the headers that every response carries."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from http import HTTPStatus

from starlette.types import Receive, Scope, Send

from shared.errors import ErrorResponse

JSON = b"application/json"
ALWAYS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"x-request-id, retry-after, idempotency-replayed, etag"),
    (b"x-content-type-options", b"nosniff"),
)
PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, OPTIONS",
    "access-control-allow-headers": "authorization, apikey, x-api-key, content-type, idempotency-key, x-org-id,"
    " x-client-info, x-region, x-request-id, x-supabase-api-version, if-none-match, traceparent, tracestate, baggage",
    "access-control-max-age": "86400",
}
# A client that reads nothing for so long is disconnected.
STALLED_SECONDS = 10.0


class Response:
    __slots__ = ("body", "code", "content_type", "headers", "request_id", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] = {},
        *,
        content_type: bytes = JSON,
        code: str | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.content_type = content_type
        self.code = code
        self.request_id = b""

    @classmethod
    def of(cls, error: ErrorResponse) -> "Response":
        return cls(error.status, error.body(), error.headers, code=error.code)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [*ALWAYS, (b"x-request-id", self.request_id)]
        if self.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            headers += (b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body))
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class LineStream(Response):
    """JSON lines, each sent as soon as it exists. A client that leaves or stalls ends the work that makes them."""

    __slots__ = ("lines", "resources")

    def __init__(
        self,
        status: int,
        lines: AsyncIterator[bytes],
        resources: AsyncExitStack,
        content_type: bytes = b"application/x-ndjson",
    ) -> None:
        super().__init__(status, content_type=content_type)
        self.lines = lines
        self.resources = resources

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with self.resources:
            sending = asyncio.create_task(self._send(send))
            leaving = asyncio.create_task(_until_client_leaves(receive))
            try:
                await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                sending.cancel()  # no effect on one that is done
                await asyncio.wait([sending, leaving])

    async def _send(self, send: Send) -> None:
        headers = [*ALWAYS, (b"x-request-id", self.request_id), (b"content-type", self.content_type)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        async for line in self.lines:
            async with asyncio.timeout(STALLED_SECONDS):
                await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _until_client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
