"""Percentages and variants over a million users: exact at 0 and 100 %, fair between, and stable."""

import math
from collections import Counter
from hashlib import sha256
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.flags.buckets import PLACES, drawn, place, prefix, threshold
from tests.support.flag_examples import SEED, a_user, evaluate, snapshot

MANY = 1_000_000
UNITS = [b"user-%d" % n for n in range(MANY)]
OTHER_SEED = str(UUID(int=7))


def places(seed: str, salt: str, units: list[bytes] = UNITS) -> list[int]:
    """place() for many keys, without a call for each."""
    begin, cut, hashed = prefix(seed, salt), int.from_bytes, sha256
    return [cut(hashed(begin + unit).digest()[:7], "big") >> 4 for unit in units]


@pytest.fixture(scope="module")
def rolled_out() -> list[int]:
    found = places(SEED, "rollout")
    assert found[:100] == [place(prefix(SEED, "rollout"), unit) for unit in UNITS[:100]]
    return found


def within(percent: float, digest: bytes) -> bool:
    """The bucket as a flag computes it."""
    return digest < threshold(percent)


def four_sigma(share: float, many: int = MANY) -> float:
    return 4 * math.sqrt(share * (1 - share) / many)


@given(percent=st.floats(0, 100, exclude_min=True, exclude_max=True), digest=st.binary(min_size=32, max_size=32))
def test_comparing_bytes_is_comparing_numbers(percent: float, digest: bytes) -> None:
    found = int.from_bytes(digest[:7], "big") >> 4
    assert within(percent, digest) == (found < percent / 100 * PLACES)


@given(digest=st.binary(min_size=32, max_size=32))
def test_0_percent_includes_no_unit_and_100_all(digest: bytes) -> None:
    for extreme in (digest, bytes(32), b"\xff" * 32):
        assert not within(0, extreme)
        assert within(100, extreme)


def test_0_percent_matches_none_and_100_percent_all() -> None:
    flags = snapshot(none={"rollout_percent": 0}, all={"rollout_percent": 100})
    context = a_user()
    for context.unit in UNITS:
        assert not flags.is_on("none", context)
        assert flags.is_on("all", context)


def test_0_percent_matches_no_bucket(rolled_out: list[int]) -> None:
    assert min(rolled_out) >= 0
    assert max(rolled_out) < PLACES


def test_shares_are_fair_within_four_sigma(rolled_out: list[int]) -> None:
    for percent in (0.01, 0.5, 1, 10, 33.33, 50, 90, 99.99):
        limit = percent / 100 * PLACES
        found = sum(each < limit for each in rolled_out) / MANY
        assert abs(found - percent / 100) < four_sigma(percent / 100), percent


def test_raising_the_percentage_never_removes_a_unit(rolled_out: list[int]) -> None:
    limits = [int.from_bytes(threshold(step / 100), "big") >> 4 for step in range(10_000)]
    assert limits == sorted(limits)
    # Every unit has one place, so growing limits only add units; each step adds a hundredth of a percent.
    added = Counter(math.floor(each * 10_000 / PLACES) for each in rolled_out)
    share = 1 / 10_000
    assert len(added) > 9_990
    assert max(abs(count / MANY - share) for count in added.values()) < 2 * four_sigma(share)


def test_two_flags_are_independent(rolled_out: list[int]) -> None:
    other = places(OTHER_SEED, "rollout")
    half = PLACES // 2
    both = sum(a < half and b < half for a, b in zip(rolled_out, other, strict=True)) / MANY
    assert abs(both - 0.25) < four_sigma(0.25)


def test_rollout_and_variant_are_independent(rolled_out: list[int]) -> None:
    weighted = ((prefix(SEED, "variant:a"), 1.0), (prefix(SEED, "variant:b"), 1.0))
    chosen = [drawn(weighted, unit) for unit, at in zip(UNITS[:200_000], rolled_out, strict=False) if at < PLACES // 10]
    assert abs(sum(chosen) / len(chosen) - 0.5) < four_sigma(0.5, len(chosen))


def test_rename_keeps_every_bucket() -> None:
    one, two = snapshot(old={"rollout_percent": 30}), snapshot(new={"rollout_percent": 30})
    for number in range(2000):
        assert one.is_on("old", a_user(f"u{number}")) == two.is_on("new", a_user(f"u{number}"))


# Variants


def variants(**weights: float) -> list[dict[str, object]]:
    return [{"name": name, "weight": weight} for name, weight in weights.items()]


def shown(**columns: object) -> list[str]:
    flag = snapshot(flag=columns)
    return [flag.evaluate("flag", a_user(f"u{number}")).variant for number in range(20_000)]


def test_variants_have_their_shares_within_four_sigma() -> None:
    found = Counter(shown(variants=variants(a=1, b=2, c=5, never=0)))
    assert found.keys() == {"a", "b", "c"}
    for name, share in (("a", 1 / 8), ("b", 2 / 8), ("c", 5 / 8)):
        assert abs(found[name] / 20_000 - share) < four_sigma(share, 20_000)


def test_a_growing_rollout_moves_no_variant() -> None:
    chosen = variants(a=1, b=1, c=1)
    before, after = (shown(variants=chosen, rollout_percent=percent) for percent in (20, 60))
    moved = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
    assert {a for a, _ in moved} == {"off"}


def test_growing_weight_moves_users_only_to_that_variant() -> None:
    before, after = shown(variants=variants(a=1, b=1, c=1)), shown(variants=variants(a=1, b=2, c=1))
    assert {b for a, b in zip(before, after, strict=True) if a != b} == {"b"}
    reordered = shown(variants=variants(c=10, a=10, b=10))
    assert reordered == before


def test_listed_user_gets_the_usual_variant() -> None:
    chosen = variants(a=1, b=1)
    for number in range(200):
        context = a_user(f"u{number}")
        listed = evaluate(context, variants=chosen, rollout_percent=0, target_users=[f"u{number}"])
        assert listed.variant == evaluate(context, variants=chosen).variant


@settings(max_examples=50)
@given(key=st.text(min_size=1, max_size=20))
def test_bulk_evaluation_equals_single_evaluations(key: str) -> None:
    flags = snapshot(
        half={"rollout_percent": 50},
        tiers={"target_tiers": ["FREE"], "rollout_percent": 50, "seed": OTHER_SEED},
        variants={"variants": variants(a=1, b=2)},
        needs={"prerequisites": ["half"]},
        wrong={"conditions": []},
    )
    context = a_user(key, tier="FREE")
    assert flags.evaluate_all(context) == [flags.evaluate(name, context) for name in flags.flags]
