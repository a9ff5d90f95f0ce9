"""Overwrite weights inside a learner and make its optimizer forget what it knew of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, PyTree

Params = PyTree[Array]


class Learner(NamedTuple):
    """A network's parameters and the state of the optimizer that trains them.

    >>> tx = optax.adam(1e-3); params = {"w": jnp.ones(2)}
    >>> Learner(params, tx.init(params)).params["w"].tolist()
    [1.0, 1.0]
    """

    params: Params
    opt_state: Any


def graft(
    learner: Learner,
    mask: PyTree[Bool[Array, "..."]],
    donor: Params,
    tx: optax.GradientTransformation,
    forget: PyTree[Bool[Array, "..."]] | None = None,
) -> Learner:
    """The learner with masked weights taken from `donor` and their optimizer moments set to zero.

    `mask` has the tree of the parameters; each leaf is a Boolean array that broadcasts to its parameter. Moments are
    found by `optax.tree_utils.tree_map_params`, so any optax chain works, weight decay and `inject_hyperparams`
    included; state that has no parameter's shape (Adam's step count) is left alone. `forget` names other entries
    whose moments are cleared instead of the mask's.

    >>> tx = optax.sgd(0.1, momentum=0.9); params = {"w": jnp.ones(3)}
    >>> learner = Learner(params, tx.init(params))
    >>> graft(learner, {"w": jnp.array([True, False, False])}, {"w": jnp.zeros(3)}, tx).params["w"].tolist()
    [0.0, 1.0, 1.0]

    Source: Sokar et al. 2023, algorithm 1. The reference finds moments as `opt_state[0]` and keeps those of biases.
    """
    params = jax.tree.map(_replace, learner.params, mask, donor)
    clear = mask if forget is None else forget
    opt_state = optax.tree_utils.tree_map_params(tx, _clear, learner.opt_state, clear, is_leaf=_is_absent)
    return Learner(params, opt_state)


def _replace(old: Array, hit: Array, new: Array) -> Array:
    return jnp.where(hit, jnp.asarray(new, old.dtype), old)


def _is_absent(node: Any) -> bool:
    """Whether this stands for a parameter that another part of the optimizer trains, in a masked chain."""
    return isinstance(node, optax.MaskedNode)


def _clear(moment: Any, hit: Array) -> Any:
    if _is_absent(moment):
        return moment
    if not _fits(hit, moment):
        raise ValueError(
            f"the optimizer keeps state of shape {moment.shape} for a parameter whose mask has shape {hit.shape}; "
            "only state of the parameter's own shape has entries that can be cleared."
        )
    return jnp.where(hit, jnp.zeros_like(moment), moment)


def _fits(hit: Array, moment: Array) -> bool:
    try:
        return np.broadcast_shapes(hit.shape, moment.shape) == moment.shape
    except ValueError:
        return False


def restart_step_count(learner: Learner, due: Bool[Array, ""]) -> Learner:
    """The learner with the step counts that correct the bias of moments at zero where `due`.

    Such a count stands beside moments `mu` or `nu` in one state of the chain, as in Adam's; a schedule's count stays.

    >>> tx = optax.adam(1e-3); params = {"w": jnp.ones(1)}
    >>> _, state = tx.update(params, tx.init(params))
    >>> int(restart_step_count(Learner(params, state), jnp.array(True)).opt_state[0].count)
    0

    Source: timoklein/redo zeroes the count of each tensor at every check, which we do only when a neuron was recycled.
    """

    def counts(state: Any) -> bool:
        names = getattr(state, "_fields", ())  # not hasattr: every tuple has a method called count
        return "count" in names and ("mu" in names or "nu" in names)

    def restart(state: Any) -> Any:
        if not counts(state):
            return state
        return state._replace(count=jnp.where(due, jnp.zeros_like(state.count), state.count))

    return Learner(learner.params, jax.tree.map(restart, learner.opt_state, is_leaf=counts))
