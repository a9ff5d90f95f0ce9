"""The ledger, in which the tracer records neuron layers, the entries of each neuron, and reasons not to recycle layers.

All neurons are numbered, and so are all entries of all parameters. A `Call` is one operation of a pass, which is one
run of the module. `mix` is the rule for operations that mix neurons.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..reasons import APART, DIRECT, OWN, Reason
from .values import NOTHING, OTHER, ZERO, Part, Stage, Stages, Value, broken, compact, lean, together

UNCLAIMED = -3
SIDES = ("incoming", "outgoing")


@dataclass(eq=False)
class Layer:
    """The neurons of one kernel. Their numbers are `first`, `first + 1`, and so on.

    `points` and `read` have one element for evaluation mode and one for training mode. `points` holds the indices of
    the operations whose outputs are the activations. `read` is True if a weight reads the neurons.
    """

    name: str
    first: int
    width: int
    points: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    reasons: dict[Reason, None] = field(default_factory=dict)
    coupled_by: dict[str, None] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)
    made: set[int] = field(default_factory=set)  # operations whose outputs are the pre-activations, in evaluation mode
    read: list[bool] = field(default_factory=lambda: [False, False])  # in evaluation mode, in training mode
    returned: bool = False


class Ledger:
    """Records the neurons that each parameter entry feeds and reads.

    The same ledger is used in a pass in evaluation mode and in a pass in training mode. `canonical` maps the number of
    each neuron to its current number. Neurons that act as one neuron (gated pairs, summed pre-activations) have the
    same current number. `frozen` maps parameters that must not be overwritten to the reason, such as "a buffer".
    """

    def __init__(self, shapes: Mapping[str, torch.Size], frozen: Mapping[str, str]) -> None:
        self.names, self.shapes, self.frozen = list(shapes), dict(shapes), dict(frozen)
        self.trained = set(shapes) - set(frozen)
        self.detached: dict[str, str] = {}  # parameters that no gradient reaches, with the reason
        sizes = [shape.numel() for shape in shapes.values()]
        self.starts = torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()
        self.entries = torch.arange(sum(sizes))  # the indices of all entries of all parameters
        self.owners = {side: torch.full((sum(sizes),), UNCLAIMED) for side in SIDES}
        self.other_use = torch.zeros(sum(sizes), dtype=torch.bool)
        self.compacted: dict[tuple[str, str], Tensor] = {}  # a cache for `owners_of`
        self.clashes: list[Tensor] = []
        self.layers: list[Layer] = []
        self.groups: list[int] = []  # one number per layer; it is equal for layers that share neurons
        self.canonical = torch.zeros(0, dtype=torch.long)
        self.known: dict[object, Tensor] = {}
        self.not_followed: dict[str, str] = {}
        self.used: set[str] = set()
        self.statistics: set[str] = set()  # running statistics of BatchNorms, which are renewed with the neurons
        self.neurons_at: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
        self.training = False
        self.step = -1

    # --- layers

    def produce(self, keys: Sequence[Tensor], name: str) -> Tensor:
        """Returns the numbers of the neurons that a kernel makes, as a tensor of shape [neurons].

        A key is a tensor of shape [neurons, numbers]. Each row identifies some weights of a neuron. If an earlier
        kernel has the same key, both kernels make the same neurons. Otherwise, the kernel gets a new layer.
        """
        telling = [key for key in keys if len(torch.unique(key, dim=0)) == len(key)]
        indices = [("kernel", tuple(key.shape), key.numpy().tobytes()) for key in telling]
        if not telling:
            whole = torch.cat(list(keys), -1)
            telling, indices = [whole], [(name, tuple(whole.shape), whole.numpy().tobytes())]
        if telling[0].shape[-1] == 1:
            indices = [(name, *index) for index in indices]
        before = [self.known[index] for index in indices if index in self.known]
        neurons = before[0] if before else self._new_layer(name, telling[0])
        for other in before[1:]:
            pairs = self.current(torch.stack([neurons, other]))
            if bool((differ := pairs[0] != pairs[1]).any()):
                self.merge(torch.unique(pairs[:, differ], dim=1))
        self.known |= dict.fromkeys(indices, neurons)
        return self.canonical[neurons]

    def stream(self, left: Tensor, right: Tensor, producers: Sequence[str]) -> Tensor:
        """Returns the neurons of a residual stream. Each pair of summed neurons makes one new neuron."""
        span = int(max(left.max(), right.max())) + 3
        pairs = compact((left + 2) * span + (right + 2))
        index = ("stream", tuple(pairs.shape), pairs.numpy().tobytes())
        if index not in self.known:
            parts = dict.fromkeys(name for producer in producers for name in producer.split("+"))
            first, *between, last = parts if len(parts) > 1 else [*parts, *parts]
            self.known[index] = self._new_layer("+".join([first, *["..."][: len(between)], last]), pairs.flatten())
        return self.canonical[self.known[index]].reshape(pairs.shape)

    def _new_layer(self, name: str, key: Tensor) -> Tensor:
        different, index = torch.unique(key, return_inverse=True, dim=0)
        taken = {layer.name for layer in self.layers}
        unique = next(n for n in (name, *(f"{name} ({i})" for i in range(2, len(taken) + 3))) if n not in taken)
        first = len(self.canonical)
        self.layers.append(Layer(unique, first, len(different)))
        self.groups.append(len(self.groups))
        self.canonical = torch.cat([self.canonical, torch.arange(first, first + len(different))])
        return index + first

    def layers_of(self, neurons: Tensor) -> list[int]:
        """Returns the indices of the layers of these neurons, and of all layers that share neurons with them."""
        neurons = lean(neurons)
        if not self.layers or not bool((real := neurons >= 0).any()):
            return []
        starts = torch.tensor([layer.first for layer in self.layers])
        found = torch.unique(torch.bucketize(neurons[real].contiguous(), starts, right=True) - 1)
        groups = {self.groups[index] for index in found.tolist()}
        return [index for index, group in enumerate(self.groups) if group in groups]

    def current(self, neurons: Tensor) -> Tensor:
        """Returns the current numbers of these neurons. Neurons that were merged have the same number."""
        if not len(self.canonical):
            return neurons
        small = lean(neurons)
        return torch.where(small >= 0, self.canonical[small.clamp(min=0)], small).expand(neurons.shape)

    def merge(self, pairs: Tensor) -> None:
        """Merges the two neurons of each pair. If two pairs share a neuron, all of their neurons are merged."""
        merged = {self.groups[index] for index in self.layers_of(pairs)}
        self.groups = [min(merged) if group in merged else group for group in self.groups]
        becomes = torch.arange(len(self.canonical))
        while bool((becomes[pairs[0]] != becomes[pairs[1]]).any()):
            lower = becomes[pairs].amin(0)
            becomes = becomes.scatter_reduce(0, pairs.flatten(), lower.repeat(2), "amin")
        self.canonical = becomes[self.canonical]

    def is_idle(self, name: str) -> bool:
        """Whether all neurons that a parameter makes are unused: no weight reads them, and they are not returned."""
        start = self.starts[self.names.index(name)]
        made = self.layers_of(self.owners["incoming"][start : start + self.shapes[name].numel()])
        return bool(made) and not any(any(self.layers[layer].read) or self.layers[layer].returned for layer in made)

    # --- reasons

    def blame(self, layers: Iterable[int], reason: Reason) -> None:
        """Records a reason not to recycle these layers."""
        for index in layers:
            self.layers[index].reasons[reason] = None

    def read(self, stages: Stages) -> None:
        """Records that a weight reads these layers. They are measured at the `points` of their stages."""
        for index, stage in stages.items():
            layer = self.layers[index]
            layer.read[self.training] = True
            layer.coupled_by |= dict.fromkeys(sorted(stage.coupled_by))
            layer.points[self.training].update(stage.points)
            if reason := stage.broken or stage.offset:
                layer.reasons[reason] = None

    def returned(self, stages: Stages) -> None:
        for index in stages:
            self.layers[index].returned = True

    def unread(self, stages: Stages) -> bool:
        return not any(any(self.layers[index].read) for index in stages)

    # --- entries

    def claim(self, side: str, entries: Tensor, neurons: Tensor) -> None:
        """Assigns entries to the neurons that they feed or read, depending on `side`.

        If an entry would belong to two neurons, records a clash.
        """
        entries, neurons = torch.broadcast_tensors(entries, neurons)
        entries, neurons = lean(entries, neurons), lean(neurons, entries)
        owners = self._in_place(self.owners[side], entries)
        if owners is None or bool((lean(neurons) == ZERO).any()):
            return self._claim(side, entries, neurons)
        self._note_parameters(entries, neurons)
        clash = (owners != UNCLAIMED) & (owners != neurons)
        if bool(clash.any()):
            self.clashes.append(torch.unique(torch.stack([owners[clash], neurons[clash]]), dim=1))
        owners.copy_(neurons)

    def _in_place(self, owners: Tensor, entries: Tensor) -> Tensor | None:
        """Returns a view of `owners` for these entries, or None if the entries are not a view of `self.entries`."""
        same = entries.untyped_storage().data_ptr() == self.entries.untyped_storage().data_ptr()
        if not same or any(step == 0 and n > 1 for step, n in zip(entries.stride(), entries.shape, strict=True)):
            return None
        return owners.as_strided(entries.shape, entries.stride(), entries.storage_offset())

    def _note_parameters(self, entries: Tensor, neurons: Tensor) -> None:
        names = set(self.parameters(entries))
        for layer in self.layers_of(neurons):
            self.layers[layer].parameters |= names

    def _claim(self, side: str, entries: Tensor, neurons: Tensor) -> None:
        """Assigns entries that are not a view of `self.entries` (see `claim`)."""
        real = (entries >= 0) & (neurons != ZERO)
        entries, neurons = entries[real], neurons[real]
        if not entries.numel():
            return
        self._note_parameters(entries, neurons)
        owners = self.owners[side]
        before = owners[entries]
        owners[entries] = neurons
        if bool((clash := (before != UNCLAIMED) & (before != neurons)).any()):
            self.clashes.append(torch.unique(torch.stack([before[clash], neurons[clash]]), dim=1))
        if bool((clash := owners[entries] != neurons).any()):
            self.clashes.append(torch.unique(torch.stack([owners[entries][clash], neurons[clash]]), dim=1))

    def feed(self, parts: Iterable[Part], unfollowed: Mapping[str, str], neurons: Tensor, stages: Stages) -> None:
        """Assigns each entry of a bias or a scale to its neuron.

        If an entry is applied to several neurons, or the parameter is not followed, adds a reason not to recycle them.
        """
        waiting = [layer for layer, stage in stages.items() if not stage.active and not stage.broken]
        for part in parts:
            entries, met = torch.broadcast_tensors(part.entries, neurons)
            entries, met = lean(entries, met), lean(met, entries)
            real = entries >= 0
            entries, met = entries[real], met[real]
            if not entries.numel() or not bool((met >= 0).any()):
                continue
            owner = self._owner(entries, met)
            if bool((lost := (owner < 0) & (met >= 0)).any()):
                # After the activation, a parameter does not feed the neurons, so several neurons may share it.
                shared = set(self.layers_of(met[lost])) & set(waiting)
                self.blame(
                    shared, Reason(f"fed by {self._list(entries[lost])}, which it shares with other values", OWN)
                )
            self.claim("incoming", entries, owner)
            # The entry reads no neuron, so it must not be set to zero as an outgoing weight.
            self.claim("outgoing", entries, torch.tensor(OTHER))
        for name, how in unfollowed.items():
            self.blame(set(self.layers_of(neurons)) & set(stages), Reason(f"fed by {name} through aten.{how}", DIRECT))

    @staticmethod
    def _owner(entries: Tensor, met: Tensor) -> Tensor:
        """Returns the neuron to which each entry is applied, or -1 if an entry is applied to several neurons.

        Both arguments have one element per application of an entry. `met` holds the neuron.
        """
        first = int(entries.min())
        place = entries - first
        owner = torch.full((int(place.max()) + 1,), OTHER)
        owner[place] = met
        differs = torch.zeros_like(owner, dtype=torch.bool)
        differs[place[owner[place] != met]] = True
        owner[differs] = OTHER
        return owner[place]

    def not_known(self, parts: Iterable[Part], operation: str) -> dict[str, str]:
        """Records that the entries are no longer followed. Returns a dictionary from parameters to `operation`."""
        taken: dict[str, str] = {}
        for part in parts:
            entries = lean(part.entries)
            entries = entries[entries >= 0]
            if entries.numel():
                self.other_use[entries] = True
                taken |= dict.fromkeys(self.parameters(entries), operation)
        trained = {name: how for name, how in taken.items() if name not in self.frozen}
        self.not_followed = trained | self.not_followed
        return taken

    def parameters(self, entries: Tensor) -> list[str]:
        """Returns the names of the parameters that contain these entries."""
        first, last = (bisect_right(self.starts, int(entry)) for entry in (entries.min(), entries.max()))
        if last - first < 2:
            return self.names[first - 1 : last]
        starts = torch.tensor(self.starts)
        found = torch.bucketize(entries.contiguous(), starts, right=True) - 1
        return [self.names[index] for index in torch.unique(found).tolist()]

    def _list(self, entries: Tensor) -> str:
        return ", ".join(self.parameters(entries))

    def owners_of(self, side: str, name: str) -> Tensor:
        """Returns the neuron of each entry of a parameter. Axes along which the neurons are constant have length 1."""
        if (side, name) not in self.compacted:
            start, shape = self.starts[self.names.index(name)], self.shapes[name]
            self.compacted[side, name] = compact(self.owners[side][start : start + shape.numel()].reshape(shape))
        return self.compacted[side, name]

    def mark(self, neurons: Tensor | None, stages: Stages) -> None:
        """Records the neurons in the output of the current operation, if a layer may be measured at this output."""
        if neurons is not None and any(self.step in stage.points for stage in stages.values()):
            self.neurons_at[self.training][self.step] = neurons

    def fresh(self, neurons: Tensor) -> dict[int, Stage]:
        """Returns the initial stage (see `Stage`) of each layer whose neurons the current operation makes."""
        point = frozenset([self.step])
        for layer in () if self.training else self.layers_of(neurons):
            self.layers[layer].made.add(self.step)
        return {layer: Stage(point) for layer in self.layers_of(neurons)}


@dataclass(frozen=True)
class Call:
    """One operation of a pass, with its arguments and outputs. `value(tensor)` returns the `Value` of a tensor."""

    func: Any
    name: str  # without the trailing underscore of an in-place operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    value: Callable[[Any], Value]

    @property
    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def values(self) -> list[Value]:
        return [self.value(tensor) for tensor in self.tensors]

    @property
    def shape(self) -> torch.Size:
        """The shape of the first output."""
        return self.outputs[0].shape

    @property
    def outputs(self) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(self.output) if isinstance(leaf, Tensor)]

    def argument(self, name: str, default: Any = None) -> Any:
        """Returns the argument with this name in the operation's schema, or `default` if it is None or missing."""
        if name in self.kwargs:
            return self.kwargs[name]
        for index, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                found = self.args[index] if index < len(self.args) else argument.default_value
                return default if found is None else found
        return default


Result = Value | list[Value]
Rule = Callable[[Ledger, Call], Result]


def mix(notes: Ledger, call: Call, reason: Reason | None = None, statistic: str | None = None) -> Value:
    """Returns the value of an operation that mixes neurons and parameter entries.

    The value records only which layers and parameters it mixes. If a weight reads the value, or if the operation mixes
    neurons with a parameter, these layers are not recycled, and `reason` explains why.
    """
    values = call.values
    whole = together(values)
    unfollowed = dict(whole.unfollowed)
    for value in values:
        unfollowed |= notes.not_known(value.parts, call.name)
    stages = broken(whole.stages, reason or Reason(f"several neurons are mixed by aten.{call.name}", APART), statistic)
    if any(value.parts and not value.stages for value in values):
        notes.read(stages)  # the operation combines the neurons with a parameter, so they are read
    return replace(whole, stages=stages, unfollowed=unfollowed)


def constant(call: Call) -> Value:
    """Returns the value of an operation whose arguments contain neither neurons nor parameters."""
    random = torch.Tag.nondeterministic_seeded in call.func.tags
    values = call.values
    fed = any(value.from_input for value in values)
    varies = random or any(value.varies for value in values)
    return Value(from_input=fed, varies=varies) if fed or varies else NOTHING
