-- Which closed organizations still have a subscription at Stripe?
select s.stripe_subscription_id, o.slug, o.closed_at, o.billing_email, t.tries, t.error
from public.organizations o
join public.subscriptions s on s.organization_id = o.id and s.status in ('TRIAL', 'ACTIVE', 'PAST_DUE')
left join public.stripe_tasks t on t.object_id = s.stripe_subscription_id and t.done_at is null
where o.closed_at is not null and s.stripe_subscription_id is not null
order by o.closed_at;
