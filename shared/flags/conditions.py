"""GrowthBook's condition syntax, compiled once into closures.

A condition that cannot be evaluated is an error, never a match. A missing attribute, like null, satisfies no
comparison, but every negation ($ne, $nin, $not, …). Numbers and texts that spell numbers compare as numbers.
"""

import json
import math
import operator
from collections.abc import Callable, Container, Mapping, Sequence
from functools import lru_cache
from typing import Any

from shared.flags.groups import NONE, TYPES, Group, Groups, holds_group, typed, with_groups
from shared.flags.patterns import matches, pattern
from shared.flags.versions import sortable

Attributes = Mapping[str, Any]
Test = Callable[[Any], bool]  # of one value
Condition = Callable[[Attributes], bool]
# A test of one attribute that usually costs no Python call: the attribute, the type it usually has, the built-in test
# for that type, and the test for every other type.
Check = tuple[str, type, Test, Test]

DEPTH = 20
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_FROM_THE_BOUND = {"$gt": "__lt__", "$gte": "__le__", "$lt": "__gt__", "$lte": "__ge__"}
_VERSIONS: dict[str, Callable[[str, str], bool]] = {
    "$veq": operator.eq,
    "$vgt": operator.gt,
    "$vgte": operator.ge,
    "$vlt": operator.lt,
    "$vlte": operator.le,
}
_SCALARS = {str, int, float, bool, type(None)}
_OPERANDS = {str, int, float}
_TEXT = {str}
_KINDS = {*TYPES.values(), "undefined"}
_OF_ATTRIBUTES = ("$or", "$and", "$nor", "$not")


class ConditionError(Exception):
    """A condition that cannot be evaluated: the place, what was found, what is accepted."""

    def __init__(self, found: Any, expected: str) -> None:
        self.place = ""
        self.problem = f"found {json.dumps(found, default=repr)[:100]}, expected {expected}"

    def __str__(self) -> str:
        return f"conditions{self.place}: {self.problem}"

    def within(self, place: str) -> "ConditionError":
        """Prepend a part of the path; paths are only built for errors, from the inside out."""
        self.place = place + self.place
        return self


# Many flags have the same tests, so equal tests share one closure. typed: true is not 1.
_shared = lru_cache(maxsize=8192, typed=True)


def compile_condition(condition: Any, groups: Groups = NONE) -> Condition:
    return _condition(with_groups(condition, groups), 1)


def compile_checks(condition: Any, groups: Groups | None = NONE) -> tuple[tuple[Check, ...], Condition | None]:
    """The same condition as a list of checks and the rest of it: most conditions consist of checks.

    None: the condition is known to name no group.
    """
    if groups is not None:
        condition = with_groups(condition, groups)
    if not isinstance(condition, dict):
        return (), _condition(condition, 1)
    checks, rest = [], {}
    for path, test in condition.items():
        if check := _check(path, test):
            checks.append(check)
        else:
            rest[path] = test
    return tuple(checks), _condition(rest, 1) if rest else None


def _check(path: str, test: Any) -> Check | None:
    """For a text to be equal to, a bound, or a list. _condition() handles everything else, and every error."""
    if path == "" or path.startswith("$") or "." in path:
        return None
    if type(test) is str:
        return _text_check(path, test)
    if type(test) is dict and len(test) == 1:
        ((name, operand),) = test.items()
        if name in _FROM_THE_BOUND and type(operand) in {int, float}:
            return _bound_check(path, name, operand)
        if name == "$in" and type(operand) is list:
            return _list_check(path, _key(operand))
    return None


@_shared
def _text_check(path: str, expected: str) -> Check:
    return path, str, expected.__eq__, lambda _: False


@_shared
def _bound_check(path: str, name: str, bound: float) -> Check:
    return path, int, getattr(bound, _FROM_THE_BOUND[name]), _comparison(name, bound)


def _key(listed: list[Any]) -> tuple[str, ...] | str:
    """A list as an argument of what is shared: usually texts, else JSON, since True is equal to 1."""
    return tuple(listed) if {*map(type, listed)} <= _TEXT else json.dumps(listed)


def _listed_values(key: tuple[str, ...] | str) -> Sequence[Any]:
    return json.loads(key) if type(key) is str else key


@_shared
def _list_check(path: str, listed: tuple[str, ...] | str) -> Check:
    texts = frozenset(one for one in _listed_values(listed) if type(one) is str)
    return path, str, texts.__contains__, _member(listed, None)


def _condition(condition: Any, depth: int) -> Condition:
    _check_depth(depth)
    if not isinstance(condition, dict):
        raise ConditionError(condition, "an object")
    parts: list[Condition] = []
    for key, value in condition.items():
        if key == "" or (key.startswith("$") and key not in _OF_ATTRIBUTES and not (value and _is_operators(value))):
            # An attribute may have such a name. Without operators it is a mistyped $or, $and, $nor or $not.
            raise ConditionError(key, "an attribute, $or, $and, $nor or $not")
        try:
            if type(value) is str and key[0] != "$":
                parts.append(_equal_attribute(key, value))
            elif type(value) is dict and len(value) == 1 and depth < DEPTH and key[0] != "$":
                ((name, operand),) = value.items()
                is_shared = type(operand) in _OPERANDS
                parts.append(_one_operator(key, name, operand) if is_shared else _part(key, value, depth))
            else:
                parts.append(_part(key, value, depth))
        except ConditionError as problem:
            raise problem.within(f".{key}") from None
    return _all(parts)


def _part(key: str, value: Any, depth: int) -> Condition:
    match key:
        case "$and":
            return _all(_conditions(value, depth))
        case "$or":
            return _any(_conditions(value, depth))
        case "$nor":
            return _negated(_any(_conditions(value, depth)))
        case "$not":
            return _negated(_condition(value, depth + 1))
    # Shared closures stay in memory, but a group must be freed with the last flag that names it.
    attribute = _attribute.__wrapped__ if type(value) not in _SCALARS and holds_group(value) else _attribute
    return attribute(key, _value(value, depth + 1))


def _conditions(found: Any, depth: int) -> list[Condition]:
    if not isinstance(found, list):
        raise ConditionError(found, "a list of conditions")
    return _each(found, lambda one: _condition(one, depth + 1))


def _each(found: list[Any], compile_one: Callable[[Any], Test]) -> list[Test]:
    compiled = []
    for number, one in enumerate(found):
        try:
            compiled.append(compile_one(one))
        except ConditionError as problem:
            raise problem.within(f"[{number}]") from None
    return compiled


def _all(parts: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    match parts:
        case []:
            return lambda _: True
        case [only]:
            return only
        case [first, second]:
            return lambda value: first(value) and second(value)
        case [first, second, third]:
            return lambda value: first(value) and second(value) and third(value)
    several = tuple(parts)

    def every(value: Any) -> bool:
        for part in several:  # noqa: SIM110 - a plain loop is faster than any() - a generator costs more than what it would run over
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
        for part in several:  # noqa: SIM110 - a plain loop is faster than any()
            if part(value):
                return True
        return False

    return some


def _negated(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not test(value)


@_shared
def _equal_attribute(path: str, expected: str) -> Condition:
    return _attribute(path, _equal_to_scalar(expected))


@_shared
def _one_operator(path: str, name: str, operand: Any) -> Condition:
    return _part(path, {name: operand}, 1)


@_shared
def _attribute(path: str, test: Test) -> Condition:
    first, *steps = path.split(".")
    if not steps:
        return lambda attributes: test(attributes.get(path))

    def nested(attributes: Attributes) -> bool:
        value = attributes.get(first)
        for step in steps:
            value = _step(value, step)
        return test(value)

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


def _value(expected: Any, depth: int) -> Test:
    """The test of one attribute: operators, or a plain value to be equal to."""
    _check_depth(depth)
    if type(expected) in _SCALARS:
        return _equal_to(expected)
    if isinstance(expected, dict) and any(key.startswith("$") for key in expected):
        tests = []
        for name, operand in expected.items():
            try:
                tests.append(_operator(name, operand, depth))
            except ConditionError as problem:
                raise problem.within(f".{name}") from None
        return _all(tests)
    if _holds_operators(expected):
        raise ConditionError(expected, 'operators at a path written as one name, such as "a.b"')
    return _equal_to(expected)


def _holds_operators(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_operator_name(key) or _holds_operators(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_holds_operators(inner) for inner in value)


def _is_operator_name(key: str) -> bool:
    return key.startswith("$") and key[1:].isascii() and key[1:].isalpha()


def _equal_to(expected: Any) -> Test:
    return _equal_to_scalar(expected) if type(expected) in _SCALARS else _equal_to_structure(expected)


def _equal_to_structure(expected: Any) -> Test:
    if expected == {}:
        return lambda _: True  # GrowthBook's: without operators there is nothing to fail
    return lambda value: _same(value, expected)


@_shared
def _equal_to_scalar(expected: Any) -> Test:
    match expected:
        case str():
            return lambda value: value == expected
        case None:
            return lambda value: value is None
        case bool():
            return lambda value: value is expected
    return lambda value: value == expected and type(value) is not bool


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: true is not 1, 1 is 1.0, and the order of an object's keys does not matter."""
    if TYPES.get(type(a)) != TYPES.get(type(b)):
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


@_shared
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
    if type(value) not in {int, float}:
        return None
    return sortable(str(int(value)) if value == value // 1 else repr(value))  # 2.0 is version 2


@_shared
def _version_comparison(name: str, expected: Any) -> Test:
    compare, wanted = _VERSIONS[name], _version(expected) or ""

    def holds(value: Any) -> bool:
        version = _version(value)
        return version is not None and compare(version, wanted)

    return holds


def _folded(value: Any) -> Any:
    return value.lower() if type(value) is str else value


@_shared
def _member(expected: tuple[str, ...] | str, fold: Callable[[Any], Any] | None) -> Test:
    """Of a list. Objects and lists in it are equal to no other."""
    plain = [fold(one) if fold else one for one in _listed_values(expected) if type(one) not in {list, dict}]
    texts = frozenset(one for one in plain if type(one) is str)
    return _listed(texts, frozenset(typed(one) for one in plain if type(one) is not str), fold)


def _listed(texts: Container[str], others: frozenset[Any], fold: Callable[[Any], Any] | None = None) -> Test:
    def is_listed(value: Any) -> bool:
        if type(value) is str:
            return (fold(value) if fold else value) in texts
        return bool(others) and type(value) not in {list, dict} and typed(value) in others

    def listed(value: Any) -> bool:
        return any(is_listed(one) for one in value) if type(value) is list else is_listed(value)

    return listed


def _every_one(expected: list[Any], depth: int, *, fold: bool) -> Test:
    def of_one(one: Any) -> Test:
        if fold and type(one) is str:
            return _equal_folded(one.lower())
        return _value(one, depth + 1)

    wanted = _each(expected, of_one)
    return lambda value: type(value) is list and all(any(test(one) for one in value) for test in wanted)


def _equal_folded(expected: str) -> Test:
    return lambda value: _folded(value) == expected


def _identical(expected: Any) -> Test:
    return _equal_to(expected) if type(expected) not in {list, dict} else lambda _: False


def _regular_expression(text: Any, *, ignore_case: bool) -> Test:
    if type(text) is not str:
        raise ConditionError(text, "a regular expression")
    try:
        compiled = pattern(text, ignore_case=ignore_case)
    except ValueError as problem:
        raise ConditionError(text, f"a regular expression; this is {problem}") from None
    return lambda value: type(value) is str and matches(compiled, value)


def _some_element(operand: Any, depth: int) -> Test:
    if not isinstance(operand, dict):
        raise ConditionError(operand, "a condition or operators")
    # $not is both; with an element that is no object it can only be meant for the element itself.
    of_fields = not _is_operators(operand) or any(key in operand for key in ("$or", "$and", "$nor"))
    if of_fields:
        condition = _condition(operand, depth + 1)
        return lambda value: type(value) is list and any(one is not None and condition(_fields(one)) for one in value)
    test = _value(operand, depth + 1)
    return lambda value: type(value) is list and any(one is not None and test(one) for one in value)


def _fields(element: Any) -> Attributes:
    """A list has numbers and a length for fields, as paths see it; what is neither object nor list has none."""
    if type(element) is list:
        return {**{str(number): one for number, one in enumerate(element)}, "length": len(element)}
    return element if type(element) is dict else {}


def _size(operand: Any, depth: int) -> Test:
    if not isinstance(operand, dict) and type(operand) not in {int, float}:
        raise ConditionError(operand, "a number or operators")
    test = _value(operand, depth + 1)
    return lambda value: type(value) is list and test(len(value))


def _existence(operand: Any) -> Test:
    if type(operand) is not bool:
        raise ConditionError(operand, "true or false")
    return (lambda value: value is not None) if operand else (lambda value: value is None)


def _type(operand: Any) -> Test:
    if type(operand) is not str or operand not in _KINDS:
        raise ConditionError(operand, "string, number, boolean, array, object, null or undefined")
    return lambda value: TYPES.get(type(value)) == operand


def _operator(name: str, operand: Any, depth: int) -> Test:  # noqa: C901, PLR0911, PLR0912 - one branch per operator
    match name:
        case "$eq":
            return _identical(operand)
        case "$ne":
            return _negated(_identical(operand))
        case "$gt" | "$gte" | "$lt" | "$lte":
            if type(operand) not in {int, float, str}:
                raise ConditionError(operand, "a number or a string")
            return _comparison(name, operand)
        case "$veq" | "$vne" | "$vgt" | "$vgte" | "$vlt" | "$vlte":
            if type(operand) not in {int, float, str}:
                raise ConditionError(operand, 'a version such as "1.2.3"')
            if name == "$vne":
                return _negated(_version_comparison("$veq", operand))
            return _version_comparison(name, operand)
        case "$in" | "$nin" | "$ini" | "$nini" | "$all" | "$alli":
            if type(operand) is not list:
                raise ConditionError(operand, "a list")
            if name in {"$all", "$alli"}:
                return _every_one(operand, depth, fold=name == "$alli")
            listed = _member(_key(operand), _folded if name.endswith("i") else None)
            return listed if name in {"$in", "$ini"} else _negated(listed)
        case "$inGroup" | "$notInGroup":
            if type(operand) is not Group:
                raise ConditionError(operand, "the name of a group that can be read")
            member = _listed(operand.texts, operand.others)
            return member if name == "$inGroup" else _negated(member)
        case "$exists":
            return _existence(operand)
        case "$type":
            return _type(operand)
        case "$regex" | "$regexi":
            return _regular_expression(operand, ignore_case=name.endswith("i"))
        case "$notRegex" | "$notRegexi":
            return _negated(_regular_expression(operand, ignore_case=name.endswith("i")))
        case "$size":
            return _size(operand, depth)
        case "$elemMatch":
            return _some_element(operand, depth)
        case "$not":
            return _negated(_value(operand, depth + 1))
    if name.startswith("$"):
        raise ConditionError(operand, "an operator of GrowthBook's conditions, such as $in or $gte")
    raise ConditionError(operand, "only operators beside an operator")


def _check_depth(depth: int) -> None:
    if depth > DEPTH:
        raise ConditionError("deeper ones", f"at most {DEPTH} levels")
