-- Exporting an organization: everything that is its own, as of one moment, into the private bucket `exports`.

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types) values
  ('exports', 'exports', false, 50 * 1024 * 1024, '{application/x-ndjson,text/csv,application/json}')
on conflict (id) do update set public = excluded.public, file_size_limit = excluded.file_size_limit,
  allowed_mime_types = excluded.allowed_mime_types;

create table private.exports (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  requested_by uuid not null,
  is_complete boolean not null,
  format text not null constraint "format is ndjson or csv" check (format in ('ndjson', 'csv')),
  started_at timestamptz not null default now(),
  finished_at timestamptz,
  error text,
  manifest_sha256 text
);
comment on table private.exports is 'Exports of organizations: who requested them, and their outcome.';
comment on column private.exports.is_complete is
  'True for a platform admin: all data. False for an owner: without the data of single members, and without secrets.';
comment on column private.exports.manifest_sha256 is 'Of the manifest, which has the hashes of all other files.';
create index exports_organization_idx on private.exports (organization_id, started_at desc);
insert into private.personal_columns (relation, name, on_deletion, because)
values ('private.exports', 'requested_by', 'KEEP', 'a pseudonym: it points to an account without a name');

-- What an organization has ----------------------------------------------------------------------------------------------

-- Found in the catalog, so that a new table is among them by being there: what carries organization_id, what hangs on
-- such a row without carrying it, and the organization itself.
create function private.export_relations() returns table (relation regclass, condition text, is_personal boolean)
language sql stable security definer set search_path = '' as $$
  with carrying as (
    select c.oid, c.relname from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
    where c.relkind in ('r', 'p') and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
      -- Tables of the platform's own work.
      and not (c.relnamespace = 'private'::regnamespace and c.relname in (
        'emails', 'exports', 'organization_moves', 'row_counts', 'template_search', 'usage_entries'
      ))
  )
  select 'public.organizations'::regclass, 't.id = $1', false
  union all
  select c.oid::regclass, 't.organization_id = $1',
    -- Data of a single member, or a secret: not for the owner.
    c.relname in ('ai_conversations', 'notifications', 'activity_feed_reads', 'capture_tokens', 'onboarding_sessions',
      'organization_invitations', 'api_keys')
  from carrying c
  union all
  select k.conrelid::regclass, format('t.%I in (select p.%I from %s p where p.organization_id = $1)', a.attname,
    parent.attname, k.confrelid::regclass), true
  from pg_catalog.pg_constraint k
  join carrying c on c.oid = k.confrelid
  join pg_catalog.pg_class child on child.oid = k.conrelid
  join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
  join pg_catalog.pg_attribute parent on parent.attrelid = k.confrelid and parent.attnum = k.confkey[1]
  where k.contype = 'f' and cardinality(k.conkey) = 1 and a.attnotnull
    and child.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
    and k.conrelid not in (select oid from carrying)
$$;
comment on function private.export_relations() is
  'Every table with rows of an organization and the condition that finds them ($1 is its id).';

create function private.people_condition(complete boolean) returns text
language sql stable set search_path = '' as $$
  select case
    -- The log has every membership there ever was.
    when not complete then 'select m.user_id from public.organization_members m where m.organization_id = $1 union '
      'select l.resource_id from public.activity_logs l where l.organization_id = $1 '
      'and l.resource_type = ''organization_members'' and l.resource_id is not null union '
      'select l.resource_id from private.archived_activity_logs l where l.organization_id = $1 '
      'and l.resource_type = ''organization_members'' and l.resource_id is not null'
    else (
      select string_agg(
        format('select t.%I from %s t where %s', a.attname, r.relation, r.condition), ' union '
        order by r.relation::text, a.attname
      )
      from private.export_relations() r
      join pg_catalog.pg_constraint k
        on k.conrelid = r.relation and k.contype = 'f' and k.confrelid = 'public.users'::regclass
      join pg_catalog.pg_attribute a on a.attrelid = r.relation and a.attnum = k.conkey[1]
    ) end
$$;
comment on function private.people_condition(boolean) is
  'The query for the users in an export of an organization ($1). For an owner: who is or was a member. In a complete '
  'export, which a platform admin makes to restore it: everyone its rows point to.';

create function private.path_of_ids() returns jsonpath language sql immutable set search_path = ''
return 'strict $.** ? (@ like_regex "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")'::jsonpath;
comment on function private.path_of_ids() is 'The path to everything in a document that is written as an id.';

-- In an owner's export, the id of a person who never was a member is null, and zeros in a document.
create function private.without_strangers(document jsonb, people uuid[]) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  content text;
  stranger uuid;
begin
  -- By a path: to search the text takes five times as long, and a log has many long documents.
  for stranger in
    select u.id
    from pg_catalog.jsonb_path_query(document, private.path_of_ids()) found_id
    join public.users u on u.id = (found_id #>> '{}')::uuid
    where u.id <> all (people)
  loop
    content := replace(coalesce(content, document::text), stranger::text, '00000000-0000-0000-0000-000000000000');
  end loop;
  return coalesce(content::jsonb, document);
end $$;
comment on function private.without_strangers(jsonb, uuid[]) is 'A document in which the ids of all users but these are zeros.';

create function private.export_column(relation regclass, name text) returns text
language sql stable set search_path = '' as $$
  select format(case
    when k.target = 'public.users'::regclass and not a.attnotnull
      then 'case when t.%1$I in (select p.user_id from people p) then t.%1$I end as %1$I'
    -- Without a key, it may name a person or another record.
    when k.target is null and a.atttypid = 'uuid'::regtype and not a.attnotnull
      then 'case when t.%1$I in (select p.user_id from people p) '
        'or not exists (select from public.users u where u.id = t.%1$I) then t.%1$I end as %1$I'
    -- Most documents name no stranger: to see that in the query of all rows takes a third of the time of a call for each.
    when a.atttypid = 'jsonb'::regtype
      then 'case when exists (select from pg_catalog.jsonb_path_query(t.%1$I, private.path_of_ids()) f (id) '
        'join public.users u on u.id = (f.id #>> ''{}'')::uuid where u.id not in (select p.user_id from people p)) '
        'then private.without_strangers(t.%1$I, array(select p.user_id from people p)) else t.%1$I end as %1$I'
    else 't.%I' end, name)
  from pg_catalog.pg_attribute a
  left join lateral (
    select k.confrelid as target from pg_catalog.pg_constraint k
    where k.conrelid = relation and k.contype = 'f' and a.attnum = any (k.conkey)
    order by k.confrelid = 'public.users'::regclass desc limit 1
  ) k on true
  where a.attrelid = relation and a.attname = name
$$;
comment on function private.export_column(regclass, text) is 'A column of a row in an owner''s export.';

-- One text for each row. The format of lines of JSON is exact; that of CSV is for people and their spreadsheets.
create function private.export_query(relation text, format text, complete boolean) returns text
language plpgsql stable set search_path = '' as $$
declare
  exported record;
  line text;
begin
  if relation = 'public.users' then
    return pg_catalog.format(
      'select %s from (select u.id, u.email, u.name, u.avatar_url from public.users u where u.id in (%s)) t',
      case format when 'csv' then private.csv_line('{id,email,name,avatar_url}') else 'pg_catalog.to_jsonb(t)::text' end,
      private.people_condition(complete)
    );
  elsif relation = 'storage.objects' then
    return pg_catalog.format(
      $q$select %s from (select o.name, o.metadata ->> 'size' as size, o.metadata ->> 'mimetype' as mime_type,
        o.metadata ->> 'eTag' as etag from storage.objects o
        where o.bucket_id = 'attachments' and starts_with(o.name, $1::text || '/')) t$q$,
      case format when 'csv' then private.csv_line('{name,size,mime_type,etag}') else 'pg_catalog.to_jsonb(t)::text' end
    );
  end if;
  select * into exported from private.export_relations() r where r.relation = to_regclass(export_query.relation);
  line := case format
    when 'csv' then private.csv_line(private.stored_columns(exported.relation))
    else 'pg_catalog.to_jsonb(t)::text'
  end;
  return pg_catalog.format('with people (user_id) as materialized (%s) select %s from (select %s from %s t where %s) t',
    case when complete then 'select null::uuid' else private.people_condition(false) end, line, (
      select string_agg(
        case when complete then pg_catalog.format('t.%I', c.name) else private.export_column(exported.relation, c.name) end,
        ', ' order by c.place
      )
      from unnest(private.stored_columns(exported.relation)) with ordinality c (name, place)
    ), exported.relation, exported.condition);
end $$;
comment on function private.export_query(text, text, boolean) is 'The query for the lines of one file.';

create function private.csv_line(columns text[]) returns text
language sql immutable set search_path = '' as $$
  select string_agg(format(
    'coalesce(''"'' || replace(private.spreadsheet_safe(t.%I::text), ''"'', ''""'') || ''"'', '''')', c.name
  ), ' || '','' || ' order by c.place)
  from unnest(columns) with ordinality c (name, place)
$$;
comment on function private.csv_line(text[]) is 'The expression for a row as a line of CSV; null is empty, an empty text is "".';

-- The steps of an export ------------------------------------------------------------------------------------------------

create function private.do_begin_export(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid := wish ->> 'organization_id';
  complete boolean := private.is_admin();
  allowed bigint;
  made private.exports;
begin
  if not complete and (auth.jwt() ? 'act' or private.current_user_id() is null or not exists (
    select from public.organization_members m
    where m.organization_id = org and m.user_id = auth.uid() and m.role = 'OWNER'
  )) then
    raise exception 'Only owners of the organization and platform admins may export it' using
      errcode = '42501', hint = 'Ask an owner. An impersonation may not export.';
  end if;
  -- The lock waits for another export of this organization that is starting.
  perform from public.organizations o where o.id = org for no key update;
  if not found then
    raise exception 'There is no such organization' using errcode = 'PT404', detail = format('Found none with id %s.', org);
  end if;
  if exists (
    select from private.exports e
    where e.organization_id = org and e.finished_at is null and e.started_at > now() - interval '30 minutes'
  ) then
    raise exception 'An export of this organization is running' using errcode = 'PT409', hint = 'Wait until it has finished.';
  end if;
  if not complete then
    allowed := private.plan_limit(org, 'exports_per_day');
    if allowed <= (
      select count(*) from private.exports e
      where e.organization_id = org and not e.is_complete and e.started_at > now() - interval '1 day'
    ) then
      raise exception 'Your plan allows no more exports today' using
        errcode = 'PT402', detail = format('It allows %s in 24 hours, and they are used. The next one is possible at %s.', allowed, (
          select to_json(e.started_at + interval '1 day') #>> '{}' from private.exports e
          where e.organization_id = org and not e.is_complete order by e.started_at desc offset greatest(allowed, 1) - 1 limit 1
        )), hint = 'Use an export of today, wait, or choose a larger plan.';
    end if;
  end if;
  insert into private.exports (organization_id, requested_by, is_complete, format)
  values (org, auth.uid(), complete, wish ->> 'format') returning * into made;
  return jsonb_build_object(
    'export_id', made.id, 'complete', complete,
    'folder', format('%s%s/%s', case when complete then 'platform/' else '' end, org, made.id),
    'tables', (
      select jsonb_agg(jsonb_build_object('name', t.name, 'columns', t.columns) order by t.name)
      from (
        select format('%s.%s', c.relnamespace::regnamespace, c.relname) as name, private.stored_columns(c.oid) as columns
        from private.export_relations() r join pg_catalog.pg_class c on c.oid = r.relation
        where complete or not r.is_personal
        union all select 'public.users', '{id,email,name,avatar_url}'
        union all select 'storage.objects', '{name,size,mime_type,etag}'
      ) t
    )
  );
end $$;
comment on function private.do_begin_export(jsonb) is
  'Starts the export of {organization_id, format} and returns its tables.';

insert into private.admin_operations (name, action, target_type, description) values
  ('begin_export', 'DATA_EXPORT', 'organization', 'Export begun');

create function private.begin_export(wish jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  return private.attempt('begin_export', wish, wish ->> 'organization_id');
end $$;
comment on function private.begin_export(jsonb) is 'See do_begin_export(); logged.';

create function private.own_export(export_id uuid) returns private.exports
language plpgsql stable set search_path = '' as $$
declare
  found_one private.exports;
begin
  select * into found_one from private.exports e
  where e.id = export_id and e.requested_by = auth.uid() and e.finished_at is null;
  if not found then
    raise exception 'There is no such running export' using errcode = 'PT404';
  end if;
  return found_one;
end $$;
comment on function private.own_export(uuid) is 'The export that the caller started.';

-- A cursor runs with the rights of its owner and returns its rows one by one: neither side holds all of them.
create function private.open_export(wish jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  running private.exports := private.own_export((wish ->> 'export_id')::uuid);
  lines refcursor := 'exported';
begin
  if not running.is_complete and exists (
    select from private.export_relations() r
    where r.relation = to_regclass(wish ->> 'relation') and r.is_personal
  ) then
    raise exception 'Owners cannot export this table' using errcode = '42501';
  end if;
  open lines for execute private.export_query(wish ->> 'relation', running.format, running.is_complete) using running.organization_id;
  return '{}';
end $$;
comment on function private.open_export(jsonb) is 'Opens the cursor `exported` on the lines of {export_id, relation}.';

create function private.finish_export(outcome jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  done private.exports := private.own_export((outcome ->> 'export_id')::uuid);
begin
  update private.exports e set finished_at = clock_timestamp(), error = left(outcome ->> 'error', 500),
    manifest_sha256 = outcome ->> 'sha256'
  where e.id = done.id;
  perform private.append_admin_action('DATA_EXPORT',
    case when outcome ->> 'error' is null then 'Export finished' else 'Export failed' end,
    'organization', done.organization_id::text, outcome - 'error', outcome ->> 'error' is null,
    left(outcome ->> 'error', 500), null);
  if outcome ->> 'error' is null then
    perform private.publish_event(
      'organization.export.ready', done.organization_id, 'organization', done.organization_id, 'Your data was exported',
      format('%s exported %s rows. Ask them, and your other owners, if you did not expect it.', coalesce(
        (select coalesce(nullif(trim(u.name), ''), u.email) from public.users u where u.id = done.requested_by
          and exists (select from public.organization_members m where m.user_id = u.id and m.organization_id = done.organization_id)),
        'Support'), outcome ->> 'rows'),
      private.members_at_least(done.organization_id, 'OWNER'), jsonb_build_object('export_id', done.id)
    );
  end if;
  return '{}';
end $$;
comment on function private.finish_export(jsonb) is 'Notes how {export_id, sha256, rows, error} ended; logged.';

-- Deleted like other files without an owner, by the job sync_attachments.
create function private.expire_exports() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  expired bigint;
begin
  insert into private.files_to_delete (bucket_id, name)
  select o.bucket_id, o.name from storage.objects o
  where o.bucket_id = 'exports'
    and o.created_at < now() - case when starts_with(o.name, 'platform/') then interval '90 days' else interval '7 days' end
  on conflict (bucket_id, name) do nothing;
  get diagnostics expired = row_count;
  return expired;
end $$;
comment on function private.expire_exports() is
  'Has the files of exports deleted after 7 days, of platform admins'' complete exports after 90.';

grant execute on function private.begin_export(jsonb), private.open_export(jsonb), private.finish_export(jsonb)
  to strive_functions;
