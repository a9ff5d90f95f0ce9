"""Rules for products and convolutions. One operand is a kernel: it reads neurons of the data and feeds new neurons.

A rule returns the results of a step, given its operands (see `rules`). An id is the number of a neuron.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jax import lax

from ..reasons import APART, DIRECT, OWN, Reason
from .elementwise import gate_of
from .ledger import Ledger, mix
from .program import Program, Step
from .values import NONE, Ids, Shapes, Value, narrow, no_ids, varies, widen


class Axes(NamedTuple):
    """The axes of one operand of a product: batch axes, axes that the product sums over, and all other axes."""

    batch: tuple[int, ...]
    summed: tuple[int, ...]
    free: tuple[int, ...]


def product(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `dot_general`: a product of data and a kernel, of two parameters, or of two activations."""
    (left_summed, right_summed), (left_batch, right_batch) = step.settings["dimension_numbers"]
    axes = [
        _axes(len(operands[0].shape), left_batch, left_summed),
        _axes(len(operands[1].shape), right_batch, right_summed),
    ]
    side = kernel_side(operands, [[*each.batch, *each.free] for each in axes])
    if side is None:
        return _data_product(notes, step, operands, axes, shapes)
    own, reads = _product_entries(operands, axes, side)
    return [feed(notes, step, operands, side, own, reads, _product_result(own, axes, side), shapes[0])]


def sums_of_products(traced: Program) -> dict[int, Step]:
    """Returns products that are written as `mul` and `reduce_sum`, each as one step `dot_general`.

    The keys are the results of the `mul` steps. Only `reduce_sum` reads such a result.
    """
    readers = Counter([*traced.outputs, *(operand for step in traced.steps for operand in step.operands)])
    factors = {step.results[0]: step.operands for step in traced.steps if step.name == "mul"}
    found = {}
    for step in traced.steps:
        number = step.operands[0] if step.name == "reduce_sum" else None
        if number not in factors or readers[number] > 1:
            continue
        rank, summed = len(traced.shapes[number]), tuple(step.settings["axes"])
        if all(len(traced.shapes[factor]) == rank for factor in factors[number]):
            kept = tuple(axis for axis in range(rank) if axis not in summed)
            axes = {"dimension_numbers": ((summed, summed), (kept, kept))}
            found[number] = Step(lax.dot_general_p, factors[number], step.results, axes, step.scope)
    return found


def is_dense(step: Step, operands: Sequence[Value]) -> bool:
    """Whether a product from `sums_of_products` sums a kernel times data over an axis of the data's features."""
    (summed, _), _ = step.settings["dimension_numbers"]
    kernels = [value for value in operands if value.parts and not value.has_neurons and not value.from_input]
    data = [value for value in operands if value.from_input]
    return (
        len(kernels) == len(data) == 1
        and any(varies(part.entries, summed) for part in kernels[0].parts)
        and (varies(data[0].neurons, summed) or not data[0].has_neurons)
    )


def kernel_side(operands: Sequence[Value], outer: Sequence[Sequence[int]]) -> int | None:
    """Returns the index of the operand that is the kernel, or None if that is ambiguous.

    A kernel holds parameters and no neurons. If both operands do, the kernel is the operand that does not depend on the
    inputs. If both depend on the inputs, such as the weights and the embedding of a task, the kernel is the operand
    whose entries vary along its outer axes. `outer` lists, for each operand, the axes that the product does not sum
    over.
    """
    sides = [side for side, operand in enumerate(operands[:2]) if operand.parts and not operand.has_neurons]
    pure = [side for side in sides if not operands[side].from_input]
    if pure:
        return pure[0] if len(pure) == 1 else None
    kernels = [side for side in sides if operands[side].is_kernel]
    if len(kernels) == 2:
        kernels = [side for side in kernels if any(varies(part.entries, outer[side]) for part in operands[side].parts)]
    return kernels[0] if len(kernels) == 1 else None


def _axes(rank: int, batch: Sequence[int], summed: Sequence[int]) -> Axes:
    free = tuple(axis for axis in range(rank) if axis not in (*batch, *summed))
    return Axes(tuple(batch), tuple(summed), free)


def _product_entries(operands: Sequence[Value], axes: Sequence[Axes], side: int) -> tuple[Ids, Ids | None]:
    """Returns two arrays: the index of the neuron that each kernel entry feeds, and the id of the neuron that it reads.

    The second result is None if an entry reads several neurons.
    """
    kernel, data = operands[side], operands[1 - side]
    mine, theirs = axes[side], axes[1 - side]
    own = _columns(kernel, mine.batch + mine.free)
    if varies(data.neurons, theirs.free):
        return own, None
    reads = data.neurons.squeeze(theirs.free)
    rest = [axis for axis in range(len(data.shape)) if axis not in theirs.free]
    partner = dict(zip(theirs.batch + theirs.summed, mine.batch + mine.summed, strict=True))
    return own, _placed(reads, [partner[axis] for axis in rest], len(kernel.shape))


def _columns(kernel: Value, outer: Sequence[int]) -> Ids:
    """Returns the index of the neuron that each column of a kernel feeds.

    A column is the part of a kernel at one position along the axes `outer`. Columns with equal entries feed the same
    neuron. For example, a kernel with noise per sample repeats each column once per sample. A column of padding has no
    entries and feeds no neuron.
    """
    changes = [axis for axis in outer if any(part.entries.shape[axis] > 1 for part in kernel.parts)]
    lengths = [kernel.shape[axis] for axis in changes]
    rows = [_rows(part.entries, changes, lengths) for part in kernel.parts]
    own = np.arange(int(np.prod(lengths, dtype=np.int64)))
    if len(np.unique(rows[0][:, 0])) < own.size or (rows[0][:, 0] < 0).any():
        every = np.concatenate(rows, axis=1)
        _, first, same = np.unique(every, axis=0, return_index=True, return_inverse=True)
        empty = (every < 0).all(axis=1)
        _, own = np.unique(np.where(empty, NONE, first[same.ravel()]), return_inverse=True)
        own = own.ravel() - int(empty.any())
    return _placed(own.reshape(lengths), changes, len(kernel.shape))


def _rows(entries: Ids, changes: Sequence[int], lengths: Sequence[int]) -> Ids:
    """Returns the entries of a kernel as a matrix [columns, entries per column].

    A column is the part of the kernel at one position along the axes `changes`.
    """
    ordered = entries.transpose(*changes, *(axis for axis in range(entries.ndim) if axis not in changes))
    wide = widen(ordered, (*lengths, *ordered.shape[len(changes) :]))
    return wide.reshape(int(np.prod(lengths, dtype=np.int64)), -1)


def _placed(ids: Ids, axes: Sequence[int], rank: int) -> Ids:
    """Returns `ids` as an array with `rank` axes. Axis i of `ids` becomes axis `axes[i]`. Other axes have length 1."""
    ordered = ids.transpose(np.argsort(axes, kind="stable"))
    lengths = dict(zip(sorted(axes), ordered.shape, strict=True))
    return ordered.reshape([lengths.get(axis, 1) for axis in range(rank)])


def _product_result(own: Ids, axes: Sequence[Axes], side: int) -> Ids:
    """Returns the index of the neuron that each element of a product holds.

    `own` holds the index of the neuron that each column of the kernel feeds. The kernel is operand 0 or 1 (`side`).
    """
    mine, theirs = axes[side], axes[1 - side]
    ordered = own.transpose(*mine.batch, *mine.free, *mine.summed)
    batch, free = ordered.shape[: len(mine.batch)], ordered.shape[len(mine.batch) :][: len(mine.free)]
    ones = (1,) * len(theirs.free)
    return ordered.reshape(batch + (free + ones if side == 0 else ones + free))


def convolution(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `conv_general_dilated`: each output channel is a neuron."""
    data, kernel = operands
    numbers, groups = step.settings["dimension_numbers"], step.settings["feature_group_count"]
    (batch, channel, *space), (out, *_) = numbers.lhs_spec, numbers.rhs_spec
    if step.settings["batch_group_count"] != 1:
        return mix(notes, step, operands, shapes)
    if kernel_side(operands, [[batch, *space], [out]]) != 1:
        return _constant_convolution(notes, step, operands, shapes)
    rank = len(data.shape)
    own = _columns(kernel, [out])
    steady = not varies(data.neurons, [batch, *space])
    reads = _convolution_reads(kernel.shape, numbers.rhs_spec, data, channel, groups) if steady else None
    neurons = _placed(own.ravel(), [numbers.out_spec[1]], rank)
    return [feed(notes, step, operands, 1, own, reads, neurons, shapes[0])]


def _convolution_reads(shape: Sequence[int], spec: Sequence[int], data: Value, channel: int, groups: int) -> Ids:
    """Returns the id of the neuron that each entry of a convolution's kernel reads.

    `shape` is the shape of the kernel, and `spec` the order of its axes. In a grouped convolution, the neuron depends
    on the output channel and the input channel. Otherwise it depends on the input channel only.
    """
    channels = np.broadcast_to(data.neurons.ravel(), data.shape[channel])
    out, into = spec[0], spec[1]
    if groups == 1:
        return _placed(channels, [into], len(shape))
    group = np.arange(shape[out]) // (shape[out] // groups)
    return _placed(channels[group[:, None] * shape[into] + np.arange(shape[into])], [out, into], len(shape))


def _constant_convolution(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for convolutions without a learned kernel. They mix channels, unless they are depthwise, such as a blur."""
    data, kernel = operands
    numbers, groups = step.settings["dimension_numbers"], step.settings["feature_group_count"]
    channel = numbers.lhs_spec[1]
    others = [axis for axis in range(len(data.shape)) if axis != channel]
    learned = kernel.parts or kernel.has_neurons or kernel.mixed or kernel.hidden or data.parts
    if learned or groups != data.shape[channel] or any(varies(ids, others) for ids in data.arrays):
        return mix(notes, step, operands, shapes)
    copies = kernel.shape[numbers.rhs_spec[0]] // groups

    def spread(ids: Ids) -> Ids:
        channels = np.repeat(np.broadcast_to(ids.ravel(), data.shape[channel]), copies)
        return narrow(_placed(channels, [numbers.out_spec[1]], len(data.shape)))

    return [data.moved(shapes[0], spread)]


def feed(
    notes: Ledger,
    step: Step,
    operands: Sequence[Value],
    side: int,
    own: Ids,
    reads: Ids | None,
    result: Ids,
    shape: tuple[int, ...],
) -> Value:
    """Returns the product of a kernel and data, a value with new neurons. Records what the kernel feeds and reads.

    The kernel is operand 0 or 1 (`side`). `own` holds the index of the neuron that each kernel entry feeds. `reads`
    holds the id of the neuron that each entry reads, or is None if an entry reads several. `result` holds the index of
    the neuron in each element of the product, and `shape` is the product's shape.
    """
    kernel, data = operands[side], operands[1 - side]
    start, clash = _producer(notes, kernel, own)
    feeds, neurons = (np.where(ids < 0, NONE, ids + start) for ids in (own, result))
    producers = notes.producers_of(feeds)
    name = notes.names(producers)
    if data.has_neurons:
        notes.note_reading(step.operands[1 - side], data)
        _check_reading(notes, kernel, data, reads, name)
    for part in kernel.parts:
        factor = part.leaf in kernel.factors
        fits = notes.note_use(part, feeds, None if factor else reads, kernel.shape)
        if factor and not fits:
            notes.blame(
                producers, Reason(f"several neurons share {notes.leaf_names[part.leaf]}, which feeds them", OWN)
            )
        clash = clash or not (fits or factor)
    if clash:
        notes.blame(producers, Reason("several neurons share an entry of its kernel", OWN))
        notes.blame(notes.producers_of(data.neurons), Reason(f"several neurons share an entry of {name}'s kernel", OWN))
    notes.note_other_use(data.parts, f"an input of {name}")
    notes.blame(data.mixed, Reason(f"reaches {name} without weights of its own", APART))
    notes.blame(kernel.mixed, Reason(f"reaches {name}'s kernel without weights of its own", APART))
    notes.read |= data.mixed | kernel.mixed
    notes.note_feed(step, side, producers, neurons)
    shared = frozenset((owner, why) for owner in producers for why in _doubts(notes, kernel))
    return Value(shape, neurons, no_ids(shape), from_input=True, shared=shared)


def _doubts(notes: Ledger, kernel: Value) -> list[Reason]:
    """Returns the reasons why the incoming weights of a kernel's neurons can't be redrawn."""
    found = [Reason(f"{what} feeds it in a way that is not followed", DIRECT) for what in sorted(notes.hidden(kernel))]
    return found + [
        Reason(f"an index chooses which part of {notes.leaf_names[leaf]} feeds it", OWN) for leaf in kernel.chosen
    ]


def _check_reading(notes: Ledger, kernel: Value, data: Value, reads: Ids | None, name: str) -> None:
    owners = notes.producers_of(data.neurons)
    if reads is None:
        notes.blame(owners, Reason(f"{name} mixes positions, so several neurons share its weights", OWN))
    for what in sorted(notes.hidden(kernel)):
        notes.blame(owners, Reason(f"{what} is in {name}'s kernel in a way that is not followed", DIRECT))
    if not kernel.is_kernel:
        notes.blame(owners, Reason(f"{name}'s kernel is not zero where its parameter is", DIRECT))


def _producer(notes: Ledger, kernel: Value, own: Ids) -> tuple[int, bool]:
    """Returns the first id of a kernel's neurons, and whether several of its neurons share an entry.

    If the kernel was used before, its neurons keep their ids. Otherwise, they get new ids.
    """
    part = kernel.parts[0]
    width = int(own.max()) + 1
    in_leaf = notes.in_leaf(part, own, kernel.shape)
    key = (part.leaf, width, b"" if in_leaf is None else repr(in_leaf.shape).encode() + in_leaf.tobytes())
    if key not in notes.known_kernels:
        members = 1 if in_leaf is None else _members(in_leaf)
        numbers = [None if kernel.chosen else _row(in_leaf)] if members == 1 else range(members)
        starts = [notes.new_producer(part.leaf, width // members, number) for number in numbers]
        notes.known_kernels[key] = starts[0]
    return notes.known_kernels[key], in_leaf is None


def _row(own: Ids | None) -> int | None:
    """Returns the index of a kernel along the first axis of its parameter, or None if the parameter is not a stack."""
    if own is None or own.ndim < 3:
        return None
    rows = np.flatnonzero((own >= 0).reshape(len(own), -1).any(axis=1))
    return int(rows[0]) if len(own) > len(rows) == 1 else None


def _members(own: Ids) -> int:
    """Returns the number of members of an ensemble, or 1 if the parameter is not an ensemble.

    An ensemble is a stack of kernels along the first axis, each of which feeds different neurons.
    """
    if own.ndim < 3 or own.shape[0] == 1 or not varies(own, range(1, own.ndim)):
        return 1
    each = own.reshape(len(own), -1)
    together = (np.sort(each, axis=1) == np.arange(each.size).reshape(each.shape)).all()
    return len(own) if together else 1


def _data_product(
    notes: Ledger, step: Step, operands: Sequence[Value], axes: Sequence[Axes], shapes: Shapes
) -> list[Value]:
    """Rule for products without a kernel.

    Such a product mixes neurons if both operands hold neurons, or if it sums over an axis along which neurons differ.
    """
    operands = list(operands)
    for side in (0, 1) if operands[0].has_neurons and operands[1].has_neurons else ():
        mine, theirs = notes.producers_of(operands[side].neurons), notes.producers_of(operands[1 - side].neurons)
        one_each = not varies(operands[side].neurons, axes[side].summed + axes[side].free)
        if one_each and varies(operands[1 - side].neurons, axes[1 - side].free) and not mine & theirs:
            operands[side] = gate_of(notes, step, side, operands[side])  # the weights of a pool over positions
            break
    carriers = [side for side in (0, 1) if operands[side].has_neurons]
    if len(carriers) == 1:
        side = carriers[0]
        if not any(varies(ids, axes[side].summed) for ids in operands[side].arrays):
            return [_weighted(notes, step, operands, axes, side, shapes[0])]
    for side in carriers if len(carriers) == 2 else []:
        notes.note_reading(step.operands[side], operands[side])
        notes.blame(notes.producers_of(operands[side].neurons), Reason("enters a product of two activations", APART))
    return mix(notes, step, operands, shapes)


def _weighted(
    notes: Ledger, step: Step, operands: Sequence[Value], axes: Sequence[Axes], side: int, shape: tuple[int, ...]
) -> Value:
    """Rule for weighted sums of neurons over samples or positions, such as attention. The weights are not a kernel.

    The neurons are in operand 0 or 1 (`side`). If the weights depend on parameters or neurons, the neurons are measured
    before the sum. A neuron that is silent there is also zero after the sum.
    """
    value, weights = operands[side], operands[1 - side]
    mine, theirs = axes[side], axes[1 - side]
    number, owners = step.operands[side], notes.producers_of(value.neurons)
    if weights.mixed or weights.hidden or weights.parts or value.parts:
        neurons, sites = np.broadcast_arrays(value.neurons, value.sites)
        notes.note_site(number, narrow(np.where(sites < 0, neurons, NONE)))
        value = replace(value, sites=np.where(value.sites < 0, number, value.sites))
    notes.blame(weights.mixed - owners, Reason(f"computes weights for sums of {notes.names(owners)}", APART))
    notes.blame(weights.mixed & owners, Reason("computes weights for sums of its own neurons", APART))
    for producer in weights.mixed - owners:
        notes.follows[producer] |= owners
    for operand in (value, weights):
        notes.note_other_use(operand.parts, f"computed with in '{step.name}'")

    def placed(ids: Ids) -> Ids:
        ordered = ids.transpose(*mine.batch, *mine.free, *mine.summed)
        batch, free = ordered.shape[: len(mine.batch)], ordered.shape[len(mine.batch) :][: len(mine.free)]
        ones = (1,) * len(theirs.free)
        return ordered.reshape(batch + (free + ones if side == 0 else ones + free))

    hidden = value.hidden | {(part.leaf, step.name) for part in value.parts}
    return replace(replace(value, parts=(), hidden=hidden).moved(shape, placed), is_kernel=False)
