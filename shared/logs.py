"""Structured logs: one JSON object a line on standard error, in the words Google Cloud Logging understands.

No line holds a token, a key, a body or anything a person typed.
"""

import json
import logging
import sys
import time
from typing import Any


def log(severity: str, message: str, **facts: Any) -> None:
    line = {"severity": severity, "message": message, "time": time.time(), **facts}
    sys.stderr.write(json.dumps({name: fact for name, fact in line.items() if fact is not None}) + "\n")


class JsonLines(logging.Handler):
    """What libraries say, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.levelname, record.getMessage(), logger=record.name)


def begin() -> None:
    logging.basicConfig(handlers=[JsonLines()], level=logging.WARNING)
