"""The billing portal: its configurations, its sessions, and what a customer changes there."""

from typing import Any

from local.stripe.account import Account
from local.stripe.api import resource, route, update
from local.stripe.changes import change
from local.stripe.endings import FEEDBACK, cancellation, end
from local.stripe.errors import ApiError
from local.stripe.payment_methods import attach, find
from local.stripe.store import Object

PRORATION = "proration_behavior:(always_invoice|create_prorations|none)"
FEATURES = (
    "features{customer_update{enabled:bool allowed_updates[]:(address|email|name|phone|shipping|tax_id)}"
    " invoice_history{enabled!:bool} payment_method_update{enabled!:bool}"
    f" subscription_cancel{{enabled:bool mode:(at_period_end|immediately) {PRORATION}"
    f" cancellation_reason{{enabled!:bool options[]:{FEEDBACK}}}}}"
    f" subscription_update{{enabled:bool default_allowed_updates[]:(price|promotion_code|quantity) {PRORATION}"
    " products[]{product! prices![]}"
    " schedule_at_period_end{conditions[]{type!:(decreasing_item_amount|shortening_interval)}}"
    " trial_update_behavior:(continue_trial|end_trial) billing_cycle_anchor:(now|unchanged)}}"
)
PROFILE = (
    "business_profile{headline privacy_policy_url:url terms_of_service_url:url} default_return_url:url name"
    " metadata:metadata"
)
FLOW = (
    "flow_data{type!:(payment_method_update|subscription_cancel|subscription_update|subscription_update_confirm)"
    " after_completion{type!:(hosted_confirmation|portal_homepage|redirect) redirect{return_url!:url}"
    " hosted_confirmation{custom_message}} subscription_cancel{subscription!} subscription_update{subscription!}"
    " subscription_update_confirm{subscription! items![]{id! price quantity:count} discounts[]{coupon promotion_code}}}"
)
ON: dict[str, Any] = {
    "customer_update": {"allowed_updates": ["address", "email", "tax_id"], "enabled": True},
    "invoice_history": {"enabled": True},
    "payment_method_update": {"enabled": True, "payment_method_configuration": None},
    "subscription_cancel": {
        "cancellation_reason": {"enabled": True, "options": ["too_expensive", "missing_features", "unused", "other"]},
        "enabled": True,
        "mode": "at_period_end",
        "proration_behavior": "none",
    },
    "subscription_pause": {"duration": {"interval_options": [], "type": "indefinite"}, "enabled": False},
    "subscription_update": {
        "billing_cycle_anchor": None,
        "default_allowed_updates": ["price", "quantity", "promotion_code"],
        "enabled": True,
        "products": None,
        "proration_behavior": "always_invoice",
        "schedule_at_period_end": {"conditions": []},
        "trial_update_behavior": "continue_trial",
    },
}

resource("billing_portal/configurations", "billing_portal.configuration", filters="active:bool is_default:bool")


@route("POST /v1/billing_portal/configurations", f"{FEATURES} {PROFILE}")
def create_configuration(account: Account, values: Object, _place: dict[str, str]) -> Object:
    features = _features(
        {name: {**each, "enabled": False} for name, each in ON.items()}, values.pop("features", None) or {}
    )
    return account.new(
        "billing_portal.configuration",
        "billing_portal.configuration.created",
        **values,
        features=features,
        updated=account.now(),
    )


@route("POST /v1/billing_portal/configurations/{id}", f"{FEATURES} {PROFILE} active:bool")
def update_configuration(account: Account, values: Object, place: dict[str, str]) -> Object:
    configuration = account.get("billing_portal.configuration", place["id"])
    if "features" in values:
        values["features"] = _features(configuration["features"], values["features"] or {})
    values["updated"] = account.now()
    return update("billing_portal.configuration", "billing_portal.configuration.updated")(account, values, place)


def _features(before: Object, given: Object) -> Object:
    return {name: {**each, **(given.get(name) or {})} for name, each in before.items()}


def default_configuration(account: Account) -> Object:
    for each in account.store.all("billing_portal.configuration"):
        if each["is_default"]:
            return each
    return account.new("billing_portal.configuration", is_default=True, features=ON, updated=account.now())


@route("POST /v1/billing_portal/sessions", f"customer! return_url:url configuration {FLOW} locale")
def create_session(account: Account, values: Object, _place: dict[str, str]) -> Object:
    customer, name = (
        account.referred("customer", values["customer"], "customer"),
        account.name("billing_portal.session"),
    )
    chosen = values.get("configuration")
    configuration = (
        account.referred("billing_portal.configuration", chosen, "configuration")
        if chosen
        else default_configuration(account)
    )
    return account.new(
        "billing_portal.session",
        id=name,
        configuration=configuration["id"],
        customer=customer["id"],
        flow=_flow(account, values.pop("flow_data", None), customer["id"]),
        locale=values.get("locale"),
        return_url=values.get("return_url") or configuration["default_return_url"],
        url=f"{account.address}/portal/{name}",
    )


def _flow(account: Account, given: Object | None, customer: str) -> Object | None:
    if not given:
        return None
    kind = given["type"]
    if kind != "payment_method_update":
        param = f"flow_data[{kind}][subscription]"
        if not given.get(kind):
            raise ApiError(
                f"Missing required param: flow_data[{kind}].", code="parameter_missing", param=f"flow_data[{kind}]"
            )
        subscription = account.referred("subscription", given[kind]["subscription"], param)
        if subscription["customer"] != customer:
            raise account.missing("subscription", subscription["id"], param, status=400)
    ends = {
        "hosted_confirmation": None,
        "redirect": None,
        **(given.get("after_completion") or {"type": "portal_homepage"}),
    }
    kinds = ("subscription_cancel", "subscription_update", "subscription_update_confirm")
    shown = {name: given.get(name) for name in kinds}
    if shown["subscription_cancel"]:
        shown["subscription_cancel"] = {"retention": None, **shown["subscription_cancel"]}
    if confirm := shown["subscription_update_confirm"]:
        items = [{"id": None, "price": None, **each} for each in confirm["items"]]
        shown["subscription_update_confirm"] = {"discounts": None, **confirm, "items": items}
    return {"type": kind, "after_completion": ends, **shown}


# What the customer does on the page ----------------------------------------------------------------------------------


def subscriptions_of(account: Account, customer: str) -> list[Object]:
    return [each for each in account.store.of("subscription", customer) if not each["ended_at"]]


def plans(account: Account, session: Object, subscription: Object) -> list[Object]:
    """The prices a customer may change to: those of the configuration, else the active ones with a lookup key."""
    features = account.get("billing_portal.configuration", session["configuration"])["features"]["subscription_update"]
    named = {name for product in features["products"] or [] for name in product["prices"]}
    return [
        price
        for price in account.store.all("price")
        if price["active"]
        and price["recurring"]
        and price["currency"] == subscription["currency"]
        and (price["id"] in named if features["products"] else price["lookup_key"])
    ][::-1]


def change_plan(account: Account, session: Object, subscription: Object, price: str, quantity: int) -> Object:
    features = account.get("billing_portal.configuration", session["configuration"])["features"]["subscription_update"]
    if not features["enabled"]:
        raise ApiError("This portal does not change plans.")
    item = subscription["items"]["data"][0]
    wanted = {"id": item["id"], "price": price, "quantity": quantity}
    return change(
        account,
        subscription,
        {
            "items": [wanted],
            "proration_behavior": features["proration_behavior"],
            "payment_behavior": "error_if_incomplete",
        },
    )


def cancel_plan(
    account: Account, session: Object, subscription: Object, feedback: str = "", comment: str = ""
) -> Object:
    features = account.get("billing_portal.configuration", session["configuration"])["features"]["subscription_cancel"]
    if not features["enabled"]:
        raise ApiError("This portal does not cancel subscriptions.")
    answers = {"feedback": feedback or None, "comment": comment or None}
    if features["mode"] == "immediately":
        return end(account, subscription, values=answers)
    fields = cancellation(account, subscription, at_period_end=True, by_portal=True)
    fields["cancellation_details"] |= answers
    return account.change(subscription, "customer.subscription.updated", **fields)


def keep_plan(account: Account, subscription: Object) -> Object:
    fields = cancellation(account, subscription, at_period_end=False)
    return account.change(subscription, "customer.subscription.updated", **fields)


def use_card(account: Account, customer: str, number: str) -> Object:
    """A new default card, also of subscriptions that have one of their own."""
    card = attach(account, find(account, number), customer)
    person = account.get("customer", customer)
    settings = {**person["invoice_settings"], "default_payment_method": card["id"]}
    account.change(person, "customer.updated", invoice_settings=settings)
    for each in subscriptions_of(account, customer):
        if each["default_payment_method"]:
            account.change(each, "customer.subscription.updated", default_payment_method=card["id"])
    return card
