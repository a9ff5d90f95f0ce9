"""What was measured along an axis, and the middle and bounds of it over seeds and environments."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.special import stdtrit

from dormant.lab.aggregates import iqm
from dormant.lab.report import at_end
from dormant.lab.statistics import bootstrap_bounds, stratified_interval
from dormant.rl.envs.atari_scores import human_normalised

Points = Float[np.ndarray, " points"]
Measured = Float[np.ndarray, "seeds environments points"]
ATARI = "ALE/"


def measured(rows: pl.DataFrame, environments: Sequence[str], x_name: str, metric: str) -> tuple[Points, Measured]:
    """Where an arm was measured in each of the environments, and what each seed measured there; NaN where one did not.

    Log points at which some environment has no seed are left out, since a mean there would be of other environments.
    """
    value = pl.col(metric).cast(pl.Float64) if metric in rows.columns else pl.lit(None, pl.Float64).alias(metric)
    rows = rows.filter(pl.col("environment").is_in(environments)).select("environment", "seed", x_name, value)
    rows = rows.filter(pl.col(metric).is_finite())
    if rows.is_empty():
        return np.empty(0), np.empty((0, len(environments), 0))
    x, point = np.unique(rows[x_name].to_numpy().astype(float), return_inverse=True)
    seeds, seed = np.unique(rows["seed"].to_numpy(), return_inverse=True)
    values = np.full((len(seeds), len(environments), len(x)), math.nan)
    values[seed, [environments.index(name) for name in rows["environment"]], point] = rows[metric].to_numpy()
    everywhere = np.isfinite(values).any(axis=0).all(axis=0)
    return x[everywhere], values[:, :, everywhere]


def normalised(values: Measured, environments: Sequence[str]) -> Measured:
    """Atari returns on the scale where random play has 0 and a human 1."""
    games = [name.removeprefix(ATARI) for name in environments]
    return np.stack([np.asarray(human_normalised(game, values[:, i])) for i, game in enumerate(games)], axis=1)


def ends(x: Points, values: Measured) -> Float[np.ndarray, "seeds environments"]:
    """The mean over the last tenth of the run, NaN for a seed that has no value there.

    >>> ends(np.array([0.0, 50, 95, 100]), np.array([[[9.0, 9, 1, 3]], [[9, 9, 1, math.nan]]])).tolist()
    [[2.0], [1.0]]
    """
    late = values[:, :, at_end(x.astype(int), np.ones(len(x), bool))]
    count = np.isfinite(late).sum(axis=2)
    return np.where(count > 0, np.nansum(late, axis=2) / np.maximum(count, 1), math.nan)


def t_band(seeds: Float[np.ndarray, "seeds points"], confidence: float = 0.95) -> tuple[Points, Points, Points]:
    """Mean over seeds and its Student t-interval, `mean_interval` at every point at once.

    >>> [round(float(bound[0]), 2) for bound in t_band(np.array([[1.0], [2.0], [3.0]]))]
    [2.0, -0.48, 4.48]
    """
    count = np.isfinite(seeds).sum(axis=0)
    mean = np.where(count > 0, np.nansum(seeds, axis=0) / np.maximum(count, 1), math.nan)
    deviation = np.sqrt(np.nansum((seeds - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    half = stdtrit(np.maximum(count - 1, 1), (1 + confidence) / 2) * deviation / np.sqrt(np.maximum(count, 1))
    half = np.where(count > 1, half, math.nan)
    return mean, mean - half, mean + half


def stratified_band(values: Measured) -> tuple[Points, Points, Points]:
    """Mean over environments of their means, with the stratified t-interval, at every point."""
    bounds = np.array([stratified_interval(values[:, :, point]) for point in range(values.shape[2])])
    return bounds[:, 0], bounds[:, 1], bounds[:, 2]


def iqm_band(values: Measured) -> tuple[Points, Points, Points]:
    """Interquartile mean with the stratified bootstrap's bounds, as the paper draws returns, at every point."""
    tables = [values[:, :, point] for point in range(values.shape[2])]
    bounds = np.array([bootstrap_bounds(iqm, table) for table in tables])
    return np.array([iqm(table) for table in tables]), bounds[:, 0], bounds[:, 1]
