"""The query string of the data API: `select`, filters, logic, `order`, `limit`, `offset`, `columns`, `on_conflict`."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import TypeVar
from urllib.parse import quote, unquote_to_bytes

from local.api.rest.errors import RestError
from local.api.rest.grammar import (
    Condition,
    Field,
    Filter,
    Grammar,
    Operation,
    OrderTerm,
    Path,
    SelectField,
    SelectItem,
)
from local.api.rest.parsec import NoParse, describe, too_large
from local.api.rest.ranges import ALL, Range, integer

T = TypeVar("T")

TEXT_LIMIT = 64 * 1024
REMEMBERED_LENGTH = 1000
PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
MAYBE_OPERATION = re.compile(r"[a-z]+(\(.*\))?\.")
PLAIN_OPERATION = re.compile(r"(not\.)?(eq|neq|gte?|lte?|i?like)\.(.*)\Z", re.DOTALL)


@dataclass
class Query:
    """`filters` and what is beside it carry the path of the embedded relation they are about, () for the root."""

    select: tuple[SelectItem, ...] = (SelectField(Field("*")),)
    filters: list[tuple[Path, Filter]] = field(default_factory=list)
    parameters: list[tuple[str, str]] = field(default_factory=list)
    logic: list[tuple[Path, Condition]] = field(default_factory=list)
    order: list[tuple[Path, tuple[OrderTerm, ...]]] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)
    columns: frozenset[str] | None = None
    on_conflict: tuple[str, ...] | None = None
    filter_fields: frozenset[str] = frozenset()
    canonical: str = ""


def _parse(what: str, text: str, parser: Callable[[Grammar], T], *, over: str | None = None) -> T:
    grammar = Grammar(over if over is not None else text)
    if len(text) > TEXT_LIMIT:
        raise too_large(f"A parameter is longer than {TEXT_LIMIT} characters")
    try:
        return parser(grammar)
    except NoParse as error:
        message, details = describe(f"failed to parse {what} ({text})", grammar.text, error.errors)
        raise RestError(400, "PGRST100", message, details) from None


def _remember(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Clients send the same texts again and again; long ones aren't kept."""
    cached = lru_cache(maxsize=512)(parse)
    return lambda text: cached(text) if len(text) <= REMEMBERED_LENGTH else parse(text)


@_remember
def _select(text: str) -> tuple[SelectItem, ...]:
    return _parse("select parameter", text, Grammar.select)


@_remember
def _order(text: str) -> tuple[OrderTerm, ...]:
    return _parse("order", text, Grammar.order)


@_remember
def _tree_path(text: str) -> tuple[Path, Field]:
    if PLAIN_NAME.match(text):
        return (), Field(text)
    return _parse("tree path", text, Grammar.tree_path)


def _operation(text: str, *, or_parameter: bool) -> Operation:
    plain = PLAIN_OPERATION.match(text)
    if plain:
        kind = "simple" if plain[2] == "neq" else "quantified"
        return Operation(plain[1] is not None, kind, plain[2], plain[3])
    parameter = Operation(False, "parameter", "", text)
    if or_parameter and not MAYBE_OPERATION.match(text):
        return parameter

    def parser(grammar: Grammar) -> Operation:
        def operation() -> Operation:
            return grammar.operation(grammar.single_value)

        return grammar.either(operation, lambda: parameter) if or_parameter else operation()

    return _parse("filter", text, parser)


def read_pairs(text: str) -> list[tuple[str, str | None]]:
    """The pairs of a query string or a form; None is the value of a name without `=`."""
    parts = re.split("[&;]", text)
    if not parts[-1]:
        parts.pop()
    split = (part.partition("=") for part in parts)
    return [(_decoded(name), _decoded(value) if equals else None) for name, equals, value in split]


def _canonical(pairs: list[tuple[str, str | None]]) -> str:
    """The parameters by name, those of one name joined."""
    values: dict[str, list[str]] = {}
    for name, value in sorted(pairs, key=itemgetter(0)):
        values.setdefault(name, []).append(_encoded(value or ""))
    return "&".join(f"{_encoded(name)}={','.join(each)}" for name, each in values.items())


def _encoded(text: str) -> str:
    """As PostgREST does, each byte is encoded as if it were a character."""
    return quote(text if text.isascii() else text.encode().decode("latin-1"), safe="")


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return unquote_to_bytes(text.replace("+", " ").encode()).decode(errors="replace")


def parse_query(text: str, *, parameters: bool = False) -> Query:
    """`parameters`: what is no operation is an argument of the function called by GET."""
    pairs = read_pairs(text)
    sorted_pairs = _sort(pairs)
    query = Query(canonical=_canonical(pairs))
    query.order = [(_tree_path(name)[0], _order(value)) for name, value in sorted_pairs.order]
    query.logic = [_logic(name, value) for name, value in sorted_pairs.logic]
    first = dict(reversed(pairs))
    columns, select, on_conflict = (first.get(name) for name in ("columns", "select", "on_conflict"))
    if columns is not None:
        query.columns = frozenset(_parse("columns parameter", columns, Grammar.columns))
    if select is not None:
        query.select = _select(select)
    for name, value in sorted_pairs.filters:
        path, chosen = _tree_path(name)
        operation = _operation(value, or_parameter=parameters)
        if operation.kind == "parameter":
            query.parameters.append((chosen.name, value))
        else:
            query.filters.append((path, Filter(chosen, operation)))
    if on_conflict is not None:
        query.on_conflict = _parse("on_conflict parameter", on_conflict, Grammar.columns)
    query.filter_fields = frozenset(name for name, _ in sorted_pairs.filters)
    query.ranges = sorted_pairs.ranges()
    return query


@dataclass
class _Sorted:
    """The parameters by the last part of their names; those without `=` don't count."""

    filters: list[tuple[str, str]] = field(default_factory=list)
    logic: list[tuple[str, str]] = field(default_factory=list)
    order: list[tuple[str, str]] = field(default_factory=list)
    limits: dict[str, Range] = field(default_factory=dict)
    offsets: dict[str, Range] = field(default_factory=dict)

    def ranges(self) -> dict[str, Range]:
        both = {name: self.limits[name].shifted(offset) for name, offset in self.offsets.items() if name in self.limits}
        return {**self.limits, **self.offsets, **both}


def _sort(pairs: list[tuple[str, str | None]]) -> _Sorted:
    found = _Sorted()
    for name, value in pairs:
        if value is None:
            continue
        head, _, last = name.rpartition(".")
        if last == "order":
            found.order.append((name, value))
        elif last in {"and", "or"}:
            found.logic.append((name, value))
        elif last == "limit":
            found.limits[name] = ALL.limited(integer(value))
        elif last == "offset":
            found.offsets[f"{head}.limit" if head else "limit"] = ALL.starting(integer(value))
        elif name not in {"select", "columns", "on_conflict"}:
            found.filters.append((name, value))
    return found


def range_path(name: str) -> Path:
    """The path of the relation whose `limit` this is."""
    return _tree_path(name)[0]


def _logic(name: str, value: str) -> tuple[Path, Condition]:
    path, operator = _parse("logic path", name, Grammar.logic_path)
    return path, _parse("logic tree", value, Grammar.logic, over=operator + value)
