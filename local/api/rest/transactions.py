"""The transaction of a request: it runs as the caller's role, with what functions and policies read of the request."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.pq.abc import PGresult

from local.api.database import Pool, quoted, results, settings_of
from local.api.errors import DatabaseUnavailable, PoolExhausted
from local.api.rest.catalog import Function
from local.api.rest.errors import RestError, from_database, http_status, unavailable
from local.api.rest.incoming import Incoming
from local.api.rest.sql import as_json, qualified
from local.api.settings import RestSettings

BYTEA = 17
ISOLATION = {"serializable", "repeatable read"}


@dataclass
class Result:
    total: int | None
    count: int
    body: bytes
    headers: list[tuple[str, str]]
    status: int | None
    inserted: int
    location: list[tuple[str, str | None]]


def begin(settings: RestSettings, incoming: Incoming, function: Function | None, *, read_only: bool) -> str:
    """Begin, become the caller's role, set what functions and policies read of the request, run the project's check."""
    catalog = incoming.catalog
    of_role = dict(catalog.role_settings.get(incoming.role, {}))
    isolation = of_role.pop("default_transaction_isolation", None)
    of_function = dict(function.settings) if function else {}
    isolation = of_function.pop("default_transaction_isolation", isolation)
    path = dict.fromkeys((incoming.schema, *settings.extra_search_path))
    values = {
        "search_path": ", ".join(map(quoted, path)),
        **of_role,
        "role": incoming.role,
        "request.jwt.claims": as_json({**incoming.claims, "role": incoming.role}),
        "request.method": incoming.method,
        "request.path": incoming.path,
        "request.headers": as_json(incoming.headers),
        "request.cookies": as_json(incoming.cookies),
        **({"timezone": incoming.preferences.timezone} if incoming.preferences.timezone else {}),
        **of_function,
    }
    level = f" isolation level {isolation}" if isolation in ISOLATION else ""
    check = f"; select {qualified(catalog.pre_request)}()" if catalog.pre_request else ""
    return f"begin{level}{' read only' if read_only else ''}; {settings_of(values)}{check}"


class Transactions:
    """Runs the statements of requests; a database error becomes the response for its caller.

    The values are literals in the statement, so that beginning, settings and statement are one round trip.
    """

    def __init__(self, settings: RestSettings, pool: Pool) -> None:
        self.settings, self.pool = settings, pool

    async def read(
        self, incoming: Incoming, text: str, *, function: Function | None = None, explain: str | None = None
    ) -> tuple[Result, int | None]:
        """The result, and the rows that `explain` estimates."""
        start = begin(self.settings, incoming, function, read_only=True)
        texts = [text, explain] if explain else [text]
        with _refusals(incoming):
            found = await self.pool.read("; ".join([start, *texts, "commit"]))
        return _result(found[-1 - len(texts)]), _estimate(found[-2]) if explain else None

    async def write(
        self, incoming: Incoming, text: str, check: Callable[[Result], None], function: Function | None = None
    ) -> Result:
        """Committed unless `check` refuses the result or the request asks for a rollback."""
        requested = incoming.preferences.get("tx")
        rolls_back = requested == "rollback" or (requested is None and self.settings.tx_end.startswith("rollback"))
        start = begin(self.settings, incoming, function, read_only=False)
        with _refusals(incoming):
            async with self.pool.executed(f"{start}; {text}", again=False) as (connection, cursor):
                result = _result(results(cursor)[-1])
                check(result)
                end = b"set constraints all immediate; rollback" if rolls_back else b"commit"
                await connection.execute(end, prepare=False)
        return result


@contextmanager
def _refusals(incoming: Incoming) -> Iterator[None]:
    try:
        yield
    except PoolExhausted as error:
        raise RestError(504, "PGRST003", "Timed out acquiring connection from connection pool.") from error
    except DatabaseUnavailable as error:
        raise unavailable() from error
    except psycopg.Error as error:
        raise from_database(error, signed_in=incoming.signed_in) from error


def _result(found: PGresult) -> Result:
    total, count, body, headers, status, inserted, location = (found.get_value(0, at) for at in range(7))
    made = body or b""
    return Result(
        total=int(total) if total is not None else None,
        count=int(count or 0),
        body=bytes.fromhex(made[2:].decode()) if found.ftype(2) == BYTEA else made,
        headers=_response_headers(headers) if headers else [],
        status=_response_status(status.decode()) if status else None,
        inserted=int(inserted or 0),
        location=json.loads(location) if location else [],
    )


def _estimate(found: PGresult) -> int:
    return int(json.loads(found.get_value(0, 0) or b"")[0]["Plan"]["Plan Rows"])


def _response_headers(text: bytes) -> list[tuple[str, str]]:
    """Those of the setting response.headers; a line break in a value can't be sent and becomes a blank."""
    try:
        given = json.loads(text)
        pairs = [next(iter(each.items())) for each in given if len(each) == 1]
        well_formed = isinstance(given, list) and len(pairs) == len(given)
    except (ValueError, TypeError, AttributeError, RecursionError):
        well_formed, pairs = False, []
    if not well_formed or not all(isinstance(value, str) for _, value in pairs):
        message = "response.headers guc must be a JSON array composed of objects with a single key and a string value"
        raise RestError(500, "PGRST111", message)
    return [(name.lower(), "".join(max(char, " ") for char in value)) for name, value in pairs]


def _response_status(text: str) -> int:
    digits = text[: next((at for at, char in enumerate(text) if not char.isdecimal()), len(text))]
    if not digits or http_status(int(digits)) != int(digits):
        raise RestError(500, "PGRST112", "response.status guc must be a valid status code")
    return int(digits)
