-- CRM pipeline: when a deal was in which stage, what is expected of the coming months, and what each member is to reach.

-- Stage history -------------------------------------------------------------------------------------------------------

create table public.deal_stage_changes (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  deal_id uuid not null,
  from_stage "DealStage",
  to_stage "DealStage" not null,
  value numeric(12, 2) not null,
  changed_by uuid,
  changed_at timestamptz not null default clock_timestamp(),
  unique (organization_id, id),
  foreign key (organization_id, deal_id) references public.deals (organization_id, id) on delete cascade
);
comment on table public.deal_stage_changes is 'Every move of a deal, written by the database; deal_stages() shows the time in each stage.';
comment on column public.deal_stage_changes.organization_id is 'The organization of the deal.';
comment on column public.deal_stage_changes.deal_id is 'The deal that moved.';
comment on column public.deal_stage_changes.from_stage is 'Where it was; null: it was created.';
comment on column public.deal_stage_changes.to_stage is 'Where it went.';
comment on column public.deal_stage_changes.value is 'What the deal was worth then.';
comment on column public.deal_stage_changes.changed_by is 'Who moved it; null for the server.';
comment on column public.deal_stage_changes.changed_at is 'When it moved.';
create index deal_stage_changes_organization_idx on public.deal_stage_changes (organization_id, changed_at desc);
create index deal_stage_changes_deal_idx on public.deal_stage_changes (organization_id, deal_id, changed_at);

create function private.record_stage_change() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.deal_stage_changes (organization_id, deal_id, from_stage, to_stage, value, changed_by)
  values (
    new.organization_id, new.id, case when tg_op = 'UPDATE' then old.stage end, new.stage, new.value,
    (select u.id from public.users u where u.id = auth.uid())
  );
  return null;
end $$;
comment on function private.record_stage_change() is 'Writes every move of a deal.';
create trigger record_stage after insert on public.deals
  for each row when (coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.record_stage_change();
create trigger record_stage_change after update of stage on public.deals
  for each row when (new.stage <> old.stage) execute function private.record_stage_change();

alter table public.deal_stage_changes enable row level security;
create policy "members see moves of deals" on public.deal_stage_changes for select to authenticated
  using (organization_id = (select private.current_user_org()));
grant select on public.deal_stage_changes to authenticated;
grant all on public.deal_stage_changes to service_role;

create function public.deal_stages(deal_id uuid) returns table (
  stage "DealStage", entered_at timestamptz, left_at timestamptz, time_in_stage interval, moved_by uuid
) language sql stable set search_path = '' as $$
  select c.to_stage, c.changed_at, c.left_at, coalesce(c.left_at, now()) - c.changed_at, c.changed_by
  from (
    select s.*, lead(s.changed_at) over (order by s.changed_at, s.id) as left_at
    from public.deal_stage_changes s where s.deal_id = deal_stages.deal_id
  ) c
  order by c.changed_at, c.id
$$;
comment on function public.deal_stages(uuid) is 'The stages a deal went through, oldest first, with the time in each.';

create function public.stage_durations(since timestamptz default '-infinity') returns table (
  stage "DealStage", visits bigint, average interval, median interval
) language sql stable set search_path = '' as $$
  select c.to_stage, count(*), avg(c.spent), percentile_cont(0.5) within group (order by c.spent)
  from (
    select s.to_stage, s.changed_at,
      lead(s.changed_at) over (partition by s.deal_id order by s.changed_at, s.id) - s.changed_at as spent
    from public.deal_stage_changes s
  ) c
  where c.spent is not null and c.changed_at >= since
  group by c.to_stage order by c.to_stage
$$;
comment on function public.stage_durations(timestamptz) is
  'How long deals stayed in a stage before they left it; counts stages entered since the given time.';

-- Forecast ------------------------------------------------------------------------------------------------------------

create function public.forecast(months integer default 6, assigned_to_id uuid default null) returns table (
  month date, open_deals bigint, open_value numeric, weighted_value numeric, won_deals bigint, won_value numeric
) language plpgsql stable set search_path = '' as $$
#variable_conflict use_column
declare
  first constant date := date_trunc('month', now() at time zone 'UTC')::date;
begin
  if months is null or months not between 1 and 36 then
    raise exception 'months is 1 to 36' using errcode = 'PT400', detail = format('Found %s.', coalesce(months::text, 'null'));
  end if;
  return query
  select m.month, count(d.id) filter (where d.status = 'ACTIVE'),
    coalesce(sum(d.value) filter (where d.status = 'ACTIVE'), 0),
    coalesce(round(sum(d.value * d.probability) filter (where d.status = 'ACTIVE') / 100, 2), 0),
    count(d.id) filter (where d.status = 'WON'), coalesce(sum(d.value) filter (where d.status = 'WON'), 0)
  from (
    select (first + make_interval(months => n))::date as month from generate_series(0, months - 1) n
  ) m
  left join public.deals d on (forecast.assigned_to_id is null or d.assigned_to_id = forecast.assigned_to_id)
    and case d.status
      -- A deal whose expected close date has passed counts for this month.
      when 'ACTIVE' then greatest(date_trunc('month', d.expected_close_date at time zone 'UTC')::date, first) = m.month
      when 'WON' then date_trunc('month', d.actual_close_date at time zone 'UTC')::date = m.month
      else false
    end
  group by m.month order by m.month;
end $$;
comment on function public.forecast(integer, uuid) is
  'By month (UTC) from this one on: open deals expected to close, their value and that weighted by probability; won ones.';

create function public.lost_reasons_report(since timestamptz default '-infinity', until timestamptz default 'infinity')
returns table (reason text, lost_reason_id uuid, deals bigint, value numeric) language sql stable set search_path = '' as $$
  select coalesce(r.name, 'Other'), r.id, count(*), sum(d.value)
  from public.deals d left join public.lost_reasons r on r.id = d.lost_reason_id
  where d.stage = 'CLOSED_LOST' and d.actual_close_date >= since and d.actual_close_date < until
  group by r.name, r.id order by 3 desc, 1
$$;
comment on function public.lost_reasons_report(timestamptz, timestamptz) is
  'Why deals were lost in a period; reasons that are not in the list are Other.';

-- Goals ---------------------------------------------------------------------------------------------------------------

create table public.sales_goals (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  user_id uuid not null,
  month date not null constraint "month is the first day of a month" check (extract(day from month) = 1),
  measure text not null default 'WON_VALUE' constraint "measure is WON_VALUE, WON_DEALS, NEW_LEADS or ACTIVITIES"
    check (measure in ('WON_VALUE', 'WON_DEALS', 'NEW_LEADS', 'ACTIVITIES')),
  target numeric(14, 2) not null constraint "target is positive" check (target > 0),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "one goal for each member, month and measure" unique (organization_id, user_id, month, measure),
  constraint "user_id is a member of the organization" foreign key (user_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete cascade
);
comment on table public.sales_goals is 'What a member is to reach in a month; goals_report() shows how far they are.';
comment on column public.sales_goals.organization_id is 'The organization; by default the one the request acts in.';
comment on column public.sales_goals.user_id is 'The member.';
comment on column public.sales_goals.month is 'The first day of the month (UTC).';
comment on column public.sales_goals.measure is 'WON_VALUE, WON_DEALS, NEW_LEADS (assigned to them) or ACTIVITIES (by them).';
comment on column public.sales_goals.target is 'How much or how many.';
create index sales_goals_organization_idx on public.sales_goals (organization_id, created_at desc);
create index sales_goals_user_idx on public.sales_goals (user_id, organization_id);
create trigger touch before update on public.sales_goals for each row execute function private.touch_updated_at();

alter table public.sales_goals enable row level security;
create policy "members see goals" on public.sales_goals for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "admins set goals" on public.sales_goals for insert to authenticated
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins change goals" on public.sales_goals for update to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')))
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins delete goals" on public.sales_goals for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete, insert (organization_id, user_id, month, measure, target), update (month, measure, target)
  on public.sales_goals to authenticated;
grant all on public.sales_goals to service_role;

create function public.goals_report(month date default date_trunc('month', now() at time zone 'UTC')::date)
returns table (goal_id uuid, user_id uuid, measure text, target numeric, reached numeric, share numeric)
language plpgsql stable set search_path = '' as $$
#variable_conflict use_column
declare
  begins constant timestamptz := date_trunc('month', goals_report.month::timestamp) at time zone 'UTC';
  ends constant timestamptz := (date_trunc('month', goals_report.month::timestamp) + interval '1 month') at time zone 'UTC';
begin
  return query
  select g.id, g.user_id, g.measure, g.target, r.reached, round(r.reached / g.target, 4)
  from public.sales_goals g
  cross join lateral (
    select case g.measure
      when 'NEW_LEADS' then (
        select count(*)::numeric from public.leads l
        where l.assigned_to_id = g.user_id and l.created_at >= begins and l.created_at < ends)
      when 'ACTIVITIES' then (
        select count(*)::numeric from public.activities a
        where a.created_by_id = g.user_id and a.type <> 'NOTE' and a.created_at >= begins and a.created_at < ends)
      else (
        select coalesce(case g.measure when 'WON_VALUE' then sum(d.value) else count(*) end, 0) from public.deals d
        where d.assigned_to_id = g.user_id and d.status = 'WON' and d.actual_close_date >= begins
          and d.actual_close_date < ends)
    end as reached
  ) r
  where g.month = begins at time zone 'UTC'
  order by g.user_id, g.measure;
end $$;
comment on function public.goals_report(date) is
  'The goals of a month with what is reached so far; share 1 is the whole goal.';

grant execute on function public.deal_stages(uuid), public.stage_durations(timestamptz), public.forecast(integer, uuid),
  public.lost_reasons_report(timestamptz, timestamptz), public.goals_report(date)
  to authenticated, service_role;
