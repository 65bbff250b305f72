"""From a request to its answer: find the function, know the caller, parse, run, answer. The same for all of them."""

import asyncio
import hashlib
import json
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache, partial
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import psycopg
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from shared.app.function import Answered, Call, Function, Step
from shared.app.requests import (
    ClientGoneError,
    check_content,
    check_headers,
    read_body,
    read_file,
    read_headers,
    request_id,
)
from shared.app.responses import PREFLIGHT, Answer, Lines, problem_answer
from shared.auth.callers import Caller, Callers
from shared.database.pool import Database, Once, expected_migration
from shared.errors import INTERNAL, ApiError, invalid_body, problem_of
from shared.logs import log, log_request
from shared.settings import Settings, SettingsError

if TYPE_CHECKING:
    from shared.billing.client import Stripe
    from shared.flags import Flags
    from shared.telemetry import Telemetry

BASE = "/functions/v1"
# What the database is told of the request, as PostgREST tells it; nothing secret, nothing long.
PASSED_ON = (b"x-org-id", b"user-agent", b"x-forwarded-for")
PASSED_CHARACTERS = 500
# A mistake of the programmer is explained in the log; the words of any other exception may hold somebody's data.
EXPLAINED = (TypeError, AttributeError, NameError, ImportError)
WEBHOOK = Caller("webhook", '{"role":"service_role"}')


class Runtime:
    """Serves one function or many; made when the process starts, opened in the loop that serves."""

    def __init__(self, settings: Settings, functions: Sequence[Function], *, alone: bool = False) -> None:
        for function in functions:
            _check_callable(settings, function)
        self._settings = settings
        self._callers = Callers(settings)
        self._database = Database(settings)
        self._telemetry: Telemetry | None = None
        self._opening = asyncio.Lock()
        self._open = False
        self._flags: Flags | None = None
        self._stripe: Stripe | None = None
        self._functions = {
            f"{BASE}/{each.name}": each for function in functions for each in (function, *function.beneath)
        }
        if alone:  # it has an address of its own
            name = functions[0].name
            self._functions |= {at.removeprefix(f"{BASE}/{name}") or "/": each for at, each in self._functions.items()}
        # Addresses that end in a name of the caller's choice, by what comes before it.
        self._open_ended = {at.rpartition("/")[0]: each for at, each in self._functions.items() if at.endswith("}")}
        self._pages: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/healthz": self._alive,
            "/readyz": self._ready,
            f"{BASE}/openapi.json": self._openapi,
            f"{BASE}/docs": self._reference,
        }

    async def open(self) -> None:
        """functions-framework tells nobody that its loop has started: there the first request opens."""
        async with self._opening:
            if self._open:
                return
            await self._database.open()
            if self._settings.telemetry:
                from shared.telemetry import Telemetry  # noqa: PLC0415 - a large library, wanted by few

                self._telemetry = Telemetry()
            self._open = True

    async def close(self) -> None:
        if self._flags:
            await self._flags.close()
        if self._stripe:
            await self._stripe.close()
        await self._database.close()
        if self._telemetry:
            await asyncio.to_thread(self._telemetry.close)

    async def answer(self, request: Request) -> Answer:
        """The answer to any request: whatever happens on the way, it is one of ours."""
        if not self._open:
            await self.open()
        if self._telemetry is None:
            return await self._answer(request)
        path, method = request.scope["path"], request.scope["method"]
        function, _ = self._find(path)
        route = f"{BASE}/{function.name}" if function else path if path in self._pages else ""
        return await self._telemetry.request(route, method, dict(request.scope["headers"]), self._answer(request))

    async def _answer(self, request: Request) -> Answer:
        started = time.perf_counter()
        scope = request.scope
        function, place = self._find(scope["path"])
        caller: Caller | None = None
        try:
            headers = read_headers(scope["headers"])
            if scope["method"] == "OPTIONS":
                answer = Answer(HTTPStatus.NO_CONTENT, headers=PREFLIGHT)
            elif function is None:
                answer = await self._page(scope["path"], scope["method"])
            else:
                caller, body = await self._admit(function, scope["method"], headers, request)
                if isinstance(body, bytes):
                    answer = await self._run(function, headers, caller, body, place)
                else:
                    answer = await self._run_file(function, headers, caller, scope["query_string"], body)
        except ClientGoneError:
            answer = Answer(499, code="client_gone")
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            problem = problem_of(error)
            if problem is INTERNAL:
                _explain(error, request_id(scope["headers"]))
            answer = problem_answer(problem)
        answer.request_id = request_id(scope["headers"])
        log_request(
            answer.request_id.decode(),
            function.name if function else None,
            scope["method"],
            answer.status,
            answer.code,
            caller.mode if caller else None,
            time.perf_counter() - started,
        )
        return answer

    def _find(self, path: str) -> tuple[Function | None, str]:
        if (function := self._functions.get(path)) is not None:
            return function, ""
        before, _, place = path.rpartition("/")
        return (self._open_ended.get(before) if place else None), place

    def _opened_flags(self) -> "Flags":
        """Made when a function first asks for them; the others need neither them nor their libraries."""
        if self._flags is None:
            from shared.flags import Flags  # noqa: PLC0415 - only functions that ask for flags pay for it

            self._flags = Flags(self._database, self._settings.flag_environment)
        return self._flags

    def _opened_stripe(self) -> "Stripe":
        if self._stripe is None:
            from shared.billing.client import Stripe  # noqa: PLC0415 - only functions that ask for Stripe pay for it

            self._stripe = Stripe(self._settings)
        return self._stripe

    async def _admit(
        self, function: Function, method: str, headers: Mapping[bytes, bytes], request: Request
    ) -> tuple[Caller, bytes | IO[bytes]]:
        """Who calls and what they sent; whoever may not call is told before the body is read."""
        if method != "POST":
            raise _wrong_method("POST, OPTIONS")
        check_headers(headers)
        if function.signature:
            check_content(headers)
            body = await read_body(request.receive)
            function.signature(self._settings, headers, body)
            return WEBHOOK, body
        caller = await self._callers.identify(headers, function.auth)
        if function.takes_file:
            check_content(headers, function.takes_file)
            return caller, await read_file(request.receive)
        check_content(headers)
        return caller, await read_body(request.receive)

    async def _run(
        self, function: Function, headers: Mapping[bytes, bytes], caller: Caller, body: bytes, place: str
    ) -> Answer:
        try:
            parsed = function.request.validate_json(body)
        except ValidationError as error:
            raise invalid_body(error, body) from None
        once = None
        if function.idempotent and (key := headers.get(b"idempotency-key")):
            asked = headers.get(b"x-org-id", b"").lower() + b"\n" + body
            once = Once(key.decode(), hashlib.sha256(asked).digest())

        async def run(operation: str, payload: Any) -> Answered[Any]:
            text = payload if type(payload) is str else function.request.dump_json(payload, exclude_unset=True).decode()
            told = _passed_on(headers)
            running = self._database.run(operation, text, claims=caller.claims, headers=told, once=once)
            return Answered(*await (self._telemetry.statement(operation, running) if self._telemetry else running))

        call = Call(
            parsed,
            caller,
            self._settings,
            run,
            self._opened_flags,
            self._opened_stripe,
            headers=headers,
            sent=body,
            place=place,
        )
        call.snapshot = lambda: self._database.snapshot(claims=caller.claims, headers=_passed_on(headers))
        answered = await function.work(call)
        told_more = {"idempotency-replayed": "true", **answered.headers} if answered.replayed else answered.headers
        given = answered.json if isinstance(answered.json, bytes) else answered.json.encode()
        return Answer(answered.status or function.status, given, told_more)

    async def _run_file(
        self, function: Function, headers: Mapping[bytes, bytes], caller: Caller, query: bytes, file: IO[bytes]
    ) -> Answer:
        asked = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        try:
            parsed = function.request.validate_python(asked)
        except ValidationError as error:
            raise invalid_body(error, json.dumps(asked).encode()) from None

        async def run(_operation: str, _payload: Any) -> Answered[Any]:
            raise TypeError("A function that takes a file works in a transaction")

        call = Call(
            parsed,
            caller,
            self._settings,
            run,
            self._opened_flags,
            self._opened_stripe,
            headers=headers,
            sent=query,
            place="",
        )
        call.file = file
        call.transaction = partial(self._transaction, caller, _passed_on(headers))
        work: Any = function.work(call)
        # Until something is known, an error still has a status of its own.
        first = await anext(work)

        async def lines() -> AsyncIterator[bytes]:
            async with aclosing(work):
                yield first.model_dump_json().encode()
                try:
                    async for line in work:
                        yield line.model_dump_json().encode()
                except Exception as error:  # noqa: BLE001 - as above; the status has been sent
                    problem = problem_of(error)
                    if problem is INTERNAL:
                        _explain(error, request_id(headers.items()))
                    yield b'{"error": %s}' % problem.body()

        return Lines(function.status, lines())

    @asynccontextmanager
    async def _transaction(self, caller: Caller, told: str) -> AsyncIterator[Step]:
        async with self._database.transaction(claims=caller.claims, headers=told) as step:

            async def run(operation: str, payload: Any) -> Any:
                text = payload.model_dump_json() if isinstance(payload, BaseModel) else json.dumps(payload)
                return await step(operation, text)

            yield run

    async def _page(self, path: str, method: str) -> Answer:
        if (page := self._pages.get(path)) is None:
            raise ApiError(
                404, "unknown_function", "There is no such function", hint=f"{BASE}/openapi.json lists what there is."
            )
        if method not in {"GET", "HEAD"}:
            raise _wrong_method("GET, HEAD, OPTIONS")
        return await page()

    async def _alive(self) -> Answer:
        return Answer(200, b'{"status": "alive"}')

    async def _ready(self) -> Answer:
        expected, found = expected_migration(), await self._database.migration_version()
        if found is None or found < expected:
            raise ApiError(
                503,
                "migrations_missing",
                "The database is not at the version these functions need",
                details=f"Found migration {found}, need {expected}.",
                hint="Apply supabase/migrations, then ask again.",
                headers={"retry-after": "5"},
            )
        return Answer(200, json.dumps({"status": "ready", "migration": found}).encode())

    async def _openapi(self) -> Answer:
        from shared.app.openapi import document  # noqa: PLC0415 - only for those who read it

        return Answer(200, json.dumps(document(self._settings.url, self._functions.values())).encode())

    async def _reference(self) -> Answer:
        from shared.app.reference import page  # noqa: PLC0415 - only for those who read it

        return page(self._settings)


def _passed_on(headers: Mapping[bytes, bytes]) -> str:
    return _told(*(headers.get(name, b"")[:PASSED_CHARACTERS] for name in PASSED_ON))


@lru_cache(512)  # a client sends the same again and again
def _told(*values: bytes) -> str:
    return json.dumps(
        {name.decode(): value.decode("latin-1") for name, value in zip(PASSED_ON, values, strict=True) if value}
    )


def _wrong_method(allow: str) -> ApiError:
    return ApiError(405, "method_not_allowed", "This address does not take that method", headers={"allow": allow})


def _explain(error: BaseException, call: bytes) -> None:
    why = str(error) if isinstance(error, EXPLAINED) else None
    if isinstance(error, psycopg.Error):
        why = f"{error.sqlstate}: {error.diag.message_primary}"
    log(
        "ERROR",
        "unexpected exception",
        request_id=call.decode(),
        exception=type(error).__qualname__,
        why=why,
        where=[f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(error.__traceback__)],
    )


def _check_callable(settings: Settings, function: Function) -> None:
    """A function nobody could call is a mistake in the deployment: say so now."""
    kinds = {mode.partition(":")[0] for mode in function.auth}
    for kind, keys, variable in (
        ("publishable", settings.publishable_keys, "SUPABASE_PUBLISHABLE_KEYS"),
        ("secret", settings.secret_keys, "SUPABASE_SECRET_KEYS"),
    ):
        if kinds == {kind} and not keys:
            raise SettingsError(variable, "nothing", f"the keys with which {function.name} is called")
