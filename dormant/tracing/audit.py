"""Checks a trace with an independent method. It finds all parameters and producers that each value depends on.

A producer is a kernel that creates neurons. The tracer follows single neurons and parameter entries, with one rule per
operation. The audit needs no rules. It assumes that each result of a step depends on all operands of the step. If the
audit finds a dependency that the tracer did not record, the layer is measured but not recycled.
"""

from typing import NamedTuple

from ..reasons import APART, DIRECT, Reason
from .ledger import Ledger
from .movement import MOVES
from .program import Program
from .values import Value

MOVING = {*MOVES, "split", "unstack"}  # steps that move elements; a result depends only on the neurons that it contains


class Reached(NamedTuple):
    """The parameters (`leaves`) and the producers that a value depends on.

    Both are sets of indices, stored as integers: bit i is 1 if index i is in the set. Dependencies through another
    kernel are not included.
    """

    leaves: int = 0
    producers: int = 0


def audit(notes: Ledger, traced: Program, values: dict[int, Value]) -> None:
    """Compares the dependencies of all values with the trace, and adds reasons not to recycle producers.

    A producer gets a reason if a parameter affects its neurons, or if its neurons affect a kernel or an output, and the
    trace did not record this.
    """
    reached = _reached(notes, traced, values)
    fed = notes.fed_by()
    for feed in notes.feeds:
        data = values[feed.data]
        known = notes.producers_of(data.neurons) | data.mixed
        _blame(notes, reached[feed.data].producers, known, f"reaches {notes.names(feed.producers)}")
        for producer in feed.producers:
            _blame_leaves(notes, producer, reached[feed.kernel].leaves, fed[producer])
    accounted = {use.leaf for use in notes.uses if use.feeds is not None}
    for producer in range(len(notes.producers)):
        for site in notes.sites[producer]:
            _blame_leaves(notes, producer, reached[site].leaves, accounted)
    for number in traced.outputs:
        _blame(notes, reached[number].producers, notes.returned, "reaches the outputs")


def _reached(notes: Ledger, traced: Program, values: dict[int, Value]) -> dict[int, Reached]:
    """Returns the dependencies of every value.

    The product of a kernel and data depends on its new neurons and on the producers in the kernel. Its dependencies on
    the data go through this kernel, so they are not included.
    """
    feeds = {feed.result: feed for feed in notes.feeds}
    reached = dict.fromkeys(range(len(traced.shapes)), Reached())
    reached |= {number: Reached(1 << leaf) for leaf, number in enumerate(traced.inputs[: len(notes.leaf_names)])}
    for step in traced.steps:
        operands = step.operands
        begun = 0
        if step.results and step.results[0] in feeds:
            feed = feeds[step.results[0]]
            operands, begun = (feed.kernel,), _bits(feed.producers)
        leaves, producers = 0, begun
        for operand in operands:
            one = reached[operand]
            leaves, producers = leaves | one.leaves, producers | one.producers
        if begun:
            leaves = 0  # later values depend on the kernel only through the new neurons
        for result in step.results:
            held = producers
            if producers and step.name in MOVING:
                held &= _bits(notes.producers_of(values[result].neurons) | values[result].mixed)
            reached[result] = Reached(leaves, held)
    return reached


def _bits(numbers: set[int] | frozenset[int]) -> int:
    return sum(1 << number for number in numbers)


def _numbers(bits: int) -> list[int]:
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def _blame(notes: Ledger, producers: int, known: set[int], how: str) -> None:
    for producer in _numbers(producers & ~_bits(known)):
        notes.returned |= {producer} if how.endswith("outputs") else set()
        if not notes.reasons[producer]:
            notes.blame({producer}, Reason(f"{how} in a way that is not followed", APART))


def _blame_leaves(notes: Ledger, producer: int, leaves: int, known: set[int]) -> None:
    for leaf in _numbers(leaves & ~_bits(known)):
        path = notes.leaf_names[leaf]
        part_of_activation = any(owner == producer and path in why for owner, why in notes.dropped)
        if not notes.reasons[producer] and not part_of_activation:
            notes.blame({producer}, Reason(f"{path} feeds it in a way that is not followed", DIRECT))
