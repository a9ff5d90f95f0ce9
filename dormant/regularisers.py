"""Regularisers: penalties on the weights, whose gradient joins the loss's before the optimizer sees it."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .wiring import by_path

Params = PyTree[Array]
POWER_STEPS = 8  # of the power iteration that finds a largest singular value, anew each time


@runtime_checkable
class Penalty(Protocol):
    """From the weights, and those that the network began with, to what is added to the loss."""

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]: ...


class Initial(NamedTuple):
    """The weights that the network began with; `graft` replaces those of a recycled neuron by its new ones."""

    params: Params


def penalised(penalty: Penalty | None, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer with the penalty's gradient added to each gradient that it is given; unchanged for no penalty.

    It adds one gradient of the penalty to a step, and a copy of the weights to the optimizer's state.

    >>> tx = penalised(L2Init(0.5), optax.sgd(1.0)); params = {"w": jnp.array([1.0])}
    >>> state = tx.init(params)
    >>> change, _ = tx.update({"w": jnp.array([0.0])}, state, {"w": jnp.array([3.0])})
    >>> change["w"].tolist()  # -(2 * 0.5 * (3 - 1))
    [-2.0]
    """
    return tx if penalty is None else optax.chain(add_gradient_of(penalty), tx)


def add_gradient_of(penalty: Penalty) -> optax.GradientTransformation:
    """The transformation that adds the penalty's gradient to the gradient; ValueError if it gets no parameters."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("a penalty is one on the parameters: call tx.update(gradient, state, params).")
        gradient = jax.grad(penalty)(params, state.params)
        return jax.tree.map(jnp.add, updates, gradient), state

    return optax.GradientTransformation(Initial, update)


@dataclass(frozen=True)
class L2Init:
    """strength * ||w - w0||^2: weights are drawn to where they began, rather than to zero.

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
    """strength * sum_l ||G_l - scale * I||^2, with G_l the products of the incoming vectors of a layer's neurons.

    Incoming vectors of one layer are drawn to be orthogonal and of squared length `scale`. Kernels of the layers named
    in `free`, the output layers, are left alone. Each layer costs products of its kernel with itself, inputs *
    neurons^2.

    >>> float(Parseval(1.0)({"hidden": jnp.array([[1.0, 1.0], [0.0, 2.0]])}, {}))  # products 1, 1, 1, 5
    18.0

    Raises ValueError for a negative strength or a scale that is not positive.
    Source: Chung et al. 2024, "Parseval regularization for continual reinforcement learning".
    """

    strength: float = 1e-4
    scale: float = 1.0
    free: tuple[str, ...] = ("head", "value", "advantage")

    def __post_init__(self) -> None:
        _check(self.strength)
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}; 1 makes incoming vectors one long.")

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        del initial
        return self.strength * _total([self._apart(kernel) for kernel in kernels(params, self.free)])

    def _apart(self, kernel: Float[Array, "inputs neurons"]) -> Float[Array, ""]:
        products = kernel.T @ kernel
        return jnp.square(products - self.scale * jnp.eye(len(products), dtype=products.dtype)).sum()


@dataclass(frozen=True)
class Spectral:
    """strength * (sum_l (s_l^power - 1)^2 + sum_l ||b_l||^(2 * power)), with s_l a kernel's largest singular value.

    Singular values are found by power iteration, eight steps from the same vector each time: 16 products of a kernel
    and a vector, little beside a batch's.

    >>> round(float(Spectral(1.0, power=1)({"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0])}, {})), 3)
    8.0

    Raises ValueError for a negative strength or a power below 1.
    Source: Lewandowski et al. 2024, "Learning continually by spectral regularization". They keep the iteration's vector
    from step to step; scales of a normalisation are left alone here.
    """

    strength: float = 1e-4
    power: int = 2

    def __post_init__(self) -> None:
        _check(self.strength)
        if self.power < 1:
            raise ValueError(f"power must be at least 1, got {self.power}; the paper takes 2.")

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        del initial
        values = [largest_singular_value(kernel) for kernel in kernels(params)]
        biases = [
            jnp.square(leaf).sum() for path, leaf in by_path(params).items() if leaf.ndim < 2 and "scale" not in path
        ]
        terms = [jnp.square(value**self.power - 1.0) for value in values]
        return self.strength * _total([*terms, *(square**self.power for square in biases)])


def kernels(params: Params, free: tuple[str, ...] = ()) -> list[Float[Array, "inputs neurons"]]:
    """Every kernel outside of the layers named, as a matrix with the incoming vector of each neuron as a column."""
    inside = [leaf for path, leaf in by_path(params).items() if leaf.ndim > 1 and not set(path.split("/")) & set(free)]
    return [leaf.reshape(math.prod(leaf.shape[:-1]), leaf.shape[-1]) for leaf in inside]


def largest_singular_value(kernel: Float[Array, "inputs neurons"]) -> Float[Array, ""]:
    """A kernel's largest singular value, from below, by power iteration; its gradient is that of the value found.

    >>> round(float(largest_singular_value(jnp.diag(jnp.array([3.0, 1.0])))), 3)
    3.0
    """
    # Sums of entries and not products, in which a tracer would see layers of neurons where there are none.
    still = jax.lax.stop_gradient(kernel)
    right = jax.random.normal(jax.random.key(0), (kernel.shape[1],), kernel.dtype)  # any vector but a special one
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
        raise ValueError(f"strength must not be negative, got {strength}; 0 leaves the weights alone.")
