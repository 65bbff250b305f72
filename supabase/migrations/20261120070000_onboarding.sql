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
      errcode = 'PT429', constraint = 'retry-after 3600', hint = 'Sign in first, or try again in an hour.';
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
      errcode = 'PT429', constraint = 'retry-after 3600', hint = 'Go on with one of them, or try again in an hour.';
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
