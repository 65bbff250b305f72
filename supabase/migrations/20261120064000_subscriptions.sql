-- Subscriptions, and what one brings, follow from the present state of their objects at Stripe.

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

create function private.with_discounts(subscription public.stripe_objects) returns public.stripe_objects
language plpgsql stable set search_path = '' as $$
declare
  of_customer jsonb;
begin
  if coalesce(subscription.state -> 'discounts', '[]') = '[]' then
    select jsonb_agg(d.id) into of_customer from public.stripe_objects d
    where d.customer_id = subscription.customer_id and d.type = 'discount' and d.state ->> 'subscription' is null
      and not coalesce((d.state ->> 'deleted')::boolean, false);
    if of_customer is not null then
      subscription.state := jsonb_set(subscription.state, '{discounts}', of_customer);
    end if;
  end if;
  return subscription;
end $$;
comment on function private.with_discounts(public.stripe_objects) is
  'A subscription with its discounts; without any, with that of its customer.';

create function private.has_discounts(state jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  return coalesce(state -> 'discounts', '[]') <> '[]' or state -> 'items' @? '$[*].discounts[*]';
end $$;
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
  select p.* into price from private.plan_prices p where p.stripe_price_id = subscription.state #>> '{items,0,price}';
  if not found then
    select p.* into price
    from jsonb_array_elements(subscription.state -> 'items') with ordinality i (item, n)
    join private.plan_prices p on p.stripe_price_id = i.item ->> 'price' order by i.n limit 1;
  end if;
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
  'because Stripe delivers for three days and a customer must not lose a plan over a failure that was not reported yet.';

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
  details jsonb := object.state;
  price private.plan_prices := private.plan_of(object);
  months integer;
  item jsonb;
  plan_amount bigint;
  gross numeric;
  phase jsonb;
  deleted_at timestamptz;
  made public.subscriptions;
begin
  if price.tier is null then
    price := private.last_plan_of(object);
    if price.tier is null then
      return null;
    end if;
  end if;
  months := private.months_of(price.billing_cycle);
  item := details #> '{items,0}';
  if item ->> 'price' <> price.stripe_price_id then
    item := coalesce(
      (select i from jsonb_array_elements(details -> 'items') i where i ->> 'price' = price.stripe_price_id limit 1), item
    );
  end if;
  if details #>> '{items,0,amount}' is null or jsonb_array_length(details -> 'items') > 1 then
    -- An item without an amount has that of the plan.
    select p.amount_cents into plan_amount from public.plans p where p.tier = price.tier and p.billing_cycle = price.billing_cycle
    order by p.stripe_price_id = price.stripe_price_id desc nulls last, p.is_active desc, p.created_at desc, p.id limit 1;
  end if;
  made.organization_id := org;
  made.stripe_subscription_id := object.id;
  made.stripe_customer_id := object.customer_id;
  select c.state_at, case when c.id is not null then 'CANCELLED' else coalesce(s.status, 'INACTIVE') end
  into deleted_at, made.status
  from (values (0)) one (row)
  left join private.subscription_statuses s on s.stripe_status = details ->> 'status'
  left join public.stripe_objects c
    on c.id = object.customer_id and c.type = 'customer' and (c.state ->> 'deleted')::boolean and c.state_at >= object.state_at;
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
  present public.subscriptions;
  is_granted boolean;
  object public.stripe_objects;
  made public.subscriptions;
  known public.subscriptions;
  wanted public.subscriptions[] := '{}';
  checkouts text[];
  is_bought_twice boolean;
begin
  -- The trigger of subscriptions locks the same row: a later transaction sees what the earlier one wrote.
  perform from public.organizations o where o.id = org for no key update;
  customers := private.customers_of(org);
  select s.* into present from public.subscriptions s where s.organization_id = org and private.is_live(s.status);
  -- A granted plan counts before those of Stripe.
  is_granted := present.tier <> 'FREE'
    and not exists (select from public.stripe_objects o where o.id = present.stripe_subscription_id);
  for object in
    select o.* from public.stripe_objects o
    where o.customer_id = any (customers) and o.type = 'subscription'
      -- Its events still wait for the first payment, which is known to have arrived: it was written with that.
      and not (o.state ->> 'status' = 'incomplete' and exists (
        select from private.onboarding_payments p where p.stripe_subscription_id = o.id and p.status = 'SUCCEEDED'
      ))
  loop
    object := private.with_discounts(object);
    made := private.subscription_of(object, org);
    if made.stripe_subscription_id is not null then
      wanted := array_append(wanted, made);
      if not object.is_last and private.has_discounts(object.state) and private.has_unknown_discounts(object.state) then
        update public.stripe_objects o set in_doubt_since = now() where o.id = object.id and o.in_doubt_since is null;
      end if;
    end if;
  end loop;
  if cardinality(wanted) > 1 then
    -- The one that counts is last: it may replace another.
    wanted := array(
      select w from unnest(wanted) w
      order by private.is_live(w.status), w.status = 'PAST_DUE' desc, w.started_at nulls first, w.stripe_subscription_id
    );
  end if;
  foreach made in array wanted loop
    if private.is_live(made.status)
      and (is_granted or made.stripe_subscription_id <> (wanted[cardinality(wanted)]).stripe_subscription_id)
    then
      made.status := 'INACTIVE';
      select array_agg(o.state ->> 'checkout') filter (where o.state ->> 'checkout' is not null),
        -- Two checkouts were paid at almost the same time: the customer wanted one of them.
        bool_or(o.id = made.stripe_subscription_id and o.state ->> 'checkout' is not null)
          and made.started_at > max(w.started_at) - interval '24 hours'
      into checkouts, is_bought_twice
      from unnest(wanted) w join public.stripe_objects o on o.id = w.stripe_subscription_id where private.is_live(w.status);
      -- Or an old subscription was paid for again while a checkout was open, which replaces it.
      if is_bought_twice or private.has_revived(made.stripe_subscription_id, checkouts) then
        perform private.refund_duplicate(made);
      end if;
    elsif private.is_live(made.status) and present.tier = 'FREE' then
      update public.subscriptions s set status = 'CANCELLED', cancelled_at = now() where s.id = present.id;
    end if;
    select * into known from public.subscriptions s where s.stripe_subscription_id = made.stripe_subscription_id;
    made.id := coalesce(known.id, gen_random_uuid());
    made.granted_reason := known.granted_reason;
    made.created_at := coalesce(known.created_at, now());
    made.updated_at := coalesce(known.updated_at, now());
    if known.id is null then
      insert into public.subscriptions values (made.*);
      continue;
    end if;
    -- A later time alone changes nothing.
    known.started_at := made.started_at;
    known.changed_at := made.changed_at;
    if known is distinct from made then
      update public.subscriptions s set
        stripe_customer_id = made.stripe_customer_id, status = made.status, tier = made.tier,
        billing_cycle = made.billing_cycle, currency = made.currency, amount_cents = made.amount_cents,
        quantity = made.quantity, net_monthly_amount = made.net_monthly_amount,
        current_period_start = made.current_period_start, current_period_end = made.current_period_end,
        trial_ends_at = made.trial_ends_at, cancel_at_period_end = made.cancel_at_period_end, ends_at = made.ends_at,
        cancelled_at = made.cancelled_at, past_due_since = made.past_due_since, pending_tier = made.pending_tier,
        pending_billing_cycle = made.pending_billing_cycle, pending_quantity = made.pending_quantity,
        pending_at = made.pending_at, started_at = made.started_at, changed_at = made.changed_at
      where s.id = known.id;
    end if;
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
    order by (i.state ->> 'paid')::bigint desc nulls last, i.state_at limit 1
  ) i on true
  on conflict (object_id) where reason <> 'REQUESTED' do update
  set amount_cents = excluded.amount_cents, stripe_payment_intent_id = excluded.stripe_payment_intent_id
  where refunds_due.status = 'DUE';
end $$;
comment on function private.refund_duplicate(public.subscriptions) is
  'Has a subscription that was bought twice cancelled and refunded by the job.';
