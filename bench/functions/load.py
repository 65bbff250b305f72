"""A load generator that costs little beside what it measures: requests in bytes, the next one sent on every answer."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import cast

import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"


@dataclass
class Samples:
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)

    def add(self, other: "Samples") -> None:
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.failures += other.failures

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, share: float) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * share)] * 1000


def run(port: int, *requests: bytes, connections: int, seconds: float) -> Samples:
    """Keep every connection busy for this time."""
    return uvloop.run(_run(port, cycle(requests), connections, seconds))


async def _run(port: int, requests: Iterator[bytes], connections: int, seconds: float) -> Samples:
    samples, loop = Samples(), asyncio.get_running_loop()
    began = time.perf_counter()
    clients = [_Client(requests, began + seconds, samples) for _ in range(connections)]
    next_client = iter(clients).__next__
    for _ in clients:
        await loop.create_connection(next_client, "127.0.0.1", port)
    await asyncio.gather(*(client.done for client in clients))
    samples.seconds = time.perf_counter() - began
    return samples


class _Client(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], until: float, samples: Samples) -> None:
        self._requests, self._until, self._samples = requests, until, samples
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are no subclass
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(HEAD_END)
        if not found or len(body) < int(head.lower().partition(LENGTH)[2].split(b"\r\n", 1)[0] or 0):  # 304 has none
            return
        now = time.perf_counter()
        self._samples.latencies.append(now - self._sent)
        if not head.startswith((b"HTTP/1.1 2", b"HTTP/1.1 304")):
            self._samples.failures.append(self._data[:500])
        self._data = b""
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc or time.perf_counter() < self._until:
            self._samples.failures.append(b"connection lost")
        if not self.done.done():
            self.done.set_result(None)
