"""Trials: the notice, the end with and without a card, extension; and pauses."""

import pytest

from tests.support.lives import Life, seconds
from tests.support.stripe_shop import Shop, stripe_error

MONTH = 69_900
WILL_END = ["customer.subscription.trial_will_end"]


def ending(word: str) -> dict[str, dict[str, str]]:
    return {"end_behavior": {"missing_payment_method": word}}


def test_notice_comes_three_days_before_the_end(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, trial=14).days(10.9)
    assert not life.events(WILL_END)
    life.days(0.2)
    assert life.events(WILL_END) == WILL_END
    life.days(4)
    assert (life.status(), life.latest().amount_paid, life.events(WILL_END)) == ("active", MONTH, WILL_END)
    assert life.period_end() == seconds(2026, 2, 15)


def test_short_trial_gives_notice_at_once(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, trial=2)
    assert life.events(WILL_END) == WILL_END


@pytest.mark.parametrize(
    ("word", "status"), [("create_invoice", "past_due"), ("cancel", "canceled"), ("pause", "paused")]
)
def test_trial_without_card_ends_as_configured(shop: Shop, word: str, status: str) -> None:
    life = Life.begin(shop.double, shop.client, card=None).subscribe(shop.price, trial=7, trial_settings=ending(word))
    life.days(8)
    assert life.status() == status


def test_paused_subscription_resumes_with_a_card(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client, card=None)
    life.subscribe(shop.price, trial=7, trial_settings=ending("pause")).days(40)
    assert len(life.invoices()) == 1
    life.use_card()
    assert shop.client.v1.subscriptions.resume(life.subscription).status == "active"
    assert (life.latest().total, life.period_end()) == (MONTH, seconds(2026, 3, 10))
    kinds = ["customer.subscription.paused", "customer.subscription.resumed"]
    assert life.events(kinds) == kinds
    with pytest.raises(stripe_error.InvalidRequestError, match="paused"):
        shop.client.v1.subscriptions.resume(life.subscription)


def test_trial_can_be_extended_and_gives_notice_again(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, trial=14).days(12)
    life.update(trial_end=seconds(2026, 1, 31))
    life.days(10)
    assert (life.status(), life.period_end()) == ("trialing", seconds(2026, 1, 31))
    life.days(10)
    assert (life.status(), life.events(WILL_END)) == ("active", WILL_END * 2)


def test_trial_can_end_now(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, trial=14).days(3)
    life.update(trial_end="now")
    assert (life.status(), life.latest().amount_paid, life.period_end()) == ("active", MONTH, seconds(2026, 2, 4))


def test_trial_given_to_a_paying_customer_credits_the_rest(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price).until(seconds(2026, 1, 16, 12))
    life.update(trial_end=seconds(2026, 3))
    assert life.status() == "trialing"
    life.renew()
    assert (life.status(), life.latest().total) == ("active", MONTH - MONTH // 2)


def test_card_of_a_trial_comes_from_its_setup_intent(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client, card=None)
    saves = {"save_default_payment_method": "on_subscription"}
    life.subscribe(shop.price, trial=7, payment_behavior="default_incomplete", payment_settings=saves)
    setup = life.current().pending_setup_intent
    shop.double.set_up(setup, "4000002500003155")
    assert shop.client.v1.setup_intents.retrieve(setup).status == "requires_action"
    shop.double.authenticate(setup)
    assert life.current().pending_setup_intent is None
    life.days(8)
    assert (life.status(), life.latest().status) == ("active", "paid")


def test_upgrade_in_a_trial_costs_nothing_yet(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, trial=14).days(3).change(shop.yearly)
    assert (life.status(), [invoice.total for invoice in life.invoices()]) == ("trialing", [0])
    life.days(12)
    assert (life.latest().total, life.period_end()) == (699_000, seconds(2027, 1, 15))


@pytest.mark.parametrize(("behavior", "status"), [("void", "void"), ("keep_as_draft", "draft"),
                                                  ("mark_uncollectible", "uncollectible")])  # fmt: skip
def test_paused_collection_does_not_charge(shop: Shop, behavior: str, status: str) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    life.update(pause_collection={"behavior": behavior, "resumes_at": seconds(2026, 2, 15)})
    life.renew()
    assert (life.status(), life.latest().status) == ("active", status)
    life.renew()
    assert (life.current().pause_collection, life.latest().status) == (None, "paid")
