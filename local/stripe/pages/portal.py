"""The billing portal: plans, cancellation, cards and invoices of one customer."""

from html import escape
from typing import TYPE_CHECKING

from local.stripe import portal
from local.stripe.endings import period_end
from local.stripe.gateway import Response
from local.stripe.pages.html import (
    amount,
    cards,
    choice,
    chosen_card,
    day,
    field,
    form,
    hidden,
    link,
    newest,
    page,
    section,
    state,
    table,
)
from local.stripe.prices import described
from local.stripe.store import Object

if TYPE_CHECKING:
    from local.stripe.server import Double

REASONS = {
    "": "No reason",
    "too_expensive": "Too expensive",
    "missing_features": "Missing features",
    "unused": "Not used",
    "switched_service": "Switched to another service",
    "low_quality": "Low quality",
    "other": "Other",
}


def show(double: "Double", name: str) -> Response:
    account = double.account
    session = account.get("billing_portal.session", name)
    features = account.get("billing_portal.configuration", session["configuration"])["features"]
    customer = account.get("customer", session["customer"])
    body = f"<p>{escape(customer['email'] or customer['id'])}</p>"
    for each in portal.subscriptions_of(account, customer["id"]):
        body += section(_title(double, each), _plan(double, session, each, features))
    if features["payment_method_update"]["enabled"]:
        body += section("Pay by another card", _cards_of(double, customer) + form(cards(), save="save|Save the card"))
    if features["invoice_history"]["enabled"]:
        mine = [each for each in double.store.of("invoice", customer["id"]) if each["number"]]
        rows = [
            [
                link(f"/invoice/{each['id']}", each["number"]),
                day(each["created"]),
                amount(each["total"], each["currency"]),
                state(each["status"]),
                link(f"/invoice/{each['id']}/pdf", "PDF"),
            ]
            for each in newest(mine)
        ]
        body += section("Invoices", table(rows))
    back = link(session["return_url"], "Back") if session["return_url"] else ""
    return page("Billing", body + back)


def _title(double: "Double", subscription: Object) -> str:
    return ", ".join(
        described(double.account, item["price"], item["quantity"]) for item in subscription["items"]["data"]
    )


def _plan(double: "Double", session: Object, subscription: Object, features: Object) -> str:
    until, name = subscription["cancel_at"] or period_end(subscription), subscription["id"]
    words = "Ends" if subscription["cancel_at"] else "Trial until" if subscription["status"] == "trialing" else "Renews"
    body = f"<p>{state(subscription['status'])} {words} {day(until)}</p>"
    own = hidden("subscription", name)
    if features["subscription_update"]["enabled"] and not subscription["schedule"]:
        item = subscription["items"]["data"][0]
        options = {
            price["id"]: described(double.account, price, 1)[4:]
            for price in portal.plans(double.account, session, subscription)
        }
        if options:
            fields = choice("price", "Plan", options, item["price"]["id"])
            fields += field("quantity", "Quantity", str(item["quantity"]), "number", 'min="1"')
            body += form(own + fields, action="change|Change the plan")
    if subscription["cancel_at"]:
        body += form(own, action="resume|Keep the plan")
    elif features["subscription_cancel"]["enabled"] and not subscription["schedule"]:
        fields = choice("feedback", "Reason", REASONS) + field("comment", "Comment")
        body += form(own + fields, action="cancel|Cancel the plan")
    return body


def _cards_of(double: "Double", customer: Object) -> str:
    default = customer["invoice_settings"]["default_payment_method"]
    rows = [
        [
            escape(f"{each['card']['brand']} … {each['card']['last4']}"),
            f"{each['card']['exp_month']:02}/{each['card']['exp_year']}",
            state("default") if each["id"] == default else "",
        ]
        for each in double.store.of("payment_method", customer["id"])
    ]
    return table(rows)


def act(double: "Double", name: str, given: dict[str, str]) -> None:
    account = double.account
    session = account.get("billing_portal.session", name)
    with double.store.change(), account.clock_of(session["customer"]):
        if "action" not in given:
            portal.use_card(account, session["customer"], chosen_card(given))
            return
        for each in portal.subscriptions_of(account, session["customer"]):
            if each["id"] != given["subscription"]:
                continue
            match given["action"]:
                case "cancel":
                    portal.cancel_plan(account, session, each, given.get("feedback", ""), given.get("comment", ""))
                case "resume":
                    portal.keep_plan(account, each)
                case "change":
                    quantity = given.get("quantity", "1")
                    portal.change_plan(
                        account, session, each, given["price"], int(quantity) if quantity.isdecimal() else 1
                    )
