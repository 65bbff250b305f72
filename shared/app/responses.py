"""Answers as bytes: an ASGI response of few parts, with what every answer of ours carries."""

from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus

from starlette.types import Receive, Scope, Send

from shared.errors import Problem

JSON = b"application/json"
ALWAYS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"x-request-id, retry-after, idempotency-replayed, etag"),
    (b"x-content-type-options", b"nosniff"),
)
PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, OPTIONS",
    "access-control-allow-headers": "authorization, apikey, content-type, idempotency-key, x-org-id, x-client-info,"
    " x-region, x-request-id, x-supabase-api-version, if-none-match, traceparent, tracestate, baggage",
    "access-control-max-age": "86400",
}


class Answer:
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

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [*ALWAYS, (b"x-request-id", self.request_id)]
        if self.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            headers += (b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body))
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Lines(Answer):
    """Lines of JSON, each sent when it is known."""

    __slots__ = ("lines",)

    def __init__(self, status: int, lines: AsyncIterator[bytes]) -> None:
        super().__init__(status, content_type=b"application/x-ndjson")
        self.lines = lines

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [*ALWAYS, (b"x-request-id", self.request_id), (b"content-type", self.content_type)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        async for line in self.lines:
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def problem_answer(problem: Problem) -> Answer:
    return Answer(problem.status, problem.body(), problem.headers, code=problem.code)
