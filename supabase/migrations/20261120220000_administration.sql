-- Administration: the operations of platform admins on users, logged whether they succeed or not, and their lists.

-- Attempts ------------------------------------------------------------------------------------------------------------
-- An error would roll back its own log entry. So an operation runs in a subtransaction: it is rolled back, the entry
-- stays, and the error is a result, {"refused": {code, message, details, hint}}, which the function turns into a
-- status.

create function private.require_admin() returns void
language plpgsql stable set search_path = '' as $$
begin
  if not private.is_operator() then
    raise exception 'Only platform admins may do this' using
      errcode = '42501', hint = 'Sign in as an admin; an impersonation has no admin rights.';
  end if;
end $$;
comment on function private.require_admin() is '42501 unless the caller is the SQL editor, or a platform admin who does not impersonate.';
grant execute on function private.require_admin() to authenticated;

-- Refusals of people who are no admins are logged up to ten an hour and person: enough to be seen, too few to fill the
-- log.
create function private.log_refusal(action "AdminAction", target_type text, target_id text, metadata jsonb, error text)
returns void language plpgsql security definer set search_path = '' as $$
declare
  who uuid := coalesce((auth.jwt() #>> '{act,sub}')::uuid, auth.uid());
begin
  if not private.is_admin() then
    -- One at a time for each person: each counts what the one before has logged.
    perform pg_advisory_xact_lock(hashtextextended('refusals:' || who, 0));
    if (
      select count(*) from (
        select from public.admin_action_logs l
        where l.admin_id = who and l.created_at > clock_timestamp() - interval '1 hour' and not l.success limit 10
      ) logged
    ) >= 10 then
      return;
    end if;
  end if;
  perform private.append_admin_action(action, 'Refused or failed', target_type, target_id, metadata, false, error, null);
end $$;
comment on function private.log_refusal("AdminAction", text, text, jsonb, text) is
  'Logs a refused or failed operation. Granted to no role: for attempt().';

create table private.admin_operations (
  name text primary key,
  action "AdminAction" not null,
  target_type text not null,
  description text not null
);
comment on table private.admin_operations is
  'How operations that attempt() runs are logged; private.do_… of the same name does the work. Each chapter adds its own.';
comment on column private.admin_operations.name is 'Name of the operation.';
comment on column private.admin_operations.action is 'Action in the log.';
comment on column private.admin_operations.target_type is 'Type of the target in the log.';
comment on column private.admin_operations.description is 'Description in the log, if it succeeds.';
insert into private.admin_operations (name, action, target_type, description) values
  ('suspend_user', 'USER_SUSPEND', 'user', 'User suspended'),
  ('reactivate_user', 'USER_UPDATE', 'user', 'User reactivated'),
  ('bulk_admin_action', 'BULK_ACTION', 'user', 'Bulk action'),
  ('impersonate_user', 'USER_IMPERSONATE', 'user', 'Impersonation begun');

create function private.attempt(operation text, payload jsonb, target_id text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  logging private.admin_operations;
  result jsonb;
  refused jsonb;
  state text;
  message text;
  detail text;
  hint text;
  logged jsonb := payload - 'signable';
begin
  select o.* into strict logging from private.admin_operations o where o.name = operation;
  begin
    -- Named by the functions below, never by a caller.
    execute format('select private.%I($1)', 'do_' || operation) into result using payload;
    perform private.append_admin_action(
      logging.action, logging.description, logging.target_type, target_id, logged, true, null, null
    );
    return jsonb_build_object('done', result);
  exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
      hint = pg_exception_hint;
  end;
  perform private.log_refusal(
    logging.action, logging.target_type, target_id, logged, format('%s (%s)', message, state)
  );
  return jsonb_build_object('refused',
    jsonb_build_object('code', state, 'message', message, 'details', nullif(detail, ''), 'hint', nullif(hint, '')));
end $$;
comment on function private.attempt(text, jsonb, text) is
  'Runs an operation of a platform admin and logs it, also when it is rolled back. Granted to no role.';

create function private.log_interrupted(attempted jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform private.log_refusal(o.action, o.target_type, attempted ->> 'target_id', null, attempted ->> 'error')
  from private.admin_operations o where o.name = attempted ->> 'operation';
  return '{}';
end $$;
comment on function private.log_interrupted(jsonb) is
  'Logs an attempt whose whole transaction was lost (a timeout, a lost connection): {operation, target_id, error}.';

-- Sync with Supabase Auth -----------------------------------------------------------------------------------------------
-- A change takes effect in the database at once. Supabase Auth, which issues the tokens, is synced afterwards and retried
-- until it succeeds: one row for each user has the state that Auth must have.

create table private.auth_syncs (
  user_id uuid primary key references public.users (id) on delete cascade,
  banned_until timestamptz,
  is_deletion boolean not null default false,
  version bigint not null default 1,
  changed_at timestamptz not null default now(),
  settled_at timestamptz,
  attempts integer not null default 0,
  error text
);
comment on table private.auth_syncs is 'The state that Supabase Auth must have for a user; settled_at is null until it has.';
comment on column private.auth_syncs.banned_until is 'Null: not banned.';
comment on column private.auth_syncs.is_deletion is 'True: the account is deleted, with its pictures.';
comment on column private.auth_syncs.version is 'Grows with every change; a sync of an older version does not settle the row.';
create index auth_syncs_due_idx on private.auth_syncs (changed_at) where settled_at is null;

create function private.queue_auth_sync() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  until timestamptz := private.blocked_until(new);
begin
  -- Supabase Auth ends an expired ban by itself.
  if until is distinct from private.blocked_until(old)
    and (until > now() or private.blocked_until(old) > now()) then
    insert into private.auth_syncs as e (user_id, banned_until) values (new.id, until)
    on conflict (user_id) do update set banned_until = excluded.banned_until, version = e.version + 1,
      changed_at = now(), settled_at = null, attempts = 0, error = null;
  end if;
  return null;
end $$;
comment on function private.queue_auth_sync() is 'Queues a sync with Supabase Auth, however a user was suspended or reactivated.';
create trigger queue_auth_sync after update of is_active, suspended_at, suspended_until on public.users
  for each row execute function private.queue_auth_sync();

create function private.due_auth_syncs(users uuid[] default null) returns jsonb
language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('user_id', d.user_id, 'version', d.version, 'deletion', d.is_deletion,
    'seconds', case when d.banned_until is null then 0 else
      -- A century if there is no end; at least a second, since 0 means no ban.
      greatest(1, ceil(extract(epoch from least(d.banned_until, now() + interval '100 years') - now()))) end)), '[]')
  from (
    select e.* from private.auth_syncs e
    where e.settled_at is null and (due_auth_syncs.users is null or e.user_id = any (due_auth_syncs.users))
    order by e.attempts, e.changed_at limit 100
  ) d
$$;
comment on function private.due_auth_syncs(uuid[]) is
  'Up to 100 users to be synced with Supabase Auth; seconds is the length of the ban, 0 for none.';

create function private.settle_auth_syncs(settled jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  item jsonb;
begin
  for item in select i from jsonb_array_elements(settled -> 'done') i order by i ->> 'user_id' loop
    -- With an older version the request may have reached Auth after a newer one: the sync stays due.
    update private.auth_syncs e set
      settled_at = case when e.version = (item ->> 'version')::bigint and item ->> 'error' is null then now() end,
      attempts = e.attempts + 1, error = left(item ->> 'error', 500)
    where e.user_id = (item ->> 'user_id')::uuid;
  end loop;
  return jsonb_build_object('syncs', private.due_auth_syncs(case when settled ? 'done' then array(
    select (i ->> 'user_id')::uuid from jsonb_array_elements(settled -> 'done') i) end));
end $$;
comment on function private.settle_auth_syncs(jsonb) is
  'Stores which syncs were done, {done: [{user_id, version, error?}]}, and returns those of these users that are due; without done all that are due.';

-- Users ---------------------------------------------------------------------------------------------------------------

create function private.user_to_administer(user_id uuid) returns public.users
language plpgsql set search_path = '' as $$
declare
  target public.users;
begin
  perform private.require_admin();
  -- One change of an admin at a time: two admins who suspend each other at once cannot both succeed. So it is checked again.
  if exists (select from public.users u where u.id = user_id and u.global_role in ('ADMIN', 'SUPER_ADMIN')) then
    perform pg_advisory_xact_lock(hashtextextended('administer admins', 0));
  end if;
  select * into target from public.users u where u.id = user_id for update;
  perform private.require_admin();
  if target.id is null then
    raise exception 'There is no such user' using errcode = 'PT404', detail = format('Found no user %s.', user_id);
  end if;
  if target.deleted_at is not null then
    raise exception 'This account is deleted' using errcode = 'PT409', detail = format('User %s.', user_id);
  end if;
  if target.id = auth.uid() then
    raise exception 'Admins cannot do this to themselves' using errcode = 'PT422', hint = 'Ask another admin.';
  end if;
  if target.global_role in ('ADMIN', 'SUPER_ADMIN') and not private.is_super_admin()
    and not private.is_sql_editor() then
    raise exception 'Only a super admin may do this to an admin' using
      errcode = '42501', detail = format('User %s is %s.', user_id, target.global_role), hint = 'Ask a super admin.';
  end if;
  return target;
end $$;
comment on function private.user_to_administer(uuid) is
  'The user, locked, if the calling admin may do something to them: not to themselves, not to an admin unless a super admin.';

create function private.described(who public.users) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('user_id', who.id, 'global_role', who.global_role, 'is_active', who.is_active,
    'suspended_at', who.suspended_at, 'suspended_until', who.suspended_until, 'suspended_reason', who.suspended_reason)
$$;
comment on function private.described(public.users) is 'A user in the form that administration operations return.';

create function private.do_suspend_user(suspension jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target public.users := private.user_to_administer((suspension ->> 'user_id')::uuid);
  until timestamptz := suspension ->> 'until';
begin
  if until <= now() then
    raise exception 'until must be in the future' using
      errcode = 'PT422', detail = format('Found %s.', to_json(until) #>> '{}'),
      hint = 'Omit until for a suspension without an end.';
  end if;
  if coalesce(trim(suspension ->> 'reason'), '') = '' then
    raise exception 'reason is required' using errcode = 'PT422', hint = 'Send 1 to 500 characters.';
  end if;
  update public.users u set suspended_until = until, suspended_reason = trim(suspension ->> 'reason'),
    suspended_at = case when target.suspended_until <= now() then now() else coalesce(target.suspended_at, now()) end
  where u.id = target.id returning * into target;
  return private.described(target);
end $$;
comment on function private.do_suspend_user(jsonb) is 'Suspends {user_id, reason, until?}, or changes reason and end of a suspension.';

create function private.do_reactivate_user(reactivation jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target public.users := private.user_to_administer((reactivation ->> 'user_id')::uuid);
begin
  update public.users u set is_active = true, suspended_at = null, suspended_until = null, suspended_reason = null
  where u.id = target.id returning * into target;
  return private.described(target);
end $$;
comment on function private.do_reactivate_user(jsonb) is 'Ends the suspension of {user_id}, or a deactivation.';

create function private.do_set_role(change jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target public.users;
begin
  perform private.require_admin();
  -- Before the lock on the user: changes that make someone an admin run one at a time, too.
  perform pg_advisory_xact_lock(hashtextextended('administer admins', 0));
  target := private.user_to_administer((change ->> 'user_id')::uuid);
  if not private.is_super_admin() and not private.is_sql_editor() then
    raise exception 'Only a super admin may change roles of the platform' using
      errcode = '42501', hint = 'Ask a super admin.';
  end if;
  update public.users u set global_role = (change ->> 'role')::public."UserRole"
  where u.id = target.id returning * into target;
  return private.described(target);
end $$;
comment on function private.do_set_role(jsonb) is 'Sets the platform role of {user_id} to {role}.';

create function private.do_bulk_admin_action(bulk jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  operation text := case bulk ->> 'action' when 'suspend' then 'do_suspend_user' when 'reactivate' then 'do_reactivate_user'
    when 'set_role' then 'do_set_role' end;
  action public."AdminAction" := case bulk ->> 'action' when 'suspend' then 'USER_SUSPEND' else 'USER_UPDATE' end;
  wanted jsonb := bulk - 'user_ids' - 'action';
  users uuid[];
  who uuid;
  done jsonb := '[]';
  detail text;
  hint text;
begin
  select array_agg(distinct i::uuid order by i::uuid) into users from jsonb_array_elements_text(bulk -> 'user_ids') i;
  if operation is null or coalesce(cardinality(users), 0) not between 1 and 100 then
    raise exception 'A bulk action needs a known action and 1 to 100 users' using
      errcode = 'PT422', detail = format('Found %L for %s users.', bulk ->> 'action', coalesce(cardinality(users), 0)),
      hint = 'Actions are suspend, reactivate and set_role.';
  end if;
  -- In one order, so that two of them at once wait for each other instead of deadlocking.
  foreach who in array users loop
    begin
      execute format('select $2 || private.%I($1)', operation) into done using wanted || jsonb_build_object('user_id', who), done;
      perform private.append_admin_action(
        action, format('Bulk action: %s', bulk ->> 'action'), 'user', who::text, wanted, true, null, null
      );
    exception when others then
      get stacked diagnostics detail = pg_exception_detail, hint = pg_exception_hint;
      raise exception using errcode = sqlstate, message = sqlerrm,
        detail = format('User %s. %s', who, detail), hint = concat_ws(' ', nullif(hint, ''), 'No user was changed.');
    end;
  end loop;
  return jsonb_build_object('users', done);
end $$;
comment on function private.do_bulk_admin_action(jsonb) is
  'Does {action, user_ids, reason?, until?, role?} to all of up to 100 users, or to none.';

-- Entry points of the functions ---------------------------------------------------------------------------------------------

create function private.with_syncs(answer jsonb, users uuid[]) returns jsonb
language sql stable set search_path = '' as $$
  select case when answer ? 'done'
    then answer || jsonb_build_object('syncs', private.due_auth_syncs(users)) else answer end
$$;
comment on function private.with_syncs(jsonb, uuid[]) is 'The result, and the due syncs of these users with Supabase Auth.';

-- attempt() is a statement of its own: a query in the same statement would not see its changes.
create function private.suspend_user(suspension jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  answer jsonb := private.attempt('suspend_user', suspension, suspension ->> 'user_id');
begin
  return private.with_syncs(answer, array[(suspension ->> 'user_id')::uuid]);
end $$;
comment on function private.suspend_user(jsonb) is 'See do_suspend_user(); logged.';

create function private.reactivate_user(reactivation jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  answer jsonb := private.attempt('reactivate_user', reactivation, reactivation ->> 'user_id');
begin
  return private.with_syncs(answer, array[(reactivation ->> 'user_id')::uuid]);
end $$;
comment on function private.reactivate_user(jsonb) is 'See do_reactivate_user(); logged.';

create function private.bulk_admin_action(bulk jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  answer jsonb := private.attempt(
    'bulk_admin_action', bulk, format('%s users', jsonb_array_length(bulk -> 'user_ids'))
  );
begin
  return private.with_syncs(answer, array(select i::uuid from jsonb_array_elements_text(bulk -> 'user_ids') i));
end $$;
comment on function private.bulk_admin_action(jsonb) is 'See do_bulk_admin_action(); logged, and for each user besides.';

-- Impersonation ---------------------------------------------------------------------------------------------------------

create function private.do_impersonate_user(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target public.users;
  made private.impersonations;
  claims jsonb;
begin
  if not private.is_super_admin() then
    raise exception 'Only a super admin may impersonate' using errcode = '42501', hint = 'Ask a super admin.';
  end if;
  target := private.user_to_administer((wish ->> 'user_id')::uuid);
  if target.global_role in ('ADMIN', 'SUPER_ADMIN') then
    raise exception 'An admin cannot be impersonated' using
      errcode = '42501', detail = format('User %s is %s.', target.id, target.global_role);
  end if;
  if private.blocked_until(target) > now() then
    raise exception 'This user is suspended or inactive and cannot be impersonated' using
      errcode = 'PT409', hint = 'Reactivate them first.';
  end if;
  if not (wish ->> 'signable')::boolean then
    raise exception 'SUPABASE_SIGNING_KEY is not configured' using
      errcode = 'PT501', hint = 'Set it; docs/administration.md says how.';
  end if;
  insert into private.impersonations (admin_id, user_id, reason)
  values (auth.uid(), target.id, trim(wish ->> 'reason')) returning * into made;
  claims := private.custom_access_token_hook(jsonb_build_object('user_id', target.id, 'claims', jsonb_build_object(
    'sub', target.id, 'role', 'authenticated', 'aud', 'authenticated', 'email', target.email, 'phone', '',
    'app_metadata', jsonb_build_object('provider', 'impersonation'), 'user_metadata', '{}'::jsonb, 'aal', 'aal1',
    'amr', jsonb_build_array(jsonb_build_object('method', 'impersonation',
      'timestamp', floor(extract(epoch from made.started_at))::bigint)),
    'session_id', made.id, 'is_anonymous', false, 'act', jsonb_build_object('sub', made.admin_id),
    'iat', floor(extract(epoch from made.started_at))::bigint, 'exp', floor(extract(epoch from made.expires_at))::bigint
  ))) -> 'claims';
  return jsonb_build_object('impersonation_id', made.id, 'expires_at', made.expires_at, 'claims', claims);
end $$;
comment on function private.do_impersonate_user(jsonb) is
  'Lets the calling super admin act as {user_id} for 15 minutes: the claims of a token, to be signed.';

create function private.impersonate_user(wish jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  return private.attempt('impersonate_user', wish, wish ->> 'user_id');
end $$;
comment on function private.impersonate_user(jsonb) is 'See do_impersonate_user(); logged.';

create function private.end_impersonation(impersonation_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  who uuid := coalesce((auth.jwt() #>> '{act,sub}')::uuid, auth.uid());
  found_one private.impersonations;
begin
  -- With the token of an impersonation, that one ends, whichever id is sent.
  update private.impersonations i set ended_at = now()
  where i.id = coalesce((case when auth.jwt() ? 'act' then auth.jwt() ->> 'session_id' end)::uuid, impersonation_id)
    and i.ended_at is null and i.expires_at > now() and (i.admin_id = who or private.is_super_admin())
  returning * into found_one;
  if found_one.id is null then
    raise exception 'There is no such active impersonation' using
      errcode = 'PT404', hint = 'An impersonation ends by itself after 15 minutes.';
  end if;
  perform private.append_admin_action('USER_IMPERSONATE', 'Impersonation ended', 'user', found_one.user_id::text,
    jsonb_build_object('impersonation_id', found_one.id), true, null, null);
  return jsonb_build_object('impersonation_id', found_one.id, 'ended_at', found_one.ended_at);
end $$;
comment on function private.end_impersonation(uuid) is 'See public.end_impersonation(uuid).';

create function public.end_impersonation(impersonation_id uuid default null) returns jsonb
language sql set search_path = '' as 'select private.end_impersonation(impersonation_id)';
comment on function public.end_impersonation(uuid) is
  'Ends an impersonation at once: one''s own, with its own token, or as super admin any.';

-- Lists -------------------------------------------------------------------------------------------------------------------
-- Newest first; the next page begins after the last row of the one before: before_at is its created_at, before_id its id.

create function private.page_size(wanted integer) returns integer
language plpgsql immutable set search_path = '' as $$
begin
  if wanted between 1 and 200 then
    return wanted;
  end if;
  raise exception 'A page has 1 to 200 rows' using errcode = 'PT422', detail = format('Found %s.', coalesce(wanted::text, 'null'));
end $$;
comment on function private.page_size(integer) is 'The page size, if it is 1 to 200; else PT422.';

create function private.containing(words text) returns text
language sql immutable set search_path = '' as $$
  select '%' || regexp_replace(words, '([%_\\])', '\\\1', 'g') || '%'
$$;
comment on function private.containing(text) is 'The pattern of ilike for what contains these words.';

create type public.admin_user as (
  id uuid, email text, name text, avatar_url text, global_role "UserRole", is_active boolean, is_suspended boolean,
  suspended_at timestamptz, suspended_until timestamptz, suspended_reason text, last_login_at timestamptz,
  created_at timestamptz, organizations bigint
);
comment on type public.admin_user is 'A user as platform admins see it.';

create function private.admin_users(
  search text, with_role "UserRole", suspended boolean, in_organization uuid, before_at timestamptz, before_id uuid,
  page_size integer
) returns setof public.admin_user
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  perform private.require_admin();
  return query
  select u.id, u.email, u.name, u.avatar_url, u.global_role, u.is_active, s.is_suspended,
    u.suspended_at, u.suspended_until, u.suspended_reason, u.last_login_at, u.created_at,
    (select count(*) from public.organization_members m where m.user_id = u.id)
  from public.users u
  cross join lateral (
    select u.suspended_at is not null and (u.suspended_until is null or u.suspended_until > now()) as is_suspended
  ) s
  where (search is null or u.email ilike private.containing(search) or u.name ilike private.containing(search))
    and (with_role is null or u.global_role = with_role)
    and (suspended is null or s.is_suspended = suspended)
    and (in_organization is null or exists (
      select from public.organization_members m where m.user_id = u.id and m.organization_id = in_organization
    ))
    and (before_at is null or (u.created_at, u.id) < (before_at, coalesce(before_id, '00000000-0000-0000-0000-000000000000')))
  order by u.created_at desc, u.id desc
  limit private.page_size(page_size);
end $$;
comment on function private.admin_users(text, "UserRole", boolean, uuid, timestamptz, uuid, integer) is 'See public.admin_users().';

create function public.admin_users(
  search text default null, with_role "UserRole" default null, suspended boolean default null,
  in_organization uuid default null, before_at timestamptz default null, before_id uuid default null,
  page_size integer default 50
) returns setof public.admin_user
language sql stable set search_path = '' as 'select * from private.admin_users($1, $2, $3, $4, $5, $6, $7)';
comment on function public.admin_users(text, "UserRole", boolean, uuid, timestamptz, uuid, integer) is
  'Users of the platform, for its admins: those whose e-mail or name contains the search, of a role, suspended, of an organization.';

create type public.admin_organization as (
  id uuid, name text, slug text, subscription_tier "SubscriptionTier", subscription_status "SubscriptionStatus",
  billing_email text, stripe_customer_id text, created_at timestamptz, members bigint, owners jsonb
);
comment on type public.admin_organization is 'An organization as platform admins see it.';

create function private.admin_organizations(
  search text, with_tier "SubscriptionTier", with_status "SubscriptionStatus", before_at timestamptz, before_id uuid,
  page_size integer
) returns setof public.admin_organization
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  perform private.require_admin();
  return query
  select o.id, o.name, o.slug, o.subscription_tier, o.subscription_status, o.billing_email, o.stripe_customer_id,
    o.created_at, (select count(*) from public.organization_members m where m.organization_id = o.id),
    (
      select coalesce(jsonb_agg(jsonb_build_object('id', u.id, 'email', u.email) order by m.joined_at), '[]')
      from public.organization_members m join public.users u on u.id = m.user_id
      where m.organization_id = o.id and m.role = 'OWNER'
    )
  from public.organizations o
  where (search is null or o.name ilike private.containing(search) or o.slug ilike private.containing(search))
    and (with_tier is null or o.subscription_tier = with_tier)
    and (with_status is null or o.subscription_status = with_status)
    and (before_at is null or (o.created_at, o.id) < (before_at, coalesce(before_id, '00000000-0000-0000-0000-000000000000')))
  order by o.created_at desc, o.id desc
  limit private.page_size(page_size);
end $$;
comment on function private.admin_organizations(text, "SubscriptionTier", "SubscriptionStatus", timestamptz, uuid, integer) is
  'See public.admin_organizations().';

create function public.admin_organizations(
  search text default null, with_tier "SubscriptionTier" default null,
  with_status "SubscriptionStatus" default null, before_at timestamptz default null,
  before_id uuid default null, page_size integer default 50
) returns setof public.admin_organization
language sql stable set search_path = '' as 'select * from private.admin_organizations($1, $2, $3, $4, $5, $6)';
comment on function public.admin_organizations(text, "SubscriptionTier", "SubscriptionStatus", timestamptz, uuid, integer) is
  'Organizations of the platform, for its admins: those whose name or slug contains the search, of a tier, in a state.';

create type public.admin_subscription as (
  id uuid, organization_id uuid, organization text, status "SubscriptionStatus", tier "SubscriptionTier",
  billing_cycle "BillingCycle", amount_cents bigint, current_period_start timestamptz, current_period_end timestamptz,
  cancel_at_period_end boolean, cancelled_at timestamptz, stripe_subscription_id text, created_at timestamptz
);
comment on type public.admin_subscription is 'A subscription as platform admins see it.';

create function private.admin_subscriptions(
  with_status "SubscriptionStatus", with_tier "SubscriptionTier", with_cycle "BillingCycle", in_organization uuid,
  before_at timestamptz, before_id uuid, page_size integer
) returns setof public.admin_subscription
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  perform private.require_admin();
  return query
  select s.id, s.organization_id, o.name, s.status, s.tier, s.billing_cycle, s.amount_cents, s.current_period_start,
    s.current_period_end, s.cancel_at_period_end, s.cancelled_at, s.stripe_subscription_id, s.created_at
  from public.subscriptions s join public.organizations o on o.id = s.organization_id
  where (with_status is null or s.status = with_status) and (with_tier is null or s.tier = with_tier)
    and (with_cycle is null or s.billing_cycle = with_cycle)
    and (in_organization is null or s.organization_id = in_organization)
    and (before_at is null or (s.created_at, s.id) < (before_at, coalesce(before_id, '00000000-0000-0000-0000-000000000000')))
  order by s.created_at desc, s.id desc
  limit private.page_size(page_size);
end $$;
comment on function private.admin_subscriptions(
  "SubscriptionStatus", "SubscriptionTier", "BillingCycle", uuid, timestamptz, uuid, integer
) is 'See public.admin_subscriptions().';

create function public.admin_subscriptions(
  with_status "SubscriptionStatus" default null, with_tier "SubscriptionTier" default null,
  with_cycle "BillingCycle" default null, in_organization uuid default null, before_at timestamptz default null,
  before_id uuid default null, page_size integer default 50
) returns setof public.admin_subscription
language sql stable set search_path = '' as 'select * from private.admin_subscriptions($1, $2, $3, $4, $5, $6, $7)';
comment on function public.admin_subscriptions(
  "SubscriptionStatus", "SubscriptionTier", "BillingCycle", uuid, timestamptz, uuid, integer
) is 'Subscriptions of all organizations, for platform admins.';

create function public.admin_audit_log(
  with_action "AdminAction" default null, by_admin uuid default null, with_target_type text default null,
  with_target text default null, with_success boolean default null, before_at timestamptz default null,
  before_id uuid default null, page_size integer default 50
) returns setof public.admin_action_logs
language plpgsql stable set search_path = '' set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  perform private.require_admin();
  return query
  select l.* from public.admin_action_logs l
  where (with_action is null or l.action = with_action) and (by_admin is null or l.admin_id = by_admin)
    and (with_target_type is null or l.target_type = with_target_type)
    and (with_target is null or l.target_id = with_target) and (with_success is null or l.success = with_success)
    and (before_at is null or (l.created_at, l.id) < (before_at, coalesce(before_id, '00000000-0000-0000-0000-000000000000')))
  order by l.created_at desc, l.id desc
  limit private.page_size(page_size);
end $$;
comment on function public.admin_audit_log("AdminAction", uuid, text, text, boolean, timestamptz, uuid, integer) is
  'Operations of admins, successful and failed, and refused attempts of others, newest first.';

grant execute on function public.end_impersonation(uuid), private.end_impersonation(uuid), private.page_size(integer),
  public.admin_users(text, "UserRole", boolean, uuid, timestamptz, uuid, integer),
  private.admin_users(text, "UserRole", boolean, uuid, timestamptz, uuid, integer),
  public.admin_organizations(text, "SubscriptionTier", "SubscriptionStatus", timestamptz, uuid, integer),
  private.admin_organizations(text, "SubscriptionTier", "SubscriptionStatus", timestamptz, uuid, integer),
  public.admin_subscriptions("SubscriptionStatus", "SubscriptionTier", "BillingCycle", uuid, timestamptz, uuid, integer),
  private.admin_subscriptions("SubscriptionStatus", "SubscriptionTier", "BillingCycle", uuid, timestamptz, uuid, integer),
  public.admin_audit_log("AdminAction", uuid, text, text, boolean, timestamptz, uuid, integer)
  to authenticated;
grant execute on function private.suspend_user(jsonb), private.reactivate_user(jsonb), private.bulk_admin_action(jsonb),
  private.impersonate_user(jsonb), private.settle_auth_syncs(jsonb), private.log_interrupted(jsonb)
  to strive_functions;

-- Jobs --------------------------------------------------------------------------------------------------------------------

create function private.end_suspensions() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  ended bigint;
begin
  update public.users u set suspended_at = null, suspended_until = null, suspended_reason = null
  where u.suspended_until <= now();
  get diagnostics ended = row_count;
  return ended;
end $$;
comment on function private.end_suspensions() is
  'Clears suspensions that have ended; current_user_id() ignores them already.';
grant execute on function private.end_suspensions() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('sync_auth', '* * * * *', null, 'Sync suspensions and deletions of users with Supabase Auth.'),
  ('end_suspensions', '* * * * *', 'private.end_suspensions', 'End suspensions whose time has passed.');
