"""The payments of onboarding at Stripe: begun, looked at, let go of and given back.

Whatever is learnt goes to private.follow_onboarding_payment(), which decides; here is only the asking. Every step may
fail or be the last one, and every step may be done again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import stripe

from shared.app.call import Call
from shared.logs import log

Payment = Mapping[str, Any]


class SpentKeyError(Exception):
    """Stripe failed and remembers that under the key: the same question gets the same failure. It takes another try."""


STATUS = {
    "requires_payment_method": "PENDING",
    "requires_confirmation": "PENDING",
    "requires_action": "REQUIRES_ACTION",
    "processing": "PROCESSING",
    "requires_capture": "PROCESSING",
    "succeeded": "SUCCEEDED",
    "canceled": "CANCELLED",
}
EXPAND = ["latest_invoice.confirmation_secret", "latest_invoice.payments"]
OVER = {"canceled", "incomplete_expired"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A payment as Stripe has it: the facts the database judges, and what only the customer's browser may know."""

    facts: Mapping[str, Any]
    client_secret: str | None
    invoice: str | None

    @property
    def may_still_be_paid(self) -> bool:
        return self.facts["payment_status"] not in {"SUCCEEDED", "PROCESSING", "CANCELLED"}


async def ask(call: Call[Any], operation: str, payload: Any) -> Any:
    """What an operation of the database answers, read."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    answer = (await call.run(operation, text)).json
    return json.loads(answer) if answer else None


async def start(call: Call[Any], asked: str) -> Seen:
    """Begin the payment of a session, or go on with the one that was begun; what it replaces is let go of first."""
    while True:
        begun = await ask(call, "private.begin_onboarding_payment", asked)
        for replaced in begun["let_go"]:
            await let_go(call, replaced)
        try:
            return await begin(call, begun["payment"])
        except SpentKeyError:
            await ask(call, "private.give_up_onboarding_payment", begun["payment"])


async def begin(call: Call[Any], payment: Payment) -> Seen:
    """The payment at Stripe: made, or if that was done before and forgotten, found again by its key."""
    if payment["stripe_subscription_id"]:
        return await look(call, payment["stripe_subscription_id"])
    key = f"onb:{payment['session_id']}:{{}}:{payment['attempt']}"
    metadata = {
        "onboarding_session": payment["session_id"],
        "onboarding_attempt": str(payment["attempt"]),
        "tier": payment["tier"],
        "billing_cycle": payment["billing_cycle"],
    }
    v1 = call.stripe().v1
    if not (customer := payment["stripe_customer_id"]):
        named = {name: payment[f"billing_{name}"] for name in ("name", "email") if payment[f"billing_{name}"]}
        about: Any = {**named, "metadata": {"onboarding_session": payment["session_id"]}}
        try:
            customer = (await v1.customers.create_async(about, {"idempotency_key": key.format("customer")})).id
        except stripe.APIError as error:
            raise _spent(error) from error
    try:
        subscription = await v1.subscriptions.create_async(
            {
                "customer": customer,
                "items": [{"price": payment["stripe_price_id"], "quantity": 1}],
                "payment_behavior": "default_incomplete",
                "payment_settings": {"save_default_payment_method": "on_subscription"},
                "metadata": metadata,
                "expand": EXPAND,
            },
            {"idempotency_key": key.format("payment")},
        )
    except stripe.APIError as error:
        spent = _spent(error)
        # It may have been made all the same.
        made = await v1.subscriptions.list_async({"customer": customer, "status": "all", "limit": 100})
        for each in made.data:
            if metadata.items() <= each.to_dict()["metadata"].items():
                return await look(call, each.id)
        raise spent from error
    return await _see(call, subscription)


def _spent(error: stripe.APIError) -> Exception:
    replayed = (error.headers or {}).get("idempotent-replayed") == "true"
    return SpentKeyError() if replayed else error


async def look(call: Call[Any], subscription: str) -> Seen:
    return await _see(call, await call.stripe().v1.subscriptions.retrieve_async(subscription, {"expand": EXPAND}))


async def observe(call: Call[Any], payment: Payment) -> Any:
    """Ask Stripe how a payment is, and let follow what follows."""
    return await follow(call, await begin(call, payment))


async def follow(call: Call[Any], seen: Seen) -> Any:
    return await ask(call, "private.follow_onboarding_payment", seen.facts)


async def let_go(call: Call[Any], payment: Payment) -> Any:
    """Cancel a payment that was replaced or has expired; one that succeeds all the same is given back.

    Its invoice is voided first: Stripe does that only while nothing was paid, so no paid subscription is ever cancelled
    by this.
    """
    if not payment["stripe_subscription_id"] and not payment["is_remembered"]:
        return await ask(call, "private.settle_onboarding_payment", payment)
    try:
        seen = await begin(call, payment)
    except SpentKeyError:
        return None  # as far as is known it was never made; asked again until that is certain
    if seen.may_still_be_paid:
        v1 = call.stripe().v1
        try:
            if seen.invoice:
                await v1.invoices.void_invoice_async(seen.invoice)
            if seen.facts["subscription_status"] not in OVER:
                await v1.subscriptions.cancel_async(seen.facts["subscription"])
        except stripe.InvalidRequestError:
            pass  # paid or ended meanwhile: what it is now is looked at below
        seen = await look(call, seen.facts["subscription"])
    return await follow(call, seen)


async def let_go_if_possible(call: Call[Any], payments: list[Payment]) -> None:
    """Nobody waits for this: what Stripe cannot do now stands in the list of the job, and before the next payment."""
    for payment in payments:
        try:
            await let_go(call, payment)
        except stripe.StripeError as error:
            log("WARNING", "a payment could not be let go of yet", why=type(error).__qualname__)


async def give_back(call: Call[Any], refund: Mapping[str, Any]) -> None:
    """Refund a payment in full and end its subscription. What Stripe refuses for good is shown to a person."""
    v1 = call.stripe().v1
    seen = await look(call, refund["object_id"])
    done: dict[str, Any] = {"id": refund["id"]}
    try:
        if seen.facts["subscription_status"] not in OVER:
            await v1.subscriptions.cancel_async(refund["object_id"])
        made = await v1.refunds.create_async(
            {"payment_intent": seen.facts["payment_intent"], "metadata": {"refund_due": refund["id"]}},
            {"idempotency_key": f"refund:{refund['id']}:{refund['tries']}"},
        )
        refused = made.status not in {"succeeded", "pending"}
        done |= {"refund": made.id, "status": "FAILED" if refused else "REFUNDED"}
        done["error"] = f"Stripe says: {made.status}." if refused else None
    except stripe.InvalidRequestError as error:
        already = error.code == "charge_already_refunded"
        done |= {"status": "REFUNDED"} if already else {"status": "FAILED", "error": f"Stripe refused: {error.code}."}
    await ask(call, "private.record_refund", done)


async def _see(call: Call[Any], subscription: stripe.Subscription) -> Seen:
    found = subscription.to_dict()
    invoice = found["latest_invoice"] or {}
    items = found["items"]["data"]
    item = items[0] if len(items) == 1 else {"price": {"id": f"{len(items)} prices"}}
    facts = {
        "session_id": found["metadata"].get("onboarding_session"),
        "attempt": found["metadata"].get("onboarding_attempt"),
        "tier": found["metadata"].get("tier"),
        "customer": found["customer"],
        "subscription": found["id"],
        "subscription_status": found["status"],
        "price": item["price"]["id"],
        "quantity": item.get("quantity"),
        "period_start": item.get("current_period_start"),
        "period_end": item.get("current_period_end"),
        "payment_intent": None,
        "payment_status": None,
    }
    payments = (invoice.get("payments") or {}).get("data", [])
    if names := [each["payment"]["payment_intent"] for each in payments if each["payment"].get("payment_intent")]:
        asked = await call.stripe().v1.payment_intents.retrieve_async(names[0], {"expand": ["latest_charge"]})
        intent = asked.to_dict()
        paid = intent["status"] == "succeeded"
        failed = intent["status"] == "requires_payment_method" and intent.get("last_payment_error")
        facts |= {
            "payment_intent": intent["id"],
            "payment_status": "FAILED" if failed else STATUS[intent["status"]],
            "amount_cents": intent["amount_received"] if paid else intent["amount"],
            "currency": intent["currency"],
            "refunded": (intent["latest_charge"] or {}).get("refunded"),
        }
    secret = invoice.get("confirmation_secret") or {}
    return Seen(facts, secret.get("client_secret"), invoice.get("id"))
