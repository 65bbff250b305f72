"""The calendar: invitations, changes and replies of attendees, and feeds for calendar programs."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from icalendar import Calendar

from tests.support.mail_server import Received, mail_server
from tests.support.responses import refused
from tests.support.serving import Serving, serving
from tests.support.statements import insert, meanwhile
from tests.support.statements import refused as refused_by_database
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

from tests.functions.test_emails import run_job, variables  # isort: skip

START = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
GUEST = "guest@visitor.test"


@pytest.fixture
def received() -> Received:
    return Received()


@pytest.fixture
def functions(fresh_database: Database, received: Received, tmp_path: Path) -> Iterator[Serving]:
    with mail_server(received) as smtp, serving(tmp_path, variables(fresh_database, smtp)) as functions:
        yield functions


def plan(database: Database, person: str = "member", start: datetime = START, **columns: Any) -> UUID:
    with database.acting_as(person, commit=True) as cursor:
        times = {"start_time": start, "end_time": start + timedelta(hours=1)}
        row = insert(cursor, "appointments", **{"title": "Visit", **times, **columns})
    id_: UUID = row["id"]
    return id_


def attend(database: Database, appointment: UUID, person: str = "member", **who: Any) -> UUID:
    with database.acting_as(person, commit=True) as cursor:
        id_: UUID = insert(cursor, "appointment_attendees", appointment_id=appointment, **who)["id"]
    return id_


def execute(database: Database, statement: str, *values: Any) -> Any:
    with database.connect() as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else None


def events(content: bytes) -> list[Any]:
    return list(Calendar.from_ical(content).walk("VEVENT"))


def attached(received: Received, number: int = -1) -> tuple[str, Any]:
    """Method and event of the calendar in an e-mail, which is there twice."""
    message = received.messages[number]
    (file,) = message.iter_attachments()
    assert (file.get_content_type(), file.get_filename()) == ("application/ics", "invite.ics")
    content = file.get_content()
    inline = [part for part in message.walk() if part.get_content_type() == "text/calendar"]
    assert inline[0].get_content().encode().replace(b"\r\n", b"\n") == content.replace(b"\r\n", b"\n")
    calendar = Calendar.from_ical(content)
    assert inline[0].get_param("method") == calendar["METHOD"]
    (event,) = calendar.walk("VEVENT")
    return str(calendar["METHOD"]), event


def link(received: Received, number: int = -1) -> str:
    body = received.messages[number].get_body(("plain",))
    assert body
    found = re.search(r"/functions/v1/answer-invitation\?token=\S+", body.get_content())
    assert found
    return found[0]


def reply(database: Database, attendee: UUID) -> str:
    ((found,),) = execute(database, "select reply::text from public.appointment_attendees where id = %s", attendee)
    return str(found)


# Attendees -----------------------------------------------------------------------------------------------------------


def test_attendees_get_invitation_changes_and_cancellation(
    functions: Serving, received: Received, fresh_database: Database
) -> None:
    with fresh_database.acting_as("member", commit=True) as cursor:
        cursor.execute("update public.users set time_zone = 'Asia/Tokyo' where id = %s", [PEOPLE["member"]])
        contact = insert(cursor, "contacts", name="Ada", email="ada@visitor.test")["id"]
    visit = plan(fresh_database, location="Elm 12, Austin")
    for who in ({"user_id": PEOPLE["admin"]}, {"contact_id": contact}, {"email": f" {GUEST.upper()} "}):
        attend(fresh_database, visit, **who)
    assert run_job(functions)["sent"] == 3
    assert sorted(received.recipients) == ["ada@visitor.test", "admin@strive.test", GUEST]
    for number in range(3):
        method, event = attached(received, number)
        assert (method, str(event["UID"]), event["SEQUENCE"]) == ("REQUEST", str(visit), 0)
        assert event["DTSTART"].dt == START
        assert str(event["ORGANIZER"]) == "mailto:member@strive.test"
        assert str(event["ATTENDEE"]) == f"mailto:{received.recipients[number]}"
        assert str(event["LOCATION"]) == "Elm 12, Austin"
        assert event["ATTENDEE"].params["RSVP"] == "FALSE"
        for kind in ("plain", "html"):
            body = received.messages[number].get_body((kind,))
            assert body
            assert "an answer from a calendar program is not counted" in body.get_content()
    guest = received.messages[received.recipients.index(GUEST)]
    text = guest.get_body(("plain",))
    assert text
    assert "(Asia/Tokyo)" in text.get_content()
    assert guest["Subject"] == "Invitation: Visit"
    execute(fresh_database, "update public.appointments set start_time = start_time + interval '5 minutes'")
    execute(fresh_database, "update public.appointments set description = 'x'")
    assert run_job(functions)["sent"] == 3
    method, event = attached(received)
    assert (method, event["SEQUENCE"], received.messages[-1]["Subject"]) == ("REQUEST", 1, "Changed: Visit")
    execute(fresh_database, "delete from public.appointments")
    assert run_job(functions)["sent"] == 3
    method, event = attached(received)
    assert (method, str(event["STATUS"]), event["SEQUENCE"]) == ("CANCEL", "CANCELLED", 3)
    assert received.messages[-1]["Subject"] == "Cancelled: Visit"


def test_newer_email_replaces_one_that_waits(functions: Serving, received: Received, fresh_database: Database) -> None:
    visit = plan(fresh_database)
    attend(fresh_database, visit, email=GUEST)
    for status in ("CONFIRMED", "CANCELLED"):
        execute(fresh_database, "update public.appointments set status = %s", status)
    assert run_job(functions)["sent"] == 1
    assert attached(received)[0] == "CANCEL"


def test_guest_answers_by_the_link(functions: Serving, received: Received, fresh_database: Database) -> None:
    guest = attend(fresh_database, plan(fresh_database), email=GUEST)
    run_job(functions)
    path = link(received)
    with httpx.Client(base_url=functions.url) as client:
        form = client.get(path)
        assert (form.status_code, form.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert reply(fresh_database, guest) == "PENDING", "a scanner that follows the link changes nothing"
        for answer in ("ACCEPTED", "DECLINED", "DECLINED", "ACCEPTED"):
            assert client.post(path, data={"reply": answer}).status_code == 200
            assert reply(fresh_database, guest) == answer
        refused(client.post(path, data={"reply": "PENDING"}), 422, "invalid_body")
    notices = execute(
        fresh_database,
        "select title from public.notifications where kind = 'work.appointment.answered' and user_id = %s order by 1",
        PEOPLE["member"],
    )
    assert notices == [("Accepted: Visit",), ("Declined: Visit",)], "once for each answer"
    execute(fresh_database, "update public.appointments set status = 'CANCELLED'")
    with httpx.Client(base_url=functions.url) as client:
        refused(client.post(path, data={"reply": "ACCEPTED"}), 410, "PT410")


def test_member_answers_for_themselves_alone(fresh_database: Database) -> None:
    visit = plan(fresh_database)
    mine, theirs = (attend(fresh_database, visit, user_id=PEOPLE[who]) for who in ("viewer", "admin"))
    with fresh_database.acting_as("viewer", commit=True) as cursor:
        cursor.execute("update public.appointment_attendees set reply = 'TENTATIVE'")
    assert (reply(fresh_database, mine), reply(fresh_database, theirs)) == ("TENTATIVE", "PENDING")


@pytest.mark.parametrize("change", ["other attendee", "other purpose", "garbage", "removed"])
def test_attack_answer_for_somebody_else(functions: Serving, fresh_database: Database, change: str) -> None:
    visit = plan(fresh_database)
    mine, other = (attend(fresh_database, visit, email=f"{who}@visitor.test") for who in ("a", "b"))
    sign = "select private.signed_token(%s, %s)"
    ((token,),) = execute(fresh_database, sign, "attendance", str(mine))
    ((foreign,),) = execute(fresh_database, sign, "unsubscribe", str(other))
    if change == "removed":
        execute(fresh_database, "delete from public.appointment_attendees where id = %s", mine)
    sent = {
        "other attendee": foreign.partition(".")[0] + "." + token.partition(".")[2],
        "other purpose": foreign,
        "garbage": "%00.é",
        "removed": token,
    }[change]
    with functions.client(None) as client:
        answer = client.post("/functions/v1/answer-invitation", json={"token": sent, "reply": "ACCEPTED"})
    refused(answer, 404, "PT404")
    assert reply(fresh_database, other) == "PENDING"


def test_attack_invite_without_end(fresh_database: Database) -> None:
    """50 attendees of an appointment, also if two people add them at once; 500 e-mails to strangers in a day."""
    visit = plan(fresh_database)
    for number in range(49):
        attend(fresh_database, visit, email=f"{number}@visitor.test")

    def add_another() -> None:
        with pytest.raises(psycopg.Error, match="at most 50 attendees"):
            attend(fresh_database, visit, email="51@visitor.test")

    with fresh_database.acting_as("member") as cursor:
        insert(cursor, "appointment_attendees", appointment_id=visit, email="50@visitor.test")
        meanwhile(fresh_database, cursor, add_another)
    execute(
        fresh_database,
        "insert into private.emails (organization_id, address, kind, subject, content)"
        " select %s, 'x@y.test', 'work.appointment.invited', 's', '{}' from generate_series(1, 450)",
        ACME,
    )
    other = plan(fresh_database)
    with fresh_database.acting_as("member") as cursor, refused_by_database("PT429", "Too many invitations"):
        insert(cursor, "appointment_attendees", appointment_id=other, email=GUEST)


def test_contact_without_an_address_or_wish_is_refused(fresh_database: Database) -> None:
    visit = plan(fresh_database)
    for columns in ({}, {"email": "a@b.test", "status": "DO_NOT_CONTACT"}):
        with fresh_database.acting_as("member") as cursor:
            contact = insert(cursor, "contacts", name="Ada", **columns)["id"]
            with refused_by_database("PT422", "cannot be invited"):
                insert(cursor, "appointment_attendees", appointment_id=visit, contact_id=contact)


def test_merged_contacts_attend_once(fresh_database: Database) -> None:
    visit, other = plan(fresh_database), plan(fresh_database)
    with fresh_database.acting_as("admin", commit=True) as cursor:
        people = [insert(cursor, "contacts", name=name, email=f"{name}@b.test")["id"] for name in ("a", "b", "c")]
    for person in people:
        attend(fresh_database, visit, contact_id=person)
    for person in people[1:]:
        attend(fresh_database, other, contact_id=person)
    with fresh_database.acting_as("admin", commit=True) as cursor:
        cursor.execute("select public.merge_contacts(%s, %s)", [people[0], people[1:]])
    found = execute(fresh_database, "select appointment_id, contact_id from public.appointment_attendees")
    assert sorted(found) == sorted([(visit, people[0]), (other, people[0])])


def test_restored_appointment_invites_again_with_a_later_revision(
    functions: Serving, received: Received, fresh_database: Database
) -> None:
    attend(fresh_database, plan(fresh_database), email=GUEST)
    execute(fresh_database, "delete from public.appointments")
    run_job(functions)
    cancelled = attached(received)[1]["SEQUENCE"]
    with fresh_database.acting_as("member", commit=True) as cursor:
        cursor.execute(
            "select public.restore_from_trash(array(select id from public.trash where kind = 'appointments'))"
        )
    run_job(functions)
    method, event = attached(received)
    assert (method, event["SEQUENCE"] > cancelled) == ("REQUEST", True)


# Feeds ---------------------------------------------------------------------------------------------------------------


def make_feed(database: Database, person: str = "member") -> str:
    with database.acting_as(person, commit=True) as cursor:
        row = cursor.execute("select public.create_calendar_feed() as feed").fetchone()
    assert row
    path: str = row["feed"]["path"]
    assert path.endswith(row["feed"]["token"])
    return path


def read(functions: Serving, path: str, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=functions.url, headers=headers) as client:
        return client.get(path)


def test_feed_has_what_the_person_is_assigned_to_or_attends(functions: Serving, fresh_database: Database) -> None:
    mine = plan(fresh_database, title="Mine; with, commas", meeting_url="https://meet.test/1")
    attended = plan(fresh_database, "admin", title="Attended")
    attend(fresh_database, attended, user_id=PEOPLE["member"])
    declined = plan(fresh_database, "admin")
    attend(fresh_database, declined, user_id=PEOPLE["member"])
    execute(
        fresh_database, "update public.appointment_attendees set reply = 'DECLINED' where appointment_id = %s", declined
    )
    plan(fresh_database, "admin", title="Not mine")
    plan(fresh_database, "globex_member", organization_id=GLOBEX, title="Theirs")
    for days in (-94, 364):
        plan(fresh_database, start=START + timedelta(days=days), title="Too far")
    off = plan(fresh_database, title="Off", status="CANCELLED")
    answer = read(functions, make_feed(fresh_database))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/calendar; charset=utf-8")
    found = {str(event["UID"]): event for event in events(answer.content)}
    assert set(found) == {str(mine), str(attended), str(off)}
    event = found[str(mine)]
    assert (str(event["SUMMARY"]), str(event["URL"])) == ("Mine; with, commas", "https://meet.test/1")
    assert (event["DTSTART"].dt, event["DTEND"].dt) == (START, START + timedelta(hours=1))
    assert (str(event["STATUS"]), str(found[str(off)]["STATUS"])) == ("TENTATIVE", "CANCELLED")
    assert all(len(line) <= 75 for line in answer.content.split(b"\r\n"))
    head = Calendar.from_ical(answer.content)
    assert (str(head["VERSION"]), str(head["METHOD"]), str(head["X-WR-CALNAME"])) == ("2.0", "PUBLISH", "Acme")


def test_unchanged_feed_is_304_and_a_change_counts_the_revision(functions: Serving, fresh_database: Database) -> None:
    visit = plan(fresh_database)
    path = make_feed(fresh_database)
    first = read(functions, path)
    tag = first.headers["etag"]
    for sent in (tag, f"W/{tag}"):
        again = read(functions, path, **{"if-none-match": sent})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    execute(fresh_database, "update public.appointments set title = 'Later' where id = %s", visit)
    changed = read(functions, path, **{"if-none-match": tag})
    (event,) = events(changed.content)
    assert (event["SEQUENCE"], str(event["SUMMARY"]), str(event["UID"])) == (1, "Later", str(visit))
    execute(fresh_database, "delete from public.appointments")
    assert events(read(functions, path, **{"if-none-match": changed.headers["etag"]}).content) == []


@pytest.mark.parametrize("change", ["replaced", "revoked", "removed", "suspended", "deleted"])
def test_feed_ends(functions: Serving, fresh_database: Database, change: str) -> None:
    plan(fresh_database)
    path = make_feed(fresh_database)
    assert read(functions, path).status_code == 200
    if change in {"replaced", "revoked"}:
        operation = {"replaced": "create_calendar_feed", "revoked": "revoke_calendar_feed"}[change]
        with fresh_database.acting_as("member", commit=True) as cursor:
            cursor.execute(f"select public.{operation}()")
    else:
        statement = {
            "removed": "delete from public.organization_members where user_id = %s",
            "suspended": "update public.users set suspended_at = now() where id = %s",
            "deleted": "update public.users set is_active = false, deleted_at = now() where id = %s",
        }[change]
        execute(fresh_database, statement, PEOPLE["member"])
    refused(read(functions, path), 404, "PT404")


def test_feed_shows_when_it_was_read_and_keeps_only_a_hash(functions: Serving, fresh_database: Database) -> None:
    def state() -> Any:
        with fresh_database.acting_as("member") as cursor:
            row = cursor.execute("select public.my_calendar_feed() as feed").fetchone()
        assert row
        return row["feed"]

    assert state() is None
    path = make_feed(fresh_database)
    assert state()["last_read_at"] is None
    read(functions, path)
    assert state()["last_read_at"]
    ((stored,),) = execute(fresh_database, "select f::text from private.calendar_feeds f")
    assert path.rpartition("=")[2] not in stored


def test_feed_is_bounded_to_the_next_thousand(functions: Serving, fresh_database: Database) -> None:
    execute(
        fresh_database,
        "insert into public.appointments (organization_id, assigned_to, title, start_time, end_time)"
        " select %s, %s, 'n ' || n, now() + n * interval '1 hour', now() + (n + 1) * interval '1 hour'"
        " from generate_series(-50, 1100) n where n <> 0",
        ACME,
        PEOPLE["member"],
    )
    titles = {str(event["SUMMARY"]) for event in events(read(functions, make_feed(fresh_database)).content)}
    assert titles == {f"n {n}" for n in range(1, 1001)}


@pytest.mark.parametrize("query", ["", "?token=", "?token=x", "?token=x&more=1", "?token=%00", f"?token={'x' * 200}"])
def test_attack_guess_the_address_of_a_feed(functions: Serving, query: str) -> None:
    answer = read(functions, f"/functions/v1/calendar{query}")
    assert answer.status_code in {400, 404, 422}, answer.text


def test_attack_inject_lines_into_a_calendar(functions: Serving, received: Received, fresh_database: Database) -> None:
    evil = "Visit\r\nATTENDEE:mailto:eve@evil.test\nEND:VEVENT\u2028X:1\x0bY"
    execute(fresh_database, "update public.users set name = %s where id = %s", 'Eve";X=1:\r\nZ:1', PEOPLE["member"])
    visit = plan(fresh_database, title=evil, location=evil, description=evil)
    attend(fresh_database, visit, email=GUEST)
    run_job(functions)
    _, mailed = attached(received)
    (fed,) = events(read(functions, make_feed(fresh_database)).content)
    for event in (mailed, fed):
        assert str(event["ORGANIZER"]) == "mailto:member@strive.test"
        assert "X" not in event
        assert "Z" not in event
        assert str(event.get("ATTENDEE", f"mailto:{GUEST}")) == f"mailto:{GUEST}"
        assert str(event["SUMMARY"]).startswith("Visit\n") or str(event["SUMMARY"]).startswith("Visit ")
