"""What the tracer knows of one intermediate value: which neuron, and which parameter entry, each element is."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int

from ..reasons import Reason

Ids = Int[np.ndarray, "..."]
Shapes = Sequence[tuple[int, ...]]
Why = frozenset[tuple[int, Reason]]  # producers, each with a reason
Met = tuple[int, bytes]  # a parameter and which of its entries; without entries, they are not followed
SETS = "mixed", "hidden", "chosen", "offset", "shared", "met"  # the fields of a value that are sets
NOT_FOLLOWED = b""  # in place of a parameter's entries
NONE = -1  # the id of an element that is no neuron, or no entry of a parameter


class Part(NamedTuple):
    """A parameter inside a value: for each element, which entry of the flattened parameter it is."""

    leaf: int
    entries: Ids


@dataclass(frozen=True, eq=False)
class Value:
    """One intermediate value of the traced function.

    `neurons`, `sites` and every part's `entries` have the value's rank; an axis along which they do not change has
    length 1. `sites` holds, for each element that is a neuron, the number of the value at which its activation is
    measured, or NONE before any non-linearity: such an element is measured where it is read.
    """

    shape: tuple[int, ...]
    neurons: Ids
    sites: Ids
    parts: tuple[Part, ...] = ()
    is_kernel: bool = False  # zero where its parameters' entries are zero: may weigh neurons
    from_input: bool = False  # depends on the function's inputs
    mixed: frozenset[int] = frozenset()  # producers that reach it without keeping their neurons apart
    hidden: frozenset[tuple[int, str]] = frozenset()  # parameters whose entries are not followed, and where they went
    chosen: frozenset[int] = frozenset()  # parameters of which an index that is not known chooses a part
    offset: Why = frozenset()  # what made a neuron differ from zero where its activation is zero
    shared: Why = frozenset()  # what feeds a neuron and can't be redrawn with it
    met: frozenset[Met] = frozenset()  # the parameters that its neurons have met since they began
    constant: "Constant | None" = field(default=None, repr=False)  # its elements, where they are known while tracing

    def moved(self, shape: tuple[int, ...], change: Callable[[Ids], Ids]) -> "Value":
        """The value after a step that only moves elements: `change` moves an array of ids."""
        parts = tuple(Part(leaf, change(entries)) for leaf, entries in self.parts)
        ids = {"neurons": change(self.neurons), "sites": change(self.sites)}
        return replace(self, shape=shape, parts=parts, constant=None, **ids)

    @property
    def has_neurons(self) -> bool:
        return bool((self.neurons >= 0).any())

    @property
    def is_activated(self) -> bool:
        """Whether a non-linearity has been applied to some of its neurons."""
        return bool((self.sites >= 0).any())

    @property
    def is_zero(self) -> bool:
        return self.constant is not None and not np.any(np.asarray(self.constant.value))

    @property
    def arrays(self) -> list[Ids]:
        """All of its ids: neurons, sites and entries of parameters."""
        return [self.neurons, self.sites, *(part.entries for part in self.parts)]


class Constant:
    """Elements that can be known while tracing, worked out when they are first asked for: noise never is."""

    def __init__(self, compute: Callable[[], Any], depth: int = 0) -> None:
        self._compute, self.depth = compute, depth

    @functools.cached_property
    def value(self) -> Any:
        """The elements, as an array."""
        return self._compute()


def plain(shape: tuple[int, ...], **facts: Any) -> Value:
    """A value without neurons or parameters."""
    return Value(shape, no_ids(shape), no_ids(shape), **facts)


def union(values: Iterable[Value], name: str) -> frozenset[Any]:
    """One of the sets of several values, joined."""
    return frozenset().union(*(getattr(value, name) for value in values))


def side_by_side(values: Sequence[Value]) -> dict[str, Any]:
    """The sets of a value that is put together from others. What only some of its neurons have met is marked."""
    sets = {name: union(values, name) for name in SETS}
    met = [value.met for value in values if value.has_neurons] or [frozenset()]
    common = frozenset.intersection(*met)
    some = {(leaf, entries and b"some" + entries) for leaf, entries in sets["met"] - common}
    return {**sets, "met": common | some}


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


def varies(ids: Ids, axes: Iterable[SupportsIndex]) -> bool:
    """Whether ids change along any of the axes."""
    return any(ids.shape[axis] > 1 for axis in axes)
