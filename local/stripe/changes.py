"""Changes of a subscription: items with proration, trial, discounts, cancellation, pause."""

from typing import Any

from local.stripe import collection, coupons, cycles, invoices, items, taxes
from local.stripe.account import Account
from local.stripe.api import list_of
from local.stripe.customers import own_method
from local.stripe.endings import DETAILS, cancellation, details, period_end
from local.stripe.errors import ApiError
from local.stripe.lines import item_line, net_amounts
from local.stripe.parameters import picked
from local.stripe.periods import after
from local.stripe.store import Object, copied

UPDATE = (
    f"{items.CHANGED_ITEMS} {items.EXTRA} {coupons.DISCOUNTS} {invoices.AUTOMATIC} {DETAILS}"
    " billing_cycle_anchor:(now|unchanged)"
    " cancel_at:ending cancel_at_period_end:bool collection_method:(charge_automatically|send_invoice)"
    " days_until_due:count"
    " default_payment_method default_tax_rates[] description metadata:metadata off_session:bool"
    " pause_collection{behavior!:(keep_as_draft|mark_uncollectible|void) resumes_at:time}"
    " payment_behavior:(allow_incomplete|default_incomplete|error_if_incomplete|pending_if_incomplete)"
    " payment_settings{save_default_payment_method:(off|on_subscription) payment_method_types[]:(card)}"
    " proration_behavior:(always_invoice|create_prorations|none) proration_date:time trial_end:moment"
    " trial_settings{end_behavior!{missing_payment_method!:(cancel|create_invoice|pause)}}"
)
ENDED = {"canceled", "incomplete_expired"}
# What waits for the payment under `payment_behavior=pending_if_incomplete`.
PENDING = "items billing_cycle_anchor trial_end trial_start status"


def change(account: Account, subscription: Object, values: Object) -> Object:
    if subscription["status"] in ENDED:
        if values.keys() - {"metadata", "cancellation_details"}:
            raise ApiError("A canceled subscription can only update its cancellation_details and metadata.")
        reason = subscription["cancellation_details"]["reason"]
        fields = picked(values, "metadata")
        fields["cancellation_details"] = details(subscription, values.get("cancellation_details"), reason)
        return account.change(subscription, None, **fields)
    plain = _plain(account, subscription, values)
    if values.get("payment_behavior") == "pending_if_incomplete":
        _apply_when_paid(account, subscription, values, plain)
    else:
        invoice = _apply(account, subscription, values, plain)
        if invoice and _is_collected(invoice) and values.get("payment_behavior") != "default_incomplete":
            _collect(account, invoice, values.get("payment_behavior", "allow_incomplete"))
    return account.get("subscription", subscription["id"])


def _is_collected(invoice: Object) -> bool:
    return bool(invoice["status"] == "open" and invoice["collection_method"] == "charge_automatically")


def _collect(account: Account, invoice: Object, behavior: str) -> None:
    invoice = collection.charge(account, invoice)
    if invoice["status"] == "open" and behavior == "error_if_incomplete":
        error = account.get("payment_intent", invoice["_intent"])["last_payment_error"] or {}
        raise ApiError(
            error.get("message", "This customer has no attached payment source or default payment method."),
            status=402,
            kind="card_error",
            code=error.get("code", "card_declined"),
            decline_code=error.get("decline_code"),
        )


def _apply_when_paid(account: Account, subscription: Object, values: Object, plain: Object) -> None:
    """The change takes effect once its invoice is paid; until then it waits as `pending_update`."""
    before, name = copied(subscription), subscription["id"]
    account.muted = "customer.subscription.updated"
    try:
        invoice = _apply(account, subscription, values, plain)
        if invoice and _is_collected(invoice):
            invoice = collection.charge(account, invoice)
    finally:
        account.muted = None
    now = account.get("subscription", name)
    if not invoice or invoice["status"] != "open":
        account.announce("customer.subscription.updated", now, before)
        return
    wanted = {each: now[each] for each in PENDING.split()}
    pending = {
        "billing_cycle_anchor": wanted["billing_cycle_anchor"],
        "expires_at": account.now() + cycles.FIRST_PAYMENT,
        "subscription_items": wanted["items"]["data"],
        "trial_end": wanted["trial_end"],
        "trial_from_plan": None,
    }
    waits = {"invoice": invoice["id"], "fields": {**wanted, "status": "active"}}
    account.change(
        before,
        "customer.subscription.updated",
        latest_invoice=invoice["id"],
        pending_update=pending,
        _pending=waits,
    )


def _plain(account: Account, subscription: Object, values: Object) -> Object:
    """The fields that are simply set."""
    customer = subscription["customer"]
    fields = picked(values, "metadata description collection_method days_until_due pause_collection")
    if "default_payment_method" in values:
        card = values["default_payment_method"]
        fields["default_payment_method"] = own_method(account, card, customer)["id"] if card else None
    for name in "payment_settings", "trial_settings", "automatic_tax":
        if values.get(name):
            fields[name] = {**subscription[name], **values[name]}
    taxes.expect_location(account, customer, values.get("automatic_tax"))
    if fields.get("pause_collection"):
        fields["pause_collection"] = {"resumes_at": None, **fields["pause_collection"]}
    if "default_tax_rates" in values:
        fields["default_tax_rates"] = taxes.check_rates(account, values["default_tax_rates"], "default_tax_rates")
    if "discounts" in values:
        amount = items.amount(subscription["items"]["data"])
        fields["discounts"] = coupons.redeem(
            account,
            values["discounts"],
            amount,
            subscription["currency"],
            customer=customer,
            subscription=subscription["id"],
        )
    return fields | _cancellation(account, subscription, values)


def _cancellation(account: Account, subscription: Object, values: Object) -> Object:
    given = values.get("cancellation_details")
    if subscription["schedule"] and {"cancel_at", "cancel_at_period_end"} & values.keys():
        raise ApiError(
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating any"
            " cancelation behavior directly is not allowed."  # codespell:ignore cancelation
            " Please update the schedule instead."
        )
    if values.get("cancel_at") and values.get("cancel_at_period_end"):
        raise ApiError("You can only set one of `cancel_at` and `cancel_at_period_end`.", param="cancel_at")
    fields: Object = {}
    if "cancel_at_period_end" in values:
        wanted = bool(values["cancel_at_period_end"])
        if wanted or subscription["cancel_at_period_end"] or subscription["cancel_at"]:
            fields = cancellation(account, subscription, at_period_end=wanted)
    elif "cancel_at" in values:
        moment = values["cancel_at"]
        if isinstance(moment, str):
            moment = period_end(subscription)  # the items of a subscription end together
        if moment is not None and moment <= account.now():
            raise ApiError("Invalid timestamp: `cancel_at` must be in the future", param="cancel_at")
        fields = {"cancel_at": moment, "cancel_at_period_end": False, "canceled_at": account.now() if moment else None}
        fields["cancellation_details"] = details(subscription, None, "cancellation_requested" if moment else None)
    if given:
        reason = (subscription | fields)["cancellation_details"]["reason"]
        fields["cancellation_details"] = details(subscription, given, reason)
    return fields


# Items, trial and anchor ---------------------------------------------------------------------------------------------


def _apply(account: Account, subscription: Object, values: Object, plain: Object) -> Object | None:
    """Set the fields, prorate what changed, and bill at once where a new period begins."""
    now, old = account.now(), subscription["items"]["data"]
    new = items.changed_items(account, subscription, values["items"]) if values.get("items") else old
    trial = _new_trial(values, subscription, now)
    changed = _changes(old, new)
    starts_over = (
        (
            new[0]["price"]["recurring"] != old[0]["price"]["recurring"]
            or values.get("billing_cycle_anchor") == "now"
            or (subscription["status"] == "active" and items.amount(old) == 0 < items.amount(new))
            or trial == "ended"
        )
        and subscription["status"] != "trialing"
    ) or trial == "ended"
    fields = {**plain, "items": list_of(new, subscription["items"]["url"])}
    if isinstance(trial, int):
        fields |= _trial(account, subscription, values, new, trial)
    elif subscription["status"] in {"active", "past_due"} and (changed or starts_over) and trial != "ended":
        fields["items"]["data"] = _prorated(account, subscription | plain, values, old, new, starts_over=starts_over)
    if starts_over and subscription["status"] != "incomplete":
        return _start_over(account, subscription, fields, trial_ended=trial == "ended")
    account.change(subscription, "customer.subscription.updated", **fields)
    if changed and values.get("proration_behavior") == "always_invoice" and subscription["status"] != "trialing":
        return _billed(account, subscription["id"])
    return None


def _changes(old: list[Object], new: list[Object]) -> list[tuple[Object | None, Object | None]]:
    by_id = {item["id"]: item for item in new}
    pairs: list[tuple[Object | None, Object | None]] = [(item, by_id.pop(item["id"], None)) for item in old]
    pairs += [(None, item) for item in by_id.values()]
    return [(before, after_) for before, after_ in pairs if items.differs(before, after_)]


def _prorated(
    account: Account, subscription: Object, values: Object, old: list[Object], new: list[Object], *, starts_over: bool
) -> list[Object]:
    if values.get("proration_behavior") == "none":
        return new
    at = values.get("proration_date") or account.now()
    first = old[0]
    if not first["current_period_start"] <= at <= first["current_period_end"]:
        raise ApiError("Cannot specify `proration_date` outside the current period.", param="proration_date")
    if starts_over:
        for item in old:
            items.credit_unused(account, subscription, item, at)
        return new
    amounts = dict(zip((item["id"] for item in new), net_amounts(account, subscription, new), strict=True))
    changed = {after_["id"]: after_ for _, after_ in _changes(old, new) if after_}
    for before, _ in _changes(old, new):
        if before:
            items.credit_unused(account, subscription, before, at)
    return [
        items.debit_remaining(account, subscription, item, amounts[item["id"]], at) if item["id"] in changed else item
        for item in new
    ]


def _start_over(account: Account, subscription: Object, fields: Object, *, trial_ended: bool) -> Object | None:
    """A new period from now on, billed at once."""
    now, rows = account.now(), fields["items"]["data"]
    until = after(now, rows[0]["price"]["recurring"], now)
    merged, ended = {**subscription, **fields}, now >= period_end(subscription)
    fields["items"]["data"] = items.billed(account, merged, rows, (now, until))
    fields["billing_cycle_anchor"] = now
    if trial_ended:
        fields |= {"trial_end": now, "status": "active"}
    if subscription["cancel_at_period_end"] and "cancel_at" not in fields:
        fields["cancel_at"] = until
    account.change(subscription, "customer.subscription.updated", **fields)
    name = account.name("invoice")
    lines = [item_line(account, name, subscription, item, (now, until)) for item in fields["items"]["data"]]
    reason = "subscription_cycle" if ended else "subscription_update"
    return _billed(account, subscription["id"], lines, name, reason)


def _billed(
    account: Account,
    name: str,
    lines: list[Object] | None = None,
    invoice_name: str | None = None,
    reason: str = "subscription_update",
) -> Object | None:
    subscription = account.get("subscription", name)
    before = subscription["latest_invoice"]
    invoice = cycles.bill_pending(account, subscription, reason, lines, invoice_name)
    if invoice:
        subscription = account.get("subscription", name)
        subscription["latest_invoice"] = before
        account.change(subscription, "customer.subscription.updated", latest_invoice=invoice["id"])
    return invoice


def _new_trial(values: Object, subscription: Object, now: int) -> Any:
    """A later trial end, `ended` for one that ends now, or None."""
    moment = values.get("trial_end")
    if moment is None:
        return None
    if moment == "now":
        return "ended" if subscription["status"] == "trialing" else None
    if moment <= now:
        raise ApiError("Invalid timestamp: `trial_end` must be in the future", param="trial_end")
    return moment


def _trial(account: Account, subscription: Object, values: Object, rows: list[Object], until: int) -> Object:
    """Extend a trial, or give one to a running subscription: unused paid time is credited."""
    now = account.now()
    running = subscription["status"] == "trialing"
    if not running and values.get("proration_behavior") != "none":
        for item in rows:
            items.credit_unused(account, subscription, item, now)
    start = rows[0]["current_period_start"] if running else now
    moved = [{**item, "current_period_start": start, "current_period_end": until, "_debits": []} for item in rows]
    fields: Object = {
        "billing_cycle_anchor": until,
        "items": list_of(moved, subscription["items"]["url"]),
        "status": "trialing",
        "trial_end": until,
        "trial_start": subscription["trial_start"] if running else now,
    }
    if subscription["cancel_at"] == period_end(subscription):
        fields["cancel_at"] = until
    return fields
