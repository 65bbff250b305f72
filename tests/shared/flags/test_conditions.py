"""GrowthBook's condition syntax: operators, coercion and errors."""

import gc
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.flags.conditions import DEPTH, ConditionError, compile_checks, compile_condition
from shared.flags.groups import Group
from shared.flags.patterns import TEXT_CHARACTERS, LongTextError

ANNA = {
    "name": "Anna",
    "age": 41,
    "height": 1.7,
    "admin": True,
    "plan": {"name": "pro", "seats": 25, "since": None},
    "tags": ["beta", "eu"],
    "numbers": [1, 5, 20],
    "pets": [{"name": "Rex", "age": 3}, {"name": "Tom", "age": 9}, None],
    "pairs": [["a", 1], ["b", 2, 3]],
    "version": "2.10.3",
    "zip": "08010",
    "nothing": None,
    "empty": "",
    "since": "2026-02-03T04:05:06.000Z",
    "rc": "1.4.0-rc.2",
    "build": "3.0.0+build.17",
    "none": [],
    "mixed": ["a", 1, None, {"b": 1}],
}

# What holds for Anna, and what does not.
HOLDS: list[dict[str, Any]] = [
    {},
    {"name": "Anna", "age": 41, "admin": True},
    {"age": 41.0},
    {"nothing": None},
    {"missing": None},
    {"tags": ["beta", "eu"]},
    {"plan": {"seats": 25, "since": None, "name": "pro"}},
    {"plan": {}},
    {"plan.name": "pro", "plan.seats": {"$gte": 25}},
    {"tags.0": "beta", "tags.length": 2, "pets.1.name": "Tom"},
    {"name": {"$eq": "Anna"}, "age": {"$ne": 40}},
    {"missing": {"$ne": "x"}},
    {"age": {"$gt": 40, "$gte": 41, "$lt": 42, "$lte": 41}},
    {"age": {"$gt": "40"}},
    {"zip": {"$gt": 8000, "$lt": 8011}},
    {"zip": {"$gt": "0800"}},
    {"name": {"$gt": "Andreas", "$lt": "Anne"}},
    {"version": {"$vgt": "2.9.11", "$vlt": "2.11.0", "$veq": "v2.10.3+build.7", "$vne": "2.10.4"}},
    {"version": {"$vgte": "2.10.3-rc.1"}},
    {"version": {"$vlt": 3, "$vgt": 2.1}},
    {"height": {"$vgt": "1.6"}, "age": {"$vgte": "41", "$vlte": 41.0}},
    {"missing": {"$vne": "1.0.0"}},
    {"name": {"$in": ["Ben", "Anna"]}},
    {"tags": {"$in": ["us", "eu"]}},
    {"age": {"$in": [41.0]}},
    {"missing": {"$in": [None]}},
    {"name": {"$nin": ["Ben"]}, "tags": {"$nin": []}, "missing": {"$nin": ["x"]}},
    {"name": {"$ini": ["ANNA"]}, "tags": {"$ini": ["BETA"]}},
    {"name": {"$nini": ["BEN"]}},
    {"tags": {"$all": ["eu", "beta"]}, "numbers": {"$all": [{"$gt": 10}, 1]}},
    {"tags": {"$all": []}},
    {"tags": {"$alli": ["EU"]}},
    {"name": {"$exists": True}, "missing": {"$exists": False}, "nothing": {"$exists": False}},
    {"empty": {"$exists": True}},
    {"name": {"$type": "string"}, "age": {"$type": "number"}, "admin": {"$type": "boolean"}},
    {"tags": {"$type": "array"}, "plan": {"$type": "object"}, "missing": {"$type": "null"}},
    {"name": {"$regex": "^A.*a$"}, "empty": {"$regex": "^$"}},
    {"name": {"$regexi": "aNN"}},
    {"name": {"$notRegex": "ann"}, "missing": {"$notRegex": "a"}, "age": {"$notRegexi": "4"}},
    {"tags": {"$size": 2}, "numbers": {"$size": {"$gt": 2}}},
    {"numbers": {"$elemMatch": {"$gt": 10, "$lt": 30}}},
    {"pets": {"$elemMatch": {"name": "Tom", "age": {"$gt": 5}}}},
    {"pets": {"$elemMatch": {"$or": [{"name": "Nobody"}, {"age": 3}]}}},
    {"pets": {"$elemMatch": {"$not": {"$type": "string"}}}},
    {"pairs": {"$elemMatch": {"0": "a", "length": 2}}},
    {"numbers": {"$elemMatch": {"name": None}}},
    {"name": {"$not": {"$in": ["Ben"]}}, "age": {"$not": 40}},
    {"missing": {"$not": {"$gt": 0}}},
    {"$or": [{"age": 1}, {"name": "Anna"}, {"name": "Ben"}]},
    {"$or": []},
    {"$and": [], "$nor": [{"age": 1}, {"name": "Ben"}]},
    {"$and": [{"age": 41}, {"$not": {"name": "Ben"}}, {"$or": [{"admin": True}]}]},
    # Dates are texts, and sort as such.
    {"since": {"$gt": "2026-01-31T00:00:00.000Z", "$lt": "2026-02-10T00:00:00.000Z"}},
    {"since": {"$gte": "2026-02-03T04:05:06.000Z", "$lte": "2026-02-03T04:05:06.000Z"}},
    # Numeric parts of versions compare as numbers; a pre-release is lower than its release.
    {"version": {"$vgt": "2.9", "$vlt": "2.10.21"}},
    {"rc": {"$vlt": "1.4.0", "$vgt": "1.3.99", "$veq": "1.4.0-rc.2"}},
    {"rc": {"$vgt": "1.4.0-rc.1", "$vlt": "1.4.0-rc.10"}},
    {"rc": {"$vgt": "1.4.0-beta.9", "$vne": "1.4.0-rc.2.1"}},
    {"build": {"$veq": "3.0.0", "$vgte": "v3.0.0+other", "$vlte": "3.0.0"}},
    {"age": {"$vgt": "9"}},
    {"version": {"$vgt": "2.10.3.1"}},  # any suffix of three numbers is a pre-release
    # A list matches $in and $nin by its intersection.
    {"numbers": {"$in": [7, 20]}, "tags": {"$nin": ["us", "jp"]}},
    {"numbers": {"$nin": []}, "none": {"$nin": ["eu"]}},
    {"tags": {"$ini": ["US", "EU"]}, "numbers": {"$ini": [5, "X"]}},
    {"tags": {"$nini": ["US"]}, "missing": {"$nini": ["x"]}, "age": {"$nini": ["41"]}},
    {"tags": {"$alli": ["Beta", "EU"]}, "mixed": {"$alli": ["A", 1]}},
    {"mixed": {"$all": ["a", 1, None]}},
    {"none": {"$size": 0}, "pairs": {"$elemMatch": {"$size": 2}}},
    {"pairs": {"$elemMatch": {"$size": {"$gt": 2}}}, "numbers": {"$size": {"$not": 2}}},
    {"numbers": {"$size": {"$in": [1, 3]}}},
    {"pairs": {"$elemMatch": {"$elemMatch": {"$eq": 3}}}},
    {"pairs": {"$elemMatch": {"$all": ["b", 2]}}},
    {"pets": {"$elemMatch": {"$not": {"name": "Rex"}}}},
    {"pets": {"$elemMatch": {"name": {"$in": ["Tom"]}, "$nor": [{"age": 3}]}}},
    {"tags": {"$elemMatch": {"$regex": "^be"}}, "numbers": {"$elemMatch": {"$in": [5]}}},
    {"tags": {"$not": {"$elemMatch": {"$eq": "us"}}}, "numbers": {"$not": {"$gt": 0}}},
    {"tags": {"$not": ["beta"]}, "name": {"$not": {"$type": "number"}}},
    {"none": {"$type": "array", "$exists": True, "$not": {"$elemMatch": {"$exists": True}}}},
    {"nothing": {"$in": [None], "$type": "null", "$ne": "x", "$eq": None}},
    {"nothing": {"$not": {"$lt": 1}}, "missing": {"$not": {"$regex": "."}}},
    {"plan.since": None, "plan.missing.deeper": {"$exists": False}},
    {"empty": {"$in": [""], "$ne": None, "$type": "string", "$not": {"$gt": "a"}}},
]
FAILS: list[dict[str, Any]] = [
    {"name": "anna"},
    {"age": "41"},
    {"admin": 1},
    {"admin": "true"},
    {"age": True},
    {"empty": None},
    {"empty": False},
    {"missing": False},
    {"missing": ""},
    {"missing": 0},
    {"tags": ["eu", "beta"]},
    {"tags": ["beta"]},
    {"plan": {"name": "pro"}},
    {"plan.name.first": "p"},
    {"name.length": 4},
    {"tags.00": "beta"},
    {"tags.2": "beta"},
    {"plan": {"$eq": {"name": "pro", "seats": 25, "since": None}}},
    {"age": {"$gt": 40, "$lt": 41}},
    {"age": {"$gt": "forty"}},
    {"name": {"$gt": 1}},
    {"admin": {"$gte": 0}},
    {"tags": {"$gt": 1}},
    {"nothing": {"$gte": 0}},
    {"version": {"$vgt": "2.10.3"}},
    {"version": {"$vlte": "2.10.3-rc.1"}},
    {"missing": {"$vlt": "1.0.0"}},
    {"name": {"$in": []}},
    {"admin": {"$in": [1]}},
    {"plan": {"$in": [{"name": "pro", "seats": 25, "since": None}]}},
    {"missing": {"$in": ["None", "null"]}},
    {"tags": {"$nin": ["eu"]}},
    {"name": {"$in": ["ANNA"]}},
    {"tags": {"$nini": ["EU"]}},
    {"tags": {"$all": ["eu", "us"]}},
    {"name": {"$all": ["Anna"]}},
    {"missing": {"$all": []}},
    {"missing": {"$type": "undefined"}},
    {"name": {"$regex": "ann"}},
    {"age": {"$regex": "41"}},
    {"missing": {"$regex": ""}},
    {"name": {"$notRegex": "A"}},
    {"name": {"$size": 4}},
    {"missing": {"$size": 0}},
    {"numbers": {"$elemMatch": {"$gt": 5, "$lt": 20}}},
    {"pets": {"$elemMatch": {"name": "Rex", "age": 9}}},
    {"pairs": {"$elemMatch": {"0": "a", "length": 3}}},
    {"numbers": {"$elemMatch": {"name": "a"}}},
    {"name": {"$elemMatch": {"$eq": "A"}}},
    {"age": {"$not": {"$gt": 1}}},
    {"$or": [{"age": 1}, {"name": "Ben"}]},
    {"$nor": [{"age": 1}, {"name": "Anna"}]},
    {"$nor": []},
    {"$not": {}},
    {"since": {"$lt": "2026-02-03"}},
    {"since": {"$gt": 20260101}},
    {"rc": {"$vgte": "1.4.0"}},
    {"rc": {"$vlt": "1.4.0-rc.1"}},
    {"build": {"$vgt": "3.0.0"}},
    {"numbers": {"$in": ["1", "5"]}},
    {"numbers": {"$nin": [7, 20]}},
    {"none": {"$in": ["eu", None]}},
    {"tags": {"$nini": ["US", "Eu"]}},
    {"name": {"$ini": []}},
    {"name": {"$alli": ["anna"]}},
    {"tags": {"$alli": ["eu", "us"]}},
    {"missing": {"$alli": []}},
    {"mixed": {"$all": ["1"]}},
    {"mixed": {"$all": ["a", True]}},
    {"numbers": {"$size": {"$not": 3}}},
    {"pairs": {"$elemMatch": {"$size": 4}}},
    {"plan": {"$size": 3}},
    {"pairs": {"$elemMatch": {"$elemMatch": {"$eq": 4}}}},
    {"none": {"$elemMatch": {"$exists": False}}},
    {"plan": {"$elemMatch": {"name": "pro"}}},
    {"tags": {"$not": {"$size": 2}}},
    {"tags": {"$not": ["beta", "eu"]}},
    {"nothing": {"$type": "undefined"}},
    {"nothing": {"$exists": True}},
    {"nothing": {"$ne": None}},
    {"nothing": {"$nin": [None]}},
    {"nothing": {"$lte": "0"}},
    {"empty": {"$exists": False}},
    {"plan.since": {"$gt": 0}},
]
MALFORMED: list[Any] = [
    None,
    [],
    "US",
    {"a": {"$gtx": 1}},
    {"a": {"$inGroup": ["x"]}},
    {"a": {"$notInGroup": 1}},
    {"a": {"$ingroup": "x"}},
    {"$xor": []},
    {"": 1},
    {"$not": []},
    {"$or": {}},
    {"$or": [1]},
    {"a": {"$gt": None}},
    {"a": {"$gt": True}},
    {"a": {"$vgt": []}},
    {"a": {"$in": "US"}},
    {"a": {"$nin": None}},
    {"a": {"$all": {}}},
    {"a": {"$all": [{"$gtx": 1}]}},
    {"a": {"$exists": 1}},
    {"a": {"$type": "int"}},
    {"a": {"$size": "2"}},
    {"a": {"$elemMatch": 1}},
    {"a": {"$regex": 1}},
    {"a": {"$regex": "("}},
    {"a": {"$regex": "(?=a)"}},
    {"a": {"$notRegex": "("}},
    {"a": {"$gt": 1, "b": 2}},
    {"a": {"b": {"$gt": 1}}},
    {"a": [{"$gt": 1}]},
]


# Saved groups

GROUPS = {"people": Group(["Anna", "2", 3, True]), "tags": Group(["eu"]), "empty": Group([])}
IN_GROUP: list[dict[str, Any]] = [
    {"name": {"$inGroup": "people"}},
    {"tags": {"$inGroup": "tags"}},
    {"numbers.1": {"$notInGroup": "people"}},
    {"admin": {"$inGroup": "people"}},
    {"plan": {"$notInGroup": "people"}},
    {"missing": {"$notInGroup": "people"}, "nothing": {"$notInGroup": "people"}},
    {"name": {"$notInGroup": "empty"}},
    {"name": {"$notInGroup": "unknown"}},
    {"numbers": {"$notInGroup": "people"}},
    {"pets": {"$elemMatch": {"age": {"$inGroup": "people"}}}},
    {"pets.0.age": {"$inGroup": "people"}},
    {"name": {"$not": {"$notInGroup": "people"}, "$inGroup": "people"}},
    {"$or": [{"age": {"$inGroup": "people"}}, {"name": {"$inGroup": "people"}}]},
    {"tags": {"$all": [{"$notInGroup": "people"}]}},
]
NOT_IN_GROUP: list[dict[str, Any]] = [
    {"age": {"$inGroup": "people"}},
    {"name": {"$inGroup": "unknown"}},
    {"name": {"$inGroup": "empty"}},
    {"missing": {"$inGroup": "people"}, "name": "Anna"},
    {"name": {"$notInGroup": "people"}},
    {"tags": {"$notInGroup": "tags"}},
    {"numbers.0": {"$inGroup": "people"}},  # 1 is not true
    {"zip": {"$inGroup": "people"}},
    {"plan": {"$inGroup": "people"}},
    {"name": {"$not": {"$inGroup": "people"}}},
    {"$nor": [{"name": {"$inGroup": "people"}}]},
]


@pytest.mark.parametrize("condition", IN_GROUP, ids=str)
def test_a_group_holds(condition: dict[str, Any]) -> None:
    assert compile_condition(condition, GROUPS)(ANNA) is True
    assert compile_condition({"$not": condition}, GROUPS)(ANNA) is False


@pytest.mark.parametrize("condition", NOT_IN_GROUP, ids=str)
def test_a_group_does_not_hold(condition: dict[str, Any]) -> None:
    assert compile_condition(condition, GROUPS)(ANNA) is False
    assert compile_condition({"$not": condition}, GROUPS)(ANNA) is True


def test_a_value_equals_a_member_only_of_its_own_type() -> None:
    for value, is_member in ((2, False), ("2", True), (3, True), (3.0, True), ("3", False), (1, False), (None, False)):
        assert compile_condition({"a": {"$inGroup": "people"}}, GROUPS)({"a": value}) is is_member, value


def test_group_is_dropped_with_its_last_flag() -> None:
    group = Group(["Anna"])
    before = sys.getrefcount(group.texts)
    for condition in IN_GROUP:
        compile_checks(condition, {"people": group, "tags": group})
    gc.collect()
    after = sys.getrefcount(group.texts)
    assert after == before


@pytest.mark.parametrize("condition", HOLDS, ids=str)
def test_condition_matches(condition: dict[str, Any]) -> None:
    assert compile_condition(condition)(ANNA) is True
    assert compile_condition({"$not": condition})(ANNA) is False
    assert holds_by_checks(condition, ANNA) is True


@pytest.mark.parametrize("condition", FAILS, ids=str)
def test_condition_does_not_match(condition: dict[str, Any]) -> None:
    assert compile_condition(condition)(ANNA) is False
    assert compile_condition({"$not": condition})(ANNA) is True
    assert holds_by_checks(condition, ANNA) is False


def holds_by_checks(condition: Any, attributes: dict[str, Any]) -> bool:
    """The condition as a flag evaluates it."""
    checks, rest = compile_checks(condition)
    for path, usual, check, test in checks:
        value = attributes.get(path)
        found = check(value) if type(value) is usual else test(value)
        assert found in {True, False}
        if not found:
            return False
    return rest is None or rest(attributes)


@given(
    value=st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "1", "-1.0"]),
    operand=st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "1", "-1.0"]),
    wrapped=st.booleans(),
)
def test_compiled_check_equals_its_condition(value: Any, operand: Any, wrapped: bool) -> None:
    sent = {"a": [value] if wrapped else value}
    conditions = [{"a": operand}, {"a": {"$in": [operand, 2]}}, {"a": operand, "b": None, "a.0": {"$ne": 5}}]
    conditions += [{"a": {name: operand}} for name in ("$gt", "$gte", "$lt", "$lte")]
    for condition in conditions:
        for attributes in (sent, {}):
            assert holds_by_checks(condition, attributes) is compile_condition(condition)(attributes), condition


@pytest.mark.parametrize("condition", MALFORMED, ids=str)
def test_invalid_condition_is_an_error_even_under_not(condition: Any) -> None:
    for wrapped in (condition, {"$not": condition}, {"$or": [{"name": "Anna"}, condition]}):
        for compile_it in (compile_condition, compile_checks):
            with pytest.raises(ConditionError, match=r"found .*expected "):
                compile_it(wrapped)


def test_nesting_is_bounded() -> None:
    condition: dict[str, Any] = {"a": 1}
    for _ in range(DEPTH):
        condition = {"$not": condition}
    with pytest.raises(ConditionError, match="at most 20 levels"):
        compile_condition(condition)
    for _ in range(5000):
        condition = {"$not": condition}
    with pytest.raises(ConditionError, match="at most 20 levels"):
        compile_condition(condition)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(value=JSON, operand=st.integers() | st.floats(allow_nan=False) | st.text())
def test_any_value_compares_without_an_exception(value: Any, operand: Any) -> None:
    for operator in ("$gt", "$gte", "$lt", "$lte", "$veq", "$vne", "$vgt", "$vgte", "$vlt", "$vlte", "$eq", "$ne"):
        assert compile_condition({"a": {operator: operand}})({"a": value}) in {True, False}


@given(operand=st.integers() | st.floats(allow_nan=False) | st.text())
def test_a_missing_attribute_satisfies_no_comparison(operand: Any) -> None:
    for operator in ("$gt", "$gte", "$lt", "$lte", "$veq", "$vgt", "$vgte", "$vlt", "$vlte"):
        for attributes in ({}, {"a": None}, {"b": operand}):
            assert not compile_condition({"a": {operator: operand}})(attributes)
            assert not compile_condition({"a.b.c": {operator: operand}})(attributes)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^(a|a?)+$", "a" * TEXT_CHARACTERS + "b"),
        ("(x+x+)+y", "x" * TEXT_CHARACTERS),
        (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * TEXT_CHARACTERS),
        ("[ab]*a[ab]{200}c", "ab" * (TEXT_CHARACTERS // 2)),
    ],
)
def test_attack_a_text_on_which_a_pattern_never_ends(pattern: str, text: str) -> None:
    condition = compile_condition({"a": {"$regex": pattern}})
    began = time.process_time()
    try:
        assert not condition({"a": text})
    except LongTextError:
        assert len(text) > TEXT_CHARACTERS
    assert time.process_time() - began < 0.2


def test_attack_a_pattern_that_fills_the_memory() -> None:
    for pattern in ("(?:(?:a{1000}){1000}){1000}", r"\pL{1000}", "x" * 1001):
        with pytest.raises(ConditionError, match="a regular expression"):
            compile_condition({"a": {"$regex": pattern}})
