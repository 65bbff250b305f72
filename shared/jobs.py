"""Jobs: scheduled work. One run at a time, and each has a row from the moment it starts.

A run holds the lock of its job in a transaction. If its process dies, the connection closes and the lock is free.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb
from pydantic import AwareDatetime

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel
from shared.database.pool import Connection, one
from shared.errors import ApiError
from shared.logs import log

APPLICATION = "strive-jobs"
BEAT_SECONDS = 20.0
SECONDS_BETWEEN_TRIES = 0.2
# The server ends the transaction of a process that sent nothing for so long, and with it the lock.
SILENCE = "60s"
LONGEST_STATEMENT = "15min"

# Works on a connection of its own, as the functions' login without a user; what it returns is stored as the result.
Work = Callable[[Connection], Awaitable[Any]]


class NoInput(RequestModel):
    """No fields."""


class JobRun(ResponseModel):
    """SKIPPED: another run of this job was running."""

    id: UUID
    job: str
    outcome: Literal["DONE", "SKIPPED"]
    result: Any
    error: None
    started_at: AwareDatetime
    finished_at: AwareDatetime


class LockLostError(Exception):
    """Another run may have started, so this one must stop."""


async def run_in_database(call: Call[Any], job: str) -> Result[JobRun]:
    """Run a job that is a function of the database."""
    async with call.session.connect(APPLICATION) as connection:
        run = await one(connection, "select private.start_run(%s)", [job])
        async with connection.transaction():
            await connection.execute(f"set local statement_timeout = '{LONGEST_STATEMENT}'")
            return _result(await one(connection, "select private.perform_run(%s)", [run]))


async def run_here(call: Call[Any], job: str, work: Work, *, patience: float = 0) -> Result[JobRun]:
    """Run a job whose work is done in this process; wait up to `patience` seconds for an earlier run to end."""
    connect = call.session.connect
    async with connect(APPLICATION) as keeper, connect(APPLICATION) as connection, keeper.transaction():
        await keeper.execute(f"set local idle_in_transaction_session_timeout = '{SILENCE}'")
        given_up = time.monotonic() + patience
        while not (held := await one(keeper, "select private.try_job_lock(%s)", [job])):
            if time.monotonic() >= given_up or call.ending.is_set():
                break
            await asyncio.sleep(SECONDS_BETWEEN_TRIES)
        run = await one(connection, "select private.start_run(%s, %s)", [job, held])
        if not held:
            return _result(await one(connection, "select private.perform_run(%s)", [run]))
        try:
            result, error = await _while_held(keeper, work(connection)), None
        except Exception as failure:  # noqa: BLE001 - the row of the run stores it
            result, error = None, f"{type(failure).__name__}: {failure}"[:2000]
        async with connect(APPLICATION) as fresh:  # the work may have left its own in any state
            ended = 'select private.end_run(%s, %s::private."JobOutcome", %s, %s)'
            return _result(await one(fresh, ended, [run, "FAILED" if error else "DONE", Jsonb(result), error]))


async def _while_held(keeper: Connection, work: Awaitable[Any]) -> Any:
    """The result of the work, which is cancelled if the lock is lost."""
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


def _result(run: dict[str, Any]) -> Result[JobRun]:
    if run["outcome"] == "FAILED":
        log("ERROR", "job failed", job=run["job"], run=run["id"])
        raise ApiError(500, "job_failed", "The job failed", details=run["error"], hint="Its next run tries again.")
    return Result(json.dumps(run))
