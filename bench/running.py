"""Runs one bench after the other within a time, each in a process of its own, and shows how far it is."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from bench.rounds import UNTIL

# Time to stop its processes before a bench is killed.
GRACE_SECONDS = 20
# Without a terminal, print a line only now and then.
SELDOM_SECONDS = 10

Outcome = dict[str, Any]
Environment = Mapping[str, str]
Populate = Callable[[], AbstractContextManager[Environment]]


@dataclass(frozen=True)
class Bench:
    """A module that prints its figures as JSON, and the seconds that it takes on two cores."""

    module: str
    seconds: float
    needs_population: bool = False


def run_all(benches: Mapping[str, Bench], budget: float, populate: Populate) -> dict[str, Outcome]:
    """`populate` is entered when the first bench needs it, and left when no later one does."""
    progress = _Progress(benches, budget)
    outcomes: dict[str, Outcome] = {}
    environment: Environment = {}
    needing = [name for name, bench in benches.items() if bench.needs_population]
    with ExitStack() as stack:
        for name, bench in benches.items():
            began = time.monotonic()
            progress.start(name)
            try:
                if progress.left() < bench.seconds / 4:
                    outcomes[name] = {"left_out": f"the {budget / 60:g} minutes were over"}
                else:
                    if name in needing and not environment:
                        environment = stack.enter_context(populate())
                    outcomes[name] = _run(bench, environment, progress)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                outcomes[name] = {"failed": str(error)}
            if needing and name == needing[-1]:
                stack.close()
            outcomes[name] |= {
                "seconds": round(time.monotonic() - began, 1),
                "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            }
            progress.end(outcomes[name])
    return outcomes


class _Progress:
    def __init__(self, benches: Mapping[str, Bench], budget: float) -> None:
        self._benches, self._budget, self._began = benches, budget, time.monotonic()
        self._names = list(benches)
        self._name, self._started, self._shown, self._expected = "", self._began, 0.0, 0.0

    def left(self) -> float:
        return self._budget - (time.monotonic() - self._began)

    def share(self) -> float:
        """The share of the remaining time for this bench."""
        later = self._names[self._names.index(self._name) :]
        wanted = sum(self._benches[name].seconds for name in later)
        return self.left() * self._benches[self._name].seconds / wanted

    def start(self, name: str) -> None:
        self._name, self._started = name, time.monotonic()

    def show(self, what: str) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._shown < SELDOM_SECONDS:
            return
        self._shown = now
        elapsed = f"{_minutes(now - self._began)} elapsed, about {self._remaining()} left"
        end = "" if sys.stderr.isatty() else "\n"
        print(f"{_clear()}{self._place()} {self._name}: {what} · {elapsed}", end=end, file=sys.stderr, flush=True)

    def end(self, outcome: Outcome) -> None:
        self._expected += self._benches[self._name].seconds
        how = next((f"{word}: {outcome[key]}" for key, word in WORDS.items() if key in outcome), "measured")
        print(
            f"{_clear()}{self._place()} {self._name}: {how} ({outcome['seconds']:.0f} s)", file=sys.stderr, flush=True
        )

    def _place(self) -> str:
        return f"[{self._names.index(self._name) + 1}/{len(self._names)}]"

    def _remaining(self) -> str:
        """The expected remaining time, at the pace so far."""
        now = time.monotonic()
        pace = (self._started - self._began) / self._expected if self._expected else 1.0
        later = self._names[self._names.index(self._name) + 1 :]
        this = max(self._benches[self._name].seconds * pace - (now - self._started), 1)
        return _minutes(min(this + pace * sum(self._benches[name].seconds for name in later), max(self.left(), 0)))


WORDS = {"failed": "FAILED", "left_out": "left out"}


def _run(bench: Bench, environment: Environment, progress: _Progress) -> Outcome:
    # A bench reduces its rounds towards the end of its share; one that runs far beyond it is ended.
    share, limit = progress.share(), min(2 * progress.share(), progress.left())
    variables = os.environ | environment | {UNTIL: str(time.time() + 0.9 * share)}
    last_lines: deque[str] = deque(maxlen=40)
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            [sys.executable, "-m", bench.module],
            env=variables,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that all of it can be ended
        ) as process,
    ):
        listener = threading.Thread(target=_listen, args=(process.stderr or [], last_lines, progress))
        listener.start()
        late = ""
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = f"it was not ready within {limit:.0f} s; last line: {last_lines[-1] if last_lines else '-'}"
        finally:
            _end(process)
            listener.join()
        output.seek(0)
        if late:  # interrupted, it may have printed what it had
            partly = output.read()
            return dict(json.loads(partly)) if partly else {"failed": late}
        if process.returncode:
            print("\n".join(["", *last_lines]), file=sys.stderr)
            return {"failed": last_lines[-1] if last_lines else f"exit status {process.returncode}"}
        reported: Outcome = json.loads(output.read())
        return reported


def _listen(lines: Iterable[str], last_lines: deque[str], progress: _Progress) -> None:
    for line in lines:
        if text := line.rstrip():
            last_lines.append(text)
            progress.show(text)


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt it like Ctrl-C, so that it stops its processes; then kill the rest of its session."""
    with suppress(subprocess.TimeoutExpired):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _clear() -> str:
    return "\r\033[K" if sys.stderr.isatty() else ""


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
