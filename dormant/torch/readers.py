"""Weights that read one layer of neurons and make the next: products, convolutions, biases and scales."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .labels import OTHER, Entries, Label, Neurons, Stage, collapse

if TYPE_CHECKING:
    from .tracing import Tracer

SHARED = "a weight that reads it also reads other values"


def contraction(tracer: "Tracer", value: Label, weight: Entries, shape: torch.Size) -> Neurons:
    """The neurons of `value @ weight`, for matrices `[rows, inputs] @ [inputs, neurons]` or batches of them."""
    ids = value.labels if isinstance(value, Neurons) else torch.full(shape, OTHER)
    x, w = (t if t.ndim == 3 else t[None] for t in (ids, weight.labels))
    inputs = _read(tracer, value, x, (1,)).mT  # [batch, inputs, 1]
    neurons = _members(tracer, w[:, 0, :])[:, None, :]  # [batch, 1, neurons]
    tracer.claim("outgoing", w, inputs)
    tracer.claim("incoming", w, neurons)
    out = neurons.expand(-1, x.shape[1], -1)
    return _fresh(tracer, out if ids.ndim == 3 else out[0])


def _members(tracer: "Tracer", first_entries: Tensor) -> Tensor:
    """One layer for all matrices of a batch if they are the same matrix, else one layer for each (an ensemble)."""
    if bool((first_entries == first_entries[:1]).all()):
        return tracer.produce(first_entries[0]).expand_as(first_entries)
    return torch.stack([tracer.produce(row, f"[{i}]") for i, row in enumerate(first_entries)])


def convolution(
    tracer: "Tracer", value: Label, kernel: Entries, shape: torch.Size, out: torch.Size, transposed: bool, groups: int
) -> Neurons:
    """The neurons of a convolution: its output channels."""
    ids = value.labels if isinstance(value, Neurons) else torch.full(shape, OTHER)
    per_channel = _read(tracer, value, ids, (0, *range(2, ids.ndim))).reshape(groups, 1, -1, 1)
    w = kernel.labels.flatten(2)  # [out, in / groups, positions], or [in, out / groups, positions] if transposed
    w = w.reshape(groups, -1, *w.shape[1:])
    w = w.transpose(1, 2) if transposed else w
    neurons = tracer.produce(w[:, :, 0, 0].flatten())
    tracer.claim("outgoing", w, per_channel)
    tracer.claim("incoming", w, neurons.reshape(groups, -1, 1, 1))
    return _fresh(tracer, neurons.reshape(-1, *[1] * (len(out) - 2)).expand(out))


def _read(tracer: "Tracer", value: Label, ids: Tensor, axes: tuple[int, ...]) -> Tensor:
    """What a weight reads that slides along these axes."""
    inputs, several = collapse(ids, axes)
    if bool(several.any()):
        tracer.refuse(ids[several.expand_as(ids)], SHARED)
    if isinstance(value, Neurons):
        tracer.read(value.stages)
    return inputs


def _fresh(tracer: "Tracer", ids: Tensor) -> Neurons:
    points = frozenset([tracer.step])
    return Neurons(ids, {layer: Stage(points) for layer in tracer.layers_of(ids)})


def add_parameter(tracer: "Tracer", entries: Entries, ids: Tensor) -> None:
    """A bias or a scale: each entry belongs to the neuron it meets, or to none if it meets several."""
    met, ids = torch.broadcast_tensors(entries.labels, ids)
    first = int(entries.labels.min())
    met = met - first
    owner = torch.full((int(met.max()) + 1,), OTHER)
    owner[met] = ids  # any one of those it meets
    differs = torch.zeros_like(owner, dtype=torch.bool)
    differs[met[owner[met] != ids]] = True
    owner[differs] = OTHER
    tracer.claim("incoming", entries.labels, owner[entries.labels - first])
    # It is no reader of neurons, so it may not be zeroed as one.
    tracer.claim("outgoing", entries.labels, torch.tensor(OTHER))


def per_channel(entries: Entries, ndim: int) -> Entries:
    """The parameter of a channel, where channels are axis 1."""
    return Entries(entries.labels.reshape(-1, *[1] * (ndim - 2)))
