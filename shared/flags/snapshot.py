"""All flags of an environment at one version. Never changed: a change makes another one."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time
from types import MappingProxyType

from shared.flags.compiling import Flag, Rules
from shared.flags.context import Context
from shared.flags.evaluation import Evaluation, failed, not_found
from shared.flags.groups import Groups

# Of whole answers, some hundreds of a hundred flags: who loads a page again mostly asks the same.
REMEMBERED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: int
    flags: Mapping[str, Flag]
    groups: Groups = field(default_factory=dict)
    _rules: Mapping[str, Rules] = field(init=False, repr=False)
    _boundaries: tuple[float, ...] = field(init=False, repr=False)
    _remembered: dict[str, bytes] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", MappingProxyType(dict(self.flags)))
        object.__setattr__(self, "_rules", MappingProxyType(_linked(self.flags)))
        moments = {moment for flag in self.flags.values() for moment in flag.moments}
        object.__setattr__(self, "_boundaries", tuple(sorted(moments)))

    def evaluate(self, name: str, context: Context) -> Evaluation:
        rules = self._rules.get(name)
        return rules(context) if rules else not_found(name)

    def evaluate_all(self, context: Context) -> list[Evaluation]:
        return [rules(context) for rules in self._rules.values()]

    def answers(self, context: Context) -> list[bytes]:
        """All of them as JSON; most has been written before."""
        return [(found := rules(context)).written or found.json for rules in self._rules.values()]

    def remembered(self, tag: str, answer: Callable[[], bytes]) -> bytes:
        """An answer that depends on these flags and what the tag stands for, and on nothing else."""
        if (known := self._remembered.get(tag)) is None:
            known = answer()
            if len(self._remembered) * len(known) > REMEMBERED_BYTES:
                self._remembered.clear()
            self._remembered[tag] = known
        return known

    def is_on(self, name: str, context: Context) -> bool:
        """For gates of our own features: unknown flags and those in error are off."""
        return self.evaluate(name, context).on

    def unit(self, name: str, context: Context) -> str | None:
        """What this flag draws: the user or their organisation."""
        flag = self.flags.get(name)
        drawn = context.organization_unit if flag and flag.by_organization else context.unit
        return drawn.decode() if drawn else None

    def phase(self) -> int:
        """How many scheduled moments have passed: with the version, what an answer depends on beside the context."""
        return bisect_right(self._boundaries, time())


def _linked(flags: Mapping[str, Flag]) -> dict[str, Rules]:
    """Every flag with its prerequisites before it. A circle is an error of its flags and of those that need them."""
    waiting = {name: flag for name, flag in flags.items() if flag.prerequisites}
    linked = {name: flag.linked() for name, flag in flags.items() if not flag.prerequisites}
    needed: dict[str, tuple[str, ...]] = {}  # all that must be on, direct or not
    while ready := [flag for flag in waiting.values() if not any(one in waiting for one in flag.prerequisites)]:
        for flag in ready:
            del waiting[flag.name]
            names = dict.fromkeys(name for one in flag.prerequisites for name in (*needed.get(one, ()), one))
            needed[flag.name] = tuple(names)
            linked[flag.name] = flag.linked([(name, flags.get(name)) for name in names])
    for name in waiting:
        linked[name] = _circle(name)
    return {name: linked[name] for name in flags}


def _circle(name: str) -> Rules:
    error = failed(name, "PARSE_ERROR", "Its prerequisites lead back to themselves")
    return lambda _: error
