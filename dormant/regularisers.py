"""Regularisers: penalties on the weights, and `CChain`, a penalty on changes of the outputs."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from .settings import check_cchain, check_parseval, check_spectral, check_strength
from .wiring import by_path

Params = PyTree[Array]
POWER_STEPS = 8  # number of steps of power iteration that estimate the largest singular value


@runtime_checkable
class Penalty(Protocol):
    """A function that takes the weights and the initial weights, and returns a penalty to add to the loss."""

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]: ...


class Initial(NamedTuple):
    """The state of the transformation `add_gradient_of(penalty)`: the initial weights.

    If a neuron is recycled, `dormant.graft` replaces its initial weights by its fresh weights.
    """

    params: Params


def penalised(penalty: Penalty | None, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimizer that adds the gradient of the penalty to each gradient, and then applies `tx`.

    Returns `tx` if `penalty` is None. The optimizer's state holds a copy of the initial weights.

    >>> tx = penalised(L2Init(0.5), optax.sgd(1.0)); params = {"w": jnp.array([1.0])}
    >>> state = tx.init(params)
    >>> change, _ = tx.update({"w": jnp.array([0.0])}, state, {"w": jnp.array([3.0])})
    >>> change["w"].tolist()  # -(2 * 0.5 * (3 - 1))
    [-2.0]

    Raises TypeError if an argument has the wrong type.
    """
    if not isinstance(penalty, Penalty | None) or isinstance(penalty, type) or not hasattr(tx, "update"):
        raise TypeError("expected penalised(penalty, tx), for instance penalised(L2Init(), optax.adam(1e-3)).")
    return tx if penalty is None else optax.chain(add_gradient_of(penalty), tx)


def add_gradient_of(penalty: Penalty) -> optax.GradientTransformation:
    """Returns an optax transformation that adds the gradient of the penalty to the updates.

    `update` raises ValueError if it is called without `params`.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("the penalty needs the parameters: call tx.update(gradient, state, params).")
        gradient = jax.grad(penalty)(params, state.params)
        return jax.tree.map(jnp.add, updates, gradient), state

    return optax.GradientTransformation(Initial, update)


@dataclass(frozen=True)
class L2Init:
    """The penalty strength * ||w - w0||^2. It pulls the weights w towards their initial values w0 instead of zero.

    >>> float(L2Init(0.5)({"w": jnp.array([3.0])}, {"w": jnp.array([1.0])}))
    2.0

    Raises ValueError for a negative strength.
    Source: Kumar et al. 2023, "Maintaining plasticity in continual learning via regenerative regularization".
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        squares = jax.tree.map(lambda now, then: jnp.square(now - then).sum(), params, initial)
        return self.strength * _total(jax.tree.leaves(squares))


@dataclass(frozen=True)
class Parseval:
    """The penalty strength * sum_l ||G_l - scale * I||^2, where G_l is the Gram matrix of layer l's incoming vectors.

    It pulls the incoming vectors of a layer towards orthogonal vectors with squared length `scale`. Layers in `free`
    have no penalty. The default lists the names of output layers. The cost is inputs * neurons^2 operations per layer.

    >>> float(Parseval(1.0)({"hidden": jnp.array([[1.0, 1.0], [0.0, 2.0]])}, {}))  # products 1, 1, 1, 5
    18.0

    Raises ValueError if the strength is negative or the scale is not positive.
    Source: Chung et al. 2024, "Parseval regularization for continual reinforcement learning".
    """

    strength: float = 1e-4
    scale: float = 1.0
    free: tuple[str, ...] = ("head", "value", "advantage")

    def __post_init__(self) -> None:
        check_parseval(self.strength, self.scale, self.free)

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        del initial
        return self.strength * _total([self._apart(kernel) for kernel in kernels(params, self.free)])

    def _apart(self, kernel: Float[Array, "inputs neurons"]) -> Float[Array, ""]:
        products = kernel.T @ kernel
        return jnp.square(products - self.scale * jnp.eye(len(products), dtype=products.dtype)).sum()


@dataclass(frozen=True)
class Spectral:
    """The penalty strength * (sum_l (s_l^power - 1)^2 + sum_l ||b_l||^(2 * power)).

    Here s_l is the largest singular value of the kernel of layer l, and b_l is the bias of layer l. Eight steps of
    power iteration from a fixed vector estimate the singular value. Each step costs two products of the kernel and a
    vector, which is much less than the gradient of a batch.

    >>> round(float(Spectral(1.0, power=1)({"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0])}, {})), 3)
    8.0

    Raises ValueError for a negative strength or a power below 1.
    Source: Lewandowski et al. 2024, "Learning continually by spectral regularization". They start the iteration from
    the vector of the previous gradient step. We start it from a fixed vector. We do not penalise the scales of
    normalisation layers.
    """

    strength: float = 1e-4
    power: int = 2

    def __post_init__(self) -> None:
        check_spectral(self.strength, self.power)

    def __call__(self, params: Params, initial: Params) -> Float[Array, ""]:
        del initial
        values = [largest_singular_value(kernel) for kernel in kernels(params)]
        biases = [
            jnp.square(leaf).sum() for path, leaf in by_path(params).items() if leaf.ndim < 2 and "scale" not in path
        ]
        terms = [jnp.square(value**self.power - 1.0) for value in values]
        return self.strength * _total([*terms, *(square**self.power for square in biases)])


class ChurnState(NamedTuple):
    """The state of `CChain`: the weights before the last gradient step, and running averages of the loss and the churn.

    `gradient_steps` is the number of gradient steps so far.
    """

    previous: Params
    loss: Float[Array, ""]
    churn: Float[Array, ""]
    gradient_steps: Int[Array, ""]


@dataclass(frozen=True)
class CChain:
    """A term of the loss that penalises changes of the outputs (churn) since the last gradient step.

    The term is strength * `output_churn`, on states that are drawn independently of the training batch. In the first
    `fixed` gradient steps, the strength is `strength`. After that, the strength is
    share * mean |loss| / (mean churn + 1e-8), so that the term is about the fraction `share` of the loss. The means are
    over about `window` gradient steps. With `share=None`, the strength never changes.

    The term needs the loss, so it is not a `Penalty`. In your own loss, add `cchain.strength_at(state) * churn`. Before
    each `optimizer.update`, call `state = cchain.after(state, params, loss, churn)`. The cost is a forward pass with
    the old weights, a forward and backward pass with the present weights, and a copy of the weights.

    >>> cchain = CChain(share=0.01, fixed=1)
    >>> state = cchain.init({"w": jnp.array([1.0])})
    >>> float(cchain.strength_at(state))
    50.0
    >>> state = cchain.after(state, {"w": jnp.array([1.2])}, jnp.array(0.8), jnp.array(0.16))
    >>> round(float(cchain.strength_at(state)), 4)  # 0.01 * 0.8 / 0.16
    0.05

    Raises ValueError for a number outside its range.
    Source: Tang et al. 2025, "Mitigating plasticity loss in continual reinforcement learning by reducing churn"
    (C-CHAIN); the defaults and the lag of one gradient step are those of crl_minatar/agents/double_dqn_c_chain.py at
    revision 2f8bedf. They average over a window of steps. To store two numbers instead of two lists, we use the plain
    mean over the first half window, and then an exponential average with the same mean age. Their term for PPO, a
    cross-entropy, is not implemented. If an intervention changes weights, this counts as churn in one gradient step.
    """

    share: float | None = 0.01
    strength: float = 50.0
    fixed: int = 10_000
    window: int = 50_000

    def __post_init__(self) -> None:
        check_cchain(self.share, self.strength, self.fixed, self.window)

    def init(self, params: Params) -> ChurnState:
        """Returns the state before the first gradient step. The churn of that step is 0."""
        zero = jnp.zeros(())
        return ChurnState(params, zero, zero, jnp.zeros((), jnp.int32))

    def strength_at(self, state: ChurnState) -> Float[Array, ""]:
        """Returns the strength at the next gradient step: the factor of the churn in the loss."""
        if self.share is None:
            return jnp.float32(self.strength)
        adapted = self.share * state.loss / (state.churn + 1e-8)
        return jnp.where(state.gradient_steps < self.fixed, self.strength, adapted)

    def after(self, state: ChurnState, params: Params, loss: Float[Array, ""], churn: Float[Array, ""]) -> ChurnState:
        """Returns the state for the next step. `params` are the weights before the optimizer changes them."""
        step = state.gradient_steps + 1
        # The churn of the first gradient step is always 0, so the average of the churn leaves this step out.
        rate, churn_rate = (
            jnp.maximum(1.0 / steps.astype(jnp.float32), 2.0 / (self.window + 1.0))
            for steps in (step, jnp.maximum(step - 1, 1))
        )
        mean_loss = state.loss + rate * (jnp.abs(loss) - state.loss)
        return ChurnState(params, mean_loss, state.churn + churn_rate * (churn - state.churn), step)


def output_churn(now: Float[Array, "states outputs"], before: Float[Array, "states outputs"]) -> Float[Array, ""]:
    """Returns the mean squared change of outputs. No gradient flows through `before`.

    >>> now, before = jnp.array([[2.5, 2.0], [3.0, 1.0]]), jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> float(output_churn(now, before))
    0.8125
    """
    return jnp.square(now - jax.lax.stop_gradient(before)).mean()


def kernels(params: Params, free: tuple[str, ...] = ()) -> list[Float[Array, "inputs neurons"]]:
    """Returns the kernels of all layers that are not in `free`, as matrices. Each column feeds one neuron."""
    inside = [leaf for path, leaf in by_path(params).items() if leaf.ndim > 1 and not set(path.split("/")) & set(free)]
    return [leaf.reshape(math.prod(leaf.shape[:-1]), leaf.shape[-1]) for leaf in inside]


def largest_singular_value(kernel: Float[Array, "inputs neurons"]) -> Float[Array, ""]:
    """Returns an estimate of a kernel's largest singular value, by power iteration from a fixed vector.

    The estimate is never above the exact value. Its gradient treats the vectors of the iteration as constants.

    >>> round(float(largest_singular_value(jnp.diag(jnp.array([3.0, 1.0])))), 3)
    3.0
    """
    # We write the products as sums, because the tracer would treat matrix products as layers of neurons.
    still = jax.lax.stop_gradient(kernel)
    right = jax.random.normal(jax.random.key(0), (kernel.shape[1],), kernel.dtype)  # the start vector
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
