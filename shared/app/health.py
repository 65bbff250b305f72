"""Liveness and readiness, for load balancers and deployments."""

import asyncio
import json
from copy import copy

from shared.app.responses import Response
from shared.database.pool import Database
from shared.database.version import MIGRATION
from shared.errors import ApiError


async def alive() -> Response:
    return Response(200, b'{"status": "alive"}')


class Readiness:
    """Anyone may ask: all who ask at the same time get one answer of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asking: asyncio.Task[Response] | None = None

    async def ready(self) -> Response:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(_ready(self._database))
        return copy(await asyncio.shield(self._asking))


async def _ready(database: Database) -> Response:
    found = await database.migration_version()
    if found is None or found < MIGRATION:
        raise ApiError(
            503,
            "migrations_missing",
            "The database lacks migrations that these functions need",
            details=f"Found migration {found}, need {MIGRATION}.",
            hint="Apply supabase/migrations.",
            headers={"retry-after": "5"},
        )
    return Response(200, json.dumps({"status": "ready", "migration": found}).encode())
