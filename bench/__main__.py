"""Everything under bench/ in one go: `make bench` (at most ten minutes), into docs/benchmarks/.

Every figure is set against a reference of the same run. A peer that is not available is skipped, a failed bench is
reported, and neither stops the others. Choose some by name: `make bench ARGS="stack flags"`. With `--check` nothing is
written: the exit status is 1 where a ratio is worse than the committed one by more than 15 %.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import machine, population
from bench.plots import draw
from bench.report import page, regressions, summary, with_costs
from bench.running import Bench, run_all
from local import ROOT

BUDGET_SECONDS = 600
FOLDER = ROOT / "docs/benchmarks"
CAPACITY = ROOT / "docs/capacity.md"
# With the seconds each takes on two cores; the longest last, so that a slow machine runs all others.
BENCHES = {
    "stack": Bench("bench.stack", 25),
    "flags": Bench("bench.flags", 75),
    "webhook": Bench("bench.webhook", 90),
    "realtime": Bench("bench.realtime", 90),
    "rls": Bench("bench.rls", 80, needs_population=True),
    "crm": Bench("bench.crm", 60, needs_population=True),
    "dashboard": Bench("bench.dashboard", 8, needs_population=True),
    "templates": Bench("bench.templates", 8, needs_population=True),
    "functions": Bench("bench.functions", 170),
}


def main(names: list[str], benches: Mapping[str, Bench], folder: Path, budget: float, *, is_check: bool = False) -> int:
    if unknown := [name for name in names if name not in benches]:
        raise SystemExit(f"There is no {', '.join(unknown)}. Found: {', '.join(benches)}.")
    chosen = {name: bench for name, bench in benches.items() if not names or name in names}
    began = time.monotonic()
    outcomes = run_all(chosen, budget, population.shared)
    results = _kept(folder)
    if is_check:
        worse = list(regressions(results["benches"], outcomes))
        print("\n".join([summary(outcomes), "", *worse]))
        return int(bool(worse))
    results["benches"] |= outcomes
    if len(chosen) == len(benches):
        results["whole"] = {"seconds": round(time.monotonic() - began), "machine": machine()}
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    for path in draw(results["benches"], folder):
        print(path.name, end=" ", file=sys.stderr)
    (folder / "README.md").write_text(page(results))
    if folder == FOLDER:
        CAPACITY.write_text(with_costs(CAPACITY.read_text(), results["benches"]))
    print(summary(outcomes))
    return int(any("figures" not in outcome for outcome in outcomes.values()))


def _kept(folder: Path) -> dict[str, Any]:
    """Earlier results of benches that are not run now."""
    file = folder / "results.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if "benches" in found else {"benches": {}}


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name != "--check"]
    sys.exit(main(chosen, BENCHES, FOLDER, BUDGET_SECONDS, is_check="--check" in sys.argv))
