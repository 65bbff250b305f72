-- Who acted as whom?
select i.started_at, i.expires_at, i.ended_at, a.email as admin, u.email as acted_as, i.reason
from private.impersonations i
join public.users a on a.id = i.admin_id
join public.users u on u.id = i.user_id
order by i.started_at desc limit 100;
