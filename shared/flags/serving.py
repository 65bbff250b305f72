"""The flags of this process: loaded once, checked at most every second, swapped as a whole when something changed."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Protocol

from psycopg import Error, InterfaceError
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from pydantic_core import from_json

from shared.errors import RETRY, ApiError
from shared.flags.compiling import Flag, compile_flag
from shared.flags.groups import Group, Groups
from shared.flags.snapshot import Snapshot
from shared.logs import log

# An answer rests on a look at the database of at most this age, or says that it is stale.
FRESH_SECONDS = 1.0
# So long a request waits for that look; then it is answered from what is there.
PATIENCE_SECONDS = 2.0
# So long the last known flags serve without the database; after that nobody should rely on them.
STALE_SECONDS = 600.0
LISTEN_AGAIN_SECONDS = 5.0
# Compiling so many takes a few milliseconds, after which requests have their turn.
BATCH = 100
# So many flags are worth keeping from the garbage collector, which would look at each again and again.
MANY = 1000

LOAD = 'select * from private.load_feature_flags(%s::text::public."Environment", %s, %s::uuid[])'
AWAY = (Error, InterfaceError, PoolTimeout, PoolClosed, TooManyRequests, TimeoutError)


class Source(Protocol):
    """The database, as far as flags need it."""

    def batches(self, statement: str, values: tuple[Any, ...], size: int) -> AsyncIterator[list[tuple[Any, ...]]]: ...

    def listen(self, channel: str) -> AsyncIterator[str]:
        """What is notified on the channel; ends where the connection does not allow to listen."""
        ...


class Flags:
    def __init__(self, source: Source, environment: str) -> None:
        self.environment = environment
        self._source = source
        self._snapshot: Snapshot | None = None
        # When the look began that last succeeded, and the one that was last tried.
        self._seen = self._tried = float("-inf")
        # How often we were told of a change, and how often when that look began.
        self._told = self._heard = 0
        self._failing = False
        self._looking: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def current(self) -> tuple[Snapshot, bool]:
        """The flags, and whether they are stale: the database could not be asked within a second."""
        if self._snapshot is not None and self._is_fresh():
            return self._snapshot, False
        await self._refresh()
        if self._snapshot is None or not self._is_usable():
            raise ApiError(
                503,
                "flags_unavailable",
                "The flags cannot be loaded at present",
                hint="Use your defaults.",
                headers=RETRY,
            )
        return self._snapshot, not self._is_fresh()

    async def close(self) -> None:
        for task in (self._listening, self._looking):
            if task:
                task.cancel()
                await asyncio.wait([task])

    def _is_fresh(self) -> bool:
        return self._heard == self._told and time.monotonic() - self._seen < FRESH_SECONDS

    def _is_usable(self) -> bool:
        return time.monotonic() - self._seen < STALE_SECONDS

    async def _refresh(self) -> None:
        """Look again, all who ask together. While the database is away, nobody waits who can have the last flags."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._is_fresh() and (left := until - time.monotonic()) > 0:
            if self._looking is None:
                if self._failing and time.monotonic() - self._tried < FRESH_SECONDS:
                    return
                self._looking = asyncio.create_task(self._look())
            if self._failing and self._is_usable():
                return
            await asyncio.wait([self._looking], timeout=left)
            if self._failing:
                return

    async def _look(self) -> None:
        began, told = time.monotonic(), self._told
        self._tried = began
        try:
            await self._load()
        except AWAY as problem:
            if not self._failing:
                log("WARNING", "flags are stale", exception=type(problem).__qualname__)
            self._failing = True
        else:
            self._seen, self._heard, self._failing = began, told, False
        finally:
            self._looking = None
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())

    async def _load(self) -> None:
        known = self._snapshot
        version, flags, groups = -1, dict[str, Flag](), dict[str, Group]()
        known_groups = {group.revision: group for group in known.groups.values()} if known else {}
        values = (self.environment, known.version if known else -1, [*known_groups])
        rows = self._source.batches(LOAD, values, BATCH)
        async with aclosing(rows):  # type: ignore[type-var]  # an AsyncIterator that can be closed  # a generator, of which the protocol says less
            with ExitStack() as stack:
                async for batch in rows:
                    if (version := batch[0][0]) == (known and known.version):
                        return
                    if not flags:
                        stack.enter_context(_nothing_collected())
                    for _, name, at, revision, text in batch:
                        if at is not None:
                            flags[name] = _flag(known, name, at, text, groups)
                        elif name is not None:  # groups come before the flags that name them
                            groups[name] = known_groups.get(revision) or Group(from_json(text), revision)
                            await asyncio.sleep(0)
                    await asyncio.sleep(0)
                if known and version < known.version:
                    # A standby that lags, or a backup: this process has seen more than the database now says.
                    raise InterfaceError(f"flags went back from version {known.version} to {version}")
                self._snapshot = Snapshot(version, flags, groups)
                if len(flags) >= MANY:
                    gc.freeze()
        before = [*known.flags.values()] if known else []
        del known
        await _let_go(before)

    async def _listen(self) -> None:
        """A change is told to us where the connection allows it; where not, or when lost, looking every second does."""
        while True:
            try:
                async with aclosing(self._source.listen("feature_flags")) as notices:  # type: ignore[type-var]  # an AsyncIterator that can be closed
                    async for _ in notices:
                        self._told += 1
                        if self._looking:
                            await asyncio.wait([self._looking])
                        await self._refresh()
            except AWAY:
                await asyncio.sleep(LISTEN_AGAIN_SECONDS)
            else:
                return


async def _let_go(flags: list[Flag]) -> None:
    """To take apart many at once would take as long as to load them; those still held by a request go with it."""
    while flags:
        del flags[-BATCH:]
        await asyncio.sleep(0)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """What is made here lives on: every look of the collector at it would be for nothing, and takes long.

    No part of a snapshot refers back to another, so that an old one goes without a collector, frozen or not.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _flag(known: Snapshot | None, name: str, version: int, definition: str | None, groups: Groups) -> Flag:
    if definition is None and known and (flag := known.flags.get(name)):
        return flag
    try:
        found = json.loads(definition or "null")
    except (ValueError, RecursionError):
        found = None  # which compiles into an error
    return compile_flag(name, version, found, groups)
