"""`python -m functions` serves on $HOST:$PORT until SIGTERM; `python -m functions openapi` prints the document."""

import gc
import json
import os
import sys

HIGHEST_PORT = 65535


def serve() -> None:
    gc.disable()  # start-up creates no garbage; the server turns collection on
    from functions_framework.aio import create_asgi_app_from_module  # noqa: PLC0415 - after gc.disable()

    from functions import main  # noqa: PLC0415 - after gc.disable()
    from shared.app import server  # noqa: PLC0415 - after gc.disable()

    port = os.environ.get("PORT") or "8080"
    if not port.isdecimal() or int(port) > HIGHEST_PORT:
        sys.exit(f"The functions cannot start. PORT: found {port!r}; expected a number up to {HIGHEST_PORT}.")
    app = create_asgi_app_from_module(main.target, main.__file__, "http", main, main.__spec__)  # type: ignore[no-untyped-call]  # the framework has no types
    server.serve(app, main.runtime, os.environ.get("HOST") or "127.0.0.1", int(port))


def describe() -> None:
    from functions import ALL, load  # noqa: PLC0415 - only this command needs it
    from shared.app.openapi import document  # noqa: PLC0415 - only this command needs it

    print(json.dumps(document("https://<project>.supabase.co", load(ALL)), indent=2, ensure_ascii=False))  # noqa: T201 - the command's answer


if sys.argv[1:] == ["openapi"]:
    describe()
else:
    serve()
