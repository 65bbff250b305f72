from functools import partial
from typing import Any

from shared.administration.services import services
from shared.app.function import Answered, Call, function
from shared.jobs import Connection, Nothing, Run, perform_here

AT_ONCE = 100


@function("secret")
async def sync_attachments(call: Call[Nothing]) -> Answered[Run]:
    """Bring files and their rows into step.

    Files of deleted rows, organisations and users are deleted, files without a row get one, rows without a file go, and
    so do those that waited a day for theirs.
    """
    return await perform_here(call, "sync_attachments", partial(_sync, call))


async def _sync(call: Call[Nothing], connection: Connection) -> dict[str, int]:
    counts: dict[str, int] = await _one(connection, "select private.repair_attachments()")
    counts["deleted"] = 0
    async with services(call.settings) as asked:
        while claimed := await _one(connection, "select private.claim_doomed_objects(%s)", AT_ONCE):
            gone = 0
            for bucket, names in claimed.items():
                await asked.remove(bucket, names)
                gone += await _one(connection, "select private.forget_doomed_objects(%s, %s)", bucket, names)
            if not gone:
                raise RuntimeError("the storage service deletes nothing of what it is asked to")
            counts["deleted"] += gone
    return counts


async def _one(connection: Connection, statement: str, *values: Any) -> Any:
    cursor = await connection.execute(statement, values)
    (value,) = await cursor.fetchone() or (None,)
    return value
