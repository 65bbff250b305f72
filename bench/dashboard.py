"""What the first screen and metrics cost: `python -m bench.dashboard`.

The screen is set against the same reads as plain statements of the same caller, one after the other in one transaction;
a metric against handwritten SQL for one organization, without policies.
"""

import json
from typing import Any

from bench import machine, population
from bench.population import TENANT, Connection
from bench.side_by_side import compare, statement

NEWLY = "organization_id = %(org)s and created_at > now() - interval '60 d' and created_at <= now()"
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
        "select source, sum(budget) from public.leads where organization_id = %(org)s group by 1 order by 2 desc",
    ),
    "converted ever": (
        {"source": "leads", "aggregate": "count", "where": {"status": "CONVERTED"}},
        "select count(*) from public.leads where organization_id = %(org)s and status = 'CONVERTED'",
    ),
    "nothing to count": (
        {"source": "listings", "aggregate": "count"},
        "select count(*) from public.listings where organization_id = %(org)s",
    ),
}
CLOSED = "actual_close_date > now() - interval '60 d' and actual_close_date <= now()"
DAYS_30 = "created_at > now() - interval '60 d' and created_at <= now()"
# Rows a client reads for the first screen of a new organization.
SCREEN = [
    "select * from public.user_dashboards where user_id = auth.uid()",
    "select * from public.organizations",
    "select * from public.dashboard_widgets where is_visible",
    "select * from public.dashboard_metrics",
    f"select date_trunc('day', created_at, 'UTC'), count(*) from public.leads where {DAYS_30} group by 1",
    "select sum(value) from public.deals where status = 'ACTIVE'",
    f"select sum(value) from public.deals where status = 'WON' and {CLOSED}",
    # The first status of tasks is a value, not a note.
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
    snapshot = statement("select public.dashboard_snapshot()::text")
    with population.database() as own:
        population.fill(own, "leads", "deals", feed=population.FEEDS[0])
        metrics = {
            name: compare(
                own,
                name,
                statement("select public.evaluate_metric(%(query)s)", query=json.dumps(query)),
                statement(by_hand, org=TENANT),
            )
            for name, (query, by_hand) in METRICS.items()
        }
        counted = compare(own, "first screen, counted", snapshot, plainly, secured=True)
        with own.connect() as connection:
            connection.execute("select private.refresh_dashboard_metrics()")
        kept = compare(own, "first screen, kept", snapshot, plainly, secured=True)
    found = {"metrics": metrics, "first_screen": {"counted": counted, "kept": kept}}
    print(json.dumps({"machine": machine(), "figures": found}, indent=2))


def plainly(connection: Connection) -> None:
    for each in SCREEN:
        connection.execute(each, prepare=True).fetchall()


if __name__ == "__main__":
    main()
