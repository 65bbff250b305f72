-- What in billing needs a person, in one list with the reason and what to do; and the database's part of the reconciliation.

-- Attention -----------------------------------------------------------------------------------------------------------

-- The tier of an organization is the tier of its subscription at Stripe, or one of these rows says why not. Row-level
-- security would hide the subscriptions of other organizations from an admin, so this runs as its owner.
create function private.billing_differences() returns table (
  kind text, object_id text, customer_id text, reason text, what_to_do text, since timestamptz
) language sql stable security definer set search_path = '' as $$
  select d.* from (
    select
      case
        when s.status = 'INACTIVE' and o.state ->> 'status' = 'past_due' and other.id is null then 'GRACE_ENDED'
        when other.id is not null then 'PAID_TWICE' else 'NOT_APPLIED' end,
      o.id, o.customer_id,
      case
        when s.status = 'INACTIVE' and o.state ->> 'status' = 'past_due' and other.id is null
          then 'Stripe still retries a payment that is more than 30 days late; the plan has ended here.'
        when other.stripe_subscription_id is null and other.id is not null
          then format('The organization has a granted plan (%s), and pays for this subscription.', other.tier)
        when other.id is not null then 'The customer has more than one running subscription; this one does not count.'
        else format('It is %s at Stripe and %s here.', o.state ->> 'status', coalesce(s.status::text, 'unknown')) end,
      case
        when s.status = 'INACTIVE' and o.state ->> 'status' = 'past_due' and other.id is null
          then 'Cancel it with cancel_at_stripe(), or wait: a payment revives it.'
        when other.id is not null then 'Cancel one with cancel_at_stripe() and refund what was paid for it with refund_invoice().'
        else format('If it stays, apply its newest event again: requeue_stripe_event(%L).', (
          select e.id from public.stripe_events e where e.object_id = o.id and e.status <> 'QUARANTINED'
          order by e.created desc, e.place desc, e.id desc limit 1
        )) end,
      o.state_at
    from public.stripe_objects o
    cross join lateral (select private.organization_of(o.customer_id, o.id) as org) g
    left join public.subscriptions s on s.stripe_subscription_id = o.id
    left join public.subscriptions other
      on other.organization_id = g.org and other.id is distinct from s.id and private.is_live(other.status) and other.tier <> 'FREE'
    where o.type = 'subscription' and o.state ->> 'status' in ('active', 'trialing', 'past_due') and not o.is_last
      and g.org is not null and o.waits_for is null and not coalesce(private.is_live(s.status), false)
      and not exists (
        select from public.refunds_due r where r.object_id = o.id and r.status in ('DUE', 'ISSUING', 'REFUNDED')
      )
      and not exists (
        select from public.stripe_objects c
        where c.id = o.customer_id and c.type = 'customer' and (c.state ->> 'deleted')::boolean and c.state_at >= o.state_at
      )
    union all
    select 'MISSING', o.id, o.customer_id, 'Stripe has no such subscription, nor its customer.',
      'See whether STRIPE_SECRET_KEY belongs to the right account. The plan ends here with its period, or at once with '
      'grant_plan(organization, ''FREE'', now(), reason).',
      o.missing_since
    from public.stripe_objects o where o.type = 'subscription' and o.missing_since is not null and not o.is_last
    union all
    select 'ORGANIZATION_DELETED', o.id, o.customer_id,
      format('The organization %s was deleted, and its subscription still runs.', c.organization_name),
      'The job cancels it. If it stays, cancel it at Stripe.', c.created_at
    from public.stripe_objects o
    join private.closed_customers c on c.stripe_customer_id = o.customer_id
    where o.type = 'subscription' and o.state ->> 'status' in ('active', 'trialing', 'past_due', 'unpaid', 'paused') and not o.is_last
      and private.organization_of(o.customer_id, o.id) is null
    union all
    select 'GRANTED', s.id::text, o.stripe_customer_id,
      format('%s has %s until %s without paying: %s', o.name, s.tier, private.day(s.ends_at), s.granted_reason),
      'Nothing: it ends by itself. grant_plan() changes or ends it.', s.created_at
    from public.subscriptions s join public.organizations o on o.id = s.organization_id
    where s.granted_reason is not null and private.is_live(s.status)
    union all
    select 'EDITED', o.id::text, o.stripe_customer_id,
      format('%s has the tier %s, and its subscription gives %s: the tier was edited.', o.name, o.subscription_tier,
        coalesce(s.tier, 'FREE')),
      'Set organizations.subscription_tier back, and give the plan with grant_plan().', o.updated_at
    from public.organizations o
    left join public.subscriptions s on s.organization_id = o.id and private.is_live(s.status)
    where o.subscription_tier <> coalesce(s.tier, 'FREE')
      and exists (select from public.subscriptions bought where bought.organization_id = o.id)
    union all
    select 'PRICE', o.id, null,
      format('%s %s is offered for %s, and this price at Stripe is %s%s.', p.tier, p.billing_cycle,
        private.format_money(p.amount_cents, p.currency), private.format_money(k.amount, o.state ->> 'currency'),
        coalesce(' per ' || nullif(o.state ->> 'every', '1') || ' ' || (o.state ->> 'interval') || 's',
          ' per ' || (o.state ->> 'interval'), ', once')),
      'Stripe charges what its price says. Correct plans.amount_cents or plans.stripe_price_id.', greatest(p.updated_at, o.state_at)
    from public.plans p
    join public.stripe_objects o on o.id = p.stripe_price_id and o.type = 'price'
    cross join lateral (select (o.state ->> 'amount')::bigint as amount) k
    where p.is_active and k.amount is not null and (k.amount, o.state ->> 'currency', o.state ->> 'every', o.state ->> 'interval')
      is distinct from (p.amount_cents, p.currency, '1', case p.billing_cycle when 'YEARLY' then 'year' else 'month' end)
  ) d
  where private.is_operator() or auth.role() = 'service_role'
$$;
comment on function private.billing_differences() is
  'Where Strive and Stripe differ about a plan on purpose, or for now; for platform admins, nothing for others.';
grant execute on function private.billing_differences() to authenticated, service_role;

create view public.billing_attention with (security_invoker = true) as
  select e.status::text as kind, e.id, e.type as subject, e.error as reason,
    case e.status
      when 'PARKED' then 'Save the customer in organizations.stripe_customer_id, or the price in plans.stripe_price_id: '
        'the event is then applied. If it belongs to another business in the same Stripe account: dismiss_stripe_event(id, reason).'
      when 'QUARANTINED' then 'If STRIPE_SECRET_KEY was of the wrong mode, set the right one and requeue the event: '
        'requeue_stripe_event(id). Else remove the endpoint of the other mode at Stripe and dismiss the event.'
      else 'The job retries it. If the error stays, it is a defect: report it, and requeue the event once it is fixed.'
    end as what_to_do,
    e.object_id, e.customer_id, e.created_at as since
  from public.stripe_events e
  where e.status in ('PARKED', 'QUARANTINED', 'RECEIVED')
  union all
  select 'REFUND_' || r.status, r.id::text, private.format_money(r.amount_cents, r.currency),
    concat_ws(' ', case r.reason
      when 'REPLACED' then 'Another plan had been chosen when this was paid.'
      when 'ENDED' then 'It was paid after the subscription was over or refunded.'
      when 'UNCLAIMED' then 'Paid, but the customer did not come back to complete the onboarding.'
      when 'MISMATCH' then 'What was paid is not what was offered.'
      when 'DUPLICATE' then 'The plan was bought twice at the same time.'
      when 'REQUESTED' then 'Requested by a platform admin.'
    end, r.error),
    case r.status
      when 'TO_DECIDE' then 'Compare it at Stripe, then decide: decide_refund(id, true) refunds it, false keeps the money.'
      when 'FAILED' then 'Refund it at Stripe, the entry follows; or try again: decide_refund(id, true).'
      else 'The job refunds it after ' || to_char(r.refund_after at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC.'
    end,
    r.object_id, (select o.customer_id from public.stripe_objects o where o.id = r.object_id), r.created_at
  from public.refunds_due r where r.status not in ('REFUNDED', 'WITHDRAWN')
  union all
  select 'TASK', t.id::text, t.kind::text, concat_ws(' ', t.reason || '.', t.error),
    'The job retries it. If the error stays, make the change at Stripe.', t.object_id,
    (select o.customer_id from public.stripe_objects o where o.id = t.object_id), t.created_at
  from public.stripe_tasks t where t.done_at is null and (t.error is not null or t.created_at < now() - interval '1 hour')
  union all
  select 'DISPUTED', o.id, o.state ->> 'reason', format('A customer disputes a payment: %s.', o.state ->> 'status'),
    coalesce('Answer at Stripe before ' || to_char(to_timestamp((o.state ->> 'due_by')::bigint) at time zone 'UTC',
      'YYYY-MM-DD HH24:MI') || ' UTC.', 'Answer at Stripe.'),
    o.id, o.customer_id, o.created_at
  from public.stripe_objects o
  where o.type = 'dispute' and o.state ->> 'status' in ('needs_response', 'warning_needs_response')
  union all
  select d.kind, d.object_id, 'subscription', d.reason, d.what_to_do, d.object_id, d.customer_id, d.since
  from private.billing_differences() d
  union all
  select 'IN_DOUBT', o.id, o.type, 'Its events allow more than one state, and it was not fetched from Stripe for an hour.',
    'See whether reconcile-stripe runs.', o.id, o.customer_id, o.in_doubt_since
  from public.stripe_objects o where o.in_doubt_since < now() - interval '1 hour';
comment on view public.billing_attention is
  'Everything in billing that needs a person, with the reason and what to do; for platform admins.';
create trigger refuse instead of insert or update or delete on public.billing_attention
  for each row execute function private.refuse_view();
grant select on public.billing_attention to authenticated, service_role;

-- Reconciliation ------------------------------------------------------------------------------------------------------
-- Events that were never delivered are listed, objects in doubt are fetched: shared/billing/reconciliation.py calls Stripe.

create function private.begin_reconciliation(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.stripe_account (livemode) values ((request ->> 'livemode')::boolean)
  on conflict (id) do update set livemode = excluded.livemode;
  return (
    select jsonb_build_object(
      'listed_until', extract(epoch from a.listed_until)::bigint,
      'compare', coalesce((request ->> 'compare')::boolean, a.compared_at is null or a.compared_at < now() - interval '20 hours')
    ) from private.stripe_account a
  );
end $$;
comment on function private.begin_reconciliation(jsonb) is 'From when on to list events, and whether to compare all subscriptions.';

create function private.missing_stripe_events(ids text[]) returns text[]
language sql stable security definer set search_path = '' as $$
  select array(
    select i from unnest(ids) i where not exists (select from public.stripe_events e where e.id = i)
  )
$$;
comment on function private.missing_stripe_events(text[]) is 'Which of these events were never received.';

create function private.note_stripe_progress(progress jsonb) returns void
language sql security definer set search_path = '' as $$
  update private.stripe_account a set
    listed_until = greatest(a.listed_until, to_timestamp((progress ->> 'listed_until')::bigint)),
    compared_at = case when (progress ->> 'compared')::boolean then now() else a.compared_at end
$$;
comment on function private.note_stripe_progress(jsonb) is 'Saves how far the reconciliation has come.';

create function private.doubtful_stripe_objects() returns jsonb
language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('id', d.id, 'type', d.type)), '[]') from (
    select o.id, o.type from public.stripe_objects o where o.in_doubt_since < now() - interval '1 minute'
    union
    -- The period is over, and no event has announced the next one.
    select o.id, o.type from public.subscriptions s
    join public.stripe_objects o on o.id = s.stripe_subscription_id
    where private.is_live(s.status) and s.current_period_end < now() - interval '1 day'
      and coalesce(o.fetched_at, '-infinity') < now() - interval '6 hours'
    limit 500
  ) d
$$;
comment on function private.doubtful_stripe_objects() is 'Objects whose events leave their state open, or have stopped arriving.';

create function private.open_stripe_subscriptions() returns text[]
language sql stable security definer set search_path = '' as $$
  select array(
    select o.id from public.stripe_objects o where o.type = 'subscription' and not o.is_last
    union
    select s.stripe_subscription_id from public.subscriptions s
    where private.is_live(s.status) and s.stripe_subscription_id is not null
  )
$$;
comment on function private.open_stripe_subscriptions() is 'Subscriptions that are not over here.';

create function private.save_stripe_object(fetched_object jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  known public.stripe_objects;
  folded record;
  object public.stripe_objects;
  result record;
begin
  perform set_config('lock_timeout', '3s', true);
  perform from public.onboarding_sessions s
  where s.stripe_customer_id = fetched_object ->> 'customer_id' and not s.is_completed for update;
  perform private.lock_stripe(fetched_object ->> 'customer_id', fetched_object ->> 'object_id');
  select * into known from public.stripe_objects o where o.id = fetched_object ->> 'object_id';
  if known.state = fetched_object -> 'state' and known.in_doubt_since is null and known.missing_since is null then
    return null;
  end if;
  insert into public.stripe_objects as o (id, type, customer_id, state, state_at, fetched, fetched_at)
  values (fetched_object ->> 'object_id', fetched_object ->> 'object_type', fetched_object ->> 'customer_id', fetched_object -> 'state',
    to_timestamp((fetched_object ->> 'at')::bigint), fetched_object -> 'state', to_timestamp((fetched_object ->> 'at')::bigint))
  on conflict (id) do update set customer_id = coalesce(excluded.customer_id, o.customer_id),
    fetched = excluded.fetched, fetched_at = excluded.fetched_at, in_doubt_since = null, missing_since = null;
  -- Later events count more than what was fetched.
  folded := private.fold_stripe_object(fetched_object ->> 'object_id', 'infinity');
  update public.stripe_objects o
  set state = folded.state, state_at = coalesce(folded.state_at, o.fetched_at), is_last = folded.is_last,
    in_doubt_since = case when not folded.is_certain then now() end
  where o.id = fetched_object ->> 'object_id' returning * into object;
  result := private.try_stripe_object(object);
  if known.state = object.state then
    return null;
  end if;
  return jsonb_build_object('object', object.id, 'type', object.type, 'missing', result.missing, 'problem', result.failure,
    'before', (select jsonb_object_agg(k.key, k.value) from jsonb_each(known.state) k
      where k.value is distinct from object.state -> k.key),
    'after', (select jsonb_object_agg(k.key, k.value) from jsonb_each(object.state) k
      where k.value is distinct from known.state -> k.key));
end $$;
comment on function private.save_stripe_object(jsonb) is
  'Saves an object as Stripe returned it; returns what differs from the known state, else null.';

create function private.customer_of_subscription(subscription text) returns text
language sql stable security definer set search_path = '' as $$
  select coalesce(
    (select o.customer_id from public.stripe_objects o where o.id = subscription),
    (select s.stripe_customer_id from public.subscriptions s where s.stripe_subscription_id = subscription)
  )
$$;
comment on function private.customer_of_subscription(text) is 'The customer of a subscription at Stripe, as far as it is known.';

create function private.record_missing_object(missing jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  object public.stripe_objects;
begin
  perform set_config('lock_timeout', '3s', true);
  select * into object from public.stripe_objects o where o.id = missing ->> 'id';
  perform private.lock_stripe(object.customer_id, missing ->> 'id');
  select * into object from public.stripe_objects o where o.id = missing ->> 'id';
  if object.id is null and missing ->> 'type' = 'subscription' then
    -- A live row without an object: it was written by onboarding, and no event ever arrived.
    insert into public.stripe_objects (id, type, customer_id, state, state_at)
    select s.stripe_subscription_id, 'subscription', s.stripe_customer_id, '{"status": "active"}', s.created_at
    from public.subscriptions s where s.stripe_subscription_id = missing ->> 'id'
    returning * into object;
  end if;
  if object.type = 'subscription' and (missing ->> 'is_customer_known')::boolean then
    -- The account is the right one, and the subscription is gone.
    update public.stripe_objects o set state = o.state || '{"status": "canceled"}', state_at = greatest(o.state_at, now()),
      fetched = o.state || '{"status": "canceled"}', fetched_at = greatest(o.state_at, now()), is_last = true,
      in_doubt_since = null, missing_since = coalesce(o.missing_since, now())
    where o.id = object.id returning * into object;
    perform private.try_stripe_object(object);
  else
    update public.stripe_objects o set in_doubt_since = null, missing_since = coalesce(o.missing_since, now())
    where o.id = object.id;
  end if;
  return null;
end $$;
comment on function private.record_missing_object(jsonb) is
  'Handles an object that Stripe does not have. A subscription ends if Stripe knows its customer; else '
  'billing_attention shows it, since the key may belong to another account.';

-- Work that has become due by time or by newly known objects, and needs no call to Stripe. Each item is one
-- transaction, so a lock held elsewhere delays only that item.
create function private.billing_work() returns jsonb
language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(w.item), '[]') from (
    (
      select jsonb_build_object('event', e.id, 'type', e.type) from public.stripe_events e
      where e.status = 'RECEIVED' and e.object_type is not null order by e.updated_at limit 200
    )
    union all (
      select jsonb_build_object('object', o.id, 'type', o.type) from public.stripe_objects o
      where exists (select from public.organizations g where g.stripe_customer_id = o.waits_for)
        or exists (select from private.plan_prices p where p.stripe_price_id = o.waits_for)
      order by o.id limit 200
    )
    union all (
      select jsonb_build_object('object', o.id, 'type', o.type, 'status', 'GRACE_ENDED')
      from public.subscriptions s join public.stripe_objects o on o.id = s.stripe_subscription_id
      where s.status = 'PAST_DUE' and s.past_due_since <= now() - private.payment_grace() order by o.id limit 500
    )
    union all (
      select distinct jsonb_build_object('object', o.id, 'type', o.type, 'status', 'DISCOUNT_ENDED')
      from public.subscriptions s
      join public.stripe_objects o on o.id = s.stripe_subscription_id
      join public.stripe_objects d on d.customer_id = o.customer_id and d.type = 'discount'
      where private.is_live(s.status) and (o.state -> 'discounts' ? d.id or d.state ->> 'subscription' is null)
        and to_timestamp((d.state ->> 'end')::bigint) between s.updated_at and now()
      limit 500
    )
    union all (
      select jsonb_build_object('object', o.id, 'type', o.type, 'status', 'MISSING')
      from public.subscriptions s join public.stripe_objects o on o.id = s.stripe_subscription_id
      where private.is_live(s.status) and o.missing_since is not null and s.current_period_end < now() limit 500
    )
  ) w (item)
$$;
comment on function private.billing_work() is
  'Events to retry, objects whose customer or price is known now, payments whose grace is over, discounts that have run out.';

create function private.settle_billing_item(item jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  event public.stripe_events;
  object public.stripe_objects;
  result record;
begin
  perform set_config('lock_timeout', '3s', true);
  if item ? 'event' then
    select * into event from public.stripe_events e where e.id = item ->> 'event';
    return case when private.reapply_stripe_event(event) = 'APPLIED' then item || '{"status": "APPLIED"}' end;
  end if;
  select * into object from public.stripe_objects o where o.id = item ->> 'object';
  perform private.lock_stripe(object.customer_id, object.id);
  if item ->> 'status' = 'MISSING' then
    update public.stripe_objects o set state = o.state || '{"status": "canceled"}', fetched = o.state || '{"status": "canceled"}',
      fetched_at = greatest(o.state_at, now()), state_at = greatest(o.state_at, now()), is_last = true
    where o.id = object.id;
  end if;
  select * into object from public.stripe_objects o where o.id = item ->> 'object';
  result := private.try_stripe_object(object);
  return case when result.missing is null and result.failure is null then '{"status": "APPLIED"}' || item end;
end $$;
comment on function private.settle_billing_item(jsonb) is 'Does one item of billing_work(); returns it if that changed something, else null.';

create function private.settle_billing() returns jsonb
language sql security definer set search_path = '' as $$
  select coalesce(jsonb_agg(s.result) filter (where s.result is not null), '[]')
  from (select private.settle_billing_item(i) as result from jsonb_array_elements(private.billing_work()) i) s
$$;
comment on function private.settle_billing() is 'Does all of billing_work() at once, for the SQL editor; the job does one item at a time.';

create function private.update_billing() returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  return jsonb_build_object('granted_plans_ended', private.end_granted_plans(), 'notices', private.notify_billing_dates());
end $$;
comment on function private.update_billing() is 'Ends granted plans whose date has passed, and notifies owners of dates ahead.';

-- Tasks at Stripe -----------------------------------------------------------------------------------------------------

create function private.claim_stripe_tasks(work jsonb default '{}') returns jsonb
language sql security definer set search_path = '' as $$
  with due as (
    update public.stripe_tasks t set tries = t.tries + 1, due_at = now() + interval '5 minutes'
    where t.id in (
      select d.id from public.stripe_tasks d where d.done_at is null and d.due_at <= now()
      order by d.due_at limit 50 for update skip locked
    ) returning t.*
  )
  select coalesce(jsonb_agg(to_jsonb(due) || case due.kind when 'UPDATE_CUSTOMER' then (
    select jsonb_build_object('name', o.name, 'email', o.billing_email)
    from public.organizations o where o.stripe_customer_id = due.object_id
  ) else '{}' end), '[]') from due
$$;
comment on function private.claim_stripe_tasks(jsonb) is
  'Up to 50 tasks that are due. One whose job crashes is due again after five minutes.';

create function private.finish_stripe_task(result jsonb) returns jsonb
language sql security definer set search_path = '' as $$
  update public.stripe_tasks t set
    error = result ->> 'error',
    done_at = case when result ->> 'error' is null and t.version = (result ->> 'version')::integer then now() end,
    due_at = case when result ->> 'error' is null then now() else now() + least(t.tries, 12) * interval '5 minutes' end
  where t.id = (result ->> 'id')::uuid and t.done_at is null
  returning to_jsonb(t.done_at is not null)
$$;
comment on function private.finish_stripe_task(jsonb) is
  'Saves the result of a task: {id, version, error}. One that was changed meanwhile stays open.';

grant execute on function private.begin_reconciliation(jsonb), private.missing_stripe_events(text[]),
  private.note_stripe_progress(jsonb), private.doubtful_stripe_objects(), private.open_stripe_subscriptions(),
  private.save_stripe_object(jsonb), private.record_missing_object(jsonb),
  private.customer_of_subscription(text), private.billing_work(),
  private.settle_billing_item(jsonb), private.update_billing(), private.claim_stripe_tasks(jsonb), private.finish_stripe_task(jsonb)
  to strive_functions;
grant execute on function private.update_billing() to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('reconcile_stripe', '*/10 * * * *', null, 'Apply events that were never delivered, and fetch what is in doubt.'),
  ('update_billing', '*/10 * * * *', 'private.update_billing',
    'End granted plans, and notify owners of trials, renewals and cards that end.');
