"""A change takes effect in every process, and the last known flags serve without the database."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.served_flags import EVALUATE, FLAGS, change, evaluate, evaluate_all, is_on, make, wait_for
from tests.support.serving import SECRET_KEY, Serving, environment, serving
from tests.support.world import PEOPLE, Database

PROCESSES = 2


@pytest.fixture(scope="module")
def processes(
    tmp_path_factory: pytest.TempPathFactory, database_url: str, database: Database
) -> Iterator[list[Serving]]:
    make(database, "switch")
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("processes")
        yield [stack.enter_context(serving(folder, environment(database_url))) for _ in range(PROCESSES)]


def listeners(database: Database) -> int:
    with database.connect() as connection:
        return connection.execute(
            "select from pg_stat_activity where query ilike 'listen%' and datname = current_database()"
        ).rowcount


def stop_notifications(database: Database) -> None:
    """Until the processes listen again some seconds later."""
    with database.connect() as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where query ilike 'listen%' and datname = current_database()"
        )


def assert_takes_effect(
    change_it: Callable[[], None], processes: list[Serving], flag: str, context: dict[str, Any], *, before: bool
) -> None:
    """Every client under load gets the old value, then only the new one.

    tests/shared/flags/test_serving.py proves the limit of a second, on a clock of its own.
    """
    changed = threading.Event()

    def load(functions: Serving, values: list[bool]) -> None:
        deadline = time.monotonic() + 60
        with functions.client(None, apikey=SECRET_KEY) as client:
            while not changed.is_set() or values[-20:] != [not before] * 20:
                assert time.monotonic() < deadline, "the change did not take effect"
                values.append(client.post(EVALUATE, json={"flag": flag, "context": context}).json()["value"])

    clients: list[tuple[Serving, list[bool]]] = [(functions, []) for functions in processes * 2]
    with ThreadPoolExecutor(len(clients)) as pool:
        loads = [pool.submit(load, *client) for client in clients]
        try:
            wait_for(lambda: all(len(values) > 20 for _, values in clients))
            change_it()
        finally:
            changed.set()
        for each in loads:
            each.result()
    for _, values in clients:
        assert values == sorted(values, reverse=before), "the old value came back"


@pytest.mark.parametrize("notified", [True, False], ids=["notified", "notifications lost"])
def test_kill_switch_takes_effect_under_load(processes: list[Serving], database: Database, notified: bool) -> None:
    change(database, "switch", is_enabled=True)
    for functions in processes:
        wait_for(lambda functions=functions: is_on(evaluate(functions, "switch")))  # type: ignore[misc]
    wait_for(lambda: listeners(database) == PROCESSES)

    def kill() -> None:
        if not notified:
            stop_notifications(database)
        change(database, "switch", is_enabled=False)

    assert_takes_effect(kill, processes, "switch", {}, before=True)


def test_change_takes_effect_through_a_pooler(
    tmp_path: Path, pooler: tuple[str, int], fresh_database: Database
) -> None:
    url, _ = pooler
    make(fresh_database, "switch")
    with fresh_database.connect() as connection:
        connection.execute("insert into public.feature_flag_groups (name) values ('beta')")
    make(fresh_database, "grouped", conditions={"name": {"$inGroup": "beta"}})

    def join() -> None:
        with fresh_database.connect() as connection:
            connection.execute(
                "insert into public.feature_flag_group_members (group_id, value)"
                """ select id, '"anna"' from public.feature_flag_groups"""
            )

    with serving(tmp_path, environment(url)) as functions:
        wait_for(lambda: is_on(evaluate(functions, "switch")))
        kill = partial(change, fresh_database, "switch", is_enabled=False)
        assert_takes_effect(kill, [functions], "switch", {}, before=True)
        assert_takes_effect(join, [functions], "grouped", {"name": "anna"}, before=False)
        assert listeners(fresh_database) == 0


def test_concurrent_writes_never_mix_versions_in_a_response(processes: list[Serving], database: Database) -> None:
    """Each write gives all flags of a set the same state."""
    names = [f"set-{number}" for number in range(5)]
    for name in names:
        make(database, name)
    ending = threading.Event()

    def write(number: int) -> None:
        for turn in range(15):
            with database.acting_as("platform_admin", commit=True) as cursor:
                cursor.execute(
                    "update public.feature_flags set is_enabled = %s where name like 'set-%%'",
                    [(turn + number) % 2 == 0],
                )

    def read(functions: Serving) -> list[int]:
        versions = []
        with httpx.Client(base_url=functions.url, headers={"apikey": SECRET_KEY}) as client:
            while not ending.is_set():
                answer = client.post(FLAGS, json={"context": {}}).json()
                states = {flag["metadata"]["on"] for flag in answer["flags"] if flag["key"].startswith("set-")}
                assert len(states) <= 1, "a mixed snapshot"
                versions.append(answer["metadata"]["version"])
        return versions

    with ThreadPoolExecutor(2 * PROCESSES + 3) as pool:
        reading = [pool.submit(read, functions) for functions in processes * 2]
        try:
            for writing in [pool.submit(write, number) for number in range(3)]:
                writing.result()
        finally:
            ending.set()
        for each in reading:
            versions = each.result()
            assert versions == sorted(versions), "a process went back"

    with database.connect() as connection:
        row = connection.execute(
            "select version from private.feature_flag_versions where environment = 'PRODUCTION'"
        ).fetchone()
    assert row
    for functions in processes:
        wait_for(lambda: evaluate_all(functions).json()["metadata"]["version"] == row[0])  # noqa: B023 - called here


def test_last_known_flags_serve_users_and_servers_without_the_database(
    tmp_path: Path, fresh_database: Database
) -> None:
    make(fresh_database, "switch")

    def reasons() -> set[str]:
        return {evaluate(functions, "switch", person=person).json()["reason"] for person in ("member", None)}

    with serving(tmp_path, environment(fresh_database.url("strive_functions"))) as functions:
        assert reasons() == {"STATIC"}
        with fresh_database.cluster.connect("supabase_admin", "template1") as connection:
            connection.execute(f"alter database {fresh_database.name} allow_connections false")
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [fresh_database.name]
            )
            wait_for(lambda: reasons() == {"STALE"})
            assert is_on(evaluate(functions, "switch", person="member"))
            assert evaluate_all(functions).json()["metadata"]["stale"] is True
            assert evaluate_all(functions, person="member").json()["metadata"]["stale"] is True
            unknown = evaluate(functions, "switch", person="owner")
            assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
            connection.execute(f"alter database {fresh_database.name} allow_connections true")
        wait_for(lambda: reasons() == {"STATIC"})


def test_hung_database_leaves_the_last_known_flags(tmp_path: Path, fresh_database: Database) -> None:
    make(fresh_database, "switch")
    with serving(tmp_path, environment(fresh_database.url("strive_functions"))) as functions:
        assert is_on(evaluate(functions, "switch", person="member"))
        with fresh_database.connect() as connection, connection.transaction():
            connection.execute("lock table private.feature_flag_versions, public.users in access exclusive mode")
            for person in ("member", None):
                wait_for(lambda person=person: evaluate(functions, "switch", person=person).json()["reason"] == "STALE")  # type: ignore[misc]
                assert all(is_on(evaluate(functions, "switch", person=person)) for _ in range(10))
        wait_for(lambda: evaluate(functions, "switch", person="member").json()["reason"] == "STATIC")


def test_suspension_of_a_remembered_user_takes_effect(processes: list[Serving], database: Database) -> None:
    make(database, "for-user")
    functions = processes[0]
    wait_for(lambda: evaluate(functions, "for-user", person="viewer").status_code == 200)
    with database.connect() as connection:
        connection.execute("update public.users set suspended_at = now() where id = %s", [PEOPLE["viewer"]])
        try:
            wait_for(lambda: evaluate(functions, "for-user", person="viewer").status_code == 403)
        finally:
            connection.execute("update public.users set suspended_at = null where id = %s", [PEOPLE["viewer"]])
    wait_for(lambda: evaluate(functions, "for-user", person="viewer").status_code == 200)


def test_process_serves_the_environment_of_its_settings(tmp_path: Path, database: Database, database_url: str) -> None:
    make(database, "only-staging", environment="STAGING")
    with serving(tmp_path, environment(database_url, FLAG_ENVIRONMENT="STAGING")) as functions:
        assert [flag["key"] for flag in evaluate_all(functions).json()["flags"]] == ["only-staging"]
        assert evaluate(functions, "switch").status_code == 404


@pytest.mark.parametrize("person", [None, "member"], ids=["server", "user"])
def test_evaluations_need_no_query(processes: list[Serving], database: Database, person: str | None) -> None:
    def transactions() -> int:
        with database.connect() as connection:
            connection.execute("select pg_stat_clear_snapshot()")
            row = connection.execute(
                "select xact_commit from pg_stat_database where datname = current_database()"
            ).fetchone()
        assert row
        return int(row[0])

    with processes[0].client(person, **({} if person else {"apikey": SECRET_KEY})) as client:
        requests = 1500
        client.post(EVALUATE, json={"flag": "switch"})
        before, began = transactions(), time.monotonic()
        for _ in range(requests):
            client.post(EVALUATE, json={"flag": "switch"})
        seconds = time.monotonic() - began
    time.sleep(1.1)  # until Postgres has counted
    # Both processes refresh their flags, and one of them an identity.
    assert transactions() - before < requests / 10 + 10 * (seconds + 2), json.dumps({"seconds": seconds})
