"""Rules for steps that move elements (reshape, gather) or write them (scatter, as in `x.at[i].set(y)`).

An id is the number of the neuron, or of the parameter entry, in an element. A step moves ids as it moves elements.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import lax

from .elementwise import elementwise
from .ledger import Ledger, mix
from .program import Step
from .values import NONE, Ids, Part, Shapes, Value, narrow, no_ids, side_by_side, varies, widen

# A function that moves ids in the same way as a step moves elements. Its arguments are the step, the ids in the first
# operand, the shape of the first operand, and the indices in the other operands. An axis along which ids are constant
# has length 1.
Move = Callable[[Step, Ids, tuple[int, ...], Sequence[Any]], Ids]


def _reshape(step: Step, ids: Ids, shape: tuple[int, ...], _: Sequence[object]) -> Ids:
    new = step.settings["new_sizes"]
    if ids.size == 1:
        return ids.reshape((1,) * len(new))
    order = step.settings.get("dimensions")
    full = widen(ids, shape)
    return narrow((full if order is None else full.transpose(order)).reshape(new))


def _transpose(step: Step, ids: Ids, *_: object) -> Ids:
    return ids.transpose(step.settings["permutation"])


def _squeeze(step: Step, ids: Ids, *_: object) -> Ids:
    return ids.squeeze(tuple(step.settings["dimensions"]))


def _expand_dims(step: Step, ids: Ids, *_: object) -> Ids:
    return np.expand_dims(ids, tuple(step.settings["dimensions"]))


def _broadcast(step: Step, ids: Ids, shape: tuple[int, ...], _: Sequence[object]) -> Ids:
    new, axes = step.settings["shape"], step.settings["broadcast_dimensions"]
    lengths = [1] * len(new)
    for axis, length in zip(axes, ids.shape, strict=True):
        lengths[axis] = length
    return ids.reshape(lengths)


def _slice(step: Step, ids: Ids, *_: object) -> Ids:
    bounds = zip(
        step.settings["start_indices"],
        step.settings["limit_indices"],
        step.settings["strides"] or (1,) * ids.ndim,
        strict=True,
    )
    cuts = (slice(None) if length == 1 else slice(*bound) for length, bound in zip(ids.shape, bounds, strict=True))
    return narrow(ids[tuple(cuts)])


def _reverse(step: Step, ids: Ids, *_: object) -> Ids:
    return np.flip(ids, tuple(step.settings["dimensions"]))


def _pad(step: Step, ids: Ids, shape: tuple[int, ...], _: Sequence[object]) -> Ids:
    """Pads ids with NONE. If ids are constant along a padded axis, the padding gets the same ids instead."""
    for axis, (low, high, inner) in enumerate(step.settings["padding_config"]):
        if ids.shape[axis] > 1:
            ids = _pad_axis(ids, axis, int(low), int(high), int(inner))
    return narrow(ids)


def _pad_axis(ids: Ids, axis: int, low: int, high: int, inner: int) -> Ids:
    ids = np.moveaxis(ids, axis, 0)
    spread = np.full(((len(ids) - 1) * (inner + 1) + 1, *ids.shape[1:]), NONE)
    spread[:: inner + 1] = ids
    cut = spread[max(0, -low) : len(spread) - max(0, -high)]
    widths = [(max(0, low), max(0, high))] + [(0, 0)] * (ids.ndim - 1)
    return np.moveaxis(np.pad(cut, widths, constant_values=NONE), 0, axis)


def _tile(step: Step, ids: Ids, *_: object) -> Ids:
    repeats = step.settings["reps"]
    return np.tile(ids, [1 if length == 1 else times for length, times in zip(ids.shape, repeats, strict=True)])


def _by_running_it(step: Step, ids: Ids, shape: tuple[int, ...], others: Sequence[Any]) -> Ids:
    """Moves ids by running the primitive on them. A gather gives NONE where an index is out of bounds."""
    if ids.size == 1 and step.name == "dynamic_slice":
        return ids
    settings = dict(step.settings)
    if step.name == "gather":
        settings["fill_value"] = NONE
    with jax.ensure_compile_time_eval():
        moved = step.primitive.bind(np.ascontiguousarray(widen(ids, shape)).astype(np.int32), *others, **settings)
    return narrow(np.asarray(moved).astype(np.int64))


MOVES: dict[str, Move] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "rev": _reverse,
    "pad": _pad,
    "tile": _tile,
    "gather": _by_running_it,
    "dynamic_slice": _by_running_it,
}


def indexed_axes(step: Step, shape: tuple[int, ...], known: Sequence[bool]) -> list[int]:
    """Returns the axes along which the index of a slice or gather is unknown while tracing."""
    sizes = step.settings["slice_sizes"]
    if step.name == "dynamic_slice":
        return [axis for axis, length in enumerate(shape) if sizes[axis] < length and not known[axis]]
    numbers = step.settings["dimension_numbers"]
    indexed = (*numbers.start_index_map, *numbers.operand_batching_dims)
    return [int(axis) for axis in sorted(indexed) if sizes[axis] < shape[axis]]


def concatenate(step: Step, ids: Sequence[Ids], shapes: Sequence[tuple[int, ...]]) -> Ids:
    """Concatenates ids along the axis of the step."""
    axis = int(step.settings["dimension"])
    lengths = np.broadcast_shapes(*(_without(one.shape, axis) for one in ids))
    wide = []
    for one, shape in zip(ids, shapes, strict=True):
        target = list(lengths)
        target[axis] = shape[axis]
        wide.append(widen(one, tuple(target)))
    return narrow(np.concatenate(wide, axis))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(1 if index == axis else length for index, length in enumerate(shape))


def overwrite(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `scatter`, which writes the elements of an update at some indices of a target."""
    target, indices, update = operands
    raised = _raised(step, target, update)
    if raised is not None and indices.constant is not None and (target.is_zero or update.is_zero):
        # The target or the update is zero. Its zeros are treated as silent activations of the other's neurons.
        return [raised if target.is_zero else replace(target, constant=None)]
    if indices.constant is not None and _writes_once(step, operands, indices.constant.value):
        return [_replaced(step, target, update, [indices.constant.value])]
    if raised is None or indices.has_neurons or indices.mixed:
        return mix(notes, step, operands, shapes)
    step = step._replace(operands=(step.operands[0], step.operands[2]))
    return [elementwise(notes, step, [target, raised], shapes[0], bends=True)]


def add_at(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `scatter-add`, which adds the elements of an update at some indices of a target.

    Sums over samples, nodes or edges keep neurons separate. Sums over different neurons mix them.
    """
    target, indices, update = operands
    raised = _raised(step, target, update)
    if raised is None or indices.has_neurons or indices.mixed:
        return mix(notes, step, operands, shapes)
    numbered = step._replace(primitive=lax.add_p, operands=(step.operands[0], step.operands[2]))
    return [elementwise(notes, numbered, [target, raised], shapes[0], bends=False)]


def overwrite_slice(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `dynamic_update_slice`, which writes the update over one block of the target."""
    target, update, *starts = operands
    partial = [axis for axis, length in enumerate(update.shape) if length < target.shape[axis]]
    changes = any(varies(ids, partial) for value in (target, update) for ids in value.arrays)
    known = [start.constant.value for start in starts if start.constant]
    if len(known) == len(starts):
        if not changes and (target.is_zero or update.is_zero):
            kept = update if target.is_zero else target
            return [kept.moved(target.shape, lambda ids: ids)]
        return [_replaced(step, target, update, known)]
    if changes or any(start.has_neurons or start.mixed for start in starts):
        return mix(notes, step, operands, shapes)
    step = step._replace(operands=step.operands[:2])
    return [elementwise(notes, step, [target, replace(update, shape=target.shape)], shapes[0], bends=True)]


def _replaced(step: Step, target: Value, update: Value, known: Sequence[Any]) -> Value:
    """Returns the target after writing the update at known indices."""

    def written(old: Ids, new: Ids) -> Ids:
        full = (widen(old, target.shape).astype(np.int32), widen(new, update.shape).astype(np.int32))
        ordered = (full[0], *known, full[1]) if step.name == "scatter" else (*full, *known)
        with jax.ensure_compile_time_eval():
            return narrow(np.asarray(step.primitive.bind(*ordered, **step.settings)).astype(np.int64))

    before, after = no_ids(target.shape), no_ids(update.shape)
    parts = [Part(leaf, written(ids, after)) for leaf, ids in target.parts]
    parts += [Part(leaf, written(before, ids)) for leaf, ids in update.parts]
    both = (target, update)
    kernel = all(value.is_kernel or value.is_zero for value in both) and bool(parts)
    fed = any(value.from_input for value in both)
    neurons, sites = written(target.neurons, update.neurons), written(target.sites, update.sites)
    return Value(target.shape, neurons, sites, tuple(parts), kernel, fed, **side_by_side(both))


def _writes_once(step: Step, operands: Sequence[Value], known: Any) -> bool:
    """Whether the scatter writes each element at most once. If it writes one twice, the result is undefined."""
    target, _, update = operands
    with jax.ensure_compile_time_eval():
        times = lax.scatter_add(
            np.zeros(target.shape, np.int32),
            known,
            np.ones(update.shape, np.int32),
            step.settings["dimension_numbers"],
            mode=step.settings["mode"],
        )
    return bool((np.asarray(times) <= 1).all())


def _raised(step: Step, target: Value, update: Value) -> Value | None:
    """Returns the update with the axes of the target, or None if ids vary along an axis that the step indexes.

    Indexed axes of the result have length 1.
    """
    numbers = step.settings["dimension_numbers"]
    scattered = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(target.shape)) if axis not in scattered]
    windows = dict(zip(kept, numbers.update_window_dims, strict=True))
    partial = [axis for axis, window in windows.items() if update.shape[window] < target.shape[axis]]
    loose = [axis for axis in range(len(update.shape)) if axis not in windows.values()]
    loose += [windows[axis] for axis in partial]
    if any(varies(ids, [*scattered, *partial]) for ids in target.arrays):
        return None
    if any(varies(ids, loose) for ids in update.arrays):
        return None

    def raised(ids: Ids) -> Ids:
        lengths = [ids.shape[windows[axis]] if axis in windows else 1 for axis in range(len(target.shape))]
        return ids.reshape(lengths)

    return update.moved(target.shape, raised)
