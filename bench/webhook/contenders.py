"""Three ways through the same deliveries: over HTTP, in one process, and the peer's."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop
from pydantic_core import from_json

from bench.functions.world import cpu_seconds, ours, request
from local import NODE, ROOT
from shared.billing.events import delivery
from shared.billing.signatures import signed_by_stripe
from shared.database import Database as Pool
from shared.settings import Settings
from tests.billing.told import SECRET, WEBHOOK, signed
from tests.functions.serving import environment
from tests.world import Database, Row

PACKAGE = "@supabase/stripe-sync-engine"
HOME = ROOT / ".strive/bench/stripe"


@dataclass(frozen=True)
class Sample:
    """`cpu_seconds` is that of the process, Postgres apart."""

    events: int
    seconds: float
    cpu_seconds: float
    postgres_cpu_seconds: float

    @property
    def figures(self) -> dict[str, float]:
        return {
            "per_second": round(self.events / self.seconds),
            "cpu_us_per_event": round(self.cpu_seconds / self.events * 1e6),
            "postgres_cpu_us_per_event": round(self.postgres_cpu_seconds / self.events * 1e6),
        }


def postgres_cpu_seconds(database: Database) -> float:
    """Those that have ended, too."""
    postmaster = database.cluster.process()
    assert postmaster
    total = sum(postmaster.cpu_times()[:4])
    for process in postmaster.children(recursive=True):
        try:
            total += cpu_seconds(process)
        except psutil.NoSuchProcess:
            continue
    return float(total)


def _settings(database: Database, at_once: int) -> dict[str, str]:
    return environment(
        database.url("strive_functions"), STRIPE_WEBHOOK_SECRETS=SECRET, DATABASE_CONNECTIONS=str(at_once)
    )


def over_http(home: Path, database: Database, sent: Sequence[Row], at_once: int) -> Sample:
    bodies = [json.dumps(each).encode() for each in sent]
    requests = [request(WEBHOOK, body, _without_type(signed(body))) for body in bodies]
    more = {"STRIPE_WEBHOOK_SECRETS": SECRET, "DATABASE_CONNECTIONS": str(at_once)}
    with ours(home, database, **more) as (port, process):
        uvloop.run(_send(port, requests[:1], 1))
        before = cpu_seconds(process), postgres_cpu_seconds(database)
        seconds = uvloop.run(_send(port, requests, at_once))
        return Sample(len(sent), seconds, cpu_seconds(process) - before[0], postgres_cpu_seconds(database) - before[1])


def _without_type(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "content-type"}


async def _send(port: int, requests: Sequence[bytes], at_once: int) -> float:
    """Each connection takes the next one as soon as its answer came."""
    waiting = iter(requests)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for each in waiting:
            writer.write(each)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200"), head + body
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(at_once)))
    return time.perf_counter() - began


def in_process(_home: Path, database: Database, sent: Sequence[Row], at_once: int) -> Sample:
    settings = Settings.read(_settings(database, at_once))
    deliveries = [
        (body, {name.encode(): value.encode() for name, value in signed(body).items()})
        for body in (json.dumps(each).encode() for each in sent)
    ]

    async def work() -> tuple[float, float]:
        pool = Pool(settings)
        await pool.open()
        waiting: Iterator[tuple[bytes, dict[bytes, bytes]]] = iter(deliveries)

        async def worker() -> None:
            for body, headers in waiting:
                signed_by_stripe(settings, headers, body)
                told = delivery(from_json(body), body.decode(), livemode=False)
                await pool.run("private.receive_stripe_event", told, claims='{"role":"service_role"}', headers="{}")

        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        spent = time.perf_counter() - began, time.process_time() - cpu
        await pool.close()
        return spent

    before = postgres_cpu_seconds(database)
    seconds, cpu = uvloop.run(work())
    return Sample(len(sent), seconds, cpu, postgres_cpu_seconds(database) - before)


def peer(home: Path, database: Database, sent: Sequence[Row], at_once: int) -> Sample:
    file = home / "deliveries.jsonl"
    lines = []
    for each in sent:
        body = json.dumps(each)
        lines.append(json.dumps({"body": body, "signature": signed(body.encode())["stripe-signature"]}))
    file.write_text("\n".join(lines))
    before = postgres_cpu_seconds(database)
    done = subprocess.run(
        [NODE, Path(__file__).parent / "peer.mjs", HOME, database.url(), file, str(at_once)],
        env=os.environ | {"WEBHOOK_SECRET": SECRET, "NODE_NO_WARNINGS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    told = json.loads(done.stdout)
    assert not told["failed"], told
    return Sample(len(sent), told["seconds"], told["cpu_seconds"], postgres_cpu_seconds(database) - before)


def install() -> str | None:
    """Outside the product, and only when asked for; why not, if it cannot be had."""
    npm = NODE.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    HOME.mkdir(parents=True, exist_ok=True)
    words = ("--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", HOME, PACKAGE)
    variables = os.environ | {"PATH": f"{NODE.parent}:{os.environ['PATH']}", "HOME": str(HOME)}
    done = subprocess.run([NODE, npm, "install", *words], env=variables, stdout=sys.stderr, check=False)
    return f"npm could not install {PACKAGE}" if done.returncode else None


def version() -> Any:
    return json.loads((HOME / "node_modules" / PACKAGE / "package.json").read_text())["version"]


Contender = Callable[[Path, Database, Sequence[Row], int], Sample]
