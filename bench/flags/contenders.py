"""One engine, alone in a process of its own: `python contenders.py NAME`.

Its flags are loaded beforehand, but the context of a user is made within the measured time, from attributes that are
given. The first line of the input has flags and users; the output is the share of results that were on. Each further
line is a turn: evaluations of one flag, and of all flags for one user, per second of the engine's own processor time.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

SECONDS = 0.2
One = Callable[[int, int], bool]  # of a flag and a user, by their numbers
Every = Callable[[int], list[bool]]


def rate(work: Callable[[int], object], users: int) -> float:
    done, began = 0, time.process_time()
    while (spent := time.process_time() - began) < SECONDS:
        for user in range(done % users, done % users + 20):
            work(user)
        done += 20
    return done / spent


def strive(flags: list[Any], users: list[Any]) -> tuple[One, Every]:
    from bench.flags.workload import ours
    from shared.flags.compiling import compile_flag
    from shared.flags.context import Context
    from shared.flags.snapshot import Snapshot

    snapshot = Snapshot(1, {flag["name"]: compile_flag(flag["name"], 1, ours(flag)) for flag in flags})
    names = [flag["name"] for flag in flags]
    attributes = [{"targetingKey": user["id"], **user} for user in users]
    evaluate, evaluate_all = snapshot.evaluate, snapshot.evaluate_all
    return (
        lambda flag, user: evaluate(names[flag], Context(attributes[user])).on,
        lambda user: [each.on for each in evaluate_all(Context(attributes[user]))],
    )


def growthbook(flags: list[Any], users: list[Any]) -> tuple[One, Every]:
    from growthbook import GrowthBook

    def conditions(flag: Any) -> dict[str, Any]:
        tree = flag["tree"]
        return {
            "tier": {"$in": flag["tiers"]},
            **(
                {
                    "seats": {"$gte": tree["seats"]},
                    "country": {"$in": tree["countries"]},
                    "$or": [{"plan": tree["plan"]}, {"version": {"$vgte": tree["version"]}}],
                }
                if tree
                else {}
            ),
        }

    features = {
        flag["name"]: {
            "defaultValue": False,
            "rules": [
                {"condition": {"id": {"$in": flag["users"]}}, "force": True},
                {
                    "condition": conditions(flag),
                    "force": True,
                    "coverage": flag["percent"] / 100,
                    "hashAttribute": "id",
                    "seed": flag["seed"],
                    "hashVersion": 2,
                },
            ],
        }
        for flag in flags
    }
    names = list(features)
    book = GrowthBook(attributes=users[0], features=features)

    def one(flag: int, user: int) -> bool:
        book.set_attributes(users[user])
        return bool(book.is_on(names[flag]))

    def every(user: int) -> list[bool]:
        book.set_attributes(users[user])
        return [bool(book.is_on(name)) for name in names]

    return one, every


def _unleash(flags: list[Any]) -> dict[str, Any]:
    def strategies(flag: Any) -> list[dict[str, Any]]:
        tree = flag["tree"]
        shared = [{"contextName": "tier", "operator": "IN", "values": flag["tiers"]}]
        either: list[list[dict[str, Any]]] = [[]]
        if tree:
            shared += [
                {"contextName": "seats", "operator": "NUM_GTE", "value": str(tree["seats"])},
                {"contextName": "country", "operator": "IN", "values": tree["countries"]},
            ]
            either = [
                [{"contextName": "plan", "operator": "IN", "values": [tree["plan"]]}],
                [{"contextName": "version", "operator": "SEMVER_GTE", "value": tree["version"]}],
            ]
        share = {"rollout": str(flag["percent"]), "stickiness": "userId", "groupId": flag["seed"]}
        return [
            {"name": "userWithId", "parameters": {"userIds": ",".join(flag["users"])}},
            *({"name": "flexibleRollout", "parameters": share, "constraints": [*shared, *more]} for more in either),
        ]

    return {
        "version": 2,
        "features": [
            {"name": flag["name"], "enabled": True, "strategies": strategies(flag), "variants": []} for flag in flags
        ],
    }


def _unleash_attributes(users: list[Any]) -> list[tuple[str, dict[str, str]]]:
    return [(user["id"], {name: str(value) for name, value in user.items() if name != "id"}) for user in users]


def _unleash_context(attributes: tuple[str, dict[str, str]]) -> dict[str, Any]:
    return {"userId": attributes[0], "properties": attributes[1]}


def yggdrasil(flags: list[Any], users: list[Any]) -> tuple[One, Every]:
    from yggdrasil_engine.engine import UnleashEngine

    engine = UnleashEngine()
    engine.take_state(json.dumps(_unleash(flags)))
    names, attributes = [flag["name"] for flag in flags], _unleash_attributes(users)

    def is_on(name: str, context: dict[str, Any]) -> bool:
        return bool(engine.is_enabled(name, context).is_enabled)

    def every(user: int) -> list[bool]:
        context = _unleash_context(attributes[user])
        return [is_on(name, context) for name in names]

    return lambda flag, user: is_on(names[flag], _unleash_context(attributes[user])), every


def unleash(flags: list[Any], users: list[Any]) -> tuple[One, Every]:
    import tempfile

    from UnleashClient import UnleashClient
    from UnleashClient.cache import FileCache

    cache = FileCache("bench", directory=tempfile.mkdtemp())
    cache.bootstrap_from_dict(_unleash(flags))
    client = UnleashClient(
        "http://127.0.0.1:1/api", "bench", cache=cache, disable_metrics=True, disable_registration=True
    )
    client.initialize_client(fetch_toggles=False)
    names, attributes = [flag["name"] for flag in flags], _unleash_attributes(users)

    def every(user: int) -> list[bool]:
        context = _unleash_context(attributes[user])
        return [bool(client.is_enabled(name, context)) for name in names]

    return lambda flag, user: bool(client.is_enabled(names[flag], _unleash_context(attributes[user]))), every


def flagsmith(flags: list[Any], users: list[Any]) -> tuple[One, Every]:
    from flag_engine.engine import get_evaluation_result

    def condition(name: str, operator: str, value: Any) -> dict[str, Any]:
        return {"property": name, "operator": operator, "value": value}

    def segment(flag: Any) -> dict[str, Any]:
        tree = flag["tree"]
        wanted = [
            condition("tier", "IN", flag["tiers"]),
            condition("$.identity.key", "PERCENTAGE_SPLIT", str(flag["percent"])),
        ]
        rules: list[dict[str, Any]] = []
        if tree:
            wanted += [
                condition("seats", "GREATER_THAN_INCLUSIVE", str(tree["seats"])),
                condition("country", "IN", tree["countries"]),
            ]
            either = [
                condition("plan", "EQUAL", tree["plan"]),
                condition("version", "GREATER_THAN_INCLUSIVE", f"{tree['version']}:semver"),
            ]
            rules = [{"type": "ANY", "conditions": either}]
        listed = {"type": "ALL", "conditions": [condition("$.identity.identifier", "IN", flag["users"])]}
        return {
            "key": flag["seed"],
            "name": flag["name"],
            "rules": [
                {
                    "type": "ANY",
                    "conditions": [],
                    "rules": [listed, {"type": "ALL", "conditions": wanted, "rules": rules}],
                }
            ],
            "overrides": [{"key": "on", "name": flag["name"], "enabled": True, "value": None}],
        }

    def environment(chosen: list[Any]) -> dict[str, Any]:
        return {
            "environment": {"key": "bench", "name": "bench"},
            "features": {
                flag["name"]: {"key": flag["name"], "name": flag["name"], "enabled": False, "value": None}
                for flag in chosen
            },
            "segments": {flag["seed"]: segment(flag) for flag in chosen},
        }

    traits = [{n: v for n, v in user.items() if n != "id"} for user in users]

    def identity(user: int) -> dict[str, Any]:
        return {"identifier": users[user]["id"], "key": users[user]["id"], "traits": traits[user]}

    names = [flag["name"] for flag in flags]
    # It always evaluates a whole environment: one flag is an environment of one.
    alone, whole = [environment([flag]) for flag in flags], environment(flags)

    def one(flag: int, user: int) -> bool:
        found = get_evaluation_result({**alone[flag], "identity": identity(user)})
        return bool(found["flags"][names[flag]]["enabled"])

    def every(user: int) -> list[bool]:
        found = get_evaluation_result({**whole, "identity": identity(user)})["flags"]
        return [bool(found[name]["enabled"]) for name in names]

    return one, every


def flagd(flags: list[Any], users: list[Any]) -> tuple[One, Every]:
    from openfeature.contrib.tools.flagd.core.flagd_core import FlagdCore
    from openfeature.evaluation_context import EvaluationContext

    def targeting(flag: Any) -> dict[str, Any]:
        tree = flag["tree"]
        wanted: list[Any] = [{"in": [{"var": "tier"}, flag["tiers"]]}]
        if tree:
            wanted += [
                {">=": [{"var": "seats"}, tree["seats"]]},
                {"in": [{"var": "country"}, tree["countries"]]},
                {
                    "or": [
                        {"==": [{"var": "plan"}, tree["plan"]]},
                        {"sem_ver": [{"var": "version"}, ">=", tree["version"]]},
                    ]
                },
            ]
        key = {"cat": [flag["seed"], {"var": "targetingKey"}]}
        share = {"fractional": [key, ["on", flag["percent"]], ["off", 100 - flag["percent"]]]}
        listed = {"in": [{"var": "targetingKey"}, flag["users"]]}
        return {"if": [listed, "on", {"if": [{"and": wanted}, share, "off"]}]}

    core = FlagdCore()
    core.set_flags(
        {
            "flags": {
                flag["name"]: {
                    "state": "ENABLED",
                    "variants": {"on": True, "off": False},
                    "defaultVariant": "off",
                    "targeting": targeting(flag),
                }
                for flag in flags
            }
        }
    )
    names = [flag["name"] for flag in flags]
    attributes = [{n: v for n, v in user.items() if n != "id"} for user in users]
    resolve = core.resolve_boolean_value

    def context(user: int) -> EvaluationContext:
        return EvaluationContext(users[user]["id"], attributes[user])

    def every(user: int) -> list[bool]:
        made = context(user)
        return [bool(resolve(name, False, made).value) for name in names]

    return lambda flag, user: bool(resolve(names[flag], False, context(user)).value), every


CONTENDERS = {
    "strive": strive,
    "growthbook": growthbook,
    "UnleashClient": unleash,
    "yggdrasil": yggdrasil,
    "flagsmith-flag-engine": flagsmith,
    "flagd-core": flagd,
}


def main() -> None:
    given = json.loads(sys.stdin.readline())
    flags, users = given["flags"], given["users"]
    one, every = CONTENDERS[sys.argv[1]](flags, users)
    on = sum(sum(every(user)) for user in range(len(users)))
    same = all(every(user)[7] == one(7, user) for user in range(20))
    print(json.dumps({"on_share": on / len(users) / len(flags), "one_is_as_all": same}), flush=True)
    for _ in sys.stdin:
        turn = {
            "one": rate(lambda user: one(user % len(flags), user), len(users)),
            "all": rate(every, len(users)),
        }
        print(json.dumps(turn), flush=True)


if __name__ == "__main__":
    main()
