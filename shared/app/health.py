"""Liveness and readiness, for load balancers and deployments."""

import json

from shared.app.responses import Response
from shared.database.pool import Database
from shared.database.version import MIGRATION
from shared.errors import ApiError


async def alive() -> Response:
    return Response(200, b'{"status": "alive"}')


async def ready(database: Database) -> Response:
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
