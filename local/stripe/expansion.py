"""`expand`: names of objects replaced by the objects, up to four levels deep."""

from collections.abc import Callable
from typing import Any

from local.stripe.account import Account
from local.stripe.errors import ApiError
from local.stripe.store import Object
from local.stripe.versions import PARENTS, shown

# Fields shown only to those who expand them; each noun adds its own.
INCLUDED: dict[tuple[str, str], Callable[[Account, Object], Object | None]] = {}


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
    refused = ApiError(f"This property cannot be expanded ({path}).", param="expand")
    if not isinstance(here, dict):
        raise refused
    if name not in here:
        include = INCLUDED.get((here.get("object", ""), name))
        if version < PARENTS or not include:
            raise refused
        here[name] = _shown(account, include(account, account.store.get(here["id"]) or here), version)
    value = here[name]
    if isinstance(value, str):
        here[name] = _found(account, value, version, refused)
    elif isinstance(value, list):
        here[name] = [_found(account, each, version, refused) if isinstance(each, str) else each for each in value]
    elif not isinstance(value, dict | None):
        raise refused
    _expand(account, here[name], rest, path, version)


def _found(account: Account, name: str, version: str, refused: ApiError) -> Object:
    thing = account.store.get(name)
    if not thing:
        raise refused
    return shown(account, thing, version)


def _shown(account: Account, found: Object | None, version: str) -> Object | None:
    if found and found.get("object") == "list":
        return {**found, "data": [shown(account, each, version) for each in found["data"]]}
    return found


def includes(kind: str, field: str, of: str, by: str, path: str) -> None:
    """A list of the objects `of` that name the object in their field `by`."""

    def include(account: Account, thing: Object) -> Object:
        found = [
            each
            for each in account.store.all(of)
            if each.get(by) == thing["id"] and not each.get("deleted") and not each.get("ended_at")
        ]
        return {"object": "list", "data": found, "has_more": False, "url": f"/v1/{path}/{thing['id']}/{field}"}

    INCLUDED[kind, field] = include
