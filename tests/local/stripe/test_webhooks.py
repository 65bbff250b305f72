"""Versions, events and their deliveries."""

from typing import Any

import pytest

from local.stripe.server import Double
from local.stripe.webhooks import signature
from tests.local.stripe.conftest import Receiver
from tests.support.stripe_shop import OLD, SECRET, Shop, client_of, intent_of, stripe_error


def test_older_version_has_the_period_on_the_subscription(shop: Shop) -> None:
    made = shop.active()
    then = client_of(shop.double, stripe_version=OLD).v1.subscriptions.retrieve(made.id).to_dict()
    now = made.to_dict()
    assert "current_period_end" not in now
    assert then["current_period_end"] == now["items"]["data"][0]["current_period_end"]
    assert "current_period_end" not in then["items"]["data"][0]


def test_older_version_has_the_payment_on_the_invoice(shop: Shop) -> None:
    made = shop.subscribe()
    expand: Any = {"expand": ["latest_invoice.payment_intent"]}
    then = (
        client_of(shop.double, stripe_version=OLD)
        .v1.subscriptions.retrieve(made.id, expand)
        .to_dict()["latest_invoice"]
    )
    now = shop.client.v1.invoices.retrieve(made.latest_invoice.id).to_dict()
    assert then["subscription"] == now["parent"]["subscription_details"]["subscription"] == made.id
    assert then["payment_intent"]["id"] == intent_of(made)
    assert then["lines"]["data"][0]["price"]["id"] == now["lines"]["data"][0]["pricing"]["price_details"]["price"]
    assert not {"subscription", "payment_intent", "payments", "confirmation_secret"} & now.keys()
    with pytest.raises(stripe_error.InvalidRequestError, match="cannot be expanded"):
        shop.client.v1.subscriptions.retrieve(made.id, expand)
    with pytest.raises(stripe_error.InvalidRequestError, match="cannot be expanded"):
        client_of(shop.double, stripe_version=OLD).v1.invoices.retrieve(
            made.latest_invoice.id, {"expand": ["confirmation_secret"]}
        )


def test_invoice_payment_is_found_by_payment_intent(shop: Shop) -> None:
    made = shop.subscribe()
    filters: Any = {"payment": {"type": "payment_intent", "payment_intent": intent_of(made)}}
    (found,) = shop.client.v1.invoice_payments.list(filters).data
    assert found.invoice == made.latest_invoice.id


def test_event_signature_is_accepted_by_the_library(shop: Shop, receiver: Receiver) -> None:
    shop.double.send_events_to(receiver.url, SECRET)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    shop.double.deliveries.settle()
    ((signed, body),) = receiver.got
    event = shop.client.construct_event(body, signed, SECRET)
    assert (event.type, event.data.object.name) == ("customer.updated", "Ada")
    assert event.data.to_dict()["previous_attributes"] == {"name": None}
    with pytest.raises(stripe_error.SignatureVerificationError):
        shop.client.construct_event(body, signature(body, "whsec_another"), SECRET)


def test_updated_event_lists_previous_attributes_only(shop: Shop) -> None:
    made = shop.active()
    shop.client.v1.subscriptions.update(made.id, {"cancel_at_period_end": True})
    (event, *_) = shop.client.v1.events.list({"type": "customer.subscription.updated"}).data
    before = event.data.to_dict()["previous_attributes"]
    assert before == {
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"reason": None},
    }


def test_refused_delivery_is_retried(shop: Shop, receiver: Receiver) -> None:
    receiver.refuse = 2
    shop.double.send_events_to(receiver.url, SECRET)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    shop.double.deliveries.settle()
    first, *more = receiver.events()
    assert [event["id"] for event in more] == [first["id"]] * 2
    assert shop.client.v1.events.retrieve(first["id"]).pending_webhooks == 0


def test_endpoint_version_decides_the_event_shape(shop: Shop, receiver: Receiver) -> None:
    shop.double.send_events_to(receiver.url, SECRET, OLD)
    made = shop.active()
    shop.double.advance(days=32)
    shop.double.deliveries.settle()
    got = [event for event in receiver.events() if event["type"] == "customer.subscription.updated"]
    assert {event["api_version"] for event in got} == {OLD}
    assert got[0]["data"]["object"]["id"] == made.id
    (renewed,) = [event["data"] for event in got if "current_period_end" in event["data"]["previous_attributes"]]
    assert renewed["object"]["current_period_start"] == renewed["previous_attributes"]["current_period_end"]
    invoices = [event["data"]["object"] for event in receiver.events() if event["type"] == "invoice.paid"]
    assert {invoice["subscription"] for invoice in invoices} == {made.id}


def test_endpoint_receives_its_types_and_shows_secret_once(shop: Shop, receiver: Receiver) -> None:
    endpoints = shop.client.v1.webhook_endpoints
    made = endpoints.create({"url": receiver.url, "enabled_events": ["customer.updated"]})
    assert made.secret.startswith("whsec_")
    assert "secret" not in endpoints.retrieve(made.id).to_dict()
    shop.client.v1.customers.create({"name": "Bob"})
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    shop.double.deliveries.settle()
    assert [event["type"] for event in receiver.events()] == ["customer.updated"]


def test_event_list_lags_behind(shop: Shop) -> None:
    shop.double.lag(60)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    assert "customer.updated" not in shop.events()
    shop.double.advance(seconds=61)
    assert "customer.updated" in shop.events()


def test_mischief_is_repeatable_by_seed(receiver: Receiver) -> None:
    def delivered(seed: int) -> list[str]:
        double = Double().start()
        client = client_of(double)
        double.deliveries.paused = True
        double.send_events_to(receiver.url, SECRET)
        double.mischief(seed, drop=0.2, duplicate=0.3, shuffle=10)
        for n in range(30):
            client.v1.customers.create({"name": str(n)})
        receiver.got.clear()
        double.deliveries.paused = False
        double.deliveries.settle()
        double.stop()
        return [event["data"]["object"]["name"] for event in receiver.events()]

    first, again, other = sorted(delivered(1), key=int), sorted(delivered(1), key=int), sorted(delivered(2), key=int)
    assert first == again != other
    assert 15 < len(set(first)) < 30 < len(first) + 10
    in_order = delivered(1)
    assert in_order != sorted(in_order, key=int)


def test_mischief_delays_deliveries(shop: Shop, receiver: Receiver) -> None:
    shop.double.send_events_to(receiver.url, SECRET)
    shop.double.mischief(3, delay=86400)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    with pytest.raises(TimeoutError, match="1 deliveries"):
        shop.double.deliveries.settle(timeout=0.1)
    shop.double.advance(days=1)
    shop.double.deliveries.settle()
    assert len(receiver.got) == 1
