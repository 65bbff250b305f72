"""The parameters of a route: a declaration, and how a form-encoded request is parsed and checked against it.

A declaration is a list of words: `name`, `name!` (required), `name:kind`, `name:(one|other)`, `name{…}` (an object)
and `name[]`, `name[]{…}` (lists). A parameter that is not declared is refused, as Stripe refuses one it does not know.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from local.stripe.errors import ApiError
from local.stripe.money import CURRENCIES
from local.stripe.store import Object

WORD = re.compile(r"\s*(?:(\w+)(!?)(\[\])?(?::(\w+|\([^)]*\)))?(\{)?|(\}))")
LONGEST_TEXT = 5000
METADATA_KEYS, METADATA_NAME, METADATA_VALUE = 50, 40, 500
DEEPEST_EXPAND = 4
LARGEST_INTEGER = 99_999_999_999
EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s.\x00-\x1f]+(\.[^@\s.\x00-\x1f]+)+")
URL = re.compile(r"https?://[^\s/]+\S*")


@dataclass
class Parameter:
    required: bool = False
    is_list: bool = False
    kind: str = "text"
    fields: "dict[str, Parameter] | None" = None


@dataclass
class Form:
    """What the declaration of one route accepts."""

    fields: dict[str, Parameter] = field(default_factory=dict)

    def read(self, given: Object) -> Object:
        return _object(self.fields, given, "")


@cache
def declared(words: str) -> Form:
    fields, end = _fields(words + " expand[]", 0)
    if end != len(words) + len(" expand[]"):
        raise ValueError(f"Not a declaration of parameters: {words[end:]!r}")
    return Form(fields)


def _fields(words: str, place: int) -> tuple[dict[str, Parameter], int]:
    found: dict[str, Parameter] = {}
    while (word := WORD.match(words, place)) and word.end() > place:
        place = word.end()
        name, needed, several, kind, opens, closes = word.groups()
        if closes:
            return found, place
        inner = None
        if opens:
            inner, place = _fields(words, place)
        found[name] = Parameter(bool(needed), bool(several), kind or "text", inner)
    return found, place


# Forms ---------------------------------------------------------------------------------------------------------------


def parse(text: str) -> Object:
    """`items[0][price]=x` as nested objects; lists stay objects of numbered members until they are checked."""
    root: Object = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        first, *steps = [name.split("[")[0], *re.findall(r"\[([^\]]*)\]", name)]
        here, key = root, first
        for step in steps:
            here = here.setdefault(key, {})
            if not isinstance(here, dict):
                raise ApiError(f"Invalid parameter: {name}", param=name)
            key = step or str(len(here))
        here[key] = value
    return root


def _object(fields: dict[str, Parameter], given: Object, path: str) -> Object:
    unknown = [_member(path, name) for name in given if name not in fields]
    if unknown:
        words = "parameter" if len(unknown) == 1 else "parameters"
        raise ApiError(f"Received unknown {words}: {', '.join(unknown)}", code="parameter_unknown", param=unknown[0])
    for name, parameter in fields.items():
        if parameter.required and name not in given:
            param = _member(path, name)
            raise ApiError(f"Missing required param: {param}.", code="parameter_missing", param=param)
    return {name: _value(fields[name], value, _member(path, name)) for name, value in given.items()}


def _member(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name


def _value(parameter: Parameter, value: Any, param: str) -> Any:
    if value == "":
        return _unset(parameter, param)
    if parameter.is_list:
        if not isinstance(value, dict) or not all(name.isdigit() for name in value):
            raise ApiError("Invalid array", param=param)
        each = Parameter(kind=parameter.kind, fields=parameter.fields)
        numbered = sorted(value.items(), key=lambda member: int(member[0]))
        return [_value(each, member, f"{param}[{n}]") for n, (_, member) in enumerate(numbered)]
    if parameter.fields is not None:
        if not isinstance(value, dict):
            raise ApiError("Invalid object", param=param)
        return _object(parameter.fields, value, param)
    if parameter.kind == "metadata":
        return _metadata(value, param)
    return _single(parameter, value, param)


def _unset(parameter: Parameter, param: str) -> Any:
    """An empty value unsets an optional parameter."""
    if parameter.required:
        raise ApiError(
            f"You passed an empty string for '{param}'. We assume empty values are an attempt to unset a parameter;"
            f" however '{param}' cannot be unset.",
            code="parameter_invalid_empty",
            param=param,
        )
    return {} if parameter.kind == "metadata" else [] if parameter.is_list else None


def _single(parameter: Parameter, value: Any, param: str) -> Any:
    if parameter.kind == "range" and isinstance(value, dict):
        return _object(BOUNDS, value, param)
    if not isinstance(value, str):
        raise ApiError("Invalid string: expected a single value, found an object", param=param)
    if parameter.kind.startswith("("):
        return _one_of(parameter.kind[1:-1].split("|"), value, param)
    return KINDS[parameter.kind](value, param)


def _text(value: str, param: str) -> str:
    if "\x00" in value:
        raise ApiError("Invalid string: it contains a null byte", param=param)
    if len(value) > LONGEST_TEXT:
        raise ApiError(
            f"Invalid string: must be at most {LONGEST_TEXT} characters (found {len(value)})",
            code="parameter_invalid_string_length",
            param=param,
        )
    return value


def _metadata(value: Any, param: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ApiError("Invalid object", param=param)
    if len(value) > METADATA_KEYS:
        raise ApiError(f"Metadata can have up to {METADATA_KEYS} keys (found {len(value)})", param=param)
    for name, text in value.items():
        member = f"{param}[{name}]"
        if not isinstance(text, str):
            raise ApiError("Metadata values must be strings, but an object was found", param=member)
        if len(name) > METADATA_NAME:
            raise ApiError(
                f"Metadata keys can be up to {METADATA_NAME} characters long (found {len(name)})", param=member
            )
        if len(text) > METADATA_VALUE:
            raise ApiError(
                f"Metadata values can have up to {METADATA_VALUE} characters, but you passed in a value that is"
                f" {len(text)} characters",
                param=member,
            )
        _text(text, member)
        _text(name, param)
    return value


def _one_of(accepted: list[str], value: str, param: str) -> str:
    if value not in accepted:
        words = f"{', '.join(accepted[:-1])}, or {accepted[-1]}" if len(accepted) > 1 else accepted[0]
        raise ApiError(f"Invalid {param}: must be one of {words}", param=param)
    return value


def _integer(least: int | None = None, words: str = "integer") -> Callable[[str, str], int]:
    def read(value: str, param: str) -> int:
        if not re.fullmatch(r"-?\d+", value) or (least is not None and int(value) < least):
            raise ApiError(f"Invalid {words}: {value}", code="parameter_invalid_integer", param=param)
        if abs(int(value)) > LARGEST_INTEGER:
            raise ApiError(f"Invalid integer: {value} is too large", code="parameter_invalid_integer", param=param)
        return int(value)

    return read


def _time_or_now(value: str, param: str) -> int | str:
    return "now" if value == "now" else _integer(0, "timestamp: must be an integer Unix timestamp")(value, param)


def _ending(value: str, param: str) -> int | str:
    """A time, or the end of the period that ends first or last."""
    return value if value in {"min_period_end", "max_period_end"} else _time_or_now(value, param)


def _boolean(value: str, param: str) -> bool:
    if value not in {"true", "false"}:
        raise ApiError(f"Invalid boolean: {value}", param=param)
    return value == "true"


def _decimal(value: str, param: str) -> Decimal:
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ApiError(f"Invalid decimal: {value}", code="parameter_invalid_integer", param=param)
    return number


def _currency(value: str, param: str) -> str:
    if value.lower() not in CURRENCIES:
        raise ApiError(
            f"Invalid currency: {value}. Stripe currently supports these currencies: {', '.join(sorted(CURRENCIES))}",
            param=param,
        )
    return value.lower()


def _email(value: str, param: str) -> str:
    if not EMAIL.fullmatch(value) or len(value) > METADATA_VALUE:
        raise ApiError(f"Invalid email address: {value}", code="email_invalid", param=param)
    return value


def _url(value: str, param: str) -> str:
    if not URL.fullmatch(value) or "\x00" in value:
        raise ApiError("Not a valid URL", code="url_invalid", param=param)
    return value


KINDS: dict[str, Callable[[str, str], Any]] = {
    "text": _text,
    "int": _integer(),
    "count": _integer(0, "non-negative integer"),
    "positive": _integer(1, "positive integer"),
    "time": _integer(0, "timestamp: must be an integer Unix timestamp"),
    "moment": _time_or_now,
    "ending": _ending,
    "range": _integer(0, "timestamp: must be an integer Unix timestamp"),
    "bool": _boolean,
    "decimal": _decimal,
    "currency": _currency,
    "email": _email,
    "url": _url,
}
BOUNDS = {name: Parameter(kind="time") for name in ("gt", "gte", "lt", "lte")}


# What is done with values --------------------------------------------------------------------------------------------


def picked(values: Object, names: str) -> Object:
    return {name: values[name] for name in names.split() if name in values}


def merged(before: Object, values: Object | None) -> Object:
    """Metadata after an update: named keys are set, empty values delete a key; nothing at all deletes every key."""
    if not values:
        return {}
    return {name: value for name, value in (before | values).items() if value != ""}


def check_expand(paths: list[str]) -> None:
    for path in paths:
        if path.count(".") >= DEEPEST_EXPAND:
            raise ApiError(
                f"You cannot expand more than {DEEPEST_EXPAND} levels of a property. Property: {path}", param="expand"
            )
