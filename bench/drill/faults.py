"""What goes wrong. Each fault ends by itself; who puts things right is `strive dev`, as on any day."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http import HTTPStatus
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import httpx
import psutil

from bench.drill import neighbor
from bench.drill.pooler import behind_a_pooler
from bench.drill.traffic import Book
from local.postgres import SUPERUSER
from local.processes import alive
from local.stack import Stack
from local.stripe.webhooks import signature

PAUSE_SECONDS = 10
LOCK_SECONDS = 6
UNWELL_SECONDS = 10
HOSTILE_SECONDS = 60

# What it measured, if anything: {"goals": {…}, …}.
Fault = Callable[[Stack, Book], dict[str, Any] | None]


def kill(service: str, signal: int = SIGKILL) -> Fault:
    def fault(stack: Stack, _book: Book) -> None:
        process = stack.processes()[service]
        assert process, f"{service} does not run"
        process.send_signal(signal)
        while alive(process):
            time.sleep(0.01)

    return fault


def kill_backends(stack: Stack, _book: Book) -> None:
    """A crash of one backend makes Postgres end all of them and recover."""
    with stack.cluster.connect(SUPERUSER) as connection:
        row = connection.execute(
            "select pid from pg_stat_activity where usename = 'strive_functions' order by backend_start limit 1"
        ).fetchone()
    if row:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(row[0]).kill()


def restart_postgres(stack: Stack, _book: Book) -> None:
    stack.cluster.stop()


def pause_postgres(stack: Stack, _book: Book) -> None:
    postmaster = stack.processes()["postgres"]
    assert postmaster
    paused = [postmaster, *postmaster.children()]
    for process in paused:
        process.send_signal(SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    for process in paused:
        process.send_signal(SIGCONT)


def fill_the_pool(stack: Stack, _book: Book) -> None:
    """All that write to the feed wait for a lock, with every connection of the functions."""
    with stack.cluster.connect(SUPERUSER) as connection, connection.transaction():
        connection.execute("lock table public.activity_feeds in access exclusive mode")
        time.sleep(LOCK_SECONDS)


def take_all_connections(stack: Stack, book: Book) -> None:
    """Postgres has no connection left for anybody new; who has one keeps it."""
    with ExitStack() as held:
        with suppress(Exception):
            while True:
                held.enter_context(stack.cluster.connect())
        for service in ("api", "functions"):
            kill(service)(stack, book)
        time.sleep(LOCK_SECONDS)


def control(stack: Stack, **given: object) -> None:
    httpx.post(f"{stack.values()['STRIPE_API_BASE']}/control", json=given).raise_for_status()


def stripe_is_unwell(stack: Stack, _book: Book) -> None:
    """Events are lost, late, twice and in any order; some answers of the API never come."""
    control(stack, mischief={"seed": 7, "drop": 0.3, "duplicate": 0.2, "delay": 3, "shuffle": 20})
    for kind in ("timeout", "500", "429"):
        control(stack, fail={"how": kind, "times": 3, "after": True})
    time.sleep(UNWELL_SECONDS)
    control(stack, mischief={})


def clocks_disagree(stack: Stack, _book: Book) -> None:
    """Signatures of ten minutes ago and ten minutes ahead are refused, however right they are."""
    values = stack.values()
    body = b'{"id": "evt_drill", "object": "event", "type": "ping", "created": 1, "livemode": false, "data": {}}'
    for ahead in (-600, 600):
        signed = signature(body, values["STRIPE_WEBHOOK_SECRET"], int(time.time()) + ahead)
        answer = httpx.post(
            f"{values['FUNCTIONS_URL']}/stripe-webhook", content=body,
            headers={"content-type": "application/json", "stripe-signature": signed},
        )  # fmt: skip
        assert answer.status_code == HTTPStatus.BAD_REQUEST, answer.text


def hostile_neighbor(stack: Stack, _book: Book) -> dict[str, Any]:
    return neighbor.drill(stack, HOSTILE_SECONDS)


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
    "Stripe: kill -9": kill("stripe"),
    f"Stripe: loses, doubles, delays and mixes for {UNWELL_SECONDS} s": stripe_is_unwell,
    "PgBouncer in between: kill -9": behind_a_pooler,
    "Stripe: its clock is ten minutes off": clocks_disagree,
    f"a hostile account at full speed for {HOSTILE_SECONDS} s": hostile_neighbor,
}
