-- Views of the catalog for the rules: what is ours, in the schemas we make, and our policies on tables of the services.
create temp view relations as
select c.oid, n.nspname as schema, c.relname as name, format('%I.%I', n.nspname, c.relname) as label, c.relkind as kind,
  c.relrowsecurity as rls, c.relacl as acl, c.reloptions as options
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('public', 'private') and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e');

create temp view tables as select * from relations where kind in ('r', 'p');

create temp view columns as
select t.oid as relation, t.schema, t.name as "table", t.label || '.' || quote_ident(a.attname) as label, a.attname as name,
  a.attnum as number, a.atttypid as type, a.attnotnull as required
from tables t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped;

create temp view functions as
select p.oid, n.nspname as schema, p.proname as name, p.oid::regprocedure::text as label, p.prosecdef as definer,
  p.proacl as acl, p.proconfig as config, p.prorettype as returns, p.provolatile as volatility
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname in ('public', 'private')
  and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e');

create temp view policies as
select p.oid, p.polrelid as relation, n.nspname as schema, c.relname as "table",
  format('%I.%I: %s', n.nspname, c.relname, p.polname) as label, p.polcmd as command, p.polpermissive as permissive,
  array(select case r when 0 then 'public' else r::regrole::text end from unnest(p.polroles) r) as roles,
  p.polqual::text as using_tree, p.polwithcheck::text as check_tree,
  pg_get_expr(p.polqual, p.polrelid) as using_text, pg_get_expr(p.polwithcheck, p.polrelid) as check_text,
  concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) as text
from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace;

create temp view foreign_keys as
select k.oid, k.conrelid as relation, k.confrelid as target, t.schema, t.name as "table", t.label || ': ' || k.conname as label,
  k.conkey as numbers, k.conindid as index, k.confdeltype as on_delete, k.confdelsetcols as sets,
  array(select a.attname::text from unnest(k.conkey) with ordinality n (number, at)
    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = n.number order by n.at) as names,
  array(select a.attname::text from unnest(k.confkey) with ordinality n (number, at)
    join pg_attribute a on a.attrelid = k.confrelid and a.attnum = n.number order by n.at) as target_names
from pg_constraint k join tables t on t.oid = k.conrelid where k.contype = 'f';
