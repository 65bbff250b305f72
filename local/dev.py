"""`strive dev`: the stack in the foreground."""

import fcntl
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchfiles import watch

from local import ROOT, StackError
from local.database import MIGRATIONS
from local.stack import Stack

SOURCES = [ROOT / "functions", ROOT / "shared"]
TICK_MS = 200
PATIENCE_S = 5


def dev(stack: Stack, api_port: int | None, db_port: int | None) -> None:
    """Start (or take over what runs in the background), show logs, follow changes; stop all of it at the end."""
    with _only_one(stack), _until_told() as told:
        logs = Logs(stack)
        # Every tick yields, with changes or without: one loop shows logs, follows changes, notices losses.
        ticks = watch(*SOURCES, MIGRATIONS, stop_event=told, rust_timeout=TICK_MS, yield_on_timeout=True)
        try:
            next(ticks, None)  # watches from here on: a file saved while the stack starts is not missed
            stack.start(api_port, db_port)
            stack.say(f"Strive runs at {stack.values()['API_URL']}/  (Ctrl-C stops it)")
            failed, again_at = "", 0.0
            for changes in ticks:
                logs.show()
                if not changes and time.monotonic() < again_at:
                    continue
                try:
                    _follow(stack, [Path(path) for _, path in changes])
                    failed = ""
                except StackError as error:
                    if str(error) != failed:
                        stack.say(f"error: {error}\n          waiting for the next change")
                    failed, again_at = str(error), time.monotonic() + PATIENCE_S
        except KeyboardInterrupt:
            pass  # the usual way to end
        finally:
            stack.say("stopping")
            stack.stop()
            logs.show()


def _follow(stack: Stack, changed: list[Path]) -> None:
    processes = stack.processes()
    if not processes["postgres"]:
        stack.say("postgres is gone; starting it again")
        stack.cluster.start()
    if any(path.is_relative_to(MIGRATIONS) for path in changed):
        stack.migrate()
    reload = any(path.suffix == ".py" for path in changed)
    for service in stack.services:
        if not processes[service]:
            stack.say(f"{service} is gone; starting it again")
            stack.restart(service)
        elif service == "functions" and reload:
            stack.say("functions: reload")
            stack.restart(service)


class Logs:
    """Shows what the services wrote since the last look."""

    COLOURS = {"postgres": 34, "api": 35, "functions": 36, "stripe": 33, "jobs": 32}  # noqa: RUF012 - never changed

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.seen = {name: self._size(name) for name in self.COLOURS}

    def _size(self, name: str) -> int:
        log = self.stack.log(name)
        return log.stat().st_size if log.exists() else 0

    def show(self) -> None:
        for name, colour in self.COLOURS.items():
            if self._size(name) <= self.seen[name]:
                continue
            with self.stack.log(name).open("rb") as log:
                log.seek(self.seen[name])
                # A line still being written waits for its end.
                text = log.read()
                whole = text[: text.rfind(b"\n") + 1]
            self.seen[name] += len(whole)
            mark = f"\033[{colour}m{name:>9} │\033[0m" if sys.stdout.isatty() else f"{name:>9} |"
            for line in whole.decode(errors="replace").splitlines():
                print(mark, line, flush=True)


@contextmanager
def _only_one(stack: Stack) -> Iterator[None]:
    stack.workdir.mkdir(parents=True, exist_ok=True)
    with (stack.workdir / "dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"`strive dev` already runs on {stack.workdir}, in another terminal.",
                "Use another workdir for a second stack: strive dev --workdir DIR --api-port 0 --db-port 0",
            ) from None
        yield


@contextmanager
def _until_told() -> Iterator[threading.Event]:
    """Ctrl-C, a closed terminal and a plain kill all end in the same orderly stop, even while starting."""
    told = threading.Event()

    def tell(_signal: int, _frame: object) -> None:
        if told.is_set():
            return  # impatient second Ctrl-C: the stop is under way
        told.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
