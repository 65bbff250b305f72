"""The data API: every request below its root, as PostgREST answers it."""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from local.api.database import Pool, as_login
from local.api.errors import ApiError
from local.api.http import beside_loop, error_response, read_body
from local.api.rest import media, ranges, sql
from local.api.rest.catalog import Catalog, Column, Function, Relation, read_catalog
from local.api.rest.errors import RestError, from_token, is_header, on_wire
from local.api.rest.functions import arguments_of, choose_function
from local.api.rest.incoming import Incoming, path_segments, query_text, read_request, top_range
from local.api.rest.openapi import accessible, describe
from local.api.rest.payload import Payload, read_payload
from local.api.rest.plan import Node, Planner, Where, filter_names, needed_columns
from local.api.rest.preferences import Preferences
from local.api.rest.query import Query, parse_query
from local.api.rest.ranges import ALL, Range
from local.api.rest.relationships import Name
from local.api.rest.sql import EVERYTHING, ROWS, Call, Write, as_json, body_of, final
from local.api.rest.transactions import Result, Transactions
from local.api.settings import RestSettings
from local.api.tokens import Claims, TokenError, Tokens, bearer

log = logging.getLogger(__name__)

LOGIN = "authenticator"
LISTEN_AGAIN_SECONDS = 0.2
QUERY_WEIGHT = 256  # a character of the query takes as long to work on as so many of a body
METHODS_OF_ROOT = {"GET", "HEAD", "OPTIONS"}
METHODS_OF_FUNCTIONS = METHODS_OF_ROOT | {"POST"}
METHODS_OF_RELATIONS = METHODS_OF_FUNCTIONS | {"PUT", "PATCH", "DELETE"}

# Functions may choose any status of three digits; uvicorn knows the lines of those below 600.
STATUS_LINE.update({status: b"HTTP/1.1 %d \r\n" % status for status in range(600, 1000)})


class Rest:
    """`pool` connects as the login role of the API, whose rights are those of the role that each request asks for."""

    def __init__(self, settings: RestSettings, pool: Pool, tokens: Tokens) -> None:
        self.settings, self.pool, self.tokens = settings, pool, tokens
        self.transactions = Transactions(settings, pool)
        self._catalog: Catalog | None = None
        self._reading: asyncio.Task[Catalog] | None = None
        self._again = False
        self._listener: asyncio.Task[None] | None = None

    # Schema cache -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._reload()
        self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        for task in (self._listener, self._reading):
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def catalog(self) -> Catalog:
        """The newest; while it is read again, requests wait for it."""
        if self._reading:
            with suppress(Exception):
                await asyncio.shield(self._reading)
        if self._catalog is None:
            await self._reload()
        if self._catalog is None:
            raise RestError(503, "PGRST002", "Could not query the database for the schema cache. Retrying.")
        return self._catalog

    def _begin_reload(self) -> "asyncio.Task[Catalog]":
        if self._reading:  # what changed after that reading began needs another one
            self._again = True
        else:
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _reload(self) -> None:
        with suppress(Exception):
            await asyncio.shield(self._begin_reload())

    async def _read(self) -> Catalog:
        try:
            while True:
                self._again = False
                async with self.pool.connection() as connection:
                    catalog = await read_catalog(connection, self.settings)
                if not self._again:
                    self._catalog = catalog
                    return catalog
        except Exception:
            log.exception("The schema cache can't be read")
            raise
        finally:
            self._reading = None

    async def _listen(self) -> None:
        """Reload on NOTIFY pgrst, and after a lost connection, during which a notification may have been missed."""
        while True:
            with suppress(psycopg.Error, OSError):
                async with await AsyncConnection.connect(
                    as_login(LOGIN, self.settings.database_url), autocommit=True, application_name="api (listener)"
                ) as connection:
                    await connection.execute("listen pgrst")
                    await self._reload()
                    async for notice in connection.notifies():
                        if notice.payload in {"", "reload schema", "reload config"}:
                            self._begin_reload()
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    # Requests ---------------------------------------------------------------------------------------------------------

    async def respond(self, request: Request, claims: Claims | None = None) -> Response:
        """`claims` are those of a caller that a gateway has recognized; without them the token is read here."""
        try:
            response = await self._respond(request, claims)
        except TokenError as error:
            return error_response(from_token(error))
        except ApiError as error:
            return error_response(error)
        if request.method == "HEAD" and response.status_code != 204:  # noqa: PLR2004
            response.body = b""
            del response.headers["content-length"]
        return response

    async def _respond(self, request: Request, claims: Claims | None) -> Response:
        if claims is None:
            token = bearer(request.headers.get("authorization"))
            claims = {} if token is None else self.tokens.verify(token)
        catalog = await self.catalog()
        body, names = await read_body(request), path_segments(request)
        calls = len(names) == 2 and names[0] == "rpc"  # noqa: PLR2004 - rpc and the name of a function
        if len(names) > 1 and not calls:
            raise RestError(404, "PGRST125", "Invalid path specified in request URL")
        incoming = read_request(request, claims, body, catalog, self.settings)
        if calls and incoming.method not in METHODS_OF_FUNCTIONS:
            raise RestError(405, "PGRST101", f"Cannot use the {incoming.method} method on RPC")
        if incoming.method not in (METHODS_OF_RELATIONS if names else METHODS_OF_ROOT):
            raise RestError(405, "PGRST117", f"Unsupported HTTP method: {incoming.method}")
        text = query_text(request)
        incoming.weight = len(body) + QUERY_WEIGHT * len(text)
        query = await beside_loop(incoming.weight, lambda: parse_query(text, parameters=calls and incoming.reads))
        top = top_range(incoming, query)
        if not names:
            return await self._root(incoming)
        answer = self._function if calls else self._relation
        return await answer(incoming, names[-1], query, top)

    async def _root(self, incoming: Incoming) -> Response:
        if incoming.method == "OPTIONS":
            return _allow("OPTIONS,GET,HEAD")
        if not {media.OPEN_API, media.JSON, media.ANY} & set(incoming.accepts):
            raise media.not_available(incoming.accepts)
        if self.settings.hosted and incoming.role != "service_role":
            raise RestError(403, "PGRST125", "The description of the API is for the secret key.")
        result, _ = await self.transactions.read(incoming, accessible(incoming.schema))
        base = "/rest/v1" if self.settings.hosted else "/"
        text = json.dumps(describe(incoming.catalog, incoming.schema, result.body, base), ensure_ascii=False).encode()
        return _response(result, 200, incoming.content_headers(media.OPEN_API), text)

    async def _relation(self, incoming: Incoming, name: str, query: Query, top: Range) -> Response:
        writes = {"POST": self._insert, "PUT": self._put, "PATCH": self._update, "DELETE": self._delete}
        known = (incoming.schema, name)
        if incoming.method == "OPTIONS":
            return _allow(_allowed(_relation(incoming.catalog, known)))
        if incoming.reads:
            return await self._read_rows(incoming, _relation(incoming.catalog, known), query, top)
        payload = Payload()
        if incoming.method != "DELETE":
            columns = query.columns if incoming.method != "PUT" else None
            payload = await read_payload(incoming.body, incoming.content, columns, call=False)
        return await writes[incoming.method](incoming, _relation(incoming.catalog, known), query, payload)

    # Reading ----------------------------------------------------------------------------------------------------------

    async def _read_rows(self, incoming: Incoming, relation: Relation, query: Query, top: Range) -> Response:
        catalog, preferences = incoming.catalog, incoming.preferences

        def statements() -> tuple[str, str | None, str]:
            root = Planner(catalog, incoming.schema, query, source=False).plan(relation.name, top)
            chosen = media.negotiate(incoming.accepts, catalog.handlers, relation.name, whole=root.whole)
            preferences.refuse_invalid()
            total = None
            if preferences.counts:
                total = sql.counted(root)
                if preferences.get("count") == "estimated" and catalog.max_rows is not None:
                    total += f" limit {catalog.max_rows + 1}"
            handler = media.NO_BODY if incoming.method == "HEAD" else chosen.handler
            text = final(source=sql.rows_of(root), rows=EVERYTHING, body=body_of(handler, None), total=total)
            explain = sql.estimate(root) if preferences.get("count") in {"planned", "estimated"} else None
            return text, explain, chosen.media

        text, explain, chosen = await beside_loop(incoming.weight, statements)
        result, planned = await self.transactions.read(incoming, text, explain=explain)
        _refuse_plural(chosen, result)
        if planned is not None:
            result.total = _estimated(preferences, catalog, result.total, planned)
        return self._listing(incoming, top, result, chosen, location=_canonical(relation, query))

    def _listing(
        self, incoming: Incoming, top: Range, result: Result, chosen: str, *, location: str = "", applied: str = ""
    ) -> Response:
        last = top.first + result.count - 1
        status = 200
        if result.total is not None:
            status = 416 if top.first > result.total else 206 if last - top.first + 1 < result.total else 200
        headers = {
            "content-range": ranges.content_range(top.first, last, result.total),
            **({"content-location": location} if location else {}),
            **incoming.content_headers(chosen),
            **incoming.preferences.applied(applied),
        }
        body = bytes(error_response(ranges.beyond(top, result.total)).body) if status == 416 else result.body  # noqa: PLR2004
        return _response(result, status, headers, body)

    # Writing ----------------------------------------------------------------------------------------------------------

    async def _insert(self, incoming: Incoming, relation: Relation, query: Query, payload: Payload) -> Response:
        preferences = incoming.preferences
        resolution = preferences.get("resolution")
        conflict = relation.key if query.on_conflict is None else query.on_conflict
        changes = {"resolution": resolution, "conflict": conflict}
        merges = resolution == "merge-duplicates"
        result, chosen = await self._write(incoming, relation, query, payload, changes, merges=merges)
        status = 200 if merges and result.inserted <= 0 else 201
        headers = {"content-range": _affected(preferences, result)}
        if result.location:
            pairs = (f"{_escaped(name)}={_escaped(_equals(value))}" for name, value in result.location)
            headers["location"] = f"/{relation.name[1]}?{'&'.join(pairs)}"
        names = ["missing", "return"] + (["resolution"] if relation.key or query.on_conflict is not None else [])
        headers |= preferences.applied(*names)
        return _written(incoming, result, status, headers, chosen, without=status)

    async def _put(self, incoming: Incoming, relation: Relation, query: Query, payload: Payload) -> Response:
        changes = {"resolution": "merge-duplicates", "conflict": relation.key}
        result, chosen = await self._write(incoming, relation, query, payload, changes, merges=True)
        status = 201 if result.inserted > 0 else 200
        return _written(incoming, result, status, incoming.preferences.applied("return"), chosen, without=204)

    async def _update(self, incoming: Incoming, relation: Relation, query: Query, payload: Payload) -> Response:
        result, chosen = await self._write(incoming, relation, query, payload, {})
        preferences = incoming.preferences
        total = result.count if preferences.counts else None
        headers = {
            "content-range": ranges.content_range(0, result.count - 1, total),
            **preferences.applied("missing", "return", "max-affected"),
        }
        return _written(incoming, result, 200, headers, chosen, without=204)

    async def _delete(self, incoming: Incoming, relation: Relation, query: Query, payload: Payload) -> Response:
        result, chosen = await self._write(incoming, relation, query, payload, {})
        headers = {
            "content-range": _affected(incoming.preferences, result),
            **incoming.preferences.applied("return", "max-affected"),
        }
        return _written(incoming, result, 200, headers, chosen, without=204)

    async def _write(
        self,
        incoming: Incoming,
        relation: Relation,
        query: Query,
        payload: Payload,
        changes: dict[str, Any],
        *,
        merges: bool = False,
    ) -> tuple[Result, str]:
        catalog, preferences, method = incoming.catalog, incoming.preferences, incoming.method

        def statement() -> tuple[str, str]:
            planner = Planner(catalog, incoming.schema, query, source=True, write=True)
            root = planner.plan(relation.name, ALL)
            if method == "PUT":
                _refuse_other_filters(relation, query)
            shown = preferences.get("return") in {"representation", "headers-only"}
            columns = _columns(relation, payload.keys)
            write = Write(
                relation=relation.name,
                columns=columns,
                payload=payload,
                returning=needed_columns(root, relation.key) if shown else [],
                parsers={
                    each.name: catalog.representations["json", each.type]
                    for each in columns
                    if ("json", each.type) in catalog.representations
                },
                with_defaults=method in {"POST", "PATCH"} and preferences.get("missing") == "default",
                **changes,
            )
            preferences.refuse_invalid()
            chosen = media.negotiate(incoming.accepts, catalog.handlers, relation.name, whole=root.whole)
            conditions = planner.conditions(relation.name)
            if (
                self.settings.hosted
                and method in {"PATCH", "DELETE"}
                and not conditions
                and incoming.role != "postgres"
            ):
                _refuse_everything(method)
            handler = chosen.handler if preferences.representation else media.NO_BODY
            located = method == "POST" and preferences.get("return") == "headers-only"
            text = final(
                source=_source(method, write, conditions),
                rows=sql.rows_of(root) if preferences.representation else EVERYTHING,
                body=body_of(handler, None),
                location=relation.key if located else None,
                inserted=merges,
            )
            return text, chosen.media

        text, chosen = await beside_loop(incoming.weight, statement)

        def check(result: Result) -> None:
            if method != "PUT":
                _refuse_plural(chosen, result)
            elif result.count != 1:
                message = "Payload values do not match URL in primary key column(s)"
                raise RestError(400, "PGRST115", message)
            if method in {"PATCH", "DELETE"}:
                _refuse_too_many(preferences, result)

        return await self.transactions.write(incoming, text, check), chosen

    # Calling ----------------------------------------------------------------------------------------------------------

    async def _function(self, incoming: Incoming, name: str, query: Query, top: Range) -> Response:
        catalog, preferences, post = incoming.catalog, incoming.preferences, incoming.method == "POST"
        payload = Payload(keys=frozenset(key for key, _ in query.parameters))
        if post:
            payload = await read_payload(incoming.body, incoming.content, query.columns, call=True)
        known = (incoming.schema, name)

        def statement() -> tuple[str, str, Function]:
            function = choose_function(catalog, known, payload.keys, incoming.content, post=post)
            relation = (function.name[0], function.relation)
            root = Planner(catalog, incoming.schema, query, source=True).plan(relation, top)
            chosen = media.negotiate(incoming.accepts, catalog.handlers, relation, whole=root.whole)
            preferences.refuse_invalid()
            if preferences.strict and preferences.max_affected is not None and not function.many:
                message = (
                    "Function must return SETOF or TABLE when max-affected preference is used with handling=strict"
                )
                raise RestError(400, "PGRST128", message)
            handler = media.NO_BODY if incoming.method == "HEAD" else chosen.handler
            page = f"pg_catalog.count({ROWS})" if function.many else "1::bigint"
            source, rows, total = _called(incoming, function, payload, query, root)
            text = final(source=source, rows=rows, body=body_of(handler, function), total=total, page=page)
            return text, chosen.media, function

        text, chosen, function = await beside_loop(incoming.weight, statement)
        if incoming.method == "OPTIONS":
            return _allow("OPTIONS,POST" if function.volatility == "v" else "OPTIONS,GET,HEAD,POST")

        def check(result: Result) -> None:
            _refuse_plural(chosen, result)
            _refuse_too_many(preferences, result)

        if incoming.reads or function.volatility != "v":
            result, _ = await self.transactions.read(incoming, text, function=function)
            check(result)
        else:
            result = await self.transactions.write(incoming, text, check, function)
        if function.void:
            last = top.first + result.count - 1
            headers = {
                "content-range": ranges.content_range(top.first, last, result.total),
                **preferences.applied("max-affected"),
            }
            return _response(result, 204, headers, b"")
        return self._listing(incoming, top, result, chosen, applied="max-affected")


def _relation(catalog: Catalog, name: Name) -> Relation:
    found = catalog.relations.get(name)
    if found:
        return found
    near = catalog.near_relation(*name)
    raise RestError(
        404,
        "PGRST205",
        f"Could not find the table '{'.'.join(name)}' in the schema cache",
        None,
        f"Perhaps you meant the table '{name[0]}.{near}'" if near else None,
    )


def _columns(relation: Relation, names: frozenset[str]) -> list[Column]:
    if unknown := names - relation.columns.keys():
        message = f"Could not find the '{min(unknown)}' column of '{relation.name[1]}' in the schema cache"
        raise RestError(400, "PGRST204", message)
    return [relation.columns[name] for name in sorted(names)]


def _called(
    incoming: Incoming, function: Function, payload: Payload, query: Query, root: Node
) -> tuple[str, str, str | None]:
    """The call, the rows shown of it, and those counted."""
    pairs = payload.pairs if incoming.method == "POST" else query.parameters
    body = payload.raw
    arguments = arguments_of(function, pairs) if pairs is not None else None
    if payload.pairs is not None:
        body = as_json(dict(payload.pairs)).encode()
    returning = needed_columns(root, ())
    if returning and returning != ["*"]:
        returning = sorted({*returning, *filter_names(root)})
    source = sql.call(Call(function, payload.keys, body, arguments), returning)
    rows = sql.rows_of(root)
    return source, rows, sql.counted(root) if incoming.preferences.counts else None


def _source(method: str, write: Write, conditions: list[Where]) -> str:
    if method == "PATCH":
        return sql.update(write, conditions)
    if method == "DELETE":
        return sql.delete(write, conditions)
    return sql.insert(write, conditions if method == "PUT" else [])


# Refusals -------------------------------------------------------------------------------------------------------------


def _refuse_plural(chosen: str, result: Result) -> None:
    if chosen in media.SINGULAR and result.count != 1:
        details = f"The result contains {result.count} rows"
        raise RestError(406, "PGRST116", "Cannot coerce the result to a single JSON object", details)


def _refuse_too_many(preferences: Preferences, result: Result) -> None:
    if preferences.strict and preferences.max_affected is not None and result.count > preferences.max_affected:
        details = f"The query affects {result.count} rows"
        raise RestError(400, "PGRST124", "Query result exceeds max-affected preference constraint", details)


def _refuse_everything(method: str) -> None:
    """As the extension safeupdate does for the API's roles in hosted projects."""
    statement = "UPDATE" if method == "PATCH" else "DELETE"
    raise RestError(400, "21000", f"{statement} requires a WHERE clause")


def _refuse_other_filters(relation: Relation, query: Query) -> None:
    """A PUT names one row by its whole primary key."""
    plain = all(
        each.operation.kind == "quantified"
        and each.operation.operator == "eq"
        and not (each.operation.negated or each.operation.option)
        for path, each in query.filters
        if not path
    )
    if query.logic or not relation.key or query.filter_fields != set(relation.key) or not plain:
        message = "Filters must include all and only primary key columns with 'eq' operators"
        raise RestError(405, "PGRST105", message)


# Responses ------------------------------------------------------------------------------------------------------------


def _allow(methods: str) -> Response:
    return Response(b"", 200, {"allow": methods, "access-control-allow-origin": "*"})


def _allowed(relation: Relation) -> str:
    methods = ["OPTIONS", "GET", "HEAD"]
    methods += ["POST"] if relation.insertable else []
    methods += ["PUT"] if relation.insertable and relation.updatable and relation.key else []
    methods += ["PATCH"] if relation.updatable else []
    methods += ["DELETE"] if relation.deletable else []
    return ",".join(methods)


def _affected(preferences: Preferences, result: Result) -> str:
    return ranges.content_range(1, 0, result.count if preferences.counts else None)


def _written(
    incoming: Incoming, result: Result, status: int, headers: dict[str, str], chosen: str, *, without: int
) -> Response:
    """`without` is the status of a response that doesn't show the rows."""
    if not incoming.preferences.representation:
        return _response(result, without, headers, b"")
    return _response(result, status, {**headers, **incoming.content_headers(chosen)}, result.body)


def _response(result: Result, status: int, headers: dict[str, str], body: bytes) -> Response:
    """A function or policy may choose the status, and headers instead of those of the same name."""
    chosen = {name for name, _ in result.headers}
    own = [(name, value) for name, value in headers.items() if name not in chosen]
    response = Response(body, result.status or status)
    for name, value in (*own, *result.headers):
        if is_header(name, value):
            response.headers.append(name, on_wire(value))
    return response


def _estimated(preferences: Preferences, catalog: Catalog, total: int | None, planned: int) -> int | None:
    if preferences.get("count") == "planned":
        return planned
    beyond = total is not None and (catalog.max_rows is None or total > catalog.max_rows)
    return max(total or 0, planned) if beyond else total


def _canonical(relation: Relation, query: Query) -> str:
    return f"/{relation.name[1]}" + (f"?{query.canonical}" if query.canonical else "")


def _escaped(text: str) -> str:
    return quote(text, safe="~")


def _equals(value: str | None) -> str:
    return "is.null" if value is None else f"eq.{value}"
