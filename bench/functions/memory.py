"""Memory of one worker: at rest, and whether it grows over fifty thousand requests."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.functions import load
from bench.functions.world import ours, reference, signed_in
from bench.rounds import UNTIL, ratios, spread
from tests.support.world import Database

REQUESTS = 50_000
# On a slow machine; too few to show growth.
FEWEST = 20_000


def measure(home: Path, database: Database) -> dict[str, Any]:
    with reference(database, "hello") as (_, bare):
        bare_mb = _megabytes(bare)
    with ours(home, database) as (port, process):
        at_start = _megabytes(process)
        done, sizes = 0, list[float]()
        until = float(os.environ.get(UNTIL, "inf"))
        while done < REQUESTS and (done < FEWEST or time.time() < until):
            # Keys are not cached; every turn uses new tokens.
            samples = load.run(port, signed_in(), connections=16, seconds=2.0)
            assert not samples.failures, samples.failures[0]
            done += len(samples.latencies)
            sizes.append(_megabytes(process))
            print(f"memory: {done:,} of {REQUESTS:,} requests", file=sys.stderr, flush=True)
    quarter = len(sizes) // 4
    # The first quarter fills caches.
    early, late = sizes[quarter : 2 * quarter], sizes[-quarter:]
    return {
        "requests": done,
        "at_start_mb": at_start,
        "bare_at_start_mb": bare_mb,
        "at_start_ratio": round(at_start / bare_mb, 3),
        "highest_mb": max(sizes),
        "size_mb": spread(sizes),
        **({"growth": ratios(late, early)} if done >= REQUESTS else {}),
    }


def _megabytes(process: psutil.Process) -> float:
    full = process.memory_full_info()
    return round((getattr(full, "pss", 0) or full.rss) / 2**20, 1)
