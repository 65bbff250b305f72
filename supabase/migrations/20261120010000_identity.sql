-- Identity and tenancy: who calls, in which organization, and what that lets them do. Every later chapter builds on
-- private.current_user_org().

-- Closed by default: nothing is open to a role until a grant names it. A public function that only forwards to a
-- private one exists because SECURITY DEFINER functions must not be in an exposed schema, and `public` is exposed.
alter default privileges in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges in schema public revoke all on functions from anon, authenticated, service_role;
alter default privileges revoke execute on functions from public;
revoke create on schema public from public;

create schema private;
comment on schema private is 'Helpers of policies, triggers and functions. Not exposed by the API.';
grant usage on schema private to authenticated, service_role, supabase_auth_admin;
create extension if not exists pg_trgm with schema extensions;

-- Types ---------------------------------------------------------------------------------------------------------------

create type "UserRole" as enum ('SUPER_ADMIN', 'ADMIN', 'MODERATOR', 'USER');
comment on type "UserRole" is 'Role on the whole platform; ADMIN and SUPER_ADMIN administer it.';
-- Strongest first: `role <= 'ADMIN'` reads "at least ADMIN".
create type "OrgRole" as enum ('OWNER', 'ADMIN', 'MEMBER', 'VIEWER');
comment on type "OrgRole" is 'Role in one organization, strongest first.';
create type "SubscriptionTier" as enum ('FREE', 'STARTER', 'GROWTH', 'ELITE', 'ENTERPRISE');
comment on type "SubscriptionTier" is 'What an organization has bought; plans has the limits of each tier.';
create type "SubscriptionStatus" as enum ('TRIAL', 'ACTIVE', 'PAST_DUE', 'INACTIVE', 'CANCELLED');
comment on type "SubscriptionStatus" is 'State of what an organization has bought.';

create function private.are_reminders(minutes integer[]) returns boolean
language sql immutable set search_path = '' as $$
  select cardinality(minutes) <= 5 and 0 <= all (minutes) and 40320 >= all (minutes) and num_nulls(variadic minutes) = 0
$$;
comment on function private.are_reminders(integer[]) is 'Whether these are at most five numbers of minutes, each at most four weeks.';
grant execute on function private.are_reminders(integer[]) to authenticated, service_role;

-- Tables --------------------------------------------------------------------------------------------------------------
-- Checks are named as sentences: a client sees the name when the check fails.

create table public.users (
  id uuid primary key references auth.users (id) on delete cascade,
  email text not null,
  name text constraint "name is at most 255 characters" check (length(name) <= 255),
  avatar_url text constraint "avatar_url is an http(s) address of at most 500 characters"
    check (avatar_url ~* '^https?://[^[:space:]]+$' and length(avatar_url) <= 500),
  global_role "UserRole" not null default 'USER',
  is_active boolean not null default true,
  last_login_at timestamptz,
  suspended_at timestamptz,
  suspended_until timestamptz,
  suspended_reason text
    constraint "suspended_reason is 1 to 500 characters" check (length(suspended_reason) between 1 and 500),
  deleted_at timestamptz,
  current_organization_id uuid,
  time_zone text not null default 'UTC'
    constraint "time_zone is at most 64 characters" check (length(time_zone) <= 64),
  locale text not null default 'en' constraint "locale is a language and perhaps a country, such as en-US"
    check (locale ~ '^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$' and length(locale) <= 16),
  reminder_minutes integer[] not null default '{1440,15}' constraint "reminder_minutes are up to 5 numbers from 0 to 40320"
    check (private.are_reminders(reminder_minutes)),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "suspended_until is after suspended_at" check (suspended_until > suspended_at),
  constraint "a deleted account is not active" check (deleted_at is null or not is_active)
);
comment on table public.users is 'Everyone who can sign in; kept in step with auth.users.';
comment on column public.users.global_role is 'Role on the platform, not in an organization.';
comment on column public.users.is_active is 'False: every request of the account is refused.';
comment on column public.users.deleted_at is
  'When the account was deleted: its personal data is gone; its id stays, because business records refer to it.';
comment on column public.users.current_organization_id is
  'Chosen by set_current_organization(); counts in new access tokens while the user is a member there.';
comment on column public.users.time_zone is 'IANA name, such as Europe/Berlin: times in e-mails and notices are in this zone.';
comment on column public.users.locale is
  'Language and perhaps country, such as en-US: decides how times are written. Texts are English.';
comment on column public.users.reminder_minutes is
  'How many minutes before an appointment of theirs a person is reminded of it; empty: not at all.';
comment on column public.users.suspended_until is 'Null while suspended: until reactivated by hand.';
create index users_email_idx on public.users (lower(email));
create index users_created_at_idx on public.users (created_at desc);
create index users_last_login_at_idx on public.users (last_login_at desc);
create index users_search_idx on public.users
  using gin (email extensions.gin_trgm_ops, name extensions.gin_trgm_ops);
create index users_suspended_until_idx on public.users (suspended_until) where suspended_until is not null;

create table public.organizations (
  id uuid primary key default gen_random_uuid(),
  name text not null constraint "organization name is 2 to 100 characters" check (length(name) between 2 and 100),
  slug text not null constraint "slug is unique in organizations" unique
    constraint "slug is lower-case words joined by hyphens" check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  website text constraint "website is an http(s) address of at most 500 characters"
    check (website ~* '^https?://[^[:space:]]+$' and length(website) <= 500),
  description text constraint "description is at most 500 characters" check (length(description) <= 500),
  settings jsonb not null default '{}' constraint "settings is an object" check (jsonb_typeof(settings) = 'object'),
  subscription_tier "SubscriptionTier" not null default 'FREE',
  subscription_status "SubscriptionStatus" not null default 'TRIAL',
  logo_url text constraint "logo_url is an https address of at most 500 characters"
    check (logo_url ~* '^https://[^[:space:]"<>]+$' and length(logo_url) <= 500),
  billing_email text,
  stripe_customer_id text unique,
  suspended_at timestamptz,
  suspended_reason text
    constraint "suspended_reason is 1 to 500 characters" check (length(suspended_reason) between 1 and 500),
  closed_at timestamptz,
  closed_by uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.organizations is 'A tenant. Every business row belongs to one organization.';
comment on column public.organizations.suspended_at is
  'When a platform admin suspended it: members can read and owners can pay; other writes are refused.';
comment on column public.organizations.suspended_reason is 'Why; shown to the members.';
comment on column public.organizations.closed_at is
  'When it was closed: members can only read. It can be reopened for 30 days and is then erased.';
comment on column public.organizations.logo_url is 'Shown in e-mails about the organization.';
comment on column public.organizations.closed_by is 'Who closed it.';
comment on column public.organizations.subscription_tier is 'Follows the live subscription; never written by clients.';
create index organizations_created_at_idx on public.organizations (created_at desc);
create index organizations_search_idx on public.organizations
  using gin (name extensions.gin_trgm_ops, slug extensions.gin_trgm_ops);

create table public.organization_members (
  user_id uuid not null references public.users (id) on delete cascade,
  organization_id uuid not null references public.organizations (id) on delete cascade,
  role "OrgRole" not null default 'MEMBER',
  permissions text[] not null default '{}',
  joined_at timestamptz not null default now(),
  blocked_until timestamptz,
  is_read_only boolean not null default false,
  primary key (user_id, organization_id)
);
comment on table public.organization_members is 'Members of organizations and their roles.';
comment on column public.organization_members.permissions is
  'Extra permissions, which widgets and metrics may require.';
comment on column public.organization_members.blocked_until is
  'Set while the user is suspended or inactive (infinity: until reactivated); follows users.';
comment on column public.organization_members.is_read_only is
  'The organization is suspended or closed; follows organizations.';
create index organization_members_organization_idx on public.organization_members (organization_id, joined_at desc);

create table public.organization_invitations (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  email text not null constraint "email has an @ between two parts" check (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
  role "OrgRole" not null default 'MEMBER',
  token_hash text not null unique constraint "token_hash is a SHA-256 in hex" check (token_hash ~ '^[0-9a-f]{64}$'),
  invited_by uuid not null references public.users (id) on delete cascade,
  expires_at timestamptz not null default now() + interval '7 days',
  accepted_at timestamptz,
  reminder_token_hash text unique,
  reminded_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "an invitation lasts at most 30 days"
    check (expires_at > created_at and expires_at <= created_at + interval '30 days')
);
comment on table public.organization_invitations is 'Open and accepted invitations by e-mail address.';
comment on column public.organization_invitations.token_hash is 'SHA-256 (hex) of the token that was handed out once.';
comment on column public.organization_invitations.reminder_token_hash is 'The same of the token in the reminder.';
comment on column public.organization_invitations.reminded_at is 'When the reminder was mailed.';
create index organization_invitations_organization_idx
  on public.organization_invitations (organization_id, created_at desc);
create index organization_invitations_invited_by_idx on public.organization_invitations (invited_by);
create unique index organization_invitations_open_idx
  on public.organization_invitations (organization_id, lower(email)) where accepted_at is null;

-- The id is the session_id of the token. Supabase Auth has no such session, so it neither refreshes the token nor
-- accepts it for changes of the account.
create table private.impersonations (
  id uuid primary key default gen_random_uuid(),
  admin_id uuid not null references public.users (id) on delete cascade,
  user_id uuid not null references public.users (id) on delete cascade,
  reason text not null constraint "reason is 1 to 500 characters" check (length(reason) between 1 and 500),
  started_at timestamptz not null default now(),
  expires_at timestamptz not null default now() + interval '15 minutes',
  ended_at timestamptz,
  constraint "an impersonation lasts at most 15 minutes"
    check (expires_at > started_at and expires_at <= started_at + interval '15 minutes'),
  constraint "an admin impersonates another user" check (admin_id <> user_id)
);
comment on table private.impersonations is
  'Who acted as whom, why and until when. A token with `act` is valid only while its row here is.';
comment on column private.impersonations.ended_at is 'When it was ended early; its token has been invalid since then.';
create index impersonations_admin_idx on private.impersonations (admin_id, started_at desc);
create index impersonations_user_idx on private.impersonations (user_id, started_at desc);

-- examine_statement() refuses what private.check_request() cannot see: an EXPLAIN for an estimated count (of two Prefer
-- headers, PostgREST follows the first and passes on the last), a table embedded in itself repeatedly, whose rows multiply
-- with each level, and a column selected under many names, which multiplies the response.
-- Statements that are not from the data API have no request.method.
create function private.examine_statement() returns void
language plpgsql stable set search_path = '' as $$
declare
  statement text;
  repeated text;
begin
  if nullif(current_setting('request.method', true), '') is null then
    return;
  end if;
  statement := current_query();
  -- Without the values of filters, which are any text.
  if statement ilike '%explain%' and regexp_replace(statement, '''[^'']*''', '', 'g') ~* '(^|;)\s*explain\y' then
    raise exception 'Estimated counts are not available' using
      errcode = 'PT400', hint = 'Send Prefer: count=exact, or leave the count out.';
  end if;
  if statement ilike '% lateral %' then
    select m[1] into repeated from regexp_matches(statement, 'from\s+"?public"?\."?(\w+)', 'gi') m
    group by m[1] having count(*) > 2 limit 1;
    if found then
      raise exception 'A request embeds a table at most twice' using
        errcode = 'PT400', detail = format('%s is embedded more often.', repeated),
        hint = 'Embed fewer levels, or send several requests.';
    end if;
  end if;
  -- Few commas list few columns. In a list, a column is followed by a comma, its name or FROM; * is all of them.
  if length(statement) - length(replace(statement, ',', '')) >= 10 then
    select m[2] into repeated from regexp_matches(
      regexp_replace(statement, '''[^'']*''', '', 'g'),
      '"(\w+)"\.(?:"(\w+)"\)?(?:->>?(?:\$?\d+)?(?:::int)?)*|(\*))\s*(?:,|as\y|from\y)', 'gi'
    ) m
    group by m[1], m[2] having count(*) > 10 limit 1;
    if found then
      raise exception 'A request selects a column at most ten times' using
        errcode = 'PT400', detail = format('%s is selected more often.', coalesce(repeated, '*')),
        hint = 'Select a JSON column as a whole instead of many of its members.';
    end if;
  end if;
end $$;
comment on function private.examine_statement() is
  'PT400 for an EXPLAIN, a table embedded more than twice or a column selected more than ten times by the data API.';

-- check_statement() runs while a statement is planned: it is the default of an argument of the functions below, and because it
-- is declared immutable, the planner evaluates it once per table reference. A function that the data API calls has planned its
-- own statements earlier, so in such requests the functions below examine the statement whenever they run.
create function private.check_statement() returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  perform private.examine_statement();
  return true;
end $$;
comment on function private.check_statement() is 'True, unless private.examine_statement() refuses the statement that is planned.';

-- Who calls -----------------------------------------------------------------------------------------------------------
-- Policies compare a column with `(select private.f())`: evaluated once per statement, and the only form which keeps
-- the ordered index scan of a tenant's list. plpgsql costs half of SQL here. SECURITY DEFINER, since policies on the
-- tables these functions read would otherwise recurse.

create function private.impersonation_holds(claims jsonb) returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return exists (
    select from private.impersonations i
    join public.users a on a.id = i.admin_id
    join public.users u on u.id = i.user_id
    where i.id = (claims ->> 'session_id')::uuid and i.user_id = (claims ->> 'sub')::uuid
      and i.admin_id = (claims #>> '{act,sub}')::uuid and i.ended_at is null and i.expires_at > now()
      and a.global_role = 'SUPER_ADMIN' and a.is_active and (a.suspended_at is null or a.suspended_until <= now())
      -- A user who has become an admin can no longer be impersonated.
      and u.global_role not in ('ADMIN', 'SUPER_ADMIN')
  );
end $$;
comment on function private.impersonation_holds(jsonb) is
  'Whether the impersonation of a token with `act` is active: neither ended nor expired, and its admin may still '
  'impersonate.';

create function private.refuse_impersonation() returns void
language plpgsql stable set search_path = '' as $$
begin
  if auth.jwt() ? 'act' then
    raise exception 'This is not allowed during an impersonation' using
      errcode = '42501', hint = 'Ask the user to do it, or to invite you as a member.';
  end if;
end $$;
comment on function private.refuse_impersonation() is
  '42501 during an impersonation: only the user decides about money and access.';

create function private.current_user_id(planned boolean default private.check_statement()) returns uuid
language plpgsql stable security definer set search_path = '' as $$
declare
  claims jsonb := auth.jwt();
begin
  if strpos(current_setting('request.path', true), '/rpc/') > 0 then
    perform private.examine_statement();
  end if;
  -- An API key is no person: what belongs to the person who made it is out of its reach.
  if claims ? 'api_key_id' or claims ? 'act' and not private.impersonation_holds(claims) then
    return null;
  end if;
  return (
    select u.id from public.users u
    where u.id = auth.uid() and u.is_active and (u.suspended_at is null or u.suspended_until <= now())
  );
end $$;
comment on function private.current_user_id(boolean) is
  'The person who calls, or null when unknown, inactive, suspended, or an API key.';

create function private.is_uuid(written text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  return written ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
end $$;
comment on function private.is_uuid(text) is 'Whether a text is an id as the database writes it, in lower case.';

create function private.requested_org() returns uuid
language plpgsql stable set search_path = '' as $$
declare
  named text := nullif(nullif(current_setting('request.headers', true), '')::json ->> 'x-org-id', '');
begin
  if named is null then
    named := nullif(auth.jwt() #>> '{app_metadata,org_id}', '');
  end if;
  if not private.is_uuid(lower(named)) then
    raise exception 'x-org-id is not an organization id' using
      errcode = 'PT400', detail = format('Found %L.', left(named, 100)),
      hint = 'Send the id of an organization you belong to, or leave the header out.';
  end if;
  return named::uuid;
end $$;
comment on function private.requested_org() is 'The organization the request names: header x-org-id, else the token.';

-- This runs once per table reference of every statement, so it is kept cheap: it reads the token once, finds the role
-- and a suspension with one lookup, and examines the organization that a request names only if it is not an id.
create function private.current_user_org(
  minimum_role "OrgRole" default 'VIEWER', reading boolean default false, planned boolean default private.check_statement()
) returns uuid
language plpgsql stable security definer set search_path = '' as $$
declare
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  headers constant text := nullif(current_setting('request.headers', true), '');
  named text;
  found_org uuid;
  found_role public."OrgRole";
  read_only boolean;
begin
  if strpos(current_setting('request.path', true), '/rpc/') > 0 then
    perform private.examine_statement();
  end if;
  if claims ?| '{act,api_key_id}' then
    if claims ? 'api_key_id' then
      return private.api_key_org(claims, minimum_role, reading); -- see the chapter api_keys
    elsif not private.impersonation_holds(claims) then
      return null;
    end if;
  end if;
  if headers is null then
    named := private.realtime_row_org(); -- Realtime checks one row; see the chapter realtime
  elsif strpos(headers, '"x-org-id"') > 0 then -- Few requests have it, and a search costs less than to parse.
    named := nullif(headers::json ->> 'x-org-id', '');
  end if;
  named := coalesce(named, nullif(claims #>> '{app_metadata,org_id}', ''));
  if named is null then
    select m.organization_id, m.role, m.is_read_only into found_org, found_role, read_only
    from public.organization_members m
    where m.user_id = (claims ->> 'sub')::uuid and (m.blocked_until is null or m.blocked_until <= now())
    order by m.joined_at, m.organization_id limit 1;
  else
    if length(named) <> 36 then
      perform private.requested_org(); -- says what is wrong with it
    end if;
    select m.organization_id, m.role, m.is_read_only into found_org, found_role, read_only
    from public.organization_members m
    where m.user_id = (claims ->> 'sub')::uuid and m.organization_id = named::uuid
      and (m.blocked_until is null or m.blocked_until <= now());
    -- A platform admin reads the organization it names, and writes only where it is a member.
    if found_org is null and minimum_role = 'VIEWER' and private.is_admin() then
      return named::uuid;
    end if;
  end if;
  if found_org is null and claims ? 'sub' then
    perform private.refuse_moved(named, claims ->> 'sub'); -- see the chapter moves
  end if;
  -- The organization is chosen first, then the role is compared: a role that is too low never selects another
  -- organization.
  if read_only and minimum_role <> 'VIEWER' and not reading then
    return null;
  end if;
  return case when found_role <= minimum_role then found_org end;
end $$;
comment on function private.current_user_org("OrgRole", boolean, boolean) is
  'The one organization this request acts in, if the caller has at least the role there now; else null. In a suspended or '
  'closed organization roles above VIEWER count only for reading => true.';
alter table public.organization_invitations alter column organization_id set default private.current_user_org();

create function private.is_admin(planned boolean default private.check_statement()) returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return exists (
    select from public.users u
    where u.id = private.current_user_id() and u.global_role in ('ADMIN', 'SUPER_ADMIN')
  );
end $$;
comment on function private.is_admin(boolean) is 'Whether the caller administers the platform.';

-- The SQL editor logs in as postgres and keeps that role; requests arrive as authenticator or strive_functions, or set the
-- role of a client. With claims, the claims decide.
create function private.is_sql_editor() returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return session_user in ('postgres', 'supabase_admin') and current_setting('role') in ('none', 'postgres')
    and nullif(current_setting('request.jwt.claims', true), '') is null;
end $$;
comment on function private.is_sql_editor() is 'Whether this is the SQL editor of the dashboard, or another connection of the owner of the database.';

create function private.is_operator() returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return private.is_admin() or private.is_sql_editor();
end $$;
comment on function private.is_operator() is 'Whether the caller is a platform admin, or the SQL editor of the dashboard.';

create function private.is_super_admin() returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return exists (
    select from public.users u where u.id = private.current_user_id() and u.global_role = 'SUPER_ADMIN'
  );
end $$;
comment on function private.is_super_admin() is 'Whether the caller may act as other users.';

create function private.is_org_owner() returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return private.current_user_org('OWNER') is not null;
end $$;
comment on function private.is_org_owner() is 'Whether the caller owns the organization the request acts in.';

create function private.visible_users(planned boolean default private.check_statement()) returns uuid[]
language plpgsql stable security definer set search_path = '' as $$
begin
  return array(
    select m.user_id from public.organization_members m where m.organization_id = private.current_user_org()
    union select private.current_user_id()
  );
end $$;
comment on function private.visible_users(boolean) is 'The caller and everyone in the organization the request acts in.';

create function private.request_header(name text) returns text language sql stable set search_path = '' as $$
  select left(nullif(trim(nullif(current_setting('request.headers', true), '')::json ->> name), ''), 500)
$$;
comment on function private.request_header(text) is 'A header of the request (name in lower case), or null.';

-- On hosted projects Cloudflare overwrites the first of these headers. In X-Forwarded-For only the last entry comes
-- from our proxy; the client may have sent the others.
create function private.client_ip(headers jsonb default nullif(current_setting('request.headers', true), '')::jsonb)
returns text language plpgsql stable set search_path = '' as $$
begin
  return coalesce(
    left(nullif(trim(headers ->> 'cf-connecting-ip'), ''), 500),
    trim(regexp_replace(left(nullif(trim(headers ->> 'x-forwarded-for'), ''), 500), '^.*,', '')),
    left(nullif(trim(headers ->> 'x-real-ip'), ''), 500)
  );
end $$;
comment on function private.client_ip(jsonb) is
  'The address this request came from, as the nearest proxy saw it. The functions send it as the only entry.';

-- A proxy that listens on IPv6 may write an IPv4 address as ::ffff:192.0.2.1, whose /64 would be everybody's and which no
-- IPv4 network contains; others append the port.
create function private.client_address() returns inet language plpgsql stable set search_path = '' as $$
declare
  address constant inet := regexp_replace(private.client_ip(), '^(?:\[(.*)\](?::\d+)?|([^:]*):\d+)$', '\1\2');
begin
  if address <<= inet '::ffff:0:0/96' then
    return inet '0.0.0.0' + (address - inet '::ffff:0:0');
  end if;
  return address;
exception when invalid_text_representation then
  return null;
end $$;
comment on function private.client_address() is
  'private.client_ip() as an address, an IPv4 address in IPv6 as IPv4; null if it is none.';

create function private.client_network() returns text language plpgsql stable set search_path = '' as $$
declare
  address constant inet := private.client_address();
begin
  return case family(address) when 6 then network(set_masklen(address, 64))::text else host(address) end;
end $$;
comment on function private.client_network() is
  'The network that rate limits count by: the IPv4 address, or the /64 of an IPv6 address, all of which one client '
  'may use. Null if the address is unknown.';

grant execute on function private.is_uuid(text), private.examine_statement(), private.check_statement(), private.refuse_impersonation(),
  private.current_user_id(boolean),
  private.requested_org(), private.current_user_org("OrgRole", boolean, boolean), private.is_admin(boolean),
  private.is_super_admin(), private.is_sql_editor(), private.is_operator(), private.is_org_owner(), private.visible_users(boolean)
  to authenticated, service_role;

-- Triggers ------------------------------------------------------------------------------------------------------------

create function private.touch_updated_at() returns trigger language plpgsql set search_path = '' as $$
begin
  new.updated_at := now();
  return new;
end $$;
comment on function private.touch_updated_at() is 'Keeps updated_at; one trigger function for all tables.';

create trigger touch before update on public.users for each row execute function private.touch_updated_at();
create trigger touch before update on public.organizations for each row execute function private.touch_updated_at();
create trigger touch before update on public.organization_invitations
  for each row execute function private.touch_updated_at();

-- Reads the time zones from files: only when one is chosen.
create function private.check_time_zone() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if not exists (select from pg_catalog.pg_timezone_names z where z.name = new.time_zone and z.name !~ '^posix') then
    raise exception 'There is no such time zone' using
      errcode = 'PT422', detail = format('Found %L.', left(new.time_zone, 100)),
      hint = 'Send an IANA name such as Europe/Berlin, America/New_York or UTC.';
  end if;
  return new;
end $$;
comment on function private.check_time_zone() is 'PT422 for a time zone that this server does not know.';
create trigger check_time_zone before update of time_zone on public.users
  for each row when (new.time_zone <> old.time_zone) execute function private.check_time_zone();

create function private.stamp_author() returns trigger language plpgsql set search_path = '' as $$
begin
  if not row_security_active(tg_relid) then
    return new;
  end if;
  return jsonb_populate_record(new, jsonb_build_object(tg_argv[0], (select auth.uid())));
end $$;
comment on function private.stamp_author() is 'Writes the caller into the named column, whatever a client sent.';

create function private.stored_columns(relation regclass) returns text[]
language sql stable set search_path = '' as $$
  select array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_attribute a
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
$$;
comment on function private.stored_columns(regclass) is 'The columns of a table that are stored, not computed.';

-- An anonymous sign-in has no e-mail address: its row in public.users is created with the first address.
create function private.follow_auth_user() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  avatar text := new.raw_user_meta_data ->> 'avatar_url';
begin
  if new.email is not null then
    insert into public.users as u (id, email, name, avatar_url, last_login_at)
    values (
      new.id, new.email, left(new.raw_user_meta_data ->> 'name', 255),
      case when length(avatar) <= 500 and avatar ~* '^https?://[^[:space:]]+$' then avatar end,
      new.last_sign_in_at
    )
    on conflict (id) do update set email = excluded.email,
      last_login_at = coalesce(excluded.last_login_at, u.last_login_at)
    where u.deleted_at is null
      and (u.email is distinct from excluded.email or u.last_login_at is distinct from excluded.last_login_at);
  end if;
  return null;
end $$;
comment on function private.follow_auth_user() is 'Keeps public.users in step with auth.users.';
create trigger follow_auth_user after insert or update of email, last_sign_in_at on auth.users
  for each row execute function private.follow_auth_user();

-- Supabase Auth stores what a client sends and repeats it in every access token.
create function private.bound_user_metadata() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.check_json('user_metadata', new.raw_user_meta_data, 16384);
  return new;
end $$;
comment on function private.bound_user_metadata() is 'Refuses metadata of a user beyond 16 kB.';
create trigger bound_user_metadata before insert or update of raw_user_meta_data on auth.users
  for each row execute function private.bound_user_metadata();

create function private.blocked_until(who public.users) returns timestamptz
language sql immutable set search_path = '' as $$
  select case
    when not who.is_active then 'infinity'
    when who.suspended_at is not null then coalesce(who.suspended_until, 'infinity')
  end::timestamptz
$$;
comment on function private.blocked_until(public.users) is
  'Until when a user is suspended or inactive (infinity: without end); null if they are active.';

create function private.block_memberships() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.organization_members m set blocked_until = private.blocked_until(new)
  where m.user_id = new.id and m.blocked_until is distinct from private.blocked_until(new);
  return null;
end $$;
comment on function private.block_memberships() is 'Copies the suspension of a user to all their memberships.';
create trigger block_memberships after update of is_active, suspended_at, suspended_until on public.users
  for each row execute function private.block_memberships();

create function private.block_membership() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  -- The lock waits for a concurrent suspension, so this row sees its result.
  select private.blocked_until(u) into new.blocked_until from public.users u where u.id = new.user_id for share;
  select o.suspended_at is not null or o.closed_at is not null into new.is_read_only
  from public.organizations o where o.id = new.organization_id for share;
  return new;
end $$;
comment on function private.block_membership() is 'A suspended user stays suspended in an organization they join.';
create trigger block_membership before insert on public.organization_members
  for each row execute function private.block_membership();

create function private.follow_organization_state() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.organization_members m set is_read_only = new.suspended_at is not null or new.closed_at is not null
  where m.organization_id = new.id
    and m.is_read_only is distinct from (new.suspended_at is not null or new.closed_at is not null);
  return null;
end $$;
comment on function private.follow_organization_state() is 'Marks every membership of a suspended or closed organization.';
create trigger follow_state after update of suspended_at, closed_at on public.organizations
  for each row execute function private.follow_organization_state();

create function private.end_impersonations() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if (private.blocked_until(new), new.global_role) is distinct from (private.blocked_until(old), old.global_role) then
    update private.impersonations i set ended_at = now()
    where new.id in (i.admin_id, i.user_id) and i.ended_at is null and i.expires_at > now();
  end if;
  return null;
end $$;
comment on function private.end_impersonations() is
  'Suspending or promoting the admin or the user of an impersonation ends it for good, even if that change is undone.';
create trigger end_impersonations after update of is_active, suspended_at, suspended_until, global_role on public.users
  for each row execute function private.end_impersonations();

-- An organization always keeps an owner who is not suspended; a suspended owner counts only if the one who leaves is
-- suspended too. Two owners who leave at the same time both update the organization's row, so the second waits for the
-- first and sees the result. When the organization itself is deleted, its row is already gone.
create function private.keep_an_owner() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if old.role <> 'OWNER' or (tg_op = 'UPDATE' and new.role = 'OWNER') then
    return null;
  end if;
  -- An update, not only a lock: only an update makes a transaction with an older snapshot fail. A closed organization
  -- needs no owner: it is erased, or reopened by a platform admin.
  update public.organizations o set updated_at = now() where o.id = old.organization_id and o.closed_at is null;
  if found and not exists (
    select from public.organization_members m
    where m.organization_id = old.organization_id and m.role = 'OWNER'
      and (m.blocked_until is null or m.blocked_until <= now() or old.blocked_until > now())
  ) then
    raise exception 'An organization must keep at least one owner' using
      errcode = 'PT409', detail = 'This is its last owner who is not suspended.', hint = 'Make another member OWNER first.';
  end if;
  return null;
end $$;
comment on function private.keep_an_owner() is 'Refuses to remove or demote the last OWNER who is not suspended.';
create trigger keep_an_owner after update of role or delete on public.organization_members
  for each row execute function private.keep_an_owner();

-- row_security_active(): the rule binds callers under policies, not our own definer functions.
create function private.guard_membership() returns trigger language plpgsql set search_path = '' as $$
declare
  mine public."OrgRole";
begin
  if not row_security_active(tg_relid) then
    return coalesce(new, old);
  end if;
  perform private.refuse_impersonation();
  select m.role into mine from public.organization_members m
  where m.user_id = (select auth.uid()) and m.organization_id = old.organization_id;
  if tg_op = 'UPDATE' and (new.user_id, new.organization_id) is distinct from (old.user_id, old.organization_id) then
    raise exception 'A membership cannot be moved to another user or organization' using
      errcode = '42501', hint = 'Remove this member and invite the other.';
  end if;
  if old.user_id <> (select auth.uid()) and old.role < mine then
    raise exception 'You cannot change a member whose role is above yours' using
      errcode = '42501', detail = format('You are %s, the member is %s.', mine, old.role),
      hint = 'Ask an owner.';
  end if;
  if tg_op = 'UPDATE' and new.role < mine then
    raise exception 'You cannot grant a role above your own' using
      errcode = '42501', detail = format('You are %s and tried to grant %s.', mine, new.role), hint = 'Ask an owner.';
  end if;
  return coalesce(new, old);
end $$;
comment on function private.guard_membership() is
  'Refuses to grant a role above the caller''s own, and to change a member above the caller.';
create trigger guard_membership before update or delete on public.organization_members
  for each row execute function private.guard_membership();

create function private.guard_organization() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) and new.billing_email is distinct from old.billing_email
    and not private.is_org_owner() then
    raise exception 'Only an owner changes the billing address' using errcode = '42501', hint = 'Ask an owner.';
  end if;
  if row_security_active(tg_relid) and new.billing_email is distinct from old.billing_email then
    perform private.refuse_impersonation();
  end if;
  return new;
end $$;
comment on function private.guard_organization() is 'Only owners change the billing address.';
create trigger guard_organization before update on public.organizations
  for each row execute function private.guard_organization();

create function private.guard_invitation() returns trigger language plpgsql set search_path = '' as $$
begin
  new.email := lower(trim(new.email));
  if not row_security_active(tg_relid) then
    return new;
  end if;
  perform private.refuse_impersonation(); -- an invitation outlasts it
  new.invited_by := (select auth.uid());
  if private.current_user_org(new.role) is null then
    raise exception 'You cannot invite to a role above your own' using
      errcode = '42501', detail = format('Tried to invite as %s.', new.role), hint = 'Ask an owner.';
  end if;
  return new;
end $$;
comment on function private.guard_invitation() is 'Stamps the inviter and refuses roles above theirs.';
create trigger guard_invitation before insert on public.organization_invitations
  for each row execute function private.guard_invitation();

grant execute on function private.touch_updated_at(), private.guard_membership(), private.guard_organization(),
  private.guard_invitation() to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.users enable row level security;
create policy "people see themselves and their organization" on public.users for select to authenticated
  using (id = any ((select private.visible_users())::uuid[]));
create policy "people change themselves" on public.users for update to authenticated
  using (id = (select private.current_user_id())) with check (id = (select private.current_user_id()));
-- Colleagues do not see the platform role, suspensions and sign-ins; my_account() shows a user their own.
grant select (id, email, name, avatar_url, is_active, time_zone, locale, reminder_minutes, deleted_at, created_at, updated_at),
  update (name, avatar_url, time_zone, locale, reminder_minutes) on public.users to authenticated;
grant all on public.users to service_role;

alter table public.organizations enable row level security;
create policy "members see their organization" on public.organizations for select to authenticated
  using (id = (select private.current_user_org()));
create policy "admins change their organization" on public.organizations for update to authenticated
  using (id = (select private.current_user_org('ADMIN'))) with check (id = (select private.current_user_org('ADMIN')));
grant select, update (name, slug, website, description, settings, billing_email, logo_url) on public.organizations to authenticated;
grant all on public.organizations to service_role;

alter table public.organization_members enable row level security;
create policy "members see each other" on public.organization_members for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "admins change members" on public.organization_members for update to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')))
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins remove members, everyone may leave" on public.organization_members for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')) or user_id = (select private.current_user_id()));
grant select, update (role, permissions), delete on public.organization_members to authenticated;
grant all on public.organization_members to service_role;

alter table public.organization_invitations enable row level security;
create policy "admins see invitations" on public.organization_invitations for select to authenticated
  using (organization_id = (select private.current_user_org('ADMIN', true)));
create policy "admins invite" on public.organization_invitations for insert to authenticated
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins withdraw invitations" on public.organization_invitations for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete on public.organization_invitations to authenticated;
grant insert (organization_id, email, role, token_hash, expires_at) on public.organization_invitations to authenticated;
grant all on public.organization_invitations to service_role;

-- Operations ----------------------------------------------------------------------------------------------------------

create type public.my_organization as (
  id uuid, name text, slug text, role "OrgRole", subscription_tier "SubscriptionTier", is_current boolean, moved_to text
);
comment on type public.my_organization is
  'An organization of the caller. One that has moved to another project has its address in moved_to and no role here, and '
  'no name once its rows are erased.';

create function private.my_organizations() returns setof public.my_organization
language plpgsql stable security definer set search_path = '' as $$
declare
  me constant uuid := private.current_user_id();
  named constant uuid := private.requested_org();
begin
  return query
    with moved as (
      select m.organization_id, m.address from private.organization_moves m -- see the chapter moves
      where m.state in ('MOVED', 'ERASED') and m.callers @> array[me::text]
    ), mine as (
      select m.organization_id as id, m.role, m.joined_at, null as address
      from public.organization_members m where m.user_id = me
      union all
      select v.organization_id, null, null, v.address from moved v
    )
    select n.id, o.name, o.slug, n.role, o.subscription_tier,
      -- The current one is not looked up where the request would be refused: for one that has moved.
      case when n.address is null and not exists (select from moved v where v.organization_id = named)
        then n.id is not distinct from (select private.current_user_org()) else false end,
      n.address
    from mine n left join public.organizations o on o.id = n.id
    order by n.joined_at, n.id;
end $$;
comment on function private.my_organizations() is 'See public.my_organizations().';

create function public.my_organizations() returns setof public.my_organization
language sql stable set search_path = '' as 'select * from private.my_organizations()';
comment on function public.my_organizations() is
  'The organizations the caller belongs to; name one in x-org-id to act in it. Those that have moved to another project come '
  'last, with its address in moved_to.';

create function private.my_account() returns public.users
language plpgsql stable security definer set search_path = '' as $$
declare
  me public.users;
begin
  select u.* into me from public.users u where u.id = private.current_user_id();
  return me;
end $$;
comment on function private.my_account() is 'See public.my_account().';

create function public.my_account() returns public.users
language sql stable set search_path = '' as 'select * from private.my_account()';
comment on function public.my_account() is
  'The caller''s own account with all its columns; users shows fewer columns of colleagues.';

create function public.create_invitation(email text, role "OrgRole" default 'MEMBER') returns jsonb
language plpgsql set search_path = '' as $$
declare
  token text := rtrim(translate(encode(extensions.gen_random_bytes(32), 'base64'), '+/', '-_'), '=');
  org uuid := private.current_user_org('ADMIN');
  made public.organization_invitations;
begin
  if org is null then
    raise exception 'Only admins can invite' using errcode = '42501', hint = 'Ask an owner or admin of the organization.';
  end if;
  insert into public.organization_invitations (organization_id, email, role, token_hash)
  values (org, create_invitation.email, create_invitation.role, encode(sha256(convert_to(token, 'UTF8')), 'hex'))
  returning * into made;
  return jsonb_build_object('id', made.id, 'email', made.email, 'role', made.role, 'expires_at', made.expires_at, 'token', token);
exception when unique_violation then
  raise exception 'This address is already invited' using
    errcode = 'PT409', detail = format('An open invitation for %s exists.', create_invitation.email),
    hint = 'Withdraw it first: delete it from organization_invitations.';
end $$;
comment on function public.create_invitation(text, "OrgRole") is
  'Invites an address to the current organization; the token is returned this once and kept only as a hash.';

create function private.accept_invitation(token text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me public.users;
  invitation public.organization_invitations;
  inviter public."OrgRole";
  seats bigint;
  taken bigint;
begin
  perform private.refuse_impersonation();
  select u.* into me from public.users u where u.id = private.current_user_id();
  -- The row lock serializes simultaneous attempts: the later ones see the result of the first.
  select i.* into invitation from public.organization_invitations i
  where i.token_hash = encode(sha256(convert_to(token, 'UTF8')), 'hex')
    or i.reminder_token_hash = encode(sha256(convert_to(token, 'UTF8')), 'hex') for update;
  if me.id is null or invitation.id is null or lower(me.email) <> lower(invitation.email) then
    raise exception 'There is no such invitation for you' using
      errcode = 'PT404', hint = 'Sign in with the address that was invited, and use the whole token.';
  end if;
  if invitation.accepted_at is not null then
    raise exception 'This invitation was used already' using errcode = 'PT409', hint = 'Ask for a new one.';
  end if;
  select m.role into inviter from public.organization_members m
  where m.organization_id = invitation.organization_id and m.user_id = invitation.invited_by
    and (m.blocked_until is null or m.blocked_until <= now());
  if invitation.expires_at <= now() or inviter is null or inviter > 'ADMIN' or invitation.role < inviter then
    raise exception 'This invitation is no longer valid' using
      errcode = 'PT410', detail = 'It expired, or its sender may no longer invite.', hint = 'Ask for a new one.';
  end if;
  -- Seats are counted under the organization's row lock: at the limit, only one of two acceptances succeeds.
  perform from public.organizations o where o.id = invitation.organization_id for update;
  seats := private.plan_limit(invitation.organization_id, 'members');
  select count(*) into taken from public.organization_members m where m.organization_id = invitation.organization_id;
  if taken >= seats then
    raise exception 'The organization has no seat left' using
      errcode = 'PT402', detail = format('Its plan allows %s members, and %s are used. They do not renew.', seats, taken),
      hint = 'An owner can choose a larger plan or remove a member.';
  end if;
  insert into public.organization_members (user_id, organization_id, role)
  values (me.id, invitation.organization_id, invitation.role);
  update public.organization_invitations set accepted_at = now() where id = invitation.id;
  return jsonb_build_object('organization_id', invitation.organization_id, 'role', invitation.role);
exception when unique_violation then
  raise exception 'You already belong to this organization' using errcode = 'PT409';
end $$;
comment on function private.accept_invitation(text) is 'See public.accept_invitation(text).';

create function public.accept_invitation(token text) returns jsonb
language sql set search_path = '' as 'select private.accept_invitation(token)';
comment on function public.accept_invitation(text) is 'Joins the organization that invited the caller''s address.';

grant execute on function public.my_account(), private.my_account(), public.my_organizations(), public.create_invitation(text, "OrgRole"),
  public.accept_invitation(text), private.my_organizations(), private.accept_invitation(text)
  to authenticated, service_role;

-- Only the choice is kept: whether the caller still belongs there is looked up at every request.
create function private.set_current_organization(organization_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
begin
  if me is null or not exists (
    select from public.organization_members m
    where m.user_id = me and m.organization_id = set_current_organization.organization_id
  ) then
    raise exception 'There is no such organization for you' using
      errcode = 'PT404', detail = format('Found %s.', coalesce(set_current_organization.organization_id::text, 'null')),
      hint = 'my_organizations() lists the organizations you belong to.';
  end if;
  update public.users u set current_organization_id = set_current_organization.organization_id where u.id = me;
  return jsonb_build_object('organization_id', set_current_organization.organization_id);
end $$;
comment on function private.set_current_organization(uuid) is 'Does the work of public.set_current_organization().';

create function public.set_current_organization(id uuid) returns jsonb
language sql set search_path = '' as 'select private.set_current_organization(id)';
comment on function public.set_current_organization(uuid) is
  'Makes this the caller''s organization from the next access token on: refresh the session afterwards. Realtime and '
  'Storage follow the token; the header x-org-id takes precedence for one request.';
grant execute on function private.set_current_organization(uuid), public.set_current_organization(uuid)
  to authenticated, service_role;

-- Tokens --------------------------------------------------------------------------------------------------------------

-- Called by the auth service for every token it signs. The organization it writes is a default: whether the caller still
-- belongs to it is looked up at every request.
create function private.custom_access_token_hook(event jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  who uuid := (event ->> 'user_id')::uuid;
  claims jsonb := event -> 'claims';
  org uuid;
begin
  if exists (
    select from public.users u where u.id = who
    and (not u.is_active or (u.suspended_at is not null and (u.suspended_until is null or u.suspended_until > now())))
  ) then
    return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', 'This account is suspended'));
  end if;
  select m.organization_id into org from public.organization_members m where m.user_id = who
  order by
    (m.organization_id = (select u.current_organization_id from public.users u where u.id = who)) desc nulls last,
    (m.organization_id::text = claims #>> '{app_metadata,org_id}') desc nulls last, m.joined_at, m.organization_id
  limit 1;
  if jsonb_typeof(claims -> 'app_metadata') is distinct from 'object' then
    claims := jsonb_set(claims, '{app_metadata}', '{}');
  end if;
  claims := claims #- '{app_metadata,org_id}';
  if org is not null then
    claims := jsonb_set(claims, '{app_metadata,org_id}', to_jsonb(org));
  end if;
  return jsonb_build_object('claims', claims);
end $$;
comment on function private.custom_access_token_hook(jsonb) is
  'Access token hook: writes the default organization, refuses suspended users.';
grant execute on function private.custom_access_token_hook(jsonb) to supabase_auth_admin;
