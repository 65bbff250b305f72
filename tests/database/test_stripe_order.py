"""In any order of events, an object ends in its state at Stripe."""

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.billing.events import delivery
from tests.support.acting import wait_until_blocked
from tests.support.stripe_events import NOW, event, sell, subscription
from tests.support.stripe_histories import History, deliveries, histories
from tests.support.world import ACME, Connection, Database, Row

RECEIVE = "select private.receive_stripe_event(%s::jsonb)"


def receive(connection: Connection, customers: Row, *, livemode: bool = False) -> Row:
    row = connection.execute(RECEIVE, [delivery(customers, json.dumps(customers), livemode=livemode)]).fetchone()
    assert row
    return dict(row[0])


def open_accounts(connection: Connection, customers: Sequence[History]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.organizations (name, slug, stripe_customer_id) values (%s, %s, %s)",
            [(one.customer, one.customer.replace("_", "-"), one.customer) for one in customers],
        )


def outcomes(connection: Connection) -> dict[str, tuple[Any, ...]]:
    rows = connection.execute(
        "select s.stripe_subscription_id, s.status::text, s.tier::text, s.amount_cents, s.cancel_at_period_end,"
        " extract(epoch from s.current_period_end)::bigint from public.subscriptions s"
    )
    return {name: tuple(rest) for name, *rest in rows}


def standings(connection: Connection) -> dict[str, tuple[str, str]]:
    rows = connection.execute(
        "select stripe_customer_id, subscription_tier::text, subscription_status::text from public.organizations"
        " where stripe_customer_id is not null"
    )
    return {customer: (tier, status) for customer, tier, status in rows}


def expected_standing(history: History) -> tuple[str, str]:
    status, tier, *_ = history.outcome
    return tier if status in {"TRIAL", "ACTIVE", "PAST_DUE"} else "FREE", status


def wrong(connection: Connection, customers: Sequence[History]) -> list[str]:
    """Subscriptions that are not as at Stripe, or whose organization is not."""
    found, standing = outcomes(connection), standings(connection)
    return [
        one.name
        for one in customers
        if found.get(one.name) != one.outcome or standing[one.customer] != expected_standing(one)
    ]


def receive_together(connection: Connection, together: Sequence[Row]) -> list[Row]:
    deliveries = [delivery(one, json.dumps(one), livemode=False) for one in together]
    argument = f"[{','.join(deliveries)}]"
    row = connection.execute("select private.receive_stripe_events(%s::jsonb)", [argument]).fetchone()
    assert row
    return list(row[0])


@pytest.mark.parametrize(("seed", "at_once"), [(1, 1), (5, 200)])
def test_200_subscriptions_shuffled_and_repeated_end_as_in_order(
    fresh_database: Database, seed: int, at_once: int
) -> None:
    customers = histories(seed, 200)
    with fresh_database.connect() as connection:
        sell(connection)
        open_accounts(connection, customers)
        sent, seen = deliveries(seed, customers), set[str]()
        with connection.transaction():
            for first in range(0, len(sent), at_once):
                together = sent[first : first + at_once]
                for result, each in zip(receive_together(connection, together), together, strict=True):
                    assert result == {"id": each["id"], "status": "APPLIED", "duplicate": each["id"] in seen}
                    seen.add(each["id"])
        assert wrong(connection, customers) == []
        doubts = connection.execute("select count(*) from public.stripe_objects where in_doubt_since is not null")
        assert doubts.fetchone() == (0,), "with all events there is nothing to doubt"


def test_eight_concurrent_deliveries_end_as_in_order(fresh_database: Database) -> None:
    customers = histories(3, 200)
    with fresh_database.connect() as connection:
        sell(connection)
        open_accounts(connection, customers)
    sent = deliveries(3, customers)

    def deliver(part: list[Row]) -> None:
        with fresh_database.connect() as connection:
            for each in part:
                receive(connection, each)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(deliver, (sent[number::8] for number in range(8))))
    with fresh_database.connect() as connection:
        assert wrong(connection, customers) == []


@pytest.mark.parametrize("seed", [4, 22, 26, 27])
def test_customers_and_prices_known_late_give_the_same_result(fresh_database: Database, seed: int) -> None:
    customers = histories(seed, 60)
    sent, chance = deliveries(seed, customers), random.Random(seed)  # noqa: S311 - a seed makes it happen again
    with fresh_database.connect() as connection, connection.transaction():
        connection.execute("set constraints all immediate")
        places = sorted(chance.sample(range(len(sent)), 30))
        late = iter(customers)
        for place, each in enumerate(sent):
            receive(connection, each)
            if place in places:
                open_accounts(connection, [next(late)])
            if place == len(sent) // 2:
                sell(connection)
        open_accounts(connection, list(late))
        assert wrong(connection, customers) == []
        left = connection.execute("select status, count(*) from public.stripe_events group by 1").fetchall()
        assert left == [("APPLIED", sum(len(one.events) for one in customers))]


def test_coupon_and_discount_that_arrive_together_lower_the_amount(fresh_database: Database) -> None:
    coupon = {"id": "half", "object": "coupon", "percent_off": 50, "duration": "forever"}
    discount = {
        "id": "di_1", "object": "discount", "customer": "cus_1", "end": None, "subscription": None,
        "source": {"type": "coupon", "coupon": "half"},
    }  # fmt: skip
    with fresh_database.connect() as connection:
        sell(connection)
        connection.execute("update public.organizations set stripe_customer_id = 'cus_1' where id = %s", [ACME])
        receive(connection, event("customer.subscription.created", subscription()))
    with fresh_database.connect() as first, fresh_database.connect() as second, ThreadPoolExecutor(1) as pool:
        with first.transaction():
            receive(first, event("customer.discount.created", discount))
            later = pool.submit(receive, second, event("coupon.created", coupon))
            wait_until_blocked(fresh_database)
        later.result()
        (amount,) = second.execute("select net_monthly_amount from public.subscriptions").fetchone() or (None,)
    assert amount == 69_900 / 2


@pytest.mark.parametrize("is_invoice_first", [True, False])
def test_invoice_is_paid_whatever_arrives_at_the_same_time(fresh_database: Database, *, is_invoice_first: bool) -> None:
    invoice = {"id": "in_1", "object": "invoice", "customer": "cus_1", "currency": "usd", "total": 500, "created": NOW}
    paid = event("invoice.paid", invoice | {"status": "paid", "amount_paid": 500})
    intent = {"id": "pi_1", "object": "payment_intent", "customer": "cus_1", "status": "succeeded", "amount": 500}
    payment = {
        "id": "inpay_1", "object": "invoice_payment", "status": "paid", "invoice": "in_1",
        "payment": {"type": "payment_intent", "payment_intent": "pi_1"},
    }  # fmt: skip
    refund = {
        "id": "re_1", "object": "refund", "payment_intent": "pi_1", "status": "succeeded", "amount": 200,
        "created": NOW, "currency": "usd",
    }  # fmt: skip
    events = [paid, event("invoice_payment.paid", payment), event("refund.created", refund)]
    with fresh_database.connect() as connection:
        connection.execute("update public.organizations set stripe_customer_id = 'cus_1' where id = %s", [ACME])
        receive(connection, event("invoice.finalized", invoice | {"status": "open"}, created=NOW - 1))
        receive(connection, event("payment_intent.succeeded", intent))
    earlier, later = (events[:1], events[1:]) if is_invoice_first else (events[1:], events[:1])
    with fresh_database.connect() as first, fresh_database.connect() as second, ThreadPoolExecutor(1) as pool:
        with first.transaction():
            receive_together(first, earlier)
            waiting = pool.submit(receive_together, second, later)
            wait_until_blocked(fresh_database)
        waiting.result()
        row = second.execute("select status::text, paid_cents, refunded_cents from public.invoices").fetchone()
    assert row == ("PAID", 500, 200)


def test_price_and_product_taken_up_at_the_same_time_are_sold(fresh_database: Database) -> None:
    price = {
        "id": "price_growth", "object": "price", "product": "prod_1", "unit_amount": 69_900, "currency": "usd",
        "recurring": {"interval": "month", "interval_count": 1},
    }  # fmt: skip
    product = {"id": "prod_1", "object": "product"}
    on_sale = "select is_active from public.plans where stripe_price_id = 'price_growth'"
    with fresh_database.connect() as connection:
        sell(connection)
        receive(connection, event("product.updated", product | {"active": False}))
        receive(connection, event("price.updated", price | {"active": False}))
        assert connection.execute(on_sale).fetchone() == (False,)
    with fresh_database.connect() as first, fresh_database.connect() as second, ThreadPoolExecutor(1) as pool:
        with first.transaction():
            receive(first, event("product.updated", product | {"active": True}, created=NOW + 1))
            later = pool.submit(receive, second, event("price.updated", price | {"active": True}, created=NOW + 1))
            wait_until_blocked(fresh_database)
        later.result()
        assert second.execute(on_sale).fetchone() == (True,)


def test_requeued_event_repairs_an_edited_subscription(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        sell(connection)
        connection.execute("update public.organizations set stripe_customer_id = 'cus_1' where id = %s", [ACME])
        sent = event("customer.subscription.created", subscription())
        receive(connection, sent)
        connection.execute("update public.subscriptions set status = 'INACTIVE'")
        attention = "select kind, what_to_do from public.billing_attention"
        ((kind, what_to_do),) = connection.execute(attention).fetchall()
        assert kind == "NOT_APPLIED"
        assert f"requeue_stripe_event('{sent['id']}')" in what_to_do
        row = connection.execute("select public.requeue_stripe_event(%s) ->> 'status'", [sent["id"]]).fetchone()
        assert row == ("APPLIED",)
        assert connection.execute(attention).fetchall() == []
        assert standings(connection)["cus_1"] == ("GROWTH", "ACTIVE")
