-- CRM companies: the accounts behind contacts and deals. One name is one company: a contact that names a company belongs to
-- it, and the company is added when it is named for the first time.

create function private.company_key(name text) returns text
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  return coalesce(
    nullif(trim(regexp_replace(
      regexp_replace(lower(name), '[^[:alnum:]]+', ' ', 'g'),
      '( (inc|incorporated|llc|llp|ltd|limited|corp|corporation|company|co|gmbh|ag|plc|sa|bv))+ ?$', ''
    )), ''),
    lower(trim(name))
  );
end $$;
comment on function private.company_key(text) is
  'What the ways to write one company''s name have in common: "Acme, Inc." and "ACME" are one.';

create table public.companies (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  assigned_to_id uuid,
  name text not null constraint "company name is 1 to 255 characters" check (length(trim(name)) between 1 and 255),
  name_key text not null generated always as (private.company_key(name)) stored,
  website text constraint "website is an http(s) address of at most 500 characters"
    check (website ~* '^https?://[^[:space:]]+$' and length(website) <= 500),
  phone text constraint "phone is at most 50 characters" check (length(phone) <= 50),
  email text
    constraint "email is at most 255 characters" check (length(email) <= 255)
    constraint "email has an @ between two parts" check (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
  industry text constraint "industry is at most 100 characters" check (length(industry) <= 100),
  address text constraint "address is at most 500 characters" check (length(address) <= 500),
  notes text constraint "notes are at most 10000 characters" check (length(notes) <= 10000),
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "a company name is unique in the organization" unique (organization_id, name_key),
  constraint "assigned_to_id is a member of the organization" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id)
);
comment on table public.companies is 'Companies that contacts work for and deals are made with.';
comment on column public.companies.organization_id is 'The organization; by default the one the request acts in.';
comment on column public.companies.assigned_to_id is 'The member who looks after it.';
comment on column public.companies.name is 'As it is written; unique without regard to case, punctuation and Inc., LLC, ….';
comment on column public.companies.name_key is 'What names are compared by; computed.';
comment on column public.companies.website is 'Address of its website.';
comment on column public.companies.phone is 'Its main number.';
comment on column public.companies.email is 'Its main address.';
comment on column public.companies.industry is 'What it does.';
comment on column public.companies.address is 'Where it is.';
comment on column public.companies.notes is 'Remarks; longer texts are notes of their own.';
comment on column public.companies.tags is 'Words to group companies by.';
comment on column public.companies.custom_fields is 'Fields of the organization''s own.';
create index companies_organization_idx on public.companies (organization_id, created_at desc);
create index companies_assigned_to_idx on public.companies (assigned_to_id, organization_id);
create index companies_search_idx on public.companies using gin (
  organization_id, private.search_terms(organization_id, phone, name, email, website)
) with (gin_pending_list_limit = 512);
create trigger touch before update on public.companies for each row execute function private.touch_updated_at();
select private.record_changes('public.companies');
create trigger trash before delete on public.companies for each row execute function private.move_to_trash();

-- The company of a contact --------------------------------------------------------------------------------------------

create function private.company_named(org uuid, name text) returns uuid
language plpgsql set search_path = '' as $$
declare
  key constant text := private.company_key(company_named.name);
  found_company uuid;
begin
  select c.id into found_company from public.companies c where c.organization_id = org and c.name_key = key;
  if not found then
    insert into public.companies (organization_id, name) values (org, trim(company_named.name))
    on conflict on constraint "a company name is unique in the organization" do nothing returning id into found_company;
    if not found then
      -- Another request has just added it.
      select c.id into found_company from public.companies c where c.organization_id = org and c.name_key = key;
    end if;
  end if;
  return found_company;
end $$;
comment on function private.company_named(uuid, text) is 'The company with this name, added if there is none.';

-- Restoring and merging add no company: one that is in the trash finds its contacts again when it is restored.
create function private.link_company() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.company_id is not null and (tg_op = 'INSERT' or new.company_id is distinct from old.company_id) then
    select c.name into new.company from public.companies c
    where c.organization_id = new.organization_id and c.id = new.company_id;
  elsif coalesce(current_setting('strive.history_action', true), '') <> '' then
    return new;
  elsif tg_op = 'UPDATE' and new.company_id is null and old.company_id is not null and new.company = old.company then
    -- Of a company that was deleted, the name stays.
    if exists (select from public.companies c where c.organization_id = new.organization_id and c.id = old.company_id) then
      new.company := null;
    end if;
  elsif tg_op = 'INSERT' or new.company is distinct from old.company then
    new.company_id := case
      when trim(new.company) <> '' then private.company_named(new.organization_id, new.company)
    end;
  end if;
  return new;
end $$;
comment on function private.link_company() is 'Keeps company and company_id of a contact together; write either.';

-- SECURITY DEFINER: all contacts follow, also those that an API key may not write.
create function private.rename_company() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.contacts c set company = new.name
  where c.organization_id = new.organization_id and c.company_id = new.id and c.company is distinct from new.name;
  return null;
end $$;
comment on function private.rename_company() is 'Writes the new name of a company into its contacts.';
create trigger rename_company after update of name on public.companies
  for each row when (new.name <> old.name) execute function private.rename_company();

-- For a project that has companies as text already.
create function private.link_companies_of_contacts() returns bigint language plpgsql set search_path = '' as $$
declare
  linked bigint;
begin
  insert into public.companies (organization_id, name)
  select distinct on (c.organization_id, private.company_key(c.company)) c.organization_id, trim(c.company)
  from public.contacts c where c.company_id is null and trim(c.company) <> ''
  order by c.organization_id, private.company_key(c.company), c.created_at
  on conflict on constraint "a company name is unique in the organization" do nothing;
  update public.contacts c set company_id = o.id
  from public.companies o
  where c.company_id is null and trim(c.company) <> '' and o.organization_id = c.organization_id
    and o.name_key = private.company_key(c.company);
  get diagnostics linked = row_count;
  return linked;
end $$;
comment on function private.link_companies_of_contacts() is
  'Adds the companies that contacts name as text and links them; safe to repeat. Returns how many contacts were linked.';

grant execute on function private.company_key(text), private.company_named(uuid, text), private.link_company()
  to authenticated, service_role;

-- Duplicates ----------------------------------------------------------------------------------------------------------

create function private.merge_companies(into_id uuid, duplicate_ids uuid[]) returns public.companies
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN');
  gone uuid[] := array(select distinct i from unnest(duplicate_ids) i where i is not null);
  before public.companies;
  kept public.companies;
  other public.companies;
  others jsonb := '[]';
begin
  if cardinality(gone) not between 1 and 20 or into_id = any (gone) then
    raise exception 'A merge takes 1 to 20 other companies' using
      errcode = 'PT422', detail = format('Found %s to be merged into %s.', cardinality(gone), into_id);
  end if;
  perform from public.companies c where c.organization_id = org and c.id = any (gone || into_id) order by c.id for update;
  select c.* into before from public.companies c where c.organization_id = org and c.id = into_id;
  kept := before;
  for other in
    select c.* from public.companies c where c.organization_id = org and c.id = any (gone) order by c.created_at, c.id
  loop
    others := others || to_jsonb(other);
    kept.assigned_to_id := coalesce(kept.assigned_to_id, other.assigned_to_id);
    kept.website := coalesce(kept.website, other.website);
    kept.phone := coalesce(kept.phone, other.phone);
    kept.email := coalesce(kept.email, other.email);
    kept.industry := coalesce(kept.industry, other.industry);
    kept.address := coalesce(kept.address, other.address);
    kept.notes := left(nullif(concat_ws(E'\n\n', kept.notes, other.notes), ''), 10000);
    kept.tags := array(select distinct unnest(kept.tags || other.tags) order by 1);
    kept.custom_fields := coalesce(other.custom_fields || kept.custom_fields, kept.custom_fields, other.custom_fields);
  end loop;
  if before.id is null or jsonb_array_length(others) <> cardinality(gone) then
    raise exception 'Some of these companies do not exist' using
      errcode = 'PT404', detail = 'They are not in this organization, or were merged already.',
      hint = 'Nothing was changed.';
  end if;
  perform private.repoint_links('public.companies', org, gone, into_id);
  delete from public.companies c where c.organization_id = org and c.id = any (gone);
  perform private.repoint_trash(org, gone, into_id);
  update public.companies c set assigned_to_id = kept.assigned_to_id, website = kept.website, phone = kept.phone,
    email = kept.email, industry = kept.industry, address = kept.address, notes = kept.notes, tags = kept.tags,
    custom_fields = kept.custom_fields
  where c.id = into_id returning c.* into kept;
  perform private.log_merge('companies', into_id, jsonb_build_object('kept', to_jsonb(before), 'merged', others),
    to_jsonb(kept));
  return kept;
end $$;
comment on function private.merge_companies(uuid, uuid[]) is 'Does the work of public.merge_companies().';

create function public.merge_companies(into_id uuid, duplicate_ids uuid[]) returns public.companies
language sql set search_path = '' as 'select * from private.merge_companies(into_id, duplicate_ids)';
comment on function public.merge_companies(uuid, uuid[]) is
  'Makes one company of several (ADMIN): contacts, deals, tasks and notes move to it and its gaps are filled.';

create function private.find_duplicate_companies(company_id uuid) returns setof public.companies
language plpgsql stable security definer set search_path = '' as $$
declare
  org uuid := private.require_org('VIEWER');
  one public.companies;
begin
  select c.* into one from public.companies c where c.organization_id = org and c.id = company_id;
  return query
  select c.* from public.companies c
  where c.organization_id = org and c.id <> one.id and (
    private.same_phone(c.phone) = private.same_phone(one.phone) or lower(c.email) = lower(one.email)
    or substring(lower(c.website) from '://(?:www\.)?([^/:]+)') = substring(lower(one.website) from '://(?:www\.)?([^/:]+)')
    or starts_with(c.name_key || ' ', one.name_key || ' ') or starts_with(one.name_key || ' ', c.name_key || ' ')
  )
  order by c.created_at, c.id limit 20;
end $$;
comment on function private.find_duplicate_companies(uuid) is 'Does the work of public.find_duplicate_companies().';
create function public.find_duplicate_companies(company_id uuid) returns setof public.companies
language sql stable set search_path = '' as 'select * from private.find_duplicate_companies(company_id)';
comment on function public.find_duplicate_companies(uuid) is
  'Up to 20 companies that might be the same: same phone, email or website, or a name that begins alike.';

grant execute on function private.merge_companies(uuid, uuid[]), public.merge_companies(uuid, uuid[]),
  private.find_duplicate_companies(uuid), public.find_duplicate_companies(uuid)
  to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.companies enable row level security;
create policy "members see companies" on public.companies for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add companies" on public.companies for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change companies" on public.companies for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete companies" on public.companies for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (
    id, organization_id, assigned_to_id, name, website, phone, email, industry, address, notes, tags, custom_fields
  ),
  update (
    id, organization_id, assigned_to_id, name, website, phone, email, industry, address, notes, tags, custom_fields
  )
  on public.companies to authenticated;
grant all on public.companies to service_role;
