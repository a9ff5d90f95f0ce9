"""Finds the parameters that the gradients of a module's outputs reach."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .execution import Operations, plain_name


class Gradients(Operations):
    """Finds the parameters that no gradient of the outputs reaches, for example because the module detaches them.

    Searches the autograd graph. A custom `torch.autograd.Function` may return no gradient. If the graph contains one,
    also runs a backward pass, which calls the user's hooks.
    """

    gradients = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.parameters = {plain_name(name): leaf for name, leaf in module.named_parameters() if leaf.requires_grad}
        self.missed: list[str] = []
        self.unknown = ""  # why the gradients are not known

    def finish(self, outputs: Sequence[Tensor]) -> None:
        tracked = [output for output in outputs if output.requires_grad]
        if not tracked or not self.parameters:  # the module runs without gradients on purpose
            return
        reached, own = _leaves_of(tracked)
        self.missed = [name for name, leaf in self.parameters.items() if id(leaf) not in reached]
        if any("CheckpointFunction" in name for name in own):
            self.unknown = "gradients are not followed through torch.utils.checkpoint: pass use_reentrant=False"
        elif own:
            self._ask(tracked, own)

    def _ask(self, outputs: Sequence[Tensor], own: Sequence[str]) -> None:
        total = torch.stack([output.abs().sum().double().cpu() for output in outputs]).sum()
        leaves = list(self.parameters.values())
        try:
            found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
        except Exception as error:
            self.unknown = f"the backward pass of {own[0]} raises {type(error).__name__}: {str(error)[:80]}"
            self.missed = list(self.parameters)
        else:
            self.missed = [name for name, gradient in zip(self.parameters, found, strict=True) if gradient is None]


def _leaves_of(outputs: Sequence[Tensor]) -> tuple[set[int], list[str]]:
    """Returns the ids of the leaves in the graph of these tensors, and the names of its custom autograd functions."""
    leaves = {id(output) for output in outputs if output.grad_fn is None}
    own: dict[str, None] = {}
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if type(node).__name__ == "AccumulateGrad":
            leaves.add(id(getattr(node, "variable")))  # noqa: B009
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not node.name().startswith("BackwardHook"):
            own[type(node).__name__.removesuffix("Backward")] = None
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting += following
    return leaves, list(own)
