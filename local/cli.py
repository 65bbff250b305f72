"""The `strive` command, with the names and habits of the Supabase CLI."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from local import ROOT, StackError
from local.dev import dev
from local.stack import API_PORT, DB_PORT, Stack


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    stack = Stack(
        options.workdir,
        jobs=True,
        say=lambda text: print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr),
    )
    try:
        return int(options.run(stack, options) or 0)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def start(stack: Stack, options: argparse.Namespace) -> int:
    if stack.running():
        print("Strive is already running.\n")
    stack.start(options.api_port, options.db_port)
    return status(stack, options)


def stop(stack: Stack, _options: argparse.Namespace) -> int:
    print("Stopped." if stack.stop() else "Strive was not running.")
    return 0


def reset(stack: Stack, _options: argparse.Namespace) -> int:
    stack.reset()
    print("The database is made anew from supabase/migrations and supabase/seed.sql.")
    return 0


def prices(stack: Stack, _options: argparse.Namespace) -> int:
    changed = stack.put_on_sale()
    print("\n".join(changed) if changed else "Every plan on sale had its price.")
    return 0


def status(stack: Stack, options: argparse.Namespace) -> int:
    processes = stack.processes()
    missing = [name for name, process in processes.items() if not process]
    if missing:
        what = "Strive is not running" if len(missing) == len(processes) else f"{' and '.join(missing)} stopped"
        raise StackError(f"{what} (workdir {stack.workdir}).", "Start it with: strive start")
    values = stack.values()
    match getattr(options, "output", "pretty"):
        case "env":
            print("\n".join(f'{name}="{value}"' for name, value in values.items()))
        case "json":
            print(json.dumps(values, indent=2))
        case _:
            width = max(map(len, values))
            print("\n".join(f"{name:>{width}}  {value}" for name, value in values.items()))
            sizes = [f"{name} {process.memory_info().rss >> 20} MB" for name, process in processes.items() if process]
            print(f"\n{'Memory':>{width}}  {', '.join(sizes)}\n{'Jobs':>{width}}  {_jobs(stack)}")
            print(f"{'Look at':>{width}}  {values['API_URL']}/")
    return 0


def _jobs(stack: Stack) -> str:
    with stack.cluster.connect() as connection:
        rows = connection.execute("select name, last_outcome, last_error, is_overdue, due_at from private.job_overview")
        jobs = rows.fetchall()
    wrong = [
        f"{name} {f'failed: {error}' if outcome == 'FAILED' else 'is overdue'}"
        for name, outcome, error, is_overdue, _ in jobs
        if is_overdue or outcome == "FAILED"
    ]
    if wrong:
        return "; ".join(wrong)
    due, name = min((due, name) for name, *_, due in jobs)
    return f"{len(jobs)}, none failed or overdue; next is {name}, at {due:%H:%M} UTC"


def _restore(stack: Stack, options: argparse.Namespace) -> int:
    from shared.administration.restore import restore  # noqa: PLC0415 - only this command needs it

    with psycopg.connect(options.db_url or stack.values()["DB_URL"], autocommit=True) as connection:
        rows = restore(connection, options.folder)
    print("\n".join(f"{count:>9}  {table}" for table, count in rows.items() if count))
    return 0


def _dev(stack: Stack, options: argparse.Namespace) -> int:
    dev(stack, options.api_port, options.db_port)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="strive", description="Strive on this machine: no Docker needed.")
    parser.add_argument(
        "--workdir",
        type=Path,
        default=os.environ.get("STRIVE_WORKDIR") or ROOT / ".strive",
        metavar="DIR",
        help="where its data lives (default $STRIVE_WORKDIR, else .strive)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Stack, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        # Also accepted after the command; SUPPRESS keeps a value given before it.
        added.add_argument("--workdir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=argparse.SUPPRESS)
        return added

    starters = [
        command("start", start, "start in the background; returns when all of it answers"),
        command("dev", _dev, "run in the foreground: logs, functions reload on change, new migrations applied"),
    ]
    for starter in starters:
        starter.add_argument("--api-port", type=_port, metavar="PORT", help=f"default {API_PORT}; 0 for any free port")
        starter.add_argument("--db-port", type=_port, metavar="PORT", help=f"default {DB_PORT}; 0 for any free port")
    command("stop", stop, "stop all of it; data stays")
    command("reset", reset, "make the database again from migrations and seed; its data is gone")
    command("prices", prices, "make the prices of the plans at Stripe (STRIPE_SECRET_KEY) and note them at the plans")
    restored = command("restore", _restore, "put an exported organisation back, all of it or nothing")
    restored.add_argument("folder", type=Path, help="where the manifest and the files of the export are")
    restored.add_argument(
        "--db-url", metavar="URL", help="another database, as `postgres`; default the one of the workdir"
    )
    shown = command("status", status, "addresses and keys; exit 1 when not running")
    shown.add_argument("-o", "--output", choices=["pretty", "env", "json"], default="pretty")
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 65536:  # noqa: PLR2004 - one more than the last port
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port; a port is a number from 0 (any free one) to 65535")
