"""UPGD, compared with numbers computed by hand. Networks with global average pooling and Fourier features."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import dormant
from dormant import UPGD, upgd
from dormant.rl.agents.dqn import DQN
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.networks import MLP
from dormant.rl.networks.convolutional import ImpalaResNet, MinAtarCNN, NatureCNN

PLAIN = UPGD(decay=0.0, noise=0.0, weight_decay=0.0, factor=1.0)


def change_of(tx, gradient, weights, steps=1):
    params, state = {"w": jnp.array(weights)}, None
    state = tx.init(params)
    for _ in range(steps):
        change, state = tx.update({"w": jnp.array(gradient)}, state, params)
    return change["w"], state


def test_useful_weights_change_less():
    """The weights (1, -2) have the gradients (0.5, 0.25), so their utilities are -0.5 and 0.5.

    The maximum is 0.5, so the gates are 1 - sigmoid(-1) and 1 - sigmoid(1).
    """
    expected = [-0.1 * 0.5 * 0.7310586, -0.1 * 0.25 * 0.2689414]
    assert_allclose(change_of(upgd(0.1, settings=PLAIN), [0.5, 0.25], [1.0, -2.0])[0], expected, rtol=1e-6)
    twice = replace(PLAIN, factor=2.0, weight_decay=0.5)
    decayed = np.array(expected) * 2 - 0.1 * 0.5 * np.array([1.0, -2.0])
    assert_allclose(change_of(upgd(0.1, settings=twice), [0.5, 0.25], [1.0, -2.0])[0], decayed, rtol=1e-6)


def test_the_largest_utility_is_the_scale_even_if_a_harmful_weight_has_a_larger_absolute_one():
    """The utilities are -1 and 0.5, so the gates are 1 - sigmoid(-2) and 1 - sigmoid(1)."""
    change, _ = change_of(upgd(1.0, settings=PLAIN), [1.0, 0.25], [1.0, -2.0])
    assert_allclose(change, [-0.8807971, -0.25 * 0.2689414], rtol=1e-6)


def test_the_gate_is_the_same_at_every_step_of_a_steady_gradient():
    """In the authors' code, the first gates differ. It divides a bias-corrected utility by an uncorrected maximum."""
    steady = replace(PLAIN, decay=0.999)
    first, later = (change_of(upgd(0.1, settings=steady), [0.5, 0.25], [1.0, -2.0], steps)[0] for steps in (1, 9))
    assert_allclose(first, later, rtol=1e-4)


def test_harmful_weights_change_most_if_no_weight_is_useful():
    """The utilities are -1 and -0.25, so the gates are 1 - sigmoid(-1) and 1 - sigmoid(-0.25)."""
    change, _ = change_of(upgd(1.0, settings=PLAIN), [1.0, 0.25], [1.0, 1.0])
    assert_allclose(change, [-0.7310586, -0.25 * 0.5621765], rtol=1e-6)
    assert_allclose(change_of(upgd(1.0, settings=PLAIN), [1.0, 1.0], [0.0, 0.0])[0], [-0.5, -0.5])


def test_the_noise_differs_between_steps_and_starts():
    noisy = replace(PLAIN, noise=1.0)
    still, drawn = [0.0] * 1_000, {}
    for start, steps in ((0.0, 1), (0.0, 2), (1.0, 1)):
        change, _ = change_of(upgd(1.0, settings=noisy), still, [start] * 1_000, steps)
        drawn[start, steps] = np.asarray(change)
    assert_allclose(drawn[0.0, 1].std(), 0.5, rtol=0.1)  # the gate halves the noise
    assert (drawn[0.0, 1] != drawn[0.0, 2]).any() and (drawn[0.0, 1] != drawn[1.0, 1]).any()


def test_a_direction_replaces_the_gradient_and_its_moments_can_be_reset():
    tx = upgd(0.1, optax.scale_by_adam(), PLAIN)
    params = {"w": jnp.array([1.0, -2.0])}
    with jax.numpy_dtype_promotion("standard"):
        change, state = tx.update({"w": jnp.array([0.5, 0.25])}, tx.init(params), params)
    assert_allclose(change["w"], [-0.07310586, -0.02689414], rtol=1e-4)  # Adam's first step has length 1
    learner = dormant.graft(dormant.Learner(params, state), {"w": jnp.array([True, False])}, {"w": jnp.zeros(2)}, tx)
    for each in (learner.opt_state.utility, learner.opt_state.inner.mu):
        assert each["w"][0] == 0 and each["w"][1] != 0


def test_an_update_without_parameters_is_refused():
    with pytest.raises(ValueError, match="upgd needs the parameters"):
        upgd(0.1).update({}, upgd(0.1).init({}))


def test_the_agent_trains_with_upgd_and_recycles():
    agent = DQN(MLP((4,)), replay_capacity=64, min_replay=16, batch_size=4, upgd=UPGD())
    redo = dormant.Every(8, dormant.ReDo(0.9))
    training = DeviceTraining(
        agent, MinAtar("Asterix"), redo, agent_steps=32, log_period=32, eval_period=32, seeds=(0, 1)
    )
    state, metrics = training.advance(training.init())
    assert np.isfinite(metrics["loss"]).all() and (metrics["recycled/dense_0"] > 0).all()
    keys = state.agent.learner.opt_state.key
    assert (keys[0] != keys[1]).any()


# Networks.


@pytest.mark.parametrize("network", [MinAtarCNN(4, 6), NatureCNN(0.125)], ids=["minatar", "nature"])
def test_global_average_pooling_means_maps_and_shrinks_the_dense_layer(network):
    shape = (10, 10, 3) if isinstance(network, MinAtarCNN) else (84, 84, 4)
    pooled = replace(network, gap=True)
    params = pooled.init(jax.random.key(0), shape, actions=2)
    channels = 4 if isinstance(network, MinAtarCNN) else 8
    assert params["dense"]["kernel"].shape[0] == channels
    # Without pooling, a dense kernel that is divided among all positions gives the same outputs.
    places = network.init(jax.random.key(0), shape, actions=2)["dense"]["kernel"].shape[0] // channels
    spread = params | {"dense": params["dense"] | {"kernel": jnp.tile(params["dense"]["kernel"], (places, 1)) / places}}
    x = jax.random.bits(jax.random.key(1), (2, *shape), jnp.uint8)
    assert_allclose(pooled.apply(params, x), network.apply(spread, x), rtol=1e-4, atol=1e-5)
    wiring = dormant.trace(pooled.apply, params, x)
    assert all(layer.recyclable for layer in wiring.layers)


def test_the_residual_network_pools_too_and_refuses_fourier_features():
    params = jax.eval_shape(lambda key: ImpalaResNet(0.125, gap=True).init(key, (84, 84, 4), 2), jax.random.key(0))
    assert params["dense"]["kernel"].shape[0] == 8
    with pytest.raises(ValueError, match="not defined for the residual network"):
        ImpalaResNet(activation="fourier")


@pytest.mark.parametrize("network", [MinAtarCNN(4, 6), NatureCNN(0.125)], ids=["minatar", "nature"])
def test_fourier_features_halve_the_neurons_and_keep_the_outputs(network):
    shape = (10, 10, 3) if isinstance(network, MinAtarCNN) else (84, 84, 4)
    fourier = replace(network, activation="fourier")
    params = fourier.init(jax.random.key(0), shape, actions=2)
    plain = network.init(jax.random.key(0), shape, actions=2)
    for name, layer in plain.items():
        inputs, neurons = layer["kernel"].shape[-2:]
        assert params[name]["kernel"].shape[-2:] == (inputs, neurons if name == "head" else neurons // 2)
    x = jax.random.bits(jax.random.key(1), (2, *shape), jnp.uint8)
    activations = dormant.trace(fourier.apply, params, x).activations(params, x)
    assert_allclose(activations["dense"] ** 2 + activations["dense@2"] ** 2, 1.0, rtol=1e-5)


def test_an_odd_width_has_no_half():
    with pytest.raises(ValueError, match="must be even, got 5"):
        MinAtarCNN(4, 5, activation="fourier")
