"""Flags and alerts, written by admins and read by users, through the API of the whole stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import Strive
from tests.support.platform import PASSWORD
from tests.support.served_flags import wait_for

WHOLE = {"prefer": "return=representation"}


@contextmanager
def signed_in(stack: Strive, email: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.api_url, headers={"apikey": stack.publishable_key}, timeout=30) as client:
        answer = client.post("/auth/v1/token?grant_type=password", json={"email": email, "password": PASSWORD})
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


@pytest.fixture
def admin(stack: Strive) -> Iterator[httpx.Client]:
    with signed_in(stack, "admin@strive.test") as client:
        yield client


@pytest.fixture
def member(stack: Strive) -> Iterator[httpx.Client]:
    with signed_in(stack, "member@acme.test") as client:
        yield client


def ok(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def test_flag_can_be_turned_on_and_off(admin: httpx.Client, member: httpx.Client) -> None:
    name = f"flag-{uuid4()}"

    def value() -> Any:
        return member.post("/functions/v1/evaluate-flag", json={"flag": name}).json().get("value")

    ok(admin.post("/rest/v1/feature_flags", json={"name": name, "is_enabled": True, "rollout_percent": 100}))
    wait_for(lambda: value() is True)
    assert ok(admin.post("/functions/v1/preview-flag-audience", json={"flag": name}))["on"] > 1
    ok(admin.patch(f"/rest/v1/feature_flags?name=eq.{name}", json={"is_enabled": False}))
    wait_for(lambda: value() is False)
    logged = ok(
        admin.get("/rest/v1/admin_action_logs", params={"description": f"ilike.*{name}*", "order": "created_at"})
    )
    assert [(line["action"], line["metadata"]["after"]["is_enabled"]) for line in logged] == [
        ("FEATURE_FLAG_UPDATE", True),
        ("FEATURE_FLAG_UPDATE", False),
    ]


def test_group_in_use_cannot_be_deleted(admin: httpx.Client, member: httpx.Client) -> None:
    flag, group, me = f"flag-{uuid4()}", f"group-{uuid4()}", "member@acme.test"

    def value() -> Any:
        return member.post("/functions/v1/evaluate-flag", json={"flag": flag}).json().get("value")

    conditions = {"email": {"$inGroup": group}}
    row = {"name": flag, "is_enabled": True, "rollout_percent": 100, "conditions": conditions}
    refused = admin.post("/rest/v1/feature_flags", json=row)
    assert (refused.status_code, refused.json()["code"]) == (422, "PT422")
    assert refused.json()["details"] == f"There is no group {group}."
    (made,) = ok(admin.post("/rest/v1/feature_flag_groups", json={"name": group}, headers=WHOLE))
    ok(admin.post("/rest/v1/feature_flags", json=row))
    wait_for(lambda: value() is False)
    members = [{"group_id": made["id"], "value": each} for each in (me, "somebody@else.test")]
    ok(admin.post("/rest/v1/feature_flag_group_members", json=members))
    wait_for(lambda: value() is True)
    assert ok(admin.post("/functions/v1/preview-flag-audience", json={"flag": flag}))["on"] == 1
    assert admin.delete(f"/rest/v1/feature_flag_groups?id=eq.{made['id']}").status_code == 409
    ok(admin.delete(f'/rest/v1/feature_flag_group_members?group_id=eq.{made["id"]}&value=eq."{me}"'))
    wait_for(lambda: value() is False)
    assert ok(member.get("/rest/v1/feature_flag_groups")) == []


def test_a_flag_that_would_fail_later_is_refused_now(admin: httpx.Client) -> None:
    answer = admin.post("/rest/v1/feature_flags", json={"name": "wrong", "conditions": {"a": {"$gtx": 1}}})
    assert answer.status_code == 400
    assert "conditions.a.$gtx" in answer.json()["details"]


def test_emptying_the_last_list_of_targets_answers_with_a_warning(admin: httpx.Client) -> None:
    flag = {"name": f"flag-{uuid4()}", "is_enabled": True, "rollout_percent": 100, "target_tiers": ["ELITE"]}
    ok(admin.post("/rest/v1/feature_flags", json=flag))
    answer = admin.patch(f"/rest/v1/feature_flags?name=eq.{flag['name']}", json={"target_tiers": []})
    assert "on for 100 % of everyone" in answer.headers["warning"]


def test_an_alert_is_shown_seen_and_dismissed(admin: httpx.Client, member: httpx.Client) -> None:
    def shown() -> dict[str, Any]:
        return {alert["id"]: alert for alert in ok(member.post("/rest/v1/rpc/active_alerts", json={}))}

    written = {"title": "Maintenance", "message": "Tonight", "category": "MAINTENANCE", "is_global": True}
    (alert,) = ok(admin.post("/rest/v1/system_alerts", json=written, headers=WHOLE))
    assert shown()[alert["id"]]["is_viewed"] is False
    for first in (True, False):
        assert ok(member.post("/rest/v1/rpc/mark_alert_viewed", json={"alert_id": alert["id"]})) is first
    assert shown()[alert["id"]]["is_viewed"] is True
    for first in (True, False):
        assert ok(member.post("/rest/v1/rpc/dismiss_alert", json={"alert_id": alert["id"]})) is first
    assert alert["id"] not in shown()
    (counted,) = ok(admin.get(f"/rest/v1/system_alerts?id=eq.{alert['id']}"))
    assert (counted["view_count"], counted["dismiss_count"]) == (1, 1)
    (other,) = ok(admin.post("/rest/v1/system_alerts", json=written | {"is_global": False}, headers=WHOLE))
    assert other["id"] not in shown()
    (archived,) = ok(admin.post("/rest/v1/system_alerts", json=written | {"title": "Old"}, headers=WHOLE))
    assert archived["id"] in shown()
    ok(admin.patch(f"/rest/v1/system_alerts?id=eq.{archived['id']}", json={"is_archived": True}))
    assert archived["id"] not in shown()
