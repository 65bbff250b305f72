-- Which closed organizations still have a subscription at Stripe?
select e.stripe_subscription_id, o.slug, o.closed_at, o.billing_email
from private.subscriptions_to_end() e
join public.organizations o on o.id = e.organization_id
order by o.closed_at;
