"""The database as one caller: their verified claims and their headers are set for each transaction."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.database.pool import (
    SET_CALLER,
    SET_KEY_ROLE,
    UNCOUNTED,
    Connection,
    CountedRequest,
    Database,
    Idempotency,
    is_key,
    one,
)

if TYPE_CHECKING:
    from shared.telemetry import Telemetry

# Few, because a row may have hundreds of kilobytes, and a fetch is one statement with its timeout.
FETCHED_ROWS = 50
# The statement_timeout of the role ends a slow statement; this ends the wait for a server that hangs.
RESPONSE_SECONDS = 15.0
SNAPSHOT_IDLE = "2min"

# Opens a cursor by an operation with a payload of JSON, and yields its lines.
ReadLines = Callable[[str, str], AsyncIterator[str]]


class Transaction:
    """Operations one after the other in one transaction. `stored` is the result of an earlier request with this key."""

    def __init__(self, connection: Connection, operation: str, key: Idempotency | None, stored: Any) -> None:
        self._connection = connection
        self._operation = operation
        self._key = key
        self.stored = stored

    async def run(self, operation: str, payload: str) -> Any:
        async with asyncio.timeout(RESPONSE_SECONDS):
            text = await one(self._connection, f"select {operation}(%s::jsonb)::text", (payload,))
        return json.loads(text) if text else None

    async def store(self, result: Any) -> None:
        """Keep the result for a request that repeats the Idempotency-Key, if there is one."""
        if self._key:
            values = (self._operation, self._key.key, self._key.fingerprint, json.dumps(result))
            await one(self._connection, "select private.remember(%s, %s, %s, %s)", values)


@dataclass(slots=True)
class Count:
    """The request until it is counted: the first operation does so in its transaction."""

    request: CountedRequest = UNCOUNTED

    def take(self) -> CountedRequest:
        taken, self.request = self.request, UNCOUNTED
        return taken


class Session:
    """Every statement carries the caller's claims, so that row-level security covers it."""

    def __init__(
        self,
        database: Database,
        claims: str,
        headers: str,
        idempotency: Idempotency | None,
        telemetry: "Telemetry | None",
        count: Count,
    ) -> None:
        self._database = database
        self._claims = claims
        self._headers = headers
        self._idempotency = idempotency
        self._telemetry = telemetry
        self._count = count

    def once(self, key: str, fingerprint: bytes) -> "Session":
        """The same caller, with an idempotency key of its own."""
        return Session(
            self._database, self._claims, self._headers, Idempotency(key, fingerprint), self._telemetry, self._count
        )

    def for_reading(self) -> "Session":
        """The same caller without a key: stored results of requests that change nothing would fill the database."""
        return Session(self._database, self._claims, self._headers, None, self._telemetry, self._count)

    def connect(self, application_name: str) -> AbstractAsyncContextManager[Connection]:
        """A connection as the functions' login, without the caller's claims."""
        return self._database.connect(application_name)

    async def run(self, operation: str, payload: str, *, counts: bool = True) -> tuple[str, bool]:
        """The JSON that `operation(jsonb)` returns, and whether an earlier request with this key got it."""
        counted = self._count.take() if counts else UNCOUNTED
        running: Awaitable[tuple[str, bool]] = self._database.run(
            operation,
            payload,
            claims=self._claims,
            headers=self._headers,
            idempotency=self._idempotency,
            counted=counted,
        )
        try:
            return await (self._telemetry.statement(operation, running) if self._telemetry else running)
        except BaseException:
            if counted.function:
                self._count.request = counted  # rolled back
            raise

    async def count(self) -> None:
        """Count the request unless one of its operations did."""
        if (counted := self._count.take()).function:
            await self._database.count(counted)

    @asynccontextmanager
    async def transaction(self, operation: str) -> AsyncIterator[Transaction]:
        """A transaction on a connection of its own, since it may be long: the pool is for short work.

        An Idempotency-Key counts for `operation`.
        """
        key = self._idempotency
        async with self._database.connect("strive-uploads") as connection, connection.transaction():
            stored = None
            if key is None:
                await connection.execute(SET_CALLER, (self._claims, self._headers))
            else:
                values = (self._claims, self._headers, operation, key.key, key.fingerprint)
                stored = await one(connection, "select private.enter_once(%s, %s, %s, %s, %s)", values)
            if is_key(self._claims):
                await connection.execute(f"select {SET_KEY_ROLE}")
            yield Transaction(connection, operation, key, stored)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[ReadLines]:
        """A transaction that only reads, in which everything is as of one moment, on a connection of its own.

        It may be on a replica, which then has everything that was committed before.
        It yields what reads lines: an operation opens the cursor `exported`, and its rows come a few at a time.
        """

        async def lines(operation: str, payload: str) -> AsyncIterator[str]:
            async with asyncio.timeout(RESPONSE_SECONDS):
                await connection.execute(f"select {operation}(%s::jsonb)", (payload,))
            while True:
                async with asyncio.timeout(RESPONSE_SECONDS):
                    rows = await (await connection.execute(f"fetch {FETCHED_ROWS} from exported")).fetchall()
                if not rows:
                    break
                for (line,) in rows:
                    yield line
            await connection.execute("close exported")

        async with self._database.connect_to_read("strive-exports") as connection, connection.transaction():
            await connection.execute("set transaction isolation level repeatable read, read only")
            await connection.execute(f"set local idle_in_transaction_session_timeout = '{SNAPSHOT_IDLE}'")
            await connection.execute(SET_CALLER, (self._claims, self._headers))
            yield lines
