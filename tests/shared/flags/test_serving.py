"""How fresh a process's flags are, what it does without the database, and that they only ever move forward."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.errors import ApiError
from shared.flags import Flags, serving
from shared.flags.serving import BATCH, FRESH_SECONDS, STALE_SECONDS
from tests.support.flag_examples import USUAL, somebody


class Source:
    """A database that holds flags, can be away, can be slow, and notifies."""

    def __init__(self) -> None:
        self.version = 1
        self.flags: dict[str, tuple[int, dict[str, Any]]] = {"a": (1, USUAL)}
        self.groups: dict[str, tuple[UUID, list[Any]]] = {}
        self.sent: list[str] = []
        self.looks = 0
        self.away = False
        self.slow: asyncio.Event | None = None
        self.notices: asyncio.Queue[str] = asyncio.Queue()

    def change(self, name: str, **columns: Any) -> None:
        self.version += 1
        self.flags[name] = (self.version, USUAL | columns)

    async def batches(self, _: str, values: tuple[Any, ...], size: int) -> AsyncIterator[list[tuple[Any, ...]]]:
        self.looks += 1
        if self.away:
            raise psycopg.OperationalError("away")
        _, known, known_groups = values
        version = self.version
        rows: list[tuple[Any, ...]] = [(version, None, None, None, None)]
        if version != known:
            rows = [
                (version, name, None, revision, None if revision in known_groups else json.dumps(members))
                for name, (revision, members) in sorted(self.groups.items())
            ]
            rows += [
                (version, name, at, None, json.dumps(definition) if at > known else None)
                for name, (at, definition) in sorted(self.flags.items())
            ]
        self.sent = [row[1] for row in rows if row[4] is not None]
        if self.slow:
            await self.slow.wait()
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    async def listen(self, channel: str) -> AsyncIterator[str]:
        assert channel == "feature_flags"
        while True:
            if self.away:
                raise psycopg.OperationalError("away")
            yield await self.notices.get()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(serving, "time", clock)
    return clock


def run(test: Callable[[Source, Flags], Awaitable[None]]) -> None:
    async def body() -> None:
        source = Source()
        flags = Flags(source, "PRODUCTION")
        try:
            await test(source, flags)
        finally:
            await flags.close()

    asyncio.run(body())


def test_within_a_second_nobody_looks_again_and_after_it_all_who_ask_look_once(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        for _ in range(3):
            before = source.looks
            await asyncio.gather(*(flags.current() for _ in range(50)))
            await flags.current()
            assert source.looks == before + 1
            clock.now += FRESH_SECONDS

    run(test)


def test_a_change_is_seen_within_a_second_though_nobody_tells(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        assert (await flags.current())[0].is_on("a", somebody())
        source.change("a", is_enabled=False)
        clock.now += FRESH_SECONDS
        snapshot, stale = await flags.current()
        assert not snapshot.is_on("a", somebody())
        assert not stale

    run(test)


def test_a_change_that_is_told_is_seen_at_once(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        await asyncio.sleep(0)
        source.change("a", is_enabled=False)
        source.notices.put_nowait("{}")
        for _ in range(10):
            await asyncio.sleep(0)
        looks = source.looks
        snapshot, _ = await flags.current()
        assert not snapshot.is_on("a", somebody())
        assert source.looks == looks, "it was loaded before anybody asked"

    assert clock
    run(test)


def test_a_change_told_during_a_look_is_looked_for_again(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        clock.now += FRESH_SECONDS
        source.slow = asyncio.Event()
        asking = asyncio.create_task(flags.current())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.now += 0.01
        source.change("a", is_enabled=False)
        source.notices.put_nowait("{}")
        await asyncio.sleep(0)
        source.slow.set()
        snapshot, _ = await asking
        assert not snapshot.is_on("a", somebody())

    run(test)


def test_without_the_database_the_last_known_flags_serve_marked_stale_for_a_limited_time(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        source.away = True
        clock.now += FRESH_SECONDS
        snapshot, stale = await flags.current()
        assert snapshot.is_on("a", somebody())
        assert stale
        clock.now += STALE_SECONDS
        with pytest.raises(ApiError) as caught:
            await flags.current()
        assert (caught.value.response.status, caught.value.response.code) == (503, "flags_unavailable")
        source.away = False
        clock.now += FRESH_SECONDS
        await flags.current()
        await asyncio.sleep(0.01)
        _, stale = await flags.current()
        assert not stale

    run(test)


def test_while_the_database_is_away_it_is_tried_once_a_second_and_nobody_waits(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        source.away = True
        clock.now += FRESH_SECONDS
        await flags.current()
        source.looks, source.slow, source.away = 0, asyncio.Event(), False
        clock.now += FRESH_SECONDS
        for _ in range(20):
            _, stale = await flags.current()
            assert stale
            await asyncio.sleep(0)
        assert source.looks == 1
        source.slow.set()

    run(test)


def test_without_any_flags_yet_the_answer_is_503_until_they_come(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.away = True
        with pytest.raises(ApiError, match="cannot be loaded"):
            await flags.current()
        source.away = False
        clock.now += FRESH_SECONDS
        snapshot, stale = await flags.current()
        assert (snapshot.version, stale) == (1, False)

    run(test)


def test_versions_never_go_backwards(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.change("a", is_enabled=False)
        await flags.current()
        source.version, source.flags = 1, {"a": (1, USUAL)}
        clock.now += FRESH_SECONDS
        snapshot, stale = await flags.current()
        assert (snapshot.version, snapshot.is_on("a", somebody()), stale) == (2, False, True)

    run(test)


def test_only_what_changed_is_compiled_again_and_what_is_gone_is_gone(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.change("b")
        source.change("c")
        before, _ = await flags.current()
        source.change("b", rollout_percent=0)
        del source.flags["c"]
        clock.now += FRESH_SECONDS
        after, _ = await flags.current()
        assert after.flags["a"] is before.flags["a"]
        assert after.flags["b"] is not before.flags["b"]
        assert list(after.flags) == ["a", "b"]
        assert list(before.flags) == ["a", "b", "c"], "who holds the old ones keeps them whole"

    run(test)


def test_a_group_is_sent_once_and_again_when_it_is_another(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.groups = {"beta": (uuid4(), ["anna"]), "large": (uuid4(), ["x"])}
        source.change("a", conditions={"name": {"$inGroup": "beta"}})
        source.change("b", conditions={"name": {"$notInGroup": "large"}})
        before, _ = await flags.current()
        assert source.sent == ["beta", "large", "a", "b"]
        assert [before.is_on("a", somebody(name=name)) for name in ("anna", "ben")] == [True, False]
        source.groups["beta"] = (uuid4(), ["ben"])
        source.change("a", conditions={"name": {"$inGroup": "beta"}})
        clock.now += FRESH_SECONDS
        after, _ = await flags.current()
        assert source.sent == ["beta", "a"]
        assert [after.is_on("a", somebody(name=name)) for name in ("anna", "ben")] == [False, True]
        assert [before.is_on("a", somebody(name=name)) for name in ("anna", "ben")] == [True, False], "not mixed"
        assert after.groups["large"] is before.groups["large"]
        # Renamed while no flag named it.
        source.groups = {"renamed": source.groups["large"]}
        source.change("b", conditions={"name": {"$inGroup": "renamed"}})
        del source.flags["a"]
        clock.now += FRESH_SECONDS
        renamed, _ = await flags.current()
        assert renamed.is_on("b", somebody(name="x"))
        assert list(renamed.groups) == ["renamed"]

    run(test)


def test_a_group_of_a_hundred_thousand_is_quick_to_load_and_to_look_in(clock: Clock) -> None:
    members = [str(UUID(int=number)) for number in range(100_000)]

    async def test(source: Source, flags: Flags) -> None:
        source.groups = {"large": (uuid4(), members)}
        for number in range(50):
            source.change(f"flag-{number}", conditions={"targetingKey": {"$inGroup": "large"}})
        loading = asyncio.create_task(flags.current())
        pause, last = 0.0, time.thread_time()
        while not loading.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            pause, last = max(pause, now - last), now
        snapshot, _ = await loading
        assert pause < 0.25, "it blocked for so long; some 30 ms where nothing else runs"
        inside, outside = somebody(members[-1]), somebody("nobody")
        began = time.thread_time()
        for _ in range(100):
            assert all(each.on for each in snapshot.evaluate_all(inside))
        assert time.thread_time() - began < 0.5, "it looks through the list"
        assert [each.key for each in snapshot.evaluate_all(outside) if each.on] == ["a"]

    assert clock
    run(test)


def test_a_load_that_breaks_off_changes_nothing(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        for number in range(BATCH):
            source.change(f"flag-{number}")
        before, _ = await flags.current()
        source.change("a", is_enabled=False)
        whole = source.batches

        async def broken(*arguments: Any) -> AsyncIterator[list[tuple[Any, ...]]]:
            async for batch in whole(*arguments):
                yield batch
                raise psycopg.OperationalError("gone")

        source.batches = broken  # type: ignore[assignment, method-assign]
        clock.now += FRESH_SECONDS
        assert await flags.current() == (before, True)

    run(test)


def test_ten_thousand_flags_load_with_turns_for_requests_between(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.flags = {f"flag-{number:05}": (1, USUAL) for number in range(10_000)}
        loading = asyncio.create_task(flags.current())
        turns = 0
        while not loading.done():
            turns += 1
            await asyncio.sleep(0)
        assert len((await loading)[0].flags) == 10_000
        assert turns > 10_000 // BATCH

    assert clock
    run(test)
