"""`strive dev`: the stack in the foreground."""

import fcntl
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from watchfiles import watch

from local import ROOT, StackError
from local.commands.logs import COLORS, Follower, readable
from local.database import MIGRATIONS
from local.stack import Stack

SOURCES = [ROOT / "functions", ROOT / "shared"]
TICK_MS = 200
RETRY_SECONDS = 5
# The log of Postgres: each entry begins with its level, the parts of an entry have lines of their own.
ENTRY = re.compile(r" \[\d+\] ([A-Z]+):  ")
PARTS = {"DETAIL", "HINT", "QUERY", "CONTEXT", "STATEMENT"}
ROUTINE = re.compile(
    r"LOG:  ((starting|exported) logical decoding|logical decoding found|checkpoint (starting|complete))"
)


def dev(stack: Stack, api_port: int | None, db_port: int | None) -> None:
    """Start the stack (or adopt one that runs in the background), show logs, reload on changes; stop it at the end."""
    with _single(stack), _until_signal() as ended:
        logs, quiet = Follower(stack, list(COLORS)), Quiet()
        # Every tick yields, with changes or without: one loop shows logs, follows changes, notices lost processes.
        ticks = watch(*SOURCES, MIGRATIONS, stop_event=ended, rust_timeout=TICK_MS, yield_on_timeout=True)
        try:
            next(ticks, None)  # watch before starting: a file saved while the stack starts is not missed
            stack.start(api_port, db_port)
            logs = Follower(stack, list(COLORS))  # what the start wrote matters only if it failed
            stack.say(f"Strive runs at {stack.values()['API_URL']}/  (Ctrl-C stops it)")
            failed, again_at = "", 0.0
            for changes in ticks:
                _show(logs, quiet)
                if not changes and time.monotonic() < again_at:
                    continue
                try:
                    _follow(stack, [Path(path) for _, path in changes])
                    failed = ""
                except StackError as error:
                    if str(error) != failed:
                        stack.say(f"error: {error}\n          waiting for the next change")
                    failed, again_at = str(error), time.monotonic() + RETRY_SECONDS
        except KeyboardInterrupt:
            pass  # the usual way to end
        finally:
            stack.say("stopping")
            stack.stop()
            _show(logs, quiet)


class Quiet:
    """Leaves out what needs no attention: preflights of browsers, and entries of Postgres about its routine work."""

    def __init__(self) -> None:
        self._routine = False

    def shows(self, service: str, line: str) -> bool:
        if service != "postgres":
            return '"method": "OPTIONS", "status": 204' not in line
        if (entry := ENTRY.search(line)) and entry[1] not in PARTS:
            self._routine = bool(ROUTINE.search(line))
        return not self._routine


def _show(logs: Follower, quiet: Quiet) -> None:
    for service, line in logs.lines():
        if quiet.shows(service, line):
            print(readable(service, line, color=sys.stdout.isatty()), flush=True)


def _follow(stack: Stack, changed: list[Path]) -> None:
    with stack.unless_locked() as free:
        if not free:  # `strive reset` replaces the processes right now
            return
        processes = stack.processes()
    if not processes.get("postgres", True):  # the official stack restarts its own
        stack.say("postgres stopped; starting it again")
        stack.cluster.start()
    if any(path.is_relative_to(MIGRATIONS) for path in changed):
        stack.migrate()
    reload = any(path.suffix == ".py" for path in changed)
    for service in stack.services:
        if not processes[service]:
            stack.say(f"{service} stopped; starting it again")
            stack.restart(service)
        elif service == "functions" and reload:
            stack.say("functions: reload")
            stack.restart(service)


@contextmanager
def _single(stack: Stack) -> Iterator[None]:
    """One `strive dev` per workdir. The file names its process, for `strive stop`."""
    stack.workdir.mkdir(parents=True, exist_ok=True)
    with (stack.workdir / "dev.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"`strive dev` already runs on {stack.workdir}, in another terminal.",
                "Use another workdir for a second stack: strive dev --workdir DIR --api-port 0 --db-port 0",
            ) from None
        lock.truncate(0)
        json.dump([os.getpid(), psutil.Process().create_time()], lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """Ctrl-C, a closed terminal and SIGTERM end in the same orderly stop, also during the start."""
    ended = threading.Event()

    def end(_signal: int, _frame: object) -> None:
        if ended.is_set():
            return  # a second Ctrl-C while it is stopping
        ended.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
