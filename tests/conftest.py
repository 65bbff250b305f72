"""Every test worker has a Postgres cluster and, if a test needs it, a stack, both copied from a prepared template."""

import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from local.postgres import Cluster
from local.stack import Stack, free_port
from local.stripe.server import Double
from tests.support.templates import copy_of, prepare_cluster, prepare_stack
from tests.support.world import Database

# Compiled tests are kept, as in the Makefile: collecting them takes a quarter of the time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Copying a database takes a tenth of the time in memory. pytest makes its temporary folders there, if there is room.
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its own in it
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30 and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def templates(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where prepared clusters and stacks are kept between runs."""
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)  # none with -p no:cacheprovider
    return cache.mkdir("templates") if cache else tmp_path_factory.mktemp("templates")


@pytest.fixture(scope="session")
def cluster(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Postgres alone. Database `world` is migrated and populated: clone it, never change it."""
    home = copy_of("cluster", prepare_cluster, templates, tmp_path_factory.getbasetemp() / "cluster")
    cluster = Cluster(home, free_port(), (home / "password").read_text(), home / "postgres.log", durable=False)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def stack_at(templates: Path) -> Callable[..., Stack]:
    """A stopped stack in this workdir, with its database and demo data; the caller starts and stops it."""

    def stack_at(workdir: Path, *, durable: bool = False) -> Stack:
        return Stack(copy_of("stack", prepare_stack, templates, workdir), durable=durable)

    return stack_at


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    """A database for the tests of one module; undo every change (acting_as rolls back)."""
    with Database(cluster, "world").copied() as copy:
        yield copy


@pytest.fixture
def fresh_database(cluster: Cluster) -> Iterator[Database]:
    """A database for one test, which may change anything."""
    with Database(cluster, "world").copied() as copy:
        yield copy


@pytest.fixture
def double() -> Iterator[Double]:
    """A Stripe double of this test's own, with its clock and faults."""
    double = Double().start()
    yield double
    double.stop()


@dataclass(frozen=True)
class Strive:
    """Addresses and keys of a running Strive, named as `strive status -o env` and `supabase status` do."""

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
def stack(tmp_path_factory: pytest.TempPathFactory, stack_at: Callable[..., Stack]) -> Iterator[Strive]:
    """The whole stack with demo data: this worker's own, or the one whose addresses are in the environment."""
    if "API_URL" in os.environ:
        yield _known_to_clients(os.environ)
        return
    own = stack_at(tmp_path_factory.getbasetemp() / "stack")
    own.start(api_port=0, db_port=0)
    try:
        yield _known_to_clients(own.values())
    finally:
        own.stop()


# A worker runs whole files. One that takes minutes and is started last prolongs the run, so the longest come first: as
# measured by the last `make test` of this checkout or, before the first, by their place here.
SLOW = [
    "tests/test_commands.py",
    "tests/test_recipes.py",
    "tests/database/isolation/test_isolation.py",
    "tests/bench/test_drill.py",
    "tests/local/test_stack.py",
    "tests/examples/test_web.py",
    "tests/database/test_customer_lives.py",
    "tests/functions/test_onboarding_crashes.py",
    "tests/test_pages.py",
    "tests/database/isolation/test_over_http.py",
    "tests/functions/test_outage.py",
]
SECONDS = "strive/seconds"  # in pytest's cache: file → seconds
spent: defaultdict[str, float] = defaultdict(float)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that use `stack` run against any Supabase; all others need the embedded one."""
    for item in items:
        if "stack" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.embedded)
    cache: pytest.Cache | None = getattr(config, "cache", None)
    seconds = {file: 1000.0 - place for place, file in enumerate(SLOW)}
    seconds |= (cache.get(SECONDS, None) if cache else None) or {}
    items.sort(key=lambda item: -seconds.get(item.nodeid.partition("::")[0], 0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    spent[report.nodeid.partition("::")[0]] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The process that starts the workers remembers how long each file took, if it ran the whole suite."""
    config = session.config
    whole = config.args_source is not config.ArgsSource.ARGS and not (config.option.keyword or config.option.markexpr)
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache and whole and getattr(config.option, "numprocesses", None):
        cache.set(SECONDS, {file: round(seconds, 1) for file, seconds in spent.items()})


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """How many of the tests each lane runs: the official stack and an external URL run the unmarked ones."""
    calls = [
        each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, []) if each.when == "call"
    ]
    embedded = sum("embedded" in each.keywords for each in calls)
    terminalreporter.write_line(
        f"lanes: {len(calls) - embedded} tests for any Supabase, {embedded} for the embedded stack"
    )
