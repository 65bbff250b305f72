"""Work that nobody asks for: each run leaves a row, and two at once do no harm."""

import psycopg
import pytest

from tests.world import PEOPLE, Connection, Database, Row


def run(connection: Connection, job: str) -> Row:
    row = connection.execute("select private.run_job(%s)", [job]).fetchone()
    assert row
    return dict(row[0])


def test_every_job_is_a_function_that_can_run_now(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        jobs = [name for (name,) in connection.execute("select name from private.jobs order by name")]
        assert {"end_suspensions", "expire_onboarding_sessions", "forget_expired_keys", "forget_job_runs"} <= set(jobs)
        runs = [run(connection, job) for job in [*jobs, *jobs]]
        assert [(r["job"], r["outcome"], r["error"]) for r in runs] == [(job, "DONE", None) for job in [*jobs, *jobs]]
        left = connection.execute("select count(*) from private.job_runs").fetchone()
        assert left == (2 * len(jobs),)


def test_a_job_that_runs_already_is_skipped_and_leaves_a_row(database: Database) -> None:
    with database.connect() as first, database.connect() as second:
        with first.transaction():
            assert run(first, "end_suspensions")["outcome"] == "DONE"
            with second.transaction(force_rollback=True):
                assert run(second, "end_suspensions")["outcome"] == "SKIPPED"
                assert run(second, "forget_job_runs")["outcome"] == "DONE"
        with second.transaction(force_rollback=True):
            assert run(second, "end_suspensions")["outcome"] == "DONE"


def test_a_job_that_fails_undoes_what_it_did_and_says_why(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "create function private.half() returns void language plpgsql as $$ begin"
            " delete from public.organization_invitations; perform 1 / 0; end $$;"
            " insert into private.jobs values ('half', '* * * * *', 'private.half', 'Fails midway.');"
        )
        before = connection.execute("select count(*) from public.organization_invitations").fetchone()
        failed = run(connection, "half")
        assert (failed["outcome"], failed["error"]) == ("FAILED", "division by zero (22012)")
        assert connection.execute("select count(*) from public.organization_invitations").fetchone() == before


def test_an_unknown_job_is_refused_with_the_names_of_those_there_are(database: Database) -> None:
    with database.connect() as connection, pytest.raises(psycopg.Error, match="no such job") as caught:
        run(connection, "auth.uid(); drop table users")
    assert caught.value.sqlstate == "PT404"
    assert "end_suspensions" in str(caught.value.diag.message_hint)


def test_attack_run_a_job_or_read_its_runs_as_a_user(database: Database) -> None:
    for statement in ("select private.run_job('end_suspensions')", "select from private.job_runs"):
        for person in ("super_admin", None):
            with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
                cursor.execute(statement)


def test_the_functions_login_runs_jobs(database: Database) -> None:
    with database.connect("supabase_admin") as connection, connection.transaction(force_rollback=True):
        connection.execute("set local role strive_functions")
        assert run(connection, "end_suspensions")["outcome"] == "DONE"


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


def test_pg_cron_is_given_every_job_where_it_is_present(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        assert connection.execute("select private.schedule_jobs()").fetchone() == (0,)
        connection.execute(
            "create schema cron;"
            "create table cron.job (jobid bigint generated always as identity, jobname text primary key,"
            " schedule text, command text);"
            "create function cron.schedule(text, text, text) returns bigint language sql as $$"
            " insert into cron.job (jobname, schedule, command) values ($1, $2, $3)"
            " on conflict (jobname) do update set schedule = $2, command = $3 returning jobid $$;"
        )
        connection.execute("select private.schedule_jobs()")
        connection.execute("select private.schedule_jobs()")
        scheduled = connection.execute("select jobname, schedule, command from cron.job order by 1").fetchall()
        jobs = connection.execute("select name, schedule from private.jobs order by 1").fetchall()
        assert scheduled == [(name, schedule, f"select private.run_job('{name}')") for name, schedule in jobs]
        for _, _, command in scheduled[:1]:
            connection.execute(command)


def test_onboarding_sessions_nobody_paid_for_are_deleted_a_week_after_they_expired(database: Database) -> None:
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


def test_old_events_of_stripe_are_redacted_unless_they_were_never_applied(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into public.stripe_events (id, type, created, livemode, payload, status, applied_at, created_at)"
            " select 'evt_' || name, 'invoice.paid', now(), true, '{}', status::public.\"StripeEventStatus\","
            " case when status = 'APPLIED' then now() end, now() - days * interval '1 day'"
            " from (values ('old', 'APPLIED', 91), ('parked', 'PARKED', 91), ('new', 'APPLIED', 89))"
            " e (name, status, days)"
        )
        assert run(connection, "redact_stripe_events")["result"] == 1
        assert run(connection, "redact_stripe_events")["result"] == 0
        gone = connection.execute("select id from public.stripe_events where payload is null").fetchall()
        assert gone == [("evt_old",)]
