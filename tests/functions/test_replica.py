"""Long reads go to a replica that has everything committed before them; without such a replica, to the primary."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from bench.drill.replica import replica_of
from local.postgres import SUPERUSER, Cluster
from local.stack import free_port
from shared.database import pool
from shared.database.session import Count, Session
from shared.settings import Settings
from tests.support.serving import environment
from tests.support.templates import copy_of, prepare_cluster
from tests.support.world import ACME, Database, claims_of

CLAIMS = json.dumps(claims_of("platform_admin"))


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory, templates: Path) -> Iterator[Database]:
    home = copy_of("cluster", prepare_cluster, templates, tmp_path_factory.mktemp("primary") / "cluster")
    cluster = Cluster(home, free_port(), (home / "password").read_text(), home / "postgres.log")
    cluster.start()
    yield Database(cluster, "world")
    cluster.stop()


@pytest.fixture(scope="module")
def replica(primary: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with replica_of(primary.cluster, tmp_path_factory.mktemp("replica") / "cluster") as running:
        yield running


def read(primary: Database, replica: Cluster, *, rename_to: str) -> tuple[bool, list[str]]:
    """Whether a replica was read, and the lines of the organization, renamed just before."""

    async def work() -> tuple[bool, list[str]]:
        urls = {"DATABASE_READ_URL": replica.url("strive_functions", primary.name)}
        database = pool.Database(Settings.read(environment(primary.url("strive_functions"), **urls)))
        await database.open()
        session = Session(database, CLAIMS, "{}", None, None, Count())
        begun = await session.run(
            "private.begin_export", json.dumps({"organization_id": str(ACME), "format": "ndjson"})
        )
        export = json.loads(begun[0])["done"]["export_id"]
        with primary.connect() as connection:
            connection.execute("update public.organizations set name = %s where id = %s", [rename_to, ACME])
        async with database.connect_to_read("strive-exports") as connection:
            found = await pool.one(connection, "select pg_is_in_recovery()")
        async with session.snapshot() as lines:
            wanted = json.dumps({"export_id": export, "relation": "public.organizations"})
            names = [json.loads(line)["name"] async for line in lines("private.open_export", wanted)]
        await session.run("private.finish_export", json.dumps({"export_id": export, "sha256": "x", "rows": 1}))
        await database.close()
        return bool(found), names

    return asyncio.run(work())


def test_replica_is_read_with_what_was_just_written(primary: Database, replica: Cluster) -> None:
    for name in ("One", "Two", "Three"):
        assert read(primary, replica, rename_to=name) == (True, [name])


def test_reads_with_an_api_key_work_on_a_replica(primary: Database, replica: Cluster) -> None:
    """They are counted by a message in the log, which a replica cannot write."""
    note = "select private.note_read(jsonb_populate_record(null::public.api_keys, jsonb_build_object('id', %s::uuid)))"
    with primary.connect() as connection, replica.connect(SUPERUSER, primary.name) as reader:
        connection.execute(note, [uuid4()])
        reader.execute(note, [uuid4()])


def test_replica_that_lags_is_not_read(
    primary: Database, replica: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "REPLICA_SECONDS", 0.2)
    with replica.connect(SUPERUSER, "template1") as connection:
        connection.execute("select pg_wal_replay_pause()")
        try:
            assert read(primary, replica, rename_to="Four") == (False, ["Four"])
        finally:
            connection.execute("select pg_wal_replay_resume()")
    assert "the replica is not used; the primary is read" in "".join(capfd.readouterr())


def test_replica_that_is_gone_or_promoted_is_not_read(primary: Database, replica: Cluster) -> None:
    replica.stop()
    assert read(primary, replica, rename_to="Five") == (False, ["Five"])
    replica.start()
    with replica.connect(SUPERUSER, "template1") as connection:
        connection.execute("select pg_promote()")
    assert read(primary, replica, rename_to="Six") == (False, ["Six"])
