"""Cards, payments and what becomes of them: charges, refunds, disputes."""

import secrets
from dataclasses import dataclass
from typing import Any

from local.stripe import billing
from local.stripe.account import Account, Refused
from local.stripe.store import Object

DECLINED = "Your card was declined."


@dataclass(frozen=True)
class Card:
    """What a test card does. `code` and `decline`: why it is declined."""

    token: str
    brand: str = "visa"
    code: str | None = None
    decline: str | None = None
    message: str = DECLINED
    needs_authentication: bool = False
    disputed: bool = False


# Numbers and pm_card_… names as in Stripe's list of test cards.
CARDS = {
    "4242424242424242": Card("visa"),
    "5555555555554444": Card("mastercard", brand="mastercard"),
    "4000000000000002": Card("visa_chargeDeclined", code="card_declined", decline="generic_decline"),
    "4000000000009995": Card(
        "visa_chargeDeclinedInsufficientFunds",
        code="card_declined",
        decline="insufficient_funds",
        message="Your card has insufficient funds.",
    ),
    "4000000000000069": Card(
        "chargeDeclinedExpiredCard", code="expired_card", decline="expired_card", message="Your card has expired."
    ),
    "4000000000003220": Card("threeDSecure2Required", needs_authentication=True),
    "4000002760003184": Card("authenticationRequired", needs_authentication=True),
    "4000000000000341": Card("chargeCustomerFail", code="card_declined", decline="generic_decline"),
    "4000000000000259": Card("createDispute", disputed=True),
}
TOKENS = {f"pm_card_{card.token}": number for number, card in CARDS.items()}
# Refused already when it is kept for later; 0341 is the one that is taken, and fails when it is charged.
REFUSED_EARLY = {"4000000000000002", "4000000000009995", "4000000000000069"}
OPEN = {"requires_payment_method", "requires_confirmation", "requires_action"}


# Payment methods -----------------------------------------------------------------------------------------------------


def method(account: Account, given: str, param: str = "payment_method") -> Object:
    """A payment method by its id, by the name of a test card, or by a number."""
    number = TOKENS.get(given, given)
    if number not in CARDS:
        return account.referred("payment_method", given, param)
    card = {"brand": CARDS[number].brand, "last4": number[-4:], "exp_month": 12, "exp_year": 2034, "country": "US"}
    return account.new("payment_method", card=card, _number=number)


def attach(account: Account, paid_with: Object, customer: str) -> Object:
    if paid_with["customer"] == customer:
        return paid_with
    if paid_with["_number"] in REFUSED_EARLY:
        raise declined(CARDS[paid_with["_number"]])
    account.change(paid_with, None, customer=customer)
    account.tell("payment_method.attached", paid_with)
    return paid_with


def declined(card: Card, **more: Any) -> Refused:
    return Refused(
        card.message,
        status=402,
        kind="card_error",
        code=card.code,
        decline_code=card.decline,
        kept=True,
        **more,
    )


# Payment intents -----------------------------------------------------------------------------------------------------


def intend(account: Account, amount: int, currency: str, customer: str | None, **fields: object) -> Object:
    name = account.name("payment_intent")
    plain = {"id": name, "client_secret": f"{name}_secret_{secrets.token_hex(12)}"}
    fields |= {"amount": amount, "currency": currency, "customer": customer}
    return account.new("payment_intent", "payment_intent.created", **plain, **fields)


def confirm(account: Account, intent: Object, paid_with: Object, *, off_session: bool = False) -> Object:
    """Try to pay. A declined card raises when somebody is there to be told."""
    expect_open(intent, "confirm")
    card = CARDS[paid_with["_number"]]
    if card.code:
        fail(account, intent, card.message, card.code, card.decline, paid_with)
        if not off_session:
            raise declined(card, payment_intent=account.get("payment_intent", intent["id"]))
    elif card.needs_authentication and not (off_session and paid_with["_authenticated"]):
        account.change(
            intent,
            "payment_intent.requires_action",
            status="requires_action",
            payment_method=paid_with["id"],
            last_payment_error=None,
            next_action={
                "type": "redirect_to_url",
                "redirect_to_url": {"url": f"{account.address}/pay/{intent['client_secret']}", "return_url": None},
            },
        )
        if intent["_invoice"]:
            billing.payment_failed(account, account.get("invoice", intent["_invoice"]), needs_action=True)
    else:
        succeed(account, intent, paid_with)
    return intent


def expect_open(intent: Object, verb: str) -> None:
    if intent["status"] not in OPEN:
        raise Refused(
            f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
            payment_intent=intent,
        )


def authenticate(account: Account, intent: Object, *, succeeds: bool) -> Object:
    """What the customer does at their bank."""
    if intent["status"] != "requires_action":
        raise Refused("There is nothing to authenticate.", code="payment_intent_unexpected_state")
    paid_with = account.get("payment_method", intent["payment_method"])
    if succeeds:
        account.change(paid_with, None, _authenticated=True)
        succeed(account, intent, paid_with)
    else:
        message = "We are unable to authenticate your payment method. Please choose a different payment method."
        fail(account, intent, message, "payment_intent_authentication_failure", None, paid_with)
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
    account.tell("charge.succeeded", charge)
    if intent["customer"] and intent["setup_future_usage"]:
        attach(account, paid_with, intent["customer"])
    if intent["_invoice"]:
        billing.paid(account, account.get("invoice", intent["_invoice"]), charge)
    if CARDS[paid_with["_number"]].disputed:
        dispute(account, charge)


def fail(account: Account, intent: Object, message: str, code: str, decline: str | None, paid_with: Object) -> None:
    charge = _charge(
        account, intent, paid_with, status="failed", paid=False, failure_code=code, failure_message=message
    )
    account.change(
        intent,
        "payment_intent.payment_failed",
        status="requires_payment_method",
        payment_method=None,
        next_action=None,
        latest_charge=charge["id"],
        last_payment_error={
            "type": "card_error",
            "code": code,
            "decline_code": decline,
            "message": message,
            "payment_method": paid_with,
        },
    )
    account.tell("charge.failed", charge)
    if intent["_invoice"]:
        billing.payment_failed(account, account.get("invoice", intent["_invoice"]))


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


# Setup intents -------------------------------------------------------------------------------------------------------


def set_up(account: Account, intent: Object, paid_with: Object) -> Object:
    if intent["status"] not in OPEN:
        raise Refused(
            f"You cannot confirm this SetupIntent because it has already {intent['status']}.",
            code="setup_intent_unexpected_state",
        )
    card = CARDS[paid_with["_number"]]
    if paid_with["_number"] in REFUSED_EARLY:
        error = {"type": "card_error", "code": card.code, "decline_code": card.decline, "message": card.message}
        account.change(intent, "setup_intent.setup_failed", status="requires_payment_method", last_setup_error=error)
        raise declined(card)
    if intent["customer"]:
        attach(account, paid_with, intent["customer"])
    return account.change(intent, "setup_intent.succeeded", status="succeeded", payment_method=paid_with["id"])


# Charges, refunds, disputes ------------------------------------------------------------------------------------------


def _charge(account: Account, intent: Object, paid_with: Object, **fields: object) -> Object:
    same = {name: intent[name] for name in ("amount", "currency", "customer", "description", "metadata", "_invoice")}
    return account.new(
        "charge",
        **same,
        **fields,
        payment_intent=intent["id"],
        payment_method=paid_with["id"],
        payment_method_details={"type": "card", "card": paid_with["card"]},
    )


def refund(account: Account, charge: Object, amount: int | None, reason: str | None, metadata: Object) -> Object:
    left = charge["amount"] - charge["amount_refunded"] if charge["paid"] else 0
    if not left:
        raise Refused(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = left if amount is None else amount
    if not 0 < amount <= left:
        raise Refused(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount")
    made = account.new(
        "refund",
        "refund.created",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        metadata=metadata,
        payment_intent=charge["payment_intent"],
        reason=reason,
    )
    back = charge["amount_refunded"] + amount
    account.change(charge, "charge.refunded", amount_refunded=back, refunded=back == charge["amount"])
    return made


def dispute(account: Account, charge: Object, reason: str = "fraudulent") -> Object:
    account.change(charge, "charge.updated", disputed=True)
    same = {name: charge[name] for name in ("amount", "currency", "payment_intent")}
    made = account.new("dispute", "charge.dispute.created", **same, charge=charge["id"], reason=reason)
    account.tell("charge.dispute.funds_withdrawn", made)
    return made
