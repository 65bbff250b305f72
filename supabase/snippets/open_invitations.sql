-- Which invitations are open?
select o.slug, i.email, i.role, i.created_at, i.expires_at, i.expires_at <= now() as has_expired
from public.organization_invitations i
join public.organizations o on o.id = i.organization_id
where i.accepted_at is null
order by i.created_at desc limit 100;
