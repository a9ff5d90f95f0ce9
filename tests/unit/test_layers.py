"""Options of networks and DQN, compared with slow reference implementations. Interventions in the device loop."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from dormant import trace
from dormant.interventions import (
    Chain,
    ContinualBackprop,
    Dormant,
    Every,
    HareTortoise,
    PlasticityInjection,
    Recycle,
)
from dormant.regularisers import L2Init
from dormant.rl.agents import minatar_dqn
from dormant.rl.agents.dqn import DQN
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.networks import MLP, Injectable
from dormant.rl.networks.convolutional import MinAtarCNN
from dormant.rl.replay.device import Batch

IMAGES = np.random.default_rng(0).integers(0, 2, (3, 4, 4, 2)).astype(np.float32)
OPTIONS = [
    {"activation": "leaky_relu"},
    {"activation": "crelu"},
    {"layer_norm": True},
    {"activation": "crelu", "layer_norm": True},
    {"spectral_norm": True},
]


def slow_layer(values, layer, network):
    if network.layer_norm:
        values = (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + 1e-6)
        values = values * layer["scale"] + layer["offset"]
    if network.activation == "crelu":
        return np.concatenate([np.maximum(values, 0), np.maximum(-values, 0)], axis=-1)
    return np.where(values > 0, values, 0.01 * values if network.activation == "leaky_relu" else 0.0)


def slow_values(params, network):
    conv = np.zeros((3, 2, 2, network.filters))
    for row in range(2):
        for column in range(2):
            patch = IMAGES[:, row : row + 3, column : column + 3, :, None]
            conv[:, row, column] = (patch * params["conv"]["kernel"][None]).sum((1, 2, 3)) + params["conv"]["bias"]
    hidden = slow_layer(conv, params["conv"], network).reshape(3, -1)
    kernel = params["dense"]["kernel"]
    kernel = kernel / np.linalg.norm(kernel, 2) if network.spectral_norm else kernel
    hidden = slow_layer(hidden @ kernel + params["dense"]["bias"], params["dense"], network)
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_network_computes_what_its_options_say(options):
    network = MinAtarCNN(filters=3, width=5, **options)
    params = network.init(jax.random.key(0), (4, 4, 2), actions=2)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    slow = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    tolerance = 0.05 if network.spectral_norm else 1e-4  # eight steps of power iteration only approximate the norm
    assert_allclose(jax.jit(network.apply)(params, IMAGES), slow_values(slow, network), rtol=tolerance, atol=tolerance)


def test_a_layer_with_spectral_norm_is_measured_only():
    network = MinAtarCNN(filters=3, width=5, spectral_norm=True)
    wiring = trace(network.apply, network.init(jax.random.key(0), (4, 4, 2), actions=2), IMAGES)
    assert [(layer.name, layer.width, layer.recyclable) for layer in wiring.layers] == [
        ("conv", 3, False),
        ("dense", 5, False),
    ]


def test_a_penaltys_gradient_joins_the_losss():
    plain = DQN(MLP((4,)), min_replay=1)
    drawn = replace(plain, regulariser=L2Init(0.5))
    state = drawn.init(jax.random.key(0), (3,), actions=2)
    away = jax.tree.map(lambda leaf: leaf + 1.0, state.learner.params)
    state = state._replace(learner=state.learner._replace(params=away))
    ones = jnp.ones(5)
    batch = Batch(jnp.ones((5, 3)), jnp.zeros(5, jnp.int32), ones, ones, jnp.ones((5, 3)))
    gradient = jax.grad(plain.loss, has_aux=True)(away, state.target, batch)[0]
    expected = jax.tree.map(lambda leaf: leaf + 2 * 0.5 * 1.0, gradient)
    adam = optax.adam(plain.learning_rate, eps=plain.adam_epsilon)
    with jax.numpy_dtype_promotion("standard"):
        change, _ = adam.update(expected, adam.init(away), away)
    after = jax.jit(drawn.update)(state, batch)[0].learner.params
    jax.tree.map(lambda got, wanted: assert_allclose(got, wanted, rtol=1e-5), after, optax.apply_updates(away, change))


def test_cures_that_keep_state_work_in_the_loop_with_seeds_side_by_side():
    cures = Chain(
        Every(10, Recycle("gradient", Dormant(0.3), at_most=2)),
        ContinualBackprop(0.01, maturity=5),
        HareTortoise(0.9, period=20),
        PlasticityInjection(at=30),
    )
    small = replace(
        minatar_dqn(100), network=Injectable(MinAtarCNN(4, 8)), min_replay=20, replay_capacity=100, regulariser=L2Init()
    )
    training = DeviceTraining(
        *(small, MinAtar("Asterix", time_limit=50), cures, 1.0, 80, 80),  # one chunk, to compile one program
        seeds=(0, 1),
        score_batch=8,
        eval_episodes=1,
        eval_period=80,
        rank_batch=32,
    )
    state, metrics = training.advance(training.init())
    assert np.isfinite(metrics["loss"]).all() and (metrics["recycled/new_dense"] > 0).all()
    assert all(1 <= rank <= 8 for rank in metrics["srank"])
    params = state.agent.learner.params
    assert (params["new_head"]["kernel"] != params["minus_head"]["kernel"]).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_rank_batch_is_no_negative_number():
    with pytest.raises(ValueError, match="rank_batch must be at least 0 states, got -1"):
        DeviceTraining(rank_batch=-1)
