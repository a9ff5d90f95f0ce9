"""How many of a layer's dormant neurons were dormant before: overlap coefficients, from the scores that runs keep."""

from collections.abc import Iterable

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from dormant.lab.spec import Experiment
from dormant.lab.store import RunFolder, curve

# What the neurons that are dormant now are compared with, in few words for a plot's axis.
HISTORIES = {
    "union": "overlap with all before",
    "previous": "overlap with the point before",
    "union-by-chance": "overlap with all before, by chance",
    "previous-by-chance": "overlap with the point before, by chance",
}


def overlaps(
    scores: Float[np.ndarray, "seeds points neurons"], tau: float, history: str
) -> Float[np.ndarray, "seeds points"]:
    """The overlap coefficient of each log point's dormant neurons with a historical set, |X and Y| / min(|X|, |Y|).

    The historical set is the union of all earlier log points' dormant neurons, or the set of the one before. With
    `-by-chance` it is what sets of these sizes would have on average if neurons were drawn at random, max(|X|, |Y|) /
    neurons, which for the union grows as it does. NaN at the first point, and where a set is empty.

    >>> overlaps(np.array([[[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]]), 0.0, "union").tolist()
    [[nan, 1.0, 0.5]]

    Source: Sokar et al. 2023, figure 5, which does not say what its historical set is; that it is not the union with
    the present set follows from its coefficients, which would then all be 1. The published points lie further apart.
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


def named(experiment: Experiment) -> list[str]:
    """The overlaps that an experiment draws or makes claims about, as `overlap/HISTORY/TAU/LAYER`."""
    metrics = [panel.metric for panel in experiment.panels]
    metrics += [claim.quantity.metric for claim in experiment.claims]
    return list(dict.fromkeys(metric for metric in metrics if metric.startswith("overlap/")))


def joined(table: pl.DataFrame, run: RunFolder, metrics: Iterable[str]) -> pl.DataFrame:
    """The rows of a run with a column for each overlap; as it is, where the run kept no scores yet.

    Raises KeyError for a layer that the run has not.
    """
    for metric in metrics if len(table) else ():
        _, history, tau, layer = metric.split("/")
        steps, scores = curve(run, f"scores/{layer}")
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
