"""Jobs: work that nobody asks for. One run goes on at a time; each leaves a row, to be seen from the moment it starts.

A run holds the lock of its job in a transaction of its own. If its process dies, the lock goes with the connection.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from pydantic import AwareDatetime

from shared.app.function import Answered, Call, Shape, Strict
from shared.errors import ApiError
from shared.logs import log

BEAT_SECONDS = 20.0
# The server ends the transaction of a process that has said nothing for so long, and with it the lock.
SILENCE = "60s"
LONGEST_STATEMENT = "15min"

Connection = AsyncConnection[tuple[Any, ...]]
# Works on a connection of its own, as the functions' login and nobody's user; what it returns is kept as the result.
Work = Callable[[Connection], Awaitable[Any]]


class Nothing(Strict):
    """A job takes nothing."""


class Run(Shape):
    """SKIPPED: another run was under way, and this one left everything to it."""

    id: UUID
    job: str
    outcome: Literal["DONE", "SKIPPED"]
    result: Any
    error: None
    started_at: AwareDatetime
    finished_at: AwareDatetime


class LockLostError(Exception):
    """Another run may have begun: this one must not go on."""


async def perform(call: Call[Any], job: str) -> Answered[Run]:
    """Run a job that is a function of the database."""
    async with _connection(call) as connection:
        run = await _one(connection, "select private.start_run(%s)", job)
        async with connection.transaction():
            await connection.execute(f"set local statement_timeout = '{LONGEST_STATEMENT}'")
            return _answer(await _one(connection, "select private.perform_run(%s)", run))


async def perform_here(call: Call[Any], job: str, work: Work) -> Answered[Run]:
    """Run a job whose work is done in this process."""
    async with _connection(call) as keeper, _connection(call) as connection, keeper.transaction():
        await keeper.execute(f"set local idle_in_transaction_session_timeout = '{SILENCE}'")
        held = await _one(keeper, "select private.try_job_lock(%s)", job)
        run = await _one(connection, "select private.start_run(%s, %s)", job, held)
        if not held:
            return _answer(await _one(connection, "select private.perform_run(%s)", run))
        try:
            result, error = await _while_held(keeper, work(connection)), None
        except Exception as failure:  # noqa: BLE001 - whatever it is, the row says it
            result, error = None, f"{type(failure).__name__}: {failure}"[:2000]
        async with _connection(call) as fresh:  # the work may have left its own in any state
            ended = 'select private.end_run(%s, %s::private."JobOutcome", %s, %s)'
            return _answer(await _one(fresh, ended, run, "FAILED" if error else "DONE", Jsonb(result), error))


async def _while_held(keeper: Connection, work: Awaitable[Any]) -> Any:
    """What the work returns; it is stopped if the lock is lost."""
    working = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([working], timeout=BEAT_SECONDS))[0]:
            try:
                await keeper.execute("select 1")
            except Exception as lost:
                raise LockLostError("The connection with the lock was lost") from lost
        return await working
    finally:
        working.cancel()


@asynccontextmanager
async def _connection(call: Call[Any]) -> AsyncIterator[Connection]:
    """Apart from the pool, whose connections are for short work."""
    async with await AsyncConnection.connect(
        call.settings.database_url,
        autocommit=True,
        connect_timeout=5,
        prepare_threshold=None,  # a pooler may be in between
        application_name="strive-jobs",
    ) as connection:
        yield connection


async def _one(connection: Connection, statement: str, *values: Any) -> Any:
    cursor = await connection.execute(statement, values)
    row = await cursor.fetchone()
    return row[0] if row else None


def _answer(run: dict[str, Any]) -> Answered[Run]:
    if run["outcome"] == "FAILED":
        log("ERROR", "job failed", job=run["job"], run=run["id"])
        raise ApiError(500, "job_failed", "The job failed", details=run["error"], hint="Its next run tries again.")
    return Answered(json.dumps(run))
