"""One URL for everything a client of Supabase calls: data, accounts, files, functions. See README.md."""

import asyncio
import json
import time
import traceback
from asyncio import TimerHandle
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from local.api.auth.service import Auth
from local.api.callers import Callers
from local.api.database import Database, Pool
from local.api.errors import ApiError, DatabaseUnavailable, gateway_error, not_served, unavailable
from local.api.functions import Functions
from local.api.http import CROSS_ORIGIN, error_response, is_preflight, json_response, preflight, raw_path
from local.api.landing import Landing
from local.api.mailbox import Mailbox
from local.api.realtime.service import Realtime
from local.api.rest.app import Rest
from local.api.settings import Settings
from local.api.storage.service import Storage
from local.api.tokens import Tokens

HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 10.0
IDLE_SECONDS = 65
MESSAGE_BYTES = 4 * 1024 * 1024
GRACE_SECONDS = 8

if TYPE_CHECKING:
    from local.api.rest.binary import PostgrestBinary

Respond = Callable[[Request], Awaitable[Response]]
Failure = Callable[[Exception], ApiError | None]


class Gateway:
    """The ASGI application: takes each request to its service and turns every error into a response."""

    def __init__(self, settings: Settings) -> None:
        tokens = Tokens(settings.keys["jwt_secret"], settings.keys["jwk"])
        self._callers = Callers(tokens, settings.keys)
        self._database = Database(settings.database_url, settings.pool_size)
        self._pool = Pool("authenticator", settings.database_url, settings.pool_size)
        self._rest = _data_api(settings, self._pool, tokens)
        self._functions = Functions(settings.functions_url, settings.api_url)
        auth = Auth(self._database, tokens, self._callers, settings)
        storage = Storage(self._database, tokens, self._callers, settings)
        self._realtime = Realtime(settings.database_url, tokens, self._callers)
        self._services: dict[str, tuple[Respond, Failure]] = {
            "auth": (auth.respond, auth.failure),
            "realtime": (self._realtime.respond, self._realtime.failure),
            "rest": (self._respond_rest, lambda _: None),
            "storage": (storage.respond, storage.failure),
        }
        self._mailbox = Mailbox(auth.mail, settings.smtp_port)
        landing = Landing(self._database, auth.mail, self._functions, settings)
        self._pages: dict[str, Respond] = {
            "/": landing.respond,
            "/mail": landing.respond_mail,
            "/health": self._health,
        }

    async def open(self) -> None:
        await self._database.check()
        await self._rest.open()
        await self._mailbox.open()

    async def close(self) -> None:
        self._mailbox.close()
        self._functions.close()
        await self._realtime.close()
        await self._rest.close()
        await self._pool.close()
        await self._database.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["raw_path"].startswith(b"/functions/v1/") or scope["raw_path"] == b"/functions/v1":
            await self._functions(scope, receive, send)
            return
        request, began = Request(scope, receive), time.perf_counter()
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        response.raw_headers.extend(CROSS_ORIGIN)
        await response(scope, receive, send)
        if request.scope["path"] not in self._pages and not is_preflight(request):
            _log_request(request, response.status_code, began)

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/realtime/v1/websocket":
            await self._realtime.serve(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _respond(self, request: Request) -> Response:
        failure: Failure = lambda _: None  # noqa: E731 - of no service
        try:
            path = raw_path(request)
            if is_preflight(request):
                return preflight(request)
            if path in self._pages:
                return await self._pages[path](request)
            respond, failure = self._service(path)
            return await respond(request)
        except ClientDisconnect:
            raise
        except DatabaseUnavailable:
            return error_response(unavailable())
        except Exception as error:  # noqa: BLE001 - an error of any kind has a response
            refusal = error if isinstance(error, ApiError) else failure(error)
            if refusal is None:
                traceback.print_exc()
                refusal = gateway_error(500, "internal_error", "The API itself failed; its log has the reason.")
            return error_response(refusal)

    def _service(self, path: str) -> tuple[Respond, Failure]:
        _, name, version = (path + "//").split("/", 3)[:3]
        if name in {"graphql", "pg"}:
            raise not_served(f"/{name}")
        if version != "v1" or name not in self._services:
            message = f"There is nothing at {path[:200]}."
            raise gateway_error(404, "not_found", message, None, "See / for what there is.")
        return self._services[name]

    async def _respond_rest(self, request: Request) -> Response:
        """Without a user's token the API key decides the role. A key in the address is no filter."""
        key_claims = self._callers.claims_of_key(request)
        query: bytes = request.scope["query_string"]
        if b"apikey=" in query:
            query = b"&".join(part for part in query.split(b"&") if not part.startswith(b"apikey="))
        scope = {**request.scope, "root_path": "/rest/v1", "query_string": query}
        return await self._rest.respond(Request(scope, request.receive), key_claims)

    async def _health(self, _request: Request) -> Response:
        await self._database.check()
        return json_response({"status": "ok"})


def _log_request(request: Request, status: int, began: float) -> None:
    """As the functions do. Without the query: it has data of customers and tokens."""
    entry = {
        "time": time.time(),
        "message": "request",
        "method": request.method,
        "status": status,
        "path": request.scope["raw_path"].decode("ascii", "replace")[:200],
        "milliseconds": round((time.perf_counter() - began) * 1000, 1),
    }
    print(json.dumps(entry), flush=True)


class OneWrite:
    """uvicorn writes the head and the body of a response apart, a system call and a packet each. Here they are one."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self.transport.is_closing():  # the client left
            return
        if not self._head and data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100 "):
            self._head = data
        else:
            self.transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class SocketProtocol(WebSocketsSansIOProtocol):
    """Lets the application write frames to many sockets at once, and end one whose client does not read."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["transport"] = self.transport  # type: ignore[typeddict-unknown-key]  # ours

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.transport.write(_refusal(400, "Bad Request", "The request is not a valid WebSocket handshake."))
            self.transport.close()


def _data_api(settings: Settings, pool: Pool, tokens: Tokens) -> "Rest | PostgrestBinary":
    if settings.postgrest_url is None:
        return Rest(settings.rest, pool, tokens)
    from local.api.rest.binary import PostgrestBinary  # noqa: PLC0415 - its HTTP client takes 10 MB

    return PostgrestBinary(settings.postgrest_url, tokens)


class BoundedProtocol(HttpToolsProtocol):
    """httptools waits for headers of any size for any time; here both are bounded, and refusals are JSON."""

    _responses: OneWrite
    _deadline: TimerHandle | None = None
    _received = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.transport = self._responses = OneWrite(transport)  # type: ignore[assignment]  # stands in for it
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._refuse_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._received += len(data)
        super().data_received(data)
        if self._in_headers and self._received > HEADER_BYTES:
            self._refuse_large()

    def on_message_begin(self) -> None:
        self._in_headers, self._received = True, 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._refuse_slow)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_waiting()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEADER_BYTES:
            self._refuse_large()
            raise ValueError("too large")  # ends the parsing
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self._responses.flush()  # a response to HEAD has no body
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_waiting()
        self.transport = self._responses.transport
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - as uvicorn calls it
        self._refuse(400, "Bad Request", "The request is not valid HTTP.")

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse_large(self) -> None:
        message = f"The request headers are larger than {HEADER_BYTES} bytes."
        self._refuse(431, "Request Header Fields Too Large", message)

    def _refuse_slow(self) -> None:
        self._refuse(408, "Request Timeout", f"The headers did not arrive within {HEADER_SECONDS:.0f} seconds.")

    def _refuse(self, status: int, reason: str, message: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        self.transport.write(_refusal(status, reason, message))
        self.transport.close()


def _refusal(status: int, reason: str, message: str) -> bytes:
    """The whole response to what never becomes a request."""
    body = json.dumps({"code": str(status), "message": message, "details": None, "hint": None}).encode()
    head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def startup(self, sockets: Any = None) -> None:
        await self._gateway.open()
        await super().startup(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        await self._gateway.close()
        self._captured_signals.clear()  # a requested stop is a success


def serve(settings: Settings) -> None:
    gateway = Gateway(settings)
    config = uvicorn.Config(
        gateway,
        settings.host,
        settings.port,
        http=BoundedProtocol,
        ws=SocketProtocol,
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config, gateway).run()
