"""export-organization and its restore: complete for every table, and readable by authorized people only."""

import csv
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest

from shared.administration.restore import RestoreError, restore
from tests.database.isolation.matrix import Matrix
from tests.local.api import Api, running
from tests.support.responses import refused
from tests.support.serving import NO_TLS, Serving, environment, serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database, claims_of

EXPORT = "/functions/v1/export-organization"
# Tables without rows of an organization, with the reason. A new table is either exported or listed here.
OF_THE_PLATFORM = {
    "public": "admin_action_logs ai_tools feature_flag_exposures feature_flag_group_members feature_flag_groups"
    " feature_flags plans platform_metrics refunds_due platform_revenue"
    " stripe_events stripe_objects stripe_tasks system_alert_dismissals system_alert_views system_alerts"
    " user_dashboards users",
    "private": "admin_operations api_key_operations api_key_tables metered_resources"
    " auth_syncs broadcast_channels column_bounds daily_counts deal_stages files_to_delete email_suppressions emails"
    " event_kinds exports"
    " feature_flag_group_uses"
    " feature_flag_versions foreign_stripe_keys idempotency_keys impersonations"
    " job_runs jobs lead_scores metric_columns metric_sources notification_preferences onboarding_counts"
    " onboarding_steps order_moves organization_moves"
    " payment_moves payment_statuses personal_columns plan_prices reporting_rates"
    " row_counts row_quotas sign_in_days stripe_account"
    " subscription_statuses system_alert_tallies tallies template_search unsubscribe_key usage_entries usage_position",
}

# Their rows come from Stripe events, and this database has none.
FROM_STRIPE = {"private.billing_customers", "private.checkouts", "private.closed_customers"}


@dataclass(frozen=True)
class Exporting:
    """A database with rows in every table, the API in front of it, and the functions."""

    database: Database
    api: Api
    functions: Serving

    def token(self, person: str, **claims: Any) -> str:
        return self.api.mint(**claims_of(person, iss=f"{self.api.url}/auth/v1", **claims))

    def request(
        self, person: str, organization: object = ACME, token: str | None = None, **body: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {token or self.token(person)}"}
        with self.functions.client(None, **headers) as client:
            return client.post(EXPORT, json={"organization_id": str(organization), **body}, timeout=120)

    def fetched(self, export: dict[str, Any], folder: Path) -> dict[str, Any]:
        """All files by their signed addresses, without any key; returns the manifest."""
        folder.mkdir()
        with httpx.Client(verify=NO_TLS) as client:
            manifest = client.get(export["manifest_url"]).content
            assert hashlib.sha256(manifest).hexdigest() == export["manifest_sha256"]
            (folder / "manifest.json").write_bytes(manifest)
            for file in export["files"]:
                content = client.get(file["url"]).content
                assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
                (folder / file["name"]).write_bytes(content)
        read: dict[str, Any] = json.loads(manifest)
        return read


@pytest.fixture(scope="module")
def exporting(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Exporting]:
    home = tmp_path_factory.mktemp("exporting")
    with database.connect("supabase_admin") as superuser, database.connect() as owner:
        Matrix(superuser).populate(owner)
        owner.execute(
            "with token as (insert into private.capture_tokens"
            " (organization_id, name, token_hash, source, assigned_to_id, per_minute)"
            " values (%s, 'Home', repeat('a', 64), 'WEBSITE', %s, 60) returning id)"
            " insert into private.capture_counts select id, '203.0.113.7', now(), 3 from token",
            [ACME, PEOPLE["member"]],
        )
        owner.execute(
            "update public.onboarding_sessions set organization_id = %s where user_id = %s", [ACME, PEOPLE["member"]]
        )
        owner.execute(
            "insert into private.onboarding_payments"
            " (session_id, attempt, tier, billing_cycle, stripe_price_id, amount_cents, currency)"
            " select id, 1, 'GROWTH', 'MONTHLY', 'price_1', 69900, 'usd' from public.onboarding_sessions"
            " where organization_id = %s",
            [ACME],
        )
        owner.execute(
            "insert into private.archived_activity_logs (organization_id, action, resource_type, created_at)"
            " values (%s, 'updated', 'leads', now() - interval '3 years')",
            [ACME],
        )
        owner.execute(
            "insert into private.former_customers (stripe_customer_id, organization_id) values ('cus_before', %s)",
            [ACME],
        )
        owner.execute(
            "insert into private.webhook_secrets (endpoint_id, secret)"
            " select id, 'whsec_00' from public.webhook_endpoints where organization_id = %s",
            [ACME],
        )
        owner.execute(
            "insert into private.notification_defaults values (%s, 'crm.deal.won', true, 'OFF')",
            [ACME],
        )
        owner.execute(
            "select private.publish_event('work.task.due', %s, 'task', null, 'a', 'b', '{}', dedupe_key => 'once')",
            [ACME],
        )
        owner.execute(
            "insert into private.calendar_feeds (user_id, organization_id, token_hash)"
            " select user_id, organization_id, repeat('c', 64) from public.organization_members"
            " where organization_id = %s limit 1",
            [ACME],
        )
        owner.execute(
            "insert into private.matches (organization_id, listing_id, buyer_id)"
            " select organization_id, id, id from public.listings where organization_id = %s",
            [ACME],
        )
    with running(database, home / "api") as api:
        own = {
            "SUPABASE_URL": api.url,
            "SUPABASE_SECRET_KEYS": "",
            "SUPABASE_SECRET_KEY": api.keys.secret_key,
            "SUPABASE_JWKS": "",
        }
        with serving(home, environment(database_url, **own)) as functions:
            yield Exporting(database, api, functions)


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows_of(connection: Connection, organization: object) -> dict[str, list[str]]:
    """Every row of the organization, as Postgres itself writes rows down."""
    relations = connection.execute("select relation::text, condition from private.export_relations()").fetchall()
    return {
        relation: [
            text
            for (text,) in connection.execute(
                f"select t::text from {relation} t where {condition.replace('$1', '%s')} order by 1", [organization]
            )
        ]
        for relation, condition in relations
    }


def test_restored_organization_has_every_row(exporting: Exporting, fresh_database: Database, tmp_path: Path) -> None:
    with exporting.database.connect() as connection:
        before = rows_of(connection, ACME)  # the owners are notified of the export afterwards
        kept = {name: len(rows) for name, rows in before.items()}
    export = ok(exporting.request("super_admin"))
    manifest = exporting.fetched(export, tmp_path / "export")
    with exporting.database.connect() as connection:
        said = connection.execute(
            "select user_id, message from public.notifications where kind = 'organization.export.ready'"
            " order by created_at desc limit 1"
        ).fetchone()
        assert said
        assert (said[0], said[1].startswith("Support exported ")) == (PEOPLE["owner"], True)
    assert {
        name for name, rows in before.items() if not rows
    } == FROM_STRIPE  # a table without rows would prove nothing
    assert sum(kept.values()) + len(PEOPLE) >= sum(table["rows"] for table in manifest["tables"]) - 50
    # Another database, without the organization and its people.
    with fresh_database.connect() as connection:
        connection.execute("delete from public.organizations where id = %s", [ACME])
        connection.execute("delete from auth.users where id = any (%s)", [[PEOPLE["member"], PEOPLE["viewer"]]])
        _bring_neighbours(exporting.database, connection)
        rows = restore(connection, tmp_path / "export")
        after = rows_of(connection, ACME)
        assert after == before
        assert {name.removeprefix("public."): count for name, count in rows.items()} == kept
        logged = connection.execute(
            "select action, success from public.admin_action_logs where target_id = %s", [str(ACME)]
        ).fetchall()
        assert logged == [("ORG_CREATE", True)]
        person = connection.execute("select email from public.users where id = %s", [PEOPLE["member"]]).fetchone()
        assert person == ("member@strive.test",)
        # Once more it is not empty.
        with pytest.raises(RestoreError, match="not empty"):
            restore(connection, tmp_path / "export")
        assert rows_of(connection, ACME) == before


def _bring_neighbours(source: Database, connection: Connection) -> None:
    """What rows of Acme point to beyond it: public templates of others and of the system, and people of the proof."""
    with source.connect() as origin, connection.transaction():
        connection.execute("set local session_replication_role = replica")
        for table, condition in (
            ("auth.users", "true"),
            ("public.users", "true"),
            ("public.organizations", f"t.id <> '{ACME}'"),
            ("public.agent_templates", f"t.organization_id is distinct from '{ACME}'"),
            ("public.project_showcases", f"t.organization_id is distinct from '{ACME}'"),
        ):
            columns = origin.execute(f"select private.stored_columns('{table}'::regclass)").fetchone()
            assert columns
            names = ", ".join(columns[0])
            for (row,) in origin.execute(f"select to_jsonb(t) from {table} t where {condition}"):
                if table == "public.users" and row["id"] in {str(PEOPLE["member"]), str(PEOPLE["viewer"])}:
                    continue
                if table == "auth.users" and row["id"] in {str(PEOPLE["member"]), str(PEOPLE["viewer"])}:
                    continue
                connection.execute(
                    f"insert into {table} ({names}) select {names} from jsonb_populate_record(null::{table}, %s)"
                    " on conflict do nothing",
                    [json.dumps(row)],
                )


def test_no_table_escapes_the_export(database: Database) -> None:
    with database.connect() as connection:
        tables = connection.execute(
            "select c.relnamespace::regnamespace || '.' || c.relname from pg_class c where c.relkind in ('r', 'p')"
            " and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)"
        ).fetchall()
        exported = connection.execute(
            "select c.relnamespace::regnamespace || '.' || c.relname from private.export_relations() r"
            " join pg_class c on c.oid = r.relation"
        ).fetchall()
    platform = {f"{schema}.{name}" for schema, names in OF_THE_PLATFORM.items() for name in names.split()}
    assert {name for (name,) in tables} - {name for (name,) in exported} == platform
    assert len(exported) == len(set(exported))


def test_new_table_is_exported_automatically(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "create table public.keys (id uuid primary key, organization_id uuid references public.organizations);"
            "create table public.key_uses (key_id uuid not null references public.keys, at timestamptz);"
        )
        found = dict(connection.execute("select relation::text, condition from private.export_relations()").fetchall())
    assert found["keys"] == "t.organization_id = $1"
    assert found["key_uses"] == "t.key_id in (select p.id from public.keys p where p.organization_id = $1)"


def test_manifest_lists_attachments(exporting: Exporting, tmp_path: Path) -> None:
    name = f"{ACME}/tasks/{uuid4()}/plan.txt"
    stored = exporting.api.admin().post(f"/storage/v1/object/attachments/{name}", content=b"plan")
    assert stored.status_code == 200
    export = ok(exporting.request("platform_admin"))
    exporting.fetched(export, tmp_path / "export")
    lines = (tmp_path / "export" / "storage.objects.0001.ndjson").read_text().splitlines()
    (line,) = [json.loads(each) for each in lines if "plan.txt" in each]
    assert (line["name"], line["size"]) == (name, "4")


def test_csv_is_for_spreadsheets(exporting: Exporting, tmp_path: Path) -> None:
    with exporting.database.connect() as connection:
        connection.execute(
            "insert into public.customers (organization_id, name, company) values (%s, %s, '')",
            [ACME, '=1+1 "so", quoted'],
        )
    export = ok(exporting.request("owner", format="csv"))
    manifest = exporting.fetched(export, tmp_path / "export")
    for table in manifest["tables"]:
        for file in table["files"]:
            head, *rows = csv.reader(io.StringIO((tmp_path / "export" / file["name"]).read_text(), newline=""))
            assert (head, len(rows)) == (table["columns"], file["rows"])
    with (tmp_path / "export" / "public.customers.0001.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert '\'=1+1 "so", quoted' in names


def test_owner_export_lacks_personal_data_of_members(exporting: Exporting, tmp_path: Path) -> None:
    export = ok(exporting.request("owner"))
    manifest = exporting.fetched(export, tmp_path / "export")
    names = {table["name"].removeprefix("public.") for table in manifest["tables"]}
    assert (export["complete"], manifest["complete"]) == (False, False)
    assert {"leads", "tasks", "organization_members", "activity_logs"} <= names
    assert not names & {"ai_conversations", "notifications", "private.capture_tokens", "organization_invitations"}
    with exporting.database.connect() as connection, pytest.raises(RestoreError, match="complete export"):
        restore(connection, tmp_path / "export")


def log(exporting: Exporting, person: str) -> list[tuple[Any, ...]]:
    with exporting.database.connect() as connection:
        return connection.execute(
            "select description, success from public.admin_action_logs where action = 'DATA_EXPORT' and admin_id = %s"
            " order by created_at, id",
            [PEOPLE[person]],
        ).fetchall()


@pytest.mark.parametrize("person", ["admin", "member", "globex_owner", "outsider", "suspended", "removed"])
def test_attack_export_an_organization_one_does_not_own(exporting: Exporting, person: str) -> None:
    refused(exporting.request(person), 403, "42501")
    assert log(exporting, person) == [("Refused or failed", False)]


def test_attack_export_an_organization_by_impersonation(exporting: Exporting) -> None:
    with exporting.database.connect() as connection:
        begun = connection.execute(
            "insert into private.impersonations (admin_id, user_id, reason) values (%s, %s, 'Help') returning id::text",
            [PEOPLE["super_admin"], PEOPLE["owner"]],
        ).fetchone()
    assert begun
    token = exporting.token("owner", act={"sub": str(PEOPLE["super_admin"])}, session_id=begun[0])
    refused(exporting.request("owner", token=token), 403, "42501")


@pytest.mark.parametrize("name", ["../../etc/passwd", f"{ACME}/../{GLOBEX}", f"{ACME}%2f..", "", "*"])
def test_attack_path_traversal_in_the_name_of_an_organization(exporting: Exporting, name: str) -> None:
    refused(exporting.request("super_admin", name), 422, "invalid_body")
    refused(exporting.request("super_admin", ACME, format=name), 422, "invalid_body")


def test_attack_read_the_exports_of_another_organization(exporting: Exporting) -> None:
    complete = ok(exporting.request("super_admin"))
    own = ok(exporting.request("owner"))
    with exporting.database.connect() as connection:
        paths = {
            name
            for (name,) in connection.execute(
                "select name from storage.objects where bucket_id = 'exports' and name like '%%manifest.json'"
            )
        }
    theirs = f"{ACME}/{own['export_id']}/manifest.json"
    everything = f"platform/{ACME}/{complete['export_id']}/manifest.json"
    assert {theirs, everything} <= paths

    def reads(person: str, path: str) -> bool:
        client = exporting.api.http(token=exporting.token(person))
        return client.get(f"/storage/v1/object/authenticated/exports/{path}").is_success

    people = ("owner", "platform_admin", "admin", "member", "globex_owner", "outsider")
    assert [person for person in people if reads(person, theirs)] == ["owner", "platform_admin"]
    assert [person for person in people if reads(person, everything)] == ["platform_admin"]
    for person in ("owner", "platform_admin"):
        client = exporting.api.http(token=exporting.token(person))
        planted = client.post(f"/storage/v1/object/exports/{ACME}/x/manifest.json", json={})
        assert planted.json()["statusCode"] == "403"
        assert client.delete(f"/storage/v1/object/exports/{theirs}").is_error


def test_attack_continue_a_foreign_export(exporting: Exporting) -> None:
    """Its steps are for the functions alone, and each looks whose export it is."""
    for statement in ("select private.open_export('{}')", "select private.begin_export('{}')"):
        with (
            exporting.database.acting_as("super_admin") as cursor,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            cursor.execute(statement)


def test_failed_export_is_logged_and_leaves_no_files(exporting: Exporting, tmp_path: Path, database_url: str) -> None:
    own = {"SUPABASE_URL": exporting.api.url, "SUPABASE_SECRET_KEYS": "", "SUPABASE_JWKS": ""}
    wrong = environment(database_url, **own, SUPABASE_SECRET_KEY="sb_secret_that_nobody_knows_0")
    with serving(tmp_path, wrong) as functions:
        broken = Exporting(exporting.database, exporting.api, functions)
        refused(broken.request("platform_admin", GLOBEX), 503, "storage_unavailable")
    assert log(exporting, "platform_admin")[-2:] == [("Export begun", True), ("Export failed", False)]
    # It is over, so another may begin at once.
    ok(exporting.request("platform_admin", GLOBEX))


def test_all_tables_are_as_of_one_moment(exporting: Exporting, tmp_path: Path) -> None:
    """Somebody writes into the first and the last table in one transaction, again and again: the counts stay equal."""
    done = threading.Event()

    def write() -> None:
        with exporting.database.connect() as connection:
            while not done.wait(0.01):
                with connection.transaction():
                    connection.execute(
                        "insert into public.activities (organization_id, created_by_id, type, title, lead_id)"
                        " select %s, %s, 'CALL', 'Moment', id from public.leads where organization_id = %s limit 1",
                        [GLOBEX, PEOPLE["globex_member"], GLOBEX],
                    )
                    connection.execute(
                        "insert into public.usage_tracking"
                        " (organization_id, resource_type, resource_name, usage_amount)"
                        " values (%s, 'API_CALLS', 'Moment', 1)",
                        [GLOBEX],
                    )

    def moments(table: str) -> int:
        return sum(path.read_text().count('"Moment"') for path in (tmp_path / "export").glob(f"public.{table}.*"))

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            export = ok(exporting.request("platform_admin", GLOBEX))
        finally:
            done.set()
        writing.result()
    exporting.fetched(export, tmp_path / "export")
    with exporting.database.connect() as connection:
        later = connection.execute("select from public.activities where title = 'Moment'").rowcount
    assert later > moments("activities") == moments("usage_tracking")


def test_large_export_uses_little_memory(exporting: Exporting, tmp_path: Path) -> None:
    with exporting.database.connect() as connection:
        connection.execute(
            "insert into public.usage_tracking (organization_id, resource_type, resource_name, usage_amount,"
            " metadata) select %s, 'API_CALLS', 'call ' || n, 1,"
            " jsonb_build_object('n', repeat('x', 800)) from generate_series(1, 20000) n",
            [GLOBEX],
        )
    process = psutil.Process(exporting.functions.process.pid)
    ok(exporting.request("platform_admin", ACME))  # the first one imports libraries
    before = process.memory_info().rss
    export = ok(exporting.request("platform_admin", GLOBEX))
    grown = process.memory_info().rss - before
    pieces = [file for file in export["files"] if file["table"] == "public.usage_tracking"]
    assert len(pieces) > 3
    assert max(file["bytes"] for file in pieces) <= 4 * 1024 * 1024
    assert sum(file["rows"] for file in pieces) >= 20000
    assert grown < 32 * 1024 * 1024
    manifest = exporting.fetched(export, tmp_path / "export")
    with exporting.database.connect() as connection:
        count = connection.execute(
            "select count(*) from public.usage_tracking where organization_id = %s", [GLOBEX]
        ).fetchone()
    assert {table["name"]: (table["rows"],) for table in manifest["tables"]}["public.usage_tracking"] == count


# Restoring what is wrong


@pytest.fixture(scope="module")
def exported(exporting: Exporting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "export"
    exporting.fetched(ok(exporting.request("super_admin")), folder)
    return folder


def spoiled(exported: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_attack_restore_files_from_elsewhere(exporting: Exporting, exported: Path, tmp_path: Path) -> None:
    tables = json.loads((exported / "manifest.json").read_text())["tables"]
    tables[0]["files"][0]["name"] = "../../secret"
    with exporting.database.connect() as connection, pytest.raises(RestoreError, match="outside of the folder"):
        restore(connection, spoiled(exported, tmp_path / "export", tables=tables))


def test_damaged_export_is_not_restored(exported: Path, fresh_database: Database, tmp_path: Path) -> None:
    tables = json.loads((exported / "manifest.json").read_text())["tables"]
    changed = spoiled(exported, tmp_path / "changed")
    with (changed / "public.tasks.0001.ndjson").open("a") as file:
        file.write("\n")
    strange = [table | {"columns": [*table["columns"], "shoe_size"]} for table in tables]
    cases = [
        (changed, "hash differs"),
        (spoiled(exported, tmp_path / "missing", tables=[t for t in tables if t["name"] != "public.tasks"]), "lacks"),
        (spoiled(exported, tmp_path / "strange", tables=strange), "shoe_size"),
        (spoiled(exported, tmp_path / "csv", format="csv"), "NDJSON"),
        (tmp_path / "nowhere", "no manifest"),
    ]
    with fresh_database.connect() as connection:
        connection.execute("delete from public.organizations where id = %s", [ACME])
        before = connection.execute("select count(*) from public.users").fetchone()
        for folder, why in cases:
            with pytest.raises(RestoreError, match=why):
                restore(connection, folder)
        assert connection.execute("select from public.organizations where id = %s", [ACME]).rowcount == 0
        assert connection.execute("select count(*) from public.users").fetchone() == before
        failed = connection.execute("select success from public.admin_action_logs").fetchall()
    assert failed == [(False,)] * 3
