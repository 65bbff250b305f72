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
-- `.` and `..` would name another folder to whoever keeps files in a file system.
create function private.is_storage_path(bucket text, path text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  return path !~ '(^|/)\.{0,2}(/|$)' and case bucket
    when 'attachments' then path ~ '^[0-9a-f-]{36}/[a-z_]{1,50}/[0-9a-f-]{36}/[^/]+$'
    when 'avatars' then path ~ '^[0-9a-f-]{36}/.+$'
    when 'public-assets' then true
    else false
  end;
end $$;
comment on function private.is_storage_path(text, text) is
  'Whether a new file may have this path: {organisation}/{entity_type}/{entity_id}/{file}, {user}/… or any public asset.';
grant execute on function private.is_storage_path(text, text) to authenticated, service_role;

drop policy if exists "own folders are read" on storage.objects;
create policy "own folders are read" on storage.objects for select to authenticated using (
  case bucket_id
    when 'attachments' then (storage.foldername(name))[1] = (select private.current_user_org())::text
    when 'avatars' then (storage.foldername(name))[1] = (select private.current_user_id())::text
    when 'public-assets' then (select private.is_admin())
  end
);

drop policy if exists "own folders are written" on storage.objects;
create policy "own folders are written" on storage.objects for insert to authenticated with check (
  owner_id = (select private.current_user_id())::text
  and private.is_storage_path(bucket_id, name)
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
