"""ResetOptimizer: keep the weights and forget what the optimizer knows of them."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from ..surgery import Learner, graft, restart_step_count
from ..wiring import Network
from .contract import one_of
from .renewal import everything, nothing


@dataclass(frozen=True)
class ResetOptimizer:
    """Starts the optimizer's state of every weight afresh, as if training began now from these weights.

    `moments` is the state of each weight (Adam's two moments); `step_count`, "restart" here, is the count with which
    Adam corrects moments that began at zero. With "keep", steps right after are (1 - b1) / sqrt(1 - b2) = 3.2 learning
    rates long.

    >>> ResetOptimizer(step_count="keep")
    ResetOptimizer(moments='fresh', step_count='keep')

    Raises ValueError for an unknown option, and for two "keep", which would do nothing.
    Source: Asadi et al. 2023, "Resetting the optimizer in deep RL: an empirical study", who do both at every copy of
    the target network.
    """

    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "restart"

    def __post_init__(self) -> None:
        one_of("moments", self.moments, ("fresh", "keep"))
        one_of("step_count", self.step_count, ("keep", "restart"))
        if (self.moments, self.step_count) == ("keep", "keep"):
            raise ValueError("moments and step_count are both 'keep', which does nothing; set one of them.")

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del learner, network
        return ()

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: Any
    ) -> tuple[Learner, tuple[()]]:
        del key, inputs
        every = everything(learner.params)
        if self.moments == "fresh":
            learner = graft(learner, nothing(every), learner.params, network.tx, forget=every)
        return (restart_step_count(learner, jnp.array(True)) if self.step_count == "restart" else learner), state
