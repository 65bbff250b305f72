-- Saved views: a list with its filter, order and columns, private or shared. Filters are conditions of the metric
-- language and compiled by it; rows and counts are read under the caller's policies. And the wishes of buyers: a new
-- listing is reported to the assignees of the buyers whose wishes it meets.

create table public.saved_views (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  user_id uuid not null,
  name text not null constraint "view name is 1 to 100 characters" check (length(trim(name)) between 1 and 100),
  source text not null,
  filter jsonb not null default '{}',
  sort jsonb not null default '[]',
  columns text[] not null default '{}',
  is_shared boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "filter is an object of at most 20000 bytes"
    check (jsonb_typeof(filter) = 'object' and pg_column_size(filter) <= 20000),
  constraint "sort is a list of at most 5 entries"
    check (jsonb_typeof(sort) = 'array' and jsonb_array_length(sort) <= 5),
  constraint "columns are at most 50" check (cardinality(columns) <= 50),
  foreign key (user_id, organization_id) references public.organization_members (user_id, organization_id) on delete cascade
);
comment on table public.saved_views is 'Saved lists and searches; view_rows() opens one, view_counts() counts several.';
comment on column public.saved_views.organization_id is 'The organization; by default the one the request acts in.';
comment on column public.saved_views.user_id is 'Whose view it is; goes when the member leaves.';
comment on column public.saved_views.name is 'What it is called in the menu.';
comment on column public.saved_views.source is 'The table it lists, such as leads.';
comment on column public.saved_views.filter is 'Which rows: a condition as in "where" of a metric, {"status": "ACTIVE"}.';
comment on column public.saved_views.sort is 'Their order: [{"column": "value", "direction": "desc"}].';
comment on column public.saved_views.columns is 'Which columns, in order; empty: all.';
comment on column public.saved_views.is_shared is 'True: every member sees it. Only its owner changes it.';
create index saved_views_organization_idx on public.saved_views (organization_id, created_at desc);
create index saved_views_user_idx on public.saved_views (user_id, organization_id);
create trigger touch before update on public.saved_views for each row execute function private.touch_updated_at();
create trigger stamp_author before insert on public.saved_views
  for each row execute function private.stamp_author('user_id');

create function private.compile_view(
  view public.saved_views, out given text[], out clause text, out ordering text, out selected text
) language plpgsql stable set search_path = '' as $$
declare
  entry jsonb;
  at integer := 0;
  one text;
  names text[] := '{}';
begin
  perform private.query_source(to_jsonb(view.source), 'source');
  select c.given, c.clause into given, clause from private.compile_condition(view.source, view.filter, 'filter', 1, '{}') c;
  ordering := '';
  for entry in select e from jsonb_array_elements(view.sort) e loop
    if jsonb_typeof(entry) <> 'object' or entry - '{column,direction}'::text[] <> '{}'
      or coalesce(entry ->> 'direction', 'asc') not in ('asc', 'desc') then
      perform private.refuse_query(format('sort[%s]', at), entry, '{"column", "direction": "asc" or "desc"}');
    end if;
    ordering := ordering || format('s.%I %s nulls last, ', (private.query_column(
      view.source, entry -> 'column', format('sort[%s].column', at), '{number,time,choice,text,flag,id}'
    )).name, coalesce(entry ->> 'direction', 'asc'));
    at := at + 1;
  end loop;
  ordering := ordering || 's.created_at desc, s.id';
  foreach one in array view.columns loop
    names := names || (private.query_column(
      view.source, to_jsonb(one), 'columns', enum_range(null::private."MetricKind")
    )).name;
  end loop;
  if names = '{}' then
    names := array(select c.name from private.metric_columns c where c.source = view.source order by c.place);
  end if;
  selected := (select string_agg(format('%L, s.%I', n, n), ', ' order by place) from unnest('id'::text || names)
    with ordinality u (n, place));
end $$;
comment on function private.compile_view(public.saved_views) is
  'Checks a view; its condition, order and columns as SQL over `s`, with the values in $1.';

create function private.validate_view() returns trigger language plpgsql set search_path = '' as $$
begin
  perform private.compile_view(new);
  return new;
end $$;
comment on function private.validate_view() is 'Refuses views that could not be opened.';
create trigger understand before insert or update of source, filter, sort, columns on public.saved_views
  for each row execute function private.validate_view();

create function private.visible_view(view_id uuid) returns public.saved_views
language plpgsql stable set search_path = '' as $$
declare
  view public.saved_views;
begin
  select v.* into view from public.saved_views v where v.id = view_id;
  if not found then
    raise exception 'There is no such view for you' using
      errcode = 'PT404', detail = format('Found no view %s.', coalesce(view_id::text, 'null'));
  end if;
  return view;
end $$;
comment on function private.visible_view(uuid) is 'A view that the caller may see.';

create function public.view_rows(view_id uuid, page_size integer default 50, page integer default 1) returns jsonb
language plpgsql stable set search_path = '' set jit = off as $$
declare
  view public.saved_views := private.visible_view(view_id);
  compiled record;
  rows jsonb;
begin
  if page_size is null or page_size not between 1 and 100 or page is null or page not between 1 and 100 then
    raise exception 'page_size and page are 1 to 100' using
      errcode = 'PT400', detail = format('Found %s and %s.', page_size, page);
  end if;
  select * into compiled from private.compile_view(view);
  execute format(
    'select coalesce(jsonb_agg(r.row order by r.place), ''[]'') from ('
    'select jsonb_build_object(%s) as row, row_number() over (order by %s) as place from public.%I s'
    ' where s.organization_id = $2 and (%s) order by %s limit %s offset %s) r',
    compiled.selected, compiled.ordering, view.source, compiled.clause, compiled.ordering, page_size,
    (page - 1) * page_size
  ) into rows using compiled.given, view.organization_id, null::timestamptz, null::timestamptz, now();
  return rows;
end $$;
comment on function public.view_rows(uuid, integer, integer) is 'A page of the rows of a saved view, in its order, with its columns.';

create function public.view_counts(view_ids uuid[]) returns table (view_id uuid, rows bigint)
language plpgsql stable set search_path = '' set jit = off as $$
declare
  view public.saved_views;
  compiled record;
begin
  if coalesce(cardinality(view_ids), 0) not between 1 and 50 then
    raise exception 'One call counts 1 to 50 views' using
      errcode = 'PT422', detail = format('Found %s.', coalesce(cardinality(view_ids), 0));
  end if;
  for view in select v.* from public.saved_views v where v.id = any (view_ids) order by v.id loop
    select * into compiled from private.compile_view(view);
    view_id := view.id;
    -- Counting stops after ten thousand; the list then shows "10,000+".
    execute format(
      'select count(*) from (select from public.%I s where s.organization_id = $2 and (%s) limit 10001) r', view.source,
      compiled.clause
    ) into rows using compiled.given, view.organization_id, null::timestamptz, null::timestamptz, now();
    return next;
  end loop;
end $$;
comment on function public.view_counts(uuid[]) is
  'How many rows each of up to 50 saved views has, in one call; counted up to 10,001. Views the caller cannot see are left out.';

grant execute on function private.compile_view(public.saved_views), private.validate_view(), private.visible_view(uuid),
  public.view_rows(uuid, integer, integer), public.view_counts(uuid[])
  to authenticated, service_role;

alter table public.saved_views enable row level security;
create policy "people see their views and shared ones" on public.saved_views for select to authenticated
  using (
    organization_id = (select private.current_user_org()) and (is_shared or user_id = (select private.current_user_id()))
  );
create policy "members save views" on public.saved_views for insert to authenticated
  with check (
    organization_id = (select private.current_user_org('MEMBER')) and user_id = (select private.current_user_id())
  );
create policy "people change their views" on public.saved_views for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')) and user_id = (select private.current_user_id()))
  with check (
    organization_id = (select private.current_user_org('MEMBER')) and user_id = (select private.current_user_id())
  );
create policy "people delete their views, admins shared ones" on public.saved_views for delete to authenticated
  using (
    organization_id = (select private.current_user_org('MEMBER'))
    and (user_id = (select private.current_user_id())
      or (is_shared and organization_id = (select private.current_user_org('ADMIN'))))
  );
grant select, delete, insert (organization_id, name, source, filter, sort, columns, is_shared),
  update (name, source, filter, sort, columns, is_shared) on public.saved_views to authenticated;
grant all on public.saved_views to service_role;

-- Buyers' wishes ------------------------------------------------------------------------------------------------------
-- Triggers queue listings and watching buyers that are new or changed in what is compared; the job compares them. A listing
-- and a buyer that suit each other are reported once, to whom the other one is news.

create table private.matches_due (
  kind text not null constraint "kind is listing, lead or contact" check (kind in ('listing', 'lead', 'contact')),
  record_id uuid not null,
  organization_id uuid not null references public.organizations (id) on delete cascade,
  queued_at timestamptz not null default now(),
  primary key (kind, record_id)
);
comment on table private.matches_due is 'Listings and watching buyers that the job report_matches has to compare.';
comment on column private.matches_due.kind is 'listing, lead or contact.';
comment on column private.matches_due.record_id is 'The listing or buyer.';
comment on column private.matches_due.organization_id is 'The organization it belongs to.';
comment on column private.matches_due.queued_at is 'Since when it waits.';
create index matches_due_queued_at_idx on private.matches_due (queued_at);
create index matches_due_organization_idx on private.matches_due (organization_id);

create table private.matches (
  organization_id uuid not null,
  listing_id uuid not null,
  buyer_id uuid not null,
  reported_at timestamptz not null default now(),
  primary key (organization_id, listing_id, buyer_id),
  foreign key (organization_id, listing_id) references public.listings (organization_id, id) on delete cascade
);
comment on table private.matches is 'Listings and watching buyers that suit each other and were reported.';
comment on column private.matches.organization_id is 'The organization of both.';
comment on column private.matches.listing_id is 'The listing.';
comment on column private.matches.buyer_id is 'The lead or contact.';
comment on column private.matches.reported_at is 'When.';

create function private.queue_match() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.matches_due (kind, record_id, organization_id) values (tg_argv[0], new.id, new.organization_id)
  on conflict do nothing;
  return null;
end $$;
comment on function private.queue_match() is 'Queues a listing or buyer (the argument) for the job report_matches.';
create trigger queue_match after insert or update of status, price, bedrooms, property_type, city on public.listings
  for each row when (new.status = 'ACTIVE' and coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.queue_match('listing');
create trigger queue_match after insert or update of is_watching, budget, min_bedrooms, property_types, cities on public.leads
  for each row when (new.is_watching and coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.queue_match('lead');
create trigger queue_match after insert or update of is_watching, budget, min_bedrooms, property_types, cities on public.contacts
  for each row when (new.is_watching and coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.queue_match('contact');

create function private.assignee_or_owners(org uuid, assignee uuid) returns uuid[]
language sql stable set search_path = '' as $$
  select case when assignee is null then private.members_at_least(org, 'OWNER') else array[assignee] end
$$;
comment on function private.assignee_or_owners(uuid, uuid) is 'Whom something about a record concerns.';

-- As many are reported as a person would look at; so comparing a listing or buyer again writes no more.
create function private.report_listing(org uuid, listing uuid) returns void
language sql set search_path = '' as $$
  with found_buyers as materialized (
    select b.* from public.match_buyers(listing) b where b.is_watching limit 200
  ), news as (
    insert into private.matches (organization_id, listing_id, buyer_id)
    select org, listing, b.id from found_buyers b on conflict do nothing returning buyer_id
  )
  select private.publish_events(array_agg((
    'crm.listing.matched', org, 'listing', listing, 'New for your buyers: ' || g.title,
    format('%s in %s suits %s.', g.title, g.city, g.names), private.assignee_or_owners(org, g.assigned_to_id),
    jsonb_build_object('buyer_ids', g.ids), null, null, null
  )::private.event)) from (
    select b.assigned_to_id, l.title, l.city, (array_agg(b.id order by b.wishes desc, b.name))[:100] as ids,
      left(string_agg(b.name, ', ' order by b.wishes desc, b.name), 400) as names
    from found_buyers b join news n on n.buyer_id = b.id join public.listings l on l.id = listing
    group by b.assigned_to_id, l.title, l.city
  ) g
$$;
comment on function private.report_listing(uuid, uuid) is
  'Reports a listing to the assignees of the watching buyers whom it suits (or the owners), of 200 at most.';

-- One comparison for each listing: match_buyers() for each would compare all buyers with all listings.
create function private.report_buyer(
  org uuid, kind text, buyer uuid, name text, budget numeric, min_bedrooms integer, property_types "PropertyType"[], cities text[]
) returns void language sql set search_path = '' as $$
  with news as (
    insert into private.matches (organization_id, listing_id, buyer_id)
    select org, l.id, buyer from public.listings l
    where l.organization_id = org and l.status = 'ACTIVE' and private.suits(l, budget, min_bedrooms, property_types, cities)
    order by l.created_at desc, l.id limit 200
    on conflict do nothing returning listing_id
  )
  select private.publish_events(array_agg((
    'crm.buyer.matched', org, kind, buyer, 'New buyer for your listings: ' || name,
    format('%s looks for %s.', name, g.titles), private.assignee_or_owners(org, g.assigned_to_id),
    jsonb_build_object('listing_ids', g.ids), null, null, format('/%ss/%s', kind, buyer)
  )::private.event)) from (
    select l.assigned_to_id, (array_agg(l.id order by l.created_at desc, l.id))[:100] as ids,
      left(string_agg(l.title, ', ' order by l.created_at desc, l.id), 400) as titles
    from news n join public.listings l on l.id = n.listing_id group by 1
  ) g
$$;
comment on function private.report_buyer(uuid, text, uuid, text, numeric, integer, "PropertyType"[], text[]) is
  'Reports a watching buyer to the assignees of the newest listings that suit them (or the owners), of 200 at most.';

-- Organizations take turns: one that changes all its records holds up the others for one record each.
create function private.report_matches() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  item record;
  compared bigint := 0;
begin
  for item in
    with taken as (
      delete from private.matches_due d where (d.kind, d.record_id) in (
        select q.kind, q.record_id from private.matches_due q join (
          select n.kind, n.record_id, row_number() over (partition by n.organization_id order by n.queued_at, n.record_id) as turn
          from private.matches_due n
        ) n using (kind, record_id)
        order by n.turn, q.queued_at limit 500 for update of q skip locked
      ) returning d.*
    )
    select t.kind, t.record_id, t.organization_id, h.status = 'ACTIVE' as is_offered, b.*
    from taken t
    left join public.listings h on t.kind = 'listing' and h.id = t.record_id
    left join lateral (
      select l.name, l.budget, l.min_bedrooms, l.property_types, l.cities from public.leads l
      where t.kind = 'lead' and l.id = t.record_id and l.is_watching and l.status in ('NEW_LEAD', 'IN_CONTACT', 'QUALIFIED')
      union all
      select c.name, c.budget, c.min_bedrooms, c.property_types, c.cities from public.contacts c
      where t.kind = 'contact' and c.id = t.record_id and c.is_watching and c.status = 'ACTIVE'
        and c.type in ('PROSPECT', 'CLIENT', 'PAST_CLIENT')
    ) b on true
    order by t.queued_at, t.record_id
  loop
    if item.is_offered then
      perform private.report_listing(item.organization_id, item.record_id);
    elsif item.name is not null then
      perform private.report_buyer(
        item.organization_id, item.kind, item.record_id, item.name, item.budget, item.min_bedrooms, item.property_types, item.cities
      );
    end if;
    compared := compared + 1;
  end loop;
  return compared;
end $$;
comment on function private.report_matches() is
  'Compares new and changed listings and watching buyers; each pair that suits is reported once. Returns how many were compared.';
grant execute on function private.report_matches() to service_role;
insert into private.jobs (name, schedule, runs, description) values
  ('report_matches', '*/10 * * * *', 'private.report_matches', 'Report listings and buyers that suit each other to their members.');
