"""The functions once more, behind PgBouncer in transaction mode, which is killed while they work."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx

from bench.drill.traffic import ACME, Book, Client, record
from local.processes import launch, stop
from local.stack import Stack, free_port

PGBOUNCER = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
ENTRIES = 200
READY_SECONDS = 60


class AbsentError(Exception):
    """A program needed by a fault is missing."""


def behind_a_pooler(stack: Stack, book: Book) -> None:
    """Traffic through the pooler; its acknowledged rows are checked like all others."""
    require()
    with tempfile.TemporaryDirectory() as folder:
        home, port = Path(folder), free_port()
        settings = configure(stack, home, port, servers=4)
        pooler = start(settings)
        words, environment = stack.command("functions")
        database = stack.cluster.url("strive_functions")
        behind = database.replace(f":{stack.cluster.port}/", f":{port}/")
        url = f"http://127.0.0.1:{(own := free_port())}"
        functions = launch(
            words, log=home / "functions.log", cwd=Path.cwd(),
            env=os.environ | environment | {"PORT": str(own), "SUPABASE_DB_URL": behind},
        )  # fmt: skip
        try:
            await_ready(url)
            client = Client(stack.values(), ACME[0], book, threading.Event())
            client.sign_in()
            client.http.base_url = httpx.URL(url)
            for number in range(ENTRIES):
                if number == ENTRIES // 2:
                    pooler.kill()
                    pooler.wait()
                    pooler = start(settings)
                record(client)
        finally:
            stop(functions)
            pooler.kill()
            pooler.wait()


def require() -> None:
    if PGBOUNCER is None:
        raise AbsentError("there is no PgBouncer on this machine (Debian and Ubuntu: apt install pgbouncer)")


def configure(stack: Stack, home: Path, port: int, servers: int) -> Path:
    """The settings of a pooler that opens so many connections to Postgres."""
    cluster = stack.cluster
    (home / "users.txt").write_text(f'"strive_functions" "{cluster.password}"\n')
    (home / "pgbouncer.ini").write_text(
        f"""[databases]
* = host=127.0.0.1 port={cluster.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {home}/users.txt
pool_mode = transaction
default_pool_size = {servers}
{"user = nobody" if os.geteuid() == 0 else ""}
"""  # as Postgres, it refuses to run as root
    )
    home.chmod(0o755)
    return home / "pgbouncer.ini"


def start(settings: Path) -> "subprocess.Popen[bytes]":
    assert PGBOUNCER
    return subprocess.Popen([PGBOUNCER, settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def await_ready(url: str) -> None:
    """Until the functions at this address respond with a migrated database."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} is not ready")
        time.sleep(0.05)
