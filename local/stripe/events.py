"""Events, webhook endpoints, and the account itself."""

import secrets

from local.stripe.account import Account
from local.stripe.api import matches, page, resource, route, update
from local.stripe.errors import ApiError
from local.stripe.store import Object

resource("webhook_endpoints", "webhook_endpoint", filters="")


@route("GET /v1/events/{id}")
def retrieve_event(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return account.get("event", place["id"])


@route("GET /v1/events", "type types[] delivery_success:bool limit:int starting_after ending_before created:range")
def list_events(account: Account, values: Object, _place: dict[str, str]) -> Object:
    """The newest events are missing for a while: the list lags behind."""
    if values.get("type") and values.get("types"):
        raise ApiError("You may only specify one of these parameters: type, types.", param="type")
    latest = account.now() - account.store.note("lag", 0)
    return page(
        account,
        values,
        "event",
        "/v1/events",
        lambda event: (event["created"] <= latest or bool(event.get("_clock"))) and matches(event, values),
    )


@route("POST /v1/webhook_endpoints", "url!:url enabled_events![] api_version description metadata:metadata")
def create_webhook_endpoint(account: Account, values: Object, _place: dict[str, str]) -> Object:
    secret = f"whsec_{secrets.token_hex(16)}"
    made = account.new("webhook_endpoint", **values, _secret=secret)
    return {**made, "secret": secret}  # shown this once


@route("POST /v1/webhook_endpoints/{id}", "url:url enabled_events[] description disabled:bool metadata:metadata")
def update_webhook_endpoint(account: Account, values: Object, place: dict[str, str]) -> Object:
    if "disabled" in values:
        values["status"] = "disabled" if values.pop("disabled") else "enabled"
    return update("webhook_endpoint", None)(account, values, place)


@route("DELETE /v1/webhook_endpoints/{id}")
def delete_webhook_endpoint(account: Account, _values: Object, place: dict[str, str]) -> Object:
    endpoint = account.get("webhook_endpoint", place["id"])
    account.change(endpoint, None, status="disabled", deleted=True)
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


@route("GET /v1/account")
def retrieve_account(_account: Account, _values: Object, _place: dict[str, str]) -> Object:
    return {
        "id": "acct_1double",
        "object": "account",
        "business_type": "company",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": "owner@strive.test",
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": "Strive", "timezone": "Etc/UTC"}},
        "type": "standard",
    }
