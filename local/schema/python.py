"""The schema in Python: enums as StrEnum; rows as TypedDict, for the type checker alone, free at run time."""

import textwrap

from local.schema.catalog import Column, Enum, Schema, Table

_HEAD = '''\
"""The schema of the database in Python. Generated from its catalog by `make schema`; changed only there.

A row is what psycopg returns for `select *`. Members of an enum equal their text, which is what a row holds.
Rows exist for the type checker alone: import them under TYPE_CHECKING.
"""

from enum import StrEnum
from typing import TYPE_CHECKING
'''

_ROWS = """\
if TYPE_CHECKING:
    from datetime import date, datetime
    from decimal import Decimal
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any, TypeAlias, TypedDict
    from uuid import UUID

    Json: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None
"""

_TYPES = {
    "uuid": "UUID",
    "text": "str",
    "boolean": "bool",
    "smallint": "int",
    "integer": "int",
    "bigint": "int",
    "real": "float",
    "double precision": "float",
    "numeric": "Decimal",
    "jsonb": "Json",
    "date": "date",
    "timestamp with time zone": "datetime",
    "inet": "IPv4Address | IPv6Address",
    "bytea": "bytes",
}


def render(schema: Schema) -> str:
    rows = "\n".join([_ROWS, *(textwrap.indent(_row(table), "    ") for table in schema.tables)])
    return "\n\n".join([_HEAD, *map(_enum, schema.enums), rows])


def _enum(enum: Enum) -> str:
    members = "".join(f'    {label} = "{label}"\n' for label in enum.labels)
    return f"class {enum.name}(StrEnum):\n{_docstring(enum.comment)}\n{members}"


def _row(table: Table) -> str:
    name = "".join(word.capitalize() for word in table.name.split("_")) + "Row"
    fields = "".join(f"    {column.name}: {_annotation(column)}\n" for column in table.columns)
    return f"class {name}(TypedDict):\n{_docstring(f'{table.name}: {table.comment}')}\n{fields}"


def _annotation(column: Column) -> str:
    element = column.type.removesuffix("[]")
    python = element.strip('"') if column.is_enum else _TYPES[element]
    if element != column.type:
        python = f"list[{python}]"
    return python if column.required else f"{python} | None"


def _docstring(text: str) -> str:
    lines = textwrap.wrap(text, 109)
    if len(lines) == 1:
        return f'    """{lines[0]}"""\n'
    return '    """' + "\n    ".join(lines) + '\n    """\n'
