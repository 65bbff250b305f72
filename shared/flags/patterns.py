"""Regular expressions that always end: admins write the pattern, but clients send the text.

RE2 matches in linear time and bounded memory, and so has neither lookaround nor backreferences.
"""

from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]  # it has no types

PATTERN_CHARACTERS = 1000
# The slowest possible pattern takes some ten milliseconds for this many.
TEXT_CHARACTERS = 4000


class LongTextError(Exception):
    """A text is too long to match a pattern against."""


@lru_cache(maxsize=4096)
def pattern(text: str, *, ignore_case: bool) -> Any:
    """Raises ValueError with the reason if RE2 cannot compile it."""
    if len(text) > PATTERN_CHARACTERS:
        raise ValueError(f"a pattern of more than {PATTERN_CHARACTERS} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(text, options)
    except re2.error as problem:
        raise ValueError(f"no regular expression: {problem}") from None


def matches(compiled: Any, text: str) -> bool:
    if len(text) > TEXT_CHARACTERS:
        raise LongTextError(f"An attribute of more than {TEXT_CHARACTERS:,} characters meets a regular expression")
    # As bytes: for a str the library counts every character of the match.
    return compiled.search(text.encode(errors="replace")) is not None
