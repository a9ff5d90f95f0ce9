"""The paper's curves, read from its plots, as plots that are drawn next to ours."""

import csv
import math
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import numpy as np

from dormant.lab.design import Experiment, Scale
from dormant.lab.drawing.curves import Line, Pen, Plot, pens

DOMAINS = {"fig03": "CIFAR-10", "fig14": "MuJoCo"}  # all others are Atari
QUANTITIES = {
    "dormant_percent": "dormant neurons",
    "overlap_percent": "overlap of dormant neurons",
    "iqm_human_normalised": "human-normalised return, IQM",
}
METRICS = {"dormant_percent": "dormant/", "overlap_percent": "overlap"}  # prefix of our metrics; all others are returns


def published(experiment: Experiment, scale: Scale) -> tuple[Plot, ...]:
    """The paper's plots of the panels that the experiment names. A line has the pen of our matching arm.

    Raises KeyError for a panel that is not in published.csv.
    """
    rows = [row for row in _table() if row["figure"] == experiment.name]
    names = {name.strip() for name in experiment.published}
    missing = names - {row["panel"] for row in rows}
    if missing:
        known = ", ".join(sorted({row["panel"] for row in rows})) or "none"
        raise KeyError(f"published.csv has no panel {sorted(missing)[0]!r} of {experiment.name}; it has {known}.")
    wanted = [row for row in rows if row["panel"] in names]
    drawn = pens([arm.name for arm in experiment.designs[scale].arms])
    return tuple(
        _plot(experiment.name, metric, x_name, list(group), drawn)
        for (metric, x_name, _), group in groupby(sorted(wanted, key=_kind), key=_kind)
    )


def shows(plot: Plot, metric: str) -> bool:
    """Whether a plot of the paper shows the quantity of one of our metrics."""
    return metric.startswith(METRICS.get(plot.metric, ("eval_return", "train_return")))


@cache
def _table() -> list[dict[str, Any]]:
    with (files("dormant.lab.drawing") / "published.csv").open() as stream:
        return list(csv.DictReader(stream))


def _kind(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["metric"], row["x_name"], row["panel"].split()[0]  # a panel starts with its game


def _plot(figure: str, metric: str, x_name: str, rows: list[dict[str, Any]], drawn: dict[str, Pen]) -> Plot:
    percent = metric.endswith("_percent")
    curves = {}
    for row in rows:
        curves.setdefault((row["panel"], row["arm"]), []).append(row)
    shared = set.intersection(*(set(panel.split()) for panel, _ in curves))
    place = ", ".join(_plain(word) for word in rows[0]["panel"].split() if word in shared)
    lines = tuple(_lines(curves, shared, drawn, 0.01 if percent else 1.0))
    quantity = QUANTITIES.get(metric, metric)
    return Plot(
        f"paper ({DOMAINS.get(figure, 'Atari')})",
        place or "several settings",
        metric,
        x_name,
        quantity,
        percent,
        lines,
        published=True,
    )


def _lines(
    curves: dict[tuple[str, str], list[dict[str, Any]]], shared: set[str], drawn: dict[str, Pen], unit: float
) -> Iterator[Line]:
    for number, ((panel, arm), rows) in enumerate(curves.items()):
        ours = _counterpart([arm, *panel.split()], list(drawn))
        words = [_plain(word) for word in (arm, *panel.split()) if word not in shared]
        seeds = np.empty((0, len(rows)))
        pen = drawn[ours] if ours else Pen(number + len(drawn), 0)
        middle, low, high = (unit * _column(rows, name) for name in ("value", "ci_low", "ci_high"))
        yield Line(ours or ", ".join(words), pen.colour, pen.dash, _column(rows, "x"), middle, low, high, seeds)


def _plain(word: str) -> str:
    known = {"atari17": "17 games", "atari100k": "26 games", "nature": "Nature CNN", "impala": "IMPALA ResNet"}
    return known.get(word, word.replace("_", " ").replace("=", " = ").replace("tau", "τ"))


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([float(row[name]) if row[name] else math.nan for row in rows])


def _counterpart(words: Sequence[str], labels: Sequence[str]) -> str | None:
    """The one of our labels with most of the paper's words and no other words, None if there is none.

    >>> _counterpart(["redo", "DemonAttack", "replay_ratio=1"], ["DQN, RR 1", "ReDo, RR 1", "ReDo, RR 2"])
    'ReDo, RR 1'
    """
    paper = {word.lower() for word in words}
    fitting = [label for label in labels if _words(label) <= paper]
    return max(fitting, key=lambda label: len(_words(label)), default=None)


def _words(label: str) -> set[str]:
    parts = [part.strip().lower() for part in label.split(",")]
    return {part.replace("rr ", "replay_ratio=").replace(" ", "_") for part in parts}
