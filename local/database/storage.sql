-- The tables of the storage service, shaped as on hosted Supabase; applied as, and owned by, supabase_storage_admin.
create table storage.buckets (
  id text not null primary key,
  name text not null unique,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  public boolean default false,
  avif_autodetection boolean default false,
  file_size_limit bigint,
  allowed_mime_types text[],
  owner_id text
);

create table storage.objects (
  id uuid not null default gen_random_uuid() primary key,
  bucket_id text references storage.buckets,
  name text,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  last_accessed_at timestamptz default now(),
  metadata jsonb,
  path_tokens text[] generated always as (string_to_array(name, '/')) stored,
  version text,
  owner_id text,
  user_metadata jsonb
);
create unique index bucketid_objname on storage.objects (bucket_id, name);
create index idx_objects_bucket_id_name on storage.objects (bucket_id, name collate "C");
create index name_prefix_search on storage.objects (name text_pattern_ops);

alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;

-- For policies: of 'org/orders/1/plan.pdf' the folders {org,orders,1}, the name plan.pdf, the extension pdf.
create function storage.foldername(name text) returns text[] language sql immutable
  return (string_to_array(name, '/'))[1:cardinality(string_to_array(name, '/')) - 1];
create function storage.filename(name text) returns text language sql immutable
  return (string_to_array(name, '/'))[cardinality(string_to_array(name, '/'))];
create function storage.extension(name text) returns text language sql immutable
  return reverse(split_part(reverse(split_part(name, '/', -1)), '.', 1));

-- What the API is about to do, e.g. storage.object.upload; empty outside it.
create function storage.operation() returns text language sql stable
  return current_setting('storage.operation', true);
create function storage.allow_only_operation(expected_operation text) returns boolean language sql stable
  return regexp_replace(storage.operation(), '^storage\.', '') = regexp_replace(expected_operation, '^storage\.', '');
create function storage.allow_any_operation(expected_operations text[]) returns boolean language sql stable
  return exists (select from unnest(expected_operations) expected where storage.allow_only_operation(expected));
