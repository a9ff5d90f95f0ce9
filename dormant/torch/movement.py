"""Operations that move neurons about, or pool their positions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .calls import Call, Rule, unknown
from .labels import OTHER, ZERO, Entries, Neurons, collapse, join

if TYPE_CHECKING:
    from .tracing import Tracer


def movement(tracer: "Tracer", call: Call) -> Any:
    """Elements go elsewhere unchanged: do the same to their labels."""
    tensors = tracer.tensors(call.args, call.kwargs)
    labels = [tracer.label(tensor) for tensor in tensors]
    entries = all(isinstance(label, Entries) for label in labels)
    if not entries and any(isinstance(label, Entries) for label in labels):
        return unknown(tracer, call, "joined with a parameter")
    moved = _on_labels(tracer, call)
    stages = join(labels)
    wrap = Entries if entries else lambda ids: Neurons(ids, stages)
    return [wrap(ids) for ids in moved] if isinstance(moved, tuple | list) else wrap(moved)


def _on_labels(tracer: "Tracer", call: Call) -> Any:
    def ids(tensor: Tensor) -> Tensor:
        label = tracer.label(tensor)
        return torch.full(tensor.shape, OTHER) if label is None else label.labels

    args, kwargs = tree_map_only(Tensor, ids, (call.args, call.kwargs))
    # The labels of a channels-last tensor lie in memory in another order, which `view` refuses and `reshape` does not.
    return torch.reshape(*args) if call.name in {"view", "_unsafe_view"} else call.func(*args, **kwargs)


def view(tracer: "Tracer", call: Call) -> Any:
    """Another shape; the overload that reads the bytes as another type is not known."""
    return movement(tracer, call) if call.func._overloadname == "default" else unknown(tracer, call)


def indexing(tracer: "Tracer", call: Call) -> Any:
    """Elements picked by positions that no neuron decided."""
    label = tracer.label(call.args[0])
    picked = [tracer.label(tensor) for tensor in tracer.tensors(call.args[1:], call.kwargs)]
    if label is None or any(picked):
        return unknown(tracer, call)
    ids = call.func(label.labels, *call.args[1:], **call.kwargs)
    return Entries(ids) if isinstance(label, Entries) else Neurons(ids, label.stages)


def same(tracer: "Tracer", call: Call) -> Any:
    """A copy, perhaps of another floating type."""
    return tracer.label(call.args[0]) if call.output.is_floating_point() else unknown(tracer, call)


def padding(tracer: "Tracer", call: Call) -> Any:
    """Zeros around; they belong to no neuron and need no care."""
    value = call.args[2] if len(call.args) > 2 else call.kwargs.get("value", 0)
    label = tracer.label(call.args[0])
    if value != 0 or not isinstance(label, Neurons):
        return unknown(tracer, call)
    return Neurons(torch.constant_pad_nd(label.labels, call.args[1], ZERO), label.stages)


def pooling(axes: int) -> Rule:
    """Windows over the last axes, inside one channel."""

    def rule(tracer: "Tracer", call: Call) -> Any:
        label = tracer.label(call.args[0])
        if not isinstance(label, Neurons):
            return unknown(tracer, call)
        ids, several = collapse(label.labels, tuple(range(-axes, 0)))
        if bool(several.any()):
            return unknown(tracer, call, f"pooled together with other neurons by aten.{call.name}")
        return Neurons(ids.expand(call.shape), label.stages)

    return rule


def reduction(tracer: "Tracer", call: Call) -> Any:
    """A mean, sum or maximum; over positions it is pooling, over neurons it mixes them."""
    label = tracer.label(call.args[0])
    if not isinstance(label, Neurons):
        return unknown(tracer, call)
    axes = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    if isinstance(axes, Tensor):
        return unknown(tracer, call)
    axes = tuple(range(label.labels.ndim)) if axes in (None, []) else axes
    ids, several = collapse(label.labels, (axes,) if isinstance(axes, int) else tuple(axes))
    if bool(several.any()):
        return unknown(tracer, call, f"several neurons are mixed by aten.{call.name}")
    return Neurons(ids.reshape(call.shape), label.stages)
