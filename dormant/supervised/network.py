"""The convolutional network that classifies images."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dormant.rl.networks.layers import KERNEL, Params, linear

SIDE, STRIDE = 3, 2


@dataclass(frozen=True)
class ImageCNN:
    """Three convolutions of 3 x 3 with stride 2, one dense layer and a linear head, with ReLU.

    >>> params = ImageCNN((16, 32, 32)).init(jax.random.key(0), (28, 28, 1), classes=10)
    >>> {name: layer["kernel"].shape for name, layer in params.items()}
    {'conv1': (3, 3, 1, 16), 'conv2': (3, 3, 16, 32), 'conv3': (3, 3, 32, 32), 'dense': (512, 64), 'head': (64, 10)}

    Raises ValueError for a layer without neurons.
    Source: the paper's network for figure 3 has "three convolutions and a dense layer". The 32, 64 and 64 filters of
    3 x 3 are second-hand, because the paper's appendix was not available. Strides in place of pooling are our choice:
    with pooling to the same sizes, a step takes five times as long on a CPU. Initialised like the paper's agents.
    """

    filters: tuple[int, int, int] = (32, 64, 64)
    width: int = 64

    def __post_init__(self) -> None:
        if min(*self.filters, self.width) < 1:
            raise ValueError(f"every layer needs at least 1 neuron, got {self.filters} filters and width {self.width}.")

    def init(self, key: Key[Array, ""], image_shape: tuple[int, int, int], classes: int) -> Params:
        """Fresh parameters."""
        high, wide, channels = image_shape
        keys = jax.random.split(key, 5)
        params: Params = {}
        for number, filters in enumerate(self.filters):
            params[f"conv{number + 1}"] = _layer(keys[number], (SIDE, SIDE, channels, filters))
            high, wide, channels = -(-high // STRIDE), -(-wide // STRIDE), filters
        params["dense"] = _layer(keys[3], (high * wide * channels, self.width))
        return params | {"head": _layer(keys[4], (self.width, classes))}

    def apply(
        self, params: Params, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        """The logits of the classes."""
        for number in range(len(self.filters)):
            images = jax.nn.relu(convolution(images, params[f"conv{number + 1}"]))
        dense = jax.nn.relu(linear(images.reshape(len(images), -1), params["dense"]))
        return linear(dense, params["head"])


def convolution(
    images: Float[Array, "batch height width channels"], layer: dict[str, Array]
) -> Float[Array, "batch rows columns filters"]:
    """Convolution of 3 x 3 with stride 2 and padding SAME, plus the bias.

    On CPU it is a matrix product of patches, because in a loop XLA computes the gradient of its own convolution many
    times as slowly (LOG.md). Elsewhere it is XLA's convolution. Both agree to float32 rounding.
    """
    multiply = patches_times_kernel if jax.default_backend() == "cpu" else _xla_convolution
    return multiply(images, layer["kernel"]) + layer["bias"][None, None, None]


def patches_times_kernel(
    images: Float[Array, "batch height width channels"], kernel: Float[Array, "3 3 channels filters"]
) -> Float[Array, "batch rows columns filters"]:
    """The same convolution as a matrix product, without the bias."""
    rows, columns = -(-images.shape[1] // STRIDE), -(-images.shape[2] // STRIDE)
    padded = jnp.pad(images, ((0, 0), *(_margins(length) for length in images.shape[1:3]), (0, 0)))
    reach_down, reach_right = STRIDE * (rows - 1) + 1, STRIDE * (columns - 1) + 1
    shifted = [
        padded[:, y : y + reach_down : STRIDE, x : x + reach_right : STRIDE] for y in range(SIDE) for x in range(SIDE)
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _margins(length: int) -> tuple[int, int]:
    """Zeros before and after for padding SAME: one more after than before if their number is odd."""
    total = max(STRIDE * (-(-length // STRIDE) - 1) + SIDE - length, 0)
    return total // 2, total - total // 2


def _xla_convolution(images: Array, kernel: Array) -> Array:
    strides = (STRIDE, STRIDE)
    return jax.lax.conv_general_dilated(images, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _layer(key: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    return {"kernel": KERNEL(key, shape, jnp.float32), "bias": jnp.zeros(shape[-1])}
