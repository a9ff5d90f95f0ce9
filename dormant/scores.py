"""Neuron scores, masks of dormant neurons, the fraction of dormant neurons, and the overlap of two masks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, Shaped

from .settings import checked_tau, described

AnyArray = jax.Array | np.ndarray


def neuron_scores(activations: Num[AnyArray, "*samples neurons"]) -> Float[Array, " neurons"]:
    """Returns the score of each neuron: its mean absolute activation, divided by the mean over the layer.

    Activations are averaged over all axes except the last, such as batch, time, and the positions of a convolution. The
    scores of a layer average 1, so a threshold does not depend on the layer's width. In a silent layer, all scores are
    0. In a layer with a NaN or infinite activation, all scores are NaN. The absolute value of a complex activation is
    its modulus.

    >>> neuron_scores(np.array([[0.0, 1.0, 3.0], [0.0, -1.0, 1.0]])).tolist()
    [0.0, 1.0, 2.0]

    Source: Sokar et al. 2023, equation 1. The reference code (dopamine/labs/redo/weight_recyclers.py) adds 1e-9 to the
    mean over the layer. We do not, so that scores do not depend on the scale of the layer. The paper states that the
    scores of a layer sum to 1. This is a mistake: they average 1 (google/dopamine issue 209).
    """
    values = magnitudes(activations)
    samples = tuple(range(values.ndim - 1))
    largest = jnp.max(values, initial=0.0)
    # We first divide by the largest value, so that the mean of very large or small activations does not overflow or
    # underflow. XLA multiplies by the reciprocal of the divisor. The divisor is at most 2**126, because the reciprocal
    # of a larger divisor would be subnormal.
    safe = jnp.where(largest > 0, jnp.minimum(largest, 2.0**126), jnp.ones_like(largest))
    magnitude = (values / safe).mean(axis=samples)
    mean = magnitude.mean()
    scores = magnitude / jnp.where(mean > 0, mean, jnp.ones_like(mean))
    # Only silent neurons get score 0. Other scores may underflow if another neuron is much more active, so they are
    # raised to the smallest normal number.
    scores = jnp.where((values != 0).any(axis=samples), jnp.maximum(scores, jnp.finfo(scores.dtype).tiny), 0.0)
    return jnp.where(jnp.isfinite(values).all(), scores, jnp.nan)


def magnitudes(values: Num[AnyArray, "*shape"]) -> Float[Array, "*shape"]:
    """Returns absolute values in single precision, or in double precision if `values` has double precision.

    The absolute value of a complex number is its modulus.

    >>> magnitudes(np.array([3 + 4j, -1], np.complex64)).tolist()
    [5.0, 1.0]
    """
    values = jnp.asarray(values)
    if values.dtype == bool:
        return values.astype(jnp.float32)
    # Integers are converted to floats first, because the absolute value of the smallest integer overflows.
    exact = jnp.issubdtype(values.dtype, jnp.inexact)
    values = jnp.abs(values) if exact else jnp.abs(values.astype(jnp.float32))
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def dormant_mask(scores: Float[AnyArray, "*batch neurons"], tau: float) -> Bool[Array, "*batch neurons"]:
    """Returns a mask of the tau-dormant neurons. A neuron is tau-dormant if its score is at most `tau`.

    >>> dormant_mask(np.array([0.0, 0.1, 2.9], np.float32), tau=0.1).tolist()
    [True, True, False]

    The mask is False for a neuron whose score is NaN. In contrast, `dormant_fraction` returns NaN if a score is NaN.

    Raises ValueError if `tau` is negative.
    Source: Sokar et al. 2023, definition 3.1. A neuron whose score equals tau is dormant, so tau = 0 finds the silent
    neurons.
    """
    return jnp.asarray(scores) <= checked_tau(tau)


def dormant_fraction(scores: Mapping[str, Shaped[AnyArray, " neurons"]], tau: float = 0.1) -> Float[Array, ""]:
    """Returns the fraction of dormant neurons among the neurons of all layers, or NaN if a score is NaN.

    Wide layers dominate the fraction. For example, 512 of the 672 neurons of Nature CNN are in its dense layer. With
    `tau=0`, the result is the fraction of dead neurons, which are zero on every sample of the batch.

    >>> scores = {"conv": np.array([0.0], np.float32), "dense": np.array([0.3, 1.0, 1.7], np.float32)}
    >>> float(dormant_fraction(scores)), float(dormant_fraction(scores, tau=0.5))
    (0.25, 0.5)

    Raises ValueError if tau is negative or there is no neuron. Raises TypeError if `scores` contains a mask.
    Source: Sokar et al. 2023, definition 3.1, pooled as in dopamine/labs/redo/weight_recyclers.py; dead units, Lyle et
    al. 2023, "Understanding plasticity in neural networks".
    """
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"expected a dictionary from layers to scores, got {described(scores)}; write {{layer: scores}}."
        )
    if not sum(values.size for values in scores.values()):
        raise ValueError("no neurons to count: scores is empty; pass the scores of at least one layer.")
    for name, values in scores.items():
        if values.dtype == bool:
            raise TypeError(f"expected scores, got a Boolean mask for layer {name!r}; pass wiring.scores(...) and tau.")
    dormant = sum((dormant_mask(each, tau).sum() for each in scores.values()), start=jnp.zeros((), jnp.int32))
    neurons = sum(each.size for each in scores.values())
    unknown = jnp.array([jnp.isnan(jnp.asarray(each)).any() for each in scores.values()]).any()
    return jnp.where(unknown, jnp.nan, dormant.astype(jnp.float32) / neurons)


def overlap_coefficient(first: Bool[AnyArray, " neurons"], second: Bool[AnyArray, " neurons"]) -> Float[Array, ""]:
    """Returns the overlap of two sets of neurons: |A and B| / min(|A|, |B|), or 0 if a set is empty.

    Each set is a mask over the same neurons.

    >>> float(overlap_coefficient(np.array([True, True, False]), np.array([True, False, False])))
    1.0

    Raises TypeError if the arguments are not masks of the same neurons.
    Source: Sokar et al. 2023, figure 5. The value for an empty set is our choice.
    """
    a, b = jnp.asarray(first), jnp.asarray(second)
    if (a.dtype, b.dtype) != (bool, bool) or a.shape != b.shape:
        raise TypeError(f"expected two masks of the same neurons, got {a.dtype}{a.shape} and {b.dtype}{b.shape}.")
    smaller = jnp.minimum(a.sum(), b.sum())
    shared = (a & b).sum().astype(jnp.float32)
    return jnp.where(smaller > 0, shared / jnp.maximum(smaller, 1).astype(shared.dtype), jnp.zeros_like(shared))
