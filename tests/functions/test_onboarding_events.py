"""Onboarding as it is in the field: Stripe tells of everything in its own time, and the browser may be gone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from stripe import StripeClient

from local.stripe.webhooks import payload, post
from tests.functions.onboarding import Customer
from tests.functions.paying import ANOTHER_CARD, NONE, ONE, SECRET, Shop, shop, sweep
from tests.world import Database, Row


@pytest.fixture(scope="module")
def _shop(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Shop]:
    with shop(tmp_path_factory.mktemp("shop"), database, database_url) as running:
        running.double.send_events_to(f"{running.functions.url}/functions/v1/stripe-webhook", SECRET)
        yield running


@pytest.fixture
def stripe(_shop: Shop) -> Iterator[Shop]:
    yield _shop
    _shop.double.faults.clear()
    _shop.double.deliveries.paused = False
    _shop.double.mischief()
    _shop.double.deliveries.settle()
    sweep(_shop.database)
    _shop.write("delete from public.stripe_events")
    _shop.write("delete from public.stripe_objects where type not in ('product', 'price')")
    _shop.forget()


def heard(stripe: Shop) -> None:
    """Until everything that Stripe has to say was taken."""
    stripe.double.deliveries.settle()


def waiting(stripe: Shop) -> list[Row]:
    return stripe.look(
        "select id, type, status, error from public.stripe_events where status not in ('APPLIED', 'IGNORED')"
    )


def test_all_events_come_only_after_the_completion(stripe: Shop) -> None:
    stripe.double.deliveries.paused = True
    customer = stripe.customer("outsider", "ELITE", "YEARLY")
    stripe.paid(customer)
    completed = customer.done("complete")
    stripe.double.deliveries.paused = False
    heard(stripe)
    assert stripe.made() == ONE
    assert customer.done("complete") == completed
    assert waiting(stripe) == []


@pytest.mark.parametrize("seed", range(4))
def test_the_events_come_shuffled_and_twice_while_the_customer_completes(stripe: Shop, seed: int) -> None:
    stripe.double.mischief(seed=seed, shuffle=30, duplicate=0.5, delay=0.05)
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer, ANOTHER_CARD)
    stripe.double.pay(customer.done("pay")["client_secret"])
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: customer.ask("complete"), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    heard(stripe)
    assert stripe.made() == ONE
    assert waiting(stripe) == []
    (org,) = stripe.look(
        "select subscription_tier, subscription_status from public.organizations where slug = 'initech'"
    )
    assert org == {"subscription_tier": "GROWTH", "subscription_status": "ACTIVE"}


def test_paid_without_signing_in_it_waits_and_then_completes(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    heard(stripe)
    assert stripe.made() == NONE
    assert anonymous.done("get")["payment_status"] == "SUCCEEDED"
    assert anonymous.signed_in("outsider").done("complete")["is_completed"]
    heard(stripe)
    assert stripe.made() == ONE
    assert waiting(stripe) == []


def test_paid_after_the_day_was_over_it_completes_by_the_webhook(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    started = customer.done("pay")
    stripe.expire()
    stripe.double.pay(started["client_secret"])
    heard(stripe)
    assert stripe.made() == ONE
    assert stripe.refunds() == []


def test_a_replaced_payment_that_succeeds_all_the_same_is_queued_by_the_webhook_and_given_back(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    first = customer.done("pay")
    stripe.double.fail("500", times=9, path="invoices")
    customer.done("update", step=2, tier="ELITE", billing_cycle="MONTHLY")
    stripe.double.faults.clear()
    stripe.double.pay(first["client_secret"])
    heard(stripe)
    (due,) = stripe.refunds()
    assert (due["reason"], due["status"], due["amount_cents"]) == ("REPLACED", "DUE", 69900)
    assert stripe.job()["refunded"] == 1
    heard(stripe)
    (given,) = stripe.refunds()
    assert given["status"] == "REFUNDED"
    stripe.paid(customer)
    heard(stripe)
    assert customer.done("get")["tier"] == "ELITE"
    assert stripe.made() == ONE
    (bought,) = stripe.look("select tier from public.subscriptions where status = 'ACTIVE'")
    assert bought["tier"] == "ELITE"


def test_another_plan_cancels_the_first_and_its_events_change_nothing(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "ELITE")
    customer.done("pay")
    customer.done("update", step=2, tier="STARTER", billing_cycle="YEARLY")
    heard(stripe)
    session = customer.done("get")
    assert (session["payment_status"], session["tier"]) == ("PENDING", "STARTER")
    stripe.paid(customer)
    heard(stripe)
    assert customer.done("get")["is_completed"]
    assert stripe.made() == ONE
    assert waiting(stripe) == []


def test_twenty_customers_at_once_each_get_their_own(stripe: Shop) -> None:
    stripe.double.mischief(seed=11, shuffle=50, duplicate=0.2)

    def buy(number: int) -> None:
        customer = Customer(stripe.functions, "outsider").start("STARTER", name=f"Company {number}")
        stripe.paid(customer)
        if number % 2:
            customer.done("complete")

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(buy, range(10)))
    heard(stripe)
    assert stripe.made() == {"organizations": 10, "owners": 10, "subscriptions": 10}
    assert waiting(stripe) == []
    assert stripe.refunds() == []


def test_an_organisation_that_began_free_gets_what_it_buys_later(stripe: Shop) -> None:
    organization = stripe.customer("outsider", "FREE").done("complete")["organization"]["id"]
    (plan,) = stripe.look("select stripe_price_id as price from public.plans where amount_cents = 69900")
    client = StripeClient(stripe.double.key, base_addresses={"api": stripe.double.url})
    buyer = client.v1.customers.create()
    stripe.write("update public.organizations set stripe_customer_id = %s where id = %s", buyer.id, organization)
    bought = client.v1.subscriptions.create(
        {"customer": buyer.id, "items": [{"price": plan["price"]}], "payment_behavior": "default_incomplete"}
    )
    heard(stripe)
    before = stripe.look("select subscription_tier::text from public.organizations where id = %s", organization)
    assert before == [{"subscription_tier": "FREE"}]
    (intent,) = stripe.at_stripe("payment_intent")
    stripe.double.pay(intent["id"])
    heard(stripe)
    found = stripe.look(
        "select tier::text, status::text, stripe_subscription_id as id from public.subscriptions order by tier"
    )
    assert found == [
        {"tier": "FREE", "status": "CANCELLED", "id": None},
        {"tier": "GROWTH", "status": "ACTIVE", "id": bought.id},
    ]


def test_an_event_of_before_the_payment_that_comes_after_the_completion_takes_nothing_back(stripe: Shop) -> None:
    stripe.double.deliveries.paused = True
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    customer.done("complete")
    created = next(each for each in stripe.at_stripe("event") if each["type"] == "customer.subscription.created")
    (endpoint,) = stripe.at_stripe("webhook_endpoint")
    assert post(endpoint["url"], payload(stripe.double.account, created, endpoint), SECRET)
    (org,) = stripe.look("select subscription_tier::text as tier from public.organizations where slug = 'initech'")
    assert org == {"tier": "GROWTH"}
