"""Interventions that project kernels: `FIRE` makes their singular values equal, `NaP` restores their initial norms."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..settings import check_fire, check_flag
from .execution import plain
from .optimizers import check_held
from .recycling import Learner, fresh_values, write_
from .resets import everywhere as every_entry
from .resets import owner, trained
from .schedule import Counts, Inputs, State


@dataclass(frozen=True)
class FIRE:
    """Replaces each kernel by a kernel near it whose singular values are equal. Use it once, when the data changes.

    A dense kernel gets singular values near sqrt(outputs / inputs). Each position of a convolution's window is a kernel
    of its own, with singular values near sqrt(outputs / inputs) / positions. Biases, normalisations and frozen
    parameters do not change.

    - `iterations`: steps of the Newton-Schulz iteration. A step multiplies a small singular value by at most 1.5, so
      ten steps do not repair a kernel whose singular values differ by more than a factor of about 50.
    - `heads`: "project" output layers like all other layers, "keep" them, or initialise them again ("fresh").
    - `moments`: "keep" does not change the optimizer's state of these kernels. "fresh" resets it.

    >>> FIRE(heads="keep")
    FIRE(iterations=10, heads='keep', moments='keep')

    Raises ValueError for an unknown option or less than 1 iteration.
    Source: Han et al. 2026, "FIRE: Frobenius-isometry reinitialization"; vision/interventions/fire.py at isaac7778/FIRE
    c37a0ac. Their DQN sets all dense layers to their saved initial weights, and their SAC resets the optimizers. Their
    DQN and SAC also change the target network. We do not. The first two axes of a kernel are its outputs and inputs, as
    in `nn.Linear` and `nn.Conv2d`.
    """

    iterations: int = 10
    heads: Literal["project", "keep", "fresh"] = "project"
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        check_fire(self.iterations, self.heads, self.moments)

    def init(self, module: nn.Module) -> State:
        del module
        return {}

    def check(self, learner: Learner) -> None:
        check_held(learner.optimizers, trained(learner.module))

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del state, inputs, steps
        leaves = trained(learner.module)
        heads = {name for name in leaves if owner(name, learner.wiring.outputs)} if self.heads != "project" else set()
        new = {
            name: isometric(leaf, self.iterations)
            for name, leaf in leaves.items()
            if leaf.ndim > 1 and name not in heads
        }
        if self.heads == "fresh":
            new |= fresh_values(plain(learner.module), {name: leaves[name] for name in heads}, learner.init)
        write_(learner, every_entry({name: leaves[name] for name in new}), new, self.moments, "keep")
        return {}


def isometric(kernel: Float[Tensor, "outputs inputs *window"], iterations: int = 10) -> Float[Tensor, "..."]:
    """Returns a kernel with the singular vectors of `kernel` and nearly equal singular values, as in `FIRE`.

    >>> isometric(torch.diag(torch.tensor([3.0, 4.0]))).round(decimals=3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    outputs, inputs, *window = kernel.shape
    matrix = kernel.flatten(2).movedim(2, 0) if window else kernel[None]
    matrix = matrix.mT if outputs < inputs else matrix  # this way, the Gram matrix below is smaller
    norm = matrix.square().sum((-2, -1), keepdim=True).sqrt()
    near = matrix / torch.where(norm > 0, norm, 1.0)
    for _ in range(iterations):
        near = 1.5 * near - 0.5 * near @ (near.mT @ near)
    near = math.sqrt(outputs / inputs) / math.prod(window) * (near.mT if outputs < inputs else near)
    return near.movedim(0, 2).reshape(kernel.shape) if window else near[0]


@dataclass(frozen=True)
class NaP:
    """Scales hidden kernels back to their initial norms (normalise and project).

    By default, it scales the kernels of layers that have a normalisation before their activation. This does not change
    what the network computes, and keeps the effective learning rate constant. With `everywhere`, it scales all hidden
    kernels. Output layers, biases, normalisations, frozen parameters and the optimizer's state do not change. Each call
    costs one pass over the weights. Put it within `Every`. The paper projects at every gradient step or at every
    1,000th.

    >>> NaP()
    NaP(everywhere=False)

    When training starts, raises ValueError if no hidden layer is normalised and `everywhere` is false.
    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning". There is no
    official code, and we took the equation from a summary of the paper by others. The authors also remove biases before
    a normalisation, and project or decay its scales and offsets. We do not.
    """

    everywhere: bool = False

    def __post_init__(self) -> None:
        check_flag("everywhere", self.everywhere)

    def init(self, module: nn.Module) -> State:
        kernels = {name: leaf for name, leaf in trained(module).items() if leaf.ndim > 1}
        return {"norms": {name: float(leaf.detach().norm()) for name, leaf in kernels.items()}}

    def check(self, learner: Learner) -> None:
        if not self._fed(learner):
            raise ValueError(
                "NaP needs a module that normalises its hidden layers, and found no such layer; add a LayerNorm before "
                "each activation, or project all hidden kernels with NaP(everywhere=True)."
            )

    def _fed(self, learner: Learner) -> dict[str, Tensor]:
        """Returns the kernels to project."""
        leaves = trained(learner.module)
        hidden = [layer for layer in learner.wiring.layers if self.everywhere or layer.coupled_by]
        fed = dict.fromkeys(name for layer in hidden for name in layer.incoming)
        return {name: leaves[name] for name in fed if name in leaves and leaves[name].ndim > 1}

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del inputs, steps
        for name, leaf in self._fed(learner).items():
            norm = leaf.norm()
            leaf.mul_(torch.where(norm > 0, state["norms"][name] / norm, 1.0))
        return {}
