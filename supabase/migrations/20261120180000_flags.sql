-- Feature flags: what is stored, who is in which group, and which unit saw which variant of an experiment. The database
-- stores and validates flags. Python alone evaluates them (shared/flags).

-- Types ---------------------------------------------------------------------------------------------------------------

create type "Environment" as enum ('DEVELOPMENT', 'STAGING', 'PRODUCTION');
comment on type "Environment" is 'The deployment in which a feature flag applies.';

-- Flags ---------------------------------------------------------------------------------------------------------------

create table public.feature_flags (
  id uuid primary key default gen_random_uuid(),
  name text not null constraint "name is not the name of another flag" unique
    constraint "name is 1 to 100 of a-z, 0-9, dot, underscore and hyphen" check (name ~ '^[a-z0-9._-]{1,100}$'),
  description text constraint "description has at most 2000 characters" check (length(description) <= 2000),
  is_enabled boolean not null default false,
  rollout_percent double precision not null default 0
    constraint "rollout_percent is between 0 and 100" check (rollout_percent between 0 and 100),
  target_tiers "SubscriptionTier"[] not null default '{}' constraint "target_tiers is a flat list without null"
    check (case when array_ndims(target_tiers) > 1 then false else array_position(target_tiers, null) is null end),
  target_orgs uuid[] not null default '{}' constraint "target_orgs is a flat list without null"
    check (case when array_ndims(target_orgs) > 1 then false else array_position(target_orgs, null) is null end),
  target_users uuid[] not null default '{}' constraint "target_users is a flat list without null"
    check (case when array_ndims(target_users) > 1 then false else array_position(target_users, null) is null end),
  conditions jsonb,
  environment "Environment" not null default 'PRODUCTION',
  category text constraint "category has at most 100 characters" check (length(category) <= 100),
  seed uuid not null default gen_random_uuid(),
  bucket_by text not null default 'user'
    constraint "bucket_by is user or org" check (bucket_by in ('user', 'org')),
  variants jsonb,
  starts_at timestamptz constraint "starts_at is finite" check (isfinite(starts_at)),
  ends_at timestamptz constraint "ends_at is finite" check (isfinite(ends_at)),
  prerequisites text[] constraint "prerequisites is a flat list of at most 20 other flags" check (
    case when array_ndims(prerequisites) > 1 or cardinality(prerequisites) > 20 then false
      else array_position(prerequisites, name) is null and array_position(prerequisites, null) is null end
  ),
  version bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  created_by uuid not null default auth.uid() references public.users (id) on delete cascade,
  constraint "ends_at is after starts_at" check (ends_at > starts_at)
);
comment on table public.feature_flags is 'Which features are on, and for whom. Only platform admins see the rules.';
comment on column public.feature_flags.rollout_percent is
  'Share of the units that pass all other rules. A unit keeps its result while the share grows.';
comment on column public.feature_flags.target_tiers is 'Empty: every tier. Otherwise the flag is off for other tiers.';
comment on column public.feature_flags.target_orgs is 'Always on; tiers, conditions and percentage do not apply.';
comment on column public.feature_flags.target_users is 'Always on; tiers, conditions and percentage do not apply.';
comment on column public.feature_flags.conditions is 'Conditions in GrowthBook''s syntax. Null: everyone matches.';
comment on column public.feature_flags.seed is 'Input of the hash for percentages, so a rename changes no result.';
comment on column public.feature_flags.bucket_by is 'Unit of percentages and variants: users, or whole organizations.';
comment on column public.feature_flags.variants is
  'List of {"name", "weight", "value"?}. Weights are relative. The first variant is the value while the flag is off.'
  ' Null: the flag is true or false.';
comment on column public.feature_flags.prerequisites is 'Names of flags of the same environment that must be on.';
comment on column public.feature_flags.version is 'Version of the environment at which this row last changed.';
comment on column public.feature_flags.created_by is
  'When this account is deleted, another admin takes over the flag. Without another admin the flag is deleted too.';
create index feature_flags_is_enabled_idx on public.feature_flags (is_enabled);
create index feature_flags_environment_idx on public.feature_flags (environment);
create index feature_flags_created_by_idx on public.feature_flags (created_by);

create table private.feature_flag_versions (
  environment "Environment" primary key,
  version bigint not null default 0,
  changed_at timestamptz not null default now()
);
comment on table private.feature_flag_versions is 'Version of an environment''s flags. Every change adds one.';
insert into private.feature_flag_versions (environment)
  select unnest(enum_range(null::"Environment"));

-- Triggers run before the WITH CHECK of a policy, so they authorize the writer themselves: first of all triggers (by
-- name), before any lock or validation. Not SECURITY DEFINER: row_security_active() is about the calling role.
create function private.authorize_flag_writer() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) and not private.is_admin() then
    raise exception 'Only platform admins write feature flags and groups' using
      errcode = '42501', hint = 'Sign in as a platform admin, or use a secret key.';
  end if;
  return null;
end $$;
comment on function private.authorize_flag_writer() is
  'Refuses callers who are bound by policies and are no platform admin.';
create trigger authorize_flag_writer before insert or update or delete on public.feature_flags
  for each statement execute function private.authorize_flag_writer();

-- Writers of flags wait for each other from the start of the statement until they commit. So versions commit in the
-- order in which they were assigned: a process that has seen version 7 has seen every change up to it. Locking before
-- the first row also rules out deadlocks between writers, and circles of prerequisites closed by two writers at once.
create function private.lock_feature_flags() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform from private.feature_flag_versions order by environment for update;
  return null;
end $$;
comment on function private.lock_feature_flags() is 'Lets one writer of feature flags work at a time.';
-- Not inside another trigger: the foreign key looks for flags to delete whenever any account is deleted.
create trigger lock_feature_flags before insert or update or delete on public.feature_flags
  for each statement when (pg_trigger_depth() = 0) execute function private.lock_feature_flags();

create function private.validate_feature_flag() returns trigger language plpgsql set search_path = '' as $$
declare
  problem text;
  warning text;
begin
  -- Their checks come too late: a document without bounds takes long to validate.
  perform private.check_json('conditions', new.conditions), private.check_json('variants', new.variants);
  problem := private.flag_error(new.conditions, new.variants);
  if problem is not null then
    raise exception 'This feature flag could not be evaluated' using
      errcode = 'PT400', detail = problem, hint = 'docs/flags.md describes conditions and variants.';
  end if;
  if tg_op = 'UPDATE'
    and cardinality(old.target_users) + cardinality(old.target_orgs) + cardinality(old.target_tiers) > 0
    and cardinality(new.target_users) + cardinality(new.target_orgs) + cardinality(new.target_tiers) = 0 then
    warning := format('%s has no target lists any more: it is on for %s %% of everyone', new.name,
      case when new.is_enabled then new.rollout_percent else 0 end);
    raise warning '%', warning;
    -- PostgREST sends this to the client as a response header.
    perform set_config('response.headers', (
      coalesce(nullif(current_setting('response.headers', true), '')::jsonb, '[]')
      || jsonb_build_object('Warning', format('199 - "%s"', warning))
    )::text, true);
  end if;
  return new;
end $$;
comment on function private.validate_feature_flag() is
  'Refuses a flag that Python could not evaluate. Warns when a change empties the last target list.';
create trigger touch before update on public.feature_flags for each row execute function private.touch_updated_at();
create trigger validate_feature_flag before insert or update on public.feature_flags
  for each row execute function private.validate_feature_flag();

create function private.version_feature_flag() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  changed record;
begin
  if tg_op = 'UPDATE' and to_jsonb(new) - 'updated_at' = to_jsonb(old) - 'updated_at' then
    return new;
  end if;
  for changed in
    update private.feature_flag_versions v set version = v.version + 1, changed_at = clock_timestamp()
    where v.environment in (
      case when tg_op <> 'INSERT' then old.environment end, case when tg_op <> 'DELETE' then new.environment end
    )
    returning v.environment, v.version
  loop
    perform pg_notify('feature_flags', jsonb_build_object(
      'environment', changed.environment, 'version', changed.version)::text);
    if tg_op <> 'DELETE' and changed.environment = new.environment then
      new.version := changed.version;
    end if;
  end loop;
  return coalesce(new, old);
end $$;
comment on function private.version_feature_flag() is
  'Adds one to the version of the environment in the same transaction, and notifies the channel feature_flags.';
create trigger version_feature_flag before insert or update or delete on public.feature_flags
  for each row execute function private.version_feature_flag();

create function private.keep_prerequisites() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  flag_names text;
begin
  if tg_op <> 'DELETE' then
    select string_agg(p.name, ', ' order by p.name) into flag_names from unnest(new.prerequisites) p (name)
    where not exists (
      select from public.feature_flags f where f.name = p.name and f.environment = new.environment
    );
    if flag_names is not null then
      raise exception 'A prerequisite of % does not exist', new.name using
        errcode = 'PT422', detail = format('There is no flag %s in %s.', left(flag_names, 300), new.environment),
        hint = 'Prerequisites are names of flags of the same environment.';
    end if;
    if exists (
      with recursive needed (name) as (
        select unnest(new.prerequisites)
        union
        select unnest(f.prerequisites) from needed n join public.feature_flags f on f.name = n.name
      )
      select from needed n where n.name = new.name
    ) then
      raise exception 'Feature flag % would be its own prerequisite', new.name using
        errcode = 'PT422', detail = 'Its prerequisites lead back to it.', hint = 'Remove one of them.';
    end if;
  end if;
  if tg_op <> 'INSERT' and not exists (
    select from public.feature_flags f where f.name = old.name and f.environment = old.environment
  ) then
    select string_agg(f.name, ', ' order by f.name) into flag_names from public.feature_flags f
    where f.environment = old.environment and old.name = any (f.prerequisites);
    if flag_names is not null then
      raise exception 'Other flags need feature flag %', old.name using
        errcode = 'PT409', detail = format('It is a prerequisite of %s.', left(flag_names, 300)),
        hint = 'Remove it from their prerequisites first.';
    end if;
  end if;
  return null;
end $$;
comment on function private.keep_prerequisites() is
  'Refuses prerequisites that do not exist or form a circle, and the removal of a flag that others need.';
create trigger keep_prerequisites after insert or delete or update of name, environment, prerequisites
  on public.feature_flags for each row execute function private.keep_prerequisites();

create trigger audit_change after insert or update or delete on public.feature_flags
  for each row execute function private.audit_change('FEATURE_FLAG_UPDATE', 'feature_flag', 'name');

-- Groups --------------------------------------------------------------------------------------------------------------

create table public.feature_flag_groups (
  id uuid primary key default gen_random_uuid(),
  name text not null constraint "name is not the name of another group" unique
    constraint "name is 1 to 100 of a-z, 0-9, dot, underscore and hyphen" check (name ~ '^[a-z0-9._-]{1,100}$'),
  description text constraint "description has at most 2000 characters" check (length(description) <= 2000),
  revision uuid not null default gen_random_uuid(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.feature_flag_groups is
  'Saved groups: lists of values that conditions name by $inGroup and $notInGroup. Only platform admins see them.';
comment on column public.feature_flag_groups.revision is 'Changes with every change of the members.';
create trigger authorize_flag_writer before insert or update or delete on public.feature_flag_groups
  for each statement execute function private.authorize_flag_writer();
-- A change of a group takes the lock of the flags, so it happens between two of their versions.
create trigger lock_feature_flags before insert or update or delete on public.feature_flag_groups
  for each statement when (pg_trigger_depth() = 0) execute function private.lock_feature_flags();
create trigger touch before update on public.feature_flag_groups
  for each row execute function private.touch_updated_at();

create table public.feature_flag_group_members (
  group_id uuid not null
    constraint "group_id is the id of a group" references public.feature_flag_groups (id) on delete cascade,
  value jsonb not null constraint "value is true, false, a number up to 10^15 or 300 characters"
    check (case jsonb_typeof(value)
      when 'number' then abs(value::numeric) <= 1e15 and scale(value::numeric) <= 20
      when 'string' then length(value #>> '{}') <= 300
      else jsonb_typeof(value) = 'boolean'
    end),
  created_at timestamptz not null default now(),
  constraint "value is not in the group yet" primary key (group_id, value)
);
comment on table public.feature_flag_group_members is 'Members of a group: values of any attribute, mostly ids.';
create trigger authorize_flag_writer before insert or update or delete on public.feature_flag_group_members
  for each statement execute function private.authorize_flag_writer();
create trigger lock_feature_flags before insert or update or delete on public.feature_flag_group_members
  for each statement when (pg_trigger_depth() = 0) execute function private.lock_feature_flags();

-- Kept by triggers of the flags, so that the groups in use are known without reading conditions.
create table private.feature_flag_group_uses (
  flag_id uuid not null references public.feature_flags (id) on delete cascade,
  group_id uuid not null references public.feature_flag_groups (id),
  primary key (flag_id, group_id)
);
comment on table private.feature_flag_group_uses is 'Which flags name which groups.';
create index feature_flag_group_uses_group_idx on private.feature_flag_group_uses (group_id);

create function private.groups_in(flag text, conditions jsonb) returns text[]
language plpgsql stable set search_path = '' as $$
declare
  names constant text[] := array(
    select n #>> '{}' from jsonb_path_query(conditions, '$.**."$inGroup"') n
    union
    select n #>> '{}' from jsonb_path_query(conditions, '$.**."$notInGroup"') n
  );
  unknown text;
begin
  select string_agg(n.name, ', ' order by n.name) into unknown from unnest(names) n (name)
  where not exists (select from public.feature_flag_groups g where g.name = n.name);
  if unknown is not null then
    raise exception 'The conditions of % name a group that does not exist', flag using
      errcode = 'PT422', detail = format('There is no group %s.', left(unknown, 300)),
      hint = 'Create it in feature_flag_groups first.';
  end if;
  return names;
end $$;
comment on function private.groups_in(text, jsonb) is 'Names of the groups in conditions. PT422 if one does not exist.';

create function private.note_groups() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  names constant text[] := private.groups_in(new.name, new.conditions);
begin
  delete from private.feature_flag_group_uses u using public.feature_flag_groups g
  where u.flag_id = new.id and g.id = u.group_id and g.name <> all (names);
  insert into private.feature_flag_group_uses (flag_id, group_id)
  select new.id, g.id from public.feature_flag_groups g where g.name = any (names)
  on conflict do nothing;
  return null;
end $$;
comment on function private.note_groups() is 'Keeps feature_flag_group_uses in step with the conditions of flags.';
create trigger note_groups after insert or update of conditions on public.feature_flags
  for each row execute function private.note_groups();

create function private.keep_group() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  flag_names text;
begin
  if tg_op = 'UPDATE' and new.name = old.name then
    return new;
  end if;
  select string_agg(f.name, ', ' order by f.name) into flag_names
  from private.feature_flag_group_uses u join public.feature_flags f on f.id = u.flag_id where u.group_id = old.id;
  if flag_names is not null then
    raise exception 'Flags use group %', old.name using
      errcode = 'PT409', detail = format('The conditions of %s name it.', left(flag_names, 300)),
      hint = 'Remove it from their conditions first.';
  end if;
  return coalesce(new, old);
end $$;
comment on function private.keep_group() is 'A group cannot be deleted or renamed while conditions name it.';
create trigger keep_group before delete or update of name on public.feature_flag_groups
  for each row execute function private.keep_group();
create trigger audit_change after insert or delete or update of name, description on public.feature_flag_groups
  for each row execute function private.audit_change('FEATURE_FLAG_UPDATE', 'feature_flag_group', 'name');

create function private.change_group() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  changed record;
begin
  for changed in
    select g.id, g.name, count(*) as many, array_agg(c.value order by c.value) as members
    from changed_members c join public.feature_flag_groups g on g.id = c.group_id group by g.id
  loop
    if tg_op = 'INSERT'
      and (select count(*) from public.feature_flag_group_members m where m.group_id = changed.id) > 100000 then
      raise exception 'Group % would be too large', changed.name using
        errcode = 'PT422', detail = 'A group has at most 100000 members.',
        hint = 'List organizations instead of their users, or let the client send an attribute for it.';
    end if;
    update public.feature_flag_groups set revision = gen_random_uuid() where id = changed.id;
    -- Changes the version of each flag and of its environment, and so notifies the functions.
    update public.feature_flags f set version = f.version + 1
    from private.feature_flag_group_uses u where u.group_id = changed.id and f.id = u.flag_id;
    perform private.append_admin_action(
      'FEATURE_FLAG_UPDATE',
      format('Feature Flag Group %s changed: %s %s', changed.name, changed.many,
        case tg_op when 'INSERT' then 'added' else 'removed' end),
      'feature_flag_group', changed.id::text,
      -- Only the first 100: whole lists would make the log larger than everything else.
      jsonb_build_object(case tg_op when 'INSERT' then 'added' else 'removed' end, to_jsonb(changed.members[:100])),
      true, null, null
    );
  end loop;
  return null;
end $$;
comment on function private.change_group() is
  'Logs a change of a group''s members and changes the version of every flag that names the group.';
create trigger change_group_by_insert after insert on public.feature_flag_group_members
  referencing new table as changed_members for each statement execute function private.change_group();
create trigger change_group_by_delete after delete on public.feature_flag_group_members
  referencing old table as changed_members for each statement execute function private.change_group();

-- Loading -------------------------------------------------------------------------------------------------------------

create function private.flag_definition(flag public.feature_flags) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(flag) - array['id', 'name', 'description', 'category', 'environment', 'version', 'created_at',
      'updated_at', 'created_by']
    || jsonb_build_object('starts_at', extract(epoch from flag.starts_at), 'ends_at', extract(epoch from flag.ends_at))
$$;
comment on function private.flag_definition(public.feature_flags) is 'A flag as shared/flags/compiling.py reads it.';

-- One statement, so one state of the database: the version, with the groups and flags of exactly that version.
create function private.load_feature_flags(environment "Environment", known bigint, known_groups uuid[])
returns table (version bigint, name text, flag_version bigint, group_revision uuid, definition text)
language sql stable security definer set search_path = '' as $$
  with now_at as (
    select v.version, v.environment, v.version is distinct from load_feature_flags.known as is_new
    from private.feature_flag_versions v where v.environment = load_feature_flags.environment
  ), flags as (
    select f.* from now_at n join public.feature_flags f on n.is_new and f.environment = n.environment
  ), parts as (
    select g.name, null::bigint as flag_version, g.revision as group_revision,
      case when g.revision <> all (load_feature_flags.known_groups) then coalesce((
        select jsonb_agg(m.value) from public.feature_flag_group_members m where m.group_id = g.id
      ), '[]')::text end as definition
    from public.feature_flag_groups g
    where exists (
      select from flags f join private.feature_flag_group_uses u on u.flag_id = f.id where u.group_id = g.id
    )
    union all
    select f.name, f.version, null,
      case when f.version > load_feature_flags.known then private.flag_definition(f)::text end
    from public.feature_flags f join now_at n on n.is_new and f.environment = n.environment
  )
  select n.version, p.name, p.flag_version, p.group_revision, p.definition
  from now_at n left join parts p on true
  order by p.group_revision is null, p.name
$$;
comment on function private.load_feature_flags("Environment", bigint, uuid[]) is
  'The version of an environment and, unless the caller knows it, its groups and then its flags, with the definitions'
  ' that the caller does not know.';

create function private.flag_identity(request jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  org uuid := private.current_user_org();
begin
  perform private.refuse_suspended();
  return jsonb_build_object('user_id', coalesce(me, auth.uid()), 'organization_id', org) || coalesce((
    select jsonb_build_object('email', u.email, 'global_role', u.global_role) from public.users u where u.id = me
  ), '{}') || coalesce((
    select jsonb_build_object('tier', o.subscription_tier) from public.organizations o where o.id = org
  ), '{}') || coalesce((
    select jsonb_build_object('org_role', m.role) from public.organization_members m
    where m.organization_id = org and m.user_id = me
  ), '{}');
end $$;
comment on function private.flag_identity(jsonb) is
  'Identity of the calling user for the evaluation of flags; it replaces what the client sends.';

-- Audience preview ----------------------------------------------------------------------------------------------------
-- Python evaluates (functions/preview_flag_audience.py). The database only reads flags and users, for platform admins.

create function private.open_flag_to_preview(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  lines refcursor := 'exported';
  flag public.feature_flags;
  problem text;
begin
  if not private.is_admin() then
    raise exception 'Only platform admins preview the audience of a flag' using errcode = '42501';
  end if;
  select f.* into flag from public.feature_flags f where f.name = request ->> 'flag';
  if not found then
    raise exception 'There is no such feature flag' using
      errcode = 'PT404', detail = format('Found %L.', left(request ->> 'flag', 100));
  end if;
  perform private.check_json('conditions', request #> '{changes,conditions}');
  flag := jsonb_populate_record(flag, request -> 'changes');
  problem := private.flag_error(flag.conditions, flag.variants);
  if problem is not null then
    raise exception 'This feature flag could not be evaluated' using errcode = 'PT400', detail = problem;
  end if;
  open lines for
    with recursive needed (name) as (
      select unnest(flag.prerequisites)
      union
      select unnest(f.prerequisites) from needed n join public.feature_flags f on f.name = n.name
    ), flags as (
      select f.name, private.flag_definition(f) as definition
      from needed n join public.feature_flags f on f.name = n.name
      union all
      select flag.name, private.flag_definition(flag)
    )
    select jsonb_build_object(
      'flags', (select jsonb_object_agg(f.name, f.definition) from flags f),
      'groups', coalesce((
        select jsonb_object_agg(g.name, coalesce(
          (select jsonb_agg(m.value) from public.feature_flag_group_members m where m.group_id = g.id), '[]'
        ))
        from public.feature_flag_groups g
        where g.name in (select unnest(private.groups_in(f.name, f.definition -> 'conditions')) from flags f)
      ), '{}')
    )::text;
  return '{}';
end $$;
comment on function private.open_flag_to_preview(jsonb) is
  'Opens the cursor `exported` on {"flags", "groups"}: the flag of {flag, changes} as it would be after the changes, and'
  ' everything it needs.';

create function private.open_users_to_preview(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  lines refcursor := 'exported';
begin
  if not private.is_admin() then
    raise exception 'Only platform admins preview the audience of a flag' using errcode = '42501';
  end if;
  open lines for
    select concat_ws(E'\t', u.id, coalesce(m.organization_id::text, ''), coalesce(o.subscription_tier::text, ''),
      coalesce(m.role::text, ''), u.global_role, u.email)
    from public.users u
    left join (
      select distinct on (m.user_id) m.user_id, m.organization_id, m.role
      from public.organization_members m order by m.user_id, m.joined_at, m.organization_id
    ) m on m.user_id = u.id
    left join public.organizations o on o.id = m.organization_id
    where u.is_active and (u.suspended_at is null or u.suspended_until <= now());
  return '{}';
end $$;
comment on function private.open_users_to_preview(jsonb) is
  'Opens the cursor `exported` on all users who may act: id, organization joined first, its tier, role there, global'
  ' role and e-mail address, separated by tabs.';

-- Experiments ---------------------------------------------------------------------------------------------------------

create table public.feature_flag_exposures (
  flag_id uuid not null references public.feature_flags (id) on delete cascade,
  seed uuid not null,
  unit text not null constraint "unit is 1 to 300 characters" check (length(unit) between 1 and 300),
  variant text not null,
  user_id uuid references public.users (id) on delete set null,
  network bytea,
  created_at timestamptz not null default now(),
  primary key (flag_id, seed, unit)
);
comment on table public.feature_flag_exposures is
  'Which variant of a flag each unit saw first. Written by the function record-exposure only.';
comment on column public.feature_flag_exposures.seed is
  'Seed of the flag at that time. A flag with another seed is another experiment.';
comment on column public.feature_flag_exposures.unit is 'User or organization, by the flag''s bucket_by.';
comment on column public.feature_flag_exposures.user_id is 'User whose token recorded it; null for a secret key.';
comment on column public.feature_flag_exposures.network is
  'Hash of the seed and the user''s network: the address of IPv4, the /64 of IPv6. Null for a secret key.';
create index feature_flag_exposures_user_idx on public.feature_flag_exposures (user_id, flag_id, seed);
create index feature_flag_exposures_network_idx on public.feature_flag_exposures (flag_id, seed, network, created_at);

create function private.network_hash(seed uuid) returns bytea
language sql stable set search_path = '' as $$
  select sha256(convert_to(seed || ':' || private.client_network(), 'UTF8'))
$$;
comment on function private.network_hash(uuid) is 'Hash of the caller''s network for one experiment; null if unknown.';

-- A person can create several accounts and organizations, so both the user and the network are bounded. Units beyond a
-- bound are missing from every variant alike.
create function private.record_exposure(exposure jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  units_per_user constant integer := 5;
  units_per_network_and_day constant integer := 100;
  recorded public.feature_flag_exposures;
  refusal text;
begin
  select f.id, auth.uid() into recorded.flag_id, recorded.user_id
  from public.feature_flags f where f.name = exposure ->> 'flag';
  recorded.seed := exposure ->> 'seed';
  recorded.unit := exposure ->> 'unit';
  recorded.variant := exposure ->> 'variant';
  recorded.created_at := now();
  if recorded.user_id is not null then
    recorded.network := private.network_hash(recorded.seed);
  end if;
  if exists (
    select from public.feature_flag_exposures e
    where e.flag_id = recorded.flag_id and e.seed = recorded.seed and e.unit = recorded.unit
  ) then
    refusal := 'recorded_before';
  else
    -- New units of one user or network wait for each other, so the bounds hold under concurrency.
    perform pg_advisory_xact_lock(hashtextextended(format('exposure %s %s', recorded.seed, k.key), 0))
    from (
      select k.key from unnest(array[recorded.user_id::text, recorded.network::text]) k (key)
      where k.key is not null order by k.key
    ) k;
    if (
      select count(*) from public.feature_flag_exposures e
      where e.flag_id = recorded.flag_id and e.seed = recorded.seed and e.user_id = recorded.user_id
    ) >= units_per_user then
      refusal := 'user_limit';
    elsif (
      select count(*) from public.feature_flag_exposures e
      where e.flag_id = recorded.flag_id and e.seed = recorded.seed and e.network = recorded.network
        and e.created_at > now() - interval '1 day'
    ) >= units_per_network_and_day then
      refusal := 'network_limit';
    else
      insert into public.feature_flag_exposures select recorded.* on conflict do nothing;
      refusal := case when not found then 'recorded_before' end;
    end if;
  end if;
  return jsonb_build_object('flag', exposure -> 'flag', 'variant', exposure -> 'variant',
    'recorded', refusal is null, 'reason', coalesce(refusal, 'recorded'));
end $$;
comment on function private.record_exposure(jsonb) is
  'Records {flag, seed, unit, variant}, once per unit and seed. Trusts its argument: record-exposure evaluated it.';

create function public.experiment_results(flag text) returns table (
  variant text, units bigint, first_at timestamptz, last_at timestamptz
) language sql stable set search_path = '' as $$
  select e.variant, count(*), min(e.created_at), max(e.created_at)
  from public.feature_flags f join public.feature_flag_exposures e on e.flag_id = f.id and e.seed = f.seed
  where f.name = experiment_results.flag
  group by e.variant order by e.variant
$$;
comment on function public.experiment_results(text) is
  'How many units saw each variant of a flag since it has its present seed; for platform admins.';

grant execute on function public.experiment_results(text) to authenticated, service_role;
grant execute on function private.load_feature_flags("Environment", bigint, uuid[]), private.flag_identity(jsonb),
  private.open_flag_to_preview(jsonb), private.open_users_to_preview(jsonb), private.record_exposure(jsonb)
  to strive_functions;

-- Deleted accounts ----------------------------------------------------------------------------------------------------

-- Flags and alerts are deleted with the account that created them. A kill switch must not disappear like that.
create function private.hand_over_platform() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  heir uuid := (
    select u.id from public.users u
    where u.global_role in ('ADMIN', 'SUPER_ADMIN') and u.is_active and u.id <> old.id
    order by u.global_role = 'SUPER_ADMIN' desc, u.created_at, u.id limit 1
  );
begin
  if heir is not null then
    update public.feature_flags set created_by = heir where created_by = old.id;
    update public.system_alerts set created_by = heir where created_by = old.id;
  end if;
  return old;
end $$;
comment on function private.hand_over_platform() is
  'Before an account is deleted, the longest-standing other admin takes over its flags and alerts.';
create trigger hand_over_platform before delete on public.users
  for each row execute function private.hand_over_platform();

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.feature_flags enable row level security;
create policy "platform admins read flags" on public.feature_flags for select to authenticated
  using ((select private.is_admin()));
create policy "platform admins create flags" on public.feature_flags for insert to authenticated
  with check ((select private.is_admin()));
create policy "platform admins change flags" on public.feature_flags for update to authenticated
  using ((select private.is_admin())) with check ((select private.is_admin()));
create policy "platform admins delete flags" on public.feature_flags for delete to authenticated
  using ((select private.is_admin()));
grant select, delete on public.feature_flags to authenticated;
grant
  insert (name, description, is_enabled, rollout_percent, target_tiers, target_orgs, target_users, conditions,
    environment, category, bucket_by, variants, starts_at, ends_at, prerequisites),
  update (name, description, is_enabled, rollout_percent, target_tiers, target_orgs, target_users, conditions,
    environment, category, bucket_by, variants, starts_at, ends_at, prerequisites)
  on public.feature_flags to authenticated;
-- No truncate: it would skip the triggers for version and log.
grant select, insert, update, delete on public.feature_flags to service_role;

alter table public.feature_flag_groups enable row level security;
create policy "platform admins read groups" on public.feature_flag_groups for select to authenticated
  using ((select private.is_admin()));
create policy "platform admins create groups" on public.feature_flag_groups for insert to authenticated
  with check ((select private.is_admin()));
create policy "platform admins change groups" on public.feature_flag_groups for update to authenticated
  using ((select private.is_admin())) with check ((select private.is_admin()));
create policy "platform admins delete groups" on public.feature_flag_groups for delete to authenticated
  using ((select private.is_admin()));
grant select, delete, insert (name, description), update (name, description)
  on public.feature_flag_groups to authenticated;
grant select, insert, update, delete on public.feature_flag_groups to service_role;

alter table public.feature_flag_group_members enable row level security;
create policy "platform admins read members of groups" on public.feature_flag_group_members for select
  to authenticated using ((select private.is_admin()));
create policy "platform admins add members to groups" on public.feature_flag_group_members for insert
  to authenticated with check ((select private.is_admin()));
create policy "platform admins remove members of groups" on public.feature_flag_group_members for delete
  to authenticated using ((select private.is_admin()));
grant select, delete, insert (group_id, value) on public.feature_flag_group_members to authenticated;
-- No update: members are added and removed, and both are logged.
grant select, insert, delete on public.feature_flag_group_members to service_role;

alter table public.feature_flag_exposures enable row level security;
create policy "platform admins read exposures" on public.feature_flag_exposures for select to authenticated
  using ((select private.is_admin()));
grant select on public.feature_flag_exposures to authenticated;
grant select, delete on public.feature_flag_exposures to service_role;
