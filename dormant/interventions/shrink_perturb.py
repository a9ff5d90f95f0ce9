"""Shrink and perturb: pull every weight part of the way to a fresh initialisation."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
from jaxtyping import Array

from ..surgery import Learner, graft
from ..wiring import Network
from .contract import one_of
from .renewal import everything, fresh, nothing


@dataclass(frozen=True)
class ShrinkPerturb:
    """Replaces every weight w by keep * w + (1 - keep) * a newly initialised one.

    `moments` says whether the optimizer's state starts afresh ("fresh") or stays ("keep").

    >>> ShrinkPerturb(keep=0.8)
    ShrinkPerturb(keep=0.8, moments='keep')

    Raises ValueError if `keep` is not between 0 and 1.
    Source: Ash and Adams 2020; the blend with an initialisation as in D'Oro et al. 2023.
    """

    keep: float = 0.8
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must lie between 0 and 1, got {self.keep}; 1 changes nothing, 0 starts afresh.")
        one_of("moments", self.moments, ("fresh", "keep"))

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del learner, network
        return ()

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: Any
    ) -> tuple[Learner, tuple[()]]:
        del inputs
        donor = fresh(network, key, learner)
        blended = jax.tree.map(lambda old, new: self.keep * old + (1 - self.keep) * new, learner.params, donor)
        every = everything(learner.params)
        forget = every if self.moments == "fresh" else nothing(every)
        return graft(learner, every, blended, network.tx, forget=forget), state
