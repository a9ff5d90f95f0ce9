"""Interventions that mix weights with fresh weights: `SoftShrinkPerturb`, and `DrM`, which depends on dormancy."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..scores import dormant_fraction
from ..settings import (
    SHARE,
    check_drm,
    check_layers,
    check_moments,
    check_number,
    check_whole,
    layers_within,
    soft_factors,
)
from ..surgery import Learner, everything, fresh, graft, nothing, restart_step_count
from ..wiring import Network, by_path
from .schedule import when


class Softened(NamedTuple):
    """The number of gradient steps so far."""

    gradient_steps: Int[Array, ""]


@dataclass(frozen=True)
class SoftShrinkPerturb:
    """Mixes every weight w with a fresh weight w' at every gradient step: w <- (1 - rate) * w + rate * w'.

    To save time, it changes weights only every `period` gradient steps, and then makes the changes of `period` steps in
    one: w <- k * w + (1 - k) * m + s * (w' - m). Here k = (1 - rate)^period, m is the mean of the initialiser, and s is
    chosen so that the noise has the same variance as after `period` single steps. With `period=1`, this is the paper's
    method. Call `update` at every gradient step, not within `Every`. The optimizer's state does not change.

    >>> SoftShrinkPerturb()
    SoftShrinkPerturb(rate=1e-06, period=1000)

    Raises ValueError for a rate outside of (0, 1] or a period below 1.
    Source: Juliani and Ash 2024, "A study of plasticity loss in on-policy deep reinforcement learning", who use it with
    LayerNorm; shared/modules.py at awjuliani/deep-rl-plasticity 75f0d5a. They draw a fresh network at every step. We
    draw two networks to find m. If a weight has the same value in both, m is this value (such as 1 for the scale of a
    normalisation). Otherwise, we assume that m is 0.
    """

    every_step: ClassVar[bool] = True
    rate: float = 1e-6
    period: int = 1_000

    def __post_init__(self) -> None:
        check_number("rate", self.rate, SHARE, "Juliani and Ash 2024 use 1e-6")
        check_whole("period", self.period)

    def init(self, learner: Learner, network: Network) -> Softened:
        del learner, network
        return Softened(jnp.zeros((), jnp.int32))

    def update(
        self, key: Array, learner: Learner, state: Softened, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Softened]:
        del inputs
        step = state.gradient_steps + 1
        kept, noise = soft_factors(self.rate, self.period)

        def mixed(old: Array, new: Array, other: Array) -> Array:
            mean = jnp.where(new == other, new, jnp.zeros_like(new))
            return kept * old + (1 - kept) * mean + noise * (new - mean)

        def change() -> Learner:
            first, second = (fresh(network, one, learner) for one in jax.random.split(key))
            blended = jax.tree.map(mixed, learner.params, first, second)
            every = everything(learner.params)
            return graft(learner, every, blended, network.tx, forget=nothing(every))

        return when(step % self.period == 0, change, learner), Softened(step)


@dataclass(frozen=True)
class DrM:
    """Mixes every weight w with a fresh weight w', more strongly if more neurons are dormant: shrink and perturb.

    The new weight is keep * w + (1 - keep) * w'. Here keep = min(max(least, 1 - slope * fraction), most), and
    `fraction` is the fraction of tau-dormant neurons.

    - `layers`: names of the layers or networks in which dormant neurons are counted, such as ("actor",). None counts in
      all layers.
    - `convolutions`: "keep" convolutional layers, or "perturb" them like all other layers.
    - `moments` and `step_count`: what happens to the optimizer's state, as in `Reset`.

    >>> DrM(most=0.95).least
    0.2

    Raises ValueError for an unknown option, a negative tau, or unless 0 <= least <= most <= 1. `init` raises ValueError
    for a layer that does not exist. If an activation is NaN or infinite, weights do not change.
    Source: Xu et al. 2024, "DrM: mastering visual reinforcement learning through dormant ratio minimization"; utils.py
    at XuGW-Kevin/DrM 317116a. They act every 100,000 updates, with `most` between 0.6 and 1, depending on the task.
    They score dense layers, including the output layer, before the activation function. We score hidden layers after
    it. They also perturb the target network, with different fresh weights. We do not. Their exploration and value
    targets are not part of this intervention.
    """

    least: float = 0.2
    most: float = 0.9
    slope: float = 2.0
    tau: float = 0.025
    layers: tuple[str, ...] | None = None
    convolutions: Literal["keep", "perturb"] = "keep"
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "restart"

    def __post_init__(self) -> None:
        check_drm(self.least, self.most, self.slope, self.tau, self.convolutions)
        check_layers(self.layers)
        check_moments(self.moments, self.step_count)

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del learner
        layers_within(self.layers, [layer.name for layer in network.wiring.layers], "/")
        return ()

    def keep(self, fraction: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the factor of the old weights, given the fraction of dormant neurons.

        >>> [round(float(DrM(most=1.0).keep(jnp.array(fraction))), 3) for fraction in (0.1, 0.3, 0.5)]
        [0.8, 0.4, 0.2]
        """
        return jnp.minimum(jnp.maximum(1.0 - self.slope * fraction, self.least), self.most)

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: PyTree
    ) -> tuple[Learner, tuple[()]]:
        scores = network.wiring.scores(learner.params, *inputs)
        counted = layers_within(self.layers, list(scores), "/")
        fraction = dormant_fraction({name: scores[name] for name in counted}, self.tau)
        keep = self.keep(fraction)
        known = ~jnp.isnan(fraction)
        donor = fresh(network, key, learner)
        blended = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, learner.params, donor)
        mask = jax.tree.map(lambda hit: hit & known, self._mask(learner.params))
        every = jax.tree.map(lambda hit: hit & known, everything(learner.params))
        learner = graft(learner, mask, blended, network.tx, every if self.moments == "fresh" else nothing(mask))
        return (restart_step_count(learner, known) if self.step_count == "restart" else learner), state

    def _mask(self, params: PyTree[Array]) -> PyTree[Bool[Array, ""]]:
        leaves = by_path(params)
        kept = {path.rpartition("/")[0] for path, leaf in leaves.items() if leaf.ndim > 2} - {""}
        hit = [jnp.array(self.convolutions == "perturb" or path.rpartition("/")[0] not in kept) for path in leaves]
        return jax.tree.unflatten(jax.tree.structure(params), hit)
