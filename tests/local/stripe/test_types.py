"""Objects of every kind have exactly the fields and types of the `stripe` package's classes."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from stripe import Event
from typing_extensions import is_typeddict

from local.stripe import LATEST
from local.stripe.account import DEFAULTS
from local.stripe.api import ROUTES
from local.stripe.parameters import Parameter
from local.stripe.versions import shown
from tests.support.stripe_shop import Shop, intent_of
from tests.support.stripe_types import problems


def everything(shop: Shop) -> None:
    """Make objects of every kind, in many of their states."""
    v1, double = shop.client.v1, shop.double
    double.send_events_to("http://127.0.0.1:9/", "whsec_nobody")
    coupon = v1.coupons.create({"percent_off": 12.5, "duration": "repeating", "duration_in_months": 3})
    code = v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "SPRING"})
    rate = v1.tax_rates.create({"display_name": "VAT", "inclusive": True, "percentage": 19})
    germany = {"address": {"country": "DE"}}
    v1.customers.update(shop.customer, germany)
    v1.customers.tax_ids.create(shop.customer, {"type": "eu_vat", "value": "DE123456789"})
    product = v1.prices.retrieve(shop.price).product
    seat = v1.prices.create({"product": product, "currency": "usd", "unit_amount_decimal": "1050.5",
                             "recurring": {"interval": "month"}, "lookup_key": "seat"})  # fmt: skip
    items = [{"price": shop.price}, {"price": seat.id, "quantity": 3, "tax_rates": [rate.id]}]
    made = shop.subscribe(items=items, discounts=[{"promotion_code": code.id}], automatic_tax={"enabled": True})
    double.pay(intent_of(made))
    trial = v1.checkout.sessions.create({
        "mode": "subscription", "customer": shop.customer, "line_items": [{"price": shop.price, "quantity": 1}],
        "success_url": "https://x.test/", "subscription_data": {"trial_period_days": 5}, "allow_promotion_codes": True,
    })  # fmt: skip
    double.check_out(trial.id, promotion_code="SPRING")
    v1.checkout.sessions.create({"mode": "setup", "success_url": "https://x.test/", "currency": "usd"})
    schedule = v1.subscription_schedules.create({"from_subscription": made.id})
    phase, discount = schedule.phases[0], {"coupon": coupon.id}
    v1.subscription_schedules.update(schedule.id, {"phases": [
        {"items": items, "start_date": phase.start_date, "end_date": phase.end_date, "discounts": [discount]},
        {"items": [{"price": shop.yearly}], "duration": {"interval": "year"}, "automatic_tax": {"enabled": True}},
    ]})  # fmt: skip
    v1.invoice_items.create({"customer": shop.customer, "amount": 1500, "currency": "usd"})
    invoice = v1.invoices.create({"customer": shop.customer, "pending_invoice_items_behavior": "include"})
    v1.invoices.pay(invoice.id, {"payment_method": "pm_card_visa"})
    v1.credit_notes.create({"invoice": invoice.id, "amount": 700, "refund_amount": 500, "credit_amount": 200})
    for card in "4000000000000259", "4000000000001976", "4000000000003220", "4000000000000002":
        double.pay(v1.payment_intents.create({"amount": 1000, "currency": "usd"}).id, card)
    v1.setup_intents.create({"customer": shop.customer, "payment_method": "pm_card_visa", "confirm": True})
    v1.billing_portal.sessions.create({"customer": shop.customer, "flow_data": {
        "type": "subscription_cancel", "subscription_cancel": {"subscription": made.id}}})  # fmt: skip
    v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    clock = v1.test_helpers.test_clocks.create({"frozen_time": 1_800_000_000, "name": "clock"})
    v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": 1_800_003_600})
    shop.client.v1.subscriptions.update(made.id, {"metadata": {"a": "b"}})
    double.advance(days=33)


def test_every_object_has_the_fields_of_its_typed_class(shop: Shop) -> None:
    everything(shop)
    found: dict[str, Any] = {}
    for (kind,) in shop.double.store._rows("select distinct kind from objects"):
        for thing in shop.double.store.all(kind):
            found |= dict.fromkeys(problems(shown(shop.double.account, thing, LATEST)), thing["id"])
    assert not found
    kinds = {kind for (kind,) in shop.double.store._rows("select distinct kind from objects")}
    assert kinds == DEFAULTS.keys() - {"subscription_item"}


def test_expanded_and_previewed_objects_have_their_typed_fields(shop: Shop) -> None:
    everything(shop)
    subscription = shop.client.v1.subscriptions.list({"customer": shop.customer}).data[0]
    queries = [
        (f"/v1/subscriptions/{subscription.id}", ["latest_invoice.payments", "customer.tax", "discounts.source.coupon",
                                                  "default_payment_method", "schedule"]),
        ("/v1/invoices", ["data.confirmation_secret", "data.discounts", "data.payments"]),
        ("/v1/charges", ["data.refunds", "data.payment_intent", "data.customer"]),
        ("/v1/checkout/sessions", ["data.line_items", "data.subscription.latest_invoice", "data.discounts.coupon"]),
        ("/v1/customers", ["data.subscriptions", "data.tax_ids", "data.invoice_settings.default_payment_method"]),
    ]  # fmt: skip
    found: list[str] = []
    for address, paths in queries:
        thing = shop.client.raw_request("get", address, expand=paths).data
        for each in thing["data"] if thing["object"] == "list" else [thing]:
            found += problems(each)
    preview = shop.client.raw_request("post", "/v1/invoices/create_preview", subscription=subscription.id)
    assert not found + problems(preview.data)


def test_every_event_type_is_known_to_the_package(shop: Shop) -> None:
    everything(shop)
    known = Event.__annotations__["type"].__args__
    assert not {event["type"] for event in shop.double.store.all("event")} - set(known)


# The nouns of stripe.params that are not the path without its last letter.
NOUNS = {"invoiceitems": "invoice_item", "checkout/sessions": "checkout._session", "tax_rates": "tax_rate",
         "billing_portal/sessions": "billing_portal._session", "test_helpers/test_clocks": "test_helpers._test_clock",
         "billing_portal/configurations": "billing_portal._configuration"}  # fmt: skip


def test_declared_parameters_are_known_to_the_package() -> None:
    unknown, compared = [], 0
    for each in ROUTES:
        path, _, rest = each.path.pattern.removeprefix("/v1/").partition("/(")
        path, _, word = path.partition("/create_")
        verb = (rest.partition(")")[2].strip("/") or "modify") if rest else f"create_{word}".strip("_")
        if each.method == "GET" and not rest:
            verb = "list"
        module = _module(NOUNS.get(path, path[:-1]), verb) if each.method == "POST" or verb == "list" else None
        if module:
            top = vars(module)[min((name for name in vars(module) if name.endswith("Params")), key=len)]
            unknown += [f"{each.path.pattern}: {name}" for name in _unknown(each.form.fields, [top], module)]
            compared += 1
    assert not unknown
    assert compared > 30


def _module(noun: str, verb: str) -> Any:
    folder, _, name = noun.rpartition("._")
    try:
        return import_module(f"stripe.params.{folder + '.' if folder else ''}_{name}_{verb}_params")
    except ModuleNotFoundError:
        return None


def _unknown(fields: dict[str, Parameter], shapes: list[Any], module: Any) -> Iterator[str]:
    """Declared names that none of the package's typed dictionaries has, also inside objects."""
    for name, parameter in fields.items():
        words = [str(shape.__annotations__[name]) for shape in shapes if name in shape.__annotations__]
        if not words:
            yield name
        elif parameter.fields:
            inner = [
                found for word in re.findall(r"\w+", " ".join(words)) if is_typeddict(found := vars(module).get(word))
            ]
            yield from (f"{name}.{each}" for each in _unknown(parameter.fields, inner, module) if inner)
