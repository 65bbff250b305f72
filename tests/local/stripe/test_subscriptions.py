"""Subscriptions: payment, renewal, retries, cancellation."""

from datetime import UTC, datetime
from typing import Any

import pytest

from local.stripe.periods import after
from tests.support.stripe_shop import Shop, intent_of, stripe_error


def test_incomplete_subscription_waits_for_its_first_payment(shop: Shop) -> None:
    made = shop.subscribe()
    invoice = made.latest_invoice
    assert (made.status, invoice.status, invoice.amount_due) == ("incomplete", "open", 69900)
    secret = invoice.confirmation_secret
    intent = shop.client.v1.payment_intents.retrieve(intent_of(made))
    assert (secret.type, secret.client_secret) == ("payment_intent", intent.client_secret)
    assert (intent.status, intent.amount, intent.customer) == ("requires_payment_method", 69900, shop.customer)
    shop.double.pay(secret.client_secret)
    now = shop.subscription(made.id)
    assert now.status == "active"
    assert now.default_payment_method.startswith("pm_")
    assert shop.client.v1.invoices.retrieve(invoice.id).status == "paid"
    assert shop.events(types=["customer.subscription.created", "customer.subscription.updated", "invoice.paid"]) == [
        "customer.subscription.created",
        "invoice.paid",
        "customer.subscription.updated",
    ]


@pytest.mark.parametrize(
    ("card", "code", "decline"),
    [
        ("4000000000000002", "card_declined", "generic_decline"),
        ("4000000000009995", "card_declined", "insufficient_funds"),
        ("4000000000000069", "expired_card", "expired_card"),
    ],
)
def test_payment_stays_open_after_declined_card(shop: Shop, card: str, code: str, decline: str) -> None:
    made = shop.subscribe()
    failed = shop.double.pay(intent_of(made), card)
    assert failed["status"] == "requires_payment_method"
    assert (failed["last_payment_error"]["code"], failed["last_payment_error"]["decline_code"]) == (code, decline)
    assert shop.subscription(made.id).status == "incomplete"
    assert "invoice.payment_failed" in shop.events()
    assert shop.double.pay(intent_of(made))["status"] == "succeeded"
    assert shop.subscription(made.id).status == "active"


def test_declined_card_is_402(shop: Shop) -> None:
    intent = intent_of(shop.subscribe())
    with pytest.raises(stripe_error.CardError, match="insufficient funds") as caught:
        shop.client.v1.payment_intents.confirm(
            intent, {"payment_method": "pm_card_visa_chargeDeclinedInsufficientFunds"}
        )
    assert (caught.value.http_status, caught.value.error.decline_code) == (402, "insufficient_funds")
    assert caught.value.error.payment_intent.status == "requires_payment_method"


@pytest.mark.parametrize(("succeeds", "status"), [(True, "active"), (False, "incomplete")])
def test_3d_secure_waits_for_the_customer(shop: Shop, succeeds: bool, status: str) -> None:
    made = shop.subscribe()
    waiting = shop.double.pay(intent_of(made), "4000000000003220")
    assert waiting["status"] == "requires_action"
    assert waiting["next_action"]["redirect_to_url"]["url"].startswith(shop.double.url)
    assert "invoice.payment_action_required" in shop.events()
    shop.double.authenticate(intent_of(made), succeeds=succeeds)
    assert shop.subscription(made.id).status == status


def test_unpaid_first_invoice_expires_after_23_hours(shop: Shop) -> None:
    made = shop.subscribe()
    shop.double.advance(seconds=23 * 3600 - 60)
    assert shop.subscription(made.id).status == "incomplete"
    shop.double.advance(seconds=120)
    assert shop.subscription(made.id).status == "incomplete_expired"
    assert shop.client.v1.invoices.retrieve(made.latest_invoice.id).status == "void"
    assert shop.client.v1.payment_intents.retrieve(intent_of(made)).status == "canceled"
    assert "customer.subscription.deleted" not in shop.events()


def test_subscription_renews_on_its_day_of_the_month() -> None:
    def seconds(*when: int) -> int:
        year, month, day = when
        return int(datetime(year, month, day, tzinfo=UTC).timestamp())

    month, year = ({"interval": interval, "interval_count": 1} for interval in ("month", "year"))
    assert after(seconds(2026, 1, 31), month, seconds(2026, 1, 31)) == seconds(2026, 2, 28)
    assert after(seconds(2026, 2, 28), month, seconds(2026, 1, 31)) == seconds(2026, 3, 31)
    assert after(seconds(2024, 2, 29), year, seconds(2024, 2, 29)) == seconds(2025, 2, 28)


def test_renewal_charges_the_card_on_file(shop: Shop) -> None:
    made = shop.active()
    end = made["items"].data[0].current_period_end
    shop.double.advance(days=32)
    now = shop.subscription(made.id)
    assert now.status == "active"
    assert now["items"].data[0].current_period_start == end
    invoice = shop.client.v1.invoices.retrieve(now.latest_invoice)
    assert (invoice.billing_reason, invoice.status) == ("subscription_cycle", "paid")


def test_failed_renewal_is_retried_and_then_canceled(shop: Shop) -> None:
    made = shop.active()
    card = shop.client.v1.payment_methods.attach(
        shop.client.v1.payment_methods.create({"type": "card", "card": {"number": "4000000000000341"}}).id,
        {"customer": shop.customer},
    )
    shop.client.v1.subscriptions.update(made.id, {"default_payment_method": card.id})
    shop.double.advance(days=32)
    assert shop.subscription(made.id).status == "past_due"
    shop.double.advance(days=7)
    assert shop.subscription(made.id).status == "past_due"
    shop.double.advance(days=15)
    ended = shop.subscription(made.id)
    assert (ended.status, ended.cancellation_details.reason) == ("canceled", "payment_failed")
    assert shop.events(type="invoice.payment_failed") == ["invoice.payment_failed"] * 4


def test_paying_past_due_invoice_activates_the_subscription(shop: Shop) -> None:
    made = shop.active("4000000000003220")  # requires authentication, which a renewal cannot do
    shop.double.authenticate(
        intent_of(shop.client.v1.subscriptions.retrieve(made.id, {"expand": ["latest_invoice.payments"]}))
    )
    shop.client.v1.subscriptions.update(made.id, {"cancel_at_period_end": False})
    failing = shop.client.v1.payment_methods.create({"type": "card", "card": {"number": "4000000000000341"}})
    shop.client.v1.payment_methods.attach(failing.id, {"customer": shop.customer})
    shop.client.v1.subscriptions.update(made.id, {"default_payment_method": failing.id})
    shop.double.advance(days=32)
    invoice = shop.subscription(made.id).latest_invoice
    with pytest.raises(stripe_error.CardError):
        shop.client.v1.invoices.pay(invoice)
    good = shop.client.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    assert shop.client.v1.invoices.pay(invoice, {"payment_method": good.id}).status == "paid"
    assert shop.subscription(made.id).status == "active"


def test_cancellation_at_period_end_can_be_undone(shop: Shop) -> None:
    made = shop.active()
    update = shop.client.v1.subscriptions.update
    assert update(made.id, {"cancel_at_period_end": True}).cancel_at == made["items"].data[0].current_period_end
    assert update(made.id, {"cancel_at_period_end": False}).cancel_at is None
    update(made.id, {"cancel_at_period_end": True})
    shop.double.advance(days=32)
    assert shop.subscription(made.id).status == "canceled"
    assert shop.events(type="customer.subscription.deleted") == ["customer.subscription.deleted"]


def test_canceled_subscription_cannot_change(shop: Shop) -> None:
    made = shop.active()
    assert shop.client.v1.subscriptions.cancel(made.id).status == "canceled"
    with pytest.raises(stripe_error.InvalidRequestError, match="No such subscription") as caught:
        shop.client.v1.subscriptions.cancel(made.id)
    assert caught.value.http_status == 404
    with pytest.raises(stripe_error.InvalidRequestError, match="canceled subscription"):
        shop.client.v1.subscriptions.update(made.id, {"cancel_at_period_end": True})


def test_open_invoice_of_canceled_subscription_stays_payable(shop: Shop) -> None:
    paid_late, voided = shop.subscribe(), shop.subscribe()
    for made in paid_late, voided:
        shop.client.v1.subscriptions.cancel(made.id)
    assert shop.double.pay(intent_of(paid_late))["status"] == "succeeded"
    assert shop.subscription(paid_late.id).status == "canceled"
    shop.client.v1.invoices.void_invoice(voided.latest_invoice.id)
    assert shop.client.v1.payment_intents.retrieve(intent_of(voided)).status == "canceled"
    with pytest.raises(stripe_error.InvalidRequestError, match="status of canceled"):
        shop.client.v1.payment_intents.confirm(intent_of(voided), {"payment_method": "pm_card_visa"})


def test_list_leaves_out_canceled_subscriptions(shop: Shop) -> None:
    live, cancelled = shop.active(), shop.active()
    shop.client.v1.subscriptions.cancel(cancelled.id)

    def listed(**wanted: Any) -> list[str]:
        return [each.id for each in shop.client.v1.subscriptions.list({"customer": shop.customer, **wanted}).data]

    assert listed() == listed(status="active") == [live.id]
    assert listed(status="all") == [cancelled.id, live.id]
    assert listed(status="canceled") == listed(status="ended") == [cancelled.id]
    assert listed(status="all", created={"gt": live.created + 10}) == []


def test_yearly_plan_starts_now_and_credits_the_month(shop: Shop) -> None:
    made = shop.active()
    item = made["items"].data[0]
    changed = shop.client.v1.subscriptions.update(made.id, {"items": [{"id": item.id, "price": shop.yearly}]})
    assert changed["items"].data[0].price.id == shop.yearly
    assert changed["items"].data[0].current_period_end > item.current_period_end + 300 * 86400
    assert shop.client.v1.invoices.retrieve(changed.latest_invoice).total == 699000 - 69900  # the month is unused


def test_trial_is_free_until_it_ends(shop: Shop) -> None:
    made = shop.subscribe(trial_period_days=14)
    assert (made.status, made.latest_invoice.total) == ("trialing", 0)
    assert made.pending_setup_intent.startswith("seti_")
    shop.double.advance(days=15)
    assert shop.subscription(made.id).status == "past_due"  # there is no card
