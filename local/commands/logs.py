"""`strive logs`: what the services wrote, readable for people or as JSON for programs."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from local import StackError
from local.stack import Stack

COLORS = {"postgres": 34, "api": 35, "functions": 36, "stripe": 33, "jobs": 32, "model": 37, "postgrest": 31}
LINES = 50
FOLLOW_SECONDS = 0.2


class Follower:
    """Yields the complete lines that were added to the logs since the last call."""

    def __init__(self, stack: Stack, services: Sequence[str], *, from_start: bool = False) -> None:
        self._stack = stack
        self._seen = {name: 0 if from_start else self._size(name) for name in services}

    def _size(self, name: str) -> int:
        log = self._stack.log(name)
        return log.stat().st_size if log.exists() else 0

    def lines(self) -> Iterator[tuple[str, str]]:
        for name, seen in self._seen.items():
            size = self._size(name)
            if size < seen:  # the log was made again
                self._seen[name] = 0
            if size <= self._seen[name]:
                continue
            with self._stack.log(name).open("rb") as log:
                log.seek(self._seen[name])
                text = log.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._seen[name] += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                yield name, line


def readable(service: str, line: str, *, color: bool) -> str:
    """One line for a terminal: a request becomes time, status, method, function or path, milliseconds."""
    mark = f"\033[{COLORS[service]}m{service:>9} │\033[0m" if color else f"{service:>9} |"
    return f"{mark} {_request(line) or line}"


def _request(line: str) -> str | None:
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    match entry:
        case {"message": "request", "status": status, **rest}:
            words = [_clock(rest.get("time")), status, rest.get("method")]
            words += [rest.get("function") or rest.get("path") or "(no function)"]
            words += [f"{rest['milliseconds']} ms" if "milliseconds" in rest else None, rest.get("code")]
        case {"message": message, **rest}:
            left_out = {"time", "severity", "message"}
            words = [_clock(rest.get("time")), rest.get("severity"), message]
            words += [f"{name}={value}" for name, value in rest.items() if name not in left_out and value is not None]
        case _:
            return None
    return " ".join(str(word) for word in words if word)


def _entry(service: str, line: str) -> str:
    """One line as JSON: what the service wrote as JSON, or its text as `message`."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return json.dumps({"service": service} | (entry if isinstance(entry, dict) else {"message": line}))


def _clock(moment: object) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}" if isinstance(moment, int | float) else ""


def show(stack: Stack, service: str | None, *, follow: bool, output: str) -> None:
    services = [service] if service else list(COLORS)
    if not any(stack.log(name).exists() for name in services):
        raise StackError(f"There are no logs in {stack.logs}.", "Start Strive with: strive start")
    color = sys.stdout.isatty()

    def write(name: str, line: str) -> None:
        print(_entry(name, line) if output == "json" else readable(name, line, color=color), flush=True)

    for name in services:
        for line in _last(stack.log(name)):
            write(name, line)
    follower = Follower(stack, services)
    while follow:
        for name, line in follower.lines():
            write(name, line)
        time.sleep(FOLLOW_SECONDS)


def _last(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LINES:] if log.exists() else []
