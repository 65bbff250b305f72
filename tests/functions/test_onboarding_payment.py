"""Paid onboarding: requests to Stripe, verification of the payment, completion and refunds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.types.json import Jsonb

from local.stripe.account import Account
from shared.billing.events import parse_object
from tests.support.paying import ANOTHER_CARD, AUTHENTICATED, NONE, ONE, Shop, shop, sweep
from tests.support.responses import refused
from tests.support.serving import serving
from tests.support.stripe_shop import client_of, opened
from tests.support.world import PEOPLE, Database, Row


@pytest.fixture(scope="module")
def _shop(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Shop]:
    with shop(tmp_path_factory.mktemp("shop"), database, database_url) as running:
        yield running


@pytest.fixture
def stripe(_shop: Shop) -> Iterator[Shop]:
    yield _shop
    _shop.double.faults.clear()
    sweep(_shop.database)
    _shop.forget()


# The way it is meant


@pytest.mark.parametrize(
    ("tier", "cycle", "amount"),
    [("STARTER", "MONTHLY", 29900), ("GROWTH", "YEARLY", 699000), ("ELITE", "MONTHLY", 199900)],
)
def test_a_paid_plan_from_the_first_step_to_the_owner(stripe: Shop, tier: str, cycle: str, amount: int) -> None:
    customer = stripe.customer("outsider", tier, cycle)
    started = stripe.paid(customer)
    assert (started["amount_cents"], started["currency"], started["payment_status"]) == (amount, "usd", "PENDING")
    completed = customer.done("complete")
    assert (completed["is_completed"], completed["payment_status"], completed["current_step"]) == (True, "SUCCEEDED", 4)
    assert stripe.made() == ONE
    (bought,) = stripe.look(
        "select s.*, o.subscription_tier, o.stripe_customer_id as organization_customer"
        " from public.subscriptions s join public.organizations o on o.id = s.organization_id"
        " where s.organization_id = %s",
        completed["organization"]["id"],
    )
    (at_stripe,) = stripe.at_stripe("subscription")
    assert (bought["stripe_subscription_id"], bought["stripe_customer_id"]) == (at_stripe["id"], at_stripe["customer"])
    assert (bought["tier"], bought["subscription_tier"], bought["amount_cents"]) == (tier, tier, amount)
    assert bought["organization_customer"] == at_stripe["customer"]
    assert bought["current_period_end"].timestamp() == at_stripe["items"]["data"][0]["current_period_end"]
    assert at_stripe["status"] == "active"
    (buyer,) = stripe.at_stripe("customer")
    assert (buyer["name"], buyer["email"]) == ("Initech", "outsider@strive.test")
    (payment,) = stripe.look("select billing_name, billing_email from private.onboarding_payments")
    assert set(payment.values()) == {None}


def test_paid_before_signing_up_and_completed_after(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    refused(anonymous.call("complete"), 401, "PT401")
    assert anonymous.signed_in("outsider").done("complete")["is_completed"]
    assert stripe.made() == ONE


def test_repeated_start_returns_the_same_payment(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    secrets = {customer.done("pay")["client_secret"] for _ in range(3)}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: customer.call("pay"), range(6)))
    assert secrets == {answer.json()["client_secret"] for answer in answers}
    assert len(stripe.at_stripe("subscription")) == 1


def test_concurrent_starts_create_one_subscription(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: customer.call("pay"), range(10)))
    # Stripe rejects concurrent requests with one idempotency key: such a caller gets a 409 and retries.
    assert {answer.status_code for answer in answers} <= {200, 503}
    customer.done("pay")
    assert (len(stripe.at_stripe("customer")), len(stripe.at_stripe("subscription"))) == (1, 1)
    (session,) = stripe.look("select payment_attempt from public.onboarding_sessions")
    assert session["payment_attempt"] == 1


def test_declined_card_is_retried_with_the_same_client_secret(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "STARTER")
    started = stripe.paid(customer, ANOTHER_CARD)
    refusal = refused(customer.call("complete"), 409, "payment_not_done")
    assert refusal.json()["details"] == {"payment_status": "FAILED"}
    again = customer.done("pay")
    assert (again["payment_status"], again["client_secret"]) == ("FAILED", started["client_secret"])
    stripe.double.pay(again["client_secret"])
    assert customer.done("complete")["payment_status"] == "SUCCEEDED"
    assert stripe.made() == ONE


def test_payment_waits_for_authentication(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "STARTER")
    started = stripe.paid(customer, AUTHENTICATED)
    refusal = refused(customer.call("complete"), 409, "payment_not_done")
    assert refusal.json()["details"] == {"payment_status": "REQUIRES_ACTION"}
    assert customer.done("get")["payment_status"] == "REQUIRES_ACTION"
    stripe.double.authenticate(started["client_secret"])
    assert customer.done("complete")["is_completed"]


def test_twenty_concurrent_paid_completions_create_one_organization(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "ELITE", "YEARLY")
    stripe.paid(customer)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: customer.call("complete"), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert stripe.made() == ONE


def test_completed_session_cannot_be_paid(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "STARTER")
    stripe.paid(customer)
    completed = customer.done("complete")
    refused(customer.call("pay"), 409, "PT409")
    assert customer.done("complete") == completed


# Another plan


def test_another_plan_cancels_the_payment_that_was_started(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "ELITE")
    first = customer.done("pay")
    planned = customer.done("update", step=2, tier="STARTER", billing_cycle="YEARLY")
    assert (planned["current_step"], planned["payment_status"], planned["amount_cents"]) == (3, "PENDING", 299000)
    (intent,) = stripe.at_stripe("payment_intent")
    assert intent["status"] == "canceled"
    with pytest.raises(Exception, match="status of canceled"):
        stripe.double.pay(first["client_secret"])
    second = stripe.paid(customer)
    assert second["client_secret"] != first["client_secret"]
    assert customer.done("complete")["tier"] == "STARTER"
    assert stripe.made() == ONE
    assert sorted(each["status"] for each in stripe.at_stripe("subscription")) == ["active", "canceled"]
    assert stripe.refunds() == []


def test_the_same_plan_again_keeps_the_payment(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    first = customer.done("pay")
    customer.done("update", step=1, name="Initech Ltd")
    customer.done("update", step=2, tier="GROWTH", billing_cycle="MONTHLY")
    assert customer.done("pay")["client_secret"] == first["client_secret"]
    assert len(stripe.at_stripe("subscription")) == 1


def test_paid_plan_cannot_change(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    # No webhook has arrived; the change fetches the payment, and a paid session completes.
    refused(customer.call("update", step=2, tier="ELITE", billing_cycle="MONTHLY"), 409, "PT409")
    assert customer.done("get")["is_completed"]
    assert stripe.made() == ONE
    assert stripe.refunds() == []


def test_free_after_all_lets_go_of_the_payment(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    customer.done("pay")
    customer.done("update", step=2, tier="FREE", billing_cycle="MONTHLY")
    assert customer.done("complete")["tier"] == "FREE"
    assert [each["status"] for each in stripe.at_stripe("payment_intent")] == ["canceled"]


def test_replaced_payment_that_succeeds_is_refunded(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    first = customer.done("pay")
    stripe.double.fail("500", times=9, path="invoices")
    customer.done("update", step=2, tier="ELITE", billing_cycle="MONTHLY")
    stripe.double.faults.clear()
    stripe.double.pay(first["client_secret"])
    stripe.paid(customer)
    assert customer.done("complete")["tier"] == "ELITE"
    (due,) = stripe.refunds()
    assert (due["status"], due["reason"], due["amount_cents"], due["currency"]) == ("DUE", "REPLACED", 69900, "usd")
    assert stripe.job()["refunded"] == 1
    (given,) = stripe.refunds()
    (refund,) = stripe.at_stripe("refund")
    assert (given["status"], given["stripe_refund_id"], refund["amount"]) == ("REFUNDED", refund["id"], 69900)
    assert stripe.made() == ONE
    assert sorted((each["metadata"]["tier"], each["status"]) for each in stripe.at_stripe("subscription")) == [
        ("ELITE", "active"),
        ("GROWTH", "canceled"),
    ]
    assert stripe.job()["refunded"] == 0


# What is not believed


def tampered(stripe: Shop, kind: str, **changes: object) -> None:
    """An object at Stripe differs from the offer."""
    with stripe.double.store.change():
        (thing,) = stripe.at_stripe(kind)
        stripe.double.account.change(thing, None, **changes)


def meddle(account: Account, stripe: Shop, what: str) -> None:
    (subscription,) = stripe.at_stripe("subscription")
    (item,) = subscription["items"]["data"]
    cheaper = next(each for each in stripe.at_stripe("price") if each["unit_amount"] == 29900)
    changes: dict[str, Row] = {
        "a lower price": {"items": {**subscription["items"], "data": [{**item, "price": cheaper}]}},
        "two of them": {"items": {**subscription["items"], "data": [{**item, "quantity": 2}]}},
        "another session's metadata": {
            "metadata": {**subscription["metadata"], "onboarding_session": str(PEOPLE["owner"])}
        },
        "another attempt": {"metadata": {**subscription["metadata"], "onboarding_attempt": "7"}},
        "another tier": {"metadata": {**subscription["metadata"], "tier": "STARTER"}},
        "another customer": {"customer": "cus_of_somebody_else"},
    }
    with stripe.double.store.change():
        account.change(subscription, None, **changes[what])


@pytest.mark.parametrize(
    "what",
    [
        "a lower price",
        "two of them",
        "another session's metadata",
        "another attempt",
        "another tier",
        "another customer",
    ],
)
def test_attack_complete_with_a_different_subscription(stripe: Shop, what: str) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    meddle(stripe.double.account, stripe, what)
    refused(customer.call("complete"), 409, "payment_differs")
    assert stripe.made() == NONE
    (due,) = stripe.refunds()
    assert (due["status"], due["reason"]) == ("TO_DECIDE", "MISMATCH")
    assert due["error"]
    refused(customer.call("complete"), 409, "payment_differs")
    assert len(stripe.refunds()) == 1


@pytest.mark.parametrize("changes", [{"amount_received": 100}, {"currency": "jpy"}])
def test_attack_complete_with_a_lower_amount_or_another_currency(stripe: Shop, changes: Row) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    tampered(stripe, "payment_intent", **changes)
    refused(customer.call("complete"), 409, "payment_differs")
    assert stripe.made() == NONE
    (due,) = stripe.refunds()
    assert due["status"] == "TO_DECIDE"


def test_attack_complete_with_another_sessions_payment(stripe: Shop) -> None:
    paid = stripe.customer("globex_owner", "GROWTH")
    stripe.paid(paid)
    unpaid = stripe.customer("outsider", "GROWTH")
    unpaid.done("pay")
    ids = stripe.look("select stripe_subscription_id as id from public.onboarding_sessions order by created_at")
    # As if an attacker had the ids of another session.
    with pytest.raises(Exception, match="stripe_subscription_id"):
        stripe.write(
            "update public.onboarding_sessions set stripe_subscription_id = %s where user_id = %s",
            ids[0]["id"],
            PEOPLE["outsider"],
        )
    refused(unpaid.call("complete"), 409, "payment_not_done")
    assert stripe.made() == NONE
    assert paid.done("complete")["is_completed"]


def test_attack_complete_before_paying(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "ELITE")
    refused(customer.call("complete"), 409, "PT409")
    customer.done("pay")
    refused(customer.call("complete"), 409, "payment_not_done")
    assert stripe.made() == NONE


def test_wrong_stripe_price_is_detected_before_payment(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.write("update public.plans set amount_cents = 59900 where tier = 'GROWTH' and billing_cycle = 'MONTHLY'")
    try:
        refusal = refused(customer.call("pay"), 503, "price_differs")
        assert "the amount is 69900, not 59900" in refusal.json()["details"]
    finally:
        stripe.write("update public.plans set amount_cents = 69900 where tier = 'GROWTH' and billing_cycle = 'MONTHLY'")
    (intent,) = stripe.at_stripe("payment_intent")
    assert intent["status"] == "canceled"
    stripe.paid(customer)
    assert customer.done("complete")["amount_cents"] == 69900


# The browser is closed, the session has expired


def record(stripe: Shop) -> None:
    """Record every finished payment, as the webhook does."""
    for intent in stripe.at_stripe("payment_intent"):
        if intent["status"] in {"succeeded", "canceled"}:
            parsed = parse_object(intent)
            assert parsed
            fetched = {"payment_intent_id": intent["id"], "payment_intent": parsed["state"]}
            stripe.write("select private.record_onboarding_payment(%s)", Jsonb(fetched))


def test_closed_browser_after_payment_completes_the_session(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    record(stripe)
    assert stripe.made() == ONE
    record(stripe)
    assert customer.done("complete") == customer.done("get")
    assert stripe.made() == ONE


def test_payment_after_expiry_completes_the_session(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    started = customer.done("pay")
    stripe.expire()
    refused(customer.call("complete"), 410, "session_expired")
    stripe.double.pay(started["client_secret"])
    assert customer.done("complete")["is_completed"]
    assert stripe.made() == ONE


def test_anonymous_payment_waits_for_the_session_token(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    record(stripe)
    assert stripe.made() == NONE
    stripe.expire()
    assert stripe.job()["refunded"] == 0
    (due,) = stripe.refunds()
    assert (due["reason"], due["status"], (due["refund_after"] - due["created_at"]).days) == ("UNCLAIMED", "DUE", 6)
    assert anonymous.done("get")["refund"] == "DUE"
    assert anonymous.signed_in("outsider").done("complete")["refund"] is None
    (withdrawn,) = stripe.refunds()
    assert withdrawn["status"] == "WITHDRAWN"
    stripe.write("update public.refunds_due set refund_after = now()")
    assert stripe.job()["refunded"] == 0
    assert stripe.at_stripe("refund") == []


def test_unclaimed_payment_is_refunded(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    record(stripe)
    stripe.expire()
    stripe.job()
    stripe.write("update public.refunds_due set refund_after = now()")
    assert stripe.job()["refunded"] == 1
    (refund,) = stripe.at_stripe("refund")
    assert refund["amount"] == 69900
    assert [each["status"] for each in stripe.at_stripe("subscription")] == ["canceled"]
    refused(anonymous.signed_in("outsider").call("complete"), 410, "payment_refunded")
    assert anonymous.signed_in("outsider").done("get")["refund"] == "REFUNDED"
    assert stripe.made() == NONE


def test_expired_session_cancels_its_payment(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    started = customer.done("pay")
    stripe.expire()
    done = stripe.job()
    assert (done["expired"], done["cancelled"], done["undone"]) == (1, 1, 0)
    with pytest.raises(Exception, match="status of canceled"):
        stripe.double.pay(started["client_secret"])
    assert stripe.job()["cancelled"] == 0
    refused(customer.call("pay"), 410, "PT410")


def test_job_completes_a_paid_session(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    stripe.expire()
    assert stripe.job()["cancelled"] == 1
    assert customer.done("get")["is_completed"]
    assert [each["status"] for each in stripe.at_stripe("subscription")] == ["active"]
    assert stripe.refunds() == []


def test_subscription_cancelled_before_completion_is_refunded(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    tampered(stripe, "subscription", status="canceled")
    refused(customer.call("complete"), 410, "payment_refunded")
    (due,) = stripe.refunds()
    assert due["reason"] == "ENDED"


def test_payment_refunded_at_stripe_creates_no_organization(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    tampered(stripe, "charge", amount_refunded=69900, refunded=True)
    refused(anonymous.signed_in("outsider").call("complete"), 410, "payment_refunded")
    assert stripe.made() == NONE
    assert stripe.job()["refunded"] == 1
    assert [(due["status"], due["reason"]) for due in stripe.refunds()] == [("REFUNDED", "ENDED")]
    assert stripe.at_stripe("refund") == []
    assert [each["status"] for each in stripe.at_stripe("subscription")] == ["canceled"]


def test_expired_incomplete_subscription_is_cancelled(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    customer.done("pay")
    tampered(stripe, "payment_intent", status="canceled")
    refusal = refused(customer.call("complete"), 409, "payment_not_done")
    assert refusal.json()["details"] == {"payment_status": "CANCELLED"}
    refused(customer.call("pay"), 409, "PT409")


# Refunds and people


def test_platform_admin_resolves_a_differing_payment(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    tampered(stripe, "payment_intent", currency="eur")
    refused(customer.call("complete"), 409, "payment_differs")
    assert stripe.job()["refunded"] == 0
    (due,) = stripe.refunds()
    with stripe.database.acting_as("owner") as cursor:
        assert cursor.execute("select from public.refunds_due").rowcount == 0
        with pytest.raises(Exception, match="Only platform admins"):
            cursor.execute("select public.decide_refund(%s, true)", [due["id"]])
    with stripe.database.acting_as("platform_admin", commit=True) as cursor:
        (seen,) = cursor.execute("select reason, error from public.refunds_due").fetchall()
        assert seen == {"reason": "MISMATCH", "error": "the currency is eur, not usd"}
        cursor.execute("select public.decide_refund(%s, true)", [due["id"]])
    assert stripe.job()["refunded"] == 1
    (logged,) = stripe.look("select admin_id from public.admin_action_logs where target_id = %s", str(due["id"]))
    assert logged["admin_id"] == PEOPLE["platform_admin"]


def test_concurrent_refund_runs_refund_once(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    record(stripe)
    stripe.expire()
    stripe.job()
    stripe.write("update public.refunds_due set refund_after = now()")
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: stripe.job(), range(4)))
    assert sum(run["refunded"] for run in runs if run) == 1
    assert len(stripe.at_stripe("refund")) == 1


def test_manual_refund_is_not_repeated(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    record(stripe)
    stripe.expire()
    stripe.job()
    stripe.write("update public.refunds_due set refund_after = now()")
    tampered(stripe, "charge", amount_refunded=69900, refunded=True)
    stripe.job()
    (due,) = stripe.refunds()
    assert (due["status"], due["stripe_refund_id"]) == ("REFUNDED", None)


# Promotion codes and tax


@pytest.fixture
def generous(stripe: Shop) -> Iterator[Shop]:
    """The same shop, with promotion codes and automatic tax."""
    stripe.double.tax(19)
    more = {"STRIPE_PROMOTION_CODES": "true", "STRIPE_AUTOMATIC_TAX": "true"}
    with serving(stripe.folder, {**stripe.variables, **more}) as functions:
        yield Shop(functions, stripe.database, stripe.double, stripe.folder, stripe.variables)
    stripe.double.tax(None)


def test_promotion_code_and_tax_keep_the_offer_valid(generous: Shop) -> None:
    client = client_of(generous.double).v1
    coupon = client.coupons.create({"percent_off": 50, "duration": "once"})
    client.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "HALF"})
    customer = generous.customer("outsider", "GROWTH")
    refused(customer.call("pay"), 422, "country_required")
    refused(customer.call("pay", country="DE", promotion_code="NONE"), 422, "unknown_promotion_code")
    first = customer.done("pay", country="DE")
    started = customer.done("pay", country="DE", promotion_code="HALF")
    assert started["client_secret"] != first["client_secret"]
    generous.double.pay(started["client_secret"])
    assert customer.done("complete")["amount_cents"] == 69_900
    (paid,) = generous.look("select paid_cents from private.onboarding_payments where paid_cents > 0")
    assert paid["paid_cents"] == 34_950 + 6_641
    assert generous.refunds() == []
    opened.pop().close()
