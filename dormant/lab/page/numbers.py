"""The numbers that the page's script draws, as small as its pictures allow."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dormant.lab.page.chapters import Chapter
from dormant.lab.series import ALL, Line, Plot

MOST_SEEDS = 5  # the script draws no more


def numbers(chapters: Sequence[Chapter], points: int) -> str:
    """All plots as JSON that is safe inside a script element; of long curves every so many points."""
    figures = [
        {"name": each.experiment.name, "all": ALL, "plots": [_plot(plot, points) for plot in each.plots]}
        for each in chapters
    ]
    return json.dumps(figures, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")


def _plot(plot: Plot, points: int) -> dict[str, Any]:
    names = ("title", "place", "x_name", "quantity", "percent", "published")
    return {name: getattr(plot, name) for name in names} | {"lines": [_line(line, points) for line in plot.lines]}


def _line(line: Line, points: int) -> dict[str, Any]:
    picked = np.unique(np.linspace(0, len(line.x) - 1, min(len(line.x), points)).round().astype(int))
    curves = {name: _rounded(getattr(line, name)[picked]) for name in ("x", "middle", "low", "high")}
    seeds = [_rounded(seed[picked]) for seed in line.seeds] if 1 < len(line.seeds) <= MOST_SEEDS else []
    return {"label": line.label, "colour": line.colour, "dash": line.dash, **curves, "seeds": seeds}


def _rounded(values: np.ndarray) -> list[float | int | None]:
    return [_short(value) if np.isfinite(value) else None for value in values.tolist()]


def _short(value: float) -> float | int:
    rounded = float(f"{value:.4g}") if abs(value) < 1000 else round(value)
    return int(rounded) if rounded == int(rounded) else rounded
