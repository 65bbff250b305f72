"""Runs the jobs of this stack when they are due. Hosted projects use pg_cron or an external scheduler."""

import json
import os
import time
import urllib.request
from datetime import UTC, datetime
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

# A job that became due several times while nothing ran is run once.
DUE = """
select j.name, j.runs is not null from private.jobs j
where private.next_due(j.schedule, coalesce(
  (select max(r.started_at) from private.job_runs r where r.job = j.name), j.created_at)) <= clock_timestamp()
order by j.name
"""


def main() -> None:
    environment = os.environ
    while True:
        try:
            run_due(environment["DB_URL"], environment["FUNCTIONS_URL"], environment["SECRET_KEY"])
        except psycopg.Error as error:
            say(f"the database is unavailable: {error}")
        time.sleep(60 - time.time() % 60)


def run_due(database_url: str, functions_url: str, secret_key: str) -> None:
    """Run due jobs one after the other; print a line for each that changed something or failed."""
    with psycopg.connect(database_url, autocommit=True, application_name="strive-jobs") as connection:
        for job, is_sql in connection.execute(DUE).fetchall():
            if is_sql:
                outcome, result = _run_in_database(connection, job)
            else:
                outcome, result = _run_by_function(f"{functions_url}/{job.replace('_', '-')}", secret_key)
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


def _run_by_function(address: str, secret_key: str) -> tuple[str, Any]:
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
