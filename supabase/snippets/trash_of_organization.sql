-- What is in the trash of an organization?
select t.kind, t.title, t.deleted_at, u.email as deleted_by, t.purge_at, t.id
from public.trash t
join public.organizations o on o.id = t.organization_id
left join public.users u on u.id = t.deleted_by
where o.slug = 'acme'
order by t.deleted_at desc limit 200;
