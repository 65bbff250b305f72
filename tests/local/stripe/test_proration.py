"""Changes in the middle of a period: what is credited, what is charged, and when."""

from typing import Any

import pytest

from tests.support.lives import GOOD, Life, seconds
from tests.support.stripe_shop import Shop, stripe_error

MONTH, YEAR, LARGE = 69_900, 699_000, 99_900
HALF = seconds(2026, 1, 16, 12)  # of January: 15.5 of 31 days


@pytest.fixture
def large(shop: Shop) -> str:
    product = shop.client.v1.products.create({"name": "Scale"})
    terms: Any = {"product": product.id, "currency": "usd", "unit_amount": LARGE, "recurring": {"interval": "month"}}
    return str(shop.client.v1.prices.create(terms).id)


@pytest.fixture
def life(shop: Shop) -> Life:
    return Life.begin(shop.double, shop.client).subscribe(shop.price).until(HALF)


def amounts(invoice: Any) -> list[int]:
    return [line.amount for line in invoice.lines.data]


def test_upgrade_now_bills_the_rest_of_the_period(life: Life, large: str) -> None:
    life.change(large)
    assert amounts(life.latest()) == [-MONTH // 2, LARGE // 2]
    assert (life.latest().status, life.latest().billing_reason) == ("paid", "subscription_update")
    assert life.period_end() == seconds(2026, 2)
    assert [line.parent.subscription_item_details.proration for line in life.latest().lines.data] == [True, True]


def test_proration_waits_for_the_next_invoice(life: Life, large: str) -> None:
    life.change(large, prorate="create_prorations")
    assert life.latest().billing_reason == "subscription_create"
    assert sorted(amounts(life.renew().latest())) == [-MONTH // 2, LARGE // 2, LARGE]


def test_change_without_proration_costs_nothing_before_renewal(life: Life, large: str) -> None:
    life.change(large, prorate="none").renew()
    assert amounts(life.latest()) == [LARGE]


def test_yearly_plan_credits_the_unused_month(life: Life, shop: Shop) -> None:
    life.change(shop.yearly)
    assert sorted(amounts(life.latest())) == [-MONTH // 2, YEAR]
    assert life.period_end() == seconds(2027, 1, 16, 12)


def test_downgrade_becomes_credit_of_the_next_invoice(life: Life, large: str, shop: Shop) -> None:
    life.change(large)
    life.change(shop.price)
    credit = (LARGE - MONTH) // 2
    assert (life.latest().total, life.latest().amount_due, life.latest().ending_balance) == (-credit, 0, -credit)
    assert shop.client.v1.customers.retrieve(life.customer).balance == -credit
    life.renew()
    assert (life.latest().total, life.latest().amount_paid) == (MONTH, MONTH - credit)
    assert shop.client.v1.customers.retrieve(life.customer).balance == 0


def test_seats_are_added_and_removed_by_the_second(life: Life) -> None:
    life.change(quantity=3)
    assert life.latest().total == MONTH  # two more seats for half a month
    life.until(seconds(2026, 1, 24, 6))  # a quarter of the month is left
    life.change(quantity=1)
    assert life.latest().total == -MONTH // 2


def test_second_item_is_added_and_removed(life: Life, large: str) -> None:
    life.update(items=[{"price": large}], proration_behavior="always_invoice")
    assert amounts(life.latest()) == [LARGE // 2]
    life.renew()
    assert sorted(amounts(life.latest())) == [MONTH, LARGE]
    extra = life.current()["items"].data[1].id
    life.update(items=[{"id": extra, "deleted": True}], proration_behavior="none").renew()
    assert amounts(life.latest()) == [MONTH]


def test_last_item_cannot_be_deleted(life: Life) -> None:
    with pytest.raises(stripe_error.InvalidRequestError, match="at least one item"):
        life.update(items=[{"id": life.item().id, "deleted": True}])


def test_credit_is_what_was_paid_after_the_discount(shop: Shop, large: str) -> None:
    coupon = shop.client.v1.coupons.create({"percent_off": 50, "duration": "forever"}).id
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": coupon}]).until(HALF)
    life.change(large)
    assert amounts(life.latest()) == [-MONTH // 4, LARGE // 4]


def test_preview_equals_the_invoice_that_follows(life: Life, large: str, shop: Shop) -> None:
    for price, quantity in (large, 1), (large, 4), (shop.yearly, 2):
        change = {"items": [{"id": life.item().id, "price": price, "quantity": quantity}],
                  "proration_behavior": "always_invoice"}  # fmt: skip
        before = shop.double.store._rows("select body from objects order by n")
        preview = shop.client.v1.invoices.create_preview(
            {"subscription": life.subscription, "subscription_details": change}
        )
        assert shop.double.store._rows("select body from objects order by n") == before
        life.change(price, quantity)
        made = life.latest()
        assert (preview.total, preview.amount_due, preview.period_end) == (made.total, made.amount_due, made.period_end)
        assert amounts(preview) == amounts(made)
        life.days(3)


def test_preview_without_a_change_is_the_renewal(life: Life, large: str) -> None:
    life.change(large, prorate="create_prorations")
    preview = life.client.v1.invoices.create_preview({"subscription": life.subscription})
    life.renew()
    assert (preview.total, preview.lines.data[-1].period.start) == (life.latest().total, seconds(2026, 2))
    life.cancel()
    with pytest.raises(stripe_error.InvalidRequestError, match="No upcoming invoices") as caught:
        life.client.v1.invoices.create_preview({"subscription": life.subscription})
    assert (caught.value.http_status, caught.value.code) == (404, "invoice_upcoming_none")


def test_preview_of_a_new_subscription(life: Life, large: str) -> None:
    details: Any = {"items": [{"price": large, "quantity": 2}]}
    preview = life.client.v1.invoices.create_preview({"customer": life.customer, "subscription_details": details})
    assert preview.total == 2 * LARGE


def test_declined_upgrade_changes_nothing(life: Life, large: str) -> None:
    life.fail()
    before = life.current().to_dict()
    with pytest.raises(stripe_error.CardError) as caught:
        life.change(large, payment_behavior="error_if_incomplete")
    assert caught.value.http_status == 402
    assert life.current().to_dict() == before
    assert [invoice.status for invoice in life.invoices()] == ["paid"]


def test_pending_upgrade_is_applied_by_its_payment(life: Life, large: str, shop: Shop) -> None:
    life.fail()
    life.change(large, payment_behavior="pending_if_incomplete")
    assert (life.prices(), life.status()) == ([shop.price], "active")
    assert life.current().pending_update.subscription_items[0].price.id == large
    life.recover()
    assert (life.prices(), life.current().pending_update) == ([large], None)


def test_pending_upgrade_expires_after_23_hours(life: Life, large: str, shop: Shop) -> None:
    life.fail()
    life.change(large, payment_behavior="pending_if_incomplete")
    life.use_card(GOOD)
    life.days(1)
    assert (life.prices(), life.current().pending_update, life.invoices()[0].status) == ([shop.price], None, "void")


def test_upgrade_without_payment_is_past_due(life: Life, large: str) -> None:
    life.fail()
    life.change(large)
    assert (life.status(), life.prices()) == ("past_due", [large])
    assert life.recover().status() == "active"


def test_cancellation_now_credits_the_rest_when_asked(life: Life) -> None:
    life.cancel(now=True, prorate=True, invoice_now=True)
    assert (life.status(), life.latest().total) == ("canceled", -MONTH // 2)


def test_free_plan_that_becomes_paid_starts_a_period(shop: Shop) -> None:
    product = shop.client.v1.products.create({"name": "Free"})
    terms: Any = {"product": product.id, "currency": "usd", "unit_amount": 0, "recurring": {"interval": "month"}}
    free = shop.client.v1.prices.create(terms).id
    life = Life.begin(shop.double, shop.client).subscribe(free).until(HALF).change(shop.price)
    assert (life.latest().total, life.period_end()) == (MONTH, seconds(2026, 2, 16, 12))


def test_a_change_under_a_full_discount_is_invoiced_with_nothing_to_pay(shop: Shop, large: str) -> None:
    v1 = shop.client.v1
    coupon = v1.coupons.create({"percent_off": 100, "duration": "forever"}).id
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": coupon}]).until(HALF)
    wanted = {"items": [{"id": life.item().id, "price": large}], "proration_behavior": "always_invoice"}
    preview = v1.invoices.create_preview({"subscription": life.subscription, "subscription_details": wanted})
    assert (amounts(preview), preview.total, preview.billing_reason) == ([0, 0], 0, "subscription_update")
    life.change(large)
    assert (amounts(life.latest()), life.latest().status) == ([0, 0], "paid")


def test_items_are_changed_as_a_resource_of_their_own(life: Life, large: str) -> None:
    items, now = life.client.v1.subscription_items, {"proration_behavior": "always_invoice"}
    extra = items.create({"subscription": life.subscription, "price": large, **now})
    assert (extra.price.id, amounts(life.latest())) == (large, [LARGE // 2])
    assert items.update(extra.id, {"quantity": 3, **now}).quantity == 3
    assert sum(amounts(life.latest())) == LARGE
    assert items.delete(extra.id, now).deleted
    assert (life.prices() == [large], sum(amounts(life.latest()))) == (False, -3 * LARGE // 2)
    with pytest.raises(stripe_error.InvalidRequestError, match="No such subscription item"):
        items.retrieve(extra.id)


def test_cancellation_can_name_the_period_end(life: Life) -> None:
    life.update(cancel_at="min_period_end")
    assert life.current().cancel_at == life.period_end()
    assert life.update(cancel_at="").current().cancel_at is None
