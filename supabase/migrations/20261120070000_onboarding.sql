-- Onboarding at work: from a token and a name to an organisation that is paid for. Sessions, their rules and moves stand
-- with billing; here is what people do with them, what follows from Stripe's word, and what happens to money for which
-- nothing can be given.
--
-- Stripe is never called in a transaction. Before anything is created there, a row says what is about to be; the key of
-- that call is made of the row, so whoever repeats it after a crash gets the same object. Everything Stripe says about
-- a payment, in an answer or in an event, enters through private.follow_onboarding_payment() and nowhere else.

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
  current_period_start timestamptz,
  current_period_end timestamptz,
  status "PaymentStatus" not null default 'PENDING',
  problem text,
  let_go_at timestamptz,
  settled_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (session_id, attempt)
);
comment on table private.onboarding_payments is
  'Every payment that was begun, written before Stripe was asked: what was offered, and what became of it.';
comment on column private.onboarding_payments.billing_name is
  'What the customer at Stripe is to be called, until it is there; asking again must ask for the very same.';
comment on column private.onboarding_payments.problem is 'What at Stripe is not as it was offered; never completed then.';
comment on column private.onboarding_payments.let_go_at is 'Replaced or expired: to be cancelled at Stripe.';
comment on column private.onboarding_payments.settled_at is 'Nothing is left to be done about it at Stripe.';
create index onboarding_payments_to_settle_idx on private.onboarding_payments (let_go_at)
  where let_go_at is not null and settled_at is null;
create index onboarding_payments_open_idx on private.onboarding_payments (updated_at) where settled_at is null;
create trigger touch before update on private.onboarding_payments
  for each row execute function private.touch_updated_at();

-- Refunds -------------------------------------------------------------------------------------------------------------

create type "RefundReason" as enum ('REPLACED', 'ENDED', 'UNCLAIMED', 'MISMATCH');
comment on type "RefundReason" is
  'Why money is owed. REPLACED: another plan had been chosen. ENDED: the subscription was over, or the money given back, before it began. '
  'UNCLAIMED: paid without signing in, and nobody came back. MISMATCH: not what was offered.';
create type "RefundStatus" as enum ('TO_DECIDE', 'DUE', 'ISSUING', 'REFUNDED', 'FAILED', 'WITHDRAWN');
comment on type "RefundStatus" is
  'TO_DECIDE: waits for a person. DUE: issued by the job after refund_after. ISSUING: Stripe is being asked. '
  'FAILED: Stripe refused, error says why. WITHDRAWN: the money is kept, for what was given after all.';

create table public.refunds_due (
  id uuid primary key default gen_random_uuid(),
  object_id text not null unique,
  onboarding_session_id uuid references public.onboarding_sessions (id) on delete set null,
  stripe_payment_intent_id text unique,
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
comment on table public.refunds_due is
  'Money that was paid and for which nothing can be given; given back by the job, or by decision of a platform admin.';
comment on column public.refunds_due.object_id is 'The subscription that took it; one entry for each.';
comment on column public.refunds_due.refund_after is 'Until then the customer may still come back for what they paid.';
comment on column public.refunds_due.error is 'What is not as it was offered, or why Stripe refused.';
create index refunds_due_session_idx on public.refunds_due (onboarding_session_id);
create index refunds_due_created_at_idx on public.refunds_due (created_at desc);
create index refunds_due_open_idx on public.refunds_due (refund_after) where status in ('DUE', 'ISSUING');
create trigger touch before update on public.refunds_due for each row execute function private.touch_updated_at();

alter table public.refunds_due enable row level security;
create policy "platform admins see what is to be given back" on public.refunds_due for select to authenticated
  using ((select private.is_admin()));
grant select on public.refunds_due to authenticated;
grant all on public.refunds_due to service_role;

create function private.decide_refund(refund_id uuid, issue boolean) returns "RefundStatus"
language plpgsql security definer set search_path = '' as $$
declare
  decided public.refunds_due;
begin
  if not private.is_admin() then
    raise exception 'Only platform admins decide about refunds' using errcode = '42501';
  end if;
  update public.refunds_due r set
    status = case when issue then 'DUE' else 'WITHDRAWN' end::public."RefundStatus",
    refund_after = case when issue then now() else r.refund_after end
  where r.id = decide_refund.refund_id and r.status in ('TO_DECIDE', 'DUE', 'FAILED', 'WITHDRAWN')
  returning * into decided;
  if not found then
    raise exception 'There is no such refund to decide about' using
      errcode = 'PT404', detail = format('Found %s.', coalesce((
        select format('one that is %s', r.status) from public.refunds_due r where r.id = decide_refund.refund_id
      ), 'none')), hint = 'Open ones stand in refunds_due; what is being issued or was is not changed.';
  end if;
  perform private.log_admin_action(
    'SUBSCRIPTION_UPDATE', format('Refund %s', case when issue then 'released' else 'withdrawn' end), 'refund',
    decided.id::text, jsonb_build_object('reason', decided.reason, 'amount_cents', decided.amount_cents)
  );
  return decided.status;
end $$;
comment on function private.decide_refund(uuid, boolean) is 'See public.decide_refund().';
create function public.decide_refund(refund_id uuid, issue boolean) returns "RefundStatus"
language sql set search_path = '' as 'select private.decide_refund(refund_id, issue)';
comment on function public.decide_refund(uuid, boolean) is
  'A platform admin has a refund issued by the next run of the job, or keeps the money.';
grant execute on function private.decide_refund(uuid, boolean), public.decide_refund(uuid, boolean)
  to authenticated, service_role;

create function private.owe_refund(
  payment private.onboarding_payments, seen jsonb, reason "RefundReason", problem text default null,
  refund_after timestamptz default now()
) returns void language sql set search_path = '' as $$
  insert into public.refunds_due (
    onboarding_session_id, object_id, stripe_payment_intent_id, amount_cents, currency, reason, status, refund_after,
    error
  ) values (
    payment.session_id, coalesce(seen ->> 'subscription', payment.stripe_subscription_id),
    coalesce(seen ->> 'payment_intent', payment.stripe_payment_intent_id),
    coalesce((seen ->> 'amount_cents')::bigint, payment.amount_cents), coalesce(seen ->> 'currency', payment.currency),
    reason, case reason when 'MISMATCH' then 'TO_DECIDE' else 'DUE' end::public."RefundStatus", refund_after, problem
  ) on conflict (object_id) do nothing
$$;
comment on function private.owe_refund(private.onboarding_payments, jsonb, "RefundReason", text, timestamptz) is
  'Puts what was paid for a subscription into the queue of refunds, once.';

-- Whose session -------------------------------------------------------------------------------------------------------
-- A session is found by the hash of its token, or by its user. Once it is somebody's, the token alone opens it to nobody
-- else: who does not find it is always told the same.

create function private.find_onboarding_session(asked jsonb) returns public.onboarding_sessions
language plpgsql set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  session public.onboarding_sessions;
begin
  perform private.refuse_suspended();
  if asked ->> 'token_hash' is not null then
    select s.* into session from public.onboarding_sessions s where s.token_hash = asked ->> 'token_hash' for update;
  elsif asked ->> 'session_id' is not null then
    select s.* into session from public.onboarding_sessions s
    where s.id = (asked ->> 'session_id')::uuid and s.user_id = me for update;
  else
    select s.* into session from public.onboarding_sessions s
    where s.user_id = me and not s.is_completed order by s.created_at desc, s.id limit 1 for update;
  end if;
  if session.id is null or session.user_id <> me or (session.user_id is not null and me is null) then
    raise exception 'There is no such onboarding session' using
      errcode = 'PT404', hint = 'Send the whole token, signed in as whoever the session belongs to; or start a new one.';
  end if;
  return session;
end $$;
comment on function private.find_onboarding_session(jsonb) is
  'The session of this token_hash, session_id or else the caller''s newest open one, locked; PT404 for all others.';

create function private.has_expired(session public.onboarding_sessions) returns boolean
language sql stable set search_path = '' as $$
  select session.expires_at <= now() and not session.is_completed and session.payment_status <> 'SUCCEEDED'
$$;
comment on function private.has_expired(public.onboarding_sessions) is 'What is completed or paid never expires.';

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

create function private.enter_onboarding_session(asked jsonb) returns public.onboarding_sessions
language plpgsql set search_path = '' as $$
declare
  session public.onboarding_sessions := private.find_onboarding_session(asked);
begin
  if session.is_completed then
    raise exception 'This onboarding session is completed' using
      errcode = 'PT409', hint = 'Change the organisation or its subscription itself.';
  end if;
  perform private.refuse_expired(session);
  -- Whoever is signed in when they go on with it has it from then on.
  if session.user_id is null and private.current_user_id() is not null then
    update public.onboarding_sessions s set user_id = private.current_user_id() where s.id = session.id
    returning * into session;
  end if;
  return session;
end $$;
comment on function private.enter_onboarding_session(jsonb) is 'The session to be changed, by whom it now belongs to.';

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
comment on function private.show_onboarding_session(public.onboarding_sessions) is 'A session as its customer sees it.';

create function private.show_onboarding_payment(payment private.onboarding_payments) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(payment) - '{problem,let_go_at,settled_at,updated_at,current_period_start,current_period_end}'::text[]
    || jsonb_build_object(
      'stripe_customer_id', coalesce(payment.stripe_customer_id, (
        select s.stripe_customer_id from public.onboarding_sessions s where s.id = payment.session_id
      )),
      -- Stripe remembers an idempotency key for 24 hours, and ends what is not paid after 23.
      'is_remembered', payment.created_at > now() - interval '22 hours'
    )
$$;
comment on function private.show_onboarding_payment(private.onboarding_payments) is
  'A payment as the functions need it to ask Stripe about it.';

create function private.payments_let_go(session_id uuid) returns jsonb language sql stable set search_path = '' as $$
  select coalesce(jsonb_agg(private.show_onboarding_payment(p) order by p.attempt), '[]')
  from private.onboarding_payments p
  where p.session_id = payments_let_go.session_id and p.let_go_at is not null and p.settled_at is null
$$;
comment on function private.payments_let_go(uuid) is 'Payments of a session that must be cancelled at Stripe.';

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
  -- Without an address there is no proxy, and this is the machine itself or one beside it.
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

create function private.create_onboarding_session(asked jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  session public.onboarding_sessions;
begin
  perform private.refuse_suspended();
  if me is null then
    perform private.count_onboarding(private.client_network());
  end if;
  insert into public.onboarding_sessions (token_hash, user_id) values (asked ->> 'token_hash', me)
  returning * into session;
  return private.show_onboarding_session(session);
end $$;
comment on function private.create_onboarding_session(jsonb) is 'Starts a session; only the hash of its token comes here.';

create function private.get_onboarding_session(asked jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  session public.onboarding_sessions := private.find_onboarding_session(asked);
begin
  perform private.refuse_expired(session);
  return private.show_onboarding_session(session);
end $$;
comment on function private.get_onboarding_session(jsonb) is 'Where a session stands.';

create function private.choose_onboarding_plan(
  session public.onboarding_sessions, tier "SubscriptionTier", cycle "BillingCycle", checked integer
) returns jsonb language plpgsql set search_path = '' as $$
declare
  payment private.onboarding_payments;
begin
  if session.current_step < 2 then
    raise exception 'The plan is chosen after the organisation is named' using
      errcode = 'PT409', detail = 'The session is at step 1.', hint = 'Do step 1 first.';
  end if;
  if not exists (
    select from public.plans p where p.tier = choose_onboarding_plan.tier and p.billing_cycle = cycle and p.is_active
  ) then
    raise exception '% is not sold here', tier using
      errcode = 'PT422', detail = 'Found it in the field tier.', hint = case tier
        when 'ENTERPRISE' then 'ENTERPRISE is by agreement: contact our sales team, or start with another plan.'
        else 'Choose a plan that is on sale.' end;
  end if;
  if session.current_step > 2 and (session.selected_tier, session.billing_cycle) = (tier, cycle) then
    return jsonb_build_object('session', private.show_onboarding_session(session), 'let_go', '[]'::jsonb);
  end if;
  if session.payment_status in ('PROCESSING', 'SUCCEEDED', 'CANCELLED') and session.current_step = 3 then
    raise exception 'The plan cannot change under its payment' using
      errcode = 'PT409', detail = format('The payment is %s.', session.payment_status),
      hint = case session.payment_status when 'CANCELLED' then 'Start a new session.'
        else 'Wait for the payment to end, or finish and change the plan afterwards.' end;
  end if;
  select p.* into payment from private.onboarding_payments p
  where p.session_id = session.id and p.attempt = session.payment_attempt for update;
  if payment.attempt <> coalesce(checked, 0) and payment.let_go_at is null then
    -- Nobody leaves a payment behind that may have succeeded: Stripe is asked first.
    return jsonb_build_object('payment', private.show_onboarding_payment(payment));
  end if;
  update private.onboarding_payments p set let_go_at = coalesce(p.let_go_at, now())
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
    'session', private.show_onboarding_session(session), 'let_go', private.payments_let_go(session.id)
  );
end $$;
comment on function private.choose_onboarding_plan(public.onboarding_sessions, "SubscriptionTier", "BillingCycle", integer)
  is 'Step 2. A payment begun for another plan is let go of once `checked` says that Stripe was asked about it.';

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
  return jsonb_build_object('session', private.show_onboarding_session(session), 'let_go', '[]'::jsonb);
end $$;
comment on function private.update_onboarding_session(jsonb) is
  'Does step 1 or 2, for the first time or again. Answers the session, or the payment Stripe is to be asked about first.';

-- Payment -------------------------------------------------------------------------------------------------------------

create function private.begin_onboarding_payment(asked jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  session public.onboarding_sessions := private.enter_onboarding_session(asked);
  payment private.onboarding_payments;
  plan public.plans;
begin
  if session.current_step <> 3 then
    raise exception 'There is nothing to pay now' using
      errcode = 'PT409', detail = format('The session is at step %s.', session.current_step),
      hint = case when session.current_step = 4 then 'Complete it.' else format('Do step %s first.', session.current_step) end;
  end if;
  if session.payment_status = 'CANCELLED' then
    raise exception 'The payment of this session was cancelled' using errcode = 'PT409', hint = 'Start a new session.';
  end if;
  select p.* into payment from private.onboarding_payments p
  where p.session_id = session.id and p.attempt = session.payment_attempt;
  if payment.attempt is null or payment.let_go_at is not null then
    select p.* into plan from public.plans p
    where p.tier = session.selected_tier and p.billing_cycle = session.billing_cycle and p.is_active;
    if plan.id is null then
      raise exception 'This plan is no longer sold' using errcode = 'PT409', hint = 'Choose another: do step 2 again.';
    elsif plan.stripe_price_id is null then
      raise exception 'This plan cannot be paid for yet' using
        errcode = 'PT503', detail = format('%s %s has no price at Stripe.', plan.tier, plan.billing_cycle),
        hint = 'An administrator sets stripe_price_id in plans.';
    end if;
    -- After a plan was changed the number of its attempt is there already; it is taken by the first to begin it.
    update public.onboarding_sessions s set
      payment_attempt = case when payment.attempt is null then greatest(s.payment_attempt, 1) else s.payment_attempt + 1 end,
      payment_status = 'PENDING', stripe_subscription_id = null, stripe_payment_intent_id = null
    where s.id = session.id returning * into session;
    insert into private.onboarding_payments (
      session_id, attempt, tier, billing_cycle, stripe_price_id, amount_cents, currency, billing_name, billing_email
    ) values (
      session.id, session.payment_attempt, plan.tier, plan.billing_cycle, plan.stripe_price_id, plan.amount_cents,
      plan.currency, session.org_name, (select u.email from public.users u where u.id = session.user_id)
    ) returning * into payment;
  end if;
  return jsonb_build_object(
    'payment', private.show_onboarding_payment(payment), 'let_go', private.payments_let_go(session.id)
  );
end $$;
comment on function private.begin_onboarding_payment(jsonb) is
  'Step 3: the payment that is under way, or a new one at today''s price; and those to be cancelled before it is asked for.';

create function private.give_up_onboarding_payment(payment jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update private.onboarding_payments p set let_go_at = now()
  where p.session_id = (payment ->> 'session_id')::uuid and p.attempt = (payment ->> 'attempt')::integer
    and p.let_go_at is null and p.stripe_subscription_id is null
  returning to_jsonb(true)
$$;
comment on function private.give_up_onboarding_payment(jsonb) is
  'Lets go of a payment that Stripe failed to make and remembers as failed; the next one has another key.';

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
    raise exception 'An onboarding session completes with the payment that was offered' using errcode = 'PT409';
  end if;
  update public.refunds_due r set status = 'WITHDRAWN', error = null
  where r.object_id = payment.stripe_subscription_id and r.status in ('DUE', 'FAILED');
  if exists (
    select from public.refunds_due r
    where r.object_id = payment.stripe_subscription_id and r.status <> 'WITHDRAWN'
  ) then
    raise exception 'The payment of this session is being given back' using
      errcode = 'PT410', hint = 'Start a new session.';
  end if;
  if session.selected_tier = 'FREE' then
    -- The lock on the user: of two sessions completed at once, the second one counts the first.
    perform from public.users u where u.id = session.user_id for no key update;
    if (
      select count(*) from public.organization_members m join public.organizations o on o.id = m.organization_id
      where m.user_id = session.user_id and m.role = 'OWNER' and o.subscription_tier = 'FREE'
    ) >= 3 then
      raise exception 'A user has at most 3 free organisations' using
        errcode = 'PT402', detail = 'You own 3 already.',
        hint = 'Choose a paid plan for this one, or upgrade, leave or delete one of the others.';
    end if;
  end if;
  loop
    -- The first that is free; who comes at the same time and takes it is waited for.
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
    organization_id, stripe_subscription_id, stripe_customer_id, status, tier, billing_cycle, amount_cents,
    current_period_start, current_period_end
  ) values (
    org, payment.stripe_subscription_id, payment.stripe_customer_id, 'ACTIVE', session.selected_tier,
    session.billing_cycle, coalesce(payment.amount_cents, 0), coalesce(payment.current_period_start, now()),
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
  'Step 4, once: organisation, owner, subscription. The caller holds the lock of a session that is not completed.';

-- What Stripe says ----------------------------------------------------------------------------------------------------
-- `seen` is told by Stripe, never by a client: {session_id, attempt, tier} from the metadata that we wrote ourselves,
-- {customer, subscription, subscription_status, price, quantity, period_start, period_end (Unix seconds)} of the
-- subscription, {payment_intent, payment_status, amount_cents, currency, refunded} of the payment. An event knows some of
-- it; what is known counts.

create function private.followed(
  outcome text, session public.onboarding_sessions, payment private.onboarding_payments
) returns jsonb language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'outcome', outcome, 'expired', private.has_expired(session),
    'session', private.show_onboarding_session(session), 'payment', private.show_onboarding_payment(payment)
  )
$$;
comment on function private.followed(text, public.onboarding_sessions, private.onboarding_payments) is
  'What became of a payment that Stripe spoke of.';

create function private.find_onboarding_payment(seen jsonb) returns private.onboarding_payments
language sql stable set search_path = '' as $$
  select p.* from private.onboarding_payments p
  where p.stripe_subscription_id = seen ->> 'subscription' or p.stripe_payment_intent_id = seen ->> 'payment_intent'
    or (
      p.session_id = case when seen ->> 'session_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then (seen ->> 'session_id')::uuid end
      and p.attempt = case when seen ->> 'attempt' ~ '^[0-9]{1,6}$' then (seen ->> 'attempt')::integer end
    )
  order by p.stripe_subscription_id = seen ->> 'subscription' desc nulls last,
    p.stripe_payment_intent_id = seen ->> 'payment_intent' desc nulls last
  limit 1
$$;
comment on function private.find_onboarding_payment(jsonb) is
  'The payment this is about: by what is known of it, else by what it says of itself.';

create function private.differs_from_offer(payment private.onboarding_payments, seen jsonb) returns text
language sql immutable set search_path = '' as $$
  select format('%s is %s, not %s', d.what, d.found, d.expected) from (values
    ('the session', seen ->> 'session_id', payment.session_id::text),
    ('the attempt', seen ->> 'attempt', payment.attempt::text),
    ('the tier', seen ->> 'tier', payment.tier::text),
    ('the subscription', seen ->> 'subscription', payment.stripe_subscription_id),
    ('the payment', seen ->> 'payment_intent', payment.stripe_payment_intent_id),
    ('the customer', seen ->> 'customer', payment.stripe_customer_id),
    ('the price', seen ->> 'price', payment.stripe_price_id),
    ('the quantity', seen ->> 'quantity', '1'),
    ('the amount', seen ->> 'amount_cents', payment.amount_cents::text),
    ('the currency', seen ->> 'currency', payment.currency)
  ) d (what, found, expected) where d.found <> d.expected limit 1
$$;
comment on function private.differs_from_offer(private.onboarding_payments, jsonb) is
  'What at Stripe is not as it was offered, in words; null if all that is known agrees.';

create function private.follow_onboarding_payment(seen jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  payment private.onboarding_payments := private.find_onboarding_payment(seen);
  session public.onboarding_sessions;
  said public."PaymentStatus" := seen ->> 'payment_status';
  differs text;
  outcome text;
begin
  if payment.session_id is null then
    return jsonb_build_object('outcome', 'UNKNOWN');
  end if;
  -- The session first, always: everything about one session happens one after the other.
  select s.* into session from public.onboarding_sessions s where s.id = payment.session_id for update;
  select p.* into payment from private.onboarding_payments p
  where p.session_id = payment.session_id and p.attempt = payment.attempt for update;
  if session.is_completed and session.stripe_subscription_id = payment.stripe_subscription_id then
    return private.followed('COMPLETED', session, payment);
  end if;
  differs := private.differs_from_offer(payment, seen);
  if differs is not null then
    if said = 'SUCCEEDED' then
      perform private.owe_refund(payment, seen, 'MISMATCH', differs);
    end if;
    if seen ->> 'subscription' = coalesce(payment.stripe_subscription_id, seen ->> 'subscription') then
      update private.onboarding_payments p set
        problem = differs, let_go_at = coalesce(p.let_go_at, now()),
        stripe_subscription_id = seen ->> 'subscription',
        settled_at = case when said in ('SUCCEEDED', 'CANCELLED') then now() else p.settled_at end
      where p.session_id = payment.session_id and p.attempt = payment.attempt returning * into payment;
    end if;
    return private.followed('MISMATCH', session, payment) || jsonb_build_object('problem', differs);
  end if;
  if said is null and seen ->> 'subscription_status' = 'incomplete_expired' then
    said := 'CANCELLED';
  end if;
  update private.onboarding_payments p set
    stripe_customer_id = coalesce(p.stripe_customer_id, seen ->> 'customer'),
    stripe_subscription_id = coalesce(p.stripe_subscription_id, seen ->> 'subscription'),
    stripe_payment_intent_id = coalesce(p.stripe_payment_intent_id, seen ->> 'payment_intent'),
    current_period_start = coalesce(to_timestamp((seen ->> 'period_start')::bigint), p.current_period_start),
    current_period_end = coalesce(to_timestamp((seen ->> 'period_end')::bigint), p.current_period_end),
    billing_name = case when seen ->> 'customer' is null then p.billing_name end,
    billing_email = case when seen ->> 'customer' is null then p.billing_email end,
    status = case when exists (
      select from private.payment_moves m
      where m.from_status = p.status and m.to_status = said and not m.needs_new_attempt
    ) then said else p.status end,
    settled_at = case when said = 'CANCELLED' then coalesce(p.settled_at, now()) else p.settled_at end
  where p.session_id = payment.session_id and p.attempt = payment.attempt returning * into payment;
  if payment.attempt = session.payment_attempt and not session.is_completed and session.selected_tier <> 'FREE' then
    update public.onboarding_sessions s set
      stripe_customer_id = payment.stripe_customer_id, stripe_subscription_id = payment.stripe_subscription_id,
      stripe_payment_intent_id = payment.stripe_payment_intent_id, payment_status = payment.status
    where s.id = session.id returning * into session;
  end if;
  if said is distinct from 'SUCCEEDED' then
    return private.followed(payment.status::text, session, payment);
  end if;
  -- Paid. From here on there is an organisation, somebody who can still come for it, or a refund.
  outcome := case
    when payment.attempt <> session.payment_attempt or session.is_completed then 'REPLACED'
    when payment.status <> 'SUCCEEDED' or seen ->> 'subscription_status' in ('canceled', 'incomplete_expired', 'unpaid')
      or (seen ->> 'refunded')::boolean then 'ENDED'
    when session.user_id is null then 'UNCLAIMED'
    else 'COMPLETED' end;
  if outcome = 'COMPLETED' then
    session := private.complete_onboarding(session);
  elsif outcome <> 'UNCLAIMED' then
    perform private.owe_refund(payment, seen, outcome::public."RefundReason");
    update private.onboarding_payments p set settled_at = now()
    where p.session_id = payment.session_id and p.attempt = payment.attempt;
  end if;
  return private.followed(outcome, session, payment);
end $$;
comment on function private.follow_onboarding_payment(jsonb) is
  'Writes down what Stripe said about a payment and does what follows: nothing yet, the completion, or a refund. '
  'outcome is a payment status, or COMPLETED, UNCLAIMED, REPLACED, ENDED, MISMATCH; UNKNOWN if it is none of ours.';

-- Completion ----------------------------------------------------------------------------------------------------------

create function private.complete_onboarding_session(asked jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  session public.onboarding_sessions;
  payment private.onboarding_payments;
  followed jsonb;
begin
  if me is null then
    perform private.refuse_suspended();
    raise exception 'An organisation needs an owner who is signed in' using
      errcode = 'PT401', hint = 'Sign up or in, then come back with the token of the session: nothing in it is lost.';
  end if;
  session := private.find_onboarding_session(asked);
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
  if asked -> 'seen' is null then
    -- Bound before Stripe is asked: should the rest be lost, the next word of Stripe completes it.
    if not private.has_expired(session) then
      update public.onboarding_sessions s set user_id = me where s.id = session.id and s.user_id is null;
    end if;
    return jsonb_build_object('payment', private.show_onboarding_payment(payment));
  end if;
  followed := private.follow_onboarding_payment(asked -> 'seen');
  select s.* into session from public.onboarding_sessions s where s.id = session.id;
  if followed ->> 'outcome' = 'UNCLAIMED' and followed #>> '{payment,session_id}' = session.id::text then
    update public.onboarding_sessions s set user_id = me where s.id = session.id returning * into session;
    session := private.complete_onboarding(session);
  end if;
  return followed || jsonb_build_object('session', private.show_onboarding_session(session));
end $$;
comment on function private.complete_onboarding_session(jsonb) is
  'Step 4. Without `seen` it answers the completed session, or the payment Stripe is to be asked about; with it, what '
  'became of the payment.';

-- Left behind ---------------------------------------------------------------------------------------------------------

create function private.expire_onboarding_payments(work jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  expired bigint;
  claimed jsonb;
begin
  -- Session before payment, as everywhere; what somebody is busy with now is for the next run.
  with over as (
    select s.id, s.payment_attempt from public.onboarding_sessions s
    where s.expires_at <= now() and not s.is_completed and s.payment_status in ('PENDING', 'REQUIRES_ACTION', 'FAILED')
      and s.payment_attempt > 0
    for update skip locked
  )
  update private.onboarding_payments p set let_go_at = now() from over
  where p.session_id = over.id and p.attempt = over.payment_attempt and p.let_go_at is null and p.settled_at is null;
  get diagnostics expired = row_count;
  perform private.owe_refund(p, '{}', 'UNCLAIMED', null, s.expires_at + interval '7 days')
  from public.onboarding_sessions s
  join private.onboarding_payments p on p.session_id = s.id and p.attempt = s.payment_attempt
  where s.expires_at <= now() and not s.is_completed and s.user_id is null and s.payment_status = 'SUCCEEDED'
    and p.problem is null and p.settled_at is null;
  -- Claimed before Stripe is asked: from here on nobody can come back for it. A run that died is taken over.
  with due as (
    update public.refunds_due r set status = 'ISSUING', tries = r.tries + (r.status = 'DUE')::integer
    where r.id in (
      select d.id from public.refunds_due d
      where (d.status = 'DUE' and d.refund_after <= now())
        or (d.status = 'ISSUING' and d.updated_at < now() - interval '5 minutes')
      order by d.refund_after limit 50 for update skip locked
    ) returning r.id, r.object_id, r.tries
  )
  select coalesce(jsonb_agg(to_jsonb(due)), '[]') into claimed from due;
  return jsonb_build_object(
    'expired', expired,
    'let_go', coalesce((
      select jsonb_agg(private.show_onboarding_payment(p)) from (
        select p.* from private.onboarding_payments p where p.let_go_at is not null and p.settled_at is null
        order by p.let_go_at limit 50
      ) p
    ), '[]'),
    -- Under way for long, or paid by somebody whose organisation is still missing.
    'in_doubt', coalesce((
      select jsonb_agg(private.show_onboarding_payment(p)) from (
        select p.* from private.onboarding_payments p
        join public.onboarding_sessions s on s.id = p.session_id and s.payment_attempt = p.attempt
        where p.settled_at is null and p.let_go_at is null and p.stripe_subscription_id is not null
          and not s.is_completed and p.updated_at < now() - interval '15 minutes'
          and (p.status = 'PROCESSING' or (p.status = 'SUCCEEDED' and s.user_id is not null))
        order by p.updated_at limit 50
      ) p
    ), '[]'),
    'refunds', claimed
  );
end $$;
comment on function private.expire_onboarding_payments(jsonb) is
  'Lets go of payments whose session expired, queues what nobody came back for, and answers what is to be done at Stripe.';

create function private.settle_onboarding_payment(settled jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update private.onboarding_payments p set
    settled_at = now(), status = 'CANCELLED', billing_name = null, billing_email = null
  where p.session_id = (settled ->> 'session_id')::uuid and p.attempt = (settled ->> 'attempt')::integer
    and p.let_go_at is not null and p.settled_at is null and p.stripe_subscription_id is null
  returning to_jsonb(true)
$$;
comment on function private.settle_onboarding_payment(jsonb) is
  'A payment that was let go of before it was known at Stripe, so long ago that it cannot be there any more.';

create function private.record_refund(issued jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update public.refunds_due r set
    status = (issued ->> 'status')::public."RefundStatus", error = issued ->> 'error',
    stripe_refund_id = coalesce(issued ->> 'refund', r.stripe_refund_id),
    refunded_at = case issued ->> 'status' when 'REFUNDED' then now() end
  where r.id = (issued ->> 'id')::uuid and r.status = 'ISSUING';
  -- Made by a run that died, and failed since.
  select private.settle_refund(o) from public.stripe_objects o where o.id = issued ->> 'refund';
  select to_jsonb(r.status) from public.refunds_due r where r.id = (issued ->> 'id')::uuid
$$;
comment on function private.record_refund(jsonb) is 'What Stripe made of a refund.';

grant execute on function private.create_onboarding_session(jsonb), private.get_onboarding_session(jsonb),
  private.update_onboarding_session(jsonb), private.begin_onboarding_payment(jsonb),
  private.give_up_onboarding_payment(jsonb), private.follow_onboarding_payment(jsonb), private.complete_onboarding_session(jsonb),
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
  'Deletes onboarding sessions that expired a week ago without a payment; expired they are at once, by expires_at.';
grant execute on function private.expire_onboarding_sessions() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('expire_onboarding_sessions', '27 * * * *', 'private.expire_onboarding_sessions',
    'Delete onboarding sessions nobody came back to.'),
  ('settle_onboarding_payments', '*/10 * * * *', null,
    'Cancel payments that were left behind, ask about long ones, issue refunds that are due.');
