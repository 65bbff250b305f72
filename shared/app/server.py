"""A server for the functions: uvicorn, with bounds on the size and the time of a request."""

import asyncio
import gc
import sys
from asyncio import TimerHandle
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.app.headers import request_id
from shared.app.responses import ALWAYS, Response
from shared.app.runtime import Runtime
from shared.errors import ErrorResponse
from shared.logs import log

HEADER_BYTES = 32 * 1024
# For a whole request to arrive, headers and body.
REQUEST_SECONDS = 10.0
IDLE_SECONDS = 75
SWITCH_SECONDS = 0.0005
GRACE_SECONDS = 9  # Cloud Run kills ten seconds after SIGTERM


class BoundedProtocol(HttpToolsProtocol):
    """httptools waits for a request of any size for any time; here both are bounded, and refusals are JSON."""

    _deadline: TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True
    _arriving = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self._refuse_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._arriving:
            return
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._refuse_slow)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                message = f"The headers are larger than {HEADER_BYTES:,} bytes"
                self._refuse(ErrorResponse(431, "headers_too_large", message, hint="Send fewer or shorter headers."))

    def on_message_begin(self) -> None:
        self._arriving = self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ErrorResponse(400, "malformed_request", msg))

    def _arrived(self) -> None:
        self._arriving = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse_slow(self) -> None:
        message = f"The request did not arrive within {REQUEST_SECONDS:.0f} seconds"
        self._refuse(ErrorResponse(408, "request_too_slow", message))

    def _refuse(self, error: ErrorResponse) -> None:
        self._arrived()
        if self.transport.is_closing():
            return
        body = error.body()
        headers = [
            *ALWAYS,
            (b"x-request-id", request_id(())),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"HTTP/1.1 %d %s" % (error.status, error.code.encode()), *(b"%s: %s" % pair for pair in headers)]
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime

    async def startup(self, sockets: Any = None) -> None:
        await self._runtime.open()
        await super().startup(sockets)
        gc.collect()
        gc.enable()
        gc.freeze()  # objects made at start-up live as long as the process; no later collection visits them
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log("INFO", "ready", address=f"http://{host}:{port}")

    async def shutdown(self, sockets: Any = None) -> None:
        self._runtime.end()
        await super().shutdown(sockets)
        await self._runtime.close()


async def _refused_by_framework(request: Request, error: Exception) -> Response:
    """functions-framework refuses some methods and paths by itself; the response has the form of all errors."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    response = Response.of(
        ErrorResponse(error.status_code, "not_served", error.detail, headers=dict(error.headers or {}))
    )
    response.request_id = request_id(request.scope["headers"])
    return response


def serve(app: Starlette, runtime: Runtime, host: str, port: int) -> None:
    app.add_exception_handler(HTTPException, _refused_by_framework)  # type: ignore[arg-type]  # any ASGI response will do
    config = uvicorn.Config(
        app,
        host,
        port,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    # Threads load libraries and parse files: the loop waits this long for the interpreter, not five milliseconds.
    sys.setswitchinterval(SWITCH_SECONDS)
    _Server(config, runtime).run()
