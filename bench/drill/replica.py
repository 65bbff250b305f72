"""A streaming replica lags, dies and takes over, and a primary is killed: `python -m bench.drill.replica`.

Reads that may go to a replica are timed in each state, and each must show the row that was committed just before it.
Then clients commit rows, the primary is killed, and the replica is promoted: with synchronous commit, no acknowledged
row may be lost.
"""

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from local.postgres import SUPERUSER, Cluster
from local.stack import free_port
from local.temporary import migrated
from shared.database import pool
from shared.settings import Settings

READS, WRITERS, LAG_SECONDS, WRITING_SECONDS = 20, 4, 10, 3.0
NOTES = (
    "create table public.drill_rows (id uuid primary key); grant all on public.drill_rows to postgres, strive_functions"
)
FIND = "select exists (select from public.drill_rows where id = %s)"
NOTE = "insert into public.drill_rows values (%s)"


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


def drill(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    goals: dict[str, bool] = {}
    with migrated(home / "primary", durable=True) as primary, primary.connect(SUPERUSER) as owner:
        owner.execute(NOTES)
        with replica_of(primary, home / "replica") as replica:
            found["current"] = reads(primary, replica, READS)
            goals["a current replica is read"] = found["current"]["from_replica"] == READS
            with replica.connect(SUPERUSER) as there:
                there.execute(f"alter system set recovery_min_apply_delay = '{LAG_SECONDS}s'")
                there.execute("select pg_reload_conf()")
                found[f"lags {LAG_SECONDS} s"] = reads(primary, replica, 3)
                there.execute("alter system reset recovery_min_apply_delay")
                there.execute("select pg_reload_conf()")
            replica.stop()
            found["dead"] = reads(primary, replica, READS)
            replica.start()
            found["back"] = reads(primary, replica, READS)
            with replica.connect(SUPERUSER) as there:
                there.execute("select pg_promote()")
            found["promoted"] = reads(primary, replica, READS)
    goals["a replica that came back is read"] = found["back"]["from_replica"] == READS
    goals["every read showed what was committed before it"] = all(each["stale"] == 0 for each in found.values())
    for name, is_synchronous in (("asynchronous commit", False), ("synchronous commit", True)):
        found[name] = takeover(home / name.split()[0], is_synchronous=is_synchronous)
    goals["synchronous commit loses no acknowledged write"] = found["synchronous commit"]["lost"] == 0
    return {"goals": goals, **found}


def reads(primary: Cluster, replica: Cluster, count: int) -> dict[str, Any]:
    """Commit a row and read it as an export does: from where, how long that took, and how many rows it lacked."""

    async def work() -> dict[str, Any]:
        values = {
            "SUPABASE_URL": "https://drill.example", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_of_this_drill_alone",
            "SUPABASE_SECRET_KEYS": json.dumps({"default": "sb_secret_of_this_drill_alone"}),
            "SUPABASE_DB_URL": primary.url("strive_functions"), "DATABASE_READ_URL": replica.url("strive_functions"),
        }  # fmt: skip
        database = pool.Database(Settings.read(os.environ | values))
        seconds, from_replica, stale = [], 0, 0
        try:
            await database.open()
            with primary.connect() as writer:
                for _ in range(count):
                    note = uuid4()
                    writer.execute(NOTE, [note])
                    began = time.monotonic()
                    async with database.connect_to_read("drill") as connection:
                        seconds.append(time.monotonic() - began)
                        from_replica += bool(await pool.one(connection, "select pg_is_in_recovery()"))
                        stale += not await pool.one(connection, FIND, [note])
        finally:
            await database.close()
        return {"ms": milliseconds(seconds), "from_replica": from_replica, "of": count, "stale": stale}

    return asyncio.run(work())


def takeover(home: Path, *, is_synchronous: bool) -> dict[str, Any]:
    """Kill the primary under writes and promote the replica: which acknowledged rows it lacks, and when it writes."""
    home.mkdir()
    with migrated(home / "primary", durable=True) as primary, replica_of(primary, home / "replica") as replica:
        with primary.connect(SUPERUSER) as owner:
            owner.execute(NOTES)
            if is_synchronous:
                owner.execute("alter system set synchronous_standby_names = '*'")
                owner.execute("select pg_reload_conf()")
                owner.execute("checkpoint")
                while owner.execute("select sync_state from pg_stat_replication").fetchall() != [("sync",)]:
                    time.sleep(0.01)  # until the replica is the one that commits wait for
        acknowledged: list[Any] = []
        seconds: list[float] = []

        def write() -> None:
            with primary.connect() as connection:
                while True:
                    note, began = uuid4(), time.monotonic()
                    try:
                        connection.execute(NOTE, [note])
                    except psycopg.OperationalError:
                        return  # the primary is dead
                    seconds.append(time.monotonic() - began)
                    acknowledged.append(note)

        threads = [threading.Thread(target=write) for _ in range(WRITERS)]
        for thread in threads:
            thread.start()
        time.sleep(WRITING_SECONDS)  # the length of the measurement
        process = primary.process()
        assert process
        for each in [process, *process.children()]:
            each.kill()
        killed = time.monotonic()
        for thread in threads:
            thread.join()
        with replica.connect(SUPERUSER) as there:
            there.execute("select pg_promote()")
            there.execute(NOTE, [uuid4()])
            writes_again = time.monotonic() - killed
            kept = {note for (note,) in there.execute("select id from public.drill_rows")}
    return {
        "commit_ms": milliseconds(seconds),
        "acknowledged": len(acknowledged),
        "lost": len([note for note in acknowledged if note not in kept]),
        "writes_again_after_seconds": round(writes_again, 2),
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    return {"median": round(1000 * statistics.median(seconds), 1), "longest": round(1000 * max(seconds), 1)}


def alone() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        return drill(Path(folder))


def main() -> None:
    found = alone()
    print(json.dumps(found, indent=2))
    sys.exit(not all(found["goals"].values()))


if __name__ == "__main__":
    main()
