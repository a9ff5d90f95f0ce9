"""Intervals over seeds."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit


class Interval(NamedTuple):
    """A mean and the bounds between which the true mean lies with the stated confidence."""

    mean: float
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
    quantile = stdtrit(measured.size - 1, (1 + confidence) / 2)
    half = float(quantile * measured.std(ddof=1) / math.sqrt(measured.size))
    mean = float(measured.mean())
    return Interval(mean, mean - half, mean + half)
