-- Runtime: how the HTTP functions work in the database. One statement per request sets the caller, runs one operation
-- under the caller's policies, and returns the stored result to a retried request.

-- The login of the functions. It bypasses no policy: it has the rights of `authenticated`. Its password is set by hand
-- (alter role strive_functions password '…') and never written to a file. The limits are set on the role, since a pooler
-- in transaction mode passes on no session settings.
do $$ begin
  if not exists (select from pg_roles where rolname = 'strive_functions') then
    create role strive_functions login inherit nobypassrls;
  end if;
end $$;
grant authenticated to strive_functions;
alter role strive_functions set statement_timeout = '8s';
alter role strive_functions set lock_timeout = '5s';
alter role strive_functions set idle_in_transaction_session_timeout = '10s';

-- Who calls -----------------------------------------------------------------------------------------------------------
-- Verified claims are set for one transaction, by the statement that also runs the operation (shared/database/pool.py).
-- A function that takes claims as an argument trusts them, so only strive_functions may execute it.

create function private.refuse_suspended() returns void
language plpgsql stable security definer set search_path = '' as $$
begin
  if auth.jwt() ? 'api_key_id' then
    perform private.check_api_key();
    return;
  end if;
  if auth.jwt() ? 'act' and not private.impersonation_holds(auth.jwt()) then
    raise exception 'This impersonation has ended' using
      errcode = 'PT401', hint = 'A super admin can start another one.';
  end if;
  if private.current_user_id() is null and exists (select from public.users u where u.id = auth.uid()) then
    raise exception 'This account is suspended' using
      errcode = 'PT403', hint = 'Ask the administrators of the platform.';
  end if;
end $$;
comment on function private.refuse_suspended() is
  'PT403 if the caller is suspended or inactive, PT401 if their impersonation or API key has ended.';

create function private.require_org(minimum_role "OrgRole", reading boolean default false) returns uuid
language plpgsql stable set search_path = '' as $$
declare
  org uuid := private.current_user_org(minimum_role, reading);
begin
  if org is null then
    perform private.refuse_suspended();
    perform private.refuse_read_only(minimum_role);
    if auth.jwt() ? 'api_key_id' then
      raise exception 'This API key may not do this' using
        errcode = '42501', detail = format('Its scopes are %s.', auth.jwt() ->> 'scopes'),
        hint = 'Create a key with the scope that is missing. A key does what a MEMBER may, and never what takes an ADMIN.';
    end if;
    raise exception 'You may not do this in this organization' using
      errcode = '42501',
      detail = format('It requires the role %s or above in %s.', minimum_role,
        coalesce('organization ' || private.requested_org(), 'an organization; you belong to none')),
      hint = 'Name an organization you belong to in the header x-org-id, or ask its owner for the role.';
  end if;
  return org;
end $$;
comment on function private.require_org("OrgRole", boolean) is
  'The organization this request acts in; PT403 if the caller or the organization is suspended, 42501 if they lack the role. '
  'reading => true also where the organization is suspended or closed: for reading, and for paying.';

create function private.refuse_read_only(minimum_role "OrgRole") returns void
language plpgsql stable security definer set search_path = '' as $$
declare
  found_one public.organizations;
begin
  select o.* into found_one from public.organizations o where o.id = private.current_user_org(minimum_role, true);
  if found_one.closed_at is not null then
    raise exception 'This organization is closed' using
      errcode = 'PT403', detail = format('It was closed at %s and can be read.', to_json(found_one.closed_at) #>> '{}'),
      hint = 'An owner can reopen it with reopen_organization() within 30 days.';
  elsif found_one.suspended_at is not null then
    raise exception 'This organization is suspended' using
      errcode = 'PT403', detail = concat_ws(' ', 'It can be read, and its owners can pay.', found_one.suspended_reason),
      hint = 'Ask the administrators of the platform.';
  end if;
end $$;
comment on function private.refuse_read_only("OrgRole") is
  'PT403 if the caller has the role in an organization that is suspended or closed.';
grant execute on function private.refuse_read_only("OrgRole") to authenticated, service_role;

create function private.refuse(what text, id uuid) returns void language plpgsql stable set search_path = '' as $$
begin
  if private.current_user_org('MEMBER') is null then
    perform private.refuse_read_only('MEMBER');
    raise exception 'You may not change a % of this organization', what using
      errcode = '42501', detail = 'It requires the role MEMBER or above.',
      hint = 'Name an organization you belong to in the header x-org-id, or ask its owner for the role.';
  end if;
  raise exception 'There is no such %', what using
    errcode = 'PT404', detail = format('Found no %s %s in this organization.', what, coalesce(id::text, 'without id'));
end $$;
comment on function private.refuse(text, uuid) is
  'Raises why a row could not be changed: the caller''s role is too low, or there is no such row.';
grant execute on function private.refuse_suspended(), private.require_org("OrgRole", boolean), private.refuse(text, uuid)
  to authenticated, service_role;

create function private.refuse_view() returns trigger language plpgsql set search_path = '' as $$
begin
  raise exception 'This view is for reading' using
    errcode = '42501', detail = format('Tried to %s %s.', lower(tg_op), tg_table_name), hint = 'Write to its tables.';
end $$;
comment on function private.refuse_view() is 'Refuses to write to a view of several tables.';

-- Once ----------------------------------------------------------------------------------------------------------------

-- hashtextextended() is not cryptographic: a caller who chooses part of its text could find one that has another's lock.
create function private.lock_key(what text) returns bigint language sql immutable set search_path = '' as $$
  select ('x' || encode(substr(sha256(convert_to(what, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint
$$;
comment on function private.lock_key(text) is 'The number of an advisory lock whose text a client may choose.';
grant execute on function private.lock_key(text) to authenticated, service_role;

create function private.next_minute() returns text language sql stable set search_path = '' as
  $$ select ceil(extract(epoch from date_trunc('minute', now()) + interval '1 minute' - now()))::text $$;
comment on function private.next_minute() is 'Seconds until a limit by the minute has room again.';
grant execute on function private.next_minute() to authenticated, service_role;

create table private.idempotency_keys (
  owner text not null,
  operation text not null,
  key text not null constraint "Idempotency-Key is 1 to 255 characters" check (length(key) between 1 and 255),
  fingerprint bytea not null,
  answer jsonb not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null default now() + interval '24 hours',
  acted_in uuid not null default '00000000-0000-0000-0000-000000000000',
  ordinal bigint not null default 0,
  bytes bigint not null default 0,
  primary key (owner, operation, key)
);
comment on table private.idempotency_keys is
  'Results of requests with an Idempotency-Key, written with the effect in one transaction.';
comment on column private.idempotency_keys.owner is 'User id or API key, else the role of the caller.';
comment on column private.idempotency_keys.fingerprint is 'SHA-256 of the requested organization and the body.';
comment on column private.idempotency_keys.acted_in is 'The organization that the request acted in; zeros: none.';
comment on column private.idempotency_keys.ordinal is
  'One more than the newest one of the same owner and organization had: the last less the first is how many there are.';
comment on column private.idempotency_keys.bytes is 'Of the answers up to this one, in the same way.';
create index idempotency_keys_expires_at_idx on private.idempotency_keys (expires_at);
create index idempotency_keys_ordinal_idx on private.idempotency_keys (owner, acted_in, ordinal) include (bytes);

create function private.caller() returns text
language plpgsql stable set search_path = '' as $$
begin
  return coalesce('api_key:' || (auth.jwt() ->> 'api_key_id'), auth.jwt() ->> 'sub', auth.jwt() ->> 'role');
end $$;
comment on function private.caller() is 'The owner of an Idempotency-Key.';

create function private.enter_once(claims text, headers text, operation text, key text, fingerprint bytea)
returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  seen private.idempotency_keys;
begin
  perform set_config('request.jwt.claims', claims, true), set_config('request.headers', headers, true);
  if private.caller() = 'anon' then
    -- All anonymous callers share this owner: a guessed key and body would reveal the result of another caller.
    raise exception 'An Idempotency-Key requires authentication' using
      errcode = 'PT400', hint = 'Sign in, or omit the header.';
  end if;
  -- A second request with this key waits here until the first one has committed or failed.
  perform pg_advisory_xact_lock(
    private.lock_key(concat_ws(chr(31), private.caller(), enter_once.operation, enter_once.key))
  );
  select * into seen from private.idempotency_keys i
  where i.owner = private.caller() and i.operation = enter_once.operation and i.key = enter_once.key
    and i.expires_at > now();
  if seen.fingerprint <> enter_once.fingerprint then
    raise exception 'This Idempotency-Key was used for another request' using
      errcode = 'PT422', detail = format('It was first used at %s.', to_json(seen.created_at) #>> '{}'),
      hint = 'Send a new key for a new request; repeat a key only with the same body and x-org-id.';
  end if;
  if seen.answer is not null then
    perform private.refuse_suspended();
  end if;
  return seen.answer;
end $$;
comment on function private.enter_once(text, text, text, text, bytea) is
  'Starts a request with a key: sets the verified claims, returns the result of the first request with it, or null.';

create function private.remember(operation text, key text, fingerprint bytea, answer jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me constant text := private.caller();
  org constant uuid := coalesce(private.current_user_org('VIEWER', true), '00000000-0000-0000-0000-000000000000');
  first private.idempotency_keys;
  last private.idempotency_keys;
  allowed bigint;
begin
  select i.ordinal, i.bytes into last.ordinal, last.bytes from private.idempotency_keys i
  where i.owner = me and i.acted_in = org order by i.ordinal desc limit 1;
  select i.ordinal, i.bytes into first.ordinal, first.bytes from private.idempotency_keys i
  where i.owner = me and i.acted_in = org order by i.ordinal limit 1;
  -- The plan is looked up for few. Requests at the same time may count as one.
  if last.ordinal - first.ordinal >= 999 or last.bytes - first.bytes >= 4000000 then
    allowed := case when org = '00000000-0000-0000-0000-000000000000' then 1000 else private.plan_limit(org, 'rows_per_table') end;
    if last.ordinal - first.ordinal + 1 >= allowed or last.bytes - first.bytes >= 4096 * allowed then
      raise exception 'Too many requests with an Idempotency-Key' using
        errcode = 'PT429', detail = format('Of the last 24 hours %s results with %s bytes are stored for you in this organization.',
          last.ordinal - first.ordinal + 1, last.bytes - first.bytes), constraint = 'retry-after 3600',
        hint = format('Up to %s are, with %s bytes. Send requests without the header, try again later, or choose a larger plan.',
          allowed, 4096 * allowed);
    end if;
  end if;
  insert into private.idempotency_keys as i (owner, operation, key, fingerprint, answer, acted_in, ordinal, bytes)
  values (
    me, remember.operation, remember.key, remember.fingerprint, remember.answer, org, coalesce(last.ordinal, 0) + 1,
    coalesce(last.bytes, 0) + pg_column_size(remember.answer)
  )
  -- An existing row has expired: enter_once() holds the lock.
  on conflict on constraint idempotency_keys_pkey do update set
    fingerprint = excluded.fingerprint, answer = excluded.answer,
    created_at = excluded.created_at, expires_at = excluded.expires_at,
    acted_in = excluded.acted_in, ordinal = excluded.ordinal, bytes = excluded.bytes;
  return remember.answer;
end $$;
comment on function private.remember(text, text, bytea, jsonb) is
  'Stores the result under its key and returns it; PT429 beyond as many of a person in an organization as rows_per_table.';

create function private.forget_expired_keys() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  gone bigint;
begin
  delete from private.idempotency_keys where expires_at <= now();
  get diagnostics gone = row_count;
  return gone;
end $$;
comment on function private.forget_expired_keys() is 'Deletes expired keys; for a schedule, safe to run at any time.';
grant execute on function private.forget_expired_keys() to service_role;

-- Readiness -----------------------------------------------------------------------------------------------------------

create function private.migration_version() returns text
language plpgsql stable security definer set search_path = '' as $$
begin
  if to_regclass('supabase_migrations.schema_migrations') is null then
    return null;
  end if;
  return (select max(m.version) from supabase_migrations.schema_migrations m);
end $$;
comment on function private.migration_version() is 'The newest migration applied here.';

grant execute on function private.caller(),
  private.enter_once(text, text, text, text, bytea), private.remember(text, text, bytea, jsonb),
  private.migration_version()
  to strive_functions;
