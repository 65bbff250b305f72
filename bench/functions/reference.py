"""What the figures are ratios to: the least that functions-framework can do, and that with one INSERT.

No caller is known, nothing is validated, no policy applies: the login owns the table.
"""

import json
import os

import functions_framework.aio
from psycopg_pool import AsyncConnectionPool
from starlette.requests import Request

INSERT = (
    "insert into public.activity_feeds"
    " (organization_id, user_id, type, title, entity_type, entity_id, action, metadata)"
    " values (%s, %s, %s, %s, %s, %s, %s, %s) returning id"
)
_pool: AsyncConnectionPool | None = None


@functions_framework.aio.http
async def hello(_request: Request) -> dict[str, str]:
    return {"hello": "world"}


@functions_framework.aio.http
async def insert(request: Request) -> dict[str, str]:
    global _pool  # noqa: PLW0603 - functions-framework has no start to open it in
    if _pool is None:
        connections = {"autocommit": True}
        _pool = AsyncConnectionPool(os.environ["DATABASE_URL"], kwargs=connections, min_size=16, open=False)
        await _pool.open()
    entry = await request.json()
    async with _pool.connection() as connection:
        cursor = await connection.execute(
            INSERT,
            (
                os.environ["ORGANIZATION"], os.environ["PERSON"], entry["type"], entry["title"],
                entry["entity_type"], entry["entity_id"], entry["action"], json.dumps(entry["metadata"]),
            ),
        )  # fmt: skip
        row = await cursor.fetchone()
    assert row
    return {"id": str(row[0])}
