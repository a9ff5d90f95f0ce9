"""What else is measured of a network that loses its plasticity: ranks of its activations, norms of its weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PyTree

from .wiring import paths

Matrix = Num[jax.Array | np.ndarray, "samples neurons"]


def effective_rank(matrix: Matrix) -> Float[Array, ""]:
    """The exponential of the entropy of the singular values: exp(-sum_i p_i log p_i), where p_i = s_i / sum_j s_j.

    It lies between 1 and the rank, and need not be whole; a zero matrix has effective rank 0, which is our choice.

    >>> round(float(effective_rank(np.diag([1.0, 1.0, 0.0]))), 3)
    2.0

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    shares = _shares(matrix)
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0))
    return jnp.where(shares.sum() > 0, jnp.exp(entropy), 0.0)


def srank(matrix: Matrix, delta: float = 0.01) -> Int[Array, ""]:
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
    too_few = jnp.sum(jnp.cumsum(shares) < 1 - delta, dtype=jnp.int32)
    return jnp.where(shares.sum() > 0, jnp.minimum(too_few + 1, shares.size), 0)


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


def norm(values: Num[jax.Array | np.ndarray, "..."]) -> Float[Array, ""]:
    """The Euclidean norm of all entries, which neither overflows nor underflows on the way."""
    magnitudes = jnp.abs(_real(values))
    largest = magnitudes.max(initial=0.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(_divided(magnitudes, largest))))


def _shares(matrix: Matrix) -> Float[Array, " values"]:
    values = _singular_values(matrix)
    return _divided(values, values.sum())


def _singular_values(matrix: Matrix) -> Float[Array, " values"]:
    """Singular values in descending order, of the matrix divided by its largest entry: no rank depends on scale."""
    values = _real(matrix)
    return jnp.linalg.svd(_divided(values, jnp.abs(values).max(initial=0.0)), compute_uv=False)


def _real(values: Num[jax.Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """Values in single precision, or in double if they come so."""
    values = jnp.asarray(values)
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def _divided(values: Float[Array, "..."], by: Float[Array, ""]) -> Float[Array, "..."]:
    return values / jnp.where(by > 0, by, 1.0)
