"""record-activity beside what people would choose instead, in one run.

The peers are a Supabase Edge Function on Deno with supabase-js, FastAPI with supabase-py, FastAPI with SQLAlchemy and
asyncpg, and no server at all: the rpc at the data API. All write into the same local stack. The data API is the
stand-in of this repository, or a real PostgREST with POSTGREST_BIN.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import peers
from bench.functions import load
from bench.functions.world import BODY, await_answer, cpu_seconds, request
from bench.rounds import ratios, rounds, spread
from local.processes import launch, stop
from local.stack import Stack, free_port
from tests.support.serving import RECORD
from tests.support.world import Database

DENO = ("deno@2", "@supabase/supabase-js@2")
PYTHON = ("fastapi", "uvicorn[standard]", "supabase", "sqlalchemy[asyncio]", "asyncpg", "pyjwt[crypto]")
SOURCES = Path(__file__).parent / "peer"
FOLDER = peers.HOME
ROUNDS, TURN_SECONDS, CONNECTIONS = 6, 0.75, 12
OURS = "record_activity"

Headers = dict[str, str]
# A port, the processes whose time counts, and the requests.
Contender = tuple[int, list[psutil.Process], list[bytes]]


def measure(home: Path, _database: Database) -> dict[str, Any]:
    absent: dict[str, str] = {}
    stack = Stack(home / "stack", durable=False)
    stack.start(0, 0)
    with ExitStack() as cleaning:
        cleaning.callback(stack.stop)
        tokens, variables = _callers(stack)
        contenders = {OURS: _ours(stack, tokens), "rpc": _rpc(stack, tokens)}
        if why := peers.npm(FOLDER / "deno", *DENO):
            absent["Deno"] = why
        else:
            contenders["deno"] = cleaning.enter_context(_deno(home, variables, tokens))
        if why := peers.pypi(FOLDER / "fastapi", *PYTHON):
            absent["FastAPI"] = why
        else:
            for name in ("with_supabase", "with_sqlalchemy"):
                contenders[name] = cleaning.enter_context(_fastapi(home, name, variables, tokens))
        found = _turns(contenders)
    return found | ({"absent": absent} if absent else {})


def _callers(stack: Stack) -> tuple[list[Headers], dict[str, str]]:
    """The headers of three members, since the data API bounds what one runs at a time; the environment of the peers."""
    values = stack.values()
    api, known = values["API_URL"], {"apikey": values["PUBLISHABLE_KEY"]}
    tokens = []
    for name in ("member", "admin", "owner"):
        person = {"email": f"{name}@acme.test", "password": "strive-demo-1"}
        session = httpx.post(f"{api}/auth/v1/token?grant_type=password", json=person, headers=known).json()
        tokens.append({"authorization": f"Bearer {session['access_token']}"})
    organizations = httpx.get(f"{api}/rest/v1/organizations?select=id", headers=known | tokens[0]).json()
    return tokens, {
        "ORGANIZATION": organizations[0]["id"],
        "SUPABASE_URL": api,
        "SUPABASE_PUBLISHABLE_KEY": values["PUBLISHABLE_KEY"],
        "JWKS_URL": values["JWKS_URL"],
        "DATABASE_URL": stack.database_url("strive_functions").replace("postgresql://", "postgresql+asyncpg://"),
    }


def _ours(stack: Stack, tokens: list[Headers]) -> Contender:
    process, ports = stack.processes()["functions"], stack.ports
    assert process
    assert ports
    return ports.functions, [process], [request(RECORD, BODY, each) for each in tokens]


def _rpc(stack: Stack, tokens: list[Headers]) -> Contender:
    service, ports = "postgrest" if "postgrest" in stack.services else "api", stack.ports
    process = stack.processes()[service]
    assert process
    assert ports
    key, body = {"apikey": stack.values()["PUBLISHABLE_KEY"]}, b'{"activity": %b}' % BODY
    return ports.api, [process], [request("/rest/v1/rpc/record_activity", body, each | key) for each in tokens]


@contextmanager
def _deno(home: Path, variables: dict[str, str], tokens: list[Headers]) -> Iterator[Contender]:
    folder, port = FOLDER / "deno", free_port()
    shutil.copy(SOURCES / "record-activity.ts", folder)
    allowed = ("--no-prompt", "--node-modules-dir=manual", "--allow-net", "--allow-env", "--allow-read")
    words: list[str | Path] = [folder / "node_modules/.bin/deno", "run", *allowed, folder / "record-activity.ts"]
    environment = peers.beside_node(folder) | variables | {"PORT": str(port)}
    with _running(home / "deno.log", words, environment, port) as process:
        yield port, [process, *process.children(recursive=True)], [request("/", BODY, each) for each in tokens]


@contextmanager
def _fastapi(home: Path, name: str, variables: dict[str, str], tokens: list[Headers]) -> Iterator[Contender]:
    port = free_port()
    words: list[str | Path] = [
        peers.python(FOLDER / "fastapi"),
        "-m",
        "uvicorn",
        f"{name}:app",
        "--port",
        str(port),
        "--no-access-log",
    ]
    environment = os.environ | variables | {"PYTHONPATH": str(SOURCES)}
    with _running(home / f"{name}.log", words, environment, port) as process:
        yield port, [process], [request("/", BODY, each) for each in tokens]


@contextmanager
def _running(log: Path, words: list[str | Path], environment: dict[str, str], port: int) -> Iterator[psutil.Process]:
    process = launch(words, log=log, cwd=log.parent, env=environment)
    try:
        await_answer(port, log=log)
        yield process
    finally:
        for each in process.children(recursive=True):
            each.kill()
        stop(process)


def _turns(contenders: dict[str, Contender]) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for port, _, sent in contenders.values():  # to warm up
        load.run(port, *sent, connections=CONNECTIONS, seconds=TURN_SECONDS)
    for _ in rounds("record-activity beside its peers", ROUNDS):
        for name, (port, processes, sent) in contenders.items():
            before = sum(map(cpu_seconds, processes))
            turn = load.run(port, *sent, connections=CONNECTIONS, seconds=TURN_SECONDS)
            assert not turn.failures, (name, turn.failures[0])
            cpu[name].append((sum(map(cpu_seconds, processes)) - before) / len(turn.latencies) * 1e6)
            rates[name].append(turn.rate)
    return {
        "rate_ratios": {name: ratios(rates[OURS], rates[name]) for name in contenders if name != OURS},
        **{name: {"per_second": spread(rates[name]), "cpu_us_per_request": spread(cpu[name])} for name in contenders},
    }
