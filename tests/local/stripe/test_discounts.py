"""Coupons and promotion codes: amount, duration, and restrictions."""

from typing import Any

import pytest

from tests.support.lives import Life, seconds
from tests.support.stripe_shop import Shop, stripe_error

MONTH = 69_900
CouponTerms = dict[str, Any]


def coupon(shop: Shop, **terms: Any) -> str:
    return str(shop.client.v1.coupons.create(terms).id)


def code(shop: Shop, coupon: str, **terms: Any) -> Any:
    promotion: Any = {"promotion": {"type": "coupon", "coupon": coupon}, **terms}
    return shop.client.v1.promotion_codes.create(promotion)


def totals(life: Life) -> list[int]:
    return [invoice.total for invoice in life.invoices()][::-1]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"percent_off": 100, "duration": "once"}, [0, MONTH, MONTH]),
        ({"percent_off": 12.5, "duration": "forever"}, [61_162, 61_162, 61_162]),  # 8737.5 off is rounded up
        ({"amount_off": 10_000, "currency": "usd", "duration": "repeating", "duration_in_months": 2},
         [59_900, 59_900, MONTH]),
        ({"amount_off": 999_999, "currency": "usd", "duration": "once"}, [0, MONTH, MONTH]),
    ],
)  # fmt: skip
def test_discount_lasts_as_long_as_its_coupon(shop: Shop, terms: CouponTerms, expected: list[int]) -> None:
    name = coupon(shop, **terms)
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": name}])
    life.renew().renew()
    assert totals(life) == expected
    ended = terms["duration"] != "forever"
    assert life.current().discounts == [] if ended else len(life.current().discounts) == 1
    assert life.events(["customer.discount.created", "customer.discount.deleted"]) == [
        "customer.discount.created",
        *["customer.discount.deleted"] * ended,
    ]


def test_amount_off_is_split_over_lines_exactly(shop: Shop) -> None:
    product = shop.client.v1.prices.retrieve(shop.price).product
    seat: Any = {"product": product, "currency": "usd", "unit_amount": 1000, "recurring": {"interval": "month"}}
    items = [{"price": shop.price}, {"price": shop.client.v1.prices.create(seat).id, "quantity": 3}]
    off = coupon(shop, amount_off=1001, currency="usd")
    life = Life.begin(shop.double, shop.client).subscribe("", items=items, discounts=[{"coupon": off}])
    lines = life.latest().lines.data
    assert sum(each.amount for line in lines for each in line.discount_amounts) == 1001
    assert [each.amount for each in life.latest().total_discount_amounts] == [1001]
    assert life.latest().total == MONTH + 3000 - 1001


def test_item_discount_and_product_limit_reach_their_lines_only(shop: Shop) -> None:
    v1 = shop.client.v1
    other = v1.products.create({"name": "Support"}).id
    terms: Any = {"product": other, "currency": "usd", "unit_amount": 10_000, "recurring": {"interval": "month"}}
    support = v1.prices.create(terms).id
    half, limited = coupon(shop, percent_off=50), coupon(shop, percent_off=10, applies_to={"products": [other]})
    items = [{"price": shop.price, "discounts": [{"coupon": half}]}, {"price": support}]
    life = Life.begin(shop.double, shop.client).subscribe("", items=items, discounts=[{"coupon": limited}])
    assert life.latest().total == MONTH // 2 + 9_000


def test_coupon_of_another_currency_or_used_up_is_refused(shop: Shop) -> None:
    euros, used = coupon(shop, amount_off=100, currency="eur"), coupon(shop, percent_off=5, max_redemptions=1)
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": used}])
    for name in euros, used, "none":
        with pytest.raises(stripe_error.InvalidRequestError) as caught:
            life.subscribe(shop.price, discounts=[{"coupon": name}])
        assert caught.value.param == "discounts[0][coupon]"
    assert not shop.client.v1.coupons.retrieve(used).valid


def test_deleted_coupon_keeps_existing_discounts(shop: Shop) -> None:
    name = coupon(shop, percent_off=50, duration="forever")
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": name}])
    shop.client.v1.coupons.delete(name)
    with pytest.raises(stripe_error.InvalidRequestError, match="No such coupon"):
        shop.client.v1.coupons.retrieve(name)
    assert life.renew().latest().total == MONTH // 2


def test_promotion_code_limits_are_kept(shop: Shop) -> None:
    """Each code has one restriction, which only one of two customers satisfies."""
    v1, off = shop.client.v1, coupon(shop, percent_off=50)
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)  # has paid before
    newcomer = Life.begin(shop.double, shop.client)
    restricted = {
        "customer_has_prior_transactions": code(shop, off, restrictions={"first_time_transaction": True}),
        "promotion_code_customer_mismatch": code(shop, off, customer=newcomer.customer),
        "promotion_code_expired": code(shop, off, expires_at=seconds(2030, 1)),
        "promotion_code_minimum_amount_not_met": code(
            shop, off, restrictions={"minimum_amount": MONTH + 1, "minimum_amount_currency": "usd"}
        ),
    }
    v1.promotion_codes.update(restricted["promotion_code_expired"].id, {"active": False})
    for reason, each in restricted.items():
        with pytest.raises(stripe_error.InvalidRequestError) as caught:
            life.subscribe(shop.price, discounts=[{"promotion_code": each.id}])
        assert (caught.value.code, caught.value.param) == (reason, "discounts[0][promotion_code]")
    both = restricted["customer_has_prior_transactions"], restricted["promotion_code_customer_mismatch"]
    for each in both:
        preview: Any = {"items": [{"price": shop.price}]}
        discounts: Any = [{"promotion_code": each.id}]
        made = v1.invoices.create_preview(
            {"customer": newcomer.customer, "subscription_details": preview, "discounts": discounts}
        )
        assert made.total == MONTH // 2


def test_promotion_code_has_a_redemption_limit(shop: Shop) -> None:
    made = code(shop, coupon(shop, percent_off=50), code="Spring", max_redemptions=1)
    Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"promotion_code": made.id}])
    now = shop.client.v1.promotion_codes.retrieve(made.id)
    assert (now.times_redeemed, now.active) == (1, False)


def test_code_is_unique_without_regard_to_case(shop: Shop) -> None:
    off = coupon(shop, percent_off=50)
    code(shop, off, code="SPRING")
    with pytest.raises(stripe_error.InvalidRequestError, match="already exists"):
        code(shop, off, code="spring")
    (found,) = shop.client.v1.promotion_codes.list({"code": "SPRING"}).data
    assert found.promotion.coupon == off


def test_discount_can_be_changed_and_deleted(shop: Shop) -> None:
    half, all_ = coupon(shop, percent_off=50, duration="forever"), coupon(shop, percent_off=100, duration="forever")
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": half}])
    life.update(discounts=[{"coupon": all_}])
    assert life.renew().latest().total == 0
    shop.client.v1.subscriptions.delete_discount(life.subscription)
    assert life.renew().latest().total == MONTH


def test_older_versions_show_the_coupon_inside_the_discount(shop: Shop) -> None:
    name = coupon(shop, percent_off=50, duration="forever")
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": name}])
    headers = {"stripe_version": "2024-06-20"}
    old = shop.client.raw_request("get", f"/v1/subscriptions/{life.subscription}", **headers).data
    assert old["discount"]["coupon"]["percent_off"] == 50


def test_item_discount_is_set_by_an_update_and_a_phase(shop: Shop) -> None:
    half, tenth = coupon(shop, percent_off=50, duration="forever"), coupon(shop, percent_off=10, duration="forever")
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    life.update(items=[{"id": life.item().id, "discounts": [{"coupon": half}]}])
    assert life.renew().latest().total == MONTH // 2
    plan = shop.client.v1.subscription_schedules.create({"from_subscription": life.subscription})
    phase = plan.phases[0]
    kept: Any = {
        "price": shop.price,
        "discounts": [{"discount": each.discount} for each in phase["items"][0].discounts],
    }
    first = {"items": [kept], "start_date": phase.start_date, "end_date": phase.end_date}
    then = {"items": [{"price": shop.price, "discounts": [{"coupon": tenth}]}], "duration": {"interval": "month"}}
    shop.client.v1.subscription_schedules.update(plan.id, {"phases": [first, then]})
    assert life.renew().latest().total == MONTH * 9 // 10
