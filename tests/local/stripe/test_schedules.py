"""Schedules: changes at period end, their release, and what a schedule forbids."""

from typing import Any

import pytest

from tests.support.lives import Life, seconds
from tests.support.stripe_shop import Shop, stripe_error

MONTH, YEAR = 69_900, 699_000


@pytest.fixture
def small(shop: Shop) -> str:
    product = shop.client.v1.products.create({"name": "Starter"})
    terms: Any = {"product": product.id, "currency": "usd", "unit_amount": 9_900, "recurring": {"interval": "month"}}
    return str(shop.client.v1.prices.create(terms).id)


@pytest.fixture
def life(shop: Shop) -> Life:
    return Life.begin(shop.double, shop.client).subscribe(shop.price).days(10)


def test_downgrade_takes_effect_at_period_end(life: Life, small: str, shop: Shop) -> None:
    life.schedule(small)
    plan = life.current().schedule
    assert (life.prices(), shop.client.v1.subscription_schedules.retrieve(plan).status) == ([shop.price], "active")
    life.renew()
    assert (life.prices(), life.latest().total, life.latest().billing_reason) == ([small], 9_900, "subscription_cycle")
    assert [line.parent.subscription_item_details.proration for line in life.latest().lines.data] == [False]
    life.renew()
    assert (life.current().schedule, life.latest().total) == (None, 9_900)
    released = shop.client.v1.subscription_schedules.retrieve(plan)
    assert (released.status, released.released_subscription) == ("released", life.subscription)
    kinds = [kind for kind in life.events() if kind.startswith("subscription_schedule.")]
    assert kinds == [f"subscription_schedule.{word}" for word in ("created", "updated", "updated", "released")]


def test_yearly_plan_at_period_end_starts_its_year(life: Life, shop: Shop) -> None:
    life.schedule(shop.yearly).renew()
    assert (life.latest().total, life.period_end()) == (YEAR, seconds(2027, 2))
    assert len(life.invoices()) == 2


def test_scheduled_price_may_be_archived_before_its_phase(life: Life, small: str, shop: Shop) -> None:
    life.schedule(small)
    shop.client.v1.prices.update(small, {"active": False})
    assert life.renew().prices() == [small]


def test_preview_shows_the_scheduled_price(life: Life, small: str, shop: Shop) -> None:
    life.schedule(small)
    preview = shop.client.v1.invoices.create_preview({"subscription": life.subscription})
    assert (preview.total, preview.lines.data[0].period.start) == (9_900, seconds(2026, 2))


def test_change_of_mind_keeps_the_plan(life: Life, small: str, shop: Shop) -> None:
    life.schedule(small).change_mind().renew()
    assert (life.prices(), life.latest().total, life.current().schedule) == ([shop.price], MONTH, None)


def test_discount_of_the_subscription_survives_its_schedule(shop: Shop, small: str) -> None:
    half = shop.client.v1.coupons.create({"percent_off": 50, "duration": "forever"}).id
    life = Life.begin(shop.double, shop.client).subscribe(shop.price, discounts=[{"coupon": half}])
    before = life.current().discounts
    life.schedule(small).renew()
    assert (life.latest().total, life.current().discounts) == (4_950, before)


def test_cancellation_is_refused_while_scheduled(life: Life, small: str) -> None:
    life.schedule(small)
    with pytest.raises(stripe_error.InvalidRequestError, match="managed by the subscription schedule"):
        life.cancel()
    with pytest.raises(stripe_error.InvalidRequestError, match="already attached"):
        life.schedule(small)


def test_schedule_can_end_the_subscription(life: Life, shop: Shop) -> None:
    v1 = shop.client.v1
    plan = v1.subscription_schedules.create({"from_subscription": life.subscription, "end_behavior": "cancel"})
    life.renew()
    assert (life.status(), v1.subscription_schedules.retrieve(plan.id).status) == ("canceled", "completed")


def test_canceled_schedule_cancels_its_subscription(life: Life, small: str, shop: Shop) -> None:
    plan = life.schedule(small).current().schedule
    assert shop.client.v1.subscription_schedules.cancel(plan).status == "canceled"
    assert life.status() == "canceled"


def test_schedule_can_begin_a_subscription_later(shop: Shop, small: str) -> None:
    life = Life.begin(shop.double, shop.client)
    phases: Any = [{"items": [{"price": small}], "duration": {"interval": "month", "interval_count": 2}}]
    made: Any = {"customer": life.customer, "start_date": seconds(2026, 1, 5), "phases": phases}
    plan = shop.client.v1.subscription_schedules.create(made)
    assert (plan.status, plan.subscription) == ("not_started", None)
    life.days(5)
    life.subscription = shop.client.v1.subscription_schedules.retrieve(plan.id).subscription
    assert (life.status(), life.prices(), life.latest().total) == ("active", [small], 9_900)


def test_phases_must_follow_each_other(life: Life, small: str, shop: Shop) -> None:
    plan = shop.client.v1.subscription_schedules.create({"from_subscription": life.subscription})
    phase = plan.phases[0]
    first: Any = {"items": [{"price": shop.price}], "start_date": phase.start_date, "end_date": phase.end_date}
    gap: Any = {"items": [{"price": small}], "start_date": phase.end_date + 60, "end_date": phase.end_date + 120}
    with pytest.raises(stripe_error.InvalidRequestError) as caught:
        shop.client.v1.subscription_schedules.update(plan.id, {"phases": [first, gap]})
    assert caught.value.param == "phases[1][start_date]"
