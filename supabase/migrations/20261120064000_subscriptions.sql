-- What Strive does about the objects of Stripe: subscriptions, invoices, prices, customers and refunds follow from their
-- current state. Each function here can run at any time and again; running it twice changes nothing.

-- Statuses ------------------------------------------------------------------------------------------------------------

create table private.subscription_statuses (
  stripe_status text primary key,
  status "SubscriptionStatus" not null,
  meaning text not null
);
comment on table private.subscription_statuses is 'Status of a subscription by its status at Stripe; one not listed is INACTIVE.';
insert into private.subscription_statuses (stripe_status, status, meaning) values
  ('trialing', 'TRIAL', 'nothing to pay yet'),
  ('active', 'ACTIVE', 'paid; also when it ends with its period, until then'),
  ('past_due', 'PAST_DUE', 'Stripe retries the payment; the tier is kept meanwhile'),
  ('unpaid', 'INACTIVE', 'Stripe has given up; paying revives it'),
  ('paused', 'INACTIVE', 'a trial ended without a payment method'),
  ('incomplete', 'INACTIVE', 'the first payment has not arrived'),
  ('incomplete_expired', 'INACTIVE', 'the first payment never arrived'),
  ('canceled', 'CANCELLED', 'over');

create table private.payment_statuses (
  stripe_status text primary key,
  status "PaymentStatus" not null,
  if_failed "PaymentStatus" not null
);
comment on table private.payment_statuses is
  'Status of a payment by the status of its payment intent, or of its invoice where no intent is known; one not listed is PENDING.';
comment on column private.payment_statuses.if_failed is 'The status after an attempt to pay has failed.';
insert into private.payment_statuses (stripe_status, status, if_failed) values
  ('requires_payment_method', 'PENDING', 'FAILED'),
  ('requires_confirmation', 'PENDING', 'FAILED'),
  ('requires_action', 'REQUIRES_ACTION', 'REQUIRES_ACTION'),
  ('processing', 'PROCESSING', 'PROCESSING'),
  ('requires_capture', 'PROCESSING', 'PROCESSING'),
  ('succeeded', 'SUCCEEDED', 'SUCCEEDED'),
  ('canceled', 'CANCELLED', 'CANCELLED'),
  ('payment_failed', 'FAILED', 'FAILED'),
  ('payment_action_required', 'REQUIRES_ACTION', 'REQUIRES_ACTION'),
  ('paid', 'SUCCEEDED', 'SUCCEEDED'),
  ('void', 'CANCELLED', 'CANCELLED');

create function private.payment_grace() returns interval language sql immutable set search_path = '' as $$
  select interval '30 days'
$$;
comment on function private.payment_grace() is
  'How long a tier is kept while Stripe retries a payment. Stripe usually gives up after two weeks; this limits longer settings.';

-- Tasks ---------------------------------------------------------------------------------------------------------------
-- What Strive has to change at Stripe, apart from a request: written in the transaction that decides it, done by a job.

create type "StripeTaskKind" as enum ('CANCEL_SUBSCRIPTION', 'CANCEL_AT_PERIOD_END', 'EXTEND_TRIAL', 'UPDATE_CUSTOMER');
comment on type "StripeTaskKind" is 'What a task changes at Stripe.';

create table public.stripe_tasks (
  id uuid primary key default gen_random_uuid(),
  kind "StripeTaskKind" not null,
  object_id text not null,
  arguments jsonb not null default '{}' constraint "arguments is an object" check (jsonb_typeof(arguments) = 'object'),
  reason text not null,
  version integer not null default 1,
  tries integer not null default 0 constraint "tries is not negative" check (tries >= 0),
  due_at timestamptz not null default now(),
  error text,
  done_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.stripe_tasks is 'Changes that a job makes at Stripe, retried until they succeed.';
comment on column public.stripe_tasks.object_id is 'The subscription or customer it changes.';
comment on column public.stripe_tasks.arguments is 'EXTEND_TRIAL: {trial_end: Unix seconds}. UPDATE_CUSTOMER has none: it sends the current values.';
comment on column public.stripe_tasks.version is
  'Grows with every request; a job that made an older change leaves the task open.';
comment on column public.stripe_tasks.due_at is 'The next try; later after each failure.';
comment on column public.stripe_tasks.error is 'Why the last try failed.';
comment on column public.stripe_tasks.tries is 'How often it was tried.';
comment on column public.stripe_tasks.done_at is 'When it succeeded; null while it is open.';
create unique index stripe_tasks_open_idx on public.stripe_tasks (object_id, kind) where done_at is null;
create index stripe_tasks_due_idx on public.stripe_tasks (due_at) where done_at is null;
create index stripe_tasks_created_at_idx on public.stripe_tasks (created_at desc);
create trigger touch before update on public.stripe_tasks for each row execute function private.touch_updated_at();

alter table public.stripe_tasks enable row level security;
create policy "platform admins see what is to be done at Stripe" on public.stripe_tasks for select to authenticated
  using ((select private.is_admin()));
grant select on public.stripe_tasks to authenticated;
grant all on public.stripe_tasks to service_role;

create function private.add_stripe_task(
  kind "StripeTaskKind", object_id text, reason text, arguments jsonb default '{}'
) returns void language sql set search_path = '' as $$
  insert into public.stripe_tasks as t (kind, object_id, reason, arguments) values (kind, object_id, reason, arguments)
  on conflict (object_id, kind) where done_at is null do update
  set arguments = excluded.arguments, reason = excluded.reason, due_at = now(), version = t.version + 1
$$;
comment on function private.add_stripe_task("StripeTaskKind", text, text, jsonb) is
  'Has a job change an object at Stripe; a task of the same kind that is still open is replaced.';

-- Customers -----------------------------------------------------------------------------------------------------------

create table private.former_customers (
  stripe_customer_id text primary key,
  organization_id uuid not null references public.organizations (id) on delete cascade,
  created_at timestamptz not null default now()
);
comment on table private.former_customers is
  'Customers at Stripe that an organization had before its present one; their objects still belong to it.';
create index former_customers_organization_idx on private.former_customers (organization_id);

create table private.closed_customers (
  stripe_customer_id text primary key,
  organization_id uuid not null,
  organization_name text not null,
  created_at timestamptz not null default now()
);
comment on table private.closed_customers is
  'Customers at Stripe whose organization was deleted. Whatever still charges them is ended.';
comment on column private.closed_customers.organization_id is 'The organization that was deleted; no foreign key.';
comment on column private.closed_customers.organization_name is 'So that people recognize it.';

-- In plpgsql, like everything that runs for each event: a function in SQL is planned anew in every call.
create function private.customers_of(org uuid) returns text[]
language plpgsql stable set search_path = '' as $$
begin
  return array(
    select o.stripe_customer_id from public.organizations o where o.id = org and o.stripe_customer_id is not null
    union
    select f.stripe_customer_id from private.former_customers f where f.organization_id = org
    union
    select s.stripe_customer_id from public.subscriptions s where s.organization_id = org and s.stripe_customer_id is not null
  );
end $$;
comment on function private.customers_of(uuid) is 'All customers at Stripe that an organization has or had.';

create function private.organization_of(customer text, subscription text default null) returns uuid
language plpgsql stable set search_path = '' as $$
declare
  org uuid;
begin
  select o.id into org from public.organizations o where o.stripe_customer_id = customer;
  if org is null then
    select f.organization_id into org from private.former_customers f where f.stripe_customer_id = customer;
  end if;
  if org is null then
    select s.organization_id into org from public.subscriptions s
    where s.stripe_customer_id = customer or s.stripe_subscription_id = subscription
    order by s.created_at desc limit 1;
  end if;
  return org;
end $$;
comment on function private.organization_of(text, text) is 'The organization of a customer or subscription at Stripe; null if none is known.';

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
  'The buyer in a checkout made for an organization becomes its customer, if it has none.';

create function private.part_with_customer(customer text, org uuid) returns void
language plpgsql set search_path = '' as $$
begin
  insert into private.former_customers (stripe_customer_id, organization_id) values (customer, org)
  on conflict (stripe_customer_id) do nothing;
  -- Stripe ends the subscriptions of a deleted customer. If the events do not say so, the reconciliation fetches them.
  update public.stripe_objects o set in_doubt_since = coalesce(o.in_doubt_since, now())
  where o.customer_id = customer and o.type = 'subscription' and not o.is_last;
  perform private.settle_subscriptions(org);
  update public.organizations o set stripe_customer_id = null where o.id = org and o.stripe_customer_id = customer;
end $$;
comment on function private.part_with_customer(text, uuid) is
  'A customer was deleted at Stripe: its plan ends, and the organization may become another customer.';

-- The customer at Stripe has the name and the billing address of its organization.
create function private.sync_customer() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.add_stripe_task('UPDATE_CUSTOMER', new.stripe_customer_id, 'Name or billing e-mail changed');
  return null;
end $$;
comment on function private.sync_customer() is 'Sends the name and billing e-mail of an organization to Stripe.';
create trigger sync_customer_of_new after insert on public.organizations
  for each row when (new.stripe_customer_id is not null and new.billing_email is not null)
  execute function private.sync_customer();
create trigger sync_customer after update of name, billing_email on public.organizations
  for each row when (
    new.stripe_customer_id is not null and (new.name, new.billing_email) is distinct from (old.name, old.billing_email)
  ) execute function private.sync_customer();

-- A closed or deleted organization must not be charged. Its rows may go with it, so what is to be ended is written down.
create function private.cancel_all_at_stripe(org uuid, reason text) returns void
language sql set search_path = '' as $$
  select private.add_stripe_task('CANCEL_SUBSCRIPTION', s.id, reason)
  from (
    select s.stripe_subscription_id from public.subscriptions s
    where s.organization_id = org and s.stripe_subscription_id is not null and s.status <> 'CANCELLED'
    union
    select o.id from public.stripe_objects o
    where o.type = 'subscription' and not o.is_last and o.customer_id = any (private.customers_of(org))
  ) s (id)
$$;
comment on function private.cancel_all_at_stripe(uuid, text) is 'Has every subscription of an organization cancelled at Stripe.';

create function private.end_at_stripe(subscription public.stripe_objects, reason text) returns void
language sql set search_path = '' as $$
  select private.add_stripe_task('CANCEL_SUBSCRIPTION', subscription.id, reason)
  where not exists (
    select from public.stripe_tasks t where t.object_id = subscription.id and t.kind = 'CANCEL_SUBSCRIPTION' and t.done_at is null
  )
$$;
comment on function private.end_at_stripe(public.stripe_objects, text) is 'Has one subscription cancelled at Stripe, unless a task already does.';

create function private.end_billing() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'UPDATE' then
    perform private.cancel_all_at_stripe(new.id, format('Organization %s was closed', new.name));
    return null;
  end if;
  insert into private.closed_customers as c (stripe_customer_id, organization_id, organization_name)
  select k.customer, old.id, old.name from unnest(private.customers_of(old.id)) k (customer)
  on conflict (stripe_customer_id) do nothing;
  perform private.cancel_all_at_stripe(old.id, format('Organization %s was deleted', old.name));
  return old;
end $$;
comment on function private.end_billing() is 'Ends the subscriptions of a closed or deleted organization at Stripe.';
create trigger end_billing before delete on public.organizations
  for each row execute function private.end_billing();
create trigger end_billing_of_closed after update of closed_at on public.organizations
  for each row when (new.closed_at is not null and old.closed_at is null) execute function private.end_billing();

-- Net amounts ---------------------------------------------------------------------------------------------------------

create function private.discount_terms(discounts jsonb) returns table (
  place bigint, is_known boolean, percent_off numeric, amount_off numeric, currency text
) language sql stable set search_path = '' as $$
  -- A coupon for one invoice changes nothing that recurs; one that has run out no longer applies.
  select d.place, k.terms is not null,
    case when k.recurs then (k.terms ->> 'percent_off')::numeric end,
    case when k.recurs then (k.terms ->> 'amount_off')::numeric end, k.terms ->> 'currency'
  from jsonb_array_elements_text(case when jsonb_typeof(discounts) = 'array' then discounts else '[]' end)
    with ordinality d (id, place)
  left join public.stripe_objects o on o.id = d.id and o.type = 'discount'
  left join public.stripe_objects c on c.id = o.state ->> 'coupon' and c.type = 'coupon'
  cross join lateral (select coalesce(nullif(o.state -> 'terms', 'null'), c.state -> 'terms') as terms) t
  cross join lateral (
    select t.terms, coalesce(t.terms ->> 'duration', '') <> 'once' and not coalesce((o.state ->> 'deleted')::boolean, false)
      and coalesce((o.state ->> 'end')::bigint > extract(epoch from now()), true) as recurs
  ) k
$$;
comment on function private.discount_terms(jsonb) is 'What the discounts of a subscription take off each invoice, in their order.';

create function private.item_months(item jsonb, fallback integer) returns numeric
language plpgsql immutable set search_path = '' as $$
begin
  return coalesce(case item ->> 'interval'
    when 'year' then 12 when 'month' then 1 when 'week' then 12 / 52.0 when 'day' then 12 / 365.0
  end * coalesce((item ->> 'every')::integer, 1), fallback);
end $$;
comment on function private.item_months(jsonb, integer) is 'Months between two charges of an item; the fallback if the item does not say.';

create function private.gross_monthly_amount(item jsonb, fallback_amount bigint, fallback_months integer) returns numeric
language plpgsql immutable set search_path = '' as $$
begin
  return case when (item ->> 'metered')::boolean then 0 else
    coalesce((item ->> 'amount_decimal')::numeric, (item ->> 'amount')::numeric, fallback_amount, 0)
    * coalesce((item ->> 'quantity')::bigint, 1) / private.item_months(item, fallback_months)
  end;
end $$;
comment on function private.gross_monthly_amount(jsonb, bigint, integer) is
  'List price of an item per month in minor units. Metered usage does not recur.';

create function private.net_monthly_amount(state jsonb, fallback_amount bigint, fallback_months integer) returns numeric
language plpgsql stable set search_path = '' as $$
declare
  total numeric := 0;
  part numeric;
  months numeric;
  billed_every numeric;
  item jsonb;
  discount record;
begin
  for item in select i from jsonb_array_elements(state -> 'items') i loop
    months := private.item_months(item, fallback_months);
    billed_every := coalesce(billed_every, months);
    part := private.gross_monthly_amount(item, fallback_amount, fallback_months);
    for discount in select * from private.discount_terms(item -> 'discounts') d order by d.place loop
      part := greatest(part * (1 - coalesce(discount.percent_off, 0) / 100) - case
        when discount.currency = item ->> 'currency' then coalesce(discount.amount_off, 0) / months else 0 end, 0);
    end loop;
    total := total + part;
  end loop;
  for discount in select * from private.discount_terms(state -> 'discounts') d order by d.place loop
    total := greatest(total * (1 - coalesce(discount.percent_off, 0) / 100) - case
      when discount.currency = state #>> '{items,0,currency}' then coalesce(discount.amount_off, 0) / coalesce(billed_every, 1)
      else 0 end, 0);
  end loop;
  return round(total, 6);
end $$;
comment on function private.net_monthly_amount(jsonb, bigint, integer) is
  'What a subscription brings per month in minor units: all items less the discounts that recur, before tax.';

create function private.discounts_of(subscription public.stripe_objects) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  if coalesce(subscription.state -> 'discounts', '[]') <> '[]' then
    return subscription.state -> 'discounts';
  end if;
  return (
    select coalesce(jsonb_agg(d.id), '[]') from public.stripe_objects d
    where d.customer_id = subscription.customer_id and d.type = 'discount' and d.state ->> 'subscription' is null
      and not coalesce((d.state ->> 'deleted')::boolean, false)
  );
end $$;
comment on function private.discounts_of(public.stripe_objects) is
  'The discounts of a subscription; without any, that of its customer.';

create function private.has_discounts(state jsonb) returns boolean
language sql immutable set search_path = '' as $$
  select coalesce(state -> 'discounts', '[]') <> '[]' or state -> 'items' @? '$[*].discounts[*]'
$$;
comment on function private.has_discounts(jsonb) is 'Whether a subscription or one of its items has a discount.';

create function private.has_unknown_discounts(state jsonb) returns boolean
language sql stable set search_path = '' as $$
  select exists (select from private.discount_terms(state -> 'discounts') d where not d.is_known) or exists (
    select from jsonb_array_elements(state -> 'items') i, private.discount_terms(i -> 'discounts') d where not d.is_known
  )
$$;
comment on function private.has_unknown_discounts(jsonb) is 'Whether the terms of a discount have to be fetched from Stripe.';

-- One subscription ----------------------------------------------------------------------------------------------------

create function private.plan_of(subscription public.stripe_objects) returns private.plan_prices
language plpgsql stable set search_path = '' as $$
declare
  price private.plan_prices;
begin
  select p.* into price
  from jsonb_array_elements(subscription.state -> 'items') with ordinality i (item, n)
  join private.plan_prices p on p.stripe_price_id = i.item ->> 'price' order by i.n limit 1;
  return price;
end $$;
comment on function private.plan_of(public.stripe_objects) is
  'The plan of the first item whose price is or was a plan''s; null if no price is known.';

create function private.last_plan_of(subscription public.stripe_objects) returns private.plan_prices
language plpgsql stable set search_path = '' as $$
declare
  price private.plan_prices;
begin
  select p.* into price
  from public.stripe_events e, jsonb_array_elements(e.state -> 'items') i
  join private.plan_prices p on p.stripe_price_id = i ->> 'price'
  where e.object_id = subscription.id and e.status <> 'QUARANTINED'
  order by e.created desc, e.id desc limit 1;
  if price.tier is null then
    select s.tier, s.billing_cycle into price.tier, price.billing_cycle
    from public.subscriptions s where s.stripe_subscription_id = subscription.id;
  end if;
  return price;
end $$;
comment on function private.last_plan_of(public.stripe_objects) is
  'The plan a subscription had last, for one whose present price is unknown: a subscription never loses its plan.';

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
  'Since when a subscription is past due without a break; at the earliest three days before the first such event arrived, '
  'because Stripe delivers for three days and nobody loses a plan over a payment they could not hear of.';

create function private.pending_phase_of(subscription public.stripe_objects) returns jsonb
language sql stable set search_path = '' as $$
  select phase from public.stripe_objects s, jsonb_array_elements(s.state -> 'phases') phase
  where s.type = 'subscription_schedule' and s.customer_id = subscription.customer_id and not s.is_last
    and s.state ->> 'subscription' = subscription.id
    and (phase ->> 'start')::bigint > extract(epoch from subscription.state_at)
    and (phase ->> 'price', phase ->> 'quantity') is distinct from
      (subscription.state #>> '{items,0,price}', subscription.state #>> '{items,0,quantity}')
    and not subscription.is_last
  order by (phase ->> 'start')::bigint limit 1
$$;
comment on function private.pending_phase_of(public.stripe_objects) is 'The next phase of the schedule of a subscription, if it changes the plan.';

create function private.subscription_of(object public.stripe_objects, org uuid) returns public.subscriptions
language plpgsql stable set search_path = '' as $$
declare
  details jsonb := object.state || jsonb_build_object('discounts', private.discounts_of(object));
  price private.plan_prices := private.plan_of(object);
  months integer;
  item jsonb;
  plan_amount bigint;
  gross numeric;
  phase jsonb;
  deleted_at timestamptz := (
    select c.state_at from public.stripe_objects c
    where c.id = object.customer_id and c.type = 'customer' and (c.state ->> 'deleted')::boolean
      and c.state_at >= object.state_at
  );
  made public.subscriptions;
begin
  if price.tier is null then
    price := private.last_plan_of(object);
    if price.tier is null then
      return null;
    end if;
  end if;
  months := private.months_of(price.billing_cycle);
  item := coalesce(
    (select i from jsonb_array_elements(details -> 'items') i where i ->> 'price' = price.stripe_price_id limit 1),
    details #> '{items,0}'
  );
  select p.amount_cents into plan_amount from public.plans p where p.tier = price.tier and p.billing_cycle = price.billing_cycle
  order by p.stripe_price_id = price.stripe_price_id desc nulls last, p.is_active desc, p.created_at desc, p.id limit 1;
  made.organization_id := org;
  made.stripe_subscription_id := object.id;
  made.stripe_customer_id := object.customer_id;
  made.status := case when deleted_at is not null then 'CANCELLED' else coalesce(
    (select s.status from private.subscription_statuses s where s.stripe_status = details ->> 'status'), 'INACTIVE'
  ) end;
  made.tier := price.tier;
  made.billing_cycle := price.billing_cycle;
  made.currency := lower(coalesce(item ->> 'currency', 'usd'));
  made.quantity := coalesce((item ->> 'quantity')::integer, 1);
  if jsonb_array_length(details -> 'items') = 1 then
    gross := private.gross_monthly_amount(details #> '{items,0}', plan_amount, months);
  else
    select sum(private.gross_monthly_amount(i, plan_amount, months)) into gross from jsonb_array_elements(details -> 'items') i;
  end if;
  made.amount_cents := coalesce(round(gross * months), plan_amount, 0);
  made.net_monthly_amount := case
    when private.has_discounts(details) then private.net_monthly_amount(details, plan_amount, months)
    else round(coalesce(gross, plan_amount::numeric / months, 0), 6) end;
  made.current_period_start := coalesce(
    to_timestamp((details ->> 'period_start')::bigint), to_timestamp((details ->> 'started')::bigint), object.state_at
  );
  made.current_period_end := to_timestamp((details ->> 'period_end')::bigint);
  if made.current_period_end is null or made.current_period_end <= made.current_period_start then
    made.current_period_end := made.current_period_start + make_interval(months => months);
  end if;
  made.trial_ends_at := to_timestamp((details ->> 'trial_end')::bigint);
  made.started_at := to_timestamp((details ->> 'started')::bigint);
  made.changed_at := object.state_at;
  made.cancel_at_period_end := (details ->> 'cancel_at_period_end')::boolean
    or coalesce(to_timestamp((details ->> 'cancel_at')::bigint) <= made.current_period_end, false);
  made.ends_at := case when (details ->> 'cancel_at_period_end')::boolean then made.current_period_end
    else to_timestamp((details ->> 'cancel_at')::bigint) end;
  if made.status = 'CANCELLED' then
    made.cancelled_at := coalesce(
      to_timestamp((details ->> 'ended_at')::bigint), to_timestamp((details ->> 'canceled_at')::bigint), deleted_at,
      object.state_at
    );
  elsif made.status = 'PAST_DUE' then
    made.past_due_since := private.past_due_since(object);
    if made.past_due_since <= now() - private.payment_grace() then
      made.status := 'INACTIVE';
    end if;
  end if;
  if details ->> 'schedule' is not null then
    phase := private.pending_phase_of(object);
  end if;
  if phase is not null and private.is_live(made.status) then
    select p.tier, p.billing_cycle, coalesce((phase ->> 'quantity')::integer, 1), to_timestamp((phase ->> 'start')::bigint)
    into made.pending_tier, made.pending_billing_cycle, made.pending_quantity, made.pending_at
    from private.plan_prices p where p.stripe_price_id = phase ->> 'price';
  end if;
  return made;
end $$;
comment on function private.subscription_of(public.stripe_objects, uuid) is
  'The row of a subscription at Stripe; null if no plan ever had its price.';

-- The subscriptions of an organization --------------------------------------------------------------------------------
-- One is live. If Stripe has several, a paid one counts before one that is past due, then the newest; the others are
-- INACTIVE here and shown in billing_attention.

create function private.settle_subscriptions(org uuid) returns void
language plpgsql set search_path = '' as $$
declare
  customers text[];
  wanted record;
  made public.subscriptions;
begin
  -- The trigger of subscriptions locks the same row: a later transaction sees what the earlier one wrote.
  perform from public.organizations o where o.id = org for no key update;
  customers := private.customers_of(org);
  for wanted in
    select m as made, o.state || jsonb_build_object('discounts', private.discounts_of(o)) as state, l.is_live and (
      -- A granted plan counts before those of Stripe.
      exists (
        select from public.subscriptions s
        where s.organization_id = org and private.is_live(s.status) and s.tier <> 'FREE'
          and not exists (select from public.stripe_objects o where o.id = s.stripe_subscription_id)
      )
      or row_number() over (
        partition by l.is_live
        order by m.status <> 'PAST_DUE' desc, (o.state ->> 'started')::bigint desc nulls last, o.id desc
      ) > 1
    ) as is_doubled,
    l.is_live and exists (
      select from public.subscriptions s
      where s.organization_id = org and private.is_live(s.status) and s.tier = 'FREE'
    ) as was_free,
    max(m.started_at) filter (where l.is_live) over () as newest_start, o.is_last
    from public.stripe_objects o
    cross join lateral private.subscription_of(o, org) m
    cross join lateral (select private.is_live(m.status) as is_live) l
    where o.customer_id = any (customers) and o.type = 'subscription'
      and m.stripe_subscription_id is not null
      -- Its events still wait for the first payment, which is known to have arrived: it was written with that.
      and not (o.state ->> 'status' = 'incomplete' and exists (
        select from private.onboarding_payments p where p.stripe_subscription_id = o.id and p.status = 'SUCCEEDED'
      ))
    -- The live one last: it may replace another.
    order by l.is_live, 3 desc
  loop
    made := wanted.made;
    if private.has_discounts(wanted.state) and not wanted.is_last and private.has_unknown_discounts(wanted.state) then
      update public.stripe_objects o set in_doubt_since = now()
      where o.id = made.stripe_subscription_id and o.in_doubt_since is null;
    end if;
    if wanted.is_doubled then
      made.status := 'INACTIVE';
      -- Two checkouts were paid at almost the same time: the customer wanted one of them.
      if wanted.state ->> 'checkout' is not null and made.started_at > wanted.newest_start - interval '24 hours' then
        perform private.refund_duplicate(made);
      end if;
    elsif wanted.was_free then
      update public.subscriptions s set status = 'CANCELLED', cancelled_at = now()
      where s.organization_id = org and s.tier = 'FREE' and private.is_live(s.status);
    end if;
    insert into public.subscriptions as s (
      organization_id, stripe_subscription_id, stripe_customer_id, status, tier, billing_cycle, currency, amount_cents,
      quantity, net_monthly_amount, current_period_start, current_period_end, trial_ends_at, cancel_at_period_end, ends_at,
      cancelled_at, past_due_since, pending_tier, pending_billing_cycle, pending_quantity, pending_at, started_at, changed_at
    ) values (
      org, made.stripe_subscription_id, made.stripe_customer_id, made.status, made.tier, made.billing_cycle, made.currency,
      made.amount_cents, made.quantity, made.net_monthly_amount, made.current_period_start, made.current_period_end,
      made.trial_ends_at, made.cancel_at_period_end, made.ends_at, made.cancelled_at, made.past_due_since,
      made.pending_tier, made.pending_billing_cycle, made.pending_quantity, made.pending_at, made.started_at, made.changed_at
    )
    on conflict (stripe_subscription_id) do update set
      stripe_customer_id = excluded.stripe_customer_id, status = excluded.status, tier = excluded.tier,
      billing_cycle = excluded.billing_cycle, currency = excluded.currency, amount_cents = excluded.amount_cents,
      quantity = excluded.quantity, net_monthly_amount = excluded.net_monthly_amount,
      current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
      trial_ends_at = excluded.trial_ends_at, cancel_at_period_end = excluded.cancel_at_period_end,
      ends_at = excluded.ends_at, cancelled_at = excluded.cancelled_at, past_due_since = excluded.past_due_since,
      pending_tier = excluded.pending_tier, pending_billing_cycle = excluded.pending_billing_cycle,
      pending_quantity = excluded.pending_quantity, pending_at = excluded.pending_at, started_at = excluded.started_at,
      changed_at = excluded.changed_at
    where (s.stripe_customer_id, s.status, s.tier, s.billing_cycle, s.currency, s.amount_cents, s.quantity,
      s.net_monthly_amount, s.current_period_start, s.current_period_end, s.trial_ends_at, s.cancel_at_period_end, s.ends_at,
      s.cancelled_at, s.past_due_since, s.pending_tier, s.pending_billing_cycle, s.pending_quantity, s.pending_at)
      is distinct from (excluded.stripe_customer_id, excluded.status, excluded.tier, excluded.billing_cycle,
      excluded.currency, excluded.amount_cents, excluded.quantity, excluded.net_monthly_amount,
      excluded.current_period_start, excluded.current_period_end, excluded.trial_ends_at, excluded.cancel_at_period_end,
      excluded.ends_at, excluded.cancelled_at, excluded.past_due_since, excluded.pending_tier,
      excluded.pending_billing_cycle, excluded.pending_quantity, excluded.pending_at);
  end loop;
end $$;
comment on function private.settle_subscriptions(uuid) is
  'Brings the subscriptions of an organization to the state of its customers'' objects at Stripe.';

create function private.refund_duplicate(subscription public.subscriptions) returns void
language plpgsql set search_path = '' as $$
begin
  insert into public.refunds_due (object_id, stripe_payment_intent_id, amount_cents, currency, reason)
  select subscription.stripe_subscription_id, private.payment_of_invoice(i.id), coalesce((i.state ->> 'amount_paid')::bigint, 0),
    subscription.currency, 'DUPLICATE'
  from (values (0)) one (row)
  left join lateral (
    select * from public.stripe_objects i
    where i.type = 'invoice' and i.customer_id = subscription.stripe_customer_id
      and i.state ->> 'subscription' = subscription.stripe_subscription_id
    order by i.state_at limit 1
  ) i on true
  on conflict (object_id) where reason <> 'REQUESTED' do update
  set amount_cents = excluded.amount_cents, stripe_payment_intent_id = excluded.stripe_payment_intent_id
  where refunds_due.status = 'DUE';
end $$;
comment on function private.refund_duplicate(public.subscriptions) is
  'Has a subscription that was bought twice cancelled and refunded by the job.';

-- Invoices ------------------------------------------------------------------------------------------------------------

create function private.payment_of_invoice(invoice text) returns text
language plpgsql stable set search_path = '' as $$
begin
  return coalesce(
    (select o.state ->> 'payment_intent' from public.stripe_objects o where o.id = invoice and o.type = 'invoice'),
    (
      select p.state ->> 'payment_intent' from public.stripe_objects p
      where p.type = 'invoice_payment' and p.state ->> 'invoice' = invoice
      order by p.state ->> 'status' = 'paid' desc nulls last, p.state_at desc, p.id limit 1
    ),
    (
      select p.id from public.stripe_objects p
      where p.type = 'payment_intent' and p.state ->> 'invoice' = invoice order by p.state_at desc, p.id limit 1
    )
  );
end $$;
comment on function private.payment_of_invoice(text) is 'The payment intent of an invoice, as far as it is known.';

create function private.invoice_of(object public.stripe_objects) returns text
language plpgsql stable set search_path = '' as $$
begin
  return (select coalesce(object.state ->> 'invoice', (
    select i.id from public.stripe_objects i
    where i.customer_id = c.customer_id and i.type = 'invoice' and i.state ->> 'payment_intent' = p.intent limit 1
  ), (
    select i.state ->> 'invoice' from public.stripe_objects i
    where i.type = 'invoice_payment' and i.state ->> 'payment_intent' = p.intent limit 1
  ), (
    select i.state ->> 'invoice' from public.stripe_objects i where i.id = p.intent and i.type = 'payment_intent'
  ))
  from (
    select coalesce(object.state ->> 'payment_intent', case object.type when 'payment_intent' then object.id end, (
      select h.state ->> 'payment_intent' from public.stripe_objects h where h.id = object.state ->> 'charge'
    )) as intent
  ) p
  cross join lateral (
    select coalesce(object.customer_id, (
      select i.customer_id from public.stripe_objects i where i.id = p.intent
    )) as customer_id
  ) c);
end $$;
comment on function private.invoice_of(public.stripe_objects) is 'The invoice that a payment, charge, refund, dispute or credit note is about.';

create function private.settle_invoice(invoice text, org uuid) returns void
language plpgsql set search_path = '' as $$
begin
  insert into public.invoices as n (
    organization_id, stripe_invoice_id, stripe_subscription_id, number, status, billing_reason, currency, subtotal_cents,
    discount_cents, tax_cents, total_cents, paid_cents, remaining_cents, credited_cents, refunded_cents, disputed_cents,
    credit_notes, period_start, period_end, issued_at, due_at, paid_at, hosted_invoice_url, invoice_pdf, created_at
  )
  select org, i.id, i.state ->> 'subscription', i.state ->> 'number',
    case i.state ->> 'status' when 'open' then 'OPEN' when 'paid' then 'PAID' when 'void' then 'VOID'
      when 'uncollectible' then 'UNCOLLECTIBLE' else 'DRAFT' end::public."InvoiceStatus",
    i.state ->> 'reason', lower(coalesce(i.state ->> 'currency', 'usd')),
    coalesce((i.state ->> 'subtotal')::bigint, 0), coalesce((i.state ->> 'discount')::bigint, 0),
    coalesce((i.state ->> 'tax')::bigint, 0), coalesce((i.state ->> 'total')::bigint, (i.state ->> 'amount_due')::bigint, 0),
    coalesce((i.state ->> 'amount_paid')::bigint, 0), coalesce((i.state ->> 'amount_remaining')::bigint, 0),
    coalesce(c.amount, 0), greatest(coalesce(r.amount, 0), coalesce(h.amount, 0)), coalesce(d.amount, 0), coalesce(c.numbers, '{}'),
    to_timestamp((i.state ->> 'period_start')::bigint), to_timestamp((i.state ->> 'period_end')::bigint),
    to_timestamp((i.state ->> 'issued')::bigint), to_timestamp((i.state ->> 'due')::bigint),
    to_timestamp((i.state ->> 'paid')::bigint), i.state ->> 'url', i.state ->> 'pdf',
    coalesce(to_timestamp((i.state ->> 'created')::bigint), i.state_at)
  from public.stripe_objects i
  cross join lateral (select private.payment_of_invoice(i.id) as intent) p
  left join lateral (
    select sum((o.state ->> 'amount')::bigint) as amount,
      array_agg(coalesce(o.state ->> 'number', o.id) order by o.id) as numbers
    from public.stripe_objects o
    where o.customer_id = i.customer_id and o.type = 'credit_note' and o.state ->> 'invoice' = i.id
      and o.state ->> 'status' = 'issued'
  ) c on true
  left join lateral (
    select sum((o.state ->> 'amount')::bigint) as amount from public.stripe_objects o
    where o.type = 'refund' and o.state ->> 'payment_intent' = p.intent
      and o.state ->> 'status' not in ('failed', 'canceled')
  ) r on true
  left join lateral (
    select max((o.state ->> 'amount_refunded')::bigint) filter (where not exists (
      -- What the charge says includes refunds that failed later.
      select from public.stripe_objects f
      where f.type = 'refund' and f.state ->> 'payment_intent' = p.intent and f.state ->> 'status' in ('failed', 'canceled')
    )) as amount from public.stripe_objects o
    where o.customer_id = i.customer_id and o.type = 'charge' and o.state ->> 'payment_intent' = p.intent
  ) h on true
  left join lateral (
    select sum((o.state ->> 'amount')::bigint) as amount from public.stripe_objects o
    where o.type = 'dispute' and o.state ->> 'payment_intent' = p.intent
      and o.state ->> 'status' not in ('won', 'warning_closed')
  ) d on true
  where i.id = invoice and i.type = 'invoice'
  on conflict (stripe_invoice_id) do update set
    organization_id = excluded.organization_id, stripe_subscription_id = excluded.stripe_subscription_id,
    number = excluded.number, status = excluded.status, billing_reason = excluded.billing_reason, currency = excluded.currency,
    subtotal_cents = excluded.subtotal_cents, discount_cents = excluded.discount_cents, tax_cents = excluded.tax_cents,
    total_cents = excluded.total_cents, paid_cents = excluded.paid_cents, remaining_cents = excluded.remaining_cents,
    credited_cents = excluded.credited_cents, refunded_cents = excluded.refunded_cents,
    disputed_cents = excluded.disputed_cents, credit_notes = excluded.credit_notes, period_start = excluded.period_start,
    period_end = excluded.period_end, issued_at = excluded.issued_at, due_at = excluded.due_at, paid_at = excluded.paid_at,
    hosted_invoice_url = excluded.hosted_invoice_url, invoice_pdf = excluded.invoice_pdf
  where to_jsonb(n) - '{id,created_at,updated_at}'::text[] is distinct from
    to_jsonb(excluded) - '{id,created_at,updated_at}'::text[];
  insert into public.invoice_credits as n (
    organization_id, invoice_id, type, stripe_object_id, number, status, amount_cents, currency, happened_at
  )
  select i.organization_id, i.id, upper(o.type)::public."InvoiceCreditType", o.id, o.state ->> 'number',
    coalesce(o.state ->> 'status', 'unknown'), coalesce((o.state ->> 'amount')::bigint, 0),
    lower(coalesce(o.state ->> 'currency', i.currency)), coalesce(to_timestamp((o.state ->> 'created')::bigint), o.state_at)
  from public.invoices i
  cross join lateral (
    select c.* from public.stripe_objects c where c.type = 'credit_note' and c.state ->> 'invoice' = invoice
    union all
    select r.* from public.stripe_objects r
    where r.type in ('refund', 'dispute') and r.state ->> 'payment_intent' = private.payment_of_invoice(invoice)
  ) o
  where i.stripe_invoice_id = invoice
  on conflict (stripe_object_id) do update set
    invoice_id = excluded.invoice_id, status = excluded.status, amount_cents = excluded.amount_cents,
    number = excluded.number, happened_at = excluded.happened_at
  where (n.invoice_id, n.status, n.amount_cents, n.number, n.happened_at) is distinct from
    (excluded.invoice_id, excluded.status, excluded.amount_cents, excluded.number, excluded.happened_at);
end $$;
comment on function private.settle_invoice(text, uuid) is
  'Writes the row of an invoice and its credits from the objects at Stripe: the invoice, its refunds, credit notes and disputes.';

-- Money for a plan nobody has: the open invoice of a subscription that ended unpaid is paid afterwards, or the organization
-- was closed or deleted before Strive first heard of the invoice. By Strive's clock, since closing happens here.
create function private.settle_late_payment(object public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
begin
  insert into public.refunds_due (object_id, stripe_payment_intent_id, amount_cents, currency, reason, status, error)
  select i.id, private.payment_of_invoice(i.id), (i.state ->> 'amount_paid')::bigint, lower(i.state ->> 'currency'), 'ENDED',
    -- A subscription that began after the closing never gave anything.
    case when closed.at <= s.created_at and to_timestamp((s.state ->> 'started')::bigint) > closed.at - interval '1 day'
      then 'DUE' else 'TO_DECIDE' end::public."RefundStatus",
    format('Invoice %s was paid after its %s.', coalesce(i.state ->> 'number', i.id), case when closed.at <= i.created_at
      then 'organization was closed' else format('subscription %s had ended', s.id) end)
  from public.stripe_objects i
  join public.stripe_objects s on s.id = i.state ->> 'subscription' and s.type = 'subscription'
  cross join lateral (
    select coalesce(
      (select c.created_at from private.closed_customers c where c.stripe_customer_id = i.customer_id),
      (select o.closed_at from public.organizations o where o.id = private.organization_of(i.customer_id))
    ) as at
  ) closed
  where i.type = 'invoice' and (i.id = object.id or s.id = object.id) and i.customer_id = object.customer_id
    and i.state ->> 'status' = 'paid' and (i.state ->> 'amount_paid')::bigint > 0 and i.state ->> 'currency' ~ '^[a-zA-Z]{3}$'
    and (closed.at <= i.created_at
        and coalesce(to_timestamp((i.state ->> 'paid')::bigint), i.state_at) > closed.at - interval '1 day'
      or s.state ->> 'status' = 'canceled'
      and coalesce((i.state ->> 'paid')::bigint, extract(epoch from i.state_at)::bigint)
        >= coalesce((s.state ->> 'ended_at')::bigint, extract(epoch from s.state_at)::bigint)
        -- Within one second only a subscription that was not paid for can have ended first.
        + (not coalesce((
          select e.state ->> 'status' in ('past_due', 'unpaid') from public.stripe_events e
          where e.object_id = s.id and e.state ->> 'status' <> 'canceled' and e.status <> 'QUARANTINED'
          order by e.created desc, e.place desc, e.id desc limit 1
        ), false))::integer)
  on conflict do nothing;
end $$;
comment on function private.settle_late_payment(public.stripe_objects) is
  'Queues a payment that arrived after the end of its subscription: a person decides about the refund.';

-- Prices --------------------------------------------------------------------------------------------------------------

create function private.settle_price(object public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
declare
  details jsonb := object.state;
  is_sold boolean := (details ->> 'active')::boolean and not exists (
    select from public.stripe_objects p where p.id = details ->> 'product' and not (p.state ->> 'active')::boolean
  );
  wanted_cycle public."BillingCycle" := case
    when details ->> 'every' = '1' then case details ->> 'interval' when 'month' then 'MONTHLY' when 'year' then 'YEARLY' end
  end;
  wanted_tier public."SubscriptionTier" := (
    select t from unnest(enum_range(null::public."SubscriptionTier")) t where t::text = upper(details ->> 'tier')
  );
begin
  if not exists (select from public.plans p where p.stripe_price_id = object.id) then
    if exists (select from private.plan_prices p where p.stripe_price_id = object.id)
      or not is_sold or wanted_tier is null or wanted_tier = 'FREE' or wanted_cycle is null
      or coalesce((details ->> 'amount')::bigint, 0) = 0 or details ->> 'currency' !~ '^[a-z]{3}$'
    then
      return;
    end if;
    update public.plans p set stripe_price_id = object.id
    where p.tier = wanted_tier and p.billing_cycle = wanted_cycle and p.is_active and p.stripe_price_id is null
      and p.amount_cents = (details ->> 'amount')::bigint and p.currency = details ->> 'currency';
    if not found then
      -- Known, so that a customer who pays it gets the tier; the public offer does not change.
      insert into public.plans (tier, billing_cycle, stripe_price_id, amount_cents, currency, limits, is_active)
      select wanted_tier, wanted_cycle, object.id, (details ->> 'amount')::bigint, details ->> 'currency', p.limits, false
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

-- Refunds -------------------------------------------------------------------------------------------------------------

-- A refund may fail days after it was made; one that a person then makes at Stripe is later than that.
create function private.settle_refund(object public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
begin
  if object.type = 'charge' and (object.state ->> 'refunded')::boolean then
    update public.refunds_due r set status = 'REFUNDED', refunded_at = now(), error = null
    where r.stripe_payment_intent_id = object.state ->> 'payment_intent' and r.status <> 'REFUNDED' and not exists (
      select from public.stripe_objects f
      where f.id = r.stripe_refund_id and f.type = 'refund' and f.is_last and f.state_at >= object.state_at
    );
  elsif object.type = 'refund' and object.is_last then
    update public.refunds_due r set
      status = 'FAILED', refunded_at = null, error = format('Stripe says: %s.', object.state ->> 'status')
    where r.stripe_refund_id = object.id and r.status = 'REFUNDED' and not exists (
      select from public.stripe_objects c
      where c.id = object.state ->> 'charge' and c.type = 'charge' and (c.state ->> 'refunded')::boolean
        and c.state_at > object.state_at
    );
  end if;
end $$;
comment on function private.settle_refund(public.stripe_objects) is 'Writes the result of a refund at Stripe into the queue of refunds.';

-- The facts of a payment ----------------------------------------------------------------------------------------------
-- Built here and nowhere else, from the states of a subscription, its first invoice and the payment intent: those that the
-- events have left in stripe_objects, or those that a function has just fetched.

create type private.payment_facts as (
  session_id text,
  attempt text,
  tier text,
  customer text,
  subscription text,
  subscription_status text,
  price text,
  quantity text,
  period_start timestamptz,
  period_end timestamptz,
  payment_intent text,
  payment_status "PaymentStatus",
  list_amount bigint,
  invoiced bigint,
  amount bigint,
  currency text,
  is_refunded boolean
);
comment on type private.payment_facts is 'The payment of an onboarding as Stripe has it; null is unknown.';

create function private.payment_facts(
  customer text, subscription_id text, subscription jsonb, invoice jsonb, intent_id text, intent jsonb, is_refunded boolean
) returns private.payment_facts language sql stable set search_path = '' as $$
  select (
    coalesce(subscription ->> 'session', invoice ->> 'session'),
    coalesce(subscription ->> 'attempt', invoice ->> 'attempt'),
    coalesce(subscription ->> 'tier', invoice ->> 'tier'),
    customer, subscription_id, subscription ->> 'status',
    case jsonb_array_length(subscription -> 'items') when 1 then subscription #>> '{items,0,price}'
      else jsonb_array_length(subscription -> 'items') || ' prices' end,
    subscription #>> '{items,0,quantity}',
    to_timestamp((subscription ->> 'period_start')::bigint), to_timestamp((subscription ->> 'period_end')::bigint),
    coalesce(intent_id, invoice ->> 'payment_intent'),
    case
      -- Paid or void is the last word about an invoice, whatever is known of the intent.
      when invoice ->> 'status' in ('paid', 'void') and coalesce(intent ->> 'status', '') <> 'succeeded' then (
        select s.status from private.payment_statuses s where s.stripe_status = invoice ->> 'status'
      )
      when intent is not null then coalesce((
        select case when (intent ->> 'failed')::boolean then s.if_failed else s.status end
        from private.payment_statuses s where s.stripe_status = intent ->> 'status'
      ), 'PENDING')
      else (select s.status from private.payment_statuses s where s.stripe_status = invoice ->> 'outcome')
    end,
    (invoice ->> 'subtotal')::bigint,
    (invoice ->> 'amount_due')::bigint,
    case
      when intent ->> 'status' = 'succeeded' then (intent ->> 'amount_received')::bigint
      when invoice ->> 'status' = 'paid' then (invoice ->> 'amount_paid')::bigint
      else coalesce((intent ->> 'amount')::bigint, (invoice ->> 'amount_due')::bigint)
    end,
    coalesce(intent ->> 'currency', invoice ->> 'currency'),
    is_refunded
  )::private.payment_facts
$$;
comment on function private.payment_facts(text, text, jsonb, jsonb, text, jsonb, boolean) is
  'The facts of a payment from the states of its objects at Stripe.';

create function private.fetched_payment_facts(fetched jsonb) returns private.payment_facts
language sql stable set search_path = '' as $$
  select private.payment_facts(
    fetched ->> 'customer', fetched ->> 'subscription_id', nullif(fetched -> 'subscription', 'null'),
    nullif(fetched -> 'invoice', 'null'), fetched ->> 'payment_intent_id', nullif(fetched -> 'payment_intent', 'null'),
    (fetched ->> 'is_refunded')::boolean
  )
$$;
comment on function private.fetched_payment_facts(jsonb) is
  'The facts of a payment that a function has fetched from Stripe: {customer, subscription_id, subscription, invoice, '
  'payment_intent_id, payment_intent, is_refunded}, the objects in the form of shared/billing/objects.py.';

create function private.payment_facts_of(object public.stripe_objects) returns private.payment_facts
language plpgsql stable set search_path = '' as $$
declare
  subscription public.stripe_objects;
  invoice public.stripe_objects;
  intent public.stripe_objects;
  intent_id text;
  named text := case object.type when 'subscription' then object.id else object.state ->> 'subscription' end;
begin
  if named is null and object.type = 'payment_intent' then
    select o.state ->> 'subscription' into named from public.stripe_objects o
    where o.id = private.invoice_of(object) and o.type = 'invoice';
  end if;
  select * into subscription from public.stripe_objects o where o.id = named and o.type = 'subscription';
  -- Onboarding is about the first invoice.
  select * into invoice from public.stripe_objects o
  where o.customer_id = object.customer_id and o.type = 'invoice' and o.state ->> 'subscription' = named
  order by o.state ->> 'reason' = 'subscription_create' desc nulls last, o.state_at, o.id limit 1;
  intent_id := case object.type when 'payment_intent' then object.id else coalesce(
    private.payment_of_invoice(invoice.id),
    (select s.stripe_payment_intent_id from public.onboarding_sessions s where s.stripe_subscription_id = named)
  ) end;
  select * into intent from public.stripe_objects o where o.type = 'payment_intent' and o.id = intent_id;
  return private.payment_facts(
    object.customer_id, named, subscription.state, invoice.state, coalesce(intent.id, intent_id), intent.state, (
      select true from public.stripe_objects o
      where o.customer_id = object.customer_id and o.type = 'charge' and (o.state ->> 'refunded')::boolean
        and o.state ->> 'payment_intent' = intent_id limit 1
    )
  );
end $$;
comment on function private.payment_facts_of(public.stripe_objects) is
  'The facts of the payment that an object is part of, from all objects that the events have left.';

-- One object ----------------------------------------------------------------------------------------------------------

create function private.settle_discounts(object public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
declare
  org uuid;
begin
  for org in
    select distinct private.organization_of(s.customer_id, s.id) from public.stripe_objects s
    where s.type = 'subscription' and not s.is_last and case object.type
      when 'discount' then s.customer_id = object.customer_id
      else exists (
        select from public.stripe_objects d
        where d.type = 'discount' and d.customer_id = s.customer_id and d.state ->> 'coupon' = object.id
      ) end
  loop
    if org is not null then
      perform private.settle_subscriptions(org);
    end if;
  end loop;
end $$;
comment on function private.settle_discounts(public.stripe_objects) is 'Recomputes the net amounts that a discount or coupon is part of.';

create function private.settle_stripe_object(object public.stripe_objects) returns text
language plpgsql set search_path = '' as $$
declare
  details jsonb := object.state;
  customer text := object.customer_id;
  org uuid;
  facts private.payment_facts;
  invoice text;
  is_onboarding boolean := false;
  is_closed boolean;
begin
  case object.type
    when 'price' then
      perform private.settle_price(object);
      return null;
    when 'product' then
      perform private.settle_price(p) from public.stripe_objects p
      where p.type = 'price' and p.state ->> 'product' = object.id order by p.id;
      return null;
    when 'coupon' then
      perform private.settle_discounts(object);
      return null;
    else null;
  end case;
  if customer is null then
    -- An object that does not name its customer names one that does.
    select o.customer_id into customer from public.stripe_objects o
    where o.id in (details ->> 'payment_intent', details ->> 'charge', details ->> 'subscription', details ->> 'invoice')
      and o.customer_id is not null
    limit 1;
  end if;
  if customer is null and (object.type in ('setup_intent', 'payment_method', 'discount', 'invoice_payment')
    or object.type = 'checkout_session' and details ->> 'status' in ('open', 'expired'))
  then
    return null; -- no customer, and no money: there is nothing to wait for
  end if;
  if object.type = 'checkout_session' and details ->> 'organization' is not null then
    perform private.link_customer(object);
  end if;
  org := private.organization_of(customer, coalesce(case object.type when 'subscription' then object.id end, details ->> 'subscription'));
  if org is null and exists (select from private.closed_customers c where c.stripe_customer_id = customer) then
    if object.type = 'subscription' and not object.is_last then
      perform private.end_at_stripe(object, 'Its organization was deleted');
    elsif object.type in ('charge', 'refund') then
      perform private.settle_refund(object);
    end if;
    if object.type in ('invoice', 'subscription') then
      perform private.settle_late_payment(object);
    end if;
    return null;
  end if;
  -- A completed onboarding is over, except for payments of its other attempts.
  if object.type in ('subscription', 'invoice', 'payment_intent') and (org is null or exists (
    select from private.onboarding_payments p where p.settled_at is null
      and (p.stripe_subscription_id in (object.id, details ->> 'subscription') or p.stripe_payment_intent_id = object.id)
  )) then
    facts := private.payment_facts_of(object);
    if facts.session_id is not null or exists (
      select from private.onboarding_payments p
      where p.stripe_subscription_id = facts.subscription or p.stripe_payment_intent_id = facts.payment_intent
    ) then
      is_onboarding := private.apply_payment_facts(facts) ->> 'outcome' <> 'UNKNOWN';
      if org is null and is_onboarding then
        select o.id into org from public.organizations o where o.stripe_customer_id = customer;
      end if;
    end if;
  end if;
  if org is null and not is_onboarding then
    if not exists (
      select from public.onboarding_sessions s where s.stripe_customer_id = customer
        or s.stripe_subscription_id = details ->> 'subscription' or s.stripe_payment_intent_id = details ->> 'payment_intent'
    ) then
      return coalesce(customer, details ->> 'subscription', details ->> 'payment_intent', object.id);
    end if;
  end if;
  if object.type in ('charge', 'refund') then
    perform private.settle_refund(object);
  elsif object.type = 'customer' and (details ->> 'deleted')::boolean and org is not null then
    perform private.part_with_customer(customer, org);
  end if;
  if org is null then
    return null;
  end if;
  if object.type in ('invoice', 'invoice_payment', 'credit_note', 'charge', 'refund', 'dispute') then
    invoice := case object.type when 'invoice' then object.id else private.invoice_of(object) end;
    if invoice is not null then
      perform private.settle_invoice(invoice, org);
    end if;
    if object.type = 'invoice_payment' then
      update public.refunds_due r set stripe_payment_intent_id = details ->> 'payment_intent'
      where r.object_id = invoice and r.stripe_payment_intent_id is null and r.reason <> 'REQUESTED';
    end if;
    perform private.notify_owners_of_money(object, org);
  end if;
  -- Nearly every event ends here: what cannot be late is not looked up.
  is_closed := object.type in ('invoice', 'subscription')
    and exists (select from public.organizations o where o.id = org and o.closed_at is not null);
  if object.type = 'invoice' and (details ->> 'amount_paid')::bigint > 0
    or object.type = 'subscription' and (object.is_last or is_closed)
  then
    perform private.settle_late_payment(object);
  end if;
  if object.type = 'discount' then
    perform private.settle_discounts(object);
  elsif object.type = 'subscription_schedule' then
    perform private.settle_subscriptions(org);
  elsif object.type = 'checkout_session' and details ->> 'checkout' is not null then
    perform private.settle_checkout(object);
  elsif object.type = 'subscription' then
    perform private.settle_subscriptions(org);
    if is_closed and not object.is_last then
      perform private.end_at_stripe(object, 'Its organization is closed');
    end if;
    if private.plan_of(object) is null and (not object.is_last or not exists (
      select from public.subscriptions s where s.stripe_subscription_id = object.id
    )) then
      return coalesce(details #>> '{items,0,price}', object.id);
    end if;
  end if;
  return null;
end $$;
comment on function private.settle_stripe_object(public.stripe_objects) is
  'Brings everything that depends on an object to its state. Returns the customer, price or payment that has to become known first.';

create function private.why_parked(missing text) returns text language sql immutable set search_path = '' as $$
  select case
    when missing like 'cus\_%' then format('No organization or onboarding has the customer %s.', missing)
    when missing like 'price\_%' then format('No plan has the price %s.', missing)
    else format('%s is unknown.', missing)
  end where missing is not null
$$;
comment on function private.why_parked(text) is 'Why an event is parked, for people.';

create function private.settle_and_note(object public.stripe_objects) returns text
language plpgsql set search_path = '' as $$
declare
  missing text := private.settle_stripe_object(object);
begin
  if missing is distinct from object.waits_for then
    update public.stripe_objects o set waits_for = missing where o.id = object.id;
    update public.stripe_events e
    set status = k.status, applied_at = case k.status when 'APPLIED' then now() end,
      error = case k.status when 'PARKED' then private.why_parked(missing) end
    from (
      select case
        when missing is null then 'APPLIED'
        when exists (select from private.foreign_stripe_keys f where f.key = missing) then 'IGNORED'
        else 'PARKED' end::public."StripeEventStatus" as status
    ) k
    where e.object_id = object.id and e.object_type is not null
      and e.status in ('RECEIVED', 'PARKED', 'IGNORED');
  end if;
  return missing;
end $$;
comment on function private.settle_and_note(public.stripe_objects) is
  'Settles an object; once nothing is missing, its parked events are applied.';
