"""Prepared clusters and stacks: every worker copies them, and a run reuses them until their sources change."""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from local import ROOT
from local.postgres import SUPERUSER
from local.stack import Stack
from local.temporary import migrated
from tests.support.world import populate

# Of each template. A cluster is migrated by SQL; a stack runs everything once.
SOURCES = {
    "cluster": ["supabase", "local/database", "local/postgres.py", "local/temporary.py"],
    "stack": ["supabase", "local", "shared"],
}
OF_ALL = ["tests/support/world.py", "tests/support/templates.py", "package-lock.json"]


@cache
def _version(name: str) -> str:
    """A hash of all sources of a template."""
    digest = hashlib.sha256()
    for source in SOURCES[name] + OF_ALL:
        path = ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts and ".temp" not in file.parts:
                digest.update(str(file.relative_to(ROOT)).encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def copy_of(name: str, prepare: Callable[[Path], None], templates: Path, target: Path) -> Path:
    """Copy the template `name` to `target`; the first caller prepares it while others wait."""
    current = {each: templates / f"{each}-{_version(each)}" for each in SOURCES}
    folder = current[name]
    with (templates / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in templates.iterdir():
            if old.is_dir() and old not in current.values():
                shutil.rmtree(old)
        if not (folder / name).exists():
            unfinished = folder / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            prepare(unfinished)
            unfinished.rename(folder / name)
        subprocess.run(["cp", "-a", folder / name, target], check=True)
    return target


def prepare_cluster(home: Path) -> None:
    """A cluster whose database `world` is migrated and populated."""
    with migrated(home) as cluster:
        with cluster.connect() as connection:
            populate(connection)
        with cluster.connect(SUPERUSER, "template1") as connection:
            connection.execute("alter database postgres rename to world")
    (home / "password").touch(mode=0o600)
    (home / "password").write_text(cluster.password)


def prepare_stack(workdir: Path) -> None:
    """A stack that was started and stopped once."""
    stack = Stack(workdir, durable=False)
    stack.start(api_port=0, db_port=0)
    with stack.connect() as connection:  # a copy may be days old, and its jobs are not overdue
        connection.execute("update private.jobs set created_at = now() + interval '10 years'")
    stack.stop()
    (workdir / "state.json").unlink()  # its copies run at the same time, on other ports
