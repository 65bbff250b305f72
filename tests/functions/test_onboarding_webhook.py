"""Onboarding after the browser was closed: Stripe's events complete it, in any order."""

from collections.abc import Iterator

import pytest

from tests.support.paying import ANOTHER_CARD, AUTHENTICATED, NONE, ONE, Shop, sweep
from tests.support.world import Row


@pytest.fixture
def stripe(open_shop: Shop) -> Iterator[Shop]:
    yield open_shop
    open_shop.double.deliveries.paused = False
    open_shop.double.deliveries.settle()
    open_shop.double.mischief()
    sweep(open_shop.database)
    open_shop.write("delete from public.stripe_events")
    open_shop.write("delete from public.stripe_objects")
    open_shop.forget()


def session(stripe: Shop) -> Row:
    (found,) = stripe.look("select payment_status::text, is_completed from public.onboarding_sessions")
    return found


def settled(stripe: Shop) -> None:
    stripe.double.deliveries.paused = False
    stripe.double.deliveries.settle()
    assert stripe.look("select id, type, status, error from public.stripe_events where status = 'RECEIVED'") == []


def test_events_complete_a_paid_session(stripe: Shop) -> None:
    stripe.paid(stripe.customer("outsider", "GROWTH"))
    settled(stripe)
    assert session(stripe) == {"payment_status": "SUCCEEDED", "is_completed": True}
    assert stripe.made() == ONE
    parked = stripe.look("select id, type, error from public.stripe_events where status = 'PARKED'")
    assert parked == []


@pytest.mark.parametrize("seed", range(4))
def test_events_shuffled_doubled_and_late_make_one_organization(stripe: Shop, seed: int) -> None:
    stripe.double.deliveries.paused = True
    stripe.double.mischief(seed=seed, duplicate=0.5, shuffle=50)
    stripe.paid(stripe.customer("outsider", "GROWTH"))
    settled(stripe)
    assert stripe.made() == ONE
    assert stripe.look("select id, type, error from public.stripe_events where status = 'PARKED'") == []


def test_events_before_the_saved_ids_are_applied_later(stripe: Shop) -> None:
    """As if the process had crashed between creating at Stripe and saving the ids."""
    stripe.double.deliveries.paused = True
    started = stripe.customer("outsider", "GROWTH").done("pay")
    for table in ("public.onboarding_sessions", "private.onboarding_payments"):
        stripe.write(
            f"update {table} set stripe_customer_id = null, stripe_subscription_id = null,"
            " stripe_payment_intent_id = null"
        )
    stripe.double.pay(started["client_secret"])
    settled(stripe)
    assert stripe.made() == ONE


def test_concurrent_webhook_and_completion_create_one_organization(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    assert customer.done("complete")["is_completed"]
    settled(stripe)
    assert stripe.made() == ONE


def test_changes_between_payment_and_completion_are_applied(stripe: Shop) -> None:
    """The anonymous session waits for sign-in; its subscription is cancelled meanwhile."""
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    settled(stripe)
    assert session(stripe) == {"payment_status": "SUCCEEDED", "is_completed": False}
    assert stripe.made() == NONE
    assert anonymous.signed_in("outsider").done("complete")["is_completed"]
    assert stripe.made() == ONE


def test_declined_and_authenticated_cards_update_the_payment_status(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    started = stripe.paid(customer, ANOTHER_CARD)
    settled(stripe)
    assert session(stripe)["payment_status"] == "FAILED"
    stripe.double.advance(seconds=2)  # the second card is tried later than the same second
    stripe.double.pay(started["client_secret"], AUTHENTICATED)
    settled(stripe)
    assert session(stripe)["payment_status"] == "REQUIRES_ACTION"
    stripe.double.authenticate(started["client_secret"])
    settled(stripe)
    assert session(stripe) == {"payment_status": "SUCCEEDED", "is_completed": True}


def test_payment_of_a_replaced_plan_is_listed_for_refund(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    first = customer.done("pay")
    stripe.double.fail("500", times=9, path="invoices")
    customer.done("update", step=2, tier="STARTER", billing_cycle="MONTHLY")
    stripe.double.faults.clear()
    stripe.double.pay(first["client_secret"])
    settled(stripe)
    assert stripe.made() == NONE
    (shown,) = stripe.look("select kind, reason from public.billing_attention")
    assert shown == {"kind": "REFUND_DUE", "reason": "Another plan had been chosen when this was paid."}


def test_a_subscription_lives_on_by_its_events(stripe: Shop) -> None:
    stripe.paid(stripe.customer("outsider", "GROWTH"))
    settled(stripe)
    stripe.double.advance(days=32)
    settled(stripe)
    (bought,) = stripe.look("select status::text, current_period_end > now() + interval '40 days' as renewed"
                            " from public.subscriptions where stripe_subscription_id is not null")  # fmt: skip
    assert bought == {"status": "ACTIVE", "renewed": True}
    assert stripe.refunds() == []
