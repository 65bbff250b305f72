-- Requests to the data API: what is refused before a statement runs. PostgREST calls private.check_request() first in every
-- transaction, because the role authenticator names it in pgrst.db_pre_request.

-- Everybody who may call the data API runs this function and nothing else of the schema.
grant usage on schema private to anon;

create function private.check_request() returns void
language plpgsql security definer set search_path = '' as $$
declare
  headers constant text := current_setting('request.headers', true);
  claims text;
  caller integer;
begin
  if current_setting('role') = 'service_role' then
    return;
  end if;
  if strpos(headers, '"prefer"') > 0 or strpos(headers, 'vnd.pgrst.plan') > 0 then
    perform private.refuse_estimates(headers::json);
  end if;
  if strpos(current_setting('request.path', true), '/rpc/') > 0 then
    -- A function examines the statement when it runs, and planning compiles a regular expression before. A generic plan
    -- compiles none, and examine_statement() ends this setting. A server that sends the request as one string is examined here.
    perform private.examine_statement();
    perform set_config('plan_cache_mode', 'force_generic_plan', true);
  end if;
  claims := nullif(current_setting('request.jwt.claims', true), '');
  -- All keys of one person are one caller.
  caller := hashtext(coalesce(
    case when strpos(claims, '"api_key_id"') > 0 then 'keys of ' else '' end || (claims::json ->> 'sub'), private.client_network()
  ));
  if not pg_try_advisory_xact_lock(caller, 1) then
    perform private.await_turn(caller);
  end if;
  if current_setting('role') = 'strive_api_key' then
    perform private.admit_api_key();
  end if;
  if strpos(claims, '"act"') > 0 and current_setting('transaction_read_only') = 'off' then
    perform private.log_impersonated_request(
      concat_ws(' ', current_setting('request.method', true), current_setting('request.path', true))
    );
  end if;
end $$;
comment on function private.check_request() is
  'Runs before every statement of the data API: refuses estimates, bounds what one caller runs at a time, logs impersonation.';

-- An estimate comes from statistics over the rows of all tenants.
create function private.refuse_estimates(headers json) returns void
language plpgsql set search_path = '' as $$
declare
  preferred constant text := headers ->> 'prefer';
  accepted constant text := headers ->> 'accept';
begin
  if preferred ~* 'count\s*=\s*"?(planned|estimated)' then
    raise exception 'Estimated counts are not available' using
      errcode = 'PT400', detail = format('Found Prefer: %s.', left(preferred, 200)),
      hint = 'Send Prefer: count=exact, or leave the count out.';
  elsif accepted ~* 'vnd\.pgrst\.plan' then
    raise exception 'Query plans are not available' using
      errcode = 'PT406', detail = format('Found Accept: %s.', left(accepted, 200)),
      hint = 'Send Accept: application/json.';
  end if;
end $$;
comment on function private.refuse_estimates(json) is 'PT400 or PT406 for headers that ask for an estimate or a query plan.';

create function private.turns_beside(running interval) returns integer language sql immutable set search_path = ''
return case when running > interval '1 s' then 1 when running > interval '100 ms' then 2 else 4 end;
comment on function private.turns_beside(interval) is
  'How many requests of a caller run while one of them has been running so long; shared/app/turns.py also has the first limit.';

create function private.longest_running(caller integer) returns interval
language sql stable set search_path = '' return (
  select max(clock_timestamp() - a.xact_start)
  from pg_locks l, pg_stat_get_activity(l.pid) a
  where l.locktype = 'advisory' and l.classid = caller::oid and l.objid <= 4 and l.objsubid = 2 and l.granted
    and l.database = (select d.oid from pg_database d where d.datname = current_database())
);
comment on function private.longest_running(integer) is 'How long the oldest transaction of the caller has been running.';

-- Four transactions of a caller run, each with one of the locks 1 to 4; two while one of them has been running for long, one
-- while it has been for seconds, so that slow requests of one caller leave connections and processors to others. As many
-- wait for one of those, each with a lock of its own (from 5): a transaction that waits holds a connection, too. A lock ends with its
-- transaction, however that ends.
create function private.await_turn(caller integer) returns void
language plpgsql set search_path = '' set lock_timeout = '3s' as $$
declare
  turns constant integer := private.turns_beside(private.longest_running(caller));
begin
  for slot in 2 .. turns loop
    if pg_try_advisory_xact_lock(caller, slot) then
      return;
    end if;
  end loop;
  for slot in 5 .. 4 + turns loop
    if pg_try_advisory_xact_lock(caller, slot) then
      perform pg_advisory_xact_lock(caller, 1 + slot % turns);
      return;
    end if;
  end loop;
  raise lock_not_available;
exception when lock_not_available then
  raise exception 'Too many requests at the same time' using
    errcode = 'PT429', detail = format('%s of yours are running, and others wait.', turns),
    hint = 'Wait for their responses, then try again.';
end $$;
comment on function private.await_turn(integer) is
  'Returns when fewer than four transactions of the caller run, fewer of long ones; PT429 if that takes too long.';

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
