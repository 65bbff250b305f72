-- AI Garage, what people do with the gallery: find, clone, publish, like, feature.

-- Operations ----------------------------------------------------------------------------------------------------------

create function private.as_mark(what text) returns text language sql immutable set search_path = '' as
  $$ select '''' || replace(replace(what, '\', '\\'), '''', '''''') || '''' $$;
comment on function private.as_mark(text) is 'The text as one word of a tsquery.';

-- Comparing words, tags and categories is not leakproof: under policies no index could be searched for them. This finds
-- ids by a visibility test of its own; their rows are then read under the caller's policies.
create function private.find_templates(
  query text, category "AgentCategory", tags text[], after uuid, page_size integer
) returns setof uuid language plpgsql stable security definer rows 20
set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  org uuid := private.current_user_org();
  for_org tsquery := private.as_mark('FOR ' || org);
  phrase text := coalesce(trim(left(query, 200)), '');
  words text[] := tsvector_to_array(to_tsvector('pg_catalog.simple', phrase));
  in_text tsquery := (select string_agg(private.as_mark(word) || ':*', ' & ') from unnest(words) word);
  in_name tsquery := (select string_agg(private.as_mark('NAME ' || word) || ':*', ' & ') from unnest(words) word);
  terms tsquery := nullif(concat_ws(
    ' & ', in_text, private.as_mark('CATEGORY ' || category::text),
    (select string_agg(private.as_mark('TAG ' || left(lower(tag), 100)), ' & ') from unnest(tags[:20]) tag)
  ), '');
  -- Those named so come first; the others are searched only if they do not fill the page. Null: all templates.
  groups tsquery[] := case when words = '{}' then array[terms] else array[terms && in_name, terms && !!in_name] end;
  first_group integer := 1;
  used integer;
  made timestamptz;
  missing integer := page_size;
  found_now integer;
begin
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  elsif cardinality(tags) > 20 then
    raise exception 'A search has at most 20 tags' using errcode = 'PT400', detail = format('Found %s.', cardinality(tags));
  end if;
  if private.current_user_id() is null or (phrase <> '' and words = '{}') then
    return; -- no caller, or no word in the query
  end if;
  if after is not null then
    select s.usage_count, s.created_at, case when s.terms @@ in_name is false then 2 else 1 end
    into used, made, first_group
    from private.template_search s
    where s.template_id = after and (s.is_for_all or s.organization_id = org);
    if made is null then
      raise exception 'There is no template with the id in after' using
        errcode = 'PT404', detail = format('Found %s.', after), hint = 'Start again at the first page.';
    end if;
  end if;
  for place in first_group..cardinality(groups) loop
    return query
      (select s.template_id
      from (
        (select s.template_id, s.usage_count, s.created_at
        from private.template_search s
        where s.is_for_all and (groups[place] is null or s.terms @@ groups[place])
          and (made is null or (s.usage_count, s.created_at, s.template_id) < (used, made, after))
        order by s.usage_count desc, s.created_at desc, s.template_id desc limit missing)
        union all
        (select s.template_id, s.usage_count, s.created_at
        from private.template_search s
        where s.organization_id = org and not s.is_for_all
          and (groups[place] is null or s.terms @@ (groups[place] && for_org))
          and (made is null or (s.usage_count, s.created_at, s.template_id) < (used, made, after))
        order by s.usage_count desc, s.created_at desc, s.template_id desc limit missing)
      ) s
      order by s.usage_count desc, s.created_at desc, s.template_id desc limit missing);
    get diagnostics found_now = row_count;
    missing := missing - found_now;
    exit when missing = 0;
    made := null; -- the next group begins with its first
  end loop;
end $$;
comment on function private.find_templates(text, "AgentCategory", text[], uuid, integer) is
  'Does the work of public.search_templates(): which templates, in which order.';

create function public.search_templates(
  query text default null, category "AgentCategory" default null, tags text[] default '{}', after uuid default null,
  page_size integer default 20
) returns setof public.agent_templates language sql stable set search_path = '' as $$
  select t.*
  from private.find_templates(query, search_templates.category, search_templates.tags, after, page_size)
    with ordinality found (id, place)
  join public.agent_templates t on t.id = found.id
  order by found.place
$$;
comment on function public.search_templates(text, "AgentCategory", text[], uuid, integer) is
  'Templates with all these words (or beginnings of words) and tags: those named so first, then the most used. For the '
  'next page give the id of the last one.';

create function private.use_template(template_id uuid) returns public.agent_templates
language plpgsql security definer set search_path = '' as $$
declare
  used public.agent_templates;
begin
  select t.* into used from public.agent_templates t
  where t.id = template_id and private.current_user_org('MEMBER') is not null
    and (t.is_public or t.is_system or t.organization_id = private.current_user_org('MEMBER'));
  if used.id is null then
    raise exception 'There is no such template' using errcode = 'PT404', detail = format('Found %s.', template_id);
  end if;
  perform private.tally('template_uses', template_id, 1, 20, 60);
  return used;
end $$;
comment on function private.use_template(uuid) is
  'Does the work of public.use_template(): counts on rows the caller may only read.';

create function public.use_template(template_id uuid) returns public.agent_templates
language sql set search_path = '' as 'select * from private.use_template(template_id)';
comment on function public.use_template(uuid) is
  'Returns a template to start from, and counts the use: up to 20 a day for a person, 60 for a network.';

create function private.clone_blueprint(blueprint_id uuid) returns public.tool_blueprints
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org('MEMBER');
  copy public.tool_blueprints;
begin
  if org is null then
    raise exception 'Only members can clone blueprints' using
      errcode = '42501', hint = 'Act in an organization in which you are MEMBER or above.';
  end if;
  perform private.require_room(org, 'blueprints');
  insert into public.tool_blueprints (
    organization_id, created_by_id, name, description, category, components, connections, configuration, version, tags,
    complexity
  )
  select org, auth.uid(), left(b.name, 93) || ' (Copy)', b.description, b.category, b.components, b.connections,
    b.configuration, b.version, b.tags, b.complexity
  from public.tool_blueprints b where b.id = blueprint_id and (b.is_public or b.organization_id = org)
  returning * into copy;
  if copy.id is null then
    raise exception 'There is no such blueprint' using errcode = 'PT404', detail = format('Found %s.', blueprint_id);
  end if;
  perform private.tally('blueprint_uses', blueprint_id, 1, 20, 60);
  return copy;
end $$;
comment on function private.clone_blueprint(uuid) is
  'Does the work of public.clone_blueprint(): counts on rows the caller may only read.';

create function public.clone_blueprint(blueprint_id uuid) returns public.tool_blueprints
language sql set search_path = '' as 'select * from private.clone_blueprint(blueprint_id)';
comment on function public.clone_blueprint(uuid) is
  'Makes a private copy in the caller''s organization and counts one use of the original.';

create function public.bump_blueprint(blueprint_id uuid, part text default 'patch') returns public.tool_blueprints
language plpgsql set search_path = '' as $$
declare
  numbers integer[];
  bumped public.tool_blueprints;
begin
  if part not in ('major', 'minor', 'patch') or part is null then
    raise exception 'There is no such part of a version' using
      errcode = 'PT400', detail = format('Found %L.', left(part, 100)), hint = 'Parts are: major, minor, patch.';
  end if;
  select regexp_match(b.version, '^([0-9]+)\.([0-9]+)\.([0-9]+)')::integer[] into numbers
  from public.tool_blueprints b where b.id = blueprint_id for no key update;
  update public.tool_blueprints b
  set version = case part
    when 'major' then format('%s.0.0', numbers[1] + 1)
    when 'minor' then format('%s.%s.0', numbers[1], numbers[2] + 1)
    else format('%s.%s.%s', numbers[1], numbers[2], numbers[3] + 1)
  end
  where b.id = blueprint_id returning * into bumped;
  if bumped.id is null then
    raise exception 'There is no such blueprint of yours' using
      errcode = 'PT404', detail = format('Found %s.', blueprint_id);
  end if;
  return bumped;
end $$;
comment on function public.bump_blueprint(uuid, text) is
  'Raises the major, minor or patch number of a blueprint''s version.';

create function private.visible_showcase(showcase_id uuid) returns public.project_showcases
language plpgsql stable security definer set search_path = '' as $$
declare
  found_showcase public.project_showcases;
begin
  select s.* into found_showcase from public.project_showcases s
  where s.id = showcase_id and private.current_user_id() is not null
    and (s.is_public or s.organization_id = private.current_user_org());
  if found_showcase.id is null then
    raise exception 'There is no such showcase' using errcode = 'PT404', detail = format('Found %s.', showcase_id);
  end if;
  return found_showcase;
end $$;
comment on function private.visible_showcase(uuid) is 'The showcase, if the caller can see it.';

create function private.view_showcase(showcase_id uuid) returns public.project_showcases
language plpgsql security definer set search_path = '' as $$
declare
  seen public.project_showcases := private.visible_showcase(showcase_id);
begin
  perform private.tally('showcase_views', seen.id, 1, 1, 20);
  return seen;
end $$;
comment on function private.view_showcase(uuid) is
  'Does the work of public.view_showcase(): counts on rows the caller may only read.';

create function public.view_showcase(showcase_id uuid) returns public.project_showcases
language sql set search_path = '' as 'select * from private.view_showcase(showcase_id)';
comment on function public.view_showcase(uuid) is
  'Returns a showcase and counts the view: once a day for a person, 20 a day for a network.';

create function private.set_like(showcase_id uuid, liked boolean) returns integer
language plpgsql security definer set search_path = '' as $$
declare
  target public.project_showcases := private.visible_showcase(showcase_id);
begin
  if liked then
    insert into public.showcase_likes (showcase_id, user_id) values (target.id, auth.uid()) on conflict do nothing;
  else
    delete from public.showcase_likes l where l.showcase_id = target.id and l.user_id = auth.uid();
  end if;
  return s.likes + private.pending('showcase_likes', s.id) from public.project_showcases s where s.id = target.id;
end $$;
comment on function private.set_like(uuid, boolean) is
  'Does the work of like_showcase() and unlike_showcase().';

create function public.like_showcase(showcase_id uuid) returns integer
language sql set search_path = '' as 'select private.set_like(showcase_id, true)';
comment on function public.like_showcase(uuid) is 'Likes a showcase, once however often called; returns its likes.';
create function public.unlike_showcase(showcase_id uuid) returns integer
language sql set search_path = '' as 'select private.set_like(showcase_id, false)';
comment on function public.unlike_showcase(uuid) is 'Takes a like back; returns the likes left.';

create function private.feature_showcase(showcase_id uuid, featured boolean) returns public.project_showcases
language plpgsql security definer set search_path = '' as $$
declare
  changed public.project_showcases;
begin
  if not private.is_admin() then
    raise exception 'Only platform admins can feature showcases' using errcode = '42501';
  end if;
  update public.project_showcases s set is_featured = featured
  where s.id = showcase_id and (s.is_public or not featured) returning s.* into changed;
  if changed.id is null then
    raise exception 'There is no such public showcase' using
      errcode = 'PT404', detail = format('Found %s.', showcase_id);
  end if;
  perform private.log_admin_action(
    'SYSTEM_CONFIG_UPDATE', case when featured then 'Showcase featured' else 'Showcase no longer featured' end,
    'project_showcase', showcase_id::text
  );
  return changed;
end $$;
comment on function private.feature_showcase(uuid, boolean) is
  'Does the work of public.feature_showcase(): platform admins write no rows of tenants.';

create function public.feature_showcase(showcase_id uuid, featured boolean default true)
returns public.project_showcases language sql set search_path = '' as
  'select * from private.feature_showcase(showcase_id, featured)';
comment on function public.feature_showcase(uuid, boolean) is
  'Puts a public showcase on the featured list, or takes it off.';

grant execute on function
  public.search_templates(text, "AgentCategory", text[], uuid, integer),
  private.find_templates(text, "AgentCategory", text[], uuid, integer),
  public.use_template(uuid), private.use_template(uuid),
  public.clone_blueprint(uuid), private.clone_blueprint(uuid), public.bump_blueprint(uuid, text),
  public.view_showcase(uuid), private.view_showcase(uuid),
  public.like_showcase(uuid), public.unlike_showcase(uuid), private.set_like(uuid, boolean),
  public.feature_showcase(uuid, boolean), private.feature_showcase(uuid, boolean)
  to authenticated, service_role;

-- Templates of the platform -------------------------------------------------------------------------------------------

insert into public.agent_templates (
  organization_id, name, category, description, personality_config, model_config, tools_config, memory_config, tags,
  features, use_cases, is_system, is_public
) values
  (
    null, 'Buyer concierge', 'SALES',
    'Answers buyers at any hour, asks for budget, area and timing, proposes listings that fit and books viewings.',
    '{"tone": "warm", "style": "concise", "instructions": "Ask one question at a time. Never promise a price."}',
    '{"temperature": 0.4, "max_tokens": 800}',
    '{"tools": ["search_listings", "book_appointment", "create_lead"]}',
    '{"scope": "contact", "turns": 40}',
    '{real-estate,buyers,scheduling}', '{"answers around the clock","books viewings","hands over to a person"}',
    '{"website chat","first contact with buyers"}', true, true
  ),
  (
    null, 'Lead qualifier', 'SALES',
    'Calls on new leads by e-mail or message, finds out how serious and how soon, scores them and tells the agent '
    'whom to ring first.',
    '{"tone": "friendly", "style": "direct", "instructions": "Find out budget, timing and motive in five questions."}',
    '{"temperature": 0.3, "max_tokens": 600}',
    '{"tools": ["read_lead", "score_lead", "record_activity"]}',
    '{"scope": "lead", "turns": 20}',
    '{real-estate,leads,scoring}', '{"scores leads","writes follow-ups","updates the pipeline"}',
    '{"leads of the website","open house visitors"}', true, true
  ),
  (
    null, 'Tenant support desk', 'SUPPORT',
    'Takes requests of tenants and owners, answers what the handbook answers, opens a task for everything else and '
    'says when somebody will come.',
    '{"tone": "calm", "style": "plain", "instructions": "Emergencies (water, gas, fire) go to a person at once."}',
    '{"temperature": 0.2, "max_tokens": 700}',
    '{"tools": ["search_content", "create_task", "notify_member"]}',
    '{"scope": "contact", "turns": 30}',
    '{property-management,tenants,tickets}', '{"answers from your documents","opens tasks","recognizes emergencies"}',
    '{"repairs","questions about the lease"}', true, true
  ),
  (
    null, 'Comparable finder', 'ANALYSIS',
    'Finds what similar homes were listed and sold for, explains which ones it chose and why, and suggests a range of '
    'prices.',
    '{"tone": "factual", "style": "structured", "instructions": "Name every comparable and its distance."}',
    '{"temperature": 0.1, "max_tokens": 1500}',
    '{"tools": ["search_listings", "search_deals", "make_table"]}',
    '{"scope": "listing", "turns": 10}',
    '{real-estate,pricing,comparables}', '{"price per square foot","explains its choice","report to hand over"}',
    '{"listing presentation","price review"}', true, true
  ),
  (
    null, 'Listing writer', 'CONTENT',
    'Writes the text of a listing from its facts and photos, in three lengths, without words that housing law forbids.',
    '{"tone": "vivid", "style": "honest", "instructions": "Describe the home, never who should live there."}',
    '{"temperature": 0.7, "max_tokens": 1200}',
    '{"tools": ["read_listing", "read_attachments", "save_content"]}',
    '{"scope": "listing", "turns": 10}',
    '{real-estate,listings,copywriting}', '{"three lengths","fair housing check","your own style"}',
    '{"new listings","social media posts"}', true, true
  ),
  (
    null, 'Closing coordinator', 'AUTOMATION',
    'Follows a deal from the signed contract to the keys: asks for missing papers, reminds of dates, keeps everybody '
    'informed.',
    '{"tone": "polite", "style": "brief", "instructions": "Remind three days before a date, then every day."}',
    '{"temperature": 0.2, "max_tokens": 600}',
    '{"tools": ["read_deal", "create_task", "send_message", "read_attachments"]}',
    '{"scope": "deal", "turns": 60}',
    '{real-estate,closing,paperwork}', '{"list of papers","reminders","weekly summary"}',
    '{"from contract to closing","missing signatures"}', true, true
  ),
  (
    null, 'Market researcher', 'RESEARCH',
    'Reads news, permits and prices of an area and sums up every week what changed and what it means for sellers.',
    '{"tone": "neutral", "style": "structured", "instructions": "Give the source of every number."}',
    '{"temperature": 0.3, "max_tokens": 2000}',
    '{"tools": ["search_web", "read_page", "save_content"]}',
    '{"scope": "organization", "turns": 20}',
    '{real-estate,market,newsletter}', '{"weekly summary","names its sources","charts"}',
    '{"newsletter","seller meetings"}', true, true
  );

-- Created after the rows above, so that only later changes are logged.
create trigger audit_new_system_template after insert on public.agent_templates
  for each row when (new.is_system)
  execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'agent_template', 'name');
create trigger audit_system_template after update of name, description, category, avatar, personality_config,
  model_config, tools_config, memory_config, tags, features, use_cases, is_public on public.agent_templates
  for each row when (new.is_system)
  execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'agent_template', 'name');
create trigger audit_old_system_template after delete on public.agent_templates
  for each row when (old.is_system)
  execute function private.audit_change('SYSTEM_CONFIG_UPDATE', 'agent_template', 'name');
