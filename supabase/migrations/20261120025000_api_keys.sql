-- API keys: how a program of an organization calls. A key acts for the admin who made it, within its scopes and never with
-- more than the role MEMBER. What it may touch is opened in the chapter api_key_scopes; everything else is closed to it.

create type "ApiKeyScope" as enum (
  'CRM_READ', 'CRM_WRITE', 'TASKS_READ', 'TASKS_WRITE', 'ORDERS_READ', 'ORDERS_WRITE', 'DASHBOARD_READ',
  'BILLING_READ', 'ORGANIZATION_READ'
);
comment on type "ApiKeyScope" is 'What an API key may do: read or write the tables and functions of one domain.';

-- Requests of keys run as this role. Besides those of anonymous callers it has only the rights of the chapter
-- api_key_scopes, so a table or function that is not named there is closed to keys, and no policy is planned for others.
do $$ begin
  if not exists (select from pg_roles where rolname = 'strive_api_key') then
    create role strive_api_key nologin inherit nobypassrls;
  end if;
end $$;
-- For the functions of the schema auth, which only its owner may open to another role.
grant anon to strive_api_key;
grant strive_api_key to authenticator;
alter role strive_api_key set statement_timeout = '8s';
grant usage on schema public, private, extensions to strive_api_key;
-- An upload stores its result in the transaction of its rows.
grant execute on function private.remember(text, text, bytea, jsonb) to strive_api_key;

create table public.api_keys (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  name text not null constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  prefix text not null constraint "prefix is 16 to 24 characters" check (length(prefix) between 16 and 24),
  key_hash text not null unique constraint "key_hash is a SHA-256 in hex" check (key_hash ~ '^[0-9a-f]{64}$'),
  scopes "ApiKeyScope"[] not null constraint "scopes are not empty" check (cardinality(scopes) between 1 and 20),
  networks cidr[] constraint "networks are 1 to 20 networks" check (cardinality(networks) between 1 and 20),
  expires_at timestamptz,
  created_by uuid not null references public.users (id) on delete cascade,
  rotated_from uuid,
  revoked_at timestamptz,
  revoked_by uuid references public.users (id) on delete set null,
  last_used_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "rotated_from is a key of the organization" foreign key (organization_id, rotated_from)
    references public.api_keys (organization_id, id) on delete set null (rotated_from)
);
comment on table public.api_keys is
  'Keys of an organization; the key itself is returned once. A key works while its creator is ADMIN or OWNER.';
comment on column public.api_keys.name is 'What history calls the key.';
comment on column public.api_keys.prefix is 'The beginning of the key, to recognize it by.';
-- A random key has 160 bits: it cannot be found from its hash by guessing, so a slow hash with a salt would add nothing.
comment on column public.api_keys.key_hash is 'SHA-256 (hex) of the key.';
comment on column public.api_keys.scopes is 'What it may do; fixed when it is made. A scope to write includes reading.';
comment on column public.api_keys.networks is 'From where it may be used; null: from anywhere.';
comment on column public.api_keys.created_by is 'Who made it: the author of what it writes.';
comment on column public.api_keys.rotated_from is 'The key that this one replaces.';
comment on column public.api_keys.revoked_at is 'Set: it stopped working at that moment.';
comment on column public.api_keys.revoked_by is 'Who revoked it.';
comment on column public.api_keys.last_used_at is 'To the minute.';
create index api_keys_organization_idx on public.api_keys (organization_id, created_at desc);
create index api_keys_rotated_from_idx on public.api_keys (organization_id, rotated_from);
create index api_keys_created_by_idx on public.api_keys (created_by);
create index api_keys_revoked_by_idx on public.api_keys (revoked_by);
create trigger touch before update on public.api_keys for each row execute function private.touch_updated_at();

-- Operations of the data API that keys may call; filled by the chapter api_key_scopes.
create table private.api_key_operations (
  name text primary key,
  scope "ApiKeyScope" not null
);
comment on table private.api_key_operations is 'Functions of the data API that API keys may call, with the scope it takes.';
comment on column private.api_key_operations.name is 'Function in the schema public.';
comment on column private.api_key_operations.scope is 'The scope that it takes.';

-- Who calls -----------------------------------------------------------------------------------------------------------

create function private.working_api_key(key_id uuid, creator uuid) returns public.api_keys
language plpgsql stable security definer set search_path = '' as $$
declare
  key public.api_keys;
begin
  select k.* into key
  from public.api_keys k
  join public.organization_members m on m.user_id = k.created_by and m.organization_id = k.organization_id
  where k.id = key_id and k.created_by = creator and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
    and m.role <= 'ADMIN' and (m.blocked_until is null or m.blocked_until <= now());
  return case when key.networks is null or private.client_address() <<= any (key.networks) then key end;
end $$;
comment on function private.working_api_key(uuid, uuid) is
  'The key if it works now and from here: neither revoked nor expired, its creator an ADMIN, the network listed; else null.';

create function private.api_key_org(claims jsonb, minimum_role "OrgRole", reading boolean) returns uuid
language plpgsql stable security definer set search_path = '' as $$
declare
  named text := nullif(nullif(current_setting('request.headers', true), '')::json ->> 'x-org-id', '');
  called text := substring(current_setting('request.path', true) from '^/rpc/(.*)$');
  key public.api_keys := private.working_api_key((claims ->> 'api_key_id')::uuid, (claims ->> 'sub')::uuid);
begin
  if key.id is null then
    perform private.refuse_moved(null, claims ->> 'api_key_id');
  end if;
  if key.id is null or minimum_role < 'MEMBER' or lower(named) <> key.organization_id::text then
    return null;
  end if;
  if minimum_role = 'MEMBER' and not exists (select from unnest(key.scopes) s where s::text like '%\_WRITE') then
    return null;
  end if;
  if minimum_role = 'MEMBER' and not reading and exists (
    select from public.organizations o
    where o.id = key.organization_id and (o.suspended_at is not null or o.closed_at is not null)
  ) then
    return null;
  end if;
  -- Definer functions ask for the organization and not for a scope: here the scope of the function called is checked.
  if called is not null and not exists (
    select from private.api_key_operations o where o.name = called and o.scope = any (key.scopes)
  ) then
    return null;
  end if;
  return key.organization_id;
end $$;
comment on function private.api_key_org(jsonb, "OrgRole", boolean) is
  'The organization of the API key that calls, for current_user_org(): VIEWER, or MEMBER with a scope to write.';

create function private.api_key_may(scope "ApiKeyScope") returns boolean
language plpgsql stable set search_path = '' as $$
begin
  -- The scopes of a key never change, so those in its claims hold.
  return coalesce(
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb) -> 'scopes' ? scope::text, false
  );
end $$;
comment on function private.api_key_may("ApiKeyScope") is 'Whether the API key that calls has the scope; false without a key.';

create function private.check_api_key() returns void
language plpgsql stable security definer set search_path = '' as $$
begin
  if (private.working_api_key((auth.jwt() ->> 'api_key_id')::uuid, (auth.jwt() ->> 'sub')::uuid)).id is null then
    perform private.refuse_moved(null, auth.jwt() ->> 'api_key_id');
    raise exception 'This API key does not work any more, or not from here' using
      errcode = 'PT401', hint = 'An admin of the organization sees in api_keys whether it expired or was revoked.';
  end if;
end $$;
comment on function private.check_api_key() is 'PT401 unless the API key that calls works.';

create function private.api_key_name(api_key_id uuid) returns text
language plpgsql stable security definer set search_path = '' as $$
begin
  return case when api_key_id is not null then (
    select 'key ' || k.name from public.api_keys k
    where k.id = api_key_name.api_key_id and k.organization_id = private.current_user_org()
  ) end;
end $$;
comment on function private.api_key_name(uuid) is 'What history calls a key of the caller''s organization.';

-- Counting: see private.count_api_call() in the chapter usage ----------------------------------------------------------

create function private.use_api_key(hash text, headers text, function_name text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  found_one public.api_keys;
begin
  perform set_config('request.headers', headers, true);
  select k.* into found_one from public.api_keys k where k.key_hash = hash;
  found_one := private.working_api_key(found_one.id, found_one.created_by);
  if found_one.id is null then
    perform private.refuse_moved(null, hash);
    return null;
  end if;
  perform private.count_api_call(found_one, function_name);
  -- The session is one that the auth service does not know: it changes no account with a token of a key.
  return jsonb_build_object(
    'role', 'strive_api_key', 'sub', found_one.created_by, 'session_id', found_one.id, 'api_key_id', found_one.id,
    'app_metadata', jsonb_build_object('org_id', found_one.organization_id), 'scopes', to_jsonb(found_one.scopes)
  );
end $$;
comment on function private.use_api_key(text, text, text) is
  'Counts a request to a function with the key of this hash and returns the claims it runs with; null if no key works.';

create function private.admit_api_key() returns void
language plpgsql security definer set search_path = '' as $$
declare
  key public.api_keys := private.working_api_key((auth.jwt() ->> 'api_key_id')::uuid, (auth.jwt() ->> 'sub')::uuid);
begin
  if key.id is null then
    perform private.check_api_key();
  end if;
  if current_setting('transaction_read_only') = 'off' then
    perform private.count_api_call(key, 'data-api');
  else
    perform private.require_calls(key.organization_id), private.note_read(key);
  end if;
end $$;
comment on function private.admit_api_key() is
  'For every request of a key to the data API: PT401 unless the key works, PT402 beyond the plan; counts it.';

grant execute on function private.api_key_name(uuid), private.check_api_key() to authenticated, service_role;
grant execute on function private.use_api_key(text, text, text) to strive_functions;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.api_keys enable row level security;
create policy "admins see the keys of their organization" on public.api_keys for select to authenticated
  using (organization_id = (select private.current_user_org('ADMIN', true)));
grant select (
  id, organization_id, name, prefix, scopes, networks, expires_at, created_by, rotated_from, revoked_at, revoked_by,
  last_used_at, created_at, updated_at
) on public.api_keys to authenticated;
grant all on public.api_keys to service_role;
