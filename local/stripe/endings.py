"""How subscriptions are cancelled and end."""

from local.stripe.account import Account
from local.stripe.api import subscription_of
from local.stripe.store import Object

FEEDBACK = "(customer_service|low_quality|missing_features|other|switched_service|too_complex|too_expensive|unused)"
DETAILS = f"cancellation_details{{comment feedback:{FEEDBACK}}}"


def period_end(subscription: Object) -> int:
    return max(int(item["current_period_end"]) for item in subscription["items"]["data"])


def details(subscription: Object, values: Object | None, reason: str | None) -> Object:
    return {**subscription["cancellation_details"], **(values or {}), "reason": reason}


def cancellation(account: Account, subscription: Object, *, at_period_end: bool, by_portal: bool = False) -> Object:
    """The fields of a cancellation at the end of the period; the portal sets `cancel_at` alone (flexible billing)."""
    return {
        "cancel_at": period_end(subscription) if at_period_end else None,
        "cancel_at_period_end": at_period_end and not by_portal,
        "canceled_at": account.now() if at_period_end else None,
        "cancellation_details": details(subscription, None, "cancellation_requested" if at_period_end else None),
    }


def end(
    account: Account, subscription: Object, reason: str = "cancellation_requested", values: Object | None = None
) -> Object:
    """Open invoices stay open and payable, but are no longer collected; drafts are no longer finalized."""
    now = account.now()
    for invoice in account.store.of("invoice", subscription["customer"]):
        if subscription_of(invoice) == subscription["id"] and invoice["status"] in {"open", "draft"}:
            account.change(invoice, "invoice.updated", auto_advance=False, next_payment_attempt=None)
    if schedule := subscription["schedule"]:
        plan = account.get("subscription_schedule", schedule)
        if plan["status"] == "active":
            account.change(
                plan, "subscription_schedule.canceled", status="canceled", canceled_at=now, current_phase=None
            )
    return account.change(
        account.get("subscription", subscription["id"]),
        "customer.subscription.deleted",
        status="canceled",
        canceled_at=subscription["canceled_at"] or now,
        ended_at=now,
        cancellation_details=details(subscription, values, reason),
        pending_update=None,
        _pending=None,
    )
