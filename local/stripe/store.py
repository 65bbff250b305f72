"""What survives a kill: every object, every pending delivery, every response kept under an Idempotency-Key."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Object = dict[str, Any]

SCHEMA = 3


def copied(value: Any) -> Any:
    """A copy of JSON: a fifth of the time of copy.deepcopy, which looks for everything else that Python has."""
    if isinstance(value, dict):
        return {name: copied(each) for name, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value


TABLES = """
pragma journal_mode = wal;
pragma synchronous = off;  -- the process may die at any point; the machine may not
create table if not exists objects (
  n integer primary key, id text not null unique, kind text not null, created integer not null, due integer,
  clock text not null default '', owner text, body text not null
);
create index if not exists objects_kind on objects (kind, created, n);
create index if not exists objects_owner on objects (owner, kind) where owner is not null;
create index if not exists objects_due on objects (clock, due) where due is not null;
create table if not exists deliveries (
  n integer primary key, event text not null, endpoint text not null, due real not null, rank real not null,
  attempts integer not null default 0
);
create index if not exists deliveries_due on deliveries (due, rank);
create index if not exists deliveries_event on deliveries (event);
create table if not exists responses (
  key text primary key, request text not null, status integer not null, body text not null, at integer not null
);
create table if not exists notes (name text primary key, value text not null);
"""


class Store:
    """One connection, one change at a time: a request is applied as a whole or not at all."""

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._changing = False
        self._db = sqlite3.connect(file or ":memory:", check_same_thread=False, isolation_level=None)
        if self._rows("pragma user_version") != [(SCHEMA,)]:  # the file of an older version is of no use
            for (table,) in self._rows("select name from sqlite_master where type = 'table'"):
                self._db.execute(f"drop table {table}")
        self._db.executescript(TABLES)
        self._db.execute(f"pragma user_version = {SCHEMA}")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        with self._lock:
            if self._changing:  # part of the change around it
                yield
                return
            self._db.execute("begin")
            self._changing = True
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                self._db.execute("rollback")
                raise
            finally:
                self._changing = False

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Everything inside happens, and is then undone."""
        with self.change():
            self._db.execute("savepoint rehearsal")
            try:
                yield
            finally:
                self._db.execute("rollback to rehearsal")
                self._db.execute("release rehearsal")

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    # Objects ----------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Object | None:
        rows = self._rows("select body from objects where id = ?", name)
        return json.loads(rows[0][0]) if rows else None

    def put(self, thing: Object, due: int | None) -> None:
        self._rows(
            "insert into objects (id, kind, created, due, clock, owner, body) values (?, ?, ?, ?, ?, ?, ?)"
            " on conflict (id) do update set due = excluded.due, owner = excluded.owner, body = excluded.body",
            thing["id"],
            thing["object"],
            thing.get("created", 0),
            due,
            thing.get("_clock") or "",
            thing.get("customer") or thing.get("invoice"),
            json.dumps(thing),
        )

    def forget(self, clock: str) -> None:
        """Delete what belongs to a test clock; the events of it stay."""
        self._rows("delete from objects where clock = ? and kind <> 'event'", clock)

    def all(self, kind: str, before: str | None = None, after: str | None = None) -> Iterator[Object]:
        """Newest first, beyond the object `before`; with `after` oldest first, for the previous page."""
        beyond, order = (after, "asc") if after else (before, "desc")
        place = self._rows("select created, n from objects where id = ?", beyond) if beyond else []
        sign = ">" if after else "<"
        while True:
            where, values = (f"and (created, n) {sign} (?, ?)", place[0]) if place else ("", ())
            rows = self._rows(
                f"select created, n, body from objects where kind = ? {where}"  # noqa: S608 - constants only
                f" order by created {order}, n {order} limit 500",
                kind,
                *values,
            )
            yield from (json.loads(body) for *_, body in rows)
            if not rows:
                return
            place = [rows[-1][:2]]

    def of(self, kind: str, owner: str) -> list[Object]:
        """The objects of a customer, or the payments of an invoice; newest first."""
        rows = self._rows(
            "select body from objects where owner = ? and kind = ? order by created desc, n desc", owner, kind
        )
        return [json.loads(body) for (body,) in rows]

    def first_due(self, now: int, clock: str) -> tuple[Object, int] | None:
        """Schedules first: a phase that begins when a period ends changes the price of the next period."""
        rows = self._rows(
            "select body, due from objects where due is not null and due <= ? and clock = ?"
            " order by due, kind <> 'subscription_schedule', n limit 1",
            now,
            clock,
        )
        return (json.loads(rows[0][0]), rows[0][1]) if rows else None

    # Deliveries -------------------------------------------------------------------------------------------------------

    def add_delivery(self, event: str, endpoint: str, due: float, rank: float) -> None:
        self._rows(
            "insert into deliveries (event, endpoint, due, rank) values (?, ?, ?, ?)", event, endpoint, due, rank
        )

    def due_deliveries(self, now: float) -> list[tuple[int, str, str, int]]:
        return self._rows(
            "select n, event, endpoint, attempts from deliveries where due <= ? order by rank, n limit 50", now
        )

    def pending_deliveries(self, event: str | None = None) -> int:
        where = ("where event = ?", event) if event else ("",)
        return int(self._rows(f"select count(*) from deliveries {where[0]}", *where[1:])[0][0])  # noqa: S608 - constants only

    def delivered(self, delivery: int) -> None:
        self._rows("delete from deliveries where n = ?", delivery)

    def postpone(self, delivery: int, due: float) -> None:
        self._rows("update deliveries set attempts = attempts + 1, due = ? where n = ?", due, delivery)

    def hurry(self) -> None:
        self._rows("update deliveries set due = 0 where attempts > 0")

    # Kept responses and notes -----------------------------------------------------------------------------------------

    def response(self, key: str, now: int) -> tuple[str, int, str] | None:
        """The request and the response under this key in the last 24 hours."""
        self._rows("delete from responses where at < ?", now - 86_400)
        rows = self._rows("select request, status, body from responses where key = ?", key)
        return rows[0] if rows else None

    def keep_response(self, key: str, request: str, status: int, body: str, now: int) -> None:
        self._rows("insert into responses values (?, ?, ?, ?, ?)", key, request, status, body, now)

    def note(self, name: str, otherwise: Any = None) -> Any:
        rows = self._rows("select value from notes where name = ?", name)
        return json.loads(rows[0][0]) if rows else otherwise

    def write_note(self, name: str, value: Any) -> None:
        self._rows("insert or replace into notes values (?, ?)", name, json.dumps(value))

    def delete_note(self, name: str) -> None:
        self._rows("delete from notes where name = ?", name)
