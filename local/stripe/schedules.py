"""Subscription schedules: phases that change a subscription at their time."""

from typing import Any

from local.stripe import cycles, invoices, subscriptions
from local.stripe.account import TIMERS, Account, Timer
from local.stripe.api import resource, route
from local.stripe.changes import change
from local.stripe.endings import end
from local.stripe.errors import ApiError
from local.stripe.parameters import merged, picked
from local.stripe.phases import NEW_PHASES, PHASES, new_phase, phase_discount, phase_item, read_phases
from local.stripe.store import Object

SETTINGS = (
    f"default_settings{{default_payment_method collection_method:(charge_automatically|send_invoice)"
    f" {invoices.AUTOMATIC}"
    " billing_cycle_anchor:(automatic|phase_start) description}"
)
OVER = {"released", "canceled", "completed"}

resource("subscription_schedules", "subscription_schedule", filters="created:range customer")


@route(
    "POST /v1/subscription_schedules",
    f"customer from_subscription start_date:moment {NEW_PHASES} {SETTINGS} metadata:metadata"
    " end_behavior:(cancel|release) billing_mode{type!:(flexible|classic)}",
)
def create_schedule(account: Account, values: Object, _place: dict[str, str]) -> Object:
    if name := values.get("from_subscription"):
        if values.get("phases"):
            raise ApiError("You cannot set `phases` together with `from_subscription`.", param="phases")
        return from_subscription(account, account.referred("subscription", name, "from_subscription"), values)
    if not values.get("customer"):
        raise ApiError("Missing required param: customer.", code="parameter_missing", param="customer")
    if not values.get("phases"):
        raise ApiError("Missing required param: phases.", code="parameter_missing", param="phases")
    customer, now = account.referred("customer", values["customer"], "customer"), account.now()
    start = values.get("start_date") or now
    start = now if start == "now" else int(start)
    schedule = account.new(
        "subscription_schedule",
        "subscription_schedule.created",
        **picked(values, "end_behavior metadata"),
        customer=customer["id"],
        phases=read_phases(account, values["phases"], start, customer["id"]),
    )
    _set_defaults(account, schedule, values)
    if start <= now:
        _fall_due(account, schedule)
    return account.get("subscription_schedule", schedule["id"])


def from_subscription(account: Account, subscription: Object, values: Object) -> Object:
    if subscription["schedule"]:
        raise ApiError(
            f"You cannot migrate a subscription that is already attached to a schedule: {subscription['schedule']}.",
            param="from_subscription",
        )
    if subscription["ended_at"]:
        raise ApiError("You cannot create a schedule from a subscription that has ended.", param="from_subscription")
    rows = subscription["items"]["data"]
    phase = {
        **new_phase(account, {"items": []}, subscription["customer"]),
        "start_date": rows[0]["current_period_start"],
        "end_date": rows[0]["current_period_end"],
        "items": [
            phase_item(
                item["price"],
                item["quantity"],
                item["metadata"],
                item["tax_rates"],
                [{"discount": name} for name in item["discounts"]],
            )
            for item in rows
        ],
        "discounts": [phase_discount(each) for each in subscription["discounts"]],
        "trial_end": subscription["trial_end"] if subscription["status"] == "trialing" else None,
    }
    phase["currency"] = subscription["currency"]
    schedule = account.new(
        "subscription_schedule",
        "subscription_schedule.created",
        **picked(values, "end_behavior metadata"),
        current_phase=picked(phase, "start_date end_date"),
        customer=subscription["customer"],
        phases=[phase],
        status="active",
        subscription=subscription["id"],
    )
    account.change(subscription, "customer.subscription.updated", schedule=schedule["id"])
    return schedule


@route(
    "POST /v1/subscription_schedules/{id}",
    f"{PHASES} {SETTINGS} metadata:metadata end_behavior:(cancel|release)"
    " proration_behavior:(always_invoice|create_prorations|none)",
)
def update_schedule(account: Account, values: Object, place: dict[str, str]) -> Object:
    schedule = _expect_live(account, place["id"])
    fields = picked(values, "end_behavior")
    if "metadata" in values:
        fields["metadata"] = merged(schedule["metadata"], values["metadata"])
    current = schedule["current_phase"]
    if values.get("phases"):
        start = current["start_date"] if current else schedule["phases"][0]["start_date"]
        phases = read_phases(account, values["phases"], start, schedule["customer"])
        if current and not any(phase["start_date"] == current["start_date"] for phase in phases):
            raise ApiError(
                "You can not modify the start date of the current phase, and must include it.",
                param="phases[0][start_date]",
            )
        fields["phases"] = phases
    account.change(schedule, "subscription_schedule.updated", **fields)
    _set_defaults(account, schedule, values)
    if current and "phases" in fields:
        at = next(phase for phase in fields["phases"] if phase["start_date"] == current["start_date"])
        account.change(schedule, None, current_phase=picked(at, "start_date end_date"))
        _apply(account, schedule, at, values.get("proration_behavior"))
    return account.get("subscription_schedule", schedule["id"])


@route("POST /v1/subscription_schedules/{id}/release", "preserve_cancel_date:bool")
def release_schedule(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return release(account, _expect_live(account, place["id"]))


@route("POST /v1/subscription_schedules/{id}/cancel", "invoice_now:bool prorate:bool")
def cancel_schedule(account: Account, values: Object, place: dict[str, str]) -> Object:
    schedule = _expect_live(account, place["id"])
    if name := schedule["subscription"]:
        subscriptions.cancel_subscription(account, picked(values, "invoice_now prorate"), {"id": name})
    schedule = account.get("subscription_schedule", schedule["id"])
    if schedule["status"] == "canceled":
        return schedule
    fields = {"status": "canceled", "canceled_at": account.now(), "current_phase": None}
    return account.change(schedule, "subscription_schedule.canceled", **fields)


def release(account: Account, schedule: Object, status: str = "released") -> Object:
    """The subscription goes on without the schedule."""
    now, name = account.now(), schedule["subscription"]
    fields: dict[str, Any] = {
        "status": status,
        "subscription": None,
        "current_phase": None,
        "released_subscription": name,
    }
    fields["completed_at" if status == "completed" else "released_at"] = now
    account.change(schedule, f"subscription_schedule.{status}", **fields)
    if name:
        account.change(account.get("subscription", name), "customer.subscription.updated", schedule=None)
    return schedule


def preview(account: Account, subscription: Object, details: Object) -> Object | None:
    """The next invoice, were these the phases of the subscription's schedule."""
    name = subscription["schedule"] or from_subscription(account, subscription, {})["id"]
    made = invoices.rehearse(account, lambda: update_schedule(account, details, {"id": name}))
    if made:
        return made
    update_schedule(account, details, {"id": name})
    return cycles.upcoming(account, account.get("subscription", subscription["id"]))


def _set_defaults(account: Account, schedule: Object, values: Object) -> None:
    if given := values.get("default_settings"):
        settings = {**schedule["default_settings"], **given}
        if "automatic_tax" in given:
            settings["automatic_tax"] = {**schedule["default_settings"]["automatic_tax"], **given["automatic_tax"]}
        account.change(schedule, None, default_settings=settings)


def _expect_live(account: Account, name: str) -> Object:
    schedule = account.get("subscription_schedule", name)
    if schedule["status"] in OVER:
        raise ApiError(
            f"You cannot change a subscription schedule that is in the `{schedule['status']}` status.", param="id"
        )
    return schedule


# Time ----------------------------------------------------------------------------------------------------------------


def _due(schedule: Object) -> int | None:
    if schedule["status"] == "not_started":
        return int(schedule["phases"][0]["start_date"])
    return int(schedule["current_phase"]["end_date"]) if schedule["status"] == "active" else None


def _fall_due(account: Account, schedule: Object) -> None:
    now = account.now()
    phase = next((each for each in schedule["phases"] if each["start_date"] <= now < each["end_date"]), None)
    if not phase:
        if schedule["end_behavior"] == "cancel" and schedule["subscription"]:
            subscription = account.get("subscription", schedule["subscription"])
            release(account, schedule, "completed")
            end(account, account.get("subscription", subscription["id"]))
        else:
            release(account, schedule)
        return
    account.change(
        schedule, "subscription_schedule.updated", current_phase=picked(phase, "start_date end_date"), status="active"
    )
    if schedule["subscription"]:
        _apply(account, schedule, phase)
    else:
        _begin(account, schedule, phase)


def _begin(account: Account, schedule: Object, phase: Object) -> None:
    values = picked(phase, "default_payment_method description metadata trial_end")
    values = {name: value for name, value in values.items() if value}
    made = subscriptions.create_subscription(
        account,
        {**values, "customer": schedule["customer"], "items": _wanted(phase), "discounts": _given(phase)},
        {},
    )
    account.change(made, "customer.subscription.updated", schedule=schedule["id"])
    account.change(account.get("subscription_schedule", schedule["id"]), None, subscription=made["id"])


def _apply(account: Account, schedule: Object, phase: Object, proration: str | None = None) -> None:
    """Make the subscription what the phase says; items keep their id where they keep their price, or their place."""
    subscription = account.get("subscription", schedule["subscription"])
    wanted, held = _wanted(phase), {item["price"]["id"]: item["id"] for item in subscription["items"]["data"]}
    for each in wanted:
        each["id"] = held.pop(each["price"], None)
    for each in wanted:
        each["id"] = each["id"] or (held.pop(next(iter(held))) if held else None)
    values: Object = {"items": [*wanted, *({"id": name, "deleted": True} for name in held.values())]}
    values["proration_behavior"] = proration or phase["proration_behavior"]
    if [each["discount"] for each in phase["discounts"]] != subscription["discounts"]:
        values["discounts"] = _given(phase)
    if phase["trial_end"] and phase["trial_end"] != subscription["trial_end"] and phase["trial_end"] > account.now():
        values["trial_end"] = phase["trial_end"]
    if phase["billing_cycle_anchor"] == "phase_start" and phase["start_date"] == account.now():
        values["billing_cycle_anchor"] = "now"
    values |= {
        name: phase[name]
        for name in ("default_payment_method", "description", "automatic_tax", "collection_method")
        if phase[name]
    }
    if phase["default_tax_rates"]:
        values["default_tax_rates"] = [rate["id"] for rate in phase["default_tax_rates"]]
    if phase["metadata"]:
        values["metadata"] = merged(subscription["metadata"], phase["metadata"])
    change(account, subscription, values)


def _wanted(phase: Object) -> list[Object]:
    return [
        {
            **picked(each, "price quantity metadata"),
            "scheduled": True,  # when it was active
            "discounts": _given(each),
            "tax_rates": [rate["id"] for rate in each["tax_rates"]],
        }
        for each in phase["items"]
    ]


def _given(owner: Object) -> list[Object]:
    return [{name: value for name, value in each.items() if value} for each in owner["discounts"]]


TIMERS["subscription_schedule"] = Timer(_due, _fall_due)
