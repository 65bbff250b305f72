"""Bars with the spread of their rounds, as SVG that follows the reader's light or dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.goals import number, unit
from bench.rounds import Spread

WIDTH, LABEL, VALUE, MARGIN = 760, 262, 130, 20
BAR, GAP, HEADING = 15, 11, 26
STYLE = """
svg { color-scheme: light dark; fill: #0f172a;
  font: 13px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif }
.title { font-size: 16px; font-weight: 600 } .group { font-weight: 600 } .faint, .bound { font-size: 12px }
.value { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
.card { fill: #ffffff; stroke: #e2e8f0 } .ours { fill: #4f46e5 } .reference { fill: #a8b3c4 } .faint { fill: #5b6880 }
.spread, .one, .goal { stroke-width: 1.4; fill: none } .spread { stroke: #0f172a } .one { stroke: #64748b }
.goal { stroke: #c2410c; stroke-dasharray: 4 3 } .bound { fill: #c2410c }
@media (prefers-color-scheme: dark) {
svg { fill: #e6eaf2 } .value { stroke: #10151f }
.card { fill: #10151f; stroke: #2b3444 } .ours { fill: #7c83f7 } .reference { fill: #55617a }
.faint { fill: #9aa7bd } .spread { stroke: #f8fafc } .one { stroke: #8693aa }
.goal { stroke: #fb923c } .bound { fill: #fb923c }
}
"""


@dataclass(frozen=True)
class Row:
    """A bar for the figure, for its reference, or both."""

    label: str
    ours: Spread | None = None
    reference: Spread | None = None
    note: str = ""

    @property
    def bars(self) -> list[tuple[Spread, str]]:
        return [(bar, kind) for bar, kind in ((self.ours, "ours"), (self.reference, "reference")) if bar]

    @property
    def height(self) -> int:
        return BAR * len(self.bars) + GAP


@dataclass(frozen=True)
class Group:
    rows: Sequence[Row]
    heading: str = ""
    # A horizontal line and its label.
    goal: tuple[float, str] | None = None

    @property
    def height(self) -> int:
        return (HEADING if self.heading or self.goal else 0) + sum(row.height for row in self.rows)


@dataclass(frozen=True)
class Drawing:
    title: str
    subtitle: str
    groups: Sequence[Group]
    unit: str
    # The legend, where both colours are used.
    legend: tuple[str, str] | None = None


def svg(drawing: Drawing) -> str:
    highest = [bar["high"] for group in drawing.groups for row in group.rows for bar, _ in row.bars]
    highest += [group.goal[0] for group in drawing.groups if group.goal]
    scale = (WIDTH - LABEL - VALUE) / max(highest)
    top = 74 if drawing.legend is None else 96
    height = top + sum(group.height for group in drawing.groups) + GAP * len(drawing.groups)
    marks = [
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        _text(MARGIN, 31, drawing.title, "title"),
        _text(MARGIN, 52, drawing.subtitle, "faint"),
        *_legend(drawing.legend),
    ]
    y = float(top)
    for group in drawing.groups:
        marks += _group(group, y, scale, drawing.unit)
        y += group.height + GAP
    marks.sort(key=lambda mark: 'class="value' in mark)  # above all lines
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img">\n<title>{escape(drawing.title)}</title>\n<style>{STYLE}</style>\n'
        + "\n".join(marks)
        + "\n</svg>\n"
    )


def _group(group: Group, top: float, scale: float, measure: str) -> list[str]:
    marks, y = [], top
    if group.heading:
        marks.append(_text(MARGIN, y + 13, group.heading, "group"))
    if group.heading or group.goal:
        y += HEADING
    first = y
    for row in group.rows:
        marks += _row(row, y, scale, measure)
        y += row.height
    if measure == "×":
        marks.append(_line("one", LABEL + scale, first - 4, y - GAP + 4))
    if group.goal:
        at = LABEL + group.goal[0] * scale
        marks += [_line("goal", at, first - 6, y - GAP + 5), _text(at, first - 11, group.goal[1], "bound", "middle")]
    return marks


def _row(row: Row, top: float, scale: float, measure: str) -> list[str]:
    marks = [_text(LABEL - 12, top + row.height / 2 - GAP / 2 + 4.5, row.label, anchor="end")]
    for place, (bar, kind) in enumerate(row.bars):
        y = top + place * BAR
        middle, low, high = (bar[name] * scale for name in ("median", "low", "high"))
        marks.append(
            f'<rect class="{kind}" x="{LABEL}" y="{y:.1f}" width="{max(middle, 1.5):.1f}" height="{BAR - 2}" rx="2.5"/>'
        )
        if high - low > 1:
            at = y + BAR / 2 - 1
            marks.append(
                f'<path class="spread" d="M{LABEL + low:.1f} {at:.1f}H{LABEL + high:.1f}'
                f'M{LABEL + low:.1f} {at - 3:.1f}v6M{LABEL + high:.1f} {at - 3:.1f}v6"/>'
            )
        caption = f"{number(bar['median'])}{unit(measure)}" + (f"  {row.note}" if row.note and place == 0 else "")
        marks.append(
            _text(LABEL + max(middle, high) + 9, y + BAR - 4, caption, "value" if kind == "ours" else "value faint")
        )
    return marks


def _legend(names: tuple[str, str] | None) -> list[str]:
    if names is None:
        return []
    ours, reference = names
    beside = LABEL + 40 + 7 * len(ours)
    return [
        f'<rect class="ours" x="{LABEL}" y="66" width="11" height="11" rx="2.5"/>',
        _text(LABEL + 17, 76, ours, "faint"),
        f'<rect class="reference" x="{beside}" y="66" width="11" height="11" rx="2.5"/>',
        _text(beside + 17, 76, reference, "faint"),
    ]


def _line(kind: str, x: float, top: float, bottom: float) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    more = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'
