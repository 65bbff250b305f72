"""`python -m functions`: serve on $HOST:$PORT until SIGTERM, with limits a server on the open network needs."""

import os
import sys

from functions_framework.aio import create_asgi_app_from_module

from functions import main
from shared.server import serve

HIGHEST_PORT = 65535


def port() -> int:
    text = os.environ.get("PORT") or "8080"
    if not text.isdecimal() or int(text) > HIGHEST_PORT:
        sys.exit(f"The functions cannot start. PORT: found {text!r}; expected a number up to {HIGHEST_PORT}.")
    return int(text)


app = create_asgi_app_from_module(main.target, main.__file__, "http", main, main.__spec__)  # type: ignore[no-untyped-call]
serve(app, main.runtime, os.environ.get("HOST") or "127.0.0.1", port())
