"""How a route under /v1 is declared and found, and what all resources have: retrieve, list, update."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from local.stripe.account import Account
from local.stripe.errors import ApiError
from local.stripe.expansion import expanded
from local.stripe.parameters import Form, check_expand, declared, merged
from local.stripe.store import Object
from local.stripe.versions import shown

Handler = Callable[[Account, Object, dict[str, str]], Object]
PAGE, LARGEST_PAGE = 10, 100
PAGING = "limit:int starting_after ending_before"


class Route(NamedTuple):
    method: str
    path: re.Pattern[str]
    takes: str
    handler: Handler

    @property
    def form(self) -> Form:
        return declared(self.takes)  # read when it is first needed: the double starts faster


ROUTES: list[Route] = []


def route(address: str, takes: str = "") -> Callable[[Handler], Handler]:
    method, path = address.split()
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))

    def declare(handler: Handler) -> Handler:
        ROUTES.append(Route(method, pattern, takes, handler))
        return handler

    return declare


def call(account: Account, method: str, path: str, given: Object, version: str) -> Object:
    """Do what a request says; the result has the shape of the version."""
    found: tuple[Route, dict[str, str]] | None = None
    for each in ROUTES:
        # The first declared wins, except that a path without a name in it is the more exact one.
        if each.method == method and (place := each.path.fullmatch(path)) and (not found or not place.groupdict()):
            found = each, place.groupdict()
            if not place.groupdict():
                break
    if not found:
        raise ApiError(f"Unrecognized request URL ({method}: {path}).", status=404)
    chosen, names = found
    values = chosen.form.read(given)
    paths = values.pop("expand", None) or []
    check_expand(paths)
    with account.clock_of(*names.values(), *(values.get(name) for name in OWNERS), *_nested_owners(values)):
        made = chosen.handler(account, values, names)
    if made.get("object") == "list":
        made = {**made, "data": [shown(account, each, version) for each in made["data"]]}
    elif made.get("_stale"):  # meant as it is, although the object has moved on
        made = shown(account, made, version)
    else:
        made = shown(account, {**made, **(account.store.get(made.get("id", "")) or {})}, version)
    return expanded(account, made, paths, version)


# Parameters that name an object whose test clock applies.
OWNERS = (
    "test_clock",
    "customer",
    "subscription",
    "invoice",
    "payment_intent",
    "charge",
    "schedule",
    "from_subscription",
    "credit_note",
)


def _nested_owners(values: Object) -> list[Any]:
    payment = values.get("payment")
    return [payment.get("payment_intent")] if isinstance(payment, dict) else []


# What all have -------------------------------------------------------------------------------------------------------


def resource(
    path: str, kind: str, *, filters: str = "created:range", fields: str | None = None, event: str | None = ""
) -> None:
    """Retrieve and list; with `fields` also an update that sets them, announced as `event`."""
    route(f"GET /v1/{path}/{{id}}")(lambda account, _values, place: _retrieved(account, kind, place["id"]))
    route(f"GET /v1/{path}", f"{filters} {PAGING}")(listing(kind, f"/v1/{path}"))
    if fields is not None:
        announced = f"{kind}.updated" if event == "" else event
        route(f"POST /v1/{path}/{{id}}", f"{fields} metadata:metadata")(update(kind, announced))


def _retrieved(account: Account, kind: str, name: str) -> Object:
    """A deleted customer is still shown, as deleted; other deleted objects are gone."""
    thing = account.get(kind, name)
    if thing.get("deleted") and kind != "customer":
        raise account.missing(kind, name)
    return thing


def update(kind: str, event: str | None) -> Handler:
    def handler(account: Account, values: Object, place: dict[str, str]) -> Object:
        thing = account.get(kind, place["id"])
        if "metadata" in values:
            values["metadata"] = merged(thing["metadata"], values["metadata"])
        return account.change(thing, event, **values)

    return handler


def listing(kind: str, path: str) -> Handler:
    return lambda account, values, _place: page(account, values, kind, path, lambda thing: matches(thing, values))


def page(account: Account, values: Object, kind: str, path: str, wanted: Callable[[Object], bool]) -> Object:
    limit = values.get("limit", PAGE)
    if limit is None or not 1 <= limit <= LARGEST_PAGE:
        raise ApiError(f"This value must be between 1 and {LARGEST_PAGE} (it was {limit}).", param="limit")
    before, after = values.get("starting_after"), values.get("ending_before")
    for name, param in (before, "starting_after"), (after, "ending_before"):
        if name:
            account.referred(kind, name, param)
    created = values.get("created")
    oldest = max(created.get("gte", 0), created.get("gt", 0)) if isinstance(created, dict) else 0
    found = []
    for thing in account.store.all(kind, before, after):
        if not after and thing.get("created", oldest) < oldest:
            break
        if not thing.get("deleted") and wanted(thing):
            found.append(thing)
            if len(found) > limit:
                break
    things = found[:limit][::-1] if after else found[:limit]
    return {"object": "list", "url": path, "has_more": len(found) > limit, "data": things}


def list_of(things: list[Object], url: str) -> Object:
    return {"object": "list", "data": things, "has_more": False, "url": url}


ENDED = {"canceled", "incomplete_expired"}
# How a filter compares with an object, where it is not simply equal to the field of its name.
FILTERS: dict[tuple[str, str] | str, Callable[[Object, Any], bool]] = {
    "created": lambda thing, wanted: _in_range(thing["created"], wanted),
    "due_date": lambda thing, wanted: thing["due_date"] is not None and _in_range(thing["due_date"], wanted),
    "ids": lambda thing, wanted: thing["id"] in wanted,
    "lookup_keys": lambda thing, wanted: thing["lookup_key"] in wanted,
    "types": lambda thing, wanted: thing["type"] in wanted,
    "recurring": lambda thing, wanted: wanted.items() <= (thing["recurring"] or {}).items(),
    "price": lambda thing, wanted: wanted in [item["price"]["id"] for item in thing["items"]["data"]],
    "test_clock": lambda thing, wanted: thing.get("_clock") == wanted,
    "pending": lambda thing, wanted: (thing["invoice"] is None) == wanted,
    ("promotion_code", "coupon"): lambda thing, wanted: thing["promotion"]["coupon"] == wanted,
    ("event", "type"): lambda thing, wanted: fnmatchcase(thing["type"], wanted),
    ("invoice", "subscription"): lambda thing, wanted: subscription_of(thing) == wanted,
    ("subscription", "status"): lambda thing, wanted: (
        wanted == "all" or thing["status"] in (ENDED if wanted == "ended" else {wanted})
    ),
}
NO_FILTER = {"limit", "starting_after", "ending_before", "delivery_success"}


def subscription_of(invoice: Object) -> str | None:
    parent = invoice["parent"]
    return str(parent["subscription_details"]["subscription"]) if parent else None


def matches(thing: Object, values: Object) -> bool:
    kind = thing["object"]
    if kind == "subscription" and "status" not in values and thing["status"] == "canceled":
        return False
    if kind in {"customer", "subscription"} and thing.get("_clock") and not {"test_clock", "customer"} & values.keys():
        return False
    for name in values.keys() - NO_FILTER:
        holds = FILTERS.get((kind, name)) or FILTERS.get(name)
        if not (holds(thing, values[name]) if holds else thing.get(name) == values[name]):
            return False
    return True


def _in_range(moment: int, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(moment == wanted)
    signs = {"gt": moment.__gt__, "gte": moment.__ge__, "lt": moment.__lt__, "lte": moment.__le__}
    return all(signs[name](bound) for name, bound in wanted.items())
