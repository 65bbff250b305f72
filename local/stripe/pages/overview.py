"""The first page: the clock, and the newest objects of each kind."""

from html import escape
from typing import TYPE_CHECKING

from local.stripe import payments
from local.stripe.endings import period_end
from local.stripe.gateway import Response
from local.stripe.pages.html import amount, day, form, link, moment, newest, page, section, state, table
from local.stripe.store import Object

if TYPE_CHECKING:
    from local.stripe.server import Double

STEPS = {"86400": "1 day later", "604800": "7 days later", "2678400": "31 days later", "31622400": "366 days later"}


def show(double: "Double", _place: str) -> Response:
    store = double.store
    buttons = "".join(f'<button name="seconds" value="{step}">{words}</button> ' for step, words in STEPS.items())
    body = "<p>This is a local double of Stripe. No money moves.</p>"
    body += section(f"It is {moment(double.account.now())} UTC", form(buttons))
    body += section("Payments", table([_payment(double, each) for each in newest(store.all("payment_intent"))]))
    body += section(
        "Checkout sessions", table([_session(double, each) for each in newest(store.all("checkout.session"))])
    )
    body += section("Subscriptions", table([_subscription(double, each) for each in newest(store.all("subscription"))]))
    body += section("Invoices", table([_invoice(double, each) for each in newest(store.all("invoice"))]))
    codes = [
        [escape(each["code"]), escape(each["promotion"]["coupon"]), state("active" if each["active"] else "inactive")]
        for each in newest(store.all("promotion_code"))
    ]
    body += section("Promotion codes", table(codes))
    body += section(
        "Test clocks",
        table(
            [
                [escape(each["name"] or each["id"]), moment(each["frozen_time"]), state(each["status"])]
                for each in newest(store.all("test_helpers.test_clock"))
                if not each.get("deleted")
            ]
        ),
    )
    body += section("Events", table([_event(double, each) for each in newest(store.all("event"))]))
    return page("Stripe double", body)


def act(double: "Double", _place: str, given: dict[str, str]) -> None:
    double.advance(seconds=int(given["seconds"]))


def email(double: "Double", customer: str | None) -> str:
    found = double.store.get(customer) if customer else None
    return escape(str((found and found.get("email")) or customer or ""))


def _payment(double: "Double", intent: Object) -> list[str]:
    pays = link(f"/pay/{intent['client_secret']}", "pay") if intent["status"] in payments.OPEN else ""
    return [
        amount(intent["amount"], intent["currency"]),
        email(double, intent["customer"]),
        state(intent["status"]),
        pays,
    ]


def _session(double: "Double", session: Object) -> list[str]:
    who = session["customer_email"] or (session["customer"] and email(double, session["customer"])) or ""
    words = link(f"/checkout/{session['id']}", session["id"][:16] + "…")
    return [words, escape(session["mode"]), escape(who), state(session["status"])]


def _subscription(double: "Double", subscription: Object) -> list[str]:
    names = [item["price"]["lookup_key"] or item["price"]["id"] for item in subscription["items"]["data"]]
    until = subscription["cancel_at"] or period_end(subscription)
    words = "ends" if subscription["cancel_at"] else "until"
    return [
        escape(", ".join(names)),
        email(double, subscription["customer"]),
        state(subscription["status"]),
        f"{words} {day(until)}",
    ]


def _invoice(double: "Double", invoice: Object) -> list[str]:
    words = link(f"/invoice/{invoice['id']}", invoice["number"] or "draft")
    return [
        words,
        email(double, invoice["customer"]),
        amount(invoice["total"], invoice["currency"]),
        state(invoice["status"]),
    ]


def _event(double: "Double", event: Object) -> list[str]:
    waits = double.store.pending_deliveries(event["id"])
    delivered = f'<span class="bad">{waits} not delivered yet</span>' if waits else "delivered"
    return [moment(event["created"]), escape(event["type"]), delivered]
