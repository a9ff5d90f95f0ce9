"""WhenDormant: an adaptive schedule that acts only while enough neurons are dormant."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from ..scores import checked_tau
from ..surgery import Learner
from ..wiring import Network
from .contract import Intervention, checked_occasional
from .schedule import when


@dataclass(frozen=True)
class WhenDormant:
    """Applies `what` if at least `share` of all neurons are tau-dormant on the score batch.

    Use it to reset only when the network needs it. Put it within `Every`, which sets how often it checks: each check
    costs a forward pass of the score batch.

    >>> from dormant import Every, ShrinkPerturb
    >>> Every(1_000, WhenDormant(0.25, ShrinkPerturb(0.5))).what.share
    0.25

    Raises TypeError if `what` is not an intervention. Raises ValueError for a share outside of (0, 1], for a negative
    tau, and for an intervention that must be called at every gradient step.
    Source: ours; Xu et al. 2024, "DrM: mastering visual reinforcement learning through dormant ratio minimization", let
    the dormant share decide how strongly to perturb the network.
    """

    share: float
    what: Intervention
    tau: float = 0.1

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        checked_occasional(self.what, "WhenDormant")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie above 0 and not above 1, got {self.share}; 0.25 is a quarter of them.")

    def init(self, learner: Learner, network: Network) -> Any:
        return self.what.init(learner, network)

    def update(self, key: Array, learner: Learner, state: Any, network: Network, *inputs: Any) -> tuple[Learner, Any]:
        now = network.wiring.dormant_fraction(learner.params, *inputs, tau=self.tau)
        return when(
            now >= self.share, lambda: self.what.update(key, learner, state, network, *inputs), (learner, state)
        )
