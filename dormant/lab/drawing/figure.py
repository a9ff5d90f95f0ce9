"""Draws the figure of an experiment: one row per panel, one column per environment, and then the paper's curves."""

import csv
import math
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter

from dormant.files import replacing
from dormant.lab import Experiment, Scale
from dormant.lab.drawing.curves import Line, Pen, Plot, pens, plots, spread
from dormant.lab.judging.claims import Verdict
from dormant.lab.judging.wording import Ruling, effect
from dormant.plots import COLOURS, STYLE

Row = dict[str, Any]  # a row of published.csv
DOMAINS = {"fig03": "CIFAR-10", "fig14": "MuJoCo"}  # experiments that are not listed use Atari
QUANTITIES = {
    "dormant_percent": "dormant neurons",
    "overlap_percent": "overlap of dormant neurons",
    "iqm_human_normalised": "human-normalised return, IQM",
}
# Metric in published.csv -> prefix of our metric. All other metrics in published.csv are returns.
METRICS = {"dormant_percent": "dormant/", "overlap_percent": "overlap"}


def published(experiment: Experiment, scale: Scale) -> tuple[Plot, ...]:
    """Returns the paper's plots that the experiment names. A line has the colour and dash pattern of our matching arm.

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
    """Whether a plot of the paper shows the quantity that our metric measures."""
    return metric.startswith(METRICS.get(plot.metric, ("eval_return", "train_return")))


@cache
def _table() -> list[Row]:
    with (files("dormant.lab.drawing") / "published.csv").open() as stream:
        return list(csv.DictReader(stream))


def _kind(row: Row) -> tuple[str, str, str]:
    return row["metric"], row["x_name"], row["panel"].split()[0]  # the first word of a panel's name is its game


def _plot(figure: str, metric: str, x_name: str, rows: list[Row], drawn: dict[str, Pen]) -> Plot:
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
    curves: dict[tuple[str, str], list[Row]], shared: set[str], drawn: dict[str, Pen], unit: float
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


def _column(rows: list[Row], name: str) -> np.ndarray:
    return np.array([float(row[name]) if row[name] else math.nan for row in rows])


def _counterpart(words: Sequence[str], labels: Sequence[str]) -> str | None:
    """Returns our label that best matches a label of the paper. Returns None if no label matches.

    Our label matches if the paper's label has all words of our label. The best match has the most words.

    >>> _counterpart(["redo", "DemonAttack", "replay_ratio=1"], ["DQN, RR 1", "ReDo, RR 1", "ReDo, RR 2"])
    'ReDo, RR 1'
    """
    paper = {word.lower() for word in words}
    fitting = [label for label in labels if _words(label) <= paper]
    return max(fitting, key=lambda label: len(_words(label)), default=None)


def _words(label: str) -> set[str]:
    parts = [part.strip().lower() for part in label.split(",")]
    return {part.replace("rr ", "replay_ratio=").replace(" ", "_") for part in parts}


DASHES = ("-", (0, (6, 2)), (0, (3, 2)), (0, (1, 1.5)))
MARKS: dict[Ruling, str] = {
    "reproduced": "✓",
    "weaker than claimed": "≈",
    "no such effect": "○",
    "opposite": "✗",
    "not settled": "?",
    "not testable": "–",
    "not measured": "–",
}
FEW_SEEDS = 5
CELL = (3.5, 2.5)  # inches
CAPTION = 120  # characters per line


def experiment_figure(
    experiment: Experiment,
    scale: Scale,
    frame: pl.DataFrame,
    verdicts: Sequence[Verdict] = (),
    revisions: Sequence[str] = (),
) -> Figure:
    """Draws an experiment's runs: means over seeds with 95 % intervals, and thin lines of single seeds if they are few.

    Prints the verdicts and claims below the plots. Raises ValueError if there is nothing to draw.
    """
    rows = grid(experiment, scale, frame)
    if not rows:
        raise ValueError(f"{experiment.name} has no runs at scale {scale} to draw; run: {command(experiment, scale)}")
    width = max(map(len, rows))
    notes = [*caption(experiment, scale, frame, revisions), *map(judgement, verdicts)]
    size = (max(7.2, CELL[0] * width + 0.8), CELL[1] * len(rows) + 0.8 + 0.16 * len(notes))
    with mpl.rc_context({**STYLE, "font.size": 9, "axes.titlesize": 9.5}):
        picture = Figure(figsize=size, dpi=130, layout="constrained")
        picture.suptitle(f"{experiment.name}  {experiment.title}", fontsize=13, fontweight="bold", x=0.01, ha="left")
        picture.supxlabel("\n".join(notes), fontsize=7.5, color="#444444", x=0.01, ha="left", linespacing=1.4)
        axes = picture.subplots(len(rows), width, squeeze=False)
        for line, row in zip(axes, rows, strict=True):
            _row(list(line), row)
    return picture


def grid(experiment: Experiment, scale: Scale, frame: pl.DataFrame) -> list[list[Plot]]:
    """Returns the rows of plots, one per panel. The paper's plots of a quantity end our first row of that quantity."""
    ours, theirs = plots(experiment, scale, frame), list(published(experiment, scale))
    titles = dict.fromkeys((plot.title, plot.metric, plot.x_name) for plot in ours)
    rows = [[plot for plot in ours if (plot.title, plot.metric, plot.x_name) == title] for title in titles]
    for row in rows:
        fitting = [plot for plot in theirs if shows(plot, row[0].metric)]
        sweeps = [plot for plot in fitting if (plot.x_name == "replay_ratio") == (row[0].x_name == "replay_ratio")]
        row.extend(sweeps)
        theirs = [plot for plot in theirs if not any(plot is taken for taken in sweeps)]
    # The paper's plots without a matching panel form the last row.
    return [*rows, *([theirs] if rows and theirs else [])]


def caption(experiment: Experiment, scale: Scale, frame: pl.DataFrame, revisions: Sequence[str] = ()) -> Iterator[str]:
    """Yields lines of text that explain how the figure was made, what its lines are, and what it leaves out."""
    seeds = ", ".join(map(str, sorted(set(frame["seed"]))))
    revision = f"; revision {', '.join(revisions)}" if revisions else ""
    yield from textwrap.wrap(f"{command(experiment, scale)}; seeds {seeds}{revision}.", CAPTION, break_on_hyphens=False)
    yield "Lines are means over seeds, bands are 95 % t-intervals, thin lines are single seeds."
    if experiment.published:
        yield "Dashed lines are the paper's curves, read from its plots."
    left_out = experiment.designs[scale].leaves_out
    if left_out:
        yield f"Left out: {left_out}"


def command(experiment: Experiment, scale: Scale) -> str:
    """The command that makes the figure."""
    return experiment.command or f"dormant figure {experiment.name} --scale {scale}"


def judgement(verdict: Verdict) -> str:
    """Formats a verdict as one line: mark, ruling, claim, estimate with interval, and number of runs."""
    numbers = f"{effect(verdict.unit, verdict.bounds)}, {verdict.runs} runs"
    return f"{MARKS[verdict.verdict]} {verdict.verdict}: {verdict.claim.statement} ({numbers})"


def save(picture: Figure, stem: Path) -> tuple[Path, Path]:
    """Writes stem.svg and stem.png, each completely or not at all. Equal figures give equal bytes."""
    files = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    with mpl.rc_context({"svg.hashsalt": "dormant", "svg.fonttype": "none"}):
        for file in files:
            metadata = {"Date": None} if file.suffix == ".svg" else {}
            with replacing(file) as part:
                picture.savefig(part, format=file.suffix[1:], metadata=metadata)
    return files


def _row(cells: list[Axes], row: Sequence[Plot]) -> None:
    ours = [number for number, plot in enumerate(row) if not plot.published]
    for number, axes in enumerate(cells):
        if number >= len(row):
            axes.set_axis_off()
            continue
        draw(axes, row[number])
        if row[number].published or number == ours[-1]:
            label(axes, row[number])
    top = max(cells[number].get_ylim()[1] for number in ours) if ours and row[0].percent else None
    for number in ours if top else ():
        cells[number].set_ylim(top=top)


def draw(axes: Axes, plot: Plot) -> None:
    """Draws the lines of a plot, its axes and its title."""
    for line in plot.lines:
        _line(axes, plot, line)
    axes.set_title(f"{plot.title}\n{plot.place}", color="#666666" if plot.published else "black")
    axes.set_ylabel(plot.quantity)
    if plot.x_name != "replay_ratio":
        axes.set_xlim(left=0)
    axes.set_xlabel(plot.x_name.replace("_", " "))
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(_reach(plot))
    _formats(axes, plot)


def _reach(plot: Plot) -> tuple[float, float]:
    """The limits of the y-axis. They contain all measured values, but cut off long intervals.

    A long interval would flatten the lines.
    """
    measured = np.concatenate([values for line in plot.lines for values in (line.middle, *line.seeds)])
    bounds = np.concatenate([values for line in plot.lines for values in (line.low, line.high)])
    bottom = min(0.0, float(np.nanmin(measured)))
    reach = (float(np.nanmax(measured)) - bottom) or 1.0
    highest = np.nanmax(bounds, initial=bottom + reach)
    lowest = np.nanmin(bounds, initial=bottom) if bottom < 0 else bottom
    return max(lowest, bottom - 0.6 * reach), 1.04 * min(highest, bottom + 1.6 * reach)


def _line(axes: Axes, plot: Plot, line: Line) -> None:
    colour = COLOURS[line.colour % len(COLOURS)]
    dash = line.dash + line.colour // len(COLOURS)  # arms that share a colour differ in their dashes
    style = (0, (5, 2)) if plot.published else DASHES[dash % len(DASHES)]
    if plot.x_name == "replay_ratio":
        whiskers = np.nan_to_num(np.abs(np.stack([line.low, line.high]) - line.middle))
        x = line.x * 1.03**line.colour  # shifted so that intervals do not overlap
        axes.errorbar(x, line.middle, whiskers, color=colour, linestyle=style, marker="o", markersize=4, elinewidth=1.2)
        return
    for seed in line.seeds if 1 < len(line.seeds) <= FEW_SEEDS else ():
        axes.plot(line.x, seed, color=colour, linewidth=0.6, alpha=0.35)
    axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.13, linewidth=0)
    marker = "o" if len(line.x) == 1 else ""
    axes.plot(line.x, line.middle, color=colour, linestyle=style, linewidth=1.8, marker=marker, markersize=5)


def _formats(axes: Axes, plot: Plot) -> None:
    if plot.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(top=min(1.0, axes.get_ylim()[1]))
    if plot.x_name == "replay_ratio":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted({x for line in plot.lines for x in line.x.tolist()})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0)


def label(axes: Axes, plot: Plot) -> None:
    """Writes the name of each line next to the line's end. Names that would overlap are moved apart."""
    ends = [(line, *_end(line)) for line in plot.lines]
    low, high = axes.get_ylim()
    heights = [(y - low) / (high - low) for _, _, y in ends]
    for (line, x, y), height in zip(ends, spread(heights, 0.085), strict=True):
        axes.annotate(
            line.label,
            xy=(x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            color=COLOURS[line.colour % len(COLOURS)],
            fontsize=8,
            annotation_clip=False,
        )


def _end(line: Line) -> tuple[float, float]:
    last = np.flatnonzero(np.isfinite(line.middle))[-1]
    return float(line.x[last]), float(line.middle[last])
