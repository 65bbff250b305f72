-- Deleting an account: personal data is deleted, data of organizations stays and refers to an account without a name.
-- Supabase Auth deletes softly and keeps the id, so rows that refer to it stay.

-- All columns with personal data and how a deletion treats them: the only list, which the deletion reads. A test fails
-- for a column that looks personal and is not listed.
create table private.personal_columns (
  relation text not null,
  name text not null,
  on_deletion text not null constraint "on_deletion is DELETE, CLEAR or KEEP" check (on_deletion in ('DELETE', 'CLEAR', 'KEEP')),
  found_by text,
  because text not null,
  primary key (relation, name),
  constraint "found_by is set unless it is kept" check ((on_deletion = 'KEEP') = (found_by is null))
);
comment on table private.personal_columns is 'Columns with personal data, and how the deletion of an account treats them.';
comment on column private.personal_columns.on_deletion is 'DELETE: the row goes. CLEAR: the column is emptied. KEEP: it stays.';
comment on column private.personal_columns.found_by is
  'The column of the relation that names the user: by their address if it is an e-mail, else by their id.';

insert into private.personal_columns (relation, name, on_deletion, found_by, because)
select regexp_replace(c.path, '[.][^.]+$', ''), substring(c.path, '[^.]+$'), k.on_deletion, k.found_by, k.because
from (values
  ('DELETE', 'user_id', 'the person''s own', $${
    organization_members.user_id, notifications.user_id, user_dashboards.user_id, ai_conversations.user_id,
    activity_feed_reads.user_id, showcase_likes.user_id, sales_goals.user_id, saved_views.user_id, system_alert_views.user_id, system_alert_dismissals.user_id,
    private.notification_preferences.user_id, private.emails.user_id, private.calendar_feeds.user_id,
    appointment_attendees.user_id}$$),
  ('DELETE', 'owner', 'answers the person was given', '{private.idempotency_keys.owner}'),
  ('DELETE', 'email', 'an invitation of the person, if they have confirmed the address', '{organization_invitations.email}'),
  ('DELETE', 'email', 'mails to the person, if they have confirmed the address', '{private.emails.address}'),
  ('CLEAR', 'billing_email', 'the person''s name and address, in organizations they belong to', '{organizations.billing_email}'),
  ('CLEAR', 'billing_email', 'the person''s name and address, in sessions of their own', $${
    private.onboarding_payments.billing_email, private.onboarding_payments.billing_name}$$),
  ('CLEAR', 'user_id', 'where the person was', $${
    activity_logs.ip_address, activity_logs.user_agent, private.archived_activity_logs.ip_address,
    private.archived_activity_logs.user_agent, feature_flag_exposures.network}$$),
  ('CLEAR', 'user_id', 'the organization it made stays', '{onboarding_sessions.user_id}'),
  ('CLEAR', 'id', 'the account itself', $${
    users.name, users.avatar_url, users.last_login_at, users.suspended_at, users.suspended_until, users.suspended_reason}$$),
  ('KEEP', null, 'replaced by an address without an owner', '{users.email}'),
  ('KEEP', null, 'a pseudonym: it points to an account without a name', $${
    activities.created_by_id, activity_feeds.user_id, activity_logs.user_id, activity_logs.impersonated_by,
    private.archived_activity_logs.user_id, private.archived_activity_logs.impersonated_by, trash.deleted_by,
    agent_templates.created_by_id, api_keys.created_by, api_keys.revoked_by, attachments.uploaded_by_id, content.author_id, custom_agent_orders.created_by_id,
    custom_agent_orders.assigned_to_id, dashboard_metrics.created_by, dashboard_widgets.created_by, deal_stage_changes.changed_by, notes.author_id, notes.mentions, organizations.closed_by,
    feature_flags.created_by, feature_flag_exposures.user_id, organization_invitations.invited_by, project_showcases.created_by_id,
    quick_actions.created_by, system_alerts.created_by, tasks.created_by, template_reviews.reviewer_id,
    private.sign_in_days.user_id, private.checkouts.requested_by, tool_blueprints.created_by_id, usage_tracking.user_id, private.usage_entries.user_id, feature_flags.target_users, system_alerts.target_users}$$),
  ('KEEP', null, 'emptied with the membership', $${
    appointments.assigned_to, companies.assigned_to_id, contacts.assigned_to_id, customers.assigned_to, deals.assigned_to_id, leads.assigned_to_id,
    listings.assigned_to_id, projects.project_manager_id, tasks.assigned_to, private.capture_tokens.assigned_to_id}$$),
  ('KEEP', null, 'the log of the admins answers for what was done (GDPR art. 17.3 b and e); it names people by id', $${
    admin_action_logs.admin_id, admin_action_logs.acting_as_id, admin_action_logs.ip_address,
    admin_action_logs.user_agent, private.impersonations.admin_id, private.impersonations.user_id}$$),
  ('KEEP', null, 'due syncs with Supabase Auth', '{private.auth_syncs.user_id}'),
  ('KEEP', null, 'an organization''s record of its own customers, for which it answers', $${
    leads.name, leads.email, leads.phone, contacts.name, contacts.email, contacts.phone, contacts.linkedin_url, appointment_attendees.email,
    contacts.twitter_url, customers.name, customers.email, customers.phone, companies.name,
    companies.email, companies.phone, companies.address, companies.website}$$),
  ('KEEP', null, 'of a house', '{listings.address}'),
  ('KEEP', null, 'an address that must not be mailed again', '{private.email_suppressions.address}'),
  ('KEEP', null, 'a setting, not an address', $${
    private.event_kinds.email, private.notification_defaults.email, private.notification_preferences.email}$$),
  ('KEEP', null, 'of a visitor of a website, for a few minutes', $${
    private.capture_counts.address, private.onboarding_counts.address}$$)
) k (on_deletion, found_by, because, columns),
lateral (
  select case when t like 'private.%' then t else 'public.' || t end as path from unnest(k.columns::text[]) t
) c;

-- Only a confirmed address counts: a person who signs up with somebody else's address deletes nothing by it. The
-- billing address of an organization that the user does not belong to stays. Memberships are deleted last, because they
-- decide that; the entries that their deletion writes (audit, feed) are written before columns are cleared.
create function private.erase_user(who uuid) returns void
language plpgsql set search_path = '' as $$
declare
  target public.users;
  own_address text;
  item private.personal_columns;
begin
  select * into target from public.users u where u.id = who;
  select lower(a.email) into own_address from auth.users a where a.id = who and a.email_confirmed_at is not null;
  update public.organizations o set billing_email = null
  where lower(o.billing_email) = lower(target.email) and exists (
    select from public.organization_members m where m.organization_id = o.id and m.user_id = who
  );
  update private.onboarding_payments p set billing_email = null, billing_name = null
  where p.session_id in (select s.id from public.onboarding_sessions s where s.user_id = who);
  delete from public.organization_invitations i where lower(i.email) = own_address;
  delete from private.emails e where lower(e.address) = own_address;
  for item in
    select p.* from private.personal_columns p
    where p.on_deletion <> 'KEEP' and p.found_by not in ('email', 'billing_email')
    order by p.on_deletion = 'CLEAR', p.relation = 'public.users', p.relation, p.name desc
  loop
    execute case item.on_deletion
      when 'DELETE' then format('delete from %s', item.relation::regclass)
      else format('update %s set %I = null', item.relation::regclass, item.name)
    end || format(' where %I = %L', item.found_by, who)
      || case item.on_deletion when 'CLEAR' then format(' and %I is not null', item.name) else '' end;
  end loop;
  update public.users u set email = format('%s@deleted.invalid', who), global_role = 'USER', time_zone = 'UTC', locale = 'en',
    reminder_minutes = '{}' where u.id = who;
end $$;
comment on function private.erase_user(uuid) is 'Deletes and clears the columns in personal_columns, and clears name and address.';

create function private.delete_account_of(deletion jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  who uuid := deletion ->> 'user_id';
  target public.users;
  alone text;
begin
  perform pg_advisory_xact_lock(hashtextextended('administer admins', 0));
  select * into target from public.users u where u.id = who for update;
  if target.deleted_at is null then
    if target.global_role = 'SUPER_ADMIN' and not exists (
      select from public.users u where u.global_role = 'SUPER_ADMIN' and u.id <> who and private.blocked_until(u) is null
    ) then
      raise exception 'The last super admin cannot be deleted' using errcode = 'PT409', hint = 'Make another user one first.';
    end if;
    select string_agg(format('%s (%s)', o.name, o.id), ', ' order by o.name) into alone
    from public.organization_members m join public.organizations o on o.id = m.organization_id
    where m.user_id = who and m.role = 'OWNER' and o.closed_at is null and not exists (
      select from public.organization_members other
      where other.organization_id = o.id and other.role = 'OWNER' and other.user_id <> who
        and (other.blocked_until is null or other.blocked_until <= now())
    );
    if alone is not null then
      raise exception 'The last owner of an organization cannot be deleted' using
        errcode = 'PT409', detail = format('There is no other owner who is not suspended in: %s.', alone),
        hint = 'Call transfer_ownership() or close_organization() there first, with its id in the header x-org-id.';
    end if;
    -- The triggers of the statements below write the sync with Auth and the log entries.
    update public.users u set is_active = false, deleted_at = now() where u.id = who;
    perform private.erase_user(who);
    insert into private.auth_syncs as e (user_id, banned_until, is_deletion) values (who, 'infinity', true)
    on conflict (user_id) do update set is_deletion = true, version = e.version + 1, changed_at = now(), settled_at = null;
  end if;
  return jsonb_build_object('user_id', who, 'deleted_at', (select u.deleted_at from public.users u where u.id = who));
end $$;
comment on function private.delete_account_of(jsonb) is
  'Deletes the account of {user_id}: at once here, in Auth and Storage afterwards. For a deleted one, returns when that was.';

create function private.do_delete_account(deletion jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform private.require_admin();
  if not exists (
    select from public.users u where u.id = (deletion ->> 'user_id')::uuid and u.deleted_at is not null
  ) then
    perform private.user_to_administer((deletion ->> 'user_id')::uuid);
  end if;
  return private.delete_account_of(deletion);
end $$;
comment on function private.do_delete_account(jsonb) is 'An admin deletes the account of {user_id}.';

create function private.delete_own_account(deletion jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  me public.users;
  done jsonb;
begin
  if auth.jwt() ? 'act' then
    raise exception 'An impersonation cannot delete an account' using errcode = '42501';
  end if;
  select * into me from public.users u where u.id = auth.uid();
  if me.id is null then
    raise exception 'There is no such account' using errcode = 'PT404';
  end if;
  if me.deleted_at is null then
    perform private.refuse_suspended();
    if lower(me.email) <> lower(trim(deletion ->> 'confirm')) then
      raise exception 'This is not the address of the account' using
        errcode = 'PT409', hint = 'To confirm, send the e-mail address you sign in with.';
    end if;
  end if;
  done := private.delete_account_of(jsonb_build_object('user_id', me.id));
  if me.deleted_at is null then
    perform private.append_admin_action('USER_DELETE', 'Account deleted by its user', 'user', me.id::text, null, true, null, null);
  end if;
  return jsonb_build_object('done', done);
end $$;
comment on function private.delete_own_account(jsonb) is 'The caller deletes their own account, {confirm: their address}.';

insert into private.admin_operations (name, action, target_type, description) values
  ('delete_account', 'USER_DELETE', 'user', 'Account deleted');

create function private.delete_account(deletion jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  who uuid := coalesce(deletion ->> 'user_id', auth.uid()::text);
  answer jsonb := case
    when deletion ? 'user_id'
    then private.attempt('delete_account', deletion, who::text)
    else private.delete_own_account(deletion)
  end;
begin
  return private.with_syncs(answer, array[who]);
end $$;
comment on function private.delete_account(jsonb) is 'See delete_own_account() and, with user_id, do_delete_account(); logged.';
grant execute on function private.delete_account(jsonb) to strive_functions;
