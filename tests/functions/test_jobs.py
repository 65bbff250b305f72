"""Jobs over HTTP: only for servers, one run at a time, and a row with the outcome."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from functions import load, names
from tests.conftest import Strive
from tests.support.platform import PASSWORD
from tests.support.responses import refused
from tests.support.serving import BESIDE, CRON_KEY, PUBLISHABLE_KEY, SECRET_KEY, Serving, environment, serving
from tests.support.world import Database


def run_job(functions: Serving, job: str, key: str = CRON_KEY) -> httpx.Response:
    with functions.client(None, apikey=key) as client:
        return client.post(f"/functions/v1/{job}", json={})


def test_every_job_has_a_function(database: Database) -> None:
    with database.connect() as connection:
        jobs = dict(connection.execute("select name, description from private.jobs").fetchall())
    for name, description in jobs.items():
        assert name in names()
        (function,) = load(name)
        assert (function.auth, f"{function.summary}.") == (("secret",), description)


@pytest.mark.parametrize("job", ["end-suspensions", "forget-job-runs"])
def test_job_runs_with_the_secret_key(functions: Serving, database: Database, job: str) -> None:
    answer = run_job(functions, job)
    assert answer.status_code == 200, answer.text
    run = answer.json()
    assert (run["job"], run["outcome"], run["result"], run["error"]) == (job.replace("-", "_"), "DONE", 0, None)
    with database.connect() as connection:
        kept = connection.execute("select outcome::text from private.job_runs where id = %s", [run["id"]]).fetchall()
    assert kept == [("DONE",)]


def test_attack_run_a_job_as_a_user_or_an_app(functions: Serving) -> None:
    refused(run_job(functions, "end-suspensions", PUBLISHABLE_KEY), 401, "missing_credentials")
    refused(run_job(functions, "end-suspensions", SECRET_KEY[:-1]), 401, "invalid_api_key")
    with functions.client("super_admin") as client:
        refused(client.post("/functions/v1/end-suspensions", json={}), 401, "missing_credentials")


def test_a_job_that_runs_already_is_skipped(functions: Serving, database: Database) -> None:
    with database.connect() as connection, connection.transaction():
        connection.execute("select private.try_job_lock('end_suspensions')")
        assert run_job(functions, "end-suspensions").json()["outcome"] == "SKIPPED"
    assert run_job(functions, "end-suspensions").json()["outcome"] == "DONE"


def test_concurrent_runs_of_a_job_never_fail(functions: Serving) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: run_job(functions, "end-suspensions"), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert "DONE" in {answer.json()["outcome"] for answer in answers}


def test_the_days_of_a_range_are_counted_once_each(functions: Serving, database: Database) -> None:
    def count(**days: str) -> httpx.Response:
        with functions.client(None, apikey=CRON_KEY) as client:
            return client.post("/functions/v1/refresh-platform-metrics", json=days)

    assert count().json()["result"] == 1
    for _ in range(2):
        assert count(first="2026-02-27", last="2026-03-02").json()["result"] == 4
    with database.connect() as connection:
        assert connection.execute("select from public.platform_metrics").rowcount == 5
        connection.execute("delete from public.platform_metrics")
    for wrong in (
        {"first": "2026-02-27"},
        {"first": "2026-02-02", "last": "2026-02-01"},
        {"first": "2020-01-01", "last": "2026-01-01"},
    ):
        refused(count(**wrong), 422, "invalid_body")
    failed = refused(count(first="2100-01-01", last="2100-01-01"), 500, "job_failed")
    assert "has not begun" in failed.json()["details"]


def test_every_job_runs_on_the_stack(stack: Strive) -> None:
    server = {"apikey": stack.secret_key}
    with httpx.Client(base_url=stack.api_url, timeout=60) as client:
        address = "/rest/v1/rpc/job_overview?select=name,last_outcome,is_overdue"
        jobs = client.get(address, headers=server).json()
        for job in jobs:
            answer = client.post(f"/functions/v1/{job['name'].replace('_', '-')}", json={}, headers=server)
            assert answer.status_code == 200, answer.text
        listed = client.get(address, headers=server).json()
        assert {(job["last_outcome"], job["is_overdue"]) for job in listed} == {("DONE", False)}
        runs = client.post("/rest/v1/rpc/job_runs", json={"page_size": 100}, headers=server).json()
        assert {run["job_name"] for run in runs} == {job["name"] for job in jobs}
        assert client.get(f"{address}&is_overdue=is.true", headers=server).json() == []
        for email, status in (("admin@strive.test", 200), ("owner@globex.test", 403)):
            answer = client.post(
                "/auth/v1/token?grant_type=password",
                json={"email": email, "password": PASSWORD},
                headers={"apikey": stack.publishable_key},
            )
            user = {"apikey": stack.publishable_key, "authorization": f"Bearer {answer.json()['access_token']}"}
            assert client.get(address, headers=user).status_code == status


# Jobs whose work is done in the process ------------------------------------------------------------------------------

WORK = '''\
import asyncio
from shared.app.call import Call, Result
from shared.app.function import function
from shared import jobs
from shared.database.pool import Connection
from shared.jobs import JobRun, NoInput, run_here

jobs.BEAT_SECONDS = 0.2

async def work(connection: Connection):
    for _ in range(600):
        cursor = await connection.execute("select private.what_to_do()")
        (todo,) = await cursor.fetchone()
        if todo == "end":
            return {"worked": True}
        if todo == "fail":
            raise ValueError("the other server refused")
        await asyncio.sleep(0.05)

@function("secret")
async def elsewhere(call: Call[NoInput]) -> Result[JobRun]:
    """Work elsewhere."""
    return await run_here(call, "elsewhere", work)
'''


@pytest.fixture
def elsewhere(tmp_path: Path, fresh_database: Database) -> Iterator[tuple[Serving, Database]]:
    (tmp_path / "elsewhere.py").write_text(WORK)
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into private.jobs (name, schedule, description)"
            " values ('elsewhere', '0 4 * * *', 'Work elsewhere.');"
            "create table private.todo (what text); insert into private.todo values ('wait');"
            "create function private.what_to_do() returns text language sql security definer"
            " return (select what from private.todo);"
            "grant execute on function private.what_to_do() to strive_functions"
        )
    variables = environment(fresh_database.url("strive_functions"), FUNCTION_TARGET="elsewhere")
    with serving(tmp_path, variables, [*BESIDE, str(tmp_path)]) as functions:
        yield functions, fresh_database


def signal_job(database: Database, what: str) -> None:
    with database.connect() as connection:
        connection.execute("update private.todo set what = %s", [what])


def wait_until_it_runs(database: Database) -> None:
    with database.connect() as connection:
        deadline = time.monotonic() + 60
        while connection.execute("select from private.job_runs where outcome = 'RUNNING'").rowcount == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def runs(database: Database) -> list[tuple[str, str | None]]:
    with database.connect() as connection:
        return connection.execute("select outcome, error from private.job_history order by started_at").fetchall()


def test_running_job_is_visible_and_others_are_skipped(
    elsewhere: tuple[Serving, Database],
) -> None:
    functions, database = elsewhere
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_job, functions, "elsewhere")
        wait_until_it_runs(database)
        assert run_job(functions, "elsewhere").json()["outcome"] == "SKIPPED"
        signal_job(database, "end")
        done = first.result().json()
    assert (done["outcome"], done["result"]) == ("DONE", {"worked": True})
    assert runs(database) == [("DONE", None), ("SKIPPED", None)]


def test_failed_job_stores_its_error(elsewhere: tuple[Serving, Database]) -> None:
    functions, database = elsewhere
    signal_job(database, "fail")
    failed = refused(run_job(functions, "elsewhere"), 500, "job_failed")
    assert failed.json()["details"] == "ValueError: the other server refused"
    assert runs(database) == [("FAILED", "ValueError: the other server refused")]


def test_killed_process_leaves_a_failed_run(elsewhere: tuple[Serving, Database]) -> None:
    functions, database = elsewhere
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(run_job, functions, "elsewhere")
        wait_until_it_runs(database)
        functions.process.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            lost.result()
    with database.connect() as connection:
        deadline = time.monotonic() + 60
        while connection.execute("select private.try_job_lock('elsewhere')").fetchone() != (True,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        connection.execute("update private.job_runs set started_at = started_at - interval '10 seconds'")
    assert runs(database) == [("FAILED", "Its process died.")]


def test_job_stops_when_its_lock_is_lost(elsewhere: tuple[Serving, Database]) -> None:
    functions, database = elsewhere
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_job, functions, "elsewhere")
        wait_until_it_runs(database)
        with database.connect("supabase_admin") as connection:
            connection.execute(
                "select pg_terminate_backend(l.pid) from pg_locks l join pg_stat_activity a using (pid)"
                " where l.locktype = 'advisory' and a.application_name = 'strive-jobs'"
                " and a.datname = current_database()"
            )
        failed = refused(first.result(), 500, "job_failed")
    assert failed.json()["details"].startswith("LockLostError")
