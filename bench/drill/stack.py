"""A running stack for drills, which `strive dev` repairs as on any day."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

from local.stack import Stack


@contextmanager
def running(home: Path) -> Iterator[Stack]:
    stack, shown = Stack(home / "stack"), home / "shown"
    command = [sys.executable, "-c", "from local.cli import main; main()", "dev", "--api-port", "0", "--db-port", "0"]
    with shown.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--workdir", str(stack.workdir)],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": "."},
        )
    try:
        while b"Strive runs at" not in shown.read_bytes():
            if process.poll() is not None:
                raise SystemExit(shown.read_text())
            time.sleep(0.05)
        yield stack
    finally:
        process.send_signal(SIGINT)
        process.wait(30)
