"""Compare the responses that clients received with the rows in the database."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import psycopg
from psycopg import Connection

from bench.drill.traffic import Book
from local.stack import Stack

RUNNING = {"active", "trialing", "past_due"}
# Each finds rows that must not exist.
NEVER = {
    "a submitted order without its milestones, or a draft with some": """
        select o.id from public.custom_agent_orders o
        where (o.status = 'DRAFT') = exists (select from public.order_milestones m where m.order_id = o.id)
    """,
    "a submission that was not logged or not announced exactly once": """
        select o.id from public.custom_agent_orders o where o.status <> 'DRAFT' and o.title like 'Drill-%'
          and ((select count(*) from public.build_logs l where l.order_id = o.id) <> 1
            or (select count(*) from public.activity_feeds f where f.entity_id = o.id::text) <> 1)
    """,
    "a showcase whose likes are not those who like it": """
        select s.id from public.project_showcases s
        where s.likes <> (select count(*) from public.showcase_likes l where l.showcase_id = s.id)
    """,
    "a payment that succeeded, whose customer signed in, and nothing came of it": """
        select s.id from public.onboarding_sessions s
        where s.payment_status = 'SUCCEEDED' and s.user_id is not null and s.organization_id is null
    """,
    "an organization paid for that has not one owner and one live subscription": """
        select o.id from public.onboarding_sessions s join public.organizations o on o.id = s.organization_id
        where (select count(*) from public.organization_members m where m.organization_id = o.id) <> 1
          or (select count(*) from public.subscriptions p where p.organization_id = o.id and p.status = 'ACTIVE') <> 1
          or o.subscription_tier <> 'STARTER'
    """,
    "an organization without an owner": """
        select o.id from public.organizations o where not exists (
          select from public.organization_members m where m.organization_id = o.id and m.role = 'OWNER')
    """,
}


def _await_open_transactions(connection: psycopg.Connection[Any]) -> None:
    """A process that was killed leaves its transactions to Postgres, which ends them a moment later."""
    open_transactions = (
        "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend' and xact_start < %s"
    )
    (now,) = connection.execute("select clock_timestamp()").fetchone() or (None,)
    deadline = time.monotonic() + 60
    while connection.execute(open_transactions, [now]).rowcount and time.monotonic() < deadline:
        time.sleep(0.05)  # between two looks at the transactions; the deadline only ends a hang


def balance(stack: Stack, book: Book) -> dict[str, list[str]]:
    """Lost and wrong rows, as sentences."""
    lost: list[str] = []
    wrong = [*book.wrong, *_subscriptions(stack)]
    with stack.cluster.connect() as connection:
        _await_open_transactions(connection)
        connection.execute("select private.roll_up_tallies()")
        for what, expected, named in (
            ("feed entry", book.entries, "title from public.activity_feeds where entity_type = 'drill'"),
            ("lead", book.leads, "id::text from public.leads where name like 'Drill %'"),
            (
                "order",
                book.orders,
                "title from public.custom_agent_orders where title like 'Drill-%' and status <> 'DRAFT'",
            ),
        ):
            present = Counter(name for (name,) in connection.execute(f"select {named}"))
            lost += [
                f"{what} {name}: acknowledged, not there"
                for name, known in expected.items()
                if known and name not in present
            ]
            wrong += [f"{what} {name}: {count} times" for name, count in present.items() if count > 1]
            wrong += [f"{what} {name}: it was not requested" for name in present.keys() - expected.keys()]
        present = Counter(name for (name,) in connection.execute("select id::text from public.organizations"))
        lost += [f"organization of {who}" for who, had in book.customers.items() if had and had not in present]
        for what, found in NEVER.items():
            wrong += [f"{what}: {row[0]}" for row in connection.execute(found)]
    return {"lost": lost, "wrong": wrong}


def _subscriptions(stack: Stack) -> list[str]:
    """Differences between Stripe and Strive after reconcile-stripe has run."""
    values, key = stack.values(), stack.keys.stripe_secret_key
    job = httpx.post(
        f"{values['FUNCTIONS_URL']}/reconcile-stripe", json={"compare": True}, headers={"apikey": values["SECRET_KEY"]},
        timeout=120,
    )  # fmt: skip
    if job.is_error:
        return [f"reconcile-stripe: {job.text}"]
    at_stripe: dict[str, dict[str, Any]] = {}
    expected = {"status": "all", "limit": "100"}
    while True:
        page = httpx.get(f"{values['STRIPE_API_BASE']}/v1/subscriptions", params=expected, auth=(key, "")).json()
        at_stripe |= {each["id"]: each for each in page["data"]}
        if not page["has_more"]:
            break
        expected["starting_after"] = page["data"][-1]["id"]
    with stack.cluster.connect() as connection:
        ours = dict(
            connection.execute("select stripe_subscription_id, status::text from public.subscriptions").fetchall()
        )
        waiting = {
            name
            for (name,) in connection.execute(
                "select stripe_subscription_id from public.onboarding_sessions where organization_id is null"
            )
        }
        return [
            f"subscription {name}: {found['status']} at Stripe, {ours.get(name)} here"
            for name, found in at_stripe.items()
            if name not in waiting and (found["status"] == "active") != (ours.get(name) == "ACTIVE")
        ] + tiers(connection, at_stripe.values())


def tiers(connection: Connection[Any], subscriptions: Iterable[Mapping[str, Any]]) -> list[str]:
    """Organizations whose tier is not that of Stripe's objects, without a row in billing_attention that says why."""
    sold = dict(connection.execute("select stripe_price_id, tier::text from private.plan_prices").fetchall())
    explained = {
        name
        for row in connection.execute("select object_id, customer_id from public.billing_attention")
        for name in row
        if name
    }
    running: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in subscriptions:
        if each["status"] in RUNNING:
            running[each["customer"]].append(each)
    wrong = []
    for slug, customer, tier in connection.execute(
        "select slug, stripe_customer_id, subscription_tier::text from public.organizations"
        " where stripe_customer_id is not null"
    ):
        # Of several a paid one counts before one that is past due, then the newest.
        mine = sorted(running[customer], key=lambda one: (one["status"] != "past_due", one["created"], one["id"]))
        expected = sold.get(mine[-1]["items"]["data"][0]["price"]["id"], "unknown") if mine else "FREE"
        if tier != expected and not explained & {customer, *(each["id"] for each in mine)}:
            wrong.append(f"organization {slug}: {tier} here, {expected} by Stripe's objects")
    return wrong
