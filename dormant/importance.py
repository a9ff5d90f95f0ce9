"""What a neuron is worth to its network, by other measures than its activation alone."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .scores import magnitudes, neuron_scores
from .wiring import Entries, NeuronLayer, Wiring, entry_sums, paths


def gradient_scores(wiring: Wiring, gradients: PyTree[Array]) -> dict[str, Float[Array, " neurons"]]:
    """For each layer, the mean absolute gradient of every neuron's incoming entries, divided by the layer's mean of it.

    `gradients` has the tree of the parameters. Scores average 1 over a layer that gets any gradient, as those of
    activations do; the cost is one pass over the gradients.

    >>> from dormant import trace
    >>> params = {"hidden": {"w": jnp.ones((2, 3))}, "head": {"w": jnp.ones((3, 1))}}
    >>> wiring = trace(lambda p, x: jax.nn.relu(x @ p["hidden"]["w"]) @ p["head"]["w"], params, jnp.ones((5, 2)))
    >>> gradients = {"hidden": {"w": jnp.array([[0.0, 1.0, 3.0], [0.0, -1.0, 1.0]])}, "head": {"w": jnp.ones((3, 1))}}
    >>> gradient_scores(wiring, gradients)["hidden"].tolist()
    [0.0, 1.0, 2.0]

    Source: Liu et al. 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep RL" (ReGraMa), as
    its ports have it: the gradient of the batch's mean loss. We count biases among the incoming entries.
    """
    ones = _leaves(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), gradients))
    gradient_sizes = _leaves(jax.tree.map(magnitudes, gradients))
    scores = {}
    for layer in wiring.layers:
        total, number = (_sums(leaves, layer.incoming, layer.width) for leaves in (gradient_sizes, ones))
        scores[layer.name] = neuron_scores((total / jnp.maximum(number, 1.0))[None])
    return scores


def contributions(wiring: Wiring, params: PyTree[Array], *inputs: Any) -> dict[str, Float[Array, " neurons"]]:
    """For each neuron, its mean absolute activation times the sum of the absolute weights that read it.

    A neuron that is read through several non-linearities has the largest of its mean activations.

    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", contribution utility.
    """
    activity = _activity(wiring, params, inputs, centred=False)
    return {layer.name: activity[layer.name] * _weight(params, layer, layer.outgoing) for layer in wiring.layers}


def utilities(wiring: Wiring, params: PyTree[Array], *inputs: Any) -> dict[str, Float[Array, " neurons"]]:
    """For each neuron, what its activation contributes beyond its mean, divided by its absolute incoming weights.

    That is mean |h - mean h| * sum |outgoing| / sum |incoming|: small weights count for it, since they change quickly.
    A layer with a NaN or infinite activation has NaN for all of its neurons.

    Source: Dohare et al. 2021, "Continual backprop", overall utility; dopamine/labs/redo/weight_recyclers.py calls it
    `cbp` and takes kernels only, where we take biases too.
    """
    activity = _activity(wiring, params, inputs, centred=True)
    found = {}
    for layer in wiring.layers:
        fed, read = (_weight(params, layer, entries) for entries in (layer.incoming, layer.outgoing))
        found[layer.name] = activity[layer.name] * read / jnp.maximum(fed, jnp.finfo(fed.dtype).tiny)
    return found


def _activity(wiring: Wiring, params: PyTree[Array], inputs: Any, centred: bool) -> dict[str, Array]:
    """Each neuron's mean absolute activation, or that of its distance from its mean; NaN as in `Wiring.scores`."""
    means = {layer.name: jnp.zeros(layer.width) for layer in wiring.layers}
    for layer, neurons, values in wiring.measure(params, *inputs):
        rows = values.reshape(-1, values.shape[-1])
        rows = rows - rows.mean(axis=0, keepdims=True) if centred else rows
        largest = means[layer].at[neurons].max(magnitudes(rows).mean(axis=0))
        finite = jnp.isfinite(rows).all() & jnp.isfinite(largest).all()
        means[layer] = jnp.where(finite, largest, jnp.nan)
    return means


def _weight(params: PyTree[Array], layer: NeuronLayer, entries: Entries) -> Array:
    return _sums(_leaves(jax.tree.map(magnitudes, params)), entries, layer.width)


def _sums(leaves: dict[str, Array], entries: Entries, width: int) -> Array:
    sums = [entry_sums(leaves[path], neurons, width) for path, neurons in entries.items()]
    return jnp.zeros(width) + sum(sums, start=jnp.zeros(width))


def _leaves(tree: PyTree[Array]) -> dict[str, Array]:
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))
