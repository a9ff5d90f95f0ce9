"""From a module and example inputs to its wiring: run it once, and follow every neuron to the weights that read it."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .execution import Operations, plain, run
from .labels import OTHER, ZERO, Entries, Label, Neurons, Stages, compact
from .operations import label_of
from .wiring import NeuronLayer, Wiring

UNCLAIMED = -3


def trace(module: nn.Module, *example_inputs: Any) -> Wiring:
    """The wiring of a module, found by running it once on example inputs (a batch of one or two will do).

    Every operation of the pass is looked at, so layers may be modules or functions, in any order; flattening (in any
    axis order), concatenation, slicing, pooling and several readers are right by construction. Layers without a weight
    that reads them, such as the output layer, are left out. What is not understood is not recycled, and the printed
    wiring names it.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> print(trace(net, torch.zeros(1, 3)))
    layer  neurons  incoming         outgoing  recycled
    0      4        0.weight 0.bias  2.weight  yes

    Raises TypeError if the module returns something other than tensors in tuples, lists and dicts.
    """
    tracer = Tracer(plain(module))
    run(plain(module), example_inputs, tracer)
    return tracer.wiring()


@dataclass(eq=False)
class _Layer:
    name: str
    first: int  # its neurons are numbered from here
    width: int
    parameters: set[str] = field(default_factory=set)
    points: set[int] = field(default_factory=set)
    reasons: dict[str, None] = field(default_factory=dict)
    coupled_by: set[str] = field(default_factory=set)
    returned: bool = False


class Tracer(Operations):
    """Carries a label beside every tensor of the pass, and collects which neuron owns which parameter entry."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.layers: list[_Layer] = []
        self.produced: dict[bytes, Tensor] = {}  # a weight used twice makes the same neurons twice
        self.neurons_at: dict[int, Tensor] = {}
        self.not_followed: dict[str, str] = {}
        self.labels: dict[int, tuple[Tensor, Label]] = {}  # holds the tensors, so that no id is used twice
        self.parameters = {name.replace("_orig_mod.", ""): leaf for name, leaf in _leaves(module).items()}
        self.names_of = {id(leaf): name for name, leaf in self.parameters.items()}
        self.starts: list[int] = []
        self.used: set[str] = set()
        entries = 0
        for leaf in self.parameters.values():
            self.starts.append(entries)
            self.labels[id(leaf)] = leaf, Entries(torch.arange(entries, entries + leaf.numel()).reshape(leaf.shape))
            entries += leaf.numel()
        self.owners = {side: torch.full((entries,), UNCLAIMED) for side in ("incoming", "outgoing")}
        self.unknown = torch.zeros(entries, dtype=torch.bool)

    # --- looking at operations

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        self.used |= {self.names_of[id(tensor)] for tensor in self.tensors(args, kwargs) if id(tensor) in self.names_of}
        found = label_of(self, func, args, kwargs, outputs)
        pairs = zip(outputs, found, strict=True) if isinstance(outputs, tuple | list) else [(outputs, found)]
        for output, label in pairs:
            if isinstance(output, Tensor):
                self._keep(output, label)

    def _keep(self, output: Tensor, label: Label) -> None:
        self.labels[id(output)] = output, label
        if isinstance(label, Neurons) and any(self.step in stage.points for stage in label.stages.values()):
            self.neurons_at[self.step] = label.labels

    def hand_in(self, output: Tensor) -> None:
        label = self.label(output)
        for layer in label.stages if isinstance(label, Neurons) else ():
            self.layers[layer].returned = True

    @property
    def step(self) -> int:
        return len(self.names) - 1

    def label(self, tensor: Any) -> Label:
        """What is known of a tensor; None for an input, a constant, or anything that is not a tensor."""
        return self.labels.get(id(tensor), (None, None))[1]

    def tensors(self, args: Any, kwargs: Any) -> list[Tensor]:
        return [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]

    # --- what the operations report

    def produce(self, first_entries: Tensor, member: str = "") -> Tensor:
        """The neurons made by the weights whose first entry for each neuron is given."""
        key = first_entries.numpy().tobytes()
        if key not in self.produced:
            name = self._layer_name(self._owners(first_entries[:1])[0]) + member
            self.produced[key] = self.new_layer(name, first_entries)
        return self.produced[key]

    def new_layer(self, name: str, key: Tensor) -> Tensor:
        """Neurons numbered in the order of their keys, one for each different key."""
        different, index = torch.unique(key, return_inverse=True)
        first = self.layers[-1].first + self.layers[-1].width if self.layers else 0
        taken = {layer.name for layer in self.layers}
        unique = next(n for n in (name, *(f"{name} ({i})" for i in range(2, len(taken) + 3))) if n not in taken)
        self.layers.append(_Layer(unique, first, different.numel()))
        return index + first

    def layers_of(self, neurons: Tensor) -> list[int]:
        """The layers that some of these neurons belong to."""
        starts = torch.tensor([layer.first for layer in self.layers])
        neurons = compact(neurons)  # far fewer to sort
        real = torch.unique(neurons[neurons >= 0])
        return torch.unique(torch.bucketize(real, starts, right=True) - 1).tolist() if self.layers else []

    def read(self, stages: Stages) -> None:
        """A weight reads a value of these layers: they are neurons, to be measured where they were activated."""
        for index, stage in stages.items():
            layer = self.layers[index]
            layer.points |= stage.points
            layer.coupled_by |= stage.coupled_by
            if reason := stage.broken or stage.offset:
                layer.reasons[reason] = None

    def refuse(self, neurons: Tensor, reason: str) -> None:
        """The layers of these neurons are not to be recycled."""
        self.refuse_layers(self.layers_of(neurons), reason)

    def refuse_layers(self, layers: Iterable[int], reason: str) -> None:
        """These layers are not to be recycled."""
        for index in layers:
            self.layers[index].reasons[reason] = None

    def claim(self, side: str, entries: Tensor, neurons: Tensor) -> None:
        """Each of these parameter entries belongs to the neuron given, and may belong to no other on this side."""
        for layer in self.layers_of(neurons):
            self.layers[layer].parameters |= set(self._owners(entries))
        owners = self.owners[side]
        entries, neurons = (t.flatten() for t in torch.broadcast_tensors(entries, neurons))
        if bool((real := neurons != ZERO).all()) is False:
            entries, neurons = entries[real], neurons[real]
        before = owners[entries]
        owners[entries] = neurons
        clash = ((before != UNCLAIMED) & (before != neurons)) | (owners[entries] != neurons)
        if bool(clash.any()):
            self.refuse(torch.cat([before[clash], neurons[clash]]), "shares weights with other neurons")

    def not_known(self, entries: Tensor, operation: str) -> None:
        """An operation that the tracer does not know took these parameter entries."""
        self.unknown[entries] = True
        self.not_followed |= dict.fromkeys(self._owners(entries), operation)

    def _owners(self, entries: Tensor) -> list[str]:
        """The parameters that these entries are of (and any that lie between)."""
        first, last = (bisect_right(self.starts, int(entry)) for entry in (entries.min(), entries.max()))
        return list(self.parameters)[first - 1 : last]

    def _layer_name(self, parameter: str) -> str:
        parent, _, last = parameter.rpartition(".")
        return parent if parent and last == "weight" else parameter

    # --- the result

    def wiring(self) -> Wiring:
        """The layers that a weight reads."""
        layers = tuple(self._finished(layer) for layer in self.layers if layer.points)
        unused = {name: "not used" for name in self.parameters if name not in self.used}
        return Wiring(layers, tuple(self.names), self.not_followed | unused)

    def _finished(self, layer: _Layer) -> NeuronLayer:
        incoming, outgoing = self._entries("incoming", layer), self._entries("outgoing", layer)
        if layer.returned:
            layer.reasons["its values are also returned by the module"] = None
        points = {step: compact(_local(self.neurons_at[step], layer)) for step in sorted(layer.points)}
        return NeuronLayer(
            layer.name, layer.width, incoming, outgoing, tuple(layer.reasons), tuple(sorted(layer.coupled_by)), points
        )

    def _entries(self, side: str, layer: _Layer) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for start, (name, leaf) in zip(self.starts, self.parameters.items(), strict=True):
            here = slice(start, start + leaf.numel())
            if name in layer.parameters and bool((mine := _local(self.owners[side][here], layer) >= 0).any()):
                found[name] = compact(_local(self.owners[side][here], layer).reshape(leaf.shape))
                if bool((mine & self.unknown[here]).any()):
                    layer.reasons["its weights are also used by an operation that is not known"] = None
        return found


def _local(neurons: Tensor, layer: _Layer) -> Tensor:
    mine = (neurons >= layer.first) & (neurons < layer.first + layer.width)
    return torch.where(mine, neurons - layer.first, OTHER)


def _leaves(module: nn.Module) -> dict[str, Tensor]:
    buffers = {name: leaf for name, leaf in module.named_buffers() if leaf.is_floating_point()}
    return {**dict(module.named_parameters()), **buffers}
