-- How much of its plan does an organization use?
select o.slug, limits.what, private.used_room(o.id, limits.what) as used, private.plan_limit(o.id, limits.what) as allowed
from public.organizations o,
  unnest(array['templates', 'blueprints', 'orders_per_month', 'storage_bytes']) limits (what)
where o.slug = 'acme';
