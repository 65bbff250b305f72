"""record-exposure: each unit once, with its evaluated variant, for signed-in users and secret keys only."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.responses import refused
from tests.support.served_flags import RECORD, evaluate, evaluate_all, make, wait_for
from tests.support.serving import PUBLISHABLE_KEY, SECRET_KEY, Serving
from tests.support.world import ACME, PEOPLE, Database

VARIANTS = [{"name": "red", "weight": 1}, {"name": "blue", "weight": 1}]


@pytest.fixture(scope="module", autouse=True)
def flags(database: Database) -> None:
    make(database, "colour", variants=VARIANTS)
    make(database, "by-org", variants=VARIANTS, bucket_by="org")
    make(database, "off", is_enabled=False, variants=VARIANTS)
    make(database, "broken-share", rollout_percent=50)


def expose(
    functions: Serving, flag: str, context: Any = None, *, person: str | None = None, key: str = SECRET_KEY
) -> httpx.Response:
    with functions.client(person, **({} if person else {"apikey": key})) as client:
        return client.post(RECORD, json={"flag": flag, "context": context or {}})


def exposures(database: Database, flag: str) -> dict[str, str]:
    with database.connect() as connection:
        rows = connection.execute(
            "select e.unit, e.variant from public.feature_flag_exposures e"
            " join public.feature_flags f on f.id = e.flag_id and f.seed = e.seed where f.name = %s",
            [flag],
        ).fetchall()
    return dict(rows)


def test_user_is_recorded_once_with_the_evaluated_variant(functions: Serving, database: Database) -> None:
    evaluated = evaluate(functions, "colour", person="member").json()["variant"]
    assert exposures(database, "colour") == {}, "evaluating records nothing"
    first = expose(functions, "colour", person="member")
    assert (first.status_code, first.json()) == (
        200,
        {"flag": "colour", "variant": evaluated, "recorded": True, "reason": "recorded"},
    )
    again = expose(functions, "colour", person="member").json()
    assert (again["recorded"], again["reason"]) == (False, "recorded_before")
    assert exposures(database, "colour") == {str(PEOPLE["member"]): evaluated}


def test_concurrent_exposures_of_one_user_count_once(functions: Serving) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: expose(functions, "colour", person="owner").json(), range(16)))
    assert sum(answer["recorded"] for answer in answers) == 1


def test_new_seed_starts_another_experiment(functions: Serving, database: Database) -> None:
    make(database, "again", variants=VARIANTS)
    context = {"targetingKey": "user-1"}
    wait_for(lambda: evaluate(functions, "again", context).status_code == 200)
    assert [expose(functions, "again", context).json()["recorded"] for _ in range(2)] == [True, False]
    with database.connect() as connection:
        row = connection.execute(
            "update public.feature_flags set seed = gen_random_uuid() where name = 'again' returning version"
        ).fetchone()
    assert row
    wait_for(lambda: evaluate_all(functions, context).json()["metadata"]["version"] == row[0])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: expose(functions, "again", context).json()["recorded"], range(16)))
    assert sum(answers) == 1
    assert exposures(database, "again") == {"user-1": evaluate(functions, "again", context).json()["variant"]}
    with database.connect() as connection:
        assert connection.execute("select from public.feature_flag_exposures where unit = 'user-1'").rowcount == 2


def test_organization_counts_once_for_all_its_members(functions: Serving, database: Database) -> None:
    answers = [expose(functions, "by-org", person=person).json() for person in ("owner", "member", "viewer")]
    assert [answer["recorded"] for answer in answers] == [True, False, False]
    assert exposures(database, "by-org").keys() == {str(ACME)}


def test_attack_user_records_another_user_or_variant(functions: Serving, database: Database) -> None:
    lies = {"targetingKey": str(PEOPLE["viewer"]), "user_id": str(PEOPLE["viewer"]), "variant": "red"}
    expose(functions, "colour", lies, person="admin")
    found = exposures(database, "colour")
    assert str(PEOPLE["viewer"]) not in found
    assert found[str(PEOPLE["admin"])] == evaluate(functions, "colour", person="admin").json()["variant"]


def test_attack_publishable_key_adds_invented_units(functions: Serving, database: Database) -> None:
    before = exposures(database, "colour")
    for unit in ("invented", str(PEOPLE["viewer"])):
        answer = expose(functions, "colour", {"targetingKey": unit}, key=PUBLISHABLE_KEY)
        refused(answer, 401, "missing_credentials")
    assert exposures(database, "colour") == before


def test_secret_key_records_for_a_user(functions: Serving, database: Database) -> None:
    context = {"targetingKey": str(PEOPLE["globex_owner"])}
    assert expose(functions, "colour", context).json()["recorded"] is True
    assert str(PEOPLE["globex_owner"]) in exposures(database, "colour")


def test_flag_that_is_off_records_nothing(functions: Serving, database: Database) -> None:
    answer = expose(functions, "off", person="member").json()
    assert answer == {"flag": "off", "variant": "off", "recorded": False, "reason": "off"}
    assert exposures(database, "off") == {}


def test_invalid_exposures_are_refused(functions: Serving) -> None:
    refused(expose(functions, "nowhere", person="member"), 404, "flag_not_found")
    refused(expose(functions, "broken-share"), 400, "targeting_key_missing")
    refused(expose(functions, "colour", {"targetingKey": "k" * 301}), 400, "23514")
    refused(expose(functions, "colour", person="suspended"), 403, "user_suspended")
    with functions.client("member") as client:
        refused(client.post(RECORD, json={"flag": "colour", "variant": "red"}), 422, "invalid_body")
