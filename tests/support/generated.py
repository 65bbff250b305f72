"""Rows for every table of every tenant, from the catalog alone, so that a planner has something to choose about.

Checks, triggers and keys are off while they are written: plans read statistics and indexes, not meanings.
"""

from psycopg import sql

from tests.support.world import ACME, PEOPLE, Connection, fixed_id

ROWS = 3_000
ORGANIZATIONS = [ACME, *(fixed_id(f"organization {n}") for n in range(29))]
ME = PEOPLE["owner"]

# Rows are in the order of time; the first tenant has 20 % of them, most have few.
_PICKED = """
    create temp table picked as
    select n, (array[{organizations}]::uuid[])[
      least(30, floor(exp(random() * ln(31)))::int)
    ] as organization_id,
    case when random() < 0.3 then {me}::uuid else gen_random_uuid() end as user_id
    from generate_series(1, {rows}) n
"""

_COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), t.typtype,
      coalesce((select true from pg_constraint k where k.conrelid = a.attrelid and k.contype = 'f'
        and k.confrelid = 'public.users'::regclass and a.attnum = any (k.conkey)), false)
    from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
"""


def tables(connection: Connection) -> list[str]:
    """All tables except those the others reference."""
    rows = connection.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
        " and relname not in ('users', 'organizations', 'plans') order by 1"
    )
    return [name for (name,) in rows]


def _value(name: str, kind: str, typtype: str, is_user: bool) -> sql.Composable:
    """An expression over `p` (see _PICKED): different in every row where the type allows it."""
    if name == "organization_id":
        return sql.SQL("p.organization_id")
    if kind == "uuid":
        return sql.SQL("p.user_id") if is_user or name == "user_id" else sql.SQL("gen_random_uuid()")
    if typtype == "e":
        return sql.SQL("(enum_range(null::{}))[1 + p.n % cardinality(enum_range(null::{}))]").format(
            sql.SQL(kind), sql.SQL(kind)
        )
    if kind.startswith("timestamp"):
        return sql.SQL("now() - ({} - p.n) * interval '1 minute'").format(sql.Literal(ROWS))
    constant = {
        "text": "md5(p.n::text)",
        "boolean": "p.n % 3 = 0",
        "jsonb": "'{}'",
        "date": "current_date",
        "inet": "'127.0.0.1'",
        "bytea": "''",
    }
    other = "'{}'" if kind.endswith("[]") else f"(p.n % 10)::{kind}"
    return sql.SQL(constant.get(kind, other))


def fill(connection: Connection) -> None:
    """`connection` is the superuser's, of a temporary database."""
    connection.execute("set session_replication_role = replica")
    connection.execute(
        sql.SQL(_PICKED).format(
            organizations=sql.SQL(", ").join(map(sql.Literal, ORGANIZATIONS)),
            me=sql.Literal(ME),
            rows=sql.Literal(ROWS),
        )
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.organizations (id, name, slug) values (%s, %s, %s) on conflict (id) do nothing",
            [(org, f"Organization {n}", f"organization-{n}") for n, org in enumerate(ORGANIZATIONS)],
        )
    connection.execute(
        "insert into public.users (id, email) select user_id, min(n) || '@strive.test' from picked group by 1"
        " on conflict do nothing"
    )
    checks = connection.execute(
        "select conrelid::regclass::text, conname from pg_constraint where contype = 'c' and conrelid <> 0"
        " and connamespace = 'public'::regnamespace"
    ).fetchall()
    for table, check in checks:
        connection.execute(sql.SQL("alter table {} drop constraint {}").format(sql.SQL(table), sql.Identifier(check)))
    for table in tables(connection):
        _fill(connection, table)
    connection.execute("reset session_replication_role")
    connection.execute("analyze")


def _fill(connection: Connection, table: str) -> None:
    oid = connection.execute("select %s::regclass::oid::int8", [f"public.{table}"]).fetchone()
    assert oid
    columns = connection.execute(_COLUMNS, oid).fetchall()
    # Building an index once is faster than keeping it for every row; a unique one skips conflicting rows.
    indexes = connection.execute(
        # Of a table by month, the months get theirs again, too.
        "select indexrelid::regclass::text, replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ')"
        " from pg_index where indrelid = %s"
        " and not indisunique",
        oid,
    ).fetchall()
    for name, _ in indexes:
        connection.execute(sql.SQL("drop index {}").format(sql.SQL(name)))
    connection.execute(
        sql.SQL("insert into {} ({}) select {} from picked p order by p.n on conflict do nothing").format(
            sql.Identifier("public", table),
            sql.SQL(", ").join(sql.Identifier(column[0]) for column in columns),
            sql.SQL(", ").join(_value(*column) for column in columns),
        )
    )
    for _, definition in indexes:
        connection.execute(definition)
