"""Convolutional networks for MinAtar, for image classification, and for Atari.

"The paper" is Sokar et al. 2023, which introduced ReDo.
"""

import math
from dataclasses import dataclass
from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from dormant.settings import POSITIVE, added, check_counts, check_fields, check_flag, one_of

from . import (
    Activation,
    Params,
    Shape,
    activated,
    active,
    flattened,
    fresh_layer,
    linear,
    neurons_of,
    output_layers,
    outputs_of,
    q_values,
    spectrally_normalised,
)
from .convolution import Padding, convolved, convolved_by_patches, output_length

INNER_KERNEL = jax.nn.initializers.lecun_normal()  # Flax's default; the reference code uses it in residual blocks
NATURE = ((8, 4, 32), (4, 2, 64), (3, 1, 64))  # side, stride and filters of each convolution
STACKS = (32, 64, 64)  # filters of each stack of the residual network
DENSE = 512  # neurons of the dense layer


@dataclass(frozen=True)
class MinAtarCNN:
    """One convolution, one dense layer and a linear or dueling head, with ReLU.

    >>> params = MinAtarCNN().init(jax.random.key(0), (10, 10, 4), actions=3)
    >>> {name: layer["kernel"].shape for name, layer in params.items()}
    {'conv': (3, 3, 4, 16), 'dense': (1024, 128), 'head': (128, 3)}
    >>> MinAtarCNN().apply(params, jnp.zeros((2, 10, 10, 4), bool)).shape
    (2, 3)

    `activation` and `layer_norm` apply to the convolution and the dense layer. The normalisation comes before the
    activation. `spectral_norm` applies to the dense layer, whose neurons are then measured but not recycled. `gap`
    averages each map before the dense layer. `activation="fourier"` halves the neurons of each layer. Each neuron then
    has two outputs, so a layer has as many outputs as with ReLU.

    Source: Young & Tian 2019, MinAtar's DQN (16 filters of 3 x 3 without padding, 128 neurons). Kernels are Xavier
    uniform and biases zero, as in the paper's networks.
    """

    filters: int = 16
    width: int = 128
    dueling: bool = False
    activation: Activation = "relu"
    layer_norm: bool = False
    spectral_norm: bool = False
    gap: bool = added(False)

    def __post_init__(self) -> None:
        check_counts(self, "filters", "width")
        one_of("activation", self.activation, get_args(Activation))
        for name in ("dueling", "layer_norm", "spectral_norm", "gap"):
            check_flag(name, getattr(self, name))
        for width in (self.filters, self.width):
            neurons_of(width, self.activation)

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Freshly initialised parameters."""
        height, width, channels = observation_shape
        filters, neurons = (neurons_of(width, self.activation) for width in (self.filters, self.width))
        flat = (1 if self.gap else (height - 2) * (width - 2)) * outputs_of(filters, self.activation)
        conv, dense, head = jax.random.split(key, 3)
        return {
            "conv": fresh_layer(conv, (3, 3, channels, filters), self.layer_norm),
            "dense": fresh_layer(dense, (flat, neurons), self.layer_norm),
            **output_layers(head, outputs_of(neurons, self.activation), actions, self.dueling),
        }

    def apply(
        self, params: Params, observations: Shaped[Array, "batch height width channels"]
    ) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        maps = convolved_by_patches(observations.astype(jnp.float32), params["conv"], 1, "VALID")
        conv = active(maps, params["conv"], self.activation)
        dense = spectrally_normalised(params["dense"]) if self.spectral_norm else params["dense"]
        hidden = linear(flattened(conv, self.gap), dense)
        return q_values(active(hidden, dense, self.activation), params)


@dataclass(frozen=True)
class ImageCNN:
    """Three convolutions of 3 x 3 with stride 2, one dense layer and a linear head, with ReLU.

    >>> params = ImageCNN((16, 32, 32)).init(jax.random.key(0), (28, 28, 1), classes=10)
    >>> {name: layer["kernel"].shape for name, layer in params.items()}
    {'conv1': (3, 3, 1, 16), 'conv2': (3, 3, 16, 32), 'conv3': (3, 3, 32, 32), 'dense': (512, 64), 'head': (64, 10)}

    Raises ValueError for a layer without neurons.
    Source: the paper's network for figure 3 has "three convolutions and a dense layer". The number and the size of the
    filters come from secondary sources, because the paper's appendix was not available. We use strides, not pooling.
    With pooling to maps of the same size, a gradient step would take five times as long on a CPU. Weights are
    initialised as in the networks of the paper's agents.
    """

    filters: tuple[int, int, int] = (32, 64, 64)
    width: int = 64

    def __post_init__(self) -> None:
        if min(*self.filters, self.width) < 1:
            raise ValueError(f"every layer needs at least 1 neuron, got {self.filters} filters and width {self.width}.")

    def init(self, key: Key[Array, ""], image_shape: tuple[int, int, int], classes: int) -> Params:
        """Freshly initialised parameters."""
        high, wide, channels = image_shape
        keys = jax.random.split(key, 5)
        params: Params = {}
        for number, filters in enumerate(self.filters):
            params[f"conv{number + 1}"] = fresh_layer(keys[number], (3, 3, channels, filters))
            high, wide, channels = -(-high // 2), -(-wide // 2), filters
        params["dense"] = fresh_layer(keys[3], (high * wide * channels, self.width))
        return params | {"head": fresh_layer(keys[4], (self.width, classes))}

    def apply(
        self, params: Params, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        """The logits of the classes."""
        for number in range(len(self.filters)):
            images = jax.nn.relu(convolved_by_patches(images, params[f"conv{number + 1}"], 2, "SAME"))
        dense = jax.nn.relu(linear(images.reshape(len(images), -1), params["dense"]))
        return linear(dense, params["head"])


def _check(network: "NatureCNN | ImpalaResNet") -> None:
    one_of("activation", network.activation, get_args(Activation))
    check_fields(network, POSITIVE, "width")


@dataclass(frozen=True)
class NatureCNN:
    """Three convolutions, one dense layer and a linear head, with ReLU, on frames of 0 to 255.

    >>> params = NatureCNN().init(jax.random.key(0), (84, 84, 4), actions=6)
    >>> {name: layer["kernel"].shape for name, layer in params.items()}
    {'conv1': (8, 8, 4, 32), 'conv2': (4, 4, 32, 64), 'conv3': (3, 3, 64, 64), 'dense': (7744, 512), 'head': (512, 6)}

    Raises ValueError for a width that is not positive.
    Source: the paper's NatureDQNNetwork (dopamine/labs/redo/networks.py). PyTorch ports and Mnih et al. 2015 use
    `padding="VALID"`, which leaves 3,136 inputs to the dense layer. The activation `crelu` follows Abbas et al. 2023: a
    layer of n neurons has 2n activations, relu(x) and relu(-x). `gap` averages each map before the dense layer, after
    Sokar and Castro 2025. `activation="fourier"` halves the neurons of each layer.
    """

    width: float | int = 1  # multiplies filters and dense neurons; the paper uses 1, 2 and 4
    padding: Padding = "SAME"
    activation: Activation = "relu"
    layer_norm: bool = False
    dueling: bool = False
    gap: bool = added(False)

    __post_init__ = _check

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Freshly initialised parameters."""
        high, wide, channels = observation_shape
        keys = jax.random.split(key, len(NATURE) + 1)
        params: Params = {}
        for number, (side, stride, filters) in enumerate(NATURE):
            shape = (side, side, channels, neurons_of(scaled(filters, self.width), self.activation))
            params[f"conv{number + 1}"] = fresh_layer(keys[number], shape, self.layer_norm)
            high, wide = (output_length(length, side, stride, self.padding) for length in (high, wide))
            channels = outputs_of(shape[-1], self.activation)
        return params | _head(keys[-1], (1 if self.gap else high * wide) * channels, actions, self)

    def apply(
        self, params: Params, observations: Shaped[Array, "batch height width channels"]
    ) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        maps = pixels(observations)
        for number, (_, stride, _) in enumerate(NATURE):
            layer = params[f"conv{number + 1}"]
            maps = active(convolved(maps, layer, stride, self.padding), layer, self.activation)
        return _values(maps, params, self)


@dataclass(frozen=True)
class ImpalaResNet:
    """A residual network on frames of 0 to 255: three stacks, a dense layer and a linear head.

    A stack has a convolution, max pooling over 3 x 3, and two residual blocks. `dueling` replaces the linear head.

    >>> params = ImpalaResNet().init(jax.random.key(0), (84, 84, 4), actions=6)
    >>> list(params)[:5], params["stack2_conv"]["kernel"].shape, params["dense"]["kernel"].shape
    (['stack1_conv', 'stack1_block1_conv1', 'stack1_block1_conv2', 'stack1_block2_conv1', 'stack1_block2_conv2'],
     (3, 3, 32, 64), (7744, 512))

    Raises ValueError for a width that is not positive.
    Source: the paper's ResNet (dopamine/labs/redo/networks.py), which is the network of Espeholt et al. 2018 with twice
    the filters. Neurons that are summed into a residual stream are measured but not recycled. `layer_norm` normalises
    the dense layer and every convolution that does not write into a residual stream. `gap` averages each map before the
    dense layer, after Sokar and Castro 2025. `activation="fourier"` raises ValueError, because it is not defined how to
    halve the width of a residual stream.
    """

    width: float | int = 1
    activation: Activation = "relu"
    layer_norm: bool = False
    dueling: bool = False
    gap: bool = added(False)

    def __post_init__(self) -> None:
        _check(self)
        if self.activation == "fourier":
            raise ValueError("activation='fourier' is not defined for the residual network; use the Nature CNN.")

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Freshly initialised parameters."""
        high, wide, channels = observation_shape
        keys = jax.random.split(key, len(STACKS) + 1)
        params: Params = {}
        for number, filters in enumerate(STACKS):
            width = scaled(filters, self.width)
            params |= self._stack(keys[number], f"stack{number + 1}", channels, width)
            high, wide, channels = -(-high // 2), -(-wide // 2), width
        places = 1 if self.gap else high * wide
        return params | _head(keys[-1], places * outputs_of(channels, self.activation), actions, self)

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
            stream = pooled(convolved(stream, params[f"stack{number}_conv"]))
            for block in (1, 2):
                stream = stream + self._branch(params, f"stack{number}_block{block}", stream)
        return _values(activated(stream, self.activation), params, self)

    def _branch(self, params: Params, block: str, stream: Array) -> Array:
        first, second = params[f"{block}_conv1"], params[f"{block}_conv2"]
        inner = active(convolved(activated(stream, self.activation), first), first, self.activation)
        return convolved(inner, second)


def scaled(neurons: int, width: float | int) -> int:
    """The number of neurons times the factor `width`, rounded up as in the paper's code.

    >>> scaled(32, 2), scaled(32, 0.3)
    (64, 10)
    """
    return math.ceil(neurons * width)


def pixels(observations: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Scales frames of 0 to 255 to floats in [0, 1]."""
    return observations.astype(jnp.float32) / 255.0


def pooled(maps: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """Max pooling over 3 x 3 with stride 2 and padded borders."""
    return jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def _values(maps: Array, params: Params, network: NatureCNN | ImpalaResNet) -> Array:
    dense = linear(flattened(maps, network.gap), params["dense"])
    return q_values(active(dense, params["dense"], network.activation), params)


def _head(key: Array, inputs: int, actions: int, network: NatureCNN | ImpalaResNet) -> Params:
    dense, output, _ = jax.random.split(key, 3)
    width = neurons_of(scaled(DENSE, network.width), network.activation)
    params = {"dense": fresh_layer(dense, (inputs, width), network.layer_norm)}
    return params | output_layers(output, outputs_of(width, network.activation), actions, network.dueling)
