"""Several callers in one transaction that is rolled back: one prepares rows, another acts on them."""

import time
from contextlib import AbstractContextManager
from typing import LiteralString

import psycopg

from tests.support.world import Database, Row, become, claims_of

Cursor = psycopg.Cursor[Row]


def server(database: Database) -> AbstractContextManager[Cursor]:
    """A cursor with the rights of a server."""
    return database.acting_as(None, role="service_role", claims={"role": "service_role"})


def now_as(cursor: Cursor, person: str | None, *, org: object = None, **claims: object) -> Cursor:
    """Continue the transaction as this person (None: the server)."""
    headers = {"x-org-id": str(org)} if org else {}
    if person:
        become(cursor.connection, "authenticated", claims_of(person, **claims), headers)
    else:
        become(cursor.connection, "service_role", {"role": "service_role"}, headers)
    return cursor


def value(cursor: Cursor, query: str, parameters: list[object] | None = None) -> object:
    row = cursor.execute(query, parameters).fetchone()
    assert row, query
    (answer,) = row.values()
    return answer


def wait_until_blocked(database: Database, session: LiteralString = "wait_event_type = 'Lock'") -> None:
    """Wait until a session of this database waits for a lock, or meets another condition on pg_stat_activity."""
    deadline = time.monotonic() + 60
    with database.connect() as connection:
        while not connection.execute(
            f"select from pg_stat_activity where datname = current_database() and {session}"
        ).rowcount:
            assert time.monotonic() < deadline, f"no session has {session}"
            time.sleep(0.005)
