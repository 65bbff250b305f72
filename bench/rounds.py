"""Rounds, in which everything that is compared has its turn, and what they say together."""

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

# When a bench should end, in seconds since 1970; set by `python -m bench`, which divides its time.
UNTIL = "BENCH_UNTIL"
FEWEST = 3

Spread = dict[str, float]


def rounds(what: str, count: int) -> Iterator[int]:
    """Round numbers from 1, shown as progress. At least three, fewer than `count` on a slow machine."""
    until = float(os.environ.get(UNTIL, "inf"))
    for number in range(1, count + 1):
        if number > FEWEST and time.time() > until:
            return
        print(f"{what}: round {number} of {count}", file=sys.stderr, flush=True)
        yield number


def spread(samples: Sequence[float]) -> Spread:
    """The median of the rounds, the lowest and the highest."""
    return {
        "median": _short(statistics.median(samples)),
        "low": _short(min(samples)),
        "high": _short(max(samples)),
        "rounds": len(samples),
    }


def ratios(ours: Sequence[float], reference: Sequence[float]) -> Spread:
    """Ratios of figures of the same round."""
    return spread([mine / other for mine, other in zip(ours, reference, strict=True)])


def _short(value: float) -> float:
    return float(f"{value:.4g}")
