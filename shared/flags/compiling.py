"""A flag becomes one closure, when the snapshot loads: evaluating it is a few comparisons and at most one hash.

Order, the first decisive step wins: disabled, schedule, prerequisites, listed user, listed organisation, tiers,
conditions, percentage.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from sys import intern
from typing import Any

from shared.flags.buckets import drawn, prefix, threshold
from shared.flags.conditions import ConditionError, compile_checks
from shared.flags.context import Context
from shared.flags.evaluation import Evaluation, failed
from shared.flags.groups import NONE, Groups

Rules = Callable[[Context], Evaluation]
_NOBODY = Context({})
ALL = 100


@dataclass(frozen=True, slots=True)
class Flag:
    """`decide` is what comes after schedule and prerequisites; `linked` puts those before it."""

    name: str
    version: int
    decide: Rules
    unmet: Evaluation | None = None
    out_of_time: Evaluation | None = None
    starts_at: float = -math.inf
    ends_at: float = math.inf
    prerequisites: tuple[str, ...] = ()
    by_organization: bool = False
    seed: str = ""

    def linked(self, needed: Sequence[tuple[str, "Flag | None"]] = ()) -> Rules:
        """Its rules, off unless those flags are on, each by its own rules; None is a flag that does not exist."""
        rules = _needing(self, needed) if needed else self.decide
        if self.out_of_time is None:
            return rules
        begin, end, off, clock = self.starts_at, self.ends_at, self.out_of_time, time.time
        return lambda context: rules(context) if begin <= clock() < end else off

    @property
    def moments(self) -> list[float]:
        """When its answers may change by themselves."""
        return [moment for moment in (self.starts_at, self.ends_at) if self.out_of_time and math.isfinite(moment)]


def _needing(flag: Flag, needed: Sequence[tuple[str, Flag | None]]) -> Rules:
    for name, other in needed:
        if other is None:
            absent = failed(flag.name, "PARSE_ERROR", f"Its prerequisite {name} does not exist")
            return lambda _: absent
    others = tuple(other.linked() for _, other in needed if other)
    decide, unmet, name = flag.decide, flag.unmet, flag.name

    def with_prerequisites(context: Context) -> Evaluation:
        for other in others:
            found = other(context)
            if not found.on:
                if found.error_code:
                    return failed(name, found.error_code, f"Its prerequisite {found.key}: {found.error_details}")
                return unmet or found
        return decide(context)

    return with_prerequisites


def compile_flag(name: str, version: int, definition: Mapping[str, Any], groups: Groups = NONE) -> Flag:
    """Never fails: a flag that cannot be understood answers with its error."""
    try:
        return _compile(name, version, definition, groups)
    except (ConditionError, KeyError, TypeError, ValueError, AttributeError) as problem:
        broken = failed(name, "PARSE_ERROR", str(problem))
        return Flag(name, version, lambda _: broken)


def _compile(name: str, version: int, flag: Mapping[str, Any], groups: Groups) -> Flag:
    answers = _Answers(name, version, flag.get("variants"))
    if not flag["is_enabled"]:
        disabled = answers.off("DISABLED", "disabled")
        return Flag(name, version, lambda _: disabled)
    starts_at, ends_at = flag.get("starts_at"), flag.get("ends_at")  # seconds since 1970
    needed = tuple(flag.get("prerequisites") or ())
    scheduled = starts_at is not None or ends_at is not None
    return Flag(
        name,
        version,
        _decision(flag, answers, groups, targeted=scheduled or bool(needed)),
        answers.off("DEFAULT", "prerequisites") if needed else None,
        answers.off("DEFAULT", "schedule") if scheduled else None,
        -math.inf if starts_at is None else 0.0 + starts_at,
        math.inf if ends_at is None else 0.0 + ends_at,
        needed,
        flag["bucket_by"] == "org",
        flag["seed"],
    )


class _Answers:
    """All that a flag can answer: what it is worth when off, on, or as one of its variants."""

    def __init__(self, name: str, version: int, variants: Sequence[Mapping[str, Any]] | None) -> None:
        self.name = name
        self.version = version
        self.values: list[tuple[str, float, Any]] = []
        if variants:
            values = [variant.get("value", variant["name"]) for variant in variants]
            if any(type(value) is float for value in values) and all(type(value) in {int, float} for value in values):
                values = [float(value) for value in values]  # a client that asks for a float gets no 2 for 2.0
            self.values = [
                (variant["name"], float(variant["weight"]), value)
                for variant, value in zip(variants, values, strict=True)
            ]

    def off(self, reason: str, rule: str) -> Evaluation:
        # The first variant is what people have without the experiment.
        value = self.values[0][2] if self.values else False
        return Evaluation(self.name, value, reason, "off", on=False, rule=rule, version=self.version)

    def on(self, reason: str, rule: str, variant: tuple[str, float, Any] = ("on", 1.0, True)) -> Evaluation:
        return Evaluation(self.name, variant[2], reason, variant[0], on=True, rule=rule, version=self.version)


def _decision(flag: Mapping[str, Any], answers: _Answers, groups: Groups, *, targeted: bool) -> Rules:
    # Dictionaries, since they take half of what sets do.
    users, organizations = dict.fromkeys(flag["target_users"]), dict.fromkeys(flag["target_orgs"])
    tiers = frozenset(map(intern, flag["target_tiers"]))  # the same few in every flag
    conditions = flag.get("conditions")
    checks, condition = ((), None) if conditions is None or conditions == {} else compile_checks(conditions, groups)
    conditional = bool(checks or condition)
    listed = _winner(flag, answers, "TARGETING_MATCH", "target")
    share = _share(flag, answers, targeted=bool(targeted or tiers or conditional or users or organizations))
    other_tier = answers.off("DEFAULT", "tier")
    no_match = answers.off("DEFAULT", "conditions") if conditional else other_tier
    name = answers.name

    def decide(context: Context) -> Evaluation:
        if context.user_id in users or context.organization_id in organizations:
            return listed(context)
        if tiers and context.tier not in tiers:
            return other_tier
        if conditional:
            attributes = context.attributes
            try:
                for path, usual, check, test in checks:
                    value = attributes.get(path)
                    if not (check(value) if type(value) is usual else test(value)):
                        return no_match
                if condition is not None and not condition(attributes):
                    return no_match
            except Exception as problem:  # noqa: BLE001 - whatever was sent, it is this flag's trouble alone
                return failed(name, "INVALID_CONTEXT", str(problem))
        return share(context)

    return decide


def _share(flag: Mapping[str, Any], answers: _Answers, *, targeted: bool) -> Rules:
    percent = flag["rollout_percent"]
    if percent <= 0:
        nobody = answers.off("DEFAULT" if targeted else "STATIC", "percentage")
        return lambda _: nobody
    if percent >= ALL:
        return _winner(flag, answers, "TARGETING_MATCH" if targeted else "STATIC", "everyone")
    below, begin = threshold(percent), prefix(flag["seed"], "rollout")
    on, off = _winner(flag, answers, "SPLIT", "percentage"), answers.off("SPLIT", "percentage")

    if flag["bucket_by"] == "org":
        none = answers.off("DEFAULT", "no organization")

        def by_organization(context: Context) -> Evaluation:
            if (unit := context.organization_unit) is None:
                return none
            return on(context) if sha256(begin + unit).digest() < below else off

        return by_organization

    name = answers.name
    # Most flags have no variants: then what is on is known beforehand.
    plain = None if answers.values else on(_NOBODY)

    def by_user(context: Context) -> Evaluation:
        if (unit := context.unit) is None:
            return _missing_key(name)
        if sha256(begin + unit).digest() < below:
            return plain or on(context)
        return off

    return by_user


def _winner(flag: Mapping[str, Any], answers: _Answers, reason: str, rule: str) -> Rules:
    """What somebody gets for whom the flag is on."""
    competing = [variant for variant in answers.values if variant[1] > 0]
    if not competing:
        plain = answers.on(reason, rule)
        return lambda _: plain
    if len(competing) == 1:
        only = answers.on(reason, rule, competing[0])
        return lambda _: only
    seed, by_organization = flag["seed"], flag["bucket_by"] == "org"
    weighted = tuple((prefix(seed, f"variant:{name}"), weight) for name, weight, _ in competing)
    won = [answers.on("SPLIT" if reason == "STATIC" else reason, rule, variant) for variant in competing]
    name = answers.name
    # Without an organisation there is nothing to draw by: all of them are one unit.
    nobody = b""

    def draw(context: Context) -> Evaluation:
        unit = (context.organization_unit or nobody) if by_organization else context.unit
        return _missing_key(name) if unit is None else won[drawn(weighted, unit)]

    return draw


def _missing_key(name: str) -> Evaluation:
    return failed(name, "TARGETING_KEY_MISSING", "This flag is on for a share: send a targetingKey to be drawn by")
