"""`strive` starts from any state, loses no data, leaves no process behind and explains failures."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from local import ROOT, StackError, database
from local.keys import ensure_keys, load_keys
from local.processes import alive
from local.stack import Stack, free_port
from tests.support.serving import NO_TLS

STRIPE = {"STRIPE_API_BASE", "STRIPE_WEBHOOK_SECRET"}
VALUES = {"API_URL", "DB_URL", "FUNCTIONS_URL", "PUBLISHABLE_KEY", "SECRET_KEY", "JWKS_URL"} | STRIPE


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, stack_at: Callable[..., Stack]) -> Path:
    """A workdir with the ports of its last start, to copy: most tests are not about the first start."""
    stack = stack_at(tmp_path_factory.mktemp("prepared") / "work", durable=True)
    stack.start(0, 0)
    stack.stop()
    return stack.workdir


@pytest.fixture
def own(prepared: Path, tmp_path: Path) -> Iterator[Stack]:
    subprocess.run(["cp", "-a", prepared, tmp_path / "own"], check=True)
    stack = Stack(tmp_path / "own")
    yield stack
    stack.stop()


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "new")
    yield stack
    stack.stop()


def strive(*words: str, workdir: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(root), *words, "--workdir", str(workdir)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def command(root: Path = ROOT) -> list[str]:
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(root)!r}); from local.cli import main; sys.exit(main())",
    ]


def note(stack: Stack, text: str) -> None:
    with stack.cluster.connect() as connection:
        connection.execute("create table if not exists public.scribbles (text text)")
        connection.execute("insert into public.scribbles values (%s)", [text])


def notes(stack: Stack) -> list[str]:
    with stack.cluster.connect() as connection:
        return [text for (text,) in connection.execute("select text from public.scribbles")]


def pids(stack: Stack) -> dict[str, int]:
    return {name: process.pid for name, process in stack.processes().items() if process}


def until(true: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


BOUGHT = """
select o.subscription_tier::text, s.status::text, count(i.id) from public.organizations o
join public.subscriptions s on s.organization_id = o.id
join public.invoices i on i.organization_id = o.id and i.status = 'PAID'
where o.slug = 'acme' group by 1, 2
"""


def test_start_status_and_stop_commands(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    idle = strive("status", workdir=workdir)
    assert idle.returncode == 1
    assert "strive start" in idle.stderr

    started = strive("start", "--api-port", "0", "--db-port", "0", workdir=workdir)
    assert started.returncode == 0, started.stderr
    try:
        shown = strive("status", "-o", "env", workdir=workdir).stdout
        environment = dict(line.removeprefix("export ").split("=", 1) for line in shown.splitlines())
        assert set(environment) >= VALUES
        assert environment == json.loads(strive("status", "-o", "json", workdir=workdir).stdout)
        again = strive("start", workdir=workdir).stdout
        assert "already running" in again
        assert "none failed or overdue" in again
        with psycopg.connect(environment["DB_URL"], autocommit=True) as connection:
            files = connection.execute(
                "select file_name from public.attachments where stored_at is not null"
            ).fetchall()
            assert files == [("Offer.txt",)] * 3
            until(lambda: connection.execute(BOUGHT).fetchall() == [("GROWTH", "ACTIVE", 2)], "Acme has its plan")
            assert connection.execute("select * from public.billing_attention").fetchall() == []
    finally:
        stopped = strive("stop", workdir=workdir)
    assert stopped.returncode == 0
    assert strive("status", workdir=workdir).returncode == 1


def test_keys_are_the_workdirs_own_and_closed_to_others(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        ensure_keys(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first, second = map(load_keys, files)
    assert first.secret_key != second.secret_key
    assert first.jwk["x"] != second.jwk["x"]
    assert first.database_password != second.database_password
    ensure_keys(files[0])
    assert load_keys(files[0]) == first


def stripe_of(stack: Stack) -> httpx.Client:
    headers = {"authorization": f"Bearer {stack.keys.stripe_secret_key}"}
    return httpx.Client(base_url=stack.values()["STRIPE_API_BASE"], headers=headers, verify=NO_TLS)


def prices(stack: Stack) -> dict[str, str | None]:
    with stack.cluster.connect() as connection:
        return dict(
            connection.execute(
                "select tier || ' ' || billing_cycle, stripe_price_id from public.plans"
                " where is_active and amount_cents > 0"
            ).fetchall()
        )


def test_every_plan_on_sale_has_a_price_at_stripe(own: Stack) -> None:
    own.start(0, 0)
    before = prices(own)
    assert len({*before.values()} - {None}) == len(before) == 6
    assert own.put_on_sale() == []
    with own.cluster.connect() as connection:
        connection.execute(
            "update public.plans set amount_cents = 70000 where tier = 'GROWTH' and amount_cents = 69900"
        )
    assert own.put_on_sale() == ["strive_growth_monthly"]
    after = prices(own)
    assert {plan for plan in before if before[plan] != after[plan]} == {"GROWTH MONTHLY"}


def test_own_stripe_key_and_model_replace_the_doubles(own: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_BASE_URL", "https://models.test/v1")
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_of_ones_own")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_of_ones_own")
    own.start(0, 0)
    processes = own.processes()
    assert set(processes) == {"postgres", "api", "functions"}
    assert processes["functions"]
    variables = processes["functions"].environ()
    assert variables["STRIPE_SECRET_KEY"] == "sk_test_of_ones_own"
    assert "STRIPE_API_BASE" not in variables
    assert variables["AI_BASE_URL"] == "https://models.test/v1"
    values = own.values()
    assert (values["STRIPE_API_BASE"], values["STRIPE_WEBHOOK_SECRET"]) == (
        "https://api.stripe.com",
        "whsec_of_ones_own",
    )


def test_committed_rows_survive_kill_9_of_every_process(own: Stack) -> None:
    own.start(0, 0)
    note(own, "before the crash")
    with stripe_of(own) as stripe:
        made = stripe.post("/v1/customers").json()
    for process in own.processes().values():
        assert process
        process.kill()
    until(lambda: not any(own.processes().values()), "all processes have ended")
    # As after a reboot: the file remains, and its pid belongs to another process.
    pid_file = own.cluster.data / "postmaster.pid"
    _, *lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines]) + "\n")
    own.start()
    assert notes(own) == ["before the crash"]
    with stripe_of(own) as stripe:
        assert stripe.get("/v1/customers").json()["data"] == [made]


@pytest.mark.skipif(sys.platform != "linux", reason="ends its first thread with a system call of Linux")
def test_process_without_its_first_thread_is_alive() -> None:
    program = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    found = psutil.Process(process.pid)
    try:
        until(lambda: found.status() == psutil.STATUS_ZOMBIE, "its first thread has ended")
        assert alive(found)
    finally:
        process.kill()
    until(lambda: not alive(found), "all threads have ended")
    process.wait()


def test_start_repairs_a_stack_that_lost_one_process(own: Stack) -> None:
    own.start(0, 0)
    note(own, "kept")
    process = own.processes()["functions"]
    assert process
    process.kill()
    until(lambda: not own.processes()["functions"], "the functions have ended")
    assert not own.running()
    own.start()
    assert own.running()
    assert notes(own) == ["kept"]


def test_a_chosen_port_is_not_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    second = free_port([first])
    monkeypatch.setattr("local.stack.PORTS", (first, second))
    assert {free_port([first]) for _ in range(20)} == {second}


@pytest.mark.parametrize(("flag", "position"), [("--api-port", 0), ("--db-port", 1)])
def test_port_in_use_error_names_process_and_flag(own: Stack, flag: str, position: int) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        wanted = [0, 0]
        wanted[position] = squatter.getsockname()[1]
        with pytest.raises(StackError, match=f"Port {wanted[position]} is not free") as caught:
            own.start(*wanted)
        assert flag in caught.value.hint
        if sys.platform == "linux":
            assert f"process {os.getpid()}" in str(caught.value)
    assert not any(own.processes().values())


def test_failing_migration_is_explained_and_stops_the_stack(
    new: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts on the incomplete data directory of a start that was killed, which is created again."""
    half = new.workdir / "postgres" / "data"
    (half / "base").mkdir(parents=True)
    (half / "PG_VERSION").write_text("17\n")
    broken = shutil.copytree(database.MIGRATIONS, tmp_path / "migrations")
    first = broken / "20000101000000_broken.sql"
    first.write_text("select 1;\nselect * from nowhere;\n")
    monkeypatch.setattr(database, "MIGRATIONS", broken)
    with pytest.raises(StackError, match=r'20000101000000_broken.sql failed: relation "nowhere"') as caught:
        new.start(0, 0)
    assert "line 2" in str(caught.value)
    assert not any(new.processes().values())
    # After the repair the same start succeeds: the failed one left no incomplete database.
    first.write_text("select 1;\n")
    new.start()
    assert new.running()


def test_failed_service_start_shows_the_end_of_its_log(own: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stack, "command", lambda *_: ([sys.executable, "-c", "raise SystemExit('no such luck')"], {}))
    with pytest.raises(StackError, match="no such luck"):
        own.start(0, 0)
    assert not any(own.processes().values())


def test_reset_restores_only_the_demo_data(own: Stack) -> None:
    own.start(0, 0)
    keys, ports = own.keys, own.ports
    note(own, "deleted by reset")
    with stripe_of(own) as stripe:
        stripe.post("/v1/customers")
    with own.cluster.connect() as connection:
        connection.execute("update public.organizations set name = name || name")
    (own.workdir / "storage" / "attachments").mkdir(parents=True, exist_ok=True)
    own.reset()
    with own.cluster.connect() as connection:
        assert connection.execute("select to_regclass('public.scribbles')").fetchone() == (None,)
        names = connection.execute("select array_agg(name order by name) from public.organizations").fetchone()
    assert names == (["Acme Realty", "Globex Estates"],)
    with stripe_of(own) as stripe:
        assert stripe.get("/v1/customers").json()["data"] == []
        known = {price["id"] for price in stripe.get("/v1/prices").json()["data"]}
    assert {*prices(own).values()} == known
    assert not (own.workdir / "storage" / "attachments").exists()
    assert own.keys == keys
    assert own.ports == ports
    assert own.running()


def test_concurrent_starts_start_one_stack(own: Stack) -> None:
    workdir = own.workdir
    words = [*command(), "start", "--api-port", "0", "--db-port", "0", "--workdir", str(workdir)]
    attempts = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    try:
        assert [attempt.wait(300) for attempt in attempts] == [0, 0, 0]
        running = pids(Stack(workdir))
        assert set(running) == {"postgres", "stripe", "model", "api", "functions", "jobs"}
        # The later starts started no processes.
        mine = [p for p in psutil.process_iter(["cmdline"]) if str(workdir) in " ".join(p.info["cmdline"] or [])]
        assert {p.pid for p in mine if p.ppid() != running["postgres"]} == {running["postgres"]}
    finally:
        own.stop()


# `strive dev` watches its own checkout, so these run in a copy.


def copied_checkout(folder: Path) -> Path:
    copy = folder / "checkout"
    for name in ("functions", "shared", "local", "supabase"):
        shutil.copytree(ROOT / name, copy / name)
    (copy / "node_modules").symlink_to(ROOT / "node_modules")
    return copy


@dataclass(frozen=True)
class Dev:
    """`strive dev` in a copy of the checkout; it runs in the foreground and shows its output."""

    process: subprocess.Popen[bytes]
    stack: Stack
    checkout: Path
    shown: Path


@contextmanager
def in_foreground(prepared: Path, folder: Path) -> Iterator[Dev]:
    subprocess.run(["cp", "-a", prepared, folder / "work"], check=True)
    stack, checkout, shown = Stack(folder / "work"), copied_checkout(folder), folder / "shown"
    with shown.open("wb") as output:
        process = subprocess.Popen(
            [*command(checkout), "dev", "--api-port", "0", "--db-port", "0", "--workdir", str(stack.workdir)],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": str(checkout)},
        )
    try:
        until(lambda: b"Strive runs at" in shown.read_bytes() or process.poll() is not None, "strive dev is ready")
        assert process.poll() is None, shown.read_text()
        yield Dev(process, stack, checkout, shown)
    finally:
        process.kill()
        process.wait()
        stack.stop()


@pytest.fixture(scope="module")
def dev(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Shared by tests that leave it running."""
    with in_foreground(prepared, tmp_path_factory.mktemp("dev")) as running:
        yield running


# tests/test_commands.py ends it with Ctrl-C.
@pytest.mark.parametrize("ending", [signal.SIGHUP, "strive stop"])
def test_ending_dev_leaves_no_process_behind(prepared: Path, tmp_path: Path, ending: signal.Signals | str) -> None:
    with in_foreground(prepared, tmp_path) as dev:
        running = pids(dev.stack)
        if isinstance(ending, str):
            assert "Stopped." in strive("stop", workdir=dev.stack.workdir).stdout
        else:
            dev.process.send_signal(ending)
        assert dev.process.wait(120) == 0
        ended = {
            pid for pid in running.values() if not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"
        }
        assert ended == set(running.values())


def test_ctrl_c_while_starting_leaves_no_process_behind(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "work", durable=False)
    process = subprocess.Popen(
        [*command(), "dev", "--api-port", "0", "--db-port", "0", "--workdir", str(stack.workdir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: "postgres" in pids(stack), "Postgres is being started")
    process.send_signal(signal.SIGINT)
    process.wait(120)
    assert not any(stack.processes().values())


def test_dev_restarts_the_functions_when_their_code_changes(dev: Dev) -> None:
    before = pids(dev.stack)["functions"]
    (dev.checkout / "functions" / "touched.py").write_text("# changed\n")
    until(lambda: pids(dev.stack).get("functions", before) != before, "functions have a new process")
    until(dev.stack.running, "all of it answers again")


def test_dev_shows_start_errors_and_recovers_on_next_change(dev: Dev) -> None:
    entry = dev.checkout / "functions" / "__main__.py"
    good = entry.read_text()
    entry.write_text("raise SystemExit('a typo of mine')\n")
    until(lambda: b"a typo of mine" in dev.shown.read_bytes(), "the error is shown")
    entry.write_text(good)
    until(dev.stack.running, "all of it answers again")


def test_dev_applies_a_new_migration(dev: Dev) -> None:
    (dev.checkout / "supabase/migrations/20991231000000_new.sql").write_text("create table public.arrived ();\n")
    until(lambda: b"20991231000000_new.sql" in dev.shown.read_bytes(), "the migration is announced")
    with dev.stack.cluster.connect() as connection:
        assert connection.execute("select to_regclass('public.arrived') is not null").fetchone() == (True,)


def test_dev_replaces_a_process_that_died(dev: Dev) -> None:
    stack = dev.stack
    for name in ("api", "postgres"):
        process = stack.processes()[name]
        assert process
        process.kill()
        until(lambda: pids(stack).get(name, process.pid) != process.pid, f"{name} is replaced")  # noqa: B023
    until(stack.running, "all of it runs")
