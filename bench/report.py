"""What was measured, in words: a table for the terminal and the page docs/benchmarks/README.md."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.goals import GOALS, Goal, described
from bench.plots import PLOTS

Outcomes = Mapping[str, Any]
Line = tuple[Goal, str, str]  # the goal, the figure, and whether it meets the goal
WORSE = 1.15
MET = {True: "met", False: "not met", None: ""}

INTRODUCTION = """\
What was measured, beside what, and which goals are met? `make bench` writes this page, the plots and
[results.json](results.json); `make bench ARGS="flags"` writes one part.

A figure is the median of several rounds, with the lowest and the highest in parentheses. Each round also measures the
reference; × is the ratio to it. A *budget* is a bound that was set beforehand. Goals are judged by the median."""
TITLES = {
    "rls": "Row-level security",
    "functions": "Functions",
    "webhook": "Stripe's events",
    "flags": "Feature flags",
    "stack": "The local stack",
    "crm": "CRM",
    "dashboard": "Dashboard",
    "templates": "AI Garage",
    "realtime": "Realtime",
}


def summary(outcomes: Outcomes) -> str:
    lines = [
        (name, goal.what, goal.reference, found, goal.bound, met)
        for name, outcome in outcomes.items()
        for goal, found, met in _lines(name, outcome)
    ]
    head = ("bench", "what", "beside", "median (lowest–highest)", "goal", "")
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(6)]
    table = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]]
    return "\n".join(
        ["", *(line.rstrip() for line in table), "", _count(outcomes), *_missed(outcomes), *_missing(outcomes)]
    )


# A row of docs/capacity.md: the request, the processor time of the function in µs and that of Postgres, by their path.
COSTS = [
    ("record-activity", "functions/throughput/record_activity/cpu_us_per_request",
     "functions/throughput/record_activity/postgres_cpu_us_per_request"),
    ("record-activity on a lead", "functions/throughput/record_activity_on_a_lead/cpu_us_per_request",
     "functions/throughput/record_activity_on_a_lead/postgres_cpu_us_per_request"),
    ("evaluate-flag, one flag", "flags/serving/one/cpu_us_per_request", ""),
    ("evaluate-flag, all 100 flags", "flags/serving/all/cpu_us_per_request", ""),
    ("one Stripe event, verified and applied, eight at a time", "webhook/speed/8_at_once/http/cpu_us_per_event",
     "webhook/speed/8_at_once/http/postgres_cpu_us_per_event"),
    ("PostgREST: the newest 50 entries of a tenant's feed", "", "rls/statements/activity_feeds, newest 50/secured_us"),
]  # fmt: skip


def costs(outcomes: Outcomes) -> str:
    """The table of docs/capacity.md."""
    rows = [
        f"| {what} | {_microseconds(outcomes, function)} | {_microseconds(outcomes, postgres)} |"
        for what, function, postgres in COSTS
    ]
    return "\n".join(["| Request | Processor time of the function | of Postgres |", "|---|---|---|", *rows])


def _microseconds(outcomes: Outcomes, path: str) -> str:
    if not path:
        return "none"
    bench, *keys = path.split("/")
    figure: Any = outcomes[bench].get("figures", {})
    for key in keys:
        figure = figure.get(key, {})
    return f"{float(format(figure['median'], '.2g')):,.0f} µs" if "median" in figure else "not measured"


def with_costs(document: str, outcomes: Outcomes) -> str:
    begin, end = "<!-- costs: begin -->\n", "\n<!-- costs: end -->"
    before, _, rest = document.partition(begin)
    return before + begin + costs(outcomes) + end + rest.partition(end)[2]


def page(results: Mapping[str, Any]) -> str:
    """The page, written from the results alone."""
    outcomes = results["benches"]
    whole = results.get("whole")
    took = (
        f" All of it took {whole['seconds'] // 60} min {whole['seconds'] % 60} s, on a machine whose load was"
        f" {whole['machine']['load']:.1f} when it began."
        if whole
        else ""
    )
    parts = [
        "# What was measured",
        INTRODUCTION,
        f"**{_count(outcomes)}**{took}",
        *_machines(outcomes),
        "\n".join(f"- {line}" for line in [*_missed(outcomes), *_missing(outcomes)]),
    ]
    for name, title in TITLES.items():
        if name in outcomes:
            parts += [f"## {title}", *_section(name, outcomes[name])]
    return "\n\n".join(filter(None, parts)) + "\n"


def _section(name: str, outcome: Outcomes) -> Iterator[str]:
    yield f"`python -m bench.{name}`, {outcome['at']} UTC, {outcome['seconds']:.0f} s"
    if why := _why(outcome):
        if "figures" not in outcome:
            yield f"Nothing was measured: {why}"
            return
        yield f"Not all was measured: {why}"
    lines = [
        f"| {goal.what} | {goal.reference} | {found} | {goal.bound} | {met if met != 'not met' else '**not met**'} |"
        for goal, found, met in _lines(name, outcome)
    ]
    yield "\n".join(["| | beside | median (lowest–highest) | goal | |", "|---|---|---|---|---|", *lines])
    for each, why in absent(outcome["figures"]):
        yield f"Skipped: {each}, because {why}"
    drawn = [f"![{plot.alt}]({plot.name}.svg)" for plot in PLOTS if plot.bench == name and plot.made_from(outcome)]
    if drawn:
        yield "\n".join(drawn)


def _lines(name: str, outcome: Outcomes) -> Iterator[Line]:
    for goal in GOALS.get(name, []):
        figure = goal.figure(outcome)
        if figure is None:
            yield goal, "not measured", ""
        else:
            yield goal, described(goal, figure), MET[goal.is_met(figure)]


def _count(outcomes: Outcomes) -> str:
    every = [met for name, outcome in outcomes.items() for goal, _, met in _lines(name, outcome) if goal.bound]
    unknown = every.count("")
    return f"{every.count('met')} of {len(every)} goals met" + (f", {unknown} not measured." if unknown else ".")


def _missed(outcomes: Outcomes) -> Iterator[str]:
    for name, outcome in outcomes.items():
        for goal, found, met in _lines(name, outcome):
            if met == "not met":
                yield f"Not met: {goal.what}: {found}, wanted {goal.bound}"


def regressions(before: Outcomes, now: Outcomes) -> Iterator[str]:
    """Ratios whose every round now is worse than the committed median, and their median by more than 15 %.

    Figures in seconds or bytes depend on the machine and are not compared.
    """
    for name, outcome in now.items():
        for goal in GOALS.get(name, []):
            old, new = goal.figure(before.get(name, {})), goal.figure(outcome)
            if goal.unit != "×" or not goal.bound or old is None or new is None:
                continue
            lower_is_better = goal.at_most is not None
            best = new["low"] if lower_is_better else new["high"]
            factor = new["median"] / old["median"] if lower_is_better else old["median"] / new["median"]
            is_worse = best > old["median"] if lower_is_better else best < old["median"]
            if factor > WORSE and is_worse:
                yield f"Regression: {name}: {goal.what}: {described(goal, new)}, committed {described(goal, old)}"


def _missing(outcomes: Outcomes) -> Iterator[str]:
    for name, outcome in outcomes.items():
        if why := _why(outcome):
            yield f"{name}: {why}"
        for each, reason in absent(outcome.get("figures", {})):
            yield f"{name}: {each} was skipped: {reason}"


def _why(outcome: Outcomes) -> str | None:
    if "failed" in outcome:
        return f"it failed: {outcome['failed']}"
    if "cut_short" in outcome:
        return str(outcome["cut_short"])
    return f"it was left out: {outcome['left_out']}" if "left_out" in outcome else None


def absent(figures: Any) -> Iterator[tuple[str, str]]:
    """Peers that were not available, from all benches."""
    if isinstance(figures, Mapping):
        for name, found in figures.items():
            if name == "absent":
                yield from found.items()
            else:
                yield from absent(found)


def _machines(outcomes: Outcomes) -> list[str]:
    text = "On {cpus} × {processor}, {memory_gb} GB, {system}, Python {python}."
    return sorted({text.format(**outcome["machine"]) for outcome in outcomes.values() if "machine" in outcome})
