"""Row level security costs one lookup, never another plan: judged by plan shape and buffers, not by time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from local.postgres import Cluster
from tests.support import generated
from tests.support.world import ACME, Connection, Database, Row, become, claims_of

ORDER = ("created_at", "joined_at", "viewed_at", "dismissed_at", "read_at", "liked_at", "changed_at", "deleted_at")
SELECT = re.compile(r"\( SELECT ")
# The lookup of the caller: root and leaf of an index, and the row of the membership.
LOOKUP = 3
# Policies that look up the caller more than once.
QUESTIONS = dict.fromkeys(
    ("agent_templates", "project_showcases", "tool_blueprints"), 2
)  # also: is the caller signed in?

# Tables that clients read whole or by key, never as the newest 50 of many.
_HANDFUL = "a tenant or a person has a handful, and reads them all"
_CATALOGUE = "one small catalog of the platform"
NO_LISTS = {
    "organizations": "the current one",
    "users": "found by their ids",
    "activity_feed_reads": "found by the entries that are shown",
    "activity_logs": "by month: test_newest_log_entries_are_read_from_the_newest_months_alone",
    "ai_tools": _CATALOGUE,
    "appointment_attendees": "found by the appointment",
    "api_keys": _HANDFUL,
    "plans": _CATALOGUE,
    "dashboard_metrics": _HANDFUL,
    "dashboard_widgets": _HANDFUL,
    "onboarding_sessions": _HANDFUL,
    "quick_actions": _HANDFUL,
    "saved_views": _HANDFUL,
    "subscriptions": _HANDFUL,
    "system_alert_dismissals": _HANDFUL,
    "system_alert_views": _HANDFUL,
    "user_dashboards": _HANDFUL,
    "webhook_endpoints": _HANDFUL,
}


def _each(column: str, *values: str) -> list[str]:
    return [f"{column} = '{value}'" for value in values]


# Frequent lists of one status. Comparing an enum is not leakproof, so that under policies no index
# can be searched for the value: the index itself must name it.
HOT = {
    "activities": _each("type", "CALL", "EMAIL", "MEETING", "NOTE", "TASK", "SHOWING", "OPEN_HOUSE", "FOLLOW_UP"),
    "activity_feeds": [*_each("severity", "ERROR", "CRITICAL"), "is_pinned"],
    "build_logs": _each("log_level", "WARN", "ERROR"),
    "contacts": [*_each("status", "ACTIVE", "INACTIVE"), *_each("type", "CLIENT", "PROSPECT", "PARTNER", "VENDOR")],
    "custom_agent_orders": _each("status", "SUBMITTED", "IN_REVIEW", "APPROVED", "IN_PROGRESS", "TESTING"),
    "deals": [
        *_each("status", "ACTIVE", "WON", "LOST"),
        *_each("stage", "LEAD", "QUALIFIED", "PROPOSAL", "NEGOTIATION", "CLOSING", "CLOSED_WON", "CLOSED_LOST"),
    ],
    "leads": [
        *_each("status", "NEW_LEAD", "IN_CONTACT", "QUALIFIED", "CONVERTED", "UNQUALIFIED", "LOST"),
        *_each("score", "HOT", "WARM", "COLD"),
    ],
    "listings": _each("status", "ACTIVE", "PENDING", "SOLD"),
    "notifications": ["not read"],
    "projects": _each("status", "ACTIVE"),
    "tasks": _each("status", "TODO", "IN_PROGRESS", "REVIEW"),
}


@dataclass(frozen=True)
class Plan:
    nodes: list[Row]
    buffers: int

    @property
    def shape(self) -> list[str]:
        return [node["Node Type"] for node in self.nodes]


def explain(connection: Connection, query: str) -> Plan:
    """The plan of a second run: the first fills the caches of the session."""
    statement = f"explain (analyze, buffers, timing off, format json) {query}"
    connection.execute(statement)
    row = connection.execute(statement).fetchone()
    assert row
    top = row[0][0]["Plan"]

    def walk(node: Row) -> Iterator[Row]:
        yield node
        for child in node.get("Plans", []):
            if child.get("Parent Relationship") != "InitPlan":
                yield from walk(child)

    return Plan(list(walk(top)), top["Shared Hit Blocks"] + top["Shared Read Blocks"])


@pytest.fixture(scope="module")
def full(cluster: Cluster) -> Iterator[Database]:
    with Database(cluster, "world").copied() as database:
        with database.connect("supabase_admin") as connection:
            generated.fill(connection)
        yield database


@pytest.fixture
def caller(full: Database) -> Iterator[Connection]:
    """An owner of the largest organization, as the API lets them in."""
    with full.connect("authenticator") as connection, connection.transaction(force_rollback=True):
        become(connection, "authenticated", claims_of("owner"), {})
        yield connection


@pytest.fixture
def bare(full: Database) -> Iterator[Connection]:
    """The same database without row level security."""
    with full.connect() as connection:
        yield connection


def by_hand(policy: str, caller: Connection) -> str:
    """The condition of the policy, with its sub-selects replaced by their values."""
    while found := SELECT.search(policy):
        end, depth = found.start(), 0
        while depth or end == found.start():
            depth += {"(": 1, ")": -1}.get(policy[end], 0)
            end += 1
        select = policy[found.start() : end]
        row = caller.execute(f"select quote_nullable({select}::text) || '::' || pg_typeof({select})").fetchone()
        assert row
        policy = policy[: found.start()] + row[0] + policy[end:]
    return policy


def lists(bare: Connection) -> dict[str, tuple[str, str | None]]:
    """Table → (its policy, the column that says what is newest), for all that show a caller some of their rows."""
    rows = bare.execute(
        "select c.relname, pg_get_expr(p.polqual, p.polrelid), array(select a.attname::text from pg_attribute a"
        " where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) from pg_policy p"
        " join pg_class c on c.oid = p.polrelid where c.relnamespace = 'public'::regnamespace"
        " and p.polcmd in ('r', '*') and 'authenticated'::regrole = any (p.polroles)"
        " and exists (select from pg_depend d where d.classid = 'pg_policy'::regclass and d.objid = p.oid"
        " and d.refobjid = c.oid and d.refobjsubid > 0) order by 1"
    )
    return {table: (policy, next((name for name in ORDER if name in columns), None)) for table, policy, columns in rows}


def compare(caller: Connection, bare: Connection, table: str, policy: str, order: str, condition: str = "true") -> Plan:
    """The plan under policies of the newest; it fails where it costs more than by hand."""
    limit = 50 if condition == "true" else 10  # fewer than the average tenant has
    query = f"select * from public.{table} where {{}} order by {order} limit {limit}"
    secured = explain(caller, query.format(condition))
    plain = explain(bare, query.format(f"{by_hand(policy, caller)} and {condition}"))
    assert secured.shape == ["Limit", "Index Scan"], secured.shape
    # Scanning the newest rows of all tenants is an ordered index scan too, but endless for a small tenant.
    assert table in QUESTIONS or not secured.nodes[-1].get("Rows Removed by Filter"), "rows of others are passed over"
    extra = secured.buffers - plain.buffers
    assert extra <= QUESTIONS.get(table, 1) * LOOKUP, f"{extra} buffers more than the {plain.buffers} by hand"
    return secured


def test_newest_rows_are_an_ordered_index_scan_without_filter(caller: Connection, bare: Connection) -> None:
    tables = lists(bare)
    assert set(NO_LISTS) <= set(tables)
    wrong = {}
    for table, (policy, newest) in tables.items():
        if table not in NO_LISTS:
            try:
                assert newest, "no index orders by the newest"
                compare(caller, bare, table, policy, f"{newest} desc")
            except AssertionError as error:
                wrong[table] = str(error).split("\n")[0]
    assert wrong == {}


def test_every_tenant_table_has_a_row_policy(bare: Connection) -> None:
    rows = bare.execute(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
    )
    assert {table for (table,) in rows} - set(lists(bare)) == set()


@pytest.mark.parametrize("table", HOT)
def test_hot_lists_have_an_index_that_names_the_value(table: str, caller: Connection, bare: Connection) -> None:
    policy, _ = lists(bare)[table]
    partial = {
        name
        for (name,) in bare.execute(
            "select relname from pg_index join pg_class on oid = indexrelid"
            " where indpred is not null and indrelid = %s::regclass",
            [f"public.{table}"],
        )
    }
    for condition in HOT[table]:
        secured = compare(caller, bare, table, policy, "created_at desc", condition)
        assert secured.nodes[-1]["Index Name"] in partial, condition


def test_join_of_fifty_rows_looks_up_the_caller_once(caller: Connection, bare: Connection) -> None:
    query = (
        "select l.id, (select count(*) from public.activities a where a.lead_id = l.id{}) from public.leads l"
        " {} order by l.created_at desc limit 50"
    )
    secured = explain(caller, query.format("", ""))
    plain = explain(bare, query.format(f" and a.organization_id = '{ACME}'", f"where l.organization_id = '{ACME}'"))
    assert secured.buffers - plain.buffers <= 2 * LOOKUP


def test_build_log_pages_continue_in_the_index(caller: Connection, bare: Connection) -> None:
    row = bare.execute(
        "select order_id, created_at, id from public.build_logs where organization_id = %s limit 1", [ACME]
    ).fetchone()
    assert row
    body = bare.execute("select prosrc from pg_proc where proname = 'build_log_page'").fetchone()
    assert body
    query = body[0].partition("return query")[2].partition(";")[0]
    for name, value in (("build_log_page.order_id", row[0]), ("before_id", row[2]), ("before", row[1])):
        query = re.sub(rf"(?<![.\w]){name}\b", f"'{value}'", query)
    plan = explain(caller, query.replace("page_size", "50"))
    assert plan.shape == ["Limit", "Index Scan"]
    assert plan.nodes[-1]["Index Name"] == "build_logs_order_idx"
    assert "ROW(created_at, id) <" in plan.nodes[-1]["Index Cond"]


def test_featured_showcases_are_listed_from_their_own_index(full: Database) -> None:
    with full.connect("supabase_admin") as connection, connection.transaction(force_rollback=True):
        # Few, as in life.
        connection.execute("update public.project_showcases set is_featured = created_at < now() - interval '49 hours'")
        connection.execute("analyze public.project_showcases")
        become(connection, "authenticated", claims_of("owner"), {})
        query = "select * from public.project_showcases where is_featured = true order by created_at desc limit 20"
        plan = explain(connection, query)
    assert plan.shape == ["Limit", "Index Scan"]
    assert plan.nodes[-1]["Index Name"] == "project_showcases_is_featured_idx"


def test_template_search_reads_only_its_results(caller: Connection, bare: Connection) -> None:
    """Among 1,000 public templates: those with a rare word, a page with common terms, a page of all."""
    ((word,),) = bare.execute("select name from public.agent_templates where is_public limit 1")

    def read(search: str) -> int:
        counted = (
            "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::int from pg_stat_xact_all_tables"
            " where relname = 'template_search'"
        )
        (before,) = caller.execute(counted).fetchone() or (0,)
        assert caller.execute(f"select * from public.search_templates({search})").fetchall()
        (after,) = caller.execute(counted).fetchone() or (0,)
        return int(after - before)

    assert read(f"query => '{word}'") <= 20
    assert read("category => 'SALES'") <= 200
    assert read("") <= 41


# Of four tables with some 150 pages each. A misspelt word needs a dozen lookups in each of their indexes.
@pytest.mark.parametrize(
    ("name", "query_text", "most"), [("Katherine", "Katherine", 100), ("Bartholomew", "Barhtolomew", 300)]
)
def test_crm_search_reads_only_its_results(
    caller: Connection, bare: Connection, name: str, query_text: str, most: int
) -> None:
    bare.execute(
        "update public.leads set name = %s"
        " where id = (select id from public.leads where organization_id = %s order by name desc limit 1)",
        [name, ACME],
    )
    query = f"select * from public.search_crm('{query_text}')"
    assert len(caller.execute(query).fetchall()) == 1
    assert explain(caller, query).buffers < most


@pytest.mark.parametrize("report", ["pipeline_report", "conversion_report"])
def test_report_reads_only_rows_of_the_tenant(report: str, caller: Connection, bare: Connection) -> None:
    body = bare.execute("select prosrc from pg_proc where proname = %s", [report]).fetchone()
    assert body
    query = body[0].replace(f"{report}.assigned_to_id", "null::uuid")
    for name, value in (("since", "'-infinity'"), ("until", "'infinity'")):
        query = re.sub(rf"\b{name}\b", value, query)
    plan = explain(caller, query)
    assert "Seq Scan" not in plan.shape
    conditions = [node["Index Cond"] for node in plan.nodes if "Index Cond" in node]
    assert conditions
    assert all("organization_id" in condition for condition in conditions)
    assert not any(node.get("Rows Removed by Filter") for node in plan.nodes)


def test_newest_log_entries_are_read_from_the_newest_months_alone(full: Database) -> None:
    with full.connect("supabase_admin") as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into public.activity_logs (organization_id, action, resource_type, created_at)"
            " select o.id, 'updated', 'leads', now() - n * interval '1 hour' from public.organizations o,"
            " generate_series(1, 8000) n",
        )
        connection.execute("analyze public.activity_logs")
        become(connection, "authenticated", claims_of("owner"), {})
        plan = explain(connection, "select * from public.activity_logs order by created_at desc limit 50")
    assert "Sort" not in plan.shape, plan.nodes[:6]
    months = [node for node in plan.nodes if node["Node Type"] == "Index Scan"]
    assert len(months) > 12
    # Of 50 hours: the months to come, the current one, and early in a month the one before.
    assert sum(node["Actual Loops"] > 0 for node in months) <= 6
