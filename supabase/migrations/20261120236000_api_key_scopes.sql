-- API key scopes: what keys may read and write, and the operations that make, rotate and revoke them. A table or function
-- that is not listed here is closed to keys.

create table private.api_key_tables (
  relation text primary key,
  domain text not null,
  is_written boolean not null
);
comment on table private.api_key_tables is 'Tables that API keys may reach.';
comment on column private.api_key_tables.relation is 'Table in the schema public.';
comment on column private.api_key_tables.domain is 'The scopes are DOMAIN_READ and DOMAIN_WRITE.';
comment on column private.api_key_tables.is_written is 'False: keys only read it.';
insert into private.api_key_tables (relation, domain, is_written) values
  ('leads', 'CRM', true),
  ('contacts', 'CRM', true),
  ('companies', 'CRM', true),
  ('listings', 'CRM', true),
  ('deals', 'CRM', true),
  ('activities', 'CRM', true),
  ('notes', 'CRM', true),
  ('appointments', 'CRM', true),
  ('customers', 'CRM', true),
  ('lost_reasons', 'CRM', false),
  ('deal_stage_changes', 'CRM', false),
  ('sales_goals', 'CRM', false),
  ('projects', 'TASKS', true),
  ('tasks', 'TASKS', true),
  ('follow_up_plans', 'TASKS', false),
  ('follow_up_steps', 'TASKS', false),
  ('custom_agent_orders', 'ORDERS', true),
  ('order_milestones', 'ORDERS', false),
  ('build_logs', 'ORDERS', false),
  ('activity_feeds', 'CRM', true),
  ('subscriptions', 'BILLING', false),
  ('organizations', 'ORGANIZATION', false),
  ('organization_members', 'ORGANIZATION', false),
  ('users', 'ORGANIZATION', false);

insert into private.api_key_operations (name, scope) values
  ('search_crm', 'CRM_READ'),
  ('find_duplicates', 'CRM_READ'),
  ('pipeline_report', 'CRM_READ'),
  ('conversion_report', 'CRM_READ'),
  ('forecast', 'CRM_READ'),
  ('agenda', 'CRM_READ'),
  ('follow_ups_due', 'CRM_READ'),
  ('appointment_clashes', 'CRM_READ'),
  ('match_buyers', 'CRM_READ'),
  ('add_lead', 'CRM_WRITE'),
  ('add_contact', 'CRM_WRITE'),
  ('convert_lead', 'CRM_WRITE'),
  ('move_deal', 'CRM_WRITE'),
  ('close_deal', 'CRM_WRITE'),
  ('record_activity', 'CRM_WRITE'),
  ('todos', 'TASKS_READ'),
  ('estimate_order', 'ORDERS_READ'),
  ('order_quota', 'ORDERS_READ'),
  ('order_moves', 'ORDERS_READ'),
  ('build_log_page', 'ORDERS_READ'),
  ('submit_order', 'ORDERS_WRITE'),
  ('cancel_order', 'ORDERS_WRITE'),
  ('feed_page', 'CRM_READ'),
  ('evaluate_metric', 'DASHBOARD_READ');

-- A policy for keys is the policy for people and the scope, so a key never sees a row that its creator does not. Keys
-- delete nothing.
create function private.open_to_api_keys() returns void language plpgsql set search_path = '' as $$
declare
  target record;
  rule record;
  columns text;
begin
  for target in select t.*, format('public.%I', t.relation)::regclass as oid from private.api_key_tables t loop
    for rule in
      select p.polname, p.polcmd, pg_get_expr(p.polqual, p.polrelid) as using_text,
        pg_get_expr(p.polwithcheck, p.polrelid) as check_text,
        case p.polcmd when 'r' then 'select' when 'a' then 'insert' else 'update' end as command,
        target.domain || case p.polcmd when 'r' then '_READ' else '_WRITE' end as scope
      from pg_catalog.pg_policy p
      where p.polrelid = target.oid and 'authenticated'::regrole = any (p.polroles)
        and (p.polcmd = 'r' or p.polcmd in ('a', 'w') and target.is_written)
    loop
      execute format('drop policy if exists %I on %s', 'keys: ' || rule.polname, target.oid);
      execute format('create policy %I on %s for %s to strive_api_key', 'keys: ' || rule.polname, target.oid, rule.command)
        || case when rule.using_text is not null then format(' using ((%s) and (select private.api_key_may(%L)))', rule.using_text, rule.scope) else '' end
        || case when rule.check_text is not null then format(' with check ((%s) and (select private.api_key_may(%L)))', rule.check_text, rule.scope) else '' end;
      select string_agg(quote_ident(a.attname), ', ' order by a.attnum) into columns from pg_catalog.pg_attribute a
      where a.attrelid = target.oid and a.attnum > 0 and not a.attisdropped
        and has_column_privilege('authenticated', a.attrelid, a.attnum, rule.command);
      if columns is not null then
        execute format('grant %s (%s) on %s to strive_api_key', rule.command, columns, target.oid);
      end if;
    end loop;
  end loop;
  -- Private functions are not exposed: what keys call is public.
  for target in
    select p.oid::regprocedure as name from pg_catalog.pg_proc p
    where p.pronamespace = 'private'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')
      or p.pronamespace = 'public'::regnamespace and exists (
        select from private.api_key_operations o where o.name = p.proname
      )
  loop
    execute format('grant execute on function %s to strive_api_key', target.name);
  end loop;
  for target in
    select c.oid::regclass as name from pg_catalog.pg_class c
    where c.relnamespace = 'private'::regnamespace and has_table_privilege('authenticated', c.oid, 'select')
  loop
    execute format('grant select on %s to strive_api_key', target.name);
  end loop;
end $$;
comment on function private.open_to_api_keys() is
  'Gives keys the grants and policies of people on the listed tables, each with its scope. A later chapter calls it again.';
select private.open_to_api_keys();
grant execute on function private.api_key_may("ApiKeyScope"), private.check_request() to strive_api_key;

-- The functions change into the role of a key for one transaction. Its rights are not inherited: policies of keys are not
-- planned for people.
do $$ begin
  if current_setting('server_version_num')::integer >= 160000 then
    execute 'grant strive_api_key to strive_functions with inherit false, set true';
  end if;
end $$;

select private.record_changes('public.api_keys', '{key_hash,last_used_at}',
  events => 'insert or update of name, scopes, networks, expires_at, revoked_at');

-- Making, rotating and revoking ---------------------------------------------------------------------------------------

create function private.create_api_key(wish jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN');
  old public.api_keys;
  made public.api_keys;
begin
  perform private.refuse_impersonation();
  perform from public.organizations o where o.id = org for update;
  if (
    select count(*) from public.api_keys k
    where k.organization_id = org and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
  ) >= 50 then
    raise exception 'An organization has at most 50 keys' using errcode = 'PT422', hint = 'Revoke a key first.';
  end if;
  if (wish ->> 'expires_at')::timestamptz not between now() and now() + interval '10 years' then
    raise exception 'expires_at is not within the next ten years' using
      errcode = 'PT422', detail = format('Found %s.', wish ->> 'expires_at'), hint = 'Omit it for a key that does not expire.';
  end if;
  if wish ? 'rotated_from' then
    update public.api_keys k
    set expires_at = least(k.expires_at, now() + make_interval(hours => (wish ->> 'overlap_hours')::integer))
    where k.id = (wish ->> 'rotated_from')::uuid and k.organization_id = org and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > now())
    returning k.* into old;
    if old.id is null then
      raise exception 'There is no such key that works' using errcode = 'PT404', hint = 'api_keys lists the keys.';
    end if;
  end if;
  insert into public.api_keys (
    organization_id, name, prefix, key_hash, scopes, networks, expires_at, created_by, rotated_from
  ) values (
    org, coalesce(old.name, wish ->> 'name'), wish ->> 'prefix', wish ->> 'key_hash',
    coalesce(old.scopes, array(
      select distinct x.scope::public."ApiKeyScope" from jsonb_array_elements_text(wish -> 'scopes') s,
        lateral (values (s), (replace(s, '_WRITE', '_READ'))) x (scope) order by 1
    )),
    case when old.id is not null then old.networks else (
      select array_agg(n::cidr) from jsonb_array_elements_text(nullif(wish -> 'networks', 'null')) n
    ) end,
    (wish ->> 'expires_at')::timestamptz, auth.uid(), old.id
  ) returning * into made;
  return jsonb_build_object(
    'id', made.id, 'name', made.name, 'prefix', made.prefix, 'scopes', to_jsonb(made.scopes), 'expires_at', made.expires_at,
    'replaces', case when old.id is not null then jsonb_build_object('id', old.id, 'expires_at', old.expires_at) end
  );
end $$;
comment on function private.create_api_key(jsonb) is
  'Stores a key whose hash is given, for ADMIN; with rotated_from, one like it that replaces it after overlap_hours.';
grant execute on function private.create_api_key(jsonb) to strive_functions;

create function private.revoke_api_key(key_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.require_org('ADMIN', true);
  gone public.api_keys;
begin
  update public.api_keys k set revoked_at = now(), revoked_by = auth.uid()
  where k.id = key_id and k.organization_id = org and k.revoked_at is null returning k.* into gone;
  if gone.id is null then
    raise exception 'There is no such key that works' using errcode = 'PT404', hint = 'api_keys lists the keys.';
  end if;
  return jsonb_build_object('id', gone.id, 'revoked_at', gone.revoked_at);
end $$;
comment on function private.revoke_api_key(uuid) is 'Does the work of public.revoke_api_key().';

create function public.revoke_api_key(key_id uuid) returns jsonb
language sql set search_path = '' as 'select private.revoke_api_key(key_id)';
comment on function public.revoke_api_key(uuid) is
  'Revokes a key of the organization, for ADMIN: it and the tokens made from it stop working with their next statement.';
grant execute on function private.revoke_api_key(uuid), public.revoke_api_key(uuid) to authenticated, service_role;
