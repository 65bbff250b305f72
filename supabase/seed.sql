-- Demo data: two organisations to look at, in every domain. Password of everyone: strive-demo-1
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

drop table demo_people;
