"""Attacks with SQL statements past the API: on roles, claims, schemas and the server itself."""

import json

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from tests.support.world import ACME, Connection, Database, become, claims_of


def rows(connection: Connection, table: str = "organizations") -> int:
    ((count,),) = connection.execute(f"select count(*) from public.{table}").fetchall()
    return int(count)


def test_attack_reuse_claims_of_a_pooled_connection(database: Database) -> None:
    with database.connect("authenticator") as connection:
        with connection.transaction():
            become(connection, "authenticated", claims_of("owner"), {"x-org-id": str(ACME)})
            assert rows(connection) == 1
        with connection.transaction():
            connection.execute("set local role authenticated")
            assert rows(connection) == 0
            assert connection.execute("select * from public.my_organizations()").fetchall() == []
        with connection.transaction():
            connection.execute("set local role authenticated")
            connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims_of("outsider"))])
            assert rows(connection) == 0
        with pytest.raises(InsufficientPrivilege):
            rows(connection)


def test_attack_a_failed_transaction_leaves_its_claims(database: Database) -> None:
    with database.connect("authenticator") as connection:
        connection.execute("begin")
        become(connection, "authenticated", claims_of("owner"), {})
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1/0")
        connection.execute("rollback")
        with connection.transaction():
            connection.execute("set local role authenticated")
            assert rows(connection) == 0


@pytest.mark.parametrize("role", ["service_role", "postgres", "supabase_admin", "supabase_auth_admin", "authenticator"])
def test_attack_the_login_of_the_functions_takes_another_role(database: Database, role: str) -> None:
    with database.connect() as connection:
        able = connection.execute("select pg_has_role('strive_functions', %s, 'member')", [role]).fetchone()
    assert able == (False,)


def test_attack_end_the_connections_of_others(database: Database) -> None:
    with (
        database.connect() as other,
        database.acting_as("owner") as cursor,
        pytest.raises(InsufficientPrivilege),
    ):
        cursor.execute("select pg_terminate_backend(%s)", [other.info.backend_pid])


@pytest.mark.parametrize(
    "statement",
    [
        "select * from auth.users",
        "select * from private.idempotency_keys",
        "select * from private.onboarding_steps",
        "select * from supabase_migrations.schema_migrations",
        "select * from pg_authid",
        "select passwd from pg_shadow",
        "select pg_read_file('postgresql.conf')",
        "select pg_ls_dir('.')",
        "copy (select 1) to program 'id'",
        "copy public.organizations to '/tmp/x'",
        "create table public.mine (id int)",
        "create function public.mine() returns int language sql as 'select 1'",
        "create schema mine",
        "create extension dblink",
        "alter table public.organizations disable row level security",
        "create policy mine on public.organizations for all to public using (true)",
        "truncate public.organizations cascade",
        "lock table public.organizations in access exclusive mode",
        "alter role authenticated bypassrls",
        "set local session_replication_role = replica",
        "set local role supabase_admin",
        "select lo_import('/etc/passwd')",
        "create trigger mine after insert on public.organizations execute function private.touch_updated_at()",
        "grant authenticated to authenticated",
    ],
)
def test_attack_perform_actions_of_the_owner(database: Database, statement: str) -> None:
    with database.acting_as("owner") as cursor, pytest.raises(psycopg.Error) as caught:
        cursor.execute(statement)
    assert caught.value.sqlstate in {"42501", "0LP01"}


def test_attack_see_others_through_row_security_off(database: Database) -> None:
    with database.acting_as("owner") as cursor:
        cursor.execute("set local row_security = off")
        with pytest.raises(InsufficientPrivilege):
            cursor.execute("select * from public.organizations")


SHADOWS = """
create temp table users as select auth.uid() as id, true as is_active, null::timestamptz as suspended_at,
  null::timestamptz as suspended_until, 'SUPER_ADMIN'::public."UserRole" as global_role;
create temp table organization_members as select auth.uid() as user_id, %(acme)s::uuid as organization_id,
  'OWNER'::public."OrgRole" as role, now() as joined_at;
create function pg_temp.current_user_org("OrgRole") returns uuid language sql as $$ select %(acme)s::uuid $$;
create function pg_temp.uid() returns uuid language sql as $$ select %(owner)s::uuid $$;
create function pg_temp.now() returns timestamptz language sql as $$ select '1970-01-01'::timestamptz $$;
"""


def test_attack_shadow_objects_of_the_policies(database: Database) -> None:
    with database.acting_as("outsider", org=ACME) as cursor:
        script = SHADOWS.replace("%(acme)s", f"'{ACME}'").replace("%(owner)s", f"'{claims_of('owner')['sub']}'")
        cursor.execute(script)
        cursor.execute("set local search_path = pg_temp, private, auth, public")
        assert rows(cursor.connection) == 0
        assert cursor.execute("select private.is_admin() as it").fetchall() == [{"it": False}]
        assert cursor.execute("select private.current_user_org() as it").fetchall() == [{"it": None}]


def test_attack_cheap_function_sees_rows_before_the_policy(database: Database) -> None:
    with database.acting_as("outsider") as cursor:
        cursor.execute(
            "create function pg_temp.seen(what text) returns boolean language plpgsql cost 0.0001 as"
            " $$ begin raise exception 'saw %', what; end $$"
        )
        for table, column in (("organizations", "name"), ("users", "email"), ("subscriptions", "id::text")):
            who = "" if table != "users" else "and id <> auth.uid()"
            assert cursor.execute(f"select from public.{table} where pg_temp.seen({column}) {who}").fetchall() == []


def test_attack_read_statistics_of_others(database: Database) -> None:
    with database.connect() as owner, database.acting_as("owner") as cursor:
        owner.execute("analyze")
        cursor.execute("select distinct tablename from pg_stats where schemaname in ('public', 'private')")
        # These are in the migrations: no secret.
        known = {"deal_stages", "lead_scores", "metric_columns", "metric_sources"}
        assert {row["tablename"] for row in cursor} == known


def test_attack_read_the_statements_of_others(database: Database) -> None:
    with database.connect() as other, database.acting_as("owner") as cursor:
        other.execute("select 'a secret of another session'")
        seen = cursor.execute("select query from pg_stat_activity where query like '%secret of another%'").fetchall()
        assert seen == []


def test_attack_attach_a_definer_trigger_to_an_own_table(database: Database) -> None:
    with database.connect() as connection:
        found = connection.execute(
            "select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace,"
            " unnest(array['anon', 'authenticated', 'public']) r where n.nspname in ('public', 'private')"
            " and p.prosecdef and p.prorettype = 'trigger'::regtype and has_function_privilege(r, p.oid, 'execute')"
        ).fetchall()
    assert found == []


def test_attack_call_the_token_hook_to_learn_where_others_belong(database: Database) -> None:
    with database.acting_as("owner") as cursor, pytest.raises(InsufficientPrivilege):
        cursor.execute("select private.custom_access_token_hook('{}')")
