"""How long search, pipeline report and feed take in a tenant of 50,000 leads among 500,000: `python -m bench.crm`.

A minute or two, most of it for filling. Each statement is run in turns as a member, through the policies, and by
`postgres`, whom none binds: the same SQL with the organisation named by hand. What is compared is the processor time of
the backend.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.rls import Connection, processor
from local.postgres import SUPERUSER, Cluster
from local.temporary import migrated
from tests.world import ACME, become, claims_of, populate

LEADS, TENANT, OTHERS = 500_000, 50_000, 900
DEALS, FEED = 50_000, 100_000
ROUNDS = 15
GOAL_MS = 10.0
SYLLABLES = [
    a + b for a in ("b", "ch", "d", "f", "gr", "h", "j", "k", "l", "m", "n", "p", "r", "st", "v") for b in "aeiou"
]
DOMAINS = ["gmail.com", "yahoo.com", "outlook.com", "icloud.com"]

# One in ten leads is the tenant's; of names, domains and companies few are common and most are rare, as in life.
FILL = """
    set session_replication_role = replica;
    insert into public.organizations (id, name, slug)
    select gen_random_uuid(), 'Organisation ' || n, 'organisation-' || n from generate_series(1, %(others)s) n;
    create temp table orgs as select array_agg(id order by id) as ids from public.organizations where id <> %(org)s;
"""
ORG = "case when n %% 10 = 0 then %(org)s::uuid else (select ids[1 + n %% cardinality(ids)] from orgs) end"
DEALS_AND_FEED = f"""
    insert into public.deals (organization_id, title, value, stage, status, probability, actual_close_date, lost_reason)
    select {ORG}, 'Sale ' || n, n, s.stage, s.status, s.probability,
      case when s.status <> 'ACTIVE' then now() end, case when s.status = 'LOST' then 'Price' end
    from generate_series(1, %(deals)s) n
    join private.deal_stages s on s.stage = (enum_range(null::public."DealStage"))[1 + n / 10 %% 7];
    insert into public.activity_feeds (organization_id, type, title, entity_type, entity_id, action, created_at)
    select {ORG}, 'USER_ACTION', 'Something happened', 'lead', n::text, 'updated', now() - n * interval '1 second'
    from generate_series(1, %(feed)s) n;
"""
SEARCHES = {
    "a name": "{first} {last}",
    "the beginning of a name": "{last:.5}",
    "two beginnings": "{first:.4} {last:.4}",
    "a letter left out": "{last:.3}{last_rest}",
    "letters changed places": "jmaes smiht",
    "a phone number": "{phone}",
    "its digits alone": "{digits}",
    "its local part": "{local}",
    "an email": "{email}",
    "a domain": "gmail.com",
    "a common first name": "james",
    "a common one misspelt": "jonson",
    "common first and last name": "james smith",
    "nothing": "zzxqj",
}
PIPELINE = """
    select s.stage, coalesce(d.deals, 0), coalesce(d.value, 0), coalesce(round(d.weighted, 2), 0)
    from unnest(enum_range(null::public."DealStage")) s (stage)
    left join (
      select stage, count(*) as deals, sum(value) as value, sum(value * probability) / 100 as weighted
      from public.deals where organization_id = %(org)s group by stage
    ) d using (stage) order by s.stage
"""
NEWEST = "select * from public.activity_feeds {} order by created_at desc limit 50"
REPORTS = {
    "pipeline report": ("select * from public.pipeline_report()", PIPELINE),
    "feed, newest 50": (NEWEST.format(""), NEWEST.format("where organization_id = %(org)s")),
    "leads, newest 50": (
        "select * from public.leads order by created_at desc limit 50",
        "select * from public.leads where organization_id = %(org)s order by created_at desc limit 50",
    ),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as own:
        with own.connect() as connection:
            populate(connection)
        with own.connect(SUPERUSER) as connection:
            lead = fill(connection)
        searches = {name: compare(own, *search(form, lead)) for name, form in SEARCHES.items()}
        reports = {name: compare(own, *pair, {}) for name, pair in REPORTS.items()}
    took = [one for figure in searches.values() for one in figure.pop("taken")]
    for figure in reports.values():
        del figure["taken"]
    summary = {
        "p50_ms": round(statistics.median(took), 2),
        "p95_ms": round(statistics.quantiles(took, n=20)[-1], 2),
        "slowest_cpu_ms": max(figure["cpu_ms"] for figure in searches.values()),
        "goal_ms": GOAL_MS,
    }
    size = {"leads": LEADS, "tenant": TENANT, "deals": DEALS, "feed": FEED}
    print(
        json.dumps(
            {"machine": machine(), **size, "search": summary, "searches": searches, "reports": reports}, indent=2
        )
    )


def fill(connection: Connection) -> dict[str, str]:
    """Loaded with the indexes away, as a large table is; answers with one lead of the tenant."""
    began = time.monotonic()
    connection.execute("set maintenance_work_mem = '512MB'")
    values = {"org": ACME, "others": OTHERS, "deals": DEALS, "feed": FEED}
    for statement in FILL.split(";")[:-1]:
        connection.execute(statement, values if "%(" in statement else None)
    others = connection.execute("select ids from orgs").fetchone()
    assert others
    indexes = connection.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = 'public.leads'::regclass and not indisunique"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"drop index {name}")
    dice = random.Random(7)
    words = ["".join(dice.choice(SYLLABLES) for _ in range(dice.choice([2, 3]))) for _ in range(20_000)]
    firsts, lasts = ["james", "mary", *words[:2000]], ["smith", "johnson", *words]
    domains = [*DOMAINS, *(f"{word}.com" for word in words[:2000])]

    def drawn(names: list[str]) -> str:
        return names[int(len(names) ** dice.random()) - 1]

    columns = "organization_id, name, email, phone, company, source, created_at"
    with connection.cursor().copy(f"copy public.leads ({columns}) from stdin") as copy:
        for n in range(LEADS):
            first, last, phone = (
                drawn(firsts),
                drawn(lasts),
                f"({dice.randint(201, 989)}) 555-{dice.randint(0, 9999):04}",
            )
            email = f"{first}.{last}{dice.choice(['', dice.randint(1, 99)])}@{drawn(domains)}"
            if n == LEADS // 2:
                chosen = {"first": first, "last": last, "phone": phone, "email": email}
            org = ACME if n % 10 == 0 else others[0][n % len(others[0])]
            made = f"2026-{1 + n % 10:02}-{1 + n % 28:02}"
            copy.write_row((org, f"{first} {last}".title(), email, phone, f"{drawn(words)} Homes", "WEBSITE", made))
    for _, definition in indexes:
        connection.execute(definition)
    for statement in DEALS_AND_FEED.split(";")[:-1]:
        connection.execute(statement, values)
    for table in ("leads", "deals", "activity_feeds"):
        connection.execute(f"vacuum analyze public.{table}")
    print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return chosen


def search(form: str, lead: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
    digits = "".join(filter(str.isdigit, lead["phone"]))
    query = form.format(**lead, last_rest=lead["last"][4:], digits=digits, local=lead["phone"][6:])
    statement = "select * from public.search_crm(%(query)s)"
    return statement, statement, {"query": query}


def compare(own: Cluster, secured: str, by_hand: str, values: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of processor in the least disturbed run of each side, and of waiting as a member."""
    used: dict[str, list[float]] = {"authenticated": [], "postgres": []}
    taken, found = [], 0
    with own.connect("authenticator") as member, own.connect() as bare:
        for connection, role in ((member, "authenticated"), (bare, "postgres")):
            connection.autocommit = False
            become(connection, role, claims_of("member"), {})
        for number in range(ROUNDS + 6):
            for connection, role, query in ((member, "authenticated", secured), (bare, "postgres", by_hand)):
                before, began = processor(connection.info.backend_pid), time.perf_counter()
                rows = connection.execute(query, values | {"org": ACME}, prepare=True).fetchall()
                waited = (time.perf_counter() - began) * 1000
                if number > 5:  # the first ones plan and fill caches
                    used[role].append((processor(connection.info.backend_pid) - before) * 1000)
                    if role == "authenticated":
                        taken.append(waited)
                        found = len(rows)
    ours, plain = (statistics.median(used[role]) for role in ("authenticated", "postgres"))
    return {
        "found": found,
        "cpu_ms": round(ours, 2),
        "by_hand_cpu_ms": round(plain, 2),
        "ratio": round(ours / plain, 2),
        "p50_ms": round(statistics.median(taken), 2),
        "p95_ms": round(statistics.quantiles(taken, n=20)[-1], 2),
        "taken": taken,
    }


if __name__ == "__main__":
    main()
