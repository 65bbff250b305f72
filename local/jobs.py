"""The jobs of this stack, run when they are due. Hosted, pg_cron does this, or a scheduler from outside."""

import json
import os
import time
import urllib.request
from datetime import UTC, datetime
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

# As after a night in which nothing ran: what has become due meanwhile is done once.
DUE = """
select j.name, j.runs is not null from private.jobs j
where private.next_due(j.schedule, coalesce(
  (select max(r.started_at) from private.job_runs r where r.job = j.name), j.created_at)) <= clock_timestamp()
order by j.name
"""


def main() -> None:
    told = os.environ
    while True:
        try:
            run_due(told["DB_URL"], told["FUNCTIONS_URL"], told["SECRET_KEY"])
        except psycopg.Error as error:
            say(f"the database is away: {error}")
        time.sleep(60 - time.time() % 60)


def run_due(database_url: str, functions_url: str, secret_key: str) -> None:
    """One after the other; a line for each that found something to do, or failed."""
    with psycopg.connect(database_url, autocommit=True, application_name="strive-jobs") as connection:
        for job, is_sql in connection.execute(DUE).fetchall():
            if is_sql:
                outcome, result = _in_the_database(connection, job)
            else:
                outcome, result = _by_its_function(f"{functions_url}/{job.replace('_', '-')}", secret_key)
            found = result.values() if isinstance(result, dict) else [result]
            if outcome != "DONE" or any(found):
                say(f"{job} {outcome}: {json.dumps(result, ensure_ascii=False)}")


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} UTC  {text}", flush=True)


def _in_the_database(connection: Connection, job: str) -> tuple[str, Any]:
    run = connection.execute("select private.start_run(%s)", [job]).fetchone()
    done = connection.execute("select private.perform_run(%s)", run).fetchone()
    assert done  # noqa: S101 - a function has a row
    return _told(done[0])


def _by_its_function(address: str, secret_key: str) -> tuple[str, Any]:
    headers = {"apikey": secret_key, "content-type": "application/json"}
    request = urllib.request.Request(address, b"{}", headers)  # noqa: S310 - the address is the stack's own
    try:
        with urllib.request.urlopen(request, timeout=900) as answer:  # noqa: S310 - see above
            return _told(json.load(answer))
    except OSError as error:  # also an answer that is none of success
        return "FAILED", str(error)


def _told(run: dict[str, Any]) -> tuple[str, Any]:
    return run["outcome"], run["error"] or run["result"]


if __name__ == "__main__":
    main()
