"""The tracer's notes: neuron layers, the entries of each neuron, reasons not to recycle a layer, and `Call`.

A `Call` is one operation of a pass. `mix` notes what an operation without a rule does to neurons and parameters.
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
    """The neurons of one kernel, numbered from `first`.

    `points` holds the operations whose outputs are the activations, in evaluation mode and in training mode.
    """

    name: str
    first: int
    width: int
    points: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    reasons: dict[Reason, None] = field(default_factory=dict)
    coupled_by: dict[str, None] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)
    made: set[int] = field(default_factory=set)  # operations whose outputs must be finite, in evaluation mode
    read: list[bool] = field(default_factory=lambda: [False, False])  # in evaluation mode, in training mode
    returned: bool = False


class Ledger:
    """Records which neuron each parameter entry belongs to, in one pass in evaluation mode and one in training mode.

    Neurons of different kernels that act as one neuron (gated pairs, summed pre-activations) share a number in
    `canonical`. `frozen` maps parameters that must not be overwritten to the reason, such as "a buffer".
    """

    def __init__(self, shapes: Mapping[str, torch.Size], frozen: Mapping[str, str]) -> None:
        self.names, self.shapes, self.frozen = list(shapes), dict(shapes), dict(frozen)
        self.trained = set(shapes) - set(frozen)
        self.detached: dict[str, str] = {}  # parameters that no gradient reaches
        sizes = [shape.numel() for shape in shapes.values()]
        self.starts = torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()
        self.entries = torch.arange(sum(sizes))  # the index of every entry
        self.owners = {side: torch.full((sum(sizes),), UNCLAIMED) for side in SIDES}
        self.elsewhere = torch.zeros(sum(sizes), dtype=torch.bool)
        self.compacted: dict[tuple[str, str], Tensor] = {}  # filled after the passes
        self.clashes: list[Tensor] = []
        self.layers: list[Layer] = []
        self.groups: list[int] = []  # layers that share neurons have the same number
        self.canonical = torch.zeros(0, dtype=torch.long)
        self.known: dict[object, Tensor] = {}
        self.not_followed: dict[str, str] = {}
        self.used: set[str] = set()
        self.statistics: set[str] = set()  # running statistics of BatchNorms; they belong to the neurons
        self.neurons_at: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
        self.training = False
        self.step = -1

    # --- layers

    def produce(self, keys: Sequence[Tensor], name: str) -> Tensor:
        """Returns the neurons that a kernel makes, of shape [neurons].

        Each key, of shape [neurons, numbers], identifies weights of the neurons. If a kernel shares a key with an
        earlier kernel, both make the same neurons.
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
        """Returns the neurons of a residual stream, one neuron per pair of summed neurons."""
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
        """Returns the layers of these neurons, and all layers that share neurons with those layers."""
        neurons = lean(neurons)
        if not self.layers or not bool((real := neurons >= 0).any()):
            return []
        starts = torch.tensor([layer.first for layer in self.layers])
        found = torch.unique(torch.bucketize(neurons[real].contiguous(), starts, right=True) - 1)
        groups = {self.groups[index] for index in found.tolist()}
        return [index for index, group in enumerate(self.groups) if group in groups]

    def names_of(self, neurons: Tensor) -> list[str]:
        return [self.layers[index].name for index in self.layers_of(neurons)]

    def current(self, neurons: Tensor) -> Tensor:
        """Returns the current numbers of these neurons. Neurons that were merged share a number."""
        if not len(self.canonical):
            return neurons
        small = lean(neurons)
        return torch.where(small >= 0, self.canonical[small.clamp(min=0)], small).expand(neurons.shape)

    def merge(self, pairs: Tensor) -> None:
        """Merges each pair into one neuron. Pairs that share a neuron become one neuron, too."""
        merged = {self.groups[index] for index in self.layers_of(pairs)}
        self.groups = [min(merged) if group in merged else group for group in self.groups]
        becomes = torch.arange(len(self.canonical))
        while bool((becomes[pairs[0]] != becomes[pairs[1]]).any()):
            lower = becomes[pairs].amin(0)
            becomes = becomes.scatter_reduce(0, pairs.flatten(), lower.repeat(2), "amin")
        self.canonical = becomes[self.canonical]

    def is_idle(self, name: str) -> bool:
        """Whether a parameter makes only neurons that no weight reads and that the module does not return."""
        start = self.starts[self.names.index(name)]
        made = self.layers_of(self.owners["incoming"][start : start + self.shapes[name].numel()])
        return bool(made) and not any(any(self.layers[layer].read) or self.layers[layer].returned for layer in made)

    # --- reasons

    def blame(self, layers: Iterable[int], reason: Reason) -> None:
        """Records a reason not to recycle these layers."""
        for index in layers:
            self.layers[index].reasons[reason] = None

    def read(self, stages: Stages) -> None:
        """Records that a weight reads these layers, so that they are measured at their activations."""
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
        """Assigns entries to the neurons that they feed or read (`side`). Records a clash if an entry gets two."""
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
        """Returns the owners as a view if the entries are a view of the parameters, else None."""
        same = entries.untyped_storage().data_ptr() == self.entries.untyped_storage().data_ptr()
        if not same or any(step == 0 and n > 1 for step, n in zip(entries.stride(), entries.shape, strict=True)):
            return None
        return owners.as_strided(entries.shape, entries.stride(), entries.storage_offset())

    def _note_parameters(self, entries: Tensor, neurons: Tensor) -> None:
        names = set(self.parameters(entries))
        for layer in self.layers_of(neurons):
            self.layers[layer].parameters |= names

    def _claim(self, side: str, entries: Tensor, neurons: Tensor) -> None:
        """Does the work of `claim` for entries that are not a view of the parameters."""
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
        """Assigns each entry of a bias or a scale to its neuron, if the entry is applied to only one neuron."""
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
                # A parameter that is applied after the activation may be shared, because it does not feed the neuron.
                shared = set(self.layers_of(met[lost])) & set(waiting)
                self.blame(
                    shared, Reason(f"fed by {self._list(entries[lost])}, which it shares with other values", OWN)
                )
            self.claim("incoming", entries, owner)
            # Keeps the entry from being zeroed as an outgoing weight, because it reads no neuron.
            self.claim("outgoing", entries, torch.tensor(OTHER))
        for name, how in unfollowed.items():
            self.blame(set(self.layers_of(neurons)) & set(stages), Reason(f"fed by {name} through aten.{how}", DIRECT))

    @staticmethod
    def _owner(entries: Tensor, met: Tensor) -> Tensor:
        """Returns, for each element, the neuron of its entry, or -1 if the entry is applied to several neurons."""
        first = int(entries.min())
        place = entries - first
        owner = torch.full((int(place.max()) + 1,), OTHER)
        owner[place] = met
        differs = torch.zeros_like(owner, dtype=torch.bool)
        differs[place[owner[place] != met]] = True
        owner[differs] = OTHER
        return owner[place]

    def not_known(self, parts: Iterable[Part], operation: str) -> dict[str, str]:
        """Records that an operation without a rule uses these entries. Returns each parameter with its operation."""
        taken: dict[str, str] = {}
        for part in parts:
            entries = lean(part.entries)
            entries = entries[entries >= 0]
            if entries.numel():
                self.elsewhere[entries] = True
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
        """Returns the neuron of each entry of a parameter, with size 1 along axes on which it is constant."""
        if (side, name) not in self.compacted:
            start, shape = self.starts[self.names.index(name)], self.shapes[name]
            self.compacted[side, name] = compact(self.owners[side][start : start + shape.numel()].reshape(shape))
        return self.compacted[side, name]

    def mark(self, neurons: Tensor | None, stages: Stages) -> None:
        """Records the neurons of the current operation's output, if a layer may be measured there."""
        if neurons is not None and any(self.step in stage.points for stage in stages.values()):
            self.neurons_at[self.training][self.step] = neurons

    def fresh(self, neurons: Tensor) -> dict[int, Stage]:
        """Returns the stages of neurons that the current operation makes."""
        point = frozenset([self.step])
        for layer in () if self.training else self.layers_of(neurons):
            self.layers[layer].made.add(self.step)
        return {layer: Stage(point) for layer in self.layers_of(neurons)}


@dataclass(frozen=True)
class Call:
    """One operation of a pass; `value(tensor)` returns what the tracer knows about a tensor."""

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
        """Returns the argument with this name in the operation's schema, or else `default`."""
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

    If a weight reads the result, or a parameter is mixed in, the contributing layers are not recycled. `reason`
    explains why. Later values record only which layers and parameters contributed.
    """
    values = call.values
    whole = together(values)
    unfollowed = dict(whole.unfollowed)
    for value in values:
        unfollowed |= notes.not_known(value.parts, call.name)
    stages = broken(whole.stages, reason or Reason(f"several neurons are mixed by aten.{call.name}", APART), statistic)
    if any(value.parts and not value.stages for value in values):
        notes.read(stages)  # a parameter meets the neurons here, so they are not the output layer's
    return replace(whole, stages=stages, unfollowed=unfollowed)


def constant(call: Call) -> Value:
    """Returns the value of an operation that takes neither neurons nor parameters."""
    random = torch.Tag.nondeterministic_seeded in call.func.tags
    values = call.values
    fed = any(value.from_input for value in values)
    varies = random or any(value.varies for value in values)
    return Value(from_input=fed, varies=varies) if fed or varies else NOTHING
