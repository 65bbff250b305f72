-- Find a user by e-mail address or name
select u.id, u.email, u.name, u.global_role, u.is_active, u.suspended_at, u.last_login_at, u.created_at
from public.users u
where u.email ilike '%' || 'strive.test' || '%' or u.name ilike '%' || 'strive.test' || '%'
order by u.created_at desc limit 50;
