"""The end of a run as numbers: the last tenth of its log points, averaged.

The demo uses this file, so it must not need polars.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from dormant.lab.judging.intervals import mean_interval
from dormant.lab.runs.folder import RunFolder, curve, layers
from dormant.metrics import Interval


def at_end(steps: Int[np.ndarray, " points"], measured: Bool[np.ndarray, " points"]) -> Bool[np.ndarray, " points"]:
    """The measured log points in the last tenth of a run, or the last measured one if there are none.

    >>> at_end(np.array([0, 50, 95, 100]), np.array([True, True, False, False])).tolist()
    [False, True, False, False]
    """
    late = measured & (steps >= 0.9 * steps[-1])
    if measured.any() and not late.any():
        late[np.flatnonzero(measured)[-1]] = True
    return late


def at_end_of_run(folder: RunFolder, metric: str) -> Float[np.ndarray, " seeds"]:
    """Per seed, the mean of a metric over the last tenth of a run.

    Raises KeyError if the metric was never measured, RunRefused for a damaged row.
    """
    steps, values = curve(folder, metric)
    measured = np.asarray(~np.isnan(values).all(axis=0))
    return np.nanmean(values[:, at_end(steps, measured)], axis=1)


def summary(folder: RunFolder, tau: float) -> Iterator[tuple[str, Interval]]:
    """Names and intervals over seeds: the evaluation return, then the dormant fraction per layer and of all layers.

    Raises KeyError and RunRefused as `at_end_of_run` does.
    """
    yield "return", mean_interval(at_end_of_run(folder, "eval_return"))
    for layer in (*layers(folder), "all"):
        yield f"dormant, {layer}", mean_interval(at_end_of_run(folder, f"dormant/{tau:g}/{layer}"))
