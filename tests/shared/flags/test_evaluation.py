"""Evaluation order and reasons; a failing flag affects itself only."""

import gc
import json
import time
import weakref
from typing import Any

import pytest

from shared.flags import Context
from tests.support.flag_examples import SEED, a_user, evaluate, snapshot

USER = "9d2a4a52-0f0e-4c5e-9f0a-0c9d5a3b7a11"
ORG = "1b6f7c1e-7a55-4a7e-8d5e-5f8f0c8a2b22"
LISTED = a_user(USER)
HOUR = 3600.0

# All rules say off; each line turns one rule on, and every earlier rule overrides it.
STEPS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("disabled", {"is_enabled": False}, {"is_enabled": True}, "DISABLED"),
    ("schedule", {"ends_at": 1.0}, {"ends_at": None}, "DEFAULT"),
    ("prerequisites", {"prerequisites": ["off"]}, {"prerequisites": ["on"]}, "DEFAULT"),
    ("tier", {"target_tiers": ["ELITE"]}, {"target_tiers": ["FREE"]}, "DEFAULT"),
    ("conditions", {"conditions": {"a": 2}}, {"conditions": {"a": 1}}, "DEFAULT"),
    ("percentage", {"rollout_percent": 0}, {"rollout_percent": 100}, "DEFAULT"),
]
OTHERS: dict[str, dict[str, Any]] = {"on": {}, "off": {"rollout_percent": 0}}


@pytest.mark.parametrize("first", range(len(STEPS)), ids=[step[0] for step in STEPS])
def test_the_first_decisive_step_wins(first: int) -> None:
    columns: dict[str, Any] = {}
    for number, (_, no, yes, _) in enumerate(STEPS):
        columns |= yes if number < first else no
    rule, _, _, reason = STEPS[first]
    found = snapshot(flag=columns, **OTHERS).evaluate("flag", a_user(a=1, tier="FREE"))
    assert (found.on, found.value, found.variant, found.rule, found.reason) == (False, False, "off", rule, reason)


def test_flag_is_on_when_every_step_agrees() -> None:
    columns = {name: value for _, _, yes, _ in STEPS for name, value in yes.items()}
    found = snapshot(flag=columns, **OTHERS).evaluate("flag", a_user(a=1, tier="FREE"))
    assert (found.on, found.value, found.variant, found.reason) == (True, True, "on", "TARGETING_MATCH")


@pytest.mark.parametrize("listed", [{"target_users": [USER]}, {"target_orgs": [ORG]}])
def test_listed_unit_bypasses_tier_conditions_and_percentage_only(listed: dict[str, Any]) -> None:
    context = a_user(USER, organization_id=ORG.upper())
    late = {"target_tiers": ["ELITE"], "conditions": {"a": 2}, "rollout_percent": 0}
    found = evaluate(context, **late, **listed)
    assert (found.on, found.reason, found.rule) == (True, "TARGETING_MATCH", "target")
    for _, no, _, reason in STEPS[:3]:
        found = snapshot(flag=late | listed | no, **OTHERS).evaluate("flag", context)
        assert (found.on, found.reason) == (False, reason)


@pytest.mark.parametrize(
    ("columns", "on", "reason"),
    [
        ({}, True, "STATIC"),
        ({"rollout_percent": 0}, False, "STATIC"),
        ({"rollout_percent": 0, "target_users": [USER]}, False, "DEFAULT"),
        ({"target_tiers": ["FREE"]}, True, "TARGETING_MATCH"),
        ({"rollout_percent": 99.999999}, True, "SPLIT"),
        ({"rollout_percent": 0.000001}, False, "SPLIT"),
    ],
)
def test_reasons(columns: dict[str, Any], on: bool, reason: str) -> None:
    found = evaluate(a_user(tier="FREE"), **columns)
    assert (found.on, found.reason) == (on, reason)


def test_an_unknown_flag_is_not_found() -> None:
    found = snapshot().evaluate("nowhere", a_user())
    assert (found.on, found.error_code, found.key) == (False, "FLAG_NOT_FOUND", "nowhere")


def test_unknown_tier_is_in_no_list() -> None:
    assert not evaluate(a_user(), target_tiers=["FREE"]).on
    assert evaluate(a_user()).on


def test_missing_targeting_key_fails_only_percentage_rollouts() -> None:
    anonymous = Context({})
    assert evaluate(anonymous, rollout_percent=50).error_code == "TARGETING_KEY_MISSING"
    assert evaluate(anonymous, rollout_percent=100).on
    assert not evaluate(anonymous, rollout_percent=0).error_code
    variants = [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]
    assert evaluate(anonymous, variants=variants).error_code == "TARGETING_KEY_MISSING"


def test_organizations_are_drawn_as_one() -> None:
    flag = snapshot(flag={"rollout_percent": 50, "bucket_by": "org"})
    for org in range(50):
        found = {flag.is_on("flag", a_user(f"{n}", organization_id=f"{org}")) for n in range(20)}
        assert len(found) == 1
    assert flag.evaluate("flag", a_user()).rule == "no organization"
    assert flag.unit("flag", a_user(organization_id="x")) == "x"


# Schedules


def test_a_schedule_holds_from_its_start_until_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    flag = snapshot(flag={"starts_at": 1_800_000_000.0, "ends_at": 1_800_003_600.0})
    on = {}
    for now in (1_799_999_999.9, 1_800_000_000.0, 1_800_003_599.9, 1_800_003_600.0):
        on[now] = flag.evaluate("flag", a_user()).on
    assert list(on.values()) == [False, True, True, False]


def test_the_phase_moves_when_a_schedule_does() -> None:
    now = time.time()
    flag = snapshot(
        past={"ends_at": now - HOUR}, soon={"starts_at": now - 1, "ends_at": now + HOUR}, disabled={"is_enabled": False}
    )
    assert flag.phase() == 2


# Prerequisites


def test_prerequisites_of_prerequisites_count() -> None:
    flags = snapshot(
        root={"rollout_percent": 0, "target_users": [USER]},
        middle={"prerequisites": ["root"]},
        leaf={"prerequisites": ["middle"]},
    )
    assert flags.evaluate("leaf", LISTED).on
    assert (flags.evaluate("leaf", a_user()).on, flags.evaluate("leaf", a_user()).rule) == (False, "prerequisites")


def test_prerequisite_cycle_fails_only_flags_that_depend_on_it() -> None:
    flags = snapshot(
        a={"prerequisites": ["b"]},
        b={"prerequisites": ["c"]},
        c={"prerequisites": ["a"]},
        needs={"prerequisites": ["fine", "a"]},
        itself={"prerequisites": ["itself"]},
        fine={},
        too={"prerequisites": ["fine"]},
        off={"is_enabled": False, "prerequisites": ["a"]},
    )
    found = {each.key: each for each in flags.evaluate_all(a_user())}
    assert {name for name, each in found.items() if each.error_code} == {"a", "b", "c", "needs", "itself"}
    assert {name for name, each in found.items() if each.on} == {"fine", "too"}
    assert found["off"].reason == "DISABLED"


def test_missing_or_invalid_prerequisite_is_an_error_of_the_flag() -> None:
    flags = snapshot(a={"prerequisites": ["nowhere"]}, b={"prerequisites": ["wrong"]}, wrong={"conditions": []})
    assert "nowhere does not exist" in str(flags.evaluate("a", a_user()).error_details)
    assert "prerequisite wrong" in str(flags.evaluate("b", a_user()).error_details)


def test_a_long_chain_of_prerequisites_is_no_recursion() -> None:
    chain = {f"f{n}": {"prerequisites": [f"f{n - 1}"]} for n in range(1, 1500)}
    assert snapshot(f0={}, **chain).evaluate("f1499", a_user()).on


# One bad flag


@pytest.mark.parametrize(
    "wrong",
    [
        {"conditions": {"a": {"$gtx": 1}}},
        {"conditions": {"$not": {"a": {"$gtx": 1}}}},
        {"conditions": []},
        {"conditions": {"a": {"$regex": "("}}},
        {"variants": [{"weight": 1}]},
        {"variants": 5},
        {"target_users": None},
        {"rollout_percent": None},
        {"rollout_percent": "50"},
        {"seed": None, "rollout_percent": "x"},
        {"starts_at": "tomorrow"},
        {"prerequisites": 5},
    ],
    ids=str,
)
def test_invalid_flag_is_an_error_of_that_flag_only(wrong: dict[str, Any]) -> None:
    flags = snapshot(before={}, wrong=wrong, zlast={"prerequisites": ["before"]})
    found = {each.key: each for each in flags.evaluate_all(a_user())}
    assert [name for name, each in found.items() if each.error_code == "PARSE_ERROR"] == ["wrong"]
    assert found["before"].on
    assert found["zlast"].on
    assert not flags.is_on("wrong", a_user())


def test_text_too_long_for_a_pattern_fails_that_flag() -> None:
    flags = snapshot(
        pattern={"conditions": {"$not": {"a": {"$regex": "x"}}}}, other={"conditions": {"a": {"$exists": True}}}
    )
    codes = [each.error_code for each in flags.evaluate_all(a_user(a="y" * 100_000))]
    assert codes == ["INVALID_CONTEXT", None]


@pytest.mark.parametrize(
    "value", [10**5000, -(10**400), float("inf"), float("nan"), [[[1]]], {"a": {}}, "\ud800"], ids=type
)
@pytest.mark.parametrize("operator", ["$gt", "$vgt", "$in", "$all", "$regex", "$size", "$elemMatch", "$ini"])
def test_whatever_a_client_sends_no_other_flag_notices(operator: str, value: Any) -> None:
    operands: dict[str, Any] = {"$in": [1], "$all": [1], "$ini": ["a"], "$size": 1, "$elemMatch": {"$gt": 1}}
    flags = snapshot(strange={"conditions": {"a": {operator: operands.get(operator, "1")}}}, other={})
    assert flags.evaluate_all(a_user(a=value))[1].on
    assert len(flags.serialized(a_user(a=value))) == 2


# Answers


def test_an_answer_has_every_word_of_the_protocol() -> None:
    assert json.loads(evaluate().json) == {
        "key": "flag",
        "value": True,
        "reason": "STATIC",
        "variant": "on",
        "metadata": {"on": True, "rule": "everyone", "version": 1},
    }
    wrong = json.loads(evaluate(conditions=[]).json)
    assert wrong.keys() == {"key", "errorCode", "errorDetails"}


def test_variant_without_value_uses_its_name_off_the_first() -> None:
    variants = [{"name": "control", "weight": 0}, {"name": "blue", "weight": 1}]
    found = evaluate(variants=variants)
    assert (found.value, found.variant, found.on) == ("blue", "blue", True)
    found = evaluate(variants=variants, is_enabled=False)
    assert (found.value, found.variant, found.on) == ("control", "off", False)


def test_numbers_of_an_experiment_are_all_floats_if_one_is() -> None:
    variants = [{"name": "a", "weight": 0, "value": 2.5}, {"name": "b", "weight": 1, "value": 2}]
    assert b'"value":2.0' in evaluate(variants=variants).json
    whole = [{"name": "a", "weight": 0, "value": 1}, {"name": "b", "weight": 1, "value": 2}]
    assert b'"value":2,' in evaluate(variants=whole).json


def test_remembered_identities_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.flags.snapshot.REMEMBERED_BYTES", 1000)
    flags = snapshot(a={})
    made = []

    def answer() -> bytes:
        made.append(1)
        return b"x" * 100

    for tag in ("1", "1", "2"):
        assert flags.remembered(tag, answer) == b"x" * 100
    assert len(made) == 2
    for number in range(100):
        flags.remembered(str(number), answer)
        assert sum(map(len, flags._remembered.values())) <= 1100


# Who


def test_attack_client_claims_an_identity() -> None:
    lies = {
        "targetingKey": USER,
        "user_id": USER,
        "organization_id": ORG,
        "tier": "ENTERPRISE",
        "org_role": "OWNER",
        "global_role": "SUPER_ADMIN",
        "email": "boss@strive.test",
        "country": "AT",
    }
    identity = {"user_id": "me", "organization_id": None, "tier": "FREE"}
    for context in (Context.identified(identity, lies), Context.anonymous(lies)):
        assert not evaluate(context, rollout_percent=0, target_users=[USER]).on
        assert not evaluate(context, rollout_percent=0, target_orgs=[ORG]).on
        assert not evaluate(context, target_tiers=["ENTERPRISE"]).on
        for name in ("user_id", "organization_id", "tier", "org_role", "global_role", "email"):
            assert not evaluate(context, conditions={name: lies[name]}).on, name
        assert evaluate(context, conditions={"country": "AT"}).on
    assert evaluate(Context.identified(identity, lies), target_tiers=["FREE"], conditions={"targetingKey": "me"}).on
    assert evaluate(Context(lies), target_tiers=["ENTERPRISE"], conditions={"email": "boss@strive.test"}).on


def test_unused_snapshot_is_freed_without_garbage_collection() -> None:
    """Snapshots are frozen for the garbage collector: a cyclic one would never be freed."""
    names = ["$in", "$nin", "$ini", "$all", "$alli"]
    conditions = [
        *({"a": {name: ["x"]}} for name in names),
        *({"a": {"$elemMatch": {"$or": [{"b.c": {"$not": {"$size": 1}}}]}}, "$nor": [{"a": 1}, {"b": 2}, {"c": 3}]},),
        *({"a": {"$regex": "x"}, "b": {"$type": "null"}, "c": {"$vgt": "1"}, "d": [1], "e": {"$exists": True}},),
    ]
    flags: dict[str, Any] = {f"c{number}": {"conditions": each} for number, each in enumerate(conditions)}
    flags["g"] = {"conditions": {"$or": [{"a.b": {"$not": {"$inGroup": "beta"}}}], "c": {"$inGroup": "beta"}}}
    flags["v"] = {"variants": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}], "ends_at": 4e9}
    flags["p"] = {"prerequisites": ["v", "c0"], "rollout_percent": 50}
    made = snapshot(**flags)
    made.evaluate_all(a_user())
    watched = [weakref.ref(flag.rules) for flag in made.flags.values()]
    gc.disable()
    try:
        del made
        assert [each() for each in watched] == [None] * len(watched)
    finally:
        gc.enable()


def test_a_snapshot_cannot_be_changed() -> None:
    flags = snapshot(a={})
    with pytest.raises(TypeError):
        flags.flags["b"] = flags.flags["a"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        flags.version = 2  # type: ignore[misc]
    assert SEED
