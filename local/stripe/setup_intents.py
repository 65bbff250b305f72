"""Setup intents: a card kept for later payments."""

import secrets
from typing import Any

from local.stripe.account import Account
from local.stripe.api import resource, route
from local.stripe.errors import ApiError
from local.stripe.parameters import picked
from local.stripe.payment_methods import attach, card_of, declined, find
from local.stripe.payments import OPEN, UNAUTHENTICATED
from local.stripe.store import Object

resource(
    "setup_intents", "setup_intent", filters="created:range customer payment_method", fields="description", event=None
)


@route(
    "POST /v1/setup_intents",
    "customer payment_method allowed_payment_method_types[]:(card) confirm:bool metadata:metadata"
    " automatic_payment_methods{enabled!:bool allow_redirects:(always|never)} usage:(off_session|on_session)"
    " description"
    " return_url:url",
)
def create_setup_intent(account: Account, values: Object, _place: dict[str, str]) -> Object:
    if customer := values.get("customer"):
        account.referred("customer", customer, "customer")
    intent = intend(account, customer, **picked(values, "metadata usage description automatic_payment_methods"))
    if name := values.get("payment_method"):
        account.change(intent, None, payment_method=find(account, name)["id"], status="requires_confirmation")
    if values.get("confirm"):
        return confirm_setup_intent(account, {}, {"id": intent["id"]})
    return intent


@route("POST /v1/setup_intents/{id}/confirm", "payment_method return_url:url")
def confirm_setup_intent(account: Account, values: Object, place: dict[str, str]) -> Object:
    intent = account.get("setup_intent", place["id"], "intent")
    name = values.get("payment_method") or intent["payment_method"]
    if not name:
        raise ApiError(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            code="setup_intent_unexpected_state",
        )
    return confirm(account, intent, find(account, name))


@route("POST /v1/setup_intents/{id}/cancel", "cancellation_reason:(abandoned|requested_by_customer|duplicate)")
def cancel_setup_intent(account: Account, values: Object, place: dict[str, str]) -> Object:
    intent = account.get("setup_intent", place["id"], "intent")
    _expect_open(intent, "cancel")
    reason = values.get("cancellation_reason")
    return account.change(intent, "setup_intent.canceled", status="canceled", cancellation_reason=reason)


def intend(account: Account, customer: str | None, **fields: Any) -> Object:
    name = account.name("setup_intent")
    secret = f"{name}_secret_{secrets.token_hex(12)}"
    return account.new(
        "setup_intent", "setup_intent.created", id=name, client_secret=secret, customer=customer, **fields
    )


def confirm(account: Account, intent: Object, paid_with: Object) -> Object:
    _expect_open(intent, "confirm")
    card = card_of(paid_with)
    if card.code and card.early:
        _fail(account, intent, card.message, card.code, card.decline)
        raise declined(card, setup_intent=account.get("setup_intent", intent["id"]))
    if card.authentication and not paid_with["_authenticated"]:
        url = f"{account.address}/setup/{intent['client_secret']}"
        return account.change(
            intent,
            "setup_intent.requires_action",
            status="requires_action",
            payment_method=paid_with["id"],
            next_action={"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": None}},
        )
    return _succeed(account, intent, paid_with)


def authenticate(account: Account, intent: Object, *, succeeds: bool) -> Object:
    if intent["status"] != "requires_action":
        raise ApiError("There is nothing to authenticate.", code="setup_intent_unexpected_state")
    paid_with = account.get("payment_method", intent["payment_method"])
    if succeeds:
        account.change(paid_with, None, _authenticated=True)
        return _succeed(account, intent, paid_with)
    return _fail(account, intent, UNAUTHENTICATED, "setup_intent_authentication_failure", None)


def _succeed(account: Account, intent: Object, paid_with: Object) -> Object:
    if intent["customer"]:
        attach(account, paid_with, intent["customer"])
    account.change(
        intent,
        "setup_intent.succeeded",
        status="succeeded",
        payment_method=paid_with["id"],
        next_action=None,
        last_setup_error=None,
    )
    if intent["_subscription"]:
        subscription = account.get("subscription", intent["_subscription"])
        kept = {"pending_setup_intent": None}
        if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
            kept["default_payment_method"] = paid_with["id"]
        account.change(subscription, "customer.subscription.updated", **kept)
    return intent


def _fail(account: Account, intent: Object, message: str, code: str, decline: str | None) -> Object:
    error = {"type": "card_error", "code": code, "decline_code": decline, "message": message}
    return account.change(
        intent,
        "setup_intent.setup_failed",
        status="requires_payment_method",
        payment_method=None,
        next_action=None,
        last_setup_error={name: value for name, value in error.items() if value is not None},
    )


def _expect_open(intent: Object, verb: str) -> None:
    if intent["status"] not in OPEN:
        raise ApiError(
            f"You cannot {verb} this SetupIntent because it has a status of {intent['status']}.",
            code="setup_intent_unexpected_state",
        )
