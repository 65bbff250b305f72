"""What a channel wants to know of the database: events of tables, with filters that Postgres evaluates."""

import json
import re
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

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
TABLES = "select schemaname, tablename from pg_publication_tables where pubname = 'supabase_realtime'"
PROBE = """select {condition} from jsonb_populate_record(null::{table}, '{{}}') r
  where has_column_privilege({rights}, 'select')"""

Read = Callable[[str], Awaitable[list[list[Row]]]]


@dataclass(frozen=True)
class Filter:
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

    async def problem(self, table: str, role: str, read: Read) -> str | None:
        """Why the role can't filter the table so."""
        rights = ", ".join(map(literal, (role, table, self.column)))
        try:
            [rows] = await read(PROBE.format(condition=self.condition, table=table, rights=rights))
        except psycopg.errors.UndefinedColumn:
            rows = []
        except (psycopg.DataError, psycopg.ProgrammingError) as error:
            return error.diag.message_primary
        return None if rows else f"invalid column for filter {self.column}"


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


async def subscription(given: Row, role: str, read: Read) -> Subscription:
    """Raises ValueError for what can't be subscribed to, in the words of the hosted service."""
    schema, table, event, select = (given.get(name) for name in ("schema", "table", "event", "select"))
    if not isinstance(schema or table, str):
        message = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to"
        raise ValueError(f"{message}: {compact(given)}")  # noqa: TRY004 - of the request, not of a value
    filters = _parse(given.get("filter"))
    found = Subscription(
        identified(given),
        str(event).upper() if str(event).upper() in {"INSERT", "UPDATE", "DELETE"} else "*",
        schema or "public",
        table or "*",
        tuple(map(str, select)) if isinstance(select, list) and select else None,
        tuple(each.column for each in filters),
        " and ".join(each.condition for each in filters) or "true",
    )
    names = [(row["schemaname"], row["tablename"]) for row in (await read(TABLES))[0]]
    tables = [".".join(map(quoted, name)) for name in names if found.names(*name)]
    wrong = [why for name in tables for each in filters if (why := await each.problem(name, role, read))]
    if wrong or not tables:
        asked = [[each.column, each.operator, each.value] for each in filters]
        raise ValueError(
            "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given "
            f"connect parameters: [event: {found.event}, schema: {found.schema}, table: {found.table}, "
            f"filters: {compact(asked)}, select: {compact(select)}]"
            + "".join(f". Exception: {each}" for each in wrong[:1])
        )
    return found


def _parse(text: Any) -> list[Filter]:
    """`column=operator.value`, several separated by commas outside parentheses and quotes."""
    filters = []
    for part in SEGMENTS.findall(f"{text},") if isinstance(text, str) and text.strip() else ():
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
        elif operator == "is" and value not in KEYWORDS:
            problem = "invalid value for is filter: must be null, true, false, or unknown"
        if problem:
            raise ValueError(f"Error parsing `filter` params: {problem}")
        if operator == "in":
            value = "{" + value[1:-1] + "}"
        elif re.fullmatch(QUOTED, value, re.DOTALL):
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        filters.append(Filter(column, operator, value, bool(negated)))
    return filters
