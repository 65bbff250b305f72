"""Organizations are created, handed over, left, suspended, closed, reopened and erased; every state has a way out."""

from typing import Any
from uuid import UUID

import pytest

from tests.support.rows import Cursor, add, call, change, one, refused, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row


def organization(cursor: Cursor, org: UUID = ACME) -> Row:
    return one(cursor.execute("select * from public.organizations where id = %s", [org]))


def role(cursor: Cursor, person: str, org: UUID = ACME) -> Any:
    row = cursor.execute(
        "select role from public.organization_members where user_id = %s and organization_id = %s",
        [PEOPLE[person], org],
    ).fetchone()
    return row and row["role"]


def claimed_by_server(cursor: Cursor, person: str) -> Any:
    turn(cursor, None)
    event = "jsonb_build_object('user_id', %s::uuid, 'claims', '{}'::jsonb)"
    hook = f"select private.custom_access_token_hook({event}) #>> '{{claims,app_metadata,org_id}}' as org"
    return one(cursor.execute(hook, [PEOPLE[person]]))["org"]


def test_a_user_creates_up_to_three_free_organizations(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "outsider")
        slugs = [call(cursor, "create_organization", name="Café Zürich")["slug"] for _ in range(3)]
        assert slugs == ["cafe-zurich", "cafe-zurich-1", "cafe-zurich-2"]
        with refused(cursor, "PT402", "three free"):
            call(cursor, "create_organization", name="Fourth")
        with refused(cursor, "PT422", "2 to 100 characters"):
            call(cursor, "create_organization", name=" x ")
        assert cursor.execute("select from public.my_organizations() where role = 'OWNER'").rowcount == 3


def test_the_current_organization_is_in_the_next_token(database: Database) -> None:
    with scene(database) as cursor:
        assert claimed_by_server(cursor, "globex_owner") == str(GLOBEX)
        turn(cursor, "globex_owner")
        made = call(cursor, "create_organization", name="Second")["id"]
        call(cursor, "set_current_organization", id=made)
        assert claimed_by_server(cursor, "globex_owner") == made
        turn(cursor, "globex_owner")
        with refused(cursor, "PT404", "no such organization"):
            call(cursor, "set_current_organization", id=ACME)


def test_ownership_is_transferred_to_a_member(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        with refused(cursor, "42501", "may not"):
            call(cursor, "transfer_ownership", user_id=PEOPLE["member"])
        turn(cursor, "owner")
        for who in ("outsider", "suspended"):
            with refused(cursor, "PT404", "no such member"):
                call(cursor, "transfer_ownership", user_id=PEOPLE[who])
        call(cursor, "transfer_ownership", user_id=PEOPLE["member"])
        assert (role(cursor, "member"), role(cursor, "owner")) == ("OWNER", "ADMIN")
        call(cursor, "leave_organization")
        turn(cursor, "member")
        assert role(cursor, "owner") is None
        with refused(cursor, "PT409", "at least one owner"):
            call(cursor, "leave_organization")


@pytest.mark.parametrize("state", ["suspended_at", "closed_at"])
def test_a_suspended_or_closed_organization_is_read_and_not_written(database: Database, state: str) -> None:
    with scene(database) as cursor:
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        cursor.execute(f"update public.organizations set {state} = now() where id = %s", [ACME])
        for person in ("member", "owner"):
            turn(cursor, person)
            assert cursor.execute("select from public.leads where id = %s", [lead["id"]]).rowcount == 1
            assert change(cursor, "leads", lead, name="Eve") is None
            with refused(cursor, "42501", "row-level security"):
                add(cursor, "leads", organization_id=ACME, name="Eve")
            with refused(cursor, "PT403", "is suspended" if state == "suspended_at" else "is closed"):
                call(cursor, "bulk_tag", kind="leads", ids=[lead["id"]], add=["a"])
        assert cursor.execute("select from public.activity_logs").rowcount > 0
        assert one(cursor.execute("select private.require_org('OWNER', true) as org"))["org"] == ACME
        turn(cursor, None)
        cursor.execute(f"update public.organizations set {state} = null where id = %s", [ACME])
        turn(cursor, "member")
        assert change(cursor, "leads", lead, name="Eve")


def test_a_member_who_joins_a_suspended_organization_reads_only(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("update public.organizations set suspended_at = now() where id = %s", [ACME])
        add(cursor, "organization_members", user_id=PEOPLE["outsider"], organization_id=ACME)
        turn(cursor, "outsider", ACME)
        with refused(cursor, "42501", "row-level security"):
            add(cursor, "leads", organization_id=ACME, name="Eve")


def test_an_owner_closes_and_reopens(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        with refused(cursor, "PT409", "not the slug"):
            call(cursor, "close_organization", confirm="globex")
        closed = call(cursor, "close_organization", confirm="acme")
        assert call(cursor, "close_organization", confirm="acme") == closed
        call(cursor, "reopen_organization")
        assert organization(cursor)["closed_at"] is None
        with refused(cursor, "PT409", "not closed"):
            call(cursor, "reopen_organization")


def erase(cursor: Cursor) -> Any:
    turn(cursor, None)
    return one(cursor.execute("select private.erase_closed_organizations() as erased"))["erased"]


def test_a_closed_organization_is_erased_after_thirty_days_with_proof(database: Database) -> None:
    with scene(database) as cursor:
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        add(cursor, "leads", organization_id=ACME, name="Eve")
        cursor.execute("delete from public.leads where id = %s", [lead["id"]])
        cursor.execute("update public.organizations set closed_at = now() - interval '29 days' where id = %s", [ACME])
        assert erase(cursor) == 0
        cursor.execute("update public.organizations set closed_at = now() - interval '30 days' where id = %s", [ACME])
        paid = add(
            cursor, "subscriptions", organization_id=ACME, stripe_subscription_id="sub_x", tier="GROWTH",
            status="ACTIVE", billing_cycle="MONTHLY", amount_cents=1,
            current_period_start="2026-01-01", current_period_end="2099-01-01",
        )  # fmt: skip
        assert erase(cursor) == 0
        change(cursor, "subscriptions", paid, status="CANCELLED", cancelled_at="2026-02-01")
        assert erase(cursor) == 1
        assert one(cursor.execute("select private.count_rows_of(%s) as rows", [ACME]))["rows"] == {}
        log = one(cursor.execute("select * from public.admin_action_logs where action = 'ORG_DELETE'"))
        assert (log["metadata"]["rows"]["public.leads"], log["metadata"]["rows"]["public.trash"]) == (1, 1)
        assert "acme" not in str(log["metadata"]).lower()
        assert cursor.execute("select from public.organizations where id = %s", [GLOBEX]).rowcount == 1


def test_last_owner_deletes_account_after_closing_organization(database: Database) -> None:
    with scene(database) as cursor:
        delete = "select private.delete_account_of(jsonb_build_object('user_id', %s::uuid)) as done"
        with refused(cursor, "PT409", "last owner"):
            cursor.execute(delete, [PEOPLE["owner"]])
        turn(cursor, "owner")
        call(cursor, "close_organization", confirm="acme")
        turn(cursor, None)
        assert one(cursor.execute(delete, [PEOPLE["owner"]]))["done"]["deleted_at"]


ADMIN_OPERATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("USER_CREATE", "admin_create_user", {"email": "New@Strive.test", "name": "New"}),
    ("ORG_CREATE", "admin_create_organization", {"name": "New", "owner_email": "new@strive.test"}),
    ("ORG_SUSPEND", "admin_suspend_organization", {"organization_id": GLOBEX, "reason": "Spam"}),
    ("ORG_UPDATE", "admin_restore_organization", {"organization_id": GLOBEX}),
    ("ORG_DELETE", "admin_close_organization", {"organization_id": GLOBEX}),
]  # fmt: skip


@pytest.mark.parametrize("person", ["platform_admin", None])
def test_platform_admins_and_sql_editor_operations_are_logged(database: Database, person: str | None) -> None:
    with scene(database) as cursor:
        for action, operation, arguments in ADMIN_OPERATIONS:
            turn(cursor, person)
            answer = call(cursor, operation, **arguments)
            assert "code" not in answer, (operation, answer)
            logged = one(
                cursor.execute(
                    "select action, success from public.admin_action_logs where action = %s order by created_at desc",
                    [action],
                )
            )
            assert logged == {"action": action, "success": True}


def test_refused_admin_operation_is_logged_with_status(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "platform_admin")
        answer = call(cursor, "admin_suspend_organization", organization_id=GLOBEX, reason=" ")
        assert answer["code"] == "PT422"
        assert one(cursor.execute("select current_setting('response.status') as status"))["status"] == "422"
        logged = one(cursor.execute("select success, error from public.admin_action_logs where action = 'ORG_SUSPEND'"))
        assert logged["success"] is False
