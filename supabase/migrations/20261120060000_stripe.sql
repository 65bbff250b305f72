-- Events of Stripe: the inbox and the state of each object.
--
-- Events arrive in any order, twice, late or never, and several belong to one second. So an event is evidence: the inbox
-- keeps it, and the state of an object is the fold of its evidence. What Strive does about an object (chapter
-- subscriptions) depends on that state alone, so every order of arrival ends the same.

-- Objects -------------------------------------------------------------------------------------------------------------

create table public.stripe_objects (
  id text primary key,
  type text not null,
  customer_id text,
  state jsonb not null constraint "state is an object" check (jsonb_typeof(state) = 'object'),
  state_at timestamptz not null,
  is_last boolean not null default false,
  fetched jsonb,
  fetched_at timestamptz,
  in_doubt_since timestamptz,
  missing_since timestamptz,
  waits_for text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "fetched and fetched_at belong together" check ((fetched is null) = (fetched_at is null))
);
comment on table public.stripe_objects is 'Subscriptions, payments, prices … of Stripe in their current state.';
comment on column public.stripe_objects.state is 'The facts that shared/billing/objects.py reads; nothing personal.';
comment on column public.stripe_objects.state_at is 'Since which second it has this state.';
comment on column public.stripe_objects.is_last is 'The state is final.';
comment on column public.stripe_objects.fetched is 'The state that Stripe returned last; earlier events do not count.';
comment on column public.stripe_objects.in_doubt_since is
  'Since when its events allow more than one state; the reconciliation fetches it from Stripe.';
comment on column public.stripe_objects.missing_since is
  'Since when Stripe answers that there is no such object; see billing_attention.';
comment on column public.stripe_objects.waits_for is
  'The customer, price or payment that has to become known before it can be applied.';
create index stripe_objects_customer_idx on public.stripe_objects (customer_id, type);
create index stripe_objects_waiting_idx on public.stripe_objects (waits_for) where waits_for is not null;
create index stripe_objects_missing_idx on public.stripe_objects (missing_since) where missing_since is not null;
create index stripe_objects_in_doubt_idx on public.stripe_objects (in_doubt_since) where in_doubt_since is not null;
create index stripe_objects_invoice_idx on public.stripe_objects ((state ->> 'invoice'))
  where type in ('invoice_payment', 'credit_note', 'payment_intent');
create index stripe_objects_payment_idx on public.stripe_objects ((state ->> 'payment_intent'))
  where type in ('invoice_payment', 'refund', 'dispute', 'charge');
create trigger touch before update on public.stripe_objects for each row execute function private.touch_updated_at();

create table private.foreign_stripe_keys (
  key text primary key,
  reason text not null constraint "reason is 1 to 500 characters" check (length(reason) between 1 and 500),
  created_at timestamptz not null default now()
);
comment on table private.foreign_stripe_keys is
  'Customers, prices and payments of other businesses in the same Stripe account: their events are IGNORED, not PARKED.';
comment on column private.foreign_stripe_keys.key is 'The id that events would wait for.';

create table private.stripe_account (
  id boolean primary key default true constraint "there is one account" check (id),
  livemode boolean not null,
  listed_until timestamptz,
  compared_at timestamptz
);
comment on table private.stripe_account is 'State of the synchronization with our account at Stripe.';
comment on column private.stripe_account.livemode is 'Whether the functions use a live key; events of the other mode are quarantined.';
comment on column private.stripe_account.listed_until is 'All events before this were listed.';
comment on column private.stripe_account.compared_at is 'When all subscriptions were last compared.';

-- The fold ------------------------------------------------------------------------------------------------------------
-- `created` has whole seconds, so the events of the last second must be ordered. Each `updated` event says what was before:
-- it is a step from one state to another. Chain the steps of the second: every state is entered as often as it is left,
-- except the first and the last, so the last is the state entered once more than left. Where the chain is a circle (on,
-- off), it ends in the state of the previous second.

create function private.fold_stripe_object(
  object text, until timestamptz, out state jsonb, out state_at timestamptz, out is_last boolean, out is_certain boolean
) language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan as $$
declare
  fetched jsonb;
  since timestamptz;
  newest record;
  beginning jsonb;
  entered jsonb[];
  touched jsonb[];
  unplaced bigint;
begin
  is_certain := true;
  select o.fetched, date_trunc('second', o.fetched_at) into fetched, since from public.stripe_objects o where o.id = object;
  since := coalesce(since, '-infinity');
  -- The end of the object wins over later events; else the events of the last second count.
  select e.state, e.created, e.is_last, e.is_chained,
    count(*) over (partition by e.created) as times
  into newest
  from public.stripe_events e
  where e.object_id = object and e.state is not null and e.status <> 'QUARANTINED'
    and e.created >= since and e.created < until
  order by e.is_last desc, e.created desc, e.place desc, e.id desc limit 1;
  if not found then
    state := fetched;
    state_at := nullif(since, '-infinity');
    is_last := false;
    return;
  end if;
  state_at := newest.created;
  is_last := newest.is_last;
  if is_last or not newest.is_chained or newest.times = 1 then
    state := newest.state;
    if not is_last and newest.times > 1 then
      -- The order of statuses is no evidence where a failed payment is tried again within the second.
      is_certain := (
        select count(distinct e.state ->> 'status') from public.stripe_events e
        where e.object_id = object and e.created = state_at and e.state is not null and e.status <> 'QUARANTINED'
          and e.place > 0 and e.object_type in ('payment_intent', 'setup_intent')
      ) <= 1;
    end if;
    return;
  end if;
  with happened as (
    select e.state, e.before, e.place from public.stripe_events e
    where e.object_id = object and e.created = state_at and e.state is not null and e.status <> 'QUARANTINED'
  ), steps as (
    select h.state, 1 as step from happened h where h.before is not null
    union all
    select h.state || h.before, -1 from happened h where h.before is not null
    union all
    select h.state, 0 from happened h where h.before is null and h.place > 0
  ), states as (
    select s.state, sum(s.step) as surplus, bool_or(s.step <> 0) as is_linked from steps s group by s.state
  ), ranked as (
    -- Among several prefer a state that no other event leads away from.
    select s.*, exists (
      select from happened h where h.before is not null and s.state @> h.before and h.state <> s.state
    ) as is_left from states s
  )
  select (select h.state from happened h where h.before is null and h.place = 0 limit 1),
    array_agg(r.state order by r.is_left, r.surplus desc, (r.state ->> 'period_end')::bigint desc nulls last, r.state desc)
      filter (where r.surplus > 0),
    array_agg(r.state order by r.is_left, (r.state ->> 'period_end')::bigint desc nulls last, r.state desc),
    count(*) filter (where not r.is_linked)
  into beginning, entered, touched, unplaced
  from ranked r;
  if touched is null then
    state := beginning;
  elsif cardinality(entered) = 1 and unplaced = 0 or entered is null and cardinality(touched) = 1 then
    state := (coalesce(entered, touched))[1];
  else
    if entered is null and unplaced = 0 then
      state := coalesce(beginning, (select f.state from private.fold_stripe_object(object, state_at) f));
    end if;
    if state is null or not state = any (touched) then
      state := (coalesce(entered, touched))[1];
      is_certain := false;
    end if;
  end if;
end $$;
comment on function private.fold_stripe_object(text, timestamptz) is
  'The state of an object by all its events before a moment. Not certain: events are missing and allow more than one state.';

create function private.lock_stripe(variadic keys text[]) returns void
language plpgsql set search_path = '' as $$
declare
  key text;
begin
  foreach key in array keys loop
    if key is not null then
      perform pg_advisory_xact_lock(hashtextextended('stripe:' || key, 0));
    end if;
  end loop;
end $$;
comment on function private.lock_stripe(text[]) is
  'Locks a customer, then an object, for this transaction. Always in this order, and before any row is locked.';

create function private.place_stripe_event(
  event public.stripe_events, out object public.stripe_objects, out is_changed boolean
) language plpgsql set search_path = '' as $$
declare
  known public.stripe_objects;
  folded record;
  others record;
begin
  select * into known from public.stripe_objects o where o.id = event.object_id;
  select count(*) filter (where e.created >= event.created or e.is_last) as newer,
    count(*) filter (where e.created = known.state_at) as of_last_second into others
  from public.stripe_events e
  where e.object_id = event.object_id and e.id <> event.id and e.created >= coalesce(known.state_at, '-infinity');
  if known.in_doubt_since is null and not event.is_last
    and (known.is_last or event.created < known.state_at and others.of_last_second <= 1)
  then
    -- An outdated event: the end of the object, or the only event of its last second, decides.
    object := known;
    is_changed := known.customer_id is null and event.customer_id is not null;
    if is_changed then
      update public.stripe_objects o set customer_id = event.customer_id where o.id = known.id returning o.* into object;
    end if;
    return;
  elsif others.newer = 0
    and (known.id is null or not known.is_last and known.in_doubt_since is null and event.created > known.state_at)
  then
    -- The newest event: its state is the state of the object.
    select event.state as state, event.created as state_at, event.is_last as is_last, true as is_certain into folded;
  else
    folded := private.fold_stripe_object(event.object_id, 'infinity');
  end if;
  if known.id is null then
    insert into public.stripe_objects as o (id, type, customer_id, state, state_at, is_last, in_doubt_since)
    values (event.object_id, event.object_type, event.customer_id, folded.state, folded.state_at, folded.is_last,
      case when not folded.is_certain then now() end)
    returning o.* into object;
    is_changed := true;
    return;
  end if;
  object := known;
  is_changed := (known.state, known.state_at, known.is_last, known.in_doubt_since is null)
    is distinct from (folded.state, folded.state_at, folded.is_last, folded.is_certain)
    or coalesce(event.customer_id <> known.customer_id, event.customer_id is not null);
  if is_changed then
    update public.stripe_objects o set
      customer_id = coalesce(event.customer_id, o.customer_id), state = folded.state, state_at = folded.state_at,
      is_last = folded.is_last, in_doubt_since = case when not folded.is_certain then coalesce(o.in_doubt_since, now()) end
    where o.id = event.object_id returning o.* into object;
  end if;
end $$;
comment on function private.place_stripe_event(public.stripe_events) is
  'Folds the events of an object after one of them was stored in the inbox.';

-- Settling one object --------------------------------------------------------------------------------------------------

create function private.try_stripe_object(object public.stripe_objects, out missing text, out failure text)
language plpgsql set search_path = '' as $$
begin
  missing := private.settle_and_note(object);
exception when others then
  -- The caller retries what a retry may cure. Any other error is kept and shown, and the job retries it: a delivery that
  -- fails for days would delay everything Stripe sends after it.
  if sqlstate ~ '^(40|53|55|57|58)' then
    raise;
  end if;
  failure := format('%s (%s)', sqlerrm, sqlstate);
  update public.stripe_events e set status = 'RECEIVED', applied_at = null, error = failure, attempts = e.attempts + 1
  where e.object_id = object.id and (e.status in ('RECEIVED', 'PARKED') or e.id = (
    select l.id from public.stripe_events l
    where l.object_id = object.id and l.status = 'APPLIED' order by l.created_at desc, l.id desc limit 1
  ));
end $$;
comment on function private.try_stripe_object(public.stripe_objects) is
  'Settles an object. What is missing parks its events; an error is noted on the newest event.';

-- Becoming known ------------------------------------------------------------------------------------------------------
-- A deferred trigger settles waiting objects at the end of the transaction that saves a customer, price or payment.

create function private.wake_stripe(key text) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  waiting public.stripe_objects;
  result record;
  settled bigint := 0;
begin
  -- Parking for this key takes the same lock: it is visible here, or sees what this transaction has written.
  perform private.lock_stripe(key);
  delete from private.foreign_stripe_keys f where f.key = wake_stripe.key;
  for waiting in select * from public.stripe_objects o where o.waits_for = key or o.id = key order by o.id loop
    perform private.lock_stripe(waiting.id);
    select * into waiting from public.stripe_objects o where o.id = waiting.id;
    result := private.try_stripe_object(waiting);
    settled := settled + (result.missing is null and result.failure is null)::integer;
  end loop;
  return settled;
end $$;
comment on function private.wake_stripe(text) is 'Settles what waited for a customer, price or payment to become known.';

create function private.wake_by_customer() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  object public.stripe_objects;
begin
  perform private.wake_stripe(new.stripe_customer_id);
  -- Objects of an onboarding wait for nothing, and had no organization until now.
  for object in
    select * from public.stripe_objects o
    where o.customer_id = new.stripe_customer_id and o.type in ('subscription', 'invoice') order by o.type, o.id
  loop
    perform private.try_stripe_object(object);
  end loop;
  return null;
end $$;
comment on function private.wake_by_customer() is 'An organization gets the subscriptions and invoices of its customer at Stripe.';
create constraint trigger wake_by_customer_on_insert after insert on public.organizations
  deferrable initially deferred
  for each row when (new.stripe_customer_id is not null) execute function private.wake_by_customer();
create constraint trigger wake_by_customer after update of stripe_customer_id on public.organizations
  deferrable initially deferred
  for each row when (new.stripe_customer_id is not null and new.stripe_customer_id is distinct from old.stripe_customer_id)
  execute function private.wake_by_customer();

create function private.wake_by_price() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.wake_stripe(new.stripe_price_id);
  return null;
end $$;
comment on function private.wake_by_price() is 'Subscriptions to a price that was unknown get their plan.';
create constraint trigger wake_by_price after insert or update on private.plan_prices
  deferrable initially deferred for each row execute function private.wake_by_price();

create function private.wake_by_onboarding() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.wake_stripe(k) from (
    select k from unnest(array[new.stripe_customer_id, new.stripe_subscription_id, new.stripe_payment_intent_id])
      with ordinality t (k, n) where k is not null order by n
  ) t;
  return null;
end $$;
comment on function private.wake_by_onboarding() is
  'A session gets the events of its payment that arrived before its ids were saved.';
create constraint trigger wake_by_onboarding
  after update of stripe_customer_id, stripe_subscription_id, stripe_payment_intent_id on public.onboarding_sessions
  deferrable initially deferred
  for each row when (
    (new.stripe_customer_id, new.stripe_subscription_id, new.stripe_payment_intent_id)
      is distinct from (old.stripe_customer_id, old.stripe_subscription_id, old.stripe_payment_intent_id)
  ) execute function private.wake_by_onboarding();

-- The inbox -----------------------------------------------------------------------------------------------------------

create function private.apply_stripe_event(event public.stripe_events, stored text[], again boolean default false)
returns "StripeEventStatus" language plpgsql set search_path = '' as $$
declare
  placed record;
  object public.stripe_objects;
  result record;
begin
  placed := private.place_stripe_event(event);
  object := placed.object;
  -- An outdated event changes nothing, except the history: since when a payment is late, and the plan a subscription had.
  if not (placed.is_changed or again or object.is_last) and object.waits_for is null
    and object.state ->> 'status' is distinct from 'past_due'
  then
    return 'APPLIED';
  end if;
  result := private.try_stripe_object(object);
  if result.failure is not null then
    return 'RECEIVED';
  end if;
  if result.missing is not null then
    if exists (select from private.foreign_stripe_keys f where f.key = result.missing) then
      update public.stripe_events e set status = 'IGNORED', applied_at = null, error = null
      where e.object_id = event.object_id and e.id = any (stored || event.id);
      return 'IGNORED';
    end if;
    update public.stripe_events e
    set status = 'PARKED', applied_at = null, attempts = e.attempts + 1, error = private.why_parked(result.missing)
    where e.object_id = event.object_id and e.id = any (stored || event.id);
    return 'PARKED';
  end if;
  if object.type = 'payment_intent' then
    perform private.wake_stripe(object.id)
    where exists (select from public.stripe_objects o where o.waits_for = object.id and o.id <> object.id);
  end if;
  return 'APPLIED';
end $$;
comment on function private.apply_stripe_event(public.stripe_events, text[], boolean) is
  'Applies an event of the inbox, and those stored with it about the same object; the caller holds the locks. An unknown '
  'customer or price parks them; no event fails a delivery.';

create function private.reapply_stripe_event(event public.stripe_events, stored text[] default '{}') returns "StripeEventStatus"
language plpgsql set search_path = '' as $$
begin
  perform private.lock_stripe(event.customer_id, event.object_id);
  update public.stripe_events e set status = 'APPLIED', applied_at = now(), error = null
  where e.id = event.id and e.status <> 'APPLIED';
  return private.apply_stripe_event(event, stored, again => true);
end $$;
comment on function private.reapply_stripe_event(public.stripe_events, text[]) is 'Retries an event that was not applied.';

create function private.receive_stripe_events(deliveries jsonb) returns jsonb
language plpgsql security definer set search_path = '' set plan_cache_mode = force_generic_plan
  set enable_seqscan = off as $$
declare
  live boolean := (deliveries #>> '{0,expected_livemode}')::boolean;
  ids text[];
  customers text[];
  keys text[];
  event public.stripe_events;
  stored text[];
begin
  if (select a.livemode from private.stripe_account a) is distinct from live then
    insert into private.stripe_account (livemode) values (live) on conflict (id) do update set livemode = live;
  end if;
  select array_agg(d ->> 'id' order by n) into ids from jsonb_array_elements(deliveries) with ordinality o (d, n);
  select array_agg(distinct d ->> 'customer_id'), array_agg(distinct d ->> 'object_id') || array(
      select distinct i ->> 'price'
      from jsonb_array_elements(deliveries) p, jsonb_array_elements(p #> '{state,items}') i
      where not exists (select from private.plan_prices k where k.stripe_price_id = i ->> 'price')
    )
    -- A discount and its coupon that arrive together: the later one has to see the earlier one.
    || array(select distinct d #>> '{state,coupon}' from jsonb_array_elements(deliveries) d where d #>> '{state,coupon}' is not null)
    -- Payments of invoices, refunds, disputes and prices do not name a customer, but what they are about.
    || array(
      select distinct n.key from jsonb_array_elements(deliveries) d,
        unnest(array['invoice', 'payment_intent', 'charge', 'product']) w (what)
      cross join lateral (select d -> 'state' ->> w.what as key) n where d ->> 'customer_id' is null and n.key is not null
    )
  into customers, keys
  from jsonb_array_elements(deliveries) d
  where d ->> 'object_type' is not null and (d ->> 'livemode')::boolean = live;
  if keys is not null then
    -- Work on a session locks its row, then the customer at its end: the same order here.
    perform from public.onboarding_sessions s
    where s.stripe_customer_id = any (customers) and not s.is_completed order by s.id for update;
    -- Always in the same order, so that two batches do not wait for each other.
    perform private.lock_stripe(variadic array(select k from unnest(customers) k where k is not null order by k)
      || array(select k from unnest(keys) k where k <> all (array_remove(customers, null)) order by k));
    -- A transaction that is saving these ids right now was not visible above. This one steps back and is retried.
    perform set_config('lock_timeout', '100ms', true);
  end if;
  with inserted as (
    insert into public.stripe_events (
      id, type, object_id, object_type, customer_id, created, api_version, livemode, payload, state, before, place,
      is_chained, is_last, status, applied_at, error
    )
    -- Stored as applied, so that nearly every event is written once.
    select d ->> 'id', d ->> 'type', d ->> 'object_id', d ->> 'object_type', d ->> 'customer_id',
      to_timestamp((d ->> 'created')::bigint), d ->> 'api_version', k.livemode, d -> 'payload', nullif(d -> 'state', 'null'),
      nullif(d -> 'before', 'null'), coalesce((d ->> 'place')::integer, 0), coalesce((d ->> 'is_chained')::boolean, false),
      coalesce((d ->> 'is_last')::boolean, false),
      case when k.livemode <> live then 'QUARANTINED' when d ->> 'object_type' is null then 'IGNORED'
        else 'APPLIED' end::public."StripeEventStatus",
      case when k.livemode = live and d ->> 'object_type' is not null then now() end,
      case when k.livemode <> live then
        format('It is of %s, and this is %s.', case when live then 'test mode' else 'live mode' end,
          case when live then 'live mode' else 'test mode' end) end
    from jsonb_array_elements(deliveries) d
    cross join lateral (select (d ->> 'livemode')::boolean as livemode) k
    on conflict (id) do nothing returning id
  )
  select array_agg(i.id) into stored from inserted i;
  -- One fold and one settlement for each object; a duplicate that is still to be applied is retried.
  for event in
    select distinct on (e.object_id) e.id, e.type, e.object_id, e.object_type, e.customer_id, e.created, e.api_version,
      e.livemode, null::jsonb, e.state, e.before, e.place, e.is_chained, e.is_last, e.status, e.attempts, e.error,
      e.applied_at, e.redacted_at, e.created_at, e.updated_at
    from public.stripe_events e
    where e.id = any (ids) and e.livemode = live and e.object_type is not null
      and (e.id = any (stored) or e.status in ('RECEIVED', 'QUARANTINED'))
    order by e.object_id, e.status <> 'APPLIED' desc, e.is_last desc, e.created desc, e.id
  loop
    if event.status = 'APPLIED' then
      perform private.apply_stripe_event(event, stored);
    else
      perform private.reapply_stripe_event(event, stored);
    end if;
  end loop;
  return (
    select jsonb_agg(jsonb_build_object(
      'id', e.id, 'status', e.status,
      'duplicate', not coalesce(e.id = any (stored), false) or array_position(ids, e.id) < d.n
    ) order by d.n)
    from unnest(ids) with ordinality d (id, n)
    cross join lateral (select * from public.stripe_events s where s.id = d.id limit 1) e
  );
end $$;
comment on function private.receive_stripe_events(jsonb) is
  'Stores events once and applies them in the same transaction, all or none: one locking pass, one insert, one fold and one '
  'settlement for each object. The caller has verified Stripe''s signature.';

create function private.receive_stripe_event(delivery jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  select private.receive_stripe_events(jsonb_build_array(delivery)) -> 0
$$;
comment on function private.receive_stripe_event(jsonb) is 'Receives one event.';
grant execute on function private.receive_stripe_event(jsonb), private.receive_stripe_events(jsonb) to strive_functions;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.stripe_objects enable row level security;
create policy "platform admins see what Stripe has" on public.stripe_objects for select to authenticated
  using ((select private.is_admin()));
grant select on public.stripe_objects to authenticated;
grant all on public.stripe_objects to service_role;

-- The job -------------------------------------------------------------------------------------------------------------

-- Parked events are redacted too: applying them needs only their state.
create function private.redact_stripe_events() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  redacted bigint;
begin
  update public.stripe_events e set payload = null, redacted_at = now(), state = e.state - '{url,pdf}'::text[],
    error = case when e.status in ('PARKED', 'QUARANTINED') then e.error end
  where e.id in (
    select o.id from public.stripe_events o
    where o.redacted_at is null and o.created_at <= now() - interval '90 days'
    order by o.created_at limit 10000 for update skip locked
  );
  get diagnostics redacted = row_count;
  return redacted;
end $$;
comment on function private.redact_stripe_events() is 'Deletes the payload of events 90 days after their delivery.';
grant execute on function private.redact_stripe_events() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('redact_stripe_events', '37 * * * *', 'private.redact_stripe_events', 'Delete the payload of old events of Stripe.');
