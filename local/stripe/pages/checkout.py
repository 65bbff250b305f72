"""The page of a checkout session."""

from html import escape
from typing import TYPE_CHECKING

from local.stripe import checkout_totals, completion
from local.stripe.errors import ApiError
from local.stripe.gateway import Response
from local.stripe.pages.html import amount, bad, cards, chosen_card, field, form, hidden, link, page, state, table
from local.stripe.store import Object

if TYPE_CHECKING:
    from local.stripe.server import Double


def show(double: "Double", name: str) -> Response:
    session = double.account.get("checkout.session", name)
    body = f"<p>{state(session['status'])}</p>" + _sums(double, session)
    if session["status"] == "open":
        body += _waiting(session) if session.get("_authenticates") else _open(double, session)
    elif session["status"] == "complete":
        body += link(session["success_url"].replace("{CHECKOUT_SESSION_ID}", name), "Back to the shop")
    return page("Checkout", body)


def _sums(double: "Double", session: Object) -> str:
    if session["amount_total"] is None:
        return ""
    currency, details = session["currency"], session["total_details"]
    rows = [
        [escape(f"{each['quantity']} × {each['description']}"), amount(each["amount_subtotal"], currency)]
        for each in checkout_totals.items_of(double.account, session)
    ]
    if details["amount_discount"]:
        rows.append(["Discount", amount(-details["amount_discount"], currency)])
    if details["amount_tax"]:
        rows.append(["Tax", amount(details["amount_tax"], currency)])
    return table([*rows, ["Due today", amount(session["amount_total"], currency)]])


def _open(double: "Double", session: Object) -> str:
    fields = bad(session["_problem"]) if session.get("_problem") else ""
    if not session["customer"] and not session["customer_email"]:
        fields += field("email", "E-mail", kind="email")
    if session["automatic_tax"]["enabled"] or session["billing_address_collection"] == "required":
        fields += field("country", "Country (two letters)", more='maxlength="2" size="2"')
    if session["allow_promotion_codes"]:
        chosen = session["_discounts"] and session["_discounts"][0].get("promotion_code")
        fields += field(
            "promotion_code", "Promotion code", double.account.get("promotion_code", chosen)["code"] if chosen else ""
        )
    words = {"subscription": "Pay and subscribe", "payment": "Pay", "setup": "Save the card"}[session["mode"]]
    apply = {"apply": "apply|Apply the code"} if session["allow_promotion_codes"] else {}
    return form(fields + cards(), pay=f"pay|{words}", **apply) + _cancel(session)


def _waiting(session: Object) -> str:
    return (
        "<p>Your bank asks you to confirm that it is you.</p>"
        '<form method="post"><button name="bank" value="yes">Complete authentication</button>'
        f' <button name="bank" value="no">Fail'
        f" authentication</button>{hidden('card', session['_authenticates']['card'])}</form>"
    )


def _cancel(session: Object) -> str:
    return link(session["cancel_url"], "Cancel") if session["cancel_url"] else ""


def _apply(double: "Double", session: Object, code: str) -> None:
    try:
        completion.enter_code(double.account, session, code)
    except ApiError as error:
        double.account.change(session, None, _problem=str(error))


def act(double: "Double", name: str, given: dict[str, str]) -> None:
    """A declined card is shown on the page; a card that needs authentication asks first."""
    account = double.account
    session = account.get("checkout.session", name)
    waiting = session.get("_authenticates")
    with double.store.change(), account.clock_of(name, session["customer"]):
        if given.get("bank") == "no":
            account.change(session, None, _authenticates=None, _problem="The authentication failed. Try another card.")
            return
        if "apply" in given:
            _apply(double, session, given["promotion_code"])
            return
        entered = waiting or {
            "card": chosen_card(given),
            "email": given.get("email", ""),
            "country": given.get("country", ""),
            "code": given.get("promotion_code", ""),
        }
    try:
        double.check_out(
            name,
            entered["card"],
            promotion_code=entered["code"],
            email=entered["email"],
            country=entered["country"] or None,
            authenticated=given.get("bank") == "yes",
        )
    except ApiError as error:
        asks = error.error.get("code") == "authentication_required"
        session = account.get("checkout.session", name)
        if session["status"] != "open":
            raise
        account.change(session, None, _authenticates=entered if asks else None, _problem=None if asks else str(error))
