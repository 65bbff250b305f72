-- Quotas: how many rows, free organizations and exports there may be, and what counts in the gallery. The limits of a plan
-- are in plans.limits; what is the same for every plan is in private.row_quotas.

-- Rows ----------------------------------------------------------------------------------------------------------------

create table private.row_quotas (
  relation text primary key,
  most bigint,
  times integer not null default 1
);
comment on table private.row_quotas is 'Tables of an organization whose quota is not rows_per_table of its plan.';
comment on column private.row_quotas.relation is 'Table in the schema public.';
comment on column private.row_quotas.most is 'Rows that every organization may have; null: as many as its plan says.';
comment on column private.row_quotas.times is 'How many times rows_per_table it may have.';
insert into private.row_quotas (relation, most, times) values
  ('activities', null, 10),
  ('activity_feeds', null, 10),
  ('dashboard_widgets', 200, 1),
  ('dashboard_metrics', 200, 1),
  ('quick_actions', 200, 1),
  ('follow_up_plans', 200, 1),
  ('follow_up_steps', 5000, 1),
  ('lost_reasons', 200, 1),
  ('saved_views', 2000, 1),
  ('organization_invitations', 500, 1),
  ('project_showcases', 300, 1);

create table private.row_counts (
  organization_id uuid not null references public.organizations (id) on delete cascade,
  relation text not null,
  recount double precision not null,
  counted_at timestamptz not null default now(),
  primary key (organization_id, relation)
);
comment on table private.row_counts is 'How soon the rows of an organization in a table are counted again.';
comment on column private.row_counts.organization_id is 'Whose rows.';
comment on column private.row_counts.relation is 'Table in the schema public.';
comment on column private.row_counts.recount is 'The probability with which the next new row has them counted.';
comment on column private.row_counts.counted_at is 'When they were counted last.';

-- Counting at every insert would cost more than the insert. With room for r more rows, a new row starts a count with
-- probability 20/r, and always when 20 or fewer are left. So a table is counted about twenty times per tenfold growth,
-- and the probability of passing the limit uncounted is e^-20. Other inserts cost one lookup in row_counts.
--
-- Rows have 2 kB on average, in tables with a quota of their own 64 kB: a larger row takes the room of several, and starts a
-- count with a probability so many times as large, also when a row grows to more. In tables of more than a million rows, only
-- rows are counted: reading the sizes of all would take seconds.
create function private.count_rows() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  known double precision;
  quota private.row_quotas;
  allowed bigint;
  each_size integer;
  used record;
  room bigint;
begin
  select c.recount into known from private.row_counts c
  where c.organization_id = new.organization_id and c.relation = tg_table_name;
  -- The platform's own jobs and migrations carry no claims and are not bound. An upload to a signed address carries none of
  -- the person who signed it.
  if random() >= known * greatest(1, pg_column_size(new) / 2048) or new.organization_id is null
    or coalesce(auth.role(), 'service_role') = 'service_role' and nullif(current_setting('storage.operation', true), '') is null
  then
    return null;
  end if;
  select q.* into quota from private.row_quotas q where q.relation = tg_table_name;
  allowed := coalesce(quota.most, private.plan_limit(new.organization_id, 'rows_per_table') * coalesce(quota.times, 1));
  each_size := case when quota.most is null then 2048 else 65536 end;
  if known = 1 then
    -- Close to the limit, inserts wait for each other: only one of two gets the last place.
    perform pg_advisory_xact_lock(hashtextextended(tg_table_name || new.organization_id, 0));
  end if;
  execute format(
    'select count(*) as rows, coalesce(sum(counted.size), 0) as bytes'
    ' from (select %s as size from public.%I t where t.organization_id = $1 limit $2) counted',
    case when allowed <= 1000000 then coalesce((
      select string_agg(format('coalesce(pg_column_size(t.%I), 0)', a.attname), ' + ') from pg_catalog.pg_attribute a
      where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped and a.attlen = -1
    ), '0') else '0' end, tg_table_name
  ) into used using new.organization_id, allowed + 1;
  room := least(allowed - used.rows, allowed - ceil(used.bytes::numeric / each_size));
  if room < 0 then
    raise exception using
      errcode = case when quota.most is null then 'PT402' else 'PT409' end,
      message = format('An organization%s has at most %s in %s', case when quota.most is null then ' with this plan' else '' end,
        case when used.rows > allowed then allowed || ' rows' else allowed * each_size || ' bytes' end, tg_table_name),
      detail = case when used.rows > allowed
        then format('It has %s or more, and this would be one more. They do not renew.', used.rows - 1)
        else format('It would have %s, in %s rows.', used.bytes, used.rows) end,
      hint = case when quota.most is null then 'An owner can choose a larger plan; or delete rows first.'
        else 'Delete some of them first.' end;
  end if;
  insert into private.row_counts as c (organization_id, relation, recount)
  values (new.organization_id, tg_table_name, coalesce(least(1, 20.0 / nullif(room, 0)), case when allowed is null then 0.0001 else 1 end))
  on conflict (organization_id, relation) do update set recount = excluded.recount, counted_at = now()
  where c.recount <> excluded.recount;
  return null;
end $$;
comment on function private.count_rows() is
  'Enforces the number and the bytes of the rows of an organization: PT402 beyond its plan, PT409 beyond what everyone may have.';

-- The quota counts once a statement has written all its rows, and statement_timeout ends one that changes many after seconds.
-- So that statements are short, a request of the data API writes 10,000 rows at most in a table: new ones, changed ones,
-- those that it deletes, and those that refer to them. Functions that write more have bounds of their own. PostgREST answers
-- a timeout with 500, so a request that has used three quarters of its time ends before that.
create function private.bound_request() returns trigger
language plpgsql set search_path = '' as $$
declare
  setting constant text := 'strive.rows_' || tg_table_name;
  written constant integer := coalesce(nullif(current_setting(setting, true), '')::integer, 0) + 1;
  elapsed constant interval := clock_timestamp() - statement_timestamp();
begin
  if written > 10000 then
    raise exception 'A request writes at most 10,000 rows in %', tg_table_name using
      errcode = 'PT422', detail = 'Nothing was written.',
      hint = 'Send several requests, each with a narrower filter, or use the function import-records.';
  elsif elapsed > interval '1 s' and elapsed > nullif(current_setting('statement_timeout')::interval * 0.75, interval '0') then
    raise exception 'The request takes too long' using
      errcode = 'PT503', detail = format('After %s seconds it had written %s rows in %s.', round(extract(epoch from elapsed)), written - 1, tg_table_name),
      hint = 'Nothing was written. Send fewer rows in a request, one request after the other.';
  end if;
  perform set_config(setting, written::text, true);
  return coalesce(new, old);
end $$;
comment on function private.bound_request() is
  'PT422 beyond 10,000 new, changed and deleted rows of a table in a request of the data API; PT503 shortly before its timeout.';

create function private.limit_rows() returns void language plpgsql set search_path = '' as $$
declare
  target record;
begin
  for target in
    select c.relname, has_any_column_privilege('authenticated', c.oid, 'insert') as grows
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
      and (has_any_column_privilege('authenticated', c.oid, 'insert, update') or has_table_privilege('authenticated', c.oid, 'delete'))
      and not exists (select from pg_catalog.pg_trigger t where t.tgrelid = c.oid and t.tgname = 'bound_request')
  loop
    execute format(
      'create trigger bound_request before %s on public.%I for each row when (session_user = ''authenticator'') '
      'execute function private.bound_request()',
      case when target.grows then 'insert or update or delete' else 'update or delete' end, target.relname
    );
    if target.grows then
      execute format(
        'create trigger count_rows after insert on public.%I for each row execute function private.count_rows()', target.relname
      );
      execute format(
        'create trigger count_growth after update on public.%I for each row '
        'when (pg_column_size(new.*) > 2048 and pg_column_size(new.*) > pg_column_size(old.*)) '
        'execute function private.count_rows()', target.relname
      );
    end if;
  end loop;
end $$;
comment on function private.limit_rows() is
  'Gives every table of tenants that clients write the triggers that bound its rows and what a request writes.';
select private.limit_rows();

-- After a change of plan, the next new row starts a count.
create function private.recount_rows() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_table_name = 'plans' then
    delete from private.row_counts where true;
  else
    delete from private.row_counts c where c.organization_id = new.id;
  end if;
  return null;
end $$;
comment on function private.recount_rows() is 'Has rows counted again after the plan of an organization has changed.';
create trigger recount_rows after update of subscription_tier on public.organizations
  for each row when (new.subscription_tier <> old.subscription_tier) execute function private.recount_rows();
create trigger recount_rows after insert or update of limits, is_active on public.plans
  for each statement execute function private.recount_rows();

-- Every change of a record adds to its history, every deletion to the trash, and every event to the deliveries of webhooks,
-- however few rows there are. They call this for one row in a hundred, or for `more` rows that they are about to write.
create function private.bound_growth(relation text, org uuid, more bigint default 0) returns void
language plpgsql security definer set search_path = '' as $$
declare
  allowed constant bigint := 2 * private.plan_limit(org, 'rows_per_table');
  used record;
begin
  if allowed is null or allowed > 1000000 or auth.role() = 'service_role' or auth.role() is null then
    return;
  end if;
  case relation
    when 'trash' then
      select count(*) as rows, sum(t.size) as bytes into used from (
        select pg_column_size(t.record) + pg_column_size(t.children) + pg_column_size(t.links) as size from public.trash t
        where t.organization_id = org limit allowed + 1
      ) t;
    when 'webhook_deliveries' then
      select count(*) + more as rows, 0::bigint as bytes into used from (
        select from public.webhook_deliveries d
        where d.organization_id = org and d.created_at > now() - interval '1 day' limit allowed + 1
      ) d;
    else
      select count(*) as rows, sum(l.size) as bytes into used from (
        select coalesce(pg_column_size(l.old_data), 0) + coalesce(pg_column_size(l.new_data), 0) as size
        from public.activity_logs l
        where l.organization_id = org and l.created_at > now() - interval '1 day'
        order by l.created_at desc limit allowed + 1
      ) l;
  end case;
  -- On average 4 kB an entry.
  if used.rows <= allowed and coalesce(used.bytes, 0) <= allowed * 4096 then
    return;
  elsif relation = 'trash' then
    raise exception 'The trash of an organization with this plan is full' using
      errcode = 'PT402', detail = format('It holds %s records with %s bytes.', used.rows, used.bytes),
      hint = 'An admin can delete entries of the trash, or an owner can choose a larger plan.';
  elsif relation = 'webhook_deliveries' then
    raise exception 'An organization with this plan sends at most % events to webhooks in a day', allowed using
      errcode = 'PT429', constraint = 'retry-after 3600', detail = format('With this request it would be %s in 24 hours.', used.rows),
      hint = 'Switch webhooks off that you do not need, try again tomorrow, or choose a larger plan.';
  end if;
  raise exception 'An organization with this plan has changed too much today' using
    errcode = 'PT429', constraint = 'retry-after 3600', detail = format('The history of the last 24 hours has %s entries with %s bytes.', used.rows, used.bytes),
    hint = 'Try again tomorrow, or an owner can choose a larger plan.';
end $$;
comment on function private.bound_growth(text, uuid, bigint) is
  'PT402 if the trash of an organization holds more than twice its rows_per_table, or PT429 if its history or the deliveries '
  'of its webhooks in a day are more.';

-- Everybody's list of published content holds what each organization has published.
create function private.bound_published() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  allowed constant bigint := 400 * private.plan_limit(new.organization_id, 'rows_per_table');
  used bigint;
begin
  if allowed is null then
    return null;
  end if;
  select sum(octet_length(c.content) + coalesce(octet_length(c.seo_meta::text), 0)) into used
  from public.content c where c.organization_id = new.organization_id and c.status = 'PUBLISHED';
  if used > allowed then
    raise exception 'An organization with this plan publishes at most % bytes', allowed using
      errcode = 'PT402', detail = format('This would be %s bytes.', used),
      hint = 'Archive something, or an owner can choose a larger plan.';
  end if;
  return null;
end $$;
comment on function private.bound_published() is 'PT402 for published content beyond 400 bytes for each of the rows_per_table.';
create trigger bound_published after insert or update of status, content, seo_meta on public.content
  for each row when (new.status = 'PUBLISHED') execute function private.bound_published();

-- What counts in the gallery ------------------------------------------------------------------------------------------

create table private.daily_counts (
  counter text not null,
  subject_id uuid not null,
  day date not null,
  who text not null,
  counted integer not null,
  primary key (counter, subject_id, day, who)
);
comment on table private.daily_counts is
  'What one person, or one network, added to a counter of the gallery in a day (UTC); kept for a month.';
comment on column private.daily_counts.counter is 'Such as showcase_views.';
comment on column private.daily_counts.subject_id is 'The template, blueprint or showcase.';
comment on column private.daily_counts.day is 'Day in UTC.';
comment on column private.daily_counts.who is 'A user id, or the network of the caller, as client_network() has it.';
comment on column private.daily_counts.counted is 'How often it counted.';
insert into private.personal_columns (relation, name, on_deletion, found_by, because)
values ('private.daily_counts', 'who', 'DELETE', 'who', 'what the person looked at and used, for a month');
create index daily_counts_day_idx on private.daily_counts (day);

create function private.counts_today(counter text, subject_id uuid, per_person integer, per_network integer) returns boolean
language plpgsql set search_path = '' as $$
declare
  bound record;
begin
  for bound in
    select b.who, b.most
    from (values (coalesce(auth.uid()::text, ''), per_person), (private.client_network(), per_network)) b (who, most)
    where b.who is not null and b.most is not null
  loop
    insert into private.daily_counts as c (counter, subject_id, day, who, counted)
    values (counts_today.counter, counts_today.subject_id, (now() at time zone 'UTC')::date, bound.who, 1)
    on conflict on constraint daily_counts_pkey do update set counted = c.counted + 1 where c.counted < bound.most;
    if not found then
      return false;
    end if;
  end loop;
  return true;
end $$;
comment on function private.counts_today(text, uuid, integer, integer) is
  'Whether one more action of the caller counts today, by the daily limits per person and per network.';

create function private.forget_daily_counts() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  forgotten bigint;
begin
  delete from private.daily_counts c where c.day < (now() at time zone 'UTC')::date - 31;
  get diagnostics forgotten = row_count;
  return forgotten;
end $$;
comment on function private.forget_daily_counts() is 'Deletes counts older than a month; for roll_up_tallies().';
