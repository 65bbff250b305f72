"""Saved groups: lists of values, of any length, that conditions refer to by name."""

from collections.abc import Container, Iterable, Mapping
from typing import Any
from uuid import UUID

TYPES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
OPERATORS = ("$inGroup", "$notInGroup")
# Deeper than any condition that the database stores.
_DEPTH = 64


class Group:
    """Loaded once and shared by all flags that name it, until its revision changes."""

    __slots__ = ("others", "revision", "texts")

    def __init__(self, members: Iterable[Any], revision: UUID | None = None) -> None:
        members = list(members)
        self.revision = revision
        # A dictionary takes half the memory of a set.
        self.texts: Container[str] = dict.fromkeys(one for one in members if type(one) is str)
        self.others = frozenset(typed(one) for one in members if type(one) is not str)


# None is a group that could not be read.
Groups = Mapping[str, Group | None]
NONE: Groups = {}
_EMPTY = Group([])


def typed(value: Any) -> tuple[str | None, Any]:
    """A value as it is looked up: true differs from 1, but 1.0 does not."""
    return TYPES.get(type(value)), value


def with_groups(condition: Any, groups: Groups, depth: int = 1) -> Any:
    """The condition with groups in place of their names; a group that does not exist has no members."""
    if depth > _DEPTH:
        return condition
    if type(condition) is list:
        return [with_groups(one, groups, depth + 1) for one in condition]
    if type(condition) is not dict:
        return condition
    return {
        key: groups.get(value, _EMPTY)
        if key in OPERATORS and type(value) is str
        else with_groups(value, groups, depth + 1)
        for key, value in condition.items()
    }


def holds_group(value: Any) -> bool:
    if type(value) is dict:
        return any(map(holds_group, value.values()))
    return any(map(holds_group, value)) if type(value) is list else type(value) is Group
