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
  'Gives every column that clients may write a check that bounds it, unless it has one. No role of the API may execute it.';

-- Invalid rows --------------------------------------------------------------------------------------------------------

-- Postgres's own message lacks the field and the value, and its detail has the whole row, also what the caller may not
-- see. Only values that this statement writes are shown: those of the caller, never those of other rows.
create function private.refuse_invalid_row(target regclass, sent jsonb, before jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  checks text;
  invalid record;
begin
  select a.attname as field into invalid
  from pg_catalog.pg_attribute a
  -- Policies refuse a row without an organization or an author.
  where a.attrelid = target and a.attnum > 0 and a.attnotnull and not a.attisdropped and a.attgenerated = ''
    and a.attname not in ('organization_id', 'user_id', 'created_by', 'created_by_id')
    and jsonb_typeof(sent -> a.attname::text) = 'null'
  order by a.attnum limit 1;
  if found then
    raise exception '%: found null, accepted: a value', invalid.field using
      errcode = 'not_null_violation', hint = 'Send a value, or leave the field out if it has a default.',
      table = target::text, column = invalid.field;
  end if;
  select string_agg(
    format('(%L::text[], %L, (%s) is false)', array(
      select a.attname from pg_catalog.pg_attribute a
      where a.attrelid = c.conrelid and a.attnum = any (c.conkey) order by a.attnum
    ), c.conname, pg_get_expr(c.conbin, c.conrelid)), ', ' order by c.conname
  ) into checks
  from pg_catalog.pg_constraint c where c.conrelid = target and c.contype = 'c';
  execute format(
    'select c.* from jsonb_populate_record(null::%s, $1), lateral (values %s) c (fields, rule, is_violated)'
    ' where c.is_violated limit 1', target, coalesce(checks, '(null, null, false)')
  ) into invalid using sent;
  if invalid.rule is not null then
    raise exception '%', coalesce((
      select string_agg(format('%s: found %s', f, left((sent -> f)::text, 100)), ', ') || ', accepted: ' || invalid.rule
      from unnest(invalid.fields) f where sent -> f is distinct from before -> f
    ), invalid.rule) using
      errcode = 'check_violation', table = target::text, column = invalid.fields[1], constraint = invalid.rule;
  end if;
end $$;
comment on function private.refuse_invalid_row(regclass, jsonb, jsonb) is
  'Raises for the first null or violated check of a row, with the field, the value and what is accepted.';
grant execute on function private.refuse_invalid_row(regclass, jsonb, jsonb) to authenticated, service_role;

create function private.of_new_row(expression text, columns text[]) returns text language sql immutable set search_path = '' as $$
  -- Names of columns, neither within texts nor those of types and functions.
  select string_agg(case when m.part[2] = any (columns) then 'new.' || m.part[2] else m.part[1] end, '' order by m.place)
  from regexp_matches(
    expression, '(''(?:[^'']|'''')*''|::\s*"?\w+"?|\.\s*"?\w+"?|"?\w+"?\s*\(|("[^"]+"|\w+)|.)', 'g'
  ) with ordinality m (part, place)
$$;
comment on function private.of_new_row(text, text[]) is 'The expression of a check as one of a trigger: a becomes new.a.';

-- Each table that clients write gets a trigger function of its own that repeats its checks: plpgsql compiles them once a
-- session, Postgres compiles a check or a WHEN anew in every statement. Postgres still checks the row afterwards. Foreign
-- and unique keys get a sentence as their name, because the message of Postgres has no more than that name.
create function private.explain_refusals(more regclass[] default '{}') returns void
language plpgsql set search_path = '' as $$
declare
  target record;
begin
  for target in
    select c.oid::regclass as name, left('explain_refusal_of_' || c.relname, 63) as called, array(
      select format('new.%I is null', a.attname) from pg_catalog.pg_attribute a
      where a.attrelid = c.oid and a.attnum > 0 and a.attnotnull and not a.attisdropped and a.attgenerated = ''
        and a.attname not in ('organization_id', 'user_id', 'created_by', 'created_by_id')
      order by a.attnum
    ) || array(
      select format('(%s) is false', private.of_new_row(pg_get_expr(k.conbin, k.conrelid), of_check.names))
      from pg_catalog.pg_constraint k
      cross join lateral (
        select array_agg(quote_ident(a.attname)) as names, bool_or(a.attgenerated <> '') as is_generated
        from pg_catalog.pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey)
      ) of_check
      -- check_json() raises a message of its own; is_graph() takes long, and policies come first.
      where k.conrelid = c.oid and k.contype = 'c' and not of_check.is_generated
        and pg_get_expr(k.conbin, k.conrelid) !~ 'private\.(check_json|is_graph)'
      order by k.conname
    ) as conditions
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p') and (c.oid = any (more) or c.relnamespace = 'public'::regnamespace and exists (
      select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        and has_column_privilege('authenticated', c.oid, a.attnum, 'insert, update')
    ))
  loop
    execute format($create$
      create or replace function private.%1$I() returns trigger language plpgsql set search_path = '' as $body$
      begin
        if %2$s then
          perform private.refuse_invalid_row(tg_relid, to_jsonb(new), case tg_op when 'UPDATE' then to_jsonb(old) else '{}' end);
        end if;
        return new;
      end $body$
    $create$, target.called, coalesce(nullif(array_to_string(target.conditions, E'\n          or '), ''), 'false'));
    execute format(
      'comment on function private.%I() is %L', target.called, format('Explains why a row of %s is refused.', target.name)
    );
    -- By its name after the other triggers, which may fill fields. A short condition spares rows the call: a group of a
    -- flag gets 100,000 rows in one statement.
    execute format(
      'create or replace trigger z_explain_refusal before insert or update on %s for each row %s execute function private.%I()',
      target.name, case when cardinality(target.conditions) between 1 and 4 then format('when (%s)', array_to_string(target.conditions, ' or ')) end,
      target.called
    );
  end loop;
  for target in
    select k.oid, k.conrelid::regclass as name, k.conname, left(case
        when k.contype <> 'f' then format('%s %s unique in %s%s', of_key.names,
          case of_key.columns when 1 then 'is' else 'are' end, c.relname,
          case when of_key.is_of_tenant then ' of the organization' end)
        when r.relname = 'organization_members' then of_key.names || ' is a member of the organization'
        when r.relname = 'users' then of_key.names || ' is the id of a user'
        else format('%s is the id of a row in %s', of_key.names, r.relname)
      end, 63) as called
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class c on c.oid = k.conrelid
    left join pg_catalog.pg_class r on r.oid = k.confrelid
    cross join lateral (
      select string_agg(a.attname, ' and ' order by u.place) filter (where a.attname <> 'organization_id') as names,
        count(*) filter (where a.attname <> 'organization_id') as columns, bool_or(a.attname = 'organization_id') as is_of_tenant,
        bool_or(a.attname <> 'organization_id' and has_column_privilege('authenticated', c.oid, a.attnum, 'insert, update'))
          as is_written
      from unnest(k.conkey) with ordinality u (attnum, place)
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = u.attnum
    ) of_key
    where c.relnamespace = 'public'::regnamespace and k.contype in ('f', 'p', 'u') and k.conname !~ ' ' and of_key.is_written
  loop
    execute format('alter table %s rename constraint %I to %I', target.name, target.conname, target.called);
  end loop;
end $$;
comment on function private.explain_refusals(regclass[]) is
  'Lets every table that clients write, and these tables, say which value is refused and what is accepted; can be repeated.';

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
