"""The convolution of the Atari networks, and one whose input gradient is a matrix product."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Padding = Literal["SAME", "VALID"]
Image = Float[Array, "batch height width channels"]
Kernel = Float[Array, "high wide channels filters"]
Maps = Float[Array, "batch rows columns filters"]


def convolve(images: Image, kernel: Kernel, stride: int = 1, padding: Padding = "SAME") -> Maps:
    """Images convolved with a kernel: XLA's own convolution in every direction, on every backend.

    >>> convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), stride=2)[0, :, :, 0].tolist()
    [[4.0, 4.0], [4.0, 4.0]]

    No product of patches beat it in a whole gradient step: see `benchmarks/atari_dqn.py`, which also measures
    `with_product_gradient`.
    """
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=numbers)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def with_product_gradient(images: Image, kernel: Kernel, stride: int, padding: Padding) -> Maps:
    """XLA's convolution, whose input gradient is one matrix product and a sum of shifted maps."""
    return convolve(images, kernel, stride, padding)


def _forward(images: Array, kernel: Array, stride: int, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return convolve(images, kernel, stride, padding), (images, kernel)


def _backward(stride: int, padding: Padding, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = kept
    weights = jax.vjp(lambda kernel: convolve(images, kernel, stride, padding), kernel)[1](gradient)[0]
    return input_gradient(gradient, kernel, images.shape, stride, padding), weights


with_product_gradient.defvjp(_forward, _backward)


def input_gradient(gradient: Maps, kernel: Kernel, shape: tuple[int, ...], stride: int, padding: Padding) -> Image:
    """The gradient with respect to images of this shape, given that with respect to the convolution's result.

    Each place of the result sends its gradient, times the kernel, to all that it saw. These are added up in blocks of
    stride x stride pixels, so that neighbours are apart by a whole block.
    """
    blocks = [-(-side // stride) for side in kernel.shape[:2]]
    lows = [_low(shape[axis + 1], kernel.shape[axis], stride, padding) for axis in (0, 1)]
    sent = gradient @ _in_blocks(kernel, stride).T
    rows, columns = gradient.shape[1:3]
    sent = sent.reshape(len(sent), rows, columns, *blocks, -1)
    parts = [_shifted(sent[..., y, x, :], (y, x), blocks) for y in range(blocks[0]) for x in range(blocks[1])]
    pixels = _as_pixels(sum(parts[1:], parts[0]), stride)
    return _cut(pixels, lows, shape)


def _low(length: int, side: int, stride: int, padding: Padding) -> int:
    """Zeros before an axis."""
    outputs = -(-length // stride)
    return max((outputs - 1) * stride + side - length, 0) // 2 if padding == "SAME" else 0


def _in_blocks(kernel: Array, stride: int) -> Array:
    """The kernel as [blocks down, blocks across, down, across, channels] x filters, with zeros up to whole blocks."""
    high, wide, channels, filters = kernel.shape
    down, across = -(-high // stride), -(-wide // stride)
    whole = jnp.pad(kernel, ((0, down * stride - high), (0, across * stride - wide), (0, 0), (0, 0)))
    split = whole.reshape(down, stride, across, stride, channels, filters)
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(-1, filters)


def _shifted(maps: Array, by: tuple[int, int], blocks: list[int]) -> Array:
    (y, x), (down, across) = by, blocks
    return jnp.pad(maps, ((0, 0), (y, down - 1 - y), (x, across - 1 - x), (0, 0)))


def _as_pixels(blocks: Array, stride: int) -> Array:
    batch, rows, columns, _ = blocks.shape
    split = blocks.reshape(batch, rows, columns, stride, stride, -1).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(batch, rows * stride, columns * stride, -1)


def _cut(pixels: Array, lows: list[int], shape: tuple[int, ...]) -> Array:
    """The pixels of the images themselves, without the padding; those that no window saw are zero."""
    (top, left), (_, high, wide, _) = lows, shape
    below, right = (
        max(0, low + length - have) for low, length, have in zip(lows, (high, wide), pixels.shape[1:3], strict=True)
    )
    padded = jnp.pad(pixels, ((0, 0), (0, below), (0, right), (0, 0)))
    return padded[:, top : top + high, left : left + wide]
