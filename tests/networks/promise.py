"""Checks the promise of a recycled layer: recycling silent neurons changes neither outputs nor other weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dormant
from dormant.wiring import entry_mask

TX = optax.sgd(0.1)
X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
SERIES = np.random.default_rng(1).normal(size=(4, 6, 5)).astype(np.float32)


def initialiser(shapes, dtype=jnp.float32):
    """Returns a function `init(key)` for parameters with these shapes."""

    def init(key):
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(one, shape, dtype) for one, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    return init


def table(wiring):
    """Returns a dict from layer names to results: the width of a recycled layer, or the reasons against recycling."""
    return {layer.name: layer.width if layer.recyclable else "; ".join(layer.reasons) for layer in wiring.layers}


def check(apply, shapes, expected, x=X, dtype=jnp.float32, inputs=()):
    """Raises AssertionError if a layer's result is not the expected one, or if recycling changes the outputs.

    `expected` maps a recycled layer to its width, and any other layer to a part of the reason against recycling.
    """
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        _check(apply, initialiser(shapes, dtype), expected, (x, *inputs))


def _check(apply, init, expected, inputs):
    params = init(jax.random.key(0))
    wiring = dormant.trace(apply, params, *inputs)
    found = table(wiring)
    assert set(found) == set(expected), str(wiring)
    for name, promise in expected.items():
        right = found[name] == promise if isinstance(promise, int) else promise in str(found[name])
        assert right, f"{name}: expected {promise}\n{wiring}"
    # A wiring from one sample must also work on larger batches.
    one = dormant.trace(apply, params, *(leaf[:1] for leaf in inputs))
    assert table(one).keys() == found.keys(), f"with one sample:\n{one}"
    assert {layer.name: layer.width for layer in one.layers} == {layer.name: layer.width for layer in wiring.layers}
    for values in one.scores(params, *inputs).values():
        assert jnp.isfinite(values).all()
    _check_recycling(apply, init, wiring, params, inputs)


def _check_recycling(apply, init, wiring, params, inputs):
    safe = [layer for layer in wiring.layers if layer.recyclable and not layer.coupled_by]
    masks = {layer.name: jnp.arange(layer.width) % 3 == 0 for layer in safe}
    fed = entry_mask(params, {layer.name: layer.incoming for layer in safe}, masks)
    params = jax.tree.map(lambda hit, leaf: jnp.where(hit, jnp.zeros_like(leaf), leaf), fed, params)
    silent = wiring.dormant(params, *inputs, tau=0.0)
    redo, network = dormant.ReDo(tau=0.0, coupled="skip"), dormant.Network(wiring, init, TX)
    learner = dormant.Learner(params, TX.init(params))
    after, _ = redo.update(jax.random.key(1), learner, redo.init(learner, network), network, *inputs)
    before, now = apply(params, *inputs), apply(after.params, *inputs)
    jax.tree.map(np.testing.assert_array_equal, before, now)
    chosen = {layer.name: silent[layer.name] for layer in safe}
    fed = entry_mask(params, {layer.name: layer.incoming for layer in safe}, chosen)
    read = entry_mask(params, {layer.name: layer.outgoing for layer in safe}, chosen)
    for name in params:
        touched = np.broadcast_to(fed[name] | read[name], params[name].shape)
        np.testing.assert_array_equal(np.asarray(after.params[name])[~touched], np.asarray(params[name])[~touched])
        assert not np.asarray(after.params[name])[np.broadcast_to(read[name], params[name].shape)].any()
    # Changes the incoming weights of the recycled neurons. Outputs stay equal, because the outgoing weights are zero.
    other = init(jax.random.key(2))
    only_fed = {name: fed[name] & ~read[name] for name in params}
    moved = {name: jnp.where(only_fed[name], other[name], after.params[name]) for name in params}
    jax.tree.map(np.testing.assert_array_equal, apply(moved, *inputs), now)
