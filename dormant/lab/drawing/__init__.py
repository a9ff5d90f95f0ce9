"""Draws the pictures of the demo, of a report and of several runs, and the maps of neuron scores on the page."""

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from PIL import Image

from dormant import Report
from dormant.lab.runs.folder import Curve, RunFolder, curve, layers, rows
from dormant.plots import (
    COLOURS,
    DORMANT,
    HIGHEST,
    LINES,
    MOST_LINES,
    STYLE,
    by_dormancy,
    finish,
    marked,
    name_lines,
    new_axes,
    plot_scores,
)


def demo_picture(
    arms: Mapping[str, RunFolder], tau: float, title: str, caption: str, returns: Mapping[str, Curve] | None = None
) -> Figure:
    """Draws four panels that compare arms: return, dormant fraction, dormant fraction per layer, and neuron scores.

    `returns` has the returns of each arm's training episodes. If it is None, the panel shows evaluation returns.

    Thin lines are single seeds, and thick lines are means over seeds. The panel of neuron scores shows the last layer
    of the first seed.
    """
    with mpl.rc_context(STYLE):
        figure = _titled(Figure((9.0, 6.8), dpi=130, layout="constrained"), title, caption)
        grid = figure.add_gridspec(2, 2)
        top, pooled = (figure.add_subplot(grid[0, column]) for column in (0, 1))
        if returns is None:
            _metric_panel(top, arms, "eval_return", "Return", "return of evaluation episodes")
        else:
            for number, (arm, measured) in enumerate(returns.items()):
                _draw(top, *measured, arm, number)
            finish(top, "Return", "agent steps", "return of training episodes")
        pooled_title = f"Dormant neurons, all layers (τ = {tau:g})"
        _metric_panel(pooled, arms, f"dormant/{tau:g}/all", pooled_title, "dormant fraction", percent=True)
        _layer_panels(grid[1, 0].subgridspec(len(arms), 1), arms, tau)
        _score_panel(figure, grid[1, 1].subgridspec(len(arms), 1), arms, tau)
    return figure


def two_panels(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, "seeds points"]]], title: str, x_name: str, caption: str
) -> Figure:
    """Draws two panels of fractions, with one curve per arm. The x values of a curve are 1, 2, 3 and so on.

    `panels` maps the title of a panel to its arms, and each arm to its curve.

    Thin lines are single seeds, and thick lines are means over seeds.
    """
    with mpl.rc_context(STYLE):
        figure = _titled(Figure((9.0, 3.7), dpi=130, layout="constrained"), title, caption)
        for axes, (name, arms) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            for number, (arm, values) in enumerate(arms.items()):
                _draw(axes, np.arange(1, values.shape[1] + 1), values, arm, number)
            finish(axes, name, x_name, "", percent=True)
            axes.set_ylim(0, 1)
            name_lines(axes)
    return figure


def _titled(figure: Figure, title: str, caption: str) -> Figure:
    with mpl.rc_context(STYLE):
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(caption, fontsize=8, color="#555555", x=0.01, ha="left")
    return figure


def _metric_panel(
    axes: Axes, arms: Mapping[str, RunFolder], metric: str, title: str, quantity: str, percent: bool = False
) -> None:
    for number, (arm, folder) in enumerate(arms.items()):
        _draw(axes, *curve(folder, metric), arm, number)
    finish(axes, title, "agent steps", quantity, percent)


def _layer_panels(grid: GridSpecFromSubplotSpec, arms: Mapping[str, RunFolder], tau: float) -> None:
    """Draws one panel per arm, with the mean over seeds of the layers that have the most dormant neurons at the end."""
    panels = grid.subplots(sharex=True, sharey=True, squeeze=False)[:, 0]
    for (axes, (arm, folder)), colour in zip(zip(panels, arms.items(), strict=True), cycle(COLOURS)):
        means = {name: curve(folder, f"dormant/{tau:g}/{name}") for name in reversed(layers(folder))}
        most = sorted(means, key=lambda name: -float(np.nanmean(means[name].values[:, -1])))[:MOST_LINES]
        for number, name in enumerate(name for name in means if name in most):
            _draw(axes, *means[name], name, number, colour, LINES[number % len(LINES)], seeds=False)
        axes.set_title("")
        finish(axes, "", "", f"{arm}\ndormant", percent=True)
    for axes in panels:  # after all lines are drawn, because the panels share their axis limits
        name_lines(axes, gap=0.085 * len(arms))
    some = f", {MOST_LINES} with most" if len(layers(next(iter(arms.values())))) > MOST_LINES else ""
    panels[0].set_title(f"Dormant neurons by layer (τ = {tau:g}{some})")
    panels[-1].set_xlabel("agent steps")


def _draw(
    axes: Axes,
    steps: Int[np.ndarray, " points"],
    values: Float[np.ndarray, "seeds points"],
    label: str,
    number: int,
    colour: str = "",
    line: str = "-",
    seeds: bool = True,
) -> None:
    """Draws the mean over seeds, and thin lines of single seeds. `number` decides the marker and the default colour."""
    colour = colour or COLOURS[number % len(COLOURS)]
    # Skips points without a value, because some log points have no evaluation.
    measured = ~np.isnan(values).all(axis=0)
    for seed in values[:, measured] if seeds and len(values) > 1 else ():
        axes.plot(steps[measured], seed, color=colour, linewidth=0.8, alpha=0.4)
    mean = np.nanmean(values[:, measured], axis=0)
    axes.plot(steps[measured], mean, line, color=colour, linewidth=1.8, label=label, **marked(number, len(mean)))


def _score_panel(figure: Figure, grid: GridSpecFromSubplotSpec, arms: Mapping[str, RunFolder], tau: float) -> None:
    layer = layers(next(iter(arms.values())))[-1]
    rows = grid.subplots(sharex=True, squeeze=False)[:, 0]
    for axes, (arm, folder) in zip(rows, arms.items(), strict=True):
        steps, values = curve(folder, f"scores/{layer}")
        plot_scores(steps, values[0], tau, axes)
        axes.set_title("")
        axes.set_xlabel("")
        axes.set_ylabel(f"{arm}\nneurons")
    rows[0].set_title(f"Neuron scores of “{layer}” (purple: dormant)")
    rows[-1].set_xlabel("agent steps")
    bar = figure.colorbar(rows[0].collections[0], ax=list(rows), extend="both", pad=0.02)
    bar.set_label("score (layer mean = 1)")


def plot_runs(runs: Mapping[str, Path | str], metric: str = "dormant/0.1/all", axes: Axes | None = None) -> Axes:
    """Draws one metric of several run folders over agent steps, and returns the axes.

    `runs` maps labels to folders. Thin lines are single seeds, and thick lines are means over seeds.

    Raises ValueError if a folder is not a run, KeyError if a run does not have the metric, and RunRefused if a run is
    damaged.
    """
    axes = new_axes() if axes is None else axes
    for number, (label, path) in enumerate(runs.items()):
        folder = RunFolder(Path(path))
        if not folder.metrics.is_file():
            raise ValueError(f"{path} is not a run folder: it has no {folder.metrics.name}.")
        _draw(axes, *curve(folder, metric), label, number)
    finish(axes, metric, "agent steps", metric, percent=metric.startswith("dormant/"))
    return axes


def report_picture(report: Report, title: str) -> Figure:
    """Draws the dormant fraction of each layer with its interval, and the scores of each layer in ascending order."""
    shares, _ = report.plot()
    assert isinstance(shares.figure, Figure)
    return _titled(shares.figure, title, report.conditions)


COLUMNS, ROWS = 80, 256
NOT_A_NUMBER = 15
# Dormant neurons are purple, active neurons grey (darker for higher scores), and NaN is yellow.
PALETTE = [
    tuple(bytes.fromhex(DORMANT[1:])),
    *((grey, grey, grey) for grey in np.linspace(244, 30, 14).astype(int)),
    (230, 190, 0),
]


class ScoreMap(NamedTuple):
    """A picture of one layer's neuron scores, for one seed of a run. `image` is a PNG file as a data URL."""

    layer: str
    seed: int
    neurons: int
    agent_steps: int
    dormant: float  # the dormant fraction at the last log point
    image: str


def score_maps(run: RunFolder, tau: float) -> Iterator[ScoreMap]:
    """Yields one map per layer of the run's first seed, from input to output. Yields nothing if the run has no scores.

    Raises RunRefused if a line of the run's files is damaged.
    """
    table = list(rows(run.scores))
    first = [row for row in table if row["seed"] == table[0]["seed"]]
    for name in [name for name in (first[0] if first else {}) if name.startswith("scores/")]:
        points = [row for row in first if name in row]
        scores = np.array([row[name] for row in points], dtype=float).T
        dormant = float((scores[:, -1] <= tau).mean())
        steps = int(points[-1]["agent_steps"])
        image = address(levels(scores, tau))
        yield ScoreMap(name.removeprefix("scores/"), first[0]["seed"], len(scores), steps, dormant, image)


def levels(scores: Float[np.ndarray, "neurons points"], tau: float) -> UInt8[np.ndarray, "rows columns"]:
    """Sorts the neurons by dormancy, and maps their scores to sixteen levels.

    Level 0 is dormant, levels 1 to 14 increase with the score, and 15 is NaN. From wide layers and long runs, only
    evenly spaced neurons and log points are taken.

    >>> levels(np.array([[0.0, 1.0], [3.0, 9.0], [1.0, np.nan]]), tau=0.1).tolist()
    [[0, 5], [5, 15], [14, 14]]
    """
    order = by_dormancy(np.nan_to_num(scores, nan=1.0), tau)
    shown = scores[order][np.ix_(_picked(len(scores), ROWS), _picked(scores.shape[1], COLUMNS))]
    alive = 1 + np.round(13 * np.clip((shown - tau) / (HIGHEST - tau), 0, 1))
    found = np.where(shown <= tau, 0, np.nan_to_num(alive))
    return np.where(np.isnan(shown), NOT_A_NUMBER, found).astype(np.uint8)


def address(picture: UInt8[np.ndarray, "rows columns"]) -> str:
    """Encodes a picture of sixteen levels as a PNG file in a data URL."""
    image = Image.fromarray(picture, mode="P")
    image.putpalette([part for colour in PALETTE for part in colour])
    file = io.BytesIO()
    image.save(file, "png", optimize=True, bits=4)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _picked(count: int, most: int) -> Int[np.ndarray, " picked"]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
