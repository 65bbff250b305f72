"""What row level security costs: `python -m bench.rls`.

2,000 organizations (zipf) and 20,000 users; 1 M feed entries, 200 k leads, 100 k orders with 300 k milestones. The same
statement is run as a member through the policies, with no condition of its own, and by hand with the condition and
without policies; what is compared is the processor time of the backend. Feeds are measured at 100 k and 1 M rows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from bench import machine, population
from bench.population import FEEDS, USER_ID, Connection, organization
from bench.rounds import ratios, rounds, spread
from bench.side_by_side import enter, processor
from local.postgres import Cluster

REPEATS, ROUNDS = 40, 9
# The callers: from the largest organization to one that has 50 feed entries among the first 100 k.
CALLERS = sorted({round(250 ** (n / 8)) for n in range(9)})
Samples = dict[str, list[float]]


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
# A table that does not grow: the baseline for figures measured minutes apart.
STILL = as_the_api_asks(newest("leads"))
READS = [
    FEED_READ,
    as_the_api_asks(Statement("activity_feeds, newest 50, the client filters too", FEED.by_hand, FEED.by_hand)),
    *(as_the_api_asks(newest(table)) for table in ("leads", "custom_agent_orders", "order_milestones")),
    # The following are without JSON, where the policy weighs most.
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
    growth: dict[int, Samples] = {}
    with population.database() as own:
        population.fill(own, *population.PARTS)
        for rows in FEEDS:
            population.fill(own, feed=rows)
            growth[rows] = compare(own, FEED_READ, f"{FEED.name} of {rows:,}", beside=STILL)
        statements = {statement.name: figures(compare(own, statement, statement.name)) for statement in READS + WRITES}
    costs = [[a / b for a, b in zip(each["secured"], each["still"], strict=True)] for each in growth.values()]
    found = {
        "worst_read": worst(statements, [each.name for each in READS if each.is_goal]),
        "worst_write": worst(statements, [each.name for each in WRITES]),
        "growth": ratios(costs[-1], costs[0]),
        "feed_newest_50_by_rows": {rows: figures(samples) for rows, samples in growth.items()},
        "statements": statements,
    }
    print(json.dumps({"machine": machine(), "figures": found}, indent=2))


def compare(own: Cluster, statement: Statement, what: str, *, beside: Statement | None = None) -> Samples:
    """CPU microseconds per statement in each round, for each caller on both sides."""
    with own.connect("authenticator") as member, own.connect() as bare:
        sides = {"secured": (member, statement), "by_hand": (bare, statement)}
        if beside:
            sides["still"] = (bare, beside)
        samples: Samples = {side: [] for side in sides}
        for number in chain([0], rounds(what, ROUNDS)):  # at first to warm up
            used = dict.fromkeys(sides, 0.0)
            for caller in CALLERS:
                for side, (connection, each) in sides.items():
                    used[side] += run(connection, each, caller, secured=side == "secured")
            for side in sides if number else ():
                samples[side].append(used[side] / len(CALLERS) / REPEATS * 1e6)
    return samples


def figures(samples: Samples) -> dict[str, Any]:
    return {
        "secured_us": spread(samples["secured"]),
        "by_hand_us": spread(samples["by_hand"]),
        "ratio": ratios(samples["secured"], samples["by_hand"]),
    }


def worst(statements: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    name = max(names, key=lambda each: float(statements[each]["ratio"]["median"]))
    return {"statement": name, **statements[name]["ratio"]}


def run(connection: Connection, statement: Statement, caller: int, *, secured: bool) -> float:
    """CPU seconds for all repeats; their writes are rolled back."""
    connection.autocommit = False
    values = {"user": USER_ID.format(caller), "org": organization(caller)}
    enter(connection, values["user"], values["org"], "authenticated" if secured else "postgres")
    lead = connection.execute(
        "select id from public.leads where organization_id = %s order by created_at desc limit 1", [values["org"]]
    ).fetchone()
    assert lead
    query = statement.query(values | {"lead": str(lead[0])}, secured=secured)
    connection.execute(query, prepare=True)
    before = processor(connection.info.backend_pid)
    for _ in range(REPEATS):
        connection.execute(query, prepare=True)
    used = processor(connection.info.backend_pid) - before
    connection.rollback()
    return used


if __name__ == "__main__":
    main()
