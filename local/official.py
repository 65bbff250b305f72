"""`strive start --supabase`: the official stack of the Supabase CLI instead of the embedded one.

The CLI runs database, API, Auth, Storage, Realtime and Studio, natively or in Docker. Functions, jobs and the Stripe
double run beside it as usual. The project folder and the CLI's home lie in the workdir, so `reset` removes all of it.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from local import ROOT, StackError, database
from local.stack import Stack

# Version 3 of the Supabase CLI needs no Docker, for its type generator either. It is locked for Linux on x86-64 only:
# packages for other platforms are not in every registry yet.
CLI = ROOT / "node_modules/@supabase/cli-linux-x64/bin/supabase"
EXCLUDED = "functions,analytics,pooler"
FETCH_SECONDS = 1800
NOT_FETCHED = re.compile(r"Unable to (download|prepare)|Transport error|ENOTFOUND|pull access denied", re.IGNORECASE)


class OfficialStack(Stack):
    """The same operations; the database and the API belong to the CLI."""

    @property
    def project(self) -> Path:
        return self.workdir / "official"

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(service for service in super().services if service not in {"api", "postgrest"})

    def processes(self) -> dict[str, psutil.Process | None]:
        return {name: process for name, process in super().processes().items() if name != "postgres"}

    def values(self) -> dict[str, str]:
        ports = self.ports
        addresses: dict[str, str] = self._state().get("official", {})
        if not ports or not addresses:
            raise StackError("The official stack has not been started here.", "Start it with: strive start --supabase")
        return {**addresses, "FUNCTIONS_URL": f"http://127.0.0.1:{ports.functions}/functions/v1", **self.stripe()}

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.values()["DB_URL"], autocommit=True)

    def database_url(self, user: str) -> str:
        url = self.values()["DB_URL"]
        return re.sub(r"//[^@]+@", f"//{user}:{quote(self.keys.database_password)}@", url)

    def command(self, service: str) -> tuple[list[str | Path], dict[str, str]]:
        words, environment = super().command(service)
        # The official Auth signs with keys of its own, so impersonation tokens of ours would not be accepted.
        environment.pop("SUPABASE_SIGNING_KEY", None)
        return words, environment

    def _start_postgres(self) -> bool:
        self._write_project()
        self.say("Supabase: starting the official stack (the first time, it is downloaded)")
        started = self._cli("start", "--eager", "--exclude", EXCLUDED, timeout=FETCH_SECONDS)
        if started.returncode:
            self._remove_project()
            raise _explained(started)
        shown = self._cli("status", "--output-format", "json")
        try:
            self._save(self._state() | {"official": _addresses(json.loads(shown.stdout))})
        except (ValueError, KeyError) as error:
            raise StackError(f"The Supabase CLI reports its addresses in an unknown form: {error!r}") from error
        self.migrate()
        with self.connect() as connection:
            database.set_functions_password(connection, self.keys.database_password)
            row = connection.execute("select exists (select from public.organizations)").fetchone()
        return row == (False,)

    def _fill(self, *, seed: bool) -> None:
        if seed:
            self.say("demo data")
            with self.connect() as connection:
                database.seed(connection)

    def _stop_postgres(self) -> None:
        if self.project.exists():
            self._cli("stop")

    def _delete_data(self) -> None:
        self._remove_project()
        shutil.rmtree(self.workdir / "stripe", ignore_errors=True)

    def _write_project(self) -> None:
        """The project of the repository, with the native runtime switched on."""
        folder = self.project / "supabase"
        folder.mkdir(parents=True, exist_ok=True)
        config = (ROOT / "supabase/config.toml").read_text()
        if ports := self.ports:
            config = config.replace("port = 54321", f"port = {ports.api}").replace(
                "port = 54322", f"port = {ports.database}"
            )
        (folder / "config.toml").write_text(f"{config}\n[experimental]\nstack = true\n")
        if not (folder / "migrations").exists():
            (folder / "migrations").symlink_to(ROOT / "supabase/migrations")
        # Copied: the CLI refuses a template outside of the project.
        shutil.copytree(ROOT / "supabase/templates", folder / "templates", dirs_exist_ok=True)
        shutil.copy(ROOT / "supabase/seed.sql", folder / "seed.sql")

    def _remove_project(self) -> None:
        shutil.rmtree(self.project, ignore_errors=True)
        state = self._state()
        if state.pop("official", None):
            self._save(state)

    def _cli(self, *words: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
        if not CLI.exists():
            raise StackError(
                "Version 3 of the Supabase CLI is not installed on this platform.",
                "Use `supabase start` with Docker, as the README shows, or the embedded stack: strive start",
            )
        environment = os.environ | {
            "HOME": str(self.project / "home"),
            "SUPABASE_TELEMETRY_DISABLED": "1",
            "DO_NOT_TRACK": "1",
        }
        if os.geteuid() == 0:  # Postgres refuses to run as root
            environment.setdefault("SUPABASE_NATIVE_POSTGRES_USER", "daemon")
        (self.project / "home").mkdir(parents=True, exist_ok=True)
        command = [str(CLI), *words, "--workdir", str(self.project), "--agent", "no", "--yes"]
        with self.log("supabase").open("ab") as log:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
            log.write(f"$ supabase {' '.join(words)}\n{done.stdout}{done.stderr}\n".encode())
        return done


def _explained(done: subprocess.CompletedProcess[str]) -> StackError:
    output = done.stdout + done.stderr
    if NOT_FETCHED.search(output):
        return StackError(
            "The official stack could not be downloaded from this machine.",
            "Allow access to the artifacts of the Supabase CLI, or use the embedded stack: strive start",
        )
    last = [line.strip(" │■●◇") for line in output.splitlines() if line.strip(" │")][-3:]
    return StackError(f"The Supabase CLI failed: {' '.join(last)[:500]}", "The whole output is in logs/supabase.log")


def _addresses(shown: dict[str, Any]) -> dict[str, str]:
    """The CLI's status, under the names that clients of Strive use."""
    found = {re.sub(r"\W+", "_", name).upper(): str(value) for name, value in _flat(shown).items()}
    api = found.get("API_URL") or found["URL"]
    return {
        "API_URL": api,
        "DB_URL": found.get("DB_URL") or found["DATABASE_URL"],
        "PUBLISHABLE_KEY": found.get("PUBLISHABLE_KEY") or found["ANON_KEY"],
        "SECRET_KEY": found.get("SECRET_KEY") or found["SERVICE_ROLE_KEY"],
        "JWKS_URL": f"{api}/auth/v1/.well-known/jwks.json",
    }


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, each in value.items():
        flat |= _flat(each) if isinstance(each, dict) else {name: each}
    return flat
