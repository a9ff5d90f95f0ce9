"""Parameters that are not trained (masked in the optimizer, or behind `stop_gradient`) are never overwritten."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dormant
from dormant.surgery import untrained

X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
ADAM, FIX = optax.adam(1e-3), optax.set_to_zero()


def init(key):
    keys = jax.random.split(key, 4)
    shapes = {"a": (5, 8), "b": (8, 6), "bias": (6,), "c": (6, 2)}
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def apply(params, x):
    hidden = jax.nn.relu(x @ params["a"]) @ params["b"] + params["bias"][None]
    return jax.nn.relu(hidden) @ params["c"]


PARAMS = init(jax.random.key(0))
PARAMS = PARAMS | {"a": PARAMS["a"].at[:, 0].set(0.0), "bias": PARAMS["bias"].at[0].set(-100.0)}
WIRING = dormant.trace(apply, PARAMS, X)


def labels(*fixed):
    return {name: "fix" if name in fixed else "train" for name in PARAMS}


def masked(*fixed):
    return {name: name not in fixed for name in PARAMS}


def partly(*fixed):
    return optax.multi_transform({"train": ADAM, "fix": FIX}, labels(*fixed))


OPTIMIZERS = {
    "multi_transform": partly("c"),
    "with clipping and decay": optax.chain(optax.clip_by_global_norm(1.0), partly("c")),
    "masked set_to_zero": optax.chain(ADAM, optax.masked(FIX, {name: name == "c" for name in PARAMS})),
    "masked Adam alone": optax.masked(ADAM, masked("c")),
    "an injected learning rate": optax.chain(
        optax.inject_hyperparams(optax.adam)(1e-3), optax.masked(FIX, {name: name == "c" for name in PARAMS})
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_does_not_train_is_found(name):
    assert untrained(OPTIMIZERS[name], PARAMS) == {"c"}


@pytest.mark.parametrize("tx", [ADAM, optax.sgd(0.1), optax.sgd(0.0), optax.identity(), FIX, optax.lbfgs()])
def test_an_optimizer_of_all_parameters_skips_none(tx):
    assert not untrained(tx, PARAMS)


@pytest.mark.parametrize(
    "cure",
    [
        dormant.ReDo(tau=0.0),
        dormant.Prune(tau=0.0, period=1),
        dormant.Recycle(),
        dormant.ContinualBackprop(replacement_rate=1.0, maturity=0),
        dormant.redo_as_published(0.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("fixed", "kept"), [("c", "a"), ("bias", "a"), ("a", "b+bias")])
def test_a_layer_that_it_feeds_or_reads_is_not_recycled(cure, fixed, kept):
    tx = partly(fixed)
    network, learner = dormant.Network(WIRING, init, tx), dormant.Learner(PARAMS, tx.init(PARAMS))
    with pytest.warns(UserWarning, match=f"not recycled: the optimizer does not train {fixed}, which"):
        state = cure.init(learner, network)
    after, _ = cure.update(jax.random.key(1), learner, state, network, X)
    np.testing.assert_array_equal(after.params[fixed], PARAMS[fixed])
    # The other layer must be recycled or pruned.
    other = "b" if kept == "a" else "c"
    assert not np.array_equal(after.params[other], PARAMS[other])


def test_a_layer_asked_for_by_name_is_refused():
    tx = partly("c")
    network, learner = dormant.Network(WIRING, init, tx), dormant.Learner(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match="layer 'b' can't be recycled: the optimizer does not train c, which reads it"):
        dormant.ReDo(layers=("b",)).init(learner, network)
    assert set(dormant.ReDo(layers=("a",)).init(learner, network).counts) == {"a"}


STOPPED = {
    "a reader": (
        lambda p, x: jax.nn.relu(x @ p["a"]) @ jax.lax.stop_gradient(p["b"]) @ p["c"],
        {"a": False, "b": False},
    ),
    "a feeder": (
        lambda p, x: jax.nn.relu(x @ jax.lax.stop_gradient(p["a"])) @ p["b"] @ p["c"],
        {"a": False, "b": True},
    ),
    "a prior": (
        lambda p, x: apply(p, x) + jax.lax.stop_gradient(jax.nn.relu(x @ p["prior"]) @ p["last"]),
        {"a": True, "b": True, "prior": False},
    ),
    "a target beside the network": (
        lambda p, x: (apply(p, x), jax.lax.stop_gradient(apply(p, x))),
        {"a": True, "b": True},
    ),
    "actions": (lambda p, x: jax.lax.stop_gradient(apply(p, x)), {"a": True, "b": True}),
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_layer_that_no_gradient_trains_is_measured(name):
    network, recycled = STOPPED[name]
    params = PARAMS | {"prior": jnp.ones((5, 3)), "last": jnp.ones((3, 2))}
    wiring = dormant.trace(network, params, X)
    assert {layer.name: layer.recyclable for layer in wiring.layers} == recycled
    assert all("no gradient trains" in layer.reasons[0] for layer in wiring.layers if not layer.recyclable)
