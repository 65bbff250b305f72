"""Committed changes, from the stream of Postgres to the channels that may see them."""

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import psycopg

from local.api.database import Pool, Row, as_login, literal
from local.api.errors import DatabaseUnavailable
from local.api.realtime.channels import Channel, Hub
from local.api.realtime.pgoutput import UNCHANGED, Change, Commit, Relation
from local.api.realtime.protocol import compact, encode, frame
from local.api.realtime.replication import Stream
from local.api.realtime.subscriptions import Subscription
from local.api.realtime.values import as_json

LOGIN = "supabase_replication_admin"
RECONNECT_SECONDS = 0.5
DESCRIPTION_SECONDS = 2  # grants may change without a new relation message
LARGEST_RECORD, LARGEST_KEPT = 1024 * 1024, 64
MESSAGES = ("realtime", "messages")
DESCRIPTION = """
select format('%I.%I', n.nspname, c.relname) as entity, c.relrowsecurity as guarded, a.attname as name,
  quote_ident(a.attname) as quoted, t.typname as type, coalesce(a.attnum = any(i.indkey), false) as is_key,
  array(select r.rolname::text from pg_roles r where r.rolname = any($2::text[])
    and has_column_privilege(r.oid, c.oid, a.attnum, 'select')) as readers
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where c.oid = $1::oid order by a.attnum
"""
MATCHES = """
select json_agg(case t ->> 1 when 'like' then t ->> 0 like t ->> 2 when 'ilike' then t ->> 0 ilike t ->> 2
  when 'match' then t ->> 0 ~ (t ->> 2) else t ->> 0 ~* (t ->> 2) end <> (t ->> 3)::bool order by at) as fits
from jsonb_array_elements($1::jsonb) with ordinality tests (t, at)
"""


@dataclass(frozen=True)
class Description:
    """A table as the catalog has it."""

    columns: list[Row]
    types: dict[str, int]
    roles: frozenset[str]  # whose rights the columns have
    read_at: float

    @property
    def keys(self) -> list[Row]:
        return [column for column in self.columns if column["is_key"]]

    def readable(self, role: str, select: tuple[str, ...] | None) -> list[Row]:
        wanted = [column for column in self.columns if role in column["readers"]]
        return wanted if select is None else [c for c in wanted if c["name"] in select or c["is_key"]]


@dataclass(frozen=True)
class Interest:
    """Subscriptions that are the same for the policies: one check serves all of their channels."""

    role: str
    identity: int
    subscription: Subscription


Wanted = tuple[Change, Description, list[Interest]]
Pattern = tuple[str, str, str, bool]  # value, operator, pattern, negated


class Feed:
    def __init__(self, hub: Hub, pool: Pool, database_url: str) -> None:
        self._hub, self._pool = hub, pool
        self._address = as_login(LOGIN, database_url)
        self._descriptions: dict[int, Description] = {}
        self._roles: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        self.ready.clear()
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        again = False
        while True:
            stream = Stream(self._address)
            try:
                await stream.open()
                await self._delete_old_messages()
                self.ready.set()
                if again:
                    self._announce()
                async for batch in stream.changes():
                    await self._handle(batch, stream)
            except (psycopg.Error, OSError, DatabaseUnavailable) as error:
                if self.ready.is_set():
                    print(f"realtime: the stream of changes broke and is opened again: {error}", flush=True)
            finally:
                self.ready.clear()
                await stream.close()
            again = True
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _delete_old_messages(self) -> None:
        async with self._pool.connection("begin; set local role supabase_realtime_admin") as connection:
            await connection.execute(
                b"delete from realtime.messages where inserted_at < localtimestamp - interval '3 days'"
            )
            await connection.commit()

    def _announce(self) -> None:
        """As hosted: changes of the time without a stream are lost, and the subscription is confirmed again."""
        for channel in self._hub:
            if channel.subscriptions:
                channel.system("postgres_changes", "ok", "Subscribed to PostgreSQL")

    async def _handle(self, batch: list[Change | Commit | Relation], stream: Stream) -> None:
        pending: list[Change] = []
        position = 0
        for item in batch:
            if isinstance(item, Relation):
                await self._deliver(pending)
                pending = []
                self._descriptions.pop(item.id, None)
            elif isinstance(item, Commit):
                position = item.position
            else:
                pending.append(item)
        await self._deliver(pending)
        if position:
            stream.confirm(position)

    def _broadcast(self, message: dict[str, object]) -> None:
        if message.get("extension") != "broadcast" or not isinstance(message.get("payload"), str):
            return
        key = (message.get("private") == "t", str(message.get("topic")))
        payload = json.loads(str(message["payload"]))
        self._hub.broadcast(key, str(message.get("event") or ""), payload, meta={"id": message.get("id")})

    # Changes of tables -----------------------------------------------------------------------------------------------

    async def _deliver(self, changes: list[Change]) -> None:
        """In order of commit; one query checks all changes."""
        interests, identities = self._interests()
        wanted: list[Wanted] = []
        for change in changes if interests else ():
            if _is_broadcast(change):
                continue
            description = await self._description(change.relation)
            found = [each for each in interests if each.subscription.wants(change, description.types)]
            if found and description.columns:
                wanted.append((change, description, found))
        wanted = await self._matching(wanted)
        seen = await self._visible(wanted, identities)
        shown = {
            id(change): (description, [each for each in found if visible is None or each.identity in visible])
            for (change, description, found), visible in zip(wanted, seen, strict=True)
        }
        for change in changes:
            if _is_broadcast(change):
                self._broadcast(change.new or {})
            elif id(change) in shown:
                description, found = shown[id(change)]
                self._send(change, description, [(each, channel) for each in found for channel in interests[each]])
                await asyncio.sleep(0)  # the sockets are written before their buffers fill

    def _interests(self) -> tuple[dict[Interest, list[Channel]], list[dict[str, str]]]:
        """The channels by what they subscribe to, and the identities that interests refer to by number."""
        interests: dict[Interest, list[Channel]] = defaultdict(list)
        identities: list[dict[str, str]] = []
        numbers: dict[str, int] = {}
        for channel in self._hub:
            if not channel.subscriptions:
                continue
            if channel.identity not in numbers:
                numbers[channel.identity] = len(identities)
                identities.append({"role": channel.claims["role"], "claims": compact(channel.claims)})
            for subscription in channel.subscriptions:
                interest = Interest(channel.claims["role"], numbers[channel.identity], subscription)
                interests[interest].append(channel)
        self._roles |= {interest.role for interest in interests}
        return interests, identities

    async def _matching(self, wanted: list[Wanted]) -> list[Wanted]:
        """Without the interests whose filters by pattern do not match; Postgres evaluates each of them once."""

        def tests(change: Change, interest: Interest) -> list[Pattern]:
            row = change.row
            patterns = [each for each in interest.subscription.filters if each.is_pattern]
            return [(str(row[each.column]), each.operator, each.value, each.negated) for each in patterns]

        asked = list({test for change, _, found in wanted for interest in found for test in tests(change, interest)})
        if not asked:
            return wanted
        async with self._pool.connection("begin; set local statement_timeout = '30s'") as connection:
            cursor = await connection.execute(MATCHES.encode(), [compact(asked)])
            [row] = await cursor.fetchall()
        fits = dict(zip(asked, row["fits"], strict=True))
        matching = []
        for change, description, found in wanted:
            if left := [each for each in found if all(fits[test] for test in tests(change, each))]:
                matching.append((change, description, left))
        return matching

    async def _visible(self, wanted: list[Wanted], identities: list[dict[str, str]]) -> list[set[int] | None]:
        """By change: the identities whose policies show the row; None where no policy needs to be checked."""
        answers: list[set[int] | None] = [None] * len(wanted)
        checks = []
        for number, (change, description, found) in enumerate(wanted):
            keys = description.keys
            # A deleted row can't be checked: its event has the primary key only. Neither can a row without one.
            if change.action == "DELETE" or not keys or not description.columns[0]["guarded"]:
                continue
            row = change.new or {}
            condition = " and ".join(f"{key['quoted']}={literal(str(row.get(key['name'])))}" for key in keys)
            checks.append((number, [description.columns[0]["entity"], condition, sorted({i.identity for i in found})]))
        if checks:
            async with self._pool.connection("begin; set local statement_timeout = '30s'") as connection:
                rows = [each for _, each in checks]
                text = b"select realtime.visible($1::jsonb, $2::jsonb) as seen"
                cursor = await connection.execute(text, [compact(rows), compact(identities)])
                [row] = await cursor.fetchall()
            result = row["seen"]
            for (number, _), visible in zip(checks, result, strict=True):
                answers[number] = set(visible)
        return answers

    def _send(self, change: Change, description: Description, addressed: list[tuple[Interest, Channel]]) -> None:
        by_channel: dict[tuple[Channel, tuple[str, ...] | None], list[int]] = defaultdict(list)
        for interest, channel in addressed:
            by_channel[channel, interest.subscription.select].append(interest.subscription.id)
        bodies: dict[tuple[str, tuple[str, ...] | None], str] = {}
        frames: dict[tuple[Any, ...], bytes] = {}
        for (channel, select), ids in by_channel.items():
            role = channel.claims["role"]
            if (role, select) not in bodies:
                bodies[role, select] = _body(change, description, role, select)
            shared = (channel.socket.version, channel.topic, tuple(ids), role, select)
            if shared not in frames:
                payload = f'{{"ids":{compact(ids)},"data":{bodies[role, select]}}}'
                frames[shared] = frame(encode(channel.socket.version, channel.topic, "postgres_changes", payload))
            channel.socket.write(frames[shared])

    async def _description(self, relation: Relation) -> Description:
        known = self._descriptions.get(relation.id)
        roles = frozenset(self._roles)
        if known and known.roles == roles and known.read_at > time.monotonic() - DESCRIPTION_SECONDS:
            return known
        async with self._pool.connection() as connection:
            cursor = await connection.execute(DESCRIPTION.encode(), [relation.id, sorted(roles)])
            columns = await cursor.fetchall()
        types = {column.name: column.type for column in relation.columns}
        self._descriptions[relation.id] = Description(columns, types, roles, time.monotonic())
        return self._descriptions[relation.id]


def _is_broadcast(change: Change) -> bool:
    return (change.relation.schema, change.relation.table) == MESSAGES


def _body(change: Change, description: Description, role: str, select: tuple[str, ...] | None) -> str:
    columns = description.readable(role, select)
    keys = {key["name"] for key in description.keys}
    head = {"schema": change.relation.schema, "table": change.relation.table, "type": change.action}
    if change.action != "DELETE" and not keys:
        return compact(head | {"errors": ["Error 400: Bad Request, no primary key"]})
    if change.action != "DELETE" and not keys <= {column["name"] for column in columns}:
        return compact(head | {"errors": ["Error 401: Unauthorized"]})
    committed = change.committed.strftime("%Y-%m-%dT%H:%M:%S.") + f"{change.committed.microsecond // 1000:03}Z"
    head["commit_timestamp"] = committed
    described = [{"name": column["name"], "type": column["type"]} for column in columns]
    names = [column["name"] for column in columns]
    before = change.old
    if change.action == "UPDATE" and before is None:  # the key did not change, so Postgres did not repeat it
        before = {name: (change.new or {}).get(name) for name in keys}
    old_names = [name for name in names if name in (before or {})]
    if change.action == "DELETE" and description.columns[0]["guarded"]:
        old_names = [name for name in old_names if name in keys]
    parts, errors = [compact(head)[1:-1], f'"columns":{compact(described)}'], "null"
    if change.new is not None:
        record = _record(change.new, names, description.types)
        if len(record) > LARGEST_RECORD:
            errors = '["Error 413: Payload Too Large"]'
            short = [name for name in names if len(str(change.new.get(name))) <= LARGEST_KEPT]
            record = _record(change.new, short, description.types)
        parts.append(f'"record":{record}')
    if change.action != "INSERT":
        parts.append(f'"old_record":{_record(before or {}, old_names, description.types)}')
    return f'{{{",".join(parts)},"errors":{errors}}}'


def _record(row: dict[str, object], names: list[str], types: dict[str, int]) -> str:
    present = [name for name in names if name in row and row[name] is not UNCHANGED]
    return "{" + ",".join(f"{compact(name)}:{as_json(row[name], types.get(name, 0))}" for name in present) + "}"
