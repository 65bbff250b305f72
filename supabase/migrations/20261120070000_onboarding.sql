-- Onboarding: from a token and a name to an organization that is paid for. The tables of sessions, their steps and moves
-- are part of the billing chapter.
--
-- Stripe is never called in a transaction. A row is written before anything is created at Stripe, and the idempotency key
-- of the call derives from the row, so a retry after a crash gets the same object. Everything Stripe says about a payment,
-- in a response or in an event, enters through private.apply_payment_facts() and nowhere else.

-- Payments ------------------------------------------------------------------------------------------------------------

create table private.onboarding_payments (
  session_id uuid not null references public.onboarding_sessions (id),
  attempt integer not null constraint "attempt is positive" check (attempt > 0),
  tier "SubscriptionTier" not null,
  billing_cycle "BillingCycle" not null,
  stripe_price_id text not null,
  amount_cents bigint not null,
  currency text not null,
  billing_name text,
  billing_email text,
  stripe_customer_id text,
  stripe_subscription_id text unique,
  stripe_payment_intent_id text unique,
  promotion_code text,
  country text,
  postal_code text,
  current_period_start timestamptz,
  current_period_end timestamptz,
  paid_cents bigint,
  status "PaymentStatus" not null default 'PENDING',
  problem text,
  cancel_requested_at timestamptz,
  settled_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (session_id, attempt)
);
comment on table private.onboarding_payments is
  'Every payment attempt, written before Stripe is called: the offer and the result.';
comment on column private.onboarding_payments.billing_name is
  'Name of the customer, until Stripe has it; a retry must send exactly the same.';
comment on column private.onboarding_payments.promotion_code is 'The promotion code (promo_…) the customer entered.';
comment on column private.onboarding_payments.country is 'Where tax is due, if automatic tax is configured.';
comment on column private.onboarding_payments.postal_code is 'Part of the address that decides the tax.';
comment on column private.onboarding_payments.paid_cents is 'What was paid, after discounts and with tax, as Stripe says.';
comment on column private.onboarding_payments.problem is 'What at Stripe differs from the offer; such a payment never completes.';
comment on column private.onboarding_payments.cancel_requested_at is
  'When it was replaced or expired, and is to be cancelled at Stripe.';
comment on column private.onboarding_payments.settled_at is 'When nothing was left to do about it at Stripe.';
create index onboarding_payments_to_settle_idx on private.onboarding_payments (cancel_requested_at)
  where cancel_requested_at is not null and settled_at is null;
create index onboarding_payments_open_idx on private.onboarding_payments (updated_at) where settled_at is null;
create trigger touch before update on private.onboarding_payments
  for each row execute function private.touch_updated_at();

-- Refunds -------------------------------------------------------------------------------------------------------------

create type "RefundReason" as enum ('REPLACED', 'ENDED', 'UNCLAIMED', 'MISMATCH', 'DUPLICATE', 'REQUESTED');
comment on type "RefundReason" is
  'Why money is owed. REPLACED: another plan had been chosen. ENDED: paid after the subscription was over or '
  'refunded. UNCLAIMED: paid without signing in, and not claimed in time. MISMATCH: not what was offered. DUPLICATE: '
  'bought twice at the same time. REQUESTED: by a platform admin.';
create type "RefundStatus" as enum ('TO_DECIDE', 'DUE', 'ISSUING', 'REFUNDED', 'FAILED', 'WITHDRAWN');
comment on type "RefundStatus" is
  'TO_DECIDE: waits for a person. DUE: issued by the job after refund_after. ISSUING: the job is calling Stripe. '
  'FAILED: Stripe refused; see error. WITHDRAWN: not refunded, because the customer got what they paid for.';

create table public.refunds_due (
  id uuid primary key default gen_random_uuid(),
  object_id text not null,
  onboarding_session_id uuid references public.onboarding_sessions (id) on delete set null,
  stripe_payment_intent_id text,
  amount_cents bigint not null constraint "amount_cents is not negative" check (amount_cents >= 0),
  currency text not null constraint "currency is three lower-case letters" check (currency ~ '^[a-z]{3}$'),
  reason "RefundReason" not null,
  status "RefundStatus" not null default 'DUE',
  refund_after timestamptz not null default now(),
  tries integer not null default 0 constraint "tries is not negative" check (tries >= 0),
  stripe_refund_id text unique,
  error text,
  refunded_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "refunded_at is set exactly when status is REFUNDED" check ((status = 'REFUNDED') = (refunded_at is not null))
);
comment on table public.refunds_due is 'Payments to refund: by the job, or after the decision of a platform admin.';
comment on column public.refunds_due.object_id is 'The subscription or the invoice that was paid.';
comment on column public.refunds_due.amount_cents is 'What is refunded, in minor units of the currency.';
comment on column public.refunds_due.refund_after is 'Until then the customer may still come back for what they paid.';
comment on column public.refunds_due.error is 'What differs from the offer, or why Stripe refused.';
-- Rules queue an object once; platform admins may request several refunds of it.
create unique index refunds_due_object_idx on public.refunds_due (object_id) where reason <> 'REQUESTED';
create unique index refunds_due_payment_idx on public.refunds_due (stripe_payment_intent_id) where reason <> 'REQUESTED';
create index refunds_due_requested_idx on public.refunds_due (object_id) where reason = 'REQUESTED';
create index refunds_due_session_idx on public.refunds_due (onboarding_session_id);
create index refunds_due_created_at_idx on public.refunds_due (created_at desc);
create index refunds_due_open_idx on public.refunds_due (refund_after) where status in ('DUE', 'ISSUING');
create trigger touch before update on public.refunds_due for each row execute function private.touch_updated_at();

alter table public.refunds_due enable row level security;
create policy "platform admins see what is to be given back" on public.refunds_due for select to authenticated
  using ((select private.is_admin()));
grant select on public.refunds_due to authenticated;
grant all on public.refunds_due to service_role;

create function private.owe_refund(
  payment private.onboarding_payments, facts private.payment_facts, reason "RefundReason", problem text default null,
  refund_after timestamptz default now()
) returns void language sql set search_path = '' as $$
  insert into public.refunds_due (
    onboarding_session_id, object_id, stripe_payment_intent_id, amount_cents, currency, reason, status, refund_after,
    error
  ) values (
    payment.session_id, coalesce(facts.subscription, payment.stripe_subscription_id),
    coalesce(facts.payment_intent, payment.stripe_payment_intent_id),
    coalesce(facts.amount, payment.paid_cents, payment.amount_cents), coalesce(facts.currency, payment.currency),
    reason, case reason when 'MISMATCH' then 'TO_DECIDE' else 'DUE' end::public."RefundStatus", refund_after, problem
  ) on conflict (object_id) where reason <> 'REQUESTED' do nothing
$$;
comment on function private.owe_refund(private.onboarding_payments, private.payment_facts, "RefundReason", text, timestamptz) is
  'Puts a payment into the queue of refunds, once.';

-- Whose session -------------------------------------------------------------------------------------------------------
-- A session is found by the hash of its token, or by its user. Once it belongs to a user, the token opens it for that user
-- only. Unknown, malformed and foreign tokens get the same response.

create function private.find_onboarding_session(request jsonb) returns public.onboarding_sessions
language plpgsql set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  session public.onboarding_sessions;
begin
  perform private.refuse_suspended();
  if request ->> 'token_hash' is not null then
    select s.* into session from public.onboarding_sessions s where s.token_hash = request ->> 'token_hash' for update;
  elsif request ->> 'session_id' is not null then
    select s.* into session from public.onboarding_sessions s
    where s.id = (request ->> 'session_id')::uuid and s.user_id = me for update;
  else
    select s.* into session from public.onboarding_sessions s
    where s.user_id = me and not s.is_completed order by s.created_at desc, s.id limit 1 for update;
  end if;
  if session.id is null or session.user_id <> me or (session.user_id is not null and me is null) then
    raise exception 'There is no such onboarding session' using
      errcode = 'PT404', hint = 'Send the whole token, signed in as the user of the session; or start a new one.';
  end if;
  return session;
end $$;
comment on function private.find_onboarding_session(jsonb) is
  'The session of this token_hash, session_id or else the caller''s newest open one, locked; PT404 for all others.';

create function private.has_expired(session public.onboarding_sessions) returns boolean
language sql stable set search_path = '' as $$
  select session.expires_at <= now() and not session.is_completed and session.payment_status <> 'SUCCEEDED'
$$;
comment on function private.has_expired(public.onboarding_sessions) is
  'Whether a session has expired; a completed or paid one never does.';

create function private.refuse_expired(session public.onboarding_sessions) returns void
language plpgsql stable set search_path = '' as $$
begin
  if private.has_expired(session) then
    raise exception 'This onboarding session has expired' using
      errcode = 'PT410', detail = format('It ended at %s.', to_json(session.expires_at) #>> '{}'),
      hint = 'Start a new one.';
  end if;
end $$;
comment on function private.refuse_expired(public.onboarding_sessions) is 'PT410 once its 24 hours are over.';

create function private.enter_onboarding_session(request jsonb) returns public.onboarding_sessions
language plpgsql set search_path = '' as $$
declare
  session public.onboarding_sessions := private.find_onboarding_session(request);
begin
  if session.is_completed then
    raise exception 'This onboarding session is completed' using
      errcode = 'PT409', hint = 'Change the organization or its subscription itself.';
  end if;
  perform private.refuse_expired(session);
  -- The first signed-in user who continues an anonymous session owns it from then on.
  if session.user_id is null and private.current_user_id() is not null then
    update public.onboarding_sessions s set user_id = private.current_user_id() where s.id = session.id
    returning * into session;
  end if;
  return session;
end $$;
comment on function private.enter_onboarding_session(jsonb) is 'The session to change; binds it to the signed-in caller.';

create function private.show_onboarding_session(session public.onboarding_sessions) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'session_id', session.id, 'current_step', session.current_step, 'total_steps', session.total_steps,
    'name', session.org_name, 'website', session.org_website, 'description', session.org_description,
    'tier', session.selected_tier, 'billing_cycle', session.billing_cycle,
    'amount_cents', coalesce(payment.amount_cents, plan.amount_cents),
    'currency', coalesce(payment.currency, plan.currency),
    'payment_status', session.payment_status,
    'refund', (
      select r.status from public.refunds_due r
      where r.object_id = session.stripe_subscription_id and r.status <> 'WITHDRAWN'
    ),
    'is_completed', session.is_completed, 'completed_at', session.completed_at, 'expires_at', session.expires_at,
    'organization', (
      select jsonb_build_object('id', o.id, 'name', o.name, 'slug', o.slug)
      from public.organizations o where o.id = session.organization_id
    )
  )
  from (values (0)) one (row)
  left join private.onboarding_payments payment
    on payment.session_id = session.id and payment.attempt = session.payment_attempt
  left join public.plans plan
    on plan.tier = session.selected_tier and plan.billing_cycle = session.billing_cycle and plan.is_active
$$;
comment on function private.show_onboarding_session(public.onboarding_sessions) is 'A session in the form of the API.';

create function private.show_onboarding_payment(payment private.onboarding_payments) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(payment) - '{problem,cancel_requested_at,settled_at,paid_cents,updated_at,current_period_start,current_period_end}'::text[]
    || jsonb_build_object(
      'stripe_customer_id', coalesce(payment.stripe_customer_id, (
        select s.stripe_customer_id from public.onboarding_sessions s where s.id = payment.session_id
      )),
      -- Stripe keeps an idempotency key for 24 hours, and an unpaid subscription expires after 23.
      'is_remembered', payment.created_at > now() - interval '22 hours'
    )
$$;
comment on function private.show_onboarding_payment(private.onboarding_payments) is
  'A payment in the form the functions need to call Stripe.';

create function private.payments_to_cancel(session_id uuid) returns jsonb language sql stable set search_path = '' as $$
  select coalesce(jsonb_agg(private.show_onboarding_payment(p) order by p.attempt), '[]')
  from private.onboarding_payments p
  where p.session_id = payments_to_cancel.session_id and p.cancel_requested_at is not null and p.settled_at is null
$$;
comment on function private.payments_to_cancel(uuid) is 'Payments of a session that must be cancelled at Stripe.';

-- create, get, update -------------------------------------------------------------------------------------------------

create table private.onboarding_counts (
  address text not null,
  hour timestamptz not null,
  started integer not null,
  primary key (address, hour)
);
comment on table private.onboarding_counts is 'How many sessions an address started in an hour without signing in.';
create index onboarding_counts_hour_idx on private.onboarding_counts (hour);

create function private.count_onboarding(address text) returns void language plpgsql set search_path = '' as $$
begin
  -- Without an address the request came through no proxy, so it is from this machine or its network.
  if address is null or address ~ '^(::ffff:)?127\.' or address = '::1' then
    return;
  end if;
  insert into private.onboarding_counts as c (address, hour, started)
  values (count_onboarding.address, date_trunc('hour', now()), 1)
  on conflict on constraint onboarding_counts_pkey do update set started = c.started + 1 where c.started < 60;
  if not found then
    raise exception 'Too many onboarding sessions were started from this address' using
      errcode = 'PT429', hint = 'Sign in first, or try again in an hour.';
  end if;
end $$;
comment on function private.count_onboarding(text) is 'PT429 beyond 60 anonymous sessions an hour from an address.';

create function private.create_onboarding_session(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  session public.onboarding_sessions;
begin
  perform private.refuse_suspended();
  perform private.refuse_impersonation();
  if me is null then
    perform private.count_onboarding(private.client_network());
  elsif (
    select count(*) from public.onboarding_sessions s where s.user_id = me and s.created_at > now() - interval '1 hour'
  ) >= 60 then
    raise exception 'You started too many onboarding sessions' using
      errcode = 'PT429', hint = 'Go on with one of them, or try again in an hour.';
  end if;
  insert into public.onboarding_sessions (token_hash, user_id) values (request ->> 'token_hash', me)
  returning * into session;
  return private.show_onboarding_session(session);
end $$;
comment on function private.create_onboarding_session(jsonb) is 'Starts a session; only the hash of its token comes here.';

create function private.get_onboarding_session(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  session public.onboarding_sessions := private.find_onboarding_session(request);
begin
  perform private.refuse_expired(session);
  return private.show_onboarding_session(session);
end $$;
comment on function private.get_onboarding_session(jsonb) is 'The state of a session.';

create function private.choose_onboarding_plan(
  session public.onboarding_sessions, tier "SubscriptionTier", cycle "BillingCycle", checked integer
) returns jsonb language plpgsql set search_path = '' as $$
declare
  payment private.onboarding_payments;
begin
  if session.current_step < 2 then
    raise exception 'The organization must be named before the plan is chosen' using
      errcode = 'PT409', detail = 'The session is at step 1.', hint = 'Do step 1 first.';
  end if;
  if not exists (
    select from public.plans p where p.tier = choose_onboarding_plan.tier and p.billing_cycle = cycle and p.is_active
  ) then
    raise exception '% cannot be bought here', tier using
      errcode = 'PT422', detail = 'Found it in the field tier.', hint = case tier
        when 'ENTERPRISE' then 'ENTERPRISE is by agreement: contact our sales team, or start with another plan.'
        else 'Choose a plan that is on sale.' end;
  end if;
  if session.current_step > 2 and (session.selected_tier, session.billing_cycle) = (tier, cycle) then
    return jsonb_build_object('session', private.show_onboarding_session(session), 'to_cancel', '[]'::jsonb);
  end if;
  if session.payment_status in ('PROCESSING', 'SUCCEEDED', 'CANCELLED') and session.current_step = 3 then
    raise exception 'The plan cannot change during its payment' using
      errcode = 'PT409', detail = format('The payment is %s.', session.payment_status),
      hint = case session.payment_status when 'CANCELLED' then 'Start a new session.'
        else 'Wait for the payment to end, or finish and change the plan afterwards.' end;
  end if;
  select p.* into payment from private.onboarding_payments p
  where p.session_id = session.id and p.attempt = session.payment_attempt for update;
  if payment.attempt <> coalesce(checked, 0) and payment.cancel_requested_at is null then
    -- The payment may have succeeded: the function fetches it from Stripe first.
    return jsonb_build_object('payment', private.show_onboarding_payment(payment));
  end if;
  update private.onboarding_payments p set cancel_requested_at = coalesce(p.cancel_requested_at, now())
  where p.session_id = session.id and p.attempt = session.payment_attempt;
  if session.current_step > 2 then
    update public.onboarding_sessions s set current_step = 2 where s.id = session.id;
  end if;
  update public.onboarding_sessions s set
    selected_tier = tier, billing_cycle = cycle, current_step = case tier when 'FREE' then 4 else 3 end,
    payment_attempt = s.payment_attempt + (payment.attempt is not null)::integer, payment_status = 'PENDING',
    stripe_subscription_id = null, stripe_payment_intent_id = null
  where s.id = session.id returning * into session;
  return jsonb_build_object(
    'session', private.show_onboarding_session(session), 'to_cancel', private.payments_to_cancel(session.id)
  );
end $$;
comment on function private.choose_onboarding_plan(public.onboarding_sessions, "SubscriptionTier", "BillingCycle", integer)
  is 'Step 2. A payment for another plan is cancelled once `checked` names its attempt: it was fetched from Stripe.';

create function private.update_onboarding_session(change jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  session public.onboarding_sessions := private.enter_onboarding_session(change);
begin
  if change ->> 'step' = '2' then
    return private.choose_onboarding_plan(
      session, (change ->> 'tier')::public."SubscriptionTier", (change ->> 'billing_cycle')::public."BillingCycle",
      (change ->> 'checked')::integer
    );
  end if;
  update public.onboarding_sessions s set
    org_name = change ->> 'name', org_website = change ->> 'website', org_description = change ->> 'description',
    current_step = greatest(s.current_step, 2)
  where s.id = session.id returning * into session;
  return jsonb_build_object('session', private.show_onboarding_session(session), 'to_cancel', '[]'::jsonb);
end $$;
comment on function private.update_onboarding_session(jsonb) is
  'Does step 1 or 2, for the first time or again. Returns the session, or the payment to fetch from Stripe first.';

-- Payment -------------------------------------------------------------------------------------------------------------

create function private.ensure_onboarding_payment(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  session public.onboarding_sessions := private.enter_onboarding_session(request);
  payment private.onboarding_payments;
  plan public.plans;
begin
  if session.current_step <> 3 then
    raise exception 'The session is not at the payment step' using
      errcode = 'PT409', detail = format('The session is at step %s.', session.current_step),
      hint = case when session.current_step = 4 then 'Complete it.' else format('Do step %s first.', session.current_step) end;
  end if;
  if session.payment_status = 'CANCELLED' then
    raise exception 'The payment of this session was cancelled' using errcode = 'PT409', hint = 'Start a new session.';
  end if;
  select p.* into payment from private.onboarding_payments p
  where p.session_id = session.id and p.attempt = session.payment_attempt for update;
  -- Another promotion code or country makes another subscription.
  if payment.cancel_requested_at is null and payment.status in ('PENDING', 'REQUIRES_ACTION', 'FAILED') and (
    request ? 'promotion_code' and request ->> 'promotion_code' is distinct from payment.promotion_code
    or request ? 'country' and (request ->> 'country', request ->> 'postal_code')
      is distinct from (payment.country, payment.postal_code)
  ) then
    update private.onboarding_payments p set cancel_requested_at = now()
    where p.session_id = payment.session_id and p.attempt = payment.attempt returning * into payment;
  end if;
  if payment.attempt is null or payment.cancel_requested_at is not null then
    select p.* into plan from public.plans p
    where p.tier = session.selected_tier and p.billing_cycle = session.billing_cycle and p.is_active;
    if plan.id is null then
      raise exception 'This plan is no longer sold' using errcode = 'PT409', hint = 'Choose another: do step 2 again.';
    elsif plan.stripe_price_id is null then
      raise exception 'This plan cannot be paid for yet' using
        errcode = 'PT503', detail = format('%s %s has no price at Stripe.', plan.tier, plan.billing_cycle),
        hint = 'An administrator sets stripe_price_id in plans.';
    end if;
    -- After a change of plan the session already has the number of the next attempt, without a payment.
    update public.onboarding_sessions s set
      payment_attempt = case when payment.attempt is null then greatest(s.payment_attempt, 1) else s.payment_attempt + 1 end,
      payment_status = 'PENDING', stripe_subscription_id = null, stripe_payment_intent_id = null
    where s.id = session.id returning * into session;
    insert into private.onboarding_payments (
      session_id, attempt, tier, billing_cycle, stripe_price_id, amount_cents, currency, promotion_code, country, postal_code,
      billing_name, billing_email
    ) values (
      session.id, session.payment_attempt, plan.tier, plan.billing_cycle, plan.stripe_price_id, plan.amount_cents,
      plan.currency, coalesce(request ->> 'promotion_code', payment.promotion_code),
      coalesce(request ->> 'country', payment.country), coalesce(request ->> 'postal_code', payment.postal_code),
      session.org_name, (select u.email from public.users u where u.id = session.user_id)
    ) returning * into payment;
  end if;
  return jsonb_build_object(
    'payment', private.show_onboarding_payment(payment), 'to_cancel', private.payments_to_cancel(session.id)
  );
end $$;
comment on function private.ensure_onboarding_payment(jsonb) is
  'Step 3: the payment that was started, or a new one at the current price; and the payments to cancel at Stripe first.';

create function private.abandon_onboarding_payment(payment jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update private.onboarding_payments p set cancel_requested_at = now()
  where p.session_id = (payment ->> 'session_id')::uuid and p.attempt = (payment ->> 'attempt')::integer
    and p.cancel_requested_at is null and p.stripe_subscription_id is null
  returning to_jsonb(true)
$$;
comment on function private.abandon_onboarding_payment(jsonb) is
  'Abandons a payment whose creation failed at Stripe for good; the next attempt has another idempotency key.';

create function private.slug_of(name text) returns text language sql immutable set search_path = '' as $$
  select coalesce(nullif(trim(both '-' from left(trim(both '-' from
    regexp_replace(regexp_replace(lower(normalize(name, nfkd)), '[^[:ascii:]]', '', 'g'), '[^a-z0-9]+', '-', 'g')
  ), 60)), ''), 'organization')
$$;
comment on function private.slug_of(text) is 'Lower-case words joined by hyphens: Café Zürich → cafe-zurich.';

create function private.complete_onboarding(session public.onboarding_sessions) returns public.onboarding_sessions
language plpgsql set search_path = '' as $$
declare
  words text := private.slug_of(session.org_name);
  payment private.onboarding_payments;
  org uuid;
  number integer := 0;
begin
  select p.* into payment from private.onboarding_payments p
  where p.session_id = session.id and p.attempt = session.payment_attempt and session.selected_tier <> 'FREE';
  if session.selected_tier <> 'FREE' and (payment.status is distinct from 'SUCCEEDED' or payment.problem is not null) then
    raise exception 'An onboarding session completes only with the payment that was offered' using errcode = 'PT409';
  end if;
  update public.refunds_due r set status = 'WITHDRAWN', error = null
  where r.object_id = payment.stripe_subscription_id and r.status in ('DUE', 'FAILED');
  if exists (
    select from public.refunds_due r
    where r.object_id = payment.stripe_subscription_id and r.status <> 'WITHDRAWN'
  ) then
    raise exception 'The payment of this session is being refunded' using
      errcode = 'PT410', hint = 'Start a new session.';
  end if;
  if session.selected_tier = 'FREE' then
    perform private.require_free_organization(session.user_id);
  end if;
  loop
    -- The first free slug; a concurrent insert of the same slug is waited for, and the loop tries the next.
    select n into number from generate_series(number, number + 100000) n
    where not exists (select from public.organizations o where o.slug = words || case when n > 0 then '-' || n else '' end)
    order by n limit 1;
    insert into public.organizations (name, slug, website, description, billing_email, stripe_customer_id)
    values (
      session.org_name, words || case when number > 0 then '-' || number else '' end, session.org_website,
      session.org_description, (select u.email from public.users u where u.id = session.user_id),
      payment.stripe_customer_id
    ) on conflict on constraint organizations_slug_key do nothing returning id into org;
    exit when org is not null;
  end loop;
  insert into public.organization_members (user_id, organization_id, role) values (session.user_id, org, 'OWNER');
  insert into public.subscriptions (
    organization_id, stripe_subscription_id, stripe_customer_id, status, tier, billing_cycle, currency, amount_cents,
    current_period_start, current_period_end
  ) values (
    org, payment.stripe_subscription_id, payment.stripe_customer_id, 'ACTIVE', session.selected_tier,
    session.billing_cycle, coalesce(payment.currency, 'usd'), coalesce(payment.amount_cents, 0), coalesce(payment.current_period_start, now()),
    coalesce(payment.current_period_end, now() + case session.billing_cycle
      when 'YEARLY' then interval '1 year' else interval '1 month' end)
  );
  update private.onboarding_payments p set settled_at = now()
  where p.session_id = session.id and p.attempt = payment.attempt;
  update public.onboarding_sessions s set
    current_step = s.total_steps, is_completed = true, completed_at = now(), organization_id = org
  where s.id = session.id returning * into session;
  return session;
end $$;
comment on function private.complete_onboarding(public.onboarding_sessions) is
  'Step 4, once: organization, owner, subscription. The caller holds the lock of a session that is not completed.';

-- Facts of a payment --------------------------------------------------------------------------------------------------

create function private.payment_result(
  outcome text, session public.onboarding_sessions, payment private.onboarding_payments
) returns jsonb language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'outcome', outcome, 'expired', private.has_expired(session),
    'session', private.show_onboarding_session(session), 'payment', private.show_onboarding_payment(payment)
  )
$$;
comment on function private.payment_result(text, public.onboarding_sessions, private.onboarding_payments) is
  'The result of applying facts of a payment.';

create function private.find_onboarding_payment(facts private.payment_facts) returns private.onboarding_payments
language sql stable set search_path = '' as $$
  select p.* from private.onboarding_payments p
  where p.stripe_subscription_id = facts.subscription or p.stripe_payment_intent_id = facts.payment_intent
    or (
      p.session_id = case when facts.session_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then facts.session_id::uuid end
      and p.attempt = case when facts.attempt ~ '^[0-9]{1,6}$' then facts.attempt::integer end
    )
  order by p.stripe_subscription_id = facts.subscription desc nulls last,
    p.stripe_payment_intent_id = facts.payment_intent desc nulls last
  limit 1
$$;
comment on function private.find_onboarding_payment(private.payment_facts) is
  'The payment that facts are about: by the ids that are saved, else by the metadata.';

create function private.differs_from_offer(payment private.onboarding_payments, facts private.payment_facts) returns text
language sql immutable set search_path = '' as $$
  -- Discounts and tax are Stripe's: the list amount is compared with the plan, the payment with Stripe's own invoice.
  select format('%s is %s, not %s', d.what, d.found, d.expected) from (values
    ('the session', facts.session_id, payment.session_id::text),
    ('the attempt', facts.attempt, payment.attempt::text),
    ('the tier', facts.tier, payment.tier::text),
    ('the subscription', facts.subscription, payment.stripe_subscription_id),
    ('the payment', facts.payment_intent, payment.stripe_payment_intent_id),
    ('the customer', facts.customer, payment.stripe_customer_id),
    ('the price', facts.price, payment.stripe_price_id),
    ('the quantity', facts.quantity, '1'),
    ('the amount', facts.list_amount::text, payment.amount_cents::text),
    ('the amount', facts.amount::text, coalesce(facts.invoiced, payment.amount_cents)::text),
    ('the currency', facts.currency, payment.currency)
  ) d (what, found, expected) where d.found <> d.expected limit 1
$$;
comment on function private.differs_from_offer(private.onboarding_payments, private.payment_facts) is
  'What at Stripe differs from the offer, in words; null if all known facts agree.';

create function private.apply_payment_facts(facts private.payment_facts) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  payment private.onboarding_payments := private.find_onboarding_payment(facts);
  session public.onboarding_sessions;
  new_status public."PaymentStatus" := facts.payment_status;
  differs text;
  outcome text;
begin
  if payment.session_id is null then
    return jsonb_build_object('outcome', 'UNKNOWN');
  end if;
  -- The session is always locked first: all work on one session happens one after the other.
  select s.* into session from public.onboarding_sessions s where s.id = payment.session_id for update;
  select p.* into payment from private.onboarding_payments p
  where p.session_id = payment.session_id and p.attempt = payment.attempt for update;
  if session.is_completed and session.stripe_subscription_id = payment.stripe_subscription_id then
    return private.payment_result('COMPLETED', session, payment);
  end if;
  -- With a promotion code or tax only the invoice can say whether the amount is right.
  if new_status = 'SUCCEEDED' and facts.invoiced is null
    and (payment.promotion_code is not null or payment.country is not null)
  then
    new_status := 'PROCESSING';
    facts.amount := null;
  end if;
  differs := private.differs_from_offer(payment, facts);
  if differs is not null then
    if new_status = 'SUCCEEDED' then
      perform private.owe_refund(payment, facts, 'MISMATCH', differs);
    end if;
    if facts.subscription = coalesce(payment.stripe_subscription_id, facts.subscription) then
      update private.onboarding_payments p set
        problem = differs, cancel_requested_at = coalesce(p.cancel_requested_at, now()),
        stripe_subscription_id = facts.subscription,
        settled_at = case when new_status in ('SUCCEEDED', 'CANCELLED') then now() else p.settled_at end
      where p.session_id = payment.session_id and p.attempt = payment.attempt returning * into payment;
    end if;
    return private.payment_result('MISMATCH', session, payment) || jsonb_build_object('problem', differs);
  end if;
  if new_status is null and facts.subscription_status = 'incomplete_expired' then
    new_status := 'CANCELLED';
  end if;
  update private.onboarding_payments p set
    stripe_customer_id = coalesce(p.stripe_customer_id, facts.customer),
    stripe_subscription_id = coalesce(p.stripe_subscription_id, facts.subscription),
    stripe_payment_intent_id = coalesce(p.stripe_payment_intent_id, facts.payment_intent),
    current_period_start = coalesce(facts.period_start, p.current_period_start),
    current_period_end = coalesce(facts.period_end, p.current_period_end),
    paid_cents = case new_status when 'SUCCEEDED' then coalesce(facts.amount, p.paid_cents) else p.paid_cents end,
    billing_name = case when facts.customer is null then p.billing_name end,
    billing_email = case when facts.customer is null then p.billing_email end,
    status = case when exists (
      select from private.payment_moves m
      where m.from_status = p.status and m.to_status = new_status and not m.needs_new_attempt
    ) then new_status else p.status end,
    settled_at = case when new_status = 'CANCELLED' then coalesce(p.settled_at, now()) else p.settled_at end
  where p.session_id = payment.session_id and p.attempt = payment.attempt returning * into payment;
  if payment.attempt = session.payment_attempt and not session.is_completed and session.selected_tier <> 'FREE' then
    update public.onboarding_sessions s set
      stripe_customer_id = payment.stripe_customer_id, stripe_subscription_id = payment.stripe_subscription_id,
      stripe_payment_intent_id = payment.stripe_payment_intent_id, payment_status = payment.status
    where s.id = session.id returning * into session;
  end if;
  if new_status is distinct from 'SUCCEEDED' then
    return private.payment_result(payment.status::text, session, payment);
  end if;
  -- Paid: the result is an organization, a user who can still claim it, or a refund.
  outcome := case
    when payment.attempt <> session.payment_attempt or session.is_completed then 'REPLACED'
    when payment.status <> 'SUCCEEDED' or facts.subscription_status in ('canceled', 'incomplete_expired', 'unpaid')
      or facts.is_refunded then 'ENDED'
    when session.user_id is null then 'UNCLAIMED'
    else 'COMPLETED' end;
  if outcome = 'COMPLETED' then
    session := private.complete_onboarding(session);
  elsif outcome <> 'UNCLAIMED' then
    perform private.owe_refund(payment, facts, outcome::public."RefundReason");
    update private.onboarding_payments p set settled_at = now()
    where p.session_id = payment.session_id and p.attempt = payment.attempt;
  end if;
  return private.payment_result(outcome, session, payment);
end $$;
comment on function private.apply_payment_facts(private.payment_facts) is
  'Saves what Stripe says about a payment; then waits, completes the onboarding or queues a refund. outcome is a payment '
  'status, or COMPLETED, UNCLAIMED, REPLACED, ENDED, MISMATCH; UNKNOWN if the payment is not of an onboarding.';

create function private.record_onboarding_payment(fetched jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  select private.apply_payment_facts(private.fetched_payment_facts(fetched))
$$;
comment on function private.record_onboarding_payment(jsonb) is 'Applies a payment that a function has fetched from Stripe.';

-- Completion ----------------------------------------------------------------------------------------------------------

create function private.complete_onboarding_session(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  session public.onboarding_sessions;
  payment private.onboarding_payments;
  result jsonb;
begin
  if me is null then
    perform private.refuse_suspended();
    raise exception 'An organization needs an owner who is signed in' using
      errcode = 'PT401', hint = 'Sign up or sign in, then send the token of the session again.';
  end if;
  session := private.find_onboarding_session(request);
  if session.is_completed then
    return jsonb_build_object('session', private.show_onboarding_session(session));
  end if;
  if session.current_step < 3 then
    perform private.refuse_expired(session);
    raise exception 'The onboarding is not done yet' using
      errcode = 'PT409', detail = format('The session is at step %s.', session.current_step),
      hint = format('Do step %s first.', session.current_step);
  end if;
  if session.current_step = 4 then
    perform private.refuse_expired(session);
    update public.onboarding_sessions s set user_id = me where s.id = session.id returning * into session;
    session := private.complete_onboarding(session);
    return jsonb_build_object('session', private.show_onboarding_session(session));
  end if;
  select p.* into payment from private.onboarding_payments p
  where p.session_id = session.id and p.attempt = session.payment_attempt;
  if payment.stripe_subscription_id is null then
    perform private.refuse_expired(session);
    raise exception 'The payment has not been started' using errcode = 'PT409', hint = 'Start it: start-onboarding-payment.';
  end if;
  if request -> 'fetched' is null then
    -- Bind the session before Stripe is called: if the rest is lost, the next event completes it.
    if not private.has_expired(session) then
      update public.onboarding_sessions s set user_id = me where s.id = session.id and s.user_id is null;
    end if;
    return jsonb_build_object('payment', private.show_onboarding_payment(payment));
  end if;
  result := private.record_onboarding_payment(request -> 'fetched');
  select s.* into session from public.onboarding_sessions s where s.id = session.id;
  if result ->> 'outcome' = 'UNCLAIMED' and result #>> '{payment,session_id}' = session.id::text then
    update public.onboarding_sessions s set user_id = me where s.id = session.id returning * into session;
    session := private.complete_onboarding(session);
  end if;
  return result || jsonb_build_object('session', private.show_onboarding_session(session));
end $$;
comment on function private.complete_onboarding_session(jsonb) is
  'Step 4. Without `fetched` it returns the completed session, or the payment to fetch from Stripe; with it, the result.';

-- Unfinished payments --------------------------------------------------------------------------------------------------

create function private.expire_onboarding_payments(work jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  expired bigint;
  claimed jsonb;
begin
  -- Locks the session before the payment, as everywhere. A session that is locked now is handled by the next run.
  with over as (
    select s.id, s.payment_attempt from public.onboarding_sessions s
    where s.expires_at <= now() and not s.is_completed and s.payment_status in ('PENDING', 'REQUIRES_ACTION', 'FAILED')
      and s.payment_attempt > 0
    for update skip locked
  )
  update private.onboarding_payments p set cancel_requested_at = now() from over
  where p.session_id = over.id and p.attempt = over.payment_attempt and p.cancel_requested_at is null and p.settled_at is null;
  get diagnostics expired = row_count;
  perform private.owe_refund(p, null, 'UNCLAIMED', null, s.expires_at + interval '7 days')
  from public.onboarding_sessions s
  join private.onboarding_payments p on p.session_id = s.id and p.attempt = s.payment_attempt
  where s.expires_at <= now() and not s.is_completed and s.user_id is null and s.payment_status = 'SUCCEEDED'
    and p.problem is null and p.settled_at is null;
  -- Marked before Stripe is called: from here on the customer can no longer claim it. Another run takes over after a
  -- crash.
  with due as (
    update public.refunds_due r set status = 'ISSUING', tries = r.tries + (r.status = 'DUE')::integer
    where r.id in (
      select d.id from public.refunds_due d
      where (d.status = 'DUE' and d.refund_after <= now())
        or (d.status = 'ISSUING' and d.updated_at < now() - interval '5 minutes')
      order by d.refund_after limit 50 for update skip locked
    ) returning r.id, r.object_id, r.tries, r.reason, r.amount_cents, r.stripe_payment_intent_id
  )
  select coalesce(jsonb_agg(to_jsonb(due)), '[]') into claimed from due;
  return jsonb_build_object(
    'expired', expired,
    'to_cancel', coalesce((
      select jsonb_agg(private.show_onboarding_payment(p)) from (
        select p.* from private.onboarding_payments p where p.cancel_requested_at is not null and p.settled_at is null
        order by p.cancel_requested_at limit 50
      ) p
    ), '[]'),
    -- Processing for long, or paid while the organization is still missing.
    'in_doubt', coalesce((
      select jsonb_agg(private.show_onboarding_payment(p)) from (
        select p.* from private.onboarding_payments p
        join public.onboarding_sessions s on s.id = p.session_id and s.payment_attempt = p.attempt
        where p.settled_at is null and p.cancel_requested_at is null and p.stripe_subscription_id is not null
          and not s.is_completed and p.updated_at < now() - interval '15 minutes'
          and (p.status = 'PROCESSING' or (p.status = 'SUCCEEDED' and s.user_id is not null))
        order by p.updated_at limit 50
      ) p
    ), '[]'),
    'refunds', claimed
  );
end $$;
comment on function private.expire_onboarding_payments(jsonb) is
  'Marks payments of expired sessions, queues refunds of unclaimed ones, and returns what a function has to do at Stripe.';

create function private.settle_onboarding_payment(settled jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update private.onboarding_payments p set
    settled_at = now(), status = 'CANCELLED', billing_name = null, billing_email = null
  where p.session_id = (settled ->> 'session_id')::uuid and p.attempt = (settled ->> 'attempt')::integer
    and p.cancel_requested_at is not null and p.settled_at is null and p.stripe_subscription_id is null
  returning to_jsonb(true)
$$;
comment on function private.settle_onboarding_payment(jsonb) is
  'Settles a payment that never reached Stripe: its idempotency key has expired, and so would its subscription.';

create function private.record_refund(issued jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update public.refunds_due r set
    status = (issued ->> 'status')::public."RefundStatus", error = issued ->> 'error',
    stripe_refund_id = coalesce(issued ->> 'refund', r.stripe_refund_id),
    refunded_at = case issued ->> 'status' when 'REFUNDED' then now() end
  where r.id = (issued ->> 'id')::uuid and r.status = 'ISSUING';
  -- The refund may have been made by a run that crashed, and have failed since.
  select private.settle_refund(o) from public.stripe_objects o where o.id = issued ->> 'refund';
  select to_jsonb(r.status) from public.refunds_due r where r.id = (issued ->> 'id')::uuid
$$;
comment on function private.record_refund(jsonb) is 'Saves the result of a refund at Stripe.';

grant execute on function private.create_onboarding_session(jsonb), private.get_onboarding_session(jsonb),
  private.update_onboarding_session(jsonb), private.ensure_onboarding_payment(jsonb),
  private.abandon_onboarding_payment(jsonb), private.record_onboarding_payment(jsonb), private.complete_onboarding_session(jsonb),
  private.expire_onboarding_payments(jsonb), private.settle_onboarding_payment(jsonb), private.record_refund(jsonb)
  to strive_functions;

-- The jobs ------------------------------------------------------------------------------------------------------------

-- A session for which a payment was ever started is kept: the money may still arrive.
create function private.expire_onboarding_sessions() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  gone bigint;
begin
  delete from public.onboarding_sessions s
  where s.expires_at <= now() - interval '7 days' and not s.is_completed
    and s.payment_status = 'PENDING' and s.payment_attempt = 0 and s.stripe_subscription_id is null;
  get diagnostics gone = row_count;
  delete from private.onboarding_counts c where c.hour < now() - interval '2 hours';
  return gone;
end $$;
comment on function private.expire_onboarding_sessions() is
  'Deletes onboarding sessions that expired a week ago without a payment.';
grant execute on function private.expire_onboarding_sessions() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('expire_onboarding_sessions', '27 * * * *', 'private.expire_onboarding_sessions',
    'Delete abandoned onboarding sessions.'),
  ('settle_onboarding_payments', '*/10 * * * *', null,
    'Cancel unfinished payments, fetch long ones, issue refunds, and make the changes due at Stripe.');
