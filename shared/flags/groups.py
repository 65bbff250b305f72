"""Saved groups: lists of values that conditions name, however long."""

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
# More than any condition has that is not refused.
_DEPTH = 64


class Group:
    """Loaded once and shared by all flags that name it, until its revision is another."""

    __slots__ = ("others", "revision", "texts")

    def __init__(self, members: Iterable[Any], revision: UUID | None = None) -> None:
        members = list(members)
        self.revision = revision
        # A dictionary, since it takes half of what a set does.
        self.texts: Container[str] = dict.fromkeys(one for one in members if type(one) is str)
        self.others = frozenset(known(one) for one in members if type(one) is not str)


Groups = Mapping[str, Group]
NONE: Groups = {}
_NOBODY = Group([])


def known(value: Any) -> tuple[str | None, Any]:
    """What a value is looked up by: true is not 1, but 1.0 is."""
    return TYPES.get(type(value)), value


def with_groups(condition: Any, groups: Groups, depth: int = 1) -> Any:
    """The condition with the groups themselves in place of their names; in one that does not exist is nobody."""
    if depth > _DEPTH:
        return condition
    if type(condition) is list:
        return [with_groups(one, groups, depth + 1) for one in condition]
    if type(condition) is not dict:
        return condition
    return {
        key: groups.get(value, _NOBODY)
        if key in OPERATORS and type(value) is str
        else with_groups(value, groups, depth + 1)
        for key, value in condition.items()
    }


def holds_group(asked: Any) -> bool:
    if type(asked) is dict:
        return any(map(holds_group, asked.values()))
    return any(map(holds_group, asked)) if type(asked) is list else type(asked) is Group
