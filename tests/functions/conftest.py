import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from local.stack import free_port
from supabase import Client, ClientOptions, create_client
from tests.conftest import Strive
from tests.support import forking
from tests.support.paying import SECRET, Shop, shop
from tests.support.platform import PASSWORD, Platform, connect, platform_of
from tests.support.serving import NO_TLS, Serving, environment, serving
from tests.support.stripe_events import WEBHOOK
from tests.support.world import Database

PGBOUNCER = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> Iterator[None]:
    with forking.preloaded():
        yield


@pytest.fixture(scope="module")
def database_url(database: Database) -> str:
    return database.url("strive_functions")


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Serving]:
    """All functions, served as they are in production, on the module's database."""
    with serving(tmp_path_factory.mktemp("functions"), environment(database_url)) as running:
        yield running


@pytest.fixture(scope="module")
def platform(stack: Strive) -> Iterator[Platform]:
    with platform_of(stack) as platform:
        yield platform


@pytest.fixture(scope="module")
def clients(stack: Strive) -> Iterator[Callable[[str, str], Client]]:
    """Sign in a person who has an account."""
    with ExitStack() as closing:

        def client(email: str, password: str = PASSWORD) -> Client:
            made = connect(stack, closing.enter_context(httpx.Client(timeout=60, verify=NO_TLS)))
            made.auth.sign_in_with_password({"email": email, "password": password})
            return made

        yield client


@pytest.fixture(scope="module")
def server(stack: Strive) -> Iterator[Client]:
    with httpx.Client(timeout=60, verify=NO_TLS) as http:
        options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield create_client(stack.api_url, stack.secret_key, options=options)


@pytest.fixture
def pooler(tmp_path: Path, fresh_database: Database) -> Iterator[tuple[str, int]]:
    """PgBouncer in transaction mode before the database: its address and how many servers it opens."""
    if PGBOUNCER is None:
        pytest.skip("needs the program pgbouncer (Debian and Ubuntu: apt install pgbouncer)")
    cluster, port, servers = fresh_database.cluster, free_port(), 3
    (tmp_path / "users.txt").write_text(f'"strive_functions" "{cluster.password}"\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"""[databases]
{fresh_database.name} = host=127.0.0.1 port={cluster.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {tmp_path}/users.txt
pool_mode = transaction
default_pool_size = {servers}
logfile = {tmp_path}/pgbouncer.log
{"user = nobody" if os.geteuid() == 0 else ""}
"""  # as Postgres, it refuses to run as root
    )
    if os.geteuid() == 0:
        for folder in (tmp_path, *list(tmp_path.parents)[:3]):  # up to pytest's own, which is private
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "pgbouncer.log").touch(mode=0o666)
    (tmp_path / "pgbouncer.log").chmod(0o666)
    process = subprocess.Popen([PGBOUNCER, tmp_path / "pgbouncer.ini"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "pgbouncer.log").read_text()
                time.sleep(0.02)
        url = f"postgresql://strive_functions:{cluster.password}@127.0.0.1:{port}/{fresh_database.name}"
        yield url, servers
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Shop]:
    """Functions with a Stripe double that sends them all events."""
    with shop(tmp_path_factory.mktemp("shop"), database, database_url) as running:
        running.double.send_events_to(f"{running.functions.url}{WEBHOOK}", SECRET)
        yield running
