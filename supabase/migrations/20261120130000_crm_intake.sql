-- CRM intake: leads from an organization's website, and leads and contacts from a file.

-- Tokens of websites --------------------------------------------------------------------------------------------------
-- A token is part of a public web page. It can only submit leads to one organization, at a limited rate.

create table private.capture_tokens (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  name text not null constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  token_hash text not null unique constraint "token_hash is a SHA-256 in hex" check (token_hash ~ '^[0-9a-f]{64}$'),
  source "LeadSource" not null,
  assigned_to_id uuid,
  per_minute integer not null constraint "per_minute is 1 to 600" check (per_minute between 1 and 600),
  created_at timestamptz not null default now(),
  rotated_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  constraint "assigned_to_id is a member of the organization" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id)
);
comment on table private.capture_tokens is
  'Tokens with which the websites of an organization submit leads; only hashes are stored.';
comment on column private.capture_tokens.assigned_to_id is 'Who gets the leads.';
create index capture_tokens_organization_idx on private.capture_tokens (organization_id);
create index capture_tokens_assigned_to_idx on private.capture_tokens (assigned_to_id, organization_id);

create table private.capture_counts (
  token_id uuid not null references private.capture_tokens (id) on delete cascade,
  address text not null,
  minute timestamptz not null,
  captured integer not null,
  primary key (token_id, address, minute)
);
comment on table private.capture_counts is 'How many leads arrived with a token in a minute, from an address and in total ('''').';

create function private.new_capture_token() returns text language plpgsql set search_path = '' as $$
begin
  return 'strive_capture_' || encode(extensions.gen_random_bytes(24), 'hex');
end $$;
comment on function private.new_capture_token() is 'A new random token.';

create function private.create_capture_token(
  name text, source "LeadSource", assigned_to_id uuid, per_minute integer
) returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN');
  token text := private.new_capture_token();
  made uuid;
begin
  perform private.refuse_impersonation(); -- a token outlasts it
  if (select count(*) from private.capture_tokens t where t.organization_id = org and t.revoked_at is null) >= 20 then
    raise exception 'An organization has at most 20 tokens' using errcode = 'PT422', hint = 'Revoke one first.';
  end if;
  insert into private.capture_tokens (organization_id, name, token_hash, source, assigned_to_id, per_minute)
  values (
    org, create_capture_token.name, encode(sha256(convert_to(token, 'UTF8')), 'hex'), create_capture_token.source,
    create_capture_token.assigned_to_id, create_capture_token.per_minute
  ) returning id into made;
  return jsonb_build_object('id', made, 'token', token);
end $$;
comment on function private.create_capture_token(text, "LeadSource", uuid, integer) is 'Makes a token for a website.';

create function private.change_capture_token(token_id uuid, revoke boolean) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN');
  token text := case when not revoke then private.new_capture_token() end;
begin
  update private.capture_tokens t set
    token_hash = coalesce(encode(sha256(convert_to(token, 'UTF8')), 'hex'), t.token_hash),
    rotated_at = case when revoke then t.rotated_at else now() end, revoked_at = case when revoke then now() end
  where t.id = token_id and t.organization_id = org and t.revoked_at is null;
  if not found then
    raise exception 'There is no such token' using
      errcode = 'PT404', detail = format('Found no token %s in use in this organization.', token_id);
  end if;
  return jsonb_build_object('id', token_id, 'token', token);
end $$;
comment on function private.change_capture_token(uuid, boolean) is 'Revokes a token, or puts another in its place.';

create type public.capture_token as (
  id uuid, name text, source "LeadSource", assigned_to_id uuid, per_minute integer, created_at timestamptz,
  rotated_at timestamptz, revoked_at timestamptz, last_used_at timestamptz
);
comment on type public.capture_token is 'A capture token without its secret text.';

create function private.list_capture_tokens() returns setof public.capture_token
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
declare
  org uuid := private.require_org('ADMIN', true);
begin
  return query
  select t.id, t.name, t.source, t.assigned_to_id, t.per_minute, t.created_at, t.rotated_at, t.revoked_at, t.last_used_at
  from private.capture_tokens t where t.organization_id = org order by t.created_at, t.id;
end $$;
comment on function private.list_capture_tokens() is 'The tokens of the caller''s organization.';

create function public.create_capture_token(
  name text, source "LeadSource" default 'WEBSITE', assigned_to_id uuid default null, per_minute integer default 60
) returns jsonb language sql set search_path = ''
as 'select private.create_capture_token(name, source, assigned_to_id, per_minute)';
comment on function public.create_capture_token(text, "LeadSource", uuid, integer) is
  'Creates a token with which a website submits leads to the function capture-lead (ADMIN); it is returned only once.';
create function public.rotate_capture_token(token_id uuid) returns jsonb language sql set search_path = ''
as 'select private.change_capture_token(token_id, false)';
comment on function public.rotate_capture_token(uuid) is
  'Replaces a token (ADMIN); the new one is returned only once, and the old one is invalid from now on.';
create function public.revoke_capture_token(token_id uuid) returns jsonb language sql set search_path = ''
as 'select private.change_capture_token(token_id, true)';
comment on function public.revoke_capture_token(uuid) is 'Revokes a token for good (ADMIN).';
create function public.capture_tokens() returns setof public.capture_token
language sql stable set search_path = '' as 'select * from private.list_capture_tokens()';
comment on function public.capture_tokens() is
  'The tokens of the organization''s websites, without their secret text (ADMIN).';

grant execute on function private.create_capture_token(text, "LeadSource", uuid, integer),
  private.change_capture_token(uuid, boolean), private.list_capture_tokens(),
  public.create_capture_token(text, "LeadSource", uuid, integer), public.rotate_capture_token(uuid),
  public.revoke_capture_token(uuid), public.capture_tokens()
  to authenticated, service_role;

-- capture-lead --------------------------------------------------------------------------------------------------------

create function private.count_capture(token private.capture_tokens, address text) returns void
language plpgsql set search_path = '' as $$
declare
  count_of record;
begin
  -- Always in this order: captures of one token wait for each other at the row that counts all addresses.
  for count_of in select * from (values ('', token.per_minute), (coalesce(address, '?'), 5)) c (address, allowed) loop
    insert into private.capture_counts as c (token_id, address, minute, captured)
    values (token.id, count_of.address, date_trunc('minute', now()), 1)
    on conflict on constraint capture_counts_pkey do update set captured = c.captured + 1
    where c.captured < count_of.allowed;
    if not found then
      raise exception 'Too many requests' using
        errcode = 'PT429', constraint = 'retry-after ' || private.next_minute(), detail = format('At most %s a minute are allowed.', count_of.allowed),
        hint = 'Try again in the next minute.';
    end if;
  end loop;
  delete from private.capture_counts c where c.token_id = token.id and c.minute < now() - interval '5 minutes';
end $$;
comment on function private.count_capture(private.capture_tokens, text) is
  'Counts a capture; PT429 beyond what the token allows, or 5 a minute from one address.';

create function private.notify_of_lead(token private.capture_tokens, lead_id uuid, contact_id uuid, assignee uuid, title text, message text)
returns void language plpgsql set search_path = '' as $$
begin
  perform private.publish_event(
    'crm.lead.captured', token.organization_id, case when lead_id is null then 'contact' else 'lead' end,
    coalesce(lead_id, contact_id), title, coalesce(message, 'They left no message.'), array(
      select m.user_id from public.organization_members m
      where m.organization_id = token.organization_id and (m.user_id = assignee or assignee is null and m.role = 'OWNER')
    ), path => case when lead_id is null then '/contacts/' || contact_id end
  );
end $$;
comment on function private.notify_of_lead(private.capture_tokens, uuid, uuid, uuid, text, text) is
  'Notifies the assignee of the lead or contact, or else the owners, of a message.';

-- The response is the same for a new lead, a known one and a robot, so it does not reveal who is known.
create function private.capture_lead(capture jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  received constant jsonb := '{"received": true}';
  token private.capture_tokens;
  sent record;
  came_from jsonb := jsonb_strip_nulls(jsonb_build_object(
    'page', capture ->> 'page', 'referrer', capture ->> 'referrer', 'utm_source', capture ->> 'utm_source',
    'utm_medium', capture ->> 'utm_medium', 'utm_campaign', capture ->> 'utm_campaign'
  ));
  known record;
  a_lead uuid;
begin
  select t.* into token from private.capture_tokens t
  where t.token_hash = encode(sha256(convert_to(capture ->> 'token', 'UTF8')), 'hex') and t.revoked_at is null;
  if not found then
    raise exception 'This token is not known' using
      errcode = 'PT401', hint = 'It was revoked or rotated; ask the administrators of the organization for another.';
  end if;
  perform private.count_capture(token, private.client_network());
  update private.capture_tokens t set last_used_at = now() where t.id = token.id;
  -- People do not see this field: only robots fill it in.
  if coalesce(capture ->> 'website', '') <> '' then
    return received;
  end if;
  select r.* into sent from jsonb_to_record(capture) r (
    name text, email text, phone text, company text, message text, budget numeric, property_types public."PropertyType"[],
    cities text[], min_bedrooms integer
  );
  came_from := came_from || jsonb_build_object('token', token.name);
  -- Captures of one organization run one after the other, so that a form sent twice at once creates one lead.
  perform pg_advisory_xact_lock(hashtextextended('capture:' || token.organization_id, 0));
  select p.* into known from (
    select 1 as rank, c.id as contact_id, null::uuid as lead_id, c.assigned_to_id, c.created_at from public.contacts c
    where c.organization_id = token.organization_id
      and (lower(c.email) = lower(trim(sent.email)) or private.same_phone(c.phone) = private.same_phone(sent.phone))
    union all
    select 2, null, l.id, l.assigned_to_id, l.created_at from public.leads l
    where l.organization_id = token.organization_id and l.status in ('NEW_LEAD', 'IN_CONTACT', 'QUALIFIED')
      and (lower(l.email) = lower(trim(sent.email)) or private.same_phone(l.phone) = private.same_phone(sent.phone))
  ) p order by p.rank, p.created_at, p.contact_id, p.lead_id limit 1;
  if found then
    -- Knowing a phone number does not authorize a change of the lead, but for the time of contact: the entry has what was
    -- sent, and a person decides.
    update public.leads l set last_contact_at = now() where l.organization_id = token.organization_id and l.id = known.lead_id;
    update public.contacts c set last_contact_at = now()
    where c.organization_id = token.organization_id and c.id = known.contact_id;
    perform private.record_change(
      token.organization_id, case when known.lead_id is null then 'contact' else 'lead' end,
      coalesce(known.lead_id, known.contact_id), 'captured', format('%s wrote again on %s', sent.name, token.name),
      concat_ws(E'\n', sent.message, 'Sent: ' || concat_ws(', ', trim(sent.email), sent.phone, sent.company, sent.budget),
        came_from::text), lead_id => known.lead_id, contact_id => known.contact_id,
      assigned_to_id => known.assigned_to_id
    );
    perform private.notify_of_lead(
      token, known.lead_id, known.contact_id, known.assigned_to_id, format('%s wrote again on %s', sent.name, token.name),
      sent.message
    );
    return received;
  end if;
  perform set_config('strive.quiet', 'on', true); -- crm.lead.captured follows
  insert into public.leads (
    organization_id, assigned_to_id, name, email, phone, company, source, budget, property_types, cities, min_bedrooms,
    notes, custom_fields, last_contact_at
  ) values (
    token.organization_id, token.assigned_to_id, trim(sent.name), nullif(trim(sent.email), ''), nullif(trim(sent.phone), ''),
    sent.company, case lower(capture ->> 'utm_medium')
      when 'cpc' then 'GOOGLE_ADS' when 'social' then 'SOCIAL_MEDIA' when 'email' then 'EMAIL_CAMPAIGN'
      when 'referral' then 'REFERRAL' else token.source::text end::public."LeadSource",
    sent.budget, coalesce(sent.property_types, '{}'), coalesce(sent.cities, '{}'), sent.min_bedrooms, sent.message,
    jsonb_build_object('captured', came_from), now()
  ) returning id into a_lead;
  perform private.record_change(
    token.organization_id, 'lead', a_lead, 'captured', format('New lead from %s: %s', token.name, trim(sent.name)),
    sent.message, lead_id => a_lead, assigned_to_id => token.assigned_to_id, severity => 'SUCCESS'
  );
  perform private.notify_of_lead(
    token, a_lead, null, token.assigned_to_id, format('New lead from %s: %s', token.name, trim(sent.name)), sent.message
  );
  return received;
end $$;
comment on function private.capture_lead(jsonb) is
  'Receives a lead from a website: a new one, or a message of a lead or contact who is known by email or phone.';
grant execute on function private.capture_lead(jsonb) to strive_functions;

-- import-records ------------------------------------------------------------------------------------------------------

create function private.authorize_import(query jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform private.require_org('MEMBER');
  return '{}';
end $$;
comment on function private.authorize_import(jsonb) is 'Raises unless the caller may import; runs before a file is read.';

create function private.begin_import(options jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  if not pg_try_advisory_xact_lock(hashtextextended('import:' || private.require_org('MEMBER'), 0)) then
    raise exception 'An import of this organization is running' using
      errcode = 'PT409', hint = 'Wait until it has finished.';
  end if;
  return '{}';
end $$;
comment on function private.begin_import(jsonb) is 'Raises while another import of the organization runs.';

create function private.known_emails(emails text[]) returns text[]
language plpgsql stable security definer set search_path = '' as $$
declare
  org uuid := private.require_org('MEMBER');
begin
  return array(
    select e from unnest(emails) e
    where exists (select from public.leads l where l.organization_id = org and lower(l.email) = e)
      or exists (select from public.contacts c where c.organization_id = org and lower(c.email) = e)
  );
end $$;
comment on function private.known_emails(text[]) is 'Which of these the caller''s organization has already.';

create function private.import_row(org uuid, kind text, items jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  rows jsonb := (select jsonb_agg(i -> 'row') from jsonb_array_elements(items) i);
begin
  if kind = 'leads' then
    insert into public.leads (
      organization_id, name, email, phone, company, source, status, score_value, budget, property_types, cities,
      min_bedrooms, timeline, notes, tags
    )
    select org, r.name, r.email, r.phone, r.company, r.source, r.status, r.score_value, r.budget, r.property_types,
      r.cities, r.min_bedrooms, r.timeline, r.notes, r.tags
    from jsonb_populate_recordset(jsonb_populate_record(
      null::public.leads, '{"source": "WEBSITE", "status": "NEW_LEAD", "score": "COLD", "score_value": 0,
        "property_types": [], "cities": [], "tags": []}'
    ), rows) r;
  else
    insert into public.contacts (
      organization_id, name, email, phone, company, position, type, status, budget, property_types, cities,
      min_bedrooms, notes, tags
    )
    select org, r.name, r.email, r.phone, r.company, r.position, r.type, r.status, r.budget, r.property_types, r.cities,
      r.min_bedrooms, r.notes, r.tags
    from jsonb_populate_recordset(jsonb_populate_record(
      null::public.contacts, '{"type": "PROSPECT", "status": "ACTIVE", "property_types": [], "cities": [], "tags": []}'
    ), rows) r;
  end if;
end $$;
comment on function private.import_row(uuid, text, jsonb) is 'Inserts rows of a file under the caller''s policies.';

create function private.import_rows(batch jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid := private.require_org('MEMBER');
  rows jsonb := batch -> 'rows';
  given integer := jsonb_array_length(rows);
  known text[];
  item jsonb;
  imported integer := 0;
  problems jsonb := '[]';
begin
  if (batch ->> 'skip_known')::boolean then
    known := private.known_emails(array(
      select lower(e #>> '{row,email}') from jsonb_array_elements(rows) e where e #>> '{row,email}' is not null
    ));
    rows := coalesce((
      select jsonb_agg(e) from jsonb_array_elements(rows) e where lower(e #>> '{row,email}') = any (known) is not true
    ), '[]');
  end if;
  begin
    perform private.import_row(org, batch ->> 'kind', rows);
    imported := jsonb_array_length(rows);
  exception when data_exception or integrity_constraint_violation or sqlstate 'PT409' or sqlstate 'PT422' then
    -- At least one row is invalid: insert each by itself to find out which.
    for item in select e from jsonb_array_elements(rows) e loop
      begin
        perform private.refuse_unreadable(format('public.%I', batch ->> 'kind')::regclass, item -> 'row');
        perform private.import_row(org, batch ->> 'kind', jsonb_build_array(item));
        imported := imported + 1;
      exception when data_exception or integrity_constraint_violation or sqlstate 'PT409' or sqlstate 'PT422' then
        problems := problems || jsonb_build_object('line', item -> 'line', 'problem', left(sqlerrm, 300));
      end;
    end loop;
  end;
  return jsonb_build_object(
    'imported', imported, 'problems', problems, 'known', given - imported - jsonb_array_length(problems)
  );
end $$;
comment on function private.import_rows(jsonb) is 'Imports some rows of a file; returns which rows failed, and why.';

grant execute on function private.authorize_import(jsonb), private.begin_import(jsonb), private.known_emails(text[]), private.import_row(uuid, text, jsonb),
  private.import_rows(jsonb) to strive_functions, strive_api_key;

-- ingest --------------------------------------------------------------------------------------------------------------

create function private.ingest_leads(request jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org constant uuid := private.require_org('MEMBER');
  is_dry_run constant boolean := (request ->> 'dry_run')::boolean;
  defaults constant public.leads := jsonb_populate_record(null::public.leads, '{"source": "OTHER", "status": "NEW_LEAD",
    "score_value": 0, "property_types": [], "cities": [], "tags": []}');
  item record;
  listed record;
  sent public.leads;
  known record;
  results jsonb := '[]';
  created uuid;
  made uuid[] := '{}';
begin
  -- One after the other in an organization, so that a person who is sent twice at once is known the second time.
  perform pg_advisory_xact_lock(hashtextextended('capture:' || org, 0));
  begin
    for item in select r.row, r.place from jsonb_array_elements(request -> 'rows') with ordinality r (row, place) loop
      begin
        select c.key, c.value into listed from jsonb_each(item.row) c
        where jsonb_typeof(c.value) in ('array', 'object') and c.key not in ('property_types', 'cities', 'tags') limit 1;
        if found then
          raise exception '%: found %, accepted: one value', listed.key, left(listed.value::text, 100) using errcode = 'PT422';
        end if;
        perform private.refuse_unreadable('public.leads', item.row);
        sent := jsonb_populate_record(defaults, item.row);
        select d.kind, d.id into known from private.find_duplicates(sent.email, sent.phone, null) d limit 1;
        if found then
          results := results || jsonb_build_object('index', item.place - 1, 'outcome', 'known', 'kind', known.kind, 'id', known.id);
          continue;
        end if;
        insert into public.leads (
          organization_id, name, email, phone, company, source, status, score_value, budget, property_types, cities,
          min_bedrooms, timeline, notes, tags
        ) values (
          org, sent.name, sent.email, sent.phone, sent.company, sent.source, sent.status, sent.score_value, sent.budget,
          sent.property_types, sent.cities, sent.min_bedrooms, sent.timeline, sent.notes, sent.tags
        ) returning id into created;
        made := made || created;
        results := results || jsonb_build_object(
          'index', item.place - 1, 'outcome', 'created', 'kind', 'lead', 'id', case when not is_dry_run then created end
        );
      exception when data_exception or integrity_constraint_violation or sqlstate 'PT409' or sqlstate 'PT422' then
        results := results || jsonb_build_object(
          'index', item.place - 1, 'outcome', 'failed', 'problem', left(sqlerrm, 300)
        );
      end;
    end loop;
    if is_dry_run then
      raise sqlstate 'DRY00';
    end if;
    if cardinality(made) > 0 then
      insert into public.activity_feeds (organization_id, user_id, title, type, entity_type, entity_id, action, metadata)
      values (
        org, auth.uid(), case cardinality(made) when 1 then 'A lead arrived' else format('%s leads arrived', cardinality(made)) end,
        'INTEGRATION_EVENT', 'lead', made[1], 'ingested', jsonb_build_object('ids', made)
      );
    end if;
  exception when sqlstate 'DRY00' then
    null; -- Undone; the variables keep what would have happened.
  end;
  return jsonb_build_object('dry_run', is_dry_run, 'results', results);
end $$;
comment on function private.ingest_leads(jsonb) is
  'Creates leads from records of another program; a person who is known by email or phone is not created again.';
grant execute on function private.ingest_leads(jsonb) to strive_functions;
