-- CRM operations: bulk changes, checks for duplicates before a write, reports and exports.
-- This chapter follows the workspace, because agendas and follow-ups read its appointments.
--
-- What searches by more than equality is SECURITY DEFINER in `private` and names the organization itself: trigram and
-- lower-case comparisons are not leakproof, so that under a policy no index could be searched for them.

-- Search --------------------------------------------------------------------------------------------------------------

create function private.search_query(org uuid, phrase text, forgiving boolean) returns tsquery
language plpgsql immutable set search_path = '' as $$
declare
  tenant constant text := left(org::text, 8);
  blot constant text := left(tenant, 1) || '*';
  digits text := private.digits(phrase);
  word text;
  size integer;
  one integer;
  two integer;
  ways text[];
  words text[] := '{}';
  sought text;
begin
  foreach word in array private.search_words(phrase) loop
    size := length(word);
    -- Too many numbers begin with the same one or two digits.
    ways := array[format(case when word ~ '^[0-9]{1,2}$' then '%L' else '%L:*' end, tenant || word)];
    if forgiving and size > 2 and word !~ '[0-9]' then
      for long in greatest(size - 1, 4) .. size + 1 loop
        one := (long + 2) / 3;
        two := (2 * long + 2) / 3;
        ways := ways || array[
          quote_literal(blot || repeat('*', one) || right(word, long - one)),
          quote_literal(blot || left(word, one) || repeat('*', two - one) || right(word, long - two)),
          quote_literal(blot || left(word, two) || repeat('*', long - two))
        ];
      end loop;
      -- Two letters that changed places at the border of two thirds.
      foreach one in array array[(size + 2) / 3, (2 * size + 2) / 3] loop
        ways := ways || quote_literal(
          tenant || left(word, one - 1) || substr(word, one + 1, 1) || substr(word, one, 1) || substr(word, one + 2)
        );
      end loop;
    end if;
    words := words || ('(' || array_to_string(ways, '|') || ')');
  end loop;
  sought := array_to_string(words, '&');
  if sought <> '' and phrase ~ '^[-+/(). 0-9]+$' and length(digits) > 3 then
    -- A phone number: the whole, its local part, or the beginning of either. With one wrong digit, either its beginning
    -- or its end is right.
    sought := case
      when length(digits) < 7 then format('(%s)|%L:*', sought, tenant || digits)
      else format('%L:*|%L', tenant || digits, tenant || right(digits, case when length(digits) < 10 then 7 else 10 end))
        || case when forgiving then format('|%L', tenant || right(digits, 4)) else '' end
        || case when forgiving and length(digits) > 9
          then format('|%L:*', tenant || left(right(digits, 10), 6)) else '' end
    end;
  end if;
  return sought::tsquery;
end $$;
comment on function private.search_query(uuid, text, boolean) is
  'The query for the terms of a row: it needs every word, or words that begin with it; if forgiving, words that '
  'resemble it.';

-- Bitmap scans only: the slow plan is an ordered scan of the tenant that expects to find the words early.
create type public.search_result as (
  kind text, id uuid, title text, detail text, status text, likeness real
);
comment on type public.search_result is 'A row that a search found.';

create function private.search_crm(query text, most integer) returns setof public.search_result
language plpgsql stable security definer rows 20
set search_path = '' set enable_seqscan = off set enable_indexscan = off as $$
declare
  org uuid := private.require_org('VIEWER');
  phrase text := trim(regexp_replace(query, '\s+', ' ', 'g'));
  wanted tsquery;
begin
  if coalesce(length(phrase), 0) not between 2 and 100 or coalesce(most, 0) not between 1 and 100 then
    raise exception 'query must have 2 to 100 characters, and most must be 1 to 100' using
      errcode = 'PT422', detail = format('Found %s characters and most = %s.', coalesce(length(phrase), 0), most);
  end if;
  -- First rows with exactly these words; if there are none, rows with similar words. At most 100 rows of each kind are
  -- ranked, which bounds the time of a query that is too common to be useful.
  foreach wanted in array array[private.search_query(org, phrase, false), private.search_query(org, phrase, true)] loop
    return query
    select f.kind, f.id, f.title, f.detail, f.status, extensions.word_similarity(phrase, f.words)
    from (
      (
        select 'lead' as kind, l.id, l.name as title, concat_ws(', ', l.email, l.phone, l.company) as detail,
          l.status::text as status, concat_ws(' ', l.name, l.email, l.phone, l.company) as words, l.created_at
        from public.leads l
        where l.organization_id = org
          and private.search_terms(l.organization_id, l.phone, l.name, l.email, l.company) @@ wanted
        limit 100
      ) union all (
        select 'contact', c.id, c.name, concat_ws(', ', c.email, c.phone, c.company), c.status::text,
          concat_ws(' ', c.name, c.email, c.phone, c.company), c.created_at
        from public.contacts c
        where c.organization_id = org
          and private.search_terms(c.organization_id, c.phone, c.name, c.email, c.company) @@ wanted
        limit 100
      ) union all (
        select 'deal', d.id, d.title, null, d.status::text, d.title, d.created_at
        from public.deals d
        where d.organization_id = org and private.search_terms(d.organization_id, null, d.title) @@ wanted
        limit 100
      ) union all (
        select 'listing', l.id, l.title, concat_ws(', ', l.address, l.city, l.state), l.status::text,
          concat_ws(' ', l.title, l.address, l.city, l.state, l.zip_code, l.mls_number), l.created_at
        from public.listings l
        where l.organization_id = org and private.search_terms(
          l.organization_id, null, l.title, l.address, l.city, l.state, l.zip_code, l.mls_number
        ) @@ wanted
        limit 100
      )
      union all (
        select 'company', c.id, c.name, concat_ws(', ', c.email, c.phone, c.website), null,
          concat_ws(' ', c.name, c.email, c.phone, c.website), c.created_at
        from public.companies c
        where c.organization_id = org
          and private.search_terms(c.organization_id, c.phone, c.name, c.email, c.website) @@ wanted
        limit 100
      )
    ) f
    order by 6 desc, f.created_at desc, f.id limit most;
    exit when found;
  end loop;
end $$;
comment on function private.search_crm(text, integer) is 'Finds rows of the caller''s organization by their words.';

-- The rows that were found are read again under the caller's own policies, each by its id; EXISTS would become a hash
-- of the whole tenant.
create function public.search_crm(query text, most integer default 20) returns setof public.search_result
language sql stable rows 20 set search_path = '' as $$
  select f.kind, f.id, f.title, f.detail, f.status, f.likeness
  from private.search_crm(query, most) with ordinality f (kind, id, title, detail, status, likeness, place)
  where case f.kind
    when 'lead' then (select l.id from public.leads l where l.id = f.id)
    when 'contact' then (select c.id from public.contacts c where c.id = f.id)
    when 'deal' then (select d.id from public.deals d where d.id = f.id)
    when 'company' then (select c.id from public.companies c where c.id = f.id)
    else (select l.id from public.listings l where l.id = f.id)
  end is not null
  order by f.place
$$;
comment on function public.search_crm(text, integer) is
  'Leads, contacts, companies, deals and listings by name, email, phone or address, best first. Every word counts, or the beginning '
  'of one; where nothing has them all, typing errors are forgiven.';

-- Duplicates ----------------------------------------------------------------------------------------------------------

create type public.possible_duplicate as (
  kind text, id uuid, name text, email_found text, phone_found text, same text[], assigned_to_id uuid,
  created_at timestamptz
);
comment on type public.possible_duplicate is 'A lead or contact with the same email or phone.';

create function private.find_duplicates(email text, phone text, except_id uuid) returns setof public.possible_duplicate
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
declare
  org uuid := private.require_org('VIEWER');
  an_email text := lower(trim(left(find_duplicates.email, 500)));
  a_phone text := private.same_phone(left(find_duplicates.phone, 100));
begin
  return query
  select p.kind, p.id, p.name, p.email, p.phone, s.same, p.assigned_to_id, p.created_at
  from (
    select 'lead' as kind, l.id, l.name, l.email, l.phone, l.assigned_to_id, l.created_at from public.leads l
    where l.organization_id = org and l.status <> 'CONVERTED'
      and (lower(l.email) = an_email or private.same_phone(l.phone) = a_phone)
    union all
    select 'contact', c.id, c.name, c.email, c.phone, c.assigned_to_id, c.created_at from public.contacts c
    where c.organization_id = org and (lower(c.email) = an_email or private.same_phone(c.phone) = a_phone)
  ) p, lateral (
    select array_remove(array[
      case when lower(p.email) = an_email then 'email' end,
      case when private.same_phone(p.phone) = a_phone then 'phone' end
    ], null) as same
  ) s
  where p.id is distinct from find_duplicates.except_id
  order by cardinality(s.same) desc, p.created_at, p.id limit 20;
end $$;
comment on function private.find_duplicates(text, text, uuid) is
  'Who in the caller''s organization has this email or phone.';

create function public.find_duplicates(email text default null, phone text default null, except_id uuid default null)
returns setof public.possible_duplicate
language sql stable set search_path = '' as 'select * from private.find_duplicates($1, $2, $3)';
comment on function public.find_duplicates(text, text, uuid) is
  'Who has this email or phone already, however written: up to 20 leads and contacts. Converted leads are contacts.';

-- A warning instead of a refusal: a couple may share a number, an office an address.
create function private.add_person(relation text, person jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  org uuid := private.require_org('MEMBER');
  target constant regclass := format('public.%I', relation)::regclass;
  columns text;
  made jsonb;
begin
  if jsonb_typeof(person) is distinct from 'object' or person ? 'organization_id' then
    raise exception 'The row to add must be an object of columns' using
      errcode = 'PT400', hint = 'Leave organization_id out: it is the organization this request acts in.';
  end if;
  select string_agg(format(', %I', k), '') into columns
  from unnest(private.tool_columns(target, 'insert', array(select jsonb_object_keys(person)))) k;
  perform private.refuse_unreadable(target, person);
  execute format(
    'insert into public.%1$I as made (organization_id%2$s)'
    ' select $1%2$s from jsonb_populate_record(null::public.%1$I, $2) returning to_jsonb(made)', relation, columns
  ) into made using org, person;
  return jsonb_build_object('added', made, 'duplicates', (
    select coalesce(jsonb_agg(d), '[]')
    from private.find_duplicates(made ->> 'email', made ->> 'phone', (made ->> 'id')::uuid) d
  ));
end $$;
comment on function private.add_person(text, jsonb) is
  'Adds a lead or contact under the caller''s policies, and returns possible duplicates.';

create function public.add_lead(lead jsonb) returns jsonb language sql set search_path = ''
as $$ select private.add_person('leads', lead) $$;
comment on function public.add_lead(jsonb) is
  'Adds a lead, as an insert would, and returns {"added": the row, "duplicates": who has the same email or phone}.';
create function public.add_contact(contact jsonb) returns jsonb language sql set search_path = ''
as $$ select private.add_person('contacts', contact) $$;
comment on function public.add_contact(jsonb) is
  'Adds a contact, as an insert would, and returns {"added": the row, "duplicates": who has the same email or phone}.';

-- Many at once --------------------------------------------------------------------------------------------------------

create function private.lock_rows(relation text, ids uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  org uuid := private.require_org('MEMBER');
  wanted uuid[] := array(select distinct i from unnest(ids) i where i is not null);
  there uuid[];
begin
  if relation is null or relation not in ('leads', 'contacts', 'deals', 'listings') then
    raise exception 'kind must be leads, contacts, deals or listings' using
      errcode = 'PT400', detail = format('Found %s.', coalesce(quote_ident(left(relation, 100)), 'nothing'));
  end if;
  if cardinality(wanted) not between 1 and 100 then
    raise exception 'One call takes 1 to 100 rows' using
      errcode = 'PT422', detail = format('Found %s.', cardinality(wanted)), hint = 'Send more in several calls.';
  end if;
  -- In one order, so that two calls about the same rows wait for each other instead of deadlocking.
  execute format(
    'select array_agg(id) from (select id from public.%I where organization_id = $1 and id = any ($2) order by id'
    ' for no key update) r', relation
  ) into there using org, wanted;
  if cardinality(there) is distinct from cardinality(wanted) then
    raise exception 'Some of these % do not exist', relation using
      errcode = 'PT404', hint = 'Nothing was changed.', detail = format('Found no %s in this organization.', (
        select string_agg(i::text, ', ') from unnest(wanted) i where i <> all (coalesce(there, '{}'))
      ));
  end if;
  return there;
end $$;
comment on function private.lock_rows(text, uuid[]) is 'Locks rows of the caller''s organization: all of them, or PT404.';

create function private.feed_bulk(relation text, action text, ids uuid[], metadata jsonb) returns void
language plpgsql set search_path = '' as $$
begin
  insert into public.activity_feeds (organization_id, user_id, type, title, entity_type, entity_id, action, metadata)
  values (
    private.current_user_org('MEMBER'), auth.uid(), 'USER_ACTION', format('%s %s %s', cardinality(ids), relation, action),
    rtrim(relation, 's'), ids[1]::text, feed_bulk.action, feed_bulk.metadata || jsonb_build_object('ids', to_jsonb(ids))
  );
end $$;
comment on function private.feed_bulk(text, text, uuid[], jsonb) is 'Writes one feed entry for a change of many rows.';

create function public.bulk_assign(kind text, ids uuid[], assigned_to_id uuid) returns integer
language plpgsql set search_path = '' as $$
declare
  locked uuid[] := private.lock_rows(kind, ids);
begin
  execute format('update public.%I set assigned_to_id = $1 where id = any ($2)', kind) using assigned_to_id, locked;
  perform private.feed_bulk(
    kind, case when assigned_to_id is null then 'unassigned' else 'assigned' end, locked,
    jsonb_build_object('assigned_to_id', assigned_to_id)
  );
  return cardinality(locked);
end $$;
comment on function public.bulk_assign(text, uuid[], uuid) is
  'Assigns up to 100 leads, contacts, deals or listings to a member, or unassigns them with null: all or none. '
  'Returns how many.';

create function public.bulk_tag(kind text, ids uuid[], add text[] default '{}', remove text[] default '{}')
returns integer language plpgsql set search_path = '' as $$
declare
  locked uuid[] := private.lock_rows(kind, ids);
  added text[] := array(select distinct trim(t) from unnest(add) t where trim(t) <> '');
  removed text[] := coalesce(remove, '{}');
begin
  if cardinality(added || removed) not between 1 and 100
    or exists (select from unnest(added || removed) t where length(t) > 50) then
    raise exception 'One to 100 tags are added or removed, and a tag has 1 to 50 characters' using
      errcode = 'PT422', detail = format('Found %s to add, %s to remove.', cardinality(added), cardinality(removed));
  end if;
  execute format(
    'update public.%I r set tags = array(select t from unnest(r.tags || $1) with ordinality u (t, n)'
    ' where t <> all ($2) group by t order by min(n)) where r.id = any ($3)', kind
  ) using added, removed, locked;
  perform private.feed_bulk(kind, 'tagged', locked, jsonb_build_object('added', added, 'removed', removed));
  return cardinality(locked);
end $$;
comment on function public.bulk_tag(text, uuid[], text[], text[]) is
  'Adds and removes tags of up to 100 leads, contacts, deals or listings: all or none. Returns how many.';

-- Merging -------------------------------------------------------------------------------------------------------------

-- SECURITY DEFINER: clients may write neither the contact that a lead became nor the log.
create function private.merge_contacts(into_id uuid, duplicate_ids uuid[]) returns public.contacts
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN');
  gone uuid[] := array(select distinct i from unnest(duplicate_ids) i where i is not null);
  before public.contacts;
  kept public.contacts;
  other public.contacts;
  others jsonb := '[]';
begin
  if cardinality(gone) not between 1 and 20 or into_id = any (gone) then
    raise exception 'A merge takes 1 to 20 other contacts' using
      errcode = 'PT422', detail = format('Found %s to be merged into %s.', cardinality(gone), into_id);
  end if;
  -- A concurrent insert that refers to one of these waits, and then fails because it no longer exists.
  perform from public.contacts c where c.organization_id = org and c.id = any (gone || into_id) order by c.id for update;
  select c.* into before from public.contacts c where c.organization_id = org and c.id = into_id;
  kept := before;
  -- Values of the kept contact stay; the others, oldest first, fill its empty columns. DO_NOT_CONTACT of any of them
  -- stays.
  for other in
    select c.* from public.contacts c where c.organization_id = org and c.id = any (gone) order by c.created_at, c.id
  loop
    others := others || to_jsonb(other);
    kept.email := coalesce(kept.email, other.email);
    kept.phone := coalesce(kept.phone, other.phone);
    if kept.company is null then
      kept.company := other.company;
      kept.company_id := other.company_id;
    end if;
    kept.position := coalesce(kept.position, other.position);
    kept.assigned_to_id := coalesce(kept.assigned_to_id, other.assigned_to_id);
    kept.budget := coalesce(kept.budget, other.budget);
    kept.min_bedrooms := coalesce(kept.min_bedrooms, other.min_bedrooms);
    kept.linkedin_url := coalesce(kept.linkedin_url, other.linkedin_url);
    kept.twitter_url := coalesce(kept.twitter_url, other.twitter_url);
    kept.preferred_contact_method := coalesce(kept.preferred_contact_method, other.preferred_contact_method);
    kept.property_types := array(select distinct unnest(kept.property_types || other.property_types) order by 1);
    kept.cities := array(select distinct unnest(kept.cities || other.cities) order by 1);
    kept.tags := array(select distinct unnest(kept.tags || other.tags) order by 1);
    kept.notes := nullif(concat_ws(E'\n\n', kept.notes, other.notes), '');
    kept.custom_fields := coalesce(other.custom_fields || kept.custom_fields, kept.custom_fields, other.custom_fields);
    kept.last_contact_at := greatest(kept.last_contact_at, other.last_contact_at);
    kept.type := case kept.type when 'PROSPECT' then other.type else kept.type end;
    kept.status := case other.status when 'DO_NOT_CONTACT' then other.status else kept.status end;
  end loop;
  if before.id is null or jsonb_array_length(others) <> cardinality(gone) then
    raise exception 'Some of these contacts do not exist' using
      errcode = 'PT404', detail = 'They are not in this organization, or were merged already.',
      hint = 'Nothing was changed.';
  end if;
  -- Of an appointment that several of them attend, one attendee stays.
  delete from public.appointment_attendees t using public.appointment_attendees k
  where t.organization_id = org and k.organization_id = org and k.appointment_id = t.appointment_id
    and t.contact_id = any (gone) and k.contact_id = any (gone || into_id)
    and (k.contact_id = into_id or k.contact_id <> t.contact_id and k.id < t.id);
  perform private.repoint_links('public.contacts', org, gone, into_id);
  delete from public.contacts c where c.organization_id = org and c.id = any (gone);
  perform private.repoint_trash(org, gone, into_id);
  perform set_config('strive.history_action', 'merged', true);
  update public.contacts c set email = kept.email, phone = kept.phone, company = kept.company, company_id = kept.company_id, position = kept.position,
    assigned_to_id = kept.assigned_to_id, budget = kept.budget, min_bedrooms = kept.min_bedrooms,
    linkedin_url = kept.linkedin_url, twitter_url = kept.twitter_url,
    preferred_contact_method = kept.preferred_contact_method, property_types = kept.property_types,
    cities = kept.cities, tags = kept.tags, notes = kept.notes, custom_fields = kept.custom_fields,
    last_contact_at = kept.last_contact_at, type = kept.type, status = kept.status
  where c.id = into_id returning c.* into kept;
  perform set_config('strive.history_action', '', true);
  perform private.record_change(
    org, 'contact', into_id, 'merged', format('%s other contacts merged into %s', cardinality(gone), kept.name), (
      select string_agg(concat_ws(', ', o ->> 'name', o ->> 'email', o ->> 'phone'), E'\n')
      from jsonb_array_elements(others) o
    ), contact_id => into_id
  );
  perform private.log_merge('contacts', into_id, jsonb_build_object('kept', to_jsonb(before), 'merged', others),
    to_jsonb(kept));
  return kept;
end $$;
comment on function private.merge_contacts(uuid, uuid[]) is 'Makes one contact of several.';

create function public.merge_contacts(into_id uuid, duplicate_ids uuid[]) returns public.contacts
language sql set search_path = '' as 'select * from private.merge_contacts(into_id, duplicate_ids)';
comment on function public.merge_contacts(uuid, uuid[]) is
  'Makes one contact of several (ADMIN): activities, deals, appointments and leads move to it, its empty columns are '
  'filled, and the old values of the others stay in the log of the organization. Attachments move to it, too; their files '
  'stay where they are.';

-- Reports -------------------------------------------------------------------------------------------------------------

create function public.pipeline_report(assigned_to_id uuid default null) returns table (
  stage "DealStage", deals bigint, value numeric, weighted_value numeric
) language sql stable set search_path = '' as $$
  select s.stage, coalesce(d.deals, 0), coalesce(d.value, 0), coalesce(round(d.weighted, 2), 0)
  from unnest(enum_range(null::public."DealStage")) s (stage)
  left join (
    select d.stage, count(*) as deals, sum(d.value) as value, sum(d.value * d.probability) / 100 as weighted
    from public.deals d
    where pipeline_report.assigned_to_id is null or d.assigned_to_id = pipeline_report.assigned_to_id
    group by d.stage
  ) d using (stage)
  order by s.stage
$$;
comment on function public.pipeline_report(uuid) is
  'How many deals are in each stage, what they are worth, and what by their probability; of one member if named.';

create function public.conversion_report(
  since timestamptz default '-infinity', until timestamptz default 'infinity', assigned_to_id uuid default null
) returns table (
  leads bigint, converted_leads bigint, conversion_rate numeric,
  won_deals bigint, lost_deals bigint, abandoned_deals bigint, win_rate numeric, won_value numeric
) language sql stable set search_path = '' as $$
  select l.leads, l.converted, round(l.converted::numeric / nullif(l.leads, 0), 4),
    d.won, d.lost, d.abandoned, round(d.won::numeric / nullif(d.won + d.lost, 0), 4), d.value
  from (
    select count(*) as leads, count(*) filter (where l.status = 'CONVERTED') as converted
    from public.leads l
    where l.created_at >= since and l.created_at < until
      and (conversion_report.assigned_to_id is null or l.assigned_to_id = conversion_report.assigned_to_id)
  ) l, (
    select count(*) filter (where d.status = 'WON') as won, count(*) filter (where d.status = 'LOST') as lost,
      count(*) filter (where d.status = 'ABANDONED') as abandoned,
      coalesce(sum(d.value) filter (where d.status = 'WON'), 0) as value
    from public.deals d
    where d.actual_close_date >= since and d.actual_close_date < until
      and (conversion_report.assigned_to_id is null or d.assigned_to_id = conversion_report.assigned_to_id)
  ) d
$$;
comment on function public.conversion_report(timestamptz, timestamptz, uuid) is
  'Leads added and deals closed in a period: conversion rate = converted / leads, win rate = won / (won + lost), both'
  ' 0 to 1 and null of nothing. An abandoned deal was neither won nor lost.';

-- The calendar --------------------------------------------------------------------------------------------------------

create function public.appointment_clashes(
  start_time timestamptz, end_time timestamptz, assigned_to uuid default auth.uid(), except_id uuid default null
) returns setof public.appointments language sql stable set search_path = '' as $$
  select a.* from public.appointments a
  where a.assigned_to = appointment_clashes.assigned_to and a.status in ('SCHEDULED', 'CONFIRMED')
    and a.start_time < appointment_clashes.end_time and a.end_time > appointment_clashes.start_time
    and a.id is distinct from except_id
  order by a.start_time, a.id
$$;
comment on function public.appointment_clashes(timestamptz, timestamptz, uuid, uuid) is
  'Appointments of a member (by default the caller) that overlap a time; call it before you create an appointment.';

-- At most 1,000 appointments, and for each one the last 200 of its member that begin before it ends are compared: the work
-- grows with the appointments shown, not with their square.
create function public.agenda(since timestamptz, until timestamptz, assigned_to uuid default null) returns table (
  id uuid, title text, type "AppointmentType", status "AppointmentStatus", start_time timestamptz,
  end_time timestamptz, location text, meeting_url text, assigned_to_id uuid, lead_id uuid, contact_id uuid,
  deal_id uuid, listing_id uuid, clashes uuid[]
) language plpgsql stable set search_path = '' as $$
#variable_conflict use_column
begin
  if since is null or until is null or until <= since or until > since + interval '366 days' then
    raise exception 'An agenda covers at most a year' using
      errcode = 'PT422', detail = format('Found %s to %s.', since, until);
  end if;
  return query
  with shown as materialized (
    select a.id, a.title, a.type, a.status, a.start_time, a.end_time, a.location, a.meeting_url, a.assigned_to, a.lead_id,
      a.contact_id, a.deal_id, a.listing_id
    from public.appointments a
    where a.start_time < until and a.end_time > since and a.status <> 'CANCELLED'
      and (agenda.assigned_to is null or a.assigned_to = agenda.assigned_to)
    order by a.start_time, a.id limit 1000
  )
  select s.id, s.title, s.type, s.status, s.start_time, s.end_time, s.location, s.meeting_url, s.assigned_to, s.lead_id,
    s.contact_id, s.deal_id, s.listing_id,
    case when s.status in ('SCHEDULED', 'CONFIRMED') then array(
      select b.id from (
        select b.id, b.start_time, b.end_time from public.appointments b
        where b.assigned_to = s.assigned_to and b.status in ('SCHEDULED', 'CONFIRMED')
          and b.start_time < s.end_time
        order by b.start_time desc limit 200
      ) b
      where b.id <> s.id and b.end_time > s.start_time
      order by b.start_time, b.id limit 20
    ) else '{}' end
  from shown s
  order by s.start_time, s.id;
end $$;
comment on function public.agenda(timestamptz, timestamptz, uuid) is
  'Appointments that overlap a period, of everybody or one member, at most 1,000; `clashes` names up to 20 that the '
  'same member has at the same time.';

create function public.follow_ups_due(until timestamptz default now(), assigned_to uuid default null) returns table (
  kind text, id uuid, title text, due_at timestamptz, assigned_to_id uuid, reason text
) language sql stable set search_path = '' as $$
  select f.kind, f.id, f.title, f.due_at, f.assigned_to_id, f.reason
  from (
    select 'appointment' as kind, a.id, a.title, a.start_time as due_at, a.assigned_to as assigned_to_id,
      'a follow-up was arranged' as reason
    from public.appointments a
    where a.type in ('FOLLOW_UP', 'CALL') and a.status in ('SCHEDULED', 'CONFIRMED')
    union all
    select 'lead', l.id, l.name, coalesce(l.last_contact_at, l.created_at) + s.follow_up_after, l.assigned_to_id,
      case when l.last_contact_at is null then 'there was no contact yet'
        else 'the last contact was long ago' end
    from public.leads l join private.lead_scores s using (score)
    where l.status in ('NEW_LEAD', 'IN_CONTACT', 'QUALIFIED')
    union all
    select 'deal', d.id, d.title, d.expected_close_date, d.assigned_to_id, 'it was expected to be closed'
    from public.deals d where d.status = 'ACTIVE'
    union all
    select 'task', t.id, t.title, t.due_date, t.assigned_to, 'a task is due'
    from public.tasks t
    where t.status in ('TODO', 'IN_PROGRESS', 'REVIEW') and num_nonnulls(t.lead_id, t.contact_id, t.company_id, t.deal_id) > 0
  ) f
  where f.due_at <= until and (assigned_to is null or f.assigned_to_id = assigned_to)
  order by f.due_at, f.kind, f.id
$$;
comment on function public.follow_ups_due(timestamptz, uuid) is
  'Follow-ups that are due: arranged ones, open leads without contact (HOT for one day, WARM for three, COLD for '
  'fourteen), deals whose expected close date has passed, tasks about them that are due. Oldest first; page with '
  'limit and offset.';

-- Buyers --------------------------------------------------------------------------------------------------------------
-- The wishes of buyers are columns of leads and contacts, not custom_fields: so they are checked, imported, exported,
-- copied from a lead to its contact, and compared without parsing.

create function private.suits(
  house public.listings, budget numeric, min_bedrooms integer, property_types "PropertyType"[], cities text[]
) returns boolean language plpgsql immutable set search_path = '' as $$
begin
  return num_nonnulls(budget, min_bedrooms, nullif(property_types, '{}'), nullif(cities, '{}')) > 0
    and (budget is null or budget >= house.price) and (min_bedrooms is null or min_bedrooms <= house.bedrooms)
    and (property_types = '{}' or house.property_type = any (property_types))
    and (cities = '{}' or lower(trim(house.city)) in (select lower(trim(c.city)) from unnest(cities) c (city)));
end $$;
comment on function private.suits(public.listings, numeric, integer, "PropertyType"[], text[]) is
  'Whether a listing meets every stated wish of a buyer who stated one.';

create function public.match_buyers(listing_id uuid) returns table (
  kind text, id uuid, name text, email text, phone text, assigned_to_id uuid, budget numeric, wishes integer,
  last_contact_at timestamptz, is_watching boolean
) language plpgsql stable set search_path = '' as $$
#variable_conflict use_column
declare
  house public.listings;
begin
  select l.* into house from public.listings l where l.id = match_buyers.listing_id;
  if not found then
    raise exception 'There is no such listing' using
      errcode = 'PT404', detail = format('Found no listing %s in this organization.', match_buyers.listing_id);
  end if;
  return query
  select b.kind, b.id, b.name, b.email, b.phone, b.assigned_to_id, b.budget, b.wishes, b.last_contact_at, b.is_watching
  from (
    select 'lead' as kind, l.id, l.name, l.email, l.phone, l.assigned_to_id, l.budget, l.min_bedrooms, l.property_types,
      l.cities, l.last_contact_at, l.is_watching,
      num_nonnulls(l.budget, l.min_bedrooms, nullif(l.property_types, '{}'), nullif(l.cities, '{}')) as wishes
    from public.leads l
    where l.organization_id = house.organization_id and l.status in ('NEW_LEAD', 'IN_CONTACT', 'QUALIFIED')
    union all
    select 'contact', c.id, c.name, c.email, c.phone, c.assigned_to_id, c.budget, c.min_bedrooms, c.property_types,
      c.cities, c.last_contact_at, c.is_watching,
      num_nonnulls(c.budget, c.min_bedrooms, nullif(c.property_types, '{}'), nullif(c.cities, '{}'))
    from public.contacts c
    where c.organization_id = house.organization_id and c.status = 'ACTIVE'
      and c.type in ('PROSPECT', 'CLIENT', 'PAST_CLIENT')
  ) b
  where private.suits(house, b.budget, b.min_bedrooms, b.property_types, b.cities)
  order by b.wishes desc, b.budget, b.last_contact_at desc nulls last, b.id;
end $$;
comment on function public.match_buyers(uuid) is
  'Open leads and active contacts whose every stated wish (budget, bedrooms, property type, city) a listing meets; who '
  'stated most comes first, who stated nothing is left out. Page with limit and offset.';

-- Export --------------------------------------------------------------------------------------------------------------

create function private.is_formula(cell text) returns boolean
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  -- Numbers and phone numbers are harmless.
  return cell ~ '^[=@\t\r\n]' or cell ~ '^[-+]' and cell !~ '^[-+][0-9(). /-]*$';
end $$;
comment on function private.is_formula(text) is 'Whether a spreadsheet might take this text for a formula.';

create function private.spreadsheet_safe(cell text) returns text
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  return case when private.is_formula(cell) then '''' || cell else cell end;
end $$;
comment on function private.spreadsheet_safe(text) is 'A cell that no spreadsheet takes for a formula.';

create function public.export_leads() returns table (
  id uuid, name text, email text, phone text, company text, source "LeadSource", status "LeadStatus",
  score_value integer, budget numeric, property_types text, cities text, min_bedrooms integer, timeline text,
  notes text, tags text, last_contact_at timestamptz, created_at timestamptz
) language sql stable set search_path = '' as $$
  select l.id, private.spreadsheet_safe(l.name), private.spreadsheet_safe(l.email), private.spreadsheet_safe(l.phone),
    private.spreadsheet_safe(l.company), l.source, l.status, l.score_value, l.budget,
    array_to_string(l.property_types, ';'), private.spreadsheet_safe(array_to_string(l.cities, ';')), l.min_bedrooms,
    private.spreadsheet_safe(l.timeline), private.spreadsheet_safe(l.notes),
    private.spreadsheet_safe(array_to_string(l.tags, ';')), l.last_contact_at, l.created_at
  from public.leads l order by l.created_at desc, l.id
$$;
comment on function public.export_leads() is
  'Leads for a spreadsheet: request it with Accept: text/csv. Cells that would be formulas begin with an apostrophe.';

create function public.export_contacts() returns table (
  id uuid, name text, email text, phone text, company text, "position" text, type "ContactType", status "ContactStatus",
  budget numeric, property_types text, cities text, min_bedrooms integer, notes text, tags text,
  last_contact_at timestamptz, created_at timestamptz
) language sql stable set search_path = '' as $$
  select c.id, private.spreadsheet_safe(c.name), private.spreadsheet_safe(c.email), private.spreadsheet_safe(c.phone),
    private.spreadsheet_safe(c.company), private.spreadsheet_safe(c.position), c.type, c.status, c.budget,
    array_to_string(c.property_types, ';'), private.spreadsheet_safe(array_to_string(c.cities, ';')), c.min_bedrooms,
    private.spreadsheet_safe(c.notes), private.spreadsheet_safe(array_to_string(c.tags, ';')), c.last_contact_at,
    c.created_at
  from public.contacts c order by c.created_at desc, c.id
$$;
comment on function public.export_contacts() is
  'Contacts for a spreadsheet: request it with Accept: text/csv. Cells that would be formulas begin with an '
  'apostrophe.';

grant execute on function private.search_query(uuid, text, boolean), private.search_crm(text, integer),
  public.search_crm(text, integer), private.find_duplicates(text, text, uuid),
  public.find_duplicates(text, text, uuid), private.add_person(text, jsonb), public.add_lead(jsonb),
  public.add_contact(jsonb), private.lock_rows(text, uuid[]), private.feed_bulk(text, text, uuid[], jsonb),
  public.bulk_assign(text, uuid[], uuid), public.bulk_tag(text, uuid[], text[], text[]),
  private.merge_contacts(uuid, uuid[]), public.merge_contacts(uuid, uuid[]), public.pipeline_report(uuid),
  public.conversion_report(timestamptz, timestamptz, uuid),
  public.appointment_clashes(timestamptz, timestamptz, uuid, uuid), public.agenda(timestamptz, timestamptz, uuid),
  public.follow_ups_due(timestamptz, uuid), private.suits(public.listings, numeric, integer, "PropertyType"[], text[]),
  public.match_buyers(uuid), private.is_formula(text),
  private.spreadsheet_safe(text), public.export_leads(), public.export_contacts()
  to authenticated, service_role;
