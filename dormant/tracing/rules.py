"""Rules, one per primitive of JAX. A rule returns the results of a step, given its operands, and records its findings.

A step is one call of a primitive. An id is the number of a neuron or of a parameter entry (see `values`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..reasons import SILENT, Reason
from .elementwise import convert, linear, nonlinear
from .ledger import Ledger, mix
from .movement import MOVES, add_at, concatenate, indexed_axes, overwrite, overwrite_slice
from .program import Step
from .values import Ids, Part, Shapes, Value, narrow, no_ids, numbered, plain, side_by_side, varies

Rule = Callable[[Ledger, Step, Sequence[Value], Shapes], list[Value]]

MOST_CHOICES = 64  # a slice with an unknown index is followed if there are at most this many possible slices


def move(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for steps that move elements, such as reshape, transpose, slice and gather. Elements keep their ids."""
    value, *others = operands
    known = [other.constant for other in others] if step.name != "pad" else []
    if any(index is None for index in known):
        return _move_by_unknown(notes, step, operands, shapes)
    indices = [index.value for index in known if index is not None]
    moved = value.moved(shapes[0], lambda ids: MOVES[step.name](step, ids, value.shape, indices))
    if step.name == "pad" and not others[0].is_zero:
        moved = _padded(notes, value, moved)
    if _fills(step) and (MOVES["gather"](step, numbered(value.shape), value.shape, indices) < 0).any():
        moved = replace(moved, is_kernel=False)
    return [moved]


def _padded(notes: Ledger, value: Value, moved: Value) -> Value:
    """Returns the result `moved` of a step that puts numbers other than zero between or behind the elements."""
    owners = notes.producers_of(value.neurons) if value.is_activated else set()
    offset = {(owner, Reason("not zero when silent: padding follows its activation", SILENT)) for owner in owners}
    return replace(moved, is_kernel=False, offset=moved.offset | offset)


def _fills(step: Step) -> bool:
    """Whether a gather has a fill value other than zero for indices out of bounds. Ignores the default, NaN."""
    fill = step.settings.get("fill_value")
    return step.name == "gather" and fill is not None and bool(np.isfinite(fill) and fill != 0)


def _move_by_unknown(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for a slice or gather with an index that is unknown while tracing.

    If ids are constant along the indexed axes, the index does not matter, and elements keep their ids. If the value is
    a parameter, all slices that the index may choose are recorded. Otherwise the step mixes neurons.
    """
    value, *others = operands
    axes = indexed_axes(step, value.shape, [other.constant is not None for other in others])
    (reached,) = mix(notes, step._replace(operands=step.operands[1:]), others, shapes)
    facts = {
        "from_input": any(operand.from_input for operand in operands),
        "mixed": value.mixed | reached.mixed,
        "hidden": value.hidden | reached.hidden,
    }
    known = [np.zeros(other.shape, np.int32) if other.constant is None else other.constant.value for other in others]
    change = MOVES[step.name]
    if not any(varies(ids, axes) for ids in value.arrays):
        moved = replace(value.moved(shapes[0], lambda ids: change(step, ids, value.shape, known)), **facts)
        return [_padded(notes, value, moved) if _fills(step) else moved]
    choices = _choices(step, value, known, axes)
    if value.has_neurons or not choices:
        return mix(notes, step, operands, shapes)
    parts = [
        Part(part.leaf, change(step, part.entries, value.shape, choice)) for choice in choices for part in value.parts
    ]
    chosen = value.chosen | {part.leaf for part in value.parts}
    return [
        replace(
            plain(shapes[0], **facts), parts=tuple(parts), is_kernel=value.is_kernel and not _fills(step), chosen=chosen
        )
    ]


def _choices(step: Step, value: Value, known: Sequence[Any], axes: Sequence[int]) -> list[list[Any]]:
    """Returns a step's index operands for each value that its unknown index can take, such as the number of a task.

    Returns an empty list if there are more than MOST_CHOICES, or if the step takes several slices or indexes several
    axes.
    """
    if len(axes) != 1 or value.shape[axes[0]] > MOST_CHOICES:
        return []
    (axis,) = axes
    numbers = range(value.shape[axis])
    if step.name == "gather":
        return [[np.full_like(known[0], number)] for number in numbers]
    if step.settings["slice_sizes"][axis] != 1:
        return []
    return [[*known[:axis], np.int32(number), *known[axis + 1 :]] for number in numbers]


def join_ends(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for concatenation. Every element keeps its neuron, its site and its parameter entries."""
    extents = [value.shape for value in operands]
    operands = _zeros_of_neurons(int(step.settings["dimension"]), operands)
    parts = []
    for index, value in enumerate(operands):
        for part in value.parts:
            ids = [part.entries if i == index else no_ids(other.shape) for i, other in enumerate(operands)]
            parts.append(Part(part.leaf, concatenate(step, ids, extents)))
    neurons = concatenate(step, [value.neurons for value in operands], extents)
    sites = concatenate(step, [value.sites for value in operands], extents)
    kernel = all(value.is_kernel or value.is_zero for value in operands) and bool(parts)
    fed = any(value.from_input for value in operands)
    return [Value(shapes[0], neurons, sites, tuple(parts), kernel, fed, **side_by_side(operands))]


def _zeros_of_neurons(axis: int, operands: Sequence[Value]) -> list[Value]:
    """Returns the operands of a concatenation. Operands that are zero get the neurons of the other operands.

    This is done only if the neurons do not vary along the axis of the concatenation, such as time. The zeros are then
    treated as activations of these neurons.
    """
    carriers = [value for value in operands if value.has_neurons]
    first = carriers[0] if carriers else None
    if first is None or any(varies(ids, [axis]) for value in carriers for ids in (value.neurons, value.sites)):
        return list(operands)
    if any(not np.array_equal(first.neurons, value.neurons) for value in carriers):
        return list(operands)
    ids = {"neurons": first.neurons, "sites": first.sites}
    return [replace(value, **ids) if value.is_zero else value for value in operands]


def split(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for split and unstack. All elements keep their ids."""
    (value,) = operands
    axis, drop = step.settings["axis"], step.name == "unstack"
    sizes = [1] * len(shapes) if drop else [shape[axis] for shape in shapes]
    starts = np.cumsum([0, *sizes[:-1]])

    def piece(ids: Ids, start: int, size: int) -> Ids:
        taken = ids if ids.shape[axis] == 1 else narrow(ids.take(range(start, start + size), axis))
        return taken.squeeze(axis) if drop else taken

    return [
        value.moved(shape, lambda ids, start=start, size=size: piece(ids, start, size))
        for shape, start, size in zip(shapes, starts.tolist(), sizes, strict=True)
    ]


def stack(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for stack: a concatenation along a new axis."""
    axis = step.settings["axis"]
    raised = []
    for operand in operands:
        shape = (*operand.shape[:axis], 1, *operand.shape[axis:])
        raised.append(replace(operand.moved(shape, lambda ids: np.expand_dims(ids, axis)), constant=operand.constant))
    return join_ends(notes, step._replace(settings={"dimension": axis}), raised, shapes)


def reduce(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for reductions such as sums and maxima. They mix neurons if neurons differ along a reduced axis."""
    (value,) = operands
    axes = tuple(step.settings["axes"])
    if any(varies(ids, axes) for ids in value.arrays):
        return mix(notes, step, operands, shapes)
    return [replace(value.moved(shapes[0], lambda ids: ids.squeeze(axes)), is_kernel=False)]


def slide(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for pooling and cumulative sums. They mix neurons if neurons differ along an axis of the window."""
    value = operands[0]
    if value.parts or any(varies(ids, _window_axes(step, len(value.shape))) for ids in value.arrays):
        return mix(notes, step, operands, shapes)
    return [value.moved(shapes[0], lambda ids: ids)]


def _window_axes(step: Step, rank: int) -> list[int]:
    if "axis" in step.settings:
        return [step.settings["axis"]]
    lengths, strides = step.settings["window_dimensions"], step.settings["window_strides"]
    padding = step.settings["padding"]
    return [axis for axis in range(rank) if lengths[axis] > 1 or strides[axis] > 1 or any(padding[axis])]


def pass_on(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for barriers and annotations, whose results equal their operands."""
    return [value.moved(value.shape, lambda ids: ids) for value in operands]


LINEAR = "add sub mul div neg copy copy_p reduce_precision real imag conj complex add_any stop_gradient"
NONLINEAR = (
    "max min abs sign exp exp2 expm1 log log1p log2 tanh logistic sin cos tan sinh cosh asin acos atan asinh acosh "
    "atanh atan2 sqrt rsqrt cbrt square integer_pow pow erf erfc erf_inv lgamma digamma select_n clamp floor ceil "
    "round rem nextafter is_finite eq ne lt le gt ge and or xor not shift_left shift_right_logical "
    "shift_right_arithmetic"
)
MIXING = "argmax argmin sort top_k approx_top_k reduce_and reduce_or reduce_xor cumlogsumexp"
REDUCTIONS = "reduce_sum reduce_max reduce_min reduce_prod"
WINDOWS = "reduce_window_sum reduce_window_max reduce_window_min cumsum cumprod cummax cummin"
BARRIERS = "optimization_barrier name sharding_constraint pvary"

RULES: dict[str, Rule] = {
    **dict.fromkeys(LINEAR.split(), linear),
    **dict.fromkeys(NONLINEAR.split(), nonlinear),
    **dict.fromkeys(MIXING.split(), mix),
    **dict.fromkeys(REDUCTIONS.split(), reduce),
    **dict.fromkeys(WINDOWS.split(), slide),
    **dict.fromkeys(BARRIERS.split(), pass_on),
    **dict.fromkeys(MOVES, move),
    "convert_element_type": convert,
    "concatenate": join_ends,
    "stack": stack,
    "split": split,
    "unstack": split,
    "scatter": overwrite,
    "scatter-add": add_at,
    "dynamic_update_slice": overwrite_slice,
}
