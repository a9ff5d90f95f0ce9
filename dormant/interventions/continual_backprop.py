"""Continual backprop: at every gradient step, replace a small share of the mature neurons that are of least use."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..importance import contributions, utilities
from ..surgery import Learner
from ..wiring import Network
from .contract import one_of
from .recycle import lowest
from .renewal import Recycled, Renewal, count, recyclable, renewed, uncounted
from .schedule import when


class Usefulness(NamedTuple):
    """Of one layer: running utilities that began at zero, updates since each neuron was new, and what is owed."""

    utility: Float[Array, " neurons"]
    age: Int[Array, " neurons"]
    owed: Float[Array, ""]  # neurons to be replaced, of which only whole ones are


class Usefulnesses(NamedTuple):
    """That of every layer, and how many neurons were replaced."""

    layers: dict[str, Usefulness]
    recycled: Recycled


@dataclass(frozen=True)
class ContinualBackprop:
    """Replaces, at every update, `replacement_rate` of those neurons of a layer that are older than `maturity` updates.

    Those of the lowest utility go: a running average with weight `decay`, divided by 1 - decay^age since it starts at
    zero. `utility` is "contribution", or "overall", which also counts how small a neuron's incoming weights are. Shares
    of a neuron add up until a whole one is due. Call it at every gradient step, not within `Every`: each costs a
    forward pass of the score batch.

    >>> ContinualBackprop(maturity=1_000).replacement_rate
    0.0001

    Raises ValueError for a rate, decay or maturity outside its range or an unknown option, and at `init` for a layer
    that does not exist or is not safe.
    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning". Its released code also
    moves what an old neuron contributed on average into the next layer's bias; we do not. Utilities are of the score
    batch.
    """

    every_step: ClassVar[bool] = True
    replacement_rate: float = 1e-4
    maturity: int = 100
    decay: float = 0.99
    utility: Literal["contribution", "overall"] = "contribution"
    renewal: Renewal = Renewal()  # noqa: RUF009 (a frozen value)
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.replacement_rate <= 1:
            raise ValueError(f"replacement_rate must lie above 0 and not above 1, got {self.replacement_rate}.")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, got {self.decay}; 0 forgets all but the last utility.")
        if self.maturity < 0:
            raise ValueError(f"maturity must be at least 0 updates, got {self.maturity}.")
        one_of("utility", self.utility, ("contribution", "overall"))
        one_of("coupled", self.coupled, ("recycle", "skip"))

    def init(self, learner: Learner, network: Network) -> Usefulnesses:
        layers = recyclable(network, learner.params, self.layers, self.coupled)
        zeros = {
            layer.name: Usefulness(jnp.zeros(layer.width), jnp.zeros(layer.width, jnp.int32), jnp.zeros(()))
            for layer in layers
        }
        return Usefulnesses(zeros, uncounted(layers))

    def update(
        self, key: Array, learner: Learner, state: Usefulnesses, network: Network, *inputs: Any
    ) -> tuple[Learner, Usefulnesses]:
        measure = contributions if self.utility == "contribution" else utilities
        now = measure(network.wiring, learner.params, *inputs)
        chosen = {name: self.choose(layer, now[name]) for name, layer in state.layers.items()}
        masks = {name: mask for name, (_, mask) in chosen.items()}
        due = jnp.array([mask.any() for mask in masks.values()], bool).any()
        learner = when(due, lambda: renewed(key, learner, network, masks, self.renewal), learner)
        return learner, Usefulnesses({name: layer for name, (layer, _) in chosen.items()}, count(state.recycled, masks))

    def choose(
        self, layer: Usefulness, utility: Float[Array, " neurons"]
    ) -> tuple[Usefulness, Bool[Array, " neurons"]]:
        """A layer after an update in which its neurons had these utilities, and those that are to be replaced.

        Utilities that are NaN, because an activation was not finite, change nothing.
        """
        unknown = jnp.isnan(utility).any()
        age = layer.age + jnp.where(unknown, 0, 1)
        running = self.decay * layer.utility + (1 - self.decay) * utility
        running = jnp.where(unknown, layer.utility, running)
        corrected = running / (1 - self.decay ** age.astype(jnp.float32))
        mature = age > self.maturity
        owed = layer.owed + jnp.where(unknown, 0.0, self.replacement_rate * mature.sum().astype(jnp.float32))
        number = jnp.minimum(jnp.floor(owed).astype(jnp.int32), mature.sum(dtype=jnp.int32))
        number = jnp.where(unknown, 0, number)
        mask = lowest(jnp.where(mature, corrected, jnp.inf), number)
        owed = owed - number.astype(jnp.float32)
        return Usefulness(jnp.where(mask, 0.0, running), jnp.where(mask, 0, age), owed), mask
