-- The schedule: gives every job to pg_cron, where it is present. The last chapter, since every domain adds its jobs before.

do $$ begin
  -- pg_cron works only in the database it was started for.
  if exists (select from pg_available_extensions where name = 'pg_cron')
    and current_setting('cron.database_name', true) = current_database() then
    create extension if not exists pg_cron with schema pg_catalog;
  end if;
  perform private.schedule_jobs();
end $$;
