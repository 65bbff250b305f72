"""`strive move`: an organization leaves this database for another one."""

import argparse
import sys

import psycopg

from local import StackError
from local.stack import Stack
from shared.administration.move import Move, MoveError


def move(stack: Stack, options: argparse.Namespace) -> int:
    if not (options.address or options.abort or options.erase):
        raise StackError("A move needs the address of the new project.", "Name it with --address https://….supabase.co")
    url = options.db_url or stack.values()["DB_URL"]
    try:
        with psycopg.connect(url, autocommit=True) as source, psycopg.connect(options.to, autocommit=True) as target:
            moving = Move(source, target, options.organization, lambda step: print(step, file=sys.stderr, flush=True))
            if options.abort:
                moving.abort()
                print("The move was undone. The organization is where it was.")
            elif options.erase:
                print("\n".join(f"{count:>9}  {table}" for table, count in moving.erase().items()))
            else:
                report = moving.run(options.address.rstrip("/"))
                print("\n".join(f"{count:>9}  {table}" for table, count in report.rows.items()))
                print(f"Writes were held for {report.held_seconds:.2f} s. It is at {options.address}.")
    except MoveError as error:
        raise StackError(str(error), error.hint) from error
    except psycopg.Error as error:
        raise StackError(
            f"The move stopped: {error}", "Run the same command again: it goes on where it stopped."
        ) from error
    return 0
