"""Ranges of rows: from `limit` and `offset`, the Range header, and the largest number of rows of a response."""

import re
from dataclasses import dataclass, replace

from local.api.rest.errors import RestError

RANGE = re.compile(r"([0-9]+)-([0-9]*)\Z")
INTEGER = re.compile(r"([\s(]*+)(-?)\s*+(0[xX][0-9a-fA-F]++|0[oO][0-7]++|0[bB][01]++|[0-9]++)([\s)]*+)\Z")
LONGEST_INTEGER = 1000  # Postgres refuses numbers of 20 digits


@dataclass(frozen=True)
class Range:
    """Rows first … last, counted from 0; None is no end, less than `first` is no row at all."""

    first: int = 0
    last: int | None = None

    @property
    def empty(self) -> bool:
        return self.last is not None and self.last < self.first

    @property
    def limit(self) -> int | None:
        return None if self.last is None else self.last - self.first + 1

    def limited(self, rows: int | None) -> "Range":
        if rows is None:
            return self
        last = self.first + rows - 1
        return replace(self, last=last if self.last is None else min(last, self.last))

    def starting(self, row: int | None) -> "Range":
        return self if row is None else replace(self, first=row)

    def shifted(self, offset: "Range") -> "Range":
        # A limit that is no number counts as 0 beside an offset, as in PostgREST.
        return Range(offset.first, offset.first + (self.limit or 0) - 1)

    def meet(self, other: "Range") -> "Range":
        ends = [end for end in (self.last, other.last) if end is not None]
        return Range(max(self.first, other.first), min(ends) if ends else None)


ALL = Range()
NOTHING = Range(0, -1)


def integer(text: str) -> int | None:
    """As Haskell reads a number: with blanks and pairs of parentheses around it, also in hexadecimal."""
    found = INTEGER.match(text)
    if not found or found[1].count("(") != found[4].count(")"):
        return None
    value = int(found[3][:LONGEST_INTEGER], 0 if found[3][1:2].isalpha() else 10)
    return -value if found[2] else value


def requested(header: str | None) -> Range:
    found = RANGE.match(header or "")
    first, last = (integer(text) for text in found.groups()) if found else (0, None)
    return Range(first or 0, last)


def top_level(limit: Range, header: Range, *, put: bool) -> Range:
    """The rows of the response itself."""
    if limit == NOTHING or limit.last == -1:
        return NOTHING
    both = header.meet(limit)
    if both.empty:
        details = (
            "The lower boundary must be lower than or equal to the upper boundary in the Range header."
            if header.empty
            else "Limit should be greater than or equal to zero."
        )
        raise RestError(416, "PGRST103", "Requested range not satisfiable", details)
    if put and both != ALL:
        raise RestError(400, "PGRST114", "limit/offset querystring parameters are not allowed for PUT")
    return both


def content_range(first: int, last: int, total: int | None) -> str:
    rows = f"{first}-{last}" if total != 0 and first <= last else "*"
    return f"{rows}/{'*' if total is None else total}"


def beyond(rows: Range, total: int | None) -> RestError:
    return RestError(
        416,
        "PGRST103",
        "Requested range not satisfiable",
        f"An offset of {rows.first} was requested, but there are only {total or 0} rows.",
    )
