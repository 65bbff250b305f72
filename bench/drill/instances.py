"""Four processes of functions as four hosts: `python -m bench.drill.instances` (about two minutes).

A load balancer sends the requests of 1,000 clients to them; they reach Postgres, which accepts 40 connections, through
PgBouncer in transaction mode. No request may fail, also while all instances are replaced one after the other; what one
process counts, remembers or locks holds for all; one is killed. Then the books are balanced.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import uvloop

from bench.drill.balancer import Balancer, read_message
from bench.drill.books import balance
from bench.drill.pooler import AbsentError, await_ready, configure, require, start
from bench.drill.stack import sign
from bench.drill.traffic import NO_TLS, Book
from local import postgres
from local.postgres import SUPERUSER
from local.processes import launch, stop
from local.stack import Stack, free_port

if TYPE_CHECKING:
    import psutil

INSTANCES, CLIENTS, ORGANIZATIONS = 4, 1_000, 100
# What Postgres accepts, what the pooler opens of it, and what each instance opens to the pooler.
MAX_CONNECTIONS, SERVERS, POOL = 40, 20, 5
FEW_CLIENTS = 64
TURN_SECONDS, LOAD_SECONDS = 5.0, 10.0
REPEATS, CAPTURES_ALLOWED, KEY_REQUESTS_ALLOWED = 40, 60, 600
AHEAD_SECONDS = 20  # of a minute, so that all requests of a rate limit are in the same one


# Load -----------------------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """What the clients of one turn saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    # Titles of entries, and whether they were acknowledged.
    entries: dict[str, bool] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        slices = statistics.quantiles(self.latencies, n=100)
        return {
            "per_second": round(len(self.latencies) / self.seconds),
            "p50_ms": round(1000 * slices[49]),
            "p99_ms": round(1000 * slices[98]),
            "requests": len(self.latencies),
            "errors": dict(self.errors),
        }


async def client(port: int, token: str, over: Event, sent: Sent) -> None:
    """Record one entry after the other; repeat a request with its key until it is acknowledged."""
    stream = None
    while not over.is_set():
        title = str(uuid4())
        sent.entries[title] = False
        body = json.dumps({
            "type": "USER_ACTION", "title": title, "entity_type": "drill", "entity_id": title, "action": "recorded",
        }).encode()  # fmt: skip
        request = (
            f"POST /functions/v1/record-activity HTTP/1.1\r\nhost: drill\r\nauthorization: Bearer {token}\r\n"
            f"content-type: application/json\r\nidempotency-key: {title}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body
        while not sent.entries[title]:
            try:
                stream = stream or await asyncio.open_connection("127.0.0.1", port)
                began = time.perf_counter()
                stream[1].write(request)
                response = await read_message(stream[0])
            except (OSError, asyncio.IncompleteReadError) as error:
                sent.errors[type(error).__name__] += 1
                stream = None
            else:
                if response.startswith(b"HTTP/1.1 201"):
                    sent.latencies.append(time.perf_counter() - began)
                    sent.entries[title] = True
                else:
                    head, _, content = response.partition(b"\r\n\r\n")
                    sent.errors[f"{head[9:12].decode()} {content[:60].decode()}"] += 1
                    await asyncio.sleep(0.2)  # a client that was refused waits
    if stream:
        stream[1].close()


def load(port: int, tokens: list[str], over: Event, results: "Queue[Sent]") -> None:
    """A process of its own, so that the balancer and the clients do not share one processor."""
    sent = Sent()

    async def run() -> None:
        await asyncio.gather(*(client(port, token, over, sent) for token in tokens))

    began = time.perf_counter()
    uvloop.run(run())
    sent.seconds = time.perf_counter() - began
    results.put(sent)


# Hosts ----------------------------------------------------------------------------------------------------------------


class Hosts:
    """The instances, and the pooler that they share."""

    def __init__(self, stack: Stack, home: Path) -> None:
        self._stack, self._home = stack, home
        self._pooler_port = free_port()
        self._pooler = start(configure(stack, home, self._pooler_port, SERVERS))
        self.running: dict[int, psutil.Process] = {}
        for _ in range(INSTANCES):
            self.add()

    def add(self) -> int:
        words, environment = self._stack.command("functions")
        url = self._stack.database_url("strive_functions")
        port = free_port()
        self.running[port] = launch(
            words, log=self._home / f"functions-{port}.log", cwd=Path.cwd(),
            env=os.environ | environment | {
                "PORT": str(port), "DATABASE_CONNECTIONS": str(POOL),
                "SUPABASE_DB_URL": url.replace(f":{self._stack.cluster.port}/", f":{self._pooler_port}/"),
            },
        )  # fmt: skip
        await_ready(f"http://127.0.0.1:{port}")
        return port

    def remove(self, port: int, **how: Any) -> None:
        stop(self.running.pop(port), **how)

    def end(self) -> None:
        for port in list(self.running):
            self.remove(port)
        self._pooler.kill()
        self._pooler.wait()


@dataclass
class World:
    stack: Stack
    hosts: Hosts
    balancer: Balancer
    tokens: list[str]
    owner: str
    book: Book
    most: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def under_load(self, clients: int) -> Iterator[Sent]:
        spawning = get_context("spawn")
        over, results, found = spawning.Event(), spawning.Queue(), Sent()
        loading = spawning.Process(target=load, args=(self.balancer.port, self.tokens[:clients], over, results))
        loading.start()
        try:
            yield found
        finally:
            over.set()
        vars(found).update(vars(results.get(timeout=120)))
        loading.join()
        self.book.entries |= found.entries

    def request(self, path: str, body: Any, **headers: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.balancer.port}/functions/v1/{path}"
        return httpx.post(
            url,
            json=body,
            headers={name.replace("_", "-"): v for name, v in headers.items()},
            verify=NO_TLS,
            timeout=30,
        )

    def at_once(self, count: int, request: Callable[[int], httpx.Response]) -> list[httpx.Response]:
        with ThreadPoolExecutor(16) as threads:
            return list(threads.map(request, range(count)))

    def one(self, statement: str, *values: Any) -> Any:
        with self.stack.connect() as connection:
            row = connection.execute(statement, values).fetchone()
        return row[0] if row else None


def populate(stack: Stack) -> tuple[list[str], str]:
    """Tokens of the clients, ten in each organization, and the first owner's."""
    with stack.connect() as connection:
        connection.execute(
            "insert into auth.users (id, email, email_confirmed_at)"
            " select md5('client ' || n)::uuid, 'client-' || n || '@drill.test', now() from generate_series(1, %s) n",
            [CLIENTS],
        )
        connection.execute(
            "insert into public.organizations (id, name, slug, subscription_tier)"
            " select md5('tenant ' || n)::uuid, 'Tenant ' || n, 'tenant-' || n, 'ENTERPRISE'"
            " from generate_series(1, %s) n",
            [ORGANIZATIONS],
        )
        connection.execute(
            "insert into public.organization_members (user_id, organization_id, role)"
            " select md5('client ' || n)::uuid, md5('tenant ' || 1 + (n - 1) %% %s)::uuid,"
            """ case when n <= %s then 'OWNER' else 'MEMBER' end::public."OrgRole" from generate_series(1, %s) n""",
            [ORGANIZATIONS, ORGANIZATIONS, CLIENTS],
        )
        people = connection.execute(
            "select m.user_id::text, m.organization_id::text from public.organization_members m"
            " join auth.users u on u.id = m.user_id where u.email like 'client-%' order by m.role, m.user_id"
        ).fetchall()
    tokens = [sign(stack, who, organization) for who, organization in people]
    return tokens, tokens[0]


# What is checked ------------------------------------------------------------------------------------------------------


def throughput(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    """More instances, more requests a second, until the processors or Postgres end it."""
    ports, found = list(world.hosts.running), {}
    for count in (1, 2, INSTANCES):
        world.balancer.serve_with(*ports[:count])
        with world.under_load(FEW_CLIENTS) as sent:
            time.sleep(TURN_SECONDS)  # the length of the measurement
        found[f"{count} instances"] = sent.figures()
    return {}, found


def many_clients(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    with world.under_load(CLIENTS) as sent:
        time.sleep(LOAD_SECONDS)  # the length of the measurement
    return {"no_error_of_1000_clients": not sent.errors}, sent.figures()


def rolling_restart(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    """Each instance gets a successor, then no more requests, then SIGTERM."""
    with world.under_load(CLIENTS) as sent:
        for port in list(world.hosts.running):
            successor = world.hosts.add()
            world.balancer.add(successor)
            world.balancer.serve_with(*(set(world.hosts.running) - {port}))
            world.hosts.remove(port)
    return {"rolling_restart_without_error": not sent.errors}, sent.figures()


def killed(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    """Its clients get errors and repeat their requests with the same key; the books show that all were done once."""
    port = next(iter(world.hosts.running))
    with world.under_load(CLIENTS) as sent:
        time.sleep(2)  # the traffic, not the test: the instance has requests under way when it is killed
        world.hosts.remove(port, signal=SIGKILL)
        world.balancer.serve_with(*world.hosts.running)
        world.balancer.add(world.hosts.add())
        world.balancer.serve_with(*world.hosts.running)
    return {"all_acknowledged_after_a_kill": all(sent.entries.values())}, sent.figures()


def idempotency(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    title = str(uuid4())
    entry = {"type": "USER_ACTION", "title": title, "entity_type": "drill", "entity_id": title, "action": "recorded"}
    world.book.entries[title] = True
    answers = world.at_once(
        REPEATS,
        lambda _: world.request(
            "record-activity", entry, authorization=f"Bearer {world.tokens[1]}", idempotency_key=title
        ),
    )
    created = [each for each in answers if "idempotency-replayed" not in each.headers]
    goal = len(created) == 1 and len({each.text for each in answers}) == 1 and all(each.is_success for each in answers)
    return {"a_key_works_once": goal}, {"responses": REPEATS, "created": len(created)}


def jobs(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    """Every job at every instance at once: runs of one job never overlap, and at least one is done."""
    key = world.stack.values()["SECRET_KEY"]
    names = [name for (name,) in world.stack.connect().execute("select name from private.jobs order by name")]
    answers = world.at_once(
        INSTANCES * len(names), lambda n: world.request(names[n // INSTANCES].replace("_", "-"), {}, apikey=key)
    )
    overlapping = world.one(
        "select count(*) from private.job_runs a join private.job_runs b on b.job = a.job and b.id <> a.id"
        " join private.jobs j on j.name = a.job and j.runs is null"  # those in SQL have a row before they have the lock
        " where a.outcome = 'DONE' and b.outcome = 'DONE'"
        " and b.started_at > a.started_at and b.started_at < a.finished_at"
    )
    done = {each.json()["job"] for each in answers if each.is_success and each.json()["outcome"] == "DONE"}
    outcomes = Counter(each.json().get("outcome", each.json().get("details")) for each in answers)
    goals = {"runs_of_a_job_never_overlap": overlapping == 0, "every_job_is_done": len(done) == len(names)}
    return goals, {"outcomes": dict(outcomes), "jobs": len(names)}


def flags(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    """A change reaches every instance within a second."""
    key = world.stack.values()["SECRET_KEY"]

    def is_on(port: int) -> bool:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/functions/v1/evaluate-flag",
            json={"flag": "drill"},
            headers={"apikey": key},
            verify=NO_TLS,
        )
        return answer.is_success and bool(answer.json()["metadata"]["on"])

    def until(wanted: bool) -> float:
        began, waiting = time.monotonic(), set(world.hosts.running)
        while waiting and time.monotonic() - began < 10:
            waiting = {port for port in waiting if is_on(port) != wanted}
        return time.monotonic() - began

    with world.stack.connect() as connection:
        connection.execute(
            "insert into public.feature_flags (name, is_enabled, rollout_percent, created_by)"
            " select 'drill', true, 100, u.id from public.users u where u.email = 'admin@strive.test'"
        )
        until(True)
        seconds = []
        for turn in range(6):
            connection.execute("update public.feature_flags set is_enabled = %s where name = 'drill'", [bool(turn % 2)])
            seconds.append(until(bool(turn % 2)))
    return {"flags_within_a_second": max(seconds) <= 1}, {"seconds": [round(each, 2) for each in seconds]}


def rate_limits(world: World) -> tuple[dict[str, bool], dict[str, Any]]:
    owner = world.owner
    values = world.stack.values()
    made = httpx.post(
        f"{values['API_URL']}/rest/v1/rpc/create_capture_token",
        json={"name": "Drill", "per_minute": CAPTURES_ALLOWED},
        headers={"apikey": values["PUBLISHABLE_KEY"], "authorization": f"Bearer {owner}"},
        verify=NO_TLS,
    )
    key = world.request(
        "create-api-key", {"name": "Drill", "scopes": ["CRM_READ", "CRM_WRITE"]}, authorization=f"Bearer {owner}"
    )
    await_minute()
    captured = world.at_once(
        2 * CAPTURES_ALLOWED,
        lambda n: world.request(
            "capture-lead", {"token": made.json()["token"], "name": "Ada", "email": f"ada-{n}@drill.test"},
            apikey=values["PUBLISHABLE_KEY"], x_forwarded_for=f"10.1.0.{n}",
        ),
    )  # fmt: skip

    def use(_: int) -> httpx.Response:
        title = str(uuid4())
        world.book.entries[title] = False
        entry = {
            "type": "USER_ACTION",
            "title": title,
            "entity_type": "drill",
            "entity_id": title,
            "action": "recorded",
        }
        answer = world.request("record-activity", entry, x_api_key=key.json()["key"])
        world.book.entries[title] = answer.is_success
        return answer

    await_minute()
    used = world.at_once(KEY_REQUESTS_ALLOWED + 60, use)
    counted = world.one("select sum(usage_amount) from private.metered where api_key_id = %s", UUID(key.json()["id"]))
    statuses = Counter(each.status_code for each in used)
    accepted = sum(each.is_success for each in captured)
    goals = {
        "captures_exact": accepted == CAPTURES_ALLOWED,
        "key_requests_exact": statuses[201] == KEY_REQUESTS_ALLOWED,
        "key_requests_counted": counted == statuses[201],
    }
    return goals, {"captured": accepted, "key_requests": dict(statuses), "counted": int(counted)}


def await_minute() -> None:
    """Rate limits count by the minute of the clock."""
    if (left := 60 - time.time() % 60) < AHEAD_SECONDS:
        time.sleep(left + 0.1)  # a rate counts within a minute of the clock: begin with a new one


CHECKS = (throughput, many_clients, rolling_restart, killed, idempotency, jobs, flags, rate_limits)


def watch(world: World, over: threading.Event) -> None:
    statement = "select usename, count(*) from pg_stat_activity where backend_type = 'client backend' group by 1"
    with world.stack.cluster.connect(SUPERUSER) as connection:
        while not over.wait(0.1):
            rows = connection.execute(statement).fetchall()
            for name, count in [*rows, ("all", sum(count for _, count in rows))]:
                world.most[name] = max(world.most[name], count)


def drill(home: Path, chosen: Sequence[str]) -> dict[str, Any]:
    require()
    stack, over = Stack(home / "stack"), threading.Event()
    usual = postgres.SETTINGS["max_connections"]
    postgres.SETTINGS["max_connections"] = str(MAX_CONNECTIONS)
    try:
        stack.start(0, 0)
    finally:
        postgres.SETTINGS["max_connections"] = usual
    with ExitStack() as cleaning:
        cleaning.callback(stack.stop)
        tokens, owner = populate(stack)
        functions, ports = stack.processes()["functions"], stack.ports
        assert functions
        assert ports
        stop(functions)
        hosts = Hosts(stack, home)
        cleaning.callback(hosts.end)
        balancer = cleaning.enter_context(Balancer(ports.functions, list(hosts.running)))
        world = World(stack, hosts, balancer, tokens, owner, Book())
        watching = threading.Thread(target=watch, args=(world, over))
        watching.start()
        goals: dict[str, bool] = {}
        figures: dict[str, Any] = {}
        try:
            for check in CHECKS:
                if not chosen or check.__name__ in chosen:
                    began = time.monotonic()
                    met, figures[check.__name__] = check(world)
                    print(f"{time.monotonic() - began:.0f} s", end=" ", file=sys.stderr)
                    print(f"{check.__name__}: {met} {figures[check.__name__]}", file=sys.stderr, flush=True)
                    goals |= met
        finally:
            over.set()
            watching.join()
        books = balance(stack, world.book)
    goals["connections_within_budget"] = (
        world.most["strive_functions"] <= SERVERS and world.most["all"] <= MAX_CONNECTIONS
    )
    goals["books_balanced"] = not (books["lost"] or books["wrong"])
    return {
        "goals": goals, **figures, "connections_at_most": dict(world.most), "entries": len(world.book.entries),
        "examples": (books["lost"] + books["wrong"])[:20],
    }  # fmt: skip


def alone(*chosen: str) -> dict[str, Any]:
    """On a stack of its own: it needs a Postgres with few connections."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # PgBouncer runs as another user
        return drill(Path(folder), chosen)


def main() -> None:
    try:
        found = alone(*sys.argv[1:])
    except AbsentError as why:
        print(f"skipped: {why}", file=sys.stderr)
        return
    print(json.dumps(found, indent=2))
    sys.exit(not all(found["goals"].values()))


if __name__ == "__main__":
    main()
