"""Records the `Value` of every element in memory. This way, views and in-place writes are followed exactly.

A label is the number of the neuron, or of the parameter entry, in an element.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..reasons import APART, Reason
from .values import NOTHING, OTHER, Part, Value, broken, collapse, join


@dataclass(frozen=True, eq=False)
class Record:
    """The `Value` of a tensor, and how the tensor lies in its storage."""

    value: Value
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    itemsize: int
    length: int  # number of elements of the storage

    @classmethod
    def of(cls, tensor: Tensor, value: Value) -> "Record":
        memory = tensor.untyped_storage().nbytes() // tensor.element_size()
        return cls(value, tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.element_size(), memory)

    def is_like(self, tensor: Tensor) -> bool:
        mine = (self.shape, self.stride, self.offset, self.itemsize)
        return mine == (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.element_size())

    def flat(self) -> "Record":
        """Returns the record of the whole storage as a tensor with one axis, in the order of memory."""
        parts = tuple(replace(part, entries=self._flat(part.entries)) for part in self.value.parts)
        neurons = None if self.value.neurons is None else self._flat(self.value.neurons)
        value = replace(self.value, neurons=neurons, parts=parts)
        return Record(value, torch.Size([self.length]), (1,), 0, self.itemsize, self.length)

    def _flat(self, labels: Tensor) -> Tensor:
        if labels.is_contiguous() and labels.stride() == self.stride and labels.numel() == self.length:
            return labels.view(-1)
        flat = torch.full((self.length,), OTHER)
        _write(flat, self.shape, self.stride, self.offset, labels)
        return flat


def _write(flat: Tensor, shape: torch.Size, stride: tuple[int, ...], offset: int, labels: Tensor) -> None:
    view = flat.as_strided(shape, stride, offset)  # `flat` begins at the start of its storage
    labels = labels.expand(shape)
    for axis, step in enumerate(stride):
        if step == 0 and shape[axis] > 1:
            view, labels = view.narrow(axis, 0, 1), labels.narrow(axis, 0, 1)
    view.copy_(labels)


class Shadows:
    """Stores the value of each tensor by the address of its storage, or by the tensor's id if it has no storage.

    The caller must keep references to all tensors, so that no address is used again.
    """

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.loose: dict[int, Value] = {}

    def read(self, tensor: Tensor) -> Value:
        place = _place(tensor)
        if place is None:
            return self.loose.get(id(tensor), NOTHING)
        record = self.records.get(place)
        if record is None:
            return NOTHING
        if record.is_like(tensor) or (record.value.neurons is None and not record.value.parts):
            return record.value
        record = self.records[place] = _grained(record.flat(), tensor.element_size())
        return _viewed(record, tensor)

    def write(self, tensor: Tensor, value: Value, whole: bool = False) -> None:
        """Records the value of a tensor. All views of the same memory then have this value, too.

        If `whole` is true, the record of the storage is replaced, not only the part that the tensor covers.
        """
        place = _place(tensor)
        if place is None:
            self.loose[id(tensor)] = value
            return
        new = Record.of(tensor, value)
        old = self.records.get(place)
        if old is not None and not whole and tensor.numel() != new.length:
            new = _written(_grained(old.flat(), new.itemsize), new)
        elif old is None and value is NOTHING:
            return
        self.records[place] = new


def _place(tensor: Tensor) -> int | None:
    try:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return None
        return tensor.untyped_storage().data_ptr() or None
    except (NotImplementedError, RuntimeError):
        return None


def _viewed(record: Record, tensor: Tensor) -> Value:
    value = record.value

    def view(labels: Tensor) -> Tensor:
        # Adds the storage offset of `labels`, because `labels` may itself be a view.
        return labels.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() + labels.storage_offset())

    parts = tuple(replace(part, entries=view(part.entries)) for part in value.parts)
    if len(parts) > 1:
        parts = tuple(part for part in parts if bool((part.entries >= 0).any()))
    return replace(value, neurons=None if value.neurons is None else view(value.neurons), parts=parts)


def _written(old: Record, new: Record) -> Record:
    """Returns the record `old`, but with `new` in the part of the memory that `new` covers."""
    geometry = (new.shape, new.stride, new.offset)

    def over(labels: Tensor | None, written: Tensor | None) -> Tensor:
        flat = torch.full((old.length,), OTHER) if labels is None else labels.clone()
        _write(flat, *geometry, torch.tensor(OTHER) if written is None else written)
        return flat

    before, after = old.value, new.value
    kept = all(value.is_zero or any(part.silences for part in value.parts) for value in (before, after))
    parts = [replace(part, entries=over(part.entries, None)) for part in before.parts]
    parts += [replace(part, entries=over(None, part.entries)) for part in after.parts]
    known = before.neurons is not None or after.neurons is not None
    value = Value(
        over(before.neurons, after.neurons) if known else None,
        join([before, after]),
        tuple(replace(part, silences=part.silences and kept) for part in parts),
        {**before.unfollowed, **after.unfollowed},
        before.from_input or after.from_input,
        before.varies or after.varies,
    )
    return replace(old, value=value)


def _grained(record: Record, itemsize: int) -> Record:
    """Returns the record with elements of `itemsize` bytes. The size changes if complex numbers are viewed as real."""
    if itemsize == record.itemsize:
        return record
    value, length = record.value, record.length * record.itemsize // itemsize
    if itemsize < record.itemsize:
        times = record.itemsize // itemsize
        parts = tuple(replace(part, entries=part.entries.repeat_interleave(times)) for part in value.parts)
        neurons = None if value.neurons is None else value.neurons.repeat_interleave(times)
        return Record(replace(value, neurons=neurons, parts=parts), torch.Size([length]), (1,), 0, itemsize, length)
    parts, neurons, stages = [], None, value.stages
    for part in value.parts:
        columns = part.entries[: length * (itemsize // record.itemsize)].reshape(length, -1)
        parts += [Part(column.contiguous(), part.silences, part.constant) for column in columns.T]
    if value.neurons is not None:
        pairs = value.neurons[: length * (itemsize // record.itemsize)].reshape(length, -1)
        neurons, several = collapse(pairs, (1,))
        neurons = neurons.flatten()
        if bool(several.any()):
            neurons, stages = None, broken(stages, Reason("two neurons make one complex number", APART))
    value = replace(value, neurons=neurons, stages=stages, parts=tuple(parts))
    return Record(value, torch.Size([length]), (1,), 0, itemsize, length)
