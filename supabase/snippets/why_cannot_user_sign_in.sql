-- Why can a user not sign in or do anything?
select u.email, u.is_active, u.suspended_at, u.suspended_until, u.suspended_reason, u.deleted_at, a.email_confirmed_at,
  e.error as auth_sync_error
from public.users u
left join auth.users a on a.id = u.id
left join private.auth_syncs e on e.user_id = u.id
where u.email = 'owner@acme.test';
