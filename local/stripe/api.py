"""The addresses under /v1 and what each takes. `!` marks a parameter that must be there."""

import re
import secrets
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from local.stripe import billing, payments
from local.stripe.account import Account, Refused
from local.stripe.forms import check, merged
from local.stripe.shapes import expanded, invoice_payment, shown
from local.stripe.store import Object

Work = Callable[[Account, Object, dict[str, str]], Object]
PAGE, LARGEST_PAGE = 10, 100
PAGING = "limit starting_after ending_before created"

# Kind, filters of its list, fields that are simply set by an update.
RESOURCES: dict[str, tuple[str, str, str]] = {
    "products": ("product", "active ids", "name active description default_price"),
    "prices": ("price", "active product currency type lookup_keys recurring", "active nickname"),
    "customers": ("customer", "email", "name email phone description address preferred_locales"),
    "payment_methods": ("payment_method", "customer type", "billing_details"),
    "payment_intents": ("payment_intent", "customer", "description receipt_email setup_future_usage"),
    "setup_intents": ("setup_intent", "customer payment_method", "description"),
    "subscriptions": ("subscription", "customer price status collection_method", ""),
    "invoices": ("invoice", "customer subscription status collection_method", "description auto_advance"),
    "charges": ("charge", "customer payment_intent", "description"),
    "refunds": ("refund", "charge payment_intent", ""),
    "disputes": ("dispute", "charge payment_intent", ""),
    "checkout/sessions": ("checkout.session", "customer payment_intent subscription status", ""),
    "events": ("event", "type types", ""),
    "webhook_endpoints": ("webhook_endpoint", "", "url enabled_events description"),
}
ROUTES: list[tuple[str, re.Pattern[str], set[str], set[str], Work]] = []


def route(address: str, takes: str = "") -> Callable[[Work], Work]:
    method, path = address.split()
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
    words = {word.strip("!") for word in takes.split()} | {"expand"}
    needed = {word.strip("!") for word in takes.split() if word.endswith("!")}

    def declare(work: Work) -> Work:
        ROUTES.append((method, pattern, words, needed, work))
        return work

    return declare


def call(account: Account, method: str, path: str, given: Object, version: str) -> Object:
    """Do what is asked for; the answer in the shape of the version."""
    for its, pattern, takes, needs, work in ROUTES:
        if its == method and (place := pattern.fullmatch(path)):
            check(given, takes, needs)
            made = work(account, given, place.groupdict())
            if made.get("object") == "list":
                made = {**made, "data": [shown(account, each, version) for each in made["data"]]}
            elif "created" in made:
                made = shown(account, {**made, **(account.store.get(made["id"]) or {})}, version)
            return expanded(account, made, given.get("expand") or [], version)
    raise Refused(f"Unrecognized request URL ({method}: {path}).", status=404)


# What all have -------------------------------------------------------------------------------------------------------


def _retrieve(kind: str) -> Work:
    return lambda account, _given, place: account.get(kind, place["id"])


def _update(kind: str, fields: str) -> Work:
    def work(account: Account, given: Object, place: dict[str, str]) -> Object:
        thing = account.get(kind, place["id"])
        changes = {name: given[name] for name in fields.split() if name in given}
        if "metadata" in given:
            changes["metadata"] = merged(thing["metadata"], given["metadata"])
        return account.change(thing, EVENTS.get(kind, f"{kind}.updated"), **changes)

    return work


EVENTS = {
    "payment_intent": None,
    "setup_intent": None,
    "webhook_endpoint": None,
    "checkout.session": None,
    "dispute": "charge.dispute.updated",
}


def _list(kind: str, path: str) -> Work:
    return lambda account, given, _place: page(account, given, kind, path, lambda thing: _matches(thing, given))


def page(account: Account, given: Object, kind: str, path: str, wanted: Callable[[Object], bool]) -> Object:
    limit = given.get("limit", PAGE)
    if not 1 <= limit <= LARGEST_PAGE:
        raise Refused(f"This value must be between 1 and {LARGEST_PAGE} (it was {limit}).", param="limit")
    before, after = given.get("starting_after"), given.get("ending_before")
    for name, param in (before, "starting_after"), (after, "ending_before"):
        if name:
            account.referred(kind, name, param)
    found = []
    for thing in account.store.all(kind, before, after):
        if not thing.get("deleted") and wanted(thing):
            found.append(thing)
            if len(found) > limit:
                break
    things = found[:limit][::-1] if after else found[:limit]
    return {"object": "list", "url": path, "has_more": len(found) > limit, "data": things}


ENDED = {"canceled", "incomplete_expired"}
# How a filter is held against an object, where it is not simply equal to the field of its name.
FILTERS: dict[tuple[str, str] | str, Callable[[Object, Any], bool]] = {
    "created": lambda thing, wanted: _in_range(thing["created"], wanted),
    "ids": lambda thing, wanted: thing["id"] in wanted,
    "lookup_keys": lambda thing, wanted: thing["lookup_key"] in wanted,
    "types": lambda thing, wanted: thing["type"] in wanted,
    "recurring": lambda thing, wanted: wanted.items() <= (thing["recurring"] or {}).items(),
    "price": lambda thing, wanted: wanted in [item["price"]["id"] for item in thing["items"]["data"]],
    ("event", "type"): lambda thing, wanted: fnmatchcase(thing["type"], wanted),
    ("invoice", "subscription"): lambda thing, wanted: billing.subscription_of(thing) == wanted,
    ("subscription", "status"): lambda thing, wanted: (
        wanted == "all" or thing["status"] in (ENDED if wanted == "ended" else {wanted})
    ),
}
NO_FILTER = {"limit", "starting_after", "ending_before", "expand"}


def _matches(thing: Object, given: Object) -> bool:
    if thing["object"] == "subscription" and "status" not in given and thing["status"] == "canceled":
        return False
    for name in given.keys() - NO_FILTER:
        holds = FILTERS.get((thing["object"], name)) or FILTERS.get(name)
        if not (holds(thing, given[name]) if holds else thing.get(name) == given[name]):
            return False
    return True


def _in_range(created: int, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(created == wanted)
    signs = {"gt": created.__gt__, "gte": created.__ge__, "lt": created.__lt__, "lte": created.__le__}
    return all(signs[name](bound) for name, bound in wanted.items())


# Products, prices, customers -----------------------------------------------------------------------------------------


@route("POST /v1/products", "id name! active description metadata default_price_data")
def create_product(account: Account, given: Object, _place: dict[str, str]) -> Object:
    if given.get("id") and account.store.get(given["id"]):
        raise Refused("Product already exists.", code="resource_already_exists", param="id")
    fields = {"active": True, "description": None, "default_price": None, "metadata": {}, **given}
    return _created(account, "product", fields)


@route(
    "POST /v1/prices",
    "currency! product! unit_amount! active lookup_key metadata nickname recurring transfer_lookup_key",
)
def create_price(account: Account, given: Object, _place: dict[str, str]) -> Object:
    account.referred("product", given["product"], "product")
    _free_lookup_key(account, given)
    recurring = (
        given.get("recurring") and {"interval_count": 1, "usage_type": "licensed", "meter": None} | given["recurring"]
    )
    return _created(
        account,
        "price",
        {
            "active": True,
            "billing_scheme": "per_unit",
            "lookup_key": None,
            "nickname": None,
            "tax_behavior": "unspecified",
            "type": "recurring" if recurring else "one_time",
            "unit_amount_decimal": str(given["unit_amount"]),
            **{name: value for name, value in given.items() if name != "transfer_lookup_key"},
            "recurring": recurring,
        },
    )


def _free_lookup_key(account: Account, given: Object) -> None:
    for other in account.store.all("price"):
        if given.get("lookup_key") and other["lookup_key"] == given["lookup_key"]:
            if not given.get("transfer_lookup_key"):
                raise Refused(f"A price (`{other['id']}`) already uses that lookup key.", param="lookup_key")
            account.change(other, "price.updated", lookup_key=None)


@route("POST /v1/prices/{id}", "active metadata nickname lookup_key transfer_lookup_key")
def update_price(account: Account, given: Object, place: dict[str, str]) -> Object:
    _free_lookup_key(account, given)
    return _update("price", "active nickname lookup_key")(account, given, place)


@route(
    "POST /v1/customers",
    "name email phone description address metadata payment_method invoice_settings preferred_locales",
)
def create_customer(account: Account, given: Object, _place: dict[str, str]) -> Object:
    plain = dict.fromkeys(("name", "email", "phone", "description", "address"))
    paid_with, settings = given.pop("payment_method", None), given.pop("invoice_settings", {})
    customer = _created(
        account,
        "customer",
        {
            **plain,
            "balance": 0,
            "currency": None,
            "delinquent": False,
            "invoice_settings": {"default_payment_method": None},
            **given,
        },
    )
    if paid_with:
        payments.attach(account, payments.method(account, paid_with), customer["id"])
    return _set_default(account, customer, settings) if settings else customer


@route("POST /v1/customers/{id}", "name email phone description address metadata invoice_settings preferred_locales")
def update_customer(account: Account, given: Object, place: dict[str, str]) -> Object:
    settings = given.pop("invoice_settings", None)
    customer = _update("customer", "name email phone description address")(account, given, place)
    return _set_default(account, customer, settings) if settings else customer


def _set_default(account: Account, customer: Object, settings: Object) -> Object:
    card = settings.get("default_payment_method")
    card = card and billing.own_method(account, card, customer["id"])["id"]
    return account.change(customer, "customer.updated", invoice_settings={"default_payment_method": card})


@route("DELETE /v1/customers/{id}")
def delete_customer(account: Account, _given: Object, place: dict[str, str]) -> Object:
    customer = account.get("customer", place["id"])
    for subscription in list(account.store.all("subscription")):
        if subscription["customer"] == customer["id"] and subscription["status"] in billing.LIVE:
            billing.end(account, subscription)
    account.tell("customer.deleted", customer)
    gone = {"id": customer["id"], "object": "customer", "deleted": True}
    account.put(gone)
    return gone


# Payments ------------------------------------------------------------------------------------------------------------


@route("POST /v1/payment_methods", "type! card billing_details metadata")
def create_payment_method(account: Account, given: Object, _place: dict[str, str]) -> Object:
    number = given.get("card", {}).get("number") or "pm_card_" + given.get("card", {}).get("token", "").removeprefix(
        "tok_"
    )
    return payments.method(account, number)


@route("POST /v1/payment_methods/{id}/attach", "customer!")
def attach_payment_method(account: Account, given: Object, place: dict[str, str]) -> Object:
    customer = account.referred("customer", given["customer"], "customer")
    return payments.attach(account, payments.method(account, place["id"]), customer["id"])


@route("POST /v1/payment_intents", "amount! currency! customer description metadata payment_method payment_method_types"
       " automatic_payment_methods confirm off_session receipt_email setup_future_usage")  # fmt: skip
def create_payment_intent(account: Account, given: Object, _place: dict[str, str]) -> Object:
    plain = {
        name: given[name]
        for name in ("description", "metadata", "receipt_email", "setup_future_usage")
        if name in given
    }
    if customer := given.get("customer"):
        account.referred("customer", customer, "customer")
    intent = payments.intend(account, given["amount"], given["currency"], customer, **plain)
    if given.get("confirm"):
        payments.confirm(account, intent, payments.method(account, given.get("payment_method") or ""))
    return intent


@route("POST /v1/payment_intents/{id}/confirm", "payment_method return_url off_session setup_future_usage")
def confirm_payment_intent(account: Account, given: Object, place: dict[str, str]) -> Object:
    intent = account.get("payment_intent", place["id"], "intent")
    payments.expect_open(intent, "confirm")
    if not given.get("payment_method"):
        raise Refused(
            "You cannot confirm this PaymentIntent because it's missing a payment method.",
            code="payment_intent_unexpected_state",
        )
    return payments.confirm(account, intent, payments.method(account, given["payment_method"]))


@route("POST /v1/payment_intents/{id}/cancel", "cancellation_reason")
def cancel_payment_intent(account: Account, given: Object, place: dict[str, str]) -> Object:
    return payments.cancel(
        account, account.get("payment_intent", place["id"], "intent"), given.get("cancellation_reason")
    )


@route(
    "POST /v1/setup_intents",
    "customer payment_method payment_method_types automatic_payment_methods confirm usage metadata description",
)
def create_setup_intent(account: Account, given: Object, _place: dict[str, str]) -> Object:
    intent = billing.intend_set_up(account, given.get("customer"), metadata=given.get("metadata", {}))
    if given.get("confirm"):
        payments.set_up(account, intent, payments.method(account, given.get("payment_method") or ""))
    return intent


@route("POST /v1/setup_intents/{id}/confirm", "payment_method! return_url")
def confirm_setup_intent(account: Account, given: Object, place: dict[str, str]) -> Object:
    intent = account.get("setup_intent", place["id"], "intent")
    return payments.set_up(account, intent, payments.method(account, given["payment_method"]))


@route("POST /v1/setup_intents/{id}/cancel", "cancellation_reason")
def cancel_setup_intent(account: Account, given: Object, place: dict[str, str]) -> Object:
    intent = account.get("setup_intent", place["id"], "intent")
    if intent["status"] not in payments.OPEN:
        raise Refused(
            f"You cannot cancel this SetupIntent because it is {intent['status']}.",
            code="setup_intent_unexpected_state",
        )
    reason = given.get("cancellation_reason")
    return account.change(intent, "setup_intent.canceled", status="canceled", cancellation_reason=reason)


@route("POST /v1/refunds", "payment_intent charge amount reason metadata")
def create_refund(account: Account, given: Object, _place: dict[str, str]) -> Object:
    name = given.get("charge")
    if intent := given.get("payment_intent"):
        name = account.referred("payment_intent", intent, "payment_intent")["latest_charge"]
        if not name:
            raise Refused(
                f"This PaymentIntent ({intent}) does not have a successful charge to refund.", param="payment_intent"
            )
    charge = account.referred("charge", name, "charge")
    return payments.refund(account, charge, given.get("amount"), given.get("reason"), given.get("metadata", {}))


# Subscriptions and invoices ------------------------------------------------------------------------------------------


@route("POST /v1/subscriptions", "customer! items! payment_behavior payment_settings metadata default_payment_method"
       " cancel_at_period_end cancel_at collection_method description off_session trial_end trial_period_days"
       " proration_behavior billing_mode automatic_tax")  # fmt: skip
def create_subscription(account: Account, given: Object, _place: dict[str, str]) -> Object:
    return billing.subscribe(account, given)


@route("POST /v1/subscriptions/{id}", "items payment_behavior payment_settings metadata default_payment_method"
       " cancel_at_period_end cancel_at collection_method description off_session proration_behavior"
       " billing_cycle_anchor pause_collection cancellation_details")  # fmt: skip
def update_subscription(account: Account, given: Object, place: dict[str, str]) -> Object:
    subscription = account.get("subscription", place["id"])
    if "metadata" in given:
        given["metadata"] = merged(subscription["metadata"], given["metadata"])
    return billing.update(account, subscription, given)


@route("DELETE /v1/subscriptions/{id}", "invoice_now prorate cancellation_details")
def cancel_subscription(account: Account, _given: Object, place: dict[str, str]) -> Object:
    subscription = account.get("subscription", place["id"])
    if subscription["ended_at"]:
        raise Refused(f"No such subscription: '{place['id']}'", status=404, code="resource_missing", param="id")
    return billing.end(account, subscription)


@route("POST /v1/invoices/{id}/pay", "payment_method off_session")
def pay_invoice(account: Account, given: Object, place: dict[str, str]) -> Object:
    invoice = account.get("invoice", place["id"])
    if invoice["status"] != "open":
        raise Refused(f"Invoice is already {invoice['status']}", code="invoice_not_open")
    paid_with = given.get("payment_method") and payments.method(account, given["payment_method"])
    billing.charge(account, invoice, paid_with or None)
    invoice = account.get("invoice", invoice["id"])
    if invoice["status"] != "paid":
        raise Refused(payments.DECLINED, status=402, kind="card_error", code="card_declined", kept=True)
    return invoice


@route("POST /v1/invoices/{id}/void")
def void_invoice(account: Account, _given: Object, place: dict[str, str]) -> Object:
    return billing.void(account, account.get("invoice", place["id"]))


@route("GET /v1/invoice_payments", "invoice payment status limit")
def list_invoice_payments(account: Account, given: Object, _place: dict[str, str]) -> Object:
    wanted = given.get("payment", {}).get("payment_intent")
    made = [
        invoice_payment(invoice, account.get("payment_intent", invoice["_intent"]))
        for invoice in account.store.all("invoice")
        if invoice["_intent"]
        and given.get("invoice", invoice["id"]) == invoice["id"]
        and wanted in {None, invoice["_intent"]}
    ]
    return {"object": "list", "url": "/v1/invoice_payments", "has_more": False, "data": made}


# Checkout, portal, events --------------------------------------------------------------------------------------------


@route("POST /v1/checkout/sessions", "mode! line_items customer customer_email client_reference_id metadata success_url"
       " cancel_url subscription_data payment_method_types expires_at")  # fmt: skip
def create_checkout_session(account: Account, given: Object, _place: dict[str, str]) -> Object:
    lines = [
        billing.price_of(account, item, f"line_items[{n}][price]") for n, item in enumerate(given.get("line_items", []))
    ]
    name, now = account.name("checkout.session"), account.now()
    plain = {
        name: given.get(name)
        for name in ("customer", "customer_email", "client_reference_id", "success_url", "cancel_url")
    }
    return account.new(
        "checkout.session",
        id=name,
        **plain,
        amount_total=sum(price["unit_amount"] * quantity for price, quantity in lines),
        currency=lines[0][0]["currency"] if lines else None,
        expires_at=given.get("expires_at") or now + billing.DAY,
        invoice=None,
        metadata=given.get("metadata", {}),
        mode=given["mode"],
        payment_intent=None,
        payment_status="unpaid" if given["mode"] != "setup" else "no_payment_required",
        setup_intent=None,
        status="open",
        subscription=None,
        url=f"{account.address}/checkout/{name}",
        _lines=[{"price": price["id"], "quantity": quantity} for price, quantity in lines],
        _data=given.get("subscription_data", {}),
    )


@route("POST /v1/checkout/sessions/{id}/expire")
def expire_checkout_session(account: Account, _given: Object, place: dict[str, str]) -> Object:
    session = account.get("checkout.session", place["id"])
    if session["status"] != "open":
        raise Refused(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"{session['status']}."
        )
    return account.change(session, "checkout.session.expired", status="expired")


def complete_checkout(account: Account, session: Object, card: str) -> Object:
    """What the customer does on the page of a checkout session: only then is there a subscription."""
    if session["status"] != "open":
        raise Refused("This Checkout Session is not open.")
    customer = (
        session["customer"]
        or _created(
            account,
            "customer",
            {"name": None, "email": session["customer_email"], "invoice_settings": {"default_payment_method": None}},
        )["id"]
    )
    if session["mode"] == "setup":
        intent = payments.set_up(account, billing.intend_set_up(account, customer), payments.method(account, card))
        return account.change(
            session, "checkout.session.completed", status="complete", setup_intent=intent["id"], customer=customer
        )
    if session["mode"] == "payment":
        intent = payments.intend(account, session["amount_total"], session["currency"], customer)
        payments.confirm(account, intent, payments.method(account, card))
        return account.change(
            session,
            "checkout.session.completed",
            status="complete",
            payment_status="paid",
            payment_intent=intent["id"],
            customer=customer,
        )
    given = {
        **session["_data"],
        "customer": customer,
        "items": session["_lines"],
        "payment_behavior": "default_incomplete",
    }
    subscription = billing.subscribe(
        account, given | {"payment_settings": {"save_default_payment_method": "on_subscription"}}
    )
    invoice = account.get("invoice", subscription["latest_invoice"])
    if invoice["_intent"]:
        payments.confirm(account, account.get("payment_intent", invoice["_intent"]), payments.method(account, card))
    return account.change(
        session,
        "checkout.session.completed",
        status="complete",
        payment_status="paid",
        customer=customer,
        subscription=subscription["id"],
        invoice=invoice["id"],
    )


@route("POST /v1/billing_portal/sessions", "customer! return_url configuration flow_data locale")
def create_portal_session(account: Account, given: Object, _place: dict[str, str]) -> Object:
    customer, name = account.referred("customer", given["customer"], "customer"), account.name("billing_portal.session")
    return account.new(
        "billing_portal.session",
        id=name,
        configuration="bpc_1",
        customer=customer["id"],
        flow=given.get("flow_data"),
        locale=given.get("locale"),
        return_url=given.get("return_url"),
        url=f"{account.address}/portal/{name}",
    )


@route("GET /v1/events", f"type types delivery_success {PAGING}")
def list_events(account: Account, given: Object, _place: dict[str, str]) -> Object:
    """What has just happened is missing for a while: the list lags behind."""
    latest = account.now() - account.store.note("lag", 0)
    wanted = {name: value for name, value in given.items() if name != "delivery_success"}
    return page(
        account, given, "event", "/v1/events", lambda event: event["created"] <= latest and _matches(event, wanted)
    )


@route("POST /v1/webhook_endpoints", "url! enabled_events! api_version description metadata")
def create_webhook_endpoint(account: Account, given: Object, _place: dict[str, str]) -> Object:
    secret = f"whsec_{secrets.token_hex(16)}"
    made = _created(
        account,
        "webhook_endpoint",
        {"api_version": None, "description": None, "status": "enabled", **given, "_secret": secret},
    )
    return {**made, "secret": secret}  # told this once


@route("DELETE /v1/webhook_endpoints/{id}")
def delete_webhook_endpoint(account: Account, _given: Object, place: dict[str, str]) -> Object:
    endpoint = account.get("webhook_endpoint", place["id"])
    account.put({**endpoint, "status": "disabled", "deleted": True})
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def _created(account: Account, kind: str, fields: Object) -> Object:
    made = account.new(kind, **{name: value for name, value in fields.items() if name != "expand"})
    if kind in {"product", "price", "customer"}:
        account.tell(f"{kind}.created", made)
    return made


# Last, so that what is declared above comes first.
for _path, (_kind, _filters, _fields) in RESOURCES.items():
    route(f"GET /v1/{_path}/{{id}}")(_retrieve(_kind))
    route(f"GET /v1/{_path}", f"{_filters} {PAGING}")(_list(_kind, f"/v1/{_path}"))
    if _kind != "event":
        route(f"POST /v1/{_path}/{{id}}", f"{_fields} metadata")(_update(_kind, _fields))
