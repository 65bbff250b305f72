"""How fast the local stack starts and how much memory it takes at rest: `python -m bench.stack`.

The reference is Postgres alone, made and started in the same run: what no stack on it can go below.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench import machine
from bench.rounds import ratios, rounds, spread
from local.postgres import Cluster
from local.stack import Stack, free_port

ROUNDS = 5
Note = Callable[[str, float], None]


def main() -> None:
    samples: dict[str, list[float]] = {}
    for _ in rounds("starts", ROUNDS):
        for measure in (postgres_alone, whole_stack):
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder), lambda name, value: samples.setdefault(name, []).append(value))
    figures = {name: spread(found) for name, found in samples.items()}
    for kind in ("first", "warm"):
        figures[f"{kind}_start_ratio"] = ratios(samples[f"{kind}_start_s"], samples[f"{kind}_start_postgres_alone_s"])
    figures["idle_memory_ratio"] = ratios(samples["idle_memory_mb"], samples["idle_memory_postgres_mb"])
    print(json.dumps({"machine": machine(), "figures": figures}, indent=2))


def postgres_alone(home: Path, note: Note) -> None:
    cluster = Cluster(home, free_port(), "reference", home / "log")
    note("first_start_postgres_alone_s", timed(cluster.initialize) + timed(cluster.start))
    cluster.stop()
    note("warm_start_postgres_alone_s", timed(cluster.start))
    cluster.stop()


def whole_stack(home: Path, note: Note) -> None:
    stack = Stack(home / "stack")
    note("first_start_s", timed(lambda: stack.start(0, 0)))
    stack.stop()
    note("warm_start_s", timed(stack.start))
    memory = {name: _memory(process) for name, process in stack.processes().items() if process}
    for name, size in memory.items():
        note(f"idle_memory_{name}_mb", size)
    note("idle_memory_mb", sum(memory.values()))
    note("stop_s", timed(stack.stop))


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _memory(process: psutil.Process) -> float:
    """Megabytes of a process and its children; shared pages counted once where the system reports it (Linux)."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        full = each.memory_full_info()
        total += getattr(full, "pss", None) or full.rss
    return total / 2**20


if __name__ == "__main__":
    main()
