"""`strive move`: an organization leaves this database for another one."""

import argparse
import os
import sys
from contextlib import closing

import psycopg

from local import StackError
from local.stack import Stack
from shared.administration.moves.files import Project
from shared.administration.moves.move import Move
from shared.administration.moves.sides import MoveError


def move(stack: Stack, options: argparse.Namespace) -> int:
    if not (options.address or options.abort or options.erase):
        raise StackError("A move needs the address of the new project.", "Name it with --address https://….supabase.co")
    if options.db_url:
        url, here = options.db_url, (options.source, os.environ.get("SOURCE_SECRET_KEY"))
    else:
        values = stack.values()
        url, here = values["DB_URL"], (values["API_URL"], values["SECRET_KEY"])
    there = options.address, os.environ.get("TARGET_SECRET_KEY")
    try:
        with (
            psycopg.connect(url, autocommit=True) as source,
            psycopg.connect(options.to, autocommit=True) as target,
            closing(Move(source, target, options.organization, _say, _projects(here, there))) as moving,
        ):
            if options.abort:
                moving.abort()
                print("The move was undone. The organization is where it was.")
            elif options.erase:
                print("\n".join(f"{count:>9}  {table}" for table, count in moving.erase().items()))
            else:
                report = moving.run(options.address.rstrip("/"))
                print("\n".join(f"{count:>9}  {table}" for table, count in report.rows.items()))
                print(f"{report.files:>9}  files copied")
                print(f"Writes were held for {report.held_seconds:.2f} s. It is at {options.address}.")
    except MoveError as error:
        raise StackError(str(error), error.hint) from error
    except psycopg.Error as error:
        raise StackError(
            f"The move stopped: {error}", "Run the same command again: it goes on where it stopped."
        ) from error
    return 0


def _say(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


def _projects(*sides: tuple[str | None, str | None]) -> tuple[Project, Project] | None:
    """The projects with their Storages, if the address and the secret key of both are known."""
    known = [Project(url.rstrip("/"), key) for url, key in sides if url and key]
    return (known[0], known[1]) if len(known) == len(sides) else None
