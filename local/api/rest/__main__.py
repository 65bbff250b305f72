"""The data API by itself, as a bare PostgREST: no API key, paths without /rest/v1. See README.md."""

import asyncio
import os
import sys
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from local.api.database import Pool
from local.api.rest.app import Rest
from local.api.settings import Environment, SettingsError, read_keys, read_rest_settings
from local.api.tokens import Tokens


async def serve() -> None:
    environment = Environment(os.environ)
    settings = read_rest_settings(os.environ, hosted=False)
    keys = read_keys(Path(os.environ["KEYS_FILE"])) if "KEYS_FILE" in os.environ else {}
    tokens = Tokens(keys.get("jwt_secret") or environment.required("JWT_SECRET"), keys.get("jwk"))
    pool = Pool("authenticator", settings.database_url, environment.number("DB_POOL_SIZE", 10))
    rest = Rest(settings, pool, tokens)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await rest.respond(Request(scope, receive))
        await response(scope, receive, send)

    port = environment.number("PORT", 3000)
    config = uvicorn.Config(app, port=port, lifespan="off", log_level="warning", access_log=False, server_header=False)
    await rest.open()
    await uvicorn.Server(config).serve()
    await rest.close()
    await pool.close()


try:
    asyncio.run(serve())
except SettingsError as error:
    sys.exit(f"The data API can't start: {error}")
