"""Column values as JSON, and the filters of subscriptions on them."""

import json
import re
from contextlib import suppress
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
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
SEGMENT = re.compile(r'(?<=[.(,])"(?:[^"\\]|\\.)*"|.', re.DOTALL)
ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)')
COMPARISONS = ("eq", "neq", "lt", "lte", "gt", "gte", "isdistinct", "in", "is")
PATTERNS = ("like", "ilike", "match", "imatch")  # Postgres evaluates them
KEYWORDS = {"null": None, "unknown": None, "true": "t", "false": "f"}  # what `is` asks for


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

    @property
    def is_pattern(self) -> bool:
        return self.operator in PATTERNS

    def accepts(self, row: dict[str, object], types: dict[str, int]) -> bool:
        """A comparison with null accepts no row, negated or not."""
        found = row.get(self.column, UNCHANGED)
        if self.operator in {"is", "isdistinct"} and found is not UNCHANGED:
            return self._is(found, types) is not self.negated
        if not isinstance(found, str):
            return False
        return self.is_pattern or self._compares(found, types) is not self.negated

    def _is(self, found: object, types: dict[str, int]) -> bool:
        if self.operator == "is":
            return found == KEYWORDS[self.value]
        return not isinstance(found, str) or self._order(found, self.value, types) != 0

    def _compares(self, found: str, types: dict[str, int]) -> bool:
        if self.operator == "in":
            return any(self._order(found, value, types) == 0 for value in self.values)
        order = self._order(found, self.value, types)
        return {
            "eq": order == 0,
            "neq": order != 0,
            "lt": order < 0,
            "lte": order <= 0,
            "gt": order > 0,
            "gte": order >= 0,
        }[self.operator]

    def _order(self, left: str, right: str, types: dict[str, int]) -> int:
        a: Any = left
        b: Any = right
        if types.get(self.column, 0) in NUMBERS:
            with suppress(InvalidOperation):
                a, b = Decimal(left), Decimal(right)
        return int(a > b) - int(a < b)


def parse_filters(text: str) -> list[Filter]:
    """`column=operator.value`, several separated by commas; raises ValueError with what is wrong."""
    return [_filter(part.strip()) for part in _split(text)] if text.strip() else []


def _filter(part: str) -> Filter:
    if not part:
        raise ValueError("filter must not contain empty segments (check for extra commas)")
    column, equals, rest = part.partition("=")
    negated, rest = rest.startswith("not."), rest.removeprefix("not.")
    operator, dot, value = rest.partition(".")
    if not equals or not dot or operator not in COMPARISONS + PATTERNS:
        raise ValueError(json.dumps([operator, value] if dot else [rest or part]))
    if operator == "in":
        if not (value.startswith("(") and value.endswith(")")):
            raise ValueError("`in` filter value must be wrapped by parentheses")
        value = "{" + value[1:-1] + "}"
    elif quoted := QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
    return Filter(column, operator, value, negated)


def _split(text: str) -> list[str]:
    """At commas outside parentheses and quotes; a quote begins a value."""
    parts, depth = [""], 0
    for found in SEGMENT.finditer(text):
        piece = found[0]
        if piece == "," and depth == 0:
            parts.append("")
            continue
        depth = max(0, depth + {"(": 1, ")": -1}.get(piece, 0))
        parts[-1] += piece
    return parts
