-- Demo data: two organizations to look at, in every domain. Password of everyone: strive-demo-1
-- Applied by `strive start` to a new database and by `supabase db reset`; never to a hosted project by itself.

create temporary table demo_people (email text primary key, name text, id uuid);
insert into demo_people values
  ('admin@strive.test', 'Ada Platform', '00000000-0000-4000-a000-000000000001'),
  ('owner@acme.test', 'Olivia Owner', '00000000-0000-4000-a000-000000000011'),
  ('admin@acme.test', 'Andrew Admin', '00000000-0000-4000-a000-000000000012'),
  ('member@acme.test', 'Maria Member', '00000000-0000-4000-a000-000000000013'),
  ('viewer@acme.test', 'Victor Viewer', '00000000-0000-4000-a000-000000000014'),
  ('owner@globex.test', 'Oscar Owner', '00000000-0000-4000-a000-000000000021'),
  ('member@globex.test', 'Mina Member', '00000000-0000-4000-a000-000000000022');

-- The empty tokens are what the auth service expects of a user it made itself; null breaks its sign-in.
insert into auth.users (
  id, aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data, raw_user_meta_data, created_at, updated_at,
  confirmation_token, recovery_token, email_change, email_change_token_new
)
select id, 'authenticated', 'authenticated', email, extensions.crypt('strive-demo-1', extensions.gen_salt('bf', 6)), now(),
  '{"provider": "email", "providers": ["email"]}', jsonb_build_object('name', name), now(), now(), '', '', '', ''
from demo_people;
do $$ begin
  if exists (
    select from information_schema.columns
    where table_schema = 'auth' and table_name = 'users' and column_name = 'instance_id'
  ) then
    update auth.users set instance_id = '00000000-0000-0000-0000-000000000000' where instance_id is null;
  end if;
end $$;
insert into auth.identities (id, provider, provider_id, user_id, identity_data, last_sign_in_at, created_at, updated_at)
select gen_random_uuid(), 'email', id::text, id, jsonb_build_object('sub', id, 'email', email, 'email_verified', true),
  now(), now(), now()
from demo_people;
update public.users set global_role = 'SUPER_ADMIN' where email = 'admin@strive.test';

insert into public.organizations (id, name, slug, website, description, subscription_tier, subscription_status) values
  ('00000000-0000-4000-b000-000000000001', 'Acme Realty', 'acme', 'https://acme.test', 'Homes in the hills.', 'GROWTH', 'ACTIVE'),
  ('00000000-0000-4000-b000-000000000002', 'Globex Estates', 'globex', 'https://globex.test', 'Offices downtown.', 'FREE', 'TRIAL');
insert into public.organization_members (user_id, organization_id, role)
select p.id, o.id, upper(split_part(p.email, '@', 1))::public."OrgRole"
from demo_people p join public.organizations o on o.slug = split_part(split_part(p.email, '@', 2), '.', 1);

-- What follows is done by the people themselves: triggers stamp who did it, operations check that they may.
create function pg_temp.acts(who text) returns void language sql as $$
  select set_config('request.jwt.claims', jsonb_build_object('sub', p.id, 'role', 'authenticated')::text, false)
  from demo_people p where p.email = who
$$;
create function pg_temp.org() returns uuid language sql as 'select private.current_user_org()';
create function pg_temp.pick(words text[], n integer) returns text language sql as
  'select words[1 + n % cardinality(words)]';

-- CRM -----------------------------------------------------------------------------------------------------------------

do $$
declare
  who text;
begin
  foreach who in array array['member@acme.test', 'member@globex.test'] loop
    perform pg_temp.acts(who);

    insert into public.leads (organization_id, name, email, phone, source, score_value, budget, timeline, tags, assigned_to_id)
    select pg_temp.org(), n.name, lower(replace(n.name, ' ', '.')) || '@example.test', '+1 555 01' || lpad(i::text, 2, '0'),
      (enum_range(null::public."LeadSource"))[1 + i % 9], (i * 37) % 101, 250000 + i * 15000,
      pg_temp.pick(array['this month', 'this quarter', 'this year'], i), array[pg_temp.pick(array['buyer', 'seller', 'investor'], i)],
      case when i % 3 > 0 then auth.uid() end
    from generate_series(0, 39) i, lateral (
      select pg_temp.pick(array['Ana', 'Ben', 'Chloe', 'Dario', 'Emma', 'Farid', 'Greta', 'Hiro', 'Ines', 'Jonas'], i) || ' '
        || pg_temp.pick(array['Abbott', 'Becker', 'Castillo', 'Dubois', 'Evans', 'Fischer', 'Garcia', 'Haas'], i / 10 + i) as name
    ) n;

    insert into public.contacts (organization_id, name, email, phone, company, position, type, preferred_contact_method, assigned_to_id)
    select pg_temp.org(), n.name, lower(replace(n.name, ' ', '.')) || '@example.test', '+1 555 02' || lpad(i::text, 2, '0'),
      pg_temp.pick(array['Hillside Partners', 'Marlow & Sons', 'Northwind', null], i),
      pg_temp.pick(array['Owner', 'Director', 'Agent'], i), (enum_range(null::public."ContactType"))[1 + i % 5],
      pg_temp.pick(array['email', 'phone', 'text'], i), auth.uid()
    from generate_series(0, 23) i, lateral (
      select pg_temp.pick(array['Karl', 'Lena', 'Mario', 'Nora', 'Otis', 'Petra'], i) || ' '
        || pg_temp.pick(array['Ito', 'Jansen', 'Keller', 'Lopez', 'Moreau'], i) as name
    ) n;

    insert into public.listings (
      organization_id, title, address, city, state, zip_code, property_type, bedrooms, bathrooms, square_feet, year_built, price,
      listing_date, features, assigned_to_id
    )
    select pg_temp.org(), pg_temp.pick(array['Sunny house', 'Loft', 'Family home', 'Corner office', 'Garden flat'], i) || ' on '
        || street.name, (i * 7 + 3) || ' ' || street.name, pg_temp.pick(array['Austin', 'Denver', 'Portland'], i),
      pg_temp.pick(array['TX', 'CO', 'OR'], i), (78700 + i)::text, (enum_range(null::public."PropertyType"))[1 + i % 7],
      1 + i % 5, 1 + (i % 4) * 0.5, 700 + i * 130, 1950 + i * 4, 220000 + i * 41000, now() - i * interval '3 days',
      array[pg_temp.pick(array['pool', 'garage', 'garden', 'fireplace'], i)], auth.uid()
    from generate_series(0, 17) i, lateral (
      select pg_temp.pick(array['Oak Street', 'River Road', 'Hill Lane', 'Station Avenue'], i) as name
    ) street;

    insert into public.deals (organization_id, title, value, contact_id, listing_id, expected_close_date, assigned_to_id)
    select pg_temp.org(), 'Sale: ' || l.title, l.price, c.id, l.id, now() + l.i * interval '9 days', auth.uid()
    from (select l.*, row_number() over (order by l.created_at, l.id) as i from public.listings l
          where l.organization_id = pg_temp.org()) l
    join (select c.id, row_number() over (order by c.created_at, c.id) as i from public.contacts c
          where c.organization_id = pg_temp.org()) c on c.i = l.i
    where l.i <= 12;
    perform public.move_deal(d.id, 'PROPOSAL') from public.deals d
    where d.organization_id = pg_temp.org() and d.value > 400000 order by d.id;
    perform public.close_deal(d.id, 'WON') from
      (select id from public.deals where organization_id = pg_temp.org() order by value limit 2) d;
    perform public.close_deal(d.id, 'LOST', 'Bought elsewhere') from
      (select id from public.deals where organization_id = pg_temp.org() order by value desc limit 1) d;
    perform public.convert_lead(l.id) from
      (select id from public.leads where organization_id = pg_temp.org() order by score_value desc limit 3) l;
    perform public.record_activity(jsonb_build_object(
      'type', pg_temp.pick(array['CALL', 'EMAIL', 'MEETING', 'SHOWING'], l.i::integer), 'lead_id', l.id,
      'title', 'Talked to ' || l.name, 'duration_minutes', 10 + l.i
    )) from (select id, name, row_number() over (order by id) as i from public.leads
             where organization_id = pg_temp.org() limit 15) l;

    insert into public.appointments (organization_id, title, type, start_time, end_time, location, contact_id)
    select pg_temp.org(), 'Viewing with ' || c.name, 'SHOWING', date_trunc('hour', now()) + c.i * interval '1 day',
      date_trunc('hour', now()) + c.i * interval '1 day' + interval '45 minutes', '12 Oak Street', c.id
    from (select id, name, row_number() over (order by id) as i from public.contacts
          where organization_id = pg_temp.org() limit 6) c;

    insert into public.customers (organization_id, name, email, company, status, source, tags)
    select pg_temp.org(), pg_temp.pick(array['Marlow & Sons', 'Northwind', 'Hillside Partners', 'Blue Door'], i) || ' ' || i,
      'office' || i || '@example.test', pg_temp.pick(array['Marlow', 'Northwind', 'Hillside', 'Blue Door'], i),
      (enum_range(null::public."CustomerStatus"))[1 + i % 4], (enum_range(null::public."CustomerSource"))[1 + i % 5], '{demo}'
    from generate_series(1, 8) i;
    insert into public.projects (organization_id, customer_id, name, status, priority, due_date, budget)
    select pg_temp.org(), c.id, 'Rebrand of ' || c.name, 'ACTIVE', 'HIGH', now() + interval '60 days', 12000
    from public.customers c where c.organization_id = pg_temp.org() order by c.name limit 3;
    insert into public.tasks (organization_id, project_id, title, status, priority, due_date, position)
    select pg_temp.org(), p.id, t.title, (enum_range(null::public."TaskStatus"))[t.i], 'MEDIUM', now() + t.i * interval '7 days', t.i
    from public.projects p, unnest(array['Collect photos', 'Draft the brochure', 'Review', 'Print']) with ordinality t (title, i)
    where p.organization_id = pg_temp.org();
    insert into public.content (organization_id, title, slug, content_type, content, status, published_at)
    values
      (pg_temp.org(), 'Selling in spring', 'selling-in-spring', 'BLOG_POST', 'Light, tidy rooms and a mown lawn.', 'PUBLISHED', now()),
      (pg_temp.org(), 'How we work', 'how-we-work', 'PAGE', 'We call back within the hour.', 'DRAFT', null);
  end loop;
end $$;

-- AI Garage -----------------------------------------------------------------------------------------------------------

select pg_temp.acts('member@acme.test');
insert into public.custom_agent_orders (
  organization_id, title, description, use_case, complexity, requirements, agent_config, tools_config, created_by_id
)
select pg_temp.org(), o.title, 'What it should do is written down in the use case.', o.use_case, o.complexity::public."ComplexityLevel",
  o.requirements::jsonb, '{"tone": "friendly"}', '{}', auth.uid()
from (values
  ('Lead qualifier', 'Asks new leads what they look for and scores them.', 'MODERATE', '{"integrations": ["gmail", "calendar"]}'),
  ('Listing writer', 'Writes listings from photos and facts.', 'SIMPLE', '{"multi_model": true}'),
  ('Market watcher', 'Reports prices in the neighbourhood every week.', 'COMPLEX', '{"advanced_memory": true, "custom_ui": true}')
) o (title, use_case, complexity, requirements);
select public.submit_order(id) from public.custom_agent_orders
where organization_id = pg_temp.org() and title in ('Lead qualifier', 'Listing writer');
select pg_temp.acts('owner@acme.test');
do $$
declare
  next_status public."OrderStatus";
  the_order uuid := (select id from public.custom_agent_orders where title = 'Lead qualifier');
begin
  foreach next_status in array array['IN_REVIEW', 'APPROVED', 'IN_PROGRESS']::public."OrderStatus"[] loop
    perform public.advance_order(the_order, next_status);
  end loop;
  update public.order_milestones set is_completed = true where order_id = the_order and stage = 'design';
end $$;

insert into public.agent_templates (
  organization_id, name, description, category, personality_config, model_config, tools_config, memory_config, tags, created_by_id
) values (
  pg_temp.org(), 'Open house host', 'Invites the neighbors and thanks the visitors.', 'SALES', '{"tone": "warm"}', '{}', '{}', '{}',
  '{events}', auth.uid()
);
insert into public.template_reviews (template_id, rating, review, organization_id, reviewer_id)
select t.id, 5, 'Books viewings while we sleep.', pg_temp.org(), auth.uid() from public.agent_templates t
where t.is_system and t.name = 'Buyer concierge';
insert into public.tool_blueprints (
  organization_id, name, description, category, components, connections, configuration, complexity, is_public, created_by_id
) values (
  pg_temp.org(), 'New lead to calendar', 'A new lead gets a call in the calendar.', 'WORKFLOW',
  '[{"id": "lead", "type": "trigger"}, {"id": "call", "type": "calendar"}]', '[{"source": "lead", "target": "call"}]', '{}', 'SIMPLE',
  true, auth.uid()
);
insert into public.project_showcases (
  organization_id, title, description, category, features, technologies, is_public, created_by_id
) values (
  pg_temp.org(), 'Lead qualifier at Acme', 'Twice as many first calls, half the typing.', 'AI_AGENT', '{scoring,calendar}', '{postgres}',
  true, auth.uid()
);

-- Dashboard and administration ----------------------------------------------------------------------------------------

insert into public.dashboard_widgets (organization_id, name, type, data_source, config, position, created_by)
values
  (pg_temp.org(), 'Leads by source', 'CHART', null, '{"query": {"source": "leads", "aggregate": "count", "group_by": "source"}}',
    '{"x": 0, "y": 12, "w": 6, "h": 4}', auth.uid()),
  (pg_temp.org(), 'Hot leads', 'TABLE', 'leads', '{"columns": ["name", "score_value", "budget"], "where": {"score": "HOT"}}',
    '{"x": 6, "y": 12, "w": 6, "h": 4}', auth.uid());
insert into public.dashboard_metrics (organization_id, name, category, query, unit, format, created_by)
values
  (pg_temp.org(), 'Value of all deals', 'SALES', '{"source": "deals", "aggregate": "sum", "column": "value"}', '$', 'currency', auth.uid()),
  (null, 'New leads this month', 'SALES', '{"source": "leads", "aggregate": "count", "period": "30d"}', null, 'number', null);
insert into public.quick_actions (organization_id, name, icon, action_type, target_url, sort_order, created_by)
values
  (null, 'New lead', 'user-plus', 'NAVIGATION', '/leads/new', 1, null), (null, 'New deal', 'handshake', 'NAVIGATION', '/deals/new', 2, null),
  (pg_temp.org(), 'Our price list', 'tag', 'NAVIGATION', '/content/price-list', 3, auth.uid());
update public.user_dashboards set theme = 'AUTO', pinned_modules = '{crm,garage}' where user_id = auth.uid();

select pg_temp.acts('admin@strive.test');
insert into public.feature_flags (name, description, is_enabled, rollout_percent, target_tiers, created_by)
values
  ('crm.match-buyers', 'Suggest buyers for a new listing.', true, 50, '{}', auth.uid()),
  ('garage.self-service', 'Order agents without a call.', true, 100, '{GROWTH,ELITE,ENTERPRISE}', auth.uid());
insert into public.system_alerts (title, message, level, category, is_global, created_by)
values ('Welcome to Strive', 'This is demo data; change what you like.', 'INFO', 'FEATURE', true, auth.uid());
select set_config('request.jwt.claims', '', false);

-- One transaction has one time; spread over the last weeks it reads like a real history.
do $$
declare
  each_table text;
begin
  foreach each_table in array array['leads', 'contacts', 'deals', 'listings', 'activities', 'activity_feeds'] loop
    execute format(
      'update public.%1$I t set created_at = t.created_at - n.i * interval ''5 hours''
       from (select id, row_number() over (partition by organization_id order by id) as i from public.%1$I) n where n.id = t.id',
      each_table
    );
  end loop;
end $$;

drop table demo_people;

-- The demo data is no news to anybody.
delete from private.emails;
delete from public.notifications where kind <> 'organization.message.sent';
