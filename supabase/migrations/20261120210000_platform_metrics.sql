-- Platform metrics: the platform on each day (UTC). The job counts a day every hour while it lasts and once more after its
-- end; that count stays. A count more than an hour after the end is an estimate, since rows that were deleted or changed
-- meanwhile are missing: the next count may replace it.

create table public.platform_metrics (
  id uuid primary key default gen_random_uuid(),
  date date not null unique default (now() at time zone 'UTC')::date,
  total_users integer not null default 0,
  active_users integer not null default 0,
  new_users integer not null default 0,
  total_orgs integer not null default 0,
  active_orgs integer not null default 0,
  new_orgs integer not null default 0,
  mrr_cents bigint default 0,
  arr_cents bigint default 0,
  mrr_currency text not null default 'usd',
  churn_rate double precision not null default 0,
  free_count integer not null default 0,
  starter_count integer not null default 0,
  growth_count integer not null default 0,
  elite_count integer not null default 0,
  enterprise_count integer not null default 0,
  total_storage bigint not null default 0,
  api_calls bigint not null default 0,
  created_at timestamptz not null default now(),
  measured_at timestamptz not null default now(),
  is_estimated boolean not null generated always as
    (measured_at at time zone 'UTC' > (date + 1)::timestamp + interval '1 hour') stored,
  constraint "metrics are not negative" check (
    least(total_users, active_users, new_users, total_orgs, active_orgs, new_orgs, mrr_cents, arr_cents, churn_rate,
      free_count, starter_count, growth_count, elite_count, enterprise_count, total_storage, api_calls) >= 0
  )
);
comment on table public.platform_metrics is 'Users, organizations and revenue of the platform, one row per UTC day.';
comment on column public.platform_metrics.active_users is 'Signed in within the last 30 days.';
comment on column public.platform_metrics.active_orgs is 'With a member who signed in within the last 30 days.';
comment on column public.platform_metrics.mrr_cents is
  'Net monthly amount of ACTIVE and PAST_DUE subscriptions in all currencies, added up in the reporting currency. Null: a '
  'currency has no rate in private.reporting_rates; platform_revenue has each currency by itself.';
comment on column public.platform_metrics.mrr_currency is 'The reporting currency of mrr_cents and arr_cents.';
comment on column public.platform_metrics.arr_cents is 'mrr_cents × 12.';
comment on column public.platform_metrics.churn_rate is
  'Customers of 30 days before who pay nothing now, per customers of 30 days before: 0.05 is 5 %. 0 without any.';
comment on column public.platform_metrics.free_count is 'Organizations of this tier; so the other four.';
comment on column public.platform_metrics.total_storage is 'Bytes of the attachments of all organizations, as metered (STORAGE).';
comment on column public.platform_metrics.api_calls is 'Calls of this day, as metered (API_CALLS).';
comment on column public.platform_metrics.measured_at is 'When it was counted. Before the end of the day: the day so far.';
comment on column public.platform_metrics.is_estimated is
  'Counted more than an hour after the day: what was deleted or changed since is missing, prices are those of then.';

alter table public.platform_metrics enable row level security;
create policy "platform admins read the metrics" on public.platform_metrics for select to authenticated
  using ((select private.is_admin()));
grant select on public.platform_metrics to authenticated;
grant all on public.platform_metrics to service_role;

-- Signing in overwrites users.last_login_at; this keeps who was active on which day.
create table private.sign_in_days (
  user_id uuid not null references public.users (id) on delete cascade,
  day date not null,
  first_at timestamptz not null,
  last_at timestamptz not null,
  primary key (user_id, day),
  constraint "last_at is not before first_at" check (last_at >= first_at)
);
comment on table private.sign_in_days is 'On which days (UTC) a user signed in, first and last.';
create index sign_in_days_day_idx on private.sign_in_days (day, user_id);

create function private.record_sign_in() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.sign_in_days as d (user_id, day, first_at, last_at)
  values (new.id, (new.last_login_at at time zone 'UTC')::date, new.last_login_at, new.last_login_at)
  on conflict (user_id, day) do update set
    first_at = least(d.first_at, excluded.first_at), last_at = greatest(d.last_at, excluded.last_at);
  return null;
end $$;
comment on function private.record_sign_in() is 'Remembers the day of a sign-in.';
create trigger record_sign_in after insert on public.users
  for each row when (new.last_login_at is not null) execute function private.record_sign_in();
create trigger record_another_sign_in after update of last_login_at on public.users
  for each row when (new.last_login_at is distinct from old.last_login_at and new.last_login_at is not null)
  execute function private.record_sign_in();

insert into private.sign_in_days (user_id, day, first_at, last_at)
select u.id, (u.last_login_at at time zone 'UTC')::date, u.last_login_at, u.last_login_at
from public.users u where u.last_login_at is not null;

create function private.end_of_day(day date) returns timestamptz
language plpgsql immutable set search_path = '' as $$
begin
  return (day + 1)::timestamp at time zone 'UTC';
end $$;
comment on function private.end_of_day(date) is 'The first moment after a day (UTC).';

create function private.measure_platform(day date, as_of timestamptz) returns public.platform_metrics
language plpgsql stable set search_path = '' as $$
declare
  measured public.platform_metrics;
  begins timestamptz := private.end_of_day(day - 1);
  month_before timestamptz := as_of - interval '720 hours';
begin
  measured.date := day;
  measured.measured_at := now();
  select count(*), count(*) filter (where u.created_at >= begins) into measured.total_users, measured.new_users
  from public.users u where u.created_at < as_of;
  with active as materialized (
    select distinct d.user_id from private.sign_in_days d
    where d.day between (month_before at time zone 'UTC')::date and (as_of at time zone 'UTC')::date
      and d.last_at >= month_before and d.first_at < as_of
  )
  select (select count(*) from active), (
    select count(distinct m.organization_id) from active a
    join public.organization_members m on m.user_id = a.user_id and m.joined_at < as_of
    join public.organizations o on o.id = m.organization_id and o.created_at < as_of
  ) into measured.active_users, measured.active_orgs;
  select count(*), count(*) filter (where o.created_at >= begins),
    count(*) filter (where o.subscription_tier = 'FREE'), count(*) filter (where o.subscription_tier = 'STARTER'),
    count(*) filter (where o.subscription_tier = 'GROWTH'), count(*) filter (where o.subscription_tier = 'ELITE'),
    count(*) filter (where o.subscription_tier = 'ENTERPRISE')
  into measured.total_orgs, measured.new_orgs, measured.free_count, measured.starter_count, measured.growth_count,
    measured.elite_count, measured.enterprise_count
  from public.organizations o where o.created_at < as_of;
  select case when bool_and(r.rate is not null) is false then null else coalesce(round(sum(p.monthly_amount * r.rate)), 0) end
  into measured.mrr_cents
  from private.paying_before(as_of) p left join private.reporting_rates r on r.currency = p.currency;
  select coalesce((select r.currency from private.reporting_rates r where r.is_reporting), 'usd') into measured.mrr_currency;
  select coalesce(
    count(*) filter (where b.organization_id not in (select p.organization_id from private.paying_before(as_of) p))::float8
    / nullif(count(*), 0), 0
  ) into measured.churn_rate
  from (select distinct p.organization_id from private.paying_before(month_before) p) b;
  measured.arr_cents := measured.mrr_cents * 12;
  select coalesce(sum(m.usage_amount) filter (where m.resource_type = 'STORAGE'), 0),
    coalesce(sum(m.usage_amount) filter (where m.resource_type = 'API_CALLS'), 0)
  into measured.total_storage, measured.api_calls
  from private.metered m where m.day = measure_platform.day and m.resource_type in ('STORAGE', 'API_CALLS');
  return measured;
end $$;
comment on function private.measure_platform(date, timestamptz) is
  'The metrics of a day as they were at a moment of it, by what is known now.';

create function private.record_platform_metrics(day date) returns boolean
language plpgsql security definer set search_path = '' as $$
declare
  measured public.platform_metrics;
begin
  if day is null or day > (now() at time zone 'UTC')::date then
    raise exception 'A day that has not begun has no metrics' using errcode = 'PT422', detail = format('Found %s.', day);
  end if;
  if exists (
    select from public.platform_metrics p
    where p.date = day and p.measured_at >= private.end_of_day(day) and not p.is_estimated
  ) then
    return false;
  end if;
  perform private.roll_up_usage(), private.measure_usage(day);
  measured := private.measure_platform(day, least(now(), private.end_of_day(day)));
  insert into public.platform_metrics as p (
    date, total_users, active_users, new_users, total_orgs, active_orgs, new_orgs, mrr_cents, arr_cents,
    mrr_currency, churn_rate, free_count, starter_count, growth_count, elite_count, enterprise_count, total_storage,
    api_calls, measured_at
  ) values (
    measured.date, measured.total_users, measured.active_users, measured.new_users, measured.total_orgs,
    measured.active_orgs, measured.new_orgs, measured.mrr_cents, measured.arr_cents, measured.mrr_currency, measured.churn_rate,
    measured.free_count, measured.starter_count, measured.growth_count, measured.elite_count,
    measured.enterprise_count, measured.total_storage, measured.api_calls, measured.measured_at
  )
  on conflict (date) do update set
    total_users = excluded.total_users, active_users = excluded.active_users, new_users = excluded.new_users,
    total_orgs = excluded.total_orgs, active_orgs = excluded.active_orgs, new_orgs = excluded.new_orgs,
    mrr_cents = excluded.mrr_cents, arr_cents = excluded.arr_cents, mrr_currency = excluded.mrr_currency,
    churn_rate = excluded.churn_rate,
    free_count = excluded.free_count, starter_count = excluded.starter_count, growth_count = excluded.growth_count,
    elite_count = excluded.elite_count, enterprise_count = excluded.enterprise_count,
    total_storage = excluded.total_storage, api_calls = excluded.api_calls, measured_at = excluded.measured_at
  -- Of two concurrent counts, the later one is kept.
  where p.measured_at <= excluded.measured_at;
  perform private.record_revenue(day, least(now(), private.end_of_day(day)));
  return true;
end $$;
comment on function private.record_platform_metrics(date) is
  'Writes the row of a day; false if the day was already counted after its end.';

create function private.refresh_platform_metrics() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  today date := (now() at time zone 'UTC')::date;
  written bigint;
begin
  select count(*) filter (where private.record_platform_metrics(today - n)) into written
  from generate_series(coalesce(today - (select max(p.date) from public.platform_metrics p), 0), 0, -1) n;
  return written;
end $$;
comment on function private.refresh_platform_metrics() is
  'Writes today''s row and those since the last there is; returns how many. Safe to repeat.';
grant execute on function private.record_platform_metrics(date), private.refresh_platform_metrics()
  to service_role, strive_functions;

-- Soon after midnight, so that the day before is counted within the hour.
insert into private.jobs (name, schedule, runs, description) values
  ('refresh_platform_metrics', '1 * * * *', 'private.refresh_platform_metrics', 'Count the platform metrics of today.');
