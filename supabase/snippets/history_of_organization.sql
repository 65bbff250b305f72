-- What happened in an organization today?
select l.created_at, l.action, l.resource_type, l.resource_id, u.email as by
from public.activity_logs l
join public.organizations o on o.id = l.organization_id
left join public.users u on u.id = l.user_id
where o.slug = 'acme' and l.created_at > now() - interval '1 day'
order by l.created_at desc limit 200;
