"""What goes wrong. Each fault ends by itself; who puts things right is `strive dev`, as on any day."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import psutil

from local.postgres import SUPERUSER
from local.processes import alive
from local.stack import Stack

PAUSE_SECONDS = 10
LOCK_SECONDS = 6

Fault = Callable[[Stack], None]


def kill(service: str, signal: int = SIGKILL) -> Fault:
    def fault(stack: Stack) -> None:
        process = stack.processes()[service]
        assert process, f"{service} does not run"
        process.send_signal(signal)
        while alive(process):
            time.sleep(0.01)

    return fault


def kill_backends(stack: Stack) -> None:
    """A crash of one backend makes Postgres end all of them and recover."""
    with stack.cluster.connect(SUPERUSER) as connection:
        row = connection.execute(
            "select pid from pg_stat_activity where usename = 'strive_functions' order by backend_start limit 1"
        ).fetchone()
    if row:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(row[0]).kill()


def restart_postgres(stack: Stack) -> None:
    stack.cluster.stop()


def pause_postgres(stack: Stack) -> None:
    postmaster = stack.processes()["postgres"]
    assert postmaster
    paused = [postmaster, *postmaster.children()]
    for process in paused:
        process.send_signal(SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    for process in paused:
        process.send_signal(SIGCONT)


def fill_the_pool(stack: Stack) -> None:
    """All that write to the feed wait for a lock, with every connection of the functions."""
    with stack.cluster.connect(SUPERUSER) as connection, connection.transaction():
        connection.execute("lock table public.activity_feeds in access exclusive mode")
        time.sleep(LOCK_SECONDS)


def take_all_connections(stack: Stack) -> None:
    """Postgres has no connection left for anybody new; who has one keeps it."""
    with ExitStack() as held:
        with suppress(Exception):
            while True:
                held.enter_context(stack.cluster.connect())
        for service in ("api", "functions"):
            kill(service)(stack)
        time.sleep(LOCK_SECONDS)


FAULTS: dict[str, Fault] = {
    "Postgres: kill -9": kill("postgres"),
    "a backend of Postgres: kill -9": kill_backends,
    "Postgres: stopped and started": restart_postgres,
    f"Postgres: paused for {PAUSE_SECONDS} s": pause_postgres,
    "the API: kill -9": kill("api"),
    "the functions: kill -9": kill("functions"),
    "the functions: SIGTERM": kill("functions", SIGTERM),
    f"the feed locked for {LOCK_SECONDS} s: the pool is full": fill_the_pool,
    "no connection left in Postgres": take_all_connections,
}
