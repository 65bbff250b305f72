-- E-mails: how the outbox is sent. The job send_emails claims due rows, hands each to the SMTP server and settles it. The row's id
-- is its Message-ID, and handed_over_at is committed before the server gets the end of the message: an e-mail whose sender
-- died before that is sent again, one whose sender died after it is UNCERTAIN and is not. No e-mail is sent twice.

create type private."SuppressionReason" as enum ('BOUNCED', 'COMPLAINED', 'UNSUBSCRIBED');
comment on type private."SuppressionReason" is 'UNSUBSCRIBED: from mails to people without an account, such as invitations.';

create table private.email_suppressions (
  address text primary key constraint "address is in lower case" check (address = lower(address) and length(address) <= 320),
  reason private."SuppressionReason" not null,
  detail text,
  created_at timestamptz not null default now()
);
comment on table private.email_suppressions is 'Addresses that are not mailed any more.';
comment on column private.email_suppressions.address is 'The address.';
comment on column private.email_suppressions.reason is 'Why.';
comment on column private.email_suppressions.detail is 'What the server or the provider answered.';

-- Unsubscribing -------------------------------------------------------------------------------------------------------
-- A token says whom and from what, and is good for nothing else: the purpose is part of what is signed. It doesn't expire,
-- since the link in an old mail must work.

create table private.unsubscribe_key (
  id boolean primary key default true constraint "there is one key" check (id),
  key bytea not null default extensions.gen_random_bytes(32)
);
comment on table private.unsubscribe_key is 'What tokens of unsubscribe links are signed with.';
comment on column private.unsubscribe_key.key is 'The key; replacing it makes all links invalid.';
insert into private.unsubscribe_key default values;

create function private.url_base64(bytes bytea) returns text language sql immutable set search_path = '' as $$
  select translate(encode(bytes, 'base64'), E'+/=\n', '-_')
$$;
comment on function private.url_base64(bytea) is 'base64url without padding.';

create function private.signed_token(purpose text, payload text) returns text
language sql stable security definer set search_path = '' as $$
  select private.url_base64(convert_to(payload, 'UTF8')) || '.'
    || private.url_base64(extensions.hmac(convert_to(purpose || ':' || payload, 'UTF8'), k.key, 'sha256'))
  from private.unsubscribe_key k
$$;
comment on function private.signed_token(text, text) is 'A token for a link that is good for one purpose.';

create function private.token_payload(purpose text, token text) returns text
language plpgsql stable security definer set search_path = '' as $$
declare
  encoded constant text := split_part(token, '.', 1);
  payload text;
begin
  payload := convert_from(decode(translate(encoded, '-_', '+/') || repeat('=', -length(encoded) & 3), 'base64'), 'UTF8');
  return case when private.signed_token(purpose, payload) = token then payload end;
exception when others then
  return null;
end $$;
comment on function private.token_payload(text, text) is 'What a token says, or null if it was not signed here for this purpose.';

create function private.unsubscribe_token(recipient text, kind text) returns text
language sql stable set search_path = '' as $$
  select private.signed_token('unsubscribe', recipient || ' ' || kind)
$$;
comment on function private.unsubscribe_token(text, text) is
  'A token that unsubscribes a user (id) or an address from a kind of event.';

create function private.unsubscribe(wish jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  signed constant text := private.token_payload('unsubscribe', wish ->> 'token');
  recipient constant text := split_part(signed, ' ', 1);
  from_kind constant text := split_part(signed, ' ', 2);
begin
  if signed is null then
    raise exception 'This link is not valid' using
      errcode = 'PT404', hint = 'Use the link of the newest e-mail, or change the settings of your notifications.';
  end if;
  if recipient like '%@%' then
    insert into private.email_suppressions (address, reason) values (recipient, 'UNSUBSCRIBED') on conflict do nothing;
  elsif exists (select from public.users u where u.id = recipient::uuid and u.deleted_at is null) then
    insert into private.notification_preferences as p (user_id, kind, email) values (recipient::uuid, from_kind, 'OFF')
    on conflict on constraint notification_preferences_pkey do update set email = 'OFF';
  end if;
  return jsonb_build_object('kind', from_kind, 'description', (
    select k.description from private.event_kinds k where k.kind = from_kind
  ));
end $$;
comment on function private.unsubscribe(jsonb) is 'Switches off the e-mails that {token} names; PT404 for any token that was not signed here.';

-- Bounces -------------------------------------------------------------------------------------------------------------

create function private.suppress_addresses(report jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  stopped bigint;
begin
  insert into private.email_suppressions as s (address, reason, detail)
  select distinct lower(trim(a)), (report ->> 'reason')::private."SuppressionReason", left(report ->> 'detail', 500)
  from jsonb_array_elements_text(report -> 'addresses') a
  where length(trim(a)) between 3 and 320
  on conflict (address) do update set reason = excluded.reason, detail = excluded.detail, created_at = now()
  where s.reason = 'UNSUBSCRIBED';
  get diagnostics stopped = row_count;
  return jsonb_build_object('suppressed', stopped);
end $$;
comment on function private.suppress_addresses(jsonb) is 'Stops mailing {addresses} because of {reason}; safe to repeat.';

-- Sending -------------------------------------------------------------------------------------------------------------

create function private.claim_emails(most integer, lease interval, moment timestamptz default now()) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  claimed jsonb;
begin
  -- The processes of these have died, or may not go on any more.
  update private.emails e
  set status = case when e.handed_over_at is null then 'QUEUED' else 'UNCERTAIN' end::public."EmailStatus",
    error = case when e.handed_over_at is null then e.error else 'The sender died while the server accepted it.' end
  where e.status = 'SENDING' and e.next_attempt_at <= moment;
  with due as (
    select e.id, e.user_id, e.organization_id, e.kind, e.created_at from private.emails e
    where e.status = 'QUEUED' and e.next_attempt_at <= moment
    order by e.next_attempt_at, e.id limit most for update skip locked
  ), decided as (
    -- What counts is what holds now: preferences, membership and address may have changed since the event.
    select d.id, coalesce(u.email, e.address) as address, u.name, k.is_mandatory, o.name as organization, o.logo_url,
      case
        when d.user_id is not null and (u.id is null or u.deleted_at is not null) then 'The account is deleted.'
        when s.address is not null then 'The address is not mailed any more: ' || lower(s.reason::text) || '.'
        when d.user_id is not null and not k.is_mandatory and private.blocked_until(u) > moment then 'The account is suspended.'
        when k.needs_membership and d.organization_id is not null and d.user_id is not null and m.user_id is null
          then 'The recipient left the organization.'
        when d.user_id is not null and not k.is_mandatory and coalesce(p.email, n.email, k.email) = 'OFF'
          then 'The recipient switched it off.'
        when d.kind = 'platform.alert.raised' and not exists (
          select from public.system_alerts a
          where a.id = (e.content ->> 'alert_id')::uuid and a.is_active and not a.is_archived and (a.ends_at > moment) is not false
        ) then 'The alert is over.'
      end as refusal,
      d.user_id is not null and not k.is_mandatory and coalesce(p.email, n.email, k.email) = 'DIGEST' as is_held
    from due d
    join private.emails e on e.id = d.id
    join private.event_kinds k on k.kind = d.kind
    left join public.users u on u.id = d.user_id
    left join public.organizations o on o.id = d.organization_id
    left join public.organization_members m on m.user_id = d.user_id and m.organization_id = d.organization_id
    left join private.notification_preferences p on p.user_id = d.user_id and p.kind = d.kind
    left join private.notification_defaults n on n.organization_id = d.organization_id and n.kind = d.kind
    left join private.email_suppressions s on s.address = lower(coalesce(u.email, e.address))
      and (s.reason <> 'UNSUBSCRIBED' or d.user_id is null)
  ), changed as (
    update private.emails e
    set status = case when x.refusal is not null then 'CANCELLED' when x.is_held then 'HELD' else 'SENDING' end::public."EmailStatus",
      error = coalesce(x.refusal, e.error),
      attempts = e.attempts + case when x.refusal is null and not x.is_held then 1 else 0 end,
      next_attempt_at = moment + lease, handed_over_at = null,
      address = coalesce(e.address, case when x.refusal is null and not x.is_held then x.address end)
    from decided x where x.id = e.id
    returning e.*, x.address as to_address, x.name, x.is_mandatory, x.organization, x.logo_url
  )
  select case when exists (select from due) then coalesce(jsonb_agg(jsonb_build_object(
    'id', c.id, 'attempt', c.attempts, 'to', c.to_address,
    'name', case when c.user_id is not null then coalesce(c.name, '') end, 'kind', c.kind, 'subject', c.subject,
    'content', c.content, 'organization', c.organization, 'logo_url', c.logo_url, 'created_at', c.created_at,
    'unsubscribe', case when c.user_id is null then private.unsubscribe_token(lower(c.to_address), c.kind)
      when not c.is_mandatory then private.unsubscribe_token(c.user_id::text, c.kind) end
  ) order by c.created_at, c.id), '[]') end into claimed
  from changed c where c.status = 'SENDING';
  return claimed;
end $$;
comment on function private.claim_emails(integer, interval, timestamptz) is
  'Claims due e-mails for one sender until the lease ends; rows that other senders hold are skipped. What may not be sent any '
  'more is CANCELLED or HELD. Null: none is due.';

create function private.hand_over_email(id uuid, attempt integer) returns boolean
language plpgsql security definer set search_path = '' as $$
begin
  update private.emails e set handed_over_at = clock_timestamp()
  where e.id = hand_over_email.id and e.attempts = attempt and e.status = 'SENDING' and e.handed_over_at is null
    and e.next_attempt_at > clock_timestamp();
  return found;
end $$;
comment on function private.hand_over_email(uuid, integer) is
  'Notes that the server gets the end of the message now; false if the claim has ended, and then it must not.';

create function private.settle_email(id uuid, attempt integer, outcome text, error text, bounced boolean default false) returns void
language plpgsql security definer set search_path = '' as $$
declare
  settled private.emails;
begin
  update private.emails e
  set status = case
      when outcome not in ('RETRY', 'RELEASE') then outcome
      when e.created_at < clock_timestamp() - interval '1 day' then 'FAILED'
      else 'QUEUED'
    end::public."EmailStatus",
    sent_at = case outcome when 'SENT' then clock_timestamp() end,
    handed_over_at = case when outcome in ('RETRY', 'RELEASE') then null else e.handed_over_at end,
    error = case outcome when 'SENT' then null else left(settle_email.error, 500) end,
    -- 30 seconds, doubled with each attempt, at most an hour; released ones, which no server refused, 30 seconds.
    next_attempt_at = clock_timestamp() + case outcome when 'RELEASE' then interval '30 seconds'
      else least(interval '1 hour', interval '30 seconds' * 2 ^ least(e.attempts - 1, 10)) end,
    -- A link with a token is kept no longer than it is needed.
    content = case outcome when 'SENT' then e.content - 'secret_path' - 'reply_token' else e.content end
  where e.id = settle_email.id and e.attempts = attempt and e.status = 'SENDING'
  returning e.* into settled;
  if bounced and found then
    perform private.suppress_addresses(jsonb_build_object(
      'addresses', jsonb_build_array(settled.address), 'reason', 'BOUNCED', 'detail', settled.error
    ));
  end if;
end $$;
comment on function private.settle_email(uuid, integer, text, text, boolean) is
  'Stores the result of an attempt: SENT, FAILED, UNCERTAIN, RETRY or RELEASE. A day after the event the last two become FAILED. bounced: the '
  'server knows no such recipient.';

-- Problems ------------------------------------------------------------------------------------------------------------

create function private.alert_email_problems() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  problems bigint;
begin
  select count(*) into problems from private.emails e
  where e.status in ('UNCERTAIN', 'FAILED') and e.created_at > now() - interval '7 days';
  if problems > 0 and not exists (
    select from public.system_alerts a where a.title = 'E-mails could not be delivered' and a.created_by is null and a.is_active
  ) then
    insert into public.system_alerts (title, message, level, category, target_roles, created_by)
    values ('E-mails could not be delivered', 'email_problems() lists them; requeue_emails() sends them again.', 'WARNING',
      'SYSTEM', '{ADMIN,SUPER_ADMIN}', null);
  elsif problems = 0 then
    update public.system_alerts a set is_active = false
    where a.title = 'E-mails could not be delivered' and a.created_by is null and a.is_active;
  end if;
  return problems;
end $$;
comment on function private.alert_email_problems() is
  'Alerts platform admins, once, while e-mails of the last 7 days failed or are uncertain. Returns how many.';

create function private.email_problems() returns table (
  id uuid, organization_id uuid, address text, kind text, subject text, status "EmailStatus", attempts integer,
  error text, created_at timestamptz
) language plpgsql stable security definer set search_path = '' as $$
begin
  perform private.require_operator();
  return query
    select e.id, e.organization_id, e.address, e.kind, e.subject, e.status, e.attempts, e.error, e.created_at
    from private.emails e where e.status in ('UNCERTAIN', 'FAILED') order by e.created_at desc, e.id;
end $$;
comment on function private.email_problems() is 'See public.email_problems().';

create function public.email_problems() returns table (
  id uuid, organization_id uuid, address text, kind text, subject text, status "EmailStatus", attempts integer,
  error text, created_at timestamptz
) language sql stable set search_path = '' as 'select * from private.email_problems()';
comment on function public.email_problems() is
  'For platform admins: e-mails that failed, and those of which it is unknown whether the server accepted them. Filter and page it '
  'like a table.';

create function private.requeue_emails(ids uuid[]) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  requeued bigint;
begin
  perform private.require_operator();
  -- The day in which it is tried begins again.
  update private.emails e set status = 'QUEUED', next_attempt_at = now(), created_at = now(), handed_over_at = null
  where e.id = any (ids) and e.status in ('UNCERTAIN', 'FAILED');
  get diagnostics requeued = row_count;
  return requeued;
end $$;
comment on function private.requeue_emails(uuid[]) is 'See public.requeue_emails().';

create function public.requeue_emails(ids uuid[]) returns bigint
language sql set search_path = '' as 'select private.requeue_emails(ids)';
comment on function public.requeue_emails(uuid[]) is
  'For platform admins: sends these e-mails of email_problems() again. One that was UNCERTAIN may arrive twice.';

-- The digest ----------------------------------------------------------------------------------------------------------

create function private.send_digests(moment timestamptz default now()) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  sent bigint;
begin
  with due as (
    select distinct e.user_id
    from private.emails e join public.users u on u.id = e.user_id
    where e.status = 'HELD' and e.created_at < private.newest_local('day', '6:30', moment, u.time_zone)
  ), held as (
    delete from private.emails e using due d where e.status = 'HELD' and e.user_id = d.user_id returning e.*
  ), digest as (
    select h.user_id, h.organization_id, count(*) as events,
      (array_agg(jsonb_build_object('title', h.subject, 'message', h.content -> 'message', 'path', h.content -> 'path')
        order by h.created_at desc, h.id))[:50] as items
    from held h
    left join private.notification_preferences p on p.user_id = h.user_id and p.kind = 'account.digest.sent'
    where p.email is distinct from 'OFF' and private.email_delivery(h.user_id, h.organization_id, h.kind) <> 'OFF'
    group by h.user_id, h.organization_id
  )
  insert into private.emails (organization_id, user_id, kind, subject, content)
  select d.organization_id, d.user_id, 'account.digest.sent',
    case d.events when 1 then d.items[1] ->> 'title' else format('%s things happened', d.events) end,
    jsonb_build_object('message', case when d.events > 50 then format('The newest 50 of %s:', d.events) else 'Since the last digest:' end,
      'path', '/notifications', 'items', to_jsonb(d.items))
  from digest d;
  get diagnostics sent = row_count;
  return sent;
end $$;
comment on function private.send_digests(timestamptz) is
  'Turns what people want to read once a day into one e-mail for each of their organizations, at 6:30 in their time zone.';

create function private.forget_emails() returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  gone bigint;
begin
  delete from private.emails e
  where e.created_at < now() - case when e.status in ('SENT', 'CANCELLED') then interval '30 days' else interval '90 days' end;
  get diagnostics gone = row_count;
  delete from private.published_events p where p.created_at < now() - interval '400 days';
  return gone;
end $$;
comment on function private.forget_emails() is
  'Deletes sent e-mails after 30 days, all others after 90, and keys of published events after 400.';

grant execute on function private.claim_emails(integer, interval, timestamptz), private.hand_over_email(uuid, integer),
  private.settle_email(uuid, integer, text, text, boolean), private.alert_email_problems(), private.unsubscribe(jsonb),
  private.suppress_addresses(jsonb)
  to strive_functions;
grant execute on function private.send_digests(timestamptz), private.forget_emails() to service_role;
grant execute on function private.email_problems(), public.email_problems(), private.requeue_emails(uuid[]),
  public.requeue_emails(uuid[])
  to authenticated, service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('send_emails', '* * * * *', null, 'Send due e-mails.'),
  ('send_digests', '*/15 * * * *', 'private.send_digests', 'Collect the events of a day into one e-mail for each person.'),
  ('forget_emails', '37 3 * * *', 'private.forget_emails', 'Delete old e-mails from the outbox.');
