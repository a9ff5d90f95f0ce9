"""ReDo: give dormant neurons fresh incoming weights and silence their outgoing ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..scores import checked_tau
from ..surgery import Learner, graft, restart_step_count
from ..wiring import Network, NeuronLayer, Wiring, entry_mask
from .contract import one_of


class Recycled(NamedTuple):
    """How many neurons of each layer have been recycled so far."""

    counts: dict[str, Int[Array, ""]]


@dataclass(frozen=True)
class ReDo:
    """Recycles the tau-dormant neurons of every layer where that is safe.

    Incoming weights come from the network's own initialiser. With `tau=0` and `outgoing="zero"` the network's
    outputs on the score batch stay the same to the last bit, unless a normalisation couples the neurons.

    - `outgoing`: "zero", or "fresh" to draw outgoing weights anew as well (the paper's figure 22).
    - `moments`: "fresh" gives recycled entries the optimizer state of a new weight (zero moments, for Adam); "keep"
      leaves theirs.
    - `step_count`: "keep" leaves Adam's step count, as the paper does: the first step on a recycled weight is then
      (1 - b1) / sqrt(1 - b2) = 3.2 learning rates long. "restart" sets it to zero whenever a neuron is recycled,
      which lengthens the steps of all other weights' estimates instead.
    - `coupled`: "recycle" or "skip" layers whose neurons a normalisation couples.
    - `layers`: names of the layers to recycle, or of what stands before a slash in them; None for all that can be.

    >>> ReDo(tau=0.025)
    ReDo(tau=0.025, outgoing='zero', moments='fresh', step_count='keep', coupled='recycle', layers=None)

    Raises ValueError for a negative tau or an unknown option, and at `init` for a layer that does not exist or is
    not safe.
    Source: Sokar et al. 2023, algorithm 1. We reset the moments of biases too, draw each layer from its own
    initialiser, and find outgoing weights by tracing; docs/differences.md lists what the reference does.
    """

    tau: float = 0.1
    outgoing: Literal["zero", "fresh"] = "zero"
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        one_of("outgoing", self.outgoing, ("zero", "fresh"))
        one_of("moments", self.moments, ("fresh", "keep"))
        one_of("step_count", self.step_count, ("keep", "restart"))
        one_of("coupled", self.coupled, ("recycle", "skip"))

    def init(self, learner: Learner, network: Network) -> Recycled:
        del learner
        return Recycled({layer.name: jnp.zeros((), jnp.int32) for layer in self.targets(network.wiring)})

    def targets(self, wiring: Wiring) -> list[NeuronLayer]:
        """The layers that this intervention recycles."""
        for name in self.layers or ():
            if not _within(wiring, name) and not wiring[name].recyclable:
                raise ValueError(f"layer {name!r} can't be recycled: {'; '.join(wiring[name].reasons)}.")
        named = {layer for name in self.layers or () for layer in (name, *_within(wiring, name))}
        wanted = [layer for layer in wiring.layers if self.layers is None or layer.name in named]
        return [layer for layer in wanted if layer.recyclable and not (layer.coupled_by and self.coupled == "skip")]

    def update(
        self, key: Array, learner: Learner, state: Recycled, network: Network, *inputs: Any
    ) -> tuple[Learner, Recycled]:
        layers = self.targets(network.wiring)
        dormant = network.wiring.dormant(learner.params, *inputs, tau=self.tau)
        masks = {layer.name: dormant[layer.name] for layer in layers}
        fed = entry_mask(learner.params, {layer.name: layer.incoming for layer in layers}, masks)
        read = entry_mask(learner.params, {layer.name: layer.outgoing for layer in layers}, masks)
        donor = fresh(network, key, learner)
        if self.outgoing == "zero":
            donor = jax.tree.map(lambda hit, new: jnp.where(hit, jnp.zeros_like(new), new), read, donor)
        hit = jax.tree.map(jnp.logical_or, fed, read)
        learner = graft(learner, hit, donor, network.tx, forget=hit if self.moments == "fresh" else nothing(hit))
        if self.step_count == "restart":
            learner = restart_step_count(learner, jnp.array([mask.any() for mask in masks.values()], bool).any())
        return learner, count(state, masks)


def _within(wiring: Wiring, network: str) -> list[str]:
    """The layers of a network whose parameters lie beside those of others."""
    return [layer.name for layer in wiring.layers if layer.name.startswith(f"{network}/")]


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
