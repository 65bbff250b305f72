-- What Realtime needs in the database, as on hosted Supabase: functions with which triggers broadcast, a publication of
-- the messages, and two checks that the local Realtime calls in the login role supabase_replication_admin.
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql set search_path = '' as $$
declare
  message uuid := gen_random_uuid();
begin
  perform set_config('realtime.topic', topic, true);
  insert into realtime.messages (id, payload, event, topic, private, extension) values (
    message, case when payload ? 'id' then payload else payload || jsonb_build_object('id', message) end,
    event, topic, private, 'broadcast'
  );
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm; -- a broadcast never undoes the write that caused it
end $$;

create function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text, new record, old record,
  level text default 'ROW'
) returns void language plpgsql set search_path = '' as $$
begin
  if level = 'STATEMENT' then
    raise exception 'function can only be triggered for each row, not for each statement';
  elsif operation not in ('INSERT', 'UPDATE', 'DELETE') then
    raise exception 'Unexpected operation type: %', operation;
  end if;
  perform realtime.send(jsonb_build_object('old_record', old, 'record', new, 'operation', operation,
    'table', table_name, 'schema', table_schema), event_name, topic_name);
end $$;
grant execute on all functions in schema realtime to postgres, anon, authenticated, service_role;

create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
  where extension = 'broadcast' and private;
create publication supabase_realtime_messages_publication for table realtime.messages
  with (publish = 'insert', publish_via_partition_root = true);
grant usage on schema realtime to supabase_realtime_admin, supabase_replication_admin;

-- What a caller may do on a private channel. Probes of both kinds are inserted and read back under the policies; the end of
-- the inner block undoes them.
create function realtime.channel_rights(topic text, role text, claims text, headers text) returns jsonb
language plpgsql as $$
declare
  probes jsonb := jsonb_build_object('broadcast', gen_random_uuid(), 'presence', gen_random_uuid());
  rights jsonb := '{}';
  kind text;
  readable boolean;
  writable boolean;
begin
  perform set_config('role', 'supabase_realtime_admin', true);
  insert into realtime.messages (id, topic, extension, private)
  select value::uuid, topic, key, true from jsonb_each_text(probes);
  perform set_config('realtime.topic', topic, true), set_config('request.jwt.claims', claims, true),
    set_config('request.headers', headers, true), set_config('role', role, true);
  for kind in select jsonb_object_keys(probes) loop
    readable := exists (select from realtime.messages m where m.id = (probes ->> kind)::uuid);
    begin
      insert into realtime.messages (topic, extension, private) values (topic, kind, true);
      writable := true;
    exception when insufficient_privilege then
      writable := false;
    end;
    rights := rights || jsonb_build_object(kind, jsonb_build_object('read', readable, 'write', writable));
  end loop;
  raise exception using errcode = 'PROBE';
exception when sqlstate 'PROBE' then
  return rights;
end $$;
revoke execute on function realtime.channel_rights(text, text, text, text) from public;
grant execute on function realtime.channel_rights(text, text, text, text) to supabase_replication_admin;

-- Which of these rows of one organization a select shows to an identity: `rows` has the primary key of each by the condition
-- that finds it. As on hosted projects policies run without request headers, beside a prepared statement walrus_rls_stmt that
-- finds the row. Here it finds the first of the rows and one statement selects them all, because policies read from it the
-- organization and nothing else. The next row is named if the first no longer exists: even service_role does not see it.
create function realtime.visible(relation regclass, rows jsonb, role text, claims text) returns text[] language plpgsql as $$
declare
  planned text := 'visible_' || md5(relation::oid || role); -- planned once for each table and role
  named text;
  key jsonb;
  failed boolean := false;
  seen text[];
begin
  if not exists (select from pg_prepared_statements where name = planned) then
    execute (
      select format('prepare %I (jsonb) as select array_agg(named) from jsonb_each($1) given (named, key),
        lateral (select from %s r where %s limit 1) found', planned, relation,
        string_agg(format('r.%I = (key ->> %L)::%s', attname, attname, format_type(atttypid, atttypmod)), ' and '))
      from pg_index join pg_attribute on attrelid = indrelid and attnum = any(indkey) where indrelid = relation and indisprimary
    );
  end if;
  for named, key in select * from jsonb_each(rows) loop
    execute format('prepare walrus_rls_stmt as select exists(select 1 from %s where %s)', relation, named);
    begin
      perform set_config('role', role, true), set_config('request.jwt.claims', claims, true);
      execute format('execute %I(%L)', planned, rows) into seen;
    exception when others then
      failed := true; -- a policy that fails for a row does not show this row
    end;
    perform set_config('role', 'none', true);
    deallocate walrus_rls_stmt;
    exit when named = any(seen) or rows - named = '{}';
    if failed then
      return array(
        select unnest(realtime.visible(relation, jsonb_build_object(e.key, e.value), role, claims)) from jsonb_each(rows) e
      );
    end if;
    exit when realtime.visible(relation, jsonb_build_object(named, key), 'service_role', '{}') <> '{}';
    rows := rows - named;
  end loop;
  return coalesce(seen, '{}');
end $$;
revoke execute on function realtime.visible(regclass, jsonb, text, text) from public;
grant execute on function realtime.visible(regclass, jsonb, text, text) to supabase_replication_admin;
