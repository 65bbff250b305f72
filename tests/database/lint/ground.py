"""Rules for all objects: grants, functions, types, names, comments."""

from tests.database.lint import Rule

# The only objects reachable without a token, with the reason.
ANONYMOUS = {
    "public.content SELECT": "published content is read by anyone",
    "private.check_statement() EXECUTE": "the policy of published content plans it",
    "private.examine_statement() EXECUTE": "check_statement() calls it",
    "private.check_request() EXECUTE": "the data API runs it before every statement",
}
_CLIENTS = "unnest('{anon,authenticated}'::text[]) role"

RULES = [
    Rule(
        "a table has no comment",
        "select label from tables where obj_description(oid, 'pg_class') is null",
        "create table public.defect (id uuid)",
    ),
    Rule(
        "a column has no comment",
        """
        select format('%s.%I', r.label, a.attname) from relations r
        join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        where r.kind in ('r', 'p', 'v') and col_description(r.oid, a.attnum) is null
        """,
        "create table public.defect (id uuid)",
    ),
    Rule(
        "an enum has no comment",
        """
        select t.oid::regtype::text from pg_type t where t.typtype in ('e', 'd')
          and t.typnamespace in ('public'::regnamespace, 'private'::regnamespace)
          and obj_description(t.oid, 'pg_type') is null
        """,
        """create type public."Defect" as enum ('A')""",
    ),
    Rule(
        "a function has no comment",
        "select label from functions where obj_description(oid, 'pg_proc') is null",
        "create function private.defect() returns int language sql return 1",
    ),
    Rule(
        "a table of the API has no grants of its own",
        """
        select label from tables where schema = 'public' and not has_table_privilege('service_role', oid, 'select')
          or schema = 'public' and acl is null
        """,
        "create table public.defect (id uuid)",
    ),
    Rule(
        "anonymous callers reach something that is not named",
        f"""
        select r.label || ' ' || p from relations r, unnest('{{SELECT,INSERT,UPDATE,DELETE}}'::text[]) p
        where case when r.kind = 'S' then p = 'SELECT' and has_sequence_privilege('anon', r.oid, 'usage')
          when p = 'DELETE' then has_table_privilege('anon', r.oid, p)
          else has_any_column_privilege('anon', r.oid, p) end
          and not r.label || ' ' || p = any ('{{{",".join(f'"{name}"' for name in ANONYMOUS)}}}')
        union all select label || ' EXECUTE' from functions where has_function_privilege('anon', oid, 'execute')
          and not label || ' EXECUTE' = any ('{{{",".join(f'"{name}"' for name in ANONYMOUS)}}}')
        """,
        "grant select (id) on public.users to anon",
    ),
    Rule(
        "PUBLIC may execute a function",
        "select label from functions where acl is null or acl::text ~ '[{,]=X'",
        "create function private.defect() returns int language sql return 1;"
        "grant execute on function private.defect() to public",
    ),
    Rule(
        # A real PostgREST 14 runs such a request again without end.
        "a function raises a serialization failure or a deadlock, or makes Postgres raise one",
        """
        select f.label from functions f join pg_proc p on p.oid = f.oid
        where coalesce(p.prosrc, pg_get_functiondef(p.oid)) ~* '40001|40P01|serialization_failure|deadlock_detected'
          or array_to_string(p.proconfig, ',') ~ 'transaction_isolation'
        union all
        select rolname::text from pg_roles where array_to_string(rolconfig, ',') ~ 'transaction_isolation'
        """,
        "create function private.defect() returns void language plpgsql as "
        "$$ begin raise exception using errcode = '40001'; end $$",
    ),
    Rule(
        "a client reads or writes a private table",
        f"""
        select format('%s by %s', label, role) from relations, {_CLIENTS}
        where schema = 'private' and kind <> 'S'
          and (has_any_column_privilege(role, oid, 'select, insert, update')
            or has_table_privilege(role, oid, 'delete'))
        """,
        "create table private.defect (id uuid); grant select on private.defect to authenticated",
    ),
    Rule(
        "a client may do what no policy can stop",
        f"""
        select format('%s by %s', label, role) from tables, {_CLIENTS}
        where has_table_privilege(role, oid, 'truncate, references, trigger')
        """,
        "grant truncate on public.users to authenticated",
    ),
    Rule(
        "a client may make objects",
        f"""
        select format('%s by %s', nspname, role) from pg_namespace, {_CLIENTS}
        where nspname in ('public', 'private', 'extensions') and has_schema_privilege(role, oid, 'create')
        """,
        "grant create on schema public to authenticated",
    ),
    Rule(
        "a check is not named as a sentence",
        """
        select format('%s: %s', t.label, c.conname) from pg_constraint c join tables t on t.oid = c.conrelid
        where c.contype = 'c' and c.conname !~ ' '
        """,
        "create table public.defect (n int check (n > 0))",
    ),
    Rule(
        "a constraint was never validated",
        "select format('%s: %s', t.label, conname) from pg_constraint c join tables t on t.oid = conrelid"
        " where not convalidated",
        "alter table public.users add constraint \"not checked\" check (email <> '') not valid",
    ),
    Rule(
        "a time has no time zone",
        "select label from columns where type in ('timestamp'::regtype, 'timetz'::regtype, 'time'::regtype)",
        "create table public.defect (at timestamp)",
    ),
    Rule(
        "a type has a better one beside it",
        """
        select label || ' ' || type::regtype from columns
        where type in ('json'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'money'::regtype, 'name'::regtype)
          or (type in ('float4'::regtype, 'float8'::regtype) and name ~ '(amount|price|cost|budget|cents)')
        """,
        "create table public.defect (price float8)",
    ),
    Rule(
        "an id is no uuid",
        "select label from columns where schema = 'public' and name = 'id' and type <> 'uuid'::regtype",
        "create table public.defect (id bigint)",
    ),
    Rule(
        "no trigger updates updated_at",
        """
        select label from columns c where name = 'updated_at' and not exists (
          select from pg_trigger t where t.tgrelid = c.relation and t.tgenabled = 'O'
            and t.tgfoid = 'private.touch_updated_at'::regproc
        )
        """,
        "create table public.defect (updated_at timestamptz)",
    ),
    Rule(
        "created_at is not always known",
        """
        select label from columns c where name in ('created_at', 'updated_at') and (not required or not exists (
          select from pg_attrdef d where d.adrelid = c.relation and d.adnum = c.number
        ))
        """,
        "create table public.defect (created_at timestamptz default now())",
    ),
    Rule(
        "a name is not in snake case",
        r"""
        select label from relations where label !~ '^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$'
        union all select label from columns where name !~ '^[a-z][a-z0-9_]*$'
        union all select label from functions where name !~ '^[a-z][a-z0-9_]*$'
        """,
        'create table public.defect ("createdAt" timestamptz)',
    ),
    Rule(
        "a column that clients write is not bounded",
        f"""
        select distinct format('%s.%s', t.label, a.attname) from tables t
        join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        join pg_type y on y.oid = a.atttypid
        join (values ('jsonb', 'check_json'), ('json', 'never'), ('text', 'length\\('), ('varchar', 'length\\('),
          ('_text', 'are_short_texts'), ('_uuid', 'cardinality'), ('numeric', '<='), ('float8', '<='),
          ('timestamptz', '2200'), ('timestamp', '2200'), ('date', '2200')) b (type, pattern) on b.type = y.typname
        cross join {_CLIENTS}
        where t.schema = 'public' and has_column_privilege(role, t.oid, a.attnum, 'insert, update')
          and not exists (
            select from pg_constraint k where k.conrelid = t.oid and k.contype = 'c' and a.attnum = any (k.conkey)
              and pg_get_constraintdef(k.oid) ~ b.pattern
          )
        """,
        "create table public.defect (n numeric check (n > 0)); grant insert on public.defect to authenticated",
    ),
    Rule(
        "a client would get the bare text of Postgres: run private.explain_refusals()",
        r"""
        select distinct format('%s: %s', t.label, k.conname) from tables t
        join pg_constraint k on k.conrelid = t.oid
        cross join lateral (
          select array_agg(quote_ident(a.attname)) as names, bool_or(a.attgenerated <> '') as is_generated, bool_or(
            a.attname <> 'organization_id' and has_column_privilege('authenticated', t.oid, a.attnum, 'insert, update')
          ) as is_written
          from pg_attribute a where a.attrelid = t.oid and a.attnum = any (k.conkey)
        ) of_key
        where t.schema = 'public' and case when k.contype <> 'c' then of_key.is_written and k.conname !~ ' '
          else has_any_column_privilege('authenticated', t.oid, 'insert, update') and not of_key.is_generated
            and pg_get_expr(k.conbin, t.oid) !~ 'check_json|is_graph' and not exists (
              select from pg_trigger g join pg_proc p on p.oid = g.tgfoid
              where g.tgrelid = t.oid and g.tgname = 'z_explain_refusal'
                and strpos(
                  replace(p.prosrc, 'public.', ''),
                  replace(private.of_new_row(pg_get_expr(k.conbin, t.oid), of_key.names), 'public.', '')
                ) > 0
            ) end
        """,
        "create table public.defect (n integer check (n > 0)); grant insert on public.defect to authenticated",
    ),
    Rule(
        "history lacks a column: run private.record_changes()",
        r"""
        select c.label from columns c
        join pg_trigger g on g.tgrelid = c.relation and g.tgname = 'history' join pg_proc p on p.oid = g.tgfoid
        where strpos(p.prosrc, format('if new.%I is distinct', c.name)) = 0
          and c.name <> all ((regexp_match(p.prosrc, '''({[^}]*})''::text'))[1]::text[])
        """,
        "alter table public.leads add column defect text",
    ),
    Rule(
        "a broadcast names other columns than members may read: run private.broadcast_updates()",
        r"""
        select c.label from columns c
        join pg_trigger g on g.tgrelid = c.relation and g.tgname = 'broadcast_update' join pg_proc p on p.oid = g.tgfoid
        where (strpos(p.prosrc, format('case when n.%1$I is distinct from o.%1$I then %1$L', c.name)) > 0)
          <> (c.name <> 'updated_at' and has_column_privilege('authenticated', c.relation, c.number, 'select'))
        """,
        "alter table public.leads add column defect text",
    ),
    Rule(
        # Set for one transaction, a setting is '' afterwards in that session, not null.
        "a setting of a request is compared with null",
        r"""
        select f.label from functions f join pg_proc p using (oid)
        where p.prosrc ~* '(?<!nullif\()current_setting\([^()]*\.[^()]*\)\s*(is (not )?(null|distinct)|::)'
        union all select label from policies
        where text ~* '(?<!nullif\()current_setting\([^()]*\)\)*\s*is (not )?null'
        """,
        "create function private.defect() returns boolean language plpgsql as "
        "$$ begin return current_setting('request.headers', true) is null; end $$",
    ),
    Rule(
        # PostgREST responds to that error of Postgres with 500. With a trigger, the missing grant is found first: 403.
        "a view that cannot be written has no trigger that says so",
        """
        select label from relations r where kind = 'v' and schema = 'public'
          and pg_relation_is_updatable(oid, true) & 28 <> 28
        """,
        "create view public.defect as select count(*) from public.users",
    ),
]
