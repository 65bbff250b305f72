"""A deleted account leaves no personal data, and its work stays with the organizations."""

import json
import re
from typing import Any

import psycopg
import pytest

from tests.database.isolation.matrix import Matrix
from tests.support.world import ACME, PEOPLE, Connection, Database

# Names of columns with personal data or references to people.
PERSONAL = re.compile(
    r"(^|_)(e?mail|phone|mobile|avatar|address|ip|user_agent|birth\w*|linkedin|twitter|ssn|gender|iban|fingerprint"
    r"|user|users|admin|author|owner|reviewer|uploader|manager|assignee|acting_as|impersonated_by|created_by|invited_by"
    r"|uploaded_by|assigned_to|requested_by)(_id|_ids|_url|s)?$|(^|_)(first|last|full|display)_name$"
)
NAMES_OF_PEOPLE = {"public.users.name", "public.leads.name", "public.contacts.name", "public.customers.name"}
# Called as if, but not: why.
NOT_PERSONAL = {
    "public.users.id": "the pseudonym itself",
    "private.organization_moves.address": "of a project",
    "private.idempotency_keys.fingerprint": "of a request",
    "public.agent_templates.avatar": "of a template",
    "public.platform_metrics.total_users": "a number",
    "public.platform_metrics.active_users": "a number",
    "public.platform_metrics.new_users": "a number",
}
MARKS = {"name": "Zebulon Quick", "email": "zebulon@quick.test", "ip": "203.0.113.99", "agent": "Quickfox/7"}


def listed(connection: Connection) -> dict[str, str]:
    rows = connection.execute("select relation || '.' || name, on_deletion from private.personal_columns")
    return dict(rows.fetchall())


def columns(connection: Connection) -> dict[str, str]:
    """Every column of ours and the tables of people it points to."""
    rows = connection.execute(
        "select c.relnamespace::regnamespace || '.' || c.relname || '.' || a.attname, coalesce((select string_agg("
        "   k.confrelid::regclass::text, ' ') from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'"
        "   and a.attnum = any (k.conkey) and a.attname <> 'organization_id'), '')"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relkind in ('r', 'p') and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
    )
    return dict(rows.fetchall())


def personal(connection: Connection) -> set[str]:
    people = re.compile(r"\b(users|organization_members)\b")
    return {
        name
        for name, parents in columns(connection).items()
        if PERSONAL.search(name.rpartition(".")[2]) or name in NAMES_OF_PEOPLE or people.search(parents)
    } - NOT_PERSONAL.keys()


def test_every_personal_column_has_a_redaction_rule(database: Database) -> None:
    with database.connect() as connection:
        assert sorted(personal(connection) - set(listed(connection))) == []
        assert sorted(set(listed(connection)) - set(columns(connection))) == []
        assert sorted(set(NOT_PERSONAL) - set(columns(connection))) == []


def test_a_new_column_about_people_is_noticed(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "create table public.visits (seen_by uuid references public.users, contact_email text, n int)"
        )
        assert personal(connection) - set(listed(connection)) == {
            "public.visits.seen_by",
            "public.visits.contact_email",
        }


@pytest.fixture
def marked(fresh_database: Database) -> Database:
    """Every table has a row of Acme's member, with recognizable personal data."""
    with fresh_database.connect("supabase_admin") as superuser, fresh_database.connect() as owner:
        Matrix(superuser).populate(owner)
        who = PEOPLE["member"]
        owner.execute("update auth.users set email = %s where id = %s", [MARKS["email"], who])
        owner.execute(
            "update public.users set name = %s, avatar_url = 'https://a.test/zebulon.png', last_login_at = now(),"
            " suspended_at = now() - interval '2 d', suspended_until = now() - interval '1 d',"
            " suspended_reason = 'Zebulon Quick' where id = %s",
            [MARKS["name"], who],
        )
        owner.execute(
            "insert into public.organization_invitations (organization_id, email, token_hash, invited_by)"
            " values (%s, %s, repeat('a', 64), %s)",
            [ACME, MARKS["email"].upper(), PEOPLE["owner"]],
        )
        owner.execute("update public.organizations set billing_email = %s where id = %s", [MARKS["email"], ACME])
        owner.execute(
            "insert into public.activity_logs (organization_id, user_id, action, resource_type, ip_address, user_agent)"
            " values (%s, %s, 'updated', 'tasks', %s, %s)",
            [ACME, who, MARKS["ip"], MARKS["agent"]],
        )
        owner.execute("insert into private.notification_preferences values (%s, 'crm.deal.won', true, 'OFF')", [who])
        owner.execute("insert into private.calendar_feeds values (%s, %s, %s)", [who, ACME, "c" * 64])
        owner.execute(
            "insert into private.emails (organization_id, user_id, address, kind, subject, content)"
            " values (%s, %s, null, 'crm.deal.won', 'Won', '{}'),"
            " (%s, null, %s, 'organization.member.invited', 'Join', '{}')",
            [ACME, who, ACME, MARKS["email"].upper()],
        )
        owner.execute(
            "insert into private.idempotency_keys (owner, operation, key, fingerprint, answer)"
            " values (%s, 'x', 'y', '', %s)",
            [str(who), json.dumps(MARKS)],
        )
        owner.execute(
            "insert into private.daily_counts (counter, subject_id, day, who, counted)"
            " values ('showcase_views', gen_random_uuid(), current_date, %s, 1)",
            [str(who)],
        )
    return fresh_database


def everything(connection: Connection) -> dict[str, list[str]]:
    """Table → its rows, as text."""
    tables = connection.execute(
        "select c.oid::regclass::text from pg_class c where c.relkind in ('r', 'p')"
        " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
    ).fetchall()
    return {
        name: [row for (row,) in connection.execute(f"select to_jsonb(t)::text from {name} t")] for (name,) in tables
    }


def delete_own(database: Database, person: str, confirm: str) -> dict[str, Any]:
    with database.connect("supabase_admin") as connection, connection.transaction():
        connection.execute("set local role strive_functions")
        claims = json.dumps({"sub": str(PEOPLE[person]), "role": "authenticated"})
        connection.execute(
            "select set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)",
            [claims, json.dumps({"x-real-ip": "198.51.100.1"})],
        )
        row = connection.execute("select private.delete_account(%s)", [json.dumps({"confirm": confirm})]).fetchone()
    assert row
    return dict(row[0])


def test_deletion_removes_personal_data_and_keeps_business_data(marked: Database) -> None:
    with marked.connect() as connection:
        before = everything(connection)
        deleted = {
            name.rpartition(".")[0].removeprefix("public.")
            for name, what in listed(connection).items()
            if what == "DELETE"
        }
        assert any(MARKS["name"] in row for row in before["users"])
    result = delete_own(marked, "member", MARKS["email"].upper())
    assert result["done"]["user_id"] == str(PEOPLE["member"])
    assert [(sync["deletion"], sync["user_id"]) for sync in result["syncs"]] == [(True, str(PEOPLE["member"]))]
    with marked.connect() as connection:
        after = everything(connection)
        left = [
            (name, row)
            for name, rows in after.items()
            for row in rows
            if any(mark.lower() in row.lower() for mark in (*MARKS.values(), "zebulon"))
        ]
        assert left == []
        fewer = {name for name, rows in after.items() if len(rows) < len(before[name])}
        assert fewer == deleted
        assert connection.execute(
            "select email, name, avatar_url, last_login_at, suspended_at, is_active, deleted_at is not null"
            " from public.users where id = %s",
            [PEOPLE["member"]],
        ).fetchone() == (f"{PEOPLE['member']}@deleted.invalid", None, None, None, None, False, True)
        authored = connection.execute(
            "select count(*) from public.activities where created_by_id = %s", [PEOPLE["member"]]
        ).fetchone()
        assert authored
        assert authored[0] > 0
    # Once more changes nothing.
    again = delete_own(marked, "member", "")
    assert again["done"] == result["done"]


def test_activity_log_redacts_only_deleted_accounts(marked: Database) -> None:
    with marked.connect() as connection:
        clear = "update public.activity_logs set ip_address = null where user_id = %s"
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            connection.execute(clear, [PEOPLE["member"]])
        connection.execute(
            "update public.users set is_active = false, deleted_at = now() where id = %s", [PEOPLE["member"]]
        )
        connection.execute(clear, [PEOPLE["member"]])
        for change in ("ip_address = '198.51.100.7'", "action = 'created'", "user_id = null", "created_at = now()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute(f"update public.activity_logs set {change} where user_id = %s", [PEOPLE["member"]])


def test_last_owner_cannot_leave_and_the_error_names_the_organization(fresh_database: Database) -> None:
    with pytest.raises(psycopg.Error, match="last owner") as caught:
        delete_own(fresh_database, "owner", "owner@strive.test")
    assert (caught.value.sqlstate, "Acme" in str(caught.value.diag.message_detail)) == ("PT409", True)
    assert "transfer_ownership" in str(caught.value.diag.message_hint)
    with fresh_database.connect() as connection:
        connection.execute(
            "update public.organization_members set role = 'OWNER' where user_id = %s", [PEOPLE["admin"]]
        )
    assert delete_own(fresh_database, "owner", "owner@strive.test")["done"]["deleted_at"]


def test_the_last_super_admin_stays(fresh_database: Database) -> None:
    with pytest.raises(psycopg.Error, match="last super admin"):
        delete_own(fresh_database, "super_admin", "super_admin@strive.test")


def test_only_the_right_address_confirms(database: Database) -> None:
    for wrong in ("", "member@strive.tes", "owner@strive.test", "%"):
        with pytest.raises(psycopg.Error, match="not the address") as caught:
            delete_own(database, "member", wrong)
        assert caught.value.sqlstate == "PT409"


def test_auth_does_not_write_an_address_back(fresh_database: Database) -> None:
    """Deleting softly, the auth service writes another address into its own row."""
    delete_own(fresh_database, "viewer", "viewer@strive.test")
    with fresh_database.connect() as connection:
        connection.execute(
            "update auth.users set email = 'viewer@strive.test', last_sign_in_at = now() where id = %s",
            [PEOPLE["viewer"]],
        )
        row = connection.execute("select email, last_login_at from public.users where id = %s", [PEOPLE["viewer"]])
        assert row.fetchone() == (f"{PEOPLE['viewer']}@deleted.invalid", None)
