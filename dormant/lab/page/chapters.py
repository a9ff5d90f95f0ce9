"""Builds a chapter of the page: an experiment's runs, plots, score maps and HTML tables."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import polars as pl

from dormant.lab import Cell, Claim, Experiment, Scale
from dormant.lab.drawing import ScoreMap, score_maps
from dormant.lab.drawing.curves import ALL, Line, Plot
from dormant.lab.drawing.figure import grid
from dormant.lab.judging import LEVEL
from dormant.lab.judging.claims import Verdict
from dormant.lab.judging.wording import SAME_RUN, Ruling, effect, matters, number, quantity, reduction, unit_of, unknown
from dormant.lab.runs.description import describe
from dormant.lab.runs.folder import RunFolder, origin_of, runs_of
from dormant.lab.runs.rows import last_row

MARKS: dict[Ruling, str] = {
    "reproduced": "✓",
    "weaker than claimed": "≈",
    "no such effect": "○",
    "opposite": "✗",
    "not settled": "?",
    "not testable": "–",
    "not measured": "–",
}
TAU = 0.1  # threshold of score maps if no panel names a threshold


class Run(NamedTuple):
    """A run folder of an arm in an environment. `path` is None if there is no run.

    `agent_steps` is the number of agent steps done, and `wanted` is the length of the run.
    """

    arm: str
    environment: str
    path: Path | None
    seeds: tuple[int, ...]
    done: bool
    agent_steps: int
    wanted: int
    origin: dict[str, object]


@dataclass(frozen=True)
class Chapter:
    """An experiment at one scale, with its runs, verdicts and score maps."""

    experiment: Experiment
    scale: Scale
    frame: pl.DataFrame
    verdicts: Sequence[Verdict]
    runs: tuple[Run, ...]
    maps: tuple[tuple[str, str, ScoreMap], ...]
    methods: tuple[tuple[str, ...], ...] = ()  # a comparison's table of methods; the first row has the headings

    @property
    def plots(self) -> list[Plot]:
        """The plots of our runs and of the paper, in the order of the page."""
        return [plot for row in grid(self.experiment, self.scale, self.frame) for plot in row]

    @property
    def revisions(self) -> list[str]:
        """The revisions of dormant that started the runs."""
        return revisions(self.runs)


def chapter(
    root: Path,
    scale: Scale,
    experiment: Experiment,
    frame: pl.DataFrame,
    verdicts: Sequence[Verdict],
    methods: Sequence[tuple[str, ...]] = (),
) -> Chapter:
    """Reads the runs and builds the experiment's chapter. Raises RunRefused for a damaged run folder."""
    runs = all_runs(root, scale, experiment)
    cells = experiment.designs[scale].cells()
    maps = tuple(found for cell in cells for found in _maps(runs, cell, tau(experiment)))
    return Chapter(experiment, scale, frame, verdicts, runs, maps, tuple(methods))


def all_runs(root: Path, scale: Scale, experiment: Experiment) -> tuple[Run, ...]:
    """Reads all runs of each arm in each environment, also unfinished runs. Raises RunRefused for a damaged folder."""
    return tuple(run for cell in experiment.designs[scale].cells() for run in _runs(root, scale, cell))


def revisions(runs: Sequence[Run]) -> list[str]:
    """The revisions of dormant that started the runs."""
    return sorted({str(run.origin.get("revision", "unknown")) for run in runs if run.path})


def tau(experiment: Experiment) -> float:
    """The threshold in the experiment's first panel of dormant neurons. TAU if there is no such panel."""
    named = [panel.metric.split("/")[1] for panel in experiment.panels if panel.metric.startswith("dormant/")]
    return float(named[0]) if named else TAU


def settings(experiment: Experiment, scale: Scale) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Returns the settings that all arms share, and per arm the settings that differ between arms (name -> value).

    Leaves out the seeds and the game.
    """
    described = {arm.name: dict(_flat(describe(arm.training))) for arm in experiment.designs[scale].arms}
    names = dict.fromkeys(name for settings in described.values() for name in settings)
    skipped = ("env.game", "seeds")
    alike = {
        name: {settings.get(name, "–") for settings in described.values()} for name in names if name not in skipped
    }
    shared = {name: values.pop() for name, values in alike.items() if len(values) == 1}
    own = {
        arm: {name: values.get(name, "–") for name in alike if name not in shared} for arm, values in described.items()
    }
    return shared, own


def _flat(description: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(description, dict):
        for key, value in description.items():
            yield from _flat(value, name if key == "is" else f"{name}.{key}".strip("."))
    elif name:
        yield name, ", ".join(map(str, description)) if isinstance(description, list) else str(description)


def _runs(root: Path, scale: Scale, cell: Cell) -> Iterator[Run]:
    training = cell.training
    found = [run for run in runs_of(root, scale, training) if run.spec.exists()]
    for run in found:
        done = run.done.exists()
        steps = training.agent_steps if done else last_row(run.metrics).get("agent_steps", 0)
        yield Run(cell.arm, cell.environment, run.path, run.seeds, done, steps, training.agent_steps, origin_of(run))
    if not found:
        yield Run(cell.arm, cell.environment, None, training.seeds, False, 0, training.agent_steps, {})


def _maps(runs: Sequence[Run], cell: Cell, threshold: float) -> Iterator[tuple[str, str, ScoreMap]]:
    paths = [run.path for run in runs if (run.arm, run.environment) == (cell.arm, cell.environment) and run.path]
    for found in score_maps(RunFolder(paths[0]), threshold) if paths else ():
        yield cell.arm, cell.environment, found


MOST_SEEDS = 5  # with more seeds, the script draws no lines of single seeds


def plots_as_json(chapters: Sequence[Chapter], points: int) -> str:
    """Returns all plots as JSON that is safe inside a script element. A long curve keeps only `points` points."""
    figures = [
        {"name": each.experiment.name, "all": ALL, "plots": [_plot(plot, points) for plot in each.plots]}
        for each in chapters
    ]
    return json.dumps(figures, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")


def _plot(plot: Plot, points: int) -> dict[str, Any]:
    names = ("title", "place", "x_name", "quantity", "percent", "published")
    return {name: getattr(plot, name) for name in names} | {"lines": [_line(line, points) for line in plot.lines]}


def _line(line: Line, points: int) -> dict[str, Any]:
    picked = np.unique(np.linspace(0, len(line.x) - 1, min(len(line.x), points)).round().astype(int))
    curves = {name: _rounded(getattr(line, name)[picked]) for name in ("x", "middle", "low", "high")}
    seeds = [_rounded(seed[picked]) for seed in line.seeds] if 1 < len(line.seeds) <= MOST_SEEDS else []
    return {"label": line.label, "colour": line.colour, "dash": line.dash, **curves, "seeds": seeds}


def _rounded(values: np.ndarray) -> list[float | int | None]:
    return [_short(value) if np.isfinite(value) else None for value in values.tolist()]


def _short(value: float) -> float | int:
    rounded = float(f"{value:.4g}") if abs(value) < 1000 else round(value)
    return int(rounded) if rounded == int(rounded) else rounded


def claims_table(chapters: Sequence[Chapter], unjudged: Iterable[tuple[Experiment, str]]) -> str:
    """Returns the table of claims, one row per claim. `unjudged` has experiments without verdicts, with the reasons."""
    rows = [_claim(each.experiment.name, verdict) for each in chapters for verdict in each.verdicts]
    rows += [_no_verdict(experiment, claim, why) for experiment, why in unjudged for claim in experiment.claims]
    heads = ("Claim", "Verdict", "Estimate and interval", "Pairs of runs", "Method")
    return _table("claims", KEY, heads, rows)


# Explains each verdict (`judging.claims.ruling`), and the lines and dots that `interval` draws.
KEY = (
    "All claims of these figures, with one verdict per claim. Intervals have a level of 95 %. The intervals of an "
    "experiment's primary claims are wider, by Holm's correction. <b>Reproduced</b>: the whole interval lies on the "
    "claimed side of no effect, and the estimate is large enough to matter. <b>Weaker than claimed</b>: the whole "
    "interval lies on the claimed side, but below the smallest effect that matters. <b>No such effect</b>: in both "
    "directions, the whole interval is below the smallest effect that matters. <b>Opposite</b>: the whole interval "
    "lies on the other side. <b>Not settled</b>: the interval fits none of these verdicts. "
    "<b>Not testable</b>: a precondition of the claim does not hold. In the drawings the dot is the estimate, and the "
    "line through it is the interval. The dashed line marks no effect, and the green line marks the smallest effect "
    "that matters, or the bound."
)


def _claim(figure: str, verdict: Verdict) -> str:
    claim = verdict.claim
    about = f"{'Primary' if claim.primary else 'Exploratory'}: {_compared(claim, verdict.unit)}"
    cells = (
        _cell(f'<a href="#{figure}">{figure}</a> {escape(claim.statement)}{_small(about)}', head=True),
        _cell(f"{mark(verdict.verdict)}{_small(verdict.why)}"),
        _cell(f"{escape(effect(verdict.unit, verdict.bounds))}{interval(claim, verdict)}", "estimate", name="Estimate"),
        _cell(f"{verdict.runs}", name="Pairs of runs"),
        _cell(escape(method(verdict)), "small", name="Method"),
    )
    return _claim_row(figure, claim, verdict.verdict, cells)


def _claim_row(figure: str, claim: Claim, verdict: str, cells: Iterable[str]) -> str:
    """Returns a row of the table of claims. The script of the page filters claims by the row's attributes."""
    kind = "primary" if claim.primary else "exploratory"
    return f'<tr role="row" data-figure="{figure}" data-verdict="{verdict}" data-kind="{kind}">{"".join(cells)}</tr>'


def method(verdict: Verdict) -> str:
    """The method of a verdict's interval. Includes the level if it is not 95 %."""
    return verdict.interval + (f", level {100 * verdict.level:.1f} % (Holm)" if verdict.level != LEVEL else "")


def _no_verdict(experiment: Experiment, claim: Claim, why: str) -> str:
    cells = (
        _cell(
            f"{experiment.name} {escape(claim.statement)}{_small(_compared(claim, unit_of(claim, False)))}", head=True
        ),
        _cell(f'<span class="verdict"><span aria-hidden="true">–</span>not judged</span>{_small(why)}'),
        *(_cell("–", name=name) for name in ("Estimate", "Pairs of runs", "Method")),
    )
    return _claim_row(experiment.name, claim, "not judged", cells)


def mark(verdict: Ruling) -> str:
    """The HTML of a verdict: a sign and a word."""
    kind = verdict.replace(" ", "-")
    return f'<span class="verdict {kind}"><span aria-hidden="true">{MARKS[verdict]}</span>{verdict}</span>'


def _compared(claim: Claim, unit: str) -> str:
    what = f"{quantity(claim.quantity.metric)}, {reduction(claim.quantity)}"
    other = claim.against or SAME_RUN
    if claim.baseline is not None:
        other = f"{claim.against or claim.arm} ({quantity(claim.baseline.metric)}, {reduction(claim.baseline)})"
    return f"{what}: {claim.arm} {'÷' if claim.by == 'ratio' else '−'} {other}; {matters(claim, unit)}."


def interval(claim: Claim, verdict: Verdict, width: int = 132) -> str:
    """Draws a verdict's interval as SVG. Returns an empty text if the interval is unknown.

    A dot with whiskers is the estimate with its interval. A dashed line is no effect, and a green line is the smallest
    effect that matters.
    """
    scaled = math.log if claim.by == "ratio" else float
    values = (verdict.low, verdict.estimate, verdict.high)
    if unknown(verdict.unit, verdict.bounds) or not all(
        math.isfinite(value) and (claim.by == "difference" or value > 0) for value in values
    ):
        return ""
    zero, enough = (1.0 if claim.by == "ratio" else 0.0), claim.smallest
    marks = [scaled(value) for value in (*values, zero, enough)]
    reach = (max(marks) - min(marks)) or 1.0
    low, dot, high, none, least = (6 + (value - min(marks)) / reach * (width - 12) for value in marks)
    return (
        f'<svg class="interval" width="{width}" height="14" viewBox="0 0 {width} 14" aria-hidden="true">'
        f'<path class="zero" d="M{none:.1f} 0V14"/><path class="enough" d="M{least:.1f} 1V13"/>'
        f'<path stroke-width="1.5" d="M{low:.1f} 7H{high:.1f}M{low:.1f} 4V10M{high:.1f} 4V10"/>'
        f'<circle cx="{dot:.1f}" cy="7" r="3"/></svg>'
    )


def comparison_table(chapter: Chapter) -> str:
    """Returns a comparison's table of methods, best first. Returns "" if the experiment is no comparison."""
    if not chapter.methods:
        return ""
    caption = (
        "Returns are those of training episodes in the last fifth of a run. The rank is the mean over games, and the "
        "return is the interquartile mean over runs; both have bootstrap bounds, which are too narrow for few seeds. "
        "Pairs are runs with the same seed and game; the t-interval has Holm's correction for the number of methods. "
        "The fraction of dormant neurons (τ = 0.1) is the mean of the second half, with a t-interval."
    )
    heads, *rows = chapter.methods
    return _wide("Table of methods", _table("methods", caption, heads, [_row(cells) for cells in rows]))


def values_table(chapter: Chapter) -> str:
    """Returns the table of values: the last point of each line, and all points of lines over the replay ratio."""
    rows = [_values(plot, line, at) for plot in chapter.plots for line in plot.lines for at in _points(plot, line)]
    heads = ("Plot", "Place", "Arm", "At", "", "Middle and 95 % interval", "Seeds")
    caption = (
        "The last point of each line. Lines over the replay ratio have all points. The paper's values are read from "
        "its plots."
    )
    return _wide("Table of values", _table("values", caption, heads, rows))


def _points(plot: Plot, line: Line) -> list[int]:
    """The indices of a line's points that `values_table` lists."""
    measured = np.flatnonzero(np.isfinite(line.middle)).tolist()
    return measured if plot.x_name == "replay_ratio" else measured[-1:]


def _values(plot: Plot, line: Line, at: int) -> str:
    middle, low, high = (_value(plot, float(bound[at])) for bound in (line.middle, line.low, line.high))
    shown = f"{middle} [{low}, {high}]" if math.isfinite(line.low[at]) else middle
    cells = [plot.title, plot.place, line.label, f"{line.x[at]:,.10g}", plot.x_name.replace("_", " "), shown]
    return _row([*cells, str(int(np.isfinite(line.seeds[:, at]).sum())) if line.seeds.size else "–"])


def _value(plot: Plot, value: float) -> str:
    if not math.isfinite(value):
        return "not measured"
    return f"{100 * value:.1f} %" if plot.percent else number(value)


def settings_tables(chapter: Chapter) -> str:
    """Returns two tables of settings: settings that differ between arms, then settings that all arms share."""
    shared, own = settings(chapter.experiment, chapter.scale)
    names = list(next(iter(own.values()), {}))
    arms = [_row([arm, *values.values()]) for arm, values in own.items()]
    tables = _table("settings", "Settings that differ between arms", ("Arm", *names), arms) if names else ""
    same = _table(
        "settings", "Settings that all arms share", ("Setting", "Value"), [_row(each) for each in shared.items()]
    )
    return "".join(_wide("Table of settings", table) for table in (tables, same) if table)


def runs_table(chapter: Chapter, page: Path) -> str:
    """Returns the table of runs. Its links to the run folders are relative to the page."""
    heads = ("Arm", "Environment", "Seeds", "State", "Revision", "Device", "Begun", "Folder")
    table = _table("runs", "Links are relative to this page.", heads, [_run(run, page) for run in chapter.runs])
    return _wide("Table of runs", table)


def _run(run: Run, page: Path) -> str:
    seeds = ", ".join(map(str, run.seeds))
    if run.path is None:
        return _row([run.arm, run.environment, seeds, "not run", "–", "–", "–", "–"])
    state = "done" if run.done else f"{run.agent_steps:,} of {run.wanted:,} agent steps"
    origin = [str(run.origin.get(name, "–")) for name in ("revision", "device", "time")]
    address = quote(os.path.relpath(run.path, page.parent).replace(os.sep, "/"))
    link = f'<a href="{address}/">{escape("/".join(run.path.parts[-3:]))}</a> <a href="{address}/spec.json">spec</a>'
    return _row([run.arm, run.environment, seeds, state, *origin], last=link)


def _wide(name: str, table: str) -> str:
    """Wraps a table so that it can scroll sideways on narrow screens. The keyboard can scroll it, too."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{name}">{table}</div>'


def _row(cells: Iterable[str], last: str = "") -> str:
    first, *rest = (escape(cell) for cell in cells)
    rest += [last] if last else []
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'


def _table(kind: str, caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    columns = "".join(f'<th scope="col" role="columnheader">{escape(head)}</th>' for head in heads)
    body = "".join(rows)
    # Narrow screens show rows as blocks. With the roles, screen readers still read them as a table.
    return (
        f'<table class="{kind}" role="table"><caption>{caption}</caption>'
        f'<thead role="rowgroup"><tr role="row">{columns}</tr></thead><tbody role="rowgroup">{body}</tbody></table>'
    )


def _cell(content: str, kind: str = "", name: str = "", head: bool = False) -> str:
    tag, role = ("th", 'scope="row" role="rowheader"') if head else ("td", 'role="cell"')
    extra = (f' class="{kind}"' if kind else "") + (f' data-name="{name}"' if name else "")
    return f"<{tag} {role}{extra}>{content}</{tag}>"


def _small(text: str) -> str:
    return f'<span class="small note">{escape(text)}</span>' if text else ""
