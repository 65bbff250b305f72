-- Invoices, their credit notes and refunds, as owners read them.

create function private.payment_of_invoice(invoice text) returns text
language plpgsql stable set search_path = '' as $$
begin
  return coalesce(
    (select o.state ->> 'payment_intent' from public.stripe_objects o where o.id = invoice and o.type = 'invoice'),
    (
      select p.state ->> 'payment_intent' from public.stripe_objects p
      where p.type = 'invoice_payment' and p.state ->> 'invoice' = invoice
      order by p.state ->> 'status' = 'paid' desc nulls last, p.state_at desc, p.id limit 1
    ),
    (
      select p.id from public.stripe_objects p
      where p.type = 'payment_intent' and p.state ->> 'invoice' = invoice order by p.state_at desc, p.id limit 1
    )
  );
end $$;
comment on function private.payment_of_invoice(text) is 'The payment intent of an invoice, as far as it is known.';

create function private.invoice_of(object public.stripe_objects) returns text
language plpgsql stable set search_path = '' as $$
begin
  return (select coalesce(object.state ->> 'invoice', (
    select i.id from public.stripe_objects i
    where i.customer_id = c.customer_id and i.type = 'invoice' and i.state ->> 'payment_intent' = p.intent limit 1
  ), (
    select i.state ->> 'invoice' from public.stripe_objects i
    where i.type = 'invoice_payment' and i.state ->> 'payment_intent' = p.intent limit 1
  ), (
    select i.state ->> 'invoice' from public.stripe_objects i where i.id = p.intent and i.type = 'payment_intent'
  ))
  from (
    select coalesce(object.state ->> 'payment_intent', case object.type when 'payment_intent' then object.id end, (
      select h.state ->> 'payment_intent' from public.stripe_objects h where h.id = object.state ->> 'charge'
    )) as intent
  ) p
  cross join lateral (
    select coalesce(object.customer_id, (
      select i.customer_id from public.stripe_objects i where i.id = p.intent
    )) as customer_id
  ) c);
end $$;
comment on function private.invoice_of(public.stripe_objects) is 'The invoice that a payment, charge, refund, dispute or credit note is about.';

create function private.settle_invoice(invoice text, org uuid) returns void
language plpgsql set search_path = '' as $$
begin
  -- What a concurrent transaction knows of the invoice has to be visible: the later one writes the row.
  perform private.lock_stripe(invoice);
  insert into public.invoices as n (
    organization_id, stripe_invoice_id, stripe_subscription_id, number, status, billing_reason, currency, subtotal_cents,
    discount_cents, tax_cents, total_cents, paid_cents, remaining_cents, credited_cents, refunded_cents, disputed_cents,
    credit_notes, period_start, period_end, issued_at, due_at, paid_at, hosted_invoice_url, invoice_pdf, created_at
  )
  select org, i.id, i.state ->> 'subscription', i.state ->> 'number',
    case i.state ->> 'status' when 'open' then 'OPEN' when 'paid' then 'PAID' when 'void' then 'VOID'
      when 'uncollectible' then 'UNCOLLECTIBLE' else 'DRAFT' end::public."InvoiceStatus",
    i.state ->> 'reason', lower(coalesce(i.state ->> 'currency', 'usd')),
    coalesce((i.state ->> 'subtotal')::bigint, 0), coalesce((i.state ->> 'discount')::bigint, 0),
    coalesce((i.state ->> 'tax')::bigint, 0), coalesce((i.state ->> 'total')::bigint, (i.state ->> 'amount_due')::bigint, 0),
    coalesce((i.state ->> 'amount_paid')::bigint, 0), coalesce((i.state ->> 'amount_remaining')::bigint, 0),
    coalesce(c.amount, 0), greatest(coalesce(r.amount, 0), coalesce(h.amount, 0)), coalesce(d.amount, 0), coalesce(c.numbers, '{}'),
    to_timestamp((i.state ->> 'period_start')::bigint), to_timestamp((i.state ->> 'period_end')::bigint),
    to_timestamp((i.state ->> 'issued')::bigint), to_timestamp((i.state ->> 'due')::bigint),
    to_timestamp((i.state ->> 'paid')::bigint), i.state ->> 'url', i.state ->> 'pdf',
    coalesce(to_timestamp((i.state ->> 'created')::bigint), i.state_at)
  from public.stripe_objects i
  cross join lateral (select private.payment_of_invoice(i.id) as intent) p
  left join lateral (
    select sum((o.state ->> 'amount')::bigint) as amount,
      array_agg(coalesce(o.state ->> 'number', o.id) order by o.id) as numbers
    from public.stripe_objects o
    where o.customer_id = i.customer_id and o.type = 'credit_note' and o.state ->> 'invoice' = i.id
      and o.state ->> 'status' = 'issued'
  ) c on true
  left join lateral (
    select sum((o.state ->> 'amount')::bigint) as amount from public.stripe_objects o
    where o.type = 'refund' and o.state ->> 'payment_intent' = p.intent
      and o.state ->> 'status' not in ('failed', 'canceled')
  ) r on true
  left join lateral (
    select max((o.state ->> 'amount_refunded')::bigint) filter (where not exists (
      -- What the charge says includes refunds that failed later.
      select from public.stripe_objects f
      where f.type = 'refund' and f.state ->> 'payment_intent' = p.intent and f.state ->> 'status' in ('failed', 'canceled')
    )) as amount from public.stripe_objects o
    where o.customer_id = i.customer_id and o.type = 'charge' and o.state ->> 'payment_intent' = p.intent
  ) h on true
  left join lateral (
    select sum((o.state ->> 'amount')::bigint) as amount from public.stripe_objects o
    where o.type = 'dispute' and o.state ->> 'payment_intent' = p.intent
      and o.state ->> 'status' not in ('won', 'warning_needs_response', 'warning_under_review', 'warning_closed')
  ) d on true
  where i.id = invoice and i.type = 'invoice'
  on conflict (stripe_invoice_id) do update set
    organization_id = excluded.organization_id, stripe_subscription_id = excluded.stripe_subscription_id,
    number = excluded.number, status = excluded.status, billing_reason = excluded.billing_reason, currency = excluded.currency,
    subtotal_cents = excluded.subtotal_cents, discount_cents = excluded.discount_cents, tax_cents = excluded.tax_cents,
    total_cents = excluded.total_cents, paid_cents = excluded.paid_cents, remaining_cents = excluded.remaining_cents,
    credited_cents = excluded.credited_cents, refunded_cents = excluded.refunded_cents,
    disputed_cents = excluded.disputed_cents, credit_notes = excluded.credit_notes, period_start = excluded.period_start,
    period_end = excluded.period_end, issued_at = excluded.issued_at, due_at = excluded.due_at, paid_at = excluded.paid_at,
    hosted_invoice_url = excluded.hosted_invoice_url, invoice_pdf = excluded.invoice_pdf
  where to_jsonb(n) - '{id,created_at,updated_at}'::text[] is distinct from
    to_jsonb(excluded) - '{id,created_at,updated_at}'::text[];
  insert into public.invoice_credits as n (
    organization_id, invoice_id, type, stripe_object_id, number, status, amount_cents, currency, happened_at
  )
  select i.organization_id, i.id, upper(o.type)::public."InvoiceCreditType", o.id, o.state ->> 'number',
    coalesce(o.state ->> 'status', 'unknown'), coalesce((o.state ->> 'amount')::bigint, 0),
    lower(coalesce(o.state ->> 'currency', i.currency)), coalesce(to_timestamp((o.state ->> 'created')::bigint), o.state_at)
  from public.invoices i
  cross join lateral (
    select c.* from public.stripe_objects c where c.type = 'credit_note' and c.state ->> 'invoice' = invoice
    union all
    select r.* from public.stripe_objects r
    where r.type in ('refund', 'dispute') and r.state ->> 'payment_intent' = private.payment_of_invoice(invoice)
  ) o
  where i.stripe_invoice_id = invoice
  on conflict (stripe_object_id) do update set
    invoice_id = excluded.invoice_id, status = excluded.status, amount_cents = excluded.amount_cents,
    number = excluded.number, happened_at = excluded.happened_at
  where (n.invoice_id, n.status, n.amount_cents, n.number, n.happened_at) is distinct from
    (excluded.invoice_id, excluded.status, excluded.amount_cents, excluded.number, excluded.happened_at);
end $$;
comment on function private.settle_invoice(text, uuid) is
  'Writes the row of an invoice and its credits from the objects at Stripe: the invoice, its refunds, credit notes and disputes.';

-- Money without a plan: the open invoice of a subscription that ended unpaid is paid afterwards, or the organization
-- was closed or deleted before Strive first heard of the invoice. By Strive's clock, since closing happens here.
create function private.settle_late_payment(object public.stripe_objects) returns void
language plpgsql set search_path = '' as $$
begin
  insert into public.refunds_due (object_id, stripe_payment_intent_id, amount_cents, currency, reason, status, error)
  select i.id, private.payment_of_invoice(i.id), (i.state ->> 'amount_paid')::bigint, lower(i.state ->> 'currency'), 'ENDED',
    -- A subscription that began after the closing never gave anything.
    case when closed.at <= s.created_at and to_timestamp((s.state ->> 'started')::bigint) > closed.at - interval '1 day'
      then 'DUE' else 'TO_DECIDE' end::public."RefundStatus",
    format('Invoice %s was paid after its %s.', coalesce(i.state ->> 'number', i.id), case when closed.at <= i.created_at
      then 'organization was closed' else format('subscription %s had ended', s.id) end)
  from public.stripe_objects i
  join public.stripe_objects s on s.id = i.state ->> 'subscription' and s.type = 'subscription'
  cross join lateral (
    select coalesce(
      (select c.created_at from private.closed_customers c where c.stripe_customer_id = i.customer_id),
      (select o.closed_at from public.organizations o where o.id = private.organization_of(i.customer_id))
    ) as at
  ) closed
  where i.type = 'invoice' and (i.id = object.id or s.id = object.id) and i.customer_id = object.customer_id
    and i.state ->> 'status' = 'paid' and (i.state ->> 'amount_paid')::bigint > 0 and i.state ->> 'currency' ~ '^[a-zA-Z]{3}$'
    and (closed.at <= i.created_at
        and coalesce(to_timestamp((i.state ->> 'paid')::bigint), i.state_at) > closed.at - interval '1 day'
      or s.state ->> 'status' = 'canceled'
      and coalesce((i.state ->> 'paid')::bigint, extract(epoch from i.state_at)::bigint)
        >= coalesce((s.state ->> 'ended_at')::bigint, extract(epoch from s.state_at)::bigint)
        -- Within one second only a subscription that was not paid for can have ended first.
        + (not coalesce((
          select e.state ->> 'status' in ('past_due', 'unpaid') from public.stripe_events e
          where e.object_id = s.id and e.state ->> 'status' <> 'canceled' and e.status <> 'QUARANTINED'
          order by e.created desc, e.place desc, e.id desc limit 1
        ), false))::integer)
  on conflict do nothing;
end $$;
comment on function private.settle_late_payment(public.stripe_objects) is
  'Queues a payment that arrived after the end of its subscription: a person decides about the refund.';
