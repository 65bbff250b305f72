"""Freshness of the flags in a process, behavior without the database, and versions that only increase."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.errors import ApiError
from shared.flags import Flags, Snapshot, serving
from shared.flags.serving import BATCH, FRESH_SECONDS, STALE_SECONDS
from tests.support.flag_examples import USUAL, a_user


class Source:
    """A database that holds flags, can be unavailable, can hang, and notifies."""

    def __init__(self) -> None:
        self.version = 1
        self.flags: dict[str, tuple[int, Any]] = {"a": (1, USUAL)}
        self.groups: dict[str, tuple[UUID, Any]] = {}
        self.sent: list[str] = []
        self.reads = 0
        self.unavailable = False
        self.resumed: asyncio.Event | None = None
        self.notices: asyncio.Queue[str] = asyncio.Queue()

    def change(self, name: str, **columns: Any) -> None:
        self.version += 1
        self.flags[name] = (self.version, USUAL | columns)

    def hang(self) -> None:
        self.resumed = asyncio.Event()

    async def batches(self, _: str, values: tuple[Any, ...], size: int) -> AsyncIterator[list[tuple[Any, ...]]]:
        self.reads += 1
        if self.unavailable:
            raise psycopg.OperationalError("unavailable")
        _, known, known_groups = values
        version = self.version
        rows: list[tuple[Any, ...]] = [(version, None, None, None, None)]
        if version != known:
            rows = [
                (version, name, None, revision, None if revision in known_groups else text(members))
                for name, (revision, members) in sorted(self.groups.items())
            ]
            rows += [
                (version, name, at, None, text(definition) if at > known else None)
                for name, (at, definition) in sorted(self.flags.items())
            ]
        self.sent = [row[1] for row in rows if row[4] is not None]
        if self.resumed:
            await self.resumed.wait()
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    async def listen(self, channel: str) -> AsyncIterator[str]:
        assert channel == "feature_flags"
        while True:
            if self.unavailable:
                raise psycopg.OperationalError("unavailable")
            yield await self.notices.get()


def text(definition: Any) -> str:
    return definition if isinstance(definition, str) else json.dumps(definition)


class Clock:
    perf_counter = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(serving, "time", clock)
    monkeypatch.setattr(serving, "PATIENCE_SECONDS", 0.01)
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


def at_once(current: Coroutine[Any, Any, tuple[Snapshot, bool]]) -> tuple[Snapshot, bool]:
    """The result of a coroutine that does not wait."""
    with pytest.raises(StopIteration) as ended:
        current.send(None)
    result: tuple[Snapshot, bool] = ended.value.value
    return result


async def turns() -> None:
    """Let all tasks go on until they wait: turns of the loop do not depend on the speed of the machine."""
    for _ in range(100):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it depends on the code under test, which sets no event
            await asyncio.sleep(0.001)


def test_concurrent_requests_share_one_read(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        for _ in range(3):
            before = source.reads
            await asyncio.gather(*(flags.current() for _ in range(50)))
            await flags.current()
            assert source.reads == before + 1
            clock.now += FRESH_SECONDS

    run(test)


def test_change_without_notification_is_served_after_a_second(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        assert (await flags.current())[0].is_on("a", a_user())
        source.change("a", is_enabled=False)
        clock.now += FRESH_SECONDS
        snapshot, stale = await flags.current()
        assert not snapshot.is_on("a", a_user())
        assert not stale

    run(test)


def test_notified_change_is_loaded_before_the_next_request(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        source.change("a", is_enabled=False)
        source.notices.put_nowait("{}")
        await until(lambda: source.reads == 2)
        await turns()
        snapshot, _ = at_once(flags.current())
        assert not snapshot.is_on("a", a_user())

    assert clock
    run(test)


def test_change_notified_during_a_read_is_read_again(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        clock.now += FRESH_SECONDS
        source.hang()
        request = asyncio.create_task(flags.current())
        await until(lambda: source.reads == 2)
        source.change("a", is_enabled=False)
        source.notices.put_nowait("{}")
        await asyncio.sleep(0)
        assert source.resumed
        source.resumed.set()
        await request
        await until(lambda: source.reads == 3)
        snapshot, _ = await flags.current()
        assert not snapshot.is_on("a", a_user())

    run(test)


def test_unavailable_database_leaves_stale_flags_for_ten_minutes(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        source.unavailable = True
        clock.now += FRESH_SECONDS
        snapshot, stale = await flags.current()
        assert snapshot.is_on("a", a_user())
        assert stale
        clock.now += STALE_SECONDS - 2 * FRESH_SECONDS
        await flags.current()
        clock.now += 2 * FRESH_SECONDS
        with pytest.raises(ApiError) as caught:
            await flags.current()
        assert (caught.value.response.status, caught.value.response.code) == (503, "flags_unavailable")
        source.unavailable = False
        clock.now += FRESH_SECONDS
        await flags.current()
        await turns()
        _, stale = await flags.current()
        assert not stale

    run(test)


def test_hung_database_lets_no_request_wait(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        source.hang()
        clock.now += FRESH_SECONDS
        await flags.current()  # the first request after a pause waits for the version check
        for _ in range(20):
            clock.now += 0.5
            snapshot, stale = at_once(flags.current())
            assert snapshot.is_on("a", a_user())
            assert stale
            await asyncio.sleep(0)
        assert source.reads == 2, "one read is under way, not one per request"
        assert source.resumed
        source.resumed.set()
        async with asyncio.timeout(30):
            while stale:
                await asyncio.sleep(0)
                _, stale = await flags.current()

    run(test)


def test_running_requests_are_refreshed_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REFRESH_SECONDS", 0.001)

    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        source.change("a", is_enabled=False)
        await until(lambda: not at_once(flags.current())[0].is_on("a", a_user()))

    run(test)


def test_idle_process_stops_reading(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REFRESH_SECONDS", 0.0)

    async def test(source: Source, flags: Flags) -> None:
        await flags.current()
        await until(lambda: source.reads > 3)
        clock.now += serving.IDLE_SECONDS
        await turns()
        reads = source.reads
        await turns()
        assert source.reads == reads
        await flags.current()
        await until(lambda: source.reads > reads + 3)

    run(test)


def test_without_any_flags_the_response_is_503_until_they_load(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.unavailable = True
        with pytest.raises(ApiError, match="cannot be loaded"):
            await flags.current()
        source.unavailable = False
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
        assert (snapshot.version, snapshot.is_on("a", a_user()), stale) == (2, False, True)

    run(test)


def test_only_changed_flags_are_compiled_again(clock: Clock) -> None:
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
        assert list(before.flags) == ["a", "b", "c"], "requests that hold the old snapshot keep it whole"

    run(test)


def test_group_is_sent_again_only_after_a_change(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.groups = {"beta": (uuid4(), ["anna"]), "large": (uuid4(), ["x"])}
        source.change("a", conditions={"name": {"$inGroup": "beta"}})
        source.change("b", conditions={"name": {"$notInGroup": "large"}})
        before, _ = await flags.current()
        assert source.sent == ["beta", "large", "a", "b"]
        assert [before.is_on("a", a_user(name=name)) for name in ("anna", "ben")] == [True, False]
        source.groups["beta"] = (uuid4(), ["ben"])
        source.change("a", conditions={"name": {"$inGroup": "beta"}})
        clock.now += FRESH_SECONDS
        after, _ = await flags.current()
        assert source.sent == ["beta", "a"]
        assert [after.is_on("a", a_user(name=name)) for name in ("anna", "ben")] == [False, True]
        assert [before.is_on("a", a_user(name=name)) for name in ("anna", "ben")] == [True, False], "not mixed"
        assert after.groups["large"] is before.groups["large"]
        # Renamed while no flag named it.
        source.groups = {"renamed": source.groups["large"]}
        source.change("b", conditions={"name": {"$inGroup": "renamed"}})
        del source.flags["a"]
        clock.now += FRESH_SECONDS
        renamed, _ = await flags.current()
        assert renamed.is_on("b", a_user(name="x"))
        assert list(renamed.groups) == ["renamed"]

    run(test)


STORED: list[Any] = [
    "",
    "null",
    "[]",
    "{",
    '{"is_enabled": true}',
    "1" * 5000,
    "[" * 5000 + "]" * 5000,
    text(USUAL | {"prerequisites": [None]}),
    text(USUAL | {"prerequisites": [["a"]]}),
    text(USUAL | {"target_users": [["a"]]}),
    text(USUAL | {"rollout_percent": "NaN"}),
    text(USUAL).replace('"ends_at": null', f'"ends_at": {"9" * 400}'),
    text(USUAL | {"variants": [{"name": "a", "weight": 1, "value": 0}]}).replace(": 0}", ": 1e400}"),
    text(
        USUAL | {"variants": [{"name": "a", "weight": 1, "value": 0.5}, {"name": "b", "weight": 1, "value": 10**400}]}
    ),
    text(USUAL | {"variants": [{"name": "a", "weight": 1, "value": 0}]}).replace(": 0}", f": {'9' * 5000}}}"),
    text(USUAL | {"conditions": {"a": {"$inGroup": "broken"}}}),
]


@pytest.mark.parametrize("definition", STORED, ids=range(len(STORED)))
def test_attack_stored_flag_breaks_the_loading_of_others(definition: Any, clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        source.groups = {"broken": (uuid4(), '["a", [1]]')}
        source.flags |= {"broken": (1, definition), "z": (1, USUAL | {"prerequisites": ["a"]})}
        source.change("needs", prerequisites=["broken"])
        snapshot, _ = await flags.current()
        found = {each.key: each for each in snapshot.evaluate_all(a_user())}
        assert [json.loads(each)["key"] for each in snapshot.serialized(a_user())] == ["a", "broken", "needs", "z"]
        assert found["a"].on
        assert found["z"].on
        assert found["broken"].error_code == found["needs"].error_code == "PARSE_ERROR", definition
        source.change("a", is_enabled=False)
        clock.now += FRESH_SECONDS
        snapshot, stale = await flags.current()
        assert (snapshot.is_on("a", a_user()), stale) == (False, False), "the kill switch arrives"

    run(test)


def test_group_of_a_hundred_thousand_loads_and_matches_quickly(clock: Clock) -> None:
    members = [str(UUID(int=number)) for number in range(100_000)]

    async def test(source: Source, flags: Flags) -> None:
        source.groups = {"large": (uuid4(), members)}
        for number in range(50):
            source.change(f"flag-{number}", conditions={"targetingKey": {"$inGroup": "large"}})
        snapshot, _ = await flags.current()
        inside, outside = a_user(members[-1]), a_user("nobody")
        began = time.thread_time()
        for _ in range(100):
            assert all(each.on for each in snapshot.evaluate_all(inside))
        assert time.thread_time() - began < 0.5, "it searches the list"
        assert [each.key for each in snapshot.evaluate_all(outside) if each.on] == ["a"]

    assert clock
    run(test)


def test_interrupted_load_changes_nothing(clock: Clock) -> None:
    async def test(source: Source, flags: Flags) -> None:
        for number in range(BATCH):
            source.change(f"flag-{number}")
        before, _ = await flags.current()
        source.change("a", is_enabled=False)
        whole = source.batches

        async def broken(*arguments: Any) -> AsyncIterator[list[tuple[Any, ...]]]:
            async for batch in whole(*arguments):
                yield batch
                raise psycopg.OperationalError("connection lost")

        source.batches = broken  # type: ignore[assignment, method-assign]
        clock.now += FRESH_SECONDS
        assert await flags.current() == (before, True)

    run(test)


def test_ten_thousand_flags_load_in_short_turns(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in CPU time, so that other load does not count."""
    monkeypatch.setattr(serving, "FIRST_SECONDS", 600.0)

    async def test(source: Source, flags: Flags) -> None:
        source.flags = {f"flag-{number:05}": (1, USUAL) for number in range(10_000)}
        loading = asyncio.create_task(flags.current())
        turns, longest, last = 0, 0.0, time.thread_time()
        while not loading.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            turns, longest, last = turns + 1, max(longest, now - last), now
        assert len((await loading)[0].flags) == 10_000
        assert turns > 20
        assert longest < 0.1, "the load holds the event loop"

    assert clock
    gc.collect()
    gc.freeze()  # as the server does after its start: the objects of other tests are not collected here
    try:
        run(test)
    finally:
        gc.unfreeze()
