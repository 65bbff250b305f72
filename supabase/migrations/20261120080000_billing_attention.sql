-- What of billing waits for people: in one list, with the reason and what to do. And what the reconciliation asks and
-- tells the database.

-- What waits for people -----------------------------------------------------------------------------------------------

create view public.billing_attention with (security_invoker = true) as
  select e.status::text as kind, e.id, e.type as subject, e.error as reason,
    case e.status
      when 'PARKED' then 'Save the customer in organizations.stripe_customer_id, or the price in plans.stripe_price_id: '
        'it is then applied by itself. If it belongs to something else in the same Stripe account, leave it.'
      when 'QUARANTINED' then 'If STRIPE_SECRET_KEY was that of the wrong mode, set the right one, then requeue it. Else '
        'remove the endpoint of the other mode at Stripe.'
      else 'It is tried again by itself. If the error stays, it is a defect: report it, requeue it once that is mended.'
    end as what_to_do,
    e.object_id, e.customer_id, e.created_at as since
  from public.stripe_events e
  where e.status in ('PARKED', 'QUARANTINED', 'RECEIVED')
  union all
  select 'REFUND_' || r.status, r.id::text,
    to_char(r.amount_cents / 100.0, 'FM999999999990.00') || ' ' || upper(r.currency),
    concat_ws(' ', case r.reason
      when 'REPLACED' then 'Another plan had been chosen when this was paid.'
      when 'ENDED' then 'It was over, or given back, at Stripe before it began.'
      when 'UNCLAIMED' then 'Paid, but nobody came back for it.'
      when 'MISMATCH' then 'What was paid is not what was offered.'
    end, r.error),
    case r.status
      when 'TO_DECIDE' then 'Compare it at Stripe, then decide: decide_refund(id, true) gives it back, false keeps it.'
      when 'FAILED' then 'Refund it at Stripe, the entry follows; or try again: decide_refund(id, true).'
      else 'Given back by the job after ' || to_char(r.refund_after at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC.'
    end,
    r.object_id, (select o.customer_id from public.stripe_objects o where o.id = r.object_id), r.created_at
  from public.refunds_due r where r.status not in ('REFUNDED', 'WITHDRAWN')
  union all
  select 'DISPUTED', o.id, o.state ->> 'reason', format('A customer disputes a payment: %s.', o.state ->> 'status'),
    coalesce('Answer at Stripe before ' || to_char(to_timestamp((o.state ->> 'due_by')::bigint) at time zone 'UTC',
      'YYYY-MM-DD HH24:MI') || ' UTC.', 'Answer at Stripe.'),
    o.id, o.customer_id, o.created_at
  from public.stripe_objects o
  where o.type = 'dispute' and o.state ->> 'status' in ('needs_response', 'warning_needs_response')
  union all
  select 'PAID_TWICE', o.id, 'subscription', 'The customer has more than one running subscription; this one does not count.',
    'End it at Stripe and refund what was paid for it.', o.id, o.customer_id, o.state_at
  from public.stripe_objects o
  where o.type = 'subscription' and o.state ->> 'status' in ('active', 'trialing', 'past_due') and exists (
    select from public.stripe_objects other
    where other.customer_id = o.customer_id and other.type = 'subscription' and other.id <> o.id
      and other.state ->> 'status' in ('active', 'trialing', 'past_due')
      and (other.state ->> 'status' <> 'past_due', (other.state ->> 'started')::bigint, other.id)
        > (o.state ->> 'status' <> 'past_due', (o.state ->> 'started')::bigint, o.id)
  )
  union all
  select 'IN_DOUBT', o.id, o.type, 'Its events allow more than one state, and Stripe could not be asked for an hour.',
    'See that reconcile-stripe runs.', o.id, o.customer_id, o.in_doubt_since
  from public.stripe_objects o where o.in_doubt_since < now() - interval '1 hour';
comment on view public.billing_attention is
  'All that Stripe told us and that waits for a person, with the reason and what to do; for platform admins.';
grant select on public.billing_attention to authenticated, service_role;

create function private.requeue_stripe_event(event_id text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  event public.stripe_events;
  was public."StripeEventStatus";
begin
  if not private.is_admin() then
    raise exception 'Only platform admins requeue events of Stripe' using
      errcode = '42501', hint = 'Ask an administrator of the platform.';
  end if;
  select * into event from public.stripe_events e where e.id = event_id;
  if not found then
    raise exception 'There is no such event' using
      errcode = 'PT404', detail = format('Found %L.', left(event_id, 100)), hint = 'billing_attention lists them.';
  end if;
  if event.status not in ('PARKED', 'QUARANTINED', 'RECEIVED') then
    raise exception 'This event waits for nothing' using
      errcode = 'PT409', detail = format('It is %s.', event.status), hint = 'billing_attention lists those that do.';
  end if;
  was := event.status;
  if event.livemode = (select a.livemode from private.stripe_account a) then
    if event.object_type is null then
      update public.stripe_events e set status = 'IGNORED', error = null where e.id = event.id returning * into event;
    else
      perform private.reapply_stripe_event(event);
      select * into event from public.stripe_events e where e.id = event_id;
    end if;
  end if;
  perform private.log_admin_action(
    'SUBSCRIPTION_UPDATE', format('Requeued the event %s of Stripe: it was %s and is %s', event.id, was, event.status),
    'stripe_event', event.id, jsonb_build_object('type', event.type, 'before', was, 'after', event.status),
    event.status in ('APPLIED', 'IGNORED'), event.error
  );
  return jsonb_build_object('id', event.id, 'status', event.status, 'reason', event.error);
end $$;
comment on function private.requeue_stripe_event(text) is 'See public.requeue_stripe_event().';

create function public.requeue_stripe_event(event_id text) returns jsonb
language sql set search_path = '' as 'select private.requeue_stripe_event(event_id)';
comment on function public.requeue_stripe_event(text) is
  'For platform admins: tries again to apply an event that is PARKED, QUARANTINED or RECEIVED, and says what became of it.';
grant execute on function private.requeue_stripe_event(text), public.requeue_stripe_event(text) to authenticated;

-- Reconciliation ------------------------------------------------------------------------------------------------------
-- What was never delivered is asked for; what is in doubt is looked at. The asking is shared/billing/reconciliation.py.

create function private.begin_reconciliation(asked jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.stripe_account (livemode) values ((asked ->> 'livemode')::boolean)
  on conflict (id) do update set livemode = excluded.livemode;
  return (
    select jsonb_build_object(
      'listed_until', extract(epoch from a.listed_until)::bigint,
      'compare', coalesce((asked ->> 'compare')::boolean, a.compared_at is null or a.compared_at < now() - interval '20 hours')
    ) from private.stripe_account a
  );
end $$;
comment on function private.begin_reconciliation(jsonb) is 'Since when events are to be asked for, and whether all is to be compared.';

create function private.missing_stripe_events(ids text[]) returns text[]
language sql stable security definer set search_path = '' as $$
  select array(
    select i from unnest(ids) i where not exists (select from public.stripe_events e where e.id = i)
  )
$$;
comment on function private.missing_stripe_events(text[]) is 'Which of these events have never come.';

create function private.note_stripe_progress(progress jsonb) returns void
language sql security definer set search_path = '' as $$
  update private.stripe_account a set
    listed_until = greatest(a.listed_until, to_timestamp((progress ->> 'listed_until')::bigint)),
    compared_at = case when (progress ->> 'compared')::boolean then now() else a.compared_at end
$$;
comment on function private.note_stripe_progress(jsonb) is 'How far the reconciliation has come.';

create function private.doubtful_stripe_objects() returns jsonb
language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('id', d.id, 'type', d.type)), '[]') from (
    select o.id, o.type from public.stripe_objects o where o.in_doubt_since < now() - interval '1 minute'
    union
    -- A period that is over, and nothing was heard of the next one.
    select o.id, o.type from public.subscriptions s
    join public.stripe_objects o on o.id = s.stripe_subscription_id
    where s.status in ('TRIAL', 'ACTIVE', 'PAST_DUE') and s.current_period_end < now() - interval '1 day'
      and coalesce(o.fetched_at, '-infinity') < now() - interval '6 hours'
    limit 500
  ) d
$$;
comment on function private.doubtful_stripe_objects() is 'Objects whose events leave their state open, or have stopped coming.';

create function private.open_stripe_subscriptions() returns text[]
language sql stable security definer set search_path = '' as $$
  select array(
    select o.id from public.stripe_objects o where o.type = 'subscription' and not o.is_last
    union
    select s.stripe_subscription_id from public.subscriptions s
    where s.status in ('TRIAL', 'ACTIVE', 'PAST_DUE') and s.stripe_subscription_id is not null
  )
$$;
comment on function private.open_stripe_subscriptions() is 'Subscriptions that are not over as far as is known here.';

create function private.observe_stripe_object(seen jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  known public.stripe_objects;
  folded record;
  object public.stripe_objects;
  tried record;
begin
  perform from public.onboarding_sessions s
  where s.stripe_customer_id = seen ->> 'customer_id' and not s.is_completed for update;
  perform private.lock_stripe(seen ->> 'customer_id', seen ->> 'object_id');
  select * into known from public.stripe_objects o where o.id = seen ->> 'object_id';
  if known.state = seen -> 'state' and known.in_doubt_since is null then
    return null;
  end if;
  insert into public.stripe_objects as o (id, type, customer_id, state, state_at, fetched, fetched_at)
  values (seen ->> 'object_id', seen ->> 'object_type', seen ->> 'customer_id', seen -> 'state',
    to_timestamp((seen ->> 'at')::bigint), seen -> 'state', to_timestamp((seen ->> 'at')::bigint))
  on conflict (id) do update set customer_id = coalesce(excluded.customer_id, o.customer_id),
    fetched = excluded.fetched, fetched_at = excluded.fetched_at, in_doubt_since = null;
  -- What has happened since it was asked for counts more.
  folded := private.fold_stripe_object(seen ->> 'object_id', 'infinity');
  update public.stripe_objects o
  set state = folded.state, state_at = coalesce(folded.state_at, o.fetched_at), is_last = folded.is_last,
    in_doubt_since = case when not folded.is_certain then now() end
  where o.id = seen ->> 'object_id' returning * into object;
  tried := private.try_stripe_object(object);
  if known.state = object.state then
    return null;
  end if;
  return jsonb_build_object('object', object.id, 'type', object.type, 'missing', tried.missing, 'problem', tried.failure,
    'before', (select jsonb_object_agg(k.key, k.value) from jsonb_each(known.state) k
      where k.value is distinct from object.state -> k.key),
    'after', (select jsonb_object_agg(k.key, k.value) from jsonb_each(object.state) k
      where k.value is distinct from known.state -> k.key));
end $$;
comment on function private.observe_stripe_object(jsonb) is
  'Takes what Stripe answered when asked for an object; returns what of it is otherwise than was known, else null.';

create function private.forget_doubt(object_id text) returns void
language sql security definer set search_path = '' as $$
  update public.stripe_objects o set in_doubt_since = null where o.id = object_id
$$;
comment on function private.forget_doubt(text) is 'Stripe has no such object (any more): nothing can be asked.';

-- What needs no Stripe: it follows from time, or from what has become known meanwhile.
create function private.settle_billing() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  event public.stripe_events;
  object public.stripe_objects;
  tried record;
  settled jsonb := '[]';
begin
  for event in
    select * from public.stripe_events e where e.status = 'RECEIVED' and e.object_type is not null
    order by e.updated_at limit 200
  loop
    if private.reapply_stripe_event(event) = 'APPLIED' then
      settled := settled || jsonb_build_object('event', event.id, 'type', event.type, 'status', 'APPLIED');
    end if;
  end loop;
  for object in
    select o.* from public.stripe_objects o where exists (
      select from public.organizations g where g.stripe_customer_id = o.waits_for
    ) or exists (select from public.plans p where p.stripe_price_id = o.waits_for)
    order by o.id limit 200
  loop
    perform private.lock_stripe(object.id);
    tried := private.try_stripe_object(object);
    if tried.missing is null and tried.failure is null then
      settled := settled || jsonb_build_object('object', object.id, 'type', object.type, 'status', 'APPLIED');
    end if;
  end loop;
  -- The grace is over although Stripe still tries.
  for object in
    select o.* from public.subscriptions s join public.stripe_objects o on o.id = s.stripe_subscription_id
    where s.status = 'PAST_DUE' and s.past_due_since <= now() - private.payment_grace() order by o.id limit 500
  loop
    perform private.lock_stripe(object.id);
    tried := private.try_stripe_object(object);
    settled := settled || jsonb_build_object('object', object.id, 'type', object.type, 'status', 'GRACE_ENDED');
  end loop;
  return settled;
end $$;
comment on function private.settle_billing() is
  'Tries again what failed, settles what has become known, ends the grace of payments that do not arrive. Returns what changed.';

grant execute on function private.begin_reconciliation(jsonb), private.missing_stripe_events(text[]),
  private.note_stripe_progress(jsonb), private.doubtful_stripe_objects(), private.open_stripe_subscriptions(),
  private.observe_stripe_object(jsonb), private.forget_doubt(text), private.settle_billing()
  to strive_functions;

insert into private.jobs (name, schedule, runs, description) values
  ('reconcile_stripe', '*/10 * * * *', null, 'Ask Stripe for what its events have not told us.');
