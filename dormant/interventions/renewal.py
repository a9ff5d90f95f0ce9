"""How neurons are renewed, whatever chose them: which weights they get, and what their optimizer forgets."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..surgery import Learner, graft, restart_step_count, untrained
from ..wiring import Masks, Network, NeuronLayer, Wiring, entry_mask, entry_sums, paths
from .contract import one_of


class Recycled(NamedTuple):
    """How many neurons of each layer have been recycled so far."""

    counts: dict[str, Int[Array, ""]]


@dataclass(frozen=True)
class Renewal:
    """What becomes of a chosen neuron's weights and of their optimizer's state; `ReDo` explains the four choices.

    >>> Renewal(incoming="scaled").outgoing
    'zero'

    Raises ValueError for an unknown option.
    """

    outgoing: Literal["zero", "fresh"] = "zero"
    incoming: Literal["fresh", "scaled"] = "fresh"
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"

    def __post_init__(self) -> None:
        one_of("outgoing", self.outgoing, ("zero", "fresh"))
        one_of("incoming", self.incoming, ("fresh", "scaled"))
        one_of("moments", self.moments, ("fresh", "keep"))
        one_of("step_count", self.step_count, ("keep", "restart"))


def renewed(key: Array, learner: Learner, network: Network, masks: Masks, renewal: Renewal) -> Learner:
    """The learner with the masked neurons renewed."""
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
    """The donor with every kernel's incoming vectors as long as those of the layer's other neurons are on average."""
    new, old = (dict(zip(paths(tree), jax.tree.leaves(tree), strict=True)) for tree in (donor, params))
    for layer in layers:
        kept = ~masks[layer.name]
        for path, neurons in layer.incoming.items():
            if old[path].ndim < 2:  # a bias, or the scale of a normalisation
                continue
            before, after = (
                jnp.sqrt(entry_sums(jnp.square(leaves[path]), neurons, layer.width)) for leaves in (old, new)
            )
            wanted = jnp.where(kept, before, 0.0).sum() / jnp.maximum(kept.sum(), 1).astype(before.dtype)
            factor = jnp.where(kept.any() & (after > 0), wanted / jnp.where(after > 0, after, 1.0), 1.0)
            new[path] = new[path] * jnp.where(neurons >= 0, factor[neurons], 1.0)
    return jax.tree.unflatten(jax.tree.structure(donor), [new[path] for path in paths(donor)])


def recyclable(
    network: Network, params: PyTree[Any], names: tuple[str, ...] | None, coupled: Literal["recycle", "skip"]
) -> list[NeuronLayer]:
    """The layers of those names, or within networks of those names, that can be recycled; all that can for None.

    A layer that is fed or read by a parameter that the optimizer does not train can't be: its neurons would never learn
    again. Warns of such layers if `names` is None.
    """
    wiring, fixed = network.wiring, untrained(network.tx, params)
    reasons = {layer.name: layer.reasons or _untrained_reasons(layer, fixed) for layer in wiring.layers}
    for name in names or ():
        if not _within(wiring, name) and (why := reasons[wiring[name].name]):
            raise ValueError(f"layer {name!r} can't be recycled: {'; '.join(why)}.")
    for layer in wiring.layers if names is None else ():
        if layer.recyclable and reasons[layer.name]:
            warnings.warn(f"layer {layer.name!r} is not recycled: {'; '.join(reasons[layer.name])}.", stacklevel=3)
    named = {layer for name in names or () for layer in (name, *_within(wiring, name))}
    wanted = [layer for layer in wiring.layers if names is None or layer.name in named]
    return [layer for layer in wanted if not reasons[layer.name] and not (layer.coupled_by and coupled == "skip")]


def _untrained_reasons(layer: NeuronLayer, fixed: Collection[str]) -> tuple[str, ...]:
    roles = (("feeds", layer.incoming), ("reads", layer.outgoing))
    return tuple(
        f"the optimizer does not train {path}, which {verb} it"
        for verb, entries in roles
        for path in entries
        if path in fixed
    )


def _within(wiring: Wiring, network: str) -> list[str]:
    """The layers of a network whose parameters lie beside those of others."""
    return [layer.name for layer in wiring.layers if layer.name.startswith(f"{network}/")]


def uncounted(layers: Sequence[NeuronLayer]) -> Recycled:
    """That no neuron of these layers has been recycled yet."""
    return Recycled({layer.name: jnp.zeros((), jnp.int32) for layer in layers})


def count(state: Recycled, masks: Mapping[str, Bool[Array, " neurons"]]) -> Recycled:
    """The counts with the neurons of these masks added."""
    return Recycled({name: total + masks[name].sum(dtype=jnp.int32) for name, total in state.counts.items()})


def fresh(network: Network, key: Array, learner: Learner) -> PyTree[Array]:
    """Newly initialised parameters, with the tree and shapes of the learner's."""
    donor = network.init(key)
    expected, got = (
        (jax.tree.structure(params), [jnp.shape(leaf) for leaf in jax.tree.leaves(params)])
        for params in (learner.params, donor)
    )
    if expected != got:
        raise ValueError(f"network.init must return parameters like the learner's: expected {expected}, got {got}.")
    return donor


def nothing(mask: PyTree[Bool[Array, "..."]]) -> PyTree[Bool[Array, "..."]]:
    """A mask of the same tree that holds no entry."""
    return jax.tree.map(lambda _: jnp.zeros((), bool), mask)


def everything(params: PyTree[Array]) -> PyTree[Bool[Array, "..."]]:
    """A mask of the same tree that holds every entry."""
    return jax.tree.map(lambda _: jnp.ones((), bool), params)


def recycled_counts(state: Any) -> dict[str, Int[Array, ""]]:
    """Neurons recycled so far in each layer, from any intervention's state; empty if it recycles none.

    >>> int(recycled_counts((Recycled({"dense": jnp.array(3)}), ()))["dense"])
    3
    """
    totals: dict[str, Array] = {}
    for leaf in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Recycled)):
        for name, total in leaf.counts.items() if isinstance(leaf, Recycled) else ():
            totals[name] = totals[name] + total if name in totals else total
    return totals
