"""UPGD, an optax optimizer that changes useful weights less and adds noise to useless ones."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree, UInt32

from .settings import DECAY, NOT_NEGATIVE, POSITIVE, check_number, described


class UPGDState(NamedTuple):
    """The running utility of each weight, the key of the noise, and the state of the wrapped transformation."""

    utility: PyTree[Array]
    key: UInt32[Array, "2"]
    inner: PyTree


@dataclass(frozen=True)
class UPGD:
    """The settings of `upgd`.

    `decay` is the decay of the running utility, `noise` the scale of the noise, `weight_decay` the decay of weights,
    and `factor` the factor of the gate 1 - S (see `upgd`).

    >>> UPGD(noise=0.01).factor
    2.0

    Raises ValueError for a number outside its range.
    """

    decay: float = 0.999
    noise: float = 1e-3
    weight_decay: float = 1e-3
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_number("decay", self.decay, DECAY, "0 uses the last gradient only")
        check_number("noise", self.noise, NOT_NEGATIVE)
        check_number("weight_decay", self.weight_decay, NOT_NEGATIVE)
        check_number("factor", self.factor, POSITIVE, "with 2, a weight of utility 0 takes full steps")


def upgd(
    learning_rate: float, direction: optax.GradientTransformation | None = None, settings: UPGD | None = None
) -> optax.GradientTransformation:
    """Returns utility-based perturbed gradient descent, which protects useful weights.

    The utility U of a weight w with gradient g is the running average of -g * w. It estimates how much the loss would
    rise without the weight. The update is -learning_rate * (factor * (1 - S) * (d + noise * e) + weight_decay * w).
    Here S = sigmoid(U / max U), with the maximum over all weights. The gate 1 - S is small for useful weights. e is
    normal noise, one number per weight and step. d is the gradient after the transformation `direction`, if it is
    given. For UPGD with Adam, pass `optax.scale_by_adam()`.

    >>> tx = upgd(0.1, settings=UPGD(decay=0.0, noise=0.0, weight_decay=0.0, factor=1.0))
    >>> params = {"w": jnp.array([1.0, -2.0])}
    >>> change, _ = tx.update({"w": jnp.array([0.5, 0.25])}, tx.init(params), params)
    >>> [round(value, 6) for value in change["w"].tolist()]  # utilities -0.5 and 0.5
    [-0.036553, -0.006724]

    Raises ValueError or TypeError for a wrong argument. `update` raises ValueError without parameters.
    Source: Elsayed and Mahmood 2024, "Addressing loss of plasticity and catastrophic forgetting in continual learning";
    core/optim/weight_upgd/first_order.py and core/run/rl/adaupgd.py at mohmdelsayed/upgd b75e90a. There are two
    differences. Their code corrects U for its start at zero, but not max U, so at first S is a step function. We
    correct neither, because the correction cancels in U / max U. If no utility is positive, U / max U has the wrong
    sign in their code and protects the most harmful weights. We then divide by the largest absolute utility.
    """
    if not isinstance(learning_rate, jax.Array):  # an array may be a tracer, as in `optax.inject_hyperparams`
        check_number("learning_rate", learning_rate, POSITIVE)
    settings = UPGD() if settings is None else settings
    base = optax.identity() if direction is None else direction
    if not isinstance(settings, UPGD) or not isinstance(base, optax.GradientTransformation):
        raise TypeError(
            "expected upgd(learning_rate, direction, settings), for instance upgd(0.01, optax.scale_by_adam(), "
            f"UPGD(noise=0.01)), got {described(direction)} and {described(settings)}."
        )

    def init(params: PyTree[Array]) -> UPGDState:
        # The key depends on the initial weights, so seeds with different weights get different noise, also with `vmap`.
        total = sum((leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))
        key = jax.random.fold_in(jax.random.key(0), jax.lax.bitcast_convert_type(total, jnp.uint32))
        return UPGDState(jax.tree.map(jnp.zeros_like, params), jax.random.key_data(key), base.init(params))

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("upgd needs the parameters: call tx.update(gradient, state, params).")
        utility = jax.tree.map(
            lambda old, slope, weight: settings.decay * old - (1 - settings.decay) * slope * weight,
            *(state.utility, updates, params),
        )
        towards, inner = base.update(updates, state.inner, params)
        next_key, drawing = jax.random.split(jax.random.wrap_key_data(state.key))
        noise = _normal(drawing, params) if settings.noise else jax.tree.map(jnp.zeros_like, params)
        scale = _scale(utility)

        def step(old: Array, d: Array, e: Array, weight: Array) -> Array:
            gate = settings.factor * (1 - jax.nn.sigmoid(old / scale.astype(old.dtype)))
            return -learning_rate * (gate * (d + settings.noise * e) + settings.weight_decay * weight)

        changes = jax.tree.map(step, utility, towards, noise, params)
        return changes, UPGDState(utility, jax.random.key_data(next_key), inner)

    return optax.GradientTransformation(init, update)


def _scale(utility: PyTree[Array]) -> Array:
    """Returns the largest utility, or the largest absolute utility if none is positive, or 1 if all are 0."""
    leaves = jax.tree.leaves(utility)
    highest = jnp.stack([leaf.max().astype(jnp.float32) for leaf in leaves]).max()
    largest = jnp.stack([jnp.abs(leaf).max().astype(jnp.float32) for leaf in leaves]).max()
    return jnp.where(highest > 0, highest, jnp.where(largest > 0, largest, 1.0))


def _normal(key: Array, params: PyTree[Array]) -> PyTree[Array]:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)
