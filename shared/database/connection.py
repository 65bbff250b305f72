"""A database connection that the event loop knows for as long as it lives.

psycopg tells the loop about its socket anew for each answer it waits for: four system calls and a timer, much of what a
small statement costs. This one tells it once; so it also hears when the server says goodbye.
"""

import asyncio
import select
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

Result = TypeVar("Result")
# The role's statement_timeout ends a slow statement; this ends the wait for a server that no longer says anything.
ANSWER_SECONDS = 10.0


class PooledConnection(AsyncConnection[tuple[Any, ...]]):
    """`ended`: the server said something unasked, which is its farewell."""

    ended = False
    _socket = -1
    _answer: asyncio.Future[None] | None = None

    async def wait(
        self,
        gen: PQGen[Result],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> Result:
        loop = asyncio.get_running_loop()
        try:
            wanted = next(gen)
            while wanted == Wait.R and timeout is None:
                if self._socket < 0:
                    self._socket = self.pgconn.socket
                    loop.add_reader(self._socket, self._readable)
                self._answer = loop.create_future()
                overdue = loop.call_later(ANSWER_SECONDS, self._give_up, self._answer)
                try:
                    await self._answer
                finally:
                    overdue.cancel()
                wanted = gen.send(Ready.R)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # a generator's value has no type
        except BaseException as error:
            self._forget()  # at once: libpq has closed the socket of a broken connection
            if isinstance(error, asyncio.CancelledError | TimeoutError):
                # Nobody waits for this answer any more, and no one else may get it: the connection goes with it.
                self.pgconn.finish()
            raise
        finally:
            self._answer = None
        self._forget()
        return await super().wait(_resumed(gen, wanted), interval, timeout)

    async def close(self) -> None:
        self._forget()
        await super().close()

    def _readable(self) -> None:
        if self._answer is not None:
            if not self._answer.done():
                self._answer.set_result(None)
        elif _has_data(self._socket):  # the loop may tell a second time what was read meanwhile
            self.ended = True
            self._forget()

    @staticmethod
    def _give_up(answer: asyncio.Future[None]) -> None:
        if not answer.done():
            answer.set_exception(TimeoutError())

    def _forget(self) -> None:
        """Whoever closes the socket, its number will be somebody else's."""
        if self._socket >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket = -1


def _has_data(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


def _resumed(gen: PQGen[Result], wanted: Wait) -> PQGen[Result]:
    """What is left of a generator that has told already what it waits for."""
    while True:
        ready = yield wanted
        try:
            wanted = gen.send(ready)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # a generator's value has no type
