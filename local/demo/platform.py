"""The platform: its metrics, a running experiment, an alert, tools and open onboarding sessions."""

# ruff: noqa: PLR2004 - shares and days of a story, not settings

import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from local.demo.story import Row, Story


def add_platform(story: Story, connection: psycopg.Connection[Any]) -> None:
    """400 days of metrics, an experiment that runs, alerts, tools."""
    random = story.random
    known = {day for (day,) in connection.execute("select date from public.platform_metrics")}
    used: dict[tuple[str, date], int] = defaultdict(int)
    for usage in story.rows["usage_tracking"]:
        used[usage["resource_type"], usage["day"]] += usage["usage_amount"]
    for back in range(400, 0, -1):
        day, grown = (story.at - timedelta(days=back)).date(), 1 - back / 500
        orgs = round(180 * grown)
        paying = round(orgs * 0.6)
        churn = round(random.uniform(0.01, 0.04), 4)
        if day not in known:
            story.add(
                "platform_metrics",
                date=day,
                total_users=orgs * 6,
                active_users=orgs * 4,
                new_users=random.randint(0, 9),
                total_orgs=orgs,
                active_orgs=round(orgs * 0.9),
                new_orgs=random.randint(0, 2),
                mrr_cents=paying * 52_000,
                arr_cents=paying * 624_000,
                churn_rate=churn,
                free_count=orgs - paying,
                starter_count=paying // 2,
                growth_count=paying // 3,
                elite_count=paying // 6,
                enterprise_count=2,
                total_storage=used["STORAGE", day],
                api_calls=used["API_CALLS", day],
                measured_at=datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, minutes=1),
            )
            story.add("platform_revenue", **_revenue(day, paying, churn))
    admin = connection.execute("select id from public.users where global_role = 'SUPER_ADMIN' order by id").fetchone()
    if admin and not connection.execute("select from public.feature_flags where name = 'demo.start-page'").rowcount:
        flag = story.add(
            "feature_flags",
            name="demo.start-page",
            description="Which start page leads to more calls?",
            is_enabled=True,
            rollout_percent=100,
            created_by=admin[0],
            version=1,
            starts_at=story.at - timedelta(days=20),
            variants=json.dumps([{"name": "list", "weight": 1}, {"name": "map", "weight": 1}]),
            seed=UUID(int=random.getrandbits(128), version=4),
        )
        for unit in range(200):
            story.add(
                "feature_flag_exposures",
                flag_id=flag["id"],
                seed=flag["seed"],
                unit=f"visitor-{unit}",
                variant=random.choice(("list", "map")),
                created_at=story.moment(20),
            )
        group = story.add("feature_flag_groups", name="demo.testers", description="Agencies that try new pages first.")
        story.add("feature_flag_group_members", group_id=group["id"], value=json.dumps("acme"))
        liked = "select s.id, u.id from public.project_showcases s cross join public.users u order by u.id limit 3"
        for showcase, person in connection.execute(liked):
            story.add("showcase_likes", showcase_id=showcase, user_id=person, created_at=story.moment(30))
        for step, name in ((2, "Harbor Homes"), (3, "Sunset Estates")):
            story.add(
                "onboarding_sessions",
                token_hash=f"{random.getrandbits(256):064x}",
                current_step=step,
                org_name=name,
                selected_tier="STARTER" if step == 3 else None,
                billing_cycle="MONTHLY" if step == 3 else None,
                created_at=story.at,
                expires_at=story.at + timedelta(hours=24),
            )
        _settled(story)
        alert = story.add(
            "system_alerts",
            title="Maintenance on Sunday",
            message="Strive is read-only from 2:00 to 2:20 UTC.",
            level="WARNING",
            category="MAINTENANCE",
            is_global=True,
            created_by=admin[0],
            starts_at=story.at,
            ends_at=story.at + timedelta(days=7),
        )
        for table in ("system_alert_views", "system_alert_dismissals"):
            story.add(table, alert_id=alert["id"], user_id=admin[0])
        for name, kind in (("Listing writer", "text"), ("Price estimate", "analysis")):
            story.add("ai_tools", name=name, tool_type=kind, description=f"{name}, for every agent.")


def _settled(story: Story) -> None:
    """What billing had to repair, all of it done: the jobs of the demo find nothing of it to do at Stripe."""
    for number, (reason, status) in enumerate(
        (("DUPLICATE", "REFUNDED"), ("UNCLAIMED", "REFUNDED"), ("UNCLAIMED", "WITHDRAWN"))
    ):
        since = story.moment(300, 20)
        story.add(
            "refunds_due",
            object_id=f"sub_demo_refund_{number}",
            amount_cents=29_900,
            currency="usd",
            reason=reason,
            status=status,
            refund_after=since,
            tries=int(status == "REFUNDED"),
            stripe_refund_id=f"re_demo_{number}" if status == "REFUNDED" else None,
            refunded_at=since + timedelta(minutes=10) if status == "REFUNDED" else None,
            created_at=since,
            updated_at=since + timedelta(minutes=10),
        )
    for kind, about in (
        ("CANCEL_AT_PERIOD_END", "The owner closed the organization"),
        ("UPDATE_CUSTOMER", "The name changed"),
    ):
        since = story.moment(300, 20)
        story.add(
            "stripe_tasks",
            kind=kind,
            object_id=f"{'cus' if kind == 'UPDATE_CUSTOMER' else 'sub'}_demo_task",
            reason=about,
            tries=1,
            due_at=since,
            done_at=since + timedelta(minutes=1),
            created_at=since,
            updated_at=since + timedelta(minutes=1),
        )


def _revenue(day: date, paying: int, churn: float) -> Row:
    """The month before `day`: who paid at its start, came, or left."""
    price = 52_000
    start = round(paying * 0.98)
    left = round(start * churn)
    came = paying - start + left
    return {
        "date": day,
        "currency": "usd",
        "customers": paying,
        "mrr_cents": paying * price,
        "arr_cents": paying * price * 12,
        "start_customers": start,
        "start_mrr_cents": start * price,
        "churned_customers": left,
        "churned_mrr_cents": left * price,
        "new_customers": came,
        "new_mrr_cents": came * price,
        "logo_churn_rate": left / start,
        "revenue_churn_rate": left / start,
    }
