"""The connection pool, and the one statement with which a request enters the database, works, and leaves."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg_pool import AsyncConnectionPool

from shared.database.connection import Connection
from shared.settings import Settings

MIGRATIONS = Path(__file__).parents[2] / "supabase" / "migrations"
CHECKOUT_SECONDS = 2.0
WAITING_REQUESTS = 256
FETCHED_ROWS = 500
SNAPSHOT_IDLE = "2min"


@dataclass(frozen=True, slots=True)
class Once:
    """What makes a repeated request known: its key, and what it asked for."""

    key: str
    fingerprint: bytes


class Database:
    """One pool per process, opened in the loop that serves (after any fork)."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url
        self._pool = AsyncConnectionPool(
            self._url,
            connection_class=Connection,
            kwargs={
                "autocommit": True,
                "connect_timeout": 5,
                "tcp_user_timeout": 10_000,
                "application_name": "strive-functions",
            },
            min_size=1,
            max_size=settings.database_connections,
            timeout=CHECKOUT_SECONDS,
            max_waiting=WAITING_REQUESTS,
            # A short patience with a server that is away: the next request asks again at once.
            reconnect_timeout=2.0,
            configure=_prepare_if_direct,
            open=False,
        )

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def run(
        self, operation: str, payload: str, *, claims: str, headers: str, once: Once | None = None
    ) -> tuple[str, bool]:
        """Run `operation(jsonb)` under the caller's policies: its answer, and whether it had been given before."""
        if once is None:
            (answer,) = await self._one(_run(operation), (payload, claims, headers))
            return answer, False
        answer, replayed = await self._one(
            _run_once(operation),
            {
                "payload": payload,
                "claims": claims,
                "headers": headers,
                "operation": operation,
                "key": once.key,
                "fingerprint": once.fingerprint,
            },
        )
        return answer, replayed

    @asynccontextmanager
    async def transaction(self, *, claims: str, headers: str) -> AsyncIterator[Callable[[str, str], Awaitable[Any]]]:
        """One transaction under the caller's policies, in which operations run one after the other."""
        connection = await self._checkout()

        async def step(operation: str, payload: str) -> Any:
            cursor = await connection.execute(_step(operation), (payload,))
            row = await cursor.fetchone()
            return json.loads(row[0]) if row else None

        try:
            async with connection.transaction():
                await connection.execute(_CLAIMS, (claims, headers))
                yield step
        finally:
            await self._pool.putconn(connection)

    @asynccontextmanager
    async def snapshot(self, *, claims: str, headers: str) -> AsyncIterator[Callable[[str, str], AsyncIterator[str]]]:
        """One reading transaction under the caller's policies, in which everything is as of one moment.

        It yields what reads lines: an operation opens the cursor `exported`, and its rows come a few at a time.
        """
        connection = await self._checkout()

        async def lines(operation: str, payload: str) -> AsyncIterator[str]:
            await connection.execute(_step(operation), (payload,))
            while rows := await (await connection.execute(f"fetch {FETCHED_ROWS} from exported")).fetchall():
                for (line,) in rows:
                    yield line
            await connection.execute("close exported")

        try:
            async with connection.transaction():
                await connection.execute("set transaction isolation level repeatable read, read only")
                await connection.execute(f"set local idle_in_transaction_session_timeout = '{SNAPSHOT_IDLE}'")
                await connection.execute(_CLAIMS, (claims, headers))
                yield lines
        finally:
            await self._pool.putconn(connection)

    async def migration_version(self) -> str | None:
        (version,) = await self._one("select private.migration_version()", ())
        return str(version) if version else None

    async def batches(self, statement: str, values: Sequence[Any], size: int) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows of one statement, so many at a time."""
        connection = await self._checkout()
        try:
            cursor = await connection.execute(statement, values)
            while rows := await cursor.fetchmany(size):
                yield rows
        finally:
            await self._pool.putconn(connection)

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """What is notified on a channel, on a connection of its own; ends at once where none can listen."""
        async with await AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5, application_name="strive-functions"
        ) as connection:
            if not await _is_direct(connection):
                return
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            async for notice in connection.notifies():
                yield notice.payload

    async def _one(self, statement: str, values: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...]:
        connection = await self._checkout()
        try:
            cursor = await connection.execute(statement, values)
            row: tuple[Any, ...] | None = await cursor.fetchone()
        finally:
            await self._pool.putconn(connection)
        if row is None:
            raise LookupError(f"No row from: {statement}")
        return row

    async def _checkout(self) -> Connection:
        while (connection := await self._pool.getconn()).ended:
            await connection.close()
            await self._pool.putconn(connection)  # which opens another in its place
        return connection


def expected_migration() -> str:
    """The newest migration this code was written for."""
    return max(path.name.partition("_")[0] for path in MIGRATIONS.glob("*.sql"))


async def _prepare_if_direct(connection: Connection) -> None:
    if not await _is_direct(connection):
        connection.prepare_threshold = None


async def _is_direct(connection: AsyncConnection[Any]) -> bool:
    """A pooler in transaction mode gives every statement another session: none may be prepared, and nobody listens.

    It cannot hide: the process it names is not the one that answers.
    """
    cursor = await connection.execute("select pg_backend_pid()")
    return await cursor.fetchone() == (connection.info.backend_pid,)


_CLAIMS = "select set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)"


# Operations are named in code, never by a caller. What stands in FROM runs before the select list: first the claims are
# set, for this transaction, which is this statement; then the operation is called.
@cache
def _run(operation: str) -> str:
    return f"select {operation}(%s::jsonb)::text from ({_CLAIMS}) as entered"  # noqa: S608 - named in code, see above


@cache
def _step(operation: str) -> str:
    return f"select {operation}(%s::jsonb)::text"


@cache
def _run_once(operation: str) -> str:
    done = f"private.remember(%(operation)s, %(key)s, %(fingerprint)s, {operation}(%(payload)s::jsonb))"
    return (
        f"select coalesce(known, {done})::text, known is not null"  # noqa: S608 - named in code, see above
        " from private.enter_once(%(claims)s, %(headers)s, %(operation)s, %(key)s, %(fingerprint)s) as known"
    )
