"""Interventions on whole tensors: `Reset`, `ShrinkPerturb`, `ResetOptimizer`, `HareTortoise`, `ClipWeights`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..settings import checked_steps, one_of
from .execution import plain, plain_name
from .optimizers import check_held
from .recycling import Learner, fresh_values, write_
from .schedule import Counts, Inputs, State


@dataclass(frozen=True)
class Reset:
    """Replaces all parameters of some layers by fresh parameters, and resets the statistics of their BatchNorms.

    `layers` contains names of layers in the wiring, which may be output layers, or names of submodules. None resets
    every parameter. Frozen parameters do not change. `moments` and `step_count` control the optimizer's state as in
    `ReDo`.

    >>> Reset(layers=("dense",))
    Reset(layers=('dense',), moments='fresh', step_count='keep')

    Raises ValueError for an unknown option. When training starts, raises ValueError for a layer that does not exist.
    Source: Nikishin et al. 2022, "The primacy bias in deep reinforcement learning".
    """

    layers: tuple[str, ...] | None = None
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"

    def __post_init__(self) -> None:
        one_of("moments", self.moments, ("fresh", "keep"))
        one_of("step_count", self.step_count, ("keep", "restart"))

    def init(self, module: nn.Module) -> State:
        del module
        return {}

    def check(self, learner: Learner) -> None:
        names = list(learner.leaves)
        for layer in self.layers or ():
            if not any(owner(name, (layer,)) for name in names):
                raise ValueError(f"no parameters belong to layer {layer!r}; the parameters are {names}.")
        leaves = self._leaves(learner)
        check_held(learner.optimizers, {name: leaf for name, leaf in leaves.items() if isinstance(leaf, nn.Parameter)})

    def _leaves(self, learner: Learner) -> dict[str, Tensor]:
        leaves = trained(learner.module) | statistics(learner.module)
        return {name: leaf for name, leaf in leaves.items() if self.layers is None or owner(name, self.layers)}

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del state, inputs, steps
        leaves = self._leaves(learner)
        fresh = fresh_values(plain(learner.module), leaves, learner.init)
        write_(learner, everywhere(leaves), fresh, self.moments, self.step_count)
        return {}


def owner(name: str, layers: tuple[str, ...]) -> set[str]:
    """Returns the names of the layers in `layers` that contain the parameter `name`.

    >>> owner("net.0.weight", ("net.0", "net.2"))
    {'net.0'}
    """
    return {layer for layer in layers for part in layer.split("+") if name == part or name.startswith(part + ".")}


def trained(module: nn.Module) -> dict[str, Tensor]:
    """Returns a dictionary from names to the parameters that are not frozen."""
    leaves = plain(module).named_parameters()
    return {plain_name(name): leaf for name, leaf in leaves if leaf.requires_grad}


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """Returns a dictionary from names to the running statistics of all BatchNorms."""
    return {
        plain_name(f"{name}.{leaf}" if name else leaf): tensor
        for name, part in plain(module).named_modules()
        if isinstance(part, _NormBase)
        for leaf, tensor in part.named_buffers()
    }


def everywhere(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns one mask per leaf that selects all entries of the leaf."""
    return {name: torch.ones((), dtype=torch.bool, device=leaf.device) for name, leaf in leaves.items()}


@dataclass(frozen=True)
class ShrinkPerturb:
    """Replaces every weight w by keep * w + (1 - keep) * w', where w' is a newly initialised weight.

    Frozen weights do not change. With `moments="fresh"`, the optimizer's state of every weight is reset, too.

    >>> ShrinkPerturb(keep=0.8)
    ShrinkPerturb(keep=0.8, moments='keep')

    Raises ValueError if `keep` is not between 0 and 1.
    Source: Ash and Adams 2020. Mixing with newly initialised weights follows D'Oro et al. 2023.
    """

    keep: float = 0.8
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must lie between 0 and 1, got {self.keep}; 1 changes nothing, 0 starts afresh.")
        one_of("moments", self.moments, ("fresh", "keep"))

    def init(self, module: nn.Module) -> State:
        del module
        return {}

    def check(self, learner: Learner) -> None:
        check_held(learner.optimizers, trained(learner.module))

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del state, inputs, steps
        leaves = trained(learner.module)
        fresh = fresh_values(plain(learner.module), leaves, learner.init)
        blend = {name: self.keep * leaf + (1 - self.keep) * fresh[name].to(leaf) for name, leaf in leaves.items()}
        write_(learner, everywhere(leaves), blend, self.moments, "keep")
        return {}


@dataclass(frozen=True)
class ResetOptimizer:
    """Resets the optimizer's state, as if training started from the current weights.

    With `moments="fresh"`, the state of each weight is reset (Adam's two moments). With `step_count="restart"`, the
    step count for Adam's bias correction is set to zero. Tensors are changed in place, because fused and capturable
    optimizers keep references to them.

    >>> ResetOptimizer(step_count="keep")
    ResetOptimizer(moments='fresh', step_count='keep')

    Raises ValueError for an unknown option. Also raises it if both options are "keep", which would reset nothing.
    Source: Asadi et al. 2023, "Resetting the optimizer in deep RL: an empirical study". The paper resets both at
    every update of the target network.
    """

    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "restart"

    def __post_init__(self) -> None:
        one_of("moments", self.moments, ("fresh", "keep"))
        one_of("step_count", self.step_count, ("keep", "restart"))
        if (self.moments, self.step_count) == ("keep", "keep"):
            raise ValueError("moments and step_count are both 'keep', which does nothing; set one of them.")

    def init(self, module: nn.Module) -> State:
        del module
        return {}

    def check(self, learner: Learner) -> None:
        if not learner.optimizers:
            raise ValueError("ResetOptimizer needs the optimizer: with_intervention(module, optimizer, ...).")
        check_held(learner.optimizers, trained(learner.module))

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del state, inputs, steps
        leaves = trained(learner.module)
        write_(learner, everywhere(leaves), leaves, self.moments, self.step_count)
        return {}


@dataclass(frozen=True)
class HareTortoise:
    """Sets the weights (the hare) to their running average (the tortoise) every `period` gradient steps.

    At every gradient step, the average is updated: tortoise <- momentum * tortoise + (1 - momentum) * hare. Apply this
    intervention at every gradient step, not within `Every`. Each step costs one pass over the weights. If it is applied
    once after several gradient steps, the average uses the last weights for all of these steps. With `moments="fresh"`,
    the optimizer state is reset whenever the weights are set to the average.

    >>> HareTortoise(momentum=0.99, period=500).moments
    'keep'

    Raises ValueError for an unknown option, a momentum outside of [0, 1) or a period below 1.
    Source: Lee et al. 2024, "Slow and steady wins the race: maintaining plasticity with hare and tortoise networks".
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

    def init(self, module: nn.Module) -> State:
        return {
            "gradient_steps": 0,
            "tortoise": {name: leaf.detach().clone() for name, leaf in trained(module).items()},
        }

    def check(self, learner: Learner) -> None:
        check_held(learner.optimizers, trained(learner.module))

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        del inputs
        before = state["gradient_steps"]
        state["gradient_steps"] += steps
        leaves = trained(learner.module)
        slow = state["tortoise"] = {name: state["tortoise"][name].to(leaf) for name, leaf in leaves.items()}
        kept = self.momentum**steps
        for name, leaf in leaves.items():
            slow[name].mul_(kept).add_(leaf, alpha=1 - kept)
        if before // self.period == state["gradient_steps"] // self.period:
            return None
        write_(learner, everywhere(leaves), slow, self.moments, "keep")
        return {}


@dataclass(frozen=True)
class ClipWeights:
    """Clips weights to `factor` times the largest absolute initial weight of their layer's kernels.

    Kernels and biases are clipped. Parameters of normalisations and parameters of layers without a kernel are not. The
    state of the optimizer does not change. Apply this intervention at every gradient step, not within `Every`. Each
    step costs one pass over the weights.

    >>> ClipWeights(factor=2.0)
    ClipWeights(factor=2.0)

    Raises ValueError unless the factor is positive.
    Source: Elsayed et al. 2024, "Weight clipping for deep continual and reinforcement learning". They clip
    to the bound of the uniform distribution from which the initial weights are drawn. We use the largest initial
    weight. It is close to this bound, and is known for any initialiser.
    """

    every_step: ClassVar[bool] = True
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be positive, got {self.factor}.")

    def init(self, module: nn.Module) -> State:
        largest: dict[str, float] = {}
        for name, leaf in trained(module).items():
            if leaf.ndim > 1:
                layer = name.rpartition(".")[0]
                largest[layer] = max(largest.get(layer, 0.0), float(leaf.detach().abs().max()))
        # A bias gets the bound of its layer's kernels, because its initial value may be zero.
        layers = {name: name.rpartition(".")[0] for name in trained(module)}
        return {"bounds": {name: self.factor * largest[layer] for name, layer in layers.items() if layer in largest}}

    def check(self, learner: Learner) -> None:
        del learner

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> None:
        del inputs, steps
        leaves = trained(learner.module)
        for name, bound in state["bounds"].items():
            leaves[name].clamp_(-bound, bound)
