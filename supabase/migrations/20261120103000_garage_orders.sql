-- AI Garage, orders: custom agents are ordered, built step by step and logged, within what the plan allows.

-- Types ---------------------------------------------------------------------------------------------------------------

create type "ComplexityLevel" as enum ('SIMPLE', 'MODERATE', 'COMPLEX', 'ENTERPRISE');
comment on type "ComplexityLevel" is 'Size of a build: up to 8, 24, 72 hours, or more.';
create type "OrderStatus" as enum (
  'DRAFT', 'SUBMITTED', 'IN_REVIEW', 'APPROVED', 'IN_PROGRESS', 'TESTING', 'COMPLETED', 'DELIVERED', 'CANCELLED',
  'REJECTED'
);
comment on type "OrderStatus" is 'State of an order; private.order_moves says what may follow what.';
create type "OrderPriority" as enum ('LOW', 'NORMAL', 'HIGH', 'URGENT');
comment on type "OrderPriority" is 'How soon an order should be built.';
create type "LogLevel" as enum ('DEBUG', 'INFO', 'WARN', 'ERROR');
comment on type "LogLevel" is 'Weight of a build log entry.';

-- Orders --------------------------------------------------------------------------------------------------------------

create function private.are_requirements(requirements jsonb) returns boolean
language sql immutable set search_path = '' as $$
  select jsonb_typeof(requirements) = 'object'
    and coalesce(jsonb_typeof(requirements -> 'integrations') = 'array', true)
    and coalesce(jsonb_typeof(requirements -> 'custom_ui') = 'boolean', true)
    and coalesce(jsonb_typeof(requirements -> 'multi_model') = 'boolean', true)
    and coalesce(jsonb_typeof(requirements -> 'advanced_memory') = 'boolean', true)
$$;
comment on function private.are_requirements(jsonb) is
  'Whether this is an object in which the keys that an estimate reads have the right types; others are free.';
grant execute on function private.are_requirements(jsonb) to authenticated, service_role;

create table public.custom_agent_orders (
  id uuid primary key default gen_random_uuid(),
  title text not null constraint "title is 1 to 100 characters" check (length(title) between 1 and 100),
  description text not null,
  requirements jsonb not null constraint "requirements has a list of integrations and three yes or no"
    check (private.are_requirements(requirements)),
  use_case text not null constraint "use_case is at most 200 characters" check (length(use_case) <= 200),
  complexity "ComplexityLevel" not null,
  estimated_hours integer,
  estimated_cost numeric(12, 2),
  status "OrderStatus" not null default 'DRAFT',
  status_changed_at timestamptz not null default now(),
  status_reason text constraint "reason is 1 to 500 characters" check (length(status_reason) between 1 and 500),
  priority "OrderPriority" not null default 'NORMAL',
  submitted_at timestamptz,
  started_at timestamptz,
  completed_at timestamptz,
  delivered_at timestamptz,
  progress integer not null default 0 constraint "progress is 0 to 100" check (progress between 0 and 100),
  progress_is_manual boolean not null default false,
  current_stage text constraint "current_stage is at most 50 characters" check (length(current_stage) <= 50),
  agent_config jsonb not null,
  tools_config jsonb not null,
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  created_by_id uuid not null references public.users (id) on delete cascade,
  assigned_to_id uuid references public.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id)
);
comment on table public.custom_agent_orders is
  'Agents that organizations have built. Its status moves only by advance_order().';
comment on column public.custom_agent_orders.requirements is
  'Free, but integrations (list), custom_ui, multi_model and advanced_memory (booleans) decide the estimate.';
comment on column public.custom_agent_orders.estimated_hours is 'Computed from complexity and requirements.';
comment on column public.custom_agent_orders.estimated_cost is 'US dollars; computed from the hours.';
comment on column public.custom_agent_orders.status_reason is 'Why it was rejected or cancelled.';
comment on column public.custom_agent_orders.progress is
  'Share of completed milestones, unless somebody set it by hand.';
comment on column public.custom_agent_orders.progress_is_manual is
  'True once set by hand; set it to false to follow milestones again.';
comment on column public.custom_agent_orders.current_stage is 'Stage of the first milestone that is not completed.';
comment on column public.custom_agent_orders.assigned_to_id is
  'The builder: a member of the organization or a platform admin.';
create index custom_agent_orders_organization_idx on public.custom_agent_orders (organization_id, created_at desc);
create index custom_agent_orders_created_by_idx on public.custom_agent_orders (created_by_id);
create index custom_agent_orders_assigned_to_idx on public.custom_agent_orders (assigned_to_id, created_at desc);
create index custom_agent_orders_submitted_at_idx on public.custom_agent_orders (organization_id, submitted_at);
create index custom_agent_orders_complexity_idx on public.custom_agent_orders (complexity);
create index custom_agent_orders_created_at_idx on public.custom_agent_orders (created_at desc);
-- Comparing an enum is not leakproof, so under policies a client's `status = …` cannot be an index condition. It can
-- prove the predicate of a partial index: one for each state that is rare among an organization's orders.
create index custom_agent_orders_status_draft_idx
  on public.custom_agent_orders (organization_id, created_at desc) where status = 'DRAFT';
create index custom_agent_orders_status_submitted_idx
  on public.custom_agent_orders (organization_id, created_at desc) where status = 'SUBMITTED';
create index custom_agent_orders_status_in_review_idx
  on public.custom_agent_orders (organization_id, created_at desc) where status = 'IN_REVIEW';
create index custom_agent_orders_status_approved_idx
  on public.custom_agent_orders (organization_id, created_at desc) where status = 'APPROVED';
create index custom_agent_orders_status_in_progress_idx
  on public.custom_agent_orders (organization_id, created_at desc) where status = 'IN_PROGRESS';
create index custom_agent_orders_status_testing_idx
  on public.custom_agent_orders (organization_id, created_at desc) where status = 'TESTING';
create index custom_agent_orders_status_rejected_idx
  on public.custom_agent_orders (organization_id, created_at desc) where status = 'REJECTED';

create table public.order_milestones (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  order_id uuid not null,
  name text not null constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  description text,
  stage text not null constraint "stage is 1 to 50 characters" check (length(stage) between 1 and 50),
  due_date timestamptz,
  completed_at timestamptz,
  is_completed boolean not null default false,
  sort_order integer not null default 0,
  created_at timestamptz not null default now(),
  foreign key (organization_id, order_id) references public.custom_agent_orders (organization_id, id) on delete cascade,
  constraint "completed_at is set exactly when is_completed" check (is_completed = (completed_at is not null))
);
comment on table public.order_milestones is 'Steps of a build; the completed share is the progress of the order.';
create index order_milestones_organization_idx on public.order_milestones (organization_id, created_at desc);
create index order_milestones_order_idx on public.order_milestones (organization_id, order_id, sort_order);
create index order_milestones_stage_idx on public.order_milestones (stage);

create table public.build_logs (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  order_id uuid not null,
  stage text not null constraint "stage is 1 to 50 characters" check (length(stage) between 1 and 50),
  message text not null,
  details jsonb,
  log_level "LogLevel" not null default 'INFO',
  created_at timestamptz not null default now(),
  foreign key (organization_id, order_id) references public.custom_agent_orders (organization_id, id) on delete cascade
);
comment on table public.build_logs is
  'What happened while an order was built. Append-only for everyone; gone only with its order.';
comment on column public.build_logs.stage is '`status_change` and `builder` are written by the database alone.';
create index build_logs_organization_idx on public.build_logs (organization_id, created_at desc);
create index build_logs_order_idx on public.build_logs (organization_id, order_id, created_at desc, id desc);
create index build_logs_log_level_error_idx
  on public.build_logs (organization_id, created_at desc) where log_level = 'ERROR';
create index build_logs_log_level_warn_idx
  on public.build_logs (organization_id, created_at desc) where log_level = 'WARN';

-- Author and quota ----------------------------------------------------------------------------------------------------

create trigger stamp_author before insert on public.custom_agent_orders
  for each row execute function private.stamp_author('created_by_id');

create function private.order_quota(
  out tier "SubscriptionTier", out allowed bigint, out used bigint, out renews_at timestamptz
) language plpgsql stable security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org();
begin
  if org is not null then
    tier := private.current_tier();
    allowed := private.plan_limit(org, 'orders_per_month');
    used := private.used_room(org, 'orders_per_month');
    renews_at := (private.this_month() at time zone 'UTC' + interval '1 month') at time zone 'UTC';
  end if;
end $$;
comment on function private.order_quota() is 'Does the work of public.order_quota(): clients cannot ask for a limit.';

create function public.order_quota(
  out tier "SubscriptionTier", out allowed bigint, out used bigint, out renews_at timestamptz
) language sql stable set search_path = '' as 'select * from private.order_quota()';
comment on function public.order_quota() is
  'Orders that the plan allows in this calendar month (UTC; null: any number), and how many are submitted.';

grant execute on function private.order_quota(), public.order_quota() to authenticated, service_role;

create trigger touch before update on public.custom_agent_orders
  for each row execute function private.touch_updated_at();
select private.record_changes('public.custom_agent_orders');
create trigger trash before delete on public.custom_agent_orders for each row execute function private.move_to_trash();

-- Estimates -----------------------------------------------------------------------------------------------------------

create function public.estimate_order(complexity "ComplexityLevel", requirements jsonb default '{}') returns jsonb
language plpgsql immutable set search_path = '' as $$
declare
  hours integer;
begin
  if not private.are_requirements(requirements) then
    raise exception 'The requirements cannot be read' using
      errcode = 'PT400', detail = format('Found %s.', left(requirements::text, 200)),
      hint = 'Send an object; integrations is a list, custom_ui, multi_model and advanced_memory are true or false.';
  end if;
  hours := round(
    case complexity when 'SIMPLE' then 6 when 'MODERATE' then 16 when 'COMPLEX' then 48 when 'ENTERPRISE' then 120 end
    * case when jsonb_array_length(coalesce(requirements -> 'integrations', '[]')) > 3 then 1.5 else 1 end
    * case when (requirements ->> 'custom_ui')::boolean then 1.3 else 1 end
    * case when (requirements ->> 'multi_model')::boolean then 1.2 else 1 end
    * case when (requirements ->> 'advanced_memory')::boolean then 1.4 else 1 end
  );
  return jsonb_build_object('estimated_hours', hours, 'estimated_cost', (hours * 150)::numeric(12, 2));
end $$;
comment on function public.estimate_order("ComplexityLevel", jsonb) is
  'Hours and cost (US dollars) of a build, as an order with these requirements will have them.';

create function private.estimate() returns trigger language plpgsql set search_path = '' as $$
declare
  estimated jsonb;
begin
  -- The checks of the table refuse what cannot be estimated, with their own messages.
  if new.complexity is not null and private.are_requirements(new.requirements) then
    estimated := public.estimate_order(new.complexity, new.requirements);
    new.estimated_hours := (estimated ->> 'estimated_hours')::integer;
    new.estimated_cost := (estimated ->> 'estimated_cost')::numeric;
  end if;
  return new;
end $$;
comment on function private.estimate() is 'Keeps the estimate of an order.';
create trigger estimate before insert or update of requirements, complexity on public.custom_agent_orders
  for each row execute function private.estimate();

-- Moves of an order ---------------------------------------------------------------------------------------------------

create table private.order_moves (
  from_status "OrderStatus" not null,
  to_status "OrderStatus" not null,
  minimum_role "OrgRole" not null,
  by_creator boolean not null,
  by_builder boolean not null,
  by_platform boolean not null,
  needs_reason boolean not null,
  primary key (from_status, to_status)
);
comment on table private.order_moves is
  'Every move an order can make, and who may make it: at least this role in its organization; also, where true, the '
  'member who created it, the builder it is assigned to, a platform admin.';
insert into private.order_moves values
  ('DRAFT',       'SUBMITTED',   'MEMBER', false, false, false, false),
  ('SUBMITTED',   'IN_REVIEW',   'ADMIN',  false, false, true,  false),
  ('IN_REVIEW',   'APPROVED',    'ADMIN',  false, false, true,  false),
  ('IN_REVIEW',   'REJECTED',    'ADMIN',  false, false, true,  true),
  ('REJECTED',    'DRAFT',       'MEMBER', false, false, false, false),
  ('APPROVED',    'IN_PROGRESS', 'ADMIN',  false, true,  true,  false),
  ('IN_PROGRESS', 'TESTING',     'ADMIN',  false, true,  true,  false),
  ('TESTING',     'IN_PROGRESS', 'ADMIN',  false, true,  true,  false),
  ('TESTING',     'COMPLETED',   'ADMIN',  false, true,  true,  false),
  ('COMPLETED',   'DELIVERED',   'ADMIN',  false, true,  true,  false),
  ('DRAFT',       'CANCELLED',   'ADMIN',  true,  false, true,  true),
  ('SUBMITTED',   'CANCELLED',   'ADMIN',  true,  false, true,  true),
  ('IN_REVIEW',   'CANCELLED',   'ADMIN',  true,  false, true,  true),
  ('REJECTED',    'CANCELLED',   'ADMIN',  true,  false, true,  true),
  ('APPROVED',    'CANCELLED',   'ADMIN',  false, false, true,  true),
  ('IN_PROGRESS', 'CANCELLED',   'ADMIN',  false, false, true,  true),
  ('TESTING',     'CANCELLED',   'ADMIN',  false, false, true,  true);

create function private.may_move(agent_order public.custom_agent_orders, move private.order_moves) returns boolean
language plpgsql stable security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
begin
  return (move.by_platform and private.is_admin())
    or coalesce(agent_order.organization_id = private.current_user_org(move.minimum_role), false)
    or coalesce(agent_order.organization_id = private.current_user_org('MEMBER'), false) and (
      (move.by_creator and agent_order.created_by_id = me)
      or (move.by_builder and agent_order.assigned_to_id is not distinct from me)
    );
end $$;
comment on function private.may_move(public.custom_agent_orders, private.order_moves) is
  'Whether the caller may make this move.';

-- A trigger, so that order_moves binds every writer of the column.
create function private.move_order() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if not exists (
    select from private.order_moves m where m.from_status = old.status and m.to_status = new.status
  ) then
    raise exception 'An order cannot go from % to %', old.status, new.status using
      errcode = 'PT409', detail = format('The order is %s.', old.status),
      hint = coalesce('It can go to: ' || (
        select string_agg(m.to_status::text, ', ' order by m.to_status)
        from private.order_moves m where m.from_status = old.status
      ) || '.', 'No further move is possible.');
  end if;
  new.status_changed_at := now();
  case new.status
    when 'SUBMITTED' then
      -- A rejected order that is revised already has its place in the month.
      if old.submitted_at is null or old.submitted_at < private.this_month() then
        perform private.require_room(new.organization_id, 'orders_per_month');
      end if;
      new.submitted_at := now();
    when 'IN_PROGRESS' then new.started_at := coalesce(old.started_at, now());
    when 'COMPLETED' then
      new.completed_at := now();
      new.progress := 100;
    when 'DELIVERED' then new.delivered_at := now();
    else null;
  end case;
  return new;
end $$;
comment on function private.move_order() is 'Allows only the changes of status in order_moves, and stamps their time.';
create trigger move_order before update of status on public.custom_agent_orders
  for each row when (old.status <> new.status) execute function private.move_order();

create function private.record_move() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  reason text := case when new.status in ('REJECTED', 'CANCELLED') then new.status_reason end;
begin
  insert into public.build_logs (organization_id, order_id, stage, message, details, log_level)
  values (
    new.organization_id, new.id, 'status_change',
    format('Status changed from %s to %s', old.status, new.status) || coalesce(': ' || reason, ''),
    jsonb_strip_nulls(jsonb_build_object('from', old.status, 'to', new.status, 'reason', reason, 'by', auth.uid())),
    case when reason is null then 'INFO' else 'WARN' end::public."LogLevel"
  );
  if new.status = 'SUBMITTED' then
    insert into public.order_milestones (organization_id, order_id, name, stage, sort_order)
    select new.organization_id, new.id, initcap(s.stage), s.stage, s.place
    from unnest(array['design', 'development', 'testing', 'deployment']) with ordinality s (stage, place)
    where not exists (select from public.order_milestones m where m.order_id = new.id);
  end if;
  insert into public.activity_feeds (
    organization_id, user_id, title, description, type, entity_type, entity_id, action, severity
  ) values (
    new.organization_id, (select u.id from public.users u where u.id = auth.uid()),
    left(format('Order %s: %s', lower(replace(new.status::text, '_', ' ')), new.title), 255), reason, 'WORKFLOW_UPDATE',
    'custom_agent_orders', new.id, lower(new.status::text),
    case when reason is null then 'INFO' else 'WARNING' end::public."ActivitySeverity"
  );
  perform private.publish_event(
    'garage.order.moved', new.organization_id, 'order', new.id, 'Order ' || lower(replace(new.status::text, '_', ' ')),
    format('%s is now %s', new.title, new.status) || coalesce(': ' || reason, ''), array[new.created_by_id],
    jsonb_build_object('from', old.status, 'to', new.status),
    type => case
      when new.status in ('REJECTED', 'CANCELLED') then 'WARNING'
      when new.status in ('APPROVED', 'COMPLETED', 'DELIVERED') then 'SUCCESS'
      else 'INFO'
    end::public."NotificationType"
  );
  return null;
end $$;
comment on function private.record_move() is
  'For each change of status: writes a build log and a feed entry, notifies the creator; creates milestones at the '
  'first submission.';
create trigger record_move after update of status on public.custom_agent_orders
  for each row when (old.status <> new.status) execute function private.record_move();

create function private.guard_order() returns trigger language plpgsql set search_path = '' as $$
begin
  if not row_security_active(tg_relid) then
    return new;
  end if;
  if (new.requirements, new.complexity) is distinct from (old.requirements, old.complexity)
    and old.status not in ('DRAFT', 'SUBMITTED', 'IN_REVIEW', 'REJECTED') then
    raise exception 'Requirements are fixed once an order is approved' using
      errcode = 'PT409', detail = format('The order is %s.', old.status), hint = 'Cancel it, or make a new one.';
  end if;
  if (new.progress, new.progress_is_manual) is distinct from (old.progress, old.progress_is_manual) then
    if old.status in ('COMPLETED', 'DELIVERED', 'CANCELLED') then
      raise exception 'The progress of an order that has ended is fixed' using
        errcode = 'PT409', detail = format('The order is %s.', old.status);
    end if;
    if new.progress <> old.progress then
      new.progress_is_manual := true;
    elsif not new.progress_is_manual then
      new.progress := private.milestone_progress(new.organization_id, new.id);
    end if;
  end if;
  return new;
end $$;
comment on function private.guard_order() is
  'Refuses changes that come too late, and marks a progress that a client sets as manual.';
create trigger guard_order before update on public.custom_agent_orders
  for each row execute function private.guard_order();

-- An order that was submitted has used the month's quota and carries a log that is never rewritten.
create function private.keep_order() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) and old.submitted_at is not null then
    raise exception 'Only an order that was never submitted can be deleted' using
      errcode = 'PT409', detail = format('The order is %s.', old.status), hint = 'Cancel it instead.';
  end if;
  return old;
end $$;
comment on function private.keep_order() is 'Keeps orders that were submitted.';
create trigger keep_order before delete on public.custom_agent_orders
  for each row execute function private.keep_order();

create function private.check_builder() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if new.assigned_to_id is not null and not exists (
    select from public.users u
    left join public.organization_members m on m.user_id = u.id and m.organization_id = new.organization_id
    where u.id = new.assigned_to_id and u.is_active
      and (u.global_role in ('ADMIN', 'SUPER_ADMIN') or m.role <= 'MEMBER')
  ) then
    raise exception 'This user cannot build the order' using
      errcode = 'PT422', detail = format('Found %s.', new.assigned_to_id),
      hint = 'Choose a MEMBER or above of the organization, or a platform admin.';
  end if;
  return new;
end $$;
comment on function private.check_builder() is 'A builder is a member of the organization or a platform admin.';
create trigger check_builder before insert or update of assigned_to_id on public.custom_agent_orders
  for each row execute function private.check_builder();

-- Milestones and logs -------------------------------------------------------------------------------------------------

create function private.milestone_progress(organization_id uuid, order_id uuid) returns integer
language plpgsql stable set search_path = '' as $$
begin
  return (
    select coalesce(round(100.0 * count(*) filter (where m.is_completed) / nullif(count(*), 0)), 0)
    from public.order_milestones m
    where m.organization_id = milestone_progress.organization_id and m.order_id = milestone_progress.order_id
  );
end $$;
comment on function private.milestone_progress(uuid, uuid) is 'Percentage of milestones that are completed.';
grant execute on function private.milestone_progress(uuid, uuid) to authenticated, service_role;

create function private.stamp_milestone() returns trigger language plpgsql set search_path = '' as $$
begin
  new.completed_at := case when new.is_completed then coalesce(new.completed_at, now()) end;
  return new;
end $$;
comment on function private.stamp_milestone() is 'completed_at follows is_completed.';
create trigger stamp_milestone before insert or update of is_completed, completed_at on public.order_milestones
  for each row execute function private.stamp_milestone();

-- The order is locked before its milestones are counted: of two completed at once the later one counts both.
create function private.follow_milestones() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  which public.order_milestones := coalesce(new, old);
begin
  perform from public.custom_agent_orders o where o.id = which.order_id for no key update;
  update public.custom_agent_orders o
  set progress = case when o.progress_is_manual then o.progress else now_has.progress end, current_stage = now_has.stage
  from (
    select private.milestone_progress(which.organization_id, which.order_id) as progress, (
      select m.stage from public.order_milestones m
      where m.organization_id = which.organization_id and m.order_id = which.order_id and not m.is_completed
      order by m.sort_order, m.created_at, m.id limit 1
    ) as stage
  ) now_has
  where o.id = which.order_id and o.status not in ('COMPLETED', 'DELIVERED', 'CANCELLED')
    and (
      o.current_stage is distinct from now_has.stage or (not o.progress_is_manual and o.progress <> now_has.progress)
    );
  return null;
end $$;
comment on function private.follow_milestones() is 'Progress and stage of an order follow its milestones.';
create trigger follow_milestones after insert or delete or update of is_completed, sort_order, stage
  on public.order_milestones for each row execute function private.follow_milestones();

-- An entry may be deleted only by the cascade from its order or organization, which no longer exists at that moment.
create function private.keep_build_logs() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'DELETE' and not (
    exists (select from public.custom_agent_orders o where o.id = old.order_id)
    and exists (select from public.organizations o where o.id = old.organization_id)
  ) then
    return old;
  end if;
  raise exception 'Build logs are append-only' using
    errcode = '42501', detail = format('Tried to %s.', lower(tg_op)), hint = 'Add an entry that corrects the other.';
end $$;
comment on function private.keep_build_logs() is 'Refuses every change and every deletion of an entry.';
create trigger keep before update or delete on public.build_logs
  for each row execute function private.keep_build_logs();
create trigger keep_all before truncate on public.build_logs
  for each statement execute function private.keep_build_logs();

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.custom_agent_orders enable row level security;
create policy "members see their orders" on public.custom_agent_orders for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members draft orders" on public.custom_agent_orders for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change their orders" on public.custom_agent_orders for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete orders" on public.custom_agent_orders for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, title, description, requirements, use_case, complexity, priority, agent_config,
    tools_config),
  update (title, description, requirements, use_case, complexity, priority, agent_config, tools_config, progress,
    progress_is_manual)
  on public.custom_agent_orders to authenticated;
grant all on public.custom_agent_orders to service_role;

alter table public.order_milestones enable row level security;
create policy "members see milestones" on public.order_milestones for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add milestones" on public.order_milestones for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change milestones" on public.order_milestones for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete milestones" on public.order_milestones for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete, insert (organization_id, order_id, name, description, stage, due_date, is_completed, sort_order),
  update (name, description, stage, due_date, is_completed, sort_order) on public.order_milestones to authenticated;
grant all on public.order_milestones to service_role;

alter table public.build_logs enable row level security;
create policy "members see build logs" on public.build_logs for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add build logs" on public.build_logs for insert to authenticated
  with check (
    organization_id = (select private.current_user_org('MEMBER')) and stage not in ('status_change', 'builder')
  );
grant select, insert (organization_id, order_id, stage, message, details, log_level)
  on public.build_logs to authenticated;
grant select, insert on public.build_logs to service_role;

-- Operations ----------------------------------------------------------------------------------------------------------

create function private.visible_order(order_id uuid) returns public.custom_agent_orders
language plpgsql security definer set search_path = '' as $$
declare
  found_order public.custom_agent_orders;
begin
  select o.* into found_order from public.custom_agent_orders o
  where o.id = visible_order.order_id and (o.organization_id = private.current_user_org() or private.is_admin());
  if found_order.id is null then
    raise exception 'There is no such order' using
      errcode = 'PT404', detail = format('Found %s.', visible_order.order_id);
  end if;
  return found_order;
end $$;
comment on function private.visible_order(uuid) is 'The order, if the caller can see it.';

create function private.locked_order(order_id uuid) returns public.custom_agent_orders
language plpgsql set search_path = '' as $$
declare
  found_order public.custom_agent_orders;
begin
  select o.* into found_order from public.custom_agent_orders o where o.id = locked_order.order_id for no key update;
  return found_order;
end $$;
comment on function private.locked_order(uuid) is 'The order as it is now, locked; for a caller who was authorized.';

create function private.log_platform_act(what text, agent_order public.custom_agent_orders) returns void
language plpgsql set search_path = '' as $$
begin
  if private.is_admin() then
    perform private.log_admin_action(
      'ORG_UPDATE', what, 'custom_agent_order', agent_order.id::text,
      jsonb_build_object('organization_id', agent_order.organization_id)
    );
  end if;
end $$;
comment on function private.log_platform_act(text, public.custom_agent_orders) is
  'Logs what a platform admin did to an organization''s order.';

create function private.require_move(agent_order public.custom_agent_orders, to_status "OrderStatus") returns private.order_moves
language plpgsql stable set search_path = '' as $$
declare
  move private.order_moves;
begin
  select m.* into move from private.order_moves m
  where m.from_status = agent_order.status and m.to_status = require_move.to_status;
  if move.to_status is not null and not private.may_move(agent_order, move) then
    raise exception 'You may not move this order from % to %', agent_order.status, to_status using
      errcode = '42501', detail = 'Your role may not make this move.',
      hint = format('It requires %s or above in the organization%s%s%s.', move.minimum_role,
        case when move.by_creator then ', or who created it' else '' end,
        case when move.by_builder then ', or its builder' else '' end,
        case when move.by_platform then ', or a platform admin' else '' end);
  elsif move.to_status is null and private.current_user_org('MEMBER') is null and not private.is_admin() then
    perform private.refuse('order', agent_order.id);
  end if;
  return move;
end $$;
comment on function private.require_move(public.custom_agent_orders, "OrderStatus") is
  'The move, or null if there is none; 42501 if the caller may not make it.';

create function private.advance_order(order_id uuid, to_status "OrderStatus", reason text)
returns public.custom_agent_orders language plpgsql security definer set search_path = '' as $$
declare
  agent_order public.custom_agent_orders := private.visible_order(order_id);
  move private.order_moves := private.require_move(agent_order, to_status);
begin
  agent_order := private.locked_order(order_id);
  move := private.require_move(agent_order, to_status); -- another request may have moved it
  if move.needs_reason and nullif(trim(reason), '') is null then
    raise exception 'A reason is needed' using
      errcode = 'PT422', detail = format('%s without a reason.', to_status), hint = 'Say why in 1 to 500 characters.';
  end if;
  update public.custom_agent_orders o
  set status = advance_order.to_status, status_reason = case when move.needs_reason then trim(reason) end
  where o.id = agent_order.id and o.status <> advance_order.to_status
  returning o.* into agent_order;
  if not found then
    raise exception 'The order is % already', to_status using
      errcode = 'PT409', detail = 'Another request has moved it.', hint = 'Reload it.';
  end if;
  perform private.log_platform_act('Order moved to ' || to_status, agent_order);
  return agent_order;
end $$;
comment on function private.advance_order(uuid, "OrderStatus", text) is
  'Does the work of public.advance_order(), which policies cannot express: who may make which move.';

create function public.advance_order(order_id uuid, to_status "OrderStatus", reason text default null)
returns public.custom_agent_orders language sql set search_path = '' as
  'select * from private.advance_order(order_id, to_status, reason)';
comment on function public.advance_order(uuid, "OrderStatus", text) is
  'Moves an order to its next status, if the caller may. REJECTED and CANCELLED need a reason.';

create function public.submit_order(order_id uuid) returns public.custom_agent_orders
language sql set search_path = '' as $$ select * from private.advance_order(order_id, 'SUBMITTED', null) $$;
comment on function public.submit_order(uuid) is
  'Submits a draft: quota of the plan (402 beyond it), milestones, log and notification in one transaction.';

create function private.submit_order(submission jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid := private.require_org('MEMBER');
  target uuid := submission ->> 'order_id';
  submitted public.custom_agent_orders;
begin
  if submission ?| '{requirements,complexity}' then
    update public.custom_agent_orders o
    set requirements = coalesce(nullif(submission -> 'requirements', 'null'), o.requirements),
      complexity = coalesce((submission ->> 'complexity')::public."ComplexityLevel", o.complexity)
    where o.organization_id = org and o.id = target and o.status = 'DRAFT';
  end if;
  submitted := public.submit_order(target);
  return jsonb_build_object(
    'order_id', submitted.id, 'status', submitted.status, 'submitted_at', submitted.submitted_at,
    'complexity', submitted.complexity, 'requirements', submitted.requirements,
    'estimated_hours', submitted.estimated_hours, 'estimated_cost', submitted.estimated_cost,
    'milestones', (
      select jsonb_agg(
        jsonb_build_object('id', m.id, 'name', m.name, 'stage', m.stage, 'is_completed', m.is_completed)
        order by m.sort_order, m.id
      )
      from public.order_milestones m where m.organization_id = org and m.order_id = submitted.id
    ),
    'quota', to_jsonb(private.order_quota())
  );
end $$;
comment on function private.submit_order(jsonb) is
  'submit-order: updates the draft with the fields that were sent, submits it, and returns the estimate and the '
  'remaining quota.';

create function public.cancel_order(order_id uuid, reason text) returns public.custom_agent_orders
language sql set search_path = '' as $$ select * from private.advance_order(order_id, 'CANCELLED', reason) $$;
comment on function public.cancel_order(uuid, text) is 'Cancels an order that is not completed yet, with a reason.';

create function public.reject_order(order_id uuid, reason text) returns public.custom_agent_orders
language sql set search_path = '' as $$ select * from private.advance_order(order_id, 'REJECTED', reason) $$;
comment on function public.reject_order(uuid, text) is
  'Rejects an order in review, with a reason; it can become a draft again.';

create type public.order_move as (to_status "OrderStatus", needs_reason boolean);
comment on type public.order_move is 'A move that the caller may make with an order.';

create function private.order_moves(order_id uuid) returns setof public.order_move
language plpgsql security definer set search_path = '' as $$
declare
  agent_order public.custom_agent_orders := private.visible_order(order_id);
begin
  return query select m.to_status, m.needs_reason from private.order_moves m
    where m.from_status = agent_order.status and private.may_move(agent_order, m) order by m.to_status;
end $$;
comment on function private.order_moves(uuid) is
  'Does the work of public.order_moves(): reads the table of moves.';

create function public.order_moves(order_id uuid) returns setof public.order_move
language sql set search_path = '' as 'select * from private.order_moves(order_id)';
comment on function public.order_moves(uuid) is 'The moves that the caller may make with an order now.';

create function private.assign_builder(order_id uuid, builder_id uuid)
returns public.custom_agent_orders language plpgsql security definer set search_path = '' as $$
declare
  agent_order public.custom_agent_orders := private.visible_order(order_id);
begin
  if not (private.is_admin() or coalesce(agent_order.organization_id = private.current_user_org('OWNER'), false)) then
    raise exception 'Only an owner or a platform admin assigns a builder' using
      errcode = '42501', hint = 'Ask an owner of the organization.';
  end if;
  agent_order := private.locked_order(order_id);
  if agent_order.status in ('COMPLETED', 'DELIVERED', 'CANCELLED') then
    raise exception 'There is nothing left to build' using
      errcode = 'PT409', detail = format('The order is %s.', agent_order.status);
  end if;
  if agent_order.assigned_to_id is not distinct from builder_id then
    return agent_order;
  end if;
  update public.custom_agent_orders o set assigned_to_id = builder_id where o.id = agent_order.id
  returning o.* into agent_order;
  insert into public.build_logs (organization_id, order_id, stage, message, details)
  values (
    agent_order.organization_id, agent_order.id, 'builder',
    case when builder_id is null then 'Builder removed' else 'Builder assigned' end,
    jsonb_strip_nulls(jsonb_build_object('builder', builder_id, 'by', auth.uid()))
  );
  if builder_id is not null then
    perform private.publish_event(
      'garage.order.assigned', agent_order.organization_id, 'order', agent_order.id, 'Order assigned to you',
      'You build ' || agent_order.title, array[builder_id]
    );
  end if;
  perform private.log_platform_act('Builder assigned', agent_order);
  return agent_order;
end $$;
comment on function private.assign_builder(uuid, uuid) is
  'Does the work of public.assign_builder(): clients cannot write the column.';

create function public.assign_builder(order_id uuid, builder_id uuid) returns public.custom_agent_orders
language sql set search_path = '' as 'select * from private.assign_builder(order_id, builder_id)';
comment on function public.assign_builder(uuid, uuid) is
  'Assigns an order to a builder, or unassigns it with null; for owners and platform admins.';

-- plpgsql, because its plans know the values: a page is a short ordered index scan, however long the log is.
create function public.build_log_page(
  order_id uuid, before timestamptz default 'infinity', before_id uuid default 'ffffffff-ffff-ffff-ffff-ffffffffffff',
  page_size integer default 50
) returns setof public.build_logs language plpgsql stable set search_path = '' as $$
begin
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  end if;
  return query
    select l.* from public.build_logs l
    where l.order_id = build_log_page.order_id and (l.created_at, l.id) < (before, before_id)
    order by l.created_at desc, l.id desc limit page_size;
end $$;
comment on function public.build_log_page(uuid, timestamptz, uuid, integer) is
  'Newest entries of an order''s build log; for the next page give created_at and id of the last entry.';

grant execute on function
  public.estimate_order("ComplexityLevel", jsonb),
  public.advance_order(uuid, "OrderStatus", text), private.advance_order(uuid, "OrderStatus", text),
  public.submit_order(uuid), private.submit_order(jsonb),
  public.cancel_order(uuid, text), public.reject_order(uuid, text),
  public.order_moves(uuid), private.order_moves(uuid),
  public.assign_builder(uuid, uuid), private.assign_builder(uuid, uuid),
  public.build_log_page(uuid, timestamptz, uuid, integer)
  to authenticated, service_role;
