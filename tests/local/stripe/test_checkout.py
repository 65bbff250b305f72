"""Checkout sessions: objects the page creates, and its failures."""

from typing import Any

import httpx
import pytest

from tests.support.lives import GOOD, Life
from tests.support.serving import NO_TLS
from tests.support.stripe_shop import Shop, stripe_error

MONTH = 69_900


def session(shop: Shop, **more: Any) -> Any:
    return shop.client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "line_items": [{"price": shop.price, "quantity": 1}],
            "success_url": "https://app.test/?session={CHECKOUT_SESSION_ID}",
            **more,
        }
    )


def test_trial_keeps_the_card(shop: Shop) -> None:
    made = session(shop, subscription_data={"trial_period_days": 14, "metadata": {"org": "1"}})
    assert (made.amount_total, made.payment_method_collection) == (0, "always")
    done = shop.double.check_out(made.id, email="a@b.test")
    subscription = shop.subscription(done["subscription"])
    assert (done["payment_status"], subscription.status) == ("no_payment_required", "trialing")
    assert subscription.default_payment_method.startswith("pm_")
    assert (subscription.pending_setup_intent, subscription.metadata.to_dict()) == (None, {"org": "1"})
    shop.double.advance(days=15)
    assert shop.subscription(subscription.id).status == "active"


def test_trial_without_card_is_allowed_when_not_required(shop: Shop) -> None:
    data = {"trial_period_days": 3, "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}}}
    made = session(shop, subscription_data=data, payment_method_collection="if_required")
    done = shop.double.check_out(made.id, "")
    shop.double.advance(days=4)
    assert shop.subscription(done["subscription"]).status == "canceled"


def test_promotion_code_and_tax_come_into_the_totals(shop: Shop) -> None:
    coupon = shop.client.v1.coupons.create({"percent_off": 50}).id
    shop.client.v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon}, "code": "SPRING"})
    made = session(shop, allow_promotion_codes=True, automatic_tax={"enabled": True})
    assert (made.amount_subtotal, made.amount_total) == (MONTH, MONTH)
    assert made.automatic_tax.status == "requires_location_inputs"
    done = shop.double.check_out(made.id, promotion_code="spring", country="DE")
    tax = 6_641  # 19 % of half, rounded
    assert (done["amount_subtotal"], done["amount_total"]) == (MONTH, MONTH // 2 + tax)
    details = {"amount_discount": MONTH // 2, "amount_shipping": 0, "amount_tax": tax}
    assert (done["total_details"], done["automatic_tax"]["status"]) == (details, "complete")
    invoice = shop.client.v1.invoices.retrieve(done["invoice"])
    assert (invoice.amount_paid, invoice.total_taxes[0].amount) == (MONTH // 2 + tax, tax)
    assert shop.client.v1.customers.retrieve(done["customer"]).address.country == "DE"


def test_full_discount_needs_no_payment_and_keeps_the_card(shop: Shop) -> None:
    coupon = shop.client.v1.coupons.create({"percent_off": 100, "duration": "once"}).id
    done = shop.double.check_out(session(shop, discounts=[{"coupon": coupon}]).id)
    subscription = shop.subscription(done["subscription"])
    assert (done["payment_status"], done["amount_total"], subscription.status) == ("no_payment_required", 0, "active")
    assert subscription.default_payment_method.startswith("pm_")


@pytest.mark.parametrize("code", ["NONE", "USED"])
def test_wrong_code_leaves_the_session_open(shop: Shop, code: str) -> None:
    coupon = shop.client.v1.coupons.create({"percent_off": 50}).id
    terms: Any = {"promotion": {"type": "coupon", "coupon": coupon}, "code": "USED", "max_redemptions": 1}
    shop.client.v1.promotion_codes.create(terms)
    shop.double.check_out(session(shop, allow_promotion_codes=True).id, promotion_code="USED")
    made = session(shop, allow_promotion_codes=True)
    with pytest.raises(Exception, match="invalid"):
        shop.double.check_out(made.id, promotion_code=code)
    assert shop.client.v1.checkout.sessions.retrieve(made.id).status == "open"


def test_declined_card_leaves_nothing_behind(shop: Shop) -> None:
    made = session(shop)
    before = shop.double.store._rows("select count(*) from objects")
    with pytest.raises(Exception, match="insufficient funds"):
        shop.double.check_out(made.id, "4000000000009995")
    assert shop.double.store._rows("select count(*) from objects") == before
    assert shop.double.check_out(made.id)["status"] == "complete"


def test_completed_session_cannot_be_paid_or_expired_again(shop: Shop) -> None:
    made = session(shop)
    shop.double.check_out(made.id)
    with pytest.raises(Exception, match="complete"):
        shop.double.check_out(made.id)
    with pytest.raises(stripe_error.InvalidRequestError, match="status of complete"):
        shop.client.v1.checkout.sessions.expire(made.id)
    assert shop.client.v1.checkout.sessions.retrieve(made.id).url is None


def test_expired_session_cannot_be_paid(shop: Shop) -> None:
    made = session(shop)
    shop.double.advance(days=1.1)
    with pytest.raises(Exception, match="expired"):
        shop.double.check_out(made.id)


def test_page_requires_authentication_for_such_cards(shop: Shop) -> None:
    made = session(shop)
    path = f"{shop.double.url}/checkout/{made.id}"
    page = httpx.post(path, data={"card": "4000000000003220", "email": "a@b.test"}, verify=NO_TLS).text
    assert "Complete authentication" in page
    assert "The authentication failed" in httpx.post(path, data={"bank": "no"}, verify=NO_TLS).text
    httpx.post(path, data={"card": "4000000000003220", "email": "a@b.test"}, verify=NO_TLS)
    assert "Back to the shop" in httpx.post(path, data={"bank": "yes"}, verify=NO_TLS).text
    done = shop.client.v1.checkout.sessions.retrieve(made.id)
    assert (done.payment_status, done.customer_details.email) == ("paid", "a@b.test")


def test_customer_of_the_session_is_used(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client, card=None).check_out(shop.price, card=GOOD)
    assert (life.status(), life.current().customer, life.latest().billing_reason) == (
        "active",
        life.customer,
        "subscription_create",
    )


def test_sessions_are_listed_by_customer_and_status(shop: Shop) -> None:
    first, second = session(shop, customer=shop.customer), session(shop, customer=shop.customer)
    session(shop)
    shop.client.v1.checkout.sessions.expire(first.id)
    wanted: Any = {"customer": shop.customer, "status": "open"}
    assert [each.id for each in shop.client.v1.checkout.sessions.list(wanted).data] == [second.id]
    (item,) = shop.client.v1.checkout.sessions.line_items.list(second.id).data
    assert (item.quantity, item.amount_total, item.price.id) == (1, MONTH, shop.price)


def test_setup_mode_saves_a_card(shop: Shop) -> None:
    made = shop.client.v1.checkout.sessions.create(
        {"mode": "setup", "customer": shop.customer, "success_url": "https://x.test/", "currency": "usd"}
    )
    done = shop.double.check_out(made.id)
    assert done["payment_status"] == "no_payment_required"
    setup = shop.client.v1.setup_intents.retrieve(done["setup_intent"])
    assert (setup.status, setup.customer) == ("succeeded", shop.customer)


def test_payment_mode_pays_once(shop: Shop) -> None:
    product = shop.client.v1.prices.retrieve(shop.price).product
    once: Any = {"price_data": {"currency": "eur", "unit_amount": 2_500, "product": product}, "quantity": 2}
    done = shop.double.check_out(session(shop, mode="payment", line_items=[once]).id)
    intent = shop.client.v1.payment_intents.retrieve(done["payment_intent"])
    assert (done["payment_status"], intent.amount_received, intent.currency) == ("paid", 5_000, "eur")


def test_automatic_tax_needs_an_address_of_the_customer(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError, match="requires a valid address") as caught:
        session(shop, customer=shop.customer, automatic_tax={"enabled": True})
    assert caught.value.code == "customer_tax_location_invalid"
    automatic = {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}
    done = shop.double.check_out(session(shop, customer=shop.customer, **automatic).id, country="FR")
    assert done["total_details"]["amount_tax"] == MONTH // 5


def test_code_is_applied_before_paying(shop: Shop) -> None:
    coupon = shop.client.v1.coupons.create({"percent_off": 50}).id
    shop.client.v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon}, "code": "SPRING"})
    made = session(shop, allow_promotion_codes=True)
    path = f"{shop.double.url}/checkout/{made.id}"
    wrong = httpx.post(path, data={"apply": "apply", "promotion_code": "NONE"}, verify=NO_TLS).text
    assert "This code is invalid." in wrong
    applied = httpx.post(path, data={"apply": "apply", "promotion_code": "spring"}, verify=NO_TLS).text
    assert "349.50 USD" in applied
    assert shop.double.check_out(made.id)["amount_total"] == MONTH // 2
