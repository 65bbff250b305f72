"""The `strive` command, with the names and habits of the Supabase CLI."""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psycopg

from local import ROOT, StackError, demo
from local.commands import clients, logs
from local.dev import dev
from local.postgres import SUPERUSER
from local.stack import API_PORT, DB_PORT, SERVICES, Stack

EXAMPLES = """examples:
  strive start                                 start in the background
  eval "$(strive status -o env)"               put addresses and keys into this shell
  strive logs functions -f                     follow the log of the functions
  strive run report.py                         run a script with the addresses and keys in its environment
  strive start --workdir .strive/second --api-port 0 --db-port 0

exit codes: 0 success · 1 the command failed, or status/doctor found a problem · 2 wrong arguments · 130 interrupted"""


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # noqa: PLC0415 - only while the shell completes a line

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    stack = _stack(options, lambda text: print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr))
    try:
        code = int(options.run(stack, options) or 0)
        sys.stdout.flush()
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe. Python would print a traceback when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _stack(options: argparse.Namespace, say: Callable[[str], None]) -> Stack:
    stack = Stack(options.workdir, jobs=True, demo_year=True, say=say)
    if not (getattr(options, "supabase", False) or stack.is_official()):
        return stack
    from local.official import OfficialStack  # noqa: PLC0415 - only --supabase needs it

    return OfficialStack(options.workdir, jobs=True, say=say)


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
    print("The database was created again from supabase/migrations and supabase/seed.sql.")
    return 0


def seed(stack: Stack, options: argparse.Namespace) -> int:
    with stack.cluster.connect(SUPERUSER) as connection:
        counts = demo.generate(connection, options.size)
        connection.execute("analyze")  # else the plans are those of empty tables until autovacuum has come
    print("\n".join(demo.described(counts)))
    return 0


def prices(stack: Stack, _options: argparse.Namespace) -> int:
    changed = stack.put_on_sale()
    print("\n".join(changed) if changed else "Every plan already had its price.")
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
            print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items()))
        case "json":
            print(json.dumps(values, indent=2))
        case _:
            width = max(map(len, values))
            print("\n".join(f"{name:>{width}}  {value}" for name, value in values.items()))
            sizes = [f"{name} {process.memory_info().rss >> 20} MB" for name, process in processes.items() if process]
            print(f"\n{'Memory':>{width}}  {', '.join(sizes)}\n{'Jobs':>{width}}  {_jobs(stack)}")
            print(f"{'Open':>{width}}  {values['API_URL']}/")
    return 0


def _jobs(stack: Stack) -> str:
    with stack.connect() as connection:
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
    from shared.administration.restore import RestoreError, download, restore  # noqa: PLC0415 - only this needs it

    url = options.db_url or stack.values()["DB_URL"]
    with tempfile.TemporaryDirectory() as downloads, psycopg.connect(url, autocommit=True) as connection:
        folder = options.export
        try:
            if folder.is_file():
                folder = Path(downloads)
                download(options.export, folder)
            rows = restore(connection, folder)
        except RestoreError as error:
            raise StackError(str(error), error.hint) from error
    print("\n".join(f"{count:>9}  {table}" for table, count in rows.items() if count))
    return 0


def _move(stack: Stack, options: argparse.Namespace) -> int:
    from local.commands.move import move  # noqa: PLC0415 - only this command needs it

    return move(stack, options)


def _dev(stack: Stack, options: argparse.Namespace) -> int:
    dev(stack, options.api_port, options.db_port)
    return 0


def _logs(stack: Stack, options: argparse.Namespace) -> int:
    logs.show(stack, options.service, follow=options.follow, output=options.output)
    return 0


def _run(stack: Stack, options: argparse.Namespace) -> NoReturn:
    clients.run(stack, [options.program, *options.arguments])


def _open(stack: Stack, options: argparse.Namespace) -> int:
    return clients.page(stack, options.page)


def _psql(stack: Stack, options: argparse.Namespace) -> int:
    if "--help" not in options.arguments:
        clients.psql(stack, options.arguments)
    print(clients.PSQL_HELP)
    return 0


def _new(_stack: Stack, options: argparse.Namespace) -> int:
    from local.commands.scaffold import new  # noqa: PLC0415 - only this command needs it

    print("\n".join(new(options.kind, options.name)))
    return 0


def _doctor(stack: Stack, options: argparse.Namespace) -> int:
    from local.commands import doctor  # noqa: PLC0415 - only this command needs it

    if options.project:
        return doctor.exit_code(doctor.hosted(options.project))
    return doctor.exit_code(doctor.examine(stack))


def _stripe(stack: Stack, options: argparse.Namespace) -> int:
    from local.commands import stripe  # noqa: PLC0415 - only this command needs it

    print(stripe.clock(stack, options.days))
    return 0


def _watch(stack: Stack, options: argparse.Namespace) -> int:
    from local.commands.watch import watch  # noqa: PLC0415 - only this command needs it

    return watch(stack, options.what, options.email, options.last, options.seconds)


def _completion(_stack: Stack, options: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - only this command needs it

    print(shellcode(["strive"], shell=options.shell))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="strive",
        description="Run Strive on this machine, without Docker.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=os.environ.get("STRIVE_WORKDIR") or ROOT / ".strive",
        metavar="DIR",
        help="folder for data, keys and logs (default $STRIVE_WORKDIR, else .strive)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[Stack, argparse.Namespace], int], text: str, *examples: str
    ) -> argparse.ArgumentParser:
        """Add a command; `examples` of its help are its arguments, or whole lines."""
        added = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="\n  ".join(
                [
                    "examples:",
                    *(each if "strive" in each else f"strive {name} {each}".rstrip() for each in examples or ("",)),
                ]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        # Also accepted after the command; SUPPRESS keeps a value given before it.
        added.add_argument("--workdir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=argparse.SUPPRESS)
        return added

    starters = [
        command("start", start, "start in the background; returns when everything responds", "", "--api-port 0"),
        command(
            "dev", _dev, "run in the foreground: show logs, reload functions, apply new migrations", "", "--db-port 0"
        ),
    ]
    for starter in starters:
        starter.add_argument("--api-port", type=_port, metavar="PORT", help=f"default {API_PORT}; 0 for any free port")
        starter.add_argument("--db-port", type=_port, metavar="PORT", help=f"default {DB_PORT}; 0 for any free port")
        starter.add_argument(
            "--supabase", action="store_true", help="use the official stack of the Supabase CLI (downloaded at first)"
        )
    command("stop", stop, "stop everything, `strive dev` included; data stays")
    command("reset", reset, "create the database again from migrations and demo data; its rows and files are deleted")
    seeded = command(
        "seed",
        seed,
        "add a year of demo rows to the demo organizations; a new database has a small one",
        "--size large",
    )
    seeded.add_argument("--size", choices=sorted(demo.SIZES, key=demo.SIZES.__getitem__), default="small")
    shown = command(
        "status", status, "print addresses and keys; exit code 1 when something does not run", "", "-o json"
    )
    shown.add_argument("-o", "--output", choices=["pretty", "env", "json"], default="pretty")
    read = command("logs", _logs, "print the newest lines of the logs", "functions -f", "-o json")
    read.add_argument("service", nargs="?", choices=["postgres", *SERVICES])
    read.add_argument("-f", "--follow", action="store_true", help="wait for new lines until Ctrl-C")
    read.add_argument("-o", "--output", choices=["pretty", "json"], default="pretty")
    ran = command(
        "run",
        _run,
        "run a script (.py, .mjs, .js, .ts) or program with addresses and keys in its environment",
        "report.py",
        "npm test",
    )
    ran.add_argument("program")
    ran.add_argument("arguments", nargs=argparse.REMAINDER)
    opened = command("open", _open, "open a page of the running stack in the browser", "docs", "mail")
    opened.add_argument("page", nargs="?", choices=[*clients.PAGES, "payments"], default="home")
    # Its options are psql's, so none is an option here: REMAINDER does not accept one in the first place.
    sql = commands.add_parser(
        "psql", help="open psql on the database, as `postgres`", prefix_chars="\0", add_help=False
    )
    sql.set_defaults(run=_psql)
    sql.add_argument("arguments", nargs="*")
    watched = command(
        "watch",
        _watch,
        "print the feed of a demo user, or changes of a table, as they happen",
        "feed",
        "leads --as owner@globex.test",
    )
    watched.add_argument(
        "what", nargs="?", choices=["feed", "leads", "notifications", "orders", "tasks"], default="feed"
    )
    watched.add_argument("--as", dest="email", default="member@acme.test", metavar="EMAIL", help="default %(default)s")
    watched.add_argument("--last", type=int, default=5, metavar="N", help="first print the newest N (%(default)s)")
    watched.add_argument("--seconds", type=float, metavar="N", help="end after N seconds; default: at Ctrl-C")
    made = command(
        "new",
        _new,
        "write the first files of a function, a table or a flag",
        "function rename-organization",
        "table price_offers",
        "flag crm.offers",
    )
    made.add_argument("kind", choices=["function", "table", "flag"])
    made.add_argument("name")
    examined = command(
        "doctor", _doctor, "check this machine and the stack, or a hosted project", "", "--project postgresql://…"
    )
    examined.add_argument("--project", metavar="URL", help="database URL of a hosted project, as `postgres`")
    command("prices", prices, "create the prices of the plans at Stripe and store their ids in the plans")
    payments = command(
        "stripe", _stripe, "move the time of the Stripe double, so that trials end and periods renew", "clock 31"
    )
    payments.add_argument("what", choices=["clock"])
    payments.add_argument("days", type=float, help="days to move on, as 31 or 0.5")
    restored = command("restore", _restore, "restore an exported organization, all of it or nothing", "answer.json")
    restored.add_argument(
        "export", type=Path, help="the saved response of export-organization, or a folder with its manifest and files"
    )
    restored.add_argument("--db-url", metavar="URL", help="another database, as `postgres`; default: this stack's")
    _accept_move(
        command(
            "move",
            _move,
            "move an organization to another database while it is used; repeat to go on",
            "acme --to postgresql://…",
        )
    )
    completed = command(
        "completion",
        _completion,
        "print the completion script for a shell",
        'eval "$(strive completion zsh)"',
        "strive completion fish | source",
    )
    completed.add_argument("shell", choices=["bash", "zsh", "fish"])
    return parser


def _accept_move(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("organization", help="its id or slug")
    parser.add_argument("--to", required=True, metavar="URL", help="the database it moves to, as `postgres`")
    parser.add_argument(
        "--address", metavar="URL", help="the project of that database, to which late requests are sent"
    )
    parser.add_argument("--db-url", metavar="URL", help="the database it leaves, as `postgres`; default: this stack's")
    parser.add_argument(
        "--source",
        metavar="URL",
        help="the project of that database, from which files are copied with SOURCE_SECRET_KEY and TARGET_SECRET_KEY",
    )
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--abort", action="store_true", help="before the switch: undo what was copied")
    ending.add_argument("--erase", action="store_true", help="after the switch: delete the rows that were left behind")


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 65536:  # noqa: PLR2004 - one more than the last port
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 0 (any free port) to 65535")
