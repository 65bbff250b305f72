"""The bench runner: failures are reported, the other benches run, within a time limit."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import peers
from bench.__main__ import BENCHES, CAPACITY, FOLDER, main
from bench.goals import GOALS
from bench.plots import PLOTS, draw
from bench.report import absent, page, regressions, summary, with_costs
from bench.rounds import UNTIL, ratios, rounds, spread
from bench.running import Bench, run_all

WORKS = (
    'import json; print(json.dumps({"figures": {"first_start_s": {"median": 2, "low": 1, "high": 3, "rounds": 5}}}))'
)
FAILS = 'raise ValueError("no such table")'
HANGS = 'import pathlib, time\nprint("waiting", file=__import__("sys").stderr, flush=True)\ntry:\n  time.sleep(60)\n'
CUT_SHORT = (
    HANGS
    + """except KeyboardInterrupt:
  print('{"figures": {"memory": {"highest_mb": 50}}, "cut_short": "there was no time for cold"}')"""
)
HANGS += 'finally:\n  pathlib.Path("cleaned").touch()'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Benches of one file each, run as the real ones are."""

    def run(budget: float = 60, **sources: str) -> tuple[int, dict[str, Any]]:
        for name, source in sources.items():
            (tmp_path / f"bench_{name}.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{FOLDER.parent.parent}")
        benches = {name: Bench(f"bench_{name}", 1) for name in sources}
        status = main([], benches, tmp_path / "results", budget)
        return status, json.loads((tmp_path / "results/results.json").read_text())["benches"]

    return run


def test_failing_bench_reports_why_and_others_continue(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run(crm=FAILS, stack=WORKS)
    assert status == 1
    assert found["crm"]["failed"] == "ValueError: no such table"
    assert found["stack"]["figures"]["first_start_s"]["median"] == 2
    printed = capsys.readouterr()
    assert "crm: FAILED: ValueError: no such table" in printed.err
    assert "crm: it failed: ValueError: no such table" in printed.out
    assert "first start" in printed.out


def test_all_is_well_when_none_fails(run: Any) -> None:
    status, found = run(stack=WORKS)
    assert status == 0
    assert set(found["stack"]) == {"figures", "seconds", "at"}


def test_hanging_bench_is_ended_and_the_rest_runs(run: Any, tmp_path: Path) -> None:
    status, found = run(budget=4, crm=HANGS, stack=WORKS)
    assert status == 1
    assert found["crm"]["failed"].startswith("it was not ready within ")
    assert found["crm"]["failed"].endswith("last line: waiting")
    assert (tmp_path / "cleaned").exists()


def test_interrupted_bench_keeps_the_figures_it_has(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run(budget=4, functions=CUT_SHORT)
    assert status == 0
    assert found["functions"]["figures"] == {"memory": {"highest_mb": 50}}
    assert "functions: there was no time for cold" in capsys.readouterr().out


def test_benches_beyond_the_time_limit_are_named(run: Any) -> None:
    status, found = run(budget=0, stack=WORKS)
    assert status == 1
    assert found["stack"]["left_out"] == "the 0 minutes were over"


def spread_of(median: float) -> dict[str, Any]:
    found = {"median": median, "low": median * 0.95, "high": median * 1.05, "rounds": 5}
    return {"functions": {"figures": {"throughput": {"rate_ratio": found, "p99_ratio": found}}}}


def test_ratio_that_is_worse_than_the_committed_one_is_a_regression() -> None:
    (slower,) = regressions(spread_of(1.0), spread_of(0.8))
    assert slower.startswith("Regression: functions: record-activity, requests a second: 0.8×")
    (later,) = regressions(spread_of(1.0), spread_of(1.3))
    assert later.startswith("Regression: functions: record-activity, p99: 1.3×")
    assert not list(regressions(spread_of(1.0), spread_of(1.1)))
    assert not list(regressions({}, spread_of(1.3)))


def test_partial_run_keeps_earlier_results(run: Any) -> None:
    run(stack=WORKS)
    _, found = run(crm=WORKS)
    assert set(found) == {"stack", "crm"}


def test_benches_share_one_database_dropped_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench_tells.py").write_text(
        'import json, os, pathlib\nfound = os.environ.get("DATABASE")\n'
        'print(json.dumps({"figures": {"database": found, "is_there": bool(found) and pathlib.Path(found).exists()}}))'
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{FOLDER.parent.parent}")
    made: list[Path] = []

    @contextmanager
    def populate() -> Iterator[dict[str, str]]:
        made.append(tmp_path / f"database-{len(made)}")
        made[-1].touch()
        yield {"DATABASE": str(made[-1])}
        made[-1].unlink()

    alone, needing = Bench("bench_tells", 1), Bench("bench_tells", 1, needs_population=True)
    found = run_all({"stack": alone, "rls": needing, "crm": needing, "flags": alone}, 60, populate)
    assert [outcome["figures"]["is_there"] for outcome in found.values()] == [False, True, True, False]
    assert made == [tmp_path / "database-0"]


def test_missing_peer_is_skipped_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("npm_config_offline", "true")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "empty"))
    for found in (peers.pypi(tmp_path, "growthbook"), peers.npm(tmp_path, "deno@2")):
        assert found
        assert "growthbook was not found in the cache" in found or found == "npm error code ENOTCACHED"
        outcome = {"figures": {"evaluation": {"absent": {"growthbook": found}}}, "at": "now", "seconds": 1}
        assert f"growthbook was skipped: {found}" in summary({"flags": outcome})
        assert f"Skipped: growthbook, because {found}" in page({"benches": {"flags": outcome}})


def test_on_a_slow_machine_there_are_fewer_rounds_but_three(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(rounds("x", 5)) == [1, 2, 3, 4, 5]
    monkeypatch.setenv(UNTIL, str(time.time() - 1))
    assert list(rounds("x", 5)) == [1, 2, 3]


def test_a_ratio_is_that_of_each_round() -> None:
    assert spread([3, 1, 2]) == {"median": 2, "low": 1, "high": 3, "rounds": 3}
    assert ratios([2, 4, 9], [1, 2, 3]) == {"median": 2, "low": 2, "high": 3, "rounds": 3}


def test_a_goal_is_met_by_its_median() -> None:
    goal = next(each for each in GOALS["stack"] if each.what == "warm start")
    assert goal.is_met({"median": 1.5, "low": 1, "high": 9, "rounds": 3}) is True
    assert goal.is_met({"median": 1.51, "low": 1, "high": 9, "rounds": 3}) is False
    assert goal.figure({"failed": "why"}) is None


def test_page_and_plots_match_the_results(tmp_path: Path) -> None:
    results = json.loads((FOLDER / "results.json").read_text())
    assert (FOLDER / "README.md").read_text() == page(results)
    assert CAPACITY.read_text() == with_costs(CAPACITY.read_text(), results["benches"])
    drawn = {path.name: path.read_text() for path in draw(results["benches"], tmp_path)}
    assert drawn == {path.name: path.read_text() for path in FOLDER.glob("*.svg")}


def test_every_goal_has_a_measured_figure() -> None:
    outcomes = json.loads((FOLDER / "results.json").read_text())["benches"]
    assert set(GOALS) == set(BENCHES)
    # Without a peer, the ratios to it are missing.
    measured = {
        name: outcome
        for name, outcome in outcomes.items()
        if "figures" in outcome and not [*absent(outcome["figures"])]
    }
    missing = [
        f"{name}: {goal.what}"
        for name, outcome in measured.items()
        for goal in GOALS[name]
        if goal.figure(outcome) is None
    ]
    assert not missing
    assert not [plot.name for plot in PLOTS if plot.bench in measured and not plot.made_from(measured[plot.bench])]


def test_unknown_bench_error_lists_the_benches() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "speed"], cwd=FOLDER.parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "There is no speed. Found: stack, flags" in done.stderr
