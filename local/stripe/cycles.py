"""What time does to subscriptions: trials end, periods renew, cancellations and pauses take effect."""

from typing import Any

from local.stripe import collection, coupons, invoice_items, invoices, items, money
from local.stripe.account import TIMERS, Account, Timer
from local.stripe.api import list_of
from local.stripe.endings import end, period_end
from local.stripe.lines import current_discounts, item_line
from local.stripe.periods import DAY, after
from local.stripe.store import Object

FIRST_PAYMENT = 23 * 3600
TRIAL_NOTICE = 3 * DAY
UPCOMING_DAYS = 7
RENEWING = {"trialing", "active", "past_due", "unpaid"}


def issue(
    account: Account,
    subscription: Object,
    lines: list[Object],
    name: str,
    reason: str,
    period: tuple[int, int],
    **fields: Any,
) -> Object:
    """An invoice of a subscription, with what the subscription says of tax, discounts and collection."""
    automatic = {
        "disabled_reason": None,
        "liability": None,
        "provider": None,
        "status": None,
        "enabled": subscription["automatic_tax"]["enabled"],
    }
    return invoices.issue(
        account,
        subscription["customer"],
        lines,
        name=name,
        currency=subscription["currency"],
        reason=reason,
        period=period,
        subscription=subscription,
        discounts=current_discounts(account, subscription),
        automatic_tax=automatic,
        collection_method=subscription["collection_method"],
        days_until_due=subscription["days_until_due"],
        default_tax_rates=subscription["default_tax_rates"],
        **fields,
    )


def bill_pending(
    account: Account, subscription: Object, reason: str, more: list[Object] | None = None, name: str | None = None
) -> Object | None:
    """Invoice at once what waits, and `more` lines; collected like a renewal."""
    name, now = name or account.name("invoice"), account.now()
    waiting = invoice_items.pending(account, subscription["customer"], subscription["id"], subscription["currency"])
    lines = [*(invoice_items.line_of(account, name, item) for item in waiting), *(more or [])]
    if not lines:
        return None
    invoice = issue(account, subscription, lines, name, reason, (now, now))
    subscription = account.get("subscription", subscription["id"])
    account.change(subscription, None, latest_invoice=invoice["id"])
    return invoices.finalize(account, invoice)


# Renewals ------------------------------------------------------------------------------------------------------------


def renew(account: Account, subscription: Object, *, anchor: int | None = None) -> Object:
    """The next period of a subscription: its items move on, and what it costs becomes a draft."""
    rows, start = subscription["items"]["data"], period_end(subscription)
    anchor = anchor or subscription["billing_cycle_anchor"]
    recurring = rows[0]["price"]["recurring"]
    full = until = after(start, recurring, anchor)
    if subscription["cancel_at"] and start < subscription["cancel_at"] < until:
        until = subscription["cancel_at"]  # the last period is shorter, and costs its share
    _drop_ended(account, subscription, start)
    subscription = account.get("subscription", subscription["id"])
    share = (until - start, full - start) if until != full else (1, 1)
    rows = items.billed(account, subscription, rows, (start, until), share)
    before = subscription["status"]
    name = account.name("invoice")
    amounts = [money.share(money.amount_of(item["price"], item["quantity"]), *share) for item in rows]
    lines = [
        item_line(account, name, subscription, item, (start, until), amount)
        for item, amount in zip(rows, amounts, strict=True)
    ]
    waiting = invoice_items.pending(account, subscription["customer"], subscription["id"], subscription["currency"])
    lines = [*(invoice_items.line_of(account, name, item) for item in waiting), *lines]
    span = (rows[0]["current_period_start"], start) if before == "trialing" else (start - (full - start), start)
    invoice = issue(
        account,
        subscription,
        lines,
        name,
        "subscription_cycle",
        span,
        automatically_finalizes_at=account.now() + invoices.DRAFT_SECONDS,
        auto_advance=before != "unpaid",
    )
    subscription = account.get("subscription", subscription["id"])
    account.change(
        subscription,
        "customer.subscription.updated",
        billing_cycle_anchor=anchor,
        items=list_of(rows, subscription["items"]["url"]),
        latest_invoice=invoice["id"],
        status="active" if before == "trialing" else before,
    )
    _pause_collection(account, subscription, invoice)
    return subscription


def upcoming(account: Account, subscription: Object) -> Object | None:
    """The invoice of the next renewal, as it would be made today."""
    until = period_end(subscription)

    def work() -> None:
        timer, plan = TIMERS["subscription_schedule"], account.store.get(subscription["schedule"] or "")
        if plan and (timer.due(plan) or until + 1) <= until:
            timer.fall_due(account, plan)
        renew(account, account.get("subscription", subscription["id"]))

    with account.at(until):
        return invoices.rehearse(account, work)


def _drop_ended(account: Account, subscription: Object, at: int) -> None:
    ended = [
        name for name in subscription["discounts"] if not coupons.is_current(account, account.get("discount", name), at)
    ]
    for name in ended:
        coupons.drop(account, account.get("discount", name))
    if ended:
        left = [name for name in subscription["discounts"] if name not in ended]
        account.change(subscription, "customer.subscription.updated", discounts=left)


def _pause_collection(account: Account, subscription: Object, invoice: Object) -> None:
    match (subscription["pause_collection"] or {}).get("behavior"):
        case "keep_as_draft":
            account.change(invoice, "invoice.updated", auto_advance=False, automatically_finalizes_at=None)
        case "void":
            invoices.void(account, invoices.finalize(account, invoice))
        case "mark_uncollectible":
            invoices.write_off(account, invoices.finalize(account, invoice))


# Trials and pauses ---------------------------------------------------------------------------------------------------


def notice_trial_end(account: Account, subscription: Object) -> None:
    account.change(subscription, None, _noticed=subscription["trial_end"])
    account.announce("customer.subscription.trial_will_end", subscription)


def end_trial(account: Account, subscription: Object) -> None:
    """The first paid period begins; without a card the subscription's own setting may cancel or pause it instead."""
    missing = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    if missing != "create_invoice" and not collection.card_on_file(account, subscription, subscription["customer"]):
        if missing == "cancel":
            end(account, subscription, "cancellation_requested")
            return
        account.change(subscription, "customer.subscription.updated", status="paused")
        account.announce("customer.subscription.paused", subscription)
        return
    renew(account, subscription, anchor=subscription["trial_end"])


def resume(account: Account, subscription: Object, *, anew: bool) -> Object:
    """A paused subscription is billed from now on; it is active once that is paid."""
    now = account.now()
    rows = subscription["items"]["data"]
    if anew or period_end(subscription) <= now:
        until = after(now, rows[0]["price"]["recurring"], now)
        rows = items.billed(account, subscription, rows, (now, until))
        name = account.name("invoice")
        lines = [item_line(account, name, subscription, item, (now, until)) for item in rows]
        account.change(subscription, None, items=list_of(rows, subscription["items"]["url"]), billing_cycle_anchor=now)
        invoice = bill_pending(account, subscription, "subscription_update", lines, name)
        if invoice and invoice["status"] == "open":
            collection.charge(account, invoice)
    subscription = account.get("subscription", subscription["id"])
    invoice = account.get("invoice", subscription["latest_invoice"])
    if subscription["status"] == "paused" and invoice["status"] == "paid":
        account.change(subscription, None, status="active")
    if subscription["status"] == "active":
        account.announce("customer.subscription.resumed", subscription)
    return subscription


# The clock -----------------------------------------------------------------------------------------------------------


def _moments(subscription: Object) -> dict[str, int]:
    """What happens next to a subscription by itself, and when; of the same moment the first counts."""
    status, found = subscription["status"], {}
    if status == "incomplete":
        return {"expire": subscription["created"] + FIRST_PAYMENT}
    if subscription["pending_update"]:
        found["abandon_update"] = subscription["pending_update"]["expires_at"]
    if status not in RENEWING:
        return found
    until = period_end(subscription)
    if subscription["cancel_at"]:
        found["cancel"] = subscription["cancel_at"]
    if (subscription["pause_collection"] or {}).get("resumes_at"):
        found["resume_collection"] = subscription["pause_collection"]["resumes_at"]
    if status == "trialing" and subscription.get("_noticed") != subscription["trial_end"]:
        found["notice_trial_end"] = subscription["trial_end"] - TRIAL_NOTICE
    elif subscription.get("_announced") != until and status in {"active", "trialing"} and not subscription["cancel_at"]:
        found["announce"] = until - UPCOMING_DAYS * DAY
    found["end_trial" if status == "trialing" else "renew"] = until
    return found


def _due(subscription: Object) -> int | None:
    return min(_moments(subscription).values(), default=None)


def _fall_due(account: Account, subscription: Object) -> None:
    what, _ = min(_moments(subscription).items(), key=lambda moment: moment[1])
    match what:
        case "expire":
            invoices.void(account, account.get("invoice", subscription["latest_invoice"]))
            account.change(
                subscription, "customer.subscription.updated", status="incomplete_expired", ended_at=account.now()
            )
        case "cancel":
            end(account, subscription, subscription["cancellation_details"]["reason"] or "cancellation_requested")
        case "resume_collection":
            account.change(subscription, "customer.subscription.updated", pause_collection=None)
        case "notice_trial_end":
            notice_trial_end(account, subscription)
        case "announce":
            account.change(subscription, None, _announced=period_end(subscription))
            if invoice := upcoming(account, subscription):
                account.announce("invoice.upcoming", invoice)
        case "abandon_update":
            invoice = account.get("invoice", subscription["_pending"]["invoice"])
            if invoice["status"] == "open":
                invoices.void(account, invoice)
            account.change(subscription, None, pending_update=None, _pending=None)
            account.announce("customer.subscription.pending_update_expired", subscription)
        case "end_trial":
            end_trial(account, subscription)
        case _:
            renew(account, subscription)


TIMERS["subscription"] = Timer(_due, _fall_due)
