"""Small pictures of neuron scores over training: a row per neuron, a column per log point."""

import base64
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from dormant.lab.drawing import DORMANT
from dormant.lab.runs.folder import RunFolder, rows

COLUMNS, ROWS = 80, 256
NOT_A_NUMBER = 15
HIGHEST = 3.0  # higher scores have the same shade; the mean score of a layer is 1
# Dormant neurons are purple, others grey (darker for higher scores), and NaN is yellow.
PALETTE = [
    tuple(bytes.fromhex(DORMANT[1:])),
    *((grey, grey, grey) for grey in np.linspace(244, 30, 14).astype(int)),
    (230, 190, 0),
]


class ScoreMap(NamedTuple):
    """The scores of one layer in one seed of a run, with a PNG file as a data URL."""

    layer: str
    seed: int
    neurons: int
    agent_steps: int
    dormant: float  # fraction at the last log point
    image: str


def score_maps(run: RunFolder, tau: float) -> Iterator[ScoreMap]:
    """Yields a map per layer of the run's first seed, from input to output. A run without scores has none.

    Raises RunRefused for a damaged line.
    """
    table = list(rows(run.scores))
    first = [row for row in table if row["seed"] == table[0]["seed"]]
    for name in [name for name in (first[0] if first else {}) if name.startswith("scores/")]:
        points = [row for row in first if name in row]
        scores = np.array([row[name] for row in points], dtype=float).T
        dormant = float((scores[:, -1] <= tau).mean())
        steps = int(points[-1]["agent_steps"])
        image = address(levels(scores, tau))
        yield ScoreMap(name.removeprefix("scores/"), first[0]["seed"], len(scores), steps, dormant, image)


def by_dormancy(scores: Float[np.ndarray, "neurons points"], tau: float) -> Int[np.ndarray, " neurons"]:
    """The order of neurons by the number of log points at which they were dormant, then by their last score.

    >>> by_dormancy(np.array([[0.0, 2.0], [0.0, 0.0], [1.0, 1.0]]), tau=0.1).tolist()
    [1, 0, 2]
    """
    return np.lexsort((scores[:, -1], -(scores <= tau).sum(axis=1)))


def levels(scores: Float[np.ndarray, "neurons points"], tau: float) -> UInt8[np.ndarray, "rows columns"]:
    """Sorted scores as sixteen levels: 0 for dormant, 1 to 14 increasing with the score, 15 for NaN.

    Of wide layers and long runs, only evenly spaced neurons and log points are shown.

    >>> levels(np.array([[0.0, 1.0], [3.0, 9.0], [1.0, np.nan]]), tau=0.1).tolist()
    [[0, 5], [5, 15], [14, 14]]
    """
    order = by_dormancy(np.nan_to_num(scores, nan=1.0), tau)
    shown = scores[order][np.ix_(_picked(len(scores), ROWS), _picked(scores.shape[1], COLUMNS))]
    alive = 1 + np.round(13 * np.clip((shown - tau) / (HIGHEST - tau), 0, 1))
    found = np.where(shown <= tau, 0, np.nan_to_num(alive))
    return np.where(np.isnan(shown), NOT_A_NUMBER, found).astype(np.uint8)


def address(picture: UInt8[np.ndarray, "rows columns"]) -> str:
    """A picture of sixteen levels as a data URL with a PNG file."""
    image = Image.fromarray(picture, mode="P")
    image.putpalette([part for colour in PALETTE for part in colour])
    file = io.BytesIO()
    image.save(file, "png", optimize=True, bits=4)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _picked(count: int, most: int) -> Int[np.ndarray, " picked"]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
