"""Ways through the same deliveries: ours, the peer's, and the least that keeps an event; over HTTP and in one process.

Each is warm when it is measured: the first deliveries go through the same connections before.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop
from psycopg_pool import AsyncConnectionPool
from pydantic_core import from_json

from bench import peers
from bench.functions.reference import KEEP
from bench.functions.world import cpu_seconds, ours, postgres_cpu_seconds, reference, request
from local import NODE
from shared.app.call import Result
from shared.billing.burst import Burst
from shared.billing.events import customer_of, delivery
from shared.billing.signatures import signed_by_stripe
from shared.database.pool import Database as Pool
from shared.settings import Settings
from tests.support.serving import environment
from tests.support.stripe_events import SECRET, WEBHOOK, signed
from tests.support.world import Database, Row

PACKAGE = "@supabase/stripe-sync-engine"
HOME = peers.HOME / "stripe"
CLAIMS = '{"role": "service_role"}'
PEER = Path(__file__).parent / "peer.mjs"

Bodies = Sequence[bytes]
Take = Callable[[bytes, dict[bytes, bytes]], Awaitable[Any]]


@dataclass(frozen=True)
class Sample:
    """`cpu_seconds` is that of the process, without Postgres."""

    events: int
    seconds: float
    cpu_seconds: float
    postgres_cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


@dataclass(frozen=True)
class Deliveries:
    warming: Bodies
    measured: Bodies

    @classmethod
    def of(cls, sent: Sequence[Row], warming: int) -> "Deliveries":
        bodies = [json.dumps(each).encode() for each in sent]
        return cls(bodies[:warming], bodies[warming:])


Contender = Callable[[Path, Database, Deliveries, int], Sample]


def over_http(home: Path, database: Database, sent: Deliveries, at_once: int) -> Sample:
    more = {"STRIPE_WEBHOOK_SECRETS": SECRET, "DATABASE_CONNECTIONS": str(at_once)}
    with ours(home, database, **more) as (port, process):
        return _served(database, port, process, sent, at_once)


def bare_over_http(_home: Path, database: Database, sent: Deliveries, at_once: int) -> Sample:
    with reference(database, "keep_event") as (port, process):
        return _served(database, port, process, sent, at_once)


def peer_over_http(_home: Path, database: Database, sent: Deliveries, at_once: int) -> Sample:
    with _peer(database, at_once) as process:
        port = int(_line(process))
        return _served(database, port, psutil.Process(process.pid), sent, at_once)


def in_process(_home: Path, database: Database, sent: Deliveries, at_once: int) -> Sample:
    variables = {"STRIPE_WEBHOOK_SECRETS": SECRET, "DATABASE_CONNECTIONS": str(at_once)}
    settings = Settings.read(environment(database.url("strive_functions"), **variables))

    async def work() -> Sample:
        pool, burst = Pool(settings), Burst()

        async def receive(together: str) -> Result[Any]:
            ran = await pool.run("private.receive_stripe_events", together, claims=CLAIMS, headers="{}")
            return Result(*ran)

        async def take(body: bytes, headers: dict[bytes, bytes]) -> None:
            signed_by_stripe(settings, headers, body)
            event = from_json(body)
            assert await burst.take(receive, delivery(event, body.decode(), livemode=False), customer_of(event))

        await pool.open()
        sample = await _taken(database, take, sent, at_once)
        await pool.close()
        return sample

    return uvloop.run(work())


def bare_in_process(_home: Path, database: Database, sent: Deliveries, at_once: int) -> Sample:
    async def work() -> Sample:
        async with AsyncConnectionPool(database.url(), kwargs={"autocommit": True}, min_size=at_once) as pool:

            async def take(body: bytes, _headers: dict[bytes, bytes]) -> None:
                async with pool.connection() as connection:
                    await connection.execute(KEEP, [body.decode()])

            return await _taken(database, take, sent, at_once)

    return uvloop.run(work())


def peer_in_process(home: Path, database: Database, sent: Deliveries, at_once: int) -> Sample:
    files = []
    for name, bodies in (("warming", sent.warming), ("measured", sent.measured)):
        lines = (json.dumps({"body": body.decode(), "signature": signed(body)["stripe-signature"]}) for body in bodies)
        files.append(home / f"{name}.jsonl")
        files[-1].write_text("\n".join(lines))
    with _peer(database, at_once, *files) as process:
        assert process.stdin
        assert _line(process) == "warm"
        before = postgres_cpu_seconds(database)
        process.stdin.write("on\n")
        report = json.loads(_line(process))
        postgres = postgres_cpu_seconds(database) - before
    assert not report["failed"], report
    return Sample(len(sent.measured), report["seconds"], report["cpu_seconds"], postgres)


WAYS: dict[str, Contender] = {
    "http": over_http,
    "bare_http": bare_over_http,
    "peer_http": peer_over_http,
    "in_process": in_process,
    "bare": bare_in_process,
    "peer": peer_in_process,
}


def _served(database: Database, port: int, process: psutil.Process, sent: Deliveries, at_once: int) -> Sample:
    warming, measured = (
        [request(WEBHOOK, body, {"stripe-signature": signed(body)["stripe-signature"]}) for body in bodies]
        for bodies in (sent.warming, sent.measured)
    )
    uvloop.run(_send(port, warming, at_once))
    before = cpu_seconds(process), postgres_cpu_seconds(database)
    seconds = uvloop.run(_send(port, measured, at_once))
    return Sample(len(measured), seconds, cpu_seconds(process) - before[0], postgres_cpu_seconds(database) - before[1])


async def _send(port: int, requests: Sequence[bytes], at_once: int) -> float:
    """Each connection sends the next event after its response."""
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


async def _taken(database: Database, take: Take, sent: Deliveries, at_once: int) -> Sample:
    def ready(bodies: Bodies) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return [(body, {b"stripe-signature": signed(body)["stripe-signature"].encode()}) for body in bodies]

    async def work(waiting: Iterator[tuple[bytes, dict[bytes, bytes]]]) -> None:
        await asyncio.gather(*(worker(waiting) for _ in range(at_once)))

    async def worker(waiting: Iterator[tuple[bytes, dict[bytes, bytes]]]) -> None:
        for body, headers in waiting:
            await take(body, headers)

    await work(iter(ready(sent.warming)))
    measured = ready(sent.measured)
    postgres, cpu, began = postgres_cpu_seconds(database), time.process_time(), time.perf_counter()
    await work(iter(measured))
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    return Sample(len(measured), seconds, spent, postgres_cpu_seconds(database) - postgres)


@contextmanager
def _peer(database: Database, at_once: int, *files: Path) -> Iterator[subprocess.Popen[str]]:
    """Serves HTTP without files; ends at the end of its input."""
    process = subprocess.Popen(
        [NODE, PEER, HOME, database.url(), str(at_once), *files],
        env=os.environ | {"WEBHOOK_SECRET": SECRET, "NODE_NO_WARNINGS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def install() -> str | None:
    """None, or why the peer is not available."""
    return peers.npm(HOME, PACKAGE)


def version() -> Any:
    return json.loads((HOME / "node_modules" / PACKAGE / "package.json").read_text())["version"]
