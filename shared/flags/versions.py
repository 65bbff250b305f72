"""Version numbers as texts that sort: 1.9.0 before 1.10.0, a pre-release before its release."""

import re
from functools import lru_cache

_DROPPED = re.compile(r"^v|\+.*$")
_SEPARATOR = re.compile(r"[-.]")
_WITHOUT_PRE_RELEASE = 3


@lru_cache(maxsize=4096)
def sortable(version: str) -> str:
    parts = _SEPARATOR.split(_DROPPED.sub("", version or "0"))
    if len(parts) == _WITHOUT_PRE_RELEASE:
        parts.append("~")  # sorts behind every letter and digit
    return "-".join(part.rjust(5) if part.isdigit() else part for part in parts)
