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

-- What search_templates() reads: computing the terms of a template takes 0.1 ms, and a search for a common word compares many.
create table private.template_search (
  template_id uuid primary key,
  organization_id uuid,
  is_for_all boolean not null,
  usage_count integer not null,
  created_at timestamptz not null default now(),
  terms tsvector not null
);
comment on table private.template_search is
  'One row for each template, written by its trigger, so without foreign keys. What it has is in agent_templates.';
comment on column private.template_search.template_id is 'The template.';
comment on column private.template_search.is_for_all is 'Whether it is public or of the platform.';
comment on column private.template_search.usage_count is 'As in the template: the most used come first.';
comment on column private.template_search.terms is
  'The words of a template, and in capitals, which no word has: CATEGORY, each TAG, each word of its NAME, and the '
  'organization that it is FOR unless that is all.';
-- Common terms: the planner reads the most used templates until enough match. Rare terms: it sorts all matches.
create index template_search_rank_idx on private.template_search (usage_count desc, created_at desc, template_id desc)
  where is_for_all;
create index template_search_own_rank_idx on private.template_search
  (organization_id, usage_count desc, created_at desc, template_id desc) where not is_for_all;
create index template_search_terms_idx on private.template_search using gin (terms) with (fastupdate = off)
  where is_for_all;
create index template_search_own_terms_idx on private.template_search using gin (terms) with (fastupdate = off)
  where not is_for_all;

create function private.template_terms(template public.agent_templates) returns tsvector
language sql stable set search_path = '' as $$
  select array_to_tsvector(
    array(select 'TAG ' || left(lower(tag), 100) from unnest(template.tags) tag where tag is not null)
    || array(select 'NAME ' || word from unnest(tsvector_to_array(to_tsvector('pg_catalog.simple', template.name))) word)
    || array['CATEGORY ' || template.category::text]
    || case when template.is_public or template.is_system then '{}' else array['FOR ' || template.organization_id] end
  ) || to_tsvector('pg_catalog.simple', left(concat_ws(
    ' ', template.name, template.description, array_to_string(template.tags, ' '),
    array_to_string(template.features, ' '), array_to_string(template.use_cases, ' ')
  ), 20000))
$$;
comment on function private.template_terms(public.agent_templates) is 'The search terms of a template.';

create function private.index_template() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'DELETE' then
    delete from private.template_search s where s.template_id = old.id;
  elsif tg_op = 'INSERT' then
    insert into private.template_search (template_id, organization_id, is_for_all, usage_count, created_at, terms)
    values (
      new.id, new.organization_id, new.is_public or new.is_system, new.usage_count, new.created_at,
      private.template_terms(new)
    );
  else
    update private.template_search s
    set template_id = new.id, organization_id = new.organization_id, is_for_all = new.is_public or new.is_system,
      usage_count = new.usage_count, created_at = new.created_at,
      -- Not computed again when only a use was counted.
      terms = case
        when (old.name, old.description, old.category, old.tags, old.features, old.use_cases, old.organization_id)
            is not distinct from
            (new.name, new.description, new.category, new.tags, new.features, new.use_cases, new.organization_id)
          and s.is_for_all = (new.is_public or new.is_system)
        then s.terms else private.template_terms(new)
      end
    where s.template_id = old.id;
  end if;
  return null;
end $$;
comment on function private.index_template() is 'Writes what search_templates() reads.';
create trigger index_template after insert or delete or update of
  id, name, description, category, tags, features, use_cases, is_public, is_system, organization_id, usage_count, created_at
on public.agent_templates for each row execute function private.index_template();
-- Also where rows are loaded without triggers (session_replication_role = replica): a restore, a move.
alter table public.agent_templates enable always trigger index_template;

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
  change integer not null,
  per_person integer,
  per_network integer
);
comment on table private.tallies is 'Uses, views and likes that are not yet in the count of their row.';
comment on column private.tallies.per_person is 'How many count in a day for one person; null: any number.';
comment on column private.tallies.per_network is 'How many count in a day for one network; null: any number.';
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

create function private.tally(counter text, subject uuid, change integer, per_person integer default null, per_network integer default null)
returns void language sql set search_path = '' as $$
  insert into private.tallies (counter, subject_id, change, per_person, per_network)
  values (counter, subject, change, per_person, per_network)
$$;
comment on function private.tally(text, uuid, integer, integer, integer) is
  'Counts something when the transaction commits, exactly under any concurrency; within the daily bounds if they are given.';

create function private.pending(counter text, subject uuid) returns integer language sql stable set search_path = '' as $$
  select coalesce(sum(t.change), 0)::integer from private.tallies t where t.counter = pending.counter and t.subject_id = subject
$$;
comment on function private.pending(text, uuid) is 'What is not yet in the count of the row.';

-- Rows of the gallery belong to everybody, and what follows in a request may take seconds, such as reading what it embeds. So
-- they are locked when the transaction commits, after all statements.
-- Counts exactly without waiting for the row. Every transaction that commits takes a shared lock. The first of a batch is its
-- folder: it takes the same lock exclusively, which waits for the commits of the others, and adds all tallies in one update. A
-- transaction that finds a folder at work needs to do nothing, because that folder cannot finish before it has committed. For
-- that, the lock of the folder must be released before the lock of the batch, so it is a session lock that is released by hand:
-- two transaction locks are released in any order, and a tally appended between them would have no folder.
-- statement_timeout does not end a commit, so lock_timeout does: the job then adds the tally.
create function private.fold_batch() returns trigger
language plpgsql security definer set search_path = '' set lock_timeout = '1s' as $$
declare
  batch bigint := hashtextextended(new.counter || new.subject_id, 0);
  folder bigint := hashtextextended(new.counter || new.subject_id, 1);
begin
  if not private.counts_today(new.counter, new.subject_id, new.per_person, new.per_network) then
    delete from private.tallies t where t.id = new.id;
    return null;
  end if;
  perform pg_advisory_xact_lock_shared(batch);
  if pg_try_advisory_lock(folder) then
    begin
      perform pg_advisory_xact_lock(batch);
      perform private.fold_tallies(new.counter, new.subject_id);
      perform pg_advisory_unlock(folder);
    exception
      when lock_not_available then
        perform pg_advisory_unlock(folder);
      when others or query_canceled then
        perform pg_advisory_unlock(folder);
        raise;
    end;
  end if;
  return null;
end $$;
comment on function private.fold_batch() is 'Adds the tally, and those of others that commit at the same time, to the count of the row.';
create constraint trigger fold after insert on private.tallies deferrable initially deferred
  for each row execute function private.fold_batch();

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
  -- A showcase takes its likes to the trash, and brings them back with its count.
  elsif exists (select from public.project_showcases s where s.id = old.showcase_id) then
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

select private.record_changes('public.agent_templates');
create trigger trash before delete on public.agent_templates for each row execute function private.move_to_trash();
select private.record_changes('public.tool_blueprints');
create trigger trash before delete on public.tool_blueprints for each row execute function private.move_to_trash();
select private.record_changes('public.project_showcases');
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
language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
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
-- When the transaction commits, as for tallies.
create constraint trigger follow_reviews after insert or delete or update of rating on public.template_reviews
  deferrable initially deferred for each row execute function private.follow_reviews();

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
