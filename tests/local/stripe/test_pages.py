"""The pages of the double over HTTP."""

import re
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from local import StackError
from local.commands.stripe import clock
from local.stripe.server import Double
from tests.support.lives import Life
from tests.support.serving import NO_TLS
from tests.support.stripe_shop import Shop, intent_of, stripe_error


def page(double: Double, address: str, /, **form: str) -> str:
    """A page as text; with a form, the response to it."""
    path = address.removeprefix(double.url)
    with httpx.Client(base_url=double.url, verify=NO_TLS) as browser:
        answer = browser.post(path, data=form) if form else browser.get(path)
        return answer.text


def test_payment_is_paid_by_hand(shop: Shop) -> None:
    made = shop.subscribe()
    (link,) = re.findall(r'href="(/pay/[^"]+)"', page(shop.double, "/"))
    assert "699.00 USD" in page(shop.double, link)
    assert "Your card was declined." in page(shop.double, link, card="4000000000000002")
    assert "Complete" in page(shop.double, link, card="4000000000003220")
    assert "Paid." in page(shop.double, link, bank="yes")
    assert shop.subscription(made.id).status == "active"
    assert link not in page(shop.double, "/")


def test_attack_guessed_secret_of_a_payment_page(shop: Shop) -> None:
    intent = intent_of(shop.subscribe())
    assert "No such" in page(shop.double, f"/pay/{intent}_secret_0")
    assert "No such" in page(shop.double, f"/pay/{intent}_secret_0", card="4242424242424242")


def test_attack_form_from_another_website(shop: Shop) -> None:
    headers = {"sec-fetch-site": "cross-site"}
    answer = httpx.post(f"{shop.double.url}/", data={"seconds": "86400"}, headers=headers, verify=NO_TLS)
    assert answer.status_code == 403


def test_form_without_card_is_refused(shop: Shop) -> None:
    secret = shop.subscribe().latest_invoice.confirmation_secret.client_secret
    answer = httpx.post(f"{shop.double.url}/pay/{secret}", data={"colour": "red"}, verify=NO_TLS)
    assert (answer.status_code, "The form lacks: card." in answer.text) == (400, True)


def test_email_is_escaped_on_pages(shop: Shop) -> None:
    customer = shop.double.account.get("customer", shop.customer)
    shop.double.account.change(customer, None, email="<script>alert(1)</script>")
    shop.subscribe()
    assert "<script>" not in page(shop.double, "/")


def test_portal_cancels_by_cancel_at_alone(shop: Shop) -> None:
    made = shop.active()
    session = shop.client.v1.billing_portal.sessions.create(
        {"customer": shop.customer, "return_url": "https://app.test/plan"}
    )
    assert 'href="https://app.test/plan"' in page(shop.double, session.url)
    page(shop.double, session.url, subscription=made.id, action="cancel")
    cancelled = shop.subscription(made.id)
    assert (cancelled.cancel_at, cancelled.cancel_at_period_end) == (made["items"].data[0].current_period_end, False)
    assert page(shop.double, session.url, subscription=made.id, action="resume")
    assert shop.subscription(made.id).cancel_at is None
    page(shop.double, session.url, card="4000000000000341")
    page(shop.double, "/", seconds=str(32 * 86400))
    assert shop.subscription(made.id).status == "past_due"


def test_checkout_page_creates_the_subscription(shop: Shop) -> None:
    made = shop.client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "line_items": [{"price": shop.price, "quantity": 1}],
            "customer": shop.customer,
            "client_reference_id": "ours",
            "success_url": "https://app.test/?session={CHECKOUT_SESSION_ID}",
        }
    )
    assert made.subscription is None
    assert f"https://app.test/?session={made.id}" in page(shop.double, made.url, card="4242424242424242")
    paid = shop.client.v1.checkout.sessions.retrieve(made.id)
    assert (paid.status, paid.payment_status, paid.client_reference_id) == ("complete", "paid", "ours")
    assert shop.subscription(paid.subscription).status == "active"
    assert "checkout.session.completed" in shop.events()


def test_control_accepts_json(shop: Shop) -> None:
    orders = {"mischief": {"seed": 1, "drop": 1}, "lag": 60, "advance": {"days": 1}, "fail": {"how": "429"}}
    assert httpx.post(f"{shop.double.url}/control", json=orders, verify=NO_TLS).status_code == 200
    with pytest.raises(stripe_error.RateLimitError):
        shop.client.v1.customers.list()
    assert httpx.post(f"{shop.double.url}/control", json={"colour": "red"}, verify=NO_TLS).status_code == 400


def test_portal_changes_the_plan_and_the_seats(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    session = shop.client.v1.billing_portal.sessions.create({"customer": life.customer})
    assert "6,990.00 USD / year" in page(shop.double, session.url)
    page(shop.double, session.url, subscription=life.subscription, action="change", price=shop.yearly, quantity="2")
    assert (life.prices(), life.item().quantity, life.latest().status) == ([shop.yearly], 2, "paid")


def test_portal_keeps_the_reason_of_a_cancellation(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    session = shop.client.v1.billing_portal.sessions.create({"customer": life.customer})
    answers = {"feedback": "too_expensive", "comment": "No budget"}
    page(shop.double, session.url, subscription=life.subscription, action="cancel", **answers)
    details = life.current().cancellation_details
    assert (details.reason, details.feedback, details.comment) == ("cancellation_requested", *answers.values())


def test_portal_shows_what_its_configuration_allows(shop: Shop) -> None:
    features: Any = {"features": {"invoice_history": {"enabled": True}}}
    only_invoices = shop.client.v1.billing_portal.configurations.create(features).id
    life = Life.begin(shop.double, shop.client).subscribe(shop.price)
    wanted: Any = {"customer": life.customer, "configuration": only_invoices}
    session = shop.client.v1.billing_portal.sessions.create(wanted)
    shown = page(shop.double, session.url)
    assert life.latest().number in shown
    assert "Cancel the plan" not in shown
    assert "does not cancel" in page(shop.double, session.url, subscription=life.subscription, action="cancel")


def test_invoice_is_paid_on_its_page_and_printed(shop: Shop) -> None:
    life = Life.begin(shop.double, shop.client).subscribe(shop.price).fail().renew()
    invoice = life.latest()
    assert "Pay 699.00 USD" in page(shop.double, invoice.hosted_invoice_url)
    assert "Paid on" in page(shop.double, invoice.hosted_invoice_url, card="4242424242424242")
    assert life.status() == "active"
    printed = httpx.get(invoice.invoice_pdf, verify=NO_TLS)
    assert (printed.headers["content-type"], printed.content[:5]) == ("application/pdf", b"%PDF-")
    assert invoice.number.encode() in printed.content


def test_yen_have_no_decimals_on_pages(shop: Shop) -> None:
    shop.client.v1.payment_intents.create({"amount": 5_000, "currency": "jpy"})
    assert "5,000 JPY" in page(shop.double, "/")


def test_clock_command_moves_time_forward_only(shop: Shop) -> None:
    stack: Any = SimpleNamespace(ports=SimpleNamespace(stripe=1), values=lambda: {"STRIPE_API_BASE": shop.double.url})
    before = shop.double.account.now()
    assert shop.double.url in clock(stack, 31)
    assert shop.double.account.now() - before >= 31 * 86_400
    with pytest.raises(StackError, match="only moves forward"):
        clock(stack, -1)
    stack.ports.stripe = 0
    with pytest.raises(StackError, match="no Stripe double"):
        clock(stack, 1)
