"""The stack of one workdir: Postgres, the API, the functions, the jobs, and doubles of Stripe and of a model."""

import fcntl
import http.client
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from local import ROOT, StackError, database, demo
from local.config import api_environment, postgrest_environment, return_origins
from local.keys import Keys, ensure_keys, load_keys
from local.postgres import SUPERUSER, Cluster
from local.processes import find, launch, stop, tail

API_PORT, DB_PORT = 54321, 54322
# The Supabase CLI reserves 10000 to 19999 for services of its own.
PORTS = range(20_000, 32_000)
SERVICES = ("stripe", "model", "postgrest", "api", "functions", "jobs")
HEALTH = {"stripe": "/", "model": "/v1/models", "postgrest": "/", "api": "/health", "functions": "/healthz"}
# Variables that a double replaces.
DOUBLES = {"STRIPE_": "stripe", "AI_": "model"}
# Used with STRIPE_SECRET_KEY of a real account, instead of the double.
FEW = 5  # migrations that are named; more are counted
STRIPE_API = "https://api.stripe.com"
# Receivers of webhooks on this machine.
LOOPBACK = "127.0.0.0/8,::1/128"
MAIL_FROM = "Strive <no-reply@strive.test>"


@dataclass(frozen=True)
class Ports:
    api: int
    database: int
    functions: int
    stripe: int = 0  # 0: a real account is used, so no double runs
    model: int = 0  # 0: AI_BASE_URL names a real language model, so no double runs
    smtp: int = 0  # the API takes the product's e-mails there and shows them at /mail
    postgrest: int = 0  # 0: the API answers /rest/v1 itself, without POSTGREST_BIN


class Stack:
    """Every operation can be repeated: it checks the state and does what is missing."""

    def __init__(
        self,
        workdir: Path,
        *,
        durable: bool = True,
        jobs: bool = False,
        demo_year: bool = False,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.workdir = workdir.resolve()
        self.durable = durable
        self.jobs = jobs  # whether `start` also runs the jobs when they are due
        self.demo_year = demo_year  # whether a new database also gets the year that local/demo/ generates
        self.say = say
        self.logs = self.workdir / "logs"

    # State ------------------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Keys:
        return load_keys(self.workdir / "keys.json")

    @property
    def ports(self) -> Ports | None:
        """The ports of the last start."""
        state = self._state()
        return Ports(**state["ports"]) if "ports" in state else None

    @property
    def cluster(self) -> Cluster:
        ports = self.ports
        return Cluster(
            self.workdir / "postgres",
            ports.database if ports else DB_PORT,
            self.keys.database_password,
            self.log("postgres"),
            durable=self.durable,
        )

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as `postgres`."""
        return self.cluster.connect()

    def database_url(self, user: str) -> str:
        return self.cluster.url(user)

    def is_official(self) -> bool:
        """Whether the last start used the official stack (`--supabase`)."""
        return "official" in self._state()

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def processes(self) -> dict[str, psutil.Process | None]:
        if not self.ports:  # never started: there are no keys either
            return dict.fromkeys(("postgres", *SERVICES))
        recorded = self._state().get("processes", {})
        found = {name: find(*recorded[name]) if name in recorded else None for name in self.services}
        return {"postgres": self.cluster.process(), **found}

    @property
    def services(self) -> tuple[str, ...]:
        """The services of the last start."""
        ports = self.ports
        optional = {
            "stripe": ports and ports.stripe,
            "model": ports and ports.model,
            "postgrest": ports and ports.postgrest,
            "jobs": self._state().get("jobs"),
        }
        return tuple(service for service in SERVICES if optional.get(service, True))

    def running(self) -> bool:
        return self.ports is not None and all(self.processes().values())

    def values(self) -> dict[str, str]:
        """The addresses and keys that clients need, with the names of `supabase status -o env`."""
        ports, keys = self.ports, self.keys
        if not ports:
            raise StackError("Strive has not been started here.", "Start it with: strive start")
        api = f"http://127.0.0.1:{ports.api}"
        return {
            "API_URL": api,
            "DB_URL": self.cluster.url(),
            "FUNCTIONS_URL": f"{api}/functions/v1",
            "PUBLISHABLE_KEY": keys.publishable_key,
            "SECRET_KEY": keys.secret_key,
            "JWKS_URL": f"{api}/auth/v1/.well-known/jwks.json",
            **self.stripe(),
        }

    def stripe(self) -> dict[str, str]:
        """The address of Stripe and the webhook secret: of the double, or from the environment."""
        ports, keys = self.ports, self.keys
        if ports and ports.stripe:
            return {
                "STRIPE_API_BASE": f"http://127.0.0.1:{ports.stripe}",
                "STRIPE_WEBHOOK_SECRET": keys.stripe_webhook_secret,
            }
        own = {"STRIPE_API_BASE": STRIPE_API} | os.environ
        return {name: own[name] for name in ("STRIPE_API_BASE", "STRIPE_WEBHOOK_SECRET") if name in own}

    # Operations -------------------------------------------------------------------------------------------------------

    def start(self, api_port: int | None = None, db_port: int | None = None, *, seed: bool = True) -> None:
        """Start everything; the first time, create the database. A start that fails leaves nothing running."""
        with self._locked():
            if not self.running():
                self._start(api_port, db_port, seed=seed)

    def stop(self) -> bool:
        """Stop everything, `strive dev` included; False when nothing ran."""
        in_foreground = self._stop_foreground()
        with self._locked():
            return self._stop() or in_foreground

    def reset(self) -> None:
        """Create the database again from migrations and demo data. Ports and keys stay; rows and files are deleted.

        The lock is held throughout, so that `strive dev` waits instead of restarting what is being replaced.
        """
        ran = any(self.processes().values())
        with self._locked():
            self._stop()
            self._delete_data()
            self._start(None, None, seed=True)
            if not ran:
                self._stop()

    def restart(self, service: str) -> None:
        """Stop and start one service, on the same port."""
        with self._locked():
            if process := self.processes()[service]:
                stop(process)
            self._start_service(service)
            if service in HEALTH:
                self._await(service)

    def migrate(self) -> None:
        with self.connect() as connection:
            applied: list[str] = []
            database.migrate(connection, applied.append)
            if len(applied) > FEW:
                self.say(f"{len(applied)} migrations")
            else:
                for name in applied:
                    self.say(f"migration {name}")
            if edited := database.edited(connection):
                self.say(f"note: `strive reset` applies what was edited or deleted since: {', '.join(edited)}")

    def put_on_sale(self) -> list[str]:
        """Create missing prices of the plans at Stripe; return the keys of the plans that changed."""
        key = self.keys.stripe_secret_key if self.ports and self.ports.stripe else os.environ.get("STRIPE_SECRET_KEY")
        if not key:
            raise StackError("Stripe is not configured.", "Set STRIPE_SECRET_KEY to the secret key of your account.")
        import stripe  # noqa: PLC0415 - a large library that few commands use

        from shared.billing.prices import put_on_sale  # noqa: PLC0415 - as above

        try:
            with self.connect() as connection:
                return put_on_sale(connection, self.stripe()["STRIPE_API_BASE"], key)
        except stripe.StripeError as error:
            raise StackError(f"Stripe did not create the prices: {error}") from error

    # Parts ------------------------------------------------------------------------------------------------------------

    def _start(self, api_port: int | None, db_port: int | None, *, seed: bool) -> None:
        self._stop()  # a stack that lost a process is started again as a whole
        ensure_keys(self.workdir / "keys.json")
        self._choose_ports(api_port, db_port)
        self._save(self._state() | {"jobs": self.jobs})
        try:
            is_new = self._start_postgres()
            self.say("API and functions")
            self._start_services(HEALTH)
            if is_new:
                self._fill(seed=seed)  # while the services load their libraries
            if "stripe" in self.services:
                self._await("stripe")
                self.put_on_sale()
            else:
                self.say("Stripe: your own account. `strive prices` creates the prices of the plans there.")
            for service in ("model", "postgrest", "api", "functions"):
                if service in self.services:
                    self._await(service)
            if is_new and seed and self.demo_year:
                from local.demo.services import buy_plans, upload_files  # noqa: PLC0415 - httpx doubles `strive status`

                with self.connect() as connection:
                    upload_files(connection, self.values()["API_URL"], self.keys.secret_key)
                    if "stripe" in self.services:
                        buy_plans(connection, self.stripe()["STRIPE_API_BASE"], self.keys.stripe_secret_key)
            if "jobs" in self.services:
                self._start_service("jobs")
        except BaseException:
            self._stop()
            raise

    def _stop_foreground(self) -> bool:
        """End a running `strive dev` as Ctrl-C would, and wait until it has stopped the stack."""
        try:
            pid, started = json.loads((self.workdir / "dev.lock").read_text())
        except (OSError, ValueError):
            return False
        process = find(pid, started)
        if process is None or process.pid == os.getpid():
            return False
        stop(process, timeout=60)
        return True

    def _start_postgres(self) -> bool:
        """Returns whether the database is new."""
        # They need no database, so they load their libraries while it is created.
        self._start_services(("stripe", "model"))
        cluster, is_new = self.cluster, not self._ready.exists()
        self.say("Postgres: creating the database" if is_new else "Postgres")
        if is_new:
            cluster.initialize()
        cluster.start()
        if is_new:
            database.create_roles(cluster)
            with cluster.connect(SUPERUSER) as connection:
                database.create_schemas(connection)
        self.migrate()
        with cluster.connect() as connection:
            database.set_functions_password(connection, self.keys.database_password)
            if is_new:
                connection.execute("select private.meter_reads()")
        return is_new

    @property
    def _ready(self) -> Path:
        """A start that does not find this mark creates the data directory again."""
        return self.workdir / "postgres" / "ready"

    def _fill(self, *, seed: bool) -> None:
        if seed:
            self.say("demo data")
            with self.cluster.connect() as connection:
                database.seed(connection)
            if self.demo_year:
                with self.cluster.connect(SUPERUSER) as superuser:
                    demo.generate(superuser)
        self._ready.touch()

    def _stop_postgres(self) -> None:
        if self.cluster.process():
            self.cluster.stop()

    def _delete_data(self) -> None:
        for folder in ("postgres", "storage", "stripe"):
            shutil.rmtree(self.workdir / folder, ignore_errors=True)

    def _start_services(self, names: Iterable[str]) -> None:
        for service in names:
            if service in self.services and not self.processes()[service]:
                self._start_service(service)

    def _start_service(self, service: str) -> None:
        words, environment = self.command(service)
        withheld = (
            "SUPABASE_",
            "SMTP_",
            "MAIL_",
            *(prefix for prefix, double in DOUBLES.items() if double in self.services),
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(withheld)}
        process = launch(words, log=self.log(service), cwd=ROOT, env=inherited | environment)
        state = self._state()
        state.setdefault("processes", {})[service] = [process.pid, process.create_time()]
        self._save(state)

    def command(self, service: str) -> tuple[list[str | Path], dict[str, str]]:
        values, keys, ports = self.values(), self.keys, self.ports
        assert ports  # noqa: S101 - values() would have raised
        stripe = {**self.stripe(), "STRIPE_SECRET_KEY": keys.stripe_secret_key} if ports.stripe else {}
        if service == "stripe":
            return [sys.executable, "-m", "local.stripe"], {
                "PORT": str(ports.stripe),
                "STRIPE_FILE": str(self.workdir / "stripe" / "stripe.sqlite"),
                "WEBHOOK_URL": f"{values['FUNCTIONS_URL']}/stripe-webhook",
                **stripe,
            }
        if service == "model":
            return [sys.executable, "-m", "local.model", str(ports.model)], {}
        if service == "postgrest":
            environment = postgrest_environment(self.cluster.url("authenticator"), ports.postgrest, keys)
            return [postgrest_binary()], environment
        if service == "jobs":
            return [sys.executable, "-m", "local.jobs"], {
                "DB_URL": values["DB_URL"],
                "FUNCTIONS_URL": values["FUNCTIONS_URL"],
                "SECRET_KEY": values["SECRET_KEY"],
            }
        if service == "api":
            return [sys.executable, "-m", "local.api"], {
                "HOST": "127.0.0.1",
                "PORT": str(ports.api),
                "API_URL": values["API_URL"],
                "DB_URL": self.cluster.url("authenticator"),
                "FUNCTIONS_URL": f"http://127.0.0.1:{ports.functions}",
                "KEYS_FILE": str(self.workdir / "keys.json"),
                "STORAGE_DIR": str(self.workdir / "storage"),
                **({"STRIPE_URL": stripe["STRIPE_API_BASE"]} if stripe else {}),
                **({"POSTGREST_URL": f"http://127.0.0.1:{ports.postgrest}"} if ports.postgrest else {}),
                **({"SMTP_PORT": str(ports.smtp)} if ports.smtp else {}),
                **api_environment(),
            }
        return [sys.executable, "-m", "functions"], {
            "HOST": "127.0.0.1",
            "PORT": str(ports.functions),
            "SUPABASE_URL": values["API_URL"],
            "SUPABASE_PUBLISHABLE_KEYS": json.dumps({"default": values["PUBLISHABLE_KEY"]}),
            "SUPABASE_SECRET_KEYS": json.dumps({"default": values["SECRET_KEY"]}),
            "SUPABASE_JWKS_URL": values["JWKS_URL"],
            "SUPABASE_SIGNING_KEY": json.dumps(keys.jwk),
            "SUPABASE_DB_URL": self.database_url("strive_functions"),
            "RETURN_ORIGINS": return_origins(),
            "WEBHOOK_ALLOWED_NETWORKS": os.environ.get("WEBHOOK_ALLOWED_NETWORKS", LOOPBACK),
            **({"SMTP_URL": f"smtp://127.0.0.1:{ports.smtp}", "MAIL_FROM": MAIL_FROM} if ports.smtp else {}),
            **(
                {
                    "AI_BASE_URL": f"http://127.0.0.1:{ports.model}/v1",
                    "AI_API_KEY": "of the double",
                    "AI_MODEL": "double",
                }
                if ports.model
                else {}
            ),
            **stripe,
        }

    def _await(self, service: str, timeout: float = 30) -> None:
        ports, deadline = self.ports, time.monotonic() + timeout
        assert ports  # noqa: S101 - chosen before anything starts
        port = getattr(ports, service)
        while not _answers(port, HEALTH[service]):
            process = self.processes()[service]
            if not process or time.monotonic() > deadline:
                what = "did not answer" if process else "stopped while starting"
                raise StackError(f"The {service} process {what}.\n{tail(self.log(service))}")
            time.sleep(0.02)

    def _stop(self) -> bool:
        processes = self.processes()
        for service in reversed(self.services):
            if process := processes[service]:
                stop(process)
        if self.ports:
            self._stop_postgres()
        state = self._state()
        if state.pop("processes", None):
            self._save(state)
        return any(processes.values())

    def _choose_ports(self, api: int | None, db: int | None) -> None:
        last = self.ports
        wanted = {"api": API_PORT if api is None else api, "database": DB_PORT if db is None else db}
        if last and api is None:
            wanted["api"] = last.api
        if last and db is None:
            wanted["database"] = last.database
        flags = {"api": "--api-port", "database": "--db-port"}
        chosen = {name: _own_port(port, flags[name]) for name, port in wanted.items() if port}
        for name in wanted.keys() - chosen.keys():
            chosen[name] = free_port(chosen.values())
        # A restart keeps these ports while they are free: open pages and links stay valid.
        inner = ["functions", "smtp"]
        inner += [] if os.environ.get("STRIPE_SECRET_KEY") else ["stripe"]
        inner += [] if os.environ.get("AI_BASE_URL") else ["model"]
        inner += ["postgrest"] if os.environ.get("POSTGREST_BIN") else []
        for name in inner:
            port = getattr(last, name) if last else 0
            chosen[name] = port if port and _is_free(port) else free_port(chosen.values())
        self._save(self._state() | {"ports": chosen})

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.workdir / "state.json").read_text())
        except (OSError, ValueError):
            return {}
        return state

    def _save(self, state: dict[str, Any]) -> None:
        aside = self.workdir / "state.new"
        aside.write_text(json.dumps(state))
        aside.rename(self.workdir / "state.json")

    @contextmanager
    def unless_locked(self) -> Iterator[bool]:
        """False while another command changes this workdir."""
        with (self.workdir / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time changes this workdir; other commands wait."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            (self.workdir / ".gitignore").write_text("*\n")
        except OSError as error:
            raise StackError(
                f"The workdir {self.workdir} cannot be written: {error.strerror}.", "See --workdir"
            ) from None
        with (self.workdir / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say("waiting for another strive command on this workdir")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def postgrest_binary() -> str:
    """The real PostgREST that answers /rest/v1 instead of the API, or an error that says what is wrong with it."""
    named = os.environ.get("POSTGREST_BIN", "")
    found = shutil.which(named)
    if not found:
        raise StackError(
            f"POSTGREST_BIN is '{named}', not a program that can be executed.",
            "Set it to the path of a PostgREST binary.",
        )
    return found


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500  # noqa: PLR2004 - a server error
    except OSError:
        return False
    finally:
        connection.close()


def free_port(taken: Collection[int] = ()) -> int:
    """A free port below the range of outgoing connections, so that none of them takes it before it is used.

    `taken` are ports that were chosen earlier and on which nothing listens yet.
    """
    while True:
        port = secrets.choice([port for port in PORTS if port not in taken])
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _own_port(port: int, flag: str) -> int:
    if not _is_free(port):
        raise StackError(
            f"Port {port} is not free: {holder_of(port) or 'another program may have a connection from it'}.",
            f"Try again, or choose another with {flag} PORT; {flag} 0 takes any free one.",
        )
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a connection that has just closed does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str:
    """Which process listens on a port; empty if none does, or if the system does not say."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if listens and connection.pid:
                holder = psutil.Process(connection.pid)
                return f"process {holder.pid} listens there ({' '.join(holder.cmdline())[:120]})"
    except psutil.Error:
        pass  # macOS answers only root
    return ""
