"""What a channel wants to know of the database: events of tables, with filters on their columns."""

import zlib
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from local.api.database import Query, Row
from local.api.realtime.pgoutput import Change
from local.api.realtime.protocol import compact
from local.api.realtime.values import KEYWORDS, Filter, parse_filters

VALUES_OF_IN = 100
PATTERN_OPERATORS = {"like": "~~", "ilike": "~~", "match": "~", "imatch": "~*"}
TABLES = "select schemaname, tablename from pg_publication_tables where pubname = 'supabase_realtime'"
# The value as the column's type prints it; it fails if the type does not accept the value.
COLUMN_TYPE = """select format_type(a.atttypid, a.atttypmod) as type, exists (select from pg_operator o
    where o.oprname = $5 and o.oprleft = a.atttypid and o.oprright = a.atttypid) as has_pattern from pg_attribute a
  where a.attrelid = format('%I.%I', $1::text, $2::text)::regclass and a.attname = $3 and a.attnum > 0
    and has_column_privilege($4::text, a.attrelid, a.attnum, 'select')"""


@dataclass(frozen=True)
class Subscription:
    id: int
    event: str
    schema: str
    table: str
    filters: tuple[Filter, ...]
    select: tuple[str, ...] | None

    def wants(self, change: Change, types: dict[str, int]) -> bool:
        if self.event not in {"*", change.action} or not self._names(change.relation.schema, change.relation.table):
            return False
        return all(each.accepts(change.row, types) for each in self.filters)

    def _names(self, schema: str, table: str) -> bool:
        return self.schema in {"*", schema} and self.table in {"*", table}


def parse(parameters: Any) -> Subscription:
    """Raises ValueError with what is wrong."""
    given = parameters if isinstance(parameters, dict) else {}
    schema, table, text = given.get("schema"), given.get("table"), given.get("filter")
    if not isinstance(schema or table, str):
        found = "<redacted>" if {"user_token", "auth_token"} & set(given) else compact(given)
        message = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to"
        raise ValueError(f"{message}: {found}")  # noqa: TRY004 - of the request, not of a value
    try:
        filters = parse_filters(text) if isinstance(text, str) else []
    except ValueError as error:
        raise ValueError(f"Error parsing `filter` params: {error}") from None
    event = str(given.get("event", "*")).upper()
    columns = given.get("select")
    return Subscription(
        identifier(given),
        event if event in {"INSERT", "UPDATE", "DELETE"} else "*",
        schema or "public",
        table or "*",
        tuple(filters),
        tuple(map(str, columns)) if isinstance(columns, list) and columns else None,
    )


def identifier(parameters: Any) -> int:
    """The same for the same parameters, so that sockets with the same subscription share messages."""
    return zlib.crc32(compact(parameters).encode()) & 0x7FFFFFF


async def checked(query: Query, subscription: Subscription, role: str) -> Subscription:
    """With filter values as Postgres prints them; raises ValueError for what can't be subscribed to."""
    tables = [(row["schemaname"], row["tablename"]) for row in await query(TABLES)]
    if not any(subscription._names(*table) for table in tables):  # noqa: SLF001 - of the same module
        raise ValueError(_refusal(subscription))
    if not subscription.filters:
        return subscription
    if "*" in {subscription.schema, subscription.table}:
        return subscription
    filters = []
    for each in subscription.filters:
        operator = PATTERN_OPERATORS.get(each.operator, "=")
        found = await query(COLUMN_TYPE, subscription.schema, subscription.table, each.column, role, operator)
        try:
            filters.append(await _checked_filter(query, each, found))
        except psycopg.DataError as error:
            raise ValueError(f"{_refusal(subscription)}. Exception: {error.diag.message_primary}") from None
        except ValueError as error:
            raise ValueError(f"{_refusal(subscription)}. Exception: {error}") from None
    return replace(subscription, filters=tuple(filters))


async def _checked_filter(query: Query, given: Filter, columns: list[Row]) -> Filter:
    operator, value = given.operator, given.value
    if not columns:
        raise ValueError(f"invalid column for filter {given.column}")
    kind, has_pattern = columns[0]["type"], columns[0]["has_pattern"]
    if operator == "is":
        if value not in KEYWORDS:
            raise ValueError("invalid value for is filter: must be null, true, false, or unknown")
        if value != "null" and kind != "boolean":
            raise ValueError(f"is {value} filter requires a boolean column, got {kind}")
        return given
    if given.is_pattern:
        if not has_pattern:
            raise ValueError(f"operator {operator} requires a text-compatible column type, got {kind}")
        if operator in {"match", "imatch"}:
            await query("select '' ~ $1::text", value)
        return given
    if operator == "in":
        rows = await query(f"select unnest($1::{kind}[])::text as printed", value)
        if len(rows) > VALUES_OF_IN:
            raise ValueError(f"too many values for `in` filter. Maximum {VALUES_OF_IN}")
        return replace(given, values=tuple(str(row["printed"]) for row in rows))
    [row] = await query(f"select $1::{kind}::text as printed", value)
    return replace(given, value=str(row["printed"]))


def _refusal(subscription: Subscription) -> str:
    filters = [[each.column, each.operator, each.value] for each in subscription.filters]
    return (
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect "
        f"parameters: [event: {subscription.event}, schema: {subscription.schema}, table: {subscription.table}, "
        f"filters: {compact(filters)}, select: {compact(subscription.select)}]"
    )
