"""Tax: rates given by hand, and automatic tax by the customer's country."""

from typing import Any

import pytest

from tests.support.lives import Life
from tests.support.stripe_shop import Shop, stripe_error

MONTH = 69_900


def rate(shop: Shop, percentage: float, *, inclusive: bool) -> str:
    terms: Any = {"display_name": "VAT", "percentage": percentage, "inclusive": inclusive}
    return str(shop.client.v1.tax_rates.create(terms).id)


@pytest.mark.parametrize(("inclusive", "tax", "total"), [(False, 13_281, 83_181), (True, 11_161, 69_900)])
def test_tax_is_added_or_included(shop: Shop, inclusive: bool, tax: int, total: int) -> None:
    name = rate(shop, 19, inclusive=inclusive)
    invoice = Life.begin(shop.double, shop.client).subscribe(shop.price, default_tax_rates=[name]).latest()
    (found,) = invoice.total_taxes
    assert (found.amount, invoice.total, invoice.total_excluding_tax) == (tax, total, total - tax)
    assert (found.tax_behavior, found.tax_rate_details.tax_rate) == ("inclusive" if inclusive else "exclusive", name)


def test_tax_is_of_the_amount_after_discounts(shop: Shop) -> None:
    coupon = shop.client.v1.coupons.create({"percent_off": 50}).id
    fields: dict[str, Any] = {"default_tax_rates": [rate(shop, 10, inclusive=False)], "discounts": [{"coupon": coupon}]}
    invoice = Life.begin(shop.double, shop.client).subscribe(shop.price, **fields).latest()
    assert (invoice.subtotal, invoice.total) == (MONTH, 34_950 + 3_495)


@pytest.mark.parametrize(
    ("address", "exempt", "tax", "reason"),
    [
        ({"country": "DE"}, "none", 13_281, "standard_rated"),
        ({"country": "US", "state": "CA"}, "none", 5_068, "standard_rated"),
        ({"country": "BR"}, "none", 0, "not_collecting"),
        ({"country": "DE"}, "exempt", 0, "customer_exempt"),
        ({"country": "DE"}, "reverse", 0, "reverse_charge"),
    ],
)
def test_automatic_tax_follows_the_address(
    shop: Shop, address: dict[str, str], exempt: str, tax: int, reason: str
) -> None:
    life = Life.begin(shop.double, shop.client, address=address, tax_exempt=exempt)
    invoice = life.subscribe(shop.price, automatic_tax={"enabled": True}).latest()
    assert (invoice.total_taxes[0].amount, invoice.total_taxes[0].taxability_reason) == (tax, reason)
    assert (invoice.automatic_tax.status, invoice.total) == ("complete", MONTH + tax)


def test_automatic_tax_needs_an_address(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client)
    with pytest.raises(stripe_error.InvalidRequestError) as caught:
        life.subscribe(shop.price, automatic_tax={"enabled": True})
    assert caught.value.code == "customer_tax_location_invalid"


def test_changed_address_changes_the_next_invoice(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client, address={"country": "DE"})
    life.subscribe(shop.price, automatic_tax={"enabled": True})
    shop.client.v1.customers.update(life.customer, {"address": {"country": "GB"}})
    assert life.renew().latest().total == MONTH + MONTH // 5


def test_one_rate_for_all_can_be_set(shop: Shop) -> None:
    shop.double.tax(7)
    life = Life.begin(shop.double, shop.client, address={"country": "BR"})
    assert life.subscribe(shop.price, automatic_tax={"enabled": True}).latest().total == MONTH + 4893


@pytest.mark.parametrize(("currency", "amount", "tax"), [("jpy", 5_005, 951), ("kwd", 10_010, 1902)])
def test_currencies_round_to_their_own_minor_unit(shop: Shop, currency: str, amount: int, tax: int) -> None:
    product = shop.client.v1.prices.retrieve(shop.price).product
    terms: Any = {"product": product, "currency": currency, "unit_amount": amount, "recurring": {"interval": "month"}}
    price, vat = shop.client.v1.prices.create(terms).id, rate(shop, 19, inclusive=False)
    invoice = Life.begin(shop.double, shop.client).subscribe(price, default_tax_rates=[vat]).latest()
    assert (invoice.currency, invoice.total_taxes[0].amount, invoice.total) == (currency, tax, amount + tax)


def test_invalid_tax_id_is_refused(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError) as caught:
        shop.client.v1.customers.tax_ids.create(shop.customer, {"type": "eu_vat", "value": "nonsense"})
    assert (caught.value.code, caught.value.param) == ("tax_id_invalid", "value")
