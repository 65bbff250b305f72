"""record-activity beside a bare endpoint that does one equal INSERT; one worker each."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import psycopg

from bench.functions import load
from bench.functions.reference import INSERT
from bench.functions.world import (
    CLAIMS,
    cpu_seconds,
    ours,
    postgres_cpu_seconds,
    reference,
    request,
    signed_in,
)
from tests.functions.serving import ENTRY
from tests.world import ACME, PEOPLE, Database

TURN_SECONDS = 0.5
TURNS = 24
GOALS = {
    "rate_ratio": ">= 0.85",
    "p99_ratio": "<= 2.0",
    "cpu_us_per_request": "<= 230",
    "added_p50_ms_at_one_connection": "<= 0.4",
}


class Contender:
    def __init__(self, port: int, process: Any, request: bytes, database: Database) -> None:
        self.port, self.process, self.request, self.database = port, process, request, database
        self.samples, self.rates = load.Samples(), list[float]()
        self.cpu = self.postgres_cpu = 0.0

    def turn(self, connections: int = 16, seconds: float = TURN_SECONDS) -> None:
        cpu, postgres = cpu_seconds(self.process), postgres_cpu_seconds(self.database)
        samples = load.run(self.port, self.request, connections=connections, seconds=seconds)
        assert not samples.failures, samples.failures[0]
        self.cpu += cpu_seconds(self.process) - cpu
        self.postgres_cpu += postgres_cpu_seconds(self.database) - postgres
        self.samples.add(samples)
        self.rates.append(samples.rate)

    def figures(self) -> dict[str, float]:
        count = len(self.samples.latencies)
        return {
            "requests": count,
            "per_second": round(self.samples.rate),
            "p50_ms": round(self.samples.percentile_ms(0.5), 2),
            "p99_ms": round(self.samples.percentile_ms(0.99), 2),
            "cpu_us_per_request": round(self.cpu / count * 1e6),
            "postgres_cpu_us_per_request": round(self.postgres_cpu / count * 1e6),
        }


def measure(home: Path, database: Database) -> dict[str, Any]:
    with (
        reference(database, "insert") as (port, process),
        reference(database, "insert_as_owner") as (owner_port, owner_process),
        ours(home, database) as (our_port, our_process),
    ):
        bare = Contender(port, process, request("/"), database)
        contenders = {
            "bare": bare,
            "bare_as_owner": Contender(owner_port, owner_process, request("/"), database),
            "record_activity": Contender(our_port, our_process, signed_in(), database),
            "record_activity_on_a_lead": Contender(our_port, our_process, signed_in(_call(database)), database),
        }
        for contender in contenders.values():
            load.run(contender.port, contender.request, connections=16, seconds=1.0)
        for _ in range(TURNS):
            for contender in contenders.values():
                contender.turn()
        one = _one_connection(database, bare, contenders["record_activity"])
    figures: dict[str, Any] = {name: contender.figures() for name, contender in contenders.items()}
    mine = contenders["record_activity"]
    return {
        "goals": GOALS,
        "rate_ratio": _ratio(mine, bare),
        "rate_ratio_to_owner": _ratio(mine, contenders["bare_as_owner"]),
        "p99_ratio": round(mine.samples.percentile_ms(0.99) / bare.samples.percentile_ms(0.99), 2),
        **figures,
        "one_connection": one,
    }


def _ratio(mine: Contender, bare: Contender) -> float:
    """Of turns that followed each other."""
    return round(statistics.median(a / b for a, b in zip(mine.rates, bare.rates, strict=True)), 3)


def _call(database: Database) -> bytes:
    with database.connect() as connection:
        lead = connection.execute(
            "insert into public.leads (organization_id, name) values (%s, 'Bench') returning id", [ACME]
        ).fetchone()
    assert lead
    return json.dumps({"type": "CALL", "title": "Called", "lead_id": str(lead[0])}).encode()


def _one_connection(database: Database, bare: Contender, mine: Contender) -> dict[str, float]:
    """Median latency of the statement alone, and of the endpoints, with nobody else waiting."""
    samples: dict[str, list[float]] = {"statement": [], "bare": [], "record_activity": []}
    entry = ENTRY | {"metadata": '{"from": "bench"}'}
    values = [ACME, PEOPLE["member"], *(entry[name] for name in _COLUMNS), CLAIMS]
    with psycopg.connect(database.url("strive_functions"), autocommit=True) as connection:
        for _ in range(8):
            until = time.perf_counter() + TURN_SECONDS
            while (began := time.perf_counter()) < until:
                connection.execute(INSERT, values).fetchone()
                samples["statement"].append(time.perf_counter() - began)
            for name, contender in (("bare", bare), ("record_activity", mine)):
                answers = load.run(contender.port, contender.request, connections=1, seconds=TURN_SECONDS)
                samples[name] += answers.latencies
    medians = {f"{name}_p50_ms": round(statistics.median(found) * 1000, 3) for name, found in samples.items()}
    added = medians["record_activity_p50_ms"] - medians["statement_p50_ms"]
    return medians | {"added_p50_ms": round(added, 3)}


_COLUMNS = ("type", "title", "entity_type", "entity_id", "action", "metadata")
