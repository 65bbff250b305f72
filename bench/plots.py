"""Draws what was measured: one SVG of bars for every comparison, ours beside its reference."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

WIDTH, ROW, LABEL, TOP = 720, 30, 250, 64
OURS, THEIRS, LINE, TEXT, FAINT = "#4f46e5", "#94a3b8", "#dc2626", "#0f172a", "#64748b"

FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    ours: bool = True


@dataclass(frozen=True)
class Plot:
    title: str
    subtitle: str
    bars: list[Bar]
    unit: str = ""
    # Drawn as a line across, with what it says.
    goal: tuple[float, str] | None = None


def draw(results: Results, folder: Path) -> Iterator[Path]:
    """One file for every plot whose figures are there."""
    for name, plot in PLOTS.items():
        try:
            drawn = plot(results)
        except KeyError:
            continue  # not measured, or skipped with its reason in the results
        path = folder / f"{name}.svg"
        path.write_text(svg(drawn))
        yield path


def svg(plot: Plot) -> str:
    scale = (WIDTH - LABEL - 110) / max([bar.value for bar in plot.bars] + [plot.goal[0] if plot.goal else 0])
    bottom = TOP + ROW * len(plot.bars)
    height = bottom + (34 if plot.goal else 12)
    marks = [
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>',
        _text(16, 27, plot.title, 'font-size="16" font-weight="600"'),
        _text(16, 47, plot.subtitle, f'font-size="12" fill="{FAINT}"'),
    ]
    for number, bar in enumerate(plot.bars):
        y, length = TOP + ROW * number, bar.value * scale
        colour = OURS if bar.ours else THEIRS
        marks += [
            _text(LABEL - 10, y + 17, bar.label, 'text-anchor="end"'),
            f'<rect x="{LABEL}" y="{y + 3}" width="{max(length, 1):.1f}" height="{ROW - 9}" rx="3" fill="{colour}"/>',
            _text(LABEL + length + 8, y + 17, _short(bar.value) + plot.unit),
        ]
    if plot.goal:
        x = LABEL + plot.goal[0] * scale
        marks += [
            f'<path d="M{x:.1f} {TOP - 4}V{bottom + 6}" stroke="{LINE}" stroke-dasharray="4 3"/>',
            _text(x, bottom + 22, plot.goal[1], f'text-anchor="middle" font-size="12" fill="{LINE}"'),
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" fill="{TEXT}"'
        f' font-size="13" font-family="{FONT}">\n<title>{escape(plot.title)}</title>\n'
        + "\n".join(marks)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _rls(results: Results) -> Plot:
    rls = results["rls"]
    growth = [
        Bar(f"newest 50 of {int(rows):,}", figure["ratio"]) for rows, figure in rls["feed_newest_50_by_rows"].items()
    ]
    others = [
        Bar(name, figure["ratio"])
        for name, figure in rls["statements"].items()
        if name
        in {"leads, newest 50", "custom_agent_orders, newest 50", "activity_feeds, insert one", "leads, update one"}
    ]
    return Plot(
        "What row-level security costs",
        "processor time beside the statement without policies, its condition written by hand",
        growth + others, " x", (1.3, "goal for reads 1.3"),
    )  # fmt: skip


def _throughput(results: Results) -> Plot:
    found = results["functions"]["figures"]["throughput"]
    bars = [
        Bar("record-activity", found["record_activity"]["per_second"]),
        Bar("bare endpoint, same INSERT", found["bare"]["per_second"], ours=False),
        Bar("the same as the table's owner", found["bare_as_owner"]["per_second"], ours=False),
    ]
    return Plot(
        "record-activity beside a bare endpoint", "requests a second, one worker, 16 connections",
        bars, "/s", (0.85 * found["bare"]["per_second"], "goal 0.85 of bare"),
    )  # fmt: skip


def _peer(results: Results) -> Plot:
    found = results["functions"]["figures"]["peer"]
    bars = [
        Bar("record-activity", found["record_activity"]["per_second"]),
        Bar("the same as an Edge Function (Deno)", found["deno"]["per_second"], ours=False),
    ]
    return Plot(
        "record-activity beside a Deno edge function", "requests a second, one worker, 16 connections", bars, "/s"
    )


def _cold(results: Results) -> Plot:
    ratio = results["functions"]["figures"]["cold"]["ratio"]
    bars = [Bar(name.replace("_", "-"), value, name != "bare_hello") for name, value in ratio.items()]
    subtitle = "from the start of the process to its first answer, as a ratio to bare functions-framework's hello"
    return Plot("Cold start of every function", subtitle, bars, " x", (1.3, "goal 1.3"))


def _flags(results: Results) -> Plot:
    found = results["flags"]["figures"]["evaluation"]["with_conditions"]
    bars = [
        Bar(name, figure["all_per_cpu_second"], name == "strive")
        for name, figure in found.items()
        if isinstance(figure, dict) and "all_per_cpu_second" in figure
    ]
    return Plot(
        "Feature flags beside the engines of others", "evaluations of all 100 flags per second of processor time", bars
    )


def _webhook(results: Results) -> Plot:
    found = results["webhook"]["figures"]["speed"]
    bars = [
        Bar(f"{label}, {connections} at once", found[f"{connections}_at_once"][name]["per_second"], name != "peer")
        for connections in (1, 8, 32)
        for name, label in (("http", "over HTTP"), ("in_process", "in-process"), ("peer", "stripe-sync-engine"))
    ]
    wrong = {
        name: sum(each[name]["wrong"] for at, each in found.items() if "at_once" in at) for name in ("http", "peer")
    }
    subtitle = f"wrong final states: {wrong['http']} of ours, {wrong['peer']} of stripe-sync-engine's"
    return Plot("Stripe events a second", subtitle, bars, "/s")


def _stack(results: Results) -> Plot:
    figures = results["stack"]["figures"]
    bars = [
        Bar("first start", figures["first_start_s"]["median"]),
        Bar("Postgres alone, made and started", figures["first_start_postgres_alone_s"]["median"], ours=False),
        Bar("warm start", figures["warm_start_s"]["median"]),
        Bar("Postgres alone, started", figures["warm_start_postgres_alone_s"]["median"], ours=False),
    ]
    return Plot("How fast the local stack starts", "seconds until everything answers, medians", bars, " s")


PLOTS: dict[str, Callable[[Results], Plot]] = {
    "row-level-security": _rls,
    "record-activity": _throughput,
    "edge-function": _peer,
    "cold-start": _cold,
    "flags": _flags,
    "webhook": _webhook,
    "stack": _stack,
}
