"""What a run came to, as numbers: the last tenth of its log points, averaged."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from dormant.lab.statistics import Interval, mean_interval
from dormant.lab.store import RunFolder, curve, layers


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
