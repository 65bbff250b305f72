"""Turns of callers: how many requests run, wait and are refused."""

import asyncio

import pytest

from shared.app.turns import Turns, name_caller
from shared.auth.caller import WEBHOOK, Caller
from shared.errors import ApiError


class Bench:
    """Requests that run until they are let go."""

    def __init__(self) -> None:
        self.turns, self.running, self.release = Turns(), list[str](), asyncio.Event()

    async def hold(self, caller: str, name: str) -> None:
        async with self.turns.take(caller):
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
