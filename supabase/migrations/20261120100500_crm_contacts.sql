-- CRM contacts: people the organization deals with.

create type "ContactType" as enum ('PROSPECT', 'CLIENT', 'PAST_CLIENT', 'PARTNER', 'VENDOR');
comment on type "ContactType" is 'What a contact is to the organization.';
create type "ContactStatus" as enum ('ACTIVE', 'INACTIVE', 'DO_NOT_CONTACT');
comment on type "ContactStatus" is 'Whether a contact may be approached.';

create table public.contacts (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  assigned_to_id uuid,
  name text not null constraint "contact name is 1 to 255 characters" check (length(name) between 1 and 255),
  email text
    constraint "email is at most 255 characters" check (length(email) <= 255)
    constraint "email has an @ between two parts" check (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
  phone text constraint "phone is at most 50 characters" check (length(phone) <= 50),
  company_id uuid,
  company text constraint "company is at most 255 characters" check (length(company) <= 255),
  position text constraint "position is at most 255 characters" check (length(position) <= 255),
  type "ContactType" not null default 'PROSPECT',
  status "ContactStatus" not null default 'ACTIVE',
  notes text,
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  budget numeric(12, 2) constraint "budget is not negative" check (budget >= 0),
  property_types "PropertyType"[] not null default '{}',
  cities text[] not null default '{}',
  min_bedrooms integer constraint "min_bedrooms is not negative" check (min_bedrooms >= 0),
  is_watching boolean not null default false,
  linkedin_url text constraint "linkedin_url is an http(s) address of at most 500 characters"
    check (linkedin_url ~* '^https?://[^[:space:]]+$' and length(linkedin_url) <= 500),
  twitter_url text constraint "twitter_url is an http(s) address of at most 500 characters"
    check (twitter_url ~* '^https?://[^[:space:]]+$' and length(twitter_url) <= 500),
  preferred_contact_method text constraint "preferred_contact_method is email, phone or text"
    check (preferred_contact_method in ('email', 'phone', 'text')),
  last_contact_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "assigned_to_id is a member of the organization" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id),
  foreign key (organization_id, company_id) references public.companies (organization_id, id)
    on delete set null (company_id)
);
comment on table public.contacts is 'People the organization deals with.';
comment on column public.contacts.company_id is 'The company they work for; follows company, and company follows it.';
comment on column public.contacts.budget is 'In the organization''s currency.';
comment on column public.contacts.property_types is 'What they would buy; empty: anything.';
comment on column public.contacts.cities is 'Where they would buy; empty: anywhere.';
comment on column public.contacts.is_watching is
  'True: the assigned member is notified of new listings that meet every wish stated here.';
comment on column public.contacts.last_contact_at is 'When contact last happened; follows activities that are done.';
create index contacts_organization_idx on public.contacts (organization_id, created_at desc);
create index contacts_company_idx on public.contacts (organization_id, company_id);
create index contacts_organization_type_idx on public.contacts (organization_id, type);
create index contacts_assigned_to_idx on public.contacts (assigned_to_id, organization_id);
create index contacts_type_idx on public.contacts (type);
create index contacts_status_idx on public.contacts (status);
create index contacts_search_idx on public.contacts using gin (
  organization_id, private.search_terms(organization_id, phone, name, email, company)
) with (gin_pending_list_limit = 512);
create index contacts_same_email_idx on public.contacts (organization_id, lower(email));
create index contacts_same_phone_idx on public.contacts (organization_id, private.same_phone(phone));
create index contacts_created_at_idx on public.contacts using brin (created_at);
create trigger touch before update on public.contacts for each row execute function private.touch_updated_at();
create trigger link_company before insert or update of company, company_id on public.contacts
  for each row when (new.company is not null or new.company_id is not null) execute function private.link_company();
select private.record_changes('public.contacts');
create trigger trash before delete on public.contacts for each row execute function private.move_to_trash();

-- Comparing enums is not leakproof, so under a policy `status = …` is no index condition. A partial index needs no
-- comparison, because its predicate names the value. Together these indexes are as large as one.
create index contacts_type_prospect_idx
  on public.contacts (organization_id, created_at desc) where type = 'PROSPECT';
create index contacts_type_client_idx
  on public.contacts (organization_id, created_at desc) where type = 'CLIENT';
create index contacts_type_past_client_idx
  on public.contacts (organization_id, created_at desc) where type = 'PAST_CLIENT';
create index contacts_type_partner_idx
  on public.contacts (organization_id, created_at desc) where type = 'PARTNER';
create index contacts_type_vendor_idx
  on public.contacts (organization_id, created_at desc) where type = 'VENDOR';
create index contacts_status_active_idx
  on public.contacts (organization_id, created_at desc) where status = 'ACTIVE';
create index contacts_status_inactive_idx
  on public.contacts (organization_id, created_at desc) where status = 'INACTIVE';
create index contacts_status_do_not_contact_idx
  on public.contacts (organization_id, created_at desc) where status = 'DO_NOT_CONTACT';

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.contacts enable row level security;
create policy "members see contacts" on public.contacts for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add contacts" on public.contacts for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change contacts" on public.contacts for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete contacts" on public.contacts for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (
    id, organization_id, assigned_to_id, name, email, phone, company_id, company, position, type, status, notes, tags,
    custom_fields, budget, property_types, cities, min_bedrooms, is_watching, linkedin_url, twitter_url,
    preferred_contact_method, last_contact_at
  ),
  update (
    id, organization_id, assigned_to_id, name, email, phone, company_id, company, position, type, status, notes, tags,
    custom_fields, budget, property_types, cities, min_bedrooms, is_watching, linkedin_url, twitter_url,
    preferred_contact_method
  )
  on public.contacts to authenticated;
grant all on public.contacts to service_role;
