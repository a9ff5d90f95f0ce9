"""Rules for operations that move elements, pool positions, or reduce axes.

A label is the number of the neuron, or of the parameter entry, in an element.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...reasons import APART, PYTHON, Reason
from ..ledger import Call, Ledger, Result, Rule, mix
from ..values import OTHER, ZERO, Part, Value, after_extremum, after_nonlinearity, broken, collapse, coupled, together
from .arithmetic import no_zeros, silent, stretched

MOST_CHOICES = 64  # a parameter from which an input selects rows is followed if it has at most this many rows
OVERWRITING = frozenset(("index_put", "scatter", "slice_scatter", "select_scatter", "index_copy", "index_fill"))
EXTREMA = frozenset(("amax", "amin", "max", "min", "median", "nanmedian"))
KEEPS_ZERO = frozenset(("mean", "sum", "nansum", "cumsum", "cummax", "cummin", "sort", "topk"))


def movement(notes: Ledger, call: Call) -> Result:
    """Rule for operations that only move elements. Neurons and entries are moved in the same way."""
    values = [(tensor, call.value(tensor)) for tensor in call.tensors]
    neurons = _moved(call, {id(tensor): value.neurons for tensor, value in values})
    kept = all(silent(value) or value.is_zero for _, value in values)
    moved_parts = [(part, _moved(call, {id(tensor): part.entries})) for tensor, value in values for part in value.parts]
    whole = together(value for _, value in values)
    found = []
    for index in range(len(call.outputs)):
        parts = tuple(
            Part(moved[index], part.silences and kept, part.constant)
            for part, moved in moved_parts
            if moved is not None
        )
        found.append(replace(whole, neurons=neurons[index] if neurons else None, parts=parts))
    return found if isinstance(call.output, tuple | list) else found[0]


def _moved(call: Call, labels: dict[int, Tensor | None]) -> list[Tensor] | None:
    """Runs the operation on labels in place of its operands. `labels` maps the id of an operand to its labels.

    Returns one tensor of labels per output, or None if all labels are None.
    """
    if all(label is None for label in labels.values()):
        return None

    def swapped(tensor: Tensor) -> Tensor:
        label = labels.get(id(tensor))
        return torch.full(tensor.shape, OTHER) if label is None else label

    args, kwargs = tree_map_only(Tensor, swapped, (call.args, call.kwargs))
    return _apply(call.func, args, kwargs)


def _apply(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    try:
        moved = func(*args, **kwargs)
    except (NotImplementedError, RuntimeError):  # some operations do not support integers
        args, kwargs = tree_map_only(Tensor, lambda t: t.double() if t.dtype is torch.long else t, (args, kwargs))
        moved = func(*args, **kwargs)
    return [label.long() for label in (moved if isinstance(moved, tuple | list) else [moved])]


def triangle(notes: Ledger, call: Call) -> Result:
    """Rule for `tril` and `triu`, which set all elements on one side of a diagonal to zero."""
    (value,) = call.values

    def cut(labels: Tensor, fill: int) -> Tensor:
        # Labels are made positive, so that 0 stands for an element that was set to zero.
        moved = _picked(call, labels + 3)
        return torch.where(moved == 0, fill, moved - 3)

    parts = tuple(replace(part, entries=cut(part.entries, OTHER)) for part in value.parts)
    return replace(value, neurons=None if value.neurons is None else cut(value.neurons, ZERO), parts=parts)


def padding(notes: Ledger, call: Call) -> Result:
    """Rule for padding. Added elements are marked as zeros, or as `OTHER` if the fill value is not zero."""
    (value,) = call.values
    number = call.argument("value", 0)
    edge = ZERO if number == 0 else OTHER

    def widened(labels: Tensor, fill: int) -> Tensor:
        return torch.constant_pad_nd(labels, call.argument("pad"), fill)

    parts = tuple(
        replace(part, entries=widened(part.entries, OTHER), silences=part.silences and number == 0)
        for part in value.parts
    )
    neurons = None if value.neurons is None else widened(value.neurons, edge)
    return replace(value, neurons=neurons, parts=parts)


def indexing(notes: Ledger, call: Call) -> Result:
    """Rule for indexing. If the indices depend on the inputs, they may select any element along the indexed axes."""
    value, *picks = call.values
    if any(pick.stages or pick.has_parameters for pick in picks):
        return mix(notes, call, Reason(f"other neurons compute the index that selects it (aten.{call.name})", APART))
    if any(pick.from_input or pick.varies for pick in picks):
        return _chosen(notes, call, value)
    picked = call.tensors[0]

    def moved(labels: Tensor) -> Tensor:
        args = [labels if arg is picked else arg for arg in call.args]
        return _apply(call.func, args, call.kwargs)[0]

    parts = tuple(replace(part, entries=moved(part.entries)) for part in value.parts)
    return replace(value, neurons=None if value.neurons is None else moved(value.neurons), parts=parts)


def _chosen(notes: Ledger, call: Call, value: Value) -> Result:
    """Rule for indexing if the indices depend on the inputs.

    If neurons do not differ along the indexed axes, the result holds the same neurons. If the operation selects rows of
    a parameter, each may be any of the parameter's rows. Otherwise, the operation mixes neurons.
    """
    axes = _indexed_axes(call)
    source = call.tensors[0]
    whole = any_row(value, axes[0]) if len(axes) == 1 and call.name in ("index", "index_select") else None
    if whole is not None:
        return replace(whole, parts=tuple(replace(part, entries=_picked(call, part.entries)) for part in whole.parts))
    if value.parts or value.neurons is None or not value.carried:
        return replace(mix(notes, call), from_input=True, varies=True)
    ids, several = collapse(no_zeros(value.neurons), axes)  # type: ignore[arg-type]
    if bool(several.any()):
        return mix(notes, call, Reason(f"an input selects one of several neurons (aten.{call.name})", APART))
    return replace(value, neurons=_picked(call, ids.expand(source.shape)), from_input=True, varies=True)


def any_row(value: Value, axis: int) -> Value | None:
    """Returns the value of a parameter from which an input selects rows. Each row may be any row of the parameter.

    Returns None if `value` has neurons or no followed parameter, or if it has more than `MOST_CHOICES` rows along the
    axis.
    """
    rows = {part.entries.shape[axis] for part in value.parts}
    if value.stages or value.unfollowed or len(rows) != 1 or max(rows) > MOST_CHOICES:
        return None
    parts = [
        replace(part, entries=part.entries.narrow(axis, row, 1).expand(part.entries.shape))
        for row in range(max(rows))
        for part in value.parts
    ]
    return replace(value, parts=tuple(parts), varies=True)


def _picked(call: Call, labels: Tensor) -> Tensor:
    return _apply(call.func, [labels, *call.args[1:]], call.kwargs)[0]


def _indexed_axes(call: Call) -> tuple[int, ...]:
    if call.name == "index":
        return tuple(axis for axis, index in enumerate(call.args[1]) if index is not None)
    return (call.argument("dim", 0) % max(call.tensors[0].ndim, 1),)


def writing(notes: Ledger, call: Call) -> Result:
    """Rule for operations that write elements into a tensor, such as `index_put`. Unknown positions mix neurons."""
    target = call.tensors[0]
    written = next((found for name in ("values", "src", "source") if (found := call.argument(name)) is not None), None)
    values = [target, *([written] if isinstance(written, Tensor) else [])]
    picks = [call.value(tensor) for tensor in call.tensors if all(tensor is not value for value in values)]
    known = not any(pick.varies or pick.from_input or pick.stages or pick.has_parameters for pick in picks)
    has_parts = any(call.value(value).has_parameters for value in values)
    if not known or has_parts or call.argument("accumulate", False) or call.name not in OVERWRITING:
        return mix(notes, call)
    labels = {id(value): call.value(value).neurons for value in values}

    def swapped(argument: Any) -> Any:
        if id(argument) not in labels:
            return argument
        label = labels[id(argument)]
        return torch.full(argument.shape, OTHER) if label is None else label.clone()

    args, kwargs = tree_map_only(Tensor, swapped, (call.args, call.kwargs))
    names = [argument.name for argument in call.func._schema.arguments]
    if "value" in names:
        place = names.index("value")
        args = (*args[:place], OTHER if call.argument("value") else ZERO, *args[place + 1 :])
        kwargs = {key: value for key, value in kwargs.items() if key != "value"}
    func = getattr(getattr(torch.ops.aten, call.name), call.func._overloadname)
    return replace(together(map(call.value, values)), neurons=_apply(func, args, kwargs)[0])


def accumulated(notes: Ledger, call: Call) -> Result:
    """Rule for scattered sums, means and maxima, for example over the edges of a graph.

    They mix neurons if neurons differ along the scattered axis.
    """
    target, source = call.value(call.args[0]), call.argument("source", call.argument("src"))
    picks, how = call.value(call.argument("index")), call.argument("reduce", "sum")
    if not isinstance(source, Tensor) or not target.is_zero or picks.stages or picks.has_parameters:
        return mix(notes, call)
    value, axis = call.value(source), call.argument("dim") % max(source.ndim, 1)
    if how not in ("sum", "mean", "amax") or value.parts or value.neurons is None or not value.carried:
        return mix(notes, call)
    ids, several = collapse(value.neurons, (axis,))
    if bool(several.any()):
        return mix(notes, call)
    stages = after_extremum(value.stages, notes.step) if how == "amax" else value.stages
    shape = [length if place != axis else call.shape[axis] for place, length in enumerate(source.shape)]
    if torch.Size(shape) != call.shape:
        return mix(notes, call)
    return replace(together(call.values), neurons=ids.expand(call.shape), stages=stages)


def repeated(notes: Ledger, call: Call) -> Result:
    """Rule for `copy_`, which overwrites a tensor by another tensor."""
    value = call.value(call.args[1])
    same = call.args[0].dtype.is_floating_point or call.args[0].is_complex()
    return stretched(value, call.shape) if same else mix(notes, call)


def pooling(axes: int) -> Rule:
    """Returns a rule for pooling over windows along the last `axes` axes. Neurons that differ along them are mixed."""

    def rule(notes: Ledger, call: Call) -> Result:
        value = call.values[0]
        if not value.carried or value.neurons is None:
            return mix(notes, call)
        ids, several = collapse(value.neurons, tuple(range(-axes, 0)))
        if bool(several.any()):
            return mix(notes, call, Reason(f"pooled together with other neurons by aten.{call.name}", APART))
        stages = after_extremum(value.stages, notes.step) if "max" in call.name else value.stages
        return replace(value, neurons=ids.expand(call.shape), stages=stages)

    return rule


def reduction(notes: Ledger, call: Call) -> Result:
    """Rule for sums, means, maxima and norms. They mix neurons if neurons differ along a reduced axis."""
    value = call.values[0]
    axes = _axes(call, value)
    if axes is None or not value.stages or value.parts:
        return mix(notes, call, statistic=call.name)
    if value.neurons is None or not value.carried:
        return replace(value, neurons=None)  # the operation that mixed the neurons has recorded the reason
    ids, several = collapse(value.neurons, axes)
    if bool(several.any()):
        if bool(((ids >= 0) & ~several).any()):
            return mix(notes, call)
        return mix(notes, call, statistic=call.name)
    if call.name in EXTREMA:
        stages = after_extremum(value.stages, notes.step)
    else:
        stages = value.stages if call.name in KEEPS_ZERO else after_nonlinearity(value.stages, notes.step)
    return replace(value, neurons=ids.reshape(call.shape), stages=stages)


def _axes(call: Call, value: Value) -> tuple[int, ...] | None:
    axes = call.argument("dim")
    rank = call.tensors[0].ndim
    if axes is None or axes == []:
        return tuple(range(rank))
    found = (axes,) if isinstance(axes, int) else tuple(axes)
    return tuple(axis % rank for axis in found) if rank else ()


def along(notes: Ledger, call: Call) -> Result:
    """Rule for cumulative sums, sorting and softmax.

    If neurons differ along the axis, softmax couples them, and the other operations mix them.
    """
    value = call.values[0]
    axes = _axes(call, value)
    if axes is None or value.parts or not value.carried or value.neurons is None:
        return mix(notes, call)
    ids, several = collapse(value.neurons, axes)
    if bool(several.any()):
        return _normalised(notes, call, value) if call.name == "_softmax" else mix(notes, call)
    stages = value.stages if call.name in KEEPS_ZERO else after_nonlinearity(value.stages, notes.step)
    return replace(value, neurons=no_zeros(ids).expand(call.shape), stages=stages)  # type: ignore[union-attr]


def _normalised(notes: Ledger, call: Call, value: Value) -> Result:
    """Rule for a softmax over neurons. Its results are the activations, and it couples the neurons."""
    stages = coupled(after_nonlinearity(value.stages, notes.step), "softmax")
    stages = {layer: stage if not stage.broken else value.stages[layer] for layer, stage in stages.items()}
    return replace(value, neurons=no_zeros(value.neurons), stages=stages)


def zeros(notes: Ledger, call: Call) -> Result:
    """Rule for operations that fill a tensor with one number. If the number is 0, all elements are marked as zeros."""
    fill = call.argument("value", call.argument("fill_value", 0))
    if isinstance(fill, Tensor):
        found = call.value(fill)
        return replace(
            together([found]),
            stages=broken(found.stages, Reason(f"several neurons are mixed by aten.{call.name}", APART)),
        )
    if fill != 0:
        return Value()
    return Value(torch.tensor(ZERO).expand(call.shape))


def unfolded(notes: Ledger, call: Call) -> Result:
    """Rule for image patches (`im2col`). Their elements are elements of the image, or zeros from the padding."""
    (value,) = call.values
    if value.parts or value.neurons is None:
        return mix(notes, call)
    # Labels are made positive, so that 0 stands for padding.
    moved = _moved(call, {id(call.tensors[0]): value.neurons + 3})
    assert moved is not None
    return replace(value, neurons=torch.where(moved[0] == 0, ZERO, moved[0] - 3))


def lost(notes: Ledger, call: Call) -> Result:
    """Rule for a tensor that Python reads as a number.

    What Python does with the number can't be traced, so its neurons and parameters are not recycled. The neurons of a
    Boolean may still be recycled, because Python only uses a Boolean to choose a branch.
    """
    truth = call.name != "_local_scalar_dense" or call.args[0].dtype is torch.bool
    values = [replace(value, stages={}) for value in call.values] if truth else call.values
    read_by_python(notes, values, f"aten.{call.name}")
    return Value(from_input=True, varies=True)


def read_by_python(notes: Ledger, values: list[Value], how: str) -> None:
    """Records that the neurons and parameters of these values can't be recycled, because Python reads them."""
    for value in values:
        notes.read(value.stages)
        notes.blame(value.stages, Reason(f"read by Python ({how})", PYTHON))
        notes.not_known(value.parts, how)


def dropped(notes: Ledger, call: Call) -> Result:
    """Rule for dropout, which multiplies each element by a random number."""
    return replace(call.values[0], varies=True)
