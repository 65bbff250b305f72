"""Background processes, found again by pid and start time."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

import psutil


def launch(
    words: Sequence[str | Path], *, log: Path, cwd: Path | str = "/", env: Mapping[str, str] | None = None
) -> psutil.Process:
    """Start in a session of its own, so that Ctrl-C here does not reach it; output goes to the log."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    started = psutil.Process(process.pid)
    process.returncode = 0  # nothing waits for it; without this Popen warns when it is collected
    return started


def alive(process: psutil.Process) -> bool:
    try:
        # After a kill the first thread may be a zombie while others, for a moment, still hold the ports.
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def stop(process: psutil.Process, signal: int = SIGTERM, timeout: float = 10) -> None:
    """Send the signal, wait, then SIGKILL."""
    for each, patience in ((signal, timeout), (SIGKILL, 5)):
        try:
            process.send_signal(each)
        except psutil.NoSuchProcess:
            return
        # Not process.wait(): in a container without init, dead orphans stay in the process table.
        deadline = time.monotonic() + patience
        while alive(process):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        else:
            return


def find(pid: int, started: float) -> psutil.Process | None:
    """The process with this pid and start time, or None if it ended (its pid may belong to another)."""
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - started) < 1 and alive(process) else None
    except psutil.NoSuchProcess:
        return None


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error message."""
    try:
        text = log.read_text(errors="replace").strip().split("\n")[-lines:]
    except OSError:
        return ""
    return "\n".join([f"The end of {log}:", *("  " + line for line in text)])
