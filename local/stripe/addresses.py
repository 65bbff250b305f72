"""The addresses under /v1 and what each takes. `!` marks a parameter that must be there."""

import secrets

from local.stripe import billing, checkout, payments
from local.stripe.account import Account, Refused
from local.stripe.api import PAGING, ROUTES, listing, matches, page, retrieve, route, update
from local.stripe.forms import check, merged, picked
from local.stripe.shapes import expanded, invoice_payment, shown
from local.stripe.store import Object

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

# Products, prices, customers -----------------------------------------------------------------------------------------


@route("POST /v1/products", "id name! active description metadata default_price_data")
def create_product(account: Account, given: Object, _place: dict[str, str]) -> Object:
    if given.get("id") and account.store.get(given["id"]):
        raise Refused("Product already exists.", code="resource_already_exists", param="id")
    return account.new("product", "product.created", **given)


@route(
    "POST /v1/prices",
    "currency! product! unit_amount! active lookup_key metadata nickname recurring transfer_lookup_key",
)
def create_price(account: Account, given: Object, _place: dict[str, str]) -> Object:
    account.referred("product", given["product"], "product")
    _free_lookup_key(account, given)
    recurring = given.get("recurring")
    return account.new(
        "price",
        "price.created",
        **{name: value for name, value in given.items() if name not in {"transfer_lookup_key", "recurring"}},
        recurring=recurring and {"interval_count": 1, "usage_type": "licensed", "meter": None, **recurring},
        type="recurring" if recurring else "one_time",
        unit_amount_decimal=str(given["unit_amount"]),
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
    return update("price", "active nickname lookup_key")(account, given, place)


@route(
    "POST /v1/customers",
    "name email phone description address metadata payment_method invoice_settings preferred_locales",
)
def create_customer(account: Account, given: Object, _place: dict[str, str]) -> Object:
    paid_with, settings = given.pop("payment_method", None), given.pop("invoice_settings", None)
    customer = account.new("customer", "customer.created", **given)
    if paid_with:
        payments.attach(account, payments.method(account, paid_with), customer["id"])
    return _set_default(account, customer, settings) if settings else customer


@route("POST /v1/customers/{id}", "name email phone description address metadata invoice_settings preferred_locales")
def update_customer(account: Account, given: Object, place: dict[str, str]) -> Object:
    settings = given.pop("invoice_settings", None)
    customer = update("customer", "name email phone description address")(account, given, place)
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
    plain = picked(given, "description metadata receipt_email setup_future_usage")
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


@route(
    "POST /v1/checkout/sessions",
    "mode! line_items customer customer_email client_reference_id metadata success_url cancel_url subscription_data"
    " payment_method_types expires_at",
)
def create_checkout_session(account: Account, given: Object, _place: dict[str, str]) -> Object:
    return checkout.begin(account, given)


@route("POST /v1/checkout/sessions/{id}/expire")
def expire_checkout_session(account: Account, _given: Object, place: dict[str, str]) -> Object:
    return checkout.expire(account, account.get("checkout.session", place["id"]))


@route("POST /v1/billing_portal/sessions", "customer! return_url configuration flow_data locale")
def create_portal_session(account: Account, given: Object, _place: dict[str, str]) -> Object:
    customer, name = account.referred("customer", given["customer"], "customer"), account.name("billing_portal.session")
    given["flow"] = given.pop("flow_data", None)
    url = f"{account.address}/portal/{name}"
    return account.new("billing_portal.session", id=name, url=url, **{**given, "customer": customer["id"]})


@route("GET /v1/events", f"type types delivery_success {PAGING}")
def list_events(account: Account, given: Object, _place: dict[str, str]) -> Object:
    """What has just happened is missing for a while: the list lags behind."""
    latest = account.now() - account.store.note("lag", 0)
    wanted = {name: value for name, value in given.items() if name != "delivery_success"}
    return page(
        account, given, "event", "/v1/events", lambda event: event["created"] <= latest and matches(event, wanted)
    )


@route("POST /v1/webhook_endpoints", "url! enabled_events! api_version description metadata")
def create_webhook_endpoint(account: Account, given: Object, _place: dict[str, str]) -> Object:
    secret = f"whsec_{secrets.token_hex(16)}"
    made = account.new("webhook_endpoint", **given, _secret=secret)
    return {**made, "secret": secret}  # told this once


@route("DELETE /v1/webhook_endpoints/{id}")
def delete_webhook_endpoint(account: Account, _given: Object, place: dict[str, str]) -> Object:
    endpoint = account.get("webhook_endpoint", place["id"])
    account.put({**endpoint, "status": "disabled", "deleted": True})
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


# Last, so that what is declared above comes first.
for _path, (_kind, _filters, _fields) in RESOURCES.items():
    route(f"GET /v1/{_path}/{{id}}")(retrieve(_kind))
    route(f"GET /v1/{_path}", f"{_filters} {PAGING}")(listing(_kind, f"/v1/{_path}"))
    if _kind != "event":
        route(f"POST /v1/{_path}/{{id}}", f"{_fields} metadata")(update(_kind, _fields))


def call(account: Account, method: str, path: str, given: Object, version: str) -> Object:
    """Do what is asked for; the answer in the shape of the version."""
    for its, pattern, takes, needs, work in ROUTES:
        if its == method and (place := pattern.fullmatch(path)):
            check(given, takes, needs)
            paths = given.pop("expand", None) or []
            made = work(account, given, place.groupdict())
            if made.get("object") == "list":
                made = {**made, "data": [shown(account, each, version) for each in made["data"]]}
            elif "created" in made:
                made = shown(account, {**made, **(account.store.get(made["id"]) or {})}, version)
            return expanded(account, made, paths, version)
    raise Refused(f"Unrecognized request URL ({method}: {path}).", status=404)
