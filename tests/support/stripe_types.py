"""Compares JSON of the double with the typed classes of the `stripe` package."""

import ast
import inspect
import sys
import typing
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import import_module
from types import NoneType
from typing import Any, ClassVar, Literal, Union

from stripe import ListObject, StripeObject
from stripe._object_classes import get_object_class
from stripe._stripe_object import UntypedStripeObject

JsonObject = dict[str, Any]
UNTYPED = (Any, UntypedStripeObject)


def problems(thing: JsonObject) -> list[str]:
    """Unknown fields, missing required fields and wrong types of an object of the API."""
    return list(_object(thing, get_object_class("V1", thing["object"]), thing["object"]))


def _object(value: Any, of: type, path: str) -> typing.Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no object"
        return
    hints = _hints(of)
    for name, each in value.items():
        if name in hints:
            yield from _value(each, hints[name], f"{path}.{name}")
        else:
            yield f"{path}.{name}: unknown field"
    if not value.get("deleted"):
        yield from (f"{path}.{name}: missing" for name in hints.keys() - value.keys() if not _is_optional(hints[name]))


def _value(value: Any, hint: Any, path: str) -> typing.Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in UNTYPED or origin in UNTYPED:
        return
    if origin is Union:
        yield from _one_of(value, arguments, path)
    elif origin is Literal:
        if value not in arguments:
            yield f"{path}: {value!r} is none of {', '.join(map(str, arguments))}"
    elif origin is list:
        members = value if isinstance(value, list) else [f"{value!r} is no list"]
        for n, each in enumerate(members):
            yield from _value(each, arguments[0], f"{path}[{n}]")
    elif origin is ListObject:
        yield from _list(value, arguments[0], path)
    elif inspect.isclass(hint) and issubclass(hint, StripeObject):
        yield from _object(value, hint, path)
    elif not _is_a(value, hint):
        yield f"{path}: {value!r} is no {getattr(hint, '__name__', hint)}"


def _one_of(value: Any, hints: tuple[Any, ...], path: str) -> typing.Iterator[str]:
    """A union; where words are listed beside `str`, only those words are accepted."""
    if value is None:
        if NoneType not in hints:
            yield f"{path}: null"
        return
    flat = [each for hint in hints for each in (typing.get_args(hint) if typing.get_origin(hint) is Union else [hint])]
    words = [hint for hint in flat if typing.get_origin(hint) is Literal]
    candidates = [hint for hint in flat if hint is not NoneType and not (words and hint is str)]
    if isinstance(value, dict) and "object" in value:
        same = [hint for hint in candidates if getattr(hint, "OBJECT_NAME", None) == value["object"]]
        candidates = same or candidates
    found = [list(_value(value, hint, path)) for hint in candidates]
    if all(found):
        yield from min(found, key=len)


def _list(value: Any, of: Any, path: str) -> typing.Iterator[str]:
    if (
        not isinstance(value, dict)
        or value.get("object") != "list"
        or value.keys() != {"object", "data", "has_more", "url"}
    ):
        yield f"{path}: no list object: {value!r:.200}"
        return
    for n, each in enumerate(value["data"]):
        yield from _value(each, of, f"{path}.data[{n}]")


def _is_a(value: Any, hint: Any) -> bool:
    if hint is Decimal:
        try:
            return isinstance(value, str) and Decimal(value).is_finite()
        except InvalidOperation:
            return False
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _is_optional(hint: Any) -> bool:
    return typing.get_origin(hint) is Union and NoneType in typing.get_args(hint)


@cache
def _hints(of: type) -> dict[str, Any]:
    own = {name: hint for name, hint in inspect.get_annotations(of).items() if name[0] != "_"}
    names = {**vars(sys.modules[of.__module__]), **_imports(of.__module__)}
    resolved = typing.get_type_hints(of, globalns=names, localns=names)
    return {name: resolved[name] for name in own if typing.get_origin(resolved[name]) is not ClassVar}


@cache
def _imports(module: str) -> dict[str, Any]:
    """What a module imports for the type checker only."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found: dict[str, Any] = {}
    for node in (each for block in blocks for each in block.body if isinstance(each, ast.ImportFrom)):
        if node.module and ".params" not in node.module:
            source = import_module(node.module)
            found |= {name.asname or name.name: getattr(source, name.name) for name in node.names}
    return found
