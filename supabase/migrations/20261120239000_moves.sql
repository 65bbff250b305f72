-- Moving an organization to another database, while it is used. `strive move` (shared/administration/moves) copies its
-- rows, holds its writes for a moment, and switches. Here are the directory of what has moved, the guard that holds writes,
-- and the answer to late requests.

create table private.organization_moves (
  organization_id uuid primary key,
  state text not null constraint "state is COPYING, MOVED, ERASED, INCOMING, READY or ARRIVED"
    check (state in ('COPYING', 'MOVED', 'ERASED', 'INCOMING', 'READY', 'ARRIVED')),
  address text constraint "address is an http(s) address without a slash at its end"
    check (address ~ '^https?://[^[:space:]"<>]+[^[:space:]"<>/]$' and length(address) <= 500),
  callers text[] not null default '{}',
  doors jsonb,
  created_accounts uuid[] not null default '{}',
  started_at timestamptz not null default now(),
  held_at timestamptz,
  moved_at timestamptz,
  erased_at timestamptz
);
comment on table private.organization_moves is
  'The directory: organizations that move or have moved between this database and another. Only `strive move` writes it.';
comment on column private.organization_moves.organization_id is 'The organization; it outlives its row.';
comment on column private.organization_moves.started_at is 'When the copying began.';
comment on column private.organization_moves.state is
  'COPYING, MOVED and ERASED where it leaves; INCOMING, READY (all is here, not yet visible) and ARRIVED where it goes.';
comment on column private.organization_moves.address is 'The project that it moves to, as clients reach it.';
comment on column private.organization_moves.callers is
  'Ids of its members, and ids and hashes of its API keys, at the switch: only they learn of it.';
comment on column private.organization_moves.doors is 'Where it goes, in READY: the rows that make it visible.';
comment on column private.organization_moves.created_accounts is 'Where it goes: accounts that the move created.';
comment on column private.organization_moves.held_at is 'When its writes were last held.';
comment on column private.organization_moves.moved_at is 'When it switched.';
comment on column private.organization_moves.erased_at is 'When its rows were deleted here.';
create index organization_moves_callers_idx on private.organization_moves using gin (callers);

-- What moves ----------------------------------------------------------------------------------------------------------

-- Doors: rows through which a person, a key, Stripe or a queue reaches an organization. Where it goes they are written by
-- the switch, so before that the organization is invisible and no job acts for it; at the source the switch deletes them.
create function private.move_relations() returns table (relation regclass, condition text, owners text, is_door boolean)
language sql stable set search_path = '' as $$
  select r.relation, r.condition, null::text, r.relation in (
    'public.organizations'::regclass, 'public.organization_members'::regclass, 'public.organization_invitations'::regclass,
    'public.api_keys'::regclass, 'private.capture_tokens'::regclass, 'private.capture_counts'::regclass,
    'private.calendar_feeds'::regclass, 'public.webhook_endpoints'::regclass, 'private.webhook_secrets'::regclass,
    'public.onboarding_sessions'::regclass, 'private.onboarding_payments'::regclass, 'private.checkouts'::regclass,
    'private.billing_customers'::regclass, 'private.closed_customers'::regclass, 'private.former_customers'::regclass,
    'public.subscriptions'::regclass, 'private.subscription_states'::regclass
  )
  from private.export_relations() r
  union all
  select q.relation, 't.organization_id = $1', null, true
  from unnest('{private.emails,private.usage_entries}'::regclass[]) q (relation)
  union all
  -- A request that is repeated at the new home is answered as it was here.
  select 'private.idempotency_keys'::regclass, 't.owner = any ($2)',
    'select m.user_id::text from public.organization_members m where m.organization_id = $1
      union select ''api_key:'' || k.id from public.api_keys k where k.organization_id = $1', false
  union all
  select s.relation, 't.customer_id = any ($2)',
    'select c.stripe_customer_id from private.billing_customers c where c.organization_id = $1', false
  from unnest('{public.stripe_objects,public.stripe_events}'::regclass[]) s (relation)
$$;
comment on function private.move_relations() is
  'Every table with rows of an organization and the condition that finds them ($1 is its id). owners: the query at the source for '
  '$2, for rows that do not carry the organization: they are added to those at the target.';

create function private.is_arriving(org uuid) returns boolean
language plpgsql stable security definer set search_path = '' as $$
begin
  return exists (
    select from private.organization_moves m where m.organization_id = org and m.state in ('INCOMING', 'READY')
  );
end $$;
comment on function private.is_arriving(uuid) is
  'Whether an organization is being moved to this database: rows of its files are copied, not made from the files.';

-- Holding writes ------------------------------------------------------------------------------------------------------
-- Who writes a row of an organization takes its lock, shared, after the policies have accepted the row. To hold writes, the
-- move takes the lock alone: it waits for the transactions that have written, and all others are refused at their first
-- write. When the process of the move dies, its lock ends, and with it the hold.

-- 2 while an organization that moved has rows here, else 1. A sequence, since it is read without a query, and a change of it
-- is seen by every transaction at once.
create sequence private.moves as smallint maxvalue 2;
select setval('private.moves', 1);
grant select on sequence private.moves to public;

create function private.note_moves() returns void
language plpgsql security definer set search_path = '' as $$
begin
  perform pg_advisory_xact_lock(-1, 20);
  perform setval('private.moves', case when exists (
    select from private.organization_moves m
    where m.state = 'MOVED' or m.state = 'COPYING' and m.held_at > now() - interval '1 minute'
  ) then 2 else 1 end);
end $$;
comment on function private.note_moves() is 'Has the guard look into organization_moves while that is necessary.';

-- In the form of PostgREST for a whole response, which shared/database/errors.py reads, too.
create function private.refuse_move(status integer, code text, message text, details text, hint text) returns void
language plpgsql set search_path = '' as $$
begin
  if nullif(current_setting('storage.operation', true), '') is not null then
    -- The storage service responds 403 with this message; to a code that it does not know, 500.
    raise exception '%', concat_ws(': ', message, details) using errcode = '42501', hint = refuse_move.hint;
  end if;
  raise sqlstate 'PGRST' using
    message = json_build_object('code', code, 'message', message, 'details', details, 'hint', hint)::text,
    detail = json_build_object(
      'status', status, 'headers', case status when 503 then '{"Retry-After": "1"}' else '{}' end::json
    )::text;
end $$;
comment on function private.refuse_move(integer, text, text, text, text) is 'Raises a response with this status and code.';

create function private.guard_move() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := to_jsonb(case when tg_op = 'DELETE' then old else new end) ->> tg_argv[0];
  is_free boolean;
  found_one private.organization_moves;
begin
  if tg_nargs > 1 then
    execute format('select p.organization_id from %s p where p.id = $1', tg_argv[1]) into org using org;
    if org is null then
      return null; -- deleted with its parent
    end if;
  end if;
  is_free := pg_try_advisory_xact_lock_shared(uuid_hash(org) & 1023, 20);
  select m.* into found_one from private.organization_moves m where m.organization_id = org;
  -- The storage service writes the row of a person's file without the person.
  if found_one.state = 'MOVED' and (
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ? 'sub'
    or nullif(current_setting('storage.operation', true), '') is not null
  ) then
    perform private.answer_moved(found_one.address);
  -- An older snapshot may not have the row of the move.
  elsif not is_free and (found_one.state = 'COPYING' or current_setting('transaction_isolation') <> 'read committed') then
    perform private.refuse_moving();
  end if;
  return null;
end $$;
comment on function private.guard_move() is
  'Refuses a write while the writes of its organization are held, and that of a person, key or upload after it has moved.';

create function private.guard_moves() returns void language plpgsql set search_path = '' as $$
declare
  target record;
  -- Its organization: 1,024 locks, so that a job which writes for all organizations takes no more of them.
  held constant text := 'not pg_try_advisory_xact_lock_shared(uuid_hash(%s.%I) & 1023, 20) '
    'or pg_sequence_last_value(''private.moves''::regclass) <> 1';
begin
  for target in
    select r.relation, case when r.relation = 'public.organizations'::regclass then 'id' else 'organization_id' end as name,
      -- Those without the organization hang on a row that has it.
      regexp_match(r.condition, '^t\.(\w+) in \(select p\.id from (\S+) p') as parent
    from private.move_relations() r
    -- Counting a request is no change of the organization: reads are counted, too. An entry of the log is written with a
    -- row that has a guard.
    where r.owners is null and r.relation not in ('private.usage_entries'::regclass, 'public.activity_logs'::regclass)
      and not exists (select from pg_catalog.pg_trigger t where t.tgrelid = r.relation and t.tgname = 'guard_move')
  loop
    if target.parent is not null then
      execute format('create trigger guard_move after insert or update or delete on %s for each row '
        'execute function private.guard_move(%L, %L)', target.relation, target.parent[1], target.parent[2]);
      continue;
    end if;
    execute format('create trigger guard_move after insert or update on %s for each row when (%s) '
      'execute function private.guard_move(%L)', target.relation, format(held, 'new', target.name), target.name);
    execute format('create trigger guard_deletion after delete on %s for each row when (%s) '
      'execute function private.guard_move(%L)', target.relation, format(held, 'old', target.name), target.name);
  end loop;
end $$;
comment on function private.guard_moves() is 'Gives every table of organizations its guard. A later chapter calls it again.';
select private.guard_moves();

-- Late requests -------------------------------------------------------------------------------------------------------

create function private.refuse_moving() returns void
language plpgsql set search_path = '' as $$
begin
  perform private.refuse_move(503, 'organization_moving', 'This organization is moving to another database', null,
    'Try again in a second.');
end $$;
comment on function private.refuse_moving() is 'Raises 503.';

create function private.answer_moved(address text) returns void
language plpgsql set search_path = '' as $$
begin
  perform private.refuse_move(421, 'organization_moved', 'This organization has moved to another address', address,
    'Send requests to the address in `details`, and sign in there.');
end $$;
comment on function private.answer_moved(text) is 'Raises 421 with the address.';

-- Only callers who are no members get here, so it costs the others nothing.
create function private.refuse_moved(org text, caller text) returns void
language plpgsql stable security definer set search_path = '' as $$
declare
  found_one private.organization_moves;
begin
  select m.* into found_one from private.organization_moves m
  where m.state in ('MOVED', 'ERASED', 'READY') and m.callers @> array[caller] and (org is null or m.organization_id = org::uuid)
  order by m.moved_at desc nulls first limit 1;
  if found_one.state = 'READY' then
    perform private.refuse_moving();
  elsif found then
    perform private.answer_moved(found_one.address);
  end if;
end $$;
comment on function private.refuse_moved(text, text) is
  '421 for a caller whose organization has moved, the one that the request names or the last of theirs; 503 where it is about '
  'to arrive.';

-- The steps of a move -------------------------------------------------------------------------------------------------
-- Only an operator runs them, with the login of the owner.

create function private.hold_writes(org uuid) returns void
language plpgsql set search_path = '' as $$
begin
  update private.organization_moves m set held_at = now() where m.organization_id = org and m.state = 'COPYING';
  if not found then
    raise exception 'This organization is not being copied' using errcode = 'PT409';
  end if;
  perform private.note_moves();
end $$;
comment on function private.hold_writes(uuid) is 'Prepares to hold writes: committed before the lock is taken.';

create function private.move_callers(org uuid) returns text[]
language sql stable set search_path = '' as $$
  select array(
    select p.user_id::text from public.organization_members p where p.organization_id = org
    union select unnest(array[k.id::text, k.key_hash]) from public.api_keys k where k.organization_id = org
  )
$$;
comment on function private.move_callers(uuid) is 'Who may call for an organization: members, and its API keys.';

-- No trigger may run (session_replication_role): no member has left, and nothing was cancelled.
create function private.switch_away(org uuid) returns void
language plpgsql set search_path = '' as $$
declare
  door record;
begin
  if current_setting('session_replication_role') <> 'replica' then
    raise exception 'session_replication_role must be replica';
  end if;
  update private.organization_moves m set state = 'MOVED', moved_at = now(), callers = private.move_callers(org)
  where m.organization_id = org and m.state = 'COPYING';
  if not found then
    raise exception 'This organization is not being copied' using errcode = 'PT409';
  end if;
  -- First what hangs on another door.
  for door in
    select r.relation, r.condition from private.move_relations() r
    where r.is_door and r.relation <> 'public.organizations'::regclass
    order by r.condition like 't.organization_id%', r.relation::text
  loop
    execute format('delete from %s t where %s', door.relation, door.condition) using org;
  end loop;
  update public.organizations o set closed_at = coalesce(o.closed_at, now()), stripe_customer_id = null where o.id = org;
  update public.users u set current_organization_id = null where u.current_organization_id = org;
end $$;
comment on function private.switch_away(uuid) is
  'The moment from which an organization is no longer here: its doors are deleted; its other rows are kept, closed, until erased.';
