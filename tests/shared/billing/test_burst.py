"""Concurrent deliveries share a batch; one failure does not affect the others."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from pydantic_core import from_json

from shared.app.call import Result
from shared.billing.burst import AT_ONCE, MOST, Burst
from shared.billing.events import delivery
from shared.database.pool import Database as Pool
from shared.settings import Settings
from tests.support.acting import wait_until_blocked
from tests.support.serving import environment
from tests.support.stripe_events import event, sell, subscription
from tests.support.world import Database, Row

CLAIMS = '{"role": "service_role"}'


def stored_event(number: int, **fields: Any) -> str:
    sent = json.dumps(event("customer.subscription.created", subscription(f"sub_{number}", "cus_1"), **fields))
    return delivery(from_json(sent), sent, livemode=False)


def at_once(url: str, deliveries: list[str], *meanwhile: Callable[[], None]) -> list[Any]:
    """The first delivery is blocked until the others have arrived."""
    held_up, release = meanwhile or (lambda: None, lambda: None)

    async def work() -> list[Any]:
        pool, burst = Pool(Settings.read(environment(url, DATABASE_CONNECTIONS="4"))), Burst()

        async def receive(together: str) -> Result[Any]:
            return Result(*await pool.run("private.receive_stripe_events", together, claims=CLAIMS, headers="{}"))

        def taking(delivery: str) -> Awaitable[Any]:
            return asyncio.create_task(burst.take(receive, delivery, "cus_1"))

        await pool.open()
        first = taking(deliveries[0])
        await asyncio.to_thread(held_up)
        others = [taking(each) for each in deliveries[1:]]
        await asyncio.sleep(0)
        release()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        await pool.close()
        return results

    return asyncio.run(work())


def held_up(database: Database, deliveries: list[str]) -> list[Any]:
    with database.connect() as holder:
        holder.autocommit = False
        holder.execute("select private.lock_stripe('cus_1')")
        url = database.url("strive_functions")
        return at_once(url, deliveries, lambda: wait_until_blocked(database), holder.commit)


def kept(database: Database) -> list[Row]:
    with database.connect() as connection:
        sell(connection)
        rows = connection.execute("select id, xmin::text from public.stripe_events order by id").fetchall()
    return [{"id": name, "transaction": transaction} for name, transaction in rows]


def test_deliveries_during_a_transaction_share_the_next_one(fresh_database: Database) -> None:
    results = held_up(fresh_database, [stored_event(number, id=f"evt_{number:02}") for number in range(1, MOST + 4)])
    assert [each["id"] for each in results] == [f"evt_{number:02}" for number in range(1, MOST + 4)]
    assert {each["status"] for each in results} == {"PARKED"}
    transactions = [each["transaction"] for each in kept(fresh_database)]
    assert len(transactions) == MOST + 3
    assert len(set(transactions)) == 3, "the first, as many as go together, and the rest"


def test_concurrent_repeated_delivery_is_stored_once(fresh_database: Database) -> None:
    first, twice = stored_event(1, id="evt_1"), stored_event(2, id="evt_2")
    results = held_up(fresh_database, [first, twice, twice])
    assert [(each["id"], each["duplicate"]) for each in results] == [
        ("evt_1", False),
        ("evt_2", False),
        ("evt_2", True),
    ]
    assert len(kept(fresh_database)) == 2


def test_one_failure_in_a_batch_leaves_the_others_intact(fresh_database: Database) -> None:
    poison = stored_event(3, id="evt_3").replace('"evt_3"', '"no event at all"', 1)
    results = held_up(fresh_database, [stored_event(1, id="evt_1"), stored_event(2, id="evt_2"), poison])
    assert results[0]["id"] == "evt_1"
    assert results[1:] == [None, None], "each is retried alone"
    assert [each["id"] for each in kept(fresh_database)] == ["evt_1"]


def test_large_deliveries_are_not_batched(fresh_database: Database) -> None:
    large = [stored_event(number, id=f"evt_{number}", filler="x" * 600_000) for number in (2, 3)]
    held_up(fresh_database, [stored_event(1, id="evt_1"), *large])
    assert len({each["transaction"] for each in kept(fresh_database)}) == 3


def test_all_deliveries_fail_when_the_database_is_unavailable() -> None:
    url = "postgresql://strive_functions:x@127.0.0.1:1/postgres"
    results = at_once(url, [stored_event(1), stored_event(2), stored_event(3)])
    assert [isinstance(each, psycopg.OperationalError) for each in results] == [True] * 3


@pytest.mark.parametrize("cancelled", [0, 1])
def test_disconnected_client_does_not_block_others(fresh_database: Database, cancelled: int) -> None:
    async def work() -> Any:
        pool, burst = Pool(Settings.read(environment(fresh_database.url("strive_functions")))), Burst()

        async def receive(together: str) -> Result[Any]:
            return Result(*await pool.run("private.receive_stripe_events", together, claims=CLAIMS, headers="{}"))

        await pool.open()
        tasks = [
            asyncio.create_task(burst.take(receive, stored_event(number, id=f"evt_{number}"), "cus_1"))
            for number in (0, 1)
        ]
        await asyncio.sleep(0)
        tasks[cancelled].cancel()
        left = await tasks[1 - cancelled]
        await pool.close()
        return left

    assert asyncio.run(work())["id"] == f"evt_{1 - cancelled}"
    assert len(kept(fresh_database)) == 2


def batches(customers: list[str]) -> list[list[list[str]]]:
    """The customers of the batches that ran, by what ran at the same time; batches end in the order they began."""

    async def work() -> list[list[list[str]]]:
        burst = Burst()
        running: list[tuple[list[str], asyncio.Event]] = []
        moments: list[list[list[str]]] = []

        async def receive(together: str) -> Result[Any]:
            names, end = [each["customer"] for each in json.loads(together)], asyncio.Event()
            running.append((names, end))
            moments.append([each for each, _ in running])
            await end.wait()
            return Result(json.dumps(names))

        takes = [asyncio.create_task(burst.take(receive, json.dumps({"customer": each}), each)) for each in customers]
        while not all(each.done() for each in takes):
            for _ in range(5):  # more than any step of a worker takes
                await asyncio.sleep(0)  # one turn of the loop, which is no time
            if running:
                running.pop(0)[1].set()
        assert [each.result() for each in takes] == customers
        return moments

    return asyncio.run(work())


def test_deliveries_of_many_customers_are_shared_among_batches() -> None:
    moments = batches([f"cus_{number}" for number in range(8)])
    assert [len(each) for each in moments[AT_ONCE - 1]] == [8 // AT_ONCE] * AT_ONCE
    assert len(moments) == AT_ONCE


def test_one_customer_never_runs_in_two_batches_at_once() -> None:
    moments = batches(["cus_1", "cus_2", "cus_1", "cus_3", "cus_1", "cus_2"] * 6)
    for running in moments:
        seen = [name for batch in running for name in set(batch)]
        assert len(seen) == len(set(seen)), running
    assert any(len(running) == AT_ONCE for running in moments)
