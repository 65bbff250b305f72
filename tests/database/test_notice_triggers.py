"""What publishes events: assignments, closed deals, members, access, alerts, due tasks, weekly summaries."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.world import ACME, PEOPLE, Connection, Database

NAMES = {id_: name for name, id_ in PEOPLE.items()}


@contextmanager
def acting(database: Database, person: str | None) -> Iterator[Connection]:
    """As the owner of the tables, with the claims of this person: what policies allow is tested elsewhere."""
    with database.connect() as connection, connection.transaction(force_rollback=True):
        claims = json.dumps({"sub": str(PEOPLE[person])}) if person else ""
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        yield connection


def notified(connection: Connection, kind: str) -> list[tuple[str, str, str]]:
    """Person, title and message of each e-mail or notification of a kind."""
    rows = connection.execute(
        "select user_id, title, message from public.notifications where kind = %s union"
        " select user_id, subject, content ->> 'message' from private.emails where kind = %s order by 2, 3, 1",
        [kind, kind],
    ).fetchall()
    return [(NAMES[who], title, message) for who, title, message in rows]


ASSIGNABLE = {
    "leads": ("crm.lead.assigned", "assigned_to_id", "name, source", "'Ada', 'WEBSITE'"),
    "contacts": ("crm.contact.assigned", "assigned_to_id", "name", "'Ada'"),
    "deals": ("crm.deal.assigned", "assigned_to_id", "title, value, probability", "'Ada', 1, 10"),
    "listings": (
        "crm.listing.assigned",
        "assigned_to_id",
        "title, address, city, state, zip_code, price",
        "'Ada', '1 Elm', 'X', 'Y', '1', 1",
    ),
    "projects": ("work.project.assigned", "project_manager_id", "name", "'Ada'"),
    "tasks": ("work.task.assigned", "assigned_to", "title", "'Ada'"),
    "appointments": (
        "work.appointment.assigned",
        "assigned_to",
        "title, start_time, end_time",
        "'Ada', now(), now() + '1h'",
    ),
}


@pytest.mark.parametrize("table", ASSIGNABLE)
def test_assignee_is_notified_of_new_and_given_records(database: Database, table: str) -> None:
    kind, column, columns, values = ASSIGNABLE[table]
    with acting(database, "owner") as connection:
        for who in ("member", "owner", None):
            connection.execute(
                f"insert into public.{table} (organization_id, {column}, {columns}) values (%s, %s, {values})",
                [ACME, PEOPLE.get(who or "")],
            )
        title = f"{kind.split('.')[1].capitalize()} assigned to you"
        assert notified(connection, kind) == [("member", title, "Ada")]
        connection.execute(
            f"update public.{table} set {column} = %s where {column} = %s", [PEOPLE["admin"], PEOPLE["owner"]]
        )
        connection.execute(f"update public.{table} set updated_at = now()")
        assert set(notified(connection, kind)) == {("admin", title, "Ada"), ("member", title, "Ada")}


def test_many_records_of_one_statement_are_one_notice(database: Database) -> None:
    with acting(database, "owner") as connection:
        connection.execute(
            "insert into public.leads (organization_id, assigned_to_id, name)"
            " select %s, (array[%s, %s]::uuid[])[1 + n %% 2], 'Lead ' || n from generate_series(1, 12) n",
            [ACME, PEOPLE["member"], PEOPLE["admin"]],
        )
        assert sorted(notified(connection, "crm.lead.assigned")) == [
            ("admin", "6 leads assigned to you", "Lead 1, Lead 11, Lead 3, Lead 5, Lead 7, …"),
            ("member", "6 leads assigned to you", "Lead 10, Lead 12, Lead 2, Lead 4, Lead 6, …"),
        ]


def test_restored_record_is_announced_to_nobody(database: Database) -> None:
    with acting(database, "owner") as connection:
        connection.execute("set local strive.history_action = 'restored'")
        connection.execute(
            "insert into public.leads (organization_id, assigned_to_id, name) values (%s, %s, 'Ada')",
            [ACME, PEOPLE["member"]],
        )
        assert notified(connection, "crm.lead.assigned") == []


@pytest.mark.parametrize(
    ("stage", "kind", "title"),
    [("CLOSED_WON", "crm.deal.won", "Deal won: Elm 12"), ("CLOSED_LOST", "crm.deal.lost", "Deal lost: Elm 12")],
)
def test_owners_and_assignee_hear_of_a_closed_deal(database: Database, stage: str, kind: str, title: str) -> None:
    with acting(database, "admin") as connection:
        connection.execute(
            "insert into public.deals (organization_id, assigned_to_id, title, value) values (%s, %s, 'Elm 12', 5)",
            [ACME, PEOPLE["member"]],
        )
        connection.execute(
            "update public.deals set stage = %s, lost_reason = case %s when 'CLOSED_LOST' then 'Price' end",
            [stage, stage],
        )
        assert {row[:2] for row in notified(connection, kind)} == {("member", title), ("owner", title)}


def test_members_are_notified_of_role_changes_by_others(database: Database) -> None:
    with acting(database, "owner") as connection:
        change = "update public.organization_members set role = 'ADMIN' where user_id = %s"
        connection.execute(change, [PEOPLE["member"]])
        assert notified(connection, "organization.member.role_changed") == [
            ("member", "Your role in Acme changed", "You are ADMIN now; you were MEMBER.")
        ]
        connection.execute("delete from public.organization_members where user_id = %s", [PEOPLE["member"]])
        ((person, title, _),) = notified(connection, "organization.member.removed")
        assert (person, title) == ("member", "You were removed from Acme")
    with acting(database, "member") as connection:
        connection.execute("delete from public.organization_members where user_id = %s", [PEOPLE["member"]])
        assert notified(connection, "organization.member.removed") == []


def test_erased_organization_announces_nothing(database: Database) -> None:
    with acting(database, None) as connection:
        connection.execute("delete from public.organizations where id = %s", [ACME])
        assert connection.execute("select from private.emails").rowcount == 0


def test_suspension_and_its_end_are_announced(database: Database) -> None:
    with acting(database, "platform_admin") as connection:
        suspend = "update public.{} set suspended_at = now(), suspended_reason = 'Unpaid' where id = %s"
        connection.execute(suspend.format("organizations"), [ACME])
        connection.execute(suspend.format("users"), [PEOPLE["member"]])
        assert {row[0] for row in notified(connection, "organization.access.suspended")} == {"owner", "admin"}
        ((person, _, message),) = notified(connection, "account.access.suspended")
        assert (person, message.endswith("Unpaid")) == ("member", True)
        longer = "update public.users set suspended_until = '2030-01-01', suspended_reason = 'Spam' where id = %s"
        for _ in range(2):
            connection.execute(longer, [PEOPLE["member"]])
        texts = [row[2] for row in notified(connection, "account.access.suspended")]
        assert texts == ["It is suspended until Tue, 1 Jan 2030, 00:00 (UTC). Spam", message]
        connection.execute("update public.users set suspended_at = null where id = %s", [PEOPLE["member"]])
        assert [row[0] for row in notified(connection, "account.access.restored")] == ["member"]


def test_alert_of_level_error_is_mailed_to_whom_it_names(database: Database) -> None:
    add = (
        "insert into public.system_alerts"
        " (title, message, level, category, is_global, target_roles, target_orgs, created_by)"
        " values ('Down', 'The mail is down', %s, 'SYSTEM', %s, %s, %s, null)"
    )
    with acting(database, None) as connection:
        connection.execute(add, ["ERROR", True, [], []])
        connection.execute(add, ["WARNING", False, ["ADMIN"], []])
        assert notified(connection, "platform.alert.raised") == []
        connection.execute(add, ["ERROR", False, ["ADMIN", "USER"], [ACME]])
        assert {row[0] for row in notified(connection, "platform.alert.raised")} == {"platform_admin", "owner"}


@pytest.mark.parametrize(
    "change", ["", "is_active = false", "is_archived = true", "ends_at = starts_at + interval '1m'"]
)
def test_alert_is_mailed_once_when_it_begins(database: Database, change: str) -> None:
    claim = "select jsonb_array_length(private.claim_emails(10, '1m', now() + %s::interval))"
    with acting(database, None) as connection:
        connection.execute(
            "insert into public.system_alerts"
            " (title, message, level, category, target_orgs, created_by, starts_at, is_active)"
            " values ('Down', 'The mail will be down', 'ERROR', 'MAINTENANCE', %s, null, now() + '3 days', false)",
            [[ACME]],
        )
        assert notified(connection, "platform.alert.raised") == []
        for is_active in (True, False, True):
            connection.execute("update public.system_alerts set is_active = %s where title = 'Down'", [is_active])
        assert connection.execute(claim, ["2 days"]).fetchone() == (None,)
        if change:
            connection.execute(f"update public.system_alerts set {change} where title = 'Down'")
        assert connection.execute(claim, ["4 days"]).fetchone() == (0 if change else 1,)


def test_due_and_overdue_tasks_are_reported_once_per_date(database: Database) -> None:
    with acting(database, None) as connection:
        connection.execute(
            "insert into public.tasks (organization_id, title, due_date, assigned_to, created_by)"
            " values (%(org)s, 'Call', now() + '1h', %(who)s, null), (%(org)s, 'Ask', now() + '1h', null, %(by)s),"
            " (%(org)s, 'Later', now() + '3 days', %(who)s, null), (%(org)s, 'Nobody', now() + '1h', null, null)",
            {"org": ACME, "who": PEOPLE["member"], "by": PEOPLE["admin"]},
        )
        report = "select private.report_due_tasks(now() + %s::interval)"

        def reported(after: str) -> Any:
            row = connection.execute(report, [after]).fetchone()
            assert row
            return row[0]

        assert [reported("0"), reported("0"), reported("2 hours"), reported("2 hours")] == [2, 0, 2, 0]
        assert [row[:2] for row in notified(connection, "work.task.due")] == [
            ("admin", "Due soon: Ask"),
            ("member", "Due soon: Call"),
        ]
        connection.execute("update public.tasks set due_date = due_date + interval '1 day' where title = 'Call'")
        connection.execute("update public.tasks set status = 'DONE' where title = 'Ask'")
        assert reported("2 hours") == 1


def test_owners_get_the_past_week_once(database: Database) -> None:
    with acting(database, None) as connection:
        connection.execute("update public.organization_members set joined_at = '2026-03-03'")
        # Kathmandu is 5:45 ahead of UTC: its weeks begin and end that much earlier.
        connection.execute("update public.users set time_zone = 'Asia/Kathmandu' where id = %s", [PEOPLE["owner"]])
        connection.execute(
            "insert into public.leads (organization_id, name, created_at)"
            " select %s, 'A lead', unnest(%s::timestamptz[])",
            [ACME, ["2026-03-01 18:14Z", "2026-03-01 18:15Z", "2026-03-08 18:14Z", "2026-03-08 18:15Z"]],
        )
        send = "select private.send_weekly_summaries(%s)"
        due = ["2026-03-09 01:14Z", "2026-03-09 01:15Z", "2026-03-09 01:30Z", "2026-03-15 18:00Z"]
        assert [connection.execute(send, [moment]).fetchone() for moment in due] == [(0,), (1,), (0,), (0,)]
        ((person, title, message),) = notified(connection, "organization.summary.weekly")
        assert (person, title) == ("owner", "The week of Acme")
        assert message.startswith("2 new leads, 0 deals won")
        # An owner who moves to another time zone does not get the week again.
        connection.execute("update public.users set time_zone = 'America/Los_Angeles' where id = %s", [PEOPLE["owner"]])
        assert connection.execute(send, ["2026-03-09 16:00Z"]).fetchone() == (0,)
