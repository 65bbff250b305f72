-- Realtime: which tables announce their changes, and who may join which channel. Changes of a table reach only those
-- whom its select policies show the row. Channels are private; their topic says whose they are:
--   org:{organisation}:…           listened to by its members, broadcast on by MEMBER and above
--   org:{organisation}:presence    where every member, a VIEWER too, says that they are here
--   user:{user}:…                  this user alone

do $$
declare
  announced text;
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  foreach announced in array '{tasks,customers,projects,notifications,activity_feeds,custom_agent_orders,build_logs}'::text[]
  loop
    if not exists (
      select from pg_publication_tables p
      where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = announced
    ) then
      execute format('alter publication supabase_realtime add table public.%I', announced);
    end if;
  end loop;
end $$;

-- A channel names its organisation itself, so that somebody who belongs to two can listen to both.
create function private.may_use_channel(topic text, action text) returns boolean
language plpgsql stable security definer set search_path = '' as $$
declare
  me uuid := private.current_user_id();
  named text[] := regexp_match(topic, '^(org|user):([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([^:].*)$');
  mine public."OrgRole";
begin
  if me is null or named is null then
    return false;
  end if;
  if named[1] = 'user' then
    return named[2]::uuid = me;
  end if;
  select m.role into mine from public.organization_members m
  where m.user_id = me and m.organization_id = named[2]::uuid;
  return coalesce(case action
    when 'listen' then mine is not null or private.is_admin()
    when 'broadcast' then mine <= 'MEMBER'
    when 'presence' then mine is not null and named[3] = 'presence'
  end, false);
end $$;
comment on function private.may_use_channel(text, text) is
  'Whether the caller may listen, broadcast or say they are present (presence) on the channel with this topic.';
grant execute on function private.may_use_channel(text, text) to authenticated, service_role;

-- Where realtime is too old to have private channels, there is nothing to say who may join them.
do $$ begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  drop policy if exists "channels are heard by whom they are for" on realtime.messages;
  create policy "channels are heard by whom they are for" on realtime.messages for select to authenticated
    using (extension in ('broadcast', 'presence') and (select private.may_use_channel(realtime.topic(), 'listen')));
  drop policy if exists "members broadcast and say they are present" on realtime.messages;
  create policy "members broadcast and say they are present" on realtime.messages for insert to authenticated
    with check (case extension
      when 'broadcast' then (select private.may_use_channel(realtime.topic(), 'broadcast'))
      when 'presence' then (select private.may_use_channel(realtime.topic(), 'presence'))
    end);
end $$;
