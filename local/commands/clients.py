"""`strive run`, `open` and `psql`: programs that use the running stack."""

import os
import shutil
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from local import NODE, ROOT, StackError
from local.stack import Stack

PAGES = {
    "home": "/",
    "docs": "/functions/v1/docs",
    "reference": "/functions/v1/docs",
    "mail": "/mail",
}
PSQL_HELP = """usage: strive psql [OPTION]...

Open psql on the database of the running stack, as `postgres`. It passes every option on to psql.

examples:
  strive psql
  strive psql -c 'select count(*) from public.leads'
  strive psql -f report.sql

`psql --help` lists the options, where psql is installed."""
RUNNERS = {".py": [sys.executable], ".mjs": [str(NODE)], ".js": [str(NODE)], ".ts": [str(NODE)]}


def run(stack: Stack, words: Sequence[str]) -> NoReturn:
    """Replace this process by a script or program that finds the stack's addresses and keys in its environment."""
    script = Path(words[0])
    runner = RUNNERS.get(script.suffix, [])
    if runner and not script.exists():
        raise StackError(f"There is no file {script}.")
    command = [*runner, *words]
    path = os.pathsep.join([str(Path(sys.executable).parent), str(NODE.parent), os.environ.get("PATH", "")])
    environment = os.environ | stack.values() | {"PATH": path, "NODE_PATH": str(ROOT / "node_modules")}
    program = shutil.which(command[0], path=path)
    if program is None:
        raise StackError(
            f"There is no program {command[0]!r}.", "Name a script (.py, .mjs, .js, .ts) or a program on PATH."
        )
    sys.stdout.flush()
    os.execve(program, command, environment)  # noqa: S606 - the person's own program, without a shell


def page(stack: Stack, name: str) -> int:
    values = stack.values()
    if name == "payments":
        if "STRIPE_API_BASE" not in values or "127.0.0.1" not in values["STRIPE_API_BASE"]:
            raise StackError(
                "There is no Stripe double: this stack uses your own account.", "See the Stripe dashboard."
            )
        address = f"{values['STRIPE_API_BASE']}/"
    else:
        address = values["API_URL"] + PAGES[name]
    print(address)
    if not webbrowser.open(address):
        print("No browser could be opened here; open the address yourself.", file=sys.stderr)
    return 0


def psql(stack: Stack, words: Sequence[str]) -> NoReturn:
    url = stack.values()["DB_URL"]
    program = shutil.which("psql")
    if program is None:
        raise StackError(
            "psql is not installed.",
            f"Install it (Debian and Ubuntu: apt install postgresql-client; macOS: brew install libpq), or connect any"
            f" client (pgAdmin, DBeaver, DataGrip) to {url}",
        )
    sys.stdout.flush()
    os.execv(program, [program, url, *words])  # noqa: S606 - without a shell
