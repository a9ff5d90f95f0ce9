"""Recycle: ReDo's recycling with any score, in any order, of any number of neurons."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..importance import contributions, gradient_scores, utilities
from ..scores import neuron_scores
from ..surgery import Learner, first_moments
from ..wiring import Network
from .contract import one_of
from .how_many import Dormant, Number
from .renewal import Recycled, Renewal, count, recyclable, renewed, uncounted

Score = Literal["activation", "gradient", "contribution", "utility"]


class Recycling(NamedTuple):
    """How often neurons were recycled, and how many of each layer."""

    recyclings: Int[Array, ""]
    recycled: Recycled


@dataclass(frozen=True)
class Recycle:
    """Recycles `number` neurons of every layer where that is safe, those of the lowest score first.

    - `score`: "activation", as ReDo has it; "gradient", the first moments of the neuron's incoming weights in the
      optimizer's state (ReGraMa); "contribution" and "utility", as continual backprop ranks neurons. All average 1 over
      a layer.
    - `number`: `Dormant(tau)`, `Share(share)`, with or without a cosine schedule, `PooledShare` or `Gap`.
    - `order`: "lowest"; "highest" and "random" are controls that recycle as many.
    - `at_most`: a budget, in neurons of a layer at a time.
    - `renewal`: what becomes of the neurons; `coupled` and `layers` as in `ReDo`.

    >>> regrama = Recycle("gradient", Dormant(tau=0.01))
    >>> Recycle(number=Dormant(0.1), order="random").at_most is None
    True

    Raises ValueError for an unknown option or a budget below 1, and at `init` for a layer that does not exist or is not
    safe, and for "gradient" with an optimizer that keeps no first moments.
    Source: Sokar et al. 2023, figures 15 and 25; "gradient", Liu et al. 2025 (ReGraMa), who take the gradient of
    the last batch where we take its running average, which any training loop has at hand.
    """

    score: Score = "activation"
    number: Number = Dormant()  # noqa: RUF009 (a frozen value, as the one below)
    order: Literal["lowest", "highest", "random"] = "lowest"
    at_most: int | None = None
    renewal: Renewal = Renewal()  # noqa: RUF009
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        one_of("score", self.score, ("activation", "gradient", "contribution", "utility"))
        one_of("order", self.order, ("lowest", "highest", "random"))
        one_of("coupled", self.coupled, ("recycle", "skip"))
        if self.at_most is not None and self.at_most < 1:
            raise ValueError(f"at_most must be at least 1 neuron, got {self.at_most}; leave it out for no budget.")

    def init(self, learner: Learner, network: Network) -> Recycling:
        if self.score == "gradient":
            first_moments(learner)
        layers = recyclable(network, learner.params, self.layers, self.coupled)
        return Recycling(jnp.zeros((), jnp.int32), uncounted(layers))

    def update(
        self, key: Array, learner: Learner, state: Recycling, network: Network, *inputs: Any
    ) -> tuple[Learner, Recycling]:
        choosing, drawing = jax.random.split(key)
        found = _scores(self.score, learner, network, inputs)
        scores = {name: found[name] for name in state.recycled.counts}
        masks = {}
        for index, (name, number) in enumerate(self.number.count(scores, state.recyclings).items()):
            number = number if self.at_most is None else jnp.minimum(number, self.at_most)
            number = jnp.where(jnp.isnan(scores[name]).any(), 0, number)
            ranked = _ranked(jax.random.fold_in(choosing, index), scores[name], self.order)
            masks[name] = lowest(ranked, number)
        learner = renewed(drawing, learner, network, masks, self.renewal)
        return learner, Recycling(state.recyclings + 1, count(state.recycled, masks))


def _scores(score: Score, learner: Learner, network: Network, inputs: Any) -> dict[str, Array]:
    wiring = network.wiring
    match score:
        case "activation":
            return wiring.scores(learner.params, *inputs)
        case "gradient":
            return gradient_scores(wiring, first_moments(learner))
        case "contribution":
            found = contributions(wiring, learner.params, *inputs)
        case "utility":
            found = utilities(wiring, learner.params, *inputs)
    return {name: neuron_scores(values[None]) for name, values in found.items()}


def _ranked(key: Array, scores: Float[Array, " neurons"], order: str) -> Float[Array, " neurons"]:
    """Numbers whose lowest are to be taken first."""
    match order:
        case "highest":
            return -scores
        case "random":
            return jax.random.uniform(key, scores.shape)
        case _:
            return scores


def lowest(values: Float[Array, " neurons"], number: Int[Array, ""]) -> Bool[Array, " neurons"]:
    """Which neurons have the lowest values, so many of them; of equal ones the first.

    >>> lowest(jnp.array([3.0, 1.0, 1.0]), jnp.array(1)).tolist()
    [False, True, False]
    """
    return jnp.argsort(jnp.argsort(values)) < number
