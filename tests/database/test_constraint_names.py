"""Messages that clients get for refused values."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from shared.database import errors  # noqa: F401 - registers the database's errors
from shared.errors import ErrorResponse, error_response
from tests.local.api import Api, running
from tests.support.world import ACME, GLOBEX, Database, claims_of


def test_every_check_is_named_by_a_sentence(database: Database) -> None:
    with database.connect() as connection:
        names = connection.execute(
            "select conrelid::regclass::text, conname from pg_constraint where contype in ('c', 'x')"
            " and connamespace in ('public'::regnamespace, 'private'::regnamespace)"
            " and conname !~ '^[^ ]+( [^ ]+){2,}$'"
        ).fetchall()
    assert names == []


def refusal(database: Database, statement: str) -> ErrorResponse:
    with database.connect() as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(statement)
    return error_response(caught.value)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "update public.organizations set name = 'x'",
            'name: found "x", accepted: organization name is 2 to 100 characters',
        ),
        ("update public.organizations set name = null", "name is required, found null"),
        (f"update public.organizations set slug = 'globex' where id = '{ACME}'", "slug is already in use"),
        (
            f"insert into public.organization_members (user_id, organization_id) values ('{GLOBEX}', '{ACME}')",
            "user_id does not refer to an existing row",
        ),
    ],
)
def test_refused_value_names_its_field(database: Database, statement: str, message: str) -> None:
    response = refusal(database, statement)
    assert 400 <= response.status < 500
    assert message in response.message
    assert "constraint" not in response.message
    assert "relation" not in response.message
    assert "Failing row" not in str(response.details)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("create_capture_token('')", 'name: found "", accepted: name is 1 to 100 characters'),
        ("create_capture_token(null)", "name: found null, accepted: a value"),
        ("create_capture_token('a', per_minute => 0)", "per_minute: found 0, accepted: per_minute is 1 to 600"),
        ("""add_lead('{"name": ""}')""", 'name: found "", accepted: lead name is 1 to 255 characters'),
        (
            """add_lead('{"name": "a", "status": "OLD"}')""",
            'status: found "OLD", accepted: one of NEW_LEAD, IN_CONTACT',
        ),
        ("""add_contact('{"name": "a", "nose": 1}')""", "There is no such column to insert"),
        ("create_organization('abc', website => 'x')", 'website: found "x", accepted: website is an http(s) address'),
    ],
)
def test_operation_names_field_and_value(database: Database, operation: str, message: str) -> None:
    with database.acting_as("admin") as cursor, pytest.raises(psycopg.Error) as caught:
        cursor.execute(f"select public.{operation}")
    assert message in str(caught.value.diag.message_primary)
    assert "Failing row" not in str(caught.value.diag.message_detail)


@pytest.fixture(scope="module")
def api(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(database, tmp_path_factory.mktemp("api")) as api:
        yield api


MISSING = "00000000-0000-4000-8000-000000000000"
DUPLICATE = [{"name": "a", "id": MISSING}, {"name": "b", "id": MISSING}]


@pytest.mark.parametrize(
    ("table", "row", "status", "message"),
    [
        ("leads", {"name": "a", "score_value": 101}, 400, "score_value: found 101, accepted: score_value is 0 to 100"),
        ("leads", {"name": None}, 400, "name: found null, accepted: a value"),
        ("leads", {"name": "a", "tags": ["x" * 501]}, 400, "accepted: tags lists at most 100 texts of 500 characters"),
        (
            "appointments",
            {"title": "a", "type": "CALL", "start_time": "2027-01-02", "end_time": "2027-01-01"},
            400,
            'start_time: found "2027-01-02T00:00:00+00:00", end_time: found "2027-01-01T00:00:00+00:00", accepted: ',
        ),
        ("deals", {"title": "a", "value": -1}, 400, "value: found -1"),
        ("notes", {"body": "", "lead_id": MISSING}, 400, 'body: found ""'),
        ("notes", {"body": "a", "lead_id": MISSING}, 409, '"lead_id is the id of a row in leads"'),
        ("tasks", {"title": "a", "assigned_to": MISSING}, 409, '"assigned_to is a member of the organization"'),
        ("leads", DUPLICATE, 409, '"id is unique in leads"'),
    ],
)
def test_refused_row_of_data_api_says_what_is_accepted(
    api: Api, table: str, row: Any, status: int, message: str
) -> None:
    client = api.http(token=api.mint(**claims_of("admin", iss=f"{api.url}/auth/v1")))
    response = client.post(f"/rest/v1/{table}", json=row, headers={"x-org-id": str(ACME)})
    assert (response.status_code, message in response.json()["message"]) == (status, True), response.text
    assert "Failing row" not in response.text
