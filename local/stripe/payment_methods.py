"""Payment methods: cards only. They are made from test numbers, attached to a customer, and detached."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from local.stripe.account import Account
from local.stripe.api import resource, route, update
from local.stripe.cards import CARDS, TOKENS, Card
from local.stripe.errors import ApiError
from local.stripe.store import Object

DETAILS = "{address{city country line1 line2 postal_code state} email name phone}"

resource("payment_methods", "payment_method", filters="customer type")


@route(
    "POST /v1/payment_methods",
    f"type!:(card) card{{number token exp_month:positive exp_year:positive cvc}}"
    f" billing_details{DETAILS} metadata:metadata allow_redisplay:(always|limited|unspecified)",
)
def create_payment_method(account: Account, values: Object, _place: dict[str, str]) -> Object:
    card = values.get("card") or {}
    number = (card.get("number") or "").replace(" ", "") or "pm_card_" + (card.get("token") or "").removeprefix("tok_")
    month, year = card.get("exp_month"), card.get("exp_year")
    if month is not None and month > 12:  # noqa: PLR2004 - December
        raise ApiError(
            "Your card's expiration month is invalid.",
            status=402,
            kind="card_error",
            code="invalid_expiry_month",
            param="exp_month",
        )
    if number not in CARDS and number not in TOKENS:
        raise ApiError(
            "Your card number is incorrect.", status=402, kind="card_error", code="incorrect_number", param="number"
        )
    made = find(account, number)
    given = {name: value for name, value in values.items() if name in {"metadata", "allow_redisplay"}}
    details = {**made["billing_details"], **(values.get("billing_details") or {})}
    expires = {"exp_month": month or made["card"]["exp_month"], "exp_year": year or made["card"]["exp_year"]}
    return account.change(made, None, **given, billing_details=details, card={**made["card"], **expires})


@route(
    "POST /v1/payment_methods/{id}",
    f"card{{exp_month:positive exp_year:positive}} billing_details{DETAILS} metadata:metadata",
)
def update_payment_method(account: Account, values: Object, place: dict[str, str]) -> Object:
    paid_with = account.get("payment_method", place["id"])
    for name in "card", "billing_details":
        if name in values:
            values[name] = {**paid_with[name], **values[name]}
    return update("payment_method", "payment_method.updated")(account, values, place)


@route("POST /v1/payment_methods/{id}/attach", "customer!")
def attach_payment_method(account: Account, values: Object, place: dict[str, str]) -> Object:
    customer = account.referred("customer", values["customer"], "customer")
    return attach(account, find(account, place["id"]), customer["id"])


@route("POST /v1/payment_methods/{id}/detach")
def detach_payment_method(account: Account, _values: Object, place: dict[str, str]) -> Object:
    """It can never be used again; whatever names it as a default no longer has one."""
    paid_with = account.get("payment_method", place["id"])
    owner = paid_with["customer"]
    if not owner:
        raise ApiError(
            "The payment method you provided is not attached to a customer so detachment is impossible.",
            param="payment_method",
        )
    account.change(paid_with, None, customer=None, _detached=True)
    account.announce("payment_method.detached", paid_with)
    customer = account.get("customer", owner)
    if customer["invoice_settings"]["default_payment_method"] == paid_with["id"]:
        settings = {**customer["invoice_settings"], "default_payment_method": None}
        account.change(customer, "customer.updated", invoice_settings=settings)
    for subscription in account.store.of("subscription", owner):
        if subscription["default_payment_method"] == paid_with["id"]:
            account.change(subscription, "customer.subscription.updated", default_payment_method=None)
    return paid_with


def find(account: Account, given: str, param: str = "payment_method") -> Object:
    """A payment method by its id, by the name of a test card, or by a number."""
    number = TOKENS.get(given, given)
    if number not in CARDS:
        return account.referred("payment_method", given, param)
    card = CARDS[number]
    shown = {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": None},
        "country": card.country,
        "display_brand": card.brand,
        "exp_month": 12,
        "exp_year": datetime.fromtimestamp(account.now(), UTC).year + 8,
        "fingerprint": hashlib.sha256(number.encode()).hexdigest()[:16],
        "funding": card.funding,
        "generated_from": None,
        "last4": number[-4:],
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }
    return account.new("payment_method", card=shown, _number=number)


def card_of(paid_with: Object) -> Card:
    return CARDS[paid_with["_number"]]


def has_expired(paid_with: Object, now: int) -> bool:
    at = datetime.fromtimestamp(now, UTC)
    return bool((paid_with["card"]["exp_year"], paid_with["card"]["exp_month"]) < (at.year, at.month))


def attach(account: Account, paid_with: Object, customer: str) -> Object:
    if paid_with["customer"] == customer:
        return paid_with
    if paid_with["customer"]:
        raise ApiError(
            "The payment method you provided has already been attached to a customer.", param="payment_method"
        )
    if paid_with.get("_detached"):
        raise ApiError(
            "This PaymentMethod was previously used without being attached to a Customer or was detached from a"
            " Customer,"
            " and may not be used again.",
            param="payment_method",
        )
    card = card_of(paid_with)
    if card.code and card.early:
        raise declined(card)
    account.change(paid_with, None, customer=customer)
    account.announce("payment_method.attached", paid_with)
    return paid_with


def declined(card: Card, **more: Any) -> ApiError:
    return ApiError(
        card.message,
        status=402,
        kind="card_error",
        code=card.code,
        decline_code=card.decline,
        kept=True,
        **more,
    )
