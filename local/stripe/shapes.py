"""What an object looks like in a version of the API. Kept is the newest shape; older ones are made of it.

Since 2025-03-31 periods stand at a subscription's items, an invoice names its subscription under `parent`, and its
payment only where asked for.
"""

import copy
from typing import Any

from local.stripe.account import Account, Refused
from local.stripe.store import Object

PARENTS = "2025-03-31"
# Shown only to those who expand them.
INCLUDABLE = {"invoice": ("confirmation_secret", "payments")}


def shown(account: Account, thing: Object, version: str) -> Object:
    """An object as an answer or an event of that version has it."""
    if thing["object"] == "event":
        return _event(account, thing)
    made = {name: value for name, value in copy.deepcopy(thing).items() if not name.startswith("_")}
    return _old(account, thing, made) if version < PARENTS else made


def _old(account: Account, thing: Object, made: Object) -> Object:
    match thing["object"]:
        case "subscription":
            made.pop("billing_mode", None)
            first = made["items"]["data"][0]
            made |= {name: first[name] for name in ("current_period_start", "current_period_end")}
            for item in made["items"]["data"]:
                del item["current_period_start"], item["current_period_end"]
        case "invoice":
            about = made.pop("parent")["subscription_details"]
            made |= {
                "subscription": about["subscription"],
                "subscription_details": {"metadata": about["metadata"]},
                "payment_intent": thing["_intent"],
                "charge": thing.get("_charge"),
                "paid": made["status"] == "paid",
            }
            made["lines"]["data"] = [_old_line(account, line) for line in made["lines"]["data"]]
        case "payment_intent" | "charge":
            made["invoice"] = thing["_invoice"]
    return made


def _old_line(account: Account, line: Object) -> Object:
    about = line.pop("parent")["subscription_item_details"]
    price = account.get("price", line.pop("pricing")["price_details"]["price"])
    return {**line, **about, "type": "subscription", "price": price}


def _event(account: Account, event: Object) -> Object:
    """The shape is that of the version the event is made for, never of the request that reads it."""
    version = event["api_version"]
    made = {name: value for name, value in event.items() if not name.startswith("_") and name != "metadata"}
    now = shown(account, event["data"]["object"], version)
    data = {"object": now}
    if event["_before"]:
        data["previous_attributes"] = _difference(shown(account, event["_before"], version), now)
    return {**made, "data": data, "pending_webhooks": account.store.owed_in_all(event["id"])}


def _difference(before: Object, now: Object) -> Object:
    """What was otherwise before: of objects only the members that changed, of lists the whole."""
    changed: Object = {}
    for name, value in now.items():
        was = before.get(name)
        if was != value:
            both = isinstance(was, dict) and isinstance(value, dict) and name != "items"
            changed[name] = _difference(was, value) if both else was  # type: ignore[arg-type]  # both are objects
    return changed


# Expansion -----------------------------------------------------------------------------------------------------------


def expanded(account: Account, made: Object, paths: list[str], version: str) -> Object:
    for path in paths:
        _expand(account, made, path.split("."), path, version)
    return made


def _expand(account: Account, here: Any, steps: list[str], path: str, version: str) -> None:
    if isinstance(here, list):
        for each in here:
            _expand(account, each, steps, path, version)
        return
    if not steps or here is None:
        return
    name, *rest = steps
    if name not in here:
        if version < PARENTS or name not in INCLUDABLE.get(here.get("object", ""), ()):
            raise Refused(f"This property cannot be expanded ({path}).", param="expand")
        here[name] = _included(account, here["id"], name)
    value = here[name]
    if isinstance(value, str):
        found = account.store.get(value)
        if not found:
            raise Refused(f"This property cannot be expanded ({path}).", param="expand")
        here[name] = shown(account, found, version)
    elif not isinstance(value, dict | list | None):
        raise Refused(f"This property cannot be expanded ({path}).", param="expand")
    _expand(account, here[name], rest, path, version)


def _included(account: Account, invoice: str, name: str) -> Object | None:
    kept = account.get("invoice", invoice)
    intent = kept["_intent"] and account.get("payment_intent", kept["_intent"])
    if name == "payments":
        payments = [invoice_payment(kept, intent)] if intent else []
        return {"object": "list", "data": payments, "has_more": False, "url": f"/v1/invoices/{invoice}/payments"}
    if not intent or kept["status"] != "open":
        return None
    return {"client_secret": intent["client_secret"], "type": "payment_intent"}


def invoice_payment(invoice: Object, intent: Object) -> Object:
    """Which payment belongs to which invoice: what `invoice.payment_intent` said in older versions."""
    status = "paid" if invoice["status"] == "paid" else "canceled" if intent["status"] == "canceled" else "open"
    return {
        "id": intent["id"].replace("pi_", "inpay_", 1),
        "object": "invoice_payment",
        "amount_paid": invoice["amount_paid"] or None,
        "amount_requested": invoice["amount_due"],
        "created": invoice["created"],
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": intent["id"]},
        "status": status,
    }
