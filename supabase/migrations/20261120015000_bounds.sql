-- Bounds: how large a value that a client writes may be. One call of private.bound_client_columns() gives every column
-- that a client may write a check by its type; the last chapter makes that call, and a test fails for a column without.

-- Documents -----------------------------------------------------------------------------------------------------------

-- A number such as 1e131071 takes ten bytes stored and 131,072 characters as text, so numbers are bounded before a
-- document is converted to text; a document of a few hundred bytes holds too few of them to matter. A text without
-- sixteen digits in a row has no number out of bounds, which spares most documents the slow check of every number. A
-- stored document takes at least a seventh and at most eight times its size as text.
create function private.check_json(field text, document jsonb, most integer default 65536) returns boolean
language plpgsql immutable strict set search_path = '' as $$
declare
  stored constant integer := pg_column_size(document);
  problem text;
begin
  if stored > 8 * most then
    problem := format('It is larger than %s bytes.', most);
  elsif jsonb_path_exists(document, 'strict $.**{20 to last} ? (@.type() == "object" || @.type() == "array")') then
    problem := 'It has more than 20 levels.';
  elsif stored <= 200 and document::text !~ '[0-9]{16}' then
    return true;
  elsif jsonb_path_exists(document, 'strict $.** ? (@ > 1000000000000000 || @ < -1000000000000000)') then
    problem := 'It has a number beyond 10^15.';
  elsif (stored > 4000 or document::text ~ '[0-9]{16}') and exists (
    select from jsonb_path_query(document, 'strict $.** ? (@.type() == "number")') n where scale(n::numeric) > 20
  ) then
    problem := 'It has a number with more than 20 decimals.';
  elsif stored > 16000 and (
    select count(*) from jsonb_path_query(document, 'strict $.** ? (@.type() == "object").keyvalue().key')
  ) > 2000 then
    problem := 'It has more than 2000 keys.';
  elsif stored > most / 8 and octet_length(document::text) > most then
    problem := format('It has %s bytes.', octet_length(document::text));
  end if;
  if problem is not null then
    raise exception '% is too large', field using errcode = 'PT422', detail = problem, hint = format(
      'Accepted are at most %s bytes, 20 levels, 2000 keys, and numbers up to 10^15 with at most 20 decimals.', most
    );
  end if;
  return true;
end $$;
comment on function private.check_json(text, jsonb, integer) is
  'True for a JSON document within the bounds of what a client may write; PT422 for any other.';

create function private.are_short_texts(texts text[], most integer, longest integer) returns boolean
language plpgsql immutable strict set search_path = '' as $$
begin
  return cardinality(texts) <= most and (select coalesce(max(length(t)), 0) <= longest from unnest(texts) t);
end $$;
comment on function private.are_short_texts(text[], integer, integer) is
  'Whether a list has at most so many texts, none longer than the given number of characters.';
grant execute on function private.check_json(text, jsonb, integer), private.are_short_texts(text[], integer, integer)
  to authenticated, service_role;

-- Columns -------------------------------------------------------------------------------------------------------------

create table private.column_bounds (
  relation text not null,
  name text not null,
  most integer not null,
  primary key (relation, name)
);
comment on table private.column_bounds is
  'Columns whose bound is not that of their type: bytes of JSON, characters of a text, elements of a list.';
comment on column private.column_bounds.relation is 'Table in the schema public.';
comment on column private.column_bounds.name is 'Column of the table.';
comment on column private.column_bounds.most is 'The largest size that is accepted; 0: the column has a check of its own.';
insert into private.column_bounds (relation, name, most) values
  ('tool_blueprints', 'components', 262144),
  ('tool_blueprints', 'connections', 262144),
  ('tool_blueprints', 'configuration', 262144),
  ('user_dashboards', 'layout', 262144),
  ('organizations', 'billing_email', 255),
  ('organization_invitations', 'email', 255),
  ('project_showcases', 'features', 20),
  ('project_showcases', 'technologies', 20),
  ('quick_actions', 'required_role', 10),
  ('quick_actions', 'required_tier', 10),
  -- Bounded by checks of its own.
  ('feature_flag_group_members', 'value', 0),
  ('users', 'reminder_minutes', 0),
  ('appointments', 'reminder_minutes', 0),
  ('feature_flags', 'target_orgs', 100000),
  ('feature_flags', 'target_users', 100000),
  ('system_alerts', 'target_orgs', 100000),
  ('system_alerts', 'target_users', 100000);

create function private.bound_client_columns() returns void language plpgsql set search_path = '' as $$
declare
  col record;
  most text;
  called text;
  accepted text;
begin
  for col in
    select c.oid, c.relname, a.attnum, a.attname::text as name, t.typcategory = 'A' as is_list,
      coalesce(e.typname, t.typname) as type, b.most
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_catalog.pg_type t on t.oid = a.atttypid
    left join pg_catalog.pg_type e on e.oid = t.typelem and t.typcategory = 'A'
    left join private.column_bounds b on b.relation = c.relname and b.name = a.attname
    where b.most is distinct from 0 and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attgenerated = '' and (
      has_column_privilege('authenticated', c.oid, a.attnum, 'insert, update')
      or has_column_privilege('anon', c.oid, a.attnum, 'insert, update')
    )
  loop
    called := null;
    if col.is_list and col.type = 'text' then
      most := coalesce(col.most, 100);
      called := format('%s lists at most %s texts of 500 characters', col.name, most);
      accepted := format('cardinality(%1$I) = 0 or private.are_short_texts(%1$I, %2$s, 500)', col.name, most);
    elsif col.is_list then
      most := coalesce(col.most, 1000);
      called := format('%s lists at most %s values', col.name, most);
      accepted := format('cardinality(%I) <= %s', col.name, most);
    elsif col.type = 'jsonb' then
      most := coalesce(col.most, 65536);
      called := format('%s is JSON of at most %s bytes', col.name, most);
      accepted := format('private.check_json(%L, %I, %s)', col.name, col.name, most);
    elsif col.type = 'text' and not exists (
      select from pg_catalog.pg_constraint k where k.conrelid = col.oid and k.contype = 'c'
        and pg_get_constraintdef(k.oid) ~ format('length\(\(?%s\)?(::text)?\) (<|<=) ', quote_ident(col.name))
    ) then
      most := coalesce(col.most, 10000);
      called := format('%s is at most %s characters', col.name, most);
      accepted := format('length(%I) <= %s', col.name, most);
    elsif col.type in ('numeric', 'float4', 'float8') and not exists (
      select from pg_catalog.pg_constraint k where k.conrelid = col.oid and k.contype = 'c'
        and pg_get_constraintdef(k.oid) ~ format('\(%s\)?(::[a-z ]+)? <= ', quote_ident(col.name))
    ) then
      -- NaN is larger than every number, so a largest value refuses it too.
      called := format('%s is a number up to 10^15', col.name);
      accepted := format('abs(%I) <= 1e15', col.name);
    elsif col.type in ('timestamptz', 'timestamp', 'date') then
      called := format('the time %s lies between 1900 and 2200', col.name);
      accepted := format('%I >= %L and %I < %L', col.name, '1900-01-01 00:00+00', col.name, '2200-01-01 00:00+00');
    end if;
    continue when called is null or exists (
      select from pg_catalog.pg_constraint k where k.conrelid = col.oid and k.conname = left(called, 63)
    );
    execute format('alter table public.%I add constraint %I check (%s)', col.relname, left(called, 63), accepted);
  end loop;
end $$;
comment on function private.bound_client_columns() is
  'Gives every column that clients may write a check that bounds it, unless it has one. Granted to nobody.';

-- Invalid rows --------------------------------------------------------------------------------------------------------

-- Postgres's own message of a check lacks the field and the value, and its detail has the whole row, also what the caller
-- may not see. Only values that this statement writes are shown: those of the caller, never those of other rows.
create function private.refuse_invalid_row() returns trigger language plpgsql set search_path = '' as $$
declare
  given constant jsonb := to_jsonb(new);
  before constant jsonb := case tg_op when 'UPDATE' then to_jsonb(old) else '{}' end;
  checks text;
  invalid record;
begin
  select a.attname as field into invalid
  from pg_catalog.pg_attribute a
  where a.attrelid = tg_relid and a.attnum > 0 and a.attnotnull and not a.attisdropped and a.attgenerated = ''
    and jsonb_typeof(given -> a.attname::text) = 'null' order by a.attnum limit 1;
  if found then
    raise exception '%: found null, expected a value', invalid.field using
      errcode = 'not_null_violation', hint = 'Send a value, or leave the field out if it has a default.',
      table = tg_table_name, column = invalid.field;
  end if;
  select string_agg(
    format('(%L::text[], %L, (%s) is false)', array(
      select a.attname from pg_catalog.pg_attribute a
      where a.attrelid = c.conrelid and a.attnum = any (c.conkey) order by a.attnum
    ), c.conname, pg_get_expr(c.conbin, c.conrelid)), ', ' order by c.conname
  ) into checks
  from pg_catalog.pg_constraint c where c.conrelid = tg_relid and c.contype = 'c';
  if checks is null then
    return new;
  end if;
  execute format(
    'select c.* from (select ($1::%s).*) as given, lateral (values %s) c (fields, rule, is_violated)'
    ' where c.is_violated limit 1', tg_relid::regclass, checks
  ) into invalid using new;
  if invalid.rule is not null then
    raise exception '%', coalesce((
      select string_agg(format('%s: found %s', f, left((given -> f)::text, 100)), ', ') || ', accepted: ' || invalid.rule
      from unnest(invalid.fields) f where given -> f is distinct from before -> f
    ), invalid.rule) using
      errcode = 'check_violation', table = tg_table_name, column = invalid.fields[1], constraint = invalid.rule;
  end if;
  return new;
end $$;
comment on function private.refuse_invalid_row() is
  'Before a row is written: refuses nulls and violated checks with the column, the value and the rule.';

create function private.of_new_row(expression text, columns text[]) returns text language sql immutable set search_path = '' as $$
  -- Names of columns, neither within texts nor those of types and functions.
  select string_agg(case when m.part[2] = any (columns) then 'new.' || m.part[2] else m.part[1] end, '' order by m.place)
  from regexp_matches(
    expression, '(''(?:[^'']|'''')*''|::\s*"?\w+"?|\.\s*"?\w+"?|"?\w+"?\s*\(|("[^"]+"|\w+)|.)', 'g'
  ) with ordinality m (part, place)
$$;
comment on function private.of_new_row(text, text[]) is 'The expression of a check as one of a trigger: a becomes new.a.';

-- For tables that definer operations write from what they are sent, where the message of Postgres would have the whole row.
-- The condition repeats the checks, so a valid row calls no function, and where it differs from them, Postgres checks the
-- row as ever. On tables with many writes the condition costs 5 to 10 % of them, so operations explain their refusals there.
create function private.word_refusals(tables regclass[]) returns void language plpgsql set search_path = '' as $$
declare
  target record;
begin
  for target in
    select c.oid::regclass as name, array(
      select format('new.%I is null', a.attname) from pg_catalog.pg_attribute a
      -- Policies refuse a row of no organization first.
      where a.attrelid = c.oid and a.attnum > 0 and a.attnotnull and not a.attisdropped and not c.relrowsecurity
      order by a.attnum
    ) || array(
      select format('(%s) is false', private.of_new_row(pg_get_expr(k.conbin, k.conrelid), of_check.names))
      from pg_catalog.pg_constraint k
      cross join lateral (
        select array_agg(quote_ident(a.attname)) as names, bool_or(a.attgenerated <> '') as is_generated
        from pg_catalog.pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey)
      ) of_check
      -- check_json() says itself what is wrong.
      where k.conrelid = c.oid and k.contype = 'c' and not of_check.is_generated
        and pg_get_expr(k.conbin, k.conrelid) !~ 'private\.check_json'
      order by k.conname
    ) as conditions
    from pg_catalog.pg_class c
    where c.oid = any (tables)
  loop
    -- By its name after all other triggers, which may fill fields.
    execute format(
      'create trigger word_refusal before insert or update on %s for each row when (%s)'
      ' execute function private.refuse_invalid_row()', target.name, array_to_string(target.conditions, ' or ')
    );
  end loop;
end $$;
comment on function private.word_refusals(regclass[]) is
  'Gives tables the trigger word_refusal, which explains what their checks refuse. Granted to nobody.';

create function private.explain_refusal(message text, target regclass, rule text, given jsonb) returns text
language sql stable set search_path = '' as $$
  select case
    when message like '%violates check constraint%' then coalesce((
      select string_agg(format('%s: found %s', a.attname, left((given -> a.attname::text)::text, 100)), ', ' order by a.attnum) || ', accepted: '
      from pg_catalog.pg_constraint c
      join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = any (c.conkey)
      where c.conrelid = target and c.conname = rule and given ? a.attname::text
    ), '') || rule
    else regexp_replace(message, '^null value in column "(\w+)" .*$', '\1: found null, expected a value')
  end
$$;
comment on function private.explain_refusal(text, regclass, text, jsonb) is
  'The message for a row that Postgres refused: the fields of the rule, what was sent for them and what is accepted.';
grant execute on function private.explain_refusal(text, regclass, text, jsonb) to authenticated, service_role;

-- Unreadable values ---------------------------------------------------------------------------------------------------

create function private.refuse_unreadable(target regclass, given jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  read constant text := format('select jsonb_populate_record(null::%s, $1)', target);
  field record;
begin
  execute read using given;
exception when data_exception then
  -- Postgres does not name the field.
  for field in
    select g.key, g.value, case when e.oid is not null then 'a list, each ' else '' end || coalesce((
      select 'one of ' || string_agg(v.enumlabel, ', ' order by v.enumsortorder) from pg_catalog.pg_enum v where v.enumtypid = coalesce(e.oid, t.oid)
    ), 'a value of the type ' || format_type(coalesce(e.oid, t.oid), a.atttypmod)) as accepted
    from jsonb_each(given) g
    join pg_catalog.pg_attribute a on a.attrelid = target and a.attname = g.key
    join pg_catalog.pg_type t on t.oid = a.atttypid
    left join pg_catalog.pg_type e on e.oid = t.typelem and t.typcategory = 'A'
  loop
    begin
      execute read using jsonb_build_object(field.key, field.value);
    exception when data_exception then
      raise exception '%: found %, accepted: %', field.key, left(field.value::text, 100), field.accepted using errcode = 'PT422';
    end;
  end loop;
  raise;
end $$;
comment on function private.refuse_unreadable(regclass, jsonb) is
  'PT422 for a value that the type of its column does not accept, with the column, the value and what is accepted.';
grant execute on function private.refuse_unreadable(regclass, jsonb) to authenticated, service_role;
