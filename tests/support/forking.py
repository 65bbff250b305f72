"""Starts `python -m functions` by forking a process that has imported it: a small part of the CPU of a start."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from local import ROOT

# Reads one JSON object per line: {"environment", "log"} forks, {"wait": pid} reaps; the answer is one number per line.
PROGRAM = """
import gc, json, os, runpy, sys
import cryptography.hazmat.primitives.asymmetric.ec, functions_framework.aio, httpx, jwt, psycopg_pool, pydantic
import functions, shared.app.openapi, shared.app.runtime, shared.app.server, stripe, uvicorn

list(functions.load(functions.ALL))  # modules of functions read no environment
gc.freeze()

for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        pid, status = os.waitpid(order["wait"], os.WNOHANG)
        print(os.waitstatus_to_exitcode(status) if pid else "", flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        output = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = ["functions"]
        runpy.run_module("functions", run_name="__main__", alter_sys=True)
        break
"""


class Forked:
    """A forked process, with the methods of subprocess.Popen that tests use."""

    def __init__(self, parent: "Parent", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent

    def poll(self) -> int | None:
        if self.returncode is None:
            status = self._parent.order(wait=self.pid)
            self.returncode = int(status) if status else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("functions", timeout)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Parent:
    """The process that is forked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = Lock()

    def start(self, environment: Mapping[str, str], log: Path) -> Forked:
        return Forked(self, int(self.order(environment=dict(environment), log=str(log))))

    def order(self, **order: object) -> str:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.communicate()


parent: Parent | None = None  # set while tests run; benches start processes as in production


@contextmanager
def preloaded() -> Iterator[None]:
    global parent  # noqa: PLW0603 - one process for all tests of a worker
    parent = Parent()
    try:
        yield
    finally:
        parent.stop()
        parent = None
