"""The convolution with its own gradients against XLA's."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dormant import trace
from dormant.rl.convolution import convolve, with_product_gradient

CASES = [
    ((84, 84, 4), (8, 8, 5), 4),
    ((21, 21, 3), (4, 4, 6), 2),
    ((11, 11, 6), (3, 3, 4), 1),
    ((9, 12, 2), (3, 5, 3), 2),
    ((10, 7, 1), (2, 3, 2), 3),
    ((5, 6, 2), (1, 1, 3), 2),
    ((13, 8, 2), (7, 2, 3), 3),
]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("image", "kernel", "stride"), CASES)
def test_values_and_gradients_are_those_of_xla(image, kernel, stride, padding):
    high, wide, filters = kernel
    images = jax.random.normal(jax.random.key(0), (3, *image))
    weights = jax.random.normal(jax.random.key(1), (high, wide, image[-1], filters))
    expected, theirs = jax.vjp(lambda *args: convolve(*args, stride, padding), images, weights)
    got, ours = jax.vjp(lambda *args: with_product_gradient(*args, stride, padding), images, weights)
    gradient = jax.random.normal(jax.random.key(2), expected.shape)
    np.testing.assert_array_equal(got, expected)
    for mine, other in zip(ours(gradient), theirs(gradient), strict=True):
        assert_allclose(mine, other, rtol=1e-5, atol=2e-5 * np.abs(other).max())


def test_second_batches_and_vmap_agree():
    """Seeds are vmapped: the custom gradient has to follow."""
    images = jax.random.normal(jax.random.key(0), (2, 3, 9, 9, 2))
    kernels = jax.random.normal(jax.random.key(1), (2, 4, 4, 2, 3))

    def gradients(function):
        loss = lambda image, kernel: (function(image, kernel, 2, "SAME") ** 2).sum()  # noqa: E731
        return jax.vmap(jax.grad(loss, argnums=(0, 1)))(images, kernels)

    for mine, other in zip(gradients(with_product_gradient), gradients(convolve), strict=True):
        assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_the_tracer_sees_through_the_custom_gradient():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"conv": jax.random.normal(keys[0], (3, 3, 2, 5)), "head": jax.random.normal(keys[1], (80, 2))}

    def apply(params, images):
        maps = jax.nn.relu(with_product_gradient(images, params["conv"], 2, "SAME"))
        return maps.reshape(len(maps), -1) @ params["head"]

    (layer,) = trace(apply, params, np.ones((1, 8, 8, 2), np.float32)).layers
    assert (layer.name, layer.width, layer.reasons) == ("conv", 5, ())
