"""Random customers: sums add up, paid amounts equal charges, and previews equal invoices."""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from local.stripe import LATEST
from local.stripe.versions import shown
from tests.support.lives import DAY, FAILING, GOOD, Life
from tests.support.stripe_shop import Shop, stripe_error
from tests.support.stripe_types import problems

LIVES, STEPS = 8, 9


def steps(life: Life, chance: Random, prices: list[str], discount: str) -> list[Callable[[], Any]]:
    """Possible next steps; Stripe refuses some, which must change nothing."""
    v1, now = life.client.v1, life.now()
    return [
        lambda: life.days(chance.choice([0.3, 3, 17.123, 31])),
        life.renew,
        lambda: life.change(chance.choice(prices), chance.randint(0, 4), prorate="create_prorations"),
        lambda: life.change(chance.choice(prices), payment_behavior="pending_if_incomplete"),
        lambda: life.change(chance.choice(prices), payment_behavior="error_if_incomplete"),
        lambda: life.update(items=[{"price": chance.choice(prices)}], proration_behavior="always_invoice"),
        lambda: life.schedule(chance.choice(prices)),
        life.cancel,
        lambda: life.cancel(now=True, prorate=True, invoice_now=True),
        life.resume,
        life.fail,
        life.recover,
        lambda: life.refund(chance.choice([None, 1_000])),
        lambda: life.dispute(wins=chance.choice([True, False])),
        lambda: life.update(trial_end=chance.choice(["now", now + chance.randint(1, 60) * DAY])),
        lambda: life.update(discounts=[{"coupon": discount}]),
        lambda: life.update(cancel_at=now + chance.randint(1, 90) * DAY),
        lambda: life.update(billing_cycle_anchor="now"),
        lambda: v1.invoices.void_invoice(life.invoices("open")[0].id),
        lambda: v1.credit_notes.create({"invoice": life.invoices("paid")[0].id, "amount": 500, "credit_amount": 500}),
    ]


def wrong(life: Life) -> list[Any]:
    """Inconsistencies in the customer's objects."""
    store, account = life.double.store, life.double.account
    invoices = store.of("invoice", life.customer)
    found: list[Any] = []
    for each in invoices:
        added = sum(tax["amount"] for tax in each["total_taxes"] if tax["tax_behavior"] == "exclusive")
        discounts = sum(discount["amount"] for discount in each["total_discount_amounts"])
        if each["total"] != sum(line["amount"] for line in each["lines"]["data"]) - discounts + added:
            found.append(("total", each["id"]))
        if each["amount_due"] < 0 or (each["status"] == "paid" and each["amount_remaining"]):
            found.append(("due", each["id"]))
        carried = each["starting_balance"] + each["total"] - each["pre_payment_credit_notes_amount"]
        if each["status"] != "draft" and carried != each["amount_due"] + each["ending_balance"]:
            found.append(("carried", each["id"]))
    charged = sum(each["amount_captured"] for each in store.of("charge", life.customer))
    if sum(each["amount_paid"] for each in invoices) != charged:
        found.append(("paid", charged))
    entries = sum(each["amount"] for each in store.of("customer_balance_transaction", life.customer))
    if entries != account.get("customer", life.customer)["balance"]:
        found.append(("balance", entries))
    for kind in "subscription", "invoice", "subscription_schedule", "customer", "discount", "invoiceitem":
        found += [line for each in store.of(kind, life.customer) for line in problems(shown(account, each, LATEST))]
    return found


def preview_comes_true(life: Life, price: str, quantity: int) -> bool:
    change: Any = {"items": [{"id": life.item().id, "price": price, "quantity": quantity}],
                   "proration_behavior": "always_invoice"}  # fmt: skip
    request: Any = {"subscription": life.subscription, "subscription_details": change}
    preview, before = life.client.v1.invoices.create_preview(request), len(life.invoices())
    life.update(**change)
    if len(life.invoices()) == before:
        return True
    made = life.invoices()[0]
    return bool((preview.total, preview.subtotal, preview.amount_due) == (made.total, made.subtotal, made.amount_due))


@pytest.mark.parametrize("seed", range(2))
def test_books_add_up_whatever_a_customer_does(shop: Shop, seed: int) -> None:
    v1, chance = shop.client.v1, Random(seed)  # noqa: S311 - must be repeatable, not secret
    product = v1.prices.retrieve(shop.price).product
    monthly: Any = {"product": product, "currency": "usd", "recurring": {"interval": "month"}}
    small, fraction = (
        v1.prices.create(monthly | terms).id for terms in ({"unit_amount": 9_900}, {"unit_amount_decimal": "1050.5"})
    )
    prices = [shop.price, shop.yearly, small, fraction]
    discount = v1.coupons.create({"percent_off": 33.3, "duration": "repeating", "duration_in_months": 2}).id
    vat = v1.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": True}).id
    for _ in range(LIVES):
        life = Life.begin(
            shop.double, shop.client, card=chance.choice([GOOD, GOOD, FAILING]), address={"country": "DE"}
        )
        tax: dict[str, Any] = chance.choice([{}, {"automatic_tax": {"enabled": True}}, {"default_tax_rates": [vat]}])
        life.subscribe(chance.choice(prices), chance.randint(1, 3), trial=chance.choice([None, None, 10]), **tax)
        for _ in range(STEPS):
            with suppress(stripe_error.InvalidRequestError, stripe_error.CardError, IndexError):
                chance.choice(steps(life, chance, prices, discount))()
        assert not wrong(life), life.notes
        with suppress(stripe_error.InvalidRequestError):
            assert preview_comes_true(life, chance.choice(prices), chance.randint(1, 4)), life.notes
