"""Evaluations per second of processor time, beside the engines of others on the same flags and users.

The others are installed into an environment of their own, when the bench first wants them; one that cannot be had is
left out, and why is told.
"""

import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from bench.flags import workload
from local import ROOT

ROUNDS = 3
CONTENDERS = Path(__file__).with_name("contenders.py")
HOME = ROOT / ".strive/bench/flags"
PEERS = {
    "growthbook": "growthbook",
    "UnleashClient": "UnleashClient",
    "yggdrasil": "yggdrasil-engine",
    "flagsmith-flag-engine": "flagsmith-flag-engine",
    "flagd-core": "openfeature-flagd-core",
}
GOALS = {"one_ratio": ">= 8", "all_ratio": ">= 8"}


def measure() -> dict[str, Any]:
    absent = {name: why for name, package in PEERS.items() if (why := _install(package))}
    return {
        "goals": GOALS,
        "absent": absent,
        "versions": {name: _version(package) for name, package in PEERS.items() if name not in absent},
        **{
            kind: _compare(full=kind == "with_conditions", absent=absent)
            for kind in ("without_conditions", "with_conditions")
        },
    }


def _compare(*, full: bool, absent: dict[str, str]) -> dict[str, Any]:
    given = json.dumps({"flags": workload.flags(full=full), "users": workload.users()})
    names = ["strive", *(name for name in PEERS if name not in absent)]
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            samples[name].append(_run(name, given))
    figures: dict[str, Any] = {
        name: {
            "one_per_cpu_second": round(statistics.median(each["one"] for each in found)),
            "all_per_cpu_second": round(statistics.median(each["all"] for each in found)),
            "share_on": found[0]["on_share"],
        }
        for name, found in samples.items()
    }
    shares = [each["share_on"] for each in figures.values()]
    assert max(shares) - min(shares) < 0.02, f"they do not evaluate the same flags: {shares}"
    for kind in ("one", "all"):
        # Within each round, so that both have seen the same machine.
        best = [max(samples[name][n][kind] for name in names[1:]) for n in range(ROUNDS)] if names[1:] else []
        ratios = [samples["strive"][n][kind] / value for n, value in enumerate(best)]
        figures[f"{kind}_ratio"] = round(statistics.median(ratios), 1) if ratios else None
    return figures


def _run(name: str, given: str) -> dict[str, Any]:
    python = sys.executable if name == "strive" else str(_python())
    variables = {"PATH": os.environ["PATH"]} | ({"PYTHONPATH": str(ROOT)} if name == "strive" else {})
    done = subprocess.run(
        [python, CONTENDERS, name], input=given, capture_output=True, text=True, env=variables, cwd=HOME, check=False
    )
    if done.returncode:
        sys.exit(f"{name} did not run: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["one_is_as_all"], name
    return found


def _python() -> Path:
    return HOME / "venv/bin/python"


def _install(package: str) -> str | None:
    """Nothing, or why it is not there."""
    if not _python().exists():
        venv.create(HOME / "venv", with_pip=True)
    done = subprocess.run(
        [_python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def _version(package: str) -> str:
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([_python(), "-c", script], capture_output=True, text=True, check=True).stdout.strip()
