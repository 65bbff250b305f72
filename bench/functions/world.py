"""What is measured and what it is measured against, as processes on one database."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from local import ROOT
from local.processes import tail
from local.stack import free_port
from local.temporary import migrated
from tests.support.serving import ENTRY, RECORD, environment, serving, token
from tests.support.world import ACME, PEOPLE, Database, populate

BIN = Path(sys.executable).parent
BODY = json.dumps(ENTRY | {"metadata": {"from": "bench"}}).encode()
CLAIMS = json.dumps({"sub": str(PEOPLE["member"]), "role": "authenticated"})


@contextmanager
def world(home: Path, *, durable: bool = False) -> Iterator[Database]:
    with migrated(home, durable=durable) as cluster:
        with cluster.connect() as connection:
            populate(connection)
        yield Database(cluster, "postgres")


def compiled() -> dict[str, str]:
    """Python as in a container image: with compiled bytecode."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", "functions", "shared"], cwd=ROOT, check=True)
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def reference_command(target: str) -> list[str]:
    source = str(ROOT / "bench/functions/reference.py")
    return [str(BIN / "functions-framework"), "--asgi", "--target", target, "--source", source]


def reference_environment(database: Database, port: int, login: str = "strive_functions") -> dict[str, str]:
    return compiled() | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATABASE_URL": database.url(login),
        "ORGANIZATION": str(ACME),
        "PERSON": str(PEOPLE["member"]),
        "CLAIMS": CLAIMS,
    }


@contextmanager
def reference(database: Database, target: str) -> Iterator[tuple[int, psutil.Process]]:
    """Bare functions-framework: its port and its worker process."""
    port = free_port()
    login = "postgres" if target in ("insert_as_owner", "keep_event") else "strive_functions"
    variables = reference_environment(database, port, login)
    process = subprocess.Popen(reference_command(target), env=variables, cwd=ROOT)
    try:
        await_answer(port)
        yield port, psutil.Process(process.pid).children()[0]
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def ours(home: Path, database: Database, **variables: str) -> Iterator[tuple[int, psutil.Process]]:
    settings = environment(database.url("strive_functions"), **variables)
    settings.pop("PYTHONDONTWRITEBYTECODE", None)
    with serving(home, settings) as running:
        yield running.port, psutil.Process(running.process.pid)


def await_answer(port: int, timeout: float = 120, log: Path | None = None) -> None:
    """Until the server at this port responds; the error of one that does not has the end of its log."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/robots.txt", timeout=timeout)  # no work for the functions
        except httpx.TransportError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"No response within {timeout:.0f} s. {tail(log) if log else ''}") from error
            time.sleep(0.05)
        else:
            return


def request(path: str, body: bytes = BODY, headers: Mapping[str, str] = {}) -> bytes:
    lines = ["content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: bench", *lines, "", ""]).encode() + body


def signed_in(body: bytes = BODY, **headers: str) -> bytes:
    return request(RECORD, body, {"authorization": f"Bearer {token()}", **headers})


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def postgres_cpu_seconds(database: Database) -> float:
    postmaster = database.cluster.process()
    assert postmaster
    total = 0.0
    for process in [postmaster, *postmaster.children(recursive=True)]:
        try:
            total += cpu_seconds(process)
        except psutil.NoSuchProcess:
            continue
    return total
