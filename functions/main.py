"""The entry file for functions-framework: each function is a target by its own name, `strive` serves them all."""

import os
import sys
from pathlib import Path

import functions_framework.aio
from starlette.requests import Request

# functions-framework runs this file wherever it is; `functions` and `shared` are in the folder above.
if (root := str(Path(__file__).resolve().parent.parent)) not in sys.path:
    sys.path.append(root)

from functions import ALL, load
from shared import logs
from shared.app.responses import Response
from shared.app.runtime import Runtime
from shared.settings import Settings, SettingsError

logs.begin()
target = os.environ.get("FUNCTION_TARGET") or ALL
try:
    runtime = Runtime(Settings.read(os.environ), list(load(target)), alone=target != ALL)
except SettingsError as error:
    sys.exit(f"The functions cannot start. {error}")


async def serve(request: Request) -> Response:
    return await runtime.respond(request)


serve.__name__ = target
globals()[target] = functions_framework.aio.http(serve)  # type: ignore[arg-type]  # any ASGI response will do
