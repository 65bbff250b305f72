-- Jobs: scheduled work. pg_cron runs a job where it is installed; elsewhere an external scheduler calls its HTTP
-- function. Schedulers may fire twice or late, so only one run of a job works at a time, and every run has a row from
-- the moment it starts.

-- Supports the forms of a crontab line that are used here: every minute, every n minutes, at a minute of every hour, at
-- a time of every day or of a weekday (0 is Sunday). Null for others.
create function private.next_due(schedule text, after timestamptz) returns timestamptz
language plpgsql immutable set search_path = '' as $$
declare
  fields text[] := regexp_match(schedule, '^(?:\*(?:/(\d+))?|(\d+)) (?:\*|(\d+)) \* \* (?:\*|([0-6]))$');
  step integer := case when fields[2] is null then coalesce(fields[1], '1')::integer end;
  at_minute integer := coalesce(fields[2], '0')::integer;
  at_hour integer := coalesce(fields[3], '0')::integer;
  every interval;
begin
  -- Hours instead of days, because days differ in length where clocks are changed.
  every := case
    when fields is null or at_minute > 59 or at_hour > 23 then null
    when fields[3] is null then case
      when fields[4] is not null then null
      when step is null then interval '60 minutes'
      when step between 1 and 30 and 60 % step = 0 then make_interval(mins => step)
    end
    when step is not null then null
    else make_interval(hours => case when fields[4] is null then 24 else 168 end)
  end;
  return date_bin(every, after, timestamptz '2000-01-02 00:00+00' + make_interval(
    hours => 24 * coalesce(fields[4], '0')::integer + at_hour, mins => at_minute
  )) + every;
end $$;
comment on function private.next_due(text, timestamptz) is 'When (UTC) a crontab line is due for the first time after a moment.';

create table private.jobs (
  name text primary key constraint "a job is named in lower-case words" check (name ~ '^[a-z]+(_[a-z]+)*$'),
  schedule text not null
    constraint "schedule is a crontab line that next_due() can read" check (private.next_due(schedule, 'epoch') is not null),
  runs text,
  description text not null,
  created_at timestamptz not null default now(),
  alert_id uuid references public.system_alerts (id) on delete set null
);
comment on table private.jobs is 'Every job there is. Only these can be run.';
comment on column private.jobs.schedule is 'When it runs (UTC), as a crontab line.';
comment on column private.jobs.runs is
  'The function, called without arguments; its result is stored. Null: the job runs in its HTTP function.';
comment on column private.jobs.alert_id is 'The alert while it is overdue.';
create index jobs_alert_idx on private.jobs (alert_id);

create type private."JobOutcome" as enum ('RUNNING', 'DONE', 'SKIPPED', 'FAILED');
comment on type private."JobOutcome" is
  'SKIPPED: another run was running. FAILED: rolled back as far as it was one transaction; see error.';

create table private.job_runs (
  id uuid primary key default gen_random_uuid(),
  job text not null references private.jobs (name) on delete cascade,
  outcome private."JobOutcome" not null default 'RUNNING',
  result jsonb,
  error text,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  constraint "error is set exactly when a job FAILED" check ((outcome = 'FAILED') = (error is not null)),
  constraint "finished_at is set unless a job is RUNNING" check ((outcome = 'RUNNING') = (finished_at is null)),
  constraint "finished_at is not before started_at" check (finished_at >= started_at)
);
comment on table private.job_runs is
  'One row for every run of the last 30 days. private.job_history shows a run whose process died as FAILED.';
create index job_runs_job_idx on private.job_runs (job, started_at desc);
create index job_runs_started_at_idx on private.job_runs (started_at);

-- The lock ------------------------------------------------------------------------------------------------------------
-- A run holds the lock of its job in a transaction until it ends. If its process dies, the connection closes and the
-- lock is free: a RUNNING row without a lock is a dead run, unless it is so new that it may not have its lock yet.

create function private.job_lock(job text) returns bigint
language plpgsql immutable set search_path = '' as $$
begin
  return hashtextextended('job:' || job, 0);
end $$;
comment on function private.job_lock(text) is 'The number of a job''s advisory lock.';

create function private.try_job_lock(job text) returns boolean
language plpgsql set search_path = '' as $$
begin
  return pg_try_advisory_xact_lock(private.job_lock(job));
end $$;
comment on function private.try_job_lock(text) is
  'Takes the lock of a job until the transaction ends; false while another transaction holds it.';

create function private.is_job_dead(run private.job_runs) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return run.outcome = 'RUNNING' and run.started_at < clock_timestamp() - interval '10 seconds' and not exists (
    select from pg_locks l
    where l.locktype = 'advisory' and l.granted and l.objsubid = 1
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and (l.classid::bigint << 32 | l.objid::bigint) = private.job_lock(run.job)
  );
end $$;
comment on function private.is_job_dead(private.job_runs) is 'Whether the process of a RUNNING run has died.';

-- Running -------------------------------------------------------------------------------------------------------------

create function private.start_run(job text, held boolean default null) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
  started timestamptz := clock_timestamp();
  run uuid;
begin
  if not exists (select from private.jobs j where j.name = start_run.job) then
    raise exception 'There is no such job' using
      errcode = 'PT404', detail = format('Found %L.', left(start_run.job, 100)),
      hint = format('Jobs are: %s.', (select string_agg(j.name, ', ' order by j.name) from private.jobs j));
  end if;
  if not coalesce(held, private.try_job_lock(start_run.job)) then
    insert into private.job_runs (job, outcome, started_at, finished_at)
    values (start_run.job, 'SKIPPED', started, started) returning id into run;
    return run;
  end if;
  update private.job_runs r
  set outcome = 'FAILED', error = 'Its process died.', finished_at = clock_timestamp()
  where r.job = start_run.job and r.outcome = 'RUNNING' and r.started_at < started - interval '10 seconds';
  insert into private.job_runs (job, started_at) values (start_run.job, started) returning id into run;
  return run;
end $$;
comment on function private.start_run(text, boolean) is
  'Inserts the row of a run that starts or is skipped. held: whether the caller has the lock, in another transaction.';

create function private.end_run(run uuid, outcome private."JobOutcome", result jsonb, error text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  ended private.job_runs;
begin
  update private.job_runs r
  set outcome = end_run.outcome, result = end_run.result, error = end_run.error, finished_at = clock_timestamp()
  where r.id = run and r.outcome = 'RUNNING' returning r.* into ended;
  if not found then
    raise exception 'This run has already ended' using
      errcode = 'PT409', detail = format('Run %s.', run), hint = 'Its lock was lost; the next run repeats the work.';
  end if;
  if ended.outcome = 'DONE' then
    perform private.clear_overdue(ended.job);
  end if;
  perform private.raise_overdue();
  return to_jsonb(ended);
end $$;
comment on function private.end_run(uuid, private."JobOutcome", jsonb, text) is
  'Stores the outcome of a run, clears the alert of its job if DONE, and raises alerts for overdue jobs.';

create function private.perform_run(run uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  found_run private.job_runs;
  work text;
  result jsonb;
begin
  select r.* into found_run from private.job_runs r where r.id = run;
  if found_run.outcome <> 'RUNNING' then
    return to_jsonb(found_run);
  end if;
  if not private.try_job_lock(found_run.job) then
    return private.end_run(run, 'SKIPPED', null, null);
  end if;
  select j.runs into work from private.jobs j where j.name = found_run.job;
  begin
    if work is null then
      raise exception 'This job runs in its HTTP function' using errcode = 'PT409';
    end if;
    execute format('select to_jsonb(%s())', work) into result;
  exception when others or query_canceled then
    return private.end_run(run, 'FAILED', null, format('%s (%s)', sqlerrm, sqlstate));
  end;
  return private.end_run(run, 'DONE', result, null);
end $$;
comment on function private.perform_run(uuid) is
  'Runs the job of a started run and returns its row; an error is stored there, not raised.';

-- Overdue -------------------------------------------------------------------------------------------------------------

create type public.job_state as (
  name text, description text, schedule text, is_running boolean, last_run_at timestamptz, last_outcome text,
  last_result jsonb, last_error text, last_done_at timestamptz, due_at timestamptz, is_overdue boolean
);
comment on type public.job_state is 'The state of a job.';

create function private.job_states() returns setof public.job_state
language plpgsql stable set search_path = '' as $$
begin
  return query
    select j.name, j.description, j.schedule, coalesce(last.outcome = 'RUNNING' and not last.is_dead, false),
      last.started_at, case when last.is_dead then 'FAILED' else last.outcome::text end, last.result,
      case when last.is_dead then 'Its process died.' else last.error end, done.started_at, due.due_at,
      clock_timestamp() > due.due_at
        + greatest(interval '10 minutes', (private.next_due(j.schedule, due.due_at) - due.due_at) / 4)
    from private.jobs j
    left join lateral (
      select r.*, private.is_job_dead(r) as is_dead from private.job_runs r
      where r.job = j.name and r.outcome <> 'SKIPPED' order by r.started_at desc limit 1
    ) last on true
    left join lateral (
      select r.started_at from private.job_runs r
      where r.job = j.name and r.outcome = 'DONE' order by r.started_at desc limit 1
    ) done on true
    cross join lateral (
      select private.next_due(j.schedule, coalesce(done.started_at, j.created_at)) as due_at
    ) due;
end $$;
comment on function private.job_states() is
  'The state of each job. It is due at the first time of its schedule after the last run that was DONE, and overdue '
  'ten minutes later, or a quarter of the time between two runs if that is more.';

create function private.raise_overdue() returns bigint
language plpgsql set search_path = '' as $$
declare
  late record;
  alert uuid;
  raised bigint := 0;
begin
  for late in select s.* from private.job_states() s join private.jobs j using (name)
    where s.is_overdue and j.alert_id is null order by s.name
  loop
    -- A concurrent call finds the alert of the first.
    perform from private.jobs j where j.name = late.name and j.alert_id is null for update skip locked;
    continue when not found;
    insert into public.system_alerts (title, message, level, category, target_roles, created_by)
    values (
      format('The job %s is overdue', late.name),
      concat_ws(' ', late.description, format('It was due at %s UTC.', to_char(late.due_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')),
        'The last error: ' || left(late.last_error, 1000)),
      'ERROR', 'SYSTEM', '{ADMIN,SUPER_ADMIN}', null
    ) returning id into alert;
    update private.jobs j set alert_id = alert where j.name = late.name;
    raised := raised + 1;
  end loop;
  return raised;
end $$;
comment on function private.raise_overdue() is 'Alerts the platform''s admins of every job that has become overdue, once.';

create function private.clear_overdue(job text) returns void
language plpgsql set search_path = '' as $$
declare
  alert uuid;
begin
  select j.alert_id into alert from private.jobs j where j.name = clear_overdue.job and j.alert_id is not null for update;
  if found then
    update private.jobs j set alert_id = null where j.name = clear_overdue.job;
    update public.system_alerts a set is_active = false where a.id = alert;
  end if;
end $$;
comment on function private.clear_overdue(text) is 'Deactivates the alert of a job that is no longer overdue.';

-- Seen ----------------------------------------------------------------------------------------------------------------

create view private.job_overview with (security_invoker = true) as
  select * from private.job_states() order by is_overdue desc, name;
comment on view private.job_overview is 'The state of each job, overdue ones first: for the Supabase dashboard.';

create view private.job_history with (security_invoker = true) as
  select r.id, r.job, case when private.is_job_dead(r) then 'FAILED' else r.outcome::text end as outcome, r.result,
    case when private.is_job_dead(r) then 'Its process died.' else r.error end as error, r.started_at, r.finished_at,
    r.finished_at - r.started_at as took
  from private.job_runs r;
comment on view private.job_history is 'The runs of the last 30 days, dead ones as FAILED: for the Supabase dashboard.';

create function private.require_operator() returns void
language plpgsql stable set search_path = '' as $$
begin
  -- The database role, not the role claim of the token.
  if not private.is_operator() and current_setting('role') <> 'service_role' then
    raise exception 'Only platform admins can do this' using
      errcode = '42501', hint = 'Ask an administrator of the platform.';
  end if;
end $$;
comment on function private.require_operator() is '42501 unless the caller is a platform admin, the SQL editor or the server itself.';

create function private.list_jobs() returns setof private.job_overview
language plpgsql stable security definer set search_path = '' as $$
begin
  perform private.require_operator();
  return query select o.* from private.job_overview o;
end $$;
comment on function private.list_jobs() is 'Does the work of public.job_overview().';

create function public.job_overview() returns setof public.job_state
language sql stable set search_path = '' as 'select * from private.list_jobs()';
comment on function public.job_overview() is
  'For platform admins: every job, how its last run went, when it is due and whether it is overdue; these come first.';

create type public.job_run as (
  id uuid, job_name text, outcome text, result jsonb, error text, started_at timestamptz, finished_at timestamptz
);
comment on type public.job_run is 'A run of a job.';

create function private.list_job_runs(job text, before timestamptz, before_id uuid, page_size integer)
returns setof public.job_run language plpgsql stable security definer set search_path = '' as $$
begin
  perform private.require_operator();
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  end if;
  return query
    select h.id, h.job, h.outcome, h.result, h.error, h.started_at, h.finished_at from private.job_history h
    where (list_job_runs.job is null or h.job = list_job_runs.job) and (h.started_at, h.id) < (before, before_id)
    order by h.started_at desc, h.id desc limit page_size;
end $$;
comment on function private.list_job_runs(text, timestamptz, uuid, integer) is 'Does the work of public.job_runs().';

create function public.job_runs(
  job text default null, before timestamptz default 'infinity',
  before_id uuid default 'ffffffff-ffff-ffff-ffff-ffffffffffff', page_size integer default 50
) returns setof public.job_run
language sql stable set search_path = '' as 'select * from private.list_job_runs(job, before, before_id, page_size)';
comment on function public.job_runs(text, timestamptz, uuid, integer) is
  'For platform admins: the newest runs, of one job or all; for the next page give started_at and id of the last one.';

grant execute on function private.require_operator(), private.list_jobs(), public.job_overview(),
  private.list_job_runs(text, timestamptz, uuid, integer), public.job_runs(text, timestamptz, uuid, integer)
  to authenticated, service_role;
grant execute on function private.try_job_lock(text), private.job_lock(text), private.start_run(text, boolean),
  private.end_run(uuid, private."JobOutcome", jsonb, text), private.perform_run(uuid)
  to strive_functions;

-- pg_cron -------------------------------------------------------------------------------------------------------------

create function private.call_job(job text) returns bigint
language plpgsql set search_path = '' as $$
declare
  address text;
  key text;
  request bigint;
begin
  execute 'select max(s.decrypted_secret) filter (where s.name = $1), max(s.decrypted_secret) filter (where s.name = $2)'
    ' from vault.decrypted_secrets s' into address, key using 'functions_url', 'functions_secret_key';
  if address is null or key is null then
    raise exception 'functions_url or functions_secret_key is not in the vault' using
      errcode = 'PT409', detail = format('%s runs in its HTTP function.', job),
      hint = 'Store both in the vault, see docs/operations.md.';
  end if;
  execute 'select net.http_post(url := $1, body := $2, headers := $3, timeout_milliseconds := 900000)'
    into request using format('%s/%s', address, replace(job, '_', '-')), jsonb '{}',
    jsonb_build_object('content-type', 'application/json', 'apikey', key);
  return request;
end $$;
comment on function private.call_job(text) is
  'Lets pg_net call the HTTP function of a job, with the URL and the key from the vault.';

create function private.start_job(job text) returns void
language plpgsql security definer set search_path = '' as $$
begin
  -- A run of the schedule may have ended just before there was work, so it does not count.
  if (
    select bool_or(r.outcome = 'RUNNING') or count(*) > 1 from private.job_runs r
    where r.job = start_job.job and (r.outcome = 'RUNNING' or r.started_at > clock_timestamp() - interval '10 seconds')
  ) then
    return;
  end if;
  perform pg_notify('strive_jobs', job);
  if to_regclass('vault.decrypted_secrets') is not null then
    begin
      perform private.call_job(job);
    exception when sqlstate 'PT409' then  -- the vault has no key of the functions: an external scheduler runs the jobs
    end;
  end if;
end $$;
comment on function private.start_job(text) is
  'Starts a job of an HTTP function before its next scheduled run, at most twice in ten seconds. Best effort; the schedule '
  'runs it anyway.';

create function private.schedule_jobs() returns bigint
language plpgsql set search_path = '' as $$
begin
  if to_regprocedure('cron.schedule(text,text,text)') is null then
    return 0;
  end if;
  -- plpgsql resolves cron.schedule when it runs, so this function also exists without pg_cron. A schedule replaces an
  -- earlier one of the same name. The row of a run is committed before its work begins.
  return (
    select count(cron.schedule(j.name, j.schedule, case
      when j.runs is null then format('select private.call_job(%L)', j.name)
      else format('do $job$ declare run uuid := private.start_run(%L);'
        ' begin commit; perform private.perform_run(run); end $job$', j.name)
    end))
    from private.jobs j
  );
end $$;
comment on function private.schedule_jobs() is
  'Gives every job to pg_cron; call it again after enabling pg_cron. Safe to repeat; without pg_cron it does nothing.';

-- Jobs of this chapter and those before it ----------------------------------------------------------------------------

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
grant execute on function private.forget_job_runs() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('forget_expired_keys', '7 * * * *', 'private.forget_expired_keys', 'Delete expired idempotency keys.'),
  ('roll_up_alert_counts', '*/5 * * * *', 'private.roll_up_alert_counts', 'Add views and dismissals to their alerts.'),
  ('keep_months', '37 2 * * *', 'private.keep_months', 'Add the next months of the activity log and archive old ones.'),
  ('forget_job_runs', '17 3 * * *', 'private.forget_job_runs', 'Delete runs of jobs older than 30 days.');
