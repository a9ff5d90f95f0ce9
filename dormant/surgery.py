"""Functions that change a learner: they overwrite weights, renew neurons, and reset optimizer state."""

import functools
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from .settings import Renewal, layers_within
from .tracing.program import flat_program
from .wiring import Masks, Network, NeuronLayer, by_path, entry_mask, entry_sums, paths

Params = PyTree[Array]


class Learner(NamedTuple):
    """A network's parameters and the state of the optimizer that trains them.

    >>> tx = optax.adam(1e-3); params = {"w": jnp.ones(2)}
    >>> Learner(params, tx.init(params)).params["w"].tolist()
    [1.0, 1.0]
    """

    params: Params
    opt_state: PyTree


def graft(
    learner: Learner,
    mask: PyTree[Bool[Array, "..."]],
    donor: Params,
    tx: optax.GradientTransformation,
    forget: PyTree[Bool[Array, "..."]] | None = None,
) -> Learner:
    """Returns the learner after replacing its masked weights by those of `donor` and resetting their optimizer state.

    `mask` has the same tree as the parameters. Each leaf is a Boolean array that broadcasts to its parameter. Reset
    state has the values that `tx.init` returns for the new parameters. For example, Adam's moments are set to zero, and
    a copy of the weights (z in schedule-free optimizers) is set to the new weights. If `forget` is given, it selects
    the state to reset, and `mask` selects only the weights. State that belongs to no weight, such as a step count, does
    not change. Any optax chain works, because `optax.tree_utils.tree_map_params` finds the state of each parameter.

    >>> tx = optax.sgd(0.1, momentum=0.9); params = {"w": jnp.ones(3)}
    >>> learner = Learner(params, tx.init(params))
    >>> graft(learner, {"w": jnp.array([True, False, False])}, {"w": jnp.zeros(3)}, tx).params["w"].tolist()
    [0.0, 1.0, 1.0]

    Raises ValueError if a tree differs from that of the parameters. Also raises it if only some entries of a parameter
    are masked, but its optimizer state has another shape, so that it can't be reset for single entries.
    Source: Sokar et al. 2023, algorithm 1. The reference code expects the moments in `opt_state[0]`, sets them to
    zero, and keeps the moments of biases.
    """
    for name, tree in {"mask": mask, "donor": donor}.items():
        if jax.tree.structure(tree) != jax.tree.structure(learner.params):
            raise ValueError(
                f"{name} must have the tree of the parameters: {paths(learner.params)}, got {paths(tree)}."
            )
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


def _state_mask(tx: optax.GradientTransformation, learner: Learner, mask: PyTree[Bool[Array, "..."]]) -> PyTree:
    """Returns a tree like the optimizer state, with the mask of a parameter in place of the parameter's state.

    State that belongs to no parameter is replaced by None. Raises ValueError if the state of a parameter can't be found
    or masked.
    """
    misfits: list[str] = []

    def note(state: PyTree, hit: PyTree, param: PyTree) -> PyTree:
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
            "the optimizer's state could not be matched with the parameters; expected that "
            f"optax.tree_utils.tree_map_params finds one array per parameter, with the parameter's shape: {error}"
        ) from error
    if misfits:
        raise ValueError(
            f"the optimizer keeps {misfits[0]}; state can be reset for single weights only if it has the "
            "parameter's shape."
        )
    return hits


def untrained(tx: optax.GradientTransformation, params: Params) -> frozenset[str]:
    """Returns the paths of the parameters that an optimizer does not train, such as those under `optax.set_to_zero`.

    A parameter is trained if its update depends on its gradient or on the parameter. There is one exception. If the
    update equals the gradient, the parameter is not trained, because this is how `optax.masked` skips a parameter. The
    result is empty if no parameter is trained, or if the optimizer can't be traced.

    >>> tx = optax.multi_transform({"train": optax.adam(1e-3), "fix": optax.set_to_zero()}, {"w": "train", "b": "fix"})
    >>> sorted(untrained(tx, {"w": jnp.ones(2), "b": jnp.ones(2)}))
    ['b']
    """
    leaves, structure = jax.tree.flatten(params)
    kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    fixed = _untrained(tx, structure, kinds)
    return frozenset(path for path, stays in zip(paths(params), fixed, strict=True) if stays)


@functools.lru_cache(maxsize=64)
def _untrained(tx: optax.GradientTransformation, structure: object, kinds: tuple[tuple, ...]) -> tuple[bool, ...]:
    """Returns one Boolean per parameter: True if the optimizer does not train the parameter."""
    params = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            traced = flat_program(lambda *one: tx.update(*one)[0], params, jax.eval_shape(tx.init, params), params)
    except Exception:  # the optimizer takes more arguments, or it can't be traced
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
    """Returns the learner after setting the step counts of bias correction to zero. If not `due`, nothing changes.

    A step count is used for bias correction if its state also has `mu` or `nu`, as in Adam. The step counts of
    schedules do not change.

    >>> tx = optax.adam(1e-3); params = {"w": jnp.ones(1)}
    >>> _, state = tx.update(params, tx.init(params))
    >>> int(restart_step_count(Learner(params, state), jnp.array(True)).opt_state[0].count)
    0

    Source: timoklein/redo sets all step counts to zero at every check for dormant neurons. We do this only if a neuron
    is recycled.
    """

    def counts(state: object) -> bool:
        names = getattr(state, "_fields", ())  # hasattr does not work here, because every tuple has a method `count`
        return "count" in names and ("mu" in names or "nu" in names)

    def restart(state: PyTree) -> PyTree:
        if not counts(state):
            return state
        return state._replace(count=jnp.where(due, jnp.zeros_like(state.count), state.count))

    return Learner(learner.params, jax.tree.map(restart, learner.opt_state, is_leaf=counts))


def first_moments(learner: Learner) -> Params:
    """Returns the running average of each parameter's gradient, from `mu` or `trace` in the optimizer state.

    If the optimizer adds weight decay to the gradient before it computes the average, the average includes the decay.

    >>> tx = optax.adam(1e-3, b1=0.9); params = {"w": jnp.ones(1)}
    >>> _, state = tx.update({"w": jnp.array([2.0])}, tx.init(params))
    >>> round(float(first_moments(Learner(params, state))["w"][0]), 3)  # without bias correction
    0.2

    Raises ValueError if the state lacks a running average for any parameter.
    """
    structure = jax.tree.structure(learner.params)
    found: list[Array | None] = [None] * structure.num_leaves
    for name in ("mu", "trace"):
        for _, tree in optax.tree_utils.tree_get_all_with_path(learner.opt_state, name):
            found = [new if old is None else old for old, new in zip(found, _leaves(tree, learner.params), strict=True)]
    if any(leaf is None for leaf in found):
        raise ValueError(
            "the optimizer's state does not average the gradient of every parameter; expected a state with `mu` or "
            "`trace`, such as that of Adam or SGD with momentum."
        )
    return jax.tree.unflatten(structure, found)


def _leaves(tree: PyTree, params: Params) -> list[Array | None]:
    """Returns one leaf of `tree` per parameter, or None for a parameter that another part of the optimizer trains.

    If `tree` does not match the parameters, all leaves are None.
    """
    leaves: list[Array | None] = []

    def note(node: PyTree, part: PyTree) -> None:
        gap = isinstance(node, optax.MaskedNode)
        leaves.extend([None] * len(jax.tree.leaves(part)) if gap else [node])

    try:
        jax.tree.map(note, tree, params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    except ValueError:  # `tree` is a parameter that is called mu, not a running average
        return [None] * len(jax.tree.leaves(params))
    return leaves


class Recycled(NamedTuple):
    """The number of neurons recycled so far in each layer."""

    counts: dict[str, Int[Array, ""]]


def renewed(key: Array, learner: Learner, network: Network, masks: Masks, renewal: Renewal) -> Learner:
    """Returns the learner after replacing the weights of the masked neurons.

    `masks` maps the names of layers to masks of their neurons. `renewal` sets how the new weights are drawn, and which
    optimizer state is reset.
    """
    layers = [network.wiring[name] for name in masks]
    fed = entry_mask(learner.params, {layer.name: layer.incoming for layer in layers}, masks)
    read = entry_mask(learner.params, {layer.name: layer.outgoing for layer in layers}, masks)
    donor = fresh(network, key, learner)
    if renewal.incoming == "scaled":
        donor = _scaled(donor, learner.params, layers, masks)
    if renewal.outgoing == "zero":
        donor = jax.tree.map(lambda hit, new: jnp.where(hit, jnp.zeros_like(new), new), read, donor)
    hit = jax.tree.map(jnp.logical_or, fed, read)
    learner = graft(learner, hit, donor, network.tx, forget=hit if renewal.moments == "fresh" else nothing(hit))
    if renewal.step_count == "restart":
        learner = restart_step_count(learner, jnp.array([mask.any() for mask in masks.values()], bool).any())
    return learner


def _scaled(donor: PyTree[Array], params: PyTree[Array], layers: Sequence[NeuronLayer], masks: Masks) -> PyTree[Array]:
    """Returns the donor with scaled kernels.

    Each incoming vector gets the mean length of the incoming vectors of the layer's neurons that are not masked.
    """
    new, old = (by_path(tree) for tree in (donor, params))
    for layer in layers:
        kept = ~masks[layer.name]
        for path, neurons in layer.incoming.items():
            if old[path].ndim < 2:  # biases and the scales of normalisations
                continue
            before, after = (
                jnp.sqrt(entry_sums(jnp.square(leaves[path]), neurons, layer.width)) for leaves in (old, new)
            )
            wanted = jnp.where(kept, before, 0.0).sum() / jnp.maximum(kept.sum(), 1).astype(before.dtype)
            factor = jnp.where(kept.any() & (after > 0), wanted / jnp.where(after > 0, after, 1.0), 1.0)
            new[path] = new[path] * jnp.where(neurons >= 0, factor[neurons], 1.0)
    return jax.tree.unflatten(jax.tree.structure(donor), new.values())


def recyclable(
    network: Network, params: PyTree, names: tuple[str, ...] | None, coupled: Literal["recycle", "skip"]
) -> list[NeuronLayer]:
    """Returns the layers to recycle: all layers that can be recycled, or only those in `names` if it is given.

    `names` contains names of layers, or of networks, such as "actor" for the layers "actor/dense" and "actor/conv". A
    layer can't be recycled if its wiring has a reason against it, or if the optimizer does not train a parameter that
    feeds or reads its neurons. If `names` is None, warns of untrained parameters. If `names` contains a layer that does
    not exist or can't be recycled, raises ValueError. If `coupled` is "skip", leaves out layers whose neurons are
    coupled.
    """
    wiring, fixed = network.wiring, untrained(network.tx, params)
    reasons = {layer.name: layer.reasons or _untrained_reasons(layer, fixed) for layer in wiring.layers}
    wanted = layers_within(names, [layer.name for layer in wiring.layers], "/")
    for name in names or ():
        if why := reasons.get(name):
            raise ValueError(f"layer {name!r} can't be recycled: {'; '.join(why)}.")
    for layer in wiring.layers if names is None else ():
        if layer.recyclable and reasons[layer.name]:
            warnings.warn(f"layer {layer.name!r} is not recycled: {'; '.join(reasons[layer.name])}.", stacklevel=3)
    safe = [layer for layer in wiring.layers if layer.name in wanted and not reasons[layer.name]]
    return [layer for layer in safe if not (layer.coupled_by and coupled == "skip")]


def _untrained_reasons(layer: NeuronLayer, fixed: Collection[str]) -> tuple[str, ...]:
    roles = (("feeds", layer.incoming), ("reads", layer.outgoing))
    return tuple(
        f"the optimizer does not train {path}, which {verb} it"
        for verb, entries in roles
        for path in entries
        if path in fixed
    )


def uncounted(layers: Sequence[NeuronLayer]) -> Recycled:
    """Returns the initial count of recycled neurons, which is zero for each layer."""
    return Recycled({layer.name: jnp.zeros((), jnp.int32) for layer in layers})


def count(state: Recycled, masks: Mapping[str, Bool[Array, " neurons"]]) -> Recycled:
    """Returns the counts after adding the number of masked neurons of each layer."""
    return Recycled({name: total + masks[name].sum(dtype=jnp.int32) for name, total in state.counts.items()})


def fresh(network: Network, key: Array, learner: Learner) -> PyTree[Array]:
    """Returns newly initialised parameters. Raises ValueError if they differ from the learner's in tree or shapes."""
    donor = network.init(key)
    expected, got = (
        (jax.tree.structure(params), [jnp.shape(leaf) for leaf in jax.tree.leaves(params)])
        for params in (learner.params, donor)
    )
    if expected != got:
        raise ValueError(
            f"network.init must return parameters with the learner's tree and shapes: expected {expected}, got {got}."
        )
    return donor


def nothing(mask: PyTree[Bool[Array, "..."]]) -> PyTree[Bool[Array, "..."]]:
    """Returns a mask with the same tree that selects no entry."""
    return jax.tree.map(lambda _: jnp.zeros((), bool), mask)


def everything(params: PyTree[Array]) -> PyTree[Bool[Array, "..."]]:
    """Returns a mask with the tree of `params` that selects every entry."""
    return jax.tree.map(lambda _: jnp.ones((), bool), params)


def recycled_counts(state: PyTree) -> dict[str, Int[Array, ""]]:
    """Returns how many neurons of each layer were recycled, from the state of any intervention.

    The result is empty if the intervention recycles no neurons.

    >>> int(recycled_counts((Recycled({"dense": jnp.array(3)}), ()))["dense"])
    3
    """
    totals: dict[str, Array] = {}
    for leaf in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Recycled)):
        for name, total in leaf.counts.items() if isinstance(leaf, Recycled) else ():
            totals[name] = totals[name] + total if name in totals else total
    return totals
