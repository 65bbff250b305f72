"""The entry file for functions-framework: each function is a target by its own name, `strive` serves them all."""

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import functions_framework.aio
from starlette.requests import Request

# functions-framework runs this file from anywhere; `functions` and `shared` are found beside it.
ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.append(ROOT)

from shared import logs  # noqa: E402
from shared.answers import Answer  # noqa: E402
from shared.function import Function  # noqa: E402
from shared.runtime import Runtime  # noqa: E402
from shared.settings import Settings, SettingsError  # noqa: E402

ALL = "strive"
logs.begin()


def names() -> list[str]:
    """Every module beside this one is a function, in the name of its file."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return [name for name in found if name not in {"main", "__main__"}]


def load(target: str) -> Iterator[Function]:
    for name in names() if target == ALL else [target]:
        if name not in names():
            raise SettingsError("FUNCTION_TARGET", name, f"{ALL} or one of {', '.join(names())}")
        yield getattr(importlib.import_module(f"functions.{name}"), name)


target = os.environ.get("FUNCTION_TARGET") or ALL
try:
    runtime = Runtime(Settings.read(os.environ), list(load(target)))
except SettingsError as error:
    sys.exit(f"The functions cannot start. {error}")


async def serve(request: Request) -> Answer:
    return await runtime.answer(request)


serve.__name__ = target
globals()[target] = functions_framework.aio.http(serve)
