"""Helpers that run the training loops on small examples and keep every state."""

import jax
from numpy.testing import assert_array_equal


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
