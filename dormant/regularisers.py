"""Regularisers: penalties on the weights. A penalty's gradient is added to the gradient that the optimizer gets."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .wiring import by_path

Params = PyTree[Array]
POWER_STEPS = 8  # steps of the power iteration for the largest singular value


@runtime_checkable
class Penalty(Protocol):
    """A function of the weights and the initial weights that returns a term of the loss."""

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]: ...


class Initial(NamedTuple):
    """The initial weights. If a neuron is recycled, `graft` replaces its initial weights by its fresh weights."""

    params: Params


def penalised(penalty: Penalty | None, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer with the penalty's gradient added to each gradient, or `tx` itself if `penalty` is None.

    Each step also computes the gradient of the penalty. The optimizer's state also holds a copy of the weights.

    >>> tx = penalised(L2Init(0.5), optax.sgd(1.0)); params = {"w": jnp.array([1.0])}
    >>> state = tx.init(params)
    >>> change, _ = tx.update({"w": jnp.array([0.0])}, state, {"w": jnp.array([3.0])})
    >>> change["w"].tolist()  # -(2 * 0.5 * (3 - 1))
    [-2.0]
    """
    return tx if penalty is None else optax.chain(add_gradient_of(penalty), tx)


def add_gradient_of(penalty: Penalty) -> optax.GradientTransformation:
    """Returns a transformation that adds the penalty's gradient. Its `update` raises ValueError without parameters."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("the penalty needs the parameters: call tx.update(gradient, state, params).")
        gradient = jax.grad(penalty)(params, state.params)
        return jax.tree.map(jnp.add, updates, gradient), state

    return optax.GradientTransformation(Initial, update)


@dataclass(frozen=True)
class L2Init:
    """The penalty strength * ||w - w0||^2, which pulls weights towards their initial values instead of zero.

    >>> float(L2Init(0.5)({"w": jnp.array([3.0])}, {"w": jnp.array([1.0])}))
    2.0

    Raises ValueError for a negative strength.
    Source: Kumar et al. 2023, "Maintaining plasticity in continual learning via regenerative regularization".
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.strength)

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        squares = jax.tree.map(lambda now, then: jnp.square(now - then).sum(), params, initial)
        return self.strength * _total(jax.tree.leaves(squares))


@dataclass(frozen=True)
class Parseval:
    """The penalty strength * sum_l ||G_l - scale * I||^2, with G_l the Gram matrix of a layer's incoming vectors.

    The penalty pulls the incoming vectors of a layer towards orthogonal vectors of squared length `scale`. It ignores
    the layers in `free`, by default the output layers. Computing the Gram matrix costs inputs * neurons^2 per layer.

    >>> float(Parseval(1.0)({"hidden": jnp.array([[1.0, 1.0], [0.0, 2.0]])}, {}))  # products 1, 1, 1, 5
    18.0

    Raises ValueError if the strength is negative or the scale is not positive.
    Source: Chung et al. 2024, "Parseval regularization for continual reinforcement learning".
    """

    strength: float = 1e-4
    scale: float = 1.0
    free: tuple[str, ...] = ("head", "value", "advantage")

    def __post_init__(self) -> None:
        _check(self.strength)
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}; with 1, incoming vectors get length 1.")

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        del initial
        return self.strength * _total([self._apart(kernel) for kernel in kernels(params, self.free)])

    def _apart(self, kernel: Float[Array, "inputs neurons"]) -> Float[Array, ""]:
        products = kernel.T @ kernel
        return jnp.square(products - self.scale * jnp.eye(len(products), dtype=products.dtype)).sum()


@dataclass(frozen=True)
class Spectral:
    """strength * (sum_l (s_l^power - 1)^2 + sum_l ||b_l||^(2 * power)), with s_l a kernel's largest singular value.

    The singular value is estimated by eight steps of power iteration from a fixed vector. They cost 16 products of the
    kernel and a vector, which is much less than the gradient of a batch.

    >>> round(float(Spectral(1.0, power=1)({"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0])}, {})), 3)
    8.0

    Raises ValueError for a negative strength or a power below 1.
    Source: Lewandowski et al. 2024, "Learning continually by spectral regularization". They continue the iteration from
    the vector of the last gradient step; we restart it from a fixed vector. We do not penalise the scales of a
    normalisation.
    """

    strength: float = 1e-4
    power: int = 2

    def __post_init__(self) -> None:
        _check(self.strength)
        if self.power < 1:
            raise ValueError(f"power must be at least 1, got {self.power}; the paper uses 2.")

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        del initial
        values = [largest_singular_value(kernel) for kernel in kernels(params)]
        biases = [
            jnp.square(leaf).sum() for path, leaf in by_path(params).items() if leaf.ndim < 2 and "scale" not in path
        ]
        terms = [jnp.square(value**self.power - 1.0) for value in values]
        return self.strength * _total([*terms, *(square**self.power for square in biases)])


def kernels(params: Params, free: tuple[str, ...] = ()) -> list[Float[Array, "inputs neurons"]]:
    """Returns the kernels outside of the layers `free`, as matrices whose columns are the neurons' incoming vectors."""
    inside = [leaf for path, leaf in by_path(params).items() if leaf.ndim > 1 and not set(path.split("/")) & set(free)]
    return [leaf.reshape(math.prod(leaf.shape[:-1]), leaf.shape[-1]) for leaf in inside]


def largest_singular_value(kernel: Float[Array, "inputs neurons"]) -> Float[Array, ""]:
    """Returns a lower bound of a kernel's largest singular value, from power iteration with fixed vectors.

    >>> round(float(largest_singular_value(jnp.diag(jnp.array([3.0, 1.0])))), 3)
    3.0
    """
    # Computes products as sums, because the tracer would take matrix products for neuron layers.
    still = jax.lax.stop_gradient(kernel)
    right = jax.random.normal(jax.random.key(0), (kernel.shape[1],), kernel.dtype)  # an arbitrary vector
    left = _unit((still * right[None]).sum(axis=1))
    for _ in range(POWER_STEPS):
        right = _unit((still * left[:, None]).sum(axis=0))
        left = _unit((still * right[None]).sum(axis=1))
    return (kernel * (left[:, None] * right[None])).sum()


def _unit(vector: Float[Array, " n"]) -> Float[Array, " n"]:
    length = jnp.sqrt(jnp.square(vector).sum())
    return vector / jnp.where(length > 0, length, 1.0)


def _total(terms: list[Array]) -> Float[Array, ""]:
    return sum(terms, start=jnp.zeros(()))


def _check(strength: float) -> None:
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must not be negative, got {strength}; 0 has no effect on the weights.")
