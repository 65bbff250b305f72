"""Receive deliveries that arrive at the same time in one transaction, on one connection.

On the first of a month thousands arrive at once. Alone, each takes a connection, a round trip and a write to the disk.
Two batches run at a time, so that the process works while Postgres does; they share what waits, because two large
batches cost less than many small ones (docs/decisions/0005-stripe-inbox-and-fold.md).
"""

import math
from asyncio import Future, Task, create_task, current_task, get_running_loop, sleep
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import psycopg
from pydantic_core import from_json

from shared.app.call import Result

# Bounds of one batch, so that no delivery waits long for the others: some ten milliseconds.
MOST = 16
LARGEST = 1 << 20
AT_ONCE = 2
UNAVAILABLE = ("08", "57P")  # the connection or the server failed: alone, each delivery would fail as well

Receive = Callable[[str], Awaitable[Result[Any]]]


class _Waiting(NamedTuple):
    delivery: str
    customer: str
    result: Future[Any]


class Burst:
    """Deliveries about one customer never run in two batches at a time: batches do not wait for each other's locks."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._running: list[_Waiting] = []
        self._workers: set[Task[None] | None] = set()

    async def take(self, receive: Receive, delivery: str, customer: str) -> Any:
        """The result, or None if its batch failed and the delivery has to be received alone."""
        result = get_running_loop().create_future()
        self._waiting.append(_Waiting(delivery, customer, result))
        if len(self._workers) < AT_ONCE:
            self._workers.add(create_task(self._receive_all(receive)))
        return await result

    async def _receive_all(self, receive: Receive) -> None:
        try:
            await sleep(0)  # requests that have been read already join the first batch
            # The worker ends when all that waits is about customers of the other batch, whose worker then continues.
            while batch := self._next_batch():
                await _receive(receive, batch)
                self._running = [each for each in self._running if each not in batch]
        finally:
            self._workers.discard(current_task())

    def _next_batch(self) -> list[_Waiting]:
        """A fair share of the deliveries, oldest first; those of one customer together."""
        share = math.ceil((len(self._waiting) + len(self._running)) / AT_ONCE)
        elsewhere = {each.customer for each in self._running}
        customers: dict[str, list[_Waiting]] = {}
        for each in self._waiting:
            customers.setdefault(each.customer, []).append(each)
        batch: list[_Waiting] = []
        size = 0
        for customer, deliveries in customers.items():
            if customer in elsewhere:
                continue
            for each in deliveries:
                if len(batch) < MOST and (not batch or size + len(each.delivery) <= LARGEST):
                    batch.append(each)
                    size += len(each.delivery)
            if len(batch) >= share:
                break
        self._waiting = [each for each in self._waiting if each not in batch]
        self._running += batch
        return batch


async def _receive(receive: Receive, batch: list[_Waiting]) -> None:
    try:
        received = await receive(f"[{','.join(each.delivery for each in batch)}]")
        all_found = from_json(received.json)
    except Exception as error:  # noqa: BLE001 - the requests that wait get it
        code = error.sqlstate if isinstance(error, psycopg.Error) else None
        one_failed = code is not None and not code.startswith(UNAVAILABLE)
        for each in batch:
            if one_failed:
                _set(each.result, None)
            elif not each.result.done():
                each.result.set_exception(error)
    else:
        for each, found in zip(batch, all_found, strict=True):
            _set(each.result, found)


def _set(result: Future[Any], found: Any) -> None:
    if not result.done():  # the client may have closed the connection
        result.set_result(found)
