-- Realtime: which changes are broadcast to which channel, who may use a channel, and which tables are published.
--
-- A private channel names whose it is:
--   org:{organization}:{channel}         members listen; MEMBER and above may also send
--   org:{organization}:presence          every member, VIEWER included, may track presence
--   user:{user}:notifications            this user alone
-- The database broadcasts ids, never column values: a client that receives a message reads the rows under its policies.
-- docs/realtime.md lists channels, payloads and limits.

-- Channels ------------------------------------------------------------------------------------------------------------

-- A topic names its organization, so that a person in two organizations can listen to both.
create function private.may_use_channel(topic text, action text) returns boolean
language plpgsql stable security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  parts text[] := regexp_match(topic, '^(org|user):([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([^:].*)$');
  mine public."OrgRole";
begin
  if me is null or parts is null then
    return false;
  end if;
  if parts[1] = 'user' then
    return parts[2]::uuid = me;
  end if;
  select m.role into mine from public.organization_members m
  where m.user_id = me and m.organization_id = parts[2]::uuid and (m.blocked_until is null or m.blocked_until <= now());
  return coalesce(case action
    when 'listen' then mine is not null or private.is_admin()
    when 'broadcast' then mine <= 'MEMBER'
    when 'presence' then mine is not null and parts[3] = 'presence'
  end, false);
end $$;
comment on function private.may_use_channel(text, text) is
  'Whether the caller may listen, broadcast or track presence on the private channel with this topic.';
grant execute on function private.may_use_channel(text, text) to authenticated, service_role;

-- A project whose Realtime is too old for private channels has no such table, and private channels cannot be joined.
do $$ begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  drop policy if exists "members and owners listen" on realtime.messages;
  create policy "members and owners listen" on realtime.messages for select to authenticated
    using (extension in ('broadcast', 'presence') and (select private.may_use_channel(realtime.topic(), 'listen')));
  drop policy if exists "members broadcast and track presence" on realtime.messages;
  create policy "members broadcast and track presence" on realtime.messages for insert to authenticated
    with check (case extension
      when 'broadcast' then (select private.may_use_channel(realtime.topic(), 'broadcast'))
      when 'presence' then (select private.may_use_channel(realtime.topic(), 'presence'))
    end);
end $$;

-- Broadcasts ----------------------------------------------------------------------------------------------------------

create table private.broadcast_channels (
  table_name text primary key,
  topic text not null constraint "topic starts with org or user" check (topic ~ '^(org|user):'),
  is_published boolean not null
);
comment on table private.broadcast_channels is
  'Which table is broadcast to which channel. {column} in a topic is replaced by that column of the row.';
comment on column private.broadcast_channels.table_name is 'A table of the schema public.';
comment on column private.broadcast_channels.topic is 'The topic of the private channel.';
comment on column private.broadcast_channels.is_published is 'Whether postgres_changes also announces the table.';
insert into private.broadcast_channels (table_name, topic, is_published) values
  ('activity_feeds', 'org:{organization_id}:feed', true),
  ('leads', 'org:{organization_id}:crm', true),
  ('contacts', 'org:{organization_id}:crm', true),
  ('deals', 'org:{organization_id}:crm', true),
  ('listings', 'org:{organization_id}:crm', false),
  ('appointments', 'org:{organization_id}:crm', true),
  ('customers', 'org:{organization_id}:tasks', true),
  ('projects', 'org:{organization_id}:tasks', true),
  ('tasks', 'org:{organization_id}:tasks', true),
  ('custom_agent_orders', 'org:{organization_id}:orders', true),
  ('order_milestones', 'org:{organization_id}:orders', false),
  ('build_logs', 'org:{organization_id}:order:{order_id}', true),
  ('notifications', 'user:{user_id}:notifications', true);

-- One statement sends one message per topic: an import of 1,000 rows sends one message, which names at most 100 of them.
-- realtime.send turns a failure into a warning, so that a broadcast never undoes the write. Postgres prepares every
-- expression again in each transaction, so one query per operation finds and sends the messages.
create function private.broadcast_change() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  place text := tg_argv[1]; -- the column that the topic names beside organization_id, or null
begin
  -- A name without arguments is found faster, if it is the only one.
  if to_regproc('realtime.send') is null and to_regprocedure('realtime.send(jsonb,text,text,boolean)') is null then
    return null; -- the Realtime of this project cannot broadcast from the database
  elsif tg_op = 'INSERT' then
    perform realtime.send(jsonb_build_object(
        'table', tg_table_name, 'operation', tg_op, 'ids', (array_agg(r.id))[:100], 'rows', count(*), 'changed', null,
        'by', auth.uid()
      ), tg_op, format(tg_argv[0], r.organization_id, r.named), true)
    from (select n.organization_id, n.id, case when place is not null then to_jsonb(n) ->> place end as named from new_rows n) r
    group by r.organization_id, r.named;
  else
    perform realtime.send(jsonb_build_object(
        'table', tg_table_name, 'operation', tg_op, 'ids', (array_agg(r.id))[:100], 'rows', count(*), 'changed', null,
        'by', auth.uid()
      ), tg_op, format(tg_argv[0], r.organization_id, r.named), true)
    from (select o.organization_id, o.id, case when place is not null then to_jsonb(o) ->> place end as named from old_rows o) r
    group by r.organization_id, r.named;
  end if;
  return null;
end $$;
comment on function private.broadcast_change() is
  'Statement trigger: broadcasts the operation, ids, and who inserted or deleted them.';

-- Each table has a function of its own that names its columns: comparing JSON costs more than the message. The update of one
-- row takes a shorter way.
create function private.broadcast_updates(target regclass, topic text, place text) returns void
language plpgsql set search_path = '' as $$
declare
  relation constant text := (select c.relname from pg_catalog.pg_class c where c.oid = target);
  called constant text := 'broadcast_updates_of_' || relation;
  named constant text := coalesce('n.' || quote_ident(place), 'null::text');
  readable constant text[] := array(
    select a.attname::text from pg_catalog.pg_attribute a
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped and a.attname <> 'updated_at'
      and has_column_privilege('authenticated', target, a.attnum, 'select')
    order by a.attname::text
  );
  of_one text;
  of_many text;
begin
  select string_agg(format('case when n.%1$I is distinct from o.%1$I then %1$L end', r.name), E',\n          ' order by r.place),
    string_agg(format('case when bool_or(n.%1$I is distinct from o.%1$I) then %1$L end', r.name), E',\n            ' order by r.place)
  into of_one, of_many
  from unnest(readable) with ordinality r (name, place);
  execute format($create$
    create or replace function private.%1$I() returns trigger
    language plpgsql security definer set search_path = '' as $body$
    declare
      one record;
    begin
      if to_regproc('realtime.send') is null and to_regprocedure('realtime.send(jsonb,text,text,boolean)') is null then
        return null; -- as broadcast_change()
      end if;
      select n.organization_id, n.id, %4$s as named, array_remove(array[
          %5$s
        ], null) as changed
      into one from new_rows n, old_rows o where not exists (select from new_rows offset 1);
      if not found then
        perform realtime.send(jsonb_build_object(
            'table', %2$L, 'operation', tg_op, 'ids', r.ids, 'rows', r.affected, 'changed', r.changed, 'by', auth.uid()
          ), tg_op, format(%3$L, r.organization_id, r.named), true)
        from (
          select n.organization_id, %4$s as named, (array_agg(n.id))[:100] as ids, count(*) as affected, array_remove(array[
            %6$s
          ], null) as changed
          from new_rows n join old_rows o on o.id = n.id group by 1, 2
        ) r where r.changed <> '{}';
      elsif one.changed <> '{}' then
        perform realtime.send(jsonb_build_object(
            'table', %2$L, 'operation', tg_op, 'ids', array[one.id], 'rows', 1, 'changed', one.changed, 'by', auth.uid()
          ), tg_op, format(%3$L, one.organization_id, one.named), true);
      end if;
      return null;
    end $body$
  $create$, called, relation, topic, named, of_one, of_many);
  execute format('comment on function private.%I() is %L', called, format(
    'Statement trigger: broadcasts ids of changed rows of %s, the columns that changed and members may read, and who changed them.',
    relation
  ));
  execute format('create or replace trigger broadcast_update after update on %s referencing new table as new_rows'
    ' old table as old_rows for each statement execute function private.%I()', target, called);
end $$;
comment on function private.broadcast_updates(regclass, text, text) is
  'Has updates of a table broadcast, with its columns: call it again after a column is added or its grants change. place: the '
  'column that the topic names beside organization_id, or null.';

do $$
declare
  channel private.broadcast_channels;
  place text;
  topic text;
  arguments text;
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  for channel in select * from private.broadcast_channels loop
    place := substring(replace(channel.topic, '{organization_id}', '') from '{(\w+)}');
    topic := replace(replace(channel.topic, '{organization_id}', '%1$s'), coalesce('{' || place || '}', ''), '%2$s');
    arguments := concat_ws(', ', quote_literal(topic), quote_literal(place));
    execute format('create trigger broadcast_insert after insert on public.%I referencing new table as new_rows'
      ' for each statement execute function private.broadcast_change(%s)', channel.table_name, arguments);
    perform private.broadcast_updates(format('public.%I', channel.table_name)::regclass, topic, place);
    execute format('create trigger broadcast_delete after delete on public.%I referencing old table as old_rows'
      ' for each statement execute function private.broadcast_change(%s)', channel.table_name, arguments);
    if channel.is_published and not exists (
      select from pg_publication_tables p
      where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = channel.table_name
    ) then
      execute format('alter publication supabase_realtime add table public.%I', channel.table_name);
    end if;
  end loop;
end $$;

-- Row visibility of postgres_changes ----------------------------------------------------------------------------------
-- Realtime evaluates the select policies of a published table for each changed row, with the claims of the subscriber
-- and without request headers. It prepares a statement named walrus_rls_stmt that looks for the row by its primary key.
-- A person in two organizations must see the changes of both, so private.current_user_org() takes the organization of
-- that row, and still requires membership in it. Requests always carry request.headers and never come here.

-- Realtime asks for each row and subscriber. One query per table is planned once; text to execute would be planned each time.
do $do$ begin
  execute (select format($function$
create function private.realtime_row_org() returns uuid
language plpgsql stable security definer set search_path = '' as $$
declare
  -- The statement as words. A regular expression costs more than the rest of the policy.
  words text[] := (
    select array_remove(string_to_array(translate(lower(p.statement), e'\n\t"''=()', repeat(' ', 7)), ' '), '')
    from pg_prepared_statements p where p.name = 'walrus_rls_stmt'
  );
  place int := array_position(words, 'where');
  org uuid;
begin
  if words[place - 2] = 'from' and words[place + 1] = 'id' then
    case replace(words[place - 1], 'public.', '')%s
      else null;
    end case;
  end if;
  return org;
end $$$function$, string_agg(format('
      when %L then select organization_id into org from public.%I where id = words[place + 2]::uuid;',
    table_name, table_name), '' order by table_name)) from private.broadcast_channels where is_published);
end $do$;
comment on function private.realtime_row_org() is
  'The organization of the row that Realtime checks for a subscriber, or null outside Realtime.';
