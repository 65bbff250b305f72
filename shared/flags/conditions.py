"""GrowthBook's condition syntax, compiled once into closures.

What cannot be understood is an error, never a match. A missing attribute, like null, satisfies no comparison; its
negation ($ne, $nin, $not, …) it does. Numbers and texts that spell numbers compare as numbers.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.flags.patterns import found, pattern
from shared.flags.versions import sortable

Attributes = Mapping[str, Any]
Test = Callable[[Any], bool]  # of one value
Condition = Callable[[Any], bool]  # of attributes; in $elemMatch also of what has none

DEPTH = 20
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}
_VERSIONS: dict[str, Callable[[str, str], bool]] = {
    "$veq": lambda a, b: a == b,
    "$vgt": lambda a, b: a > b,
    "$vgte": lambda a, b: a >= b,
    "$vlt": lambda a, b: a < b,
    "$vlte": lambda a, b: a <= b,
}
_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_KINDS = {*_TYPES.values(), "undefined"}
_OF_ATTRIBUTES = ("$or", "$and", "$nor")


class ConditionError(Exception):
    """A condition that cannot be understood: where, what was found, what is expected."""

    def __init__(self, place: str, found: Any, expected: str) -> None:
        super().__init__(f"{place}: found {json.dumps(found, default=repr)[:100]}, expected {expected}")


def compile_condition(condition: Any) -> Condition:
    try:
        return _condition(condition, "conditions", 1)
    except RecursionError:
        raise ConditionError("conditions", "deeper ones", f"at most {DEPTH} levels") from None


def _condition(condition: Any, place: str, depth: int) -> Condition:
    _check_depth(place, depth)
    if not isinstance(condition, dict):
        raise ConditionError(place, condition, "an object")
    parts: list[Condition] = []
    for key, value in condition.items():
        here = f"{place}.{key}"
        if key in _OF_ATTRIBUTES:
            if not isinstance(value, list):
                raise ConditionError(here, value, "a list of conditions")
            each = [_condition(one, f"{here}[{n}]", depth + 1) for n, one in enumerate(value)]
            parts.append(_all(each) if key == "$and" else _any(each) if key == "$or" else _negated(_any(each)))
        elif key == "$not":
            parts.append(_negated(_condition(value, here, depth + 1)))
        elif key == "" or (key.startswith("$") and not (value and _is_operators(value))):
            # An attribute may be called so; without operators it is a mistyped one of these.
            raise ConditionError(place, key, "an attribute, $or, $and, $nor or $not")
        else:
            parts.append(_attribute(key, _value(value, here, depth + 1)))
    return _all(parts)


def _all(parts: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    match parts:
        case []:
            return lambda _: True
        case [only]:
            return only
        case [first, second]:
            return lambda value: first(value) and second(value)
    several = tuple(parts)

    def every(value: Any) -> bool:
        for part in several:  # noqa: SIM110 - a generator costs more than what it would run over
            if not part(value):
                return False
        return True

    return every


def _any(parts: Sequence[Condition]) -> Condition:
    match parts:
        case []:
            return lambda _: True  # GrowthBook's: an empty $or holds
        case [only]:
            return only
        case [first, second]:
            return lambda value: first(value) or second(value)
    several = tuple(parts)

    def some(value: Any) -> bool:
        for part in several:  # noqa: SIM110
            if part(value):
                return True
        return False

    return some


def _negated(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not test(value)


def _attribute(path: str, test: Test) -> Condition:
    if "." not in path and path != "length" and not path.isdigit():

        def named(attributes: Any) -> bool:
            return test(attributes.get(path) if type(attributes) is dict else None)

        return named
    steps = tuple(path.split("."))

    def nested(attributes: Any) -> bool:
        for step in steps:
            attributes = _step(attributes, step)
        return test(attributes)

    return nested


def _step(value: Any, name: str) -> Any:
    if type(value) is dict:
        return value.get(name)
    if type(value) is list:
        if name == "length":
            return len(value)
        if name.isascii() and name.isdigit() and str(int(name[:10])) == name and int(name) < len(value):
            return value[int(name)]
    return None


def _is_operators(value: Any) -> bool:
    return isinstance(value, dict) and all(key.startswith("$") for key in value)


def _value(expected: Any, place: str, depth: int) -> Test:
    """What is asked of one attribute: operators, or a plain value to be equal to."""
    _check_depth(place, depth)
    if isinstance(expected, dict) and any(key.startswith("$") for key in expected):
        for key, operand in expected.items():
            if not key.startswith("$"):
                raise ConditionError(f"{place}.{key}", operand, "only operators beside an operator")
        return _all([_operator(name, operand, place, depth) for name, operand in expected.items()])
    if _holds_operators(expected):
        raise ConditionError(place, expected, 'operators at a path written as one name, such as "a.b"')
    return _equal_to(expected)


def _holds_operators(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_operator_name(key) or _holds_operators(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_holds_operators(inner) for inner in value)


def _is_operator_name(key: str) -> bool:
    return key.startswith("$") and key[1:].isascii() and key[1:].isalpha()


def _equal_to(expected: Any) -> Test:
    match expected:
        case str():
            return lambda value: value == expected
        case None:
            return lambda value: value is None
        case bool():
            return lambda value: value is expected
        case int() | float():
            return lambda value: value == expected and type(value) is not bool
        case dict() if not expected:
            return lambda _: True  # GrowthBook's: without operators there is nothing to fail
    return lambda value: _same(value, expected)


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: true is not 1, 1 is 1.0, and an object's keys stand in one order."""
    if _TYPES.get(type(a)) != _TYPES.get(type(b)):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    return bool(a == b)


def _number(value: Any) -> float | None:
    if type(value) in {int, float}:
        return None if value != value else value  # noqa: PLR0124 - not a number
    if type(value) is str:
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) and "_" not in value else None
    return None


def _comparison(name: str, expected: Any) -> Test:
    compare = _COMPARISONS[name]
    as_number = _number(expected)
    if type(expected) is str:

        def with_text(value: Any) -> bool:
            if type(value) is str:
                return compare(value, expected)
            number = _number(value)
            return number is not None and as_number is not None and compare(number, as_number)

        return with_text

    def with_number(value: Any) -> bool:
        if type(value) is int:
            return compare(value, expected)
        number = _number(value)
        return number is not None and compare(number, expected)

    return with_number


def _version(value: Any) -> str | None:
    if type(value) is str:
        return sortable(value)
    return sortable(format(value, "g")) if type(value) in {int, float} else None


def _version_comparison(name: str, expected: Any) -> Test:
    compare, wanted = _VERSIONS[name], _version(expected) or ""

    def holds(value: Any) -> bool:
        version = _version(value)
        return version is not None and compare(version, wanted)

    return holds


def _folded(value: Any) -> Any:
    return value.lower() if type(value) is str else value


def _known(value: Any) -> tuple[str | None, Any]:
    """What a value is looked up by: true is not 1, but 1.0 is."""
    return _TYPES.get(type(value)), value


def _member(expected: Sequence[Any], fold: Callable[[Any], Any] | None) -> Test:
    # Objects and lists are equal to no other.
    plain = [fold(one) if fold else one for one in expected if type(one) not in {list, dict}]
    texts = frozenset(one for one in plain if type(one) is str)
    others = frozenset(_known(one) for one in plain if type(one) is not str)

    def listed(value: Any) -> bool:
        if type(value) is str:
            return (fold(value) if fold else value) in texts
        if type(value) is list:
            return any(type(one) is not list and listed(one) for one in value)
        return bool(others) and type(value) is not dict and _known(value) in others

    return listed


def _every_one(expected: Sequence[Any], place: str, depth: int, *, fold: bool) -> Test:
    wanted = [
        (lambda value, one=one.lower(): _folded(value) == one)
        if fold and type(one) is str
        else _value(one, f"{place}[{n}]", depth + 1)
        for n, one in enumerate(expected)
    ]

    def holds(value: Any) -> bool:
        return type(value) is list and all(any(test(one) for one in value) for test in wanted)

    return holds


def _identical(expected: Any) -> Test:
    return _equal_to(expected) if type(expected) not in {list, dict} else lambda _: False


def _regular_expression(text: Any, place: str, *, ignore_case: bool) -> Test:
    if type(text) is not str:
        raise ConditionError(place, text, "a regular expression")
    try:
        compiled = pattern(text, ignore_case=ignore_case)
    except ValueError as problem:
        raise ConditionError(place, text, f"a regular expression; this is {problem}") from None
    return lambda value: type(value) is str and found(compiled, value)


def _some_element(operand: Any, place: str, depth: int) -> Test:
    if not isinstance(operand, dict):
        raise ConditionError(place, operand, "a condition or operators")
    of_fields = not _is_operators(operand) or any(key in operand for key in _OF_ATTRIBUTES)
    test = (_condition if of_fields else _value)(operand, place, depth + 1)

    def holds(value: Any) -> bool:
        return type(value) is list and any(one is not None and test(one) for one in value)

    return holds


def _size(operand: Any, place: str, depth: int) -> Test:
    if not isinstance(operand, dict) and type(operand) not in {int, float}:
        raise ConditionError(place, operand, "a number or operators")
    test = _value(operand, place, depth + 1)
    return lambda value: type(value) is list and test(len(value))


def _existence(operand: Any, place: str) -> Test:
    if type(operand) is not bool:
        raise ConditionError(place, operand, "true or false")
    return (lambda value: value is not None) if operand else (lambda value: value is None)


def _type(operand: Any, place: str) -> Test:
    if operand not in _KINDS:
        raise ConditionError(place, operand, "string, number, boolean, array, object, null or undefined")
    return lambda value: _TYPES.get(type(value)) == operand


def _operator(name: str, operand: Any, place: str, depth: int) -> Test:  # noqa: C901, PLR0911, PLR0912 - one per operator
    here = f"{place}.{name}"
    match name:
        case "$eq":
            return _identical(operand)
        case "$ne":
            return _negated(_identical(operand))
        case "$gt" | "$gte" | "$lt" | "$lte":
            if type(operand) not in {int, float, str}:
                raise ConditionError(here, operand, "a number or a string")
            return _comparison(name, operand)
        case "$veq" | "$vne" | "$vgt" | "$vgte" | "$vlt" | "$vlte":
            if type(operand) not in {int, float, str}:
                raise ConditionError(here, operand, 'a version such as "1.2.3"')
            return (
                _negated(_version_comparison("$veq", operand)) if name == "$vne" else _version_comparison(name, operand)
            )
        case "$in" | "$nin" | "$ini" | "$nini" | "$all" | "$alli":
            if type(operand) is not list:
                raise ConditionError(here, operand, "a list")
            if name in {"$all", "$alli"}:
                return _every_one(operand, here, depth, fold=name == "$alli")
            listed = _member(operand, _folded if name.endswith("i") else None)
            return listed if name in {"$in", "$ini"} else _negated(listed)
        case "$exists":
            return _existence(operand, here)
        case "$type":
            return _type(operand, here)
        case "$regex" | "$regexi":
            return _regular_expression(operand, here, ignore_case=name.endswith("i"))
        case "$notRegex" | "$notRegexi":
            return _negated(_regular_expression(operand, here, ignore_case=name.endswith("i")))
        case "$size":
            return _size(operand, here, depth)
        case "$elemMatch":
            return _some_element(operand, here, depth)
        case "$not":
            return _negated(_value(operand, here, depth + 1))
    raise ConditionError(here, operand, "an operator of GrowthBook's conditions, such as $in or $gte")


def _check_depth(place: str, depth: int) -> None:
    if depth > DEPTH:
        raise ConditionError(place, "deeper ones", f"at most {DEPTH} levels")
