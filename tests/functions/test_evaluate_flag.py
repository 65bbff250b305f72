"""evaluate-flag: responses in our form and by OFREP, and whose identity is trusted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.responses import refused
from tests.support.served_flags import (
    EVALUATE,
    FLAGS,
    change,
    evaluate,
    evaluate_all,
    is_on,
    make,
    make_broken,
    wait_for,
)
from tests.support.serving import PUBLISHABLE_KEY, SECRET_KEY, Serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

MEMBER = str(PEOPLE["member"])


@pytest.fixture(scope="module", autouse=True)
def flags(database: Database) -> None:
    make(database, "on")
    make(database, "off", is_enabled=False)
    make(database, "half", rollout_percent=50)
    make(database, "growth-only", target_tiers="{GROWTH}")
    make(database, "enterprise-only", target_tiers="{ENTERPRISE}")
    make(database, "for-member", rollout_percent=0, target_users=[PEOPLE["member"]])
    make(database, "for-globex", rollout_percent=0, target_orgs=[GLOBEX])
    make(database, "austrian", conditions={"country": "AT"})
    make(database, "owners", conditions={"org_role": "OWNER"})
    make(database, "staging", environment="STAGING")
    make(database, "colour", variants=[{"name": "red", "weight": 1}, {"name": "blue", "weight": 1}])
    make_broken(database, "broken")


def test_one_flag_by_ofrep(functions: Serving) -> None:
    answer = evaluate(functions, "on")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert found.pop("metadata").keys() == {"on", "rule", "version"}
    assert found == {"key": "on", "value": True, "reason": "STATIC", "variant": "on"}


def test_one_flag_by_functions_invoke(functions: Serving) -> None:
    with functions.client("member") as client:
        found = client.post(EVALUATE, json={"flag": "austrian", "context": {"country": "AT"}})
        assert (found.status_code, found.json()["value"]) == (200, True)
        refused(client.post(EVALUATE, json={"flag": "nowhere"}), 404, "flag_not_found")
        refused(client.post(EVALUATE, json={"flag": "broken"}), 400, "parse_error")
        refused(client.post(EVALUATE, json={"flag": "on", "context": []}), 422, "invalid_body")


@pytest.mark.parametrize(
    ("flag", "status", "code"),
    [
        ("nowhere", 404, "FLAG_NOT_FOUND"),
        ("staging", 404, "FLAG_NOT_FOUND"),
        ("half", 400, "TARGETING_KEY_MISSING"),
        ("broken", 400, "PARSE_ERROR"),
    ],
)
def test_errors_have_the_form_of_ofrep(functions: Serving, flag: str, status: int, code: str) -> None:
    answer = evaluate(functions, flag)
    assert (answer.status_code, answer.json()["errorCode"], answer.json()["key"]) == (status, code, flag)
    assert answer.json()["errorDetails"]


@pytest.mark.parametrize("context", [[], "x", 1, True])
def test_context_that_is_no_object_is_refused(functions: Serving, context: Any) -> None:
    for answer in (evaluate(functions, "on", context), evaluate_all(functions, context)):
        assert (answer.status_code, answer.json()["errorCode"]) == (400, "INVALID_CONTEXT")


def test_bulk_response_contains_flags_that_are_off_or_broken(functions: Serving) -> None:
    answer = evaluate_all(functions, {"targetingKey": "x"})
    found = {flag["key"]: flag for flag in answer.json()["flags"]}
    assert {"on", "off", "half", "broken", "colour"} <= found.keys()
    assert "staging" not in found
    assert (found["off"]["reason"], found["off"]["value"]) == ("DISABLED", False)
    assert found["broken"]["errorCode"] == "PARSE_ERROR"
    assert answer.json()["metadata"]["stale"] is False
    for name in ("on", "half", "colour", "growth-only"):
        assert evaluate(functions, name, {"targetingKey": "x"}).json() == found[name]


# The tag


def test_unchanged_flags_are_answered_with_304(functions: Serving) -> None:
    answer = evaluate_all(functions, {"targetingKey": "x"})
    tag = answer.headers["etag"]
    assert "etag" in answer.headers["access-control-expose-headers"]
    for sent in (tag, f'"another", W/{tag}', "*"):
        again = evaluate_all(functions, {"targetingKey": "x"}, **{"if-none-match": sent})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert evaluate_all(functions, {"targetingKey": "x"}, **{"if-none-match": '"another"'}).status_code == 200


def test_etag_depends_on_context_caller_and_flags(functions: Serving, database: Database) -> None:
    def tag() -> str:
        return str(evaluate_all(functions, {"targetingKey": "x"}).headers["etag"])

    before = tag()
    others = [
        evaluate_all(functions, {"targetingKey": "y"}),
        evaluate_all(functions, {"targetingKey": "x"}, key=PUBLISHABLE_KEY),
        evaluate_all(functions, {"targetingKey": "x"}, person="member"),
        evaluate_all(functions, {"targetingKey": "x"}, person="owner"),
    ]
    tags = {before, *(answer.headers["etag"] for answer in others)}
    assert len(tags) == 5
    change(database, "on", rollout_percent=99)
    change(database, "on", rollout_percent=100)
    wait_for(lambda: tag() != before)
    assert evaluate_all(functions, {"targetingKey": "x"}, **{"if-none-match": before}).status_code == 200


def test_etag_changes_when_a_schedule_starts(functions: Serving, database: Database) -> None:
    make(database, "soon", starts_at=datetime.now(UTC) + timedelta(seconds=3))
    wait_for(lambda: evaluate(functions, "soon").status_code == 200)
    assert not is_on(evaluate(functions, "soon"))
    tag = evaluate_all(functions).headers["etag"]
    wait_for(lambda: is_on(evaluate(functions, "soon")))
    assert evaluate_all(functions, **{"if-none-match": tag}).status_code == 200


# Callers


def test_identity_of_a_user_comes_from_the_database(functions: Serving) -> None:
    assert is_on(evaluate(functions, "for-member", person="member"))
    assert not is_on(evaluate(functions, "for-member", person="owner"))
    assert is_on(evaluate(functions, "growth-only", person="member"))
    assert is_on(evaluate(functions, "owners", person="owner"))
    assert not is_on(evaluate(functions, "owners", person="member"))
    assert is_on(evaluate(functions, "for-globex", person="globex_member"))
    assert is_on(evaluate(functions, "austrian", {"country": "AT"}, person="member"))


def test_attack_user_claims_another_identity(functions: Serving) -> None:
    lies = {
        "tier": "ENTERPRISE",
        "organization_id": str(GLOBEX),
        "targetingKey": MEMBER,
        "user_id": MEMBER,
        "org_role": "OWNER",
    }
    for flag in ("enterprise-only", "for-globex", "owners"):
        assert not is_on(evaluate(functions, flag, lies, person="member")), flag
    assert not is_on(evaluate(functions, "for-member", lies, person="owner"))
    assert not is_on(evaluate(functions, "for-globex", person="member", **{"x-org-id": str(GLOBEX)}))
    assert is_on(evaluate(functions, "growth-only", lies, person="member"))


def test_attack_free_user_claims_enterprise(functions: Serving, database: Database) -> None:
    make(database, "free-only", target_tiers="{FREE}")
    wait_for(lambda: evaluate(functions, "free-only").status_code == 200)
    with database.connect() as connection:
        connection.execute("update public.organizations set subscription_tier = 'FREE' where id = %s", [ACME])
    try:
        wait_for(lambda: is_on(evaluate(functions, "free-only", {"tier": "ENTERPRISE"}, person="member")))
        assert not is_on(evaluate(functions, "enterprise-only", {"tier": "ENTERPRISE"}, person="member"))
        assert not is_on(evaluate(functions, "growth-only", {"tier": "GROWTH"}, person="member"))
    finally:
        with database.connect() as connection:
            connection.execute("update public.organizations set subscription_tier = 'GROWTH' where id = %s", [ACME])
        wait_for(lambda: is_on(evaluate(functions, "growth-only", person="member")))


def test_attack_anonymous_caller_claims_to_be_a_user(functions: Serving) -> None:
    lies = {"targetingKey": MEMBER, "user_id": MEMBER, "tier": "ENTERPRISE", "organization_id": str(GLOBEX)}
    for flag in ("for-member", "enterprise-only", "growth-only", "for-globex"):
        assert not is_on(evaluate(functions, flag, lies, key=PUBLISHABLE_KEY)), flag
    assert is_on(evaluate(functions, "on", key=PUBLISHABLE_KEY))
    assert is_on(evaluate(functions, "austrian", {"country": "AT"}, key=PUBLISHABLE_KEY))


def test_secret_key_is_trusted_with_any_context(functions: Serving) -> None:
    assert is_on(evaluate(functions, "enterprise-only", {"tier": "ENTERPRISE"}))
    assert is_on(evaluate(functions, "for-member", {"targetingKey": MEMBER}))
    assert is_on(evaluate(functions, "for-globex", {"organization_id": str(GLOBEX)}))


def test_user_and_server_get_the_same_draw(functions: Serving) -> None:
    own = evaluate(functions, "half", person="member").json()
    assert own == evaluate(functions, "half", {"targetingKey": MEMBER}).json()


def test_attack_suspended_user_evaluates(functions: Serving) -> None:
    refused(evaluate(functions, "on", person="suspended"), 403, "user_suspended")


def test_credentials_are_required(functions: Serving) -> None:
    with functions.client(None) as client:
        for address in (EVALUATE, FLAGS, f"{FLAGS}/on"):
            refused(client.post(address, json={"flag": "on"}), 401, "missing_credentials")


def test_browser_may_send_if_none_match(functions: Serving) -> None:
    with functions.client(None) as client:
        answer = client.options(FLAGS, headers={"origin": "https://app.test"})
    assert answer.status_code == 204
    assert "if-none-match" in answer.headers["access-control-allow-headers"]


def test_unknown_path_below_the_function_is_404(functions: Serving) -> None:
    with functions.client(None, apikey=SECRET_KEY) as client:
        for address in (f"{EVALUATE}/ofrep", f"{FLAGS}/", f"{FLAGS}/on/more", "/functions/v1/record-activity/on"):
            refused(client.post(address, json={}), 404, "unknown_function")
