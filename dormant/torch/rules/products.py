"""Rules for products, convolutions and normalisations. A kernel reads neurons of the data and makes new neurons.

A kernel is a value that depends on parameters, but not on inputs. Data is any other operand.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...reasons import APART, DIRECT, OWN, SILENT, Reason
from ..ledger import Call, Ledger, Result, mix
from ..values import (
    OTHER,
    Stages,
    Value,
    after_affine,
    broken,
    collapse,
    coupled,
    join,
    lean,
    together,
)
from .arithmetic import add, no_zeros, silent, stretched

SHARED = Reason("a weight that reads it also reads other values", OWN)


def matrix_product(notes: Ledger, call: Call) -> Result:
    """Rule for `mm`, `bmm`, `mv` and `dot`: products of data and a kernel in either order, or of two data tensors."""
    return _product(notes, call, *call.args[:2])


def matrix_product_plus(notes: Ledger, call: Call) -> Result:
    """Rule for a matrix product plus a bias."""
    product = _product(notes, call, *call.args[1:3])
    bias = stretched(call.value(call.args[0]), call.shape)
    return add(notes, replace(call, name="add"), [product, bias])


def _product(notes: Ledger, call: Call, left: Tensor, right: Tensor) -> Value:
    """Returns the product of `[..., rows, inputs]` and `[..., inputs, columns]`.

    A vector on the left is a row, and a vector on the right is a column.
    """
    lefts, rights = (left[None] if left.ndim == 1 else left).shape, (right[:, None] if right.ndim == 1 else right).shape
    a, b = _reshaped(call.value(left), lefts), _reshaped(call.value(right), rights)
    a, b = _as_data(a, b, -2), _as_data(b, a, -1)
    if all(_is_fixed(value) for value in (a, b)):
        found = replace(mix(notes, call), neurons=None)
    elif b.is_kernel and not a.is_kernel:
        found = _contraction(notes, a, b, lefts, rights[-1])
    elif a.is_kernel and not b.is_kernel:
        turned = (*rights[:-2], rights[-1], rights[-2])
        found = _transposed(_contraction(notes, _transposed(b), _transposed(a), turned, lefts[-2]))
    else:
        found = _of_data(notes, call, a, b, (*lefts[:-1], rights[-1]))
    return _reshaped(found, call.shape)


def _is_fixed(value: Value) -> bool:
    """Whether a value depends on parameters and not on inputs or neurons."""
    return value.has_parameters and not (value.stages or value.from_input)


def _as_data(value: Value, other: Value, axis: int) -> Value:
    """Returns the value without its entries if it is a buffer that mixes positions only, such as an adjacency matrix.

    The product sums over an axis of `other`. If the neurons in `other` differ along this axis, the value is returned
    unchanged. It is also returned unchanged if `other` has only one neuron, because the axis of positions is then
    unknown.
    """
    fixed = bool(value.parts) and all(part.constant for part in value.parts) and not value.unfollowed
    if not fixed or not other.carried or other.neurons is None:
        return value
    mixes = bool(collapse(other.neurons, (other.neurons.ndim + axis,))[1].any())
    mixes = mixes or len(torch.unique(lean(other.neurons))) == 1
    return value if mixes else replace(value, parts=())


def _reshaped(value: Value, shape: Any) -> Value:
    parts = tuple(replace(part, entries=part.entries.reshape(shape)) for part in value.parts)
    return replace(value, neurons=None if value.neurons is None else value.neurons.reshape(shape), parts=parts)


def _transposed(value: Value) -> Value:
    parts = tuple(replace(part, entries=part.entries.mT) for part in value.parts)
    return replace(value, neurons=None if value.neurons is None else value.neurons.mT, parts=parts)


def _contraction(notes: Ledger, value: Value, kernel: Value, rows: Any, width: int) -> Value:
    """Returns the neurons of `value @ kernel`, for `[rows, inputs] @ [inputs, neurons]` or a batch of such products."""
    batched = len(rows) == 3
    ids = _ids(value, rows)
    ids = ids if batched else ids[None]
    parts = [part.entries if batched else part.entries[None] for part in kernel.parts]
    notes.not_known(value.parts, "matmul")
    neurons = _members(notes, kernel, parts, width)[:, None, :]  # [batch or 1, 1, neurons]
    inputs = read(notes, value, ids, (1,)).mT  # [batch, inputs, 1]
    _connect(notes, value, kernel, parts, inputs, neurons)
    out = neurons.expand(ids.shape[0], ids.shape[1], -1)
    return _made(notes, value, out if batched else out[0])


def _ids(value: Value, shape: Any) -> Tensor:
    return torch.tensor(OTHER).expand(shape) if value.neurons is None else value.neurons


def _made(notes: Ledger, value: Value, neurons: Tensor) -> Value:
    return Value(neurons, notes.fresh(neurons), from_input=True, varies=value.varies)


def _members(notes: Ledger, kernel: Value, parts: list[Tensor], width: int) -> Tensor:
    """Returns the neurons that a batch of kernels makes.

    If all kernels of the batch are equal, they make one layer. If they differ (an ensemble), each makes a layer.
    """
    if not parts:
        return _not_followed(notes, kernel, width)[None]
    keys = [_key(part) for part in parts]  # each [batch, neurons, 3]
    if all(bool((key == key[:1]).all()) for key in keys):
        return notes.produce([key[0] for key in keys], layer_name(notes, parts[0]))[None]
    names = [f"{layer_name(notes, parts[0][i])}[{i}]" for i in range(len(keys[0]))]
    return torch.stack([notes.produce([key[i] for key in keys], name) for i, name in enumerate(names)])


def _key(entries: Tensor) -> Tensor:
    """Returns a tensor [batch, neurons, 3] with three numbers that identify each neuron.

    `entries` has the shape [batch, inputs, neurons].
    """
    return torch.stack([entries[:, 0, :], entries.amin(1), entries.amax(1)], -1)


def _not_followed(notes: Ledger, kernel: Value, width: int) -> Tensor:
    """Returns the neurons of a kernel whose parameter entries are not followed."""
    return notes.produce([torch.arange(width)[:, None]], _short(min(kernel.unfollowed)))


def layer_name(notes: Ledger, entries: Tensor) -> str:
    """Returns the name of the submodule whose parameter contains these entries."""
    entry = lean(entries).amax()
    return _short(notes.parameters(entry)[0]) if entry >= 0 else "?"


def _short(parameter: str) -> str:
    parent, _, last = parameter.rpartition(".")
    if ".parametrizations." in f".{parameter}":
        return f".{parameter}".partition(".parametrizations.")[0].strip(".") or parameter
    return parent if parent and last in ("weight", "weight_v", "weight_g", "weight_orig") else parameter


def _connect(notes: Ledger, value: Value, kernel: Value, parts: list[Tensor], inputs: Tensor, neurons: Tensor) -> None:
    """Assigns each kernel entry to the neuron that it feeds and to the neuron that it reads."""
    made, seen = notes.layers_of(neurons), list(value.carried)
    for entries, part in zip(parts, kernel.parts, strict=True):
        notes.claim("incoming", entries, _alone(notes, entries, neurons, made))
        notes.claim("outgoing", entries, inputs if part.silences else torch.tensor(OTHER))
    if kernel.unfollowed:
        how = ", ".join(f"{name} through aten.{operation}" for name, operation in list(kernel.unfollowed.items())[:2])
        notes.blame(made, Reason(f"fed by {how}", DIRECT))
        notes.blame(seen, Reason(f"read by {how}", DIRECT))
    elif not silent(kernel):
        notes.blame(
            seen,
            Reason(
                "the kernel that reads it stays nonzero if "
                f"{', '.join(notes.parameters(lean(parts[0]).flatten()))} is set to zero",
                DIRECT,
            ),
        )


def _alone(notes: Ledger, entries: Tensor, neurons: Tensor, made: list[int]) -> Tensor:
    """Returns the neurons that the entries feed.

    If several neurons share an entry, returns `OTHER`, and adds a reason not to recycle the layers in `made`.
    """
    small, owner = torch.broadcast_tensors(lean(entries), neurons)
    if lean(small).numel() == small.numel():
        return neurons
    # An entry that is expanded over several neurons feeds all of them.
    stretched_axes = [axis for axis in range(small.ndim) if small.stride(axis) == 0 and small.shape[axis] > 1]
    if bool(collapse(owner, tuple(stretched_axes))[1].any()):
        notes.blame(made, Reason(f"fed by {layer_name(notes, entries)}, which its neurons share", OWN))
        return torch.tensor(OTHER)
    return neurons


def read(notes: Ledger, value: Value, ids: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Records that a weight reads a value. Returns the neurons of the value after reducing these axes to length 1.

    The weight is used at all positions along the axes. If neurons differ along the axes, their layers are not recycled.
    """
    inputs, several = collapse(notes.current(ids), axes)
    if bool(several.any()):
        notes.blame(notes.layers_of(ids[several.expand(ids.shape)]), SHARED)
    notes.read(value.stages)
    return inputs


def _of_data(notes: Ledger, call: Call, a: Value, b: Value, shape: Any) -> Value:
    """Returns the product of two data tensors.

    The product keeps an operand's neurons if they are the same at all positions of the summed axis.
    """
    for mine, other, axis in ((b, a, -2), (a, b, -1)):
        if not mine.carried or mine.neurons is None or mine.parts or other.parts:
            continue
        ids, several = collapse(mine.neurons, (mine.neurons.ndim + axis,))
        if not bool(several.any()):
            lost = broken(other.stages, Reason(f"multiplied by other neurons (aten.{call.name})", APART))
            stages = join([mine, replace(other, neurons=None, stages=lost)])
            return replace(together([a, b]), neurons=ids.expand(shape), stages=stages)
    return mix(notes, call, Reason(f"multiplied by a matrix that is not a parameter (aten.{call.name})", APART))


def attention(notes: Ledger, call: Call) -> Result:
    """Rule for attention. It averages neurons over positions. The weights are computed from queries and keys."""
    value = call.value(call.args[2])
    weights = [call.value(tensor) for tensor in call.tensors if tensor is not call.args[2]]
    axis = (call.args[2].ndim - 2,)
    if not value.carried or value.neurons is None or value.parts or bool(collapse(value.neurons, axis)[1].any()):
        return mix(notes, call)
    taken = {name: how for weight in weights for name, how in notes.not_known(weight.parts, call.name).items()}
    lost = broken(join(weights), Reason(f"weighs other neurons in attention (aten.{call.name})", APART))
    whole = together([value, *weights])
    return replace(
        whole,
        neurons=collapse(value.neurons, axis)[0].expand(call.shape),
        stages=join([value, Value(None, lost)]),
        unfollowed={**whole.unfollowed, **taken},
    )


def recurrent(notes: Ledger, call: Call) -> Result:
    """Rule for a fused LSTM or GRU. Its neurons are measured but not recycled, because its weights are not followed."""
    whole, width = mix(notes, call), call.shape[-1]
    notes.read(whole.stages)
    parameter = min(whole.unfollowed, default="")
    start = notes.starts[notes.names.index(parameter)] if parameter else 0  # differs for each layer and direction
    neurons = notes.produce([start + torch.arange(width)[:, None]], parameter.rpartition(".")[0] or "recurrent")
    notes.blame(
        notes.layers_of(neurons),
        Reason(f"fed and read by weights inside aten.{call.name}, which are not followed", DIRECT),
    )
    return _made(notes, replace(whole, varies=True), neurons.expand(call.shape))


def convolved(notes: Ledger, call: Call) -> Result:
    """Rule for convolutions, including transposed and grouped convolutions."""
    value, kernel, bias = (call.value(tensor) for tensor in call.args[:3])
    transposed, groups = call.args[6], call.args[8]
    ids = _ids(value, call.args[0].shape)
    fixed = all(part.constant for part in kernel.parts) and not kernel.unfollowed and not kernel.stages
    if fixed and value.carried and groups == call.args[0].shape[1] and not transposed:
        return _filtered(notes, call, value, ids)
    if not kernel.is_kernel or value.is_kernel:
        return mix(notes, call, Reason("convolved with a kernel that is not a parameter", DIRECT))
    found = _convolution(notes, call, value, kernel, ids, transposed, groups)
    if bias.has_parameters:
        shape = (-1, *[1] * (len(call.shape) - 2))
        found = add(notes, replace(call, name="add"), [found, stretched(_reshaped(bias, shape), call.shape)])
    return found


def _filtered(notes: Ledger, call: Call, value: Value, ids: Tensor) -> Value:
    """Rule for a fixed filter, such as a blur, that is applied to each channel separately. It is similar to pooling."""
    channel, several = collapse(ids, (0, *range(2, ids.ndim)))
    if bool(several.any()):
        return mix(notes, call)
    copies = call.shape[1] // channel.shape[1]
    return replace(value, neurons=channel.repeat_interleave(copies, 1).expand(call.shape))


def _convolution(
    notes: Ledger, call: Call, value: Value, kernel: Value, ids: Tensor, transposed: bool, groups: int
) -> Value:
    """Returns the result of a convolution. Each output channel is a neuron."""
    channels = call.shape[1]
    notes.not_known(value.parts, call.name)
    inputs = read(notes, value, ids, (0, *range(2, ids.ndim))).reshape(groups, 1, -1, 1)
    parts = []
    for part in kernel.parts:
        # [out, in / groups, positions], or [in, out / groups, positions] if transposed
        entries = part.entries.reshape(groups, -1, *part.entries.shape[1:]).flatten(3)
        parts.append(entries.transpose(1, 2) if transposed else entries)
    if parts:
        # Each key has the shape [groups * out, 3].
        keys = [_key(entries.flatten(2).transpose(1, 2)).flatten(0, 1) for entries in parts]
        neurons = notes.produce(keys, layer_name(notes, parts[0]))
    else:
        neurons = _not_followed(notes, kernel, channels)
    _connect(notes, value, kernel, parts, inputs, neurons.reshape(groups, -1, 1, 1))
    return _made(notes, value, neurons.reshape(-1, *[1] * (len(call.shape) - 2)).expand(call.shape))


# --- normalisations


@dataclass(frozen=True)
class Norm:
    """A normalisation.

    `leaves` are its parameters and buffers. `axes` are the axes over which it computes statistics. `centres` is True if
    it subtracts a mean or adds an offset.
    """

    name: str
    leaves: tuple[Any, ...]
    axes: tuple[int, ...]
    centres: bool = True


def layer_norm(notes: Ledger, call: Call) -> Result:
    """Rule for layer norm, which normalises over the last axes and has a scale and an offset per element."""
    axes = tuple(range(-len(call.args[1]), 0))
    return _normalised(notes, call, Norm("layer_norm", (call.argument("weight"), call.argument("bias")), axes))


def rms_norm(notes: Ledger, call: Call) -> Result:
    """Rule for RMS norm, which is a layer norm without a mean and an offset."""
    axes = tuple(range(-len(call.args[1]), 0))
    return _normalised(notes, call, Norm("rms_norm", (call.argument("weight"),), axes, centres=False))


def group_norm(notes: Ledger, call: Call) -> Result:
    """Rule for group norm, which normalises over groups of channels and all positions."""
    return _normalised(notes, call, Norm("group_norm", call.args[1:3], (2, 3)))


def batch_norm(notes: Ledger, call: Call) -> Result:
    """Rule for batch norm, which normalises each channel separately. Its running statistics feed the neurons."""
    for leaf in call.args[3:5]:
        notes.statistics |= {name for part in call.value(leaf).parts for name in notes.parameters(part.entries)}
    return _normalised(notes, call, Norm("batch_norm", call.args[1:5], ()))


def _normalised(notes: Ledger, call: Call, norm: Norm) -> Result:
    value = call.value(call.args[0])
    leaves = [call.value(leaf) for leaf in norm.leaves if isinstance(leaf, Tensor)]
    if not value.carried or value.neurons is None:
        whole = together([value, *leaves])
        taken = {name: how for one in (value, *leaves) for name, how in notes.not_known(one.parts, call.name).items()}
        return replace(whole, unfollowed={**whole.unfollowed, **taken})
    ids = no_zeros(notes.current(value.neurons))
    assert ids is not None
    by_channel = norm.name in ("batch_norm", "group_norm")
    for leaf in leaves:
        leaf = _reshaped(leaf, (-1, *[1] * (ids.ndim - 2))) if by_channel else leaf
        notes.feed(leaf.parts, leaf.unfollowed, ids, value.stages)
    offset = Reason(f"{norm.name} after the activation", SILENT) if norm.centres else None
    stages: Stages = after_affine(value.stages, notes.step, offset)
    if _couples(call, norm, ids):
        stages = {**stages, **coupled(value.carried and {k: stages[k] for k in value.carried}, norm.name)}
    return replace(value, neurons=ids, stages=stages)


def _couples(call: Call, norm: Norm, ids: Tensor) -> bool:
    """Whether several neurons share a mean or a variance."""
    if norm.name == "group_norm":
        ids = ids.reshape(ids.shape[0], call.argument("group"), -1, ids[0, 0].numel())
    return bool(norm.axes) and bool(collapse(ids, tuple(axis % ids.ndim for axis in norm.axes))[1].any())
