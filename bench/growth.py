"""A table that only grows, whole and by month: `python -m bench.growth TABLE [MILLIONS …]` (activity_logs 1 3).

Both copies have the same rows of a year and the same indexes. Measured are the newest 50 rows of a tenant, planned at
every request (as behind a pooler) and prepared, one INSERT, and taking the oldest month away.
"""

import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg

from bench import machine
from bench.population import DRAWN, ORG, TENANT
from bench.rounds import ratios, rounds, spread
from local.temporary import migrated

COPIES = ("whole", "by_month")
MONTHS, ROUNDS, READS, INSERTS, BATCH = 13, 7, 200, 500, 500_000
COLUMNS = {
    "activity_logs": {
        "action": "'updated'", "resource_type": "'leads'", "resource_id": "gen_random_uuid()",
        "old_data": "jsonb_build_object('notes', 'before ' || n)",
        "new_data": "jsonb_build_object('notes', 'after ' || n)",
        "ip_address": "'192.0.2.1'", "user_agent": "'Mozilla/5.0 (X11; Linux x86_64)'",
    },
    "activity_feeds": {
        "type": "'USER_ACTION'::public.\"DashboardActivityType\"", "title": "'Something happened, number ' || n",
        "entity_type": "'lead'", "entity_id": "n::text", "action": "'updated'",
    },
}  # fmt: skip
Connection = psycopg.Connection[Any]


def create(connection: Connection, table: str) -> None:
    connection.execute("create schema bench")
    connection.execute(f"create table bench.whole (like public.{table} including defaults including constraints)")
    connection.execute(
        f"create table bench.by_month (like public.{table} including defaults including constraints)"
        " partition by range (created_at)"
    )
    for back in range(MONTHS):
        connection.execute(
            f"do $$ begin execute format('create table bench.month_{back} partition of bench.by_month"
            f" for values from (%L) to (%L)', date_trunc('month', now()) - interval '{back} months',"
            f" date_trunc('month', now()) - interval '{back - 1} months'); end $$"
        )
    # A unique index of a table in parts would need the column created_at.
    indexes = connection.execute(
        "select replace(pg_get_indexdef(indexrelid), 'UNIQUE ', '') from pg_index where indrelid = %s::regclass",
        [f"public.{table}"],
    ).fetchall()
    for (definition,) in indexes:
        before, _, after = definition.partition(" ON ")
        where = after.partition(" USING ")[2]
        for copy in COPIES:
            connection.execute(f"create index on bench.{copy} using {where}")
        assert before


def fill(connection: Connection, table: str, first: int, last: int) -> None:
    """Rows of all ages, so that each size covers a year."""
    names = ", ".join(COLUMNS[table])
    chosen = f"id, organization_id, created_at, {names}"
    for start in range(first, last, BATCH):
        stop = min(start + BATCH, last)
        print(f"{table}: {stop:,} rows", file=sys.stderr, flush=True)
        connection.execute(
            f"create temp table batch as select gen_random_uuid() as id, {ORG.format('d.org')} as organization_id,"
            f" date_trunc('month', now()) - random() * interval '365 days' + interval '1 month' as created_at,"
            f" {', '.join(f'{value} as {name}' for name, value in COLUMNS[table].items())}"
            f" from (select n, {DRAWN} as org from generate_series({start + 1}, {stop}) n) d"
        )
        for copy in COPIES:
            connection.execute(f"insert into bench.{copy} ({chosen}) select {chosen} from batch order by created_at")
        connection.execute("drop table batch")


def newest(connection: Connection, copy: str, *, prepared: bool) -> float:
    query = f"select * from bench.{copy} where organization_id = %s order by created_at desc limit 50"
    for _ in range(10):  # the sixth run of a prepared statement has its plan
        connection.execute(query, [TENANT], prepare=prepared)
    began = time.perf_counter()
    for _ in range(READS):
        connection.execute(query, [TENANT], prepare=prepared)
    return (time.perf_counter() - began) / READS * 1e6


def insert(connection: Connection, table: str, copy: str) -> float:
    names = ", ".join(COLUMNS[table])
    values = ", ".join(COLUMNS[table].values())
    with connection.transaction():
        connection.execute("select setseed(0.5)")
        statement = (
            f"insert into bench.{copy} (organization_id, created_at, {names})"
            f" select {ORG.format('%s')}, now(), {values} from (select %s) r (n)"
        )
        began = time.perf_counter()
        for number in range(INSERTS):
            connection.execute(statement, [1 + number * 7919 % 2000, number], prepare=True)
        return (time.perf_counter() - began) / INSERTS * 1e6


def remove(connection: Connection) -> dict[str, float]:
    """The oldest month: deleted from the one, detached from the other."""
    last = MONTHS - 1
    ends = f"date_trunc('month', now()) - interval '{last - 1} months'"
    seconds = {}
    for copy, statement in (
        ("whole", f"delete from bench.whole where created_at < {ends}"),
        ("by_month", f"alter table bench.by_month detach partition bench.month_{last}"),
    ):
        began = time.perf_counter()
        connection.execute(statement)
        seconds[copy] = round(time.perf_counter() - began, 3)
    return seconds


def measure(connection: Connection, table: str, millions: list[float]) -> dict[str, Any]:
    create(connection, table)
    found: dict[str, Any] = {}
    rows = 0
    for size in millions:
        fill(connection, table, rows, rows := int(size * 1_000_000))
        for copy in COPIES:
            connection.execute(f"vacuum analyze bench.{copy}")
        samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in rounds(f"{table}, {size:g} M rows", ROUNDS):
            for copy in COPIES:
                samples["newest 50, planned"][copy].append(newest(connection, copy, prepared=False))
                samples["newest 50, prepared"][copy].append(newest(connection, copy, prepared=True))
                samples["insert"][copy].append(insert(connection, table, copy))
        found[f"{size:g} M"] = {
            what: {
                "whole_us": spread(of["whole"]),
                "by_month_us": spread(of["by_month"]),
                "ratio": ratios(of["by_month"], of["whole"]),
            }
            for what, of in samples.items()
        }
    (size_of_whole,) = connection.execute("select pg_total_relation_size('bench.whole')").fetchone() or (0,)
    return {"sizes": found, "whole_gb": round(size_of_whole / 1e9, 2), "oldest_month_seconds": remove(connection)}


def main() -> None:
    table, *millions = sys.argv[1:] or ["activity_logs", "1", "3"]
    with tempfile.TemporaryDirectory() as folder, migrated(Path(folder)) as cluster, cluster.connect() as connection:
        found = measure(connection, table, [float(each) for each in millions])
    print(json.dumps({"machine": machine(), "figures": found}, indent=2))


if __name__ == "__main__":
    main()
