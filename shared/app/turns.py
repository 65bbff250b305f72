"""How many requests of one caller run at a time, so that one account leaves the connections and the loop to others."""

import asyncio
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
    """A few requests of each caller run, some more wait in order, further ones are refused."""

    RUNNING = 4
    WAITING = 32
    SECONDS = 10.0

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def take(self, caller: str | None) -> AsyncIterator[None]:
        if caller is None:
            yield
            return
        running = self._running.get(caller, 0)
        if running < self.RUNNING:
            self._running[caller] = running + 1
        else:
            await self._wait(caller)
        try:
            yield
        finally:
            self._leave(caller)

    async def _wait(self, caller: str) -> None:
        queue = self._waiting.setdefault(caller, deque())
        if len(queue) >= self.WAITING:
            raise _too_many(f"{self.RUNNING} of yours are running and {self.WAITING} are waiting.")
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(self.SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
                self._leave(caller)
            elif turn in (queue := self._waiting.get(caller, deque())):
                queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise _too_many(f"{self.RUNNING} of yours have been running for {self.SECONDS:.0f} seconds.") from None
            raise

    def _leave(self, caller: str) -> None:
        queue = self._waiting.get(caller, ())
        while queue:
            turn = queue.popleft()
            if not turn.done():  # else its request has given up
                turn.set_result(None)
                break
        else:
            if (running := self._running.pop(caller)) > 1:
                self._running[caller] = running - 1
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
    """The user or API key, else the network of a request; None for servers of our own, which are not bounded."""
    if caller.mode in TRUSTED:
        return None
    key = caller.key_name if caller.mode == "key" else None
    return caller.user_id or key or (network_of(address) if address else None)


@lru_cache(1024)  # a client has one address
def network_of(address: str) -> str:
    return str(ip_network(f"{address}/{IPV6_PREFIX}", strict=False)) if ":" in address else address
