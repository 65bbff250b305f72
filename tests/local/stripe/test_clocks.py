"""Test clocks, and changes over time."""

from typing import Any

import pytest

from tests.support.lives import DAY, GOOD, Life, seconds
from tests.support.stripe_shop import Shop, stripe_error

MONTH = 69_900


def test_clock_moves_its_own_customers_only(shop: Shop) -> None:
    other, life = shop.active(), Life.begin(shop.double, shop.client).subscribe(shop.price)
    before = other["items"].data[0].current_period_end
    life.renew()
    assert (life.period_end(), life.latest().billing_reason) == (seconds(2026, 3), "subscription_cycle")
    assert shop.subscription(other.id)["items"].data[0].current_period_end == before
    shop.double.advance(days=40)
    assert life.period_end() == seconds(2026, 3)


def test_advancing_clock_is_ready_afterwards(shop: Shop) -> None:
    clocks = shop.client.v1.test_helpers.test_clocks
    clock = clocks.create({"frozen_time": seconds(2026, 1), "name": "one"})
    moving = clocks.advance(clock.id, {"frozen_time": seconds(2026, 2)})
    assert (moving.status, moving.status_details.advancing.target_frozen_time) == ("advancing", seconds(2026, 2))
    now = clocks.retrieve(clock.id)
    assert (now.status, now.frozen_time, now.name) == ("ready", seconds(2026, 2), "one")
    assert shop.events(types=["test_helpers.test_clock.advancing", "test_helpers.test_clock.ready"])[-2:] == [
        "test_helpers.test_clock.advancing",
        "test_helpers.test_clock.ready",
    ]


@pytest.mark.parametrize("moment", [seconds(2026, 1), seconds(2025, 1), seconds(2026, 3, 2)])
def test_clock_moves_forward_by_two_periods_at_most(shop: Shop, moment: int) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    with pytest.raises(stripe_error.InvalidRequestError) as caught:
        shop.client.v1.test_helpers.test_clocks.advance(life.clock, {"frozen_time": moment})
    assert caught.value.param == "frozen_time"


def test_deleted_clock_deletes_its_customers(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    shop.client.v1.test_helpers.test_clocks.delete(life.clock)
    getters: list[Any] = [
        lambda: shop.client.v1.customers.retrieve(life.customer),
        life.current,
        lambda: shop.client.v1.test_helpers.test_clocks.retrieve(life.clock),
    ]
    for get in getters:
        with pytest.raises(stripe_error.InvalidRequestError, match="No such"):
            get()


def test_lists_leave_out_customers_on_clocks(shop: Shop) -> None:
    v1, life = shop.client.v1, Life.begin(shop.double, shop.client).subscribe(shop.price)
    assert [each.id for each in v1.customers.list().data] == [shop.customer]
    assert [each.id for each in v1.customers.list({"test_clock": life.clock}).data] == [life.customer]
    assert not v1.subscriptions.list().data
    for wanted in {"customer": life.customer}, {"test_clock": life.clock}:
        assert [each.id for each in v1.subscriptions.list(wanted).data] == [life.subscription]


def test_clock_has_room_for_three_customers(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client)
    for _ in range(2):
        shop.client.v1.customers.create({"test_clock": life.clock})
    with pytest.raises(stripe_error.InvalidRequestError, match="at most 3"):
        shop.client.v1.customers.create({"test_clock": life.clock})


def test_renewal_is_a_draft_for_an_hour(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price).until(seconds(2026, 2))
    draft = life.latest()
    assert (draft.status, draft.number, draft.automatically_finalizes_at) == ("draft", None, seconds(2026, 2, 1, 1))
    item: Any = {"customer": life.customer, "invoice": draft.id, "amount": 500, "currency": "usd"}
    shop.client.v1.invoice_items.create(item)
    life.days(0.1)
    assert (life.latest().status, life.latest().total) == ("paid", MONTH + 500)


def test_upcoming_invoice_is_announced_seven_days_before(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.yearly)
    life.until(seconds(2026, 12, 24))
    assert not life.events(["invoice.upcoming"])
    life.until(seconds(2026, 12, 26))
    (event,) = [each for each in shop.double.store.all("event") if each["type"] == "invoice.upcoming"]
    assert event["data"]["object"]["total"] == 699_000
    with pytest.raises(stripe_error.InvalidRequestError):
        shop.client.v1.invoices.retrieve(event["data"]["object"]["id"])


@pytest.mark.parametrize(
    ("setting", "status"), [("cancel", "canceled"), ("unpaid", "unpaid"), ("past_due", "past_due")]
)
def test_retries_end_as_configured(shop: Shop, setting: str, status: str) -> None:
    shop.double.after_retries(setting)
    life = Life.begin(shop.double, shop.client).subscribe(shop.price).fail().renew()
    failed = life.latest()
    assert (life.status(), failed.attempt_count, failed.next_payment_attempt) == ("past_due", 1, seconds(2026, 2, 4, 1))
    assert shop.client.v1.customers.retrieve(life.customer).delinquent
    life.days(16)
    assert (life.status(), shop.client.v1.invoices.retrieve(failed.id).attempt_count) == (status, 4)


def test_unpaid_subscription_drafts_invoices_until_it_is_paid(shop: Shop) -> None:
    shop.double.after_retries("unpaid")
    life = Life.begin(shop.double, shop.client).subscribe(shop.price).fail().renew().days(16).renew()
    assert (life.status(), life.latest().status, life.latest().auto_advance) == ("unpaid", "draft", False)
    life.use_card(GOOD)
    shop.client.v1.invoices.pay(life.latest().id)
    assert life.status() == "active"


def test_expired_card_is_declined_at_the_renewal(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    life.use_card(GOOD, exp_month=1, exp_year=2026)
    life.renew()
    assert life.status() == "past_due"
    intent = shop.client.v1.invoices.retrieve(life.latest().id, {"expand": ["payments.data.payment.payment_intent"]})
    assert intent.payments.data[0].payment.payment_intent.last_payment_error.code == "expired_card"
    assert life.recover().status() == "active"


def test_cancel_at_far_ahead_renews_until_then(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    life.update(cancel_at=seconds(2026, 2, 15))
    life.renew()
    assert (life.status(), life.latest().total) == ("active", MONTH // 2)  # 14 of 28 days
    life.until(seconds(2026, 2, 15) + 1)
    assert (life.status(), life.current().ended_at) == ("canceled", seconds(2026, 2, 15))


def test_year_of_renewals_keeps_its_day(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client, at=seconds(2026, 1, 31)).subscribe(shop.price).days(365)
    starts = [invoice.lines.data[0].period.start for invoice in life.invoices()][::-1]
    days = [(moment - seconds(2026, 1, 1)) // DAY for moment in starts]
    assert days[:5] == [30, 58, 89, 119, 150]  # 31 January, 28 February, 31 March, 30 April, 31 May
    assert life.books() == {"usd": MONTH * 12}
