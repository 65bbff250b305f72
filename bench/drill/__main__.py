"""Kill, pause and mislead a running stack under traffic, then balance the books: `make drill` (about three minutes).

Nothing acknowledged may be lost, nothing done twice, nothing half; exit status 1 if so.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

from bench.drill.books import balance
from bench.drill.faults import FAULTS
from bench.drill.pooler import AbsentError
from bench.drill.traffic import Traffic
from local.stack import Stack

CALM_SECONDS = 2


def main() -> None:
    chosen = sys.argv[1:]
    faults = {name: fault for name, fault in FAULTS.items() if not chosen or any(word in name for word in chosen)}
    recoveries: dict[str, float] = {}
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
                    fault(stack, traffic.book)
                except AbsentError as why:
                    print(f"skipped: {why}", file=sys.stderr)
                    continue
                recoveries[name] = round(traffic.until_all_flow(), 2)
                print(f"all flows again after {recoveries[name]:5.2f} s", file=sys.stderr)
            time.sleep(CALM_SECONDS)
        found = balance(stack, traffic.book)
    book = traffic.book
    print(json.dumps({
        "faults_survived": len(recoveries),
        "recovery_seconds": recoveries,
        "requests_sent": sum(book.sent.values()),
        "acknowledged": sum(book.acknowledged.values()),
        "retries": sum(book.retries.values()),
        "by_kind": {kind: {"sent": sent, "acknowledged": book.acknowledged[kind]} for kind, sent in book.sent.items()},
        "lost": len(found["lost"]),
        "wrong": len(found["wrong"]),
        "examples": (found["lost"] + found["wrong"])[:20],
    }, indent=2))  # fmt: skip
    sys.exit(bool(found["lost"] or found["wrong"]))


@contextmanager
def running(home: Path) -> Iterator[Stack]:
    """`strive dev`, which restarts what fails."""
    stack, shown = Stack(home / "stack"), home / "shown"
    command = [sys.executable, "-c", "from local.cli import main; main()", "dev", "--api-port", "0", "--db-port", "0"]
    with shown.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--workdir", str(stack.workdir)],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": "."},
        )
    try:
        while b"Strive runs at" not in shown.read_bytes():
            if process.poll() is not None:
                raise SystemExit(shown.read_text())
            time.sleep(0.05)
        yield stack
    finally:
        process.send_signal(SIGINT)
        process.wait(30)


if __name__ == "__main__":
    main()
