"""Flags: written by platform admins, validated, versioned and logged."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.acting import Cursor, now_as, server, value, wait_until_blocked
from tests.support.world import PEOPLE, Database

ADMIN = PEOPLE["platform_admin"]
SOUND: list[dict[str, Any]] = [
    {},
    {"seats": {"$gte": 10}, "country": {"$in": ["US"]}},
    {"country": "US", "age": 3, "beta": True, "gone": None, "address": {"city": "Graz"}, "tags": ["a"]},
    {"$or": [], "$and": [{"a": 1}], "$nor": [{"a.b.c": {"$ne": "x"}}], "$not": {"a": {"$exists": False}}},
    {"a": {"$eq": {"$gt": 1}, "$lt": 2, "$lte": "b", "$gt": 0}},
    {"v": {"$veq": "1.2", "$vne": "2", "$vgt": "1.0.0-beta", "$vgte": "1", "$vlt": "9", "$vlte": 8}},
    {"a": {"$in": [], "$nin": [1], "$ini": ["A"], "$nini": ["b"], "$all": [1], "$alli": ["c"]}},
    {"a": {"$type": "array", "$size": 2}, "b": {"$size": {"$gt": 1}}, "c": {"$not": {"$size": 0}}},
    {"a": {"$elemMatch": {"$gt": 1}}, "b": {"$elemMatch": {"name": {"$regex": "^x"}}}},
    {
        "a": {"$regex": r"^(foo|bar)+?\d{2,3}[^\]a-z]\.(?:y)\(?\x41$"},
        "b": {"$regexi": "(?i)a"},
        "c": {"$notRegex": "b"},
    },
    {"a": {"$not": "US"}, "b": {"$notRegexi": r"b\\n"}},
    {"$groups": {"$elemMatch": {"$eq": "a"}}, "people": {"$elemMatch": {"$or": [{"name": "x"}]}}},
]
UNSOUND: list[tuple[Any, str]] = [
    ([], "conditions: found [], expected an object"),
    ("US", "conditions: found"),
    ({"a": {"$gtx": 1}}, "conditions.a.$gtx: found 1, expected one of $eq"),
    ({"a": {"$inGroup": ["beta"]}}, 'conditions.a.$inGroup: found ["beta"], expected the name of a group'),
    ({"a": {"$not": {"$notInGroup": 1}}}, "conditions.a.$not.$notInGroup: found 1"),
    ({"$not": {"a": {"$gtx": 1}}}, "conditions.$not.a.$gtx"),
    ({"a": {"$not": {"$gtx": 1}}}, "conditions.a.$not.$gtx"),
    ({"$or": [{"a": 1}, {"b": {"$in": "US"}}]}, 'conditions.$or[1].b.$in: found "US", expected a list'),
    ({"$or": {"a": 1}}, "conditions.$or: found"),
    ({"$xor": []}, 'conditions: found "$xor"'),
    ({"": 1}, 'conditions: found ""'),
    ({"a": {"$gt": 1, "b": 2}}, "conditions.a.b: found 2, expected only operators"),
    ({"a": {"b": {"$gt": 1}}}, "operators inside a plain value"),
    ({"a": {"$gt": None}}, "conditions.a.$gt: found null, expected a number or a string"),
    ({"a": {"$vgt": ["1"]}}, "expected a version"),
    ({"a": {"$exists": 1}}, "expected true or false"),
    ({"a": {"$type": "int"}}, 'conditions.a.$type: found "int", expected string'),
    ({"a": {"$size": "2"}}, "expected a number or operators"),
    ({"a": {"$size": {"$gt": []}}}, "conditions.a.$size.$gt"),
    ({"a": {"$elemMatch": 1}}, "expected a condition or operators"),
    ({"a": {"$elemMatch": {"b": {"$no": 1}}}}, "conditions.a.$elemMatch.b.$no"),
    ({"a": {"$all": ["x", {"$gtx": 1}]}}, "conditions.a.$all[1].$gtx"),
    ({"$groups": {"$gtx": 1}}, "conditions.$groups.$gtx"),
    ({"$groups": "a"}, 'conditions: found "$groups"'),
]
NO_PATTERNS = [
    "(",
    "[a",
    "*a",
    "a**",
    "[z-a]",
    "a{3,1}",
    "(?P<x>a)",
    r"\y",
    "***:a",
    r"(a)\1",
    "(?<=a)b",
    "a(?=b)",
    r"[\b]",
    r"\_",
    "(a{200}){200}",
    "[[:<:]]",
    "a\\",
    "x" * 1001,
]
SOUND_VARIANTS: list[Any] = [
    [{"name": "control", "weight": 50}, {"name": "treatment", "weight": 50}],
    [{"name": "a", "weight": 0, "value": 1}, {"name": "b", "weight": 0.5, "value": 2.5}],
]
UNSOUND_VARIANTS: list[tuple[Any, str]] = [
    ({"a": 1}, "expected a list"),
    ([{"name": "a", "weight": 1}], "found 1, expected 2 to 20"),
    ([1, []], "found"),
    ([{"name": "a", "weight": 1}, {"name": "b"}], "found"),
    ([{"name": "a", "weight": 1}, {"name": "b", "weight": 1, "colour": "red"}], "found"),
    ([{"name": "a", "weight": 1}, {"name": "", "weight": 1}], "expected 1 to 100 letters"),
    ([{"name": "a", "weight": 1}, {"name": "a", "weight": 1}], "every name once"),
    ([{"name": "a", "weight": 1}, {"name": "b", "weight": -1}], "expected a number from 0 to 1000000"),
    ([{"name": "a", "weight": 1}, {"name": "b", "weight": "1"}], "expected a number from 0 to 1000000"),
    ([{"name": "a", "weight": 0}, {"name": "b", "weight": 0}], "at least one weight above 0"),
    ([{"name": "a", "weight": 1, "value": 1}, {"name": "b", "weight": 1, "value": "x"}], "value of the same type"),
    ([{"name": "a", "weight": 1, "value": 1}, {"name": "b", "weight": 1}], "value of the same type"),
    ([{"name": "a", "weight": 1, "value": None}, {"name": "b", "weight": 1, "value": None}], "value: found null"),
]


@pytest.fixture
def cursor(database: Database) -> Iterator[Cursor]:
    """A platform admin's."""
    with server(database) as cursor:
        yield now_as(cursor, "platform_admin")


def make(cursor: Cursor, name: str = "new-ui", **columns: Any) -> Any:
    columns = {"name": name, **columns}
    return value(
        cursor,
        f"insert into public.feature_flags ({', '.join(columns)})"
        f" values ({', '.join(['%s'] * len(columns))}) returning id",
        [*columns.values()],
    )


def change(cursor: Cursor, flag: str = "new-ui", **columns: Any) -> None:
    assignments = ", ".join(f"{column} = %s" for column in columns)
    cursor.execute(f"update public.feature_flags set {assignments} where name = %s", [*columns.values(), flag])


# Who


WRITES = {
    "insert flag": "insert into public.feature_flags (name) values ('mine')",
    "update flag": "update public.feature_flags set is_enabled = true",
    "delete flag": "delete from public.feature_flags",
    "insert group": "insert into public.feature_flag_groups (name) values ('mine')",
    "update group": "update public.feature_flag_groups set description = 'mine'",
    "delete group": "delete from public.feature_flag_groups",
    "insert member": "insert into public.feature_flag_group_members (group_id, value) values (gen_random_uuid(), '1')",
    "delete member": "delete from public.feature_flag_group_members",
}


@pytest.mark.parametrize("person", ["owner", "outsider"])
@pytest.mark.parametrize("statement", WRITES.values(), ids=WRITES)
def test_attack_customer_writes_flags_or_waits_in_line_of_writers(
    cursor: Cursor, database: Database, person: str, statement: str
) -> None:
    make(cursor)  # which holds the lock of the writers
    with database.acting_as(person) as customer:
        customer.execute("set local lock_timeout = '2s'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Only platform admins write feature flags"):
            customer.execute(statement)


def test_attack_customer_sends_an_expensive_flag(cursor: Cursor) -> None:
    """Refused before anything is validated: the message of the validation is not there."""
    now_as(cursor, "owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        make(cursor, conditions=json.dumps({"a": {"$regex": "(" * 400 + "a" + ")+" * 400}}))


def test_customers_see_no_flags(cursor: Cursor) -> None:
    make(cursor)
    assert now_as(cursor, "owner").execute("select from public.feature_flags").rowcount == 0


def test_anonymous_callers_cannot_read_flags(database: Database) -> None:
    with database.acting_as(None) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute("select from public.feature_flags")


@pytest.mark.parametrize("column", ["seed", "version", "created_by"])
def test_attack_admin_writes_columns_of_the_database(cursor: Cursor, column: str) -> None:
    make(cursor)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(f"update public.feature_flags set {column} = {column}")


def test_new_flag_is_off_and_has_its_creator(cursor: Cursor) -> None:
    make(cursor)
    row = cursor.execute(
        "select is_enabled, rollout_percent, environment, bucket_by, created_by from public.feature_flags"
    ).fetchone()
    assert row == {
        "is_enabled": False,
        "rollout_percent": 0,
        "environment": "PRODUCTION",
        "bucket_by": "user",
        "created_by": ADMIN,
    }


def test_rename_keeps_the_seed(cursor: Cursor) -> None:
    make(cursor)
    before = value(cursor, "select seed from public.feature_flags")
    change(cursor, name="newer-ui")
    assert value(cursor, "select seed from public.feature_flags where name = 'newer-ui'") == before


# What


@pytest.mark.parametrize("name", ["", "New", "a b", "ü", "a" * 101, "a/b", "a\n"])
def test_invalid_names_are_refused(cursor: Cursor, name: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="name is 1 to 100"):
        make(cursor, name)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"rollout_percent": -0.01}, "rollout_percent: found -0.01, accepted: rollout_percent is between 0 and 100"),
        ({"rollout_percent": 100.01}, "between 0 and 100"),
        ({"rollout_percent": "NaN"}, "between 0 and 100"),
        ({"starts_at": "2026-01-02", "ends_at": "2026-01-02"}, "ends_at is after starts_at"),
        ({"ends_at": "infinity"}, "ends_at"),
        ({"bucket_by": "device"}, 'bucket_by: found "device", accepted: bucket_by is user or org'),
        ({"target_users": [None]}, r"target_users: found \[null\], accepted: target_users is a flat list without null"),
        ({"target_orgs": "{{00000000-0000-0000-0000-000000000000}}"}, "target_orgs is a flat list"),
        ({"target_tiers": "{{FREE}}"}, "target_tiers is a flat list"),
        ({"prerequisites": ["new-ui"]}, "prerequisites: found .* other flags"),
        ({"prerequisites": [None]}, "prerequisites: found .* other flags"),
        ({"prerequisites": "{{a,b}}"}, "prerequisites: found .* other flags"),
        ({"description": "x" * 2001}, "description"),
        ({"category": "x" * 101}, "category"),
    ],
)
def test_values_out_of_range_are_refused(cursor: Cursor, columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=sentence):
        make(cursor, **columns)


@pytest.mark.parametrize(
    "column", ["name", "is_enabled", "rollout_percent", "target_users", "environment", "bucket_by"]
)
def test_null_is_refused_with_the_field(cursor: Cursor, column: str) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation, match=f"^{column}: found null, accepted: a value"):
        make(cursor, **dict[str, Any]({column: None}))


def test_second_flag_of_a_name_is_refused_with_a_sentence(cursor: Cursor) -> None:
    make(cursor)
    with pytest.raises(psycopg.errors.UniqueViolation, match="name is not the name of another flag"):
        make(cursor)


@pytest.mark.parametrize("conditions", SOUND, ids=json.dumps)
def test_valid_conditions_are_stored(cursor: Cursor, conditions: Any) -> None:
    make(cursor, conditions=json.dumps(conditions))
    assert value(cursor, "select conditions from public.feature_flags") == conditions


@pytest.mark.parametrize(("conditions", "sentence"), UNSOUND, ids=[json.dumps(found) for found, _ in UNSOUND])
def test_invalid_conditions_are_refused_with_their_place(cursor: Cursor, conditions: Any, sentence: str) -> None:
    with pytest.raises(psycopg.Error, match="could not be evaluated") as caught:
        make(cursor, conditions=json.dumps(conditions))
    assert caught.value.sqlstate == "PT400"
    assert sentence in str(caught.value.diag.message_detail)


@pytest.mark.parametrize("pattern", NO_PATTERNS)
def test_patterns_that_re2_cannot_compile_are_refused(cursor: Cursor, pattern: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        make(cursor, conditions=json.dumps({"a": {"$regex": pattern}}))
    assert "expected a regular expression" in str(caught.value.diag.message_detail)


def test_attack_conditions_that_are_too_large(cursor: Cursor) -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(20):
        deep = {"$not": deep}
    value: Any = 1
    for _ in range(70):
        value = [value]
    texts = [
        json.dumps(deep),
        json.dumps({"a": "x" * 70_000}),
        json.dumps({"a": value}),
        '{"a": 1e131071}',
        '{"a": {"$gt": 5e-324}}',
        f'{{"a": {"9" * 5000}}}',
        f'{{"a": [{",".join(["1e131071"] * 4000)}]}}',
    ]
    for conditions in texts:
        for column in ("conditions", "variants"):
            with (
                pytest.raises(psycopg.Error, match=f"{column} is too large") as caught,
                cursor.connection.transaction(),
            ):
                make(cursor, **{column: conditions})
            assert caught.value.sqlstate == "PT422"


@pytest.mark.parametrize("variants", SOUND_VARIANTS, ids=json.dumps)
def test_variants_keep_their_order(cursor: Cursor, variants: Any) -> None:
    make(cursor, variants=json.dumps(variants))
    assert value(cursor, "select variants from public.feature_flags") == variants


@pytest.mark.parametrize(("variants", "sentence"), UNSOUND_VARIANTS, ids=[json.dumps(v) for v, _ in UNSOUND_VARIANTS])
def test_invalid_variants_are_refused(cursor: Cursor, variants: Any, sentence: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        make(cursor, variants=json.dumps(variants))
    assert sentence in str(caught.value.diag.message_detail)


def test_invalid_change_by_the_server_is_refused(cursor: Cursor) -> None:
    make(cursor)
    now_as(cursor, None)
    with pytest.raises(psycopg.Error, match="could not be evaluated"):
        change(cursor, conditions='{"a": {"$gtx": 1}}')


def test_prerequisites_must_exist_in_the_same_environment(cursor: Cursor) -> None:
    make(cursor, "staged", environment="STAGING")
    for missing in ("nowhere", "staged"):
        with pytest.raises(psycopg.Error, match="does not exist") as caught, cursor.connection.transaction():
            make(cursor, prerequisites=[missing])
        assert (caught.value.sqlstate, caught.value.diag.message_detail) == (
            "PT422",
            f"There is no flag {missing} in PRODUCTION.",
        )


def test_circle_of_prerequisites_is_refused(cursor: Cursor) -> None:
    make(cursor, "a")
    make(cursor, "b", prerequisites=["a"])
    make(cursor, "c", prerequisites=["b"])
    with pytest.raises(psycopg.Error, match="own prerequisite"):
        change(cursor, "a", prerequisites=["c"])


def test_attack_two_admins_close_a_circle_concurrently(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin", commit=True) as cursor:
        make(cursor, "a")
        make(cursor, "b")
    with fresh_database.acting_as("platform_admin", commit=True) as one, ThreadPoolExecutor(1) as pool:
        change(one, "a", prerequisites=["b"])

        def other() -> None:
            with fresh_database.acting_as("super_admin", commit=True) as two:
                change(two, "b", prerequisites=["a"])

        closing = pool.submit(other)
        wait_until_blocked(fresh_database)
        one.connection.commit()
        with pytest.raises(psycopg.Error, match="own prerequisite"):
            closing.result(10)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from public.feature_flags where name = 'a'",
        "update public.feature_flags set name = 'z' where name = 'a'",
        "update public.feature_flags set environment = 'STAGING' where name = 'a'",
    ],
)
def test_flag_that_others_need_cannot_be_removed(cursor: Cursor, statement: str) -> None:
    make(cursor, "a")
    make(cursor, "b", prerequisites=["a"])
    with pytest.raises(psycopg.Error, match="Other flags need") as caught:
        cursor.execute(statement)
    assert caught.value.diag.message_detail == "It is a prerequisite of b."


def test_emptying_the_last_target_list_sends_a_warning(cursor: Cursor) -> None:
    make(cursor, is_enabled=True, rollout_percent=100, target_users=[ADMIN], target_tiers="{ELITE}")
    change(cursor, target_users=[])
    assert not value(cursor, "select current_setting('response.headers', true)")
    change(cursor, target_tiers="{}")
    (header,) = json.loads(str(value(cursor, "select current_setting('response.headers', true)")))
    assert "on for 100 % of everyone" in header["Warning"]


# Versions


def version(database: Database, environment: str = "PRODUCTION") -> int:
    with database.connect() as connection:
        row = connection.execute(
            "select version from private.feature_flag_versions where environment = %s", [environment]
        ).fetchone()
    assert row
    return int(row[0])


def test_change_increments_the_version_of_its_environment_only(fresh_database: Database) -> None:
    seen = []
    for statement in (
        "insert into public.feature_flags (name) values ('a'), ('b')",
        "update public.feature_flags set is_enabled = true where name = 'a'",
        "update public.feature_flags set is_enabled = true where name = 'a'",
        "delete from public.feature_flags where name = 'b'",
        "update public.feature_flags set environment = 'STAGING' where name = 'a'",
    ):
        with fresh_database.acting_as("platform_admin", commit=True) as cursor:
            cursor.execute(statement)
        seen.append((version(fresh_database), version(fresh_database, "STAGING")))
    assert seen == [(2, 0), (3, 0), (3, 0), (4, 0), (5, 1)]
    assert version(fresh_database, "DEVELOPMENT") == 0
    with fresh_database.connect() as connection:
        assert connection.execute("select version from feature_flags").fetchall() == [(1,)]


def test_rolled_back_change_keeps_the_version(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin") as cursor:
        make(cursor)
    assert version(fresh_database) == 0


def test_committed_change_is_notified(fresh_database: Database) -> None:
    with fresh_database.connect() as listener:
        listener.execute("listen feature_flags")
        with fresh_database.acting_as("platform_admin", commit=True) as cursor:
            make(cursor, environment="STAGING")
        (notice,) = listener.notifies(timeout=60, stop_after=1)
    assert json.loads(notice.payload) == {"environment": "STAGING", "version": 1}


def test_concurrent_writers_get_versions_in_commit_order(fresh_database: Database) -> None:
    def write(n: int) -> None:
        with fresh_database.acting_as("platform_admin", commit=True) as cursor:
            # In opposite orders, which deadlocks unless writers are serialized.
            names = ["a", "b"] if n % 2 else ["b", "a"]
            for name in names:
                change(cursor, name, rollout_percent=n)

    with fresh_database.acting_as("platform_admin", commit=True) as cursor:
        make(cursor, "a")
        make(cursor, "b")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(1, 19)))
    assert version(fresh_database) == 2 + 2 * 18
    with fresh_database.connect() as connection:
        assert connection.execute("select max(version) from feature_flags").fetchone() == (38,)


# The log


def test_every_change_is_logged_with_before_and_after(cursor: Cursor) -> None:
    flag = make(cursor)
    change(cursor, is_enabled=True, rollout_percent=5)
    change(cursor, is_enabled=True)
    cursor.execute("delete from public.feature_flags")
    logged = cursor.execute(
        "select action, description, target_type, target_id, admin_id, metadata #>> '{before,is_enabled}' as before,"
        " metadata #>> '{after,is_enabled}' as after from public.admin_action_logs"
    ).fetchall()
    assert {(row["action"], row["target_type"], row["target_id"], row["admin_id"]) for row in logged} == {
        ("FEATURE_FLAG_UPDATE", "feature_flag", str(flag), ADMIN)
    }
    assert sorted((row["description"], row["before"], row["after"]) for row in logged) == [
        ("Feature Flag new-ui changed: is_enabled, rollout_percent", "false", "true"),
        ("Feature Flag new-ui created", None, "false"),
        ("Feature Flag new-ui deleted", "true", None),
    ]


def test_flags_of_a_deleted_admin_go_to_another_admin(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin", commit=True) as cursor:
        make(cursor, "kill-switch")
        cursor.execute("insert into public.system_alerts (title, message, category) values ('a', 'b', 'SYSTEM')")
    with fresh_database.connect() as connection:
        connection.execute("delete from auth.users where id = %s", [ADMIN])
        heir = [(PEOPLE["super_admin"],)]
        assert connection.execute("select created_by from feature_flags").fetchall() == heir
        assert connection.execute("select created_by from system_alerts").fetchall() == heir
        connection.execute("delete from auth.users where id = %s", [PEOPLE["super_admin"]])
        assert connection.execute("select from feature_flags").rowcount == 0, "with the last admin they go"


def test_deleting_a_customer_does_not_wait_for_flag_writers(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin") as writing, fresh_database.connect() as connection:
        make(writing)
        connection.execute("set lock_timeout = '2s'")
        connection.execute("delete from auth.users where id = %s", [PEOPLE["outsider"]])
