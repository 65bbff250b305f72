"""Paying a payment intent, and saving a card by a setup intent."""

from html import escape
from typing import TYPE_CHECKING

from local.stripe import payments
from local.stripe.errors import ApiError
from local.stripe.gateway import Response
from local.stripe.pages.html import amount, bad, cards, chosen_card, form, good, link, page, state
from local.stripe.store import Object

if TYPE_CHECKING:
    from local.stripe.server import Double

BANK = (
    "<p>Your bank asks you to confirm that it is you.</p>"
    '<form method="post"><button name="bank" value="yes">Complete authentication</button>'
    ' <button name="bank" value="no">Fail authentication</button></form>'
)


def show(double: "Double", secret: str) -> Response:
    intent = _found(double, "payment_intent", secret)
    words = escape(intent["description"] or "a payment")
    body = f"<p>{amount(intent['amount'], intent['currency'])} for {words} {state(intent['status'])}</p>"
    body += _problem(intent["last_payment_error"])
    if intent["status"] == "requires_action":
        body += BANK
    elif intent["status"] in payments.OPEN:
        body += form(cards(), pay="pay|Pay")
    elif intent["status"] == "succeeded":
        body += good("Paid. Stripe now sends the events to the webhook.")
    return page("Payment", body + link("/", "All objects"))


def act(double: "Double", secret: str, given: dict[str, str]) -> None:
    intent = _found(double, "payment_intent", secret)
    if "bank" in given:
        double.authenticate(intent["id"], succeeds=given["bank"] == "yes")
    else:
        double.pay(intent["id"], chosen_card(given))


def show_setup(double: "Double", secret: str) -> Response:
    intent = _found(double, "setup_intent", secret)
    body = f"<p>Save a card for later payments {state(intent['status'])}</p>" + _problem(intent["last_setup_error"])
    if intent["status"] == "requires_action":
        body += BANK
    elif intent["status"] in payments.OPEN:
        body += form(cards(), save="save|Save the card")
    elif intent["status"] == "succeeded":
        body += good("The card is saved.")
    return page("Save a card", body + link("/", "All objects"))


def act_setup(double: "Double", secret: str, given: dict[str, str]) -> None:
    intent = _found(double, "setup_intent", secret)
    if "bank" in given:
        double.authenticate(intent["id"], succeeds=given["bank"] == "yes")
    else:
        double.set_up(intent["id"], chosen_card(given))


def _problem(error: Object | None) -> str:
    return bad(error["message"]) if error else ""


def _found(double: "Double", kind: str, secret: str) -> Object:
    intent = double.account.get(kind, secret.partition("_secret_")[0])
    if intent["client_secret"] != secret:
        raise ApiError(f"No such {kind}.", status=404)
    return intent
