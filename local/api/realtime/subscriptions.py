"""What a channel wants to know of the database: events of tables, with filters that Postgres evaluates."""

import json
import re
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from local.api.database import Row, literal, quoted
from local.api.realtime.protocol import compact
from local.api.realtime.replication import Change

VALUES_OF_IN = 100
COMPARISONS = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "isdistinct": "is distinct from"}
PATTERNS = {"like": "like", "ilike": "ilike", "match": "~", "imatch": "~*"}
OPERATORS = COMPARISONS | PATTERNS | {"in": "= any", "is": "is"}
KEYWORDS = {"null", "true", "false", "unknown"}
QUOTED = r'"(?:[^"\\]|\\.)*+"'
VALUE = rf"(?<=[.(,]){QUOTED}"
# Atomic groups, because Python before 3.11.3 matches possessive quantifiers inside of one another wrongly.
SEGMENTS = re.compile(rf"((?>(?:{VALUE}|\((?>(?:{VALUE}|[^()])*)\)|[^,])*)),", re.DOTALL)
FILTER = re.compile(r"([^=]*)=(not\.)?(\w+)\.(.*)", re.DOTALL)
# All filters of a change are evaluated by one statement. These take seconds to compile or to match, or fail.
EXPENSIVE = re.compile(r"\{|\\[1-9]|\(\?|.{201}", re.DOTALL)
# The published tables, each with the columns that the role may read.
TABLES = """select p.schemaname, p.tablename, array(
    select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      and has_column_privilege($1, c.oid, a.attnum, 'select')) as columns
from pg_publication_tables p, lateral (select format('%I.%I', p.schemaname, p.tablename)::regclass::oid as oid) c
where p.pubname = 'supabase_realtime'"""
PROBE = "select {condition} from jsonb_populate_record(null::{table}, '{{}}') r"

Read = Callable[..., Awaitable[list[list[Row]]]]


class Filter(NamedTuple):
    column: str
    operator: str
    value: str
    negated: bool

    @property
    def condition(self) -> str:
        """On a row `r`. A comparison with null accepts no row, negated or not."""
        value = self.value if self.operator == "is" else f"({literal(self.value)})"
        condition = f"{'not ' * self.negated}(r.{quoted(self.column)} {OPERATORS[self.operator]} {value})"
        # Postgres evaluates what is constant once, so a pattern that is none fails before there is a row.
        return condition if self.operator not in {"match", "imatch"} else f"('' ~ {value} is not null and {condition})"


@dataclass(frozen=True)
class Subscription:
    id: int
    event: str
    schema: str
    table: str
    select: tuple[str, ...] | None
    columns: tuple[str, ...]  # of the condition
    condition: str

    def wants(self, change: Change) -> bool:
        """Without the condition; a value that Postgres did not send can't fulfill it."""
        relation = change.relation
        return (
            self.event in {"*", change.action}
            and self.names(relation.schema, relation.table)
            and all(column in change.row for column in self.columns)
        )

    def names(self, schema: str, table: str) -> bool:
        return self.schema in {"*", schema} and self.table in {"*", table}


def identified(given: Row) -> int:
    """The same for the same parameters, so that sockets with the same subscription share messages."""
    return zlib.crc32(compact(given).encode()) & 0x7FFFFFF


class SubscriptionError(ValueError):
    """A client sent parameters that cannot be subscribed to."""


async def subscription(given: Row, role: str, read: Read) -> Subscription:
    """Raises ValueError for what can't be subscribed to, in the words of the hosted service."""
    schema, table, select, wanted = (given.get(name) for name in ("schema", "table", "select", "filter"))
    event = str(given.get("event")).upper()
    if not isinstance(schema or table, str) or not isinstance(wanted or "", str):
        message = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to"
        raise SubscriptionError(f"{message}: {compact(given)}")
    if isinstance(select, str):
        expected = 'expected a list of column name strings, e.g. select: ["col1", "col2"]'
        raise SubscriptionError(f"Error parsing `select` params: {expected}")
    filters = [_filter(part) for part in SEGMENTS.findall(f"{wanted},")] if wanted and wanted.strip() else []
    found = Subscription(
        identified(given),
        event if event in {"INSERT", "UPDATE", "DELETE"} else "*",
        schema or "public",
        table or "*",
        tuple(map(str, select)) if isinstance(select, list) and select else None,
        tuple(each.column for each in filters),
        " and ".join(each.condition for each in filters) or "true",
    )
    if found.select and "*" in {found.schema, found.table}:
        advice = "Provide an explicit schema and table name."
        raise ValueError(f"Column selection is not supported for wildcard subscriptions. {advice}")
    [published] = await read(TABLES, [role])
    tables = [each for each in published if found.names(each["schemaname"], each["tablename"])]
    why, exception = "Please check Realtime is enabled for the given connect parameters", ""
    for each in tables:
        if unknown := [column for column in found.columns if column not in each["columns"]]:
            exception = f"invalid column for filter {unknown[0]}"
        elif filters:
            try:
                name = f"{quoted(each['schemaname'])}.{quoted(each['tablename'])}"
                await read(PROBE.format(condition=found.condition, table=name))
            except (psycopg.DataError, psycopg.ProgrammingError) as error:
                exception = str(error.diag.message_primary)
    if exception or not tables:
        if exception:
            why = "An exception happened so please check your connect parameters"
        asked = f"filters: {compact([each[:3] for each in filters])}, select: {compact(select)}"
        about = f"[event: {found.event}, schema: {found.schema}, table: {found.table}, {asked}]"
        problem = f". Exception: {exception}" if exception else ""
        raise ValueError(f"Unable to subscribe to changes with given parameters. {why}: {about}{problem}")
    return found


def _filter(part: str) -> Filter:
    """`column=operator.value`. Several are separated by commas outside parentheses and quotes."""
    found = FILTER.fullmatch(part.strip())
    column, negated, operator, value = found.groups() if found else ("", None, "", part.strip())
    problem = None
    if not part.strip():
        problem = "filter must not contain empty segments (check for extra commas)"
    elif operator not in OPERATORS:
        problem = json.dumps([operator, value] if operator else [value])
    elif operator == "in" and not (value.startswith("(") and value.endswith(")")):
        problem = "`in` filter value must be wrapped by parentheses"
    elif operator == "in" and len(SEGMENTS.findall(f"{value[:-1]},")) > VALUES_OF_IN:
        problem = f"too many values for `in` filter. Maximum {VALUES_OF_IN}"
    elif operator in {"match", "imatch"} and EXPENSIVE.search(value):
        problem = "pattern may be expensive: it has a repetition {}, a back reference, (?…) or more than 200 characters"
    elif operator == "is" and value not in KEYWORDS:
        problem = "invalid value for is filter: must be null, true, false, or unknown"
    if problem:
        raise ValueError(f"Error parsing `filter` params: {problem}")
    if operator == "in":
        value = "{" + value[1:-1] + "}"
    elif re.fullmatch(QUOTED, value, re.DOTALL):
        value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    return Filter(column, operator, value, bool(negated))
