"""Parsing with the error messages of Haskell's Parsec, which PostgREST shows to its clients.

A parser is a method that moves `at` and returns a value, or raises `NoParse`. One that fails where it began may be
followed by an alternative; one that failed further on may not, unless it runs inside `attempt`. `errors` are the
expectations of what was tried at the current position without success: they are part of the next error message.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, ParamSpec, TypeVar

from local.api.rest.errors import RestError

T = TypeVar("T")
P = ParamSpec("P")

CHOICE_LIMIT = 15_000  # half a second; more than a list of 3,000 values, 800 columns or 1,100 conditions needs

# Kinds of message, in the order in which they are shown.
UNEXPECTED_INPUT, UNEXPECTED, EXPECTED = range(3)


class Errors(NamedTuple):
    at: int
    messages: tuple[tuple[int, str], ...]


class NoParse(Exception):  # noqa: N818 - an alternative may follow
    """`errors` says where and why."""

    def __init__(self, errors: Errors) -> None:
        self.errors = errors


def merge(first: Errors | None, second: Errors | None) -> Errors | None:
    """Of two the one further on; both together at the same position."""
    if not first or not first.messages or not second or not second.messages:
        return first if first and first.messages else second
    if first.at == second.at:
        return Errors(first.at, first.messages + second.messages)
    return first if first.at > second.at else second


@lru_cache(maxsize=1024)
def shown(text: str) -> str:
    """As Haskell shows a string."""
    return '"' + "".join(_shown(char, '"') for char in text) + '"'


def _shown(char: str, quote: str) -> str:
    if char in {quote, "\\"}:
        return "\\" + char
    if "\x20" <= char < "\x7f":
        return char
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\x7f": "\\DEL"}.get(char, f"\\{ord(char)}")


class Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = self.choices = 0
        self.errors: Errors | None = None

    # Tokens -----------------------------------------------------------------------------------------------------------

    def fail(self, at: int, *messages: tuple[int, str]) -> NoParse:
        errors = merge(self.errors, Errors(at, messages))
        return NoParse(errors or Errors(at, messages))

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def satisfy(self, accepts: Callable[[str], bool], label: str | None = None) -> str:
        char = self._next()
        if char and accepts(char):
            self.at += 1
            self.errors = None
            return char
        unexpected = (UNEXPECTED_INPUT, shown(char) if char else "")
        raise self.fail(self.at, unexpected, *([(EXPECTED, label)] if label else []))

    def run(self, pattern: re.Pattern[str], labels: tuple[str, ...] = (), *, least: int = 0) -> str:
        """As many characters as the pattern takes; `labels` are what it would take."""
        start = self.at
        found = pattern.match(self.text, start)
        end = found.end() if found else start
        unexpected = (UNEXPECTED_INPUT, shown(self.text[end]) if end < len(self.text) else "")
        stopped = Errors(end, (unexpected, *((EXPECTED, label) for label in labels)))
        if end - start < least:
            raise self.fail(end, *stopped.messages)
        self.at = end
        self.errors = stopped if end > start else merge(self.errors, stopped)
        return self.text[start:end]

    def char(self, char: str) -> str:
        return self.satisfy(lambda other: other == char, shown(char))

    def string(self, word: str) -> str:
        if self.text.startswith(word, self.at):
            self.at += len(word)
            self.errors = None
            return word
        start = self.at
        same = next(i for i, char in enumerate(word) if self.text[start + i : start + i + 1] != char)
        char = self.text[start + same : start + same + 1]
        messages = ((UNEXPECTED_INPUT, shown(char) if char else ""), (EXPECTED, shown(word)))
        failure = self.fail(start, *messages) if same == 0 else NoParse(Errors(start, messages))
        self.at += same
        raise failure

    def end(self) -> None:
        char = self._next()
        if char:
            quoted = "'" + _shown(char, "'") + "'"
            raise self.fail(self.at, (UNEXPECTED, quoted), (EXPECTED, "end of input"))
        self.errors = merge(self.errors, Errors(self.at, ((UNEXPECTED_INPUT, ""), (EXPECTED, "end of input"))))

    # Combinations -----------------------------------------------------------------------------------------------------

    def attempt(self, parser: Callable[[], T]) -> T:
        """The parser, which fails where it began."""
        start = self.at
        try:
            return parser()
        except NoParse:
            self.at = start
            raise

    def tried(self, parser: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """As an alternative for `either`: the parser, which fails where it began."""
        return lambda: self.attempt(lambda: parser(*args, **kwargs))

    def word(self, *words: str) -> str:
        """The first of the words that comes next."""
        return self.either(*(self.tried(self.string, word) for word in words))

    def before(self, *words: str) -> None:
        """One of the words, or the end, comes next."""

        def comes(word: str) -> None:
            self.look_ahead(lambda: self.string(word))

        self.either(*(self.tried(comes, word) for word in words), self.end)

    def look_ahead(self, parser: Callable[[], T]) -> T:
        start = self.at
        value = self.attempt(parser)
        self.at, self.errors = start, None
        return value

    def not_followed_by(self, parser: Callable[[], str]) -> None:
        start, before = self.at, self.errors
        try:
            char = parser()
        except NoParse as error:
            self.at, self.errors = start, merge(before, error.errors)
            return
        at, self.at = self.at, start
        raise NoParse(merge(before, Errors(at, ((UNEXPECTED, "'" + _shown(char, "'") + "'"),))) or Errors(at, ()))

    def either(self, *parsers: Callable[[], T], label: str | None = None) -> T:
        """The first that succeeds; `label` replaces what they expect where none of them moves on."""
        self.choices += 1
        if self.choices > CHOICE_LIMIT:
            raise too_large("A parameter has too many parts")
        start, before = self.at, self.errors
        failed: Errors | None = None
        for parser in parsers:
            self.errors = None
            try:
                value = parser()
            except NoParse as error:
                if self.at != start:
                    raise
                failed = merge(failed, error.errors)
                continue
            if self.at == start:
                self.errors = merge(before, _labelled(merge(failed, self.errors), label))
            return value
        merged = merge(before, _labelled(failed, label))
        raise NoParse(merged or Errors(start, ()))

    def optional(self, parser: Callable[[], T]) -> T | None:
        return self.either(parser, lambda: None)

    def many(self, parser: Callable[[], T], *, within_list: bool = False) -> list[T]:
        """Parsec's lists forget what the element before expected."""
        found: list[T] = []
        while True:
            start, before = self.at, None if found and within_list else self.errors
            self.errors = None
            try:
                found.append(parser())
            except NoParse as error:
                if self.at != start:
                    raise
                self.errors = merge(before, error.errors)
                return found

    def separated(self, parser: Callable[[], T], separator: Callable[[], object], *, least: int = 1) -> list[T]:
        if least == 0:
            first = self.optional(lambda: [parser()])
            if first is None:
                return []
        else:
            first = [parser()]

        def further() -> T:
            separator()
            return parser()

        return first + self.many(further, within_list=True)


def _labelled(errors: Errors | None, label: str | None) -> Errors | None:
    if not errors or not errors.messages or label is None:
        return errors
    return Errors(errors.at, ((EXPECTED, label), *(each for each in errors.messages if each[0] != EXPECTED)))


def describe(name: str, text: str, errors: Errors) -> tuple[str, str]:
    """The position and the message of an error, as Parsec writes them."""
    line, column = 1, 1
    for char in text[: errors.at]:
        if char == "\n":
            line, column = line + 1, 1
        else:
            column += 8 - (column - 1) % 8 if char == "\t" else 1
    by_kind = [list(dict.fromkeys(text for kind, text in errors.messages if kind == which)) for which in range(3)]
    input_, unexpected, expected = by_kind
    parts = []
    if input_ and not unexpected:
        first = next(text for kind, text in errors.messages if kind == UNEXPECTED_INPUT)
        parts.append(f"unexpected {first or 'end of input'}")
    for word, texts in (("unexpected", unexpected), ("expecting", expected)):
        if named := [text for text in texts if text]:
            listed = ", ".join(named[:-1])
            parts.append(f"{word} {listed + ' or ' if listed else ''}{named[-1]}")
    return f'"{name}" (line {line}, column {column})', " ".join(parts) or "unknown parse error"


def too_large(details: str) -> RestError:
    return RestError(400, "PGRST100", "The request is too large", details, "Ask for less in one request.")
