-- Suspend a user, and reactivate them
select private.suspend_user(jsonb_build_object('user_id', u.id, 'reason', 'Requested by the owner'))
from public.users u where u.email = 'member@acme.test';
select private.reactivate_user(jsonb_build_object('user_id', u.id)) from public.users u where u.email = 'member@acme.test';
