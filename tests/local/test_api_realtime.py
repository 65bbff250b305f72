"""Realtime: channels, presence and changes as supabase-js and supabase-py see them, and what stays hidden."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from postgrest.types import ReturnMethod
from realtime import RealtimePostgresChangesListenEvent
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from local import NODE, ROOT
from supabase import AsyncClient, AsyncClientOptions, acreate_client
from tests.local.api import PASSWORD, Api, running
from tests.support.browser import BROWSER, NEEDS_BROWSER, NEEDS_PLAYWRIGHT
from tests.support.world import ACME, GLOBEX, Database

Message = dict[str, Any]
Person = dict[str, Any]

TABLES = """
create table public.remarks (
  id uuid primary key default gen_random_uuid(), owner uuid not null default auth.uid(), title text, size int default 0,
  secret text
);
alter table public.remarks enable row level security;
create policy own on public.remarks for all to authenticated using (owner = (select auth.uid()));
grant all on public.remarks to service_role;
grant select (id, owner, title, size), insert, update (title, size), delete on public.remarks to authenticated;
alter publication supabase_realtime add table public.remarks;
create function public.announce_note() returns trigger language plpgsql security definer as $$ begin
  perform realtime.broadcast_changes('own:' || new.owner, tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
  return null;
end $$;
create trigger announce after insert on public.remarks for each row execute function public.announce_note();
create table public.allowed (who uuid primary key);
create policy own_listen on realtime.messages for select to authenticated using (
  realtime.topic() = 'own:' || auth.uid() and not exists (select from public.allowed a where a.who = auth.uid()));
create policy own_send on realtime.messages for insert to authenticated
  with check (realtime.topic() = 'own:' || auth.uid());
grant select on public.allowed to authenticated;
"""


class Client:
    """A bare socket that speaks version 1.0.0."""

    def __init__(self, api: Api, token: str | None = None, **query: str) -> None:
        key = {"apikey": api.keys.publishable_key, "vsn": "1.0.0"} | query
        address = str(httpx.URL(api.url.replace("http", "ws") + "/realtime/v1/websocket", params=key))
        self.token = token
        self.socket: ClientConnection = connect(address, max_size=None, compression=None)
        self.refs = map(str, count(1))
        self.held: list[Message] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, topic: str, event: str, payload: Any = None) -> str:
        ref = next(self.refs)
        self.socket.send(json.dumps({"topic": topic, "event": event, "payload": payload or {}, "ref": ref}))
        return ref

    def next(self, event: str, topic: str | None = None, timeout: float = 15) -> Any:
        """The payload of the next message of this kind; others are kept."""
        deadline = time.monotonic() + timeout
        while True:
            for message in self.held:
                if message["event"] == event and topic in {None, message["topic"]}:
                    self.held.remove(message)
                    return message["payload"]
            self.held.append(json.loads(self.socket.recv(max(0, deadline - time.monotonic()))))

    def request(self, topic: str, event: str, payload: Any = None) -> Message:
        ref = self.send(topic, event, payload)
        while True:
            for message in self.held:
                if message["event"] == "phx_reply" and message["ref"] == ref:
                    self.held.remove(message)
                    return dict(message["payload"])
            self.held.append(json.loads(self.socket.recv(15)))

    def join(self, name: str, **config: Any) -> Message:
        payload: Message = {"config": config} | ({"access_token": self.token} if self.token else {})
        return self.request(f"realtime:{name}", "phx_join", payload)

    def subscribe(self, name: str = "changes", **wanted: str) -> None:
        change = {"event": "*", "schema": "public", "table": "remarks"} | wanted
        assert self.join(name, postgres_changes=[change])["status"] == "ok"
        system = self.next("system", f"realtime:{name}")
        assert (system["status"], system["message"]) == ("ok", "Subscribed to PostgreSQL"), system


@pytest.fixture(scope="module", autouse=True)
def _tables(api: Api) -> None:
    api.sql(TABLES)


@pytest.fixture(scope="module")
def person(api: Api) -> Person:
    return api.sign_up("listener")


@pytest.fixture
def client(api: Api, person: Person) -> Iterator[Client]:
    with Client(api, person["access_token"]) as client:
        yield client


def note(api: Api, owner: Person, title: str, size: int = 0) -> str:
    sql = "insert into public.remarks (owner, title, size, secret) values (%s, %s, %s, 'secret') returning id::text"
    return str(api.sql(sql, owner["user"]["id"], title, size)[0][0])


# supabase-js and supabase-py ----------------------------------------------------------------------------------------


def settings_of(api: Api, session: dict[str, Any]) -> dict[str, str]:
    """The environment of a script in Node."""
    return {
        "API_URL": api.url,
        "PUBLISHABLE_KEY": api.keys.publishable_key,
        "EMAIL": session["user"]["email"],
        "PASSWORD": PASSWORD,
        "TABLE": "remarks",
    }


@pytest.mark.parametrize("browser", ["", pytest.param(BROWSER, marks=[NEEDS_BROWSER, NEEDS_PLAYWRIGHT])])
def test_supabase_js_uses_all_four_kinds(api: Api, browser: str) -> None:
    """In Node and in Chromium."""
    session = api.sign_up("js")
    settings = settings_of(api, session) | {"PRIVATE": f"own:{session['user']['id']}", "CHROMIUM": browser}
    ran = subprocess.run(
        [NODE, "tests/local/realtime.mjs"],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + api.log[-2000:]
    seen = json.loads(ran.stdout)
    assert (seen["online"], seen["leaves"]) == (["ann", "bob"], ["bob"])
    assert (seen["ack"], sorted(seen["broadcasts"]), seen["bytes"]) == ("ok", ["ann, é", "bob", "http"], [0, 255, 7])
    assert seen["changes"] == [["INSERT", "big", []], ["UPDATE", "bigger", ["id"]]]
    assert seen["private"] == [["INSERT", "announced"]]
    assert seen["refused"].startswith("Unauthorized: You do not have permissions to read")


def test_supabase_py_uses_all_four_kinds(api: Api) -> None:
    async def use(client: AsyncClient, other: AsyncClient, user: str) -> dict[str, Any]:
        seen: dict[str, Any] = {"changes": [], "broadcasts": [], "private": [], "online": set()}
        room = client.channel(
            "py", {"config": {"presence": {"key": "me", "enabled": True}, "broadcast": None, "private": False}}
        )
        room.on_presence_sync(lambda: seen["online"].update(room.presence_state()))
        room.on_broadcast("hello", seen["broadcasts"].append)
        room.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Insert, seen["changes"].append, table="remarks", schema="public"
        )
        own = client.channel(f"own:{user}", {"config": {"private": True, "presence": None, "broadcast": None}})
        own.on_broadcast("*", seen["private"].append)
        ready = asyncio.Event()
        room.on_system(lambda _: ready.set())
        await room.subscribe()
        await own.subscribe()
        await room.track({"name": "Py"})
        second = other.channel("py")
        await second.subscribe()
        await asyncio.wait_for(ready.wait(), 15)
        await second.send_broadcast("hello", {"x": 1})
        await other.table("remarks").insert({"title": "from py"}, returning=ReturnMethod.minimal).execute()
        async with asyncio.timeout(15):
            while not all(seen.values()):  # noqa: ASYNC110 - filled by callbacks of the client
                await asyncio.sleep(0.02)
        return seen

    async def run() -> dict[str, Any]:
        session = api.sign_up("py")
        clients = []
        for _ in range(2):
            http = httpx.AsyncClient()
            options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
            client = await acreate_client(api.url, api.keys.publishable_key, options)
            await client.auth.sign_in_with_password({"email": session["user"]["email"], "password": PASSWORD})
            signed_in = await client.auth.get_session()
            assert signed_in
            await client.realtime.set_auth(signed_in.access_token)
            clients.append((client, http))
        try:
            return await use(clients[0][0], clients[1][0], session["user"]["id"])
        finally:
            for client, http in clients:
                await client.realtime.close()
                await http.aclose()

    seen = asyncio.run(run())
    assert seen["online"] == {"me"}
    assert seen["broadcasts"][0]["payload"] == {"x": 1}
    assert seen["changes"][0]["data"]["record"]["title"] == "from py"
    assert len(seen["private"]) == 1


# Changes of tables ---------------------------------------------------------------------------------------------------


def test_change_reaches_callers_that_can_select_it(api: Api, person: Person) -> None:
    stranger = api.sign_up("stranger")
    server = {"apikey": api.keys.secret_key}
    with (
        Client(api, person["access_token"]) as mine,
        Client(api, stranger["access_token"]) as theirs,
        Client(api) as unsubscribed,
        Client(api, **server) as all_of_it,
    ):
        for each in (mine, theirs, unsubscribed, all_of_it):
            each.subscribe()
        first, second = note(api, person, "mine"), note(api, stranger, "theirs")
        change = mine.next("postgres_changes")["data"]
        assert (change["type"], change["record"]["id"], change["errors"]) == ("INSERT", first, None)
        # A column without a grant is neither described nor sent.
        assert "secret" not in json.dumps(change)
        assert theirs.next("postgres_changes")["data"]["record"]["id"] == second
        assert all_of_it.next("postgres_changes")["data"]["record"]["secret"] == "secret"
        api.sql("delete from public.remarks where id = %s", first)
        # A deleted row can't be checked: the event contains only its key, for all who may read the key.
        assert mine.next("postgres_changes")["data"]["old_record"] == {"id": first}
        assert theirs.next("postgres_changes")["data"]["old_record"] == {"id": first}
        # `anon` may read no column of the table, not even its key.
        for message in unsubscribed.held:
            assert message["event"] != "postgres_changes" or "record" not in message["payload"]["data"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("size=eq.5", ["five"]),
        ("size=neq.5", ["one", "forty"]),
        ("size=gt.5", ["forty"]),
        ("size=lte.5", ["one", "five"]),
        ("title=in.(one,forty)", ["one", "forty"]),
        ("size=gt.0,size=lt.40", ["one", "five"]),
        ("title=like.%o%,size=isdistinct.1", ["forty"]),
        ("title=not.ilike.F%", ["one"]),
        ('title=match."^(one|five)$"', ["one", "five"]),
        ("title=not.imatch.^F,owner=not.is.null", ["one"]),
        ('title=in.("a,b",forty)', ["forty"]),
    ],
)
def test_filter_selects_changes(api: Api, wanted: str, found: list[str]) -> None:
    person = api.sign_up("filter")
    with Client(api, person["access_token"]) as client:
        client.subscribe(filter=wanted, event="INSERT")
        for title, size in (("one", 1), ("five", 5), ("forty", 40)):
            note(api, person, title, size)
        assert [client.next("postgres_changes")["data"]["record"]["title"] for _ in found] == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "books"}, "Unable to subscribe to changes with given parameters"),
        ({"filter": "size=cs.x"}, 'Error parsing `filter` params: ["cs", "x"]'),
        ({"filter": "size=like.x"}, "operator does not exist: integer ~~ unknown"),
        ({"filter": "title=match.("}, "parentheses () not balanced"),
        ({"filter": "title=match.(?:[^x]{1,200}){1,200}"}, "pattern may be expensive"),
        ({"filter": r"title=not.imatch.(\w+)+\1$"}, "pattern may be expensive"),
        ({"filter": f"title=match.{'a*' * 101}"}, "pattern may be expensive"),
        ({"filter": "title=is.true"}, "argument of IS TRUE must be type boolean, not type text"),
        ({"filter": "size=eq.many"}, "invalid input syntax for type integer"),
        ({"filter": "secret=eq.x"}, "Exception: invalid column for filter secret"),
        ({"filter": 5}, "No subscription params provided"),
        ({"select": "id"}, "Error parsing `select` params: expected a list of column name strings"),
        ({"table": "*", "select": ["id"]}, "Column selection is not supported for wildcard subscriptions."),
        ({"filter": "unknown=eq.x"}, "invalid column for filter unknown"),
        ({"filter": "title=in.(" + ",".join(['"a,b"'] * 101) + ")"}, "too many values for `in` filter. Maximum 100"),
    ],
)
def test_wrong_subscription_is_explained(client: Client, change: dict[str, Any], message: str) -> None:
    wanted = {"event": "*", "schema": "public", "table": "remarks"} | change
    assert client.join("wrong", postgres_changes=[wanted])["status"] == "ok"
    system = client.next("system")
    assert system["status"] == "error"
    assert message in system["message"]
    # A client that waits for its subscriptions is not let in without them.
    refused = client.join("waiting", postgres_changes=[wanted], postgres_changes_options={"wait": True})
    assert refused["response"]["reason"] == f"RealtimeDisabledForConfiguration: {system['message']}"


def test_client_learns_that_the_stream_is_open(client: Client) -> None:
    assert client.join("ready", broadcast={"replication_ready": True})["status"] == "ok"
    assert client.next("system")["message"] == "Replication connection established"


def test_record_has_the_json_that_postgres_makes(api: Api, client: Client) -> None:
    api.sql("""
        create type public.feeling as enum ('so so', 'good');
        create table public.kinds (id bigint primary key, b bool, i int, n numeric, f float8, t text, j jsonb, d date,
          ts timestamptz, tl timestamp, u uuid, m public.feeling, ta text[], ia int[][], ja jsonb[], tsa timestamptz[],
          r int4range, iv interval, by bytea);
        grant select on public.kinds to authenticated;
        alter publication supabase_realtime add table public.kinds;
    """)
    client.subscribe(table="kinds")
    arrays = """'{"a,b",null,"NULL","q\\"","",x y}', '{{1,2},{3,4}}', array['{"a": 1}', 'null']::jsonb[]"""
    values = f"""(1, true, -7, 1.50, 'NaN', E'a"b\\\\c\\né', '{{"x": [1.10, null]}}', '2026-01-02',
      '2026-01-02 03:04:05.678+02', '2026-01-02 03:04:05', gen_random_uuid(), 'so so', {arrays},
      array['2026-01-01 00:00:00+00']::timestamptz[], '[1,5)', '1 day', '\\x00ff'),
      (2, false, null, 'NaN', 1e15, '', 'null', null, null, null, null, null, '{{}}',
      null, null, null, null, null, null)"""
    api.sql(f"insert into public.kinds values {values}")
    rows = [row for (row,) in api.sql("select to_jsonb(k) from public.kinds k order by id")]
    assert [client.next("postgres_changes")["data"]["record"] for _ in rows] == rows


def test_burst_arrives_whole_in_order_and_nowhere_else(api: Api) -> None:  # noqa: C901 - readers and a writer
    people = [api.sign_up("burst") for _ in range(4)]
    rows, sockets = 2000, 20

    async def listen(who: Person, ready: asyncio.Semaphore) -> list[tuple[str, int]]:
        query = {"apikey": api.keys.publishable_key, "vsn": "2.0.0"}
        address = str(httpx.URL(api.url.replace("http", "ws") + "/realtime/v1/websocket", params=query))
        got: list[tuple[str, int]] = []
        async with connect_async(address, compression=None) as socket:
            wanted = [{"event": "*", "schema": "public", "table": "remarks"}]
            join = {"config": {"postgres_changes": wanted}, "access_token": who["access_token"]}
            await socket.send(json.dumps(["1", "1", "realtime:burst", "phx_join", join]))
            while len(got) < rows // len(people):
                message = json.loads(await socket.recv())
                if message[3] == "system":
                    ready.release()
                elif message[3] == "postgres_changes":
                    record = message[4]["data"]["record"]
                    assert record["owner"] == who["user"]["id"]
                    got.append((record["id"], record["size"]))
        return got

    async def run() -> list[list[tuple[str, int]]]:
        ready = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(listen(people[n % len(people)], ready)) for n in range(sockets)]
        for _ in tasks:
            await asyncio.wait_for(ready.acquire(), 30)
        await asyncio.to_thread(write)
        async with asyncio.timeout(120):
            return await asyncio.gather(*tasks)

    def write() -> None:
        ids = [note(api, who, "burst", -1) for who in people]
        with api.database.connect() as connection:
            for size in range(rows // len(people) - 1):
                for row in ids:
                    connection.execute("update public.remarks set size = %s where id = %s", (size, row))

    for got in asyncio.run(run()):
        assert [size for _, size in got] == list(range(-1, rows // len(people) - 1))


def test_one_statement_decides_about_many_rows(api: Api) -> None:
    api.sql("""
        create table public.judged (half int, "Other Half" text, shown bool, primary key (half, "Other Half"));
        insert into public.judged select n, 'it''s', n % 2 = 0 from generate_series(0, 9) n;
        alter table public.judged enable row level security;
        create policy even on public.judged for select to authenticated
          using (shown and case when half = 4 then 1 / (half - 4) else 1 end = 1);
        grant select on public.judged to authenticated, service_role;
    """)
    key = {"Other Half": "it's"}
    conditions = [f"""half='{n}' and "Other Half"='it''s'""" for n in range(10)]
    with api.database.connect("supabase_replication_admin") as connection:

        def seen(role: str, *numbers: int) -> list[int]:
            rows = json.dumps({conditions[n]: key | {"half": str(n)} for n in numbers})
            values = ["public.judged", rows, role, json.dumps({"role": role})]
            found = connection.execute("select realtime.visible(%s::regclass, %s, %s, %s)", values).fetchone()
            assert found
            return sorted(map(conditions.index, found[0]))

        assert seen("authenticated", 0, 1, 2, 3, 6) == [0, 2, 6]
        # The policy fails for row 4, which hides it and no other row.
        assert seen("authenticated", *range(10)) == [0, 2, 6, 8]
        assert seen("authenticated", 4) == []
        assert seen("anon", 0, 1) == []
        assert seen("service_role", *range(10)) == [*range(10)]


def test_row_deleted_meanwhile_hides_no_other(api: Api) -> None:
    person = api.sign_up("both")
    me, gone = person["user"]["id"], "00000000-0000-4000-8000-000000000000"
    for organization in (ACME, GLOBEX):
        api.sql("insert into public.organization_members (user_id, organization_id) values (%s, %s)", me, organization)
    insert = "insert into public.customers (organization_id, name) values (%s, 'kept') returning id::text"
    [(kept,)] = api.sql(insert, GLOBEX)
    with api.database.connect("supabase_replication_admin") as connection:
        rows = json.dumps({f"id='{row}'": {"id": row} for row in (gone, kept)})
        claims = json.dumps({"sub": me, "role": "authenticated", "app_metadata": {"org_id": str(ACME)}})
        query = "select realtime.visible('public.customers', %s, 'authenticated', %s)"
        assert connection.execute(query, [rows, claims]).fetchone() == ([f"id='{kept}'"],)
        stranger = json.dumps({"sub": gone, "role": "authenticated"})
        assert connection.execute(query, [rows, stranger]).fetchone() == ([],)


def test_changes_arrive_again_after_the_database_was_killed(api: Api, person: Person, client: Client) -> None:
    client.subscribe()
    cluster = api.database.cluster
    with cluster.connect("supabase_admin", "template1") as superuser:
        superuser.execute("checkpoint")  # a test's cluster does not wait for the disk
    with api.database.connect("supabase_admin") as superuser:
        superuser.execute(
            "insert into realtime.messages (topic, extension, inserted_at)"
            " values ('old', 'broadcast', localtimestamp - interval '4 days')"
        )
    postmaster = cluster.process()
    assert postmaster
    postmaster.kill()
    postmaster.wait(60)
    cluster.start()
    assert client.next("system", timeout=30)["message"] == "Subscribed to PostgreSQL"
    with api.database.connect("supabase_admin") as superuser:
        assert superuser.execute("select from realtime.messages where topic = 'old'").rowcount == 0
    made = note(api, person, "after the crash")
    assert client.next("postgres_changes")["data"]["record"]["id"] == made


def test_supabase_js_hears_changes_again_after_the_api_was_killed(database: Database, tmp_path: Path) -> None:
    with running(database, tmp_path / "killed") as api:
        session = api.sign_up("again")
        settings = settings_of(api, session)
        with subprocess.Popen(
            [NODE, ROOT / "tests/local/reconnect.mjs"], env=os.environ | settings, stdout=subprocess.PIPE, text=True
        ) as script:
            assert script.stdout
            try:
                for title in ("before", "after"):
                    assert script.stdout.readline() == "Subscribed to PostgreSQL\n"
                    note(api, session, title)
                    assert script.stdout.readline() == f"INSERT {title}\n"
                    api.process.kill()
                    api.process.wait(60)
                    api.start()
            finally:
                script.kill()


def test_too_many_joins_per_second_close_the_connection(api: Api) -> None:
    with Client(api) as client:
        refs = [client.send("realtime:again", "phx_join", {"config": {}}) for _ in range(501)]
        messages = map(json.loads, client.socket)  # until the server closes the connection
        replies = {each["ref"]: each["payload"] for each in messages if each["event"] == "phx_reply"}
        assert replies[refs[499]]["status"] == "ok"
        reason = replies[refs[500]]["response"]["reason"]
        assert reason == "ClientJoinRateLimitReached: Too many joins per second"
        assert client.socket.close_code == 1000


def test_client_that_does_not_read_is_dropped_alone(api: Api, person: Person, client: Client) -> None:
    client.subscribe()
    stalled = Client(api, person["access_token"])
    stalled.subscribe()
    api.sql(
        """insert into public.remarks (owner, title, size)
           select %s, repeat('x', 100000), n from generate_series(0, 249) n""",
        person["user"]["id"],
    )
    sizes = [client.next("postgres_changes", timeout=60)["data"]["record"]["size"] for _ in range(250)]
    assert sizes == list(range(250))
    deadline = time.monotonic() + 60
    while "was dropped" not in api.log and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "a client that does not read was dropped" in api.log
    [(kept,)] = api.sql(
        "select max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)) from pg_replication_slots"
    )
    assert kept < 64 * 1024 * 1024


def test_changes_that_are_not_published_keep_no_wal(api: Api, client: Client) -> None:
    client.subscribe()
    api.sql("create table public.silent as select n, repeat('x', 1000) from generate_series(1, 10000) n")
    [(written,)] = api.sql("select pg_current_wal_lsn()::text")
    deadline = time.monotonic() + 60
    kept = "select bool_and(confirmed_flush_lsn >= %s::pg_lsn) from pg_replication_slots where active"
    while not api.sql(kept, written)[0][0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # until the next look: Postgres announces a confirmed position to no client


def test_too_many_messages_per_second_close_the_channel(client: Client) -> None:
    client.join("busy")
    for number in range(3000):
        client.send("realtime:busy", "broadcast", {"type": "broadcast", "event": "e", "payload": {"n": number}})
    assert client.next("system")["message"] == "Too many messages per second"
    assert client.next("phx_close") == {}
    assert client.request("phoenix", "heartbeat")["status"] == "ok"  # the connection stays


# Channels ------------------------------------------------------------------------------------------------------------


def test_private_channel_follows_its_policies(api: Api) -> None:
    person, stranger = api.sign_up("insider"), api.sign_up("outsider")
    me = person["user"]["id"]
    topic = f"own:{me}"
    with Client(api, person["access_token"]) as mine, Client(api, stranger["access_token"]) as theirs:
        assert mine.join(topic, private=True, broadcast={"self": True})["status"] == "ok"
        refused = theirs.join(topic, private=True)
        assert (refused["status"], refused["response"]["reason"]) == (
            "error",
            f"Unauthorized: You do not have permissions to read from this Channel topic: {topic}",
        )
        # The public channel of the same name is another channel.
        assert theirs.join(topic)["status"] == "ok"
        theirs.send(f"realtime:{topic}", "broadcast", {"type": "broadcast", "event": "forged", "payload": {}})
        api.sql("select realtime.send('{\"from\": \"database\"}', 'news', %s, true)", topic)
        news = mine.next("broadcast")
        assert (news["event"], news["payload"]["from"], bool(news["meta"]["id"])) == ("news", "database", True)
        # Sent messages can be replayed.
        since = int(time.time() * 1000) - 60_000
        mine.request(f"realtime:{topic}", "phx_leave")
        assert mine.join(topic, private=True, broadcast={"replay": {"since": since, "limit": 5}})["status"] == "ok"
        again = mine.next("broadcast")
        assert (again["event"], again["meta"]["replayed"], again["meta"]["id"]) == ("news", True, news["meta"]["id"])


def test_replay_needs_the_right_to_read_broadcasts(api: Api) -> None:
    api.sql("""create policy who_is_there on realtime.messages for select to authenticated
      using (extension = 'presence' and realtime.topic() = 'hall')""")
    api.sql("select realtime.send('{}', 'secret', 'hall', true)")
    person = api.sign_up("hall")
    with Client(api, person["access_token"]) as client:
        assert client.join("hall", private=True)["status"] == "ok"
        for replay in ({"since": 0}, {"since": "yesterday"}, None):
            refused = client.join("hall", private=True, broadcast={"replay": replay})["response"]["reason"]
            assert refused.startswith("Unauthorized: You do not have permissions to read")
        assert "broadcast" not in {message["event"] for message in client.held}
        wrong = client.join(f"own:{person['user']['id']}", private=True, broadcast={"replay": {"since": "yesterday"}})
        assert wrong["response"]["reason"] == "UnableToReplayMessages: Replay params are not valid"
        public = client.join("hall", broadcast={"replay": {"since": 0}})
        assert public["response"]["reason"] == "UnableToReplayMessages: Replay is not allowed for public channels"


def test_rights_end_with_the_next_token(api: Api) -> None:
    person = api.sign_up("leaver")
    me = person["user"]["id"]
    with Client(api, person["access_token"]) as client:
        assert client.join(f"own:{me}", private=True)["status"] == "ok"
        api.sql("insert into public.allowed values (%s)", me)
        client.send(f"realtime:own:{me}", "access_token", {"access_token": api.mint(sub=me)})
        system = client.next("system")
        assert (system["status"], "permission" in system["message"]) == ("error", True)
        assert client.next("phx_close") == {}


def customer(api: Api, organization: object, name: str) -> None:
    api.sql("insert into public.customers (organization_id, name) values (%s, %s)", organization, name)


def test_member_of_two_organizations_gets_both_until_removed(api: Api) -> None:
    person = api.sign_up("both")
    me = person["user"]["id"]
    for organization in (ACME, GLOBEX):
        api.sql("insert into public.organization_members (user_id, organization_id) values (%s, %s)", me, organization)

    def names(client: Client, count: int) -> list[str]:
        return [client.next("postgres_changes")["data"]["record"]["name"] for _ in range(count)]

    with Client(api, person["access_token"]) as client, Client(api, apikey=api.keys.secret_key) as witness:
        client.subscribe(table="customers", event="INSERT")
        for organization in (ACME, GLOBEX):
            assert client.join(f"org:{organization}:tasks", private=True)["status"] == "ok"
            customer(api, organization, f"of {organization}")
            assert client.next("broadcast", f"realtime:org:{organization}:tasks")["payload"]["table"] == "customers"
        assert names(client, 2) == [f"of {ACME}", f"of {GLOBEX}"]
        api.sql("delete from public.organization_members where user_id = %s and organization_id = %s", me, GLOBEX)
        customer(api, GLOBEX, "not for me")
        customer(api, ACME, "still for me")
        assert names(client, 1) == ["still for me"]
        # A channel of broadcasts is checked again with the next token.
        client.send(f"realtime:org:{GLOBEX}:tasks", "access_token", {"access_token": api.mint(sub=me)})
        assert "permission" in client.next("system", f"realtime:org:{GLOBEX}:tasks")["message"]
        api.sql("update public.users set suspended_at = now(), suspended_reason = 'test' where id = %s", me)
        witness.subscribe(table="customers", event="INSERT")
        customer(api, ACME, "not while suspended")
        assert names(witness, 1) == ["not while suspended"]  # so the row was checked by now
        api.sql("update public.users set suspended_at = null, suspended_reason = null where id = %s", me)
        customer(api, ACME, "again")
        assert names(client, 1) == ["again"]


def test_expired_token_closes_the_channel(api: Api, person: Person) -> None:
    soon = api.mint(sub=person["user"]["id"], exp=int(time.time()) + 2)
    with Client(api, soon) as client:
        assert client.join("short")["status"] == "ok"
        assert client.next("system")["message"].startswith("Token has expired")
        client.next("phx_close")
        client.token = api.mint(sub=person["user"]["id"], exp=int(time.time()) - 100)
        reason = client.join("again")["response"]["reason"]
        assert reason.startswith("InvalidJWTToken: Token has expired 10")
        for token, expected in (("a.b.c", "MalformedJWT"), (api.mint(exp=None), "InvalidJWTToken: Fields")):
            client.token = token
            assert client.join("wrong")["response"]["reason"].startswith(expected)


def test_broadcasts_over_http_need_rights_and_a_payload(api: Api, person: Person, client: Client) -> None:
    topic = f"own:{person['user']['id']}"
    client.join(topic, private=True)
    body = {"messages": [{"topic": topic, "event": "e", "payload": {"n": 1}, "private": True}]}
    for other in (api.http(), api.http(token=api.sign_up()["access_token"])):
        assert other.post("/realtime/v1/api/broadcast", json=body).status_code == 202  # and is dropped
    assert api.http(token=person["access_token"]).post("/realtime/v1/api/broadcast", json=body).status_code == 202
    assert client.next("broadcast")["payload"] == {"n": 1}
    assert client.held == []
    assert api.plain.post(f"{api.url}/realtime/v1/api/broadcast", json=body).status_code == 401
    wrongs: list[dict[str, Any]] = [{}, {"messages": []}, {"messages": [{"topic": "x"}]}]
    for wrong in wrongs:
        assert api.http().post("/realtime/v1/api/broadcast", json=wrong).status_code == 422


def test_large_broadcast_arrives_as_it_was_sent(api: Api, client: Client) -> None:
    client.join("large")
    payload = {f"é{each}": [each, None, {"deep": "\u2028"}] for each in range(20_000)}
    with Client(api) as sender:
        sender.join("large")
        sender.send("realtime:large", "broadcast", {"type": "broadcast", "event": "socket", "payload": payload})
        assert client.next("broadcast")["payload"] == payload
    messages = [
        {"topic": "large", "event": "http", "payload": payload},
        {"topic": "large", "event": "http", "payload": {}},
    ]
    assert api.http().post("/realtime/v1/api/broadcast", json={"messages": messages}).status_code == 202
    assert [client.next("broadcast")["payload"] for _ in messages] == [payload, {}]


def test_presence_reports_joins_changes_and_leaves(api: Api) -> None:
    presence = {"presence": {"key": "b", "enabled": True}}
    with Client(api) as first, Client(api) as second:
        first.join("lobby", presence={"key": "a", "enabled": True})
        assert first.next("presence_state") == {}
        track = {"type": "presence", "event": "track", "payload": {"mood": "calm"}}
        assert first.request("realtime:lobby", "presence", track)["status"] == "ok"
        second.join("lobby", **presence)
        assert second.next("presence_state")["a"]["metas"][0]["mood"] == "calm"
        second.request("realtime:lobby", "presence", track)
        assert set(first.next("presence_diff")["joins"]) == {"a"}
        assert set(first.next("presence_diff")["joins"]) == {"b"}
        second.request("realtime:lobby", "presence", {**track, "payload": {"mood": "keen"}})
        diff = first.next("presence_diff")
        assert diff["joins"]["b"]["metas"][0]["phx_ref_prev"] == diff["leaves"]["b"]["metas"][0]["phx_ref"]
        second.socket.close()
        assert set(first.next("presence_diff")["leaves"]) == {"b"}
        # A client that did not ask for presence gets it as soon as it is present itself.
        with Client(api) as third:
            third.join("lobby", presence={"key": "c"})
            third.request("realtime:lobby", "presence", track)
            assert set(third.next("presence_state")) == {"a"}
            assert set(third.next("presence_diff")["joins"]) == {"c"}
        for number in range(5):
            first.send("realtime:lobby", "presence", {**track, "payload": {"n": number}})
        assert first.next("system")["message"] == "Client presence rate limit exceeded"


def test_socket_needs_a_key_and_survives_nonsense(api: Api, database: Database) -> None:
    with pytest.raises(InvalidStatus) as refused:
        Client(api, apikey="sb_publishable_wrong")
    assert refused.value.response.status_code == 401
    assert database.name == api.database.name
    with Client(api) as client:
        for nonsense in ("", "{", "[]", "[1,2]", '{"topic": 1}', b"\x03", b"\x00\xff", "[" * 100_000):
            client.socket.send(nonsense)
        assert client.request("phoenix", "heartbeat") == {"status": "ok", "response": {}}
        assert client.request("realtime:unknown", "broadcast")["response"] == {"reason": "unmatched topic"}
        assert client.request("other:unknown", "phx_join")["response"] == {"reason": "unmatched topic"}
        assert client.request("realtime:unknown", "phx_leave")["status"] == "ok"
        assert client.join("")["response"]["reason"].startswith("TopicNameRequired")
        for number in range(100):
            assert client.join(f"c{number}")["status"] == "ok"
        assert "Too many channels" in client.join("one more")["response"]["reason"]
        big = {"type": "broadcast", "event": "big", "payload": "x" * 3_100_000}
        client.request("realtime:c0", "phx_leave")
        client.join("c0", broadcast={"ack": True})
        assert client.request("realtime:c0", "broadcast", big)["response"] == {"reason": "payload_size_exceeded"}
        with pytest.raises(ConnectionClosed):
            client.request("realtime:c0", "broadcast", "x" * 5_000_000)
