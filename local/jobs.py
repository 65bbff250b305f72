"""Runs the jobs of this stack when they are due. Hosted projects use pg_cron or an external scheduler."""

import json
import os
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Self

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

# A job that became due several times while nothing ran is run once.
DUE = """
select j.name, j.runs is not null from private.jobs j
where private.next_due(j.schedule, coalesce(
  (select max(r.started_at) from private.job_runs r where r.job = j.name), j.created_at)) <= clock_timestamp()
order by j.name
"""


# One that waits for work, as deliver_webhooks does, is started again when it ends.
WAITED_SECONDS = 45


def main() -> None:
    environment = os.environ
    with Jobs(environment["DB_URL"], environment["FUNCTIONS_URL"], environment["SECRET_KEY"]) as jobs:
        while True:
            minute_ends = time.monotonic() + 60 - time.time() % 60
            try:
                jobs.run_until(minute_ends)
            except psycopg.Error as error:
                say(f"the database is unavailable: {error}")
            time.sleep(max(0, minute_ends - time.monotonic()))  # the schedule has minutes; this waits after an error


class Jobs:
    """Leaving it waits for the jobs that run."""

    def __init__(self, database_url: str, functions_url: str, secret_key: str) -> None:
        self._database_url, self._functions_url, self._secret_key = database_url, functions_url, secret_key
        self._pool = ThreadPoolExecutor()
        self._running: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run_until(self, minute_ends: float) -> None:
        """Run due jobs, then those that the database starts before the next minute (private.start_job)."""
        with psycopg.connect(self._database_url, autocommit=True, application_name="strive-jobs") as connection:
            connection.execute("listen strive_jobs")
            self.run_due()
            for notice in connection.notifies(timeout=minute_ends - time.monotonic()):
                self._start(notice.payload)

    def run_due(self) -> None:
        """Run due jobs: those of the database one after the other, those of functions beside them."""
        with psycopg.connect(self._database_url, autocommit=True, application_name="strive-jobs") as connection:
            for job, is_sql in connection.execute(DUE).fetchall():
                if is_sql:
                    _report(job, *_run_in_database(connection, job))
                else:
                    self._start(job)

    def _start(self, job: str) -> None:
        if job not in self._running or self._running[job].done():
            self._running[job] = self._pool.submit(self._run_by_function, job)

    def _run_by_function(self, job: str) -> None:
        waited = True
        while waited:
            began = time.monotonic()
            outcome, result = _call(f"{self._functions_url}/{job.replace('_', '-')}", self._secret_key)
            _report(job, outcome, result)
            waited = outcome == "DONE" and time.monotonic() - began > WAITED_SECONDS


def _report(job: str, outcome: str, result: Any) -> None:
    """A line for a job that changed something or failed."""
    found = result.values() if isinstance(result, dict) else [result]
    if outcome != "DONE" or any(found):
        say(f"{job} {outcome}: {json.dumps(result, ensure_ascii=False)}")


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} UTC  {text}", flush=True)


def _run_in_database(connection: Connection, job: str) -> tuple[str, Any]:
    run = connection.execute("select private.start_run(%s)", [job]).fetchone()
    done = connection.execute("select private.perform_run(%s)", run).fetchone()
    assert done  # noqa: S101 - a function returns a row
    return _outcome(done[0])


def _call(address: str, secret_key: str) -> tuple[str, Any]:
    headers = {"apikey": secret_key, "content-type": "application/json"}
    request = urllib.request.Request(address, b"{}", headers)  # noqa: S310 - the stack's own address
    try:
        with urllib.request.urlopen(request, timeout=900) as response:  # noqa: S310 - see above
            return _outcome(json.load(response))
    except OSError as error:  # HTTPError included
        return "FAILED", str(error)


def _outcome(run: dict[str, Any]) -> tuple[str, Any]:
    return run["outcome"], run["error"] or run["result"]


if __name__ == "__main__":
    main()
