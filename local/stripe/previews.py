"""Invoice previews: a change is made, its invoice is read, and everything is undone."""

from local.stripe import coupons, cycles, invoice_routes, invoices, items, schedules, subscriptions, taxes
from local.stripe.account import Account
from local.stripe.api import route
from local.stripe.changes import change
from local.stripe.customers import full_address
from local.stripe.endings import end, period_end
from local.stripe.errors import ApiError
from local.stripe.invoice_items import create_invoice_item
from local.stripe.parameters import picked
from local.stripe.phases import PHASES
from local.stripe.store import Object

SUBSCRIPTION = (
    f"subscription_details{{{items.CHANGED_ITEMS} billing_cycle_anchor:moment cancel_at:ending cancel_now:bool"
    " cancel_at_period_end:bool default_tax_rates[] proration_behavior:(always_invoice|create_prorations|none)"
    " proration_date:time trial_end:moment}"
)
FIELDS = "items cancel_at cancel_at_period_end default_tax_rates proration_behavior proration_date trial_end"


@route(
    "POST /v1/invoices/create_preview",
    f"customer subscription schedule currency:currency {invoices.AUTOMATIC}"
    f" {SUBSCRIPTION} {coupons.DISCOUNTS} schedule_details{{{PHASES} end_behavior:(cancel|release)}}"
    " invoice_items[]{amount:int currency:currency description price quantity:count}"
    " customer_details{address{city country line1 line2 postal_code state} tax_exempt:(none|exempt|reverse)}"
    " preview_mode:(next)",
)
def create_preview(account: Account, values: Object, _place: dict[str, str]) -> Object:
    wanted = values.get("subscription_details") or {}
    name = values.get("subscription")
    if schedule := values.get("schedule"):
        name = account.referred("subscription_schedule", schedule, "schedule")["subscription"]
    if not name and not values.get("customer") and not wanted.get("items"):
        raise ApiError(
            "You must specify one of `customer`, `subscription`, `schedule` or `subscription_details[items]`."
        )
    subscription = account.referred("subscription", name, "subscription") if name else None
    with account.store.rehearsal():
        customer = _customer(account, values, subscription)
        if subscription:
            made = _of_change(account, subscription, values, wanted)
        else:
            made = _of_new(account, customer, values, wanted)
    if not made:
        raise ApiError(f"No upcoming invoices for customer: {customer['id']}", status=404, code="invoice_upcoming_none")
    return made


def _customer(account: Account, values: Object, subscription: Object | None) -> Object:
    """The customer as the preview supposes them."""
    name = subscription["customer"] if subscription else values.get("customer")
    customer = (
        account.referred("customer", name, "customer") if name else account.new("customer", invoice_prefix="PREVIEW")
    )
    supposed = values.get("customer_details") or {}
    if supposed.get("address"):
        supposed["address"] = full_address(supposed["address"])
    return account.change(customer, None, **supposed)


def _of_change(account: Account, subscription: Object, values: Object, wanted: Object) -> Object | None:
    if subscription["ended_at"]:
        return None
    given = picked(wanted, FIELDS) | picked(values, "discounts automatic_tax")
    if wanted.get("billing_cycle_anchor") in {"now", "unchanged"}:
        given["billing_cycle_anchor"] = wanted["billing_cycle_anchor"]
    _add_items(account, subscription["customer"], values, subscription)
    if wanted.get("cancel_now"):
        return invoices.rehearse(account, lambda: _cancel(account, subscription, wanted))
    if given and (at_once := invoices.rehearse(account, lambda: change(account, subscription, dict(given)))):
        return at_once
    if given:
        change(account, account.get("subscription", subscription["id"]), given)
    subscription = account.get("subscription", subscription["id"])
    if details := values.get("schedule_details"):
        return schedules.preview(account, subscription, details)
    if subscription["cancel_at"] and subscription["cancel_at"] <= period_end(subscription):
        return None
    return cycles.upcoming(account, subscription)


def _cancel(account: Account, subscription: Object, wanted: Object) -> None:
    if wanted.get("proration_behavior", "create_prorations") != "none":
        for item in subscription["items"]["data"]:
            items.credit_unused(account, subscription, item, wanted.get("proration_date") or account.now())
    cycles.bill_pending(account, subscription, "subscription_update")
    end(account, subscription)


def _of_new(account: Account, customer: Object, values: Object, wanted: Object) -> Object | None:
    """The first invoice of a subscription that does not exist, or of what waits for the customer."""
    _add_items(account, customer["id"], values, None)
    if wanted.get("items"):
        given = picked(wanted, "items cancel_at cancel_at_period_end default_tax_rates proration_behavior trial_end")
        given |= picked(values, "discounts automatic_tax")
        given |= {"customer": customer["id"], "payment_behavior": "default_incomplete"}
        if isinstance(wanted.get("billing_cycle_anchor"), int):
            given["billing_cycle_anchor"] = wanted["billing_cycle_anchor"]
        return invoices.rehearse(account, lambda: subscriptions.begin(account, given))
    taxes.expect_location(account, customer["id"], values.get("automatic_tax"))
    given = {
        "customer": customer["id"],
        "pending_invoice_items_behavior": "include",
        **picked(values, "currency discounts automatic_tax"),
    }
    made = invoices.rehearse(account, lambda: invoice_routes.create_invoice(account, given, {}))
    return made if made and made["lines"]["data"] else None


def _add_items(account: Account, customer: str, values: Object, subscription: Object | None) -> None:
    for each in values.get("invoice_items") or []:
        given = {**each, "customer": customer}
        if subscription:
            given["subscription"] = subscription["id"]
        create_invoice_item(account, given, {})
