"""Overwrite weights inside a learner and make its optimizer forget what it knew of them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from .tracing.program import flat_program
from .wiring import paths

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
    """The learner with masked weights taken from `donor`, and their optimizer state that of new weights.

    `mask` has the tree of the parameters; each leaf is a Boolean array that broadcasts to its parameter. Masked entries
    of state that has a parameter's shape become those of `tx.init` of the grafted parameters: zero for Adam's moments,
    the initial accumulator for Adagrad's, the weight itself where an optimizer keeps a copy of it (schedule-free's z).
    `optax.tree_utils.tree_map_params` finds that state, so any optax chain works, weight decay and `inject_hyperparams`
    included; all other state (step counts, schedules) is left alone. `forget` names other entries whose state starts
    afresh instead of the mask's.

    >>> tx = optax.sgd(0.1, momentum=0.9); params = {"w": jnp.ones(3)}
    >>> learner = Learner(params, tx.init(params))
    >>> graft(learner, {"w": jnp.array([True, False, False])}, {"w": jnp.zeros(3)}, tx).params["w"].tolist()
    [0.0, 1.0, 1.0]

    Raises ValueError if the optimizer keeps state of another shape for a parameter of which only some entries change.
    Source: Sokar et al. 2023, algorithm 1. The reference finds moments as `opt_state[0]`, sets them to zero, and keeps
    those of biases.
    """
    params = jax.tree.map(_replace, learner.params, mask, donor)
    hits = _state_mask(tx, learner, mask if forget is None else forget)
    opt_state = jax.tree.map(
        lambda hit, old, new: old if hit is None else _replace(old, hit, new),
        *(hits, learner.opt_state, tx.init(params)),
        is_leaf=lambda node: node is None,
    )
    return Learner(params, opt_state)


def _replace(old: Array, hit: Array, new: Array) -> Array:
    return jnp.where(hit, jnp.asarray(new, old.dtype), old)


def _state_mask(tx: optax.GradientTransformation, learner: Learner, mask: PyTree[Bool[Array, "..."]]) -> Any:
    """The optimizer's state with each parameter-shaped leaf replaced by that parameter's mask, and others by None."""
    misfits: list[str] = []

    def note(state: Any, hit: Any, param: Any) -> Any:
        if isinstance(state, optax.MaskedNode):  # another part of the optimizer trains this parameter
            return state
        if hit.ndim and state.shape != param.shape:
            misfits.append(f"state of shape {state.shape} for a parameter of shape {param.shape}")
        return hit

    mapped = functools.partial(optax.tree_utils.tree_map_params, transform_non_params=lambda _: None)
    is_absent = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    try:
        hits = mapped(tx, note, learner.opt_state, mask, learner.params, is_leaf=is_absent)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            "the optimizer's state could not be matched with the parameters; expected one array of the parameter's own "
            f"shape for each of them, as optax.tree_utils.tree_map_params finds them: {error}"
        ) from error
    if misfits:
        raise ValueError(
            f"the optimizer keeps {misfits[0]}; only state of the parameter's own shape has entries that can start "
            "afresh with some of its weights."
        )
    return hits


def untrained(tx: optax.GradientTransformation, params: Params) -> frozenset[str]:
    """The paths of the parameters that an optimizer leaves as they are, such as those of `optax.set_to_zero`.

    A parameter is trained if its update depends on its gradient or on itself, and is not the bare gradient, which is
    what `optax.masked` leaves for parameters outside its mask. If that holds for no parameter, or the optimizer can't
    be traced, nothing is known and none is returned.

    >>> tx = optax.multi_transform({"train": optax.adam(1e-3), "fix": optax.set_to_zero()}, {"w": "train", "b": "fix"})
    >>> sorted(untrained(tx, {"w": jnp.ones(2), "b": jnp.ones(2)}))
    ['b']
    """
    leaves, structure = jax.tree.flatten(params)
    kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    fixed = _untrained(tx, structure, kinds)
    return frozenset(path for path, stays in zip(paths(params), fixed, strict=True) if stays)


@functools.lru_cache(maxsize=64)
def _untrained(tx: optax.GradientTransformation, structure: Any, kinds: tuple[Any, ...]) -> tuple[bool, ...]:
    """For each parameter, whether it is untrained."""
    params = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            traced = flat_program(lambda *one: tx.update(*one)[0], params, jax.eval_shape(tx.init, params), params)
    except Exception:  # an optimizer that needs more than the gradient, or looks at numbers
        return (False,) * len(kinds)
    own = [*range(len(kinds)), *[-1] * (len(traced.inputs) - 2 * len(kinds)), *range(len(kinds))]
    seen = {number: {leaf} - {-1} for number, leaf in zip(traced.inputs, own, strict=True)}
    for step in traced.steps:
        found = set().union(*(seen.get(operand, set()) for operand in step.operands))
        seen |= dict.fromkeys(step.results, found)
    trained = [
        leaf in seen.get(number, set()) and number not in traced.inputs[: len(kinds)]
        for leaf, number in enumerate(traced.outputs)
    ]
    return tuple(any(trained) and not each for each in trained)


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


def first_moments(learner: Learner) -> Params:
    """The running average of each parameter's gradient, as the optimizer that trains it keeps it: `mu`, or `trace`.

    With weight decay ahead of the optimizer it is that of the gradient with the decay.

    >>> tx = optax.adam(1e-3, b1=0.9); params = {"w": jnp.ones(1)}
    >>> _, state = tx.update({"w": jnp.array([2.0])}, tx.init(params))
    >>> round(float(first_moments(Learner(params, state))["w"][0]), 3)  # not corrected for starting at zero
    0.2

    Raises ValueError if some parameter has none.
    """
    structure = jax.tree.structure(learner.params)
    found: list[Array | None] = [None] * structure.num_leaves
    for name in ("mu", "trace"):
        for _, tree in optax.tree_utils.tree_get_all_with_path(learner.opt_state, name):
            found = [new if old is None else old for old, new in zip(found, _leaves(tree, learner.params), strict=True)]
    if any(leaf is None for leaf in found):
        raise ValueError(
            "the optimizer's state has no running average of every parameter's gradient; expected one with `mu` or "
            "`trace`, such as Adam or SGD with momentum."
        )
    return jax.tree.unflatten(structure, found)


def _leaves(tree: Any, params: Params) -> list[Array | None]:
    """The leaves of a tree like the parameters', None where another part of the optimizer trains them."""
    leaves: list[Array | None] = []

    def note(node: Any, part: Any) -> None:
        gap = isinstance(node, optax.MaskedNode)
        leaves.extend([None] * len(jax.tree.leaves(part)) if gap else [node])

    try:
        jax.tree.map(note, tree, params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    except ValueError:  # something else of that name, such as a parameter called mu
        return [None] * len(jax.tree.leaves(params))
    return leaves
