"""The runs of an experiment as one table."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from dormant.interventions import Every, Reset
from dormant.lab.design import Cell, Experiment, Scale
from dormant.lab.runs.description import place
from dormant.lab.runs.folder import RunFolder, curve, rows

FIRST = {
    "arm": pl.String,
    "environment": pl.String,
    "seed": pl.Int64,
    "agent_steps": pl.Int64,
    "gradient_steps": pl.Int64,
    "eval_return": pl.Float64,
    "train_return": pl.Float64,
    "loss": pl.Float64,
}
LAST = {"replay_ratio": pl.Float64, "reset_age": pl.Float64}
Found = dict[int, RunFolder]  # seed -> the run that holds it


class Missing(NamedTuple):
    """The seeds of a cell that no finished run holds."""

    arm: str
    environment: str
    seeds: tuple[int, ...]


class Scores(NamedTuple):
    """The neuron scores of one layer in the runs of a cell."""

    seeds: tuple[int, ...]
    agent_steps: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "seeds points neurons"]


def read(root: Path, scale: Scale, experiment: Experiment, unfinished: bool = False) -> pl.DataFrame:
    """One row for each arm, environment, seed and log point: the metrics that were logged, null where they were not.

    Beside them stand the cell's `replay_ratio`, null where nothing acts, and `reset_age`: how many reset periods ago
    the network was last reset or begun, null for an arm without resets; and the overlaps of dormant sets that the
    experiment names. Only finished runs are read, unless `unfinished`. A seed that several runs hold is taken from one,
    a finished one if there is. A last line that was cut off is left out.

    Raises RunRefused for any other line that is damaged.
    """
    found = [(cell, _found(root, scale, cell, unfinished)) for cell in _cells(scale, experiment)]
    # Arms can be the same training, and a run can hold several seeds: each is read once.
    runs, named = dict.fromkeys(run for _, runs in found for run in runs.values()), overlaps_named(experiment)
    tables = {run: with_overlaps(_table(run), run, named) for run in runs}
    table = pl.concat(
        [pl.DataFrame(schema=FIRST | LAST), *(_labelled(cell, runs, tables) for cell, runs in found)], how="diagonal"
    )
    return table.select(*FIRST, *sorted(set(table.columns) - {*FIRST, *LAST}), *LAST)


def missing(root: Path, scale: Scale, experiment: Experiment) -> list[Missing]:
    """The seeds that an experiment asks for and no finished run holds, for each cell that lacks any."""
    lacking = []
    for cell in _cells(scale, experiment):
        found = _found(root, scale, cell, unfinished=False)
        seeds = tuple(seed for seed in cell.training.seeds if seed not in found)
        lacking += [Missing(cell.arm, cell.environment, seeds)] if seeds else []
    return lacking


def scores(root: Path, scale: Scale, cell: Cell, layer: str, unfinished: bool = False) -> Scores:
    """The neuron scores of a layer in the runs of a cell, NaN where a run has none; `read` leaves them, being long.

    Raises KeyError if there is no run, or one without scores of that layer, and RunRefused as `read` does.
    """
    found = _found(root, scale, cell, unfinished)
    if not found:
        raise KeyError(f"no run of {cell.arm} in {cell.environment} at scale {scale} lies under {root}; run it first.")
    curves = {run: curve(run, f"scores/{layer}") for run in dict.fromkeys(found.values())}
    steps = np.unique(np.concatenate([one.agent_steps for one in curves.values()]))
    neurons = next(iter(curves.values())).values.shape[-1]
    values = np.full((len(found), len(steps), neurons), np.nan)
    for row, (seed, run) in enumerate(found.items()):
        points = np.searchsorted(steps, curves[run].agent_steps)
        values[row, points] = curves[run].values[sorted(_seeds(run.path)).index(seed)]
    return Scores(tuple(found), steps, values)


def _cells(scale: Scale, experiment: Experiment) -> Iterator[Cell]:
    """The cells of a scale, none where the experiment has no design for it."""
    if scale in experiment.designs:
        yield from experiment.designs[scale].cells()


def _found(root: Path, scale: Scale, cell: Cell, unfinished: bool) -> Found:
    """The run that holds each seed of a cell, finished ones before others."""
    folder = place(root, scale, cell.training, cell.training.seeds).parent
    runs = [RunFolder(path) for path in sorted(folder.glob("seed*")) if _seeds(path)]
    finished = [run for run in runs if run.done.exists()]
    others = [run for run in runs if run not in finished and run.metrics.exists()] if unfinished else []
    holds = {seed: run for run in reversed(finished + others) for seed in _seeds(run.path)}
    return {seed: holds[seed] for seed in cell.training.seeds if seed in holds}


def _seeds(path: Path) -> tuple[int, ...]:
    """The seeds that a folder's name lists, none if it is no run's name."""
    name = re.fullmatch(r"seed(\d+(?:-\d+)*)", path.name)
    return tuple(map(int, name[1].split("-"))) if name else ()


def _table(run: RunFolder) -> pl.DataFrame:
    content = run.metrics.read_bytes()
    content = content[: content.rfind(b"\n") + 1]
    table = _parsed(content) if content else pl.DataFrame(schema=FIRST)
    if len(table) != content.count(b"\n"):
        # Slow, but it says which line is damaged, and takes infinite numbers, which are no JSON.
        table = pl.DataFrame(list(rows(run.metrics)), infer_schema_length=None)
    metrics = [pl.col(name).cast(FIRST.get(name, pl.Float64)) for name in table.columns]
    return table.select(metrics).unique(["seed", "agent_steps"], keep="last", maintain_order=True)


def _parsed(content: bytes) -> pl.DataFrame:
    """The rows of a file, or none if it is not all JSON."""
    try:
        return pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        return pl.DataFrame()


def _labelled(cell: Cell, found: Found, tables: Mapping[RunFolder, pl.DataFrame]) -> pl.DataFrame:
    parts = [
        tables[run].filter(pl.col("seed").is_in([seed for seed in found if found[seed] == run]))
        for run in dict.fromkeys(found.values())
    ]
    return pl.concat([pl.DataFrame(schema={"gradient_steps": pl.Int64}), *parts], how="diagonal").with_columns(
        arm=pl.lit(cell.arm),
        environment=pl.lit(cell.environment),
        replay_ratio=pl.lit(getattr(cell.training, "replay_ratio", None), pl.Float64),
        reset_age=_reset_age(cell.training),
    )


def _reset_age(training: Any) -> pl.Expr:
    ages = [_age(reset) for reset in _resets(training)]
    return (pl.min_horizontal(ages) if ages else pl.lit(None)).cast(pl.Float64)


def _age(reset: Every) -> pl.Expr:
    """Periods since it last acted, or since the run began."""
    steps = pl.col("gradient_steps")
    until = steps if reset.stop is None else pl.min_horizontal(steps, pl.lit(reset.stop - 1))
    last = until // reset.period * reset.period
    return (steps - pl.when(last >= reset.start).then(last).otherwise(0)) / reset.period


def _resets(value: Any) -> Iterator[Every]:
    """The scheduled resets anywhere in a training."""
    if isinstance(value, Every) and isinstance(value.what, Reset):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _resets(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _resets(item)
    elif isinstance(value, Mapping):
        yield from _resets(tuple(value.values()))


# What the neurons that are dormant now are compared with, in few words for a plot's axis.
HISTORIES = {
    "union": "overlap with all before",
    "previous": "overlap with the point before",
    "union-by-chance": "overlap with all before, by chance",
    "previous-by-chance": "overlap with the point before, by chance",
}


def overlaps(
    scores: Float[np.ndarray, "seeds points neurons"], tau: float, history: str
) -> Float[np.ndarray, "seeds points"]:
    """The overlap coefficient of each log point's dormant neurons with a historical set, |X and Y| / min(|X|, |Y|).

    The historical set is the union of all earlier log points' dormant neurons, or the set of the one before. With
    `-by-chance` it is what sets of these sizes would have on average if neurons were drawn at random, max(|X|, |Y|) /
    neurons, which for the union grows as it does. NaN at the first point, and where a set is empty.

    >>> overlaps(np.array([[[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]]), 0.0, "union").tolist()
    [[nan, 1.0, 0.5]]

    Source: Sokar et al. 2023, figure 5, which does not say what its historical set is; that it is not the union with
    the present set follows from its coefficients, which would then all be 1. The published points lie further apart.
    """
    now = scores <= tau
    before = _before(now, history.removesuffix("-by-chance"))
    sizes = np.stack([now.sum(axis=-1), before.sum(axis=-1)])
    if history.endswith("-by-chance"):
        coefficients = sizes.max(axis=0) / scores.shape[-1]
    else:
        coefficients = (now & before).sum(axis=-1) / np.maximum(sizes.min(axis=0), 1)
    return np.where(sizes.min(axis=0) > 0, coefficients, np.nan)


def _before(now: Bool[np.ndarray, "seeds points neurons"], history: str) -> Bool[np.ndarray, "seeds points neurons"]:
    earlier = np.logical_or.accumulate(now, axis=1) if history == "union" else now
    return np.concatenate([np.zeros_like(now[:, :1]), earlier[:, :-1]], axis=1)


def overlaps_named(experiment: Experiment) -> list[str]:
    """The overlaps that an experiment draws or makes claims about, as `overlap/HISTORY/TAU/LAYER`."""
    metrics = [panel.metric for panel in experiment.panels]
    metrics += [claim.quantity.metric for claim in experiment.claims]
    return list(dict.fromkeys(metric for metric in metrics if metric.startswith("overlap/")))


def with_overlaps(table: pl.DataFrame, run: RunFolder, metrics: Iterable[str]) -> pl.DataFrame:
    """The rows of a run with a column for each overlap; as it is, where the run kept no scores yet.

    Raises KeyError for a layer that the run has not.
    """
    for metric in metrics if len(table) else ():
        _, history, tau, layer = metric.split("/")
        steps, scores = curve(run, f"scores/{layer}")
        seeds = sorted(set(table["seed"]))
        column = pl.DataFrame(
            {
                "seed": np.repeat(seeds, len(steps)),
                "agent_steps": np.tile(steps, len(seeds)),
                metric: overlaps(scores, float(tau), history).ravel(),
            }
        )
        table = table.join(column.fill_nan(None), on=["seed", "agent_steps"], how="left", maintain_order="left")
    return table
