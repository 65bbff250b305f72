"""Onboarding with webhooks: events arrive at any time, and the browser may be closed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from stripe import StripeClient

from local.stripe.errors import ApiError
from local.stripe.webhooks import payload, post
from tests.support.onboarding import Customer
from tests.support.paying import ANOTHER_CARD, AUTHENTICATED, NONE, ONE, SECRET, Shop, sweep
from tests.support.world import PEOPLE, Row


@pytest.fixture
def stripe(open_shop: Shop) -> Iterator[Shop]:
    yield open_shop
    open_shop.double.faults.clear()
    open_shop.double.deliveries.paused = False
    open_shop.double.mischief()
    open_shop.double.deliveries.settle()
    sweep(open_shop.database)
    open_shop.write("delete from public.stripe_events")
    open_shop.write("delete from public.stripe_objects where type not in ('product', 'price')")
    open_shop.forget()


def all_delivered(stripe: Shop) -> None:
    """Wait until all events are delivered."""
    stripe.double.deliveries.settle()


def waiting(stripe: Shop) -> list[Row]:
    return stripe.look(
        "select id, type, status, error from public.stripe_events where status not in ('APPLIED', 'IGNORED')"
    )


def test_events_after_the_completion_change_nothing(stripe: Shop) -> None:
    stripe.double.deliveries.paused = True
    customer = stripe.customer("outsider", "ELITE", "YEARLY")
    stripe.paid(customer)
    completed = customer.done("complete")
    stripe.double.deliveries.paused = False
    all_delivered(stripe)
    assert stripe.made() == ONE
    assert customer.done("complete") == completed
    assert waiting(stripe) == []


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_events_race_the_completion(stripe: Shop, seed: int) -> None:
    stripe.double.mischief(seed=seed, shuffle=30, duplicate=0.5, delay=0.05)
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer, ANOTHER_CARD)
    stripe.double.pay(customer.done("pay")["client_secret"])
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: customer.call("complete"), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    all_delivered(stripe)
    assert stripe.made() == ONE
    assert waiting(stripe) == []
    (org,) = stripe.look(
        "select subscription_tier, subscription_status from public.organizations where slug = 'initech'"
    )
    assert org == {"subscription_tier": "GROWTH", "subscription_status": "ACTIVE"}


def test_anonymous_payment_completes_after_sign_in(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    all_delivered(stripe)
    assert stripe.made() == NONE
    assert anonymous.done("get")["payment_status"] == "SUCCEEDED"
    assert anonymous.signed_in("outsider").done("complete")["is_completed"]
    all_delivered(stripe)
    assert stripe.made() == ONE
    assert waiting(stripe) == []


def test_payment_after_expiry_completes_by_webhook(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    started = customer.done("pay")
    stripe.expire()
    stripe.double.pay(started["client_secret"])
    all_delivered(stripe)
    assert stripe.made() == ONE
    assert stripe.refunds() == []


def test_webhook_queues_a_replaced_payment_for_refund(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    first = customer.done("pay")
    stripe.double.fail("500", times=9, path="invoices")
    customer.done("update", step=2, tier="ELITE", billing_cycle="MONTHLY")
    stripe.double.faults.clear()
    stripe.double.pay(first["client_secret"])
    all_delivered(stripe)
    (due,) = stripe.refunds()
    assert (due["reason"], due["status"], due["amount_cents"]) == ("REPLACED", "DUE", 69900)
    assert stripe.job()["refunded"] == 1
    all_delivered(stripe)
    (given,) = stripe.refunds()
    assert given["status"] == "REFUNDED"
    stripe.paid(customer)
    all_delivered(stripe)
    assert customer.done("get")["tier"] == "ELITE"
    assert stripe.made() == ONE
    (bought,) = stripe.look("select tier from public.subscriptions where status = 'ACTIVE'")
    assert bought["tier"] == "ELITE"


def test_events_of_a_replaced_plan_change_nothing(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "ELITE")
    customer.done("pay")
    customer.done("update", step=2, tier="STARTER", billing_cycle="YEARLY")
    all_delivered(stripe)
    session = customer.done("get")
    assert (session["payment_status"], session["tier"]) == ("PENDING", "STARTER")
    stripe.paid(customer)
    all_delivered(stripe)
    assert customer.done("get")["is_completed"]
    assert stripe.made() == ONE
    assert waiting(stripe) == []


def test_twenty_concurrent_customers_get_separate_organizations(stripe: Shop) -> None:
    stripe.double.mischief(seed=11, shuffle=50, duplicate=0.2)

    def buy(number: int) -> None:
        customer = Customer(stripe.functions, "outsider").start("STARTER", name=f"Company {number}")
        stripe.paid(customer)
        if number % 2:
            customer.done("complete")

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(buy, range(10)))
    all_delivered(stripe)
    assert stripe.made() == {"organizations": 10, "owners": 10, "subscriptions": 10}
    assert waiting(stripe) == []
    assert stripe.refunds() == []


def test_free_organization_buys_a_plan_later(stripe: Shop) -> None:
    organization = stripe.customer("outsider", "FREE").done("complete")["organization"]["id"]
    (plan,) = stripe.look("select stripe_price_id as price from public.plans where amount_cents = 69900")
    client = StripeClient(stripe.double.key, base_addresses={"api": stripe.double.url})
    buyer = client.v1.customers.create()
    stripe.write("update public.organizations set stripe_customer_id = %s where id = %s", buyer.id, organization)
    bought = client.v1.subscriptions.create(
        {"customer": buyer.id, "items": [{"price": plan["price"]}], "payment_behavior": "default_incomplete"}
    )
    all_delivered(stripe)
    before = stripe.look("select subscription_tier::text from public.organizations where id = %s", organization)
    assert before == [{"subscription_tier": "FREE"}]
    (intent,) = stripe.at_stripe("payment_intent")
    stripe.double.pay(intent["id"])
    all_delivered(stripe)
    found = stripe.look(
        "select tier::text, status::text, stripe_subscription_id as id from public.subscriptions order by tier"
    )
    assert found == [
        {"tier": "FREE", "status": "CANCELLED", "id": None},
        {"tier": "GROWTH", "status": "ACTIVE", "id": bought.id},
    ]
    notices = stripe.look(
        "select title from public.notifications where organization_id = %s order by created_at", organization
    )
    assert [row["title"] for row in notices] == ["Your plan is Free", "Your plan is Growth"]


def test_late_old_event_does_not_undo_a_completion(stripe: Shop) -> None:
    stripe.double.deliveries.paused = True
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    customer.done("complete")
    created = next(each for each in stripe.at_stripe("event") if each["type"] == "customer.subscription.created")
    (endpoint,) = stripe.at_stripe("webhook_endpoint")
    assert post(endpoint["url"], payload(stripe.double.account, created, endpoint), SECRET)
    (org,) = stripe.look("select subscription_tier::text as tier from public.organizations where slug = 'initech'")
    assert org == {"tier": "GROWTH"}


@pytest.mark.parametrize("version", ["2022-11-15", "2024-06-20", "2025-03-31.basil"])
@pytest.mark.parametrize("is_saved", [True, False], ids=["", "ids not saved"])
def test_events_of_every_shape_complete_the_session(stripe: Shop, version: str, *, is_saved: bool) -> None:
    endpoint = f"{stripe.functions.url}/functions/v1/stripe-webhook"
    stripe.double.send_events_to(endpoint, SECRET, version)
    try:
        stripe.double.deliveries.paused = True
        started = stripe.customer("outsider", "GROWTH").done("pay")
        for table in () if is_saved else ("public.onboarding_sessions", "private.onboarding_payments"):
            stripe.write(
                f"update {table} set stripe_customer_id = null, stripe_subscription_id = null,"
                " stripe_payment_intent_id = null"
            )
        stripe.double.pay(started["client_secret"])
        stripe.double.deliveries.paused = False
        all_delivered(stripe)
        assert stripe.made() == ONE
        assert waiting(stripe) == []
    finally:
        stripe.double.send_events_to(endpoint, SECRET)


def test_attack_race_for_a_paid_session(stripe: Shop) -> None:
    for _ in range(3):
        anonymous = stripe.customer(None, "GROWTH")
        stripe.paid(anonymous)
        all_delivered(stripe)
        people = ["outsider", "globex_owner"] * 5
        racing = [anonymous.signed_in(who) for who in people]
        with ThreadPoolExecutor(10) as pool:
            codes = list(pool.map(lambda customer: customer.call("complete").status_code, racing))
        (owner,) = stripe.look("select user_id from public.onboarding_sessions")
        won = next(who for who in people if PEOPLE[who] == owner["user_id"])
        assert codes == [200 if who == won else 404 for who in people]
        assert stripe.made() == ONE
        sweep(stripe.database)


def test_payment_racing_a_plan_change_is_used_or_refunded(stripe: Shop) -> None:
    for delay in (0, 0.01, 0.03):
        customer = stripe.customer("outsider", "GROWTH")
        first = customer.done("pay")
        with ThreadPoolExecutor(8) as pool:
            changes = [
                pool.submit(customer.call, "update", step=2, tier="ELITE", billing_cycle="MONTHLY") for _ in range(3)
            ]
            others = [pool.submit(customer.call, verb) for verb in ("pay", "complete", "pay", "complete")]
            time.sleep(delay)
            with suppress(ApiError):
                stripe.double.pay(first["client_secret"])
        assert {each.result().status_code for each in changes + others} <= {200, 409, 410, 503}
        all_delivered(stripe)
        stripe.job()
        all_delivered(stripe)
        paid = [each for each in stripe.at_stripe("payment_intent") if each["status"] == "succeeded"]
        running = [each for each in stripe.at_stripe("subscription") if each["status"] == "active"]
        made = stripe.made()["organizations"]
        assert len(paid) == made + len(stripe.at_stripe("refund"))
        assert len(running) == made
        sweep(stripe.database)
        stripe.forget()


@pytest.mark.parametrize(
    "changes", [{"amount_received": 100, "amount_paid": 100}, {"currency": "jpy"}], ids=["amount", "currency"]
)
def test_attack_event_of_another_amount_or_currency(stripe: Shop, changes: Row) -> None:
    started = stripe.customer("outsider", "GROWTH").done("pay")
    all_delivered(stripe)
    stripe.double.deliveries.paused = True
    stripe.double.pay(started["client_secret"])
    with stripe.double.store.change():
        for notices in stripe.at_stripe("event"):
            if notices["type"].startswith(("payment_intent.", "invoice.")):
                stripe.double.account.put({**notices, "data": {"object": {**notices["data"]["object"], **changes}}})
    stripe.double.deliveries.paused = False
    all_delivered(stripe)
    assert stripe.made() == NONE
    (due,) = stripe.refunds()
    assert (due["status"], due["reason"]) == ("TO_DECIDE", "MISMATCH")


def test_attack_foreign_subscription_claims_a_session(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    customer.done("pay")
    (ours,) = stripe.at_stripe("subscription")
    client = StripeClient(stripe.double.key, base_addresses={"api": stripe.double.url})
    foreign = client.v1.subscriptions.create(
        {
            "customer": client.v1.customers.create().id,
            "items": [{"price": ours["items"]["data"][0]["price"]["id"]}],
            "payment_behavior": "default_incomplete",
            "metadata": ours["metadata"],
        }
    )
    (intent,) = [each for each in stripe.at_stripe("payment_intent") if each["customer"] == foreign.customer]
    stripe.double.pay(intent["id"])
    all_delivered(stripe)
    assert stripe.made() == NONE
    assert [(due["object_id"], due["status"]) for due in stripe.refunds()] == [(foreign.id, "TO_DECIDE")]
    stripe.paid(customer)
    all_delivered(stripe)
    assert stripe.made() == ONE


def test_session_expires_during_authentication(stripe: Shop) -> None:
    """Before the job has run, the session completes; afterwards it is expired."""
    for is_settled in (False, True):
        customer = stripe.customer("outsider", "GROWTH")
        started = stripe.paid(customer, AUTHENTICATED)
        all_delivered(stripe)
        stripe.expire()
        if is_settled:
            stripe.job()
            with pytest.raises(ApiError):
                stripe.double.authenticate(started["client_secret"])
        else:
            stripe.double.authenticate(started["client_secret"])
        all_delivered(stripe)
        assert stripe.made() == (NONE if is_settled else ONE)
        assert stripe.refunds() == []
        sweep(stripe.database)
