"""Events of customers, in order, or shuffled and repeated: the final state is the same, and equals Stripe's."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from local.stripe.server import Double
from local.stripe.webhooks import payload
from shared.billing.events import delivery
from shared.billing.prices import put_on_sale
from tests.support.histories import LIVES, play
from tests.support.lives import Life
from tests.support.stripe_shop import OLD, client_of, opened
from tests.support.world import PEOPLE, Connection, Database, Row

RUNNING = {"active", "trialing", "past_due"}
BEGINNING = 1_800_000_000


@dataclass
class Played:
    double: Double
    client: Any
    lives: dict[str, Life]
    events: list[Row]
    old_events: list[Row]  # the same in the shape of 2024


@pytest.fixture(scope="module")
def played(database: Database) -> Iterator[Played]:
    """All lives at Stripe, once; nothing has been delivered yet."""
    double = Double().start()
    double.tax(19)
    client = client_of(double)
    try:
        with database.connect() as connection:
            put_on_sale(connection, double.url, double.key)
            rows = connection.execute(
                "select tier::text, billing_cycle::text, stripe_price_id from public.plans"
                " where stripe_price_id is not null"
            )
            plans = {tier if cycle == "MONTHLY" else f"{tier} {cycle}": price for tier, cycle, price in rows}
        lives = {name: play(double, client, plans, name, BEGINNING) for name in LIVES}
        yield Played(double, client, lives, events(double), events(double, OLD))
    finally:
        double.stop()
        while opened:
            opened.pop().close()


def events(double: Double, version: str | None = None) -> list[Row]:
    """As endpoints of this version get them, oldest first."""
    with double.store.change():
        stored = list(double.store.all("event"))[::-1]
        return [json.loads(payload(double.account, event, {"api_version": version})) for event in stored]


def slug_of(name: str) -> str:
    return name.replace(",", "").replace(" ", "-").lower()


def deliver(database: Database, played: Played, events: list[Row], at_once: int = 1) -> None:
    """Halfway the prices of all plans are replaced: every customer keeps the plan they bought."""
    with database.connect() as connection:
        put_on_sale(connection, played.double.url, played.double.key)
        for name, life in played.lives.items():
            connection.execute(
                "with made as (insert into public.organizations (name, slug, stripe_customer_id)"
                " values (%s, %s, %s) returning id)"
                " insert into public.organization_members (user_id, organization_id, role)"
                " select %s, id, 'OWNER' from made",
                [name, slug_of(name), life.customers[0], PEOPLE["outsider"]],
            )
        waiting = list(events)
        while waiting:
            if len(waiting) <= len(events) // 2 < len(waiting) + at_once:
                connection.execute(
                    "update public.plans set stripe_price_id = 'price_replaced_' || id"
                    " where stripe_price_id is not null"
                )
            batch, waiting = waiting[:at_once], waiting[at_once:]
            deliveries = [delivery(event, json.dumps(event, default=str), livemode=False) for event in batch]
            connection.execute("select private.receive_stripe_events(%s::jsonb)", [f"[{','.join(deliveries)}]"])


VOLATILE = (
    "{id,invoice_id,organization_id,onboarding_session_id,created_at,updated_at,changed_at,past_due_since,refund_after}"
)


def state(connection: Connection) -> dict[str, list[Row]]:
    found = {}
    tables = {
        "subscriptions": "stripe_subscription_id",
        "invoices": "stripe_invoice_id",
        "invoice_credits": "stripe_object_id",
        "refunds_due": "object_id",
    }
    for table, key in tables.items():
        rows = connection.execute(
            f"select to_jsonb(t) - '{VOLATILE}'::text[] from public.{table} t order by {key}, t::text"
        )
        found[table] = [row for (row,) in rows]
    rows = connection.execute(
        "select jsonb_build_array(slug, subscription_tier, subscription_status) from public.organizations order by slug"
    )
    found["organizations"] = [row for (row,) in rows]
    return found


def notices(connection: Connection) -> Counter[tuple[str, str, str]]:
    rows = connection.execute(
        "select o.slug, n.title, n.message from public.notifications n"
        " join public.organizations o on o.id = n.organization_id"
    )
    return Counter((slug, title, message) for slug, title, message in rows)


@pytest.fixture(scope="module")
def in_order(cluster: Any, played: Played) -> Iterator[Connection]:
    with Database(cluster, "world").copied() as copy:
        deliver(copy, played, played.events)
        with copy.connect() as connection:
            yield connection


# What Stripe has ------------------------------------------------------------------------------------------------------


def tiers(played: Played, life: Life) -> tuple[str, list[Row]]:
    """The tier by Stripe's objects alone, and the subscriptions: a paid one before one past due, then the newest."""
    sold = {price: plan.split()[0] for plan, price in life.plans.items()}
    found = [played.double.store.get(name) or {} for name in life.subscriptions]
    running = [each for each in found if each["status"] in RUNNING]
    running.sort(key=lambda each: (each["status"] != "past_due", each["created"], each["id"]))
    if not running:
        return "FREE", found
    prices = [item["price"] for item in running[-1]["items"]["data"]]
    known = (sold.get(price["id"]) or price["metadata"].get("tier") for price in prices)
    return next(filter(None, known), "unknown"), found


def unexplained(connection: Connection, played: Played) -> list[str]:
    """Customers whose tier in Strive is not Stripe's without a row of billing_attention that explains it."""
    rows = connection.execute("select stripe_customer_id, name, subscription_tier::text from public.organizations")
    here = {name: tier for _, name, tier in rows}
    explained = {
        name
        for row in connection.execute("select object_id, customer_id from public.billing_attention")
        for name in row
    }
    wrong = []
    for name, life in played.lives.items():
        tier, subscriptions = tiers(played, life)
        names = {*life.customers, *(each["id"] for each in subscriptions)}
        if here[name] != tier and not names & explained:
            wrong.append(f"{name}: {here[name]} instead of {tier}")
    return wrong


def test_lives_are_enough() -> None:
    assert len(LIVES) >= 40


def test_every_tier_is_that_of_stripes_objects_or_explained(in_order: Connection, played: Played) -> None:
    assert unexplained(in_order, played) == []


def test_every_unapplied_event_has_a_reason(in_order: Connection) -> None:
    left = in_order.execute(
        "select type, status::text, error from public.stripe_events where status = 'RECEIVED'"
    ).fetchall()
    assert left == []


def test_stored_amounts_equal_stripes(in_order: Connection, played: Played) -> None:
    here = {
        row["stripe_invoice_id"]: row
        for (row,) in in_order.execute("select to_jsonb(i) from public.invoices i").fetchall()
    }
    known = {life.customers[0] for life in played.lives.values()}
    there = [each for each in played.double.store.all("invoice") if each["customer"] in known]
    charges = list(played.double.store.all("charge"))
    refunded: Counter[str] = Counter()
    for each in charges:
        if each.get("_invoice"):
            refunded[each["_invoice"]] += each["amount_refunded"]
    notes = Counter[str]()
    for each in played.double.store.all("credit_note"):
        notes[each["invoice"]] += each["amount"]
    assert here.keys() == {each["id"] for each in there}
    rows = in_order.execute(
        "select c.stripe_object_id, i.stripe_invoice_id, c.type::text, c.amount_cents, c.status"
        " from public.invoice_credits c join public.invoices i on i.id = c.invoice_id"
    )
    invoice_of = {each["payment_intent"]: each["_invoice"] for each in charges if each.get("_invoice")}
    store = played.double.store
    assert set(rows.fetchall()) == {
        (
            each["id"],
            each.get("invoice") or invoice_of[each["payment_intent"]],
            kind.upper(),
            each["amount"],
            each["status"],
        )
        for kind in ("credit_note", "refund", "dispute")
        for each in store.all(kind)
    }
    for each in there:
        row = here[each["id"]]
        found = [row["status"].lower(), row["number"], row["total_cents"], row["paid_cents"], row["credited_cents"]]
        assert found == [each["status"], each["number"], each["total"], each["amount_paid"], notes[each["id"]]]
        assert row["tax_cents"] == sum(tax["amount"] for tax in each["total_taxes"] or [])
        assert row["discount_cents"] == sum(discount["amount"] for discount in each["total_discount_amounts"] or [])
        assert row["refunded_cents"] == refunded[each["id"]], each["id"]


def test_monthly_amount_includes_all_items_and_discounts(in_order: Connection, played: Played) -> None:
    rows = in_order.execute("select stripe_subscription_id, net_monthly_amount, currency from public.subscriptions")
    here = {name: (amount, currency) for name, amount, currency in rows}
    for life_name, life in played.lives.items():
        for name in life.subscriptions:
            if name not in here:
                continue
            found = played.client.v1.subscriptions.retrieve(name, {"expand": ["discounts.source.coupon"]}).to_dict()
            total = Decimal()
            for item in found["items"]["data"]:
                months = 12 if item["price"]["recurring"]["interval"] == "year" else 1
                total += Decimal(item["price"]["unit_amount_decimal"]) * item["quantity"] / months
            for each in found["discounts"]:
                terms = each["source"]["coupon"]
                if terms["duration"] != "once":
                    total = total * (100 - Decimal(terms["percent_off"] or 0)) / 100 - (terms["amount_off"] or 0)
            assert here[name][0] == pytest.approx(max(total, Decimal())), life_name
            assert here[name][1] == found["currency"]


def test_shuffled_and_repeated_events_end_as_in_order(
    fresh_database: Database, in_order: Connection, played: Played
) -> None:
    chance = random.Random(2)  # noqa: S311 - a seed repeats it
    events = [
        chance.choice(shapes)
        for shapes in zip(played.events, played.old_events, strict=True)
        for _ in range(2 if chance.random() < 0.1 else 1)
    ]
    chance.shuffle(events)
    deliver(fresh_database, played, events, at_once=16)
    with fresh_database.connect() as connection:
        expected, found = state(in_order), state(connection)
        for table, rows in expected.items():
            assert found[table] == rows, table
        assert unexplained(connection, played) == []
        more = notices(connection) - notices(in_order)
        once = {notice for notice in notices(in_order) if notice[1].startswith(("You are refunded", "A payment of"))}
        assert {notice for notice in notices(connection) if notice in once} == once
        assert [notice for notice in more if notice in once] == []


def test_owners_are_notified_once(in_order: Connection) -> None:
    found = notices(in_order)
    refunded = {slug_of(name) for name, steps in LIVES.items() if any(verb == "refund" for verb, *_ in steps)}
    assert {slug for slug, title, _ in found if title.startswith("You are refunded")} == refunded
    assert {slug for slug, title, _ in found if "is disputed" in title} >= {"disputes-and-wins", "disputes-and-waits"}
    # These change twice, so their owners get two notices.
    twice = {slug for (slug, _, _), times in found.items() if times > 1}
    assert twice <= {"toggles-the-cancellation", "pays-twice", "pays-twice-and-ends-one"}


def test_upcoming_dates_are_announced_once(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into public.subscriptions"
            " (organization_id, status, tier, billing_cycle, amount_cents, current_period_end)"
            " select id, case slug when 'acme' then 'TRIAL' else 'ACTIVE' end::\"SubscriptionStatus\", 'GROWTH',"
            " case slug when 'acme' then 'MONTHLY' else 'YEARLY' end::\"BillingCycle\", 69900,"
            " now() + case slug when 'acme' then interval '2 days' else interval '6 days' end from public.organizations"
        )
        connection.execute("delete from public.notifications")
        assert [connection.execute("select private.notify_billing_dates()").fetchone() for _ in range(2)] == [
            (2,),
            (0,),
        ]
        titles = {title.partition(" on ")[0] for _, title, _ in notices(connection)}
        assert titles == {"Your trial of Growth ends", "Your Growth plan renews"}


@pytest.mark.parametrize(("at", "holder"), [("subscription", "sub_card"), ("customer", "cus_card")])
@pytest.mark.parametrize(("expires_in", "sent"), [(-1, True), (0, False)])
def test_card_expiring_before_the_next_payment_is_announced_once(
    fresh_database: Database, at: str, holder: str, expires_in: int, sent: bool
) -> None:
    """The payment is due on the 10th of next month; a card is valid to the end of its month."""
    with fresh_database.connect() as connection:
        row = connection.execute(
            "select date_trunc('month', now()) + interval '1 month 9 days',"
            " extract(month from now() + make_interval(months => 1 + %s))::integer,"
            " extract(year from now() + make_interval(months => 1 + %s))::integer",
            [expires_in, expires_in],
        ).fetchone()
        assert row
        connection.execute(
            "insert into public.stripe_objects (id, type, customer_id, state, state_at) values"
            " ('pm_card', 'payment_method', 'cus_card', %s, now()), (%s, %s, 'cus_card', %s, now())",
            [
                json.dumps({"detached": False, "expiry_month": row[1], "expiry_year": row[2]}),
                holder,
                at,
                json.dumps({"payment_method": "pm_card", "status": "active"}),
            ],
        )
        connection.execute(
            "insert into public.subscriptions (organization_id, status, tier, billing_cycle, amount_cents,"
            " stripe_subscription_id, stripe_customer_id, current_period_end)"
            " select id, 'ACTIVE', 'GROWTH', 'MONTHLY', 69900, 'sub_card', 'cus_card', %s"
            " from public.organizations where slug = 'acme'",
            [row[0]],
        )
        connection.execute("delete from public.notifications")
        for _ in range(2):
            connection.execute("select private.notify_billing_dates()")
        titles = [title for (_, title, _) in notices(connection).elements()]
        # A payment more than 35 days ahead is announced later.
        soon = connection.execute("select %s <= now() + interval '35 days'", [row[0]]).fetchone() == (True,)
        assert titles == ["Your card expires before the next payment"] * (sent and soon)
