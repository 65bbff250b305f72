"""How soon a subscriber sees a change: `python -m bench.realtime [CHANGES_PER_SECOND] [SUBSCRIBERS] [SECONDS]`.

People of one organization subscribe to its tasks by `postgres_changes`; tasks of another organization change, too. The
reference is plain LISTEN/NOTIFY with the row as payload: same writes, as many listeners. A third run without listeners
shows what the writes cost. Then a member writes leads with and without the triggers of broadcast and history.

What a write costs is the processor time of its Postgres process for one request, as PostgREST sends it: begin, the
settings of the request, private.check_request(), the statement with its row as JSON, commit. A client of the data API
cannot write with less. The ratios of the bare statement, in a session that keeps its role and claims, are beside it.
"""

import asyncio
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil
import psycopg
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from bench import machine
from bench.drill.stack import running
from bench.rounds import ratios, rounds
from bench.side_by_side import processor
from local.stack import Stack
from tests.support.platform import PASSWORD

PEOPLE = ("owner", "admin", "member", "viewer")
ROWS = 100
EVERY = 10  # every tenth change is another organization's
MARK = re.compile(rb"(ours|theirs) (\d+)")
SETTLE_SECONDS = 60  # what arrives late is late, not lost
LISTENING = "listening"
WRITERS = 4  # each has rows of its own, so the changes of a row have an order
ROUNDS = 5
PAIRS = 200  # inserts and updates of a sample
WARM = 10  # after the triggers have changed, each statement is planned anew
AS_JSON = "with written as ({} returning *) select coalesce(json_agg(w), '[]') from written w"
INSERT = AS_JSON.format("insert into public.leads (name) values (%s)")
UPDATE = AS_JSON.format("update public.leads set notes = %s where id = %s")
HEADERS = {
    "host": "127.0.0.1",
    "accept": "*/*",
    "user-agent": "supabase-js",
    "content-type": "application/json",
    "x-client-info": "supabase-js/2",
    "x-forwarded-for": "203.0.113.9",
}
# The flag: for one transaction, or for the session.
SETTINGS = (
    "select set_config('search_path', 'public, extensions', {0}), set_config('role', 'authenticated', {0}),"
    " set_config('request.jwt.claims', %s, {0}), set_config('request.headers', %s, {0}),"
    " set_config('request.method', 'POST', {0}), set_config('request.path', '/leads', {0})"
)
WRITE = "update public.tasks set title = %s where id = %s"
NOTIFY = f"with written as ({WRITE} returning *) select pg_notify('bench', to_jsonb(w)::text) from written w"


@dataclass
class Heard:
    """What one listener got: the numbers of the changes in order, when each came, and those of another tenant."""

    numbers: list[int] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    foreign: int = 0

    def take(self, message: bytes) -> None:
        if found := MARK.search(message):
            if found[1] == b"theirs":
                self.foreign += 1
            else:
                self.numbers.append(int(found[2]))
                self.moments.append(time.monotonic())


@dataclass(frozen=True)
class Run:
    committed: dict[int, float]
    seconds: float
    cpu_seconds: float
    heard: list[Heard]

    def wrong(self) -> dict[str, int]:
        expected = list(self.committed)
        return {
            "lost": sum(len(set(expected) - set(each.numbers)) for each in self.heard),
            "doubled": sum(len(each.numbers) - len(set(each.numbers)) for each in self.heard),
            "out_of_order": sum(map(_disorder, self.heard)),
            "foreign": sum(each.foreign for each in self.heard),
        }

    def latency_ms(self) -> dict[str, float]:
        delays = [
            (moment - self.committed[number]) * 1e3
            for each in self.heard
            for number, moment in zip(each.numbers, each.moments, strict=True)
        ]
        cuts = quantiles(delays, n=100)
        return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1)}


def _disorder(heard: Heard) -> int:
    """How many changes came after a later one of the same row."""
    latest: dict[int, int] = {}
    wrong = 0
    for number in heard.numbers:
        wrong += number < latest.get(number % ROWS, -1)
        latest[number % ROWS] = max(number, latest.get(number % ROWS, -1))
    return wrong


class _Frames(asyncio.Protocol):
    """What a socket receives, read as cheaply as Python can: the listeners share the machine with the servers."""

    def __init__(self, transport: asyncio.Transport, heard: Heard, ready: Callable[[], None]) -> None:
        self._transport, self._heard, self._ready, self._rest = transport, heard, ready, b""

    def data_received(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        while len(data) >= at + 2:
            size, head = data[at + 1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(data[at + 2 : at + head])
            if len(data) < at + head + size:
                break
            message = data[at + head : at + head + size]
            if data[at] & 0x0F == Opcode.PING:
                self._transport.write(Frame(Opcode.PONG, message).serialize(mask=True))
            at += head + size
            if b'"Subscribed to PostgreSQL"' in message:
                self._ready()
            self._heard.take(message)
        self._rest = data[at:]


async def _subscribe(address: str, token: str, heard: Heard, ready: Callable[[], None]) -> None:
    socket = await connect(address, compression=None, ping_interval=None)
    try:
        socket.transport.set_protocol(_Frames(socket.transport, heard, ready))
        wanted = [{"event": "*", "schema": "public", "table": "tasks"}]
        join = {"config": {"postgres_changes": wanted}, "access_token": token}
        frame = Frame(Opcode.TEXT, json.dumps(["1", "1", "realtime:bench", "phx_join", join]).encode())
        socket.transport.write(frame.serialize(mask=True))
        await asyncio.Event().wait()
    finally:
        socket.transport.abort()


async def _listen(url: str, heard: Heard, ready: Callable[[], None]) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("listen bench")
        ready()
        async for notice in connection.notifies():
            heard.take(notice.payload.encode())


def _listeners(pipe: Pipe, addresses: Sequence[tuple[str, str | None]]) -> None:
    """A process of its own: what the listeners cost is not the servers'."""

    async def run() -> list[Heard]:
        heard, missing = [Heard() for _ in addresses], len(addresses)

        def ready() -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                pipe.send(LISTENING)

        tasks = [
            asyncio.create_task(_subscribe(address, token, each, ready) if token else _listen(address, each, ready))
            for (address, token), each in zip(addresses, heard, strict=True)
        ]
        expected = await asyncio.to_thread(pipe.recv)
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline and any(len(each.numbers) < expected for each in heard):  # noqa: ASYNC110 - an event set for each of 450,000 messages would be measured, too
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return heard

    pipe.send(asyncio.run(run()))


class Bench:
    def __init__(self, stack: Stack, rate: int, seconds: int) -> None:
        self.stack, self.rate, self.seconds = stack, rate, seconds
        with stack.cluster.connect() as connection:
            self.ours, self.theirs = (
                [row for (row,) in connection.execute(
                    "insert into public.tasks (organization_id, title) select id, 'ours' from public.organizations,"
                    " generate_series(1, %s) where slug = %s returning id", [ROWS, slug],
                )]
                for slug in ("acme", "globex")
            )  # fmt: skip

    def tokens(self) -> list[str]:
        values = self.stack.values()
        headers = {"apikey": values["PUBLISHABLE_KEY"]}
        found = []
        for name in PEOPLE:
            body = {"email": f"{name}@acme.test", "password": PASSWORD}
            url = f"{values['API_URL']}/auth/v1/token?grant_type=password"
            found.append(httpx.post(url, json=body, headers=headers).raise_for_status().json()["access_token"])
        return found

    def run(self, addresses: Sequence[tuple[str, str | None]], *, notify: bool = False) -> Run:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_listeners, args=(theirs, addresses)) if addresses else None
        if process:
            process.start()
            assert mine.recv() == LISTENING
        before = self._cpu_seconds()
        committed, seconds = self._write(notify=notify)
        heard: list[Heard] = []
        if process:
            mine.send(len(committed))
            heard = mine.recv()
        spent = self._cpu_seconds() - before
        if process:
            process.join()
        return Run(committed, seconds, spent, heard)

    def _write(self, *, notify: bool) -> tuple[dict[int, float], float]:
        committed: dict[int, float] = {}

        def write(writer: int) -> None:
            with self.stack.cluster.connect() as connection:
                for number in range(writer, self.rate * self.seconds, WRITERS):
                    time.sleep(max(0.0, began + number / self.rate - time.monotonic()))  # the rate is the subject
                    is_theirs = number % EVERY == 0
                    row = (self.theirs if is_theirs else self.ours)[number % ROWS]
                    mark = f"{'theirs' if is_theirs else 'ours'} {number}"
                    connection.execute(NOTIFY if notify and not is_theirs else WRITE, [mark, row])
                    if not is_theirs:
                        committed[number] = time.monotonic()

        began = time.monotonic()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(WRITERS)))
        return committed, time.monotonic() - began

    def write_ratios(self, *triggers: str) -> dict[str, Any]:
        """Processor time of a member's writes with these triggers, as a ratio to the same without."""
        samples: dict[tuple[str, bool], list[float]] = {}
        with self.stack.cluster.connect() as owner, self.stack.cluster.connect("authenticator") as member:
            who = owner.execute("select id from public.users where email = 'member@acme.test'").fetchone() or ("",)
            values = [json.dumps({"sub": str(who[0]), "role": "authenticated"}), json.dumps(HEADERS)]
            member.execute(SETTINGS.format("false").encode(), values)

            def write(statement: str, *parameters: object, is_request: bool) -> Any:
                if not is_request:
                    return member.execute(statement.encode(), parameters, prepare=True).fetchone()
                with member.transaction():
                    member.execute(SETTINGS.format("true").encode(), values, prepare=True)
                    member.execute("select private.check_request()", prepare=True)
                    return member.execute(statement.encode(), parameters, prepare=True).fetchone()

            def sample(name: str, count: int, *, is_request: bool) -> dict[str, float]:
                pid = member.info.backend_pid
                before = processor(pid)
                found = [write(INSERT, f"{name} {n}", is_request=is_request) for n in range(count)]
                inserted = processor(pid)
                for ((row,),) in found:
                    write(UPDATE, name, row["id"], is_request=is_request)
                return {"insert": inserted - before, "update": processor(pid) - inserted}

            for number in rounds(f"writes with and without {', '.join(triggers)}", ROUNDS):
                for on in (True, False) if number % 2 else (False, True):
                    self._switch(owner, triggers, on=on)
                    for is_request in (True, False):
                        sample("warm", WARM, is_request=is_request)
                        for event, seconds in sample(f"{number}", PAIRS, is_request=is_request).items():
                            name = f"{event}_ratio" if is_request else f"bare_{event}_ratio"
                            samples.setdefault((name, on), []).append(seconds)
            self._switch(owner, triggers, on=True)
        return {name: ratios(samples[name, True], samples[name, False]) for name, on in samples if on}

    @staticmethod
    def _switch(owner: psycopg.Connection[Any], triggers: Sequence[str], *, on: bool) -> None:
        for trigger in triggers:
            owner.execute(f"alter table public.leads {'enable' if on else 'disable'} trigger {trigger}".encode())

    def _cpu_seconds(self) -> float:
        total = 0.0
        for name in ("postgres", "api"):
            process = self.stack.processes()[name]
            assert process
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):  # it has ended since: then it is among those of its parent
                    times = each.cpu_times()
                    total += times.user + times.system
            times = process.cpu_times()
            total += times.children_user + times.children_system
        return total


def main() -> None:
    given = [int(one) for one in sys.argv[1:]]
    rate, subscribers, seconds = [*given, *(500, 50, 20)[len(given) :]]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, running(Path(folder)) as stack:
        bench, values = Bench(stack, rate, seconds), stack.values()
        tokens = bench.tokens()
        query = f"vsn=2.0.0&apikey={values['PUBLISHABLE_KEY']}"
        socket = f"{values['API_URL'].replace('http', 'ws')}/realtime/v1/websocket?{query}"
        alone = bench.run([])
        notified = bench.run([(stack.cluster.url(), None)] * subscribers, notify=True)
        live = bench.run([(socket, tokens[number % len(tokens)]) for number in range(subscribers)])
        written = bench.write_ratios("broadcast_insert", "broadcast_update")
        recorded = bench.write_ratios("history")
    figures: dict[str, Any] = {"subscribers": subscribers, "changes_per_second": rate, **written, "history": recorded}
    for name, run in (("realtime", live), ("listen_notify", notified)):
        delivered = sum(len(each.numbers) for each in run.heard)
        figures[name] = {
            "delivered": delivered,
            "writes_per_second": round(rate * seconds / run.seconds),
            "commit_to_client_ms": run.latency_ms(),
            "cpu_us_per_message": round((run.cpu_seconds - alone.cpu_seconds) / delivered * 1e6, 1),
            **run.wrong(),
            "wrong": sum(run.wrong().values()),
        }
    print(json.dumps({"machine": machine(), "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
