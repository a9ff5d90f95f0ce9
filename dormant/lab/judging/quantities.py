"""One number per run, and the pairs of runs that a claim compares."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from dormant.lab.design import Claim, Quantity
from dormant.lab.judging.summary import at_end

PerRun = dict[tuple[str, int], float]  # (environment, seed) -> a quantity


class Pairs(NamedTuple):
    """A claim's quantity in the runs of both arms, paired by seed and environment. A missing value is NaN."""

    environments: tuple[str, ...]
    arm: Float[np.ndarray, "seeds environments"]
    against: Float[np.ndarray, "seeds environments"]
    diverged: int = 0  # runs that are left out because their network diverged

    def complete(self) -> Bool[np.ndarray, "seeds environments"]:
        """Where both values of a pair were measured."""
        return ~(np.isnan(self.arm) | np.isnan(self.against))

    def of(self, environments: Bool[np.ndarray, " environments"]) -> "Pairs":
        """The pairs of the selected environments."""
        names = tuple(name for name, kept in zip(self.environments, environments, strict=True) if kept)
        return Pairs(names, self.arm[:, environments], self.against[:, environments], self.diverged)


def pairs(claim: Claim, frame: pl.DataFrame) -> Pairs:
    """The pairs of runs that a claim compares, from a table of `judging.table.read`.

    A claim without `against` pairs the end of each run with its own start. Runs whose network diverged are left out.
    """
    points, lost = _log_points(claim, frame), 0
    if "diverged" in frame.columns:
        lost = points.filter(pl.col("diverged").is_not_null()).n_unique(["arm", "environment", "seed"])
        points = points.filter(pl.col("diverged").is_null())
    arm = _per_run(points.filter(arm=claim.arm), claim.quantity.reduce, claim.quantity.after)
    if claim.against is None:
        against = _per_run(points.filter(arm=claim.arm), "start")
    else:
        against = _per_run(points.filter(arm=claim.against), claim.quantity.reduce, claim.quantity.after)
    environments = tuple(sorted({environment for environment, _ in arm | against}))
    seeds = sorted({seed for _, seed in arm | against})
    shape = (len(seeds), len(environments))
    tables = [
        np.array([[values.get((name, seed), np.nan) for name in environments] for seed in seeds]).reshape(shape)
        for values in (arm, against)
    ]
    return Pairs(environments, *tables, diverged=lost)


def reduced(
    reduce: str, after: float, steps: Int[np.ndarray, " points"], values: Float[np.ndarray, " points"]
) -> float:
    """One number for a curve: its "start", "end", "mean" or "lowest" value. NaN if nothing was measured.

    The end is the mean of the last tenth of the run. The mean is the area under the curve divided by its length,
    without the first share `after` of the run. The lowest value is taken after the first measured point.

    >>> reduced("mean", 0.5, np.array([0, 50, 75, 100]), np.array([9.0, 1.0, 2.0, 1.0]))
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


def _log_points(claim: Claim, frame: pl.DataFrame) -> pl.DataFrame:
    """The log points of both arms, with the metric as `value`, null where the claim ignores it."""
    metric = claim.quantity.metric
    value = pl.col(metric) if metric in frame.columns else pl.lit(None)
    points = frame.filter(pl.col("arm").is_in([claim.arm, claim.against or claim.arm])).select(
        *("arm", "environment", "seed", "agent_steps", *(["diverged"] if "diverged" in frame.columns else [])),
        value=value.cast(pl.Float64),
        ignored=_wrong_age(claim.quantity),
    )
    # Both arms ignore a log point that one of them ignores: they are compared at the same agent steps.
    ignored = pl.col("ignored").any().over("environment", "agent_steps")
    return points.with_columns(value=pl.when(~ignored).then("value")).sort("agent_steps")


def _wrong_age(quantity: Quantity) -> pl.Expr:
    low, high = quantity.reset_age
    return ((pl.col("reset_age") < low) | (pl.col("reset_age") >= high)).fill_null(False)


def _per_run(points: pl.DataFrame, reduce: str, after: float = 0.0) -> PerRun:
    numbers = {}
    for (environment, seed), run in points.group_by("environment", "seed", maintain_order=True):
        steps, values = run["agent_steps"].to_numpy(), run["value"].to_numpy().astype(float)
        numbers[str(environment), int(seed)] = reduced(reduce, after, steps, values)
    return numbers
