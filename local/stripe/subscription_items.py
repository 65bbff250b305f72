"""The items of subscriptions as a resource of their own: each change is a change of the subscription."""

from local.stripe import coupons, items
from local.stripe.account import Account
from local.stripe.api import list_of, route
from local.stripe.changes import change
from local.stripe.parameters import picked
from local.stripe.store import Object

PRORATION = "proration_date:time proration_behavior:(always_invoice|create_prorations|none)"
FIELDS = (
    f"price {items.PRICE_DATA} quantity:count metadata:metadata tax_rates[] {coupons.DISCOUNTS} {PRORATION}"
    " payment_behavior:(allow_incomplete|default_incomplete|error_if_incomplete|pending_if_incomplete)"
)
OF_SUBSCRIPTION = "proration_date proration_behavior payment_behavior"


@route("GET /v1/subscription_items", "subscription! limit:int")
def list_items(account: Account, values: Object, _place: dict[str, str]) -> Object:
    subscription = account.referred("subscription", values["subscription"], "subscription")
    return list_of(subscription["items"]["data"], "/v1/subscription_items")


@route("GET /v1/subscription_items/{id}")
def retrieve_item(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return _found(account, place["id"])[1]


@route("POST /v1/subscription_items", f"subscription! {FIELDS}")
def create_item(account: Account, values: Object, _place: dict[str, str]) -> Object:
    subscription = account.referred("subscription", values.pop("subscription"), "subscription")
    return _change(account, subscription, values, {})["items"]["data"][-1]  # type: ignore[no-any-return]  # an item


@route("POST /v1/subscription_items/{id}", FIELDS)
def update_item(account: Account, values: Object, place: dict[str, str]) -> Object:
    subscription, item = _found(account, place["id"])
    _change(account, subscription, values, {"id": item["id"]})
    return _found(account, place["id"])[1]


@route("DELETE /v1/subscription_items/{id}", PRORATION)
def delete_item(account: Account, values: Object, place: dict[str, str]) -> Object:
    subscription, item = _found(account, place["id"])
    _change(account, subscription, values, {"id": item["id"], "deleted": True})
    return {"id": item["id"], "object": "subscription_item", "deleted": True}


def _change(account: Account, subscription: Object, values: Object, item: Object) -> Object:
    given = {name: value for name, value in values.items() if name not in OF_SUBSCRIPTION.split()}
    with account.clock_of(subscription["id"]):
        return change(account, subscription, {"items": [{**item, **given}], **picked(values, OF_SUBSCRIPTION)})


def _found(account: Account, name: str) -> tuple[Object, Object]:
    for subscription in account.store.all("subscription"):
        for item in subscription["items"]["data"]:
            if item["id"] == name:
                return subscription, item
    raise account.missing("subscription_item", name)
