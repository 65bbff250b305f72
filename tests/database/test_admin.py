"""The append-only audit log, and the platform metrics."""

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.acting import Cursor, now_as, server, value
from tests.support.world import ACME, PEOPLE, Database

NO_ADMIN = "00000000-0000-0000-0000-000000000000"
ADMIN_TABLES = {
    "admin_action_logs": "action description target_type target_id metadata ip_address user_agent success"
    " error admin_id",
    "onboarding_sessions": "token_hash current_step total_steps org_name org_website org_description selected_tier"
    " billing_cycle stripe_payment_intent_id payment_status is_completed completed_at expires_at updated_at user_id"
    " organization_id",
    "platform_metrics": "date total_users active_users new_users total_orgs active_orgs new_orgs mrr_cents arr_cents"
    " churn_rate free_count starter_count growth_count elite_count enterprise_count total_storage api_calls",
    "feature_flags": "name description is_enabled rollout_percent target_tiers target_orgs target_users conditions"
    " environment category updated_at created_by seed bucket_by variants starts_at ends_at prerequisites version",
    "system_alerts": "title message level category is_global target_roles target_tiers target_orgs target_users"
    " is_dismissible auto_hide_after starts_at ends_at view_count dismiss_count is_active is_archived updated_at"
    " created_by",
}


def log(cursor: Cursor, **named: Any) -> object:
    arguments = {
        "action": "USER_SUSPEND",
        "description": "Suspended",
        "target_type": "user",
        "target_id": str(PEOPLE["member"]),
        **named,
    }
    call = ", ".join(f"{name} => %s" for name in arguments)
    return value(cursor, f"select private.log_admin_action({call})", [*arguments.values()])


def entries(cursor: Cursor) -> list[dict[str, Any]]:
    return cursor.execute("select * from public.admin_action_logs order by created_at, id").fetchall()


@pytest.mark.parametrize("table", ADMIN_TABLES)
def test_every_specified_column_exists_under_policies(database: Database, table: str) -> None:
    with database.connect() as connection:
        columns = {
            name
            for (name,) in connection.execute(
                "select column_name from information_schema.columns where table_name = %s", [table]
            )
        }
        policies = connection.execute("select from pg_policies where tablename = %s", [table]).rowcount
    assert {"id", "created_at", *ADMIN_TABLES[table].split()} <= columns
    assert policies


def test_every_specified_enum_exists(database: Database) -> None:
    names = ["AdminAction", "PaymentStatus", "BillingCycle", "Environment", "AlertLevel", "AlertCategory"]
    with database.connect() as connection:
        assert connection.execute("select from pg_type where typname = any (%s)", [names]).rowcount == len(names)


# The log


def test_audit_entry_has_actor_action_target_and_origin(database: Database) -> None:
    with database.acting_as("platform_admin") as cursor:
        headers = '{"x-forwarded-for": "10.0.0.1, 203.0.113.7", "user-agent": "Mozilla/5.0"}'
        cursor.execute("select set_config('request.headers', %s, true)", [headers])
        log(cursor, success=False, error="Already suspended", metadata='{"reason": "spam"}')
        (entry,) = entries(cursor)
    entry = {name: found for name, found in entry.items() if name not in {"id", "created_at"}}
    assert entry == {
        "action": "USER_SUSPEND",
        "description": "Suspended",
        "target_type": "user",
        "target_id": str(PEOPLE["member"]),
        "metadata": {"reason": "spam"},
        "ip_address": "203.0.113.7",
        "user_agent": "Mozilla/5.0",
        "success": False,
        "error": "Already suspended",
        "admin_id": PEOPLE["platform_admin"],
        "acting_as_id": None,
    }


def test_impersonated_action_is_logged_under_the_admin(database: Database) -> None:
    with (
        database.connect() as connection,
        connection.transaction(force_rollback=True),
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        going_on = value(
            cursor,
            "insert into private.impersonations (admin_id, user_id, reason) values (%s, %s, 'Help') returning id::text",
            [PEOPLE["super_admin"], PEOPLE["owner"]],
        )
        now_as(cursor, "owner", act={"sub": str(PEOPLE["super_admin"])}, session_id=going_on)
        log(cursor)
        (entry,) = entries(now_as(cursor, "platform_admin"))
    assert (entry["admin_id"], entry["acting_as_id"]) == (PEOPLE["super_admin"], PEOPLE["owner"])


def test_attack_forge_audit_entries_with_an_unknown_impersonation(database: Database) -> None:
    with server(database) as cursor, pytest.raises(psycopg.Error, match="Only platform admins"):
        log(now_as(cursor, "owner", act={"sub": str(PEOPLE["super_admin"])}))


def test_server_actions_are_logged_under_admin_or_platform(database: Database) -> None:
    with server(database) as cursor:
        log(cursor, admin_id=PEOPLE["super_admin"])
        log(cursor)
        assert {str(entry["admin_id"]) for entry in entries(cursor)} == {str(PEOPLE["super_admin"]), NO_ADMIN}


def test_attack_an_admin_signs_with_another_admins_name(database: Database) -> None:
    with database.acting_as("platform_admin") as cursor:
        log(cursor, admin_id=PEOPLE["super_admin"])
        assert [entry["admin_id"] for entry in entries(cursor)] == [PEOPLE["platform_admin"]]


@pytest.mark.parametrize("person", ["owner", "outsider", "removed"])
def test_attack_forge_an_entry(database: Database, person: str) -> None:
    with database.acting_as(person) as cursor, pytest.raises(psycopg.Error, match="Only platform admins"):
        log(cursor, admin_id=PEOPLE["super_admin"])


def test_attack_forge_an_entry_past_the_function(database: Database) -> None:
    row = (
        "insert into public.admin_action_logs (action, description, target_type, target_id, admin_id)"
        " values ('USER_DELETE', '', 'user', '', %s)"
    )
    for person in ("platform_admin", "owner", None):
        with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(row, [PEOPLE["super_admin"]])
    with server(database) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(row, [PEOPLE["super_admin"]])
    with database.acting_as("super_admin") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute("select private.append_admin_action('USER_DELETE', '', '', '', null, true, null, null)")


@pytest.mark.parametrize(
    "statement",
    [
        "update public.admin_action_logs set description = 'nothing happened'",
        "delete from public.admin_action_logs",
        "truncate public.admin_action_logs",
    ],
)
@pytest.mark.parametrize("role", ["postgres", "supabase_admin"])
def test_attack_rewrite_history_with_every_right(database: Database, role: str, statement: str) -> None:
    with database.connect(role) as connection:
        connection.autocommit = False
        connection.execute("select private.log_admin_action('USER_DELETE', '', 'user', '1')")
        if role == "supabase_admin":
            connection.execute("set local session_replication_role = replica")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            connection.execute(statement)
        connection.rollback()


def test_the_log_outlives_the_account_of_the_admin(fresh_database: Database) -> None:
    who = PEOPLE["platform_admin"]
    with fresh_database.acting_as("platform_admin", commit=True) as cursor:
        log(cursor)
    with fresh_database.connect() as connection:
        connection.execute("delete from auth.users where id = %s", [who])
        assert connection.execute("select from users where id = %s", [who]).rowcount == 0
        assert connection.execute("select admin_id from admin_action_logs").fetchall() == [(who,)]


def test_the_log_is_read_by_platform_admins_only(database: Database) -> None:
    with server(database) as cursor:
        log(cursor)
        seen = {
            person: len(entries(now_as(cursor, person, org=ACME)))
            for person in ("platform_admin", "super_admin", "owner", "member", "outsider")
        }
    assert seen == {"platform_admin": 1, "super_admin": 1, "owner": 0, "member": 0, "outsider": 0}
    with database.acting_as(None) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        entries(cursor)


def test_a_suspended_admin_reads_nothing(database: Database) -> None:
    with server(database) as cursor:
        log(cursor)
        cursor.execute("update public.users set suspended_at = now() where id = %s", [PEOPLE["platform_admin"]])
        assert not entries(now_as(cursor, "platform_admin"))


# Metrics


def test_a_utc_day_has_one_row(database: Database) -> None:
    with server(database) as cursor:
        # In a session whose own day is another one.
        cursor.execute("set local timezone = 'Pacific/Kiritimati'")
        cursor.execute("insert into public.platform_metrics default values")
        assert value(cursor, "select date = (now() at time zone 'UTC')::date from public.platform_metrics") is True
        with pytest.raises(psycopg.errors.UniqueViolation):
            cursor.execute("insert into public.platform_metrics default values")


@pytest.mark.parametrize("column", ["total_users", "mrr_cents", "churn_rate"])
def test_metrics_are_never_negative(database: Database, column: str) -> None:
    with server(database) as cursor, pytest.raises(psycopg.errors.CheckViolation, match="not negative"):
        cursor.execute(f"insert into public.platform_metrics ({column}) values (-1)")


def test_metrics_are_read_by_platform_admins_and_written_by_none(database: Database) -> None:
    with server(database) as cursor:
        cursor.execute("insert into public.platform_metrics default values")
        for person, seen in (("platform_admin", 1), ("owner", 0)):
            assert now_as(cursor, person).execute("select from public.platform_metrics").rowcount == seen, person
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            now_as(cursor, "super_admin").execute("update public.platform_metrics set mrr_cents = 1")
