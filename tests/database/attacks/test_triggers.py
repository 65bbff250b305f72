"""Triggers run before the policy of a write refuses it. So they authorize first, then do bounded work, then lock.

Functions do the same.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

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


def lock_every_row(connection: Connection, lock: LiteralString = "for update") -> None:
    for schema, name in connection.execute(
        "select schemaname, tablename from pg_tables where schemaname in ('public', 'private', 'auth')"
    ).fetchall():
        connection.execute(sql.SQL(f"select from {{}} {lock}").format(sql.Identifier(schema, name)))


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


def attempt(
    connection: Connection,
    person: str,
    statement: sql.SQL | sql.Composed,
    values: Sequence[object],
    role: str = "authenticated",
) -> str | None:
    """The SQLSTATE with which the statement is refused."""
    become(connection, role, claims_of(person), {"x-org-id": str(ACME)})
    try:
        with connection.transaction():
            found = connection.execute(statement, values)
            result = found.fetchone() if found.description else None
    except psycopg.Error as refused:
        return refused.sqlstate
    # Operations of administration log a refusal, so they return it.
    is_logged = result is not None and isinstance(result[0], dict) and "refused" in result[0]
    return result[0]["refused"]["code"] if result and is_logged else None


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


# What needs a token or no rights, and what only jobs, webhooks and settled payments lead to.
UNREFUSED = {
    f"private.{name}"
    for name in (
        "abandon_onboarding_payment", "begin_reconciliation", "capture_lead", "claim_stripe_tasks",
        "create_onboarding_session", "exchange_webhooks", "expire_onboarding_payments", "finish_stripe_task",
        "log_interrupted", "note_stripe_progress", "receive_stripe_event", "receive_stripe_events",
        "record_exposure", "record_missing_object", "record_onboarding_payment", "record_refund",
        "save_stripe_object", "settle_auth_syncs", "settle_billing_item", "settle_onboarding_payment",
        "store_assistant", "suppress_addresses",
    )
}  # fmt: skip
OPERATIONS = """
    select p.oid::regproc::text from pg_proc p
    where p.pronamespace = 'private'::regnamespace and p.provolatile = 'v' and p.pronargs = 1
      and p.proargtypes[0] = 'jsonb'::regtype and has_function_privilege('strive_functions', p.oid, 'execute')
"""


def payloads(connection: Connection) -> Iterator[dict[str, Any]]:
    """With the ids of Acme's records: one of them at a time is in every field that names a record."""
    tables = connection.execute(
        "select c.oid::regclass::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'id'"
        " join pg_attribute o on o.attrelid = c.oid and o.attname = 'organization_id'"
        " where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind = 'r'"
        " and a.atttypid = 'uuid'::regtype"
    ).fetchall()
    for (table,) in tables:
        for (found,) in connection.execute(
            sql.SQL("select id from {} where organization_id = %s limit 1").format(sql.SQL(table)), [ACME]
        ):
            names = ("id", "order_id", "export_id", "conversation_id", "key_id", "rotated_from", "lead_id", "record_id")
            yield dict.fromkeys(names, str(found)) | {
                "organization_id": str(ACME), "user_id": str(PEOPLE["member"]), "user_ids": [str(PEOPLE["member"])],
                "action": "suspend", "reason": "x", "email": "x@y.test", "name": "x", "scopes": ["crm:read"],
                "expires_at": "2100-01-01", "overlap_hours": 1, "invitations": [{"email": "x@y.test"}],
                "tier": "STARTER", "billing_cycle": "MONTHLY", "quantity": 1, "customer": "cus_x", "session": "cs_x",
                "status": "EXPIRED", "complexity": "SIMPLE", "message": "x", "model": "x", "messages": [], "tokens": 1,
                "kind": "leads", "table": table.removeprefix("public."), "values": {"description": "x"},
                "rows": [{"row": {"name": "x"}, "line": 1}], "operation": "record_activity", "flag": "x",
                "arguments": {"type": "NOTE", "title": "x", "lead_id": str(found)}, "type": "NOTE", "title": "x",
                "format": "csv", "relation": "public.leads", "dry_run": False,
            }  # fmt: skip


@pytest.mark.parametrize("person", ["outsider", "viewer"])
@pytest.mark.usefixtures("matrix")
def test_attack_request_functions_without_rights_waits(database: Database, person: str) -> None:
    """Their login may execute more than a person, so the operations themselves authorize before they lock."""
    waiting, refused = set[str](), set[str]()
    with database.connect(SUPERUSER) as superuser, database.connect(SUPERUSER) as connection:
        connection.execute("set lock_timeout = '100ms'")
        connection.autocommit = False
        named = [name for (name,) in superuser.execute(OPERATIONS)]
        calls = [(name, sql.SQL(f"select {name}(%s)"), [Jsonb(p)]) for p in payloads(superuser) for name in named]
        forbidden = []
        for name, statement, values in calls:
            if attempt(connection, person, statement, values, "strive_functions") in REFUSED:
                forbidden.append((name, statement, values))
            connection.rollback()
        with superuser.transaction(force_rollback=True):
            # A refusal is logged, with a key to its person.
            lock_every_row(superuser, "for no key update")
            for name, statement, values in forbidden:
                refused.add(name)
                if attempt(connection, person, statement, values, "strive_functions") not in REFUSED:
                    waiting.add(name)
                connection.rollback()
    assert set(named) - refused == UNREFUSED
    assert sorted(waiting) == [], "it locks before it authorizes"
