-- Metrics: the small language in which dashboard_metrics.query says what is counted, how it becomes one statement, and
-- who may share the result. No text that a client sends becomes part of a statement: tables and columns come from the two tables
-- below, values of enums from the catalog, every other value is a parameter. docs/dashboard.md describes the language.

-- What a query may name ------------------------------------------------------------------------------------------------

create type private."MetricKind" as enum ('number', 'time', 'choice', 'text', 'flag', 'id', 'list');
comment on type private."MetricKind" is 'What can be done with a column: choice is an enum, list an array.';

create table private.metric_sources (
  name text primary key,
  is_shared boolean not null
);
comment on table private.metric_sources is 'The tables a metric or widget may read.';
comment on column private.metric_sources.is_shared is
  'Every member of an organization sees the same rows, by the policy of the table. Only then is a value kept for all.';

create table private.metric_columns (
  source text not null references private.metric_sources (name) on delete cascade,
  name text not null,
  place integer not null,
  kind private."MetricKind" not null,
  element text not null,
  labels text[],
  primary key (source, name)
);
comment on table private.metric_columns is 'The columns they may read.';
comment on column private.metric_columns.place is 'Order; the first that is a time is the one periods go by.';
comment on column private.metric_columns.element is 'Type of the value, of a list that of its elements.';
comment on column private.metric_columns.labels is 'Values of an enum.';

do $$
declare
  allowed record;
begin
  for allowed in select * from (values
    ('leads', true, '{created_at,updated_at,last_contact_at,name,email,phone,company,source,status,score,score_value,budget,'
      'assigned_to_id,converted_contact_id,timeline,min_bedrooms,property_types,cities,tags}'),
    ('contacts', true, '{created_at,updated_at,last_contact_at,name,email,phone,company,company_id,position,type,status,budget,'
      'assigned_to_id,preferred_contact_method,min_bedrooms,property_types,cities,tags}'),
    ('companies', true, '{created_at,updated_at,name,email,phone,website,industry,address,assigned_to_id,tags}'),
    ('listings', true, '{created_at,updated_at,listing_date,expiration_date,title,address,city,state,zip_code,country,'
      'property_type,status,price,price_per_sqft,bedrooms,bathrooms,square_feet,lot_size,year_built,assigned_to_id,tags,'
      'features}'),
    ('deals', true, '{created_at,updated_at,expected_close_date,actual_close_date,title,value,stage,status,probability,'
      'lost_reason,lost_reason_id,assigned_to_id,lead_id,contact_id,company_id,listing_id,tags}'),
    ('activities', true, '{created_at,completed_at,title,type,outcome,duration_minutes,created_by_id,lead_id,contact_id,'
      'deal_id,listing_id}'),
    ('appointments', true, '{start_time,end_time,created_at,title,type,status,location,assigned_to,customer_id,lead_id,'
      'contact_id,deal_id,listing_id}'),
    ('customers', true, '{created_at,updated_at,name,email,phone,company,status,source,assigned_to,tags}'),
    ('projects', true, '{created_at,updated_at,start_date,due_date,completion_date,name,status,priority,budget,'
      'progress_percentage,project_manager_id,customer_id}'),
    ('tasks', true, '{created_at,updated_at,due_date,completed_at,title,activity_type,status,priority,assigned_to,'
      'created_by,project_id,lead_id,contact_id,company_id,deal_id,listing_id,order_id,estimated_hours,actual_hours,tags}'),
    ('notes', true, '{created_at,updated_at,body,author_id,is_pinned,mentions,lead_id,contact_id,company_id,deal_id,'
      'listing_id,customer_id,project_id,task_id,appointment_id,order_id}'),
    ('custom_agent_orders', true, '{created_at,submitted_at,started_at,completed_at,delivered_at,title,status,complexity,'
      'priority,estimated_hours,estimated_cost,progress,current_stage,created_by_id,assigned_to_id}'),
    ('order_milestones', true, '{created_at,due_date,completed_at,name,stage,is_completed,order_id}'),
    ('build_logs', true, '{created_at,stage,log_level,message,order_id}'),
    ('activity_feeds', true, '{created_at,title,type,severity,entity_type,action,user_id,is_pinned,is_archived}'),
    ('attachments', true, '{created_at,file_name,file_size,mime_type,entity_type,entity_id,uploaded_by_id}'),
    ('usage_tracking', true, '{created_at,resource_type,resource_name,usage_amount,billing_period,user_id}'),
    ('agent_templates', false, '{created_at,updated_at,name,category,usage_count,rating,is_popular,is_public,created_by_id,tags}'),
    ('tool_blueprints', false, '{created_at,updated_at,name,category,complexity,version,usage_count,is_public,created_by_id,tags}'),
    ('project_showcases', false, '{created_at,updated_at,title,category,views,likes,is_public,is_featured,created_by_id,features,'
      'technologies}'),
    ('content', false, '{created_at,updated_at,published_at,title,slug,content_type,status,author_id}'),
    ('notifications', false, '{created_at,type,title,read,entity_type}'),
    ('ai_conversations', false, '{created_at,updated_at,title,context_type,ai_model,usage_tokens,is_archived}'),
    ('activity_logs', false, '{created_at,action,resource_type,resource_id,user_id}')
  ) a (source, is_shared, columns) loop
    insert into private.metric_sources (name, is_shared) values (allowed.source, allowed.is_shared);
    insert into private.metric_columns (source, name, place, kind, element, labels)
    select allowed.source, n.name, n.place,
      case
        when t.typcategory = 'A' then 'list'
        when t.typtype = 'e' then 'choice'
        when t.typname in ('int2', 'int4', 'int8', 'numeric', 'float8') then 'number'
        when t.typname = 'timestamptz' then 'time'
        when t.typname = 'bool' then 'flag'
        when t.typname = 'uuid' then 'id'
        when t.typname = 'text' then 'text'
      end::private."MetricKind",
      format('%I.%I', s.nspname, e.typname),
      (select array_agg(l.enumlabel::text order by l.enumsortorder) from pg_catalog.pg_enum l where l.enumtypid = e.oid)
    from unnest(allowed.columns::text[]) with ordinality n (name, place)
    left join pg_catalog.pg_attribute c
      on c.attrelid = format('public.%I', allowed.source)::regclass and c.attname = n.name and not c.attisdropped
    left join pg_catalog.pg_type t on t.oid = c.atttypid
    left join pg_catalog.pg_type e on e.oid = coalesce(nullif(t.typelem, 0), t.oid)
    left join pg_catalog.pg_namespace s on s.oid = e.typnamespace;
  end loop;
end $$;
grant select on private.metric_sources, private.metric_columns to authenticated, service_role;

-- From the language to a statement ------------------------------------------------------------------------------------

-- A large document is not converted to text for an excerpt: ten stored bytes may become 131,072 characters.
create function private.excerpt(document jsonb) returns text language plpgsql immutable set search_path = '' as $$
begin
  return case
    when document is null then 'nothing'
    when pg_column_size(document) <= 500 then left(document::text, 100)
    when jsonb_typeof(document) = 'string' then left(document #>> '{}', 100)
    else format('a long %s', jsonb_typeof(document)) end;
end $$;
comment on function private.excerpt(jsonb) is 'The beginning of a document, for an error message.';

create function private.refuse_query(place text, sent jsonb, expected text) returns void
language plpgsql immutable set search_path = '' as $$
begin
  raise exception 'The query is invalid' using
    errcode = 'PT422',
    detail = format('%s: found %s, expected %s.', place, private.excerpt(sent), expected),
    hint = 'docs/dashboard.md describes the query language.';
end $$;
comment on function private.refuse_query(text, jsonb, text) is
  'PT422 with the place in a query, what was found there and what is expected.';

create function private.query_column(source text, column_name jsonb, place text, kinds private."MetricKind"[])
returns private.metric_columns language plpgsql stable set search_path = '' as $$
declare
  known private.metric_columns;
begin
  select c.* into known from private.metric_columns c
  where c.source = query_column.source and to_jsonb(c.name) = column_name and c.kind = any (kinds);
  if not found then
    perform private.refuse_query(place, column_name, 'one of ' || coalesce((
      select string_agg(c.name, ', ' order by c.place) from private.metric_columns c
      where c.source = query_column.source and c.kind = any (kinds)
    ), 'none, since there is none of this kind'));
  end if;
  return known;
end $$;
comment on function private.query_column(text, jsonb, text, private."MetricKind"[]) is
  'The column a query names, if it is one of these kinds.';

-- Months and days are those of UTC, whatever the time zone of the session.
create function private.moment_from_now(shift interval) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
  return ((now() at time zone 'UTC') + shift) at time zone 'UTC';
end $$;
comment on function private.moment_from_now(interval) is 'Now and a calendar interval, counted in UTC.';

create function private.query_interval(written text) returns interval
language plpgsql immutable set search_path = '' as $$
begin
  return case when written ~ '^[1-9][0-9]{0,3}[hdw]$' or written ~ '^[1-9][0-9]{0,2}m$' or written ~ '^[1-9][0-9]?y$' then
    (left(written, -1) || case right(written, 1)
      when 'h' then ' hours' when 'd' then ' days' when 'w' then ' weeks' when 'm' then ' months' else ' years' end)::interval
  end;
end $$;
comment on function private.query_interval(text) is '"30d" as an interval, null if it is none.';

create function private.query_moment(written text) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
  shift interval := private.query_interval(substr(written, 5));
begin
  if written = 'now' then
    return now();
  elsif written ~ '^now[+-]' then
    return private.moment_from_now(case when substr(written, 4, 1) = '-' then -shift else shift end);
  elsif written ~ '^\d{4}-\d{2}-\d{2}$' then
    return (written || 'T00:00:00Z')::timestamptz;
  elsif written ~ '^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})$' then
    return written::timestamptz;
  end if;
  return null;
exception when data_exception then
  return null;
end $$;
comment on function private.query_moment(text) is 'The moment a query names, null if it is none.';

create function private.compile_value(
  target private.metric_columns, value jsonb, place text, inout given text[], out expression text
) language plpgsql stable set search_path = '' as $$
declare
  written text := value #>> '{}';
  kind text := jsonb_typeof(value);
  parameter text := format('($1[%s])', cardinality(given) + 1);
  bare text;
begin
  if target.labels is not null then
    -- The label from the catalog, not the text of the client. As a constant it can match the predicate of a partial
    -- index.
    select format('%L::%s', l, target.element) into expression from unnest(target.labels) l where kind = 'string' and l = written;
    if expression is null then
      perform private.refuse_query(place, value, 'one of ' || array_to_string(target.labels, ', '));
    end if;
    return;
  end if;
  case target.kind
    when 'number' then
      if kind = 'number' and abs(written::numeric) <= 1e15 then
        bare := round(written::numeric, 6)::text;
      end if;
      if bare is null or bare::numeric <> written::numeric then
        perform private.refuse_query(place, value, 'a number up to 10^15 with at most 6 decimals');
      end if;
    when 'time' then
      if kind = 'string' then
        bare := private.query_moment(written)::text;
      end if;
      if bare is null then
        perform private.refuse_query(
          place, value, 'a date, a time with its offset, or a moment such as "now", "now-7d" or "now+2w"'
        );
      end if;
    when 'flag' then
      if kind <> 'boolean' then
        perform private.refuse_query(place, value, 'true or false');
      end if;
      bare := written;
    when 'id' then
      if kind <> 'string' or not private.is_uuid(lower(written)) then
        perform private.refuse_query(place, value, 'an id');
      end if;
      bare := written;
    else
      if kind <> 'string' or length(written) > 255 then
        perform private.refuse_query(place, value, 'a text of at most 255 characters');
      end if;
      bare := written;
  end case;
  expression := parameter || '::' || case target.kind when 'number' then 'numeric' else target.element end;
  given := given || bare;
end $$;
comment on function private.compile_value(private.metric_columns, jsonb, text, text[]) is
  'A value as an expression: a parameter, or a label of an enum.';

-- A missing value satisfies no comparison, so null counts as false; negations use `is not true`.
create function private.compile_column_condition(
  target private.metric_columns, condition jsonb, place text, depth integer, inout given text[], out clause text
) language plpgsql stable set search_path = '' as $$
declare
  accepted constant text[] := case target.kind
    when 'number' then '{$eq,$ne,$gt,$gte,$lt,$lte,$in,$nin,$exists,$not}'
    when 'time' then '{$eq,$ne,$gt,$gte,$lt,$lte,$in,$nin,$exists,$not}'
    when 'flag' then '{$eq,$ne,$exists,$not}'
    when 'list' then '{$in,$nin,$all,$size,$exists,$not}'
    else '{$eq,$ne,$in,$nin,$exists,$not}' end;
  subject constant text := format('s.%I', target.name);
  operator text;
  operand jsonb;
  here text;
  part text;
  listed text[];
  parts text[] := '{}';
begin
  if depth > 10 then
    perform private.refuse_query(place, condition, 'at most 10 levels');
  elsif jsonb_typeof(condition) <> 'object' then
    condition := jsonb_build_object('$eq', condition);
  elsif condition = '{}' then
    perform private.refuse_query(place, condition, 'a value or operators: ' || array_to_string(accepted, ', '));
  end if;
  for operator, operand in select * from jsonb_each(condition) loop
    here := place || '.' || operator;
    if operator <> all (accepted) then
      perform private.refuse_query(place, to_jsonb(operator), 'one of ' || array_to_string(accepted, ', '));
    elsif operator = '$not' then
      select c.given, c.clause into given, part from private.compile_column_condition(target, operand, here, depth + 1, given) c;
      part := format('(%s) is not true', part);
    elsif operator = '$exists' then
      if jsonb_typeof(operand) <> 'boolean' then
        perform private.refuse_query(here, operand, 'true or false');
      end if;
      part := subject || case when operand = 'true' then ' is not null' else ' is null' end;
    elsif operator = '$size' then
      if jsonb_typeof(operand) <> 'number' or (operand #>> '{}') !~ '^[0-9]{1,4}$' then
        perform private.refuse_query(here, operand, 'a whole number from 0 to 9999');
      end if;
      given := given || (operand #>> '{}');
      part := format('cardinality(%s) = ($1[%s])::integer', subject, cardinality(given));
    elsif operator in ('$in', '$nin', '$all') then
      if jsonb_typeof(operand) <> 'array' or jsonb_array_length(operand) > 100 then
        perform private.refuse_query(here, operand, 'a list of at most 100 values');
      end if;
      listed := '{}';
      for i in 0 .. jsonb_array_length(operand) - 1 loop
        select v.given, v.expression into given, part
        from private.compile_value(target, operand -> i, format('%s[%s]', here, i), given) v;
        listed := listed || part;
      end loop;
      part := format('array[%s]::%s[]', array_to_string(listed, ', '), target.element);
      part := case
        when target.kind <> 'list' then format('%s = any (%s)', subject, part)
        when operator = '$all' then format('%s @> %s', subject, part)
        else format('%s && %s', subject, part) end;
      if operator = '$nin' then
        part := format('(%s) is not true', part);
      end if;
    elsif operand = 'null' and operator in ('$eq', '$ne') then
      part := subject || case operator when '$eq' then ' is null' else ' is not null' end;
    else
      select v.given, v.expression into given, part from private.compile_value(target, operand, here, given) v;
      part := format('%s %s %s', subject, case operator
        when '$eq' then '=' when '$ne' then 'is distinct from' when '$gt' then '>' when '$gte' then '>='
        when '$lt' then '<' else '<=' end, part);
    end if;
    parts := parts || part;
  end loop;
  clause := array_to_string(parts, ' and ');
end $$;
comment on function private.compile_column_condition(private.metric_columns, jsonb, text, integer, text[]) is
  'The condition on one column, as SQL.';

create function private.compile_condition(
  source text, condition jsonb, place text, depth integer, inout given text[], out clause text
) language plpgsql stable set search_path = '' as $$
declare
  key text;
  value jsonb;
  here text;
  part text;
  listed text[];
  parts text[] := '{}';
begin
  if depth > 10 then
    perform private.refuse_query(place, condition, 'at most 10 levels');
  elsif jsonb_typeof(condition) <> 'object' then
    perform private.refuse_query(place, condition, 'an object of conditions');
  end if;
  for key, value in select * from jsonb_each(condition) loop
    here := place || '.' || key;
    if key in ('$and', '$or', '$nor') then
      if jsonb_typeof(value) <> 'array' then
        perform private.refuse_query(here, value, 'a list of conditions');
      end if;
      listed := '{}';
      for i in 0 .. jsonb_array_length(value) - 1 loop
        select c.given, c.clause into given, part
        from private.compile_condition(source, value -> i, format('%s[%s]', here, i), depth + 1, given) c;
        listed := listed || format('(%s)', part);
      end loop;
      part := coalesce(nullif(array_to_string(listed, case key when '$and' then ' and ' else ' or ' end), ''), 'true');
      if key = '$nor' then
        part := format('(%s) is not true', part);
      end if;
    elsif key = '$not' then
      select c.given, c.clause into given, part
      from private.compile_condition(source, value, here, depth + 1, given) c;
      part := format('(%s) is not true', part);
    elsif starts_with(key, '$') then
      perform private.refuse_query(place, to_jsonb(key), 'a column, $and, $or, $nor or $not');
    else
      select c.given, c.clause into given, part from private.compile_column_condition(
        private.query_column(source, to_jsonb(key), place, enum_range(null::private."MetricKind")), value, here, depth + 1, given
      ) c;
    end if;
    parts := parts || format('(%s)', part);
  end loop;
  clause := coalesce(nullif(array_to_string(parts, ' and '), ''), 'true');
end $$;
comment on function private.compile_condition(text, jsonb, text, integer, text[]) is
  'A condition on rows of a source, as SQL over `s` with the values in $1.';

create function private.query_source(named jsonb, place text) returns private.metric_sources
language plpgsql stable set search_path = '' as $$
declare
  known private.metric_sources;
begin
  select s.* into known from private.metric_sources s where to_jsonb(s.name) = named;
  if not found then
    perform private.refuse_query(
      place, named, 'one of ' || (select string_agg(s.name, ', ' order by s.name) from private.metric_sources s)
    );
  end if;
  return known;
end $$;
comment on function private.query_source(jsonb, text) is 'The source a query names.';

create type private.compiled_metric as (
  statement text, given text[], is_shared boolean, begins timestamptz, began timestamptz, bucket text, empty numeric
);
comment on type private.compiled_metric is
  'A statement over $1 given values, $2 organization, $3 begin of the period, $4 of the one before, $5 now. `bucket` is '
  'day, week or month where those without rows are to be filled in with `empty`.';

create function private.compile_metric(query jsonb) returns private.compiled_metric
language plpgsql stable set search_path = '' as $$
declare
  known constant text[] := '{source,aggregate,column,where,period,time,group_by}';
  aggregates constant text[] := '{count,sum,avg,min,max}';
  buckets constant text[] := '{day,week,month}';
  c private.compiled_metric;
  source private.metric_sources;
  timed text;
  aggregate text;
  measured text;
  grouped text;
  period interval;
  clause text := 'true';
  total text;
  value text;
  previous text;
begin
  if jsonb_typeof(query) is distinct from 'object' then
    perform private.refuse_query('query', query, 'an object');
  elsif pg_column_size(query) > 20000 then
    perform private.refuse_query('query', to_jsonb(pg_column_size(query) || ' bytes'), 'at most 20000');
  elsif query - known <> '{}' then
    perform private.refuse_query(
      'query', (select to_jsonb(k) from jsonb_object_keys(query - known) k limit 1), 'only ' || array_to_string(known, ', ')
    );
  end if;
  source := private.query_source(query -> 'source', 'query.source');
  c.is_shared := source.is_shared;
  c.given := '{}';
  select a into aggregate from unnest(aggregates) a where to_jsonb(a) = query -> 'aggregate';
  if aggregate is null then
    perform private.refuse_query('query.aggregate', query -> 'aggregate', 'one of ' || array_to_string(aggregates, ', '));
  end if;
  if query ? 'column' or aggregate <> 'count' then
    measured := format('s.%I', (private.query_column(source.name, query -> 'column', 'query.column',
      case aggregate when 'count' then enum_range(null::private."MetricKind") else '{number}' end)).name);
  end if;
  select t.name into timed from private.metric_columns t
  where t.source = source.name and t.kind = 'time' order by t.place limit 1;
  if query ? 'time' then
    timed := (private.query_column(source.name, query -> 'time', 'query.time', '{time}')).name;
  end if;
  timed := format('s.%I', timed);
  if query ? 'period' then
    if jsonb_typeof(query -> 'period') = 'string' then
      period := private.query_interval(query ->> 'period');
    end if;
    if period is null then
      perform private.refuse_query('query.period', query -> 'period', 'a span such as "24h", "30d", "12w", "6m" or "1y"');
    end if;
    c.begins := private.moment_from_now(-period);
    c.began := private.moment_from_now(-2 * period);
  end if;
  select b into c.bucket from unnest(buckets) b where to_jsonb(b) = query -> 'group_by';
  if period is null and (c.bucket is not null or query ? 'time') then
    perform private.refuse_query('query.period', null, 'a span such as "30d" beside time or a group_by of days');
  elsif c.bucket is not null then
    if (now() - c.begins) / 400 > ('1 ' || c.bucket)::interval then
      perform private.refuse_query('query.group_by', query -> 'group_by', 'at most 400 of them in the period');
    end if;
    grouped := format('date_trunc(%L, %s at time zone ''UTC'')::date', c.bucket, timed);
  elsif query ? 'group_by' then
    grouped := format('s.%I', (private.query_column(
      source.name, query -> 'group_by', 'query.group_by (beside day, week and month)', '{choice,flag,id,text}'
    )).name);
  end if;
  if query ? 'where' then
    select w.given, w.clause into c.given, clause
    from private.compile_condition(source.name, query -> 'where', 'query.where', 1, c.given) w;
  end if;

  c.empty := case when aggregate in ('count', 'sum') then 0 end;
  -- A numeric can be NaN, which JSON cannot express.
  total := case
    when aggregate = 'sum' then 'nullif(coalesce(sum(s.c)%s, 0)::numeric, ''NaN'')'
    when aggregate <> 'count' then format('nullif((%s(s.c)%%s)::numeric, ''NaN'')', aggregate)
    when measured is null then 'count(*)%s'
    else 'count(s.c)%s' end;
  c.statement := format(
    'select %s as c, %s as b, %s as is_now from public.%I s where s.organization_id = $2%s and (%s)',
    coalesce(measured, 'null'), coalesce(grouped, 'null'), case when period is null then 'true' else timed || ' > $3' end,
    source.name, case when period is null then '' else format(' and %1$s > $4 and %1$s <= $5', timed) end, clause
  );
  value := format(total, case when period is null then '' else ' filter (where s.is_now)' end);
  previous := case when period is null then 'null' else format(total, ' filter (where not s.is_now)') end;
  c.statement := case when grouped is null then format(
    'select jsonb_build_object(''value'', %s, ''previous'', %s) from (%s) s', value, previous, c.statement
  ) else format(
    'select jsonb_build_object('
      '''value'', max(g.value) filter (where g.is_whole), ''previous'', max(g.previous) filter (where g.is_whole), '
      '''series'', coalesce(jsonb_agg(jsonb_build_object(''group'', g.b, ''value'', g.value) order by g.place) '
        'filter (where not g.is_whole and g.place <= %4$s), ''[]''), '
      '''more'', count(*) > %4$s) '
    'from (select s.b, grouping(s.b) = 1 as is_whole, %1$s as value, %2$s::numeric as previous, '
      'row_number() over (order by grouping(s.b) desc, %5$s s.b) as place '
      'from (%3$s) s group by grouping sets ((), (s.b)) having grouping(s.b) = 1 or count(*) filter (where s.is_now) > 0) g',
    value, previous, c.statement, case when c.bucket is null then 51 else 500 end,
    case when c.bucket is null then value || ' desc nulls last, ' else '' end
  ) end;
  return c;
end $$;
comment on function private.compile_metric(jsonb) is 'Validates a query and compiles it to one statement.';

-- Evaluation ----------------------------------------------------------------------------------------------------------

create function private.refuse_costly(statement text, given text[], org uuid, begins timestamptz, began timestamptz)
returns void language plpgsql set search_path = '' as $$
declare
  -- About half a million rows, which take up to a second (measured with 1.2 million leads).
  highest constant numeric := 200000;
  plan json;
  cost numeric;
begin
  -- The organization is a constant to the planner, so that it knows how large this tenant is.
  execute 'explain (format json) ' || statement into plan using given, org, begins, began, now();
  cost := plan #>> '{0,Plan,Total Cost}';
  if cost > highest then
    raise exception 'This query would read too much' using
      -- Without the estimate itself: it comes from the rows of all tenants.
      errcode = 'PT422', detail = format('Its estimated cost is higher; at most %s is allowed.', highest),
      hint = 'Give it a shorter "period", or a "where" with fewer rows.';
  end if;
end $$;
comment on function private.refuse_costly(text, text[], uuid, timestamptz, timestamptz) is
  'PT422 if the planner expects a compiled statement to read too much of the tenant.';

create function private.evaluate(query jsonb, org uuid) returns jsonb
language plpgsql set search_path = '' set jit = off as $$
declare
  c private.compiled_metric := private.compile_metric(query);
  answer jsonb;
  value numeric;
  previous numeric;
begin
  perform private.refuse_costly(c.statement, c.given, org, c.begins, c.began);
  execute c.statement into answer using c.given, org, c.begins, c.began, now();
  if c.bucket is not null then
    answer := answer - 'more' || jsonb_build_object('series', (
      select jsonb_agg(jsonb_build_object('group', b.day, 'value', coalesce(s.value, to_jsonb(c.empty))) order by b.day)
      from (
        select t::date as day from generate_series(
          date_trunc(c.bucket, c.begins at time zone 'UTC'), now() at time zone 'UTC', ('1 ' || c.bucket)::interval
        ) t
      ) b
      left join jsonb_to_recordset(answer -> 'series') s ("group" date, value jsonb) on s."group" = b.day
    ));
  end if;
  if c.begins is null then
    return answer - 'previous';
  end if;
  value := answer ->> 'value';
  previous := answer ->> 'previous';
  return answer || jsonb_build_object('change', round((value - previous) / nullif(abs(previous), 0), 4));
end $$;
comment on function private.evaluate(jsonb, uuid) is
  'Value of a query in an organization, as far as the caller may read its rows.';

create function private.metric_status(value numeric, target float8, warning float8, critical float8) returns text
language plpgsql immutable set search_path = '' as $$
declare
  -- Lower is worse when critical lies below warning, or a lone threshold below the target.
  lower_is_worse boolean := coalesce(critical < warning, coalesce(critical, warning) < target, false);
begin
  return case
    when value is null or coalesce(critical, warning) is null then null
    when lower_is_worse and value <= critical or not lower_is_worse and value >= critical then 'critical'
    when lower_is_worse and value <= warning or not lower_is_worse and value >= warning then 'warning'
    else 'normal' end;
end $$;
comment on function private.metric_status(numeric, float8, float8, float8) is
  'critical, warning or normal; null without a value or thresholds.';

create function private.answer_metric(metric public.dashboard_metrics, org uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
  is_kept boolean := metric.organization_id = org and metric.cached_result is not null
    and metric.last_calculated > now() - metric.refresh_rate * interval '1 second';
  answer jsonb;
begin
  answer := case when is_kept then metric.cached_result else private.evaluate(metric.query, org) end;
  return jsonb_build_object(
    'id', metric.id, 'name', metric.name, 'category', metric.category, 'unit', metric.unit, 'format', metric.format,
    'target_value', metric.target_value, 'chart_type', metric.chart_type, 'color', metric.color, 'icon', metric.icon,
    'status', private.metric_status(
      (answer ->> 'value')::numeric, metric.target_value, metric.warning_threshold, metric.critical_threshold
    ),
    'calculated_at', case when is_kept then metric.last_calculated else now() end
  ) || answer;
end $$;
comment on function private.answer_metric(public.dashboard_metrics, uuid) is
  'A metric with its value: the one kept for all members while it is fresh, else counted for the caller.';

create function public.evaluate_metric(query jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  return private.evaluate(query, private.require_org('VIEWER'));
end $$;
comment on function public.evaluate_metric(jsonb) is
  'The result of a query of the metric language over the rows that the caller may read.';

create function public.metric_value(metric_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid := private.require_org('VIEWER');
  metric public.dashboard_metrics;
begin
  select m.* into metric from public.dashboard_metrics m where m.id = metric_id;
  if not found then
    raise exception 'There is no such metric' using errcode = 'PT404', detail = format('Found no metric %s.', metric_id);
  end if;
  return private.answer_metric(metric, org);
end $$;
comment on function public.metric_value(uuid) is
  'A metric with its value, that of the period before, its series and its status.';

-- Writing a metric ----------------------------------------------------------------------------------------------------

create function private.validate_metric() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'UPDATE' then
    if (new.query, new.organization_id) is not distinct from (old.query, old.organization_id) then
      return new;
    end if;
    new.cached_value := null;
    new.cached_result := null;
    new.last_calculated := null;
  end if;
  -- Otherwise the policy or the check of the column refuses it.
  if jsonb_typeof(new.query) = 'object' and (
    not row_security_active(tg_relid) or new.organization_id = private.current_user_org('ADMIN')
    or new.organization_id is null and private.is_admin()
  ) then
    perform private.compile_metric(new.query);
  end if;
  return new;
end $$;
comment on function private.validate_metric() is
  'Refuses a query that cannot be evaluated; a new query clears the cached value.';
create trigger understand before insert or update of query, organization_id on public.dashboard_metrics
  for each row execute function private.validate_metric();

-- The job -------------------------------------------------------------------------------------------------------------

-- It runs without a caller and past the policies, so it reads only sources of which every member sees the same rows, and for
-- one organization by name, and never for metrics of the system, whose value each caller has of their own.
create function private.refresh_dashboard_metrics() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  deadline constant timestamptz := clock_timestamp() + interval '4 seconds';
  metric public.dashboard_metrics;
  answer jsonb;
  refreshed integer := 0;
  failed integer := 0;
begin
  for metric in
    select m.* from public.dashboard_metrics m
    join private.metric_sources s on s.name = m.query ->> 'source' and s.is_shared
    where m.organization_id is not null
      and (m.last_calculated is null or m.last_calculated <= now() - m.refresh_rate * interval '1 second')
    order by m.last_calculated nulls first, m.id limit 2000 for no key update of m skip locked
  loop
    exit when clock_timestamp() > deadline;
    begin
      answer := private.evaluate(metric.query, metric.organization_id);
      refreshed := refreshed + 1;
    exception when others then
      -- The error is shown to a caller who evaluates the metric.
      answer := null;
      failed := failed + 1;
    end;
    update public.dashboard_metrics m
    set cached_result = answer, cached_value = (answer ->> 'value')::float8, last_calculated = now()
    where m.id = metric.id;
  end loop;
  return jsonb_build_object('refreshed', refreshed, 'failed', failed);
end $$;
comment on function private.refresh_dashboard_metrics() is
  'Computes the cached values of stale metrics again, oldest first, for at most four seconds.';

grant execute on function private.excerpt(jsonb), private.refuse_query(text, jsonb, text),
  private.query_column(text, jsonb, text, private."MetricKind"[]), private.moment_from_now(interval),
  private.query_interval(text), private.query_moment(text), private.query_source(jsonb, text),
  private.compile_value(private.metric_columns, jsonb, text, text[]),
  private.compile_column_condition(private.metric_columns, jsonb, text, integer, text[]),
  private.compile_condition(text, jsonb, text, integer, text[]), private.compile_metric(jsonb),
  private.refuse_costly(text, text[], uuid, timestamptz, timestamptz), private.evaluate(jsonb, uuid),
  private.metric_status(numeric, float8, float8, float8), private.answer_metric(public.dashboard_metrics, uuid),
  public.evaluate_metric(jsonb), public.metric_value(uuid), private.validate_metric()
  to authenticated, service_role;
grant execute on function private.refresh_dashboard_metrics() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('refresh_dashboard_metrics', '* * * * *', 'private.refresh_dashboard_metrics', 'Count stale metrics again.');
