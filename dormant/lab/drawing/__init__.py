"""Pictures of the demo, of a report, and of neuron scores over time, and the colours of all pictures."""

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.ticker import EngFormatter, PercentFormatter
from PIL import Image

from dormant import Report
from dormant.lab.runs.folder import RunFolder, curve, layers, rows

# Okabe and Ito's palette for colour-blind readers. Leaves out yellow, because it is too pale on white.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
DORMANT = "#AA3377"
LINES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def demo_picture(arms: Mapping[str, RunFolder], tau: float, title: str, caption: str) -> Figure:
    """Draws four panels that compare arms: return, dormant fraction, dormant fraction per layer, and neuron scores.

    Thin lines are single seeds, and thick lines are means over seeds. The neuron scores are those of the last layer in
    the first seed.
    """
    with mpl.rc_context(STYLE):
        figure = _titled((11.0, 7.6), title, caption)
        grid = figure.add_gridspec(2, 2)
        returns, pooled, by_layer = (figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, 0)))
        _metric_panel(returns, arms, "eval_return", "Return", "return of evaluation episodes")
        pooled_title = f"Dormant neurons, all layers (τ = {tau:g})"
        _metric_panel(pooled, arms, f"dormant/{tau:g}/all", pooled_title, "dormant fraction", percent=True)
        _layer_panel(by_layer, arms, tau)
        _score_panel(figure, grid[1, 1].subgridspec(len(arms), 1), arms, tau)
    return figure


def _titled(size: tuple[float, float], title: str, caption: str) -> Figure:
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(caption, fontsize=8, color="#555555", x=0.01, ha="left")
    return figure


def _metric_panel(
    axes: Axes, arms: Mapping[str, RunFolder], metric: str, title: str, quantity: str, percent: bool = False
) -> None:
    for (arm, folder), colour in zip(arms.items(), cycle(COLOURS)):
        _lines(axes, folder, metric, colour, arm)
    _finish(axes, title, quantity, percent)


def _layer_panel(axes: Axes, arms: Mapping[str, RunFolder], tau: float) -> None:
    for (arm, folder), colour in zip(arms.items(), cycle(COLOURS)):
        # The last layer has the most dormant neurons, so it gets the solid line.
        for layer, line in zip(reversed(layers(folder)), cycle(LINES)):
            _lines(axes, folder, f"dormant/{tau:g}/{layer}", colour, f"{arm}, {layer}", line, seeds=False)
    _finish(axes, f"Dormant neurons by layer (τ = {tau:g})", "dormant fraction, mean of seeds", percent=True)


def _lines(
    axes: Axes, folder: RunFolder, name: str, colour: str, label: str, line: str = "-", seeds: bool = True
) -> None:
    steps, values = curve(folder, name)
    # Skips log points without a value, because some log points have no evaluation.
    measured = ~np.isnan(values).all(axis=0)
    for seed in values[:, measured] if seeds else ():
        axes.plot(steps[measured], seed, color=colour, linewidth=0.8, alpha=0.4)
    mean = np.nanmean(values[:, measured], axis=0)
    axes.plot(steps[measured], mean, line, color=colour, linewidth=2.2, label=label)


def _finish(axes: Axes, title: str, quantity: str, percent: bool = False) -> None:
    axes.set_title(title)
    axes.set_ylabel(quantity)
    axes.set_xlabel("agent steps")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="best")


def _score_panel(figure: Figure, grid: GridSpecFromSubplotSpec, arms: Mapping[str, RunFolder], tau: float) -> None:
    layer = layers(next(iter(arms.values())))[-1]
    rows = grid.subplots(sharex=True, squeeze=False)[:, 0]
    # Dormant neurons are purple. Other neurons are grey, darker for higher scores.
    shades = mpl.colormaps["Greys"].with_extremes(under=DORMANT)
    scale = Normalize(vmin=np.nextafter(tau, 1), vmax=3)
    for axes, (arm, folder) in zip(rows, arms.items(), strict=True):
        _score_map(axes, folder, layer, shades, scale, tau)
        axes.set_ylabel(f"{arm}\nneurons")
    rows[0].set_title(f"Neuron scores of “{layer}” (purple: dormant)")
    rows[-1].set_xlabel("agent steps")
    bar = figure.colorbar(ScalarMappable(scale, shades), ax=list(rows), extend="both", pad=0.02)
    bar.set_label("score (layer mean = 1)")


def _score_map(axes: Axes, folder: RunFolder, layer: str, shades: Colormap, scale: Normalize, tau: float) -> None:
    steps, values = curve(folder, f"scores/{layer}")
    first = values[0].T
    order = by_dormancy(first, tau)
    axes.pcolormesh(
        steps, np.arange(len(order)), first[order], cmap=shades, norm=scale, shading="nearest", rasterized=True
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_yticks([])


def report_picture(report: Report, title: str) -> Figure:
    """Draws the dormant fraction per layer with its interval, and each layer's scores in ascending order."""
    with mpl.rc_context(STYLE):
        figure = _titled((11.0, 1.8 + 0.35 * max(6, len(report.layers))), title, report.conditions)
        shares, scores = figure.subplots(1, 2)
        _share_panel(shares, report)
        _scores_by_rank(scores, report)
    return figure


def _share_panel(axes: Axes, report: Report) -> None:
    rows = [*report.layers, report.all]
    heights = np.arange(len(rows))
    axes.barh(heights, [row.share for row in rows], color=[DORMANT] * len(report.layers) + ["#555555"], height=0.7)
    for height, row in zip(heights, rows, strict=True):
        axes.plot(
            [float(bound) for bound in row.interval[1:]], (height, height), color="black", linewidth=1.5, marker="|"
        )
    axes.set_yticks(heights, [f"{row.name} ({row.neurons})" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(f"Dormant neurons (τ = {report.tau:g}), 95 % interval")


def _scores_by_rank(axes: Axes, report: Report) -> None:
    for number, layer in enumerate(report.layers):
        ranks = (np.arange(layer.neurons) + 0.5) / layer.neurons
        style = LINES[number // len(COLOURS) % len(LINES)]
        axes.plot(ranks, np.sort(layer.scores), style, color=COLOURS[number % len(COLOURS)], label=layer.name)
    axes.axhline(report.tau, color="black", linewidth=0.8, linestyle=":")
    axes.set_yscale("symlog", linthresh=max(report.tau, 0.01))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the layer's neurons")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Neuron scores")
    axes.legend(fontsize=8)


COLUMNS, ROWS = 80, 256
NOT_A_NUMBER = 15
HIGHEST = 3.0  # all scores above this have the same shade; the mean score of a layer is 1
# Dormant neurons are purple, active neurons grey (darker for higher scores), and NaN is yellow.
PALETTE = [
    tuple(bytes.fromhex(DORMANT[1:])),
    *((grey, grey, grey) for grey in np.linspace(244, 30, 14).astype(int)),
    (230, 190, 0),
]


class ScoreMap(NamedTuple):
    """The scores of one layer for one seed of a run. `image` is a PNG file as a data URL."""

    layer: str
    seed: int
    neurons: int
    agent_steps: int
    dormant: float  # fraction at the last log point
    image: str


def score_maps(run: RunFolder, tau: float) -> Iterator[ScoreMap]:
    """Yields a map per layer of the run's first seed, from input to output. Yields nothing for a run without scores.

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


def by_dormancy(scores: Float[np.ndarray, "neurons points"], tau: float) -> Int[np.ndarray, " neurons"]:
    """The order of neurons by the number of log points at which they were dormant, then by their last score.

    >>> by_dormancy(np.array([[0.0, 2.0], [0.0, 0.0], [1.0, 1.0]]), tau=0.1).tolist()
    [1, 0, 2]
    """
    return np.lexsort((scores[:, -1], -(scores <= tau).sum(axis=1)))


def levels(scores: Float[np.ndarray, "neurons points"], tau: float) -> UInt8[np.ndarray, "rows columns"]:
    """Sorted scores as sixteen levels: 0 for dormant, 1 to 14 increasing with the score, 15 for NaN.

    Wide layers and long runs are thinned to evenly spaced neurons and log points.

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
