"""The paper's networks for Atari frames: the Nature CNN and a ResNet."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from .layers import (
    Activation,
    Params,
    Shape,
    activated,
    active,
    fresh_layer,
    linear,
    output_layers,
    outputs_of,
    q_values,
)

Padding = Literal["SAME", "VALID"]
INNER_KERNEL = jax.nn.initializers.lecun_normal()  # Flax's default, which the reference leaves in residual blocks
NATURE = ((8, 4, 32), (4, 2, 64), (3, 1, 64))  # side, stride and filters of each convolution
STACKS = (32, 64, 64)  # filters of each stack
DENSE = 512


@dataclass(frozen=True)
class NatureCNN:
    """Three convolutions, one dense layer and a linear head, with ReLU, on frames of 0 to 255.

    >>> params = NatureCNN().init(jax.random.key(0), (84, 84, 4), actions=6)
    >>> {name: layer["kernel"].shape for name, layer in params.items()}
    {'conv1': (8, 8, 4, 32), 'conv2': (4, 4, 32, 64), 'conv3': (3, 3, 64, 64), 'dense': (7744, 512), 'head': (512, 6)}

    Raises ValueError for a width that is not positive.
    Source: the paper's NatureDQNNetwork (dopamine/labs/redo/networks.py). PyTorch ports and Mnih et al. 2015 use
    `padding="VALID"`, which leaves 3,136 inputs to the dense layer. `crelu` follows Abbas et al. 2023: a layer's n
    neurons give 2n activations, relu(x) and relu(-x).
    """

    width: float | int = 1  # multiplies filters and dense neurons; the paper uses 1, 2 and 4
    padding: Padding = "SAME"
    activation: Activation = "relu"
    layer_norm: bool = False
    dueling: bool = False

    def __post_init__(self) -> None:
        _check_width(self.width)

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Fresh parameters."""
        high, wide, channels = observation_shape
        keys = jax.random.split(key, len(NATURE) + 1)
        params: Params = {}
        for number, (side, stride, filters) in enumerate(NATURE):
            shape = (side, side, channels, scaled(filters, self.width))
            params[f"conv{number + 1}"] = fresh_layer(keys[number], shape, self.layer_norm)
            high, wide = (_length(length, side, stride, self.padding) for length in (high, wide))
            channels = outputs_of(shape[-1], self.activation)
        return params | _head(keys[-1], high * wide * channels, actions, self)

    def apply(
        self, params: Params, observations: Shaped[Array, "batch height width channels"]
    ) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        maps = pixels(observations)
        for number, (_, stride, _) in enumerate(NATURE):
            layer = params[f"conv{number + 1}"]
            maps = active(_convolved(maps, layer, stride, self.padding), layer, self.activation)
        return _values(maps, params, self)


@dataclass(frozen=True)
class ImpalaResNet:
    """Three stacks of a convolution, a maximum over 3 x 3 and two residual blocks, then a dense layer and a head.

    >>> params = ImpalaResNet().init(jax.random.key(0), (84, 84, 4), actions=6)
    >>> list(params)[:5], params["stack2_conv"]["kernel"].shape, params["dense"]["kernel"].shape
    (['stack1_conv', 'stack1_block1_conv1', 'stack1_block1_conv2', 'stack1_block2_conv1', 'stack1_block2_conv2'],
     (3, 3, 32, 64), (7744, 512))

    Raises ValueError for a width that is not positive.
    Source: the paper's ResNet (dopamine/labs/redo/networks.py), which is the one of Espeholt et al. 2018 with twice the
    filters. Neurons that are summed into a residual stream are measured but not recycled. `layer_norm` normalises the
    dense layer and every convolution that does not write into a residual stream.
    """

    width: float | int = 1
    activation: Activation = "relu"
    layer_norm: bool = False
    dueling: bool = False

    def __post_init__(self) -> None:
        _check_width(self.width)

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Fresh parameters."""
        high, wide, channels = observation_shape
        keys = jax.random.split(key, len(STACKS) + 1)
        params: Params = {}
        for number, filters in enumerate(STACKS):
            width = scaled(filters, self.width)
            params |= self._stack(keys[number], f"stack{number + 1}", channels, width)
            high, wide, channels = -(-high // 2), -(-wide // 2), width
        return params | _head(keys[-1], high * wide * outputs_of(channels, self.activation), actions, self)

    def _stack(self, key: Array, name: str, channels: int, width: int) -> Params:
        conv, *inner = jax.random.split(key, 5)
        params = {f"{name}_conv": fresh_layer(conv, (3, 3, channels, width))}
        twice = outputs_of(width, self.activation)
        for block in (1, 2):
            first, second = inner[2 * block - 2 : 2 * block]
            prefix = f"{name}_block{block}"
            params[f"{prefix}_conv1"] = fresh_layer(first, (3, 3, twice, width), self.layer_norm, INNER_KERNEL)
            params[f"{prefix}_conv2"] = fresh_layer(second, (3, 3, twice, width), False, INNER_KERNEL)
        return params

    def apply(
        self, params: Params, observations: Shaped[Array, "batch height width channels"]
    ) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        stream = pixels(observations)
        for number in range(1, len(STACKS) + 1):
            stream = pooled(_convolved(stream, params[f"stack{number}_conv"]))
            for block in (1, 2):
                stream = stream + self._branch(params, f"stack{number}_block{block}", stream)
        return _values(activated(stream, self.activation), params, self)

    def _branch(self, params: Params, block: str, stream: Array) -> Array:
        first, second = params[f"{block}_conv1"], params[f"{block}_conv2"]
        inner = active(_convolved(activated(stream, self.activation), first), first, self.activation)
        return _convolved(inner, second)


def scaled(neurons: int, width: float | int) -> int:
    """The number of neurons under a width multiplier, rounded up as in the paper's code.

    >>> scaled(32, 2), scaled(32, 0.3)
    (64, 10)
    """
    return math.ceil(neurons * width)


def pixels(observations: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Frames of 0 to 255, scaled to [0, 1]."""
    return observations.astype(jnp.float32) / 255.0


def pooled(maps: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """Max pooling over 3 x 3 with stride 2 and padded borders."""
    return jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def _convolved(maps: Array, layer: dict[str, Array], stride: int = 1, padding: Padding = "SAME") -> Array:
    # XLA's convolution on every backend: no product of patches was faster in a whole gradient step (LOG.md).
    numbers = ("NHWC", "HWIO", "NHWC")
    product = jax.lax.conv_general_dilated(maps, layer["kernel"], (stride, stride), padding, dimension_numbers=numbers)
    return product + layer["bias"][None, None, None]


def _values(maps: Array, params: Params, network: NatureCNN | ImpalaResNet) -> Array:
    dense = linear(maps.reshape(len(maps), -1), params["dense"])
    return q_values(active(dense, params["dense"], network.activation), params)


def _head(key: Array, inputs: int, actions: int, network: NatureCNN | ImpalaResNet) -> Params:
    dense, output, _ = jax.random.split(key, 3)
    width = scaled(DENSE, network.width)
    params = {"dense": fresh_layer(dense, (inputs, width), network.layer_norm)}
    return params | output_layers(output, outputs_of(width, network.activation), actions, network.dueling)


def _length(length: int, side: int, stride: int, padding: Padding) -> int:
    return -(-length // stride) if padding == "SAME" else (length - side) // stride + 1


def _check_width(width: float | int) -> None:
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}.")
