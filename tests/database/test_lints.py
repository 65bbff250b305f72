"""The schema passes all rules, and each rule finds its planted defect."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import ROOT
from local.database import MIGRATIONS
from tests.database.lint import Rule, advisors, ground, prepare, tenancy
from tests.support.supabase_cli import supabase
from tests.support.world import Connection, Database

RULES = [*advisors.RULES, *tenancy.RULES, *ground.RULES]

# (rule, offence) → why it is accepted. Entries that are no longer found must be removed.
ACCEPTED: dict[tuple[str, str], str] = {
    ("a policy compares a column without an index", "public.plans.tier"): "a table of ten rows",
    ("an id is no uuid", "public.stripe_events.id"): "Stripe's own id is what makes a delivery count once",
    ("an id is no uuid", "public.stripe_objects.id"): "as above",
    ("organization_id is no key to organizations that goes with them", "public.onboarding_sessions.organization_id"): (
        "it makes the organization at its end, and belongs to a user"
    ),
    ("a tenant's row may have no tenant", "public.onboarding_sessions.organization_id"): "as above",
    ("a tenant's row may have no tenant", "public.agent_templates.organization_id"): "null is a template of the system",
    ("a tenant's row may have no tenant", "public.dashboard_metrics.organization_id"): "null is a metric of the system",
    ("a tenant's row may have no tenant", "public.quick_actions.organization_id"): "null is an action of the system",
    ("a policy is for another role than authenticated", "public.content: anyone reads published content to anon"): (
        "published content is for anyone"
    ),
    (
        "a key between tenants' tables does not carry the tenant",
        "public.template_reviews: template_id is the id of a row in agent_templates",
    ): ("another organization's public template may be reviewed"),
    (
        "a child of a tenant's table does not carry the tenant",
        "public.showcase_likes: showcase_likes_showcase_id_fkey",
    ): ("any signed-in user may like a public showcase"),
    (
        "a child of a tenant's table does not carry the tenant",
        "public.refunds_due: refunds_due_onboarding_session_id_fkey",
    ): "most sessions never create an organization; only platform admins read them",
    ("a column that clients write is not bounded", "public.feature_flag_group_members.value"): (
        "a check of its own: a text of 300 characters or a number"
    ),
    ("a client reads or writes a private table", "private.deal_stages by authenticated"): "constants of the domain",
    ("a client reads or writes a private table", "private.lead_scores by authenticated"): "constants of the domain",
    ("a client reads or writes a private table", "private.metric_columns by authenticated"): "what a metric may name",
    ("a client reads or writes a private table", "private.metric_sources by authenticated"): "what a metric may name",
}


@pytest.fixture(scope="module")
def catalog(database: Database) -> Iterator[Connection]:
    with database.connect("supabase_admin") as connection:
        prepare(connection)
        yield connection


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_schema_has_no_offence_against(rule: Rule, catalog: Connection) -> None:
    accepted = {offence for name, offence in ACCEPTED if name == rule.name}
    assert set(rule.offences(catalog)) == accepted


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_planted_defect_is_found_by(rule: Rule, catalog: Connection) -> None:
    before = set(rule.offences(catalog))
    with catalog.transaction(force_rollback=True):
        catalog.execute(rule.defect)
        found = set(rule.offences(catalog)) - before
        assert len(found) >= 1


# Supabase's own advisors --------------------------------------------------------------------------------------------

# It reports unused indexes, not defects of the schema.
TRAFFIC = {"unused_index"}
# Rules of the dashboard which this release of the CLI does not have.
NEWER = {
    "invalid_index",
    "public_bucket_allows_listing",
    "rls_policy_null_auth_disjunct",
    "security_definer_function_executable",
}
BLOAT = (
    "create table public.bloat (id int primary key, filler text)",
    "alter table public.bloat alter filler set storage plain",
    "insert into public.bloat select n, repeat('x', 6000) from generate_series(1, 4000) n",
    "delete from public.bloat where id < 4000",
    "analyze public.bloat",
)


def advise(database: Database, home: Path) -> dict[str, list[str]]:
    """What Supabase's own advisors find, by name."""
    flags = ["--type", "all", "--level", "info", "--fail-on", "none", "--output-format", "json"]
    run = supabase("db", "advisors", *flags, database=database, home=home)
    assert run.returncode == 0, run.stderr
    found: dict[str, list[str]] = {}
    for advice in json.loads(run.stdout)["results"]:
        found.setdefault(advice["name"], []).append(advice["detail"])
    return found


def expose(database: Database, schemas: str) -> None:
    """Some rules look only at schemas of the API, and find nothing where these are not set."""
    with database.connect("supabase_admin") as connection:
        connection.execute(f"alter database {database.name} set pgrst.db_schemas = '{schemas}'")


def test_supabases_own_advisors_find_nothing(database: Database, tmp_path: Path) -> None:
    expose(database, "public")
    found = advise(database, tmp_path)
    assert {name: details for name, details in found.items() if name not in TRAFFIC} == {}


def test_supabase_advisors_find_every_planted_defect(fresh_database: Database, tmp_path: Path) -> None:
    expose(fresh_database, "public,pgmq_public")
    with fresh_database.connect("supabase_admin") as connection:
        for number, rule in enumerate(advisors.RULES):
            connection.execute(rule.defect.replace("defect", f"defect_{number}"))
        for statement in BLOAT:
            connection.execute(statement)
    expected = {rule.name for rule in advisors.RULES} - NEWER | TRAFFIC | {"table_bloat"}
    assert set(advise(fresh_database, tmp_path)) == expected


# The text of the migrations, the bodies of the functions --------------------------------------------------------------


def squawk(*paths: Path) -> tuple[int, str]:
    words: list[str | Path] = [
        Path(sys.executable).with_name("squawk"),
        "--config",
        ROOT / ".squawk.toml",
        "--reporter",
        "gcc",
        *paths,
    ]
    run = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    return run.returncode, run.stdout


def test_squawk_finds_nothing_in_the_migrations() -> None:
    assert squawk(*sorted(MIGRATIONS.glob("*.sql"))) == (0, "")


def test_squawk_finds_a_planted_defect(tmp_path: Path) -> None:
    migration = tmp_path / "20990101000000_defect.sql"
    migration.write_text(
        "alter table public.users alter column name type varchar(255);\ncreate table loose (id uuid);\n"
    )
    code, output = squawk(migration)
    assert code == 1
    assert "changing-column-type" in output
    assert "require-table-schema" in output


BODIES = """
    select format('%s: %s', f.label, c.message) from functions f join pg_proc p on p.oid = f.oid
    join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
    left join pg_trigger t on t.tgfoid = p.oid and not t.tgisinternal,
    lateral extensions.plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid, 0), fatal_errors => false) c
    where c.level = 'error'
      -- It first checks whether pg_cron exists.
      and not (f.name = 'schedule_jobs' and to_regnamespace('cron') is null)
"""


def test_plpgsql_check_finds_nothing_in_the_functions(catalog: Connection) -> None:
    there = catalog.execute("select from pg_available_extensions where name = 'plpgsql_check'").rowcount
    if not there:
        pytest.skip("plpgsql_check is not among the extensions of this Postgres")
    with catalog.transaction(force_rollback=True):
        catalog.execute("create extension if not exists plpgsql_check with schema extensions")
        assert catalog.execute(BODIES).fetchall() == []
        catalog.execute(
            "create function private.defect() returns void language plpgsql set search_path = ''"
            " as 'begin perform missing from public.users; end'"
        )
        assert catalog.execute(BODIES).rowcount == 1
