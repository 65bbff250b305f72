"""The schema as the database itself knows it."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from local.database import migrations

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Enum:
    name: str
    labels: tuple[str, ...]
    comment: str


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    is_enum: bool
    required: bool
    comment: str


@dataclass(frozen=True)
class ForeignKey:
    columns: tuple[str, ...]
    target: str  # schema.table, or table alone in public
    unique: bool
    required: bool


@dataclass(frozen=True)
class Table:
    name: str
    comment: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    domain: str


class Event(NamedTuple):
    description: str
    subjects: list[str] | None
    details: dict[str, Any]


@dataclass(frozen=True)
class Schema:
    enums: tuple[Enum, ...]
    tables: tuple[Table, ...]
    jobs: tuple[tuple[str, str], ...]
    events: dict[str, Event]

    @property
    def domains(self) -> list[str]:
        return list(dict.fromkeys(table.domain for table in self.tables))


_ENUMS = """
    select t.typname, array(select enumlabel::text from pg_enum e where e.enumtypid = t.oid order by enumsortorder),
      coalesce(obj_description(t.oid, 'pg_type'), '')
    from pg_type t where t.typtype = 'e' and t.typnamespace = 'public'::regnamespace order by 1
"""
_TABLES = """
    select c.oid::int8, c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''),
      array(select a.attname::text from pg_index i join pg_attribute a on a.attrelid = i.indrelid
        and a.attnum = any (i.indkey) where i.indrelid = c.oid and i.indisprimary order by a.attnum)
    from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 2
"""
_COLUMNS = """
    select a.attname, format_type(a.atttypid, null), t.typtype = 'e' or e.typtype = 'e', a.attnotnull,
      coalesce(col_description(a.attrelid, a.attnum), '')
    from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type e on e.oid = t.typelem
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_EVENTS = """
    select kind, description, subjects, details from private.event_kinds
    where is_webhook or kind = 'organization.webhook.tested' order by kind
"""
_FOREIGN_KEYS = """
    select array(select a.attname::text from unnest(k.conkey) with ordinality n (number, at)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = n.number order by n.at),
      case when n.nspname = 'public' then c.relname else n.nspname || '.' || c.relname end,
      exists (select from pg_index i where i.indrelid = k.conrelid and i.indisunique and i.indpred is null
        and (i.indkey::int2[])[0:i.indnkeyatts - 1] <@ k.conkey),
      not exists (select from pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey)
        and not a.attnotnull)
    from pg_constraint k join pg_class c on c.oid = k.confrelid join pg_namespace n on n.oid = c.relnamespace
    where k.conrelid = %s and k.contype = 'f' order by k.conkey
"""


def read(connection: Connection) -> Schema:
    enums = tuple(Enum(name, tuple(labels), comment) for name, labels, comment in connection.execute(_ENUMS))
    domains = _domains()
    tables = []
    for oid, name, comment, primary_key in connection.execute(_TABLES).fetchall():
        columns = tuple(Column(*row) for row in connection.execute(_COLUMNS, [oid]))
        keys = tuple(
            ForeignKey(tuple(columns), target, unique, required)
            for columns, target, unique, required in connection.execute(_FOREIGN_KEYS, [oid])
        )
        tables.append(Table(name, comment, columns, tuple(primary_key), keys, domains[name]))
    order = list(dict.fromkeys(domains.values()))
    jobs = connection.execute("select name, description from private.jobs order by name").fetchall()
    events = connection.execute(_EVENTS).fetchall()
    ordered = tuple(sorted(tables, key=lambda table: (order.index(table.domain), table.name)))
    return Schema(
        enums,
        ordered,
        tuple((name, description) for name, description in jobs),
        {kind: Event(*rest) for kind, *rest in events},
    )


def _domains() -> dict[str, str]:
    """Table → its domain: the first word of the chapter that creates it (`crm_deals` belongs to `crm`)."""
    return {
        table: name.partition("_")[0]
        for _, name, path in migrations()
        for table in re.findall(r"^create table public\.(\w+)", path.read_text(), re.MULTILINE)
    }
