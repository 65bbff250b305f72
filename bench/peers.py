"""What others have made, installed beside the product when a bench first wants it; never with it."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

from local import NODE, ROOT

HOME = ROOT / ".strive/bench"
UV = Path(sys.executable).with_name("uv")


def npm(folder: Path, *packages: str) -> str | None:
    """None, or why the peers are not available."""
    wanted = [re.sub(r"(?<=.)@.*", "", package) for package in packages]
    if all((folder / "node_modules" / name / "package.json").exists() for name in wanted):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    program = NODE.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    quietly = ("--no-save", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--fetch-retries=1")
    words: list[str | Path] = [NODE, program, "install", *quietly, "--prefix", folder, *packages]
    return _reason(words, beside_node(folder))


def pypi(folder: Path, *packages: str) -> str | None:
    """Install into a separate environment; return None, or why it failed."""
    if not python(folder).exists():
        venv.create(folder / "venv")
    return _reason([UV, "pip", "install", "--python", python(folder), *packages], dict(os.environ))


def python(folder: Path) -> Path:
    return folder / "venv/bin/python"


def beside_node(folder: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{NODE.parent}:{os.environ['PATH']}", "HOME": str(folder)}


def _reason(words: list[str | Path], variables: dict[str, str]) -> str | None:
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if not done.returncode:
        return None
    print(done.stderr, file=sys.stderr)
    # Published results contain no addresses or paths.
    lines = [
        line
        for line in done.stderr.splitlines()
        if re.match(r"\s*(npm error|error|cause)", line) and not re.search("://|: /", line)
    ]
    return (lines or [f"exit status {done.returncode}"])[-1].strip()
