"""The stream of committed changes: a temporary slot on a replication connection, read as Postgres sends it."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
from psycopg import pq

from local.api.realtime.pgoutput import Change, Commit, Decoder, Relation

PUBLICATIONS = "supabase_realtime,supabase_realtime_messages_publication"
STATUS_SECONDS = 10
POSTGRES_EPOCH = 946_684_800


class Stream:
    """Iterate over its changes; after each commit is handled, call `confirm`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._decoder = Decoder()
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
        while self._raw.is_busy():
            await self._readable()
            self._raw.consume_input()
        result = self._raw.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise psycopg.OperationalError(result.error_message.decode() if result else "no replication")

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()

    @property
    def _raw(self) -> pq.abc.PGconn:
        if not self._connection:
            raise psycopg.OperationalError("the stream is not open")
        return self._connection.pgconn

    async def changes(self) -> AsyncIterator[list[Change | Commit | Relation]]:
        """Batches: everything that has arrived, in order of commit."""
        while True:
            batch: list[Change | Commit | Relation] = []
            while (message := self._next()) is not None:
                if message[:1] == b"w" and (found := self._decoder.decode(message[25:])) is not None:
                    batch.append(found)
                elif message[:1] == b"k" and message[17]:
                    self._report()
                if len(batch) >= 500:  # noqa: PLR2004 - what is waiting is handled before more is read
                    break
            if batch:
                yield batch
            else:
                try:
                    async with asyncio.timeout(STATUS_SECONDS):
                        await self._readable()
                except TimeoutError:
                    self._report()
                self._raw.consume_input()

    def confirm(self, position: int) -> None:
        """Postgres may remove the WAL up to here."""
        self._confirmed = max(self._confirmed, position)
        if time.monotonic() - self._reported > 1:
            self._report()

    def _next(self) -> bytes | None:
        size, data = self._raw.get_copy_data(1)
        if size < 0:
            raise psycopg.OperationalError("the stream ended")
        return bytes(data) if size else None

    def _report(self) -> None:
        self._reported = time.monotonic()
        now = int((time.time() - POSTGRES_EPOCH) * 1_000_000)
        confirmed = self._confirmed
        self._raw.put_copy_data(struct.pack(">cqqqqb", b"r", confirmed, confirmed, confirmed, now, 0))
        self._raw.flush()

    async def _readable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        socket = self._raw.socket
        loop.add_reader(socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(socket)
