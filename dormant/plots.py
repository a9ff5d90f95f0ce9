"""Plots of dormant neurons in matplotlib: neuron scores over time, and the dormant fraction of each layer over time.

`plot_scores` and `plot_layers` draw on `axes`, or on the axes of a new figure, and return the axes. `Report.plot` draws
a report, and `dormant.lab.drawing.plot_runs` compares run folders. The name of a line is written to the right of its
end, outside of the axes. Figures of your own need `layout="constrained"` to make room for it. Matplotlib is an optional
package: `pip install 'dormant[cli]'`.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

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
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # for readers who see the colours as greys
MOST_LINES = 6  # of one pair of axes; more cannot be told apart
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
NAMES = "names of lines"
LONGEST_NAME = 24  # characters in a line of a name; a wider name takes too much of the width of its axes
LEADER = {"arrowstyle": "-", "linewidth": 1.2, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)}
FAR = {"linestyle": ":", "linewidth": 0.8}  # a leader that crosses the axes must not look like a curve
HIGHEST = 3.0  # scores above this all have the same shade; the mean score of a layer is 1

Steps = Int[np.ndarray, " points"] | Float[np.ndarray, " points"]


def new_axes(width: float = 5.5, height: float = 3.8) -> Axes:
    """Returns the axes of a new figure. `width` and `height` are in inches."""
    with mpl.rc_context(STYLE):
        return Figure(figsize=(width, height), dpi=130, layout="constrained").subplots()


class End(NamedTuple):
    """The end of a line, and the name and colour of the line."""

    name: str
    x: float
    y: float
    colour: str


def marked(number: int, points: int) -> dict[str, Any]:
    """Returns the marker of the line with this number, about eight times on the line. It differs from line to line."""
    every = max(1, points // 8)
    first = number % len(MARKERS) * every // len(MARKERS)  # shifted, so that markers of equal lines do not overlap
    return {"marker": MARKERS[number % len(MARKERS)], "markersize": 4.5, "markevery": (first, every)}


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
    numbers = range(len(fractions))
    for (layer, values), colour, line, number in zip(fractions.items(), cycle(COLOURS), cycle(LINES), numbers):
        if np.shape(values) != steps.shape:
            raise ValueError(f"expected {len(steps)} fractions of {layer!r}, one per step, got {np.shape(values)}.")
        axes.plot(steps, values, line, color=colour, linewidth=1.8, label=layer, **marked(number, len(steps)))
    finish(axes, "Dormant neurons by layer", "steps", "dormant fraction", percent=True)
    return axes


@mpl.rc_context(STYLE)
def finish(axes: Axes, title: str, x_name: str, quantity: str, percent: bool = False) -> None:
    """Sets title, axis labels, tick formats and grid, and names the lines. The y axis starts at zero."""
    axes.set_title(title)
    axes.set_ylabel(quantity)
    axes.set_xlabel(x_name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    name_lines(axes)


def name_lines(axes: Axes, gap: float = 0.085) -> None:
    """Writes the name of each labelled line to the right of its end. Call it after the limits of the axes are set."""
    ends = []
    for line in axes.lines:
        points = np.asarray(line.get_xydata(), dtype=float)
        measured = points[np.isfinite(points).all(axis=1)]
        if len(measured) and not str(line.get_label()).startswith("_"):
            x, y = measured[-1].tolist()
            ends.append(End(str(line.get_label()), x, y, str(line.get_color())))
    name_ends(axes, ends, gap)


def name_ends(axes: Axes, ends: Sequence[End], gap: float = 0.085) -> None:
    """Writes names to the right of the axes, each joined to the end of its line.

    Long names are broken into lines. Lines of names keep a distance of `gap`, as a fraction of the height of the axes.
    Removes the names of an earlier call.
    """
    for old in [text for text in axes.texts if text.get_gid() == NAMES]:
        old.remove()
    points = np.array([(end.x, end.y) for end in ends]).reshape(-1, 2)
    places = axes.transAxes.inverted().transform(axes.transData.transform(points))  # as fractions of the axes
    names = [textwrap.fill(end.name, LONGEST_NAME) for end in ends]
    longest = max((name.count("\n") + 1 for name in names), default=1)
    heights = spread(places[:, 1].tolist(), gap * longest)
    for end, name, height, right in zip(ends, names, heights, places[:, 0], strict=True):
        axes.annotate(
            name,
            xy=(end.x, end.y),
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            annotation_clip=False,
            gid=NAMES,
            arrowprops={**LEADER, **(FAR if right < 0.9 else {}), "color": end.colour},
        )


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
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the curves, not over them


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


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Spreads heights within [0, 1], so that neighbours are at least `gap` apart. Keeps their order.

    Moves each height as little as possible.

    >>> [round(height, 2) for height in spread([0.5, 0.52, 0.9], 0.1)]
    [0.46, 0.56, 0.9]
    """
    order = np.argsort(heights, kind="stable")
    ladder = gap * np.arange(len(heights))
    wanted = np.asarray(heights, dtype=float)[order] - ladder
    # Isotonic least squares: pools neighbours that are in the wrong order.
    pools: list[list[float]] = []
    for height in wanted.tolist():
        pools.append([height])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    placed = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) if pools else np.empty(0)
    room = max(0.0, 1.0 - gap * (len(heights) - 1))
    spaced = np.empty(len(heights))
    spaced[order] = np.clip(placed, 0, room) + ladder
    return spaced.tolist()
