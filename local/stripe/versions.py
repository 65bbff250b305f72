"""What an object looks like in a version of the API. Stored is the newest shape; older ones are made from it.

Since 2025-03-31 the items of a subscription have the periods, an invoice names its subscription under `parent`, and its
payment only in `payments`. Since 2025-09-30 a discount names its coupon under `source`.
"""

from typing import Any

from local.stripe.account import Account
from local.stripe.store import Object

PARENTS = "2025-03-31"
SOURCES = "2025-09-30"
# Fields that every stored object has, and some kinds do not show.
HIDDEN = {
    "billing_portal.session": {"metadata"},
    "discount": {"created", "livemode", "metadata"},
    "event": {"metadata"},
    "invoice_payment": {"metadata"},
    "invoiceitem": {"created"},
    "refund": {"livemode"},
    "tax_id": {"metadata"},
    "test_helpers.test_clock": {"metadata"},
}


def shown(account: Account, thing: Object, version: str) -> Object:
    """An object as a response or an event of that version has it."""
    if thing["object"] == "event":
        return _event(account, thing)
    hidden = HIDDEN.get(thing["object"], set())
    made: Object = {name: _public(value) for name, value in thing.items() if name[0] != "_" and name not in hidden}
    if thing["object"] == "customer" and made.get("discount"):
        made["discount"] = shown(account, account.get("discount", made["discount"]["id"]), version)
    if version < SOURCES:
        _old_discount(account, made, version)
    return _old(account, thing, made) if version < PARENTS else made


def _public(value: Any) -> Any:
    """A copy without internal fields."""
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items() if name[:1] != "_"}
    return [_public(each) for each in value] if isinstance(value, list) else value


def _old_discount(account: Account, made: Object, version: str) -> None:
    match made["object"]:
        case "discount":
            made["coupon"] = shown(account, account.get("coupon", made.pop("source")["coupon"]), version)
        case "promotion_code":
            made["coupon"] = shown(account, account.get("coupon", made.pop("promotion")["coupon"]), version)


def _old(account: Account, thing: Object, made: Object) -> Object:
    match thing["object"]:
        case "subscription":
            made.pop("billing_mode", None)
            first = made["items"]["data"][0]
            made |= {name: first[name] for name in ("current_period_start", "current_period_end")}
            for item in made["items"]["data"]:
                del item["current_period_start"], item["current_period_end"]
            made["discount"] = _first_discount(account, made["discounts"])
        case "invoice":
            about = (made.pop("parent") or {}).get("subscription_details") or {"subscription": None, "metadata": None}
            made |= {
                "subscription": about["subscription"],
                "subscription_details": {"metadata": about["metadata"]},
                "payment_intent": thing["_intent"],
                "charge": thing.get("_charge"),
                "discount": _first_discount(account, made["discounts"]),
                "paid": made["status"] == "paid",
                "tax": sum(tax["amount"] for tax in made.pop("total_taxes")) or None,
            }
            made["lines"]["data"] = [_old_line(account, line) for line in made["lines"]["data"]]
        case "payment_intent" | "charge":
            made["invoice"] = thing["_invoice"]
    return made


def _first_discount(account: Account, names: list[str]) -> Object | None:
    return shown(account, account.get("discount", names[0]), PARENTS) if names else None


def _old_line(account: Account, line: Object) -> Object:
    parent, pricing = line.pop("parent"), line.pop("pricing")
    about = parent["subscription_item_details"] or parent["invoice_item_details"]
    kind = "subscription" if parent["type"] == "subscription_item_details" else "invoiceitem"
    price = account.get("price", pricing["price_details"]["price"]) if pricing else None
    return {**line, **about, "type": kind, "price": price}


def _event(account: Account, event: Object) -> Object:
    """The shape is that of the version the event is made for, never of the request that reads it."""
    version = event["api_version"]
    made = {name: value for name, value in event.items() if not name.startswith("_") and name != "metadata"}
    now = shown(account, event["data"]["object"], version)
    data = {"object": now}
    if event["_before"]:
        data["previous_attributes"] = _difference(shown(account, event["_before"], version), now)
    return {**made, "data": data, "pending_webhooks": account.store.pending_deliveries(event["id"])}


def _difference(before: Object, now: Object) -> Object:
    """The members that changed, with their values before; of lists the whole."""
    changed: Object = {}
    for name, value in now.items():
        was = before.get(name)
        if was != value:
            both = isinstance(was, dict) and isinstance(value, dict) and name != "items"
            changed[name] = _difference(was, value) if both else was  # type: ignore[arg-type]  # both are objects
    return changed
