"""dashboard-snapshot: the first screen in one response and one round trip, with rows visible to the caller only."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from functions.dashboard_snapshot import DashboardSnapshot
from tests.support.responses import refused
from tests.support.rows import add
from tests.support.serving import Serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

SNAPSHOT = "/functions/v1/dashboard-snapshot"


@pytest.fixture(autouse=True)
def some_leads(database: Database) -> Iterator[None]:
    """Two of Acme, one of Globex."""
    with database.acting_as("member", commit=True) as cursor:
        add(cursor, "leads", organization_id=ACME, name="Ada")
        add(cursor, "leads", organization_id=ACME, name="Bob")
    with database.acting_as("globex_member", commit=True) as cursor:
        add(cursor, "leads", organization_id=GLOBEX, name="Eve")
    yield
    with database.connect() as connection:
        connection.execute("delete from public.leads")
        connection.execute("delete from public.dashboard_metrics where name = 'Broken'")
        connection.execute("delete from public.dashboard_widgets where name = 'Broken'")


def request_snapshot(
    functions: Serving, person: str = "member", headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    with functions.client(person) as client:
        return client.post(SNAPSHOT, json=body, headers=headers or {})


def values(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {metric["name"]: metric.get("value") for metric in answer.json()["metrics"]}


def test_snapshot_matches_its_schema(functions: Serving) -> None:
    answer = request_snapshot(functions)
    assert answer.status_code == 200, answer.text
    snapshot = DashboardSnapshot.model_validate_json(answer.content)
    assert (snapshot.organization.id, snapshot.organization.role) == (ACME, "MEMBER")
    assert values(answer)["New leads"] == 2
    assert [widget.error for widget in snapshot.widgets] == [None] * 9
    assert answer.json().keys() == DashboardSnapshot.model_fields.keys()


def test_each_tenant_has_its_own_numbers(functions: Serving) -> None:
    assert values(request_snapshot(functions, "viewer"))["New leads"] == 2
    assert values(request_snapshot(functions, "globex_member"))["New leads"] == 1
    assert values(request_snapshot(functions, "platform_admin", {"x-org-id": str(GLOBEX)}))["New leads"] == 1


def test_attack_look_at_the_first_screen_of_another_tenant(functions: Serving) -> None:
    for person in ("globex_owner", "outsider", "removed"):
        refused(request_snapshot(functions, person, {"x-org-id": str(ACME)}), 403, "42501")
    refused(request_snapshot(functions, "suspended"), 403, "user_suspended")
    with functions.client(None) as client:
        refused(client.post(SNAPSHOT, json={}), 401, "missing_credentials")


def test_failed_widget_leaves_the_others(functions: Serving, database: Database) -> None:
    with database.acting_as("admin", commit=True) as cursor:
        metric = add(
            cursor, "dashboard_metrics", organization_id=ACME, name="Broken", category="SALES",
            query=json.dumps({"source": "leads", "aggregate": "count"}),
        )  # fmt: skip
        add(
            cursor, "dashboard_widgets", organization_id=ACME, name="Broken", type="KPI_CARD", position=json.dumps(
                {"x": 0, "y": 0, "w": 1, "h": 1}
            ), config=json.dumps({"metric_id": str(metric["id"])}),
        )  # fmt: skip
        cursor.execute("delete from public.dashboard_metrics where id = %s", [metric["id"]])
    snapshot = DashboardSnapshot.model_validate_json(request_snapshot(functions).content)
    errors = {widget.name: widget.error for widget in snapshot.widgets if widget.error}
    assert errors.keys() == {"Broken"}
    assert errors["Broken"]
    assert errors["Broken"].code == "PT404"


@pytest.mark.parametrize("body", [{"feed_size": 0}, {"feed_size": 51}, {"org": "x"}, []])
def test_unknown_field_is_rejected(functions: Serving, body: Any) -> None:
    with functions.client() as client:
        refused(client.post(SNAPSHOT, json=body), 422, "invalid_body")


def test_snapshot_is_one_round_trip(functions: Serving, database: Database) -> None:
    """Statements of the function's database session, from the server log."""
    with database.connect("supabase_admin") as connection:
        connection.execute(f"alter database {database.name} set log_statement = 'all'")
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'strive_functions'")
    request_snapshot(functions)
    written = database.cluster.log.stat().st_size
    for _ in range(3):
        assert request_snapshot(functions).status_code == 200
    with database.cluster.log.open() as log:
        log.seek(written)
        # The pool may open one more session, which runs its own first statement.
        statements = [
            line for line in log if (" execute " in line or "statement:" in line) and "pg_backend_pid" not in line
        ]
    assert len([line for line in statements if "dashboard_snapshot" in line]) == 3
    assert len(statements) == 3, statements


def test_attack_read_foreign_rows_in_the_snapshot(functions: Serving, database: Database) -> None:
    with database.connect() as connection:
        connection.execute("delete from public.notifications")
        connection.execute(
            "select public.notify_members(%s, 'INFO', 'For the owner', 'x', %s)",
            [ACME, [PEOPLE["owner"]]],
        )
    assert request_snapshot(functions, "owner").json()["unread"] == 1
    seen = request_snapshot(functions, "member")
    assert seen.json()["unread"] == 0
    assert "For the owner" not in seen.text
