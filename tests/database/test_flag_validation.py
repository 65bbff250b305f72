"""What the database stores the functions can evaluate, and what they cannot it refuses: both judge alike."""

import json
import random
from typing import Any

from shared.flags.compiling import compile_flag
from shared.flags.conditions import ConditionError, compile_condition
from tests.support.world import Database

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


def understood(found: Any) -> bool:
    try:
        compile_condition(found)
    except ConditionError:
        return False
    return True


def test_conditions_are_judged_alike_by_the_database_and_the_functions(database: Database) -> None:
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
    assert [(each, error) for each, error in verdicts if understood(each) != (error is None)] == []


def test_every_pattern_that_is_stored_compiles(database: Database) -> None:
    chance = random.Random(2)  # noqa: S311
    found = ["".join(chance.choices(PIECES, k=chance.randint(1, 7))) for _ in range(20_000)]
    with database.connect() as connection:
        stored = connection.execute(
            "select p from unnest(%s::text[]) p where private.is_regular_expression(p)", [found]
        ).fetchall()
    assert len(stored) > 1000
    assert [pattern for (pattern,) in stored if not understood({"a": {"$regex": pattern}})] == []


def test_ordinary_patterns_are_stored(database: Database) -> None:
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
            "select p from unnest(%s::text[]) p where not private.is_regular_expression(p)", [ordinary]
        ).fetchall()
    assert refused == []


def test_a_flag_as_the_database_tells_it_compiles(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into public.feature_flags (name, is_enabled, rollout_percent, target_tiers, target_orgs,"
            " target_users, conditions, variants, starts_at, ends_at, bucket_by, created_by) select 'full', true, 0.01,"
            " '{FREE,ELITE}', array[gen_random_uuid()], array[gen_random_uuid()],"
            """ '{"a": {"$regex": "^x"}}', '[{"name": "a", "weight": 1, "value": 1}, {"name": "b", "weight": 2.5,"""
            """ "value": 2.5}]', '1969-01-01', '2500-01-01 00:00:00.5+02', 'org', u.id from public.users u limit 1"""
        )
        rows = connection.execute(
            "select name, flag_version, definition from private.load_feature_flags('PRODUCTION', -1, '{}')"
        ).fetchall()
    ((name, version, definition),) = rows
    flag = compile_flag(name, version, json.loads(definition))
    assert flag.out_of_time, "an error has no schedule"
    assert flag.ends_at == 16725218400.5
