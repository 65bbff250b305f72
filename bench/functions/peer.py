"""record-activity beside what people would write instead: a Supabase Edge Function on Deno with supabase-js.

Both write into the same local stack; the peer goes through its data API, as it would on Supabase.
"""

import shutil
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import peers
from bench.functions import load
from bench.functions.world import BODY, cpu_seconds, request
from bench.rounds import ratios, rounds, spread
from local.processes import launch
from local.stack import Stack, free_port
from tests.support.serving import RECORD
from tests.support.world import Database

PACKAGES = ("deno@2", "@supabase/supabase-js@2")
FOLDER = peers.HOME / "deno"
ROUNDS, TURN_SECONDS = 6, 0.75


def measure(home: Path, _database: Database) -> dict[str, Any]:
    if why := peers.npm(FOLDER, *PACKAGES):
        return {"absent": {"Deno": why}}
    shutil.copy(Path(__file__).parent / "peer/record-activity.ts", FOLDER)
    stack = Stack(home / "stack", durable=False)
    stack.start(0, 0)
    try:
        return _compare(home, stack, FOLDER)
    finally:
        stack.stop()


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
    deno = launch(words, log=home / "deno.log", cwd=folder, env=peers.beside_node(folder) | variables)
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
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for port, _, sent in contenders.values():  # to warm up
        load.run(port, sent, connections=16, seconds=TURN_SECONDS)
    for _ in rounds("record-activity beside Deno", ROUNDS):
        for name, (port, processes, sent) in contenders.items():
            before = sum(map(cpu_seconds, processes))
            turn = load.run(port, sent, connections=16, seconds=TURN_SECONDS)
            assert not turn.failures, turn.failures[0]
            cpu[name].append((sum(map(cpu_seconds, processes)) - before) / len(turn.latencies) * 1e6)
            rates[name].append(turn.rate)
    return {
        "rate_ratio": ratios(rates["record_activity"], rates["deno"]),
        **{name: {"per_second": spread(rates[name]), "cpu_us_per_request": spread(cpu[name])} for name in contenders},
    }


def _functions(stack: Stack) -> psutil.Process:
    process = stack.processes()["functions"]
    assert process
    return process


def _whole(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _await_ready(log: Path, process: psutil.Process) -> None:
    while "ready" not in log.read_text():
        assert process.is_running(), log.read_text()
