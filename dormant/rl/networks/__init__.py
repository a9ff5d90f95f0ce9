"""Layers and heads of Q-networks, and two Q-networks: `MLP`, and `Injectable` for plasticity injection.

"The paper" is Sokar et al. 2023, which introduced ReDo.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from dormant.interventions.holding import MINUS, NEW
from dormant.regularisers import largest_singular_value

Activation = Literal["relu", "leaky_relu", "crelu", "fourier"]
Layer = dict[str, Array]
Params = dict[str, dict[str, Array]]
Shape = tuple[int, ...]

OUTPUT_LAYERS = ("head", "advantage", "value")
# The initialiser of the paper's networks (dopamine/labs/redo/networks.py). The DQN of Young & Tian 2019 on MinAtar uses
# PyTorch's default instead, which draws kernels and biases uniformly within ±1/sqrt(fan in).
KERNEL = jax.nn.initializers.xavier_uniform()
EPSILON = 1e-6  # added to the variance in LayerNorm; Flax's default


@runtime_checkable
class QNetwork(Protocol):
    """A network that maps observations to one Q value per action."""

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params: ...
    def apply(self, params: Params, observations: Shaped[Array, "batch *shape"]) -> Float[Array, "batch actions"]: ...


def fresh_layer(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    layer_norm: bool = False,
    kernel: jax.nn.initializers.Initializer = KERNEL,
) -> Layer:
    """Returns a layer with a random kernel and zero biases. `layer_norm` adds scales of one and offsets of zero."""
    plain = {"kernel": kernel(key, shape, jnp.float32), "bias": jnp.zeros(shape[-1])}
    norm = {"scale": jnp.ones(shape[-1]), "offset": jnp.zeros(shape[-1])}
    return plain | (norm if layer_norm else {})


def neurons_of(width: int, activation: Activation) -> int:
    """The number of neurons of a layer of this width: half of it with Fourier features, otherwise all of it.

    With Fourier features, a neuron has two outputs (sine and cosine), so the layer has as many outputs as with ReLU.

    >>> neurons_of(16, "relu"), neurons_of(16, "fourier")
    (16, 8)

    Raises ValueError if an odd width has to be halved.
    """
    if activation == "fourier" and width % 2:
        raise ValueError(f"activation='fourier' halves the width of each layer, so widths must be even, got {width}.")
    return width // 2 if activation == "fourier" else width


def outputs_of(neurons: int, activation: Activation) -> int:
    """The number of activations of `neurons` neurons: two per neuron with CReLU and Fourier features, otherwise one.

    >>> outputs_of(16, "relu"), outputs_of(16, "crelu")
    (16, 32)
    """
    return 2 * neurons if activation in ("crelu", "fourier") else neurons


def active(values: Float[Array, "batch *places n"], layer: Layer, activation: Activation) -> Float[Array, "..."]:
    """Applies LayerNorm if the layer has a scale, then the activation function. Returns the activations."""
    return activated(normalised(values, layer) if "scale" in layer else values, activation)


def activated(values: Float[Array, "batch *places n"], activation: Activation) -> Float[Array, "batch *places outputs"]:
    """Applies ReLU, leaky ReLU with slope 0.01, CReLU, or Fourier features.

    CReLU concatenates ReLU(x) and ReLU(-x). Fourier features concatenate sin(x) and cos(x).

    >>> [activated(jnp.array([[1.0, -2.0]]), name).tolist() for name in ("relu", "crelu")]
    [[[1.0, 0.0]], [[1.0, 0.0, 0.0, 2.0]]]
    >>> jnp.round(activated(jnp.array([[0.0, jnp.pi / 2]]), "fourier")).tolist()
    [[0.0, 1.0, 1.0, -0.0]]

    Source: leaky ReLU, Maas et al. 2013, with the slope of the paper's figure 21; CReLU, Shang et al. 2016. Abbas et
    al. 2023, "Loss of plasticity in continual deep reinforcement learning", found that CReLU keeps networks plastic.
    Fourier features, Lewandowski et al. 2025, "Plastic learning with deep Fourier features", in every layer.
    """
    match activation:
        case "leaky_relu":
            return jax.nn.leaky_relu(values, 0.01)
        case "crelu":
            return jax.nn.relu(jnp.concatenate([values, -values], axis=-1))
        case "fourier":
            return jnp.concatenate([jnp.sin(values), jnp.cos(values)], axis=-1)
        case _:
            return jax.nn.relu(values)


def normalised(values: Float[Array, "batch *places n"], layer: Layer) -> Float[Array, "batch *places n"]:
    """LayerNorm: normalises the values over the neurons at each position, then scales and shifts them.

    Source: Ba et al. 2016, "Layer normalization"; Lyle et al. 2023, "Understanding plasticity in neural networks".
    """
    mean = values.mean(axis=-1, keepdims=True)
    variance = jnp.square(values - mean).mean(axis=-1, keepdims=True)
    ones = (1,) * (values.ndim - 1)
    scale, offset = layer["scale"].reshape(*ones, -1), layer["offset"].reshape(*ones, -1)
    return (values - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + offset


def spectrally_normalised(layer: Layer) -> Layer:
    """Divides a dense layer's kernel by its largest singular value. Gradients also flow through this value.

    >>> kernel = spectrally_normalised({"kernel": jnp.diag(jnp.array([4.0, 1.0]))})["kernel"]
    >>> jnp.round(kernel, 3).tolist()
    [[1.0, 0.0], [0.0, 0.25]]

    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks"; Gogianu et al. 2021,
    "Spectral normalisation for deep reinforcement learning", for one layer of a Q-network. Both papers keep the vector
    of the power iteration between steps. This function restarts the power iteration at every step.
    """
    value = largest_singular_value(layer["kernel"])
    return layer | {"kernel": layer["kernel"] / jnp.where(value > 0, value, 1.0)}


def linear(values: Float[Array, "batch inputs"], layer: dict[str, Array]) -> Float[Array, "batch outputs"]:
    """Values times the kernel, plus the bias."""
    return values @ layer["kernel"] + layer["bias"][None]


def flattened(maps: Float[Array, "batch high wide channels"], gap: bool) -> Float[Array, "batch inputs"]:
    """The inputs of the first dense layer: all entries of the maps, or with `gap` the mean of each map.

    >>> flattened(jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 2, 2, 1), gap=True).tolist()
    [[3.0]]

    Source: global average pooling, Sokar and Castro 2025, "Mind the gap! The challenges of scale in pixel-based deep
    reinforcement learning". With `gap`, the dense layer does not know the positions of objects, which matter in
    MinAtar.
    """
    return maps.mean(axis=(1, 2)) if gap else maps.reshape(len(maps), -1)


def output_layers(key: Key[Array, ""], inputs: int, actions: int, dueling: bool) -> Params:
    """Returns fresh output layers: one linear head, or the advantage layer and the value layer of a dueling head."""
    if not dueling:
        return {"head": fresh_layer(key, (inputs, actions))}
    advantage, value = jax.random.split(key)
    return {"advantage": fresh_layer(advantage, (inputs, actions)), "value": fresh_layer(value, (inputs, 1))}


def q_values(hidden: Float[Array, "batch neurons"], params: Params) -> Float[Array, "batch actions"]:
    """Applies the output layers. Returns the Q values.

    A dueling head subtracts the mean advantage from each advantage, and adds the state's value.

    >>> one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    >>> q_values(jnp.array([[2.0]]), {"value": one, "advantage": {"kernel": jnp.ones((1, 2)), "bias": jnp.arange(2.0)}})
    Array([[1.5, 2.5]], dtype=float32)

    Source: Wang et al. 2016, equation 9.
    """
    if "head" in params:
        return linear(hidden, params["head"])
    advantage = linear(hidden, params["advantage"])
    return linear(hidden, params["value"]) + advantage - advantage.mean(axis=1, keepdims=True)


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
        """Freshly initialised parameters."""
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


OUTPUTS = ("head", "value", "advantage")


@dataclass(frozen=True)
class Injectable:
    """A Q-network with three heads. Its values are head(x) + new_head(x) - minus_head(x).

    The heads `new_head` and `minus_head` start equal. `shared` names the layers below the heads. All three heads read
    these layers. `PlasticityInjection` decides which heads learn, and when. Without this intervention, all three heads
    learn. A head includes all layers that are not shared, and the network computes these layers three times.

    >>> params = Injectable(MLP((4, 3)), shared=("dense_0",)).init(jax.random.key(0), (2,), actions=2)
    >>> list(params)
    ['dense_0', 'dense_1', 'head', 'new_dense_1', 'new_head', 'minus_dense_1', 'minus_head']

    Raises ValueError at `init` for a shared layer that the network does not have.
    Source: Nikishin et al. 2023, "Deep reinforcement learning with plasticity injection".
    """

    network: QNetwork
    shared: tuple[str, ...] = ("conv",)

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Freshly initialised parameters."""
        first, second = (self.network.init(one, observation_shape, actions) for one in jax.random.split(key))
        missing = sorted(set(self.shared) - set(first))
        if missing:
            raise ValueError(f"the network has no layers {missing} to share; it has {sorted(first)}.")
        head = {name: layer for name, layer in second.items() if name not in self.shared}
        return {**first, **{mark + name: layer for mark in (NEW, MINUS) for name, layer in head.items()}}

    def apply(self, params: Params, observations: Shaped[Array, "batch *shape"]) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        old, new, minus = (self.network.apply(self._with_head(params, mark), observations) for mark in ("", NEW, MINUS))
        return old + new - minus

    def _with_head(self, params: Params, mark: str) -> Params:
        names = [name for name in params if not name.startswith((NEW, MINUS))]
        return {name: params[name if name in self.shared else mark + name] for name in names}


def injectable(network: QNetwork) -> Injectable:
    """Wraps a network for plasticity injection. Shares all layers below the last hidden layer.

    >>> from dormant.rl.networks.convolutional import NatureCNN
    >>> injectable(NatureCNN()).shared
    ('conv1', 'conv2', 'conv3')
    """
    if isinstance(network, Injectable):
        return network
    shape = (4,) if isinstance(network, MLP) else (84, 84, 4)
    params = jax.eval_shape(lambda key: network.init(key, shape, 2), jax.random.key(0))
    hidden = [name for name in params if name.startswith("dense")]
    return Injectable(network, tuple(name for name in params if name not in (*hidden[-1:], *OUTPUTS)))
