"""The same flags and users for all: a percentage, tiers, a list of users and, in full, a tree of conditions."""

import random
from typing import Any
from uuid import UUID

FLAGS = 100
USERS = 200
TIERS = ["FREE", "STARTER", "GROWTH", "ELITE", "ENTERPRISE"]
COUNTRIES = ["US", "CA", "AT", "DE", "JP"]


def flags(*, full: bool, many: int = FLAGS) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [
        {
            "name": f"flag-{number}",
            "percent": chance.randint(1, 99),
            "tiers": chance.sample(TIERS, 3),
            "users": [identifier(chance) for _ in range(5)],
            "seed": identifier(chance),
            # Seats at least, one of the countries, and either the plan or the version.
            "tree": {
                "seats": chance.randint(1, 40),
                "countries": chance.sample(COUNTRIES, 3),
                "plan": "pro",
                "version": f"2.{chance.randint(0, 9)}.0",
            }
            if full
            else None,
        }
        for number in range(many)
    ]


def users() -> list[dict[str, Any]]:
    chance = random.Random(2)
    return [
        {
            "id": identifier(chance),
            "tier": chance.choice(TIERS),
            "seats": chance.randint(1, 50),
            "country": chance.choice(COUNTRIES),
            "plan": chance.choice(["basic", "pro"]),
            "version": f"2.{chance.randint(0, 9)}.{chance.randint(0, 9)}",
        }
        for _ in range(USERS)
    ]


def identifier(chance: random.Random) -> str:
    return str(UUID(int=chance.getrandbits(128), version=4))


def ours(flag: dict[str, Any]) -> dict[str, Any]:
    """A flag as our database stores it."""
    tree = flag["tree"]
    return {
        "is_enabled": True,
        "rollout_percent": flag["percent"],
        "target_tiers": flag["tiers"],
        "target_orgs": [],
        "target_users": flag["users"],
        "conditions": tree
        and {
            "seats": {"$gte": tree["seats"]},
            "country": {"$in": tree["countries"]},
            "$or": [{"plan": tree["plan"]}, {"version": {"$vgte": tree["version"]}}],
        },
        "seed": flag["seed"],
        "bucket_by": "user",
    }
