-- System alerts: announcements of the platform to all users or some of them.

create type "AlertLevel" as enum ('INFO', 'WARNING', 'ERROR', 'SUCCESS');
comment on type "AlertLevel" is 'How a system alert is shown.';
create type "AlertCategory" as enum ('SYSTEM', 'MAINTENANCE', 'FEATURE', 'SECURITY', 'BILLING', 'MARKETING');
comment on type "AlertCategory" is 'What a system alert is about.';

create table public.system_alerts (
  id uuid primary key default gen_random_uuid(),
  title text not null constraint "title is 1 to 255 characters" check (length(title) between 1 and 255),
  message text not null constraint "message is 1 to 5000 characters" check (length(message) between 1 and 5000),
  level "AlertLevel" not null default 'INFO',
  category "AlertCategory" not null,
  is_global boolean not null default false,
  target_roles "UserRole"[] not null default '{}'
    constraint "target_roles has no null" check (array_position(target_roles, null) is null),
  target_tiers "SubscriptionTier"[] not null default '{}'
    constraint "target_tiers has no null" check (array_position(target_tiers, null) is null),
  target_orgs uuid[] not null default '{}'
    constraint "target_orgs has no null" check (array_position(target_orgs, null) is null),
  target_users uuid[] not null default '{}'
    constraint "target_users has no null" check (array_position(target_users, null) is null),
  is_dismissible boolean not null default true,
  auto_hide_after integer constraint "auto_hide_after is more than 0 seconds" check (auto_hide_after > 0),
  starts_at timestamptz not null default now(),
  ends_at timestamptz,
  view_count integer not null default 0 constraint "view_count is not negative" check (view_count >= 0),
  dismiss_count integer not null default 0 constraint "dismiss_count is not negative" check (dismiss_count >= 0),
  is_active boolean not null default true,
  is_archived boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  created_by uuid default auth.uid() references public.users (id) on delete cascade,
  constraint "ends_at is after starts_at" check (ends_at > starts_at)
);
comment on table public.system_alerts is
  'Announcements to all users or some of them. Only platform admins read this table; everybody else calls '
  'active_alerts().';
comment on column public.system_alerts.is_global is
  'True: for everyone. False: for those whom one of the target lists names.';
comment on column public.system_alerts.auto_hide_after is 'Seconds after which a client hides it.';
comment on column public.system_alerts.created_by is 'Null: the platform itself.';
comment on column public.system_alerts.view_count is 'Users who saw it, rolled up from private.system_alert_tallies.';
comment on column public.system_alerts.dismiss_count is 'Users who dismissed it; rolled up like view_count.';
create index system_alerts_is_active_idx on public.system_alerts (is_active);
create index system_alerts_category_idx on public.system_alerts (category);
create index system_alerts_time_idx on public.system_alerts (starts_at, ends_at);
create index system_alerts_created_by_idx on public.system_alerts (created_by);
-- Without the counters: rolling them up is not a change made by a person.
create trigger touch before update of title, message, level, category, is_global, target_roles, target_tiers,
  target_orgs, target_users, is_dismissible, auto_hide_after, starts_at, ends_at, is_active, is_archived, created_by
  on public.system_alerts for each row execute function private.touch_updated_at();
create trigger audit_change after insert or delete or update of title, message, level, category, is_global,
  target_roles, target_tiers, target_orgs, target_users, is_dismissible, auto_hide_after, starts_at, ends_at, is_active,
  is_archived, created_by
  on public.system_alerts for each row
  execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'system_alert', 'title');

create table public.system_alert_dismissals (
  alert_id uuid not null references public.system_alerts (id) on delete cascade,
  user_id uuid not null default auth.uid() references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (alert_id, user_id)
);
comment on table public.system_alert_dismissals is 'Who dismissed which alert.';
create index system_alert_dismissals_user_idx on public.system_alert_dismissals (user_id);

create table public.system_alert_views (
  alert_id uuid not null references public.system_alerts (id) on delete cascade,
  user_id uuid not null default auth.uid() references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (alert_id, user_id)
);
comment on table public.system_alert_views is 'Who saw which alert.';
create index system_alert_views_user_idx on public.system_alert_views (user_id);

create table private.system_alert_tallies (
  id bigint generated always as identity primary key,
  alert_id uuid not null,
  views integer not null,
  dismissals integer not null
);
comment on table private.system_alert_tallies is 'Views and dismissals not yet added to their alert.';
create index system_alert_tallies_alert_idx on private.system_alert_tallies (alert_id);

-- Counting appends a tally. A transaction rolls up the tallies of its alert unless another is doing so; none waits, so
-- a tally appended meanwhile is added by the next view, dismissal or run of the job. One statement deletes the tallies
-- and adds them, so none is lost or counted twice.
create function private.roll_up_alert_counts(only_alert uuid default null) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  alert uuid;
  rolled bigint := 0;
  now_rolled bigint;
begin
  for alert in
    select distinct t.alert_id from private.system_alert_tallies t
    where only_alert is null or t.alert_id = only_alert order by 1
  loop
    continue when not pg_try_advisory_xact_lock(hashtextextended('system_alert_tallies:' || alert, 0));
    with counted as (
      delete from private.system_alert_tallies t where t.alert_id = alert returning t.views, t.dismissals
    ), total as (
      select count(*) as tallies, coalesce(sum(c.views), 0) as views, coalesce(sum(c.dismissals), 0) as dismissals
      from counted c
    ), added as (
      update public.system_alerts a
      set view_count = a.view_count + t.views, dismiss_count = a.dismiss_count + t.dismissals
      from total t where a.id = alert and t.tallies > 0
    )
    select t.tallies into now_rolled from total t;
    rolled := rolled + now_rolled;
  end loop;
  return rolled;
end $$;
comment on function private.roll_up_alert_counts(uuid) is
  'Adds the tallies to the counters of their alerts; safe to run concurrently. Returns how many were added.';
grant execute on function private.roll_up_alert_counts(uuid) to service_role;

create function private.tally_alert() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.system_alert_tallies (alert_id, views, dismissals)
  values (new.alert_id, (tg_argv[0] = 'view')::integer, (tg_argv[0] = 'dismissal')::integer);
  perform private.roll_up_alert_counts(new.alert_id);
  return null;
end $$;
comment on function private.tally_alert() is 'Counts a view or a dismissal.';
create trigger tally_alert after insert on public.system_alert_dismissals
  for each row execute function private.tally_alert('dismissal');
create trigger tally_alert after insert on public.system_alert_views
  for each row execute function private.tally_alert('view');

create function private.current_global_role() returns "UserRole"
language plpgsql stable security definer set search_path = '' as $$
begin
  return (select u.global_role from public.users u where u.id = private.current_user_id());
end $$;
comment on function private.current_global_role() is 'Role of the caller on the platform; null without a user.';
grant execute on function private.current_global_role() to authenticated, service_role;

-- A row of system_alerts lists its recipients: organizations and users. So only platform admins read the table;
-- everybody else gets their own alerts without these lists.
create function private.alerts_for_me() returns setof public.system_alerts
language plpgsql stable security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  my_role public."UserRole" := private.current_global_role();
  my_tier public."SubscriptionTier" := private.current_tier();
  my_org uuid := private.current_user_org();
begin
  return query
  select a.* from public.system_alerts a
  where me is not null and a.is_active and not a.is_archived and a.starts_at <= now()
    and (a.ends_at is null or a.ends_at > now())
    and (
      a.is_global
      or me = any (a.target_users)
      or my_role = any (a.target_roles)
      or my_tier = any (a.target_tiers)
      or my_org = any (a.target_orgs)
    );
end $$;
comment on function private.alerts_for_me() is
  'Alerts for the caller now, dismissed or not, with their target lists. Granted to no role.';

create type public.active_alert as (
  id uuid, title text, message text, level "AlertLevel", category "AlertCategory", is_dismissible boolean,
  auto_hide_after integer, starts_at timestamptz, ends_at timestamptz, created_at timestamptz, is_viewed boolean
);
comment on type public.active_alert is 'An alert as its readers see it, without its target lists.';

create function private.active_alerts() returns setof public.active_alert
language sql stable security definer set search_path = '' as $$
  select a.id, a.title, a.message, a.level, a.category, a.is_dismissible, a.auto_hide_after, a.starts_at, a.ends_at,
    a.created_at, exists (
      select from public.system_alert_views v where v.alert_id = a.id and v.user_id = (select private.current_user_id())
    )
  from private.alerts_for_me() a
  where not (a.is_dismissible and exists (
    select from public.system_alert_dismissals d
    where d.alert_id = a.id and d.user_id = (select private.current_user_id())
  ))
  order by a.starts_at desc, a.created_at desc, a.id
$$;
comment on function private.active_alerts() is 'See public.active_alerts().';

create function private.alert_is_dismissible(alert_id uuid) returns boolean
language sql stable security definer set search_path = '' as $$
  select a.is_dismissible from private.alerts_for_me() a where a.id = alert_is_dismissible.alert_id
$$;
comment on function private.alert_is_dismissible(uuid) is
  'Whether the caller may dismiss an alert; null when there is none for them.';
grant execute on function private.active_alerts(), private.alert_is_dismissible(uuid) to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.system_alerts enable row level security;
create policy "platform admins see alerts and whom they are for" on public.system_alerts for select to authenticated
  using ((select private.is_admin()));
create policy "platform admins make alerts" on public.system_alerts for insert to authenticated
  with check ((select private.is_admin()));
create policy "platform admins change alerts" on public.system_alerts for update to authenticated
  using ((select private.is_admin())) with check ((select private.is_admin()));
create policy "platform admins delete alerts" on public.system_alerts for delete to authenticated
  using ((select private.is_admin()));
grant select, delete on public.system_alerts to authenticated;
grant
  insert (title, message, level, category, is_global, target_roles, target_tiers, target_orgs, target_users,
    is_dismissible, auto_hide_after, starts_at, ends_at, is_active, is_archived),
  update (title, message, level, category, is_global, target_roles, target_tiers, target_orgs, target_users,
    is_dismissible, auto_hide_after, starts_at, ends_at, is_active, is_archived)
  on public.system_alerts to authenticated;
grant select, insert, update, delete on public.system_alerts to service_role;

alter table public.system_alert_dismissals enable row level security;
create policy "people see what they dismissed" on public.system_alert_dismissals for select to authenticated
  using (user_id = (select private.current_user_id()));
create policy "people dismiss what they see and may" on public.system_alert_dismissals for insert to authenticated
  with check (
    user_id = (select private.current_user_id())
    and (select private.alert_is_dismissible(alert_id))
  );
grant select, insert (alert_id) on public.system_alert_dismissals to authenticated;
grant select, insert, update, delete on public.system_alert_dismissals to service_role;

alter table public.system_alert_views enable row level security;
create policy "people see what they saw" on public.system_alert_views for select to authenticated
  using (user_id = (select private.current_user_id()));
create policy "people mark what they see" on public.system_alert_views for insert to authenticated
  with check (
    user_id = (select private.current_user_id()) and (select private.alert_is_dismissible(alert_id)) is not null
  );
grant select, insert (alert_id) on public.system_alert_views to authenticated;
grant select, insert, update, delete on public.system_alert_views to service_role;

-- Operations ----------------------------------------------------------------------------------------------------------

create function public.active_alerts() returns setof public.active_alert
language sql stable set search_path = '' as 'select * from private.active_alerts()';
comment on function public.active_alerts() is
  'The alerts for the caller now, newest first, without those they dismissed and without the target lists.';

create function public.dismiss_alert(alert_id uuid) returns boolean
language plpgsql set search_path = '' as $$
declare
  dismissible boolean := private.alert_is_dismissible(dismiss_alert.alert_id);
begin
  if dismissible is null then
    raise exception 'There is no such alert for you' using errcode = 'PT404';
  elsif not dismissible then
    raise exception 'This alert cannot be dismissed' using
      errcode = 'PT422', hint = 'It is shown until it ends.';
  end if;
  insert into public.system_alert_dismissals (alert_id) values (dismiss_alert.alert_id) on conflict do nothing;
  return found;
end $$;
comment on function public.dismiss_alert(uuid) is
  'Hides an alert from the caller for good; false if it was hidden already.';

create function public.mark_alert_viewed(alert_id uuid) returns boolean
language plpgsql set search_path = '' as $$
begin
  if private.alert_is_dismissible(mark_alert_viewed.alert_id) is null then
    raise exception 'There is no such alert for you' using errcode = 'PT404';
  end if;
  insert into public.system_alert_views (alert_id) values (mark_alert_viewed.alert_id) on conflict do nothing;
  return found;
end $$;
comment on function public.mark_alert_viewed(uuid) is 'Counts that the caller saw an alert; false when counted before.';

grant execute on function public.active_alerts(), public.dismiss_alert(uuid), public.mark_alert_viewed(uuid)
  to authenticated, service_role;
