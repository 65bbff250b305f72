-- Dashboard layouts: the settings of widgets and what they show, layouts, the defaults of new users and organizations,
-- and the snapshot for the first screen. The chapter dashboard has the tables, dashboard_metrics the query language.

-- What a widget is set to ---------------------------------------------------------------------------------------------

create function private.refuse_setting(place text, sent jsonb, expected text) returns void
language plpgsql immutable set search_path = '' as $$
begin
  raise exception 'A setting of the dashboard is invalid' using
    errcode = 'PT422',
    detail = format('%s: found %s, expected %s.', place, private.excerpt(sent), expected),
    hint = 'docs/dashboard.md describes widgets and layouts.';
end $$;
comment on function private.refuse_setting(text, jsonb, text) is
  'PT422 with the place in a widget or layout, what was found there and what is expected.';

create function private.whole_number(sent jsonb, lowest integer, highest integer, place text, otherwise integer default null)
returns integer language plpgsql immutable set search_path = '' as $$
begin
  if sent is null and otherwise is not null then
    return otherwise;
  elsif jsonb_typeof(sent) = 'number' and (sent #>> '{}') ~ '^[0-9]{1,5}$' and (sent #>> '{}')::integer between lowest and highest then
    return sent #>> '{}';
  end if;
  perform private.refuse_setting(place, sent, format('a whole number from %s to %s', lowest, highest));
end $$;
comment on function private.whole_number(jsonb, integer, integer, text, integer) is
  'A number of a setting, or its default.';

create function private.setting_id(sent jsonb, place text) returns uuid
language plpgsql immutable set search_path = '' as $$
begin
  if jsonb_typeof(sent) is distinct from 'string' or not private.is_uuid(lower(sent #>> '{}')) then
    perform private.refuse_setting(place, sent, 'an id');
  end if;
  return sent #>> '{}';
end $$;
comment on function private.setting_id(jsonb, text) is 'An id of a setting.';

create function private.compile_table(data_source text, config jsonb) returns private.compiled_metric
language plpgsql stable set search_path = '' as $$
declare
  source private.metric_sources := private.query_source(to_jsonb(data_source), 'data_source');
  c private.compiled_metric;
  shown text[] := '{}';
  newest text;
  clause text := 'true';
  columns jsonb := config -> 'columns';
begin
  c.given := '{}';
  if jsonb_typeof(columns) is distinct from 'array' or jsonb_array_length(columns) not between 1 and 12 then
    perform private.refuse_setting('config.columns', columns, 'a list of 1 to 12 columns');
  end if;
  for i in 0 .. jsonb_array_length(columns) - 1 loop
    shown := shown || format('s.%I', (private.query_column(
      source.name, columns -> i, format('config.columns[%s]', i), enum_range(null::private."MetricKind")
    )).name);
  end loop;
  if config ? 'where' then
    select w.given, w.clause into c.given, clause
    from private.compile_condition(source.name, config -> 'where', 'config.where', 1, c.given) w;
  end if;
  select format('s.%I', t.name) into newest from private.metric_columns t
  where t.source = source.name and t.kind = 'time' order by t.place limit 1;
  c.statement := format(
    'select coalesce(jsonb_agg(to_jsonb(r)), ''[]'') from (select s.id, %s from public.%I s where s.organization_id = $2 and (%s) '
      'order by %s desc, s.id limit %s) r',
    array_to_string(shown, ', '), source.name, clause, newest,
    private.whole_number(config -> 'limit', 1, 50, 'config.limit', 10)
  );
  return c;
end $$;
comment on function private.compile_table(text, jsonb) is
  'Validates the settings of a TABLE widget and compiles them to one statement.';

create function private.check_widget(widget public.dashboard_widgets) returns void
language plpgsql stable set search_path = '' as $$
declare
  config jsonb := widget.config;
  query jsonb := config -> 'query';
begin
  if pg_column_size(config) > 20000 then
    perform private.refuse_setting('config', to_jsonb(pg_column_size(config) || ' bytes'), 'at most 20000');
  end if;
  case
    when widget.type in ('KPI_CARD', 'CHART', 'PROGRESS_TRACKER') then
      if config ?& '{metric_id,query}' then
        perform private.refuse_setting('config', config, 'either metric_id or query');
      elsif config ? 'metric_id' then
        select m.query into query from public.dashboard_metrics m
        where m.id = private.setting_id(config -> 'metric_id', 'config.metric_id')
          and (m.organization_id = widget.organization_id or m.organization_id is null);
        if not found then
          perform private.refuse_setting(
            'config.metric_id', config -> 'metric_id', 'the id of a metric of the organization or the system'
          );
        end if;
      elsif config ? 'query' then
        perform private.compile_metric(query);
      end if;
      if widget.type = 'CHART' and not query ? 'group_by' then
        perform private.refuse_setting('config', config, 'a CHART of something with group_by');
      elsif config ? 'target' and jsonb_typeof(config -> 'target') <> 'number' then
        perform private.refuse_setting('config.target', config -> 'target', 'a number');
      end if;
    when widget.type = 'TABLE' then
      if config ? 'columns' then
        perform private.compile_table(widget.data_source, config);
      end if;
    when widget.type = 'MODULE_SHORTCUTS' then
      perform private.check_modules(config -> 'modules');
    when widget.type = 'CALENDAR' then
      perform private.whole_number(config -> 'days', 1, 62, 'config.days', 7);
    when widget.type = 'WEATHER' then
      if config ? 'place' and (length(config ->> 'place') not between 1 and 100 or jsonb_typeof(config -> 'place') <> 'string') then
        perform private.refuse_setting('config.place', config -> 'place', 'the name of a place, 1 to 100 characters');
      end if;
    else
      perform private.whole_number(config -> 'limit', 1, 50, 'config.limit', 10);
  end case;
end $$;
comment on function private.check_widget(public.dashboard_widgets) is
  'PT422 for invalid settings of a widget. A missing setting is reported where the widget is shown; unknown settings '
  'belong to the client.';

create function private.check_modules(sent jsonb) returns void
language plpgsql immutable set search_path = '' as $$
begin
  if sent is null then
    return;
  elsif jsonb_typeof(sent) <> 'array' or jsonb_array_length(sent) > 20 or exists (
    select from jsonb_array_elements(sent) m
    where jsonb_typeof(m) <> 'string' or (m #>> '{}') !~ '^[a-z0-9]+(-[a-z0-9]+)*$' or length(m #>> '{}') > 50
  ) or (select count(distinct m) < count(*) from jsonb_array_elements(sent) m) then
    perform private.refuse_setting('modules', sent, 'at most 20 different lower-case words joined by hyphens');
  end if;
end $$;
comment on function private.check_modules(jsonb) is 'PT422 for invalid names of modules.';

create function private.validate_widget() returns trigger language plpgsql set search_path = '' as $$
begin
  -- Otherwise the policy or the check of the column refuses it.
  if (not row_security_active(tg_relid) or new.organization_id = private.current_user_org('ADMIN'))
    and jsonb_typeof(new.config) = 'object' then
    perform private.check_json('config', new.config), private.check_json('position', new.position);
    perform private.check_widget(new);
  end if;
  return new;
end $$;
comment on function private.validate_widget() is 'Refuses a widget with invalid settings.';
create trigger understand before insert or update of type, config, data_source, organization_id
  on public.dashboard_widgets for each row execute function private.validate_widget();

-- What a widget shows -------------------------------------------------------------------------------------------------

create function private.widget_content(widget public.dashboard_widgets, org uuid, answered jsonb default '{}')
returns jsonb language plpgsql set search_path = '' set jit = off as $$
declare
  config jsonb := widget.config;
  most integer := coalesce((config ->> 'limit')::integer, 10);
  metric public.dashboard_metrics;
  c private.compiled_metric;
  answer jsonb;
  target numeric;
begin
  case
    when widget.type in ('KPI_CARD', 'CHART', 'PROGRESS_TRACKER') then
      if not config ?| '{metric_id,query}' then
        perform private.refuse_setting('config', config, 'metric_id or query');
      elsif config ? 'query' then
        answer := private.evaluate(config -> 'query', org);
      elsif answered ? (config ->> 'metric_id') then
        answer := answered -> (config ->> 'metric_id');
      else
        select m.* into metric from public.dashboard_metrics m where m.id = (config ->> 'metric_id')::uuid;
        if not found then
          raise exception 'The metric of this widget is not available to you' using
            errcode = 'PT404', detail = format('Found no metric %s.', config ->> 'metric_id'),
            hint = 'An admin can choose another one.';
        end if;
        answer := private.answer_metric(metric, org);
      end if;
      if widget.type = 'PROGRESS_TRACKER' then
        target := coalesce(config ->> 'target', answer ->> 'target_value');
        answer := answer || jsonb_build_object(
          'target_value', target, 'progress', round((answer ->> 'value')::numeric / nullif(target, 0), 4)
        );
      end if;
    when widget.type = 'TABLE' then
      c := private.compile_table(widget.data_source, config);
      perform private.refuse_costly(c.statement, c.given, org, null, null);
      execute c.statement into answer using c.given, org;
    when widget.type = 'ACTIVITY_FEED' then
      select coalesce(jsonb_agg(to_jsonb(f)), '[]') into answer from public.feed_page(page_size => most) f;
    when widget.type = 'QUICK_ACTIONS' then
      answer := private.offered_actions(most);
    when widget.type = 'NOTIFICATION_PANEL' then
      select jsonb_build_object('unread', public.unread_notification_count(), 'newest', coalesce(jsonb_agg(to_jsonb(n)), '[]'))
      into answer from (
        select n.id, n.type, n.title, n.message, n.action_url, n.read, n.created_at from public.notifications n
        order by n.created_at desc, n.id limit most
      ) n;
    when widget.type = 'CALENDAR' then
      select coalesce(jsonb_agg(to_jsonb(a)), '[]') into answer from (
        select * from public.agenda(
          now(), private.moment_from_now(make_interval(days => coalesce((config ->> 'days')::integer, 7)))
        ) limit 100
      ) a;
    when widget.type = 'MODULE_SHORTCUTS' then
      answer := coalesce(config -> 'modules', (
        select to_jsonb(d.pinned_modules) from public.user_dashboards d where d.user_id = auth.uid()
      ), '[]');
    else
      answer := jsonb_build_object('place', config -> 'place'); -- the client fetches the weather by itself
  end case;
  return answer;
end $$;
comment on function private.widget_content(public.dashboard_widgets, uuid, jsonb) is
  'What a widget shows the caller; `answered` has metrics that are known already, by id.';

create function private.offered_actions(most integer) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', a.id, 'name', a.name, 'description', a.description, 'icon', a.icon, 'color', a.color,
      'action_type', a.action_type
    ) order by a.place), '[]')
    from (
      select a.*, row_number() over (order by array_position(d.quick_actions, a.id), a.sort_order, a.name, a.id) as place
      from public.my_quick_actions() a left join public.user_dashboards d on d.user_id = auth.uid()
    ) a where a.place <= most
  );
end $$;
comment on function private.offered_actions(integer) is 'The actions the caller may run, those of their own choice first.';

create function public.widget_data(widget_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid := private.require_org('VIEWER');
  widget public.dashboard_widgets;
begin
  select w.* into widget from public.dashboard_widgets w where w.id = widget_id;
  if not found then
    raise exception 'There is no such widget' using errcode = 'PT404', detail = format('Found no widget %s.', widget_id);
  end if;
  return private.widget_content(widget, org);
end $$;
comment on function public.widget_data(uuid) is 'What one widget shows now.';

-- Layouts -------------------------------------------------------------------------------------------------------------

create function private.placements(layout jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  select case jsonb_typeof(layout) when 'array' then layout else coalesce(layout -> 'widgets', '[]') end
$$;
comment on function private.placements(jsonb) is 'The widgets of a layout, which is an object or the list itself.';

create function private.within_reach(who uuid, widgets uuid[], actions uuid[])
returns table (id uuid, organization_id uuid) language sql stable set search_path = '' as $$
  select w.id, w.organization_id from public.dashboard_widgets w
  join public.organization_members m on m.organization_id = w.organization_id and m.user_id = who
  where w.id = any (widgets) and (w.permissions <@ m.permissions or m.role <= 'ADMIN')
    and (m.blocked_until is null or m.blocked_until <= now())
  union all
  select a.id, a.organization_id from public.quick_actions a
  where a.id = any (actions) and (a.organization_id is null or exists (
    select from public.organization_members m where m.organization_id = a.organization_id and m.user_id = who
      and (m.blocked_until is null or m.blocked_until <= now())
  ))
$$;
comment on function private.within_reach(uuid, uuid[], uuid[]) is 'Which of these widgets and actions a user may see.';

create function private.check_ids(ids uuid[], what text, who uuid) returns void
language plpgsql stable set search_path = '' as $$
declare
  missing uuid;
begin
  if cardinality(ids) > 100 or array_position(ids, null) is not null
    or (select count(distinct i) < count(*) from unnest(ids) i) then
    perform private.refuse_setting(what, to_jsonb(ids), 'at most 100 different ids');
  end if;
  select i into missing from unnest(ids) i
  where i not in (
    select r.id from private.within_reach(
      who, case when what = 'quick_actions' then '{}' else ids end, case when what = 'quick_actions' then ids else '{}' end
    ) r
  ) limit 1;
  if missing is not null then
    perform private.refuse_setting(what, to_jsonb(missing), 'ids of widgets and actions that you may see');
  end if;
end $$;
comment on function private.check_ids(uuid[], text, uuid) is
  'PT422 unless these ids are different and the user may see all of them.';

create function private.check_layout(layout jsonb, who uuid) returns void
language plpgsql stable set search_path = '' as $$
declare
  placed jsonb := private.placements(layout);
  columns integer := 1000;
  item jsonb;
  here text;
  clash record;
begin
  if pg_column_size(layout) > 50000 then
    perform private.refuse_setting('layout', to_jsonb(pg_column_size(layout) || ' bytes'), 'at most 50000');
  elsif jsonb_typeof(layout) = 'object' then
    if layout - '{columns,widgets}'::text[] <> '{}' then
      perform private.refuse_setting(
        'layout', (select to_jsonb(k) from jsonb_object_keys(layout - '{columns,widgets}'::text[]) k limit 1),
        'only columns and widgets'
      );
    end if;
    columns := private.whole_number(layout -> 'columns', 1, 48, 'layout.columns', 12);
  end if;
  if jsonb_typeof(placed) <> 'array' or jsonb_array_length(placed) > 100 then
    perform private.refuse_setting('layout.widgets', placed, 'a list of at most 100 places');
  end if;
  for i in 0 .. jsonb_array_length(placed) - 1 loop
    item := placed -> i;
    here := format('layout.widgets[%s]', i);
    if jsonb_typeof(item) <> 'object' or item - '{id,x,y,w,h,is_visible}'::text[] <> '{}' then
      perform private.refuse_setting(here, item, 'an object of id, x, y, w, h and, if wanted, is_visible');
    elsif jsonb_typeof(coalesce(item -> 'is_visible', 'true')) <> 'boolean' then
      perform private.refuse_setting(here || '.is_visible', item -> 'is_visible', 'true or false');
    end if;
    perform private.setting_id(item -> 'id', here || '.id');
    perform private.whole_number(item -> 'y', 0, 10000, here || '.y'), private.whole_number(item -> 'h', 1, 1000, here || '.h');
    perform private.whole_number(item -> 'w', 1, columns, here || '.w');
    perform private.whole_number(item -> 'x', 0, columns - (item ->> 'w')::integer, here || '.x');
  end loop;
  perform private.check_ids(array(select (p ->> 'id')::uuid from jsonb_array_elements(placed) p), 'layout.widgets', who);
  -- Each organization has a grid of its own.
  with places as materialized (
    select (n - 1)::integer as n, r.organization_id, (p ->> 'x')::integer as x, (p ->> 'y')::integer as y,
      (p ->> 'w')::integer as w, (p ->> 'h')::integer as h
    from jsonb_array_elements(placed) with ordinality a (p, n)
    join private.within_reach(who, array(select (p ->> 'id')::uuid from jsonb_array_elements(placed) p), '{}') r
      on r.id = (p ->> 'id')::uuid
    where coalesce(p -> 'is_visible', 'true') = 'true'
  )
  select a.n as one, b.n as other into clash from places a join places b
    on a.n < b.n and a.organization_id = b.organization_id
    and a.x < b.x + b.w and b.x < a.x + a.w and a.y < b.y + b.h and b.y < a.y + a.h
  order by a.n, b.n limit 1;
  if found then
    perform private.refuse_setting(
      format('layout.widgets[%s] and [%s]', clash.one, clash.other), jsonb_build_array(placed -> clash.one, placed -> clash.other),
      'places that do not overlap'
    );
  end if;
end $$;
comment on function private.check_layout(jsonb, uuid) is
  'PT422 unless a layout places widgets that the user may see, inside the grid and without overlap.';

-- SECURITY DEFINER: one layout serves a user in every organization they belong to, not only in the current one.
create function private.validate_layout() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if auth.uid() is not null and new.user_id is distinct from auth.uid() then
    return new; -- the policy refuses it; what another user may see is not looked up
  end if;
  perform private.check_json('layout', new.layout, 262144);
  -- Only new ids are checked: earlier ones may have been deleted since, which does no harm.
  if jsonb_typeof(new.layout) in ('object', 'array') and (tg_op = 'INSERT' or new.layout <> old.layout) then
    perform private.check_layout(new.layout, new.user_id);
  end if;
  if tg_op = 'INSERT' or new.widgets <> old.widgets then
    perform private.check_ids(new.widgets, 'widgets', new.user_id);
  end if;
  if tg_op = 'INSERT' or new.quick_actions <> old.quick_actions then
    perform private.check_ids(new.quick_actions, 'quick_actions', new.user_id);
  end if;
  if tg_op = 'INSERT' or new.pinned_modules <> old.pinned_modules then
    perform private.check_modules(to_jsonb(new.pinned_modules));
  end if;
  return new;
end $$;
comment on function private.validate_layout() is 'Refuses a layout with unknown or overlapping widgets.';
create trigger understand before insert or update on public.user_dashboards
  for each row execute function private.validate_layout();

-- What everybody begins with ------------------------------------------------------------------------------------------

create function private.give_dashboard() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.user_dashboards (user_id, layout) values (new.id, '{"columns": 12}') on conflict (user_id) do nothing;
  return null;
end $$;
comment on function private.give_dashboard() is
  'Creates the dashboard of a new user, with the layout of the organization.';
create trigger give_dashboard after insert on public.users
  for each row execute function private.give_dashboard();

create function private.create_default_dashboard(org uuid, owner uuid) returns void
language plpgsql set search_path = '' as $$
declare
  new_leads constant uuid := gen_random_uuid();
  pipeline constant uuid := gen_random_uuid();
  won constant uuid := gen_random_uuid();
  overdue constant uuid := gen_random_uuid();
begin
  if exists (select from public.dashboard_widgets w where w.organization_id = org)
    or exists (select from public.dashboard_metrics m where m.organization_id = org) then
    return;
  end if;
  insert into public.dashboard_metrics
    (id, organization_id, created_by, name, category, format, icon, warning_threshold, critical_threshold, query)
  values
    (new_leads, org, owner, 'New leads', 'SALES', 'number', 'user-plus', null, null,
      '{"source": "leads", "aggregate": "count", "period": "30d", "group_by": "day"}'),
    (pipeline, org, owner, 'Open pipeline', 'SALES', 'currency', 'filter', null, null,
      '{"source": "deals", "aggregate": "sum", "column": "value", "where": {"status": "ACTIVE"}}'),
    (won, org, owner, 'Won', 'FINANCIAL', 'currency', 'trophy', null, null,
      '{"source": "deals", "aggregate": "sum", "column": "value", "where": {"status": "WON"}, "time": "actual_close_date",'
      ' "period": "30d"}'),
    (overdue, org, owner, 'Overdue tasks', 'PRODUCTIVITY', 'number', 'clock', 1, 10,
      '{"source": "tasks", "aggregate": "count",'
      ' "where": {"due_date": {"$lt": "now"}, "status": {"$in": ["TODO", "IN_PROGRESS", "REVIEW"]}}}');
  insert into public.dashboard_widgets (organization_id, created_by, name, type, config, position)
  select org, owner, w.name, w.type::public."WidgetType",
    case when w.metric is null then '{}' else jsonb_build_object('metric_id', w.metric) end,
    jsonb_build_object('x', w.x, 'y', w.y, 'w', w.w, 'h', w.h)
  from (values
    ('New leads', 'KPI_CARD', new_leads, 0, 0, 3, 2),
    ('Open pipeline', 'KPI_CARD', pipeline, 3, 0, 3, 2),
    ('Won', 'KPI_CARD', won, 6, 0, 3, 2),
    ('Overdue tasks', 'KPI_CARD', overdue, 9, 0, 3, 2),
    ('Leads by day', 'CHART', new_leads, 0, 2, 6, 4),
    ('The week', 'CALENDAR', null, 6, 2, 6, 4),
    ('What happened', 'ACTIVITY_FEED', null, 0, 6, 6, 6),
    ('Actions', 'QUICK_ACTIONS', null, 6, 6, 3, 6),
    ('Notifications', 'NOTIFICATION_PANEL', null, 9, 6, 3, 6)
  ) w (name, type, metric, x, y, w, h);
end $$;
comment on function private.create_default_dashboard(uuid, uuid) is
  'Creates the default metrics and widgets of an organization that has none.';

-- A widget has a creator, so the default widgets are created with the first owner.
create function private.give_organization_dashboard() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.create_default_dashboard(new.organization_id, new.user_id);
  return null;
end $$;
comment on function private.give_organization_dashboard() is 'Creates the default dashboard of a new organization.';
create trigger give_organization_dashboard after insert on public.organization_members
  for each row when (new.role = 'OWNER') execute function private.give_organization_dashboard();

-- Users who signed up before this chapter was applied.
insert into public.user_dashboards (user_id, layout) select u.id, '{"columns": 12}' from public.users u
on conflict (user_id) do nothing;
do $$ begin
  perform private.create_default_dashboard(o.organization_id, o.user_id) from (
    select distinct on (m.organization_id) m.organization_id, m.user_id from public.organization_members m
    where m.role = 'OWNER' order by m.organization_id, m.joined_at, m.user_id
  ) o;
end $$;

-- The first screen ----------------------------------------------------------------------------------------------------

-- One failing metric or widget fails alone. Of an unexpected error only the code is shown.
create function private.item_error(code text, message text, detail text, hint text) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
  if code !~ '^(PT|42501)' then
    return jsonb_build_object('code', code, 'message', 'This could not be shown', 'details', null, 'hint', null);
  end if;
  return jsonb_build_object(
    'code', code, 'message', message, 'details', nullif(detail, ''), 'hint', nullif(hint, '')
  );
end $$;
comment on function private.item_error(text, text, text, text) is 'The error of one metric or widget inside a response.';

create function private.no_time_left() returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object(
    'code', 'PT503', 'message', 'There was no time left for this', 'details', null,
    'hint', 'Request it by itself: widget_data() or metric_value().'
  )
$$;
comment on function private.no_time_left() is 'The error of a metric or widget for which the first screen had no time left.';

-- A statement timeout ends one metric or widget, not the whole response: its time is over, so the deadline has passed and
-- nothing costly follows. Any other cancellation is the caller's or an administrator's and ends the request.
create function private.pass_cancel(deadline timestamptz) returns void language plpgsql set search_path = '' as $$
begin
  if clock_timestamp() < deadline then
    raise exception 'Cancelled on request' using errcode = 'query_canceled';
  end if;
end $$;
comment on function private.pass_cancel(timestamptz) is 'Raises query_canceled again if the deadline has not passed.';

create function private.snapshot_metrics(org uuid, deadline timestamptz) returns jsonb
language plpgsql set search_path = '' as $$
declare
  metric public.dashboard_metrics;
  listed jsonb := '[]';
  message text;
  detail text;
  hint text;
begin
  for metric in select m.* from public.dashboard_metrics m order by m.category, m.name, m.id limit 50 loop
    if clock_timestamp() > deadline then
      listed := listed || jsonb_build_object('id', metric.id, 'name', metric.name, 'error', private.no_time_left());
      continue;
    end if;
    begin
      listed := listed || (private.answer_metric(metric, org) || '{"error": null}');
    exception
      when query_canceled then
        perform private.pass_cancel(deadline);
        listed := listed || jsonb_build_object('id', metric.id, 'name', metric.name, 'error', private.no_time_left());
      when others then
        get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
        listed := listed || jsonb_build_object('id', metric.id, 'name', metric.name,
          'error', private.item_error(sqlstate, message, detail, hint));
    end;
  end loop;
  return listed;
end $$;
comment on function private.snapshot_metrics(uuid, timestamptz) is 'The caller''s metrics with their values, at most fifty.';

create function private.snapshot_widgets(org uuid, mine public.user_dashboards, metrics jsonb, deadline timestamptz)
returns jsonb language plpgsql set search_path = '' as $$
declare
  shown record;
  widget public.dashboard_widgets;
  answered constant jsonb := coalesce((
    select jsonb_object_agg(m ->> 'id', m - 'error') from jsonb_array_elements(metrics) m where m -> 'error' = 'null'
  ), '{}');
  chosen constant boolean := exists (select from public.dashboard_widgets w where w.id = any (mine.widgets));
  listed jsonb := '[]';
  data jsonb;
  error jsonb;
  message text;
  detail text;
  hint text;
begin
  for shown in
    select w as widget, p.place - '{id,is_visible}'::text[] as place from public.dashboard_widgets w
    left join lateral (
      select p as place from jsonb_array_elements(private.placements(coalesce(mine.layout, '{}'))) p
      where p ->> 'id' = w.id::text limit 1
    ) p on true
    where w.is_visible and coalesce(p.place -> 'is_visible', 'true') = 'true' and (not chosen or w.id = any (mine.widgets))
    order by array_position(mine.widgets, w.id), (w.position -> 'y')::numeric, (w.position -> 'x')::numeric, w.id limit 50
  loop
    widget := shown.widget;
    data := null;
    error := null;
    if clock_timestamp() > deadline then
      error := private.no_time_left();
    else
      begin
        data := private.widget_content(widget, org, answered);
      exception
        when query_canceled then
          perform private.pass_cancel(deadline);
          error := private.no_time_left();
        when others then
          get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
          error := private.item_error(sqlstate, message, detail, hint);
      end;
    end if;
    listed := listed || jsonb_build_object(
      'id', widget.id, 'name', widget.name, 'title', coalesce(widget.title, widget.name), 'type', widget.type,
      'chart_type', widget.chart_type, 'config', widget.config, 'refresh_rate', widget.refresh_rate,
      'position', coalesce(shown.place, widget.position), 'data', data, 'error', error
    );
  end loop;
  return listed;
end $$;
comment on function private.snapshot_widgets(uuid, public.user_dashboards, jsonb, timestamptz) is
  'The widgets the caller has on the first screen, each with what it shows or why it cannot, at most fifty.';

create function public.dashboard_snapshot(request jsonb default '{}') returns jsonb
language plpgsql set search_path = '' as $$
declare
  org constant uuid := private.require_org('VIEWER');
  deadline constant timestamptz := clock_timestamp() + interval '3 seconds';
  feed_size constant integer := private.whole_number(request -> 'feed_size', 1, 50, 'feed_size', 20);
  mine public.user_dashboards;
  metrics jsonb;
begin
  select d.* into mine from public.user_dashboards d where d.user_id = auth.uid();
  metrics := private.snapshot_metrics(org, deadline);
  return jsonb_build_object(
    'at', now(),
    'organization', (
      select jsonb_build_object('id', o.id, 'name', o.name, 'slug', o.slug, 'tier', o.subscription_tier, 'role', (
        select m.role from public.organization_members m where m.organization_id = o.id and m.user_id = auth.uid()
      )) from public.organizations o where o.id = org
    ),
    'dashboard', jsonb_build_object(
      'layout', coalesce(mine.layout, '{"columns": 12}'), 'theme', coalesce(mine.theme, 'LIGHT'),
      'density', coalesce(mine.density, 'NORMAL'), 'auto_refresh', coalesce(mine.auto_refresh, true),
      'pinned_modules', coalesce(mine.pinned_modules, '{}')
    ),
    'widgets', private.snapshot_widgets(org, mine, metrics, deadline),
    'metrics', metrics,
    'feed', (select coalesce(jsonb_agg(to_jsonb(f)), '[]') from public.feed_page(page_size => feed_size) f),
    'quick_actions', private.offered_actions(50),
    'alerts', (select coalesce(jsonb_agg(to_jsonb(a)), '[]') from (select * from public.active_alerts() limit 20) a),
    'unread', public.unread_notification_count()
  );
end $$;
comment on function public.dashboard_snapshot(jsonb) is
  'Everything for the first screen in one response, as the caller may see it.';

grant execute on function private.refuse_setting(text, jsonb, text),
  private.whole_number(jsonb, integer, integer, text, integer), private.setting_id(jsonb, text),
  private.compile_table(text, jsonb), private.check_widget(public.dashboard_widgets), private.check_modules(jsonb),
  private.validate_widget(), private.widget_content(public.dashboard_widgets, uuid, jsonb),
  private.offered_actions(integer), public.widget_data(uuid), private.placements(jsonb),
  private.item_error(text, text, text, text), private.no_time_left(), private.pass_cancel(timestamptz),
  private.snapshot_metrics(uuid, timestamptz),
  private.snapshot_widgets(uuid, public.user_dashboards, jsonb, timestamptz), public.dashboard_snapshot(jsonb)
  to authenticated, service_role;
