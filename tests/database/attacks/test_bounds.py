"""Attacks with values: too large, too deep, not a number, out of range. Every column that a client writes is tried."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.database.attacks.race import both
from tests.database.isolation.matrix import Matrix
from tests.support.rows import Cursor, add, call, refused, scene, turn
from tests.support.world import ACME, PEOPLE, Connection, Database

# The planner's constant folding must not evaluate client values.
BOMBS = {
    "a number of 131,072 digits": '{"a": 1e131071}',
    "a number beyond 10^15": '{"a": [-1e16]}',
    "a number with 16,000 decimals": '{"a": 1e-16000}',
    "trailing zeros": '{"a": 1.' + "0" * 300 + "}",
    "many levels": '{"a":' * 21 + "1" + "}" * 21,
    "many keys": json.dumps({str(n): n for n in range(2001)}),
    "many bytes": json.dumps({"a": "x" * 300_000}),
    "many bytes once written": json.dumps({"a": "\u0001" * 60_000}),
}
CLIENTS_WRITE = """
    select c.relname, a.attname, coalesce(e.typname, t.typname), e.typname is not null
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attgenerated = '' and (
      has_column_privilege('authenticated', c.oid, a.attnum, 'insert, update')
      or has_column_privilege('anon', c.oid, a.attnum, 'insert, update'))
    order by 1, 2
"""


def attempts(type_: str, is_list: bool) -> Iterator[Any]:
    """Values that every column of this type refuses."""
    if is_list:
        if type_ == "text":
            yield ["x"] * 501
            yield ["x" * 501]
        return
    match type_:
        case "jsonb":
            yield from BOMBS.values()
        case "text":
            yield "x" * 262_145
        case "numeric" | "float8":
            yield from ("NaN", "Infinity", "-Infinity", "1e300")
        case "timestamptz" | "date":
            yield from ("infinity", "-infinity", "1899-12-31", "2200-01-01", "294000-01-01")


@pytest.fixture(scope="module")
def rows(matrix: Matrix) -> Connection:
    assert matrix.specimens.rows
    return matrix.connection


def test_attack_write_a_value_without_bounds_into_any_column(rows: Connection) -> None:
    """Each value is written to an existing row by the database owner, who is bound by checks only."""
    accepted = []
    for table, column, type_, is_list in rows.execute(CLIENTS_WRITE).fetchall():
        for value in attempts(type_, is_list):
            statement = sql.SQL("update public.{0} set {1} = %s where ctid in (select ctid from public.{0} limit 1)")
            try:
                with rows.transaction(force_rollback=True):
                    done = rows.execute(statement.format(sql.Identifier(table), sql.Identifier(column)), [value])
                    if done.rowcount:
                        accepted.append(f"{table}.{column} takes {str(value)[:40]}")
            except psycopg.Error as error:
                # 54: Postgres refuses the size. All others are checks or type errors.
                if str(error.sqlstate)[:2] not in {"22", "23", "PT", "54", "42"}:
                    accepted.append(f"{table}.{column}: {error}")
    assert accepted == []


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_attack_blow_up_a_response_with_a_small_document(database: Database, bomb: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT422", "custom_fields is too large"):
            add(cursor, "leads", organization_id=ACME, name="Ada", custom_fields=bomb)


def test_documents_within_the_bounds_are_accepted(database: Database) -> None:
    within = {"a": 10**15, "b": -(10**15), "c": 0.12345678901234567890, "d": "x" * 64_000, "e": [[[]]]}
    with scene(database) as cursor:
        turn(cursor, "member")
        add(cursor, "leads", organization_id=ACME, name="Ada", custom_fields=json.dumps(within))
        add(cursor, "leads", organization_id=ACME, name="Ada", custom_fields=json.dumps({"a": [1] * 15_000}))


@pytest.mark.parametrize("query", [json.dumps({"source": "x", "junk": ["y"] * 3000}), '{"source": 1e131071}'])
def test_attack_have_an_error_write_out_a_large_query(database: Database, query: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "viewer")
        with refused(cursor, "PT422", "is invalid") as caught:
            call(cursor, "evaluate_metric", query=query)
        assert len(str(caught.value.diag.message_detail)) < 1000


ARGUMENTS = {
    "text": "x" * 300_000,
    "text[]": ["x" * 100] * 5_000,
    "uuid[]": [str(number).zfill(32) for number in range(20_000)],
    "jsonb": json.dumps({"name": "x", "type": "NOTE", "title": "x", "a": ["x" * 50] * 10_000}),
    "integer": 2**31 - 1,
    "numeric": Decimal(10) ** 1000,
    "timestamp with time zone": "infinity",
}
SMALL = {"text": "leads", "text[]": ["x"], "uuid[]": [str(ACME)], "uuid": str(ACME), "jsonb": "{}", "integer": 10}
FUNCTIONS = """
    select p.proname, p.proargnames[1:p.pronargs], array(select format_type(t, null) from unnest(p.proargtypes) t)
    from pg_proc p where p.pronamespace = 'public'::regnamespace and p.pronargs > 0
      and has_function_privilege('authenticated', p.oid, 'execute') order by 1
"""


def test_attack_call_functions_with_huge_arguments(database: Database) -> None:
    """Each argument in turn is huge. Postgres itself is never out of its limits, and no error repeats the argument."""
    wrong = []
    with database.connect() as connection:
        functions = connection.execute(FUNCTIONS).fetchall()
    for name, names, types in functions:
        for huge, kind in zip(names, types, strict=True):
            if kind not in ARGUMENTS:
                continue
            given = {other: SMALL.get(its) for other, its in zip(names, types, strict=True)} | {huge: ARGUMENTS[kind]}
            casts = ", ".join(
                f'"{other}" => %({other})s::{its}'
                for other, its in zip(names, types, strict=True)
                if given[other] is not None
            )
            with database.acting_as("admin") as cursor:
                try:
                    cursor.execute(f"select to_jsonb(f) from public.{name}({casts}) f limit 100", given)
                except psycopg.Error as error:
                    text = f"{error.diag.message_primary} {error.diag.message_detail} {error.diag.message_hint}"
                    if str(error.sqlstate)[:2] in {"53", "54", "57", "58", "XX"} or len(text) > 4000:
                        wrong.append(f"{name}({huge}): {error.sqlstate} {len(text)} {text[:100]}")
    assert wrong == []


def test_attack_create_a_task_cycle_concurrently(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        ids = [
            row[0]
            for row in connection.execute(
                "insert into public.tasks (organization_id, title) select %s, 'T' from generate_series(1, 2)"
                " returning id",
                [ACME],
            )
        ]
    below = "update public.tasks set parent_task_id = %s where id = %s"
    one, two = ids
    outcome = both(
        fresh_database,
        ("member", lambda c: c.execute(below, [two, one])),
        ("admin", lambda c: c.execute(below, [one, two])),
    )
    assert outcome == ["done", "PT422"]


def test_attack_pile_up_tasks_without_end(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        parent = None
        for _ in range(20):
            cursor.execute(
                "insert into public.tasks (organization_id, title, parent_task_id) values (%s, 'T', %s) returning id",
                [ACME, parent],
            )
            row = cursor.fetchone()
            assert row
            parent = row["id"]
        with refused(cursor, "PT422", "at most 20 levels"):
            add(cursor, "tasks", organization_id=ACME, title="T", parent_task_id=parent)


def test_attack_start_a_follow_up_plan_of_thousands_of_steps(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        plan = add(cursor, "follow_up_plans", organization_id=ACME, name="Storm")
        cursor.execute(
            "insert into public.follow_up_steps (organization_id, plan_id, day, title)"
            " select %s, %s, 1, 'Call' from generate_series(1, 101)",
            [ACME, plan["id"]],
        )
        with refused(cursor, "PT422", "at most 100 steps"):
            call(cursor, "start_follow_up_plan", plan_id=plan["id"], lead_id=lead["id"])


def test_attack_an_agenda_of_appointments_that_all_clash(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.appointments (organization_id, title, start_time, end_time, assigned_to)"
            " select %s, 'A', now(), now() + interval '1 hour', %s from generate_series(1, 3000)",
            [ACME, PEOPLE["member"]],
        )
        turn(cursor, "viewer")
        cursor.execute(
            "select cardinality(clashes) as clashes from public.agenda(now() - interval '1 d', now() + interval '1 d')"
        )
        assert [row["clashes"] for row in cursor] == [20] * 1000


def cancelled(cursor: Cursor) -> None:
    cursor.execute(
        "create or replace function private.answer_metric(metric public.dashboard_metrics, org uuid) returns jsonb"
        " language plpgsql as $$ begin perform pg_sleep(3.2);"
        " raise exception 'canceling statement due to statement timeout' using errcode = 'query_canceled'; end $$"
    )


def test_attack_a_widget_that_times_out_takes_the_snapshot_along(database: Database) -> None:
    with scene(database) as cursor:
        add(
            cursor,
            "dashboard_metrics",
            organization_id=ACME,
            name="Slow",
            category="SALES",
            query='{"source": "leads", "aggregate": "count"}',
        )
        cancelled(cursor)
        turn(cursor, "viewer")
        snapshot = call(cursor, "dashboard_snapshot")
        assert {metric["error"]["code"] for metric in snapshot["metrics"]} == {"PT503"}
        assert snapshot["organization"]["id"] == str(ACME)
