"""How fast Stripe's events are applied, and how correctly: `python -m bench.webhook`.

`speed` delivers the same events 1, 8 and 32 at once, over HTTP and in one process, beside @supabase/stripe-sync-engine,
which is installed into .strive/bench when it is first wanted, and beside the least that keeps an event: one INSERT of
the payload, nothing verified, nothing applied. What is acknowledged is on the disk. `order` shuffles the events of
1,000 subscriptions and counts wrong final states. Choose by name; figures are printed as JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psycopg import Connection

from bench import machine
from bench.functions.world import world
from bench.rounds import ratios, rounds, spread
from bench.webhook import contenders
from tests.database.test_stripe_order import open_accounts, receive, wrong
from tests.support.stripe_events import sell
from tests.support.stripe_histories import STANDING, History, deliveries, histories
from tests.support.world import Database, Row

# How many at once, how often.
ROUNDS = {1: 1, 8: 3, 32: 3}
GOALS_AT = (8, 32)
SUBSCRIPTIONS = 200
WARMING = 5  # every fifth delivery
SHUFFLED = 1000


def _prepared(seed: int, count: int) -> tuple[list[History], list[Row]]:
    """Events of the size of real ones, about 4 kB."""
    customers = histories(seed, count)
    filler = {f"key_{number:02}": "a value of forty characters, more or less" for number in range(50)}
    for each in (one for history in customers for one in history.events):
        each["data"]["object"]["metadata"] = filler | each["data"]["object"]["metadata"]
    return customers, deliveries(seed, customers)


def speed(home: Path, database: Database) -> dict[str, Any]:
    absent = contenders.install()
    ways = {name: way for name, way in contenders.WAYS.items() if not (absent and name.startswith("peer"))}
    customers, sent = _prepared(8, SUBSCRIPTIONS)
    sending = contenders.Deliveries.of(sent, len(sent) // WARMING)
    with database.connect() as connection:
        sell(connection)
        open_accounts(connection, customers)
    figures: dict[str, Any] = {"subscriptions": len(customers), "deliveries": len(sent)}
    for at_once, count in ROUNDS.items():
        chosen = {name: way for name, way in ways.items() if at_once in GOALS_AT or not name.startswith("bare")}
        samples: dict[str, list[contenders.Sample]] = {name: [] for name in chosen}
        mistakes = dict.fromkeys(chosen, 0)
        for _ in rounds(f"events, {at_once} at once", count):
            for name, way in chosen.items():
                with database.copied() as copy:
                    samples[name].append(way(home, copy, sending, at_once))
                    with copy.connect() as connection:
                        mistakes[name] += len(_wrong(name, connection, customers))
        figures[f"{at_once}_at_once"] = {name: _summary(samples[name]) | _mistaken(name, mistakes) for name in chosen}
        if at_once in GOALS_AT:
            figures |= _ratios(samples, at_once)
    if absent:
        return {**figures, "absent": {contenders.PACKAGE: absent}}
    return {**figures, "peer_version": contenders.version()}


def _summary(samples: Sequence[contenders.Sample]) -> dict[str, Any]:
    return {
        "per_second": spread([each.per_second for each in samples]),
        "cpu_us_per_event": spread([each.cpu_seconds / each.events * 1e6 for each in samples]),
        "postgres_cpu_us_per_event": spread([each.postgres_cpu_seconds / each.events * 1e6 for each in samples]),
    }


def _ratios(samples: Mapping[str, Sequence[contenders.Sample]], at_once: int) -> dict[str, Any]:
    """The ratios to `bare`, which applies no events, show how close the goal is at best."""
    pairs = {
        "http": ("http", "peer_http"),
        "in_process": ("in_process", "peer"),
        "bare_http": ("bare_http", "peer_http"),
        "bare_in_process": ("bare", "peer"),
    }
    rates = {name: [each.per_second for each in found] for name, found in samples.items()}
    return {
        f"{name}_rate_ratio_at_{at_once}": ratios(rates[ours], rates[theirs])
        for name, (ours, theirs) in pairs.items()
        if theirs in rates
    }


def _wrong(name: str, connection: Connection[Any], customers: Sequence[History]) -> list[str]:
    if name.startswith("bare"):
        return []
    return _peers_wrong(connection, customers) if name.startswith("peer") else wrong(connection, customers)


def _mistaken(name: str, mistakes: dict[str, int]) -> dict[str, int]:
    return {} if name.startswith("bare") else {"wrong": mistakes[name]}


def _peers_wrong(connection: Connection[Any], customers: Sequence[History]) -> list[str]:
    """Its table has only the status and cancel_at_period_end in both shapes."""
    found = {
        name: (STANDING.get(status, "INACTIVE"), ends)
        for name, status, ends in connection.execute(
            "select id, status::text, cancel_at_period_end from stripe.subscriptions"
        )
    }
    return [one.name for one in customers if found.get(one.name) != (one.outcome[0], one.outcome[3])]


def order(_home: Path, database: Database) -> dict[str, Any]:
    customers = histories(11, SHUFFLED)
    sent = deliveries(11, customers)
    with database.connect() as connection:
        sell(connection)
        open_accounts(connection, customers)
        with connection.transaction():
            for each in sent:
                receive(connection, each)
        return {
            "subscriptions": SHUFFLED,
            "deliveries": len(sent),
            "wrong": len(wrong(connection, customers)),
        }


MEASUREMENTS = {"speed": speed, "order": order}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.webhook", description=__doc__)
    parser.add_argument("measurements", nargs="*", help=f"of {', '.join(MEASUREMENTS)}")
    chosen = parser.parse_args().measurements or list(MEASUREMENTS)
    if unknown := set(chosen) - MEASUREMENTS.keys():
        parser.error(f"found {', '.join(unknown)}; expected some of {', '.join(MEASUREMENTS)}")
    figures = {}
    for name in chosen:
        print(f"measuring {name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder, world(Path(folder), durable=True) as database:
            figures[name] = MEASUREMENTS[name](Path(folder), database)
    print(json.dumps({"machine": machine(), "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
