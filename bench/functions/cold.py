"""From the start of a process to its first answer, and what a function's imports cost."""

import json
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.functions.world import compiled, reference_command, reference_environment, request, signed_in
from bench.rounds import ratios, rounds, spread
from functions import names
from local import ROOT
from local.stack import free_port
from tests.support.serving import environment
from tests.support.world import Database

ROUNDS = 5
# A start costs what its imports cost; a start of each of sixty functions and jobs would take minutes.
STARTED = 4
# Each function in its own child of a process that has imported functions-framework only.
IMPORTS = """
import json, os, sys, time
import functions_framework.aio, uvicorn
names = sys.argv[1:]
for name in names:
    reading, writing = os.pipe()
    if os.fork() == 0:
        before, began = set(sys.modules), time.process_time()
        from functions import load
        list(load(name))
        import shared.app.runtime, shared.app.server
        found = {"cpu_ms": (time.process_time() - began) * 1000, "modules": len(set(sys.modules) - before)}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    print(os.read(reading, 1000).decode())
    os.close(reading)
"""


def measure(_home: Path, database: Database) -> dict[str, Any]:
    python = compiled()
    variables = {k: v for k, v in environment(database.url("strive_functions")).items() if k in python or k.isupper()}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    samples: dict[str, list[float]] = {"bare_hello": []}
    imports: dict[str, list[float]] = {name: [] for name in names()}
    modules: dict[str, int] = {}
    for _ in rounds("imports", 3):
        for name, imported in _imports(python).items():
            imports[name].append(imported["cpu_ms"])
            modules[name] = int(imported["modules"])
    dearest = sorted(names(), key=lambda name: -modules[name])[:STARTED]
    # Even an unauthenticated request needs the whole function; then one authenticated request.
    starts = [(name, name, request(f"/functions/v1/{name.replace('_', '-')}")) for name in [*dearest, "strive"]]
    starts += [(f"{name}_signed_in", name, signed_in()) for name in ("record_activity", "strive")]
    for _ in rounds("cold starts", ROUNDS):
        bare = [_bare(database)]
        for label, name, first in starts:
            port = free_port()
            settings = variables | {"FUNCTION_TARGET": name, "PORT": str(port)}
            measured = _start([sys.executable, "-m", "functions"], settings, port, first)
            samples.setdefault(label, []).append(measured)
        bare.append(_bare(database))
        samples["bare_hello"].append(statistics.mean(bare))
    ratio = {name: ratios(measured, samples["bare_hello"]) for name, measured in samples.items()}
    slowest = max(dearest, key=lambda name: ratio[name]["median"])
    return {
        "slowest": {"function": slowest, **ratio[slowest]},
        "seconds": {name: spread(measured) for name, measured in samples.items()},
        "ratio": ratio,
        "imports": {name: {"cpu_ms": spread(measured), "modules": modules[name]} for name, measured in imports.items()},
    }


def _bare(database: Database) -> float:
    port = free_port()
    return _start(reference_command("hello"), reference_environment(database, port), port, request("/"))


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


def _imports(variables: dict[str, str]) -> dict[str, dict[str, float]]:
    """CPU milliseconds and modules of each function, beyond functions-framework."""
    words = [sys.executable, "-c", IMPORTS, *names()]
    done = subprocess.run(words, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return {name: json.loads(line) for name, line in zip(names(), done.stdout.splitlines(), strict=True)}
