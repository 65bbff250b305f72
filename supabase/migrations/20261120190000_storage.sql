-- Storage: the three buckets and who reaches which folder. The first folder of a path says whose file it is.
-- The storage service checks these policies on storage.objects, which it owns; RLS is on there already. Files of public
-- buckets are served by address without asking any policy, so no policy lets anybody list them.

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types) values
  ('attachments', 'attachments', false, 50 * 1024 * 1024, null),
  ('avatars', 'avatars', true, 5 * 1024 * 1024, '{image/jpeg,image/png,image/webp,image/gif}'),
  ('public-assets', 'public-assets', true, 10 * 1024 * 1024,
    '{image/jpeg,image/png,image/webp,application/pdf,video/mp4}')
on conflict (id) do update set public = excluded.public, file_size_limit = excluded.file_size_limit,
  allowed_mime_types = excluded.allowed_mime_types;

-- A file is made only at a path of its bucket's shape, and only as one's own: who uploaded it may delete it. Segments
-- `.` and `..` would name another folder in a file system.
create function private.is_storage_path(bucket text, path text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  return path !~ '(^|/)\.{0,2}(/|$)' and case bucket
    when 'attachments' then path ~ '^[^/]+/[a-z_]+/[^/]+/[^/\\]{1,255}$'
      and private.is_uuid(split_part(path, '/', 1)) and private.is_uuid(split_part(path, '/', 3))
      and split_part(path, '/', 2) = any (private.attachable_tables())
    when 'avatars' then path ~ '^[^/]+(/[^/\\]{1,255}){1,3}$' and private.is_uuid(split_part(path, '/', 1))
    when 'public-assets' then path ~ '^[^/]{1,255}(/[^/]{1,255}){0,9}$'
    else false
  end;
end $$;
comment on function private.is_storage_path(text, text) is
  'Whether a new file may have this path: {organization}/{entity_type}/{entity_id}/{file}, {user}/… with at most two '
  'folders, or any public asset.';

-- The storage service checks an upload against the limits of its bucket, but a copy or a move against policies only. So
-- the policies and the trigger below compare the metadata of the file with the limits of the target bucket.
create function private.bucket_accepts(bucket text, metadata jsonb) returns boolean
language plpgsql stable security definer set search_path = '' as $$
declare
  target storage.buckets;
  kind constant text := lower(trim(split_part(metadata ->> 'mimetype', ';', 1)));
begin
  select * into target from storage.buckets b where b.id = bucket;
  return coalesce(coalesce(metadata ->> 'size', metadata ->> 'contentLength')::numeric <= target.file_size_limit, true)
    and (
      kind is null or target.allowed_mime_types is null
      or kind = any (target.allowed_mime_types) or split_part(kind, '/', 1) || '/*' = any (target.allowed_mime_types)
    );
end $$;
comment on function private.bucket_accepts(text, jsonb) is
  'Whether a bucket accepts the type and size in the metadata of a file, as far as it has them.';
grant execute on function private.is_storage_path(text, text), private.bucket_accepts(text, jsonb)
  to authenticated, service_role;

create function public.attachment_path(entity_type text, entity_id uuid, file_name text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid := private.require_org('MEMBER');
  kinds constant text[] := private.attachable_tables();
  cleaned constant text := regexp_replace(trim(file_name), '[/\\[:cntrl:]]+', '_', 'g');
  -- Later versions of a file stay beside the first one.
  stem constant text := regexp_replace(cleaned, '\.[^.]*$', '');
  extension constant text := substring(cleaned from '\.[^.]*$');
  folder text;
  is_there boolean;
  number integer;
begin
  if entity_type is null or entity_type <> all (kinds) then
    raise exception 'There are no attachments of this type' using
      errcode = 'PT400', detail = format('Found %s.', coalesce(quote_literal(left(entity_type, 100)), 'null')),
      hint = format('entity_type is the table of the record: %s.', array_to_string(kinds, ', '));
  elsif coalesce(length(cleaned), 0) not between 1 and 240 or cleaned in ('.', '..') then
    raise exception 'file_name is 1 to 240 characters' using
      errcode = 'PT422', detail = format('Found %s.', coalesce(length(cleaned), 0));
  end if;
  execute format('select exists (select from public.%I t where t.id = $1 and t.organization_id = $2)', entity_type)
  into is_there using entity_id, org;
  if not is_there then
    perform private.refuse(replace(entity_type, '_', ' '), entity_id);
  end if;
  folder := concat(org, '/', entity_type, '/', entity_id, '/');
  select n into number from generate_series(1, 1000) n
  where not exists (
    select from public.attachments a
    where a.file_path = folder || case n when 1 then cleaned else concat(stem, ' (', n, ')', extension) end
  ) order by n limit 1;
  return jsonb_build_object('bucket', 'attachments', 'path',
    folder || case number when 1 then cleaned else concat(stem, ' (', number, ')', extension) end);
end $$;
comment on function public.attachment_path(text, uuid, text) is
  'Where to upload a file for a record: {"bucket", "path"}. The name is kept, with a number appended if it is in use.';
grant execute on function public.attachment_path(text, uuid, text) to authenticated, service_role;

drop policy if exists "own folders are read" on storage.objects;
create policy "own folders are read" on storage.objects for select to authenticated using (
  case bucket_id
    when 'attachments' then (storage.foldername(name))[1] = (select private.current_user_org())::text
    when 'avatars' then (storage.foldername(name))[1] = (select private.current_user_id())::text
    when 'public-assets' then (select private.is_admin())
    when 'exports' then (storage.foldername(name))[1] = (select private.current_user_org('OWNER', true))::text
      or (select private.is_admin())
  end
);

drop policy if exists "own folders are written" on storage.objects;
create policy "own folders are written" on storage.objects for insert to authenticated with check (
  owner_id = (select private.current_user_id())::text
  and private.is_storage_path(bucket_id, name)
  and (select private.bucket_accepts(bucket_id, metadata))
  and case bucket_id
    when 'attachments' then (storage.foldername(name))[1] = (select private.current_user_org('MEMBER'))::text
    when 'avatars' then (storage.foldername(name))[1] = (select private.current_user_id())::text
    when 'public-assets' then (select private.is_admin())
  end
);

-- To overwrite or move a file is to delete what was there: the uploader or an ADMIN.
drop policy if exists "own files are replaced" on storage.objects;
create policy "own files are replaced" on storage.objects for update to authenticated using (
  case bucket_id
    when 'attachments' then (storage.foldername(name))[1] = (select private.current_user_org('MEMBER'))::text
      and (owner_id = (select private.current_user_id())::text or (select private.current_user_org('ADMIN')) is not null)
    when 'avatars' then (storage.foldername(name))[1] = (select private.current_user_id())::text
    when 'public-assets' then (select private.is_admin())
  end
) with check (
  private.is_storage_path(bucket_id, name)
  and (select private.bucket_accepts(bucket_id, metadata))
  and case bucket_id
    when 'attachments' then (storage.foldername(name))[1] = (select private.current_user_org('MEMBER'))::text
      and (owner_id = (select private.current_user_id())::text or (select private.current_user_org('ADMIN')) is not null)
    when 'avatars' then (storage.foldername(name))[1] = (select private.current_user_id())::text
    when 'public-assets' then (select private.is_admin())
  end
);

drop policy if exists "own files are deleted" on storage.objects;
create policy "own files are deleted" on storage.objects for delete to authenticated using (
  case bucket_id
    when 'attachments' then (storage.foldername(name))[1] = (select private.current_user_org('MEMBER'))::text
      and (owner_id = (select private.current_user_id())::text or (select private.current_user_org('ADMIN')) is not null)
    when 'avatars' then (storage.foldername(name))[1] = (select private.current_user_id())::text
    when 'public-assets' then (select private.is_admin())
  end
);

-- Files and their rows ------------------------------------------------------------------------------------------------
-- An upload, a move and a deletion change the row of an attachment in the transaction of the storage service: there is
-- no row of an upload that failed. A row that is deleted leaves its file to the job sync_attachments, since files are
-- removed through the storage service alone. The job also repairs differences that arose while the trigger did not exist.

create table private.files_to_delete (
  bucket_id text not null,
  name text not null,
  listed_at timestamptz not null default now(),
  claimed_at timestamptz,
  primary key (bucket_id, name)
);
comment on table private.files_to_delete is 'Files without an owner, to be deleted through the storage service.';
comment on column private.files_to_delete.claimed_at is 'Since when its deletion is under way; nothing is stored there.';

create function private.list_file_for_deletion() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.files_to_delete (bucket_id, name)
  select o.bucket_id, o.name from storage.objects o where o.bucket_id = 'attachments' and o.name = old.file_path
  on conflict (bucket_id, name) do nothing;
  return null;
end $$;
comment on function private.list_file_for_deletion() is 'Has the file of a deleted row deleted, too.';
create trigger list_file_for_deletion after delete on public.attachments
  for each row execute function private.list_file_for_deletion();

create function private.keep_attachment(object storage.objects) returns boolean
language plpgsql security definer set search_path = '' as $$
declare
  part text[] := string_to_array(object.name, '/');
  kind text := lower(trim(split_part(object.metadata ->> 'mimetype', ';', 1)));
begin
  if object.bucket_id <> 'attachments' or object.metadata ->> 'size' is null
    or not private.is_storage_path(object.bucket_id, object.name) then
    return false;
  end if;
  insert into public.attachments as a (
    organization_id, entity_type, entity_id, file_name, file_size, mime_type, file_path, uploaded_by_id, stored_at
  )
  select o.id, part[2], part[3]::uuid, part[4], (object.metadata ->> 'size')::bigint,
    case when kind ~ '^[^/[:space:]]+/[^/[:space:]]+$' then kind else 'application/octet-stream' end, object.name,
    (select u.id from public.users u where u.id::text = object.owner_id), object.updated_at
  from public.organizations o where o.id = part[1]::uuid and not private.is_arriving(o.id) -- see the chapter moves
  on conflict (file_path) do update set
    file_size = excluded.file_size, mime_type = excluded.mime_type, uploaded_by_id = excluded.uploaded_by_id,
    stored_at = excluded.stored_at;
  return found;
end $$;
comment on function private.keep_attachment(storage.objects) is
  'Updates the row of a file from the file; false if its path is not that of a record of an organization.';

create function private.follow_object() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  org uuid;
  -- The storage service asks for permission before it takes the bytes, and may not know then how many they will be.
  size bigint := coalesce(new.metadata ->> 'size', new.metadata ->> 'contentLength', '1')::bigint;
  before bigint := 0;
  message text;
  detail text;
  hint text;
begin
  if new.bucket_id = 'attachments' and private.is_storage_path(new.bucket_id, new.name) then
    delete from private.files_to_delete d
    where d.bucket_id = new.bucket_id and d.name = new.name and d.claimed_at is null;
    if exists (select from private.files_to_delete d where d.bucket_id = new.bucket_id and d.name = new.name) then
      raise exception 'A file with this name is being deleted' using
        errcode = '42501', hint = 'Try again in a few minutes, or choose another name.';
    end if;
    select o.id into org from public.organizations o
    where o.id = split_part(new.name, '/', 1)::uuid and not private.is_arriving(o.id);
    select a.file_size into before from public.attachments a
    where a.file_path = case when tg_op = 'UPDATE' then old.name else new.name end;
    if org is not null and size > coalesce(before, 0) then
      perform private.require_room(org, 'storage_bytes', size - coalesce(before, 0));
    end if;
  end if;
  if tg_op = 'UPDATE' and old.bucket_id = 'attachments' and (old.bucket_id, old.name) <> (new.bucket_id, new.name) then
    if org is not null then
      update public.attachments a
      set organization_id = org, entity_type = split_part(new.name, '/', 2),
        entity_id = split_part(new.name, '/', 3)::uuid, file_name = split_part(new.name, '/', 4), file_path = new.name
      where a.file_path = old.name;
    end if;
    delete from public.attachments a where a.file_path = old.name;
  end if;
  perform private.keep_attachment(new);
  return null;
exception when sqlstate 'PT402' then
  -- The storage service passes on the message of this error code only.
  get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
  raise exception '%: % %', message, detail, hint using errcode = '42501';
end $$;
comment on function private.follow_object() is
  'Keeps attachments in sync with the stored files, and enforces the storage limit of the plan.';

create function private.follow_object_away() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  delete from public.attachments a where old.bucket_id = 'attachments' and a.file_path = old.name;
  delete from private.files_to_delete d where d.bucket_id = old.bucket_id and d.name = old.name;
  return null;
end $$;
comment on function private.follow_object_away() is 'Deletes the row of a file that was deleted.';

-- Checks what the storage service does without policies: the second half of a move or a copy, and an upload to a signed
-- URL, whose owner may have lost the right since it was signed.
create function private.guard_object() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  is_new_content constant boolean := tg_op = 'INSERT' or new.version is distinct from old.version;
  folder constant text := split_part(new.name, '/', 1);
  stored record;
begin
  if tg_op = 'UPDATE'
    and (new.bucket_id, new.name, new.metadata, new.version, new.owner_id)
      is not distinct from (old.bucket_id, old.name, old.metadata, old.version, old.owner_id) then
    return new;
  end if;
  if not private.bucket_accepts(new.bucket_id, new.metadata) then
    raise exception 'The bucket % does not accept this type or size of file', new.bucket_id using
      errcode = '42501', detail = format('Found %s.', left(new.metadata::text, 300)), hint = 'A move and a copy follow the limits of the target.';
  end if;
  if octet_length((to_jsonb(new) -> 'user_metadata')::text) > 16384 then
    raise exception 'The metadata of a file is larger than 16,384 bytes' using errcode = '42501', hint = 'Send less.';
  end if;
  -- Only for writes of the storage service: a restore puts back files of people who left.
  if is_new_content and nullif(current_setting('storage.operation', true), '') is not null
    and current_setting('role') <> 'authenticated' and not private.may_own_object(new.bucket_id, folder, new.owner_id) then
    if new.bucket_id = 'attachments' then
      perform private.refuse_moved(folder, new.owner_id); -- see the chapter moves
    end if;
    raise exception 'The owner of this file may no longer write here' using
      errcode = '42501', hint = 'Sign in again and ask for a new upload address.';
  end if;
  if new.bucket_id = 'avatars' and new.owner_id = folder then
    perform pg_advisory_xact_lock(hashtextextended('avatars:' || folder, 0));
    select count(*) + 1 as files,
      coalesce(sum((o.metadata ->> 'size')::bigint), 0)
        + coalesce(new.metadata ->> 'size', new.metadata ->> 'contentLength', '0')::bigint as bytes
    into stored from storage.objects o
    where o.bucket_id = 'avatars' and o.name collate "C" >= folder || '/' and o.name collate "C" < folder || '0'
      and o.name <> new.name and (tg_op = 'INSERT' or o.id <> new.id);
    if stored.files > 10 or stored.bytes > 20 * 1024 * 1024 then
      raise exception 'A user has at most 10 avatars and 20 MB; this would be % files and % bytes', stored.files, stored.bytes
        using errcode = '42501', hint = 'Delete one first.';
    end if;
  end if;
  return new;
end $$;
comment on function private.guard_object() is
  'Refuses a file that its bucket would refuse as an upload, one whose owner lost the right, and more than 10 avatars or 20 MB.';

create function private.may_own_object(bucket text, folder text, owner text) returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return owner is null or bucket not in ('attachments', 'avatars') or exists (
    select from public.users u
    where u.id::text = owner and u.is_active and (u.suspended_at is null or u.suspended_until <= now())
      and case bucket
        when 'avatars' then folder = owner
        else exists (
          select from public.organization_members m
          where m.user_id = u.id and m.organization_id::text = folder and m.role <= 'MEMBER'
        )
      end
  );
end $$;
comment on function private.may_own_object(text, text, text) is
  'Whether the owner of a file, if it has one, may write into its folder now.';

-- Without this privilege (it is the storage service's to give) the job alone keeps files and rows in step, and the policies
-- alone guard moves and copies; supabase/checks/hosted.sql reports it.
do $$ begin
  if has_table_privilege('storage.objects', 'trigger') then
    create or replace trigger strive_guard_object before insert or update
      on storage.objects for each row execute function private.guard_object();
    create or replace trigger strive_follow_object after insert or update of bucket_id, name, metadata
      on storage.objects for each row execute function private.follow_object();
    create or replace trigger strive_follow_object_away after delete
      on storage.objects for each row execute function private.follow_object_away();
  else
    raise warning 'No trigger on storage.objects: attachments follow their files only when sync_attachments runs.';
  end if;
end $$;

create function private.repair_attachments() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  adopted bigint;
  forgotten bigint;
  to_delete bigint;
begin
  select count(*) filter (where private.keep_attachment(o)) into adopted
  from storage.objects o left join public.attachments a on a.file_path = o.name
  where o.bucket_id = 'attachments' and (a.id is null or a.stored_at is null)
    and not exists (select from private.files_to_delete d where d.bucket_id = o.bucket_id and d.name = o.name);
  delete from public.attachments a
  where case when a.stored_at is null then a.created_at < now() - interval '24 hours' else true end
    and not exists (select from storage.objects o where o.bucket_id = 'attachments' and o.name = a.file_path)
    -- A row that arrives by a move may come before its file.
    and a.organization_id not in (
      select m.organization_id from private.organization_moves m where m.state in ('INCOMING', 'READY')
    );
  get diagnostics forgotten = row_count;
  -- The shape of the path is checked last, of few files: that takes longer than everything else together.
  with lost as materialized (
    select o.bucket_id, o.name from storage.objects o
    left join public.organizations g on o.bucket_id = 'attachments' and g.id::text = split_part(o.name, '/', 1)
    left join public.users u on o.bucket_id = 'avatars' and u.id::text = split_part(o.name, '/', 1)
    where o.bucket_id in ('attachments', 'avatars') and g.id is null and u.id is null
  )
  insert into private.files_to_delete (bucket_id, name)
  select l.bucket_id, l.name from lost l where private.is_storage_path(l.bucket_id, l.name)
  on conflict (bucket_id, name) do nothing;
  get diagnostics to_delete = row_count;
  to_delete := to_delete + private.expire_exports();
  return jsonb_build_object('adopted', adopted, 'forgotten', forgotten, 'to_delete', to_delete);
end $$;
comment on function private.repair_attachments() is
  'Makes rows for files without one, deletes rows without a file, and lists for deletion the files whose organization or '
  'user is gone, and expired exports.';

create function private.claim_files_to_delete(most integer) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  claimed jsonb;
begin
  with claimed as (
    update private.files_to_delete d set claimed_at = now()
    from (
      select o.bucket_id, o.name from private.files_to_delete o order by o.bucket_id, o.listed_at limit most
      for update skip locked
    ) next
    where d.bucket_id = next.bucket_id and d.name = next.name
    returning d.bucket_id, d.name
  ), by_bucket as (
    select c.bucket_id, jsonb_agg(c.name) as names from claimed c group by c.bucket_id
  )
  select coalesce(jsonb_object_agg(b.bucket_id, b.names), '{}') into claimed from by_bucket b;
  return claimed;
end $$;
comment on function private.claim_files_to_delete(integer) is
  'The next files to delete, by bucket: from now on nothing is stored in their places.';

create function private.forget_deleted_files(bucket text, names text[]) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  gone text[] := array(
    select n from unnest(names) n
    where not exists (select from storage.objects o where o.bucket_id = bucket and o.name = n)
  );
begin
  delete from private.files_to_delete d where d.bucket_id = bucket and d.name = any (gone);
  return cardinality(gone);
end $$;
comment on function private.forget_deleted_files(text, text[]) is
  'Removes the files that were deleted from the list, and returns how many.';

grant execute on function private.repair_attachments(), private.claim_files_to_delete(integer),
  private.forget_deleted_files(text, text[]) to strive_functions;

insert into private.jobs (name, schedule, runs, description) values
  ('sync_attachments', '*/5 * * * *', null, 'Sync files and their rows.');
