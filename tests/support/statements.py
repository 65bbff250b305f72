"""Statements and refusals of the database tests."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.world import Database, Row

Cursor = psycopg.Cursor[Row]


def one(cursor: Cursor, statement: str, *parameters: Any) -> Row:
    row = cursor.execute(statement, parameters).fetchone()
    assert row
    return row


def insert(cursor: Cursor, table: str, **values: Any) -> Row:
    names, places = ", ".join(values), ", ".join(["%s"] * len(values))
    given = [Jsonb(value) if isinstance(value, dict | list) else value for value in values.values()]
    return one(cursor, f"insert into public.{table} ({names}) values ({places}) returning *", *given)


@contextmanager
def refused(sqlstate: str, match: str | None = None) -> Iterator[pytest.ExceptionInfo[psycopg.Error]]:
    """The block fails with this SQLSTATE, which aborts the transaction."""
    with pytest.raises(psycopg.Error, match=match) as caught:
        yield caught
    assert caught.value.sqlstate == sqlstate, caught.value


# Counters of the gallery change when a transaction commits. From this statement on they change at once.
AT_COMMIT = "set constraints all immediate"


def meanwhile(database: Database, first: Cursor, work: Callable[[], None]) -> None:
    """Commit the transaction of `first` once `work`, started after it, waits for one of its locks."""
    with ThreadPoolExecutor(1) as pool, database.connect() as watch:
        waiter = pool.submit(work)
        waits = "select exists (select from pg_locks where not granted and pid <> pg_backend_pid())"
        while not waiter.done() and watch.execute(waits).fetchone() == (False,):
            pass
        first.connection.commit()
        waiter.result()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))
