"""`Value`: what the tracer knows about a tensor, such as the neuron and the parameter entries of each element.

All neurons of a module are numbered, and so are all entries of all parameters.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..reasons import Reason

OTHER = -1  # an element that does not belong to one neuron, such as an input or a mix of several neurons
ZERO = -2  # an element that is always zero


@dataclass(frozen=True)
class Stage:
    """What has happened to the neurons of a layer between their kernel and a value.

    - `points`: the operations whose outputs are the layer's activations.
    - `active`: True if the neurons have passed a nonlinearity.
    - `offset`: the reason why silent neurons are no longer zero. The next nonlinearity clears it.
    - `broken`: the reason why the layer can't be recycled if a weight reads the value. The value mixes its neurons.
    - `statistic`: the reduction over neurons, such as a mean, that set `broken`. If the neurons are normalised by this
      statistic, they are only coupled.
    - `coupled_by`: the normalisations through which the neurons influence one another.
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
    """Parameter entries in a value. `entries` holds, for each element of the value, the index of an entry, or -1.

    A value may have several parts. An element of the value is zero if its entries are zero in all parts whose
    `silences` is True. `constant` is True if the entries belong to a buffer.
    """

    entries: Tensor
    silences: bool = True
    constant: bool = False


@dataclass(frozen=True, eq=False)
class Value:
    """What the tracer knows about a tensor.

    - `neurons`: the neuron of each element, or None if no element belongs to a neuron. It has the shape of the tensor,
      and is expanded along axes on which it is constant. The same holds for the entries of `parts`.
    - `stages`: the layers whose neurons are in the tensor, each with its stage.
    - `parts`: the parameter entries in the tensor.
    - `unfollowed`: the parameters whose entries are no longer followed, each with the operation that used them.
    - `from_input`: True if the tensor depends on the module's inputs.
    - `varies`: True if the elements depend on inputs or on random numbers.
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
        """The stages of the layers whose neurons are not mixed in this value."""
        return {layer: stage for layer, stage in self.stages.items() if not stage.broken}

    @property
    def is_kernel(self) -> bool:
        """Whether the value can be a kernel: it depends on parameters, but not on inputs or neurons."""
        return self.has_parameters and not self.from_input and not self.stages

    @property
    def is_zero(self) -> bool:
        return not self.stages and self.neurons is not None and bool((lean(self.neurons) == ZERO).all())


NOTHING = Value()


def join(values: Iterable[Value], meets: bool = False) -> dict[int, Stage]:
    """Returns the stages of the result of an operation on these values. For elementwise operations, `meets` is True."""
    joined: dict[int, Stage] = {}
    for value in values:
        for layer, stage in value.stages.items():
            joined[layer] = _both(joined[layer], stage, meets) if layer in joined else stage
    return joined


def _both(a: Stage, b: Stage, meets: bool) -> Stage:
    coupled = a.coupled_by | b.coupled_by
    if meets and bool(a.broken) != bool(b.broken):
        lost, kept = (a, b) if a.broken else (b, a)
        if lost.statistic:  # the neurons are combined with their own statistic, as in a normalisation
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
    """Returns a value that depends on all of these values. Its elements have no known neurons or entries."""
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
    """Returns the stages after a nonlinearity. The output of operation `step` is the activation."""

    def move(stage: Stage) -> Stage:
        if stage.broken:
            return stage
        return replace(stage, points=frozenset([step]), active=True, offset=None)

    return {layer: move(stage) for layer, stage in stages.items()}


def after_affine(stages: Stages, step: int, offset: Reason | None = None) -> dict[int, Stage]:
    """Returns the stages after a scaling. If `offset` is given, they are the stages after a shift.

    Before the nonlinearity, a scaling or a shift is part of the pre-activation. After it, a shift makes silent neurons
    nonzero, for the reason `offset`.
    """

    def move(stage: Stage) -> Stage:
        if stage.broken:
            return stage
        if stage.active:
            return replace(stage, offset=stage.offset or offset)
        return replace(stage, points=frozenset([step]))

    return {layer: move(stage) for layer, stage in stages.items()}


def after_extremum(stages: Stages, step: int) -> dict[int, Stage]:
    """Returns the stages after a maximum over positions, which is a nonlinearity for layers that have had none."""
    waiting = {layer: stage for layer, stage in stages.items() if not stage.active}
    return {**stages, **after_nonlinearity(waiting, step)}


def coupled(stages: Stages, by: str) -> dict[int, Stage]:
    """Returns the stages after a normalisation through which the neurons influence one another."""
    return {layer: replace(stage, coupled_by=stage.coupled_by | {by}) for layer, stage in stages.items()}


def broken(stages: Stages, reason: Reason, statistic: str | None = None) -> dict[int, Stage]:
    """Returns the stages after an operation that mixes neurons, with `broken` set to `reason`."""

    def lose(stage: Stage) -> Stage:
        return replace(stage, broken=stage.broken or reason, statistic=None if stage.broken else statistic)

    return {layer: lose(stage) for layer, stage in stages.items()}


def collapse(labels: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Reduces labels along some axes. Returns the reduced labels, and a mask that is True where labels differ.

    A label is the number of a neuron, `OTHER` or `ZERO`. The reduced axes have length 1. If all labels along the axes
    are equal, the result is this label. If they differ, it is `OTHER`. `ZERO` is ignored.

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
    """Returns the labels with length 1 along each axis on which they are expanded.

    If `more` is given, all of these tensors must be expanded on the axis, too. They have the shape of the labels.
    """
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1 and not any(other.stride(axis) for other in (labels, *more)):
            labels = labels.narrow(axis, 0, 1)
    return labels


def compact(labels: Tensor) -> Tensor:
    """Returns the labels with length 1 along each axis on which they are constant."""
    for axis, length in enumerate(labels.shape):
        if length > 1:
            first, second = labels.narrow(axis, 0, 1), labels.narrow(axis, 1, 1)
            labels = first if torch.equal(first, second) and bool((labels == first).all()) else labels
    return labels.clone()
