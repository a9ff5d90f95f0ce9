"""The picture of one network's report: how dormant each layer is, and the scores of its neurons."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dormant import Report
from dormant.lab.figures import COLOURS, DORMANT, STYLE


def portrait(report: Report, title: str) -> Figure:
    """Two panels: dormant share of each layer with its interval, and every layer's scores in ascending order."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.8 + 0.35 * max(6, len(report.layers))), dpi=130, layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(report.conditions, fontsize=8, color="#555555", x=0.01, ha="left")
        shares, scores = figure.subplots(1, 2)
        _share_panel(shares, report)
        _score_panel(scores, report)
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


def _score_panel(axes: Axes, report: Report) -> None:
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
