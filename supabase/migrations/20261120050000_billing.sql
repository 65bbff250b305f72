-- Billing: plans and their prices, subscriptions, invoices, the steps of onboarding and the inbox of Stripe's events.

-- Types ---------------------------------------------------------------------------------------------------------------

create type "BillingCycle" as enum ('MONTHLY', 'YEARLY');
comment on type "BillingCycle" is 'How often a subscription is paid.';
create type "PaymentStatus" as enum ('PENDING', 'PROCESSING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'REQUIRES_ACTION');
comment on type "PaymentStatus" is 'State of the payment of an onboarding session, as Stripe reports it.';
create type "StripeEventStatus" as enum ('RECEIVED', 'APPLIED', 'IGNORED', 'PARKED', 'QUARANTINED');
comment on type "StripeEventStatus" is
  'RECEIVED: to be applied. IGNORED: nothing to do. PARKED: waits for a customer or price we do not know yet. '
  'QUARANTINED: must not be applied (test event in live mode or the reverse).';

-- Plans ---------------------------------------------------------------------------------------------------------------

create function private.are_plan_limits(limits jsonb) returns boolean language sql immutable set search_path = '' as $$
  select jsonb_typeof(limits) = 'object'
    and limits ?& array['members', 'storage_bytes', 'api_calls', 'ai_tokens', 'orders_per_month', 'templates', 'blueprints']
    and (
      select bool_and(
        e.key in ('members', 'storage_bytes', 'api_calls', 'ai_tokens', 'orders_per_month', 'templates', 'blueprints',
          'rows_per_table', 'exports_per_day')
        and (jsonb_typeof(e.value) = 'null' or (jsonb_typeof(e.value) = 'number' and e.value::text ~ '^[0-9]{1,18}$'))
      )
      from jsonb_each(case when jsonb_typeof(limits) = 'object' then limits else '{}' end) e
    )
$$;
comment on function private.are_plan_limits(jsonb) is
  'Whether all limits are named, each a whole number or null; rows_per_table and exports_per_day may be left out.';

-- Money ---------------------------------------------------------------------------------------------------------------

create function private.format_money(amount numeric, currency text) returns text
language sql immutable set search_path = '' as $$
  -- Currencies whose minor unit, as Stripe counts it, is not a hundredth.
  select to_char(amount / power(10::numeric, d.decimals), 'FM999999999999990' || case d.decimals
    when 0 then '' else '.' || repeat('0', d.decimals) end) || ' ' || upper(currency)
  from (
    select case
      when lower(currency) = any ('{bif,clp,djf,gnf,jpy,kmf,krw,mga,pyg,rwf,ugx,vnd,vuv,xaf,xof,xpf}') then 0
      when lower(currency) = any ('{bhd,jod,kwd,omr,tnd}') then 3
      else 2 end as decimals
  ) d
$$;
comment on function private.format_money(numeric, text) is
  'An amount in minor units for people: 29900 usd is 299.00 USD, 500 jpy is 500 JPY.';
grant execute on function private.format_money(numeric, text) to authenticated, service_role;

create function private.day(moment timestamptz) returns text language sql stable set search_path = '' as $$
  select to_char(moment at time zone 'UTC', 'YYYY-MM-DD')
$$;
comment on function private.day(timestamptz) is 'A date (UTC) for people.';

create table public.plans (
  id uuid primary key default gen_random_uuid(),
  tier "SubscriptionTier" not null,
  billing_cycle "BillingCycle" not null,
  stripe_price_id text unique,
  amount_cents bigint not null constraint "amount_cents is not negative" check (amount_cents >= 0),
  currency text not null default 'usd'
    constraint "currency is three lower-case letters" check (currency ~ '^[a-z]{3}$'),
  limits jsonb not null constraint "limits has every limit, as a whole number or null"
    check (private.are_plan_limits(limits)),
  trial_days integer not null default 0 constraint "trial_days is 0 to 730" check (trial_days between 0 and 730),
  per_seat boolean not null default false,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "only a FREE plan, or one that is not on sale, costs nothing"
    check (amount_cents > 0 or tier = 'FREE' or not is_active)
);
comment on table public.plans is 'What is sold, at which price, with which limits. The only place for these facts.';
comment on column public.plans.amount_cents is 'Price of one billing cycle in minor units of the currency; of one seat if per_seat.';
comment on column public.plans.trial_days is 'Free days at the start of an organization''s first subscription.';
comment on column public.plans.per_seat is 'The price is per seat: the subscription has a quantity, and it limits the members.';
comment on column public.plans.limits is
  'Null is unlimited, and so are rows_per_table and exports_per_day when left out. api_calls (of API keys), ai_tokens and '
  'orders_per_month count in a calendar month (UTC), exports_per_day in 24 hours, the others are totals.';
comment on column public.plans.is_active is
  'True: on sale. False: kept for organizations that have it (ENTERPRISE is by agreement).';
create unique index plans_on_sale_idx on public.plans (tier, billing_cycle) where is_active;
create trigger touch before update on public.plans for each row execute function private.touch_updated_at();

create table private.plan_prices (
  stripe_price_id text primary key,
  tier "SubscriptionTier" not null,
  billing_cycle "BillingCycle" not null,
  created_at timestamptz not null default now()
);
comment on table private.plan_prices is
  'Every price of Stripe that was ever a plan''s. Rows are never deleted: a subscription keeps the plan it was sold.';

create function private.keep_plan_price() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.plan_prices as p (stripe_price_id, tier, billing_cycle)
  values (new.stripe_price_id, new.tier, new.billing_cycle)
  on conflict (stripe_price_id) do update set tier = excluded.tier, billing_cycle = excluded.billing_cycle
  where (p.tier, p.billing_cycle) is distinct from (excluded.tier, excluded.billing_cycle);
  return null;
end $$;
comment on function private.keep_plan_price() is 'Keeps every price that a plan ever had.';
create function private.take_over_price() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.plans p set stripe_price_id = null
  where p.stripe_price_id = new.stripe_price_id and p.id <> new.id and not p.is_active;
  return new;
end $$;
comment on function private.take_over_price() is
  'The event of a new price may have created a plan that is not on sale; the plan that gets the price takes it over.';
create trigger take_over_price before update of stripe_price_id on public.plans
  for each row when (new.stripe_price_id is not null and new.stripe_price_id is distinct from old.stripe_price_id)
  execute function private.take_over_price();
create trigger keep_plan_price after insert or update of stripe_price_id, tier, billing_cycle on public.plans
  for each row when (new.stripe_price_id is not null) execute function private.keep_plan_price();

insert into public.plans (tier, billing_cycle, amount_cents, limits, is_active)
select p.tier::public."SubscriptionTier", c.cycle::public."BillingCycle",
  case c.cycle when 'MONTHLY' then p.monthly else p.yearly end,
  jsonb_build_object('members', p.members, 'storage_bytes', p.storage_gib << 30, 'api_calls', p.api_calls,
    'ai_tokens', p.ai_tokens, 'orders_per_month', p.orders, 'templates', p.templates, 'blueprints', p.blueprints,
    'rows_per_table', p.rows, 'exports_per_day', p.exports),
  p.tier <> 'ENTERPRISE'
from (values
  ('FREE',            0,       0,    1,    1::bigint,     1000,    20000, 0,    0,    0,       10000,    2),
  ('STARTER',     29900,  299000,    5,   10,            10000,   200000, 0,    0,    0,      100000,    5),
  ('GROWTH',      69900,  699000,   25,  100,           100000,  2000000, 3,    10,   5,     1000000,   20),
  ('ELITE',      199900, 1999000,  100, 1024,          1000000, 10000000, null, null, null, 10000000,   50),
  ('ENTERPRISE',      0,       0, null, null,             null,     null, null, null, null,     null, null)
) p (tier, monthly, yearly, members, storage_gib, api_calls, ai_tokens, orders, templates, blueprints, rows, exports)
cross join (values ('MONTHLY'), ('YEARLY')) c (cycle);

-- Subscriptions -------------------------------------------------------------------------------------------------------

create function private.is_live(status "SubscriptionStatus") returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  return status in ('TRIAL', 'ACTIVE', 'PAST_DUE');
end $$;
comment on function private.is_live("SubscriptionStatus") is 'Whether a subscription of this status gives its tier.';
grant execute on function private.is_live("SubscriptionStatus") to authenticated, service_role;

create table public.subscriptions (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  stripe_subscription_id text unique,
  stripe_customer_id text,
  status "SubscriptionStatus" not null,
  tier "SubscriptionTier" not null,
  billing_cycle "BillingCycle" not null,
  currency text not null default 'usd'
    constraint "currency is three lower-case letters" check (currency ~ '^[a-z]{3}$'),
  amount_cents bigint not null constraint "amount_cents is not negative" check (amount_cents >= 0),
  quantity integer not null default 1 constraint "quantity is not negative" check (quantity >= 0),
  net_monthly_amount numeric(24, 6)
    constraint "net_monthly_amount is not negative" check (net_monthly_amount >= 0),
  current_period_start timestamptz not null default now(),
  current_period_end timestamptz not null,
  trial_ends_at timestamptz,
  cancel_at_period_end boolean not null default false,
  ends_at timestamptz,
  cancelled_at timestamptz,
  past_due_since timestamptz,
  pending_tier "SubscriptionTier",
  pending_billing_cycle "BillingCycle",
  pending_quantity integer,
  pending_at timestamptz,
  started_at timestamptz,
  changed_at timestamptz,
  granted_reason text constraint "granted_reason is 1 to 500 characters" check (length(granted_reason) between 1 and 500),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "current_period_end is after current_period_start" check (current_period_end > current_period_start),
  constraint "cancelled_at is set when status is CANCELLED" check (status <> 'CANCELLED' or cancelled_at is not null),
  constraint "a pending change has a plan, a quantity and a time" check (
    num_nulls(pending_tier, pending_billing_cycle, pending_quantity, pending_at) in (0, 4)
  )
);
comment on table public.subscriptions is
  'What organizations buy and have bought. Written from Stripe''s objects, or granted by a platform admin.';
comment on column public.subscriptions.currency is 'Of all amounts of this row.';
comment on column public.subscriptions.amount_cents is
  'List price of all items per billing cycle, in minor units of the currency, rounded; before discounts and tax.';
comment on column public.subscriptions.quantity is 'Seats, where the plan is per seat.';
comment on column public.subscriptions.net_monthly_amount is
  'What recurs per month in minor units: all items, quantities and decimals, less the discounts that recur, before tax. '
  'Counts towards MRR while ACTIVE or PAST_DUE. Null: amount_cents, nothing is known of discounts.';
comment on column public.subscriptions.trial_ends_at is 'When the trial ends or ended; null without one.';
comment on column public.subscriptions.cancel_at_period_end is 'It ends with the current period.';
comment on column public.subscriptions.ends_at is
  'When it is going to end: with its period, at a date set at Stripe, or when a granted plan runs out. Null: it renews.';
comment on column public.subscriptions.pending_tier is 'The plan from pending_at on: a downgrade or another cycle that was scheduled.';
comment on column public.subscriptions.pending_billing_cycle is 'Billing cycle from pending_at on.';
comment on column public.subscriptions.pending_quantity is 'Quantity from pending_at on.';
comment on column public.subscriptions.pending_at is 'When the scheduled change takes effect.';
comment on column public.subscriptions.started_at is 'When it was made at Stripe; null for one that was granted.';
comment on column public.subscriptions.changed_at is 'When it reached this state, by Stripe''s clock.';
comment on column public.subscriptions.granted_reason is 'Why a platform admin granted it; null if it was bought.';
comment on column public.subscriptions.status is
  'TRIAL, ACTIVE and PAST_DUE are live: the organization has the tier. PAST_DUE is the grace while Stripe retries.';
comment on column public.subscriptions.past_due_since is
  'Since when Stripe tries to get the payment; the grace counts from here, and ends with INACTIVE.';
create unique index subscriptions_live_idx on public.subscriptions (organization_id)
  where private.is_live(status);
comment on index public.subscriptions_live_idx is 'At most one live subscription per organization.';
create index subscriptions_organization_idx on public.subscriptions (organization_id, created_at desc);
create index subscriptions_customer_idx on public.subscriptions (stripe_customer_id);
create index subscriptions_created_at_idx on public.subscriptions (created_at desc);
create index subscriptions_past_due_idx on public.subscriptions (past_due_since) where status = 'PAST_DUE';
create index subscriptions_cancelled_at_idx on public.subscriptions (cancelled_at);
create index subscriptions_ends_at_idx on public.subscriptions (ends_at) where ends_at is not null;
create trigger touch before update on public.subscriptions for each row execute function private.touch_updated_at();

create function private.months_of(cycle "BillingCycle") returns integer language plpgsql immutable set search_path = '' as $$
begin
  return case cycle when 'YEARLY' then 12 else 1 end;
end $$;
comment on function private.months_of("BillingCycle") is 'Months of one billing cycle.';

create function private.monthly_amount(subscription public.subscriptions) returns numeric
language plpgsql immutable set search_path = '' as $$
begin
  return coalesce(
    subscription.net_monthly_amount,
    subscription.amount_cents::numeric / private.months_of(subscription.billing_cycle)
  );
end $$;
comment on function private.monthly_amount(public.subscriptions) is
  'What a subscription brings per month; one written by hand without discounts brings its list price.';

-- The organization's row is locked before its subscriptions are read: of two changes at once the later one sees both.
create function private.apply_subscription_to_organization() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  org uuid;
begin
  if tg_op = 'UPDATE' and (new.organization_id, new.status, new.tier) = (old.organization_id, old.status, old.tier) then
    return null;
  end if;
  foreach org in array case
    when tg_op = 'INSERT' then array[new.organization_id]
    when tg_op = 'DELETE' or old.organization_id = new.organization_id then array[old.organization_id]
    else array[least(old.organization_id, new.organization_id), greatest(old.organization_id, new.organization_id)]
  end loop
    perform from public.organizations o where o.id = org for no key update;
    update public.organizations o
    set subscription_tier = now_has.tier, subscription_status = now_has.status
    from (
      -- No subscription: nothing was ever bought, or its rows were deleted.
      select coalesce(max(case when s.is_live then s.tier end), 'FREE') as tier,
        coalesce(max(s.status), 'INACTIVE') as status
      from (
        select s.tier, s.status, private.is_live(s.status) as is_live
        from public.subscriptions s where s.organization_id = org
        order by is_live desc, s.created_at desc, s.id desc limit 1
      ) s
    ) now_has
    where o.id = org
      and (o.subscription_tier, o.subscription_status) is distinct from (now_has.tier, now_has.status);
  end loop;
  return null;
end $$;
comment on function private.apply_subscription_to_organization() is
  'An organization has the tier of its live subscription; without one it is FREE and shows how the latest ended.';
create trigger apply_subscription_to_organization
  after insert or delete or update of organization_id, status, tier on public.subscriptions
  for each row execute function private.apply_subscription_to_organization();

create function private.current_tier() returns "SubscriptionTier"
language plpgsql stable security definer set search_path = '' as $$
begin
  return (select o.subscription_tier from public.organizations o where o.id = private.current_user_org());
end $$;
comment on function private.current_tier() is 'Tier of the organization the request acts in; null without one.';

create function private.plan_limit(organization_id uuid, what text) returns bigint
language plpgsql stable security definer set search_path = '' as $$
declare
  limits jsonb;
begin
  -- Prefers the plan of the paid cycle, then the one on sale. For a plan per seat, the seats that were bought limit the
  -- members.
  select p.limits || case when p.per_seat and s.id is not null
    then jsonb_build_object('members', s.quantity) else '{}' end into limits
  from public.organizations o
  join public.plans p on p.tier = o.subscription_tier
  left join public.subscriptions s
    on s.organization_id = o.id and private.is_live(s.status)
  where o.id = plan_limit.organization_id
  order by p.billing_cycle = coalesce(s.billing_cycle, 'MONTHLY') desc, p.is_active desc, p.created_at desc, p.id
  limit 1;
  if limits is null then
    return 0;
  end if;
  if what is null or not limits ? what and what not in ('rows_per_table', 'exports_per_day') then
    raise exception 'There is no such limit' using errcode = '22023', detail = format('Found %L.', what),
      hint = format('Limits are: %s.', (select string_agg(k, ', ' order by k) from jsonb_object_keys(limits) k));
  end if;
  return (limits ->> what)::bigint;
end $$;
comment on function private.plan_limit(uuid, text) is
  'What the plan of an organization allows: null is unlimited, 0 nothing (also without organization or plan).';

grant execute on function private.current_tier() to authenticated, service_role;
grant execute on function private.plan_limit(uuid, text), private.are_plan_limits(jsonb) to service_role;

-- Customers -----------------------------------------------------------------------------------------------------------

create table private.billing_customers (
  stripe_customer_id text primary key,
  organization_id uuid references public.organizations (id) on delete set null,
  organization_name text not null,
  created_at timestamptz not null default now()
);
comment on table private.billing_customers is
  'Every customer at Stripe an organization ever had. Stays when the organization is deleted: it may still be charged.';
comment on column private.billing_customers.organization_id is 'Null: the organization was deleted.';
comment on column private.billing_customers.organization_name is 'So that people recognize a deleted organization.';
create index billing_customers_organization_idx on private.billing_customers (organization_id);

create function private.keep_billing_customer() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.billing_customers as c (stripe_customer_id, organization_id, organization_name)
  values (new.stripe_customer_id, new.id, new.name)
  on conflict (stripe_customer_id) do update
  set organization_id = excluded.organization_id, organization_name = excluded.organization_name;
  return null;
end $$;
comment on function private.keep_billing_customer() is 'Remembers which customer at Stripe is whose.';
create trigger keep_billing_customer_of_new after insert on public.organizations
  for each row when (new.stripe_customer_id is not null) execute function private.keep_billing_customer();
create trigger keep_billing_customer after update of stripe_customer_id, name on public.organizations
  for each row when (
    new.stripe_customer_id is not null
    and (new.stripe_customer_id, new.name) is distinct from (old.stripe_customer_id, old.name)
  ) execute function private.keep_billing_customer();

-- Invoices ------------------------------------------------------------------------------------------------------------

create type "InvoiceStatus" as enum ('DRAFT', 'OPEN', 'PAID', 'VOID', 'UNCOLLECTIBLE');
comment on type "InvoiceStatus" is 'Status of an invoice at Stripe.';

create table public.invoices (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  stripe_invoice_id text not null unique,
  stripe_subscription_id text,
  number text,
  status "InvoiceStatus" not null,
  billing_reason text,
  currency text not null constraint "currency is three lower-case letters" check (currency ~ '^[a-z]{3}$'),
  subtotal_cents bigint not null default 0,
  discount_cents bigint not null default 0,
  tax_cents bigint not null default 0,
  total_cents bigint not null default 0,
  paid_cents bigint not null default 0,
  remaining_cents bigint not null default 0,
  credited_cents bigint not null default 0,
  refunded_cents bigint not null default 0,
  disputed_cents bigint not null default 0,
  credit_notes text[] not null default '{}',
  period_start timestamptz,
  period_end timestamptz,
  issued_at timestamptz,
  due_at timestamptz,
  paid_at timestamptz,
  hosted_invoice_url text,
  invoice_pdf text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id)
);
comment on table public.invoices is 'Invoices of organizations, written only from Stripe''s objects; read by their owners.';
comment on column public.invoices.number is 'As printed on the invoice; null while it is a draft.';
comment on column public.invoices.stripe_invoice_id is 'Its id at Stripe (in_…).';
comment on column public.invoices.issued_at is 'When it was finalized; null while it is a draft.';
comment on column public.invoices.paid_at is 'When it was paid.';
comment on column public.invoices.billing_reason is
  'Why Stripe made it, such as subscription_create, subscription_cycle, subscription_update.';
comment on column public.invoices.currency is 'All amounts of this row are in its minor units.';
comment on column public.invoices.subtotal_cents is 'Before discounts and tax. Negative where a change of plan credits more than it costs.';
comment on column public.invoices.discount_cents is 'What coupons and promotion codes take off.';
comment on column public.invoices.tax_cents is 'Tax, as Stripe computed it.';
comment on column public.invoices.total_cents is 'After discounts and tax.';
comment on column public.invoices.paid_cents is 'What was paid.';
comment on column public.invoices.remaining_cents is 'What is still to be paid.';
comment on column public.invoices.credited_cents is 'Sum of its credit notes.';
comment on column public.invoices.refunded_cents is 'What was refunded of its payments.';
comment on column public.invoices.disputed_cents is 'What the customer''s bank reclaims or has reclaimed.';
comment on column public.invoices.credit_notes is 'Numbers of its credit notes.';
comment on column public.invoices.period_start is 'Begin of what it bills.';
comment on column public.invoices.period_end is 'End of what it bills.';
comment on column public.invoices.hosted_invoice_url is 'Stripe''s page of the invoice, where it can be paid.';
comment on column public.invoices.invoice_pdf is 'The invoice as a PDF.';
create index invoices_organization_idx on public.invoices (organization_id, created_at desc);
create index invoices_subscription_idx on public.invoices (stripe_subscription_id);
create index invoices_created_at_idx on public.invoices (created_at desc);
create trigger touch before update on public.invoices for each row execute function private.touch_updated_at();

create type "InvoiceCreditType" as enum ('CREDIT_NOTE', 'REFUND', 'DISPUTE');
comment on type "InvoiceCreditType" is 'What lowers an invoice or returns its payment.';

create table public.invoice_credits (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null,
  invoice_id uuid not null,
  type "InvoiceCreditType" not null,
  stripe_object_id text not null unique,
  number text,
  status text not null,
  amount_cents bigint not null,
  currency text not null constraint "currency is three lower-case letters" check (currency ~ '^[a-z]{3}$'),
  happened_at timestamptz not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  foreign key (organization_id, invoice_id) references public.invoices (organization_id, id)
    on delete cascade on update cascade
);
comment on table public.invoice_credits is
  'Credit notes, refunds and disputes of invoices, written only from Stripe''s objects; read by the owners.';
comment on column public.invoice_credits.invoice_id is 'The invoice that it lowers.';
comment on column public.invoice_credits.stripe_object_id is 'Its id at Stripe (cn_…, re_…, du_…).';
comment on column public.invoice_credits.number is 'As printed on a credit note.';
comment on column public.invoice_credits.status is 'Status at Stripe, such as issued, succeeded, failed, needs_response, won.';
comment on column public.invoice_credits.amount_cents is 'In minor units of the currency. It counts while its status is not void, failed or won.';
comment on column public.invoice_credits.happened_at is 'When it was made at Stripe.';
create index invoice_credits_invoice_idx on public.invoice_credits (organization_id, invoice_id);
create index invoice_credits_organization_idx on public.invoice_credits (organization_id, created_at desc);
create trigger touch before update on public.invoice_credits for each row execute function private.touch_updated_at();

create function private.current_billing_org(planned boolean default private.check_statement()) returns uuid
language plpgsql stable security definer set search_path = '' as $$
begin
  return coalesce(private.current_user_org('OWNER', true), case when private.is_admin() then private.current_user_org() end);
end $$;
comment on function private.current_billing_org(boolean) is
  'The current organization if the caller owns it or is a platform admin who names it; else null.';
grant execute on function private.current_billing_org(boolean) to authenticated, service_role;

-- Onboarding ----------------------------------------------------------------------------------------------------------

create table public.onboarding_sessions (
  id uuid primary key default gen_random_uuid(),
  token_hash text not null unique constraint "token_hash is a SHA-256 in hex" check (token_hash ~ '^[0-9a-f]{64}$'),
  current_step integer not null default 1,
  total_steps integer not null default 4 constraint "total_steps is 4" check (total_steps = 4),
  org_name text constraint "organization name is 2 to 100 characters" check (length(org_name) between 2 and 100),
  org_website text constraint "website is an http(s) address of at most 500 characters"
    check (org_website ~* '^https?://[^[:space:]]+$' and length(org_website) <= 500),
  org_description text
    constraint "description is at most 500 characters" check (length(org_description) <= 500),
  selected_tier "SubscriptionTier"
    constraint "ENTERPRISE is by agreement, not by onboarding" check (selected_tier <> 'ENTERPRISE'),
  billing_cycle "BillingCycle",
  stripe_customer_id text,
  stripe_subscription_id text unique,
  stripe_payment_intent_id text unique,
  payment_attempt integer not null default 0
    constraint "payment_attempt is not negative" check (payment_attempt >= 0),
  payment_status "PaymentStatus" not null default 'PENDING',
  is_completed boolean not null default false,
  completed_at timestamptz,
  expires_at timestamptz not null default now() + interval '24 hours',
  user_id uuid references public.users (id) on delete set null,
  organization_id uuid unique references public.organizations (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "current_step is between 1 and total_steps" check (current_step between 1 and total_steps),
  constraint "step 2 and later need the organization name" check (current_step < 2 or org_name is not null),
  constraint "step 3 and later need a tier and a billing cycle"
    check (current_step < 3 or (selected_tier is not null and billing_cycle is not null)),
  constraint "step 3 is the payment, and FREE has none" check (current_step <> 3 or selected_tier <> 'FREE'),
  constraint "step 4 needs a payment that succeeded, unless the plan is FREE"
    check (current_step < 4 or selected_tier = 'FREE' or payment_status = 'SUCCEEDED'),
  constraint "a completed session is at its last step" check (not is_completed or current_step = total_steps),
  constraint "completed_at is set exactly when is_completed" check (is_completed = (completed_at is not null)),
  constraint "a session lasts 24 hours" check (expires_at <= created_at + interval '24 hours')
);
comment on table public.onboarding_sessions is
  'A visitor''s way from a name to a paid organization. Found by its token, or by the user it belongs to.';
comment on column public.onboarding_sessions.token_hash is 'SHA-256 (hex) of the token that was handed out once.';
comment on column public.onboarding_sessions.current_step is
  'The step to be done next: 1 organization, 2 plan, 3 payment, 4 completion.';
comment on column public.onboarding_sessions.payment_attempt is
  'Counts payments that were started; part of the idempotency keys sent to Stripe.';
comment on column public.onboarding_sessions.payment_status is
  'Written only from Stripe''s objects (webhook or retrieval), never by a client.';
comment on column public.onboarding_sessions.user_id is
  'Null until a signed-in user continues it, at the latest on completion.';
comment on column public.onboarding_sessions.organization_id is
  'The organization that it created; no two sessions have the same.';
create index onboarding_sessions_user_idx on public.onboarding_sessions (user_id, created_at desc);
create index onboarding_sessions_payment_status_idx on public.onboarding_sessions (payment_status);
create index onboarding_sessions_expires_at_idx on public.onboarding_sessions (expires_at) where not is_completed;
create index onboarding_sessions_customer_idx on public.onboarding_sessions (stripe_customer_id);
create trigger touch before update on public.onboarding_sessions
  for each row execute function private.touch_updated_at();

create table private.onboarding_steps (
  from_step integer not null,
  to_step integer not null,
  meaning text not null,
  primary key (from_step, to_step)
);
comment on table private.onboarding_steps is 'Every move an onboarding session may make between its steps.';
insert into private.onboarding_steps (from_step, to_step, meaning) values
  (1, 2, 'organization named'),
  (2, 3, 'paid plan chosen'),
  (2, 4, 'FREE chosen, nothing to pay'),
  (3, 4, 'payment succeeded'),
  (2, 1, 'back to the organization'),
  (3, 1, 'back to the organization'),
  (3, 2, 'back to the plan'),
  (4, 1, 'back to the organization (FREE only: what is paid stays)'),
  (4, 2, 'back to the plan (FREE only: what is paid stays)');

create table private.payment_moves (
  from_status "PaymentStatus" not null,
  to_status "PaymentStatus" not null,
  needs_new_attempt boolean not null default false,
  primary key (from_status, to_status)
);
comment on table private.payment_moves is
  'Every move the payment of an onboarding session may make; SUCCEEDED and CANCELLED have none.';
comment on column private.payment_moves.needs_new_attempt is 'Only together with a higher payment_attempt.';
insert into private.payment_moves (from_status, to_status, needs_new_attempt) values
  ('PENDING', 'PROCESSING', false),
  ('PENDING', 'REQUIRES_ACTION', false),
  ('PENDING', 'SUCCEEDED', false),
  ('PENDING', 'FAILED', false),
  ('PENDING', 'CANCELLED', false),
  ('REQUIRES_ACTION', 'PROCESSING', false),
  ('REQUIRES_ACTION', 'SUCCEEDED', false),
  ('REQUIRES_ACTION', 'FAILED', false),
  ('REQUIRES_ACTION', 'CANCELLED', false),
  ('REQUIRES_ACTION', 'PENDING', true),
  ('PROCESSING', 'REQUIRES_ACTION', false),
  ('PROCESSING', 'SUCCEEDED', false),
  ('PROCESSING', 'FAILED', false),
  ('PROCESSING', 'CANCELLED', false),
  ('FAILED', 'PROCESSING', false),
  ('FAILED', 'REQUIRES_ACTION', false),
  ('FAILED', 'SUCCEEDED', false),
  ('FAILED', 'CANCELLED', false),
  ('FAILED', 'PENDING', true);

-- Binds every writer, the service role too. Two changes are always allowed: the foreign keys set a deleted user or
-- organization to null, and the state of a payment is saved at any time, because late money must not be overlooked.
create function private.guard_onboarding() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  paid boolean := new.payment_status = 'SUCCEEDED';
  -- What the customer decides.
  decided boolean := (new.org_name, new.org_website, new.org_description, new.selected_tier, new.billing_cycle)
    is distinct from (old.org_name, old.org_website, old.org_description, old.selected_tier, old.billing_cycle);
begin
  if (new.id, new.token_hash, new.created_at) is distinct from (old.id, old.token_hash, old.created_at) then
    raise exception 'The token of an onboarding session cannot be changed' using
      errcode = 'PT422', hint = 'Start a new session.';
  end if;
  if new.user_id <> old.user_id then
    raise exception 'This onboarding session belongs to somebody else' using errcode = '42501';
  end if;
  if old.is_completed and (
    decided or new.user_id is distinct from old.user_id and new.user_id is not null
    or new.organization_id is distinct from old.organization_id and new.organization_id is not null
    or (new.current_step, new.is_completed, new.completed_at, new.payment_status, new.payment_attempt)
      is distinct from (old.current_step, old.is_completed, old.completed_at, old.payment_status, old.payment_attempt)
  ) then
    raise exception 'This onboarding session is completed' using
      errcode = 'PT409', hint = 'Change the organization or its subscription itself.';
  end if;
  if old.expires_at <= now() and not paid and (
    decided or new.current_step <> old.current_step or new.is_completed or new.payment_attempt <> old.payment_attempt
    or new.user_id is distinct from old.user_id and new.user_id is not null
  ) then
    raise exception 'This onboarding session has expired' using
      errcode = 'PT410', detail = format('It ended at %s.', old.expires_at),
      hint = 'Start a new one.';
  end if;
  if new.expires_at > old.expires_at then
    raise exception 'An onboarding session cannot be extended' using errcode = 'PT422', hint = 'Start a new one.';
  end if;
  if new.current_step <> old.current_step then
    if not exists (
      select from private.onboarding_steps s where s.from_step = old.current_step and s.to_step = new.current_step
    ) then
      raise exception 'An onboarding session cannot go from step % to step %', old.current_step, new.current_step using
        errcode = 'PT409', hint = (
          select format('From step %s it can go to: %s.', old.current_step,
            string_agg(s.to_step::text, ', ' order by s.to_step))
          from private.onboarding_steps s where s.from_step = old.current_step
        );
    end if;
    if new.current_step < old.current_step and new.payment_status in ('PROCESSING', 'SUCCEEDED') then
      raise exception 'An onboarding session cannot go back while its payment is under way or done' using
        errcode = 'PT409', detail = format('The payment is %s.', new.payment_status),
        hint = 'Wait for the payment to end, or finish and change the plan afterwards.';
    end if;
  end if;
  if (new.selected_tier, new.billing_cycle) is distinct from (old.selected_tier, old.billing_cycle) and (
    old.payment_status = 'SUCCEEDED' or new.stripe_subscription_id = old.stripe_subscription_id
  ) then
    raise exception 'The plan cannot change after a payment for another plan was started' using
      errcode = 'PT409', detail = format('The payment is %s.', old.payment_status),
      hint = 'Cancel the open payment and clear it in the same change. A paid plan is changed after completion.';
  end if;
  if new.payment_attempt < old.payment_attempt then
    raise exception 'payment_attempt cannot decrease' using
      errcode = 'PT422', detail = format('Found %s after %s.', new.payment_attempt, old.payment_attempt);
  end if;
  if new.payment_status <> old.payment_status and not exists (
    select from private.payment_moves m
    where m.from_status = old.payment_status and m.to_status = new.payment_status
      and (not m.needs_new_attempt or new.payment_attempt > old.payment_attempt)
  ) then
    raise exception 'A payment cannot go from % to %', old.payment_status, new.payment_status using
      errcode = 'PT409', hint = coalesce((
        select format('From %s it can go to %s.', old.payment_status, string_agg(
          m.to_status || case when m.needs_new_attempt then ' (with a higher payment_attempt)' else '' end, ', '
          order by m.to_status
        ))
        from private.payment_moves m where m.from_status = old.payment_status having count(*) > 0
      ), format('%s is final.', old.payment_status));
  end if;
  return new;
end $$;
comment on function private.guard_onboarding() is
  'Allows only the moves of onboarding_steps and payment_moves, and no other choice after expiry, completion or '
  'payment.';
create trigger guard_onboarding before update on public.onboarding_sessions
  for each row execute function private.guard_onboarding();

-- Events of Stripe -----------------------------------------------------------------------------------------------------

create table public.stripe_events (
  -- A bound within the expression ({1,250}) would make it sixty times as slow.
  id text primary key constraint "id is that of a Stripe event" check (id ~ '^evt_[!-~]+$' and length(id) < 255),
  type text not null,
  object_id text,
  object_type text,
  customer_id text,
  created timestamptz not null,
  api_version text,
  livemode boolean not null,
  payload jsonb constraint "payload is an object" check (jsonb_typeof(payload) = 'object'),
  state jsonb constraint "state is an object" check (jsonb_typeof(state) = 'object'),
  before jsonb constraint "before is an object" check (jsonb_typeof(before) = 'object'),
  place integer not null default 0,
  is_chained boolean not null default false,
  is_last boolean not null default false,
  status "StripeEventStatus" not null default 'RECEIVED',
  attempts integer not null default 0 constraint "attempts is not negative" check (attempts >= 0),
  error text,
  applied_at timestamptz,
  redacted_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "payload is there until redacted" check ((payload is null) = (redacted_at is not null)),
  constraint "applied_at is set exactly when status is APPLIED" check ((status = 'APPLIED') = (applied_at is not null))
);
comment on table public.stripe_events is
  'Inbox: every event Stripe delivered, once. The state of an object is the fold of its events, whatever order they '
  'arrived in.';
comment on column public.stripe_events.created is 'When it happened at Stripe, in whole seconds.';
comment on column public.stripe_events.created_at is 'When it was first delivered to us.';
comment on column public.stripe_events.object_id is 'The object the event is about (data.object.id).';
comment on column public.stripe_events.api_version is 'Decides the shape of the payload.';
comment on column public.stripe_events.payload is 'The whole event; null once redacted, 90 days after delivery.';
comment on column public.stripe_events.object_type is 'What kind of object that is; null if nothing is done with it.';
comment on column public.stripe_events.customer_id is 'The customer that object belongs to.';
comment on column public.stripe_events.state is
  'The facts of the object after the event that Strive uses (shared/billing/objects.py); nothing personal.';
comment on column public.stripe_events.before is 'The previous values of what the event changed; null if it has none.';
comment on column public.stripe_events.place is
  'Orders events of one second that have no previous values; 0 is the creation of the object.';
comment on column public.stripe_events.is_chained is 'Whether events of this kind of object have previous values.';
comment on column public.stripe_events.is_last is 'The state after this event is final.';
comment on column public.stripe_events.error is 'Why it is PARKED or QUARANTINED, or what went wrong last.';
create index stripe_events_object_idx on public.stripe_events (object_id, created desc);
create index stripe_events_open_idx on public.stripe_events (status, created_at)
  where status in ('RECEIVED', 'PARKED', 'QUARANTINED');
create index stripe_events_to_redact_idx on public.stripe_events (created_at) where redacted_at is null;
create trigger touch before update on public.stripe_events for each row execute function private.touch_updated_at();

-- Policies ------------------------------------------------------------------------------------------------------------
-- No client writes here; the functions do, as service_role or through definer functions.

alter table public.plans enable row level security;
create policy "everyone signed in sees what is on sale and what they have" on public.plans for select to authenticated
  using (is_active or tier = (select private.current_tier()) or (select private.is_admin()));
grant select on public.plans to authenticated;
grant all on public.plans to service_role;

alter table public.subscriptions enable row level security;
create policy "members see the subscription of their organization" on public.subscriptions for select to authenticated
  using (organization_id = (select private.current_user_org()));
grant select on public.subscriptions to authenticated;
grant all on public.subscriptions to service_role;

alter table public.invoices enable row level security;
create policy "owners see the invoices of their organization" on public.invoices for select to authenticated
  using (organization_id = (select private.current_billing_org()));
grant select on public.invoices to authenticated;
grant all on public.invoices to service_role;

alter table public.invoice_credits enable row level security;
create policy "owners see the credits of their invoices" on public.invoice_credits for select to authenticated
  using (organization_id = (select private.current_billing_org()));
grant select on public.invoice_credits to authenticated;
grant all on public.invoice_credits to service_role;

alter table public.onboarding_sessions enable row level security;
create policy "people see the onboarding sessions that are theirs" on public.onboarding_sessions
  for select to authenticated using (user_id = (select private.current_user_id()));
grant select on public.onboarding_sessions to authenticated;
grant all on public.onboarding_sessions to service_role;

alter table public.stripe_events enable row level security;
create policy "platform admins see events of Stripe" on public.stripe_events for select to authenticated
  using ((select private.is_admin()));
grant select on public.stripe_events to authenticated;
grant all on public.stripe_events to service_role;
