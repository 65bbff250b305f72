"""The functions: one module each, named as its URL, and the jobs in functions/jobs.py."""

import importlib
import pkgutil
from collections.abc import Iterator

from shared.app.function import Function
from shared.schema import JOBS
from shared.settings import SettingsError

ALL = "strive"


def names() -> list[str]:
    modules = {module.name for module in pkgutil.iter_modules(__path__)} - {"main", "__main__", "jobs"}
    return sorted(modules | JOBS.keys())


def load(target: str) -> Iterator[Function]:
    """The function that the deployment names, or all of them. Only what is served is imported."""
    if target not in {ALL, *names()}:
        raise SettingsError("FUNCTION_TARGET", target, f"{ALL} or one of {', '.join(names())}")
    for name in names() if target == ALL else [target]:
        if name in JOBS:
            yield importlib.import_module("functions.jobs").load(name)
        else:
            yield getattr(importlib.import_module(f"functions.{name}"), name)
