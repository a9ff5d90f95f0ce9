"""Helpers that run the training loops on small examples and keep every state."""

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal


def trees_equal(first, second):
    jax.tree.map(assert_array_equal, first, second)


def played(training, folder):
    """Runs a training in the host loop to the end. Returns the loop, all states and all metrics."""
    states, metrics = [training.init()], []
    loop = training.open(folder, states[0])
    while training.agent_steps_done(states[-1]) < training.agent_steps:
        state, row = loop.advance(states[-1])
        states.append(state)
        metrics.append(row)
    return loop, states, metrics


def assert_rows_have_distances(params, rows):
    """Asserts that each row has the distances of the weights from the start of the run and from the previous row.

    `params` are the parameters at the start and at each row, with a leading axis of seeds.
    """

    def distance(one, other, seed):
        moved = jax.tree.map(lambda a, b: np.asarray(a[seed] - b[seed], np.float64).ravel(), one, other)
        return np.sqrt(np.square(np.concatenate(jax.tree.leaves(moved))).mean())

    assert distance(params[0], params[-1], 0) > 0
    for before, now, row in zip(params[:-1], params[1:], rows, strict=True):
        for seed, (far, near) in enumerate(zip(row["distance_from_start"], row["distance_since_log"], strict=True)):
            assert_allclose(far, distance(now, params[0], seed), rtol=1e-5)
            assert_allclose(near, distance(now, before, seed), rtol=1e-5)
            assert 0 < row["active_fraction"][seed] <= 1
