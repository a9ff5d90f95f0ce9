"""Diverged networks: a layer with NaN has NaN as scores and fraction, and no intervention recycles its neurons."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dormant
from dormant.interventions import how_many
from dormant.metrics import contributions, dormant_interval, gradient_scores, utilities

TX = optax.adam(1e-3)
X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)


def init(key):
    keys = jax.random.split(key, 3)
    shapes = {"a": (5, 8), "b": (8, 6), "c": (6, 2)}
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def apply(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]


WIRING = dormant.trace(apply, init(jax.random.key(0)), X)
NETWORK = dormant.Network(WIRING, init, TX)


def broken(value):
    """Returns parameters with one neuron that is not finite, and one silent neuron, in the last hidden layer."""
    params = init(jax.random.key(1))
    return params | {"b": params["b"].at[:, 2].set(value).at[:, 3].set(0.0), "a": params["a"].at[:, 1].set(0.0)}


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 3e38])
def test_the_layer_is_not_measured_and_the_others_are(value):
    params = broken(value)
    scores = WIRING.scores(params, X)
    assert jnp.isnan(scores["b"]).all() and float(scores["a"][1]) == 0
    masks = WIRING.dormant(params, X, tau=0.1)
    assert not masks["b"].any() and masks["a"][1]
    assert jnp.isnan(WIRING.dormant_fraction(params, X))
    activations = WIRING.activations(params, X)
    assert all(jnp.isnan(value) for value in dormant_interval({"b": activations["b"]}))
    for measure in (contributions, utilities):
        found = measure(WIRING, params, X)
        assert jnp.isnan(found["b"]).all()
    gradients = jax.tree.map(jnp.zeros_like, params) | {"b": params["b"]}
    if not np.isfinite(value):
        assert jnp.isnan(gradient_scores(WIRING, gradients)["b"]).all()


@pytest.mark.parametrize("activation", [lambda z: jnp.where(z > 0, z, 0.0), lambda z: jnp.nan_to_num(jax.nn.relu(z))])
@pytest.mark.parametrize("name", ["a", "bias", "x"])
def test_an_activation_does_not_hide_a_nan(activation, name):
    def hidden(params, x):
        return activation(x @ params["a"] + params["bias"][None]) @ params["b"]

    params, x = {"a": jnp.ones((5, 8)), "bias": jnp.zeros(8), "b": jnp.ones((8, 2))}, jnp.asarray(X)
    wiring = dormant.trace(hidden, params, x)
    assert not jnp.isnan(wiring.dormant_fraction(params, x))
    if name == "x":
        x = x.at[0, 0].set(jnp.nan)
    else:
        params |= {name: params[name].at[..., 0].set(jnp.nan)}
    assert jnp.isnan(wiring.scores(params, x)["a"]).all() and jnp.isnan(wiring.dormant_fraction(params, x))
    assert not wiring.dormant(params, x)["a"].any()


def test_a_nan_in_one_member_of_an_ensemble_stays_there():
    def ensemble(params, x):
        return jax.vmap(lambda w, b: jnp.where((z := x @ w) > 0, z, 0.0) @ b)(params["w"], params["b"])

    params = {"w": jnp.ones((2, 5, 8)), "b": jnp.ones((2, 8, 2))}
    wiring = dormant.trace(ensemble, params, X)
    scores = wiring.scores(params | {"w": params["w"].at[0, 0, 0].set(jnp.nan)}, X)
    assert jnp.isnan(scores["w[0]"]).all() and not jnp.isnan(scores["w[1]"]).any()


CURES = [
    dormant.ReDo(tau=0.1),
    dormant.Prune(tau=0.1, period=1),
    dormant.redo_as_published(0.1),
    dormant.ContinualBackprop(replacement_rate=1.0, maturity=0),
    dormant.ContinualBackprop(replacement_rate=1.0, maturity=0, utility="overall"),
    dormant.WhenDormant(0.01, dormant.ReDo(tau=0.1)),
    *(
        dormant.Recycle(score, number)
        for number in (how_many.Dormant(), how_many.Share(0.5), how_many.Share(0.5, 9), how_many.Gap())
        for score in ("activation", "contribution", "utility")
    ),
    dormant.Recycle(number=how_many.PooledShare(0.5)),
    dormant.Recycle(number=how_many.Share(0.5), order="random"),
    dormant.Recycle(number=how_many.Share(0.5), order="highest"),
]


@pytest.mark.parametrize("cure", CURES, ids=repr)
def test_nobody_in_it_is_recycled(cure):
    params = broken(jnp.nan)
    learner = dormant.Learner(params, TX.init(params))
    state = cure.init(learner, NETWORK)
    after, state = cure.update(jax.random.key(2), learner, state, NETWORK, X)
    counts = dormant.recycled_counts(state)
    assert int(counts.get("b", 0)) == 0
    np.testing.assert_array_equal(after.params["c"], params["c"])
    fed_by_a = np.flatnonzero((np.asarray(after.params["b"]) != np.asarray(params["b"])).any(axis=1))
    nan = np.isnan(np.asarray(after.params["b"]))
    assert (nan == np.isnan(np.asarray(params["b"]))).all() or len(fed_by_a)  # unless layer a was recycled


def test_continual_backprop_resumes_once_the_layer_is_finite_again():
    cure = dormant.ContinualBackprop(replacement_rate=1.0, maturity=0)
    params = broken(jnp.nan)
    learner = dormant.Learner(params, TX.init(params))
    state = cure.init(learner, NETWORK)
    _, state = cure.update(jax.random.key(2), learner, state, NETWORK, X)
    assert jnp.isfinite(state.layers["b"].utility).all() and int(state.layers["b"].age.max()) == 0
    fine = init(jax.random.key(1))
    _, state = cure.update(jax.random.key(3), learner._replace(params=fine), state, NETWORK, X)
    assert int(state.recycled.counts["b"]) == 6


def test_share_gap_and_pooled_share_count_nobody():
    scores = {"bad": jnp.full(8, jnp.nan), "good": jnp.array([0.0, 1.0, 1.5, 1.5])}
    for number in (how_many.Dormant(), how_many.Share(0.5), how_many.Share(0.5, 9), how_many.Gap()):
        counts = number.count(scores, jnp.array(0))
        assert int(counts["bad"]) == 0 and int(counts["good"]) > 0
    assert int(how_many.PooledShare(0.1).count(scores, jnp.array(0))["bad"]) == 0
