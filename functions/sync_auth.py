from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from shared.administration.operations import Errands, settle_errands
from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform_here


@function("secret")
async def sync_auth(call: Call[Nothing]) -> Answered[Run]:
    """Tell the auth service who is suspended or deleted, as far as it does not know yet.

    Up to 100 users a run, whoever has failed most last.
    """

    async def tell(connection: AsyncConnection[tuple[Any, ...]]) -> dict[str, int]:
        async def settle(told: Errands | None) -> Errands:
            payload = Jsonb({} if told is None else {"told": told})
            cursor = await connection.execute("select private.settle_auth_errands(%s) -> 'errands'", (payload,))
            row = await cursor.fetchone()
            return row[0] if row else []

        due = await settle(None)
        pending = await settle_errands(call.settings, due, settle)
        return {"told": len(due) - pending, "pending": pending}

    return await perform_here(call, "sync_auth", tell)
