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

    `width` is the number of neurons. `incoming` and `outgoing` map the path of a parameter to an integer array that
    broadcasts to the parameter's shape. The array holds, for each entry, the index of the neuron that the entry feeds
    (`incoming`) or reads (`outgoing`), or -1 if there is none. If the layer can't be recycled, `reasons` explains why.
    `coupled_by` names the normalisations through which the neurons influence each other.
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
    """The activations of some neurons of a layer.

    `neurons` holds the indices of these neurons in the layer. `values` is an array [*samples, neurons].
    """

    layer: str
    neurons: Int[np.ndarray, " present"]
    values: Array


@dataclass(frozen=True, eq=False)
class Wiring:
    """The neuron layers of a traced function, in the order of computation. `outputs` names the output layers.

    `measure(params, *inputs)` runs the function and returns a list of `Activation`. `not_followed` has an entry for
    each parameter that neither feeds nor reads a neuron, such as a parameter of an unknown operation. It maps the path
    of the parameter to a description of its use. Layers inside unknown operations are not in `layers`.

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
        """Runs the traced function and returns the activations of each layer as an array [*samples, neurons].

        A layer with several non-linearities has one array per non-linearity, with the keys `name`, `name@2` and so on.
        """
        found: dict[str, Array] = {}
        for activation in self.measure(params, *inputs):
            uses = 1 + sum(name.partition("@")[0] == activation.layer for name in found)
            found[activation.layer if uses == 1 else f"{activation.layer}@{uses}"] = activation.values
        return found

    def scores(self, params: PyTree, *inputs: PyTree) -> dict[str, Float[Array, " neurons"]]:
        """Returns the scores of each layer's neurons.

        A neuron with several non-linearities (CReLU, shared weights) has one score after each non-linearity. The
        largest of them is returned. Thus the neuron is dormant only if it is dormant after all non-linearities. A layer
        with a NaN or infinite activation has NaN for all of its neurons.
        """
        scores = {layer.name: jnp.zeros(layer.width) for layer in self.layers}
        for layer, neurons, values in self.measure(params, *inputs):
            here = neuron_scores(values).astype(scores[layer].dtype)
            largest = scores[layer].at[neurons].max(here)
            scores[layer] = jnp.where(jnp.isnan(scores[layer]).any() | jnp.isnan(here).any(), jnp.nan, largest)
        return scores

    def dormant(self, params: PyTree, *inputs: PyTree, tau: float = 0.1) -> dict[str, Bool[Array, " neurons"]]:
        """Returns a mask of tau-dormant neurons per layer, which is False everywhere in a layer with a NaN score."""
        return {name: dormant_mask(scores, tau) for name, scores in self.scores(params, *inputs).items()}

    def dormant_fraction(self, params: PyTree, *inputs: PyTree, tau: float = 0.1) -> Float[Array, ""]:
        """Returns the fraction of neurons that are tau-dormant, or NaN if an activation is NaN or infinite."""
        return dormant_fraction(self.scores(params, *inputs), tau)

    def __str__(self) -> str:
        return printed_wiring(self.layers, self.outputs, self.not_followed)


class Network(NamedTuple):
    """The parts of a network that interventions use: its wiring, its initialiser and its optimizer.

    `init(key)` returns fresh parameters, with the same tree as the parameters of the network. They come from the
    initialisers of the network's layers.
    """

    wiring: Wiring
    init: Callable[[Array], PyTree[Array]]
    tx: optax.GradientTransformation


def paths(params: PyTree) -> list[str]:
    """Returns the path of each leaf of a tree, with slashes between the keys.

    >>> paths({"dense": {"bias": 0, "kernel": 1}})
    ['dense/bias', 'dense/kernel']
    """
    found = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in found]
    # Keys with slashes, as in {"a": {"b/c": ...}, "a/b": {"c": ...}}, may give several leaves the same name.
    return [name + (f"#{earlier + 1}" if (earlier := names[:n].count(name)) else "") for n, name in enumerate(names)]


def by_path(params: PyTree) -> dict[str, Any]:
    """Returns a dictionary from paths to the leaves of a tree.

    >>> by_path({"dense": {"bias": 0, "kernel": 1}})
    {'dense/bias': 0, 'dense/kernel': 1}
    """
    return dict(zip(paths(params), jax.tree.leaves(params), strict=True))


def entry_mask(params: PyTree, entries: Mapping[str, Entries], masks: Masks) -> PyTree[Bool[Array, "..."]]:
    """Returns a tree of masks, one per parameter, which select the entries of the masked neurons.

    `masks` maps the name of a layer to a mask of its neurons. `entries` maps the name of a layer to its incoming or
    outgoing entries. Each mask in the result broadcasts to the shape of its parameter.

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
    last = np.where(owners.ravel() < 0, width, owners.ravel())  # entries without a neuron are summed in an extra slot
    return jnp.zeros(width + 1, values.dtype).at[last].add(sums)[:width]
