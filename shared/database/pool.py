"""The connection pool, and the one statement that sets the claims of a request and runs its operation."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql
from psycopg_pool import AsyncConnectionPool

from shared.database.connection import PooledConnection
from shared.logs import log
from shared.settings import Settings

CONNECT_SECONDS = 5
# How long a request waits for a connection while Postgres responds to others, and while it does not.
CHECKOUT_SECONDS, STUCK_SECONDS = 8.0, 2.0
WAITING_REQUESTS = 1024
# How long a read waits until the replica has everything that was committed before it.
REPLICA_SECONDS = 2.0
REPLICA_PAUSE_SECONDS = 0.02

Connection = AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What identifies a repeated request: its Idempotency-Key, and a hash of what it asks for."""

    key: str
    fingerprint: bytes


class CountedRequest(NamedTuple):
    """A request of a person that is counted: to which function, and the organization that its header or token names."""

    function: str | None
    person: str | None
    organization: str


UNCOUNTED = CountedRequest(None, None, "")


class Database:
    """One pool per process, opened in the loop that serves (after any fork)."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url
        self._read_url = settings.database_read_url
        self._pool = AsyncConnectionPool(
            self._url,
            connection_class=PooledConnection,
            kwargs={
                "autocommit": True,
                "connect_timeout": CONNECT_SECONDS,
                "tcp_user_timeout": 10_000,
                "application_name": "strive-functions",
            },
            min_size=1,
            max_size=settings.database_connections,
            max_waiting=WAITING_REQUESTS,
            # Short: while the server is unavailable, the next request tries again at once.
            reconnect_timeout=2.0,
            configure=_prepare_if_direct,
            open=False,
        )
        self._responded_at = float("-inf")

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def run(
        self,
        operation: str,
        payload: str,
        *,
        claims: str,
        headers: str,
        idempotency: Idempotency | None = None,
        counted: CountedRequest = UNCOUNTED,
    ) -> tuple[str, bool]:
        """Run `operation(jsonb)` under the caller's policies: its result, and whether an earlier request got it.

        The transaction also counts the request `counted`.
        """
        if '"act"' in claims:
            # Logged in a transaction of its own, so that a failed request of an impersonator is logged, too.
            await self._one(LOG_IMPERSONATED, (operation, claims, headers))
        as_key = is_key(claims)
        if idempotency is None:
            (result,) = await self._one(_run(operation, as_key), (payload, claims, headers, *counted))
            return result, False
        result, replayed = await self._one(
            _run_once(operation, as_key),
            {
                "payload": payload,
                "claims": claims,
                "headers": headers,
                "operation": operation,
                "key": idempotency.key,
                "fingerprint": idempotency.fingerprint,
                "function": counted.function,
                "person": counted.person,
                "organization": counted.organization,
            },
        )
        return result, replayed

    async def count(self, counted: CountedRequest) -> None:
        """Count a request that ran no operation."""
        await self._one(f"select {COUNT}", counted)

    async def use_api_key(self, key_hash: str, headers: str, function: str) -> dict[str, Any] | None:
        """The claims of the key with this hash, if it works from where the headers say; counts the request."""
        (claims,) = await self._one("select private.use_api_key(%s, %s, %s)", (key_hash, headers, function))
        return claims  # type: ignore[no-any-return]  # jsonb

    @asynccontextmanager
    async def connect(self, application_name: str, url: str | None = None) -> AsyncIterator[Connection]:
        """A connection outside of the pool, for work that may be long."""
        async with await AsyncConnection.connect(
            url or self._url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            prepare_threshold=None,  # a pooler may be in between
            application_name=application_name,
        ) as connection:
            yield connection

    @asynccontextmanager
    async def connect_to_read(self, application_name: str) -> AsyncIterator[Connection]:
        """A connection for long reads: to the replica once it has all that is committed now, else to the primary."""
        async with AsyncExitStack() as stack:
            connection = None
            if self._read_url:
                (committed,) = await self._one("select pg_current_wal_insert_lsn()::text", ())
                try:
                    connection = await stack.enter_async_context(self.connect(application_name, self._read_url))
                    await _await_replay(connection, committed)
                except (psycopg.Error, TimeoutError) as error:
                    log("WARNING", "the replica is not used; the primary is read", why=str(error))
                    connection = None
            if connection is None:
                connection = await stack.enter_async_context(self.connect(application_name))
            yield connection

    async def migration_version(self) -> str | None:
        (version,) = await self._one("select private.migration_version()", ())
        return str(version) if version else None

    async def batches(self, statement: str, values: Sequence[Any], size: int) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows of one statement, in batches."""
        connection = await self._checkout()
        try:
            cursor = await connection.execute(statement, values)
            while rows := await cursor.fetchmany(size):
                yield rows
        finally:
            await self._pool.putconn(connection)

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Notifications of a channel, on a connection of its own; ends at once behind a pooler."""
        async with self.connect("strive-functions") as connection:
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
            self._responded_at = time.monotonic()
        finally:
            await self._pool.putconn(connection)
        if row is None:
            raise LookupError(f"No row from: {statement}")
        return row

    async def _checkout(self) -> PooledConnection:
        is_stuck = time.monotonic() - self._responded_at > STUCK_SECONDS
        while (connection := await self._pool.getconn(STUCK_SECONDS if is_stuck else CHECKOUT_SECONDS)).ended:
            await connection.close()
            await self._pool.putconn(connection)  # which opens another in its place
        return connection


async def _await_replay(replica: Connection, committed: str) -> None:
    """TimeoutError unless the replica soon has this position of the write-ahead log. A promoted one is no replica."""
    query = "select pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)"
    deadline = time.monotonic() + REPLICA_SECONDS
    async with asyncio.timeout(2 * REPLICA_SECONDS):  # a replica that hangs
        while True:
            is_replica, has_it = await (await replica.execute(query, [committed])).fetchone() or (False, False)
            if is_replica and has_it:
                return
            if not is_replica:
                raise TimeoutError("It was promoted.")
            if time.monotonic() > deadline:
                raise TimeoutError(f"It lacks {committed} after {REPLICA_SECONDS:.0f} s.")
            await asyncio.sleep(REPLICA_PAUSE_SECONDS)


async def one(connection: Connection, statement: str, values: Sequence[Any] = ()) -> Any:
    """The first column of the first row, or None."""
    cursor = await connection.execute(statement, values)
    row = await cursor.fetchone()
    return row[0] if row else None


async def _prepare_if_direct(connection: PooledConnection) -> None:
    if not await _is_direct(connection):
        connection.prepare_threshold = None


async def _is_direct(connection: Connection) -> bool:
    """False behind a pooler in transaction mode, where statements cannot be prepared and LISTEN does not work.

    Such a pooler names another process than the one that responds.
    """
    cursor = await connection.execute("select pg_backend_pid()")
    return await cursor.fetchone() == (connection.info.backend_pid,)


LOG_IMPERSONATED = (
    "select private.log_impersonated_request(%s) from (select set_config('request.jwt.claims', %s, true),"
    " set_config('request.headers', %s, true)) as entered"
)
SET_CALLER = "select set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)"
# Counts nothing without a function. Requests with API keys are counted by use_api_key(). Costs record-activity 4 % of
# the processor time of functions and Postgres: the median of five runs of 16 rounds, 0.98× to 1.09× on a busy machine
# (python -m bench.functions metering).
COUNT = "private.count_request(%s, %s, %s)"
# An API key has the rights of a role of its own, for this transaction.
SET_KEY_ROLE = "set_config('role', 'strive_api_key', true)"


def is_key(claims: str) -> bool:
    return '"api_key_id"' in claims


# Operations are named in code, never by a caller. FROM runs before the select list: it sets the claims for this
# transaction, which is this statement; then the operation is called.
@cache
def _run(operation: str, as_key: bool = False) -> str:
    entered = f"{SET_CALLER}, {COUNT}{f', {SET_KEY_ROLE}' if as_key else ''}"
    return f"select {operation}(%s::jsonb)::text from ({entered}) as entered"  # noqa: S608 - named in code, see above


@cache
def _run_once(operation: str, as_key: bool = False) -> str:
    done = f"private.remember(%(operation)s, %(key)s, %(fingerprint)s, {operation}(%(payload)s::jsonb))"
    role = f", {SET_KEY_ROLE} as role" if as_key else ""
    entered = (
        f"select known, private.count_request(%(function)s, %(person)s, %(organization)s) as counted{role}"  # noqa: S608 - as above
        " from private.enter_once(%(claims)s, %(headers)s, %(operation)s, %(key)s, %(fingerprint)s) as known"
    )
    return f"select coalesce(known, {done})::text, known is not null from ({entered}) as entered"  # noqa: S608 - as above
