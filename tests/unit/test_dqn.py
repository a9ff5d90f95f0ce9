"""DQN: updates computed by hand, and networks. The device loop: units, schedules and determinism."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learning.probes import PROBES, Probe
from numpy.testing import assert_allclose, assert_array_equal
from runs_of_loops import assert_rows_have_distances, trees_equal

from dormant import Chain, Every, Learner, ReDo
from dormant.rl.agents.dqn import DQN, DQNState, td_error
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.networks import MLP
from dormant.rl.networks.convolution import patches_times_kernel, xla_convolution
from dormant.rl.networks.convolutional import MinAtarCNN
from dormant.rl.replay.device import Batch

AGENT = DQN(network=MLP((8,)), replay_capacity=64, min_replay=8, batch_size=4, target_period=16, epsilon_steps=32)
TRAINING = DeviceTraining(
    agent=AGENT,
    env=PROBES[4],
    intervention=Every(10, ReDo(tau=0.5)),
    agent_steps=64,
    log_period=16,
    seeds=(3, 5),
    eval_episodes=2,
    eval_period=32,
)


@pytest.mark.parametrize(("high", "wide", "channels"), [(10, 10, 4), (5, 7, 1), (3, 3, 6)])
def test_patches_equal_xlas_convolution(high, wide, channels):
    images = jax.random.normal(jax.random.key(0), (3, high, wide, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, 5))
    ours, xlas = (multiply(images, kernel, 1, "VALID") for multiply in (patches_times_kernel, xla_convolution))
    assert_allclose(ours, xlas, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [MinAtarCNN(), MLP((4, 3))], ids=repr)
def test_a_key_decides_a_fresh_network(network):
    first, again, other = (network.init(jax.random.key(seed), (10, 10, 4), 3) for seed in (0, 0, 1))
    trees_equal(first, again)
    assert not np.array_equal(first["head"]["kernel"], other["head"]["kernel"])


@pytest.mark.parametrize(("discount", "expected"), [(0.5, 1.0 + 0.5 * 6.0 - 2.0), (0.0, 1.0 - 2.0)])
def test_the_target_is_the_largest_value_of_the_next_state(discount, expected):
    q_t = jnp.array([4.0, 6.0])
    error = td_error(jnp.array([1.0, 2.0]), jnp.array(1), jnp.array(1.0), jnp.array(discount), q_t, q_t)
    assert float(error) == expected


def linear_batch(*errors):
    """Returns a batch for a network with one input and one action. If Q values are 0, the TD errors are `errors`."""
    ones = jnp.ones((len(errors), 1))
    return Batch(ones, jnp.zeros(len(errors), jnp.int32), jnp.array(errors, jnp.float32), jnp.zeros(len(errors)), ones)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_an_update_is_adam_on_the_mean_huber_loss(weight_decay):
    """The slope of the Huber loss is at most 1. Weight decay is added to the gradient before Adam."""
    agent = DQN(network=MLP(()), weight_decay=weight_decay, learning_rate=0.01)
    params = {"head": {"kernel": jnp.full((1, 1), 0.02), "bias": jnp.full((1,), -0.02)}}
    state = DQNState(Learner(params, agent.optimizer().init(params)), params)
    after, losses = agent.update(state, linear_batch(3.0, 0.5))
    gradient = jax.tree.map(lambda p: jnp.full_like(p, -(1.0 + 0.5) / 2) + weight_decay * p, params)
    adam = optax.adam(0.01, eps=1.5e-4)
    with jax.numpy_dtype_promotion("standard"):
        change, _ = adam.update(gradient, adam.init(params))
    jax.tree.map(
        lambda new, old, wanted: assert_allclose(new - old, wanted, rtol=1e-5), after.learner.params, params, change
    )
    assert float(losses.loss) == (2.5 + 0.125) / 2
    trees_equal(after.target, params)


@pytest.mark.parametrize(("steps", "epsilon"), [(0, 1.0), (8, 1.0), (24, 0.505), (40, 0.01), (1_000, 0.01)])
def test_exploration_falls_in_agent_steps(steps, epsilon):
    assert_allclose(AGENT.epsilon(jnp.int32(steps)), epsilon, rtol=1e-6)


def test_actions_are_greedy_or_uniform():
    agent = DQN(network=MLP(()))
    params = {"head": {"kernel": jnp.zeros((1, 4)), "bias": jnp.array([0.0, 3.0, 1.0, 2.0])}}
    uniform = jax.random.uniform(jax.random.key(0), (4_000, 2))
    act = jax.vmap(lambda u: agent.act(params, jnp.zeros(1), jnp.float32(0.4), u))
    assert_allclose(np.bincount(act(uniform)) / 4_000, [0.1, 0.7, 0.1, 0.1], atol=0.02)


@pytest.mark.parametrize(
    ("before", "after", "copied"), [(15, 16, True), (14, 15, False), (14, 18, True), (16, 17, False)]
)
def test_the_target_is_copied_in_agent_steps(before, after, copied):
    state = AGENT.init(jax.random.key(0), (1,), 2)
    state = state._replace(target=jax.tree.map(jnp.zeros_like, state.target))
    target = AGENT.synchronise(state, jnp.int32(before), jnp.int32(after)).target
    trees_equal(target, state.learner.params if copied else state.target)


@pytest.mark.parametrize(
    "change", [{"n_step": 0}, {"gamma": 1.5}, {"learning_rate": 0.0}, {"min_replay": 0}, {"min_replay": 65}]
)
def test_dqn_refuses_impossible_settings(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(AGENT, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"replay_ratio": 0.0},
        {"replay_ratio": 0.3},
        {"replay_ratio": 1.5},
        {"log_period": 7},
        {"eval_period": 24},
        {"seeds": ()},
    ],
)
def test_a_training_refuses_numbers_that_do_not_fit(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(TRAINING, **change)


@pytest.fixture(scope="module")
def run():
    """Returns all states and all metrics of a whole run."""
    states, metrics = [TRAINING.init()], []
    for _ in range(4):
        state, row = TRAINING.advance(states[-1])
        states.append(state)
        metrics.append(row)
    return states, metrics


def test_metrics_have_a_value_for_each_seed(run):
    _, metrics = run
    assert_array_equal([row["agent_steps"] for row in metrics], [[16] * 2, [32] * 2, [48] * 2, [64] * 2])
    assert_array_equal([row["gradient_steps"][0] for row in metrics], [8, 24, 40, 56])
    assert [bool(np.isfinite(row["eval_return"]).all()) for row in metrics] == [False, True, False, True]
    for row in metrics:
        assert {value.shape for name, value in row.items() if not name.startswith("scores/")} == {(2,)}
        assert row["scores/dense_0"].shape == (2, 8)
        assert_allclose(row["dormant/0.1/dense_0"], (row["scores/dense_0"] <= 0.1).mean(1))
    assert (metrics[-1]["recycled/dense_0"] >= metrics[0]["recycled/dense_0"]).all()
    assert metrics[-1]["recycled/dense_0"].sum() > 0


def test_rows_have_the_condition_of_the_network(run):
    states, rows = run
    assert_rows_have_distances([state.agent.learner.params for state in states], rows)
    kernel = np.asarray(states[-1].agent.learner.params["head"]["kernel"][1], np.float64)
    scaled = kernel / np.sqrt(kernel.shape[1] / kernel.shape[0])
    wanted = np.square(scaled.T @ scaled - np.eye(kernel.shape[1])).sum()
    assert_allclose(rows[-1]["isometry/head/kernel"][1], wanted, rtol=1e-4)


def test_the_same_state_gives_the_same_chunk(run):
    states, metrics = run
    state, row = TRAINING.advance(states[1])
    trees_equal(state, states[2])
    trees_equal(row, metrics[1])


def test_a_state_that_was_written_down_continues_as_if_nothing_happened(run):
    states, _ = run
    restored = jax.tree.map(lambda x: jnp.asarray(np.array(x)), states[2])
    trees_equal(TRAINING.advance(restored)[0], states[3])


def test_chunks_and_evaluation_do_not_change_a_run(run):
    states, _ = run
    once = replace(TRAINING, log_period=64, eval_period=64, eval_episodes=1)
    trees_equal(once.advance(once.init())[0], states[-1])


@pytest.mark.fusing_compiler
def test_a_seed_does_not_depend_on_its_company():
    together = replace(TRAINING, log_period=64, eval_period=640)
    alone = replace(together, seeds=(5,))
    state, _ = alone.advance(alone.init())
    states, _ = together.advance(together.init())
    for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(states), strict=True):
        assert_allclose(mine[0], theirs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("ratio", "gradient_steps"), [(0.25, 14), (2.0, 112)])
def test_the_replay_ratio_counts_gradient_steps_per_agent_step(ratio, gradient_steps):
    training = replace(TRAINING, replay_ratio=ratio, log_period=64, eval_period=640, intervention=Chain(), seeds=(3,))
    _, row = training.advance(training.init())
    assert_array_equal(row["gradient_steps"], [gradient_steps])
    assert np.isfinite(row["loss"]).all()


@pytest.mark.parametrize("truncated", [False, True])
def test_an_episode_that_is_cut_off_is_bootstrapped_and_one_that_ends_is_not(truncated):
    env = Probe("two steps", 2, False, "constant", (), (), truncated)
    agent = replace(AGENT, min_replay=64)
    training = replace(TRAINING, env=env, agent=agent, intervention=Chain(), seeds=(0,), agent_steps=8, log_period=8)
    state, _ = replace(training, eval_period=80).advance(training.init())
    at_its_end = agent.gamma if truncated else 0.0
    assert_allclose(state.replay.discount[0, :8], [agent.gamma, at_its_end] * 4)
    assert state.replay.last[0, :8].tolist() == [False, True] * 4
    # Bootstrapping must use the observation after the last step, not the first observation of the next episode.
    assert state.replay.observations[0, :4, :, 0].tolist() == [[0, 1], [1, 2]] * 2


def test_a_chunk_before_learning_still_measures(run):
    training = replace(TRAINING, agent=replace(AGENT, min_replay=32))
    _, row = training.advance(training.init())
    assert_array_equal(row["gradient_steps"], [0, 0])
    assert np.ma.getmaskarray(row["loss"]).all()
    assert row["dormant/0.1/all"].shape == (2,)


def test_a_fresh_network_is_measured_on_random_play():
    training = DeviceTraining(agent=replace(AGENT, network=MinAtarCNN(2, 8)), env=MinAtar(), seeds=(0,), score_batch=8)
    row = training.measure(training.init())
    assert_allclose(row["scores/dense"].mean(), 1.0, rtol=1e-5)
    assert set(row) >= {"dormant/0/conv", "dormant/0.025/dense", "dormant/0.1/all"}
