-- Validation of feature flags: a flag that Python could not evaluate is refused on write, for every writer. Each
-- function returns null, or one sentence that names the place, what was found and what is accepted.

create function private.pattern_character(item text) returns integer language sql immutable set search_path = '' as $$
  select case
    when item ~ '^\\x' then ('x' || lpad(substr(item, 3), 8, '0'))::bit(32)::integer
    when item ~ '^\\[afnrtv]$' then (array[7, 12, 10, 13, 9, 11])[strpos('afnrtv', substr(item, 2))]
    when item ~ '^\\[A-Za-z]$' or length(item) > 2 then null
    else ascii(right(item, 1))
  end
$$;
comment on function private.pattern_character(text) is
  'The code point that one item of a bracket expression stands for; null if it stands for several.';

create function private.bracket_error(bracket text) returns text language plpgsql immutable set search_path = '' as $$
declare
  items text[] := array(
    select r.found[1] from regexp_matches(
      regexp_replace(left(bracket, -1), '^\[\^?', ''), '(\\x[0-9A-Fa-f]{2}|\\.|\[:\^?[a-z]+:\]|.)', 'g'
    ) r (found)
  );
  n integer := 1;
begin
  if cardinality(items) = 0 then
    return bracket;
  end if;
  while n <= cardinality(items) loop
    if items[n] ~ '^\\([ABb]|[^AaBbDdSsWwfnrtvx!-/:-@[-^`{-~ ])' or items[n] = '\x' then
      return items[n];
    elsif items[n] ~ '^\[:' and items[n] !~ '^\[:\^?(alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space'
      '|upper|word|xdigit):\]$' then
      return items[n];
    elsif items[n + 1] = '-' and n + 2 <= cardinality(items) then
      if coalesce(private.pattern_character(items[n]) > private.pattern_character(items[n + 2]), true) then
        return items[n] || '-' || items[n + 2];
      end if;
      n := n + 2;
    end if;
    n := n + 1;
  end loop;
  return null;
end $$;
comment on function private.bracket_error(text) is
  'The part of a bracket expression, such as [a-z], that RE2 would not compile, or null.';

-- The functions match with RE2, which has neither lookaround nor backreferences and whose programs have a bounded size.
-- One pass over the tokens, without compiling: Postgres takes exponential time to compile some short patterns.
create function private.pattern_error(pattern text) returns text
language plpgsql immutable set search_path = '' as $$
declare
  max_repeats constant integer := 1000;
  max_size constant bigint := 10000;  -- of a program, in instructions that it may need
  token text;
  bounds text[];
  times integer;
  depth integer := 1;
  -- For each open group: the size so far, and the most that a part of it is repeated.
  sizes bigint[] := '{0}';
  repeats integer[] := '{1}';
  -- Of the part before this token, which a quantifier would repeat.
  last_size bigint;
  last_repeats integer;
begin
  if length(pattern) > 1000 then
    return format('found %s characters', length(pattern));
  end if;
  for token in
    select r.found[1] from regexp_matches(pattern,
      '(\\x[0-9A-Fa-f]{2}|\\.|\[\^?(?:\\.|\[:\^?[a-z]+:\]|[^][\\])+\]|\((?:\?:|\?[ims]+\))?'
      '|(?:[*+?]|\{\d+(?:,\d*)?\})\??|.)', 'g') r (found)
  loop
    if token ~ '^([*+?]|\{\d)' then
      if last_size is null then
        return format('found %s without a part to repeat', token);
      end if;
      bounds := regexp_match(token, '^\{(\d+),?(\d*)\}');
      if bounds is not null then
        if length(bounds[1]) > 4 or length(bounds[2]) > 4 or bounds[1]::integer > max_repeats
          or coalesce(nullif(bounds[2], '')::integer not between bounds[1]::integer and max_repeats, false) then
          return format('found %s', token);
        end if;
        times := greatest(coalesce(nullif(bounds[2], ''), bounds[1])::integer, 1);
        sizes[depth] := sizes[depth] + last_size * (times - 1);
        repeats[depth] := greatest(repeats[depth], last_repeats * times);
        if repeats[depth] > max_repeats then
          return format('found parts that are repeated more than %s times', max_repeats);
        end if;
      end if;
      last_size := null;
    elsif token in ('(', '(?:') then
      depth := depth + 1;
      sizes[depth] := 2;
      repeats[depth] := 1;
      last_size := null;
    elsif token = ')' then
      if depth = 1 then
        return 'found ) without (';
      end if;
      depth := depth - 1;
      sizes[depth] := sizes[depth] + sizes[depth + 1];
      repeats[depth] := greatest(repeats[depth], repeats[depth + 1]);
      last_size := sizes[depth + 1];
      last_repeats := repeats[depth + 1];
    elsif token ~ '^(\(\?[ims]+\)|[|^$]|\\[ABb])$' then
      sizes[depth] := sizes[depth] + 1;
      last_size := null;
    elsif token = '[' or token ~ '^\\([^ADdSsWwafnrtvx!-/:-@[-^`{-~ ]|x$)' or token = '\' then
      return format('found %s', token);
    elsif token ~ '^\[' and private.bracket_error(token) is not null then
      return format('found %s in %s', private.bracket_error(token), left(token, 50));
    else
      -- One character is up to eight instructions (UTF-8 in both cases), and a range of characters up to a dozen.
      last_size := case
        when token ~ '^\[' then 20 + 12 * length(token) when token ~ '^(\.|\\[DSW])$' then 20 else 8
      end;
      last_repeats := 1;
      sizes[depth] := sizes[depth] + last_size;
    end if;
    if sizes[depth] > max_size then
      return 'found a pattern that is too large when its parts are repeated';
    end if;
  end loop;
  return case when depth > 1 then 'found ( without )' end;
end $$;
comment on function private.pattern_error(text) is
  'What in a pattern RE2 would not compile, or null. Stricter than RE2: what this function accepts, RE2 compiles.';

create function private.are_operators(value jsonb) returns boolean language sql immutable set search_path = '' as $$
  select jsonb_typeof(value) = 'object' and not exists (
    select from jsonb_object_keys(case when jsonb_typeof(value) = 'object' then value else '{}' end) k
    where not starts_with(k, '$')
  )
$$;
comment on function private.are_operators(jsonb) is 'Whether a value is an object whose keys are all operators.';

create function private.condition_value_error(value jsonb, place text, depth integer) returns text
language plpgsql immutable set search_path = '' as $$
declare
  operator text;
  operand jsonb;
  kind text;
  expected text;
  problem text;
begin
  if depth > 20 then
    return format('%s: found more than 20 levels, expected at most 20', place);
  end if;
  if jsonb_typeof(value) <> 'object'
    or not exists (select from jsonb_object_keys(value) k where starts_with(k, '$')) then
    -- A plain value is compared as a whole, so an operator inside it would never be evaluated.
    if value::text ~ '"\$[A-Za-z]+":' then
      return format('%s: found operators inside a plain value, expected the path as one name, such as "a.b"', place);
    end if;
    return null;
  end if;
  for operator, operand in select * from jsonb_each(value) loop
    kind := jsonb_typeof(operand);
    problem := null;
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
        case when kind <> 'string' then 'a regular expression of at most 1000 characters'
          else 'a regular expression that RE2 compiles, of at most 1000 characters: '
            || private.pattern_error(operand #>> '{}') end
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
      select e.problem into problem from (
        select private.condition_value_error(
          i.item, format('%s.%s[%s]', place, operator, i.n - 1), depth + 1
        ) as problem
        from jsonb_array_elements(operand) with ordinality i (item, n)
      ) e where e.problem is not null limit 1;
    elsif operator = '$not' or (operator = '$size' and kind = 'object')
      or (operator = '$elemMatch' and private.are_operators(operand) and not operand ?| '{$or,$and,$nor}') then
      problem := private.condition_value_error(operand, place || '.' || operator, depth + 1);
    elsif operator = '$elemMatch' then
      problem := private.condition_error(operand, place || '.' || operator, depth + 1);
    end if;
    if problem is not null then
      return problem;
    end if;
  end loop;
  return null;
end $$;
comment on function private.condition_value_error(jsonb, text, integer) is
  'Why the test of one attribute in a condition cannot be evaluated, or null.';

create function private.condition_error(condition jsonb, place text default 'conditions', depth integer default 1)
returns text language plpgsql immutable set search_path = '' as $$
declare
  key text;
  value jsonb;
  problem text;
begin
  if depth > 20 then
    return format('%s: found more than 20 levels, expected at most 20', place);
  elsif jsonb_typeof(condition) <> 'object' then
    return format('%s: found %s, expected an object', place, left(condition::text, 100));
  end if;
  for key, value in select * from jsonb_each(condition) loop
    if key in ('$or', '$and', '$nor') then
      if jsonb_typeof(value) <> 'array' then
        return format('%s.%s: found %s, expected a list of conditions', place, key, left(value::text, 100));
      end if;
      select e.problem into problem from (
        select private.condition_error(i.item, format('%s.%s[%s]', place, key, i.n - 1), depth + 1) as problem
        from jsonb_array_elements(value) with ordinality i (item, n)
      ) e where e.problem is not null limit 1;
    elsif key = '$not' then
      problem := private.condition_error(value, place || '.$not', depth + 1);
    elsif key = '' or (starts_with(key, '$') and (value = '{}' or not private.are_operators(value))) then
      -- An attribute may have such a name. Without operators it is a mistyped $or, $and, $nor or $not.
      problem := format('%s: found %s, expected an attribute, $or, $and, $nor or $not', place,
        to_jsonb(left(key, 100)));
    else
      problem := private.condition_value_error(value, place || '.' || left(key, 100), depth + 1);
    end if;
    if problem is not null then
      return problem;
    end if;
  end loop;
  return null;
end $$;
comment on function private.condition_error(jsonb, text, integer) is
  'Where and why a condition in GrowthBook''s syntax cannot be evaluated, or null.';

create function private.variants_error(variants jsonb) returns text
language plpgsql immutable strict set search_path = '' as $$
declare
  variant jsonb;
  place text;
  names text[] := '{}';
  total_weight numeric := 0;
begin
  if jsonb_typeof(variants) <> 'array' then
    return format('variants: found %s, expected a list', left(variants::text, 100));
  elsif jsonb_array_length(variants) not between 2 and 20 then
    return format('variants: found %s, expected 2 to 20', jsonb_array_length(variants));
  end if;
  for variant in select v from jsonb_array_elements(variants) v loop
    place := format('variants[%s]', cardinality(names));
    if jsonb_typeof(variant) <> 'object' then
      return format('%s: found %s, expected an object with name, weight and, optionally, value', place,
        left(variant::text, 100));
    elsif not variant ?& array['name', 'weight'] or variant - array['name', 'weight', 'value'] <> '{}' then
      return format('%s: found the keys %s, expected name, weight and, optionally, value', place,
        (select coalesce(string_agg(left(k, 50), ', '), 'none') from (select jsonb_object_keys(variant) k limit 5) k));
    elsif jsonb_typeof(variant -> 'name') <> 'string' or variant ->> 'name' !~ '^[A-Za-z0-9._-]{1,100}$' then
      return format('%s.name: found %s, expected 1 to 100 letters, digits, dots, hyphens and underscores', place,
        left((variant -> 'name')::text, 100));
    elsif variant ->> 'name' = any (names) then
      return format('%s.name: found %s twice, expected every name once', place, variant -> 'name');
    elsif jsonb_typeof(variant -> 'weight') <> 'number'
      or (variant ->> 'weight')::numeric not between 0 and 1000000 then
      return format('%s.weight: found %s, expected a number from 0 to 1000000', place,
        left((variant -> 'weight')::text, 100));
    elsif variant -> 'value' = 'null' then
      return format('%s.value: found null, expected another value or none', place);
    elsif coalesce(jsonb_typeof(variant -> 'value'), '') <> coalesce(jsonb_typeof(variants -> 0 -> 'value'), '') then
      return format('%s.value: found %s, expected a value of the same type for every variant, or for none', place,
        coalesce(left((variant -> 'value')::text, 100), 'no value'));
    end if;
    names := names || (variant ->> 'name');
    total_weight := total_weight + (variant ->> 'weight')::numeric;
  end loop;
  if total_weight = 0 then
    return 'variants: found only weights of 0, expected at least one weight above 0';
  end if;
  return null;
end $$;
comment on function private.variants_error(jsonb) is 'Why the variants of a flag cannot be drawn, or null.';

create function private.flag_error(conditions jsonb, variants jsonb) returns text
language sql immutable set search_path = '' as $$
  select coalesce(private.condition_error(conditions), private.variants_error(variants))
$$;
comment on function private.flag_error(jsonb, jsonb) is
  'Why Python could not evaluate a flag, or null. For documents within the bounds of private.check_json().';

grant execute on function private.pattern_character(text),
  private.bracket_error(text), private.pattern_error(text), private.are_operators(jsonb),
  private.condition_value_error(jsonb, text, integer), private.condition_error(jsonb, text, integer),
  private.variants_error(jsonb), private.flag_error(jsonb, jsonb) to authenticated, service_role;

