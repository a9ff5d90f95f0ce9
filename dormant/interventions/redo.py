"""ReDo: give dormant neurons fresh incoming weights and silence their outgoing ones."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Array

from ..scores import checked_tau
from ..surgery import Learner
from ..wiring import Network, NeuronLayer
from .contract import one_of
from .renewal import Recycled, Renewal, count, recyclable, renewed, uncounted


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
    - `incoming`: "fresh", or "scaled" to make each fresh kernel vector as long as those of the layer's other neurons
      are on average (the paper's figure 23).

    >>> ReDo(tau=0.025).tau
    0.025

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
    incoming: Literal["fresh", "scaled"] = "fresh"

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        one_of("coupled", self.coupled, ("recycle", "skip"))
        self.renewal  # noqa: B018 (checks the other options)

    @property
    def renewal(self) -> Renewal:
        """What becomes of the neurons that it finds."""
        return Renewal(self.outgoing, self.incoming, self.moments, self.step_count)

    def init(self, learner: Learner, network: Network) -> Recycled:
        return uncounted(self.targets(learner, network))

    def targets(self, learner: Learner, network: Network) -> list[NeuronLayer]:
        """The layers that this intervention recycles."""
        return recyclable(network, learner.params, self.layers, self.coupled)

    def update(
        self, key: Array, learner: Learner, state: Recycled, network: Network, *inputs: Any
    ) -> tuple[Learner, Recycled]:
        dormant = network.wiring.dormant(learner.params, *inputs, tau=self.tau)
        masks = {name: dormant[name] for name in state.counts}
        return renewed(key, learner, network, masks, self.renewal), count(state, masks)
