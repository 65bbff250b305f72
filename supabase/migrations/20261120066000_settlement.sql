-- What follows from prices, refunds and payments at Stripe. At the end, the settlement of any object.

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
    where s.type = 'subscription' and case object.type
      when 'discount' then s.customer_id = object.customer_id
      -- The terms of a coupon never change: subscriptions that are over need them once.
      else (not s.is_last or object.created_at = now()) and exists (
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
