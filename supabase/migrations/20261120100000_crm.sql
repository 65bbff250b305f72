-- CRM: leads, contacts, deals, listings and what was done with them. How deals move and leads score stands in two small
-- tables; triggers hold every writer to them, whether it comes through a function or straight to the table.

create extension if not exists pg_trgm with schema extensions;
create extension if not exists btree_gin with schema extensions;

-- Types ---------------------------------------------------------------------------------------------------------------

create type "LeadSource" as enum (
  'WEBSITE', 'REFERRAL', 'GOOGLE_ADS', 'SOCIAL_MEDIA', 'COLD_CALL', 'EMAIL_CAMPAIGN', 'EVENT', 'PARTNER', 'OTHER'
);
comment on type "LeadSource" is 'Where a lead came from.';
create type "LeadStatus" as enum ('NEW_LEAD', 'IN_CONTACT', 'QUALIFIED', 'UNQUALIFIED', 'CONVERTED', 'LOST');
comment on type "LeadStatus" is 'How far a lead has come; CONVERTED is reached by convert_lead() alone.';
create type "LeadScore" as enum ('HOT', 'WARM', 'COLD');
comment on type "LeadScore" is 'score_value as a word.';
create type "ContactType" as enum ('PROSPECT', 'CLIENT', 'PAST_CLIENT', 'PARTNER', 'VENDOR');
comment on type "ContactType" is 'What a contact is to the organisation.';
create type "ContactStatus" as enum ('ACTIVE', 'INACTIVE', 'DO_NOT_CONTACT');
comment on type "ContactStatus" is 'Whether a contact may be approached.';
create type "DealStage" as enum (
  'LEAD', 'QUALIFIED', 'PROPOSAL', 'NEGOTIATION', 'CLOSING', 'CLOSED_WON', 'CLOSED_LOST'
);
comment on type "DealStage" is 'Stage of the pipeline.';
create type "DealStatus" as enum ('ACTIVE', 'WON', 'LOST', 'ABANDONED');
comment on type "DealStatus" is 'Outcome of a deal; follows its stage.';
create type "PropertyType" as enum (
  'RESIDENTIAL', 'COMMERCIAL', 'LAND', 'MULTI_FAMILY', 'CONDO', 'TOWNHOUSE', 'LUXURY'
);
comment on type "PropertyType" is 'Kind of property.';
create type "ListingStatus" as enum ('ACTIVE', 'PENDING', 'SOLD', 'EXPIRED', 'WITHDRAWN', 'CONTINGENT');
comment on type "ListingStatus" is 'Whether a property can be bought.';
create type "ActivityType" as enum (
  'CALL', 'EMAIL', 'MEETING', 'TASK', 'NOTE', 'SHOWING', 'OPEN_HOUSE', 'FOLLOW_UP'
);
comment on type "ActivityType" is 'What was done; all but TASK and NOTE is contact with somebody.';

-- Rules as data -------------------------------------------------------------------------------------------------------

create table private.lead_scores (
  score "LeadScore" primary key,
  lowest integer not null,
  highest integer not null,
  follow_up_after interval not null
);
comment on table private.lead_scores is 'Which score_value is which score, and how long such a lead may wait for somebody.';
insert into private.lead_scores (score, lowest, highest, follow_up_after) values
  ('HOT', 80, 100, '1 day'), ('WARM', 50, 79, '3 days'), ('COLD', 0, 49, '14 days');

create table private.deal_stages (
  stage "DealStage" primary key,
  status "DealStatus" not null,
  probability integer not null,
  moves_to "DealStage"[] not null
);
comment on table private.deal_stages is 'What each stage means and where a deal may go from it.';
comment on column private.deal_stages.probability is 'Of winning, in percent, unless given by hand.';
-- Forward freely, back one step, closed from anywhere. Out of closed leads reopen_deal() alone.
insert into private.deal_stages (stage, status, probability, moves_to) values
  ('LEAD', 'ACTIVE', 10, '{QUALIFIED,PROPOSAL,NEGOTIATION,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('QUALIFIED', 'ACTIVE', 25, '{LEAD,PROPOSAL,NEGOTIATION,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('PROPOSAL', 'ACTIVE', 50, '{QUALIFIED,NEGOTIATION,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('NEGOTIATION', 'ACTIVE', 75, '{PROPOSAL,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('CLOSING', 'ACTIVE', 90, '{NEGOTIATION,CLOSED_WON,CLOSED_LOST}'),
  ('CLOSED_WON', 'WON', 100, '{}'),
  ('CLOSED_LOST', 'LOST', 0, '{}');
grant select on private.lead_scores, private.deal_stages to authenticated, service_role;

-- How people and properties are found ---------------------------------------------------------------------------------

create function private.digits(phone text) returns text
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  return regexp_replace(phone, '\D', '', 'g');
end $$;
comment on function private.digits(text) is 'A phone number without what people write between its digits.';

create function private.same_phone(phone text) returns text
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  -- The last ten digits: with or without the code of the country it is one number. Fewer than seven are an extension.
  return case when length(private.digits(phone)) >= 7 then right(private.digits(phone), 10) end;
end $$;
comment on function private.same_phone(text) is 'What two ways to write one phone number have in common.';
create function private.search_words(written text) returns text[]
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  -- What half of all addresses end in finds nobody.
  return array_remove(string_to_array(
    translate(regexp_replace(lower(written), '\.(com|net|org)\M', ' ', 'g'), '@.,:;!?/\|&()"<>-_+#%*''’', '                      '), ' '
  ), '');
end $$;
comment on function private.search_words(text) is
  'The words of a text as they are searched. The indexes hold them: to change it is to rebuild those.';

create function private.search_terms(org uuid, phone text, variadic parts text[]) returns tsvector
language plpgsql immutable parallel safe set search_path = '' as $$
declare
  tenant constant text := left(org::text, 8);
  -- Blotted words are many: of a sixteenth of the tenants each, they are few enough in a list, and not too many lists.
  blot constant text := left(tenant, 1) || '*';
  digits constant text := right(private.digits(phone), 10);
  terms text[] := '{}';
  word text;
  one integer;
  two integer;
begin
  foreach word in array private.search_words(array_to_string(parts, ' ')) loop
    terms := terms || (tenant || word);
    -- An error is in the first, the second or the last third of a word: without that third the word is as it was.
    word := rtrim(word, '0123456789');
    if length(word) > 3 then
      one := (length(word) + 2) / 3;
      two := (2 * length(word) + 2) / 3;
      terms := terms || array[
        blot || repeat('*', one) || substr(word, one + 1),
        blot || left(word, one) || repeat('*', two - one) || substr(word, two + 1),
        blot || left(word, two) || repeat('*', length(word) - two)
      ];
    end if;
  end loop;
  if digits <> '' then
    terms := terms || array[tenant || digits, tenant || right(digits, 7), tenant || right(digits, 4)];
  end if;
  return array_to_tsvector(terms);
end $$;
comment on function private.search_terms(uuid, text, text[]) is
  'By what a row is found: its words, under the beginning of its organisation''s id, so that lists are as short as a '
  'tenant and no longer; each word with a third of it blotted out, for typing errors; its phone number, however given.';
grant execute on function private.digits(text), private.same_phone(text), private.search_words(text),
  private.search_terms(uuid, text, text[]) to authenticated, service_role;

-- Tables --------------------------------------------------------------------------------------------------------------
-- Keys between these tables carry the organisation, so that no row can point into another tenant nor ask whether an id
-- exists there. An assignee is a member: who leaves the organisation leaves its rows unassigned. No ordered index starts
-- with a date: a tenant's newest rows would be looked for among everybody's. Time over all tenants has BRIN.

create table public.contacts (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  assigned_to_id uuid,
  name text not null constraint "contact name is 1 to 255 characters" check (length(name) between 1 and 255),
  email text
    constraint "email is at most 255 characters" check (length(email) <= 255)
    constraint "email has an @ between two parts" check (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
  phone text constraint "phone is at most 50 characters" check (length(phone) <= 50),
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
  constraint "assigned_to_id is a member of the organisation" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id)
);
comment on table public.contacts is 'People the organisation deals with.';
comment on column public.contacts.budget is 'In the organisation''s currency.';
comment on column public.contacts.property_types is 'What they would buy; empty: anything.';
comment on column public.contacts.cities is 'Where they would buy; empty: anywhere.';
comment on column public.contacts.last_contact_at is 'When somebody last spoke with them; follows their activities.';
create index contacts_organization_idx on public.contacts (organization_id, created_at desc);
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

create table public.leads (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
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
  timeline text constraint "timeline is at most 200 characters" check (length(timeline) <= 200),
  notes text,
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  converted_contact_id uuid,
  last_contact_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "assigned_to_id is a member of the organisation" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id),
  foreign key (organization_id, converted_contact_id)
    references public.contacts (organization_id, id) on delete set null (converted_contact_id)
);
comment on table public.leads is 'People who may become customers.';
comment on column public.leads.score is 'score_value as a word; the two move together, write either.';
comment on column public.leads.budget is 'In the organisation''s currency.';
comment on column public.leads.property_types is 'What they would buy; empty: anything.';
comment on column public.leads.cities is 'Where they would buy; empty: anywhere.';
comment on column public.leads.converted_contact_id is 'The contact convert_lead() made of it.';
comment on column public.leads.last_contact_at is 'When somebody last spoke with them; follows their activities.';
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

create table public.listings (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  assigned_to_id uuid,
  title text not null constraint "listing title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text,
  address text not null constraint "address is 1 to 255 characters" check (length(address) between 1 and 255),
  city text not null constraint "city is 1 to 100 characters" check (length(city) between 1 and 100),
  state text not null constraint "state is 1 to 100 characters" check (length(state) between 1 and 100),
  zip_code text not null constraint "zip_code is 1 to 20 characters" check (length(zip_code) between 1 and 20),
  country text not null default 'USA' constraint "country is 1 to 100 characters" check (length(country) between 1 and 100),
  property_type "PropertyType" not null default 'RESIDENTIAL',
  bedrooms integer constraint "bedrooms is not negative" check (bedrooms >= 0),
  bathrooms numeric(3, 1) constraint "bathrooms is not negative" check (bathrooms >= 0),
  square_feet integer constraint "square_feet is positive" check (square_feet > 0),
  lot_size numeric(10, 2) constraint "lot_size is not negative" check (lot_size >= 0),
  year_built integer constraint "year_built is 1800 to next year"
    check (year_built between 1800 and extract(year from now()) + 1),
  price numeric(12, 2) not null constraint "price is not negative" check (price >= 0),
  -- Twelve digits: the dearest square foot is the dearest property of one.
  price_per_sqft numeric(12, 2) generated always as (round(price / nullif(square_feet, 0), 2)) stored,
  status "ListingStatus" not null default 'ACTIVE',
  mls_number text constraint "mls_number is at most 100 characters" check (length(mls_number) <= 100),
  listing_date timestamptz,
  expiration_date timestamptz,
  images text[] not null default '{}',
  virtual_tour_url text constraint "virtual_tour_url is an http(s) address of up to 500 characters"
    check (virtual_tour_url ~* '^https?://[^[:space:]]+$' and length(virtual_tour_url) <= 500),
  features text[] not null default '{}',
  notes text,
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "expiration_date is after listing_date" check (expiration_date > listing_date),
  constraint "assigned_to_id is a member of the organisation" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id)
);
comment on table public.listings is 'Properties for sale.';
comment on column public.listings.assigned_to_id is 'The listing agent.';
comment on column public.listings.price_per_sqft is 'Computed from price and square_feet.';
comment on column public.listings.images is 'Addresses of images.';
create index listings_organization_idx on public.listings (organization_id, created_at desc);
create index listings_organization_status_idx on public.listings (organization_id, status);
create index listings_assigned_to_idx on public.listings (assigned_to_id, organization_id);
create index listings_status_idx on public.listings (status);
create index listings_city_idx on public.listings (city);
create index listings_state_idx on public.listings (state);
create index listings_property_type_idx on public.listings (property_type);
create index listings_search_idx on public.listings using gin (
  organization_id, private.search_terms(organization_id, null, title, address, city, state, zip_code, mls_number)
) with (gin_pending_list_limit = 512);
create index listings_created_at_idx on public.listings using brin (created_at);

create table public.deals (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  assigned_to_id uuid,
  lead_id uuid,
  contact_id uuid,
  listing_id uuid,
  title text not null constraint "deal title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text,
  value numeric(12, 2) not null constraint "value is not negative" check (value >= 0),
  stage "DealStage" not null default 'LEAD',
  status "DealStatus" not null default 'ACTIVE',
  probability integer not null constraint "probability is 0 to 100" check (probability between 0 and 100),
  expected_close_date timestamptz,
  actual_close_date timestamptz,
  lost_reason text,
  notes text,
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "the status of a deal follows its stage" check (
    case stage when 'CLOSED_WON' then status = 'WON' when 'CLOSED_LOST' then status in ('LOST', 'ABANDONED')
      else status = 'ACTIVE' end
  ),
  constraint "a won deal has probability 100, a lost one 0" check (
    case stage when 'CLOSED_WON' then probability = 100 when 'CLOSED_LOST' then probability = 0 else true end
  ),
  constraint "a deal has actual_close_date when it is closed" check ((status = 'ACTIVE') = (actual_close_date is null)),
  constraint "a lost deal has lost_reason" check (stage <> 'CLOSED_LOST' or coalesce(trim(lost_reason), '') <> ''),
  constraint "assigned_to_id is a member of the organisation" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id),
  foreign key (organization_id, lead_id) references public.leads (organization_id, id) on delete set null (lead_id),
  foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete set null (contact_id),
  foreign key (organization_id, listing_id)
    references public.listings (organization_id, id) on delete set null (listing_id)
);
comment on table public.deals is 'Business in the pipeline; moved by move_deal(), close_deal(), reopen_deal() or by writing stage.';
comment on column public.deals.value is 'In the organisation''s currency.';
comment on column public.deals.status is 'Follows stage; a lost deal may also be ABANDONED.';
comment on column public.deals.probability is 'Of winning, in percent; follows stage unless given.';
comment on column public.deals.lost_reason is 'Why it was lost; CLOSED_LOST asks for it.';
create index deals_organization_idx on public.deals (organization_id, created_at desc);
-- What the pipeline report sums is in the index.
create index deals_organization_stage_idx on public.deals (organization_id, stage) include (value, probability, assigned_to_id);
create index deals_assigned_to_idx on public.deals (assigned_to_id, organization_id);
create index deals_lead_idx on public.deals (organization_id, lead_id);
create index deals_contact_idx on public.deals (organization_id, contact_id);
create index deals_listing_idx on public.deals (organization_id, listing_id);
create index deals_due_idx on public.deals (organization_id, expected_close_date) where status = 'ACTIVE';
create index deals_stage_idx on public.deals (stage);
create index deals_status_idx on public.deals (status);
create index deals_expected_close_date_idx on public.deals (organization_id, expected_close_date);
create index deals_search_idx on public.deals using gin (
  organization_id, private.search_terms(organization_id, null, title)
) with (gin_pending_list_limit = 512);
create index deals_created_at_idx on public.deals using brin (created_at);

create table public.activities (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
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
comment on column public.activities.created_by_id is 'Who did it: the caller, in nobody else''s name.';
create index activities_organization_idx on public.activities (organization_id, created_at desc);
create index activities_organization_type_idx on public.activities (organization_id, type);
create index activities_lead_idx on public.activities (organization_id, lead_id, created_at desc);
create index activities_contact_idx on public.activities (organization_id, contact_id, created_at desc);
create index activities_deal_idx on public.activities (organization_id, deal_id, created_at desc);
create index activities_listing_idx on public.activities (organization_id, listing_id, created_at desc);
create index activities_created_by_idx on public.activities (created_by_id);
create index activities_type_idx on public.activities (type);
create index activities_created_at_idx on public.activities using brin (created_at);

-- Comparing enums is not leakproof: under policies "won deals, newest first" cannot search an index for the value. An
-- index whose predicate names the value needs no comparison. One per value; together they weigh as one index.
do $$
declare
  hot record;
begin
  for hot in
    select c.table_name, c.column_name, e.enumlabel as value from information_schema.columns c
    join pg_catalog.pg_type t on t.typname = c.udt_name and t.typnamespace = 'public'::regnamespace
    join pg_catalog.pg_enum e on e.enumtypid = t.oid
    where c.table_schema = 'public' and (c.table_name, c.column_name) in (
      ('leads', 'status'), ('leads', 'score'), ('contacts', 'type'), ('contacts', 'status'), ('listings', 'status'),
      ('deals', 'stage'), ('deals', 'status'), ('activities', 'type')
    )
  loop
    execute format(
      'create index %I on public.%I (organization_id, created_at desc) where %I = %L',
      lower(concat_ws('_', hot.table_name, hot.column_name, hot.value, 'idx')), hot.table_name, hot.column_name, hot.value
    );
  end loop;
end $$;

create trigger touch before update on public.contacts for each row execute function private.touch_updated_at();
create trigger touch before update on public.leads for each row execute function private.touch_updated_at();
create trigger touch before update on public.listings for each row execute function private.touch_updated_at();
create trigger touch before update on public.deals for each row execute function private.touch_updated_at();
create trigger touch before update on public.activities for each row execute function private.touch_updated_at();

-- History -------------------------------------------------------------------------------------------------------------

create function private.record_change(
  organization_id uuid, entity_type text, entity_id uuid, action text, title text, description text default null,
  lead_id uuid default null, contact_id uuid default null, deal_id uuid default null, listing_id uuid default null,
  assigned_to_id uuid default null, severity "ActivitySeverity" default 'INFO'
) returns void language plpgsql set search_path = '' as $$
declare
  author uuid := auth.uid();
begin
  insert into public.activity_feeds (
    organization_id, user_id, title, type, entity_type, entity_id, action, description, severity
  ) values (
    record_change.organization_id, author, left(record_change.title, 255), 'WORKFLOW_UPDATE', record_change.entity_type,
    record_change.entity_id, record_change.action, record_change.description, record_change.severity
  );
  -- An activity has an author; for what the system does that is whoever is responsible.
  author := coalesce(author, record_change.assigned_to_id, (
    select m.user_id from public.organization_members m
    where m.organization_id = record_change.organization_id order by m.role, m.joined_at, m.user_id limit 1
  ));
  if author is not null then
    insert into public.activities (
      organization_id, created_by_id, type, title, description, completed_at, lead_id, contact_id, deal_id, listing_id
    ) values (
      record_change.organization_id, author, 'NOTE', left(record_change.title, 255), record_change.description, now(),
      record_change.lead_id, record_change.contact_id, record_change.deal_id, record_change.listing_id
    );
  end if;
end $$;
comment on function private.record_change(
  uuid, text, uuid, text, text, text, uuid, uuid, uuid, uuid, uuid, "ActivitySeverity"
) is 'Writes what happened to a lead, deal or listing as a NOTE and into the feed.';

create function private.note_contact() returns trigger language plpgsql set search_path = '' as $$
declare
  contacted timestamptz := least(coalesce(new.completed_at, new.created_at), now());
  a_lead uuid;
  a_contact uuid;
begin
  if new.deal_id is not null then
    select d.lead_id, d.contact_id into a_lead, a_contact from public.deals d
    where d.organization_id = new.organization_id and d.id = new.deal_id;
  end if;
  -- A statement that changes nothing still asks its policies.
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
  'Keeps last_contact_at of whom an activity, or its deal, is about. A date in the future counts when it is written.';
create trigger note_contact after insert or update of completed_at on public.activities
  for each row when (new.type not in ('NOTE', 'TASK')) execute function private.note_contact();

create function private.note_listing_status() returns trigger language plpgsql set search_path = '' as $$
begin
  perform private.record_change(
    new.organization_id, 'listing', new.id, 'status_changed',
    format('Listing changed from %s to %s', old.status, new.status),
    listing_id => new.id, assigned_to_id => new.assigned_to_id
  );
  return null;
end $$;
comment on function private.note_listing_status() is 'Writes a NOTE when a listing changes status.';
create trigger note_status after update on public.listings
  for each row when (new.status <> old.status) execute function private.note_listing_status();

-- Leads ---------------------------------------------------------------------------------------------------------------

-- Whichever of the two was written moves the other. A default counts as not written.
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
      errcode = 'PT409', detail = format('Tried to make it %s.', new.status), hint = 'Work on with its contact.';
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

-- SECURITY DEFINER: CONVERTED and converted_contact_id are not for clients to write.
create function private.convert_lead(lead_id uuid, deal_title text, deal_value numeric, deal_stage "DealStage")
returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org('MEMBER');
  lead public.leads;
  contact uuid := gen_random_uuid();
  deal uuid;
begin
  -- The row lock lets one of several simultaneous attempts through; the others then read what it did.
  select l.* into lead from public.leads l where l.id = convert_lead.lead_id and l.organization_id = org for update;
  if not found then
    perform private.refuse('lead', convert_lead.lead_id);
  end if;
  if lead.status = 'CONVERTED' then
    raise exception 'This lead was converted already' using
      errcode = 'PT409', detail = format('It became contact %s.', coalesce(lead.converted_contact_id::text, 'that is gone')),
      hint = 'Work on with its contact.';
  end if;
  insert into public.contacts (
    id, organization_id, assigned_to_id, name, email, phone, company, type, status, notes, tags, custom_fields,
    budget, property_types, cities, min_bedrooms, last_contact_at
  ) values (
    contact, org, lead.assigned_to_id, lead.name, lead.email, lead.phone, lead.company, 'CLIENT', 'ACTIVE', lead.notes,
    lead.tags, lead.custom_fields, lead.budget, lead.property_types, lead.cities, lead.min_bedrooms,
    lead.last_contact_at
  );
  if num_nonnulls(deal_title, deal_value) > 0 then
    insert into public.deals (organization_id, assigned_to_id, lead_id, contact_id, title, value, stage)
    values (
      org, lead.assigned_to_id, lead.id, contact, coalesce(deal_title, lead.name), coalesce(deal_value, lead.budget, 0),
      deal_stage
    ) returning id into deal;
  end if;
  update public.leads l set status = 'CONVERTED', converted_contact_id = contact where l.id = lead.id;
  perform private.record_change(
    org, 'lead', lead.id, 'converted', format('Lead %s converted', lead.name), lead_id => lead.id,
    contact_id => contact, deal_id => deal, severity => 'SUCCESS'
  );
  return jsonb_build_object('lead_id', lead.id, 'contact_id', contact, 'deal_id', deal);
end $$;
comment on function private.convert_lead(uuid, text, numeric, "DealStage") is 'Makes a contact, and a deal, of a lead.';

create function public.convert_lead(
  lead_id uuid, deal_title text default null, deal_value numeric default null, deal_stage "DealStage" default 'LEAD'
) returns jsonb language sql set search_path = ''
as 'select private.convert_lead(lead_id, deal_title, deal_value, deal_stage)';
comment on function public.convert_lead(uuid, text, numeric, "DealStage") is
  'Makes a client of a lead, once; with deal_title or deal_value also a deal. Value: the lead''s budget unless given.';

-- Deals ---------------------------------------------------------------------------------------------------------------

create function private.follow_stage() returns trigger language plpgsql set search_path = '' as $$
declare
  here private.deal_stages;
  goal private.deal_stages;
  moved boolean := tg_op = 'INSERT' or new.stage <> old.stage;
  closed boolean;
  -- What status says when it was not written.
  untold public."DealStatus" := case when tg_op = 'INSERT' then 'ACTIVE' when moved then old.status end;
begin
  select s.* into goal from private.deal_stages s where s.stage = new.stage;
  closed := goal.status <> 'ACTIVE';
  if tg_op = 'UPDATE' and moved then
    select s.* into here from private.deal_stages s where s.stage = old.stage;
    if here.status <> 'ACTIVE' and (closed or row_security_active(tg_relid)) then
      raise exception 'A closed deal does not move' using
        errcode = 'PT409', detail = format('It is %s.', old.stage), hint = 'Call reopen_deal first.';
    elsif here.status = 'ACTIVE' and new.stage <> all (here.moves_to) then
      raise exception 'A deal cannot go from % to %', old.stage, new.stage using
        errcode = 'PT409', detail = format('From %s it may go to %s.', old.stage, array_to_string(here.moves_to, ', '));
    end if;
  end if;
  if new.status is distinct from untold and new.status <> goal.status
    and not (goal.status = 'LOST' and new.status = 'ABANDONED') then
    raise exception 'The status of a deal follows its stage' using
      errcode = 'PT422', detail = format('%s cannot be %s.', new.stage, new.status),
      hint = 'Write stage, or call move_deal or close_deal.';
  end if;
  if new.stage = 'CLOSED_LOST' and coalesce(trim(new.lost_reason), '') = '' then
    raise exception 'A lost deal needs a reason' using errcode = 'PT422', hint = 'Send lost_reason as well.';
  end if;
  if not moved then
    return new;
  end if;
  if not (closed and new.status = 'ABANDONED') then
    new.status := goal.status;
  end if;
  if closed or new.probability is null or (tg_op = 'UPDATE' and new.probability = old.probability) then
    new.probability := goal.probability;
  end if;
  if closed then
    new.actual_close_date := coalesce(new.actual_close_date, now());
  elsif tg_op = 'UPDATE' and here.status <> 'ACTIVE' then
    new.actual_close_date := null;
  end if;
  if new.stage <> 'CLOSED_LOST' then
    new.lost_reason := null;
  end if;
  return new;
end $$;
comment on function private.follow_stage() is
  'Lets deals make only the moves of deal_stages; status, probability and close date follow the stage.';
create trigger follow_stage before insert or update on public.deals
  for each row execute function private.follow_stage();

create function private.note_deal_move() returns trigger language plpgsql set search_path = '' as $$
declare
  action text := case
    when new.status <> 'ACTIVE' then lower(new.status::text)
    when old.status <> 'ACTIVE' then 'reopened'
    else 'moved' end;
begin
  perform private.record_change(
    new.organization_id, 'deal', new.id, action,
    format(case action when 'moved' then 'Deal moved from %2$s to %3$s' else 'Deal %1$s: from %2$s to %3$s' end,
      action, old.stage, new.stage),
    -- A reopened deal has no reason any more; here it is kept.
    coalesce(new.lost_reason, old.lost_reason), new.lead_id, new.contact_id, new.id, new.listing_id, new.assigned_to_id,
    case when new.status = 'WON' then 'SUCCESS' when new.status <> 'ACTIVE' then 'WARNING' else 'INFO' end::public."ActivitySeverity"
  );
  return null;
end $$;
comment on function private.note_deal_move() is 'Writes a NOTE for every move of a deal.';
create trigger note_move after update on public.deals
  for each row when (new.stage <> old.stage) execute function private.note_deal_move();

create function private.refuse(what text, id uuid) returns void language plpgsql stable set search_path = '' as $$
begin
  if private.current_user_org('MEMBER') is null then
    raise exception 'You may not change a % of this organisation', what using
      errcode = '42501', detail = 'It takes the role MEMBER or above.',
      hint = 'Name an organisation you belong to in the header x-org-id, or ask its owner for the role.';
  end if;
  raise exception 'There is no such %', what using
    errcode = 'PT404', detail = format('Found no %s %s in this organisation.', what, coalesce(id::text, 'without id'));
end $$;
comment on function private.refuse(text, uuid) is 'Says why a row could not be changed: the caller''s role, or no such row.';

create function public.move_deal(
  deal_id uuid, stage "DealStage", probability integer default null, lost_reason text default null
) returns public.deals language plpgsql set search_path = '' as $$
declare
  deal public.deals;
begin
  update public.deals d set stage = move_deal.stage, lost_reason = coalesce(move_deal.lost_reason, d.lost_reason)
  where d.id = deal_id returning d.* into deal;
  if not found then
    perform private.refuse('deal', deal_id);
  end if;
  -- Only now: in one statement, a probability given as it was could not be told from one not given.
  if deal.probability <> move_deal.probability then
    update public.deals d set probability = move_deal.probability where d.id = deal_id returning d.* into deal;
  end if;
  return deal;
end $$;
comment on function public.move_deal(uuid, "DealStage", integer, text) is
  'Moves a deal: forward freely, back one step, closed from anywhere. CLOSED_LOST needs lost_reason.';

create function public.close_deal(
  deal_id uuid, outcome "DealStatus", lost_reason text default null, closed_at timestamptz default null
) returns public.deals language plpgsql set search_path = '' as $$
declare
  deal public.deals;
begin
  if outcome is null or outcome = 'ACTIVE' then
    raise exception 'A deal is closed as WON, LOST or ABANDONED' using
      errcode = 'PT422', detail = format('Found %s.', coalesce(outcome::text, 'nothing'));
  end if;
  select d.* into deal from public.deals d where d.id = deal_id for no key update;
  if not found then
    perform private.refuse('deal', deal_id);
  end if;
  if deal.status <> 'ACTIVE' then
    raise exception 'This deal is closed already' using
      errcode = 'PT409', detail = format('It is %s.', deal.stage), hint = 'Call reopen_deal first.';
  end if;
  update public.deals d
  set stage = case outcome when 'WON' then 'CLOSED_WON' else 'CLOSED_LOST' end::public."DealStage", status = outcome,
    lost_reason = close_deal.lost_reason, actual_close_date = closed_at
  where d.id = deal_id returning d.* into deal;
  return deal;
end $$;
comment on function public.close_deal(uuid, "DealStatus", text, timestamptz) is
  'Closes a deal, now unless closed_at is given; LOST and ABANDONED need lost_reason.';

-- SECURITY DEFINER: no client may take a deal out of a closed stage otherwise.
create function private.reopen_deal(deal_id uuid, stage "DealStage") returns public.deals
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org('MEMBER');
  deal public.deals;
begin
  select d.* into deal from public.deals d where d.id = reopen_deal.deal_id and d.organization_id = org for update;
  if not found then
    perform private.refuse('deal', reopen_deal.deal_id);
  end if;
  if deal.status = 'ACTIVE' then
    raise exception 'This deal is open' using errcode = 'PT409', detail = format('It is %s.', deal.stage);
  end if;
  if reopen_deal.stage is null or reopen_deal.stage in ('CLOSED_WON', 'CLOSED_LOST') then
    raise exception 'A deal is reopened into an open stage' using
      errcode = 'PT422', detail = format('Found %s.', coalesce(reopen_deal.stage::text, 'nothing'));
  end if;
  update public.deals d set stage = reopen_deal.stage where d.id = deal.id returning d.* into deal;
  return deal;
end $$;
comment on function private.reopen_deal(uuid, "DealStage") is 'Puts a closed deal back into the pipeline.';

create function public.reopen_deal(deal_id uuid, stage "DealStage" default 'NEGOTIATION') returns public.deals
language sql set search_path = '' as 'select * from private.reopen_deal(deal_id, stage)';
comment on function public.reopen_deal(uuid, "DealStage") is
  'Puts a closed deal back into the pipeline; its reason and close date are cleared, the NOTE of the move keeps the reason.';

grant execute on function private.refuse(text, uuid), private.note_contact(), private.note_listing_status(),
  private.follow_score(), private.guard_conversion(), private.follow_stage(), private.note_deal_move(),
  private.record_change(uuid, text, uuid, text, text, text, uuid, uuid, uuid, uuid, uuid, "ActivitySeverity"),
  private.convert_lead(uuid, text, numeric, "DealStage"), private.reopen_deal(uuid, "DealStage"),
  public.convert_lead(uuid, text, numeric, "DealStage"), public.move_deal(uuid, "DealStage", integer, text),
  public.close_deal(uuid, "DealStatus", text, timestamptz), public.reopen_deal(uuid, "DealStage")
  to authenticated, service_role;

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
    property_types, cities, min_bedrooms, timeline, notes, tags, custom_fields, last_contact_at
  ),
  update (
    id, organization_id, assigned_to_id, name, email, phone, company, source, status, score, score_value, budget,
    property_types, cities, min_bedrooms, timeline, notes, tags, custom_fields, last_contact_at
  )
  on public.leads to authenticated;
grant all on public.leads to service_role;

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
    id, organization_id, assigned_to_id, name, email, phone, company, position, type, status, notes, tags, custom_fields,
    budget, property_types, cities, min_bedrooms, linkedin_url, twitter_url, preferred_contact_method, last_contact_at
  ),
  update (
    id, organization_id, assigned_to_id, name, email, phone, company, position, type, status, notes, tags, custom_fields,
    budget, property_types, cities, min_bedrooms, linkedin_url, twitter_url, preferred_contact_method, last_contact_at
  )
  on public.contacts to authenticated;
grant all on public.contacts to service_role;

alter table public.listings enable row level security;
create policy "members see listings" on public.listings for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add listings" on public.listings for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change listings" on public.listings for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete listings" on public.listings for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (
    id, organization_id, assigned_to_id, title, description, address, city, state, zip_code, country, property_type,
    bedrooms, bathrooms, square_feet, lot_size, year_built, price, status, mls_number, listing_date, expiration_date,
    images, virtual_tour_url, features, notes, tags, custom_fields
  ),
  update (
    id, organization_id, assigned_to_id, title, description, address, city, state, zip_code, country, property_type,
    bedrooms, bathrooms, square_feet, lot_size, year_built, price, status, mls_number, listing_date, expiration_date,
    images, virtual_tour_url, features, notes, tags, custom_fields
  )
  on public.listings to authenticated;
grant all on public.listings to service_role;

alter table public.deals enable row level security;
create policy "members see deals" on public.deals for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add deals" on public.deals for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change deals" on public.deals for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete deals" on public.deals for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (
    id, organization_id, assigned_to_id, lead_id, contact_id, listing_id, title, description, value, stage, status,
    probability, expected_close_date, actual_close_date, lost_reason, notes, tags, custom_fields
  ),
  update (
    id, organization_id, assigned_to_id, lead_id, contact_id, listing_id, title, description, value, stage, status,
    probability, expected_close_date, actual_close_date, lost_reason, notes, tags, custom_fields
  )
  on public.deals to authenticated;
grant all on public.deals to service_role;

alter table public.activities enable row level security;
create policy "members see activities" on public.activities for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add activities in their own name" on public.activities for insert to authenticated
  with check (
    organization_id = (select private.current_user_org('MEMBER')) and created_by_id = (select auth.uid())
  );
create policy "members change activities" on public.activities for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
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
