"""What the tracer knows of a tensor: which neuron, and which parameter entries, each of its elements is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..reasons import Reason

OTHER = -1  # an element that belongs to no neuron: an input, or something computed from several neurons
ZERO = -2  # an element that is always zero


@dataclass(frozen=True)
class Stage:
    """How far a layer's values have come on their way to a reader.

    - `points`: the operations whose outputs are the layer's activations.
    - `active`: a nonlinearity has been applied.
    - `offset`: what has since made a silent neuron's value other than zero; a further nonlinearity heals it.
    - `broken`: why the neurons can't be recycled if this value is read. No element says which neuron it is any more.
    - `statistic`: the reduction over neurons that broke it, so that a normalisation by it is only a coupling.
    """

    points: frozenset[int]
    active: bool = False
    offset: Reason | None = None
    broken: Reason | None = None
    statistic: str | None = None
    coupled_by: frozenset[str] = frozenset()


Stages = Mapping[int, Stage]


@dataclass(frozen=True, eq=False)
class Part:
    """Parameter entries inside a value: for each element the number of an entry, or -1.

    An element is zero if all its entries that `silence` it are zero. `constant` says that they are a buffer's.
    """

    entries: Tensor
    silences: bool = True
    constant: bool = False


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of one tensor. All index tensors have its shape (stretched where they do not change).

    `neurons` is None if no element is a neuron. `unfollowed` maps parameters that went into the value by a way that is
    not followed to the operation that took them. `varies` says that it depends on the inputs or on random numbers.
    """

    neurons: Tensor | None = None
    stages: Stages = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    unfollowed: Mapping[str, str] = field(default_factory=dict)
    from_input: bool = False
    varies: bool = False

    @property
    def has_parameters(self) -> bool:
        return bool(self.parts or self.unfollowed)

    @property
    def carried(self) -> dict[int, Stage]:
        """The layers whose neurons can still be told apart here."""
        return {layer: stage for layer, stage in self.stages.items() if not stage.broken}

    @property
    def is_kernel(self) -> bool:
        """Whether it is made of parameters alone, so that it may weigh neurons."""
        return self.has_parameters and not self.from_input and not self.stages

    @property
    def is_zero(self) -> bool:
        return not self.stages and self.neurons is not None and bool((lean(self.neurons) == ZERO).all())


NOTHING = Value()


def join(values: Iterable[Value], meets: bool = False) -> dict[int, Stage]:
    """The stages of a value made from all of these; `meets` says that they meet element by element."""
    joined: dict[int, Stage] = {}
    for value in values:
        for layer, stage in value.stages.items():
            joined[layer] = _both(joined[layer], stage, meets) if layer in joined else stage
    return joined


def _both(a: Stage, b: Stage, meets: bool) -> Stage:
    coupled = a.coupled_by | b.coupled_by
    if meets and bool(a.broken) != bool(b.broken):
        lost, kept = (a, b) if a.broken else (b, a)
        if lost.statistic:  # a normalisation
            return replace(kept, coupled_by=coupled | {lost.statistic})
    return Stage(
        a.points | b.points,
        a.active or b.active,
        a.offset or b.offset,
        a.broken or b.broken,
        a.statistic if b.statistic else None,
        coupled,
    )


def together(values: Iterable[Value]) -> Value:
    """What is known of a value that depends on all of these, apart from its elements."""
    values = list(values)
    unfollowed = {name: how for value in values for name, how in value.unfollowed.items()}
    return Value(
        None,
        join(values),
        (),
        unfollowed,
        any(value.from_input for value in values),
        any(value.varies for value in values),
    )


def after_nonlinearity(stages: Stages, step: int) -> dict[int, Stage]:
    """The activation is what this operation gives."""

    def move(stage: Stage) -> Stage:
        if stage.broken:
            return stage
        return replace(stage, points=frozenset([step]), active=True, offset=None)

    return {layer: move(stage) for layer, stage in stages.items()}


def after_affine(stages: Stages, step: int, offset: Reason | None = None) -> dict[int, Stage]:
    """Scaled or (with `offset`) moved; before the nonlinearity this is part of the pre-activation."""

    def move(stage: Stage) -> Stage:
        if stage.broken:
            return stage
        if stage.active:
            return replace(stage, offset=stage.offset or offset)
        return replace(stage, points=frozenset([step]))

    return {layer: move(stage) for layer, stage in stages.items()}


def after_extremum(stages: Stages, step: int) -> dict[int, Stage]:
    """A maximum over positions keeps an activation, and is one itself if there was none."""
    waiting = {layer: stage for layer, stage in stages.items() if not stage.active}
    return {**stages, **after_nonlinearity(waiting, step)}


def coupled(stages: Stages, by: str) -> dict[int, Stage]:
    """The neurons influence one another through a normalisation."""
    return {layer: replace(stage, coupled_by=stage.coupled_by | {by}) for layer, stage in stages.items()}


def broken(stages: Stages, reason: Reason, statistic: str | None = None) -> dict[int, Stage]:
    """Not to be recycled if read from here on."""

    def lose(stage: Stage) -> Stage:
        return replace(stage, broken=stage.broken or reason, statistic=None if stage.broken else statistic)

    return {layer: lose(stage) for layer, stage in stages.items()}


def collapse(labels: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The one label along these axes (kept with size 1), and where there is more than one; zeros are ignored.

    >>> collapse(torch.tensor([[3, 4], [3, ZERO]]), (0,))[0].tolist()
    [[3, 4]]
    """
    if not axes:
        return labels, torch.zeros_like(labels, dtype=torch.bool)
    for axis in axes:
        labels = labels.narrow(axis, 0, 1) if labels.stride(axis) == 0 and labels.shape[axis] else labels
    largest = torch.iinfo(labels.dtype).max
    low = torch.where(labels == ZERO, largest, labels).amin(axes, keepdim=True)
    high = labels.amax(axes, keepdim=True)
    several = (low != high) & (low != largest)
    return torch.where(several, OTHER, high), several


def lean(labels: Tensor, *more: Tensor) -> Tensor:
    """The labels with size 1 along every axis that they (and `more` of the same shape) are only stretched over."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1 and not any(other.stride(axis) for other in (labels, *more)):
            labels = labels.narrow(axis, 0, 1)
    return labels


def compact(labels: Tensor) -> Tensor:
    """The labels with size 1 along every axis on which they do not change."""
    for axis, length in enumerate(labels.shape):
        if length > 1:
            first, second = labels.narrow(axis, 0, 1), labels.narrow(axis, 1, 1)
            labels = first if torch.equal(first, second) and bool((labels == first).all()) else labels
    return labels.clone()
