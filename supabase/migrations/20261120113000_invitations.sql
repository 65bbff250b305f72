-- Invitations by e-mail: sent, resent, revoked, reminded of, and looked at before they are accepted. Accounts accept them with
-- accept_invitation() (chapter organization_members). The token is in the e-mail; the table keeps only its hash.

create function private.new_token() returns text language sql volatile set search_path = '' as $$
  select private.url_base64(extensions.gen_random_bytes(32))
$$;
comment on function private.new_token() is '32 random bytes for a link.';

create function private.token_hash(token text) returns text language sql immutable set search_path = '' as $$
  select encode(sha256(convert_to(token, 'UTF8')), 'hex')
$$;
comment on function private.token_hash(text) is 'What is stored of a token.';

create function private.mail_invitation(invitation public.organization_invitations, token text, kind text) returns void
language plpgsql set search_path = '' as $$
declare
  org public.organizations;
  inviter text;
begin
  select o.* into org from public.organizations o where o.id = invitation.organization_id;
  select coalesce(nullif(trim(u.name), ''), u.email) into inviter from public.users u where u.id = invitation.invited_by;
  insert into private.emails (organization_id, address, kind, subject, content)
  values (
    org.id, invitation.email, kind,
    left(case kind when 'organization.member.invited' then format('%s invites you to %s', left(inviter, 80), org.name)
      else format('Your invitation to %s expires soon', org.name) end, 200),
    jsonb_build_object(
      'message', format('%s invites you to join %s as %s. The invitation is for %s and valid until %s.', left(inviter, 80),
        org.name, lower(invitation.role::text), invitation.email, coalesce(
          (select private.local_time(invitation.expires_at, u.time_zone, u.locale) from public.users u
            where lower(u.email) = lower(invitation.email) and u.deleted_at is null limit 1),
          private.local_time(invitation.expires_at, 'UTC', 'en'))),
      'label', 'See the invitation', 'secret_path', '/invitations/' || token, 'invitation_id', invitation.id
    )
  );
end $$;
comment on function private.mail_invitation(public.organization_invitations, text, text) is 'Queues the e-mail with the link.';

-- Strangers are not to be mailed without end by somebody with an organization of their own.
create function private.check_invitation_mails(org uuid, more bigint) returns void
language plpgsql set search_path = '' as $$
declare
  sent bigint;
begin
  select count(*) into sent from private.emails e
  where e.organization_id = org and e.kind = 'organization.member.invited' and e.created_at > now() - interval '1 day';
  if sent + more > 200 then
    raise exception 'Too many invitations' using
      errcode = 'PT429', constraint = 'retry-after 3600', detail = format('%s were mailed within a day; 200 are allowed.', sent), hint = 'Invite the others tomorrow.';
  end if;
end $$;
comment on function private.check_invitation_mails(uuid, bigint) is 'PT429 beyond 200 invitation mails of an organization in a day.';

create function private.do_invite_members(wish jsonb, org uuid, inviter uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  seats bigint;
  taken bigint;
  item record;
  token text;
  made public.organization_invitations;
  created jsonb := '[]';
  skipped jsonb := '[]';
begin
  -- Seats are counted under the organization's row lock, as when an invitation is accepted.
  perform from public.organizations o where o.id = org for update;
  perform private.check_invitation_mails(org, jsonb_array_length(wish -> 'invitations'));
  for item in
    select distinct on (lower(trim(i ->> 'email'))) lower(trim(i ->> 'email')) as email,
      coalesce(i ->> 'role', 'MEMBER')::public."OrgRole" as role
    from jsonb_array_elements(wish -> 'invitations') i order by 1
  loop
    if private.current_user_org(item.role) is distinct from org then
      raise exception 'You cannot invite to a role above your own' using
        errcode = '42501', detail = format('Tried to invite as %s.', item.role), hint = 'Ask an owner.';
    end if;
    if exists (
      select from public.organization_members m join public.users u on u.id = m.user_id
      where m.organization_id = org and lower(u.email) = item.email
    ) then
      skipped := skipped || jsonb_build_object('email', item.email, 'reason', 'MEMBER');
      continue;
    end if;
    delete from public.organization_invitations i
    where i.organization_id = org and lower(i.email) = item.email and i.accepted_at is null and i.expires_at <= now();
    token := private.new_token();
    insert into public.organization_invitations (organization_id, email, role, token_hash, invited_by)
    values (org, item.email, item.role, private.token_hash(token), inviter)
    on conflict (organization_id, lower(email)) where accepted_at is null do nothing returning * into made;
    if not found then
      skipped := skipped || jsonb_build_object('email', item.email, 'reason', 'INVITED');
      continue;
    end if;
    perform private.mail_invitation(made, token, 'organization.member.invited');
    created := created || jsonb_build_object(
      'id', made.id, 'email', made.email, 'role', made.role, 'expires_at', made.expires_at
    );
  end loop;
  seats := private.plan_limit(org, 'members');
  select (select count(*) from public.organization_members m where m.organization_id = org)
    + (select count(*) from public.organization_invitations i
      where i.organization_id = org and i.accepted_at is null and i.expires_at > now()) into taken;
  if jsonb_array_length(created) > 0 and taken > seats then
    raise exception 'The organization has no seat left' using
      errcode = 'PT402', detail = format('Its plan allows %s members, and %s are used, with open invitations; this would be %s more. They do not renew.',
        seats, taken - jsonb_array_length(created), jsonb_array_length(created)),
      hint = 'Choose a larger plan, remove members or revoke invitations.';
  end if;
  return jsonb_build_object('invited', created, 'skipped', skipped);
end $$;
comment on function private.do_invite_members(jsonb, uuid, uuid) is 'Does the work of invite_members().';

create function private.invite_members(wish jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  return private.do_invite_members(wish, private.require_org('ADMIN'), (select auth.uid()));
end $$;
comment on function private.invite_members(jsonb) is
  'Invites {invitations: [{email, role}]} by e-mail, all or none; members and invited addresses are skipped.';

create function private.invitation_to_change(id uuid) returns public.organization_invitations
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN');
  found_one public.organization_invitations;
begin
  select i.* into found_one from public.organization_invitations i
  where i.organization_id = org and i.id = invitation_to_change.id and i.accepted_at is null for update;
  if not found then
    raise exception 'There is no such open invitation' using
      errcode = 'PT404', detail = format('Found no open invitation %s in this organization.', coalesce(invitation_to_change.id::text, 'null'));
  elsif private.current_user_org(found_one.role) is null then
    raise exception 'You cannot invite to a role above your own' using errcode = '42501', hint = 'Ask an owner.';
  end if;
  return found_one;
end $$;
comment on function private.invitation_to_change(uuid) is 'An open invitation of the current organization, locked, for an ADMIN.';

create function private.resend_invitation(id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  invitation public.organization_invitations := private.invitation_to_change(id);
  token constant text := private.new_token();
begin
  perform private.check_invitation_mails(invitation.organization_id, 1);
  if exists (
    select from private.emails e
    where e.organization_id = invitation.organization_id and e.created_at > now() - interval '1 minute'
      and e.content ->> 'invitation_id' = invitation.id::text
  ) then
    raise exception 'This invitation was mailed a moment ago' using errcode = 'PT429', constraint = 'retry-after 60', hint = 'Wait a minute.';
  end if;
  update public.organization_invitations i
  set token_hash = private.token_hash(token), reminder_token_hash = null, reminded_at = null, invited_by = (select auth.uid()),
    created_at = now(), expires_at = now() + interval '7 days'
  where i.id = invitation.id returning i.* into invitation;
  perform private.mail_invitation(invitation, token, 'organization.member.invited');
  return jsonb_build_object('id', invitation.id, 'email', invitation.email, 'role', invitation.role, 'expires_at', invitation.expires_at);
end $$;
comment on function private.resend_invitation(uuid) is 'See public.resend_invitation().';

create function public.resend_invitation(id uuid) returns jsonb
language sql set search_path = '' as 'select private.resend_invitation(id)';
comment on function public.resend_invitation(uuid) is
  'Mails an open or expired invitation again, with a new link that is valid for seven days; older links end. By an ADMIN.';

create function private.revoke_invitation(id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
  invitation public.organization_invitations := private.invitation_to_change(id);
begin
  delete from public.organization_invitations i where i.id = invitation.id;
end $$;
comment on function private.revoke_invitation(uuid) is 'See public.revoke_invitation().';

create function public.revoke_invitation(id uuid) returns void
language sql set search_path = '' as 'select private.revoke_invitation(id)';
comment on function public.revoke_invitation(uuid) is 'Withdraws an invitation: its link ends, and an e-mail that waits is not sent. By an ADMIN.';

create function private.cancel_invitation_mails() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update private.emails e set status = 'CANCELLED', error = 'The invitation was withdrawn.'
  where e.organization_id = old.organization_id and e.status = 'QUEUED' and e.content ->> 'invitation_id' = old.id::text;
  return null;
end $$;
comment on function private.cancel_invitation_mails() is 'An invitation that is withdrawn is not mailed any more.';
create trigger cancel_mails after delete on public.organization_invitations
  for each row when (old.accepted_at is null) execute function private.cancel_invitation_mails();

create function private.preview_invitation(wish jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  invitation public.organization_invitations;
  hash constant text := private.token_hash(wish ->> 'token');
begin
  select i.* into invitation from public.organization_invitations i
  where i.token_hash = hash or i.reminder_token_hash = hash;
  if not found then
    raise exception 'There is no such invitation' using errcode = 'PT404', hint = 'Use the whole link of the newest e-mail.';
  elsif invitation.accepted_at is not null then
    raise exception 'This invitation was used already' using errcode = 'PT409', hint = 'Sign in.';
  elsif invitation.expires_at <= now() then
    raise exception 'This invitation has expired' using errcode = 'PT410', hint = 'Ask for a new one.';
  end if;
  return (
    select jsonb_build_object('organization', o.name, 'logo_url', o.logo_url, 'role', invitation.role, 'email', invitation.email,
      'inviter', u.name, 'expires_at', invitation.expires_at,
      'has_account', exists (select from public.users a where lower(a.email) = lower(invitation.email)))
    from public.organizations o left join public.users u on u.id = invitation.invited_by
    where o.id = invitation.organization_id
  );
end $$;
comment on function private.preview_invitation(jsonb) is 'The organization and inviter of an invitation, for the holder of its {token}.';

create function private.remind_invited(moment timestamptz default now()) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  invitation public.organization_invitations;
  token text;
  reminded bigint := 0;
begin
  for invitation in
    select i.* from public.organization_invitations i
    where i.accepted_at is null and i.reminded_at is null and i.expires_at > moment and i.expires_at <= moment + interval '1 day'
      and i.created_at <= moment - interval '2 days'
    order by i.expires_at limit 500 for update skip locked
  loop
    token := private.new_token();
    update public.organization_invitations i set reminder_token_hash = private.token_hash(token), reminded_at = moment
    where i.id = invitation.id;
    perform private.mail_invitation(invitation, token, 'organization.invitation.expiring');
    reminded := reminded + 1;
  end loop;
  return reminded;
end $$;
comment on function private.remind_invited(timestamptz) is
  'Reminds people, once, of an invitation that expires within a day; the link in the first e-mail stays valid.';

grant execute on function private.invite_members(jsonb), private.do_invite_members(jsonb, uuid, uuid), private.preview_invitation(jsonb)
  to strive_functions;
grant execute on function private.remind_invited(timestamptz) to service_role;
grant execute on function private.invitation_to_change(uuid), private.resend_invitation(uuid), public.resend_invitation(uuid),
  private.revoke_invitation(uuid), public.revoke_invitation(uuid)
  to authenticated, service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('remind_invited', '13 * * * *', 'private.remind_invited', 'Remind people of invitations that expire within a day.');
