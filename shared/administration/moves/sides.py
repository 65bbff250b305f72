"""The two databases of a move."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


class MoveError(Exception):
    """The organization was not moved; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Sides:
    """The organization leaves `source` and arrives at `target`."""

    def __init__(self, source: Connection, target: Connection, organization: str) -> None:
        self.source, self.target, self.organization = source, target, organization
        self._threads = ThreadPoolExecutor(2)
        for each in (source, target):
            # The hashes are of texts: both sides must write values alike.
            each.execute(
                "set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; set bytea_output = 'hex';"
                " set extra_float_digits = 1; set statement_timeout = 0; set search_path = pg_catalog;"
                # What a move that was killed had started ends within a second, and with it its locks.
                " set client_connection_check_interval = '1s'"
            )

    def again(self) -> "Sides":
        """Both with connections of their own, for what is done at the same time."""
        here, there = (connect_again(each, autocommit=True) for each in (self.source, self.target))
        return Sides(here, there, self.organization)

    def close(self) -> None:
        self._threads.shutdown()
        for each in (self.source, self.target):
            each.close()

    def on_both(self, read: Callable[[Connection], Any]) -> tuple[Any, Any]:
        here, there = (self._threads.submit(read, each) for each in (self.source, self.target))
        return here.result(), there.result()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """No trigger runs at the target: what they would do was done at the source."""
        with self.target.transaction():
            self.target.execute("set local session_replication_role = replica")
            yield


def connect_again(connection: Connection, *, autocommit: bool = False) -> Connection:
    return psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=autocommit)


def row(connection: Connection, statement: str, *values: Any, **named: Any) -> tuple[Any, ...]:
    found = connection.execute(statement, named or values).fetchone()
    return tuple(found or ())
