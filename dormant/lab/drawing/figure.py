"""Draws the figure of an experiment, two plots per row. The paper's plot is beside ours, at the same size."""

import csv
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter

from dormant.files import replacing
from dormant.lab import Experiment, Scale
from dormant.lab.drawing.curves import Line, Pen, Plot, pens, plots
from dormant.plots import COLOURS, MOST_LINES, STYLE, End, marked, name_ends

Row = dict[str, str]  # a row of published.csv
DOMAINS = {"fig03": "CIFAR-10", "fig14": "MuJoCo"}  # experiments that are not listed use Atari
QUANTITIES = {
    "dormant_percent": "dormant neurons",
    "overlap_percent": "overlap of dormant neurons",
    "iqm_human_normalised": "human-normalised return, IQM",
}
LOGARITHMIC = {"loss"}  # it falls by several powers of ten
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


def shows(plot: Plot, metric: str, metrics: Sequence[str]) -> bool:
    """Whether a plot of the paper shows the quantity that our metric measures.

    If the plot names a tau that one of our `metrics` has, our metric must have it, too.
    """
    tau = re.search(r"τ = ([\d.]+)", plot.place)
    same = f"dormant/{tau[1]}/" if tau else ""
    if any(each.startswith(same) for each in metrics if same):
        return metric.startswith(same)
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
    return known.get(word, word.replace("_", " ").replace("=", " ").replace("tau ", "τ = "))


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
FEW_SEEDS = 5
CELL = (3.75, 2.5)  # inches; two columns are as wide as a page
COLUMNS = 2
PART = ", part "
CAPTION = 120  # characters per line
TITLE, QUANTITY = 36, 30  # characters per line of a plot's title, and of the label of its y-axis


def experiment_figure(
    experiment: Experiment, scale: Scale, frame: pl.DataFrame, revisions: Sequence[str] = ()
) -> Figure:
    """Draws an experiment's runs: means over seeds with 95 % intervals. With few seeds, also draws a line per seed.

    Raises ValueError if there is nothing to draw.
    """
    rows = grid(experiment, scale, frame)
    if not rows:
        raise ValueError(f"{experiment.name} has no runs at scale {scale} to draw; run: {command(experiment, scale)}")
    cells = arranged(rows)
    height = math.ceil(len(cells) / COLUMNS)
    notes = list(caption(experiment, scale, frame, revisions))
    size = (CELL[0] * COLUMNS, CELL[1] * height + 0.8 + 0.16 * len(notes))
    with mpl.rc_context({**STYLE, "font.size": 9, "axes.titlesize": 9}):
        picture = Figure(figsize=size, dpi=130, layout="constrained")
        # The title of an experiment is a claim. The page shows it with a verdict, so the figure does not repeat it.
        picture.suptitle(f"{experiment.name} at {scale} scale", fontsize=12, fontweight="bold", x=0.01, ha="left")
        picture.supxlabel("\n".join(notes), fontsize=7.5, color="#444444", x=0.01, ha="left", linespacing=1.4)
        axes = picture.subplots(height, COLUMNS, squeeze=False).ravel()
        for one in axes[len(cells) :]:
            one.set_axis_off()
        _draw_all([(one, plot) for one, plot in zip(axes, cells, strict=False)])
    return picture


def grid(experiment: Experiment, scale: Scale, frame: pl.DataFrame) -> list[list[Plot]]:
    """Returns one row of plots per panel. The paper's plots of a quantity come last in the quantity's first row."""
    ours, theirs = plots(experiment, scale, frame), list(published(experiment, scale))
    titles = dict.fromkeys((plot.title, plot.metric, plot.x_name) for plot in ours)
    metrics = [metric for _, metric, _ in titles]
    rows = [[plot for plot in ours if (plot.title, plot.metric, plot.x_name) == title] for title in titles]
    for row in rows:
        fitting = [plot for plot in theirs if shows(plot, row[0].metric, metrics)]
        sweeps = [plot for plot in fitting if (plot.x_name == "replay_ratio") == (row[0].x_name == "replay_ratio")]
        row.extend(sweeps)
        theirs = [plot for plot in theirs if not any(plot is taken for taken in sweeps)]
    # The paper's plots without a matching panel form the last row.
    return [*rows, *([theirs] if rows and theirs else [])]


def arranged(rows: Sequence[Sequence[Plot]]) -> list[Plot | None]:
    """Returns the plots in reading order, two per row. None is an empty place.

    Rows with plots of the paper come first. Each of them starts with our plot of all environments, followed by the
    paper's plots. Our other plots come after all these rows. A plot with many lines is split into several plots.
    """
    pairs, others = [], []
    for row in rows:
        ours, theirs = ([plot for plot in row if plot.published == paper] for paper in (False, True))
        first = ours[-1:] if theirs else []  # our last plot covers all environments
        shown = [part for plot in (*first, *theirs) for part in parts(plot)]
        pairs += [*shown, *([None] * (len(shown) % COLUMNS))]
        others += [part for plot in (ours[:-1] if theirs else ours) for part in parts(plot)]
    return [*pairs, *others]


def parts(plot: Plot) -> list[Plot]:
    """Splits a plot so that each part has at most six lines. Each part has the plot's first line, for comparison."""
    if len(plot.lines) <= MOST_LINES:
        return [plot]
    first, *rest = plot.lines
    count = math.ceil(len(rest) / (MOST_LINES - 1))
    size = math.ceil(len(rest) / count)
    return [
        replace(plot, place=f"{plot.place}{PART}{part + 1} of {count}", lines=(first, *rest[part * size :][:size]))
        for part in range(count)
    ]


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


def save(picture: Figure, stem: Path) -> tuple[Path, Path]:
    """Writes stem.svg and stem.png, each completely or not at all. Equal figures give equal bytes."""
    files = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    with mpl.rc_context({"svg.hashsalt": "dormant", "svg.fonttype": "none"}):
        for file in files:
            metadata = {"Date": None} if file.suffix == ".svg" else {}
            with replacing(file) as part:
                picture.savefig(part, format=file.suffix[1:], metadata=metadata)
    return files


def _draw_all(cells: Sequence[tuple[Axes, Plot | None]]) -> None:
    drawn = []
    for axes, plot in cells:
        if plot is None:
            axes.set_axis_off()
        else:
            draw(axes, plot)
            drawn.append((axes, plot))
    highest = {}
    for axes, plot in drawn:
        highest[_scale(plot)] = max(highest.get(_scale(plot), 0.0), axes.get_ylim()[1])
    for axes, plot in drawn:
        axes.set_ylim(top=highest[_scale(plot)])
        name_ends(axes, [End(line.label, *_end(line), _colour(line)) for line in plot.lines])


def _scale(plot: Plot) -> tuple[str, str, str]:
    """Returns a key. Plots with the same key get the same upper limit, so that they can be compared.

    These are our plots of the same fraction, and the parts of one plot.
    """
    place = "" if plot.percent and not plot.published else plot.place.partition(PART)[0]
    return plot.title, plot.metric, place


def draw(axes: Axes, plot: Plot) -> None:
    """Draws the lines of a plot, its axes and its title."""
    for line in plot.lines:
        _line(axes, plot, line)
    title = "\n".join(_broken(part, TITLE) for part in (plot.title, plot.place))
    axes.set_title(title, color="#666666" if plot.published else "black")
    axes.set_ylabel(_broken(plot.quantity, QUANTITY))
    if plot.x_name != "replay_ratio":
        axes.set_xlim(left=0)
    axes.set_xlabel(plot.x_name.replace("_", " "))
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    if plot.metric in LOGARITHMIC:
        axes.set_yscale("log")
        axes.set_ylim(_positive(plot))
    else:
        axes.set_ylim(_reach(plot))
    _formats(axes, plot)


def _broken(text: str, width: int) -> str:
    """Breaks a text into lines. Keeps "τ = 0.1" on one line."""
    return textwrap.fill(text.replace(" = ", "\u00a0=\u00a0"), width).replace("\u00a0", " ")


def _positive(plot: Plot) -> tuple[float, float]:
    """The limits of a logarithmic y-axis. They contain all positive means."""
    means = np.concatenate([line.middle[line.middle > 0] for line in plot.lines])
    return (0.8 * float(means.min()), 1.25 * float(means.max())) if means.size else (0.1, 1.0)


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
    colour = _colour(line)
    dash = line.dash + line.colour // len(COLOURS)  # arms that share a colour differ in their dashes
    style = (0, (5, 2)) if plot.published else DASHES[dash % len(DASHES)]
    if plot.x_name == "replay_ratio":
        whiskers = np.nan_to_num(np.abs(np.stack([line.low, line.high]) - line.middle))
        x = line.x * 1.03**line.colour  # shifted so that intervals do not overlap
        mark = marked(line.colour, 1)["marker"]
        axes.errorbar(x, line.middle, whiskers, color=colour, linestyle=style, marker=mark, markersize=4, elinewidth=1)
        return
    for seed in line.seeds if 1 < len(line.seeds) <= FEW_SEEDS else ():
        axes.plot(line.x, seed, color=colour, linewidth=0.6, alpha=0.35)
    axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.13, linewidth=0)
    number = line.colour + line.dash
    axes.plot(line.x, line.middle, color=colour, linestyle=style, linewidth=1.6, **marked(number, len(line.x)))


def _colour(line: Line) -> str:
    return COLOURS[line.colour % len(COLOURS)]


def _formats(axes: Axes, plot: Plot) -> None:
    if plot.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(top=min(1.0, axes.get_ylim()[1]))
    if plot.x_name == "replay_ratio":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted({x for line in plot.lines for x in line.x.tolist()})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))  # names may leave little width
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0)


def _end(line: Line) -> tuple[float, float]:
    last = np.flatnonzero(np.isfinite(line.middle))[-1]
    return float(line.x[last]), float(line.middle[last])
