-- How much of its plan does an organization use?
select o.slug, limits.what, private.used_room(o.id, limits.what) as used, private.plan_limit(o.id, limits.what) as allowed
from public.organizations o,
  unnest(array['members', 'storage_bytes', 'api_calls', 'ai_tokens', 'orders_per_month', 'templates', 'blueprints']) limits (what)
where o.slug = 'acme';
