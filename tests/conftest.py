"""Every test worker has a Postgres cluster of its own on free ports, with template databases to clone from."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import pytest

from local.postgres import SUPERUSER, Cluster
from local.stack import Stack
from local.stripe.server import Double
from local.temporary import migrated
from tests.support.world import Database, populate


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Postgres alone. Database `world` is migrated and populated: clone it, never change it."""
    with migrated(tmp_path_factory.mktemp("postgres")) as cluster:
        with cluster.connect() as connection:
            populate(connection)
        with cluster.connect(SUPERUSER, "template1") as connection:
            connection.execute("alter database postgres rename to world")
        yield cluster


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    """A database for the tests of one module; leave it as you found it (acting_as rolls back)."""
    with Database(cluster, "world").copied() as copy:
        yield copy


@pytest.fixture
def fresh_database(cluster: Cluster) -> Iterator[Database]:
    """A database for one test, to do anything with."""
    with Database(cluster, "world").copied() as copy:
        yield copy


@pytest.fixture
def double() -> Iterator[Double]:
    """A Stripe of this test's own, within reach: its clock, its mischief, its faults."""
    double = Double().start()
    yield double
    double.stop()


@dataclass(frozen=True)
class Strive:
    """A running Strive, as a client needs to know it; named as `strive status -o env` and `supabase status` do."""

    api_url: str
    db_url: str
    functions_url: str
    publishable_key: str
    secret_key: str
    jwks_url: str
    stripe_api_base: str = ""  # only the embedded stack has one


def _known_to_clients(values: Mapping[str, str]) -> Strive:
    names = [field.name for field in fields(Strive)]
    return Strive(**{name: values[name.upper()] for name in names if name.upper() in values})


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strive]:
    """The whole stack with demo data: this worker's own, or the one whose addresses are in the environment."""
    if "API_URL" in os.environ:
        yield _known_to_clients(os.environ)
        return
    own = Stack(tmp_path_factory.mktemp("stack"), durable=False)
    own.start(api_port=0, db_port=0)
    try:
        yield _known_to_clients(own.values())
    finally:
        own.stop()


# They start processes and wait for them. Begun last, they would be all that still runs.
SLOW = {
    "test_web.py",
    "test_stack.py",
    "test_commands.py",
    "test_outage.py",
    "test_drill.py",
    "test_onboarding_crashes.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses a Postgres or a stack of its own is about the embedded one; what uses `stack` runs against any."""
    for item in items:
        if "stack" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.embedded)
    items.sort(key=lambda item: item.path.name not in SLOW)
