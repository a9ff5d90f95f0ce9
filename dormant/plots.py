"""Plots of dormant neurons in matplotlib: neuron scores over time, and the dormant fraction of each layer over time.

`plot_scores` and `plot_layers` draw on `axes`, or on the axes of a new figure, and return the axes. `Report.plot` draws
a report, and `dormant.lab.drawing.plot_runs` compares run folders. Matplotlib is an optional package:
`pip install 'dormant[cli]'`.
"""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .hints import extra_of
from .settings import checked_tau

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, PercentFormatter
except ModuleNotFoundError as error:
    extra = extra_of("matplotlib") or "cli"
    raise ModuleNotFoundError(f"matplotlib is not installed; run: pip install 'dormant[{extra}]'") from error

__all__ = ["plot_layers", "plot_scores"]

# The palette of Okabe and Ito for colour-blind readers. We leave out its yellow, which is too pale on white.
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
# Dormant neurons are purple. Other neurons are grey, darker for higher scores.
SHADES = mpl.colormaps["Greys"].with_extremes(under=DORMANT)
HIGHEST = 3.0  # scores above this all have the same shade; the mean score of a layer is 1

Steps = Int[np.ndarray, " points"] | Float[np.ndarray, " points"]


def new_axes(width: float = 5.5, height: float = 3.8) -> Axes:
    """Returns the axes of a new figure. `width` and `height` are in inches."""
    with mpl.rc_context(STYLE):
        return Figure(figsize=(width, height), dpi=130, layout="constrained").subplots()


@mpl.rc_context(STYLE)
def plot_scores(
    steps: Steps, scores: Float[np.ndarray, "_ neurons"], tau: float = 0.1, axes: Axes | None = None
) -> Axes:
    """Draws the scores of a layer's neurons over time and returns the axes. Dormant neurons are purple.

    `scores` has one row per element of `steps`, which may be in any unit. The neurons that were dormant most often are
    at the bottom. To draw a colour bar, pass `axes.collections[0]` to `Figure.colorbar`.

    >>> axes = plot_scores(np.arange(3), np.array([[1.0, 1.0], [0.05, 1.95], [0.0, 2.0]]))
    >>> axes.get_title(loc="left")
    '2 neurons, 50 % dormant at the end'

    Raises ValueError if `scores` does not have one row per step, or if tau is negative.
    """
    checked_tau(tau)
    steps, scores = np.asarray(steps), np.asarray(scores, dtype=float)
    if scores.ndim != 2 or steps.shape != scores.shape[:1] or not scores.size:
        raise ValueError(f"expected one row of scores per step, got {scores.shape} and steps of shape {steps.shape}.")
    axes = new_axes() if axes is None else axes
    scale = Normalize(vmin=np.nextafter(tau, 1), vmax=HIGHEST)
    rows = scores.T[by_dormancy(scores.T, tau)]
    axes.pcolormesh(steps, np.arange(len(rows)), rows, cmap=SHADES, norm=scale, shading="nearest", rasterized=True)
    axes.set_title(f"{len(rows)} neurons, {np.mean(scores[-1] <= tau):.0%} dormant at the end".replace("%", " %"))
    axes.set_xlabel("steps")
    axes.set_ylabel("neurons")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_yticks([])
    return axes


@mpl.rc_context(STYLE)
def plot_layers(steps: Steps, fractions: Mapping[str, Float[np.ndarray, " _"]], axes: Axes | None = None) -> Axes:
    """Draws the dormant fraction of each layer over time, and returns the axes.

    >>> axes = plot_layers(np.array([0, 10]), {"conv": np.array([0.0, 0.1]), "dense": np.array([0.0, 0.4])})
    >>> [line.get_label() for line in axes.lines]
    ['conv', 'dense']

    Raises ValueError if a layer does not have one fraction per step.
    """
    steps = np.asarray(steps)
    axes = new_axes() if axes is None else axes
    for (layer, values), colour, line in zip(fractions.items(), cycle(COLOURS), cycle(LINES)):
        if np.shape(values) != steps.shape:
            raise ValueError(f"expected {len(steps)} fractions of {layer!r}, one per step, got {np.shape(values)}.")
        axes.plot(steps, values, line, color=colour, linewidth=2.2, label=layer)
    finish(axes, "Dormant neurons by layer", "steps", "dormant fraction", percent=True)
    return axes


@mpl.rc_context(STYLE)
def finish(axes: Axes, title: str, x_name: str, quantity: str, percent: bool = False) -> None:
    """Sets the title, the axis labels, the tick formats, the grid and the legend. The y axis starts at zero."""
    axes.set_title(title)
    axes.set_ylabel(quantity)
    axes.set_xlabel(x_name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best")


@mpl.rc_context(STYLE)
def draw_shares(axes: Axes, shares: Mapping[str, tuple[float, float, float]], tau: float) -> None:
    """Draws the dormant fraction of each layer as a bar, with its interval.

    `shares` maps each layer's name to its dormant fraction and the lower and upper bound of the interval. The last
    entry stands for all layers together. Its bar is grey.
    """
    heights = np.arange(len(shares))
    values = [share for share, _, _ in shares.values()]
    axes.barh(heights, values, color=[DORMANT] * (len(shares) - 1) + ["#555555"], height=0.7)
    for height, (_, *bounds) in zip(heights, shares.values(), strict=True):
        axes.plot(bounds, (height, height), color="black", linewidth=1.5, marker="|")
    axes.set_yticks(heights, list(shares))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(f"Dormant neurons (τ = {tau:g}), 95 % interval")


@mpl.rc_context(STYLE)
def draw_sorted_scores(axes: Axes, scores: Mapping[str, Float[np.ndarray, " neurons"]], tau: float) -> None:
    """Draws one curve per layer: its scores in ascending order. A dotted line shows τ."""
    for number, (layer, values) in enumerate(scores.items()):
        ranks = (np.arange(len(values)) + 0.5) / len(values)
        style = LINES[number // len(COLOURS) % len(LINES)]
        axes.plot(ranks, np.sort(values), style, color=COLOURS[number % len(COLOURS)], label=layer)
    axes.axhline(tau, color="black", linewidth=0.8, linestyle=":")
    axes.set_yscale("symlog", linthresh=max(tau, 0.01))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the layer's neurons")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Neuron scores")
    axes.legend(fontsize=8)


def report_axes(layers: int) -> tuple[Axes, Axes]:
    """Returns the two axes of a new figure for a report. The height of the figure grows with the number of layers."""
    with mpl.rc_context(STYLE):
        shares, scores = Figure((11.0, 1.8 + 0.35 * max(6, layers)), dpi=130, layout="constrained").subplots(1, 2)
    return shares, scores


def by_dormancy(scores: Float[np.ndarray, "neurons points"], tau: float) -> Int[np.ndarray, " neurons"]:
    """Returns the indices of the neurons, sorted by how often they were dormant, most often first.

    Neurons that were dormant equally often are sorted by their last score, lowest first.

    >>> by_dormancy(np.array([[0.0, 2.0], [0.0, 0.0], [1.0, 1.0]]), tau=0.1).tolist()
    [1, 0, 2]
    """
    return np.lexsort((scores[:, -1], -(scores <= tau).sum(axis=1)))
