"""What a person clicks on: everything there is, a page to pay on, a checkout, a customer portal, and time itself."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from local.stripe import billing, checkout, payments
from local.stripe.account import Refused
from local.stripe.forms import Answer
from local.stripe.store import Object

if TYPE_CHECKING:
    from local.stripe.server import Double

PAGE = Path(__file__).with_name("page.html").read_text()
SHOWN = 15
CARDS = {
    "4242424242424242": "succeeds",
    "4000000000000002": "is declined",
    "4000000000009995": "has insufficient funds",
    "4000000000003220": "asks for 3-D Secure",
    "4000000000000341": "is accepted, and fails when it is charged",
    "4000000000000259": "succeeds, and is disputed",
}
STEPS = {"a day": 86_400, "a week": 7 * 86_400, "31 days": 31 * 86_400}


class _Form(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise Refused(f"The form lacks: {name}.", param=name)


def answer(double: "Double", method: str, path: str, sent: str, headers: Any) -> Answer:
    """Every form answers with the page it came from."""
    if method == "POST" and headers.get("sec-fetch-site") == "cross-site":
        return _page("Not from here", "<p>Another website sent this.</p>", 403)
    if (method, path) == ("POST", "/control"):
        return _control(double, json.loads(sent))
    given = _Form({name: values[0] for name, values in parse_qs(sent).items()})
    for pattern, show, act in PAGES:
        if place := re.fullmatch(pattern, path):
            try:
                if method == "POST":
                    act(double, place[1] if place.re.groups else "", given)
                return show(double, place[1] if place.re.groups else "")
            except Refused as refused:
                return _page("Refused", f'<p class="bad">{escape(str(refused))}</p>', refused.status)
    return _page("No such page", '<p><a href="/">Everything there is</a></p>', 404)


def _control(double: "Double", given: Object) -> Answer:
    """For scripts: what a test does by hand, as {"advance": {"days": 31}, "mischief": {"seed": 1, "drop": 0.05}}."""
    for name, value in given.items():
        match name:
            case "advance":
                double.advance(**value)
            case "fail":
                double.fail(**value)
            case "mischief":
                double.mischief(**value)
            case "lag":
                double.lag(value)
            case _:
                return Answer(400, f"There is no {name}.", kind="text/plain; charset=utf-8")
    return Answer(200, json.dumps({"now": double.account.now()}))


# Everything there is -------------------------------------------------------------------------------------------------


def _overview(double: "Double", _place: str) -> Answer:
    store = double.store
    sections = {
        "Payments": [_payment(double, each) for each in _newest(store.all("payment_intent"))],
        "Checkout sessions": [
            [_link(f"/checkout/{each['id']}", each["id"]), escape(each["mode"]), _state(each["status"])]
            for each in _newest(store.all("checkout.session"))
        ],
        "Subscriptions": [_subscription(double, each) for each in _newest(store.all("subscription"))],
        "Events": [
            [_when(each["created"]), escape(each["type"]), _waiting(store.owed_in_all(each["id"]))]
            for each in _newest(store.all("event"))
        ],
    }
    later = " ".join(f'<button name="seconds" value="{step}">{name} later</button>' for name, step in STEPS.items())
    clock = f'<section><h2>It is {_when(double.account.now())}</h2><form method="post">{later}</form></section>'
    made = "".join(f"<section><h2>{title}</h2>{_table(rows)}</section>" for title, rows in sections.items())
    return _page("A Stripe of your own", "<p>Nothing here is real: no money moves.</p>" + clock + made)


def _later(double: "Double", _place: str, given: dict[str, str]) -> None:
    double.advance(seconds=int(given["seconds"]))


def _payment(double: "Double", intent: Object) -> list[str]:
    open_ = intent["status"] in payments.OPEN
    link = _link(f"/pay/{intent['client_secret']}", "pay") if open_ else ""
    return [_money(intent), escape(_email(double, intent["customer"])), _state(intent["status"]), link]


def _subscription(double: "Double", subscription: Object) -> list[str]:
    item = subscription["items"]["data"][0]
    name = item["price"]["lookup_key"] or item["price"]["id"]
    until = subscription["cancel_at"] or item["current_period_end"]
    ends = "ends" if subscription["cancel_at"] else "until"
    who = escape(_email(double, subscription["customer"]))
    return [escape(name), who, _state(subscription["status"]), f"{ends} {_when(until)}"]


# Paying --------------------------------------------------------------------------------------------------------------


def _pay(double: "Double", secret: str) -> Answer:
    intent = _intent(double, secret)
    said = f"<p>{_money(intent)} for {escape(intent['description'] or 'a payment')} {_state(intent['status'])}</p>"
    if problem := intent["last_payment_error"]:
        said += f'<p class="bad">{escape(problem["message"])}</p>'
    if intent["status"] == "requires_action":
        said += (
            "<p>Your bank asks whether it is you.</p><form method='post'><button name='bank' value='yes'>Complete"
            " authentication</button> <button name='bank' value='no'>Fail authentication</button></form>"
        )
    elif intent["status"] in payments.OPEN:
        said += _cards("Pay")
    elif intent["status"] == "succeeded":
        said += '<p class="good">Paid. The events are on their way to the webhook.</p>'
    return _page("Payment", said + _link("/", "Everything there is"))


def _paid(double: "Double", secret: str, given: dict[str, str]) -> None:
    intent = _intent(double, secret)
    if "bank" in given:
        double.authenticate(intent["id"], succeeds=given["bank"] == "yes")
    else:
        double.pay(intent["id"], given["card"].replace(" ", ""))


def _intent(double: "Double", secret: str) -> Object:
    intent = double.account.get("payment_intent", secret.partition("_secret_")[0])
    if intent["client_secret"] != secret:
        raise Refused("No such payment_intent.", status=404)
    return intent


def _checkout(double: "Double", name: str) -> Answer:
    session = double.account.get("checkout.session", name)
    said = f"<p>{_money(session) if session['currency'] else ''} {_state(session['status'])}</p>"
    if session["status"] == "open":
        said += _cards("Pay and subscribe" if session["mode"] == "subscription" else "Confirm")
    elif session["success_url"] and session["status"] == "complete":
        said += _link(session["success_url"].replace("{CHECKOUT_SESSION_ID}", name), "Back to the shop")
    return _page("Checkout", said)


def _checked_out(double: "Double", name: str, given: dict[str, str]) -> None:
    with double.store.change():
        session = double.account.get("checkout.session", name)
        checkout.complete(double.account, session, given["card"].replace(" ", ""))
    double.deliveries.wake()


# The portal ----------------------------------------------------------------------------------------------------------


def _portal(double: "Double", name: str) -> Answer:
    session = double.account.get("billing_portal.session", name)
    rows = []
    for each in _theirs(double, session):
        action = ("resume", "Do not cancel") if each["cancel_at"] else ("cancel", "Cancel at the end of the period")
        button = f'<form method="post"><input type="hidden" name="subscription" value="{each["id"]}"><button name="action" value="{action[0]}">{action[1]}</button></form>'  # noqa: E501 - one tag
        name, _who, *rest = _subscription(double, each)
        rows.append([name, *rest, button if each["status"] in billing.LIVE else ""])
    customer = double.account.get("customer", session["customer"])
    said = f"<p>{escape(customer['email'] or customer['id'])}</p>{_table(rows)}<h2>Pay by another card</h2>"
    back = _link(session["return_url"], "Back") if session["return_url"] else ""
    return _page("Your plan", said + _cards("Save the card") + back)


def _portal_used(double: "Double", name: str, given: dict[str, str]) -> None:
    account = double.account
    with double.store.change():
        session = account.get("billing_portal.session", name)
        if "card" in given:
            card = payments.method(account, given["card"].replace(" ", ""))
            payments.attach(account, card, session["customer"])
            customer = account.get("customer", session["customer"])
            account.change(customer, "customer.updated", invoice_settings={"default_payment_method": card["id"]})
        for each in _theirs(double, session):
            if "card" in given and each["default_payment_method"]:
                account.change(each, "customer.subscription.updated", default_payment_method=card["id"])
            elif given.get("subscription") == each["id"]:
                cancels = given["action"] == "cancel"
                fields = billing.cancellation(account, each, at_period_end=cancels, by_portal=True)
                account.change(each, "customer.subscription.updated", **fields)
    double.deliveries.wake()


def _theirs(double: "Double", session: Object) -> list[Object]:
    found = double.store.all("subscription")
    return [each for each in found if each["customer"] == session["customer"] and not each["ended_at"]]


# Words ---------------------------------------------------------------------------------------------------------------

PAGES = [
    (r"/", _overview, _later),
    (r"/pay/(\w+)", _pay, _paid),
    (r"/checkout/(\w+)", _checkout, _checked_out),
    (r"/portal/(\w+)", _portal, _portal_used),
]


def _page(title: str, said: str, status: int = 200) -> Answer:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'"
    headers = {"cache-control": "no-store", "content-security-policy": policy}
    return Answer(
        status, PAGE.replace("{{title}}", title).replace("{{said}}", said), headers, "text/html; charset=utf-8"
    )


def _cards(button: str) -> str:
    options = "".join(
        f'<label><input type="radio" name="card" value="{number}"{" checked" * (not n)}>'
        f" <code>{number[:4]} … {number[-4:]}</code> {words}</label>"
        for n, (number, words) in enumerate(CARDS.items())
    )
    return f'<form method="post" class="cards">{options}<button>{button}</button></form>'


def _newest(things: Iterable[Object]) -> list[Object]:
    return [thing for thing, _ in zip(things, range(SHOWN), strict=False)]


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return '<p class="none">None yet.</p>'
    return "<table>" + "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows) + "</table>"


def _link(target: str, words: str) -> str:
    safe = target if target.startswith(("/", "http://", "https://")) else "/"
    return f'<a href="{escape(safe)}">{escape(words)}</a>'


def _money(thing: Object) -> str:
    amount = thing["amount"] if "amount" in thing else thing["amount_total"]
    return f"<b>{amount / 100:,.2f} {escape(thing['currency'].upper())}</b>"


def _when(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}"


def _state(status: str) -> str:
    return f'<span class="state">{escape(status.replace("_", " "))}</span>'


def _waiting(owed: int) -> str:
    return f'<span class="bad">{owed} not taken yet</span>' if owed else "taken"


def _email(double: "Double", customer: str | None) -> str:
    found = customer and double.store.get(customer)
    return str((found and found.get("email")) or customer or "")
