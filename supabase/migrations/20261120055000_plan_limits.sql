-- Plan limits: how much of its plan an organization uses, and the refusal of what would exceed it.

create function private.this_month() returns timestamptz language sql stable set search_path = '' as
  $$ select date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' $$;
comment on function private.this_month() is 'When the calendar month (UTC) began.';

create function private.renews_at(what text) returns timestamptz language sql stable set search_path = '' as $$
  select case when what in ('api_calls', 'ai_tokens', 'orders_per_month')
    then (private.this_month() at time zone 'UTC' + interval '1 month') at time zone 'UTC' end
$$;
comment on function private.renews_at(text) is 'When a limit of a plan renews; null for one that is a total.';

create function private.used_room(organization_id uuid, what text) returns bigint
language plpgsql stable security definer set search_path = '' as $$
begin
  return case what
    when 'members' then
      (select count(*) from public.organization_members m where m.organization_id = used_room.organization_id)
    when 'templates' then
      (select count(*) from public.agent_templates t where t.organization_id = used_room.organization_id)
    when 'blueprints' then
      (select count(*) from public.tool_blueprints b where b.organization_id = used_room.organization_id)
    when 'orders_per_month' then (
      select count(*) from public.custom_agent_orders o
      where o.organization_id = used_room.organization_id and o.submitted_at >= private.this_month()
    )
    when 'storage_bytes' then (
      select coalesce(sum(a.file_size), 0) from public.attachments a
      where a.organization_id = used_room.organization_id
    )
    when 'api_calls' then private.used_calls(organization_id)
    when 'ai_tokens' then private.used_tokens(organization_id)
  end;
end $$;
comment on function private.used_room(uuid, text) is 'How much of a limit of its plan an organization uses.';

create function private.refuse_room(organization_id uuid, what text, allowed bigint, used bigint, more bigint default 1) returns void
language plpgsql stable set search_path = '' as $$
declare
  has_tier public."SubscriptionTier";
  renews constant timestamptz := private.renews_at(what);
  larger text;
begin
  select o.subscription_tier into has_tier from public.organizations o where o.id = refuse_room.organization_id;
  select format('%s allows %s.', p.tier, coalesce(p.limits ->> what, 'any number')) into larger
  from public.plans p
  where p.tier > has_tier and coalesce((p.limits ->> what)::bigint >= used + more, true)
  order by p.tier, p.is_active desc limit 1;
  raise exception 'Your plan allows no more %',
    replace(replace(what, '_per_month', ''), '_', ' ') || case when renews is not null then ' this month' else '' end
    using errcode = 'PT402', detail = concat_ws(' ', format('%s allows %s, and %s are used.', has_tier, allowed, used),
      coalesce('They renew at ' || (to_json(renews) #>> '{}') || '.', 'They do not renew.')),
    hint = coalesce(larger || ' An owner can choose it.', 'Contact us for a larger plan.');
end $$;
comment on function private.refuse_room(uuid, text, bigint, bigint, bigint) is
  'PT402 with what a plan allows, what is used, when it renews, and the plan that allows more.';

-- Counted under the organization's row lock: at the limit, two at once cannot both fit. FOR NO KEY UPDATE lets others
-- go on inserting rows that refer to the organization.
create function private.require_room(organization_id uuid, what text, more bigint default 1) returns void
language plpgsql security definer set search_path = '' as $$
declare
  allowed bigint;
  used bigint;
begin
  perform from public.organizations o where o.id = require_room.organization_id for no key update;
  allowed := private.plan_limit(require_room.organization_id, what);
  if allowed is null then
    return;
  end if;
  used := private.used_room(require_room.organization_id, what);
  if used + more > allowed then
    perform private.refuse_room(organization_id, what, allowed, used, more);
  end if;
end $$;
comment on function private.require_room(uuid, text, bigint) is 'Refuses what would exceed a limit of the plan.';

create function private.claim_room(organization_id uuid, what text, more bigint default 1) returns void
language plpgsql security definer set search_path = '' as $$
begin
  -- The policy refuses a row of another organization; this check must not reveal how full that one is.
  if organization_id = private.current_user_org('MEMBER') then
    perform private.require_room(organization_id, what, more);
  end if;
end $$;
comment on function private.claim_room(uuid, text, bigint) is
  'Enforces a limit of the plan on the caller''s organization; reveals nothing about another one.';

create function private.guard_plan() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) then
    perform private.claim_room(new.organization_id, tg_argv[0]);
  end if;
  return new;
end $$;
comment on function private.guard_plan() is 'Enforces the named limit of the plan on clients.';
grant execute on function private.claim_room(uuid, text, bigint) to authenticated, service_role;

-- Free organizations cost nothing, so their number is bounded; closed ones remain for 30 days.
create function private.require_free_organization(owner uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
  open bigint;
  owned bigint;
begin
  -- Counted under the row of the user: two at once cannot both be the last.
  perform from public.users u where u.id = owner for no key update;
  select count(*) filter (where o.closed_at is null), count(*) into open, owned
  from public.organization_members m join public.organizations o on o.id = m.organization_id
  where m.user_id = owner and m.role = 'OWNER' and o.subscription_tier = 'FREE';
  if open >= 3 then
    raise exception 'You own three free organizations' using
      errcode = 'PT402', hint = 'Choose a plan for one of them, or close one.';
  elsif owned >= 6 then
    raise exception 'You closed free organizations that are not erased yet' using
      errcode = 'PT402', detail = format('You own %s free organizations, with closed ones.', owned),
      hint = 'Reopen one of them, or wait until one is erased, 30 days after it was closed.';
  end if;
end $$;
comment on function private.require_free_organization(uuid) is
  'PT402 for an owner of three free organizations, or of six with those that are closed.';
