"""Column values as JSON, and the filters of subscriptions on them."""

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from local.api.realtime.pgoutput import UNCHANGED

BOOLEAN = 16
NUMBERS = {20, 21, 23, 26, 700, 701, 1700}
DOCUMENTS = {114, 3802}
TIMESTAMPS = {1114, 1184}
# Element types of the array types that appear in schemas.
ARRAYS = {1000: 16, 1005: 21, 1007: 23, 1016: 20, 1021: 700, 1022: 701, 1231: 1700, 199: 114, 3807: 3802}
ARRAYS |= {1115: 1114, 1185: 1184, 1009: 25, 1015: 1043, 2951: 2950, 1182: 1082}
JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z")
ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)')
FILTER = re.compile(r"([^=]+)=(not\.)?(eq|neq|lt|lte|gt|gte|in)\.(.*)\Z", re.DOTALL)


def as_json(text: object, kind: int) -> str:
    """What to_jsonb() makes of the value."""
    if text is None or not isinstance(text, str):
        return "null"
    if kind == BOOLEAN:
        return "true" if text == "t" else "false"
    if (kind in NUMBERS and JSON_NUMBER.match(text)) or kind in DOCUMENTS:
        return text
    if kind in TIMESTAMPS:
        zone = ":00" if kind == 1184 and re.search(r"[+-]\d\d\Z", text) else ""  # noqa: PLR2004 - timestamptz
        return json.dumps(text.replace(" ", "T", 1) + zone)
    if kind in ARRAYS and text.startswith("{"):
        return _array(text, ARRAYS[kind])
    return json.dumps(text, ensure_ascii=False)


def _array(text: str, element: int) -> str:
    out, at = [], 0
    while at < len(text):
        char = text[at]
        if char in "{},":
            out.append({"{": "[", "}": "]", ",": ","}[char])
            at += 1
            continue
        found = ITEM.match(text, at)
        if not found:
            return json.dumps(text, ensure_ascii=False)
        quoted, plain = found.groups()
        if quoted is not None:
            out.append(as_json(re.sub(r"\\(.)", r"\1", quoted), element))
        else:
            out.append("null" if plain == "NULL" else as_json(plain, element))
        at = found.end()
    return "".join(out)


@dataclass(frozen=True)
class Filter:
    column: str
    operator: str
    value: str  # as Postgres prints it, once the subscription was checked
    negated: bool = False
    values: tuple[str, ...] = ()  # of `in`

    def accepts(self, row: dict[str, object], types: dict[str, int]) -> bool:
        found = row.get(self.column)
        if not isinstance(found, str) or found is UNCHANGED:
            return False
        kind = types.get(self.column, 0)
        if self.operator == "in":
            fits = any(_compare(found, value, kind) == 0 for value in self.values)
        else:
            order = _compare(found, self.value, kind)
            fits = {
                "eq": order == 0,
                "neq": order != 0,
                "lt": order < 0,
                "lte": order <= 0,
                "gt": order > 0,
                "gte": order >= 0,
            }[self.operator]
        return fits is not self.negated


def _compare(left: str, right: str, kind: int) -> int:
    a: Any = left
    b: Any = right
    if kind in NUMBERS:
        try:
            a, b = Decimal(left), Decimal(right)
        except InvalidOperation:
            a, b = left, right
    return int(a > b) - int(a < b)


def parse_filters(text: str) -> list[Filter]:
    """`column=operator.value`, several separated by commas; raises ValueError with what is wrong."""
    if not text.strip():
        return []
    filters = []
    for part in _split(text.strip()):
        found = FILTER.match(part)
        if not found:
            raise ValueError(json.dumps(part.split("=", 1)[-1].split(".", 1)))
        column, negated, operator, value = found.groups()
        values: tuple[str, ...] = ()
        if operator == "in":
            if not (value.startswith("(") and value.endswith(")")):
                raise ValueError("`in` filter value must be wrapped by parentheses")
            values = tuple(each.strip().strip('"') for each in value[1:-1].split(","))
        filters.append(Filter(column, operator, value, bool(negated), values))
    return filters


def _split(text: str) -> list[str]:
    """At commas outside parentheses, where the next filter begins."""
    return re.split(r",(?![^(]*\))(?=[^,=]+=(?:not\.)?(?:eq|neq|lte?|gte?|in)\.)", text)
