-- Onboarding, from the first payment to the organization: the facts of a payment, completion, unfinished payments, jobs.

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
    ) on conflict on constraint "slug is unique in organizations" do nothing returning id into org;
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
      p.session_id = case when private.is_uuid(facts.session_id) then facts.session_id::uuid end
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
