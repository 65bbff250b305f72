"""Saved groups: a group in use cannot be deleted, and a change of its members changes its flags."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.acting import Cursor, now_as, server, value
from tests.support.world import PEOPLE, Connection, Database

ADMIN = PEOPLE["platform_admin"]


@pytest.fixture
def cursor(database: Database) -> Iterator[Cursor]:
    """A platform admin's."""
    with server(database) as cursor:
        yield now_as(cursor, "platform_admin")


def make_group(cursor: Cursor, name: str, *members: Any) -> Any:
    group = value(cursor, "insert into public.feature_flag_groups (name) values (%s) returning id", [name])
    add(cursor, name, *members)
    return group


def add(cursor: Cursor, name: str, *members: Any) -> None:
    cursor.execute(
        "insert into public.feature_flag_group_members (group_id, value) select g.id, m.value"
        " from public.feature_flag_groups g, jsonb_array_elements(%s::jsonb) m where g.name = %s",
        [json.dumps(members), name],
    )


def remove(cursor: Cursor, name: str, member: Any) -> None:
    cursor.execute(
        "delete from public.feature_flag_group_members m using public.feature_flag_groups g"
        " where g.id = m.group_id and g.name = %s and m.value = %s",
        [name, json.dumps(member)],
    )


def make_flag(cursor: Cursor, name: str, conditions: Any, **columns: Any) -> None:
    columns = {
        "name": name,
        "is_enabled": True,
        "rollout_percent": 100,
        "conditions": json.dumps(conditions),
        **columns,
    }
    cursor.execute(
        f"insert into public.feature_flags ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
        [*columns.values()],
    )


def in_group(name: str) -> Any:
    return {"user_id": {"$inGroup": name}}


# Writing


def test_customers_see_no_groups(cursor: Cursor) -> None:
    make_group(cursor, "beta", "anna")
    for person in ("owner", "member", "outsider"):
        now_as(cursor, person)
        for table in ("feature_flag_groups", "feature_flag_group_members"):
            assert cursor.execute(f"select from public.{table}").rowcount == 0


@pytest.mark.parametrize("member", [None, [], ["a"], {"a": 1}, "x" * 301, 10**301, 1e-300])
def test_value_that_no_attribute_equals_is_refused_as_member(cursor: Cursor, member: Any) -> None:
    with pytest.raises(psycopg.IntegrityError, match=r"value is true, false|value: found null"):
        make_group(cursor, "beta", member)


@pytest.mark.parametrize(
    "conditions",
    [
        {"a": {"$inGroup": "nowhere"}},
        {"a": {"$notInGroup": "nowhere"}},
        {"$or": [{"a": 1}, {"a": {"$elemMatch": {"$not": {"$inGroup": "nowhere"}}}}]},
        {"a": {"$in": ["beta"], "$inGroup": "nowhere"}, "b": {"$inGroup": "beta"}},
    ],
    ids=str,
)
def test_condition_with_unknown_group_is_refused(cursor: Cursor, conditions: Any) -> None:
    make_group(cursor, "beta")
    with pytest.raises(psycopg.Error, match="group that does not exist") as caught, cursor.connection.transaction():
        make_flag(cursor, "new-ui", conditions)
    assert (caught.value.sqlstate, caught.value.diag.message_detail) == ("PT422", "There is no group nowhere.")
    make_flag(cursor, "new-ui", {})
    with pytest.raises(psycopg.Error, match="group that does not exist"):
        cursor.execute("update public.feature_flags set conditions = %s", [json.dumps(conditions)])


@pytest.mark.parametrize("person", ["platform_admin", None], ids=["admin", "server"])
def test_group_in_use_cannot_be_deleted_or_renamed(cursor: Cursor, person: str | None) -> None:
    make_group(cursor, "beta", "anna")
    make_flag(cursor, "new-ui", {"$nor": [in_group("beta")]})
    make_flag(cursor, "old-ui", in_group("beta"))
    now_as(cursor, None)
    with pytest.raises(psycopg.Error, match="Flags use group beta"), cursor.connection.transaction():
        cursor.execute("update public.feature_flag_groups set name = 'gamma'")
    now_as(cursor, person)
    with pytest.raises(psycopg.Error, match="Flags use group beta") as caught, cursor.connection.transaction():
        cursor.execute("delete from public.feature_flag_groups")
    assert caught.value.sqlstate == "PT409"
    assert caught.value.diag.message_detail == "The conditions of new-ui, old-ui name it."
    cursor.execute("""update public.feature_flags set conditions = '{"a": 1}' where name = 'new-ui'""")
    cursor.execute("delete from public.feature_flags where name = 'old-ui'")
    assert cursor.execute("delete from public.feature_flag_groups").rowcount == 1


def test_attack_delete_a_group_while_a_flag_adopts_it(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin", commit=True) as admin:
        make_group(admin, "beta")
    with fresh_database.acting_as("platform_admin", commit=True) as making:
        make_flag(making, "new-ui", in_group("beta"))
        with fresh_database.acting_as("super_admin") as deleting:
            deleting.execute("set local lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                deleting.execute("delete from public.feature_flag_groups")
    with fresh_database.acting_as("super_admin") as deleting, pytest.raises(psycopg.Error, match="Flags use group"):
        deleting.execute("delete from public.feature_flag_groups")


def test_group_has_at_most_100000_members(cursor: Cursor) -> None:
    group = make_group(cursor, "large")
    cursor.execute("set local statement_timeout = 0")
    many = "insert into public.feature_flag_group_members (group_id, value) select %s, to_jsonb(n) from"
    cursor.execute(f"{many} generate_series(1, 100000) n", [group])
    with pytest.raises(psycopg.Error, match="too large") as caught:
        cursor.execute(f"{many} generate_series(100001, 100001) n", [group])
    assert caught.value.sqlstate == "PT422"


# A change of a group is a change of the flags


def versions(connection: Connection) -> dict[str, int]:
    return dict(connection.execute("select environment::text, version from private.feature_flag_versions").fetchall())


def test_change_of_group_changes_version_of_its_flags(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin", commit=True) as admin:
        make_group(admin, "beta", "anna")
        make_group(admin, "idle", "anna")
        make_flag(admin, "uses", in_group("beta"))
        make_flag(admin, "staged", in_group("beta"), environment="STAGING")
        make_flag(admin, "other", {"a": 1})
    with fresh_database.connect() as listener, fresh_database.connect() as connection:
        listener.execute("listen feature_flags")
        before, flags = versions(connection), "select name, version from public.feature_flags order by name"
        other = dict(connection.execute(flags).fetchall())["other"]
        for write, name, members in (
            (add, "beta", ["ben", "carl"]),
            (remove, "beta", ["ben"]),
            (add, "idle", ["ben"]),
            (remove, "beta", ["nobody"]),
        ):
            with fresh_database.acting_as("platform_admin", commit=True) as admin:
                write(admin, name, *members)
        after = versions(connection)
        assert {name: after[name] - before[name] for name in after} == {"PRODUCTION": 2, "STAGING": 2, "DEVELOPMENT": 0}
        assert dict(connection.execute(flags).fetchall()) == {
            "other": other,
            "staged": after["STAGING"],
            "uses": after["PRODUCTION"],
        }
        payloads = {notice.payload for notice in listener.notifies(timeout=60, stop_after=4)}
        assert {json.loads(each)["environment"] for each in payloads} == {"PRODUCTION", "STAGING"}


def load(connection: Connection, known: int = -1, *groups: UUID) -> dict[str, Any]:
    rows = connection.execute(
        "select name, definition from private.load_feature_flags('PRODUCTION', %s, %s)", [known, list(groups)]
    ).fetchall()
    return {name: definition and json.loads(definition) for name, definition in rows}


def test_changed_groups_are_loaded_before_their_flags(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin", commit=True) as admin:
        make_group(admin, "zeta", "anna", 3)
        make_group(admin, "unused", "anna")
        make_flag(admin, "a-flag", in_group("zeta"))
        make_group(admin, "staged", "anna")
        make_flag(admin, "b-flag", in_group("staged"), environment="STAGING")
    with fresh_database.connect() as connection:
        whole = load(connection)
        assert [*whole] == ["zeta", "a-flag"]
        assert sorted(whole["zeta"], key=str) == [3, "anna"]
        row = connection.execute("select revision from public.feature_flag_groups where name = 'zeta'").fetchone()
        assert row
        known = versions(connection)["PRODUCTION"]
        assert [*load(connection, known, *row)] == [None], "nothing is new"
        connection.execute("update public.feature_flags set rollout_percent = 5 where name = 'a-flag'")
        changed = load(connection, known, *row)
        assert changed["zeta"] is None
        assert changed["a-flag"]["rollout_percent"] == 5
    with fresh_database.acting_as("platform_admin", commit=True) as admin:
        remove(admin, "zeta", "anna")
        remove(admin, "zeta", 3)
    with fresh_database.connect() as connection:
        assert load(connection, known, *row)["zeta"] == [], "an empty group is one"


def test_change_of_group_is_logged(cursor: Cursor) -> None:
    group = make_group(cursor, "beta", *range(150))
    remove(cursor, "beta", 7)
    cursor.execute("update public.feature_flag_groups set description = 'Early testers'")
    cursor.execute("delete from public.feature_flag_groups")
    logged = cursor.execute(
        "select description, metadata, admin_id from public.admin_action_logs"
        " where action = 'FEATURE_FLAG_UPDATE' and target_type = 'feature_flag_group' and target_id = %s",
        [str(group)],
    ).fetchall()
    assert {row["admin_id"] for row in logged} == {ADMIN}
    entries = {row["description"]: row["metadata"] for row in logged}
    assert entries.keys() == {
        "Feature Flag Group beta created",
        "Feature Flag Group beta changed: 150 added",
        "Feature Flag Group beta changed: 1 removed",
        "Feature Flag Group beta changed: description",
        "Feature Flag Group beta deleted",
    }
    assert entries["Feature Flag Group beta changed: 150 added"] == {"added": [*range(100)]}
    assert entries["Feature Flag Group beta changed: 1 removed"] == {"removed": [7]}
