"""Compiles a flag into one closure when a snapshot is loaded, so that evaluating takes a few comparisons and one hash.

docs/flags.md, "Deciding", has the order of the rules.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from sys import intern
from typing import Any

from shared.flags.buckets import drawn, prefix, threshold
from shared.flags.conditions import compile_checks
from shared.flags.context import Context
from shared.flags.evaluation import Evaluation, failed
from shared.flags.groups import NONE, Groups

Rules = Callable[[Context], Evaluation]
_NO_CONTEXT = Context({})
ALL = 100


@dataclass(slots=True)  # not frozen: that takes a call for each field of ten thousand flags
class Flag:
    """Never changed once it is compiled. `rules` decide without prerequisites; needing() adds those."""

    name: str
    version: int
    rules: Rules
    # When the results change by themselves, in seconds since 1970.
    moments: tuple[float, ...] = ()
    prerequisites: tuple[str, ...] = ()
    decide: Rules | None = None
    unmet: Evaluation | None = None
    schedule: Callable[[Rules], Rules] | None = None
    by_organization: bool = False
    seed: str = ""

    def needing(self, needed: Sequence[tuple[str, "Flag | None"]]) -> Rules:
        """The rules, and off unless all these flags are on, each by its own rules; None is a flag that is missing."""
        for name, other in needed:
            if other is None:
                missing = failed(self.name, "PARSE_ERROR", f"Its prerequisite {name} does not exist")
                return lambda _: missing
        rules = _needing(self, tuple(other.rules for _, other in needed if other))
        return self.schedule(rules) if self.schedule else rules


def _needing(flag: Flag, others: tuple[Rules, ...]) -> Rules:
    decide, unmet, name = flag.decide or flag.rules, flag.unmet, flag.name

    def with_prerequisites(context: Context) -> Evaluation:
        for other in others:
            found = other(context)
            if not found.on:
                if found.error_code:
                    return failed(name, found.error_code, f"Its prerequisite {found.key}: {found.error_details}")
                return unmet or found
        return decide(context)

    return with_prerequisites


def compile_flag(name: str, version: int, definition: Any, groups: Groups | None = NONE) -> Flag:
    """Never raises: a flag that cannot be compiled evaluates to its error, and no other flag is affected."""
    try:
        return _compile(name, version, definition, groups)
    except Exception as problem:  # noqa: BLE001 - see above
        return broken_flag(name, version, problem)


def broken_flag(name: str, version: int, problem: Exception) -> Flag:
    error = failed(name, "PARSE_ERROR", str(problem) or type(problem).__name__)
    return Flag(name, version, lambda _: error)


def _compile(name: str, version: int, flag: Mapping[str, Any], groups: Groups | None) -> Flag:
    results = _Results(name, version, flag.get("variants"))
    if not flag["is_enabled"]:
        disabled = results.off("DISABLED", "disabled")
        return Flag(name, version, lambda _: disabled)
    starts_at, ends_at = flag.get("starts_at"), flag.get("ends_at")  # seconds since 1970
    needed = tuple(flag.get("prerequisites") or ())
    if not all(type(one) is str for one in needed):
        raise ValueError(f"prerequisites: found {json.dumps(needed)[:100]}, expected names of flags")
    scheduled = starts_at is not None or ends_at is not None
    decide = _decision(flag, results, groups, targeted=scheduled or bool(needed))
    if not scheduled and not needed:  # most flags
        return Flag(name, version, decide, by_organization=flag["bucket_by"] == "org", seed=flag["seed"])
    schedule = _schedule(starts_at, ends_at, results.off("DEFAULT", "schedule")) if scheduled else None
    return Flag(
        name,
        version,
        schedule(decide) if schedule else decide,
        tuple(0.0 + moment for moment in (starts_at, ends_at) if moment is not None),
        needed,
        decide,
        results.off("DEFAULT", "prerequisites"),
        schedule,
        flag["bucket_by"] == "org",
        flag["seed"],
    )


def _schedule(starts_at: float | None, ends_at: float | None, off: Evaluation) -> Callable[[Rules], Rules]:
    begin = -math.inf if starts_at is None else 0.0 + starts_at
    end = math.inf if ends_at is None else 0.0 + ends_at
    clock = time.time

    def scheduled(rules: Rules) -> Rules:
        return lambda context: rules(context) if begin <= clock() < end else off

    return scheduled


class _Results:
    """Every result that a flag can have: off, on, or one of its variants."""

    def __init__(self, name: str, version: int, variants: Sequence[Mapping[str, Any]] | None) -> None:
        self.name = name
        self.version = version
        self.variants: list[tuple[str, float, Any]] = []
        if variants:
            values = [variant.get("value", variant["name"]) for variant in variants]
            if any(type(value) is float for value in values) and all(type(value) in {int, float} for value in values):
                values = [float(value) for value in values]  # a client that reads a float must not get 2 for 2.0
            json.dumps(values, allow_nan=False)  # raises now for what could not be sent later
            self.variants = [
                (variant["name"], float(variant["weight"]), value)
                for variant, value in zip(variants, values, strict=True)
            ]

    def off(self, reason: str, rule: str) -> Evaluation:
        # The first variant is the value without the experiment.
        value = self.variants[0][2] if self.variants else False
        return Evaluation(self.name, value, reason, "off", on=False, rule=rule, version=self.version)

    def on(self, reason: str, rule: str, variant: tuple[str, float, Any] = ("on", 1.0, True)) -> Evaluation:
        return Evaluation(self.name, variant[2], reason, variant[0], on=True, rule=rule, version=self.version)


@lru_cache(maxsize=256)
def _tiers(names: tuple[str, ...]) -> frozenset[str]:
    """The same few in every flag."""
    return frozenset(map(intern, names))


def _decision(flag: Mapping[str, Any], results: _Results, groups: Groups | None, *, targeted: bool) -> Rules:
    # Dictionaries take half the memory of sets.
    users, organizations = dict.fromkeys(flag["target_users"]), dict.fromkeys(flag["target_orgs"])
    tiers = _tiers(tuple(flag["target_tiers"]))
    conditions = flag.get("conditions")
    checks, condition = ((), None) if conditions is None or conditions == {} else compile_checks(conditions, groups)
    conditional = bool(checks or condition)
    listed = _winner(flag, results, "TARGETING_MATCH", "target")
    share = _share(flag, results, targeted=bool(targeted or tiers or conditional or users or organizations))
    other_tier = results.off("DEFAULT", "tier")
    no_match = results.off("DEFAULT", "conditions") if conditional else other_tier
    name = results.name

    def decide(context: Context) -> Evaluation:  # noqa: PLR0911 - one return per step
        if users and context.user_id in users:
            return listed(context)
        if organizations and context.organization_id in organizations:
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
            except Exception as problem:  # noqa: BLE001 - whatever was sent, it is an error of this flag alone
                return failed(name, "INVALID_CONTEXT", str(problem))
        return share(context)

    return decide


def _share(flag: Mapping[str, Any], results: _Results, *, targeted: bool) -> Rules:
    percent = flag["rollout_percent"]
    if percent <= 0:
        off = results.off("DEFAULT" if targeted else "STATIC", "percentage")
        return lambda _: off
    if percent >= ALL:
        return _winner(flag, results, "TARGETING_MATCH" if targeted else "STATIC", "everyone")
    below, begin = threshold(percent), prefix(flag["seed"], "rollout")
    on, off = _winner(flag, results, "SPLIT", "percentage"), results.off("SPLIT", "percentage")

    if flag["bucket_by"] == "org":
        no_organization = results.off("DEFAULT", "no organization")

        def by_organization(context: Context) -> Evaluation:
            if (unit := context.organization_unit) is None:
                return no_organization
            return on(context) if sha256(begin + unit).digest() < below else off

        return by_organization

    name = results.name
    # Most flags have no variants: then there is only one result for on.
    plain = None if results.variants else on(_NO_CONTEXT)

    def by_user(context: Context) -> Evaluation:
        if (unit := context.unit) is None:
            return _missing_key(name)
        if sha256(begin + unit).digest() < below:
            return plain or on(context)
        return off

    return by_user


def _winner(flag: Mapping[str, Any], results: _Results, reason: str, rule: str) -> Rules:
    """The result for a unit for which the flag is on."""
    competing = [variant for variant in results.variants if variant[1] > 0]
    if not competing:
        plain = results.on(reason, rule)
        return lambda _: plain
    if len(competing) == 1:
        only = results.on(reason, rule, competing[0])
        return lambda _: only
    seed, by_organization = flag["seed"], flag["bucket_by"] == "org"
    weighted = tuple((prefix(seed, f"variant:{name}"), weight) for name, weight, _ in competing)
    won = [results.on("SPLIT" if reason == "STATIC" else reason, rule, variant) for variant in competing]
    name = results.name
    # All users without an organization are one unit: no other value could select a bucket.
    no_organization = b""

    def draw(context: Context) -> Evaluation:
        unit = (context.organization_unit or no_organization) if by_organization else context.unit
        return _missing_key(name) if unit is None else won[drawn(weighted, unit)]

    return draw


def _missing_key(name: str) -> Evaluation:
    return failed(name, "TARGETING_KEY_MISSING", "This flag draws by targetingKey: send one")
