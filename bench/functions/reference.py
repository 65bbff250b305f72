"""What the figures are ratios to: the least that functions-framework can do, and that with one INSERT.

The caller is always the same and nothing is validated. `insert` writes the row as we do: as a member of the
organization, whom the policies allow it. `insert_as_owner` shows what they cost: the table's owner has no policies.
`keep_event` is for the webhook.
"""

import json
import os

import functions_framework.aio
from psycopg_pool import AsyncConnectionPool
from starlette.requests import Request

INSERT = (
    "insert into public.activity_feeds"
    " (organization_id, user_id, type, title, entity_type, entity_id, action, metadata)"
    ' select %s::uuid, %s::uuid, %s::public."DashboardActivityType", %s, %s, %s, %s, %s::jsonb'
    " from (select set_config('request.jwt.claims', %s, true)) as entered returning id"
)
INSERT_AS_OWNER = (
    "insert into public.activity_feeds"
    " (organization_id, user_id, type, title, entity_type, entity_id, action, metadata)"
    " values (%s, %s, %s, %s, %s, %s, %s, %s) returning id"
)
# The least that a webhook can do: no verification, no parsing, no effects.
KEEP = (
    "insert into public.stripe_events (id, type, created, livemode, payload, status)"
    " select e ->> 'id', e ->> 'type', to_timestamp((e ->> 'created')::bigint), false, e, 'IGNORED'"
    " from (select %s::jsonb) as sent (e) on conflict (id) do nothing"
)
_pool: AsyncConnectionPool | None = None


@functions_framework.aio.http
async def hello(_request: Request) -> dict[str, str]:
    return {"hello": "world"}


@functions_framework.aio.http
async def insert(request: Request) -> dict[str, str]:
    entry = await request.json()
    return await _run(INSERT, (*_values(entry), os.environ["CLAIMS"]))


@functions_framework.aio.http
async def insert_as_owner(request: Request) -> dict[str, str]:
    entry = await request.json()
    return await _run(INSERT_AS_OWNER, _values(entry))


@functions_framework.aio.http
async def keep_event(request: Request) -> dict[str, bool]:
    sent = await request.body()
    async with (await _opened()).connection() as connection:
        await connection.execute(KEEP, [sent.decode()])
    return {"received": True}


def _values(entry: dict[str, str]) -> tuple[str, ...]:
    return (
        os.environ["ORGANIZATION"], os.environ["PERSON"], entry["type"], entry["title"],
        entry["entity_type"], entry["entity_id"], entry["action"], json.dumps(entry["metadata"]),
    )  # fmt: skip


async def _run(statement: str, values: tuple[str, ...]) -> dict[str, str]:
    async with (await _opened()).connection() as connection:
        row = await (await connection.execute(statement, values)).fetchone()
    assert row
    return {"id": str(row[0])}


async def _opened() -> AsyncConnectionPool:
    global _pool  # noqa: PLW0603 - functions-framework has no start to open it in
    if _pool is None:
        connections = {"autocommit": True}
        _pool = AsyncConnectionPool(os.environ["DATABASE_URL"], kwargs=connections, min_size=16, open=False)
        await _pool.open()
    return _pool
