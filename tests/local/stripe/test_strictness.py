"""Requests that Stripe refuses are refused alike: type, code, param, and nothing changed."""

from typing import Any

import pytest

from tests.support.stripe_shop import Shop, stripe_error

LONG = "x" * 501
METADATA = {"metadata": {f"key{n}": "x" for n in range(51)}}
LINE = {"price": "{price}", "quantity": 1}
CHECKOUT = {"mode": "subscription", "success_url": "https://x.test", "line_items": [LINE]}
SUBSCRIPTION = {"customer": "{customer}", "items": [{"price": "{price}"}], "payment_behavior": "default_incomplete"}
PAYMENT = {"amount": 1000, "currency": "usd"}
PRICE = {"product": "{product}", "currency": "usd", "unit_amount": 100}
REFUSED: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("payment_intents", PAYMENT | {"amount": 0}, "parameter_invalid_integer", "amount"),
    ("payment_intents", PAYMENT | {"amount": -1}, "parameter_invalid_integer", "amount"),
    ("payment_intents", PAYMENT | {"amount": "10.5"}, "parameter_invalid_integer", "amount"),
    ("payment_intents", PAYMENT | {"amount": 49}, "amount_too_small", "amount"),
    ("payment_intents", PAYMENT | {"amount": 100_000_000}, "amount_too_large", "amount"),
    ("payment_intents", {"amount": 49, "currency": "jpy"}, "amount_too_small", "amount"),
    ("payment_intents", {"amount": 1001, "currency": "kwd"}, "parameter_invalid_integer", "amount"),
    ("prices", PRICE | {"currency": "kwd", "unit_amount": 1001}, "parameter_invalid_integer", "unit_amount"),
    ("payment_intents", PAYMENT | {"currency": "xyz"}, None, "currency"),
    ("payment_intents", {"amount": 1000}, "parameter_missing", "currency"),
    ("payment_intents", PAYMENT | {"setup_future_usage": "always"}, None, "setup_future_usage"),
    ("payment_intents", PAYMENT | {"confirm": "perhaps"}, None, "confirm"),
    ("customers", {"email": "nobody"}, "email_invalid", "email"),
    ("customers", {"email": "a b@x.test"}, "email_invalid", "email"),
    ("customers", {"name": "a\x00b"}, None, "name"),
    ("customers", {"name": "x" * 5001}, "parameter_invalid_string_length", "name"),
    ("customers", METADATA, None, "metadata"),
    ("customers", {"metadata": {"x" * 41: "y"}}, None, f"metadata[{'x' * 41}]"),
    ("customers", {"metadata": {"key": LONG}}, None, "metadata[key]"),
    ("customers", {"metadata": {"key": "a\x00b"}}, None, "metadata[key]"),
    ("customers", {"address": {"country": "Germany"}}, None, "address[country]"),
    ("customers", {"address": {"planet": "Mars"}}, "parameter_unknown", "address[planet]"),
    ("customers", {"address": "Berlin"}, None, "address"),
    ("customers", {"expand": ["a.b.c.d.e"]}, None, "expand"),
    ("prices", PRICE | {"unit_amount": -1}, "parameter_invalid_integer", "unit_amount"),
    ("prices", PRICE | {"unit_amount_decimal": "1.5"}, None, "unit_amount"),
    ("prices", PRICE | {"recurring": {"interval": "decade"}}, None, "recurring[interval]"),
    ("prices", PRICE | {"recurring": {"interval": "year", "interval_count": 4}}, None, "recurring[interval_count]"),
    ("prices", PRICE | {"recurring": {"interval_count": 1}}, "parameter_missing", "recurring[interval]"),
    ("prices", PRICE | {"product": "prod_none"}, "resource_missing", "product"),
    ("products", {"name": ""}, "parameter_invalid_empty", "name"),
    ("coupons", {"percent_off": 101}, None, "percent_off"),
    ("coupons", {"percent_off": 10, "amount_off": 5}, None, "percent_off"),
    ("coupons", {"amount_off": 500}, "parameter_missing", "currency"),
    ("coupons", {"percent_off": 10, "duration": "repeating"}, None, "duration_in_months"),
    ("promotion_codes", {"promotion": {"type": "coupon", "coupon": "none"}}, "resource_missing", "promotion[coupon]"),
    ("subscriptions", SUBSCRIPTION | {"items": []}, "parameter_missing", "items"),
    ("subscriptions", SUBSCRIPTION | {"items": [{"price": "{price}", "colour": "red"}]}, "parameter_unknown",
     "items[0][colour]"),
    ("subscriptions", SUBSCRIPTION | {"items": [{"quantity": 1}]}, "parameter_missing", "items[0][price]"),
    ("subscriptions", SUBSCRIPTION | {"items": [{"price": "{price}", "quantity": -1}]}, "parameter_invalid_integer",
     "items[0][quantity]"),
    ("subscriptions", SUBSCRIPTION | {"items": [{"price": "{price}"}, {"price": "{yearly}"}]}, None, "items"),
    ("subscriptions", SUBSCRIPTION | {"items": [{"price": "{price}"}, {"price": "{price}"}]}, None, "items"),
    ("subscriptions", SUBSCRIPTION | {"trial_end": 1}, None, "trial_end"),
    ("subscriptions", SUBSCRIPTION | {"coupon": "SAVE"}, "parameter_unknown", "coupon"),
    ("subscriptions", SUBSCRIPTION | {"automatic_tax": {"enabled": True}}, "customer_tax_location_invalid",
     "automatic_tax[enabled]"),
    ("subscriptions", SUBSCRIPTION | {"payment_behavior": "hope"}, None, "payment_behavior"),
    ("checkout/sessions", {"mode": "subscription", "line_items": [LINE]}, "parameter_missing", "success_url"),
    ("checkout/sessions", CHECKOUT | {"success_url": "javascript:alert(1)"}, "url_invalid", "success_url"),
    ("checkout/sessions", CHECKOUT | {"mode": "payment"}, None, "mode"),
    ("checkout/sessions", CHECKOUT | {"line_items": [{"price": "{price}"}]}, "parameter_missing",
     "line_items[0][quantity]"),
    ("checkout/sessions", CHECKOUT | {"expires_at": 1}, None, "expires_at"),
    ("checkout/sessions", CHECKOUT | {"customer": "{customer}", "customer_email": "a@b.test"}, None, "customer_email"),
    ("refunds", {"charge": "ch_none", "amount": 0}, "parameter_invalid_integer", "amount"),
    ("refunds", {"charge": "ch_none", "reason": "boredom"}, None, "reason"),
    ("invoiceitems", {"customer": "{customer}", "amount": 5}, "parameter_missing", "currency"),
    ("billing_portal/sessions", {"customer": "cus_none"}, "resource_missing", "customer"),
]  # fmt: skip


def filled(value: Any, names: dict[str, str]) -> Any:
    match value:
        case dict():
            return {name: filled(each, names) for name, each in value.items()}
        case list():
            return [filled(each, names) for each in value]
        case str():
            return names.get(value, value)
    return value


def test_invalid_parameters_are_refused_as_by_stripe(shop: Shop) -> None:
    product = shop.client.v1.prices.retrieve(shop.price).product
    names = {"{price}": shop.price, "{yearly}": shop.yearly, "{customer}": shop.customer, "{product}": product}
    before = shop.double.store._rows("select count(*) from objects")
    wrong: list[Any] = []
    for path, parameters, code, param in REFUSED:
        try:
            shop.client.raw_request("post", f"/v1/{path}", **filled(parameters, names))
            wrong.append((path, parameters, "accepted"))
        except stripe_error.InvalidRequestError as error:
            found = error.http_status, error.error.type, error.code, error.param
            if found != (400, "invalid_request_error", code, param):
                wrong.append((path, parameters, found))
    assert not wrong
    assert shop.double.store._rows("select count(*) from objects") == before


def test_currency_of_a_subscription_cannot_change(shop: Shop) -> None:
    bought = shop.active()
    terms: Any = {"unit_amount": 500, "currency": "eur", "recurring": {"interval": "month"}}
    euros = shop.client.v1.prices.create(terms | {"product": shop.client.v1.prices.retrieve(shop.price).product}).id
    items = [{"id": bought["items"].data[0].id, "price": euros}]
    with pytest.raises(stripe_error.InvalidRequestError, match="expected currency: `usd`"):
        shop.client.v1.subscriptions.update(bought.id, {"items": items})
    assert shop.subscription(bought.id)["items"].data[0].price.id == shop.price


@pytest.mark.parametrize(
    ("path", "filters", "param"),
    [
        ("subscriptions", {"colour": "red"}, "colour"),
        ("subscriptions", {"status": "happy"}, "status"),
        ("invoices", {"status": "lost"}, "status"),
        ("invoices", {"created": {"after": 1}}, "created[after]"),
        ("customers", {"limit": 0}, "limit"),
        ("customers", {"limit": "many"}, "limit"),
        ("customers", {"starting_after": "cus_none"}, "starting_after"),
        ("events", {"type": "a", "types": ["b"]}, "type"),
    ],
)
def test_unknown_filter_is_refused(shop: Shop, path: str, filters: dict[str, Any], param: str) -> None:
    with pytest.raises(stripe_error.InvalidRequestError) as caught:
        shop.client.raw_request("get", f"/v1/{path}", **filters)
    assert (caught.value.http_status, caught.value.param) == (400, param)


@pytest.mark.parametrize("address", ["/v1/nothing", "/v1/subscriptions/sub_1/nothing", "/v1/customers/"])
def test_unknown_address_is_404(shop: Shop, address: str) -> None:
    with pytest.raises(stripe_error.InvalidRequestError, match="Unrecognized request URL") as caught:
        shop.client.raw_request("get", address)
    assert caught.value.http_status == 404


def test_smallest_amounts_of_currencies_are_accepted(shop: Shop) -> None:
    for currency, amount in ("usd", 50), ("jpy", 50), ("kwd", 500), ("gbp", 30):
        made = shop.client.v1.payment_intents.create({"amount": amount, "currency": currency.upper()})
        assert (made.amount, made.currency) == (amount, currency)


def test_metadata_at_its_limits_is_kept(shop: Shop) -> None:
    metadata = {f"{n:040}": "é" * 500 for n in range(50)}
    made = shop.client.v1.customers.create({"metadata": metadata})
    assert shop.client.v1.customers.retrieve(made.id).metadata.to_dict() == metadata
    assert not shop.client.v1.customers.update(made.id, {"metadata": ""}).metadata.to_dict()
