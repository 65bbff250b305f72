"""Messages that clients get for refused values."""

import psycopg
import pytest

from shared.database import errors  # noqa: F401 - registers the database's errors
from shared.errors import ErrorResponse, error_response
from tests.support.world import ACME, GLOBEX, Database


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
        ("create_capture_token(null)", "name: found null, expected a value"),
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
