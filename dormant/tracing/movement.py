"""Applies primitives that only move elements to arrays of ids."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .program import Step
from .values import NONE, Ids, narrow, widen

# A function that moves ids. It takes the step, the ids of the first operand (length 1 along axes on which they are
# constant), the operand's shape, and the known indices in the other operands.
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
    """Pads ids with NONE. Along an axis on which ids are constant, the padding gets these ids."""
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
    """Runs the primitive on the ids. A gather returns NONE for indices out of bounds."""
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
    """Returns the axes along which a slice or gather takes elements by an index that is unknown while tracing."""
    sizes = step.settings["slice_sizes"]
    if step.name == "dynamic_slice":
        return [axis for axis, length in enumerate(shape) if sizes[axis] < length and not known[axis]]
    numbers = step.settings["dimension_numbers"]
    indexed = (*numbers.start_index_map, *numbers.operand_batching_dims)
    return [axis for axis in sorted(indexed) if sizes[axis] < shape[axis]]


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
