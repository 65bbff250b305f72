-- An organization at a glance
select *
from public.support_organizations
where slug = 'acme';
