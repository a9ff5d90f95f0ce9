"""Networks: plain specifications whose parameters are nested dictionaries of arrays."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from dormant.later import LATER

from .layers import Activation, active, fresh_layer, outputs_of, spectrally_normalised

Params = dict[str, dict[str, Array]]
Shape = tuple[int, ...]


@runtime_checkable
class QNetwork(Protocol):
    """From observations to one Q value for each action; it learns the shapes of both when it is initialised."""

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params: ...
    def apply(self, params: Params, observations: Shaped[Array, "batch *shape"]) -> Float[Array, "batch actions"]: ...


@dataclass(frozen=True)
class MinAtarCNN:
    """One convolution, one dense layer and a linear head, or a dueling one, with ReLU.

    >>> params = MinAtarCNN().init(jax.random.key(0), (10, 10, 4), actions=3)
    >>> {name: layer["kernel"].shape for name, layer in params.items()}
    {'conv': (3, 3, 4, 16), 'dense': (1024, 128), 'head': (128, 3)}
    >>> MinAtarCNN().apply(params, jnp.zeros((2, 10, 10, 4), bool)).shape
    (2, 3)

    `activation`, and `layer_norm` before it, are those of both layers; `spectral_norm` is the dense layer's, whose
    neurons are then measured and not recycled.

    Source: Young & Tian 2019, MinAtar's DQN (16 filters of 3 x 3 without padding, 128 neurons); initialised as the
    paper's networks, Xavier uniform kernels and zero biases.
    """

    filters: int = 16
    width: int = 128
    dueling: bool = field(default=False, metadata=LATER)
    activation: Activation = field(default="relu", metadata=LATER)
    layer_norm: bool = field(default=False, metadata=LATER)
    spectral_norm: bool = field(default=False, metadata=LATER)

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


@dataclass(frozen=True)
class MLP:
    """Dense layers with ReLU and a linear head, on flattened observations.

    >>> MLP((8, 4)).init(jax.random.key(0), (2, 3), actions=5)["dense_1"]["kernel"].shape
    (8, 4)
    """

    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden layers must have at least 1 neuron, got {self.hidden}.")

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Fresh parameters."""
        widths = [math.prod(observation_shape), *self.hidden, actions]
        names = [*(f"dense_{number}" for number in range(len(self.hidden))), "head"]
        keys = jax.random.split(key, len(names))
        shapes = pairwise(widths)
        return {name: fresh_layer(key, shape) for name, key, shape in zip(names, keys, shapes, strict=True)}

    def apply(self, params: Params, observations: Shaped[Array, "batch *shape"]) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        values = observations.reshape(len(observations), -1).astype(jnp.float32)
        for number in range(len(self.hidden)):
            values = jax.nn.relu(linear(values, params[f"dense_{number}"]))
        return linear(values, params["head"])


def linear(values: Float[Array, "batch inputs"], layer: dict[str, Array]) -> Float[Array, "batch outputs"]:
    """Values times the kernel, plus the bias."""
    return values @ layer["kernel"] + layer["bias"][None]


def output_layers(key: Key[Array, ""], inputs: int, actions: int, dueling: bool) -> Params:
    """A fresh linear head, or the two layers of a dueling one: each action's advantage, and the state's value."""
    if not dueling:
        return {"head": fresh_layer(key, (inputs, actions))}
    advantage, value = jax.random.split(key)
    return {"advantage": fresh_layer(advantage, (inputs, actions)), "value": fresh_layer(value, (inputs, 1))}


def q_values(hidden: Float[Array, "batch neurons"], params: Params) -> Float[Array, "batch actions"]:
    """Q values of a network's output layers; a dueling head adds advantages, less their mean, to the state's value.

    >>> one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    >>> q_values(jnp.array([[2.0]]), {"value": one, "advantage": {"kernel": jnp.ones((1, 2)), "bias": jnp.arange(2.0)}})
    Array([[1.5, 2.5]], dtype=float32)

    Source: Wang et al. 2016, equation 9.
    """
    if "head" in params:
        return linear(hidden, params["head"])
    advantage = linear(hidden, params["advantage"])
    return linear(hidden, params["value"]) + advantage - advantage.mean(axis=1, keepdims=True)


def convolution(
    images: Float[Array, "batch height width channels"], layer: dict[str, Array]
) -> Float[Array, "batch rows columns filters"]:
    """Convolution without padding and with stride 1, plus the bias.

    On CPU it is a matrix product of patches, which XLA computes several times as fast as its own convolution of so few
    channels; elsewhere it is XLA's. Both agree to float32 rounding.
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
