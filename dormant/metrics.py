"""What else is measured of a network that loses its plasticity: ranks, norms, steps, and kinds of dormancy.

Everything here can be compiled and mapped over seeds, where nothing can be raised: what holds a NaN comes out as NaN.
`readings` brings numbers to the host and raises for those.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PyTree

from .importance import gradient_scores
from .scores import AnyArray, dormant_fraction, magnitudes
from .wiring import Wiring, paths

Matrix = Num[AnyArray, "samples neurons"]
Scalar = float | Float[Array, ""]


def effective_rank(matrix: Matrix) -> Float[Array, ""]:
    """The exponential of the entropy of the singular values: exp(-sum_i p_i log p_i), where p_i = s_i / sum_j s_j.

    It lies between 1 and the rank, and need not be whole; a zero matrix has effective rank 0, which is our choice. It
    costs the singular values of the matrix, samples * neurons * min(samples, neurons), as do the two below.

    >>> round(float(effective_rank(np.diag([1.0, 1.0, 0.0]))), 3)
    2.0

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    shares = _shares(matrix)
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0))
    total = shares.sum()  # 1, or 0, or NaN
    return jnp.where(total > 0, jnp.exp(entropy), total)


def srank(matrix: Matrix, delta: float = 0.01) -> Float[Array, ""]:
    """The smallest k such that the k largest singular values add up to at least 1 - delta of the sum of all.

    Kumar et al. call it the effective rank. It is not the stable rank. A zero matrix has srank 0.

    >>> int(srank(np.diag([3.0, 1.0, 0.01])))
    2

    Raises ValueError unless 0 < delta < 1.
    Source: Kumar et al. 2021, "Implicit under-parameterization inhibits data-efficient deep RL", section 3.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, got {delta}; the paper uses 0.01.")
    shares = _shares(matrix)
    total = shares.sum()
    too_few = jnp.sum(jnp.cumsum(shares) < 1 - delta).astype(shares.dtype)
    return jnp.where(total > 0, jnp.minimum(too_few + 1.0, shares.size), total)


def stable_rank(matrix: Matrix) -> Float[Array, ""]:
    """The squared Frobenius norm divided by the squared spectral norm: sum_i s_i^2 / max_i s_i^2.

    It lies between 1 and the rank, and small singular values hardly change it; a zero matrix has stable rank 0.

    >>> round(float(stable_rank(np.diag([2.0, 1.0]))), 3)
    1.25

    Source: Rudelson and Vershynin 2007, "Sampling from large matrices", section 1 (there called numerical rank).
    """
    values = _singular_values(matrix)
    return jnp.sum(jnp.square(_divided(values, values.max(initial=0.0))))


def weight_norms(params: PyTree[Any]) -> dict[str, Float[Array, ""]]:
    """The Euclidean norm of each parameter, under its path.

    >>> {path: float(norm) for path, norm in weight_norms({"dense": {"kernel": jnp.array([[3.0, 4.0]])}}).items()}
    {'dense/kernel': 5.0}
    """
    return {path: norm(leaf) for path, leaf in zip(paths(params), jax.tree.leaves(params), strict=True)}


def norm(values: Num[AnyArray, "..."]) -> Float[Array, ""]:
    """The Euclidean norm of all entries, which neither overflows nor underflows on the way."""
    sizes = magnitudes(values)
    largest = sizes.max(initial=0.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(_divided(sizes, largest))))


def feature_norm(features: Matrix) -> Float[Array, ""]:
    """The mean over samples of the Euclidean norm of a layer's activations; it costs one pass over them.

    >>> float(feature_norm(np.array([[3.0, 4.0], [0.0, 1.0]])))
    3.0

    Source: Lyle et al. 2022, "Understanding and preventing capacity loss in reinforcement learning", whose InFeR holds
    it.
    """
    return jax.vmap(norm)(jnp.asarray(features)).mean()


def effective_learning_rates(before: PyTree[Any], after: PyTree[Any]) -> dict[str, Float[Array, ""]]:
    """How far each parameter was moved, relative to its length: ||after - before|| / ||before||, under its path.

    A parameter that was zero has rate 0 if it stayed so and infinity if it moved. It costs two passes over the weights.

    >>> before, after = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([3.0, 4.5])}
    >>> {path: round(float(rate), 3) for path, rate in effective_learning_rates(before, after).items()}
    {'w': 0.1}

    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning": as weights grow,
    steps of the same length change what a normalised network computes by less.
    """
    moved = jax.tree.map(lambda old, new: _inexact(new) - _inexact(old), before, after)
    steps, lengths = weight_norms(moved), weight_norms(before)
    return {path: jnp.where(step == 0, step, step / lengths[path]) for path, step in steps.items()}


def value_churn(before: Matrix, after: Matrix) -> Float[Array, ""]:
    """The mean absolute change of a network's outputs on states that it did not just learn from; two forward passes.

    >>> float(value_churn(np.array([[1.0, 2.0]]), np.array([[1.5, 2.0]])))
    0.25

    Source: Tang and Berseth 2024, "Improving deep reinforcement learning by reducing the chain effect of value and
    policy churn".
    """
    return jnp.abs(_inexact(after) - _inexact(before)).mean()


def policy_churn(before: Matrix, after: Matrix) -> Float[Array, ""]:
    """The share of states in which another action has become the one of highest value.

    >>> float(policy_churn(np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[3.0, 2.0], [0.0, 9.0]])))
    0.5

    Source: Schaul et al. 2022, "The phenomenon of policy churn".
    """
    old, new = _inexact(before), _inexact(after)
    changed = (old.argmax(axis=-1) != new.argmax(axis=-1)).mean(dtype=old.dtype)
    return jnp.where(jnp.isnan(old + new).any(), jnp.nan, changed)


class Interval(NamedTuple):
    """An estimate and the bounds of its 95 % interval, which are NaN if they are unknown."""

    estimate: Scalar
    low: Scalar
    high: Scalar


def gradient_dormancy(wiring: Wiring, gradients: PyTree[Array], tau: float = 0.01) -> Float[Array, ""]:
    """The share of neurons whose incoming weights get at most tau times the gradient that is usual in their layer.

    `gradients` has the tree of the parameters; it costs one pass over it.

    Raises ValueError for a negative tau.
    Source: Liu et al. 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep RL".
    """
    return dormant_fraction(gradient_scores(wiring, gradients), tau)


def dormant_interval(activations: Mapping[str, Num[AnyArray, "samples ..."]], tau: float = 0.1) -> Interval:
    """The dormant fraction of all layers pooled, with a sampling interval, from activations [samples, ..., neurons].

    The low end counts the neurons that are certainly dormant, and the high end those that may be, given the bounds of
    `score_bounds`. Samples must not influence each other. The cost is three passes over the activations and a sort of
    each layer's neurons.

    >>> maps = {"dense": jnp.array([[1.0, 2.0, 0.0]] * 25 + [[2.0, 1.0, 0.0]] * 25)}
    >>> [round(float(value), 2) for value in dormant_interval(maps, tau=0.01)]
    [0.33, 0.0, 0.33]

    Raises ValueError for a negative tau, and if there is no neuron.
    Source: ours; ratio estimates, Cochran 1977, "Sampling techniques", section 6.3.
    """
    bounds = {name: score_bounds(values) for name, values in activations.items()}
    # The highest credible scores give the lowest fraction.
    high, share, low = (dormant_fraction({name: rows[row] for name, rows in bounds.items()}, tau) for row in range(3))
    return Interval(share, low, high)


def score_bounds(activations: Num[AnyArray, "samples ..."]) -> Float[Array, "3 neurons"]:
    """The lowest credible score, the score, and the highest credible score of each neuron [samples, ..., neurons].

    The bounds lie 1.96 standard errors of a ratio of means to each side. The high end also adds one sample on which the
    neuron is as active as on the samples where it is active (for a silent neuron: as the layer's median). A small batch
    shows neither the activity nor the variance of a silent neuron, and without the added sample the interval of a
    dormant fraction misses the truth most of the time.

    >>> activations = np.array([[1.0, 2.0, 0.0]] * 25 + [[2.0, 1.0, 0.0]] * 25, np.float32)
    >>> np.round(score_bounds(activations), 2).tolist()[0]
    [1.3..., 1.3..., 0.0]

    Source: ratio estimates, Cochran 1977, "Sampling techniques", section 6.3; the added sample is ours.
    """
    samples, neurons = activations.shape[0], activations.shape[-1]
    by_sample = magnitudes(activations).reshape(samples, -1, neurons).mean(axis=1)
    relative = _divided(by_sample, by_sample.mean())
    scores = relative.mean(axis=0)
    if samples < 2:
        return jnp.stack([jnp.zeros_like(scores), scores, jnp.full_like(scores, jnp.inf)])
    residuals = relative - scores[None] * relative.mean(axis=1, keepdims=True)
    error = 1.96 * residuals.std(axis=0, ddof=1) / jnp.sqrt(1.0 * samples)
    times = (relative > 0).sum(axis=0).astype(scores.dtype)
    active = jnp.where(times > 0, scores * samples / jnp.maximum(times, 1.0), jnp.nan)
    active = jnp.where(times > 0, active, jnp.nanmedian(active))
    silent = (scores == 0).all()
    low = jnp.where(silent, 0.0, scores - error)
    return jnp.stack([low, scores, jnp.where(silent, jnp.inf, scores + error + active / samples)])


def readings(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as numbers of the host.

    >>> readings({"srank": srank(np.eye(3))})
    {'srank': 3.0}

    Raises ValueError for a metric that is NaN, and names it.
    """
    numbers = {name: float(np.asarray(value)) for name, value in metrics.items()}
    wrong = sorted(name for name, number in numbers.items() if np.isnan(number))
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} came out as NaN; what was measured holds one. Look for NaN or infinite values in the "
            "inputs and the parameters."
        )
    return numbers


def _shares(matrix: Matrix) -> Float[Array, " values"]:
    values = _singular_values(matrix)
    return _divided(values, values.sum())


def _singular_values(matrix: Matrix) -> Float[Array, " values"]:
    """Singular values in descending order, of the matrix divided by its largest entry: no rank depends on scale."""
    values = _inexact(matrix)
    return jnp.linalg.svd(_divided(values, magnitudes(values).max(initial=0.0)), compute_uv=False)


def _inexact(values: Num[AnyArray, "..."]) -> Num[Array, "..."]:
    """Values in single precision, or in double if they come so; complex ones stay complex."""
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        return values
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def _divided(values: Num[Array, "..."], by: Float[Array, ""]) -> Float[Array, "..."]:
    return values / jnp.where(by == 0, 1.0, by)
