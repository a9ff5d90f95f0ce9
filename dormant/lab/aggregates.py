"""What tables of returns come to: one number over seeds and environments, as the field reports it.

A table has axes [seeds, environments], after any others, over which every function here maps. A seed without a value
is NaN, and left out. An environment without any value makes the means over environments NaN, since these are then of
other environments; the pooled numbers (IQM, optimality gap, profile) are of the values there are.

Source: Agarwal et al. 2021; rliable/metrics.py and rliable/library.py, whose numbers these equal on full tables.
"""

import numpy as np
from jaxtyping import Bool, Float


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
