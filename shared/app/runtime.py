"""The functions of one process: opened once, then every request gets a response."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import Request as Incoming

from shared.app import dispatch, health
from shared.app.bodies import ClientGoneError
from shared.app.dispatch import Request, Services
from shared.app.function import Function
from shared.app.headers import read_headers, request_id
from shared.app.responses import PREFLIGHT, Response
from shared.app.routes import BASE, LONGEST_PATH, Routes, check_callable
from shared.auth.credentials import Credentials
from shared.database import errors as _registered  # noqa: F401 - importing it registers the database's errors
from shared.database.pool import Database
from shared.errors import ApiError
from shared.logs import log
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.auth.caller import Caller
    from shared.billing.client import Stripe
    from shared.flags import Flags
    from shared.telemetry import Telemetry


class Runtime:
    """Made when the process starts, opened in the loop that serves."""

    def __init__(self, settings: Settings, functions: Sequence[Function], *, alone: bool = False) -> None:
        for function in functions:
            check_callable(settings, function)
        self._settings = settings
        self._routes = Routes(functions, alone=alone)
        self._database = Database(settings)
        self._services: Services | None = None
        self._opening = asyncio.Lock()
        self._making = asyncio.Lock()
        self._documents: dict[str, Response] = {}
        self._telemetry: Telemetry | None = None
        self._flags: Flags | None = None
        self._stripe: Stripe | None = None
        self._pages: dict[str, Callable[[], Awaitable[Response]]] = {
            "/healthz": health.alive,
            "/readyz": health.Readiness(self._database).ready,
            f"{BASE}/openapi.json": partial(self._once, self._openapi),
            f"{BASE}/docs": partial(self._once, self._reference),
            f"{BASE}/catalog.json": partial(self._once, self._catalog),
        }

    async def open(self) -> Services:
        """functions-framework has no hook for the start of its loop: there, the first request opens."""
        async with self._opening:
            if self._services is None:
                await self._database.open()
                if self._settings.telemetry:
                    from shared.telemetry import Telemetry  # noqa: PLC0415 - a large library that few deployments use

                    self._telemetry = Telemetry()
                self._services = Services(
                    self._settings,
                    Credentials(self._settings),
                    self._database,
                    self._open_flags,
                    self._open_stripe,
                    self._telemetry,
                )
            return self._services

    def end(self) -> None:
        """Before the server waits for running requests."""
        if self._services:
            self._services.ending.set()

    async def close(self) -> None:
        if self._flags:
            await self._flags.close()
        if self._stripe:
            await self._stripe.close()
        await self._database.close()
        if self._telemetry:
            await asyncio.to_thread(self._telemetry.close)

    async def respond(self, incoming: Incoming) -> Response:
        services = self._services or await self.open()
        path, method = incoming.scope["path"], incoming.scope["method"]
        function, path_value = self._routes.find(path)
        responding = self._respond(services, incoming, function, path_value)
        if self._telemetry is None:
            return await responding
        route = f"{BASE}/{function.name}" if function else path if path in self._pages else ""
        return await self._telemetry.request(route, method, dict(incoming.scope["headers"]), responding)

    async def _respond(
        self, services: Services, incoming: Incoming, function: Function | None, path_value: str
    ) -> Response:
        started = time.perf_counter()
        scope = incoming.scope
        method, raw = scope["method"], scope["headers"]
        this_id = request_id(raw)
        caller: Caller | None = None
        request: Request | None = None
        try:
            headers = read_headers(raw)
            if method == "OPTIONS":
                response = Response(HTTPStatus.NO_CONTENT, headers=PREFLIGHT)
            elif function is None:
                response = await self._page(scope["path"], method)
            else:
                peer = scope["client"][0] if scope.get("client") else None
                query = scope["query_string"]
                request = Request(method, path_value, query, headers, this_id, incoming.receive, peer)
                caller = await dispatch.admit(services, function, request)
                response = await dispatch.run(services, function, request, caller)
        except ClientGoneError:
            response = Response(499, code="client_gone")
        except Exception as error:  # noqa: BLE001 - every request gets a response
            problem = dispatch.explained(error, this_id)
            response = Response.of(problem)
            if request and function:
                response = await dispatch.forward_if_moved(function, request, scope["path"], response, problem.details)
        response.request_id = this_id
        log(
            "INFO" if response.status < HTTPStatus.INTERNAL_SERVER_ERROR else "ERROR",
            "request",
            request_id=this_id.decode(),
            function=function.name if function else None,
            method=method,
            status=response.status,
            code=response.code,
            caller=caller.mode if caller else None,
            milliseconds=round((time.perf_counter() - started) * 1000, 2),
        )
        return response

    def _open_flags(self) -> "Flags":
        if self._flags is None:
            from shared.flags import Flags  # noqa: PLC0415 - only functions that use flags pay for the import

            self._flags = Flags(self._database, self._settings.flag_environment)
        return self._flags

    def _open_stripe(self) -> "Stripe":
        if self._stripe is None:
            from shared.billing.client import Stripe  # noqa: PLC0415 - its functions have loaded it in a thread

            self._stripe = Stripe(self._settings)
        return self._stripe

    async def _page(self, path: str, method: str) -> Response:
        if (page := self._pages.get(path)) is None:
            raise ApiError(
                404,
                "unknown_function",
                "There is no function at this path",
                details=f"Found {path[:LONGEST_PATH]}.",
                hint=f"{self._routes.similar(path)}{BASE}/openapi.json lists all functions.",
            )
        if method not in {"GET", "HEAD"}:
            raise dispatch.wrong_method(method, "GET, HEAD, OPTIONS")
        return await page()

    async def _once(self, make: Callable[[], Response]) -> Response:
        """A document that never changes. A thread makes it: that takes longer than other requests may wait for."""
        async with self._making:
            if make.__name__ not in self._documents:
                self._documents[make.__name__] = await asyncio.to_thread(make)
        return copy(self._documents[make.__name__])

    def _openapi(self) -> Response:
        from shared.app.openapi import document  # noqa: PLC0415 - few requests need it

        return Response(200, json.dumps(document(self._settings.url, self._routes.functions.values())).encode())

    def _reference(self) -> Response:
        from shared.app.reference import page  # noqa: PLC0415 - few requests need it

        return page(self._settings)

    def _catalog(self) -> Response:
        from shared.app.reference import CATALOG  # noqa: PLC0415 - few requests need it

        return Response(200, CATALOG.read_bytes())
