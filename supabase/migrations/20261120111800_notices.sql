-- Notices: who is notified of an event, in the app and by e-mail. An event becomes rows of `notifications` and of the e-mail
-- outbox in the transaction of what happened, by the preferences of each recipient.

-- Preferences ---------------------------------------------------------------------------------------------------------

create table private.notification_preferences (
  user_id uuid not null references public.users (id) on delete cascade,
  kind text not null references private.event_kinds (kind) on delete cascade,
  in_app boolean,
  email "EmailDelivery",
  primary key (user_id, kind)
);
comment on table private.notification_preferences is 'What a person chose for a kind of event, in all organizations.';
comment on column private.notification_preferences.user_id is 'The person.';
comment on column private.notification_preferences.kind is 'The kind of event.';
comment on column private.notification_preferences.in_app is 'Whether it is shown in the app; null: as the organization chose.';
comment on column private.notification_preferences.email is 'Whether it is mailed; null: as the organization chose.';
create index notification_preferences_kind_idx on private.notification_preferences (kind);

create table private.notification_defaults (
  organization_id uuid not null references public.organizations (id) on delete cascade,
  kind text not null references private.event_kinds (kind) on delete cascade,
  in_app boolean,
  email "EmailDelivery",
  primary key (organization_id, kind)
);
comment on table private.notification_defaults is 'What an organization chose for members who chose nothing.';
comment on column private.notification_defaults.organization_id is 'The organization.';
comment on column private.notification_defaults.kind is 'The kind of event.';
comment on column private.notification_defaults.in_app is 'Whether it is shown in the app; null: as the catalog has it.';
comment on column private.notification_defaults.email is 'Whether it is mailed; null: as the catalog has it.';
create index notification_defaults_kind_idx on private.notification_defaults (kind);

create function private.email_delivery(who uuid, org uuid, kind text) returns "EmailDelivery"
language sql stable security definer set search_path = '' as $$
  select case when k.is_mandatory then k.email else coalesce(p.email, d.email, k.email) end
  from private.event_kinds k
  left join private.notification_preferences p on p.user_id = who and p.kind = k.kind
  left join private.notification_defaults d on d.organization_id = org and d.kind = k.kind
  where k.kind = email_delivery.kind
$$;
comment on function private.email_delivery(uuid, uuid, text) is 'How a person receives a kind of event by e-mail now.';

-- The outbox ----------------------------------------------------------------------------------------------------------

create type "EmailStatus" as enum ('QUEUED', 'HELD', 'SENDING', 'SENT', 'UNCERTAIN', 'FAILED', 'CANCELLED');
comment on type "EmailStatus" is
  'HELD: waits for the digest. UNCERTAIN: the process died while the server accepted it, so it is not sent again. FAILED: refused, '
  'or not accepted within a day. CANCELLED: the recipient left, switched it off, or the address is not mailed any more.';

create table private.emails (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid references public.organizations (id) on delete cascade,
  user_id uuid references public.users (id) on delete cascade,
  address text constraint "address is at most 320 characters" check (length(address) <= 320),
  kind text not null,
  subject text not null constraint "subject is 1 to 200 characters" check (length(subject) between 1 and 200),
  content jsonb not null,
  status "EmailStatus" not null default 'QUEUED',
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default now(),
  handed_over_at timestamptz,
  sent_at timestamptz,
  error text,
  created_at timestamptz not null default now(),
  constraint "an e-mail has a user or an address" check (num_nonnulls(user_id, address) >= 1)
);
comment on table private.emails is
  'The outbox: e-mails written in the transaction of what they are about, sent by the job send_emails. The id is part of the Message-ID.';
comment on column private.emails.organization_id is 'The organization it is about; null: the platform.';
comment on column private.emails.user_id is 'The recipient; mailed at the address they have when it is sent.';
comment on column private.emails.address is 'The address of a recipient without an account; of others, the address it was sent to.';
comment on column private.emails.kind is 'The kind of event.';
comment on column private.emails.subject is 'Subject of the e-mail.';
comment on column private.emails.content is 'What the template shows: message, path, and more by kind.';
comment on column private.emails.attempts is 'How often it was claimed; a sender whose number is older may not go on.';
comment on column private.emails.next_attempt_at is 'QUEUED: when it is due. SENDING: when its sender is considered dead.';
comment on column private.emails.handed_over_at is 'Set just before the end of the message is sent to the server.';
comment on column private.emails.sent_at is 'When the server accepted it.';
comment on column private.emails.error is 'The last error, without the content.';
create index emails_due_idx on private.emails (next_attempt_at) where status in ('QUEUED', 'SENDING');
create index emails_held_idx on private.emails (user_id, organization_id, created_at) where status = 'HELD';
create index emails_problem_idx on private.emails (created_at desc) where status in ('UNCERTAIN', 'FAILED');
create index emails_appointment_idx on private.emails ((content ->> 'appointment_id'))
  where status in ('QUEUED', 'HELD') and content ? 'appointment_id';
create index emails_created_at_idx on private.emails (created_at);
create index emails_organization_idx on private.emails (organization_id);
create index emails_user_idx on private.emails (user_id);

-- Publishing ----------------------------------------------------------------------------------------------------------
-- One statement for all recipients of all events; those for keys and webhooks, which most events lack, run only where there
-- are any. With a dedupe_key an event is published once: a concurrent publisher
-- waits for the first one's transaction, and publishes nothing if that committed.

create function private.unknown_kind(kind text) returns text language plpgsql set search_path = '' as $$
begin
  raise exception 'The catalog has no event %', coalesce(quote_literal(kind), 'null');
end $$;
comment on function private.unknown_kind(text) is 'Refuses an event that is not in private.event_kinds.';

create function private.local_time(moment timestamptz, zone text, locale text) returns text
language plpgsql stable set search_path = '' as $$
declare
  form constant text := case when locale ~ '-(US|CA|AU|NZ|IN|PH)$' then 'FMHH12:MI AM' else 'HH24:MI' end;
begin
  return to_char(
    moment at time zone zone, case when locale ~ '-(US|PH)$' then 'Dy, Mon FMDD, YYYY, ' else 'Dy, FMDD Mon YYYY, ' end || form
  ) || format(' (%s)', zone);
exception when invalid_parameter_value then
  return private.local_time(moment, 'UTC', locale); -- a zone of another server's list
end $$;
comment on function private.local_time(timestamptz, text, text) is 'A time for a person, in their time zone.';

create function private.newest_local(unit text, hour interval, moment timestamptz, zone text) returns timestamptz
language sql stable set search_path = '' as $$
  select (date_trunc(unit, (moment at time zone zone) - hour) + hour) at time zone zone
$$;
comment on function private.newest_local(text, interval, timestamptz, text) is
  'When it was last this hour of a day, or of the Monday of a week, in a time zone; what is sent at such an hour is due since then.';

create function private.publish_events(events private.event[]) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  actor constant uuid := auth.uid();
  notified bigint;
begin
  if exists (select from unnest(events) e where e.dedupe_key is not null) then
    with new_key as (
      insert into private.published_events (kind, dedupe_key, organization_id)
      select e.kind, e.dedupe_key, e.organization_id from unnest(events) e where e.dedupe_key is not null
      on conflict do nothing returning kind, dedupe_key
    )
    select array_agg(e) into events from unnest(events) e
    where e.dedupe_key is null or (e.kind, e.dedupe_key) in (select n.kind, n.dedupe_key from new_key n);
  end if;
  if exists (
    select from public.webhook_endpoints w
    where w.organization_id = any (array(select e.organization_id from unnest(events) e)) and w.is_active
  ) then
    -- One in twenty events has up to 20 deliveries for each one counted.
    if random() < cardinality(events) / 20.0 then
      perform private.bound_growth('webhook_deliveries', events[1].organization_id, (
        select count(*) from unnest(events) e
        join private.event_kinds k on k.kind = e.kind and k.is_webhook
        join public.webhook_endpoints w on w.organization_id = e.organization_id and w.is_active
          and (w.kinds is null or e.kind = any (w.kinds))
      ));
    end if;
    insert into public.webhook_deliveries (organization_id, endpoint_id, kind, subject_type, subject_id, payload)
    select e.organization_id, w.id, e.kind, e.subject_type, e.subject_id, p.payload
    from unnest(events) with ordinality e
    join private.event_kinds k on k.kind = e.kind and k.is_webhook
    cross join lateral (
      select private.webhook_payload(e.kind, e.organization_id, e.subject_type, e.subject_id, e.data) as payload offset 0
    ) p
    join public.webhook_endpoints w on w.organization_id = e.organization_id and w.is_active
      and (w.kinds is null or e.kind = any (w.kinds))
    order by e.ordinality;
  end if;
  with reached as (
    select distinct on (e.ordinality, u.id) coalesce(k.kind, private.unknown_kind(e.kind)) as kind, e.organization_id, u.id as user_id,
      left(e.title, 100) as title, left(case when e.data ? 'at'
        then replace(e.message, '{at}', private.local_time((e.data ->> 'at')::timestamptz, u.time_zone, u.locale)) else e.message end,
        500) as message, e.subject_type, e.subject_id,
      coalesce(e.data, '{}') as data, coalesce(e.type, k.type, 'INFO') as type,
      coalesce(e.path, replace(k.path, '{id}', e.subject_id::text)) as path,
      m.user_id is not null and case when k.is_mandatory then k.in_app else coalesce(p.in_app, d.in_app, k.in_app, true) end
        as in_app,
      case when k.is_mandatory then k.email else coalesce(p.email, d.email, k.email) end as email
    from unnest(events) with ordinality e
    left join private.event_kinds k on k.kind = e.kind
    join lateral unnest(e.recipients) r (user_id) on r.user_id is distinct from actor or k.reaches_actor
    join public.users u on u.id = r.user_id and u.deleted_at is null
    left join public.organization_members m on m.user_id = u.id and m.organization_id = e.organization_id
    left join private.notification_preferences p on p.user_id = u.id and p.kind = e.kind
    left join private.notification_defaults d on d.organization_id = e.organization_id and d.kind = e.kind
    where m.user_id is not null or k.needs_membership is not true
  ), mailed as (
    insert into private.emails (organization_id, user_id, kind, subject, content, status)
    select r.organization_id, r.user_id, r.kind, r.title,
      r.data || jsonb_build_object('message', r.message, 'path', r.path, 'type', r.type),
      case r.email when 'NOW' then 'QUEUED' else 'HELD' end::public."EmailStatus"
    from reached r where r.email <> 'OFF'
  ), shown as (
    insert into public.notifications
      (organization_id, user_id, kind, type, title, message, action_url, entity_type, entity_id)
    select r.organization_id, r.user_id, r.kind, r.type, r.title, r.message, r.path, r.subject_type, r.subject_id
    from reached r where r.in_app
  )
  select count(*) into notified from reached r where r.in_app or r.email <> 'OFF';
  return notified;
end $$;
comment on function private.publish_events(private.event[]) is
  'Publishes events: notifications and e-mails for their recipients, by preference; people are not notified of what they did '
  'themselves. {at} in a message is the time `at` of data, in the time zone of each recipient. Returns how many people were notified.';

create function private.publish_event(
  kind text, organization_id uuid, subject_type text, subject_id uuid, title text, message text, recipients uuid[],
  data jsonb default null, dedupe_key text default null, type "NotificationType" default null, path text default null
) returns bigint language sql set search_path = '' as $$
  select private.publish_events(array[
    (kind, organization_id, subject_type, subject_id, title, message, recipients, data, dedupe_key, type, path)::private.event
  ])
$$;
comment on function private.publish_event(text, uuid, text, uuid, text, text, uuid[], jsonb, text, "NotificationType", text) is
  'Publishes one event; with a dedupe_key at most once, whatever is retried.';

create function private.members_at_least(org uuid, minimum_role "OrgRole") returns uuid[]
language plpgsql stable security definer set search_path = '' as $$
begin
  return array(
    select m.user_id from public.organization_members m where m.organization_id = org and m.role <= minimum_role
  );
end $$;
comment on function private.members_at_least(uuid, "OrgRole") is 'The members of an organization with at least this role.';

create function private.notify_members(
  organization_id uuid, type "NotificationType", title text, message text, recipients uuid[], action_url text,
  entity_type text, entity_id uuid
) returns bigint language sql security definer set search_path = '' as $$
  select private.publish_event(
    'organization.message.sent', organization_id, entity_type, entity_id, title, message,
    coalesce(recipients, private.members_at_least(organization_id, 'VIEWER')), null, null, type, action_url
  )
$$;
comment on function private.notify_members(uuid, "NotificationType", text, text, uuid[], text, text, uuid) is
  'See public.notify_members().';

create function public.notify_members(
  organization_id uuid, type "NotificationType", title text, message text, recipients uuid[] default null,
  action_url text default null, entity_type text default null, entity_id uuid default null
) returns bigint language sql set search_path = '' as $$
  select private.notify_members(
    organization_id, type, title, message, recipients, action_url, entity_type, entity_id
  )
$$;
comment on function public.notify_members(uuid, "NotificationType", text, text, uuid[], text, text, uuid) is
  'For the server: notifies these members of an organization, or all of them at once; returns how many.';
grant execute on function private.notify_members(uuid, "NotificationType", text, text, uuid[], text, text, uuid),
  public.notify_members(uuid, "NotificationType", text, text, uuid[], text, text, uuid)
  to service_role;

-- Settings ------------------------------------------------------------------------------------------------------------

create function private.notification_settings() returns table (
  kind text, description text, type "NotificationType", in_app boolean, email "EmailDelivery", is_mandatory boolean,
  is_own_choice boolean, default_in_app boolean, default_email "EmailDelivery"
) language sql stable security definer set search_path = '' as $$
  select k.kind, k.description, k.type,
    case when k.is_mandatory then k.in_app else coalesce(p.in_app, d.in_app, k.in_app) end,
    case when k.is_mandatory then k.email else coalesce(p.email, d.email, k.email) end,
    k.is_mandatory, not k.is_mandatory and num_nonnulls(p.in_app, p.email) > 0,
    coalesce(d.in_app, k.in_app), coalesce(d.email, k.email)
  from private.event_kinds k
  left join private.notification_preferences p on p.user_id = private.current_user_id() and p.kind = k.kind
  left join private.notification_defaults d on d.organization_id = private.current_user_org() and d.kind = k.kind
  where private.current_user_id() is not null
  order by k.kind
$$;
comment on function private.notification_settings() is 'See public.notification_settings().';

create function public.notification_settings() returns table (
  kind text, description text, type "NotificationType", in_app boolean, email "EmailDelivery", is_mandatory boolean,
  is_own_choice boolean, default_in_app boolean, default_email "EmailDelivery"
) language sql stable set search_path = '' as 'select * from private.notification_settings()';
comment on function public.notification_settings() is
  'Every kind of event: how the caller receives it now, whether they chose so, and the default of the current organization.';

create function private.require_optional_kind(wanted text) returns void
language plpgsql stable security definer set search_path = '' as $$
declare
  found_kind private.event_kinds;
begin
  select k.* into found_kind from private.event_kinds k where k.kind = wanted;
  if not found then
    raise exception 'There is no such kind of event' using
      errcode = 'PT404', detail = format('Found %s.', coalesce(quote_literal(left(wanted, 100)), 'null')),
      hint = 'notification_settings() lists the kinds.';
  elsif found_kind.is_mandatory then
    raise exception 'Notices of this kind cannot be switched off' using
      errcode = 'PT422', detail = format('%s is about security, access or billing.', wanted);
  end if;
end $$;
comment on function private.require_optional_kind(text) is 'PT404 for an unknown kind of event, PT422 for one that is mandatory.';

create function private.set_notification_preference(kind text, in_app boolean, email "EmailDelivery") returns void
language plpgsql security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
begin
  if me is null then
    perform private.refuse_suspended();
    raise exception 'Sign in first' using errcode = '42501';
  end if;
  perform private.require_optional_kind(kind);
  insert into private.notification_preferences as p (user_id, kind, in_app, email)
  values (me, set_notification_preference.kind, set_notification_preference.in_app, set_notification_preference.email)
  on conflict on constraint notification_preferences_pkey do update set
    in_app = excluded.in_app, email = excluded.email;
end $$;
comment on function private.set_notification_preference(text, boolean, "EmailDelivery") is
  'See public.set_notification_preference().';

create function public.set_notification_preference(
  kind text, in_app boolean default null, email "EmailDelivery" default null
) returns void language sql set search_path = '' as 'select private.set_notification_preference(kind, in_app, email)';
comment on function public.set_notification_preference(text, boolean, "EmailDelivery") is
  'How the caller receives a kind of event, in all their organizations; null: as each organization has it.';

create function private.set_notification_default(kind text, in_app boolean, email "EmailDelivery") returns void
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN');
begin
  perform private.require_optional_kind(kind);
  insert into private.notification_defaults as d (organization_id, kind, in_app, email)
  values (org, set_notification_default.kind, set_notification_default.in_app, set_notification_default.email)
  on conflict on constraint notification_defaults_pkey do update set
    in_app = excluded.in_app, email = excluded.email;
end $$;
comment on function private.set_notification_default(text, boolean, "EmailDelivery") is 'See public.set_notification_default().';

create function public.set_notification_default(
  kind text, in_app boolean default null, email "EmailDelivery" default null
) returns void language sql set search_path = '' as 'select private.set_notification_default(kind, in_app, email)';
comment on function public.set_notification_default(text, boolean, "EmailDelivery") is
  'How members of the current organization receive a kind of event unless they chose themselves; by an ADMIN. Null: as the '
  'catalog has it.';

grant execute on function private.notification_settings(), public.notification_settings(),
  private.set_notification_preference(text, boolean, "EmailDelivery"),
  public.set_notification_preference(text, boolean, "EmailDelivery"),
  private.set_notification_default(text, boolean, "EmailDelivery"),
  public.set_notification_default(text, boolean, "EmailDelivery")
  to authenticated, service_role;
