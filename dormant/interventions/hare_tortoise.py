"""Hare and tortoise: weights that learn fast go back, from time to time, to their own slow average."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..surgery import Learner, graft
from ..wiring import Network
from .contract import checked_steps, one_of
from .renewal import everything, nothing
from .schedule import when


class Tortoise(NamedTuple):
    """The gradient steps seen so far, and the running average of the weights."""

    gradient_steps: Int[Array, ""]
    params: PyTree[Array]


@dataclass(frozen=True)
class HareTortoise:
    """Keeps a running average of the weights (the tortoise), and sets the weights (the hare) to it at every `period`.

    The average counts every gradient step, w <- momentum * w + (1 - momentum) * the hare's, so call it at each and not
    within `Every`. `moments` says whether the optimizer's state then starts afresh. It costs one pass over the weights.

    >>> HareTortoise(momentum=0.99, period=500).moments
    'keep'

    Raises ValueError for a momentum outside of [0, 1), a period below 1 or an unknown option.
    Source: Lee et al. 2024, "Slow and steady wins the race: maintaining plasticity with hare and tortoise networks".
    As we remember it the tortoise is what they evaluate; here the agent acts with the hare.
    """

    every_step: ClassVar[bool] = True
    momentum: float = 0.999
    period: int = 10_000
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {self.momentum}; 0 keeps no average at all.")
        checked_steps("period", self.period)
        one_of("moments", self.moments, ("fresh", "keep"))

    def init(self, learner: Learner, network: Network) -> Tortoise:
        del network
        return Tortoise(jnp.zeros((), jnp.int32), learner.params)

    def update(
        self, key: Array, learner: Learner, state: Tortoise, network: Network, *inputs: Any
    ) -> tuple[Learner, Tortoise]:
        del key, inputs
        step = state.gradient_steps + 1
        slow = jax.tree.map(
            lambda old, new: self.momentum * old + (1 - self.momentum) * new, state.params, learner.params
        )
        every = everything(learner.params)
        forget = every if self.moments == "fresh" else nothing(every)
        learner = when(step % self.period == 0, lambda: graft(learner, every, slow, network.tx, forget), learner)
        return learner, Tortoise(step, slow)
