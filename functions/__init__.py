"""The functions. Each module here is one, named as its URL; it is found, routed and documented by being here."""

import importlib
import pkgutil
from collections.abc import Iterator

from shared.app.function import Function
from shared.settings import SettingsError

ALL = "strive"


def names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name not in {"main", "__main__"}]


def load(target: str) -> Iterator[Function]:
    """The function that the deployment names, or all of them. Nothing is imported that is not served."""
    if target not in {ALL, *names()}:
        raise SettingsError("FUNCTION_TARGET", target, f"{ALL} or one of {', '.join(names())}")
    for name in names() if target == ALL else [target]:
        yield getattr(importlib.import_module(f"functions.{name}"), name)
