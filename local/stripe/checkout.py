"""Checkout sessions: the subscription is made when the customer pays, not before."""

from local.stripe import billing, payments
from local.stripe.account import Account, Refused
from local.stripe.forms import picked
from local.stripe.store import Object


def begin(account: Account, given: Object) -> Object:
    lines = [
        billing.price_of(account, item, f"line_items[{n}][price]") for n, item in enumerate(given.get("line_items", []))
    ]
    name = account.name("checkout.session")
    return account.new(
        "checkout.session",
        **picked(given, "mode customer customer_email client_reference_id success_url cancel_url metadata"),
        id=name,
        amount_total=sum(price["unit_amount"] * quantity for price, quantity in lines),
        currency=lines[0][0]["currency"] if lines else None,
        expires_at=given.get("expires_at") or account.now() + billing.DAY,
        url=f"{account.address}/checkout/{name}",
        _lines=[{"price": price["id"], "quantity": quantity} for price, quantity in lines],
        _data=given.get("subscription_data", {}),
    )


def expire(account: Account, session: Object) -> Object:
    _expect_open(session)
    return account.change(session, "checkout.session.expired", status="expired")


def complete(account: Account, session: Object, card: str) -> Object:
    """What the customer does on the session's page."""
    _expect_open(session)
    done: Object = {"status": "complete", "customer": session["customer"]}
    if not done["customer"]:
        done["customer"] = account.new("customer", "customer.created", email=session["customer_email"])["id"]
    paid_with = payments.method(account, card)
    match session["mode"]:
        case "setup":
            intent = payments.set_up(account, billing.intend_set_up(account, done["customer"]), paid_with)
            done |= {"setup_intent": intent["id"], "payment_status": "no_payment_required"}
        case "payment":
            intent = payments.intend(account, session["amount_total"], session["currency"], done["customer"])
            payments.confirm(account, intent, paid_with)
            done |= {"payment_intent": intent["id"], "payment_status": "paid"}
        case _:
            given = {
                **session["_data"],
                "customer": done["customer"],
                "items": session["_lines"],
                "payment_behavior": "default_incomplete",
                "payment_settings": {"save_default_payment_method": "on_subscription"},
            }
            subscription = billing.subscribe(account, given)
            invoice = account.get("invoice", subscription["latest_invoice"])
            if invoice["_intent"]:
                payments.confirm(account, account.get("payment_intent", invoice["_intent"]), paid_with)
            done |= {"subscription": subscription["id"], "invoice": invoice["id"], "payment_status": "paid"}
    return account.change(session, "checkout.session.completed", **done)


def _expect_open(session: Object) -> None:
    if session["status"] != "open":
        raise Refused(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"{session['status']}."
        )
