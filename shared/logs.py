"""Structured logs: one JSON object a line on standard error, in the words Google Cloud Logging understands.

No line holds a token, a key, a body or anything a person typed.
"""

import asyncio
import atexit
import json
import logging
import sys
import time
import traceback
from http import HTTPStatus
from typing import Any

FLUSH_SECONDS = 0.05
# Mistakes of a programmer, whose text holds no personal data.
EXPLAINED = (TypeError, AttributeError, NameError, ImportError)

_lines: list[str] = []


def log(severity: str, message: str, **facts: Any) -> None:
    _write(json.dumps({"severity": severity, "message": message, "time": time.time(), **facts}))


def log_request(
    request_id: str,
    function: str | None,
    method: str,
    status: int,
    code: str | None,
    caller: str | None,
    seconds: float,
) -> None:
    """One line for every request, put together by hand since there are so many. Each word is of known characters."""
    severity = "INFO" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "ERROR"
    _write(
        f'{{"severity": "{severity}", "message": "request", "time": {time.time():.6f}, "request_id": "{request_id}",'
        f' "function": {_word(function)}, "method": {_word(method if method.isalpha() else None)}, "status": {status},'
        f' "code": {_word(code)}, "caller": {_word(caller)}, "milliseconds": {seconds * 1000:.2f}}}'
    )


def log_exception(error: BaseException, request_id: str) -> None:
    """A bug: where it happened. The text of most exceptions may hold personal data and stays out."""
    log(
        "ERROR",
        "unexpected exception",
        request_id=request_id,
        exception=type(error).__qualname__,
        why=str(error) if isinstance(error, EXPLAINED) else getattr(error, "sqlstate", None),
        where=[f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(error.__traceback__)],
    )


def _word(text: str | None) -> str:
    return f'"{text}"' if text else "null"


def _write(line: str) -> None:
    """Lines of one moment are written together: under load a write costs as much as the work it tells of."""
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
    """What libraries say, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.levelname, record.getMessage(), logger=record.name)


def begin() -> None:
    logging.basicConfig(handlers=[JsonLines()], level=logging.WARNING)
