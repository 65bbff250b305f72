-- Usage: the one meter of what an organization uses. A request appends a row to private.usage_entries in its own transaction,
-- so no two requests wait for each other. The job roll_up_usage moves these rows into usage_tracking, one row for each day
-- and caller. The view private.metered has both, so a roll-up changes no figure. docs/usage.md explains all of it.

create type "ResourceType" as enum ('AI_TOKENS', 'API_CALLS', 'STORAGE', 'SEATS', 'ORDERS', 'TEMPLATES', 'BLUEPRINTS');
comment on type "ResourceType" is 'What is metered. Calls, tokens and orders add up over a month; the others have a value for each day.';

create table private.metered_resources (
  resource_type "ResourceType" primary key,
  plan_limit text not null unique,
  noun text not null
);
comment on table private.metered_resources is 'What is metered, and the limit of a plan that it counts against.';
comment on column private.metered_resources.resource_type is 'What is metered.';
comment on column private.metered_resources.plan_limit is 'The limit in plans.limits.';
comment on column private.metered_resources.noun is 'What notices call it.';
insert into private.metered_resources (resource_type, plan_limit, noun) values
  ('API_CALLS', 'api_calls', 'calls with API keys'),
  ('AI_TOKENS', 'ai_tokens', 'tokens of the assistant'),
  ('STORAGE', 'storage_bytes', 'storage'),
  ('SEATS', 'members', 'seats'),
  ('ORDERS', 'orders_per_month', 'agent orders'),
  ('TEMPLATES', 'templates', 'templates'),
  ('BLUEPRINTS', 'blueprints', 'blueprints');

-- Tables --------------------------------------------------------------------------------------------------------------

create table public.usage_tracking (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid references public.users (id) on delete set null,
  api_key_id uuid,
  resource_type "ResourceType" not null,
  resource_name text not null
    constraint "resource_name is 1 to 100 characters" check (length(resource_name) between 1 and 100),
  usage_amount bigint not null constraint "usage_amount is not negative" check (usage_amount >= 0),
  day date not null default (now() at time zone 'UTC')::date,
  billing_period text not null generated always as
    (lpad(extract(year from day)::text, 4, '0') || '-' || lpad(extract(month from day)::text, 2, '0')) stored,
  metadata jsonb constraint "metadata is an object" check (jsonb_typeof(metadata) = 'object'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.usage_tracking is
  'What an organization used on a day (UTC): calls and tokens by caller, and once a day what there was of everything else. '
  'Written by the server; usage_report() adds what the last minutes brought.';
comment on column public.usage_tracking.user_id is 'Who used it; null: an API key, or the organization as a whole.';
-- Without a foreign key: what a key used counts against the limit also after the key is gone.
comment on column public.usage_tracking.api_key_id is 'The API key that used it.';
comment on column public.usage_tracking.resource_type is 'What is metered.';
comment on column public.usage_tracking.resource_name is 'The function that was called, `data-api`, the model, or the table that was counted.';
comment on column public.usage_tracking.usage_amount is 'Calls, tokens, bytes or rows.';
comment on column public.usage_tracking.day is 'The day (UTC).';
comment on column public.usage_tracking.billing_period is 'The month of the day, such as 2026-11.';
comment on column public.usage_tracking.created_at is 'When it was used first on that day.';
create index usage_tracking_organization_idx on public.usage_tracking (organization_id, created_at desc);
create index usage_tracking_day_idx on public.usage_tracking (organization_id, day, resource_type);
create index usage_tracking_platform_idx on public.usage_tracking (day, resource_type);
create index usage_tracking_user_idx on public.usage_tracking (user_id);
create trigger touch before update on public.usage_tracking for each row execute function private.touch_updated_at();

-- Without keys to other tables: checking them would lock the row of the organization in every request.
create table private.usage_entries (
  -- A cache for each connection: they do not wait for the sequence, nor all for the last page of the index.
  id bigint generated always as identity (cache 100) primary key,
  organization_id uuid not null,
  user_id uuid,
  api_key_id uuid,
  resource_type "ResourceType" not null,
  resource_name text not null,
  usage_amount bigint not null,
  used_at timestamptz not null default now()
);
comment on table private.usage_entries is 'What requests used since the last roll-up, one row each.';
comment on column private.usage_entries.organization_id is 'Whose usage.';
comment on column private.usage_entries.user_id is 'The person who called.';
comment on column private.usage_entries.api_key_id is 'The API key that called.';
comment on column private.usage_entries.resource_type is 'What is metered.';
comment on column private.usage_entries.resource_name is 'The function that was called, `data-api`, or the model.';
comment on column private.usage_entries.usage_amount is 'Calls or tokens.';
comment on column private.usage_entries.used_at is 'When.';
-- Calls of people are never looked up before the roll-up, so they cost no entry of an index.
create index usage_entries_limited_idx on private.usage_entries (organization_id, api_key_id, used_at)
  where api_key_id is not null or resource_type = 'AI_TOKENS';

create view private.metered with (security_invoker = true) as
  select t.organization_id, t.user_id, t.api_key_id, t.resource_type, t.resource_name, t.usage_amount, t.day
  from public.usage_tracking t
  union all
  select e.organization_id, e.user_id, e.api_key_id, e.resource_type, e.resource_name, e.usage_amount,
    (e.used_at at time zone 'UTC')::date
  from private.usage_entries e;
comment on view private.metered is 'All that was metered, rolled up or not.';
comment on column private.metered.api_key_id is 'The API key that used it.';
comment on column private.metered.resource_type is 'What is metered.';
comment on column private.metered.resource_name is 'The function that was called, `data-api`, the model, or the table that was counted.';
comment on column private.metered.usage_amount is 'Calls, tokens, bytes or rows.';

-- Counting ------------------------------------------------------------------------------------------------------------

create function private.count_usage(
  organization_id uuid, user_id uuid, api_key_id uuid, resource_type "ResourceType", resource_name text, amount bigint
) returns void language sql set search_path = '' as $$
  insert into private.usage_entries (organization_id, user_id, api_key_id, resource_type, resource_name, usage_amount)
  values (organization_id, user_id, api_key_id, resource_type, coalesce(nullif(left(resource_name, 100), ''), 'other'), amount)
$$;
comment on function private.count_usage(uuid, uuid, uuid, "ResourceType", text, bigint) is
  'Meters what the current transaction uses.';

-- The functions say who calls and which organization the header or the token names; to find that out here again would cost
-- half as much as the request. Strict: without a name it is not even called.
create function private.count_request(function_name text, person uuid, named_org text) returns void
language plpgsql strict security definer set search_path = '' as $$
begin
  if named_org <> '' then
    insert into private.usage_entries (organization_id, user_id, resource_type, resource_name, usage_amount)
    select m.organization_id, m.user_id, 'API_CALLS', left(function_name, 100), 1
    from public.organization_members m where m.user_id = person and m.organization_id = named_org::uuid;
  else
    insert into private.usage_entries (organization_id, user_id, resource_type, resource_name, usage_amount)
    select m.organization_id, m.user_id, 'API_CALLS', left(function_name, 100), 1
    from public.organization_members m where m.user_id = person and (m.blocked_until is null or m.blocked_until <= now())
    order by m.joined_at, m.organization_id limit 1;
  end if;
end $$;
comment on function private.count_request(text, uuid, text) is
  'Counts the request of a person to a function, for the organization it acts in; nothing for who is not a member.';
grant execute on function private.count_request(text, uuid, text) to strive_functions;

create function private.used_calls(organization_id uuid) returns bigint
language sql stable set search_path = '' as $$
  select (
    select coalesce(sum(t.usage_amount), 0) from public.usage_tracking t
    where t.organization_id = used_calls.organization_id and t.resource_type = 'API_CALLS' and t.api_key_id is not null
      and t.day >= (private.this_month() at time zone 'UTC')::date
  )::bigint + (
    select count(*) from private.usage_entries e
    where e.organization_id = used_calls.organization_id and e.api_key_id is not null and e.resource_type = 'API_CALLS'
      and e.used_at >= private.this_month()
  )
$$;
comment on function private.used_calls(uuid) is 'Calls of an organization with API keys in this month.';

create function private.used_tokens(organization_id uuid) returns bigint
language sql stable set search_path = '' as $$
  select (
    select coalesce(sum(t.usage_amount), 0) from public.usage_tracking t
    where t.organization_id = used_tokens.organization_id and t.resource_type = 'AI_TOKENS'
      and t.day >= (private.this_month() at time zone 'UTC')::date
  )::bigint + (
    select coalesce(sum(e.usage_amount), 0) from private.usage_entries e
    where e.organization_id = used_tokens.organization_id and e.resource_type = 'AI_TOKENS' and e.used_at >= private.this_month()
  )::bigint
$$;
comment on function private.used_tokens(uuid) is 'Tokens of the assistant that an organization used in this month.';

-- Far from the limit, calls do not wait for each other: those that run at the same time may together pass it by their number.
-- The last 20 wait for each other, so that as long as fewer run at once, none passes it.
create function private.require_calls(organization_id uuid) returns void
language plpgsql set search_path = '' as $$
declare
  allowed constant bigint := private.plan_limit(organization_id, 'api_calls');
  used bigint;
begin
  if allowed is null then
    return;
  end if;
  used := private.used_calls(organization_id);
  if used between allowed - 20 and allowed - 1 and current_setting('transaction_read_only') = 'off' then
    perform pg_advisory_xact_lock(hashtextextended('api_calls' || organization_id, 0));
    used := private.used_calls(organization_id);
  end if;
  if used >= allowed then
    perform private.refuse_room(organization_id, 'api_calls', allowed, used);
  end if;
end $$;
comment on function private.require_calls(uuid) is 'PT402 if the plan allows no more calls with API keys in this month.';

-- Volatile: after waiting for others it has to see what they counted. Entries of this minute are not rolled up yet.
create function private.calls_since(key public.api_keys, minute timestamptz) returns bigint
language sql volatile set search_path = '' as $$
  select count(*) from private.usage_entries e
  where e.organization_id = key.organization_id and e.api_key_id = key.id and e.used_at >= minute
$$;
comment on function private.calls_since(public.api_keys, timestamptz) is 'Calls with a key since the beginning of this minute.';

create function private.refuse_rate(most integer) returns void
language plpgsql set search_path = '' as $$
begin
  raise exception 'This API key sent too many requests' using
    errcode = 'PT429', constraint = 'retry-after ' || private.next_minute(), detail = format('A key may send %s requests a minute.', most), hint = 'Wait for the next minute.';
end $$;
comment on function private.refuse_rate(integer) is 'Raises PT429.';

create function private.count_api_call(key public.api_keys, function_name text) returns void
language plpgsql security definer set search_path = '' as $$
declare
  most constant integer := 600;
  -- More than transactions run at once: so many calls may be missing from a count.
  margin constant integer := 200;
  this_minute constant timestamptz := date_trunc('minute', now());
  used bigint := private.calls_since(key, this_minute);
begin
  if used >= most - margin then
    -- Near the limit one request counts at a time, after those before it have committed.
    perform pg_advisory_xact_lock(hashtextextended('api key:' || key.id, 0));
    used := private.calls_since(key, this_minute);
  end if;
  if used >= most then
    perform private.refuse_rate(most);
  end if;
  perform private.require_calls(key.organization_id);
  perform private.count_usage(key.organization_id, null, key.id, 'API_CALLS', function_name, 1);
  -- Once a minute, and never waiting for another request.
  if key.last_used_at is null or key.last_used_at < this_minute then
    perform from public.api_keys k
    where k.id = key.id and (k.last_used_at is null or k.last_used_at < this_minute) for no key update skip locked;
    if found then
      update public.api_keys k set last_used_at = this_minute where k.id = key.id;
    end if;
  end if;
end $$;
comment on function private.count_api_call(public.api_keys, text) is
  'Counts a request of a key; PT429 beyond its rate, PT402 beyond the plan.';

-- Reads of the data API with a key -----------------------------------------------------------------------------------------
-- PostgREST reads in transactions that write no row. But they may write a message into the log of the database (WAL), which
-- the roll-up reads from a replication slot. The slot keeps the log until then, so the roll-up has to run.

create publication strive_usage;

create table private.usage_position (
  is_only boolean primary key default true constraint "there is one position" check (is_only),
  lsn pg_lsn not null
);
comment on table private.usage_position is 'Up to where the log was read for messages about usage.';
comment on column private.usage_position.is_only is 'True.';
comment on column private.usage_position.lsn is 'Messages before it are counted.';
insert into private.usage_position (lsn) values ('0/0');

create function private.usage_slot() returns text language sql stable set search_path = '' as $$
  select 'strive_usage_' || d.oid from pg_catalog.pg_database d where d.datname = current_database()
$$;
comment on function private.usage_slot() is 'The name of the replication slot for messages about usage; a cluster may have several databases.';

create function private.meter_reads() returns text
language plpgsql security definer set search_path = '' as $$
begin
  perform pg_drop_replication_slot(s.slot_name) from pg_replication_slots s
  where s.slot_name = private.usage_slot() and s.wal_status = 'lost';
  perform pg_create_logical_replication_slot(private.usage_slot(), 'pgoutput')
  where not exists (select from pg_replication_slots s where s.slot_name = private.usage_slot());
  if found then
    update private.usage_position p set lsn = '0/0'; -- of another cluster, after a restore
  end if;
  return private.usage_slot();
end $$;
comment on function private.meter_reads() is
  'Creates the replication slot with which reads of API keys are counted, also after it was lost. Call it once after the '
  'migrations, in a transaction of its own.';

-- Such a transaction can count in a setting of its connection, so each connection of the data API has its own count.
create function private.note_read(key public.api_keys) returns void
language plpgsql set search_path = '' as $$
declare
  most constant integer := 600;
  counter constant text := 'strive.reads_' || replace(key.id::text, '-', '');
  this_minute constant text := to_char(now(), 'HH24:MI ');
  counted constant text := current_setting(counter, true);
  reads integer := 1;
begin
  if starts_with(counted, this_minute) then
    reads := substr(counted, 7)::integer + 1;
  end if;
  if reads > most then
    perform private.refuse_rate(most);
  end if;
  perform set_config(counter, this_minute || reads, false);
  if not pg_is_in_recovery() then -- a replica cannot write into the log
    perform pg_logical_emit_message(
      false, 'strive.usage', json_build_object('org', key.organization_id, 'key', key.id, 'at', now())::text
    );
  end if;
end $$;
comment on function private.note_read(public.api_keys) is
  'Counts a request that only reads: in this connection, where PT429 ends too many, and in a message for the next roll-up.';

create function private.collect_reads() returns bigint
language plpgsql set search_path = '' as $$
declare
  slot constant text := private.usage_slot();
  -- Before a message is read: what is written later is left to the next run.
  until constant pg_lsn := pg_current_wal_flush_lsn();
  since pg_lsn;
  collected bigint;
begin
  if not exists (select from pg_replication_slots s where s.slot_name = slot and s.wal_status <> 'lost') then
    return 0;
  end if;
  select p.lsn into since from private.usage_position p;
  -- What an earlier run counted and committed is released; what this one counts, by the next run.
  if since > (select s.confirmed_flush_lsn from pg_replication_slots s where s.slot_name = slot) then
    perform pg_replication_slot_advance(slot, since);
  end if;
  -- A message of pgoutput: M, 1 byte of flags, 8 of its place, the prefix and a zero, 4 of a length, then the content.
  with read as (
    insert into private.usage_entries (organization_id, api_key_id, resource_type, resource_name, usage_amount, used_at)
    select (m.content ->> 'org')::uuid, (m.content ->> 'key')::uuid, 'API_CALLS', 'data-api', 1, (m.content ->> 'at')::timestamptz
    from pg_logical_slot_peek_binary_changes(slot, until, null, 'proto_version', '1', 'publication_names', 'strive_usage',
      'messages', 'true') c,
      lateral (select convert_from(substring(c.data from 28), 'UTF8')::json as content) m
    where c.lsn >= since and c.lsn < until and get_byte(c.data, 0) = ascii('M')
      and substring(c.data from 11 for 13) = 'strive.usage\000'::bytea
    returning api_key_id, used_at
  ), used as (
    update public.api_keys k set last_used_at = date_trunc('minute', l.used_at)
    from (select r.api_key_id, max(r.used_at) as used_at from read r group by 1) l
    where k.id = l.api_key_id and (k.last_used_at is null or k.last_used_at < date_trunc('minute', l.used_at))
  )
  select count(*) into collected from read;
  update private.usage_position p set lsn = until;
  return collected;
end $$;
comment on function private.collect_reads() is 'Makes entries of the messages about reads that were written since the last run; returns how many.';

-- Rolling up ----------------------------------------------------------------------------------------------------------

-- One statement moves the entries, so a roll-up that is killed has changed nothing. Those of the current minute stay: the rate
-- limit of keys counts them.
create function private.roll_up_usage() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  rolled bigint;
  orgs uuid[];
begin
  -- Another one that runs finishes first; its entries are gone then.
  perform pg_advisory_xact_lock(hashtextextended('private.roll_up_usage', 0));
  perform private.collect_reads();
  with gone as (
    delete from private.usage_entries e where e.used_at < date_trunc('minute', now()) returning e.*
  ), summed as (
    select g.organization_id, u.id as user_id, g.api_key_id, g.resource_type, g.resource_name,
      (g.used_at at time zone 'UTC')::date as day, sum(g.usage_amount)::bigint as amount, count(*) as entries,
      min(g.used_at) as used_at
    from gone g
    join public.organizations o on o.id = g.organization_id
    left join public.users u on u.id = g.user_id
    group by 1, 2, 3, 4, 5, 6
  ), placed as (
    select s.*, (
      select t.id from public.usage_tracking t
      where t.organization_id = s.organization_id and t.day = s.day and t.resource_type = s.resource_type
        and t.resource_name = s.resource_name and t.user_id is not distinct from s.user_id
        and t.api_key_id is not distinct from s.api_key_id
      order by t.id limit 1
    ) as id
    from summed s
  ), added as (
    update public.usage_tracking t set usage_amount = t.usage_amount + p.amount from placed p where t.id = p.id
  ), begun as (
    insert into public.usage_tracking
      (organization_id, user_id, api_key_id, resource_type, resource_name, day, usage_amount, created_at)
    select p.organization_id, p.user_id, p.api_key_id, p.resource_type, p.resource_name, p.day, p.amount, p.used_at
    from placed p where p.id is null
  )
  select coalesce(sum(p.entries), 0),
    array_agg(distinct p.organization_id) filter (where p.api_key_id is not null or p.resource_type = 'AI_TOKENS')
  into rolled, orgs from placed p;
  perform private.notify_usage(orgs, '{API_CALLS,AI_TOKENS}');
  return rolled;
end $$;
comment on function private.roll_up_usage() is
  'Moves entries from before the current minute into usage_tracking; returns how many. Safe to repeat and to run at once.';

-- What there is of everything else ----------------------------------------------------------------------------------------

create function private.count_resources(day date, ends timestamptz) returns table (
  organization_id uuid, resource_type "ResourceType", resource_name text, amount bigint
) language plpgsql stable set search_path = '' as $$
begin
  return query
    select a.organization_id, 'STORAGE'::public."ResourceType", 'attachments', sum(a.file_size)::bigint
    from public.attachments a where a.created_at < ends group by 1
    union all
    select m.organization_id, 'SEATS', 'organization_members', count(*)
    from public.organization_members m where m.joined_at < ends group by 1
    union all
    select t.organization_id, 'TEMPLATES', 'agent_templates', count(*)
    from public.agent_templates t where t.organization_id is not null and t.created_at < ends group by 1
    union all
    select b.organization_id, 'BLUEPRINTS', 'tool_blueprints', count(*)
    from public.tool_blueprints b where b.organization_id is not null and b.created_at < ends group by 1
    union all
    select o.organization_id, 'ORDERS', 'custom_agent_orders', count(*)
    from public.custom_agent_orders o where o.submitted_at >= day::timestamp at time zone 'UTC' and o.submitted_at < ends group by 1;
end $$;
comment on function private.count_resources(date, timestamptz) is
  'What each organization had at the end of a day, by the rows that still exist; of orders, those submitted on that day.';

create function private.measure_usage(day date) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  ends constant timestamptz := private.end_of_day(day);
  written bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended('private.measure_usage', 0));
  if exists (
    select from public.usage_tracking t where t.day = measure_usage.day and t.resource_type = 'SEATS' and t.updated_at >= ends
  ) then
    return 0;
  end if;
  with counted as (
    select * from private.count_resources(day, ends)
  ), changed as (
    update public.usage_tracking t
    set usage_amount = coalesce((
      select c.amount from counted c where c.organization_id = t.organization_id and c.resource_type = t.resource_type
    ), 0)
    where t.day = measure_usage.day and t.resource_type in ('STORAGE', 'SEATS', 'ORDERS', 'TEMPLATES', 'BLUEPRINTS')
    returning t.organization_id, t.resource_type
  ), added as (
    insert into public.usage_tracking (organization_id, resource_type, resource_name, day, usage_amount, created_at)
    select c.organization_id, c.resource_type, c.resource_name, day, c.amount, least(now(), ends - interval '1 microsecond')
    from counted c
    where c.amount > 0 and not exists (
      select from changed x where x.organization_id = c.organization_id and x.resource_type = c.resource_type
    )
    returning id
  )
  select (select count(*) from changed) + (select count(*) from added) into written;
  if ends > now() then
    perform private.notify_usage(null, '{STORAGE,SEATS,ORDERS,TEMPLATES,BLUEPRINTS}');
  end if;
  return written;
end $$;
comment on function private.measure_usage(date) is
  'Writes what every organization had on a day, for record_platform_metrics(); a day that was measured after its end stays.';

-- Notices -------------------------------------------------------------------------------------------------------------

create function private.describe_usage(resource "ResourceType", amount bigint) returns text
language sql stable set search_path = '' as $$
  select case resource when 'STORAGE' then pg_size_pretty(amount) else trim(to_char(amount, '999,999,999,999,999,999')) end
$$;
comment on function private.describe_usage("ResourceType", bigint) is 'An amount for people.';

-- A limit of one, such as the seat of the plan FREE, is not worth a notice.
create function private.notify_usage(orgs uuid[], resources "ResourceType"[]) returns bigint
language plpgsql set search_path = '' as $$
declare
  notified bigint;
begin
  select private.publish_events(array_agg((
    d.kind, d.organization_id, 'organization', d.organization_id,
    case d.kind when 'billing.usage.at_limit' then format('Your plan allows no more %s', d.noun)
      else format('80 %% of your %s are used', d.noun) end,
    concat_ws(' ', format('%s of %s are used.', private.describe_usage(d.resource_type, d.used),
      private.describe_usage(d.resource_type, d.allowed)), 'They renew on ' || private.day(d.renews_at) || '.',
      'You can choose a larger plan.'),
    private.members_at_least(d.organization_id, 'OWNER'),
    jsonb_build_object('resource', d.resource_type, 'used', d.used, 'allowed', d.allowed),
    concat_ws(' ', d.organization_id, d.resource_type, d.allowed, private.day(d.renews_at)), null, null
  )::private.event)) into notified
  from (
    select o.id as organization_id, r.resource_type, r.noun, l.allowed, u.used, private.renews_at(r.plan_limit) as renews_at,
      case when u.used >= l.allowed then 'billing.usage.at_limit' else 'billing.usage.near_limit' end as kind
    from public.organizations o
    cross join private.metered_resources r
    cross join lateral (select private.plan_limit(o.id, r.plan_limit) as allowed) l
    cross join lateral (select case when l.allowed > 1 then private.used_room(o.id, r.plan_limit) end as used) u
    where (orgs is null or o.id = any (orgs)) and r.resource_type = any (resources) and o.closed_at is null
      and u.used >= 0.8 * l.allowed
  ) d
  where not exists (
    select from private.published_events p where p.kind = d.kind
      and p.dedupe_key = concat_ws(' ', d.organization_id, d.resource_type, d.allowed, private.day(d.renews_at))
  );
  return notified;
end $$;
comment on function private.notify_usage(uuid[], "ResourceType"[]) is
  'Notifies owners of organizations (null: all) at 80 and at 100 percent, once for each resource, limit and month; where '
  'nothing renews, once for each limit.';

-- The report ----------------------------------------------------------------------------------------------------------

create type public.usage_line as (
  grouped_by text, resource_type "ResourceType", day date, user_id uuid, api_key_id uuid, name text, amount bigint,
  used bigint, allowed bigint, renews_at timestamptz
);
comment on type public.usage_line is 'A line of a report on usage; grouped_by is TOTAL, DAY or CALLER.';

create function private.usage_report(period text, organization_id uuid) returns setof public.usage_line
language plpgsql stable security definer set search_path = '' as $$
declare
  this_period constant text := to_char(now() at time zone 'UTC', 'YYYY-MM');
  wanted constant text := coalesce(period, this_period);
  org uuid := private.current_user_org('ADMIN', true);
  first_day date;
begin
  if private.is_operator() then
    org := coalesce(organization_id, private.current_user_org());
    if not exists (select from public.organizations o where o.id = org) and org is not null then
      raise exception 'There is no such organization' using errcode = 'PT404', detail = format('Found none with id %s.', org);
    end if;
  elsif org is null or organization_id <> org then
    org := private.require_org('ADMIN', true);
    raise exception 'This is not the organization that the request acts in' using
      errcode = '42501', detail = format('The request acts in %s.', org), hint = 'Leave organization_id out, or send x-org-id.';
  end if;
  if wanted !~ '^[0-9]{4}-(0[1-9]|1[0-2])$' then
    raise exception 'period is a month like 2026-11' using errcode = 'PT400', detail = format('Found %L.', left(wanted, 50));
  end if;
  first_day := wanted || '-01';
  return query
    with lines as (
      select case when grouping(m.day) = 0 then 'DAY' when grouping(m.user_id) = 0 then 'CALLER' else 'TOTAL' end as grouped_by,
        m.resource_type, m.day, m.user_id, m.api_key_id, sum(m.usage_amount)::bigint as amount
      from private.metered m
      where (org is null or m.organization_id = org) and m.day >= first_day and m.day < first_day + interval '1 month'
      group by grouping sets ((m.resource_type), (m.resource_type, m.day), (m.resource_type, m.user_id, m.api_key_id))
    )
    select 'TOTAL', r.resource_type, null::date, null::uuid, null::uuid, null,
      -- Calls and tokens are counted as they happen; others are as of now, or of the days that were measured.
      case when r.resource_type in ('API_CALLS', 'AI_TOKENS') then coalesce(t.amount, 0)
        when wanted = this_period and org is not null then private.used_room(org, r.plan_limit)
        when r.resource_type = 'ORDERS' then coalesce(t.amount, 0)
        else coalesce((
          select l.amount from lines l where l.grouped_by = 'DAY' and l.resource_type = r.resource_type order by l.day desc limit 1
        ), 0) end,
      case when wanted = this_period and org is not null then private.used_room(org, r.plan_limit) end,
      case when wanted = this_period and org is not null then private.plan_limit(org, r.plan_limit) end,
      case when wanted = this_period then private.renews_at(r.plan_limit) end
    from private.metered_resources r
    left join lines t on t.grouped_by = 'TOTAL' and t.resource_type = r.resource_type
    union all
    select l.grouped_by, l.resource_type, l.day, l.user_id, l.api_key_id,
      coalesce(case when l.api_key_id is not null then 'key ' || k.name end, u.name, u.email), l.amount, null, null, null
    from lines l
    left join public.users u on u.id = l.user_id
    left join public.api_keys k on k.id = l.api_key_id
    where l.grouped_by = 'DAY' or l.grouped_by = 'CALLER' and l.resource_type in ('API_CALLS', 'AI_TOKENS') and org is not null
    order by 2, 1 desc, 3, 7 desc, 4, 5;
end $$;
comment on function private.usage_report(text, uuid) is 'Does the work of public.usage_report().';

create function public.usage_report(period text default null, organization_id uuid default null) returns setof public.usage_line
language sql stable set search_path = '' as 'select * from private.usage_report(period, organization_id)';
comment on function public.usage_report(text, uuid) is
  'For an ADMIN: what the organization used in a month such as 2026-11 (by default this one), in total, by day and by caller. A '
  'line of TOTAL has what counts against the limit of the plan (used), the limit (null: any number) and when it renews. '
  'Platform admins name any organization; without one, their report adds up all organizations.';

grant execute on function private.usage_report(text, uuid), public.usage_report(text, uuid) to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.usage_tracking enable row level security;
create policy "members see usage" on public.usage_tracking for select to authenticated
  using (organization_id = (select private.current_user_org()));
grant select on public.usage_tracking to authenticated;
grant all on public.usage_tracking to service_role;
grant execute on function private.roll_up_usage() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('roll_up_usage', '* * * * *', 'private.roll_up_usage', 'Add what requests used to the usage of their day.');
