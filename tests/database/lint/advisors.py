"""The rules of Supabase's advisors under their names, stricter where that is free.

Not here: unused_index and table_bloat speak of traffic, not of the schema; pg_graphql is not used.
"""

from tests.database.lint import Rule

EXPOSED = "('public')"

RULES = [
    Rule(
        "unindexed_foreign_keys",
        """
        select label from foreign_keys k where not exists (
          select from pg_index i where i.indrelid = k.relation and i.indisvalid
            and k.numbers <@ (i.indkey::int2[])[0:cardinality(k.numbers) - 1]
            and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) like '%IS NOT NULL%')
        )
        """,
        "create table public.defect (user_id uuid references public.users (id))",
    ),
    Rule(
        "auth_users_exposed",
        """
        select r.label from relations r join pg_rewrite w on w.ev_class = r.oid
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
        where r.kind in ('v', 'm') and d.refobjid = 'auth.users'::regclass
        """,
        "create view public.defect as select id, email from auth.users; grant select on public.defect to authenticated",
    ),
    Rule(
        "auth_rls_initplan",
        r"""
        select label from policies, lateral (values (using_text), (check_text)) e (expression)
        where regexp_replace(expression, '\( SELECT (auth\.\w+\(\)|current_setting\([^)]*\))', '', 'g')
          ~ 'auth\.\w+\(|current_setting\('
        """,
        "create policy defect on public.users for delete to authenticated using (id = auth.uid())",
    ),
    Rule(
        "no_primary_key",
        """
        select label from tables t where not exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary)
        """,
        "create table public.defect (id uuid)",
    ),
    Rule(
        "multiple_permissive_policies",
        """
        select format('%s.%s for %s to %s', p.schema, p."table", action, role)
        from policies p, unnest(p.roles) role,
          unnest(case p.command when '*' then '{r,a,w,d}'::text[] else array[p.command::text] end) action
        where p.permissive group by p.schema, p."table", action, role having count(*) > 1
        """,
        "create policy defect on public.users for select to authenticated using (id = (select auth.uid()))",
    ),
    Rule(
        "policy_exists_rls_disabled",
        "select p.label from policies p join pg_class c on c.oid = p.relation where not c.relrowsecurity",
        "alter table public.organization_members disable row level security",
    ),
    Rule(
        "rls_enabled_no_policy",
        "select label from tables t where rls and not exists (select from policies p where p.relation = t.oid)",
        "create table public.defect (id uuid primary key); alter table public.defect enable row level security",
    ),
    Rule(
        "duplicate_index",
        """
        select min(i.indexrelid::regclass::text) || ' on ' || t.label
        from pg_index i join tables t on t.oid = i.indrelid
        group by t.label, i.indkey::text, i.indclass::text, i.indoption::text, pg_get_expr(i.indexprs, i.indrelid),
          pg_get_expr(i.indpred, i.indrelid)
        having count(*) > 1
        """,
        "create index defect on public.users (created_at desc)",
    ),
    Rule(
        "security_definer_view",
        """
        select label from relations where kind = 'v'
          and not coalesce(options, '{}') && '{security_invoker=true,security_invoker=on,security_invoker=1}'
        """,
        "create view public.defect as select id from public.users; grant select on public.defect to authenticated",
    ),
    Rule(
        "function_search_path_mutable",
        """select label from functions where not coalesce(config, '{}') @> array['search_path=""']""",
        "create function public.defect() returns int language sql return 1",
    ),
    Rule(
        "rls_disabled_in_public",
        f"select label from tables where schema in {EXPOSED} and not rls",
        "create table public.defect (id uuid primary key); grant select on public.defect to authenticated",
    ),
    Rule(
        "extension_in_public",
        "select extname from pg_extension where extnamespace in ('public'::regnamespace, 'private'::regnamespace)",
        "create extension hstore schema public",
    ),
    Rule(
        "rls_references_user_metadata",
        "select label from policies where text ~ 'user_metadata'",
        "create policy defect on public.users for delete to authenticated"
        " using (((select auth.jwt()) -> 'user_metadata' ->> 'admin') = 'yes')",
    ),
    Rule(
        "materialized_view_in_api",
        f"select label from relations where kind = 'm' and schema in {EXPOSED}",
        "create materialized view public.defect as select 1 as one; grant select on public.defect to authenticated",
    ),
    Rule(
        "foreign_table_in_api",
        f"select label from relations where kind = 'f' and schema in {EXPOSED}",
        "create foreign data wrapper defect; create server defect foreign data wrapper defect;"
        "create foreign table public.defect (id uuid) server defect; grant select on public.defect to authenticated",
    ),
    Rule(
        "unsupported_reg_types",
        "select label from columns where type::regtype::text ~ '^reg'",
        "create table public.defect (runs regproc)",
    ),
    Rule(
        "insecure_queue_exposed_in_api",
        """
        select c.oid::regclass::text from pg_class c where c.relnamespace = to_regnamespace('pgmq')
          and c.relkind = 'r' and not c.relrowsecurity
          and (has_table_privilege('anon', c.oid, 'select') or has_table_privilege('authenticated', c.oid, 'select'))
        """,
        "create schema pgmq; create table pgmq.q_defect (id uuid); grant select on pgmq.q_defect to anon",
    ),
    Rule(
        "fkey_to_auth_unique",
        """
        select k.label from foreign_keys k join pg_class c on c.oid = k.target join pg_index i on i.indexrelid = k.index
        where c.relnamespace = 'auth'::regnamespace and not i.indisprimary
        """,
        "create unique index on auth.users (email);"
        "create table public.defect (email text references auth.users (email))",
    ),
    Rule(
        "extension_versions_outdated",
        "select name from pg_available_extensions where installed_version <> default_version",
        "create extension citext schema extensions version '1.4'",
    ),
    Rule(
        "sensitive_columns_exposed",
        f"""
        select label from columns where schema in {EXPOSED}
          and name ~ '^(password|passwd|pwd|secret|secret_key|private_key|api_key|token|jwt|access_token|refresh_token'
            '|otp|ssn|tax_id|credit_card|card_number|cvv|cvc|iban|bank_account|certificate|license_key)$'
          and (has_any_column_privilege('anon', relation, 'select')
            or has_column_privilege('authenticated', relation, number, 'select'))
        """,
        "create table public.defect (api_key text); grant select on public.defect to authenticated",
    ),
    Rule(
        "rls_policy_always_true",
        r"""
        select label from policies
        where regexp_replace(coalesce(using_text, ''), '[\s()]', '', 'g') in ('true', '1=1')
          or regexp_replace(coalesce(check_text, ''), '[\s()]', '', 'g') in ('true', '1=1')
          or (using_text is null and check_text is null)
        """,
        "create policy defect on public.users for update to authenticated using (true)",
    ),
    Rule(
        "rls_policy_null_auth_disjunct",
        r"""
        select label from policies
        where text ~* '(select [^()]*\([^()]*\)[^()]*|auth\.\w+\(\)|current_setting\([^()]*\))\)* is null'
        """,
        "create policy defect on public.users for delete to authenticated"
        " using ((select auth.uid()) is null or id = (select auth.uid()))",
    ),
    Rule(
        "public_bucket_allows_listing",
        r"""
        select b.id || ' by ' || p.label from storage.buckets b, policies p
        where b.public and p.relation = 'storage.objects'::regclass and p.command in ('r', '*')
          and regexp_replace(coalesce(p.using_text, 'true'), '[\s()]', '', 'g')
            in ('true', '1=1', format('bucket_id=%L::text', b.id))
        """,
        "create policy defect on storage.objects for select to authenticated using (bucket_id = 'avatars')",
    ),
    Rule(
        "security_definer_function_executable",
        f"select label from functions where definer and schema in {EXPOSED}",
        "create function public.defect() returns int language sql security definer set search_path = '' return 1",
    ),
    Rule(
        "invalid_index",
        "select indexrelid::regclass::text from pg_index join tables on oid = indrelid where not indisvalid",
        "update pg_index set indisvalid = false where indexrelid = 'public.users_email_idx'::regclass",
    ),
]
