"""The demo's picture of some runs, and the picture of a network's report."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.ticker import EngFormatter, PercentFormatter

from dormant import Report
from dormant.lab.drawing import COLOURS, DORMANT, LINES, STYLE
from dormant.lab.drawing.score_maps import by_dormancy
from dormant.lab.runs.folder import RunFolder, curve, layers


def demo_picture(arms: Mapping[str, RunFolder], tau: float, title: str, caption: str) -> Figure:
    """Four panels that compare arms: return, dormant fraction, dormant fraction per layer, and neuron scores.

    Thin lines are seeds and thick lines their means. The neuron scores are those of the last layer in the first seed.
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
    # Not every log point has an evaluation.
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
    """Two panels: the dormant fraction per layer with its interval, and each layer's scores in ascending order."""
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
