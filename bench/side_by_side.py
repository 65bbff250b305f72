"""Two ways to the same rows on one database: as a member through the policies, and by hand without them, in turns."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bench.population import MEMBER, TENANT, Connection
from bench.rounds import Spread, ratios, rounds, spread
from local.postgres import Cluster

Work = Callable[[Connection], Any]


def compare(
    own: Cluster, what: str, ours: Work, reference: Work, *, count: int = 5, repeats: int = 5, secured: bool = False
) -> dict[str, Spread]:
    """`ours` as a member of the first organization; the reference as `postgres`, or as that member too (`secured`).

    Milliseconds of waiting, and the ratio of the processor time of the backends. What is written is rolled back.
    """
    waited: tuple[list[float], list[float]] = [], []
    used: tuple[list[float], list[float]] = [], []
    with own.connect("authenticator") as member, own.connect("authenticator" if secured else "postgres") as bare:
        for connection, role in ((member, "authenticated"), (bare, "authenticated" if secured else "postgres")):
            connection.autocommit = False
            enter(connection, MEMBER, TENANT, role)
        sides = ((member, ours, 0), (bare, reference, 1))
        for connection, work, _ in sides:
            for _ in range(repeats + 1):  # Postgres settles on a plan at the sixth
                work(connection)
        for _ in rounds(what, count):
            for connection, work, side in sides:
                walls, cpus = zip(*(_once(connection, work) for _ in range(repeats)), strict=True)
                waited[side].append(statistics.median(walls) * 1000)
                used[side].append(statistics.median(cpus) * 1000)
        member.rollback()
        bare.rollback()
    return {
        "ms": spread(waited[0]),
        "reference_ms": spread(waited[1]),
        "cpu_ms": spread(used[0]),
        "ratio": ratios(*used),
        "waiting_ratio": ratios(*waited),
    }


def statement(text: str, **values: Any) -> Work:
    return lambda connection: connection.execute(text, values, prepare=True).fetchall()


def enter(connection: Connection, user: str, organization: str, role: str) -> None:
    """As PostgREST begins a transaction."""
    claims = {"sub": user, "role": "authenticated", "app_metadata": {"org_id": organization}}
    headers = {"host": "api.strive.test", "user-agent": "bench", "x-forwarded-for": "192.0.2.1", "accept": "*/*"}
    connection.execute(
        "select set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)",
        [json.dumps(claims), json.dumps(headers)],
    )
    connection.execute(f"set local role {role}")


def processor(pid: int) -> float:
    """CPU seconds of this process, finer than hundredths on Linux."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


def _once(connection: Connection, work: Work) -> tuple[float, float]:
    pid = connection.info.backend_pid
    before, began = processor(pid), time.perf_counter()
    work(connection)
    return time.perf_counter() - began, processor(pid) - before
