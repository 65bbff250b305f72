"""The database is unavailable, slow or behind a pooler: responses stay correct and functions recover by themselves."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from uuid import uuid4

import pytest

from local.postgres import Cluster
from local.stack import free_port
from shared.app.turns import Turns
from tests.support.responses import refused
from tests.support.serving import ENTRY, RECORD, Serving, environment, serving
from tests.support.templates import copy_of, prepare_cluster
from tests.support.world import ACME, GLOBEX, Database


@pytest.fixture
def own_url(fresh_database: Database) -> str:
    return fresh_database.url("strive_functions")


def wait_until_ready(functions: Serving) -> None:
    deadline = time.monotonic() + 60
    with functions.client(None) as client:
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, "the functions are not ready"
            time.sleep(0.05)


class Load:
    """Clients that record entries and remember the acknowledged ones, until stopped."""

    def __init__(self, functions: Serving, clients: int = 8) -> None:
        self.acknowledged: list[str] = []
        self.statuses: set[int] = set()
        self._functions = functions
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def _work(self) -> None:
        with self._functions.client() as client:
            while not self._done.is_set():
                title = str(uuid4())
                answer = client.post(RECORD, json=ENTRY | {"title": title}, headers={"idempotency-key": title})
                self.statuses.add(answer.status_code)
                if answer.status_code == 201:
                    self.acknowledged.append(title)
                else:
                    assert answer.status_code == 503, answer.text
                    assert answer.headers["retry-after"]
                    assert answer.json()["code"] in {"database_unavailable", "database_busy"}

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)

    def more(self, count: int = 50) -> None:
        """Wait until `count` more entries are acknowledged."""
        wanted, deadline = len(self.acknowledged) + count, time.monotonic() + 60
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, self.statuses
            time.sleep(0.01)


def lost(database: Database, acknowledged: list[str]) -> set[str]:
    with database.connect() as connection:
        found = {title for (title,) in connection.execute("select title from public.activity_feeds")}
    return set(acknowledged) - found


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory, templates: Path) -> Iterator[Database]:
    """A durable cluster that tests may kill; each leaves it running."""
    home = copy_of("cluster", prepare_cluster, templates, tmp_path_factory.mktemp("own") / "cluster")
    cluster = Cluster(home, free_port(), (home / "password").read_text(), home / "postgres.log")
    cluster.start()
    yield Database(cluster, "world")
    cluster.stop()


def test_killed_database_loses_no_acknowledged_write(tmp_path: Path, own_cluster: Database) -> None:
    cluster = own_cluster.cluster
    with serving(tmp_path, environment(own_cluster.url("strive_functions"))) as functions:
        with Load(functions) as load:
            load.more()
            postmaster = cluster.process()
            assert postmaster
            postmaster.send_signal(signal.SIGKILL)
            while 503 not in load.statuses:
                time.sleep(0.01)
            cluster.start()
            load.more()
        assert load.statuses == {201, 503}
        assert not lost(own_cluster, load.acknowledged)
        assert functions.process.poll() is None


def test_database_restart_between_requests_is_not_noticed(tmp_path: Path, own_cluster: Database) -> None:
    with serving(tmp_path, environment(own_cluster.url("strive_functions"))) as functions:
        with ThreadPoolExecutor(8) as pool:
            assert {answer.status_code for answer in pool.map(lambda _: functions.record(), range(40))} == {201}
        own_cluster.cluster.stop()
        own_cluster.cluster.start()
        assert functions.record().status_code == 201


def test_every_connection_ended_at_once_is_replaced(tmp_path: Path, own_url: str, fresh_database: Database) -> None:
    with serving(tmp_path, environment(own_url)) as functions, Load(functions) as load:
        for _ in range(5):
            load.more(20)
            with fresh_database.connect("supabase_admin") as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where usename = 'strive_functions' and datname = current_database()"
                )
        load.more(20)
    assert not lost(fresh_database, load.acknowledged)


def test_functions_start_without_a_database(tmp_path: Path, own_cluster: Database) -> None:
    own_cluster.cluster.stop()
    with serving(tmp_path, environment(own_cluster.url("strive_functions"))) as functions:
        with functions.client(None) as client:
            assert client.get("/healthz").status_code == 200
            refused(client.get("/readyz"), 503, "database_busy")
        answer = refused(functions.record(), 503, "database_busy")
        assert answer.headers["retry-after"]
        own_cluster.cluster.start()
        wait_until_ready(functions)
        assert functions.record().status_code == 201


def test_open_connections_outlive_a_change_of_the_password(tmp_path: Path, own_cluster: Database) -> None:
    before, password = own_cluster.url("strive_functions"), own_cluster.cluster.password
    with serving(tmp_path, environment(before)) as functions:
        with ThreadPoolExecutor(4) as pool:
            assert {answer.status_code for answer in pool.map(lambda _: functions.record(), range(8))} == {201}
        with own_cluster.connect() as connection:
            connection.execute("alter role strive_functions password 'another'")
        with ThreadPoolExecutor(16) as pool:  # more than there are connections
            assert {answer.status_code for answer in pool.map(lambda _: functions.record(), range(64))} == {201}
    with serving(tmp_path, environment(before.replace(password, "another"))) as functions:
        assert functions.record().status_code == 201
    with own_cluster.connect() as connection:
        connection.execute(f"alter role strive_functions password '{password}'")


def test_exhausted_pool_is_503(tmp_path: Path, own_url: str, fresh_database: Database) -> None:
    with serving(tmp_path, environment(own_url, DATABASE_CONNECTIONS="2")) as functions:
        with fresh_database.connect() as blocker:
            blocker.autocommit = False
            blocker.execute("lock table public.activity_feeds in access exclusive mode")
            people = 2 * ["member", "admin", "globex_member"]  # two turns are what each has however long they last
            with ThreadPoolExecutor(6) as pool:
                answers = list(pool.map(lambda person: functions.record(person=person), people))
            blocker.rollback()
        for answer in answers:
            refused(answer, 503, "database_busy")
        assert functions.record().status_code == 201


def test_hung_database_is_503(tmp_path: Path, own_cluster: Database) -> None:
    with serving(tmp_path, environment(own_cluster.url("strive_functions"))) as functions:
        assert functions.record().status_code == 201
        postmaster = own_cluster.cluster.process()
        assert postmaster
        frozen = [postmaster, *postmaster.children(recursive=True)]
        for process in frozen:
            process.suspend()
        try:
            refused(functions.record(), 503, "database_busy")
        finally:
            for process in frozen:
                process.resume()
        wait_until_ready(functions)
        assert functions.record().status_code == 201


def test_transaction_pooler_never_mixes_callers(
    tmp_path: Path, pooler: tuple[str, int], fresh_database: Database
) -> None:
    url, servers = pooler
    expected = {"member": ACME, "globex_member": GLOBEX}
    with serving(tmp_path, environment(url)) as functions:

        def record(number: int) -> None:
            person = ("member", "globex_member", "outsider", "suspended")[number % 4]
            key = {"idempotency-key": f"{number}"} if number % 3 else {}
            answer = functions.record(ENTRY | {"title": str(number)}, person, **key)
            if person in expected:
                assert answer.status_code == 201, answer.text
                assert answer.json()["organization_id"] == str(expected[person])
            else:
                assert answer.status_code == 403, answer.text

        with ThreadPoolExecutor(24) as pool:
            list(pool.map(record, range(400)))
        with functions.client(None) as client:
            assert client.get("/readyz").status_code == 200
    with fresh_database.connect() as connection:
        assert connection.execute("select count(*) from public.activity_feeds").fetchone() == (200,)
        row = connection.execute(
            "select count(*) from pg_stat_activity where usename = 'strive_functions' and datname = current_database()"
        ).fetchone()
    assert row
    assert 0 < row[0] <= servers


def test_attack_occupy_the_pool_of_the_functions(fresh_database: Database, own_url: str, tmp_path: Path) -> None:
    """Twenty requests of one account wait for a row that it holds; another account is served at once."""
    with fresh_database.connect() as connection:
        added = "insert into public.leads (organization_id, name) values (%s, 'Ada') returning id"
        (lead,) = connection.execute(added, [ACME]).fetchone() or (None,)
    # A busy machine may take longer than production allows.
    with fresh_database.connect("supabase_admin") as connection:
        for setting in ("lock_timeout", "statement_timeout"):
            connection.execute(f'alter role strive_functions in database "{fresh_database.name}" set {setting} = 0')
    call = {"type": "CALL", "title": "Called", "lead_id": str(lead), "completed_at": "2026-01-01T00:00:00Z"}
    waiting = "select count(*) from pg_stat_activity where usename = 'strive_functions' and wait_event_type = 'Lock'"

    def blocked() -> int:
        (count,) = watch.execute(waiting).fetchone() or (0,)
        return int(count)

    with (
        serving(tmp_path, environment(own_url)) as functions,
        fresh_database.connect() as holder,
        fresh_database.connect("supabase_admin") as watch,
        ThreadPoolExecutor(20) as threads,
    ):
        with holder.transaction():
            holder.execute("select from public.leads where id = %s for update", [lead])
            sent = [threads.submit(functions.record, call) for _ in range(20)]
            while blocked() < Turns.RUNNING_LONG:
                assert not any(each.done() for each in sent)
            assert functions.record(person="globex_member").status_code == 201
            assert blocked() <= Turns.RUNNING
        assert {each.result().status_code for each in sent} == {201}
