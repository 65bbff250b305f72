"""Every test worker has a Postgres cluster of its own on free ports, with template databases to clone from."""

import secrets
import socket
from collections.abc import Iterator
from itertools import count

import pytest

from local import database as setup
from local.postgres import SUPERUSER, Cluster
from tests.world import Database, populate

_serial = count(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Postgres alone. Database `world` is migrated and populated: clone it, never change it."""
    home = tmp_path_factory.mktemp("postgres")
    cluster = Cluster(home, free_port(), secrets.token_urlsafe(12), home / "postgres.log", durable=False)
    cluster.initialise()
    cluster.start()
    try:
        setup.create_roles(cluster)
        with cluster.connect(SUPERUSER) as connection:
            setup.create_schemas(connection)
        with cluster.connect() as connection:
            setup.migrate(connection)
            populate(connection)
        with cluster.connect(SUPERUSER, "template1") as connection:
            connection.execute("alter database postgres rename to world")
        yield cluster
    finally:
        cluster.stop()


def clone(cluster: Cluster) -> Iterator[Database]:
    name = f"test_{next(_serial)}"
    with cluster.connect(SUPERUSER, "template1") as connection:
        connection.execute(f'create database "{name}" template world owner postgres')
        connection.execute(f'alter database "{name}" set search_path = "$user", public, extensions')
        try:
            yield Database(cluster, name)
        finally:
            connection.execute(f'drop database "{name}" with (force)')


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    """A database for the tests of one module; leave it as you found it (acting_as rolls back)."""
    yield from clone(cluster)


@pytest.fixture
def fresh_database(cluster: Cluster) -> Iterator[Database]:
    """A database for one test, to do anything with."""
    yield from clone(cluster)
