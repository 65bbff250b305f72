-- Workspace: customers, projects and appointments; content and attachments; notifications; AI tools and conversations.

-- Types ---------------------------------------------------------------------------------------------------------------

create type "CustomerStatus" as enum ('LEAD', 'PROSPECT', 'ACTIVE', 'CHURNED');
comment on type "CustomerStatus" is 'How far somebody is a customer.';
create type "CustomerSource" as enum ('WEBSITE', 'REFERRAL', 'SOCIAL', 'EMAIL', 'OTHER');
comment on type "CustomerSource" is 'Where a customer came from.';
create type "ProjectStatus" as enum ('PLANNING', 'ACTIVE', 'ON_HOLD', 'COMPLETED', 'CANCELLED');
comment on type "ProjectStatus" is 'State of a project.';
create type "Priority" as enum ('LOW', 'MEDIUM', 'HIGH', 'CRITICAL');
comment on type "Priority" is 'Priority of a project or task.';
create type "AppointmentStatus" as enum ('SCHEDULED', 'CONFIRMED', 'COMPLETED', 'CANCELLED', 'NO_SHOW');
comment on type "AppointmentStatus" is 'State of an appointment.';
create type "AppointmentType" as enum ('MEETING', 'CALL', 'SHOWING', 'OPEN_HOUSE', 'FOLLOW_UP', 'OTHER');
comment on type "AppointmentType" is 'Kind of an appointment.';
create type "ContentType" as enum ('PAGE', 'BLOG_POST', 'DOCUMENTATION', 'TEMPLATE');
comment on type "ContentType" is 'Kind of content.';
create type "ContentStatus" as enum ('DRAFT', 'PUBLISHED', 'ARCHIVED');
comment on type "ContentStatus" is 'PUBLISHED content is readable by anyone.';

-- Work ----------------------------------------------------------------------------------------------------------------
-- Assignees and managers refer to the membership: only a member can be named, and leaving clears the column.

create table public.customers (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  name text not null constraint "name is 1 to 255 characters" check (length(name) between 1 and 255),
  email text constraint "email has an @ between two parts, in at most 255 characters"
    check (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' and length(email) <= 255),
  phone text constraint "phone is at most 50 characters" check (length(phone) <= 50),
  company text constraint "company is at most 255 characters" check (length(company) <= 255),
  status "CustomerStatus" not null default 'LEAD',
  source "CustomerSource" not null default 'WEBSITE',
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  assigned_to uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  foreign key (assigned_to, organization_id) references public.organization_members (user_id, organization_id)
    on delete set null (assigned_to)
);
comment on table public.customers is 'The customers of an organization.';
create index customers_organization_idx on public.customers (organization_id, created_at desc);
create index customers_assigned_to_idx on public.customers (assigned_to, organization_id, created_at desc);
create index customers_email_idx on public.customers (organization_id, lower(email));

create table public.projects (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  customer_id uuid,
  name text not null constraint "name is 1 to 255 characters" check (length(name) between 1 and 255),
  description text,
  status "ProjectStatus" not null default 'PLANNING',
  priority "Priority" not null default 'MEDIUM',
  start_date timestamptz,
  due_date timestamptz,
  completion_date timestamptz,
  budget numeric(12, 2) constraint "budget is not negative" check (budget >= 0),
  progress_percentage integer not null default 0
    constraint "progress_percentage is 0 to 100" check (progress_percentage between 0 and 100),
  project_manager_id uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  foreign key (organization_id, customer_id) references public.customers (organization_id, id)
    on delete set null (customer_id),
  foreign key (project_manager_id, organization_id) references public.organization_members (user_id, organization_id)
    on delete set null (project_manager_id),
  constraint "due_date is not before start_date" check (due_date >= start_date),
  constraint "completion_date is not before start_date" check (completion_date >= start_date)
);
comment on table public.projects is 'What an organization does for its customers or itself.';
comment on column public.projects.project_manager_id is 'By default its creator; null after that member has left.';
comment on column public.projects.completion_date is 'Written when the status becomes COMPLETED, unless given.';
create index projects_organization_idx on public.projects (organization_id, created_at desc);
create index projects_customer_idx on public.projects (organization_id, customer_id);
create index projects_manager_idx on public.projects (project_manager_id, organization_id, created_at desc);
create index projects_active_idx on public.projects (organization_id, created_at desc) where status = 'ACTIVE';

create table public.appointments (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  title text not null constraint "title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text,
  type "AppointmentType" not null default 'MEETING',
  status "AppointmentStatus" not null default 'SCHEDULED',
  start_time timestamptz not null,
  end_time timestamptz not null,
  location text constraint "location is at most 500 characters" check (length(location) <= 500),
  meeting_url text constraint "meeting_url is an http(s) address of at most 500 characters"
    check (meeting_url ~* '^https?://[^[:space:]]+$' and length(meeting_url) <= 500),
  assigned_to uuid,
  customer_id uuid,
  lead_id uuid,
  contact_id uuid,
  deal_id uuid,
  listing_id uuid,
  reminder_minutes integer[] constraint "reminder_minutes are up to 5 numbers from 0 to 40320"
    check (private.are_reminders(reminder_minutes)),
  reminders_sent jsonb,
  next_reminder_at timestamptz,
  sequence integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  foreign key (assigned_to, organization_id) references public.organization_members (user_id, organization_id)
    on delete set null (assigned_to),
  foreign key (organization_id, customer_id) references public.customers (organization_id, id)
    on delete set null (customer_id),
  foreign key (organization_id, lead_id) references public.leads (organization_id, id) on delete set null (lead_id),
  foreign key (organization_id, contact_id) references public.contacts (organization_id, id)
    on delete set null (contact_id),
  foreign key (organization_id, deal_id) references public.deals (organization_id, id) on delete set null (deal_id),
  foreign key (organization_id, listing_id) references public.listings (organization_id, id)
    on delete set null (listing_id),
  constraint "end_time is after start_time" check (end_time > start_time)
);
comment on table public.appointments is 'The calendar of an organization.';
comment on column public.appointments.assigned_to is 'By default its creator; null after that member has left.';
comment on column public.appointments.reminders_sent is 'Which reminders (minutes before it begins) went out when.';
comment on column public.appointments.reminder_minutes is
  'How many minutes before it begins its assignee is reminded; null: as the assignee chose for all appointments.';
comment on column public.appointments.sequence is 'How often it changed in what calendars show (RFC 5545).';
comment on column public.appointments.next_reminder_at is 'When the next reminder is due; kept by the database.';
create index appointments_organization_idx on public.appointments (organization_id, created_at desc);
create index appointments_start_time_idx on public.appointments (organization_id, start_time);
create index appointments_end_time_idx on public.appointments (organization_id, end_time);
create index appointments_assigned_to_idx on public.appointments (assigned_to, organization_id, start_time);
create index appointments_reminder_idx on public.appointments (next_reminder_at) where next_reminder_at is not null;
create index appointments_customer_idx on public.appointments (organization_id, customer_id);
create index appointments_lead_idx on public.appointments (organization_id, lead_id);
create index appointments_contact_idx on public.appointments (organization_id, contact_id);
create index appointments_deal_idx on public.appointments (organization_id, deal_id);
create index appointments_listing_idx on public.appointments (organization_id, listing_id);

-- Content and files ---------------------------------------------------------------------------------------------------

create table public.content (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  title text not null constraint "title is 1 to 255 characters" check (length(title) between 1 and 255),
  slug text not null constraint "slug is lower-case words joined by hyphens"
    check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 255),
  content_type "ContentType" not null default 'PAGE',
  content text not null constraint "content is at most 262144 bytes" check (octet_length(content) <= 262144),
  excerpt text constraint "excerpt is at most 500 characters" check (length(excerpt) <= 500),
  status "ContentStatus" not null default 'DRAFT',
  author_id uuid references public.users (id) on delete set null,
  published_at timestamptz,
  seo_meta jsonb constraint "seo_meta is an object" check (jsonb_typeof(seo_meta) = 'object'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "slug is unique in the organization" unique (organization_id, slug),
  constraint "published content has its published_at" check (status <> 'PUBLISHED' or published_at is not null)
);
comment on table public.content is 'Pages, posts and documents; anyone reads what is PUBLISHED.';
comment on column public.content.author_id is 'Null once the account is gone.';
comment on column public.content.published_at is 'When it was last published.';
-- The list of everybody's published and one's own content, newest first: see agent_templates for the form.
create index content_audience_idx on public.content
  (created_at desc, (
    case when status = 'PUBLISHED' then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end
  ));
create index content_organization_idx on public.content (organization_id, created_at desc);
create index content_author_idx on public.content (author_id);
create index content_published_idx on public.content (created_at desc) where status = 'PUBLISHED';
create index content_published_slug_idx on public.content (slug) where status = 'PUBLISHED';

create function private.attachable_tables() returns text[]
language sql immutable set search_path = '' as $$
  select '{activities,agent_templates,appointments,companies,contacts,content,custom_agent_orders,customers,deals,leads,listings,notes,'
    'project_showcases,projects,tasks,tool_blueprints}'::text[]
$$;
comment on function private.attachable_tables() is 'The tables whose records can have attachments.';
grant execute on function private.attachable_tables() to authenticated, service_role;

create table public.attachments (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  entity_type text not null
    constraint "entity_type is a table such as contacts, deals or leads" check (entity_type = any (private.attachable_tables())),
  entity_id uuid not null,
  file_name text not null constraint "file_name is 1 to 255 characters without slashes"
    check (length(file_name) between 1 and 255 and file_name !~ '[/\\]'),
  file_size bigint not null
    constraint "file_size is at most 50 MB" check (file_size between 0 and 50 * 1024 * 1024),
  mime_type text not null
    constraint "mime_type is a type and a subtype" check (mime_type ~ '^[^/[:space:]]+/[^/[:space:]]+$'),
  file_path text not null unique,
  uploaded_by_id uuid references public.users (id) on delete set null,
  stored_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- The id in the path is that of the record at the upload: a merge changes entity_id, and files stay where they are.
  constraint "file_path is organization/entity_type/entity_id/file" check (
    starts_with(file_path, organization_id || '/' || entity_type || '/') and file_path ~ '^[^/]+/[^/]+/[^/]+/[^/]+$'
  )
);
comment on table public.attachments is
  'Files in the bucket `attachments`, each attached to a record of the organization. An upload creates its row; a row'
  ' that is created before reserves storage for its upload.';
comment on column public.attachments.entity_type is 'The table of the record, such as deals (plural).';
comment on column public.attachments.uploaded_by_id is 'Null once the account is gone.';
comment on column public.attachments.stored_at is 'When the file was uploaded; null before, for a day at most.';
-- With the sizes, so that what an organization stores is summed up from the index alone.
create index attachments_organization_idx
  on public.attachments (organization_id, created_at desc) include (file_size);
create index attachments_awaited_idx on public.attachments (created_at) where stored_at is null;
create index attachments_entity_idx on public.attachments (organization_id, entity_type, entity_id, created_at desc);
create index attachments_uploaded_by_idx on public.attachments (uploaded_by_id);

-- What the server writes ----------------------------------------------------------------------------------------------

create table public.notifications (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid not null,
  kind text not null default 'organization.message.sent',
  type "NotificationType" not null default 'INFO',
  title text not null constraint "title is 1 to 100 characters" check (length(title) between 1 and 100),
  message text not null constraint "message is 1 to 500 characters" check (length(message) between 1 and 500),
  action_url text constraint "action_url is at most 500 characters" check (length(action_url) <= 500),
  entity_type text constraint "entity_type is at most 50 characters" check (length(entity_type) <= 50),
  entity_id uuid,
  read boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  foreign key (user_id, organization_id) references public.organization_members (user_id, organization_id)
    on delete cascade
);
comment on table public.notifications is 'Messages to one member, created only by the server (private.publish_events()).';
comment on column public.notifications.kind is 'The kind of event it is about, such as crm.lead.assigned.';
create index notifications_organization_idx on public.notifications (organization_id, created_at desc);
create index notifications_user_idx on public.notifications (user_id, organization_id, created_at desc);
create index notifications_unread_idx
  on public.notifications (user_id, organization_id, created_at desc) where not read;

-- AI ------------------------------------------------------------------------------------------------------------------

create table public.ai_tools (
  id uuid primary key default gen_random_uuid(),
  name text not null unique constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  description text,
  tool_type text not null constraint "tool_type is 1 to 50 characters" check (length(tool_type) between 1 and 50),
  required_tier "SubscriptionTier" not null default 'FREE',
  configuration jsonb constraint "configuration is an object" check (jsonb_typeof(configuration) = 'object'),
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.ai_tools is
  'The AI tools of the platform: everybody sees the active ones, platform admins write.';
comment on column public.ai_tools.configuration is 'Readable by everybody who is signed in: never a secret.';
comment on column public.ai_tools.required_tier is 'The smallest plan that may use it.';

create table public.ai_conversations (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  user_id uuid not null references public.users (id) on delete cascade,
  title text constraint "title is at most 255 characters" check (length(title) <= 255),
  context_type text not null default 'general'
    constraint "context_type is 1 to 50 characters" check (length(context_type) between 1 and 50),
  context_id uuid,
  ai_model text not null constraint "ai_model is 1 to 100 characters" check (length(ai_model) between 1 and 100),
  conversation_data jsonb not null default '[]'
    constraint "conversation_data is a list or an object"
    check (jsonb_typeof(conversation_data) in ('array', 'object')),
  usage_tokens integer not null default 0 constraint "usage_tokens is not negative" check (usage_tokens >= 0),
  is_archived boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.ai_conversations is
  'Conversations of a member with a model; other members cannot read them.';
comment on column public.ai_conversations.usage_tokens is 'Counted by the server.';
create index ai_conversations_organization_idx on public.ai_conversations (organization_id, created_at desc);
create index ai_conversations_user_idx on public.ai_conversations (user_id, organization_id, created_at desc);

-- Triggers ------------------------------------------------------------------------------------------------------------

create trigger touch before update on public.customers for each row execute function private.touch_updated_at();
create trigger touch before update on public.projects for each row execute function private.touch_updated_at();
create trigger touch before update on public.appointments for each row execute function private.touch_updated_at();
create trigger touch before update on public.content for each row execute function private.touch_updated_at();
create trigger touch before update on public.attachments for each row execute function private.touch_updated_at();
create trigger touch before update on public.notifications for each row execute function private.touch_updated_at();
create trigger touch before update on public.ai_tools for each row execute function private.touch_updated_at();
create trigger touch before update on public.ai_conversations
  for each row execute function private.touch_updated_at();

create trigger stamp_author before insert on public.content
  for each row execute function private.stamp_author('author_id');
create trigger stamp_author before insert on public.attachments
  for each row execute function private.stamp_author('uploaded_by_id');
create trigger stamp_author before insert on public.ai_conversations
  for each row execute function private.stamp_author('user_id');

create function private.guard_storage() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) then
    perform private.claim_room(new.organization_id, 'storage_bytes', new.file_size);
  end if;
  return new;
end $$;
comment on function private.guard_storage() is 'Enforces the storage limit of the plan before a file is uploaded.';
-- A missing column is refused as missing.
create trigger guard_storage before insert on public.attachments
  for each row when (new.file_size is not null and new.organization_id is not null)
  execute function private.guard_storage();

create trigger audit_change after insert or update or delete on public.ai_tools
  for each row execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'ai_tool', 'name');

create function private.complete_project() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'INSERT' and new.project_manager_id is null and row_security_active(tg_relid) then
    new.project_manager_id := (select auth.uid());
  end if;
  if new.status = 'COMPLETED' then
    new.completion_date := coalesce(new.completion_date, greatest(now(), new.start_date));
  elsif tg_op = 'UPDATE' and old.status = 'COMPLETED' then
    new.completion_date := null;
  end if;
  return new;
end $$;
comment on function private.complete_project() is
  'A project has a manager from the start, and its completion date while COMPLETED.';
create trigger complete_project before insert or update of status on public.projects
  for each row execute function private.complete_project();

create function private.default_assignee() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.assigned_to is null and row_security_active(tg_relid) then
    new.assigned_to := (select auth.uid());
  end if;
  return new;
end $$;
comment on function private.default_assignee() is 'Assigns an appointment without an assignee to its creator.';
create trigger default_assignee before insert on public.appointments
  for each row execute function private.default_assignee();

create function private.record_appointment() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  happened constant boolean := new.status = 'COMPLETED' and (tg_op = 'INSERT' or old.status <> 'COMPLETED');
  change constant text := case
    when tg_op = 'INSERT' then case when happened then 'completed' else 'created' end
    when new.status <> old.status then lower(new.status::text) else 'moved' end;
begin
  perform private.record_change(
    new.organization_id, 'appointment', new.id, change,
    concat('Appointment', ' ' || nullif(replace(change, '_', ' '), 'created'), ': ', new.title),
    format('%s to %s (UTC)', to_char(new.start_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
      to_char(new.end_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI')),
    new.lead_id, new.contact_id, new.deal_id, new.listing_id, new.assigned_to,
    type => case when happened and new.type <> 'OTHER' then new.type::text else 'NOTE' end::public."ActivityType",
    completed_at => case when happened then least(new.end_time, now()) else now() end
  );
  return null;
end $$;
comment on function private.record_appointment() is
  'New, moved and otherwise changed appointments are notes and entries of the feed; one that took place is an activity of its type.';
create trigger record_appointment after insert on public.appointments
  for each row when (coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.record_appointment();
create trigger record_appointment_change after update of status, start_time on public.appointments
  for each row when (old.status <> new.status or old.start_time <> new.start_time)
  execute function private.record_appointment();

create function private.publish_content() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.status = 'PUBLISHED' and (tg_op = 'INSERT' or old.status <> 'PUBLISHED') then
    new.published_at := now();
  end if;
  return new;
end $$;
comment on function private.publish_content() is 'Stamps published_at.';
create trigger publish before insert or update of status on public.content
  for each row when (coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.publish_content();

select private.record_changes('public.customers');
create trigger trash before delete on public.customers for each row execute function private.move_to_trash();
select private.record_changes('public.projects');
create trigger trash before delete on public.projects for each row execute function private.move_to_trash();
select private.record_changes('public.appointments');
create trigger trash before delete on public.appointments for each row execute function private.move_to_trash();
select private.record_changes('public.content');
create trigger trash before delete on public.content for each row execute function private.move_to_trash();
select private.record_changes('public.attachments');

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.customers enable row level security;
create policy "members see customers" on public.customers for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add customers" on public.customers for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change customers" on public.customers for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete customers" on public.customers for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, name, email, phone, company, status, source, tags, custom_fields, assigned_to),
  update (name, email, phone, company, status, source, tags, custom_fields, assigned_to)
  on public.customers to authenticated;
grant all on public.customers to service_role;

alter table public.projects enable row level security;
create policy "members see projects" on public.projects for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add projects" on public.projects for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change projects" on public.projects for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete projects" on public.projects for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, customer_id, name, description, status, priority, start_date, due_date, completion_date,
    budget, progress_percentage, project_manager_id),
  update (customer_id, name, description, status, priority, start_date, due_date, completion_date, budget,
    progress_percentage, project_manager_id)
  on public.projects to authenticated;
grant all on public.projects to service_role;

alter table public.appointments enable row level security;
create policy "members see appointments" on public.appointments for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members make appointments" on public.appointments for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change appointments" on public.appointments for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete appointments" on public.appointments for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, title, description, type, status, start_time, end_time, location, meeting_url, assigned_to,
    customer_id, lead_id, contact_id, deal_id, listing_id, reminder_minutes),
  update (title, description, type, status, start_time, end_time, location, meeting_url, assigned_to, customer_id,
    lead_id, contact_id, deal_id, listing_id, reminder_minutes)
  on public.appointments to authenticated;
grant all on public.appointments to service_role;

alter table public.content enable row level security;
create policy "anyone reads published content" on public.content for select to anon
  using (status = 'PUBLISHED' and (select private.check_statement()));
grant execute on function private.examine_statement(), private.check_statement() to anon;
create policy "everyone signed in sees published and their own content" on public.content for select to authenticated
  using (
    (case when status = 'PUBLISHED' then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end)
      = any (array['00000000-0000-0000-0000-000000000000'::uuid, (select private.current_user_org())])
  );
create policy "members write content" on public.content for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change their content" on public.content for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete their content" on public.content for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select on public.content to anon;
grant select, delete, insert (organization_id, title, slug, content_type, content, excerpt, status, seo_meta),
  update (title, slug, content_type, content, excerpt, status, seo_meta) on public.content to authenticated;
grant all on public.content to service_role;

alter table public.attachments enable row level security;
create policy "members see attachments" on public.attachments for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members attach" on public.attachments for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "uploaders and admins delete attachments" on public.attachments for delete to authenticated
  using (
    organization_id = (select private.current_user_org('MEMBER'))
    and (uploaded_by_id = (select auth.uid()) or organization_id = (select private.current_user_org('ADMIN')))
  );
grant select, delete,
  insert (organization_id, entity_type, entity_id, file_name, file_size, mime_type, file_path)
  on public.attachments to authenticated;
grant all on public.attachments to service_role;

alter table public.notifications enable row level security;
create policy "people see their notifications" on public.notifications for select to authenticated
  using (user_id = (select auth.uid()) and organization_id = (select private.current_user_org()));
create policy "people mark their notifications" on public.notifications for update to authenticated
  using (user_id = (select auth.uid()) and organization_id = (select private.current_user_org()))
  with check (user_id = (select auth.uid()) and organization_id = (select private.current_user_org()));
create policy "people delete their notifications" on public.notifications for delete to authenticated
  using (user_id = (select auth.uid()) and organization_id = (select private.current_user_org()));
grant select, delete, update (read) on public.notifications to authenticated;
grant all on public.notifications to service_role;

alter table public.ai_tools enable row level security;
create policy "everyone sees active tools, platform admins all" on public.ai_tools for select to authenticated
  using ((is_active and (select private.current_user_id()) is not null) or (select private.is_admin()));
create policy "platform admins add tools" on public.ai_tools for insert to authenticated
  with check ((select private.is_admin()));
create policy "platform admins change tools" on public.ai_tools for update to authenticated
  using ((select private.is_admin())) with check ((select private.is_admin()));
create policy "platform admins delete tools" on public.ai_tools for delete to authenticated
  using ((select private.is_admin()));
grant select, delete, insert (name, description, tool_type, required_tier, configuration, is_active),
  update (name, description, tool_type, required_tier, configuration, is_active) on public.ai_tools to authenticated;
grant all on public.ai_tools to service_role;

alter table public.ai_conversations enable row level security;
create policy "people see their conversations" on public.ai_conversations for select to authenticated
  using (user_id = (select auth.uid()) and organization_id = (select private.current_user_org()));
create policy "members start conversations" on public.ai_conversations for insert to authenticated
  with check (user_id = (select auth.uid()) and organization_id = (select private.current_user_org('MEMBER')));
create policy "members change their conversations" on public.ai_conversations for update to authenticated
  using (user_id = (select auth.uid()) and organization_id = (select private.current_user_org('MEMBER')))
  with check (user_id = (select auth.uid()) and organization_id = (select private.current_user_org('MEMBER')));
create policy "people delete their conversations" on public.ai_conversations for delete to authenticated
  using (user_id = (select auth.uid()) and organization_id = (select private.current_user_org()));
grant select, delete,
  insert (organization_id, title, context_type, context_id, ai_model, conversation_data, is_archived),
  update (title, context_type, context_id, conversation_data, is_archived) on public.ai_conversations to authenticated;
grant all on public.ai_conversations to service_role;

-- Operations ----------------------------------------------------------------------------------------------------------

create function public.notifications_page(
  unread_only boolean default false, before timestamptz default 'infinity',
  before_id uuid default 'ffffffff-ffff-ffff-ffff-ffffffffffff', page_size integer default 50
) returns setof public.notifications language plpgsql stable set search_path = '' as $$
begin
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  end if;
  -- Two statements, so that the unread ones have their own index.
  if unread_only then
    return query
      select n.* from public.notifications n
      where n.user_id = (select auth.uid()) and not n.read and (n.created_at, n.id) < (before, before_id)
      order by n.created_at desc, n.id desc limit page_size;
  else
    return query
      select n.* from public.notifications n
      where n.user_id = (select auth.uid()) and (n.created_at, n.id) < (before, before_id)
      order by n.created_at desc, n.id desc limit page_size;
  end if;
end $$;
comment on function public.notifications_page(boolean, timestamptz, uuid, integer) is
  'The caller''s newest notifications in the current organization; for the next page give created_at and id of the '
  'last one.';

create function public.unread_notification_count() returns bigint
language plpgsql stable set search_path = '' as $$
begin
  return (select count(*) from public.notifications n where n.user_id = (select auth.uid()) and not n.read);
end $$;
comment on function public.unread_notification_count() is
  'How many of the caller''s notifications in the current organization are unread: counted, so always exact.';

-- In one order, so that two calls about the same rows wait for each other instead of deadlocking.
create function private.lock_notifications(ids uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  wanted uuid[] := array(select distinct i from unnest(ids) i);
  mine uuid[];
begin
  if coalesce(cardinality(ids), 0) not between 1 and 100 then
    raise exception 'Name 1 to 100 notifications at a time' using
      errcode = 'PT400', detail = format('Found %s.', coalesce(cardinality(ids), 0)),
      hint = 'Send longer lists in several calls.';
  end if;
  mine := array(
    select n.id from public.notifications n
    where n.id = any (wanted) and n.user_id = (select auth.uid()) order by n.id for update
  );
  if cardinality(mine) <> cardinality(wanted) then
    raise exception 'Some of these notifications do not exist' using
      errcode = 'PT404', detail = format('Found %s of %s; none was changed.', cardinality(mine), cardinality(wanted)),
      hint = 'Read the list again.';
  end if;
  return mine;
end $$;
comment on function private.lock_notifications(uuid[]) is
  'Locks 1 to 100 of the caller''s notifications: all of them or PT404.';

create function public.mark_notifications_read(ids uuid[]) returns bigint
language plpgsql set search_path = '' as $$
declare
  mine uuid[] := private.lock_notifications(ids);
  marked bigint;
begin
  update public.notifications n set read = true where n.id = any (mine) and not n.read;
  get diagnostics marked = row_count;
  return marked;
end $$;
comment on function public.mark_notifications_read(uuid[]) is
  'Marks 1 to 100 of the caller''s notifications, all or none; returns how many were unread.';

create function public.mark_all_notifications_read() returns bigint
language plpgsql set search_path = '' as $$
declare
  mine uuid[] := array(
    select n.id from public.notifications n where n.id in (
      select u.id from public.notifications u
      where u.user_id = (select auth.uid()) and not u.read order by u.created_at desc limit 10000
    ) order by n.id for update
  );
  marked bigint;
begin
  update public.notifications n set read = true where n.id = any (mine) and not n.read;
  get diagnostics marked = row_count;
  return marked;
end $$;
comment on function public.mark_all_notifications_read() is
  'Marks all of the caller''s notifications in the current organization, of 10,000 at most; returns how many were unread.';

create function public.delete_notifications(ids uuid[]) returns bigint
language plpgsql set search_path = '' as $$
declare
  mine uuid[] := private.lock_notifications(ids);
begin
  delete from public.notifications n where n.id = any (mine);
  return cardinality(mine);
end $$;
comment on function public.delete_notifications(uuid[]) is
  'Deletes 1 to 100 of the caller''s notifications, all or none.';

grant execute on function public.notifications_page(boolean, timestamptz, uuid, integer),
  public.unread_notification_count(), private.lock_notifications(uuid[]), public.mark_notifications_read(uuid[]),
  public.mark_all_notifications_read(), public.delete_notifications(uuid[])
  to authenticated, service_role;
