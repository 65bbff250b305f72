"""preview-flag-audience: how many users a flag would reach, counted by the evaluator, for platform admins."""

from typing import Any

import pytest

from tests.support.responses import refused
from tests.support.served_flags import make
from tests.support.serving import SECRET_KEY, Serving
from tests.support.world import GLOBEX, PEOPLE, Database

PREVIEW = "/functions/v1/preview-flag-audience"
ACTIVE = len(PEOPLE) - 1  # all but the suspended user


@pytest.fixture(scope="module", autouse=True)
def flags(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("insert into public.feature_flag_groups (name) values ('beta')")
        connection.execute(
            "insert into public.feature_flag_group_members (group_id, value)"
            " select id, to_jsonb(%s::text) from public.feature_flag_groups",
            [str(PEOPLE["member"])],
        )
    make(database, "everyone")
    make(database, "grouped", conditions={"user_id": {"$inGroup": "beta"}})
    make(database, "leaf", environment="STAGING")


def preview(functions: Serving, flag: str, **changes: Any) -> dict[str, int]:
    with functions.client("platform_admin") as client:
        response = client.post(PREVIEW, json={"flag": flag, "changes": changes})
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.parametrize(
    ("changes", "on"),
    [
        ({}, ACTIVE),
        ({"is_enabled": False}, 0),
        ({"rollout_percent": 0}, 0),
        ({"starts_at": "2150-01-01T00:00:00Z"}, 0),
        ({"ends_at": "2000-01-01T00:00:00Z"}, 0),
        ({"target_tiers": ["GROWTH"]}, 6),
        ({"rollout_percent": 0, "target_orgs": [str(GLOBEX)]}, 2),
        ({"target_tiers": ["FREE"], "target_users": [str(PEOPLE["outsider"])]}, 1),
        ({"bucket_by": "org", "rollout_percent": 99.9999}, 6),
        ({"conditions": {"user_id": {"$inGroup": "beta"}}}, 1),
        ({"conditions": {"org_role": "OWNER"}}, 2),
    ],
    ids=str,
)
def test_change_is_previewed_and_not_written(functions: Serving, changes: dict[str, Any], on: int) -> None:
    assert preview(functions, "everyone", **changes)["on"] == on
    assert preview(functions, "everyone") == {"users": ACTIVE, "on": ACTIVE, "undecided": 0, "listed": 0}


def test_flag_of_another_environment_with_group_is_previewed(functions: Serving) -> None:
    assert preview(functions, "grouped")["on"] == 1
    assert preview(functions, "leaf")["on"] == ACTIVE


def test_attack_customer_previews_an_audience(functions: Serving) -> None:
    for person in ("owner", "outsider"):
        with functions.client(person) as client:
            refused(client.post(PREVIEW, json={"flag": "everyone"}), 403, "42501")
    with functions.client(None, apikey=SECRET_KEY) as client:
        refused(client.post(PREVIEW, json={"flag": "everyone"}), 401, "missing_credentials")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"flag": "nowhere"}, 404, "PT404"),
        ({"flag": "everyone", "changes": {"seed": None}}, 422, "invalid_body"),
        ({"flag": "everyone", "changes": {"target_orgs": ["x"]}}, 422, "invalid_body"),
        ({"flag": "everyone", "changes": {"conditions": {"a": {"$gtx": 1}}}}, 400, "PT400"),
        ({"flag": "everyone", "changes": {"conditions": {"a": {"$inGroup": "nowhere"}}}}, 422, "PT422"),
    ],
    ids=str,
)
def test_invalid_preview_is_refused(functions: Serving, body: Any, status: int, code: str) -> None:
    with functions.client("platform_admin") as client:
        refused(client.post(PREVIEW, json=body), status, code)
