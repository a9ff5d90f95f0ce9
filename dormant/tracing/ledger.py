"""The ledger of a trace: producers of neurons, uses of parameters, reads of neurons, and reasons not to recycle."""

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
    """A kernel's output neurons, with consecutive ids from `start`. Each kernel of an ensemble is its own producer.

    `member` is the index of the kernel in a stack of kernels, or None.
    """

    leaf: int
    start: int
    width: int
    member: int | None


class Use(NamedTuple):
    """One use of a parameter: the neuron that each entry feeds and the neuron that it reads, in the parameter's shape.

    `covers` is a mask of the entries that are used, such as one slice of a stack of kernels. `elsewhere` describes the
    use if the entries neither feed nor read neurons.
    """

    leaf: int
    covers: Bool[np.ndarray, "..."]
    feeds: Ids | None
    reads: Ids | None
    elsewhere: str = ""


class Feed(NamedTuple):
    """A product of a kernel and data: the numbers of the three values, and the producers of the new neurons."""

    result: int
    kernel: int
    data: int
    producers: frozenset[int]


@dataclass
class Ledger:
    """Everything that a trace has recorded so far.

    `canonical` maps the id of each neuron to the id that it shares with the neurons merged with it, such as those of
    two summed kernels. `owners` maps each id to its producer. `follows` maps a producer to the producers that it was
    combined with. It counts as read if one of them is read. `resorts` holds, per producer, the last values in which its
    neurons can be measured before they are mixed. `born` holds the values in which a kernel creates its neurons.
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
    dropped: set[tuple[int, str]] = field(default_factory=set)  # reasons that concern only an activation's parameters
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
        """Returns the path of a producer's kernel, without "params" (Flax), "value" (NNX) and the kernel's own key."""
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
        """Merges each pair into one neuron with the larger id. Pairs that share a neuron become one neuron, too."""
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
        """Returns the parameters in a value whose entries are not followed, each with the step that mixed it."""
        return frozenset(f"{self.leaf_names[leaf]} (in '{where}')" for leaf, where in value.hidden)

    def note_reading(self, number: int, value: Value) -> None:
        """Records that a kernel reads the neurons of `value`. They are measured here unless they have a site."""
        owners = self.producers_of(value.neurons)
        self.read |= owners
        self._measure(self.sites, number, value)
        self.blame_why(value.offset | value.shared, owners)

    def note_resort(self, number: int, value: Value) -> None:
        """Records `value` as the last value in which its neurons can be measured before they are mixed."""
        self._measure(self.resorts, number, value)

    def note_feed(self, step: Step, side: int, producers: set[int], neurons: Ids) -> None:
        """Records that a step creates new neurons. Its operand number `side` is the kernel."""
        (result,) = step.results
        self.feeds.append(Feed(result, step.operands[side], step.operands[1 - side], frozenset(producers)))
        self.note_site(result, neurons)
        for producer in producers:
            self.born[producer].append(result)

    def note_site(self, number: int, neurons: Ids) -> None:
        """Records that these neurons can be measured at value `number`."""
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
        """Marks a producer as read or returned if it was combined with a producer that is read or returned."""
        for _ in self.follows:
            for producer, leaders in self.follows.items():
                self.read |= {producer} if leaders & self.read else set()
                self.returned |= {producer} if leaders & self.returned else set()

    def note_use(self, part: Part, feeds: Ids | None, reads: Ids | None, shape: tuple[int, ...]) -> bool:
        """Records which neurons a parameter feeds and reads. Returns False if an entry would belong to two neurons."""
        in_leaf = [None if ids is None else self.in_leaf(part, ids, shape) for ids in (feeds, reads)]
        clash = any(ids is not None and got is None for ids, got in zip((feeds, reads), in_leaf, strict=True))
        self.uses.append(
            Use(
                part.leaf, self.covered(part), *in_leaf, elsewhere="entries that several neurons share" if clash else ""
            )
        )
        return not clash

    def fed_by(self) -> dict[int, set[int]]:
        """Returns the parameters that feed the neurons of each producer."""
        found: dict[int, set[int]] = defaultdict(set)
        for use in self.uses:
            for producer in set() if use.feeds is None else self.producers_of(use.feeds):
                found[producer].add(use.leaf)
        return found

    def note_elsewhere(self, parts: Iterable[Part], what: str) -> None:
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
        """Converts ids per element of a value to ids per entry of a parameter. Returns None if an entry gets two."""
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
    """Mixes neurons and parameters. Later values record only which layers and parameters contributed."""
    mixed = set(union(operands, "mixed"))
    hidden = set(union(operands, "hidden"))
    for number, operand in zip(step.operands, operands, strict=True):
        if operand.has_neurons:
            mixed |= notes.producers_of(operand.neurons)
            notes.note_resort(number, operand)
        notes.note_elsewhere(operand.parts, f"computed with in '{step.name}'")
        hidden |= {(part.leaf, step.name) for part in operand.parts}
    for what in sorted({notes.leaf_names[leaf] for leaf, _ in hidden}):
        notes.blame(mixed, Reason(f"{what} reads it in '{step.name}', which is not followed", DIRECT))
        notes.read |= mixed
    fed = any(operand.from_input for operand in operands)
    facts = {"from_input": fed, "mixed": frozenset(mixed), "hidden": frozenset(hidden), "met": union(operands, "met")}
    return [plain(shape, **facts) for shape in shapes]


def is_whole(entries: Ids, shape: tuple[int, ...]) -> bool:
    """Whether `entries` holds all entries of a parameter in the original order."""
    return entries.shape == shape and bool((entries.ravel() == np.arange(entries.size)).all())
