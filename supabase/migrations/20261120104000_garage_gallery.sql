-- AI Garage, gallery: templates, tool blueprints and showcases are made by one organization and shared with others.

-- Types ---------------------------------------------------------------------------------------------------------------

create type "AgentCategory" as enum ('SALES', 'SUPPORT', 'ANALYSIS', 'CONTENT', 'AUTOMATION', 'RESEARCH');
comment on type "AgentCategory" is 'What an agent is for.';
create type "ToolCategory" as enum ('AUTOMATION', 'ANALYTICS', 'INTEGRATION', 'UI', 'API', 'WORKFLOW');
comment on type "ToolCategory" is 'What a tool is for.';
create type "ShowcaseCategory" as enum ('AI_AGENT', 'AUTOMATION_TOOL', 'INTEGRATION', 'WORKFLOW', 'CUSTOM_SOLUTION');
comment on type "ShowcaseCategory" is 'What a showcase shows.';

-- Templates, blueprints, showcases ------------------------------------------------------------------------------------
-- Lists show public rows and the caller's own together, newest first. With `is_public or organization_id = …` Postgres
-- collects and sorts all matches. Comparing the audience of a row (the nil uuid: everybody) with a short array stays
-- one ordered index scan that skips other tenants' rows inside the index, however few rows are public; measured with
-- 2,000 organizations. It needs the array literal (its nil uuid is estimated from statistics), this one index, and no
-- other index on the same expression; otherwise the planner may sort after all.

-- The search terms of a template: its words, and marks of its category, its tags and its audience in capitals, which no
-- word has. So one index answers a whole search without reading rows of other tenants.
create function private.template_marks(
  name text, description text, category "AgentCategory", tags text[], features text[], use_cases text[],
  is_for_all boolean, organization_id uuid
) returns tsvector language plpgsql immutable cost 1000 set search_path = '' as $$
begin
  return array_to_tsvector(
    array(select 'TAG ' || left(lower(tag), 100) from unnest(tags) tag where tag is not null)
    || array['CATEGORY ' || category::text, 'FOR ' || case when is_for_all then 'ALL' else organization_id::text end]
  ) || to_tsvector('pg_catalog.simple', left(concat_ws(
    ' ', name, description, array_to_string(tags, ' '), array_to_string(features, ' '), array_to_string(use_cases, ' ')
  ), 20000));
end $$;
comment on function private.template_marks(text, text, "AgentCategory", text[], text[], text[], boolean, uuid) is
  'The search terms of a template.';
grant execute on function
  private.template_marks(text, text, "AgentCategory", text[], text[], text[], boolean, uuid)
  to authenticated, service_role;

create table public.agent_templates (
  id uuid primary key default gen_random_uuid(),
  name text not null constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  description text not null,
  category "AgentCategory" not null,
  avatar text constraint "avatar is at most 500 characters" check (length(avatar) <= 500),
  personality_config jsonb not null,
  model_config jsonb not null,
  tools_config jsonb not null,
  memory_config jsonb not null,
  tags text[] not null default '{}',
  features text[] not null default '{}',
  use_cases text[] not null default '{}',
  usage_count integer not null default 0,
  rating numeric(3, 2) constraint "rating is 1 to 5" check (rating between 1 and 5),
  is_popular boolean not null generated always as (usage_count > 10 and coalesce(rating >= 4, false)) stored,
  is_public boolean not null default false,
  is_system boolean not null default false,
  organization_id uuid default private.current_user_org()
    references public.organizations (id) on delete cascade,
  created_by_id uuid references public.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "only a system template belongs to no organization" check (is_system = (organization_id is null))
);
comment on table public.agent_templates is
  'Presets of agents: an organization''s own, public ones, and those of the platform.';
comment on column public.agent_templates.rating is 'Mean of the reviews that count; null without any.';
comment on column public.agent_templates.usage_count is 'Kept by use_template().';
comment on column public.agent_templates.is_system is
  'True: it belongs to the platform; everybody reads it, only platform admins write it.';
create index agent_templates_audience_idx on public.agent_templates
  (created_at desc, (
    case when is_public or is_system then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end
  ));
create index agent_templates_organization_idx on public.agent_templates (organization_id, created_at desc);
create index agent_templates_created_by_idx on public.agent_templates (created_by_id);
create index agent_templates_category_idx on public.agent_templates (category, created_at desc);
create index agent_templates_is_public_idx on public.agent_templates (created_at desc) where is_public;
create index agent_templates_is_system_idx on public.agent_templates (created_at desc) where is_system;
create index agent_templates_search_idx on public.agent_templates using gin (
  private.template_marks(
    name, description, category, tags, features, use_cases, is_public or is_system, organization_id
  )
) with (fastupdate = off);

create table public.template_reviews (
  id uuid primary key default gen_random_uuid(),
  template_id uuid not null references public.agent_templates (id) on delete cascade,
  rating integer not null constraint "rating is 1 to 5" check (rating between 1 and 5),
  review text,
  is_counted boolean not null default true,
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  reviewer_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "one review per template and reviewer" unique (template_id, reviewer_id)
);
comment on table public.template_reviews is 'Reviews of templates; visible in the reviewer''s organization.';
comment on column public.template_reviews.template_id is
  'May belong to another organization if it is public, so the key carries no tenant; a trigger checks that the '
  'reviewer sees it.';
comment on column public.template_reviews.is_counted is
  'Whether it counts towards the rating: at most three reviews of a template per network and day do.';
create index template_reviews_template_idx on public.template_reviews (template_id) include (rating);
create index template_reviews_organization_idx on public.template_reviews (organization_id, created_at desc);
create index template_reviews_reviewer_idx on public.template_reviews (reviewer_id);

-- Components and connections are lists, or objects by id; a connection has a source and a target (or from and to).
create function private.is_graph(components jsonb, connections jsonb) returns boolean
language plpgsql immutable set search_path = '' as $$
declare
  ids text[];
  each_connection jsonpath := case jsonb_typeof(connections) when 'array' then '$[*]' else '$.*' end;
begin
  if jsonb_typeof(components) not in ('array', 'object') or jsonb_typeof(connections) not in ('array', 'object') then
    return false;
  end if;
  if jsonb_typeof(components) = 'object' then
    ids := array(select jsonb_object_keys(components));
  else
    ids := array(
      select case when jsonb_typeof(c -> 'id') in ('string', 'number') then c ->> 'id' end
      from jsonb_array_elements(components) c
    );
  end if;
  if array_position(ids, null) is not null or '' = any (ids)
    or (select count(distinct i) from unnest(ids) i) <> cardinality(ids) then
    return false;
  end if;
  return not exists (
    select from jsonb_path_query(connections, each_connection) c
    where not coalesce(coalesce(c ->> 'source', c ->> 'from') = any (ids), false)
      or not coalesce(coalesce(c ->> 'target', c ->> 'to') = any (ids), false)
  );
end $$;
comment on function private.is_graph(jsonb, jsonb) is
  'Whether every component has an id of its own and every connection joins two components that exist.';

grant execute on function private.is_graph(jsonb, jsonb) to authenticated, service_role;

create table public.tool_blueprints (
  id uuid primary key default gen_random_uuid(),
  name text not null constraint "name is 1 to 100 characters" check (length(name) between 1 and 100),
  description text not null,
  category "ToolCategory" not null,
  components jsonb not null,
  connections jsonb not null,
  configuration jsonb not null,
  version text not null default '1.0.0' constraint "version is semantic, like 1.0.0, in at most 20 characters" check (
    version ~ '^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$' and length(version) <= 20
  ),
  tags text[] not null default '{}',
  complexity "ComplexityLevel" not null,
  usage_count integer not null default 0,
  is_public boolean not null default false,
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  created_by_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "connections join (source, target) components with unique ids"
    check (private.is_graph(components, connections))
);
comment on table public.tool_blueprints is 'Tools drawn as graphs; public ones can be cloned by others.';
comment on column public.tool_blueprints.usage_count is 'How often it was cloned.';
create index tool_blueprints_audience_idx on public.tool_blueprints
  (created_at desc, (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end));
create index tool_blueprints_organization_idx on public.tool_blueprints (organization_id, created_at desc);
create index tool_blueprints_created_by_idx on public.tool_blueprints (created_by_id);
create index tool_blueprints_category_idx on public.tool_blueprints (category, created_at desc);
create index tool_blueprints_is_public_idx on public.tool_blueprints (created_at desc) where is_public;

create table public.project_showcases (
  id uuid primary key default gen_random_uuid(),
  title text not null constraint "title is 1 to 100 characters" check (length(title) between 1 and 100),
  description text not null,
  category "ShowcaseCategory" not null,
  image_url text constraint "image_url is an http(s) address of at most 500 characters"
    check (image_url ~* '^https?://[^[:space:]]+$' and length(image_url) <= 500),
  demo_url text constraint "demo_url is an http(s) address of at most 500 characters"
    check (demo_url ~* '^https?://[^[:space:]]+$' and length(demo_url) <= 500),
  features text[] not null default '{}',
  technologies text[] not null default '{}',
  views integer not null default 0,
  likes integer not null default 0,
  is_public boolean not null default false,
  is_featured boolean not null default false,
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  created_by_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.project_showcases is 'Finished work that organizations show to others.';
comment on column public.project_showcases.views is 'Kept by view_showcase().';
comment on column public.project_showcases.likes is 'One per user; kept by like_showcase() and unlike_showcase().';
comment on column public.project_showcases.is_featured is
  'Set only by platform admins, with feature_showcase(). Ask for is_featured=eq.true, which has an index.';
create index project_showcases_audience_idx on public.project_showcases
  (created_at desc, (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end));
create index project_showcases_organization_idx on public.project_showcases (organization_id, created_at desc);
create index project_showcases_created_by_idx on public.project_showcases (created_by_id);
create index project_showcases_category_idx on public.project_showcases (category, created_at desc);
create index project_showcases_is_public_idx on public.project_showcases (created_at desc) where is_public;
create index project_showcases_is_featured_idx on public.project_showcases (created_at desc) where is_featured;

create table public.showcase_likes (
  showcase_id uuid not null references public.project_showcases (id) on delete cascade,
  user_id uuid not null references public.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (showcase_id, user_id)
);
comment on table public.showcase_likes is 'Who likes what; people see their own.';
create index showcase_likes_user_idx on public.showcase_likes (user_id, created_at desc);

-- Counting ------------------------------------------------------------------------------------------------------------

create table private.tallies (
  id bigint generated always as identity primary key,
  counter text not null constraint "tallies count uses, views and likes"
    check (counter in ('template_uses', 'blueprint_uses', 'showcase_views', 'showcase_likes')),
  subject_id uuid not null,
  change integer not null
);
comment on table private.tallies is 'Uses, views and likes that are not yet in the count of their row.';
create index tallies_subject_idx on private.tallies (counter, subject_id);

create function private.fold_tallies(counter text, subject uuid) returns void
language plpgsql set search_path = '' as $$
declare
  total integer;
begin
  with taken as (
    delete from private.tallies t where t.counter = fold_tallies.counter and t.subject_id = subject returning t.change
  )
  select coalesce(sum(taken.change), 0) into total from taken;
  if total = 0 then
    return;
  end if;
  case fold_tallies.counter
    when 'template_uses' then
      update public.agent_templates t set usage_count = t.usage_count + total where t.id = subject;
    when 'blueprint_uses' then
      update public.tool_blueprints b set usage_count = b.usage_count + total where b.id = subject;
    when 'showcase_views' then
      update public.project_showcases s set views = s.views + total where s.id = subject;
    when 'showcase_likes' then
      update public.project_showcases s set likes = s.likes + total where s.id = subject;
  end case;
end $$;
comment on function private.fold_tallies(text, uuid) is 'Adds the tallies of a row to its counter.';

-- Counts exactly without waiting for the row. Every transaction appends its tally under a shared lock that lasts until
-- it commits. The first of a batch is its folder: it takes the same lock exclusively, which waits for the commits of
-- the others, and adds all tallies in one update. A transaction that finds a folder at work needs to do nothing,
-- because that folder cannot finish before it has committed. For that, the lock of the folder must be released before
-- the lock of the batch, so it is a session lock that is released by hand: two transaction locks are released in any
-- order, and a tally appended between them would have no folder.
create function private.tally(counter text, subject uuid, change integer) returns void
language plpgsql set search_path = '' as $$
declare
  batch bigint := hashtextextended(counter || subject, 0);
  folder bigint := hashtextextended(counter || subject, 1);
begin
  perform pg_advisory_xact_lock_shared(batch);
  insert into private.tallies (counter, subject_id, change) values (tally.counter, subject, tally.change);
  if pg_try_advisory_lock(folder) then
    begin
      perform pg_advisory_xact_lock(batch);
      perform private.fold_tallies(tally.counter, subject);
      perform pg_advisory_unlock(folder);
    exception when others or query_canceled then
      perform pg_advisory_unlock(folder);
      raise;
    end;
  end if;
end $$;
comment on function private.tally(text, uuid, integer) is 'Counts something, exactly under any concurrency.';

create function private.roll_up_tallies() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  open record;
  folded bigint := 0;
begin
  for open in select distinct t.counter, t.subject_id from private.tallies t order by 1, 2 loop
    perform private.fold_tallies(open.counter, open.subject_id);
    folded := folded + 1;
  end loop;
  perform private.forget_daily_counts();
  return folded;
end $$;
comment on function private.roll_up_tallies() is
  'Adds tallies that a failed transaction has left behind; safe to run at any time.';
grant execute on function private.roll_up_tallies() to service_role;
insert into private.jobs (name, schedule, runs, description) values
  ('roll_up_tallies', '*/5 * * * *', 'private.roll_up_tallies', 'Add uses, views and likes that were left behind.');

create function private.tally_like() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    perform private.tally('showcase_likes', new.showcase_id, 1);
  else
    perform private.tally('showcase_likes', old.showcase_id, -1);
  end if;
  return null;
end $$;
comment on function private.tally_like() is 'Counts likes, also when they are deleted with their user.';
create trigger tally_like after insert or delete on public.showcase_likes
  for each row when (coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.tally_like();

-- Who wrote it, what the plan allows ----------------------------------------------------------------------------------

create trigger stamp_author before insert on public.agent_templates
  for each row execute function private.stamp_author('created_by_id');
create trigger stamp_author before insert on public.tool_blueprints
  for each row execute function private.stamp_author('created_by_id');
create trigger stamp_author before insert on public.project_showcases
  for each row execute function private.stamp_author('created_by_id');
create trigger guard_plan before insert on public.agent_templates
  for each row execute function private.guard_plan('templates');
create trigger guard_plan before insert on public.tool_blueprints
  for each row execute function private.guard_plan('blueprints');

create trigger touch before update on public.template_reviews
  for each row execute function private.touch_updated_at();
-- Counters and ratings are not an update by the author.
create trigger touch before update on public.agent_templates
  for each row when (old.usage_count = new.usage_count and old.rating is not distinct from new.rating)
  execute function private.touch_updated_at();
create trigger touch before update on public.tool_blueprints
  for each row when (old.usage_count = new.usage_count) execute function private.touch_updated_at();
create trigger touch before update on public.project_showcases
  for each row when (old.views = new.views and old.likes = new.likes) execute function private.touch_updated_at();

create trigger history after insert or update or delete on public.agent_templates
  for each row execute function private.record_history();
create trigger trash before delete on public.agent_templates for each row execute function private.move_to_trash();
create trigger history after insert or update or delete on public.tool_blueprints
  for each row execute function private.record_history();
create trigger trash before delete on public.tool_blueprints for each row execute function private.move_to_trash();
create trigger history after insert or update or delete on public.project_showcases
  for each row execute function private.record_history();
create trigger trash before delete on public.project_showcases for each row execute function private.move_to_trash();

-- Reviews -------------------------------------------------------------------------------------------------------------

create function private.guard_review() returns trigger language plpgsql set search_path = '' as $$
begin
  if not row_security_active(tg_relid) then
    return new;
  end if;
  new.reviewer_id := (select auth.uid());
  -- Under the reviewer's own policies: a template one cannot see and one that does not exist look the same.
  if not exists (select from public.agent_templates t where t.id = new.template_id) then
    raise exception 'There is no such template' using errcode = 'PT404', detail = format('Found %s.', new.template_id);
  end if;
  new.is_counted := private.review_counts(new.template_id);
  return new;
end $$;
comment on function private.guard_review() is 'Stamps the reviewer, who must see the template, and whether the review counts.';

create function private.review_counts(template_id uuid) returns boolean
language plpgsql security definer set search_path = '' as $$
begin
  return private.current_user_org('MEMBER') is not null and private.counts_today('template_reviews', template_id, 3, 3);
end $$;
comment on function private.review_counts(uuid) is
  'Whether a review that the caller writes now counts towards the rating: at most three per network and day do.';
grant execute on function private.review_counts(uuid) to authenticated, service_role;
create trigger guard_review before insert on public.template_reviews
  for each row execute function private.guard_review();

-- The template is locked before its reviews are read: of two reviews at once the later one counts both.
create function private.follow_reviews() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  template uuid := coalesce(new.template_id, old.template_id);
begin
  perform from public.agent_templates t where t.id = template for no key update;
  update public.agent_templates t
  set rating = (select round(avg(r.rating), 2) from public.template_reviews r where r.template_id = template and r.is_counted)
  where t.id = template;
  return null;
end $$;
comment on function private.follow_reviews() is 'The rating of a template is the mean of its reviews that count.';
create trigger follow_reviews after insert or delete or update of rating on public.template_reviews
  for each row execute function private.follow_reviews();

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.agent_templates enable row level security;
create policy "everyone sees public, system and their own templates" on public.agent_templates
  for select to authenticated
  using (
    (case when is_public or is_system then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end)
      = any (array['00000000-0000-0000-0000-000000000000'::uuid, (select private.current_user_org())])
    and (select private.current_user_id()) is not null
  );
create policy "members make templates, platform admins system ones" on public.agent_templates
  for insert to authenticated
  with check (
    (organization_id = (select private.current_user_org('MEMBER')) and not is_system)
    or (is_system and (select private.is_admin()))
  );
create policy "members change their templates, platform admins system ones" on public.agent_templates
  for update to authenticated
  using (
    (organization_id = (select private.current_user_org('MEMBER')) and not is_system)
    or (is_system and (select private.is_admin()))
  )
  with check (
    (organization_id = (select private.current_user_org('MEMBER')) and not is_system)
    or (is_system and (select private.is_admin()))
  );
create policy "admins delete their templates, platform admins system ones" on public.agent_templates
  for delete to authenticated
  using (
    (organization_id = (select private.current_user_org('ADMIN')) and not is_system)
    or (is_system and (select private.is_admin()))
  );
grant select, delete,
  insert (organization_id, name, description, category, avatar, personality_config, model_config, tools_config,
    memory_config, tags, features, use_cases, is_public, is_system),
  update (name, description, category, avatar, personality_config, model_config, tools_config, memory_config, tags,
    features, use_cases, is_public)
  on public.agent_templates to authenticated;
grant all on public.agent_templates to service_role;

alter table public.template_reviews enable row level security;
create policy "members see their organization's reviews" on public.template_reviews for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members review" on public.template_reviews for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "reviewers change their reviews" on public.template_reviews for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')) and reviewer_id = (select auth.uid()))
  with check (organization_id = (select private.current_user_org('MEMBER')) and reviewer_id = (select auth.uid()));
create policy "reviewers and admins delete reviews" on public.template_reviews for delete to authenticated
  using (
    organization_id = (select private.current_user_org('MEMBER'))
    and (reviewer_id = (select auth.uid()) or organization_id = (select private.current_user_org('ADMIN')))
  );
grant select, delete, insert (organization_id, template_id, rating, review), update (rating, review)
  on public.template_reviews to authenticated;
grant all on public.template_reviews to service_role;

alter table public.tool_blueprints enable row level security;
create policy "everyone sees public and their own blueprints" on public.tool_blueprints for select to authenticated
  using (
    (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end)
      = any (array['00000000-0000-0000-0000-000000000000'::uuid, (select private.current_user_org())])
    and (select private.current_user_id()) is not null
  );
create policy "members make blueprints" on public.tool_blueprints for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change their blueprints" on public.tool_blueprints for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete their blueprints" on public.tool_blueprints for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, name, description, category, components, connections, configuration, version, tags,
    complexity, is_public),
  update (name, description, category, components, connections, configuration, version, tags, complexity, is_public)
  on public.tool_blueprints to authenticated;
grant all on public.tool_blueprints to service_role;

alter table public.project_showcases enable row level security;
create policy "everyone sees public and their own showcases" on public.project_showcases for select to authenticated
  using (
    (case when is_public then '00000000-0000-0000-0000-000000000000'::uuid else organization_id end)
      = any (array['00000000-0000-0000-0000-000000000000'::uuid, (select private.current_user_org())])
    and (select private.current_user_id()) is not null
  );
create policy "members make showcases" on public.project_showcases for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change their showcases" on public.project_showcases for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete their showcases" on public.project_showcases for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (organization_id, title, description, category, image_url, demo_url, features, technologies, is_public),
  update (title, description, category, image_url, demo_url, features, technologies, is_public)
  on public.project_showcases to authenticated;
grant all on public.project_showcases to service_role;

alter table public.showcase_likes enable row level security;
create policy "people see what they like" on public.showcase_likes for select to authenticated
  using (user_id = (select private.current_user_id()));
grant select on public.showcase_likes to authenticated;
grant all on public.showcase_likes to service_role;

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
  phrase text := lower(trim(left(query, 200)));
  words text := (
    select string_agg(private.as_mark(w.word) || ':*', ' & ')
    from unnest(tsvector_to_array(to_tsvector('pg_catalog.simple', phrase))) w (word)
  );
  marks tsquery := concat_ws(
    ' & ', words, private.as_mark('CATEGORY ' || category::text),
    (select string_agg(private.as_mark('TAG ' || left(lower(tag), 100)), ' & ') from unnest(tags[:20]) tag),
    '(' || concat_ws(' | ', private.as_mark('FOR ALL'), private.as_mark('FOR ' || org)) || ')'
  );
  named boolean;
  used integer;
  made timestamptz;
begin
  if page_size is null or page_size not between 1 and 100 then
    raise exception 'page_size is 1 to 100' using errcode = 'PT400', detail = format('Found %s.', page_size);
  elsif cardinality(tags) > 20 then
    raise exception 'A search has at most 20 tags' using errcode = 'PT400', detail = format('Found %s.', cardinality(tags));
  end if;
  if private.current_user_id() is null or (phrase <> '' and words is null) then
    return; -- no caller, or no word in the query
  end if;
  if after is not null then
    select coalesce(strpos(lower(t.name), phrase) > 0, true), t.usage_count, t.created_at into named, used, made
    from public.agent_templates t
    where t.id = after and (t.is_public or t.is_system or t.organization_id = org);
    if made is null then
      raise exception 'There is no template with the id in after' using
        errcode = 'PT404', detail = format('Found %s.', after), hint = 'Start again at the first page.';
    end if;
  end if;
  return query
    select f.id
    from (
      select t.id, coalesce(strpos(lower(t.name), phrase) > 0, true) as is_named, t.usage_count, t.created_at
      from public.agent_templates t
      where private.template_marks(
          t.name, t.description, t.category, t.tags, t.features, t.use_cases, t.is_public or t.is_system,
          t.organization_id
        ) @@ marks
        and (t.is_public or t.is_system or t.organization_id = org)
    ) f
    where after is null or (f.is_named, f.usage_count, f.created_at, f.id) < (named, used, made, after)
    order by f.is_named desc, f.usage_count desc, f.created_at desc, f.id desc limit page_size;
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
  if private.counts_today('template_uses', template_id, 20, 60) then
    perform private.tally('template_uses', template_id, 1);
  end if;
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
  if private.counts_today('blueprint_uses', blueprint_id, 20, 60) then
    perform private.tally('blueprint_uses', blueprint_id, 1);
  end if;
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
  if private.counts_today('showcase_views', seen.id, 1, 20) then
    perform private.tally('showcase_views', seen.id, 1);
  end if;
  select s.* into seen from public.project_showcases s where s.id = seen.id;
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
  return s.likes + (
    select coalesce(sum(t.change), 0) from private.tallies t where t.counter = 'showcase_likes' and t.subject_id = s.id
  ) from public.project_showcases s where s.id = target.id;
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
