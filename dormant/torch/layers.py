"""Builds the neuron layers of a wiring from the ledger, and finds the parameters that no gradient reaches."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..reasons import DIRECT, OWN, RETURN, TRAIN, Reason
from .execution import Operations, plain_name
from .ledger import SIDES, Layer, Ledger
from .values import OTHER, compact
from .wiring import NeuronLayer

ONLY_TRAINING = "only used in training mode"


class Measuring(NamedTuple):
    """The operations of a pass, and the points at which each layer is measured.

    - `operations`: the names of the operations.
    - `points`: for each layer, the operations whose outputs are its activations. It maps the index of each operation to
      the neurons in the operation's output.
    - `made`: for each layer, the indices of the operations that compute its pre-activations with a kernel.
    - `random`: whether the pass draws random numbers.
    """

    operations: list[str]
    points: dict[str, dict[int, Int[Tensor, "..."]]]
    made: dict[str, set[int]]
    random: bool


class Found(NamedTuple):
    """The result of a trace.

    `layers` are the neuron layers, and `outputs` the names of the output layers. `not_followed` maps the names of
    parameters that are not followed to the reasons. `evaluated` describes the pass in evaluation mode, and `trained`
    the pass in training mode. `trained` is None if the module computes the same in both modes.
    """

    layers: tuple[NeuronLayer, ...]
    outputs: tuple[str, ...]
    not_followed: dict[str, str]
    evaluated: Measuring
    trained: Measuring | None
    branches: bool = False  # whether other inputs may give other layers, because forward has a branch


def collect(notes: Ledger, evaluated: Operations, trained: Operations | None) -> Found:
    """Returns the layers of a trace. A layer that no weight reads is an output layer."""
    _note_clashes(notes)
    groups: dict[int, list[Layer]] = {}
    for layer, group in zip(notes.layers, notes.groups, strict=True):
        groups.setdefault(group, []).append(layer)
    layers: list[NeuronLayer] = []
    outputs: list[str] = []
    points: tuple[dict[str, dict[int, Tensor]], ...] = {}, {}
    made: dict[str, set[int]] = {}
    not_followed = {name: f"aten.{how}" for name, how in notes.not_followed.items()}
    for members in groups.values():
        name = "+".join(dict.fromkeys(layer.name for layer in members))
        if any(layer.points[False] for layer in members):
            group = Group(notes, members)
            layers.append(group.layer(name))
            points[False][name], points[True][name] = group.points(False), group.points(True)
            made[name] = set().union(*(layer.made for layer in members))
        elif any(layer.read[True] for layer in members) and not any(layer.read[False] for layer in members):
            only = {parameter for layer in members for parameter in layer.parameters}
            not_followed = dict.fromkeys(sorted(only), ONLY_TRAINING) | not_followed
        elif any(layer.parameters for layer in members) and not any(layer.read[False] for layer in members):
            outputs.append(name)
    unused = {name: "not used" for name in notes.names if name not in notes.used and name in notes.trained}
    evaluating = Measuring(evaluated.names, points[False], made, evaluated.random)
    training = None if trained is None else Measuring(trained.names, points[True], {}, trained.random)
    return Found(tuple(layers), tuple(outputs), not_followed | unused, evaluating, training)


def _note_clashes(notes: Ledger) -> None:
    """Adds a reason not to recycle the layers of two neurons that share an entry, unless the neurons were merged."""
    for pairs in notes.clashes:
        left, right = notes.current(pairs)
        for neurons in (left[left != right], right[left != right]):
            notes.blame(notes.layers_of(neurons), Reason("shares weights with other neurons or other values", OWN))


class Group:
    """A group of layers that share neurons. Together they are one layer of the wiring."""

    def __init__(self, notes: Ledger, members: list[Layer]) -> None:
        self.notes, self.members = notes, members
        ranges = [torch.arange(layer.first, layer.first + layer.width) for layer in members]
        self.mine = torch.unique(notes.canonical[torch.cat(ranges)])
        self.numbers = torch.full((len(notes.canonical) + 1,), OTHER)
        self.numbers[self.mine] = torch.arange(len(self.mine))
        self.incoming, self.outgoing = (self._entries(side) for side in SIDES)

    def local(self, neurons: Tensor) -> Tensor:
        """Returns the index of each neuron in the group, or -1 for a neuron that is not in the group."""
        return self.numbers[self.notes.current(neurons).clamp(min=-1)]  # the last element, at index -1, is OTHER

    def layer(self, name: str) -> NeuronLayer:
        reasons = {reason: None for layer in self.members for reason in layer.reasons}
        reasons |= dict.fromkeys(self._reasons())
        coupled = {by: None for layer in self.members for by in layer.coupled_by}
        return NeuronLayer(name, len(self.mine), self.incoming, self.outgoing, tuple(reasons), tuple(coupled))

    def points(self, training: bool) -> dict[int, Tensor]:
        neurons_at = self.notes.neurons_at[training]
        steps = sorted({step for layer in self.members for step in layer.points[training] if step in neurons_at})
        found = {step: compact(self.local(neurons_at[step])) for step in steps}
        return {step: neurons for step, neurons in found.items() if bool((neurons >= 0).any())}

    def _entries(self, side: str) -> dict[str, Tensor]:
        wanted = {parameter for layer in self.members for parameter in layer.parameters}
        found = {}
        for name in self.notes.names:
            if name in wanted:
                mine = compact(self.local(self.notes.owners_of(side, name)))
                if bool((mine >= 0).any()):
                    found[name] = mine
        return found

    def _reasons(self) -> list[str]:
        found = []
        if any(layer.returned for layer in self.members):
            found.append(Reason("its values are also returned by the module", RETURN))
        for verb, entries in (("fed", self.incoming), ("read", self.outgoing)):
            found += [why for name, owners in entries.items() if (why := self._untrained(verb, name, owners))]
        return found

    def _untrained(self, verb: str, name: str, owners: Tensor) -> str | None:
        notes = self.notes
        untrained = {**notes.detached, **notes.frozen}
        if name in untrained and name not in notes.statistics:
            return Reason(f"{verb} by {name}, {untrained[name]}, which nothing trains", TRAIN)
        start = notes.starts[notes.names.index(name)]
        shape = notes.shapes[name]
        other_use = notes.other_use[start : start + shape.numel()].reshape(shape)
        if bool((other_use & (owners >= 0)).any()):
            return Reason(
                f"{name} is also used by aten.{notes.not_followed.get(name, 'an operation')}, which is not followed",
                DIRECT,
            )
        return None


def has_nan(layer: NeuronLayer, leaves: Mapping[str, Tensor]) -> bool:
    """Whether a weight that feeds the layer is NaN. Ignores a weight whose shape has changed since the trace."""
    return any(
        bool((leaves[name].isnan() & (owners >= 0).to(leaves[name].device)).any())
        for name, owners in layer.incoming.items()
        if name in leaves and owners.shape == leaves[name].shape
    )


def same_wiring(first: Found, second: Found) -> str:
    """Returns a description of the first difference between two traces, or an empty string if they are equal."""
    names = [[layer.name for layer in found.layers] for found in (first, second)]
    if names[0] != names[1]:
        return f"its layers were {names[0]} and are now {names[1]}"
    for one, two in zip(first.layers, second.layers, strict=True):
        if one.width != two.width or one.recyclable != two.recyclable:
            return f"{one.name} had {one.width} neurons {one.reasons} and has {two.width} {two.reasons}"
        for side in SIDES:
            if not _equal(getattr(one, side), getattr(two, side)):
                return f"the {side} weights of {one.name} are different"
    return ""


def _equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Gradients(Operations):
    """Finds the parameters that no gradient of the outputs reaches, for example because the module detaches them.

    `missed` lists their names. They are found by a search of the autograd graph. If the graph contains a custom
    `torch.autograd.Function`, which may return no gradient, a backward pass is run as well. It calls the user's hooks.
    """

    gradients = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.parameters = {plain_name(name): leaf for name, leaf in module.named_parameters() if leaf.requires_grad}
        self.missed: list[str] = []
        self.unknown = ""  # the reason if it is not known which parameters gradients reach

    def finish(self, outputs: Sequence[Tensor]) -> None:
        tracked = [output for output in outputs if output.requires_grad]
        if not tracked or not self.parameters:  # the module runs without gradients on purpose
            return
        reached, own = _leaves_of(tracked)
        self.missed = [name for name, leaf in self.parameters.items() if id(leaf) not in reached]
        if any("CheckpointFunction" in name for name in own):
            self.unknown = "gradients are not followed through torch.utils.checkpoint: pass use_reentrant=False"
        elif own:
            self._ask(tracked, own)

    def _ask(self, outputs: Sequence[Tensor], own: Sequence[str]) -> None:
        total = torch.stack([output.abs().sum().double().cpu() for output in outputs]).sum()
        leaves = list(self.parameters.values())
        try:
            found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
        except Exception as error:
            self.unknown = f"the backward pass of {own[0]} raises {type(error).__name__}: {str(error)[:80]}"
            self.missed = list(self.parameters)
        else:
            self.missed = [name for name, gradient in zip(self.parameters, found, strict=True) if gradient is None]


def _leaves_of(outputs: Sequence[Tensor]) -> tuple[set[int], list[str]]:
    """Returns the ids of all leaves in the autograd graph of the outputs, and the names of its custom functions."""
    leaves = {id(output) for output in outputs if output.grad_fn is None}
    own: dict[str, None] = {}
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if type(node).__name__ == "AccumulateGrad":
            leaves.add(id(getattr(node, "variable")))  # noqa: B009
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not node.name().startswith("BackwardHook"):
            own[type(node).__name__.removesuffix("Backward")] = None
        inputs = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= inputs
        waiting += inputs
    return leaves, list(own)
