"""The connection pool: how long a request waits for a connection, and for a response that does not come."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import psycopg
import pytest
import uvloop
from psycopg_pool import PoolTimeout

from shared.database import pool
from shared.database.connection import PooledConnection
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


def test_the_end_of_a_connection_is_noticed_at_once(database: Database) -> None:
    """Data that the server has not read makes it reset the connection; uvloop then reports an error, and only once."""

    async def work() -> None:
        connection = await PooledConnection.connect(database.url("postgres"), autocommit=True)
        statement = asyncio.create_task(connection.execute("select pg_sleep(600)"))
        await asyncio.to_thread(reset, connection.pgconn.socket, connection.info.backend_pid)
        with pytest.raises(psycopg.errors.AdminShutdown):
            await statement
        await connection.close()

    def reset(number: int, process: int) -> None:
        with database.connect("supabase_admin") as admin:
            asleep = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
            while not admin.execute(asleep, [process]).fetchone():
                time.sleep(0.01)
            os.write(number, b"H\0\0\0\4")
            admin.execute("select pg_terminate_backend(%s, 60000)", [process])

    uvloop.run(work())
