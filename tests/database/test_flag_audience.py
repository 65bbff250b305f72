"""How many users a flag reaches, before and after a change; who has met which variant of an experiment."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from shared.flags import Context, Snapshot
from shared.flags.compiling import compile_flag
from tests.support.acting import Cursor, now_as, server, value
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

ACTIVE = len(PEOPLE) - 1  # all but the suspended one


@pytest.fixture
def cursor(database: Database) -> Iterator[Cursor]:
    """A platform admin's."""
    with server(database) as cursor:
        yield now_as(cursor, "platform_admin")


def make(cursor: Cursor, name: str = "flag", **columns: Any) -> None:
    columns = {"name": name, "is_enabled": True, **columns}
    cursor.execute(
        f"insert into public.feature_flags ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
        [*columns.values()],
    )


def audience(cursor: Cursor, flag: str = "flag", **changes: Any) -> Any:
    return value(cursor, "select public.flag_audience(%s, %s)", [flag, json.dumps(changes)])


def test_it_counts_whom_the_flag_reaches(cursor: Cursor) -> None:
    make(cursor, rollout_percent=100)
    assert audience(cursor) == {"users": ACTIVE, "on": ACTIVE, "undecided": 0, "listed": 0, "has_conditions": False}


@pytest.mark.parametrize(
    ("changes", "on"),
    [
        ({"is_enabled": False}, 0),
        ({"rollout_percent": 0}, 0),
        ({"starts_at": "2500-01-01"}, 0),
        ({"ends_at": "2000-01-01"}, 0),
        ({"target_tiers": ["GROWTH"]}, 6),
        ({"target_tiers": ["FREE"]}, 0),
        ({"rollout_percent": 0, "target_orgs": [str(GLOBEX)]}, 2),
        ({"target_tiers": ["FREE"], "target_users": [str(PEOPLE["outsider"])]}, 1),
        ({"bucket_by": "org", "rollout_percent": 99.9999}, 6),
    ],
    ids=str,
)
def test_a_change_is_tried_before_it_is_made(cursor: Cursor, changes: dict[str, Any], on: int) -> None:
    make(cursor, rollout_percent=100)
    assert audience(cursor, **changes)["on"] == on
    assert audience(cursor)["on"] == ACTIVE, "nothing was changed"


def test_a_flag_reaches_nobody_whom_its_prerequisites_do_not(cursor: Cursor) -> None:
    make(cursor, "needed", target_users=[PEOPLE["member"], PEOPLE["owner"]])
    make(cursor, "between", rollout_percent=100, prerequisites=["needed"])
    make(cursor, rollout_percent=100, prerequisites=["between"])
    assert audience(cursor)["on"] == 2


def test_conditions_are_said_not_to_be_counted(cursor: Cursor) -> None:
    make(cursor, rollout_percent=100, conditions='{"country": "AT"}')
    assert audience(cursor)["has_conditions"] is True
    assert audience(cursor)["on"] == ACTIVE


def test_the_count_is_what_the_functions_answer(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into auth.users (id, email, email_confirmed_at)"
            " select gen_random_uuid(), 'user-' || n || '@strive.test', now() from generate_series(1, 2000) n"
        )
        connection.execute(
            "insert into public.organization_members (user_id, organization_id)"
            " select id, %s from public.users where email like 'user-%%0@strive.test'",
            [ACME],
        )
        connection.execute(
            "insert into public.feature_flags"
            " (name, is_enabled, rollout_percent, target_orgs, target_users, created_by) select 'flag', true, 33.3, %s,"
            " (select array_agg(id) from public.users where email like 'user-1%%0@%%'), %s",
            [[GLOBEX], PEOPLE["platform_admin"]],
        )
        ((_, name, at, _, definition),) = connection.execute(
            "select * from private.load_feature_flags('PRODUCTION', -1, '{}')"
        ).fetchall()
        people = connection.execute(
            "select u.id, m.organization_id from public.users u left join public.organization_members m"
            " on m.user_id = u.id where u.suspended_at is null"
        ).fetchall()
    snapshot = Snapshot(1, {name: compile_flag(name, at, json.loads(definition))})
    expected = sum(
        snapshot.is_on(
            "flag", Context({"targetingKey": str(user), "organization_id": str(org) if org else None})
        )
        for user, org in people
    )
    with fresh_database.acting_as("platform_admin") as cursor:
        found = audience(cursor)
    assert (found["users"], found["on"]) == (len(people), expected)
    assert 0 < expected < len(people)


def test_attack_a_customer_asks_for_an_audience(cursor: Cursor) -> None:
    make(cursor)
    now_as(cursor, "owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Only platform admins"):
        audience(cursor)


@pytest.mark.parametrize("changes", [{"seed": None}, {"prerequisites": []}, {"name": "x"}, {"nonsense": 1}])
def test_what_cannot_be_previewed_is_said(cursor: Cursor, changes: dict[str, Any]) -> None:
    make(cursor)
    with pytest.raises(psycopg.Error) as caught:
        audience(cursor, **changes)
    assert caught.value.sqlstate == "PT400"
    assert "rollout_percent" in str(caught.value.diag.message_hint)


def test_an_unknown_flag_is_said_so(cursor: Cursor) -> None:
    with pytest.raises(psycopg.Error) as caught:
        audience(cursor, "nowhere")
    assert caught.value.sqlstate == "PT404"


# Experiments


def test_a_unit_counts_once_with_the_variant_it_met_first(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into public.feature_flags (name, created_by) values ('flag', %s)", [PEOPLE["platform_admin"]]
        )
        row = connection.execute("select seed::text from public.feature_flags").fetchone()
        assert row
        recorded = [
            connection.execute(
                "select private.record_exposure(%s) ->> 'recorded'",
                [json.dumps({"flag": "flag", "seed": row[0], "unit": unit, "variant": variant})],
            ).fetchone()
            for unit, variant in [("u1", "a"), ("u1", "a"), ("u1", "b"), ("u2", "b"), ("u3", "b")]
        ]
    assert recorded == [("true",), ("false",), ("false",), ("true",), ("true",)]
    with fresh_database.acting_as("platform_admin") as cursor:
        rows = cursor.execute("select variant, units from public.experiment_results('flag')").fetchall()
        assert rows == [{"variant": "a", "units": 1}, {"variant": "b", "units": 2}]
    with fresh_database.connect() as connection:
        connection.execute("update public.feature_flags set seed = gen_random_uuid()")
        # Evaluated just before: it belongs to the experiment that was.
        late = json.dumps({"flag": "flag", "seed": row[0], "unit": "u4", "variant": "a"})
        assert connection.execute("select private.record_exposure(%s) ->> 'recorded'", [late]).fetchone() == ("true",)
        assert connection.execute(
            "select variant from public.feature_flag_exposures where unit = 'u4' and seed = %s", [row[0]]
        ).fetchall() == [("a",)]
    with fresh_database.acting_as("platform_admin") as cursor:
        assert cursor.execute("select from public.experiment_results('flag')").rowcount == 0, "another experiment"
    with fresh_database.acting_as("owner") as cursor:
        assert cursor.execute("select from public.feature_flag_exposures").rowcount == 0


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_attack_write_exposures_or_load_flags_past_the_functions(database: Database, role: str) -> None:
    for call in (
        "private.record_exposure('{}')",
        "private.load_feature_flags('PRODUCTION', -1, '{}')",
        "private.flag_identity('{}')",
    ):
        with database.acting_as(None, role=role) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(f"select {call}")
    with database.acting_as("platform_admin") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(
            "insert into public.feature_flag_exposures (flag_id, seed, unit, variant) select id, seed, 'u', 'a'"
            " from public.feature_flags"
        )
