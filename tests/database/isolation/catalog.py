"""Tables, functions and buckets to protect, read from the catalog."""

from dataclasses import dataclass, field

from psycopg.rows import class_row, dict_row

from tests.support.world import Connection, Row

# Schemas whose tables clients reach; of storage and realtime only tables with our policies or grants.
RELATIONS = """
select n.nspname as schema, c.relname as relation, c.relkind = 'v' as is_view, c.relrowsecurity as secured,
  coalesce(c.reloptions @> '{security_invoker=true}', false) as as_invoker
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and (
  n.nspname = 'public'
  or (n.nspname, c.relname) in (('storage', 'objects'), ('storage', 'buckets'), ('realtime', 'messages'))
)
order by 1, 2
"""
COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as required,
  a.atthasdef as has_default, a.attgenerated <> '' as generated, t.typtype = 'e' as is_enum,
  (select e.enumlabel from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder limit 1) as first_label,
  t.typcategory = 'A' as is_array,
  has_column_privilege('authenticated', a.attrelid, a.attnum, 'insert') as insertable,
  has_column_privilege('authenticated', a.attrelid, a.attnum, 'update') as updatable
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
KEYS = """
select array(select a.attname::text from unnest(c.conkey) with ordinality k (n, o)
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.n order by o) as columns,
  c.contype = 'p' as is_primary,
  case when c.confrelid <> 0 then (select n.nspname || '.' || r.relname from pg_class r
    join pg_namespace n on n.oid = r.relnamespace where r.oid = c.confrelid) end as parent,
  array(select a.attname::text from unnest(c.confkey) with ordinality k (n, o)
    join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.n order by o) as parent_columns,
  c.conname as name
from pg_constraint c where c.conrelid = %s::regclass and c.contype in ('p', 'f') order by c.contype desc, c.conname
"""


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    required: bool
    has_default: bool
    generated: bool
    is_enum: bool
    first_label: str | None
    is_array: bool
    insertable: bool
    updatable: bool


@dataclass(frozen=True)
class ForeignKey:
    name: str
    columns: list[str]
    parent: str
    parent_columns: list[str]


@dataclass(frozen=True)
class Table:
    """A table or view; `name` carries the schema unless it is public."""

    schema: str
    relation: str
    is_view: bool
    secured: bool
    as_invoker: bool
    columns: dict[str, Column]
    key: list[str]
    foreign_keys: list[ForeignKey] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.relation if self.schema == "public" else f"{self.schema}.{self.relation}"

    @property
    def sql(self) -> str:
        return f'"{self.schema}"."{self.relation}"'

    @property
    def key_text(self) -> str:
        """SQL of the row's key as one text."""
        return " || ',' || ".join(f'"{column}"::text' for column in self.key)

    @property
    def parents(self) -> set[str]:
        return {key.parent.removeprefix("public.") for key in self.foreign_keys}


def tables(connection: Connection) -> dict[str, Table]:
    with connection.cursor(row_factory=dict_row) as cursor:
        found = [table(connection, row) for row in cursor.execute(RELATIONS).fetchall()]
    return {one.name: one for one in found}


def table(connection: Connection, row: Row) -> Table:
    path = '"{schema}"."{relation}"'.format_map(row)
    with connection.cursor(row_factory=class_row(Column)) as cursor:
        columns = {column.name: column for column in cursor.execute(COLUMNS, [path])}
    with connection.cursor(row_factory=dict_row) as cursor:
        keys = cursor.execute(KEYS, [path]).fetchall()
    primary: list[str] = next((key["columns"] for key in keys if key["is_primary"]), [])
    foreign = [ForeignKey(k["name"], k["columns"], k["parent"], k["parent_columns"]) for k in keys if k["parent"]]
    return Table(**row, columns=columns, key=primary, foreign_keys=foreign)


def functions(connection: Connection, schema: str = "public") -> set[str]:
    """Every function, as `name(types)`; except triggers, which cannot be called."""
    return {
        str(name)
        for (name,) in connection.execute(
            "select p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' from pg_proc p"
            " where p.pronamespace = %s::regnamespace"
            " and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)"
            " and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')",
            [schema],
        )
    }


def enums(connection: Connection) -> dict[str, str]:
    """Every enum with its labels in order."""
    return dict(
        connection.execute(
            "select t.typname, string_agg(e.enumlabel, ' ' order by e.enumsortorder) from pg_type t"
            " join pg_enum e on e.enumtypid = t.oid where t.typnamespace = 'public'::regnamespace group by 1 order by 1"
        ).fetchall()
    )


def published(connection: Connection) -> list[str]:
    """The tables whose changes Realtime sends."""
    query = "select tablename from pg_publication_tables where pubname = 'supabase_realtime' and schemaname = 'public'"
    return [name for (name,) in connection.execute(query).fetchall()]


def buckets(connection: Connection) -> dict[str, dict[str, object]]:
    rows = connection.execute("select id, public, file_size_limit, allowed_mime_types from storage.buckets").fetchall()
    return {
        bucket: {"public": public, "megabytes": size >> 20 if size else None, "types": " ".join(types or [])}
        for bucket, public, size, types in rows
    }


def definer_functions(connection: Connection) -> dict[str, list[str]]:
    """Functions that run with the rights of their owner, by who may execute them."""
    found: dict[str, list[str]] = {}
    for role, name in connection.execute(
        "select r, n.nspname || '.' || p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace,"
        " unnest(array['anon', 'authenticated']) r where p.prosecdef and n.nspname in ('public', 'private')"
        " and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)"
        " and has_function_privilege(r, p.oid, 'execute') order by 1, 2"
    ):
        found.setdefault(role, []).append(name)
    return found


def functions_of_keys(connection: Connection) -> list[str]:
    """Functions of the data API that API keys may execute."""
    rows = connection.execute(
        "select distinct p.proname from pg_proc p where p.pronamespace = 'public'::regnamespace"
        " and has_function_privilege('strive_api_key', p.oid, 'execute') order by 1"
    )
    return [str(name) for (name,) in rows]


def policy_roles(connection: Connection, table: Table) -> dict[str, str]:
    return dict(
        connection.execute(
            "select policyname, array_to_string(roles, ' ') from pg_policies where schemaname = %s and tablename = %s",
            [table.schema, table.relation],
        ).fetchall()
    )


def granted(connection: Connection, table: Table) -> set[tuple[str, str]]:
    """(role, privilege) on the whole table or any column of it."""
    return set(
        connection.execute(
            "select case x.grantee when 0 then 'public' else x.grantee::regrole::text end, x.privilege_type"
            " from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attacl is not null,"
            " lateral (select * from aclexplode(c.relacl) union all select * from aclexplode(a.attacl)) x"
            " where c.oid = %s::regclass and x.grantee <> c.relowner"
            " and (x.grantee = 0 or x.grantee::regrole::text in ('anon', 'authenticated'))",
            [table.sql],
        ).fetchall()
    )


def keys_across_tenants(connection: Connection) -> dict[str, list[str]]:
    """Unique keys that do not begin with whose row it is, and all of whose columns clients may write."""
    found: dict[str, list[str]] = {}
    for table, columns in connection.execute(
        "select c.relname, string_agg(a.attname, ' ' order by k.n) from pg_index i"
        " join pg_class c on c.oid = i.indrelid, unnest(i.indkey) with ordinality k (attnum, n)"
        " join pg_attribute a on a.attnum = k.attnum"
        " where i.indisunique and c.relnamespace = 'public'::regnamespace and a.attrelid = i.indrelid"
        " group by c.relname, i.indexrelid"
        " having not bool_or(a.attname in ('organization_id', 'user_id', 'reviewer_id'))"
        " and bool_and(has_column_privilege('authenticated', i.indrelid, a.attnum, 'insert')"
        "   or has_column_privilege('authenticated', i.indrelid, a.attnum, 'update'))"
    ):
        found.setdefault(str(columns), []).append(str(table))
    return {columns: sorted(tables) for columns, tables in found.items()}
