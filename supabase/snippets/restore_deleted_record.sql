-- Bring back a deleted record
select t.id, o.slug, t.kind, t.title, t.deleted_at
from public.trash t
join public.organizations o on o.id = t.organization_id
where t.title ilike '%' || 'Ada' || '%'
order by t.deleted_at desc limit 20;
-- Then, with the id from above:
select public.restore_from_trash(array_agg(t.id)) from public.trash t
where t.id = '00000000-0000-0000-0000-000000000000' having count(*) > 0;
