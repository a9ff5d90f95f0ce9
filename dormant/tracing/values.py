"""`Value`: an intermediate value of a traced function, with the neuron and the parameter entries of each element.

All neurons of a network are numbered, and so are the entries of each parameter. An id is one of these numbers.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int

from ..reasons import Reason

Ids = Int[np.ndarray, "..."]
Shapes = Sequence[tuple[int, ...]]
Why = frozenset[tuple[int, Reason]]  # pairs of a producer and a reason
Met = tuple[int, bytes]  # the index of a parameter, and the bytes of its entries or NOT_FOLLOWED
SETS = "mixed", "hidden", "chosen", "offset", "shared", "met"  # names of the fields of Value that are sets
NOT_FOLLOWED = b""  # stands for entries that are not followed
NONE = -1  # the id of an element that is not a neuron, or not an entry of a parameter


class Part(NamedTuple):
    """A parameter in a value. `entries` holds, for each element of the value, an index into the flattened parameter.

    `leaf` is the index of the parameter. An element without an entry has NONE.
    """

    leaf: int
    entries: Ids


@dataclass(frozen=True, eq=False)
class Value:
    """An intermediate value of the traced function.

    `neurons` holds the id of each element's neuron, or NONE. `sites` holds the index of the value at which the neuron
    is measured, which is its activation. Before any non-linearity, the site is NONE. If it is still NONE when a kernel
    reads the neuron, the neuron is measured at the value that the kernel reads. These arrays and the `entries` of every
    part have the same rank as the value. They have length 1 along an axis if they are constant along the axis.
    """

    shape: tuple[int, ...]
    neurons: Ids
    sites: Ids
    parts: tuple[Part, ...] = ()
    is_kernel: bool = False  # whether it is zero where its parameters are zero
    from_input: bool = False  # whether it depends on the function's inputs
    mixed: frozenset[int] = frozenset()  # producers whose neurons it mixes
    hidden: frozenset[tuple[int, str]] = frozenset()  # parameters that it mixes, each with the step that mixed it
    factors: frozenset[int] = frozenset()  # parameters that only scale it; it is zero where all others are zero
    chosen: frozenset[int] = frozenset()  # parameters of which it holds a slice with an unknown index
    offset: Why = frozenset()  # reasons why its neurons are not zero where their activation is zero
    shared: Why = frozenset()  # reasons why incoming weights of its neurons can't be redrawn
    met: frozenset[Met] = frozenset()  # parameters that were combined with its neurons after the kernel
    constant: "Constant | None" = field(default=None, repr=False)  # its elements, if known while tracing

    def moved(self, shape: tuple[int, ...], change: Callable[[Ids], Ids]) -> "Value":
        """Returns the value after a step that only moves elements. `change` moves an array of ids in the same way."""
        parts = tuple(Part(leaf, change(entries)) for leaf, entries in self.parts)
        ids = {"neurons": change(self.neurons), "sites": change(self.sites)}
        return replace(self, shape=shape, parts=parts, constant=None, **ids)

    @property
    def has_neurons(self) -> bool:
        return bool((self.neurons >= 0).any())

    @property
    def is_activated(self) -> bool:
        """Whether some of the neurons have passed a non-linearity."""
        return bool((self.sites >= 0).any())

    @property
    def is_zero(self) -> bool:
        return self.constant is not None and not np.any(np.asarray(self.constant.value))

    @property
    def arrays(self) -> list[Ids]:
        """Returns all arrays of ids: neurons, sites and entries of parameters."""
        return [self.neurons, self.sites, *(part.entries for part in self.parts)]


class Constant:
    """The elements of a value that is known while tracing. They are computed on first access."""

    def __init__(self, compute: Callable[[], Any], depth: int = 0) -> None:
        self._compute, self.depth = compute, depth

    @functools.cached_property
    def value(self) -> Any:
        """The elements, as an array."""
        return self._compute()


def plain(shape: tuple[int, ...], **facts: Any) -> Value:
    """Returns a value without neurons or parameters."""
    return Value(shape, no_ids(shape), no_ids(shape), **facts)


def union(values: Iterable[Value], name: str) -> frozenset[Any]:
    """Returns the union of the sets called `name` of several values."""
    return frozenset().union(*(getattr(value, name) for value in values))


def side_by_side(values: Sequence[Value]) -> dict[str, Any]:
    """Returns the set fields of the concatenation of several values, as a dictionary.

    If a parameter was combined with the neurons of only some of the values, its bytes in `met` get a prefix. This way,
    it is not taken for a parameter that was combined with all neurons.
    """
    sets = {name: union(values, name) for name in SETS}
    met = [value.met for value in values if value.has_neurons] or [frozenset()]
    common = frozenset.intersection(*met)
    some = {(leaf, entries and b"some" + entries) for leaf, entries in sets["met"] - common}
    return {**sets, "met": common | some}


def no_ids(shape: tuple[int, ...]) -> Ids:
    return np.full((1,) * len(shape), NONE)


def numbered(shape: tuple[int, ...]) -> Ids:
    """Returns an array of this shape whose elements are numbered in row-major order."""
    return np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)


def narrow(ids: Ids) -> Ids:
    """Returns the ids after reducing each axis along which they are constant to length 1."""
    for axis, length in enumerate(ids.shape):
        first = ids.take([0], axis) if length > 1 else ids
        if length > 1 and (ids == first).all():
            ids = first
    return ids


def widen(ids: Ids, shape: tuple[int, ...]) -> Ids:
    return np.broadcast_to(ids, shape)


def varies(ids: Ids, axes: Iterable[SupportsIndex]) -> bool:
    """Whether the ids vary along at least one of the axes."""
    return any(ids.shape[axis] > 1 for axis in axes)
