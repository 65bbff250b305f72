"""Experiments: a unit counts once per seed, and each user or network records a limited number of units."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.support.world import PEOPLE, Database, become, claims_of


def test_unit_counts_once_with_its_first_variant(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into public.feature_flags (name, created_by) values ('flag', %s)", [PEOPLE["platform_admin"]]
        )
        row = connection.execute("select seed::text from public.feature_flags").fetchone()
        assert row
        recorded = [
            connection.execute(
                "select private.record_exposure(%s) ->> 'recorded'",
                [json.dumps({"flag": "flag", "seed": row[0], "unit": unit, "variant": variant})],
            ).fetchone()
            for unit, variant in [("u1", "a"), ("u1", "a"), ("u1", "b"), ("u2", "b"), ("u3", "b")]
        ]
    assert recorded == [("true",), ("false",), ("false",), ("true",), ("true",)]
    with fresh_database.acting_as("platform_admin") as cursor:
        rows = cursor.execute("select variant, units from public.experiment_results('flag')").fetchall()
        assert rows == [{"variant": "a", "units": 1}, {"variant": "b", "units": 2}]
    with fresh_database.connect() as connection:
        connection.execute("update public.feature_flags set seed = gen_random_uuid()")
        # Evaluated before the change: it belongs to the former experiment.
        late = json.dumps({"flag": "flag", "seed": row[0], "unit": "u4", "variant": "a"})
        assert connection.execute("select private.record_exposure(%s) ->> 'recorded'", [late]).fetchone() == ("true",)
        assert connection.execute(
            "select variant from public.feature_flag_exposures where unit = 'u4' and seed = %s", [row[0]]
        ).fetchall() == [("a",)]
    with fresh_database.acting_as("platform_admin") as cursor:
        assert cursor.execute("select from public.experiment_results('flag')").rowcount == 0, "another experiment"
    with fresh_database.acting_as("owner") as cursor:
        assert cursor.execute("select from public.feature_flag_exposures").rowcount == 0


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_attack_write_exposures_without_the_functions(database: Database, role: str) -> None:
    for call in (
        "private.record_exposure('{}')",
        "private.load_feature_flags('PRODUCTION', -1, '{}')",
        "private.flag_identity('{}')",
        "private.open_flag_to_preview('{}')",
        "private.open_users_to_preview('{}')",
    ):
        with database.acting_as(None, role=role) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(f"select {call}")
    with database.acting_as("platform_admin") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(
            "insert into public.feature_flag_exposures (flag_id, seed, unit, variant) select id, seed, 'u', 'a'"
            " from public.feature_flags"
        )


def store_experiment(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(
            "insert into public.feature_flags (name, created_by) values ('flag', %s)", [PEOPLE["platform_admin"]]
        )


def record(database: Database, person: str, address: str, unit: UUID) -> str:
    """As the function does for a user at this address."""
    with database.connect("strive_functions") as connection:
        connection.autocommit = False
        become(connection, "strive_functions", claims_of(person), {"x-forwarded-for": f"10.0.0.1, {address}"})
        row = connection.execute(
            "select private.record_exposure(jsonb_build_object('flag', 'flag', 'unit', %s::text, 'variant', 'a',"
            " 'seed', %s::text)) ->> 'reason'",
            [str(unit), str(UUID(int=1))],
        ).fetchone()
        connection.commit()
    assert row
    return str(row[0])


def test_attack_one_user_records_many_units(fresh_database: Database) -> None:
    store_experiment(fresh_database)
    with ThreadPoolExecutor(4) as pool:
        reasons = list(pool.map(lambda n: record(fresh_database, "member", f"192.0.2.{n}", uuid4()), range(20)))
    assert (reasons.count("recorded"), reasons.count("user_limit")) == (5, 15)
    assert record(fresh_database, "owner", "192.0.2.1", uuid4()) == "recorded"


@pytest.mark.parametrize("addresses", [["192.0.2.7"], ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"]], ids=["v4", "v6"])
def test_attack_one_network_records_many_units(fresh_database: Database, addresses: list[str]) -> None:
    store_experiment(fresh_database)
    with fresh_database.connect() as connection:  # 98 units of other users of that network
        connection.execute("select set_config('request.headers', %s, false)", [json.dumps({"x-real-ip": addresses[0]})])
        connection.execute(
            "insert into public.feature_flag_exposures (flag_id, seed, unit, variant, network)"
            " select f.id, %s, n::text, 'a', private.network_hash(%s)"
            " from public.feature_flags f, generate_series(1, 98) n",
            [UUID(int=1)] * 2,
        )
    people = ["owner", "member", "viewer", "outsider"]
    reasons = [record(fresh_database, person, addresses[-1], uuid4()) for person in people]
    assert reasons == ["recorded", "recorded", "network_limit", "network_limit"]
    assert record(fresh_database, "outsider", "198.51.100.1", uuid4()) == "recorded"
    with fresh_database.connect() as connection:
        connection.execute("update public.feature_flag_exposures set created_at = now() - interval '25 hours'")
    assert record(fresh_database, "viewer", addresses[-1], uuid4()) == "recorded", "the next day"
