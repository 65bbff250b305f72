-- The life of an organization: created, handed over, left, closed, reopened and erased by its people; created, suspended,
-- closed and given a plan by platform admins. What platform admins do is logged, also when it fails.

-- Created -------------------------------------------------------------------------------------------------------------

create function private.add_organization(name text, owner uuid, website text, description text)
returns public.organizations language plpgsql set search_path = '' as $$
declare
  words constant text := private.slug_of(name);
  number integer := 0;
  made public.organizations;
begin
  loop
    -- Takes the first free slug; of two concurrent calls for the same one, the second tries the next.
    select n into number from generate_series(number, number + 100000) n
    where not exists (select from public.organizations o where o.slug = words || case when n > 0 then '-' || n else '' end)
    order by n limit 1;
    insert into public.organizations (name, slug, website, description, billing_email)
    values (
      trim(add_organization.name), words || case when number > 0 then '-' || number else '' end,
      add_organization.website, add_organization.description, (select u.email from public.users u where u.id = owner)
    )
    on conflict on constraint "slug is unique in organizations" do nothing returning * into made;
    exit when made.id is not null;
  end loop;
  insert into public.organization_members (user_id, organization_id, role) values (owner, made.id, 'OWNER');
  insert into public.subscriptions (
    organization_id, status, tier, billing_cycle, amount_cents, current_period_start, current_period_end
  ) values (made.id, 'ACTIVE', 'FREE', 'MONTHLY', 0, now(), now() + interval '1 month');
  select o.* into made from public.organizations o where o.id = made.id;
  return made;
end $$;
comment on function private.add_organization(text, uuid, text, text) is 'Adds an organization of the plan FREE with its owner.';

create function private.create_organization(name text, website text, description text) returns public.organizations
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
begin
  if me is null or auth.jwt() ? 'act' then
    perform private.refuse_suspended();
    raise exception 'Sign in to create an organization' using errcode = '42501', hint = 'An impersonation cannot create one.';
  end if;
  if length(trim(coalesce(create_organization.name, ''))) not between 2 and 100 then
    raise exception 'The name of an organization is 2 to 100 characters' using
      errcode = 'PT422', detail = format('Found %s.', length(trim(create_organization.name)));
  end if;
  perform private.require_free_organization(me);
  return private.add_organization(
    create_organization.name, me, create_organization.website, create_organization.description
  );
end $$;
comment on function private.create_organization(text, text, text) is 'Does the work of public.create_organization().';

create function public.create_organization(name text, website text default null, description text default null)
returns public.organizations language sql set search_path = ''
as 'select * from private.create_organization(name, website, description)';
comment on function public.create_organization(text, text, text) is
  'Another organization, of the plan FREE, owned by the caller; at most three free ones. Act in it with x-org-id or '
  'set_current_organization(); choose a plan with the functions of billing.';

-- Handed over and left ------------------------------------------------------------------------------------------------

create function private.transfer_ownership(user_id uuid, role_kept "OrgRole") returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('OWNER');
begin
  if role_kept is null or transfer_ownership.user_id = auth.uid() or auth.jwt() ? 'act' then
    raise exception 'Ownership is transferred to another member, and not during an impersonation' using
      errcode = 'PT422', hint = 'Send the user_id of a member and the role you keep.';
  end if;
  perform from public.organizations o where o.id = org for no key update;
  update public.organization_members m set role = 'OWNER'
  where m.organization_id = org and m.user_id = transfer_ownership.user_id
    and (m.blocked_until is null or m.blocked_until <= now());
  if not found then
    raise exception 'There is no such member' using
      errcode = 'PT404', detail = format('Found no active member %s in this organization.', transfer_ownership.user_id);
  end if;
  update public.organization_members m set role = role_kept where m.organization_id = org and m.user_id = auth.uid();
  return jsonb_build_object('organization_id', org, 'owner_id', transfer_ownership.user_id, 'your_role', role_kept);
end $$;
comment on function private.transfer_ownership(uuid, "OrgRole") is 'Does the work of public.transfer_ownership().';
create function public.transfer_ownership(user_id uuid, role_kept "OrgRole" default 'ADMIN') returns jsonb
language sql set search_path = '' as 'select private.transfer_ownership(user_id, role_kept)';
comment on function public.transfer_ownership(uuid, "OrgRole") is
  'Makes another member OWNER and the caller ADMIN, or what role_kept says (OWNER keeps both).';

create function private.leave_organization() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('VIEWER');
begin
  perform private.refuse_impersonation();
  delete from public.organization_members m where m.organization_id = org and m.user_id = auth.uid();
  if not found then
    raise exception 'You are not a member of this organization' using errcode = 'PT404';
  end if;
  return jsonb_build_object('organization_id', org);
end $$;
comment on function private.leave_organization() is 'Does the work of public.leave_organization().';
create function public.leave_organization() returns jsonb
language sql set search_path = '' as 'select private.leave_organization()';
comment on function public.leave_organization() is
  'Ends the caller''s membership in the current organization. Its last owner first transfers ownership or closes it.';

-- Closed, reopened, erased --------------------------------------------------------------------------------------------

create function private.close(org uuid, who uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
  closed public.organizations;
begin
  update public.organizations o set closed_at = coalesce(o.closed_at, now()), closed_by = coalesce(o.closed_by, who)
  where o.id = org returning o.* into closed;
  -- The trigger end_billing_of_closed has subscriptions at Stripe cancelled there. Others end here.
  update public.subscriptions s set status = 'CANCELLED', cancelled_at = now(), current_period_end = greatest(
    now(), s.current_period_start + interval '1 second')
  where s.organization_id = org and s.stripe_subscription_id is null and private.is_live(s.status);
  return jsonb_build_object('organization_id', org, 'closed_at', closed.closed_at,
    'erased_after', closed.closed_at + interval '30 days');
end $$;
comment on function private.close(uuid, uuid) is 'Closes an organization; closing a closed one again changes nothing.';

create function private.close_organization(confirm text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('OWNER', true);
begin
  if auth.jwt() ? 'act' then
    raise exception 'An impersonation cannot close an organization' using errcode = '42501';
  end if;
  if not exists (select from public.organizations o where o.id = org and o.slug = trim(confirm)) then
    raise exception 'This is not the slug of the organization' using
      errcode = 'PT409', detail = format('Found %L.', left(confirm, 100)),
      hint = format('To confirm, send %L.', (select o.slug from public.organizations o where o.id = org));
  end if;
  return private.close(org, auth.uid());
end $$;
comment on function private.close_organization(text) is 'Does the work of public.close_organization().';
create function public.close_organization(confirm text) returns jsonb
language sql set search_path = '' as 'select private.close_organization(confirm)';
comment on function public.close_organization(text) is
  'Closes the current organization (OWNER); confirm is its slug. Members only read, its subscription ends, and after 30 days '
  'it is erased unless reopened.';

create function private.reopen_organization() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('OWNER', true);
begin
  perform private.refuse_impersonation();
  update public.organizations o set closed_at = null, closed_by = null where o.id = org and o.closed_at is not null;
  if not found then
    raise exception 'This organization is not closed' using errcode = 'PT409';
  end if;
  return jsonb_build_object('organization_id', org);
end $$;
comment on function private.reopen_organization() is 'Does the work of public.reopen_organization().';
create function public.reopen_organization() returns jsonb
language sql set search_path = '' as 'select private.reopen_organization()';
comment on function public.reopen_organization() is
  'Reopens the current organization (OWNER) before it is erased. A subscription that was cancelled at Stripe meanwhile, within '
  'ten minutes, has ended: choose a plan again.';

create function private.count_rows_of(org uuid) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  one record;
  counted bigint;
  counts jsonb := '{}';
begin
  for one in
    select r.* from private.export_relations() r
    -- The revenue of the platform stays in its books, by an id that refers to no organization any more.
    where r.relation <> 'private.subscription_states'::regclass
  loop
    execute format('select count(*) from %s t where %s', one.relation, one.condition) into counted using org;
    counts := counts || case when counted > 0 then jsonb_build_object(one.relation::text, counted) else '{}' end;
  end loop;
  return counts;
end $$;
comment on function private.count_rows_of(uuid) is 'How many rows an organization has in each table that can have any.';

create function private.erase_organization(org uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  rows jsonb := private.count_rows_of(org);
  proof jsonb;
  left_over jsonb;
  files bigint;
begin
  -- Its files go through the storage service: the job sync_attachments deletes what is listed here.
  insert into private.files_to_delete (bucket_id, name)
  select o.bucket_id, o.name from storage.objects o
  where o.bucket_id in ('attachments', 'exports')
    and (starts_with(o.name, org || '/') or starts_with(o.name, 'platform/' || org || '/'))
  on conflict (bucket_id, name) do nothing;
  get diagnostics files = row_count;
  select jsonb_build_object(
    'slug_sha256', encode(sha256(convert_to(o.slug, 'UTF8')), 'hex'), 'closed_at', o.closed_at, 'closed_by', o.closed_by,
    'rows', rows, 'files', files
  ) into proof from public.organizations o where o.id = org;
  update public.users u set current_organization_id = null where u.current_organization_id = org;
  delete from public.organizations o where o.id = org;
  left_over := private.count_rows_of(org);
  if left_over <> '{}' then
    raise exception 'An organization was not erased completely' using detail = left_over::text;
  end if;
  update private.organization_moves m set state = 'ERASED', erased_at = now()
  where m.organization_id = org and m.state = 'MOVED';
  if found then
    perform private.note_moves();
  end if;
  perform private.append_admin_action('ORG_DELETE', 'Organization erased', 'organization', org::text, proof, true, null, null);
  return proof;
end $$;
comment on function private.erase_organization(uuid) is
  'Deletes everything of an organization; the log keeps as proof what was deleted: rows of each table, files, when closed.';

create function private.erase_closed_organizations() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  org uuid;
  erased bigint := 0;
begin
  for org in
    select o.id from public.organizations o
    where o.closed_at <= now() - interval '30 days'
      and not exists (
        select from public.subscriptions s
        where s.organization_id = o.id and s.stripe_subscription_id is not null and private.is_live(s.status)
      )
    order by o.closed_at limit 10 for update skip locked
  loop
    perform private.erase_organization(org);
    erased := erased + 1;
  end loop;
  return erased;
end $$;
comment on function private.erase_closed_organizations() is
  'Erases organizations that were closed 30 days ago, up to ten a run; never one whose subscription still runs at Stripe.';
grant execute on function private.erase_closed_organizations() to service_role;
insert into private.jobs (name, schedule, runs, description) values
  ('erase_closed_organizations', '57 * * * *', 'private.erase_closed_organizations',
    'Erase organizations that were closed 30 days ago.');

-- Platform admins -----------------------------------------------------------------------------------------------------
-- Each operation is attempted and logged (private.attempt). A refusal is the response, with its status, so that the entry of
-- the log stays.

create function private.respond(attempted jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  code text := attempted #>> '{refused,code}';
begin
  if code is null then
    return attempted -> 'done';
  end if;
  perform set_config('response.status', case when code like 'PT%' then right(code, 3) when code = '42501' then '403'
    else '400' end, true);
  return attempted -> 'refused';
end $$;
comment on function private.respond(jsonb) is 'The response of a logged attempt: the result, or the refusal with its status.';

create function private.organization_to_administer(organization_id uuid) returns public.organizations
language plpgsql set search_path = '' as $$
declare
  target public.organizations;
begin
  perform private.require_admin();
  select o.* into target from public.organizations o where o.id = organization_to_administer.organization_id for no key update;
  if not found then
    raise exception 'There is no such organization' using
      errcode = 'PT404', detail = format('Found no organization %s.', organization_to_administer.organization_id);
  end if;
  return target;
end $$;
comment on function private.organization_to_administer(uuid) is 'The organization, locked, if the caller is a platform admin.';

-- Without a password: the user signs in with a link by e-mail or sets one by "forgot password".
create function private.do_create_user(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  address constant text := lower(trim(wish ->> 'email'));
  who constant uuid := gen_random_uuid();
begin
  perform private.require_admin();
  if coalesce(address, '') !~ '^[^@[:space:]]+@[^@[:space:]]+$' or length(address) > 255 then
    raise exception 'This is not an e-mail address' using errcode = 'PT422', detail = format('Found %L.', left(address, 100));
  elsif exists (select from public.users u where lower(u.email) = address) then
    raise exception 'There is a user with this address' using errcode = 'PT409', detail = format('Found %s.', address);
  end if;
  -- The empty tokens are what the auth service writes itself; null breaks its sign-in.
  insert into auth.users (
    id, aud, role, email, email_confirmed_at, raw_app_meta_data, raw_user_meta_data, created_at, updated_at,
    confirmation_token, recovery_token, email_change, email_change_token_new
  ) values (
    who, 'authenticated', 'authenticated', address, now(), '{"provider": "email", "providers": ["email"]}',
    jsonb_strip_nulls(jsonb_build_object('name', left(trim(wish ->> 'name'), 255))), now(), now(), '', '', '', ''
  );
  if exists (
    select from pg_catalog.pg_attribute a where a.attrelid = 'auth.users'::regclass and a.attname = 'instance_id'
  ) then
    execute 'update auth.users set instance_id = $2 where id = $1' using who, '00000000-0000-0000-0000-000000000000'::uuid;
  end if;
  insert into auth.identities (id, provider, provider_id, user_id, identity_data, created_at, updated_at)
  values (gen_random_uuid(), 'email', who::text, who, jsonb_build_object('sub', who, 'email', address, 'email_verified', true),
    now(), now());
  return jsonb_build_object('user_id', who, 'email', address);
end $$;
comment on function private.do_create_user(jsonb) is 'Creates the account {email, name?}.';

create function private.do_create_organization(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  owner uuid;
begin
  perform private.require_admin();
  select u.id into owner from public.users u
  where lower(u.email) = lower(trim(wish ->> 'owner_email')) and u.deleted_at is null;
  if not found then
    raise exception 'There is no such user' using
      errcode = 'PT404', detail = format('Found %L.', left(wish ->> 'owner_email', 100)),
      hint = 'The owner signs up first; the address is that of the account.';
  end if;
  return to_jsonb(private.add_organization(wish ->> 'name', owner, wish ->> 'website', wish ->> 'description'));
end $$;
comment on function private.do_create_organization(jsonb) is 'Adds {name, owner_email, website?, description?}.';

create function private.do_suspend_organization(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target public.organizations := private.organization_to_administer((wish ->> 'organization_id')::uuid);
begin
  if coalesce(trim(wish ->> 'reason'), '') = '' then
    raise exception 'A suspension needs a reason' using errcode = 'PT422', hint = 'Send reason, 1 to 500 characters.';
  end if;
  update public.organizations o
  set suspended_at = coalesce(o.suspended_at, now()), suspended_reason = trim(wish ->> 'reason')
  where o.id = target.id returning o.* into target;
  return jsonb_build_object('organization_id', target.id, 'suspended_at', target.suspended_at);
end $$;
comment on function private.do_suspend_organization(jsonb) is 'Suspends {organization_id, reason}, or changes the reason.';

create function private.do_restore_organization(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target public.organizations := private.organization_to_administer((wish ->> 'organization_id')::uuid);
begin
  if target.suspended_at is null and target.closed_at is null then
    raise exception 'This organization is neither suspended nor closed' using errcode = 'PT409';
  end if;
  update public.organizations o
  set suspended_at = null, suspended_reason = null, closed_at = null, closed_by = null where o.id = target.id;
  return jsonb_build_object('organization_id', target.id);
end $$;
comment on function private.do_restore_organization(jsonb) is 'Ends the suspension of {organization_id}, or reopens it.';

create function private.do_close_organization(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  target public.organizations := private.organization_to_administer((wish ->> 'organization_id')::uuid);
begin
  return private.close(target.id, auth.uid());
end $$;
comment on function private.do_close_organization(jsonb) is 'Closes {organization_id}; it is erased after 30 days.';

insert into private.admin_operations (name, action, target_type, description) values
  ('create_user', 'USER_CREATE', 'user', 'User created'),
  ('create_organization', 'ORG_CREATE', 'organization', 'Organization created'),
  ('suspend_organization', 'ORG_SUSPEND', 'organization', 'Organization suspended'),
  ('restore_organization', 'ORG_UPDATE', 'organization', 'Organization restored'),
  ('close_organization', 'ORG_DELETE', 'organization', 'Organization closed');

create function private.admin_create_user(email text, name text) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform private.require_admin();
  return private.respond(private.attempt(
    'create_user', jsonb_build_object('email', email, 'name', name), coalesce(email, '')
  ));
end $$;
comment on function private.admin_create_user(text, text) is 'See do_create_user(); logged.';
create function public.admin_create_user(email text, name text default null) returns jsonb
language sql set search_path = '' as 'select private.admin_create_user(email, name)';
comment on function public.admin_create_user(text, text) is
  'For platform admins. Creates an account without a password; its user signs in with a link by e-mail.';

create function private.admin_create_organization(name text, owner_email text, website text, description text) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform private.require_admin();
  return private.respond(private.attempt(
    'create_organization', jsonb_build_object('name', name, 'owner_email', owner_email, 'website', website, 'description', description), coalesce(owner_email, '')
  ));
end $$;
comment on function private.admin_create_organization(text, text, text, text) is 'See do_create_organization(); logged.';
create function public.admin_create_organization(name text, owner_email text, website text default null, description text default null) returns jsonb
language sql set search_path = '' as 'select private.admin_create_organization(name, owner_email, website, description)';
comment on function public.admin_create_organization(text, text, text, text) is 'For platform admins. Adds an organization of the plan FREE for a user.';

create function private.admin_suspend_organization(organization_id uuid, reason text) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform private.require_admin();
  return private.respond(private.attempt(
    'suspend_organization', jsonb_build_object('organization_id', organization_id, 'reason', reason), coalesce(organization_id::text, '')
  ));
end $$;
comment on function private.admin_suspend_organization(uuid, text) is 'See do_suspend_organization(); logged.';
create function public.admin_suspend_organization(organization_id uuid, reason text) returns jsonb
language sql set search_path = '' as 'select private.admin_suspend_organization(organization_id, reason)';
comment on function public.admin_suspend_organization(uuid, text) is 'For platform admins. Suspends an organization: its members read, its owners can pay.';

create function private.admin_restore_organization(organization_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform private.require_admin();
  return private.respond(private.attempt(
    'restore_organization', jsonb_build_object('organization_id', organization_id), coalesce(organization_id::text, '')
  ));
end $$;
comment on function private.admin_restore_organization(uuid) is 'See do_restore_organization(); logged.';
create function public.admin_restore_organization(organization_id uuid) returns jsonb
language sql set search_path = '' as 'select private.admin_restore_organization(organization_id)';
comment on function public.admin_restore_organization(uuid) is 'For platform admins. Ends the suspension of an organization, or reopens a closed one.';

create function private.admin_close_organization(organization_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform private.require_admin();
  return private.respond(private.attempt(
    'close_organization', jsonb_build_object('organization_id', organization_id), coalesce(organization_id::text, '')
  ));
end $$;
comment on function private.admin_close_organization(uuid) is 'See do_close_organization(); logged.';
create function public.admin_close_organization(organization_id uuid) returns jsonb
language sql set search_path = '' as 'select private.admin_close_organization(organization_id)';
comment on function public.admin_close_organization(uuid) is 'For platform admins. Closes an organization; after 30 days it is erased.';

grant execute on function private.admin_create_user(text, text), public.admin_create_user(text, text),
  private.create_organization(text, text, text),
  public.create_organization(text, text, text), private.transfer_ownership(uuid, "OrgRole"),
  public.transfer_ownership(uuid, "OrgRole"), private.leave_organization(), public.leave_organization(),
  private.close_organization(text), public.close_organization(text), private.reopen_organization(),
  public.reopen_organization(), private.admin_create_organization(text, text, text, text),
  private.admin_suspend_organization(uuid, text), private.admin_restore_organization(uuid),
  private.admin_close_organization(uuid), public.admin_create_organization(text, text, text, text),
  public.admin_suspend_organization(uuid, text), public.admin_restore_organization(uuid),
  public.admin_close_organization(uuid)
  to authenticated, service_role;
