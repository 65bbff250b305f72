"""History: changes of every business table with their author, without secrets, for every member."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.acting import wait_until_blocked
from tests.support.rows import Cursor, add, call, change, one, refused, remove, scene, turn
from tests.support.world import ACME, PEOPLE, Database, Row, become, claims_of

TABLES = """
    activities agent_templates api_keys appointment_attendees appointments attachments companies contacts content
    custom_agent_orders customers deals leads listings notes organization_invitations organization_members organizations
    project_showcases projects tasks tool_blueprints webhook_endpoints
""".split()  # noqa: SIM905 - words read better than a list of quotes


def history(cursor: Cursor, kind: str, row_id: Any, **page: Any) -> list[Row]:
    turn(cursor, "viewer")
    places = ", ".join(f"{name} => %s" for name in page)
    statement = f"select * from public.record_history(%s, %s{', ' + places if places else ''})"
    return cursor.execute(statement, [kind, row_id, *page.values()]).fetchall()


def test_every_business_table_is_recorded(database: Database) -> None:
    with scene(database) as cursor:
        assert one(cursor.execute("select private.history_tables() as names"))["names"] == TABLES


def test_history_records_only_changed_columns(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        lead = add(cursor, "leads", organization_id=ACME, name="Ada", email="ada@x.test")
        change(cursor, "leads", lead, score_value=85, email=None)
        change(cursor, "leads", lead, score_value=85)
        turn(cursor, "admin")
        remove(cursor, "leads", lead)
        deleted, updated, created = history(cursor, "leads", lead["id"])
        assert [entry["action"] for entry in (deleted, updated, created)] == ["deleted", "updated", "created"]
        assert [entry["user_id"] for entry in (deleted, created)] == [PEOPLE["admin"], PEOPLE["member"]]
        assert updated["old_data"] == {"score": "COLD", "score_value": 0, "email": "ada@x.test"}
        assert updated["new_data"] == {"score": "HOT", "score_value": 85, "email": None}
        assert created["new_data"]["name"] == "Ada"
        assert deleted["old_data"]["score_value"] == 85


def test_history_names_the_impersonator(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, None)
        act = add_impersonation(cursor)
        claims = {"act": {"sub": str(PEOPLE["super_admin"])}, "session_id": str(act)}
        become(cursor.connection, "authenticated", claims_of("member", **claims), {})
        add(cursor, "customers", organization_id=ACME, name="Ada")
        turn(cursor, None)
        names = "select impersonated_by from public.activity_logs where resource_type = 'customers'"
        assert [row["impersonated_by"] for row in cursor.execute(names)] == [PEOPLE["super_admin"]]


def add_impersonation(cursor: Cursor) -> Any:
    statement = "insert into private.impersonations (admin_id, user_id, reason) values (%s, %s, 'help') returning id"
    return one(cursor.execute(statement, [PEOPLE["super_admin"], PEOPLE["member"]]))["id"]


def test_history_contains_no_secrets_or_invited_addresses(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        invitation = call(cursor, "create_invitation", email="new@strive.test")
        change(cursor, "organizations", {"id": ACME}, billing_email="bills@acme.test", name="Acme Homes")
        turn(cursor, None)
        logged = json.dumps([row["new_data"] for row in cursor.execute("select new_data from public.activity_logs")])
        assert "Acme Homes" in logged
        for secret in ("new@strive.test", "bills@acme.test", "token_hash", invitation["token"]):
            assert secret not in logged


def test_members_read_a_record_and_admins_the_organization(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        change(cursor, "organizations", {"id": ACME}, name="Acme Homes")
        assert call(cursor, "record_history", type="organizations", id=ACME)["new_data"] == {"name": "Acme Homes"}
        with refused(cursor, "42501", "may not"):
            history(cursor, "organizations", ACME)
        with refused(cursor, "PT400", "no history"):
            history(cursor, "users", ACME)
        with refused(cursor, "PT400", "page_size"):
            history(cursor, "leads", ACME, page_size=0)


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"cf-connecting-ip": "203.0.113.7", "x-forwarded-for": "192.0.2.1"}, "203.0.113.7"),
        ({"x-forwarded-for": "192.0.2.1, 203.0.113.8"}, "203.0.113.8"),
        ({"x-real-ip": "203.0.113.9"}, "203.0.113.9"),
        ({}, None),
    ],
)
def test_history_has_the_address_of_the_request(
    database: Database, headers: dict[str, str], address: str | None
) -> None:
    with scene(database) as cursor:
        become(cursor.connection, "authenticated", claims_of("member"), headers | {"user-agent": "Quickfox"})
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        cursor.execute("reset role")
        assert one(cursor.execute("select private.client_ip() as found"))["found"] == address
        entry = one(cursor.execute("select * from public.activity_logs where resource_id = %s", [lead["id"]]))
        assert (entry["ip_address"], entry["user_agent"]) == (address, "Quickfox")


def test_history_is_paged_without_gaps(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        for value in range(1, 10):
            change(cursor, "leads", lead, notes=str(value))
        everything = [entry["entry_id"] for entry in history(cursor, "leads", lead["id"])]
        assert len(everything) == 10
        paged: list[Any] = []
        page: dict[str, Any] = {}
        while entries := history(cursor, "leads", lead["id"], page_size=3, **page):
            paged += [entry["entry_id"] for entry in entries]
            page = {"before": entries[-1]["created_at"], "before_id": entries[-1]["entry_id"]}
        assert paged == everything


@pytest.mark.parametrize("role", ["service_role", "postgres"])
def test_history_is_immutable(database: Database, role: str) -> None:
    with scene(database) as cursor:
        add(cursor, "leads", organization_id=ACME, name="Ada")
        become(cursor.connection, role, {}, {})
        for statement in ("update public.activity_logs set action = 'x'", "delete from public.activity_logs"):
            with refused(cursor, "42501", "."):
                cursor.execute(statement)


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_attack_forge_an_entry_of_the_history(database: Database, role: str) -> None:
    with scene(database) as cursor:
        become(cursor.connection, role, claims_of("owner"), {})
        with refused(cursor, "42501", "permission denied"):
            add(cursor, "activity_logs", organization_id=ACME, action="updated", resource_type="leads")


@pytest.mark.parametrize(
    "statement",
    [
        "insert into public.leads (organization_id, name) values (%s, 'Eve')",
        "update public.leads set notes = 'x' where organization_id = %s",
        "delete from public.leads where organization_id = %s",
    ],
)
def test_a_late_write_leaves_no_entry_of_a_deleted_organization(fresh_database: Database, statement: str) -> None:
    """No foreign key deletes the entries: the deletion waits for the writer by the key or the row that is written."""
    insert = "insert into public.leads (organization_id, name) values (%s, 'Ada')"
    with fresh_database.connect() as writer, fresh_database.connect() as other, ThreadPoolExecutor(1) as thread:
        writer.execute(insert, [ACME])
        writer.autocommit = False
        writer.execute(statement, [ACME])
        deletion = thread.submit(other.execute, "delete from public.organizations where id = %s", [ACME])
        wait_until_blocked(fresh_database)
        writer.commit()
        assert deletion.result().rowcount == 1
        left = "select from public.activity_logs where organization_id = %s"
        assert writer.execute(left, [ACME]).rowcount == 0


def test_no_month_of_history_is_truncated(database: Database) -> None:
    months = "select inhrelid::regclass::text as name from pg_inherits where inhparent = any (%s::regclass[])"
    logs = ["public.activity_logs", "private.archived_activity_logs"]
    with scene(database) as cursor:
        for table in (*logs, *(row["name"] for row in cursor.execute(months, [logs]).fetchall())):
            with refused(cursor, "42501", "append-only"):
                cursor.execute(f"truncate {table}")


def test_settings_and_state_of_an_organization_are_recorded(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        logo = "https://acme.test/logo.png"
        cursor.execute("update public.organizations set logo_url = %s where slug = 'acme'", [logo])
        call(cursor, "close_organization", confirm="acme")
        call(cursor, "reopen_organization")
        recorded = cursor.execute(
            "select new_data from public.record_history('organizations', %s) order by created_at", [ACME]
        ).fetchall()
        logo_set, closed, reopened = (row["new_data"] for row in recorded)
        assert logo_set == {"logo_url": logo}
        assert closed["closed_at"] is not None
        assert reopened["closed_at"] is None


@pytest.mark.parametrize("kind", ["webhook_endpoints", "api_keys"])
def test_attack_read_what_is_for_admins_in_its_history(database: Database, kind: str) -> None:
    statement = "select * from public.record_history(%s, gen_random_uuid())"
    for person in ("member", "viewer"):
        with database.acting_as(person) as cursor, refused(cursor, "42501", "may not"):
            cursor.execute(statement, [kind])
    with database.acting_as("admin") as cursor:
        assert cursor.execute(statement, [kind]).fetchall() == []
