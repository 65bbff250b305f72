"""Memory of one worker: at rest, and whether it grows over a hundred thousand requests."""

from pathlib import Path
from typing import Any

import psutil

from bench.functions import load
from bench.functions.world import ours, signed_in
from tests.world import Database

REQUESTS = 100_000
GOAL = "<= 80 MB, no growth"


def measure(home: Path, database: Database) -> dict[str, Any]:
    with ours(home, database) as (port, process):
        at_start = _megabytes(process)
        done, sizes = 0, list[float]()
        while done < REQUESTS:
            # Keys make the server remember nothing either; every turn brings tokens it has not seen.
            samples = load.run(port, signed_in(), connections=16, seconds=2.0)
            assert not samples.failures, samples.failures[0]
            done += len(samples.latencies)
            sizes.append(_megabytes(process))
    quarter = len(sizes) // 4
    early, late = sizes[quarter : 2 * quarter], sizes[-quarter:]
    return {
        "goal": GOAL,
        "requests": done,
        "at_start_mb": at_start,
        "highest_mb": max(sizes),
        "second_quarter_mb": round(sum(early) / quarter, 1),
        "last_quarter_mb": round(sum(late) / quarter, 1),
    }


def _megabytes(process: psutil.Process) -> float:
    full = process.memory_full_info()
    return round((getattr(full, "pss", 0) or full.rss) / 2**20, 1)
