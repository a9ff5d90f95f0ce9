"""Penalties, compared with slow reference implementations in NumPy. Checks which parameters the penalties change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from dormant import Learner, graft
from dormant.regularisers import L2Init, Parseval, Spectral, add_gradient_of, largest_singular_value, penalised

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": RNG.normal(size=(3, 3, 2, 4)), "bias": RNG.normal(size=4)},
    "dense": {"kernel": RNG.normal(size=(6, 5)), "bias": RNG.normal(size=5), "scale": RNG.normal(size=5)},
    "head": {"kernel": RNG.normal(size=(5, 2)), "bias": RNG.normal(size=2)},
}
PARAMS = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
INITIAL = jax.tree.map(lambda leaf: leaf + 0.5, PARAMS)


def slow_l2_init():
    return sum(0.25 * leaf.size for leaf in jax.tree.leaves(PARAMS))


def slow_parseval():
    total = 0.0
    for name in ("conv", "dense"):
        kernel = np.asarray(PARAMS[name]["kernel"]).reshape(-1, PARAMS[name]["kernel"].shape[-1])
        for i, one in enumerate(kernel.T):
            for j, other in enumerate(kernel.T):
                total += (one @ other - 2.0 * (i == j)) ** 2
    return total


def slow_spectral():
    total = 0.0
    for layer in PARAMS.values():
        kernel = np.asarray(layer["kernel"]).reshape(-1, layer["kernel"].shape[-1])
        total += (np.linalg.svd(kernel)[1][0] ** 2 - 1) ** 2 + np.linalg.norm(layer["bias"]) ** 4
    return total


@pytest.mark.parametrize(
    ("penalty", "slow", "tolerance"),
    [
        (L2Init(0.5), slow_l2_init, 1e-4),
        (Parseval(0.5, scale=2.0), slow_parseval, 1e-4),
        (Spectral(0.5), slow_spectral, 0.02),  # eight steps of power iteration only approximate the norm
    ],
    ids=["l2_init", "parseval", "spectral"],
)
def test_penalties_match_their_slow_definitions(penalty, slow, tolerance):
    assert_allclose(jax.jit(penalty)(PARAMS, INITIAL), 0.5 * slow(), rtol=tolerance)


def test_parseval_and_spectral_gradients():
    kernel = PARAMS["dense"]["kernel"]
    gradient = jax.grad(Parseval(0.5, scale=2.0))(PARAMS, INITIAL)
    assert_allclose(
        gradient["dense"]["kernel"], 2.0 * kernel @ (kernel.T @ kernel - 2.0 * jnp.eye(5)), rtol=1e-3, atol=1e-3
    )
    assert not gradient["head"]["kernel"].any() and not gradient["dense"]["bias"].any()
    left, _, right = np.linalg.svd(np.diag([4.0, 1.0, 0.5]).astype(np.float32))
    found = jax.grad(largest_singular_value)(jnp.diag(jnp.array([4.0, 1.0, 0.5])))
    assert_allclose(found, np.outer(left[:, 0], right[0]), atol=1e-3)
    assert float(largest_singular_value(jnp.zeros((3, 2)))) == 0


def test_weights_are_drawn_to_where_they_began_and_new_ones_to_where_they_are_new():
    tx = penalised(L2Init(0.5), optax.sgd(1.0))
    params = {"w": jnp.array([1.0, 1.0])}
    learner = Learner({"w": jnp.array([3.0, 3.0])}, tx.init(params))
    learner = graft(learner, {"w": jnp.array([True, False])}, {"w": jnp.array([7.0, 7.0])}, tx)
    zero = jax.tree.map(jnp.zeros_like, learner.params)
    change, _ = tx.update(zero, learner.opt_state, learner.params)
    assert change["w"].tolist() == [0.0, -2.0]


def test_no_penalty_leaves_the_optimizer_as_it_is():
    tx = optax.sgd(1.0)
    assert penalised(None, tx) is tx
    with pytest.raises(ValueError, match=r"call tx.update\(gradient, state, params\)"):
        add_gradient_of(L2Init()).update({}, {})
