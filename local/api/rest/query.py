"""The query string of the data API: `select`, filters, logic, `order`, `limit`, `offset`, `columns`, `on_conflict`."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from local.api.rest.errors import RestError
from local.api.rest.parsec import NoParse, Parser, describe
from local.api.rest.ranges import ALL, Range

T = TypeVar("T")

# Bounds of one request; a real PostgREST has none.
DEPTH_LIMIT = 24
EMBED_LIMIT = 100
TEXT_LIMIT = 64 * 1024

IDENTIFIER = re.compile(r"(?:[^\W\d_]|[0-9_ $])+")
IDENTIFIER_LABELS = ("letter", "digit")
JSON_KEY = re.compile(r"[^(\-:.,>)]+")
BLANKS = re.compile(r"[ \t]*")
DIGITS = re.compile(r"[0-9]+")
LIST_ELEMENT = re.compile(r"[^,)]*")
QUOTED_PART = re.compile(r'[^\\"]+')
BRACELESS = re.compile(r"[^{}]*")
ANYTHING = re.compile(r".*", re.DOTALL)
PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
PLAIN_OPERATION = re.compile(r"(not\.)?(eq|neq|gte?|lte?|i?like)\.(.*)\Z", re.DOTALL)
INTEGER = re.compile(r"\s*\(*\s*(-?\s*[0-9]{1,40})\s*\)*\s*\Z")

SIMPLE_OPERATORS = {
    "neq": "<>",
    "cs": "@>",
    "cd": "<@",
    "ov": "&&",
    "sl": "<<",
    "sr": ">>",
    "nxr": "&<",
    "nxl": "&>",
    "adj": "-|-",
}
QUANTIFIABLE_OPERATORS = {
    "eq": "=",
    "gte": ">=",
    "gt": ">",
    "lte": "<=",
    "lt": "<",
    "like": "like",
    "ilike": "ilike",
    "match": "~",
    "imatch": "~*",
}
SEARCH_FUNCTIONS = {
    "fts": "to_tsquery",
    "plfts": "plainto_tsquery",
    "phfts": "phraseto_tsquery",
    "wfts": "websearch_to_tsquery",
}
IS_VALUES = {"null": "NULL", "not_null": "NOT NULL", "true": "TRUE", "false": "FALSE", "unknown": "UNKNOWN"}
AGGREGATES = ("sum", "avg", "count", "max", "min")


class JsonStep(NamedTuple):
    arrow: str  # -> or ->>
    operand: str
    is_index: bool


class Field(NamedTuple):
    name: str
    path: tuple[JsonStep, ...] = ()


class Operation(NamedTuple):
    negated: bool
    kind: str  # simple, quantified, in, is, distinct, search; or parameter: no operation, the argument of a function
    operator: str
    value: str | tuple[str, ...]
    option: str | None = None  # any or all; the language of a search


class Filter(NamedTuple):
    field: Field
    operation: Operation


class Logic(NamedTuple):
    negated: bool
    operator: str  # and, or
    children: "tuple[Filter | Logic, ...]"


class SelectField(NamedTuple):
    field: Field
    alias: str | None = None
    cast: str | None = None
    aggregate: str | None = None


class SelectRelation(NamedTuple):
    name: str
    alias: str | None
    hint: str | None
    inner: bool
    spread: bool
    children: "tuple[SelectField | SelectRelation, ...]"


SelectItem = SelectField | SelectRelation


class OrderTerm(NamedTuple):
    field: Field
    relation: str | None
    direction: str  # "", ASC, DESC
    nulls: str


Path = tuple[str, ...]
Condition = Filter | Logic


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


class Grammar(Parser):
    """PostgREST's grammar, alternative by alternative in its order: its error messages depend on that."""

    depth = 0
    embeds = 0

    # Names ------------------------------------------------------------------------------------------------------------

    def lexeme(self, parser: Callable[[], T]) -> T:
        self.run(BLANKS)
        value = parser()
        self.run(BLANKS)
        return value

    def identifier(self) -> str:
        return self.run(IDENTIFIER, IDENTIFIER_LABELS, least=1).strip()

    def quoted(self) -> str:
        def part() -> str:
            return self.either(lambda: self.run(QUOTED_PART, least=1), escaped)

        def escaped() -> str:
            self.char("\\")
            return self.satisfy(lambda _char: True)

        self.char('"')
        parts = self.many(part)
        self.char('"')
        return "".join(parts)

    def dashed(self, part: Callable[[], str]) -> str:
        def dash() -> None:
            self.char("-")
            self.not_followed_by(lambda: self.char(">"))

        return "-".join(self.separated(part, lambda: self.attempt(dash)))

    def name(self) -> str:
        return self.either(self.quoted, lambda: self.dashed(self.identifier), label="field name (* or [a..z0..9_$])")

    def delimiter(self) -> None:
        self.either(lambda: self.char("."), label="delimiter (.)")

    def json_path(self) -> tuple[JsonStep, ...]:
        return tuple(self.many(self._json_step))

    def _json_step(self) -> JsonStep:
        arrow = self.either(
            lambda: self.attempt(lambda: self.string("->>")), lambda: self.attempt(lambda: self.string("->"))
        )
        operand, is_index = self.either(lambda: self.attempt(self._json_index), lambda: self.attempt(self._json_key))
        return JsonStep(arrow, operand, is_index)

    def _json_index(self) -> tuple[str, bool]:
        sign = self.optional(lambda: self.char("-")) or ""
        digits = self.run(DIGITS, ("digit",), least=1)
        self._before("->", "::", ".", ",")
        return sign + digits, True

    def _json_key(self) -> tuple[str, bool]:
        def part() -> str:
            return self.run(JSON_KEY, least=1).strip()

        label = "any non reserved character different from: .,>()"
        return self.either(self.quoted, lambda: self.dashed(part), label=label), False

    def _before(self, *words: str) -> None:
        """One of the words, or the end, comes next."""

        def comes(word: str) -> Callable[[], None]:
            def ahead() -> None:
                self.look_ahead(lambda: self.string(word))

            return ahead

        self.either(*(comes(word) for word in words), self.end)

    def field(self) -> Field:
        return self.lexeme(lambda: Field(self.name(), self.json_path()))

    def tree_path(self) -> tuple[Path, Field]:
        names = self.separated(self.name, self.delimiter)
        return tuple(names[:-1]), Field(names[-1], self.json_path())

    def columns(self) -> tuple[str, ...]:
        return tuple(self.separated(self.name, lambda: self.lexeme(lambda: self.char(","))))

    # select -----------------------------------------------------------------------------------------------------------

    def select(self) -> tuple[SelectItem, ...]:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise too_large(f"Resources are embedded more than {DEPTH_LIMIT} levels deep")
        found = self.separated(self._select_item, lambda: self.lexeme(lambda: self.char(",")), least=0)
        self.depth -= 1
        return tuple(found)

    def _select_item(self) -> SelectItem:
        return self.either(
            lambda: self._embedded(lambda: self.lexeme(self._spread)),
            lambda: self._embedded(lambda: self.lexeme(self._relation)),
            lambda: self.lexeme(self._select_field),
        )

    def _embedded(self, head: Callable[[], SelectRelation]) -> SelectItem:
        relation = self.attempt(head)
        self.embeds += 1
        if self.embeds > EMBED_LIMIT:
            raise too_large(f"More than {EMBED_LIMIT} resources are embedded")
        self.char("(")
        children = self.select()
        self.char(")")
        return relation._replace(children=children)

    def _spread(self) -> SelectRelation:
        self.string("...")
        name = self.name()
        hint, inner = self._embed_parameters()
        self.look_ahead(lambda: self.string("("))
        return SelectRelation(name, None, hint, inner, True, ())

    def _relation(self) -> SelectRelation:
        alias = self._alias()
        name = self.name()
        if name == "count":  # count() is an aggregate
            raise NoParse(self.errors) if self.errors else self._fail(self.at)
        hint, inner = self._embed_parameters()
        self.look_ahead(lambda: self.string("("))
        return SelectRelation(name, alias, hint, inner, False, ())

    def _alias(self) -> str | None:
        def named() -> str:
            name = self.name()
            self.char(":")
            self.not_followed_by(lambda: self.char(":"))
            return name

        return self.optional(lambda: self.attempt(named))

    def _embed_parameters(self) -> tuple[str | None, bool]:
        """The hint and whether the join is an inner one."""

        def parameter() -> tuple[str, str]:
            self.char("!")
            return self.either(
                lambda: ("join", self.attempt(lambda: self.string("left"))),
                lambda: ("join", self.attempt(lambda: self.string("inner"))),
                lambda: ("hint", self.attempt(self.name)),
            )

        given = [each for each in (self.optional(parameter), self.optional(parameter)) if each]
        hint = next((value for kind, value in given if kind == "hint"), None)
        join = next((value for kind, value in given if kind == "join"), None)
        return hint, join == "inner"

    def _select_field(self) -> SelectField:
        return self.either(lambda: self.attempt(self._star), lambda: self.attempt(self._count), self._column)

    def _star(self) -> SelectField:
        self.string("*")
        self._before(")", ",")
        return SelectField(Field("*"))

    def _count(self) -> SelectField:
        alias = self._alias()
        self.string("count()")
        self.optional(self._cast)
        self._before(")", ",")
        return SelectField(Field("*"), alias, None, "count")

    def _column(self) -> SelectField:
        alias = self._alias()
        chosen = self.field()
        cast = self.optional(self._cast)
        aggregate = self.optional(lambda: self.attempt(self._aggregate))
        self.optional(self._cast)
        self._before(")", ",")
        return SelectField(chosen, alias, cast, aggregate)

    def _cast(self) -> str:
        self.string("::")
        return self.identifier()

    def _aggregate(self) -> str:
        self.char(".")
        name = self.either(
            *(lambda name=name: self.string(name) for name in AGGREGATES[:3]),
            lambda: self.attempt(lambda: self.string("max")),
            lambda: self.attempt(lambda: self.string("min")),
        )
        self.string("()")
        return name

    # Filters ----------------------------------------------------------------------------------------------------------

    def operation(self, value: Callable[[], str]) -> Operation:
        def negation() -> bool:
            self.string("not")
            self.delimiter()
            return True

        negated = self.either(lambda: self.attempt(negation), lambda: False)
        return self.either(
            lambda: Operation(negated, "in", "in", self._after("in", self._list)),
            lambda: Operation(negated, "is", "is", self._after("is", self._is_value)),
            lambda: Operation(negated, "distinct", "isdistinct", self._after("isdistinct", value)),
            lambda: self.attempt(lambda: self._search(negated, value)),
            lambda: self.attempt(lambda: self._simple(negated, value)),
            lambda: self.attempt(lambda: self._quantified(negated, value)),
            label="operator (eq, gt, ...)",
        )

    def _after(self, word: str, value: Callable[[], T]) -> T:
        def start() -> None:
            self.string(word)
            self.delimiter()

        self.attempt(start)
        return value()

    def _word(self, words: dict[str, str]) -> str:
        return self.either(*(lambda word=word: self.attempt(lambda: self.string(word)) for word in words))

    def _search(self, negated: bool, value: Callable[[], str]) -> Operation:
        def language() -> str:
            self.char("(")
            name = self.identifier()
            self.char(")")
            return name

        operator = self._word(SEARCH_FUNCTIONS)
        option = self.optional(lambda: self.attempt(language))
        self.delimiter()
        return Operation(negated, "search", operator, value(), option)

    def _simple(self, negated: bool, value: Callable[[], str]) -> Operation:
        operator = self._word(SIMPLE_OPERATORS)
        self.delimiter()
        return Operation(negated, "simple", operator, value())

    def _quantified(self, negated: bool, value: Callable[[], str]) -> Operation:
        def quantifier() -> str:
            self.char("(")
            word = self.either(lambda: self.attempt(lambda: self.string("any")), lambda: self.string("all"))
            self.char(")")
            return word

        operator = self._word(QUANTIFIABLE_OPERATORS)
        option = self.optional(lambda: self.attempt(quantifier))
        self.delimiter()
        return Operation(negated, "quantified", operator, value(), option)

    def _is_value(self) -> str:
        def word(word: str) -> Callable[[], str]:
            def same() -> str:
                for char in word:
                    self.either(lambda: self.char(char), lambda: self.char(char.upper()))  # noqa: B023 - called at once
                return IS_VALUES[word]

            return lambda: self.attempt(same)

        label = "isVal: (null, not_null, true, false, unknown)"
        return self.either(*(word(each) for each in IS_VALUES), label=label)

    def _list(self) -> tuple[str, ...]:
        self.lexeme(lambda: self.char("("))
        found = self.separated(self._list_element, lambda: self.char(","))
        self.lexeme(lambda: self.char(")"))
        return tuple(found)

    def _list_element(self) -> str:
        return self.either(lambda: self.attempt(self._quoted_whole), lambda: self.run(LIST_ELEMENT))

    def _quoted_whole(self) -> str:
        text = self.quoted()
        self.not_followed_by(lambda: self.satisfy(lambda char: char not in ",)"))
        return text

    def single_value(self) -> str:
        return self.run(ANYTHING)

    def _logic_value(self) -> str:
        def array() -> str:
            self.string("{")
            inner = self.run(BRACELESS)
            self.string("}")
            return "{" + inner + "}"

        return self.either(
            lambda: self.attempt(self._quoted_whole), lambda: self.attempt(array), lambda: self.run(LIST_ELEMENT)
        )

    def logic(self) -> Condition:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise too_large(f"Conditions are nested more than {DEPTH_LIMIT} levels deep")
        filter_or_tree: tuple[Callable[[], Condition], ...] = (
            lambda: self.attempt(self._logic_filter),
            self._logic_tree,
        )
        found = self.either(*filter_or_tree)
        self.depth -= 1
        return found

    def _logic_filter(self) -> Filter:
        chosen = self.field()
        self.delimiter()
        return Filter(chosen, self.operation(self._logic_value))

    def _logic_tree(self) -> Logic:
        def negation() -> bool:
            self.string("not")
            self.delimiter()
            return True

        negated = self.either(lambda: self.attempt(negation), lambda: False, label="negation operator (not)")
        operator = self.either(
            lambda: self.attempt(lambda: self.string("and")),
            lambda: self.string("or"),
            label="logic operator (and, or)",
        )
        self.lexeme(lambda: self.char("("))
        children = self.separated(self.logic, lambda: self.lexeme(lambda: self.char(",")))
        self.lexeme(lambda: self.char(")"))
        return Logic(negated, operator, tuple(children))

    def logic_path(self) -> tuple[Path, str]:
        names = self.separated(self.name, self.delimiter)
        negation = "not." if "not" in names else ""
        return tuple(name for name in names[:-1] if name != "not"), negation + names[-1]

    # order ------------------------------------------------------------------------------------------------------------

    def order(self) -> tuple[OrderTerm, ...]:
        def term() -> OrderTerm:
            return self.either(lambda: self.attempt(self._related_term), self._order_term)

        return tuple(self.separated(lambda: self.lexeme(term), lambda: self.char(",")))

    def _order_term(self) -> OrderTerm:
        return OrderTerm(self.field(), None, *self._direction())

    def _related_term(self) -> OrderTerm:
        relation = self.name()
        self.char("(")
        chosen = self.field()
        self.char(")")
        return OrderTerm(chosen, relation, *self._direction())

    def _direction(self) -> tuple[str, str]:
        def suffix(word: str, sql: str) -> Callable[[], str]:
            def same() -> str:
                self.delimiter()
                self.string(word)
                return sql

            return lambda: self.attempt(same)

        direction = self.optional(lambda: self.either(suffix("asc", "ASC"), suffix("desc", "DESC"))) or ""

        def nulls() -> str:
            found = self.optional(
                lambda: self.either(suffix("nullsfirst", "NULLS FIRST"), suffix("nullslast", "NULLS LAST"))
            )
            self._before(",")
            return found or ""

        def none() -> str:
            self._before(",")
            return ""

        return direction, self.either(nulls, none)


def too_large(details: str) -> RestError:
    return RestError(400, "PGRST100", "The request is too large", details, "Ask for less in one request.")


def _parse(what: str, text: str, parser: Callable[[Grammar], T], *, over: str | None = None) -> T:
    grammar = Grammar(over if over is not None else text)
    if len(text) > TEXT_LIMIT:
        raise too_large(f"A parameter is longer than {TEXT_LIMIT} characters")
    try:
        return parser(grammar)
    except NoParse as error:
        message, details = describe(f"failed to parse {what} ({text})", grammar.text, error.errors)
        raise RestError(400, "PGRST100", message, details) from None


@lru_cache(maxsize=512)
def _select(text: str) -> tuple[SelectItem, ...]:
    return _parse("select parameter", text, Grammar.select)


@lru_cache(maxsize=512)
def _order(text: str) -> tuple[OrderTerm, ...]:
    return _parse("order", text, Grammar.order)


@lru_cache(maxsize=512)
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

    def parser(grammar: Grammar) -> Operation:
        def operation() -> Operation:
            return grammar.operation(grammar.single_value)

        return grammar.either(operation, lambda: parameter) if or_parameter else operation()

    return _parse("filter", text, parser)


def read_pairs(text: str) -> list[tuple[str, str | None]]:
    """The pairs of a query string or a form; None is the value of a name without `=`."""
    pairs: list[tuple[str, str | None]] = []
    for part in re.split("[&;]", text):
        if part:
            name, equals, value = part.partition("=")
            pairs.append((_decoded(name), _decoded(value) if equals else None))
    return pairs


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return unquote_to_bytes(text.replace("+", " ").encode()).decode(errors="replace")


def parse_query(text: str, *, parameters: bool = False) -> Query:
    """`parameters`: what is no operation is an argument of the function called by GET."""
    pairs = read_pairs(text)
    sorted_pairs = _sort(pairs)
    query = Query(canonical="&".join(sorted(text.split("&"))) if text else "")
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
            found.limits[name] = ALL.limited(_integer(value))
        elif last == "offset":
            found.offsets[f"{head}.limit" if head else "limit"] = ALL.starting(_integer(value))
        elif name not in {"select", "columns", "on_conflict"}:
            found.filters.append((name, value))
    return found


def _integer(text: str) -> int | None:
    """As Haskell reads a number: blanks and parentheses around it are accepted."""
    found = INTEGER.match(text)
    return int(found[1].replace(" ", "")) if found and text.count("(") == text.count(")") else None


def range_path(name: str) -> Path:
    """The path of the relation whose `limit` this is."""
    return _tree_path(name)[0]


def _logic(name: str, value: str) -> tuple[Path, Condition]:
    path, operator = _parse("logic path", name, Grammar.logic_path)
    return path, _parse("logic tree", value, Grammar.logic, over=operator + value)
