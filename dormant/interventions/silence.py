"""`SNR`: recycles a neuron that has been silent for longer than it usually is."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from ..settings import Renewal, check_recycling, check_snr, silence_lengths
from ..surgery import Learner, Recycled, count, recyclable, renewed, uncounted
from ..wiring import Network
from .schedule import when


class Silences(NamedTuple):
    """The silences of each neuron of a layer. A silence is a sequence of gradient steps at which the neuron is silent.

    `age` is the length of the present silence, or 0. `past` counts the silences that ended since the limits last
    changed, in bins of lengths. A neuron is recycled when its silence reaches the length `limit`.
    """

    age: Int[Array, " neurons"]
    past: Int[Array, "neurons bins"]
    limit: Int[Array, " neurons"]


class SNRState(NamedTuple):
    """The number of gradient steps so far, the silences of each layer, and how many neurons were recycled."""

    gradient_steps: Int[Array, ""]
    layers: dict[str, Silences]
    recycled: Recycled


@dataclass(frozen=True)
class SNR:
    """Recycles a neuron whose silence is longer than a quantile of its own past silences (self-normalised resets).

    A neuron is silent at a gradient step if it is zero on the whole score batch. A silence is a sequence of such steps.
    A neuron is recycled when its silence reaches the neuron's limit. All limits start at `most` / 2. Every `period`
    gradient steps, the limits change: the new limit is the `quantile` of the neuron's silences in these steps, if that
    is lower than the old limit. Otherwise, the limit is multiplied by `growth`. A limit stays within `least` and
    `most`, and does not change if the neuron was never silent. `renewal`, `coupled` and `layers` work as in `Recycle`.
    Call `update` at every gradient step, not within `Every`. Each call costs a forward pass of the score batch.

    >>> SNR(quantile=0.95).most
    20000

    Raises ValueError for a number outside its range or an unknown option. `init` raises ValueError for a layer that
    does not exist or that can't be recycled safely.
    Source: Farias and Jozefiak 2025, "Self-normalized resets for plasticity in continual learning";
    src/algorithms/snr.py at ajozefiak/SelfNormalizedResets 8b84f0c. Differences: they measure silences in samples, we
    in gradient steps. They count silences of each length; to save memory, we use about four bins per doubling of the
    length. They set the limit of a neuron that was never silent to `least`. They change limits after a number of tasks.
    In their code, a neuron that is negative on the whole batch is also silent.
    """

    every_step: ClassVar[bool] = True
    quantile: float = 0.98
    period: int = 10_000
    growth: float = 2.0
    least: int = 100
    most: int = 20_000
    renewal: Renewal = Renewal()  # noqa: RUF009 (immutable)
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_snr(self.quantile, self.period, self.growth, self.least, self.most)
        check_recycling(self.renewal, self.coupled, self.layers)

    @property
    def lengths(self) -> Int[np.ndarray, " bins"]:
        """The shortest silence of each bin."""
        return silence_lengths(self.most)

    def init(self, learner: Learner, network: Network) -> SNRState:
        layers = recyclable(network, learner.params, self.layers, self.coupled)
        bins, start = len(self.lengths), max(self.least, self.most // 2)
        silences = {
            layer.name: Silences(
                jnp.zeros(layer.width, jnp.int32),
                jnp.zeros((layer.width, bins), jnp.int32),
                jnp.full(layer.width, start, jnp.int32),
            )
            for layer in layers
        }
        return SNRState(jnp.zeros((), jnp.int32), silences, uncounted(layers))

    def update(
        self, key: Array, learner: Learner, state: SNRState, network: Network, *inputs: PyTree
    ) -> tuple[Learner, SNRState]:
        step = state.gradient_steps + 1
        silent = network.wiring.dormant(learner.params, *inputs, tau=0.0)
        heard = {name: self.listen(layer, silent[name]) for name, layer in state.layers.items()}
        masks = {name: mask for name, (_, mask) in heard.items()}
        due = jnp.array([mask.any() for mask in masks.values()], bool).any()
        learner = when(due, lambda: renewed(key, learner, network, masks, self.renewal), learner)
        layers = {name: layer for name, (layer, _) in heard.items()}
        adapt = step % self.period == 0
        layers = {name: when(adapt, lambda one=one: self.adapted(one), one) for name, one in layers.items()}
        return learner, SNRState(step, layers, count(state.recycled, masks))

    def listen(self, layer: Silences, silent: Bool[Array, " neurons"]) -> tuple[Silences, Bool[Array, " neurons"]]:
        """Returns the layer's silences after a gradient step, and a mask of the neurons to recycle.

        `silent` is a mask of the neurons that are silent at this step.
        """
        age = layer.age + 1
        mask = silent & (age >= layer.limit)
        length = jnp.where(silent, age, layer.age)
        over = (mask | ~silent) & (length > 0)
        place = jnp.searchsorted(jnp.asarray(self.lengths), length, side="right") - 1
        past = layer.past.at[jnp.arange(len(age)), jnp.maximum(place, 0)].add(over.astype(jnp.int32))
        return Silences(jnp.where(silent & ~mask, age, 0), past, layer.limit), mask

    def adapted(self, layer: Silences) -> Silences:
        """Returns the layer's silences with new limits. The counts of past silences start again at 0."""
        total = layer.past.sum(axis=1)
        enough = jnp.cumsum(layer.past, axis=1).astype(jnp.float32) >= self.quantile * total[:, None].astype(
            jnp.float32
        )
        shortest = jnp.asarray(self.lengths)[jnp.argmax(enough, axis=1)]
        grown = jnp.minimum(self.growth * layer.limit.astype(jnp.float32), self.most).astype(jnp.int32)
        limit = jnp.where(shortest < layer.limit, shortest, grown)
        limit = jnp.where(total > 0, jnp.clip(limit, self.least, self.most), layer.limit)
        return Silences(layer.age, jnp.zeros_like(layer.past), limit)
