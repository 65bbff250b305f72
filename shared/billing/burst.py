"""Deliveries that come while others are being taken go together: in one transaction, on one connection.

On the first of a month thousands come at once. Alone, each takes a connection, a round trip and a write to the disk.
"""

from asyncio import Future, Task, create_task, get_running_loop, sleep
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from pydantic_core import from_json

from shared.app.call import Result

# So that nobody waits long for the others: some ten milliseconds.
MOST = 16
LARGEST = 1 << 20
LANES = 2
AWAY = ("08", "57P")  # the connection, or the server: alone, each would fare the same

Receive = Callable[[str], Awaitable[Result[Any]]]


class Burst:
    """What is about the same customer is in the same lane: so lanes do not wait for each other."""

    def __init__(self) -> None:
        self._lanes = [_Lane() for _ in range(LANES)]

    async def take(self, receive: Receive, delivery: str, about: str) -> Any:
        """What became of it. Nothing did, and nothing is returned, where one of those together with it failed."""
        return await self._lanes[hash(about) % LANES].take(receive, delivery)


class _Lane:
    def __init__(self) -> None:
        self._waiting: list[tuple[str, Future[Any]]] = []
        self._work: Task[None] | None = None

    async def take(self, receive: Receive, delivery: str) -> Any:
        answer = get_running_loop().create_future()
        self._waiting.append((delivery, answer))
        # One that is done has seen nobody waiting, and nobody has come since.
        if self._work is None or self._work.done():
            self._work = create_task(self._work_off(receive))
        return await answer

    async def _work_off(self, receive: Receive) -> None:
        await sleep(0)  # what has been read already comes along
        while together := self._next():
            try:
                answered = await receive(f"[{','.join(delivery for delivery, _ in together)}]")
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                code = error.sqlstate if isinstance(error, psycopg.Error) else None
                at_one_of_them = code is not None and not code.startswith(AWAY)
                for _, answer in together:
                    if at_one_of_them:
                        _give(answer, None)
                    elif not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), found in zip(together, from_json(answered.json), strict=True):
                    _give(answer, found)

    def _next(self) -> list[tuple[str, Future[Any]]]:
        size, count = 0, 0
        for delivery, _ in self._waiting[:MOST]:
            size += len(delivery)
            if count and size > LARGEST:
                break
            count += 1
        together, self._waiting = self._waiting[:count], self._waiting[count:]
        return together


def _give(answer: Future[Any], found: Any) -> None:
    if not answer.done():  # its client may be gone
        answer.set_result(found)
