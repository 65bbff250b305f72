"""The people and organizations of every database test, with fixed ids."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from select import select
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row

from local.postgres import SUPERUSER, Cluster

Row = dict[str, Any]
Connection = psycopg.Connection[Any]

_serial = count(1)


def fixed_id(name: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"strive:{name}")


ACME = fixed_id("acme")
GLOBEX = fixed_id("globex")

# name → (organization, role there); `removed` was a member of Acme once, `suspended` still is one.
MEMBERS: dict[str, tuple[UUID, str] | None] = {
    "owner": (ACME, "OWNER"),
    "admin": (ACME, "ADMIN"),
    "member": (ACME, "MEMBER"),
    "viewer": (ACME, "VIEWER"),
    "suspended": (ACME, "MEMBER"),
    "globex_owner": (GLOBEX, "OWNER"),
    "globex_member": (GLOBEX, "MEMBER"),
    "removed": None,
    "outsider": None,
    "platform_admin": None,
    "super_admin": None,
}
PEOPLE = {name: fixed_id(name) for name in MEMBERS}


def populate(connection: Connection) -> None:
    """Add the people to a migrated database; `connection` is that of `postgres`."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, now())",
            [(who, f"{name}@strive.test") for name, who in PEOPLE.items()],
        )
        cursor.executemany(
            "insert into public.organizations (id, name, slug, subscription_tier, subscription_status)"
            " values (%s, %s, %s, 'GROWTH', 'ACTIVE')",
            [(ACME, "Acme", "acme"), (GLOBEX, "Globex", "globex")],
        )
        cursor.executemany(
            "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, %s)",
            [(PEOPLE[name], *place) for name, place in MEMBERS.items() if place],
        )
        cursor.execute("update public.users set suspended_at = now() where id = %s", [PEOPLE["suspended"]])
        cursor.execute("update public.users set global_role = 'ADMIN' where id = %s", [PEOPLE["platform_admin"]])
        cursor.execute("update public.users set global_role = 'SUPER_ADMIN' where id = %s", [PEOPLE["super_admin"]])
        cursor.execute("delete from public.notifications; delete from private.emails")  # about who joined


def claims_of(name: str, **more: Any) -> dict[str, Any]:
    """The claims of this person's access token, as the auth service would sign them."""
    place = MEMBERS[name] or ((ACME, "") if name == "removed" else None)
    metadata = {"org_id": str(place[0])} if place else {}
    return {
        "sub": str(PEOPLE[name]),
        "role": "authenticated",
        "aud": "authenticated",
        "email": f"{name}@strive.test",
        "app_metadata": metadata,
        "user_metadata": {},
        **more,
    }


class Reused(psycopg.Connection[Any]):
    """A connection that its `with` block resets and gives back instead of closing it.

    A new one costs seven milliseconds of processor time, and as much again for what it loads of the catalog.
    """

    idle: list["Reused"]

    def __exit__(self, *failure: object) -> None:
        if self.closed:  # the server has ended it
            return
        try:
            self.rollback() if failure[0] else self.commit()
            self.autocommit, self.row_factory, self.prepare_threshold = True, tuple_row, None
            self.execute("discard all")
        except psycopg.Error:
            self.close()
            if not failure[0]:
                raise
        else:
            self.idle.append(self)


@dataclass(frozen=True)
class Database:
    """One database of a cluster, migrated and populated."""

    cluster: Cluster
    name: str
    # Connections of `acting_as` for reuse: a new one costs ten transactions, because it loads the catalog.
    _idle: list[Connection] = field(default_factory=list, compare=False, repr=False)
    _is_copy: bool = field(default=False, compare=False, repr=False)
    _reset: defaultdict[str, list[Reused]] = field(default_factory=lambda: defaultdict(list), compare=False, repr=False)

    def url(self, user: str = "postgres") -> str:
        return self.cluster.url(user, self.name)

    def connect(self, user: str = "postgres") -> Connection:
        if not self._is_copy:  # nothing would close them
            return self.cluster.connect(user, self.name)
        idle = self._reset[user]
        while idle:
            connection = idle.pop()
            if not _is_ended(connection):
                return connection
            connection.close()
        # Statements are not prepared: the server discards them, and psycopg would not know.
        connection = Reused.connect(self.url(user), autocommit=True, prepare_threshold=None)
        connection.idle = idle
        return connection

    @contextmanager
    def copied(self) -> Iterator["Database"]:
        """A database with the same contents, dropped at the end; the original may have no connections."""
        self.close_idle()
        copy = Database(self.cluster, f"copy_{next(_serial)}", _is_copy=True)
        with self.cluster.connect(SUPERUSER, "template1") as connection:
            # Files are copied by Postgres at two thirds of the CPU of writing every page to the log.
            connection.execute(
                f'create database "{copy.name}" template "{self.name}" owner postgres strategy file_copy'
            )
            connection.execute(f'alter database "{copy.name}" set search_path = "$user", public, extensions')
        with copy.connect(SUPERUSER) as connection:
            # The template may be hours old; in its copy no job is overdue.
            if connection.execute("select to_regclass('private.jobs') is not null").fetchone() == (True,):
                connection.execute("update private.jobs set created_at = now()")
        try:
            yield copy
        finally:
            copy.close_idle()
            with self.cluster.connect(SUPERUSER, "template1") as connection:
                connection.execute(f'drop database "{copy.name}" with (force)')

    @contextmanager
    def acting_as(
        self,
        person: str | None,
        *,
        org: UUID | str | None = None,
        claims: dict[str, Any] | None = None,
        role: str | None = None,
        commit: bool = False,
    ) -> Iterator[psycopg.Cursor[Row]]:
        """A cursor in one transaction as the API would open it for this person (None: anonymous), rolled back after.

        `org` is sent as x-org-id; `claims` replaces the token; `role` the database role (e.g. service_role).
        """
        token = claims if claims is not None else claims_of(person) if person else {"role": "anon"}
        headers = {"x-org-id": str(org)} if org else {}
        with self._transaction() as connection:
            become(connection, role or str(token.get("role", "anon")), token, headers)
            with connection.cursor(row_factory=dict_row) as cursor:
                yield cursor
            if commit:
                connection.commit()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction of the authenticator on a reused connection; rolled back unless committed."""
        connection = self._idle.pop() if self._idle else None
        if connection is None or _is_ended(connection):
            if connection:
                connection.close()
            connection = self.cluster.connect("authenticator", self.name)
            connection.autocommit = False
            connection.prepare_threshold = None  # another test may change the tables of a prepared statement
        try:
            yield connection
        finally:
            if not connection.closed:
                connection.rollback()
                self._idle.append(connection)

    def close_idle(self) -> None:
        """Close the connections that are kept for reuse; the end of `copied` does it, too."""
        kept: list[list[Any]] = [self._idle, *self._reset.values()]
        for connections in kept:
            while connections:
                connections.pop().close()


def _is_ended(connection: Connection) -> bool:
    """Whether the server has ended it: there is something to read."""
    return bool(select([connection], [], [], 0)[0])


def become(connection: Connection, role: str, token: dict[str, Any], headers: dict[str, str]) -> None:
    """Set role, claims and headers, as PostgREST does at the start of each transaction."""
    connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
    connection.execute(
        "select set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)",
        [json.dumps(token), json.dumps(headers)],
    )
