"""A number for each run, and the pairs of runs that a claim compares."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from dormant.lab.design import Claim, Quantity
from dormant.lab.judging.intervals import Interval, mean_interval
from dormant.lab.runs.folder import RunFolder, curve, layers

Numbers = dict[tuple[str, int], float]  # (environment, seed) -> a quantity


class Pairs(NamedTuple):
    """A claim's quantity for runs of the same seed and environment, NaN where a run or what it measured is missing."""

    environments: tuple[str, ...]
    mine: Float[np.ndarray, "seeds environments"]
    theirs: Float[np.ndarray, "seeds environments"]

    def present(self) -> Bool[np.ndarray, "seeds environments"]:
        """Where both are there."""
        return ~(np.isnan(self.mine) | np.isnan(self.theirs))

    def of(self, environments: Bool[np.ndarray, " environments"]) -> "Pairs":
        """Those of some environments."""
        names = tuple(name for name, kept in zip(self.environments, environments, strict=True) if kept)
        return Pairs(names, self.mine[:, environments], self.theirs[:, environments])


def pairs(claim: Claim, frame: pl.DataFrame) -> Pairs:
    """The runs that a claim compares, out of a table of `results.read`: two arms', or an arm's with its own start."""
    points = _points(claim, frame)
    mine = _numbers(points.filter(arm=claim.arm), claim.quantity.reduce, claim.quantity.after)
    if claim.against is None:
        theirs = _numbers(points.filter(arm=claim.arm), "start")
    else:
        theirs = _numbers(points.filter(arm=claim.against), claim.quantity.reduce, claim.quantity.after)
    environments = tuple(sorted({environment for environment, _ in mine | theirs}))
    seeds = sorted({seed for _, seed in mine | theirs})
    tables = [
        np.array([[numbers.get((name, seed), np.nan) for name in environments] for seed in seeds])
        for numbers in (mine, theirs)
    ]
    shape = (len(seeds), len(environments))
    return Pairs(environments, *(table.reshape(shape) for table in tables))


def number(reduce: str, after: float, steps: Int[np.ndarray, " points"], values: Float[np.ndarray, " points"]) -> float:
    """What one run's curve comes to, NaN if nothing was measured: its start, its end, the mean height of its area, or
    its lowest value after the start.

    >>> number("mean", 0.5, np.array([0, 50, 75, 100]), np.array([9.0, 1.0, 2.0, 1.0]))
    1.5
    """
    measured = ~np.isnan(values)
    if reduce == "mean":
        measured &= steps >= after * steps[-1]
    if not measured.any():
        return np.nan
    if reduce == "end":
        return float(values[at_end(steps, measured)].mean())
    steps, values = steps[measured], values[measured]
    if reduce == "start" or len(steps) == 1:
        return float(values[0])
    if reduce == "lowest":
        return float(values[1:].min())
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def _points(claim: Claim, frame: pl.DataFrame) -> pl.DataFrame:
    """The log points of the arms compared, with the metric as `value`, null where it is not to be counted."""
    metric = claim.quantity.metric
    value = pl.col(metric) if metric in frame.columns else pl.lit(None)
    points = frame.filter(pl.col("arm").is_in([claim.arm, claim.against or claim.arm])).select(
        "arm", "environment", "seed", "agent_steps", value=value.cast(pl.Float64), left_out=_wrong_age(claim.quantity)
    )
    # What one arm leaves out, the other leaves out too: they are compared at the same times.
    left_out = pl.col("left_out").any().over("environment", "agent_steps")
    return points.with_columns(value=pl.when(~left_out).then("value")).sort("agent_steps")


def _wrong_age(quantity: Quantity) -> pl.Expr:
    low, high = quantity.reset_age
    return ((pl.col("reset_age") < low) | (pl.col("reset_age") >= high)).fill_null(False)


def _numbers(points: pl.DataFrame, reduce: str, after: float = 0.0) -> Numbers:
    numbers = {}
    for (environment, seed), run in points.group_by("environment", "seed", maintain_order=True):
        steps, values = run["agent_steps"].to_numpy(), run["value"].to_numpy().astype(float)
        numbers[str(environment), int(seed)] = number(reduce, after, steps, values)
    return numbers


def at_end(steps: Int[np.ndarray, " points"], measured: Bool[np.ndarray, " points"]) -> Bool[np.ndarray, " points"]:
    """The measured log points of the last tenth of a run, or its last measured one where that has none.

    >>> at_end(np.array([0, 50, 95, 100]), np.array([True, True, False, False])).tolist()
    [False, True, False, False]
    """
    late = measured & (steps >= 0.9 * steps[-1])
    if measured.any() and not late.any():
        late[np.flatnonzero(measured)[-1]] = True
    return late


def final(folder: RunFolder, name: str) -> Float[np.ndarray, " seeds"]:
    """Each seed's mean of a metric over the last tenth of the run, or its last value where that has none."""
    steps, values = curve(folder, name)
    measured = np.asarray(~np.isnan(values).all(axis=0))
    return np.nanmean(values[:, at_end(steps, measured)], axis=1)


def summary(folder: RunFolder, tau: float) -> Iterator[tuple[str, Interval]]:
    """Names and intervals over seeds: the evaluation return, then the dormant fraction of each layer and of all."""
    yield "return", mean_interval(final(folder, "eval_return"))
    for layer in (*layers(folder), "all"):
        yield f"dormant, {layer}", mean_interval(final(folder, f"dormant/{tau:g}/{layer}"))
