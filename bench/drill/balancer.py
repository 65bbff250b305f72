"""A load balancer before several servers: every request goes to the one with the fewest under way.

It does what a platform does that runs N instances: it keeps connections open, stops sending to an instance before that
one is stopped, and responds 502 where an instance breaks off.
"""

import asyncio
import re
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import uvloop

if TYPE_CHECKING:
    from concurrent.futures import Future

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BROKEN_OFF = b"HTTP/1.1 502 Bad Gateway\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Head and body of a request or response with a Content-Length, which all of ours have."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    return head + await reader.readexactly(int(length[1])) if length else head


@dataclass(eq=False)
class Instance:
    port: int
    is_serving: bool = True
    under_way: int = 0
    idle: list[Stream] = field(default_factory=list)

    async def exchange(self, request: bytes) -> bytes:
        self.under_way += 1
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request)
                response = await read_message(reader)
            except BaseException:
                writer.close()
                raise
            if self.is_serving:
                self.idle.append((reader, writer))
            else:
                writer.close()
            return response
        finally:
            self.under_way -= 1


class Balancer:
    """Runs in a thread; other threads use its methods."""

    def __init__(self, port: int, instances: list[int]) -> None:
        self.port = port
        self.instances = {each: Instance(each) for each in instances}
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = self._do(asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=2048))
        self._server: asyncio.Server = starting.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, port: int) -> None:
        """An instance that gets requests when serve_with() names it."""
        self.instances[port] = Instance(port, is_serving=False)

    def serve_with(self, *ports: int) -> None:
        """Send new requests to these alone, and return when the others have responded to all of theirs."""
        self._do(self._choose(set(ports))).result(60)

    def _do(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _close(self) -> None:
        self._server.close()
        for instance in self.instances.values():
            for _, writer in instance.idle:
                writer.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _choose(self, ports: set[int]) -> None:
        for instance in self.instances.values():
            instance.is_serving = instance.port in ports
            while not instance.is_serving and instance.idle:
                instance.idle.pop()[1].close()
        while any(each.under_way for each in self.instances.values() if not each.is_serving):  # noqa: ASYNC110 - the requests have no event, and each is bounded by its timeout
            await asyncio.sleep(0.01)  # between two looks at the requests under way

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await read_message(reader)
                writer.write(await self._exchange(request))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the drill is over
        finally:
            writer.close()

    async def _exchange(self, request: bytes) -> bytes:
        """A request that could not be sent goes to another instance; one that broke off may have been done."""
        while serving := [each for each in self.instances.values() if each.is_serving]:
            chosen = min(serving, key=lambda each: each.under_way)
            try:
                return await chosen.exchange(request)
            except ConnectionRefusedError:
                chosen.is_serving = False
            except (OSError, asyncio.IncompleteReadError):
                break
        return BROKEN_OFF
