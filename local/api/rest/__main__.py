"""The data API by itself, as a bare PostgREST: no API key, paths without /rest/v1. See README.md."""

import asyncio
import os
import sys
from pathlib import Path

import uvicorn
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from local.api.rest.app import Rest
from local.api.settings import Environment, SettingsError, read_keys, read_rest_settings
from local.api.tokens import Tokens


async def serve() -> None:
    environment = Environment(os.environ)
    settings = read_rest_settings(os.environ, hosted=False)
    keys = read_keys(Path(os.environ["KEYS_FILE"])) if "KEYS_FILE" in os.environ else {}
    tokens = Tokens(keys.get("jwt_secret") or environment.required("JWT_SECRET"), keys.get("jwk"))
    pool = AsyncConnectionPool(
        settings.database_url,
        connection_class=AsyncConnection,
        kwargs={"autocommit": True, "options": "-c timezone=UTC"},
        min_size=1,
        max_size=environment.number("DB_POOL_SIZE", 10),
        open=False,
    )
    async with pool:
        rest = Rest(settings, pool, tokens)
        await rest.open()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await rest.respond(Request(scope, receive))
            await response(scope, receive, send)

        port = environment.number("PORT", 3000)
        config = uvicorn.Config(
            app, port=port, lifespan="off", log_level="warning", access_log=False, server_header=False
        )
        await uvicorn.Server(config).serve()
        await rest.close()


try:
    asyncio.run(serve())
except SettingsError as error:
    sys.exit(f"The data API can't start: {error}")
