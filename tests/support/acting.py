"""Several callers in one transaction that is rolled back, so that one arranges what another then meets."""

import time
from contextlib import AbstractContextManager

import psycopg

from tests.support.world import Database, Row, become, claims_of

Cursor = psycopg.Cursor[Row]


def server(database: Database) -> AbstractContextManager[Cursor]:
    """A cursor as our own servers have it."""
    return database.acting_as(None, role="service_role", claims={"role": "service_role"})


def now_as(cursor: Cursor, person: str | None, *, org: object = None, **claims: object) -> Cursor:
    """The same transaction, from here on as this person (None: the server)."""
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


def wait_until_somebody_waits(database: Database) -> None:
    """Until one of the database's transactions stands behind a lock of another."""
    deadline = time.monotonic() + 10
    with database.connect() as connection:
        while not connection.execute(
            "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ).rowcount:
            assert time.monotonic() < deadline, "nobody waits"
            time.sleep(0.005)
