"""submit-order: a draft is submitted once, all or nothing, within the monthly quota."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg.types.json import Jsonb

from functions.submit_order import SubmittedOrder
from tests.database.test_garage import in_status
from tests.support.responses import refused
from tests.support.serving import Serving
from tests.support.statements import meanwhile
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

TRACES = {
    "order_milestones": "order_id = %s",
    "build_logs": "order_id = %s",
    "activity_feeds": "entity_id = %s::uuid::text",
}


@pytest.fixture(autouse=True)
def no_orders_left(database: Database) -> Iterator[None]:
    """Each test starts with the full monthly quota."""
    yield
    with database.connect() as connection:
        connection.execute("delete from public.custom_agent_orders")


def submit(
    functions: Serving, order: UUID, person: str = "member", key: str | None = None, **changes: Any
) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    with functions.client(person) as client:
        return client.post("/functions/v1/submit-order", json={"order_id": str(order), **changes}, headers=headers)


def stored(database: Database, order: UUID) -> Row:
    with database.acting_as("member") as cursor:
        row = cursor.execute("select * from public.custom_agent_orders where id = %s", [order]).fetchone()
    assert row
    return row


def traces(database: Database, order: UUID) -> dict[str, int]:
    """The number of rows of this order in each table."""
    with database.connect() as connection:
        counted = {
            table: connection.execute(f"select count(*) from public.{table} where {about}", [order]).fetchone()
            for table, about in TRACES.items()
        }
    return {table: count[0] for table, count in counted.items() if count}


def test_submitted_order_has_estimate_milestones_and_quota(functions: Serving, database: Database) -> None:
    order = in_status(database, "DRAFT", complexity="MODERATE", requirements=Jsonb({"custom_ui": True}))
    answer = submit(functions, order)
    assert answer.status_code == 200, answer.text
    receipt = SubmittedOrder.model_validate_json(answer.content)
    assert (receipt.order_id, receipt.status) == (order, "SUBMITTED")
    assert (receipt.estimated_hours, receipt.estimated_cost) == (21, 3150)
    assert [milestone.stage for milestone in receipt.milestones] == ["design", "development", "testing", "deployment"]
    assert (receipt.quota.tier, receipt.quota.allowed, receipt.quota.used) == ("GROWTH", 3, 1)
    renews = receipt.quota.renews_at.astimezone(UTC)
    assert renews > datetime.now(UTC)
    assert (renews.day, renews.hour, renews.minute) == (1, 0, 0)
    assert stored(database, order)["submitted_at"] == receipt.submitted_at
    assert traces(database, order) == {"order_milestones": 4, "build_logs": 1, "activity_feeds": 1}


def test_changed_requirements_are_submitted_and_estimated(functions: Serving, database: Database) -> None:
    order = in_status(database, "DRAFT")
    wanted = {"integrations": ["a", "b", "c", "d"], "multi_model": True, "goal": {"leads": 10}}
    answer = submit(functions, order, requirements=wanted, complexity="COMPLEX")
    assert answer.status_code == 200, answer.text
    with database.acting_as("viewer") as cursor:
        shown = cursor.execute("select public.estimate_order('COMPLEX', %s) as shown", [Jsonb(wanted)]).fetchone()
    assert shown
    receipt = answer.json()
    assert {name: receipt[name] for name in shown["shown"]} == shown["shown"]
    row = stored(database, order)
    assert (row["requirements"], row["complexity"]) == (wanted, "COMPLEX")
    assert (row["estimated_hours"], receipt["requirements"]) == (receipt["estimated_hours"], wanted)


@pytest.mark.parametrize(
    ("requirements", "field"),
    [
        ({"integrations": "gmail"}, "requirements.integrations"),
        ({"integrations": [1]}, "requirements.integrations.0"),
        ({"integrations": [""]}, "requirements.integrations.0"),
        ({"custom_ui": "yes"}, "requirements.custom_ui"),
        ({"multi_model": 1}, "requirements.multi_model"),
        ([], "requirements"),
    ],
)
def test_invalid_requirements_are_named(functions: Serving, database: Database, requirements: Any, field: str) -> None:
    order = in_status(database, "DRAFT")
    answer = refused(submit(functions, order, requirements=requirements), 422, "invalid_body")
    assert [wrong["field"] for wrong in answer.json()["details"]] == [field]
    assert stored(database, order)["status"] == "DRAFT"


def test_attack_set_derived_columns(functions: Serving, database: Database) -> None:
    order = in_status(database, "DRAFT")
    for name in ("status", "estimated_cost", "estimated_hours", "organization_id", "created_by_id", "submitted_at"):
        refused(submit(functions, order, **{name: "1"}), 422, "invalid_body")


@pytest.mark.parametrize("person", ["viewer", "outsider", "removed", "platform_admin"])
def test_attack_submit_without_being_a_member(functions: Serving, database: Database, person: str) -> None:
    order = in_status(database, "DRAFT")
    refused(submit(functions, order, person), 403, "42501")
    assert stored(database, order)["status"] == "DRAFT"


def test_attack_submit_or_change_another_tenants_order(functions: Serving, database: Database) -> None:
    """The same response as for an order that does not exist."""
    order = in_status(database, "DRAFT")
    words = set()
    for target in (order, uuid4()):
        answer = refused(submit(functions, target, "globex_owner", complexity="ENTERPRISE"), 404, "PT404")
        words.add(answer.text.replace(str(target), "?"))
    assert len(words) == 1
    assert stored(database, order)["complexity"] == "SIMPLE"


@pytest.mark.parametrize("status", ["SUBMITTED", "IN_REVIEW", "APPROVED", "REJECTED", "CANCELLED", "DELIVERED"])
def test_only_a_draft_is_submitted(functions: Serving, database: Database, status: str) -> None:
    order = in_status(database, status)
    refused(submit(functions, order, complexity="ENTERPRISE"), 409, "PT409")
    row = stored(database, order)
    assert (row["status"], row["complexity"]) == (status, "SIMPLE")


def test_order_beyond_the_quota_is_402(functions: Serving, database: Database) -> None:
    for _ in range(3):
        assert submit(functions, in_status(database, "DRAFT")).status_code == 200
    order = in_status(database, "DRAFT")
    answer = refused(submit(functions, order, complexity="ENTERPRISE"), 402, "PT402")
    assert answer.json()["details"].startswith("GROWTH allows 3, and 3 are used. They renew at 20")
    assert answer.json()["hint"].startswith("ELITE allows any number.")
    row = stored(database, order)
    assert (row["status"], row["complexity"], row["submitted_at"]) == ("DRAFT", "SIMPLE", None)
    assert set(traces(database, order).values()) == {0}


def test_402_names_the_next_plan_with_orders(functions: Serving, database: Database) -> None:
    order = in_status(database, "DRAFT", organization_id=GLOBEX, created_by_id=PEOPLE["globex_member"])
    with database.connect() as connection:
        connection.execute("update public.organizations set subscription_tier = 'FREE' where id = %s", [GLOBEX])
        try:
            answer = refused(submit(functions, order, "globex_member"), 402, "PT402")
        finally:
            connection.execute("update public.organizations set subscription_tier = 'GROWTH' where id = %s", [GLOBEX])
    assert answer.json()["details"].startswith("FREE allows 0, and 0 are used. They renew at 20")
    assert answer.json()["hint"].startswith("GROWTH allows 3.")


def test_attack_race_past_the_quota(functions: Serving, database: Database) -> None:
    orders = [in_status(database, "DRAFT") for _ in range(10)]
    people = ["owner", "admin", "member"]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: submit(functions, orders[n], people[n % 3]).status_code, range(10)))
    assert sorted(answers) == [200] * 3 + [402] * 7
    with database.connect() as connection:
        submitted = connection.execute(
            "select count(*) from public.custom_agent_orders where organization_id = %s and status = 'SUBMITTED'",
            [ACME],
        ).fetchone()
    assert submitted == (3,)


def test_submissions_for_the_last_place_wait(functions: Serving, database: Database) -> None:
    for _ in range(2):
        assert submit(functions, in_status(database, "DRAFT")).status_code == 200
    last, late = in_status(database, "DRAFT"), in_status(database, "DRAFT")

    def too_late() -> None:
        refused(submit(functions, late), 402, "PT402")

    with database.acting_as("owner") as cursor:
        cursor.execute("select public.submit_order(%s)", [last])
        meanwhile(database, cursor, too_late)


def test_concurrent_submissions_with_one_key_submit_once(functions: Serving, database: Database) -> None:
    order = in_status(database, "DRAFT")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(functions, order, key="one-submission"), range(12)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert traces(database, order) == {"order_milestones": 4, "build_logs": 1, "activity_feeds": 1}


def test_concurrent_submissions_submit_once(functions: Serving, database: Database) -> None:
    order = in_status(database, "DRAFT")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: submit(functions, order).status_code, range(6)))
    assert sorted(answers) == [200] + [409] * 5


def test_retry_beyond_the_quota_gets_the_first_result(functions: Serving, database: Database) -> None:
    order = in_status(database, "DRAFT")
    first = submit(functions, order, key="retried-later")
    for _ in range(2):
        assert submit(functions, in_status(database, "DRAFT")).status_code == 200
    again = submit(functions, order, key="retried-later")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"


def test_revised_order_counts_once(functions: Serving, database: Database) -> None:
    orders = [in_status(database, "DRAFT") for _ in range(3)]
    for order in orders:
        assert submit(functions, order).status_code == 200
    with database.acting_as("admin", commit=True) as cursor:
        for status in ("IN_REVIEW", "REJECTED", "DRAFT"):
            cursor.execute("select public.advance_order(%s, %s, 'Too vague')", [orders[0], status])
    refused(submit(functions, in_status(database, "DRAFT")), 402, "PT402")
    again = submit(functions, orders[0], requirements={"goal": "clear"})
    assert again.status_code == 200, again.text
    assert again.json()["quota"]["used"] == 3
    assert len(again.json()["milestones"]) == 4


def test_attack_carry_last_months_place_into_this_month(functions: Serving, database: Database) -> None:
    """An order of an earlier month that is revised now counts for this month."""
    old = in_status(database, "DRAFT", submitted_at="2026-01-01")
    for _ in range(3):
        assert submit(functions, in_status(database, "DRAFT")).status_code == 200
    refused(submit(functions, old), 402, "PT402")
