-- Feature flags: which features are on, for whom, how many that are, and who has met which variant of an experiment.

-- Types ---------------------------------------------------------------------------------------------------------------

create type "Environment" as enum ('DEVELOPMENT', 'STAGING', 'PRODUCTION');
comment on type "Environment" is 'Where a feature flag holds.';

-- Feature flags: what may be written ----------------------------------------------------------------------------------
-- A flag that cannot be evaluated is refused here, whoever writes it. Each function answers null, or what is wrong.

-- The functions match with RE2, which ends in time on any text. A pattern is stored if both it and Postgres compile it:
-- neither lookaround nor backreferences, and no more copies of a part than RE2's memory holds.
create function private.is_regular_expression(pattern text) returns boolean
language plpgsql immutable set search_path = '' as $$
declare
  -- Without the backslashes that stand for themselves, and then without anything escaped.
  unpaired text := regexp_replace(pattern, '\\\\', '.', 'g');
  unescaped text := regexp_replace(unpaired, '\\.', '.', 'g');
  copies double precision;
begin
  if length(pattern) > 1000 or pattern ~ '^\*\*\*' or unescaped ~ '\(\?(?!([ims]+\))|:)' or unescaped ~ '\[\[:[<>]'
    or unpaired ~ '\\(?![AbBdDsSwWafnrtv]|x[0-9A-Fa-f]{2}|[!-/:-@[-^`{-~ ])' or unpaired ~ '\[[^\]]*\\[AbB]' then
    return false;
  end if;
  perform '' ~ pattern;
  select exp(sum(ln(greatest(coalesce(nullif(r.found[2], ''), r.found[1])::integer, 1)))) into copies
  from regexp_matches(unescaped, '\{(\d+)(?:,(\d*))?\}', 'g') r (found);
  return coalesce(copies, 1) <= 1000 and coalesce(copies, 1) * length(pattern) <= 30000;
exception when invalid_regular_expression then
  return false;
end $$;
comment on function private.is_regular_expression(text) is
  'Whether the functions can match with this pattern, judged by what RE2 and Postgres have in common.';

create function private.are_operators(value jsonb) returns boolean language sql immutable set search_path = '' as $$
  select jsonb_typeof(value) = 'object' and not exists (
    select from jsonb_object_keys(case when jsonb_typeof(value) = 'object' then value else '{}' end) k
    where not starts_with(k, '$')
  )
$$;
comment on function private.are_operators(jsonb) is 'Whether a value is an object of nothing but operators.';

create function private.condition_value_error(value jsonb, place text, depth integer) returns text
language plpgsql immutable set search_path = '' as $$
declare
  operator text;
  operand jsonb;
  kind text;
  expected text;
  deeper text;
begin
  if depth > 20 then
    return format('%s is nested deeper than 20 levels', place);
  end if;
  if jsonb_typeof(value) <> 'object'
    or not exists (select from jsonb_object_keys(value) k where starts_with(k, '$')) then
    -- A plain value is compared as a whole, so an operator further in would never be seen.
    if value::text ~ '"\$[A-Za-z]+":' then
      return format('%s holds operators inside a plain value; write the path to it as one name, such as "a.b"', place);
    end if;
    return null;
  end if;
  for operator, operand in select * from jsonb_each(value) loop
    kind := jsonb_typeof(operand);
    deeper := null;
    expected := case
      when operator in ('$eq', '$ne') then null
      when operator in ('$gt', '$gte', '$lt', '$lte') then
        case when kind not in ('number', 'string') then 'a number or a string' end
      when operator in ('$veq', '$vne', '$vgt', '$vgte', '$vlt', '$vlte') then
        case when kind not in ('number', 'string') then 'a version such as "1.2.3"' end
      when operator in ('$in', '$nin', '$ini', '$nini', '$all', '$alli') then
        case when kind <> 'array' then 'a list' end
      when operator = '$exists' then
        case when kind <> 'boolean' then 'true or false' end
      when operator = '$type' then
        case when operand #>> '{}' in ('string', 'number', 'boolean', 'array', 'object', 'null', 'undefined')
          is not true then 'string, number, boolean, array, object, null or undefined' end
      when operator in ('$inGroup', '$notInGroup') then
        case when kind <> 'string' then 'the name of a group' end
      when operator in ('$regex', '$regexi', '$notRegex', '$notRegexi') then
        case when kind <> 'string' or not private.is_regular_expression(operand #>> '{}')
          then 'a regular expression of at most 1000 characters' end
      when operator = '$size' then
        case when kind not in ('number', 'object') then 'a number or operators' end
      when operator = '$elemMatch' then
        case when kind <> 'object' then 'a condition or operators' end
      when operator = '$not' then null
      when starts_with(operator, '$') then 'one of $eq, $ne, $gt, $gte, $lt, $lte, $veq, $vne, $vgt, $vgte, $vlt,'
        ' $vlte, $in, $nin, $ini, $nini, $all, $alli, $inGroup, $notInGroup, $exists, $type, $regex, $regexi,'
        ' $notRegex, $notRegexi, $size, $elemMatch, $not'
      else 'only operators beside an operator'
    end;
    if expected is not null then
      return format('%s.%s: found %s, expected %s', place, operator, left(operand::text, 100), expected);
    end if;
    if operator in ('$all', '$alli') then
      select e.wrong into deeper from (
        select private.condition_value_error(i.item, format('%s.%s[%s]', place, operator, i.n - 1), depth + 1) as wrong
        from jsonb_array_elements(operand) with ordinality i (item, n)
      ) e where e.wrong is not null limit 1;
    elsif operator = '$not' or (operator = '$size' and kind = 'object')
      or (operator = '$elemMatch' and private.are_operators(operand) and not operand ?| '{$or,$and,$nor}') then
      deeper := private.condition_value_error(operand, place || '.' || operator, depth + 1);
    elsif operator = '$elemMatch' then
      deeper := private.condition_error(operand, place || '.' || operator, depth + 1);
    end if;
    if deeper is not null then
      return deeper;
    end if;
  end loop;
  return null;
end $$;
comment on function private.condition_value_error(jsonb, text, integer) is
  'What is wrong with what a condition asks of one attribute, or null.';

create function private.condition_error(condition jsonb, place text default 'conditions', depth integer default 1)
returns text language plpgsql immutable set search_path = '' as $$
declare
  key text;
  value jsonb;
  wrong text;
begin
  if depth > 20 then
    return format('%s is nested deeper than 20 levels', place);
  elsif jsonb_typeof(condition) <> 'object' then
    return format('%s: found %s, expected an object', place, left(condition::text, 100));
  end if;
  for key, value in select * from jsonb_each(condition) loop
    if key in ('$or', '$and', '$nor') then
      if jsonb_typeof(value) <> 'array' then
        return format('%s.%s: found %s, expected a list of conditions', place, key, left(value::text, 100));
      end if;
      select e.wrong into wrong from (
        select private.condition_error(i.item, format('%s.%s[%s]', place, key, i.n - 1), depth + 1) as wrong
        from jsonb_array_elements(value) with ordinality i (item, n)
      ) e where e.wrong is not null limit 1;
    elsif key = '$not' then
      wrong := private.condition_error(value, place || '.$not', depth + 1);
    elsif key = '' or (starts_with(key, '$') and (value = '{}' or not private.are_operators(value))) then
      -- An attribute may be called so; without operators it is one of these, mistyped.
      wrong := format('%s: found %s, expected an attribute, $or, $and, $nor or $not', place, to_jsonb(key));
    else
      wrong := private.condition_value_error(value, place || '.' || key, depth + 1);
    end if;
    if wrong is not null then
      return wrong;
    end if;
  end loop;
  return null;
end $$;
comment on function private.condition_error(jsonb, text, integer) is
  'What is wrong with a condition in GrowthBook''s syntax and where, or null.';

create function private.variants_error(variants jsonb) returns text language sql immutable set search_path = '' as $$
  select case
    when jsonb_typeof(variants) <> 'array' then 'variants: expected a list'
    when jsonb_array_length(variants) not between 2 and 20 then
      format('variants: found %s, expected 2 to 20', jsonb_array_length(variants))
    else (
      select case
        when bool_or(case when jsonb_typeof(v) = 'object' then
            not v ?& array['name', 'weight'] or v - array['name', 'weight', 'value'] <> '{}' else true end)
          then 'variants: expected objects with name, weight and, if wanted, value'
        when bool_or(jsonb_typeof(v -> 'name') <> 'string' or v ->> 'name' !~ '^[A-Za-z0-9._-]{1,100}$')
          then 'variants: expected names of 1 to 100 letters, digits, dots, hyphens and underscores'
        when count(distinct v ->> 'name') < count(*) then 'variants: expected every name once'
        when bool_or(case when jsonb_typeof(v -> 'weight') = 'number'
          then (v ->> 'weight')::numeric not between 0 and 1000000 else true end)
          then 'variants: expected weights from 0 to 1000000'
        when not bool_or(case when jsonb_typeof(v -> 'weight') = 'number' then (v ->> 'weight')::numeric > 0 end)
          then 'variants: expected at least one weight above 0'
        when bool_or(v -> 'value' = 'null') then 'variants: expected values other than null'
        when count(distinct coalesce(jsonb_typeof(v -> 'value'), '')) > 1
          then 'variants: expected a value of the same type for every variant, or for none'
      end
      from jsonb_array_elements(variants) v
    )
  end
$$;
comment on function private.variants_error(jsonb) is 'What is wrong with the variants of a flag, or null.';

grant execute on function private.is_regular_expression(text), private.are_operators(jsonb),
  private.condition_value_error(jsonb, text, integer),
  private.condition_error(jsonb, text, integer), private.variants_error(jsonb) to authenticated, service_role;

-- Feature flags -------------------------------------------------------------------------------------------------------

create table public.feature_flags (
  id uuid primary key default gen_random_uuid(),
  name text not null unique
    constraint "name is 1 to 100 of a-z, 0-9, dot, underscore and hyphen" check (name ~ '^[a-z0-9._-]{1,100}$'),
  description text,
  is_enabled boolean not null default false,
  rollout_percent double precision not null default 0
    constraint "rollout_percent is between 0 and 100" check (rollout_percent between 0 and 100),
  target_tiers "SubscriptionTier"[] not null default '{}'
    constraint "target_tiers has no null" check (array_position(target_tiers, null) is null),
  target_orgs uuid[] not null default '{}'
    constraint "target_orgs has no null" check (array_position(target_orgs, null) is null),
  target_users uuid[] not null default '{}'
    constraint "target_users has no null" check (array_position(target_users, null) is null),
  conditions jsonb,
  environment "Environment" not null default 'PRODUCTION',
  category text,
  seed uuid not null default gen_random_uuid(),
  bucket_by text not null default 'user'
    constraint "bucket_by is user or org" check (bucket_by in ('user', 'org')),
  variants jsonb,
  starts_at timestamptz,
  ends_at timestamptz,
  prerequisites text[] constraint "prerequisites are at most 20 other flags"
    check (cardinality(prerequisites) <= 20 and array_position(prerequisites, name) is null),
  version bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  created_by uuid not null default auth.uid() references public.users (id) on delete cascade,
  constraint "ends_at is after starts_at" check (ends_at > starts_at),
  constraint "starts_at and ends_at are moments, or null" check (isfinite(starts_at) and isfinite(ends_at))
);
comment on table public.feature_flags is 'Which features are on, for whom. Only platform admins see the rules.';
comment on column public.feature_flags.rollout_percent is 'Of those the other rules let through; sticky.';
comment on column public.feature_flags.target_tiers is 'Empty: every tier. Else the other tiers are off.';
comment on column public.feature_flags.target_orgs is 'Always on, whatever tier, conditions and percentage say.';
comment on column public.feature_flags.target_users is 'Always on, whatever tier, conditions and percentage say.';
comment on column public.feature_flags.conditions is 'GrowthBook''s condition syntax; null: everybody.';
comment on column public.feature_flags.seed is 'What the percentage is hashed with, so that a rename moves nobody.';
comment on column public.feature_flags.bucket_by is 'Whether users or whole organisations are drawn.';
comment on column public.feature_flags.variants is
  'List of {"name", "weight", "value"?}; weights are relative, the first is what people have without the flag. Null:'
  ' plain on or off.';
comment on column public.feature_flags.prerequisites is 'Names of flags of the same environment that must be on.';
comment on column public.feature_flags.version is 'Version of the environment at which this row last changed.';
comment on column public.feature_flags.created_by is
  'Deleting this account hands the flag to another admin; only without one does the flag go too.';
create index feature_flags_is_enabled_idx on public.feature_flags (is_enabled);
create index feature_flags_environment_idx on public.feature_flags (environment);
create index feature_flags_created_by_idx on public.feature_flags (created_by);
create trigger touch before update on public.feature_flags for each row execute function private.touch_updated_at();

create table private.feature_flag_versions (
  environment "Environment" primary key,
  version bigint not null default 0,
  changed_at timestamptz not null default now()
);
comment on table private.feature_flag_versions is 'Grows with every committed change of an environment''s flags.';
insert into private.feature_flag_versions (environment)
  select unnest(enum_range(null::"Environment"));

-- Writers of flags stand in line from the start of the statement until they commit. So versions commit in the order
-- they were given: whoever has seen version 7 has seen every change up to it. Locking before the first row also rules
-- out deadlocks between writers, and circles of prerequisites closed by two of them at once.
create function private.lock_feature_flags() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform from private.feature_flag_versions order by environment for update;
  return null;
end $$;
comment on function private.lock_feature_flags() is 'One writer of feature flags at a time.';
-- Not below another trigger: whenever any account is deleted, the foreign key looks for flags to delete with it.
create trigger lock_feature_flags before insert or update or delete on public.feature_flags
  for each statement when (pg_trigger_depth() = 0) execute function private.lock_feature_flags();

create function private.guard_feature_flag() returns trigger language plpgsql set search_path = '' as $$
declare
  wrong text := coalesce(
    case when length(new.conditions::text) > 65536 then 'conditions: expected at most 64 kB' end,
    -- Deeper than any sensible value, and far from what would exhaust whoever reads it.
    case when jsonb_path_exists(new.conditions, '$.**{64 to last}')
      or jsonb_path_exists(new.variants, '$.**{64 to last}') then 'expected values of at most 64 levels' end,
    private.condition_error(new.conditions), private.variants_error(new.variants)
  );
  warning text;
begin
  if wrong is not null then
    raise exception 'This feature flag could not be evaluated' using
      errcode = 'PT400', detail = wrong, hint = 'Conditions follow GrowthBook''s syntax.';
  end if;
  if tg_op = 'UPDATE'
    and cardinality(old.target_users) + cardinality(old.target_orgs) + cardinality(old.target_tiers) > 0
    and cardinality(new.target_users) + cardinality(new.target_orgs) + cardinality(new.target_tiers) = 0 then
    warning := format('%s targets nobody in particular any more: it is on for %s %% of everybody', new.name,
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
comment on function private.guard_feature_flag() is
  'Refuses a flag that could not be evaluated; warns when its last target list is emptied.';
create trigger guard_feature_flag before insert or update on public.feature_flags
  for each row execute function private.guard_feature_flag();

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
  'Counts a change of an environment''s flags in the transaction that makes it; tells who listens on feature_flags.';
create trigger version_feature_flag before insert or update or delete on public.feature_flags
  for each row execute function private.version_feature_flag();

create function private.guard_prerequisites() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  found_names text;
begin
  if tg_op <> 'DELETE' then
    select string_agg(p.name, ', ' order by p.name) into found_names from unnest(new.prerequisites) p (name)
    where not exists (
      select from public.feature_flags f where f.name = p.name and f.environment = new.environment
    );
    if found_names is not null then
      raise exception 'A prerequisite of % does not exist', new.name using
        errcode = 'PT422', detail = format('There is no flag %s in %s.', found_names, new.environment),
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
        errcode = 'PT422', detail = 'Its prerequisites lead back to it.', hint = 'Break the circle.';
    end if;
  end if;
  if tg_op <> 'INSERT' and not exists (
    select from public.feature_flags f where f.name = old.name and f.environment = old.environment
  ) then
    select string_agg(f.name, ', ' order by f.name) into found_names from public.feature_flags f
    where f.environment = old.environment and old.name = any (f.prerequisites);
    if found_names is not null then
      raise exception 'Other flags need feature flag %', old.name using
        errcode = 'PT409', detail = format('It is a prerequisite of %s.', found_names),
        hint = 'Take it out of their prerequisites first.';
    end if;
  end if;
  return null;
end $$;
comment on function private.guard_prerequisites() is 'Prerequisites exist, without a circle, and stay while needed.';
create trigger guard_prerequisites after insert or delete or update of name, environment, prerequisites
  on public.feature_flags for each row execute function private.guard_prerequisites();

create trigger audit_change after insert or update or delete on public.feature_flags
  for each row execute function private.audit_change('FEATURE_FLAG_UPDATE', 'feature_flag', 'name');

-- Groups --------------------------------------------------------------------------------------------------------------

create table public.feature_flag_groups (
  id uuid primary key default gen_random_uuid(),
  name text not null unique
    constraint "name is 1 to 100 of a-z, 0-9, dot, underscore and hyphen" check (name ~ '^[a-z0-9._-]{1,100}$'),
  description text,
  revision uuid not null default gen_random_uuid(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.feature_flag_groups is
  'Saved groups: lists of values that conditions name by $inGroup and $notInGroup. Only platform admins see them.';
comment on column public.feature_flag_groups.revision is 'Another one with every change of the members.';
create trigger touch before update on public.feature_flag_groups
  for each row execute function private.touch_updated_at();

create table public.feature_flag_group_members (
  group_id uuid not null references public.feature_flag_groups (id) on delete cascade,
  value jsonb not null
    constraint "value is a number, true, false or at most 300 characters"
    check (jsonb_typeof(value) in ('string', 'number', 'boolean') and length(value #>> '{}') <= 300),
  created_at timestamptz not null default now(),
  primary key (group_id, value)
);
comment on table public.feature_flag_group_members is 'What belongs to a group: any value of an attribute, mostly ids.';

-- Kept by the flags themselves, so that it is known without reading conditions which groups are in use.
create table private.feature_flag_group_uses (
  flag_id uuid not null references public.feature_flags (id) on delete cascade,
  group_id uuid not null references public.feature_flag_groups (id),
  primary key (flag_id, group_id)
);
comment on table private.feature_flag_group_uses is 'Which flags name which groups.';
create index feature_flag_group_uses_group_idx on private.feature_flag_group_uses (group_id);

create function private.note_groups() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  names text[] := array(
    select n #>> '{}' from jsonb_path_query(new.conditions, '$.**."$inGroup"') n
    union
    select n #>> '{}' from jsonb_path_query(new.conditions, '$.**."$notInGroup"') n
  );
  unknown text;
begin
  select string_agg(n.name, ', ' order by n.name) into unknown from unnest(names) n (name)
  where not exists (select from public.feature_flag_groups g where g.name = n.name);
  if unknown is not null then
    raise exception 'The conditions of % name a group that does not exist', new.name using
      errcode = 'PT422', detail = format('There is no group %s.', left(unknown, 300)),
      hint = 'Make it in feature_flag_groups first.';
  end if;
  delete from private.feature_flag_group_uses u using public.feature_flag_groups g
  where u.flag_id = new.id and g.id = u.group_id and g.name <> all (names);
  insert into private.feature_flag_group_uses (flag_id, group_id)
  select new.id, g.id from public.feature_flag_groups g where g.name = any (names)
  on conflict do nothing;
  return null;
end $$;
comment on function private.note_groups() is 'Groups that conditions name exist, and are known to be in use.';
create trigger note_groups after insert or update of conditions on public.feature_flags
  for each row execute function private.note_groups();

-- A group changes in line with the flags that name it: between two of their versions.
create trigger lock_feature_flags before insert or update or delete on public.feature_flag_groups
  for each statement when (pg_trigger_depth() = 0) execute function private.lock_feature_flags();
create trigger lock_feature_flags before insert or update or delete on public.feature_flag_group_members
  for each statement when (pg_trigger_depth() = 0) execute function private.lock_feature_flags();

create function private.keep_group() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  users text;
begin
  if tg_op = 'UPDATE' and new.name = old.name then
    return new;
  end if;
  select string_agg(f.name, ', ' order by f.name) into users
  from private.feature_flag_group_uses u join public.feature_flags f on f.id = u.flag_id where u.group_id = old.id;
  if users is not null then
    raise exception 'Flags use group %', old.name using
      errcode = 'PT409', detail = format('It is named in the conditions of %s.', left(users, 300)),
      hint = 'Take it out of their conditions first.';
  end if;
  return coalesce(new, old);
end $$;
comment on function private.keep_group() is 'A group stays, and keeps its name, while conditions name it.';
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
        hint = 'List organisations instead of their users, or let the client send an attribute for it.';
    end if;
    update public.feature_flag_groups set revision = gen_random_uuid() where id = changed.id;
    -- Which counts as a change of theirs: of their version, of their environment's, told to who listens.
    update public.feature_flags f set version = f.version + 1
    from private.feature_flag_group_uses u where u.group_id = changed.id and f.id = u.flag_id;
    perform private.append_admin_action(
      'FEATURE_FLAG_UPDATE',
      format('Feature Flag Group %s changed: %s %s', changed.name, changed.many,
        case tg_op when 'INSERT' then 'added' else 'removed' end),
      'feature_flag_group', changed.id::text,
      -- The first of them: a log of whole lists would outgrow everything else.
      jsonb_build_object(case tg_op when 'INSERT' then 'added' else 'removed' end, to_jsonb(changed.members[:100])),
      true, null, null
    );
  end loop;
  return null;
end $$;
comment on function private.change_group() is 'A change of a group is one of every flag that names it, and is logged.';
create trigger change_group_by_insert after insert on public.feature_flag_group_members
  referencing new table as changed_members for each statement execute function private.change_group();
create trigger change_group_by_delete after delete on public.feature_flag_group_members
  referencing old table as changed_members for each statement execute function private.change_group();

-- Serving flags -------------------------------------------------------------------------------------------------------

-- One statement, so one state of the database: the version, and the groups and flags as they were at exactly that.
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
    select f.name, f.version, null, case when f.version > load_feature_flags.known then (
        to_jsonb(f) - array['id', 'name', 'description', 'category', 'environment', 'version', 'created_at',
          'updated_at', 'created_by']
        || jsonb_build_object('starts_at', extract(epoch from f.starts_at), 'ends_at', extract(epoch from f.ends_at))
      )::text end
    from flags f
  )
  select n.version, p.name, p.flag_version, p.group_revision, p.definition
  from now_at n left join parts p on true
  order by p.group_revision is null, p.name
$$;
comment on function private.load_feature_flags("Environment", bigint, uuid[]) is
  'The version of an environment and, unless it is the known one, its groups and then its flags; contents only of what'
  ' is not known.';

create function private.flag_identity(asked jsonb) returns jsonb
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
  'Who the caller is, as flags ask for it: whatever a client says of itself, this counts.';

-- What Python computes in shared/flags/buckets.py.
create function private.flag_bucket(seed uuid, salt text, unit text) returns bigint
language sql immutable strict parallel safe set search_path = '' as $$
  select ('x' || left(encode(sha256(convert_to(seed::text || ':' || salt || ':' || unit, 'UTF8')), 'hex'), 13))
    ::bit(52)::bigint
$$;
comment on function private.flag_bucket(uuid, text, text) is
  'Where a unit falls, from 0 to 2^52 - 1: it is within a share of p % if that is below p / 100 * 2^52.';

-- What is known here of a user are texts, or null. Whatever asks for more, for a pattern or for a version is null: not
-- known. What shared/flags/conditions.py answers is never another than this one does.
create function private.value_matches(attribute text, asked jsonb) returns boolean
language plpgsql stable set search_path = '' as $$
declare
  operator text;
  operand jsonb;
  matches boolean := true;
  attribute_json constant jsonb := coalesce(to_jsonb(attribute), 'null');
begin
  if jsonb_typeof(asked) <> 'object' or not exists (select from jsonb_object_keys(asked) k where starts_with(k, '$')) then
    return asked = '{}' or asked = attribute_json;
  end if;
  for operator, operand in select * from jsonb_each(asked) loop
    matches := matches and case
      when operator = '$eq' then operand = attribute_json
      when operator = '$ne' then operand <> attribute_json
      when operator in ('$in', '$nin') then
        (operand @> attribute_json) = (operator = '$in')
      when operator in ('$inGroup', '$notInGroup') then (attribute is not null and exists (
        select from public.feature_flag_groups g join public.feature_flag_group_members m on m.group_id = g.id
        where g.name = operand #>> '{}' and m.value = attribute_json
      )) = (operator = '$inGroup')
      when operator = '$exists' then (attribute is not null) = operand::boolean
      when operator = '$type' then operand #>> '{}' = case when attribute is null then 'null' else 'string' end
      when operator in ('$gt', '$gte', '$lt', '$lte') and attribute is null then false
      when operator in ('$size', '$elemMatch', '$all', '$alli') then false
      when operator = '$not' then not private.value_matches(attribute, operand)
    end;
    exit when not matches;
  end loop;
  return matches;
end $$;
comment on function private.value_matches(text, jsonb) is
  'Whether a text or null is what a condition asks of an attribute; null when that is not known here.';

create function private.condition_holds(condition jsonb, attributes jsonb) returns boolean
language plpgsql stable set search_path = '' as $$
declare
  key text;
  asked jsonb;
  holds boolean := true;
begin
  for key, asked in select * from jsonb_each(condition) loop
    holds := holds and case
      when key = '$not' then not private.condition_holds(asked, attributes)
      when key = '$and' then not private.any_condition_holds(asked, attributes, false)
      when key in ('$or', '$nor') then
        (asked = '[]' or private.any_condition_holds(asked, attributes, true)) = (key = '$or')
      when attributes ? key then private.value_matches(attributes ->> key, asked)
      -- Texts have nothing further in.
      when attributes ? split_part(key, '.', 1) then private.value_matches(null, asked)
    end;
    exit when not holds;
  end loop;
  return holds;
end $$;
comment on function private.condition_holds(jsonb, jsonb) is
  'Whether a condition holds for these attributes; null when it asks for others.';

create function private.any_condition_holds(conditions jsonb, attributes jsonb, wanted boolean) returns boolean
language sql stable set search_path = '' as $$
  select case when bool_or(h.holds) then true when bool_or(h.holds is null) then null else false end
  from jsonb_array_elements(conditions) c
  cross join lateral (select private.condition_holds(c, attributes) = wanted as holds) h
$$;
comment on function private.any_condition_holds(jsonb, jsonb, boolean) is
  'Whether any of several conditions comes out as wanted; null when that is not known here.';

create function private.flag_reaches(flag public.feature_flags, identity jsonb) returns boolean
language plpgsql stable security definer set search_path = '' as $$
declare
  user_id uuid := identity ->> 'user_id';
  organization_id uuid := identity ->> 'organization_id';
  tier public."SubscriptionTier" := identity ->> 'tier';
  needed public.feature_flags;
  known boolean := true;
begin
  if not flag.is_enabled or flag.starts_at > now() or flag.ends_at <= now() then
    return false;
  end if;
  for needed in select f.* from public.feature_flags f where f.name = any (flag.prerequisites) loop
    known := known and private.flag_reaches(needed, identity);
    if not known then
      return false;
    end if;
  end loop;
  if user_id = any (flag.target_users) or organization_id = any (flag.target_orgs) then
    return known;
  elsif flag.target_tiers <> '{}' and (tier = any (flag.target_tiers)) is not true then
    return false;
  elsif flag.rollout_percent < 100 and (private.flag_bucket(
      flag.seed, 'rollout', case when flag.bucket_by = 'org' then organization_id else user_id end::text
    ) < ceil(flag.rollout_percent / 100 * 4503599627370496)) is not true then
    return false;
  end if;
  return known and (flag.conditions is null or private.condition_holds(flag.conditions, identity));
end $$;
comment on function private.flag_reaches(public.feature_flags, jsonb) is
  'Whether a flag is on for a user; null when that depends on what only the user''s request says.';

create function private.flag_audience(flag text, changes jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  changeable constant text[] := array['is_enabled', 'rollout_percent', 'target_tiers', 'target_orgs', 'target_users',
    'bucket_by', 'starts_at', 'ends_at', 'conditions'];
  found_flag public.feature_flags;
  wrong text;
begin
  if not private.is_admin() then
    raise exception 'Only platform admins see whom a flag reaches' using errcode = '42501';
  end if;
  select f.* into found_flag from public.feature_flags f where f.name = flag_audience.flag;
  if not found then
    raise exception 'There is no such feature flag' using
      errcode = 'PT404', detail = format('Found %L.', left(flag_audience.flag, 100));
  end if;
  if jsonb_typeof(changes) <> 'object' or changes - changeable <> '{}' then
    raise exception 'This cannot be previewed' using errcode = 'PT400',
      detail = format('Found %s.', left(changes::text, 100)),
      hint = format('Changes are an object with some of %s.', array_to_string(changeable, ', '));
  end if;
  found_flag := jsonb_populate_record(found_flag, changes);
  wrong := private.condition_error(found_flag.conditions);
  if wrong is not null then
    raise exception 'This feature flag could not be evaluated' using
      errcode = 'PT400', detail = wrong, hint = 'Conditions follow GrowthBook''s syntax.';
  end if;
  return (
    select jsonb_build_object(
      'users', count(*),
      'on', count(*) filter (where r.reaches is not false),
      'undecided', count(*) filter (where r.reaches is null),
      'listed', count(*) filter (
        where u.id = any (found_flag.target_users) or m.organization_id = any (found_flag.target_orgs)),
      'has_conditions', coalesce(found_flag.conditions, '{}') <> '{}'
    )
    from public.users u
    left join lateral (
      select o.id as organization_id, o.subscription_tier as tier, om.role
      from public.organization_members om join public.organizations o on o.id = om.organization_id
      where om.user_id = u.id order by om.joined_at, om.organization_id limit 1
    ) m on true
    cross join lateral (
      -- What flag_identity() would answer them.
      select private.flag_reaches(found_flag, jsonb_build_object(
        'targetingKey', u.id, 'user_id', u.id, 'email', u.email, 'global_role', u.global_role,
        'organization_id', m.organization_id, 'tier', m.tier, 'org_role', m.role
      )) as reaches offset 0
    ) r
    where private.blocked_until(u) is null or private.blocked_until(u) <= now()
  );
end $$;
comment on function private.flag_audience(text, jsonb) is 'See public.flag_audience().';

-- Experiments ---------------------------------------------------------------------------------------------------------

create table public.feature_flag_exposures (
  flag_id uuid not null references public.feature_flags (id) on delete cascade,
  seed uuid not null,
  unit text not null constraint "unit is 1 to 300 characters" check (length(unit) between 1 and 300),
  variant text not null,
  created_at timestamptz not null default now(),
  primary key (flag_id, seed, unit)
);
comment on table public.feature_flag_exposures is
  'Who has met which variant of a flag: the first meeting of every unit. Written by record-exposure only.';
comment on column public.feature_flag_exposures.seed is 'Of the flag at that time: another seed is another experiment.';
comment on column public.feature_flag_exposures.unit is
  'User or organisation, as the flag draws them; "anonymous:" before the key of somebody nobody knows.';

create function private.record_exposure(exposure jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  recorded public.feature_flag_exposures;
begin
  insert into public.feature_flag_exposures (flag_id, seed, unit, variant)
  select f.id, (exposure ->> 'seed')::uuid, exposure ->> 'unit', exposure ->> 'variant' from public.feature_flags f
  where f.name = exposure ->> 'flag'
  on conflict do nothing returning * into recorded;
  return jsonb_build_object('flag', exposure ->> 'flag', 'variant', exposure ->> 'variant',
    'recorded', recorded.unit is not null);
end $$;
comment on function private.record_exposure(jsonb) is
  'Notes {flag, seed, unit, variant}, once for each unit and seed. Believes what it is told: for the functions, which'
  ' evaluated it.';

create function public.experiment_results(flag text) returns table (
  variant text, units bigint, first_at timestamptz, last_at timestamptz
) language sql stable set search_path = '' as $$
  select e.variant, count(*), min(e.created_at), max(e.created_at)
  from public.feature_flags f join public.feature_flag_exposures e on e.flag_id = f.id and e.seed = f.seed
  where f.name = experiment_results.flag
  group by e.variant order by e.variant
$$;
comment on function public.experiment_results(text) is
  'How many units have met each variant of a flag with its present seed; for platform admins.';

create function public.flag_audience(flag text, changes jsonb default '{}') returns jsonb
language sql stable set search_path = '' as 'select private.flag_audience(flag, changes)';
comment on function public.flag_audience(text, jsonb) is
  'How many users a flag would reach, now or after changes, in the organisation each joined first: {"users", "on",'
  ' "undecided", "listed", "has_conditions"}. Of those it is on for, the undecided hang on what only their requests say.';

grant execute on function private.flag_bucket(uuid, text, text), private.flag_audience(text, jsonb),
  public.flag_audience(text, jsonb), public.experiment_results(text) to authenticated, service_role;
grant execute on function private.load_feature_flags("Environment", bigint, uuid[]), private.flag_identity(jsonb),
  private.record_exposure(jsonb) to strive_functions;

-- Leaving -------------------------------------------------------------------------------------------------------------

-- Flags and alerts go with the account that made them, and admins leave. A kill switch must not vanish like that.
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
  'Before an account is deleted, its flags and alerts become those of the longest-standing admin.';
create trigger hand_over_platform before delete on public.users
  for each row execute function private.hand_over_platform();

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.feature_flags enable row level security;
create policy "platform admins read flags" on public.feature_flags for select to authenticated
  using ((select private.is_admin()));
create policy "platform admins make flags" on public.feature_flags for insert to authenticated
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
-- No truncate: it would pass by the version and the log.
grant select, insert, update, delete on public.feature_flags to service_role;

alter table public.feature_flag_groups enable row level security;
create policy "platform admins read groups" on public.feature_flag_groups for select to authenticated
  using ((select private.is_admin()));
create policy "platform admins make groups" on public.feature_flag_groups for insert to authenticated
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
-- No update: a member is another one with another value, and added and removed are what is logged.
grant select, insert, delete on public.feature_flag_group_members to service_role;

alter table public.feature_flag_exposures enable row level security;
create policy "platform admins read exposures" on public.feature_flag_exposures for select to authenticated
  using ((select private.is_admin()));
grant select on public.feature_flag_exposures to authenticated;
grant select, delete on public.feature_flag_exposures to service_role;
