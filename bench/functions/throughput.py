"""record-activity beside a bare endpoint that does one equal INSERT; one worker each."""

import json
import statistics
import time
from collections import defaultdict
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
from bench.rounds import Spread, ratios, rounds, spread
from tests.support.serving import ENTRY
from tests.support.world import ACME, PEOPLE, Database

TURN_SECONDS, ROUNDS = 0.75, 10
ALONE_SECONDS, ALONE_ROUNDS = 0.4, 6


class Contender:
    def __init__(self, port: int, process: Any, request: bytes, database: Database) -> None:
        self.port, self.process, self.request, self.database = port, process, request, database
        self.turns: dict[str, list[float]] = defaultdict(list)

    def turn(self, seconds: float = TURN_SECONDS) -> None:
        cpu, postgres = cpu_seconds(self.process), postgres_cpu_seconds(self.database)
        samples = load.run(self.port, self.request, connections=16, seconds=seconds)
        assert not samples.failures, samples.failures[0]
        count = len(samples.latencies)
        columns = {
            "per_second": samples.rate,
            "p50_ms": samples.percentile_ms(0.5),
            "p99_ms": samples.percentile_ms(0.99),
            "cpu_us_per_request": (cpu_seconds(self.process) - cpu) / count * 1e6,
            "postgres_cpu_us_per_request": (postgres_cpu_seconds(self.database) - postgres) / count * 1e6,
        }
        for name, value in columns.items():
            self.turns[name].append(value)

    def figures(self) -> dict[str, Spread]:
        return {name: spread(values) for name, values in self.turns.items()}


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
        for _ in rounds("throughput", ROUNDS):
            for contender in contenders.values():
                contender.turn()
        one = _one_connection(database, bare, contenders["record_activity"])
    mine, owner = contenders["record_activity"].turns, contenders["bare_as_owner"].turns
    return {
        "rate_ratio": ratios(mine["per_second"], bare.turns["per_second"]),
        "rate_ratio_to_owner": ratios(mine["per_second"], owner["per_second"]),
        "p99_ratio": ratios(mine["p99_ms"], bare.turns["p99_ms"]),
        "cpu_ratio": ratios(mine["cpu_us_per_request"], bare.turns["cpu_us_per_request"]),
        **{name: contender.figures() for name, contender in contenders.items()},
        "one_connection": one,
    }


def _call(database: Database) -> bytes:
    with database.connect() as connection:
        lead = connection.execute(
            "insert into public.leads (organization_id, name) values (%s, 'Bench') returning id", [ACME]
        ).fetchone()
    assert lead
    return json.dumps({"type": "CALL", "title": "Called", "lead_id": str(lead[0])}).encode()


def _one_connection(database: Database, bare: Contender, mine: Contender) -> dict[str, Spread]:
    """Median latencies of the statement alone, and of the endpoints, without other load."""
    medians: dict[str, list[float]] = {"statement": [], "bare": [], "record_activity": []}
    entry = ENTRY | {"metadata": '{"from": "bench"}'}
    values = [ACME, PEOPLE["member"], *(entry[name] for name in _COLUMNS), CLAIMS]
    with psycopg.connect(database.url("strive_functions"), autocommit=True) as connection:
        for _ in rounds("one connection", ALONE_ROUNDS):
            until, milliseconds = time.perf_counter() + ALONE_SECONDS, list[float]()
            while (began := time.perf_counter()) < until:
                connection.execute(INSERT, values).fetchone()
                milliseconds.append((time.perf_counter() - began) * 1000)
            medians["statement"].append(statistics.median(milliseconds))
            for name, contender in (("bare", bare), ("record_activity", mine)):
                answers = load.run(contender.port, contender.request, connections=1, seconds=ALONE_SECONDS)
                medians[name].append(answers.percentile_ms(0.5))
    return {f"{name}_p50_ms": spread(found) for name, found in medians.items()} | {
        "p50_ratio": ratios(medians["record_activity"], medians["bare"])
    }


_COLUMNS = ("type", "title", "entity_type", "entity_id", "action", "metadata")
