"""How long a search among 100,000 templates of 2,000 organizations takes: `python -m bench.templates`.

The reference is handwritten SQL for the same search in one organization, without row level security.
"""

import json
from typing import Any

from bench import machine, population
from bench.population import MEMBER, TENANT
from bench.side_by_side import compare, enter, statement
from local.postgres import Cluster

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
    with population.database() as own:
        population.fill(own, "templates")
        searches = {name: measure(own, name, search) for name, search in SEARCHES.items()}
    slowest = max(searches, key=lambda name: searches[name]["ms"]["median"])
    found = {
        "slowest_search": {"kind": slowest, **searches[slowest]["ms"], "ratio": searches[slowest]["ratio"]},
        "searches": searches,
    }
    size = {"templates": population.TEMPLATES, "public_percent": population.PUBLIC_PERCENT}
    print(json.dumps({"machine": machine(), **size, "figures": found}, indent=2))


def measure(own: Cluster, name: str, search: dict[str, Any]) -> dict[str, Any]:
    arguments = ", ".join(f"{word} => %({word})s" for word in search)
    ours = statement(f"select * from public.search_templates({arguments})", **search)
    plain = statement(by_hand(search), **search, org=TENANT)
    with own.connect("authenticator") as connection, connection.transaction():
        enter(connection, MEMBER, TENANT, "authenticated")
        found = [row[0] for row in ours(connection)]
    with own.connect() as connection:
        if found != [row[0] for row in plain(connection)]:
            raise AssertionError(f"{name}: the search finds others than the reference")
    return {"found": len(found), **compare(own, name, ours, plain, repeats=2)}


def by_hand(search: dict[str, Any]) -> str:
    """Without word indexes."""
    conditions = ["(is_public or is_system or organization_id = %(org)s)"]
    text = "lower(concat_ws(' ', name, description, array_to_string(tags || features || use_cases, ' ')))"
    words = search.get("query", "").split()
    conditions += [f"{text} ~ '\\m{word}'" for word in words]
    if "category" in search:
        conditions.append("category = %(category)s")
    if "tags" in search:
        conditions.append("tags @> %(tags)s")
    in_name = " and ".join(f"lower(name) ~ '\\m{word}'" for word in words)
    named = f"({in_name}) desc, " if words else ""
    return (
        f"select * from public.agent_templates where {' and '.join(conditions)}"
        f" order by {named}usage_count desc, created_at desc, id desc limit 20"
    )


if __name__ == "__main__":
    main()
