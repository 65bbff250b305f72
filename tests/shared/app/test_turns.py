"""Turns of callers: how many requests run, wait and are refused."""

import asyncio
from typing import Any, cast

import pytest

from shared.app.health import Readiness
from shared.app.turns import Turns, name_caller
from shared.auth.caller import WEBHOOK, Caller
from shared.database.version import MIGRATION
from shared.errors import ApiError


@pytest.fixture(autouse=True)
def _no_request_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turns, "LONG_SECONDS", float("inf"))


class Bench:
    """Requests that run until they are let go."""

    def __init__(self) -> None:
        self.turns, self.running, self.release = Turns(), list[str](), asyncio.Event()

    async def hold(self, caller: str, name: str, *, may_last: bool = False) -> None:
        async with self.turns.take(caller, may_last=may_last):
            self.running.append(name)
            await self.release.wait()

    async def start(self, caller: str, count: int) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.hold(caller, f"{caller}{n}")) for n in range(count)]
        for _ in range(3):
            await asyncio.sleep(0)
        return tasks


def test_attack_occupy_a_process_with_many_requests() -> None:
    async def attack() -> None:
        bench = Bench()
        eve = await bench.start("eve", Turns.RUNNING + Turns.WAITING + 3)
        ada = await bench.start("ada", 1)
        assert bench.running == [*(f"eve{n}" for n in range(Turns.RUNNING)), "ada0"]
        refused = [task.exception() for task in eve if task.done()]
        assert [isinstance(each, ApiError) and each.response.status for each in refused] == [429] * 3
        bench.release.set()
        await asyncio.gather(*eve, *ada, return_exceptions=True)
        assert bench.running[Turns.RUNNING + 1 :] == [
            f"eve{n}" for n in range(Turns.RUNNING, Turns.RUNNING + Turns.WAITING)
        ]
        assert (await bench.start("eve", 1))[0].done(), "nothing is left behind"

    asyncio.run(attack())


def test_attack_take_the_turns_of_many_keys() -> None:
    keys = [Caller("key", "{}", key_name=f"key {n}", acts_for="eve") for n in range(50)]
    assert {name_caller(key, "192.0.2.1") for key in keys} == {"keys of eve"}
    assert name_caller(Caller("user", "{}", user_id="eve"), "192.0.2.1") == "eve"


def test_attack_ask_for_readiness_without_end() -> None:
    """Each answer takes a connection, and no turn: anyone may ask."""
    asked = asyncio.Event()

    class Hanging:
        times = 0

        async def migration_version(self) -> str:
            self.times += 1
            await asked.wait()
            return MIGRATION

    async def attack() -> None:
        database = Hanging()
        readiness = Readiness(cast("Any", database))
        asking = [asyncio.create_task(readiness.ready()) for _ in range(100)]
        for _ in range(3):
            await asyncio.sleep(0)
        asking.pop().cancel()  # a client that goes away ends no answer of others
        asked.set()
        answers = await asyncio.gather(*asking)
        assert (database.times, {answer.status for answer in answers}) == (1, {200})
        assert len({id(answer) for answer in answers}) == len(answers), "each has the id of its request"
        await readiness.ready()
        assert database.times == 2

    asyncio.run(attack())


def test_attack_long_requests_leave_fewer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack() -> None:
        bench = Bench()
        monkeypatch.setattr(Turns, "LONG_SECONDS", -1.0)
        eve = await bench.start("eve", 5)
        ada = await bench.start("ada", 1)
        assert bench.running == ["eve0", "eve1", "ada0"]
        monkeypatch.setattr(Turns, "LONG_SECONDS", float("inf"))
        eve += await bench.start("eve", 1)
        assert bench.running[3:] == ["eve0"], "one that does not wait; those before it wait for the end of another"
        bench.release.set()
        await asyncio.gather(*eve, *ada)
        assert (await bench.start("eve", 1))[0].done(), "nothing is left behind"

    asyncio.run(attack())


def test_stream_of_a_model_is_not_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        bench = Bench()
        streams = [asyncio.create_task(bench.hold("ada", f"stream{n}", may_last=True)) for n in range(3)]
        await asyncio.sleep(0)
        monkeypatch.setattr(Turns, "LONG_SECONDS", -1.0)
        others = await bench.start("ada", 1)
        assert bench.running == ["stream0", "stream1", "stream2", "ada0"]
        bench.release.set()
        await asyncio.gather(*streams, *others)

    asyncio.run(ask())


def test_a_request_that_gave_up_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack() -> None:
        bench = Bench()
        first = await bench.start("eve", Turns.RUNNING)
        waiting = await bench.start("eve", 3)
        waiting[0].cancel()
        bench.release.set()
        await asyncio.gather(*first, *waiting, return_exceptions=True)
        assert bench.running[Turns.RUNNING :] == ["eve1", "eve2"]
        bench.release.clear()
        monkeypatch.setattr(Turns, "SECONDS", 0.0)
        first = await bench.start("eve", Turns.RUNNING)
        with pytest.raises(ApiError, match="Too many requests"):
            await bench.hold("eve", "late")
        bench.release.set()
        await asyncio.gather(*first)

    asyncio.run(attack())


@pytest.mark.parametrize(
    ("caller", "address", "named"),
    [
        (Caller("user", "{}", user_id="ada"), "192.0.2.1", "ada"),
        (Caller("publishable", "{}"), "192.0.2.1", "192.0.2.1"),
        (Caller("publishable", "{}"), "2001:db8::1:2:3:4", "2001:db8::/64"),
        (Caller("anyone", "{}"), None, None),
        (Caller("secret", "{}"), "192.0.2.1", None),
        (WEBHOOK, "192.0.2.1", None),
    ],
)
def test_callers_are_users_then_networks(caller: Caller, address: str | None, named: str | None) -> None:
    assert name_caller(caller, address) == named
