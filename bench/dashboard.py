"""What the first screen and metrics cost: `python -m bench.dashboard`.

The screen is set against the same reads as plain statements of the same caller, one after the other in one transaction
on the same machine; a metric against the statement somebody would write by hand, without row level
security, who knows the organisation.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import machine
from local.postgres import SUPERUSER, Cluster
from local.temporary import migrated
from tests.world import ACME, Connection, become, claims_of, populate

ROUNDS = 15
LEADS = 300_000
ORGANIZATIONS = 500
# A fifth of everything is Acme's.
FILL = """
    insert into public.organizations (id, name, slug)
    select gen_random_uuid(), 'O ' || n, 'o-' || n from generate_series(1, %(more)s) n;
    create temp table ids as
    select id, row_number() over (order by id) - 1 as place from public.organizations where id <> %(acme)s;
    insert into public.leads
      (organization_id, name, email, status, source, score_value, budget, created_at)
    select coalesce(i.id, %(acme)s), 'Somebody', 'somebody' || n || '@example.test',
      (enum_range(null::"LeadStatus"))[1 + n / 5 %% 6], (enum_range(null::"LeadSource"))[1 + n / 5 %% 9],
      n %% 101, n %% 1000 * 1000, now() - n * interval '2 minutes'
    from generate_series(1, %(leads)s) n left join ids i on n %% 5 > 0 and i.place = n %% %(more)s;
    insert into public.activity_feeds (organization_id, title, type, entity_type, entity_id, action, created_at)
    select organization_id, name, 'USER_ACTION', 'lead', id::text, 'created', created_at from public.leads;
    insert into public.deals (organization_id, title, value, stage, status, probability, created_at)
    select organization_id, 'Deal', budget, 'LEAD', 'ACTIVE', 10, created_at from public.leads where score_value < 20;
"""
NEWLY = "organization_id = %(acme)s and created_at > now() - interval '60 d' and created_at <= now()"
METRICS: dict[str, tuple[dict[str, Any], str]] = {
    "count of the last 30 days": (
        {"source": "leads", "aggregate": "count", "period": "30d"},
        (
            "select count(*) filter (where created_at > now() - interval '30 d'),"
            f" count(*) filter (where created_at <= now() - interval '30 d') from public.leads where {NEWLY}"
        ),
    ),
    "converted, by day of 30": (
        {"source": "leads", "aggregate": "count", "where": {"status": "CONVERTED"}, "period": "30d", "group_by": "day"},
        (
            f"select date_trunc('day', created_at), count(*) from public.leads where {NEWLY} and status = 'CONVERTED'"
            " group by 1 order by 1"
        ),
    ),
    "budget of all, by source": (
        {"source": "leads", "aggregate": "sum", "column": "budget", "group_by": "source"},
        "select source, sum(budget) from public.leads where organization_id = %(acme)s group by 1 order by 2 desc",
    ),
    "converted ever": (
        {"source": "leads", "aggregate": "count", "where": {"status": "CONVERTED"}},
        "select count(*) from public.leads where organization_id = %(acme)s and status = 'CONVERTED'",
    ),
    "nothing to count": (
        {"source": "listings", "aggregate": "count"},
        "select count(*) from public.listings where organization_id = %(acme)s",
    ),
}
CLOSED = "actual_close_date > now() - interval '60 d' and actual_close_date <= now()"
DAYS_30 = "created_at > now() - interval '60 d' and created_at <= now()"
# What a client would read for the screen of a new organisation.
SCREEN = [
    "select * from public.user_dashboards where user_id = auth.uid()",
    "select * from public.organizations",
    "select * from public.dashboard_widgets where is_visible",
    "select * from public.dashboard_metrics",
    f"select date_trunc('day', created_at, 'UTC'), count(*) from public.leads where {DAYS_30} group by 1",
    "select sum(value) from public.deals where status = 'ACTIVE'",
    f"select sum(value) from public.deals where status = 'WON' and {CLOSED}",
    # A status of tasks, the first of these, not work left to do.
    "select count(*) from public.tasks where due_date < now() and status in ('TODO', 'IN_PROGRESS', 'REVIEW')",
    "select * from public.agenda(now(), now() + interval '7 d')",
    "select * from public.feed_page(page_size => 10)",
    "select * from public.feed_page(page_size => 20)",
    "select * from public.my_quick_actions()",
    "select * from public.my_quick_actions()",
    "select * from public.notifications order by created_at desc limit 10",
    "select public.unread_notification_count()",
    "select public.unread_notification_count()",
    "select * from public.active_alerts()",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as cluster:
        with cluster.connect() as connection:
            populate(connection)
        with cluster.connect(SUPERUSER) as connection:
            fill(connection)
        figures = measure(cluster)
    size = {"leads": LEADS, "organizations": ORGANIZATIONS, "of_the_tenant": 0.2}
    print(json.dumps({"machine": machine(), **size, "rounds": ROUNDS, "figures": figures}, indent=2))


def fill(connection: Connection) -> None:
    connection.execute("set session_replication_role = replica")
    for statement in filter(str.strip, FILL.split(";")):
        connection.execute(statement, {"more": ORGANIZATIONS - 2, "leads": LEADS, "acme": ACME})
    connection.execute("reset session_replication_role")
    for table in ("leads", "deals", "activity_feeds"):
        connection.execute(f"vacuum analyze public.{table}")


def measure(cluster: Cluster) -> dict[str, Any]:
    figures: dict[str, Any] = {"metrics": {}}
    for name, (query, statement) in METRICS.items():
        ours = timed(cluster, run("select public.evaluate_metric(%(query)s)", query=json.dumps(query)))
        plain = timed(cluster, run(statement, acme=ACME), secured=False)
        figures["metrics"][name] = compared(ours, plain)

    def plainly(connection: Connection) -> None:
        for statement in SCREEN:
            connection.execute(statement).fetchall()

    def snapshot(connection: Connection) -> None:
        connection.execute("select public.dashboard_snapshot()::text").fetchall()

    by_hand = timed(cluster, plainly)
    figures["first screen, counted"] = compared(timed(cluster, snapshot), by_hand)
    with cluster.connect() as connection:
        connection.execute("select private.run_job('refresh_dashboard_metrics')")
    figures["first screen, kept"] = compared(timed(cluster, snapshot), by_hand)
    return figures


def run(statement: str, **values: Any) -> Callable[[Connection], Any]:
    return lambda connection: connection.execute(statement, values).fetchall()


def compared(ours: float, plain: float) -> dict[str, float]:
    return {"ms": round(ours, 2), "by_hand_ms": round(plain, 2), "ratio": round(ours / plain, 2)}


def timed(cluster: Cluster, work: Callable[[Connection], Any], *, secured: bool = True) -> float:
    """Milliseconds of the fastest half, after a first run that fills the caches of the session."""
    with cluster.connect("authenticator" if secured else "postgres") as connection, connection.transaction():
        if secured:
            become(connection, "authenticated", claims_of("member"), {})
        work(connection)
        taken = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            work(connection)
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(sorted(taken)[: ROUNDS // 2 + 1])


if __name__ == "__main__":
    main()
