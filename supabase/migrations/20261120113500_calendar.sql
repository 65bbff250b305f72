-- The calendar: reminders of appointments, their attendees, and feeds for calendar programs.

-- Reminders -----------------------------------------------------------------------------------------------------------
-- next_reminder_at says when the next one is due, so that the job reads only what is due. It follows the appointment and
-- the choice of its assignee. A reminder whose time has passed when it is chosen is not sent.

create function private.next_reminder(start_time timestamptz, minutes integer[], after timestamptz) returns timestamptz
language sql immutable set search_path = '' as $$
  select min(at) from unnest(minutes) m, lateral (select start_time - make_interval(mins => m) as at) t where at > after
$$;
comment on function private.next_reminder(timestamptz, integer[], timestamptz) is 'The first of these reminders after a moment.';

create function private.plan_reminders() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  live constant public."AppointmentStatus"[] := '{SCHEDULED,CONFIRMED}';
  minutes integer[] := new.reminder_minutes;
  is_moved constant boolean := tg_op = 'INSERT' or new.start_time <> old.start_time;
begin
  if tg_op = 'UPDATE' and is_moved then
    new.reminders_sent := null;
  end if;
  new.next_reminder_at := null;
  if new.status <> all (live) or new.assigned_to is null or new.start_time <= now() then
    return new;
  end if;
  if minutes is null then
    -- replan_reminders() finds only appointments that have been the person's and live: until another one is committed, the
    -- person's choice does not change. Others are locked here, and it waits for them.
    if tg_op = 'INSERT' or old.assigned_to is distinct from new.assigned_to or old.status <> all (live)
      or old.start_time <= now() or old.reminder_minutes is not null then
      select u.reminder_minutes into minutes from public.users u where u.id = new.assigned_to for share;
    else
      select u.reminder_minutes into minutes from public.users u where u.id = new.assigned_to;
    end if;
  end if;
  -- One that is due but not sent yet stays due.
  new.next_reminder_at := private.next_reminder(
    new.start_time, minutes, case when is_moved then now() else least(old.next_reminder_at - interval '1 microsecond', now()) end
  );
  return new;
end $$;
comment on function private.plan_reminders() is 'Keeps next_reminder_at; a moved appointment is reminded of again.';
create trigger plan_reminders before insert or update of start_time, status, assigned_to, reminder_minutes on public.appointments
  for each row execute function private.plan_reminders();

create function private.replan_reminders() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  -- Waits for changes of these appointments, so that the second statement sees them.
  perform from public.appointments a
  where a.assigned_to = new.id and a.start_time > now() and a.status in ('SCHEDULED', 'CONFIRMED') and a.reminder_minutes is null
  order by a.id for no key update;
  update public.appointments a set next_reminder_at = r.at
  from public.appointments b, lateral (select private.next_reminder(
    b.start_time, new.reminder_minutes, least(b.next_reminder_at - interval '1 microsecond', now())
  ) as at) r
  where a.id = b.id and b.assigned_to = new.id and b.start_time > now() and b.status in ('SCHEDULED', 'CONFIRMED')
    and b.reminder_minutes is null and b.next_reminder_at is distinct from r.at;
  return null;
end $$;
comment on function private.replan_reminders() is 'Applies what a person chose to their appointments to come.';
create trigger replan_reminders after update of reminder_minutes on public.users
  for each row when (new.reminder_minutes is distinct from old.reminder_minutes) execute function private.replan_reminders();

-- The event and what was sent are written in one transaction, under the lock of the appointment: a cancellation either
-- comes first, or withdraws the e-mail.
create function private.send_appointment_reminders(moment timestamptz default now()) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  sent bigint;
begin
  with due as materialized (
    select a.id, a.organization_id, a.assigned_to, a.title, a.start_time, a.location, a.meeting_url, a.next_reminder_at,
      coalesce(a.reminder_minutes, u.reminder_minutes) as minutes,
      a.start_time > moment and o.closed_at is null and (private.blocked_until(u) > moment) is not true as is_wanted
    from public.appointments a
    join public.users u on u.id = a.assigned_to
    join public.organizations o on o.id = a.organization_id
    where a.next_reminder_at <= moment
    order by a.next_reminder_at, a.id limit 5000 for no key update of a skip locked
  ), reached as (
    select d.*, array(
      select m from unnest(d.minutes) m
      where d.is_wanted and d.start_time - make_interval(mins => m) between d.next_reminder_at and moment order by m
    ) as reached
    from due d
  ), noted as (
    update public.appointments a set next_reminder_at = private.next_reminder(r.start_time, r.minutes, moment),
      reminders_sent = case when cardinality(r.reached) = 0 then a.reminders_sent
        else coalesce(a.reminders_sent, '{}') || (select jsonb_object_agg(m, moment) from unnest(r.reached) m) end
    from reached r where a.id = r.id
    returning r.*
  )
  select count(*), private.publish_events(array_agg((
    'work.appointment.reminder', n.organization_id, 'appointment', n.id, 'Reminder: ' || n.title,
    concat('It begins on {at}.', ' Where: ' || left(n.location, 200) || '.', E'\n' || n.meeting_url), array[n.assigned_to],
    jsonb_build_object('at', n.start_time, 'appointment_id', n.id, 'minutes', n.reached[1]), null, null, null
  )::private.event)) into sent
  from noted n where cardinality(n.reached) > 0;
  return sent;
end $$;
comment on function private.send_appointment_reminders(timestamptz) is
  'Reminds the assignees of appointments, each reminder once. If several are due, as after a pause of the job, they are one notice.';
grant execute on function private.send_appointment_reminders(timestamptz) to service_role;

create function private.withdraw_reminders() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update private.emails e set status = 'CANCELLED', error = 'The appointment was cancelled, moved or given to somebody else.'
  where e.kind = 'work.appointment.reminder' and e.status in ('QUEUED', 'HELD') and e.content ? 'appointment_id'
    and e.content ->> 'appointment_id' = old.id::text;
  return null;
end $$;
comment on function private.withdraw_reminders() is 'A reminder of what no longer holds is not mailed.';
create trigger withdraw_reminders after update of start_time, status, assigned_to on public.appointments
  for each row when (old.reminders_sent is not null and (
    old.start_time <> new.start_time or new.status in ('CANCELLED', 'NO_SHOW') or old.assigned_to is distinct from new.assigned_to
  )) execute function private.withdraw_reminders();
create trigger withdraw_reminders_of_deleted after delete on public.appointments
  for each row when (old.reminders_sent is not null) execute function private.withdraw_reminders();

insert into private.jobs (name, schedule, runs, description) values
  ('send_appointment_reminders', '* * * * *', 'private.send_appointment_reminders', 'Remind people of their appointments.');

-- What calendars show -------------------------------------------------------------------------------------------------

create function private.count_revision() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    new.sequence := new.sequence + 2; -- its deletion was announced as the next one
  elsif (new.title, new.description, new.start_time, new.end_time, new.location, new.meeting_url, new.status) is distinct from
    (old.title, old.description, old.start_time, old.end_time, old.location, old.meeting_url, old.status) then
    new.sequence := old.sequence + 1;
  end if;
  return new;
end $$;
comment on function private.count_revision() is 'Counts the revisions of an appointment.';
create trigger count_revision before update on public.appointments for each row execute function private.count_revision();
create trigger count_restored before insert on public.appointments
  for each row when (
    current_setting('strive.history_action', true) = 'restored' and new.end_time > now() and new.status in ('SCHEDULED', 'CONFIRMED')
  ) execute function private.count_revision();

create function private.calendar_item(a public.appointments) returns jsonb
language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'uid', a.id, 'sequence', a.sequence, 'status', a.status, 'title', a.title, 'description', left(a.description, 1000),
    'start', a.start_time, 'end', a.end_time, 'location', left(a.location, 300), 'url', a.meeting_url, 'updated_at', a.updated_at,
    'organizer', (select jsonb_build_object('name', u.name, 'email', u.email) from public.users u where u.id = a.assigned_to)
  )
$$;
comment on function private.calendar_item(public.appointments) is
  'An appointment as calendar programs get it, without the rest of a long description: writing one takes a processor long.';

-- Attendees -----------------------------------------------------------------------------------------------------------

create type "AttendeeReply" as enum ('PENDING', 'ACCEPTED', 'TENTATIVE', 'DECLINED');
comment on type "AttendeeReply" is 'What an attendee answered; PENDING: nothing yet.';

create table public.appointment_attendees (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org() references public.organizations (id) on delete cascade,
  appointment_id uuid not null,
  user_id uuid,
  contact_id uuid,
  email text constraint "email has an @ between two parts, in at most 255 characters"
    check (email ~ '^[^@[:space:]<>,;:"]+@[^@[:space:]<>,;:"]+$' and length(email) <= 255),
  reply "AttendeeReply" not null default 'PENDING',
  replied_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint "an attendee is a member, a contact or an address" check (num_nonnulls(user_id, contact_id, email) = 1),
  constraint "a member attends an appointment once" unique (organization_id, appointment_id, user_id),
  constraint "an address attends an appointment once" unique (organization_id, appointment_id, email),
  foreign key (organization_id, appointment_id) references public.appointments (organization_id, id) on delete cascade,
  foreign key (user_id, organization_id) references public.organization_members (user_id, organization_id) on delete cascade,
  foreign key (organization_id, contact_id) references public.contacts (organization_id, id) on delete cascade,
  constraint "a contact attends an appointment once" unique (organization_id, appointment_id, contact_id)
);
comment on table public.appointment_attendees is
  'Who is invited to an appointment: members, contacts or addresses. Each gets an e-mail when added, and when it is moved or '
  'cancelled.';
comment on column public.appointment_attendees.appointment_id is 'The appointment.';
comment on column public.appointment_attendees.user_id is 'A member of the organization.';
comment on column public.appointment_attendees.contact_id is 'A contact, invited at the address of the contact.';
comment on column public.appointment_attendees.email is 'The address of anybody else, in lower case.';
comment on column public.appointment_attendees.reply is
  'What they answered; members write their own, others answer by the link in the e-mail.';
comment on column public.appointment_attendees.replied_at is 'When they answered.';
create index appointment_attendees_user_idx on public.appointment_attendees (user_id, organization_id);
create index appointment_attendees_contact_idx on public.appointment_attendees (organization_id, contact_id);
create trigger touch before update on public.appointment_attendees for each row execute function private.touch_updated_at();
select private.record_changes('public.appointment_attendees');

-- Attendees of one appointment are counted under its lock.
create function private.guard_attendee() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  person public.contacts;
begin
  new.email := lower(trim(new.email));
  -- The policy refuses a row of another organization; nothing of it is locked or revealed.
  if auth.role() = 'authenticated' and new.organization_id is distinct from private.current_user_org('MEMBER') then
    return new;
  end if;
  perform from public.appointments a
  where a.organization_id = new.organization_id and a.id = new.appointment_id for no key update;
  if (select count(*) from public.appointment_attendees t where t.appointment_id = new.appointment_id) >= 50 then
    raise exception 'An appointment has at most 50 attendees' using errcode = 'PT422', hint = 'Remove others first.';
  end if;
  if new.contact_id is not null then
    select c.* into person from public.contacts c where c.organization_id = new.organization_id and c.id = new.contact_id;
    if person.email is null or person.status = 'DO_NOT_CONTACT' then
      raise exception 'This contact cannot be invited' using errcode = 'PT422',
        detail = case person.status when 'DO_NOT_CONTACT' then 'The contact is DO_NOT_CONTACT.'
          else 'The contact has no e-mail address.' end;
    end if;
  end if;
  return new;
end $$;
comment on function private.guard_attendee() is
  'At most 50 attendees of an appointment; contacts need an address and must not be DO_NOT_CONTACT.';
create trigger guard_attendee before insert on public.appointment_attendees
  for each row execute function private.guard_attendee();

create function private.attendee_mails(org uuid) returns bigint
language sql volatile set search_path = '' as $$
  select count(*) from private.emails e
  where e.organization_id = org and e.user_id is null and e.kind like 'work.appointment.%' and e.created_at > now() - interval '1 day'
$$;
comment on function private.attendee_mails(uuid) is 'How many e-mails about appointments an organization sent to strangers in a day.';

-- Strangers are not to be mailed without end: 500 e-mails of an organization in a day. One that is not sent yet is replaced.
create function private.notify_attendees(a public.appointments, kind text, attendee uuid default null) returns void
language plpgsql security definer set search_path = '' as $$
declare
  item constant jsonb := private.calendar_item(a);
  data constant jsonb := jsonb_build_object('at', a.start_time, 'appointment_id', a.id, 'calendar', item);
  place constant text := concat(' Where: ' || left(a.location, 200) || '.', E'\n' || a.meeting_url);
  host public.users;
  subject text;
  message text;
  sent bigint;
begin
  select u.* into host from public.users u where u.id = a.assigned_to;
  subject := case when a.status = 'CANCELLED' then 'Cancelled: ' when kind = 'work.appointment.invited' then 'Invitation: '
    else 'Changed: ' end || a.title;
  message := case
    when a.status = 'CANCELLED' then 'It was planned for {at}.'
    when kind = 'work.appointment.invited' then format('%s invites you on {at}.', coalesce(nullif(trim(host.name), ''),
      (select o.name from public.organizations o where o.id = a.organization_id))) || place
    else 'It begins on {at} now.' || place
  end;
  update private.emails e set status = 'CANCELLED', error = 'A newer one replaces it.'
  where e.status = 'QUEUED' and e.content ? 'appointment_id' and e.content ->> 'appointment_id' = a.id::text
    and e.content ? 'reply_token' and (attendee is null or e.content ->> 'attendee_id' = attendee::text);
  perform private.publish_events(array_agg((
    kind, a.organization_id, 'appointment', a.id, subject, message, array[t.user_id],
    data || jsonb_build_object('attendee_id', t.id, 'reply_token', private.signed_token('attendance', t.id::text)),
    null, null, null
  )::private.event))
  from public.appointment_attendees t
  where t.appointment_id = a.id and t.user_id is not null and (attendee is null or t.id = attendee) and t.reply <> 'DECLINED';
  insert into private.emails (organization_id, address, kind, subject, content)
  select a.organization_id, coalesce(c.email, t.email), kind, left(subject, 200),
    data || jsonb_build_object('attendee_id', t.id, 'reply_token', private.signed_token('attendance', t.id::text),
      'message', replace(
        message, '{at}', private.local_time(a.start_time, coalesce(host.time_zone, 'UTC'), coalesce(host.locale, 'en'))
      ))
  from public.appointment_attendees t left join public.contacts c on c.id = t.contact_id
  where t.appointment_id = a.id and t.user_id is null and (attendee is null or t.id = attendee) and t.reply <> 'DECLINED'
    and coalesce(c.email, t.email) is not null and c.status is distinct from 'DO_NOT_CONTACT';
  if found then
    sent := private.attendee_mails(a.organization_id);
    if sent > 100 then
      -- From here on they wait for each other: requests at the same time would not see what the others send.
      perform pg_advisory_xact_lock(hashtextextended('attendee_mails:' || a.organization_id, 0));
      sent := private.attendee_mails(a.organization_id);
    end if;
    if sent > 500 then
      raise exception 'Too many invitations' using
        errcode = 'PT429', constraint = 'retry-after 3600', detail = 'An organization mails at most 500 invitations to appointments and changes of them in a day.',
        hint = 'Invite the others tomorrow.';
    end if;
  end if;
end $$;
comment on function private.notify_attendees(public.appointments, text, uuid) is
  'Mails attendees of an appointment (or one): members by preference, others at their address. PT429 beyond 500 in a day.';

create function private.invite_attendee() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  a public.appointments;
begin
  select x.* into a from public.appointments x where x.id = new.appointment_id;
  if a.status in ('SCHEDULED', 'CONFIRMED') and a.end_time > now() then
    perform private.notify_attendees(a, 'work.appointment.invited', new.id);
  end if;
  return null;
end $$;
comment on function private.invite_attendee() is 'Sends the invitation to a new attendee of an appointment that is not over.';
create trigger invite after insert on public.appointment_attendees for each row execute function private.invite_attendee();

create function private.announce_appointment() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  a public.appointments := coalesce(new, old);
begin
  if tg_op = 'DELETE' then
    a.status := 'CANCELLED';
    a.sequence := a.sequence + 1;
  end if;
  if a.status in ('SCHEDULED', 'CONFIRMED', 'CANCELLED') and exists (
    select from public.appointment_attendees t where t.appointment_id = a.id
  ) and exists (select from public.organizations o where o.id = a.organization_id) then
    perform private.notify_attendees(a, 'work.appointment.changed');
  end if;
  return coalesce(new, old);
end $$;
comment on function private.announce_appointment() is 'Mails the attendees of an appointment that is moved, cancelled or deleted.';
create trigger announce_change after update of start_time, end_time, location, meeting_url, status on public.appointments
  for each row when (new.end_time > now() and (
    (new.start_time, new.end_time, new.location, new.meeting_url)
      is distinct from (old.start_time, old.end_time, old.location, old.meeting_url)
    or (new.status = 'CANCELLED') <> (old.status = 'CANCELLED')
  )) execute function private.announce_appointment();
create trigger announce_deletion before delete on public.appointments
  for each row when (old.end_time > now() and old.status in ('SCHEDULED', 'CONFIRMED'))
  execute function private.announce_appointment();

create function private.note_reply() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  a public.appointments;
  who text;
begin
  if tg_when = 'BEFORE' then
    new.replied_at := now();
    return new;
  end if;
  select x.* into a from public.appointments x where x.id = new.appointment_id;
  select coalesce(nullif(trim(u.name), ''), c.name, new.email, u.email) into who
  from (select) one left join public.users u on u.id = new.user_id left join public.contacts c on c.id = new.contact_id;
  -- Once for each answer to each revision, however often a link is used.
  perform private.publish_event(
    'work.appointment.answered', a.organization_id, 'appointment', a.id,
    left(format('%s: %s', initcap(new.reply::text), a.title), 100),
    format('%s answered the invitation for {at}: %s.', who, lower(new.reply::text)), array_remove(array[a.assigned_to], null),
    jsonb_build_object('at', a.start_time, 'reply', new.reply), concat_ws(' ', new.id, a.sequence, new.reply)
  );
  return null;
end $$;
comment on function private.note_reply() is 'Notes when an attendee answered, and notifies the assignee of the appointment.';
create trigger note_reply before update of reply on public.appointment_attendees
  for each row when (new.reply <> old.reply) execute function private.note_reply();
create trigger announce_reply after update of reply on public.appointment_attendees
  for each row when (new.reply <> old.reply) execute function private.note_reply();

create function private.answer_invitation(wish jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  attendee constant uuid := private.token_payload('attendance', wish ->> 'token');
  a public.appointments;
begin
  select x.* into a from public.appointment_attendees t join public.appointments x on x.id = t.appointment_id
  where t.id = attendee;
  if a.id is null then
    raise exception 'This link is not valid' using
      errcode = 'PT404', hint = 'Use the link of the newest e-mail, or ask who invited you.';
  elsif a.status not in ('SCHEDULED', 'CONFIRMED') or a.end_time <= now() then
    raise exception 'This appointment is over or cancelled' using errcode = 'PT410';
  end if;
  update public.appointment_attendees t set reply = (wish ->> 'reply')::public."AttendeeReply"
  where t.id = attendee and t.reply <> (wish ->> 'reply')::public."AttendeeReply";
  return jsonb_build_object('title', a.title, 'start_time', a.start_time, 'reply', wish ->> 'reply');
end $$;
comment on function private.answer_invitation(jsonb) is
  'Stores the {reply} of the attendee that {token} names; PT404 for any token that was not signed here.';
grant execute on function private.answer_invitation(jsonb) to strive_functions;

alter table public.appointment_attendees enable row level security;
create policy "members see attendees" on public.appointment_attendees for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members invite attendees" on public.appointment_attendees for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "people answer for themselves" on public.appointment_attendees for update to authenticated
  using (organization_id = (select private.current_user_org()) and user_id = (select private.current_user_id()))
  with check (organization_id = (select private.current_user_org()) and user_id = (select private.current_user_id()));
create policy "members remove attendees" on public.appointment_attendees for delete to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')));
grant select, delete, insert (organization_id, appointment_id, user_id, contact_id, email), update (reply)
  on public.appointment_attendees to authenticated;
grant all on public.appointment_attendees to service_role;

-- Feeds ---------------------------------------------------------------------------------------------------------------

create table private.calendar_feeds (
  user_id uuid not null,
  organization_id uuid not null,
  token_hash text not null unique constraint "token_hash is a SHA-256 in hex" check (token_hash ~ '^[0-9a-f]{64}$'),
  created_at timestamptz not null default now(),
  last_read_at timestamptz,
  primary key (user_id, organization_id),
  foreign key (user_id, organization_id) references public.organization_members (user_id, organization_id) on delete cascade
);
comment on table private.calendar_feeds is
  'Secret addresses at which calendar programs read the appointments of a member; they end with the membership.';
comment on column private.calendar_feeds.user_id is 'Whose appointments.';
comment on column private.calendar_feeds.organization_id is 'In which organization.';
comment on column private.calendar_feeds.token_hash is 'SHA-256 (hex) of the token that was handed out once.';
comment on column private.calendar_feeds.created_at is 'When the address was made.';
comment on column private.calendar_feeds.last_read_at is 'To the hour.';
create index calendar_feeds_organization_idx on private.calendar_feeds (organization_id);

create function private.require_person() returns uuid
language plpgsql stable security definer set search_path = '' as $$
declare
  me constant uuid := private.current_user_id();
begin
  perform private.refuse_impersonation(); -- a feed outlasts it
  if me is null then
    perform private.refuse_suspended();
    raise exception 'Sign in first' using errcode = '42501';
  end if;
  return me;
end $$;
comment on function private.require_person() is 'The user who calls; 42501 for an anonymous caller, an API key or an impersonation.';

create function private.create_calendar_feed() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me constant uuid := private.require_person();
  org constant uuid := private.require_org('VIEWER');
  token constant text := private.new_token();
begin
  if not exists (select from public.organization_members m where m.user_id = me and m.organization_id = org) then
    raise exception 'You do not belong to this organization' using errcode = '42501';
  end if;
  insert into private.calendar_feeds as f (user_id, organization_id, token_hash) values (me, org, private.token_hash(token))
  on conflict on constraint calendar_feeds_pkey do update set
    token_hash = excluded.token_hash, created_at = now(), last_read_at = null;
  return jsonb_build_object('token', token, 'path', '/functions/v1/calendar?token=' || token);
end $$;
comment on function private.create_calendar_feed() is 'See public.create_calendar_feed().';
create function public.create_calendar_feed() returns jsonb
language sql set search_path = '' as 'select private.create_calendar_feed()';
comment on function public.create_calendar_feed() is
  'Makes the secret address at which a calendar program reads the caller''s appointments in this organization; an earlier one '
  'ends. It is returned this once and kept only as a hash.';

create function private.revoke_calendar_feed() returns void
language plpgsql security definer set search_path = '' as $$
declare
  me constant uuid := private.require_person();
begin
  delete from private.calendar_feeds f where f.user_id = me and f.organization_id = private.require_org('VIEWER');
end $$;
comment on function private.revoke_calendar_feed() is 'See public.revoke_calendar_feed().';
create function public.revoke_calendar_feed() returns void
language sql set search_path = '' as 'select private.revoke_calendar_feed()';
comment on function public.revoke_calendar_feed() is 'Ends the address of the caller''s calendar in this organization.';

create function private.my_calendar_feed() returns jsonb
language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('created_at', f.created_at, 'last_read_at', f.last_read_at) from private.calendar_feeds f
  where f.user_id = private.current_user_id() and f.organization_id = private.current_user_org()
$$;
comment on function private.my_calendar_feed() is 'See public.my_calendar_feed().';
create function public.my_calendar_feed() returns jsonb
language sql stable set search_path = '' as 'select private.my_calendar_feed()';
comment on function public.my_calendar_feed() is
  'Since when the caller''s calendar has an address, and when it was read (to the hour); null: none.';

create function private.read_calendar(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  feed private.calendar_feeds;
  owner text;
  shown uuid[];
  tag text;
begin
  select f.*, o.name into feed.user_id, feed.organization_id, feed.token_hash, feed.created_at, feed.last_read_at, owner
  from private.calendar_feeds f
  join public.organization_members m using (user_id, organization_id)
  join public.organizations o on o.id = f.organization_id
  where f.token_hash = private.token_hash(request ->> 'token') and (m.blocked_until is null or m.blocked_until <= now());
  if not found then
    raise exception 'There is no such calendar' using
      errcode = 'PT404', hint = 'Its address was replaced or revoked; create another one.';
  end if;
  -- To come first, the next ones first.
  with mine as (
    select a.id from public.appointments a where a.assigned_to = feed.user_id and a.organization_id = feed.organization_id
      and a.start_time between now() - interval '90 days' and now() + interval '366 days'
    union
    select t.appointment_id from public.appointment_attendees t
    where t.user_id = feed.user_id and t.organization_id = feed.organization_id and t.reply <> 'DECLINED'
  ), bounded as (
    select a.id, a.updated_at from mine join public.appointments a using (id)
    where a.start_time between now() - interval '90 days' and now() + interval '366 days'
    order by a.start_time < now(), abs(extract(epoch from a.start_time - now())), a.id limit 1000
  )
  select coalesce(array_agg(b.id order by b.id), '{}'),
    md5(concat(owner, string_agg(b.id || ' ' || extract(epoch from b.updated_at), ',' order by b.id))) into shown, tag from bounded b;
  update private.calendar_feeds f set last_read_at = date_trunc('hour', now())
  where f.user_id = feed.user_id and f.organization_id = feed.organization_id
    and f.last_read_at is distinct from date_trunc('hour', now());
  return jsonb_build_array(jsonb_build_object('etag', tag, 'name', owner)) || case when request ->> 'etag' is distinct from tag then (
    select coalesce(jsonb_agg(private.calendar_item(a) order by a.start_time, a.id), '[]')
    from public.appointments a where a.id = any (shown)
  ) else '[]' end;
end $$;
comment on function private.read_calendar(jsonb) is
  'The appointments that the owner of {token} is assigned to or attends, 90 days back and a year ahead, at most 1,000: '
  'an array of the etag and the name, and then the items unless nothing changed since {etag}.';

grant execute on function private.read_calendar(jsonb) to strive_functions;
grant execute on function private.create_calendar_feed(), public.create_calendar_feed(), private.revoke_calendar_feed(),
  public.revoke_calendar_feed(), private.my_calendar_feed(), public.my_calendar_feed()
  to authenticated, service_role;
