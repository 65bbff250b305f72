-- Dashboard: widgets, layouts, the activity feed, quick actions and metrics. Rows without an organization belong to the
-- system: everyone signed in reads them, only platform admins write them.

-- Types ---------------------------------------------------------------------------------------------------------------

create type "WidgetType" as enum (
  'KPI_CARD', 'CHART', 'TABLE', 'ACTIVITY_FEED', 'QUICK_ACTIONS', 'MODULE_SHORTCUTS', 'PROGRESS_TRACKER',
  'NOTIFICATION_PANEL', 'CALENDAR', 'WEATHER'
);
comment on type "WidgetType" is 'What a widget shows.';
create type "DashboardTheme" as enum ('LIGHT', 'DARK', 'AUTO');
comment on type "DashboardTheme" is 'Colors of a person''s dashboard.';
create type "LayoutDensity" as enum ('COMPACT', 'NORMAL', 'SPACIOUS');
comment on type "LayoutDensity" is 'Spacing of a person''s dashboard.';
create type "DashboardActivityType" as enum (
  'USER_ACTION', 'SYSTEM_EVENT', 'WORKFLOW_UPDATE', 'DATA_CHANGE', 'SECURITY_EVENT', 'INTEGRATION_EVENT'
);
comment on type "DashboardActivityType" is 'Kind of a feed entry; what was done with a customer is an "ActivityType".';
create type "ActivitySeverity" as enum ('INFO', 'SUCCESS', 'WARNING', 'ERROR', 'CRITICAL');
comment on type "ActivitySeverity" is 'Severity of a feed entry.';
create type "ActionType" as enum ('NAVIGATION', 'API_CALL', 'MODAL_FORM', 'EXTERNAL_LINK', 'WORKFLOW_TRIGGER');
comment on type "ActionType" is 'What a quick action does when it is run.';
create type "MetricCategory" as enum (
  'FINANCIAL', 'OPERATIONAL', 'MARKETING', 'SALES', 'PRODUCTIVITY', 'SYSTEM', 'CUSTOM'
);
comment on type "MetricCategory" is 'Where a metric is filed.';

-- Tables --------------------------------------------------------------------------------------------------------------

create table public.dashboard_widgets (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  name text not null constraint "widget name is 1 to 255 characters" check (length(name) between 1 and 255),
  type "WidgetType" not null,
  config jsonb not null constraint "config is an object" check (jsonb_typeof(config) = 'object'),
  position jsonb not null
    constraint "position has whole numbers x, y from 0 and w, h from 1"
    check (coalesce(jsonb_path_match(
      position,
      '$.type() == "object" && $.x.type() == "number" && $.y.type() == "number" && $.w.type() == "number"
        && $.h.type() == "number" && $.x >= 0 && $.y >= 0 && $.w >= 1 && $.h >= 1
        && $.x.floor() == $.x && $.y.floor() == $.y && $.w.floor() == $.w && $.h.floor() == $.h',
      silent => true
    ), false)),
  data_source text constraint "data_source is at most 255 characters" check (length(data_source) <= 255),
  refresh_rate integer not null default 300
    constraint "refresh_rate is at least 60 seconds" check (refresh_rate >= 60),
  is_visible boolean not null default true,
  title text constraint "title is at most 255 characters" check (length(title) <= 255),
  chart_type text constraint "chart_type is at most 100 characters" check (length(chart_type) <= 100),
  permissions text[] not null default '{}',
  created_by uuid not null default auth.uid() references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.dashboard_widgets is 'What an organization can put on its dashboards.';
comment on column public.dashboard_widgets.position is 'Place on the grid: {"x", "y", "w", "h"}.';
comment on column public.dashboard_widgets.refresh_rate is 'Seconds between two refreshes.';
comment on column public.dashboard_widgets.permissions is 'A member sees the widget only if holding all of these.';
comment on column public.dashboard_widgets.created_by is 'Who created it; set by the database.';
create index dashboard_widgets_organization_idx on public.dashboard_widgets (organization_id, created_at desc);
create index dashboard_widgets_organization_visible_idx on public.dashboard_widgets (organization_id, is_visible);
create index dashboard_widgets_created_by_idx on public.dashboard_widgets (created_by);
create index dashboard_widgets_type_idx on public.dashboard_widgets (type);
create index dashboard_widgets_is_visible_idx on public.dashboard_widgets (is_visible);

create table public.user_dashboards (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null unique default auth.uid() references public.users (id) on delete cascade,
  layout jsonb not null
    constraint "layout is an object or an array" check (jsonb_typeof(layout) in ('object', 'array')),
  widgets uuid[] not null default '{}',
  theme "DashboardTheme" not null default 'LIGHT',
  density "LayoutDensity" not null default 'NORMAL',
  auto_refresh boolean not null default true,
  quick_actions uuid[] not null default '{}',
  pinned_modules text[] not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.user_dashboards is 'How one person arranges the dashboard; other users cannot see it.';
comment on column public.user_dashboards.widgets is 'Ids of widgets in display order.';
comment on column public.user_dashboards.quick_actions is 'Ids of quick actions in display order.';

create table public.activity_feeds (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  user_id uuid default auth.uid() references public.users (id) on delete set null,
  title text not null constraint "feed title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text,
  type "DashboardActivityType" not null,
  entity_type text not null
    constraint "entity_type is 1 to 100 characters" check (length(entity_type) between 1 and 100),
  entity_id text not null constraint "entity_id is 1 to 255 characters" check (length(entity_id) between 1 and 255),
  action text not null constraint "action is 1 to 100 characters" check (length(action) between 1 and 100),
  metadata jsonb,
  severity "ActivitySeverity" not null default 'INFO',
  is_read boolean not null default false,
  is_pinned boolean not null default false,
  is_archived boolean not null default false,
  created_at timestamptz not null default now(),
  unique (organization_id, id)
);
comment on table public.activity_feeds is 'What happened in an organization, for everyone in it; page it with feed_page().';
comment on column public.activity_feeds.user_id is 'Who did it: the caller; null for the system.';
comment on column public.activity_feeds.entity_id is
  'Text, because an entry may be about something outside this database.';
comment on column public.activity_feeds.is_read is
  'Marked as done for everyone; activity_feed_reads has what each person has read.';
-- One index serves the feed (`not is_archived`, newest first), one the plain list. Time over all tenants has BRIN: the
-- planner would use an ordered index to look for one tenant's newest rows among those of all tenants.
create index activity_feeds_organization_idx on public.activity_feeds (organization_id, created_at desc, id desc);
create index activity_feeds_organization_archived_idx
  on public.activity_feeds (organization_id, is_archived, created_at desc, id desc);
create index activity_feeds_pinned_idx on public.activity_feeds (organization_id, created_at desc) where is_pinned;
create index activity_feeds_error_idx
  on public.activity_feeds (organization_id, created_at desc) where severity = 'ERROR';
create index activity_feeds_critical_idx
  on public.activity_feeds (organization_id, created_at desc) where severity = 'CRITICAL';
create index activity_feeds_user_idx on public.activity_feeds (user_id);
create index activity_feeds_type_idx on public.activity_feeds (type);
create index activity_feeds_severity_idx on public.activity_feeds (severity);
create index activity_feeds_created_at_idx on public.activity_feeds using brin (created_at);
create index activity_feeds_is_archived_idx on public.activity_feeds (is_archived);

create table public.activity_feed_reads (
  user_id uuid not null default auth.uid() references public.users (id) on delete cascade,
  activity_feed_id uuid not null,
  organization_id uuid not null default private.current_user_org(),
  read_at timestamptz not null default now(),
  constraint "a person reads a feed entry once" primary key (user_id, activity_feed_id),
  foreign key (organization_id, activity_feed_id)
    references public.activity_feeds (organization_id, id) on delete cascade
);
comment on table public.activity_feed_reads is 'Which feed entries one person has read; written by mark_feed_read().';
create index activity_feed_reads_feed_idx on public.activity_feed_reads (organization_id, activity_feed_id);

create table public.quick_actions (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid default private.current_user_org()
    references public.organizations (id) on delete cascade,
  name text not null constraint "action name is 1 to 255 characters" check (length(name) between 1 and 255),
  description text,
  icon text not null constraint "icon is 1 to 100 characters" check (length(icon) between 1 and 100),
  action_type "ActionType" not null,
  target_url text
    constraint "target_url is at most 500 characters" check (length(target_url) <= 500)
    -- A browser would run javascript: and skips blanks inside the scheme.
    constraint "target_url is a path or an http(s) address"
    check (target_url !~ '[[:cntrl:][:space:]]' and (target_url !~* '^[a-z][a-z0-9+.-]*:' or target_url ~* '^https?://')),
  api_endpoint text
    constraint "api_endpoint is at most 500 characters" check (length(api_endpoint) <= 500)
    constraint "api_endpoint is a path or an http(s) address"
    check (api_endpoint !~ '[[:cntrl:][:space:]]' and (api_endpoint !~* '^[a-z][a-z0-9+.-]*:' or api_endpoint ~* '^https?://')),
  form_config jsonb,
  color text not null default 'blue' constraint "color is 1 to 50 characters" check (length(color) between 1 and 50),
  is_enabled boolean not null default true,
  sort_order integer not null default 0,
  required_role text[] not null default '{}'
    constraint "required_role lists organization roles" check (required_role <@ enum_range(null::"OrgRole")::text[]),
  required_tier text[] not null default '{}'
    constraint "required_tier lists subscription tiers" check (required_tier <@ enum_range(null::"SubscriptionTier")::text[]),
  usage_count integer not null default 0 constraint "usage_count is not negative" check (usage_count >= 0),
  last_used timestamptz,
  created_by uuid default auth.uid() references public.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "NAVIGATION and EXTERNAL_LINK need target_url"
    check (action_type not in ('NAVIGATION', 'EXTERNAL_LINK') or coalesce(target_url, '') <> '')
);
comment on table public.quick_actions is 'Buttons of the dashboard; run one with run_quick_action(). Without organization: of the system.';
comment on column public.quick_actions.required_role is 'Roles that may run it; empty: every member.';
comment on column public.quick_actions.required_tier is 'Tiers that include it; empty: all.';
comment on column public.quick_actions.usage_count is 'How often it was run; counted by run_quick_action() alone.';
create index quick_actions_organization_idx on public.quick_actions (organization_id, created_at desc);
create index quick_actions_organization_enabled_idx on public.quick_actions (organization_id, is_enabled);
create index quick_actions_created_by_idx on public.quick_actions (created_by);
create index quick_actions_is_enabled_idx on public.quick_actions (is_enabled);
create index quick_actions_sort_order_idx on public.quick_actions (sort_order);

create table public.dashboard_metrics (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid default private.current_user_org()
    references public.organizations (id) on delete cascade,
  name text not null constraint "metric name is 1 to 255 characters" check (length(name) between 1 and 255),
  category "MetricCategory" not null,
  query jsonb not null constraint "query is an object" check (jsonb_typeof(query) = 'object'),
  unit text constraint "unit is at most 50 characters" check (length(unit) <= 50),
  format text not null default 'number'
    constraint "format is number, currency or percentage" check (format in ('number', 'currency', 'percentage')),
  target_value double precision,
  warning_threshold double precision,
  critical_threshold double precision,
  chart_type text constraint "chart_type is at most 100 characters" check (length(chart_type) <= 100),
  color text not null default 'blue' constraint "color is 1 to 50 characters" check (length(color) between 1 and 50),
  icon text constraint "icon is at most 100 characters" check (length(icon) <= 100),
  permissions text[] not null default '{}',
  refresh_rate integer not null default 300 constraint "refresh_rate is positive" check (refresh_rate > 0),
  last_calculated timestamptz,
  cached_value double precision,
  cached_result jsonb,
  created_by uuid default auth.uid() references public.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "a metric of the system caches no value, it differs by tenant"
    check ((cached_value is null and cached_result is null) or organization_id is not null)
);
comment on table public.dashboard_metrics is 'Figures of the dashboard. Without organization: of the system.';
comment on column public.dashboard_metrics.query is 'What is counted, in the metric language: {"source", "aggregate", "where", …}.';
comment on column public.dashboard_metrics.permissions is 'A member sees the metric only if holding all of these.';
comment on column public.dashboard_metrics.refresh_rate is 'Seconds after which cached_value is stale.';
comment on column public.dashboard_metrics.cached_value is
  'Last result, the same for every member; null where members may see different rows.';
comment on column public.dashboard_metrics.cached_result is 'The whole of it: previous value and series, too.';
create index dashboard_metrics_organization_idx on public.dashboard_metrics (organization_id, created_at desc);
create index dashboard_metrics_created_by_idx on public.dashboard_metrics (created_by);
create index dashboard_metrics_category_idx on public.dashboard_metrics (category);
create index dashboard_metrics_last_calculated_idx on public.dashboard_metrics (last_calculated);

create trigger touch before update on public.dashboard_widgets
  for each row execute function private.touch_updated_at();
create trigger touch before update on public.user_dashboards
  for each row execute function private.touch_updated_at();
-- Counting a use is not recorded as a change.
create trigger touch before update on public.quick_actions
  for each row when (new.usage_count = old.usage_count) execute function private.touch_updated_at();
-- Nor is a new cached value.
create trigger touch before update on public.dashboard_metrics
  for each row when (new.last_calculated is not distinct from old.last_calculated) execute function private.touch_updated_at();

-- Policies ------------------------------------------------------------------------------------------------------------

create function private.current_permissions() returns text[]
language plpgsql stable security definer set search_path = '' as $$
begin
  return coalesce((
    select m.permissions from public.organization_members m
    where m.user_id = private.current_user_id() and m.organization_id = private.current_user_org()
  ), '{}');
end $$;
comment on function private.current_permissions() is 'What the caller may do beyond their role in the current organization.';

create function private.manages_dashboards() returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return private.current_user_org('ADMIN') is not null or private.is_admin();
end $$;
comment on function private.manages_dashboards() is
  'Whether the caller sees widgets and metrics without holding their permissions, because they manage them.';
grant execute on function private.current_permissions(), private.manages_dashboards() to authenticated, service_role;

alter table public.dashboard_widgets enable row level security;
create policy "members see widgets whose permissions they hold" on public.dashboard_widgets for select to authenticated
  using (
    organization_id = (select private.current_user_org())
    and (permissions <@ (select private.current_permissions()) or (select private.manages_dashboards()))
  );
create policy "admins add widgets" on public.dashboard_widgets for insert to authenticated
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins change widgets" on public.dashboard_widgets for update to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')))
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins delete widgets" on public.dashboard_widgets for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, name, type, config, position, data_source, refresh_rate, is_visible, title, chart_type, permissions),
  update (organization_id, name, type, config, position, data_source, refresh_rate, is_visible, title, chart_type, permissions)
  on public.dashboard_widgets to authenticated;
grant all on public.dashboard_widgets to service_role;

alter table public.user_dashboards enable row level security;
create policy "people see their dashboard" on public.user_dashboards for select to authenticated
  using (user_id = (select private.current_user_id()));
create policy "people make their dashboard" on public.user_dashboards for insert to authenticated
  with check (user_id = (select private.current_user_id()));
create policy "people change their dashboard" on public.user_dashboards for update to authenticated
  using (user_id = (select private.current_user_id())) with check (user_id = (select private.current_user_id()));
create policy "people delete their dashboard" on public.user_dashboards for delete to authenticated
  using (user_id = (select private.current_user_id()));
grant select, delete,
  insert (user_id, layout, widgets, theme, density, auto_refresh, quick_actions, pinned_modules),
  update (user_id, layout, widgets, theme, density, auto_refresh, quick_actions, pinned_modules)
  on public.user_dashboards to authenticated;
grant all on public.user_dashboards to service_role;

alter table public.activity_feeds enable row level security;
create policy "members see the feed" on public.activity_feeds for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add entries in their own name" on public.activity_feeds for insert to authenticated
  with check (
    -- current_user_org() is null for a suspended user, so auth.uid() needs no second lookup.
    organization_id = (select private.current_user_org('MEMBER')) and user_id = (select auth.uid())
  );
create policy "members settle, pin and archive entries" on public.activity_feeds for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete entries" on public.activity_feeds for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete, update (is_read, is_pinned, is_archived),
  insert (id, organization_id, user_id, title, description, type, entity_type, entity_id, action, metadata, severity)
  on public.activity_feeds to authenticated;
grant all on public.activity_feeds to service_role;

alter table public.activity_feed_reads enable row level security;
create policy "people see what they have read" on public.activity_feed_reads for select to authenticated
  using (
    user_id = (select private.current_user_id()) and organization_id = (select private.current_user_org())
  );
create policy "people mark as read" on public.activity_feed_reads for insert to authenticated
  with check (
    user_id = (select private.current_user_id()) and organization_id = (select private.current_user_org())
  );
create policy "people mark as unread" on public.activity_feed_reads for delete to authenticated
  using (
    user_id = (select private.current_user_id()) and organization_id = (select private.current_user_org())
  );
grant select, delete, insert (user_id, activity_feed_id, organization_id) on public.activity_feed_reads to authenticated;
grant all on public.activity_feed_reads to service_role;

alter table public.quick_actions enable row level security;
create policy "members see their actions and those of the system" on public.quick_actions for select to authenticated
  using (
    organization_id = (select private.current_user_org())
    or (organization_id is null and (select private.current_user_id()) is not null)
  );
create policy "admins add actions" on public.quick_actions for insert to authenticated
  with check (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  );
create policy "admins change actions" on public.quick_actions for update to authenticated
  using (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  )
  with check (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  );
create policy "admins delete actions" on public.quick_actions for delete to authenticated
  using (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  );
grant select, delete,
  insert (
    organization_id, name, description, icon, action_type, target_url, api_endpoint, form_config, color, is_enabled,
    sort_order, required_role, required_tier
  ),
  update (
    organization_id, name, description, icon, action_type, target_url, api_endpoint, form_config, color, is_enabled,
    sort_order, required_role, required_tier
  )
  on public.quick_actions to authenticated;
grant all on public.quick_actions to service_role;

alter table public.dashboard_metrics enable row level security;
create policy "members see metrics whose permissions they hold" on public.dashboard_metrics for select to authenticated
  using (
    (
      organization_id = (select private.current_user_org())
      or (organization_id is null and (select private.current_user_id()) is not null)
    )
    and (permissions <@ (select private.current_permissions()) or (select private.manages_dashboards()))
  );
create policy "admins add metrics" on public.dashboard_metrics for insert to authenticated
  with check (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  );
create policy "admins change metrics" on public.dashboard_metrics for update to authenticated
  using (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  )
  with check (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  );
create policy "admins delete metrics" on public.dashboard_metrics for delete to authenticated
  using (
    organization_id = (select private.current_user_org('ADMIN'))
    or (organization_id is null and (select private.is_admin()))
  );
grant select, delete,
  insert (
    organization_id, name, category, query, unit, format, target_value, warning_threshold, critical_threshold,
    chart_type, color, icon, permissions, refresh_rate
  ),
  update (
    organization_id, name, category, query, unit, format, target_value, warning_threshold, critical_threshold,
    chart_type, color, icon, permissions, refresh_rate
  )
  on public.dashboard_metrics to authenticated;
grant all on public.dashboard_metrics to service_role;

-- The feed ------------------------------------------------------------------------------------------------------------

-- plpgsql, because its plans know the values: a page is a short ordered index scan, however long the feed is.
create function public.feed_page(
  before timestamptz default 'infinity', before_id uuid default 'ffffffff-ffff-ffff-ffff-ffffffffffff',
  page_size integer default 50, archived boolean default false
) returns table (
  id uuid, user_id uuid, title text, description text, type "DashboardActivityType", entity_type text, entity_id text,
  action text, metadata jsonb, severity "ActivitySeverity", is_read boolean, is_pinned boolean, is_archived boolean,
  created_at timestamptz
) language plpgsql stable set search_path = '' as $$
begin
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  end if;
  return query
    select f.id, f.user_id, f.title, f.description, f.type, f.entity_type, f.entity_id, f.action, f.metadata,
      f.severity, f.is_read or r.user_id is not null, f.is_pinned, f.is_archived, f.created_at
    from public.activity_feeds f
    left join public.activity_feed_reads r
      on r.user_id = (select private.current_user_id()) and r.activity_feed_id = f.id
    where f.is_archived = archived and (f.created_at, f.id) < (before, before_id)
    order by f.created_at desc, f.id desc limit page_size;
end $$;
comment on function public.feed_page(timestamptz, uuid, integer, boolean) is
  'Newest feed entries with the caller''s own read state; for the next page give created_at and id of the last entry.';

create function public.mark_feed_read(ids uuid[]) returns integer
language plpgsql set search_path = '' as $$
declare
  wanted uuid[] := array(select distinct i from unnest(ids) i where i is not null);
  marked integer;
begin
  if cardinality(wanted) not between 1 and 100 then
    raise exception 'One call marks 1 to 100 entries' using
      errcode = 'PT422', detail = format('Found %s.', cardinality(wanted)), hint = 'Send longer lists in several calls.';
  end if;
  if (select count(*) from public.activity_feeds f where f.id = any (wanted)) < cardinality(wanted) then
    raise exception 'There is no such feed entry' using
      errcode = 'PT404', detail = 'At least one of the ids is not in your feed; nothing was marked.';
  end if;
  insert into public.activity_feed_reads (user_id, activity_feed_id, organization_id)
  select private.current_user_id(), f.id, f.organization_id from public.activity_feeds f where f.id = any (wanted)
  order by f.id
  on conflict on constraint "a person reads a feed entry once" do nothing;
  get diagnostics marked = row_count;
  return marked;
end $$;
comment on function public.mark_feed_read(uuid[]) is
  'Marks entries as read by the caller, all or none; returns how many were unread.';

create function private.change_feed_entries(ids uuid[], pinned boolean, archived boolean) returns integer
language plpgsql set search_path = '' as $$
declare
  wanted uuid[] := array(select distinct i from unnest(ids) i where i is not null);
  changed integer;
begin
  if private.current_user_org('MEMBER') is null then
    raise exception 'You may not change the feed of this organization' using
      errcode = '42501', detail = 'It requires the role MEMBER or above.', hint = 'Ask an owner for the role.';
  end if;
  if cardinality(wanted) not between 1 and 100 then
    raise exception 'One call changes 1 to 100 entries' using
      errcode = 'PT422', detail = format('Found %s.', cardinality(wanted)), hint = 'Send longer lists in several calls.';
  end if;
  -- In one order, so that two calls about the same entries wait for each other instead of deadlocking.
  perform from public.activity_feeds f where f.id = any (wanted) order by f.id for no key update;
  update public.activity_feeds f
  set is_pinned = coalesce(pinned, f.is_pinned), is_archived = coalesce(archived, f.is_archived)
  where f.id = any (wanted);
  get diagnostics changed = row_count;
  if changed < cardinality(wanted) then
    raise exception 'There is no such feed entry' using
      errcode = 'PT404', detail = 'At least one of the ids is not in your feed; nothing was changed.';
  end if;
  return changed;
end $$;
comment on function private.change_feed_entries(uuid[], boolean, boolean) is 'Pins or archives entries, all or none.';

create function public.pin_feed_entries(ids uuid[], pinned boolean default true) returns integer
language sql set search_path = '' as 'select private.change_feed_entries(ids, pinned, null)';
comment on function public.pin_feed_entries(uuid[], boolean) is 'Pins feed entries for the whole organization, or unpins them.';

create function public.archive_feed_entries(ids uuid[], archived boolean default true) returns integer
language sql set search_path = '' as 'select private.change_feed_entries(ids, null, archived)';
comment on function public.archive_feed_entries(uuid[], boolean) is
  'Takes entries out of the feed of the whole organization, or puts them back.';

grant execute on function public.feed_page(timestamptz, uuid, integer, boolean), public.mark_feed_read(uuid[]),
  private.change_feed_entries(uuid[], boolean, boolean), public.pin_feed_entries(uuid[], boolean),
  public.archive_feed_entries(uuid[], boolean) to authenticated, service_role;

-- Quick actions -------------------------------------------------------------------------------------------------------

-- SECURITY DEFINER: members count uses on rows which only admins may change.
create function private.run_quick_action(action_id uuid, input jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org();
  mine public."OrgRole";
  tier public."SubscriptionTier";
  found_action public.quick_actions;
  delivery uuid;
begin
  if pg_column_size(input) > 8000 or jsonb_typeof(input) <> 'object' then
    raise exception 'input is an object of at most 8 kB' using errcode = 'PT422';
  end if;
  select m.role, o.subscription_tier into mine, tier
  from public.organization_members m join public.organizations o on o.id = m.organization_id
  where m.user_id = private.current_user_id() and m.organization_id = org;
  if mine is null then
    raise exception 'Only members can run actions' using
      errcode = '42501', hint = 'Name an organization you belong to in the header x-org-id.';
  end if;
  select a.* into found_action from public.quick_actions a
  where a.id = action_id and (a.organization_id = org or a.organization_id is null);
  if not found then
    raise exception 'There is no such action' using errcode = 'PT404', detail = format('Found no action %s.', action_id);
  end if;
  if not found_action.is_enabled then
    raise exception 'This action is disabled' using errcode = 'PT409', hint = 'An admin can enable it.';
  end if;
  if found_action.required_role <> '{}' and mine::text <> all (found_action.required_role) then
    raise exception 'Your role may not run this action' using
      errcode = '42501', detail = format('You are %s; it requires %s.', mine, array_to_string(found_action.required_role, ' or '));
  end if;
  if found_action.required_tier <> '{}' and tier::text <> all (found_action.required_tier) then
    raise exception 'Your plan does not include this action' using
      errcode = 'PT402',
      detail = format('The plan is %s; it requires %s.', tier, array_to_string(found_action.required_tier, ' or ')),
      hint = 'An owner can choose another plan.';
  end if;
  delivery := private.trigger_action(found_action, org, coalesce(input, '{}')); -- see the chapter webhooks
  -- Last, because everybody uses the row of a system action.
  update public.quick_actions a set usage_count = a.usage_count + 1, last_used = now() where a.id = action_id;
  return jsonb_build_object(
    'id', found_action.id, 'name', found_action.name, 'action_type', found_action.action_type,
    'target_url', found_action.target_url, 'api_endpoint', found_action.api_endpoint,
    'form_config', found_action.form_config, 'delivery_id', delivery
  );
end $$;
comment on function private.run_quick_action(uuid, jsonb) is 'Checks, counts, triggers and returns what to do.';

create function public.run_quick_action(action_id uuid, input jsonb default '{}') returns jsonb
language sql set search_path = '' as 'select private.run_quick_action(action_id, input)';
comment on function public.run_quick_action(uuid, jsonb) is
  'Checks that the caller may run this action now, counts the use and returns its target. WORKFLOW_TRIGGER publishes an event '
  'with the input; API_CALL queues a delivery to the webhook with this address (delivery_id).';

create function public.my_quick_actions() returns setof public.quick_actions
language sql stable set search_path = '' as $$
  select a.* from public.quick_actions a, public.organization_members m, public.organizations o
  where m.user_id = (select private.current_user_id()) and m.organization_id = (select private.current_user_org())
    and o.id = m.organization_id and a.is_enabled
    and (a.required_role = '{}' or m.role::text = any (a.required_role))
    and (a.required_tier = '{}' or o.subscription_tier::text = any (a.required_tier))
  order by a.sort_order, a.name, a.id
$$;
comment on function public.my_quick_actions() is 'The actions the caller may run, in display order.';

grant execute on function private.run_quick_action(uuid, jsonb), public.run_quick_action(uuid, jsonb), public.my_quick_actions()
  to authenticated, service_role;
