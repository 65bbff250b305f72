-- Requests to the data API: what is refused before a statement runs. PostgREST calls private.check_request() first in every
-- transaction, because the role authenticator names it in pgrst.db_pre_request.

-- Everybody who may call the data API runs this function and nothing else of the schema.
grant usage on schema private to anon;

create function private.check_request() returns void
language plpgsql security definer set search_path = '' as $$
declare
  headers constant text := current_setting('request.headers', true);
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  sent text;
  caller integer;
begin
  if claims ->> 'role' = 'service_role' then
    return;
  end if;
  if headers ~* 'count\s*=|vnd\.pgrst\.plan' then
    -- An estimate comes from statistics over the rows of all tenants.
    sent := headers::json ->> 'prefer';
    if sent ~* 'count\s*=\s*"?(planned|estimated)' then
      raise exception 'Estimated counts are not available' using
        errcode = 'PT400', detail = format('Found Prefer: %s.', left(sent, 200)),
        hint = 'Send Prefer: count=exact, or leave the count out.';
    end if;
    sent := headers::json ->> 'accept';
    if sent ~* 'vnd\.pgrst\.plan' then
      raise exception 'Query plans are not available' using
        errcode = 'PT406', detail = format('Found Accept: %s.', left(sent, 200)),
        hint = 'Send Accept: application/json.';
    end if;
  end if;
  -- One of eight locks for each transaction of a caller; it ends with the transaction, however that ends.
  caller := hashtext('request:' || coalesce(claims ->> 'sub', private.client_network()));
  for slot in 1 .. 8 loop
    exit when caller is null or pg_try_advisory_xact_lock(caller, slot);
    if slot = 8 then
      raise exception 'Too many requests at the same time' using
        errcode = 'PT429', detail = 'Eight of yours are running.', hint = 'Wait for their responses, then try again.';
    end if;
  end loop;
  if claims ? 'act' and current_setting('transaction_read_only') = 'off' then
    perform private.log_impersonated_request(
      concat_ws(' ', current_setting('request.method', true), current_setting('request.path', true))
    );
  end if;
end $$;
comment on function private.check_request() is
  'Runs before every statement of the data API: refuses estimates, bounds what one caller runs at a time, logs impersonation.';

create function private.log_impersonated_request(request text) returns void
language plpgsql security definer set search_path = '' as $$
begin
  if auth.jwt() ? 'act' and private.impersonation_holds(auth.jwt()) then
    perform private.append_admin_action(
      'USER_IMPERSONATE', left('Request while impersonating: ' || request, 500), 'user', auth.uid()::text,
      jsonb_build_object('impersonation_id', auth.jwt() ->> 'session_id'), true, null, null
    );
  end if;
end $$;
comment on function private.log_impersonated_request(text) is
  'Logs a request that may write, of an admin who acts as a user; nothing for any other request.';
grant execute on function private.check_request() to anon, authenticated, service_role;
grant execute on function private.log_impersonated_request(text) to strive_functions;

-- Hosted, postgres may set this for authenticator. Where it may not, supabase/checks/hosted.sql reports it.
do $$ begin
  alter role authenticator set pgrst.db_pre_request = 'private.check_request';
  notify pgrst, 'reload config';
exception when insufficient_privilege then
  raise warning 'pgrst.db_pre_request is not set: set it to private.check_request in the settings of the API.';
end $$;
