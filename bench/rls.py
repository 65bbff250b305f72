"""What row level security costs: `python -m bench.rls` (about five minutes, 4 GB of disk).

2,000 organisations (zipf) and 20,000 users; 3 M feed entries, 500 k leads, 200 k orders with 1 M milestones. The same
statement is run as a member through the policies, with no condition of its own, and by hand with the condition and
without policies; what is compared is the processor time of the backend. Feeds are measured at 100 k, 1 M and 3 M rows.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench import machine
from local.postgres import SUPERUSER, Cluster
from local.temporary import migrated

Connection = psycopg.Connection[Any]
Figure = dict[str, float]

ORGANIZATIONS, USERS = 2_000, 20_000
FEEDS = (100_000, 1_000_000, 3_000_000)
LEADS, ORDERS, MILESTONES_EACH = 500_000, 200_000, 5
REPEATS, ROUNDS = 40, 7
# Those who ask: from the largest organisation to one that has 50 feed entries among the first 100 k.
CALLERS = sorted({round(250 ** (n / 23)) for n in range(24)})
GOALS = {"read_ratio": 1.3, "write_ratio": 1.5, "growth": 1.2}

# An organisation by its number; numbers are drawn by zipf, so that the first has 9 % of all rows and most nearly none.
ORG = "('00000000-0000-4000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
USER = "('00000000-0000-4000-9000-' || lpad(to_hex({}), 12, '0'))::uuid"
ORG_ID, USER_ID = "00000000-0000-4000-8000-{:012x}", "00000000-0000-4000-9000-{:012x}"
DRAWN = f"least({ORGANIZATIONS}, floor(exp(random() * ln({ORGANIZATIONS + 1})))::int)"

WORLD = f"""
    insert into public.organizations (id, name, slug)
    select {ORG.format("n")}, 'Organisation ' || n, 'organisation-' || n from generate_series(1, {ORGANIZATIONS}) n;
    insert into auth.users (id, email)
    select {USER.format("n")}, n || '@strive.test' from generate_series(1, {USERS}) n;
    insert into public.users (id, email) select id, email from auth.users;
    -- The first member of each organisation is known by its number; all others are drawn.
    insert into public.organization_members (user_id, organization_id, role)
    select {USER.format("n")}, {ORG.format(f"case when n <= {ORGANIZATIONS} then n else {DRAWN} end")}, 'MEMBER'
    from generate_series(1, {USERS}) n;
"""
FEED_ROWS = f"""
    insert into public.activity_feeds
      (organization_id, user_id, type, title, entity_type, entity_id, action, severity, is_pinned, created_at)
    select {ORG.format("d.org")}, {USER.format("d.org")}, 'USER_ACTION', 'Something happened, number ' || d.n, 'lead',
      d.n::text, 'updated', case when d.n %% 50 = 0 then 'ERROR' else 'INFO' end::public."ActivitySeverity",
      d.n %% 200 = 0, now() - ({FEEDS[-1]} - d.n) * interval '10 seconds'
    from (select n, {DRAWN} as org from generate_series(%s::int, %s::int) n) d
"""
REST = f"""
    insert into public.leads (organization_id, name, email, source, status, score, score_value, created_at)
    select {ORG.format("d.org")}, 'Lead ' || d.n, d.n || '@lead.test', 'WEBSITE',
      (enum_range(null::public."LeadStatus"))[1 + d.n % 6], 'COLD', d.n % 50,
      now() - ({LEADS} - d.n) * interval '1 minute'
    from (select n, {DRAWN} as org from generate_series(1, {LEADS}) n) d;
    insert into public.custom_agent_orders (id, organization_id, created_by_id, title, description, requirements,
      use_case, complexity, status, agent_config, tools_config, created_at)
    select {USER.format(f"{USERS} + d.n")}, {ORG.format("d.org")}, {USER.format("d.org")}, 'Order ' || d.n, 'An agent',
      '{{"integrations": []}}', 'support', 'SIMPLE', (enum_range(null::public."OrderStatus"))[1 + d.n % 8], '{{}}',
      '{{}}', now() - ({ORDERS} - d.n) * interval '3 minutes'
    from (select n, {DRAWN} as org from generate_series(1, {ORDERS}) n) d;
    insert into public.order_milestones (organization_id, order_id, name, stage, sort_order, created_at)
    select o.organization_id, o.id, 'Step ' || m, 'development', m, o.created_at + m * interval '1 second'
    from public.custom_agent_orders o, generate_series(1, {MILESTONES_EACH}) m order by o.created_at;
"""


@dataclass(frozen=True)
class Statement:
    name: str
    secured: str
    by_hand: str
    is_goal: bool = False

    def query(self, values: Mapping[str, str], *, secured: bool) -> str:
        return (self.secured if secured else self.by_hand).format(**values)


def as_the_api_asks(statement: Statement) -> Statement:
    """PostgREST lets the database write the JSON of the answer, and counts what a write without answer has written."""
    reads = "select coalesce(json_agg(r), '[]') from ({}) r"
    wrap = reads if statement.secured.startswith("select") else "with w as ({} returning 1) select count(*) from w"
    return Statement(statement.name, wrap.format(statement.secured), wrap.format(statement.by_hand), is_goal=True)


def newest(table: str, condition: str = "true", limit: int = 50) -> Statement:
    query = f"select * from public.{table} where {{}} order by created_at desc limit {limit}"
    name = f"{table}, newest {limit}" + ("" if condition == "true" else f" where {condition}")
    by_hand = query.format(f"organization_id = '{{org}}' and {condition}")
    return Statement(name, query.format(condition), by_hand)


FEED = newest("activity_feeds")
FEED_READ = as_the_api_asks(FEED)
READS = [
    FEED_READ,
    as_the_api_asks(Statement("activity_feeds, newest 50, the client filters too", FEED.by_hand, FEED.by_hand)),
    *(as_the_api_asks(newest(table)) for table in ("leads", "custom_agent_orders", "order_milestones")),
    # What follows is without JSON, where the policy weighs most.
    Statement("activity_feeds, newest 50, rows alone", FEED.secured, FEED.by_hand),
    newest("activity_feeds", "is_pinned", 20),
    newest("leads", "status = 'QUALIFIED'", 20),
    newest("custom_agent_orders", "status = 'IN_PROGRESS'", 20),
    Statement(
        "custom_agent_orders, newest 20 with their milestones",
        "select o.id, (select json_agg(m) from public.order_milestones m where m.order_id = o.id)"
        " from public.custom_agent_orders o order by o.created_at desc limit 20",
        "select o.id, (select json_agg(m) from public.order_milestones m where m.order_id = o.id"
        " and m.organization_id = '{org}') from public.custom_agent_orders o where o.organization_id = '{org}'"
        " order by o.created_at desc limit 20",
    ),
]
_FEED_ENTRY = (
    "insert into public.activity_feeds (organization_id, user_id, type, title, entity_type, entity_id, action)"
    " values ('{org}', '{user}', 'USER_ACTION', 'Measured', 'lead', '1', 'updated')"
)
_LEAD = "insert into public.leads (organization_id, name, source) values ('{org}', 'Measured', 'WEBSITE')"
_CHANGE = "update public.leads set notes = 'measured' where id = '{lead}'"
WRITES = [
    as_the_api_asks(Statement("activity_feeds, insert one", _FEED_ENTRY, _FEED_ENTRY)),
    as_the_api_asks(Statement("leads, insert one", _LEAD, _LEAD)),
    as_the_api_asks(Statement("leads, update one", _CHANGE, _CHANGE + " and organization_id = '{org}'")),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rls", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 1 M feed entries: about two minutes")
    steps = FEEDS[:2] if parser.parse_args().quick else FEEDS
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as own:
        growth: dict[int, Figure] = {}
        with own.connect(SUPERUSER) as filling:
            filling.execute("set session_replication_role = replica; set work_mem = '256MB'")
            filling.execute("set maintenance_work_mem = '512MB'")
            fill(filling, "organisations and users", WORLD, "organization_members")
            fill(filling, "leads, orders, milestones", REST, "leads", "custom_agent_orders", "order_milestones")
            have = 0
            for rows in steps:
                fill(filling, f"feed entries up to {rows:,}", FEED_ROWS, "activity_feeds", between=(have + 1, rows))
                have = rows
                growth[rows] = compare(own, FEED_READ)
            figures = {statement.name: compare(own, statement) for statement in READS + WRITES}
    print(json.dumps(report(figures, growth), indent=2))


def fill(
    connection: Connection, what: str, statements: str, *tables: str, between: tuple[int, int] | None = None
) -> None:
    """Load with the indexes away, which is how a large table is loaded, and analyse what came of it."""
    began = time.monotonic()
    indexes = connection.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = any (%s::regclass[]) and not indisunique",
        [[f"public.{table}" for table in tables]],
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"drop index {name}")
    connection.execute(statements, between)
    for _, definition in indexes:
        connection.execute(definition)
    for table in tables:
        connection.execute(f"vacuum analyze public.{table}")
    print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def compare(own: Cluster, statement: Statement) -> Figure:
    """Microseconds of processor per statement in the least disturbed of the rounds; the same callers on both sides."""
    samples: dict[str, list[float]] = {"secured": [], "by_hand": []}
    elapsed: dict[str, list[float]] = {"secured": [], "by_hand": []}
    with own.connect("authenticator") as member, own.connect() as bare:
        for number in range(ROUNDS + 1):
            for side, connection in (("secured", member), ("by_hand", bare)):
                cpu, wall = run(connection, statement, secured=side == "secured")
                if number:  # the first round warms up
                    samples[side].append(cpu)
                    elapsed[side].append(wall)
    ratios = [mine / theirs for mine, theirs in zip(samples["secured"], samples["by_hand"], strict=True)]
    return {
        "secured_us": round(min(samples["secured"]), 1),
        "by_hand_us": round(min(samples["by_hand"]), 1),
        "ratio": round(min(samples["secured"]) / min(samples["by_hand"]), 3),
        "ratio_median_of_rounds": round(statistics.median(ratios), 3),
        "ratio_worst_of_rounds": round(max(ratios), 3),
        "latency_ratio": round(min(elapsed["secured"]) / min(elapsed["by_hand"]), 3),
    }


def run(connection: Connection, statement: Statement, *, secured: bool) -> tuple[float, float]:
    """Microseconds of processor and of waiting for one statement, over all callers; what it wrote is rolled back."""
    connection.autocommit = False
    cpu, wall = 0.0, 0.0
    for caller in CALLERS:
        values = {"user": USER_ID.format(caller), "org": ORG_ID.format(caller)}
        claims = {"sub": values["user"], "role": "authenticated", "app_metadata": {"org_id": values["org"]}}
        connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
        if secured:
            connection.execute("set local role authenticated")
        lead = connection.execute(
            "select id from public.leads where organization_id = %s order by created_at desc limit 1", [values["org"]]
        ).fetchone()
        assert lead
        query = statement.query(values | {"lead": str(lead[0])}, secured=secured)
        connection.execute(query, prepare=True)
        before, began = processor(connection.info.backend_pid), time.perf_counter()
        for _ in range(REPEATS):
            connection.execute(query, prepare=True)
        wall += time.perf_counter() - began
        cpu += processor(connection.info.backend_pid) - before
        connection.rollback()
    count = len(CALLERS) * REPEATS
    return cpu / count * 1e6, wall / count * 1e6


def processor(pid: int) -> float:
    """Seconds of processor this process has used; Linux counts them finer than in hundredths."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


def report(figures: dict[str, Figure], growth: dict[int, Figure]) -> dict[str, object]:
    """All that was measured, and whether the goals are met."""
    reads = [figures[statement.name]["ratio"] for statement in READS if statement.is_goal]
    used = [figure["secured_us"] for figure in growth.values()]
    met = {
        "read_ratio": max(*reads, *(figure["ratio"] for figure in growth.values())) <= GOALS["read_ratio"],
        "write_ratio": max(figures[statement.name]["ratio"] for statement in WRITES) <= GOALS["write_ratio"],
        "growth": max(used) / min(used) <= GOALS["growth"],
    }
    return {
        "machine": machine(),
        "goals": GOALS,
        "met": met,
        "feed_newest_50_by_rows": growth,
        "growth": round(max(used) / min(used), 3),
        "statements": figures,
    }


if __name__ == "__main__":
    main()
