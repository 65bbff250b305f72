-- Which organizations does a user belong to?
select o.id, o.name, o.slug, m.role, m.joined_at, o.subscription_tier, o.suspended_at, o.closed_at
from public.organization_members m
join public.organizations o on o.id = m.organization_id
join public.users u on u.id = m.user_id
where u.email = 'owner@acme.test'
order by m.joined_at;
