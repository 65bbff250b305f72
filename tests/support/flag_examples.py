"""Flags as the database stores them, with defaults for columns that a test does not set."""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from shared.flags import Context, Evaluation, Snapshot
from shared.flags.compiling import compile_flag

SEED = str(uuid5(NAMESPACE_URL, "the seed of the tests"))
USUAL: dict[str, Any] = {
    "is_enabled": True,
    "rollout_percent": 100,
    "target_tiers": [],
    "target_orgs": [],
    "target_users": [],
    "conditions": None,
    "seed": SEED,
    "bucket_by": "user",
    "variants": None,
    "starts_at": None,
    "ends_at": None,
    "prerequisites": None,
}


def snapshot(**flags: dict[str, Any]) -> Snapshot:
    return Snapshot(1, {name: compile_flag(name, 1, USUAL | columns) for name, columns in flags.items()})


def evaluate(context: Context | None = None, **columns: Any) -> Evaluation:
    """Evaluate one flag for a user."""
    return snapshot(flag=columns).evaluate("flag", context or a_user())


def a_user(key: str = "user", **attributes: Any) -> Context:
    return Context({"targetingKey": key, **attributes})
