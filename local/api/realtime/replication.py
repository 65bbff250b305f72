"""Committed changes, from a temporary slot on a replication connection: output plugin pgoutput, protocol version 1."""

import asyncio
import math
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import generators, pq, waiting

from local.api.database import quoted

PUBLICATIONS = "supabase_realtime,supabase_realtime_messages_publication"
STATUS_SECONDS = 10
BATCH = 500  # what is waiting is handled before more is read
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
ACTIONS = {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}

Row = dict[str, str | None]  # as Postgres prints values; a large one that the update did not touch is missing


@dataclass(eq=False)
class Relation:
    id: int
    schema: str
    table: str
    columns: list[tuple[str, int]]  # name, type
    described: list[dict[str, Any]] = field(default_factory=list)
    read_at: float = -math.inf

    @property
    def name(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"


@dataclass(eq=False)
class Change:
    action: str
    relation: Relation
    committed: datetime
    new: Row | None = None
    old: Row | None = None

    @property
    def row(self) -> Row:
        """What filters are about."""
        return self.new or self.old or {}


class Stream:
    """Iterate over its changes; after they are handled, call `confirm`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._relations: dict[int, Relation] = {}
        self._confirmed = 0
        self._reported = 0.0
        self._connection: psycopg.AsyncConnection[tuple[object, ...]] | None = None

    async def open(self) -> None:
        self._connection = await psycopg.AsyncConnection.connect(
            self._address + "?replication=database", autocommit=True, application_name="api (realtime)"
        )
        slot = f"realtime_{uuid4().hex[:16]}"
        await self._connection.execute(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput".encode())
        options = f"(proto_version '1', publication_names '{PUBLICATIONS}')"
        self._raw.send_query(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 {options}".encode())
        [result] = await waiting.wait_async(generators.execute(self._raw), self._raw.socket)
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise psycopg.OperationalError(result.get_error_message())

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()

    @property
    def _raw(self) -> pq.abc.PGconn:
        if not self._connection:
            raise psycopg.OperationalError("the stream is not open")
        return self._connection.pgconn

    async def batches(self) -> AsyncIterator[tuple[list[Change], int]]:
        """All that has arrived in order of commit, maybe nothing, and the position of the last commit in it."""
        committed = EPOCH
        while True:
            batch: list[Change] = []
            position = 0
            while len(batch) < BATCH and (message := self._next()):
                kind = message[25:26]
                if message[:1] == b"k":
                    if message[17]:
                        self._report()
                elif kind == b"B":
                    committed = EPOCH + timedelta(microseconds=_Reader(message, 34).number(">q"))
                elif kind == b"C":
                    position = _Reader(message, 35).number(">q")
                elif kind == b"R":
                    relation = _relation(_Reader(message, 26))
                    self._relations[relation.id] = relation
                elif kind in {b"I", b"U", b"D"}:
                    batch.append(self._change(message, committed))
            yield batch, position
            if not batch:
                await self._wait()

    def confirm(self, position: int) -> None:
        """Postgres may remove the WAL up to here."""
        self._confirmed = max(self._confirmed, position)
        if time.monotonic() - self._reported > 1:
            self._report()

    def _change(self, message: bytes, committed: datetime) -> Change:
        reader = _Reader(message, 26)
        relation = self._relations[reader.number(">I")]
        change = Change(ACTIONS[message[25:26].decode()], relation, committed)
        while reader.at < len(message):
            part, row = reader.number(">c"), reader.row(relation)
            if part == b"N":
                change.new = row
            else:  # O: the whole row; K: the key alone, other columns are null in the message
                change.old = row if part == b"O" else {name: key for name, key in row.items() if key is not None}
        return change

    def _next(self) -> bytes | None:
        size, data = self._raw.get_copy_data(1)
        if size < 0:
            raise psycopg.OperationalError("the stream ended")
        return bytes(data) if size else None

    def _report(self) -> None:
        self._reported = time.monotonic()
        now = int((time.time() - EPOCH.timestamp()) * 1_000_000)
        self._raw.put_copy_data(struct.pack(">cqqqqb", b"r", *[self._confirmed] * 3, now, 0))
        self._raw.flush()

    async def _wait(self) -> None:
        loop, ready, socket = asyncio.get_running_loop(), asyncio.Event(), self._raw.socket
        loop.add_reader(socket, ready.set)
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                await ready.wait()
        except TimeoutError:
            self._report()
        finally:
            loop.remove_reader(socket)
        self._raw.consume_input()


def _relation(reader: "_Reader") -> Relation:
    number, schema, table = reader.number(">I"), reader.text() or "pg_catalog", reader.text()
    reader.number(">b")  # replica identity
    columns = []
    for _ in range(reader.number(">h")):
        _is_identity, name, kind, _modifier = (
            reader.number(">b"), reader.text(), reader.number(">I"), reader.number(">i"),
        )  # fmt: skip
        columns.append((name, kind))
    return Relation(number, schema, table, columns)


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def number(self, form: str) -> Any:
        [value] = struct.unpack_from(form, self._data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        end = self._data.index(b"\0", self.at)
        value = self._data[self.at : end].decode()
        self.at = end + 1
        return value

    def row(self, relation: Relation) -> Row:
        row: Row = {}
        count = self.number(">h")
        for name, _ in relation.columns[:count]:
            kind = self.number(">c")
            if kind == b"t":
                size = self.number(">i")
                row[name] = self._data[self.at : self.at + size].decode()
                self.at += size
            elif kind == b"n":
                row[name] = None
        return row
