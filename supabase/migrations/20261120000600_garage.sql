-- AI Garage: custom agents are ordered, built step by step and logged; templates, tool blueprints and showcases are
-- shared between organisations.

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
create type "AgentCategory" as enum ('SALES', 'SUPPORT', 'ANALYSIS', 'CONTENT', 'AUTOMATION', 'RESEARCH');
comment on type "AgentCategory" is 'What an agent is for.';
create type "ToolCategory" as enum ('AUTOMATION', 'ANALYTICS', 'INTEGRATION', 'UI', 'API', 'WORKFLOW');
comment on type "ToolCategory" is 'What a tool is for.';
create type "LogLevel" as enum ('DEBUG', 'INFO', 'WARN', 'ERROR');
comment on type "LogLevel" is 'Weight of a build log entry.';
create type "ShowcaseCategory" as enum ('AI_AGENT', 'AUTOMATION_TOOL', 'INTEGRATION', 'WORKFLOW', 'CUSTOM_SOLUTION');
comment on type "ShowcaseCategory" is 'What a showcase shows.';

-- What checks ask -----------------------------------------------------------------------------------------------------

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

-- Components and connections are lists, or objects by id; a connection has a source and a target (or from and to).
create function private.is_graph(components jsonb, connections jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
declare
  ids text[];
  each_connection jsonpath := case jsonb_typeof(connections) when 'array' then '$[*]' else '$.*' end;
begin
  if jsonb_typeof(components) not in ('array', 'object') or jsonb_typeof(connections) not in ('array', 'object') then
    return false;
  end if;
  if jsonb_typeof(components) = 'object' then
    ids := array(select jsonb_object_keys(components));
  else
    ids := array(select c ->> 'id' from jsonb_array_elements(components) c);
  end if;
  if array_position(ids, null) is not null or '' = any (ids)
    or (select count(distinct i) from unnest(ids) i) <> cardinality(ids) then
    return false;
  end if;
  return not exists (
    select from jsonb_path_query(connections, each_connection) c
    where not coalesce(coalesce(c ->> 'source', c ->> 'from') = any (ids), false)
      or not coalesce(coalesce(c ->> 'target', c ->> 'to') = any (ids), false)
  );
end $$;
comment on function private.is_graph(jsonb, jsonb) is
  'Whether every component has an id of its own and every connection joins two components that exist.';

grant execute on function private.are_requirements(jsonb), private.is_graph(jsonb, jsonb)
  to authenticated, service_role;

-- Orders --------------------------------------------------------------------------------------------------------------

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
  organization_id uuid not null references public.organizations (id) on delete cascade,
  created_by_id uuid not null references public.users (id) on delete cascade,
  assigned_to_id uuid references public.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id)
);
comment on table public.custom_agent_orders is
  'Agents that organisations have built. Its status moves only by advance_order().';
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
  'The builder: a member of the organisation or a platform admin.';
create index custom_agent_orders_organization_idx on public.custom_agent_orders (organization_id, created_at desc);
create index custom_agent_orders_created_by_idx on public.custom_agent_orders (created_by_id);
create index custom_agent_orders_assigned_to_idx on public.custom_agent_orders (assigned_to_id, created_at desc);
create index custom_agent_orders_submitted_at_idx on public.custom_agent_orders (organization_id, submitted_at);
create index custom_agent_orders_complexity_idx on public.custom_agent_orders (complexity);
create index custom_agent_orders_created_at_idx on public.custom_agent_orders (created_at desc);
-- Comparing an enum is not leakproof, so under policies a client's `status = …` cannot be an index condition. It can
-- prove the predicate of a partial index: one for each state that is rare among an organisation's orders.
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
  organization_id uuid not null references public.organizations (id) on delete cascade,
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
  organization_id uuid not null references public.organizations (id) on delete cascade,
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

-- Templates, blueprints, showcases ------------------------------------------------------------------------------------
-- Public rows and one's own are read in one list, newest first. `is_public or organization_id = …` makes Postgres
-- gather and sort all that matches. The audience of a row (the nil uuid: everybody) compared with a short array stays
-- one ordered index scan that skips strangers' rows inside the index, however few rows are public; measured with 2,000
-- organisations. It needs the array literal (its nil uuid is estimated from statistics), this one index, and no other
-- on the same expression, else the planner may gather and sort after all.

create table public.agent_templates (
  id uuid primary key default gen_random_uuid(),
  name text not null constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  description text not null,
  category "AgentCategory" not null,
  avatar text constraint "avatar is at most 500 characters" check (length(avatar) <= 500),
  personality_config jsonb not null,
  model_config jsonb not null,
  tools_config jsonb not null,
  memory_config jsonb not null,
  tags text[] not null default '{}',
  features text[] not null default '{}',
  use_cases text[] not null default '{}',
  usage_count integer not null default 0,
  rating numeric(3, 2) constraint "rating is 1 to 5" check (rating between 1 and 5),
  is_popular boolean not null generated always as (usage_count > 10 and coalesce(rating >= 4, false)) stored,
  is_public boolean not null default false,
  is_system boolean not null default false,
  organization_id uuid references public.organizations (id) on delete cascade,
  created_by_id uuid references public.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "only a system template belongs to no organization" check (is_system = (organization_id is null))
);
comment on table public.agent_templates is
  'Presets of agents: an organisation''s own, public ones, and those of the platform.';
comment on column public.agent_templates.rating is 'Mean of the reviews; null without any.';
comment on column public.agent_templates.usage_count is 'Kept by use_template().';
comment on column public.agent_templates.is_system is 'Of the platform: everybody reads, only platform admins write.';
create index agent_templates_audience_idx on public.agent_templates
  (created_at desc, (
    case when is_public or is_system then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end
  ));
create index agent_templates_organization_idx on public.agent_templates (organization_id, created_at desc);
create index agent_templates_created_by_idx on public.agent_templates (created_by_id);
create index agent_templates_category_idx on public.agent_templates (category, created_at desc);
create index agent_templates_is_public_idx on public.agent_templates (created_at desc) where is_public;
create index agent_templates_is_system_idx on public.agent_templates (created_at desc) where is_system;
create index agent_templates_tags_idx on public.agent_templates using gin (tags);

create table public.template_reviews (
  id uuid primary key default gen_random_uuid(),
  template_id uuid not null references public.agent_templates (id) on delete cascade,
  rating integer not null constraint "rating is 1 to 5" check (rating between 1 and 5),
  review text,
  organization_id uuid not null references public.organizations (id) on delete cascade,
  reviewer_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "one review per template and reviewer" unique (template_id, reviewer_id)
);
comment on table public.template_reviews is
  'What people think of a template; read within the reviewer''s organisation.';
comment on column public.template_reviews.template_id is
  'May be another organisation''s, when public: the key carries no tenant, a trigger asks if the reviewer sees it.';
create index template_reviews_template_idx on public.template_reviews (template_id) include (rating);
create index template_reviews_organization_idx on public.template_reviews (organization_id, created_at desc);
create index template_reviews_reviewer_idx on public.template_reviews (reviewer_id);

create table public.tool_blueprints (
  id uuid primary key default gen_random_uuid(),
  name text not null constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  description text not null,
  category "ToolCategory" not null,
  components jsonb not null,
  connections jsonb not null,
  configuration jsonb not null,
  version text not null default '1.0.0' constraint "version is semantic, like 1.0.0, in at most 20 characters" check (
    version ~ '^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$' and length(version) <= 20
  ),
  tags text[] not null default '{}',
  complexity "ComplexityLevel" not null,
  usage_count integer not null default 0,
  is_public boolean not null default false,
  organization_id uuid not null references public.organizations (id) on delete cascade,
  created_by_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "connections join (source, target) components with unique ids"
    check (private.is_graph(components, connections))
);
comment on table public.tool_blueprints is 'Tools drawn as graphs; public ones can be cloned by others.';
comment on column public.tool_blueprints.usage_count is 'How often it was cloned.';
create index tool_blueprints_audience_idx on public.tool_blueprints
  (created_at desc, (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end));
create index tool_blueprints_organization_idx on public.tool_blueprints (organization_id, created_at desc);
create index tool_blueprints_created_by_idx on public.tool_blueprints (created_by_id);
create index tool_blueprints_category_idx on public.tool_blueprints (category, created_at desc);
create index tool_blueprints_is_public_idx on public.tool_blueprints (created_at desc) where is_public;

create table public.project_showcases (
  id uuid primary key default gen_random_uuid(),
  title text not null constraint "title is 1 to 100 characters" check (length(title) between 1 and 100),
  description text not null,
  category "ShowcaseCategory" not null,
  image_url text constraint "image_url is an http(s) address of at most 500 characters"
    check (image_url ~* '^https?://[^[:space:]]+$' and length(image_url) <= 500),
  demo_url text constraint "demo_url is an http(s) address of at most 500 characters"
    check (demo_url ~* '^https?://[^[:space:]]+$' and length(demo_url) <= 500),
  features text[] not null default '{}',
  technologies text[] not null default '{}',
  views integer not null default 0,
  likes integer not null default 0,
  is_public boolean not null default false,
  is_featured boolean not null default false,
  organization_id uuid not null references public.organizations (id) on delete cascade,
  created_by_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.project_showcases is 'Finished work that organisations show to others.';
comment on column public.project_showcases.views is 'Kept by view_showcase().';
comment on column public.project_showcases.likes is 'One per user; kept by like_showcase() and unlike_showcase().';
comment on column public.project_showcases.is_featured is 'Set only by platform admins, with feature_showcase().';
create index project_showcases_audience_idx on public.project_showcases
  (created_at desc, (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end));
create index project_showcases_organization_idx on public.project_showcases (organization_id, created_at desc);
create index project_showcases_created_by_idx on public.project_showcases (created_by_id);
create index project_showcases_category_idx on public.project_showcases (category, created_at desc);
create index project_showcases_is_public_idx on public.project_showcases (created_at desc) where is_public;
create index project_showcases_is_featured_idx on public.project_showcases (created_at desc) where is_featured;

create table public.showcase_likes (
  showcase_id uuid not null references public.project_showcases (id) on delete cascade,
  user_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (showcase_id, user_id)
);
comment on table public.showcase_likes is 'Who likes what; people see their own.';
create index showcase_likes_user_idx on public.showcase_likes (user_id, created_at desc);

-- Counting ------------------------------------------------------------------------------------------------------------

create table private.tallies (
  id bigint generated always as identity primary key,
  counter text not null constraint "tallies count uses, views and likes"
    check (counter in ('template_uses', 'blueprint_uses', 'showcase_views', 'showcase_likes')),
  subject_id uuid not null,
  change integer not null
);
comment on table private.tallies is 'Uses, views and likes that are not yet in the count of their row.';
create index tallies_subject_idx on private.tallies (counter, subject_id);

create function private.fold_tallies(counter text, subject uuid) returns void
language plpgsql set search_path = '' as $$
declare
  total integer;
begin
  with taken as (
    delete from private.tallies t where t.counter = fold_tallies.counter and t.subject_id = subject returning t.change
  )
  select coalesce(sum(taken.change), 0) into total from taken;
  if total = 0 then
    return;
  end if;
  case fold_tallies.counter
    when 'template_uses' then
      update public.agent_templates t set usage_count = t.usage_count + total where t.id = subject;
    when 'blueprint_uses' then
      update public.tool_blueprints b set usage_count = b.usage_count + total where b.id = subject;
    when 'showcase_views' then
      update public.project_showcases s set views = s.views + total where s.id = subject;
    when 'showcase_likes' then
      update public.project_showcases s set likes = s.likes + total where s.id = subject;
  end case;
end $$;
comment on function private.fold_tallies(text, uuid) is 'Moves what was counted into the count of the row.';

-- Exact without queueing for a row: everyone appends under a shared lock which lasts until they commit. The first is
-- the folder of the batch, and waits for the rest of it by taking that lock exclusively; then it sees them all and adds
-- them up in one update. Whoever finds a folder at work leaves, since it cannot finish before they have committed.
create function private.tally(counter text, subject uuid, change integer) returns void
language plpgsql set search_path = '' as $$
declare
  batch bigint := hashtextextended(counter || subject, 0);
  folder bigint := hashtextextended(counter || subject, 1);
begin
  perform pg_advisory_xact_lock_shared(batch);
  insert into private.tallies (counter, subject_id, change) values (tally.counter, subject, tally.change);
  if pg_try_advisory_xact_lock(folder) then
    perform pg_advisory_xact_lock(batch);
    perform private.fold_tallies(tally.counter, subject);
  end if;
end $$;
comment on function private.tally(text, uuid, integer) is 'Counts something, exactly under any concurrency.';

create function private.roll_up_tallies() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  open record;
  folded bigint := 0;
begin
  for open in select distinct t.counter, t.subject_id from private.tallies t order by 1, 2 loop
    perform private.fold_tallies(open.counter, open.subject_id);
    folded := folded + 1;
  end loop;
  return folded;
end $$;
comment on function private.roll_up_tallies() is
  'Folds what a folder that failed has left behind; for a schedule, safe at any time.';
grant execute on function private.roll_up_tallies() to service_role;

create function private.tally_like() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    perform private.tally('showcase_likes', new.showcase_id, 1);
  else
    perform private.tally('showcase_likes', old.showcase_id, -1);
  end if;
  return null;
end $$;
comment on function private.tally_like() is 'Likes count, also those that go with their user.';
create trigger tally_like after insert or delete on public.showcase_likes
  for each row execute function private.tally_like();

-- Who wrote it, what the plan allows ----------------------------------------------------------------------------------

create function private.stamp_author() returns trigger language plpgsql set search_path = '' as $$
begin
  if not row_security_active(tg_relid) then
    return new;
  end if;
  return jsonb_populate_record(new, jsonb_build_object(tg_argv[0], (select auth.uid())));
end $$;
comment on function private.stamp_author() is 'Writes the caller into the named column, whatever a client sent.';
create trigger stamp_author before insert on public.custom_agent_orders
  for each row execute function private.stamp_author('created_by_id');
create trigger stamp_author before insert on public.agent_templates
  for each row execute function private.stamp_author('created_by_id');
create trigger stamp_author before insert on public.tool_blueprints
  for each row execute function private.stamp_author('created_by_id');
create trigger stamp_author before insert on public.project_showcases
  for each row execute function private.stamp_author('created_by_id');

-- Counted under the organisation's row lock: at the limit, two at once cannot both fit. FOR NO KEY UPDATE lets others
-- go on inserting rows that refer to the organisation.
create function private.require_room(organization_id uuid, what text) returns void
language plpgsql security definer set search_path = '' as $$
declare
  has_tier public."SubscriptionTier";
  allowed bigint;
  used bigint;
  larger text;
begin
  select o.subscription_tier into has_tier from public.organizations o
  where o.id = require_room.organization_id for no key update;
  allowed := private.plan_limit(require_room.organization_id, what);
  if allowed is null then
    return;
  end if;
  used := case what
    when 'templates' then
      (select count(*) from public.agent_templates t where t.organization_id = require_room.organization_id)
    when 'blueprints' then
      (select count(*) from public.tool_blueprints b where b.organization_id = require_room.organization_id)
    when 'orders_per_month' then (
      select count(*) from public.custom_agent_orders o where o.organization_id = require_room.organization_id
      and o.submitted_at >= date_trunc('month', now() at time zone 'UTC') at time zone 'UTC'
    )
  end;
  if used < allowed then
    return;
  end if;
  select format('%s allows %s.', p.tier, coalesce(p.limits ->> what, 'any number')) into larger
  from public.plans p
  where p.tier > has_tier and coalesce((p.limits ->> what)::bigint > allowed, true)
  order by p.tier, p.is_active desc limit 1;
  raise exception 'Your plan allows no more %', replace(what, '_per_month', ' this month') using
    errcode = 'PT402', detail = format('%s allows %s, and %s are used.', has_tier, allowed, used),
    hint = coalesce(larger || ' An owner can choose it.', 'Ask us for a larger plan.');
end $$;
comment on function private.require_room(uuid, text) is 'Refuses what would exceed a limit of the plan.';

create function private.claim_room(organization_id uuid, what text) returns void
language plpgsql security definer set search_path = '' as $$
begin
  -- A stranger's organisation is refused by the policy, and shall not learn here how full it is.
  if organization_id = private.current_user_org('MEMBER') then
    perform private.require_room(organization_id, what);
  end if;
end $$;
comment on function private.claim_room(uuid, text) is
  'Holds the caller''s organisation to a limit of its plan; says nothing about another''s.';

comment on function private.claim_room(uuid, text) is 'require_room() for clients, in their own organisation only.';

create function private.guard_plan() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) then
    perform private.claim_room(new.organization_id, tg_argv[0]);
  end if;
  return new;
end $$;
comment on function private.guard_plan() is 'Holds clients to the named limit of their plan.';
create trigger guard_plan before insert on public.agent_templates
  for each row execute function private.guard_plan('templates');
create trigger guard_plan before insert on public.tool_blueprints
  for each row execute function private.guard_plan('blueprints');
grant execute on function private.claim_room(uuid, text) to authenticated, service_role;

create trigger touch before update on public.custom_agent_orders
  for each row execute function private.touch_updated_at();
create trigger touch before update on public.template_reviews
  for each row execute function private.touch_updated_at();
-- Being used, viewed, liked or rated does not update a row in its author's sense.
create trigger touch before update on public.agent_templates
  for each row when (old.usage_count = new.usage_count and old.rating is not distinct from new.rating)
  execute function private.touch_updated_at();
create trigger touch before update on public.tool_blueprints
  for each row when (old.usage_count = new.usage_count) execute function private.touch_updated_at();
create trigger touch before update on public.project_showcases
  for each row when (old.views = new.views and old.likes = new.likes) execute function private.touch_updated_at();

create trigger audit_new_system_template after insert on public.agent_templates
  for each row when (new.is_system)
  execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'agent_template', 'name');
create trigger audit_system_template after update of name, description, category, avatar, personality_config,
  model_config, tools_config, memory_config, tags, features, use_cases, is_public on public.agent_templates
  for each row when (new.is_system)
  execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'agent_template', 'name');
create trigger audit_old_system_template after delete on public.agent_templates
  for each row when (old.is_system)
  execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'agent_template', 'name');

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
  -- What cannot be estimated is refused by the checks of the table, in their words.
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
  'Every move an order can make, and who may make it: at least this role in its organisation; also, where true, the '
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

-- Below every function and grant: whoever updates the column, the table of moves holds.
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
      ) || '.', 'It has come to its end.');
  end if;
  new.status_changed_at := now();
  case new.status
    when 'SUBMITTED' then
      perform private.require_room(new.organization_id, 'orders_per_month');
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
comment on function private.move_order() is 'Holds every change of status to the table of moves, and stamps its time.';
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
  perform private.notify(
    new.organization_id, array[new.created_by_id],
    case
      when new.status in ('REJECTED', 'CANCELLED') then 'WARNING'
      when new.status in ('APPROVED', 'COMPLETED', 'DELIVERED') then 'SUCCESS'
      else 'INFO'
    end::public."NotificationType",
    'Order ' || lower(replace(new.status::text, '_', ' ')),
    left(format('%s is now %s', new.title, new.status) || coalesce(': ' || reason, ''), 500),
    null, 'custom_agent_orders', new.id
  );
  return null;
end $$;
comment on function private.record_move() is
  'Each change of status: a build log, a feed entry, word to the creator; milestones at the first submission.';
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
  'What clients may no longer change, and that a progress they set is theirs.';
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
      hint = 'Choose a MEMBER or above of the organisation, or a platform admin.';
  end if;
  return new;
end $$;
comment on function private.check_builder() is 'A builder is a member of the organisation or a platform admin.';
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

-- A row that goes with its order or organisation finds them gone already; nobody else removes one.
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
comment on function private.keep_build_logs() is 'Refuses to change or remove what was logged, to everyone.';
create trigger keep before update or delete on public.build_logs
  for each row execute function private.keep_build_logs();
create trigger keep_all before truncate on public.build_logs
  for each statement execute function private.keep_build_logs();

-- Reviews -------------------------------------------------------------------------------------------------------------

create function private.guard_review() returns trigger language plpgsql set search_path = '' as $$
begin
  if not row_security_active(tg_relid) then
    return new;
  end if;
  new.reviewer_id := (select auth.uid());
  -- Under the reviewer's own policies: a template one cannot see and one that does not exist look the same.
  if not exists (select from public.agent_templates t where t.id = new.template_id) then
    raise exception 'There is no such template' using errcode = 'PT404', detail = format('Found %s.', new.template_id);
  end if;
  return new;
end $$;
comment on function private.guard_review() is 'Stamps the reviewer, who must see the template.';
create trigger guard_review before insert on public.template_reviews
  for each row execute function private.guard_review();

-- The template is locked before its reviews are read: of two reviews at once the later one counts both.
create function private.follow_reviews() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  template uuid := coalesce(new.template_id, old.template_id);
begin
  perform from public.agent_templates t where t.id = template for no key update;
  update public.agent_templates t
  set rating = (select round(avg(r.rating), 2) from public.template_reviews r where r.template_id = template)
  where t.id = template;
  return null;
end $$;
comment on function private.follow_reviews() is 'The rating of a template is the mean of its reviews.';
create trigger follow_reviews after insert or delete or update of rating on public.template_reviews
  for each row execute function private.follow_reviews();

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

alter table public.agent_templates enable row level security;
create policy "everyone sees public, system and their own templates" on public.agent_templates
  for select to authenticated
  using (
    (case when is_public or is_system then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end)
      = any (array['00000000-0000-0000-0000-000000000000'::uuid, (select private.current_user_org())])
    and (select private.current_user_id()) is not null
  );
create policy "members make templates, platform admins system ones" on public.agent_templates
  for insert to authenticated
  with check (
    (organization_id = (select private.current_user_org('MEMBER')) and not is_system)
    or (is_system and (select private.is_admin()))
  );
create policy "members change their templates, platform admins system ones" on public.agent_templates
  for update to authenticated
  using (
    (organization_id = (select private.current_user_org('MEMBER')) and not is_system)
    or (is_system and (select private.is_admin()))
  )
  with check (
    (organization_id = (select private.current_user_org('MEMBER')) and not is_system)
    or (is_system and (select private.is_admin()))
  );
create policy "admins delete their templates, platform admins system ones" on public.agent_templates
  for delete to authenticated
  using (
    (organization_id = (select private.current_user_org('ADMIN')) and not is_system)
    or (is_system and (select private.is_admin()))
  );
grant select, delete,
  insert (organization_id, name, description, category, avatar, personality_config, model_config, tools_config,
    memory_config, tags, features, use_cases, is_public, is_system),
  update (name, description, category, avatar, personality_config, model_config, tools_config, memory_config, tags,
    features, use_cases, is_public)
  on public.agent_templates to authenticated;
grant all on public.agent_templates to service_role;

alter table public.template_reviews enable row level security;
create policy "members see their organisation's reviews" on public.template_reviews for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members review" on public.template_reviews for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "reviewers change their reviews" on public.template_reviews for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')) and reviewer_id = (select auth.uid()))
  with check (organization_id = (select private.current_user_org('MEMBER')) and reviewer_id = (select auth.uid()));
create policy "reviewers and admins delete reviews" on public.template_reviews for delete to authenticated
  using (
    organization_id = (select private.current_user_org('MEMBER'))
    and (reviewer_id = (select auth.uid()) or organization_id = (select private.current_user_org('ADMIN')))
  );
grant select, delete, insert (organization_id, template_id, rating, review), update (rating, review)
  on public.template_reviews to authenticated;
grant all on public.template_reviews to service_role;

alter table public.tool_blueprints enable row level security;
create policy "everyone sees public and their own blueprints" on public.tool_blueprints for select to authenticated
  using (
    (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end)
      = any (array['00000000-0000-0000-0000-000000000000'::uuid, (select private.current_user_org())])
    and (select private.current_user_id()) is not null
  );
create policy "members make blueprints" on public.tool_blueprints for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change their blueprints" on public.tool_blueprints for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete their blueprints" on public.tool_blueprints for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, name, description, category, components, connections, configuration, version, tags,
    complexity, is_public),
  update (name, description, category, components, connections, configuration, version, tags, complexity, is_public)
  on public.tool_blueprints to authenticated;
grant all on public.tool_blueprints to service_role;

alter table public.project_showcases enable row level security;
create policy "everyone sees public and their own showcases" on public.project_showcases for select to authenticated
  using (
    (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end)
      = any (array['00000000-0000-0000-0000-000000000000'::uuid, (select private.current_user_org())])
    and (select private.current_user_id()) is not null
  );
create policy "members make showcases" on public.project_showcases for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change their showcases" on public.project_showcases for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete their showcases" on public.project_showcases for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, title, description, category, image_url, demo_url, features, technologies, is_public),
  update (title, description, category, image_url, demo_url, features, technologies, is_public)
  on public.project_showcases to authenticated;
grant all on public.project_showcases to service_role;

alter table public.showcase_likes enable row level security;
create policy "people see what they like" on public.showcase_likes for select to authenticated
  using (user_id = (select private.current_user_id()));
grant select on public.showcase_likes to authenticated;
grant all on public.showcase_likes to service_role;

-- Operations ----------------------------------------------------------------------------------------------------------

create function private.visible_order(order_id uuid) returns public.custom_agent_orders
language plpgsql security definer set search_path = '' as $$
declare
  found_order public.custom_agent_orders;
begin
  select o.* into found_order from public.custom_agent_orders o
  where o.id = visible_order.order_id and (o.organization_id = private.current_user_org() or private.is_admin())
  for no key update;
  if found_order.id is null then
    raise exception 'There is no such order' using
      errcode = 'PT404', detail = format('Found %s.', visible_order.order_id);
  end if;
  return found_order;
end $$;
comment on function private.visible_order(uuid) is 'The order, locked, if the caller can see it.';

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
  'Logs what a platform admin did to an organisation''s order.';

create function private.advance_order(order_id uuid, to_status "OrderStatus", reason text)
returns public.custom_agent_orders language plpgsql security definer set search_path = '' as $$
declare
  agent_order public.custom_agent_orders := private.visible_order(order_id);
  move private.order_moves;
begin
  select m.* into move from private.order_moves m
  where m.from_status = agent_order.status and m.to_status = advance_order.to_status;
  if move.to_status is not null and not private.may_move(agent_order, move) then
    raise exception 'You may not move this order from % to %', agent_order.status, to_status using
      errcode = '42501', detail = 'The move is not open to your role.',
      hint = format('It takes %s or above in the organisation%s%s%s.', move.minimum_role,
        case when move.by_creator then ', or who created it' else '' end,
        case when move.by_builder then ', or its builder' else '' end,
        case when move.by_platform then ', or a platform admin' else '' end);
  end if;
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
      errcode = 'PT409', detail = 'Somebody moved it before.', hint = 'Read it again.';
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

create function public.cancel_order(order_id uuid, reason text) returns public.custom_agent_orders
language sql set search_path = '' as $$ select * from private.advance_order(order_id, 'CANCELLED', reason) $$;
comment on function public.cancel_order(uuid, text) is 'Ends an order that is not completed yet, saying why.';

create function public.reject_order(order_id uuid, reason text) returns public.custom_agent_orders
language sql set search_path = '' as $$ select * from private.advance_order(order_id, 'REJECTED', reason) $$;
comment on function public.reject_order(uuid, text) is
  'Refuses an order in review, saying why; it can become a draft again.';

create function private.order_moves(order_id uuid) returns table (to_status "OrderStatus", needs_reason boolean)
language plpgsql security definer set search_path = '' as $$
declare
  agent_order public.custom_agent_orders := private.visible_order(order_id);
begin
  return query select m.to_status, m.needs_reason from private.order_moves m
    where m.from_status = agent_order.status and private.may_move(agent_order, m) order by m.to_status;
end $$;
comment on function private.order_moves(uuid) is
  'Does the work of public.order_moves(): reads the table of moves.';

create function public.order_moves(order_id uuid) returns table (to_status "OrderStatus", needs_reason boolean)
language sql set search_path = '' as 'select * from private.order_moves(order_id)';
comment on function public.order_moves(uuid) is 'The moves that the caller may make with an order now.';

create function private.assign_builder(order_id uuid, builder_id uuid)
returns public.custom_agent_orders language plpgsql security definer set search_path = '' as $$
declare
  agent_order public.custom_agent_orders := private.visible_order(order_id);
begin
  if not (private.is_admin() or coalesce(agent_order.organization_id = private.current_user_org('OWNER'), false)) then
    raise exception 'Only an owner or a platform admin assigns a builder' using
      errcode = '42501', hint = 'Ask an owner of the organisation.';
  end if;
  if agent_order.status in ('COMPLETED', 'DELIVERED', 'CANCELLED') then
    raise exception 'There is nothing left to build' using
      errcode = 'PT409', detail = format('The order is %s.', agent_order.status);
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
    perform private.notify(
      agent_order.organization_id, array[builder_id], 'INFO', 'Order assigned to you',
      'You build ' || agent_order.title, null, 'custom_agent_orders', agent_order.id
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
  'Gives an order to a builder, or with null to nobody; by an owner or a platform admin.';

create function private.use_template(template_id uuid) returns public.agent_templates
language plpgsql security definer set search_path = '' as $$
declare
  used public.agent_templates;
begin
  select t.* into used from public.agent_templates t
  where t.id = template_id and private.current_user_org('MEMBER') is not null
    and (t.is_public or t.is_system or t.organization_id = private.current_user_org('MEMBER'));
  if used.id is null then
    raise exception 'There is no such template' using errcode = 'PT404', detail = format('Found %s.', template_id);
  end if;
  perform private.tally('template_uses', template_id, 1);
  return used;
end $$;
comment on function private.use_template(uuid) is
  'Does the work of public.use_template(): counts on rows the caller may only read.';

create function public.use_template(template_id uuid) returns public.agent_templates
language sql set search_path = '' as 'select * from private.use_template(template_id)';
comment on function public.use_template(uuid) is 'Returns a template to start from, and counts the use.';

create function private.clone_blueprint(blueprint_id uuid) returns public.tool_blueprints
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org('MEMBER');
  copy public.tool_blueprints;
begin
  if org is null then
    raise exception 'Only members clone blueprints' using
      errcode = '42501', hint = 'Act in an organisation in which you are MEMBER or above.';
  end if;
  perform private.require_room(org, 'blueprints');
  insert into public.tool_blueprints (
    organization_id, created_by_id, name, description, category, components, connections, configuration, version, tags,
    complexity
  )
  select org, auth.uid(), left(b.name, 93) || ' (Copy)', b.description, b.category, b.components, b.connections,
    b.configuration, b.version, b.tags, b.complexity
  from public.tool_blueprints b where b.id = blueprint_id and (b.is_public or b.organization_id = org)
  returning * into copy;
  if copy.id is null then
    raise exception 'There is no such blueprint' using errcode = 'PT404', detail = format('Found %s.', blueprint_id);
  end if;
  perform private.tally('blueprint_uses', blueprint_id, 1);
  return copy;
end $$;
comment on function private.clone_blueprint(uuid) is
  'Does the work of public.clone_blueprint(): counts on rows the caller may only read.';

create function public.clone_blueprint(blueprint_id uuid) returns public.tool_blueprints
language sql set search_path = '' as 'select * from private.clone_blueprint(blueprint_id)';
comment on function public.clone_blueprint(uuid) is
  'Makes a private copy in the caller''s organisation and counts one use of the original.';

create function public.bump_blueprint(blueprint_id uuid, part text default 'patch') returns public.tool_blueprints
language plpgsql set search_path = '' as $$
declare
  numbers integer[];
  bumped public.tool_blueprints;
begin
  if part not in ('major', 'minor', 'patch') or part is null then
    raise exception 'There is no such part of a version' using
      errcode = 'PT400', detail = format('Found %L.', left(part, 100)), hint = 'Parts are: major, minor, patch.';
  end if;
  select regexp_match(b.version, '^([0-9]+)\.([0-9]+)\.([0-9]+)')::integer[] into numbers
  from public.tool_blueprints b where b.id = blueprint_id for no key update;
  update public.tool_blueprints b
  set version = case part
    when 'major' then format('%s.0.0', numbers[1] + 1)
    when 'minor' then format('%s.%s.0', numbers[1], numbers[2] + 1)
    else format('%s.%s.%s', numbers[1], numbers[2], numbers[3] + 1)
  end
  where b.id = blueprint_id returning * into bumped;
  if bumped.id is null then
    raise exception 'There is no such blueprint of yours' using
      errcode = 'PT404', detail = format('Found %s.', blueprint_id);
  end if;
  return bumped;
end $$;
comment on function public.bump_blueprint(uuid, text) is
  'Raises the major, minor or patch number of a blueprint''s version.';

create function private.visible_showcase(showcase_id uuid) returns public.project_showcases
language plpgsql stable security definer set search_path = '' as $$
declare
  found_showcase public.project_showcases;
begin
  select s.* into found_showcase from public.project_showcases s
  where s.id = showcase_id and private.current_user_id() is not null
    and (s.is_public or s.organization_id = private.current_user_org());
  if found_showcase.id is null then
    raise exception 'There is no such showcase' using errcode = 'PT404', detail = format('Found %s.', showcase_id);
  end if;
  return found_showcase;
end $$;
comment on function private.visible_showcase(uuid) is 'The showcase, if the caller can see it.';

create function private.view_showcase(showcase_id uuid) returns public.project_showcases
language plpgsql security definer set search_path = '' as $$
declare
  seen public.project_showcases := private.visible_showcase(showcase_id);
begin
  perform private.tally('showcase_views', seen.id, 1);
  select s.* into seen from public.project_showcases s where s.id = seen.id;
  return seen;
end $$;
comment on function private.view_showcase(uuid) is
  'Does the work of public.view_showcase(): counts on rows the caller may only read.';

create function public.view_showcase(showcase_id uuid) returns public.project_showcases
language sql set search_path = '' as 'select * from private.view_showcase(showcase_id)';
comment on function public.view_showcase(uuid) is 'Returns a showcase and counts the view.';

create function private.set_like(showcase_id uuid, liked boolean) returns integer
language plpgsql security definer set search_path = '' as $$
declare
  target public.project_showcases := private.visible_showcase(showcase_id);
begin
  if liked then
    insert into public.showcase_likes (showcase_id, user_id) values (target.id, auth.uid()) on conflict do nothing;
  else
    delete from public.showcase_likes l where l.showcase_id = target.id and l.user_id = auth.uid();
  end if;
  return s.likes + (
    select coalesce(sum(t.change), 0) from private.tallies t where t.counter = 'showcase_likes' and t.subject_id = s.id
  ) from public.project_showcases s where s.id = target.id;
end $$;
comment on function private.set_like(uuid, boolean) is
  'Does the work of like_showcase() and unlike_showcase().';

create function public.like_showcase(showcase_id uuid) returns integer
language sql set search_path = '' as 'select private.set_like(showcase_id, true)';
comment on function public.like_showcase(uuid) is 'Likes a showcase, once however often called; returns its likes.';
create function public.unlike_showcase(showcase_id uuid) returns integer
language sql set search_path = '' as 'select private.set_like(showcase_id, false)';
comment on function public.unlike_showcase(uuid) is 'Takes a like back; returns the likes left.';

create function private.feature_showcase(showcase_id uuid, featured boolean) returns public.project_showcases
language plpgsql security definer set search_path = '' as $$
declare
  changed public.project_showcases;
begin
  if not private.is_admin() then
    raise exception 'Only platform admins feature showcases' using errcode = '42501';
  end if;
  update public.project_showcases s set is_featured = featured
  where s.id = showcase_id and (s.is_public or not featured) returning s.* into changed;
  if changed.id is null then
    raise exception 'There is no such public showcase' using
      errcode = 'PT404', detail = format('Found %s.', showcase_id);
  end if;
  perform private.log_admin_action(
    'SYSTEM_CONFIG_UPDATE', case when featured then 'Showcase featured' else 'Showcase no longer featured' end,
    'project_showcase', showcase_id::text
  );
  return changed;
end $$;
comment on function private.feature_showcase(uuid, boolean) is
  'Does the work of public.feature_showcase(): platform admins write no rows of tenants.';

create function public.feature_showcase(showcase_id uuid, featured boolean default true)
returns public.project_showcases language sql set search_path = '' as
  'select * from private.feature_showcase(showcase_id, featured)';
comment on function public.feature_showcase(uuid, boolean) is
  'Puts a public showcase on the featured list, or takes it off.';

grant execute on function
  public.estimate_order("ComplexityLevel", jsonb),
  public.advance_order(uuid, "OrderStatus", text), private.advance_order(uuid, "OrderStatus", text),
  public.submit_order(uuid), public.cancel_order(uuid, text), public.reject_order(uuid, text),
  public.order_moves(uuid), private.order_moves(uuid),
  public.assign_builder(uuid, uuid), private.assign_builder(uuid, uuid),
  public.use_template(uuid), private.use_template(uuid),
  public.clone_blueprint(uuid), private.clone_blueprint(uuid), public.bump_blueprint(uuid, text),
  public.view_showcase(uuid), private.view_showcase(uuid),
  public.like_showcase(uuid), public.unlike_showcase(uuid), private.set_like(uuid, boolean),
  public.feature_showcase(uuid, boolean), private.feature_showcase(uuid, boolean)
  to authenticated, service_role;
