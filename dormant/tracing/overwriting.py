"""Rules for steps that overwrite or add to elements of an array: `x.at[i].set(y)`, segment sums, ring buffers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import lax

from .elementwise import elementwise
from .ledger import Ledger, mix
from .program import Step
from .values import Ids, Part, Shapes, Value, narrow, no_ids, side_by_side, varies, widen


def overwrite(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `scatter`, whose result takes each element from the target or from the update."""
    target, indices, update = operands
    raised = _raised(step, target, update)
    if raised is not None and indices.constant is not None and (target.is_zero or update.is_zero):
        # The zeros of the target count as elements of the update's neurons.
        return [raised if target.is_zero else replace(target, constant=None)]
    if indices.constant is not None and _writes_once(step, operands, indices.constant.value):
        return [_replaced(step, target, update, [indices.constant.value])]
    if raised is None or indices.has_neurons or indices.mixed:
        return mix(notes, step, operands, shapes)
    step = step._replace(operands=(step.operands[0], step.operands[2]))
    return [elementwise(notes, step, [target, raised], shapes[0], bends=True)]


def add_at(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `scatter-add`. Sums over samples, nodes or edges keep neurons separate; sums over neurons mix them."""
    target, indices, update = operands
    raised = _raised(step, target, update)
    if raised is None or indices.has_neurons or indices.mixed:
        return mix(notes, step, operands, shapes)
    numbered = step._replace(primitive=lax.add_p, operands=(step.operands[0], step.operands[2]))
    return [elementwise(notes, numbered, [target, raised], shapes[0], bends=False)]


def overwrite_slice(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for `dynamic_update_slice`, whose result takes one block of elements from the update."""
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
    """Returns the target with elements of the update written at known indices."""

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
    """Whether every element is written at most once. If an element is written twice, its value is undefined."""
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
    """Returns the update with the target's axes (length 1 if scattered), or None if ids vary along a written axis."""
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
