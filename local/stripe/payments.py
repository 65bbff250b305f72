"""Payment intents and the charges they make."""

import secrets
from collections.abc import Callable
from typing import Any

from local.stripe import money
from local.stripe.account import Account
from local.stripe.api import resource, route
from local.stripe.cards import EXPIRED
from local.stripe.errors import ApiError
from local.stripe.parameters import picked
from local.stripe.payment_methods import attach, card_of, find, has_expired
from local.stripe.store import Object

OPEN = {"requires_payment_method", "requires_confirmation", "requires_action"}
UNAUTHENTICATED = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try again."
)
LARGEST = 99_999_999
# Called with the intent, its charge if there is one, and `paid`, `failed` or `action_required`.
Listener = Callable[[Account, Object, Object | None, str], None]
LISTENERS: list[Listener] = []

resource(
    "payment_intents",
    "payment_intent",
    filters="created:range customer",
    event=None,
    fields="description receipt_email:email setup_future_usage:(off_session|on_session)",
)
resource("charges", "charge", filters="created:range customer payment_intent", fields="description receipt_email:email")


@route(
    "POST /v1/payment_intents",
    "amount!:positive currency!:currency customer description metadata:metadata payment_method"
    " allowed_payment_method_types[]:(card) automatic_payment_methods{enabled!:bool allow_redirects:(always|never)}"
    " confirm:bool"
    " off_session:bool receipt_email:email setup_future_usage:(off_session|on_session) return_url:url",
)
def create_payment_intent(account: Account, values: Object, _place: dict[str, str]) -> Object:
    check_amount(values["amount"], values["currency"])
    if customer := values.get("customer"):
        account.referred("customer", customer, "customer")
    intent = intend(
        account,
        values["amount"],
        values["currency"],
        customer,
        **picked(values, "description metadata receipt_email setup_future_usage automatic_payment_methods"),
    )
    if name := values.get("payment_method"):
        paid_with = find(account, name)
        account.change(intent, None, payment_method=paid_with["id"], status="requires_confirmation")
    if values.get("confirm"):
        return confirm_payment_intent(account, picked(values, "payment_method off_session"), {"id": intent["id"]})
    return intent


def check_amount(amount: int, currency: str, param: str = "amount") -> None:
    money.check_last_digit(amount, currency, param)
    least = money.smallest(currency)
    if amount < least:
        raise ApiError(
            f"Amount must be at least {money.formatted(least, currency)} (found {money.formatted(amount, currency)}).",
            code="amount_too_small",
            param=param,
        )
    if amount > LARGEST:
        raise ApiError(
            f"Amount must be no more than {money.formatted(LARGEST, currency)}.", code="amount_too_large", param=param
        )


@route(
    "POST /v1/payment_intents/{id}/confirm",
    "payment_method return_url:url off_session:bool setup_future_usage:(off_session|on_session)",
)
def confirm_payment_intent(account: Account, values: Object, place: dict[str, str]) -> Object:
    intent = account.get("payment_intent", place["id"], "intent")
    expect_open(intent, "confirm")
    name = values.get("payment_method") or intent["payment_method"]
    if not name:
        raise ApiError(
            "You cannot confirm this PaymentIntent because it's missing a payment method.",
            code="payment_intent_unexpected_state",
        )
    if values.get("setup_future_usage"):
        account.change(intent, None, setup_future_usage=values["setup_future_usage"])
    return confirm(account, intent, find(account, name), off_session=bool(values.get("off_session")), raises=True)


@route(
    "POST /v1/payment_intents/{id}/cancel", "cancellation_reason:(duplicate|fraudulent|requested_by_customer|abandoned)"
)
def cancel_payment_intent(account: Account, values: Object, place: dict[str, str]) -> Object:
    intent = account.get("payment_intent", place["id"], "intent")
    if intent["_invoice"]:
        raise ApiError(
            "You cannot cancel this PaymentIntent because it belongs to an invoice; void the invoice instead.",
            code="payment_intent_unexpected_state",
        )
    return cancel(account, intent, values.get("cancellation_reason"))


# What happens to an intent -------------------------------------------------------------------------------------------


def intend(account: Account, amount: int, currency: str, customer: str | None, **fields: object) -> Object:
    name = account.name("payment_intent")
    fields |= {"id": name, "client_secret": f"{name}_secret_{secrets.token_hex(12)}"}
    fields |= {"amount": amount, "currency": currency, "customer": customer}
    return account.new("payment_intent", "payment_intent.created", **fields)


def confirm(
    account: Account, intent: Object, paid_with: Object, *, off_session: bool = False, raises: bool = False
) -> Object:
    """Try to pay. `raises`: a declined card is an error of the request, not only a state of the intent."""
    expect_open(intent, "confirm")
    card = card_of(paid_with)
    asks = card.authentication and not (off_session and card.authentication == "once" and paid_with["_authenticated"])
    if has_expired(paid_with, account.now()):
        fail(account, intent, EXPIRED, "expired_card", "expired_card", paid_with)
    elif asks and off_session:
        fail(
            account,
            intent,
            "Your card was declined. This transaction requires authentication.",
            "card_declined",
            "authentication_required",
            paid_with,
        )
    elif asks:
        url = f"{account.address}/pay/{intent['client_secret']}"
        account.change(
            intent,
            "payment_intent.requires_action",
            status="requires_action",
            payment_method=paid_with["id"],
            last_payment_error=None,
            next_action={"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": None}},
        )
        _notify(account, intent, None, "action_required")
    else:
        _charge_or_fail(account, intent, paid_with)
    intent = account.get("payment_intent", intent["id"])
    if raises and (error := intent["last_payment_error"]):
        raise ApiError(
            error["message"],
            status=402,
            kind="card_error",
            code=error["code"],
            decline_code=error.get("decline_code"),
            kept=True,
            payment_intent=intent,
        )
    return intent


def _charge_or_fail(account: Account, intent: Object, paid_with: Object) -> None:
    card = card_of(paid_with)
    if card.code:
        fail(account, intent, card.message, card.code, card.decline, paid_with)
    else:
        succeed(account, intent, paid_with)


def expect_open(intent: Object, verb: str) -> None:
    if intent["status"] not in OPEN:
        raise ApiError(
            f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
            payment_intent={name: value for name, value in intent.items() if not name.startswith("_")},
        )


def authenticate(account: Account, intent: Object, *, succeeds: bool) -> Object:
    """What the customer does at their bank."""
    if intent["status"] != "requires_action":
        raise ApiError("There is nothing to authenticate.", code="payment_intent_unexpected_state")
    paid_with = account.get("payment_method", intent["payment_method"])
    if succeeds:
        account.change(paid_with, None, _authenticated=True)
        _charge_or_fail(account, intent, paid_with)
    else:
        fail(account, intent, UNAUTHENTICATED, "payment_intent_authentication_failure", None, paid_with)
    return intent


def succeed(account: Account, intent: Object, paid_with: Object) -> None:
    charge = _charge(
        account, intent, paid_with, status="succeeded", paid=True, captured=True, amount_captured=intent["amount"]
    )
    account.change(
        intent,
        "payment_intent.succeeded",
        status="succeeded",
        amount_received=intent["amount"],
        latest_charge=charge["id"],
        payment_method=paid_with["id"],
        last_payment_error=None,
        next_action=None,
    )
    account.announce("charge.succeeded", charge)
    if intent["customer"] and intent["setup_future_usage"]:
        attach(account, paid_with, intent["customer"])
    _notify(account, intent, charge, "paid")


def fail(account: Account, intent: Object, message: str, code: str, decline: str | None, paid_with: Object) -> None:
    failure = {"failure_code": code, "failure_message": message, "_decline": decline}
    charge = _charge(account, intent, paid_with, status="failed", paid=False, **failure)
    error = {
        "type": "card_error",
        "code": code,
        "decline_code": decline,
        "message": message,
        "charge": charge["id"],
        "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
        "payment_method": paid_with,
    }
    account.change(
        intent,
        "payment_intent.payment_failed",
        status="requires_payment_method",
        payment_method=None,
        next_action=None,
        latest_charge=charge["id"],
        last_payment_error={name: value for name, value in error.items() if value is not None},
    )
    account.announce("charge.failed", charge)
    _notify(account, intent, charge, "failed")


def _notify(account: Account, intent: Object, charge: Object | None, outcome: str) -> None:
    for listener in LISTENERS:
        listener(account, intent, charge, outcome)


def cancel(account: Account, intent: Object, reason: str | None) -> Object:
    expect_open(intent, "cancel")
    return account.change(
        intent,
        "payment_intent.canceled",
        status="canceled",
        canceled_at=account.now(),
        cancellation_reason=reason,
        next_action=None,
    )


def _charge(
    account: Account, intent: Object, paid_with: Object, *, decline: str | None = None, **fields: Any
) -> Object:
    card, declined_as = paid_with["card"], fields.pop("_decline", decline)
    name, good = account.name("charge"), fields["paid"]
    blocked = declined_as == "fraudulent"
    return account.new(
        "charge",
        **picked(intent, "amount currency customer description metadata receipt_email _invoice"),
        **fields,
        id=name,
        billing_details=paid_with["billing_details"],
        outcome={
            "advice_code": None if good else "try_again_later",
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "approved_by_network"
            if good
            else "not_sent_to_network"
            if blocked
            else "declined_by_network",
            "reason": None if good else "highest_risk_level" if blocked else declined_as,
            "risk_level": "highest" if blocked else "normal",
            "seller_message": "Payment complete."
            if good
            else "The bank did not return any further details with this decline.",
            "type": "authorized" if good else "blocked" if blocked else "issuer_declined",
        },
        payment_intent=intent["id"],
        payment_method=paid_with["id"],
        payment_method_details={
            "type": "card",
            "card": {
                **picked(card, "brand country exp_month exp_year fingerprint funding last4 wallet"),
                "amount_authorized": intent["amount"] if good else None,
                "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
                "installments": None,
                "mandate": None,
                "network": card["brand"],
                "three_d_secure": None,
            },
        },
        receipt_url=f"{account.address}/receipt/{name}" if good else None,
    )
