"""What the tracer knows of one intermediate value: which neuron, and which parameter entry, each element is."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

Ids = Int[np.ndarray, "..."]
NONE = -1  # the id of an element that is no neuron, or no entry of a parameter


class Part(NamedTuple):
    """A parameter inside a value: for each element, which entry of the flattened parameter it is."""

    leaf: int
    entries: Ids


@dataclass(frozen=True, eq=False)
class Value:
    """One intermediate value of the traced function.

    `neurons` and every part's `entries` have the value's rank; an axis along which they do not change has length 1.
    """

    shape: tuple[int, ...]
    neurons: Ids
    parts: tuple[Part, ...] = ()
    is_kernel: bool = False  # zero where its parameters' entries are zero: may weigh neurons
    from_input: bool = False  # depends on the function's inputs
    mixed: frozenset[int] = frozenset()  # producers that reach it without keeping their neurons apart
    sites: frozenset[int] = frozenset()  # the values at which its neurons' activations are measured
    activated: bool = False  # a non-linearity has been applied
    offset: frozenset[str] = frozenset()  # what made it differ from zero where the activation is zero
    constant: Any = field(default=None, repr=False)  # its elements, where they are known while tracing

    def with_ids(self, shape: tuple[int, ...], neurons: Ids, parts: tuple[Part, ...]) -> "Value":
        return replace(self, shape=shape, neurons=neurons, parts=parts, constant=None)

    @property
    def has_neurons(self) -> bool:
        return bool((self.neurons >= 0).any())

    @property
    def is_zero(self) -> bool:
        return self.constant is not None and not np.any(np.asarray(self.constant))


def plain(shape: tuple[int, ...], **facts: Any) -> Value:
    """A value without neurons or parameters."""
    return Value(shape, no_ids(shape), **facts)


def no_ids(shape: tuple[int, ...]) -> Ids:
    return np.full((1,) * len(shape), NONE)


def numbered(shape: tuple[int, ...]) -> Ids:
    """A different id for each element, in row-major order."""
    return np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)


def narrow(ids: Ids) -> Ids:
    """The same ids with length 1 along every axis on which they do not change."""
    for axis, length in enumerate(ids.shape):
        first = ids.take([0], axis) if length > 1 else ids
        if length > 1 and (ids == first).all():
            ids = first
    return ids


def widen(ids: Ids, shape: tuple[int, ...]) -> Ids:
    return np.broadcast_to(ids, shape)


def varies(ids: Ids, axes: Any) -> bool:
    """Whether ids change along any of the axes."""
    return any(ids.shape[axis] > 1 for axis in axes)
