"""The double keeps Stripe's rules, one test each; Stripe's own client talks to it, unmodified."""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from local.stripe.periods import after
from local.stripe.server import Double
from local.stripe.webhooks import signature
from tests.support.serving import NO_TLS

OLD = "2024-06-20"
SECRET = "whsec_of_the_tests"
stripe_error: Any = stripe  # whose exceptions are untyped


@dataclass
class Shop:
    """An account with a plan for sale and a customer."""

    double: Double
    client: Any  # its parameters are typed more narrowly than tests want them
    price: str
    yearly: str
    customer: str

    def subscribe(self, **more: Any) -> Any:
        return self.client.v1.subscriptions.create(
            {
                "customer": self.customer,
                "items": [{"price": self.price}],
                "payment_behavior": "default_incomplete",
                "payment_settings": {"save_default_payment_method": "on_subscription"},
                "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
                **more,
            }
        )

    def active(self, card: str = "4242424242424242") -> Any:
        made = self.subscribe()
        self.double.pay(intent_of(made), card)
        return self.subscription(made.id)

    def subscription(self, name: str) -> Any:
        return self.client.v1.subscriptions.retrieve(name)

    def events(self, **wanted: Any) -> list[str]:
        listed = self.client.v1.events.list({"limit": 100, **wanted})
        return [event.type for event in listed.auto_paging_iter()][::-1]


_opened: list[Any] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def client_of(double: Double, **options: Any) -> Any:
    _opened.append(stripe.HTTPXClient(allow_sync_methods=True, verify_ssl_certs=False))
    return stripe.StripeClient(
        options.pop("key", double.key), base_addresses={"api": double.url}, http_client=_opened[-1], **options
    )


def intent_of(subscription: Any) -> str:
    return str(subscription.latest_invoice.payments.data[0].payment.payment_intent)


@pytest.fixture
def shop(double: Double) -> Shop:
    client = client_of(double)
    product = client.v1.products.create({"name": "Growth"})
    monthly, yearly = (
        client.v1.prices.create(
            {
                "product": product.id,
                "currency": "usd",
                "unit_amount": amount,
                "recurring": {"interval": interval},
                "lookup_key": interval,
            }
        )
        for amount, interval in ((69900, "month"), (699000, "year"))
    )
    customer = client.v1.customers.create({"email": "owner@acme.test", "metadata": {"org": "1"}})
    return Shop(double, client, monthly.id, yearly.id, customer.id)


# Requests ------------------------------------------------------------------------------------------------------------


def test_a_request_needs_the_secret_key(double: Double) -> None:
    client = client_of(double, key="sk_test_another")
    with pytest.raises(stripe_error.AuthenticationError, match="Invalid API Key provided") as caught:
        client.v1.customers.list()
    assert "sk_test_another" not in str(caught.value)


def test_the_client_written_for_async_works_too(double: Double) -> None:
    async def create() -> str:
        http: Any = stripe.HTTPXClient(verify_ssl_certs=False)
        client = stripe.StripeClient(double.key, base_addresses={"api": double.url}, http_client=http)
        made = await client.v1.customers.create_async({"name": "Ada"})
        await http.close_async()
        return str(made.name)

    assert asyncio.run(create()) == "Ada"


def test_a_parameter_that_nobody_reads_is_refused(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError, match="unknown parameter: colour") as caught:
        shop.client.v1.customers.create({"colour": "red"})
    assert (caught.value.code, caught.value.param) == ("parameter_unknown", "colour")


def test_a_parameter_that_is_needed_is_named(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError, match="Missing required param: customer") as caught:
        shop.client.v1.subscriptions.create({"items": [{"price": shop.price}]})
    assert caught.value.code == "parameter_missing"


def test_what_is_not_there_is_404_by_its_address_and_400_as_a_parameter(shop: Shop) -> None:
    asked: dict[int, Callable[[], Any]] = {
        404: lambda: shop.client.v1.subscriptions.retrieve("sub_none"),
        400: lambda: shop.subscribe(customer="cus_none"),
    }
    for status, ask in asked.items():
        with pytest.raises(stripe_error.InvalidRequestError, match="No such ") as caught:
            ask()
        assert (caught.value.http_status, caught.value.code) == (status, "resource_missing")


def test_metadata_is_merged_and_an_empty_value_takes_a_key_away(shop: Shop) -> None:
    changed = shop.client.v1.customers.update(shop.customer, {"metadata": {"plan": "x", "org": ""}})
    assert changed.metadata.to_dict() == {"plan": "x"}


def test_a_list_is_newest_first_in_pages_that_neither_repeat_nor_skip(shop: Shop) -> None:
    made = [shop.client.v1.customers.create({"name": str(n)}).id for n in range(25)]
    listed = [customer.id for customer in shop.client.v1.customers.list({"limit": 10}).auto_paging_iter()]
    assert listed == [*made[::-1], shop.customer]
    page = shop.client.v1.customers.list({"limit": 2, "ending_before": listed[10]})
    assert [customer.id for customer in page.data] == listed[8:10]
    with pytest.raises(stripe_error.InvalidRequestError, match="between 1 and 100"):
        shop.client.v1.customers.list({"limit": 101})


def test_a_lookup_key_finds_its_price_and_belongs_to_one(shop: Shop) -> None:
    (found,) = shop.client.v1.prices.list({"lookup_keys": ["month"]}).data
    assert found.id == shop.price
    again: Any = {"product": found.product, "currency": "usd", "unit_amount": 1, "lookup_key": "month"}
    with pytest.raises(stripe_error.InvalidRequestError, match="already uses that lookup key"):
        shop.client.v1.prices.create(again)
    taken = shop.client.v1.prices.create(again | {"transfer_lookup_key": True})
    assert [price.id for price in shop.client.v1.prices.list({"lookup_keys": ["month"]}).data] == [taken.id]


# Idempotency ---------------------------------------------------------------------------------------------------------


def test_the_same_key_and_parameters_get_the_same_answer_and_do_nothing_twice(shop: Shop) -> None:
    first, again = (shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}) for _ in range(2))
    assert first.id == again.id
    assert shop.events(type="customer.created") == ["customer.created"] * 2  # with the shop's own


def test_the_same_key_with_other_parameters_is_an_error(shop: Shop) -> None:
    shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
    with pytest.raises(stripe_error.IdempotencyError, match="same parameters") as caught:
        shop.client.v1.customers.create({"name": "Bob"}, {"idempotency_key": "k"})
    assert caught.value.http_status == 400


def test_the_same_key_at_the_same_time_is_a_conflict(shop: Shop) -> None:
    shop.double.fail("slow", seconds=0.5)

    def create() -> str:
        try:
            return str(shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).object)
        except stripe_error.APIError as error:
            return str(error.http_status)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda _: create(), range(2))) == ["409", "customer"]


def test_a_refused_parameter_is_not_kept_under_the_key_and_a_declined_card_is(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError):
        shop.client.v1.refunds.create({"charge": "ch_none"}, {"idempotency_key": "k"})
    shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
    intent = intent_of(shop.subscribe())
    for _ in range(2):
        with pytest.raises(stripe_error.CardError):
            shop.client.v1.payment_intents.confirm(
                intent, {"payment_method": "pm_card_visa_chargeDeclined"}, {"idempotency_key": "d"}
            )
    assert shop.events(type="charge.failed") == ["charge.failed"]


# Subscriptions -------------------------------------------------------------------------------------------------------


def test_a_default_incomplete_subscription_waits_for_its_first_payment(shop: Shop) -> None:
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
def test_a_declined_card_leaves_the_payment_open_for_another(shop: Shop, card: str, code: str, decline: str) -> None:
    made = shop.subscribe()
    failed = shop.double.pay(intent_of(made), card)
    assert failed["status"] == "requires_payment_method"
    assert (failed["last_payment_error"]["code"], failed["last_payment_error"]["decline_code"]) == (code, decline)
    assert shop.subscription(made.id).status == "incomplete"
    assert "invoice.payment_failed" in shop.events()
    assert shop.double.pay(intent_of(made))["status"] == "succeeded"
    assert shop.subscription(made.id).status == "active"


def test_the_api_tells_of_a_declined_card_by_402(shop: Shop) -> None:
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


def test_a_first_payment_that_never_comes_expires_after_23_hours(shop: Shop) -> None:
    made = shop.subscribe()
    shop.double.advance(seconds=23 * 3600 - 60)
    assert shop.subscription(made.id).status == "incomplete"
    shop.double.advance(seconds=120)
    assert shop.subscription(made.id).status == "incomplete_expired"
    assert shop.client.v1.invoices.retrieve(made.latest_invoice.id).status == "void"
    assert shop.client.v1.payment_intents.retrieve(intent_of(made)).status == "canceled"
    assert "customer.subscription.deleted" not in shop.events()


def test_a_subscription_renews_on_the_day_of_the_month_it_began() -> None:
    def seconds(*when: int) -> int:
        year, month, day = when
        return int(datetime(year, month, day, tzinfo=UTC).timestamp())

    month, year = ({"interval": interval, "interval_count": 1} for interval in ("month", "year"))
    assert after(seconds(2026, 1, 31), month, seconds(2026, 1, 31)) == seconds(2026, 2, 28)
    assert after(seconds(2026, 2, 28), month, seconds(2026, 1, 31)) == seconds(2026, 3, 31)
    assert after(seconds(2024, 2, 29), year, seconds(2024, 2, 29)) == seconds(2025, 2, 28)


def test_a_renewal_is_charged_to_the_card_on_file(shop: Shop) -> None:
    made = shop.active()
    end = made["items"].data[0].current_period_end
    shop.double.advance(days=32)
    now = shop.subscription(made.id)
    assert now.status == "active"
    assert now["items"].data[0].current_period_start == end
    invoice = shop.client.v1.invoices.retrieve(now.latest_invoice)
    assert (invoice.billing_reason, invoice.status) == ("subscription_cycle", "paid")


def test_a_renewal_that_fails_is_past_due_tried_again_and_ends(shop: Shop) -> None:
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


def test_a_past_due_invoice_can_be_paid_and_the_subscription_is_active_again(shop: Shop) -> None:
    made = shop.active("4000000000003220")  # wants the customer, who is not there at the renewal
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


def test_cancelling_at_the_end_of_the_period_can_be_taken_back_until_then(shop: Shop) -> None:
    made = shop.active()
    update = shop.client.v1.subscriptions.update
    assert update(made.id, {"cancel_at_period_end": True}).cancel_at == made["items"].data[0].current_period_end
    assert update(made.id, {"cancel_at_period_end": False}).cancel_at is None
    update(made.id, {"cancel_at_period_end": True})
    shop.double.advance(days=32)
    assert shop.subscription(made.id).status == "canceled"
    assert shop.events(type="customer.subscription.deleted") == ["customer.subscription.deleted"]


def test_a_cancelled_subscription_is_gone_for_another_cancellation_and_cannot_change(shop: Shop) -> None:
    made = shop.active()
    assert shop.client.v1.subscriptions.cancel(made.id).status == "canceled"
    with pytest.raises(stripe_error.InvalidRequestError, match="No such subscription") as caught:
        shop.client.v1.subscriptions.cancel(made.id)
    assert caught.value.http_status == 404
    with pytest.raises(stripe_error.InvalidRequestError, match="canceled subscription"):
        shop.client.v1.subscriptions.update(made.id, {"cancel_at_period_end": True})


def test_the_open_invoice_of_a_cancelled_subscription_can_still_be_paid_until_it_is_voided(shop: Shop) -> None:
    paid_late, voided = shop.subscribe(), shop.subscribe()
    for made in paid_late, voided:
        shop.client.v1.subscriptions.cancel(made.id)
    assert shop.double.pay(intent_of(paid_late))["status"] == "succeeded"
    assert shop.subscription(paid_late.id).status == "canceled"
    shop.client.v1.invoices.void_invoice(voided.latest_invoice.id)
    assert shop.client.v1.payment_intents.retrieve(intent_of(voided)).status == "canceled"
    with pytest.raises(stripe_error.InvalidRequestError, match="status of canceled"):
        shop.client.v1.payment_intents.confirm(intent_of(voided), {"payment_method": "pm_card_visa"})


def test_a_list_of_subscriptions_leaves_out_the_cancelled_unless_asked(shop: Shop) -> None:
    live, gone = shop.active(), shop.active()
    shop.client.v1.subscriptions.cancel(gone.id)

    def listed(**wanted: Any) -> list[str]:
        return [each.id for each in shop.client.v1.subscriptions.list({"customer": shop.customer, **wanted}).data]

    assert listed() == listed(status="active") == [live.id]
    assert listed(status="all") == [gone.id, live.id]
    assert listed(status="canceled") == listed(status="ended") == [gone.id]
    assert listed(status="all", created={"gt": live.created + 10}) == []


def test_another_interval_begins_a_new_period_and_is_paid_at_once(shop: Shop) -> None:
    made = shop.active()
    item = made["items"].data[0]
    changed = shop.client.v1.subscriptions.update(made.id, {"items": [{"id": item.id, "price": shop.yearly}]})
    assert changed["items"].data[0].price.id == shop.yearly
    assert changed["items"].data[0].current_period_end > item.current_period_end + 300 * 86400
    assert shop.client.v1.invoices.retrieve(changed.latest_invoice).total == 699000 - 69900  # the month is unused


def test_a_trial_costs_nothing_until_it_ends(shop: Shop) -> None:
    made = shop.subscribe(trial_period_days=14)
    assert (made.status, made.latest_invoice.total) == ("trialing", 0)
    assert made.pending_setup_intent.startswith("seti_")
    shop.double.advance(days=15)
    assert shop.subscription(made.id).status == "past_due"  # nobody gave a card


# Refunds, disputes, setup, checkout, portal --------------------------------------------------------------------------


def test_no_more_is_refunded_than_was_paid(shop: Shop) -> None:
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


def test_a_disputed_payment_is_told_of(shop: Shop) -> None:
    shop.double.pay(intent_of(shop.subscribe()), "4000000000000259")
    assert "charge.dispute.created" in shop.events()


def test_a_card_is_set_up_for_later_or_refused(shop: Shop) -> None:
    create = shop.client.v1.setup_intents.create
    made = create({"customer": shop.customer, "payment_method": "pm_card_visa", "confirm": True})
    assert made.status == "succeeded"
    with pytest.raises(stripe_error.CardError):
        create({"customer": shop.customer, "payment_method": "pm_card_visa_chargeDeclined", "confirm": True})
    assert shop.events(types=["setup_intent.succeeded", "setup_intent.setup_failed"]) == [
        "setup_intent.succeeded",
        "setup_intent.setup_failed",
    ]


def test_a_checkout_session_expires_after_a_day_or_when_told(shop: Shop) -> None:
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


# Versions ------------------------------------------------------------------------------------------------------------


def test_since_2025_periods_stand_at_the_items_and_before_at_the_subscription(shop: Shop) -> None:
    made = shop.active()
    then = client_of(shop.double, stripe_version=OLD).v1.subscriptions.retrieve(made.id).to_dict()
    now = made.to_dict()
    assert "current_period_end" not in now
    assert then["current_period_end"] == now["items"]["data"][0]["current_period_end"]
    assert "current_period_end" not in then["items"]["data"][0]


def test_since_2025_an_invoice_names_its_subscription_and_payment_elsewhere(shop: Shop) -> None:
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


def test_which_invoice_a_payment_is_for_can_be_asked(shop: Shop) -> None:
    made = shop.subscribe()
    asked: Any = {"payment": {"type": "payment_intent", "payment_intent": intent_of(made)}}
    (found,) = shop.client.v1.invoice_payments.list(asked).data
    assert found.invoice == made.latest_invoice.id


# Events and webhooks -------------------------------------------------------------------------------------------------


@dataclass
class Receiver:
    url: str
    got: list[tuple[str, bytes]] = field(default_factory=list)
    refuse: int = 0

    def events(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.got.append((self.headers["stripe-signature"], body))
            kept.refuse -= 1
            self.send_response(500 if kept.refuse >= 0 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        kept = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield kept
        server.shutdown()


def test_an_event_is_signed_as_the_library_verifies_it(shop: Shop, receiver: Receiver) -> None:
    shop.double.send_events_to(receiver.url, SECRET)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    shop.double.deliveries.settle()
    ((signed, body),) = receiver.got
    event = shop.client.construct_event(body, signed, SECRET)
    assert (event.type, event.data.object.name) == ("customer.updated", "Ada")
    assert event.data.to_dict()["previous_attributes"] == {"name": None}
    with pytest.raises(stripe_error.SignatureVerificationError):
        shop.client.construct_event(body, signature(body, "whsec_another"), SECRET)


def test_an_update_says_what_was_otherwise_before_and_nothing_else(shop: Shop) -> None:
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


def test_an_event_that_is_not_taken_comes_again(shop: Shop, receiver: Receiver) -> None:
    receiver.refuse = 2
    shop.double.send_events_to(receiver.url, SECRET)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    shop.double.deliveries.settle()
    first, *more = receiver.events()
    assert [event["id"] for event in more] == [first["id"]] * 2
    assert shop.client.v1.events.retrieve(first["id"]).pending_webhooks == 0


def test_the_version_of_the_endpoint_decides_the_shape_of_its_events(shop: Shop, receiver: Receiver) -> None:
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


def test_an_endpoint_gets_the_types_it_asked_for_and_tells_its_secret_once(shop: Shop, receiver: Receiver) -> None:
    endpoints = shop.client.v1.webhook_endpoints
    made = endpoints.create({"url": receiver.url, "enabled_events": ["customer.updated"]})
    assert made.secret.startswith("whsec_")
    assert "secret" not in endpoints.retrieve(made.id).to_dict()
    shop.client.v1.customers.create({"name": "Bob"})
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    shop.double.deliveries.settle()
    assert [event["type"] for event in receiver.events()] == ["customer.updated"]


def test_the_list_of_events_lags_behind(shop: Shop) -> None:
    shop.double.lag(60)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    assert "customer.updated" not in shop.events()
    shop.double.advance(seconds=61)
    assert "customer.updated" in shop.events()


def test_mischief_drops_doubles_and_shuffles_the_same_way_for_the_same_seed(receiver: Receiver) -> None:
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


def test_mischief_delays_what_it_delivers(shop: Shop, receiver: Receiver) -> None:
    shop.double.send_events_to(receiver.url, SECRET)
    shop.double.mischief(3, delay=86400)
    shop.client.v1.customers.update(shop.customer, {"name": "Ada"})
    with pytest.raises(TimeoutError, match="1 deliveries"):
        shop.double.deliveries.settle(timeout=0.1)
    shop.double.advance(days=1)
    shop.double.deliveries.settle()
    assert len(receiver.got) == 1


# Faults --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error"), [("timeout", "APIConnectionError"), ("429", "RateLimitError"), ("500", "APIError")]
)
@pytest.mark.parametrize("after", [False, True])
def test_what_fails_after_its_effect_has_had_it(shop: Shop, how: str, error: str, after: bool) -> None:
    shop.double.fail(how, after=after)
    with pytest.raises(getattr(stripe_error, error)):
        shop.client.v1.customers.create({"name": "Ada"})
    names = [customer.name for customer in shop.client.v1.customers.list().data]
    assert ("Ada" in names) == after


def test_a_500_after_the_effect_is_what_its_key_answers_from_then_on(shop: Shop) -> None:
    shop.double.fail("500", after=True)
    for _ in range(2):
        with pytest.raises(stripe_error.APIError) as caught:
            shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
        assert caught.value.http_status == 500
    assert [customer.name for customer in shop.client.v1.customers.list().data].count("Ada") == 1


def test_an_answer_lost_on_the_way_is_given_again_for_its_key(shop: Shop) -> None:
    shop.double.fail("timeout", after=True)
    retrying = client_of(shop.double, max_network_retries=2)
    retrying.v1.customers.create({"name": "Ada"})
    names = [customer.name for customer in shop.client.v1.customers.list().data]
    assert names.count("Ada") == 1


def test_what_happened_survives_a_kill_and_is_still_delivered(tmp_path: Path, receiver: Receiver) -> None:
    file = tmp_path / "stripe.sqlite"
    first = Double(file)  # never stopped, as if killed; its deliveries never started
    threading.Thread(target=first._server.serve_forever, args=(0.01,), daemon=True).start()
    first.send_events_to(receiver.url, SECRET)
    name = client_of(first).v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).id
    first._server.shutdown()
    first._server.server_close()
    second = Double(file).start()
    assert client_of(second).v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).id == name
    second.deliveries.settle()
    assert [event["type"] for event in receiver.events()] == ["customer.created"]
    second.stop()
    first.store.close()


# Pages ---------------------------------------------------------------------------------------------------------------


def page(double: Double, address: str, /, **form: str) -> str:
    """A page as text; with a form, what answers to it."""
    path = address.removeprefix(double.url)
    with httpx.Client(base_url=double.url, verify=NO_TLS) as browser:
        answer = browser.post(path, data=form) if form else browser.get(path)
        return answer.text


def test_a_payment_is_found_on_the_first_page_and_paid_by_hand(shop: Shop) -> None:
    made = shop.subscribe()
    (link,) = re.findall(r'href="(/pay/[^"]+)"', page(shop.double, "/"))
    assert "699.00 USD" in page(shop.double, link)
    assert "Your card was declined." in page(shop.double, link, card="4000000000000002")
    assert "Complete" in page(shop.double, link, card="4000000000003220")
    assert "Paid." in page(shop.double, link, bank="yes")
    assert shop.subscription(made.id).status == "active"
    assert link not in page(shop.double, "/")


def test_attack_a_payment_page_is_opened_with_a_guessed_secret(shop: Shop) -> None:
    intent = intent_of(shop.subscribe())
    assert "No such" in page(shop.double, f"/pay/{intent}_secret_0")
    assert "No such" in page(shop.double, f"/pay/{intent}_secret_0", card="4242424242424242")


def test_attack_another_website_sends_a_form(shop: Shop) -> None:
    headers = {"sec-fetch-site": "cross-site"}
    answer = httpx.post(f"{shop.double.url}/", data={"seconds": "86400"}, headers=headers, verify=NO_TLS)
    assert answer.status_code == 403


def test_a_form_that_lacks_its_card_is_refused_by_name(shop: Shop) -> None:
    secret = shop.subscribe().latest_invoice.confirmation_secret.client_secret
    answer = httpx.post(f"{shop.double.url}/pay/{secret}", data={"colour": "red"}, verify=NO_TLS)
    assert (answer.status_code, "The form lacks: card." in answer.text) == (400, True)


def test_what_a_customer_is_called_is_text_on_a_page(shop: Shop) -> None:
    customer = shop.double.account.get("customer", shop.customer)
    shop.double.account.change(customer, None, email="<script>alert(1)</script>")
    shop.subscribe()
    assert "<script>" not in page(shop.double, "/")


def test_the_portal_cancels_at_the_end_of_the_period_by_cancel_at_alone(shop: Shop) -> None:
    made = shop.active()
    session = shop.client.v1.billing_portal.sessions.create(
        {"customer": shop.customer, "return_url": "https://app.test/plan"}
    )
    assert 'href="https://app.test/plan"' in page(shop.double, session.url)
    page(shop.double, session.url, subscription=made.id, action="cancel")
    cancelled = shop.subscription(made.id)
    assert (cancelled.cancel_at, cancelled.cancel_at_period_end) == (made["items"].data[0].current_period_end, False)
    assert page(shop.double, session.url, subscription=made.id, action="resume")
    assert shop.subscription(made.id).cancel_at is None
    page(shop.double, session.url, card="4000000000000341")
    page(shop.double, "/", seconds=str(32 * 86400))
    assert shop.subscription(made.id).status == "past_due"


def test_a_checkout_session_makes_its_subscription_when_it_is_paid(shop: Shop) -> None:
    made = shop.client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "line_items": [{"price": shop.price, "quantity": 1}],
            "customer": shop.customer,
            "client_reference_id": "ours",
            "success_url": "https://app.test/?session={CHECKOUT_SESSION_ID}",
        }
    )
    assert made.subscription is None
    assert f"https://app.test/?session={made.id}" in page(shop.double, made.url, card="4242424242424242")
    paid = shop.client.v1.checkout.sessions.retrieve(made.id)
    assert (paid.status, paid.payment_status, paid.client_reference_id) == ("complete", "paid", "ours")
    assert shop.subscription(paid.subscription).status == "active"
    assert "checkout.session.completed" in shop.events()


def test_a_script_may_do_what_a_test_does(shop: Shop) -> None:
    told = {"mischief": {"seed": 1, "drop": 1}, "lag": 60, "advance": {"days": 1}, "fail": {"how": "429"}}
    assert httpx.post(f"{shop.double.url}/control", json=told, verify=NO_TLS).status_code == 200
    with pytest.raises(stripe_error.RateLimitError):
        shop.client.v1.customers.list()
    assert httpx.post(f"{shop.double.url}/control", json={"colour": "red"}, verify=NO_TLS).status_code == 400
