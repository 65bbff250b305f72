"""evaluate-flag over HTTP beside what the same server takes to say that it is there, in turns; one worker.

bare_hello is another server, functions-framework with nothing of ours: no caller, no log, no bounds.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from psycopg.types.json import Jsonb

from bench.flags import workload
from bench.functions import load
from bench.functions.world import cpu_seconds, ours, reference, request, world
from bench.rounds import ratios, rounds, spread
from tests.support.served_flags import EVALUATE, FLAGS
from tests.support.serving import SECRET_KEY, token
from tests.support.world import PEOPLE, Database

ROUNDS, TURN_SECONDS = 6, 0.4
USERS = ("owner", "admin", "member", "viewer", "globex_owner", "outsider")


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as database:
        _store(database)
        with reference(database, "hello") as bare, ours(Path(folder), database) as (port, process):
            # Returning users, and many more users than cached responses.
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
                "one_user": (
                    port,
                    process,
                    [request(f"{FLAGS}/flag-7", body, {"authorization": f"Bearer {token(name)}"}) for name in USERS],
                ),
                "all": (port, process, [request(FLAGS, each, key) for each in bodies[: workload.USERS]]),
                "all_anew": (port, process, [request(FLAGS, each, key) for each in bodies]),
                "unchanged": (port, process, [request(FLAGS, body, key | {"if-none-match": tag})]),
            }
            return _compare(database, requests)


_JSON = {"content-type": "application/json"}


def _compare(database: Database, requests: dict[str, tuple[int, Any, list[bytes]]]) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in requests}
    cpu: dict[str, list[float]] = {name: [] for name in requests}
    for port, _, sent in requests.values():  # to warm up
        load.run(port, *sent, connections=16, seconds=TURN_SECONDS)
    before, began = _transactions(database), time.monotonic()
    for _ in rounds("flags over HTTP", ROUNDS):
        for name, (port, process, sent) in requests.items():
            used = cpu_seconds(process)
            samples = load.run(port, *sent, connections=16, seconds=TURN_SECONDS)
            assert not samples.failures, samples.failures[0]
            rates[name].append(samples.rate)
            cpu[name].append((cpu_seconds(process) - used) / len(samples.latencies) * 1e6)
    return {
        "transactions_per_second": round((_transactions(database) - before) / (time.monotonic() - began), 2),
        "unchanged_of_all": ratios(rates["unchanged"], rates["all"]),
        **{
            name: {
                "per_second": spread(rates[name]),
                "of_hello": ratios(rates[name], rates["hello"]),
                "cpu_us_per_request": spread(cpu[name]),
            }
            for name in requests
        },
    }


def _transactions(database: Database) -> int:
    """Transactions of this database, a second after the last one: Postgres reports them late."""
    time.sleep(1.5)
    with database.connect() as connection:
        row = connection.execute(
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        ).fetchone()
    assert row
    return int(row[0])


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
