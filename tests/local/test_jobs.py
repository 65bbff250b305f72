"""The jobs of a stack run once when they are due, and failures are reported."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from local.jobs import Jobs
from local.stack import Stack, free_port
from tests.local.test_stack import strive, until
from tests.support.serving import SECRET_KEY, environment, serving
from tests.support.world import Database

IN_THE_DATABASE, BY_ITS_FUNCTION = "end_suspensions", "sync_auth"


@pytest.fixture
def due(fresh_database: Database) -> Database:
    """A database whose two jobs were to run a minute ago."""
    with fresh_database.connect() as connection:
        connection.execute("delete from private.jobs where name not in (%s, %s)", [IN_THE_DATABASE, BY_ITS_FUNCTION])
        connection.execute("update private.jobs set created_at = now() - interval '2 minutes'")
    return fresh_database


@pytest.fixture
def functions_url(tmp_path: Path, due: Database) -> Iterator[str]:
    with serving(tmp_path, environment(due.url("strive_functions"))) as functions:
        yield f"{functions.url}/functions/v1"


def run_due(database: Database, functions_url: str, secret_key: str) -> None:
    with Jobs(database.url("postgres"), functions_url, secret_key) as jobs:
        jobs.run_due()


def runs(database: Database) -> list[tuple[str, str]]:
    with database.connect() as connection:
        return connection.execute("select job, outcome from private.job_history order by job, started_at").fetchall()


def test_due_jobs_run_once_and_log_only_work(
    due: Database, functions_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with due.connect() as connection:
        connection.execute("delete from private.auth_syncs")
        # Far from the next time, so that the second look finds no due job at any time of day.
        connection.execute(
            "update private.jobs set created_at = now() - interval '2 days',"
            " schedule = to_char(now() at time zone 'UTC' - interval '12 hours', 'FMMI FMHH24 * * *')"
        )
    for _ in range(2):
        run_due(due, functions_url, SECRET_KEY)
    assert runs(due) == [(IN_THE_DATABASE, "DONE"), (BY_ITS_FUNCTION, "DONE")]
    assert capsys.readouterr().out == ""


def test_job_not_yet_due_does_not_run(due: Database, capsys: pytest.CaptureFixture[str]) -> None:
    with due.connect() as connection:
        connection.execute("update private.jobs set created_at = now() + interval '1 minute'")
    run_due(due, "", "")
    assert runs(due) == []
    assert capsys.readouterr().out == ""


def test_log_names_results_and_failures_of_jobs(
    due: Database, functions_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with due.connect() as connection:
        connection.execute(
            "update public.users set suspended_at = now() - interval '2 hours', suspended_reason = 'a test',"
            " suspended_until = now() - interval '1 hour'"
        )
        people = connection.execute("select from public.users").rowcount
    run_due(due, functions_url, "no key of theirs")
    assert [line.partition("UTC  ")[2] for line in capsys.readouterr().out.splitlines()] == [
        f"{IN_THE_DATABASE} DONE: {people}",
        f'{BY_ITS_FUNCTION} FAILED: "HTTP Error 401: Unauthorized"',
    ]


def test_job_that_the_database_starts_runs_before_the_next_minute(due: Database, functions_url: str) -> None:
    listening = "from pg_stat_activity where application_name = 'strive-jobs' and query = 'listen strive_jobs'"
    with (
        due.connect() as connection,
        ThreadPoolExecutor() as pool,
        Jobs(due.url("postgres"), functions_url, SECRET_KEY) as jobs,
    ):
        # A run of the schedule that found no work does not hold it up.
        connection.execute("update private.jobs set created_at = now() + interval '1 hour'")
        connection.execute("select private.end_run(private.start_run(%s), 'DONE', null, null)", [BY_ITS_FUNCTION])
        waiting = pool.submit(jobs.run_until, math.inf)
        until(lambda: connection.execute(f"select {listening}").rowcount == 1, "the jobs listen")
        connection.execute("select private.start_job(%s)", [BY_ITS_FUNCTION])
        until(lambda: runs(due) == [(BY_ITS_FUNCTION, "DONE")] * 2, "the job has run")
        # Two within ten seconds are enough.
        connection.execute("listen strive_jobs")
        connection.execute("select private.start_job(%s)", [BY_ITS_FUNCTION])
        assert list(connection.notifies(timeout=0)) == []
        connection.execute(f"select pg_terminate_backend(pid) {listening}")
        with pytest.raises(psycopg.OperationalError):
            waiting.result()


def test_unavailable_functions_do_not_stop_other_jobs(due: Database, capsys: pytest.CaptureFixture[str]) -> None:
    with due.connect() as connection:
        connection.execute("update private.jobs set name = 'a_job_before_it', runs = null where name = 'sync_auth'")
    run_due(due, f"http://127.0.0.1:{free_port()}", SECRET_KEY)
    assert "a_job_before_it FAILED" in capsys.readouterr().out
    assert runs(due) == [(IN_THE_DATABASE, "DONE")]


def test_stack_runs_jobs_and_status_names_failed_ones(tmp_path: Path, stack_at: Callable[..., Stack]) -> None:
    stack = stack_at(tmp_path / "stack")
    stack.jobs = True
    stack.start(0, 0)
    try:
        assert "none failed or overdue" in strive("status", workdir=stack.workdir).stdout
        with stack.cluster.connect() as connection:
            connection.execute(
                "insert into private.jobs (name, schedule, runs, description)"
                " values ('broken', '* * * * *', 'private.nowhere', '');"
                "update private.jobs set created_at = now() - interval '2 days'"
            )
            jobs = connection.execute("select from private.jobs").rowcount
            stack.restart("jobs")  # it looks at once, not at the next minute
            done = "select from private.job_history where outcome = 'DONE'"
            until(lambda: connection.execute(done).rowcount >= jobs - 1, "all jobs but one are done")
        until(lambda: "broken FAILED" in stack.log("jobs").read_text(), "what failed is in the log")
        assert "broken failed: " in strive("status", workdir=stack.workdir).stdout
    finally:
        stack.stop()
