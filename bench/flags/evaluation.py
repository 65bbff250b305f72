"""Evaluations per second of processor time, beside other engines with the same flags and users, in turns.

The other engines are installed into an environment of their own. One that cannot be installed is left out, with the
reason.
GrowthBook also runs in V8: it is compared, but no goal depends on it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import peers
from bench.flags import workload
from bench.rounds import ratios, rounds, spread
from local import NODE, ROOT

ROUNDS = 5
CONTENDERS = Path(__file__).with_name("contenders.py")
HOME = peers.HOME / "flags"
PEERS = {
    "growthbook": "growthbook",
    "UnleashClient": "UnleashClient",
    "yggdrasil": "yggdrasil-engine",
    "flagsmith-flag-engine": "flagsmith-flag-engine",
    "flagd-core": "openfeature-flagd-core",
}
JAVASCRIPT = "growthbook in V8"
KINDS = {"without_conditions": False, "with_conditions": True}


def measure() -> dict[str, Any]:
    absent = {name: why for name, package in PEERS.items() if (why := peers.pypi(HOME, package))}
    if why := peers.npm(HOME, "@growthbook/growthbook"):
        absent[JAVASCRIPT] = why
    else:
        shutil.copy(CONTENDERS.with_name("growthbook.mjs"), HOME)  # where its package is found
    names = ["strive", *(name for name in [*PEERS, JAVASCRIPT] if name not in absent)]
    with ExitStack() as stack:
        contenders = {
            (kind, name): stack.enter_context(_contender(name, workload.flags(full=full)))
            for kind, full in KINDS.items()
            for name in names
        }
        shares = {each: float(contender.response()["on_share"]) for each, contender in contenders.items()}
        samples: dict[tuple[str, str], list[dict[str, float]]] = {each: [] for each in contenders}
        for _ in rounds("evaluation", ROUNDS):
            for each, contender in contenders.items():
                samples[each].append(contender.turn())
    figures = {}
    for kind in KINDS:
        of_kind = [shares[kind, name] for name in names]
        assert max(of_kind) - min(of_kind) < 0.02, f"they do not evaluate the same flags: {of_kind}"
        figures[kind] = _compared({name: samples[kind, name] for name in names}) | {"share_on": of_kind[0]}
    versions = {name: _version(package) for name, package in PEERS.items() if name not in absent}
    return {"absent": absent, "versions": versions, **figures}


def _compared(samples: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: {f"{what}_per_cpu_second": spread([turn[what] for turn in turns]) for what in ("one", "all")}
        for name, turns in samples.items()
    }
    mine, others = samples["strive"], [turns for name, turns in samples.items() if name in PEERS]
    if not others:
        return {"engines": figures}
    ratio = {
        f"{what}_ratio": ratios(
            [turn[what] for turn in mine], [max(turn[what] for turn in turns) for turns in zip(*others, strict=True)]
        )
        for what in ("one", "all")
    }
    if javascript := samples.get(JAVASCRIPT):
        ratio |= {
            f"{what}_ratio_to_v8": ratios([turn[what] for turn in mine], [turn[what] for turn in javascript])
            for what in ("one", "all")
        }
    return {"engines": figures, **ratio}


class _Contender:
    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.process = name, process

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def response(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"{self.name} did not run"
        found: dict[str, float] = json.loads(line)
        assert found.get("one_is_as_all", True), self.name
        return found

    def turn(self) -> dict[str, float]:
        self.send("")
        return self.response()


@contextmanager
def _contender(name: str, flags: list[dict[str, Any]]) -> Iterator[_Contender]:
    program = sys.executable if name == "strive" else str(peers.python(HOME))
    words: list[str | Path] = [NODE, HOME / "growthbook.mjs"] if name == JAVASCRIPT else [program, CONTENDERS, name]
    variables = {"PATH": os.environ["PATH"]} | ({"PYTHONPATH": str(ROOT)} if name == "strive" else {})
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, cwd=HOME,
    ) as process:  # fmt: skip
        try:
            contender = _Contender(name, process)
            contender.send(json.dumps({"flags": flags, "users": workload.users()}))
            yield contender
        finally:
            process.kill()


def _version(package: str) -> str:
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    words: list[str | Path] = [peers.python(HOME), "-c", script]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
