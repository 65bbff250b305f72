-- What has to hold on a hosted project and no migration can be sure of. Run as the login `postgres`, after every deployment:
-- `strive doctor --project URL` does. One row per check: its name, whether it passes, what was found, what to do.

with published as (
  select p.schemaname || '.' || p.tablename as name, c.relreplident
  from pg_catalog.pg_publication_tables p
  join pg_catalog.pg_namespace n on n.nspname = p.schemaname
  join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
  where p.pubname = 'supabase_realtime'
),
settings as (
  select r.rolname as role, s.setting
  from pg_catalog.pg_db_role_setting d
  join pg_catalog.pg_roles r on r.oid = d.setrole
  cross join lateral unnest(d.setconfig) s (setting)
  where d.setdatabase in (0, (select o.oid from pg_catalog.pg_database o where o.datname = current_database()))
),
tables as (
  select c.oid, c.relname, c.relrowsecurity from pg_catalog.pg_class c
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
),
checks (place, name, problem, advice) as (
  select 1, 'Requests to the data API are checked first',
    case when not exists (
      select from settings s where s.role = 'authenticator' and s.setting = 'pgrst.db_pre_request=private.check_request'
    ) then 'pgrst.db_pre_request of authenticator is not private.check_request' end,
    'Run: alter role authenticator set pgrst.db_pre_request = ''private.check_request''; notify pgrst, ''reload config'';'
  union all
  select 2, 'The data API explains no plans',
    (select 'authenticator has ' || s.setting from settings s
      where s.role = 'authenticator' and s.setting in ('pgrst.db_plan_enabled=true', 'pgrst.db_plan_enabled=on')),
    'Run: alter role authenticator reset pgrst.db_plan_enabled; notify pgrst, ''reload config'';'
  union all
  select 3, 'Statements of clients end',
    (select 'no statement_timeout for ' || string_agg(r.role, ', ' order by r.role)
      from (values ('anon'), ('authenticated'), ('strive_functions'), ('strive_api_key')) r (role)
      where not exists (
        select from settings s where s.role = r.role and s.setting ~ '^statement_timeout=[1-9]'
      )),
    'Run: alter role … set statement_timeout = ''8s'';'
  union all
  select 4, 'Files keep the limits of their bucket when moved or copied',
    (select 'storage.objects has no enabled trigger ' || string_agg(t.name, ', ' order by t.name)
      from (values ('strive_guard_object'), ('strive_follow_object'), ('strive_follow_object_away')) t (name)
      where not exists (
        select from pg_catalog.pg_trigger g
        where g.tgrelid = 'storage.objects'::regclass and g.tgname = t.name and g.tgenabled <> 'D'
      )),
    'Apply 20261120190000_storage.sql as a role that may create triggers there, or ask Supabase for that privilege. Until '
    'then the policies guard moves and copies; avatars and uploads by signed addresses are not bounded.'
  union all
  select 5, 'Buckets are as public and as large as they should be',
    (select string_agg(format('%s: public %s, limit %s', e.id, b.public, b.file_size_limit), '; ' order by e.id)
      from (values ('attachments', false), ('exports', false), ('avatars', true), ('public-assets', true)) e (id, public)
      left join storage.buckets b on b.id = e.id
      where b.public is distinct from e.public or b.file_size_limit is null),
    'Restore the settings of 20261120190000_storage.sql and 20261120233000_organization_export.sql.'
  union all
  select 6, 'DELETE events of Realtime hold keys only',
    (select 'whole rows are sent for ' || string_agg(p.name, ', ' order by p.name) from published p where p.relreplident = 'f'),
    'Realtime sends DELETE events to every subscriber of a table. Run: alter table … replica identity default;'
  union all
  select 7, 'Channels of Realtime are private',
    case when to_regclass('realtime.messages') is null then 'there is no realtime.messages'
      when not exists (select from pg_catalog.pg_policy p where p.polrelid = to_regclass('realtime.messages'))
      then 'realtime.messages has no policy' end,
    'Enable Realtime, apply 20261120200000_realtime.sql, and switch off "Allow public access" in the Realtime settings.'
  union all
  select 8, 'New accounts confirm their e-mail address',
    (select format('%s of the accounts of the last 30 days were confirmed without a message', count(*))
      from auth.users u
      where to_jsonb(u) ->> 'email_confirmed_at' is not null and u.created_at > now() - interval '30 days'
        and to_jsonb(u) ->> 'confirmation_sent_at' is null and to_jsonb(u) ->> 'invited_at' is null
        and coalesce(to_jsonb(u) #>> '{raw_app_meta_data,provider}', 'email') = 'email'
      having count(*) > 0),
    'Switch on Authentication → Sign In / Providers → Email → Confirm email. Accounts made by an administrator count here too.'
  union all
  select 9, 'Every table has row level security',
    (select string_agg(t.relname, ', ' order by t.relname) from tables t where not t.relrowsecurity),
    'Run: alter table … enable row level security;'
  union all
  select 10, 'Without a token, only published content can be reached',
    (select string_agg(t.relname, ', ' order by t.relname) from tables t
      where has_any_column_privilege('anon', t.oid, 'insert, update') or has_table_privilege('anon', t.oid, 'delete')
        or t.relname <> 'content' and has_any_column_privilege('anon', t.oid, 'select')),
    'Run: revoke all on … from anon; and check the default privileges of the schema public.'
  union all
  select 11, 'Without a token, no function can be called',
    (select string_agg(p.oid::regprocedure::text, ', ' order by p.proname) from pg_catalog.pg_proc p
      where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
        and p.oid <> all (array[to_regprocedure('private.check_request()'), to_regprocedure('private.check_statement()'),
          to_regprocedure('private.examine_statement()')])
        and has_function_privilege('anon', p.oid, 'execute')),
    'Run: revoke execute on function … from public, anon;'
  union all
  select 12, 'Clients cannot empty or reference tables',
    (select string_agg(t.relname, ', ' order by t.relname) from tables t
      where has_table_privilege('authenticated', t.oid, 'truncate, references, trigger')),
    'Run: revoke truncate, references, trigger on … from authenticated;'
  union all
  select 13, 'The login of the functions has no rights of its own',
    (select concat_ws(', ', case when r.rolsuper then 'it is a superuser' end,
        case when r.rolbypassrls then 'it bypasses row level security' end,
        case when pg_has_role(r.oid, 'service_role', 'member') then 'it is a member of service_role' end)
      from pg_catalog.pg_roles r
      where r.rolname = 'strive_functions'
        and (r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, 'service_role', 'member'))),
    'Run: alter role strive_functions nobypassrls; revoke service_role from strive_functions;'
  union all
  select 14, 'Every column that clients write is bounded',
    (select count(*) || ' columns have no check' from (
      select from tables t
      join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
      join pg_catalog.pg_type y on y.oid = a.atttypid
      where y.typname in ('jsonb', 'json', 'text', '_text', 'timestamptz', 'numeric', 'float8') and a.attgenerated = ''
        and has_column_privilege('authenticated', t.oid, a.attnum, 'insert, update')
        and not exists (
          select from pg_catalog.pg_constraint k
          where k.conrelid = t.oid and k.contype = 'c' and a.attnum = any (k.conkey)
        )
    ) unbounded having count(*) > 0),
    'Run: select private.bound_client_columns();'
  union all
  select 15, 'Reads with API keys are counted',
    case
      when s.slot_name is null then 'there is no replication slot ' || private.usage_slot()
      when s.wal_status = 'lost' then 'the replication slot was lost, since the roll-up did not run'
      when pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.confirmed_flush_lsn) > 1 << 30
      then 'the replication slot holds more than 1 GB of the log'
    end,
    'Run: select private.meter_reads(); and see that the job roll_up_usage runs.'
  from (values (1)) one (row) left join pg_catalog.pg_replication_slots s on s.slot_name = private.usage_slot()
)
select c.name, nullif(c.problem, '') is null as ok, coalesce(nullif(c.problem, ''), 'as it should be') as found, c.advice
from checks c order by c.place;
