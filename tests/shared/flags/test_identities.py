"""Identities of users are remembered for a second, for ten minutes without the database, and never past a refusal."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import psycopg
import pytest

import shared.database.errors  # noqa: F401 - registers the errors of psycopg
from shared.errors import ApiError
from shared.flags import identities
from shared.flags.identities import (
    FRESH_SECONDS,
    REFRESH_SECONDS,
    REMEMBERED,
    STALE_SECONDS,
    Identities,
    Identity,
)

ANNA = ("claims of anna", b"")


class Users:
    """A fake source of identities."""

    def __init__(self) -> None:
        self.tier = "FREE"
        self.loads = 0
        self.refusal: Exception | None = None
        self.resumed: asyncio.Event | None = None

    async def load(self) -> str:
        self.loads += 1
        if self.resumed:
            await self.resumed.wait()
        if self.refusal:
            raise self.refusal
        return f'{{"user_id": "anna", "tier": "{self.tier}"}}'


UNAVAILABLE = psycopg.OperationalError("unavailable")
SUSPENDED = ApiError(403, "user_suspended", "This account is suspended")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(identities, "time", clock)
    monkeypatch.setattr(identities, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(identities, "FIRST_SECONDS", 0.02)
    return clock


def run(test: Callable[[Users, Identities], Awaitable[None]]) -> None:
    asyncio.run(test(Users(), Identities()))  # type: ignore[arg-type]  # a coroutine


def at_once(get: Coroutine[Any, Any, Identity]) -> Identity:
    """The result of a coroutine that does not wait."""
    with pytest.raises(StopIteration) as ended:
        get.send(None)
    identity: Identity = ended.value.value
    return identity


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_identity_is_loaded_once_for_many_requests(clock: Clock) -> None:
    async def test(users: Users, known: Identities) -> None:
        await asyncio.gather(*(known.get(ANNA, users.load) for _ in range(20)))
        clock.now += REFRESH_SECONDS / 2
        assert at_once(known.get(ANNA, users.load)).attributes["tier"] == "FREE"
        assert users.loads == 1
        await known.get(("claims of anna", b"another organization"), users.load)
        assert users.loads == 2

    run(test)


def test_identity_is_refreshed_before_it_gets_old(clock: Clock) -> None:
    async def test(users: Users, known: Identities) -> None:
        await known.get(ANNA, users.load)
        users.tier = "ELITE"
        clock.now += REFRESH_SECONDS
        assert at_once(known.get(ANNA, users.load)).attributes["tier"] == "FREE"
        await settle()
        assert at_once(known.get(ANNA, users.load)).attributes["tier"] == "ELITE"
        assert users.loads == 2

    run(test)


@pytest.mark.parametrize("age", [REFRESH_SECONDS, FRESH_SECONDS, STALE_SECONDS])
def test_attack_suspended_user_is_served_from_memory(clock: Clock, age: float) -> None:
    async def test(users: Users, known: Identities) -> None:
        await known.get(ANNA, users.load)
        users.refusal = SUSPENDED
        clock.now += age
        for _ in range(2):
            with suppress(ApiError) if age < FRESH_SECONDS else pytest.raises(ApiError, match="suspended"):
                await known.get(ANNA, users.load)
            await settle()
            clock.now += FRESH_SECONDS
        with pytest.raises(ApiError, match="suspended"):
            await known.get(ANNA, users.load)
        users.refusal = UNAVAILABLE
        with pytest.raises(psycopg.OperationalError):
            await known.get(ANNA, users.load)

    run(test)


@pytest.mark.parametrize("hung", [False, True], ids=["unavailable", "hung"])
def test_known_user_is_served_ten_minutes_without_the_database(clock: Clock, hung: bool) -> None:
    async def test(users: Users, known: Identities) -> None:
        await known.get(ANNA, users.load)
        users.refusal, users.resumed = (None, asyncio.Event()) if hung else (UNAVAILABLE, None)
        clock.now += FRESH_SECONDS
        assert (await known.get(ANNA, users.load)).stale
        loads = users.loads
        for _ in range(10):
            identity = at_once(known.get(ANNA, users.load))
            assert (identity.stale, identity.attributes["tier"]) == (True, "FREE")
        assert users.loads == loads, "the database gets one request a second"
        clock.now += STALE_SECONDS - 2 * FRESH_SECONDS
        at_once(known.get(ANNA, users.load))
        await settle()
        clock.now += 2 * FRESH_SECONDS
        with pytest.raises((ApiError, psycopg.OperationalError)):
            await known.get(ANNA, users.load)
        users.refusal = None
        if users.resumed:
            users.resumed.set()
        await settle()
        clock.now += FRESH_SECONDS
        assert not (await known.get(ANNA, users.load)).stale

    run(test)


def test_unknown_user_gets_503_while_the_database_hangs(clock: Clock) -> None:
    async def test(users: Users, known: Identities) -> None:
        users.resumed = asyncio.Event()
        with pytest.raises(ApiError, match="cannot confirm") as caught:
            await known.get(ANNA, users.load)
        assert caught.value.response.code == "identity_unavailable"
        users.resumed.set()
        await settle()
        assert not (await known.get(ANNA, users.load)).stale

    assert clock
    run(test)


def test_memory_of_identities_is_bounded(clock: Clock) -> None:
    async def test(users: Users, known: Identities) -> None:
        for number in range(REMEMBERED + 100):
            await known.get((f"claims {number}", b""), users.load)
        assert len(known._known) == REMEMBERED
        loads = users.loads
        at_once(known.get((f"claims {REMEMBERED + 99}", b""), users.load))
        assert users.loads == loads

    assert clock
    run(test)


def test_attack_push_out_identities_by_made_up_organizations(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "REMEMBERED", 10)

    async def test(users: Users, known: Identities) -> None:
        await known.get(ANNA, users.load)
        for number in range(20):
            await known.get(("claims of eve", str(number).encode()), users.load)
        users.refusal = UNAVAILABLE
        clock.now += FRESH_SECONDS
        assert (await known.get(ANNA, users.load)).stale

    run(test)
