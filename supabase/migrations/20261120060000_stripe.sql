-- What Stripe says, and what becomes of it. Events come in any order, twice, late or never, and several of one second.
-- So none is a command: an event is evidence, kept in the inbox; the state of an object is the fold of its evidence, and
-- what we do about the object follows from that state alone. Whatever came first, it ends the same.

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
  waits_for text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "fetched and fetched_at belong together" check ((fetched is null) = (fetched_at is null))
);
comment on table public.stripe_objects is 'Subscriptions, payments, prices … of Stripe, as the events say they are now.';
comment on column public.stripe_objects.state is 'In words of ours, see shared/billing/objects.py; nothing personal.';
comment on column public.stripe_objects.state_at is 'The second in which it became so.';
comment on column public.stripe_objects.is_last is 'Nothing can happen to it any more.';
comment on column public.stripe_objects.fetched is 'What Stripe itself answered when asked; events of before do not count.';
comment on column public.stripe_objects.in_doubt_since is
  'Since when its events allow more than one state; the reconciliation asks Stripe.';
comment on column public.stripe_objects.waits_for is
  'The customer, price or payment that has to become known before anything can be done about it.';
create index stripe_objects_customer_idx on public.stripe_objects (customer_id, type);
create index stripe_objects_waiting_idx on public.stripe_objects (waits_for) where waits_for is not null;
create index stripe_objects_in_doubt_idx on public.stripe_objects (in_doubt_since) where in_doubt_since is not null;
create trigger touch before update on public.stripe_objects for each row execute function private.touch_updated_at();

create table private.stripe_account (
  id boolean primary key default true constraint "there is one account" check (id),
  livemode boolean not null,
  listed_until timestamptz,
  compared_at timestamptz
);
comment on table private.stripe_account is 'What is known of our account at Stripe.';
comment on column private.stripe_account.livemode is 'Whether the functions work with real money; other events are quarantined.';
comment on column private.stripe_account.listed_until is 'All events of before were asked for.';
comment on column private.stripe_account.compared_at is 'When all subscriptions were last compared.';

-- The fold ------------------------------------------------------------------------------------------------------------
-- `created` has whole seconds, so the events of the last second have to be put in order. Each `updated` says what was
-- before: it leads from one state to another. Along any way through all of them, every state is entered as often as it is
-- left, but for the first and the last. So the last is the one entered once more than left; no way has to be searched.
-- Where a way is a circle (on, off), it ends where it began: in the state at the end of the second before.

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
  -- Its end, if it has come, whatever is told of later; else what the last second tells, and how often.
  select e.state, e.created, e.is_last, e.object_type in ('subscription', 'customer', 'product', 'price') as is_chained,
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
      -- How far along says nothing where a payment that failed is tried again within the second.
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
    -- Should there be several: rather one that no other event is known to lead away from.
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
  'The state of an object by all its events before a moment. Not certain: events are missing, and more than one is possible.';

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
  'One transaction at a time works on a customer, then on an object. Taken in this order, and before any row is locked.';

create function private.place_stripe_event(
  event public.stripe_events, out object public.stripe_objects, out is_changed boolean
) language plpgsql set search_path = '' as $$
declare
  known public.stripe_objects;
  folded record;
begin
  select * into known from public.stripe_objects o where o.id = event.object_id;
  if known.id is not null and not known.is_last and known.in_doubt_since is null and event.created > known.state_at
    or known.id is null and not exists (
      select from public.stripe_events e where e.object_id = event.object_id and e.id <> event.id
    )
  then
    -- Later than all that is known: what it shows is so.
    select event.state as state, event.created as state_at, event.is_last as is_last, true as is_certain into folded;
  else
    folded := private.fold_stripe_object(event.object_id, 'infinity');
  end if;
  insert into public.stripe_objects as o (id, type, customer_id, state, state_at, is_last, in_doubt_since)
  values (event.object_id, event.object_type, event.customer_id, folded.state, folded.state_at, folded.is_last,
    case when not folded.is_certain then now() end)
  on conflict (id) do update set
    customer_id = coalesce(excluded.customer_id, o.customer_id), state = excluded.state, state_at = excluded.state_at,
    is_last = excluded.is_last,
    in_doubt_since = case when excluded.in_doubt_since is not null then coalesce(o.in_doubt_since, now()) end
  where (o.state, o.state_at, o.is_last, o.in_doubt_since is null) is distinct from
    (excluded.state, excluded.state_at, excluded.is_last, excluded.in_doubt_since is null)
    or excluded.customer_id <> o.customer_id or o.customer_id is null and excluded.customer_id is not null
  returning o.* into object;
  is_changed := found;
  if not is_changed then
    object := known;
  end if;
end $$;
comment on function private.place_stripe_event(public.stripe_events) is
  'Brings the object of an event, which is in the inbox already, to the state that all its events make.';

-- Subscriptions -------------------------------------------------------------------------------------------------------

create table private.subscription_statuses (
  stripe_status text primary key,
  status "SubscriptionStatus" not null,
  meaning text not null
);
comment on table private.subscription_statuses is 'What a status at Stripe is here. One that is not listed is INACTIVE.';
insert into private.subscription_statuses (stripe_status, status, meaning) values
  ('trialing', 'TRIAL', 'nothing to be paid yet'),
  ('active', 'ACTIVE', 'paid; also one that ends with its period, until then'),
  ('past_due', 'PAST_DUE', 'Stripe tries again to get the payment: the tier is kept meanwhile'),
  ('unpaid', 'INACTIVE', 'Stripe has given up; paying revives it'),
  ('paused', 'INACTIVE', 'a trial ended without a way to pay'),
  ('incomplete', 'INACTIVE', 'the first payment has not arrived'),
  ('incomplete_expired', 'INACTIVE', 'the first payment never arrived'),
  ('canceled', 'CANCELLED', 'over');

create function private.payment_grace() returns interval language sql immutable set search_path = '' as $$
  select interval '30 days'
$$;
comment on function private.payment_grace() is
  'How long a tier is kept while Stripe tries to get a payment. Stripe gives up by itself, usually after two weeks; this '
  'is the bound if it is told to try for longer.';

create function private.plan_of(subscription public.stripe_objects) returns public.plans
language plpgsql stable set search_path = '' as $$
declare
  plan public.plans;
begin
  select p.* into plan
  from jsonb_array_elements(subscription.state -> 'items') with ordinality i (item, n)
  join public.plans p on p.stripe_price_id = i.item ->> 'price' order by i.n limit 1;
  return plan;
end $$;
comment on function private.plan_of(public.stripe_objects) is 'The plan whose price is paid; null if none of its prices is known.';

create function private.past_due_since(subscription public.stripe_objects) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
  return coalesce((
    select min(greatest(e.created, e.created_at - interval '3 days')) from public.stripe_events e
    where e.object_id = subscription.id and e.state ->> 'status' = 'past_due' and e.status <> 'QUARANTINED'
      and e.created > coalesce((
        select max(o.created) from public.stripe_events o
        where o.object_id = subscription.id and o.state ->> 'status' <> 'past_due' and o.status <> 'QUARANTINED'
      ), '-infinity')
  ), subscription.state_at);
end $$;
comment on function private.past_due_since(public.stripe_objects) is
  'Since when a subscription has been past due, without a break; at the earliest three days before that was first told: '
  'Stripe delivers for so long, and nobody loses a plan over a payment they could not hear of.';

create function private.subscription_of(object public.stripe_objects, org uuid) returns public.subscriptions
language plpgsql stable set search_path = '' as $$
declare
  told jsonb := object.state;
  plan public.plans := private.plan_of(object);
  deleted_at timestamptz := (
    select c.state_at from public.stripe_objects c
    where c.id = object.customer_id and c.type = 'customer' and (c.state ->> 'deleted')::boolean
      and c.state_at >= object.state_at
  );
  made public.subscriptions;
begin
  if plan.id is null then
    -- A price nobody knows: the plan it had before, if it had one.
    select p.* into plan
    from public.stripe_events e, jsonb_array_elements(e.state -> 'items') i
    join public.plans p on p.stripe_price_id = i ->> 'price'
    where e.object_id = object.id and e.status <> 'QUARANTINED'
    order by e.created desc, e.id desc limit 1;
    if plan.id is null then
      return null;
    end if;
  end if;
  made.organization_id := org;
  made.stripe_subscription_id := object.id;
  made.stripe_customer_id := object.customer_id;
  made.status := case when deleted_at is not null then 'CANCELLED' else coalesce(
    (select s.status from private.subscription_statuses s where s.stripe_status = told ->> 'status'), 'INACTIVE'
  ) end;
  made.tier := plan.tier;
  made.billing_cycle := plan.billing_cycle;
  made.amount_cents := coalesce((
    select (i ->> 'amount')::bigint * coalesce((i ->> 'quantity')::bigint, 1)
    from jsonb_array_elements(told -> 'items') i where i ->> 'price' = plan.stripe_price_id limit 1
  ), plan.amount_cents);
  made.current_period_start := coalesce(
    to_timestamp((told ->> 'period_start')::bigint), to_timestamp((told ->> 'started')::bigint), object.state_at
  );
  made.current_period_end := to_timestamp((told ->> 'period_end')::bigint);
  if made.current_period_end is null or made.current_period_end <= made.current_period_start then
    made.current_period_end := made.current_period_start
      + case plan.billing_cycle when 'YEARLY' then interval '1 year' else interval '1 month' end;
  end if;
  made.cancel_at_period_end := (told ->> 'cancel_at_period_end')::boolean or told ->> 'cancel_at' is not null;
  if made.status = 'CANCELLED' then
    made.cancelled_at := coalesce(
      to_timestamp((told ->> 'ended_at')::bigint), to_timestamp((told ->> 'canceled_at')::bigint), deleted_at,
      object.state_at
    );
  elsif made.status = 'PAST_DUE' then
    made.past_due_since := private.past_due_since(object);
    if made.past_due_since <= now() - private.payment_grace() then
      made.status := 'INACTIVE';
    end if;
  end if;
  return made;
end $$;
comment on function private.subscription_of(public.stripe_objects, uuid) is
  'What a subscription at Stripe is here; null if no plan has ever had its price.';

-- One subscription of an organisation is live. If Stripe has several, one that is paid, then the newest counts; the others
-- are INACTIVE here, and shown to be ended there.
create function private.settle_subscriptions(customer text, org uuid) returns void
language plpgsql set search_path = '' as $$
declare
  wanted record;
  made public.subscriptions;
begin
  -- As the trigger of subscriptions does: whoever settles later sees what the one before has written.
  perform from public.organizations o where o.id = org for no key update;
  for wanted in
    select m as made, l.is_live and (
      -- One that was made by hand counts before those of Stripe.
      exists (
        select from public.subscriptions s
        where s.organization_id = org and s.status in ('TRIAL', 'ACTIVE', 'PAST_DUE')
          and s.tier <> 'FREE' and not exists (select from public.stripe_objects o where o.id = s.stripe_subscription_id)
      )
      or row_number() over (
        partition by l.is_live
        order by m.status <> 'PAST_DUE' desc, (o.state ->> 'started')::bigint desc nulls last, o.id desc
      ) > 1
    ) as is_doubled,
    l.is_live and exists (
      select from public.subscriptions s
      where s.organization_id = org and s.status in ('TRIAL', 'ACTIVE', 'PAST_DUE') and s.tier = 'FREE'
    ) as was_free
    from public.stripe_objects o
    cross join lateral private.subscription_of(o, org) m
    cross join lateral (select m.status in ('TRIAL', 'ACTIVE', 'PAST_DUE') as is_live) l
    where o.customer_id = customer and o.type = 'subscription' and m.stripe_subscription_id is not null
      -- Its events still wait for the first payment, which is known to have come: it was written with that.
      and not (o.state ->> 'status' = 'incomplete' and exists (
        select from private.onboarding_payments p where p.stripe_subscription_id = o.id and p.status = 'SUCCEEDED'
      ))
    -- The one that is live last: it may take the place of another.
    order by l.is_live, 2 desc
  loop
    made := wanted.made;
    if wanted.is_doubled then
      made.status := 'INACTIVE';
    elsif wanted.was_free then
      update public.subscriptions s set status = 'CANCELLED', cancelled_at = now()
      where s.organization_id = org and s.tier = 'FREE' and s.status in ('TRIAL', 'ACTIVE', 'PAST_DUE');
    end if;
    insert into public.subscriptions as s (
      organization_id, stripe_subscription_id, stripe_customer_id, status, tier, billing_cycle, amount_cents,
      current_period_start, current_period_end, cancel_at_period_end, cancelled_at, past_due_since
    ) values (
      org, made.stripe_subscription_id, made.stripe_customer_id, made.status, made.tier, made.billing_cycle,
      made.amount_cents, made.current_period_start, made.current_period_end, made.cancel_at_period_end,
      made.cancelled_at, made.past_due_since
    )
    on conflict (stripe_subscription_id) do update set
      stripe_customer_id = excluded.stripe_customer_id, status = excluded.status, tier = excluded.tier,
      billing_cycle = excluded.billing_cycle, amount_cents = excluded.amount_cents,
      current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
      cancel_at_period_end = excluded.cancel_at_period_end, cancelled_at = excluded.cancelled_at,
      past_due_since = excluded.past_due_since
    where (s.stripe_customer_id, s.status, s.tier, s.billing_cycle, s.amount_cents, s.current_period_start,
      s.current_period_end, s.cancel_at_period_end, s.cancelled_at, s.past_due_since)
      is distinct from (excluded.stripe_customer_id, excluded.status, excluded.tier, excluded.billing_cycle,
      excluded.amount_cents, excluded.current_period_start, excluded.current_period_end, excluded.cancel_at_period_end,
      excluded.cancelled_at, excluded.past_due_since);
  end loop;
end $$;
comment on function private.settle_subscriptions(text, uuid) is
  'Brings the subscriptions of an organisation to what its customer''s objects at Stripe say.';

create function private.tell_owners() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  was_live boolean := tg_op = 'UPDATE' and old.status in ('TRIAL', 'ACTIVE', 'PAST_DUE');
  is_live boolean := new.status in ('TRIAL', 'ACTIVE', 'PAST_DUE');
  plan text := initcap(new.tier::text);
  ends text := to_char(new.current_period_end at time zone 'UTC', 'YYYY-MM-DD');
  told record;
begin
  select t.* into told from (values
    (is_live and not was_live and new.status <> 'PAST_DUE', 'SUCCESS', format('Your plan is %s', plan),
      'Everything it includes can be used from now on.'),
    (was_live and not is_live and old.tier <> 'FREE', 'WARNING', format('Your %s plan has ended', plan),
      case when new.past_due_since is not null then 'The payment did not arrive. ' else '' end
        || 'The organisation is FREE now; what it has is kept.'),
    (is_live and new.status = 'PAST_DUE' and (tg_op = 'INSERT' or old.status <> 'PAST_DUE'), 'ERROR',
      'A payment failed',
      format('The %s plan is kept while the payment is tried again, until %s at the latest. Please check how you pay.',
        plan, to_char((new.past_due_since + private.payment_grace()) at time zone 'UTC', 'YYYY-MM-DD'))),
    (was_live and is_live and new.tier <> old.tier, 'INFO', format('Your plan is %s now', plan),
      format('It was %s.', case when tg_op = 'UPDATE' then initcap(old.tier::text) end)),
    (is_live and new.cancel_at_period_end and not (tg_op = 'UPDATE' and old.cancel_at_period_end), 'INFO',
      format('Your %s plan ends on %s', plan, ends), 'Until then nothing changes; afterwards the organisation is FREE.'),
    (was_live and is_live and old.cancel_at_period_end and not new.cancel_at_period_end, 'INFO',
      format('Your %s plan goes on', plan), format('It is renewed on %s.', ends)),
    (was_live and is_live and old.status = 'PAST_DUE' and new.status <> 'PAST_DUE', 'SUCCESS', 'The payment has arrived',
      format('The %s plan goes on.', plan))
  ) t (happened, type, title, message) where t.happened limit 1;
  if told.title is not null then
    perform private.notify(
      new.organization_id,
      array(
        select m.user_id from public.organization_members m
        where m.organization_id = new.organization_id and m.role = 'OWNER'
      ),
      told.type::public."NotificationType", told.title, told.message, '/settings/billing', 'subscription', new.id
    );
  end if;
  return null;
end $$;
comment on function private.tell_owners() is 'Owners hear when the plan begins, changes or ends, and when a payment fails.';
create trigger tell_owners
  after insert or update of status, tier, cancel_at_period_end on public.subscriptions
  for each row execute function private.tell_owners();

create function private.tell_owners_of_card() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.notify(
    o.id, array(select m.user_id from public.organization_members m where m.organization_id = o.id and m.role = 'OWNER'),
    'ERROR', 'A card could not be saved', 'What is due next cannot be paid with it. Please check how you pay.',
    '/settings/billing', 'organization', o.id
  ) from public.organizations o where o.stripe_customer_id = new.customer_id;
  return null;
end $$;
comment on function private.tell_owners_of_card() is 'Owners hear when a card for later payments is refused.';
create trigger tell_owners_of_card
  after insert or update of state on public.stripe_objects
  for each row when (new.type = 'setup_intent' and (new.state ->> 'failed')::boolean
    and new.state ->> 'status' = 'requires_payment_method')
  execute function private.tell_owners_of_card();

-- Payments of onboarding ----------------------------------------------------------------------------------------------

-- All that is known of a payment, not what one event says: events come in any order. That it has succeeded is the word of
-- the payment itself or of its invoice, which name the amount.
create function private.seen_payment(object public.stripe_objects) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  subscription public.stripe_objects;
  invoice public.stripe_objects;
  payment public.stripe_objects;
  named text := case object.type when 'subscription' then object.id else object.state ->> 'subscription' end;
begin
  if named is null and object.type = 'payment_intent' then
    select o.state ->> 'subscription' into named from public.stripe_objects o
    where o.customer_id = object.customer_id and o.type = 'invoice'
      and (o.state ->> 'payment_intent' = object.id or o.id = object.state ->> 'invoice') limit 1;
  end if;
  select * into subscription from public.stripe_objects o where o.id = named and o.type = 'subscription';
  -- The first invoice is the one that is paid here.
  select * into invoice from public.stripe_objects o
  where o.customer_id = object.customer_id and o.type = 'invoice' and o.state ->> 'subscription' = named
  order by o.state ->> 'reason' = 'subscription_create' desc nulls last, o.state_at, o.id limit 1;
  select * into payment from public.stripe_objects o
  where o.type = 'payment_intent' and o.id = case object.type
    when 'payment_intent' then object.id
    else coalesce(invoice.state ->> 'payment_intent', (
      select s.stripe_payment_intent_id from public.onboarding_sessions s where s.stripe_subscription_id = named
    )) end;
  return jsonb_strip_nulls(jsonb_build_object(
    'session_id', coalesce(subscription.state ->> 'session', invoice.state ->> 'session'),
    'attempt', coalesce(subscription.state ->> 'attempt', invoice.state ->> 'attempt'),
    'tier', coalesce(subscription.state ->> 'tier', invoice.state ->> 'tier'),
    'customer', object.customer_id,
    'subscription', named,
    'subscription_status', subscription.state -> 'status',
    'price', subscription.state #> '{items,0,price}',
    'quantity', subscription.state #> '{items,0,quantity}',
    'period_start', subscription.state -> 'period_start',
    'period_end', subscription.state -> 'period_end',
    'payment_intent', coalesce(payment.id, invoice.state ->> 'payment_intent'),
    'payment_status', case
      when payment.state ->> 'status' = 'succeeded' or invoice.state ->> 'status' = 'paid' then 'SUCCEEDED'
      when payment.state ->> 'status' = 'canceled' or invoice.state ->> 'status' = 'void' then 'CANCELLED'
      when payment.state ->> 'status' = 'requires_action' then 'REQUIRES_ACTION'
      when payment.state ->> 'status' in ('processing', 'requires_capture') then 'PROCESSING'
      when (payment.state ->> 'failed')::boolean then 'FAILED'
      when payment.id is not null then 'PENDING'
      when invoice.state ->> 'outcome' = 'payment_failed' then 'FAILED'
      when invoice.state ->> 'outcome' = 'payment_action_required' then 'REQUIRES_ACTION'
    end,
    'amount_cents', case
      when payment.state ->> 'status' = 'succeeded' then payment.state -> 'amount_received'
      when invoice.state ->> 'status' = 'paid' then invoice.state -> 'amount_paid'
      else coalesce(payment.state -> 'amount', invoice.state -> 'amount_due')
    end,
    'currency', coalesce(payment.state -> 'currency', invoice.state -> 'currency'),
    'refunded', (
      select true from public.stripe_objects o
      where o.customer_id = object.customer_id and o.type = 'charge' and (o.state ->> 'refunded')::boolean
        and o.state ->> 'payment_intent' = coalesce(payment.id, invoice.state ->> 'payment_intent') limit 1
    )
  ));
end $$;
comment on function private.seen_payment(public.stripe_objects) is
  'What follow_onboarding_payment() takes: a payment as everything Stripe told of it says it is.';

-- What follows from an object -----------------------------------------------------------------------------------------

create function private.settle_price(object public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
declare
  told jsonb := object.state;
  is_sold boolean := (told ->> 'active')::boolean and not exists (
    select from public.stripe_objects p where p.id = told ->> 'product' and not (p.state ->> 'active')::boolean
  );
  wanted_cycle public."BillingCycle" := case
    when told ->> 'every' = '1' then case told ->> 'interval' when 'month' then 'MONTHLY' when 'year' then 'YEARLY' end
  end;
  wanted_tier public."SubscriptionTier" := (
    select t from unnest(enum_range(null::public."SubscriptionTier")) t where t::text = upper(told ->> 'tier')
  );
begin
  if not exists (select from public.plans p where p.stripe_price_id = object.id) then
    if not is_sold or wanted_tier is null or wanted_tier = 'FREE' or wanted_cycle is null
      or coalesce((told ->> 'amount')::bigint, 0) = 0 or told ->> 'currency' !~ '^[a-z]{3}$'
    then
      return;
    end if;
    update public.plans p set stripe_price_id = object.id
    where p.tier = wanted_tier and p.billing_cycle = wanted_cycle and p.is_active and p.stripe_price_id is null
      and p.amount_cents = (told ->> 'amount')::bigint and p.currency = told ->> 'currency';
    if not found then
      -- Known, so that whoever pays it gets the tier; what everybody is offered does not change by this.
      insert into public.plans (tier, billing_cycle, stripe_price_id, amount_cents, currency, limits, is_active)
      select wanted_tier, wanted_cycle, object.id, (told ->> 'amount')::bigint, told ->> 'currency', p.limits, false
      from public.plans p where p.tier = wanted_tier and p.billing_cycle = wanted_cycle
      order by p.is_active desc, p.created_at desc, p.id limit 1;
    end if;
    return;
  end if;
  update public.plans p set is_active = is_sold
  where p.stripe_price_id = object.id and p.is_active <> is_sold and (not is_sold or p.tier <> 'ENTERPRISE'
    and p.amount_cents > 0 and not exists (
      select from public.plans o where o.tier = p.tier and o.billing_cycle = p.billing_cycle and o.is_active
    ));
end $$;
comment on function private.settle_price(public.stripe_objects) is
  'A price that names its tier in its metadata becomes a plan''s; one that is archived takes its plan off sale.';

create function private.link_customer(checkout public.stripe_objects) returns void
language sql set search_path = '' as $$
  update public.organizations o set stripe_customer_id = checkout.customer_id
  where o.id = (checkout.state ->> 'organization')::uuid and o.stripe_customer_id is null
    and checkout.state ->> 'status' = 'complete' and checkout.state ->> 'mode' = 'subscription'
    and checkout.state ->> 'payment_status' in ('paid', 'no_payment_required')
    and not exists (select from public.organizations other where other.stripe_customer_id = checkout.customer_id)
    and not exists (
      select from public.stripe_objects c
      where c.id = checkout.customer_id and c.type = 'customer' and (c.state ->> 'deleted')::boolean
    )
$$;
comment on function private.link_customer(public.stripe_objects) is
  'Who bought in a checkout that we made for an organisation is its customer, if it has none.';

create table private.former_customers (
  stripe_customer_id text primary key,
  organization_id uuid not null references public.organizations (id) on delete cascade,
  created_at timestamptz not null default now()
);
comment on table private.former_customers is
  'Customers that were deleted at Stripe, and whose they were: what is told of them later is about that organisation.';
create index former_customers_organization_idx on private.former_customers (organization_id);

create function private.part_with_customer(customer text, org uuid) returns void
language plpgsql set search_path = '' as $$
begin
  insert into private.former_customers (stripe_customer_id, organization_id) values (customer, org)
  on conflict (stripe_customer_id) do nothing;
  -- Its subscriptions end with it, says Stripe. Should it not say so of each, it is asked.
  update public.stripe_objects o set in_doubt_since = coalesce(o.in_doubt_since, now())
  where o.customer_id = customer and o.type = 'subscription' and not o.is_last;
  perform private.settle_subscriptions(customer, org);
  update public.organizations o set stripe_customer_id = null where o.id = org and o.stripe_customer_id = customer;
end $$;
comment on function private.part_with_customer(text, uuid) is
  'What follows from a customer being deleted at Stripe: its plan ends, and the organisation may become another.';

-- A refund may fail days after it was made; one that a person then makes at Stripe is later than that.
create function private.settle_refund(told_of public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
begin
  if told_of.type = 'charge' and (told_of.state ->> 'refunded')::boolean then
    update public.refunds_due r set status = 'REFUNDED', refunded_at = now(), error = null
    where r.stripe_payment_intent_id = told_of.state ->> 'payment_intent' and r.status <> 'REFUNDED' and not exists (
      select from public.stripe_objects f
      where f.id = r.stripe_refund_id and f.type = 'refund' and f.is_last and f.state_at >= told_of.state_at
    );
  elsif told_of.type = 'refund' and told_of.is_last then
    update public.refunds_due r set
      status = 'FAILED', refunded_at = null, error = format('Stripe says: %s.', told_of.state ->> 'status')
    where r.stripe_refund_id = told_of.id and r.status = 'REFUNDED' and not exists (
      select from public.stripe_objects c
      where c.id = told_of.state ->> 'charge' and c.type = 'charge' and (c.state ->> 'refunded')::boolean
        and c.state_at > told_of.state_at
    );
  end if;
end $$;
comment on function private.settle_refund(public.stripe_objects) is
  'What Stripe made of a refund in the end, in the queue, too.';

create function private.settle_stripe_object(object public.stripe_objects) returns text
language plpgsql set search_path = '' as $$
declare
  told jsonb := object.state;
  customer text := object.customer_id;
  org uuid;
  plan public.plans;
  seen jsonb;
  is_onboarding boolean := false;
begin
  if object.type = 'price' then
    perform private.settle_price(object);
    return null;
  end if;
  if object.type = 'product' then
    perform private.settle_price(p) from public.stripe_objects p
    where p.type = 'price' and p.state ->> 'product' = object.id order by p.id;
    return null;
  end if;
  if customer is null then
    -- What does not name its customer names something that does.
    select o.customer_id into customer from public.stripe_objects o
    where o.id in (told ->> 'payment_intent', told ->> 'charge', told ->> 'subscription') and o.customer_id is not null
    limit 1;
  end if;
  if customer is null and (object.type = 'setup_intent'
    or object.type = 'checkout_session' and told ->> 'status' in ('open', 'expired'))
  then
    return null; -- nobody is named and nothing was paid: there is nothing to wait for
  end if;
  if object.type = 'checkout_session' and told ->> 'organization' is not null then
    perform private.link_customer(object);
  end if;
  select o.id into org from public.organizations o where o.stripe_customer_id = customer;
  if org is null then
    select s.organization_id into org from public.subscriptions s
    where s.stripe_customer_id = customer or s.stripe_subscription_id = object.id
    order by s.created_at desc limit 1;
  end if;
  if org is null then
    select f.organization_id into org from private.former_customers f where f.stripe_customer_id = customer;
  end if;
  -- Once it is complete, an onboarding has nothing more to hear; but for what was paid of another attempt.
  if object.type in ('subscription', 'invoice', 'payment_intent') and (org is null or exists (
    select from private.onboarding_payments p where p.settled_at is null
      and (p.stripe_subscription_id in (object.id, told ->> 'subscription') or p.stripe_payment_intent_id = object.id)
  )) then
    seen := private.seen_payment(object);
    if seen ? 'session_id' or exists (
      select from private.onboarding_payments p
      where p.stripe_subscription_id = seen ->> 'subscription' or p.stripe_payment_intent_id = seen ->> 'payment_intent'
    ) then
      is_onboarding := private.follow_onboarding_payment(seen) ->> 'outcome' <> 'UNKNOWN';
      if org is null and is_onboarding then
        select o.id into org from public.organizations o where o.stripe_customer_id = customer;
      end if;
    end if;
  end if;
  if org is null and not is_onboarding then
    if not exists (
      select from public.onboarding_sessions s where s.stripe_customer_id = customer
        or s.stripe_subscription_id = told ->> 'subscription' or s.stripe_payment_intent_id = told ->> 'payment_intent'
    ) then
      return coalesce(customer, told ->> 'subscription', told ->> 'payment_intent', object.id);
    end if;
  end if;
  if object.type in ('charge', 'refund') then
    perform private.settle_refund(object);
  elsif object.type = 'customer' and (told ->> 'deleted')::boolean and org is not null then
    perform private.part_with_customer(customer, org);
  end if;
  if object.type = 'subscription' and org is not null then
    perform private.settle_subscriptions(customer, org);
    plan := private.plan_of(object);
    if plan.id is null then
      if not object.is_last or not exists (
        select from public.subscriptions s where s.stripe_subscription_id = object.id
      ) then
        return coalesce(told #>> '{items,0,price}', object.id);
      end if;
    end if;
  end if;
  return null;
end $$;
comment on function private.settle_stripe_object(public.stripe_objects) is
  'Does what follows from an object being as it is. Returns the customer, price or payment that has to become known first.';

create function private.why_parked(missing text) returns text language sql immutable set search_path = '' as $$
  select case
    when missing like 'cus\_%' then format('No organisation or onboarding has the customer %s.', missing)
    when missing like 'price\_%' then format('No plan has the price %s.', missing)
    else format('Nobody here knows %s.', missing)
  end where missing is not null
$$;
comment on function private.why_parked(text) is 'In words, what an event waits for.';

create function private.settle_and_note(object public.stripe_objects) returns text
language plpgsql set search_path = '' as $$
declare
  missing text := private.settle_stripe_object(object);
begin
  if missing is distinct from object.waits_for then
    update public.stripe_objects o set waits_for = missing where o.id = object.id;
    update public.stripe_events e
    set status = case when missing is null then 'APPLIED' else 'PARKED' end::public."StripeEventStatus",
      applied_at = case when missing is null then now() end, error = private.why_parked(missing)
    where e.object_id = object.id and e.status in ('RECEIVED', 'PARKED');
  end if;
  return missing;
end $$;
comment on function private.settle_and_note(public.stripe_objects) is
  'Settles an object; when nothing is missing any more, the events that were parked are applied.';

-- Tried, and noted -----------------------------------------------------------------------------------------------------

create function private.try_stripe_object(object public.stripe_objects, out missing text, out failure text)
language plpgsql set search_path = '' as $$
begin
  missing := private.settle_and_note(object);
exception when others then
  -- What a repetition may cure is for whoever began this to repeat. Anything else is kept, shown and tried again by the
  -- job: a delivery that fails for days would hold up all that Stripe sends after it.
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
  'Settles an object. What is missing parks its events; an error is noted with the one that came last.';

-- Becoming known ------------------------------------------------------------------------------------------------------
-- At the end of the transaction in which somebody writes an id down: what it does is complete then.

create function private.wake_stripe(key text) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  waiting public.stripe_objects;
  tried record;
  settled bigint := 0;
begin
  -- Who parks something for this key does it under this lock: it is seen here, or sees what we have written.
  perform private.lock_stripe(key);
  for waiting in select * from public.stripe_objects o where o.waits_for = key or o.id = key order by o.id loop
    perform private.lock_stripe(waiting.id);
    select * into waiting from public.stripe_objects o where o.id = waiting.id;
    tried := private.try_stripe_object(waiting);
    settled := settled + (tried.missing is null and tried.failure is null)::integer;
  end loop;
  return settled;
end $$;
comment on function private.wake_stripe(text) is 'Settles what waited for a customer, price or payment to become known.';

create function private.wake_by_customer() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  bought public.stripe_objects;
begin
  perform private.wake_stripe(new.stripe_customer_id);
  -- What an onboarding brought about waits for nothing, and yet has had no organisation.
  select * into bought from public.stripe_objects o
  where o.customer_id = new.stripe_customer_id and o.type = 'subscription' order by o.state_at desc, o.id limit 1;
  if found then
    perform private.try_stripe_object(bought);
  end if;
  return null;
end $$;
comment on function private.wake_by_customer() is 'An organisation gets what its customer at Stripe has bought.';
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
create constraint trigger wake_by_price_on_insert after insert on public.plans
  deferrable initially deferred
  for each row when (new.stripe_price_id is not null) execute function private.wake_by_price();
create constraint trigger wake_by_price after update of stripe_price_id on public.plans
  deferrable initially deferred
  for each row when (new.stripe_price_id is not null and new.stripe_price_id is distinct from old.stripe_price_id)
  execute function private.wake_by_price();

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
  'A session gets what was said of its payment before it was known whose that is.';
create constraint trigger wake_by_onboarding
  after update of stripe_customer_id, stripe_subscription_id, stripe_payment_intent_id on public.onboarding_sessions
  deferrable initially deferred
  for each row when (
    (new.stripe_customer_id, new.stripe_subscription_id, new.stripe_payment_intent_id)
      is distinct from (old.stripe_customer_id, old.stripe_subscription_id, old.stripe_payment_intent_id)
  ) execute function private.wake_by_onboarding();

-- The inbox -----------------------------------------------------------------------------------------------------------

create function private.apply_stripe_event(event public.stripe_events, again boolean default false)
returns "StripeEventStatus" language plpgsql set search_path = '' as $$
declare
  placed record;
  object public.stripe_objects;
  tried record;
begin
  placed := private.place_stripe_event(event);
  object := placed.object;
  -- What it says has been overtaken. But since when a payment is late, and what a subscription was that has ended, its
  -- history tells.
  if not (placed.is_changed or again or object.is_last) and object.waits_for is null
    and object.state ->> 'status' is distinct from 'past_due'
  then
    return 'APPLIED';
  end if;
  tried := private.try_stripe_object(object);
  if tried.failure is not null then
    return 'RECEIVED';
  end if;
  if tried.missing is not null then
    update public.stripe_events e
    set status = 'PARKED', applied_at = null, attempts = e.attempts + 1, error = private.why_parked(tried.missing)
    where e.id = event.id;
    return 'PARKED';
  end if;
  if object.type = 'payment_intent' then
    perform private.wake_stripe(object.id)
    where exists (select from public.stripe_objects o where o.waits_for = object.id and o.id <> object.id);
  end if;
  return 'APPLIED';
end $$;
comment on function private.apply_stripe_event(public.stripe_events, boolean) is
  'Applies an event of the inbox, whose locks are held. What is unknown parks it; no event fails a delivery.';

create function private.reapply_stripe_event(event public.stripe_events) returns "StripeEventStatus"
language plpgsql set search_path = '' as $$
begin
  perform private.lock_stripe(event.customer_id, event.object_id);
  update public.stripe_events e set status = 'APPLIED', applied_at = now(), error = null
  where e.id = event.id and e.status <> 'APPLIED' returning * into event;
  return private.apply_stripe_event(event, again => true);
end $$;
comment on function private.reapply_stripe_event(public.stripe_events) is 'Tries again what was not applied.';

create function private.receive_stripe_event(delivery jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  live boolean := (delivery ->> 'expected_livemode')::boolean;
  is_ours boolean := (delivery ->> 'livemode')::boolean = live and delivery ->> 'object_type' is not null;
  event public.stripe_events;
  stands record;
  is_kept boolean;
begin
  -- But for the payload: nothing below looks at it, and it is large.
  event.id := delivery ->> 'id';
  event.object_id := delivery ->> 'object_id';
  event.object_type := delivery ->> 'object_type';
  event.customer_id := delivery ->> 'customer_id';
  event.created := to_timestamp((delivery ->> 'created')::bigint);
  event.livemode := (delivery ->> 'livemode')::boolean;
  event.state := nullif(delivery -> 'state', 'null');
  event.before := nullif(delivery -> 'before', 'null');
  event.place := coalesce((delivery ->> 'place')::integer, 0);
  event.is_last := coalesce((delivery ->> 'is_last')::boolean, false);
  -- As though it were applied already: so it is written once in nearly every case.
  event.status := case when is_ours then 'APPLIED' when event.livemode = live then 'IGNORED' else 'QUARANTINED' end;
  select (select a.livemode from private.stripe_account a) as livemode,
    is_ours and exists (
      select from public.onboarding_sessions s where s.stripe_customer_id = event.customer_id and not s.is_completed
    ) as is_onboarding,
    array(
      select i ->> 'price' from jsonb_array_elements(event.state -> 'items') i
      where not exists (select from public.plans p where p.stripe_price_id = i ->> 'price') order by 1
    ) as unknown_prices
  into stands;
  if stands.livemode is distinct from live then
    insert into private.stripe_account (livemode) values (live) on conflict (id) do update set livemode = live;
  end if;
  if is_ours then
    -- Whoever works on a session holds it, and takes the customer's lock when they end: in this order, then.
    if stands.is_onboarding then
      perform from public.onboarding_sessions s
      where s.stripe_customer_id = event.customer_id and not s.is_completed for update;
    end if;
    perform private.lock_stripe(variadic event.customer_id || stands.unknown_prices || event.object_id);
    -- Whose ids are only being saved could not be known above. We are the ones to step back, and come again.
    perform set_config('lock_timeout', '100ms', true);
  end if;
  insert into public.stripe_events (
    id, type, object_id, object_type, customer_id, created, api_version, livemode, payload, state, before, place, is_last,
    status, applied_at, error
  ) values (
    event.id, delivery ->> 'type', event.object_id, event.object_type, event.customer_id, event.created,
    delivery ->> 'api_version', event.livemode, delivery -> 'payload', event.state, event.before, event.place,
    event.is_last, event.status, case when is_ours then now() end,
    case when event.status = 'QUARANTINED' then
      format('It is of %s, and this is %s.', case when live then 'test mode' else 'live mode' end,
        case when live then 'live mode' else 'test mode' end) end
  )
  on conflict (id) do nothing;
  is_kept := not found;
  if is_kept then
    select * into event from public.stripe_events e where e.id = delivery ->> 'id';
  end if;
  if is_ours and not is_kept then
    event.status := private.apply_stripe_event(event);
  elsif is_ours and event.status in ('RECEIVED', 'QUARANTINED') then
    event.status := private.reapply_stripe_event(event);
  end if;
  return jsonb_build_object('id', event.id, 'status', event.status, 'duplicate', is_kept);
end $$;
comment on function private.receive_stripe_event(jsonb) is
  'Takes a delivery: keeps the event, once, and applies it, in the same transaction. Only for what Stripe has signed.';

create function private.receive_stripe_events(deliveries jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  delivery jsonb;
  taken jsonb := '[]';
begin
  for delivery in select d from jsonb_array_elements(deliveries) d loop
    taken := taken || private.receive_stripe_event(delivery);
  end loop;
  return taken;
end $$;
comment on function private.receive_stripe_events(jsonb) is 'Takes a list of deliveries, all of them or none.';
grant execute on function private.receive_stripe_event(jsonb), private.receive_stripe_events(jsonb) to strive_functions;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.stripe_objects enable row level security;
create policy "platform admins see what Stripe has" on public.stripe_objects for select to authenticated
  using ((select private.is_admin()));
grant select on public.stripe_objects to authenticated;
grant all on public.stripe_objects to service_role;

-- The job -------------------------------------------------------------------------------------------------------------

-- What was parked is redacted as well: what matters for applying it stands in state.
create function private.redact_stripe_events() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  redacted bigint;
begin
  update public.stripe_events e set payload = null, redacted_at = now(),
    error = case when e.status in ('PARKED', 'QUARANTINED') then e.error end
  where e.id in (
    select o.id from public.stripe_events o
    where o.redacted_at is null and o.created_at <= now() - interval '90 days'
    order by o.created_at limit 10000 for update skip locked
  );
  get diagnostics redacted = row_count;
  return redacted;
end $$;
comment on function private.redact_stripe_events() is 'Forgets what customers'' events said, 90 days after they came.';
grant execute on function private.redact_stripe_events() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('redact_stripe_events', '37 * * * *', 'private.redact_stripe_events', 'Forget what old events of Stripe said.');
