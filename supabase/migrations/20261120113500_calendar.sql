-- The calendar: reminders of appointments.

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
