-- Organization members: what keeps users, members and invitations consistent, who may change them, and what the access token
-- of a user holds.

-- Triggers ------------------------------------------------------------------------------------------------------------

create function private.touch_updated_at() returns trigger language plpgsql set search_path = '' as $$
begin
  new.updated_at := now();
  return new;
end $$;
comment on function private.touch_updated_at() is 'Keeps updated_at; one trigger function for all tables.';

create trigger touch before update on public.users for each row execute function private.touch_updated_at();
create trigger touch before update on public.organizations for each row execute function private.touch_updated_at();
create trigger touch before update on public.organization_invitations
  for each row execute function private.touch_updated_at();

-- Reads the time zones from files: only when one is chosen.
create function private.check_time_zone() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if not exists (select from pg_catalog.pg_timezone_names z where z.name = new.time_zone and z.name !~ '^posix') then
    raise exception 'There is no such time zone' using
      errcode = 'PT422', detail = format('Found %L.', left(new.time_zone, 100)),
      hint = 'Send an IANA name such as Europe/Berlin, America/New_York or UTC.';
  end if;
  return new;
end $$;
comment on function private.check_time_zone() is 'PT422 for a time zone that this server does not know.';
create trigger check_time_zone before update of time_zone on public.users
  for each row when (new.time_zone <> old.time_zone) execute function private.check_time_zone();

create function private.stamp_author() returns trigger language plpgsql set search_path = '' as $$
begin
  if not row_security_active(tg_relid) then
    return new;
  end if;
  return jsonb_populate_record(new, jsonb_build_object(tg_argv[0], (select auth.uid())));
end $$;
comment on function private.stamp_author() is 'Writes the caller into the named column, whatever a client sent.';

create function private.stored_columns(relation regclass) returns text[]
language sql stable set search_path = '' as $$
  select array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_attribute a
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
$$;
comment on function private.stored_columns(regclass) is 'The columns of a table that are stored, not computed.';

-- An anonymous sign-in has no e-mail address: its row in public.users is created with the first address.
create function private.follow_auth_user() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  avatar text := new.raw_user_meta_data ->> 'avatar_url';
begin
  if new.email is not null then
    insert into public.users as u (id, email, name, avatar_url, last_login_at)
    values (
      new.id, new.email, left(new.raw_user_meta_data ->> 'name', 255),
      case when length(avatar) <= 500 and avatar ~* '^https?://[^[:space:]]+$' then avatar end,
      new.last_sign_in_at
    )
    on conflict (id) do update set email = excluded.email,
      last_login_at = coalesce(excluded.last_login_at, u.last_login_at)
    where u.deleted_at is null
      and (u.email is distinct from excluded.email or u.last_login_at is distinct from excluded.last_login_at);
  end if;
  return null;
end $$;
comment on function private.follow_auth_user() is 'Keeps public.users in step with auth.users.';
create trigger follow_auth_user after insert or update of email, last_sign_in_at on auth.users
  for each row execute function private.follow_auth_user();

-- Supabase Auth stores what a client sends and repeats it in every access token.
create function private.bound_user_metadata() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.check_json('user_metadata', new.raw_user_meta_data, 16384);
  return new;
end $$;
comment on function private.bound_user_metadata() is 'Refuses metadata of a user beyond 16 kB.';
create trigger bound_user_metadata before insert or update of raw_user_meta_data on auth.users
  for each row execute function private.bound_user_metadata();

create function private.blocked_until(who public.users) returns timestamptz
language sql immutable set search_path = '' as $$
  select case
    when not who.is_active then 'infinity'
    when who.suspended_at is not null then coalesce(who.suspended_until, 'infinity')
  end::timestamptz
$$;
comment on function private.blocked_until(public.users) is
  'Until when a user is suspended or inactive (infinity: without end); null if they are active.';

create function private.block_memberships() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.organization_members m set blocked_until = private.blocked_until(new)
  where m.user_id = new.id and m.blocked_until is distinct from private.blocked_until(new);
  return null;
end $$;
comment on function private.block_memberships() is 'Copies the suspension of a user to all their memberships.';
create trigger block_memberships after update of is_active, suspended_at, suspended_until on public.users
  for each row execute function private.block_memberships();

create function private.block_membership() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  -- The lock waits for a concurrent suspension, so this row sees its result.
  select private.blocked_until(u) into new.blocked_until from public.users u where u.id = new.user_id for share;
  select o.suspended_at is not null or o.closed_at is not null into new.is_read_only
  from public.organizations o where o.id = new.organization_id for share;
  return new;
end $$;
comment on function private.block_membership() is 'A suspended user stays suspended in an organization they join.';
create trigger block_membership before insert on public.organization_members
  for each row execute function private.block_membership();

create function private.follow_organization_state() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.organization_members m set is_read_only = new.suspended_at is not null or new.closed_at is not null
  where m.organization_id = new.id
    and m.is_read_only is distinct from (new.suspended_at is not null or new.closed_at is not null);
  return null;
end $$;
comment on function private.follow_organization_state() is 'Marks every membership of a suspended or closed organization.';
create trigger follow_state after update of suspended_at, closed_at on public.organizations
  for each row execute function private.follow_organization_state();

create function private.end_impersonations() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if (private.blocked_until(new), new.global_role) is distinct from (private.blocked_until(old), old.global_role) then
    update private.impersonations i set ended_at = now()
    where new.id in (i.admin_id, i.user_id) and i.ended_at is null and i.expires_at > now();
  end if;
  return null;
end $$;
comment on function private.end_impersonations() is
  'Suspending or promoting the admin or the user of an impersonation ends it for good, even if that change is undone.';
create trigger end_impersonations after update of is_active, suspended_at, suspended_until, global_role on public.users
  for each row execute function private.end_impersonations();

-- An organization always keeps an owner who is not suspended; a suspended owner counts only if the one who leaves is
-- suspended too. Two owners who leave at the same time both update the organization's row, so the second waits for the
-- first and sees the result. When the organization itself is deleted, its row is already gone.
create function private.keep_an_owner() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if old.role <> 'OWNER' or (tg_op = 'UPDATE' and new.role = 'OWNER') then
    return null;
  end if;
  -- An update, not only a lock: only an update makes a transaction with an older snapshot fail. A closed organization
  -- needs no owner: it is erased, or reopened by a platform admin.
  update public.organizations o set updated_at = now() where o.id = old.organization_id and o.closed_at is null;
  if found and not exists (
    select from public.organization_members m
    where m.organization_id = old.organization_id and m.role = 'OWNER'
      and (m.blocked_until is null or m.blocked_until <= now() or old.blocked_until > now())
  ) then
    raise exception 'An organization must keep at least one owner' using
      errcode = 'PT409', detail = 'This is its last owner who is not suspended.', hint = 'Make another member OWNER first.';
  end if;
  return null;
end $$;
comment on function private.keep_an_owner() is 'Refuses to remove or demote the last OWNER who is not suspended.';
create trigger keep_an_owner after update of role or delete on public.organization_members
  for each row execute function private.keep_an_owner();

-- row_security_active(): the rule binds callers under policies, not our own definer functions.
create function private.guard_membership() returns trigger language plpgsql set search_path = '' as $$
declare
  mine public."OrgRole";
begin
  if not row_security_active(tg_relid) then
    return coalesce(new, old);
  end if;
  perform private.refuse_impersonation();
  select m.role into mine from public.organization_members m
  where m.user_id = (select auth.uid()) and m.organization_id = old.organization_id;
  if tg_op = 'UPDATE' and (new.user_id, new.organization_id) is distinct from (old.user_id, old.organization_id) then
    raise exception 'A membership cannot be moved to another user or organization' using
      errcode = '42501', hint = 'Remove this member and invite the other.';
  end if;
  if old.user_id <> (select auth.uid()) and old.role < mine then
    raise exception 'You cannot change a member whose role is above yours' using
      errcode = '42501', detail = format('You are %s, the member is %s.', mine, old.role),
      hint = 'Ask an owner.';
  end if;
  if tg_op = 'UPDATE' and new.role < mine then
    raise exception 'You cannot grant a role above your own' using
      errcode = '42501', detail = format('You are %s and tried to grant %s.', mine, new.role), hint = 'Ask an owner.';
  end if;
  return coalesce(new, old);
end $$;
comment on function private.guard_membership() is
  'Refuses to grant a role above the caller''s own, and to change a member above the caller.';
create trigger guard_membership before update or delete on public.organization_members
  for each row execute function private.guard_membership();

create function private.guard_organization() returns trigger language plpgsql set search_path = '' as $$
begin
  if row_security_active(tg_relid) and new.billing_email is distinct from old.billing_email
    and not private.is_org_owner() then
    raise exception 'Only an owner changes the billing address' using errcode = '42501', hint = 'Ask an owner.';
  end if;
  if row_security_active(tg_relid) and new.billing_email is distinct from old.billing_email then
    perform private.refuse_impersonation();
  end if;
  return new;
end $$;
comment on function private.guard_organization() is 'Only owners change the billing address.';
create trigger guard_organization before update on public.organizations
  for each row execute function private.guard_organization();

create function private.guard_invitation() returns trigger language plpgsql set search_path = '' as $$
begin
  new.email := lower(trim(new.email));
  if not row_security_active(tg_relid) then
    return new;
  end if;
  perform private.refuse_impersonation(); -- an invitation outlasts it
  new.invited_by := (select auth.uid());
  if private.current_user_org(new.role) is null then
    raise exception 'You cannot invite to a role above your own' using
      errcode = '42501', detail = format('Tried to invite as %s.', new.role), hint = 'Ask an owner.';
  end if;
  return new;
end $$;
comment on function private.guard_invitation() is 'Stamps the inviter and refuses roles above theirs.';
create trigger guard_invitation before insert on public.organization_invitations
  for each row execute function private.guard_invitation();

grant execute on function private.touch_updated_at(), private.guard_membership(), private.guard_organization(),
  private.guard_invitation() to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.users enable row level security;
create policy "people see themselves and their organization" on public.users for select to authenticated
  using (id = any ((select private.visible_users())::uuid[]));
create policy "people change themselves" on public.users for update to authenticated
  using (id = (select private.current_user_id())) with check (id = (select private.current_user_id()));
-- Colleagues do not see the platform role, suspensions and sign-ins; my_account() shows a user their own.
grant select (id, email, name, avatar_url, is_active, time_zone, locale, reminder_minutes, deleted_at, created_at, updated_at),
  update (name, avatar_url, time_zone, locale, reminder_minutes) on public.users to authenticated;
grant all on public.users to service_role;

alter table public.organizations enable row level security;
create policy "members see their organization" on public.organizations for select to authenticated
  using (id = (select private.current_user_org()));
create policy "admins change their organization" on public.organizations for update to authenticated
  using (id = (select private.current_user_org('ADMIN'))) with check (id = (select private.current_user_org('ADMIN')));
grant select, update (name, slug, website, description, settings, billing_email, logo_url) on public.organizations to authenticated;
grant all on public.organizations to service_role;

alter table public.organization_members enable row level security;
create policy "members see each other" on public.organization_members for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "admins change members" on public.organization_members for update to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')))
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins remove members, everyone may leave" on public.organization_members for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')) or user_id = (select private.current_user_id()));
grant select, update (role, permissions), delete on public.organization_members to authenticated;
grant all on public.organization_members to service_role;

alter table public.organization_invitations enable row level security;
create policy "admins see invitations" on public.organization_invitations for select to authenticated
  using (organization_id = (select private.current_user_org('ADMIN', true)));
create policy "admins invite" on public.organization_invitations for insert to authenticated
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins withdraw invitations" on public.organization_invitations for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete on public.organization_invitations to authenticated;
grant insert (organization_id, email, role, token_hash, expires_at) on public.organization_invitations to authenticated;
grant all on public.organization_invitations to service_role;

-- Operations ----------------------------------------------------------------------------------------------------------

create type public.my_organization as (
  id uuid, name text, slug text, role "OrgRole", subscription_tier "SubscriptionTier", is_current boolean, moved_to text
);
comment on type public.my_organization is
  'An organization of the caller. One that has moved to another project has its address in moved_to and no role here, and '
  'no name once its rows are erased.';

create function private.my_organizations() returns setof public.my_organization
language plpgsql stable security definer set search_path = '' as $$
declare
  me constant uuid := private.current_user_id();
  named constant uuid := private.requested_org();
begin
  return query
    with moved as (
      select m.organization_id, m.address from private.organization_moves m -- see the chapter moves
      where m.state in ('MOVED', 'ERASED') and m.callers @> array[me::text]
    ), mine as (
      select m.organization_id as id, m.role, m.joined_at, null as address
      from public.organization_members m where m.user_id = me
      union all
      select v.organization_id, null, null, v.address from moved v
    )
    select n.id, o.name, o.slug, n.role, o.subscription_tier,
      -- The current one is not looked up where the request would be refused: for one that has moved.
      case when n.address is null and not exists (select from moved v where v.organization_id = named)
        then n.id is not distinct from (select private.current_user_org()) else false end,
      n.address
    from mine n left join public.organizations o on o.id = n.id
    order by n.joined_at, n.id;
end $$;
comment on function private.my_organizations() is 'See public.my_organizations().';

create function public.my_organizations() returns setof public.my_organization
language sql stable set search_path = '' as 'select * from private.my_organizations()';
comment on function public.my_organizations() is
  'The organizations the caller belongs to; name one in x-org-id to act in it. Those that have moved to another project come '
  'last, with its address in moved_to.';

create function private.my_account() returns public.users
language plpgsql stable security definer set search_path = '' as $$
declare
  me public.users;
begin
  select u.* into me from public.users u where u.id = private.current_user_id();
  return me;
end $$;
comment on function private.my_account() is 'See public.my_account().';

create function public.my_account() returns public.users
language sql stable set search_path = '' as 'select * from private.my_account()';
comment on function public.my_account() is
  'The caller''s own account with all its columns; users shows fewer columns of colleagues.';

create function public.create_invitation(email text, role "OrgRole" default 'MEMBER') returns jsonb
language plpgsql set search_path = '' as $$
declare
  token text := rtrim(translate(encode(extensions.gen_random_bytes(32), 'base64'), '+/', '-_'), '=');
  org uuid := private.current_user_org('ADMIN');
  made public.organization_invitations;
begin
  if org is null then
    raise exception 'Only admins can invite' using errcode = '42501', hint = 'Ask an owner or admin of the organization.';
  end if;
  insert into public.organization_invitations (organization_id, email, role, token_hash)
  values (org, create_invitation.email, create_invitation.role, encode(sha256(convert_to(token, 'UTF8')), 'hex'))
  returning * into made;
  return jsonb_build_object('id', made.id, 'email', made.email, 'role', made.role, 'expires_at', made.expires_at, 'token', token);
exception when unique_violation then
  raise exception 'This address is already invited' using
    errcode = 'PT409', detail = format('An open invitation for %s exists.', create_invitation.email),
    hint = 'Withdraw it first: delete it from organization_invitations.';
end $$;
comment on function public.create_invitation(text, "OrgRole") is
  'Invites an address to the current organization; the token is returned this once and kept only as a hash.';

create function private.accept_invitation(token text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me public.users;
  invitation public.organization_invitations;
  inviter public."OrgRole";
  seats bigint;
  taken bigint;
begin
  perform private.refuse_impersonation();
  select u.* into me from public.users u where u.id = private.current_user_id();
  -- The row lock serializes simultaneous attempts: the later ones see the result of the first.
  select i.* into invitation from public.organization_invitations i
  where i.token_hash = encode(sha256(convert_to(token, 'UTF8')), 'hex')
    or i.reminder_token_hash = encode(sha256(convert_to(token, 'UTF8')), 'hex') for update;
  if me.id is null or invitation.id is null or lower(me.email) <> lower(invitation.email) then
    raise exception 'There is no such invitation for you' using
      errcode = 'PT404', hint = 'Sign in with the address that was invited, and use the whole token.';
  end if;
  if invitation.accepted_at is not null then
    raise exception 'This invitation was used already' using errcode = 'PT409', hint = 'Ask for a new one.';
  end if;
  select m.role into inviter from public.organization_members m
  where m.organization_id = invitation.organization_id and m.user_id = invitation.invited_by
    and (m.blocked_until is null or m.blocked_until <= now());
  if invitation.expires_at <= now() or inviter is null or inviter > 'ADMIN' or invitation.role < inviter then
    raise exception 'This invitation is no longer valid' using
      errcode = 'PT410', detail = 'It expired, or its sender may no longer invite.', hint = 'Ask for a new one.';
  end if;
  -- Seats are counted under the organization's row lock: at the limit, only one of two acceptances succeeds.
  perform from public.organizations o where o.id = invitation.organization_id for update;
  seats := private.plan_limit(invitation.organization_id, 'members');
  select count(*) into taken from public.organization_members m where m.organization_id = invitation.organization_id;
  if taken >= seats then
    raise exception 'The organization has no seat left' using
      errcode = 'PT402', detail = format('Its plan allows %s members, and %s are used. They do not renew.', seats, taken),
      hint = 'An owner can choose a larger plan or remove a member.';
  end if;
  insert into public.organization_members (user_id, organization_id, role)
  values (me.id, invitation.organization_id, invitation.role);
  update public.organization_invitations set accepted_at = now() where id = invitation.id;
  return jsonb_build_object('organization_id', invitation.organization_id, 'role', invitation.role);
exception when unique_violation then
  raise exception 'You already belong to this organization' using errcode = 'PT409';
end $$;
comment on function private.accept_invitation(text) is 'See public.accept_invitation(text).';

create function public.accept_invitation(token text) returns jsonb
language sql set search_path = '' as 'select private.accept_invitation(token)';
comment on function public.accept_invitation(text) is 'Joins the organization that invited the caller''s address.';

grant execute on function public.my_account(), private.my_account(), public.my_organizations(), public.create_invitation(text, "OrgRole"),
  public.accept_invitation(text), private.my_organizations(), private.accept_invitation(text)
  to authenticated, service_role;

-- Only the choice is kept: whether the caller still belongs there is looked up at every request.
create function private.set_current_organization(organization_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
begin
  if me is null or not exists (
    select from public.organization_members m
    where m.user_id = me and m.organization_id = set_current_organization.organization_id
  ) then
    raise exception 'There is no such organization for you' using
      errcode = 'PT404', detail = format('Found %s.', coalesce(set_current_organization.organization_id::text, 'null')),
      hint = 'my_organizations() lists the organizations you belong to.';
  end if;
  update public.users u set current_organization_id = set_current_organization.organization_id where u.id = me;
  return jsonb_build_object('organization_id', set_current_organization.organization_id);
end $$;
comment on function private.set_current_organization(uuid) is 'Does the work of public.set_current_organization().';

create function public.set_current_organization(id uuid) returns jsonb
language sql set search_path = '' as 'select private.set_current_organization(id)';
comment on function public.set_current_organization(uuid) is
  'Makes this the caller''s organization from the next access token on: refresh the session afterwards. Realtime and '
  'Storage follow the token; the header x-org-id takes precedence for one request.';
grant execute on function private.set_current_organization(uuid), public.set_current_organization(uuid)
  to authenticated, service_role;

-- Tokens --------------------------------------------------------------------------------------------------------------

-- Called by the auth service for every token it signs. The organization it writes is a default: whether the caller still
-- belongs to it is looked up at every request.
create function private.custom_access_token_hook(event jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  who uuid := (event ->> 'user_id')::uuid;
  claims jsonb := event -> 'claims';
  org uuid;
begin
  if exists (
    select from public.users u where u.id = who
    and (not u.is_active or (u.suspended_at is not null and (u.suspended_until is null or u.suspended_until > now())))
  ) then
    return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', 'This account is suspended'));
  end if;
  select m.organization_id into org from public.organization_members m where m.user_id = who
  order by
    (m.organization_id = (select u.current_organization_id from public.users u where u.id = who)) desc nulls last,
    (m.organization_id::text = claims #>> '{app_metadata,org_id}') desc nulls last, m.joined_at, m.organization_id
  limit 1;
  if jsonb_typeof(claims -> 'app_metadata') is distinct from 'object' then
    claims := jsonb_set(claims, '{app_metadata}', '{}');
  end if;
  claims := claims #- '{app_metadata,org_id}';
  if org is not null then
    claims := jsonb_set(claims, '{app_metadata,org_id}', to_jsonb(org));
  end if;
  return jsonb_build_object('claims', claims);
end $$;
comment on function private.custom_access_token_hook(jsonb) is
  'Access token hook: writes the default organization, refuses suspended users.';
grant execute on function private.custom_access_token_hook(jsonb) to supabase_auth_admin;
