"""Refunds, disputes, saved cards and checkout sessions."""

from typing import Any

import pytest

from local.stripe.cards import CARDS, TOKENS
from tests.support.lives import Life
from tests.support.stripe_shop import Shop, intent_of, stripe_error


def test_refund_above_the_payment_is_refused(shop: Shop) -> None:
    made = shop.subscribe()
    shop.double.pay(intent_of(made))
    refund = shop.client.v1.refunds.create
    refund({"payment_intent": intent_of(made), "amount": 60000})
    with pytest.raises(stripe_error.InvalidRequestError, match="greater than unrefunded"):
        refund({"payment_intent": intent_of(made), "amount": 9901})
    assert refund({"payment_intent": intent_of(made)}).amount == 9900
    with pytest.raises(stripe_error.InvalidRequestError) as caught:
        refund({"payment_intent": intent_of(made)})
    assert caught.value.code == "charge_already_refunded"
    assert shop.events(type="charge.refunded") == ["charge.refunded"] * 2


def test_dispute_card_opens_a_dispute(shop: Shop) -> None:
    shop.double.pay(intent_of(shop.subscribe()), "4000000000000259")
    assert "charge.dispute.created" in shop.events()


def test_setup_intent_saves_or_declines_the_card(shop: Shop) -> None:
    create = shop.client.v1.setup_intents.create
    made = create({"customer": shop.customer, "payment_method": "pm_card_visa", "confirm": True})
    assert made.status == "succeeded"
    with pytest.raises(stripe_error.CardError):
        create({"customer": shop.customer, "payment_method": "pm_card_visa_chargeDeclined", "confirm": True})
    assert shop.events(types=["setup_intent.succeeded", "setup_intent.setup_failed"]) == [
        "setup_intent.succeeded",
        "setup_intent.setup_failed",
    ]


@pytest.mark.parametrize("named", [True, False])
def test_a_new_customer_gets_a_card_and_pays_with_it(shop: Shop, named: bool) -> None:
    v1 = shop.client.v1
    card = "pm_card_visa" if named else v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}}).id
    made = v1.customers.create({"payment_method": card, "invoice_settings": {"default_payment_method": card}})
    (saved,) = v1.customers.payment_methods.list(made.id).data
    assert made.invoice_settings.default_payment_method == saved.id
    assert v1.subscriptions.create({"customer": made.id, "items": [{"price": shop.price}]}).status == "active"


def test_a_new_customer_with_a_declined_card_is_not_made(shop: Shop) -> None:
    before = len(shop.client.v1.customers.list().data)
    with pytest.raises(stripe_error.CardError):
        shop.client.v1.customers.create({"payment_method": "pm_card_visa_chargeDeclined"})
    assert len(shop.client.v1.customers.list().data) == before


def test_checkout_session_expires_after_a_day_or_by_request(shop: Shop) -> None:
    def create() -> Any:
        lines = [{"price": shop.price, "quantity": 1}]
        return shop.client.v1.checkout.sessions.create(
            {"mode": "subscription", "line_items": lines, "success_url": "https://x.test"}
        )

    expired, left = create(), create()
    assert shop.client.v1.checkout.sessions.expire(expired.id).status == "expired"
    shop.double.advance(days=1.1)
    assert shop.client.v1.checkout.sessions.retrieve(left.id).status == "expired"
    assert shop.events(type="checkout.session.expired") == ["checkout.session.expired"] * 2


def test_refund_may_be_pending_or_fail_later(shop: Shop) -> None:
    refunds, statuses = shop.client.v1.refunds, {}
    for card in "4000000000007726", "4000000000005126":
        intent = shop.client.v1.payment_intents.create({"amount": 1_000, "currency": "usd"}).id
        shop.double.pay(intent, card)
        statuses[refunds.create({"payment_intent": intent}).id] = intent
    assert {refunds.retrieve(name).status for name in statuses} == {"pending", "succeeded"}
    shop.double.advance(days=1.1)
    assert [refunds.retrieve(name).status for name in statuses] == ["succeeded", "failed"]
    charge = shop.client.v1.charges.list({"payment_intent": intent}).data[0]
    assert (charge.amount_refunded, charge.refunded) == (0, False)
    assert "refund.failed" in shop.events()


@pytest.mark.parametrize(
    ("evidence", "status"), [("winning_evidence", "won"), ("losing_evidence", "lost"), (None, "lost")]
)
def test_dispute_is_won_or_lost(shop: Shop, evidence: str | None, status: str) -> None:
    shop.double.pay(shop.client.v1.payment_intents.create({"amount": 1_000, "currency": "usd"}).id, "4000000000000259")
    (dispute,) = shop.client.v1.disputes.list().data
    assert dispute.status == "needs_response"
    if evidence:
        shop.client.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": evidence}})
    else:
        shop.double.advance(days=8)  # nothing was sent in time
    assert shop.client.v1.disputes.retrieve(dispute.id).status == status
    assert ("charge.dispute.funds_reinstated" in shop.events()) == (status == "won")
    assert shop.client.v1.charges.retrieve(dispute.charge).disputed == (status == "lost")


def test_inquiry_withdraws_no_money(shop: Shop) -> None:
    shop.double.pay(shop.client.v1.payment_intents.create({"amount": 1_000, "currency": "usd"}).id, "4000000000001976")
    (dispute,) = shop.client.v1.disputes.list().data
    assert (dispute.status, dispute.is_charge_refundable) == ("warning_needs_response", True)
    assert "charge.dispute.funds_withdrawn" not in shop.events()


def test_detached_card_is_nowhere_the_default_and_cannot_return(shop: Shop) -> None:
    v1, life = shop.client.v1, Life.begin(shop.double, shop.client)
    card = life.use_card()
    life.subscribe(shop.price, default_payment_method=card)
    assert v1.payment_methods.detach(card).customer is None
    assert v1.customers.retrieve(life.customer).invoice_settings.default_payment_method is None
    assert life.current().default_payment_method is None
    actions: list[Any] = [
        lambda: v1.payment_methods.detach(card),
        lambda: v1.payment_methods.attach(card, {"customer": life.customer}),
    ]
    for action in actions:
        with pytest.raises(stripe_error.InvalidRequestError):
            action()
    assert life.renew().status() == "past_due"
    assert "payment_method.detached" in shop.events()


def test_every_declined_card_has_its_code(shop: Shop) -> None:
    declined = {number: card for number, card in CARDS.items() if card.code and card.early}
    for number, card in declined.items():
        intent = shop.client.v1.payment_intents.create({"amount": 1_000, "currency": "usd"}).id
        with pytest.raises(stripe_error.CardError) as caught:
            shop.client.v1.payment_intents.confirm(intent, {"payment_method": f"pm_card_{card.token}"})
        error = caught.value.error
        assert (error.code, error.decline_code, number in TOKENS.values()) == (card.code, card.decline, True)
    assert len(declined) >= 8


@pytest.mark.parametrize(("card", "status"), [("4000002500003155", "active"), ("4000002760003184", "past_due")])
def test_authenticated_card_renews_or_requires_action(shop: Shop, card: str, status: str) -> None:
    made = shop.subscribe()
    shop.double.pay(intent_of(made), card)
    shop.double.authenticate(intent_of(made))
    assert shop.subscription(made.id).status == "active"
    shop.double.advance(days=32)
    assert shop.subscription(made.id).status == status


def test_wrong_card_number_is_refused(shop: Shop) -> None:
    with pytest.raises(stripe_error.CardError) as caught:
        shop.client.v1.payment_methods.create({"type": "card", "card": {"number": "4242424242424241"}})
    assert caught.value.code == "incorrect_number"
