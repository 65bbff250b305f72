"""The audience preview is what the evaluator returns, whatever attributes requests send later."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shared.flags import Context
from shared.flags.audience import AudienceCounter
from tests.support.flag_examples import USUAL, snapshot

USERS: list[dict[str, str | None]] = [
    {"user_id": "u1", "organization_id": "o1", "tier": "GROWTH", "org_role": "OWNER", "email": "anna@strive.test"},
    {"user_id": "u2", "organization_id": None, "tier": None, "org_role": None, "email": "ben@strive.test"},
    {"user_id": "u3", "organization_id": "o2", "tier": "FREE", "org_role": "VIEWER", "email": "tab\t@strive.test"},
]


def line(user: dict[str, str | None]) -> str:
    fields = [user["user_id"], user["organization_id"], user["tier"], user["org_role"], "USER", user["email"]]
    return "\t".join(field or "" for field in fields)


def counted(**flags: dict[str, Any]) -> tuple[int, int, int, int]:
    counter = AudienceCounter("flag", {name: USUAL | columns for name, columns in flags.items()}, {"beta": ["u1"]})
    counter.count(map(line, USERS))
    found = counter.counted
    return found.users, found.on, found.undecided, found.listed


def test_columns_of_a_flag_decide() -> None:
    assert counted(flag={}) == (3, 3, 0, 0)
    assert counted(flag={"is_enabled": False}) == (3, 0, 0, 0)
    assert counted(flag={"target_tiers": ["GROWTH"]}) == (3, 1, 0, 0)
    assert counted(flag={"rollout_percent": 0, "target_orgs": ["o2"], "target_users": ["u1"]}) == (3, 2, 0, 2)
    assert counted(flag={"conditions": {"user_id": {"$inGroup": "beta"}}}) == (3, 1, 0, 0)
    assert counted(flag={"conditions": {"email": {"$regex": "^tab\t"}}}) == (3, 1, 0, 0)
    assert counted(flag={"prerequisites": ["needed"]}, needed={"target_tiers": ["FREE"]}) == (3, 1, 0, 0)


def test_attributes_that_only_requests_send_leave_users_undecided() -> None:
    assert counted(flag={"conditions": {"country": "AT"}}) == (3, 3, 3, 0)
    assert counted(flag={"conditions": {"country": "AT", "tier": "GROWTH"}}) == (3, 1, 1, 0)
    assert counted(flag={"conditions": {"country": "AT"}, "target_users": ["u1"]}) == (3, 3, 2, 1)
    needed = {"conditions": {"$or": [{"country": "AT"}, {"tier": "FREE"}]}}
    assert counted(flag={"prerequisites": ["needed"]}, needed=needed) == (3, 3, 3, 0)


TESTS = st.sampled_from(
    ["AT", "GROWTH", None, {"$ne": "AT"}, {"$in": ["FREE", "AT"]}, {"$exists": True}, {"$not": "AT"}]
)
CONDITIONS = st.recursive(
    st.dictionaries(st.sampled_from(["tier", "org_role", "country", "country.code"]), TESTS, max_size=2),
    lambda inner: (
        st.dictionaries(st.sampled_from(["$or", "$and", "$nor"]), st.lists(inner, max_size=2), max_size=1)
        | st.dictionaries(st.just("$not"), inner, max_size=1)
    ),
    max_leaves=4,
)


@given(conditions=CONDITIONS, needed=CONDITIONS, country=st.sampled_from([None, "AT", "US"]))
def test_preview_never_contradicts_an_evaluation(conditions: Any, needed: Any, country: str | None) -> None:
    flags = {"flag": {"conditions": conditions, "prerequisites": ["needed"]}, "needed": {"conditions": needed}}
    served = snapshot(**flags)
    for user in USERS:
        counter = AudienceCounter("flag", {name: USUAL | columns for name, columns in flags.items()}, {})
        counter.count([line(user)])
        is_on = served.is_on("flag", Context.identified(user, {"country": country}))
        if is_on:
            assert counter.counted.on, "the preview counted it as off"
        elif counter.counted.on:
            assert counter.counted.undecided, "the preview counted it as on"
