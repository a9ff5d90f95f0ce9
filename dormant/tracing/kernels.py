"""Where parameters meet: kernels end one layer's outgoing side and begin the next one's incoming side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .ledger import Ledger
from .program import Step
from .rules import Shapes, mix, refuse
from .values import Ids, Value, varies


class Axes(NamedTuple):
    """The axes of one operand of a product."""

    batch: tuple[int, ...]
    summed: tuple[int, ...]
    free: tuple[int, ...]


def product(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """`dot_general`: of data with a kernel, of two parameters, or of two activations."""
    (left_summed, right_summed), (left_batch, right_batch) = step.settings["dimension_numbers"]
    axes = [
        _axes(len(operands[0].shape), left_batch, left_summed),
        _axes(len(operands[1].shape), right_batch, right_summed),
    ]
    side = kernel_side(step, operands)
    if side is None:
        return _data_product(notes, step, operands, axes, shapes)
    own, reads = _product_entries(operands, axes, side)
    return [feed(notes, step, operands, side, own, reads, _product_result(operands[side], axes, side), shapes[0])]


def kernel_side(step: Step, operands: Sequence[Value]) -> int | None:
    """Which operand is the kernel: the one that holds parameters, and of two, the one that no input enters."""
    sides = [side for side, operand in enumerate(operands[:2]) if operand.parts and not operand.has_neurons]
    pure = [side for side in sides if not operands[side].from_input]
    if len(pure) == 2:
        return None
    if len(sides) == 2 and not pure:
        raise refuse(step, "both operands hold parameters and inputs, so it is not clear which of them is the kernel")
    return (pure or [side for side in sides if operands[side].is_kernel] or [None])[0]


def _axes(rank: int, batch: Sequence[int], summed: Sequence[int]) -> Axes:
    free = tuple(axis for axis in range(rank) if axis not in (*batch, *summed))
    return Axes(tuple(batch), tuple(summed), free)


def _product_entries(operands: Sequence[Value], axes: Sequence[Axes], side: int) -> tuple[Ids, Ids | None]:
    """For each entry of the kernel: its output neuron's number, and the neuron that it reads (None if that varies)."""
    kernel, data = operands[side], operands[1 - side]
    mine, theirs = axes[side], axes[1 - side]
    outer = mine.batch + mine.free
    own = np.arange(int(np.prod([kernel.shape[axis] for axis in outer], dtype=np.int64)))
    own = _placed(own.reshape([kernel.shape[axis] for axis in outer]), outer, len(kernel.shape))
    if varies(data.neurons, theirs.free):
        return own, None
    reads = data.neurons.squeeze(theirs.free)
    rest = [axis for axis in range(len(data.shape)) if axis not in theirs.free]
    partner = dict(zip(theirs.batch + theirs.summed, mine.batch + mine.summed, strict=True))
    return own, _placed(reads, [partner[axis] for axis in rest], len(kernel.shape))


def _placed(ids: Ids, axes: Sequence[int], rank: int) -> Ids:
    """Ids whose axes go to the given axes of an array of this rank; the other axes have length 1."""
    ordered = ids.transpose(np.argsort(axes, kind="stable"))
    lengths = dict(zip(sorted(axes), ordered.shape, strict=True))
    return ordered.reshape([lengths.get(axis, 1) for axis in range(rank)])


def _product_result(kernel: Value, axes: Sequence[Axes], side: int) -> list[int]:
    """The shape in which a product's neuron numbers stand."""
    mine, theirs = axes[side], axes[1 - side]
    batch = [kernel.shape[axis] for axis in mine.batch]
    free = [kernel.shape[axis] for axis in mine.free]
    ones = [1] * len(theirs.free)
    return batch + (free + ones if side == 0 else ones + free)


def convolution(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """`conv_general_dilated`: a neuron is an output channel."""
    data, kernel = operands
    numbers, groups = step.settings["dimension_numbers"], step.settings["feature_group_count"]
    if step.settings["batch_group_count"] != 1:
        raise refuse(step, "batch groups have no neurons of their own")
    (batch, channel, *space), (out, *_) = numbers.lhs_spec, numbers.rhs_spec
    if kernel_side(step, operands) != 1:
        return _constant_convolution(notes, step, operands, shapes)
    rank = len(data.shape)
    own = _placed(np.arange(kernel.shape[out]), [out], rank)
    steady = not varies(data.neurons, [batch, *space])
    reads = _convolution_reads(kernel.shape, numbers.rhs_spec, data, channel, groups) if steady else None
    place = [1] * rank
    place[numbers.out_spec[1]] = kernel.shape[out]
    return [feed(notes, step, operands, 1, own, reads, place, shapes[0])]


def _convolution_reads(shape: Sequence[int], spec: Sequence[int], data: Value, channel: int, groups: int) -> Ids:
    """The input channel's neuron for each (output, input) pair of the kernel, groups respected."""
    channels = np.broadcast_to(data.neurons.ravel(), data.shape[channel])
    out, into = spec[0], spec[1]
    if groups == 1:
        return _placed(channels, [into], len(shape))
    group = np.arange(shape[out]) // (shape[out] // groups)
    return _placed(channels[group[:, None] * shape[into] + np.arange(shape[into])], [out, into], len(shape))


def _constant_convolution(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """A convolution with fixed numbers keeps channels apart if it is depthwise (blurs, patches); else it mixes them."""
    data, kernel = operands
    numbers, groups = step.settings["dimension_numbers"], step.settings["feature_group_count"]
    channel = numbers.lhs_spec[1]
    if kernel.parts or kernel.has_neurons or kernel.mixed or data.parts:
        raise refuse(step, "its kernel is not a parameter or a constant")
    others = [axis for axis in range(len(data.shape)) if axis != channel]
    if groups != data.shape[channel] or varies(data.neurons, others):
        return mix(notes, step, operands, shapes)
    copies = kernel.shape[numbers.rhs_spec[0]] // groups
    neurons = np.repeat(np.broadcast_to(data.neurons.ravel(), data.shape[channel]), copies)
    return [data.with_ids(shapes[0], _placed(neurons, [numbers.out_spec[1]], len(data.shape)), ())]


def feed(
    notes: Ledger,
    step: Step,
    operands: Sequence[Value],
    side: int,
    own: Ids,
    reads: Ids | None,
    place: list[int],
    shape: tuple[int, ...],
) -> Value:
    """New neurons from a kernel and data; the data's neurons are read by the kernel's entries."""
    kernel, data = operands[side], operands[1 - side]
    start, clash = _producer(notes, kernel, own)
    name = notes.names(notes.producers_of(np.array([start])))
    if data.has_neurons:
        notes.note_reading(step.operands[1 - side], data)
        _check_reading(notes, kernel, data, reads, name)
    for part in kernel.parts:
        fits = notes.note_use(part, own + start, reads, kernel.shape)
        clash = clash or not fits
    if clash:
        notes.blame(notes.producers_of(own + start), "several neurons share an entry of its kernel")
        notes.blame(notes.producers_of(data.neurons), f"several neurons share an entry of {name}'s kernel")
    notes.note_elsewhere(data.parts, f"an input of {name}")
    notes.blame(data.mixed, f"reaches {name} without weights of its own")
    notes.read |= data.mixed
    return Value(shape, (np.arange(own.size) + start).reshape(place), from_input=True)


def _check_reading(notes: Ledger, kernel: Value, data: Value, reads: Ids | None, name: str) -> None:
    owners = notes.producers_of(data.neurons)
    if reads is None:
        notes.blame(owners, f"{name} mixes positions, so several neurons share its weights")
    if not kernel.is_kernel:
        notes.blame(owners, f"{name}'s kernel is not zero where its parameter is")


def _producer(notes: Ledger, kernel: Value, own: Ids) -> tuple[int, bool]:
    """The first id of the kernel's neurons, the same one if the same kernel was used before."""
    part = kernel.parts[0]
    in_leaf = notes.in_leaf(part, own, kernel.shape)
    key = (part.leaf, b"" if in_leaf is None else repr(in_leaf.shape).encode() + in_leaf.tobytes())
    if key not in notes.known_kernels:
        members = 1 if in_leaf is None else _members(in_leaf)
        width = own.size // members
        numbers = [_row(in_leaf)] if members == 1 else range(members)
        starts = [notes.new_producer(part.leaf, width, number) for number in numbers]
        notes.known_kernels[key] = starts[0]
    return notes.known_kernels[key], in_leaf is None


def _row(own: Ids | None) -> int | None:
    """Where along a stack's first axis a kernel lies, if the parameter is a stack of kernels."""
    if own is None or own.ndim < 3:
        return None
    rows = np.flatnonzero((own >= 0).reshape(len(own), -1).any(axis=1))
    return int(rows[0]) if len(own) > len(rows) == 1 else None


def _members(own: Ids) -> int:
    """The size of an ensemble: its kernels are stacked along a first axis, and each holds the next neurons in a row."""
    if own.ndim < 3 or own.shape[0] == 1 or not varies(own, range(1, own.ndim)):
        return 1
    each = own.reshape(len(own), -1)
    together = (np.sort(each, axis=1) == np.arange(each.size).reshape(each.shape)).all()
    return len(own) if together else 1


def _data_product(
    notes: Ledger, step: Step, operands: Sequence[Value], axes: Sequence[Axes], shapes: Shapes
) -> list[Value]:
    """A product without a kernel: neurons stay apart on free axes when they meet plain numbers, else they mix."""
    carriers = [side for side in (0, 1) if operands[side].has_neurons]
    if len(carriers) == 1 and not (operands[1 - carriers[0]].parts or operands[1 - carriers[0]].mixed):
        side = carriers[0]
        if not varies(operands[side].neurons, axes[side].summed):
            return [_weighted(operands[side], axes, side, shapes[0])]
    for side in carriers if len(carriers) == 2 else []:
        notes.note_reading(step.operands[side], operands[side])
        notes.blame(notes.producers_of(operands[side].neurons), "enters a product of two activations")
    return mix(notes, step, operands, shapes)


def _weighted(value: Value, axes: Sequence[Axes], side: int, shape: tuple[int, ...]) -> Value:
    mine, theirs = axes[side], axes[1 - side]
    ids = value.neurons.transpose(*mine.batch, *mine.free, *mine.summed)
    batch, free = ids.shape[: len(mine.batch)], ids.shape[len(mine.batch) : len(mine.batch) + len(mine.free)]
    ones = (1,) * len(theirs.free)
    return value.with_ids(shape, ids.reshape(batch + (free + ones if side == 0 else ones + free)), ())
