"""Two transactions at once, in a fixed order: the second waits for the first, which then commits."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.support.world import Connection, Database, become, claims_of

Attempt = Callable[[Connection], object]


def both(database: Database, first: tuple[str, Attempt], second: tuple[str, Attempt], isolation: str = "") -> list[str]:
    """The results of two concurrent attempts, each a person and a statement: `done` or the SQLSTATE."""
    with (
        database.connect("authenticator") as one,
        database.connect("authenticator") as two,
        database.connect() as watch,
    ):
        for connection, (person, _) in ((one, first), (two, second)):
            connection.autocommit = False
            if isolation:
                connection.isolation_level = psycopg.IsolationLevel[isolation]
            become(connection, "authenticated", claims_of(person), {})
        with ThreadPoolExecutor(1) as thread:
            outcome = _tried(lambda: first[1](one))
            later = thread.submit(_tried, lambda: second[1](two))
            deadline = time.monotonic() + 60
            waiting = "select cardinality(pg_blocking_pids(%s)) > 0"
            while not later.done() and watch.execute(waiting, [two.info.backend_pid]).fetchone() == (False,):
                assert time.monotonic() < deadline, "the second attempt neither ended nor waited"
            outcome = _tried(one.commit) if outcome == "done" else outcome
            if later.result() == "done":
                return [outcome, _tried(two.commit)]
            return [outcome, later.result()]


def _tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except psycopg.Error as error:
        return str(error.sqlstate)
    return "done"
