"""An organization moves between two stacks under traffic, and back under kill -9: `python -m bench.drill.move`.

Clients write through functions and the data API, go where a 421 sends them, and repeat what was not acknowledged. A
neighbor in the same database is timed. Then the books are balanced: nothing lost, nothing twice, nothing left behind.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any
from uuid import uuid4

import httpx

from bench.drill.stack import sign
from bench.drill.traffic import NO_TLS, PAUSE_SECONDS
from local.stack import Stack

ROWS, CLIENTS = 100_000, 3
MOVED, NEIGHBOR = "00000000-0000-4000-8000-00000000d001", "00000000-0000-4000-8000-00000000d002"
PERSON, OTHER = "00000000-0000-4000-8000-00000000d003", "00000000-0000-4000-8000-00000000d004"
CALM_SECONDS = 3.0
# Of a write while the organization moves, for 100,000 rows.
PAUSE_GOAL_SECONDS = 2.0
POPULATE = """
insert into auth.users (id, email, email_confirmed_at) values (%(person)s, %(email)s, now());
insert into public.organizations (id, name, slug, subscription_tier) values (%(org)s, %(slug)s, %(slug)s, 'ENTERPRISE');
insert into public.organization_members (user_id, organization_id, role) values (%(person)s, %(org)s, 'OWNER');
"""
FILL = """
insert into public.activity_feeds (organization_id, user_id, type, title, entity_type, entity_id, action)
select %s, %s, 'USER_ACTION', 'Entry ' || n, 'filler', n::text, 'recorded' from generate_series(1, %s) n
"""
TITLES = (
    "select f.title from public.activity_feeds f where f.organization_id = %(org)s and f.entity_type = 'drill'"
    " union all select t.title from public.tasks t where t.organization_id = %(org)s and t.title like 'drill-%%'"
)


@dataclass
class Sent:
    """What a client saw: for each title whether it was acknowledged, and how long each write took until then."""

    titles: dict[str, bool] = field(default_factory=dict)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    responses: Counter[str] = field(default_factory=Counter)

    def longest(self, began: float = 0.0) -> float:
        return max((took for at, took in self.seconds if at + took >= began), default=0.0)


@dataclass
class World:
    """Two stacks; `home` is the address that new clients get."""

    stacks: dict[str, Stack]
    over: threading.Event = field(default_factory=threading.Event)

    def client(self, organization: str, person: str, through: str, sent: Sent, home: str) -> None:
        """Write one entry after the other, each until it is acknowledged."""
        tokens = {address: sign(stack, person, organization) for address, stack in self.stacks.items()}
        keys = {address: stack.values()["PUBLISHABLE_KEY"] for address, stack in self.stacks.items()}
        with httpx.Client(verify=NO_TLS, timeout=15) as http:
            while not self.over.is_set():
                title = f"drill-{uuid4()}"
                sent.titles[title] = False
                began = time.monotonic()
                while not (sent.titles[title] or self.over.is_set()):
                    headers = {
                        "authorization": f"Bearer {tokens[home]}",
                        "apikey": keys[home],
                        "idempotency-key": title,
                    }
                    try:
                        answer = http.post(home + PATHS[through], json=body(through, title), headers=headers)
                    except httpx.HTTPError as error:
                        sent.responses[type(error).__name__] += 1
                        if through == "data":
                            break  # a write without an Idempotency-Key may have been done, so it is not repeated
                        continue
                    code = "" if answer.is_success else answer.json().get("code")
                    sent.responses[f"{answer.status_code} {code}".strip()] += 1
                    if answer.is_success:
                        sent.titles[title] = True
                        sent.seconds.append((began, time.monotonic() - began))
                    elif answer.status_code == httpx.codes.MISDIRECTED_REQUEST:
                        home = answer.json()["details"]
                    else:
                        time.sleep(PAUSE_SECONDS)  # the client's pause before a retry; no result depends on it

    @contextmanager
    def traffic(self, home: str) -> Iterator[tuple[list[Sent], Sent]]:
        self.over.clear()
        sent, neighbor = [Sent() for _ in range(2 * CLIENTS)], Sent()
        first = next(iter(self.stacks))
        threads = [
            threading.Thread(target=self.client, args=(MOVED, PERSON, ("functions", "data")[n % 2], each, home))
            for n, each in enumerate(sent)
        ] + [threading.Thread(target=self.client, args=(NEIGHBOR, OTHER, "functions", neighbor, first))]
        for thread in threads:
            thread.start()
        try:
            yield sent, neighbor
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def command(self, source: str, target: str, *more: str) -> "subprocess.Popen[str]":
        urls = [self.stacks[each].values()["DB_URL"] for each in (source, target)]
        words = [sys.executable, "-c", "from local.cli import main; raise SystemExit(main())", "move", MOVED]
        words += ["--db-url", urls[0], "--to", urls[1], "--address", target, *more]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def move(self, source: str, target: str, *more: str) -> str:
        output, errors = (process := self.command(source, target, *more)).communicate()
        if process.returncode:
            raise SystemExit(f"strive move: {errors}")
        return output

    def move_killed(self, source: str, target: str) -> list[str]:
        """Kill the command at its first step, start it again, kill it at the step after, until it gets through."""
        killed: list[str] = []
        while True:
            process = self.command(source, target)
            assert process.stderr
            for line in process.stderr:
                if line.strip() not in killed:
                    killed.append(line.strip())
                    process.send_signal(SIGKILL)
                    break
            process.communicate()
            if process.returncode == 0:
                return killed
            if process.returncode != -SIGKILL:
                raise SystemExit(f"strive move ended with {process.returncode} after {killed}")

    def titles(self, address: str) -> Counter[str]:
        with self.stacks[address].connect() as connection:
            return Counter(title for (title,) in connection.execute(TITLES, {"org": MOVED}))


PATHS = {"functions": "/functions/v1/record-activity", "data": "/rest/v1/tasks"}


def body(through: str, title: str) -> dict[str, str]:
    if through == "data":
        return {"title": title}
    return {"type": "USER_ACTION", "title": title, "entity_type": "drill", "entity_id": title, "action": "recorded"}


def books(world: World, sent: list[Sent], home: str, former: str) -> dict[str, list[str]]:
    present, left = world.titles(home), world.titles(former)
    acknowledged = {title for each in sent for title, known in each.titles.items() if known}
    return {
        "lost": [f"{title}: acknowledged, not there" for title in acknowledged - present.keys()],
        "doubled": [f"{title}: {number} times" for title, number in present.items() if number > 1],
        "left_behind": [f"{title}: only at the former home" for title in left.keys() - present.keys()],
    }


def p99(sent: Sent, between: tuple[float, float]) -> float:
    took = [took for at, took in sent.seconds if between[0] <= at < between[1]]
    return round(1000 * statistics.quantiles(took, n=100)[98], 1) if len(took) > 1 else 0.0


def drill(home: Path) -> dict[str, Any]:
    with ExitStack() as cleaning:
        stacks = [Stack(home / name, durable=False, jobs=True) for name in ("first", "second")]
        for stack in stacks:
            stack.start(0, 0)
            cleaning.callback(stack.stop)
        world = World({stack.values()["API_URL"]: stack for stack in stacks})
        first, second = world.stacks
        with stacks[0].connect() as connection:
            for org, person, slug in ((MOVED, PERSON, "moved"), (NEIGHBOR, OTHER, "neighbor")):
                values = {"org": org, "person": person, "slug": slug, "email": f"{slug}@drill.test"}
                for statement in POPULATE.strip().split("\n"):
                    connection.execute(statement, values)
            connection.execute(FILL, [MOVED, PERSON, ROWS])
        goals: dict[str, bool] = {}
        found: dict[str, Any] = {}
        all_sent: list[Sent] = []
        for name, source, target in (("move", first, second), ("move back, killed at every step", second, first)):
            with world.traffic(source) as (sent, neighbor):
                calm = time.monotonic()
                time.sleep(CALM_SECONDS)  # the length of the measurement
                began = time.monotonic()
                if source == first:
                    output = world.move(source, target)
                    seen: dict[str, Any] = {"held": output.splitlines()[-1]}
                else:
                    seen = {"killed_at": world.move_killed(source, target)}
                ended = time.monotonic()
                time.sleep(1)  # lets the clients write at the new home; no result depends on its length
            all_sent += sent
            unbalanced = books(world, all_sent, target, source)
            seen |= {
                "seconds": round(ended - began, 1),
                "longest_write_seconds": round(max(each.longest(began) for each in sent), 2),
                "neighbor_p99_ms": {"before": p99(neighbor, (calm, began)), "during": p99(neighbor, (began, ended))},
                "neighbor_longest_ms": round(1000 * neighbor.longest(began)),
                "written": sum(map(len, (each.titles for each in sent))),
                "responses": dict(sum((each.responses for each in sent), Counter())),
                **{what: len(which) for what, which in unbalanced.items()},
            }
            goals |= {f"{name}: nothing {what.replace('_', ' ')}": not which for what, which in unbalanced.items()}
            refused = {int(code.split()[0]) for code in seen["responses"] if code[0].isdigit()} - {
                200,
                201,
                421,
                503,
            }
            goals[f"{name}: only documented refusals"] = not refused
            goals[f"{name}: the neighbor got no error"] = set(neighbor.responses) == {"201"}
            found[name] = seen | {"examples": [each for which in unbalanced.values() for each in which][:10]}
            print(name, seen, file=sys.stderr, flush=True)
            world.move(source, target, "--erase")
            goals[f"{name}: nothing is left after --erase"] = not world.titles(source)
        goals["writes pause at most 2 s"] = found["move"]["longest_write_seconds"] <= PAUSE_GOAL_SECONDS
    return {"goals": goals, "rows": ROWS, **found}


def alone() -> dict[str, Any]:
    """On stacks of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return drill(Path(folder))


def main() -> None:
    found = alone()
    print(json.dumps(found, indent=2))
    sys.exit(not all(found["goals"].values()))


if __name__ == "__main__":
    main()
