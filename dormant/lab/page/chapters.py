"""The content of the page for one experiment, read from its run folders."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dormant.lab import Cell, Experiment, Scale
from dormant.lab.drawing import ScoreMap, score_maps
from dormant.lab.drawing.curves import ALL, Line, Plot
from dormant.lab.drawing.figure import grid
from dormant.lab.judging.claims import Verdict
from dormant.lab.runs.description import describe
from dormant.lab.runs.folder import RunFolder, origin_of, runs_of
from dormant.lab.runs.rows import last_row

TAU = 0.1  # of score maps, if no panel names a threshold


class Run(NamedTuple):
    """A run folder of an arm in an environment. `path` is None if the arm was not run there."""

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
    methods: tuple[tuple[str, ...], ...] = ()  # the heads and rows of the table of methods, for a comparison

    @property
    def plots(self) -> list[Plot]:
        """Our plots and the paper's, in their order on the page."""
        return [plot for row in grid(self.experiment, self.scale, self.frame) for plot in row]

    @property
    def revisions(self) -> list[str]:
        """The revisions of dormant that made the runs."""
        return revisions(self.runs)


def chapter(
    root: Path,
    scale: Scale,
    experiment: Experiment,
    frame: pl.DataFrame,
    verdicts: Sequence[Verdict],
    methods: Sequence[tuple[str, ...]] = (),
) -> Chapter:
    """The experiment's chapter. Raises RunRefused for a damaged run folder."""
    runs = all_runs(root, scale, experiment)
    cells = experiment.designs[scale].cells()
    maps = tuple(found for cell in cells for found in _maps(runs, cell, tau(experiment)))
    return Chapter(experiment, scale, frame, verdicts, runs, maps, tuple(methods))


def all_runs(root: Path, scale: Scale, experiment: Experiment) -> tuple[Run, ...]:
    """The run folders of each arm in each environment, finished or not. Raises RunRefused for a damaged folder."""
    return tuple(run for cell in experiment.designs[scale].cells() for run in _runs(root, scale, cell))


def revisions(runs: Sequence[Run]) -> list[str]:
    """The revisions of dormant that made the runs."""
    return sorted({str(run.origin.get("revision", "unknown")) for run in runs if run.path})


def tau(experiment: Experiment) -> float:
    """The threshold of the experiment's first panel of dormant neurons."""
    named = [panel.metric.split("/")[1] for panel in experiment.panels if panel.metric.startswith("dormant/")]
    return float(named[0]) if named else TAU


def settings(experiment: Experiment, scale: Scale) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The settings that all arms share, and those of each arm, as dotted names and values, without seeds and game."""
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


MOST_SEEDS = 5  # the script draws single seeds up to this number


def plots_as_json(chapters: Sequence[Chapter], points: int) -> str:
    """All plots as JSON that is safe inside a script element. Long curves are thinned to `points` points."""
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
