-- Who is a member of an organization, and since when?
select u.email, u.name, m.role, m.permissions, m.joined_at, m.blocked_until, u.last_login_at
from public.organization_members m
join public.users u on u.id = m.user_id
join public.organizations o on o.id = m.organization_id
where o.slug = 'acme'
order by m.role, m.joined_at;
