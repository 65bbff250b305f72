"""Every stored flag compiles in Python; the database refuses flags that do not."""

import json
import random
import re
from typing import Any

import psycopg
from pydantic_core import from_json

from shared.flags import Context, Snapshot
from shared.flags.compiling import compile_flag
from shared.flags.conditions import ConditionError, compile_condition
from tests.support.world import PEOPLE, Database

OPERATORS = [
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$veq", "$vne", "$vgt", "$vgte", "$vlt", "$vlte", "$in", "$nin"),
    *("$ini", "$nini", "$all", "$alli", "$exists", "$type", "$regex", "$regexi", "$notRegex", "$notRegexi", "$size"),
    *("$inGroup", "$notInGroup"),
    *("$elemMatch", "$not", "$gtx", "$or", "$and", "$nor", "plain"),
]
SCALARS: list[Any] = [None, True, 0, 1.5, "", "a", "1.2.3", "string", "(", r"\d+", "$gt"]
PIECES = [
    *("a", "b", "x", "é", "1", ".", "^", "$", "|", "(", ")", "[", "]", "(?:", "(?i)", "(?=", "(?<!", "[^", "[a-z]"),
    *("*", "+", "?", "*?", "{2}", "{1,3}", "{200}", "{255}", "{", "}", "{,5}", "-", ",", "[[:alpha:]]", "[[:<:]]"),
    *("\\d", "\\w", "\\s", "\\b", "\\B", "\\A", "\\Z", "\\z", "\\.", "\\(", "\\\\", "\\_", "\\1", "\\x41", "\\x4"),
    *("\\é", "\\u0041", "\\n", "\\D", "\\S", "\\p", "\\e", "\\", "\\ ", "\\-", "\\/", "\\y", "\\Q", "\\E"),
]


def value(chance: random.Random, depth: int) -> Any:
    match chance.randint(0, 6 if depth < 4 else 2):
        case 0 | 1 | 2:
            return chance.choice(SCALARS)
        case 3:
            return [value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
        case 4:
            return {chance.choice(["b", "$groups", ""]): value(chance, depth + 1)}
        case 5:
            return condition(chance, depth + 1)
    return {chance.choice(OPERATORS): value(chance, depth + 1) for _ in range(chance.randint(0, 2))}


def condition(chance: random.Random, depth: int = 0) -> Any:
    names = ["a", "a.b", "$or", "$and", "$nor", "$not", "$groups", "$xor"]
    return {chance.choice(names): value(chance, depth) for _ in range(chance.randint(0, 2))}


def compiles(found: Any) -> bool:
    try:
        compile_condition(found)
    except ConditionError:
        return False
    return True


def test_database_and_python_accept_the_same_conditions(database: Database) -> None:
    chance = random.Random(1)  # noqa: S311 - the same cases in every run
    found = [condition(chance) for _ in range(4000)]
    with database.connect() as connection:
        errors = connection.execute(
            "select private.condition_error(c.condition::jsonb)"
            " from unnest(%s::text[]) with ordinality c (condition, n) order by c.n",
            [[json.dumps(each) for each in found]],
        ).fetchall()
    verdicts = [(each, error) for each, (error,) in zip(found, errors, strict=True)]
    assert {error is None for _, error in verdicts} == {True, False}
    assert [(each, error) for each, error in verdicts if compiles(each) != (error is None)] == []


def test_every_accepted_pattern_compiles(database: Database) -> None:
    chance = random.Random(2)  # noqa: S311
    found = ["".join(chance.choices(PIECES, k=chance.randint(1, 7))) for _ in range(20_000)]
    with database.connect() as connection:
        stored = connection.execute(
            "select p from unnest(%s::text[]) p where private.pattern_error(p) is null", [found]
        ).fetchall()
    assert len(stored) > 1000
    assert [
        pattern for (pattern,) in stored if not compiles({"a": {"$regex": pattern}, "b": {"$notRegexi": pattern}})
    ] == []


def test_ordinary_patterns_are_accepted(database: Database) -> None:
    ordinary = [
        r"@(example|test)\.com$",
        r"^\+?\(?\d{3}\)?[-. ]?\d{3}$",
        "(Mobile|Tablet)",
        "^[A-Z]{2}-[0-9]+$",
        r"^https?://[^/]+/(de|at)/",
        r"^v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$",
        "(?i)chrome",
        "[äöü]",
        r"\bbeta\b",
        "^(?:a|b)*?c$",
        "",
    ]
    with database.connect() as connection:
        refused = connection.execute(
            "select p from unnest(%s::text[]) p where private.pattern_error(p) is not null", [ordinary]
        ).fetchall()
    assert refused == []


def test_stored_flag_compiles_with_every_column(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into public.feature_flags (name, is_enabled, rollout_percent, target_tiers, target_orgs,"
            " target_users, conditions, variants, starts_at, ends_at, bucket_by, created_by) select 'full', true, 0.01,"
            " '{FREE,ELITE}', array[gen_random_uuid()], array[gen_random_uuid()],"
            """ '{"a": {"$regex": "^x"}}', '[{"name": "a", "weight": 1, "value": 1}, {"name": "b", "weight": 2.5,"""
            """ "value": 2.5}]', '1969-01-01 00:00+00', '2150-01-01 00:00:00.5+02', 'org',"""
            " u.id from public.users u limit 1"
            ""
        )
        rows = connection.execute(
            "select name, flag_version, definition from private.load_feature_flags('PRODUCTION', -1, '{}')"
        ).fetchall()
    ((name, version, definition),) = rows
    flag = compile_flag(name, version, json.loads(definition))
    assert flag.moments == (-31536000.0, 5680274400.5), "a flag with an error has no schedule"


# Numbers that JSON allows but no double or Python text can hold.
NUMBERS = ["1e400", "-1e400", "5e-324", "1e131071", "9" * 5000, "0." + "1" * 400, "1e15", "-0", "1.5", "7", "1e-20"]


def documents(chance: random.Random) -> tuple[str, str]:
    """Conditions and variants as text, with numbers that json.dumps() would not write."""
    conditions = json.dumps(chance.choice([{}, condition(chance)])).replace("1.5", chance.choice(NUMBERS))
    variants = [
        {"name": name, "weight": 1.5, "value": chance.choice([0, 1.5, "x", [1.5], {"a": 1.5}])} for name in ("a", "b")
    ]
    return conditions, "".join(
        chance.choice(NUMBERS) if part == "1.5" else part
        for part in re.split(r"(1\.5)", json.dumps(chance.choice([variants, None, None, [], [1], {}, variants[:1]])))
    )


def test_every_stored_flag_compiles(database: Database) -> None:
    chance = random.Random(4)  # noqa: S311 - the same cases in every run
    lists = [*["{}", "{base}", "{base,base}", None] * 3, "{{a,b}}", "{NULL}", "{base,NULL}", "{nowhere}"]
    stored, refusals = 0, set[str]()
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("insert into public.feature_flag_groups (name) values ('a'), ('1.2.3'), ('string')")
        create = (
            "insert into public.feature_flags (name, is_enabled, rollout_percent, conditions, variants, prerequisites,"
            " starts_at, created_by) values (%s, true, %s, %s, %s, %s, %s, %s)"
        )
        admin = PEOPLE["platform_admin"]
        connection.execute(create, ["base", 1, None, None, None, None, admin])
        for number in range(1500):
            conditions, variants = documents(chance)
            row = [
                f"f{number}",
                chance.choice([0, 5e-324, 1e-300, 50, 100, "-0", "NaN"]),
                conditions,
                None if variants == "null" else variants,
                chance.choice(lists),
                chance.choice([*[None] * 6, "-infinity", "1901-01-01", "2199-01-01"]),
                admin,
            ]
            try:
                with connection.transaction():
                    connection.execute(create, row)
                stored += 1
            except psycopg.Error as refused:
                refusals.add(str(refused.sqlstate))
        rows = connection.execute(
            "select name, flag_version, definition from private.load_feature_flags('PRODUCTION', -1, '{}')"
            " where group_revision is null"
        ).fetchall()
    assert stored > 100
    assert refusals == {"PT400", "PT422", "23514"}
    flags = {name: compile_flag(name, version, from_json(definition)) for name, version, definition in rows}
    assert len(flags) == stored + 1
    context = Context({"targetingKey": "anna", "a": 1})
    broken = [each for each in Snapshot(1, flags).evaluate_all(context) if each.error_code == "PARSE_ERROR"]
    assert broken == []


def test_attack_pattern_that_takes_long_to_check(database: Database) -> None:
    patterns = [
        "(" * 333 + "a" + ")+" * 333,
        "(a{1,9}){1,9}" * 70,
        "(?:" * 200 + "a*" + ")*" * 200,
        "[" * 1000,
        "\\" * 999,
    ]
    with database.connect() as connection:
        connection.execute("set statement_timeout = '5s'")
        for pattern in patterns:
            connection.execute("select private.pattern_error(%s)", [pattern])
