"""Reminders of appointments: who is reminded when, once, whatever changes in between."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.statements import Cursor, at_once, meanwhile, refused
from tests.support.world import ACME, PEOPLE, Connection, Database

DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)
START = NOW + 3 * DAY
REMIND = "select private.send_appointment_reminders(%s)"


@pytest.fixture
def connection(fresh_database: Database) -> Iterator[Connection]:
    with fresh_database.connect() as connection:
        yield connection


def plan(where: Connection | Cursor, start: datetime = START, **columns: Any) -> UUID:
    row = {"organization_id": ACME, "title": "Visit", "end_time": start + timedelta(hours=1), "start_time": start}
    row |= {"assigned_to": PEOPLE["member"]} | columns
    names, places = ", ".join(row), ", ".join(["%s"] * len(row))
    made = where.execute(f"insert into public.appointments ({names}) values ({places}) returning id", [*row.values()])
    found: Any = made.fetchone()
    id_: UUID = found["id"] if isinstance(found, dict) else found[0]
    return id_


def remind(connection: Connection, moment: datetime) -> int:
    row = connection.execute(REMIND, [moment]).fetchone()
    assert row
    return int(row[0])


def sent(connection: Connection, id_: UUID) -> dict[str, Any]:
    row = connection.execute("select reminders_sent from public.appointments where id = %s", [id_]).fetchone()
    assert row
    return dict(row[0] or {})


def notices(connection: Connection) -> list[UUID]:
    return [
        who
        for (who,) in connection.execute(
            "select user_id from public.notifications where kind = 'work.appointment.reminder' order by created_at"
        )
    ]


def mails(connection: Connection) -> list[str]:
    return [
        status
        for (status,) in connection.execute(
            "select status::text from private.emails where kind = 'work.appointment.reminder' order by created_at"
        )
    ]


def before(minutes: int, start: datetime = START) -> datetime:
    return start - timedelta(minutes=minutes)


def test_assignee_is_reminded_a_day_and_15_minutes_before(connection: Connection) -> None:
    id_ = plan(connection, location="Elm 12")
    moments = [before(1441), before(1440), before(16), before(15), before(14), START, START + DAY]
    assert [remind(connection, moment) for moment in moments for _ in range(2)] == [0, 0, 1, 0, 0, 0, 1, 0, *[0] * 6]
    assert sent(connection, id_) == {
        "1440": before(1440).strftime("%Y-%m-%dT%H:%M:%S+00:00"),
        "15": before(15).strftime("%Y-%m-%dT%H:%M:%S+00:00"),
    }
    assert notices(connection) == [PEOPLE["member"]] * 2
    row = connection.execute(
        "select title, message, action_url from public.notifications where kind = 'work.appointment.reminder' limit 1"
    ).fetchone()
    assert row
    assert (row[0], row[2]) == ("Reminder: Visit", f"/appointments/{id_}")
    assert row[1].endswith(f"{START:%H:%M} (UTC). Where: Elm 12.")


def test_own_and_single_choices_count(connection: Connection) -> None:
    connection.execute("update public.users set reminder_minutes = '{60}' where id = %s", [PEOPLE["member"]])
    usual, own, never = (plan(connection, reminder_minutes=each) for each in (None, [30, 10], []))
    assert [remind(connection, before(minutes)) for minutes in (1440, 60, 30, 15, 10, 0)] == [0, 1, 1, 0, 1, 0]
    assert [[*sent(connection, each)] for each in (usual, own, never)] == [["60"], ["10", "30"], []]


def test_late_run_sends_one_reminder_for_all(connection: Connection) -> None:
    id_ = plan(connection)
    assert [remind(connection, before(5)) for _ in range(2)] == [1, 0]
    assert sorted(sent(connection, id_)) == ["1440", "15"]


def test_times_that_had_passed_when_chosen_are_left_out(connection: Connection) -> None:
    now = datetime.now(UTC)  # NOW is when the file was collected, in a slow run long ago
    soon = now + timedelta(minutes=40)
    id_ = plan(connection, soon)
    assert remind(connection, now + timedelta(seconds=10)) == 0
    connection.execute("update public.users set reminder_minutes = '{300,20}' where id = %s", [PEOPLE["member"]])
    assert remind(connection, now + timedelta(seconds=10)) == 0
    assert [remind(connection, before(minutes, soon)) for minutes in (20, 15)] == [1, 0]
    assert [*sent(connection, id_)] == ["20"]


@pytest.mark.parametrize("people", [[], [PEOPLE["admin"]]])
def test_moved_appointment_is_reminded_of_again(connection: Connection, people: list[UUID]) -> None:
    id_ = plan(connection)
    assert remind(connection, before(1440)) == 1
    later = START + 5 * DAY
    connection.execute(
        "update public.appointments set start_time = %s, end_time = %s, assigned_to = %s where id = %s",
        [later, later + DAY, people[0] if people else PEOPLE["member"], id_],
    )
    assert mails(connection) == ["CANCELLED"], "what is not mailed yet is withdrawn"
    assert sent(connection, id_) == {}
    assert [remind(connection, before(15)), remind(connection, before(1440, later))] == [0, 1]
    assert notices(connection)[1:] == people or [PEOPLE["member"]]


@pytest.mark.parametrize(
    "change",
    [
        "update public.appointments set status = 'CANCELLED'",
        "update public.appointments set status = 'NO_SHOW'",
        "update public.appointments set status = 'COMPLETED'",
        "delete from public.appointments",
        "update public.appointments set assigned_to = null",
        "delete from public.organization_members where user_id = %(who)s",
        "update public.users set suspended_at = now() where id = %(who)s",
        "update public.users set is_active = false where id = %(who)s",
        "update public.organizations set closed_at = now()",
    ],
)
def test_nobody_is_reminded_of_what_does_not_concern_them(connection: Connection, change: str) -> None:
    id_ = plan(connection)
    connection.execute(change, {"who": PEOPLE["member"]})
    assert [remind(connection, before(minutes)) for minutes in (1440, 15)] == [0, 0]
    assert (notices(connection), mails(connection)) == ([], [])
    if "status" in change:
        connection.execute("update public.appointments set status = 'SCHEDULED' where id = %s", [id_])
        assert remind(connection, before(15)) == 1


def test_ended_suspension_counts_at_the_next_reminder(connection: Connection) -> None:
    plan(connection)
    until = before(720)
    connection.execute(
        "update public.users set suspended_at = now(), suspended_until = %s where id = %s", [until, PEOPLE["member"]]
    )
    assert [remind(connection, before(minutes)) for minutes in (1440, 15)] == [0, 1]


def test_restored_appointment_is_not_reminded_of_twice(connection: Connection) -> None:
    id_ = plan(connection)
    assert remind(connection, before(1440)) == 1
    connection.execute("delete from public.appointments where id = %s", [id_])
    assert mails(connection) == ["CANCELLED"]
    connection.execute("select set_config('strive.history_action', 'restored', false)")
    connection.execute("select private.restore_entry(t) from public.trash t")
    assert "1440" in sent(connection, id_)
    connection.execute("update public.appointments set start_time = start_time, title = 'Again' where id = %s", [id_])
    assert "1440" in sent(connection, id_)


@pytest.mark.parametrize("minutes", [[-1], [40321], [1, 2, 3, 4, 5, 6], [15, None]])
@pytest.mark.parametrize("table", ["users", "appointments"])
def test_attack_ask_for_endless_reminders(database: Database, table: str, minutes: list[int | None]) -> None:
    with database.acting_as("member") as cursor:
        plan(cursor)
        with refused("23514", "up to 5 numbers from 0 to 40320"):
            cursor.execute(f"update public.{table} set reminder_minutes = %s", [minutes])


def test_attack_write_what_the_server_keeps(database: Database) -> None:
    for column, value in (("reminders_sent", "{}"), ("next_reminder_at", "2027-01-01")):
        with database.acting_as("member") as cursor, refused("42501"):
            cursor.execute(f"update public.appointments set {column} = %s", [value])


# Races ---------------------------------------------------------------------------------------------------------------


def test_two_runs_at_once_remind_once(fresh_database: Database, connection: Connection) -> None:
    for _ in range(50):
        plan(connection)

    def run(_: int) -> int:
        with fresh_database.connect() as other:
            return remind(other, before(1440))

    assert sum(at_once(4, run)) + remind(connection, before(1440)) == 50
    assert len(notices(connection)) == len(mails(connection)) == 50


def test_cancellation_wins_over_a_reminder_that_waits(fresh_database: Database, connection: Connection) -> None:
    id_ = plan(connection)
    connection.execute("set lock_timeout = '10s'")
    with fresh_database.connect() as canceller:
        with canceller.transaction():
            canceller.execute("update public.appointments set status = 'CANCELLED' where id = %s", [id_])
            assert remind(connection, before(15)) == 0, "it is left to the next run"
        assert remind(connection, before(15)) == 0
    assert (notices(connection), mails(connection)) == ([], [])


def test_cancellation_withdraws_a_reminder_that_came_first(fresh_database: Database, connection: Connection) -> None:
    id_ = plan(connection)

    def cancel() -> None:
        with fresh_database.connect() as canceller:
            canceller.execute("update public.appointments set status = 'CANCELLED' where id = %s", [id_])

    with fresh_database.connect() as reminder:
        reminder.autocommit = False
        cursor = reminder.cursor()
        cursor.execute(REMIND, [before(15)])
        meanwhile(fresh_database, cursor, cancel)
    assert mails(connection) == ["CANCELLED"]


CHOOSE = "update public.users set reminder_minutes = '{60}' where id = %s"


@pytest.mark.parametrize("change", ["insert", "give", "move", "reopen", "as usual"])
@pytest.mark.parametrize("first", ["choice", "appointment"])
def test_choice_made_at_the_same_time_counts(
    fresh_database: Database, connection: Connection, first: str, change: str
) -> None:
    """Whichever commits first, the appointment is planned by the new choice."""
    states: dict[str, dict[str, Any]] = {
        "give": {"assigned_to": PEOPLE["admin"]},
        "reopen": {"status": "CANCELLED"},
        "as usual": {"reminder_minutes": [5]},
    }
    if change != "insert":
        plan(connection, **states.get(change, {}))
    statement = {
        "give": "assigned_to = %(who)s",
        "move": "start_time = start_time - interval '1 minute'",
        "reopen": "status = 'SCHEDULED'",
        "as usual": "reminder_minutes = null",
    }.get(change)

    def write(where: Connection) -> None:
        if statement:
            where.execute(f"update public.appointments set {statement}", {"who": PEOPLE["member"]})
        else:
            plan(where)

    def choose(where: Connection) -> None:
        where.execute(CHOOSE, [PEOPLE["member"]])

    def second() -> None:
        with fresh_database.connect() as other:
            (write if first == "choice" else choose)(other)

    with fresh_database.connect() as leading:
        leading.autocommit = False
        (choose if first == "choice" else write)(leading)
        meanwhile(fresh_database, leading.cursor(), second)
    row = connection.execute("select start_time - next_reminder_at from public.appointments").fetchone()
    assert row == (timedelta(hours=1),)


def test_choice_between_two_reminders_keeps_the_one_that_is_due(connection: Connection) -> None:
    now = datetime.now(UTC)
    soon = now + timedelta(minutes=30)
    id_ = plan(connection, soon)
    connection.execute(
        "update public.appointments set next_reminder_at = %s where id = %s", [now - timedelta(minutes=1), id_]
    )
    due = 30
    connection.execute(f"update public.users set reminder_minutes = '{{{due},10}}' where id = %s", [PEOPLE["member"]])
    assert [remind(connection, now + timedelta(minutes=minutes)) for minutes in (1, 2, 20)] == [1, 0, 1]


def test_killed_run_reminds_nobody_and_the_next_run_everybody(fresh_database: Database, connection: Connection) -> None:
    id_ = plan(connection)
    with fresh_database.connect() as dying:
        dying.autocommit = False
        dying.execute(REMIND, [before(1440)])
        connection.execute("select pg_terminate_backend(%s, 10000)", [dying.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            dying.commit()
    assert (notices(connection), mails(connection), sent(connection, id_)) == ([], [], {})
    assert remind(connection, before(1440)) == 1
    assert [*sent(connection, id_)] == ["1440"]
