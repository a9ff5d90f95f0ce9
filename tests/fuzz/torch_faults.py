"""Faults of the PyTorch tracer. Each fault is a wrong function that replaces a function of the tracer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CodeFault:
    """A fault: its description, the function that it replaces, and the wrong function."""

    text: str
    module: str
    function: str  # a name in the module, or `Class.method`
    wrong: Callable[..., Any]


TORCH_FAULTS = {
    "mixed neurons are added": CodeFault(
        "A layer is recycled although values with mixed neurons are added to it.",
        "dormant.torch.rules.arithmetic",
        "_foreign",
        lambda notes, values, found: "",
    ),
    "branches are not looked for": CodeFault(
        "Python branches that depend on values are ignored.",
        "dormant.torch.tracing",
        "branches",
        lambda first, again: [],
    ),
    "buffers are overwritten": CodeFault(
        "A layer is recycled although a buffer or a frozen weight feeds or reads it.",
        "dormant.torch.layers",
        "Group._untrained",
        lambda self, verb, name, owners: None,
    ),
    "writes in place are not seen": CodeFault(
        "In-place writes are ignored.",
        "dormant.torch.tracing",
        "_written",
        lambda func, args, kwargs: [],
    ),
    "training mode wakes nobody": CodeFault(
        "A neuron that is silent in evaluation mode is recycled although it is active in training mode.",
        "dormant.torch.recycling",
        "_dormant_in_all_runs",
        lambda module, wiring, inputs, masks, tau: masks,
    ),
    "moments are kept": CodeFault(
        "The optimizer keeps the moments of recycled weights.",
        "dormant.torch.recycling",
        "forget_",
        lambda optimizers, leaf, entries, restart: None,
    ),
}
