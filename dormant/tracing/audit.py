"""A second look at a trace, by another way: which parameters and kernels reach which values, element by element or not.

The tracer follows single neurons and entries, by a rule for each operation. The audit needs no rules: every result of a
step depends on all of its operands. Where that finds a path that the tracer did not write down, the layer is measured.
"""

from typing import NamedTuple

from ..reasons import APART, DIRECT, Reason
from .ledger import Ledger
from .movement import MOVES
from .program import Program
from .values import Value

MOVING = {*MOVES, "split", "unstack"}  # a piece of a value holds only the neurons that it holds


class Reached(NamedTuple):
    """What a value depends on, as bits: parameters and producers of neurons, without passing through a kernel."""

    leaves: int = 0
    producers: int = 0


def audit(notes: Ledger, traced: Program, values: dict[int, Value]) -> None:
    """Blames the producers that feed on parameters, or reach kernels or outputs, by a path that was not followed."""
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
    """What every value depends on. The data of a kernel's product is read through the kernel and ends there."""
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
            leaves = 0  # they reach later values as the neuron's own entries
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
