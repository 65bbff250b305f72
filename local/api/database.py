"""Connections to Postgres, as three logins of which none is a superuser.

Each service works as the role that owns its tables on hosted Supabase. Files are reached as the caller: `authenticator`
has no rights itself and takes the caller's role for one transaction. Nothing outlives the transaction, so a pooled
connection carries nothing to the next caller.
"""

import asyncio
import json
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.pq.abc import PGresult
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader

from local.api.callers import Caller
from local.api.errors import DatabaseUnavailable, PoolExhausted, is_gone
from local.api.http import integer

CONNECT_SECONDS = 5
IDLE_SECONDS = 5
AS_TEXT = ("timestamptz", "timestamp", "uuid", "inet")

Row = dict[str, Any]
Query = Callable[..., Awaitable[list[Row]]]
Connection = psycopg.AsyncConnection[Any]


def quoted(name: str) -> str:
    return '"' + name.replace("\0", "").replace('"', '""') + '"'


def literal(text: str) -> str:
    text = text.replace("\0", "").replace("'", "''")
    return f" E'{text}'".replace("\\", "\\\\") if "\\" in text else f"'{text}'"


def settings_of(values: Mapping[str, str]) -> str:
    """The settings of a request's transaction, in one round trip that takes no parameters."""
    return "select " + ", ".join(
        f"set_config({literal(name)}, {literal(value)}, true)" for name, value in values.items()
    )


def as_login(user: str, database_url: str) -> str:
    """The same database with another login; all of them share one password."""
    parts = urlsplit(database_url)
    return urlunsplit(parts._replace(netloc=f"{user}:{parts.password or ''}@{parts.hostname}:{parts.port or 5432}"))


set_json_loads(lambda text: json.loads(text, parse_int=integer))


class Pool:
    """At most `size` connections, opened when needed and closed after some idle seconds."""

    def __init__(self, user: str, database_url: str, size: int, **options: Any) -> None:
        self._address = as_login(user, database_url)
        self._options = {"application_name": f"api ({user})", "options": "-c timezone=UTC", **options}
        self._free = asyncio.Semaphore(size)
        self._idle: list[tuple[float, Connection]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def read(self, text: str) -> list[PGresult]:
        """The results of statements that change nothing."""
        async with self.executed(text) as (_, cursor):
            return results(cursor)

    async def read_rows(self, text: str, values: Sequence[Any] | None = None) -> list[list[Row]]:
        """The rows of each statement, in one round trip; with values it is one statement."""
        async with self.executed(text, values) as (_, cursor):
            return await _all_rows(cursor)

    @asynccontextmanager
    async def connection(self, begin: str = "select 1") -> AsyncIterator[Connection]:
        async with self.executed(begin) as (connection, _):
            yield connection

    @asynccontextmanager
    async def executed(
        self, text: str, values: Sequence[Any] | None = None, *, again: bool = True
    ) -> AsyncIterator[tuple[Connection, psycopg.AsyncCursor[Any]]]:
        """A connection, and what the text gave on it.

        The text must not commit a change: if an idle connection turns out to be lost, another one executes it `again`.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise PoolExhausted from None
        connection: Connection | None = None
        try:
            cursor = None
            while cursor is None:
                is_new = not self._idle
                connection = await self._connect() if is_new else self._idle.pop()[1]
                if not is_new and _was_ended(connection):
                    await connection.close()
                    continue
                try:
                    cursor = await connection.execute(text.encode(), values or None, prepare=None if values else False)
                except psycopg.Error as error:
                    if is_new or not again or not _is_lost(error, connection):
                        raise
                    await connection.close()
            yield connection, cursor  # type: ignore[misc]  # the loop has set it
        except psycopg.Error as error:
            if _is_lost(error, connection):
                raise DatabaseUnavailable(str(error)) from error
            raise
        finally:
            try:
                if connection:
                    await self._take_back(connection)
            finally:
                self._free.release()

    async def _take_back(self, connection: Connection) -> None:
        """One that broke while in use isn't used again."""
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                await connection.rollback()
        if not connection.closed:
            self._idle.append((time.monotonic(), connection))
            if self._sweeper is None:
                self._sweeper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    async def _connect(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            self._address, autocommit=True, connect_timeout=CONNECT_SECONDS, **self._options
        )
        for kind in AS_TEXT:
            connection.adapters.register_loader(kind, TextLoader)
        return connection

    def _sweep(self) -> None:
        limit = time.monotonic() - IDLE_SECONDS
        for _, connection in [each for each in self._idle if each[0] <= limit]:
            task = asyncio.ensure_future(connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._idle = [each for each in self._idle if each[0] > limit]
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(IDLE_SECONDS, self._sweep) if self._idle else None

    async def close(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        idle, self._idle = self._idle, []
        for _, connection in idle:
            await connection.close()


def _was_ended(connection: Connection) -> bool:
    """Whether the server has sent something to an idle connection: only its end."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _is_lost(error: psycopg.Error, connection: Connection | None) -> bool:
    return is_gone(error) or connection is None or connection.closed


def results(cursor: psycopg.AsyncCursor[Any]) -> list[PGresult]:
    found = [cursor.pgresult]
    while cursor.nextset():
        found.append(cursor.pgresult)
    return [each for each in found if each is not None]


async def _all_rows(cursor: psycopg.AsyncCursor[Any]) -> list[list[Row]]:
    found = []
    while True:
        if cursor.pgresult and cursor.pgresult.nfields:
            found.append(await cursor.fetchall())
        if not cursor.nextset():
            return found


def _query(connection: Connection) -> Query:
    async def query(text: str, *values: Any) -> list[Row]:
        cursor = await connection.execute(text.encode(), values or None)
        return await cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []

    return query


def _begin(caller: Caller, settings: Mapping[str, str], read_only: bool) -> str:
    claims = json.dumps(caller.claims)
    values = {**settings, "request.cookies": "{}", "request.jwt.claims": claims, "role": caller.role}
    return f"begin{' read only' if read_only else ''}; {settings_of(values)}"


class Database:
    def __init__(self, database_url: str, pool_size: int) -> None:
        style: dict[str, Any] = {"row_factory": dict_row, "cursor_factory": psycopg.AsyncRawCursor}
        self._callers = Pool("authenticator", database_url, pool_size, **style)
        self._auth = Pool("supabase_auth_admin", database_url, max(2, pool_size // 2), **style)
        self._storage = Pool("supabase_storage_admin", database_url, 2, **style)

    @asynccontextmanager
    async def as_caller(
        self, caller: Caller, settings: Mapping[str, str], *, read_only: bool = False, commit: bool = True
    ) -> AsyncIterator[Query]:
        """A transaction of the caller's role, with the settings that policies and functions read.

        Without `commit` it only checks whether the work is allowed.
        """
        async with self._transaction(self._callers, _begin(caller, settings, read_only), commit=commit) as query:
            yield query

    async def read_as_caller(self, caller: Caller, settings: Mapping[str, str], select: str) -> list[Row]:
        """One select whose values are quoted in it: all of the transaction is one round trip."""
        return (await self._callers.read_rows(f"{_begin(caller, settings, read_only=True)}; {select}; commit"))[-1]

    async def read_auth(self, *selects: str) -> list[list[Row]]:
        """The rows of each select, in one round trip."""
        return await self._auth.read_rows("; ".join(selects))

    @asynccontextmanager
    async def as_auth(self) -> AsyncIterator[Query]:
        async with self._transaction(self._auth, "begin") as query:
            yield query

    async def as_storage(self, text: str, *values: Any) -> list[Row]:
        [rows] = await self._storage.read_rows(text, values)
        return rows

    @asynccontextmanager
    async def _transaction(self, pool: Pool, begin: str, *, commit: bool = True) -> AsyncIterator[Query]:
        async with pool.connection(begin) as connection:
            yield _query(connection)
            await (connection.commit() if commit else connection.rollback())

    async def check(self) -> None:
        async with self._callers.connection():
            pass

    async def close(self) -> None:
        for pool in (self._callers, self._auth, self._storage):
            await pool.close()
