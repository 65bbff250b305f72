"""A streaming replica of a test's cluster, by Postgres's own steps: the embedded binaries lack pg_basebackup."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from local.postgres import SUPERUSER, Cluster
from local.stack import free_port


@contextmanager
def replica_of(primary: Cluster, home: Path) -> Iterator[Cluster]:
    home.mkdir()
    replica = replace(primary, directory=home, port=free_port(), log=home / "postgres.log")
    with primary.connect(SUPERUSER, "template1") as connection:
        connection.execute("select pg_backup_start('replica', true)")
        shutil.copytree(primary.data, replica.data, copy_function=_copy, ignore=_of_the_process)
        row = connection.execute("select labelfile from pg_backup_stop(false)").fetchone()
    assert row
    (replica.data / "backup_label").write_text(row[0])
    (replica.data / "standby.signal").touch()
    with (replica.data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = '{primary.url(SUPERUSER)}'\n")
    owner = primary.data.stat()
    for path in (home, *home.rglob("*")):
        shutil.copystat(primary.data, path) if path.is_dir() else None
        os.chown(path, owner.st_uid, owner.st_gid)
    replica.start()
    try:
        yield replica
    finally:
        replica.stop()


def _copy(source: str, target: str) -> None:
    """A file may go while the primary works: the write-ahead log makes up for it."""
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        Path(target).unlink(missing_ok=True)


def _of_the_process(_folder: str, names: list[str]) -> set[str]:
    return {"postmaster.pid", "postmaster.opts"} & set(names)
