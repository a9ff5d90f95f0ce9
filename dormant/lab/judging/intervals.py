"""Intervals over seeds; benchmarks/coverage.py measures how often each holds the truth."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

Degrees = Literal["welch", "fewest"]  # how many degrees of freedom a t-interval has
Table = Float[np.ndarray, "seeds environments"]


class Interval(NamedTuple):
    """An estimate and the bounds between which the truth lies with the stated confidence."""

    estimate: float
    low: float
    high: float


def mean_interval(values: Float[np.ndarray, " seeds"], confidence: float = 0.95) -> Interval:
    """The mean over seeds with its Student t-interval; the bounds are NaN for a single seed.

    Seeds without a value (NaN) are left out. The interval assumes that seeds are independent and roughly normal;
    with three seeds it is 2.5 standard deviations to each side, and says so by its width.

    >>> [round(bound, 2) for bound in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.48, 4.48]
    """
    measured = values[~np.isnan(values)]
    if measured.size < 2:
        return Interval(float(measured.mean()) if measured.size else math.nan, math.nan, math.nan)
    return stratified_interval(measured[:, None], confidence=confidence)


def stratified_interval(table: Table, degrees: Degrees = "welch", confidence: float = 0.95) -> Interval:
    """The mean over environments of each one's mean, with a t-interval over seeds; the environments are not a sample.

    Each environment has a variance of its own. The degrees of freedom are Satterthwaite's, or the fewest that an
    environment has, which is wider and keeps its promise for values that are more skewed. Seeds without a value (NaN)
    are left out; the bounds are NaN where an environment has fewer than two.

    >>> [round(bound, 2) for bound in stratified_interval(np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]))]
    [4.0, 2.87, 5.13]

    Source: Welch 1947 and Satterthwaite 1946.
    """
    count = np.count_nonzero(~np.isnan(table), axis=0)
    if not count.size or not count.all():
        return Interval(math.nan, math.nan, math.nan)
    estimate = float(np.nanmean(table, axis=0).mean())
    if count.min() < 2:
        return Interval(estimate, math.nan, math.nan)
    half = float(half_width(table, degrees, confidence))
    return Interval(estimate, estimate - half, estimate + half)


def half_width(
    table: Float[np.ndarray, "*more seeds environments"], degrees: Degrees = "welch", confidence: float = 0.95
) -> Float[np.ndarray, "*more"]:
    """How far the bounds of `stratified_interval` lie from its estimate; every environment needs two values.

    >>> round(float(half_width(np.array([[1.0], [2.0], [3.0]]))), 2)
    2.48
    """
    count = np.count_nonzero(~np.isnan(table), axis=-2)
    variances = np.nanvar(table, axis=-2, ddof=1) / count
    freedom = count.min(axis=-1) - 1.0
    if degrees == "welch":
        largest = variances.max(axis=-1, keepdims=True)
        weights = variances / np.where(largest > 0, largest, 1.0)  # squares of small variances would underflow
        spread = (weights**2 / (count - 1)).sum(axis=-1)
        freedom = np.where(spread > 0, weights.sum(axis=-1) ** 2 / np.where(spread > 0, spread, 1.0), freedom)
    errors = np.sqrt(variances.sum(axis=-1)) / table.shape[-1]
    return np.asarray(stdtrit(freedom, (1 + confidence) / 2) * errors)


def bootstrap_bounds(
    statistic: Callable[..., np.ndarray],
    *tables: Float[np.ndarray, "..."],
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Float[np.ndarray, "2 *shape"]:
    """Lower and upper bounds of a statistic by the percentile bootstrap, seeds redrawn within each environment.

    `statistic` maps over leading axes, as `iqm` does, and is given one table [resamples, seeds,
    environments] for each of `tables`, which are redrawn independently. Seeds without a value (NaN) are never drawn.
    With few seeds these bounds are too narrow, which benchmarks/coverage.py measures: they are for pictures beside
    the paper's, which has the same, and no verdict rests on them.

    Source: Agarwal et al. 2021; rliable/library.py.
    """
    rng = np.random.default_rng(seed)
    drawn = statistic(*[_redrawn(rng, table, resamples) for table in tables])
    tail = (1 - confidence) / 2
    return np.quantile(drawn, [tail, 1 - tail], axis=0)


def bootstrap_interval(
    statistic: Callable[..., np.ndarray], *tables: Table, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """A statistic of tables with its 95 % bounds, as `bootstrap_bounds` has them.

    >>> from dormant.lab.judging.intervals import iqm
    >>> interval = bootstrap_interval(iqm, np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 9.0]]))
    >>> interval.estimate, interval.low < 2 < interval.high
    (2.0, True)
    """
    low, high = bootstrap_bounds(statistic, *tables, resamples=resamples, seed=seed)
    return Interval(float(statistic(*tables)), float(low), float(high))


def _redrawn(
    rng: np.random.Generator, table: Table, resamples: int
) -> Float[np.ndarray, "resamples seeds environments"]:
    ordered = np.sort(table, axis=0)  # NaN comes last, and the order of seeds is of no account
    count = np.count_nonzero(~np.isnan(table), axis=0)
    places = (rng.random((resamples, *table.shape)) * count).astype(int)
    drawn = np.take_along_axis(ordered[None], places, axis=1)
    absent = np.arange(len(table))[:, None] >= count
    return np.where(absent, np.nan, drawn)


def iqm(table: Float[np.ndarray, "*more seeds environments"]) -> Float[np.ndarray, "*more"]:
    """The interquartile mean: of all values together, the mean without the lowest and the highest quarter.

    A quarter of the values is rounded down, so that of up to three none is left out.

    >>> float(iqm(np.array([[1.0, 2.0], [3.0, 100.0]])))
    2.5
    """
    ordered = np.sort(_pooled(table), axis=-1)  # NaN comes last
    count = np.count_nonzero(~np.isnan(ordered), axis=-1)[..., None]
    cut, place = count // 4, np.arange(ordered.shape[-1])
    return _mean(ordered, (place >= cut) & (place < count - cut), axis=-1)


def mean(table: Float[np.ndarray, "*more seeds environments"]) -> Float[np.ndarray, "*more"]:
    """The mean over environments of each one's mean.

    >>> float(mean(np.array([[1.0, 4.0], [3.0, np.nan]])))
    3.0
    """
    return np.asarray(np.mean(_by_environment(table), axis=-1))


def median(table: Float[np.ndarray, "*more seeds environments"]) -> Float[np.ndarray, "*more"]:
    """The median over environments of each one's mean.

    >>> float(median(np.array([[1.0, 4.0, 9.0], [3.0, 4.0, 9.0]])))
    4.0
    """
    return np.asarray(np.median(_by_environment(table), axis=-1))


def optimality_gap(
    table: Float[np.ndarray, "*more seeds environments"], target: float = 1.0
) -> Float[np.ndarray, "*more"]:
    """By how much the values fall short of the target on average, where those above it do not make up for others.

    >>> float(optimality_gap(np.array([[0.5, 7.0]])))
    0.25
    """
    values = _pooled(table)
    return _mean(target - np.minimum(values, target), ~np.isnan(values), axis=-1)


def performance_profile(
    table: Float[np.ndarray, "*more seeds environments"], thresholds: Float[np.ndarray, " thresholds"]
) -> Float[np.ndarray, "*more thresholds"]:
    """The share of the runs, of all environments together, whose value lies above each threshold.

    >>> performance_profile(np.array([[0.5, 1.5], [2.5, 3.5]]), np.array([0.0, 1.0, 3.5])).tolist()
    [1.0, 0.75, 0.0]
    """
    values = _pooled(table)[..., None, :]
    return _mean((values > thresholds[:, None]).astype(float), ~np.isnan(values), axis=-1)


def probability_of_improvement(
    table: Float[np.ndarray, "*more seeds environments"], against: Float[np.ndarray, "*more others environments"]
) -> Float[np.ndarray, "*more"]:
    """How likely a run of one arm is better than one of another in an environment, on average over environments.

    Equal values count half.

    >>> float(probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[2.0], [1.0]])))
    0.625
    """
    mine, theirs = table[..., :, None, :], against[..., None, :, :]
    wins = (mine > theirs) + 0.5 * (mine == theirs)
    present = ~(np.isnan(mine) | np.isnan(theirs))
    return np.asarray(np.mean(_mean(wins, present, axis=(-3, -2)), axis=-1))


def _pooled(table: Float[np.ndarray, "*more seeds environments"]) -> Float[np.ndarray, "*more runs"]:
    return table.reshape(*table.shape[:-2], -1)


def _by_environment(table: Float[np.ndarray, "*more seeds environments"]) -> Float[np.ndarray, "*more environments"]:
    return _mean(table, ~np.isnan(table), axis=-2)


def _mean(
    values: Float[np.ndarray, "*shape"], counted: Bool[np.ndarray, "..."], axis: int | tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """The mean of the values that count, NaN where none does."""
    count = counted.sum(axis=axis)
    total = np.where(counted, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
