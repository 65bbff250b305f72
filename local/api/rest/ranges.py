"""Ranges of rows: from `limit` and `offset`, the Range header, and the largest number of rows of a response."""

import re
from dataclasses import dataclass, replace

from local.api.rest.errors import RestError

RANGE = re.compile(r"([0-9]{1,40})-([0-9]{0,40})\Z")


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


def requested(header: str | None) -> Range:
    found = RANGE.match(header or "")
    return Range(int(found[1]), int(found[2]) if found[2] else None) if found else ALL


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
