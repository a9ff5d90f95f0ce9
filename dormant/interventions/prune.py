"""Prune: take neurons out of the network for good once they are found dormant."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ..scores import checked_tau
from ..surgery import Learner, graft
from ..wiring import Network, entry_mask
from .contract import checked_steps
from .renewal import recyclable
from .schedule import when


class Pruned(NamedTuple):
    """The gradient steps seen so far, and the neurons that are gone."""

    gradient_steps: Int[Array, ""]
    gone: dict[str, Bool[Array, " neurons"]]


@dataclass(frozen=True)
class Prune:
    """Removes every neuron that a check finds tau-dormant, by holding its outgoing weights at zero from then on.

    The check happens every `period` gradient steps; the weights are held at every step, so call `update` at each of
    them and do not wrap this in `Every`.

    >>> Prune(tau=0.0, period=1_000)
    Prune(tau=0.0, period=1000)

    Raises ValueError for a negative tau or a period below 1.
    Source: Sokar et al. 2023, figure 6. The paper does not say how often it checks or how it removes; the period is
    ours.
    """

    every_step: ClassVar[bool] = True
    tau: float = 0.0
    period: int = 1_000

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        checked_steps("period", self.period)

    def init(self, learner: Learner, network: Network) -> Pruned:
        layers = recyclable(network, learner.params, None, "recycle")
        return Pruned(jnp.zeros((), jnp.int32), {layer.name: jnp.zeros(layer.width, bool) for layer in layers})

    def update(
        self, key: Array, learner: Learner, state: Pruned, network: Network, *inputs: Any
    ) -> tuple[Learner, Pruned]:
        del key
        step = state.gradient_steps + 1

        def check() -> dict[str, Array]:
            dormant = network.wiring.dormant(learner.params, *inputs, tau=self.tau)
            return {name: mask | dormant[name] for name, mask in state.gone.items()}

        gone = when(step % self.period == 0, check, state.gone)
        read = {name: network.wiring[name].outgoing for name in gone}
        zeros = jax.tree.map(jnp.zeros_like, learner.params)
        held = graft(learner, entry_mask(learner.params, read, gone), zeros, network.tx)
        return held, Pruned(step, gone)
