-- Notices to owners about their plan and their money, each exactly once. Changes of the plan follow the subscription row;
-- refunds and disputes follow objects of Stripe; dates follow a job.

create function private.notify_owners(
  org uuid, kind text, title text, message text, subject_type text default 'organization', subject_id uuid default null,
  dedupe_key text default null
) returns boolean language plpgsql set search_path = '' as $$
begin
  return private.publish_events(array[(
    kind, org, subject_type, coalesce(subject_id, org), title, message, private.members_at_least(org, 'OWNER'), null,
    dedupe_key, null, null
  )::private.event]) > 0;
end $$;
comment on function private.notify_owners(uuid, text, text, text, text, uuid, text) is
  'Notifies the owners of an organization about billing; with a dedupe_key once.';

create function private.billed(cycle "BillingCycle", seats integer) returns text
language sql immutable set search_path = '' as $$
  select format('%s for %s', lower(cycle::text), case seats when 1 then 'one seat' else seats || ' seats' end)
$$;
comment on function private.billed("BillingCycle", integer) is 'How a plan is billed, for people.';

-- The plan ------------------------------------------------------------------------------------------------------------

create function private.notify_owners_of_plan() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  was_live boolean := tg_op = 'UPDATE' and private.is_live(old.status);
  is_live boolean := private.is_live(new.status);
  plan text := initcap(new.tier::text);
  replaced public.subscriptions;
  notice_kind text;
  notice_title text;
  notice_message text;
begin
  -- Others of the organization that run at Stripe and do not count: one of them takes over, or was replaced just now.
  if was_live and not is_live and exists (
    select from public.subscriptions s join public.stripe_objects o on o.id = s.stripe_subscription_id
    where s.organization_id = new.organization_id and s.id <> new.id
      and o.state ->> 'status' in ('active', 'trialing', 'past_due') and not o.is_last
  ) then
    return null;
  elsif is_live and not was_live then
    select s.* into replaced
    from public.subscriptions s join public.stripe_objects o on o.id = s.stripe_subscription_id
    where s.organization_id = new.organization_id and s.id <> new.id and s.status = 'INACTIVE'
      and s.updated_at = now() and s.created_at < now() and o.state ->> 'status' in ('active', 'trialing', 'past_due')
    limit 1;
    if (replaced.tier, replaced.billing_cycle, replaced.quantity) = (new.tier, new.billing_cycle, new.quantity) then
      return null;
    end if;
  end if;
  if is_live and replaced.id is not null then
    notice_kind := 'billing.plan.changed';
    notice_title := format('Your plan is %s now', plan);
    notice_message := format('It was %s.', initcap(replaced.tier::text));
  elsif is_live and not was_live and new.status <> 'PAST_DUE' then
    notice_kind := 'billing.plan.started';
    notice_title := format('Your plan is %s', plan);
    notice_message := case when new.status = 'TRIAL' and new.trial_ends_at is not null
      then format('It is free until %s.', private.day(new.trial_ends_at))
      else 'You can use everything it includes from now on.' end;
  elsif was_live and not is_live and old.tier <> 'FREE' then
    notice_kind := 'billing.plan.ended';
    notice_title := format('Your %s plan has ended', plan);
    notice_message := case when new.past_due_since is not null then 'The payment did not arrive. ' else '' end
      || 'The organization is on the FREE plan now; its data is kept.';
  elsif is_live and new.status = 'PAST_DUE' and (tg_op = 'INSERT' or old.status <> 'PAST_DUE') then
    notice_kind := 'billing.payment.failed';
    notice_title := 'A payment failed';
    notice_message := format(
      'Stripe retries the payment; you keep the %s plan until %s at the latest. Please check your payment method.',
      plan, private.day(new.past_due_since + private.payment_grace()));
  elsif was_live and is_live and new.tier <> old.tier then
    notice_kind := 'billing.plan.changed';
    notice_title := format('Your plan is %s now', plan);
    notice_message := format('It was %s.', initcap(old.tier::text));
  elsif was_live and is_live and (new.billing_cycle, new.quantity) is distinct from (old.billing_cycle, old.quantity) then
    notice_kind := 'billing.plan.changed';
    notice_title := format('Your %s plan has changed', plan);
    notice_message := format('It is billed %s.', private.billed(new.billing_cycle, new.quantity));
  elsif is_live and new.ends_at is not null and new.granted_reason is null
    and (tg_op = 'INSERT' or old.ends_at is null or not was_live)
  then
    notice_kind := 'billing.plan.ending';
    notice_title := format('Your %s plan ends on %s', plan, private.day(new.ends_at));
    notice_message := 'Until then nothing changes; afterwards the organization is on the FREE plan.';
  elsif was_live and is_live and old.ends_at is not null and new.ends_at is null then
    notice_kind := 'billing.plan.continued';
    notice_title := format('Your %s plan goes on', plan);
    notice_message := format('It renews on %s.', private.day(new.current_period_end));
  elsif was_live and is_live and new.pending_at is not null
    and (new.pending_tier, new.pending_billing_cycle, new.pending_quantity)
      is distinct from (old.pending_tier, old.pending_billing_cycle, old.pending_quantity)
  then
    notice_kind := 'billing.plan.changed';
    notice_title := case when new.pending_tier <> new.tier
      then format('Your plan changes to %s on %s', initcap(new.pending_tier::text), private.day(new.pending_at))
      else format('Your %s plan changes on %s', plan, private.day(new.pending_at)) end;
    notice_message := case when new.pending_tier <> new.tier then format('Until then it stays %s.', plan)
      else format('From then on it is billed %s.', private.billed(new.pending_billing_cycle, new.pending_quantity)) end
      || ' You can change your mind before that.';
  elsif was_live and is_live and new.pending_at is null
    and (new.tier, new.billing_cycle, new.quantity) <> (old.pending_tier, old.pending_billing_cycle, old.pending_quantity)
  then
    notice_kind := 'billing.plan.changed';
    notice_title := format('Your %s plan does not change on %s', plan, private.day(old.pending_at));
    notice_message := 'The change that was planned for then is withdrawn.';
  elsif was_live and is_live and old.status = 'PAST_DUE' and new.status <> 'PAST_DUE' then
    notice_kind := 'billing.payment.recovered';
    notice_title := 'No payment is late any more';
    notice_message := format('The %s plan goes on.', plan);
  else
    return null;
  end if;
  -- Who cancels, resumes and cancels again has one notice of the cancellation: the newest.
  delete from public.notifications n
  where n.user_id = any (private.members_at_least(new.organization_id, 'OWNER')) and n.organization_id = new.organization_id
    and n.created_at > now() - interval '30 days'
    and n.title = notice_title and n.message = notice_message;
  perform private.notify_owners(new.organization_id, notice_kind, notice_title, notice_message, 'subscription', new.id);
  return null;
end $$;
comment on function private.notify_owners_of_plan() is 'Notifies owners when their plan begins, changes or ends, and when a payment fails.';
create trigger notify_owners_of_plan
  after insert or update of status, tier, billing_cycle, quantity, ends_at, pending_at, pending_tier, pending_billing_cycle,
    pending_quantity on public.subscriptions
  for each row execute function private.notify_owners_of_plan();

create function private.notify_owners_of_card() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.notify_owners(
    o.id, 'billing.card.refused', 'A card could not be saved', 'The next payment cannot be made with it. Please check your payment method.'
  ) from public.organizations o where o.stripe_customer_id = new.customer_id;
  return null;
end $$;
comment on function private.notify_owners_of_card() is 'Notifies owners when a card for later payments is refused.';
create trigger notify_owners_of_card
  after insert or update of state on public.stripe_objects
  for each row when (new.type = 'setup_intent' and (new.state ->> 'failed')::boolean
    and new.state ->> 'status' = 'requires_payment_method')
  execute function private.notify_owners_of_card();

-- Money ---------------------------------------------------------------------------------------------------------------

create function private.notify_owners_of_money(object public.stripe_objects, org uuid) returns void
language plpgsql set search_path = '' as $$
declare
  amount text := private.format_money(coalesce((object.state ->> 'amount')::numeric, 0), coalesce(object.state ->> 'currency', 'usd'));
begin
  if object.type = 'refund' and object.state ->> 'status' in ('succeeded', 'pending') then
    perform private.notify_owners(org, 'billing.refund.issued', format('You are refunded %s', amount),
      'It goes back to the payment method you paid with and arrives within ten days.', dedupe_key => object.id);
  elsif object.type = 'refund' and object.state ->> 'status' in ('failed', 'canceled') then
    perform private.notify_owners(org, 'billing.refund.failed', format('Your refund of %s has failed', amount),
      'It does not arrive, and your bank may not say so. Please ask us to pay it back in another way.', dedupe_key => object.id);
  elsif object.type = 'dispute' and object.state ->> 'status' like 'warning%' then
    perform private.notify_owners(org, 'billing.dispute.opened', format('A payment of %s is questioned', amount),
      'The holder of the card asked their bank about it; no money has moved. If this is a mistake, please ask them to confirm it to the bank.',
      dedupe_key => object.id || ' inquiry');
  elsif object.type = 'dispute' then
    perform private.notify_owners(org, 'billing.dispute.opened', format('A payment of %s is disputed', amount),
      'The holder of the card reclaims it from their bank. If this is a mistake, please ask them to withdraw the dispute.',
      dedupe_key => object.id);
  end if;
end $$;
comment on function private.notify_owners_of_money(public.stripe_objects, uuid) is 'Notifies owners of refunds and disputes.';

-- Dates ---------------------------------------------------------------------------------------------------------------

create function private.notify_billing_dates() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  due record;
  sent bigint := 0;
begin
  for due in
    select s.organization_id, s.id, n.kind, n.subject, n.title, n.message
    from public.subscriptions s
    left join public.stripe_objects o on o.id = s.stripe_subscription_id
    left join public.stripe_objects c on c.id = s.stripe_customer_id and c.type = 'customer'
    left join public.stripe_objects m
      on m.id = coalesce(o.state ->> 'payment_method', c.state ->> 'payment_method') and m.type = 'payment_method'
    cross join lateral (
      select case when not (m.state ->> 'detached')::boolean and (m.state ->> 'expiry_month')::integer between 1 and 12
        and (m.state ->> 'expiry_year')::integer between 2000 and 9999
        then make_date((m.state ->> 'expiry_year')::integer, (m.state ->> 'expiry_month')::integer, 1) + interval '1 month'
        end as expires_at
    ) card
    cross join lateral (values
      ('billing.trial.ending', s.status = 'TRIAL' and s.ends_at is null
          and coalesce(s.trial_ends_at, s.current_period_end) between now() and now() + interval '3 days',
        private.day(coalesce(s.trial_ends_at, s.current_period_end)),
        format('Your trial of %s ends on %s', initcap(s.tier::text), private.day(coalesce(s.trial_ends_at, s.current_period_end))),
        format('From then on you pay %s per %s. Cancel before that if you do not want to go on.',
          private.format_money(s.amount_cents, s.currency), case s.billing_cycle when 'YEARLY' then 'year' else 'month' end)),
      ('billing.plan.renewing', s.status = 'ACTIVE' and s.billing_cycle = 'YEARLY' and s.ends_at is null and s.amount_cents > 0
          and s.current_period_end between now() and now() + interval '7 days',
        private.day(s.current_period_end),
        format('Your %s plan renews on %s', initcap(coalesce(s.pending_tier, s.tier)::text), private.day(s.current_period_end)),
        format('You pay %s for the next year, before discounts and tax.', private.format_money(s.amount_cents, s.currency))),
      ('billing.card.expiring', private.is_live(s.status) and s.ends_at is null
          and card.expires_at at time zone 'UTC' <= s.current_period_end
          and s.current_period_end between now() and now() + interval '35 days',
        concat_ws(' ', m.id, private.day(card.expires_at at time zone 'UTC')),
        'Your card expires before the next payment',
        format('The next payment is on %s. Please add another card.', private.day(s.current_period_end)))
    ) n (kind, applies, subject, title, message)
    where private.is_live(s.status) and s.tier <> 'FREE' and n.applies
      and not exists (
        select from private.published_events p where p.kind = n.kind and p.dedupe_key = s.id || ' ' || n.subject
      )
    order by s.id limit 1000
  loop
    sent := sent + private.notify_owners(
      due.organization_id, due.kind, due.title, due.message, 'subscription', due.id, due.id || ' ' || due.subject
    )::integer;
  end loop;
  return sent;
end $$;
comment on function private.notify_billing_dates() is
  'Notifies owners of a trial that ends in 3 days, a yearly renewal in 7, and a card that expires before the next payment. '
  'Returns how many notices were sent.';
grant execute on function private.notify_billing_dates() to service_role, strive_functions;
