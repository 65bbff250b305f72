-- The audit log: what platform admins did. Append-only for everyone.

create type "AdminAction" as enum (
  'USER_CREATE', 'USER_UPDATE', 'USER_SUSPEND', 'USER_DELETE', 'USER_IMPERSONATE',
  'ORG_CREATE', 'ORG_UPDATE', 'ORG_SUSPEND', 'ORG_DELETE',
  'SUBSCRIPTION_CREATE', 'SUBSCRIPTION_UPDATE', 'SUBSCRIPTION_CANCEL',
  'FEATURE_FLAG_UPDATE', 'SYSTEM_CONFIG_UPDATE', 'DATA_EXPORT', 'BULK_ACTION'
);
comment on type "AdminAction" is 'What a platform admin did.';

-- admin_id has no foreign key. When the admin's account goes, a key could delete the row, empty the column or refuse:
-- the log would change, or the account could not go. So the bare id stays behind, as a pseudonym.
create table public.admin_action_logs (
  id uuid primary key default gen_random_uuid(),
  action "AdminAction" not null,
  description text not null,
  target_type text not null,
  target_id text not null,
  metadata jsonb constraint "metadata is an object" check (jsonb_typeof(metadata) = 'object'),
  ip_address text,
  user_agent text,
  success boolean not null default true,
  error text,
  created_at timestamptz not null default clock_timestamp(),
  admin_id uuid not null,
  acting_as_id uuid,
  constraint "error is only there without success" check (not success or error is null)
);
comment on table public.admin_action_logs is 'Every administrative action, successful or not. Append-only for all.';
comment on column public.admin_action_logs.target_type is 'Such as user, organization, subscription, feature_flag.';
comment on column public.admin_action_logs.admin_id is
  'Who did it; all zeros for the platform itself (jobs, the Supabase dashboard). Stays when the account is deleted.';
comment on column public.admin_action_logs.created_at is 'When it was written: later entries of one transaction are later.';
comment on column public.admin_action_logs.acting_as_id is 'The user the admin was impersonating, if any.';
create index admin_action_logs_admin_idx on public.admin_action_logs (admin_id, created_at desc);
create index admin_action_logs_action_idx on public.admin_action_logs (action, created_at desc);
create index admin_action_logs_target_idx on public.admin_action_logs (target_type, target_id, created_at desc);
create index admin_action_logs_created_at_idx on public.admin_action_logs (created_at desc);

create function private.keep_history() returns trigger language plpgsql set search_path = '' as $$
begin
  raise exception '% is append-only', tg_table_name using
    errcode = '42501', detail = format('%s is refused to everyone.', tg_op),
    hint = 'Write another entry that corrects the first.';
end $$;
comment on function private.keep_history() is 'Refuses every change of an append-only table.';
create trigger keep_history before update or delete or truncate on public.admin_action_logs
  for each statement execute function private.keep_history();
-- Also in sessions that disable triggers (session_replication_role = replica).
alter table public.admin_action_logs enable always trigger keep_history;

create function private.append_admin_action(
  action "AdminAction", description text, target_type text, target_id text,
  metadata jsonb, success boolean, error text, admin_id uuid
) returns uuid language sql security definer set search_path = '' as $$
  insert into public.admin_action_logs (
    action, description, target_type, target_id, metadata, success, error, admin_id, acting_as_id, ip_address,
    user_agent
  ) values (
    action, description, target_type, target_id, metadata, success, error,
    -- An impersonation token speaks as the user (sub) and names the admin behind it (act).
    coalesce((auth.jwt() #>> '{act,sub}')::uuid, auth.uid(), admin_id, '00000000-0000-0000-0000-000000000000'),
    case when auth.jwt() #>> '{act,sub}' is not null then auth.uid() end,
    private.client_ip(),
    private.request_header('user-agent')
  )
  returning id
$$;
comment on function private.append_admin_action("AdminAction", text, text, text, jsonb, boolean, text, uuid) is
  'Writes an entry in the name of the caller. Granted to no role: for triggers and log_admin_action().';

create function private.log_admin_action(
  action "AdminAction", description text, target_type text, target_id text,
  metadata jsonb default null, success boolean default true, error text default null, admin_id uuid default null
) returns uuid language plpgsql security definer set search_path = '' as $$
declare
  actor uuid := coalesce((auth.jwt() #>> '{act,sub}')::uuid, auth.uid());
begin
  -- Without a user's token the caller is the server itself, which names the admin it works for.
  if (actor is not null or auth.role() in ('anon', 'authenticated')) and (
    (auth.jwt() ? 'act' and not private.impersonation_holds(auth.jwt())) or not exists (
      select from public.users u where u.id = actor and u.global_role in ('ADMIN', 'SUPER_ADMIN')
        and coalesce(private.blocked_until(u) <= now(), true)
    )
  ) then
    raise exception 'Only platform admins can write to the audit log' using errcode = '42501';
  end if;
  return private.append_admin_action(action, description, target_type, target_id, metadata, success, error, admin_id);
end $$;
comment on function private.log_admin_action("AdminAction", text, text, text, jsonb, boolean, text, uuid) is
  'Logs what the calling admin did or failed to do. admin_id counts only when the request carries no user.';
grant execute on function private.log_admin_action("AdminAction", text, text, text, jsonb, boolean, text, uuid)
  to authenticated, service_role;

-- Arguments: the action, what the row is called, the column that names it.
create function private.audit_change() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  changed text;
begin
  if tg_op = 'UPDATE' then
    select string_agg(a.key, ', ' order by a.key) into changed from jsonb_each(after) a
    where a.value is distinct from before -> a.key and a.key not in ('updated_at', 'version');
    if changed is null then
      return null;
    end if;
  end if;
  perform private.append_admin_action(
    tg_argv[0]::public."AdminAction",
    format('%s %s %s', initcap(replace(tg_argv[1], '_', ' ')), coalesce(after, before) ->> tg_argv[2],
      case tg_op when 'INSERT' then 'created' when 'DELETE' then 'deleted' else 'changed: ' || changed end),
    tg_argv[1], coalesce(after, before) ->> 'id',
    jsonb_build_object('before', before, 'after', after), true, null, null
  );
  return null;
end $$;
comment on function private.audit_change() is 'Logs a changed row with what it was before and after.';

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.admin_action_logs enable row level security;
create policy "platform admins read the log" on public.admin_action_logs for select to authenticated
  using ((select private.is_admin()));
grant select on public.admin_action_logs to authenticated;
-- Entries are written through private.log_admin_action(), so an admin cannot write one in another's name.
grant select on public.admin_action_logs to service_role;
