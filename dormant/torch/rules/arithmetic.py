"""Rules for elementwise operations: activations, biases and scales, sums and products of neurons.

A stage describes what has happened to the neurons of a layer up to a value (see `Stage`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...reasons import APART, SILENT, Reason
from ..ledger import Call, Ledger, mix
from ..values import (
    OTHER,
    ZERO,
    Part,
    Stage,
    Stages,
    Value,
    after_affine,
    after_nonlinearity,
    broken,
    join,
    lean,
    together,
)

ADDITIVE = frozenset(("add", "sub", "rsub"))
COPIES = frozenset(("clone", "_to_copy", "lift_fresh", "positive", "copy", "detach", "alias"))
LINEAR = ADDITIVE | COPIES | {"mul", "div", "neg", "real", "conj", "_conj"}
EPSILON = 1e-4  # a constant up to this size is treated as a guard against division by zero
# Functions with f(0) = 0.
THROUGH_ZERO = COPIES | frozenset(
    (
        *("neg", "tanh", "sin", "relu", "abs", "sign", "asinh", "atan", "sinh", "erf", "expm1", "log1p", "square"),
        *("silu", "gelu", "elu", "leaky_relu", "hardtanh"),
    )
)


def pointwise(notes: Ledger, call: Call) -> Value:
    """Rule for elementwise operations. Linear operations shift or scale neurons. All others are nonlinearities."""
    values = [stretched(call.value(tensor), call.shape) for tensor in call.tensors]
    if call.name in ADDITIVE:
        return add(notes, call, values, _number(call))
    values = [value if call.name in COPIES else _without_buffers(value) for value in values]
    if not any(value.carried for value in values):
        return _without_neurons(call, values)
    found, bends = _meeting(notes, call, values)
    if not found.carried:
        return found
    if foreign := _foreign(notes, _strange(_summands(call, values)), found):
        return replace(
            found,
            neurons=None,
            stages=broken(found.stages, Reason(f"combined with {foreign} (aten.{call.name})", APART)),
        )
    bends = bends or call.name not in LINEAR or _denominator(call) or not _floats(call)
    neurons = found.neurons if call.name in THROUGH_ZERO | LINEAR else no_zeros(found.neurons)
    if bends:
        stages = after_nonlinearity(found.stages, notes.step)
    else:
        stages = found.stages if call.name in COPIES else after_affine(found.stages, notes.step)
    return replace(found, neurons=neurons, stages=stages)


def add(notes: Ledger, call: Call, values: Sequence[Value], number: Any = 0) -> Value:
    """Rule for sums and differences of neurons with biases, other neurons, or any other values.

    `number` is the Python number that the operation adds.
    """
    values = [value for value in values if not value.is_zero] or [values[0]]
    if not any(value.carried for value in values):
        return _without_neurons(call, values)
    found, bends = _meeting(notes, call, values)
    if not found.carried:
        return found
    if foreign := _foreign(notes, values, found):
        # The sum is a residual stream, and one of its summands mixes neurons.
        return replace(found, neurons=None, stages=broken(join(values), Reason(f"summed with {foreign}", APART)))
    if bends:
        return replace(found, stages=after_nonlinearity(found.stages, notes.step))
    alone = len(values) == 1 or all(value.carried and _covers(value, found) for value in values)
    if len(values) == 1 and number == 0:
        return found
    if alone and (call.name == "rsub" or 0 < abs(number) <= EPSILON):
        # The constant is part of the nonlinearity, as in 1 - sigmoid(x) or relu(x) + 1e-8.
        return replace(found, neurons=no_zeros(found.neurons), stages=_moved(found.stages, notes.step))
    offset = None if alone and number == 0 else Reason(f"aten.{call.name} after the activation", SILENT)
    return replace(found, neurons=no_zeros(found.neurons), stages=after_affine(found.stages, notes.step, offset))


def _foreign(notes: Ledger, values: Sequence[Value], found: Value) -> str:
    """Returns the names of the layers whose neurons these values mix, except for the layers in `found`."""
    lost = {layer for value in values for layer, stage in value.stages.items() if stage.broken}
    return ", ".join(notes.layers[layer].name for layer in sorted(lost - set(found.carried)))


def _strange(values: Sequence[Value]) -> list[Value]:
    """Removes from each value the layers that all values with neurons have in common, as in a residual stream."""
    carriers = [set(value.stages) for value in values if value.carried]
    known = set.intersection(*carriers) if carriers else set()
    return [
        replace(value, stages={layer: stage for layer, stage in value.stages.items() if layer not in known})
        for value in values
    ]


def _summands(call: Call, values: Sequence[Value]) -> Sequence[Value]:
    """Returns the operands that can make the result nonzero if a neuron is silent. Gates and conditions can't."""
    return {"mul": [], "div": values[:1], "where": values[1:]}.get(call.name, values)


def _moved(stages: Stages, step: int) -> Stages:
    """Returns the stages after adding a constant. Before the nonlinearity, it is added to the pre-activation."""
    active = {layer: stage for layer, stage in stages.items() if stage.active}
    return {**after_affine(stages, step), **after_nonlinearity(active, step)}


def stretched(value: Value, shape: torch.Size) -> Value:
    """Returns the value after expanding its neurons and entries to a shape."""
    neurons = None if value.neurons is None else value.neurons.expand(shape)
    parts = tuple(replace(part, entries=part.entries.expand(shape)) for part in value.parts)
    return replace(value, neurons=neurons, parts=parts)


def no_zeros(ids: Tensor | None) -> Tensor | None:
    if ids is None:
        return None
    small = lean(ids)
    return torch.where(small == ZERO, OTHER, small).expand(ids.shape)


def _without_buffers(value: Value) -> Value:
    """Returns the value without the entries of buffers. A buffer that multiplies neurons is treated as a constant."""
    return replace(value, parts=tuple(part for part in value.parts if not part.constant))


def _number(call: Call) -> Any:
    """Returns the Python number that the operation adds, or 0 if there is none. Ignores the factor `alpha`."""
    numbers = [value for value in call.args[:2] if isinstance(value, int | float | complex)]
    return numbers[0] if numbers else 0


def _denominator(call: Call) -> bool:
    """Whether the operation is a division by neurons, or a division that rounds."""
    return call.name == "div" and (bool(call.value(call.args[1]).carried) or bool(call.kwargs.get("rounding_mode")))


def _floats(call: Call) -> bool:
    """Whether the dtype of the output can represent the inputs, including fractions and imaginary parts."""
    output = call.outputs[0]
    return output.is_complex() or (output.is_floating_point() and not any(x.is_complex() for x in call.tensors))


def _covers(value: Value, found: Value) -> bool:
    """Whether each element that holds a neuron in the sum `found` also holds a neuron, or a zero, in this summand."""
    if value.neurons is None or found.neurons is None:
        return False
    return not bool(((lean(found.neurons, value.neurons) >= 0) & (lean(value.neurons, found.neurons) == OTHER)).any())


# --- values without neurons


def _without_neurons(call: Call, values: Sequence[Value]) -> Value:
    keeps = _silenced(call, values)
    parts = tuple(
        replace(part, silences=part.silences and keep)
        for value, keep in zip(values, keeps, strict=True)
        for part in value.parts
    )
    zero = call.name in THROUGH_ZERO and all(value.is_zero for value in values)
    zero = zero or (call.name == "mul" and any(value.is_zero for value in values))
    zero = zero or (call.name in ADDITIVE and all(value.is_zero for value in values) and _number(call) == 0)
    neurons = torch.tensor(ZERO).expand(call.shape) if zero else None
    return replace(together(values), neurons=neurons, stages=join(values, meets=True), parts=parts)


def silent(value: Value) -> bool:
    """Whether the value is zero wherever its parameter entries are zero."""
    return any(part.silences for part in value.parts) and not value.unfollowed


def _silenced(call: Call, values: Sequence[Value]) -> list[bool]:
    """Returns one Boolean per operand: whether the result is zero where the operand's parameter entries are zero."""
    if call.name in ADDITIVE:
        return [all(map(silent, values)) and _number(call) == 0] * len(values)
    if call.name == "mul":
        # True for a kernel that is multiplied by constants or by a single number. False for a product of two kernels,
        # because it is not known which of them to set to zero.
        sizes = [max([lean(part.entries).numel() for part in value.parts] or [0]) for value in values]
        large = [size > 1 for size in sizes] if max(sizes) > 1 else [size > 0 for size in sizes]
        return [sum(large) == 1 and is_large for is_large in large]
    if call.name in ("div", "masked_fill"):
        fills = call.name == "masked_fill" and call.args[2] != 0 if isinstance(call.args[-1], int | float) else False
        return [tensor is call.args[0] and not fills for tensor in call.tensors]
    return [call.name in THROUGH_ZERO] * len(values)


# --- values with neurons


def _meeting(notes: Ledger, call: Call, values: Sequence[Value]) -> tuple[Value, bool]:
    """Combines the operands of an elementwise operation.

    Returns the value of the result, and whether the operation is a nonlinearity. Parameters in the operands feed the
    neurons.
    """
    carriers = [value for value in values if value.carried]
    others = [value for value in values if not value.carried]
    found, bends = carriers[0], False
    for value in carriers[1:]:
        if not found.carried:
            others.append(found)
            found = value
            continue
        found, bent = _relate(notes, call, found, value)
        bends = bends or bent
    whole = together(values)
    stages = join([found, *others], meets=True)
    neurons = notes.current(found.neurons) if found.neurons is not None else None
    if found.carried and neurons is not None:
        for value in values:
            notes.feed(value.parts, value.unfollowed, neurons, stages)
        return replace(whole, neurons=neurons, stages=stages, unfollowed={}), bends
    lost = {name: call.name for value in values for name in notes.not_known(value.parts, call.name)}
    return replace(whole, stages=stages, unfollowed={**whole.unfollowed, **lost}), bends


def _relate(notes: Ledger, call: Call, one: Value, two: Value) -> tuple[Value, bool]:
    """Combines two values with neurons. Returns the result, and whether the operation is a nonlinearity.

    There are four cases: both values hold the same neurons, their neurons are merged in pairs, their neurons make a
    residual stream, or the result mixes the neurons.
    """
    left, right = (notes.current(value.neurons) for value in (one, two))  # type: ignore[arg-type]
    left, right, shape = lean(left, right), lean(right, left), left.shape
    stages = join([one, two], meets=True)
    both = (left >= 0) & (right >= 0)
    differ = both & (left != right)
    if not bool(differ.any()):
        neurons = torch.maximum(left, right).expand(shape)
        # If a neuron's mean is subtracted from it, it is measured as before. If two different activations of a neuron
        # are added, the sum is a new activation.
        apart = call.name not in ADDITIVE or any(
            stage.active and stage.points != _points(two, layer) for layer, stage in one.carried.items()
        )
        return Value(neurons, stages), bool(both.any()) and apart
    pairs = torch.unique(torch.stack([left[differ], right[differ]]), dim=1)
    additive = call.name in ADDITIVE
    if _matched(pairs) and (not additive or _before(notes, stages)):
        notes.merge(pairs)
        active = any(stage.active for stage in stages.values() if not stage.broken)
        return Value(notes.current(torch.maximum(left, right)).expand(shape), stages), active and not additive
    if additive and not _overlap(pairs):
        return _stream(notes, left, right, shape, stages), False
    if call.name == "mul" and (kept := _kept(notes, one, two, left, right, pairs)):
        return replace(kept, neurons=kept.neurons.expand(shape)), False  # type: ignore[union-attr]
    return Value(None, broken(stages, _mixture(call, pairs))), False


def _points(value: Value, layer: int) -> frozenset[int]:
    return value.stages[layer].points if layer in value.stages else frozenset()


def _mixture(call: Call, pairs: Tensor) -> Reason:
    if _overlap(pairs):
        return Reason(f"combined with shifted copies of its own neurons (aten.{call.name})", APART)
    return Reason(f"combined with other neurons (aten.{call.name})", APART)


def _matched(pairs: Tensor) -> bool:
    """Whether each neuron is in one pair only."""
    return all(len(torch.unique(side)) == pairs.shape[1] for side in pairs) and not _overlap(pairs)


def _overlap(pairs: Tensor) -> bool:
    return bool(torch.isin(pairs[0], pairs[1]).any())


def _before(notes: Ledger, stages: Stages) -> bool:
    """Whether all neurons of these stages are pre-activations that no operation has mixed and no weight reads.

    The sum of two such neurons is the pre-activation of one neuron.
    """
    return not any(stage.active or stage.broken for stage in stages.values()) and notes.unread(stages)


def _kept(notes: Ledger, one: Value, two: Value, left: Tensor, right: Tensor, pairs: Tensor) -> Value | None:
    """Returns the product of neurons and a gate, where several neurons share one gate, or None if there is no gate.

    Silent neurons stay silent, so only the layer of the gate can't be recycled.
    """
    for mine, other, ids, side in ((one, two, left, 0), (two, one, right, 1)):
        if len(torch.unique(pairs[side])) == pairs.shape[1] and not _overlap(pairs):
            gate = Value(
                None, broken(other.stages, Reason("multiplied by other neurons, as a gate that they share", APART))
            )
            return Value(ids, join([mine, gate]))
    return None


def _stream(notes: Ledger, left: Tensor, right: Tensor, shape: torch.Size, stages: Stages) -> Value:
    """Returns a residual stream: a sum of neurons that can't be merged.

    The sums are the neurons of a new layer. Neither this layer nor the layers of the summands are recycled.
    """
    producers = [notes.layers[i].name for i in sorted({*notes.layers_of(left), *notes.layers_of(right)})]
    left, right = (no_zeros(ids) for ids in (left, right))  # type: ignore[assignment]
    both = (left >= 0) | (right >= 0)
    ids = torch.where(both, notes.stream(left, right, producers), OTHER).expand(shape)
    reason = Reason(f"summed: {' + '.join(producers)}", APART)
    new = notes.layers_of(ids)
    notes.blame(new, reason)
    # A summand that has not passed a nonlinearity is measured in the sum.
    parts = {
        index: Stage(stage.points if stage.active or stage.broken else frozenset(), broken=stage.broken or reason)
        for index, stage in stages.items()
    }
    return Value(ids, {**parts, **{layer: Stage(frozenset([notes.step])) for layer in new}})


def gated(notes: Ledger, call: Call) -> Value:
    """Rule for GLU, which multiplies the first half of an axis by the sigmoid of the second half."""
    (value,) = call.values
    axis = call.argument("dim", -1)
    if value.neurons is None or not value.carried or value.parts:
        return mix(notes, call)
    halves = [replace(value, neurons=half) for half in value.neurons.chunk(2, axis)]
    gate = replace(halves[1], stages=after_nonlinearity(value.stages, notes.step))
    found, _ = _meeting(notes, replace(call, name="mul"), [halves[0], gate])
    if not found.carried:
        return mix(notes, call)
    return replace(found, stages=after_nonlinearity(found.stages, notes.step))


def prelu(notes: Ledger, call: Call) -> Value:
    """Rule for PReLU. If each neuron has a separate slope, the slope is one of its incoming weights."""
    value, slope = (call.value(tensor) for tensor in call.tensors)
    if not value.carried or value.neurons is None or slope.stages:
        return mix(notes, call)
    after = {layer: replace(stage, active=True) for layer, stage in value.stages.items()}
    entries: tuple[Part, ...] = stretched(slope, call.shape).parts
    notes.feed(entries, slope.unfollowed, value.neurons, after)
    stages = after_nonlinearity(value.stages, notes.step)
    return replace(value, neurons=no_zeros(value.neurons), stages=stages)
