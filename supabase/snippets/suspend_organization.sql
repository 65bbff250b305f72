-- Suspend an organization, and restore it
-- begin; -- try it first: end with rollback instead of commit
select public.admin_suspend_organization(o.id, 'Unpaid for 60 days') from public.organizations o where o.slug = 'acme';
select public.admin_restore_organization(o.id) from public.organizations o where o.slug = 'acme';
