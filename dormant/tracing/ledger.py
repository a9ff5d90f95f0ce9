"""The ledger of a trace. It records producers of neurons, uses of parameters, and reasons not to recycle layers.

An id is the number of a neuron. A site is a value at which neurons are measured.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ..reasons import DIRECT, Reason
from .program import Step
from .values import NONE, Ids, Part, Shapes, Value, Why, narrow, plain, union, widen


class Producer(NamedTuple):
    """A kernel that creates `width` neurons. Their ids are consecutive numbers from `start`.

    `leaf` is the index of the parameter that holds the kernel. If the parameter is a stack of kernels, each kernel is
    a separate producer, and `member` is its index in the stack. Otherwise `member` is None.
    """

    leaf: int
    start: int
    width: int
    member: int | None


class Use(NamedTuple):
    """One use of the parameter with index `leaf`.

    `feeds` holds the id of the neuron that each entry feeds, and `reads` the id of the neuron that it reads. Both
    broadcast to the parameter's shape, and None stands for no neurons. `covers` is a mask of the used entries, such as
    one slice of a stack of kernels. If the entries neither feed nor read neurons, `other_use` describes the use.
    """

    leaf: int
    covers: Bool[np.ndarray, "..."]
    feeds: Ids | None
    reads: Ids | None
    other_use: str = ""


class Feed(NamedTuple):
    """A product of a kernel and data, which creates neurons.

    `result`, `kernel` and `data` are indices of values. `producers` are the producers of the new neurons.
    """

    result: int
    kernel: int
    data: int
    producers: frozenset[int]


@dataclass
class Ledger:
    """Everything that a trace has recorded so far. It refers to parameters, producers and values by their indices.

    - `canonical`: the canonical id of each neuron. Neurons that were merged, such as those of two summed kernels, have
      the same canonical id.
    - `owners`: the producer of each neuron.
    - `follows`: for each producer, the producers with which it was combined. If one of these is read, it is read, too.
    - `sites`: for each producer, the values at which its neurons are measured.
    - `resorts`: for each producer, the last values at which its neurons can be measured before they are mixed.
    - `born`: for each producer, the values in which the kernel creates its neurons.
    """

    leaf_shapes: list[tuple[int, ...]]
    leaf_names: list[str]
    producers: list[Producer] = field(default_factory=list)
    canonical: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    owners: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    uses: list[Use] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    reasons: dict[int, list[Reason]] = field(default_factory=lambda: defaultdict(list))
    coupled: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    sites: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    resorts: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    born: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    follows: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    neurons_at: dict[int, Ids] = field(default_factory=dict)
    known_kernels: dict[tuple[int, int, bytes], int] = field(default_factory=dict)
    dropped: set[tuple[int, str]] = field(default_factory=set)  # reasons about parameters of activations, as in PReLU
    read: set[int] = field(default_factory=set)
    returned: set[int] = field(default_factory=set)
    untrained: set[int] = field(default_factory=set)  # parameters that no gradient reaches

    def new_producer(self, leaf: int, width: int, member: int | None = None) -> int:
        """Adds a producer and returns the first id of its neurons."""
        start = len(self.canonical)
        self.owners = np.concatenate([self.owners, np.full(width, len(self.producers))])
        self.producers.append(Producer(leaf, start, width, member))
        self.canonical = np.concatenate([self.canonical, np.arange(start, start + width)])
        return start

    def own(self, producer: int) -> Ids:
        """Returns the canonical ids of a producer's neurons."""
        _, start, width, _ = self.producers[producer]
        return self.canonical[start : start + width]

    def name(self, producer: int) -> str:
        """Returns the path of a producer's kernel without its last key, such as "dense" for "params/dense/kernel".

        The prefix "params" (Flax) and the suffix "value" (NNX) are removed, too.
        """
        leaf, _, _, member = self.producers[producer]
        path = self.leaf_names[leaf].removeprefix("params/").removesuffix("/value")
        return (path.rpartition("/")[0] or path) + ("" if member is None else f"[{member}]")

    def names(self, producers: Iterable[int]) -> str:
        return ", ".join(dict.fromkeys(self.name(producer) for producer in sorted(producers)))

    def current(self, ids: Ids) -> Ids:
        """Returns the canonical ids of these neurons."""
        if not len(self.canonical):
            return ids
        return np.where(ids >= 0, self.canonical[np.maximum(ids, 0)], NONE)

    def producers_of(self, ids: Ids) -> set[int]:
        """Returns the producers of these neurons and of all neurons merged with them."""
        found = ids[ids >= 0]
        if not found.size:
            return set()
        present = np.zeros(len(self.canonical), bool)
        present[self.canonical[found]] = True
        return set(np.flatnonzero(np.bincount(self.owners[present[self.canonical]])).tolist())

    def merge(self, pairs: Ids) -> None:
        """Merges the two neurons of each pair. The merged neuron has the larger id as its canonical id.

        If two pairs share a neuron, all of their neurons are merged.
        """
        while True:
            ends = self.canonical[pairs]
            low, high = ends.min(axis=1), ends.max(axis=1)
            if (low == high).all():
                return
            becomes = np.arange(len(self.canonical))
            np.maximum.at(becomes, low, high)
            self.canonical = becomes[self.canonical]

    def blame(self, producers: Iterable[int], reason: Reason) -> None:
        """Adds a reason why the neurons of these producers are not recycled."""
        for producer in producers:
            if reason not in self.reasons[producer]:
                self.reasons[producer].append(reason)

    def couple(self, producers: Iterable[int], by: str) -> None:
        for producer in producers:
            if by not in self.coupled[producer]:
                self.coupled[producer].append(by)

    def blame_why(self, why: Why, owners: set[int]) -> None:
        """Adds the reasons in `why` to their producers. Ignores producers that are not in `owners`."""
        for owner, reason in sorted(why):
            self.blame({owner} & owners, reason)

    def hidden(self, value: Value) -> frozenset[str]:
        """Returns a description of each parameter in the value that is not followed, with the step that mixed it."""
        return frozenset(f"{self.leaf_names[leaf]} (in '{where}')" for leaf, where in value.hidden)

    def note_reading(self, number: int, value: Value) -> None:
        """Records that a kernel reads the neurons of `value`. Neurons without a site are measured at this value."""
        owners = self.producers_of(value.neurons)
        self.read |= owners
        self._measure(self.sites, number, value)
        self.blame_why(value.offset | value.shared, owners)

    def note_resort(self, number: int, value: Value) -> None:
        """Records `value` as the last point at which its neurons can be measured, because a step then mixes them."""
        self._measure(self.resorts, number, value)

    def note_feed(self, step: Step, side: int, producers: set[int], neurons: Ids) -> None:
        """Records that a step creates these neurons. The kernel is operand 0 or 1 (`side`)."""
        (result,) = step.results
        self.feeds.append(Feed(result, step.operands[side], step.operands[1 - side], frozenset(producers)))
        self.note_site(result, neurons)
        for producer in producers:
            self.born[producer].append(result)

    def note_site(self, number: int, neurons: Ids) -> None:
        """Records that these neurons can be measured at the value with index `number`."""
        self.neurons_at.setdefault(number, neurons)

    def _measure(self, places: dict[int, list[int]], number: int, value: Value) -> None:
        neurons, sites = np.broadcast_arrays(value.neurons, np.where(value.sites < 0, number, value.sites))
        for site in np.unique(sites[neurons >= 0]).tolist():
            here = np.where(sites == site, neurons, NONE)
            self.note_site(site, narrow(here))
            for owner in self.producers_of(here):
                if site not in places[owner]:
                    places[owner].append(site)

    def follow(self) -> None:
        """Marks each producer as read (or returned) if it was combined with a producer that is read (or returned)."""
        for _ in self.follows:
            for producer, leaders in self.follows.items():
                self.read |= {producer} if leaders & self.read else set()
                self.returned |= {producer} if leaders & self.returned else set()

    def note_use(self, part: Part, feeds: Ids | None, reads: Ids | None, shape: tuple[int, ...]) -> bool:
        """Records which neurons the entries of a parameter feed and read.

        Returns False if one entry would feed several neurons, or read several. `feeds` and `reads` hold the neuron of
        each element of a value with this shape.
        """
        in_leaf = [None if ids is None else self.in_leaf(part, ids, shape) for ids in (feeds, reads)]
        clash = any(ids is not None and got is None for ids, got in zip((feeds, reads), in_leaf, strict=True))
        self.uses.append(
            Use(
                part.leaf, self.covered(part), *in_leaf, other_use="entries that several neurons share" if clash else ""
            )
        )
        return not clash

    def fed_by(self) -> dict[int, set[int]]:
        """Returns, for each producer, the parameters that feed its neurons."""
        found: dict[int, set[int]] = defaultdict(set)
        for use in self.uses:
            for producer in set() if use.feeds is None else self.producers_of(use.feeds):
                found[producer].add(use.leaf)
        return found

    def note_other_use(self, parts: Iterable[Part], what: str) -> None:
        self.uses += [Use(part.leaf, self.covered(part), None, None, what) for part in parts]

    def covered(self, part: Part) -> Bool[np.ndarray, "..."]:
        """Returns a mask of the parameter's entries that `part` holds."""
        shape = self.leaf_shapes[part.leaf]
        if is_whole(part.entries, shape):
            return np.ones((1,) * len(shape), bool)
        found = np.zeros(int(np.prod(shape, dtype=np.int64)), bool)
        found[part.entries[part.entries >= 0]] = True
        return found.reshape(shape)

    def in_leaf(self, part: Part, ids: Ids, shape: tuple[int, ...]) -> Ids | None:
        """Returns the neuron of each entry of a parameter, given the neuron of each element of a value.

        `ids` holds the neurons of the elements, and `part` holds the entry in each element. Returns None if an entry
        would get two different neurons.
        """
        leaf_shape = self.leaf_shapes[part.leaf]
        if shape == leaf_shape and is_whole(part.entries, shape):
            return ids
        together = np.broadcast_shapes(part.entries.shape, ids.shape)
        entries, owners = widen(part.entries, together).ravel(), widen(ids, together).ravel()
        inside = entries >= 0
        found = np.full(int(np.prod(leaf_shape, dtype=np.int64)), NONE)
        found[entries[inside]] = owners[inside]
        agrees = (found[entries[inside]] == owners[inside]).all()
        return narrow(found.reshape(leaf_shape)) if agrees else None


def mix(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for steps that mix neurons and parameters. The results record only which producers and parameters they mix.

    It is also the rule for unknown operations.
    """
    mixed = set(union(operands, "mixed"))
    hidden = set(union(operands, "hidden"))
    for number, operand in zip(step.operands, operands, strict=True):
        if operand.has_neurons:
            mixed |= notes.producers_of(operand.neurons)
            notes.note_resort(number, operand)
        notes.note_other_use(operand.parts, f"computed with in '{step.name}'")
        hidden |= {(part.leaf, step.name) for part in operand.parts}
    for what in sorted({notes.leaf_names[leaf] for leaf, _ in hidden}):
        notes.blame(mixed, Reason(f"{what} reads it in '{step.name}', which is not followed", DIRECT))
        notes.read |= mixed
    fed = any(operand.from_input for operand in operands)
    facts = {"from_input": fed, "mixed": frozenset(mixed), "hidden": frozenset(hidden), "met": union(operands, "met")}
    return [plain(shape, **facts) for shape in shapes]


def is_whole(entries: Ids, shape: tuple[int, ...]) -> bool:
    """Whether `entries` holds all entries of a parameter with this shape, in their original order."""
    return entries.shape == shape and bool((entries.ravel() == np.arange(entries.size)).all())
