"""How fast Stripe's events are taken, and how right: `python -m bench.webhook`.

`speed` delivers the same kind of events 1, 8 and 32 at once over HTTP and in one process, beside
@supabase/stripe-sync-engine, which is installed into .strive/bench when it is first wanted; what is acknowledged is on
the disk. `order` shuffles the events of 1,000 subscriptions and counts wrong final states. Choose by name; figures are
printed as JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psycopg import Connection

from bench import machine
from bench.functions.world import world
from bench.webhook import contenders
from tests.billing.histories import STANDING, History, deliveries, histories
from tests.billing.told import sell
from tests.database.test_stripe_order import open_accounts, receive, wrong
from tests.world import Database, Row

GOALS = {"rate_ratio_at_8": ">= 3", "wrong": 0}
AT_ONCE = (1, 8, 32)
SUBSCRIPTIONS = 300
SHUFFLED = 1000


def _prepared(seed: int, count: int) -> tuple[list[History], list[Row]]:
    """Events of the size of real ones, about 6 kB."""
    told = histories(seed, count)
    filler = {f"key_{number:02}": "a value of forty characters, more or less" for number in range(50)}
    for each in (one for history in told for one in history.events):
        each["data"]["object"]["metadata"] = filler | each["data"]["object"]["metadata"]
    return told, deliveries(seed, told)


def speed(home: Path, database: Database) -> dict[str, Any]:
    ways: dict[str, contenders.Contender] = {"http": contenders.over_http, "in_process": contenders.in_process}
    absent = contenders.install()
    if absent is None:
        ways["peer"] = contenders.peer
    figures: dict[str, Any] = {"goals": GOALS}
    with database.connect() as connection:
        sell(connection)
        for at_once in AT_ONCE:
            samples = {}
            for number, (name, way) in enumerate(ways.items()):
                told, sent = _prepared(at_once * 10 + number, SUBSCRIPTIONS)
                open_accounts(connection, told)
                sample = way(home, database, sent, at_once)
                missed = _peers_wrong(connection, told) if name == "peer" else wrong(connection, told)
                samples[name] = {**sample.figures, "wrong": len(missed), "subscriptions": len(told)}
            figures[f"{at_once}_at_once"] = samples
    if absent:
        return {**figures, "peer_absent": absent}
    for name in ("http", "in_process"):
        of = figures["8_at_once"]
        figures[f"{name}_rate_ratio_at_8"] = round(of[name]["per_second"] / of["peer"]["per_second"], 2)
    return {**figures, "peer_version": contenders.version()}


def _peers_wrong(connection: Connection[Any], told: Sequence[History]) -> list[str]:
    """Its table has the status and whether it ends with its period; more it does not say in both shapes."""
    found = {
        name: (STANDING.get(status, "INACTIVE"), ends)
        for name, status, ends in connection.execute(
            "select id, status::text, cancel_at_period_end from stripe.subscriptions"
        )
    }
    return [one.name for one in told if found.get(one.name) != (one.outcome[0], one.outcome[3])]


def order(_home: Path, database: Database) -> dict[str, Any]:
    told = histories(11, SHUFFLED)
    sent = deliveries(11, told)
    with database.connect() as connection:
        sell(connection)
        open_accounts(connection, told)
        with connection.transaction():
            for each in sent:
                receive(connection, each)
        return {
            "goals": GOALS,
            "subscriptions": SHUFFLED,
            "deliveries": len(sent),
            "wrong": len(wrong(connection, told)),
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
