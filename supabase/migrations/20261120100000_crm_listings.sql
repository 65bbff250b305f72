-- CRM listings: properties for sale.

create type "PropertyType" as enum (
  'RESIDENTIAL', 'COMMERCIAL', 'LAND', 'MULTI_FAMILY', 'CONDO', 'TOWNHOUSE', 'LUXURY'
);
comment on type "PropertyType" is 'Kind of property.';
create type "ListingStatus" as enum ('ACTIVE', 'PENDING', 'SOLD', 'EXPIRED', 'WITHDRAWN', 'CONTINGENT');
comment on type "ListingStatus" is 'Whether a property can be bought.';

-- Foreign keys between these tables include the organization, so no row can refer to another tenant or reveal which ids
-- exist there. An assignee is a member; when the member leaves, the rows become unassigned. No ordered index starts
-- with a date, because the planner would use it to look for one tenant's newest rows among those of all tenants; time
-- over all tenants has BRIN.

create table public.listings (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
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
  -- Twelve digits, as many as price has: a property may have one square foot.
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
  constraint "assigned_to_id is a member of the organization" foreign key (assigned_to_id, organization_id)
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
create trigger touch before update on public.listings for each row execute function private.touch_updated_at();
select private.record_changes('public.listings');
create trigger trash before delete on public.listings for each row execute function private.move_to_trash();

-- Comparing enums is not leakproof, so under a policy `status = …` is no index condition. A partial index needs no
-- comparison, because its predicate names the value. Together these indexes are as large as one.
create index listings_status_active_idx
  on public.listings (organization_id, created_at desc) where status = 'ACTIVE';
create index listings_status_pending_idx
  on public.listings (organization_id, created_at desc) where status = 'PENDING';
create index listings_status_sold_idx
  on public.listings (organization_id, created_at desc) where status = 'SOLD';
create index listings_status_expired_idx
  on public.listings (organization_id, created_at desc) where status = 'EXPIRED';
create index listings_status_withdrawn_idx
  on public.listings (organization_id, created_at desc) where status = 'WITHDRAWN';
create index listings_status_contingent_idx
  on public.listings (organization_id, created_at desc) where status = 'CONTINGENT';

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
grant execute on function private.note_listing_status() to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

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
