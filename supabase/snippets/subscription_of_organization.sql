-- What has an organization bought?
select s.status, s.tier, s.billing_cycle, s.amount_cents, s.current_period_start, s.current_period_end, s.cancel_at_period_end,
  s.stripe_subscription_id, o.stripe_customer_id
from public.subscriptions s
join public.organizations o on o.id = s.organization_id
where o.slug = 'acme'
order by s.created_at desc;
