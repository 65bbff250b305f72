-- Which feature flags are on, and for whom?
select f.name, f.environment, f.is_enabled, f.rollout_percent, f.target_tiers, f.starts_at, f.ends_at, f.updated_at
from public.feature_flags f
order by f.environment, f.name;
