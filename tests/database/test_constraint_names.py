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
            "A value is not accepted: organization name is 2 to 100 characters",
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
