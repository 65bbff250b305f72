-- Support views: what the people who help customers look at first. They show the caller what its tables show: platform
-- admins and the SQL editor everything, members their own organization.

create view public.support_organizations with (security_invoker = true) as
select o.id, o.name, o.slug, o.created_at, o.subscription_tier, o.subscription_status, o.suspended_at, o.suspended_reason,
  o.closed_at, s.current_period_end, s.cancel_at_period_end, members.members, members.owners, members.last_login_at
from public.organizations o
left join public.subscriptions s
  on s.organization_id = o.id and private.is_live(s.status)
left join lateral (
  select count(*) as members, string_agg(u.email, ', ' order by m.joined_at) filter (where m.role = 'OWNER') as owners,
    max(u.last_login_at) as last_login_at
  from public.organization_members m join public.users u on u.id = m.user_id
  where m.organization_id = o.id
) members on true;
comment on view public.support_organizations is 'Every organization on one line: plan, state, owners, members, last login.';
comment on column public.support_organizations.members is 'How many members it has.';
comment on column public.support_organizations.owners is 'Addresses of its owners.';
comment on column public.support_organizations.last_login_at is 'When one of its members last signed in.';
comment on column public.support_organizations.created_at is 'When it was created.';
comment on column public.support_organizations.subscription_tier is 'Its plan.';
comment on column public.support_organizations.suspended_at is 'Since when it is suspended; null: it is not.';
comment on column public.support_organizations.suspended_reason is 'Why it is suspended.';
comment on column public.support_organizations.closed_at is 'Since when it is closed; null: it is not.';
comment on column public.support_organizations.cancel_at_period_end is 'Whether the plan ends with the paid period.';
comment on column public.support_organizations.slug is 'Its name in URLs.';
comment on column public.support_organizations.subscription_status is 'State of its plan.';
create trigger refuse instead of insert or update or delete on public.support_organizations
  for each row execute function private.refuse_view();
grant select on public.support_organizations to authenticated, service_role;
