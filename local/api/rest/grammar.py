"""PostgREST's grammar of `select`, filters, logic and `order`.

Alternative by alternative in its order: the messages of its errors depend on that.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from local.api.rest.parsec import NoParse, Parser, too_large

T = TypeVar("T")

# Bounds of one request; a real PostgREST has none.
DEPTH_LIMIT = 24
EMBED_LIMIT = 100

IDENTIFIER = re.compile(r"(?:[^\W\d_]|[0-9_ $])+")
JSON_KEY = re.compile(r"[^(\-:.,>)]+")
BLANKS = re.compile(r"[ \t]*")
DIGITS = re.compile(r"[0-9]+")
LIST_ELEMENT = re.compile(r"[^,)]*")
QUOTED_PART = re.compile(r'[^\\"]+')
BRACELESS = re.compile(r"[^{}]*")
ANYTHING = re.compile(r".*", re.DOTALL)

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
DIRECTIONS = {"asc": "ASC", "desc": "DESC"}
NULLS = {"nullsfirst": "NULLS FIRST", "nullslast": "NULLS LAST"}


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


class Grammar(Parser):
    depth = 0
    embeds = 0

    # Names ------------------------------------------------------------------------------------------------------------

    def lexeme(self, parser: Callable[[], T]) -> T:
        self.run(BLANKS)
        value = parser()
        self.run(BLANKS)
        return value

    def comma(self) -> str:
        return self.lexeme(partial(self.char, ","))

    def identifier(self) -> str:
        return self.run(IDENTIFIER, ("letter", "digit"), least=1).strip()

    def quoted(self) -> str:
        self.char('"')
        parts = self.many(lambda: self.either(partial(self.run, QUOTED_PART, least=1), self._escaped))
        self.char('"')
        return "".join(parts)

    def _escaped(self) -> str:
        self.char("\\")
        return self.satisfy(lambda _char: True)

    def _dashed(self, part: Callable[[], str]) -> str:
        return "-".join(self.separated(part, self.tried(self._dash)))

    def _dash(self) -> None:
        self.char("-")
        self.not_followed_by(partial(self.char, ">"))

    def name(self) -> str:
        return self.either(self.quoted, partial(self._dashed, self.identifier), label="field name (* or [a..z0..9_$])")

    def delimiter(self) -> None:
        self.either(partial(self.char, "."), label="delimiter (.)")

    def json_path(self) -> tuple[JsonStep, ...]:
        return tuple(self.many(self._json_step))

    def _json_step(self) -> JsonStep:
        arrow = self.word("->>", "->")
        operand, is_index = self.either(self.tried(self._json_index), self.tried(self._json_key))
        return JsonStep(arrow, operand, is_index)

    def _json_index(self) -> tuple[str, bool]:
        sign = self.optional(partial(self.char, "-")) or ""
        digits = self.run(DIGITS, ("digit",), least=1)
        self.before("->", "::", ".", ",")
        return sign + digits, True

    def _json_key(self) -> tuple[str, bool]:
        label = "any non reserved character different from: .,>()"
        part = partial(self.run, JSON_KEY, least=1)
        return self.either(self.quoted, lambda: self._dashed(lambda: part().strip()), label=label), False

    def field(self) -> Field:
        return self.lexeme(lambda: Field(self.name(), self.json_path()))

    def tree_path(self) -> tuple[Path, Field]:
        *path, name = self.separated(self.name, self.delimiter)
        return tuple(path), Field(name, self.json_path())

    def columns(self) -> tuple[str, ...]:
        return tuple(self.separated(self.name, self.comma))

    # select -----------------------------------------------------------------------------------------------------------

    def select(self) -> tuple[SelectItem, ...]:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise too_large(f"Resources are embedded more than {DEPTH_LIMIT} levels deep")
        found = self.separated(self._select_item, self.comma, least=0)
        self.depth -= 1
        return tuple(found)

    def _select_item(self) -> SelectItem:
        return self.either(
            partial(self._embedded, self._spread),
            partial(self._embedded, self._relation),
            partial(self.lexeme, self._select_field),
        )

    def _embedded(self, head: Callable[[], SelectRelation]) -> SelectItem:
        relation = self.attempt(partial(self.lexeme, head))
        self.embeds += 1
        if self.embeds > EMBED_LIMIT:
            raise too_large(f"More than {EMBED_LIMIT} resources are embedded")
        self.char("(")
        children = self.select()
        self.char(")")
        return relation._replace(children=children)

    def _spread(self) -> SelectRelation:
        self.string("...")
        return self._named(None, self.name(), spread=True)

    def _relation(self) -> SelectRelation:
        alias, name = self._alias(), self.name()
        if name == "count":  # count() is an aggregate
            raise NoParse(self.errors) if self.errors else self.fail(self.at)
        return self._named(alias, name, spread=False)

    def _named(self, alias: str | None, name: str, *, spread: bool) -> SelectRelation:
        given = [each for each in (self.optional(self._parameter), self.optional(self._parameter)) if each]
        hint = next((value for kind, value in given if kind == "hint"), None)
        join = next((value for kind, value in given if kind == "join"), None)
        self.look_ahead(partial(self.string, "("))
        return SelectRelation(name, alias, hint, join == "inner", spread, ())

    def _parameter(self) -> tuple[str, str]:
        self.char("!")
        return self.either(lambda: ("join", self.word("left", "inner")), lambda: ("hint", self.attempt(self.name)))

    def _alias(self) -> str | None:
        def named() -> str:
            name = self.name()
            self.char(":")
            self.not_followed_by(partial(self.char, ":"))
            return name

        return self.optional(self.tried(named))

    def _select_field(self) -> SelectField:
        return self.either(self.tried(self._star), self.tried(self._count), self._column)

    def _star(self) -> SelectField:
        self.string("*")
        self.before(")", ",")
        return SelectField(Field("*"))

    def _count(self) -> SelectField:
        alias = self._alias()
        self.string("count()")
        self.optional(self._cast)
        self.before(")", ",")
        return SelectField(Field("*"), alias, None, "count")

    def _column(self) -> SelectField:
        alias, chosen = self._alias(), self.field()
        cast, aggregate = self.optional(self._cast), self.optional(self.tried(self._aggregate))
        self.optional(self._cast)
        self.before(")", ",")
        return SelectField(chosen, alias, cast, aggregate)

    def _cast(self) -> str:
        self.string("::")
        return self.identifier()

    def _aggregate(self) -> str:
        self.char(".")
        exact = (partial(self.string, name) for name in ("sum", "avg", "count"))
        name = self.either(*exact, partial(self.word, "max", "min"))
        self.string("()")
        return name

    # Filters ----------------------------------------------------------------------------------------------------------

    def _not(self) -> bool:
        self.string("not")
        self.delimiter()
        return True

    def operation(self, value: Callable[[], str]) -> Operation:
        negated = self.either(self.tried(self._not), lambda: False)
        return self.either(
            lambda: Operation(negated, "in", "in", self._after("in", self._list)),
            lambda: Operation(negated, "is", "is", self._after("is", self._is_value)),
            lambda: Operation(negated, "distinct", "isdistinct", self._after("isdistinct", value)),
            self.tried(self._search, negated, value),
            self.tried(self._simple, negated, value),
            self.tried(self._quantified, negated, value),
            label="operator (eq, gt, ...)",
        )

    def _after(self, word: str, value: Callable[[], T]) -> T:
        def start() -> None:
            self.string(word)
            self.delimiter()

        self.attempt(start)
        return value()

    def _search(self, negated: bool, value: Callable[[], str]) -> Operation:
        operator = self.word(*SEARCH_FUNCTIONS)
        option = self.optional(self.tried(self._bracketed, self.identifier))
        self.delimiter()
        return Operation(negated, "search", operator, value(), option)

    def _simple(self, negated: bool, value: Callable[[], str]) -> Operation:
        operator = self.word(*SIMPLE_OPERATORS)
        self.delimiter()
        return Operation(negated, "simple", operator, value())

    def _quantified(self, negated: bool, value: Callable[[], str]) -> Operation:
        def quantifier() -> str:
            return self.either(partial(self.word, "any"), partial(self.string, "all"))

        operator = self.word(*QUANTIFIABLE_OPERATORS)
        option = self.optional(self.tried(self._bracketed, quantifier))
        self.delimiter()
        return Operation(negated, "quantified", operator, value(), option)

    def _bracketed(self, inner: Callable[[], T]) -> T:
        self.char("(")
        value = inner()
        self.char(")")
        return value

    def _is_value(self) -> str:
        def same(word: str) -> str:
            for char in word:
                self.either(partial(self.char, char), partial(self.char, char.upper()))
            return IS_VALUES[word]

        label = "isVal: (null, not_null, true, false, unknown)"
        return self.either(*(self.tried(same, word) for word in IS_VALUES), label=label)

    def _list(self) -> tuple[str, ...]:
        self.lexeme(partial(self.char, "("))
        found = self.separated(self._list_element, partial(self.char, ","))
        self.lexeme(partial(self.char, ")"))
        return tuple(found)

    def _list_element(self) -> str:
        return self.either(self.tried(self._quoted_whole), partial(self.run, LIST_ELEMENT))

    def _quoted_whole(self) -> str:
        text = self.quoted()
        self.not_followed_by(lambda: self.satisfy(lambda char: char not in ",)"))
        return text

    def single_value(self) -> str:
        return self.run(ANYTHING)

    def _logic_value(self) -> str:
        return self.either(self.tried(self._quoted_whole), self.tried(self._array), partial(self.run, LIST_ELEMENT))

    def _array(self) -> str:
        self.string("{")
        inner = self.run(BRACELESS)
        self.string("}")
        return "{" + inner + "}"

    def logic(self) -> Condition:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise too_large(f"Conditions are nested more than {DEPTH_LIMIT} levels deep")
        filter_or_tree: tuple[Callable[[], Condition], ...] = (self.tried(self._logic_filter), self._logic_tree)
        found = self.either(*filter_or_tree)
        self.depth -= 1
        return found

    def _logic_filter(self) -> Filter:
        chosen = self.field()
        self.delimiter()
        return Filter(chosen, self.operation(self._logic_value))

    def _logic_tree(self) -> Logic:
        negated = self.either(self.tried(self._not), lambda: False, label="negation operator (not)")
        either = (partial(self.word, "and"), partial(self.string, "or"))
        operator = self.either(*either, label="logic operator (and, or)")
        self.lexeme(partial(self.char, "("))
        children = self.separated(self.logic, self.comma)
        self.lexeme(partial(self.char, ")"))
        return Logic(negated, operator, tuple(children))

    def logic_path(self) -> tuple[Path, str]:
        names = self.separated(self.name, self.delimiter)
        negation = "not." if "not" in names else ""
        return tuple(name for name in names[:-1] if name != "not"), negation + names[-1]

    # order ------------------------------------------------------------------------------------------------------------

    def order(self) -> tuple[OrderTerm, ...]:
        def term() -> OrderTerm:
            return self.either(self.tried(self._related_term), self._order_term)

        return tuple(self.separated(partial(self.lexeme, term), partial(self.char, ",")))

    def _order_term(self) -> OrderTerm:
        return OrderTerm(self.field(), None, *self._direction())

    def _related_term(self) -> OrderTerm:
        relation = self.name()
        return OrderTerm(self._bracketed(self.field), relation, *self._direction())

    def _direction(self) -> tuple[str, str]:
        direction = self.optional(partial(self._suffix, DIRECTIONS)) or ""

        def nulls() -> str:
            found = self.optional(partial(self._suffix, NULLS))
            self.before(",")
            return found or ""

        def none() -> str:
            self.before(",")
            return ""

        return direction, self.either(nulls, none)

    def _suffix(self, words: dict[str, str]) -> str:
        def same(word: str) -> str:
            self.delimiter()
            self.string(word)
            return words[word]

        return self.either(*(self.tried(same, word) for word in words))
