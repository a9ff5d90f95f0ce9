"""Interventions that mix weights with fresh weights: `SoftShrinkPerturb`, and `DrM`, which depends on dormancy."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

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
from .execution import plain
from .measuring import measure
from .optimizers import check_held
from .recycling import Learner, fresh_values, same_on_every_process, write_
from .resets import everywhere, trained
from .schedule import Counts, Inputs, State


@dataclass(frozen=True)
class SoftShrinkPerturb:
    """Mixes every weight w with a fresh weight w' at every gradient step: w <- (1 - rate) * w + rate * w'.

    To save time, it changes weights only every `period` gradient steps, and then makes the changes of `period` steps in
    one: w <- k * w + (1 - k) * m + s * (w' - m). Here k = (1 - rate)^period, m is the mean of the initialiser, and s is
    chosen so that the noise has the same variance as after `period` single steps. With `period=1`, this is the paper's
    method. Call it at every gradient step, not within `Every`. Frozen parameters and the optimizer's state do not
    change.

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

    def init(self, module: nn.Module) -> State:
        del module
        return {"gradient_steps": 0}

    def check(self, learner: Learner) -> None:
        check_held(learner.optimizers, trained(learner.module))

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        del inputs
        periods = (state["gradient_steps"] + steps) // self.period - state["gradient_steps"] // self.period
        state["gradient_steps"] += steps
        if periods == 0:
            return None
        kept, noise = soft_factors(self.rate, periods * self.period)
        leaves = trained(learner.module)
        first, second = (fresh_values(plain(learner.module), leaves, learner.init) for _ in range(2))
        blend = {}
        for name, leaf in leaves.items():
            new, other = first[name].to(leaf), second[name].to(leaf)
            mean = torch.where(new == other, new, 0.0)
            blend[name] = kept * leaf + (1 - kept) * mean + noise * (new - mean)
        write_(learner, everywhere(leaves), blend, "keep", "keep")
        return {}


@dataclass(frozen=True)
class DrM:
    """Mixes every weight w with a fresh weight w', more strongly if more neurons are dormant: shrink and perturb.

    The new weight is keep * w + (1 - keep) * w'. Here keep = min(max(least, 1 - slope * fraction), most), and
    `fraction` is the fraction of tau-dormant neurons.

    - `layers`: names of the layers or submodules in which dormant neurons are counted. None counts in all layers.
    - `convolutions`: "keep" convolutional layers, or "perturb" them like all other layers.
    - `moments` and `step_count`: what happens to the optimizer's state, as in `Reset`.

    >>> DrM(most=0.95).least
    0.2

    Raises ValueError for an unknown option, a negative tau, or unless 0 <= least <= most <= 1. When training starts,
    raises ValueError for a layer that does not exist. If an activation is NaN or infinite, weights do not change.
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

    def init(self, module: nn.Module) -> State:
        del module
        return {}

    def check(self, learner: Learner) -> None:
        layers_within(self.layers, [layer.name for layer in learner.wiring.layers], ".")
        check_held(learner.optimizers, trained(learner.module))

    def keep(self, fraction: float) -> float:
        """Returns the factor of the old weights, given the fraction of dormant neurons.

        >>> [round(DrM(most=1.0).keep(fraction), 3) for fraction in (0.1, 0.3, 0.5)]
        [0.8, 0.4, 0.2]
        """
        return min(max(1.0 - self.slope * fraction, self.least), self.most)

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        del state, steps
        leaves = trained(learner.module)
        fraction = self._fraction(learner, inputs).to(next(iter(leaves.values())).device)
        same_on_every_process(learner.module, [fraction])
        if bool(fraction.isnan()):
            return None
        keep = self.keep(float(fraction))
        convolutions = {name.rpartition(".")[0] for name, leaf in leaves.items() if leaf.ndim > 2} - {""}
        perturbed = [n for n in leaves if self.convolutions == "perturb" or n.rpartition(".")[0] not in convolutions]
        fresh = fresh_values(plain(learner.module), {name: leaves[name] for name in perturbed}, learner.init)
        blend = {name: keep * leaves[name] + (1 - keep) * fresh[name].to(leaves[name]) for name in perturbed}
        write_(learner, everywhere(leaves), {**leaves, **blend}, self.moments, self.step_count)
        return {}

    def _fraction(self, learner: Learner, inputs: Inputs) -> Tensor:
        """Returns the fraction of dormant neurons, or NaN if an activation is NaN or infinite."""
        scores = measure(learner.module, learner.wiring, *inputs(), tau=self.tau).scores
        counted = layers_within(self.layers, [layer.name for layer in learner.wiring.layers], ".")
        values = torch.cat([scores[name].flatten() for name in counted if name in scores])
        return torch.where(values.isnan().any(), torch.nan, (values <= self.tau).to(values).mean())
