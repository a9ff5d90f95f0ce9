"""The metrics of a discarded gradient step, computed again with other functions. Also tests the limits on the cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dormant import trace
from dormant.regularisers import CChain
from dormant.rl.agents.dqn import DQN
from dormant.rl.condition import KERNEL_STATES, REPRESENTED, TRIED, condition, representation, trial
from dormant.rl.networks import MLP
from dormant.rl.replay.device import Batch

STATES = jax.random.normal(jax.random.key(3), (5, 3))


def flat(params):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])


def fresh(agent):
    state = jax.jit(partial(agent.init, observation_shape=(3,), actions=2))(jax.random.key(0))
    size = agent.drawn_batch
    seen, after = jax.random.normal(jax.random.key(1), (2, size, 3))
    batch = Batch(seen, jnp.arange(size) % 2, jnp.ones(size), jnp.full(size, 0.9), after)
    return state, batch, trace(agent.network.apply, state.learner.params, seen)


@pytest.mark.parametrize("regulariser", [None, CChain()])
def test_a_trial_has_the_numbers_of_the_step_that_the_agent_would_take(regulariser):
    agent = DQN(MLP((6,)), batch_size=4, learning_rate=0.05, regulariser=regulariser)
    state, batch, wiring = fresh(agent)
    found = jax.jit(partial(trial, agent, wiring))(state, batch, STATES)
    assert set(found) == set(TRIED)
    params, taken = state.learner.params, jax.jit(agent.update)(state, batch)[0].learner.params
    before, after = (np.asarray(agent.network.apply(each, STATES)) for each in (params, taken))
    assert_allclose(found["value_churn"], np.abs(after - before).mean(), rtol=1e-6)
    assert_allclose(found["policy_churn"], np.mean(np.argmax(before, 1) != np.argmax(after, 1)))
    rate = np.linalg.norm(flat(taken) - flat(params)) / np.linalg.norm(flat(params))
    assert_allclose(found["effective_learning_rate"], rate, rtol=1e-5)
    # In the first gradient step C-CHAIN has no churn, so its gradient is that of the loss on the first half.
    first = jax.tree.map(lambda leaf: leaf[:4], batch)
    gradient = jax.jit(jax.grad(lambda params: agent.loss(params, state.target, first)[0]))(params)
    assert_allclose(found["gradient_norm"], np.linalg.norm(flat(gradient)), rtol=1e-5)


def test_a_neuron_whose_gradient_is_zero_is_counted():
    agent = DQN(MLP((6,)), batch_size=4)
    state, batch, wiring = fresh(agent)
    dead = jax.tree.map(jnp.copy, state.learner.params)
    dead["dense_0"]["bias"] = dead["dense_0"]["bias"].at[:3].set(-100.0)
    state = state._replace(learner=state.learner._replace(params=dead), target=dead)
    assert jax.jit(partial(trial, agent, wiring))(state, batch, STATES)["gradient_dormant"] >= 0.5


def test_condition_and_kernel_read_a_limited_number_of_states():
    agent = DQN(MLP((6,)))
    state, _, wiring = fresh(agent)
    params = state.learner.params
    many = jax.random.normal(jax.random.key(2), (KERNEL_STATES + 6, 3))
    changed = many.at[KERNEL_STATES:].set(jnp.nan)
    represented = jax.jit(partial(representation, wiring, agent.network.apply, params))
    for measure in (
        jax.jit(partial(condition, wiring, params, params, params)),
        lambda states: represented(states)["tangent_kernel_rank"],
    ):
        jax.tree.map(np.testing.assert_array_equal, measure(many), measure(changed))
    assert set(represented(many)) == set(REPRESENTED)
