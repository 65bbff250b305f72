"""From a plan to one SQL statement that does the work, makes the body and counts.

The aliases are PostgREST's: they appear in the messages of Postgres, which clients see.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from local.api.database import literal, quoted
from local.api.rest.catalog import Column, Function, Parameter
from local.api.rest.errors import RestError
from local.api.rest.grammar import QUANTIFIABLE_OPERATORS, SEARCH_FUNCTIONS, SIMPLE_OPERATORS, JsonStep, Operation
from local.api.rest.media import Handler
from local.api.rest.payload import Payload
from local.api.rest.plan import SOURCE, Coerced, Node, NullEmbed, Order, Selected, Tree, Where
from local.api.rest.ranges import ALL, Range
from local.api.rest.relationships import Name

ROWS = "_postgrest_t"
SCALAR = "pgrst_scalar"
BODY = "pgrst_body"
EVERYTHING = f"select * from {SOURCE}"
INSERTED = "nullif(current_setting('pgrst.inserted', true), '')::int"


def qualified(name: Name) -> str:
    return ".".join(quoted(part) for part in name if part)


def column_of(table: str, column: str) -> str:
    return f"{table}.*" if column == "*" else f"{table}.{quoted(column)}"


def value_of(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return literal(f"\\x{value.hex()}")
    if "\0" in value:
        # As Postgres answers: a text can't contain it.
        raise RestError(400, "22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    return literal(value)


def _array(values: Iterable[str]) -> str:
    escaped = (value.replace("\0", "").replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return value_of("{" + ",".join(f'"{value}"' for value in escaped) + "}")


# Fields ---------------------------------------------------------------------------------------------------------------


def _path(path: Iterable[JsonStep]) -> str:
    return "".join(f"{step.arrow}{value_of(step.operand)}{'::int' if step.is_index else ''}" for step in path)


def field_of(table: str, coerced: Coerced) -> str:
    chosen = coerced.field
    text = column_of(table, chosen.name)
    if not chosen.path:
        return text
    # JSON needs no conversion, without which an index may be used.
    return (text if coerced.is_json else f"to_jsonb({text})") + _path(chosen.path)


def _selected(table: str, selected: Selected) -> str:
    text = field_of(table, selected.field)
    if selected.field.transform:
        text = f"{qualified(selected.field.transform)}({text})"
    if selected.cast:
        text = f"cast({text} as {selected.cast})"  # the grammar allows letters, digits, blanks, _ and $
    return f"{text} as {quoted(selected.alias)}" if selected.alias else text


# Conditions -----------------------------------------------------------------------------------------------------------


def _condition(table: str, where: Where, embedded: Callable[["NullEmbed"], str]) -> str:
    if isinstance(where, Tree):
        joined = f" {where.operator} ".join(_condition(table, each, embedded) for each in where.children)
        return f"{'not ' if where.negated else ''}({joined})"
    if isinstance(where, NullEmbed):
        return embedded(where)
    operation = where.filter.operation
    return ("not " if operation.negated else "") + _operation(table, where.field, operation)


def _operation(table: str, coerced: Coerced, operation: Operation) -> str:
    left, value = field_of(table, coerced), operation.value
    if isinstance(value, tuple):
        return left + _among(value, coerced)
    if operation.kind == "is":
        return f"{left} is {value}"
    if operation.kind == "distinct":
        return f"{left} is distinct from {value_of(value)}"
    if operation.kind == "search":
        language = f"{value_of(operation.option)}, " if operation.option else ""
        if coerced.is_searched:
            left = f"to_tsvector({language}{left})"
        return f"{left} @@ {SEARCH_FUNCTIONS[operation.operator]}({language}{value_of(value)})"
    operator = SIMPLE_OPERATORS.get(operation.operator) or QUANTIFIABLE_OPERATORS[operation.operator]
    if operation.operator in {"like", "ilike"}:
        right = value_of(value.replace("*", "%"))
    else:
        right = _parsed(value_of(value), coerced)
    return f"{left} {operator} {f'{operation.option}({right})' if operation.option else right}"


def _parsed(parameter: str, coerced: Coerced) -> str:
    return f"{qualified(coerced.transform)}({parameter}::text)" if coerced.transform else parameter


def _among(values: tuple[str, ...], coerced: Coerced) -> str:
    if values == ("",):
        return " = any('{}')"
    parameter = _array(values)
    if coerced.transform:
        return f" = any (select {qualified(coerced.transform)}(unnest({parameter}::text[])))"
    return f" = any ({parameter})"


# Reading --------------------------------------------------------------------------------------------------------------


def rows_of(node: Node) -> str:
    """The rows of a relation with what is embedded in it."""
    table = _table(node)
    names = [_selected(table, each) for each in node.select]
    if not node.select and not node.children:
        names = [f"{table}.*"]
    names += [_order_column(node, number, order) for number, order in enumerate(_spread_order(node), 1)]
    joins = []
    for child in node.children:
        if not (child.shows_nothing and not child.spread):
            names += _from_child(child)
        joins.append(_join(child))
    conditions = [_condition(table, each, _has_row) for each in node.where] + _join_conditions(node)
    order = [] if node.spreads_many else node.order
    return (
        f"select {', '.join(names)}{_from(node)}{''.join(joins)}"
        + (f" where {' and '.join(conditions)}" if conditions else "")
        + _ordered(table, order)
        + _limited(node.rows)
    )


def _from(node: Node) -> str:
    relationship = node.relationship
    if relationship and relationship.function:
        argument = f"{quoted(node.parent_alias[-1])}::{qualified(relationship.source)}"
        text = f"{qualified(relationship.function)}({argument})"
    else:
        text = qualified(node.relation)
    text = f" from {text}" + (f" as {quoted(node.alias)}" if node.alias else "")
    return text + (f", {qualified(relationship.junction.table)}" if relationship and relationship.junction else "")


def _from_child(child: Node) -> list[str]:
    alias = quoted(child.joined_as)
    if child.spread:
        return [column_of(alias, name) for name in _spread_names(child)]
    shown = quoted(child.shown)
    if child.relationship and child.relationship.to_one:
        return [f"row_to_json({alias}.*)::jsonb as {shown}"]
    return [f"coalesce({alias}.{alias}, '[]') as {shown}"]


def _join(child: Node) -> str:
    alias, rows = quoted(child.joined_as), rows_of(child)
    kind = "inner" if child.inner else "left"
    if child.relationship and child.relationship.to_one:
        return f" {kind} join lateral ({rows}) as {alias} on true"
    names = [f"json_agg({alias})::jsonb as {alias}"]
    if child.spread:
        ordered = _ordered(alias, _spread_order_terms(child))
        names += [
            f"coalesce(json_agg({column_of(alias, name)}{ordered}), '[]')::jsonb as {quoted(name)}"
            for name in _spread_names(child)
        ]
    condition = f"{alias} is not null" if child.inner else "true"
    return f" {kind} join lateral (select {', '.join(names)} from ({rows}) as {alias}) as {alias} on {condition}"


def _order_column(node: Node, number: int, order: Order) -> str:
    """Rows that become columns of the parent are ordered while they are gathered: by columns of their own."""
    table = quoted(order.relation.joined_as) if order.relation else _table(node)
    return f"{field_of(table, order.field)} as {quoted(_order_name(node, number, order))}"


def _ordered(table: str, terms: list[Order]) -> str:
    texts = [
        " ".join(
            filter(
                None,
                (
                    field_of(quoted(each.relation.joined_as) if each.relation else table, each.field),
                    each.term.direction,
                    each.term.nulls,
                ),
            )
        )
        for each in terms
    ]
    return f" order by {', '.join(texts)}" if texts else ""


def _limited(rows: Range) -> str:
    if rows == ALL:
        return ""
    limit = "all" if rows.limit is None else value_of(str(rows.limit))
    return f" limit {limit} offset {value_of(str(rows.first))}"


def counted(node: Node) -> str:
    """A row for each that the conditions leave, whatever the limit; inner joins are conditions too."""

    def has_row(each: NullEmbed) -> str:
        return f"{'' if each.negated else 'not '}exists ({counted(each.child)})"

    table = _table(node)
    conditions = [_condition(table, each, has_row) for each in node.where] + _join_conditions(node)
    conditions += [f"exists ({counted(child)})" for child in node.children if child.inner]
    return f"select 1{_from(node)}" + (f" where {' and '.join(conditions)}" if conditions else "")


def estimate(node: Node) -> str:
    return f"explain (format json) {counted(node)}"


# Writing --------------------------------------------------------------------------------------------------------------


def _body(
    payload: Payload,
    columns: list[tuple[str, str]],
    parsed: Callable[[str], str] = quoted,
    defaults: str = "",
    limit: str = "",
) -> str:
    """The rows of the body, typed as the columns; `defaults` are what missing ones become."""
    kind, value, source = "json", value_of(payload.raw.decode(errors="replace")), "pgrst_payload.json_data"
    text = f"from (select {value}::json as json_data) pgrst_payload, "
    if defaults:
        kind, source = "jsonb", "pgrst_json_defs.val"
        text = f"from (select {value}::jsonb as json_data) pgrst_payload, "
        if payload.is_object:
            text += f"lateral (select {defaults} || pgrst_payload.json_data as val) pgrst_json_defs, "
        else:
            text += (
                f"lateral (select jsonb_agg({defaults} || elem) as val "
                "from jsonb_array_elements(pgrst_payload.json_data) elem) pgrst_json_defs, "
            )
    if columns:
        typed = ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns)
        rows = f"{kind}_to_record{'' if payload.is_object else 'set'}({source}) as _({typed})"
    else:
        rows = "(values (1)) _" if payload.is_object else f"{kind}_array_elements({source}) _"
    names = ", ".join(parsed(name) for name, _ in columns)
    return f"{text}lateral (select {names} from {rows}{limit}) {BODY}"


def insert(write: "Write", conditions: list[Where]) -> str:
    """`conditions` are those of a PUT, which the body must fulfill."""
    columns = write.columns
    names = ", ".join(quoted(each.name) for each in columns)
    shown = ", ".join(f"{BODY}.{quoted(each.name)}" for each in columns)
    text = f"insert into {qualified(write.relation)}{f'({names})' if columns else ''} select {shown} "
    text += _body(write.payload, *write.body())
    merges = write.resolution == "merge-duplicates"
    inserts = [_counted(1)] if conditions or merges else []
    inserts += [_condition(BODY, each, _has_row) for each in conditions]
    text += f" where {' and '.join(inserts)}" if inserts else ""
    if write.resolution and write.conflict:
        text += f" on conflict ({', '.join(map(quoted, write.conflict))}) do "
        if merges and columns:
            changes = ", ".join(f"{quoted(each.name)} = excluded.{quoted(each.name)}" for each in columns)
            text += f"update set {changes} where {_counted(-1)}"
        else:
            text += "nothing"
    return text + _returning(qualified(write.relation), write.returning)


def update(write: "Write", conditions: list[Where]) -> str:
    table = qualified(write.relation)
    if not write.columns:
        short = quoted(write.relation[1])
        shown = ", ".join(column_of(short, name) for name in write.returning) or "null"
        return f"select {shown} from {table} where false"
    changes = ", ".join(f"{quoted(each.name)} = {BODY}.{quoted(each.name)}" for each in write.columns)
    text = f"update {table} set {changes} {_body(write.payload, *write.body())}"
    return text + _conditions(table, conditions) + _returning(table, write.returning)


def delete(write: "Write", conditions: list[Where]) -> str:
    table = qualified(write.relation)
    return f"delete from {table}{_conditions(table, conditions)}{_returning(table, write.returning)}"


def _conditions(table: str, conditions: list[Where]) -> str:
    texts = [_condition(table, each, _has_row) for each in conditions]
    return f" where {' and '.join(texts)}" if texts else ""


# Calling --------------------------------------------------------------------------------------------------------------


def call(call: "Call", returning: list[str]) -> str:
    function, name = call.function, qualified(call.function.name)
    given = [each for each in function.parameters if each.name in call.keys]
    before = ""
    if len(function.parameters) == 1 and not function.parameters[0].name:
        arguments = _single(function.parameters[0], call.body)
    elif not given:
        arguments = ""
    elif call.arguments is not None:
        arguments = ", ".join(_argument(each, call.arguments) for each in given)
    else:
        columns = [(each.name, each.unbounded) for each in given]
        # Of a list of objects only the first is an argument.
        rows = _body(Payload(call.body, call.keys), columns, limit=" limit 1")
        before = f"{rows.removeprefix('from ')}, lateral "
        arguments = ", ".join(
            f"{'variadic ' if each.variadic else ''}{quoted(each.name)} := {BODY}.{quoted(each.name)}" for each in given
        )
    if not function.composite:
        called = f"(select {name}({arguments}) {SCALAR}) pgrst_call"
        return f"select pgrst_call.{SCALAR} from {before}{called}"
    shown = ", ".join(column_of("pgrst_call", column) for column in returning) or "*"
    return f"select {shown} from {before}{name}({arguments}) pgrst_call"


def _single(parameter: Parameter, body: bytes) -> str:
    if parameter.type == "bytea":
        return f"{value_of(body)}::bytea"
    return f"{value_of(body.decode(errors='replace'))}::{parameter.type}"


def _argument(parameter: Parameter, arguments: dict[str, str | list[str]]) -> str:
    given = arguments[parameter.name]
    value = value_of(given) if isinstance(given, str) else f"{_array(given)}::text[]"
    prefix = "variadic " if parameter.variadic else ""
    return f"{prefix}{quoted(parameter.name)} := {value}::{parameter.unbounded}"


@dataclass(frozen=True)
class Write:
    relation: Name
    columns: list[Column]
    payload: Payload
    returning: list[str]
    parsers: dict[str, Name] = field(default_factory=dict)
    resolution: str | None = None
    conflict: tuple[str, ...] = ()
    with_defaults: bool = False

    def body(self) -> tuple[list[tuple[str, str]], Callable[[str], str], str]:
        def parsed(name: str) -> str:
            parser = self.parsers.get(name)
            return f"{qualified(parser)}({quoted(name)}) as {quoted(name)}" if parser else quoted(name)

        # What is parsed by a function of the domain comes as JSON.
        columns = [(each.name, "json" if each.name in self.parsers else each.type) for each in self.columns]
        defaults = ""
        if self.with_defaults:
            pairs = (f"{literal(each.name)}, {each.default}" for each in self.columns if each.default is not None)
            defaults = f"jsonb_build_object({', '.join(pairs)})"
        return columns, parsed, defaults


@dataclass(frozen=True)
class Call:
    function: Function
    keys: frozenset[str]
    body: bytes
    arguments: dict[str, str | list[str]] | None


# Parts ----------------------------------------------------------------------------------------------------------------


def _table(node: Node) -> str:
    return quoted(node.alias) if node.alias else qualified(node.relation)


def _has_row(each: NullEmbed) -> str:
    return f"{quoted(each.child.joined_as)} is {'' if each.negated else 'not '}distinct from null"


def _join_conditions(node: Node) -> list[str]:
    relationship = node.relationship
    if relationship is None or relationship.function:
        return []
    own, parent = _table(node), qualified(node.parent_alias)
    if relationship.junction is None:
        return [f"{column_of(own, theirs)} = {column_of(parent, ours)}" for ours, theirs in relationship.columns]
    junction = qualified(relationship.junction.table)
    return [
        *(
            f"{column_of(junction, link)} = {column_of(own, theirs)}"
            for theirs, link in relationship.junction.far_columns
        ),
        *(
            f"{column_of(junction, link)} = {column_of(parent, ours)}"
            for ours, link in relationship.junction.near_columns
        ),
    ]


def _spread_names(child: Node) -> list[str]:
    names = [each.shown for each in child.select]
    for each in child.children:
        if each.spread:
            names += _spread_names(each)
        elif not each.shows_nothing:
            names.append(each.shown)
    return names


def _spread_order(node: Node) -> list[Order]:
    return node.order if node.spreads_many else []


def _order_name(node: Node, number: int, order: Order) -> str:
    return f"{node.joined_as}_{order.field.field.name}_{number}"


def _spread_order_terms(node: Node) -> list[Order]:
    terms = []
    for number, order in enumerate(_spread_order(node), 1):
        chosen = order.field.field._replace(name=_order_name(node, number, order), path=())
        terms.append(Order(Coerced(chosen), order.term))
    return terms


def _counted(step: int) -> str:
    """Count the inserted rows in a setting of the transaction: one for each, less those that were updated instead."""
    return f"set_config('pgrst.inserted', (coalesce({INSERTED}, 0) + {step})::text, true) is not null"


def _returning(table: str, columns: list[str]) -> str:
    return f" returning {', '.join(column_of(table, column) for column in columns) or '1'}"


def body_of(handler: Handler, function: Function | None) -> str:
    """The aggregate that makes the body of all rows."""
    row = f"{ROWS}.{SCALAR}" if function and not function.composite else ROWS
    if handler.kind == "none":
        return "''::text"
    if handler.kind == "csv":
        names = (
            f"select json_object_keys(r)::text as k from (select row_to_json(hh) as r from {SOURCE} as hh limit 1) s"
        )
        values = f"substring({ROWS}::text, 2, length({ROWS}::text) - 2)"
        return (
            f"(select coalesce(string_agg(a.k, ','), '') from ({names}) a) || '\n' || "
            f"coalesce(string_agg({values}, '\n'), '')"
        )
    if handler.kind == "geojson":
        features = f"coalesce(json_agg(ST_AsGeoJSON({ROWS})::json), '[]')"
        return f"json_build_object('type', 'FeatureCollection', 'features', {features})"
    if handler.kind == "custom":
        if not (function and function.scalar):
            row = f"{ROWS}::{qualified(handler.target)}" if handler.target else ROWS
        return f"{qualified(handler.function or ())}({row})"
    single = handler.kind == "object"
    if single and function and function.many:
        row = ROWS
    text = f"json_agg({row})"
    text = f"json_strip_nulls({text})" if handler.strip else text
    if single or (function and not function.many):
        return f"coalesce({text}->0, 'null')"
    return f"coalesce({text}, '[]')"


def final(
    *,
    source: str,
    rows: str,
    body: str,
    total: str | None = None,
    page: str = f"pg_catalog.count({ROWS})",
    location: tuple[str, ...] | None = None,
    inserted: bool = False,
) -> str:
    """The statement: `source` are the rows read, written or returned; `rows` what is shown of them."""
    counting = f", pgrst_source_count as ({total})" if total else ""
    return (
        f"with {SOURCE} as ({source}){counting} select "
        f"{'(select pg_catalog.count(*) from pgrst_source_count)' if total else 'null::bigint'}, {page}, {body}, "
        "nullif(current_setting('response.headers', true), ''), nullif(current_setting('response.status', true), ''), "
        f"{INSERTED if inserted else 'null::int'}, {_location(location) if location is not None else 'null::json'} "
        f"from ({rows}) {ROWS}"
    )


def _location(key: tuple[str, ...]) -> str:
    """The key of the only row, as pairs."""
    names = ", ".join(map(literal, key)) or "null"
    return (
        f"case when pg_catalog.count({ROWS}) = 1 then (select json_agg(json_build_array(k.key, k.value)) from "
        f"(select row_to_json(_) as row from {SOURCE} as _ limit 1) data "
        f"cross join json_each_text(data.row) as k where k.key in ({names})) end"
    )


def as_json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
