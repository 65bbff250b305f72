"""Refund what the queue of refunds (public.refunds_due) says, once per entry and try."""

import json
from collections.abc import Mapping
from typing import Any

import stripe

from shared.app.call import Call
from shared.billing.kinds import ENDED

ACCEPTED = {"succeeded", "pending"}


async def refund(call: Call[Any], due: Mapping[str, Any]) -> None:
    """Refund a payment. Only a refund that a person requested keeps the subscription and may be partial."""
    v1 = call.stripe().v1
    result: dict[str, Any] = {"id": due["id"]}
    intent = due["stripe_payment_intent_id"]
    try:
        if due["reason"] != "REQUESTED" and due["object_id"].startswith("sub_"):
            found = (
                await v1.subscriptions.retrieve_async(due["object_id"], {"expand": ["latest_invoice.payments"]})
            ).to_dict()
            if found["status"] not in ENDED:
                await v1.subscriptions.cancel_async(due["object_id"])
            intent = _intent_of(found["latest_invoice"]) or intent
        elif not intent:
            invoice = await v1.invoices.retrieve_async(due["object_id"], {"expand": ["payments"]})
            intent = _intent_of(invoice.to_dict())
        if not intent and not due["amount_cents"]:
            result |= {"status": "REFUNDED"}  # nothing was paid: cancelling was all
        elif not intent:
            result |= {"status": "FAILED", "error": "Stripe has no payment of it."}
        else:
            parameters: Any = {"payment_intent": intent, "metadata": {"refund_due": due["id"]}}
            if due["reason"] == "REQUESTED":
                parameters["amount"] = due["amount_cents"]
            key = f"refund:{due['id']}:{due['tries']}"
            made = await v1.refunds.create_async(parameters, {"idempotency_key": key})
            accepted = made.status in ACCEPTED
            result |= {"refund": made.id, "status": "REFUNDED" if accepted else "FAILED"}
            result["error"] = None if accepted else f"Stripe says: {made.status}."
    except stripe.InvalidRequestError as error:
        if error.code == "charge_already_refunded":
            result |= {"status": "REFUNDED"}
        else:
            result |= {"status": "FAILED", "error": f"Stripe refused: {error.code or error.user_message}."}
    await call.run("private.record_refund", json.dumps(result))


def _intent_of(invoice: Any) -> str | None:
    payments = ((invoice or {}).get("payments") or {}).get("data", [])
    found = [each["payment"]["payment_intent"] for each in payments if each["payment"].get("payment_intent")]
    return found[0] if found else None
