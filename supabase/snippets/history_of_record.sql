-- Who changed a record, and what? Entries older than a year are in the archive.
select l.created_at, l.action, u.email as by, l.impersonated_by, l.api_key_id, l.old_data, l.new_data
from (table public.activity_logs union all table private.archived_activity_logs) l
left join public.users u on u.id = l.user_id
where l.resource_id = '00000000-0000-0000-0000-000000000000'
order by l.created_at desc;
