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

    def on_both(self, read: Callable[[Connection], Any]) -> tuple[Any, Any]:
        here, there = (self._threads.submit(read, each) for each in (self.source, self.target))
        return here.result(), there.result()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """No trigger runs at the target: what they would do was done at the source."""
        with self.target.transaction():
            self.target.execute("set local session_replication_role = replica")
            yield


def row(connection: Connection, statement: str, *values: Any, **named: Any) -> tuple[Any, ...]:
    found = connection.execute(statement, named or values).fetchone()
    return tuple(found or ())
