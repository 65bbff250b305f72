-- Operations of support on billing. Every function is audited. Platform admins call it through the API, or in the SQL
-- editor of the dashboard, where there is no token.

create function private.require_operator(what text) returns void
language plpgsql stable security definer set search_path = '' as $$
begin
  if not private.is_operator() then
    raise exception 'Only platform admins can %', what using errcode = '42501', hint = 'Ask an administrator of the platform.';
  end if;
end $$;
comment on function private.require_operator(text) is '42501 unless the caller is a platform admin or the SQL editor.';

create function private.require_reason(reason text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if coalesce(length(trim(reason)), 0) not between 1 and 500 then
    raise exception 'A reason is needed' using
      errcode = 'PT422', detail = format('Found %s characters.', coalesce(length(trim(reason)), 0)),
      hint = 'Say why in 1 to 500 characters; the audit log keeps it.';
  end if;
  return trim(reason);
end $$;
comment on function private.require_reason(text) is 'The reason without spaces around it; PT422 if there is none.';

create function private.subscription_named(subscription text) returns public.subscriptions
language plpgsql stable security definer set search_path = '' as $$
declare
  found_row public.subscriptions;
begin
  select s.* into found_row from public.subscriptions s
  where s.stripe_subscription_id = subscription or s.id::text = lower(subscription);
  if found_row.id is null then
    raise exception 'There is no such subscription' using
      errcode = 'PT404', detail = format('Found %L.', left(subscription, 100)),
      hint = 'Name it by its id in subscriptions or by its id at Stripe (sub_…).';
  elsif found_row.stripe_subscription_id is null then
    raise exception 'This subscription is not at Stripe' using
      errcode = 'PT409', detail = 'It was granted by hand.', hint = 'End it with grant_plan(…, until => now()).';
  elsif found_row.status = 'CANCELLED' then
    raise exception 'This subscription is over' using
      errcode = 'PT409', detail = format('It ended on %s.', private.day(found_row.cancelled_at)), hint = 'The customer buys a new one.';
  end if;
  return found_row;
end $$;
comment on function private.subscription_named(text) is 'A subscription at Stripe that is not over, by either of its ids.';

-- Refunds -------------------------------------------------------------------------------------------------------------

create function private.decide_refund(refund_id uuid, issue boolean) returns "RefundStatus"
language plpgsql security definer set search_path = '' as $$
declare
  decided public.refunds_due;
begin
  perform private.require_operator('decide about refunds');
  update public.refunds_due r set
    status = case when issue then 'DUE' else 'WITHDRAWN' end::public."RefundStatus",
    refund_after = case when issue then now() else r.refund_after end
  where r.id = decide_refund.refund_id and r.status in ('TO_DECIDE', 'DUE', 'FAILED', 'WITHDRAWN')
  returning * into decided;
  if not found then
    raise exception 'There is no such refund to decide about' using
      errcode = 'PT404', detail = format('Found %s.', coalesce((
        select format('one that is %s', r.status) from public.refunds_due r where r.id = decide_refund.refund_id
      ), 'none')), hint = 'refunds_due lists the open ones; a refund that is being issued or was issued cannot change.';
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
  'For platform admins: the job issues a refund (true), or the money is kept (false).';

create function private.refund_invoice(invoice text, reason text, amount_cents bigint) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
  named public.invoices;
  requested bigint;
  refund uuid;
begin
  perform private.require_operator('refund payments');
  reason := private.require_reason(reason);
  select i.* into named from public.invoices i
  where i.stripe_invoice_id = invoice or i.number = invoice or i.id::text = lower(invoice)
  order by i.created_at desc limit 1 for update;
  if named.id is null then
    raise exception 'There is no such invoice' using
      errcode = 'PT404', detail = format('Found %L.', left(invoice, 100)),
      hint = 'Name it by its id in invoices, its number or its id at Stripe (in_…).';
  end if;
  if exists (
    select from public.stripe_objects d
    where d.type = 'dispute' and d.state ->> 'payment_intent' = private.payment_of_invoice(named.stripe_invoice_id)
      and d.state ->> 'status' in ('needs_response', 'under_review', 'lost')
  ) then
    raise exception 'The bank decides about this payment' using
      errcode = 'PT409', detail = 'Its customer disputes it, or won the dispute: a refund would return the money twice.',
      hint = 'Answer the dispute at Stripe; accepting it returns the money.';
  end if;
  select coalesce(sum(r.amount_cents), 0) into requested from public.refunds_due r
  where r.object_id = named.stripe_invoice_id and r.reason = 'REQUESTED' and r.status in ('TO_DECIDE', 'DUE', 'ISSUING');
  if coalesce(amount_cents, 1) < 1
    or coalesce(amount_cents, 1) > named.paid_cents - named.refunded_cents - requested
  then
    raise exception 'This amount cannot be refunded' using
      errcode = 'PT422', detail = format('Found %s; %s of the invoice can be refunded.',
        coalesce(private.format_money(amount_cents, named.currency), 'all of it'),
        private.format_money(greatest(named.paid_cents - named.refunded_cents - requested, 0), named.currency)),
      hint = 'Give an amount in minor units of the currency, or none to refund the rest.';
  end if;
  insert into public.refunds_due (object_id, stripe_payment_intent_id, amount_cents, currency, reason, error)
  values (
    named.stripe_invoice_id, private.payment_of_invoice(named.stripe_invoice_id),
    coalesce(amount_cents, named.paid_cents - named.refunded_cents - requested), named.currency, 'REQUESTED', reason
  ) returning id into refund;
  perform private.log_admin_action(
    'SUBSCRIPTION_UPDATE', format('Refund of invoice %s requested: %s', coalesce(named.number, named.stripe_invoice_id), reason),
    'invoice', named.id::text, jsonb_build_object('refund', refund, 'amount_cents', amount_cents)
  );
  return refund;
end $$;
comment on function private.refund_invoice(text, text, bigint) is 'See public.refund_invoice().';
create function public.refund_invoice(invoice text, reason text, amount_cents bigint default null) returns uuid
language sql set search_path = '' as 'select private.refund_invoice(invoice, reason, amount_cents)';
comment on function public.refund_invoice(text, text, bigint) is
  'For platform admins: has the job refund an invoice (by id, number or in_…), in part or, without an amount, the rest. The '
  'subscription goes on. Returns the id in refunds_due.';

-- Subscriptions at Stripe ---------------------------------------------------------------------------------------------

create function private.cancel_at_stripe(subscription text, reason text, at_period_end boolean) returns void
language plpgsql security definer set search_path = '' as $$
declare
  named public.subscriptions;
begin
  perform private.require_operator('cancel subscriptions');
  reason := private.require_reason(reason);
  named := private.subscription_named(subscription);
  perform private.add_stripe_task(
    case when at_period_end then 'CANCEL_AT_PERIOD_END' else 'CANCEL_SUBSCRIPTION' end::public."StripeTaskKind",
    named.stripe_subscription_id, reason
  );
  perform private.log_admin_action(
    'SUBSCRIPTION_CANCEL', format('Cancellation requested%s: %s', case when at_period_end then ' at period end' else '' end, reason),
    'subscription', named.id::text, jsonb_build_object('at_period_end', at_period_end, 'organization_id', named.organization_id)
  );
end $$;
comment on function private.cancel_at_stripe(text, text, boolean) is 'See public.cancel_at_stripe().';
create function public.cancel_at_stripe(subscription text, reason text, at_period_end boolean default false) returns void
language sql set search_path = '' as 'select private.cancel_at_stripe(subscription, reason, at_period_end)';
comment on function public.cancel_at_stripe(text, text, boolean) is
  'For platform admins: has the job cancel a subscription at Stripe, now or at the end of its period. It refunds nothing.';

create function private.extend_trial(subscription text, until timestamptz, reason text) returns void
language plpgsql security definer set search_path = '' as $$
declare
  named public.subscriptions;
begin
  perform private.require_operator('extend trials');
  reason := private.require_reason(reason);
  named := private.subscription_named(subscription);
  if named.status <> 'TRIAL' then
    raise exception 'This subscription has no trial to extend' using
      errcode = 'PT409', detail = format('It is %s.', named.status), hint = 'Only a subscription that is TRIAL can be extended.';
  elsif until is null or until <= coalesce(named.trial_ends_at, now()) or until > now() + interval '730 days' then
    raise exception 'A trial is extended to a later date, at most two years ahead' using
      errcode = 'PT422', detail = format('Found %s; the trial ends on %s.', coalesce(private.day(until), 'none'), private.day(named.trial_ends_at));
  end if;
  perform private.add_stripe_task(
    'EXTEND_TRIAL', named.stripe_subscription_id, reason, jsonb_build_object('trial_end', extract(epoch from until)::bigint)
  );
  perform private.log_admin_action(
    'SUBSCRIPTION_UPDATE', format('Trial extension to %s requested: %s', private.day(until), reason), 'subscription',
    named.id::text, jsonb_build_object('until', until, 'organization_id', named.organization_id)
  );
end $$;
comment on function private.extend_trial(text, timestamptz, text) is 'See public.extend_trial().';
create function public.extend_trial(subscription text, until timestamptz, reason text) returns void
language sql set search_path = '' as 'select private.extend_trial(subscription, until, reason)';
comment on function public.extend_trial(text, timestamptz, text) is
  'For platform admins: has the job move the end of a trial at Stripe to a later date.';

-- Granted plans -------------------------------------------------------------------------------------------------------

create function private.grant_plan(organization uuid, tier "SubscriptionTier", until timestamptz, reason text) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
  live public.subscriptions;
  granted uuid;
begin
  perform private.require_operator('grant plans');
  reason := private.require_reason(reason);
  if tier is null or until is null or until > now() + interval '10 years' or (until <= now() and tier <> 'FREE' and not exists (
    select from public.subscriptions s
    where s.organization_id = organization and private.is_live(s.status) and s.granted_reason is not null
  )) then
    raise exception 'A plan is granted until a date in the next ten years' using
      errcode = 'PT422', detail = format('Found %s.', coalesce(private.day(until), 'none')), hint = 'Give a tier and a date.';
  end if;
  perform from public.organizations o where o.id = organization for no key update;
  if not found then
    raise exception 'There is no such organization' using errcode = 'PT404', detail = format('Found %s.', organization);
  end if;
  live := private.live_subscription(organization);
  -- One that Stripe does not know ends here.
  update public.stripe_objects o set state = o.state || '{"status": "canceled"}', is_last = true
  where o.id = live.stripe_subscription_id and o.missing_since is not null;
  if live.stripe_subscription_id is not null and not found then
    raise exception 'This organization pays for a plan at Stripe' using
      errcode = 'PT409', detail = format('It is %s, %s.', live.stripe_subscription_id, live.tier),
      hint = 'Cancel it with cancel_at_stripe() first, or give it a coupon at Stripe.';
  end if;
  update public.subscriptions s set status = 'CANCELLED', cancelled_at = now() where s.id = live.id;
  if until > now() and tier <> 'FREE' then
    insert into public.subscriptions (
      organization_id, status, tier, billing_cycle, amount_cents, current_period_end, ends_at, granted_reason
    ) values (organization, 'ACTIVE', tier, 'MONTHLY', 0, until, until, reason) returning id into granted;
  end if;
  perform private.log_admin_action(
    case when granted is null then 'SUBSCRIPTION_CANCEL' else 'SUBSCRIPTION_CREATE' end::public."AdminAction",
    format('%s granted until %s: %s', tier, private.day(until), reason), 'organization', organization::text,
    jsonb_build_object('tier', tier, 'until', until, 'subscription', granted)
  );
  return granted;
end $$;
comment on function private.grant_plan(uuid, "SubscriptionTier", timestamptz, text) is 'See public.grant_plan().';
create function public.grant_plan(organization uuid, tier "SubscriptionTier", until timestamptz, reason text) returns uuid
language sql set search_path = '' as 'select private.grant_plan(organization, tier, until, reason)';
comment on function public.grant_plan(uuid, "SubscriptionTier", timestamptz, text) is
  'For platform admins: gives an organization a plan for nothing until a date; it replaces an earlier grant, and a date in the '
  'past ends it. Refused while the organization pays at Stripe.';

create function private.end_granted_plans() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  ended bigint;
begin
  update public.subscriptions s set status = 'CANCELLED', cancelled_at = s.ends_at
  where s.ends_at <= now() and s.stripe_subscription_id is null and private.is_live(s.status);
  get diagnostics ended = row_count;
  return ended;
end $$;
comment on function private.end_granted_plans() is 'Ends granted plans whose date has passed; returns how many.';

-- Foreign events ------------------------------------------------------------------------------------------------------

create function private.dismiss_stripe_event(event_id text, reason text) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  event public.stripe_events;
  object public.stripe_objects;
  dismissed bigint;
begin
  perform private.require_operator('dismiss events of Stripe');
  reason := private.require_reason(reason);
  select * into event from public.stripe_events e where e.id = event_id for update;
  if not found then
    raise exception 'There is no such event' using
      errcode = 'PT404', detail = format('Found %L.', left(event_id, 100)), hint = 'billing_attention lists them.';
  elsif event.status not in ('PARKED', 'QUARANTINED') then
    raise exception 'Only an event that is PARKED or QUARANTINED can be dismissed' using
      errcode = 'PT409', detail = format('It is %s.', event.status), hint = 'billing_attention lists those that can.';
  end if;
  select * into object from public.stripe_objects o where o.id = event.object_id;
  if event.status = 'PARKED' and object.waits_for is not null then
    insert into private.foreign_stripe_keys (key, reason) values (object.waits_for, reason)
    on conflict (key) do update set reason = excluded.reason;
    update public.stripe_events e set status = 'IGNORED', error = null
    where e.status = 'PARKED' and e.object_id in (
      select o.id from public.stripe_objects o where o.waits_for = object.waits_for
    );
  else
    update public.stripe_events e set status = 'IGNORED', error = null where e.id = event.id;
  end if;
  get diagnostics dismissed = row_count;
  perform private.log_admin_action(
    'SUBSCRIPTION_UPDATE', format('Dismissed the event %s of Stripe: %s', event.id, reason), 'stripe_event', event.id,
    jsonb_build_object('type', event.type, 'key', object.waits_for, 'events', dismissed)
  );
  return dismissed;
end $$;
comment on function private.dismiss_stripe_event(text, text) is 'See public.dismiss_stripe_event().';
create function public.dismiss_stripe_event(event_id text, reason text) returns bigint
language sql set search_path = '' as 'select private.dismiss_stripe_event(event_id, reason)';
comment on function public.dismiss_stripe_event(text, text) is
  'For platform admins: an event belongs to another business in the same Stripe account. It, the others that wait for the same '
  'customer or price, and later ones are IGNORED. Saving that customer in an organization takes it back. Returns how many.';

create function private.requeue_stripe_event(event_id text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  event public.stripe_events;
  status_before public."StripeEventStatus";
begin
  perform private.require_operator('requeue events of Stripe');
  select * into event from public.stripe_events e where e.id = event_id;
  if not found then
    raise exception 'There is no such event' using
      errcode = 'PT404', detail = format('Found %L.', left(event_id, 100)), hint = 'billing_attention lists them.';
  end if;
  if event.status = 'IGNORED' then
    raise exception 'Strive does nothing with this event' using
      errcode = 'PT409', detail = 'It is IGNORED.', hint = 'billing_attention lists the events that wait.';
  end if;
  status_before := event.status;
  if event.livemode = (select a.livemode from private.stripe_account a) then
    if event.object_type is null then
      update public.stripe_events e set status = 'IGNORED', error = null where e.id = event.id returning * into event;
    else
      perform private.reapply_stripe_event(event);
      select * into event from public.stripe_events e where e.id = event_id;
    end if;
  end if;
  perform private.log_admin_action(
    'SUBSCRIPTION_UPDATE', format('Requeued the event %s of Stripe: it was %s and is %s', event.id, status_before, event.status),
    'stripe_event', event.id, jsonb_build_object('type', event.type, 'before', status_before, 'after', event.status),
    event.status in ('APPLIED', 'IGNORED'), event.error
  );
  return jsonb_build_object('id', event.id, 'status', event.status, 'reason', event.error);
end $$;
comment on function private.requeue_stripe_event(text) is 'See public.requeue_stripe_event().';
create function public.requeue_stripe_event(event_id text) returns jsonb
language sql set search_path = '' as 'select private.requeue_stripe_event(event_id)';
comment on function public.requeue_stripe_event(text) is
  'For platform admins: applies an event again, and returns its new status. One that was APPLIED repairs what was edited by hand.';

grant execute on function
  private.decide_refund(uuid, boolean), public.decide_refund(uuid, boolean),
  private.refund_invoice(text, text, bigint), public.refund_invoice(text, text, bigint),
  private.cancel_at_stripe(text, text, boolean), public.cancel_at_stripe(text, text, boolean),
  private.extend_trial(text, timestamptz, text), public.extend_trial(text, timestamptz, text),
  private.grant_plan(uuid, "SubscriptionTier", timestamptz, text), public.grant_plan(uuid, "SubscriptionTier", timestamptz, text),
  private.dismiss_stripe_event(text, text), public.dismiss_stripe_event(text, text),
  private.requeue_stripe_event(text), public.requeue_stripe_event(text)
  to authenticated, service_role;
