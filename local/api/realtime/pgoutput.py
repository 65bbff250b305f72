"""Messages of Postgres's logical replication, output plugin pgoutput, protocol version 1."""

import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
UNCHANGED = object()  # a large value that the update did not touch; it isn't sent

Row = dict[str, object]  # text as Postgres prints it, None, or UNCHANGED


@dataclass(frozen=True)
class Column:
    name: str
    type: int
    is_identity: bool


@dataclass(frozen=True)
class Relation:
    id: int
    schema: str
    table: str
    replica_identity: str
    columns: tuple[Column, ...] = field(repr=False)


@dataclass(frozen=True)
class Change:
    action: str  # INSERT, UPDATE, DELETE
    relation: Relation
    committed: datetime
    new: Row | None
    old: Row | None

    @property
    def row(self) -> Row:
        """What filters are about."""
        return (self.old if self.action == "DELETE" else self.new) or {}


@dataclass(frozen=True)
class Commit:
    position: int


class Decoder:
    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._committed = EPOCH

    def decode(self, message: bytes) -> Change | Commit | Relation | None:
        reader = _Reader(message, 1)
        match message[:1]:
            case b"B":
                reader.number(">q")
                self._committed = EPOCH + timedelta(microseconds=reader.number(">q"))
            case b"C":
                reader.number(">b")
                reader.number(">q")
                return Commit(reader.number(">q"))
            case b"R":
                return self._relation(reader)
            case b"I" | b"U" | b"D" as kind:
                return self._change(kind, reader)
        return None

    def _relation(self, reader: "_Reader") -> Relation:
        number, schema, table = reader.number(">I"), reader.text() or "pg_catalog", reader.text()
        identity = chr(reader.number(">b"))
        columns = []
        for _ in range(reader.number(">h")):
            is_identity, name, kind = bool(reader.number(">b") & 1), reader.text(), reader.number(">I")
            reader.number(">i")  # type modifier
            columns.append(Column(name, kind, is_identity))
        relation = Relation(number, schema, table, identity, tuple(columns))
        self._relations[number] = relation
        return relation

    def _change(self, kind: bytes, reader: "_Reader") -> Change:
        relation = self._relations[reader.number(">I")]
        old = new = None
        while reader.left():
            part = chr(reader.number(">b"))
            row = reader.row(relation)
            if part == "N":
                new = row
            elif part == "O":
                old = row
            else:  # the key alone; other columns are null in the message
                old = {column.name: row[column.name] for column in relation.columns if column.is_identity}
        action = {b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}[kind]
        return Change(action, relation, self._committed, new, old)


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def left(self) -> bool:
        return self._at < len(self._data)

    def number(self, form: str) -> int:
        value: int = struct.unpack_from(form, self._data, self._at)[0]
        self._at += struct.calcsize(form)
        return value

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        value = self._data[self._at : end].decode()
        self._at = end + 1
        return value

    def row(self, relation: Relation) -> Row:
        count = self.number(">h")
        return {column.name: self._value() for column in relation.columns[:count]}

    def _value(self) -> object:
        kind = chr(self.number(">b"))
        if kind != "t":
            return None if kind == "n" else UNCHANGED
        size = self.number(">i")
        value = self._data[self._at : self._at + size].decode()
        self._at += size
        return value
