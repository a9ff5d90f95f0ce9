"""Two ways to compute a convolution: with XLA, or as a matrix product of patches. Both are fast in compiled loops."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import Layer

Padding = Literal["SAME", "VALID"]
Pads = tuple[tuple[int, int], tuple[int, int]]  # zeros before and after the rows and the columns


def convolved(maps: Array, layer: Layer, stride: int = 1, padding: Padding = "SAME") -> Array:
    """Convolves the maps with XLA's convolution and adds the bias.

    Use `convolved_by_patches` for images with few channels. For the other layers of these networks, a matrix product of
    patches never made a gradient step faster (LOG.md).
    """
    return xla_convolution(maps, layer["kernel"], stride, padding) + layer["bias"][None, None, None]


def convolved_by_patches(images: Array, layer: Layer, stride: int, padding: Padding) -> Array:
    """Convolves images with few channels and adds the bias.

    On a CPU, XLA's convolution of few channels is slow, and its gradient in a loop is even slower (LOG.md). Therefore
    this function computes a matrix product of patches on a CPU, and XLA's convolution on other backends. The two
    results are equal up to float32 rounding.
    """
    multiply = patches_times_kernel if jax.default_backend() == "cpu" else xla_convolution
    return multiply(images, layer["kernel"], stride, padding) + layer["bias"][None, None, None]


def xla_convolution(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "high wide channels filters"],
    stride: int,
    padding: Padding,
) -> Float[Array, "batch rows columns filters"]:
    """Convolves images with XLA's convolution, without a bias. The gradients are as fast inside loops as outside loops.

    On a CPU, XLA rewrites the gradients of a convolution into a fast form, but not inside loops such as `lax.scan`
    (jax-ml/jax 12868). On a CPU, this function therefore calls `loop_convolution`, which computes the gradients in the
    fast form. The results are bit-identical to the results of XLA.
    """
    pads = (
        _pads(images.shape[1], kernel.shape[0], stride, padding),
        _pads(images.shape[2], kernel.shape[1], stride, padding),
    )
    convolve = loop_convolution if jax.default_backend() == "cpu" else _convolution
    return convolve(images, kernel, stride, pads)


def _convolution(images: Array, kernel: Array, stride: int, pads: Pads, spread: int = 1, apart: int = 1) -> Array:
    """XLA's convolution of dilated arrays. `spread` dilates the images, and `apart` dilates the kernel.

    Dilation by n inserts n - 1 zeros between neighbouring pixels.
    """
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        pads,
        lhs_dilation=(spread, spread),
        rhs_dilation=(apart, apart),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def loop_convolution(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "high wide channels filters"],
    stride: int,
    pads: Pads,
) -> Float[Array, "batch rows columns filters"]:
    """A convolution with its own rule for gradients. Each gradient is a convolution in NHWC layout.

    The rule covers reverse mode only, so `jax.jvp` raises TypeError. The gradients can be differentiated again, for
    example by `jax.hessian`. This uses JAX's rules for `jax.lax.conv_general_dilated`.
    """
    return _convolution(images, kernel, stride, pads)


def _forward(images: Array, kernel: Array, stride: int, pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(images, kernel, stride, pads), (images, kernel)


def _backward(stride: int, pads: Pads, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    settings = (gradient, *saved, stride, pads)
    return _gradient_of_images(*settings), _gradient_of_kernel(*settings)


def _gradient_of_images(gradient: Array, images: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    """Dilates the output gradient by the stride and convolves it with the flipped kernel."""
    margins = []
    for axis, (before, _) in enumerate(pads):
        side, spread = kernel.shape[axis], stride * (gradient.shape[axis + 1] - 1) + 1
        first = side - 1 - before
        margins.append((first, images.shape[axis + 1] + side - 1 - spread - first))
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return _convolution(gradient, flipped, 1, tuple(margins), spread=stride)


def _gradient_of_kernel(gradient: Array, images: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    """Convolves the images with the dilated output gradient. Exchanges the channel and batch axes for this."""
    margins = []
    for axis, (before, _) in enumerate(pads):
        spread = stride * (gradient.shape[axis + 1] - 1) + 1
        margins.append((before, kernel.shape[axis] - 1 + spread - images.shape[axis + 1] - before))
    weights = gradient.transpose(1, 2, 0, 3)
    found = _convolution(images.transpose(3, 1, 2, 0), weights, 1, tuple(margins), apart=stride)
    return found.transpose(1, 2, 0, 3)


loop_convolution.defvjp(_forward, _backward)


def patches_times_kernel(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "high wide channels filters"],
    stride: int,
    padding: Padding,
) -> Float[Array, "batch rows columns filters"]:
    """The convolution of `xla_convolution`, computed as one matrix product."""
    high, wide, channels, filters = kernel.shape
    rows = output_length(images.shape[1], high, stride, padding)
    columns = output_length(images.shape[2], wide, stride, padding)
    pads = (_pads(images.shape[1], high, stride, padding), _pads(images.shape[2], wide, stride, padding))
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    down, right = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    shifted = [images[:, y : y + down : stride, x : x + right : stride] for y in range(high) for x in range(wide)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(high * wide * channels, filters)


def _pads(length: int, side: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Returns how many zeros to put before an axis and after it. If the sum is odd, one more zero is put after it."""
    if padding == "VALID":
        return 0, 0
    total = max(stride * (-(-length // stride) - 1) + side - length, 0)
    return total // 2, total - total // 2


def output_length(length: int, side: int, stride: int, padding: Padding) -> int:
    """The length of a convolution's output along one axis. `length` is the input's length, and `side` the kernel's.

    >>> output_length(84, 8, 4, "SAME"), output_length(84, 8, 4, "VALID")
    (21, 20)
    """
    return -(-length // stride) if padding == "SAME" else (length - side) // stride + 1
