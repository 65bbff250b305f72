"""Owners buy, preview, change, cancel and resume their plan; support refunds, cancels, extends, grants, dismisses."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from psycopg import errors

from shared.billing.prices import put_on_sale
from tests.support.paying import SECRET, Shop, shop, sweep
from tests.support.responses import refused
from tests.support.serving import SECRET_KEY
from tests.support.stripe_events import WEBHOOK
from tests.support.stripe_shop import client_of, opened
from tests.support.world import ACME, Database

APP = "https://app.test"
GROWTH = {"tier": "GROWTH", "billing_cycle": "MONTHLY"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Shop]:
    variables = {"RETURN_ORIGINS": APP, "STRIPE_PROMOTION_CODES": "true"}
    with shop(tmp_path_factory.mktemp("shop"), database, database_url, **variables) as running:
        running.double.send_events_to(f"{running.functions.url}{WEBHOOK}", SECRET)
        yield running


@pytest.fixture
def stripe(app: Shop) -> Iterator[Shop]:
    app.write("update public.organizations set subscription_tier = 'FREE' where id = %s", ACME)
    yield app
    app.double.deliveries.settle()
    for table in ("stripe_events", "stripe_objects", "subscriptions", "notifications", "invoices"):
        app.write(f"delete from public.{table}")
    app.write("delete from private.checkouts")
    sweep(app.database)
    app.write("update public.organizations set stripe_customer_id = null, billing_email = null")
    app.forget()


@pytest.fixture
def v1(stripe: Shop) -> Iterator[Any]:
    yield client_of(stripe.double).v1
    opened.pop().close()


def send(stripe: Shop, function: str, **body: Any) -> httpx.Response:
    with stripe.functions.client("owner") as client:
        return client.post(f"/functions/v1/{function}", json=body)


def done(stripe: Shop, function: str, **body: Any) -> Any:
    answer = send(stripe, function, **body)
    assert answer.is_success, answer.text
    stripe.double.deliveries.settle()
    return answer.json()


def checkout(stripe: Shop, **more: Any) -> str:
    body = {**GROWTH, "success_url": f"{APP}/done", "cancel_url": f"{APP}/plans", **more}
    return str(done(stripe, "create-checkout-session", **body)["url"]).rpartition("/")[2].partition("#")[0]


def buy(stripe: Shop, card: str = "4242424242424242", code: str | None = None, **more: Any) -> Any:
    stripe.double.check_out(checkout(stripe, **more), card, promotion_code=code)
    stripe.double.deliveries.settle()
    return stripe.at_stripe("subscription")[0]


def plan(stripe: Shop) -> tuple[str, str]:
    stripe.double.deliveries.settle()
    (row,) = stripe.look(
        "select subscription_tier::text as tier, subscription_status::text as status from public.organizations"
        " where id = %s",
        ACME,
    )
    return row["tier"], row["status"]


def job(stripe: Shop, name: str, **body: Any) -> Any:
    stripe.double.deliveries.settle()
    with stripe.functions.client(None, apikey=SECRET_KEY) as client:
        answer = client.post(f"/functions/v1/{name}", json=body)
    assert answer.is_success, answer.text
    stripe.double.deliveries.settle()
    return answer.json()["result"]


def live(stripe: Shop) -> list[Any]:
    return [each for each in stripe.at_stripe("subscription") if each["status"] in {"active", "trialing", "past_due"}]


def save_card(v1: Any, subscription: Any, token: str) -> str:
    """A new default card of a subscription."""
    card = v1.payment_methods.create({"type": "card", "card": {"token": token}})
    v1.payment_methods.attach(card.id, {"customer": subscription["customer"]})
    v1.subscriptions.update(subscription["id"], {"default_payment_method": card.id})
    return str(card.id)


# Buying


def test_organization_buys_again_after_an_end(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    v1.subscriptions.cancel(bought["id"])
    assert plan(stripe) == ("FREE", "CANCELLED")
    buy(stripe, tier="ELITE")
    assert plan(stripe) == ("ELITE", "ACTIVE")
    assert len(stripe.at_stripe("customer")) == 1
    assert stripe.look("select kind from public.billing_attention") == []


def test_concurrent_checkouts_share_one_page(stripe: Shop) -> None:
    with ThreadPoolExecutor(6) as pool:
        pages = set(pool.map(lambda _: checkout(stripe), range(6)))
    assert len(pages) == 1
    assert len(stripe.at_stripe("customer")) == 1


def test_another_plan_replaces_the_open_page(stripe: Shop) -> None:
    first = checkout(stripe)
    second = checkout(stripe, tier="ELITE")
    statuses = {each["id"]: each["status"] for each in stripe.at_stripe("checkout.session")}
    assert statuses == {first: "expired", second: "open"}


def test_page_that_is_made_while_another_replaces_it_is_closed(stripe: Shop) -> None:
    stripe.double.fail("slow", path="checkout/sessions", seconds=1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(checkout, stripe)
        while not stripe.look("select from private.checkouts where status = 'OPEN'"):
            pass
        replacing = checkout(stripe, tier="ELITE")
        newest = slow.result()
    pages = {each["id"]: each["status"] for each in stripe.at_stripe("checkout.session")}
    assert (pages[newest], pages[replacing]) == ("open", "expired")
    assert list(pages.values()).count("open") == 1


def test_a_plan_that_was_bought_is_not_bought_again(stripe: Shop) -> None:
    buy(stripe)
    answer = send(stripe, "create-checkout-session", **GROWTH, success_url=f"{APP}/", cancel_url=f"{APP}/")
    assert "change-plan" in refused(answer, 409, "PT409").json()["hint"]


def test_paid_checkout_without_webhook_blocks_another(stripe: Shop) -> None:
    session = checkout(stripe)
    stripe.double.deliveries.paused = True
    try:
        stripe.double.check_out(session)
        answer = send(stripe, "create-checkout-session", **GROWTH, success_url=f"{APP}/", cancel_url=f"{APP}/")
        refused(answer, 409, "already_bought")
    finally:
        stripe.double.deliveries.paused = False
    assert plan(stripe) == ("GROWTH", "ACTIVE")


def test_plan_paid_twice_is_refunded_once(stripe: Shop) -> None:
    first = checkout(stripe)
    stripe.write("update private.checkouts set status = 'EXPIRED'")  # as though the first page had been lost
    second = checkout(stripe)
    for session in (first, second):
        stripe.double.check_out(session)
    job(stripe, "settle-onboarding-payments")
    assert len(live(stripe)) == 1
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    (entry,) = stripe.refunds()
    assert (entry["reason"], entry["status"], entry["amount_cents"]) == ("DUPLICATE", "REFUNDED", 69_900)
    assert sum(each["amount_refunded"] for each in stripe.at_stripe("charge")) == 69_900


def test_a_subscription_that_revives_beside_an_open_checkout_is_refunded(stripe: Shop, v1: Any) -> None:
    old = buy(stripe)
    save_card(v1, old, "tok_chargeCustomerFail")
    stripe.double.after_retries("unpaid")
    try:
        stripe.double.advance(days=32)
        stripe.double.advance(days=20)
    finally:
        stripe.double.after_retries("cancel")
    assert plan(stripe) == ("FREE", "INACTIVE")
    page = checkout(stripe, tier="ELITE")
    stripe.double.advance(days=0.5)
    good = save_card(v1, old, "tok_visa")
    for invoice in v1.invoices.list({"customer": old["customer"], "status": "open"}).data:
        v1.invoices.pay(invoice.id, {"payment_method": good})
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    stripe.double.check_out(page)
    assert plan(stripe) == ("ELITE", "ACTIVE")
    job(stripe, "settle-onboarding-payments")
    assert [each["status"] for each in stripe.at_stripe("subscription") if each["id"] == old["id"]] == ["canceled"]
    assert len(live(stripe)) == 1
    assert plan(stripe) == ("ELITE", "ACTIVE")
    (entry,) = stripe.refunds()
    assert (entry["object_id"], entry["reason"], entry["status"]) == (old["id"], "DUPLICATE", "REFUNDED")
    assert [each["amount_refunded"] for each in stripe.at_stripe("charge")].count(69_900) == 1
    assert stripe.look("select kind, object_id from public.billing_attention") == []


def test_a_trial_is_for_the_first_subscription_only(stripe: Shop, v1: Any) -> None:
    stripe.write("update public.plans set trial_days = 14 where tier = 'GROWTH'")
    try:
        bought = buy(stripe)
        assert plan(stripe) == ("GROWTH", "TRIAL")
        v1.subscriptions.cancel(bought["id"])
        stripe.double.deliveries.settle()
        buy(stripe)
        assert plan(stripe) == ("GROWTH", "ACTIVE")
    finally:
        stripe.write("update public.plans set trial_days = 0")


def test_promotion_code_lowers_price_and_revenue(stripe: Shop, v1: Any) -> None:
    coupon = v1.coupons.create({"percent_off": 25, "duration": "forever"})
    v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "SPRING"})
    buy(stripe, code="SPRING")
    (row,) = stripe.look("select amount_cents, net_monthly_amount from public.subscriptions")
    assert (row["amount_cents"], row["net_monthly_amount"]) == (69_900, 52_425)
    (invoice,) = stripe.look("select total_cents, discount_cents, status::text from public.invoices")
    assert invoice == {"total_cents": 52_425, "discount_cents": 17_475, "status": "PAID"}


@pytest.mark.parametrize("person", ["admin", "member", "viewer", "outsider", "super_admin"])
@pytest.mark.parametrize(
    ("function", "body"),
    [
        ("create-checkout-session", {**GROWTH, "success_url": f"{APP}/", "cancel_url": f"{APP}/"}),
        ("preview-plan-change", GROWTH),
        ("change-plan", GROWTH),
        ("cancel-subscription", {}),
        ("resume-subscription", {}),
    ],
)
def test_attack_change_the_plan_as_non_owner(stripe: Shop, person: str, function: str, body: Any) -> None:
    with stripe.functions.client(person) as client:
        answer = client.post(f"/functions/v1/{function}", json=body, headers={"x-org-id": str(ACME)})
    refused(answer, 403, "42501")


def test_attack_a_checkout_leads_back_to_a_stranger(stripe: Shop) -> None:
    answer = send(stripe, "create-checkout-session", **GROWTH, success_url="https://evil.test/", cancel_url=f"{APP}/")
    refused(answer, 422, "unknown_origin")


# Changing


def test_upgrade_is_immediate_and_costs_the_previewed_amount(stripe: Shop) -> None:
    buy(stripe, tier="STARTER")
    preview = done(stripe, "preview-plan-change", **GROWTH)
    assert preview["takes_effect"] == "NOW"
    assert preview["next_invoice"]["total_cents"] == 69_900
    changed = done(stripe, "change-plan", **GROWTH)
    assert (changed["takes_effect"], changed["subscription"]["tier"]) == ("NOW", "GROWTH")
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    (newest,) = stripe.look("select total_cents from public.invoices where billing_reason = 'subscription_update'")
    assert newest["total_cents"] == pytest.approx(preview["due_now"]["total_cents"], abs=2)


def test_an_upgrade_under_a_full_discount_is_previewed(stripe: Shop, v1: Any) -> None:
    coupon = v1.coupons.create({"percent_off": 100, "duration": "forever"})
    v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "ALL"})
    buy(stripe, tier="STARTER", code="ALL")
    preview = done(stripe, "preview-plan-change", **GROWTH)
    # Prorations contain their discount, so those of a free subscription are zero; the next invoice shows it.
    assert [line["amount_cents"] for line in preview["lines"]] == [0, 0]
    assert preview["due_now"]["total_cents"] == preview["due_now"]["subtotal_cents"] == 0
    next_invoice = preview["next_invoice"]
    assert (next_invoice["subtotal_cents"], next_invoice["discount_cents"], next_invoice["total_cents"]) == (
        69_900, 69_900, 0,
    )  # fmt: skip
    done(stripe, "change-plan", **GROWTH)
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    v1.promotion_codes.update(v1.promotion_codes.list({"code": "ALL"}).data[0].id, {"active": False})


def test_upgrade_of_a_subscription_that_ends_is_previewed_and_made(stripe: Shop) -> None:
    buy(stripe, tier="STARTER")
    done(stripe, "cancel-subscription")
    preview = done(stripe, "preview-plan-change", **GROWTH)
    assert (preview["takes_effect"], preview["next_invoice"]) == ("NOW", None)
    assert preview["due_now"]["total_cents"] == pytest.approx(40_000, abs=2)
    assert done(stripe, "change-plan", **GROWTH)["subscription"]["ends_at"]
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    done(stripe, "resume-subscription")
    assert done(stripe, "preview-plan-change", **GROWTH)["next_invoice"]["total_cents"] == 69_900


def test_an_upgrade_that_cannot_be_paid_changes_nothing(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe, tier="STARTER")
    save_card(v1, bought, "tok_chargeCustomerFail")
    refused(send(stripe, "change-plan", **GROWTH), 402, "card_declined")
    assert plan(stripe) == ("STARTER", "ACTIVE")


@pytest.mark.parametrize("wanted", [{**GROWTH, "tier": "STARTER"}, {**GROWTH, "billing_cycle": "YEARLY"}], ids=str)
def test_downgrade_or_cycle_change_applies_at_period_end(stripe: Shop, wanted: Any) -> None:
    buy(stripe)
    changed = done(stripe, "change-plan", **wanted)
    assert (changed["takes_effect"], changed["subscription"]["tier"]) == ("PERIOD_END", "GROWTH")
    (row,) = stripe.look(
        "select pending_tier::text, pending_billing_cycle::text, pending_at, current_period_end"
        " from public.subscriptions"
    )
    assert (row["pending_tier"], row["pending_billing_cycle"]) == (wanted["tier"], wanted["billing_cycle"])
    assert row["pending_at"] == row["current_period_end"]
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    stripe.double.advance(days=32)
    assert plan(stripe) == (wanted["tier"], "ACTIVE")
    (row,) = stripe.look("select billing_cycle::text, pending_tier from public.subscriptions")
    assert row == {"billing_cycle": wanted["billing_cycle"], "pending_tier": None}


def test_a_change_of_mind_cancels_a_scheduled_change(stripe: Shop) -> None:
    buy(stripe)
    done(stripe, "change-plan", **{**GROWTH, "tier": "STARTER"})
    assert done(stripe, "change-plan", **GROWTH)["takes_effect"] == "NONE"
    assert stripe.look("select pending_tier from public.subscriptions") == [{"pending_tier": None}]
    stripe.double.advance(days=32)
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    titles = [row["title"] for row in stripe.look("select title from public.notifications order by created_at")]
    assert [title.partition(" on 2")[0] for title in titles] == [
        "Your plan is Growth",
        "Your plan changes to Starter",
        "Your Growth plan does not change",
    ]


def test_concurrent_upgrades_are_paid_once(stripe: Shop) -> None:
    buy(stripe, tier="STARTER")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(stripe, "change-plan", **GROWTH), range(4)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    assert len([each for each in stripe.at_stripe("invoice") if each["billing_reason"] == "subscription_update"]) == 1


def test_cancelling_and_resuming_can_be_repeated(stripe: Shop) -> None:
    buy(stripe)
    for _ in range(2):
        assert done(stripe, "cancel-subscription", feedback="too_expensive")["ends_at"] is not None
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    for _ in range(2):
        assert done(stripe, "resume-subscription")["ends_at"] is None
    done(stripe, "cancel-subscription")
    stripe.double.advance(days=32)
    assert plan(stripe) == ("FREE", "CANCELLED")
    for function in ("cancel-subscription", "resume-subscription"):
        assert "create-checkout-session" in refused(send(stripe, function), 409, "PT409").json()["hint"]


def test_owners_who_change_and_cancel_at_once_are_not_refused(stripe: Shop) -> None:
    buy(stripe)
    less = {**GROWTH, "tier": "STARTER"}
    requests = [("change-plan", less), ("cancel-subscription", {}), ("change-plan", less), ("resume-subscription", {})]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: send(stripe, each[0], **each[1]), requests))
    assert {answer.status_code for answer in answers} <= {200, 409}, [answer.text for answer in answers]


def test_a_scheduled_change_keeps_discounts_and_other_items(stripe: Shop, v1: Any) -> None:
    coupon = v1.coupons.create({"percent_off": 100, "duration": "forever"})
    v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "FRIENDS"})
    bought = buy(stripe, code="FRIENDS")
    product = v1.products.create({"name": "Extra"}).id
    extra = v1.prices.create(
        {"product": product, "currency": "usd", "unit_amount": 500, "recurring": {"interval": "month"}}
    )
    v1.subscription_items.create({"subscription": bought["id"], "price": extra.id, "proration_behavior": "none"})
    done(stripe, "change-plan", **{**GROWTH, "tier": "STARTER"})
    stripe.double.advance(days=32)
    assert plan(stripe) == ("STARTER", "ACTIVE")
    (row,) = stripe.look("select amount_cents, net_monthly_amount from public.subscriptions")
    assert row == {"amount_cents": 29_900 + 500, "net_monthly_amount": 0}


def test_a_discount_of_the_customer_lowers_what_the_subscription_brings(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    coupon = v1.coupons.create({"percent_off": 50, "duration": "forever"})
    stripe.double.discount_customer(bought["customer"], coupon.id)
    stripe.double.deliveries.settle()
    assert stripe.look("select net_monthly_amount from public.subscriptions") == [{"net_monthly_amount": 34_950}]
    stripe.write("delete from public.stripe_events where type like 'c%%'")
    stripe.write("delete from public.stripe_objects")  # reconciliation finds it again
    job(stripe, "reconcile-stripe", compare=True)
    assert stripe.look("select net_monthly_amount from public.subscriptions") == [{"net_monthly_amount": 34_950}]
    v1.customers.delete_discount(bought["customer"])
    stripe.double.deliveries.settle()
    assert stripe.look("select net_monthly_amount from public.subscriptions") == [{"net_monthly_amount": 69_900}]


def test_a_trial_that_ended_without_a_card_is_resumed(stripe: Shop, v1: Any) -> None:
    customer = v1.customers.create({"name": "Acme"}).id
    stripe.write("update public.organizations set stripe_customer_id = %s where id = %s", customer, ACME)
    (price,) = stripe.look(
        "select stripe_price_id as id from public.plans"
        " where tier = 'GROWTH' and billing_cycle = 'MONTHLY' and is_active"
    )
    pause = {"end_behavior": {"missing_payment_method": "pause"}}
    v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price["id"]}], "trial_period_days": 7, "trial_settings": pause}
    )
    stripe.double.advance(days=8)
    assert plan(stripe) == ("FREE", "INACTIVE")
    assert "create-checkout-session" in refused(send(stripe, "change-plan", **GROWTH), 409, "PT409").json()["hint"]
    card = v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}}).id
    v1.payment_methods.attach(card, {"customer": customer})
    v1.customers.update(customer, {"invoice_settings": {"default_payment_method": card}})
    assert done(stripe, "resume-subscription")["status"] == "ACTIVE"
    assert plan(stripe) == ("GROWTH", "ACTIVE")


def test_a_subscription_whose_payment_is_due_is_not_resumed(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    save_card(v1, bought, "tok_chargeCustomerFail")
    stripe.double.after_retries("unpaid")
    try:
        stripe.double.advance(days=32)
        stripe.double.advance(days=20)
        assert plan(stripe) == ("FREE", "INACTIVE")
        refused(send(stripe, "resume-subscription"), 409, "payment_due")
    finally:
        stripe.double.after_retries("cancel")


def test_owner_cancels_what_stripe_still_retries_after_the_grace(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    save_card(v1, bought, "tok_chargeCustomerFail")
    stripe.double.advance(days=32)
    assert plan(stripe) == ("GROWTH", "PAST_DUE")
    stripe.write(
        "update public.stripe_events set created = now() - case state ->> 'status' when 'past_due' then interval"
        " '40 days' else interval '60 days' end, created_at = now() - interval '40 days'"
    )
    stripe.write(
        "update public.subscriptions set past_due_since = now() - interval '40 days' where status = 'PAST_DUE'"
    )
    job(stripe, "reconcile-stripe")
    assert plan(stripe) == ("FREE", "INACTIVE")
    assert [row["kind"] for row in stripe.look("select kind from public.billing_attention")] == ["GRACE_ENDED"]
    refused(send(stripe, "resume-subscription"), 409, "payment_due")
    refused(send(stripe, "change-plan", **GROWTH), 409, "PT409")
    done(stripe, "cancel-subscription")
    assert (plan(stripe), live(stripe)) == (("FREE", "CANCELLED"), [])
    assert stripe.look("select kind from public.billing_attention") == []


def test_suspended_organization_can_pay_and_closed_one_only_cancel(stripe: Shop) -> None:
    bodies = {"preview-plan-change": GROWTH, "change-plan": {**GROWTH, "tier": "ELITE"}, "cancel-subscription": {}}
    stripe.write("update public.organizations set suspended_at = now(), suspended_reason = 'x' where id = %s", ACME)
    try:
        buy(stripe)
        assert [send(stripe, function, **body).status_code for function, body in bodies.items()] == [200] * 3
        stripe.write("update public.organizations set closed_at = now(), suspended_at = null where id = %s", ACME)
        assert [send(stripe, function, **body).status_code for function, body in bodies.items()] == [403, 403, 200]
    finally:
        stripe.write(
            "update public.organizations set suspended_at = null, suspended_reason = null, closed_at = null"
            " where id = %s",
            ACME,
        )


def test_seats_are_bought_for_every_member(stripe: Shop) -> None:
    stripe.write("update public.plans set per_seat = true where tier = 'GROWTH'")
    try:
        body = {**GROWTH, "success_url": f"{APP}/", "cancel_url": f"{APP}/", "quantity": 1}
        refused(send(stripe, "create-checkout-session", **body), 422, "PT422")
        buy(stripe, quantity=5)
        assert done(stripe, "change-plan", **GROWTH, quantity=7)["takes_effect"] == "NOW"
        assert stripe.look("select quantity from public.subscriptions") == [{"quantity": 7}]
        assert done(stripe, "change-plan", **GROWTH, quantity=6)["takes_effect"] == "PERIOD_END"
    finally:
        stripe.write("update public.plans set per_seat = false")


def test_only_owners_read_invoices(stripe: Shop) -> None:
    buy(stripe)
    stripe.write("update public.organizations set suspended_at = now(), suspended_reason = 'x' where id = %s", ACME)
    seen = {}
    for person in ("owner", "admin", "member", "globex_owner", "outsider"):
        with stripe.database.acting_as(person) as cursor:
            seen[person] = cursor.execute(
                "select number, hosted_invoice_url, invoice_pdf from public.invoices"
            ).rowcount
    stripe.write("update public.organizations set suspended_at = null, suspended_reason = null")
    assert seen == {"owner": 1, "admin": 0, "member": 0, "globex_owner": 0, "outsider": 0}


# What lasts longer than a subscription


def test_replaced_price_keeps_the_plan(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    stripe.write("update public.plans set amount_cents = 79900 where tier = 'GROWTH' and billing_cycle = 'MONTHLY'")
    try:
        with stripe.database.connect() as connection:
            put_on_sale(connection, stripe.double.url, stripe.double.key)
        v1.prices.update(bought["items"]["data"][0]["price"]["id"], {"active": False})
        stripe.double.advance(days=32)
        assert plan(stripe) == ("GROWTH", "ACTIVE")
        assert stripe.look("select kind from public.billing_attention") == []
        v1.subscriptions.cancel(bought["id"])
        assert plan(stripe) == ("FREE", "CANCELLED")
    finally:
        stripe.write("update public.plans set amount_cents = 69900 where tier = 'GROWTH' and billing_cycle = 'MONTHLY'")
        with stripe.database.connect() as connection:
            put_on_sale(connection, stripe.double.url, stripe.double.key)


def test_a_downgrade_waits_through_two_replacements_of_its_price(stripe: Shop) -> None:
    buy(stripe)
    done(stripe, "change-plan", **{**GROWTH, "tier": "STARTER"})
    try:
        for amount in 31_900, 33_900:
            stripe.write(
                "update public.plans set amount_cents = %s where tier = 'STARTER' and billing_cycle = 'MONTHLY'", amount
            )
            with stripe.database.connect() as connection:
                put_on_sale(connection, stripe.double.url, stripe.double.key)
            stripe.double.deliveries.settle()
            assert stripe.look("select pending_tier::text from public.subscriptions") == [{"pending_tier": "STARTER"}]
        stripe.double.advance(days=32)
        assert plan(stripe) == ("STARTER", "ACTIVE")
        # What was scheduled is what is paid.
        assert stripe.look("select amount_cents, pending_tier from public.subscriptions") == [
            {"amount_cents": 29_900, "pending_tier": None}
        ]
        assert done(stripe, "preview-plan-change", **{**GROWTH, "tier": "STARTER"})["takes_effect"] == "NONE"
        assert done(stripe, "preview-plan-change", **GROWTH)["takes_effect"] == "NOW"
        assert stripe.look("select kind from public.billing_attention") == []
    finally:
        stripe.write(
            "update public.plans set amount_cents = 29900 where tier = 'STARTER' and billing_cycle = 'MONTHLY'"
        )
        with stripe.database.connect() as connection:
            put_on_sale(connection, stripe.double.url, stripe.double.key)


def test_price_edited_by_hand_that_is_not_what_is_offered_is_shown(stripe: Shop, v1: Any) -> None:
    buy(stripe)
    done(stripe, "change-plan", **{**GROWTH, "tier": "STARTER"})
    plans = "where tier = 'STARTER' and billing_cycle = 'MONTHLY' and is_active"
    (old,) = stripe.look(f"select stripe_price_id as id from public.plans {plans}")
    terms: Any = {"product": v1.prices.retrieve(old["id"]).product, "currency": "eur", "unit_amount": 31_900}
    for recurring in {"interval": "month", "interval_count": 3}, {"interval": "month"}:
        new = v1.prices.create(terms | {"recurring": recurring}).id
        stripe.write(f"update public.plans set stripe_price_id = %s {plans}", new)
        stripe.double.deliveries.settle()
        (row,) = stripe.look("select kind, object_id, reason from public.billing_attention")
        assert (row["kind"], row["object_id"]) == ("PRICE", new)
        assert row["reason"].startswith(
            "STARTER MONTHLY is offered for 299.00 USD, and this price at Stripe is 319.00 EUR"
        )
    try:
        # Scheduled is what was offered then, also when its price is archived meanwhile; euros are refused.
        v1.prices.update(old["id"], {"active": False})
        stripe.double.advance(days=32)
        assert plan(stripe) == ("STARTER", "ACTIVE")
        assert stripe.look("select amount_cents, currency from public.subscriptions") == [
            {"amount_cents": 29_900, "currency": "usd"}
        ]
    finally:
        v1.prices.update(old["id"], {"active": True})
        stripe.write("update public.plans set stripe_price_id = %s where stripe_price_id = %s", old["id"], new)
    stripe.double.deliveries.settle()
    assert stripe.look("select kind from public.billing_attention") == []


def test_tax_that_changes_after_the_preview_is_that_of_the_invoice(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe, tier="STARTER")
    v1.customers.update(bought["customer"], {"address": {"country": "DE", "postal_code": "10115"}})
    stripe.double.tax(19)
    try:
        v1.subscriptions.update(bought["id"], {"automatic_tax": {"enabled": True}})
        preview = done(stripe, "preview-plan-change", **GROWTH)["due_now"]
        stripe.double.tax(7)
        done(stripe, "change-plan", **GROWTH)
        assert plan(stripe) == ("GROWTH", "ACTIVE")
        (row,) = stripe.look(
            "select subtotal_cents, tax_cents, total_cents, paid_cents from public.invoices"
            " where billing_reason = 'subscription_update'"
        )
        assert row["tax_cents"] == round(row["subtotal_cents"] * 0.07) < preview["tax_cents"]
        assert row["total_cents"] == row["paid_cents"] == row["subtotal_cents"] + row["tax_cents"]
    finally:
        stripe.double.tax(None)


def test_a_deleted_organization_is_not_charged_any_more(stripe: Shop, v1: Any) -> None:
    customer = v1.customers.create({"name": "Gone"}).id
    stripe.write(
        "insert into public.organizations (name, slug, stripe_customer_id) values ('Gone', 'gone', %s)", customer
    )
    price = stripe.look("select stripe_price_id as id from public.plans where tier = 'ELITE' and is_active")[0]["id"]
    card = v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    v1.payment_methods.attach(card.id, {"customer": customer})
    v1.subscriptions.create({"customer": customer, "items": [{"price": price}], "default_payment_method": card.id})
    stripe.double.deliveries.settle()
    stripe.write("delete from public.organizations where slug = 'gone'")
    stripe.double.fail("500", times=9, path="subscriptions")
    assert job(stripe, "settle-onboarding-payments")["undone"] == 1
    kinds = {row["kind"] for row in stripe.look("select kind from public.billing_attention")}
    assert kinds == {"TASK", "ORGANIZATION_DELETED"}
    stripe.double.faults.clear()
    stripe.write("update public.stripe_tasks set due_at = now()")
    job(stripe, "settle-onboarding-payments")
    assert live(stripe) == []
    assert stripe.look("select kind from public.billing_attention") == []


def test_a_closed_organization_is_not_charged_any_more(stripe: Shop) -> None:
    buy(stripe)
    with stripe.database.acting_as("owner") as cursor:
        cursor.execute("select public.close_organization('acme')")
        cursor.connection.commit()
    try:
        job(stripe, "settle-onboarding-payments")
        assert live(stripe) == []
        assert plan(stripe) == ("FREE", "CANCELLED")
        assert stripe.refunds() == []
    finally:
        stripe.write("update public.organizations set closed_at = null, closed_by = null where id = %s", ACME)


@pytest.mark.parametrize("is_at_once", [True, False])
def test_organization_reopened_at_once_keeps_its_plan(stripe: Shop, *, is_at_once: bool) -> None:
    buy(stripe, tier="ELITE")
    done(stripe, "change-plan", **GROWTH)
    for work in "close_organization('acme')", "reopen_organization()":
        with stripe.database.acting_as("owner") as cursor:
            cursor.execute(f"select public.{work}")
            cursor.connection.commit()
        if work.startswith("reopen") or not is_at_once:
            job(stripe, "settle-onboarding-payments")
    stripe.double.advance(days=32)
    assert plan(stripe) == (("GROWTH", "ACTIVE") if is_at_once else ("FREE", "CANCELLED"))
    assert len(live(stripe)) == int(is_at_once)
    assert stripe.look("select kind from public.billing_attention") == []


@pytest.mark.parametrize("end", ["closed", "deleted"])
def test_checkout_paid_after_organization_deletion_is_refunded(stripe: Shop, end: str) -> None:
    page = checkout(stripe)
    if end == "closed":
        stripe.write("update public.organizations set closed_at = now() where id = %s", ACME)
    else:
        (row,) = stripe.look("select stripe_customer_id as id from public.organizations where id = %s", ACME)
        stripe.write("update public.organizations set stripe_customer_id = null where id = %s", ACME)
        stripe.write(
            "insert into public.organizations (name, slug, stripe_customer_id) values ('Gone', 'gone', %s)", row["id"]
        )
        stripe.write("delete from public.organizations where slug = 'gone'")
    try:
        stripe.double.check_out(page)
        for _ in range(2):
            job(stripe, "settle-onboarding-payments")
        assert live(stripe) == []
        (entry,) = stripe.refunds()
        assert (entry["reason"], entry["status"], entry["amount_cents"]) == ("ENDED", "REFUNDED", 69_900)
        assert sum(each["amount_refunded"] for each in stripe.at_stripe("charge")) == 69_900
    finally:
        stripe.write("update public.organizations set closed_at = null where id = %s", ACME)


def test_owners_have_one_notice_of_each_fact(stripe: Shop) -> None:
    first = checkout(stripe)
    stripe.write("update private.checkouts set status = 'EXPIRED'")
    for session in (first, checkout(stripe)):
        stripe.double.check_out(session)
        stripe.double.deliveries.settle()
    for _ in range(2):
        done(stripe, "cancel-subscription")
        done(stripe, "resume-subscription")
    titles = [row["title"] for row in stripe.look("select title from public.notifications order by created_at")]
    assert [title.partition(" on 2")[0] for title in titles] == [
        "Your plan is Growth",
        "Your Growth plan ends",
        "Your Growth plan goes on",
    ]


def test_money_that_arrives_after_the_end_is_shown(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    save_card(v1, bought, "tok_chargeCustomerFail")
    stripe.double.advance(days=32)
    stripe.double.advance(days=20)
    assert plan(stripe) == ("FREE", "CANCELLED")
    (invoice,) = v1.invoices.list({"customer": bought["customer"], "status": "open"}).data
    good = v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    v1.payment_methods.attach(good.id, {"customer": bought["customer"]})
    v1.invoices.pay(invoice.id, {"payment_method": good.id})
    stripe.double.deliveries.settle()
    (line,) = stripe.look("select kind, object_id, subject from public.billing_attention")
    assert line == {"kind": "REFUND_TO_DECIDE", "object_id": invoice.id, "subject": "699.00 USD"}
    stripe.write("select public.decide_refund(id, true) from public.refunds_due")
    job(stripe, "settle-onboarding-payments")
    assert stripe.look("select refunded_cents from public.invoices where stripe_invoice_id = %s", invoice.id) == [
        {"refunded_cents": 69_900}
    ]


def test_subscription_missing_at_stripe_ends(stripe: Shop) -> None:
    bought = buy(stripe)
    stripe.double.store._rows("delete from objects where id = ?", bought["id"])
    job(stripe, "reconcile-stripe", compare=True)
    assert plan(stripe) == ("FREE", "CANCELLED")


def test_changed_stripe_account_keeps_plans_and_is_reported(stripe: Shop) -> None:
    bought = buy(stripe)
    stripe.double.store._rows("delete from objects where id in (?, ?)", bought["id"], bought["customer"])
    job(stripe, "reconcile-stripe", compare=True)
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    assert {row["kind"] for row in stripe.look("select kind from public.billing_attention")} == {"MISSING"}
    stripe.write("select public.grant_plan(%s, 'FREE', now(), 'Of an account we have closed')", ACME)
    assert plan(stripe) == ("FREE", "CANCELLED")
    assert stripe.look("select kind from public.billing_attention") == []


def test_one_locked_subscription_does_not_stop_the_reconciliation(stripe: Shop) -> None:
    bought = buy(stripe)
    stripe.write(
        "update public.stripe_objects set in_doubt_since = now() - interval '1 hour' where id = %s", bought["id"]
    )
    with stripe.database.connect() as holder, holder.transaction():
        holder.execute("select private.lock_stripe(%s)", [bought["customer"]])
        assert job(stripe, "reconcile-stripe", compare=False)["skipped"] >= 1
    assert job(stripe, "reconcile-stripe", compare=False)["skipped"] == 0


def test_an_event_with_nul_is_stored_by_the_reconciliation(stripe: Shop) -> None:
    buy(stripe)
    account = stripe.double.account
    stripe.double.deliveries.paused = True
    try:
        with stripe.double.store.change():
            account.new(
                "event",
                type="customer.updated",
                api_version=account.version,
                request={"id": None, "idempotency_key": None},
                data={"object": {"id": "cus_nul", "object": "customer", "name": "a\0b"}},
                _before=None,
            )
    finally:
        stripe.double.deliveries.paused = False
    result = job(stripe, "reconcile-stripe", compare=False)
    assert result["missed_events"] == 1
    assert job(stripe, "reconcile-stripe", compare=False)["missed_events"] == 0


def test_a_billing_email_reaches_stripe(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    stripe.write("update public.organizations set billing_email = 'books@acme.test' where id = %s", ACME)
    job(stripe, "settle-onboarding-payments")
    assert v1.customers.retrieve(bought["customer"]).email == "books@acme.test"


def test_a_cancellation_far_ahead_is_announced_with_its_date(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    at = bought["items"]["data"][0]["current_period_end"] + 100 * 86_400
    v1.subscriptions.update(bought["id"], {"cancel_at": at, "proration_behavior": "none"})
    stripe.double.deliveries.settle()
    (row,) = stripe.look(
        "select extract(epoch from ends_at)::bigint as at, cancel_at_period_end from public.subscriptions"
    )
    assert row == {"at": at, "cancel_at_period_end": False}
    (title,) = stripe.look(
        "select title, to_char(to_timestamp(%s) at time zone 'UTC', 'YYYY-MM-DD') as day from public.notifications"
        " where title like '%%ends on%%'",
        at,
    )
    assert title["title"] == f"Your Growth plan ends on {title['day']}"


def test_subscriptions_of_two_customers_leave_one_live(stripe: Shop, v1: Any) -> None:
    first = buy(stripe)
    customer = v1.customers.create({"name": "Acme again"}).id
    card = v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    v1.payment_methods.attach(card.id, {"customer": customer})
    price = stripe.look(
        "select stripe_price_id as id from public.plans"
        " where tier = 'ELITE' and billing_cycle = 'MONTHLY' and is_active"
    )
    stripe.write("update public.organizations set stripe_customer_id = %s where id = %s", customer, ACME)
    stripe.double.advance(days=2)
    v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price[0]["id"]}], "default_payment_method": card.id}
    )
    assert plan(stripe) == ("ELITE", "ACTIVE")
    (line,) = stripe.look("select kind, object_id from public.billing_attention")
    assert line == {"kind": "PAID_TWICE", "object_id": first["id"]}
    v1.subscriptions.cancel(first["id"])
    stripe.double.deliveries.settle()
    assert stripe.look("select kind from public.billing_attention") == []


# Support, from the SQL editor


def test_support_refunds_cancels_and_extends_from_the_sql_editor(stripe: Shop, v1: Any) -> None:
    bought = buy(stripe)
    (invoice,) = stripe.look("select number, id from public.invoices")
    stripe.write("select public.refund_invoice(%s, 'A gesture', 10000)", invoice["number"])
    with pytest.raises(errors.Error, match="cannot be refunded"):
        stripe.write("select public.refund_invoice(%s, 'Too much', 60000)", str(invoice["id"]))
    job(stripe, "settle-onboarding-payments")
    (row,) = stripe.look("select refunded_cents from public.invoices")
    assert row["refunded_cents"] == 10_000
    stripe.write("select public.cancel_at_stripe(%s, 'Asked by telephone', true)", bought["id"])
    job(stripe, "settle-onboarding-payments")
    assert v1.subscriptions.retrieve(bought["id"]).cancel_at_period_end
    assert plan(stripe) == ("GROWTH", "ACTIVE")
    logged = stripe.look("select action::text, admin_id::text from public.admin_action_logs order by created_at")
    assert [row["action"] for row in logged[-2:]] == ["SUBSCRIPTION_UPDATE", "SUBSCRIPTION_CANCEL"]
    assert logged[-1]["admin_id"] == "00000000-0000-0000-0000-000000000000"


def test_support_leaves_a_disputed_payment_to_the_bank(stripe: Shop) -> None:
    buy(stripe)
    (charge,) = stripe.at_stripe("charge")
    stripe.double.dispute(charge["id"])
    stripe.double.deliveries.settle()
    (invoice,) = stripe.look("select number from public.invoices")
    with pytest.raises(errors.Error, match="The bank decides"):
        stripe.write("select public.refund_invoice(%s, 'Unhappy')", invoice["number"])


def test_support_extends_a_trial(stripe: Shop, v1: Any) -> None:
    stripe.write("update public.plans set trial_days = 14 where tier = 'GROWTH'")
    try:
        bought = buy(stripe)
        until = bought["trial_end"] + 16 * 86_400
        stripe.write("select public.extend_trial(%s, to_timestamp(%s), 'Needs time')", bought["id"], until)
        job(stripe, "settle-onboarding-payments")
        assert v1.subscriptions.retrieve(bought["id"]).trial_end == until
    finally:
        stripe.write("update public.plans set trial_days = 0")


def test_a_granted_plan_ends_by_itself(stripe: Shop) -> None:
    stripe.write("select public.grant_plan(%s, 'ELITE', now() + interval '1 day', 'Partner')", ACME)
    assert plan(stripe) == ("ELITE", "ACTIVE")
    assert stripe.look("select kind from public.billing_attention") == [{"kind": "GRANTED"}]
    stripe.write("update public.organizations set subscription_tier = 'GROWTH' where id = %s", ACME)
    kinds = {row["kind"] for row in stripe.look("select kind from public.billing_attention")}
    assert kinds == {"GRANTED", "EDITED"}
    answer = send(stripe, "create-checkout-session", **GROWTH, success_url=f"{APP}/", cancel_url=f"{APP}/")
    assert "granted" in refused(answer, 409, "PT409").json()["hint"]
    stripe.write("update public.subscriptions set ends_at = now()")
    job(stripe, "update-billing")
    assert plan(stripe) == ("FREE", "CANCELLED")


def test_foreign_event_can_be_dismissed_and_restored(stripe: Shop, v1: Any) -> None:
    stranger = v1.customers.create({"name": "Another business"}).id
    stripe.double.deliveries.settle()
    (event,) = stripe.look("select id from public.stripe_events where customer_id = %s", stranger)
    stripe.write("select public.dismiss_stripe_event(%s, 'Of our shop')", event["id"])
    v1.customers.update(stranger, {"email": "x@y.test"})
    stripe.double.deliveries.settle()
    assert stripe.look("select kind from public.billing_attention") == []
    stripe.write("update public.organizations set stripe_customer_id = %s where id = %s", stranger, ACME)
    statuses = stripe.look("select distinct status::text from public.stripe_events where customer_id = %s", stranger)
    assert statuses == [{"status": "APPLIED"}]


@pytest.mark.parametrize(
    "call",
    [
        "decide_refund(gen_random_uuid(), true)",
        "refund_invoice('in_1', 'x')",
        "cancel_at_stripe('sub_1', 'x')",
        "extend_trial('sub_1', now(), 'x')",
        f"grant_plan('{ACME}', 'ELITE', now() + interval '1 day', 'x')",
        "dismiss_stripe_event('evt_1', 'x')",
        "requeue_stripe_event('evt_1')",
    ],
)
def test_attack_an_owner_plays_support(stripe: Shop, call: str) -> None:
    for person in ("owner", "outsider"):
        with stripe.database.acting_as(person) as cursor, pytest.raises(errors.InsufficientPrivilege):
            cursor.execute(f"select public.{call}")
