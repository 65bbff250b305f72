"""An organization moves between two stacks under traffic, and back under kill -9: `python -m bench.drill.move`.

With `pause`, it only moves, 100,000 rows instead of 5,000, to measure how long writes are held.

Clients write through functions, the data API and Storage, go where a refusal sends them, and repeat what was not
acknowledged. A neighbor in the same database is timed. Then the books are balanced: nothing lost, nothing twice,
nothing left behind, and every file has its content.
"""

import json
import os
import re
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

ROWS, MANY_ROWS, FILES, CLIENTS = 5_000, 100_000, 200, 2
MOVED, NEIGHBOR = "00000000-0000-4000-8000-00000000d001", "00000000-0000-4000-8000-00000000d002"
PERSON, OTHER = "00000000-0000-4000-8000-00000000d003", "00000000-0000-4000-8000-00000000d004"
CALM_SECONDS = 3.0
# Of a write while the organization moves, for 100,000 rows.
PAUSE_GOAL_SECONDS = 2.0
# Killed when each begins, and again in the middle of it.
STEPS = ("check", "begin", "note", "copy 0", "copy 1", "jobs", "hold", "last round", "switch", "arrive")
MIDDLE_SECONDS = (0.0, 0.05)
COMMAND_SECONDS = 300
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
    " union all select a.file_name from public.attachments a join storage.objects o on o.name = a.file_path"
    " where a.organization_id = %(org)s"
)
FOLDER = f"{MOVED}/tasks/{MOVED}"
STORED = "select count(*) from storage.objects where bucket_id = 'attachments' and starts_with(name, %s)"


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
                        if through == "files":
                            headers |= {"content-type": "text/plain", "x-upsert": "true"}
                            path = f"/storage/v1/object/attachments/{FOLDER}/{title}"
                            answer = http.post(home + path, content=title, headers=headers)
                        else:
                            answer = http.post(home + PATHS[through], json=body(through, title), headers=headers)
                    except httpx.HTTPError as error:
                        sent.responses[type(error).__name__] += 1
                        if through == "data":
                            break  # a write without an Idempotency-Key may have been done, so it is not repeated
                        continue
                    refusal = {} if answer.is_success else reason(answer)
                    sent.responses[f"{answer.status_code} {refusal.get('code', '')}".strip()] += 1
                    if answer.is_success:
                        sent.titles[title] = True
                        sent.seconds.append((began, time.monotonic() - began))
                    elif refusal["code"] == "organization_moved":
                        home = refusal["details"]
                    else:
                        time.sleep(PAUSE_SECONDS)  # the client's pause before a retry; no result depends on it

    @contextmanager
    def traffic(self, home: str) -> Iterator[tuple[list[Sent], Sent]]:
        self.over.clear()
        sent, neighbor = [Sent() for _ in range(CLIENTS * len(WAYS))], Sent()
        first = next(iter(self.stacks))
        threads = [
            threading.Thread(target=self.client, args=(MOVED, PERSON, WAYS[n % len(WAYS)], each, home))
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
        words += ["--db-url", urls[0], "--source", source, "--to", urls[1], "--address", target, *more]
        names = ("SOURCE_SECRET_KEY", source), ("TARGET_SECRET_KEY", target)
        keys = {name: self.stacks[each].values()["SECRET_KEY"] for name, each in names}
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | keys)

    def move(self, source: str, target: str, *more: str) -> tuple[str, dict[str, float]]:
        """What the command prints, and how long each of its steps took."""
        process = self.command(source, target, *more)
        with limited(process):
            assert process.stderr
            began = [(line.strip(), time.monotonic()) for line in process.stderr]
            output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"strive move ended with {process.returncode}: {began}")
        ends = [at for _, at in began[1:]] + [time.monotonic()]
        return output, {step: round(end - at, 2) for (step, at), end in zip(began, ends, strict=True)}

    def move_killed(self, source: str, target: str) -> list[str]:
        """Kill the command at each of its steps, then let it finish: where it was killed."""
        killed: list[str] = []
        for step in STEPS:
            for seconds in MIDDLE_SECONDS:
                process = self.command(source, target)
                with limited(process):
                    assert process.stderr
                    lines: list[str] = []
                    for line in process.stderr:
                        lines.append(line)
                        if line.strip() == step:
                            time.sleep(seconds)  # the moment to kill
                            process.send_signal(SIGKILL)
                            killed.append(f"{step} + {seconds} s")
                    process.communicate()
                if process.returncode not in {0, -SIGKILL}:
                    raise SystemExit(f"strive move ended with {process.returncode} after {killed}: {lines}")
        self.move(source, target)
        return killed

    def fill(self, address: str, count: int) -> None:
        """Files that were there before the move."""
        key = self.stacks[address].values()["SECRET_KEY"]
        with httpx.Client(verify=NO_TLS, headers={"apikey": key, "authorization": f"Bearer {key}"}) as http:
            for number in range(count):
                path = f"{address}/storage/v1/object/attachments/{FOLDER}/earlier-{number}"
                http.post(path, content=f"earlier-{number}" * 1000).raise_for_status()

    def wrong_files(self, address: str) -> list[str]:
        """Files with other content than they were sent with."""
        key = self.stacks[address].values()["SECRET_KEY"]
        with self.stacks[address].connect() as connection:
            names = connection.execute(
                "select name from storage.objects where starts_with(name, %s)", [FOLDER]
            ).fetchall()
        with httpx.Client(verify=NO_TLS, headers={"apikey": key, "authorization": f"Bearer {key}"}) as http:
            contents = {name: http.get(f"{address}/storage/v1/object/attachments/{name}").text for (name,) in names}
        return [path for path, content in contents.items() if set(content.split(path.rpartition("/")[2])) != {""}]

    def files_after_erasing(self, address: str) -> int:
        """What Storage still has once the job has run that deletes files."""
        values = self.stacks[address].values()
        job = f"{values['FUNCTIONS_URL']}/sync-attachments"
        httpx.post(job, json={}, headers={"apikey": values["SECRET_KEY"]}, verify=NO_TLS, timeout=60).raise_for_status()
        with self.stacks[address].connect() as connection:
            (left,) = connection.execute(STORED, [FOLDER]).fetchone() or (0,)
        return int(left)

    def titles(self, address: str) -> Counter[str]:
        with self.stacks[address].connect() as connection:
            return Counter(title for (title,) in connection.execute(TITLES, {"org": MOVED}))


REFUSALS = ((503, "moving"), (421, "moved"), (400, "moving"), (400, "moved"))  # 400 is Storage's
WAYS = ("functions", "data", "files")
PATHS = {"functions": "/functions/v1/record-activity", "data": "/rest/v1/tasks"}


@contextmanager
def limited(process: "subprocess.Popen[str]") -> Iterator[None]:
    limit = threading.Timer(COMMAND_SECONDS, process.kill)
    limit.start()
    try:
        yield
    finally:
        limit.cancel()


def await_writes(sent: list[Sent]) -> None:
    """Until the clients have written at their new home as often as there are clients."""
    written = sum(len(each.seconds) for each in sent)
    deadline = time.monotonic() + 60
    while sum(len(each.seconds) for each in sent) < written + len(sent):
        if time.monotonic() > deadline:
            raise SystemExit("The clients do not write after the move.")
        time.sleep(0.05)  # between two looks


def reason(answer: httpx.Response) -> dict[str, Any]:
    """The refusal; of Storage, whose code is always AccessDenied, the message says which and has the address."""
    refusal: dict[str, Any] = answer.json()
    if "organization is moving" in refusal["message"]:
        return refusal | {"code": "organization_moving"}
    _, moved, address = refusal["message"].partition("moved to another address: ")
    return refusal | {"code": "organization_moved", "details": address} if moved else refusal


def body(through: str, title: str) -> dict[str, str]:
    if through == "data":
        return {"title": title}
    return {"type": "USER_ACTION", "title": title, "entity_type": "drill", "entity_id": title, "action": "recorded"}


def books(world: World, sent: list[Sent], home: str, former: str, files: int) -> dict[str, list[str]]:
    present, left = world.titles(home), world.titles(former)
    earlier = {f"earlier-{number}" for number in range(files)}
    acknowledged = {title for each in sent for title, known in each.titles.items() if known}
    return {
        "lost": [f"{title}: acknowledged, not there" for title in (acknowledged | earlier) - present.keys()],
        "wrong_files": world.wrong_files(home),
        "doubled": [f"{title}: {number} times" for title, number in present.items() if number > 1],
        "left_behind": [f"{title}: only at the former home" for title in left.keys() - present.keys()],
    }


def p99(sent: Sent, between: tuple[float, float]) -> float:
    took = [took for at, took in sent.seconds if between[0] <= at < between[1]]
    return round(1000 * statistics.quantiles(took, n=100)[98], 1) if len(took) > 1 else 0.0


def drill(home: Path, rows: int, *, is_killed: bool) -> dict[str, Any]:
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
            connection.execute(FILL, [MOVED, PERSON, rows])
        world.fill(first, FILES)
        goals: dict[str, bool] = {}
        found: dict[str, Any] = {}
        all_sent: list[Sent] = []
        moves = [("move", first, second), ("move back, killed at every step", second, first)]
        for name, source, target in moves if is_killed else moves[:1]:
            with world.traffic(source) as (sent, neighbor):
                calm = time.monotonic()
                time.sleep(CALM_SECONDS)  # the length of the measurement
                began = time.monotonic()
                if source == first:
                    output, steps = world.move(source, target)
                    held = re.search(r"held for ([0-9.]+) s", output)
                    seen: dict[str, Any] = {"held_seconds": float(held[1]) if held else None, "steps": steps}
                else:
                    seen = {"killed_at": world.move_killed(source, target)}
                ended = time.monotonic()
                await_writes(sent)
            all_sent += sent
            unbalanced = books(world, all_sent, target, source, FILES)
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
            expected = {"200", "201", *(f"{status} organization_{how}" for status, how in REFUSALS)}
            goals[f"{name}: only documented refusals"] = {
                each for each in seen["responses"] if each[0].isdigit()
            } <= expected
            goals[f"{name}: the neighbor got no error"] = set(neighbor.responses) == {"201"}
            found[name] = seen | {"examples": [each for which in unbalanced.values() for each in which][:10]}
            print(name, seen, file=sys.stderr, flush=True)
            world.move(source, target, "--erase")
            goals[f"{name}: nothing is left after --erase"] = not (
                world.titles(source) or world.files_after_erasing(source)
            )
        goals["writes pause at most 2 s"] = found["move"]["held_seconds"] <= PAUSE_GOAL_SECONDS
    return {"goals": goals, "rows": rows, "files": FILES, **found}


def alone(rows: int = ROWS, *, is_killed: bool = True) -> dict[str, Any]:
    """On stacks of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return drill(Path(folder), rows, is_killed=is_killed)


def main() -> None:
    found = alone(MANY_ROWS, is_killed=False) if sys.argv[1:] == ["pause"] else alone()
    print(json.dumps(found, indent=2))
    sys.exit(not all(found["goals"].values()))


if __name__ == "__main__":
    main()
