"""The Atari networks: shapes, initial weights, options, and traced wirings."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dormant import Learner, Network, ReDo, trace
from dormant.rl.networks import QNetwork
from dormant.rl.networks.convolutional import ImpalaResNet, NatureCNN

NETWORKS = [
    NatureCNN(0.1),
    NatureCNN(0.1, padding="VALID"),
    NatureCNN(0.1, dueling=True),
    NatureCNN(0.1, activation="crelu"),
    NatureCNN(0.1, layer_norm=True),
    ImpalaResNet(0.1),
    ImpalaResNet(0.1, activation="crelu"),
    ImpalaResNet(0.1, layer_norm=True),
]
INNER = [f"stack{stack}_block{block}_conv1" for stack in (1, 2, 3) for block in (1, 2)]


SEEN = jnp.asarray(np.random.default_rng(9).integers(0, 256, (4, 40, 44, 4), np.uint8))


@cache
def fresh(network):
    return network.init(jax.random.key(0), (40, 44, 4), 3)


@cache
def compiled(network):
    return jax.jit(network.apply)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_every_network_gives_a_value_for_each_action(network):
    params = fresh(network)
    assert isinstance(network, QNetwork)
    q = compiled(network)(params, SEEN)
    assert q.shape == (4, 3) and np.isfinite(q).all() and np.ptp(q) > 0


@pytest.mark.parametrize(("padding", "flat"), [("SAME", 7_744), ("VALID", 3_136)])
def test_the_dense_layer_of_the_nature_network(padding, flat):
    shapes = jax.eval_shape(lambda key: NatureCNN(padding=padding).init(key, (84, 84, 4), 6), jax.random.key(0))
    assert shapes["dense"]["kernel"].shape == (flat, 512)


@pytest.mark.parametrize("width", [2, 4, 0.3])
def test_the_width_rounds_up(width):
    shapes = jax.eval_shape(lambda key: NatureCNN(width).init(key, (84, 84, 4), 6), jax.random.key(0))
    widths = [shapes[name]["bias"].shape[0] for name in ("conv1", "conv2", "conv3", "dense", "head")]
    assert widths == [*(int(np.ceil(n * width)) for n in (32, 64, 64, 512)), 6]


@pytest.mark.parametrize("network", [NatureCNN, ImpalaResNet])
def test_a_width_has_to_be_positive(network):
    with pytest.raises(ValueError, match="width must be positive and finite, got 0"):
        network(0)


def test_kernels_are_xavier_and_those_of_residual_blocks_lecun():
    params = ImpalaResNet().init(jax.random.key(0), (84, 84, 4), 6)
    block, conv = params["stack2_block1_conv1"]["kernel"], params["stack2_conv"]["kernel"]
    assert_allclose(block.std(), np.sqrt(1 / (9 * 64)), rtol=0.02)
    assert np.abs(block).max() > 2 * block.std()  # Xavier's uniform distribution ends at 1.73 deviations
    assert_allclose(np.abs(conv).max(), np.sqrt(6 / (9 * 32 + 9 * 64)), rtol=0.01)
    assert not any(np.any(layer["bias"]) for layer in params.values())


def test_a_dueling_heads_advantages_have_no_mean():
    network = NatureCNN(0.1, dueling=True)
    params = fresh(network)
    moved = params | {"advantage": params["advantage"] | {"bias": jnp.full(3, 5.0)}}
    apply = compiled(network)
    assert_allclose(apply(params, SEEN), apply(moved, SEEN), atol=1e-5)


def recycled(network):
    wiring = trace(network.apply, fresh(network), SEEN[:1])
    return [layer.name for layer in wiring.layers if not layer.reasons], [layer.name for layer in wiring.layers]


@pytest.mark.parametrize("options", [{}, {"padding": "VALID"}, {"dueling": True}, {"layer_norm": True}], ids=repr)
def test_every_hidden_layer_of_the_nature_network_is_recycled(options):
    assert recycled(NatureCNN(0.1, **options))[0] == ["conv1", "conv2", "conv3", "dense"]


@pytest.mark.parametrize("options", [{}, {"dueling": True}, {"layer_norm": True}], ids=repr)
def test_residual_streams_are_measured_only(options):
    able, measured = recycled(ImpalaResNet(0.1, **options))
    assert able == [*INNER, "dense"]
    assert {f"stack{number}_conv" for number in (1, 2, 3)} <= set(measured)


@pytest.mark.parametrize("network", [one for one in NETWORKS if not one.layer_norm], ids=repr)
def test_recycling_silent_neurons_changes_no_bit(network):
    """Zero incoming weights and a zero bias silence one neuron per layer, also with CReLU."""
    params, tx = dict(fresh(network)), optax.adam(1e-3)
    wiring = trace(network.apply, params, SEEN)
    able = [layer.name for layer in wiring.layers if not layer.reasons]
    for name in able:
        layer = params[name]
        params[name] = {"kernel": layer["kernel"].at[..., 1].set(0.0), "bias": layer["bias"].at[1].set(0.0)}
    learner = Learner(params, tx.init(params))
    parts = Network(wiring, lambda key: fresh(network), tx)
    redo = ReDo(tau=0.0)
    after = jax.jit(lambda key: redo.update(key, learner, redo.init(learner, parts), parts, SEEN)[0])(jax.random.key(1))
    for name in able:
        assert np.any(after.params[name]["kernel"][..., 1]), name
    run = compiled(network)
    assert_array_equal(run(params, SEEN), run(after.params, SEEN))
