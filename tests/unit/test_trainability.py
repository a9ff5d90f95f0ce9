"""Metrics of trainability, compared with slow definitions in NumPy and with numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dormant.interventions.projecting import isometric
from dormant.metrics import effective_rank
from dormant.rl.networks import MLP
from dormant.trainability import (
    active_fraction,
    gradient_norm,
    isometry_deviations,
    tangent_kernel,
    tangent_kernel_rank,
    weight_distance,
)

RNG = np.random.default_rng(0)
TREE = {
    "conv": {"kernel": RNG.normal(size=(2, 2, 3, 5))},
    "dense": {"kernel": RNG.normal(size=(4, 3)), "bias": np.ones(3)},
}
TREE = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), TREE)
MAPS = {
    "conv": RNG.normal(size=(4, 3, 3, 2)).clip(0).astype(np.float32),
    "dense": RNG.normal(size=(4, 7)).clip(-0.999, 0.999).astype(np.float32),
}


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize(
    ("activation", "active"),
    [
        ("relu", lambda h: h != 0),
        ("tanh", lambda h: -0.99 <= h <= 0.99),
        ("sigmoid", lambda h: 0.01 <= h <= 0.99),
    ],
)
def test_active_units_are_counted_one_by_one(activation, active):
    entries = [float(h) for layer in MAPS.values() for h in layer.ravel()]
    expected = sum(active(h) for h in entries) / len(entries)
    assert 0.1 < expected < 0.9 or activation != "relu"
    assert_allclose(jax.jit(lambda maps: active_fraction(maps, activation))(MAPS), expected, rtol=1e-6)


def test_gradients_and_distances_are_norms_over_all_entries():
    assert_allclose(gradient_norm(TREE), np.sqrt((flat(TREE) ** 2).sum()), rtol=1e-6)
    earlier = jax.tree.map(lambda leaf: 0.5 * leaf - 1.0, TREE)
    squares = [(now - then) ** 2 for now, then in zip(flat(TREE), flat(earlier), strict=True)]
    assert_allclose(weight_distance(TREE, earlier), np.sqrt(np.mean(squares)), rtol=1e-6)
    assert float(weight_distance(TREE, TREE)) == 0.0


def slow_gradient(net, params, x):
    """Returns the gradient of the largest output at one input. Uses finite differences."""
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params))
    found = []
    for number, leaf in enumerate(leaves):
        for place in np.ndindex(leaf.shape):
            values = []
            for change in (1e-2, -1e-2):
                moved = [each.copy() for each in leaves]
                moved[number][place] += change
                tree = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), jax.tree.unflatten(structure, moved))
                values.append(float(net.apply(tree, x[None])[0].max()))
            found.append((values[0] - values[1]) / 2e-2)
    return np.array(found)


def test_the_tangent_kernel_has_products_of_gradients():
    net = MLP(())  # a linear network, so that finite differences are exact
    params = net.init(jax.random.key(0), (3,), actions=2)
    x = jax.random.normal(jax.random.key(1), (4, 3))
    rows = np.stack([slow_gradient(net, params, one) for one in x])
    expected = np.array([[sum(one * other) for other in rows] for one in rows])
    assert_allclose(tangent_kernel(net.apply, params, x), expected, rtol=1e-2, atol=1e-2)
    eigenvalues = np.sort(np.linalg.eigvalsh(expected))[::-1]
    shares = np.cumsum(eigenvalues) / eigenvalues.sum()
    assert float(tangent_kernel_rank(net.apply, params, x)) == 1 + int((shares < 0.99).sum())
    total = tangent_kernel(net.apply, params, x, output=jnp.sum)
    # The gradient of the sum of two linear outputs is (x, x, 1, 1).
    assert_allclose(total, 2 * (np.asarray(x) @ np.asarray(x).T + 1), rtol=1e-4)


def test_equal_gradients_lower_the_rank():
    x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    kernel = tangent_kernel(lambda params, x: x @ params["w"], {"w": jnp.ones((2, 1))}, x)
    assert_allclose(effective_rank(kernel), 1.89, atol=5e-3)  # eigenvalues 2 and 1


@pytest.mark.parametrize("scaled", [False, True])
def test_deviations_from_isometry(scaled):
    def slow(matrix):
        small = matrix.T if matrix.shape[0] < matrix.shape[1] else matrix
        gram = np.array([[sum(one * other) for other in small.T] for one in small.T])
        return ((gram - np.eye(len(gram))) ** 2).sum()

    kernel, dense = (np.asarray(TREE[name]["kernel"], np.float64) for name in ("conv", "dense"))
    scales = (np.sqrt(5 / 3) / 4, np.sqrt(3 / 4)) if scaled else (1.0, 1.0)
    expected = [sum(slow(kernel[i, j] / scales[0]) for i in (0, 1) for j in (0, 1)), slow(dense / scales[1])]
    found = isometry_deviations(TREE, scaled)
    assert list(found) == ["conv/kernel", "dense/kernel"]
    assert_allclose(list(found.values()), expected, rtol=1e-5)


def test_fire_makes_kernels_isometric():
    projected = {"w": isometric(TREE["conv"]["kernel"], iterations=20)}
    assert float(isometry_deviations(projected, scaled=True)["w"]) < 1e-6


def test_not_a_number_gives_not_a_number():
    bad = {"w": jnp.array([[jnp.nan, 1.0]])}
    found = [active_fraction(bad), gradient_norm(bad), weight_distance(bad, bad), isometry_deviations(bad)["w"]]
    assert np.isnan(found).all()


def test_nothing_to_count_is_refused():
    with pytest.raises(ValueError, match="no activations"):
        active_fraction({})
    with pytest.raises((ValueError, TypeError), match="activation"):
        active_fraction(MAPS, "gelu")
