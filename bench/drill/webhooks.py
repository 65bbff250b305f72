"""10,000 events for 20 receivers, two hostile, while sender and database are killed: `python -m bench.drill.webhooks`.

No event may be lost, and those of a record arrive in order; exit status 1 if not. Then the delay from a commit to the
receiver, and what 5,000 queued events cost other requests.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg

from local import ROOT
from local.postgres import Cluster
from local.processes import alive
from local.stack import free_port
from local.temporary import migrated
from tests.support.serving import CRON_KEY, ENTRY, RECORD, Serving, environment, serving
from tests.support.world import ACME, GLOBEX, populate

EVENTS, ENDPOINTS, RECORDS = 10_000, 20, 50
HANGING, WRONG = 0, 1
SENDER_KILLS = 8
SECONDS_OF_LIFE = 1.5
QUEUED, REQUESTS, SINGLE_EVENTS = 5_000, 300, 100
# Notes each request when it arrives: the path, the record, the number of the event, the time.
RECEIVER = """
import asyncio, json, sys, time, uvicorn
file = open(sys.argv[2], 'a', buffering=1)
async def app(scope, receive, send):
    body, more = b'', True
    while more:
        message = await receive()
        body, more = body + message.get('body', b''), message.get('more_body', False)
    data = json.loads(body)['data']
    place = int(scope['path'][1:])
    print(place, data['subject']['id'], data['details']['n'], time.time(), file=file)
    if place == 0:
        await asyncio.sleep(3600)
    await send({'type': 'http.response.start', 'status': 500 if place == 1 else 204, 'headers': []})
    await send({'type': 'http.response.body', 'body': b''})
uvicorn.run(app, host='127.0.0.1', port=int(sys.argv[1]), log_level='critical', lifespan='off')
"""
PUBLISH = """select private.publish_events(array_agg(
  (kind, organization, 'drill', record, null, null, '{}', jsonb_build_object('n', n), null, null, null)::private.event
  order by place))
from unnest(%s::text[], %s::uuid[], %s::uuid[], %s::int[]) with ordinality e (kind, organization, record, n, place)"""
Arrival = tuple[int, str, int, float]


def main() -> None:
    with tempfile.TemporaryDirectory() as home, migrated(Path(home) / "postgres", durable=True) as cluster:
        folder = Path(home)
        noted, port = folder / "noted", free_port()
        noted.touch()
        words = [sys.executable, "-c", RECEIVER, str(port), str(noted)]
        receiver = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            result = drill(cluster, folder, noted, f"http://127.0.0.1:{port}")
        finally:
            receiver.kill()
            receiver.wait()
    print(json.dumps(result, indent=2))
    sys.exit(bool(result["lost"] or result["out_of_order"]))


def drill(cluster: Cluster, folder: Path, noted: Path, address: str) -> dict[str, Any]:
    variables = environment(cluster.url("strive_functions"), WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8")
    with cluster.connect() as connection:
        populate(connection)
        kinds = subscribe(connection, address)
        sent = publish(connection, kinds)
    started = time.monotonic()
    is_over = threading.Event()
    sender = threading.Thread(target=send, args=(cluster, folder, variables, is_over))
    sender.start()
    waiting = "select count(*) from public.webhook_deliveries where status = 'PENDING' and kind <> all (%s)"
    while True:
        with suppress(psycopg.OperationalError), cluster.connect() as connection:
            if connection.execute(waiting, [kinds[:2]]).fetchone() == (0,):
                break
        time.sleep(0.2)  # between two looks at the queue
    took = time.monotonic() - started
    arrived = arrivals(noted)
    with cluster.connect() as connection:
        delays = single_events(connection, kinds[2], noted)
        is_over.set()
        sender.join()
        costs = requests_beside(connection, folder, variables, kinds[2:])
    return counted(sent, arrived) | {
        "sender_kills": SENDER_KILLS,
        "postgres_kills": 1,
        "seconds": round(took, 1),
        "delay_p50_ms": round(statistics.median(delays) * 1000),
        "delay_p95_ms": round(statistics.quantiles(delays, n=20)[-1] * 1000),
        **costs,
    }


def subscribe(connection: psycopg.Connection[Any], address: str) -> list[str]:
    """An endpoint for each kind, half of them of another organization; the first two are hostile."""
    connection.execute("update private.event_kinds set details = details || '{\"n\": {}}'")
    kinds = [kind for (kind,) in connection.execute(
        "select kind from private.event_kinds where is_webhook order by kind limit %s", [ENDPOINTS]
    )]  # fmt: skip
    for place, kind in enumerate(kinds):
        connection.execute(
            "with made as ("
            " insert into public.webhook_endpoints (organization_id, url, kinds) values (%s, %s, %s) returning id"
            ") insert into private.webhook_secrets (endpoint_id, secret)"
            " select id, private.new_webhook_secret() from made",
            [organization(place), f"{address}/{place}", [kind]],
        )
    return kinds


def organization(place: int) -> UUID:
    return (ACME, GLOBEX)[place % 2]


def publish(connection: psycopg.Connection[Any], kinds: list[str]) -> dict[int, dict[str, int]]:
    """How many events each record of each endpoint got."""
    chance = random.Random(7)
    records = {place: [str(uuid4()) for _ in range(RECORDS)] for place in range(ENDPOINTS)}
    sent: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    rows = []
    for number in range(EVENTS):
        place = number % ENDPOINTS
        record = chance.choice(records[place])
        rows.append((kinds[place], organization(place), record, sent[place][record]))
        sent[place][record] += 1
    connection.execute(PUBLISH, [list(column) for column in zip(*rows, strict=True)])
    return sent


def send(cluster: Cluster, folder: Path, variables: dict[str, str], is_over: threading.Event) -> None:
    """Runs of the job one after the other; the first processes are killed in the middle of one, once with Postgres."""
    for number in range(SENDER_KILLS + 1):
        with serving(folder, variables) as functions:
            if number < SENDER_KILLS:
                # How long a sender lives is the fault of this drill. The counts do not depend on it.
                is_worse = number == SENDER_KILLS // 2
                threading.Timer(SECONDS_OF_LIFE, kill, (functions, cluster if is_worse else None)).start()
            with suppress(httpx.HTTPError), functions.client(None, apikey=CRON_KEY) as client:
                while not is_over.is_set():
                    client.post("/functions/v1/deliver-webhooks", json={"wait": number == SENDER_KILLS}, timeout=120)
        with cluster.connect() as connection:
            # As if the minute had passed for which the dead sender had claimed them.
            connection.execute(
                "update public.webhook_deliveries set next_attempt_at = now()"
                " where status = 'PENDING' and response_status is null and error is null and attempts > 0"
            )


def kill(functions: Serving, cluster: Cluster | None) -> None:
    if cluster and (postgres := cluster.process()):
        postgres.kill()
        while alive(postgres):
            time.sleep(0.01)
        cluster.start()
    os.kill(functions.process.pid, signal.SIGKILL)


def arrivals(noted: Path) -> list[Arrival]:
    lines = (line.split() for line in noted.read_text().splitlines())
    return [(int(place), record, int(number), float(at)) for place, record, number, at in lines]


def counted(sent: dict[int, dict[str, int]], arrived: list[Arrival]) -> dict[str, Any]:
    """What arrived, against what was sent. A repeated event counts in the order by its first arrival."""
    first: dict[tuple[int, str], list[int]] = defaultdict(list)
    repeated = 0
    for place, record, number, _ in arrived:
        if number in first[place, record]:
            repeated += place > WRONG
        else:
            first[place, record].append(number)
    friendly = [place for place in range(ENDPOINTS) if place > WRONG]
    return {
        "events": sum(sum(records.values()) for records in sent.values()),
        "endpoints": ENDPOINTS,
        "delivered": sum(len(first[place, record]) for place in friendly for record in sent[place]),
        "lost": sum(count - len(first[place, record]) for place in friendly for record, count in sent[place].items()),
        # An endpoint that accepts nothing gets nothing but the first event of each record.
        "out_of_order": sum(
            any(a > b for a, b in pairwise(numbers)) or (place <= WRONG and numbers != [0])
            for (place, _), numbers in first.items() if numbers
        ),
        "repeated": repeated,
        "attempts_hanging": sum(place == HANGING for place, *_ in arrived),
        "attempts_wrong": sum(place == WRONG for place, *_ in arrived),
    }  # fmt: skip


def single_events(connection: psycopg.Connection[Any], kind: str, noted: Path) -> list[float]:
    """Seconds from the commit of an event to its arrival, while the hostile receivers go on."""
    committed = {}
    for _ in range(SINGLE_EVENTS):
        record = str(uuid4())
        connection.execute(PUBLISH, [[kind], [organization(2)], [record], [0]])
        committed[record] = time.time()
        time.sleep(random.uniform(0.05, 0.15))
    while True:
        found = {record: at for _, record, _, at in arrivals(noted) if record in committed}
        if len(found) == SINGLE_EVENTS:
            return [max(found[record] - at, 0.0) for record, at in committed.items()]
        time.sleep(0.2)  # between two looks at what arrived


def requests_beside(
    connection: psycopg.Connection[Any], folder: Path, variables: dict[str, str], kinds: list[str]
) -> dict[str, float]:
    """The median of a request with 5,000 events queued, and while they are sent, beside that with none, in turns."""
    connection.execute("update public.webhook_endpoints set is_active = false where url ~ '/[01]$'")
    took: dict[str, list[float]] = {"none": [], "queued": [], "sending": []}
    with serving(folder, variables) as functions, serving(folder, variables) as sender:
        for _ in range(3):
            took["none"].append(median_request(functions))
            places = [2 + n % len(kinds) for n in range(QUEUED)]
            connection.execute(PUBLISH, [
                [kinds[place - 2] for place in places], [organization(place) for place in places],
                [str(uuid4()) for _ in places], [0] * QUEUED,
            ])  # fmt: skip
            took["queued"].append(median_request(functions))
            with sending(sender):
                took["sending"].append(median_request(functions))
            connection.execute("delete from public.webhook_deliveries where kind = any (%s)", [kinds])
    medians = {name: statistics.median(values) for name, values in took.items()}
    return {
        "request_ms": round(medians["none"] * 1000, 2),
        "request_beside_queued_events": round(medians["queued"] / medians["none"], 2),
        "request_beside_sending": round(medians["sending"] / medians["none"], 2),
    }


def median_request(functions: Serving) -> float:
    took = []
    with functions.client("member") as client:
        for _ in range(REQUESTS):
            began = time.perf_counter()
            client.post(RECORD, json=ENTRY).raise_for_status()
            took.append(time.perf_counter() - began)
    return statistics.median(took)


@contextmanager
def sending(sender: Serving) -> Iterator[None]:
    def run() -> None:
        with sender.client(None, apikey=CRON_KEY) as client:
            client.post("/functions/v1/deliver-webhooks", json={"wait": False}, timeout=120)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


if __name__ == "__main__":
    main()
