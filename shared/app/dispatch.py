"""From a request to the response of a function: identify the caller, read the body, parse it, run the function."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel

from shared.app.bodies import (
    ClientGoneError,
    Receive,
    Slots,
    check_content,
    parse,
    read_body,
    read_file,
    read_form,
    read_query,
)
from shared.app.call import Call, Upload
from shared.app.client_address import client_address
from shared.app.function import ANY_SCOPE, Function
from shared.app.headers import FORWARDED, check_headers, for_database
from shared.app.responses import JSON, LineStream, Response
from shared.app.turns import Turns, name_caller
from shared.auth.api_keys import identify, sent_key
from shared.auth.caller import ANYONE, WEBHOOK, Caller
from shared.auth.credentials import Credentials
from shared.database.pool import CountedRequest, Database, Idempotency
from shared.database.session import Count, Session
from shared.errors import INTERNAL, ApiError, ErrorResponse, error_response
from shared.logs import log_exception
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.billing.client import Stripe
    from shared.flags import Flags
    from shared.telemetry import Telemetry


HTML = b"text/html; charset=utf-8"
FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path_value: str
    query: bytes
    headers: Mapping[bytes, bytes]
    id: bytes
    receive: Receive
    peer: str | None
    # The body, once it has been read, so that the request can be forwarded.
    body: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Services:
    """What the functions of one process share."""

    settings: Settings
    credentials: Credentials
    database: Database
    flags: "Callable[[], Flags]"
    stripe: "Callable[[], Stripe]"
    telemetry: "Telemetry | None"
    slots: Slots = field(default_factory=Slots)
    turns: Turns = field(default_factory=Turns)
    ending: asyncio.Event = field(default_factory=asyncio.Event)


async def admit(services: Services, function: Function, request: Request) -> Caller:
    """The caller, from the headers alone: without the right credentials no body is read."""
    readable = bool(function.page or function.content_type)
    if request.method != "POST" and not (readable and request.method in {"GET", "HEAD"}):
        raise wrong_method(request.method, "GET, HEAD, POST, OPTIONS" if readable else "POST, OPTIONS")
    check_headers(request.headers)
    if request.method == "POST" and not _is_form(function, request):
        check_content(request.headers, function.upload or "application/json")
    if function.signature:
        return WEBHOOK
    if key := sent_key(request.headers):
        return await _admit_key(services, function, request, key)
    return await services.credentials.identify(request.headers, function.auth)


async def _admit_key(services: Services, function: Function, request: Request, key: str) -> Caller:
    # Anyone can make up keys: looking them up is bounded by network.
    async with services.turns.take(name_caller(ANYONE, _address(services, request))):
        caller = await identify(services.database, key, _headers(services, request), function.name)
    if function.scope is None:
        raise ApiError(
            403,
            "insufficient_scope",
            "This function does not accept API keys",
            hint="docs/integrations.md lists the functions that do.",
        )
    if function.scope != ANY_SCOPE and function.scope not in caller.scopes:
        raise ApiError(
            403,
            "insufficient_scope",
            "The API key does not have the scope of this function",
            details=f"It has {', '.join(sorted(caller.scopes))}.",
            hint=f"Create a key with {function.scope}.",
        )
    return caller


async def run(services: Services, function: Function, request: Request, caller: Caller) -> Response:
    if function.upload:
        return await _run_upload(services, function, request, caller)
    if function.page and request.method != "POST":
        return Response(200, await asyncio.to_thread(function.page, False), content_type=HTML)
    is_query = request.method != "POST"
    body = b"" if is_query else await read_body(request.receive, function.body_bytes)
    if (is_form := _is_form(function, request)) or is_query:
        fields = read_query(request.query)
        sent = read_form(body, request.headers.get(b"content-type", b""))
        body = json.dumps(dict([*fields, *sent])).encode()
    request.body.append(body)
    if function.stream:
        return await _run_stream(services, function, request, caller, body)
    if function.signature:
        function.signature(services.settings, request.headers, body)
    # The turn is requested after the body has arrived, so that a slow client occupies none.
    async with services.turns.take(name_caller(caller, _address(services, request))):
        parsed = await parse(function.request, body, function.body_values)
        call = Call(
            parsed,
            caller,
            services.settings,
            request.headers,
            body,
            request.path_value,
            _session(services, function, request, caller, hashlib.sha256(body).digest),
            services.flags,
            services.stripe,
            services.ending,
        )
        result = await function.handler(call)
        await call.session.count()
    if function.page and is_form:
        return Response(200, await asyncio.to_thread(function.page, True), content_type=HTML)
    headers = {"idempotency-replayed": "true", **result.headers} if result.replayed else result.headers
    content = result.json if isinstance(result.json, bytes) else result.json.encode()
    kind = function.content_type.encode() if function.content_type else JSON
    return Response(result.status or function.status, content, headers, content_type=kind)


def _is_form(function: Function, request: Request) -> bool:
    return function.page is not None and request.headers.get(b"content-type", b"").startswith(FORMS)


async def _run_stream(
    services: Services, function: Function, request: Request, caller: Caller, body: bytes
) -> Response:
    async with AsyncExitStack() as stack:
        turn = services.turns.take(name_caller(caller, _address(services, request)), may_last=True)
        await stack.enter_async_context(turn)
        call = Call(
            await parse(function.request, body, function.body_values),
            caller,
            services.settings,
            request.headers,
            body,
            request.path_value,
            _session(services, function, request, caller, None),
            services.flags,
            services.stripe,
            services.ending,
        )
        items = await stack.enter_async_context(aclosing(cast("AsyncGenerator[BaseModel]", function.handler(call))))
        first = await anext(items)
        await call.session.count()
        lines = _events(first, items, request.id)
        return LineStream(function.status, lines, stack.pop_all(), b"text/event-stream")


async def _events(first: BaseModel, items: AsyncIterator[BaseModel], request_id: bytes) -> AsyncIterator[bytes]:
    yield b"data: %s\n" % first.model_dump_json(exclude_none=True).encode()
    try:
        async for item in items:
            yield b"data: %s\n" % item.model_dump_json(exclude_none=True).encode()
    except Exception as error:  # noqa: BLE001 - the status has been sent; the last event has the error
        yield b"event: error\ndata: %s\n" % explained(error, request_id).body()


async def _run_upload(services: Services, function: Function, request: Request, caller: Caller) -> Response:
    session = _session(services, function, request, caller, None)
    async with services.turns.take(name_caller(caller, _address(services, request))):
        if function.authorize:
            await session.run(function.authorize, "{}")
        await session.count()
    query = dict(read_query(request.query))
    parsed = await parse(function.request, json.dumps(query).encode(), function.body_values)
    async with AsyncExitStack() as stack:
        stack.enter_context(services.slots.hold(caller.user_id or caller.acts_for or caller.mode))
        file, digest = await read_file(request.receive)
        stack.enter_context(file)
        upload = Upload(
            parsed,
            caller,
            services.settings,
            request.headers,
            request.query,
            request.path_value,
            _session(services, function, request, caller, lambda: request.query + digest, is_counted=True),
            services.flags,
            services.stripe,
            services.ending,
            file,
        )
        items = await stack.enter_async_context(aclosing(cast("AsyncGenerator[BaseModel]", function.handler(upload))))
        # Before the first item is sent, an error can still set the status.
        first = await anext(items)
        return LineStream(function.status, _lines(first, items, request.id), stack.pop_all())


async def _lines(first: BaseModel, items: AsyncIterator[BaseModel], request_id: bytes) -> AsyncIterator[bytes]:
    yield first.model_dump_json().encode()
    try:
        async for item in items:
            yield item.model_dump_json().encode()
    except Exception as error:  # noqa: BLE001 - the status has been sent; the last line has the error
        yield b'{"error": %s}' % explained(error, request_id).body()


def _session(
    services: Services,
    function: Function,
    request: Request,
    caller: Caller,
    digest: Callable[[], bytes] | None,
    *,
    is_counted: bool = False,
) -> Session:
    idempotency = None
    if digest and function.idempotent and (key := request.headers.get(b"idempotency-key")):
        org = request.headers.get(b"x-org-id", b"").lower()
        idempotency = Idempotency(key.decode(), hashlib.sha256(org + b"\n" + digest()).digest())
    # A request with an API key was counted when the key was looked up.
    count = Count()
    if function.metered and caller.mode == "user" and not is_counted:
        organization = request.headers.get(b"x-org-id", b"").decode() or caller.organization
        count.request = CountedRequest(function.name, caller.user_id, organization)
    headers = _headers(services, request)
    return Session(services.database, caller.claims, headers, idempotency, services.telemetry, count)


def _headers(services: Services, request: Request) -> str:
    return for_database(request.headers, _address(services, request))


def _address(services: Services, request: Request) -> str | None:
    return client_address(request.headers.get(FORWARDED, b""), request.peer, services.settings.trusted_proxies)


def explained(error: BaseException, request_id: bytes) -> ErrorResponse:
    """The response to an exception; a bug goes to the log."""
    response = error_response(error)
    if response is INTERNAL:
        log_exception(error, request_id.decode())
    return response


async def forward_if_moved(
    function: Function, request: Request, path: str, response: Response, address: str
) -> Response:
    """A late request with a body of JSON goes to where its organization has moved."""
    if response.code != "organization_moved" or request.method != "POST" or function.upload or function.stream:
        return response
    from shared.app.forwarding import forward  # noqa: PLC0415 - only after a move

    try:
        body = request.body[0] if request.body else await read_body(request.receive, function.body_bytes)
    except (ApiError, ClientGoneError):
        return response
    query = f"?{request.query.decode('latin-1')}" if request.query else ""
    return await forward(f"{address}{path}{query}", request.headers, body, response)


def wrong_method(method: str, allow: str) -> ApiError:
    return ApiError(
        405,
        "method_not_allowed",
        f"This path does not accept {method}",
        hint=f"Use {allow}.",
        headers={"allow": allow},
    )
