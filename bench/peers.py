"""What others have made, installed beside the product when a bench first wants it; never with it."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from local import NODE, ROOT

HOME = ROOT / ".strive/bench"


def npm(folder: Path, *packages: str) -> str | None:
    """Nothing, or why they cannot be had."""
    wanted = [package.rpartition("@")[0] or package for package in packages]
    if all((folder / "node_modules" / name / "package.json").exists() for name in wanted):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    program = NODE.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    quietly = ("--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")
    words: list[str | Path] = [NODE, program, "install", *quietly, "--prefix", folder, *packages]
    return _reason(words, beside_node(folder))


def pip(folder: Path, *packages: str) -> str | None:
    """Into an environment of its own; nothing, or why they cannot be had."""
    try:
        if not python(folder).exists():
            venv.create(folder / "venv", with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no Python environment could be made: {error}"
    quietly = ("--quiet", "--disable-pip-version-check", "--retries=1")
    return _reason([python(folder), "-m", "pip", "install", *quietly, *packages], dict(os.environ))


def python(folder: Path) -> Path:
    return folder / "venv/bin/python"


def beside_node(folder: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{NODE.parent}:{os.environ['PATH']}", "HOME": str(folder)}


def _reason(words: list[str | Path], variables: dict[str, str]) -> str | None:
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if not done.returncode:
        return None
    print(done.stderr, file=sys.stderr)
    said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    return (said or done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1].strip()
