"""Draws what was measured into docs/benchmarks, one message a plot."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.plots.messages import PLOTS
from bench.plots.svg import svg

__all__ = ["PLOTS", "draw"]


def draw(outcomes: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Write one file for every plot with figures; delete plots without."""
    for plot in PLOTS:
        path = folder / f"{plot.name}.svg"
        if drawn := plot.made_from(outcomes.get(plot.bench, {})):
            path.write_text(svg(drawn))
            yield path
        else:
            path.unlink(missing_ok=True)
