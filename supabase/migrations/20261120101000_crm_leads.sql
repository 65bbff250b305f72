-- CRM leads: people who may become customers. A lead is scored, and converted once into a contact.

create type "LeadSource" as enum (
  'WEBSITE', 'REFERRAL', 'GOOGLE_ADS', 'SOCIAL_MEDIA', 'COLD_CALL', 'EMAIL_CAMPAIGN', 'EVENT', 'PARTNER', 'OTHER'
);
comment on type "LeadSource" is 'Where a lead came from.';
create type "LeadStatus" as enum ('NEW_LEAD', 'IN_CONTACT', 'QUALIFIED', 'UNQUALIFIED', 'CONVERTED', 'LOST');
comment on type "LeadStatus" is 'How far a lead has come; CONVERTED is reached by convert_lead() alone.';
create type "LeadScore" as enum ('HOT', 'WARM', 'COLD');
comment on type "LeadScore" is 'score_value as a word.';

create table private.lead_scores (
  score "LeadScore" primary key,
  lowest integer not null,
  highest integer not null,
  follow_up_after interval not null
);
comment on table private.lead_scores is
  'The score of each range of score_value, and how long such a lead may wait for contact.';
insert into private.lead_scores (score, lowest, highest, follow_up_after) values
  ('HOT', 80, 100, '1 day'), ('WARM', 50, 79, '3 days'), ('COLD', 0, 49, '14 days');
grant select on private.lead_scores to authenticated, service_role;

create table public.leads (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  assigned_to_id uuid,
  name text not null constraint "lead name is 1 to 255 characters" check (length(name) between 1 and 255),
  email text
    constraint "email is at most 255 characters" check (length(email) <= 255)
    constraint "email has an @ between two parts" check (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
  phone text constraint "phone is at most 50 characters" check (length(phone) <= 50),
  company text constraint "company is at most 255 characters" check (length(company) <= 255),
  source "LeadSource" not null default 'WEBSITE',
  status "LeadStatus" not null default 'NEW_LEAD',
  score "LeadScore" not null default 'COLD',
  score_value integer not null default 0
    constraint "score_value is 0 to 100" check (score_value between 0 and 100),
  budget numeric(12, 2) constraint "budget is not negative" check (budget >= 0),
  property_types "PropertyType"[] not null default '{}',
  cities text[] not null default '{}',
  min_bedrooms integer constraint "min_bedrooms is not negative" check (min_bedrooms >= 0),
  is_watching boolean not null default false,
  timeline text constraint "timeline is at most 200 characters" check (length(timeline) <= 200),
  notes text,
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  converted_contact_id uuid,
  last_contact_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "assigned_to_id is a member of the organization" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id),
  foreign key (organization_id, converted_contact_id)
    references public.contacts (organization_id, id) on delete set null (converted_contact_id)
);
comment on table public.leads is 'People who may become customers.';
comment on column public.leads.score is 'score_value as a word; the two move together, write either.';
comment on column public.leads.budget is 'In the organization''s currency.';
comment on column public.leads.property_types is 'What they would buy; empty: anything.';
comment on column public.leads.cities is 'Where they would buy; empty: anywhere.';
comment on column public.leads.converted_contact_id is 'The contact convert_lead() made of it.';
comment on column public.leads.is_watching is
  'True: the assigned member is notified of new listings that meet every wish stated here.';
comment on column public.leads.last_contact_at is 'When contact last happened; follows activities that are done.';
create index leads_organization_idx on public.leads (organization_id, created_at desc);
create index leads_organization_status_idx on public.leads (organization_id, status);
create index leads_assigned_to_idx on public.leads (assigned_to_id, organization_id);
create index leads_converted_contact_idx on public.leads (organization_id, converted_contact_id);
create index leads_status_idx on public.leads (status);
create index leads_source_idx on public.leads (source);
create index leads_score_idx on public.leads (score);
create index leads_search_idx on public.leads using gin (
  organization_id, private.search_terms(organization_id, phone, name, email, company)
) with (gin_pending_list_limit = 512);
create index leads_same_email_idx on public.leads (organization_id, lower(email));
create index leads_same_phone_idx on public.leads (organization_id, private.same_phone(phone));
create index leads_created_at_idx on public.leads using brin (created_at);
create trigger touch before update on public.leads for each row execute function private.touch_updated_at();
select private.record_changes('public.leads');
create trigger trash before delete on public.leads for each row execute function private.move_to_trash();

-- Comparing enums is not leakproof, so under a policy `status = …` is no index condition. A partial index needs no
-- comparison, because its predicate names the value. Together these indexes are as large as one.
create index leads_status_new_lead_idx
  on public.leads (organization_id, created_at desc) where status = 'NEW_LEAD';
create index leads_status_in_contact_idx
  on public.leads (organization_id, created_at desc) where status = 'IN_CONTACT';
create index leads_status_qualified_idx
  on public.leads (organization_id, created_at desc) where status = 'QUALIFIED';
create index leads_status_unqualified_idx
  on public.leads (organization_id, created_at desc) where status = 'UNQUALIFIED';
create index leads_status_converted_idx
  on public.leads (organization_id, created_at desc) where status = 'CONVERTED';
create index leads_status_lost_idx
  on public.leads (organization_id, created_at desc) where status = 'LOST';
create index leads_score_hot_idx
  on public.leads (organization_id, created_at desc) where score = 'HOT';
create index leads_score_warm_idx
  on public.leads (organization_id, created_at desc) where score = 'WARM';
create index leads_score_cold_idx
  on public.leads (organization_id, created_at desc) where score = 'COLD';

-- Scores --------------------------------------------------------------------------------------------------------------

-- The one that was written sets the other. A default value does not count as written.
create function private.follow_score() returns trigger language plpgsql set search_path = '' as $$
declare
  value_written boolean := new.score_value <> case when tg_op = 'UPDATE' then old.score_value else 0 end;
  score_written boolean := new.score <> case when tg_op = 'UPDATE' then old.score else 'COLD' end;
  band private.lead_scores;
begin
  if not value_written and not score_written then
    return new;
  elsif not value_written then
    select s.* into band from private.lead_scores s where s.score = new.score;
    new.score_value := least(greatest(new.score_value, band.lowest), band.highest);
  else
    select s.* into band from private.lead_scores s where new.score_value between s.lowest and s.highest;
    if score_written and new.score <> band.score then
      raise exception 'score and score_value contradict each other' using
        errcode = 'PT422', detail = format('%s is %s, not %s.', new.score_value, band.score, new.score),
        hint = 'Send one of them; the other follows.';
    end if;
    -- A value out of range has no band; the check of the column refuses it.
    new.score := coalesce(band.score, new.score);
  end if;
  return new;
end $$;
comment on function private.follow_score() is 'Keeps score and score_value together.';
create trigger follow_score before insert or update on public.leads
  for each row execute function private.follow_score();

create function private.guard_conversion() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) and tg_op = 'UPDATE' and old.status = 'CONVERTED' and new.status <> 'CONVERTED' then
    raise exception 'A converted lead stays converted' using
      errcode = 'PT409', detail = format('Tried to make it %s.', new.status), hint = 'Continue with its contact.';
  end if;
  if row_security_active(tg_relid) and new.status = 'CONVERTED' and (tg_op = 'INSERT' or old.status <> 'CONVERTED') then
    raise exception 'A lead is converted by convert_lead' using
      errcode = 'PT409', hint = 'Call the function convert_lead: it makes the contact that belongs to it.';
  end if;
  return new;
end $$;
comment on function private.guard_conversion() is 'Leads are converted once, and only by convert_lead().';
create trigger guard_conversion before insert or update of status on public.leads
  for each row execute function private.guard_conversion();

grant execute on function private.follow_score(), private.guard_conversion() to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.leads enable row level security;
create policy "members see leads" on public.leads for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add leads" on public.leads for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change leads" on public.leads for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete leads" on public.leads for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (
    id, organization_id, assigned_to_id, name, email, phone, company, source, status, score, score_value, budget,
    property_types, cities, min_bedrooms, is_watching, timeline, notes, tags, custom_fields, last_contact_at
  ),
  update (
    id, organization_id, assigned_to_id, name, email, phone, company, source, status, score, score_value, budget,
    property_types, cities, min_bedrooms, is_watching, timeline, notes, tags, custom_fields
  )
  on public.leads to authenticated;
grant all on public.leads to service_role;
