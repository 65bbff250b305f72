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
-- headers, PostgREST follows the first and passes on the last), a regular expression, which may take hundreds of megabytes
-- to compile, all of them kept by the backend, thousands of conditions, which take seconds to plan, a table embedded in
-- itself repeatedly, whose rows multiply with each level, and a column selected under many names, which multiplies the
-- response.
-- Statements that are not from the data API have no request.method.
create function private.examine_statement() returns void
language plpgsql stable set search_path = '' as $$
declare
  statement text;
  without_values text;
  repeated text;
begin
  if nullif(current_setting('request.method', true), '') is null then
    return;
  end if;
  statement := current_query();
  if current_setting('plan_cache_mode') = 'force_generic_plan' then
    perform set_config('plan_cache_mode', 'auto', true); -- see private.check_request()
  end if;
  -- This runs for each table of each request, so LIKE decides first: ILIKE and length() take twenty times as long. PostgREST
  -- writes keywords in capitals, other servers in small letters. The values of filters are any text, so they are left out.
  if (statement like '%EXPLAIN%' or statement like '%explain%')
    and regexp_replace(statement, '''[^'']*''', '', 'g') ~* '(^|;)\s*explain\y'
  then
    raise exception 'Estimated counts are not available' using
      errcode = 'PT400', hint = 'Send Prefer: count=exact, or leave the count out.';
  end if;
  if octet_length(statement) > 40000 or statement like '%~%' then
    without_values := regexp_replace(statement, '''[^'']*''', '', 'g');
  end if;
  if length(without_values) > 40000 then
    raise exception 'A request has too many conditions or sort keys' using
      errcode = 'PT400', detail = format('Its statement has %s characters, accepted are 40,000.', length(without_values)),
      hint = 'Use in.(…) instead of many conditions, or send several requests.';
  elsif regexp_replace(without_values, '"[^"]*"', '', 'g') ~ '\s~\*?\s' then
    raise exception 'Regular expressions are not accepted in filters' using
      errcode = 'PT400', detail = 'Found the operator match or imatch, accepted: any other operator.',
      hint = 'Use like, ilike or the operators of full text search, such as wfts.';
  end if;
  if statement like '% LATERAL %' or statement like '% lateral %' then
    select m[1] into repeated from regexp_matches(statement, 'from\s+"?public"?\."?(\w+)', 'gi') m
    group by m[1] having count(*) > 2 limit 1;
    if found then
      raise exception 'A request embeds a table at most twice' using
        errcode = 'PT400', detail = format('%s is embedded more often.', repeated),
        hint = 'Embed fewer levels, or send several requests.';
    end if;
  end if;
  -- In a list, a column is followed by a comma, its name or FROM; * is all of them. Most statements name less than eleven.
  if statement like '%".%".%".%".%".%".%".%".%".%".%".%' then
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
  'PT400 for an EXPLAIN, a regular expression, too many conditions, a table embedded more than twice or a column selected '
  'more than ten times by the data API.';

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
