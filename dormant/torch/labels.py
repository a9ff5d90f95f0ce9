"""What the tracer knows of a tensor: which parameter entries, or which neurons, its elements are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

OTHER = -1  # an element that belongs to no neuron: an input, or something computed from several neurons
ZERO = -2  # a zero that padding put there


@dataclass(frozen=True)
class Stage:
    """How far a layer's values have come on their way to a reader.

    `points` are the operations whose outputs are the layer's activations. `active` says that a nonlinearity has been
    passed.
    `offset` names what has since made a silent neuron's value other than zero; a further nonlinearity heals it.
    `broken` says why the neurons cannot be recycled if this value is read; nothing heals it.
    """

    points: frozenset[int]
    active: bool = False
    offset: str | None = None
    broken: str | None = None
    coupled_by: frozenset[str] = frozenset()


Stages = Mapping[int, Stage]


@dataclass(frozen=True, eq=False)
class Entries:
    """A parameter, or a part of it in any arrangement: each element's number among all parameters' entries."""

    labels: Tensor


@dataclass(frozen=True, eq=False)
class Neurons:
    """A value computed from neurons: each element's neuron, and the stage of every layer that went into it."""

    labels: Tensor
    stages: Stages


Label = Entries | Neurons | None


def join(labels: Iterable[Label]) -> dict[int, Stage]:
    """The stages of a value made from all of these."""
    joined: dict[int, Stage] = {}
    for label in labels:
        for layer, stage in label.stages.items() if isinstance(label, Neurons) else ():
            joined[layer] = _both(joined[layer], stage) if layer in joined else stage
    return joined


def _both(a: Stage, b: Stage) -> Stage:
    points, coupled = a.points | b.points, a.coupled_by | b.coupled_by
    return Stage(points, a.active and b.active, a.offset or b.offset, a.broken or b.broken, coupled)


def after_nonlinearity(stages: Stages, step: int) -> dict[int, Stage]:
    """The activation is what this operation gives."""

    def move(stage: Stage) -> Stage:
        return stage if stage.broken else replace(stage, points=frozenset([step]), active=True, offset=None)

    return {layer: move(stage) for layer, stage in stages.items()}


def after_affine(
    stages: Stages, step: int, offset: str | None = None, coupled_by: str | None = None
) -> dict[int, Stage]:
    """Scaled or (with `offset`) moved; before the nonlinearity this is part of the pre-activation."""
    coupling = frozenset([coupled_by] if coupled_by else [])

    def move(stage: Stage) -> Stage:
        stage = replace(stage, coupled_by=stage.coupled_by | coupling)
        if stage.broken:
            return stage
        return (
            replace(stage, offset=stage.offset or offset) if stage.active else replace(stage, points=frozenset([step]))
        )

    return {layer: move(stage) for layer, stage in stages.items()}


def broken(stages: Stages, reason: str) -> dict[int, Stage]:
    """Not to be recycled if read from here on."""
    return {layer: replace(stage, broken=stage.broken or reason) for layer, stage in stages.items()}


def collapse(labels: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The one label along these axes (kept with size 1), and where there is more than one; padding zeros do not count.

    >>> collapse(torch.tensor([[3, 4], [3, ZERO]]), (0,))[0].tolist()
    [[3, 4]]
    """
    largest = torch.iinfo(labels.dtype).max
    low = torch.where(labels == ZERO, largest, labels).amin(axes, keepdim=True)
    high = labels.amax(axes, keepdim=True)
    several = (low != high) & (low != largest)
    return torch.where(several, OTHER, high), several


def compact(labels: Tensor) -> Tensor:
    """The labels with size 1 along every axis on which they do not change."""
    for axis in range(labels.ndim):
        first = labels.narrow(axis, 0, 1)
        labels = first if bool((labels == first).all()) else labels
    return labels.clone()
