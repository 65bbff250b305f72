"""Ten thousand flags in one process: the memory they take, and how their loading goes beside requests."""

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil

from bench.flags import workload
from bench.rounds import ratios, rounds, spread
from shared.flags import Context, Flags, serving

MANY, ROUNDS = 10_000, 5


class Source:
    """The rows of the database, without its time."""

    def __init__(self, definitions: list[tuple[str, str]]) -> None:
        self.definitions = definitions
        self.version = 1

    async def batches(self, _: str, values: tuple[Any, ...], size: int) -> AsyncIterator[list[tuple[Any, ...]]]:
        if values[1] == self.version:
            yield [(self.version, None, None, None, None)]
            return
        for start in range(0, len(self.definitions), size):
            yield [
                (self.version, name, self.version, None, text) for name, text in self.definitions[start : start + size]
            ]

    async def listen(self, _: str) -> AsyncIterator[str]:
        return
        yield


def measure() -> dict[str, Any]:
    flags = workload.flags(full=True, many=MANY)
    source = Source([(flag["name"], json.dumps(workload.ours(flag))) for flag in flags])
    del flags
    gc.collect()
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    loaded = Flags(source, "PRODUCTION")
    asyncio.run(_load(loaded))
    gc.collect()
    memory = process.memory_info().rss - before
    rebuilt = [(asyncio.run(_rebuild(loaded, source)), _parsed(source)) for _ in rounds("rebuild", ROUNDS)]
    seconds, parsing = [found[0] for found, _ in rebuilt], [parsed for _, parsed in rebuilt]
    text = sum(len(name) + len(definition) for name, definition in source.definitions)
    return {
        "memory_mb": round(memory / 2**20, 1),
        "text_mb": round(text / 2**20, 1),
        "memory_ratio": round(memory / text, 2),
        "rebuild_seconds": spread(seconds),
        "parsing_alone_seconds": spread(parsing),
        "ratio": ratios(seconds, parsing),
        "longest_pause_ms": spread([found[1] for found, _ in rebuilt]),
    }


def _parsed(source: Source) -> float:
    """The lower bound: parsing the JSON."""
    began = time.perf_counter()
    for _, text in source.definitions:
        json.loads(text)
    return time.perf_counter() - began


async def _load(flags: Flags) -> None:
    snapshot, _ = await flags.current()
    context = Context({"targetingKey": "x", "tier": "FREE"})
    assert len(snapshot.evaluate_all(context)) == MANY


async def _rebuild(flags: Flags, source: Source) -> tuple[float, float]:
    """Seconds, and the longest pause of the event loop in milliseconds."""
    source.version += 1
    serving.FRESH_SECONDS = 0.0
    gc.freeze()  # as the server does with what it has made at its start
    began = time.perf_counter()
    loading = flags._read()  # noqa: SLF001 - the one step to time; its public caller waits for the clock
    pause, last = 0.0, time.thread_time()
    while not loading.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        pause, last = max(pause, now - last), now
    return time.perf_counter() - began, pause * 1000
