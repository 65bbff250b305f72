-- Schedules: work that nobody asks for, done again and again. A job is a function that may run at any time, twice, or
-- twice at once; pg_cron runs it where it is present, an outside scheduler through the functions elsewhere.

create table private.jobs (
  name text primary key constraint "a job is named in lower-case words" check (name ~ '^[a-z]+(_[a-z]+)*$'),
  schedule text not null,
  runs text not null,
  description text not null
);
comment on table private.jobs is 'Every job there is. Only these can be run.';
comment on column private.jobs.schedule is 'When pg_cron runs it (UTC), as a crontab line says it.';
comment on column private.jobs.runs is 'The function, called without arguments; what it returns is kept as the result of the run.';

create type private."JobOutcome" as enum ('DONE', 'SKIPPED', 'FAILED');
comment on type private."JobOutcome" is 'SKIPPED: another run was under way. FAILED: undone, error says why.';

create table private.job_runs (
  id uuid primary key default gen_random_uuid(),
  job text not null references private.jobs (name) on delete cascade,
  outcome private."JobOutcome" not null,
  result jsonb,
  error text,
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  constraint "error is set exactly when a job FAILED" check ((outcome = 'FAILED') = (error is not null)),
  constraint "finished_at is not before started_at" check (finished_at >= started_at)
);
comment on table private.job_runs is 'One row for every run, of the last 30 days.';
create index job_runs_job_idx on private.job_runs (job, started_at desc);
create index job_runs_started_at_idx on private.job_runs (started_at);

create function private.try_job_lock(job text) returns boolean
language plpgsql set search_path = '' as $$
begin
  return pg_try_advisory_xact_lock(hashtextextended('job:' || job, 0));
end $$;
comment on function private.try_job_lock(text) is
  'False while another transaction runs this job; else this one holds it until its end.';

create function private.run_job(job text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  started timestamptz := clock_timestamp();
  found_job private.jobs;
  outcome private."JobOutcome" := 'SKIPPED';
  result jsonb;
  error text;
  run private.job_runs;
begin
  select j.* into found_job from private.jobs j where j.name = run_job.job;
  if not found then
    raise exception 'There is no such job' using errcode = 'PT404', detail = format('Found %L.', left(run_job.job, 100)),
      hint = format('Jobs are: %s.', (select string_agg(j.name, ', ' order by j.name) from private.jobs j));
  end if;
  if private.try_job_lock(found_job.name) then
    begin
      execute format('select to_jsonb(%s())', found_job.runs) into result;
      outcome := 'DONE';
    exception when others then
      outcome := 'FAILED';
      error := format('%s (%s)', sqlerrm, sqlstate);
    end;
  end if;
  insert into private.job_runs (job, outcome, result, error, started_at)
  values (found_job.name, outcome, result, error, started)
  returning * into run;
  return to_jsonb(run);
end $$;
comment on function private.run_job(text) is
  'Runs a job unless it is running already, and returns the row that says how it went; an error does not come out of it.';
grant execute on function private.run_job(text), private.try_job_lock(text) to service_role, strive_functions;

create function private.schedule_jobs() returns bigint
language plpgsql set search_path = '' as $$
begin
  if to_regprocedure('cron.schedule(text,text,text)') is null then
    return 0;
  end if;
  -- Late-bound: cron is there only where pg_cron is. A schedule with the name of a job replaces the one before.
  return (
    select count(cron.schedule(j.name, j.schedule, format('select private.run_job(%L)', j.name))) from private.jobs j
  );
end $$;
comment on function private.schedule_jobs() is
  'Gives every job to pg_cron; call it again after enabling pg_cron. Safe to repeat; without pg_cron it does nothing.';

-- The jobs ------------------------------------------------------------------------------------------------------------

create function private.end_suspensions() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  ended bigint;
begin
  update public.users u set suspended_at = null, suspended_until = null, suspended_reason = null
  where u.suspended_until <= now();
  get diagnostics ended = row_count;
  return ended;
end $$;
comment on function private.end_suspensions() is
  'Tidies suspensions whose time has passed; they have not counted since (see current_user_id).';

-- A session for which a payment was ever started is kept: the money may still arrive.
create function private.expire_onboarding_sessions() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  gone bigint;
begin
  delete from public.onboarding_sessions s
  where s.expires_at <= now() - interval '7 days' and not s.is_completed
    and s.payment_status = 'PENDING' and s.payment_attempt = 0 and s.stripe_subscription_id is null;
  get diagnostics gone = row_count;
  return gone;
end $$;
comment on function private.expire_onboarding_sessions() is
  'Deletes onboarding sessions that expired a week ago without a payment; expired they are at once, by expires_at.';

create function private.redact_stripe_events() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  redacted bigint;
begin
  update public.stripe_events e set payload = null, redacted_at = now()
  where e.id in (
    select o.id from public.stripe_events o
    where o.redacted_at is null and o.created_at <= now() - interval '90 days' and o.status in ('APPLIED', 'IGNORED')
    order by o.created_at limit 10000 for update skip locked
  );
  get diagnostics redacted = row_count;
  return redacted;
end $$;
comment on function private.redact_stripe_events() is
  'Forgets what customers'' events said 90 days after they came; what was never applied is kept to be looked at.';

create function private.forget_job_runs() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  gone bigint;
begin
  delete from private.job_runs r where r.started_at < now() - interval '30 days';
  get diagnostics gone = row_count;
  return gone;
end $$;
comment on function private.forget_job_runs() is 'Deletes runs older than 30 days.';

grant execute on function private.end_suspensions(), private.expire_onboarding_sessions(), private.redact_stripe_events(),
  private.forget_job_runs() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('end_suspensions', '* * * * *', 'private.end_suspensions', 'Ends suspensions whose time has passed.'),
  ('roll_up_alert_counts', '*/5 * * * *', 'private.roll_up_alert_counts', 'Adds views and dismissals to their alerts.'),
  ('roll_up_tallies', '*/5 * * * *', 'private.roll_up_tallies', 'Adds uses, views and likes that were left behind.'),
  ('expire_onboarding_sessions', '27 * * * *', 'private.expire_onboarding_sessions',
    'Deletes onboarding sessions nobody came back to.'),
  ('redact_stripe_events', '37 * * * *', 'private.redact_stripe_events', 'Forgets what old events of Stripe said.'),
  ('forget_expired_keys', '7 * * * *', 'private.forget_expired_keys', 'Deletes expired idempotency keys.'),
  ('forget_job_runs', '17 3 * * *', 'private.forget_job_runs', 'Deletes runs older than 30 days.');

do $$ begin
  -- pg_cron works only in the database it was started for.
  if exists (select from pg_available_extensions where name = 'pg_cron')
    and current_setting('cron.database_name', true) = current_database() then
    create extension if not exists pg_cron with schema pg_catalog;
  end if;
  perform private.schedule_jobs();
end $$;
