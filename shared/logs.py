"""Structured logs: one JSON object a line on standard error, in the words Google Cloud Logging understands.

No line holds a token, a key, a body or anything a person typed.
"""

import asyncio
import atexit
import json
import logging
import sys
import time
from typing import Any

FLUSH_SECONDS = 0.05

_lines: list[str] = []


def log(severity: str, message: str, **facts: Any) -> None:
    """Lines of one moment are written together: under load a write costs as much as the work it tells of."""
    line = {"severity": severity, "message": message, "time": time.time(), **facts}
    _lines.append(json.dumps(line))
    if len(_lines) == 1:
        try:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, flush)
        except RuntimeError:
            flush()


@atexit.register
def flush() -> None:
    sys.stderr.write("\n".join([*_lines, ""]))
    sys.stderr.flush()
    _lines.clear()


class JsonLines(logging.Handler):
    """What libraries say, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.levelname, record.getMessage(), logger=record.name)


def begin() -> None:
    logging.basicConfig(handlers=[JsonLines()], level=logging.WARNING)
