"""Which function serves a path."""

from collections.abc import Sequence

from shared.app.function import Function
from shared.settings import Settings, SettingsError

BASE = "/functions/v1"
LONGEST_PATH = 100  # that is compared and repeated in errors


class Routes:
    def __init__(self, functions: Sequence[Function], *, alone: bool) -> None:
        """`alone`: the only function of this process also has the path `/`."""
        self.functions = {f"{BASE}/{each.name}": each for parent in functions for each in (parent, *parent.children)}
        if alone:
            prefix = f"{BASE}/{functions[0].name}"
            self.functions |= {path.removeprefix(prefix) or "/": each for path, each in self.functions.items()}
        # Paths that end in a value of the caller's choice, by what comes before it.
        self._open_ended = {path.rpartition("/")[0]: each for path, each in self.functions.items() if path[-1] == "}"}

    def find(self, path: str) -> tuple[Function | None, str]:
        """The function and the value that the path ends in."""
        if (function := self.functions.get(path)) is not None:
            return function, ""
        before, _, value = path.rpartition("/")
        return (self._open_ended.get(before) if value else None), value

    def similar(self, path: str) -> str:
        """Names the function that a misspelled path may have meant."""
        from difflib import get_close_matches  # noqa: PLC0415 - only for a path that does not exist

        found = get_close_matches(path, self.functions, 1, 0.8) if len(path) <= LONGEST_PATH else []
        return f"Perhaps you meant {found[0]}. " if found else ""


def check_callable(settings: Settings, function: Function) -> None:
    """Stop a deployment in which a function needs a key that no setting has."""
    kinds = {mode.partition(":")[0] for mode in function.auth}
    for kind, keys, variable in (
        ("publishable", settings.publishable_keys, "SUPABASE_PUBLISHABLE_KEYS"),
        ("secret", settings.secret_keys, "SUPABASE_SECRET_KEYS"),
    ):
        if kinds == {kind} and not keys:
            raise SettingsError(variable, "nothing", f"the keys with which {function.name} is called")
