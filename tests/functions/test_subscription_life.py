"""A subscription over time at Stripe: the plan of the organization and the notices to its owners."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from stripe import HTTPXClient, StripeClient

from tests.database.test_garage import in_status
from tests.support import served_flags as flags
from tests.support.onboarding import Customer
from tests.support.paying import SECRET, Shop, sweep
from tests.support.serving import PUBLISHABLE_KEY
from tests.support.stripe_events import WEBHOOK
from tests.support.world import ACME, PEOPLE

V1 = Any


@pytest.fixture
def stripe(open_shop: Shop) -> Iterator[Shop]:
    yield open_shop
    open_shop.double.deliveries.settle()
    for table in ("stripe_events", "stripe_objects", "subscriptions", "notifications", "custom_agent_orders"):
        open_shop.write(f"delete from public.{table}")
    sweep(open_shop.database)
    open_shop.write("update public.organizations set stripe_customer_id = null")
    open_shop.forget()


@pytest.fixture
def v1(stripe: Shop) -> Iterator[V1]:
    """A change in Stripe's dashboard or portal."""
    http = HTTPXClient(allow_sync_methods=True, verify_ssl_certs=False)
    yield StripeClient(stripe.double.key, base_addresses={"api": stripe.double.url}, http_client=http).v1
    http.close()  # type: ignore[no-untyped-call]  # the library leaves it untyped


def price(stripe: Shop, tier: str) -> str:
    (plan,) = stripe.look(
        "select stripe_price_id from public.plans where tier = %s and billing_cycle = 'MONTHLY' and is_active", tier
    )
    return str(plan["stripe_price_id"])


def buy(stripe: Shop, v1: V1, tier: str, card: str = "4242424242424242") -> Any:
    """Acme becomes a customer and pays."""
    customer = v1.customers.create({"name": "Acme"}).id
    stripe.write("update public.organizations set stripe_customer_id = %s where id = %s", customer, ACME)
    made = v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": price(stripe, tier)}],
            "payment_behavior": "default_incomplete",
            "payment_settings": {"save_default_payment_method": "on_subscription"},
            "expand": ["latest_invoice.payments"],
        }
    )
    stripe.double.pay(made.latest_invoice.payments.data[0].payment.payment_intent, card)
    stripe.double.deliveries.settle()  # events of the same second arrive in any order
    return made


def standing(stripe: Shop) -> tuple[str, str]:
    stripe.double.deliveries.settle()
    (acme,) = stripe.look(
        "select subscription_tier::text as tier, subscription_status::text as status from public.organizations"
        " where id = %s",
        ACME,
    )
    return acme["tier"], acme["status"]


def notices(stripe: Shop) -> list[str]:
    rows = stripe.look("select user_id, title from public.notifications order by created_at")
    assert {row["user_id"] for row in rows} == {PEOPLE["owner"]}
    return [str(row["title"]).partition(" on ")[0] for row in rows]


def test_plan_cancelled_in_the_portal_ends_with_its_period(stripe: Shop, v1: V1) -> None:
    made = buy(stripe, v1, "GROWTH")
    v1.subscriptions.update(made.id, {"cancel_at": made["items"].data[0].current_period_end})
    assert standing(stripe) == ("GROWTH", "ACTIVE")
    stripe.double.advance(days=32)
    assert standing(stripe) == ("FREE", "CANCELLED")
    assert notices(stripe) == ["Your plan is Growth", "Your Growth plan ends", "Your Growth plan has ended"]


@pytest.mark.parametrize("is_paid", [True, False], ids=["paid in time", "never paid"])
def test_a_renewal_that_fails_has_its_grace_then_its_end(stripe: Shop, v1: V1, *, is_paid: bool) -> None:
    made = buy(stripe, v1, "GROWTH")
    for token in ("chargeCustomerFail", "visa") if is_paid else ("chargeCustomerFail",):
        card = v1.payment_methods.create({"type": "card", "card": {"token": f"tok_{token}"}})
        v1.payment_methods.attach(card.id, {"customer": made.customer})
        v1.subscriptions.update(made.id, {"default_payment_method": card.id})
        if token != "visa":
            stripe.double.advance(days=32)
            assert standing(stripe) == ("GROWTH", "PAST_DUE")
    stripe.double.advance(days=16)
    assert standing(stripe) == (("GROWTH", "ACTIVE") if is_paid else ("FREE", "CANCELLED"))
    last = "No payment is late any more" if is_paid else "Your Growth plan has ended"
    assert notices(stripe) == ["Your plan is Growth", "A payment failed", last]


def test_owner_is_notified_of_a_refund_that_fails(stripe: Shop, v1: V1) -> None:
    made = buy(stripe, v1, "GROWTH", "4000000000005126")
    intent = made.latest_invoice.payments.data[0].payment.payment_intent
    v1.refunds.create({"payment_intent": intent, "amount": 20_000})
    stripe.double.deliveries.settle()
    stripe.double.advance(days=2)
    assert standing(stripe) == ("GROWTH", "ACTIVE")
    about_refund = ["You are refunded 200.00 USD", "Your refund of 200.00 USD has failed"]
    assert notices(stripe) == ["Your plan is Growth", *about_refund]
    of_invoice = "select refunded_cents from public.invoices where stripe_subscription_id = %s"
    assert stripe.look(of_invoice, made.id) == [{"refunded_cents": 0}]


def test_inquiry_of_a_bank_moves_no_money(stripe: Shop, v1: V1) -> None:
    made = buy(stripe, v1, "GROWTH", "4000000000001976")
    stripe.double.advance(days=1)
    assert standing(stripe) == ("GROWTH", "ACTIVE")
    assert set(notices(stripe)) == {"Your plan is Growth", "A payment of 699.00 USD is questioned"}
    of_invoice = "select disputed_cents from public.invoices where stripe_subscription_id = %s"
    assert stripe.look(of_invoice, made.id) == [{"disputed_cents": 0}]
    assert {row["kind"] for row in stripe.look("select kind from public.billing_attention")} == {"DISPUTED"}


def test_change_of_the_cycle_alone_is_announced_as_that(stripe: Shop, v1: V1) -> None:
    made = buy(stripe, v1, "GROWTH")
    (yearly,) = stripe.look(
        "select stripe_price_id from public.plans where tier = 'GROWTH' and billing_cycle = 'YEARLY' and is_active"
    )
    schedule = v1.subscription_schedules.create({"from_subscription": made.id})
    phase = schedule.phases[0]
    now = {"items": [{"price": price(stripe, "GROWTH")}], "start_date": phase.start_date, "end_date": phase.end_date}
    then = {"items": [{"price": yearly["stripe_price_id"]}], "duration": {"interval": "year", "interval_count": 1}}
    v1.subscription_schedules.update(schedule.id, {"end_behavior": "release", "phases": [now, then]})
    stripe.double.deliveries.settle()
    assert notices(stripe) == ["Your plan is Growth", "Your Growth plan changes"]
    (last,) = stripe.look("select message from public.notifications order by created_at desc limit 1")
    assert last["message"].startswith("From then on it is billed yearly for one seat.")


def eventually(measure: Callable[[], object], wanted: object) -> None:
    """A process caches identities for up to a second, so a flag may follow a moment later."""
    deadline = time.monotonic() + 60
    while (found := measure()) != wanted:
        assert time.monotonic() < deadline, (found, wanted)
        time.sleep(0.1)


def test_orders_flags_and_alerts_follow_the_new_plan(stripe: Shop, v1: V1) -> None:
    flags.make(stripe.database, "of-elite", target_tiers=["ELITE"])
    stripe.write(
        "insert into public.system_alerts (title, message, category, is_global, target_tiers, created_by)"
        " values ('Elite', 'm', 'MAINTENANCE', false, '{ELITE}', %s)",
        PEOPLE["platform_admin"],
    )

    def allowed() -> tuple[int, bool, int]:
        """The status of submitting an order, whether the flag is on, and the number of alerts."""
        order = in_status(stripe.database, "DRAFT")
        with stripe.functions.client("member") as client:
            submitted = client.post("/functions/v1/submit-order", json={"order_id": str(order)}).status_code
        is_on = flags.is_on(flags.evaluate(stripe.functions, "of-elite", person="member", key=PUBLISHABLE_KEY))
        with stripe.database.acting_as("member", org=ACME) as cursor:
            return submitted, is_on, cursor.execute("select public.active_alerts()").rowcount

    made = buy(stripe, v1, "STARTER")
    assert standing(stripe) == ("STARTER", "ACTIVE")
    eventually(allowed, (402, False, 0))
    item = made["items"].data[0].id
    v1.subscriptions.update(made.id, {"items": [{"id": item, "price": price(stripe, "ELITE")}]})
    assert standing(stripe) == ("ELITE", "ACTIVE")
    eventually(allowed, (200, True, 1))
    v1.subscriptions.cancel(made.id)
    assert standing(stripe) == ("FREE", "CANCELLED")
    eventually(allowed, (402, False, 0))


def test_checkout_of_an_organization_sets_its_plan(stripe: Shop, v1: V1) -> None:
    session = v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "line_items": [{"price": price(stripe, "GROWTH"), "quantity": 1}],
            "client_reference_id": str(ACME),
            "success_url": "https://app.test/",
        }
    )
    httpx.post(f"{stripe.double.url}/checkout/{session.id}", data={"card": "4242424242424242"})
    assert standing(stripe) == ("GROWTH", "ACTIVE")
    assert stripe.look("select kind, reason from public.billing_attention") == []
    v1.customers.delete(v1.checkout.sessions.retrieve(session.id).customer)
    assert standing(stripe) == ("FREE", "CANCELLED")
    assert stripe.look("select stripe_customer_id as id from public.organizations where id = %s", ACME) == [
        {"id": None}
    ]


@pytest.mark.parametrize("version", ["2022-11-15", "2024-06-20", "2025-03-31.basil"])
def test_a_year_of_events_gives_one_state_in_any_order(stripe: Shop, v1: V1, version: str) -> None:
    endpoint = f"{stripe.functions.url}{WEBHOOK}"
    stripe.double.send_events_to(endpoint, SECRET, version)
    try:
        made = buy(stripe, v1, "GROWTH")
        stripe.double.advance(days=65)
        assert standing(stripe) == ("GROWTH", "ACTIVE")
        (item,) = v1.subscriptions.retrieve(made.id)["items"].data
        (kept,) = stripe.look(
            "select current_period_start as start, current_period_end as end from public.subscriptions"
        )
        assert kept["end"].timestamp() == item.current_period_end
        assert timedelta(days=28) <= kept["end"] - kept["start"] <= timedelta(days=31)
    finally:
        stripe.double.send_events_to(endpoint, SECRET)


def test_nothing_personal_is_in_the_log(stripe: Shop, v1: V1) -> None:
    made = buy(stripe, v1, "GROWTH")
    v1.customers.update(made.customer, {"name": "Jo Private", "email": "jo@private.test", "phone": "+1555010203"})
    customer = Customer(stripe.functions, "outsider").start("GROWTH", name="Private Homes")
    started = stripe.paid(customer)
    customer.call("update", step=1, name="x", website="private")
    customer.done("complete")
    stripe.double.deliveries.settle()
    log = Path(stripe.functions.log).read_text()
    secrets = ["rivate", "1555010203", "outsider@", str(customer.token), started["client_secret"]]
    assert [word for word in secrets if word in log] == []
