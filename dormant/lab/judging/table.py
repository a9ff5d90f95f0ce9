"""Reads the runs of an experiment into one table. It has one row per arm, environment, seed and log point."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from dormant.interventions import Every, Reset
from dormant.lab import Cell, Experiment, Scale, Trainable
from dormant.lab.runs.folder import RunFolder, RunRefused, curve, runs_by_seed
from dormant.lab.runs.rows import lines, rows

FIRST_COLUMNS = {
    "arm": pl.String,
    "environment": pl.String,
    "seed": pl.Int64,
    "agent_steps": pl.Int64,
    "gradient_steps": pl.Int64,
    "eval_return": pl.Float64,
    "train_return": pl.Float64,
    "loss": pl.Float64,
    "diverged": pl.Int64,
}
LAST_COLUMNS = {"replay_ratio": pl.Float64, "reset_age": pl.Float64}
# History -> label of a plot's axis. A history is a set of neurons that were dormant before. `overlaps` compares it with
# the neurons that are dormant now.
HISTORIES = {
    "union": "overlap with all before",
    "previous": "overlap with the point before",
    "union-by-chance": "overlap with all before, by chance",
    "previous-by-chance": "overlap with the point before, by chance",
}
RunOfSeed = Mapping[int, RunFolder]


def read(root: Path, scale: Scale, experiment: Experiment, unfinished: bool = False) -> pl.DataFrame:
    """Reads one row per arm, environment, seed and log point. Each logged metric is a column; null is not measured.

    Additional columns:

    - `replay_ratio`: the training's replay ratio, null if the training has no actor.
    - `reset_age`: reset periods since the network was last reset or created, null for an arm without resets.
    - `diverged`: the agent steps at the seed's first number that is not finite, null if all numbers are finite.
    - the overlap metrics in the experiment's panels and claims.

    Unfinished runs are read only if `unfinished` is true. If several runs contain a seed, a finished run is used. An
    incomplete last line of a file is ignored.

    Raises RunRefused if any other line is damaged.
    """
    cells = list(experiment.designs[scale].cells()) if scale in experiment.designs else []
    found = [(cell, runs_by_seed(root, scale, cell.training, unfinished)) for cell in cells]
    # Reads each run once, because arms can share a training and a run can contain several seeds.
    runs, overlaps_wanted = (
        dict.fromkeys(run for _, held in found for run in held.values()),
        overlap_metrics(experiment),
    )
    tables = {run: with_overlaps(_metrics(run), run, overlaps_wanted) for run in runs}
    table = pl.concat(
        [
            pl.DataFrame(schema=FIRST_COLUMNS | LAST_COLUMNS),
            *(_of_cell(cell, held, tables) for cell, held in found),
        ],
        how="diagonal",
    )
    return table.select(*FIRST_COLUMNS, *sorted(set(table.columns) - {*FIRST_COLUMNS, *LAST_COLUMNS}), *LAST_COLUMNS)


def read_all(root: Path, scale: Scale, experiments: Iterable[Experiment]) -> pl.DataFrame:
    """Reads the finished runs of several experiments. The column `experiment` has the experiment's name.

    A run that several experiments share appears once per experiment. Raises ValueError if no run is finished.
    """
    frames = [(each.name, read(root, scale, each)) for each in experiments]
    named = [frame.with_columns(experiment=pl.lit(name)) for name, frame in frames if not frame.is_empty()]
    if not named:
        names = " ".join(name for name, _ in frames)
        raise ValueError(f"{root} has no finished run: dormant figure {names} --scale {scale} --run-dir {root}")
    return pl.concat(named, how="diagonal")


def _metrics(run: RunFolder) -> pl.DataFrame:
    content = lines(run.metrics)
    if not content:
        return pl.DataFrame(schema=FIRST_COLUMNS)
    table = _parsed(b"\n".join(content))
    if len(table) != len(content) or not _numeric(table):
        # Reads again with a slower reader, whose errors name the damaged line and field. The slower reader also accepts
        # NaN and infinite numbers, although they are not JSON.
        table = pl.DataFrame(list(rows(run.metrics)), infer_schema_length=None)
    metrics = [pl.col(name).cast(FIRST_COLUMNS.get(name, pl.Float64)) for name in table.columns]
    table = table.select(metrics).unique(["seed", "agent_steps"], keep="last", maintain_order=True)
    return table.with_columns(diverged=_diverged(table))


def _numeric(table: pl.DataFrame) -> bool:
    """Whether a table has the columns and types of rows of metrics."""
    whole = all(table.schema.get(name) == pl.Int64 for name in ("seed", "agent_steps"))
    return whole and all(kind.is_numeric() or kind == pl.Null for kind in table.schema.values())


def _diverged(table: pl.DataFrame) -> pl.Expr:
    """The agent steps at which a seed first has a number that is not finite. Null if all its numbers are finite."""
    numbers = [pl.col(name) for name, kind in table.schema.items() if kind == pl.Float64]
    bad = pl.any_horizontal([(~number.is_finite()).fill_null(False) for number in numbers] or [pl.lit(False)])
    return pl.when(bad).then(pl.col("agent_steps")).min().over("seed").cast(pl.Int64)


def _parsed(content: bytes) -> pl.DataFrame:
    """Parses the rows of a file. Returns an empty table if a line is not JSON."""
    try:
        return pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        return pl.DataFrame()


def _of_cell(cell: Cell, held: RunOfSeed, tables: Mapping[RunFolder, pl.DataFrame]) -> pl.DataFrame:
    parts = [
        tables[run].filter(pl.col("seed").is_in([seed for seed in held if held[seed] == run]))
        for run in dict.fromkeys(held.values())
    ]
    return pl.concat([pl.DataFrame(schema={"gradient_steps": pl.Int64}), *parts], how="diagonal").with_columns(
        arm=pl.lit(cell.arm),
        environment=pl.lit(cell.environment),
        replay_ratio=pl.lit(getattr(cell.training, "replay_ratio", None), pl.Float64),
        reset_age=_reset_age(cell.training),
    )


def _reset_age(training: Trainable) -> pl.Expr:
    """The time since the network's last reset or since the start of the run, in reset periods."""
    ages = []
    for reset in _resets(training):
        steps = pl.col("gradient_steps")
        until = steps if reset.stop is None else pl.min_horizontal(steps, pl.lit(reset.stop - 1))
        last = reset.start + (until - reset.start) // reset.period * reset.period
        ages.append((steps - pl.when(until >= reset.start).then(last).otherwise(0)) / reset.period)
    return (pl.min_horizontal(ages) if ages else pl.lit(None)).cast(pl.Float64)


def _resets(value: object) -> Iterator[Every]:
    """Yields the scheduled resets in a training's nested settings."""
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


def overlaps(
    scores: Float[np.ndarray, "seeds points neurons"], tau: float, history: str
) -> Float[np.ndarray, "seeds points"]:
    """The overlap coefficient |X and Y| / min(|X|, |Y|) of two sets of dormant neurons, at each log point.

    X is the set at the log point. For the history "union", Y is the union of the sets at all earlier log points. For
    "previous", Y is the set at the previous log point. With the suffix "-by-chance", the result is instead
    max(|X|, |Y|) / neurons, the expected overlap of two random sets of these sizes. The result is NaN at the first log
    point, and if X or Y is empty.

    >>> overlaps(np.array([[[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]]), 0.0, "union").tolist()
    [[nan, 1.0, 0.5]]

    Source: Sokar et al. 2023, figure 5. The paper does not define Y. If the union included X, all coefficients would be
    1. The paper's log points are further apart than ours.
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


def overlap_metrics(experiment: Experiment) -> list[str]:
    """The names of the overlap metrics in an experiment's panels and claims, as `overlap/HISTORY/TAU/LAYER`."""
    metrics = [panel.metric for panel in experiment.panels]
    metrics += [quantity.metric for claim in experiment.claims for quantity in claim.quantities]
    return list(dict.fromkeys(metric for metric in metrics if metric.startswith("overlap/")))


def with_overlaps(table: pl.DataFrame, run: RunFolder, metrics: Iterable[str]) -> pl.DataFrame:
    """Adds a column per overlap metric to a table with the rows of a run. Returns an empty table unchanged.

    Raises RunRefused if a layer has no scores or a row is damaged.
    """
    for metric in metrics if len(table) else ():
        _, history, tau, layer = metric.split("/")
        try:
            steps, scores = curve(run, f"scores/{layer}")
        except KeyError as error:
            raise RunRefused(str(error.args[0])) from error
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
