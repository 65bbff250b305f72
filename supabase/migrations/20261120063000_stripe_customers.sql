-- Whose customer is it, what does a status mean, and what has to be changed at Stripe? From here to the settlement:
-- subscriptions, invoices, prices and refunds follow from the present state of their objects at Stripe. Each function can
-- run at any time and again; running it twice changes nothing.

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
    union all
    select f.stripe_customer_id from private.former_customers f where f.organization_id = org
    union all
    select s.stripe_customer_id from public.subscriptions s where s.organization_id = org and s.stripe_customer_id is not null
  );
end $$;
comment on function private.customers_of(uuid) is 'All customers at Stripe that an organization has or had, some of them twice.';

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
  if tg_op = 'UPDATE' and new.closed_at is null then
    -- Reopened before the job has begun to cancel them: they go on.
    delete from public.stripe_tasks t
    where t.kind = 'CANCEL_SUBSCRIPTION' and t.tries = 0 and t.done_at is null and t.reason ~ '^Organization .* was closed$'
      and exists (
        select from public.stripe_objects o where o.id = t.object_id and o.customer_id = any (private.customers_of(new.id))
      );
    return null;
  elsif tg_op = 'UPDATE' then
    perform private.cancel_all_at_stripe(new.id, format('Organization %s was closed', new.name));
    return null;
  end if;
  insert into private.closed_customers as c (stripe_customer_id, organization_id, organization_name)
  select k.customer, old.id, old.name from unnest(private.customers_of(old.id)) k (customer)
  on conflict (stripe_customer_id) do nothing;
  perform private.cancel_all_at_stripe(old.id, format('Organization %s was deleted', old.name));
  return old;
end $$;
comment on function private.end_billing() is
  'Ends the subscriptions of a closed or deleted organization at Stripe; those of one that is reopened at once go on.';
create trigger end_billing before delete on public.organizations
  for each row execute function private.end_billing();
create trigger end_billing_of_closed after update of closed_at on public.organizations
  for each row when ((new.closed_at is null) <> (old.closed_at is null)) execute function private.end_billing();
