"""Statistics of runs: means, interquartile means and their 95 % intervals over seeds, and values at the end of a run.

A table has the axes [seeds, environments]. A missing value is NaN and is ignored. The functions `iqm`, `mean` and
`half_width` also accept an array of tables, with additional leading axes. They then return one value per table.
`benchmarks/coverage.py` measures how often each interval contains the true value. The demo uses this file, so this file
must not import polars.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtr, stdtrit

from dormant.lab.runs.folder import Curve, RunFolder, curve
from dormant.lab.runs.rows import rows
from dormant.metrics import Interval

Degrees = Literal["welch", "fewest"]  # how the degrees of freedom of a t-interval are computed
Table = Float[np.ndarray, "seeds environments"]
QUANTILES = (0.025, 0.975)  # of a 95 % interval
LEVEL = 0.95  # confidence level of intervals


def iqm(table: Float[np.ndarray, "*more seeds environments"]) -> Float[np.ndarray, "*more"]:
    """The interquartile mean: the mean without the lowest and the highest quarter of all values.

    The size of a quarter is rounded down, so no value is dropped if there are three or fewer.

    >>> float(iqm(np.array([[1.0, 2.0], [3.0, 100.0]])))
    2.5

    Source: Agarwal et al. 2021; equal to rliable/metrics.py on complete tables.
    """
    pooled = table.reshape(*table.shape[:-2], -1)
    ordered = np.sort(pooled, axis=-1)  # NaN comes last
    count = np.count_nonzero(~np.isnan(ordered), axis=-1)[..., None]
    cut, rank = count // 4, np.arange(ordered.shape[-1])
    return _mean(ordered, (rank >= cut) & (rank < count - cut), axis=-1)


def mean(table: Float[np.ndarray, "*more seeds environments"]) -> Float[np.ndarray, "*more"]:
    """The mean of the environments' means over seeds. The result is NaN if an environment has no value.

    >>> float(mean(np.array([[1.0, 4.0], [3.0, np.nan]])))
    3.0
    """
    return np.asarray(np.mean(_mean(table, ~np.isnan(table), axis=-2), axis=-1))


def mean_interval(values: Float[np.ndarray, " seeds"]) -> Interval:
    """The mean over seeds with its Student t-interval. The bounds are NaN for fewer than two values.

    The interval assumes independent and roughly normal seeds. With three seeds it extends 2.5 standard deviations to
    each side.

    >>> [round(bound, 2) for bound in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.48, 4.48]
    """
    return stratified_interval(values[:, None])


def stratified_interval(table: Table, degrees: Degrees = "welch", level: float = LEVEL) -> Interval:
    """The mean of the environments' means, with a t-interval over seeds.

    The environments are fixed: they are not a sample of all environments. The variance may differ between environments.
    `degrees` sets the degrees of freedom. "welch" uses Satterthwaite's formula. "fewest" uses the degrees of freedom of
    the environment with the fewest seeds. The intervals of "fewest" are wider and stay valid for skewed values. The
    bounds are NaN if an environment has fewer than two values.

    >>> [round(bound, 2) for bound in stratified_interval(np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]))]
    [4.0, 2.87, 5.13]

    Source: Welch 1947 and Satterthwaite 1946.
    """
    count = np.count_nonzero(~np.isnan(table), axis=0)
    if not count.size or not count.all():
        return Interval(math.nan, math.nan, math.nan)
    estimate = float(np.nanmean(table, axis=0).mean())
    half = float(half_width(table, degrees, level)) if count.min() >= 2 else math.nan
    return Interval(estimate, estimate - half, estimate + half)


def half_width(
    table: Float[np.ndarray, "*more seeds environments"], degrees: Degrees = "welch", level: float = LEVEL
) -> Float[np.ndarray, "*more"]:
    """Half the width of the interval of `stratified_interval`. Every environment needs at least two values.

    >>> round(float(half_width(np.array([[1.0], [2.0], [3.0]]))), 2)
    2.48
    """
    error, freedom = _error(table, degrees)
    return np.asarray(stdtrit(freedom, (1 + level) / 2) * error)


def p_value(
    table: Float[np.ndarray, "*more seeds environments"], null: float = 0.0, degrees: Degrees = "welch"
) -> Float[np.ndarray, "*more"]:
    """The two-sided p-value of the hypothesis that the mean is `null`.

    If the p-value is p, the interval of `stratified_interval` at the level 1 - p has one bound exactly at `null`.

    >>> round(float(p_value(np.array([[1.0], [2.0], [3.0]]))), 3)
    0.074
    """
    error, freedom = _error(table, degrees)
    distance = np.abs(mean(table) - null)
    certain = np.where(distance > 0, 0.0, 1.0)  # the p-value if all values of each environment are equal
    return np.where(error > 0, 2 * stdtr(freedom, -distance / np.where(error > 0, error, 1.0)), certain)


def _error(
    table: Float[np.ndarray, "*more seeds environments"], degrees: Degrees
) -> tuple[Float[np.ndarray, "*more"], Float[np.ndarray, "*more"]]:
    """The standard error of the mean over environments, and its degrees of freedom."""
    count = np.count_nonzero(~np.isnan(table), axis=-2)
    variances = np.nanvar(table, axis=-2, ddof=1) / count
    freedom = count.min(axis=-1) - 1.0
    if degrees == "welch":
        # Divides by the largest variance, because the square of a small variance would underflow.
        largest = variances.max(axis=-1, keepdims=True)
        weights = variances / np.where(largest > 0, largest, 1.0)
        spread = (weights**2 / (count - 1)).sum(axis=-1)
        freedom = np.where(spread > 0, weights.sum(axis=-1) ** 2 / np.where(spread > 0, spread, 1.0), freedom)
    return np.asarray(np.sqrt(variances.sum(axis=-1)) / table.shape[-1]), np.asarray(freedom)


def holm_levels(p_values: Sequence[float], error: float = 1 - LEVEL) -> list[float]:
    """The confidence levels of the intervals of several claims, by Holm's method.

    At these levels, an interval does not contain "no effect" if and only if Holm's method rejects "no effect". The
    claim with the smallest of m p-values gets the level 1 - error / m. The next claim gets 1 - error / (m - 1), and so
    on. All claims after the first claim that Holm does not reject get the level of that claim. A p-value of NaN is
    treated as 1.

    >>> [round(level, 3) for level in holm_levels([0.2, 0.001, 0.03])]
    [0.975, 0.983, 0.975]

    Source: Holm 1979.
    """
    levels, rejecting, share = [0.0] * len(p_values), True, 0.0
    for rank, place in enumerate(np.argsort(p_values)):  # NaN comes last
        if rejecting:
            share = error / (len(p_values) - rank)
            rejecting = p_values[place] <= share
        levels[place] = 1 - share
    return levels


def bootstrap_interval(
    statistic: Callable[..., np.ndarray], table: Table, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """A statistic of a table, with bounds from the percentile bootstrap.

    With few seeds, these bounds are too narrow (`benchmarks/coverage.py`). Therefore no verdict uses them. Plots show
    them next to the paper's bootstrap bounds.

    >>> interval = bootstrap_interval(iqm, np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 9.0]]))
    >>> interval.estimate, interval.low < 2 < interval.high
    (2.0, True)

    Source: Agarwal et al. 2021; rliable/library.py.
    """
    low, high = np.quantile(bootstrap(statistic, table, resamples, seed), QUANTILES)
    return Interval(float(statistic(table)), float(low), float(high))


def bootstrap(
    statistic: Callable[..., np.ndarray], table: Table, resamples: int, seed: int
) -> Float[np.ndarray, " resamples"]:
    """Computes the statistic of resampled tables. Draws seeds with replacement within each environment.

    `statistic` takes one array [resamples, seeds, environments]. Missing values are never drawn.
    """
    rng = np.random.default_rng(seed)
    ordered = np.sort(table, axis=0)  # NaN comes last; the order of seeds does not matter
    count = np.count_nonzero(~np.isnan(table), axis=0)
    places = (rng.random((resamples, *table.shape)) * count).astype(int)
    drawn = np.take_along_axis(ordered[None], places, axis=1)
    missing = np.arange(len(table))[:, None] >= count
    return statistic(np.where(missing, np.nan, drawn))


def ranks(tables: Sequence[Table], resamples: int = 2_000) -> list[Interval]:
    """Ranks the tables by their mean in each environment. Returns the mean rank of each table, with bootstrap bounds.

    Rank 1 is the highest mean. Tables with equal means get the mean of their ranks. A table without a value in an
    environment ranks last there. The bootstrap draws seeds within each table and environment. With few seeds, the
    bounds are too narrow, like those of `bootstrap_interval`.

    >>> [interval.estimate for interval in ranks([np.array([[5.0, 1.0]]), np.array([[3.0, 1.0]])])]
    [1.25, 1.75]
    """
    drawn = [
        [bootstrap(mean, column[:, None], resamples, seed) for column in table.T] for seed, table in enumerate(tables)
    ]
    observed = np.array([[[mean(column[:, None])] for column in table.T] for table in tables])
    low, high = np.quantile(_ranks(np.array(drawn)), QUANTILES, axis=-1)
    return [Interval(*map(float, each)) for each in zip(_ranks(observed)[:, 0], low, high, strict=True)]


def _ranks(means: Float[np.ndarray, "tables environments resamples"]) -> Float[np.ndarray, "tables resamples"]:
    known = np.nan_to_num(means, nan=-np.inf)
    higher, equal = (compare(known[None], known[:, None]).sum(axis=1) for compare in (np.greater, np.equal))
    return (higher + (equal + 1) / 2).mean(axis=1)


def _mean(values: Float[np.ndarray, "*shape"], counted: Bool[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """The mean of the values for which `counted` is true. The result is NaN if there is no such value."""
    count = counted.sum(axis=axis)
    total = np.where(counted, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def at_end(steps: Int[np.ndarray, " points"], measured: Bool[np.ndarray, " points"]) -> Bool[np.ndarray, " points"]:
    """Marks the measured log points in the last tenth of a run. If there are none, marks the last measured log point.

    >>> at_end(np.array([0, 50, 95, 100]), np.array([True, True, False, False])).tolist()
    [False, True, False, False]
    """
    late = measured & (steps >= 0.9 * steps[-1])
    if measured.any() and not late.any():
        late[np.flatnonzero(measured)[-1]] = True
    return late


def at_end_of_run(folder: RunFolder, metric: str) -> Float[np.ndarray, " seeds"]:
    """The mean of a metric over the last tenth of a run, per seed.

    Raises KeyError if the metric was never measured, RunRefused if a row is damaged.
    """
    steps, values = curve(folder, metric)
    measured = np.asarray(~np.isnan(values).all(axis=0))
    return np.nanmean(values[:, at_end(steps, measured)], axis=1)


def training_returns(folder: RunFolder, windows: int, agent_steps: int) -> Curve:
    """The mean return of the training episodes in equal windows of a run of `agent_steps`. Episodes count equally.

    `agent_steps` of the result are the ends of the windows. A window without an episode is NaN.
    Raises RunRefused if a row is damaged.
    """
    ends = agent_steps * np.arange(1, windows + 1) // windows
    table = list(rows(folder.metrics))
    seeds = sorted({row["seed"] for row in table})
    total, count = np.zeros((2, len(seeds), windows))
    for row in table:
        if not row.get("train_episodes"):
            continue
        place = seeds.index(row["seed"]), min(int(np.searchsorted(ends, row["agent_steps"])), windows - 1)
        total[place] += row["train_return"] * row["train_episodes"]
        count[place] += row["train_episodes"]
    return Curve(ends, np.where(count > 0, total / np.maximum(count, 1), np.nan))
