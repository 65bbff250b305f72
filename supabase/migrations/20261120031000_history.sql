-- History: who changed what in an organization. Triggers named `history` write activity_logs, each by a function made
-- for its table; record_history() pages the history of one record. The log is stored by month; old months are in a
-- table of their own, so that what is written and read every day stays small.

-- Months of tables. Only postgres uses this schema.
create schema partitions;

-- organization_id has no foreign key, which would cost a third of each entry. An entry is written by a change of a row whose
-- own key holds the organization until the transaction ends; delete_logs() deletes the entries of a deleted organization.
create table public.activity_logs (
  id uuid not null default gen_random_uuid(),
  organization_id uuid not null,
  user_id uuid,
  impersonated_by uuid,
  api_key_id uuid,
  action text not null,
  resource_type text not null,
  resource_id uuid,
  old_data jsonb,
  new_data jsonb,
  ip_address text,
  user_agent text,
  created_at timestamptz not null default clock_timestamp(),
  primary key (organization_id, created_at, id)
) partition by range (created_at);
comment on table public.activity_logs is 'Who changed what in an organization. Append-only for everyone.';
comment on column public.activity_logs.organization_id is 'The organization; its entries are deleted with it.';
comment on column public.activity_logs.user_id is
  'Who did it; null for the server and for an API key. Stays when the account is deleted, as a pseudonym; without a '
  'foreign key, which would cost a fifth of each entry.';
comment on column public.activity_logs.impersonated_by is 'The platform admin who acted as this user.';
comment on column public.activity_logs.api_key_id is 'The API key that the request was made with, if any.';
comment on column public.activity_logs.action is 'created, updated, deleted, restored, purged or merged.';
comment on column public.activity_logs.resource_type is 'The table of the record.';
comment on column public.activity_logs.resource_id is 'The id of the record; of a membership the id of the user.';
comment on column public.activity_logs.ip_address is
  'The address the request came from; null for platform admins, whose addresses are in admin_action_logs.';
comment on column public.activity_logs.user_agent is
  'The program that sent the request, as it names itself; null for platform admins.';
comment on column public.activity_logs.created_at is 'When it was written: later entries of one transaction are later.';
comment on column public.activity_logs.old_data is 'The row before; of an update only what changed.';
comment on column public.activity_logs.new_data is 'The row after; of an update only what changed.';
create index activity_logs_resource_idx on public.activity_logs (organization_id, resource_id, created_at desc, id desc);
create index activity_logs_user_idx on public.activity_logs (user_id);

create table private.archived_activity_logs (like public.activity_logs including all) partition by range (created_at);
comment on table private.archived_activity_logs is
  'Months of activity_logs older than a year: part of history and exports, and not of lists.';

-- Months --------------------------------------------------------------------------------------------------------------

-- Ranges without a gap and without a default partition: only then does a list read one month after the other, without
-- opening all of them. What is older than the first month is in `…_past`. `…_future` is empty unless the job is late.
create table partitions.activity_logs_past partition of public.activity_logs for values from (minvalue) to ('2026-01-01 00:00Z');
create table partitions.activity_logs_future partition of public.activity_logs for values from ('2026-01-01 00:00Z') to (maxvalue);
create table partitions.archived_activity_logs_rest partition of private.archived_activity_logs default;

create function private.months_of(relation regclass) returns table (partition regclass, starts timestamptz)
language sql stable set search_path = '' set timezone = 'UTC' as $$
  select i.inhrelid::regclass, to_date(right(c.relname, 7), 'YYYY_MM')::timestamptz
  from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
  where i.inhparent = relation and c.relname ~ '_\d{4}_\d{2}$'
  order by 2
$$;
comment on function private.months_of(regclass) is 'The partitions of a table that are a month, oldest first.';

create function private.add_months(relation regclass, ahead integer) returns integer
language plpgsql set search_path = '' set timezone = 'UTC' as $$
declare
  name constant text := (select c.relname from pg_catalog.pg_class c where c.oid = relation);
  future constant text := format('partitions.%I', name || '_future');
  last constant timestamptz := date_trunc('month', now()) + make_interval(months => ahead);
  starts timestamptz := (select max(m.starts) + interval '1 month' from private.months_of(relation) m);
  ends timestamptz;
  made integer := 0;
begin
  if starts > last then
    return 0;
  end if;
  execute format('alter table %s detach partition %s', relation, future);
  if starts is null then
    -- The first time: a year back, so that the past of an installation is in months, too.
    starts := date_trunc('month', now()) - interval '12 months';
    execute format('alter table %s detach partition partitions.%I', relation, name || '_past');
    execute format(
      'alter table %s attach partition partitions.%I for values from (minvalue) to (%L)', relation, name || '_past', starts
    );
  end if;
  while starts <= last loop
    ends := starts + interval '1 month';
    execute format(
      'create table partitions.%I partition of %s for values from (%L) to (%L)',
      name || to_char(starts, '_YYYY_MM'), relation, starts, ends
    );
    execute format(
      'create trigger keep_all before truncate on partitions.%I for each statement execute function private.keep_activity_logs()',
      name || to_char(starts, '_YYYY_MM')
    );
    starts := ends;
    made := made + 1;
  end loop;
  execute format(
    'with late as (delete from %1$s where created_at < %2$L returning *) insert into %3$s select * from late',
    future, starts, relation
  );
  execute format('alter table %s attach partition %s for values from (%L) to (maxvalue)', relation, future, starts);
  return made;
end $$;
comment on function private.add_months(regclass, integer) is
  'Creates the months of a table up to so many after the current one; entries of a late job move to them. Returns how many.';

-- The check repeats the range, so that the month is attached to the archive without a look at its rows. Months to which
-- entries are added have none: Postgres would prepare it for each entry. One run adds it, the next validates it, which
-- reads the month and locks neither readers nor writers out.
create function private.check_months(relation regclass) returns integer
language plpgsql set search_path = '' set timezone = 'UTC' as $$
declare
  month record;
  checked integer := 0;
begin
  for month in
    select m.*, k.convalidated from private.months_of(relation) m
    left join pg_catalog.pg_constraint k on k.conrelid = m.partition and k.conname = 'created_at is in its month'
    where m.starts + interval '1 month' <= now() and k.convalidated is distinct from true
  loop
    if month.convalidated is null then
      execute format(
        'alter table %s add constraint "created_at is in its month" check (created_at >= %L and created_at < %L) not valid',
        month.partition, month.starts, month.starts + interval '1 month'
      );
    else
      execute format('alter table %s validate constraint "created_at is in its month"', month.partition);
    end if;
    checked := checked + 1;
  end loop;
  return checked;
end $$;
comment on function private.check_months(regclass) is
  'Gives months that are over a check of their range, or validates it. Returns how many.';

create function private.archive_months(relation regclass, archive regclass, kept integer) returns integer
language plpgsql set search_path = '' set timezone = 'UTC' as $$
declare
  past constant text := format('partitions.%I', (select c.relname from pg_catalog.pg_class c where c.oid = relation) || '_past');
  month record;
  moved integer := 0;
begin
  for month in
    select m.* from private.months_of(relation) m
    where m.starts < date_trunc('month', now()) - make_interval(months => kept)
  loop
    execute format('alter table %s detach partition %s', relation, month.partition);
    execute format('alter table %s detach partition %s', relation, past);
    execute format(
      'alter table %s attach partition %s for values from (%L) to (%L)', archive, month.partition, month.starts,
      month.starts + interval '1 month'
    );
    execute format(
      'alter table %s attach partition %s for values from (minvalue) to (%L)', relation, past, month.starts + interval '1 month'
    );
    moved := moved + 1;
  end loop;
  return moved;
end $$;
comment on function private.archive_months(regclass, regclass, integer) is
  'Moves months older than so many before the current one to the archive of a table. Returns how many.';

-- Each step locks the table for a moment: it does not wait for a long transaction, the next run repeats it.
create function private.keep_months() returns jsonb
language plpgsql security definer set search_path = '' set lock_timeout = '2s' as $$
begin
  perform private.check_months('public.activity_logs');
  return jsonb_build_object(
    'added', private.add_months('public.activity_logs', 3),
    'archived', private.archive_months('public.activity_logs', 'private.archived_activity_logs', 12)
  );
end $$;
comment on function private.keep_months() is
  'Adds the next three months of activity_logs and archives those older than a year; returns how many of each.';

-- Writing -------------------------------------------------------------------------------------------------------------

-- Postgres prepares every expression again in each transaction, and a query costs more than an expression: so there are few
-- of both. To compare columns costs a third of comparing members of JSON in a query, so each table has a function of its own
-- that names its columns.
create function private.record_changes(
  target regclass, omitted text[] default '{}', events text default 'insert or update or delete'
) returns void
language plpgsql set search_path = '' as $$
declare
  relation constant text := (select c.relname from pg_catalog.pg_class c where c.oid = target);
  called constant text := 'history_of_' || relation;
  org constant text := case when relation = 'organizations' then 'id' else 'organization_id' end;
  -- The expression of client_ip(): to call it costs as much as to look for an admin.
  address constant text := (
    select (regexp_match(p.prosrc, 'return (.*);'))[1] from pg_catalog.pg_proc p where p.oid = 'private.client_ip(jsonb)'::regprocedure
  );
  -- What the server derives or counts, and secrets.
  unrecorded constant text[] := omitted || '{updated_at,last_contact_at,usage_count,rating,is_popular,views,likes,price_per_sqft,'
    'blocked_until,reminders_sent,next_reminder_at,sequence,stored_at,stripe_customer_id,token_hash}'::text[];
  names constant text[] := array(
    select a.attname from pg_catalog.pg_attribute a where a.attrelid = target and a.attnum > 0 and not a.attisdropped order by a.attnum
  );
  left_out constant text[] := array(select n from unnest(names) n where n = any (unrecorded));
  comparisons text;
begin
  -- Five columns at once: few of them change.
  select string_agg(format($group$
          if (%s) is distinct from (%s) then%s
          end if;$group$, g.after, g.before, g.lines), '' order by g.place)
  into comparisons
  from (
    select string_agg(format('new.%I', c.name), ', ' order by c.place) as after,
      string_agg(format('old.%I', c.name), ', ' order by c.place) as before, min(c.place) as place,
      string_agg(format($line$
            if new.%1$I is distinct from old.%1$I then
              before := before || jsonb_build_object(%1$L, old.%1$I);
              after := after || jsonb_build_object(%1$L, new.%1$I);
            end if;$line$, c.name), '' order by c.place) as lines
    from unnest(array(select n from unnest(names) n where n <> all (left_out))) with ordinality c (name, place)
    group by (c.place - 1) / 5
  ) g;
  execute format($create$
      create or replace function private.%1$I() returns trigger
      language plpgsql security definer set search_path = '' as $body$
      declare
        org constant uuid := coalesce(new.%2$I, old.%2$I);
        claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
        headers constant jsonb := nullif(current_setting('request.headers', true), '')::jsonb;
        before jsonb := '{}';
        after jsonb := '{}';
      begin
        if org is null then
          return null; -- templates of the platform belong to no organization
        elsif tg_op = 'UPDATE' then%3$s
          if after = '{}' then
            return null;
          end if;
        elsif tg_op = 'INSERT' then
          before := null;
          after := jsonb_strip_nulls(to_jsonb(new)) - %4$L::text[];
        elsif not exists (select from public.organizations o where o.id = org) then
          return null; -- deleted together with its organization
        else
          before := jsonb_strip_nulls(to_jsonb(old)) - %4$L::text[];
          after := null;
        end if;
        if random() < 0.01 then
          perform private.bound_growth('activity_logs', org);
        end if;
        insert into public.activity_logs (
          organization_id, user_id, impersonated_by, api_key_id, action, resource_type, resource_id, old_data, new_data,
          ip_address, user_agent
        )
        select org, case when not coalesce(claims ? 'api_key_id', false) then (claims ->> 'sub')::uuid end,
          (claims #>> '{act,sub}')::uuid, (claims ->> 'api_key_id')::uuid,
          case tg_op
            when 'UPDATE' then 'updated'
            when 'DELETE' then 'deleted'
            else coalesce(nullif(current_setting('strive.history_action', true), ''), 'created')
          end,
          %5$L, coalesce(new.%6$I, old.%6$I), before, after,
          case when origin.is_shown then %7$s end,
          case when origin.is_shown then left(headers ->> 'user-agent', 500) end
        from (
          -- Where its admins work is not for tenants; admin_action_logs has it.
          select headers is not null and not coalesce(claims ? 'act' or exists (
            select from public.users u where u.id = (claims ->> 'sub')::uuid and u.global_role in ('ADMIN', 'SUPER_ADMIN')
          ), false) as is_shown offset 0
        ) origin;
        return null;
      end $body$
    $create$, called, org, comparisons, left_out, relation,
    case when 'id' = any (names) then 'id' else 'user_id' end, address);
  execute format('comment on function private.%I() is %L', called,
    format('Trigger `history`: records in activity_logs who created, changed or deleted a row of %s; for an update only the '
      'changed columns.', relation));
  execute format('create or replace trigger history after %s on %s for each row execute function private.%I()',
    events, target, called);
end $$;
comment on function private.record_changes(regclass, text[], text) is
  'Has changes of a table recorded in activity_logs, by a function that names its columns: call it again after one is added. '
  'omitted: columns that history leaves out besides those that the server derives, because they hold personal data or secrets.';

create function private.log_merge(type text, id uuid, before jsonb, after jsonb) returns void
language plpgsql security definer set search_path = '' as $$
declare
  claims constant jsonb := auth.jwt();
  -- As in record_changes().
  of_the_platform constant boolean := coalesce(claims ? 'act' or private.is_admin(), false);
begin
  insert into public.activity_logs (
    organization_id, user_id, impersonated_by, api_key_id, action, resource_type, resource_id, old_data, new_data,
    ip_address, user_agent
  ) values (
    (after ->> 'organization_id')::uuid, case when not coalesce(claims ? 'api_key_id', false) then auth.uid() end,
    (claims #>> '{act,sub}')::uuid, (claims ->> 'api_key_id')::uuid, 'merged', type, id, before, after,
    case when not of_the_platform then private.client_ip() end,
    case when not of_the_platform then private.request_header('user-agent') end
  );
end $$;
comment on function private.log_merge(text, uuid, jsonb, jsonb) is 'Records that several records became one.';

-- Append-only ---------------------------------------------------------------------------------------------------------

-- An entry is deleted only with its organization, and changed only to clear the addresses of a deleted account.
create function private.keep_activity_logs() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'DELETE' and not exists (select from public.organizations o where o.id = old.organization_id) then
    return old;
  end if;
  if tg_op = 'UPDATE' and exists (select from public.users u where u.id = old.user_id and u.deleted_at is not null)
    and to_jsonb(new) - '{ip_address,user_agent}'::text[] = to_jsonb(old) - '{ip_address,user_agent}'::text[]
    and coalesce(new.ip_address, old.ip_address) is not distinct from old.ip_address
    and coalesce(new.user_agent, old.user_agent) is not distinct from old.user_agent then
    return new;
  end if;
  raise exception 'The activity log is append-only' using
    errcode = '42501', detail = format('Tried to %s.', lower(tg_op));
end $$;
comment on function private.keep_activity_logs() is 'Refuses every change and every deletion of an entry.';
create trigger keep before update or delete on public.activity_logs
  for each row execute function private.keep_activity_logs();
create trigger keep_all before truncate on public.activity_logs
  for each statement execute function private.keep_activity_logs();
create trigger keep before update or delete on private.archived_activity_logs
  for each row execute function private.keep_activity_logs();
create trigger keep_all before truncate on private.archived_activity_logs
  for each statement execute function private.keep_activity_logs();
create function private.delete_logs() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  delete from public.activity_logs l where l.organization_id = old.id;
  delete from private.archived_activity_logs l where l.organization_id = old.id;
  return null;
end $$;
comment on function private.delete_logs() is 'Deletes the activity log of a deleted organization.';
-- By its name after the triggers of foreign keys (RI_…), which wait for everybody who writes rows of the organization.
create trigger delete_logs after delete on public.organizations for each row execute function private.delete_logs();
-- Of a month alone, triggers of the whole table do not hear.
create trigger keep_all before truncate on partitions.activity_logs_past
  for each statement execute function private.keep_activity_logs();
create trigger keep_all before truncate on partitions.activity_logs_future
  for each statement execute function private.keep_activity_logs();
create trigger keep_all before truncate on partitions.archived_activity_logs_rest
  for each statement execute function private.keep_activity_logs();
select private.keep_months();

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.activity_logs enable row level security;
create policy "admins read the activity log" on public.activity_logs for select to authenticated
  using (organization_id = (select private.current_user_org('ADMIN', true)));
grant select on public.activity_logs to authenticated;
grant select on public.activity_logs to service_role;

-- Reading -------------------------------------------------------------------------------------------------------------

create function private.history_tables() returns text[]
language sql stable security definer set search_path = '' as $$
  select array_agg(c.relname::text order by c.relname)
  from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
  where t.tgname = 'history' and c.relnamespace = 'public'::regnamespace
$$;
comment on function private.history_tables() is 'The tables whose changes are recorded: those with the trigger `history`.';

create function private.record_history(
  type text, id uuid, before timestamptz, before_id uuid, page_size integer
) returns setof public.activity_logs
language plpgsql stable security definer set search_path = '' as $$
declare
  org uuid;
  found_rows bigint;
begin
  org := case
    -- Those whose rows MEMBERs do not read either, or not all of them.
    when type in ('organizations', 'organization_members', 'organization_invitations', 'api_keys', 'webhook_endpoints')
      then private.require_org('ADMIN', true)
    else private.require_org('VIEWER')
  end;
  if type is null or type <> all (private.history_tables()) then
    raise exception 'This type has no history' using
      errcode = 'PT400', detail = format('Found %L.', left(type, 100)),
      hint = format('Types are: %s.', array_to_string(private.history_tables(), ', '));
  end if;
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  end if;
  return query
  select l.* from public.activity_logs l
  where l.organization_id = org and l.resource_type = record_history.type and l.resource_id = record_history.id
    and (l.created_at, l.id) < (before, before_id)
  order by l.created_at desc, l.id desc limit page_size;
  get diagnostics found_rows = row_count;
  if found_rows < page_size then
    return query
    select l.* from private.archived_activity_logs l
    where l.organization_id = org and l.resource_type = record_history.type and l.resource_id = record_history.id
      and (l.created_at, l.id) < (before, before_id)
    order by l.created_at desc, l.id desc limit page_size - found_rows;
  end if;
end $$;
comment on function private.record_history(text, uuid, timestamptz, uuid, integer) is
  'Does the work of public.record_history(): activity_logs itself is for ADMIN.';

create function public.record_history(
  type text, id uuid, before timestamptz default 'infinity',
  before_id uuid default 'ffffffff-ffff-ffff-ffff-ffffffffffff', page_size integer default 50
) returns table (
  entry_id uuid, action text, user_id uuid, impersonated_by uuid, api_key_id uuid, old_data jsonb, new_data jsonb,
  created_at timestamptz, api_key_name text
) language sql stable set search_path = '' as $$
  select h.id, h.action, h.user_id, h.impersonated_by, h.api_key_id, h.old_data, h.new_data, h.created_at,
    private.api_key_name(h.api_key_id)
  from private.record_history(type, id, before, before_id, page_size) h
$$;
comment on function public.record_history(text, uuid, timestamptz, uuid, integer) is
  'The history of one record, newest first, for every member; that of the organization, its members and invitations for '
  'ADMIN. type is the table, such as deals. For the next page give created_at and entry_id of the last entry.';

grant execute on function private.record_history(text, uuid, timestamptz, uuid, integer),
  public.record_history(text, uuid, timestamptz, uuid, integer)
  to authenticated, service_role;

select private.record_changes('public.organization_members');
select private.record_changes('public.organization_invitations', '{email}');
-- The creation of an organization is recorded by its first membership.
select private.record_changes('public.organizations', '{billing_email}',
  events => 'update of name, slug, website, description, settings, logo_url, subscription_tier, '
    'subscription_status, suspended_at, suspended_reason, closed_at');
