"""Committed changes, from a temporary slot on a replication connection: output plugin pgoutput, protocol version 1."""

import asyncio
import math
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import generators, pq, waiting

from local.api.database import literal, quoted

PUBLICATIONS = "supabase_realtime,supabase_realtime_messages_publication"
STATUS_SECONDS = 10
BATCH = 100  # what is waiting is handled before more is read
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
TEXT, NULL = b"tn"  # kinds of values
ACTIONS = {b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}

Row = dict[str, str | None]  # as Postgres prints values; a large one that the update did not touch is missing


@dataclass(eq=False)
class Relation:
    id: int
    schema: str
    table: str
    kinds: dict[str, int] = field(default_factory=dict)  # the types of its columns
    columns: list[dict[str, Any]] = field(default_factory=list)  # as the catalog has them
    described_at: float = -math.inf

    @cached_property
    def name(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"


@dataclass(eq=False)
class Change:
    action: str
    relation: Relation
    committed: datetime
    new: Row | None = None
    old: Row | None = None
    json: dict[str, str] = field(default_factory=dict)  # of `row`, by column
    old_json: dict[str, str] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        """What filters are about."""
        return self.new or self.old or {}

    @cached_property
    def keys(self) -> Row:
        """The primary key."""
        return {each["name"]: self.row.get(each["name"]) for each in self.relation.columns if each["is_key"]}

    @cached_property
    def condition(self) -> str:
        """In SQL, what finds the row."""
        return " and ".join(f"{quoted(name)}={literal(value or '')}" for name, value in self.keys.items())

    @property
    def is_checked(self) -> bool:
        """Whether policies decide. Neither a deleted row nor one without a key can be checked."""
        return self.action != "DELETE" and bool(self.keys) and self.relation.columns[0]["guarded"]


@asynccontextmanager
async def stream(address: str) -> AsyncIterator[AsyncIterator[list[Change]]]:
    """What commits after this moment, in batches and in order of commit. A batch may be empty."""
    options = f"(proto_version '1', publication_names '{PUBLICATIONS}')"
    slot = f"realtime_{uuid4().hex[:16]}"
    connection = await psycopg.AsyncConnection.connect(
        f"{address}?replication=database", autocommit=True, application_name="api (realtime)"
    )
    try:
        await connection.execute(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput".encode())
        connection.pgconn.send_query(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 {options}".encode())
        [result] = await waiting.wait_async(generators.execute(connection.pgconn), connection.fileno())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise psycopg.OperationalError(result.get_error_message())
        yield _batches(connection.pgconn)
    finally:
        await connection.close()


async def _batches(raw: pq.abc.PGconn) -> AsyncIterator[list[Change]]:
    """When the next batch is asked for, the one before is handled: Postgres may remove its WAL."""
    relations: dict[int, Relation] = {}
    committed, handled, reported = EPOCH, 0, 0.0
    while True:
        batch: list[Change] = []
        message: Any = None
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                message = await waiting.wait_async(generators.copy_from(raw), raw.socket)
        while message:
            if isinstance(message, pq.PGresult):
                raise psycopg.OperationalError("the stream ended")
            reader = _Reader(bytes(message))
            match reader.kind:
                case b"k":  # what Postgres has sent so far, also of tables that are not published
                    handled, reported = max(handled, reader.number(">q")), 0.0
                case b"B":
                    committed = EPOCH + timedelta(microseconds=reader.number(">qq"))
                case b"C":
                    handled = max(handled, reader.number(">bqq"))
                case b"R":
                    relation = reader.relation()
                    relations[relation.id] = relation
                case b"I" | b"U" | b"D":
                    batch.append(reader.change(relations, committed))
            message = len(batch) < BATCH and _arrived(raw)
        yield batch
        if time.monotonic() - reported > 1:
            reported = time.monotonic()
            now = int((time.time() - EPOCH.timestamp()) * 1_000_000)
            raw.put_copy_data(struct.pack(">cqqqqb", b"r", handled, handled, handled, now, 0))
            raw.flush()


def _arrived(raw: pq.abc.PGconn) -> memoryview | None:
    """The next message, also if libpq has not read it from the socket: the more changes, the cheaper is each."""
    size, message = raw.get_copy_data(1)
    if size == 0:
        raw.consume_input()
        message = raw.get_copy_data(1)[1]
    return message


class _Reader:
    """The parts of one message."""

    def __init__(self, message: bytes) -> None:
        self._data, self._at = message, 1
        self.kind = message[:1]
        if self.kind == b"w":  # a change follows after positions and a time
            self.kind, self._at = message[25:26], 26

    def number(self, form: str) -> Any:
        """The last of these numbers."""
        *_, value = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        value, self._at = self._data[self._at : end].decode(), end + 1
        return value

    def relation(self) -> Relation:
        relation = Relation(self.number(">I"), self.text() or "pg_catalog", self.text())
        for _ in range(self.number(">bh")):
            self.number(">b")
            name = self.text()
            relation.kinds[name] = self.number(">I")
            self.number(">i")
        return relation

    def change(self, relations: dict[int, Relation], committed: datetime) -> Change:
        change = Change(ACTIONS[self.kind], relations[self.number(">I")], committed)
        while self._at < len(self._data):
            part, row = self.number(">c"), self._row(change.relation)
            if part == b"N":
                change.new = row
            else:  # O: the whole row; K: the key alone, other columns are null in the message
                change.old = row if part == b"O" else {name: key for name, key in row.items() if key is not None}
        return change

    def _row(self, relation: Relation) -> Row:
        row: Row = {}
        data, at = self._data, self._at + 2
        for name in relation.kinds:
            kind, at = data[at], at + 1
            if kind == TEXT:
                at, size = at + 4, int.from_bytes(data[at : at + 4])
                row[name] = data[at : at + size].decode()
                at += size
            elif kind == NULL:
                row[name] = None
        self._at = at
        return row
