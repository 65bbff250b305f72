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

-- What a caller may do on a private channel. Probes of both kinds are inserted and read back under the policies; the
-- transaction is rolled back by the caller.
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
  perform set_config('role', 'none', true);
  return rights;
end $$;
revoke execute on function realtime.channel_rights(text, text, text, text) from public;
grant execute on function realtime.channel_rights(text, text, text, text) to supabase_replication_admin;

-- Which identities a select would show each row. `changed` is [[table, primary key, [numbers of identities]], …], the
-- result the same without the identities that see nothing. As on hosted projects policies run without request headers,
-- beside a prepared statement named walrus_rls_stmt that names the row. A statement with parameters, which Postgres plans
-- once for each table and role, does the same.
create function realtime.visible(changed jsonb, identities jsonb) returns jsonb language plpgsql as $$
declare
  change jsonb;
  identity jsonb;
  number jsonb;
  relation regclass;
  keys record;
  planned text;
  known text[] := array(select name from pg_prepared_statements);
  seen boolean;
  answer jsonb;
  answers jsonb[] := '{}';
begin
  for change in select value from jsonb_array_elements(changed) loop
    answer := '[]';
    relation := change ->> 0;
    select string_agg(format('%I=%L', key, value), ' and ') as named, string_agg(format('%I=$%s', key, at), ' and ') as wanted,
      string_agg(quote_literal(value), ', ') as given
    into keys from jsonb_each_text(change -> 1) with ordinality as each (key, value, at);
    execute format('prepare walrus_rls_stmt as select exists(select 1 from %s where %s)', relation, keys.named);
    for number in select value from jsonb_array_elements(change -> 2) loop
      identity := identities -> number::int;
      begin
        planned := 'visible_' || md5(format('%s %s %s', relation::oid, identity ->> 'role', keys.wanted));
        if planned <> all(known) then
          execute format('prepare %I as select exists(select 1 from %s where %s)', planned, relation, keys.wanted);
          known := known || planned;
        end if;
        perform set_config('role', identity ->> 'role', true),
          set_config('request.jwt.claims', identity ->> 'claims', true);
        execute format('execute %I(%s)', planned, keys.given) into seen;
      exception when others then
        seen := false; -- a policy that fails shows nothing
      end;
      perform set_config('role', 'none', true);
      if seen then
        answer := answer || number;
      end if;
    end loop;
    deallocate walrus_rls_stmt;
    answers := answers || answer;
  end loop;
  return to_jsonb(answers);
end $$;
revoke execute on function realtime.visible(jsonb, jsonb) from public;
grant execute on function realtime.visible(jsonb, jsonb) to supabase_replication_admin;
