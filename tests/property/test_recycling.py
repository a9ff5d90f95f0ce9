"""Recycling silent neurons changes only their own weights, and never the network's outputs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property.architectures import (
    OPTIMIZERS,
    Architecture,
    Convolution,
    entries,
    examples,
    network_of,
    optimizers,
    plain_architectures,
    silence,
    silenced,
    train,
)

from dormant import Network, Prune, ReDo, redo_as_published, trace
from dormant.wiring import entry_mask, paths

KEY = jax.random.key(7)


def constant(network, donor):
    """Returns the network with the same fresh weights for every key. Random numbers take long to compile."""
    return network._replace(init=lambda key: donor)


def recycle(network, learner, intervention, inputs):
    @jax.jit
    def first(key, learner):
        return intervention.update(key, learner, intervention.init(learner, network), network, *inputs)[0]

    return first(KEY, learner)


def silent_neurons(network, params, inputs):
    return jax.jit(lambda params: network.wiring.dormant(params, *inputs, tau=0.0))(params)


def changed(before, after):
    return jax.tree.map(lambda a, b: np.asarray(a) != np.asarray(b), before, after)


def belongs_to(params, masks, layers):
    """Returns two trees of masks: all entries of the masked neurons, and only the outgoing entries."""
    fed, read = (entries(params, layers, masks, way) for way in ("incoming", "outgoing"))
    return jax.tree.map(np.logical_or, fed, read), read


def check_only_these_change(network, before, after, hits, read):
    for hit, moved in zip(jax.tree.leaves(hits), jax.tree.leaves(changed(before.params, after.params)), strict=True):
        assert not (moved & ~hit).any()
    for hit, leaf in zip(jax.tree.leaves(read), jax.tree.leaves(after.params), strict=True):
        assert not np.asarray(leaf)[hit].any()
    owned = dict(zip(paths(before.params), jax.tree.leaves(hits), strict=True))
    states = (before.opt_state, after.opt_state, jax.jit(network.tx.init)(after.params))
    for path, old, new, start in zip(paths(before.opt_state), *map(jax.tree.leaves, states), strict=True):
        owner = [name for name in owned if path.endswith("/" + name)]
        hit = owned[owner[0]] if owner else np.zeros(np.shape(old), bool)
        assert (np.asarray(new) == np.asarray(start))[hit].all()
        assert (np.asarray(new) == np.asarray(old))[~hit].all()


def check_bit_equal(apply, network, params, inputs, intervention):
    learner = train(network, params)
    after = recycle(network, learner, intervention, inputs)
    run = jax.jit(apply)
    np.testing.assert_array_equal(run(learner.params, *inputs), run(after.params, *inputs))
    return learner, after


@given(plain_architectures, optimizers, st.integers(0, 2**31))
@settings(max_examples=8)
def test_recycling_silent_neurons_keeps_outputs_and_everything_else(architecture, tx, seed):
    network, inputs = constant(network_of(architecture, tx), architecture.weights(2)), examples()
    params, chosen = silenced(network, architecture.weights(1), np.random.default_rng(seed))
    dormant = silent_neurons(network, params, inputs)
    layers = [layer for layer in network.wiring.layers if layer.recyclable]
    assert all((np.asarray(dormant[layer.name]) >= chosen[layer.name]).all() for layer in layers)
    before, after = check_bit_equal(architecture.apply, network, params, inputs, ReDo(tau=0.0))
    check_only_these_change(network, before, after, *belongs_to(before.params, dormant, layers))


@given(plain_architectures, st.sampled_from(["layer", "rms", "group"]), st.integers(0, 2**31))
@example(Architecture(hidden=(1,), activation="elu"), "layer", 29)  # a layer with one neuron has no coupling
@settings(max_examples=4)
def test_a_normalisation_couples_only_the_layers_it_names(architecture, norm, seed):
    architecture = replace(architecture, norm=norm)
    network, inputs = constant(network_of(architecture), architecture.weights(2)), examples()
    layers = [layer for layer in network.wiring.layers if layer.recyclable]
    # A layer with one neuron has no coupling.
    assert all(layer.coupled_by or layer.width == 1 for layer in layers)
    params, chosen = silenced(network, architecture.weights(1), np.random.default_rng(seed))
    dormant = silent_neurons(network, params, inputs)
    assert all((np.asarray(dormant[layer.name]) >= chosen[layer.name]).all() for layer in layers)
    before, after = check_bit_equal(architecture.apply, network, params, inputs, ReDo(tau=0.0, coupled="skip"))
    alone = [layer for layer in layers if not layer.coupled_by]
    check_only_these_change(network, before, after, *belongs_to(before.params, dormant, alone))
    after = recycle(network, before, ReDo(tau=0.0), inputs)
    check_only_these_change(network, before, after, *belongs_to(before.params, dormant, layers))


@given(plain_architectures, optimizers)
@settings(max_examples=3)
def test_with_no_dormant_neuron_the_learner_is_returned_as_it_was(architecture, tx):
    architecture = replace(architecture, activation="tanh")
    network, inputs = constant(network_of(architecture, tx), architecture.weights(2)), examples()
    learner = train(network, architecture.weights(1))
    assert not any(mask.any() for mask in silent_neurons(network, learner.params, inputs).values())
    after = recycle(network, learner, ReDo(tau=0.0, step_count="restart"), inputs)
    assert not any(map(np.any, jax.tree.leaves(changed(learner, after))))


class FlaxNet(nn.Module):
    widths: tuple[int, ...]
    padding: str
    strides: int

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (3, 3), strides=self.strides, padding=self.padding)(x))
        with jax.numpy_dtype_promotion("standard"):  # Flax divides by a NumPy integer
            x = nn.avg_pool(x, (2, 2), padding="SAME")
        x = nn.relu(nn.Dense(6)(x.reshape((x.shape[0], -1))))
        return nn.Dense(2)(x), nn.Dense(1)(x)


@given(st.lists(st.integers(2, 4), min_size=1, max_size=2).map(tuple), st.sampled_from(["SAME", "VALID", "CIRCULAR"]))
@settings(max_examples=3)
def test_flax_networks_keep_their_outputs(widths, padding):
    module = FlaxNet(widths, padding, 1)
    images = examples()[0]
    init = jax.jit(lambda key: module.init(key, images))
    params, donor = init(jax.random.key(0)), init(jax.random.key(1))
    network = Network(trace(module.apply, params, images), lambda key: donor, OPTIMIZERS["adam"])
    assert [layer.width for layer in network.wiring.layers] == [*widths, 6]
    assert all(layer.recyclable for layer in network.wiring.layers)
    params, _ = silenced(network, params, np.random.default_rng(0))
    learner = train(network, params)
    after = recycle(network, learner, ReDo(tau=0.0), (images,))
    run = jax.jit(module.apply)
    for old, new in zip(run(learner.params, images), run(after.params, images), strict=True):
        np.testing.assert_array_equal(old, new)


SMALL = Architecture(
    (Convolution(3, 3, 2, 1, "SAME"),), "max", (3, 1, 2), (4,), "leaky_relu", side=True, residual=True, dueling=True
)


def test_masks_agree_with_brute_force():
    """Outgoing entries of silent neurons do not affect the outputs. All entries of live neurons affect them."""
    network, inputs = network_of(SMALL), examples()
    layers = [layer for layer in network.wiring.layers if layer.recyclable]
    chosen = {layer.name: jnp.arange(layer.width) == 1 for layer in layers}
    params = silence(network, SMALL.weights(3), chosen)
    masks = jax.jit(
        lambda params: [
            entry_mask(params, {layer.name: getattr(layer, way) for layer in layers}, chosen)
            for way in ("incoming", "outgoing")
        ]
    )
    fed, read = jax.tree.map(np.asarray, masks(params))
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    free = np.concatenate(
        [
            np.broadcast_to(hit, leaf.shape).ravel()
            for hit, leaf in zip(*map(jax.tree.leaves, (read, params)), strict=True)
        ]
    )
    cut = np.concatenate(
        [
            np.broadcast_to(hit, leaf.shape).ravel()
            for hit, leaf in zip(*map(jax.tree.leaves, (fed, params)), strict=True)
        ]
    )
    outputs = lambda vector: SMALL.apply(unravel(vector), *inputs)  # noqa: E731
    reference = jax.jit(outputs)(flat)
    moved = jax.jit(jax.vmap(lambda index: outputs(flat.at[index].add(1.0))))(jnp.arange(flat.size))
    matters = np.asarray(jnp.abs(moved - reference[None]).max((1, 2)) > 1e-5)
    assert free.any() and not matters[free].any()
    assert matters[~free & ~cut].all()


def conv_to_dense():
    architecture = Architecture((Convolution(3, 3, 1, 1, "VALID"),), None, (1, 2, 3), (6,), "relu")
    network = network_of(architecture)
    params = architecture.weights(1)
    params["conv0"] = jax.tree.map(lambda leaf: leaf.at[..., 1].set(0.0), params["conv0"])
    params["dense0"]["bias"] = jnp.full(6, 3.0)
    return architecture, network, params


def test_the_references_flatten_fails_the_test_above():
    architecture, network, params = conv_to_dense()
    with pytest.raises(AssertionError):
        check_bit_equal(architecture.apply, network, params, examples(), redo_as_published(0.0))
    learner = train(network, params)
    after = recycle(network, learner, redo_as_published(0.0, xavier=False), examples())
    zeroed = ~np.asarray(after.params["dense0"]["kernel"]).any(axis=1)
    assert zeroed.tolist() == (np.repeat(np.arange(3), 36) == 1).tolist()
    assert 0 < (zeroed & (np.arange(108) % 3 == 1)).sum() < 36


@pytest.mark.parametrize("intervention", [ReDo(0.0), Prune(0.0, period=1)], ids=repr)
def test_the_right_flatten_passes_it(intervention):
    architecture, network, params = conv_to_dense()
    _before, after = check_bit_equal(architecture.apply, network, params, examples(), intervention)
    zeroed = ~np.asarray(after.params["dense0"]["kernel"]).any(axis=1)
    assert zeroed.tolist() == (np.arange(108) % 3 == 1).tolist()


def test_published_recipe_without_its_quirks_is_redo():
    _architecture, network, params = conv_to_dense()
    learner = train(network, params)
    plain = redo_as_published(
        0.0, misaligned_flatten=False, next_recorded_layer=False, xavier=False, keep_bias_moments=False
    )
    ours, theirs = (recycle(network, learner, which, examples()) for which in (ReDo(0.0), plain))
    assert not any(map(np.any, jax.tree.leaves(changed(ours, theirs))))


@pytest.mark.parametrize("quirk", ["misaligned_flatten", "xavier", "keep_bias_moments"])
def test_each_quirk_of_the_published_recipe_has_an_effect(quirk):
    _architecture, network, params = conv_to_dense()
    learner = train(network, params)
    off = dict.fromkeys(["misaligned_flatten", "next_recorded_layer", "xavier", "keep_bias_moments"], False)
    plain, quirky = (redo_as_published(0.0, **off), redo_as_published(0.0, **off | {quirk: True}))
    results = [recycle(network, learner, which, examples()) for which in (plain, quirky)]
    assert any(map(np.any, jax.tree.leaves(changed(*results))))


def impala(params, x):
    """Returns the output of two residual blocks with dense layers. The reference code does not record `Conv_4`."""
    x = x @ params["Conv_0"]["kernel"]
    for first, second in (("Conv_1", "Conv_2"), ("Conv_3", "Conv_4")):
        x = x + jax.nn.relu(jax.nn.relu(x) @ params[first]["kernel"]) @ params[second]["kernel"]
    return jax.nn.relu(jax.nn.relu(x) @ params["Dense_0"]["kernel"]) @ params["final"]["kernel"]


def impala_init(key):
    names = [*(f"Conv_{index}" for index in range(5)), "Dense_0", "final"]
    keys = jax.random.split(key, len(names))
    return {name: {"kernel": jax.random.normal(one, (4, 4))} for name, one in zip(names, keys, strict=True)}


def test_in_a_residual_net_the_next_recorded_layer_is_a_live_one():
    params, x = impala_init(KEY), jax.random.normal(jax.random.key(1), (6, 4))
    params["Conv_3"]["kernel"] = params["Conv_3"]["kernel"].at[:, 0].set(0.0)
    network = Network(trace(impala, params, x), impala_init, OPTIMIZERS["adam"])
    assert [layer.name for layer in network.wiring.layers if layer.recyclable] == ["Conv_1", "Conv_3", "Dense_0"]
    learner, run = train(network, params), jax.jit(impala)
    quirks = [
        redo_as_published(0.0, misaligned_flatten=False, xavier=False, next_recorded_layer=on) for on in (False, True)
    ]
    right, wrong = (recycle(network, learner, which, (x,)).params for which in quirks)
    np.testing.assert_array_equal(run(right, x), run(params, x))
    assert not np.array_equal(run(wrong, x), run(params, x))
    assert not wrong["Dense_0"]["kernel"][0].any() and wrong["Conv_4"]["kernel"][0].any()
