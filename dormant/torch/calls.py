"""One operation of a pass, and what is said of an operation that has no rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .labels import OTHER, Entries, Label, Neurons, Stages, broken, join

if TYPE_CHECKING:
    from .tracing import Tracer


@dataclass(frozen=True)
class Call:
    """One operation of the pass."""

    func: Any
    name: str
    args: Any
    kwargs: Any
    output: Any

    @property
    def shape(self) -> torch.Size:
        """The shape of its (first) output."""
        return (self.output if isinstance(self.output, Tensor) else self.output[0]).shape


Rule = Callable[["Tracer", Call], Any]


def unknown(tracer: "Tracer", call: Call, reason: str = "") -> Any:
    """Nothing is guessed: the neurons are not recycled if the result is read, and the parameters are named."""
    labels = [(tensor, tracer.label(tensor)) for tensor in tracer.tensors(call.args, call.kwargs)]
    for _, label in labels:
        if isinstance(label, Entries):
            tracer.not_known(label.labels, call.name)
    reason = reason or f"read by aten.{call.name}, which is not known"
    stages = broken(join(label for _, label in labels), reason)
    outputs = call.output if isinstance(call.output, tuple | list) else [call.output]
    if call.name.endswith("_") or not any(isinstance(output, Tensor) for output in outputs):
        # A view of the value may have changed with it, or Python has read it, so nothing that follows is safe.
        tracer.refuse_layers(stages, reason)
    found = [_other(output, stages) if isinstance(output, Tensor) else None for output in outputs]
    return found if isinstance(call.output, tuple | list) else found[0]


def _other(output: Tensor, stages: Stages) -> Label:
    return Neurons(torch.full(output.shape, OTHER), stages) if stages else None
