"""How many users a flag would reach, counted by the evaluator that also serves them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.flags.compiling import compile_flag
from shared.flags.context import IDENTITY, Context
from shared.flags.groups import Group
from shared.flags.snapshot import Snapshot

NEVER: dict[str, Any] = {"$not": {}}


@dataclass
class Audience:
    """`on` counts the undecided users too: the flag is on for them if their requests send the right attributes."""

    users: int = 0
    on: int = 0
    undecided: int = 0
    listed: int = 0


class AudienceCounter:
    """Evaluates every user twice: as if all attributes that only requests send matched, and as if none did."""

    def __init__(self, flag: str, definitions: Mapping[str, Any], groups: Mapping[str, list[Any]]) -> None:
        self.counted = Audience()
        self._flag = flag
        loaded = {name: Group(members) for name, members in groups.items()}

        def snapshot(*, matching: bool) -> Snapshot:
            flags = {
                name: compile_flag(
                    name, 0, {**definition, "conditions": _assumed(definition["conditions"], matching=matching)}, loaded
                )
                for name, definition in definitions.items()
            }
            return Snapshot(0, flags)

        self._possible, self._certain = snapshot(matching=True), snapshot(matching=False)
        self._listed = {*definitions[flag]["target_users"]}, {*definitions[flag]["target_orgs"]}

    def count(self, lines: Iterable[str]) -> None:
        """Each line is a user, as private.open_users_to_preview() writes it."""
        counted, name = self.counted, self._flag
        possible, certain = self._possible.evaluate, self._certain.evaluate
        users, organizations = self._listed
        for line in lines:
            user, organization, tier, org_role, global_role, email = line.split("\t", 5)
            context = Context(
                {
                    "targetingKey": user,
                    "user_id": user,
                    "organization_id": organization or None,
                    "tier": tier or None,
                    "org_role": org_role or None,
                    "global_role": global_role,
                    "email": email,
                }
            )
            counted.users += 1
            if user in users or organization in organizations:
                counted.listed += 1
            if possible(name, context).on:
                counted.on += 1
                if not certain(name, context).on:
                    counted.undecided += 1


def _assumed(conditions: Any, *, matching: bool) -> Any:
    """The conditions on attributes that the database knows; whether the others match is assumed."""
    if not isinstance(conditions, dict):
        return conditions
    known = {key: value for key, value in conditions.items() if _attributes({key: value}) <= {*IDENTITY}}
    if len(known) == len(conditions) or matching:
        return known
    return NEVER


def _attributes(condition: Any) -> set[str]:
    """The attributes that a condition tests."""
    found: set[str] = set()
    if not isinstance(condition, dict):
        return found
    for key, value in condition.items():
        if key in {"$or", "$and", "$nor"}:
            found |= {name for one in value for name in _attributes(one)}
        elif key == "$not":
            found |= _attributes(value)
        else:
            found.add(key.partition(".")[0])
    return found
