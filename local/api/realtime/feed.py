"""Committed changes, from the stream of Postgres to the channels that may see them."""

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.rows import dict_row

from local.api.database import Pool, as_login
from local.api.errors import DatabaseUnavailable
from local.api.realtime.channels import Audience, Hub, Identity, deliver
from local.api.realtime.protocol import compact
from local.api.realtime.replication import Change, Relation, Row, stream
from local.api.realtime.subscriptions import Subscription

LOGIN = "supabase_replication_admin"
READY_SECONDS = 5
RECONNECT_SECONDS = 0.5
QUIET_SECONDS = 60  # without any socket, before the stream of changes is closed
DESCRIPTION_SECONDS = 2  # grants may change without a message about the table
BATCH_SECONDS = 0.01  # between two batches: more changes share their queries
TURN_SECONDS = 0.002  # other work waits no longer for the event loop
TURN_BYTES = 64 * 1024  # sockets write so much before more is added
LARGEST_RECORD, LARGEST_KEPT = 1024 * 1024, 64
DOCUMENTS = {114, 3802}  # json, jsonb
MESSAGES = ("realtime", "messages")
OLD_MESSAGES = """select set_config('role', 'supabase_realtime_admin', true);
delete from realtime.messages where inserted_at < localtimestamp - interval '3 days'"""
COLUMNS = """
select a.attname as name, t.typname as type, c.relrowsecurity as guarded,
  coalesce(a.attnum = any(i.indkey), false) as is_key,
  array(select r.rolname::text from pg_roles r where has_column_privilege(r.oid, c.oid, a.attnum, 'select')) as readers
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where c.oid = $1::oid order by a.attnum"""
# The rows as JSON by column, and whether each fulfills the conditions.
VALUES = """
select (select json_object_agg(key, value::text) from jsonb_each(to_jsonb(r.*))) as new,
  case when pair -> 1 <> '{{}}' then (
    select json_object_agg(key, value::text) from jsonb_each(to_jsonb(jsonb_populate_record(null::{table}, pair -> 1)))
  ) end as old,
  array[{conditions}]::bool[] as fits
from jsonb_array_elements($1::jsonb) with ordinality as c (pair, at), jsonb_populate_record(null::{table}, pair -> 0) r
order by at"""
VISIBLE = """select realtime.visible(c.relation::regclass, c.rows, c.role, c.claims) as seen
from jsonb_to_recordset($1::jsonb) as c (relation text, rows jsonb, role text, claims text)"""

Wanted = dict[Change, list[tuple[Audience, Subscription]]]


class Feed:
    def __init__(self, hub: Hub, database_url: str) -> None:
        # Rows are checked on a connection that never carried a request's headers, as on hosted projects.
        style = {"row_factory": dict_row, "cursor_factory": psycopg.AsyncRawCursor}
        self._pool = Pool(LOGIN, database_url, 1, options="-c timezone=UTC -c statement_timeout=30s", **style)
        self._hub = hub
        self._address = as_login(LOGIN, database_url)
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._turn_ends, self._turn_size = 0.0, 0

    async def open(self) -> None:
        """While the database is unavailable, no changes arrive; they do once it answers."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                await self._ready.wait()

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._pool.close()

    async def _run(self) -> None:
        again = False
        while self._is_needed():
            try:
                async with stream(self._address) as batches:
                    await self._pool.read_rows(OLD_MESSAGES)
                    self._ready.set()
                    if again:
                        self._announce()
                    async for changes in batches:
                        await self._handle(changes)
                        if not self._is_needed():
                            return
            except (psycopg.Error, OSError, DatabaseUnavailable) as error:
                if self._ready.is_set():
                    print(f"realtime: the stream of changes broke and is opened again: {error}", flush=True)
            finally:
                self._ready.clear()
            again = True
            await asyncio.sleep(RECONNECT_SECONDS)

    def _is_needed(self) -> bool:
        return bool(self._hub.sockets) or time.monotonic() < self._hub.deserted_at + QUIET_SECONDS

    def _announce(self) -> None:
        """As hosted: changes of the time without a stream are lost, and the subscription is confirmed again."""
        for channels in self._hub.audiences.values():
            for channel in channels:
                channel.system("postgres_changes", "ok", "Subscribed to PostgreSQL")

    async def _handle(self, changes: list[Change]) -> None:
        """In order of commit. One query evaluates the filters of all changes, another one the policies."""
        wanted: Wanted = {}
        for change in changes:
            audiences = self._hub.audiences
            if found := [(who, each) for who in audiences for each in who.subscriptions if each.wants(change)]:
                wanted[change] = found
            await self._give_way()
        await self._evaluate(wanted)
        await self._check(wanted)
        for change in changes:
            if (change.relation.schema, change.relation.table) == MESSAGES:
                self._turn_size += self._broadcast(change.row)
            elif change in wanted:
                self._turn_size += self._send(change, wanted[change])
            await self._give_way()
        if changes:
            await asyncio.sleep(BATCH_SECONDS)  # changes of that time share the queries of the next batch

    async def _give_way(self) -> None:
        if self._turn_size > TURN_BYTES or time.thread_time() > self._turn_ends:
            await asyncio.sleep(0)  # one turn of the loop for other work
            self._turn_ends, self._turn_size = time.thread_time() + TURN_SECONDS, 0

    async def _evaluate(self, wanted: Wanted) -> None:
        """Without the subscriptions whose filters do not accept the row."""
        tables: dict[Relation, list[Change]] = defaultdict(list)
        for change in wanted:
            tables[change.relation].append(change)
        for relation, changes in tables.items():
            if relation.described_at < time.monotonic() - DESCRIPTION_SECONDS:
                [relation.columns] = await self._pool.read_rows(COLUMNS, [relation.id])
                relation.described_at = time.monotonic()
            conditions = sorted({each.condition for change in changes for _, each in wanted[change]})
            query = VALUES.format(conditions=",".join(conditions), table=relation.name)
            [rows] = await self._pool.read_rows(query, [f"[{','.join(map(_pair, changes))}]"])
            for change, row in zip(changes, rows, strict=True):
                change.json, change.old_json = row["new"], row["old"]
                fits = dict(zip(conditions, row["fits"], strict=True))
                wanted[change] = [(who, each) for who, each in wanted[change] if fits[each.condition]]

    async def _check(self, wanted: Wanted) -> None:
        """Without the audiences whose policies do not show the row.

        One statement checks all rows of a table and an organization for one identity: policies take the
        organization from the row that is checked.
        """
        groups: dict[tuple[Relation, str | None, Identity], list[Change]] = defaultdict(list)
        for change in wanted:
            if change.is_checked:
                for identity in {who.identity for who, _ in wanted[change]}:
                    groups[change.relation, change.row.get("organization_id"), identity].append(change)
        if not groups:
            return
        questions = []
        for (relation, _, who), changes in groups.items():
            rows = {each.condition: each.keys for each in changes}
            questions.append({"relation": relation.name, "rows": rows, "role": who.role, "claims": who.claims})
        [answers] = await self._pool.read_rows(VISIBLE, [compact(questions)])
        for ((_, _, identity), changes), answer in zip(groups.items(), answers, strict=True):
            shown = set(answer["seen"])
            for change in changes:
                if change.condition not in shown:
                    wanted[change] = [(who, each) for who, each in wanted[change] if who.identity != identity]

    def _broadcast(self, message: Row) -> int:
        payload = message.get("payload")
        if message.get("extension") != "broadcast" or payload is None:
            return 0
        key = message.get("private") == "t", str(message.get("topic"))
        self._hub.broadcast(key, message.get("event") or "", payload, number=message.get("id"))
        return len(payload)

    def _send(self, change: Change, wanted: list[tuple[Audience, Subscription]]) -> int:
        ids: dict[tuple[Audience, tuple[str, ...] | None], list[int]] = defaultdict(list)
        for audience, each in wanted:
            ids[audience, each.select].append(each.id)
        bodies: dict[Any, str] = {}
        for (audience, select), found in ids.items():
            variant = audience.identity.role, select
            if variant not in bodies:
                bodies[variant] = _body(change, *variant)
            payload = f'{{"ids":{compact(found)},"data":{bodies[variant]}}}'
            deliver(self._hub.audiences.get(audience, ()), "postgres_changes", payload)
        return sum(map(len, bodies.values()))


def _pair(change: Change) -> str:
    """The row and the old row, for jsonb_populate_record; documents are JSON already."""
    kinds, rows = change.relation.kinds, []
    for row in (change.row, change.old or {}):
        documents = [f"{compact(name)}:{row[name]}" for name in row if kinds[name] in DOCUMENTS and row[name]]
        plain = compact({name: value for name, value in row.items() if kinds[name] not in DOCUMENTS})
        rows.append("{" + ",".join(filter(None, [*documents, plain[1:-1]])) + "}")
    return f"[{','.join(rows)}]"


def _body(change: Change, role: str, select: tuple[str, ...] | None) -> str:
    keys = set(change.keys)
    columns = [each for each in change.relation.columns if role in each["readers"]]
    columns = [each for each in columns if select is None or each["name"] in select or each["is_key"]]
    names = [column["name"] for column in columns]
    head: dict[str, Any] = {"schema": change.relation.schema, "table": change.relation.table, "type": change.action}
    if change.action != "DELETE" and not (keys and keys <= set(names)):
        why = "Error 401: Unauthorized" if keys else "Error 400: Bad Request, no primary key"
        return compact(head | {"errors": [why]})
    head["commit_timestamp"] = change.committed.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head["columns"] = [{"name": column["name"], "type": column["type"]} for column in columns]
    head["errors"], parts = None, []
    if change.new is not None:
        sent = [name for name in names if name in change.new]
        if sum(len(change.json[name]) for name in sent) > LARGEST_RECORD:
            head["errors"] = ["Error 413: Payload Too Large"]
            sent = [name for name in sent if len(change.json[name]) <= LARGEST_KEPT]
        parts.append(f'"record":{_object(change.json, sent)}')
    if change.action != "INSERT":
        # The key did not change if Postgres did not repeat it. Of a deleted row only the key is sent.
        old, values = (set(change.old), change.old_json) if change.old else (keys, change.json)
        if change.action == "DELETE" and change.relation.columns[0]["guarded"]:
            old &= keys
        parts.append(f'"old_record":{_object(values, [name for name in names if name in old])}')
    return f"{{{compact(head)[1:-1]},{','.join(parts)}}}"


def _object(values: dict[str, str], names: list[str]) -> str:
    return "{" + ",".join(f"{compact(name)}:{values[name]}" for name in names) + "}"
