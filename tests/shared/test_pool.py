"""The connection pool: how long a request waits for a connection."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from psycopg_pool import PoolTimeout

from shared.database import pool
from shared.settings import Settings
from tests.support.serving import environment
from tests.support.world import Database

MANY = 600


@pytest.fixture
def one_connection(database: Database) -> pool.Database:
    return pool.Database(Settings.read(environment(database.url("strive_functions"), DATABASE_CONNECTIONS="1")))


async def occupy(database: pool.Database) -> AsyncGenerator[None, None]:
    async for _ in database.batches("select 1", (), 1):
        yield


def test_many_requests_wait_for_one_connection(one_connection: pool.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # All wait at once; how long a request waits is the subject of the next test, and depends on the machine here.
    monkeypatch.setattr(pool, "CHECKOUT_SECONDS", 300)
    monkeypatch.setattr(pool, "STUCK_SECONDS", 300)

    async def work() -> set[object]:
        await one_connection.open()
        waiting = (one_connection.migration_version() for _ in range(MANY))
        versions = await asyncio.gather(*waiting, return_exceptions=True)
        await one_connection.close()
        return set(versions)

    (version,) = asyncio.run(work())
    assert isinstance(version, str)


def test_request_waits_longer_while_the_database_responds(
    one_connection: pool.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STUCK_SECONDS", 0.3)

    async def work() -> None:
        await one_connection.open()
        async with aclosing(occupy(one_connection)) as held:
            await anext(held)
            with pytest.raises(PoolTimeout):  # nothing has responded yet
                await one_connection.migration_version()
        await one_connection.migration_version()
        async with aclosing(occupy(one_connection)) as held:
            await anext(held)
            waiting = asyncio.create_task(one_connection.migration_version())
            done, _ = await asyncio.wait([waiting], timeout=0.6)
            assert not done
        await waiting
        await one_connection.close()

    asyncio.run(work())
