"""A server for the functions: uvicorn, with bounds on what a client may send before a request has even begun."""

import asyncio
import gc
import json
import secrets
import sys
from asyncio import TimerHandle
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.answers import ALWAYS
from shared.errors import Problem
from shared.runtime import Runtime

HEADER_BYTES = 32 * 1024
HEADER_SECONDS = 10.0
IDLE_SECONDS = 75
GRACE_SECONDS = 9  # Cloud Run kills ten seconds after SIGTERM


class BoundedProtocol(HttpToolsProtocol):
    """httptools reads headers of any size for any time; here they are bounded, and refusals are JSON like all errors."""

    _deadline: TimerHandle | None = None
    _header_bytes = 0
    _reading_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._refuse_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reading_headers:
            if self._deadline is None:
                self._deadline = self.loop.call_later(HEADER_SECONDS, self._refuse_slow)
            self._header_bytes += len(data)
            super().data_received(data)
            if self._reading_headers and self._header_bytes > HEADER_BYTES:
                self._refuse(Problem(431, "headers_too_large", f"The headers are larger than {HEADER_BYTES:,} bytes"))
        else:
            super().data_received(data)

    def on_headers_complete(self) -> None:
        self._settle()
        self._reading_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading_headers = True
        self._header_bytes = 0

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "malformed_request", msg))

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse_slow(self) -> None:
        self._refuse(Problem(408, "headers_too_slow", f"No request arrived within {HEADER_SECONDS:.0f} seconds"))

    def _refuse(self, problem: Problem) -> None:
        self._settle()
        if self.transport.is_closing():
            return
        body = problem.body()
        headers = [
            *ALWAYS,
            (b"x-request-id", secrets.token_hex(12).encode()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"HTTP/1.1 %d %s" % (problem.status, problem.code.encode()), *(b"%s: %s" % pair for pair in headers)]
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
        gc.freeze()  # what start-up made lives as long as the process; no later collection looks at it again
        gc.enable()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(json.dumps({"severity": "INFO", "message": "ready", "address": f"http://{host}:{port}"}), flush=True)

    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        await self._runtime.close()


def serve(app: Any, runtime: Runtime, host: str, port: int) -> None:
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
    _Server(config, runtime).run()
