"""The network for MinAtar."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from .layers import (
    Activation,
    Params,
    Shape,
    active,
    fresh_layer,
    linear,
    output_layers,
    outputs_of,
    q_values,
    spectrally_normalised,
)


@dataclass(frozen=True)
class MinAtarCNN:
    """One convolution, one dense layer and a linear head, or a dueling one, with ReLU.

    >>> params = MinAtarCNN().init(jax.random.key(0), (10, 10, 4), actions=3)
    >>> {name: layer["kernel"].shape for name, layer in params.items()}
    {'conv': (3, 3, 4, 16), 'dense': (1024, 128), 'head': (128, 3)}
    >>> MinAtarCNN().apply(params, jnp.zeros((2, 10, 10, 4), bool)).shape
    (2, 3)

    `activation` and `layer_norm` apply to both layers, the normalisation first. `spectral_norm` applies to the dense
    layer, whose neurons are then measured but not recycled.

    Source: Young & Tian 2019, MinAtar's DQN (16 filters of 3 x 3 without padding, 128 neurons). Kernels are Xavier
    uniform and biases zero, as in the paper's networks.
    """

    filters: int = 16
    width: int = 128
    dueling: bool = False
    activation: Activation = "relu"
    layer_norm: bool = False
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("filters", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Fresh parameters."""
        height, width, channels = observation_shape
        flat = (height - 2) * (width - 2) * outputs_of(self.filters, self.activation)
        conv, dense, head = jax.random.split(key, 3)
        return {
            "conv": fresh_layer(conv, (3, 3, channels, self.filters), self.layer_norm),
            "dense": fresh_layer(dense, (flat, self.width), self.layer_norm),
            **output_layers(head, outputs_of(self.width, self.activation), actions, self.dueling),
        }

    def apply(
        self, params: Params, observations: Shaped[Array, "batch height width channels"]
    ) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        maps = convolution(observations.astype(jnp.float32), params["conv"])
        conv = active(maps, params["conv"], self.activation)
        dense = spectrally_normalised(params["dense"]) if self.spectral_norm else params["dense"]
        hidden = linear(conv.reshape(len(conv), -1), dense)
        return q_values(active(hidden, dense, self.activation), params)


def convolution(
    images: Float[Array, "batch height width channels"], layer: dict[str, Array]
) -> Float[Array, "batch rows columns filters"]:
    """Convolution without padding and with stride 1, plus the bias.

    On CPU it is a matrix product of patches, which is several times as fast as XLA's convolution of so few channels.
    Elsewhere it is XLA's convolution. Both agree to float32 rounding.
    """
    multiply = patches_times_kernel if jax.default_backend() == "cpu" else _xla_convolution
    return multiply(images, layer["kernel"]) + layer["bias"][None, None, None]


def patches_times_kernel(
    images: Float[Array, "batch height width channels"], kernel: Float[Array, "high wide channels filters"]
) -> Float[Array, "batch rows columns filters"]:
    """Convolution without padding and with stride 1, by a matrix product."""
    high, wide, channels, filters = kernel.shape
    rows, columns = images.shape[1] - high + 1, images.shape[2] - wide + 1
    shifted = [images[:, y : y + rows, x : x + columns] for y in range(high) for x in range(wide)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(high * wide * channels, filters)


def _xla_convolution(images: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
