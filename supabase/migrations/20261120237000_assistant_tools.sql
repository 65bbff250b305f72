-- Tools for AI agents: what the function mcp does in the database. Everything runs under the caller's own policies; a key of
-- an organization needs the scope of what a tool calls. The tables are those of the chapter api_key_scopes.

create function private.tool_table(request jsonb, writing boolean) returns regclass
language plpgsql stable security definer set search_path = '' as $$
declare
  found_one private.api_key_tables;
begin
  select t.* into found_one from private.api_key_tables t where t.relation = request ->> 'table' and (t.is_written or not writing);
  if found_one.relation is null then
    raise exception 'Tools do not reach this table' using
      errcode = 'PT400', detail = format('Found %L.', left(request ->> 'table', 100)),
      hint = 'Tables: ' || (
        select string_agg(t.relation, ', ' order by t.relation) from private.api_key_tables t where t.is_written or not writing
      ) || '.';
  end if;
  return format('public.%I', found_one.relation)::regclass;
end $$;
comment on function private.tool_table(jsonb, boolean) is 'The table that a tool names; PT400 for one that tools do not reach.';

create function private.tool_columns(target regclass, privilege text, names text[] default null) returns text[]
language plpgsql stable set search_path = '' as $$
declare
  allowed text[] := array(
    select a.attname::text from pg_catalog.pg_attribute a
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped
      and has_column_privilege(current_user, target, a.attnum, privilege)
    order by a.attnum
  );
  unknown text;
begin
  select n into unknown from unnest(names) n where n <> all (allowed) limit 1;
  if unknown is not null then
    raise exception 'There is no such column to %', privilege using
      errcode = 'PT400', detail = format('Found %L.', left(unknown, 100)),
      hint = 'Columns: ' || array_to_string(allowed, ', ') || '.';
  end if;
  return coalesce(names, allowed);
end $$;
comment on function private.tool_columns(regclass, text, text[]) is
  'The columns that the caller may select, insert or update; PT400 for a name that is none of them.';

create function private.tool_list(columns text[]) returns text language sql immutable set search_path = '' as $$
  select string_agg(quote_ident(c), ', ') from unnest(columns) c
$$;
comment on function private.tool_list(text[]) is 'Names of columns as SQL.';

create function private.tool_list_records(request jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  target constant regclass := private.tool_table(request, false);
  columns constant text[] := private.tool_columns(target, 'select');
  filter constant jsonb := coalesce(request -> 'filter', '{}');
  conditions text;
  found_rows jsonb;
begin
  perform private.refuse_unreadable(target, filter);
  select string_agg(format('t.%I is not distinct from w.%I', k, k), ' and ') into conditions
  from unnest(private.tool_columns(target, 'select', array(select jsonb_object_keys(filter)))) k;
  execute format(
    'select coalesce(jsonb_agg(to_jsonb(r)), ''[]'') from (select %s from %s t%s where %s%s limit $2 offset $3) r',
    (select string_agg(format('t.%I', c), ', ') from unnest(columns) c), target,
    case when conditions is not null then format(', jsonb_populate_record(null::%s, $1) w', target) else '' end,
    coalesce(conditions, 'true'),
    case when 'created_at' = any (columns) then ' order by t.created_at desc' else '' end
  ) into found_rows using filter, least(coalesce((request ->> 'limit')::integer, 20), 100),
    least(coalesce((request ->> 'offset')::integer, 0), 10000);
  return jsonb_build_object('records', found_rows);
end $$;
comment on function private.tool_list_records(jsonb) is 'Tool: the newest rows of a table whose columns equal the filter.';

create function private.tool_get_record(request jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  found_rows jsonb := private.tool_list_records(jsonb_build_object(
    'table', request -> 'table', 'filter', jsonb_build_object('id', request -> 'id'), 'limit', 1
  )) -> 'records';
begin
  if found_rows = '[]' then
    raise exception 'There is no such record' using
      errcode = 'PT404', detail = format('Found no %s %s.', request ->> 'table', request ->> 'id');
  end if;
  return found_rows -> 0;
end $$;
comment on function private.tool_get_record(jsonb) is 'Tool: one row of a table.';

create function private.tool_create_record(request jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target constant regclass := private.tool_table(request, true);
  columns text[] := private.tool_columns(target, 'insert', array(select jsonb_object_keys(request -> 'values')));
  created jsonb;
begin
  perform private.refuse_unreadable(target, request -> 'values');
  execute format(
    'insert into %s (organization_id%s) select $1%2$s from jsonb_populate_record(null::%1$s, $2) returning to_jsonb(%3$s.*)',
    target, ', ' || private.tool_list(array_remove(columns, 'organization_id')), split_part(target::text, '.', 2)
  ) into created using private.require_org('MEMBER'), request -> 'values';
  return created;
end $$;
comment on function private.tool_create_record(jsonb) is 'Tool: inserts a row of the caller''s organization.';

create function private.tool_update_record(request jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target constant regclass := private.tool_table(request, true);
  columns constant text[] := private.tool_columns(target, 'update', array(select jsonb_object_keys(request -> 'values')));
  updated jsonb;
begin
  perform private.refuse_unreadable(target, request -> 'values');
  execute format(
    'update %s t set (%s) = (select %2$s from jsonb_populate_record(null::%1$s, $1)) where t.id = $2 returning to_jsonb(t.*)',
    target, private.tool_list(columns)
  ) into updated using request -> 'values', (request ->> 'id')::uuid;
  if updated is null then
    perform private.refuse(request ->> 'table', (request ->> 'id')::uuid);
  end if;
  return updated;
end $$;
comment on function private.tool_update_record(jsonb) is 'Tool: changes columns of a row.';

-- The path says which operation runs, so that an API key needs its scope (private.api_key_org).
create function private.tool_run(request jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  given constant jsonb := coalesce(request -> 'arguments', '{}');
  result jsonb;
begin
  perform set_config('request.path', '/rpc/' || (request ->> 'operation'), true);
  case request ->> 'operation'
    when 'search_crm' then
      select coalesce(jsonb_agg(to_jsonb(s)), '[]') into result
      from public.search_crm(given ->> 'query', least(coalesce((given ->> 'limit')::integer, 20), 50)) s;
    when 'pipeline_report' then
      select coalesce(jsonb_agg(to_jsonb(s)), '[]') into result from public.pipeline_report() s;
    when 'agenda' then
      select coalesce(jsonb_agg(to_jsonb(s)), '[]') into result
      from public.agenda((given ->> 'since')::timestamptz, (given ->> 'until')::timestamptz) s;
    when 'record_activity' then
      result := public.record_activity(given);
    when 'submit_order' then
      insert into public.custom_agent_orders (
        organization_id, title, description, requirements, use_case, complexity, agent_config, tools_config
      )
      values (
        private.require_org('MEMBER'), given ->> 'title', given ->> 'description', coalesce(given -> 'requirements', '{}'),
        given ->> 'use_case', coalesce(given ->> 'complexity', 'MODERATE')::public."ComplexityLevel", '{}', '{}'
      ) returning jsonb_build_object('id', id, 'status', status) into result;
      if coalesce((given ->> 'submit')::boolean, false) then
        result := private.submit_order(jsonb_build_object('order_id', result -> 'id'));
      end if;
  end case;
  return result;
end $$;
comment on function private.tool_run(jsonb) is 'Tools that call an operation: search, pipeline, agenda, activity, order.';

create function private.tool_schema(request jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
  return (
    select jsonb_agg(jsonb_build_object(
      'table', t.relation, 'is_written', t.is_written, 'scopes', t.domain, 'comment', obj_description(c.oid, 'pg_class'),
      'columns', (
        select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
          'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'comment', col_description(c.oid, a.attnum),
          'values', (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = a.atttypid),
          'is_written', nullif(t.is_written and has_column_privilege('authenticated', c.oid, a.attnum, 'insert'), false)
        )) order by a.attnum)
        from pg_catalog.pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          and has_column_privilege('authenticated', c.oid, a.attnum, 'select')
      )
    ) order by t.relation)
    from private.api_key_tables t join pg_catalog.pg_class c on c.oid = format('public.%I', t.relation)::regclass
  );
end $$;
comment on function private.tool_schema(jsonb) is 'The tables that tools reach, with their columns, types and values.';

grant execute on function private.tool_table(jsonb, boolean), private.tool_columns(regclass, text, text[]),
  private.tool_list(text[]), private.tool_list_records(jsonb), private.tool_get_record(jsonb),
  private.tool_create_record(jsonb), private.tool_update_record(jsonb), private.tool_run(jsonb), private.tool_schema(jsonb)
  to strive_functions, strive_api_key;
grant execute on function private.tool_columns(regclass, text, text[]) to authenticated, service_role;
grant execute on function private.submit_order(jsonb) to strive_api_key;
