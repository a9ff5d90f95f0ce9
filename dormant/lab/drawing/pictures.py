"""The picture of the demo, drawn from run folders and from nothing else."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.ticker import EngFormatter, PercentFormatter

from dormant import Report
from dormant.lab.drawing.score_maps import by_dormancy
from dormant.lab.runs.folder import RunFolder, curve, layers

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
DORMANT = "#AA3377"
LINES = ("-", "--", ":", "-.")


def demo_picture(arms: Mapping[str, RunFolder], tau: float, title: str, caption: str) -> Figure:
    """Four panels that compare arms: return, dormant fraction, dormancy by layer, and the last layer's neuron scores.

    Thin lines are seeds, thick ones their mean; the neuron scores are the first seed's.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.6), dpi=130, layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(caption, fontsize=8, color="#555555", x=0.01, ha="left")
        grid = figure.add_gridspec(2, 2)
        returns, pooled, by_layer = (figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, 0)))
        _return_panel(returns, arms)
        _pooled_panel(pooled, arms, tau)
        _layer_panel(by_layer, arms, tau)
        _score_panel(figure, grid[1, 1].subgridspec(len(arms), 1), arms, tau)
    return figure


def _return_panel(axes: Axes, arms: Mapping[str, RunFolder]) -> None:
    for (arm, folder), colour in zip(arms.items(), cycle(COLOURS)):
        _lines(axes, folder, "eval_return", colour, arm)
    _finish(axes, "Return", "return of evaluation episodes")


def _pooled_panel(axes: Axes, arms: Mapping[str, RunFolder], tau: float) -> None:
    for (arm, folder), colour in zip(arms.items(), cycle(COLOURS)):
        _lines(axes, folder, f"dormant/{tau:g}/all", colour, arm)
    _finish(axes, f"Dormant neurons, all layers (τ = {tau:g})", "dormant fraction", percent=True)


def _layer_panel(axes: Axes, arms: Mapping[str, RunFolder], tau: float) -> None:
    for (arm, folder), colour in zip(arms.items(), cycle(COLOURS)):
        # The last layer, where dormancy is worst, gets the plain line.
        for layer, line in zip(reversed(layers(folder)), cycle(LINES)):
            _lines(axes, folder, f"dormant/{tau:g}/{layer}", colour, f"{arm}, {layer}", line, seeds=False)
    _finish(axes, f"Dormant neurons by layer (τ = {tau:g})", "dormant fraction, mean of seeds", percent=True)


def _lines(
    axes: Axes, folder: RunFolder, name: str, colour: str, label: str, line: str = "-", seeds: bool = True
) -> None:
    steps, values = curve(folder, name)
    # Evaluations are rarer than log points.
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
    # Purple is dormant; what is alive is grey, darker with its score.
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


def portrait(report: Report, title: str) -> Figure:
    """Two panels: dormant share of each layer with its interval, and every layer's scores in ascending order."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.8 + 0.35 * max(6, len(report.layers))), dpi=130, layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(report.conditions, fontsize=8, color="#555555", x=0.01, ha="left")
        shares, scores = figure.subplots(1, 2)
        _share_panel(shares, report)
        _scores_by_rank(scores, report)
    return figure


def _share_panel(axes: Axes, report: Report) -> None:
    rows = [*report.layers, report.all]
    places = np.arange(len(rows))
    axes.barh(places, [row.share for row in rows], color=[DORMANT] * len(report.layers) + ["#555555"], height=0.7)
    for place, row in zip(places, rows, strict=True):
        axes.plot(row.interval, (place, place), color="black", linewidth=1.5, marker="|")
    axes.set_yticks(places, [f"{row.name} ({row.neurons})" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(f"Dormant neurons (τ = {report.tau:g}), 95 % interval")


def _scores_by_rank(axes: Axes, report: Report) -> None:
    for number, layer in enumerate(report.layers):
        ranks = (np.arange(layer.neurons) + 0.5) / layer.neurons
        style = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
        axes.plot(ranks, np.sort(layer.scores), style, color=COLOURS[number % len(COLOURS)], label=layer.name)
    axes.axhline(report.tau, color="black", linewidth=0.8, linestyle=":")
    axes.set_yscale("symlog", linthresh=max(report.tau, 0.01))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the layer's neurons")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Neuron scores")
    axes.legend(fontsize=8)
