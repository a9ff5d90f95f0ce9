"""Reports of a network on one batch: the dormant neurons of each layer, with sampling intervals."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .metrics import effective_rank, norm, score_bounds
from .reasons import Interval as Interval
from .reasons import LayerReport as LayerReport
from .reasons import Report as Report
from .reasons import pooled
from .settings import checked_tau
from .tracing import trace
from .wiring import Activation, NeuronLayer, Wiring, by_path


def report(apply: Callable[..., PyTree], params: PyTree, *inputs: PyTree, tau: float = 0.1) -> Report:
    """Returns a report on each layer of `apply(params, *inputs)`: dormant neurons, intervals, ranks and weight norms.

    The first axis of every input array is the batch. In a small batch, too many neurons look dormant, because some
    neurons are active on few samples only. The interval therefore accounts for the standard error of each neuron's
    score. Its lower bound is the fraction of neurons that are certainly dormant. Its upper bound is the fraction of
    neurons that may be dormant. The effective rank is computed from the matrix of activations, with one row per sample
    and position. If a layer has several non-linearities, the report shows the largest of their ranks. The weight norm
    is the Euclidean norm of all weights and biases that feed the layer.

    >>> params = {"dense": {"kernel": jnp.diag(jnp.array([1.0, 1.0, 0.0]))}, "head": {"kernel": jnp.ones((3, 1))}}
    >>> def apply(params, x):
    ...     return jax.nn.relu(x @ params["dense"]["kernel"]) @ params["head"]["kernel"]
    >>> print(report(apply, params, jnp.tile(jnp.eye(3), (20, 1))))
    layer  neurons  dormant   share  95 % interval  effective rank  weight norm  recyclable
    dense        3        1  33.3 %  33.3 - 33.3 %            2.00         1.41  yes
    all          3        1  33.3 %  33.3 - 33.3 %
    tau = 0.1, a batch of 60 samples

    If a layer has NaN or infinite activations, its row and the row of all layers contain NaN. A RuntimeWarning names
    such layers.

    Raises ValueError if tau is negative, if the inputs have first axes of different lengths, or if the batch is empty.
    Raises TraceError if the network has no layer of neurons.
    Source: Sokar et al. 2023 for the scores. The interval is ours (see `score_bounds`).
    """
    checked_tau(tau)
    wiring = trace(apply, params, *inputs)
    samples = batch_size(inputs)
    scores = {name: np.asarray(found) for name, found in jax.jit(wiring.scores)(params, *inputs).items()}
    _warn_of([name for name, values in scores.items() if np.isnan(values).any()])
    places = _by_sample(wiring, params, inputs)
    bounds = _layer_bounds(wiring, places, scores)
    leaves = by_path(params)
    layers = tuple(
        _layer_report(layer, scores[layer.name], bounds[layer.name], places, leaves, tau) for layer in wiring.layers
    )
    return Report(layers, pooled(layers), tau, samples)


def batch_size(inputs: Sequence[PyTree]) -> int:
    """Returns the length of the first axis of all input arrays. Raises ValueError if the lengths differ or are 0."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if lengths == {0}:
        raise ValueError(f"expected at least one sample, got an empty batch: the inputs have shapes {shapes}.")
    if len(lengths) != 1 or not lengths - {None}:
        raise ValueError(
            f"every input must have the batch as its first axis, with the same length; got shapes {shapes}. Bind "
            "arguments that are not batched inputs with a lambda, e.g. lambda params, x: apply(params, x, key)."
        )
    (length,) = lengths
    return int(length or 0)


def _warn_of(diverged: Sequence[str]) -> None:
    if diverged:
        names = ", ".join(map(repr, diverged))
        message = f"NaN or infinite activations in {names}; look for NaN in the inputs and the parameters."
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _by_sample(wiring: Wiring, params: PyTree, inputs: Sequence[PyTree]) -> list[Activation]:
    """Returns activations as arrays [samples, ..., neurons].

    The network is mapped over single samples, so that the first axis of each result is the batch.
    """
    found: list[Activation] = []

    def measure(sample: Sequence[PyTree]) -> list[Array]:
        found[:] = wiring.measure(params, *jax.tree.map(lambda leaf: leaf[None], sample))
        return [place.values for place in found]

    values = jax.jit(jax.vmap(measure))(jax.tree.map(jnp.asarray, tuple(inputs)))
    return [Activation(layer, neurons, each) for (layer, neurons, _), each in zip(found, values, strict=True)]


def _magnitudes(place: Activation) -> Float[np.ndarray, "samples neurons"]:
    values = np.abs(np.asarray(place.values, np.float64))
    return values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)


def _layer_bounds(
    wiring: Wiring, places: Sequence[Activation], scores: dict[str, Float[np.ndarray, " neurons"]]
) -> dict[str, Float[np.ndarray, "2 neurons"]]:
    """Returns the lower and upper score bounds of each layer, as two rows.

    A neuron with several non-linearities has several bounds. The largest of them are returned. If a layer has NaN or
    infinite activations, its bounds are NaN. If samples influence each other, all bounds are NaN. This is the case if
    the scores differ when the network is applied to each sample separately.
    """
    bounds = {layer.name: np.zeros((2, layer.width)) for layer in wiring.layers}
    alone = {layer.name: np.zeros(layer.width) for layer in wiring.layers}
    known = {name for name, values in scores.items() if not np.isnan(values).any()}
    of_place = jax.jit(score_bounds)
    for place in (place for place in places if place.layer in known):
        magnitudes = _magnitudes(place)
        here = bounds[place.layer][:, place.neurons]
        bounds[place.layer][:, place.neurons] = np.maximum(here, np.asarray(of_place(place.values))[[0, 2]])
        mean = magnitudes.mean(axis=0)
        single = mean / (mean.mean() or 1.0)
        alone[place.layer][place.neurons] = np.maximum(alone[place.layer][place.neurons], single)
    if not all(np.allclose(alone[name], scores[name], rtol=0.01, atol=0.001) for name in known):
        known = set()
    return {name: bound if name in known else np.full_like(bound, np.nan) for name, bound in bounds.items()}


def _layer_report(
    layer: NeuronLayer,
    scores: Float[np.ndarray, " neurons"],
    bounds: Float[np.ndarray, "2 neurons"],
    places: Sequence[Activation],
    leaves: Mapping[str, Array | np.ndarray],
    tau: float,
) -> LayerReport:
    low, high = bounds
    unknown = np.isnan(bounds).any()
    ends = (np.nan, np.nan) if unknown else (float((high <= tau).mean()), float((low <= tau).mean()))
    own = [place.values for place in places if place.layer == layer.name]
    rank = float(np.max([effective_rank(values.reshape(-1, values.shape[-1])) for values in own]))
    fed = {path: np.broadcast_to(ids >= 0, np.shape(leaves[path])) for path, ids in layer.incoming.items()}
    parts = [
        float(norm(jnp.where(entries, leaves[path], jnp.zeros_like(leaves[path])))) for path, entries in fed.items()
    ]
    dormant = int((scores <= np.float32(tau)).sum())
    weights = float(np.linalg.norm(parts)) if parts else np.nan
    return LayerReport(
        layer.name,
        layer.width,
        dormant,
        Interval(np.nan if np.isnan(scores).any() else dormant / layer.width, *ends),
        rank,
        weights,
        scores,
        layer.reasons,
        layer.coupled_by,
    )
