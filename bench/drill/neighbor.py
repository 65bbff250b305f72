"""One hostile account beside twenty working tenants: `python -m bench.drill.neighbor [SECONDS]` (60 unless given).

The account sends everything that docs/security.md names, as fast as it can. The tenants may not notice: their slowest
one in a hundred requests takes at most three times as long as in calm, none gets a 5xx, and memory stays bounded.
"""

import json
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from bench.drill.stack import running
from bench.drill.traffic import NO_TLS, PASSWORD
from local.stack import Stack

TENANTS = 20
HANDS = 16  # requests that the hostile account has under way
WARM_SECONDS = 10.0  # first connections and plans
CALM_SECONDS = 20.0
AFTER_SECONDS = 5.0
PAUSE_SECONDS = 0.25
SLOWEST_RATIO = 3.0
FUNCTIONS_MB, BACKEND_MB = 256, 200
APPOINTMENTS = 3000
TEXT_SEARCH = "text search"  # reads until its timeout, which PostgREST answers with 500: see docs/errors.md


@dataclass
class Seen:
    """Responses to the tenants in one phase."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)
    moments: list[tuple[float, str, str]] = field(default_factory=list)

    def all_seconds(self) -> list[float]:
        return [seconds for kind in self.seconds.values() for seconds in kind]

    def slowest(self) -> float:
        return slowest(self.all_seconds())


def slowest(seconds: list[float]) -> float:
    """The slowest of a hundred."""
    return statistics.quantiles(seconds, n=100)[98] if len(seconds) > 1 else 0.0


class Account:
    def __init__(self, values: dict[str, str], name: str) -> None:
        self.email = f"{name}-{uuid4().hex[:8]}@drill.test"
        self.http = httpx.Client(
            base_url=values["API_URL"], headers={"apikey": values["PUBLISHABLE_KEY"]}, timeout=20, verify=NO_TLS
        )
        body = {"email": self.email, "password": PASSWORD}
        self.http.post("/auth/v1/signup", json=body).raise_for_status()
        self.sign_in()
        self.organization = ""

    def sign_in(self) -> None:
        body = {"email": self.email, "password": PASSWORD}
        answer = self.http.post("/auth/v1/token?grant_type=password", json=body).raise_for_status().json()
        self.user = answer["user"]["id"]
        self.http.headers["authorization"] = f"Bearer {answer['access_token']}"

    def found(self, stack: Stack, tier: str) -> None:
        """A new organization with a few rows."""
        with stack.cluster.connect() as connection:
            row = connection.execute(
                "with o as (insert into public.organizations (name, slug, subscription_tier) values (%s, %s, %s)"
                " returning id)"
                " insert into public.organization_members (user_id, organization_id, role)"
                " select %s, o.id, 'OWNER' from o returning organization_id",
                ["Drill", uuid4().hex, tier, self.user],
            ).fetchone()
            assert row
            self.organization = str(row[0])
            connection.execute(
                "insert into public.leads (organization_id, name) select %s, 'Ada' from generate_series(1, 200)",
                [self.organization],
            )


# Working --------------------------------------------------------------------------------------------------------------


def work(tenant: Account) -> dict[str, Callable[[], httpx.Response]]:
    def entry() -> httpx.Response:
        body = {"type": "USER_ACTION", "title": "T", "entity_type": "neighbor", "entity_id": "1", "action": "done"}
        return tenant.http.post("/functions/v1/record-activity", json=body)

    def lead() -> httpx.Response:
        return tenant.http.post("/rest/v1/leads", json={"organization_id": tenant.organization, "name": "Grace"})

    newest = "/rest/v1/leads?select=id,name&order=created_at.desc&limit=50"
    return {
        "newest leads": lambda: tenant.http.get(newest),
        "feed": lambda: tenant.http.get("/rest/v1/activity_feeds?order=created_at.desc&limit=50"),
        "record-activity": entry,
        "new lead": lead,
        "dashboard-snapshot": lambda: tenant.http.post("/functions/v1/dashboard-snapshot", json={}),
    }


def busy(tenant: Account, phase: Callable[[], Seen | None], over: threading.Event) -> None:
    requests = list(work(tenant).items())
    while not over.wait(PAUSE_SECONDS * random.uniform(0.5, 1.5)):
        seen = phase()
        kind, request = random.choice(requests)
        began = time.perf_counter()
        try:
            answer = request()
            wrong = f"{answer.status_code} {answer.text[:200]}" if answer.status_code >= 500 else ""
        except httpx.TransportError as error:
            wrong = repr(error)
        if seen is not None:
            took = time.perf_counter() - began
            seen.seconds.setdefault(kind, []).append(took)
            seen.moments.append((round(1000 * took), kind, time.strftime("%H:%M:%S")))
            seen.failed += [wrong] if wrong else []


# Hostile --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hostile:
    """What a process needs to act as the hostile account."""

    url: str
    headers: dict[str, str]
    user: str
    organization: str
    lead: str


def attacks(eve: Hostile, http: httpx.Client) -> dict[str, Callable[[], httpx.Response]]:
    """Bodies are made once: the account spends its time on sending them."""
    org = eve.organization
    many = json.dumps([{"organization_id": org, "name": "x", "notes": "y" * 5000} for _ in range(500)]).encode()
    numbers = ",".join(["1e131071"] * 5000)
    bomb = f'{{"organization_id": "{org}", "name": "x", "custom_fields": {{"a": [{numbers}]}}}}'.encode()
    deep = "/rest/v1/activities?select=id,leads(id,activities(id,leads(id,activities(id))))"
    activity = {"type": "NOTE", "title": "T", "lead_id": eve.lead}
    activities = json.dumps({"activities": [activity] * 500}).encode()
    unknown = json.dumps({f"field{n}": "x" * 20 for n in range(20_000)}).encode()
    empty = json.dumps({"property_types": [{}] * 40_000}).encode()
    header_line = b"a," * 2_000_000
    pattern = "name=match.(?:[^x]{1,200}){1,200}"
    conditions = f"or=({','.join(['name.eq.a'] * 1000)})"
    words = f"notes=wfts.{'%20or%20'.join(f'a{n}' for n in range(4000))}"
    flag = json.dumps({"name": "x", "conditions": {"$or": [{"a": {"$gt": n}} for n in range(2000)]}}).encode()

    def post(path: str, content: bytes, kind: str = "application/json") -> Callable[[], httpx.Response]:
        return lambda: http.post(path, content=content, headers={"content-type": kind})

    return {
        "estimates": lambda: http.get("/rest/v1/leads?select=id", headers={"prefer": "count=planned"}),
        "embedding": lambda: http.get(deep),
        "regular expressions": lambda: http.get(f"/rest/v1/leads?{pattern}"),
        "conditions": lambda: http.get(f"/rest/v1/leads?{conditions}"),
        TEXT_SEARCH: lambda: http.get(f"/rest/v1/leads?{words}"),
        "agenda": post("/rest/v1/rpc/agenda", b'{"since": "2026-01-01", "until": "2026-12-31"}'),
        "number bombs": post("/rest/v1/leads", bomb),
        "rows": post("/rest/v1/leads", many),
        "not a number": post("/rest/v1/leads", f'{{"organization_id": "{org}", "budget": "NaN"}}'.encode()),
        "metrics": post(
            "/rest/v1/rpc/evaluate_metric", b'{"query": {"source": "leads", "aggregate": "count", "group_by": "name"}}'
        ),
        "changes": lambda: http.patch("/rest/v1/leads?name=eq.Ada", json={"notes": "z" * 5000}),
        "snapshot": post("/functions/v1/dashboard-snapshot", b"{}"),
        "activities": post("/functions/v1/record-activity", activities),
        "unknown fields": post("/functions/v1/capture-lead", unknown),
        "empty objects": post("/functions/v1/capture-lead", empty),
        "header line": post("/functions/v1/import-records?kind=leads", header_line, "text/csv"),
        "export": post("/functions/v1/export-organization", f'{{"organization_id": "{org}"}}'.encode()),
        "avatars": lambda: http.post(
            f"/storage/v1/object/avatars/{eve.user}/{uuid4()}.png", content=b"x", headers={"content-type": "image/png"}
        ),
        "folders": post("/storage/v1/object/list/avatars", f'{{"prefix": "{eve.user}/"}}'.encode()),
        "flags": post("/rest/v1/feature_flags", flag),
        "onboarding": post("/functions/v1/create-onboarding-session", b"{}"),
    }


def attack(eve: Hostile, over: Event, answers: "Queue[Counter[str]]") -> None:
    """A process of its own, which gets the processor that the stack leaves: the account's computer is another one."""
    os.nice(10)
    counts: Counter[str] = Counter()

    def send() -> None:
        with httpx.Client(base_url=eve.url, headers=eve.headers, timeout=20, verify=NO_TLS) as http:
            chosen = list(attacks(eve, http).items())
            while not over.is_set():
                name, request = random.choice(chosen)
                try:
                    counts[f"{name} {request().status_code}"] += 1
                except httpx.TransportError:
                    counts[f"{name} cut off"] += 1

    hands = [threading.Thread(target=send) for _ in range(HANDS)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    answers.put(counts)


# Memory ---------------------------------------------------------------------------------------------------------------


def anonymous_mb(process: psutil.Process) -> float:
    """Its private memory, without the buffers shared by all backends."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def watch(stack: Stack, most: dict[str, float], over: threading.Event) -> None:
    while not over.wait(0.2):
        for name, service in stack.processes().items():
            if service is None:
                continue
            family = (
                service.children(recursive=True) if name == "postgres" else [service, *service.children(recursive=True)]
            )
            kind = "backend" if name == "postgres" else name
            for process in family:
                try:
                    most[kind] = max(most.get(kind, 0.0), anonymous_mb(process))
                except (psutil.NoSuchProcess, FileNotFoundError, StopIteration, ProcessLookupError):
                    continue


WAITS = r"""
    select coalesce(wait_event_type || ' ' || wait_event, 'running'),
      substr(regexp_replace(query, '\s+', ' ', 'g'), 1, 60)
    from pg_stat_activity
    where state = 'active' and backend_type = 'client backend' and pid <> pg_backend_pid()
"""


def watch_waits(stack: Stack, phase: Callable[[], Seen | None], over: threading.Event) -> None:
    """What active backends wait for, by samples."""
    with stack.cluster.connect() as connection:
        while not over.wait(0.1):
            if (seen := phase()) is not None:
                rows = connection.execute(WAITS).fetchall()
                seen.waits.update(event for event, _ in rows)
                seen.running.update(statement for event, statement in rows if event == "running")


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """What each service has used so far, with all its processes."""
    used: dict[str, float] = {}
    for name, service in stack.processes().items():
        for process in [service, *service.children(recursive=True)] if service else []:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def drill(stack: Stack, seconds: float) -> dict[str, Any]:
    values = stack.values()
    tenants = [Account(values, "tenant") for _ in range(TENANTS)]
    for tenant in tenants:
        tenant.found(stack, "GROWTH")
    eve = Account(values, "eve")
    eve.found(stack, "FREE")
    with stack.cluster.connect() as connection:
        row = connection.execute(
            "select id from public.leads where organization_id = %s", [eve.organization]
        ).fetchone()
        assert row
        lead = str(row[0])
        connection.execute(
            "insert into public.appointments (organization_id, title, start_time, end_time, assigned_to)"
            " select %s, 'A', '2026-06-01', '2026-06-02', %s from generate_series(1, %s)",
            [eve.organization, eve.user, APPOINTMENTS],
        )
        connection.execute(
            "insert into public.activities (organization_id, created_by_id, lead_id, type, title)"
            " select %s, %s, %s, 'NOTE', 'T' from generate_series(1, 2000)",
            [eve.organization, eve.user, lead],
        )
        connection.execute("analyze")
    phases = {name: Seen() for name in ("calm", "hostile", "after")}
    now: list[Seen | None] = [None]
    over = threading.Event()
    most: dict[str, float] = {}
    spawning = get_context("spawn")
    peace, answers = spawning.Event(), spawning.Queue()
    account = Hostile(values["API_URL"], dict(eve.http.headers), eve.user, eve.organization, lead)
    hostile = spawning.Process(target=attack, args=(account, peace, answers))
    threads = [threading.Thread(target=busy, args=(tenant, lambda: now[0], over)) for tenant in tenants]
    threads.append(threading.Thread(target=watch, args=(stack, most, over)))
    threads.append(threading.Thread(target=watch_waits, args=(stack, lambda: now[0], over)))
    for thread in threads:
        thread.start()
    # The durations of the drill: load and recovery are measured over time, no test asserts on them.
    time.sleep(WARM_SECONDS)
    now[0] = phases["calm"]
    time.sleep(CALM_SECONDS)
    now[0] = phases["hostile"]
    before = cpu_seconds(stack)
    hostile.start()
    time.sleep(seconds)
    used = {name: round(spent - before.get(name, 0.0), 1) for name, spent in cpu_seconds(stack).items()}
    peace.set()
    now[0] = None
    time.sleep(AFTER_SECONDS)
    now[0] = phases["after"]
    time.sleep(CALM_SECONDS / 2)
    over.set()
    for thread in threads:
        thread.join()
    counts: Counter[str] = answers.get(timeout=30)
    hostile.join()
    before_it, worst, after = (phases[name].slowest() for name in ("calm", "hostile", "after"))
    calm = min(before_it, after)  # another program of this machine may disturb one of them
    goals = {
        "slowest_of_100_at_most_3x_calm": worst <= SLOWEST_RATIO * calm,
        "account_gets_no_5xx_but_503": not any(
            re.search(" 5(?!03)", answer) for answer in counts if answer != f"{TEXT_SEARCH} 500"
        ),
        "no_5xx_for_tenants": not any(seen.failed for seen in phases.values()),
        "functions_memory": most.get("functions", 0) <= FUNCTIONS_MB,
        "backend_memory": most.get("backend", 0) <= BACKEND_MB,
        "well_again_after_5_s": after <= SLOWEST_RATIO * before_it,
    }
    return {
        "goals": goals,
        "times_calm": round(worst / calm, 2),
        "p99_ms": {name: round(1000 * seen.slowest(), 1) for name, seen in phases.items()},
        "p99_ms_by_request": {
            name: {kind: round(1000 * slowest(seconds), 1) for kind, seconds in sorted(seen.seconds.items())}
            for name, seen in phases.items()
        },
        "requests": {name: len(seen.all_seconds()) for name, seen in phases.items()},
        "waits": {name: dict(seen.waits.most_common(8)) for name, seen in phases.items()},
        "running": {name: dict(seen.running.most_common(8)) for name, seen in phases.items()},
        "slowest": {name: sorted(seen.moments, reverse=True)[:10] for name, seen in phases.items()},
        "failed": {name: seen.failed[:5] for name, seen in phases.items() if seen.failed},
        "memory_mb": {name: round(mb) for name, mb in sorted(most.items())},
        "hostile_cpu_seconds": used,
        "hostile_answers": dict(sorted(counts.items())),
    }


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, running(Path(folder)) as stack:
        found = drill(stack, seconds)
    print(json.dumps(found, indent=2))
    sys.exit(not all(found["goals"].values()))


if __name__ == "__main__":
    main()
