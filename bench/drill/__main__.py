"""Kill, pause and mislead a running stack under traffic, then balance the books: `make drill` (about ten minutes).

Nothing acknowledged may be lost, nothing done twice, nothing half, and no goal of a fault missed; exit status 1 if so.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.drill import instances, move, replica
from bench.drill.books import balance
from bench.drill.faults import FAULTS
from bench.drill.pooler import AbsentError
from bench.drill.stack import running
from bench.drill.traffic import Traffic

CALM_SECONDS = 2
INSTANCES = "four instances behind a load balancer and PgBouncer"
MOVE = "strive move: under traffic, and killed at every step"
REPLICA = "a read replica: it lags, dies and takes over"


def main() -> None:
    chosen = sys.argv[1:]
    faults = {name: fault for name, fault in FAULTS.items() if not chosen or any(word in name for word in chosen)}
    recoveries: dict[str, float] = {}
    measured: dict[str, dict[str, Any]] = {}
    if not chosen or any(word in INSTANCES for word in chosen):
        try:
            measured[INSTANCES] = instances.alone()
        except AbsentError as why:
            print(f"{INSTANCES}: skipped: {why}", file=sys.stderr)
    if not chosen or any(word in MOVE for word in chosen):
        measured[MOVE] = move.alone()
    if not chosen or any(word in REPLICA for word in chosen):
        measured[REPLICA] = replica.alone()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, running(Path(folder)) as stack:
        with stack.cluster.connect() as connection:
            # A plan without a quota of orders.
            connection.execute("update public.plans set limits = limits || '{\"orders_per_month\": null}'")
        traffic = Traffic(stack)
        with traffic.flowing():
            traffic.until_all_flow()
            for name, fault in faults.items():
                time.sleep(CALM_SECONDS)
                print(f"{name:<55}", end=" ", file=sys.stderr, flush=True)
                try:
                    if found := fault(stack, traffic.book):
                        measured[name] = found
                except AbsentError as why:
                    print(f"skipped: {why}", file=sys.stderr)
                    continue
                recoveries[name] = round(traffic.until_all_flow(), 2)
                print(f"all flows again after {recoveries[name]:5.2f} s", file=sys.stderr)
            time.sleep(CALM_SECONDS)
        books = balance(stack, traffic.book)
    book = traffic.book
    print(json.dumps({
        "faults_survived": len(recoveries),
        "recovery_seconds": recoveries,
        "requests_sent": sum(book.sent.values()),
        "acknowledged": sum(book.acknowledged.values()),
        "retries": sum(book.retries.values()),
        "by_kind": {kind: {"sent": sent, "acknowledged": book.acknowledged[kind]} for kind, sent in book.sent.items()},
        "lost": len(books["lost"]),
        "wrong": len(books["wrong"]),
        "examples": (books["lost"] + books["wrong"])[:20],
        "measured": measured,
    }, indent=2))  # fmt: skip
    missed = any(not all(found["goals"].values()) for found in measured.values())
    sys.exit(bool(books["lost"] or books["wrong"] or missed))


if __name__ == "__main__":
    main()
