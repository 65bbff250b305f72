"""The flags of this process: loaded once, refreshed in the background, replaced as a whole when something changed."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Protocol
from uuid import UUID

from psycopg import Error, InterfaceError
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from pydantic_core import from_json

from shared.errors import RETRY, ApiError
from shared.flags.compiling import Flag, broken_flag, compile_flag
from shared.flags.groups import OPERATORS, Group, Groups
from shared.flags.identities import Identities
from shared.flags.snapshot import Snapshot
from shared.logs import log

# An evaluation uses flags that were read at most this long ago, or says that it is stale.
FRESH_SECONDS = 1.0
# While requests come, the flags are read again this long after the last time, so that no request waits.
REFRESH_SECONDS = 0.6
# Without requests for so long the refreshing stops, until the next one.
IDLE_SECONDS = 60.0
# A request waits this long for flags that are not fresh, then gets the last known.
PATIENCE_SECONDS = 0.25
# A request waits this long when no flags are known yet.
FIRST_SECONDS = 2.0
# How long the last known flags serve without the database.
STALE_SECONDS = 600.0
# A read that takes longer has failed.
READ_SECONDS = 20.0
RETRY_SECONDS = 1.0
LISTEN_AGAIN_SECONDS = 5.0
# Rows that are fetched at once, and how long they are compiled before other requests get a turn.
BATCH = 100
TURN_SECONDS = 0.002
# With this many flags or more, gc.freeze() excludes them from collections, which would visit each flag every time.
MANY = 1000

LOAD = 'select * from private.load_feature_flags(%s::text::public."Environment", %s, %s::uuid[])'
UNAVAILABLE = (Error, InterfaceError, PoolTimeout, PoolClosed, TooManyRequests, TimeoutError)


class Source(Protocol):
    """What flags need of the database."""

    def batches(self, statement: str, values: tuple[Any, ...], size: int) -> AsyncIterator[list[tuple[Any, ...]]]: ...

    def listen(self, channel: str) -> AsyncIterator[str]:
        """Notifications on the channel; ends where the connection cannot listen."""
        ...


class Flags:
    def __init__(self, source: Source, environment: str) -> None:
        self.environment = environment
        self.identities = Identities()
        self._source = source
        self._snapshot: Snapshot | None = None
        # When the last successful read began, when the last read began, and when the flags were last requested.
        self._read_at = self._tried_at = self._requested_at = float("-inf")
        # How many notifications have come, and how many of them that read has covered.
        self._notified = self._covered = 0
        self._failing = False
        self._reading: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def current(self) -> tuple[Snapshot, bool]:
        """The flags, and whether they are stale: the database has not answered for a second."""
        self._requested_at = time.monotonic()
        if self._snapshot is None or not self._is_fresh():
            await self._catch_up()
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
        if self._snapshot is None or not self._is_usable():
            raise ApiError(
                503,
                "flags_unavailable",
                "The flags cannot be loaded at present",
                hint="Use your default values.",
                headers=RETRY,
            )
        return self._snapshot, not self._is_fresh()

    async def close(self) -> None:
        for task in (self._listening, self._refreshing, self._reading):
            if task:
                task.cancel()
                await asyncio.wait([task])

    def _is_fresh(self) -> bool:
        return self._covered == self._notified and time.monotonic() - self._read_at < FRESH_SECONDS

    def _is_usable(self) -> bool:
        return time.monotonic() - self._read_at < STALE_SECONDS

    async def _catch_up(self) -> None:
        """Wait for fresh flags, but not while the database fails or hangs and there are flags to serve."""
        usable = self._snapshot is not None and self._is_usable()
        clock = asyncio.get_running_loop().time
        until = clock() + (PATIENCE_SECONDS if usable else FIRST_SECONDS)
        while not self._is_fresh() and (left := until - clock()) > 0:
            if self._failing and time.monotonic() - self._tried_at < RETRY_SECONDS and not self._reading:
                return
            reading = self._read()
            if usable and (self._failing or time.monotonic() - self._tried_at > PATIENCE_SECONDS):
                return
            await asyncio.wait([reading], timeout=left)
            if self._failing:
                return

    async def _refresh(self) -> None:
        """Read repeatedly while requests arrive."""
        while time.monotonic() - self._requested_at < IDLE_SECONDS:
            await asyncio.sleep(RETRY_SECONDS if self._failing else self._until_refresh())
            if self._failing or self._until_refresh() <= 0:
                await asyncio.wait([self._read()])
        self._refreshing = None

    def _until_refresh(self) -> float:
        return max(self._tried_at + REFRESH_SECONDS - time.monotonic(), 0)

    def _read(self) -> asyncio.Task[None]:
        """The read under way, shared by everyone who needs one."""
        if self._reading is None:
            self._tried_at = time.monotonic()
            self._reading = asyncio.create_task(self._read_once())
            if self._listening is None:
                self._listening = asyncio.create_task(self._listen())
        return self._reading

    async def _read_once(self) -> None:
        began, notified = self._tried_at, self._notified
        try:
            async with asyncio.timeout(READ_SECONDS):
                await self._load()
        except Exception as problem:  # noqa: BLE001 - whatever fails, the last known flags serve and the next read tries
            if not self._failing:
                log("WARNING", "flags are stale", exception=type(problem).__qualname__)
            self._failing = True
        else:
            self._read_at, self._covered, self._failing = began, notified, False
        finally:
            self._reading = None

    async def _load(self) -> None:
        known = self._snapshot
        version, flags, groups = -1, dict[str, Flag](), dict[str, Group | None]()
        known_groups = {group.revision: group for group in known.groups.values() if group} if known else {}
        values = (self.environment, known.version if known else -1, [*known_groups])
        rows = self._source.batches(LOAD, values, BATCH)
        async with aclosing(rows):  # type: ignore[type-var]  # a generator, of which the protocol says less
            with ExitStack() as stack:
                turn = time.perf_counter()
                async for batch in rows:
                    if (version := batch[0][0]) == (known and known.version):
                        return
                    if not flags:
                        stack.enter_context(_no_garbage_collection())
                    for _, name, at, revision, text in batch:
                        if at is not None:
                            flags[name] = _flag(known, name, at, text, groups)
                        elif name is not None:  # groups come before the flags that name them
                            groups[name] = known_groups.get(revision) or _group(text, revision)
                        if time.perf_counter() - turn > TURN_SECONDS:
                            await asyncio.sleep(0)
                            turn = time.perf_counter()
                if known and version < known.version:
                    # A standby that lags, or a restored backup: older than what this process has served.
                    raise InterfaceError(f"flags went back from version {known.version} to {version}")
                self._snapshot = Snapshot(version, flags, groups)
                if len(flags) >= MANY:
                    gc.freeze()
        before = [*known.flags.values()] if known else []
        del known
        await _release(before)

    async def _listen(self) -> None:
        """Read at once after a notification. Where the connection cannot listen, the refreshing suffices."""
        while True:
            try:
                async with aclosing(self._source.listen("feature_flags")) as notices:  # type: ignore[type-var]  # an AsyncIterator that can be closed
                    async for _ in notices:
                        self._notified += 1
                        if self._reading:
                            await asyncio.wait([self._reading])
                        if self._snapshot is not None and not self._is_fresh():
                            await asyncio.wait([self._read()])
            except UNAVAILABLE:
                await asyncio.sleep(LISTEN_AGAIN_SECONDS)
            else:
                return


async def _release(flags: list[Flag]) -> None:
    """Free old flags in turns: freeing many takes as long as loading them. Requests may still hold some."""
    while flags:
        turn = time.perf_counter()
        while flags and time.perf_counter() - turn < TURN_SECONDS:
            del flags[-10:]
        await asyncio.sleep(0)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A load creates only objects that stay, so collections during it would take long and free nothing.

    No part of a snapshot refers back to another part, so an old one is freed without a collector, frozen or not.
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
    text = definition or ""
    # Postgres writes `$` as it is, so text that names no group is known without a walk through it.
    named = groups if any(map(text.__contains__, OPERATORS)) else None
    try:
        return compile_flag(name, version, from_json(text), named)
    except ValueError as problem:
        return broken_flag(name, version, problem)


def _group(text: str, revision: UUID) -> Group | None:
    try:
        return Group(from_json(text), revision)
    except Exception:  # noqa: BLE001 - an error of the flags that name this group, and of no other
        return None
