"""Wirings: the parameters that feed and read each neuron, for every layer of a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .reasons import printed_wiring
from .scores import dormant_fraction, dormant_mask, neuron_scores

Entries = Mapping[str, Int[np.ndarray, "..."]]
Masks = Mapping[str, Bool[Array, " neurons"]]


@dataclass(frozen=True, eq=False)
class NeuronLayer:
    """A layer of neurons, with the parameter entries that feed and read each neuron.

    `incoming` and `outgoing` map the path of a parameter to an integer array that broadcasts to the parameter's shape.
    It holds the index of the neuron to which each entry belongs, or -1. If the layer can't be recycled, `reasons`
    explains why. `coupled_by` names the normalisations through which its neurons influence each other.
    """

    name: str
    width: int
    incoming: Entries
    outgoing: Entries
    reasons: tuple[str, ...] = ()
    coupled_by: tuple[str, ...] = ()

    @property
    def recyclable(self) -> bool:
        """Whether silent neurons of this layer can be replaced without changing what the network computes."""
        return not self.reasons


class Activation(NamedTuple):
    """Activations at one point of the network: the layer, the indices of the measured neurons, and their values."""

    layer: str
    neurons: Int[np.ndarray, " present"]
    values: Array


@dataclass(frozen=True, eq=False)
class Wiring:
    """The neuron layers of a traced function, in the order of computation. `outputs` names the output layers.

    `not_followed` maps the path of each parameter that neither feeds nor reads a neuron to a description of its use.
    It includes the parameters that unknown operations use. `layers` does not contain layers inside such operations.

    >>> from dormant import trace
    >>> def apply(params, x):
    ...     return jax.nn.relu(x @ params["hidden"]["w"]) @ params["head"]["w"]
    >>> params = {"hidden": {"w": jnp.ones((2, 3))}, "head": {"w": jnp.ones((3, 1))}}
    >>> wiring = trace(apply, params, jnp.ones((5, 2)))
    >>> [(layer.name, layer.width) for layer in wiring.layers], wiring.outputs
    ([('hidden', 3)], ('head',))
    >>> wiring.scores(params, jnp.ones((5, 2)))["hidden"].tolist()
    [1.0, 1.0, 1.0]
    """

    layers: tuple[NeuronLayer, ...]
    outputs: tuple[str, ...]
    measure: Callable[..., list[Activation]] = field(repr=False)
    not_followed: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NeuronLayer:
        found = {layer.name: layer for layer in self.layers}
        if name not in found:
            raise KeyError(f"no neuron layer is called {name!r}; the layers are {sorted(found)}.")
        return found[name]

    def activations(self, params: PyTree, *inputs: PyTree) -> dict[str, Array]:
        """Runs the traced function and returns the activations of every layer, each [*samples, neurons].

        A layer that is read through several non-linearities has one entry per non-linearity: `name`, `name@2` and so
        on.
        """
        found: dict[str, Array] = {}
        for activation in self.measure(params, *inputs):
            uses = 1 + sum(name.partition("@")[0] == activation.layer for name in found)
            found[activation.layer if uses == 1 else f"{activation.layer}@{uses}"] = activation.values
        return found

    def scores(self, params: PyTree, *inputs: PyTree) -> dict[str, Float[Array, " neurons"]]:
        """Returns the score of every neuron of every layer.

        If a neuron is read through several non-linearities (CReLU, shared weights), it has a score after each. The
        largest is returned, so the neuron counts as dormant only if it is dormant after each of them. A layer with a
        NaN or infinite activation has NaN for all of its neurons.
        """
        scores = {layer.name: jnp.zeros(layer.width) for layer in self.layers}
        for layer, neurons, values in self.measure(params, *inputs):
            here = neuron_scores(values).astype(scores[layer].dtype)
            largest = scores[layer].at[neurons].max(here)
            scores[layer] = jnp.where(jnp.isnan(scores[layer]).any() | jnp.isnan(here).any(), jnp.nan, largest)
        return scores

    def dormant(self, params: PyTree, *inputs: PyTree, tau: float = 0.1) -> dict[str, Bool[Array, " neurons"]]:
        """Returns a mask of tau-dormant neurons per layer. All False in a layer with a NaN or infinite activation."""
        return {name: dormant_mask(scores, tau) for name, scores in self.scores(params, *inputs).items()}

    def dormant_fraction(self, params: PyTree, *inputs: PyTree, tau: float = 0.1) -> Float[Array, ""]:
        """Returns the fraction of all neurons that is tau-dormant. NaN if an activation is NaN or infinite."""
        return dormant_fraction(self.scores(params, *inputs), tau)

    def __str__(self) -> str:
        return printed_wiring(self.layers, self.outputs, self.not_followed)


class Network(NamedTuple):
    """The parts of a network that interventions use: its wiring, its initialiser and its optimizer.

    `init(key)` returns fresh parameters with the tree of the network's parameters, so every layer keeps its
    initialiser.
    """

    wiring: Wiring
    init: Callable[[Array], PyTree[Array]]
    tx: optax.GradientTransformation


def paths(params: PyTree) -> list[str]:
    """Returns the path of each leaf in the notation of wirings.

    >>> paths({"dense": {"bias": 0, "kernel": 1}})
    ['dense/bias', 'dense/kernel']
    """
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]


def by_path(params: PyTree) -> dict[str, Any]:
    """Returns a dictionary from paths to the leaves of a tree.

    >>> by_path({"dense": {"bias": 0, "kernel": 1}})
    {'dense/bias': 0, 'dense/kernel': 1}
    """
    return dict(zip(paths(params), jax.tree.leaves(params), strict=True))


def entry_mask(params: PyTree, entries: Mapping[str, Entries], masks: Masks) -> PyTree[Bool[Array, "..."]]:
    """Returns, per parameter, a mask of the masked neurons' entries. The mask broadcasts to the parameter's shape.

    `entries` maps a layer's name to its incoming or outgoing entries.

    >>> entries = {"dense": {"kernel": np.array([[0, 1]])}}
    >>> entry_mask({"kernel": jnp.ones((3, 2))}, entries, {"dense": jnp.array([False, True])})["kernel"].tolist()
    [[False, True]]
    """
    hits: dict[str, Array] = {}
    for layer, owners in entries.items():
        for path, neurons in owners.items():
            hit = jnp.asarray(neurons >= 0) & masks[layer][np.maximum(neurons, 0)]
            hits[path] = hits[path] | hit if path in hits else hit
    leaves = [hits.get(path, jnp.zeros((), bool)) for path in paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def entry_sums(values: Array, neurons: Int[np.ndarray, "..."], width: int) -> Float[Array, " neurons"]:
    """Returns, for each of `width` neurons, the sum of the entries of `values` that belong to the neuron.

    >>> entry_sums(jnp.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0, -1]]), width=2).tolist()
    [4.0, 0.0]
    """
    owners = neurons.reshape((1,) * (values.ndim - neurons.ndim) + neurons.shape)
    same = tuple(axis for axis, length in enumerate(owners.shape) if length == 1)
    sums = values.sum(axis=same, keepdims=True).ravel()
    last = np.where(owners.ravel() < 0, width, owners.ravel())  # entries without a neuron go to an extra slot
    return jnp.zeros(width + 1, values.dtype).at[last].add(sums)[:width]
