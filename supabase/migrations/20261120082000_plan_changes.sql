-- What owners do with their plan: buy it in Stripe Checkout, change, cancel and resume it. The database decides who may
-- do it and what to request from Stripe; the functions call Stripe, and Stripe's objects have the result.

create type "CheckoutStatus" as enum ('OPEN', 'PAID', 'EXPIRED');
comment on type "CheckoutStatus" is 'OPEN: may still be paid. EXPIRED: replaced, cancelled or too old.';

create table private.checkouts (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  tier "SubscriptionTier" not null,
  billing_cycle "BillingCycle" not null,
  stripe_price_id text not null,
  quantity integer not null constraint "quantity is positive" check (quantity > 0),
  trial_days integer not null,
  success_url text not null,
  cancel_url text not null,
  stripe_session_id text unique,
  status "CheckoutStatus" not null default 'OPEN',
  requested_by uuid references public.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table private.checkouts is 'Checkout sessions of organizations, written before Stripe is called.';
comment on column private.checkouts.success_url is 'Part of the request to Stripe: a retry must send exactly the same.';
comment on column private.checkouts.cancel_url is 'See success_url.';
comment on column private.checkouts.quantity is 'Seats; 1 where the plan is not sold per seat.';
comment on column private.checkouts.trial_days is 'Free days that were offered.';
comment on column private.checkouts.stripe_session_id is 'The session at Stripe (cs_…); null until it is created.';
create unique index checkouts_open_idx on private.checkouts (organization_id) where status = 'OPEN';
comment on index private.checkouts_open_idx is 'Two owners who buy at once get the same checkout.';
create index checkouts_organization_idx on private.checkouts (organization_id, created_at desc);
create index checkouts_requested_by_idx on private.checkouts (requested_by);
create trigger touch before update on private.checkouts for each row execute function private.touch_updated_at();

create function private.require_payer(buying boolean default true) returns uuid
language plpgsql stable set search_path = '' as $$
declare
  org uuid := private.require_org('OWNER', true);
begin
  perform private.refuse_impersonation();
  if buying and exists (select from public.organizations o where o.id = org and o.closed_at is not null) then
    perform private.refuse_read_only('OWNER');
  end if;
  return org;
end $$;
comment on function private.require_payer(boolean) is
  'The organization this request acts in, for its OWNER, also where it is suspended: it pays. Buying is refused where it is closed.';

create function private.live_subscription(org uuid) returns public.subscriptions
language sql stable set search_path = '' as $$
  select s.* from public.subscriptions s where s.organization_id = org and private.is_live(s.status) limit 1
$$;
comment on function private.live_subscription(uuid) is 'The live subscription of an organization; null without one.';

create function private.sold_plan(tier "SubscriptionTier", cycle "BillingCycle") returns public.plans
language plpgsql stable set search_path = '' as $$
declare
  plan public.plans;
begin
  select p.* into plan from public.plans p where p.tier = sold_plan.tier and p.billing_cycle = cycle and p.is_active;
  if plan.id is null or tier = 'FREE' then
    raise exception '% % cannot be bought here', tier, cycle using
      errcode = 'PT422', detail = 'Found it in the fields tier and billing_cycle.', hint = case tier
        when 'ENTERPRISE' then 'ENTERPRISE is by agreement: contact our sales team.'
        when 'FREE' then 'FREE costs nothing: cancel the subscription with cancel-subscription.'
        else 'Choose a plan that is on sale: GET /rest/v1/plans lists them.' end;
  elsif plan.stripe_price_id is null then
    raise exception 'This plan cannot be paid for yet' using
      errcode = 'PT503', detail = format('%s %s has no price at Stripe.', tier, cycle),
      hint = 'An administrator sets stripe_price_id in plans.';
  end if;
  return plan;
end $$;
comment on function private.sold_plan("SubscriptionTier", "BillingCycle") is 'A plan that can be bought; PT422 or PT503 for all others.';

create function private.seats(plan public.plans, wanted integer, org uuid, present integer default null) returns integer
language plpgsql stable set search_path = '' as $$
declare
  members integer := (select count(*) from public.organization_members m where m.organization_id = org);
begin
  if not plan.per_seat then
    if coalesce(wanted, 1) <> 1 then
      raise exception '% is not sold per seat', plan.tier using
        errcode = 'PT422', detail = format('Found the quantity %s.', wanted), hint = 'Leave quantity out.';
    end if;
    return 1;
  end if;
  if wanted < members then
    raise exception 'There are more members than seats' using
      errcode = 'PT422', detail = format('Found the quantity %s and %s members.', wanted, members),
      hint = 'Buy a seat for each member, or remove members first.';
  end if;
  return coalesce(wanted, greatest(present, members), 1);
end $$;
comment on function private.seats(public.plans, integer, uuid, integer) is 'The quantity of a subscription: one, or a seat for each member at least.';

-- Checkout ------------------------------------------------------------------------------------------------------------

create function private.begin_checkout(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_payer();
  organization public.organizations;
  live public.subscriptions;
  plan public.plans;
  wanted integer;
  checkout private.checkouts;
begin
  plan := private.sold_plan((request ->> 'tier')::public."SubscriptionTier", (request ->> 'billing_cycle')::public."BillingCycle");
  -- Two owners of one organization wait for each other.
  select o.* into organization from public.organizations o where o.id = org for no key update;
  wanted := private.seats(plan, (request ->> 'quantity')::integer, org);
  live := private.live_subscription(org);
  if live.id is not null and live.tier <> 'FREE' then
    raise exception 'This organization has a plan already' using
      errcode = 'PT409', detail = format('It is %s, %s.', live.tier, live.status),
      hint = case when live.stripe_subscription_id is null then 'It was granted; ask our support to change it.'
        else 'Change it with change-plan.' end;
  end if;
  select c.* into checkout from private.checkouts c where c.organization_id = org and c.status = 'OPEN';
  if checkout.id is not null and ((checkout.stripe_price_id, checkout.quantity) <> (plan.stripe_price_id, wanted)
    or checkout.created_at < now() - interval '23 hours')
  then
    return jsonb_build_object('replaced', to_jsonb(checkout), 'customer', organization.stripe_customer_id);
  end if;
  if checkout.id is null then
    insert into private.checkouts (
      organization_id, tier, billing_cycle, stripe_price_id, quantity, trial_days, success_url, cancel_url, requested_by
    ) values (
      org, plan.tier, plan.billing_cycle, plan.stripe_price_id, wanted,
      case when exists (
        select from public.subscriptions s where s.organization_id = org and s.tier <> 'FREE' and s.granted_reason is null
      ) then 0 else plan.trial_days end,
      request ->> 'success_url', request ->> 'cancel_url', private.current_user_id()
    ) returning * into checkout;
  end if;
  return jsonb_build_object(
    'checkout', to_jsonb(checkout), 'customer', organization.stripe_customer_id, 'name', organization.name,
    'email', coalesce(organization.billing_email, (
      select u.email from public.users u where u.id = private.current_user_id()
    )),
    'customer_key', format('org:%s:customer:%s', org, (
      select count(*) from private.former_customers f where f.organization_id = org
    ))
  );
end $$;
comment on function private.begin_checkout(jsonb) is
  'The open checkout of the current organization for {tier, billing_cycle, quantity}, or `replaced`, one for something else '
  'that must be expired at Stripe first. For its OWNER; PT409 if the organization has a plan.';

create function private.save_customer(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_payer();
begin
  update public.organizations o set stripe_customer_id = request ->> 'customer'
  where o.id = org and o.stripe_customer_id is null;
  return (select to_jsonb(o.stripe_customer_id) from public.organizations o where o.id = org);
end $$;
comment on function private.save_customer(jsonb) is 'Saves the {customer} that was created for the current organization; returns the one it has.';

create function private.save_checkout(request jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update private.checkouts c set
    stripe_session_id = coalesce(request ->> 'session', c.stripe_session_id),
    status = coalesce((request ->> 'status')::public."CheckoutStatus", c.status)
  where c.id = (request ->> 'id')::uuid and c.status = 'OPEN' and c.organization_id = private.require_payer()
  returning to_jsonb(c.status)
$$;
comment on function private.save_checkout(jsonb) is 'Saves what Stripe says about a checkout: {id, session, status}.';

create function private.settle_checkout(object public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
declare
  checkout private.checkouts;
begin
  update private.checkouts c set
    stripe_session_id = coalesce(c.stripe_session_id, object.id),
    status = case object.state ->> 'status' when 'complete' then 'PAID' else 'EXPIRED' end::public."CheckoutStatus"
  where c.id = (object.state ->> 'checkout')::uuid and object.state ->> 'status' in ('complete', 'expired') and c.status <> 'PAID'
  returning * into checkout;
  if checkout.status = 'PAID' then
    -- Open invoices of an earlier subscription are no longer collected.
    perform private.add_stripe_task('CANCEL_SUBSCRIPTION', s.id, 'Replaced by a new subscription')
    from public.stripe_objects s
    where s.customer_id = any (private.customers_of(checkout.organization_id)) and s.type = 'subscription'
      and s.state ->> 'status' in ('past_due', 'unpaid', 'paused', 'incomplete') and s.id <> object.state ->> 'subscription';
    perform private.settle_subscriptions(checkout.organization_id);
  end if;
end $$;
comment on function private.settle_checkout(public.stripe_objects) is 'A checkout session at Stripe was completed or has expired.';

create function private.has_revived(subscription text, bought text[]) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (
    select from private.checkouts c
    join public.stripe_objects s on s.id = c.stripe_session_id
    cross join lateral private.fold_stripe_object(subscription, to_timestamp((s.state ->> 'created')::bigint)) was
    where c.id = any (bought::uuid[]) and c.status = 'PAID' and was.state ->> 'status' not in ('active', 'trialing')
  );
end $$;
comment on function private.has_revived(text, text[]) is
  'Whether a subscription was not running when one of these checkouts was opened: it was paid for again meanwhile.';

create function private.billing_customer(request jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  org uuid := private.require_payer(buying => false);
  customer text := (select o.stripe_customer_id from public.organizations o where o.id = org);
begin
  if customer is null then
    raise exception using errcode = 'PT409',
      message = case when exists (
        select from public.subscriptions s where s.organization_id = org and s.stripe_customer_id is not null
      ) then 'This organization was deleted at Stripe' else 'This organization has never bought anything' end,
      detail = format('Organization %s has no customer at Stripe.', org),
      hint = 'Buy a plan with create-checkout-session; the portal opens afterwards.';
  end if;
  return jsonb_build_object('stripe_customer_id', customer);
end $$;
comment on function private.billing_customer(jsonb) is 'The customer at Stripe of the current organization; for its OWNER.';

-- Changing ------------------------------------------------------------------------------------------------------------

create function private.subscription_to_change(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_payer(buying => false);
  live public.subscriptions;
begin
  select s.* into live from public.subscriptions s
  where s.organization_id = org and s.stripe_subscription_id is not null and s.status <> 'CANCELLED' and (
    private.is_live(s.status) or exists (
      select from public.stripe_objects o where o.id = s.stripe_subscription_id and o.state ->> 'status' in ('past_due', 'unpaid', 'paused')
    ))
  order by private.is_live(s.status) desc, s.created_at desc limit 1;
  if live.id is null then
    live := private.live_subscription(org);
    raise exception using errcode = 'PT409',
      message = case when live.tier <> 'FREE' then 'This plan was granted' else 'This organization has no subscription' end,
      detail = format('Organization %s has the plan %s.', org, coalesce(live.tier, 'FREE')),
      hint = case when live.tier <> 'FREE' then 'Ask our support to change it.' else 'Buy a plan with create-checkout-session.' end;
  end if;
  return jsonb_build_object(
    'subscription', live.stripe_subscription_id, 'customer', live.stripe_customer_id, 'status', live.status,
    'tier', live.tier, 'billing_cycle', live.billing_cycle, 'is_live', private.is_live(live.status)
  );
end $$;
comment on function private.subscription_to_change(jsonb) is
  'The subscription of the current organization that its OWNER may change; PT409 without one.';

create function private.plan_change(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_payer();
  plan public.plans;
  live public.subscriptions;
  wanted integer;
  effect text;
  present text;
begin
  plan := private.sold_plan((request ->> 'tier')::public."SubscriptionTier", (request ->> 'billing_cycle')::public."BillingCycle");
  perform private.subscription_to_change('{}');
  live := private.live_subscription(org);
  wanted := private.seats(plan, (request ->> 'quantity')::integer, org, live.quantity);
  if live.id is null then
    raise exception 'The subscription is not running' using
      errcode = 'PT409', detail = 'It is INACTIVE: a payment is due, or its trial ended without a card.',
      hint = 'Buy the plan with create-checkout-session, or pay the open invoice: create-billing-portal-session leads there.';
  elsif live.status = 'PAST_DUE' then
    raise exception 'The plan cannot change while a payment is due' using
      errcode = 'PT409', detail = 'The subscription is PAST_DUE.',
      hint = 'Pay the open invoice first, or change the card: create-billing-portal-session leads there.';
  elsif live.currency <> plan.currency then
    raise exception 'The currency of a subscription cannot change' using
      errcode = 'PT409', detail = format('It is billed in %s, and the plan is sold in %s.', upper(live.currency), upper(plan.currency)),
      hint = 'Cancel the subscription, and buy the plan when it has ended.';
  end if;
  effect := case
    when (live.tier, live.billing_cycle, live.quantity) = (plan.tier, plan.billing_cycle, wanted) then 'NONE'
    when live.billing_cycle = plan.billing_cycle
      and (plan.tier > live.tier or (plan.tier = live.tier and wanted > live.quantity)) then 'NOW'
    else 'PERIOD_END' end;
  if effect = 'PERIOD_END' and live.ends_at is not null then
    raise exception 'The subscription ends before the change' using
      errcode = 'PT409', detail = format('It ends on %s.', private.day(live.ends_at)), hint = 'Call resume-subscription first.';
  end if;
  select coalesce((private.plan_of(o)).stripe_price_id, o.state #>> '{items,0,price}') into present
  from public.stripe_objects o where o.id = live.stripe_subscription_id;
  return jsonb_build_object(
    'subscription', live.stripe_subscription_id, 'customer', live.stripe_customer_id, 'effect', effect,
    'present_price', present,
    -- The same plan keeps the price it was sold at.
    'price', case when (live.tier, live.billing_cycle) = (plan.tier, plan.billing_cycle) then present else plan.stripe_price_id end,
    'quantity', wanted, 'tier', plan.tier, 'billing_cycle', plan.billing_cycle, 'currency', plan.currency,
    'at', case effect when 'PERIOD_END' then live.current_period_end else now() end
  );
end $$;
comment on function private.plan_change(jsonb) is
  'What a change to {tier, billing_cycle, quantity} means: effect NOW (more for the same cycle), PERIOD_END (less, or another '
  'cycle) or NONE, with the price and quantity for Stripe. For the OWNER of the current organization.';

create function private.show_subscription(fetched jsonb default null) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_payer(buying => false);
  object public.stripe_objects;
  shown public.subscriptions;
begin
  -- What Stripe has just returned, whether or not its events have arrived.
  object.id := fetched ->> 'object_id';
  object.type := 'subscription';
  object.customer_id := fetched ->> 'customer_id';
  object.state := fetched -> 'state';
  object.state_at := now();
  object.is_last := fetched #>> '{state,status}' in ('canceled', 'incomplete_expired');
  shown := private.subscription_of(private.with_discounts(object), org);
  return jsonb_build_object(
    'tier', shown.tier, 'billing_cycle', shown.billing_cycle, 'status', shown.status, 'quantity', shown.quantity,
    'currency', shown.currency, 'amount_cents', shown.amount_cents, 'current_period_start', shown.current_period_start,
    'current_period_end', shown.current_period_end, 'trial_ends_at', shown.trial_ends_at, 'ends_at', shown.ends_at
  );
end $$;
comment on function private.show_subscription(jsonb) is 'A subscription that was fetched from Stripe, in the form of the API.';

grant execute on function private.begin_checkout(jsonb), private.save_customer(jsonb), private.save_checkout(jsonb),
  private.subscription_to_change(jsonb), private.plan_change(jsonb), private.show_subscription(jsonb) to strive_functions;
grant execute on function private.billing_customer(jsonb), private.require_payer(boolean) to authenticated, service_role;
