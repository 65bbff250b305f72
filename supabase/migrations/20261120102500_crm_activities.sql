-- CRM activities: what was done with a lead, contact, deal or listing, and its entry in the feed.

create type "ActivityType" as enum (
  'CALL', 'EMAIL', 'MEETING', 'TASK', 'NOTE', 'SHOWING', 'OPEN_HOUSE', 'FOLLOW_UP'
);
comment on type "ActivityType" is 'What was done; CALL, EMAIL, MEETING, SHOWING and FOLLOW_UP are contact with somebody.';

create table public.activities (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  created_by_id uuid not null default auth.uid() references public.users (id) on delete cascade,
  lead_id uuid,
  contact_id uuid,
  deal_id uuid,
  listing_id uuid,
  type "ActivityType" not null,
  title text not null constraint "activity title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text,
  outcome text,
  duration_minutes integer constraint "duration_minutes is not negative" check (duration_minutes >= 0),
  completed_at timestamptz,
  is_automatic boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  foreign key (organization_id, lead_id) references public.leads (organization_id, id) on delete set null (lead_id),
  foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete set null (contact_id),
  foreign key (organization_id, deal_id) references public.deals (organization_id, id) on delete set null (deal_id),
  foreign key (organization_id, listing_id)
    references public.listings (organization_id, id) on delete set null (listing_id)
);
comment on table public.activities is 'What was done with a lead, contact, deal or listing.';
comment on column public.activities.created_by_id is 'Who did it: always the caller.';
comment on column public.activities.is_automatic is 'Written by the database about a change; no client writes or changes it.';
create index activities_organization_idx on public.activities (organization_id, created_at desc);
create index activities_organization_type_idx on public.activities (organization_id, type);
create index activities_lead_idx on public.activities (organization_id, lead_id, created_at desc);
create index activities_contact_idx on public.activities (organization_id, contact_id, created_at desc);
create index activities_deal_idx on public.activities (organization_id, deal_id, created_at desc);
create index activities_listing_idx on public.activities (organization_id, listing_id, created_at desc);
create index activities_created_by_idx on public.activities (created_by_id);
create index activities_type_idx on public.activities (type);
create index activities_created_at_idx on public.activities using brin (created_at);
create trigger touch before update on public.activities for each row execute function private.touch_updated_at();
select private.record_changes('public.activities',
  events => 'delete or update of type, title, description, outcome, duration_minutes, completed_at');

-- Comparing enums is not leakproof, so under a policy `status = …` is no index condition. A partial index needs no
-- comparison, because its predicate names the value. Together these indexes are as large as one.
create index activities_type_call_idx
  on public.activities (organization_id, created_at desc) where type = 'CALL';
create index activities_type_email_idx
  on public.activities (organization_id, created_at desc) where type = 'EMAIL';
create index activities_type_meeting_idx
  on public.activities (organization_id, created_at desc) where type = 'MEETING';
create index activities_type_task_idx
  on public.activities (organization_id, created_at desc) where type = 'TASK';
create index activities_type_note_idx
  on public.activities (organization_id, created_at desc) where type = 'NOTE';
create index activities_type_showing_idx
  on public.activities (organization_id, created_at desc) where type = 'SHOWING';
create index activities_type_open_house_idx
  on public.activities (organization_id, created_at desc) where type = 'OPEN_HOUSE';
create index activities_type_follow_up_idx
  on public.activities (organization_id, created_at desc) where type = 'FOLLOW_UP';

-- Changes are activities ----------------------------------------------------------------------------------------------

create function private.record_change(
  organization_id uuid, entity_type text, entity_id uuid, action text, title text, description text default null,
  lead_id uuid default null, contact_id uuid default null, deal_id uuid default null, listing_id uuid default null,
  assigned_to_id uuid default null, severity "ActivitySeverity" default 'INFO', type "ActivityType" default 'NOTE',
  completed_at timestamptz default now()
) returns void language plpgsql security definer set search_path = '' as $$
declare
  author uuid := auth.uid();
begin
  insert into public.activity_feeds (
    organization_id, user_id, title, type, entity_type, entity_id, action, description, severity
  ) values (
    record_change.organization_id, author, left(record_change.title, 255), 'WORKFLOW_UPDATE', record_change.entity_type,
    record_change.entity_id, record_change.action, left(record_change.description, 10000), record_change.severity
  );
  -- An activity has an author; for what the system does the responsible member is the author.
  author := coalesce(author, record_change.assigned_to_id, (
    select m.user_id from public.organization_members m
    where m.organization_id = record_change.organization_id order by m.role, m.joined_at, m.user_id limit 1
  ));
  if author is not null then
    insert into public.activities (
      organization_id, created_by_id, type, title, description, completed_at, lead_id, contact_id, deal_id, listing_id,
      is_automatic
    ) values (
      record_change.organization_id, author, record_change.type, left(record_change.title, 255),
      left(record_change.description, 10000), record_change.completed_at, record_change.lead_id, record_change.contact_id, record_change.deal_id, record_change.listing_id, true
    );
  end if;
end $$;
comment on function private.record_change(
  uuid, text, uuid, text, text, text, uuid, uuid, uuid, uuid, uuid, "ActivitySeverity", "ActivityType", timestamptz
) is 'Writes what happened to a record as an activity and into the feed. Definer: no client writes is_automatic.';

-- Definer: clients do not write last_contact_at of a record that exists.
create function private.note_contact() returns trigger language plpgsql security definer set search_path = '' as $$
declare
  contacted constant timestamptz := least(new.completed_at, now());
  a_lead uuid;
  a_contact uuid;
begin
  if new.deal_id is not null then
    select d.lead_id, d.contact_id into a_lead, a_contact from public.deals d
    where d.organization_id = new.organization_id and d.id = new.deal_id;
  end if;
  if coalesce(new.lead_id, a_lead) is not null then
    update public.leads l set last_contact_at = contacted
    where l.organization_id = new.organization_id and l.id = any (array[new.lead_id, a_lead])
      and (l.last_contact_at is null or l.last_contact_at < contacted);
  end if;
  if coalesce(new.contact_id, a_contact) is not null then
    update public.contacts c set last_contact_at = contacted
    where c.organization_id = new.organization_id and c.id = any (array[new.contact_id, a_contact])
      and (c.last_contact_at is null or c.last_contact_at < contacted);
  end if;
  return null;
end $$;
comment on function private.note_contact() is
  'Updates last_contact_at of the lead and contact of an activity or of its deal. A clock that is five minutes fast is accepted.';
-- What is planned is no contact yet.
create trigger note_contact after insert or update of completed_at, type, lead_id, contact_id, deal_id on public.activities
  for each row when (
    new.type in ('CALL', 'EMAIL', 'MEETING', 'SHOWING', 'FOLLOW_UP') and new.completed_at <= now() + interval '5 minutes'
  ) execute function private.note_contact();

create function private.bound_last_contact() returns trigger language plpgsql set search_path = '' as $$
begin
  new.last_contact_at := now();
  return new;
end $$;
comment on function private.bound_last_contact() is 'Contact in the future counts as now.';
create trigger bound_last_contact before insert on public.leads
  for each row when (new.last_contact_at > now() and isfinite(new.last_contact_at))
  execute function private.bound_last_contact();
create trigger bound_last_contact before insert on public.contacts
  for each row when (new.last_contact_at > now() and isfinite(new.last_contact_at))
  execute function private.bound_last_contact();

grant execute on function private.bound_last_contact(), private.record_change(
  uuid, text, uuid, text, text, text, uuid, uuid, uuid, uuid, uuid, "ActivitySeverity", "ActivityType", timestamptz
)
  to authenticated, service_role;

-- record_activity -----------------------------------------------------------------------------------------------------

create function private.refuse_fields(item jsonb, known text[]) returns void
language plpgsql immutable set search_path = '' as $$
begin
  raise exception 'An activity has no such field' using
    errcode = 'PT400',
    detail = format('Found %s.', (select string_agg(quote_ident(k), ', ') from jsonb_object_keys(item - known) k)),
    hint = format('Known are %s.', array_to_string(known, ', '));
end $$;
comment on function private.refuse_fields(jsonb, text[]) is 'PT422 for unknown fields, with their names.';

create function private.record_crm_activity(org uuid, item jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  known constant text[] :=
    '{type,title,description,outcome,duration_minutes,completed_at,lead_id,contact_id,deal_id,listing_id}';
  activity uuid := gen_random_uuid();
  feed uuid := gen_random_uuid();
  lead uuid := item ->> 'lead_id';
  contact uuid := item ->> 'contact_id';
  deal uuid := item ->> 'deal_id';
  listing uuid := item ->> 'listing_id';
  entity text := case when lead is not null then 'lead' when contact is not null then 'contact'
    when deal is not null then 'deal' when listing is not null then 'listing' end;
  missing text;
begin
  if item - known <> '{}' then
    perform private.refuse_fields(item, known);
  end if;
  if entity is null then
    raise exception 'An activity needs a lead, contact, deal or listing' using
      errcode = 'PT422', detail = 'None of lead_id, contact_id, deal_id and listing_id is given.',
      hint = 'Name at least one of them; for a plain entry of the feed send entity_type, entity_id and action.';
  end if;
  missing := case
    when lead is not null and not exists (select from public.leads l where l.organization_id = org and l.id = lead)
      then 'lead ' || lead
    when contact is not null
      and not exists (select from public.contacts c where c.organization_id = org and c.id = contact)
      then 'contact ' || contact
    when deal is not null and not exists (select from public.deals d where d.organization_id = org and d.id = deal)
      then 'deal ' || deal
    when listing is not null
      and not exists (select from public.listings l where l.organization_id = org and l.id = listing)
      then 'listing ' || listing
  end;
  if missing is not null then
    raise exception 'The record that the activity is about does not exist' using
      errcode = 'PT404', detail = format('There is no %s in this organization.', missing);
  end if;
  -- Its trigger keeps last_contact_at. Without completed_at it was done now, but for a task; null: it is planned.
  insert into public.activities (
    id, organization_id, created_by_id, type, title, description, outcome, duration_minutes, completed_at,
    lead_id, contact_id, deal_id, listing_id
  ) values (
    activity, org, auth.uid(), (item ->> 'type')::public."ActivityType", item ->> 'title', item ->> 'description',
    item ->> 'outcome', (item ->> 'duration_minutes')::integer, case when item ? 'completed_at'
      then (item ->> 'completed_at')::timestamptz when item ->> 'type' <> 'TASK' then now() end,
    lead, contact, deal, listing
  );
  insert into public.activity_feeds
    (id, organization_id, user_id, type, title, description, entity_type, entity_id, action, metadata)
  values (
    feed, org, auth.uid(), 'USER_ACTION', item ->> 'title', item ->> 'description', entity,
    coalesce(lead, contact, deal, listing)::text, lower(item ->> 'type'), jsonb_build_object('activity_id', activity)
  );
  return jsonb_build_object('activity_id', activity, 'feed_id', feed, 'organization_id', org, 'created_at', now());
end $$;
comment on function private.record_crm_activity(uuid, jsonb) is
  'Records an activity on a lead, contact, deal or listing, and its entry in the feed.';

-- The caller chooses neither the author nor the organization of a feed entry, so one lookup of the caller authorizes
-- and places it; the policy would repeat that lookup.
create function private.record_feed_entry(entry jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  known constant text[] := '{type,title,description,entity_type,entity_id,action,metadata,severity}';
  org uuid := private.current_user_org('MEMBER');
  recorded jsonb;
begin
  if org is null then
    perform private.require_org('MEMBER'); -- says why not
  end if;
  if entry - known <> '{}' then
    perform private.refuse_fields(entry, known);
  end if;
  insert into public.activity_feeds
    (organization_id, user_id, type, title, description, entity_type, entity_id, action, metadata, severity)
  values (
    org, auth.uid(), (entry ->> 'type')::public."DashboardActivityType", entry ->> 'title', entry ->> 'description',
    entry ->> 'entity_type', entry ->> 'entity_id', entry ->> 'action', entry -> 'metadata',
    coalesce(entry ->> 'severity', 'INFO')::public."ActivitySeverity"
  )
  returning jsonb_build_object('activity_id', null, 'feed_id', id, 'organization_id', org, 'created_at', created_at)
  into recorded;
  return recorded;
end $$;
comment on function private.record_feed_entry(jsonb) is 'Adds an entry to the feed of the caller''s organization, in the caller''s name.';

create function public.record_activity(activity jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid;
  item jsonb;
  recorded jsonb[];
begin
  if jsonb_typeof(activity) <> 'object' then
    raise exception 'An activity is an object' using
      errcode = 'PT400', detail = format('Found %s.', jsonb_typeof(activity));
  end if;
  if activity ? 'entity_type' then
    return private.record_feed_entry(activity);
  end if;
  org := private.require_org('MEMBER');
  if not activity ? 'activities' then
    return private.record_crm_activity(org, activity);
  end if;
  if activity - 'activities' <> '{}' then
    perform private.refuse_fields(activity, '{activities}');
  end if;
  activity := activity -> 'activities';
  if jsonb_typeof(activity) <> 'array' or jsonb_array_length(activity) not between 1 and 500 then
    raise exception 'One call records 1 to 500 activities' using
      errcode = 'PT422', hint = 'Send an array, and longer ones in several calls.';
  end if;
  -- In one order, so that two calls about the same people wait for each other instead of deadlocking.
  perform from public.leads l where l.organization_id = org
    and l.id::text in (select i ->> 'lead_id' from jsonb_array_elements(activity) i) order by l.id for no key update;
  perform from public.contacts c where c.organization_id = org
    and c.id::text in (select i ->> 'contact_id' from jsonb_array_elements(activity) i) order by c.id for no key update;
  for item in select i from jsonb_array_elements(activity) i loop
    if item ? 'activities' then
      perform private.refuse_fields(item, '{}');
    end if;
    recorded := recorded || public.record_activity(item);
  end loop;
  return jsonb_build_object('activities', to_jsonb(recorded));
end $$;
comment on function public.record_activity(jsonb) is
  'Records an activity or a feed entry; {"activities": […]} records up to 500 of them, all or none.';

grant execute on function private.refuse_fields(jsonb, text[]), private.record_feed_entry(jsonb),
  private.record_crm_activity(uuid, jsonb), public.record_activity(jsonb)
  to authenticated;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.activities enable row level security;
create policy "members see activities" on public.activities for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add activities in their own name" on public.activities for insert to authenticated
  with check (
    organization_id = (select private.current_user_org('MEMBER')) and created_by_id = (select auth.uid())
  );
-- Without WITH CHECK, the changed row must meet the same condition.
create policy "authors and admins change activities that a person wrote" on public.activities for update to authenticated
  using (
    organization_id = (select private.current_user_org('MEMBER')) and not is_automatic
    and (created_by_id = (select auth.uid()) or (select private.current_user_org('ADMIN')) is not null)
  );
create policy "admins delete activities" on public.activities for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (
    id, organization_id, created_by_id, lead_id, contact_id, deal_id, listing_id, type, title, description, outcome,
    duration_minutes, completed_at
  ),
  update (
    organization_id, lead_id, contact_id, deal_id, listing_id, type, title, description, outcome, duration_minutes,
    completed_at
  )
  on public.activities to authenticated;
grant all on public.activities to service_role;
