"""Checkout sessions: nothing is made before the customer completes the page."""

import secrets

from local.stripe import checkout_totals, payments, taxes
from local.stripe.account import TIMERS, Account, Timer
from local.stripe.api import list_of, resource, route
from local.stripe.errors import ApiError
from local.stripe.expansion import INCLUDED
from local.stripe.parameters import picked
from local.stripe.periods import DAY
from local.stripe.prices import ONCE, PERIOD
from local.stripe.store import Object

SHORTEST, LONGEST = 30 * 60, DAY
ITEMS = (
    f"line_items[]{{price price_data{{{ONCE} product product_data{{name! metadata:metadata}} recurring{PERIOD}}}"
    " quantity:positive tax_rates[] metadata:metadata"
    " adjustable_quantity{enabled!:bool minimum:count maximum:count}}"
)
DATA = (
    "subscription_data{default_tax_rates[] description metadata:metadata trial_end:time trial_period_days:positive"
    " trial_settings{end_behavior!{missing_payment_method!:(cancel|create_invoice|pause)}} billing_cycle_anchor:time"
    " proration_behavior:(create_prorations|none)}"
    " payment_intent_data{description metadata:metadata setup_future_usage:(off_session|on_session)}"
    " setup_intent_data{description metadata:metadata}"
)
KEPT = (
    "mode customer customer_email client_reference_id success_url cancel_url metadata allow_promotion_codes locale"
    " billing_address_collection customer_creation payment_method_collection submit_type"
)

resource(
    "checkout/sessions",
    "checkout.session",
    filters="customer payment_intent subscription created:range"
    " status:(open|complete|expired) customer_details{email!}",
)


@route(
    "POST /v1/checkout/sessions",
    f"mode!:(payment|setup|subscription) {ITEMS} {DATA} discounts[]{{coupon promotion_code}}"
    " customer customer_email:email client_reference_id metadata:metadata success_url!:url cancel_url:url"
    " currency:currency"
    " allowed_payment_method_types[]:(card) expires_at:time allow_promotion_codes:bool automatic_tax{enabled!:bool}"
    " tax_id_collection{enabled!:bool required:(if_supported|never)} customer_update{address:(auto|never)"
    " name:(auto|never)"
    " shipping:(auto|never)} billing_address_collection:(auto|required) locale phone_number_collection{enabled!:bool}"
    " payment_method_collection:(always|if_required) customer_creation:(always|if_required) ui_mode:(hosted_page)"
    " submit_type:(auto|book|donate|pay|subscribe)",
)
def create_session(account: Account, values: Object, _place: dict[str, str]) -> Object:
    _check(account, values)
    now, name = account.now(), account.name("checkout.session")
    until = values.get("expires_at") or now + LONGEST
    if not now + SHORTEST - 60 <= until <= now + LONGEST + 60:
        raise ApiError(
            "The `expires_at` timestamp must be at least 30 minutes and at most 24 hours from Checkout Session"
            " creation.",
            param="expires_at",
        )
    rows = checkout_totals.rows(account, values)
    session = account.new(
        "checkout.session",
        **picked(values, KEPT),
        id=name,
        currency=rows[0]["currency"] if rows else values.get("currency"),
        expires_at=until,
        url=f"{account.address}/checkout/{name}#{secrets.token_urlsafe(12)}",
        _rows=rows,
        _data=picked(values, "subscription_data payment_intent_data setup_intent_data customer_update"),
        _discounts=values.get("discounts") or [],
    )
    subscribes = values["mode"] == "subscription"
    session |= {
        "automatic_tax": {**session["automatic_tax"], **(values.get("automatic_tax") or {})},
        "customer_creation": session["customer_creation"]
        or (None if session["customer"] else "always" if subscribes else "if_required"),
        "payment_method_collection": session["payment_method_collection"] or ("always" if subscribes else None),
        "phone_number_collection": values.get("phone_number_collection") or {"enabled": False},
        "tax_id_collection": {"required": "never", **(values.get("tax_id_collection") or {"enabled": False})},
        "payment_status": "no_payment_required" if values["mode"] == "setup" else "unpaid",
    }
    if session["customer_email"] or session["customer"]:
        email = session["customer_email"] or account.get("customer", session["customer"])["email"]
        session["customer_details"] = {
            "address": None,
            "business_name": None,
            "email": email,
            "individual_name": None,
            "name": None,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": None,
        }
    checkout_totals.update(account, session)
    if values["mode"] == "payment":
        payments.check_amount(session["amount_total"], session["currency"], "line_items")
    return account.change(session, None)


def _check(account: Account, values: Object) -> None:
    mode = values["mode"]
    for one, other in ("customer", "customer_email"), ("allow_promotion_codes", "discounts"):
        if values.get(one) and values.get(other):
            raise ApiError(f"You may only specify one of these parameters: {one}, {other}.", param=other)
    for data, only in (
        ("subscription_data", "subscription"),
        ("payment_intent_data", "payment"),
        ("setup_intent_data", "setup"),
    ):
        if values.get(data) and mode != only:
            raise ApiError(f"You can not pass `{data}` in `{mode}` mode.", param=data)
    if mode == "setup" and values.get("line_items"):
        raise ApiError("You can not pass `line_items` in `setup` mode.", param="line_items")
    if mode != "setup" and not values.get("line_items"):
        raise ApiError(
            f"The `line_items` parameter is required in {mode} mode.", code="parameter_missing", param="line_items"
        )
    if len(values.get("discounts") or []) > 1:
        raise ApiError("You can pass at most one discount.", param="discounts")
    _check_customer(account, values, values.get("customer_update") or {})


def _check_customer(account: Account, values: Object, update: Object) -> None:
    if not values.get("customer"):
        if update:
            raise ApiError("`customer_update` can only be used with `customer`.", param="customer_update")
        return
    customer = account.referred("customer", values["customer"], "customer")
    automatic = (values.get("automatic_tax") or {}).get("enabled")
    if automatic and not taxes.location(customer) and update.get("address") != "auto":
        raise ApiError(
            "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address to the"
            " Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to 'auto'"
            " to save"
            " the address entered in Checkout to the Customer.",
            code="customer_tax_location_invalid",
            param="automatic_tax",
        )


@route("POST /v1/checkout/sessions/{id}/expire")
def expire_session(account: Account, _values: Object, place: dict[str, str]) -> Object:
    session = account.get("checkout.session", place["id"])
    if session["status"] != "open":
        raise ApiError(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"{session['status']}."
        )
    return _expire(account, session)


@route("POST /v1/checkout/sessions/{id}", "metadata:metadata")
def update_session(account: Account, values: Object, place: dict[str, str]) -> Object:
    session = account.get("checkout.session", place["id"])
    return account.change(session, None, metadata={**session["metadata"], **(values.get("metadata") or {})})


@route("GET /v1/checkout/sessions/{id}/line_items", "limit:int starting_after ending_before")
def list_line_items(account: Account, _values: Object, place: dict[str, str]) -> Object:
    session = account.get("checkout.session", place["id"])
    return list_of(checkout_totals.items_of(account, session), f"/v1/checkout/sessions/{place['id']}/line_items")


def _expire(account: Account, session: Object) -> Object:
    return account.change(session, "checkout.session.expired", status="expired", url=None)


TIMERS["checkout.session"] = Timer(
    lambda session: session["expires_at"] if session["status"] == "open" else None,
    lambda account, session: (_expire(account, session), None)[1],
)


INCLUDED["checkout.session", "line_items"] = lambda account, session: list_of(
    checkout_totals.items_of(account, session), f"/v1/checkout/sessions/{session['id']}/line_items"
)
