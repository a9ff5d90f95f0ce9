"""Hypothesis strategies for networks and optimizers. Functions that silence neurons of a network."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

from dormant import Learner, Network, trace
from dormant.wiring import by_path, paths

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
}
OPTIMIZERS = {
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "decay then adam": optax.chain(optax.add_decayed_weights(1e-4), optax.adam(1e-3)),
    "momentum sgd": optax.sgd(1e-2, momentum=0.9),
    "rmsprop": optax.rmsprop(1e-3),
    "adagrad": optax.adagrad(1e-2),
    "schedule_free": optax.contrib.schedule_free_adamw(1e-3),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(1e-3),
    "clip then adam with a schedule": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(1e-3, 0.0, 100))
    ),
    "multi_transform": optax.multi_transform(
        {"matrix": optax.adam(1e-3), "vector": optax.sgd(1e-2, momentum=0.9)},
        lambda params: jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params),
    ),
}


@dataclass(frozen=True)
class Convolution:
    width: int
    kernel: int
    stride: int
    dilation: int
    padding: Any


@dataclass(frozen=True)
class Architecture:
    """A network with two outputs. Its inputs are 8 x 8 x 2 images and a side input of size 3."""

    convolutions: tuple[Convolution, ...] = ()
    pooling: str | None = None
    order: tuple[int, int, int] = (1, 2, 3)
    hidden: tuple[int, ...] = (4,)
    activation: str = "relu"
    norm: str | None = None
    side: bool = False
    residual: bool = False
    dueling: bool = False

    def forward(self, param, images, side):
        """Returns the network's output. `param(layer, name, shape)` returns a parameter."""
        act = ACTIVATIONS[self.activation]

        def layer(name, x, width):
            x = x @ param(name, "kernel", (x.shape[-1], width)) + param(name, "bias", (width,))[None]
            return act(self.normalised(param, name, x))

        x = images
        for index, conv in enumerate(self.convolutions):
            x = act(self.normalised(param, f"conv{index}", self.convolved(param, f"conv{index}", conv, x)))
            x = self.pooled(x)
        x = x.transpose(0, *self.order).reshape(len(x), -1)
        x = jnp.concatenate([x, side], -1) if self.side else x
        for index, width in enumerate(self.hidden):
            x = layer(f"dense{index}", x, width)
        if self.residual:
            inner = layer("inner", x, 5)
            x = x + inner @ param("back", "kernel", (5, x.shape[-1]))
        if not self.dueling:
            return x @ param("head", "kernel", (x.shape[-1], 2))
        value, advantage = layer("value", x, 3), layer("advantage", x, 4)
        a = advantage @ param("advantage_head", "kernel", (4, 2))
        return value @ param("value_head", "kernel", (3, 1)) + a - a.mean(-1, keepdims=True)

    def convolved(self, param, name, conv, x):
        kernel = param(name, "kernel", (conv.kernel, conv.kernel, x.shape[-1], conv.width))
        strides, dilation = (conv.stride,) * 2, (conv.dilation,) * 2
        y = jax.lax.conv_general_dilated(
            x, kernel, strides, conv.padding, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + param(name, "bias", (conv.width,))[None, None, None]

    def pooled(self, x):
        window = (1, min(2, x.shape[1]), min(2, x.shape[2]), 1)
        if self.pooling == "max":
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        if self.pooling == "mean":
            return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / 4.0
        return x

    def normalised(self, param, name, x):
        if self.norm is None:
            return x
        ones = (1,) * (x.ndim - 1)
        scale, offset = (param(name, kind, (x.shape[-1],)).reshape(*ones, -1) for kind in ("scale", "offset"))
        axes = {"layer": (-1,), "rms": (-1,), "group": tuple(range(1, x.ndim))}[self.norm]
        centre = 0.0 if self.norm == "rms" else x.mean(axes, keepdims=True)
        variance = jnp.square(x - centre).mean(axes, keepdims=True)
        return (x - centre) * jax.lax.rsqrt(variance + 1e-6) * scale + offset

    def apply(self, params, images, side):
        return self.forward(lambda layer, name, shape: params[layer][name], images, side)

    def init(self, key):
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}

        def note(layer, name, shape):
            shapes.setdefault(layer, {})[name] = shape
            return jnp.zeros(shape)

        jax.eval_shape(lambda *inputs: self.forward(note, *inputs), *examples(1))
        leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
        ends = np.cumsum([int(np.prod(shape)) for shape in leaves])
        pieces = jnp.split(0.4 * jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
        return jax.tree.unflatten(tree, [piece.reshape(shape) for piece, shape in zip(pieces, leaves, strict=True)])

    def weights(self, seed: int):
        return jax.jit(self.init)(jax.random.key(seed))


@cache
def examples(batch: int = 6):
    """Returns a batch of observations: images and a side input."""
    images, side = jax.random.split(jax.random.key(99))
    return jax.random.normal(images, (batch, 8, 8, 2)), jax.random.normal(side, (batch, 3))


convolutions = st.builds(
    Convolution,
    width=st.integers(2, 4),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (0, 2))]),
)
later_convolutions = st.builds(
    Convolution, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.just("SAME")
)
plain_architectures = st.builds(
    Architecture,
    convolutions=st.one_of(st.just(()), st.tuples(convolutions), st.tuples(convolutions, later_convolutions)),
    pooling=st.sampled_from([None, "max", "mean"]),
    order=st.permutations((1, 2, 3)).map(tuple),
    hidden=st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    side=st.booleans(),
    residual=st.booleans(),
    dueling=st.booleans(),
)
optimizers = st.sampled_from(sorted(OPTIMIZERS)).map(OPTIMIZERS.get)


def train(network: Network, params) -> Learner:
    """Returns a learner with these weights. All its optimizer moments are nonzero."""
    state = jax.tree.map(np.asarray, jax.jit(network.tx.init)(params))
    moved = jax.tree.map(lambda leaf: jnp.asarray(leaf + np.asarray(3, leaf.dtype)), state)
    return Learner(params, moved)


def optimizer_step(tx, gradients, state, params):
    # Uses JAX's default promotion, because optax multiplies integer counts by Python numbers.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = jax.jit(tx.update)(gradients, state, params)
    return optax.apply_updates(params, updates), state


def silenced(network: Network, params, rng: np.random.Generator):
    """Silences random neurons. Returns the parameters and masks of these neurons. All activations must map 0 to 0."""
    layers = network.wiring.layers
    chosen = {layer.name: rng.random(layer.width) < 0.5 for layer in layers}
    return silence(network, params, chosen), chosen


def silence(network: Network, params, chosen):
    """Returns the parameters after setting the incoming entries of the chosen neurons to zero."""
    hits = entries(params, [network.wiring[name] for name in chosen], chosen, "incoming")
    return jax.tree.map(lambda leaf, hit: jnp.asarray(np.where(hit, np.float32(0), leaf)), params, hits)


def entries(params, layers, masks, way: str):
    """Returns a tree of masks: the entries that feed (`incoming`) or read (`outgoing`) the masked neurons.

    Does the same as `entry_mask`, in NumPy, because that one would be compiled for every network.
    """
    hits = {path: np.zeros(np.shape(leaf), bool) for path, leaf in by_path(params).items()}
    for layer in layers:
        for path, neurons in getattr(layer, way).items():
            hits[path] |= (neurons >= 0) & np.asarray(masks[layer.name])[np.maximum(neurons, 0)]
    return jax.tree.unflatten(jax.tree.structure(params), [hits[path] for path in paths(params)])


def network_of(architecture: Architecture, tx=OPTIMIZERS["adam"]) -> Network:
    params = architecture.weights(0)
    return Network(trace(architecture.apply, params, *examples()), architecture.init, tx)
