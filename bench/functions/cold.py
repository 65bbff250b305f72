"""From the start of a process to its first answer, and what a function's imports cost."""

import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.functions.world import compiled, reference_command, reference_environment, request, signed_in
from functions import names
from local import ROOT
from local.stack import free_port
from tests.functions.serving import environment
from tests.world import Database

ROUNDS = 5
GOAL = "ratio <= 1.3"
IMPORTS = """
import sys, time
import functions_framework.aio, uvicorn
before, began = set(sys.modules), time.process_time()
import functions.{name}, shared.runtime, shared.server
print(round((time.process_time() - began) * 1000, 1), len(set(sys.modules) - before))
"""


def measure(_home: Path, database: Database) -> dict[str, Any]:
    python = compiled()
    variables = {k: v for k, v in environment(database.url("strive_functions")).items() if k in python or k.isupper()}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    samples: dict[str, list[float]] = {"bare_hello": []}
    for _ in range(ROUNDS):
        port = free_port()
        command = reference_command("hello")
        samples["bare_hello"].append(_start(command, reference_environment(database, port), port, request("/")))
        for name in [*names(), "strive"]:
            settings = variables | {"FUNCTION_TARGET": name}
            # Whatever a function answers to a stranger, it takes all of it to answer; then once as somebody.
            for label, first in (("", request(f"/functions/v1/{name.replace('_', '-')}")), ("_signed_in", signed_in())):
                if label and name not in {"record_activity", "strive"}:
                    continue
                port = free_port()
                took = _start([sys.executable, "-m", "functions"], settings | {"PORT": str(port)}, port, first)
                samples.setdefault(name + label, []).append(took)
    bare = statistics.median(samples["bare_hello"])
    return {
        "goal": GOAL,
        "seconds": {name: round(statistics.median(found), 3) for name, found in samples.items()},
        "ratio": {name: round(statistics.median(found) / bare, 2) for name, found in samples.items()},
        "imports": {name: _imports(name, python) for name in names()},
    }


def _start(command: list[str], variables: dict[str, str], port: int, first: bytes) -> float:
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as connection:
                    connection.sendall(first)
                    if connection.recv(1):
                        return time.perf_counter() - began
            except OSError:
                assert process.poll() is None, command
                time.sleep(0.002)
    finally:
        process.terminate()
        process.wait(20)


def _imports(name: str, variables: dict[str, str]) -> dict[str, float]:
    """CPU milliseconds and modules beyond functions-framework; the least of several runs."""
    found = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", IMPORTS.format(name=name)],
            cwd=ROOT, env=variables, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append([float(word) for word in done.stdout.split()])
    milliseconds, modules = min(found)
    return {"cpu_ms": milliseconds, "modules": modules}
