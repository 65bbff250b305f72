-- Trash: deleting a business record moves it into one table for 30 days. The row really leaves its own table, so policies,
-- lists, searches, reports, unique keys and limits need no condition and cost what they cost without a trash. A table takes
-- part by the trigger `trash`; keys between tables are found in the catalog.

create table public.trash (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  kind text not null,
  record_id uuid not null,
  title text not null,
  record jsonb not null,
  links jsonb not null default '[]',
  children jsonb not null default '[]',
  deleted_with uuid,
  deleted_by uuid,
  deleted_at timestamptz not null default now(),
  purge_at timestamptz not null default now() + interval '30 days',
  unique (organization_id, id),
  constraint "a record is in the trash once" unique (organization_id, kind, record_id),
  foreign key (organization_id, deleted_with) references public.trash (organization_id, id) on delete cascade
);
comment on table public.trash is
  'Deleted records, for 30 days. restore_from_trash() brings them back; to delete an entry purges its record at once (ADMIN).';
comment on column public.trash.organization_id is 'The organization the record belongs to.';
comment on column public.trash.kind is 'The table the record was deleted from.';
comment on column public.trash.record_id is 'The id of the record; it has the same id once restored.';
comment on column public.trash.title is 'The name or title of the record, to show in a list.';
comment on column public.trash.record is 'The whole row as it was.';
comment on column public.trash.links is 'Rows that referred to the record: [{"table", "column", "ids"}]. Restoring sets them again.';
comment on column public.trash.children is 'Rows that were deleted with it and have no entry of their own: [{"table", "rows"}].';
comment on column public.trash.deleted_with is 'The entry whose deletion deleted this record too; both are restored and purged together.';
comment on column public.trash.deleted_by is 'Who deleted it; null for the server.';
comment on column public.trash.deleted_at is 'When it was deleted.';
comment on column public.trash.purge_at is 'When the job purge_trash deletes it for good.';
create index trash_organization_idx on public.trash (organization_id, deleted_at desc);
create index trash_deleted_with_idx on public.trash (organization_id, deleted_with);
create index trash_purge_at_idx on public.trash (purge_at);

-- Deleting ------------------------------------------------------------------------------------------------------------

-- What refers to the row is locked here, and for half a second only: a transaction that holds such a row and then refers to
-- the deleted one waits for this transaction, and Postgres would end either as a deadlock after a second.
create function private.move_to_trash() returns trigger
language plpgsql security definer set search_path = '' set lock_timeout = '500ms' as $$
declare
  gone constant jsonb := to_jsonb(old);
  org constant uuid := gone ->> 'organization_id';
  key record;
  found_rows jsonb;
  links jsonb := '[]';
  children jsonb := '[]';
  deleted_with uuid;
begin
  -- A row of the platform, or one that is deleted together with its organization.
  if org is null or not exists (select from public.organizations o where o.id = org) then
    return old;
  end if;
  if random() < 0.01 then
    perform private.bound_growth('trash', org);
  end if;
  for key in select * from private.keys_between(null, tg_relid) loop
    if key.on_delete = 'n' then
      execute format(
        'select jsonb_agg(l.id) from (select c.id from %s c where %s for no key update) l', key.child, key.child_match
      ) into found_rows using gone;
      if found_rows is not null then
        links := links || jsonb_build_object(
          'table', key.child_name, 'column', key.link_column, 'ids', found_rows
        );
      end if;
    elsif key.on_delete = 'c' and not key.has_trash then
      execute format('select jsonb_agg(to_jsonb(c)) from %s c where %s', key.child, key.child_match) into found_rows using gone;
      if found_rows is not null then
        children := children || jsonb_build_object('table', key.child::text, 'rows', found_rows);
      end if;
    end if;
  end loop;
  for key in select * from private.keys_between(tg_relid, null) k where k.on_delete = 'c' loop
    select t.id into deleted_with from public.trash t
    where t.organization_id = org and t.record_id = (gone ->> key.link_column)::uuid
      and t.kind = key.parent_name;
    exit when found;
  end loop;
  insert into public.trash (
    organization_id, kind, record_id, title, record, links, children, deleted_with, deleted_by
  ) values (
    org, tg_table_name, (gone ->> 'id')::uuid,
    left(coalesce(gone ->> 'title', gone ->> 'name', gone ->> 'project_name', gone ->> 'body', gone ->> 'id'), 255), gone,
    links, children, deleted_with, (select u.id from public.users u where u.id = auth.uid())
  )
  on conflict on constraint "a record is in the trash once" do update set record = excluded.record,
    links = excluded.links, children = excluded.children, deleted_with = excluded.deleted_with,
    deleted_by = excluded.deleted_by, deleted_at = excluded.deleted_at, purge_at = excluded.purge_at;
  return old;
exception when lock_not_available then
  raise exception 'A record that refers to this one is being changed' using errcode = 'PT409', hint = 'Try again in a moment.';
end $$;
comment on function private.move_to_trash() is
  'Trigger `trash`: keeps a deleted row with what referred to it and what is deleted with it.';

-- Keys ----------------------------------------------------------------------------------------------------------------

create function private.keys_between(child_table oid, parent_table oid) returns table (
  child regclass, child_name text, child_match text, parent regclass, parent_name text, parent_match text,
  link_column text, is_optional boolean, on_delete "char", has_trash boolean
) language sql stable security definer set search_path = '' as $$
  select k.conrelid::regclass, c.relname::text, m.child_match, k.confrelid::regclass, p.relname::text, m.parent_match,
    l.attname::text, not l.attnotnull, k.confdeltype,
    exists (
      select from pg_catalog.pg_trigger t
      where t.tgrelid = k.conrelid and t.tgfoid = 'private.move_to_trash()'::regprocedure
    )
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_class c on c.oid = k.conrelid
  join pg_catalog.pg_class p on p.oid = k.confrelid
  cross join lateral (
    select string_agg(format('c.%I = ($1 ->> %L)::uuid', a.attname, b.attname), ' and ') as child_match,
      string_agg(format('p.%I = ($1 ->> %L)::uuid', b.attname, a.attname), ' and ') as parent_match
    from unnest(k.conkey, k.confkey) n (child_number, parent_number)
    join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = n.child_number
    join pg_catalog.pg_attribute b on b.attrelid = k.confrelid and b.attnum = n.parent_number
  ) m
  cross join lateral (
    select a.attname, a.attnotnull from pg_catalog.pg_attribute a
    where a.attrelid = k.conrelid and a.attnum = any (k.conkey) and a.attname <> 'organization_id'
    order by array_position(k.conkey, a.attnum) desc limit 1
  ) l
  where k.contype = 'f' and (child_table is null or k.conrelid = child_table)
    and (parent_table is null or k.confrelid = parent_table)
$$;
comment on function private.keys_between(oid, oid) is
  'Foreign keys of a table (null: any) to another (null: any): the condition that finds the children c of the row $1, that '
  'which finds the parent p of the row $1, and the column that links them.';

-- Restoring -----------------------------------------------------------------------------------------------------------

create function private.insert_stored(relation regclass, rows jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  -- A column that was added after the deletion takes its default.
  columns constant text := (
    select string_agg(quote_ident(c), ', ') from unnest(private.stored_columns(relation)) c where rows -> 0 ? c
  );
begin
  execute format(
    'insert into %1$s (%2$s) select %2$s from pg_catalog.jsonb_populate_recordset(null::%1$s, $1)', relation, columns
  ) using rows;
end $$;
comment on function private.insert_stored(regclass, jsonb) is 'Inserts rows as to_jsonb() gave them, without generated columns.';

create function private.restore_entry(entry public.trash) returns void
language plpgsql set search_path = '' as $$
declare
  relation constant regclass := format('public.%I', entry.kind);
  restored jsonb := entry.record;
  key record;
  item jsonb;
  child jsonb;
  with_it public.trash;
  is_there boolean;
begin
  if entry.kind in ('agent_templates', 'tool_blueprints') then
    perform private.require_room(
      entry.organization_id, case entry.kind when 'agent_templates' then 'templates' else 'blueprints' end
    );
  end if;
  for key in select * from private.keys_between(relation, null) loop
    continue when restored ->> key.link_column is null;
    execute format('select exists (select from %s p where %s)', key.parent, key.parent_match)
    into is_there using restored;
    continue when is_there;
    if not key.is_optional then
      raise exception 'The record that this one belongs to does not exist' using
        errcode = 'PT409', detail = format('%s refers to a record that does not exist: %s %s.', entry.title, key.link_column, restored ->> key.link_column),
        hint = 'Restore that first, if it is in the trash.';
    end if;
    -- Once the parent is restored, it finds this row again.
    update public.trash t
    set links = t.links || jsonb_build_object(
      'table', entry.kind, 'column', key.link_column, 'ids', jsonb_build_array(entry.record_id)
    )
    where t.organization_id = entry.organization_id and t.record_id = (restored ->> key.link_column)::uuid
      and t.kind = key.parent_name;
    restored := restored || jsonb_build_object(key.link_column, null);
  end loop;
  perform private.insert_stored(relation, jsonb_build_array(restored));
  for item in select i from jsonb_array_elements(entry.children) i loop
    for child in select r from jsonb_array_elements(item -> 'rows') r loop
      begin
        perform private.insert_stored((item ->> 'table')::regclass, jsonb_build_array(child));
      exception when foreign_key_violation or unique_violation then
        null; -- Its other parent no longer exists, or it was created again.
      end;
    end loop;
  end loop;
  for item in select i from jsonb_array_elements(entry.links) i loop
    execute format(
      'update public.%1$I c set %2$I = $1 where c.organization_id = $2 and c.%2$I is null'
      ' and c.id in (select i::uuid from pg_catalog.jsonb_array_elements_text($3) i)', item ->> 'table', item ->> 'column'
    ) using entry.record_id, entry.organization_id, item -> 'ids';
    update public.trash t
    set record = t.record || jsonb_build_object(item ->> 'column', entry.record_id)
    where t.organization_id = entry.organization_id and t.kind = item ->> 'table'
      and item -> 'ids' ? t.record_id::text and t.record ->> (item ->> 'column') is null;
  end loop;
  for with_it in
    select t.* from public.trash t
    where t.organization_id = entry.organization_id and t.deleted_with = entry.id order by t.deleted_at, t.id
  loop
    -- An earlier one of them may have added a link.
    select t.* into with_it from public.trash t where t.id = with_it.id;
    continue when not found;
    perform private.restore_entry(with_it);
  end loop;
  delete from public.trash t where t.id = entry.id;
end $$;
comment on function private.restore_entry(public.trash) is
  'Inserts a record again with its children and links; links to records that no longer exist stay empty.';

-- Triggers read this setting to distinguish a restored row from a new one.
create function private.restore_from_trash(ids uuid[]) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := case
    when private.is_sql_editor() then (select t.organization_id from public.trash t where t.id = any (ids) order by t.id limit 1)
    else private.require_org('MEMBER')
  end;
  wanted uuid[] := array(select distinct i from unnest(ids) i where i is not null);
  entries public.trash[];
  entry public.trash;
  constraint_found text;
begin
  if cardinality(wanted) not between 1 and 100 then
    raise exception 'One call restores 1 to 100 records' using
      errcode = 'PT422', detail = format('Found %s.', cardinality(wanted)), hint = 'Send longer lists in several calls.';
  end if;
  -- In one order, so that two calls about the same entries wait for each other instead of deadlocking.
  entries := array(
    select t from (
      select t.* from public.trash t where t.organization_id = org and t.id = any (wanted) order by t.id for update
    ) t
  );
  if cardinality(entries) <> cardinality(wanted) then
    raise exception 'Some of these entries are not in the trash' using
      errcode = 'PT404', hint = 'Nothing was restored.', detail = format('Found no %s in this organization.', (
        select string_agg(i::text, ', ') from unnest(wanted) i where i not in (select (e).id from unnest(entries) e)
      ));
  end if;
  perform set_config('strive.history_action', 'restored', true);
  -- The parts of a tree may be restored in any order.
  set constraints all deferred;
  foreach entry in array entries loop
    -- It may have been restored together with another entry of the list.
    select t.* into entry from public.trash t where t.id = entry.id;
    continue when not found;
    perform private.restore_entry(entry);
  end loop;
  perform set_config('strive.history_action', '', true);
  set constraints all immediate;
  return (
    select jsonb_agg(jsonb_build_object('kind', (e).kind, 'record_id', (e).record_id)) from unnest(entries) e
  );
exception when unique_violation then
  get stacked diagnostics constraint_found = constraint_name;
  raise exception 'Another record has taken the place of this one' using
    errcode = 'PT409', detail = format('%s: %s.', (entry).title, constraint_found),
    hint = 'Change or delete the other record first. Nothing was restored.';
when check_violation then
  raise exception 'The record that this one belongs to does not exist' using
    errcode = 'PT409', detail = format('%s refers to a record that does not exist.', (entry).title),
    hint = 'Restore that first, if it is in the trash. Nothing was restored.';
end $$;
comment on function private.restore_from_trash(uuid[]) is 'Does the work of public.restore_from_trash().';

create function public.restore_from_trash(ids uuid[]) returns jsonb
language sql set search_path = '' as 'select private.restore_from_trash(ids)';
comment on function public.restore_from_trash(uuid[]) is
  'Restores up to 100 entries of the trash, all or none (MEMBER): each record under its old id, with its links and '
  'with what was deleted with it. Returns [{"kind", "record_id"}]. The SQL editor restores entries of one organization at a time.';

create function private.repoint_links(relation regclass, org uuid, gone uuid[], kept uuid) returns void
language plpgsql set search_path = '' as $$
declare
  key record;
begin
  for key in select * from private.keys_between(null, relation) loop
    execute format('update %1$s c set %2$I = $1 where c.organization_id = $2 and c.%2$I = any ($3)', key.child, key.link_column)
    using kept, org, gone;
  end loop;
end $$;
comment on function private.repoint_links(regclass, uuid, uuid[], uuid) is
  'Before a merge: points references to the merged records to the one that is kept.';

-- A merge is not a deletion: attachments and entries of the trash that refer to a merged record refer to the kept one
-- afterwards.
create function private.repoint_trash(org uuid, gone uuid[], kept uuid) returns void
language plpgsql set search_path = '' as $$
declare
  one uuid;
begin
  perform set_config('strive.history_action', 'merged', true);
  delete from public.trash t where t.organization_id = org and t.record_id = any (gone);
  perform set_config('strive.history_action', '', true);
  update public.attachments a set entity_id = kept where a.organization_id = org and a.entity_id = any (gone);
  foreach one in array gone loop
    update public.trash t set record = replace(t.record::text, one::text, kept::text)::jsonb,
      links = replace(t.links::text, one::text, kept::text)::jsonb,
      children = replace(t.children::text, one::text, kept::text)::jsonb
    where t.organization_id = org
      and position(one::text in concat(t.record::text, t.links::text, t.children::text)) > 0;
  end loop;
end $$;
comment on function private.repoint_trash(uuid, uuid[], uuid) is
  'After a merge: deletes the entries of the merged records and points attachments and other entries to the record that is '
  'kept.';

-- Purging -------------------------------------------------------------------------------------------------------------

create function private.note_purge() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if coalesce(current_setting('strive.history_action', true), '') <> ''
    or not exists (select from public.organizations o where o.id = old.organization_id) then
    return null;
  end if;
  delete from public.attachments a
  where a.organization_id = old.organization_id and a.entity_type = old.kind and a.entity_id = old.record_id;
  insert into public.activity_logs (organization_id, user_id, impersonated_by, action, resource_type, resource_id)
  values (
    old.organization_id, auth.uid(), (auth.jwt() #>> '{act,sub}')::uuid, 'purged', old.kind, old.record_id
  );
  return null;
end $$;
comment on function private.note_purge() is 'Records that a record is gone for good, and deletes its attachments.';
create trigger note_purge after delete on public.trash for each row execute function private.note_purge();

create function private.purge_trash() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  purged bigint;
begin
  delete from public.trash t where t.id in (
    select o.id from public.trash o where o.purge_at <= now() order by o.purge_at limit 5000 for update skip locked
  );
  get diagnostics purged = row_count;
  return purged;
end $$;
comment on function private.purge_trash() is 'Deletes what has been in the trash for 30 days; safe to run at any time.';
grant execute on function private.purge_trash() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('purge_trash', '47 * * * *', 'private.purge_trash', 'Delete what has been in the trash for 30 days.');

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.trash enable row level security;
create policy "members see the trash" on public.trash for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "admins purge" on public.trash for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete on public.trash to authenticated;
grant select, delete on public.trash to service_role;

grant execute on function private.restore_from_trash(uuid[]), public.restore_from_trash(uuid[])
  to authenticated, service_role;
