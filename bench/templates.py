"""How long a search among 100,000 templates of 2,000 organisations takes: `python -m bench.templates`.

The reference is the same search written by hand without row level security, by somebody who knows the organisation.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import machine
from local.postgres import SUPERUSER, Cluster
from local.temporary import migrated
from tests.world import ACME, Connection, become, claims_of, populate

ROUNDS = 9
TEMPLATES = 100_000
ORGANIZATIONS = 2_000
PUBLIC_PERCENT = 20
GOAL_MS = 10.0

FILL = """
    insert into public.organizations (id, name, slug, subscription_tier)
    select gen_random_uuid(), 'Organisation ' || n, 'organisation-' || n, 'ELITE' from generate_series(1, %(more)s) n;
"""
# Words as in life: the n-th most frequent of 5,000 words stands in one of n texts.
TEXTS = """
    create temp table texts as
    select n as id, 'w' || floor(exp(random() * ln(5000))) as name,
      (select string_agg('w' || floor(exp(random() * ln(5000))), ' ') from generate_series(1, 40) where n >= 0) as body
    from generate_series(0, 2999) n
"""
TEMPLATES_OF_ALL = """
    insert into public.agent_templates (organization_id, name, description, category, personality_config, model_config,
      tools_config, memory_config, tags, usage_count, is_public, created_at)
    select ids[1 + n %% cardinality(ids)], 'Agent ' || a.name || ' ' || b.name, a.body,
      (enum_range(null::public."AgentCategory"))[1 + n %% 6], '{}', '{}', '{}', '{}',
      array['t' || floor(exp(random() * ln(300))), 'u' || n %% 40], floor(exp(random() * ln(5000))),
      n * 7919 %% 100 < %(percent)s, now() - n * interval '1 minute'
    from (select array_agg(id order by id) as ids from public.organizations) o
    cross join generate_series(1, %(templates)s) n
    join texts a on a.id = n %% 3000 join texts b on b.id = n * 7 %% 2999
"""
SEARCHES: dict[str, dict[str, Any]] = {
    "a rare word": {"query": "w4321"},
    "two words": {"query": "w120 w77"},
    "a common word": {"query": "w9"},
    "the beginning of a word": {"query": "w43"},
    "a category": {"category": "SALES"},
    "a tag": {"tags": ["u35"]},
    "category, tag and word": {"category": "SALES", "tags": ["t4"], "query": "w20"},
    "nothing": {},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as cluster:
        with cluster.connect() as connection:
            populate(connection)
        with cluster.connect(SUPERUSER) as connection:
            fill(connection)
        figures = measure(cluster)
    size = {"templates": TEMPLATES, "organizations": ORGANIZATIONS, "public_percent": PUBLIC_PERCENT}
    print(
        json.dumps({"machine": machine(), **size, "rounds": ROUNDS, "goal_ms": GOAL_MS, "figures": figures}, indent=2)
    )


def fill(connection: Connection) -> None:
    connection.execute("set session_replication_role = replica")
    connection.execute(TEXTS)
    connection.execute(FILL, {"more": ORGANIZATIONS - 2})
    connection.execute(TEMPLATES_OF_ALL, {"percent": PUBLIC_PERCENT, "templates": TEMPLATES})
    connection.execute("reset session_replication_role")
    connection.execute("vacuum analyze public.agent_templates")
    connection.execute("analyze public.organizations")


def measure(cluster: Cluster) -> dict[str, Any]:
    figures = {}
    for name, search in SEARCHES.items():
        print(name, file=sys.stderr)
        arguments = ", ".join(f"{word} => %({word})s" for word in search)
        with cluster.connect("authenticator") as connection, connection.transaction(force_rollback=True):
            become(connection, "authenticated", claims_of("member"), {})
            found, ours = timed(connection, f"select * from public.search_templates({arguments})", search)
        with cluster.connect() as connection:
            same, plain = timed(connection, by_hand(search), search | {"org": ACME})
        if [row[0] for row in found] != [row[0] for row in same]:
            raise AssertionError(f"{name}: the search finds others than the reference")
        figures[name] = {"found": len(found), "ms": ours, "by_hand_ms": plain}
    return figures


def by_hand(search: dict[str, Any]) -> str:
    """Without any index for words."""
    conditions = ["(is_public or is_system or organization_id = %(org)s)"]
    text = "lower(concat_ws(' ', name, description, array_to_string(tags || features || use_cases, ' ')))"
    conditions += [f"{text} ~ '\\m{word}'" for word in search.get("query", "").split()]
    if "category" in search:
        conditions.append("category = %(category)s")
    if "tags" in search:
        conditions.append("tags @> %(tags)s")
    named = "strpos(lower(name), %(query)s) > 0 desc, " if "query" in search else ""
    return (
        f"select * from public.agent_templates where {' and '.join(conditions)}"
        f" order by {named}usage_count desc, created_at desc, id desc limit 20"
    )


def timed(connection: Connection, statement: str, values: dict[str, Any]) -> tuple[list[Any], float]:
    """What it gives, and the median of its milliseconds once the caches are warm."""
    rows = connection.execute(statement, values).fetchall()
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        connection.execute(statement, values).fetchall()
        taken.append((time.perf_counter() - started) * 1000)
    return rows, round(statistics.median(taken), 2)


if __name__ == "__main__":
    main()
