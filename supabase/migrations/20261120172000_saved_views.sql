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

create table private.reported_listings (
  organization_id uuid not null,
  listing_id uuid not null,
  buyers integer not null,
  reported_at timestamptz not null default now(),
  primary key (organization_id, listing_id),
  foreign key (organization_id, listing_id) references public.listings (organization_id, id) on delete cascade
);
comment on table private.reported_listings is 'Listings that were compared with the wishes of buyers, once each.';
comment on column private.reported_listings.organization_id is 'The organization of the listing.';
comment on column private.reported_listings.listing_id is 'The listing.';
comment on column private.reported_listings.buyers is 'How many watching buyers it suits.';
comment on column private.reported_listings.reported_at is 'When.';

create function private.report_matching_listings() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  house public.listings;
  found_buyers record;
  reported bigint := 0;
  suited integer;
begin
  for house in
    select l.* from public.listings l
    where l.status = 'ACTIVE' and l.created_at > now() - interval '7 days' and not exists (
      select from private.reported_listings r where r.organization_id = l.organization_id and r.listing_id = l.id
    )
    order by l.created_at, l.id limit 200 for no key update of l skip locked
  loop
    suited := 0;
    for found_buyers in
      select b.assigned_to_id, count(*)::integer as buyers,
        left(string_agg(b.name, ', ' order by b.wishes desc, b.name), 400) as names
      from public.match_buyers(house.id) b where b.is_watching group by b.assigned_to_id
    loop
      suited := suited + found_buyers.buyers;
      perform private.publish_event(
        'crm.listing.matched', house.organization_id, 'listing', house.id, 'New for your buyers: ' || house.title,
        format('%s in %s suits %s.', house.title, house.city, found_buyers.names), array(
          select m.user_id from public.organization_members m
          where m.organization_id = house.organization_id
            and (m.user_id = found_buyers.assigned_to_id or found_buyers.assigned_to_id is null and m.role = 'OWNER')
        )
      );
    end loop;
    insert into private.reported_listings (organization_id, listing_id, buyers)
    values (house.organization_id, house.id, suited);
    reported := reported + 1;
  end loop;
  return reported;
end $$;
comment on function private.report_matching_listings() is
  'Notifies the assignee of a buyer (or the owners) of new listings that meet every wish of the buyer; each listing '
  'once.';
grant execute on function private.report_matching_listings() to service_role;
insert into private.jobs (name, schedule, runs, description) values
  ('report_matching_listings', '*/10 * * * *', 'private.report_matching_listings',
    'Report new listings to the members whose buyers they suit.');
