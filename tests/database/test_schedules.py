"""Scheduled jobs: each run leaves a row, concurrent runs are safe, and late jobs are reported."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.support.world import ACME, PEOPLE, Connection, Database, Row

FUNCTIONS = "https://f.test/functions/v1"

CRON = (
    "create schema cron;"
    "create table cron.job (jobid bigint generated always as identity, jobname text primary key,"
    " schedule text, command text);"
    "create function cron.schedule(text, text, text) returns bigint language sql as $$"
    " insert into cron.job (jobname, schedule, command) values ($1, $2, $3)"
    " on conflict (jobname) do update set schedule = $2, command = $3 returning jobid $$;"
)


def run(connection: Connection, job: str) -> Row:
    row = connection.execute("select private.perform_run(private.start_run(%s))", [job]).fetchone()
    assert row
    return dict(row[0])


def state(connection: Connection, job: str) -> Row:
    row = connection.execute("select to_jsonb(s) from private.job_states() s where s.name = %s", [job]).fetchone()
    assert row
    return dict(row[0])


def alerts(connection: Connection, job: str) -> list[bool]:
    """Of each alert there was about this job, whether it is active."""
    title = f"The job {job} is overdue"
    found = connection.execute(
        "select is_active from public.system_alerts where title = %s order by created_at", [title]
    )
    return [active for (active,) in found]


def test_every_job_is_a_function_that_can_run_now(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        named = "select name from private.jobs where runs is not null order by name"
        jobs = [name for (name,) in connection.execute(named)]
        assert {"end_suspensions", "expire_onboarding_sessions", "forget_expired_keys", "forget_job_runs"} <= set(jobs)
        runs = [run(connection, job) for job in [*jobs, *jobs]]
        assert [(r["job"], r["outcome"], r["error"]) for r in runs] == [(job, "DONE", None) for job in [*jobs, *jobs]]
        left = connection.execute("select count(*) from private.job_runs").fetchone()
        assert left == (2 * len(jobs),)


def test_skipped_run_has_a_row(database: Database) -> None:
    with database.connect() as first, database.connect() as second:
        with first.transaction():
            assert run(first, "end_suspensions")["outcome"] == "DONE"
            with second.transaction(force_rollback=True):
                assert run(second, "end_suspensions")["outcome"] == "SKIPPED"
                assert run(second, "forget_job_runs")["outcome"] == "DONE"
        with second.transaction(force_rollback=True):
            assert run(second, "end_suspensions")["outcome"] == "DONE"


def test_one_of_two_concurrent_runs_is_skipped(fresh_database: Database) -> None:
    with fresh_database.connect() as first, fresh_database.connect() as second:
        runs = [c.execute("select private.start_run('end_suspensions')").fetchone() for c in (first, second)]
        second.execute("set lock_timeout = '2s'")
        perform = "select private.perform_run(%s) ->> 'outcome'"
        with first.transaction():
            assert first.execute(perform, runs[0]).fetchone() == ("DONE",)
            assert second.execute(perform, runs[1]).fetchone() == ("SKIPPED",)


def test_run_is_visible_from_its_start(fresh_database: Database) -> None:
    with fresh_database.connect() as worker, fresh_database.connect() as onlooker:
        started = worker.execute("select private.start_run('end_suspensions')").fetchone()
        assert started
        (seen,) = onlooker.execute("select id, outcome, finished_at from private.job_history").fetchall()
        assert seen == (started[0], "RUNNING", None)
        with worker.transaction():
            worker.execute("select private.try_job_lock('end_suspensions')")
            worker.execute("update private.job_runs set started_at = now() - interval '1 hour'")
        with worker.transaction():
            worker.execute("select private.try_job_lock('end_suspensions')")
            assert state(onlooker, "end_suspensions")["is_running"]
            assert onlooker.execute("select outcome from private.job_history").fetchall() == [("RUNNING",)]


def test_run_of_a_dead_process_is_failed(fresh_database: Database) -> None:
    with fresh_database.connect() as worker:
        worker.execute("select private.start_run('end_suspensions')")
        worker.execute("update private.job_runs set started_at = now() - interval '1 minute'")
        worker.execute("begin")
        worker.execute("select private.try_job_lock('end_suspensions')")
    with fresh_database.connect() as onlooker:
        shown = "select outcome, error from private.job_history order by started_at"
        assert onlooker.execute(shown).fetchall() == [("FAILED", "Its process died.")]
        seen = state(onlooker, "end_suspensions")
        assert (seen["is_running"], seen["last_outcome"], seen["last_error"]) == (False, "FAILED", "Its process died.")
        assert run(onlooker, "end_suspensions")["outcome"] == "DONE"
        written = onlooker.execute("select outcome::text, error from private.job_runs order by started_at").fetchall()
        assert written == [("FAILED", "Its process died."), ("DONE", None)]


def test_run_without_lock_cannot_end(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        old = connection.execute("select private.start_run('end_suspensions')").fetchone()
        assert old
        connection.execute("update private.job_runs set started_at = now() - interval '1 minute'")
        run(connection, "end_suspensions")
        with pytest.raises(psycopg.Error, match="has already ended") as caught:
            connection.execute("select private.end_run(%s, 'DONE', null, null)", old)
        assert caught.value.sqlstate == "PT409"


def test_failed_database_job_is_rolled_back(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "create function private.half() returns void language plpgsql as $$ begin"
            " delete from public.organization_invitations; perform 1 / 0; end $$;"
            " insert into private.jobs (name, schedule, runs, description)"
            " values ('half', '* * * * *', 'private.half', 'Fails.');"
        )
        before = connection.execute("select count(*) from public.organization_invitations").fetchone()
        failed = run(connection, "half")
        assert (failed["outcome"], failed["error"]) == ("FAILED", "division by zero (22012)")
        assert connection.execute("select count(*) from public.organization_invitations").fetchone() == before


def test_unknown_job_error_lists_jobs(database: Database) -> None:
    with database.connect() as connection, pytest.raises(psycopg.Error, match="no such job") as caught:
        run(connection, "auth.uid(); drop table users")
    assert caught.value.sqlstate == "PT404"
    assert "end_suspensions" in str(caught.value.diag.message_hint)


def test_timed_out_job_is_failed(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "create function private.slow() returns void language plpgsql as 'begin perform pg_sleep(30); end';"
            "insert into private.jobs (name, schedule, runs, description)"
            " values ('slow', '* * * * *', 'private.slow', 'Sleeps.'); set local statement_timeout = '50ms'"
        )
        assert run(connection, "slow")["error"] == "canceling statement due to statement timeout (57014)"


@pytest.mark.parametrize(
    "statement",
    [
        "select private.start_run('end_suspensions')",
        "select private.perform_run(gen_random_uuid())",
        "select private.end_run(gen_random_uuid(), 'DONE', null, null)",
        "select private.try_job_lock('end_suspensions')",
        "select private.raise_overdue()",
        "select private.call_job('end_suspensions')",
        "select from private.job_runs",
        "select from private.job_overview",
        "select from private.job_history",
        "update private.jobs set runs = 'private.end_suspensions'",
    ],
)
def test_attack_run_a_job_or_write_its_rows(database: Database, statement: str) -> None:
    for person in ("super_admin", "owner", None):
        with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(statement)


def test_the_functions_login_runs_jobs(database: Database) -> None:
    with database.connect("supabase_admin") as connection, connection.transaction(force_rollback=True):
        connection.execute("set local role strive_functions")
        assert run(connection, "end_suspensions")["outcome"] == "DONE"


# When a job is due ---------------------------------------------------------------------------------------------------

AT = datetime(2026, 3, 29, 0, 30, 15, tzinfo=UTC)  # a Sunday, on which clocks are changed in Europe


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("* * * * *", datetime(2026, 3, 29, 0, 31, tzinfo=UTC)),
        ("*/5 * * * *", datetime(2026, 3, 29, 0, 35, tzinfo=UTC)),
        ("*/30 * * * *", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),
        ("27 * * * *", datetime(2026, 3, 29, 1, 27, tzinfo=UTC)),
        ("37 * * * *", datetime(2026, 3, 29, 0, 37, tzinfo=UTC)),
        ("17 3 * * *", datetime(2026, 3, 29, 3, 17, tzinfo=UTC)),
        ("10 0 * * *", datetime(2026, 3, 30, 0, 10, tzinfo=UTC)),
        ("0 4 * * 0", datetime(2026, 3, 29, 4, 0, tzinfo=UTC)),
        ("0 0 * * 0", datetime(2026, 4, 5, 0, 0, tzinfo=UTC)),
        ("0 4 * * 6", datetime(2026, 4, 4, 4, 0, tzinfo=UTC)),
        *[
            (line, None)
            for line in ("", "*/7 * * * *", "*/0 * * * *", "61 * * * *", "0 24 * * *", "0 0 1 * *", "@daily")
        ],
        *[
            (line, None)
            for line in ("* 3 * * *", "*/5 3 * * *", "* * * * 0", "5 * * * 0", " * * * * *", "*/60 * * * *")
        ],
    ],
)
def test_job_is_due_by_its_schedule(database: Database, schedule: str, due: datetime | None) -> None:
    with database.connect() as connection:
        for zone in ("UTC", "Europe/Berlin"):
            connection.execute(f"set timezone = '{zone}'")
            found = connection.execute("select private.next_due(%s, %s)", [schedule, AT]).fetchone()
            assert found == (due,)


def test_overdue_job_alerts_once_until_done(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:

        def age(job: str, by: timedelta) -> None:
            connection.execute("update private.jobs set created_at = created_at - %s where name = %s", [by, job])
            connection.execute(
                "update private.job_runs set started_at = started_at - %s, finished_at = finished_at - %s"
                " where job = %s",
                [by, by, job],
            )

        connection.execute("update private.jobs set created_at = now()")
        run(connection, "forget_job_runs")
        assert alerts(connection, "end_suspensions") == []
        age("end_suspensions", timedelta(minutes=8))
        assert not state(connection, "end_suspensions")["is_overdue"]
        age("end_suspensions", timedelta(minutes=4))
        assert state(connection, "end_suspensions")["is_overdue"]
        for _ in range(2):
            run(connection, "forget_job_runs")
            assert alerts(connection, "end_suspensions") == [True]
        assert run(connection, "end_suspensions")["outcome"] == "DONE"
        assert alerts(connection, "end_suspensions") == [False]
        age("end_suspensions", timedelta(minutes=12))
        run(connection, "forget_job_runs")
        assert alerts(connection, "end_suspensions") == [False, True]


def test_daily_job_is_overdue_after_six_hours(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        run(connection, "forget_job_runs")
        connection.execute("update private.job_runs set started_at = started_at - interval '1 day'")
        for hours, overdue in ((5, False), (7, True)):
            due = datetime.now(UTC) - timedelta(hours=hours)
            connection.execute("update private.jobs set schedule = %s", [f"{due.minute} {due.hour} * * *"])
            assert state(connection, "forget_job_runs")["is_overdue"] is overdue


def test_alert_of_a_failing_job_has_its_error(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "create function private.half() returns void language plpgsql as 'begin perform 1 / 0; end';"
            "insert into private.jobs (name, schedule, runs, description, created_at)"
            " values ('half', '* * * * *', 'private.half', 'Fails.', now() - interval '1 hour')"
        )
        assert run(connection, "half")["outcome"] == "FAILED"
        assert alerts(connection, "half") == [True]
    with fresh_database.acting_as("platform_admin") as cursor:
        (alert,) = cursor.execute("select title, level, message from public.active_alerts()").fetchall()
        assert (alert["title"], alert["level"]) == ("The job half is overdue", "ERROR")
        assert "division by zero" in alert["message"]
    with fresh_database.acting_as("owner") as cursor:
        assert cursor.execute("select from public.active_alerts()").rowcount == 0


def test_concurrent_checks_raise_one_alert(fresh_database: Database) -> None:
    with fresh_database.connect() as first, fresh_database.connect() as second:
        first.execute("update private.jobs set created_at = now() - interval '1 hour' where name = 'end_suspensions'")
        second.execute("set lock_timeout = '2s'")
        with first.transaction():
            assert first.execute("select private.raise_overdue()").fetchone() == (1,)
            assert second.execute("select private.raise_overdue()").fetchone() == (0,)
        assert second.execute("select private.raise_overdue()").fetchone() == (0,)


def test_job_overview_is_for_admins_and_servers(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        for _ in range(3):
            run(connection, "end_suspensions")
        jobs = connection.execute("select count(*) from private.jobs").fetchone()
    for person, role in (("platform_admin", None), ("super_admin", None), (None, "service_role")):
        claims = {"role": role} if role else None
        with fresh_database.acting_as(person, claims=claims) as cursor:
            overview = {row["name"]: row for row in cursor.execute("select * from public.job_overview()")}
            assert len(overview) == (jobs or [0])[0]
            seen = overview["end_suspensions"]
            assert (seen["last_outcome"], seen["is_overdue"], seen["is_running"]) == ("DONE", False, False)
            assert timedelta() < seen["due_at"] - seen["last_done_at"] <= timedelta(minutes=1)
            first = cursor.execute("select * from public.job_runs('end_suspensions', page_size => 2)").fetchall()
            rest = cursor.execute(
                "select * from public.job_runs(before => %s, before_id => %s)", [first[1]["started_at"], first[1]["id"]]
            ).fetchall()
            assert len({row["id"] for row in first + rest}) == 3


@pytest.mark.parametrize("person", ["owner", "member", "outsider", "suspended"])
def test_attack_read_jobs_as_a_user(database: Database, person: str) -> None:
    for call in ("job_overview()", "job_runs()"):
        with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege, match="admins"):
            cursor.execute(f"select * from public.{call}")


# The jobs ------------------------------------------------------------------------------------------------------------


def test_suspensions_end_when_their_time_has_passed(database: Database) -> None:
    who = [PEOPLE["member"], PEOPLE["viewer"], PEOPLE["suspended"]]
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "update public.users set suspended_reason = 'spam', suspended_at = now() - interval '2 days',"
            " suspended_until = now() + case id when %s then interval '-1 day' else interval '1 day' end"
            " where id in (%s, %s)",
            [who[0], *who[:2]],
        )
        assert run(connection, "end_suspensions")["result"] == 1
        rows = connection.execute(
            "select suspended_at is null, suspended_until is null, suspended_reason is null from public.users"
            " where id = any (%s) order by array_position(%s, id)",
            [who, who],
        )
        # Ended; still going; until reactivated by hand.
        assert rows.fetchall() == [(True, True, True), (False, False, False), (False, True, True)]


def test_old_runs_are_forgotten(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into private.job_runs (job, outcome, started_at, finished_at)"
            " select 'end_suspensions', 'DONE', now() - d * interval '1 day', now() from generate_series(1, 60, 10) d"
        )
        assert run(connection, "forget_job_runs")["result"] == 3


def test_pg_cron_gets_every_job(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        assert connection.execute("select private.schedule_jobs()").fetchone() == (0,)
        connection.execute(CRON)
        connection.execute("select private.schedule_jobs()")
        connection.execute("select private.schedule_jobs()")
        scheduled = connection.execute("select jobname, schedule from cron.job order by 1").fetchall()
        assert scheduled == connection.execute("select name, schedule from private.jobs order by 1").fetchall()


def test_pg_cron_commits_a_run_before_its_work_begins(fresh_database: Database) -> None:
    with fresh_database.connect() as connection, fresh_database.connect() as onlooker:
        connection.execute(CRON)
        connection.execute(
            "create table private.seen (outcome text);"
            "create function private.look() returns void language plpgsql as $$ begin"
            " insert into private.seen select r.outcome from private.job_runs r where r.job = 'look'"
            " and pg_xact_status(r.xmin::text::xid8) = 'committed'; end $$;"
            "insert into private.jobs (name, schedule, runs, description)"
            " values ('look', '* * * * *', 'private.look', 'Looks.'), ('there', '* * * * *', null, 'Elsewhere.')"
        )
        connection.execute("select private.schedule_jobs()")
        commands = dict(connection.execute("select jobname, command from cron.job").fetchall())
        connection.execute(commands["look"])
        assert onlooker.execute("select outcome from private.seen").fetchall() == [("RUNNING",)]
        assert onlooker.execute("select outcome::text from private.job_runs").fetchall() == [("DONE",)]
        assert commands["there"] == "select private.call_job('there')"


def install_pg_net(connection: Connection) -> None:
    """A vault, and a pg_net that only records its calls."""
    connection.execute("create schema if not exists vault; create schema if not exists net")
    connection.execute(
        "create table vault.decrypted_secrets (name text, decrypted_secret text);"
        "create table net.sent (url text, body jsonb, headers jsonb, timeout_milliseconds int);"
        "create function net.http_post(url text, body jsonb, headers jsonb, timeout_milliseconds int)"
        " returns bigint language sql as"
        " $$ insert into net.sent values (url, body, headers, timeout_milliseconds) returning 7 $$;"
        "grant usage on schema vault, net to postgres; grant all on all tables in schema vault, net to postgres"
    )


def store_keys(connection: Connection) -> None:
    connection.execute(
        "insert into vault.decrypted_secrets values ('functions_url', %s), ('functions_secret_key', 'sb_secret_x')",
        [FUNCTIONS],
    )


def test_http_job_is_called_by_pg_net(fresh_database: Database) -> None:
    with fresh_database.connect("supabase_admin") as connection:
        install_pg_net(connection)
    with fresh_database.connect() as connection:
        with pytest.raises(psycopg.Error, match="not in the vault"):
            connection.execute("select private.call_job('reconcile_stripe')")
        store_keys(connection)
        assert connection.execute("select private.call_job('reconcile_stripe')").fetchone() == (7,)
        sent = connection.execute("select url, body, headers from net.sent").fetchall()
        assert sent == [
            (
                f"{FUNCTIONS}/reconcile-stripe",
                {},
                {"apikey": "sb_secret_x", "content-type": "application/json"},
            )
        ]


def test_first_active_webhook_starts_its_job_once(fresh_database: Database) -> None:
    add = "insert into public.webhook_endpoints (organization_id, url) values (%s, %s)"
    with fresh_database.connect("supabase_admin") as connection:
        install_pg_net(connection)
    with fresh_database.connect() as connection:
        connection.execute(add, [ACME, "https://example.com/without-keys-in-the-vault"])
        connection.execute("delete from public.webhook_endpoints")
        store_keys(connection)
        for path in ("first", "second"):
            connection.execute(add, [ACME, f"https://example.com/{path}"])
        assert connection.execute("select url from net.sent").fetchall() == [(f"{FUNCTIONS}/deliver-webhooks",)]
        connection.execute("delete from public.webhook_endpoints")
        connection.execute("insert into private.job_runs (job) values ('deliver_webhooks')")
        connection.execute(add, [ACME, "https://example.com/while-it-runs"])
        assert connection.execute("select from net.sent").rowcount == 1


def test_unpaid_onboarding_sessions_are_deleted_a_week_after_expiry(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into public.onboarding_sessions (token_hash, created_at, expires_at, payment_attempt)"
            " select encode(sha256(name::bytea), 'hex'), now() - age, now() - age + interval '24 hours', attempts"
            " from (values ('old', interval '9 days', 0), ('paying', '9 days', 1), ('young', '2 days', 0))"
            " s (name, age, attempts)"
        )
        assert run(connection, "expire_onboarding_sessions")["result"] == 1
        left = connection.execute("select payment_attempt, age(now(), expires_at) from public.onboarding_sessions")
        assert sorted(attempts for attempts, _ in left) == [0, 1]


def test_old_stripe_events_are_redacted(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into public.stripe_events (id, type, created, livemode, payload, status, applied_at, created_at)"
            " select 'evt_' || name, 'invoice.paid', now(), true, '{}', status::public.\"StripeEventStatus\","
            " case when status = 'APPLIED' then now() end, now() - days * interval '1 day'"
            " from (values ('old', 'APPLIED', 91), ('parked', 'PARKED', 91), ('new', 'APPLIED', 89))"
            " e (name, status, days)"
        )
        assert run(connection, "redact_stripe_events")["result"] == 2
        assert run(connection, "redact_stripe_events")["result"] == 0
        redacted = connection.execute("select id from public.stripe_events where payload is null").fetchall()
        assert sorted(redacted) == [("evt_old",), ("evt_parked",)]
