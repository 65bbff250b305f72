"""Onboarding with crashes of the process, the connection and Stripe: a retry continues without loss."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.support.onboarding import Customer
from tests.support.paying import NONE, ONE, Shop, shop, sweep
from tests.support.responses import refused
from tests.support.world import Database

SLEEPY = """
create function private.sleepy() returns trigger language plpgsql as 'begin perform pg_sleep(30); return null; end';
create trigger sleepy after insert or update on {table} for each row execute function private.sleepy();
"""


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


@contextmanager
def sleeping_after(stripe: Shop, table: str) -> Iterator[None]:
    """Every write to the table sleeps before its commit."""
    stripe.write(SLEEPY.format(table=table))
    try:
        yield
    finally:
        stripe.write(f"drop trigger sleepy on {table}; drop function private.sleepy()")


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def killed(stripe: Shop, customer: Customer, verb: str, when: Callable[[], object]) -> None:
    """Send the request to a separate process, and kill it at the given moment."""
    function = {"pay": "start_onboarding_payment", "complete": "complete_onboarding_session"}[verb]
    with stripe.serve(function) as doomed:
        caller = Customer(doomed.functions, customer.person, customer.token)

        def send() -> None:
            with pytest.raises(httpx.HTTPError):
                caller.call(verb)

        thread = threading.Thread(target=send)
        thread.start()
        until(when)
        doomed.functions.process.send_signal(signal.SIGKILL)
        thread.join()


def asleep(stripe: Shop) -> list[int]:
    return [row["pid"] for row in stripe.look("select pid from pg_stat_activity where wait_event = 'PgSleep'")]


def end_backends(stripe: Shop) -> None:
    """The database notices the lost client and rolls back its transaction."""
    for pid in asleep(stripe):
        stripe.look("select pg_terminate_backend(%s)", pid)
    until(lambda: not asleep(stripe))


def completes(stripe: Shop, customer: Customer) -> None:
    """After a retry there is one subscription, one payment and one organization."""
    stripe.paid(customer)
    assert customer.done("complete")["is_completed"]
    assert stripe.made() == ONE
    assert [each["status"] for each in stripe.at_stripe("subscription")] == ["active"]
    assert stripe.refunds() == []


def test_killed_while_the_payment_is_written_down(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    with sleeping_after(stripe, "private.onboarding_payments"):
        killed(stripe, customer, "pay", lambda: asleep(stripe))
        end_backends(stripe)
    assert stripe.look("select from private.onboarding_payments") == []
    completes(stripe, customer)


def test_crash_before_the_request_to_stripe(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.double.fail("slow", path="customers", seconds=1)
    killed(stripe, customer, "pay", lambda: stripe.look("select from private.onboarding_payments"))
    completes(stripe, customer)


@pytest.mark.parametrize("kind", ["customer", "subscription"])
def test_crash_before_saving_the_subscription_id(stripe: Shop, kind: str) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.double.fail("slow", path="payment_intents" if kind == "subscription" else "subscriptions", seconds=1)
    killed(stripe, customer, "pay", lambda: stripe.at_stripe(kind))
    (payment,) = stripe.look("select stripe_customer_id, stripe_subscription_id from private.onboarding_payments")
    assert set(payment.values()) == {None}
    completes(stripe, customer)


def test_crash_before_saving_the_subscription_then_another_plan(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "ELITE")
    stripe.double.fail("slow", path="payment_intents", seconds=1)
    killed(stripe, customer, "pay", lambda: stripe.at_stripe("subscription"))
    customer.done("update", step=2, tier="STARTER", billing_cycle="MONTHLY")
    stripe.paid(customer)
    assert customer.done("complete")["tier"] == "STARTER"
    found = sorted((each["metadata"]["tier"], each["status"]) for each in stripe.at_stripe("subscription"))
    assert found == [("ELITE", "canceled"), ("STARTER", "active")]
    assert stripe.made() == ONE


def test_killed_while_completing(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    with sleeping_after(stripe, "public.organization_members"):
        killed(stripe, customer, "complete", lambda: asleep(stripe))
        end_backends(stripe)
    assert stripe.made() == NONE
    assert customer.done("complete")["is_completed"]
    assert stripe.made() == ONE


def test_killed_after_completing_before_the_answer(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.paid(customer)
    completed = customer.done("complete")
    # As if that answer had never arrived.
    assert customer.done("complete") == completed
    assert stripe.made() == ONE


def test_killed_while_a_refund_is_issued(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    stripe.write(
        "select private.record_onboarding_payment(jsonb_build_object('payment_intent_id', stripe_payment_intent_id,"
        " 'payment_intent', '{\"status\": \"succeeded\"}'::jsonb)) from private.onboarding_payments"
    )
    stripe.expire()
    stripe.job()
    stripe.write("update public.refunds_due set refund_after = now()")
    stripe.double.fail("timeout", times=3, after=True, path="refunds")
    assert stripe.job()["undone"] == 1
    (due,) = stripe.refunds()
    assert (due["status"], len(stripe.at_stripe("refund"))) == ("ISSUING", 1)
    refused(anonymous.signed_in("outsider").call("complete"), 410, "payment_refunded")
    stripe.write("alter table public.refunds_due disable trigger touch")
    stripe.write("update public.refunds_due set updated_at = now() - interval '6 minutes'")
    stripe.write("alter table public.refunds_due enable trigger touch")
    assert stripe.job()["refunded"] == 1
    (given,) = stripe.refunds()
    (refund,) = stripe.at_stripe("refund")
    assert (given["status"], given["stripe_refund_id"]) == ("REFUNDED", refund["id"])


# Stripe is not well


@pytest.mark.parametrize("path", ["customers", "subscriptions", "payment_intents"])
@pytest.mark.parametrize("how", ["429", "500", "timeout"])
def test_unresponsive_stripe_is_503_and_loses_no_data(stripe: Shop, how: str, path: str) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.double.fail(how, times=3, path=path)
    refusal = customer.call("pay")
    assert refusal.status_code == 503, refusal.text
    assert refusal.headers["retry-after"]
    stripe.double.faults.clear()
    completes(stripe, customer)


@pytest.mark.parametrize("path", ["customers", "subscriptions"])
@pytest.mark.parametrize("how", ["500", "timeout"])
def test_lost_stripe_response_creates_one_subscription(stripe: Shop, how: str, path: str) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    stripe.double.fail(how, after=True, path=path)
    first = customer.call("pay")
    assert first.status_code in {200, 503}
    stripe.double.faults.clear()
    completes(stripe, customer)


def test_unavailable_stripe_during_completion_is_503_then_completes(stripe: Shop) -> None:
    anonymous = stripe.customer(None, "GROWTH")
    stripe.paid(anonymous)
    customer = anonymous.signed_in("outsider")
    stripe.double.fail("500", times=9)
    refused(customer.call("complete"), 503, "stripe_unavailable")
    stripe.double.faults.clear()
    # The customer does not return, but is known by now: the next event of Stripe completes the session.
    stripe.write(
        "select private.record_onboarding_payment(jsonb_build_object('payment_intent_id', stripe_payment_intent_id,"
        " 'payment_intent', '{\"status\": \"succeeded\"}'::jsonb)) from private.onboarding_payments"
    )
    assert stripe.made() == ONE
    assert customer.done("get")["is_completed"]


def test_unavailable_stripe_does_not_block_another_plan(stripe: Shop) -> None:
    customer = stripe.customer("outsider", "GROWTH")
    customer.done("pay")
    stripe.double.fail("500", times=9)
    refused(customer.call("update", step=2, tier="ELITE", billing_cycle="MONTHLY"), 503, "stripe_unavailable")
    assert customer.done("get")["tier"] == "GROWTH"
    stripe.double.faults.clear()
    assert customer.done("update", step=2, tier="ELITE", billing_cycle="MONTHLY")["tier"] == "ELITE"


def test_webhook_and_customer_complete_concurrently(stripe: Shop) -> None:
    for _ in range(5):
        customer = stripe.customer("outsider", "GROWTH")
        stripe.paid(customer)
        word = (
            "select private.record_onboarding_payment(jsonb_build_object('payment_intent_id',"
            " p.stripe_payment_intent_id, 'payment_intent', '{\"status\": \"succeeded\"}'::jsonb))"
            " from private.onboarding_payments p join public.onboarding_sessions s on s.id = p.session_id"
            " where not s.is_completed"
        )
        with ThreadPoolExecutor(8) as pool:
            words = [pool.submit(stripe.write, word) for _ in range(4)]
            answers = [pool.submit(customer.call, "complete") for _ in range(4)]
        assert [each.result().status_code for each in answers] == [200] * 4
        for each in words:
            each.result()
        assert stripe.made() == ONE
        sweep(stripe.database)
