"""One database for all that is measured inside of one: 2,000 organizations of very different size, filled once.

Each bench requests the parts it needs; existing parts are kept. `python -m bench` lets its benches share
one database, by the folder it names in the environment; a bench alone has its own.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from local.postgres import SUPERUSER, Cluster
from local.temporary import migrated

Connection = psycopg.Connection[Any]
Load = Callable[[Connection], None]
Part = tuple[tuple[str, ...], Load]

FOLDER = "BENCH_DATABASE"
ORGANIZATIONS, USERS = 2_000, 20_000
# One in four leads is the first organization's.
LEADS, ORDERS, MILESTONES_EACH, DEALS, TEMPLATES = 200_000, 100_000, 3, 100_000, 100_000
TENANTS_LEADS = LEADS // 4
# More of them: python -m bench.growth.
FEEDS = (100_000, 1_000_000)
PUBLIC_PERCENT = 20

# An organization by its number; numbers are drawn by zipf, so that the first has 9 % of all rows and most nearly none.
# Ids of organizations look random: searches use their prefix.
ORG = "md5('organization ' || {})::uuid"
USER = "('00000000-0000-4000-9000-' || lpad(to_hex({}), 12, '0'))::uuid"
# In ascending order, which fills the primary key index much faster.
ROW = "('00000000-0000-4000-a000-' || lpad(to_hex({}), 12, '0'))::uuid"
USER_ID, ROW_ID = "00000000-0000-4000-9000-{:012x}", "00000000-0000-4000-a000-{:012x}"
DRAWN = f"least({ORGANIZATIONS}, floor(exp(random() * ln({ORGANIZATIONS + 1})))::int)"


def organization(number: int) -> str:
    return str(UUID(hashlib.md5(f"organization {number}".encode(), usedforsecurity=False).hexdigest()))


TENANT, MEMBER = organization(1), USER_ID.format(1)

# The first organization and its first people are created as usual, with their default rows.
WORLD = f"""
    set session_replication_role = origin;
    insert into public.organizations (id, name, slug, subscription_tier)
    values ('{TENANT}', 'Organization 1', 'organization-1', 'ELITE');
    insert into auth.users (id, email) select {USER.format("n")}, n || '@strive.test' from generate_series(0, 1) n;
    insert into public.organization_members (user_id, organization_id, role)
    values ({USER.format(0)}, '{TENANT}', 'OWNER'), ('{MEMBER}', '{TENANT}', 'MEMBER');
    set session_replication_role = replica;
    insert into public.organizations (id, name, slug, subscription_tier)
    select {ORG.format("n")}, 'Organization ' || n, 'organization-' || n, 'ELITE'
    from generate_series(2, {ORGANIZATIONS}) n;
    insert into auth.users (id, email)
    select {USER.format("n")}, n || '@strive.test' from generate_series(2, {USERS}) n;
    insert into public.users (id, email) select id, email from auth.users on conflict (id) do nothing;
    -- The first member of each organization is known by its number; all others are drawn.
    insert into public.organization_members (user_id, organization_id, role)
    select {USER.format("n")}, {ORG.format(f"case when n <= {ORGANIZATIONS} then n else {DRAWN} end")}, 'MEMBER'
    from generate_series(2, {USERS}) n;
"""
ORDERS_AND_MILESTONES = f"""
    insert into public.custom_agent_orders (id, organization_id, created_by_id, title, description, requirements,
      use_case, complexity, status, agent_config, tools_config, created_at)
    select {USER.format(f"{USERS} + d.n")}, {ORG.format("d.org")}, {USER.format("d.org")}, 'Order ' || d.n, 'An agent',
      '{{"integrations": []}}', 'support', 'SIMPLE', (enum_range(null::public."OrderStatus"))[1 + d.n % 8], '{{}}',
      '{{}}', now() - ({ORDERS} - d.n) * interval '3 minutes'
    from (select n, {DRAWN} as org from generate_series(1, {ORDERS}) n) d;
    insert into public.order_milestones (id, organization_id, order_id, name, stage, sort_order, created_at)
    select {ROW.format("row_number() over (order by o.created_at, m)")}, o.organization_id, o.id, 'Step ' || m,
      'development', m, o.created_at + m * interval '1 second'
    from public.custom_agent_orders o, generate_series(1, {MILESTONES_EACH}) m;
"""
DEALS_OF_ALL = f"""
    insert into public.deals
      (organization_id, title, value, stage, status, probability, created_at, actual_close_date, lost_reason)
    select {ORG.format("d.org")}, 'Sale ' || d.n, d.n, s.stage, s.status, s.probability, d.made,
      case when s.status <> 'ACTIVE' then d.made end, case when s.status = 'LOST' then 'Price' end
    from (
      select n, {DRAWN} as org, now() - n * interval '5 minutes' as made from generate_series(1, {DEALS}) n
    ) d
    join private.deal_stages s on s.stage = (enum_range(null::public."DealStage"))[1 + d.n % 7];
"""
# Zipf's law: the n-th most frequent of 5,000 words occurs in one of n texts.
TEMPLATES_OF_ALL = f"""
    create temp table texts as
    select n as id, 'w' || floor(exp(random() * ln(5000))) as name,
      (select string_agg('w' || floor(exp(random() * ln(5000))), ' ') from generate_series(1, 40) where n >= 0) as body
    from generate_series(0, 2999) n;
    insert into public.agent_templates (organization_id, name, description, category, personality_config, model_config,
      tools_config, memory_config, tags, usage_count, is_public, created_at)
    select {ORG.format(f"1 + n % {ORGANIZATIONS}")}, 'Agent ' || a.name || ' ' || b.name, a.body,
      (enum_range(null::public."AgentCategory"))[1 + n % 6], '{{}}', '{{}}', '{{}}', '{{}}',
      array['t' || floor(exp(random() * ln(300))), 'u' || n % 40], floor(exp(random() * ln(5000))),
      n * 7919 % 100 < {PUBLIC_PERCENT}, now() - n * interval '1 minute'
    from generate_series(1, {TEMPLATES}) n join texts a on a.id = n % 3000 join texts b on b.id = n * 7 % 2999;
"""
FEED = f"""
    insert into public.activity_feeds
      (id, organization_id, user_id, type, title, entity_type, entity_id, action, severity, is_pinned, created_at)
    select {ROW.format("d.n")}, {ORG.format("d.org")}, {USER.format("d.org")}, 'USER_ACTION',
      'Something happened, number ' || d.n, 'lead', d.n::text, 'updated',
      case when d.n % 50 = 0 then 'ERROR' else 'INFO' end::public."ActivitySeverity",
      d.n % 200 = 0, now() - ({FEEDS[-1]} - d.n) * interval '10 seconds'
    from (select n, {DRAWN} as org from generate_series({{}}::int, {{}}::int) n) d
"""


@contextmanager
def database() -> Iterator[Cluster]:
    """The shared cluster if there is one, else a temporary one."""
    if shared := os.environ.get(FOLDER):
        shared_cluster = json.loads((Path(shared) / "database.json").read_text())
        yield Cluster(
            Path(shared),
            shared_cluster["port"],
            shared_cluster["password"],
            Path(shared) / "postgres.log",
            durable=False,
        )
        return
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as own:
        yield own


@contextmanager
def shared() -> Iterator[dict[str, str]]:
    """One database for several benches, passed in the environment."""
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as own:
        (Path(home) / "database.json").write_text(json.dumps({"port": own.port, "password": own.password}))
        yield {FOLDER: home}


def fill(own: Cluster, *parts: str, feed: int = 0) -> None:
    """Some of PARTS, and the feed up to so many entries, on two processors."""
    with own.connect(SUPERUSER) as connection:
        connection.execute("create schema if not exists bench")
        connection.execute("create table if not exists bench.filled (part text primary key, is_ready boolean)")
        found = dict(connection.execute("select part, is_ready from bench.filled").fetchall())
        if unready := [part for part, is_ready in found.items() if not is_ready]:
            raise RuntimeError(f"The bench before this one could not fill {', '.join(unready)}.")
        row = connection.execute("select count(*) from public.activity_feeds").fetchone()
    if "world" not in found:
        _load(own, "organizations and people", ["world"], [WORLD_PART])
    if missing := [part for part in parts if part not in found]:
        _load(own, ", ".join(missing), missing, [PARTS[part] for part in missing])
    if row and row[0] < feed:
        begin, middle = row[0] + 1, (row[0] + feed) // 2
        halves = [FEED.format(begin, middle), FEED.format(middle + 1, feed)]
        parts_of_it: list[Part] = [(("activity_feeds",), _statements(half)) for half in halves]
        _load(own, f"the feed up to {feed:,}", [f"feed {feed}"], parts_of_it)


def _load(own: Cluster, what: str, names: list[str], parts: list[Part]) -> None:
    """Drop the indexes while large tables are loaded; create them afterwards, two at a time, the slowest first."""
    print(f"filling {what} …", file=sys.stderr, flush=True)
    began, tables = time.monotonic(), sorted({table for tables, _ in parts for table in tables})
    with own.connect(SUPERUSER) as connection, ThreadPoolExecutor(2) as pool:
        connection.cursor().executemany("insert into bench.filled values (%s, false)", [[name] for name in names])
        indexes = _without_indexes(connection, tables)

        def at_once(works: Iterable[Load]) -> None:
            for done in [pool.submit(_with_connection, own, work) for work in works]:
                done.result()

        at_once(load for _, load in parts)
        at_once(_statements(definition) for definition in sorted(indexes, key=_is_quickly_made))
        at_once(_statements(f"vacuum analyze public.{table}") for table in tables)
        connection.execute("update bench.filled set is_ready = true")
    print(f"filled {what} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _is_quickly_made(definition: str) -> tuple[bool, bool]:
    return " gin " not in definition, "public.leads" not in definition


def _with_connection(own: Cluster, work: Load) -> None:
    with own.connect(SUPERUSER) as connection:
        connection.execute("set session_replication_role = replica; set work_mem = '128MB'")
        connection.execute("set maintenance_work_mem = '512MB'; set max_parallel_maintenance_workers = 0")
        connection.execute("select setseed(0.5)")
        work(connection)


def _without_indexes(connection: Connection, tables: list[str]) -> list[str]:
    """Drop indexes that are not unique; return the statements that create them again."""
    indexes = connection.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = any (%s::regclass[]) and not indisunique",
        [[f"public.{table}" for table in tables]],
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"drop index {name}")
    return [definition for _, definition in indexes]


SYLLABLES = [
    a + b for a in ("b", "ch", "d", "f", "gr", "h", "j", "k", "l", "m", "n", "p", "r", "st", "v") for b in "aeiou"
]
DOMAINS = ["gmail.com", "yahoo.com", "outlook.com", "icloud.com"]
COLUMNS = "id, organization_id, name, email, phone, company, source, status, score_value, budget, created_at"
Named = tuple[str, str, str, str, str]


def people() -> Iterator[Named]:
    """First and last name, email, phone and company; few are common and most are rare."""
    dice = random.Random(7)
    words = ["".join(dice.choice(SYLLABLES) for _ in range(dice.choice([2, 3]))) for _ in range(20_000)]
    firsts, lasts = ["james", "mary", *words[:2000]], ["smith", "johnson", *words]
    domains = [*DOMAINS, *(f"{word}.com" for word in words[:2000])]
    roll = dice.random

    def drawn(names: list[str]) -> str:
        return names[int(len(names) ** roll()) - 1]

    while True:
        first, last = drawn(firsts), drawn(lasts)
        email = f"{first}.{last}{'' if roll() < 0.5 else int(roll() * 99)}@{drawn(domains)}"
        yield first, last, email, f"({int(201 + roll() * 788)}) 555-{int(roll() * 10_000):04}", f"{drawn(words)} Homes"


def _organizations() -> Iterator[int]:
    """Organizations of leads: one in four leads is of the first organization, the others are random."""
    dice = random.Random(8)
    for number in range(LEADS):
        yield 1 if number % (LEADS // TENANTS_LEADS) == 0 else 1 + int((ORGANIZATIONS - 1) ** dice.random())


def lead_of_the_tenant() -> dict[str, str]:
    """A lead in the middle, by name, email and phone."""
    for number, (first, last, email, phone, _) in enumerate(people()):
        if number == 1_000:
            return {"first": first, "last": last, "email": email, "phone": phone}
    raise AssertionError


def _leads(connection: Connection) -> None:
    row = connection.execute(
        'select enum_range(null::public."LeadStatus")::text[], enum_range(null::public."LeadSource")::text[], now()'
    ).fetchone()
    assert row
    statuses, sources, now = row
    began = now.timestamp()
    ids = [organization(number) for number in range(ORGANIZATIONS + 1)]
    with connection.cursor().copy(f"copy public.leads ({COLUMNS}) from stdin") as copy:
        for n, (org, (first, last, email, phone, company)) in enumerate(zip(_organizations(), people(), strict=False)):
            made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began - (LEADS - n) * 60))
            copy.write(
                f"{ROW_ID.format(n)}\t{ids[org]}\t{first.title()} {last.title()}\t{email}\t{phone}\t{company}"
                f"\t{sources[n // 10 % len(sources)]}\t{statuses[n // 10 % len(statuses)]}\t{n % 101}"
                f"\t{n % 1000 * 1000}\t{made}\n"
            )


def _statements(text: str) -> Load:
    def load(connection: Connection) -> None:
        connection.execute(text)

    return load


WORLD_PART: Part = (("organizations", "users", "organization_members"), _statements(WORLD))
# The tables of each, and what fills them.
PARTS: dict[str, Part] = {
    "leads": (("leads",), _leads),
    "orders": (("custom_agent_orders", "order_milestones"), _statements(ORDERS_AND_MILESTONES)),
    "deals": (("deals",), _statements(DEALS_OF_ALL)),
    "templates": (("agent_templates",), _statements(TEMPLATES_OF_ALL)),
}
