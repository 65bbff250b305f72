"""Buy a plan in Stripe Checkout: one open session per organization, for repeated and concurrent requests."""

from collections.abc import Mapping
from typing import Any

import stripe

from shared.app.call import Call
from shared.billing.events import parse_object
from shared.billing.plans import run
from shared.errors import ApiError

ATTEMPTS = 4


async def open_checkout(call: Call[Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """The open session of the current organization for a plan: created, or the one that is open already."""
    v1 = call.stripe().v1
    for _ in range(ATTEMPTS):
        begun = await run(call, "private.begin_checkout", request)
        if replaced := begun.get("replaced"):
            await _expire(call, replaced)
            continue
        checkout = begun["checkout"]
        if checkout["stripe_session_id"]:
            session = await v1.checkout.sessions.retrieve_async(checkout["stripe_session_id"])
            if session.status == "open":
                return _shown(checkout, session)
            await _close(call, checkout, session)
            continue
        try:
            customer = begun["customer"] or await _create_customer(call, begun)
            session = await v1.checkout.sessions.create_async(
                _parameters(call, checkout, customer), {"idempotency_key": f"checkout:{checkout['id']}"}
            )
        except stripe.InvalidRequestError as error:
            # A refused request is kept under its key: the next attempt is another checkout.
            await run(call, "private.save_checkout", {"id": checkout["id"], "status": "EXPIRED"})
            if error.code == "resource_missing" and begun["customer"] and await _was_deleted(call, begun["customer"]):
                continue
            raise
        if await run(call, "private.save_checkout", {"id": checkout["id"], "session": session.id}):
            return _shown(checkout, session)
        # Another owner replaced the checkout before its page was known.
        await _expire(call, checkout | {"stripe_session_id": session.id})
    raise ApiError(
        409,
        "checkout_changes",
        "Another owner changes the checkout at the same time",
        hint="Try again in a moment.",
    )


async def _create_customer(call: Call[Any], begun: Mapping[str, Any]) -> str:
    about: Any = {name: begun[name] for name in ("name", "email") if begun[name]}
    organization = begun["checkout"]["organization_id"]
    about["metadata"] = {"organization_id": organization}
    try:
        created = await call.stripe().v1.customers.create_async(about, {"idempotency_key": begun["customer_key"]})
    except stripe.IdempotencyError:
        # Another owner created it with another e-mail a moment ago, and crashed before saving it.
        found = await call.stripe().v1.customers.search_async(
            {"query": f"metadata['organization_id']:'{organization}'", "limit": 1}
        )
        if not found.data:
            raise
        created = found.data[0]
    saved: str = await run(call, "private.save_customer", {"customer": created.id})
    return saved


def _parameters(call: Call[Any], checkout: Mapping[str, Any], customer: str) -> Any:
    metadata = {"organization_id": checkout["organization_id"], "checkout": checkout["id"]}
    subscription: dict[str, Any] = {"metadata": {**metadata, "tier": checkout["tier"]}}
    if checkout["trial_days"]:
        subscription["trial_period_days"] = checkout["trial_days"]
    parameters: dict[str, Any] = {
        "mode": "subscription",
        "customer": customer,
        "client_reference_id": checkout["organization_id"],
        "line_items": [{"price": checkout["stripe_price_id"], "quantity": checkout["quantity"]}],
        "metadata": metadata,
        "subscription_data": subscription,
        "success_url": checkout["success_url"],
        "cancel_url": checkout["cancel_url"],
    }
    if call.settings.stripe_promotion_codes:
        parameters["allow_promotion_codes"] = True
    if call.settings.stripe_automatic_tax:
        parameters |= {
            "automatic_tax": {"enabled": True},
            "customer_update": {"address": "auto", "name": "auto"},
            "tax_id_collection": {"enabled": True},
        }
    return parameters


async def _expire(call: Call[Any], checkout: Mapping[str, Any]) -> None:
    """Expire a session for another plan. If it was paid meanwhile, the request is refused."""
    session = None
    if name := checkout["stripe_session_id"]:
        try:
            session = await call.stripe().v1.checkout.sessions.expire_async(name)
        except stripe.InvalidRequestError:
            session = await call.stripe().v1.checkout.sessions.retrieve_async(name)
    await _close(call, checkout, session)


async def _close(call: Call[Any], checkout: Mapping[str, Any], session: Any) -> None:
    if session is not None and session.status == "complete":
        await run(call, "private.save_checkout", {"id": checkout["id"], "status": "PAID"})
        raise ApiError(
            409,
            "already_bought",
            "The plan was bought a moment ago",
            details={"tier": checkout["tier"], "billing_cycle": checkout["billing_cycle"]},
            hint="It begins as soon as Stripe's event arrives. Change it afterwards with change-plan.",
        )
    await run(call, "private.save_checkout", {"id": checkout["id"], "status": "EXPIRED"})


async def _was_deleted(call: Call[Any], customer: str) -> bool:
    """Whether the customer was deleted at Stripe; the database then lets the organization become another."""
    try:
        found = await call.stripe().v1.customers.retrieve_async(customer)
    except stripe.InvalidRequestError:
        return False
    if not getattr(found, "deleted", False):
        return False
    await run(call, "private.save_stripe_object", {**(parse_object(found.to_dict()) or {}), "at": 0})
    return True


def _shown(checkout: Mapping[str, Any], session: Any) -> dict[str, Any]:
    return {
        "url": session.url,
        "expires_at": session.expires_at,
        "tier": checkout["tier"],
        "billing_cycle": checkout["billing_cycle"],
        "quantity": checkout["quantity"],
        "trial_days": checkout["trial_days"],
    }
