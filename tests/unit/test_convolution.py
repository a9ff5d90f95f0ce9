"""Our gradient rule for convolutions gives the gradients that JAX computes, and the tracer follows it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant.rl.networks.convolution import loop_convolution, xla_convolution
from dormant.tracing import trace


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def plain(images, kernel, stride, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=layout)


def gradients(convolve, images, kernel, *settings):
    """Returns the gradients of a random weighted sum of all outputs, by images and by kernel."""
    shape = jax.eval_shape(lambda images, kernel: convolve(images, kernel, *settings), images, kernel).shape
    weights = normal(2, *shape)
    return jax.jit(jax.grad(lambda *operands: (convolve(*operands, *settings) * weights).sum(), (0, 1)))(images, kernel)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("rows", "columns", "side", "stride"), [(9, 7, 3, 1), (10, 9, 4, 2), (11, 8, 3, 3), (8, 9, 2, 3)]
)
def test_gradients_are_those_of_jax(rows, columns, side, stride, padding):
    images, kernel = normal(0, 2, rows, columns, 3), normal(1, side, side, 3, 5)
    np.testing.assert_array_equal(
        xla_convolution(images, kernel, stride, padding), plain(images, kernel, stride, padding)
    )
    theirs = gradients(plain, images, kernel, stride, padding)
    for one, other in zip(gradients(xla_convolution, images, kernel, stride, padding), theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_several_seeds_at_once_are_each_alone():
    images, kernels = normal(0, 3, 2, 6, 6, 2), normal(1, 3, 3, 3, 2, 4)
    together = jax.vmap(lambda *pair: gradients(xla_convolution, *pair, 1, "SAME"))(images, kernels)
    for seed in range(3):
        alone = gradients(xla_convolution, images[seed], kernels[seed], 1, "SAME")
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[seed], other, rtol=1e-5, atol=1e-5)


def test_second_derivatives_are_those_of_jax_and_jvp_is_refused():
    images, kernel = normal(0, 2, 6, 6, 2), normal(1, 3, 3, 2, 2)

    def hessian(convolve):
        return jax.jit(jax.hessian(lambda kernel: (convolve(images, kernel, 2, "SAME") ** 3).sum()))(kernel)

    def ours(kernel):
        return loop_convolution(images, kernel, 2, ((0, 1), (0, 1)))

    np.testing.assert_allclose(hessian(xla_convolution), hessian(plain), rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(ours, (kernel,), (kernel,))


def test_the_tracer_sees_a_convolution():
    def apply(params, images):
        maps = jax.nn.relu(
            loop_convolution(images, params["kernel"], 2, ((1, 1), (0, 1))) + params["bias"][None, None, None]
        )
        return maps.reshape(len(maps), -1) @ params["head"]

    params = {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.zeros(4), "head": jnp.ones((3 * 3 * 4, 2))}
    (layer,) = trace(apply, params, jnp.ones((1, 6, 6, 2))).layers
    assert (layer.width, layer.recyclable) == (4, True)
