"""How an address under /v1 is found, what it takes, and what all resources have: retrieve, list, update."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from local.stripe import billing
from local.stripe.account import Account, Refused
from local.stripe.forms import merged
from local.stripe.store import Object

Work = Callable[[Account, Object, dict[str, str]], Object]
PAGE, LARGEST_PAGE = 10, 100
PAGING = "limit starting_after ending_before created"

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


# What all have -------------------------------------------------------------------------------------------------------


def retrieve(kind: str) -> Work:
    return lambda account, _given, place: account.get(kind, place["id"])


def update(kind: str, fields: str) -> Work:
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


def listing(kind: str, path: str) -> Work:
    return lambda account, given, _place: page(account, given, kind, path, lambda thing: matches(thing, given))


def page(account: Account, given: Object, kind: str, path: str, wanted: Callable[[Object], bool]) -> Object:
    limit = given.get("limit", PAGE)
    if not 1 <= limit <= LARGEST_PAGE:
        raise Refused(f"This value must be between 1 and {LARGEST_PAGE} (it was {limit}).", param="limit")
    before, after = given.get("starting_after"), given.get("ending_before")
    for name, param in (before, "starting_after"), (after, "ending_before"):
        if name:
            account.referred(kind, name, param)
    created = given.get("created")
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
NO_FILTER = {"limit", "starting_after", "ending_before"}


def matches(thing: Object, given: Object) -> bool:
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
