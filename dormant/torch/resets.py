"""Interventions on whole tensors: `Reset`, `SWR`, `ShrinkPerturb`, `ResetOptimizer`, `HareTortoise`, `ClipWeights`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..settings import (
    FRACTION,
    POSITIVE,
    added,
    check_hare,
    check_layers,
    check_moments,
    check_number,
    check_reset_optimizer,
    check_swr,
    one_of,
)
from .execution import plain, plain_name
from .measuring import first_moments
from .optimizers import check_held
from .recycling import Learner, fresh_values, same_on_every_process, write_
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
        check_layers(self.layers)
        check_moments(self.moments, self.step_count)

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
class SWR:
    """Replaces single weights of low utility by fresh weights (selective weight reinitialisation).

    The weights are chosen separately in each parameter tensor.

    - `utility`: "gradient" is |gradient * weight|, with the running average of the gradient in the optimizer's state.
      "magnitude" is |weight|.
    - `choice`: "threshold" replaces all weights whose utility is at most `factor` times the mean utility of the tensor.
      "proportional" replaces the fraction `factor` of the weights with the lowest utilities.
    - `moments`: "keep" does not change the optimizer's state of these weights. "fresh" resets it.

    Frozen tensors, and tensors whose utilities are all 0, do not change. Put this intervention within `Every`.

    >>> SWR(factor=1e-4)
    SWR(utility='gradient', choice='threshold', factor=0.0001, moments='keep')

    Raises ValueError for an unknown option or a factor outside its range. When it acts, raises ValueError for
    "gradient" if the optimizer keeps no average of the gradient.
    Source: Hernandez-Garcia et al. 2025, "Reinitializing weights vs units for maintaining plasticity in neural
    networks"; src/swr_functions at JFernando4/collas_2025_swr_paper 5c8ef03. They use the gradient of the last batch.
    If all utilities are 0, they replace all weights.
    """

    utility: Literal["gradient", "magnitude"] = "gradient"
    choice: Literal["threshold", "proportional"] = "threshold"
    factor: float = 5e-4
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        check_swr(self.utility, self.choice, self.factor, self.moments)

    def init(self, module: nn.Module) -> State:
        del module
        return {}

    def check(self, learner: Learner) -> None:
        check_held(learner.optimizers, trained(learner.module))

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del state, inputs, steps
        leaves = trained(learner.module)
        slopes = first_moments(learner.module, learner.optimizers, leaves) if self.utility == "gradient" else {}
        known = leaves if self.utility == "magnitude" else {name: leaves[name] for name in slopes}
        masks = {
            name: self.chosen((leaf * slopes[name].to(leaf) if name in slopes else leaf).abs())
            for name, leaf in known.items()
        }
        same_on_every_process(learner.module, masks.values())
        hit = {name: mask for name, mask in masks.items() if bool(mask.any())}
        fresh = fresh_values(plain(learner.module), {name: leaves[name] for name in hit}, learner.init)
        write_(learner, hit, fresh, self.moments, "keep")
        return {}

    def chosen(self, utility: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """Returns a mask of the weights to replace, given the utilities of the weights in one tensor.

        >>> utility = torch.tensor([0.05, 0.02, 0.0, 0.3])
        >>> SWR(factor=0.3).chosen(utility).tolist()  # at most 0.3 * 0.0925
        [False, True, True, False]
        """
        mean = utility.mean()
        if self.choice == "threshold":
            return (utility <= self.factor * mean) & (mean > 0)
        whole, rest = divmod(self.factor * utility.numel(), 1.0)
        # The number is factor * size on average. A fraction of a weight is rounded up or down at random.
        number = int(whole) + int(torch.rand(1).item() < rest)
        mask = torch.zeros_like(utility, dtype=torch.bool).flatten()
        mask[utility.flatten().argsort(stable=True)[:number]] = True
        return mask.reshape(utility.shape) & (mean > 0)


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
        check_number("keep", self.keep, FRACTION, "1 keeps all weights, 0 replaces all")
        check_moments(self.moments)

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
        check_reset_optimizer(self.moments, self.step_count)

    def init(self, module: nn.Module) -> State:
        del module
        return {}

    def check(self, learner: Learner) -> None:
        if not learner.optimizers:
            raise ValueError("ResetOptimizer needs the optimizer: write with_intervention(module, optimizer, ...).")
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
        check_hare(self.momentum, self.period, self.moments)

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
    """Clips kernels and biases to `factor` times a bound that is computed when training starts.

    - `bound`: "initial" is the largest absolute initial weight in the kernels of the layer. "fan_in" is the authors'
      bound, 1 / sqrt(inputs per neuron) of the kernel. A bias gets the largest bound of its layer's kernels.

    Parameters of normalisations and parameters of layers without a kernel are not clipped. The
    state of the optimizer does not change. Apply this intervention at every gradient step, not within `Every`. Each
    step costs one pass over the weights.

    >>> ClipWeights(factor=2.0)
    ClipWeights(factor=2.0, bound='initial')

    Raises ValueError for an unknown bound, or unless the factor is positive.
    Source: Elsayed et al. 2024, "Weight clipping for deep continual and reinforcement learning";
    core/optim/weight_clipping.py at mohmdelsayed/weight-clipping 0d3db49, with `factor` 3 for PPO. Their bound is the
    range of PyTorch's default initialiser, even if the network uses another initialiser. "initial" fits every
    initialiser.
    """

    every_step: ClassVar[bool] = True
    factor: float = 2.0
    bound: Literal["initial", "fan_in"] = added("initial")

    def __post_init__(self) -> None:
        check_number("factor", self.factor, POSITIVE)
        one_of("bound", self.bound, ("initial", "fan_in"))

    def init(self, module: nn.Module) -> State:
        largest: dict[str, float] = {}
        for name, leaf in trained(module).items():
            if leaf.ndim > 1:
                layer = name.rpartition(".")[0]
                largest[layer] = max(largest.get(layer, 0.0), self._unscaled(leaf))
        # A bias gets the bound of its layer's kernels, because its own initial value may be zero.
        layers = {name: name.rpartition(".")[0] for name in trained(module)}
        bounds = {name: self.factor * largest[layer] for name, layer in layers.items() if layer in largest}
        own = {name: leaf for name, leaf in trained(module).items() if leaf.ndim > 1 and self.bound == "fan_in"}
        return {"bounds": bounds | {name: self.factor * self._unscaled(leaf) for name, leaf in own.items()}}

    def _unscaled(self, kernel: Tensor) -> float:
        if self.bound == "initial":
            return float(kernel.detach().abs().max())
        return 1 / math.sqrt(math.prod(kernel.shape[1:]))

    def check(self, learner: Learner) -> None:
        del learner

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> None:
        del inputs, steps
        leaves = trained(learner.module)
        for name, bound in state["bounds"].items():
            leaves[name].clamp_(-bound, bound)
