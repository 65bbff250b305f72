"""Each command of `strive`, typed as a person types it, on one running stack."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import httpx
import pytest

from local import ROOT
from local.cli import main
from local.dev import Quiet
from local.official import CLI, OfficialStack
from local.stack import Stack

STRIVE = str(ROOT / ".venv/bin/strive")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, stack_at: Callable[..., Stack]) -> Iterator[Stack]:
    stack = stack_at(tmp_path_factory.mktemp("cli") / "work")
    stack.start(0, 0)
    yield stack
    stack.stop()


def strive(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STRIVE, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"STRIVE_WORKDIR": str(stack.workdir)},
    )


def typed(stack: Stack, *words: str) -> tuple[int, str, str]:
    """As `strive`, without a process of its own: exit code, output and complaints."""
    output, complaints = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(complaints):
        try:
            code = main(["--workdir", str(stack.workdir), *words])
        except SystemExit as exit_:  # of argparse
            code = int(exit_.code or 0)
    return code, output.getvalue(), complaints.getvalue()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_status_env_exports_to_child_processes(running: Stack, shell: str) -> None:
    if not any((Path(folder) / shell).exists() for folder in os.environ["PATH"].split(os.pathsep)):
        pytest.skip(f"{shell} is not installed")
    printed = "import os; print(os.environ['API_URL'])"
    script = f'eval "$({STRIVE} status -o env --workdir {running.workdir})"; {sys.executable} -c "{printed}"'
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, timeout=3000, check=True)
    assert done.stdout.strip() == running.values()["API_URL"]


def test_run_gives_scripts_addresses_and_packages(running: Stack, tmp_path: Path) -> None:
    python, node = tmp_path / "report.py", tmp_path / "report.mjs"
    python.write_text("import os, sys, supabase; print(os.environ['API_URL'], *sys.argv[1:])")
    node.write_text("console.log(process.env.API_URL, ...process.argv.slice(2))")
    for script in (python, node):
        done = strive(running, "run", str(script), "a", "--flag")
        assert done.stdout.split() == [running.values()["API_URL"], "a", "--flag"], done.stderr
    missing = strive(running, "run", "missing.py")
    assert (missing.returncode, "There is no file missing.py" in missing.stderr) == (1, True)


def test_watch_prints_the_feed_as_it_happens(running: Stack) -> None:
    words = [STRIVE, "watch", "feed", "--as", "owner@acme.test", "--last", "1", "--seconds", "60"]
    environment = os.environ | {"STRIVE_WORKDIR": str(running.workdir), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as watching:
        assert watching.stdout
        before = [watching.stdout.readline(), watching.stdout.readline()]
        assert "feed of owner@acme.test" in before[1], before
        with running.cluster.connect() as connection:
            connection.execute("""
                insert into public.activity_feeds (organization_id, title, type, entity_type, entity_id, action)
                select id, 'Watched it happen', 'USER_ACTION', 'test', '1', 'made' from public.organizations
                where slug = 'acme-realty' or name = 'Acme Realty' limit 1
            """)
        assert "Watched it happen" in watching.stdout.readline()
        watching.terminate()
    code, _, complaint = typed(running, "watch", "feed", "--as", "nobody@acme.test")
    assert (code, "nobody@acme.test can't sign in" in complaint) == (1, True)


def test_logs_are_readable_or_json(running: Stack) -> None:
    assert "functions | " in strive(running, "logs", "functions").stdout
    values = running.values()
    httpx.get(f"{values['API_URL']}/rest/v1/leads?name=eq.secret", headers={"apikey": values["PUBLISHABLE_KEY"]})
    requests = [line for line in typed(running, "logs", "api")[1].splitlines() if "401 GET /rest/v1/leads" in line]
    assert len(requests) == 1
    assert requests[0].endswith(" ms")
    assert "secret" not in requests[0]
    lines = [json.loads(line) for line in typed(running, "logs", "-o", "json")[1].splitlines()]
    assert {"functions", "postgres"} <= {line["service"] for line in lines}
    assert all(line["message"] for line in lines)
    assert any("request_id" in line for line in lines)


def test_closed_pipe_is_no_traceback(running: Stack) -> None:
    script = f"for i in 1 2 3; do {STRIVE} logs --workdir {running.workdir} | head -1; done"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=3000, check=True)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_doctor_finds_a_healthy_stack_and_names_a_problem(running: Stack) -> None:
    assert "all running" in strive(running, "doctor").stdout
    keys = running.workdir / "keys.json"
    keys.chmod(0o644)
    try:
        code, output, _ = typed(running, "doctor")
    finally:
        keys.chmod(0o600)
    assert code == 1
    assert f"chmod 600 {keys}" in output


def test_completion_is_printed_for_each_shell(running: Stack) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "strive" in typed(running, "completion", shell)[1]


def test_psql_help_needs_neither_psql_nor_a_stack(tmp_path: Path) -> None:
    command = [STRIVE, "psql", "--help"]
    environment = {"PATH": str(tmp_path), "STRIVE_WORKDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
    assert done.stdout.startswith("usage: strive psql")


def test_readme_lists_every_command() -> None:
    listed = re.findall(r"^\| (`[a-z].*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    done = subprocess.run([STRIVE, "--help"], capture_output=True, text=True, timeout=300, check=True)
    commands = re.findall(r"^    ([a-z]+)", done.stdout, re.MULTILINE)
    assert len(commands) > 15
    assert [name for name in commands if not any(re.search(rf"`{name}\b", line) for line in listed)] == []


def test_dev_leaves_routine_entries_of_postgres_out() -> None:
    quiet = Quiet()
    at = "2026-11-30 21:28:00.311 UTC [22689]"
    lines = [
        (f'{at} LOG:  starting logical decoding for slot "strive_usage_5"', False),
        (f"{at} DETAIL:  Streaming transactions committing after 0/3202250.", False),
        (f'{at} CONTEXT:  SQL statement "with read as (', False),
        ("\t  select 1", False),
        (f"{at} ERROR:  division by zero", True),
        (f"{at} STATEMENT:  select 1 / 0", True),
        (f"{at} LOG:  checkpoint starting: time", False),
        (f"{at} LOG:  server process (PID 12) was terminated by signal 9: Killed", True),
        (f"{at} DETAIL:  Failed process was running: select 1", True),
    ]
    assert [(line, quiet.shows("postgres", line)) for line, _ in lines] == lines


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql_gets_its_own_options(running: Stack) -> None:
    assert strive(running, "psql", "-At", "-c", "select current_user").stdout == "postgres\n"


def test_help_of_every_command_has_examples(running: Stack) -> None:
    names = re.findall(r"^    (\w+) ", typed(running, "--help")[1], re.MULTILINE)
    assert len(names) >= 18
    assert [name for name in names if "examples:" not in typed(running, name, "--help")[1]] == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("function", "Bad Name"),
        ("table", "a-b"),
        ("function", "record-activity"),
        ("table", "leads"),
        ("flag", "crm.match-buyers"),
    ],
)
def test_new_refuses_an_invalid_or_existing_name(running: Stack, kind: str, name: str) -> None:
    code, output, complaint = typed(running, "new", kind, name)
    assert code == 1, output
    assert "hint:" in complaint


@pytest.mark.skipif(not CLI.exists(), reason="version 3 of the Supabase CLI is not locked for this platform")
def test_official_stack_starts_or_explains_why_not(tmp_path: Path) -> None:
    stack = OfficialStack(tmp_path / "work", jobs=True)
    started = strive(stack, "start", "--supabase", "--api-port", "0", "--db-port", "0")
    if started.returncode == 0:  # where the artifacts can be downloaded
        assert strive(stack, "stop").returncode == 0
        return
    assert started.returncode == 1
    errors = [line for line in started.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: The official stack could not be downloaded from this machine."]
    assert "hint:" in started.stderr
    assert not stack.project.exists()
    assert not any(stack.processes().values())
    assert not stack.is_official()
