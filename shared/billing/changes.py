"""Change the plan of a subscription at Stripe: more now, with proration; less, or another cycle, at period end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import stripe

from shared.app.call import Call
from shared.billing.plans import EXPAND, INTERVALS
from shared.billing.tasks import release_schedule

Change = Mapping[str, Any]


async def apply_change(call: Call[Any], change: Change) -> Any:
    """Make a change of private.plan_change() at Stripe; returns the subscription. Repeating it changes nothing."""
    v1 = call.stripe().v1

    async def change_it(subscription: Any) -> None:
        if change["effect"] == "PERIOD_END":
            await _schedule(v1, subscription, change)
        else:
            await release_schedule(v1, subscription)
            if change["effect"] == "NOW":
                await _change_now(v1, subscription, change)

    await retried(v1, change["subscription"], change_it)
    return await v1.subscriptions.retrieve_async(change["subscription"], {"expand": EXPAND})


async def retried(v1: Any, name: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Work on a subscription; again if Stripe refuses, since other owners may have changed it meanwhile."""
    for pause in (0.1, 0.3, 0.6):
        with suppress(stripe.InvalidRequestError):
            return await work(await v1.subscriptions.retrieve_async(name))
        await asyncio.sleep(pause)
    return await work(await v1.subscriptions.retrieve_async(name))


async def _change_now(v1: Any, subscription: Any, change: Change) -> None:
    """Invoice the difference at once. If it cannot be paid, Stripe refuses and the plan stays as it is."""
    item = _item(subscription, change)
    price, quantity = change["price"], change["quantity"]
    if (item["price"]["id"], item["quantity"]) == (price, quantity):
        return  # another owner was faster
    await v1.subscriptions.update_async(
        change["subscription"],
        {
            "items": [{"id": item["id"], "price": price, "quantity": quantity}],
            "proration_behavior": "always_invoice",
            "payment_behavior": "error_if_incomplete",
            "metadata": {"tier": change["tier"]},
        },
        # Two owners who press the button at the same time send the same request. After it, the invoice is another; a
        # request that a schedule had refused is sent with another schedule.
        {
            "idempotency_key": f"change:{subscription.id}:{price}:{quantity}:{_name(subscription, 'latest_invoice')}"
            f":{_name(subscription, 'schedule')}"
        },
    )


async def _schedule(v1: Any, subscription: Any, change: Change) -> None:
    """Two phases: the present plan until the end of the period, then the new one, and the schedule is over.

    What a phase leaves out is dropped, so both name the discounts and the other items of the subscription.
    """
    item, kept = _item(subscription, change), subscription.to_dict()
    discounts = _discounts(kept)
    present, others = (
        _phase_item(item),
        [_phase_item(each) for each in kept["items"]["data"] if each["id"] != item["id"]],
    )
    wanted = present | {"price": change["price"], "quantity": change["quantity"]}
    if subscription.schedule:
        name = subscription.schedule if isinstance(subscription.schedule, str) else subscription.schedule.id
        schedule = await v1.subscription_schedules.retrieve_async(name)
    else:
        try:
            schedule = await v1.subscription_schedules.create_async({"from_subscription": subscription.id})
        except stripe.InvalidRequestError:
            # Another owner scheduled a change at the same time; the later one wins.
            again = await v1.subscriptions.retrieve_async(subscription.id)
            if not again.schedule:
                raise
            schedule = await v1.subscription_schedules.retrieve_async(again.schedule)
    now = schedule.to_dict()["phases"][0]
    phases: list[Any] = [
        {
            "items": [present, *others],
            "start_date": now["start_date"],
            "end_date": item["current_period_end"],
            "proration_behavior": "none",
            "discounts": discounts,
            **({"trial_end": now["trial_end"]} if now.get("trial_end") else {}),
        },
        {
            "items": [wanted, *others],
            "duration": {"interval": INTERVALS[change["billing_cycle"]], "interval_count": 1},
            "proration_behavior": "none",
            "discounts": discounts,
            "metadata": {"tier": change["tier"]},
        },
    ]
    await v1.subscription_schedules.update_async(
        schedule.id, {"end_behavior": "release", "proration_behavior": "none", "phases": phases}
    )


async def preview_change(call: Call[Any], change: Change) -> dict[str, Any]:
    """What a change costs: now, and with the next invoice. Nothing is changed."""
    v1 = call.stripe().v1
    subscription = await v1.subscriptions.retrieve_async(change["subscription"])
    item = _item(subscription, change)
    items = [{"id": item["id"], "price": change["price"], "quantity": change["quantity"]}]

    async def preview(proration: str) -> Any:
        details = {"items": items, "proration_behavior": proration}
        request: Any = {"subscription": subscription.id, "subscription_details": details}
        return (await v1.invoices.create_preview_async(request)).to_dict()

    due_now = await preview("always_invoice") if change["effect"] == "NOW" else None
    ends_at, renews_at = subscription.cancel_at, item["current_period_end"]
    is_leaving = subscription.cancel_at_period_end or (ends_at is not None and ends_at <= renews_at)
    renewal = None if is_leaving else await preview("none")
    return {
        "takes_effect": change["effect"],
        "effective_at": change["at"],
        "currency": change["currency"],
        "due_now": _amounts(due_now) if due_now else None,
        "lines": [_line(line) for line in due_now["lines"]["data"]] if due_now else [],
        "next_invoice": renewal and _amounts(renewal) | {"at": datetime.fromtimestamp(renews_at, UTC).isoformat()},
    }


def _item(subscription: Any, change: Change) -> dict[str, Any]:
    """The item of the plan; support may have added others at Stripe."""
    items: list[dict[str, Any]] = subscription.to_dict()["items"]["data"]
    return next((each for each in items if each["price"]["id"] in {change["present_price"], change["price"]}), items[0])


def _phase_item(item: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"price": item["price"]["id"], "discounts": _discounts(item)}
    return kept if item["quantity"] is None else kept | {"quantity": item["quantity"]}


def _discounts(of: Mapping[str, Any]) -> Any:
    return [{"discount": each if isinstance(each, str) else each["id"]} for each in of.get("discounts") or []]


def _name(subscription: Any, field: str) -> str | None:
    found = subscription.to_dict().get(field)
    name: str | None = found["id"] if isinstance(found, dict) else found
    return name


def _amounts(invoice: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "subtotal_cents": invoice["subtotal"],
        "discount_cents": sum(each["amount"] for each in invoice.get("total_discount_amounts") or []),
        "tax_cents": sum(each["amount"] for each in invoice.get("total_taxes") or []),
        "total_cents": invoice["total"],
        "amount_due_cents": invoice["amount_due"],
    }


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": line.get("description"),
        "amount_cents": line["amount"],
        "period_start": datetime.fromtimestamp(line["period"]["start"], UTC).isoformat(),
        "period_end": datetime.fromtimestamp(line["period"]["end"], UTC).isoformat(),
    }
