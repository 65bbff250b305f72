"""record-activity: rows, permissions, and all-or-nothing writes."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.responses import refused
from tests.support.serving import ENTRY, Serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

ABOUT = ("lead", "contact", "deal", "listing")


@pytest.fixture(scope="module")
def things(database: Database) -> dict[str, UUID]:
    """One lead, contact, deal and listing of Acme, and a lead of Globex."""
    statements = {
        "lead": "insert into public.leads (organization_id, name) values (%s, 'Lena Lead') returning id",
        "contact": "insert into public.contacts (organization_id, name) values (%s, 'Carl Contact') returning id",
        "deal": "insert into public.deals (organization_id, title, value) values (%s, 'Big deal', 1) returning id",
        "listing": "insert into public.listings (organization_id, title, address, city, state, zip_code, property_type,"
        " price) values (%s, 'House', 'Street 1', 'Town', 'TX', '12345', 'RESIDENTIAL', 1) returning id",
    }
    with database.connect() as connection:
        made = {name: row[0] for name, sql in statements.items() if (row := connection.execute(sql, [ACME]).fetchone())}
        foreign = connection.execute(statements["lead"], [GLOBEX]).fetchone()
    assert foreign
    return made | {"foreign": foreign[0]}


def row(database: Database, table: str, key: object) -> dict[str, Any]:
    with database.acting_as("member") as cursor:
        found = cursor.execute(f"select * from public.{table} where id = %s", [key]).fetchone()
    assert found
    return found


def total(database: Database) -> tuple[Any, ...] | None:
    with database.connect() as connection:
        return connection.execute(
            "select (select count(*) from public.activities), (select count(*) from public.activity_feeds)"
        ).fetchone()


def test_feed_entry_has_the_caller_as_author(functions: Serving, database: Database) -> None:
    answer = functions.record(ENTRY | {"metadata": {"to": ["a", 1.5, None]}, "severity": "WARNING", "description": "d"})
    assert answer.status_code == 201
    written = row(database, "activity_feeds", answer.json()["feed_id"])
    assert written["organization_id"] == ACME
    assert written["user_id"] == PEOPLE["member"]
    assert written["metadata"] == {"to": ["a", 1.5, None]}
    stored = {name: written[name] for name in ("type", "title", "entity_type", "entity_id", "action")}
    assert stored == ENTRY
    assert (written["severity"], written["description"]) == ("WARNING", "d")
    result = answer.json()
    assert datetime.fromisoformat(result.pop("created_at")) == written["created_at"]
    assert result == {"activity_id": None, "feed_id": str(written["id"]), "organization_id": str(ACME)}


@pytest.mark.parametrize("about", ABOUT)
def test_an_activity_is_written_with_its_feed_entry(
    functions: Serving, database: Database, things: dict[str, UUID], about: str
) -> None:
    body = {
        "type": "CALL",
        "title": "Called",
        "outcome": "agreed",
        "duration_minutes": 5,
        f"{about}_id": str(things[about]),
    }
    answer = functions.record(body)
    assert answer.status_code == 201, answer.text
    activity = row(database, "activities", answer.json()["activity_id"])
    feed = row(database, "activity_feeds", answer.json()["feed_id"])
    assert (activity["type"], activity["title"], activity["outcome"], activity["duration_minutes"]) == (
        "CALL",
        "Called",
        "agreed",
        5,
    )
    assert (activity["created_by_id"], activity[f"{about}_id"]) == (PEOPLE["member"], things[about])
    assert (feed["entity_type"], feed["entity_id"], feed["action"]) == (about, str(things[about]), "call")
    assert feed["metadata"] == {"activity_id": answer.json()["activity_id"]}


def test_contact_moves_last_contact_at_forward_and_notes_do_not(
    functions: Serving, database: Database, things: dict[str, UUID]
) -> None:
    def last_contact() -> datetime | None:
        found: datetime | None = row(database, "contacts", things["contact"])["last_contact_at"]
        return found

    about = {"title": "t", "contact_id": str(things["contact"])}
    with database.connect() as connection:
        connection.execute("update public.contacts set last_contact_at = null where id = %s", [things["contact"]])
    functions.record({"type": "NOTE", **about})
    functions.record({"type": "CALL", "completed_at": None, **about})  # planned
    assert last_contact() is None
    yesterday = datetime.now(UTC) - timedelta(days=1)
    functions.record({"type": "EMAIL", "completed_at": yesterday.isoformat(), **about})
    assert last_contact() == yesterday
    functions.record({"type": "MEETING", "completed_at": (yesterday - timedelta(days=9)).isoformat(), **about})
    assert last_contact() == yesterday
    functions.record({"type": "CALL", **about})
    assert (now := last_contact())
    assert now > yesterday


def test_activity_needs_a_subject(functions: Serving) -> None:
    answer = refused(functions.record({"type": "CALL", "title": "Nobody"}), 422, "invalid_body")
    assert "lead_id" in answer.json()["details"][0]["problem"]


def test_attack_record_on_another_organizations_lead(
    functions: Serving, database: Database, things: dict[str, UUID]
) -> None:
    """The same response as for a lead that does not exist."""
    before = total(database)
    foreign = functions.record({"type": "CALL", "title": "t", "lead_id": str(things["foreign"])})
    nowhere = functions.record({"type": "CALL", "title": "t", "lead_id": str(PEOPLE["member"])})
    for answer in (foreign, nowhere):
        refused(answer, 404, "PT404")
    result = foreign.json()["details"].replace(str(things["foreign"]), "?")
    assert result == nowhere.json()["details"].replace(str(PEOPLE["member"]), "?")
    assert total(database) == before


def test_attack_write_as_another_user(functions: Serving) -> None:
    for field in ("user_id", "created_by_id", "organization_id", "id", "created_at", "is_read"):
        refused(functions.record(ENTRY | {field: str(PEOPLE["owner"])}), 422, "invalid_body")


def test_500_activities_are_recorded_in_order(functions: Serving, database: Database, things: dict[str, UUID]) -> None:
    call = {"type": "CALL", "title": "Called", "lead_id": str(things["lead"])}
    before = total(database)
    assert before
    answer = functions.record({"activities": [call, ENTRY] * 250})
    assert answer.status_code == 201
    recorded = answer.json()["activities"]
    assert len(recorded) == 500
    assert [bool(one["activity_id"]) for one in recorded] == [True, False] * 250
    assert total(database) == (before[0] + 250, before[1] + 500)


def test_one_invalid_activity_records_none(functions: Serving, database: Database, things: dict[str, UUID]) -> None:
    before = total(database)
    wrong = {"type": "CALL", "title": "t", "lead_id": str(things["foreign"])}
    refused(functions.record({"activities": [*[ENTRY] * 100, wrong]}), 404, "PT404")
    refused(functions.record({"activities": [ENTRY] * 501}), 422, "invalid_body")
    refused(functions.record({"activities": []}), 422, "invalid_body")
    assert total(database) == before


def test_what_is_recorded_is_announced_to_realtime(database: Database) -> None:
    with database.connect() as connection:
        published = connection.execute(
            "select true from pg_publication_tables"
            " where pubname = 'supabase_realtime' and tablename = 'activity_feeds'"
        ).fetchone()
    assert published == (True,)


@pytest.mark.parametrize(
    ("activity", "state"),
    [
        ('"hello"', "PT400"),
        ("null", "PT400"),
        ('{"type": "CALL", "title": "t", "user_id": "x"}', "PT400"),
        ('{"type": "LOUD", "title": "t", "entity_type": "a", "entity_id": "b", "action": "c"}', "22P02"),
        ('{"type": "USER_ACTION", "entity_type": "a", "entity_id": "b", "action": "c"}', "23502"),
        ('{"type": "USER_ACTION", "title": "", "entity_type": "a", "entity_id": "b", "action": "c"}', "23514"),
        ('{"activities": "many"}', "PT422"),
        ('{"type": "CALL", "title": "Nobody"}', "PT422"),
        ('{"activities": []}', "PT422"),
        ('{"activities": [1]}', "PT400"),
        ('{"activities": [], "more": 1}', "PT400"),
    ],
)
def test_database_validates_without_the_function(database: Database, activity: str, state: str) -> None:
    """record_activity() can be called at /rest/v1/rpc too, without the model of the function."""
    with database.acting_as("member") as cursor, pytest.raises(psycopg.Error) as caught:
        cursor.execute("select public.record_activity(%s::jsonb)", [activity])
    assert caught.value.sqlstate == state
