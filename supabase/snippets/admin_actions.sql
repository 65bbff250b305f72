-- What did platform admins do this week?
select l.created_at, l.action, l.description, l.target_type, l.target_id, l.success, l.error, u.email as by
from public.admin_action_logs l
left join public.users u on u.id = l.admin_id
where l.created_at > now() - interval '7 days'
order by l.created_at desc limit 200;
