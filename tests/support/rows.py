"""One transaction in which people take turns: writing rows, calling functions, expecting refusals."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.support.world import Database, Row, become, claims_of

Cursor = psycopg.Cursor[Row]


@contextmanager
def scene(database: Database) -> Iterator[Cursor]:
    """A transaction of `postgres`, without policies; rolled back at the end."""
    with database.connect() as connection:
        connection.autocommit = False
        with connection.cursor(row_factory=dict_row) as cursor:
            yield cursor
        connection.rollback()


def turn(cursor: Cursor, person: str | None, org: UUID | None = None) -> None:
    """Continue as this person, as through the API; None: as `postgres`."""
    cursor.execute("reset role")
    token = claims_of(person) if person else {}
    become(cursor.connection, "authenticated" if person else "postgres", token, {"x-org-id": str(org)} if org else {})
    if not person:  # a connection of the owner has no claims
        cursor.execute("select set_config('request.jwt.claims', '', true)")


def add(cursor: Cursor, table: str, **columns: Any) -> Row:
    """Insert one row and return it as stored."""
    statement = sql.SQL("insert into public.{} ({}) values ({}) returning *").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(map(sql.Placeholder, columns)),
    )
    return one(cursor.execute(statement, columns))


def change(cursor: Cursor, table: str, row: Row, **columns: Any) -> Row | None:
    """Update the row and return it, or None if the caller cannot reach it."""
    statement = sql.SQL("update public.{} set {} where id = {} returning *").format(
        sql.Identifier(table),
        sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder(c)) for c in columns),
        sql.Literal(row["id"]),
    )
    return cursor.execute(statement, columns).fetchone()


def remove(cursor: Cursor, table: str, row: Row) -> bool:
    """Delete the row; return whether the caller could delete it."""
    statement = sql.SQL("delete from public.{} where id = {}")
    return cursor.execute(statement.format(sql.Identifier(table), sql.Literal(row["id"]))).rowcount == 1


def call(cursor: Cursor, function: str, **arguments: Any) -> Any:
    """The result of the function as PostgREST's rpc returns it."""
    statement = sql.SQL("select to_jsonb(f) as answer from public.{}({}) f").format(
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(a), sql.Placeholder(a)) for a in arguments),
    )
    return one(cursor.execute(statement, arguments))["answer"]


def one(cursor: Cursor) -> Row:
    row = cursor.fetchone()
    assert row is not None, "no row"
    return row


@contextmanager
def refused(cursor: Cursor, sqlstate: str, message: str) -> Iterator[pytest.ExceptionInfo[psycopg.Error]]:
    """The statement inside fails with this SQLSTATE and message; the transaction goes on."""
    with pytest.raises(psycopg.Error, match=message) as caught, cursor.connection.transaction():
        yield caught
    assert caught.value.sqlstate == sqlstate, caught.value
