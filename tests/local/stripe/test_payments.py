"""Refunds, disputes, saved cards and checkout sessions."""

from typing import Any

import pytest

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


def test_checkout_session_expires_after_a_day_or_by_request(shop: Shop) -> None:
    def create() -> Any:
        lines = [{"price": shop.price, "quantity": 1}]
        return shop.client.v1.checkout.sessions.create(
            {"mode": "subscription", "line_items": lines, "success_url": "https://x.test"}
        )

    told, left = create(), create()
    assert shop.client.v1.checkout.sessions.expire(told.id).status == "expired"
    shop.double.advance(days=1.1)
    assert shop.client.v1.checkout.sessions.retrieve(left.id).status == "expired"
    assert shop.events(type="checkout.session.expired") == ["checkout.session.expired"] * 2
