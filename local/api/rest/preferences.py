"""The Prefer header."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from local.api.rest.errors import RestError
from local.api.rest.ranges import integer

VALUES = {
    "resolution": ("merge-duplicates", "ignore-duplicates"),
    "missing": ("default", "null"),
    "return": ("representation", "minimal", "headers-only"),
    "count": ("exact", "planned", "estimated"),
    "tx": ("commit", "rollback"),
    "handling": ("strict", "lenient"),
}
KNOWN = {f"{name}={value}": (name, value) for name, values in VALUES.items() for value in values}


@dataclass
class Preferences:
    chosen: dict[str, str] = field(default_factory=dict)
    timezone: str | None = None
    max_affected: int | None = None
    invalid: list[str] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        return self.chosen.get(name)

    @property
    def strict(self) -> bool:
        return self.get("handling") == "strict"

    @property
    def representation(self) -> bool:
        return self.get("return") == "representation"

    @property
    def counts(self) -> bool:
        """Whether rows are counted; `planned` only estimates."""
        return self.get("count") in {"exact", "estimated"}

    def refuse_invalid(self) -> None:
        if self.strict and self.invalid:
            details = f"Invalid preferences: {', '.join(self.invalid)}"
            raise RestError(400, "PGRST122", "Invalid preferences given with handling=strict", details)

    def applied(self, *names: str) -> dict[str, str]:
        """The header Preference-Applied for those that were heeded; `names` are those that not every request heeds."""
        always = {"count", "tx", "handling"}
        applied = [
            f"{name}={self.chosen[name]}"
            for name in ("resolution", "missing", "return", "count", "tx", "handling")
            if name in self.chosen and (name in always or name in names)
        ]
        if self.timezone is not None:
            applied.append(f"timezone={self.timezone}")
        if self.strict and self.max_affected is not None and "max-affected" in names:
            applied.append(f"max-affected={self.max_affected}")
        return {"preference-applied": ", ".join(applied)} if applied else {}


def read_preferences(headers: Iterable[str], timezones: frozenset[str], *, tx: bool) -> Preferences:
    """Of each kind the first counts; `tx`: whether a client may decide on commit or rollback."""
    found = Preferences()
    given = [part.strip() for header in headers for part in (header.split(",") if header else [])]
    zone = next((part.removeprefix("timezone=") for part in given if part.startswith("timezone=")), None)
    found.timezone = zone if zone in timezones else None
    limit = next((part.removeprefix("max-affected=") for part in given if part.startswith("max-affected=")), "")
    found.max_affected = integer(limit)
    for part in given:
        name, value = KNOWN.get(part, ("", ""))
        if name:
            found.chosen.setdefault(name, value)
        elif not part.startswith("max-affected=") and not (part.startswith("timezone=") and found.timezone):
            found.invalid.append(part)
    if not tx:
        found.chosen.pop("tx", None)
    return found
