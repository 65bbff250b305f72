"""How many requests of one caller run at a time, so that one account leaves the connections and the loop to others."""

import asyncio
import math
import time
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from ipaddress import ip_network

from shared.auth.caller import Caller
from shared.errors import RETRY, ApiError

TRUSTED = {"secret", "webhook"}
IPV6_PREFIX = 64  # one client has all of a /64


class Turns:
    """A few requests of each caller run, some more wait in order, further ones are refused.

    A caller with a request that has been running for long has fewer turns, so that slow requests of one caller leave
    connections and processors to others. `private.await_turn()` does so for the data API; there, each
    that waits holds a connection, so fewer do.
    """

    RUNNING = 4
    RUNNING_LONG = 2
    LONG_SECONDS = 0.1
    WAITING = 32
    SECONDS = 10.0

    def __init__(self) -> None:
        self._running: dict[str, list[float]] = {}  # when each began, in this order
        self._waiting: dict[str, deque[asyncio.Future[float]]] = {}

    @asynccontextmanager
    async def take(self, caller: str | None, *, may_last: bool = False) -> AsyncIterator[None]:
        """`may_last`: the request never counts as long, because it waits for another service."""
        if caller is None:
            yield
            return
        began = self._begin(caller) if self._has_turn(caller) else await self._wait(caller)
        if may_last:
            self._running[caller].remove(began)
            self._running[caller].append(began := math.inf)
        try:
            yield
        finally:
            self._leave(caller, began)

    def _has_turn(self, caller: str) -> bool:
        running = self._running.get(caller)
        if not running:
            return True
        is_long = running[0] < time.monotonic() - self.LONG_SECONDS
        return len(running) < (self.RUNNING_LONG if is_long else self.RUNNING)

    def _begin(self, caller: str) -> float:
        began = time.monotonic()
        insort(self._running.setdefault(caller, []), began)
        return began

    async def _wait(self, caller: str) -> float:
        queue = self._waiting.setdefault(caller, deque())
        if len(queue) >= self.WAITING:
            raise _too_many(f"{len(self._running[caller])} of yours are running and {self.WAITING} are waiting.")
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(self.SECONDS):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
                self._leave(caller, turn.result())
            elif turn in (queue := self._waiting.get(caller, deque())):
                queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise _too_many(f"Others of yours have been running for {self.SECONDS:.0f} seconds.") from None
            raise

    def _leave(self, caller: str, began: float) -> None:
        running = self._running[caller]
        running.remove(began)
        queue = self._waiting.get(caller, deque())
        while queue and self._has_turn(caller):
            turn = queue.popleft()
            if not turn.done():  # else its request has given up
                turn.set_result(self._begin(caller))
        if not running:
            del self._running[caller]
        if not queue:
            self._waiting.pop(caller, None)


def _too_many(details: str) -> ApiError:
    message = "Too many requests at the same time"
    return ApiError(
        429,
        "too_many_requests",
        message,
        details=details,
        hint="Wait for their responses, then try again.",
        headers=RETRY,
    )


def name_caller(caller: Caller, address: str | None) -> str | None:
    """The user, or the API keys of one, else the network of a request; None for servers of our own: not bounded."""
    if caller.mode in TRUSTED:
        return None
    keys = f"keys of {caller.acts_for}" if caller.acts_for else None
    return caller.user_id or keys or (network_of(address) if address else None)


@lru_cache(1024)  # a client has one address
def network_of(address: str) -> str:
    return str(ip_network(f"{address}/{IPV6_PREFIX}", strict=False)) if ":" in address else address
