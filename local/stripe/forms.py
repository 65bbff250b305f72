"""What goes in, `items[0][price]=…`, everything a text until its name says otherwise; and what goes out."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from local.stripe.account import Refused
from local.stripe.store import Object

WHOLE = frozenset(
    {"amount", "unit_amount", "quantity", "interval_count", "limit", "trial_end", "trial_period_days", "cancel_at"}
    | {"created", "expires_at", "exp_month", "exp_year", "gt", "gte", "lt", "lte"}
)
YES_OR_NO = frozenset(
    {"active", "cancel_at_period_end", "confirm", "off_session", "invoice_now", "prorate", "transfer_lookup_key"}
    | {"enabled", "disabled", "delivery_success", "auto_advance"}
)


@dataclass
class Answer:
    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"


def parse(text: str) -> Object:
    root: Object = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        first, *steps = [name.split("[")[0], *re.findall(r"\[([^\]]*)\]", name)]
        here, key = root, first
        for step in steps:
            here = here.setdefault(key, {})
            if not isinstance(here, dict):
                raise Refused(f"Invalid parameter: {name}", param=name)
            key = step or str(len(here))
        here[key] = value if "metadata" in (first, *steps[:-1]) else _typed(name, key, first, value)
    return {name: _listed(value) for name, value in root.items()}


def _typed(name: str, key: str, first: str, value: str) -> Any:
    word = first if key.isdigit() else key
    if value == "":
        return None
    if word in WHOLE and value != "now":
        if not re.fullmatch(r"-?\d+", value):
            raise Refused(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
        return int(value)
    if word in YES_OR_NO:
        if value not in {"true", "false"}:
            raise Refused(f"Invalid boolean: {value}", param=name)
        return value == "true"
    return value


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _listed(each) for name, each in value.items()}
    return list(inner.values()) if inner and all(name.isdigit() for name in inner) else inner


def check(given: Object, known: Iterable[str], needed: Iterable[str]) -> None:
    """A name nobody would read is an error here as it is there."""
    for name in given.keys() - set(known):
        raise Refused(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
    for name in needed:
        if given.get(name) is None:
            raise Refused(f"Missing required param: {name}.", code="parameter_missing", param=name)


def picked(given: Object, names: str) -> Object:
    return {name: given[name] for name in names.split() if name in given}


def merged(before: Object, given: Object | None) -> Object:
    """Metadata: named keys are set, empty ones taken away, the others stay."""
    if given is None:
        return {}
    return {name: value for name, value in (before | given).items() if value not in {"", None}}
