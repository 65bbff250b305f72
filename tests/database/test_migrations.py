"""The migrations apply wherever Supabase runs: Postgres 17 and 15, as a role that is no superuser, by the real CLI."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import ROOT
from local import database as setup
from local.postgres import SUPERUSER, Cluster
from local.stack import free_port
from tests.support.supabase_cli import supabase
from tests.support.world import Connection, Database, populate

FILES = [path.name for _, _, path in setup.migrations()]

# All objects of the migrations, one line each. Postgres 17 has one more privilege (m, maintain) than 15.
FINGERPRINT = """
    with ours as (select oid from pg_namespace where nspname in ('public', 'private'))
    select format('column %s.%s %s %s %s %s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod),
      a.attnotnull, a.attacl, pg_get_expr(d.adbin, d.adrelid))
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace in (select oid from ours) and c.relkind in ('r', 'p', 'v', 'm')
    union all select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    from pg_constraint where connamespace in (select oid from ours) and contype in ('p', 'u', 'f', 'c')
    union all select format('index %s', pg_get_indexdef(oid)) from pg_class
    where relnamespace in (select oid from ours) and relkind = 'i'
    union all select format('trigger %s', pg_get_triggerdef(oid)) from pg_trigger where not tgisinternal
    union all select format('policy %s %s %s %s %s %s', polrelid::regclass, polname, polcmd, polroles::regrole[],
      pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) from pg_policy
    union all select format('function %s %s %s', oid::regprocedure, md5(prosrc), proacl) from pg_proc
    where pronamespace in (select oid from ours)
    union all select format('grants %s %s', oid::regclass, replace(relacl::text, 'arwdDxtm', 'arwdDxt'))
    from pg_class where relnamespace in (select oid from ours)
    union all select format('enum %s %s', enumtypid::regtype, string_agg(enumlabel, ',' order by enumsortorder))
    from pg_enum group by enumtypid
    union all select format('bucket %s %s %s %s', id, public, file_size_limit, allowed_mime_types) from storage.buckets
    union all select format('plan %s %s %s %s', tier, billing_cycle, amount_cents, limits) from public.plans
    union all select format('published %s', prrelid::regclass) from pg_publication_rel
"""


def fingerprint(connection: Connection) -> set[str]:
    return {line for (line,) in connection.execute(FINGERPRINT)}


def empty(cluster: Cluster, name: str) -> Database:
    """A new database as a hosted project begins: with Supabase's schemas, without ours."""
    with cluster.connect(SUPERUSER, "template1") as connection:
        connection.execute(f"create database {name} template template0")
    database = Database(cluster, name)
    with database.connect(SUPERUSER) as connection:
        setup.create_schemas(connection)
    return database


@pytest.fixture(scope="module")
def postgres_15(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not (ROOT / "node_modules/postgres-15").is_dir():
        pytest.skip("Postgres 15 is installed beside 17 only on Linux on x86-64")
    home = tmp_path_factory.mktemp("postgres-15")
    cluster = Cluster(home, free_port(), secrets.token_urlsafe(12), home / "log", durable=False, major=15)
    cluster.initialize()
    cluster.start()
    try:
        setup.create_roles(cluster)
        yield cluster
    finally:
        cluster.stop()


def apply(connection: Connection) -> list[str]:
    applied: list[str] = []
    setup.migrate(connection, applied.append)
    return applied


def test_migrations_apply_once_and_without_superuser(cluster: Cluster) -> None:
    with empty(cluster, "from_empty").connect() as connection:
        who = connection.execute("select current_user, rolsuper from pg_roles where rolname = current_user")
        assert who.fetchone() == ("postgres", False)
        assert apply(connection) == FILES
        made = fingerprint(connection)
        assert apply(connection) == []
        assert fingerprint(connection) == made
        foreign = connection.execute(
            "select oid::regclass::text from pg_class where relnamespace::regnamespace::text in ('public', 'private')"
            " and relowner <> 'postgres'::regrole"
        )
        assert foreign.fetchall() == []


def test_schema_is_the_same_on_postgres_15(postgres_15: Cluster, database: Database) -> None:
    with empty(postgres_15, "fifteen").connect() as connection, database.connect() as seventeen:
        assert connection.info.server_version // 10_000 == 15
        assert apply(connection) == FILES
        assert apply(connection) == []
        assert fingerprint(connection) == fingerprint(seventeen)
        setup.seed(connection)


def test_policies_hold_on_postgres_15(postgres_15: Cluster) -> None:
    database = empty(postgres_15, "fifteen_world")
    with database.connect() as connection:
        apply(connection)
        populate(connection)
    with database.acting_as("member") as cursor:
        assert [row["slug"] for row in cursor.execute("select slug from public.organizations")] == ["acme"]
        assert cursor.execute("update public.organizations set name = 'Mine'").rowcount == 0
    with database.acting_as("owner") as cursor:
        assert cursor.execute("update public.organizations set name = 'Ours'").rowcount == 1
    database.close_idle()


def test_supabase_cli_pushes_migrations_once(cluster: Cluster, database: Database, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "supabase", tmp_path / "supabase")
    target = empty(cluster, "pushed")
    first = supabase("db", "push", "--include-seed", database=target, home=tmp_path)
    assert first.returncode == 0, first.stderr
    second = supabase("db", "push", database=target, home=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "up to date" in second.stdout + second.stderr
    with target.connect() as pushed, database.connect() as ours:
        assert fingerprint(pushed) == fingerprint(ours)
        known = "select version from supabase_migrations.schema_migrations order by version"
        assert pushed.execute(known).fetchall() == ours.execute(known).fetchall()
        # The local stack and the CLI keep one history: each knows what the other has applied.
        assert apply(pushed) == []
