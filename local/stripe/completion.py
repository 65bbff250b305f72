"""What a customer does on the page of a checkout session: type a promotion code, and complete it."""

from local.stripe import checkout_totals, coupons, payments, setup_intents, subscriptions
from local.stripe.account import Account
from local.stripe.customers import full_address
from local.stripe.errors import ApiError
from local.stripe.parameters import EMAIL, picked
from local.stripe.payment_methods import card_of, find
from local.stripe.store import Object


def enter_code(account: Account, session: Object, code: str) -> Object:
    """Type a promotion code; an empty one removes it."""
    if not session["allow_promotion_codes"]:
        raise ApiError("This Checkout Session does not accept promotion codes.", param="promotion_code")
    _expect_open(session)
    session["_discounts"] = []
    if code.strip():
        found = coupons.by_code(account, code)
        checkout_totals.update(account, session)
        amount, currency = session["amount_subtotal"], session["currency"]
        coupons.check_code(account, found, session["customer"], amount, currency, "promotion_code")
        session["_discounts"] = [{"promotion_code": found["id"]}]
    checkout_totals.update(account, session)
    return account.change(session, None)


def complete(
    account: Account,
    session: Object,
    card: str,
    *,
    email: str = "",
    address: Object | None = None,
    code: str = "",
    authenticated: bool = False,
) -> Object:
    """Pay, subscribe, or save the card. Whatever is declined leaves the session open, and nothing else behind."""
    _expect_open(session)
    if code:
        session = enter_code(account, session, code)
    customer = _customer(account, session, email, address)
    checkout_totals.update(account, session, customer)
    paid_with = _card(account, session, card, authenticated=authenticated)
    done: Object = {"status": "complete", "customer": customer["id"], "url": None}
    match session["mode"]:
        case "setup":
            intent = setup_intents.intend(account, customer["id"], **session["_data"].get("setup_intent_data", {}))
            done |= {"setup_intent": setup_intents.confirm(account, intent, _needed(paid_with))["id"]}
        case "payment":
            data = session["_data"].get("payment_intent_data", {})
            intent = payments.intend(
                account, session["amount_total"], session["currency"], customer["id"], _session=session["id"], **data
            )
            _pay(account, intent, _needed(paid_with))
            done |= {"payment_intent": intent["id"], "payment_status": "paid"}
        case _:
            done |= _subscribe(account, session, customer, paid_with)
    details = picked(account.get("customer", customer["id"]), "address email name phone tax_exempt")
    done["customer_details"] = {**details, "business_name": None, "individual_name": None, "tax_ids": []}
    return account.change(session, "checkout.session.completed", **done)


def _customer(account: Account, session: Object, email: str, address: Object | None) -> Object:
    address = full_address(address) if address else None
    if name := session["customer"]:
        customer = account.get("customer", name)
        saves = session["_data"].get("customer_update", {}).get("address") == "auto"
        if address and saves:
            account.change(customer, "customer.updated", address=address)
        return customer
    email = session["customer_email"] or email or "customer@example.com"
    if not EMAIL.fullmatch(email):
        raise ApiError(f"Invalid email address: {email}", code="email_invalid", param="email")
    customer = account.new("customer", None, email=email, address=address)
    account.change(customer, None, invoice_prefix=customer["id"][-8:].upper())
    account.announce("customer.created", customer)
    return customer


def _card(account: Account, session: Object, card: str, *, authenticated: bool) -> Object | None:
    """The card, once the bank has authenticated it; None where no payment is due and none is collected."""
    if not card and session["payment_method_collection"] == "if_required" and not session["amount_total"]:
        return None
    paid_with = find(account, card)
    if card_of(paid_with).authentication and not authenticated:
        raise ApiError(
            "Your bank asks you to authenticate this payment.",
            code="authentication_required",
            status=402,
            kind="card_error",
        )
    return account.change(paid_with, None, _authenticated=authenticated)


def _needed(paid_with: Object | None) -> Object:
    if not paid_with:
        raise ApiError("Choose a card.", code="parameter_missing", param="card")
    return paid_with


def _pay(account: Account, intent: Object, paid_with: Object) -> None:
    if paid_with["_authenticated"]:
        intent = account.change(intent, None, status="requires_action", payment_method=paid_with["id"])
        intent = payments.authenticate(account, intent, succeeds=True)
    else:
        intent = payments.confirm(account, intent, paid_with)
    if error := account.get("payment_intent", intent["id"])["last_payment_error"]:
        raise ApiError(
            error["message"], status=402, kind="card_error", code=error["code"], decline_code=error.get("decline_code")
        )


def _subscribe(account: Account, session: Object, customer: Object, paid_with: Object | None) -> Object:
    rows = session["_rows"]
    given: Object = {
        **session["_data"].get("subscription_data", {}),
        "customer": customer["id"],
        "items": [picked(row, "price quantity tax_rates") for row in rows if row["recurring"]],
        "add_invoice_items": [picked(row, "price quantity tax_rates") for row in rows if not row["recurring"]],
        "discounts": session["_discounts"],
        "automatic_tax": picked(session["automatic_tax"], "enabled"),
        "payment_behavior": "default_incomplete",
        "payment_settings": {"save_default_payment_method": "on_subscription"},
    }
    subscription = subscriptions.begin(account, given)
    invoice = account.get("invoice", subscription["latest_invoice"])
    if invoice["_intent"]:
        _pay(account, account.get("payment_intent", invoice["_intent"]), _needed(paid_with))
    elif paid_with:
        pending = subscription["pending_setup_intent"]
        intent = (
            account.get("setup_intent", pending)
            if pending
            else setup_intents.intend(account, customer["id"], _subscription=subscription["id"])
        )
        setup_intents.confirm(account, intent, paid_with)
    status = "paid" if invoice["amount_due"] else "no_payment_required"
    return {"subscription": subscription["id"], "invoice": invoice["id"], "payment_status": status}


def _expect_open(session: Object) -> None:
    if session["status"] != "open":
        raise ApiError(f"This Checkout Session is {session['status']} and can no longer be used.")
