-- Notice triggers: what publishes the events about work, members, access and alerts. Triggers on assignments fire once per
-- statement: a person to whom one statement assigns many records receives one notice. Restored records are not
-- announced.

create function private.is_quiet() returns boolean language plpgsql stable set search_path = '' as $$
begin
  return current_setting('strive.history_action', true) = 'restored' or current_setting('strive.quiet', true) = 'on';
end $$;
comment on function private.is_quiet() is 'Whether the statement restores records, or its operation publishes an event of its own.';

-- Assigned ------------------------------------------------------------------------------------------------------------

create function private.publish_assigned(kind text, noun text, assigned jsonb[]) returns void
language plpgsql security definer set search_path = '' as $$
begin
  perform private.publish_events(array_agg((
    kind, g.organization_id, noun, case when g.records = 1 then g.ids[1] end,
    case when g.records = 1 then format('%s assigned to you', initcap(noun))
      else format('%s %ss assigned to you', g.records, noun) end,
    (select string_agg(left(n, 80), ', ') from unnest(g.names[:5]) n) || case when g.records > 5 then ', …' else '' end,
    array[g.assignee], jsonb_build_object('ids', g.ids[:100]), null, null,
    case when g.records > 1 then format('/%ss', noun) end
  )::private.event))
  from (
    select a ->> 'organization_id' as org, (a ->> 'organization_id')::uuid as organization_id,
      (a ->> 'assignee')::uuid as assignee, count(*) as records,
      array_agg((a ->> 'id')::uuid order by a ->> 'name', a ->> 'id') as ids,
      array_agg(a ->> 'name' order by a ->> 'name', a ->> 'id') as names
    from unnest(assigned) a group by 1, 2, 3
  ) g;
end $$;
comment on function private.publish_assigned(text, text, jsonb[]) is
  'Publishes one event for each assignee of rows {organization_id, assignee, id, name}.';

create function private.announce_assigned() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  me constant text := auth.uid()::text;
  assigned jsonb[];
begin
  if tg_op = 'INSERT' then
    select array_agg(jsonb_build_object('organization_id', r -> 'organization_id', 'assignee', r -> tg_argv[2],
      'id', r -> 'id', 'name', r -> tg_argv[3])) into assigned
    from (select to_jsonb(n) as r from new_rows n offset 0) n
    where r ->> tg_argv[2] is distinct from me and r ->> tg_argv[2] is not null;
  elsif current_setting('strive.assigned_' || tg_table_name, true) = 'on' then
    perform set_config('strive.assigned_' || tg_table_name, '', true);
    select array_agg(jsonb_build_object('organization_id', r -> 'organization_id', 'assignee', r -> tg_argv[2],
      'id', r -> 'id', 'name', r -> tg_argv[3])) into assigned
    from (select to_jsonb(n) as r, o from new_rows n join old_rows o on o.id = n.id offset 0) n
    where r ->> tg_argv[2] is distinct from me and r ->> tg_argv[2] is not null
      and r -> tg_argv[2] <> to_jsonb(o) -> tg_argv[2];
  end if;
  if assigned is not null and private.is_quiet() is not true then
    perform private.publish_assigned(tg_argv[0], tg_argv[1], assigned);
  end if;
  return null;
end $$;
comment on function private.announce_assigned() is
  'Publishes the event (first argument) about a noun (second) whose column (third) names another assignee; the fourth has its name.';

-- Few updates assign a record: the statement trigger compares rows only after one that does. Triggers of rows fire first.
create function private.mark_assigned() returns trigger language plpgsql set search_path = '' as $$
begin
  perform set_config('strive.assigned_' || tg_table_name, 'on', true);
  return null;
end $$;
comment on function private.mark_assigned() is 'Marks for announce_assigned() that the statement assigns a record.';

do $$
declare
  t record;
begin
  for t in select * from (values
    ('leads', 'crm', 'lead', 'assigned_to_id', 'name'),
    ('contacts', 'crm', 'contact', 'assigned_to_id', 'name'),
    ('deals', 'crm', 'deal', 'assigned_to_id', 'title'),
    ('listings', 'crm', 'listing', 'assigned_to_id', 'title'),
    ('projects', 'work', 'project', 'project_manager_id', 'name'),
    ('tasks', 'work', 'task', 'assigned_to', 'title'),
    ('appointments', 'work', 'appointment', 'assigned_to', 'title')
  ) v (relation, source, noun, assignee, name) loop
    execute format(
      'create trigger announce_new after insert on public.%I referencing new table as new_rows'
      ' for each statement execute function private.announce_assigned(%L, %L, %L, %L);'
      'create trigger announce_assigned after update on public.%1$I referencing old table as old_rows new table as new_rows'
      ' for each statement execute function private.announce_assigned(%2$L, %3$L, %4$L, %5$L);'
      'create trigger mark_assigned after update on public.%1$I for each row'
      ' when (new.%4$I is distinct from old.%4$I and new.%4$I is not null) execute function private.mark_assigned()',
      t.relation, format('%s.%s.assigned', t.source, t.noun), t.noun, t.assignee, t.name
    );
  end loop;
end $$;

-- Deals -----------------------------------------------------------------------------------------------------------------

create function private.announce_closed_deal() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.publish_event(
    case new.stage when 'CLOSED_WON' then 'crm.deal.won' else 'crm.deal.lost' end, new.organization_id, 'deal', new.id,
    case new.stage when 'CLOSED_WON' then 'Deal won: ' else 'Deal lost: ' end || new.title,
    case new.stage when 'CLOSED_WON' then format('%s is won.', new.title) else concat(new.title, ' is lost: ', new.lost_reason) end,
    array_append(private.members_at_least(new.organization_id, 'OWNER'), new.assigned_to_id),
    jsonb_build_object('value', new.value)
  );
  return null;
end $$;
comment on function private.announce_closed_deal() is 'Notifies the owners and the assignee of a deal that it was won or lost.';
create trigger announce_closed after update of stage on public.deals
  for each row when (new.stage <> old.stage and new.stage in ('CLOSED_WON', 'CLOSED_LOST'))
  execute function private.announce_closed_deal();

-- Tasks -----------------------------------------------------------------------------------------------------------------

create function private.report_due_tasks(moment timestamptz default now()) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  reported bigint;
begin
  select count(*), private.publish_events(array_agg((
    d.kind, d.organization_id, 'task', d.id, d.title || d.name, d.message, array[d.recipient],
    jsonb_build_object('at', d.due_date),
    d.id || ' ' || extract(epoch from d.due_date), null, null
  )::private.event)) into reported
  from (
    select t.id, t.organization_id, coalesce(t.assigned_to, t.created_by) as recipient, t.due_date, left(t.title, 80) as name, k.*
    from public.tasks t
    cross join lateral (select
      case when t.due_date > moment then 'work.task.due' else 'work.task.overdue' end as kind,
      case when t.due_date > moment then 'Due soon: ' else 'Overdue: ' end as title,
      case when t.due_date > moment then 'It is due on {at}.' else 'It was due on {at}.' end as message
    ) k
    where t.status in ('TODO', 'IN_PROGRESS', 'REVIEW')
      and t.due_date > moment - interval '7 days' and t.due_date <= moment + interval '1 day'
      and not exists (
        select from private.published_events p where p.kind = k.kind and p.dedupe_key = t.id || ' ' || extract(epoch from t.due_date)
      )
    order by t.due_date, t.id limit 5000
  ) d where d.recipient is not null;
  return reported;
end $$;
comment on function private.report_due_tasks(timestamptz) is
  'Notifies the assignee of an open task (or its creator) a day before it is due and once it is overdue, each once per due date.';
grant execute on function private.report_due_tasks(timestamptz) to service_role;

-- Members and access ----------------------------------------------------------------------------------------------------

create function private.announce_member() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  member constant public.organization_members := coalesce(new, old);
  org text;
  person text;
begin
  -- Neither while the organization is erased, nor for its first member.
  select o.name into org from public.organizations o where o.id = member.organization_id;
  if org is null then
    return null;
  end if;
  person := (select coalesce(nullif(trim(u.name), ''), u.email) from public.users u where u.id = member.user_id);
  if tg_op = 'INSERT' then
    perform private.publish_event(
      'organization.member.joined', new.organization_id, 'member', new.user_id, left(person, 60) || ' joined ' || left(org, 30),
      format('%s is %s of %s now.', person, new.role, org),
      array_remove(private.members_at_least(new.organization_id, 'ADMIN'), new.user_id),
      jsonb_build_object('role', new.role)
    );
  elsif tg_op = 'UPDATE' then
    perform private.publish_event(
      'organization.member.role_changed', new.organization_id, 'member', new.user_id, 'Your role in ' || left(org, 80) || ' changed',
      format('You are %s now; you were %s.', new.role, old.role), array[new.user_id],
      jsonb_build_object('role', new.role, 'was', old.role)
    );
  else
    perform private.publish_event(
      'organization.member.removed', old.organization_id, 'member', old.user_id, 'You were removed from ' || left(org, 70),
      format('You can no longer see the data of %s. Ask its owners if that is a mistake.', org), array[old.user_id]
    );
  end if;
  return null;
end $$;
comment on function private.announce_member() is
  'Notifies the admins of new members, and a member of another role or of their removal by somebody else.';
create trigger announce_joined after insert on public.organization_members
  for each row execute function private.announce_member();
create trigger announce_role after update of role on public.organization_members
  for each row when (new.role <> old.role) execute function private.announce_member();
create trigger announce_removed after delete on public.organization_members
  for each row execute function private.announce_member();

create function private.announce_organization_access() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if new.suspended_at is not null then
    perform private.publish_event(
      'organization.access.suspended', new.id, 'organization', new.id, left(new.name, 60) || ' is suspended',
      concat_ws(' ', 'You can read its data, and its owners can pay; nothing else can be written.', new.suspended_reason),
      private.members_at_least(new.id, 'ADMIN')
    );
  else
    perform private.publish_event(
      'organization.access.restored', new.id, 'organization', new.id, left(new.name, 60) || ' is no longer suspended',
      'Everything works again.', private.members_at_least(new.id, 'ADMIN')
    );
  end if;
  return null;
end $$;
comment on function private.announce_organization_access() is 'Notifies owners and admins of a suspended organization.';
create trigger announce_access after update of suspended_at on public.organizations
  for each row when ((new.suspended_at is null) <> (old.suspended_at is null))
  execute function private.announce_organization_access();

create function private.announce_account_access() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if new.suspended_at is not null then
    perform private.publish_event(
      'account.access.suspended', null, 'user', new.id, 'Your account is suspended',
      concat_ws(' ', case when new.suspended_until is null then 'It stays suspended until an administrator reactivates it.'
        else 'It is suspended until {at}.' end, new.suspended_reason), array[new.id],
      case when new.suspended_until is not null then jsonb_build_object('at', new.suspended_until) end
    );
  else
    perform private.publish_event(
      'account.access.restored', null, 'user', new.id, 'Your account is no longer suspended', 'You can sign in again.',
      array[new.id]
    );
  end if;
  return null;
end $$;
comment on function private.announce_account_access() is 'Mails a person that their account is suspended, until when and why, or no longer.';
create trigger announce_access after update of suspended_at, suspended_until, suspended_reason on public.users
  for each row when (new.deleted_at is null and num_nonnulls(old.suspended_at, new.suspended_at) > 0
    and (new.suspended_at, new.suspended_until, new.suspended_reason)
      is distinct from (old.suspended_at, old.suspended_until, old.suspended_reason))
  execute function private.announce_account_access();

-- Alerts ----------------------------------------------------------------------------------------------------------------
-- Banners for everybody or a tier are not mailed: they would be a mass mailing.

create function private.announce_alert() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform private.publish_event(
    'platform.alert.raised', null, 'alert', new.id, new.title, new.message, array(
      select u.id from public.users u
      where u.id = any (new.target_users) or (u.global_role = any (new.target_roles) and u.global_role in ('ADMIN', 'SUPER_ADMIN'))
      union
      select m.user_id from public.organization_members m where m.organization_id = any (new.target_orgs) and m.role = 'OWNER'
    ), jsonb_build_object('alert_id', new.id), new.id::text
  );
  -- It is mailed when it begins.
  update private.emails e set created_at = new.starts_at, next_attempt_at = new.starts_at
  where new.starts_at > now() and e.kind = 'platform.alert.raised' and e.created_at = now() and e.content ->> 'alert_id' = new.id::text;
  return null;
end $$;
comment on function private.announce_alert() is
  'Mails an alert of level ERROR to the users it names, to the platform''s admins it is for, and to owners of the organizations it names.';
create trigger announce_alert after insert or update of level, is_active, is_archived on public.system_alerts
  for each row when (new.level = 'ERROR' and new.is_active and not new.is_archived) execute function private.announce_alert();

-- Weekly summary ----------------------------------------------------------------------------------------------------------

create function private.send_weekly_summaries(moment timestamptz default now()) returns bigint
language plpgsql security definer set search_path = '' as $$
begin
  return (
    with due as materialized (
      select o.id, o.name, m.user_id, to_char(w.monday - interval '7 days', 'IYYY-"W"IW') as week,
        (w.monday - interval '7 days') at time zone u.time_zone as since, w.monday at time zone u.time_zone as until
      from public.organization_members m
      join public.users u on u.id = m.user_id
      join public.organizations o on o.id = m.organization_id
      cross join lateral (
        select date_trunc('week', private.newest_local('week', '7:00', moment, u.time_zone) at time zone u.time_zone) as monday
      ) w
      where m.role = 'OWNER' and o.closed_at is null and m.joined_at < w.monday at time zone u.time_zone and not exists (
        select from private.published_events p
        where p.kind = 'organization.summary.weekly'
          and p.dedupe_key = concat_ws(' ', o.id, m.user_id, to_char(w.monday - interval '7 days', 'IYYY-"W"IW'))
      )
      order by o.id, m.user_id limit 5000
    )
    -- Without figures the event has no recipient; it is published all the same, so that the week is not counted again.
    select private.publish_events(array_agg((
      'organization.summary.weekly', d.id, 'organization', d.id, format('The week of %s', left(d.name, 80)),
      format('%s new leads, %s deals won, %s tasks done, %s tasks overdue.', l.leads, w.won, t.done, t.overdue),
      case when l.leads + w.won + t.done + t.overdue > 0 then array[d.user_id] end,
      jsonb_build_object('week', d.week, 'rows', jsonb_build_array(
        jsonb_build_array('New leads', l.leads), jsonb_build_array('Deals won', w.won), jsonb_build_array('Value won', w.value),
        jsonb_build_array('Tasks done', t.done), jsonb_build_array('Tasks overdue', t.overdue))),
      concat_ws(' ', d.id, d.user_id, d.week), null, null
    )::private.event))
    from due d
    cross join lateral (select count(*) as leads from public.leads x
      where x.organization_id = d.id and x.created_at >= d.since and x.created_at < d.until) l
    cross join lateral (select count(*) as won, coalesce(sum(x.value), 0) as value from public.deals x
      where x.organization_id = d.id and x.status = 'WON' and x.actual_close_date >= d.since and x.actual_close_date < d.until) w
    cross join lateral (select count(*) filter (where x.status = 'DONE' and x.completed_at >= d.since and x.completed_at < d.until) as done,
      count(*) filter (where x.status in ('TODO', 'IN_PROGRESS', 'REVIEW') and x.due_date < moment) as overdue
      from public.tasks x where x.organization_id = d.id) t
  );
end $$;
comment on function private.send_weekly_summaries(timestamptz) is
  'Sends each owner the figures of the past week, at 7:00 on Monday in their time zone, once a week; a week without any is left out.';
grant execute on function private.send_weekly_summaries(timestamptz) to service_role;

insert into private.jobs (name, schedule, runs, description) values
  ('report_due_tasks', '*/10 * * * *', 'private.report_due_tasks', 'Notify people of tasks that are due or overdue.'),
  ('send_weekly_summaries', '*/15 * * * *', 'private.send_weekly_summaries', 'Send owners the week of their organization.');
