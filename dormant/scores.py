"""Neuron scores of activations, masks and fractions of dormant neurons, and the overlap of masks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, Shaped

from .settings import checked_tau

AnyArray = jax.Array | np.ndarray


def neuron_scores(activations: Num[AnyArray, "*samples neurons"]) -> Float[Array, " neurons"]:
    """Returns the mean absolute activation of each neuron, divided by the mean of its layer.

    Activations are averaged over all axes but the last: batch, time, the positions of a convolution. The scores of a
    layer average 1, so a threshold does not depend on the layer's width. In a silent layer all scores are 0. In a layer
    with a NaN or infinite activation all scores are NaN. The absolute value of a complex activation is its modulus.

    >>> neuron_scores(np.array([[0.0, 1.0, 3.0], [0.0, -1.0, 1.0]])).tolist()
    [0.0, 1.0, 2.0]

    Source: Sokar et al. 2023, equation 1; the reference code (dopamine/labs/redo/weight_recyclers.py) adds 1e-9 to the
    layer mean. We divide by the mean itself unless it is zero, so that scores do not depend on the scale of the layer.
    The paper states that scores sum to 1, which is a mistake: they average 1 (google/dopamine issue 209).
    """
    values = magnitudes(activations)
    samples = tuple(range(values.ndim - 1))
    largest = jnp.max(values, initial=0.0)
    # Dividing by the largest value first keeps the mean of very small or large activations finite and normal. The
    # divisor is at most 2**126, because XLA multiplies by its reciprocal, which is subnormal for larger divisors.
    safe = jnp.where(largest > 0, jnp.minimum(largest, 2.0**126), jnp.ones_like(largest))
    magnitude = (values / safe).mean(axis=samples)
    mean = magnitude.mean()
    scores = magnitude / jnp.where(mean > 0, mean, jnp.ones_like(mean))
    # A neuron that is not silent must not score 0, even if the score underflows because other neurons are much more
    # active.
    scores = jnp.where((values != 0).any(axis=samples), jnp.maximum(scores, jnp.finfo(scores.dtype).tiny), 0.0)
    return jnp.where(jnp.isfinite(values).all(), scores, jnp.nan)


def magnitudes(values: Num[AnyArray, "*shape"]) -> Float[Array, "*shape"]:
    """Returns absolute values (moduli of complex numbers) in single precision, or in double for double inputs.

    >>> magnitudes(np.array([3 + 4j, -1], np.complex64)).tolist()
    [5.0, 1.0]
    """
    values = jnp.asarray(values)
    if values.dtype == bool:
        return values.astype(jnp.float32)
    # Integers are converted before taking the absolute value, because that of the smallest integer overflows.
    exact = jnp.issubdtype(values.dtype, jnp.inexact)
    values = jnp.abs(values) if exact else jnp.abs(values.astype(jnp.float32))
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def dormant_mask(scores: Float[AnyArray, "*batch neurons"], tau: float) -> Bool[Array, "*batch neurons"]:
    """Returns a mask of the tau-dormant neurons, whose score is at most `tau`.

    >>> dormant_mask(np.array([0.0, 0.1, 2.9], np.float32), tau=0.1).tolist()
    [True, True, False]

    Where a score is NaN, the mask is False. `dormant_fraction` instead returns NaN if a score is NaN.

    Raises ValueError if `tau` is negative.
    Source: Sokar et al. 2023, definition 3.1. A score equal to tau counts as dormant, so tau = 0 finds the silent
    neurons.
    """
    return jnp.asarray(scores) <= checked_tau(tau)


def dormant_fraction(scores: Mapping[str, Shaped[AnyArray, " neurons"]], tau: float = 0.1) -> Float[Array, ""]:
    """Returns the fraction of dormant neurons over all layers pooled, or NaN if a score is NaN.

    Wide layers dominate the fraction: 512 of Nature CNN's 672 neurons belong to its dense layer. With `tau=0`, the
    result is the fraction of dead neurons, which are zero on every sample of the batch.

    >>> scores = {"conv": np.array([0.0], np.float32), "dense": np.array([0.3, 1.0, 1.7], np.float32)}
    >>> float(dormant_fraction(scores)), float(dormant_fraction(scores, tau=0.5))
    (0.25, 0.5)

    Raises ValueError if tau is negative or there is no neuron. Raises TypeError if it gets masks in place of scores.
    Source: Sokar et al. 2023, definition 3.1, pooled as in dopamine/labs/redo/weight_recyclers.py; dead units, Lyle et
    al. 2023, "Understanding plasticity in neural networks".
    """
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
    """Returns the number of neurons in both sets, divided by the size of the smaller set, or 0 if a set is empty.

    >>> float(overlap_coefficient(np.array([True, True, False]), np.array([True, False, False])))
    1.0

    Source: Sokar et al. 2023, figure 5. The value for an empty set is our choice.
    """
    a, b = jnp.asarray(first), jnp.asarray(second)
    smaller = jnp.minimum(a.sum(), b.sum())
    shared = (a & b).sum().astype(jnp.float32)
    return jnp.where(smaller > 0, shared / jnp.maximum(smaller, 1).astype(shared.dtype), jnp.zeros_like(shared))
