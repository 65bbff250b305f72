"""The payments of onboarding at Stripe: create the subscription, fetch it, record it, cancel it, refund it.

The database decides what a payment means (private.record_onboarding_payment); this module only calls Stripe. Every step
may fail or be the last one, and every step can be repeated.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import stripe

from shared.app.call import Call
from shared.billing.events import parse_object
from shared.billing.kinds import ENDED
from shared.errors import ApiError
from shared.logs import log

Payment = Mapping[str, Any]


class SpentKeyError(Exception):
    """Stripe failed and replays that failure for this idempotency key: only another attempt can succeed."""


EXPAND = ["latest_invoice.confirmation_secret", "latest_invoice.payments"]
MAY_BE_PAID = {"requires_payment_method", "requires_confirmation", "requires_action"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A payment as Stripe has it: the states of its objects, and what only the customer's browser may know."""

    customer: str
    subscription_id: str
    subscription: Mapping[str, Any]
    invoice_id: str | None
    invoice: Mapping[str, Any] | None
    payment_intent_id: str | None
    payment_intent: Mapping[str, Any] | None
    is_refunded: bool | None
    client_secret: str | None

    @property
    def may_still_be_paid(self) -> bool:
        if self.payment_intent:
            return self.payment_intent["status"] in MAY_BE_PAID
        return self.invoice is not None and self.invoice["status"] == "open"

    def facts(self) -> dict[str, Any]:
        """The argument of private.record_onboarding_payment()."""
        names = "customer subscription_id subscription invoice payment_intent_id payment_intent is_refunded"
        return {name: getattr(self, name) for name in names.split()}


async def run(call: Call[Any], operation: str, payload: Any) -> Any:
    """Run an operation of the database and parse its result."""
    body = payload if isinstance(payload, str) else json.dumps(payload)
    result = (await call.run(operation, body)).json
    return json.loads(result) if result else None


async def start(call: Call[Any], request: str) -> Fetched:
    """Start the payment of a session, or continue the one that was started; cancel what it replaces first."""
    while True:
        started = await run(call, "private.ensure_onboarding_payment", request)
        for replaced in started["to_cancel"]:
            await cancel(call, replaced)
        try:
            return await ensure_subscription(call, started["payment"])
        except SpentKeyError:
            await run(call, "private.abandon_onboarding_payment", started["payment"])


async def ensure_subscription(call: Call[Any], payment: Payment) -> Fetched:
    """The subscription of a payment; created, or found by its idempotency key if it was created before a crash."""
    if payment["stripe_subscription_id"]:
        return await fetch(call, payment["stripe_subscription_id"])
    key = f"onb:{payment['session_id']}:{{}}:{payment['attempt']}"
    metadata = {
        "onboarding_session": payment["session_id"],
        "onboarding_attempt": str(payment["attempt"]),
        "tier": payment["tier"],
        "billing_cycle": payment["billing_cycle"],
    }
    v1 = call.stripe().v1
    if not (customer := payment["stripe_customer_id"]):
        about: Any = {name: payment[f"billing_{name}"] for name in ("name", "email") if payment[f"billing_{name}"]}
        about["metadata"] = {"onboarding_session": payment["session_id"]}
        if payment["country"]:
            address = {"country": payment["country"], "postal_code": payment["postal_code"]}
            about["address"] = {name: value for name, value in address.items() if value}
        try:
            customer = (await v1.customers.create_async(about, {"idempotency_key": key.format("customer")})).id
        except stripe.APIError as error:
            raise _spent(error) from error
    parameters: Any = {
        "customer": customer,
        "items": [{"price": payment["stripe_price_id"], "quantity": 1}],
        "payment_behavior": "default_incomplete",
        "payment_settings": {"save_default_payment_method": "on_subscription"},
        "metadata": metadata,
        "expand": EXPAND,
    }
    if payment["promotion_code"]:
        parameters["discounts"] = [{"promotion_code": payment["promotion_code"]}]
    if payment["country"]:
        parameters["automatic_tax"] = {"enabled": True}
    try:
        subscription = await v1.subscriptions.create_async(parameters, {"idempotency_key": key.format("payment")})
    except stripe.APIError as error:
        spent = _spent(error)
        # Stripe may have created it despite the error.
        existing = await v1.subscriptions.list_async({"customer": customer, "status": "all", "limit": 100})
        for each in existing.data:
            if metadata.items() <= each.to_dict()["metadata"].items():
                return await fetch(call, each.id)
        raise spent from error
    return await _with_payment(call, subscription)


def _spent(error: stripe.APIError) -> Exception:
    replayed = (error.headers or {}).get("idempotent-replayed") == "true"
    return SpentKeyError() if replayed else error


async def fetch(call: Call[Any], subscription: str) -> Fetched:
    found = await call.stripe().v1.subscriptions.retrieve_async(subscription, {"expand": EXPAND})
    return await _with_payment(call, found)


async def sync(call: Call[Any], payment: Payment) -> Any:
    """Fetch a payment from Stripe and record it."""
    return await record(call, await ensure_subscription(call, payment))


async def record(call: Call[Any], fetched: Fetched) -> Any:
    return await run(call, "private.record_onboarding_payment", fetched.facts())


async def cancel(call: Call[Any], payment: Payment) -> Any:
    """Cancel a payment that was replaced or has expired; if it succeeds nevertheless, it is refunded.

    Its invoice is voided first: Stripe allows that only while nothing is paid, so no paid subscription is cancelled.
    """
    if not payment["stripe_subscription_id"] and not payment["is_remembered"]:
        return await run(call, "private.settle_onboarding_payment", payment)
    try:
        fetched = await ensure_subscription(call, payment)
    except SpentKeyError:
        return None  # most likely it was never created; the job asks again until that is certain
    if fetched.may_still_be_paid:
        v1 = call.stripe().v1
        try:
            if fetched.invoice_id:
                await v1.invoices.void_invoice_async(fetched.invoice_id)
            if fetched.subscription["status"] not in ENDED:
                await v1.subscriptions.cancel_async(fetched.subscription_id)
        except stripe.InvalidRequestError:
            pass  # paid or ended meanwhile: fetched again below
        fetched = await fetch(call, fetched.subscription_id)
    return await record(call, fetched)


async def cancel_if_possible(call: Call[Any], payments: list[Payment]) -> None:
    """Best effort; the job retries, and so does the next payment of the session."""
    for payment in payments:
        try:
            await cancel(call, payment)
        except stripe.StripeError as error:
            log("WARNING", "a payment could not be cancelled yet", why=type(error).__qualname__)


async def promotion_code_of(call: Call[Any], code: str) -> str:
    """The id of a promotion code that can be used now; 422 for all others."""
    if not call.settings.stripe_promotion_codes:
        raise ApiError(422, "no_promotion_codes", "Promotion codes are not accepted", hint="Leave promotion_code out.")
    found = await call.stripe().v1.promotion_codes.list_async({"code": code, "active": True, "limit": 1})
    if not found.data:
        raise ApiError(
            422,
            "unknown_promotion_code",
            "This promotion code cannot be used",
            details=f"Found {code!r}.",
            hint="Check the spelling; it may also have expired or been used up.",
        )
    return found.data[0].id


async def _with_payment(call: Call[Any], subscription: stripe.Subscription) -> Fetched:
    found = subscription.to_dict()
    invoice = found["latest_invoice"] or None
    payments = ((invoice or {}).get("payments") or {}).get("data", [])
    intents = [each["payment"]["payment_intent"] for each in payments if each["payment"].get("payment_intent")]
    intent = None
    if intents:
        retrieved = await call.stripe().v1.payment_intents.retrieve_async(intents[0], {"expand": ["latest_charge"]})
        intent = retrieved.to_dict()
    return Fetched(
        customer=found["customer"],
        subscription_id=found["id"],
        subscription=_state(found),
        invoice_id=invoice["id"] if invoice else None,
        invoice=_state(invoice) if invoice else None,
        payment_intent_id=intent["id"] if intent else None,
        payment_intent=_state(intent) if intent else None,
        is_refunded=(intent["latest_charge"] or {}).get("refunded") if intent else None,
        client_secret=((invoice or {}).get("confirmation_secret") or {}).get("client_secret"),
    )


def _state(found: Any) -> Mapping[str, Any]:
    parsed = parse_object(found)
    assert parsed  # noqa: S101 - its kind is one of Strive's
    state: Mapping[str, Any] = parsed["state"]
    return state
