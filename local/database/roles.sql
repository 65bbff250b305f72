-- The roles of a hosted Supabase project, once per cluster. `supabase_admin` made the cluster and is the only superuser;
-- `postgres`, who applies migrations, is none: what fails there must fail here. {password} is the workdir's own.
create role postgres login createdb createrole replication bypassrls password {password};
create role anon nologin;
create role authenticated nologin;
create role service_role nologin bypassrls;
create role authenticator login noinherit password {password};
create role supabase_auth_admin login noinherit password {password};
create role supabase_storage_admin login noinherit password {password};
create role supabase_realtime_admin nologin noinherit;
create role supabase_replication_admin login noinherit replication password {password};
create role dashboard_user nologin createdb createrole replication;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to supabase_storage_admin;
grant anon, authenticated, service_role, supabase_realtime_admin to supabase_replication_admin;
-- Postgres 15 knows no admin option between roles of a creator: there createrole is enough.
grant anon, authenticated, service_role, authenticator to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
-- Hosted, an extension lets `postgres` write policies on these owners' tables; membership is the nearest to it.
grant supabase_storage_admin, supabase_realtime_admin to postgres;

-- Hosted, `postgres` may switch off triggers for a session, to put data back as it was.
grant set on parameter session_replication_role to postgres;
-- Hosted, an extension lets `postgres` set what the data API reads from the role authenticator.
grant set on parameter pgrst.db_pre_request to postgres;

alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role supabase_auth_admin set search_path = auth;
alter role supabase_auth_admin set idle_in_transaction_session_timeout = '60s';
alter role supabase_storage_admin set search_path = storage;
