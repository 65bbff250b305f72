"""Triggers run before the policy of a write refuses it. So they authorize first, then do bounded work, then lock.

Functions do the same.
"""

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from local.postgres import SUPERUSER
from tests.database.isolation.expected import Expected
from tests.database.isolation.matrix import Matrix
from tests.support.world import ACME, PEOPLE, Connection, Database, become, claims_of

# Work that grows with the input or the number of rows.
EXPENSIVE = re.compile(
    r"\bloop\b|\brecursive\b|regexp_matches|jsonb_path_query|jsonb_each|jsonb_array_elements", re.IGNORECASE
)

# It reads the statement text once, whose length the API bounds, and no stored rows.
BOUNDED = {"private.examine_statement"}
AUTHORIZES = re.compile(r"row_security_active\(|is_admin\(\)|current_user_org\(|auth\.uid\(\)")


@pytest.fixture(scope="module")
def matrix(database: Database) -> Iterator[Matrix]:
    with database.connect(SUPERUSER) as superuser, database.connect() as owner:
        matrix = Matrix(superuser, Expected.read())
        matrix.populate(owner)
        yield matrix


def works_before_it_authorises(source: str) -> bool:
    found = EXPENSIVE.search(source)
    return found is not None and not AUTHORIZES.search(source[: found.start()])


def lock_every_row(connection: Connection) -> None:
    for schema, name in connection.execute(
        "select schemaname, tablename from pg_tables where schemaname in ('public', 'private', 'auth')"
    ).fetchall():
        connection.execute(sql.SQL("select from {} for update").format(sql.Identifier(schema, name)))


def writable(connection: Connection, table: str) -> list[str]:
    return [
        name
        for (name,) in connection.execute(
            "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped"
            " and attgenerated = '' and has_column_privilege('authenticated', attrelid, attnum, 'insert')",
            [f"public.{table}"],
        )
    ]


def statements(matrix: Matrix, connection: Connection) -> Iterator[tuple[str, sql.Composed, list[object]]]:
    """An insert of a row that exists, for every table that clients may write."""
    for table, kinds in matrix.specimens.rows.items():
        if "." in table or not (columns := writable(connection, table)):
            continue
        row = next(iter(kinds.values()))
        names = [name for name in columns if name in row]
        statement = sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier("public", table),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.Placeholder() * len(names)),
        )
        yield table, statement, [Jsonb(row[name]) if isinstance(row[name], dict) else row[name] for name in names]


def attempt(connection: Connection, person: str, statement: sql.SQL | sql.Composed, values: list[object]) -> str | None:
    """The SQLSTATE with which the insert is refused."""
    become(connection, "authenticated", claims_of(person), {"x-org-id": str(ACME)})
    try:
        with connection.transaction():
            connection.execute(statement, values)
    except psycopg.Error as refused:
        return refused.sqlstate
    return None


def calls(connection: Connection) -> dict[int, int]:
    """How often this session called each function since its last report."""
    return dict(connection.execute("select funcid, calls from pg_stat_xact_user_functions").fetchall())


@pytest.mark.parametrize("person", ["outsider", "viewer"])
def test_attack_write_without_rights_waits_or_costs(matrix: Matrix, database: Database, person: str) -> None:
    states, expensive = dict[str, str | None](), set[tuple[str, str]]()
    with database.connect(SUPERUSER) as superuser, database.connect(SUPERUSER) as connection:
        sources = {
            oid: (name, source)
            for oid, name, source in superuser.execute(
                "select p.oid, p.oid::regproc::text, p.prosrc from pg_proc p join pg_language l on l.oid = p.prolang"
                " where l.lanname in ('sql', 'plpgsql')"
                " and p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)"
            )
        }
        inserts = list(statements(matrix, superuser))
        connection.execute("set track_functions = 'all'")
        connection.execute("set lock_timeout = '250ms'")
        connection.autocommit = False
        forbidden = []
        for table, statement, values in inserts:
            before = calls(connection)
            if attempt(connection, person, statement, values) == "42501":
                forbidden.append((table, statement, values))
                expensive |= {
                    (table, sources[oid][0])
                    for oid, count in calls(connection).items()
                    if count > before.get(oid, 0)
                    and oid in sources
                    and works_before_it_authorises(sources[oid][1])
                    and sources[oid][0] not in BOUNDED
                }
            connection.rollback()
        assert len(forbidden) > 20
        with superuser.transaction(force_rollback=True):
            lock_every_row(superuser)
            for table, statement, values in forbidden:
                states[table] = attempt(connection, person, statement, values)
                connection.rollback()
    assert {table for table, state in states.items() if state != "42501"} == set(), "it waits for a lock"
    assert sorted(expensive) == [], "it validates before it authorizes"


VALUE = {
    "text": "'x'", "jsonb": "'{}'", "boolean": "true", "timestamp with time zone": "now()", "text[]": "'{}'",
    "integer": "1", "bigint": "1",
}  # fmt: skip
REFUSED: set[str | None] = {"42501", "PT403", "PT404"}


def calls_with_ids(connection: Connection) -> Iterator[tuple[str, str]]:
    """Every function that may write and names records, with a record of Acme of every table."""
    tables = connection.execute(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'id'"
        " join pg_attribute o on o.attrelid = c.oid and o.attname = 'organization_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.atttypid = 'uuid'::regtype"
    ).fetchall()
    ids = [ACME, PEOPLE["member"]]
    for (table,) in tables:
        rows = sql.SQL("select id from public.{} where organization_id = %s limit 1").format(sql.Identifier(table))
        ids += [row for (row,) in connection.execute(rows, [ACME])]
    functions = connection.execute(
        "select p.proname, p.proargtypes::oid[]::regtype[]::text[], p.pronargs - p.pronargdefaults from pg_proc p"
        " where p.pronamespace = 'public'::regnamespace and p.provolatile = 'v' and p.prorettype <> 'trigger'::regtype"
        " and has_function_privilege('authenticated', p.oid, 'execute') and p.proargtypes::oid[]::regtype[]::text[]"
        " && '{uuid,uuid[]}'"
    ).fetchall()
    for name, types, required in functions:
        first = next(at for at, kind in enumerate(types) if kind in {"uuid", "uuid[]"})
        for each in ids:
            given = VALUE | {"uuid": f"'{each}'", "uuid[]": f"array['{each}']"}
            values = [
                f"({given.get(kind, f'enum_first(null::{kind})')})::{kind}"
                for kind in types[: max(required, first + 1)]
            ]
            yield name, f"select public.{name}({', '.join(values)})"


@pytest.mark.parametrize("person", ["outsider", "viewer"])
@pytest.mark.usefixtures("matrix")
def test_attack_call_functions_without_rights_waits(database: Database, person: str) -> None:
    waiting, refused = set[str](), set[str]()
    with database.connect(SUPERUSER) as superuser, database.connect(SUPERUSER) as connection:
        connection.execute("set lock_timeout = '100ms'")
        connection.autocommit = False
        every = list(calls_with_ids(superuser))
        forbidden = []
        for name, call in every:
            if attempt(connection, person, sql.SQL(call), []) in REFUSED:
                forbidden.append((name, call))
            connection.rollback()
        with superuser.transaction(force_rollback=True):
            lock_every_row(superuser)
            for name, call in forbidden:
                refused.add(name)
                if attempt(connection, person, sql.SQL(call), []) not in REFUSED:
                    waiting.add(name)
                connection.rollback()
    assert len(refused) > 25
    assert sorted(waiting) == [], "it locks before it authorizes"
