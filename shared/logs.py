"""Structured logs: one JSON object a line on standard error, with the field names of Google Cloud Logging.

No line holds a token, a key, a body or anything else that a person typed.
"""

import asyncio
import atexit
import json
import logging
import sys
import time
import traceback
from typing import Any

FLUSH_SECONDS = 0.05
# Mistakes of a programmer, whose text holds no personal data.
EXPLAINED = (TypeError, AttributeError, NameError, ImportError)

_lines: list[str] = []


def log(severity: str, message: str, **facts: Any) -> None:
    _write(json.dumps({"severity": severity, "message": message, "time": time.time(), **facts}))


def log_exception(error: BaseException, request_id: str) -> None:
    """Log a bug and where it happened. The text of most exceptions may hold personal data and is left out."""
    log(
        "ERROR",
        "unexpected exception",
        request_id=request_id,
        exception=type(error).__qualname__,
        why=str(error) if isinstance(error, EXPLAINED) else getattr(error, "sqlstate", None),
        where=[f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(error.__traceback__)],
    )


def _write(line: str) -> None:
    """Lines of one moment are written together: under load, a write for each line costs as much as the request."""
    _lines.append(line)
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
    """The log lines of libraries, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.levelname, record.getMessage(), logger=record.name)


def begin() -> None:
    logging.basicConfig(handlers=[JsonLines()], level=logging.WARNING)
