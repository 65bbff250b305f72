-- Revenue: what customers pay per month, per currency, and how that changes. docs/billing.md defines the figures.
--
-- A customer is an organization that pays: its subscription is ACTIVE or PAST_DUE and brings more than nothing per month. A
-- trial, a granted plan, FREE and a discount of 100 % are no customers.

create table private.subscription_states (
  subscription_id uuid not null,
  at timestamptz not null,
  organization_id uuid not null,
  is_paying boolean not null,
  currency text not null,
  monthly_amount numeric(24, 6) not null,
  primary key (subscription_id, at)
);
comment on table private.subscription_states is
  'The history of subscriptions: what each brought since when. Without foreign keys: a deleted organization has left, too.';
comment on column private.subscription_states.at is 'Since when, by Stripe''s clock where Stripe says it.';
comment on column private.subscription_states.subscription_id is 'The subscription, which may be deleted by now.';
comment on column private.subscription_states.is_paying is 'Whether it was ACTIVE or PAST_DUE and brought more than nothing.';
comment on column private.subscription_states.monthly_amount is 'Net amount per month in minor units of the currency.';
create index subscription_states_organization_idx on private.subscription_states (organization_id, at);

create function private.record_subscription_state() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  subscription public.subscriptions := case when tg_op = 'DELETE' then old else new end;
  amount numeric := private.monthly_amount(subscription);
  began timestamptz := greatest(coalesce(subscription.started_at, subscription.created_at), subscription.trial_ends_at);
  paying boolean := tg_op <> 'DELETE' and subscription.status in ('ACTIVE', 'PAST_DUE') and amount > 0;
  since timestamptz;
begin
  if tg_op = 'INSERT' then
    -- The first event to arrive may be a late one.
    if paying or subscription.status = 'CANCELLED' and began < subscription.cancelled_at then
      insert into private.subscription_states (subscription_id, at, organization_id, is_paying, currency, monthly_amount)
      values (subscription.id, least(began, now()), subscription.organization_id, amount > 0, subscription.currency, amount)
      on conflict do nothing;
    end if;
    if paying then
      return null;
    end if;
  end if;
  since := case
    when tg_op = 'DELETE' then now()
    when subscription.status = 'CANCELLED' then subscription.cancelled_at
    when tg_op = 'UPDATE' and subscription.changed_at is distinct from old.changed_at then subscription.changed_at
    when tg_op = 'INSERT' then coalesce(subscription.changed_at, subscription.created_at)
    else now() end;
  if not paying then
    delete from private.subscription_states s where s.subscription_id = subscription.id and s.at > since;
  end if;
  insert into private.subscription_states as s (subscription_id, at, organization_id, is_paying, currency, monthly_amount)
  values (subscription.id, since, subscription.organization_id, paying, subscription.currency, amount)
  on conflict (subscription_id, at) do update
  set is_paying = excluded.is_paying, currency = excluded.currency, monthly_amount = excluded.monthly_amount;
  return null;
end $$;
comment on function private.record_subscription_state() is 'Keeps the history of a subscription.';
create trigger record_subscription_state
  after insert or delete or update of status, amount_cents, net_monthly_amount, billing_cycle, currency on public.subscriptions
  for each row execute function private.record_subscription_state();

create function private.paying_before(moment timestamptz) returns table (
  organization_id uuid, currency text, monthly_amount numeric
) language sql stable set search_path = '' as $$
  select p.organization_id, p.currency, sum(p.monthly_amount) from (
    select distinct on (h.subscription_id) h.organization_id, h.currency, h.monthly_amount, h.is_paying
    from private.subscription_states h where h.at < moment order by h.subscription_id, h.at desc
  ) p where p.is_paying and p.monthly_amount > 0 group by 1, 2
  union all
  -- Rows that were written without triggers (a restore, an import) have no history: their own dates are all there is.
  select s.organization_id, s.currency, sum(private.monthly_amount(s)) from public.subscriptions s
  where not exists (select from private.subscription_states h where h.subscription_id = s.id)
    and s.created_at < moment and private.monthly_amount(s) > 0
    and (s.status in ('ACTIVE', 'PAST_DUE') or s.status = 'CANCELLED' and s.cancelled_at >= moment)
  group by 1, 2
$$;
comment on function private.paying_before(timestamptz) is 'The customers just before a moment: what each pays per month, in minor units.';

create function private.has_paid_before(organization uuid, moment timestamptz) returns boolean
language sql stable set search_path = '' as $$
  select exists (
    select from private.subscription_states h
    where h.organization_id = organization and h.at < moment and h.is_paying and h.monthly_amount > 0
  ) or exists (
    select from public.subscriptions s
    where s.organization_id = organization and s.created_at < moment and s.status in ('ACTIVE', 'PAST_DUE', 'CANCELLED')
      and private.monthly_amount(s) > 0
      and not exists (select from private.subscription_states h where h.subscription_id = s.id)
  )
$$;
comment on function private.has_paid_before(uuid, timestamptz) is 'Whether an organization was a customer at any time before a moment.';

-- Currencies ----------------------------------------------------------------------------------------------------------

create table private.reporting_rates (
  currency text primary key constraint "currency is three lower-case letters" check (currency ~ '^[a-z]{3}$'),
  rate numeric not null constraint "rate is positive" check (rate > 0),
  is_reporting boolean not null default false,
  constraint "the reporting currency has the rate 1" check (not is_reporting or rate = 1)
);
comment on table private.reporting_rates is
  'The currency in which all revenue is added up, and what others are worth. Rates are configured by hand, never guessed.';
comment on column private.reporting_rates.rate is
  'Minor units of the reporting currency for one minor unit of this one: with usd, 1.1 for eur and 0.65 for jpy.';
comment on column private.reporting_rates.is_reporting is 'The currency in which revenue is added up; one row.';
create unique index reporting_rates_reporting_idx on private.reporting_rates (is_reporting) where is_reporting;
insert into private.reporting_rates (currency, rate, is_reporting) values ('usd', 1, true);

-- One row per day and currency ----------------------------------------------------------------------------------------

create table public.platform_revenue (
  date date not null,
  currency text not null constraint "currency is three lower-case letters" check (currency ~ '^[a-z]{3}$'),
  customers integer not null default 0,
  mrr_cents bigint not null default 0,
  arr_cents bigint not null default 0,
  start_customers integer not null default 0,
  start_mrr_cents bigint not null default 0,
  churned_customers integer not null default 0,
  churned_mrr_cents bigint not null default 0,
  contraction_mrr_cents bigint not null default 0,
  expansion_mrr_cents bigint not null default 0,
  new_customers integer not null default 0,
  new_mrr_cents bigint not null default 0,
  reactivated_customers integer not null default 0,
  reactivated_mrr_cents bigint not null default 0,
  logo_churn_rate double precision,
  revenue_churn_rate double precision,
  measured_at timestamptz not null default now(),
  primary key (date, currency)
);
comment on table public.platform_revenue is
  'Recurring revenue of a UTC day per currency, and what changed in the 30 days before: start + new + reactivated + expansion '
  '− contraction − churned = MRR, but for rounding. Definitions: docs/billing.md.';
comment on column public.platform_revenue.customers is 'Organizations that pay in this currency.';
comment on column public.platform_revenue.date is 'The day (UTC).';
comment on column public.platform_revenue.measured_at is 'When it was counted.';
comment on column public.platform_revenue.mrr_cents is
  'Net amount per month of all paying subscriptions: all items, quantities and recurring discounts, before tax; in minor units.';
comment on column public.platform_revenue.arr_cents is 'mrr_cents × 12.';
comment on column public.platform_revenue.start_customers is 'Customers 30 days before: the cohort.';
comment on column public.platform_revenue.start_mrr_cents is 'What the cohort paid then.';
comment on column public.platform_revenue.churned_customers is 'Customers of the cohort who pay nothing now, in no currency.';
comment on column public.platform_revenue.churned_mrr_cents is 'What they paid at the start.';
comment on column public.platform_revenue.contraction_mrr_cents is 'What customers of the cohort who still pay, pay less.';
comment on column public.platform_revenue.expansion_mrr_cents is 'What customers of the cohort pay more.';
comment on column public.platform_revenue.new_customers is 'Customers now who never paid before the start.';
comment on column public.platform_revenue.new_mrr_cents is 'What they pay.';
comment on column public.platform_revenue.reactivated_customers is 'Customers now who paid at some time before the start, but not at the start.';
comment on column public.platform_revenue.reactivated_mrr_cents is 'What they pay.';
comment on column public.platform_revenue.logo_churn_rate is 'churned_customers / start_customers; null without a cohort.';
comment on column public.platform_revenue.revenue_churn_rate is 'churned_mrr_cents / start_mrr_cents; null without a cohort.';
alter table public.platform_revenue enable row level security;
create policy "platform admins read the revenue" on public.platform_revenue for select to authenticated
  using ((select private.is_admin()));
grant select on public.platform_revenue to authenticated;
grant all on public.platform_revenue to service_role;

create function private.measure_revenue(as_of timestamptz) returns setof public.platform_revenue
language sql stable set search_path = '' as $$
  with before as materialized (
    select * from private.paying_before(as_of - interval '720 hours')
  ), now_paying as materialized (
    select * from private.paying_before(as_of)
  ), moved as (
    select coalesce(b.currency, n.currency) as currency, coalesce(b.organization_id, n.organization_id) as organization,
      b.monthly_amount as start, n.monthly_amount as finish,
      case
        when not exists (select from now_paying o where o.organization_id = b.organization_id) and b.organization_id is not null
          then 'CHURNED'
        when exists (select from before o where o.organization_id = n.organization_id) or b.organization_id is not null then 'STAYED'
        when private.has_paid_before(n.organization_id, as_of - interval '720 hours') then 'REACTIVATED'
        else 'NEW' end as move
    from before b full join now_paying n on (n.organization_id, n.currency) = (b.organization_id, b.currency)
  )
  select null::date, m.currency, count(m.finish)::integer, coalesce(round(sum(m.finish)), 0)::bigint,
    coalesce(round(sum(m.finish)), 0)::bigint * 12, count(m.start)::integer, coalesce(round(sum(m.start)), 0)::bigint,
    count(*) filter (where m.move = 'CHURNED')::integer,
    coalesce(round(sum(m.start) filter (where m.move = 'CHURNED')), 0)::bigint,
    coalesce(round(sum(coalesce(m.start, 0) - coalesce(m.finish, 0))
      filter (where m.move = 'STAYED' and coalesce(m.start, 0) > coalesce(m.finish, 0))), 0)::bigint,
    coalesce(round(sum(coalesce(m.finish, 0) - coalesce(m.start, 0))
      filter (where m.move = 'STAYED' and coalesce(m.finish, 0) > coalesce(m.start, 0))), 0)::bigint,
    count(*) filter (where m.move = 'NEW')::integer, coalesce(round(sum(m.finish) filter (where m.move = 'NEW')), 0)::bigint,
    count(*) filter (where m.move = 'REACTIVATED')::integer,
    coalesce(round(sum(m.finish) filter (where m.move = 'REACTIVATED')), 0)::bigint,
    count(*) filter (where m.move = 'CHURNED')::float8 / nullif(count(m.start), 0),
    (coalesce(sum(m.start) filter (where m.move = 'CHURNED'), 0) / nullif(sum(m.start), 0))::float8, now()
  from moved m group by m.currency
$$;
comment on function private.measure_revenue(timestamptz) is 'The revenue just before a moment, and what changed in the 30 days before it.';

create function private.record_revenue(day date, as_of timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  delete from public.platform_revenue r where r.date = day;
  insert into public.platform_revenue
  select day, m.currency, m.customers, m.mrr_cents, m.arr_cents, m.start_customers, m.start_mrr_cents, m.churned_customers,
    m.churned_mrr_cents, m.contraction_mrr_cents, m.expansion_mrr_cents, m.new_customers, m.new_mrr_cents,
    m.reactivated_customers, m.reactivated_mrr_cents, m.logo_churn_rate, m.revenue_churn_rate, m.measured_at
  from private.measure_revenue(as_of) m
  on conflict (date, currency) do nothing;
end $$;
comment on function private.record_revenue(date, timestamptz) is 'Writes the revenue of a day.';
