"""All flags of an environment at one version. Immutable: a change makes another snapshot."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time
from types import MappingProxyType

from shared.flags.compiling import Flag, Rules
from shared.flags.context import Context
from shared.flags.evaluation import Evaluation, failed, not_found
from shared.flags.groups import Groups

# Some hundreds of complete responses of a hundred flags: a page that is loaded again mostly sends the same context.
REMEMBERED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: int
    flags: Mapping[str, Flag]
    groups: Groups = field(default_factory=dict)
    _rules: dict[str, Rules] = field(init=False, repr=False)
    _boundaries: tuple[float, ...] = field(init=False, repr=False)
    _remembered: dict[str, bytes] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", MappingProxyType(dict(self.flags)))
        object.__setattr__(self, "_rules", _linked(self.flags))
        moments = {moment for flag in self.flags.values() if flag.moments for moment in flag.moments}
        object.__setattr__(self, "_boundaries", tuple(sorted(moments)))

    def evaluate(self, name: str, context: Context) -> Evaluation:
        rules = self._rules.get(name)
        if rules is None:
            return not_found(name)
        try:
            return rules(context)
        except Exception as problem:  # noqa: BLE001 - an error of this flag must not stop another
            return failed(name, "GENERAL", f"{type(problem).__name__}: {problem}")

    def evaluate_all(self, context: Context) -> list[Evaluation]:
        try:
            return [rules(context) for rules in self._rules.values()]
        except Exception:  # noqa: BLE001 - one flag failed: evaluate each by itself
            return [self.evaluate(name, context) for name in self._rules]

    def serialized(self, context: Context) -> list[bytes]:
        """All evaluations as JSON; most have been serialized before."""
        return [found.serialized or found.json for found in self.evaluate_all(context)]

    def remembered(self, tag: str, respond: Callable[[], bytes]) -> bytes:
        """A response that depends on these flags and on the tag, and on nothing else."""
        if (known := self._remembered.get(tag)) is None:
            known = respond()
            if len(self._remembered) * len(known) > REMEMBERED_BYTES:
                self._remembered.clear()
            self._remembered[tag] = known
        return known

    def is_on(self, name: str, context: Context) -> bool:
        """For conditions in our own code: unknown flags and flags with an error are off."""
        return self.evaluate(name, context).on

    def unit(self, name: str, context: Context) -> str | None:
        """The unit that this flag draws: the user or their organization."""
        flag = self.flags.get(name)
        unit = context.organization_unit if flag and flag.by_organization else context.unit
        return unit.decode() if unit else None

    def phase(self) -> int:
        """How many scheduled moments have passed. Version, phase and context together determine every evaluation."""
        return bisect_right(self._boundaries, time())


def _linked(flags: Mapping[str, Flag]) -> dict[str, Rules]:
    """The rules of every flag, with its prerequisites first. A circle is an error of the flags that lead to it."""
    linked = {name: flag.rules for name, flag in flags.items()}
    waiting = {name: flag for name, flag in flags.items() if flag.prerequisites}
    needed: dict[str, tuple[str, ...]] = {}  # all flags that must be on, directly or not
    while ready := [flag for flag in waiting.values() if not any(one in waiting for one in flag.prerequisites)]:
        for flag in ready:
            del waiting[flag.name]
            names = dict.fromkeys(name for one in flag.prerequisites for name in (*needed.get(one, ()), one))
            needed[flag.name] = tuple(names)
            linked[flag.name] = flag.needing([(name, flags.get(name)) for name in names])
    for name in waiting:
        linked[name] = _circle(name)
    return linked


def _circle(name: str) -> Rules:
    error = failed(name, "PARSE_ERROR", "Its prerequisites lead back to itself")
    return lambda _: error
