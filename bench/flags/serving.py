"""evaluate-flag over HTTP beside what the same server takes to say that it is there, in turns; one worker.

bare_hello is another server, functions-framework with nothing of ours: no caller, no log, no bounds.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx
from psycopg.types.json import Jsonb

from bench.flags import workload
from bench.functions import load
from bench.functions.world import cpu_seconds, ours, postgres_cpu_seconds, reference, request, world
from tests.functions.flags import EVALUATE, FLAGS
from tests.functions.serving import SECRET_KEY
from tests.world import PEOPLE, Database

TURNS = 12
TURN_SECONDS = 0.5
GOALS = {
    "one": ">= 0.6 of hello",
    "all": ">= 0.4 of hello",
    "all_anew": "beside all: every answer is made, none remembered",
    "unchanged": "above all",
    "postgres_cpu_us_per_request": "about nothing",
}


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as database:
        _store(database)
        with reference(database, "hello") as bare, ours(Path(folder), database) as (port, process):
            # Of users who come back, and of many more than answers are remembered.
            bodies = [
                json.dumps({"context": {"targetingKey": f"{turn}-{user['id']}", **user}}).encode()
                for turn in range(5)
                for user in workload.users()
            ]
            body = bodies[0]
            key = {"apikey": SECRET_KEY}
            tag = httpx.post(f"http://127.0.0.1:{port}{FLAGS}", content=body, headers=key | _JSON).headers["etag"]
            requests = {
                "bare_hello": (*bare, [request("/", b"{}")]),
                "hello": (port, process, [b"GET /healthz HTTP/1.1\r\nhost: bench\r\n\r\n"]),
                "one": (port, process, [request(f"{FLAGS}/flag-7", body, key)]),
                "one_plain": (port, process, [request(EVALUATE, b'{"flag":"flag-7","context":' + body[12:], key)]),
                "all": (port, process, [request(FLAGS, each, key) for each in bodies[: workload.USERS]]),
                "all_anew": (port, process, [request(FLAGS, each, key) for each in bodies]),
                "unchanged": (port, process, [request(FLAGS, body, key | {"if-none-match": tag})]),
            }
            return {"goals": GOALS, **_compare(database, requests)}


_JSON = {"content-type": "application/json"}


def _compare(database: Database, requests: dict[str, tuple[int, Any, list[bytes]]]) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in requests}
    count, cpu, postgres = (dict.fromkeys(requests, 0.0) for _ in range(3))
    for turn in range(TURNS + 1):
        for name, (port, process, sent) in requests.items():
            before, before_postgres = cpu_seconds(process), postgres_cpu_seconds(database)
            samples = load.run(port, *sent, connections=16, seconds=TURN_SECONDS)
            assert not samples.failures, samples.failures[0]
            if turn == 0:
                continue  # to warm up
            rates[name].append(samples.rate)
            count[name] += len(samples.latencies)
            cpu[name] += cpu_seconds(process) - before
            postgres[name] += postgres_cpu_seconds(database) - before_postgres
    hello = cpu["hello"] / count["hello"]
    return {
        name: {
            "per_second": round(statistics.median(rates[name])),
            "of_hello_by_rate": round(
                statistics.median(a / b for a, b in zip(rates[name], rates["hello"], strict=True)), 2
            ),
            "of_hello_by_cpu": round(hello / (cpu[name] / count[name]), 2),
            "cpu_us_per_request": round(cpu[name] / count[name] * 1e6),
            "postgres_cpu_us_per_request": round(postgres[name] / count[name] * 1e6, 1),
        }
        for name in requests
    }


def _store(database: Database) -> None:
    rows = [workload.ours(flag) | {"name": flag["name"]} for flag in workload.flags(full=True)]
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.feature_flags"
            " (name, is_enabled, rollout_percent, target_tiers, target_users, conditions, created_by)"
            ' values (%(name)s, true, %(rollout_percent)s, %(target_tiers)s::"SubscriptionTier"[],'
            " %(target_users)s::uuid[], %(conditions)s, %(by)s)",
            [row | {"conditions": Jsonb(row["conditions"]), "by": PEOPLE["owner"]} for row in rows],
        )
