"""Whole small runs of the loops, kept state by state for their tests."""

import jax
from numpy.testing import assert_array_equal


def trees_equal(first, second):
    jax.tree.map(assert_array_equal, first, second)


def played(training, folder):
    """Every state and metrics of a whole run of the host loop, and its loop."""
    states, metrics = [training.init()], []
    loop = training.open(folder, states[0])
    while training.agent_steps_done(states[-1]) < training.agent_steps:
        state, row = loop.advance(states[-1])
        states.append(state)
        metrics.append(row)
    return loop, states, metrics
