"""Everything under bench/ in one go: `make bench` (at most ten minutes), into docs/benchmarks/.

Every figure is a ratio to a reference of the same run. What cannot be measured here says why and stops nothing.
Choose some by name: `make bench ARGS="stack flags"`.
"""

import json
import subprocess
import sys
import time
from typing import Any

from bench import machine
from bench.plots import draw
from local import ROOT

BUDGET_SECONDS = 600
# In the order of what would be missed least if time ran out, reversed.
BENCHES = {
    "functions": ["throughput", "cold", "memory", "peer"],
    "webhook": [],
    "flags": [],
    "stack": [],
    "crm": [],
    "dashboard": [],
    "templates": [],
    "rls": ["--quick"],
}
RESULTS = ROOT / "docs/benchmarks"


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHES)
    if unknown := set(chosen) - BENCHES.keys():
        raise SystemExit(f"There is no {', '.join(unknown)}. Found: {', '.join(BENCHES)}.")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    ends = time.monotonic() + BUDGET_SECONDS
    for number, name in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        results[name] = _run(name, ends - began)
        how = results[name].get("skipped", "done")
        print(f"[{number}/{len(chosen)}] {name}: {how}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    results["machine"] = machine()
    file.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    for drawn in draw(results, RESULTS):
        print(drawn.relative_to(ROOT))


def _run(name: str, seconds: float) -> dict[str, Any]:
    if seconds <= 0:
        return {"skipped": f"the {BUDGET_SECONDS // 60} minutes were over"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{name}", *BENCHES[name]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=seconds,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"not ready within the {BUDGET_SECONDS // 60} minutes"}
    except subprocess.CalledProcessError as error:
        return {"skipped": f"it ended with exit status {error.returncode}, see above"}
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
