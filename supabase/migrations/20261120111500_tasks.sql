-- Tasks: to-dos, of a project or of none, about a lead, contact, company, deal, listing or order. Recurring ones create
-- their successor when they are done; follow-up plans create several at once.

create type "TaskStatus" as enum ('TODO', 'IN_PROGRESS', 'REVIEW', 'DONE', 'CANCELLED');
comment on type "TaskStatus" is 'State of a task. A task in TODO has not begun.';
create type "Recurrence" as enum ('DAILY', 'WEEKDAYS', 'WEEKLY', 'MONTHLY', 'QUARTERLY', 'YEARLY');
comment on type "Recurrence" is 'How often a task recurs.';

-- Follow-up plans -----------------------------------------------------------------------------------------------------

create table public.follow_up_plans (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  name text not null constraint "plan name is 1 to 100 characters" check (length(name) between 1 and 100),
  description text constraint "description is at most 2000 characters" check (length(description) <= 2000),
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "plan name is unique in the organization" unique (organization_id, name)
);
comment on table public.follow_up_plans is
  'Templates of to-dos, such as "new buyer: call on day 0, e-mail on day 3"; start_follow_up_plan() creates the tasks.';
comment on column public.follow_up_plans.organization_id is 'The organization the plan belongs to.';
comment on column public.follow_up_plans.name is 'What members choose it by.';
comment on column public.follow_up_plans.description is 'When to use it.';
comment on column public.follow_up_plans.is_active is 'False: it cannot be started any more; its tasks stay.';
create index follow_up_plans_organization_idx on public.follow_up_plans (organization_id, created_at desc);
create trigger touch before update on public.follow_up_plans
  for each row execute function private.touch_updated_at();

create table public.follow_up_steps (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  plan_id uuid not null,
  day integer not null default 0 constraint "day is 0 to 365" check (day between 0 and 365),
  title text not null constraint "step title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text constraint "description is at most 2000 characters" check (length(description) <= 2000),
  activity_type "ActivityType",
  priority "Priority" not null default 'MEDIUM',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  foreign key (organization_id, plan_id) references public.follow_up_plans (organization_id, id) on delete cascade
);
comment on table public.follow_up_steps is 'The tasks that a follow-up plan creates.';
comment on column public.follow_up_steps.organization_id is 'The organization of the plan.';
comment on column public.follow_up_steps.plan_id is 'The plan it belongs to.';
comment on column public.follow_up_steps.day is 'The task is due so many days after the plan was started.';
comment on column public.follow_up_steps.title is 'Title of the task.';
comment on column public.follow_up_steps.description is 'Description of the task.';
comment on column public.follow_up_steps.activity_type is 'What is to be done: CALL, EMAIL, ….';
comment on column public.follow_up_steps.priority is 'Priority of the task.';
create index follow_up_steps_organization_idx on public.follow_up_steps (organization_id, created_at desc);
create index follow_up_steps_plan_idx on public.follow_up_steps (organization_id, plan_id, day);
create trigger touch before update on public.follow_up_steps
  for each row execute function private.touch_updated_at();

-- Tasks ---------------------------------------------------------------------------------------------------------------

create table public.tasks (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  project_id uuid,
  parent_task_id uuid,
  title text not null constraint "title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text,
  activity_type "ActivityType",
  status "TaskStatus" not null default 'TODO',
  priority "Priority" not null default 'MEDIUM',
  assigned_to uuid,
  created_by uuid references public.users (id) on delete set null,
  due_date timestamptz,
  completed_at timestamptz,
  recurrence "Recurrence",
  recurred_at timestamptz,
  follow_up_plan_id uuid,
  lead_id uuid,
  contact_id uuid,
  company_id uuid,
  deal_id uuid,
  listing_id uuid,
  order_id uuid,
  estimated_hours numeric(8, 2) constraint "estimated_hours is not negative" check (estimated_hours >= 0),
  actual_hours numeric(8, 2) constraint "actual_hours is not negative" check (actual_hours >= 0),
  tags text[] not null default '{}',
  position integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  unique (organization_id, project_id, id),
  foreign key (organization_id, project_id) references public.projects (organization_id, id) on delete cascade,
  -- Two keys: the first also binds tasks without a project to their tenant, the second a subtask to its project.
  constraint "parent_task_id is a task of the organization" foreign key (organization_id, parent_task_id)
    references public.tasks (organization_id, id) on delete cascade,
  constraint "parent_task_id is a task of the same project" foreign key (organization_id, project_id, parent_task_id)
    references public.tasks (organization_id, project_id, id) on delete cascade deferrable,
  foreign key (assigned_to, organization_id) references public.organization_members (user_id, organization_id)
    on delete set null (assigned_to),
  foreign key (organization_id, follow_up_plan_id) references public.follow_up_plans (organization_id, id)
    on delete set null (follow_up_plan_id),
  foreign key (organization_id, lead_id) references public.leads (organization_id, id) on delete set null (lead_id),
  foreign key (organization_id, contact_id) references public.contacts (organization_id, id)
    on delete set null (contact_id),
  foreign key (organization_id, company_id) references public.companies (organization_id, id)
    on delete set null (company_id),
  foreign key (organization_id, deal_id) references public.deals (organization_id, id) on delete set null (deal_id),
  foreign key (organization_id, listing_id) references public.listings (organization_id, id)
    on delete set null (listing_id),
  foreign key (organization_id, order_id) references public.custom_agent_orders (organization_id, id)
    on delete set null (order_id),
  constraint "a task is not its own parent" check (parent_task_id <> id)
);
comment on table public.tasks is 'To-dos. A task may belong to a project, to another task, to a record of the CRM, or to none.';
comment on column public.tasks.organization_id is 'The organization; by default the one the request acts in.';
comment on column public.tasks.project_id is 'The project it is a step of; null: a to-do of its own.';
comment on column public.tasks.parent_task_id is 'The task it is a part of; both belong to the same project, or to none.';
comment on column public.tasks.title is 'What is to be done.';
comment on column public.tasks.description is 'Details.';
comment on column public.tasks.activity_type is 'How: CALL, EMAIL, MEETING, …; null: not specified.';
comment on column public.tasks.status is 'TODO, IN_PROGRESS and REVIEW are open; DONE and CANCELLED are not.';
comment on column public.tasks.priority is 'How urgent it is.';
comment on column public.tasks.assigned_to is 'Who does it; null: not assigned, or that member has left.';
comment on column public.tasks.created_by is 'Null once the account is gone.';
comment on column public.tasks.due_date is 'Until when it is to be done; null: at any time.';
comment on column public.tasks.completed_at is 'When it became DONE; set by the database.';
comment on column public.tasks.recurrence is 'Set: when the task is done, its successor is created.';
comment on column public.tasks.recurred_at is 'When the successor was created; set by the database, once.';
comment on column public.tasks.follow_up_plan_id is 'The plan that created it.';
comment on column public.tasks.lead_id is 'The lead it is about.';
comment on column public.tasks.contact_id is 'The contact it is about.';
comment on column public.tasks.company_id is 'The company it is about.';
comment on column public.tasks.deal_id is 'The deal it is about.';
comment on column public.tasks.listing_id is 'The listing it is about.';
comment on column public.tasks.order_id is 'The agent order it is about.';
comment on column public.tasks.estimated_hours is 'How long it should take.';
comment on column public.tasks.actual_hours is 'How long it took.';
comment on column public.tasks.tags is 'Words to group tasks by.';
comment on column public.tasks.position is 'Place among its siblings, for drag and drop.';
create index tasks_organization_idx on public.tasks (organization_id, created_at desc);
create index tasks_project_idx on public.tasks (organization_id, project_id, position);
create index tasks_parent_idx on public.tasks (organization_id, parent_task_id);
create index tasks_parent_in_project_idx on public.tasks (organization_id, project_id, parent_task_id);
create index tasks_assigned_to_idx on public.tasks (assigned_to, organization_id, created_at desc);
create index tasks_created_by_idx on public.tasks (created_by);
create index tasks_due_date_idx
  on public.tasks (organization_id, due_date) where status in ('TODO', 'IN_PROGRESS', 'REVIEW');
-- What the reports of due tasks read, of all organizations.
create index tasks_due_idx on public.tasks (due_date) where status in ('TODO', 'IN_PROGRESS', 'REVIEW');
create index tasks_plan_idx on public.tasks (organization_id, follow_up_plan_id) where follow_up_plan_id is not null;
create index tasks_lead_idx on public.tasks (organization_id, lead_id) where lead_id is not null;
create index tasks_contact_idx on public.tasks (organization_id, contact_id) where contact_id is not null;
create index tasks_company_idx on public.tasks (organization_id, company_id) where company_id is not null;
create index tasks_deal_idx on public.tasks (organization_id, deal_id) where deal_id is not null;
create index tasks_listing_idx on public.tasks (organization_id, listing_id) where listing_id is not null;
create index tasks_order_idx on public.tasks (organization_id, order_id) where order_id is not null;
-- A client's `status = …` is not leakproof, so it can only choose an index by proving its predicate.
create index tasks_todo_idx on public.tasks (organization_id, created_at desc) where status = 'TODO';
create index tasks_in_progress_idx on public.tasks (organization_id, created_at desc) where status = 'IN_PROGRESS';
create index tasks_review_idx on public.tasks (organization_id, created_at desc) where status = 'REVIEW';

create trigger touch before update on public.tasks for each row execute function private.touch_updated_at();
create trigger stamp_author before insert on public.tasks
  for each row execute function private.stamp_author('created_by');
select private.record_changes('public.tasks');
create trigger trash before delete on public.tasks for each row execute function private.move_to_trash();

-- A change of parents waits for other changes of the organization's trees: two at once could close a circle between them.
-- The statements after the lock read what the other one committed.
create function private.guard_task_parent() returns trigger language plpgsql set search_path = '' as $$
declare
  ancestor uuid := new.parent_task_id;
  project uuid;
  levels integer := 1;
begin
  if tg_op = 'UPDATE' then
    perform pg_advisory_xact_lock(hashtextextended('task parents:' || new.organization_id, 0));
  end if;
  select t.project_id into project from public.tasks t
  where t.organization_id = new.organization_id and t.id = new.parent_task_id;
  if found and project is distinct from new.project_id then
    raise exception 'A task and its parent belong to the same project' using
      errcode = 'PT422', detail = format('The parent belongs to %s.', coalesce('project ' || project, 'no project')),
      hint = 'Send the same project_id, or leave it out for both.';
  end if;
  while ancestor is not null loop
    levels := levels + 1;
    if ancestor = new.id then
      raise exception 'A task cannot be below itself' using
        errcode = 'PT422', detail = format('Task %s is already below %s.', new.parent_task_id, new.id),
        hint = 'Choose a parent outside of its own subtasks.';
    elsif levels > 20 then
      raise exception 'Tasks have at most 20 levels' using
        errcode = 'PT422', detail = format('Task %s has 20 levels above it.', new.parent_task_id),
        hint = 'Choose a parent further up.';
    end if;
    select t.parent_task_id into ancestor from public.tasks t
    where t.organization_id = new.organization_id and t.id = ancestor;
  end loop;
  return new;
end $$;
comment on function private.guard_task_parent() is
  'Tasks are trees of at most 20 levels, each within one project or within none.';
create trigger guard_parent before insert or update of parent_task_id on public.tasks
  for each row when (new.parent_task_id is not null) execute function private.guard_task_parent();

-- Recurring tasks -----------------------------------------------------------------------------------------------------

create function private.next_occurrence(recurrence "Recurrence", due timestamptz, zone text) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
  step constant interval := case recurrence
    when 'DAILY' then '1 day' when 'WEEKDAYS' then '1 day' when 'WEEKLY' then '7 days' when 'MONTHLY' then '1 month'
    when 'QUARTERLY' then '3 months' when 'YEARLY' then '1 year' end;
  first constant timestamp := coalesce(due, now()) at time zone zone;
  -- Skips occurrences that have passed. At least so many steps lie between: the interval counts a month as 30 days.
  steps integer := greatest(
    1, floor(0.96 * extract(epoch from now() - coalesce(due, now())) / extract(epoch from step))::integer
  );
  occurrence timestamp;
begin
  loop
    occurrence := first + steps * step;
    exit when occurrence at time zone zone > now()
      and (recurrence <> 'WEEKDAYS' or extract(isodow from occurrence) < 6);
    steps := steps + 1;
  end loop;
  return occurrence at time zone zone;
end $$;
comment on function private.next_occurrence("Recurrence", timestamptz, text) is
  'When a recurring task is due again, at the same time of day in a time zone: the first time after now; the 31st of a month '
  'becomes the last day of shorter ones.';

create function private.complete_task() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.status = 'DONE' and (tg_op = 'INSERT' or old.status <> 'DONE') then
    new.completed_at := coalesce(new.completed_at, now());
  elsif new.status <> 'DONE' then
    new.completed_at := null;
  end if;
  return new;
end $$;
comment on function private.complete_task() is 'Keeps completed_at.';
create trigger complete_task before insert or update of status on public.tasks
  for each row execute function private.complete_task();

-- SECURITY DEFINER: recurred_at is not for clients to write.
create function private.recur_task() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.tasks t set recurred_at = now() where t.id = new.id and t.recurred_at is null;
  if found then
    insert into public.tasks (
      organization_id, project_id, parent_task_id, title, description, activity_type, priority, assigned_to, created_by,
      due_date, recurrence, lead_id, contact_id, company_id, deal_id, listing_id, order_id, estimated_hours, tags, position
    ) values (
      new.organization_id, new.project_id, new.parent_task_id, new.title, new.description, new.activity_type,
      new.priority, new.assigned_to, new.created_by, private.next_occurrence(new.recurrence, new.due_date, coalesce(
        (select u.time_zone from public.users u where u.id = coalesce(new.assigned_to, new.created_by)), 'UTC')),
      new.recurrence, new.lead_id, new.contact_id, new.company_id, new.deal_id, new.listing_id, new.order_id,
      new.estimated_hours, new.tags, new.position
    );
  end if;
  return null;
end $$;
comment on function private.recur_task() is 'A recurring task that is done creates its successor, once.';
create trigger recur_task after update of status on public.tasks
  for each row when (new.status = 'DONE' and new.recurrence is not null and new.recurred_at is null)
  execute function private.recur_task();

grant execute on function private.guard_task_parent(), private.complete_task() to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.tasks enable row level security;
create policy "members see tasks" on public.tasks for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add tasks" on public.tasks for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change tasks" on public.tasks for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete tasks" on public.tasks for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, project_id, parent_task_id, title, description, activity_type, status, priority, assigned_to,
    due_date, recurrence, lead_id, contact_id, company_id, deal_id, listing_id, order_id, estimated_hours, actual_hours,
    tags, position),
  update (project_id, parent_task_id, title, description, activity_type, status, priority, assigned_to, due_date,
    recurrence, lead_id, contact_id, company_id, deal_id, listing_id, order_id, estimated_hours, actual_hours, tags,
    position)
  on public.tasks to authenticated;
grant all on public.tasks to service_role;

alter table public.follow_up_plans enable row level security;
create policy "members see follow-up plans" on public.follow_up_plans for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add follow-up plans" on public.follow_up_plans for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change follow-up plans" on public.follow_up_plans for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete follow-up plans" on public.follow_up_plans for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete, insert (organization_id, name, description, is_active),
  update (name, description, is_active) on public.follow_up_plans to authenticated;
grant all on public.follow_up_plans to service_role;

alter table public.follow_up_steps enable row level security;
create policy "members see steps of plans" on public.follow_up_steps for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add steps of plans" on public.follow_up_steps for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change steps of plans" on public.follow_up_steps for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete steps of plans" on public.follow_up_steps for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete, insert (organization_id, plan_id, day, title, description, activity_type, priority),
  update (day, title, description, activity_type, priority) on public.follow_up_steps to authenticated;
grant all on public.follow_up_steps to service_role;

-- Operations ----------------------------------------------------------------------------------------------------------

create function private.day_in(time_zone text) returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
  return date_trunc('day', now(), time_zone);
exception when invalid_parameter_value then
  raise exception 'There is no such time zone' using
    errcode = 'PT400', detail = format('Found %L.', left(time_zone, 100)), hint = 'Send a name such as Europe/Berlin.';
end $$;
comment on function private.day_in(text) is 'When the current day began in a time zone.';

create function public.todos(due text default 'any', assignee uuid default auth.uid(), time_zone text default 'UTC')
returns setof public.tasks language plpgsql stable set search_path = '' as $$
declare
  today timestamptz := private.day_in(time_zone);
begin
  if due is null or due not in ('overdue', 'today', 'week', 'any') then
    raise exception 'due is overdue, today, week or any' using
      errcode = 'PT400', detail = format('Found %s.', coalesce(quote_literal(left(due, 100)), 'null'));
  end if;
  return query
  select t.* from public.tasks t
  where t.status in ('TODO', 'IN_PROGRESS', 'REVIEW') and (assignee is null or t.assigned_to = assignee)
    and case todos.due
      when 'overdue' then t.due_date < now()
      when 'today' then t.due_date >= today and t.due_date < today + interval '1 day'
      when 'week' then t.due_date >= today and t.due_date < today + interval '7 days'
      else true
    end
  order by t.due_date, t.priority desc, t.id;
end $$;
comment on function public.todos(text, uuid, text) is
  'Open tasks of a member, the caller unless named; null: of everybody. due is overdue, today or week (in the time zone), or '
  'any. Filter and page it like a table.';

create function public.start_follow_up_plan(
  plan_id uuid, lead_id uuid default null, contact_id uuid default null, company_id uuid default null,
  deal_id uuid default null, listing_id uuid default null, assigned_to uuid default auth.uid(),
  starts_at timestamptz default now()
) returns setof public.tasks language plpgsql set search_path = '' as $$
#variable_conflict use_column
declare
  org uuid := private.require_org('MEMBER');
  plan public.follow_up_plans;
begin
  select p.* into plan from public.follow_up_plans p where p.organization_id = org and p.id = start_follow_up_plan.plan_id;
  if not found then
    perform private.refuse('follow-up plan', start_follow_up_plan.plan_id);
  elsif not plan.is_active then
    raise exception 'This follow-up plan is not active' using errcode = 'PT409', hint = 'Set is_active first.';
  elsif (select count(*) from public.follow_up_steps s where s.organization_id = org and s.plan_id = plan.id) > 100 then
    raise exception 'A follow-up plan has at most 100 steps' using
      errcode = 'PT422', detail = 'It creates a task for each of them.', hint = 'Delete some of its steps.';
  elsif num_nonnulls(start_follow_up_plan.lead_id, start_follow_up_plan.contact_id, start_follow_up_plan.company_id,
    start_follow_up_plan.deal_id, start_follow_up_plan.listing_id) <> 1 then
    raise exception 'A follow-up plan is started for one record' using
      errcode = 'PT422', hint = 'Send one of lead_id, contact_id, company_id, deal_id and listing_id.';
  end if;
  -- Started twice at once, the second finds the tasks of the first.
  perform pg_advisory_xact_lock(private.lock_key(concat('follow up:', plan.id, coalesce(
    start_follow_up_plan.lead_id, start_follow_up_plan.contact_id, start_follow_up_plan.company_id,
    start_follow_up_plan.deal_id, start_follow_up_plan.listing_id))));
  if exists (
    select from public.tasks t
    where t.organization_id = org and t.follow_up_plan_id = plan.id and t.status in ('TODO', 'IN_PROGRESS', 'REVIEW')
      and (t.lead_id = start_follow_up_plan.lead_id or t.contact_id = start_follow_up_plan.contact_id
        or t.company_id = start_follow_up_plan.company_id or t.deal_id = start_follow_up_plan.deal_id
        or t.listing_id = start_follow_up_plan.listing_id)
  ) then
    raise exception 'This plan is under way for this record' using
      errcode = 'PT409', detail = format('Tasks of %s are open.', plan.name), hint = 'Finish or cancel them first.';
  end if;
  return query select * from private.add_planned_tasks(
    plan, start_follow_up_plan.lead_id, start_follow_up_plan.contact_id, start_follow_up_plan.company_id,
    start_follow_up_plan.deal_id, start_follow_up_plan.listing_id, start_follow_up_plan.assigned_to, starts_at
  );
end $$;
comment on function public.start_follow_up_plan(uuid, uuid, uuid, uuid, uuid, uuid, uuid, timestamptz) is
  'Creates the tasks of a follow-up plan for one lead, contact, company, deal or listing, due from starts_at on; not while '
  'tasks of the same plan are open for it.';

-- SECURITY DEFINER: which plan created a task is not for clients to write.
create function private.add_planned_tasks(
  plan public.follow_up_plans, lead_id uuid, contact_id uuid, company_id uuid, deal_id uuid, listing_id uuid,
  assigned_to uuid, starts_at timestamptz
) returns setof public.tasks language plpgsql security definer set search_path = '' as $$
begin
  if plan.organization_id is distinct from private.current_user_org('MEMBER') then
    perform private.refuse('follow-up plan', plan.id);
  end if;
  return query
  insert into public.tasks as t (
    organization_id, title, description, activity_type, priority, assigned_to, created_by, due_date, follow_up_plan_id,
    lead_id, contact_id, company_id, deal_id, listing_id
  )
  select s.organization_id, s.title, s.description, s.activity_type, s.priority, add_planned_tasks.assigned_to,
    auth.uid(), starts_at + make_interval(days => s.day), s.plan_id, add_planned_tasks.lead_id,
    add_planned_tasks.contact_id, add_planned_tasks.company_id, add_planned_tasks.deal_id, add_planned_tasks.listing_id
  from public.follow_up_steps s
  where s.organization_id = plan.organization_id and s.plan_id = plan.id order by s.day, s.id
  returning t.*;
end $$;
comment on function private.add_planned_tasks(
  public.follow_up_plans, uuid, uuid, uuid, uuid, uuid, uuid, timestamptz
) is 'Does the work of public.start_follow_up_plan().';

grant execute on function private.day_in(text), public.todos(text, uuid, text),
  public.start_follow_up_plan(uuid, uuid, uuid, uuid, uuid, uuid, uuid, timestamptz),
  private.add_planned_tasks(public.follow_up_plans, uuid, uuid, uuid, uuid, uuid, uuid, timestamptz)
  to authenticated, service_role;
