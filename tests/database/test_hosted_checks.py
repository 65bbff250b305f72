"""The checks of a hosted project pass after the migrations, and each finds its defect."""

from collections.abc import Iterator

import pytest

from local.commands.doctor import HOSTED
from local.postgres import SUPERUSER
from tests.support.world import Connection, Database

EVE = "gen_random_uuid(), 'eve@strive.test'"


def failing(connection: Connection) -> list[str]:
    return [name for name, ok, _found, _advice in connection.execute(HOSTED.read_bytes()) if not ok]


@pytest.fixture(autouse=True, scope="module")
def slot(database: Database) -> Iterator[None]:
    """The replication slot that a deployment creates; no transaction that is rolled back can drop it."""
    with database.connect() as connection:
        connection.execute("select private.meter_reads()")
        yield
        connection.execute("select pg_drop_replication_slot(private.usage_slot())")


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("alter role authenticator reset pgrst.db_pre_request", "Requests to the data API are checked first"),
        ("alter role authenticator set pgrst.db_plan_enabled = 'true'", "The data API explains no plans"),
        ("alter role anon reset statement_timeout", "Statements of clients end"),
        ("drop trigger strive_guard_object on storage.objects", "Files keep the limits"),
        ("update storage.buckets set public = true where id = 'attachments'", "Buckets are as public"),
        ("alter table public.tasks replica identity full", "DELETE events of Realtime"),
        ("drop table realtime.messages cascade", "Channels of Realtime"),
        (
            f"insert into auth.users (id, email, created_at, email_confirmed_at) select {EVE}, now(), now()",
            "New accounts confirm",
        ),
        ("alter table public.leads disable row level security", "Every table has row level security"),
        ("grant select (id) on public.leads to anon", "Without a token, only published content"),
        ("grant execute on function public.my_account() to anon", "Without a token, no function"),
        ("grant truncate on public.leads to authenticated", "Clients cannot empty"),
        ("grant service_role to strive_functions", "The login of the functions"),
        (
            "alter table public.leads add extra jsonb; grant update (extra) on public.leads to authenticated",
            "Every column",
        ),
        (
            "create or replace function private.usage_slot() returns text language sql as $$ select 'another' $$",
            "Reads with API keys",
        ),
    ],
)
def test_an_unsafe_project_is_reported(database: Database, statement: str, check: str) -> None:
    with database.connect(SUPERUSER) as connection, connection.transaction(force_rollback=True):
        # The people of the tests were created without sign-up e-mails.
        connection.execute("update auth.users set created_at = now() - interval '1 year'")
        assert failing(connection) == []
        connection.execute(statement)
        (found,) = failing(connection)
        assert found.startswith(check)


def test_postgres_may_run_the_checks(database: Database) -> None:
    with database.connect() as connection:
        assert connection.execute(HOSTED.read_bytes()).rowcount == 15
