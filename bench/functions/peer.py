"""record-activity beside what people would write instead: a Supabase Edge Function on Deno with supabase-js.

Both write into the same local stack; the peer goes through its data API, as it would on Supabase.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.functions import load
from bench.functions.world import BODY, cpu_seconds, request
from local import NODE, ROOT
from local.processes import launch
from local.stack import Stack, free_port
from tests.functions.serving import RECORD
from tests.world import Database

PACKAGES = ("deno@2", "@supabase/supabase-js@2")
TURNS = 12
TURN_SECONDS = 1.0


def measure(home: Path, _database: Database) -> dict[str, Any]:
    deno = _install(ROOT / ".strive" / "bench")
    stack = Stack(home / "stack", durable=False)
    stack.start(0, 0)
    try:
        return _compare(home, stack, deno)
    finally:
        stack.stop()


def _install(folder: Path) -> Path:
    """Outside the product, and only when asked for."""
    npm = NODE.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    folder.mkdir(parents=True, exist_ok=True)
    quietly = ("--no-save", "--no-audit", "--no-fund", "--loglevel=error")
    words: list[str | Path] = [NODE, npm, "install", *quietly, "--prefix", folder, *PACKAGES]
    subprocess.run(words, check=True, env=_environment(folder), stdout=sys.stderr)
    (folder / "record-activity.ts").write_text((Path(__file__).parent / "peer/record-activity.ts").read_text())
    return folder


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{NODE.parent}:{os.environ['PATH']}", "HOME": str(folder)}


def _compare(home: Path, stack: Stack, folder: Path) -> dict[str, Any]:
    values, ports, port = stack.values(), stack.ports, free_port()
    assert ports
    api, known = values["API_URL"], {"apikey": values["PUBLISHABLE_KEY"]}
    person = {"email": "member@acme.test", "password": "strive-demo-1"}
    session = httpx.post(f"{api}/auth/v1/token?grant_type=password", json=person, headers=known).json()
    token = {"authorization": f"Bearer {session['access_token']}"}
    organizations = httpx.get(f"{api}/rest/v1/organizations?select=id", headers=known | token).json()
    variables = {
        "PORT": str(port),
        "ORGANIZATION": organizations[0]["id"],
        "SUPABASE_URL": api,
        "SUPABASE_PUBLISHABLE_KEY": values["PUBLISHABLE_KEY"],
    }
    allowed = ("--no-prompt", "--node-modules-dir=manual", "--allow-net", "--allow-env", "--allow-read")
    words: list[str | Path] = [folder / "node_modules/.bin/deno", "run", *allowed, folder / "record-activity.ts"]
    deno = launch(words, log=home / "deno.log", cwd=folder, env=_environment(folder) | variables)
    try:
        _await_ready(home / "deno.log", deno)
        return _turns(
            {
                "deno": (port, _whole(deno), request("/", BODY, token)),
                "record_activity": (ports.functions, [_functions(stack)], request(RECORD, BODY, token)),
            }
        )
    finally:
        for process in _whole(deno):
            process.kill()


def _turns(contenders: dict[str, tuple[int, list[psutil.Process], bytes]]) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    samples = {name: load.Samples() for name in contenders}
    cpu = dict.fromkeys(contenders, 0.0)
    for _ in range(TURNS):
        for name, (port, processes, sent) in contenders.items():
            before = sum(map(cpu_seconds, processes))
            turn = load.run(port, sent, connections=16, seconds=TURN_SECONDS)
            assert not turn.failures, turn.failures[0]
            cpu[name] += sum(map(cpu_seconds, processes)) - before
            rates[name].append(turn.rate)
            samples[name].add(turn)
    ratios = [mine / peer for mine, peer in zip(rates["record_activity"], rates["deno"], strict=True)]
    figures = {
        name: {
            "per_second": round(found.rate),
            "p50_ms": round(found.percentile_ms(0.5), 2),
            "p99_ms": round(found.percentile_ms(0.99), 2),
            "cpu_us_per_request": round(cpu[name] / len(found.latencies) * 1e6),
        }
        for name, found in samples.items()
    }
    return {"rate_ratio": round(statistics.median(ratios), 2), **figures}


def _functions(stack: Stack) -> psutil.Process:
    process = stack.processes()["functions"]
    assert process
    return process


def _whole(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _await_ready(log: Path, process: psutil.Process) -> None:
    while "ready" not in log.read_text():
        assert process.is_running(), log.read_text()
