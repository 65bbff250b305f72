-- History: who changed what in an organization. One trigger function writes activity_logs for every table that has the
-- trigger `history`; record_history() pages the history of one record.

create table public.activity_logs (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid,
  impersonated_by uuid,
  api_key_id uuid,
  action text not null constraint "action is 1 to 100 characters" check (length(action) between 1 and 100),
  resource_type text not null
    constraint "resource_type is 1 to 100 characters" check (length(resource_type) between 1 and 100),
  resource_id uuid,
  old_data jsonb,
  new_data jsonb,
  ip_address text,
  user_agent text,
  created_at timestamptz not null default clock_timestamp()
);
comment on table public.activity_logs is 'Who changed what in an organization. Append-only for everyone.';
comment on column public.activity_logs.user_id is
  'Who did it; null for the server and for an API key. Stays when the account is deleted, as a pseudonym; without a '
  'foreign key, which would cost a fifth of each entry.';
comment on column public.activity_logs.impersonated_by is 'The platform admin who acted as this user.';
comment on column public.activity_logs.api_key_id is 'The API key that the request was made with, if any.';
comment on column public.activity_logs.action is 'created, updated, deleted, restored, purged or merged.';
comment on column public.activity_logs.resource_type is 'The table of the record.';
comment on column public.activity_logs.resource_id is 'The id of the record; of a membership the id of the user.';
comment on column public.activity_logs.ip_address is 'The address the request came from.';
comment on column public.activity_logs.user_agent is 'The program that sent the request, as it names itself.';
comment on column public.activity_logs.created_at is 'When it was written: later entries of one transaction are later.';
comment on column public.activity_logs.old_data is 'The row before; of an update only what changed.';
comment on column public.activity_logs.new_data is 'The row after; of an update only what changed.';
create index activity_logs_organization_idx on public.activity_logs (organization_id, created_at desc);
create index activity_logs_resource_idx on public.activity_logs (organization_id, resource_id, created_at desc, id desc);
create index activity_logs_user_idx on public.activity_logs (user_id);

-- Writing -------------------------------------------------------------------------------------------------------------

-- The row, its author and the request in one statement. The argument names columns of the table that history leaves out
-- besides those that the server derives: personal data and secrets.
create function private.record_history() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  ignored constant text[] := coalesce(tg_argv[0]::text[], '{}') || '{updated_at,last_contact_at,usage_count,rating,is_popular,'
    'views,likes,price_per_sqft,blocked_until,reminders_sent,next_reminder_at,stored_at,stripe_customer_id,token_hash}'::text[];
  headers constant jsonb := nullif(current_setting('request.headers', true), '')::jsonb;
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  before jsonb;
  after jsonb;
  whole jsonb;
  org uuid;
begin
  case tg_op
    when 'INSERT' then
      whole := to_jsonb(new);
      after := jsonb_strip_nulls(whole) - ignored;
    when 'UPDATE' then
      whole := to_jsonb(new);
      before := to_jsonb(old);
      -- Over the keys: half the time of jsonb_each().
      select jsonb_object_agg(k, before -> k), jsonb_object_agg(k, whole -> k) into before, after
      from jsonb_object_keys(whole) k where whole -> k <> before -> k and k <> all (ignored);
      if after is null then
        return null;
      end if;
    when 'DELETE' then
      whole := to_jsonb(old);
      before := jsonb_strip_nulls(whole) - ignored;
  end case;
  org := case tg_table_name when 'organizations' then whole ->> 'id' else whole ->> 'organization_id' end;
  -- Templates of the platform belong to no organization. Rows that are deleted together with their organization leave
  -- no history.
  if org is null or tg_op = 'DELETE' and not exists (select from public.organizations o where o.id = org) then
    return null;
  end if;
  if random() < 0.01 then
    perform private.bound_growth('activity_logs', org);
  end if;
  insert into public.activity_logs (
    organization_id, user_id, impersonated_by, api_key_id, action, resource_type, resource_id, old_data, new_data,
    ip_address, user_agent
  ) values (
    org, case when not coalesce(claims ? 'api_key_id', false) then (claims ->> 'sub')::uuid end,
    (claims #>> '{act,sub}')::uuid, (claims ->> 'api_key_id')::uuid,
    case tg_op
      when 'UPDATE' then 'updated'
      when 'DELETE' then 'deleted'
      else coalesce(nullif(current_setting('strive.history_action', true), ''), 'created')
    end,
    tg_table_name, coalesce(whole ->> 'id', whole ->> 'user_id')::uuid, before, after, private.client_ip(headers),
    left(headers ->> 'user-agent', 500)
  );
  return null;
end $$;
comment on function private.record_history() is
  'Trigger `history`: records in activity_logs who created, changed or deleted a row; for an update only the changed '
  'columns.';

create function private.log_merge(type text, id uuid, before jsonb, after jsonb) returns void
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.activity_logs (
    organization_id, user_id, impersonated_by, api_key_id, action, resource_type, resource_id, old_data, new_data,
    ip_address, user_agent
  ) values (
    (after ->> 'organization_id')::uuid, case when not coalesce(auth.jwt() ? 'api_key_id', false) then auth.uid() end,
    (auth.jwt() #>> '{act,sub}')::uuid, (auth.jwt() ->> 'api_key_id')::uuid, 'merged', type, id, before, after,
    private.client_ip(), private.request_header('user-agent')
  );
end $$;
comment on function private.log_merge(text, uuid, jsonb, jsonb) is 'Records that several records became one.';

-- Append-only ---------------------------------------------------------------------------------------------------------

-- An entry is deleted only with its organization, and changed only to clear the addresses of a deleted account.
create function private.keep_activity_logs() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'DELETE' and not exists (select from public.organizations o where o.id = old.organization_id) then
    return old;
  end if;
  if tg_op = 'UPDATE' and exists (select from public.users u where u.id = old.user_id and u.deleted_at is not null)
    and to_jsonb(new) - '{ip_address,user_agent}'::text[] = to_jsonb(old) - '{ip_address,user_agent}'::text[]
    and coalesce(new.ip_address, old.ip_address) is not distinct from old.ip_address
    and coalesce(new.user_agent, old.user_agent) is not distinct from old.user_agent then
    return new;
  end if;
  raise exception 'The activity log is append-only' using
    errcode = '42501', detail = format('Tried to %s.', lower(tg_op));
end $$;
comment on function private.keep_activity_logs() is 'Refuses every change and every deletion of an entry.';
create trigger keep before update or delete on public.activity_logs
  for each row execute function private.keep_activity_logs();
create trigger keep_all before truncate on public.activity_logs
  for each statement execute function private.keep_activity_logs();

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.activity_logs enable row level security;
create policy "admins read the activity log" on public.activity_logs for select to authenticated
  using (organization_id = (select private.current_user_org('ADMIN', true)));
grant select on public.activity_logs to authenticated;
grant select, insert on public.activity_logs to service_role;

-- Reading -------------------------------------------------------------------------------------------------------------

create function private.history_tables() returns text[]
language sql stable security definer set search_path = '' as $$
  select array_agg(c.relname::text order by c.relname)
  from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
  where t.tgfoid = 'private.record_history()'::regprocedure
$$;
comment on function private.history_tables() is 'The tables whose changes are recorded: those with the trigger `history`.';

create function private.record_history(
  type text, id uuid, before timestamptz, before_id uuid, page_size integer
) returns setof public.activity_logs
language plpgsql stable security definer set search_path = '' as $$
declare
  org uuid;
begin
  org := case
    when type in ('organizations', 'organization_members', 'organization_invitations') then private.require_org('ADMIN', true)
    else private.require_org('VIEWER')
  end;
  if type is null or type <> all (private.history_tables()) then
    raise exception 'This type has no history' using
      errcode = 'PT400', detail = format('Found %L.', left(type, 100)),
      hint = format('Types are: %s.', array_to_string(private.history_tables(), ', '));
  end if;
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  end if;
  return query
  select l.* from public.activity_logs l
  where l.organization_id = org and l.resource_type = record_history.type and l.resource_id = record_history.id
    and (l.created_at, l.id) < (before, before_id)
  order by l.created_at desc, l.id desc limit page_size;
end $$;
comment on function private.record_history(text, uuid, timestamptz, uuid, integer) is
  'Does the work of public.record_history(): activity_logs itself is for ADMIN.';

create function public.record_history(
  type text, id uuid, before timestamptz default 'infinity',
  before_id uuid default 'ffffffff-ffff-ffff-ffff-ffffffffffff', page_size integer default 50
) returns table (
  entry_id uuid, action text, user_id uuid, impersonated_by uuid, api_key_id uuid, old_data jsonb, new_data jsonb,
  created_at timestamptz, api_key_name text
) language sql stable set search_path = '' as $$
  select h.id, h.action, h.user_id, h.impersonated_by, h.api_key_id, h.old_data, h.new_data, h.created_at,
    private.api_key_name(h.api_key_id)
  from private.record_history(type, id, before, before_id, page_size) h
$$;
comment on function public.record_history(text, uuid, timestamptz, uuid, integer) is
  'The history of one record, newest first, for every member; that of the organization, its members and invitations for '
  'ADMIN. type is the table, such as deals. For the next page give created_at and entry_id of the last entry.';

grant execute on function private.record_history(text, uuid, timestamptz, uuid, integer),
  public.record_history(text, uuid, timestamptz, uuid, integer)
  to authenticated, service_role;

create trigger history after insert or update or delete on public.organization_members
  for each row execute function private.record_history();
create trigger history after insert or update or delete on public.organization_invitations
  for each row execute function private.record_history('{email}');
-- The creation of an organization is recorded by its first membership.
create trigger history after update of name, slug, website, description, settings, subscription_tier, subscription_status
  on public.organizations for each row execute function private.record_history('{billing_email}');
